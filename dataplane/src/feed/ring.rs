//! The bounded ring of recent messages of one address: order, positions, bounds. Pure.
//!
//! Sequence numbers are local to the process and never shown; a client stands at one. Records are
//! in order per partition only, so what a client can take elsewhere is a vector of positions.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::feed::budget::Share;
use crate::message::{Incarnation, Position, Record};

/// Why messages are missing, as clients are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// Older than what is held.
    Expired,
    /// The address is another one than before.
    Recreated,
    /// The client fell behind.
    Slow,
    /// A record over the size limit.
    TooLarge,
    /// The cursor's version or key is not known.
    UnknownCursor,
}

impl GapReason {
    /// The word on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Recreated => "recreated",
            Self::Slow => "slow",
            Self::TooLarge => "tooLarge",
            Self::UnknownCursor => "unknownCursor",
        }
    }
}

/// What stands at one sequence number.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Partition.
    pub partition: u32,
    /// Position of the partition after this entry.
    pub next: i64,
    /// When the entry starts to age, in milliseconds of the feed's clock.
    pub since: i64,
    /// Message or gap.
    pub body: Body,
}

/// A message, or a place where messages are missing for everybody.
#[derive(Clone, Debug)]
pub enum Body {
    /// A message.
    Message(Arc<Record>),
    /// Missing messages.
    Gap(GapReason),
}

impl Entry {
    /// The entry of `record`, as old as its event time, else as `now`.
    pub fn message(record: Record, now: i64) -> Self {
        let since = record.timestamp.unwrap_or(now);
        Self {
            partition: record.partition,
            next: record.offset + 1,
            since,
            body: Body::Message(Arc::new(record)),
        }
    }

    /// The entry that stands for what is missing up to and including `last`.
    pub const fn gap(last: Position, reason: GapReason, now: i64) -> Self {
        Self { partition: last.partition, next: last.offset + 1, since: now, body: Body::Gap(reason) }
    }

    /// The same entry, ageing from `since` on.
    pub fn at(mut self, since: i64) -> Self {
        self.since = since;
        self
    }

    /// Bytes that count towards budgets.
    pub fn size(&self) -> usize {
        match &self.body {
            Body::Message(record) => record.size(),
            Body::Gap(_) => 64,
        }
    }
}

/// How much is held.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Messages.
    pub messages: usize,
    /// Bytes.
    pub bytes: usize,
    /// Milliseconds.
    pub age: i64,
}

/// Where a client starts in the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// First sequence number to look at.
    pub seq: u64,
    /// Positions below which entries are not due, while any partition is not past its own.
    pub skip: Option<Box<[i64]>>,
    /// What is missing between the client's position and the ring.
    pub gap: Option<GapReason>,
    /// Whether the client is ahead of everything known; it waits for the log to reach it.
    pub beyond: bool,
}

/// The ring.
pub struct Ring {
    incarnation: Option<Incarnation>,
    base: Vec<i64>,
    head: Vec<i64>,
    ends: Vec<i64>,
    first: u64,
    life: u64,
    entries: VecDeque<Entry>,
    marks: VecDeque<Mark>,
    bytes: usize,
    bounds: Bounds,
    share: Arc<Share>,
}

/// Entries between two [`Mark`]s.
const MARK_EVERY: u64 = 64;

/// Where the partitions were at a sequence number, so that positions are found without going
/// through the whole ring.
struct Mark {
    seq: u64,
    positions: Box<[i64]>,
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.share.give(self.bytes);
        self.share.remove_ring();
    }
}

impl Ring {
    /// An empty ring that belongs to no incarnation yet.
    pub fn new(bounds: Bounds, share: Arc<Share>) -> Self {
        share.add_ring();
        Self {
            incarnation: None,
            base: Vec::new(),
            head: Vec::new(),
            ends: Vec::new(),
            first: 0,
            life: 0,
            entries: VecDeque::new(),
            marks: VecDeque::new(),
            bytes: 0,
            bounds,
            share,
        }
    }

    /// The incarnation held.
    pub const fn incarnation(&self) -> Option<&Incarnation> {
        self.incarnation.as_ref()
    }

    /// Next position of every partition after the last entry.
    pub fn head(&self) -> &[i64] {
        &self.head
    }

    /// The ends of the partitions as far as they are known: clients without a cursor start there.
    pub fn known_ends(&self) -> Vec<i64> {
        self.head.iter().zip(&self.ends).map(|(head, end)| *head.max(end)).collect()
    }

    /// Sequence number of the oldest entry.
    pub const fn first(&self) -> u64 {
        self.first
    }

    /// Sequence number of the next entry to come.
    pub fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// What the ring draws on.
    pub fn share(&self) -> Arc<Share> {
        self.share.clone()
    }

