//! What the engine's tests, the guard and the bench stand on: a shard, and a channel whose address
//! they write themselves.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::channel::{Channel, State};
use crate::config::CursorKey;
use crate::cursor::{Cursor, Cursors};
use crate::encode::Encoder;
pub use crate::encode::Lane;
use crate::engine::Attachment;
pub use crate::engine::Stream;
use crate::engine::mailbox::{Command, Mailbox};
use crate::engine::shard::Shard;
pub use crate::feed::Selector;
use crate::feed::{Feed, Settings, Start, wall_clock};
use crate::message::{Incarnation, Record};
use crate::policy::{Policy, Principal};
use crate::server::{Inlet, Opening, Sink, Source, memory};
use crate::telemetry::Metrics;
use crate::tenant::{Commons, Tenant};

#[cfg(test)]
mod peer;

#[cfg(test)]
pub use peer::{Peer, Seen};

/// Partitions of the address.
pub const PARTITIONS: usize = 3;

/// A place in every partition: the next position.
pub type Positions = [i64; PARTITIONS];

/// A shard and a channel, whose address has several partitions.
pub struct Bed {
    mailbox: Arc<Mailbox>,
    /// How many clients the shard has.
    pub open: watch::Sender<usize>,
    commons: Arc<Commons>,
    /// The channel.
    pub channel: Arc<Channel>,
    /// What its clients read.
    pub feed: Arc<Feed>,
    /// What its clients read from.
    pub inlet: Inlet,
    cursors: Cursors,
    incarnation: Incarnation,
    /// How many numbers were published: the next one.
    pub published: u64,
    heads: Positions,
}

impl Bed {
    /// A bed whose shard runs; its window is `window` messages.
    pub fn new(window: u32, slow_consumer: &str) -> Self {
        let (bed, shard) = Self::with_shard(window, slow_consumer);
        tokio::spawn(tokio::task::unconstrained(shard.run()));
        bed
    }

    /// A bed, and its shard to run by hand.
    pub fn with_shard(window: u32, slow_consumer: &str) -> (Self, Shard) {
        let mailbox = Arc::new(Mailbox::default());
        let open = watch::Sender::new(0);
        let shard = Shard::new(mailbox.clone(), Handle::current(), open.clone());
        let commons = Commons::new(1 << 30, 1 << 30);
        (Self::of("a", (window, slow_consumer), mailbox, open, commons), shard)
    }

    /// The bed of another API on the same shard.
    pub fn neighbour(&self, api: &str, window: u32) -> Self {
        Self::of(api, (window, "disconnect"), self.mailbox.clone(), self.open.clone(), self.commons.clone())
    }

    fn of(
        api: &str,
        (window, slow_consumer): (u32, &str),
        mailbox: Arc<Mailbox>,
        open: watch::Sender<usize>,
        commons: Arc<Commons>,
    ) -> Self {
        let spec: sluice_config::Channel = serde_json::from_value(serde_json::json!({
            "name": "c", "server": "s", "address": "a",
            "subscribe": {
                "transports": {"websocket": {}, "sse": {}},
                "replay": {"messages": window},
                "slowConsumer": slow_consumer,
            },
            "publish": {"transports": {"websocket": {}}},
        }))
        .expect("a channel");
        let all = Metrics::new();
        let metrics = all.channel("n", api, "c");
        let tenant = Tenant::new(&format!("n/{api}"), &commons, all.engine_seconds("n", api));
        let cursors = Cursors::new("n", api, "c", &[CursorKey([7; 32])]);
        let encoder = Encoder {
            source: "/n/a/c".into(),
            event_type: "t".into(),
            content_type: "text/plain".into(),
            cursor: Default::default(),
        };
        let settings = Settings {
            encoder: encoder.clone(),
            cursors: cursors.clone(),
            replay: spec.subscribe.as_ref().expect("set above").replay.clone(),
            max_delay: spec.subscribe.as_ref().expect("set above").flush.max_delay.0,
            max_message_bytes: 1 << 20,
            tracing: Default::default(),
        };
        let log = memory::Log::new("a");
        let feed = Feed::new(settings, Source::Memory(log.clone()), tenant.rings.clone(), metrics.clone());
        let state = State {
            spec,
            lifecycle: Default::default(),
            policy: Policy::default(),
            cursors: cursors.clone(),
            encoder,
            schema: None,
            feed: Some(feed.clone()),
            sink: Some(Sink::Memory(log.clone())),
            tracing: Default::default(),
            removed: false,
        };
        let channel = Channel::new(&tenant, "c", metrics, state);
        let (inlet, incarnation) = (Inlet(feed.clone(), 1), Incarnation::new("a", b"1"));
        let (starts, ends) = (vec![0; PARTITIONS], vec![0; PARTITIONS]);
        inlet.open(Opening { incarnation: incarnation.clone(), starts, ends });
        let (published, heads) = (0, [0; PARTITIONS]);
        Self { mailbox, open, commons, channel, feed, inlet, cursors, incarnation, published, heads }
    }

