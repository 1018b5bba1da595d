//! Where a new reading starts: the search for one common time from which the newest records of all
//! partitions fit the replay window. Pure; the offsets at the times it asks for are looked up by
//! the caller, all times of a round at once: behind a fetch that waits for records every round
//! costs as long as that waits, whatever is in it.

use sluice_config::channel::Replay;

/// Times asked for in the first round, each half as old as the one before.
const FIRST: u32 = 8;
/// Times asked for in the second round, between the two that are left.
const SECOND: i64 = 7;

/// An answer: the offsets, per partition, of the first records at or after a time; negative if
/// there is none.
pub struct Answer {
    /// The time, in milliseconds since 1970.
    pub time: i64,
    /// The offsets.
    pub offsets: Vec<i64>,
}

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
}

impl Search {
    /// The times of the first round at `now`, in milliseconds since 1970. The first of them is the
    /// bound by age.
    pub fn first(replay: &Replay, now: i64) -> Vec<i64> {
        let age = i64::try_from(replay.age.0.as_millis()).unwrap_or(i64::MAX);
        (0..FIRST).map(|halvings| now.saturating_sub(age >> halvings).max(0)).collect()
    }

    /// A search over partitions whose logs reach from `lows` to `ends`, with the answers to the
    /// first round.
    pub fn new(replay: &Replay, lows: Vec<i64>, ends: Vec<i64>, now: i64, first: Vec<Answer>) -> Self {
        let messages = u64::from(replay.messages);
        let starts = ends.clone();
        let mut search = Self { messages, lows, ends, enough: 0, starts, few: now };
        let mut first = first.into_iter();
        if let Some(oldest) = first.next() {
            // What the bound by age covers is all there may be.
            search.enough = oldest.time;
            search.starts = search.within(&oldest.offsets);
        }
        search.narrow(first);
        search
    }

    /// The times of the second round; none if nothing is gained by it.
    pub fn second(&self) -> Vec<i64> {
        let step = (self.few - self.enough) / (SECOND + 1);
        // An eighth more than asked for is close enough.
        if step < 1 || self.count(&self.starts) <= self.messages + self.messages / 8 {
            return Vec::new();
        }
        (1..=SECOND).map(|steps| self.enough + steps * step).collect()
    }

    /// Takes answers, in any order.
    pub fn narrow(&mut self, answers: impl IntoIterator<Item = Answer>) {
        for Answer { time, offsets } in answers {
            let starts = self.within(&offsets);
            if self.count(&starts) < self.messages {
                self.few = self.few.min(time);
            } else if time > self.enough {
                self.enough = time;
                self.starts = starts;
            }
        }
    }

    /// Where to start, per partition. No partition gives more than all are asked for.
    pub fn starts(&self) -> Vec<i64> {
        let most = i64::try_from(self.messages).unwrap_or(i64::MAX);
        let bounded = self.starts.iter().zip(&self.ends).map(|(start, end)| (*start).max(end - most));
        bounded.zip(&self.lows).map(|(start, low)| start.max(*low)).collect()
    }

    fn within(&self, offsets: &[i64]) -> Vec<i64> {
        let bounds = self.lows.iter().zip(&self.ends);
        let offsets = offsets.iter().copied().chain(std::iter::repeat(-1));
        bounds
            .zip(offsets)
            .map(|((low, end), offset)| if offset < 0 { *end } else { offset.max(*low).min(*end) })
            .collect()
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
        fn search(&self, messages: u32, age: u64) -> (Vec<i64>, usize) {
            let replay = Replay { messages, age: Span::seconds(age), ..Replay::default() };
            let lows = vec![self.low; self.times.len()];
            let ends = self.times.iter().map(|times| self.low + times.len() as i64).collect();
            let first = Search::first(&replay, NOW).into_iter().map(|time| self.at(time)).collect();
            let mut search = Search::new(&replay, lows, ends, NOW, first);
            let second = search.second();
            search.narrow(second.iter().map(|time| self.at(*time)));
            (search.starts(), second.len())
        }

        /// What a broker answers: the first record that is as late, else -1.
        fn at(&self, time: i64) -> Answer {
            let first = |times: &Vec<i64>| times.iter().position(|at| *at >= time);
            let offset = |found: Option<usize>| found.map_or(-1, |index| self.low + index as i64);
            Answer { time, offsets: self.times.iter().map(|times| offset(first(times))).collect() }
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
    fn what_fits_is_taken_whole_after_one_round() {
        let logs = Logs { low: 7, times: vec![vec![], vec![]] };
        assert_eq!(logs.search(100, 600), (vec![7, 7], 0));
        let logs = Logs { low: 0, times: vec![steady(50, 1000, 0), steady(20, 1000, 0)] };
        assert_eq!(logs.search(100, 600), (vec![0, 0], 0));
    }

    #[test]
    fn age_bounds_what_is_read() {
        let logs = Logs { low: 10, times: vec![steady(1000, 1000, 0), steady(10, 1000, 7_200_000)] };
        assert_eq!(logs.search(10_000, 600), (vec![10 + 400, 20], 0));
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
                let (starts, _) = logs.search(messages, 600);
                assert!(logs.covered(&starts, messages as usize, 600), "{messages} {starts:?}");
                let most = starts.iter().zip(&logs.times).map(|(s, t)| 3 + t.len() as i64 - s).max();
                assert!(most.expect("partitions") <= i64::from(messages));
            }
        }
    }

    #[test]
    fn a_steady_log_is_cut_close_to_the_count() {
        for every in [5, 10, 40] {
            let logs = Logs { low: 0, times: vec![steady(10_000, every, 0); 12] };
            let (starts, _) = logs.search(10_000, 600);
            let read: i64 = starts.iter().map(|start| 10_000 - start).sum();
            assert!((10_000..12_500).contains(&read), "{read} of one each {every} ms");
        }
    }
}
