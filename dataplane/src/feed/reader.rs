//! The reader of a feed: started by its first client, stopped a while after its last.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::feed::Feed;
use crate::server::{Reading, Source};

/// How long a feed keeps reading after its last client left.
pub const LINGER: Duration = Duration::from_secs(60);
/// How long a partition that does not answer may hold up the window of the others.
const FILL_PATIENCE: Duration = Duration::from_secs(5);

/// What is read, and for how many.
pub struct Reader {
    source: Source,
    reading: Option<Reading>,
    users: usize,
    idle_since: Option<Instant>,
    stopped: bool,
}

impl Reader {
    /// Nobody needs it yet.
    pub fn new(source: Source) -> Self {
        Self { source, reading: None, users: 0, idle_since: None, stopped: false }
    }
}

impl Feed {
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
}
