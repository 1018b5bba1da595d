//! The hot functions, each with the least that it needs around it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures::FutureExt;
use serde_json::json;
use sluice_config::StreamApiSpec;
use sluice_config::check::check_api;
use sluice_config::policy::PublishRate;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::channel::State;
use crate::config::CursorKey;
use crate::cursor::Cursors;
use crate::encode::{Encoder, Lane};
use crate::engine::Stream;
use crate::engine::bed::Bed;
use crate::feed::{Batch, Selector, View};
use crate::guard::{Case, counted};
use crate::message::{CONTENT_TYPE, Incarnation, Outgoing, Record};
use crate::publish::{Via, publish};
use crate::transport::websocket::inbound::Inbound;
use crate::transport::websocket::protocol;

/// How often a function is called.
const TIMES: u64 = 64;
/// Clients that one walk writes to.
const CLIENTS: u64 = 256;
/// Selections that a message is offered to.
const SELECTIONS: usize = 100;
/// Messages that a ring holds.
const WINDOW: u32 = 1000;

/// Every case, in the order of the baseline.
pub async fn all() -> Vec<Case> {
    vec![
        encode("encode WsRaw", Lane::WsRaw),
        encode("encode WsJson", Lane::WsJson),
        encode("encode SseRaw", Lane::SseRaw),
        encode("encode SseCloudEvents", Lane::SseCloudEvents),
        intake(),
        intake_selecting(),
        collect("collect a batch of 1", 1),
        collect("collect a batch of 8", 8),
        collect("collect a batch of 64", 64),
        collect_again(),
        walk("walk, a delivery on WsJson", Lane::WsJson).await,
        walk("walk, a delivery on SseRaw", Lane::SseRaw).await,
        cursor_encode(),
        cursor_decode(),
        frame(),
        publish_frame(),
        publish_to_memory(),
        read_api(),
    ]
}

/// An order with a key and headers, 256 bytes of JSON.
fn record(offset: i64) -> Record {
    let mut text =
        format!("{{\"order\":{offset},\"item\":\"espresso beans\",\"place\":\"Tromsø\",\"note\":\"");
    text.push_str(&"n".repeat(254 - text.len()));
    text.push_str("\"}");
    Record {
        partition: 0,
        offset,
        timestamp: Some(1_700_000_000_000),
        key: Some(Bytes::from_static(b"customer-17")),
        headers: vec![
            (Arc::from(CONTENT_TYPE), Bytes::from_static(b"application/json")),
            (Arc::from("tenant"), Bytes::from_static(b"north")),
        ],
        payload: Some(text.into()),
    }
}

fn encoder() -> Encoder {
    Encoder {
        source: "/shop/orders/placed".into(),
        event_type: "com.example.order.placed".into(),
        content_type: "application/json".into(),
        cursor: Default::default(),
    }
}

fn cursors() -> Cursors {
    Cursors::new("shop", "orders", "placed", &[CursorKey([7; 32])])
}

fn encode(name: &'static str, lane: Lane) -> Case {
    let (encoder, record) = (encoder(), record(1));
    let incarnation = Incarnation::new("orders", b"1");
    let cursor = cursors().encode(&incarnation, &[1]).expect("short");
    Case::new(name, move || {
        for _ in 0..TIMES {
            counted(|| encoder.message(lane, "c2xfaW5jYXI.0.1", &record, Some(&cursor)));
        }
        TIMES
    })
}

/// Records as a broker's reader brings them, into a ring that is full.
fn intake() -> Case {
    let bed = Bed::with_shard(WINDOW, "disconnect").0;
    let mut next = 0;
    Case::new("intake of a record into the ring", move || {
        let mut records: Vec<Record> = (next..next + 2000).map(record).collect();
        next += 2000;
        counted(|| bed.inlet.push(&mut records));
        let (first, next) = bed.feed.range(View::ALL);
        assert_eq!(next - first, u64::from(WINDOW));
        2000
    })
}

/// Records that are in one of many selections each.
fn intake_selecting() -> Case {
    let bed = Bed::with_shard(WINDOW, "disconnect").0;
    for index in 0..SELECTIONS {
        let key = format!("customer-{index}");
        let selector =
            Selector::new(&key.clone(), move |record| record.key.as_deref() == Some(key.as_bytes()));
        bed.feed.enter(Lane::WsRaw, Some(&selector));
    }
    let mut next = 0;
    Case::new("intake of a record into 100 selections", move || {
        let mut records: Vec<Record> = (next..next + 2000).map(record).collect();
        next += 2000;
        counted(|| bed.inlet.push(&mut records));
        2000
    })
}

/// The newest messages, which nobody was written before.
fn collect(name: &'static str, messages: u64) -> Case {
    let bed = Bed::with_shard(WINDOW, "disconnect").0;
    bed.feed.enter(Lane::WsJson, None);
    let mut batch = Batch::default();
    let mut next = 0;
    Case::new(name, move || {
        for _ in 0..TIMES {
            let mut records: Vec<Record> = (next..next + messages as i64).map(record).collect();
            next += messages as i64;
            bed.inlet.push(&mut records);
            let from = bed.feed.range(View::ALL).1 - messages;
            counted(|| bed.feed.collect(Lane::WsJson, View::ALL, from, None, &mut batch));
            assert_eq!(batch.frames.len() as u64, messages);
        }
        TIMES
    })
}

