//! Where a new reading starts: the search for one common time from which the newest records of all
//! partitions fit the replay window. Pure; the offsets it asks for are looked up by the caller.

use sluice_config::channel::Replay;

/// Times asked for at most. Each halves what is left of `replay.age`.
const ROUNDS: u32 = 8;

/// The search. Every replica comes to a superset of the same newest records, and the feed's ring,
/// which bounds itself, to the same window, however the partitions are skewed.
#[derive(Debug)]
pub struct Search {
    messages: u64,
    lows: Vec<i64>,
    ends: Vec<i64>,
    /// The latest time known to cover enough records, and where the partitions stand then.
    enough: i64,
    starts: Vec<i64>,
    /// The earliest time known to cover too few, or now.
    few: i64,
    rounds: u32,
    asked: Option<i64>,
}

impl Search {
    /// A search over partitions whose logs reach from `lows` to `ends`, at the time `now` in
    /// milliseconds since 1970.
    pub fn new(replay: &Replay, lows: Vec<i64>, ends: Vec<i64>, now: i64) -> Self {
        let messages = u64::from(replay.messages);
        let age = i64::try_from(replay.age.0.as_millis()).unwrap_or(i64::MAX);
        let enough = now.saturating_sub(age).max(0);
        let starts = ends.clone();
        Self { messages, lows, ends, enough, starts, few: now, rounds: 0, asked: None }
    }

    /// Partitions that hold anything; offsets of the others need not be looked up.
    pub fn partitions(&self) -> impl Iterator<Item = u32> {
        let held = self.lows.iter().zip(&self.ends).enumerate().filter(|(_, (low, end))| low < end);
        held.map(|(partition, _)| partition as u32)
    }

    /// The time to look up next; `None` ends the search.
    pub fn ask(&mut self) -> Option<i64> {
        let done = match self.rounds {
            0 => self.partitions().next().is_none(),
            // An eighth more than asked for is close enough: a round costs more than reading it.
            _ => {
                self.count(&self.starts) <= self.messages + self.messages / 8
                    || self.rounds >= ROUNDS
                    || self.few - self.enough <= 1
            }
        };
        self.asked = match (done, self.rounds) {
            (true, _) => None,
            (false, 0) => Some(self.enough),
            (false, _) => Some(self.enough + (self.few - self.enough) / 2),
        };
        self.asked
    }

    /// Takes the answer to the last question: partitions with the first offset at or after the
    /// time, negative if there is none.
    pub fn answer(&mut self, offsets: &[(u32, i64)]) {
        let Some(time) = self.asked.take() else { return };
        let mut starts = self.ends.clone();
        for (partition, offset) in offsets {
            let partition = *partition as usize;
            if let Some(start) = starts.get_mut(partition)
                && *offset >= 0
            {
                *start = (*offset).clamp(self.lows[partition], self.ends[partition]);
            }
        }
        // The first answer is the bound by age: what it covers is all there may be.
        if self.rounds == 0 || self.count(&starts) >= self.messages {
            self.enough = time;
            self.starts = starts;
        } else {
            self.few = time;
        }
        self.rounds += 1;
    }

    /// Where to start, per partition. No partition gives more than all are asked for.
    pub fn starts(&self) -> Vec<i64> {
        let most = i64::try_from(self.messages).unwrap_or(i64::MAX);
        let bounded = self.starts.iter().zip(&self.ends).map(|(start, end)| (*start).max(end - most));
        bounded.zip(&self.lows).map(|(start, low)| start.max(*low)).collect()
    }

