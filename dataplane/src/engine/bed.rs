//! What the engine's tests and the guard stand on: a shard, a channel on a log in memory, and the
//! other ends of clients' streams.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use sluice_config::channel::{CursorPlacement, Replay};
use sluice_config::policy::Limits;
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::channel::{Channel, State};
use crate::config::CursorKey;
use crate::cursor::{Cursor, Cursors};
use crate::encode::{Encoder, Lane};
use crate::engine::mailbox::{Command, Mailbox};
use crate::engine::shard::Shard;
use crate::engine::{Attachment, Io, Stream};
use crate::feed::ring::Budget;
use crate::feed::{Feed, Settings, Start, wall_clock};
use crate::message::{Incarnation, Record};
use crate::policy::{Policy, Principal};
use crate::server::{Inlet, Opening, Sink, Source, memory};
use crate::telemetry::Metrics;
use crate::transport::websocket::frame::{self, Opcode};

/// Partitions of the address.
pub const PARTITIONS: usize = 3;

/// A place in every partition: the next position.
pub type Positions = [i64; PARTITIONS];

/// A shard and a channel, whose address has several partitions.
pub struct Bed {
    mailbox: Arc<Mailbox>,
    /// How many clients the shard has.
    pub open: watch::Sender<usize>,
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
        let metrics = Metrics::new().channel("n", "a", "c");
        let cursors = Cursors::new("n", "a", "c", &[CursorKey([7; 32])]);
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
        let budget = Arc::new(Budget::new(1 << 30));
        let feed = Feed::new(settings, Source::Memory(log.clone()), budget, metrics.clone());
        let state = State {
            spec,
            lifecycle: Default::default(),
            policy: Policy::default(),
            cursors: cursors.clone(),
            encoder,
            feed: Some(feed.clone()),
            sink: Some(Sink::Memory(log.clone())),
            tracing: Default::default(),
            removed: false,
        };
        let channel = Channel::new("n/a", "c", metrics, state);
        let mailbox = Arc::new(Mailbox::default());
        let open = watch::Sender::new(0);
        let shard = Shard::new(mailbox.clone(), Handle::current(), open.clone());
        let (inlet, incarnation) = (Inlet(feed.clone(), 1), Incarnation::new("a", b"1"));
        let (starts, ends) = (vec![0; PARTITIONS], vec![0; PARTITIONS]);
        inlet.open(Opening { incarnation: incarnation.clone(), starts, ends });
        let (published, heads) = (0, [0; PARTITIONS]);
        (Self { mailbox, open, channel, feed, inlet, cursors, incarnation, published, heads }, shard)
    }

    /// Publishes the next number, and `size` bytes more, and tells its partition.
    pub fn publish(&mut self, size: usize) -> usize {
        let mut text = format!("{} ", self.published);
        text.push_str(&"x".repeat(size));
        // Neighbours are in partitions that seem to be of chance, and are the same ones every time.
        let partition = (self.published.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % PARTITIONS;
        let record = Record {
            partition: partition as u32,
            offset: self.heads[partition],
            timestamp: Some(wall_clock()),
            key: None,
            headers: Vec::new(),
            payload: Some(text.into()),
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
    pub fn reload(&self, replay: Replay, cursor: CursorPlacement, limits: Limits) {
        let mut state = State::clone(&self.channel.state());
        let subscribe = state.spec.subscribe.as_mut().expect("set above");
        (subscribe.replay, subscribe.cursor) = (replay.clone(), cursor);
        state.encoder.cursor = cursor;
        self.feed.configure(Settings {
            encoder: state.encoder.clone(),
            cursors: self.cursors.clone(),
            replay,
            max_message_bytes: limits.max_message_bytes(),
            tracing: Default::default(),
        });
        state.policy.limits = limits;
        self.channel.change(state);
        self.mailbox.send(Command::Recheck);
    }

    /// A client whose socket holds `pipe` bytes.
    pub async fn join(&self, lane: Lane, cursor: Option<String>, pipe: usize) -> Peer {
        let (ours, theirs) = tokio::io::duplex(pipe);
        self.attach(lane, cursor, Box::new(ours)).await;
        Peer { stream: theirs, lane, bytes: Vec::new(), events: Vec::new(), ended: false }
    }

    /// Hands a client on `stream` to the shard.
    pub async fn attach(&self, lane: Lane, cursor: Option<String>, stream: Box<dyn Io>) {
        let start = match cursor.as_deref().map(|cursor| self.cursors.decode(cursor).expect("genuine")) {
            Some(Cursor::At { incarnation, positions }) => Start::At { incarnation, positions },
            Some(Cursor::Unknown) => Start::Unknown,
            None => self.feed.end(Duration::from_secs(1)).await.expect("it is open"),
        };
        self.feed.acquire();
        self.open.send_modify(|open| *open += 1);
        self.mailbox.send(Command::Attach(Box::new(Attachment {
            stream: Stream::Other(stream),
            head: Bytes::new(),
            received: Bytes::new(),
            channel: self.channel.clone(),
            principal: Principal::default(),
            name: "peer".into(),
            connection: self.channel.connect(u32::MAX).expect("no limit"),
            version: self.channel.version(),
            lane,
            reading: Some((self.feed.clone(), start)),
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

    /// Messages due, written and dropped.
    pub fn books(&self) -> (u64, u64, u64) {
        let mut sums = (0, 0, 0);
        for metrics in [&self.channel.metrics.websocket, &self.channel.metrics.sse] {
            sums.0 += metrics.due.get();
            sums.1 += metrics.written.get();
            sums.2 += metrics.dropped_slow.get() + metrics.dropped_closed.get() + metrics.dropped_gap.get();
        }
        sums
    }
}

/// What a client saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A message with this number, and its cursor.
    Message(u64, Option<String>),
    /// A gap was told: why, and the cursor behind it.
    Gap(String, String),
    /// A WebSocket's greeting.
    Ready,
    /// A cursor without a message.
    Position(String),
    /// A ping.
    Ping,
    /// A WebSocket's end.
    Close(u16),
    /// An event stream's end.
    Goodbye(String),
}

/// The other end of a client's stream.
pub struct Peer {
    /// Its socket.
    pub stream: DuplexStream,
    /// What it is written.
    pub lane: Lane,
    bytes: Vec<u8>,
    /// What it saw, in order.
    pub events: Vec<Seen>,
    /// Its stream came to an end.
    pub ended: bool,
}

impl Peer {
    /// Reads at most `most` bytes of what is there.
    pub async fn read(&mut self, most: usize) -> usize {
        let mut buffer = vec![0; most];
        let read = tokio::select! {
            biased;
            read = self.stream.read(&mut buffer) => read.unwrap_or(0),
            () = tokio::task::yield_now() => return 0,
        };
        self.ended |= read == 0;
        self.bytes.extend_from_slice(&buffer[..read]);
        if self.lane.is_websocket() {
            self.parse_frames()
        } else {
            self.parse_events()
        }
        read
    }

    /// Reads until nothing more comes.
    pub async fn read_all(&mut self, bed: &Bed) {
        let mut idle = 0;
        while idle < 3 && !self.ended {
            bed.settle().await;
            idle = if self.read(1 << 16).await == 0 { idle + 1 } else { 0 };
        }
    }

    fn parse_frames(&mut self) {
        loop {
            let (start, length) = match self.bytes.get(1).map(|byte| byte & 0x7f) {
                Some(126) if self.bytes.len() >= 4 => {
                    (4, usize::from(u16::from_be_bytes([self.bytes[2], self.bytes[3]])))
                }
                Some(length) if length < 126 => (2, usize::from(length)),
                _ => return,
            };
            if self.bytes.len() < start + length {
                return;
            }
            let whole: Vec<u8> = self.bytes.drain(..start + length).collect();
            let (opcode, payload) = frame::tests::split(&whole);
            match opcode {
                Opcode::Ping => self.events.push(Seen::Ping),
                Opcode::Close => self.events.push(Seen::Close(u16::from_be_bytes([payload[0], payload[1]]))),
                _ if self.lane == Lane::WsRaw => self.events.push(Seen::Message(number(&payload), None)),
                _ => self.see_frame(&serde_json::from_slice(&payload).expect("JSON")),
            }
        }
    }

    fn see_frame(&mut self, frame: &Value) {
        let cursor = frame["cursor"].as_str().map(str::to_owned);
        match frame["type"].as_str().expect("typed") {
            "message" => self.events.push(Seen::Message(number(text(&frame["data"]).as_bytes()), cursor)),
            "gap" => self.events.push(gap(frame)),
            "ready" => {
                self.events.push(Seen::Ready);
                self.events.extend(cursor.map(Seen::Position));
            }
            "cursor" => self.events.extend(cursor.map(Seen::Position)),
            "error" | "drain" => {}
            other => panic!("unexpected {other}"),
        }
    }

    fn parse_events(&mut self) {
        while let Some(end) = self.bytes.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = self.bytes.drain(..end + 2).collect();
            let block = String::from_utf8(block).expect("UTF-8");
            let field = |name: &str| {
                let line = block.lines().find_map(|line| line.strip_prefix(name));
                line.map(|value| value.trim_start_matches(": ").to_owned())
            };
            let (id, data, event) = (field("id"), field("data"), field("event"));
            let json = |data: &str| -> Value { serde_json::from_str(data).expect("JSON") };
            match (event.as_deref(), id, data) {
                (Some("gap"), _, Some(data)) => self.events.push(gap(&json(&data))),
                (None, id, Some(data)) if self.lane == Lane::SseRaw => {
                    self.events.push(Seen::Message(number(data.as_bytes()), id));
                }
                (None, id, Some(data)) => {
                    self.events.push(Seen::Message(number(text(&json(&data)["data"]).as_bytes()), id));
                }
                (None, Some(id), None) => self.events.push(Seen::Position(id)),
                (Some("throttled" | "drain" | "problem"), id, Some(data)) => {
                    self.events.extend(id.map(Seen::Position));
                    self.events.push(Seen::Goodbye(text(&json(&data)["code"]).to_owned()));
                }
                other => panic!("unexpected {other:?} in {block:?}"),
            }
        }
    }

    /// The numbers it saw.
    pub fn numbers(&self) -> Vec<u64> {
        let number = |seen: &Seen| if let Seen::Message(number, _) = seen { Some(*number) } else { None };
        self.events.iter().filter_map(number).collect()
    }

    /// Where it stands, as far as it was told.
    pub fn last_cursor(&self) -> Option<String> {
        self.events.iter().rev().find_map(|seen| match seen {
            Seen::Message(_, cursor) => cursor.clone(),
            Seen::Position(cursor) => Some(cursor.clone()),
            _ => None,
        })
    }

    /// Numbers go up by one, except where a gap was told.
    pub fn check_order(&self, seed: u64) {
        let (mut last, mut gap) = (None, false);
        for seen in &self.events {
            match seen {
                Seen::Message(number, _) => {
                    if let Some(last) = last {
                        let follows = *number == last + 1 || (gap && *number > last);
                        assert!(follows, "seed {seed}: {number} after {last} on {:?}", self.lane);
                    }
                    (last, gap) = (Some(*number), false);
                }
                Seen::Gap(..) => gap = true,
                _ => {}
            }
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

fn gap(fields: &Value) -> Seen {
    Seen::Gap(text(&fields["reason"]).to_owned(), text(&fields["to"]).to_owned())
}

fn number(payload: &[u8]) -> u64 {
    let text = std::str::from_utf8(payload).expect("text");
    text.split(' ').next().expect("a number").parse().expect("a number")
}
