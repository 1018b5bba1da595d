//! The engine against a naive reference: many clients, random stalls, joins, leaves, resumes and
//! ring wraps, on a paused clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::channel::{Channel, State};
use crate::config::CursorKey;
use crate::cursor::{Cursor, Cursors};
use crate::encode::{Encoder, Lane};
use crate::engine::mailbox::{Command, Mailbox};
use crate::engine::shard::Shard;
use crate::engine::{Attachment, Stream};
use crate::feed::ring::Budget;
use crate::feed::{Feed, Settings, Start};
use crate::message::Outgoing;
use crate::policy::{Policy, Principal};
use crate::respond::Refusal;
use crate::server::{Source, memory};
use crate::telemetry::Metrics;
use crate::transport::websocket::frame::{self, Opcode};

/// A shard, a channel on a log in memory, and what was published.
struct Bed {
    mailbox: Arc<Mailbox>,
    open: watch::Sender<usize>,
    channel: Arc<Channel>,
    feed: Arc<Feed>,
    log: Arc<memory::Log>,
    cursors: Cursors,
    published: u64,
}

impl Bed {
    fn new(window: u32, slow_consumer: &str) -> Self {
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
            sink: Some(crate::server::Sink::Memory(log.clone())),
            tracing: Default::default(),
            removed: false,
        };
        let channel = Channel::new("n/a", "c", metrics, state);
        let mailbox = Arc::new(Mailbox::default());
        let open = watch::Sender::new(0);
        let shard = Shard::new(mailbox.clone(), Handle::current(), open.clone());
        tokio::spawn(tokio::task::unconstrained(shard.run()));
        Self { mailbox, open, channel, feed, log, cursors, published: 0 }
    }

    fn publish(&mut self, size: usize) {
        let mut text = format!("{} ", self.published);
        text.push_str(&"x".repeat(size));
        self.published += 1;
        self.log.publish(Outgoing { payload: Some(text.into()), ..Outgoing::default() });
    }

    async fn join(&self, lane: Lane, cursor: Option<String>, pipe: usize) -> Peer {
        let (ours, theirs) = tokio::io::duplex(pipe);
        let start = match cursor.as_deref().map(|cursor| self.cursors.decode(cursor).expect("genuine")) {
            Some(Cursor::At { incarnation, positions }) => Start::At { incarnation, positions },
            Some(Cursor::Unknown) => Start::Unknown,
            None => self.feed.end(Duration::from_secs(1)).await.expect("a log in memory is open"),
        };
        self.feed.acquire();
        self.open.send_modify(|open| *open += 1);
        self.mailbox.send(Command::Attach(Box::new(Attachment {
            stream: Stream::Other(Box::new(ours)),
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
        Peer { stream: theirs, lane, bytes: Vec::new(), events: Vec::new(), ended: false }
    }

    /// Lets the shard do all it can.
    async fn settle(&self) {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    fn books(&self) -> (u64, u64, u64) {
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
enum Seen {
    Message(u64, Option<String>),
    Gap(String),
    Ready,
    Position(String),
    Ping,
    Close(u16),
}

/// The other end of a client's stream.
struct Peer {
    stream: DuplexStream,
    lane: Lane,
    bytes: Vec<u8>,
    events: Vec<Seen>,
    ended: bool,
}

impl Peer {
    /// Reads at most `most` bytes of what is there.
    async fn read(&mut self, most: usize) -> usize {
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

    async fn read_all(&mut self, bed: &Bed) {
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
            self.events.push(match opcode {
                Opcode::Ping => Seen::Ping,
                Opcode::Close => Seen::Close(u16::from_be_bytes([payload[0], payload[1]])),
                _ if self.lane == Lane::WsRaw => Seen::Message(number(&payload), None),
                _ => {
                    let frame: serde_json::Value = serde_json::from_slice(&payload).expect("JSON");
                    let cursor = frame["cursor"].as_str().map(str::to_owned);
                    match frame["type"].as_str().expect("typed") {
                        "message" => {
                            Seen::Message(number(frame["data"].as_str().expect("text").as_bytes()), cursor)
                        }
                        "gap" => Seen::Gap(frame["reason"].as_str().expect("a reason").to_owned()),
                        "ready" => Seen::Ready,
                        "error" | "drain" => continue,
                        other => panic!("unexpected {other}"),
                    }
                }
            });
        }
    }

    fn parse_events(&mut self) {
        while let Some(end) = self.bytes.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = self.bytes.drain(..end + 2).collect();
            let text = String::from_utf8(block).expect("UTF-8");
            let field = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name));
                line.map(|value| value.trim_start_matches(": ").to_owned())
            };
            let (id, data, event) = (field("id"), field("data"), field("event"));
            self.events.push(match (event.as_deref(), id, data) {
                (Some("gap"), _, Some(data)) => Seen::Gap(data),
                (None, id, Some(data)) => Seen::Message(number(data.as_bytes()), id),
                (None, Some(id), None) => Seen::Position(id),
                (Some("throttled" | "drain" | "problem"), Some(id), _) => Seen::Position(id),
                (Some("throttled" | "drain" | "problem"), ..) => continue,
                other => panic!("unexpected {other:?} in {text:?}"),
            });
        }
    }

    fn numbers(&self) -> Vec<u64> {
        let number = |seen: &Seen| if let Seen::Message(number, _) = seen { Some(*number) } else { None };
        self.events.iter().filter_map(number).collect()
    }

    fn last_cursor(&self) -> Option<String> {
        self.events.iter().rev().find_map(|seen| match seen {
            Seen::Message(_, cursor) => cursor.clone(),
            Seen::Position(cursor) => Some(cursor.clone()),
            _ => None,
        })
    }

    /// Numbers go up by one, except where a gap was told.
    fn check_order(&self, seed: u64) {
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
                Seen::Gap(_) => gap = true,
                _ => {}
            }
        }
    }
}

