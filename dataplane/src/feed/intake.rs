//! What readers put into a feed. A reader that was let go has an inlet of an older generation, which
//! is not listened to.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;
use sluice_config::channel::Replay;

use crate::feed::fill::Fill;
use crate::feed::ring::{Entry, GapReason, Ring};
use crate::feed::{Feed, State};
use crate::message::{Position, Record};
use crate::server::{Inlet, Opening, Resume};
use crate::telemetry::ChannelMetrics;

/// Records entered before shards get a turn to write them, and how long a reader waits for that.
pub(super) const CHUNK: usize = 512;
const CHUNK_BYTES: usize = 1 << 20;
/// How often predicates are asked before shards get a turn.
const CHUNK_QUESTIONS: usize = 8192;
const PRESSURE_PATIENCE: Duration = Duration::from_secs(1);

/// Whether a reader waits until shards have had their turn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Yes: it has a thread of its own.
    ForShards,
    /// No: it asks for the pressure itself.
    Never,
}

impl Feed {
    /// The inlet of the next reader; the last one's is closed by it.
    pub(super) fn next_inlet(self: &Arc<Self>) -> Inlet {
        let mut state = self.state.lock();
        state.generation += 1;
        Inlet(self.clone(), state.generation)
    }

    /// The state, for a reader of `generation` that is still the one.
    pub(super) fn writable(&self, generation: u64) -> Option<MutexGuard<'_, State>> {
        let state = self.state.lock();
        (state.generation == generation).then_some(state)
    }

    pub(crate) fn resume(&self) -> Option<Resume> {
        let state = self.state.lock();
        let incarnation = state.ring.incarnation()?.clone();
        if state.fill.is_some() {
            return None;
        }
        Some(Resume { incarnation, positions: state.ring.head().to_vec() })
    }

    pub(crate) fn window(&self) -> Replay {
        self.state.lock().settings.replay.clone()
    }

    pub(crate) fn max_message_bytes(&self) -> usize {
        self.state.lock().settings.max_message_bytes
    }

    pub(crate) fn open(&self, generation: u64, opening: Opening) {
        let Some(mut state) = self.writable(generation) else { return };
        let known = state.fill.is_none() && state.ring.incarnation() == Some(&opening.incarnation);
        if known {
            state.ring.resume(&opening.ends);
            for (partition, start) in opening.starts.iter().enumerate() {
                let missing = state.ring.head().get(partition).is_some_and(|head| head < start);
                if missing {
                    state.truncate(partition as u32, *start, self.clock.now());
                }
            }
        } else {
            let bounds = state.settings.bounds();
            state.ring.reset(opening.incarnation, opening.starts.clone(), opening.ends.clone());
            state.selections.restart();
            state.lanes.iter_mut().flatten().for_each(|lane| lane.clear());
            let fill = Fill::new(opening.starts, opening.ends, bounds, state.ring.share());
            if fill.is_done() {
                state.fill = None;
            } else {
                state.fill = Some((fill, Instant::now()));
            }
        }
        drop(state);
        self.notify_open();
    }

    pub(crate) fn push(&self, generation: u64, records: &mut Vec<Record>, wait: Wait) {
        let mut records = records.drain(..).peekable();
        while records.peek().is_some() {
            let Some(mut state) = self.writable(generation) else { return };
            let now = self.clock.now();
            let before = state.ring.next();
            let (mut count, mut bytes) = (0, 0);
            let most = (CHUNK_QUESTIONS / state.selections.len().max(1)).clamp(1, CHUNK);
            while count < most && bytes < CHUNK_BYTES {
                let Some(record) = records.next() else { break };
                count += 1;
                bytes += record.size();
                state.take(record, now, &self.metrics);
            }
            let opened = state.finish_fill_if_done(now, &self.metrics);
            let next = state.ring.next();
            drop(state);
            if opened {
                self.notify_open();
            } else if next != before {
                self.notify();
            }
            if wait == Wait::ForShards {
                self.relieve(next);
            }
        }
    }

    pub(crate) fn reached(&self, generation: u64, partition: u32, position: i64) {
        let Some(mut state) = self.writable(generation) else { return };
        let now = self.clock.now();
        match &mut state.fill {
            Some((fill, _)) => fill.reached(partition, position),
            None => state.ring.advance(partition, position),
        }
        if state.finish_fill_if_done(now, &self.metrics) {
            drop(state);
            self.notify_open();
        }
    }

    pub(crate) fn grow(&self, generation: u64, partitions: usize) {
        if let Some(mut state) = self.writable(generation) {
            state.ring.grow(partitions);
        }
    }

    pub(crate) fn skip(&self, generation: u64, position: Position) {
        let Some(mut state) = self.writable(generation) else { return };
        let now = self.clock.now();
        match &mut state.fill {
            Some((fill, _)) => fill.push(Entry::gap(position, GapReason::TooLarge, now)),
            None => state.append(Entry::gap(position, GapReason::TooLarge, now), now, &self.metrics),
        }
        let opened = state.finish_fill_if_done(now, &self.metrics);
        drop(state);
        if opened { self.notify_open() } else { self.notify() }
    }

    pub(crate) fn truncated(&self, generation: u64, partition: u32, position: i64) {
        let Some(mut state) = self.writable(generation) else { return };
        let now = self.clock.now();
        match &mut state.fill {
            Some((fill, _)) => fill.reached(partition, position),
            None => state.truncate(partition, position, now),
        }
        let opened = state.finish_fill_if_done(now, &self.metrics);
        drop(state);
        if opened { self.notify_open() } else { self.notify() }
    }

    pub(crate) fn set_lag(&self, messages: u64) {
        self.metrics.feed_lag.set(messages as f64);
    }

    /// Gives the shards a turn when more is unwritten than a window comfortably holds, so that a
    /// burst from the broker does not push clients off the ring that read as fast as they can.
    pub(super) fn relieve(&self, next: u64) {
        let deadline = Instant::now() + PRESSURE_PATIENCE;
        while self.is_behind(next) {
            self.waiting.store(true, Ordering::SeqCst);
            let mut guard = self.pressure.0.lock();
            if !self.is_behind(next) || self.pressure.1.wait_until(&mut guard, deadline).timed_out() {
                break;
            }
        }
        self.waiting.store(false, Ordering::SeqCst);
    }

    /// Whether shards have more to write than a window comfortably holds.
    pub(crate) fn is_under_pressure(&self) -> bool {
        let next = self.state.lock().ring.next();
        self.is_behind(next)
    }

    pub(super) fn is_behind(&self, next: u64) -> bool {
        let allowed = self.state.lock().settings.comfortable();
        let watchers = self.watchers.lock();
        watchers.iter().any(|watcher| next.saturating_sub(watcher.walked()) > allowed)
    }
}