    /// Messages held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes held.
    #[cfg(test)]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The entry at `seq`.
    pub fn entry(&self, seq: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(seq.checked_sub(self.first)?).ok()?)
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Changes the bounds; what is over them goes at the next append.
    pub const fn rebound(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// Starts a new life at `starts`: everything held goes.
    pub fn reset(&mut self, incarnation: Incarnation, starts: Vec<i64>, ends: Vec<i64>) {
        // A hole in the numbers, so that clients that had read everything notice too.
        self.first = self.next() + 1;
        self.life = self.first;
        self.entries.clear();
        self.marks.clear();
        self.share.give(self.bytes);
        self.bytes = 0;
        self.incarnation = Some(incarnation);
        self.base.clone_from(&starts);
        self.head = starts;
        self.ends = ends;
    }

    /// The reader continues in the same incarnation, whose ends are `ends` now.
    pub fn resume(&mut self, ends: &[i64]) {
        self.grow(ends.len());
        for (known, end) in self.ends.iter_mut().zip(ends) {
            *known = *end;
        }
    }

    /// Adds partitions, which start at 0.
    pub fn grow(&mut self, partitions: usize) {
        if partitions > self.head.len() {
            self.base.resize(partitions, 0);
            self.head.resize(partitions, 0);
            self.ends.resize(partitions, 0);
        }
    }

    /// Takes the next entry, unless its partition is past it already.
    pub fn append(&mut self, entry: Entry) -> bool {
        let partition = entry.partition as usize;
        self.grow(partition + 1);
        if entry.next <= self.head[partition] {
            return false;
        }
        let (size, seq) = (entry.size(), self.next());
        if seq.is_multiple_of(MARK_EVERY) {
            self.marks.push_back(Mark { seq, positions: self.head.as_slice().into() });
        }
        self.head[partition] = entry.next;
        self.bytes += size;
        self.share.take(size);
        let now = entry.since;
        self.entries.push_back(entry);
        self.evict(now);
        true
    }

    /// Moves a partition's start before anything was appended to it: what lies below is not held.
    pub fn raise(&mut self, partition: u32, position: i64) {
        let partition = partition as usize;
        self.grow(partition + 1);
        if self.head[partition] == self.base[partition] && position > self.head[partition] {
            self.base[partition] = position;
            self.head[partition] = position;
        }
    }

    /// The log has no records between the head of `partition` and `position`.
    pub fn advance(&mut self, partition: u32, position: i64) {
        let partition = partition as usize;
        self.grow(partition + 1);
        self.head[partition] = self.head[partition].max(position);
    }

    /// Drops what is over the bounds, at the time `now`. The newest entry always stays.
    pub fn evict(&mut self, now: i64) {
        while self.entries.len() > 1 && self.is_over(now) {
            let Some(entry) = self.entries.pop_front() else { return };
            let size = entry.size();
            self.bytes -= size;
            self.share.give(size);
            self.base[entry.partition as usize] = entry.next;
            self.first += 1;
            self.marks.pop_front_if(|mark| mark.seq < self.first);
        }
    }

    fn is_over(&self, now: i64) -> bool {
        self.entries.len() > self.bounds.messages
            || self.bytes > self.bounds.bytes
            || self.share.is_over(self.bytes)
            || self.entries.front().is_some_and(|entry| now.saturating_sub(entry.since) > self.bounds.age)
    }

    /// Next position of every partition before the entry at `seq`.
    pub fn positions_at(&self, seq: u64) -> Vec<i64> {
        if seq >= self.next() {
            return self.head.clone();
        }
        let mut positions = self.base.clone();
        let mut from = self.first;
        let later = self.marks.partition_point(|mark| mark.seq <= seq);
        if let Some(mark) = later.checked_sub(1).and_then(|index| self.marks.get(index)) {
            from = mark.seq;
            // A partition may have been raised since, before anything of it was held.
            for (position, marked) in positions.iter_mut().zip(&mark.positions) {
                *position = (*position).max(*marked);
            }
        }
        for entry in (from..seq).filter_map(|seq| self.entry(seq)) {
            positions[entry.partition as usize] = entry.next;
        }
        positions
    }

    /// Where a client starts that needs `positions` next. A partition it does not know is read
    /// from its beginning, as far as the ring reaches.
    pub fn place(&self, positions: &[i64]) -> Place {
        let wanted = |partition: usize| positions.get(partition).copied().unwrap_or(0);
        let gap = (0..self.base.len()).any(|p| wanted(p) < self.base[p]).then_some(GapReason::Expired);
        let beyond = positions.iter().enumerate().any(|(p, wanted)| {
            *wanted > self.head.get(p).copied().max(self.ends.get(p).copied()).unwrap_or(0)
        });
        let index = self
            .entries
            .iter()
            .position(|entry| entry.next > wanted(entry.partition as usize))
            .unwrap_or(self.entries.len());
        let seq = self.first + index as u64;
        let there = self.positions_at(seq);
        let ahead =
            positions.iter().enumerate().any(|(p, wanted)| *wanted > there.get(p).copied().unwrap_or(0));
        Place { seq, skip: ahead.then(|| positions.into()), gap, beyond }
    }

    /// Why a client at `seq` is off the ring.
    pub const fn lost(&self, seq: u64) -> Option<GapReason> {
        if seq >= self.first {
            None
        } else if seq < self.life {
            Some(GapReason::Recreated)
        } else {
            Some(GapReason::Slow)
        }
    }
}

#[cfg(test)]
mod tests;