/// What clients of the lane were written before.
fn collect_again() -> Case {
    let bed = Bed::with_shard(WINDOW, "disconnect").0;
    bed.feed.enter(Lane::WsJson, None);
    bed.inlet.push(&mut (0..64).map(record).collect());
    let mut batch = Batch::default();
    Case::new("collect 64 that are encoded", move || {
        let from = bed.feed.range(View::ALL).0;
        for _ in 0..TIMES {
            counted(|| bed.feed.collect(Lane::WsJson, View::ALL, from, None, &mut batch));
            assert_eq!(batch.frames.len(), 64);
        }
        TIMES
    })
}

/// A socket that takes everything and says nothing.
struct Abyss;

impl AsyncRead for Abyss {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Abyss {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// One message to many clients.
async fn walk(name: &'static str, lane: Lane) -> Case {
    let (mut bed, shard) = Bed::with_shard(WINDOW, "disconnect");
    for _ in 0..CLIENTS {
        bed.attach(lane, None, None, Stream::Other(Box::new(Abyss)), "").await;
    }
    let mut shard = Box::pin(tokio::task::unconstrained(shard.run()));
    let mut turn = move || assert!(shard.poll_unpin(&mut Context::from_waker(Waker::noop())).is_pending());
    turn();
    Case::new(name, move || {
        let before = bed.books().1;
        for _ in 0..TIMES {
            bed.publish(200);
            counted(&mut turn);
        }
        assert_eq!(bed.books().1 - before, TIMES * CLIENTS);
        TIMES * CLIENTS
    })
}

fn cursor_encode() -> Case {
    let (cursors, incarnation) = (cursors(), Incarnation::new("orders", b"1"));
    let positions: Vec<i64> = (0..12).map(|partition| partition * 1_000_003).collect();
    Case::new("cursor encode, 12 partitions", move || {
        for _ in 0..TIMES {
            assert!(counted(|| cursors.encode(&incarnation, &positions)).is_some());
        }
        TIMES
    })
}

fn cursor_decode() -> Case {
    let (cursors, incarnation) = (cursors(), Incarnation::new("orders", b"1"));
    let positions: Vec<i64> = (0..12).map(|partition| partition * 1_000_003).collect();
    let text = cursors.encode(&incarnation, &positions).expect("short");
    Case::new("cursor decode, 12 partitions", move || {
        for _ in 0..TIMES {
            assert!(counted(|| cursors.decode(&text)).is_ok());
        }
        TIMES
    })
}

/// A publish as a client writes it on `sluice.v1.json`.
fn publish_text() -> Vec<u8> {
    let payload = record(1).payload.expect("set");
    let data: serde_json::Value = serde_json::from_slice(&payload).expect("JSON");
    let frame = json!({"type": "publish", "id": "17", "key": "customer-17", "data": data,
                       "headers": [["tenant", "north"]]});
    frame.to_string().into_bytes()
}

fn frame() -> Case {
    let (text, mask) = (publish_text(), [1, 2, 3, 4]);
    let mut bytes = vec![0x81, 0x80 | 126];
    bytes.extend_from_slice(&(text.len() as u16).to_be_bytes());
    bytes.extend_from_slice(&mask);
    bytes.extend(text.iter().enumerate().map(|(index, byte)| byte ^ mask[index % 4]));
    let mut inbound = Inbound::default();
    Case::new("a WebSocket client's frame", move || {
        for _ in 0..TIMES {
            let event = counted(|| {
                inbound.push(&bytes);
                inbound.next(1 << 20)
            });
            assert!(matches!(event, Ok(Some(_))) && inbound.next(1 << 20) == Ok(None));
        }
        TIMES
    })
}

fn publish_frame() -> Case {
    let text = publish_text();
    Case::new("a publish of sluice.v1.json", move || {
        for _ in 0..TIMES {
            let frame = counted(|| protocol::read(&text));
            assert!(matches!(frame, Ok(protocol::Frame::Publish { message: Ok(_), .. })));
        }
        TIMES
    })
}

/// Through limits and rate to a log in memory, whose one reader is a ring that is full.
fn publish_to_memory() -> Case {
    let bed = Bed::with_shard(WINDOW, "disconnect").0;
    let mut state = State::clone(&bed.channel.state());
    state.policy.limits.publish_rate = Some(PublishRate { messages_per_second: 1_000_000, burst: None });
    let state = Arc::new(state);
    let (client, Record { key, headers, payload, .. }) = (Arc::from("198.51.100.7"), record(1));
    let message = Outgoing { key, headers, payload };
    Case::new("publish to a log in memory", move || {
        for _ in 0..2 * WINDOW {
            let publishing =
                publish(bed.channel.clone(), state.clone(), Arc::clone(&client), Via::Http, message.clone());
            let answer = counted(|| publishing.now_or_never());
            assert!(answer.is_some_and(|answer| answer.is_ok()));
        }
        u64::from(2 * WINDOW)
    })
}

/// An API as its document has it.
fn read_api() -> Case {
    let channels: Vec<_> = (0..100)
        .map(|index| {
            json!({
                "name": format!("channel-{index}"), "server": "broker", "address": format!("topic.{index}.v1"),
                "message": {"name": "com.example.order.placed", "contentType": "application/json"},
                "subscribe": {"transports": {"websocket": {}, "sse": {"heartbeatInterval": "10s"}},
                              "replay": {"messages": 1000}},
                "publish": {"transports": {"http": {}, "websocket": {}}},
            })
        })
        .collect();
    let kafka = json!({"name": "broker", "kafka": {"brokers": ["broker-0.example:9092"]}});
    let text = json!({"servers": [kafka], "channels": channels}).to_string();
    Case::new("read and check an API of 100 channels", move || {
        let problems = counted(|| {
            let spec: StreamApiSpec = serde_json::from_str(&text).expect("an API");
            check_api("orders", &spec)
        });
        assert_eq!(problems, []);
        1
    })
}