impl State {
    pub(super) fn close(&mut self) {
        self.ring = Ring::new(self.settings.bounds(), self.ring.share());
        self.fill = None;
        self.lanes.iter_mut().flatten().for_each(|lane| lane.clear());
    }

    fn take(&mut self, record: Record, now: i64, metrics: &ChannelMetrics) {
        match &mut self.fill {
            Some((fill, _)) => fill.push(Entry::message(record, now)),
            // What arrives now starts to age now, whatever its event time.
            None => self.append(Entry::message(record, now).at(now), now, metrics),
        }
    }

    fn append(&mut self, entry: Entry, now: i64, metrics: &ChannelMetrics) {
        if self.enter(entry) {
            metrics.received.inc();
        }
        self.ring.evict(now);
    }

    /// Takes an entry into the ring, and the selections that it is in.
    fn enter(&mut self, entry: Entry) -> bool {
        if !self.ring.append(entry) {
            return false;
        }
        let newest = self.ring.next() - 1;
        if self.selections.len() > 0
            && let Some(entry) = self.ring.entry(newest)
        {
            self.selections.take(newest, entry, self.ring.first());
        }
        true
    }

    fn truncate(&mut self, partition: u32, position: i64, now: i64) {
        self.ring.grow(partition as usize + 1);
        if self.ring.head()[partition as usize] < position {
            let last = Position { partition, offset: position - 1 };
            self.enter(Entry::gap(last, GapReason::Expired, now));
        }
    }

    pub(super) fn finish_fill_if_done(&mut self, now: i64, metrics: &ChannelMetrics) -> bool {
        let done = self.fill.as_ref().is_some_and(|(fill, _)| fill.is_done());
        if done {
            self.finish_fill(now, metrics);
        }
        done
    }

    pub(super) fn finish_fill(&mut self, now: i64, metrics: &ChannelMetrics) {
        let Some((fill, _)) = self.fill.take() else { return };
        let window = fill.finish();
        for (partition, dropped) in window.dropped.iter().enumerate() {
            if let Some(position) = dropped {
                self.ring.raise(partition as u32, *position);
            }
        }
        let age = self.settings.bounds().age;
        let ends = self.ring.known_ends();
        for entry in window.entries {
            let past = ends.get(entry.partition as usize).is_some_and(|end| entry.next <= *end);
            let since = entry.since.min(now);
            if !past {
                self.append(entry.at(now), now, metrics);
            } else if now.saturating_sub(since) > age {
                self.ring.raise(entry.partition, entry.next);
            } else {
                self.append(entry.at(since), since, metrics);
            }
        }
        for (partition, position) in window.positions.iter().enumerate() {
            self.ring.advance(partition as u32, *position);
        }
        self.ring.evict(now);
    }
}
