//! Feeds: the one reader of an address for a channel, its ring, and the encodings its clients
//! share. A feed knows nothing of sockets; shards ask it for batches.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};
use sluice_config::channel::{CursorPlacement, Replay};
use tokio::sync::watch;

use crate::cursor::Cursors;
use crate::encode::{Encoder, Lane};
use crate::feed::fill::Fill;
use crate::feed::ring::{Body, Bounds, Budget, Entry, GapReason, Ring};
use crate::message::{Incarnation, Position, Record};
use crate::server::{Inlet, Opening, Reading, Resume, Source};
use crate::telemetry::ChannelMetrics;
use crate::telemetry::trace::{ChannelTracing, PushSpan};

pub mod fill;
pub mod ring;

/// How long a feed keeps reading after its last client left.
pub const LINGER: Duration = Duration::from_secs(60);
/// How long a partition that does not answer may hold up the window of the others.
const FILL_PATIENCE: Duration = Duration::from_secs(5);
/// Most frames and bytes that are collected for one write.
const BATCH_FRAMES: usize = 1024;
const BATCH_BYTES: usize = 256 << 10;
/// Encodings a lane keeps: the newest, which most clients are about to be written. Older ones are
/// made again for who needs them.
const ENCODED_FRAMES: usize = 2 * BATCH_FRAMES;
const ENCODED_BYTES: usize = 4 << 20;
/// Records entered before shards get a turn to write them, and how long a reader waits for that.
const CHUNK: usize = 512;
const CHUNK_BYTES: usize = 1 << 20;
const PRESSURE_PATIENCE: Duration = Duration::from_secs(1);

/// What a feed is for; changes with the channel's spec.
#[derive(Clone)]
pub struct Settings {
    /// How messages are written.
    pub encoder: Encoder,
    /// The channel's cursors.
    pub cursors: Cursors,
    /// The replay window.
    pub replay: Replay,
    /// Larger payloads are skipped.
    pub max_message_bytes: usize,
    /// Makes spans.
    pub tracing: ChannelTracing,
}

impl Settings {
    fn bounds(&self) -> Bounds {
        Bounds {
            messages: self.replay.messages as usize,
            bytes: usize::try_from(self.replay.bytes).unwrap_or(usize::MAX),
            age: i64::try_from(self.replay.age.0.as_millis()).unwrap_or(i64::MAX),
        }
    }
}

/// Whether a reader waits until shards have had their turn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Yes: it has a thread of its own.
    ForShards,
    /// No: it asks for the pressure itself.
    Never,
}

/// Where a client wants to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// At these positions, in the incarnation with this digest.
    At {
        /// [`Incarnation::digest`].
        incarnation: [u8; 8],
        /// Next positions.
        positions: Vec<i64>,
    },
    /// At the end, after telling a gap: the cursor's version or key is not known.
    Unknown,
}

/// Where a client was placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// First sequence number to look at.
    pub seq: u64,
    /// See [`ring::Place::skip`].
    pub skip: Option<Box<[i64]>>,
    /// What is missing before it.
    pub gap: Option<GapReason>,
    /// See [`ring::Place::beyond`].
    pub beyond: bool,
}

/// A shard that has clients on a feed. It is told when the feed moved and tells how far it got.
pub trait Watcher: Send + Sync {
    /// The feed moved.
    fn moved(&self);
    /// Sequence number up to which every client was given its turn.
    fn walked(&self) -> u64;
}

/// The reader, its ring and its encodings.
pub struct Feed {
    state: Mutex<State>,
    source: Mutex<Reader>,
    watchers: Mutex<Vec<Arc<dyn Watcher>>>,
    opened: watch::Sender<u64>,
    pressure: (Mutex<()>, Condvar),
    waiting: AtomicBool,
    clock: Clock,
    metrics: Arc<ChannelMetrics>,
}

struct State {
    /// Of the reader that may write: one that was let go is not listened to.
    generation: u64,
    ring: Ring,
    fill: Option<(Fill, Instant)>,
    lanes: [Option<LaneState>; Lane::COUNT],
    settings: Settings,
}

/// The encodings of one lane, parallel to the ring.
struct LaneState {
    users: usize,
    start: u64,
    frames: VecDeque<Option<Bytes>>,
    bytes: usize,
    /// Positions before the entry at `cursor_seq`: encoding mostly goes forward.
    cursor_seq: u64,
    positions: Vec<i64>,
}

struct Reader {
    source: Source,
    reading: Option<Reading>,
    users: usize,
    idle_since: Option<Instant>,
    stopped: bool,
}

