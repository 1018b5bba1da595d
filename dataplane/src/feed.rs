//! Feeds: the one reader of an address for a channel, its ring, and the encodings its clients
//! share. A feed knows nothing of sockets; shards ask it for batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use sluice_config::channel::{CursorPlacement, Replay};
use tokio::sync::watch;

use crate::cursor::Cursors;
use crate::encode::{Encoder, Lane};
use crate::feed::fill::Fill;
use crate::feed::lane::LaneState;
use crate::feed::reader::Reader;
use crate::feed::ring::{Body, Bounds, Budget, Entry, GapReason, Ring};
use crate::message::Position;
use crate::server::Source;
use crate::telemetry::ChannelMetrics;
use crate::telemetry::trace::ChannelTracing;

mod fill;
mod intake;
mod lane;
mod reader;
pub mod ring;

pub(crate) use intake::Wait;
pub use lane::Batch;

/// Most frames and bytes that are collected for one write.
const BATCH_FRAMES: usize = 1024;
const BATCH_BYTES: usize = 256 << 10;

/// What a feed is for; changes with the channel's spec.
#[derive(Clone)]
pub struct Settings {
    /// How messages are written.
    pub encoder: Encoder,
    /// The channel's cursors.
    pub cursors: Cursors,
    /// The replay window.
    pub replay: Replay,
    /// How long what is due may wait for more to be written with it.
    pub max_delay: Duration,
    /// Larger payloads are skipped.
    pub max_message_bytes: usize,
    /// Makes spans.
    pub tracing: ChannelTracing,
}

impl Settings {
    /// So many unwritten messages are no danger to the window.
    fn comfortable(&self) -> u64 {
        u64::from(self.replay.messages / 4).clamp(1, 2 * intake::CHUNK as u64)
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            messages: self.replay.messages as usize,
            bytes: usize::try_from(self.replay.bytes).unwrap_or(usize::MAX),
            age: i64::try_from(self.replay.age.0.as_millis()).unwrap_or(i64::MAX),
        }
    }
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
            source: Mutex::new(Reader::new(source)),
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

    /// Takes other settings; encodings are made again where they differ.
    pub fn configure(&self, settings: Settings) {
        let mut state = self.state.lock();
        state.ring.rebound(settings.bounds());
        for lane in state.lanes.iter_mut().flatten() {
            lane.clear();
        }
        state.settings = settings;
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

    /// How long what is due from `walked` on may wait for more: not at all once it is much.
    pub fn may_wait(&self, walked: u64) -> Duration {
        let state = self.state.lock();
        let delay = state.settings.max_delay;
        if delay.is_zero() {
            return delay;
        }
        let due = walked.max(state.ring.first())..state.ring.next();
        if due.end.saturating_sub(due.start) >= state.settings.comfortable().min(BATCH_FRAMES as u64) {
            return Duration::ZERO;
        }
        let much = usize::try_from(state.settings.replay.bytes / 4).unwrap_or(usize::MAX).min(BATCH_BYTES);
        let bytes: usize = due.filter_map(|seq| state.ring.entry(seq)).map(Entry::size).sum();
        if bytes >= much { Duration::ZERO } else { delay }
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
