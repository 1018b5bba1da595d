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
use crate::feed::budget::Share;
use crate::feed::fill::Fill;
use crate::feed::lane::LaneState;
use crate::feed::reader::Reader;
use crate::feed::ring::{Body, Bounds, Entry, GapReason, Ring};
use crate::feed::selection::{Seen, Selections};
use crate::message::Position;
use crate::server::Source;
use crate::telemetry::ChannelMetrics;
use crate::telemetry::trace::ChannelTracing;

pub mod budget;
mod fill;
mod intake;
mod lane;
mod reader;
pub mod ring;
mod selection;

pub(crate) use intake::Wait;
pub use lane::Batch;
pub use selection::{Selector, View};

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
    /// Number of the first entry to look at, in its view.
    pub number: u64,
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
    selections: Selections,
    fill: Option<(Fill, Instant)>,
    lanes: [Option<LaneState>; Lane::COUNT],
    settings: Settings,
}

impl State {
    /// The ring as it is seen in `view`.
    fn seen(&mut self, view: View) -> Seen<'_> {
        self.selections.seen(view, &self.ring)
    }
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
        share: Arc<Share>,
        metrics: Arc<ChannelMetrics>,
    ) -> Arc<Self> {
        let state = State {
            generation: 0,
            ring: Ring::new(settings.bounds(), share),
            selections: Selections::default(),
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
    pub fn place(&self, view: View, start: &Start) -> Option<Placed> {
        let mut state = self.state.lock();
        let known = state.ring.incarnation()?.digest();
        if state.fill.is_some() {
            return None;
        }
        let seen = state.seen(view);
        Some(match start {
            Start::At { incarnation, positions } if *incarnation == known => {
                let place = seen.ring().place(positions);
                let number = seen.number(place.seq);
                Placed { seq: place.seq, number, skip: place.skip, gap: place.gap, beyond: place.beyond }
            }
            Start::At { .. } => {
                let gap = Some(GapReason::Recreated);
                Placed { seq: seen.ring().first(), number: seen.first(), skip: None, gap, beyond: false }
            }
            Start::Unknown => {
                let gap = Some(GapReason::UnknownCursor);
                Placed { seq: seen.ring().next(), number: seen.next(), skip: None, gap, beyond: false }
            }
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

    /// Numbers of the oldest entry in `view` and of the next to come.
    pub fn range(&self, view: View) -> (u64, u64) {
        let mut state = self.state.lock();
        let seen = state.seen(view);
        (seen.first(), seen.next())
    }

    /// Calls `told` with the range of each of `views`, in order, and tells the ring's own next number.
    pub fn ranges(&self, views: impl Iterator<Item = View>, mut told: impl FnMut((u64, u64))) -> u64 {
        let mut state = self.state.lock();
        for view in views {
            let seen = state.seen(view);
            told((seen.first(), seen.next()));
        }
        state.ring.next()
    }

    /// Whether a client at `number` is past `skip` in every partition.
    pub fn is_past(&self, view: View, number: u64, skip: &[i64]) -> bool {
        let mut state = self.state.lock();
        let seq = state.seen(view).seq(number);
        let there = state.ring.positions_at(seq);
        skip.iter().enumerate().all(|(partition, wanted)| there.get(partition).is_some_and(|at| at >= wanted))
    }

    /// How many entries from `number` on are due to a client that skips what lies below `skip`.
    pub fn unread(&self, view: View, number: u64, skip: Option<&[i64]>) -> u64 {
        let mut state = self.state.lock();
        let seen = state.seen(view);
        let held = number.max(seen.first())..seen.next();
        let Some(skip) = skip else { return held.end.saturating_sub(held.start) };
        let due = |number: &u64| {
            let entry = seen.entry(*number);
            entry.is_some_and(|(_, e)| skip.get(e.partition as usize).is_none_or(|wanted| e.next > *wanted))
        };
        held.filter(due).count() as u64
    }

    /// Why a client at `number` is off the ring.
    pub fn lost(&self, view: View, number: u64) -> Option<GapReason> {
        self.state.lock().seen(view).lost(number)
    }

    /// The cursor of a client at `number` that skips what lies below `skip`. A client that is off
    /// the ring has none: one made now would hide what it lost.
    pub fn cursor_at(&self, view: View, number: u64, skip: Option<&[i64]>) -> Option<String> {
        let mut state = self.state.lock();
        let seen = state.seen(view);
        if seen.lost(number).is_some() {
            return None;
        }
        let seq = seen.seq(number);
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

    /// A client of `lane` came that gets what `selector` says; without one, everything.
    pub fn enter(&self, lane: Lane, selector: Option<&Selector>) -> View {
        let mut state = self.state.lock();
        let State { lanes, selections, ring, .. } = &mut *state;
        lanes[lane.index()].get_or_insert_with(LaneState::new).users += 1;
        selector.map_or(View::ALL, |selector| selections.enter(selector, ring))
    }

    /// A client of `lane` went; the last one takes the encodings along.
    pub fn leave(&self, lane: Lane, view: View) {
        let mut state = self.state.lock();
        state.selections.leave(view);
        let slot = &mut state.lanes[lane.index()];
        if let Some(encodings) = slot {
            encodings.users -= 1;
            if encodings.users == 0 {
                *slot = None;
            }
        }
    }

    /// Collects what is due from the number `from` on into `batch`.
    pub fn collect(&self, lane: Lane, view: View, from: u64, skip: Option<&[i64]>, batch: &mut Batch) {
        batch.clear(from);
        let mut state = self.state.lock();
        let State { ring, selections, lanes, settings, .. } = &mut *state;
        let Some(incarnation) = ring.incarnation() else { return };
        let seen = selections.seen(view, ring);
        let encodings = lanes[lane.index()].get_or_insert_with(LaneState::new);
        let mut number = from;
        while let Some((seq, entry)) = seen.entry(number) {
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
                batch.push(number, entry, bytes);
            }
            number += 1;
            if batch.frames.len() >= BATCH_FRAMES || batch.data.len() >= BATCH_BYTES {
                break;
            }
        }
        batch.to = number;
        if settings.encoder.cursor == CursorPlacement::PerWrite && !batch.frames.is_empty() {
            batch.tail = settings
                .cursors
                .encode(incarnation, &ring.positions_at(seen.seq(number)))
                .and_then(|cursor| settings.encoder.cursor(lane, &cursor));
            batch.data.extend_from_slice(batch.tail.as_deref().unwrap_or_default());
        }
    }
}