fn number(payload: &[u8]) -> u64 {
    let text = std::str::from_utf8(payload).expect("text");
    text.split(' ').next().expect("a number").parse().expect("a number")
}

const LANES: [Lane; 4] = [Lane::WsRaw, Lane::WsJson, Lane::SseRaw, Lane::SseCloudEvents];

async fn model(seed: u64, slow_consumer: &str) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bed = Bed::new(64, slow_consumer);
    let lanes = &LANES[..3];
    let mut peers: HashMap<u64, (Peer, bool)> = HashMap::new();
    let mut finished = Vec::new();
    for step in 0..600 {
        match random.u8(..10) {
            0 | 1 => {
                let lane = lanes[random.usize(..lanes.len())];
                let quick = random.bool();
                let pipe = if quick { 1 << 20 } else { random.usize(10..2000) };
                peers.insert(step, (bed.join(lane, None, pipe).await, quick));
                bed.settle().await;
            }
            2 if !peers.is_empty() => {
                let keys: Vec<u64> = peers.keys().copied().collect();
                let (mut peer, quick) = peers.remove(&keys[random.usize(..keys.len())]).expect("present");
                peer.read_all(&bed).await;
                let cursor = peer.last_cursor();
                let (expected, lane) = (peer.numbers().last().map(|last| last + 1), peer.lane);
                drop(peer.stream);
                bed.settle().await;
                if let (true, Some(cursor), false) = (quick, cursor, peer.ended) {
                    let mut again = bed.join(lane, Some(cursor), 1 << 20).await;
                    bed.publish(5);
                    again.read_all(&bed).await;
                    if let Some(expected) = expected {
                        assert_eq!(
                            again.numbers().first(),
                            Some(&expected),
                            "seed {seed}: resumed elsewhere"
                        );
                    }
                    peers.insert(step, (again, true));
                }
            }
            3..=6 => {
                for _ in 0..random.usize(1..8) {
                    bed.publish(random.usize(0..200));
                }
                bed.settle().await;
            }
            _ => {
                for (peer, quick) in peers.values_mut() {
                    if *quick || random.u8(..4) == 0 {
                        let most = if *quick { 1 << 20 } else { random.usize(1..300) };
                        peer.read(most).await;
                    }
                }
                bed.settle().await;
            }
        }
    }
    for (_, (mut peer, quick)) in peers {
        peer.read_all(&bed).await;
        peer.check_order(seed);
        if quick {
            assert_eq!(
                peer.numbers().last().copied(),
                bed.published.checked_sub(1).filter(|_| !peer.numbers().is_empty()),
                "seed {seed}"
            );
            assert!(
                !peer.events.iter().any(|seen| matches!(seen, Seen::Gap(_) | Seen::Close(_))),
                "seed {seed}: a quick client lost messages"
            );
        }
        finished.push(peer);
    }
    drop(finished);
    for _ in 0..200 {
        bed.settle().await;
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    assert_eq!(*bed.open.borrow(), 0, "seed {seed}: a client was left behind");
    let (due, written, dropped) = bed.books();
    assert_eq!(due, written + dropped, "seed {seed}: the books do not balance");
    assert!(written > 100, "seed {seed}: the test did something");
}

