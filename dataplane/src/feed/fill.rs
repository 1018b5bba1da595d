//! The start of a feed: entries of the past, held until every partition was read to the end seen
//! at start, then entered in timestamp order across partitions, so that every replica and every
//! restart ends up with the same window.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::feed::budget::Share;
use crate::feed::ring::{Bounds, Entry};

/// Records of the past, per partition.
pub struct Fill {
    queues: Vec<VecDeque<Entry>>,
    latest: Vec<i64>,
    positions: Vec<i64>,
    ends: Vec<i64>,
    dropped: Vec<Option<i64>>,
    live: Vec<Entry>,
    count: usize,
    bytes: usize,
    bounds: Bounds,
    share: Arc<Share>,
}

impl Drop for Fill {
    fn drop(&mut self) {
        self.share.give(self.bytes);
    }
}

impl Fill {
    /// Starts at `starts`; the past ends at `ends`.
    pub fn new(starts: Vec<i64>, ends: Vec<i64>, bounds: Bounds, share: Arc<Share>) -> Self {
        let partitions = starts.len();
        Self {
            queues: vec![VecDeque::new(); partitions],
            latest: vec![i64::MIN; partitions],
            dropped: vec![None; partitions],
            positions: starts,
            ends,
            live: Vec::new(),
            count: 0,
            bytes: 0,
            bounds,
            share,
        }
    }

    /// Takes an entry whose `since` is its event time.
    pub fn push(&mut self, mut entry: Entry) {
        let partition = entry.partition as usize;
        if partition >= self.queues.len() {
            self.bytes += entry.size();
            self.share.take(entry.size());
            self.live.push(entry);
            return;
        }
        if entry.next <= self.positions[partition] {
            return;
        }
        self.positions[partition] = entry.next;
        self.bytes += entry.size();
        self.share.take(entry.size());
        if entry.next > self.ends[partition] {
            self.live.push(entry);
            return;
        }
        // A partition's order is kept even where its timestamps step back.
        entry.since = entry.since.max(self.latest[partition]);
        self.latest[partition] = entry.since;
        self.count += 1;
        self.queues[partition].push_back(entry);
        while self.count > self.bounds.messages || self.bytes > self.bounds.bytes {
            // More newer entries than the ring can hold were read already: the oldest is out.
            let Some(entry) = self.pop_oldest() else { break };
            self.dropped[entry.partition as usize] = Some(entry.next);
        }
    }

    /// Everything of `partition` below `position` was read.
    pub fn reached(&mut self, partition: u32, position: i64) {
        if let Some(known) = self.positions.get_mut(partition as usize) {
            *known = position.max(*known);
        }
    }

    /// Whether every partition was read to its end, or so much of what came after is waiting that
    /// a partition that does not answer must no longer hold up the others.
    pub fn is_done(&self) -> bool {
        self.positions.iter().zip(&self.ends).all(|(position, end)| position >= end)
            || self.live.len() > self.bounds.messages
            || self.bytes > self.bounds.bytes.saturating_mul(2)
    }

    /// The window: what lies below each partition's first entry, the records in order, and how far
    /// each partition was read.
    pub fn finish(mut self) -> Window {
        let mut entries = Vec::with_capacity(self.count + self.live.len());
        while let Some(entry) = self.pop_oldest() {
            entries.push(entry);
        }
        entries.append(&mut self.live);
        let (dropped, positions) = (std::mem::take(&mut self.dropped), std::mem::take(&mut self.positions));
        Window { dropped, entries, positions }
    }

    fn pop_oldest(&mut self) -> Option<Entry> {
        let (partition, _) = self
            .queues
            .iter()
            .enumerate()
            .filter_map(|(partition, queue)| Some((partition, queue.front()?.since)))
            .min_by_key(|(partition, since)| (*since, *partition))?;
        let entry = self.queues[partition].pop_front()?;
        self.count -= 1;
        self.bytes -= entry.size();
        self.share.give(entry.size());
        Some(entry)
    }
}

/// What a finished [`Fill`] leaves.
pub struct Window {
    /// Positions below which what was read was left out, per partition.
    pub dropped: Vec<Option<i64>>,
    /// Entries in the order in which they enter the ring.
    pub entries: Vec<Entry>,
    /// Next position of every partition.
    pub positions: Vec<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::budget::Budget;
    use crate::feed::ring::Body;
    use crate::message::Record;

    fn record(partition: u32, offset: i64, timestamp: i64) -> Entry {
        let record = Record {
            partition,
            offset,
            timestamp: Some(timestamp),
            key: None,
            headers: Vec::new(),
            payload: None,
        };
        Entry { partition, next: offset + 1, since: timestamp, body: Body::Message(Arc::new(record)) }
    }

    fn fill(starts: &[i64], ends: &[i64], messages: usize) -> Fill {
        Fill::new(
            starts.to_vec(),
            ends.to_vec(),
            Bounds { messages, bytes: 1 << 20, age: 1 << 40 },
            Share::of(&Arc::new(Budget::new(1 << 30))),
        )
    }

    fn offsets(window: &Window) -> Vec<(u32, i64)> {
        window.entries.iter().map(|entry| (entry.partition, entry.next - 1)).collect()
    }

    #[test]
    fn records_enter_in_timestamp_order_whatever_order_they_are_read_in() {
        let mut expected = None;
        for first in [0, 1] {
            let mut fill = fill(&[0, 0], &[3, 3], 100);
            for partition in [first, 1 - first] {
                assert!(!fill.is_done());
                for offset in 0..3 {
                    fill.push(record(partition, offset, offset * 10 + i64::from(partition)));
                }
            }
            assert!(fill.is_done());
            let got = offsets(&fill.finish());
            assert_eq!(&got, expected.get_or_insert(got.clone()));
            assert_eq!(got, [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]);
        }
    }

    #[test]
    fn skewed_partitions_hold_the_same_newest_records() {
        let mut fill = fill(&[0, 0], &[100, 2], 10);
        fill.push(record(1, 0, 5));
        fill.push(record(1, 1, 995));
        for offset in 0..100 {
            fill.push(record(0, offset, offset * 10));
        }
        let window = fill.finish();
        assert_eq!(window.entries.len(), 10);
        assert_eq!(window.dropped, [Some(91), Some(1)]);
        assert!(offsets(&window).contains(&(1, 1)));
    }

    #[test]
    fn timestamps_that_step_back_do_not_break_a_partitions_order() {
        let mut fill = fill(&[0, 0], &[3, 1], 100);
        for (offset, timestamp) in [(0, 50), (1, 10), (2, 20)] {
            fill.push(record(0, offset, timestamp));
        }
        fill.push(record(1, 0, 30));
        assert_eq!(offsets(&fill.finish()), [(1, 0), (0, 0), (0, 1), (0, 2)]);
    }

    #[test]
    fn what_comes_after_the_ends_stays_behind_the_past() {
        let mut fill = fill(&[0, 0], &[1, 1], 100);
        fill.push(record(0, 0, 10));
        fill.push(record(0, 1, 11));
        fill.push(record(1, 0, 99));
        assert!(fill.is_done());
        assert_eq!(offsets(&fill.finish()), [(0, 0), (1, 0), (0, 1)]);
    }

    #[test]
    fn an_end_without_records_is_reached() {
        let mut fill = fill(&[5], &[7], 100);
        assert!(!fill.is_done());
        fill.reached(0, 7);
        assert!(fill.is_done());
        assert_eq!(fill.finish().positions, [7]);
    }
}