    fn count(&self, starts: &[i64]) -> u64 {
        starts.iter().zip(&self.ends).map(|(start, end)| end.saturating_sub(*start).max(0) as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use sluice_config::Span;

    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    /// Logs by the timestamps of their records; each starts at offset `low`.
    struct Logs {
        low: i64,
        times: Vec<Vec<i64>>,
    }

    impl Logs {
        fn search(&self, messages: u32, age: u64) -> (Vec<i64>, u32) {
            let replay = Replay { messages, age: Span::seconds(age), ..Replay::default() };
            let lows = vec![self.low; self.times.len()];
            let ends = self.times.iter().map(|times| self.low + times.len() as i64).collect();
            let mut search = Search::new(&replay, lows, ends, NOW);
            let mut rounds = 0;
            while let Some(time) = search.ask() {
                let offsets: Vec<_> =
                    search.partitions().map(|partition| (partition, self.at(partition, time))).collect();
                search.answer(&offsets);
                rounds += 1;
            }
            (search.starts(), rounds)
        }

        /// What a broker answers: the first record that is as late, else -1.
        fn at(&self, partition: u32, time: i64) -> i64 {
            let found = self.times[partition as usize].iter().position(|at| *at >= time);
            found.map_or(-1, |index| self.low + index as i64)
        }

        /// The newest `messages` of the last `age` seconds lie at or above `starts`.
        fn covered(&self, starts: &[i64], messages: usize, age: u64) -> bool {
            let oldest = NOW - age as i64 * 1000;
            let mut all: Vec<_> = (0..self.times.len())
                .flat_map(|p| self.times[p].iter().enumerate().map(move |(i, at)| (*at, p, i)))
                .filter(|(at, ..)| *at >= oldest)
                .collect();
            all.sort_unstable();
            all.iter().rev().take(messages).all(|(_, p, i)| self.low + *i as i64 >= starts[*p])
        }
    }

    fn steady(count: i64, every: i64, until: i64) -> Vec<i64> {
        (0..count).map(|index| NOW - until - (count - index) * every).collect()
    }

    #[test]
    fn an_empty_topic_needs_no_round() {
        let logs = Logs { low: 7, times: vec![vec![], vec![]] };
        assert_eq!(logs.search(100, 600), (vec![7, 7], 0));
    }

    #[test]
    fn what_fits_is_taken_whole_after_one_round() {
        let logs = Logs { low: 0, times: vec![steady(50, 1000, 0), steady(20, 1000, 0)] };
        assert_eq!(logs.search(100, 600), (vec![0, 0], 1));
    }

    #[test]
    fn age_bounds_what_is_read() {
        let logs = Logs { low: 10, times: vec![steady(1000, 1000, 0), steady(10, 1000, 7_200_000)] };
        let (starts, rounds) = logs.search(10_000, 600);
        assert_eq!(starts, vec![10 + 400, 20]);
        assert_eq!(rounds, 1);
    }

    #[test]
    fn the_newest_records_are_covered_however_skewed() {
        let skews = [
            vec![steady(50_000, 10, 0), steady(100, 1000, 0), vec![], steady(5, 60_000, 0)],
            // One partition went quiet long before the others.
            vec![steady(20_000, 10, 300_000), steady(20_000, 10, 0)],
            // A burst at one instant.
            vec![vec![NOW - 1000; 30_000], steady(300, 1000, 0)],
            // Clocks ahead of ours.
            vec![steady(30_000, 10, -60_000), steady(300, 1000, 0)],
        ];
        for times in skews {
            let logs = Logs { low: 3, times };
            for messages in [1, 100, 10_000] {
                let (starts, rounds) = logs.search(messages, 600);
                assert!(logs.covered(&starts, messages as usize, 600), "{messages} {starts:?}");
                assert!(rounds <= ROUNDS);
                let most = starts.iter().zip(&logs.times).map(|(s, t)| 3 + t.len() as i64 - s).max();
                assert!(most.expect("partitions") <= i64::from(messages));
            }
        }
    }

    #[test]
    fn a_steady_log_is_cut_close_to_the_count() {
        let logs = Logs { low: 0, times: vec![steady(60_000, 10, 0); 12] };
        let (starts, rounds) = logs.search(10_000, 600);
        let read: i64 = starts.iter().map(|start| 60_000 - start).sum();
        assert!((10_000..14_000).contains(&read), "{read} in {rounds} rounds");
    }
}