/// Milliseconds since 1970 that never step back: wall time at start plus monotonic time since.
struct Clock {
    start: Instant,
    offset: i64,
}

impl Clock {
    fn new() -> Self {
        Self { start: Instant::now(), offset: wall_clock() }
    }

    fn now(&self) -> i64 {
        self.offset + i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

/// Milliseconds since 1970.
pub fn wall_clock() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// What is due to clients of one lane from one sequence number on.
#[derive(Default)]
pub struct Batch {
    /// First sequence number.
    pub from: u64,
    /// Sequence number after the last.
    pub to: u64,
    /// The frames, one after the other.
    pub data: Vec<u8>,
    /// Where each frame ends in `data`, and what it is.
    pub frames: Vec<Frame>,
    /// A cursor that follows the frames in `data` (`cursor: perWrite`).
    pub tail: Option<Bytes>,
    /// Spans of sampled messages.
    pub spans: Vec<PushSpan>,
    /// A gap at `to` that this lane cannot tell: the client is closed there.
    pub stop: Option<GapReason>,
    /// Event time of the newest message.
    pub newest: Option<i64>,
}

/// One frame of a [`Batch`].
pub struct Frame {
    /// Its sequence number.
    pub seq: u64,
    /// Where it ends in [`Batch::data`].
    pub end: usize,
    /// Payload bytes in it.
    pub payload: usize,
    /// It tells a gap.
    pub gap: Option<GapReason>,
    /// Its bytes, shared with the lane.
    pub bytes: Bytes,
}

impl Feed {
    /// A feed that reads `source` once it has clients.
    pub fn new(
        settings: Settings,
        source: Source,
        budget: Arc<Budget>,
        metrics: Arc<ChannelMetrics>,
    ) -> Arc<Self> {
        let state = State {
            generation: 0,
            ring: Ring::new(settings.bounds(), budget),
            fill: None,
            lanes: Default::default(),
            settings,
        };
        let always = source.is_always_on();
        let feed = Arc::new(Self {
            state: Mutex::new(state),
            source: Mutex::new(Reader { source, reading: None, users: 0, idle_since: None, stopped: false }),
            watchers: Mutex::new(Vec::new()),
            opened: watch::Sender::new(0),
            pressure: (Mutex::new(()), Condvar::new()),
            waiting: AtomicBool::new(false),
            clock: Clock::new(),
            metrics,
        });
        if always {
            feed.acquire();
        }
        feed
    }

    // --- the reader -----------------------------------------------------------------------------

    /// A client came: the first one starts the reader.
    pub fn acquire(self: &Arc<Self>) {
        let mut reader = self.source.lock();
        reader.users += 1;
        reader.idle_since = None;
        if reader.reading.is_none() && !reader.stopped {
            let inlet = self.next_inlet();
            reader.reading = Some(reader.source.read(inlet));
        }
    }

    /// The inlet of the next reader; the last one's is closed by it.
    fn next_inlet(self: &Arc<Self>) -> Inlet {
        let mut state = self.state.lock();
        state.generation += 1;
        Inlet(self.clone(), state.generation)
    }

    /// The state, for a reader of `generation` that is still the one.
    fn writable(&self, generation: u64) -> Option<MutexGuard<'_, State>> {
        let state = self.state.lock();
        (state.generation == generation).then_some(state)
    }

    /// A client went.
    pub fn release(&self) {
        let mut reader = self.source.lock();
        reader.users -= 1;
        if reader.users == 0 {
            reader.idle_since = Some(Instant::now());
        }
    }

    /// Stops a reader without clients, drops what aged, and ends the wait for silent partitions.
    pub fn sweep(&self) {
        let mut reader = self.source.lock();
        let idle = reader.idle_since.is_some_and(|since| since.elapsed() >= LINGER);
        let stopped = if reader.users == 0 && idle { reader.reading.take() } else { None };
        let mut state = self.state.lock();
        if stopped.is_some() {
            state.generation += 1;
            state.close();
        }
        drop(reader);
        let now = self.clock.now();
        state.ring.evict(now);
        let late = state.fill.as_ref().is_some_and(|(_, since)| since.elapsed() >= FILL_PATIENCE);
        if late {
            state.finish_fill(now, &self.metrics);
        }
        self.metrics.ring_messages.set(i64::try_from(state.ring.len()).unwrap_or(i64::MAX));
        drop(state);
        drop(stopped);
        if late {
            self.notify_open();
        }
    }

    /// Reads from `source` from now on, where the last one stopped.
    pub fn replace_source(self: &Arc<Self>, source: Source) {
        let mut reader = self.source.lock();
        reader.source = source;
        let old = reader.reading.take();
        if old.is_some() {
            let inlet = self.next_inlet();
            reader.reading = Some(reader.source.read(inlet));
        }
        drop(reader);
        drop(old);
    }

    /// Stops reading for good.
    pub fn stop(&self) {
        let mut reader = self.source.lock();
        reader.stopped = true;
        let reading = reader.reading.take();
        self.state.lock().generation += 1;
        drop(reader);
        drop(reading);
    }

    /// Takes other settings; encodings are made again where they differ.
    pub fn configure(&self, settings: Settings) {
        let mut state = self.state.lock();
        state.ring.rebound(settings.bounds());
        for lane in state.lanes.iter_mut().flatten() {
            lane.clear();
        }
        state.settings = settings;
    }

    // --- what readers put in ----------------------------------------------------------------------

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
            state.lanes.iter_mut().flatten().for_each(|lane| lane.clear());
            let fill = Fill::new(opening.starts, opening.ends, bounds, state.ring.budget());
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
            while count < CHUNK && bytes < CHUNK_BYTES {
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
    fn relieve(&self, next: u64) {
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

    fn is_behind(&self, next: u64) -> bool {
        let messages = self.state.lock().settings.replay.messages;
        let allowed = u64::from(messages / 4).clamp(1, 2 * CHUNK as u64);
        let watchers = self.watchers.lock();
        watchers.iter().any(|watcher| next.saturating_sub(watcher.walked()) > allowed)
    }

    /// A shard gave every client its turn.
    pub fn walked(&self) {
        if self.waiting.load(Ordering::SeqCst) {
            let _guard = self.pressure.0.lock();
            self.pressure.1.notify_all();
        }
    }

    fn notify(&self) {
        for watcher in self.watchers.lock().iter() {
            watcher.moved();
        }
    }

    fn notify_open(&self) {
        self.opened.send_modify(|count| *count += 1);
        self.notify();
    }

    // --- what shards and subscribes ask -------------------------------------------------------------

    /// Tells `watcher` from now on when the feed moves.
    pub fn watch(&self, watcher: Arc<dyn Watcher>) {
        self.watchers.lock().push(watcher);
    }

    /// Forgets `watcher`.
    pub fn unwatch(&self, watcher: &Arc<dyn Watcher>) {
        self.watchers.lock().retain(|known| !Arc::ptr_eq(known, watcher));
    }

    /// The end of the stream, once the broker told it; `None` if that takes longer than `timeout`.
    pub async fn end(&self, timeout: Duration) -> Option<Start> {
        let mut opened = self.opened.subscribe();
        let known = async {
            loop {
                if let Some(start) = self.known_end() {
                    return Some(start);
                }
                opened.changed().await.ok()?;
            }
        };
        tokio::time::timeout(timeout, known).await.ok().flatten()
    }

    /// Resolves when clients can be placed, or after `patience`.
    pub async fn placeable(&self, patience: Duration) {
        let mut opened = self.opened.subscribe();
        let placeable = async {
            loop {
                let ready = self.is_placeable();
                if ready || opened.changed().await.is_err() {
                    return;
                }
            }
        };
        // Whoever cannot be placed yet waits on its shard.
        let _ = tokio::time::timeout(patience, placeable).await;
    }

    fn is_placeable(&self) -> bool {
        let state = self.state.lock();
        state.ring.incarnation().is_some() && state.fill.is_none()
    }

    fn known_end(&self) -> Option<Start> {
        let state = self.state.lock();
        let incarnation = state.ring.incarnation()?.digest();
        Some(Start::At { incarnation, positions: state.ring.known_ends() })
    }

    /// The cursor of `start`, if it has one.
    pub fn cursor_of(&self, start: &Start) -> Option<String> {
        let state = self.state.lock();
        match start {
            Start::At { incarnation, positions } => {
                let known = state.ring.incarnation().filter(|known| known.digest() == *incarnation)?;
                state.settings.cursors.encode(known, positions)
            }
            Start::Unknown => None,
        }
    }

    /// Places a client, once the window is filled.
    pub fn place(&self, start: &Start) -> Option<Placed> {
        let state = self.state.lock();
        let known = state.ring.incarnation()?;
        if state.fill.is_some() {
            return None;
        }
        Some(match start {
            Start::At { incarnation, positions } if *incarnation == known.digest() => {
                let place = state.ring.place(positions);
                Placed { seq: place.seq, skip: place.skip, gap: place.gap, beyond: place.beyond }
            }
            Start::At { .. } => {
                Placed { seq: state.ring.first(), skip: None, gap: Some(GapReason::Recreated), beyond: false }
            }
            Start::Unknown => Placed {
                seq: state.ring.next(),
                skip: None,
                gap: Some(GapReason::UnknownCursor),
                beyond: false,
            },
        })
    }

    /// Whether every partition has reached `positions` by now.
    pub fn has_reached(&self, positions: &[i64]) -> bool {
        let state = self.state.lock();
        let head = state.ring.head();
        positions
            .iter()
            .enumerate()
            .all(|(partition, wanted)| head.get(partition).is_some_and(|h| h >= wanted))
    }

    /// Sequence numbers of the oldest entry and of the next to come.
    pub fn range(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.ring.first(), state.ring.next())
    }

    /// Whether a client at `seq` is past `skip` in every partition.
    pub fn is_past(&self, seq: u64, skip: &[i64]) -> bool {
        let there = self.state.lock().ring.positions_at(seq);
        skip.iter().enumerate().all(|(partition, wanted)| there.get(partition).is_some_and(|at| at >= wanted))
    }

    /// How many entries from `seq` on are due to a client that skips what lies below `skip`.
    pub fn unread(&self, seq: u64, skip: Option<&[i64]>) -> u64 {
        let state = self.state.lock();
        let ring = &state.ring;
        let Some(skip) = skip else { return ring.next().saturating_sub(seq.max(ring.first())) };
        let due = |seq: &u64| {
            let entry = ring.entry(*seq);
            entry.is_some_and(|e| skip.get(e.partition as usize).is_none_or(|wanted| e.next > *wanted))
        };
        (seq.max(ring.first())..ring.next()).filter(due).count() as u64
    }

    /// Why a client at `seq` is off the ring.
    pub fn lost(&self, seq: u64) -> Option<GapReason> {
        self.state.lock().ring.lost(seq)
    }

    /// The cursor of a client at `seq` that skips what lies below `skip`. A client that is off the
    /// ring has none: one made now would hide what it lost.
    pub fn cursor_at(&self, seq: u64, skip: Option<&[i64]>) -> Option<String> {
        let state = self.state.lock();
        if state.ring.lost(seq).is_some() {
            return None;
        }
        let mut positions = state.ring.positions_at(seq);
        for (position, wanted) in positions.iter_mut().zip(skip.unwrap_or_default()) {
            *position = (*position).max(*wanted);
        }
        state.settings.cursors.encode(state.ring.incarnation()?, &positions)
    }

    /// The encoder in force.
    pub fn encoder(&self) -> Encoder {
        self.state.lock().settings.encoder.clone()
    }

    /// A client of `lane` came.
    pub fn enter(&self, lane: Lane) {
        let mut state = self.state.lock();
        state.lanes[lane.index()].get_or_insert_with(LaneState::new).users += 1;
    }

    /// A client of `lane` went; the last one takes the encodings along.
    pub fn leave(&self, lane: Lane) {
        let mut state = self.state.lock();
        let slot = &mut state.lanes[lane.index()];
        if let Some(encodings) = slot {
            encodings.users -= 1;
            if encodings.users == 0 {
                *slot = None;
            }
        }
    }

    /// Collects what is due from `from` on into `batch`.
    pub fn collect(&self, lane: Lane, from: u64, skip: Option<&[i64]>, batch: &mut Batch) {
        batch.clear(from);
        let mut state = self.state.lock();
        let State { ring, lanes, settings, .. } = &mut *state;
        let Some(incarnation) = ring.incarnation() else { return };
        let encodings = lanes[lane.index()].get_or_insert_with(LaneState::new);
        let mut seq = from;
        while let Some(entry) = ring.entry(seq) {
            let skipped = skip
                .and_then(|skip| skip.get(entry.partition as usize))
                .is_some_and(|wanted| entry.next <= *wanted);
            if !skipped {
                let Some(bytes) = encodings.frame(lane, seq, entry, ring, incarnation, settings) else {
                    if let Body::Gap(reason) = entry.body {
                        batch.stop = Some(reason);
                    }
                    break;
                };
                if let Body::Message(record) = &entry.body {
                    let at = Position { partition: record.partition, offset: record.offset };
                    let span = settings.tracing.push(record, || incarnation.message_id(at));
                    if span.is_recording() {
                        batch.spans.push(span);
                    }
                }
                batch.push(seq, entry, bytes);
            }
            seq += 1;
            if batch.frames.len() >= BATCH_FRAMES || batch.data.len() >= BATCH_BYTES {
                break;
            }
        }
        batch.to = seq;
        if settings.encoder.cursor == CursorPlacement::PerWrite && !batch.frames.is_empty() {
            batch.tail = settings
                .cursors
                .encode(incarnation, &ring.positions_at(seq))
                .and_then(|cursor| settings.encoder.cursor(lane, &cursor));
            batch.data.extend_from_slice(batch.tail.as_deref().unwrap_or_default());
        }
    }
}

impl State {
    fn close(&mut self) {
        self.ring = Ring::new(self.settings.bounds(), self.ring.budget());
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
        if self.ring.append(entry) {
            metrics.received.inc();
        }
        self.ring.evict(now);
    }

    fn truncate(&mut self, partition: u32, position: i64, now: i64) {
        self.ring.grow(partition as usize + 1);
        if self.ring.head()[partition as usize] < position {
            let last = Position { partition, offset: position - 1 };
            self.ring.append(Entry::gap(last, GapReason::Expired, now));
        }
    }

    fn finish_fill_if_done(&mut self, now: i64, metrics: &ChannelMetrics) -> bool {
        let done = self.fill.as_ref().is_some_and(|(fill, _)| fill.is_done());
        if done {
            self.finish_fill(now, metrics);
        }
        done
    }

    fn finish_fill(&mut self, now: i64, metrics: &ChannelMetrics) {
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

impl LaneState {
    const fn new() -> Self {
        Self {
            users: 0,
            start: 0,
            frames: VecDeque::new(),
            bytes: 0,
            cursor_seq: u64::MAX,
            positions: Vec::new(),
        }
    }

    /// The bytes at `seq`, made now if nobody needed them before.
    fn frame(
        &mut self,
        lane: Lane,
        seq: u64,
        entry: &Entry,
        ring: &Ring,
        incarnation: &Incarnation,
        settings: &Settings,
    ) -> Option<Bytes> {
        self.trim(ring);
        let index = seq.checked_sub(self.start).and_then(|index| usize::try_from(index).ok());
        if let Some(Some(bytes)) = index.and_then(|index| self.frames.get(index)) {
            return Some(bytes.clone());
        }
        if self.cursor_seq != seq {
            self.positions = ring.positions_at(seq);
        }
        let before = std::mem::take(&mut self.positions);
        let mut after = before.clone();
        after.resize(ring.head().len(), 0);
        after[entry.partition as usize] = entry.next;
        let cursor = settings.cursors.encode(incarnation, &after);
        let bytes = match &entry.body {
            Body::Message(record) => {
                let position = Position { partition: record.partition, offset: record.offset };
                let id = incarnation.message_id(position);
                Some(settings.encoder.message(lane, &id, record, cursor.as_deref()))
            }
            Body::Gap(reason) => {
                let from = settings.cursors.encode(incarnation, &before);
                settings.encoder.gap(lane, from.as_deref(), cursor.as_deref(), *reason)
            }
        };
        self.positions = after;
        self.cursor_seq = seq + 1;
        if let (Some(index), Some(bytes)) = (index, &bytes) {
            if self.frames.len() <= index {
                self.frames.resize(index + 1, None);
            }
            self.bytes += bytes.len();
            self.frames[index] = Some(bytes.clone());
        }
        bytes
    }

    /// Lets go of what left the ring, and of what is far behind its head.
    fn trim(&mut self, ring: &Ring) {
        let oldest = ring.first().max(ring.next().saturating_sub(ENCODED_FRAMES as u64));
        while self.start < oldest || self.bytes > ENCODED_BYTES {
            match self.frames.pop_front() {
                Some(frame) => {
                    self.bytes -= frame.map_or(0, |bytes| bytes.len());
                    self.start += 1;
                }
                None => {
                    self.start = oldest;
                    break;
                }
            }
        }
    }

    fn clear(&mut self) {
        self.frames.clear();
        self.bytes = 0;
    }
}

impl Batch {
    fn clear(&mut self, from: u64) {
        self.from = from;
        self.to = from;
        self.data.clear();
        self.frames.clear();
        self.tail = None;
        self.spans.clear();
        self.stop = None;
        self.newest = None;
    }

    fn push(&mut self, seq: u64, entry: &Entry, bytes: Bytes) {
        self.data.extend_from_slice(&bytes);
        let (payload, gap) = match &entry.body {
            Body::Message(record) => {
                self.newest = record.timestamp.or(self.newest);
                (record.payload.as_ref().map_or(0, Bytes::len), None)
            }
            Body::Gap(reason) => (0, Some(*reason)),
        };
        self.frames.push(Frame { seq, end: self.data.len(), payload, gap, bytes });
    }
}
