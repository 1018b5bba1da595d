//! WebSocket: frames, close codes, publishing with acknowledgements, and what must not be sent.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_tests::client::frame::Frame;
use sluice_tests::client::http::publish;
use sluice_tests::client::raw::Raw;
use sluice_tests::client::websocket::{CLOUDEVENTS, Event, JSON, RAW};
use sluice_tests::documents::{Api, Channel, Documents};
use sluice_tests::{Cluster, Sluice, Sse, WebSocket};
use tokio_tungstenite::tungstenite::protocol::Message;

fn shop(channel: Channel) -> Documents {
    Documents::new().api(Api::new("shop").memory().channel(channel))
}

fn orders() -> Documents {
    shop(Channel::both_ways("orders", "orders"))
}

/// W17, T20: published by frames, acknowledged with the message's id, received by everybody.
#[tokio::test]
async fn a_publish_is_acknowledged_with_the_message_id() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic("acks", 1).await;
    let channel = Channel::both_ways("orders", &topic);
    let sluice = Sluice::start(
        &Documents::new().api(Api::new("shop").server("events", kafka.server()).channel(channel)),
    )
    .await;
    let url = sluice.url("/shop/orders");
    let (mut reader, _) = WebSocket::begin(&url).await;
    let (mut writer, _) = WebSocket::begin(&url).await;
    let frames = [
        json!({"type": "publish", "id": "a", "key": "k", "headers": [["x", "1"], ["x", "2"]], "data": {"n": 1}}),
        json!({"type": "publish", "id": "b", "contentType": "text/plain", "data": "text"}),
        json!({"type": "publish", "id": "c", "contentType": "image/png", "dataBase64": "AAEC"}),
    ];
    for frame in &frames {
        writer.send(frame).await;
    }
    let mut acks = Vec::new();
    let mut own = Vec::new();
    while acks.len() < 3 || own.len() < 3 {
        let frame = writer.frame().await;
        match frame.kind.as_str() {
            "ack" => {
                acks.push((frame.id.expect("the publish's id"), frame.message.expect("the message's id")))
            }
            "message" => own.push(frame.id.expect("an id")),
            _ => panic!("{frame:?}"),
        }
    }
    let acks: BTreeMap<String, String> = acks.into_iter().collect();
    let ids: Vec<String> = ["a", "b", "c"].map(|name| acks[name].clone()).into();
    assert_eq!(own, ids, "written in the order they were sent, and the writer receives them too");
    let messages: Vec<Frame> =
        [reader.message().await, reader.message().await, reader.message().await].into();
    assert_eq!(messages.iter().map(|it| it.id.clone().expect("an id")).collect::<Vec<_>>(), ids);
    assert_eq!(messages[0].content_type.as_deref(), Some("application/json"));
    assert_eq!(messages[0].headers.iter().filter(|it| it.0 == "x").count(), 2, "{:?}", messages[0]);
    assert_eq!(messages[1].payload(), Some(b"text".to_vec()));
    assert_eq!(messages[2].payload(), Some(vec![0, 1, 2]));
    let records = kafka.records(&topic).await;
    assert_eq!(records[0].key.as_deref(), Some(&b"k"[..]));
    assert_eq!(records[0].payload.as_deref(), Some(&br#"{"n":1}"#[..]));
    drop((reader, writer));
    sluice.stop().await;
}

/// A refused publish is answered, and the connection goes on.
#[tokio::test]
async fn a_publish_that_is_refused_gets_a_nack() {
    let documents = orders().policy("limits", "shop", json!({"limits": {"maxMessageBytes": 100}}));
    let sluice = Sluice::start(&documents).await;
    let (mut socket, _) = WebSocket::begin(&sluice.url("/shop/orders")).await;
    for (frame, retryable) in [
        (json!({"type": "publish", "id": "big", "data": "x".repeat(200)}), false),
        (json!({"type": "publish", "id": "both", "data": 1, "dataBase64": "AA=="}), false),
        (json!({"type": "publish", "id": "base64", "dataBase64": "%%%"}), false),
    ] {
        socket.send(&frame).await;
        let nack = socket.frame().await;
        assert_eq!((nack.kind.as_str(), nack.id.as_deref()), ("nack", frame["id"].as_str()), "{nack:?}");
        assert_eq!(nack.retryable, Some(retryable), "{nack:?}");
        assert!(nack.code.is_some() && nack.detail.is_some_and(|it| !it.is_empty()), "it says why");
    }
    socket.send(&json!({"type": "publish", "id": "good", "data": 1})).await;
    let first = socket.frame().await;
    let second = socket.frame().await;
    let mut kinds = [first.kind, second.kind];
    kinds.sort();
    assert_eq!(kinds, ["ack", "message"], "only the good one was written");
    drop(socket);
    sluice.stop().await;
}

/// W14: a subscribe channel takes nothing from its clients.
#[tokio::test]
async fn a_channel_without_publish_refuses_it() {
    let sluice = Sluice::start(&shop(Channel::new("orders", "orders").subscribe())).await;
    let url = sluice.url("/shop/orders");
    let (mut socket, _) = WebSocket::begin(&url).await;
    socket.send(&json!({"type": "publish", "id": "x", "data": 1})).await;
    let answer = socket.frame().await;
    assert_eq!((answer.kind.as_str(), answer.retryable), ("nack", Some(false)), "{answer:?}");
    let mut raw = WebSocket::open(&url, RAW).await;
    raw.send_message(Message::text("1")).await;
    let (code, reason) = raw.close_code().await;
    assert!(matches!(code, 4403 | 4400 | 1003), "{code} {reason}");
    assert_eq!(publish(&url, &[], "1").await.status, 405);
    let (mut later, _) = WebSocket::begin(&url).await;
    assert_eq!(later.within(Duration::from_millis(300)).await, None, "nothing was published");
    drop((socket, later));
    sluice.stop().await;
}

/// W15: a publish channel gives nothing to its clients.
#[tokio::test]
async fn a_channel_without_subscribe_gives_nothing() {
    let channel = Channel::new("orders", "orders").publish();
    let sluice = Sluice::start(&shop(channel)).await;
    let url = sluice.url("/shop/orders");
    let mut socket = WebSocket::open(&url, JSON).await;
    socket.send(&json!({"type": "publish", "id": "x", "data": 1})).await;
    let mut kinds = Vec::new();
    while let Some(event) = socket.within(Duration::from_millis(500)).await {
        let Event::Text(text) = event else { panic!("{event:?}") };
        kinds.push(Frame::parse(&text).kind);
    }
    assert!(kinds.contains(&"ack".into()) && !kinds.contains(&"message".into()), "{kinds:?}");
    let refused = Sse::request(&url).open().await.expect_err("there is nothing to subscribe to");
    assert!(matches!(refused.status, 405 | 406), "{refused:?}");
    sluice.stop().await;
}

#[tokio::test]
async fn raw_carries_payloads_alone() {
    let sluice = Sluice::start(&orders()).await;
    let url = sluice.url("/shop/orders");
    let mut socket = WebSocket::open(&url, RAW).await;
    let mut plain = WebSocket::request(&url).open().await.expect("raw is what nobody asked for");
    assert_eq!(publish(&url, &[("content-type", "application/json")], "{\"a\":1}").await.status, 200);
    assert_eq!(publish(&url, &[("content-type", "text/plain")], "text").await.status, 200);
    assert_eq!(publish(&url, &[("content-type", "application/json")], vec![0xff]).await.status, 200);
    assert_eq!(publish(&url, &[("content-type", "image/png")], "png").await.status, 200);
    let expected = [
        Event::Text("{\"a\":1}".into()),
        Event::Text("text".into()),
        Event::Binary(vec![0xff]),
        Event::Binary(b"png".to_vec()),
    ];
    for event in &expected {
        assert_eq!(&socket.payload().await, event);
        assert_eq!(&plain.payload().await, event);
    }
    socket.send_message(Message::text("{\"by\":\"socket\"}")).await;
    socket.send_message(Message::binary(vec![0xff, 2])).await;
    assert_eq!(plain.payload().await, Event::Text("{\"by\":\"socket\"}".into()));
    assert!(matches!(plain.payload().await, Event::Binary(bytes) if bytes == [0xff, 2]));
    drop((socket, plain));
    sluice.stop().await;
}

#[tokio::test]
async fn cloudevents_are_published_and_acknowledged_as_events() {
    let sluice = Sluice::start(&orders()).await;
    let mut socket = WebSocket::open(&sluice.url("/shop/orders"), CLOUDEVENTS).await;
    let parse = |event: Event| -> Value {
        let Event::Text(text) = event else { panic!("{event:?}") };
        serde_json::from_str(&text).expect("JSON")
    };
    assert_eq!(parse(socket.payload().await)["type"], "dev.sluice.ready");
    socket
        .send(
            &json!({"specversion": "1.0", "id": "mine", "type": "order", "source": "/me", "data": {"n": 1}}),
        )
        .await;
    let (first, second) = (parse(socket.payload().await), parse(socket.payload().await));
    let (ack, event) = if first["type"] == "dev.sluice.ack" { (first, second) } else { (second, first) };
    assert_eq!(ack["type"], "dev.sluice.ack", "{ack}");
    assert_eq!(ack["data"]["id"], "mine", "{ack}");
    assert_eq!((&event["id"], &event["data"]), (&json!("mine"), &json!({"n": 1})), "{event}");
    assert!(event["sluicecursor"].is_string(), "{event}");
    drop(socket);
    sluice.stop().await;
}

#[tokio::test]
async fn a_paused_client_gets_nothing_and_misses_nothing() {
    let sluice = Sluice::start(&orders()).await;
    let url = sluice.url("/shop/orders");
    let (mut socket, _) = WebSocket::begin(&url).await;
    let (mut other, _) = WebSocket::begin(&url).await;
    publish(&url, &[], "1").await;
    assert_eq!(socket.message().await.payload(), Some(b"1".to_vec()));
    socket.send(&json!({"type": "pause"})).await;
    // Frames of one client are handled in order: once this is answered, the pause is in force.
    socket.send(&json!({"type": "publish", "id": "p", "data": 2})).await;
    assert_eq!(socket.frame().await.kind, "ack");
    publish(&url, &[], "3").await;
    for expected in ["1", "2", "3"] {
        assert_eq!(other.message().await.payload(), Some(expected.into()), "others are not concerned");
    }
    assert_eq!(socket.within(Duration::from_millis(300)).await, None, "paused");
    socket.send(&json!({"type": "resume"})).await;
    for expected in ["2", "3"] {
        assert_eq!(socket.message().await.payload(), Some(expected.into()));
    }
    drop((socket, other));
    sluice.stop().await;
}

#[tokio::test]
async fn a_frame_that_makes_no_sense_is_told_and_what_is_not_built_is_named() {
    let sluice = Sluice::start(&orders()).await;
    let url = sluice.url("/shop/orders");
    for text in [
        "{",
        "[]",
        "\"publish\"",
        "{}",
        "{\"type\":1}",
        "{\"type\":\"nonsense\"}",
        "",
        "{\"type\":\"publish\",\"id\":7}",
    ] {
        let (mut socket, _) = WebSocket::begin(&url).await;
        socket.send_message(Message::text(text)).await;
        match socket.payload_or_close().await {
            Event::Text(answer) => {
                let frame = Frame::parse(&answer);
                assert!(matches!(frame.kind.as_str(), "error" | "nack"), "{text}: {answer}");
                assert!(frame.code.is_some() && frame.detail.is_some(), "{text}: {answer}");
            }
            Event::Close(code, _) => assert!(matches!(code, 4400 | 1007), "{text}: {code}"),
            event => panic!("{text}: {event:?}"),
        }
    }
    let (mut socket, cursor) = WebSocket::begin(&url).await;
    for frame in [
        json!({"type": "ack", "cursor": cursor}),
        json!({"type": "publish", "id": "c", "channel": "other", "data": 1}),
    ] {
        socket.send(&frame).await;
        let answer = socket.frame().await;
        assert!(matches!(answer.kind.as_str(), "error" | "nack"), "{frame}: {answer:?}");
        assert_eq!(answer.code.as_deref(), Some("notImplemented"), "{frame}: {answer:?}");
    }
    drop(socket);
    sluice.stop().await;
}

/// RFC 6455 §5 and §7.4: what breaks the protocol closes the connection with the right code.
#[tokio::test]
async fn a_broken_frame_closes_with_its_code() {
    let documents = orders().policy("limits", "shop", json!({"limits": {"maxMessageBytes": 1000}}));
    let sluice = Sluice::start(&documents).await;
    let upgrade = "GET /shop/orders HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Protocol: sluice.v1.json\r\n\r\n";
    let masked = |first: u8, payload: &[u8]| {
        let mut frame = vec![first, 0x80 | u8::try_from(payload.len()).expect("short"), 0, 0, 0, 0];
        frame.extend_from_slice(payload);
        frame
    };
    let mut huge = vec![0x81, 0xff];
    huge.extend_from_slice(&(1_u64 << 62).to_be_bytes());
    huge.extend_from_slice(&[0; 4]);
    let mut large = vec![0x81, 0xff];
    large.extend_from_slice(&2_000_000_u64.to_be_bytes());
    large.extend_from_slice(&[0; 4]);
    large.extend_from_slice(&[b'x'; 2_000_000]);
    let cases: Vec<(&str, Vec<u8>, &[u16])> = vec![
        ("unmasked", vec![0x81, 2, b'{', b'}'], &[1002]),
        ("reserved bit", masked(0xc1, b"{}"), &[1002]),
        ("unknown opcode", masked(0x83, b"{}"), &[1002]),
        ("continuation of nothing", masked(0x80, b"{}"), &[1002]),
        ("fragmented ping", masked(0x09, b"x"), &[1002]),
        (
            "long ping",
            {
                let mut frame = vec![0x89, 0xfe, 0, 126, 0, 0, 0, 0];
                frame.extend_from_slice(&[0; 126]);
                frame
            },
            &[1002],
        ),
        ("text that is not UTF-8", masked(0x81, &[0xff, 0xfe]), &[1007]),
        ("binary", masked(0x82, b"{}"), &[1003]),
        ("two to the 62nd bytes", huge, &[1009, 1002]),
        ("over the limit", large, &[1009]),
        ("close with one byte", masked(0x88, b"x"), &[1002]),
        ("close with a bad code", masked(0x88, &[0x03, 0xed]), &[1002]),
        ("close", masked(0x88, &[0x03, 0xe8]), &[1000]),
    ];
    for (name, bytes, expected) in cases {
        let mut raw = Raw::connect(sluice.port()).await;
        raw.send(upgrade).await;
        assert_eq!(raw.status().await, 101);
        raw.until("\"ready\"").await;
        raw.send(&bytes).await;
        let end = raw.to_end(Duration::from_secs(5)).await.unwrap_or_else(|| panic!("{name}: stays open"));
        let close =
            end.iter().rposition(|byte| *byte == 0x88).unwrap_or_else(|| panic!("{name}: no close frame"));
        let code = u16::from_be_bytes([end[close + 2], end[close + 3]]);
        assert!(expected.contains(&code), "{name}: {code}");
    }
    sluice.stop().await;
}

#[tokio::test]
async fn a_message_in_fragments_with_a_ping_between_is_one_message() {
    let sluice = Sluice::start(&orders()).await;
    let url = sluice.url("/shop/orders");
    let mut stream = Sse::begin(&url).await;
    let mut raw = Raw::connect(sluice.port()).await;
    raw.send(
        "GET /shop/orders HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .await;
    let head = raw.head().await;
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "RFC 6455's own example: {head}");
    for part in [
        &[0x01, 0x82, 0, 0, 0, 0, b'"', b'a'][..],
        &[0x89, 0x81, 0, 0, 0, 0, b'p'],
        &[0x80, 0x82, 0, 0, 0, 0, b'b', b'"'],
    ] {
        for byte in part {
            raw.send([*byte]).await;
        }
    }
    assert_eq!(stream.message().await.data.as_deref(), Some("\"ab\""));
    assert!(raw.until("\"ab\"").await.contains("\u{1}p"), "the ping was answered");
    drop((stream, raw));
    sluice.stop().await;
}

#[tokio::test]
async fn an_upgrade_that_is_malformed_is_refused() {
    let sluice = Sluice::start(&orders()).await;
    let good = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let cases: [(&str, &str, &[u16]); 6] = [
        ("Sec-WebSocket-Version", "12", &[400, 426]),
        ("Sec-WebSocket-Version", "", &[400, 426]),
        ("Sec-WebSocket-Key", "", &[400]),
        ("Sec-WebSocket-Key", "short", &[400]),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==", &[400]),
        ("Sec-WebSocket-Key", "&&&&&&&&&&&&&&&&&&&&&&==", &[400]),
    ];
    for (name, value, expected) in cases {
        let mut head = "GET /shop/orders HTTP/1.1\r\nHost: localhost\r\n".to_owned();
        for (header, usual) in good {
            head += &format!("{header}: {}\r\n", if header == name { value } else { usual });
        }
        let mut raw = Raw::connect(sluice.port()).await;
        raw.send(format!("{head}\r\n")).await;
        let answer = raw.head().await;
        let status: u16 = answer.split(' ').nth(1).and_then(|it| it.parse().ok()).expect("a status");
        assert!(expected.contains(&status), "{name}: {value:?}: {answer}");
        if status == 426 {
            assert!(answer.to_lowercase().contains("sec-websocket-version: 13"), "{answer}");
        }
    }
    sluice.stop().await;
}

/// The server pings, and closes on two missed pongs.
#[tokio::test]
async fn a_client_that_does_not_answer_pings_is_closed() {
    let channel = Channel::both_ways("orders", "orders")
        .set("/subscribe/transports/websocket/pingInterval", json!("1s"));
    let sluice = Sluice::start(&shop(channel)).await;
    let (mut answers, _) = WebSocket::begin(&sluice.url("/shop/orders")).await;
    let mut silent = Raw::connect(sluice.port()).await;
    silent
        .send(
            "GET /shop/orders HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await;
    assert_eq!(silent.status().await, 101);
    let begun = std::time::Instant::now();
    let mut pings = 0;
    let watch = async {
        while begun.elapsed() < Duration::from_secs(5) {
            match answers.within(Duration::from_secs(3)).await {
                Some(Event::Ping) => pings += 1,
                other => panic!("{other:?}"),
            }
        }
    };
    let (end, ()) = tokio::join!(silent.to_end(Duration::from_secs(10)), watch);
    let end = end.expect("the silent client is closed");
    assert!(end.iter().filter(|byte| **byte == 0x89).count() >= 2, "it was pinged twice first: {end:?}");
    assert!(pings >= 2, "the other was pinged {pings} times and stays");
    drop(answers);
    sluice.stop().await;
}

/// `cursor: perWrite`: one cursor a write instead of one a message.
#[tokio::test]
async fn cursors_come_once_a_write_where_asked_for() {
    let channel = Channel::both_ways("orders", "orders").set("/subscribe/cursor", json!("perWrite"));
    let sluice = Sluice::start(&shop(channel)).await;
    let url = sluice.url("/shop/orders");
    let (mut socket, begin) = WebSocket::begin(&url).await;
    let mut stream = Sse::begin(&url).await;
    publish(&url, &[("content-type", "application/x-ndjson")], "1\n2\n3").await;
    let mut cursor = String::new();
    let mut payloads = Vec::new();
    while payloads.len() < 3 || cursor.is_empty() {
        let frame = socket.frame().await;
        match frame.kind.as_str() {
            "message" => {
                assert_eq!(frame.cursor, None, "no cursor on a message");
                payloads.push(frame.payload().expect("a payload"));
                cursor.clear();
            }
            "cursor" => cursor = frame.cursor.expect("a cursor"),
            _ => panic!("{frame:?}"),
        }
    }
    assert_ne!(cursor, begin);
    let mut id = None;
    let mut count = 0;
    while count < 3 || id.is_none() {
        let block = stream.block().await;
        if block.is_message() {
            assert_eq!(block.id, None, "no id on a message");
            count += 1;
            id = None;
        } else {
            id = block.id;
        }
    }
    publish(&url, &[], "4").await;
    for cursor in [cursor, id.expect("an id")] {
        let mut resumed = WebSocket::open(&format!("{url}?cursor={cursor}"), JSON).await;
        assert_eq!(resumed.frame().await.kind, "ready");
        assert_eq!(resumed.message().await.payload(), Some(b"4".to_vec()));
    }
    drop((socket, stream));
    sluice.stop().await;
}

/// X04: a client that never reads is closed by `disconnect`, and told a gap by `dropOldest`.
#[tokio::test]
async fn a_client_that_does_not_read_meets_its_rule() {
    let slow = |rule: &str| {
        Channel::both_ways(&rule.to_lowercase(), rule)
            .set("/subscribe/replay", json!({"messages": 50, "bytes": 1_000_000}))
            .set("/subscribe/slowConsumer", json!(rule))
    };
    let api = Api::new("shop").memory().channel(slow("disconnect")).channel(slow("dropOldest"));
    let mut sluice = Sluice::start(&Documents::new().api(api)).await;
    sluice.expect_log(&["slow"]);
    let (mut cut, cursor) = WebSocket::begin(&sluice.url("/shop/disconnect")).await;
    let (mut told, _) = WebSocket::begin(&sluice.url("/shop/dropoldest")).await;
    let mut told_by_sse = Sse::begin(&sluice.url("/shop/dropoldest")).await;
    let mut raw = WebSocket::open(&sluice.url("/shop/dropoldest"), RAW).await;
    let (mut reads, _) = WebSocket::begin(&sluice.url("/shop/disconnect")).await;
    let body = format!("\"{}\"", "x".repeat(100_000));
    for _ in 0..400 {
        for path in ["/shop/disconnect", "/shop/dropoldest"] {
            assert_eq!(
                publish(&sluice.url(path), &[("content-type", "application/json")], body.clone())
                    .await
                    .status,
                200
            );
        }
        assert_eq!(reads.message().await.kind, "message", "who reads is not concerned");
    }
    let (code, _) = cut.close_code().await;
    assert_eq!(code, 4408);
    let mut back = WebSocket::open(&sluice.url(&format!("/shop/disconnect?cursor={cursor}")), JSON).await;
    assert_eq!(back.frame().await.kind, "ready");
    let gap = back.frame().await;
    assert_eq!((gap.kind.as_str(), gap.reason.as_deref()), ("gap", Some("expired")), "{gap:?}");
    let mut messages = 0;
    let gap = loop {
        let frame = told.frame().await;
        match frame.kind.as_str() {
            "message" => messages += 1,
            "gap" => break frame,
            kind => panic!("{kind}"),
        }
    };
    assert_eq!(gap.reason.as_deref(), Some("slow"), "after {messages} messages: {gap:?}");
    assert_eq!(told.message().await.kind, "message", "then it goes on");
    let gap = told_by_sse.event().await;
    assert_eq!((gap.event.as_str(), gap.frame().reason.as_deref()), ("gap", Some("slow")), "{gap:?}");
    assert!(gap.id.is_some(), "a gap carries where to go on: {gap:?}");
    let (code, reason) = raw.close_code().await;
    assert_eq!(code, 4409, "{reason}");
    assert!(reason.starts_with("gap: "), "{reason}");
    drop((reads, back, told, told_by_sse));
    sluice.stop().await;
}
