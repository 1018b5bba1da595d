//! Synthetic orders with no broker: order, ids and formats on both streaming transports.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use sluice_tests::client::websocket::{CLOUDEVENTS, Event, RAW};
use sluice_tests::client::{Frame, http};
use sluice_tests::documents::{Api, Channel, Documents};
use sluice_tests::{Sluice, Sse, WebSocket};

fn orders(messages_per_second: u32) -> Documents {
    let channel = Channel::new("orders", "orders").subscribe();
    Documents::new().api(Api::new("shop").generator(messages_per_second, 7).channel(channel))
}

/// `2026-01-31T12:34:56.789Z`.
fn is_timestamp(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    shape == "9999-99-99T99:99:99.999Z"
}

/// W17, T20.
#[tokio::test]
async fn a_websocket_client_gets_orders_one_after_another() {
    let sluice = Sluice::start(&orders(200)).await;
    let mut socket = WebSocket::open(&sluice.url("/shop/orders"), "sluice.v1.json").await;
    assert_eq!(socket.protocol.as_deref(), Some("sluice.v1.json"));
    let ready = socket.frame().await;
    assert_eq!((ready.kind.as_str(), ready.resumable), ("ready", Some(true)), "{ready:?}");
    let mut ids = BTreeSet::new();
    let mut last = String::new();
    for _ in 0..100 {
        let message = socket.message().await;
        let cursor = message.cursor.as_deref().expect("every message has a cursor");
        assert!(cursor.len() <= 2048 && URL_SAFE_NO_PAD.decode(cursor).is_ok(), "{cursor}");
        assert_eq!(message.content_type.as_deref(), Some("application/json"));
        let time = message.timestamp.clone().expect("a message has a time");
        assert!(is_timestamp(&time) && time >= last, "{time} after {last}");
        last = time;
        assert!(ids.insert(message.id.clone().expect("a message has an id")), "{message:?}");
        let order: Value = serde_json::from_slice(&message.payload().expect("an order")).expect("JSON");
        assert!(order.is_object(), "{order}");
    }
    socket.close().await;
    sluice.stop().await;
}

/// W19, T21.
#[tokio::test]
async fn an_sse_client_gets_orders_after_a_retry_and_an_id() {
    let sluice = Sluice::start(&orders(200)).await;
    let mut stream = Sse::open(&sluice.url("/shop/orders")).await;
    let header = |name: &str| stream.headers.get(name).map(|value| value.to_str().expect("text").to_owned());
    assert_eq!(header("cache-control").as_deref(), Some("no-store"));
    assert_eq!(header("x-accel-buffering").as_deref(), Some("no"));
    let first = stream.block().await;
    let second = if first.id.is_none() { stream.block().await } else { first.clone() };
    assert!(first.retry.is_some(), "the stream opens with a retry: {first:?}");
    assert!(second.id.is_some() && second.data.is_none(), "then an id alone: {second:?}");
    let mut ids = BTreeSet::new();
    for _ in 0..100 {
        let block = stream.block().await;
        assert!(block.is_message(), "{block:?}");
        assert!(ids.insert(block.id.expect("every message has an id")));
        let order: Value = serde_json::from_str(&block.data.expect("an order")).expect("JSON");
        assert!(order.is_object(), "{order}");
    }
    sluice.stop().await;
}