#[tokio::test(start_paused = true)]
async fn every_client_gets_every_message_in_order_or_is_told() {
    for seed in 0..10 {
        model(seed, "disconnect").await;
        model(seed, "dropOldest").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_is_closed_as_slow_and_others_go_on() {
    let mut bed = Bed::new(64, "disconnect");
    let mut slow = bed.join(Lane::WsJson, None, 64).await;
    let mut quick = bed.join(Lane::WsJson, None, 1 << 20).await;
    for _ in 0..40 {
        for _ in 0..8 {
            bed.publish(100);
        }
        bed.settle().await;
    }
    quick.read_all(&bed).await;
    assert_eq!(quick.numbers(), (0..320).collect::<Vec<_>>());
    slow.read_all(&bed).await;
    slow.check_order(0);
    assert!(slow.events.contains(&Seen::Close(Refusal::Slow.close_code())), "{:?}", slow.events.last());
}

#[tokio::test(start_paused = true)]
async fn under_drop_oldest_a_gap_is_told_and_raw_clients_are_closed() {
    let mut bed = Bed::new(64, "dropOldest");
    let mut told = bed.join(Lane::WsJson, None, 64).await;
    let mut raw = bed.join(Lane::WsRaw, None, 64).await;
    for _ in 0..40 {
        for _ in 0..8 {
            bed.publish(100);
        }
        bed.settle().await;
    }
    told.read_all(&bed).await;
    told.check_order(0);
    assert!(told.events.contains(&Seen::Gap("slow".into())));
    assert_eq!(told.numbers().last(), Some(&319));
    raw.read_all(&bed).await;
    assert!(raw.events.contains(&Seen::Close(4409)), "{:?}", raw.events.last());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_is_let_go_without_its_help() {
    for slow_consumer in ["disconnect", "dropOldest"] {
        let mut bed = Bed::new(64, slow_consumer);
        let stuck = bed.join(Lane::WsJson, None, 64).await;
        for _ in 0..40 {
            for _ in 0..8 {
                bed.publish(100);
            }
            bed.settle().await;
        }
        for _ in 0..900 {
            tokio::time::advance(Duration::from_millis(100)).await;
            bed.settle().await;
        }
        assert_eq!(*bed.open.borrow(), 0, "{slow_consumer}");
        let (due, written, dropped) = bed.books();
        assert_eq!(due, written + dropped, "{slow_consumer}");
        drop(stuck);
    }
}

/// W20: ten idle minutes.
#[tokio::test(start_paused = true)]
async fn idle_streams_show_signs_of_life_and_stay_open() {
    let bed = Bed::new(64, "disconnect");
    let mut events = bed.join(Lane::SseRaw, None, 1 << 20).await;
    let mut socket = bed.join(Lane::WsJson, None, 1 << 20).await;
    for _ in 0..10 * 60 * 10 {
        tokio::time::advance(Duration::from_millis(100)).await;
        bed.settle().await;
        let before = socket.events.len();
        socket.read(1 << 16).await;
        if socket.events[before..].contains(&Seen::Ping) {
            // A pong, masked with zeros.
            socket.stream.write_all(&[0x8a, 0x80, 0, 0, 0, 0]).await.expect("open");
        }
        events.read(1 << 16).await;
    }
    assert!(!events.ended && !socket.ended);
    let positions = events.events.iter().filter(|seen| matches!(seen, Seen::Position(_))).count();
    let pings = socket.events.iter().filter(|seen| **seen == Seen::Ping).count();
    assert!((25..=32).contains(&positions), "{positions} heartbeats in ten minutes");
    assert!((25..=31).contains(&pings), "{pings} pings in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn two_unanswered_pings_close_a_socket() {
    let bed = Bed::new(64, "disconnect");
    let mut socket = bed.join(Lane::WsJson, None, 1 << 20).await;
    for _ in 0..70 * 10 {
        tokio::time::advance(Duration::from_millis(100)).await;
        bed.settle().await;
        socket.read(1 << 16).await;
    }
    assert_eq!(socket.events.iter().filter(|seen| **seen == Seen::Ping).count(), 2);
    assert!(socket.events.contains(&Seen::Close(1011)), "{:?}", socket.events);
}

#[tokio::test(start_paused = true)]
async fn a_blocked_api_closes_idle_streams() {
    let bed = Bed::new(64, "disconnect");
    let mut peers = Vec::new();
    for lane in LANES {
        peers.push(bed.join(lane, None, 1 << 20).await);
    }
    bed.settle().await;
    let state = bed.channel.state();
    let mut lifecycle = state.lifecycle.clone();
    lifecycle.state = sluice_config::LifecycleState::Blocked;
    bed.channel.change(State { lifecycle, ..(*state).clone() });
    for _ in 0..50 {
        tokio::time::advance(Duration::from_millis(100)).await;
        bed.settle().await;
    }
    for mut peer in peers {
        peer.read_all(&bed).await;
        assert!(peer.ended || peer.events.contains(&Seen::Close(4410)), "{:?}: {:?}", peer.lane, peer.events);
    }
}