    /// Publishes the next number, and `size` bytes more, and tells its partition.
    pub fn publish(&mut self, size: usize) -> usize {
        let mut text = format!("{} ", self.published);
        text.push_str(&"x".repeat(size));
        self.put(None, text.into())
    }

    /// Publishes a payload, and tells its partition.
    pub fn put(&mut self, key: Option<Bytes>, payload: Bytes) -> usize {
        // Neighbours are in partitions that seem to be of chance, and are the same ones every time.
        let partition = (self.published.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % PARTITIONS;
        let record = Record {
            partition: partition as u32,
            offset: self.heads[partition],
            timestamp: Some(wall_clock()),
            key,
            headers: Vec::new(),
            payload: Some(payload),
        };
        self.published += 1;
        self.heads[partition] += 1;
        self.inlet.push_now(&mut vec![record]);
        partition
    }

    /// The cursor of `positions`.
    pub fn cursor(&self, positions: &Positions) -> String {
        self.cursors.encode(&self.incarnation, positions).expect("few partitions")
    }

    /// What a cursor says.
    pub fn positions(&self, cursor: &str) -> Positions {
        let Ok(Cursor::At { positions, .. }) = self.cursors.decode(cursor) else {
            panic!("a strange cursor")
        };
        positions.try_into().expect("every partition")
    }

    /// Changes the channel as a reload does.
    pub fn reload(&self, change: impl FnOnce(&mut State)) {
        let mut state = State::clone(&self.channel.state());
        change(&mut state);
        let subscribe = state.spec.subscribe.as_ref().expect("set above");
        state.encoder.cursor = subscribe.cursor;
        self.feed.configure(Settings {
            encoder: state.encoder.clone(),
            cursors: self.cursors.clone(),
            replay: subscribe.replay.clone(),
            max_delay: subscribe.flush.max_delay.0,
            max_message_bytes: state.policy.limits.max_message_bytes(),
            tracing: Default::default(),
        });
        self.channel.change(state);
        self.mailbox.send(Command::Recheck);
    }

    /// Hands a client on `stream` to the shard.
    pub async fn attach(
        &self,
        lane: Lane,
        cursor: Option<String>,
        selector: Option<Selector>,
        stream: Stream,
        head: &'static str,
    ) {
        let start = match cursor.as_deref().map(|cursor| self.cursors.decode(cursor).expect("genuine")) {
            Some(Cursor::At { incarnation, positions }) => Start::At { incarnation, positions },
            Some(Cursor::Unknown) => Start::Unknown,
            None => self.feed.end(Duration::from_secs(1)).await.expect("it is open"),
        };
        self.feed.acquire();
        self.open.send_modify(|open| *open += 1);
        self.mailbox.send(Command::Attach(Box::new(Attachment {
            stream,
            head: Bytes::from_static(head.as_bytes()),
            received: Bytes::new(),
            channel: self.channel.clone(),
            principal: Principal::default(),
            name: "peer".into(),
            connection: self.channel.connect(u32::MAX).expect("no limit"),
            version: self.channel.version(),
            lane,
            reading: Some((self.feed.clone(), start)),
            selector,
            origin: None,
            cursor,
            interval: Duration::from_secs(20),
        })));
    }

    /// Lets the shard do all it can.
    pub async fn settle(&self) {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    /// Messages due, written, and left out or dropped.
    pub fn books(&self) -> (u64, u64, u64) {
        let mut sums = (0, 0, 0);
        for metrics in [&self.channel.metrics.websocket, &self.channel.metrics.sse] {
            sums.0 += metrics.due.get();
            sums.1 += metrics.written.get();
            sums.2 += metrics.filtered.get() + metrics.dropped_slow.get();
            sums.2 += metrics.dropped_closed.get() + metrics.dropped_gap.get();
        }
        sums
    }
}