/// T23: the same messages, by every transport and in every format.
#[tokio::test]
async fn a_message_is_the_same_on_every_transport_and_in_every_format() {
    let sluice = Sluice::start(&orders(100)).await;
    let url = sluice.url("/shop/orders");
    let (mut socket, cursor) = WebSocket::begin(&url).await;
    let mut raw = Sse::open(&format!("{url}?cursor={cursor}")).await;
    let mut envelopes = Sse::open(&format!("{url}?cursor={cursor}&format=envelope")).await;
    let mut events = Sse::open(&format!("{url}?cursor={cursor}&format=cloudevents")).await;
    let mut raw_socket = WebSocket::open(&format!("{url}?cursor={cursor}"), RAW).await;
    let mut event_socket = WebSocket::open(&format!("{url}?cursor={cursor}"), CLOUDEVENTS).await;
    let Event::Text(ready) = event_socket.payload().await else { panic!("control events are text") };
    let ready: Value = serde_json::from_str(&ready).expect("JSON");
    assert_eq!(
        (&ready["type"], &ready["specversion"]),
        (&"dev.sluice.ready".into(), &"1.0".into()),
        "{ready}"
    );
    for _ in 0..30 {
        let message = socket.message().await;
        let payload = message.payload().expect("an order");
        assert_eq!(raw.message().await.data.expect("data").as_bytes(), payload);
        let Event::Text(text) = raw_socket.payload().await else { panic!("JSON comes as text") };
        assert_eq!(text.as_bytes(), payload);
        let envelope = Frame::parse(&envelopes.message().await.data.expect("data"));
        assert_eq!((&envelope.id, envelope.payload()), (&message.id, Some(payload.clone())));
        assert_eq!((&envelope.key, &envelope.timestamp), (&message.key, &message.timestamp));
        let data: Value = serde_json::from_slice(&payload).expect("JSON");
        let Event::Text(text) = event_socket.payload().await else { panic!("events are text") };
        for event in [events.message().await.data.expect("data"), text] {
            let event: Value = serde_json::from_str(&event).expect("JSON");
            assert_eq!(event["specversion"], "1.0", "{event}");
            assert_eq!(event["id"].as_str(), message.id.as_deref(), "{event}");
            assert_eq!(event["source"], "/default/shop/orders", "{event}");
            assert_eq!(event["type"], "dev.sluice.message", "{event}");
            assert_eq!(event["datacontenttype"], "application/json", "{event}");
            assert_eq!(event["data"], data, "{event}");
        }
    }
    drop((raw, envelopes, events));
    sluice.stop().await;
}

/// T09: one event reaches all subscribers once.
#[tokio::test]
async fn every_client_gets_every_message_once() {
    let sluice = Sluice::start(&orders(100)).await;
    let url = sluice.url("/shop/orders");
    let (mut first, cursor) = WebSocket::begin(&url).await;
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(WebSocket::open(&format!("{url}?cursor={cursor}"), "sluice.v1.json").await);
    }
    let mut expected = Vec::new();
    for _ in 0..40 {
        expected.push(first.message().await.id);
    }
    for mut other in others {
        assert_eq!(other.frame().await.kind, "ready");
        for id in &expected {
            assert_eq!(&other.message().await.id, id);
        }
    }
    drop(first);
    sluice.stop().await;
}

/// What the README shows first: the command with no header at all.
#[tokio::test]
async fn curl_without_options_gets_a_stream() {
    let sluice = Sluice::start(&orders(100)).await;
    let output = std::process::Command::new("curl")
        .args(["--silent", "--no-buffer", "--max-time", "2", &sluice.url("/shop/orders")])
        .output()
        .expect("curl can be started");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("retry:") && text.matches("\ndata: {").count() > 20, "{text}");
    sluice.stop().await;
}

#[tokio::test]
async fn the_same_seed_gives_the_same_orders() {
    let (one, two) = (Sluice::start(&orders(50)).await, Sluice::start(&orders(50)).await);
    let mut texts = Vec::new();
    for sluice in [&one, &two] {
        let answer = http::get(&sluice.admin("/healthz")).await.expect("the admin port answers");
        assert_eq!(answer.status, 200);
        let mut stream = Sse::begin(&sluice.url("/shop/orders")).await;
        let mut orders = Vec::new();
        for _ in 0..20 {
            let order = stream.message().await.data.expect("an order");
            let mut order: Value = serde_json::from_str(&order).expect("JSON");
            // All but the time.
            order.as_object_mut().expect("an order").remove("at");
            orders.push(order);
        }
        texts.push(orders);
    }
    let common = texts[0].iter().filter(|order| texts[1].contains(order)).count();
    assert!(common > 0, "no order in common: {:?} {:?}", texts[0][0], texts[1][0]);
    one.stop().await;
    two.stop().await;
}
