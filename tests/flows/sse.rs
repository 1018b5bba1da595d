//! Server-sent events: what the standard's parser makes of every payload, and how a stream
//! begins, rests and goes on.

use std::time::Duration;

use serde_json::json;
use sluice_tests::client::http::{self, publish};
use sluice_tests::client::raw::Raw;
use sluice_tests::client::sse::Parser;
use sluice_tests::documents::{Api, Channel, Documents};
use sluice_tests::{Sluice, Sse, WebSocket, certs, seed};

fn shop(channel: Channel) -> Documents {
    Documents::new().api(Api::new("shop").memory().channel(channel))
}

fn orders() -> Documents {
    shop(Channel::both_ways("orders", "orders"))
}

const TEXT: &[(&str, &str)] = &[("content-type", "text/plain")];

/// W19: nothing inside a payload can end an event or forge another.
#[tokio::test]
async fn a_payload_is_one_event_whatever_is_in_it() {
    let sluice = Sluice::start(&orders()).await;
    let url = sluice.url("/shop/orders");
    let mut stream = Sse::begin(&url).await;
    let mut payloads: Vec<String> = [
        "plain",
        "",
        " leading space",
        "two\nlines",
        "two\r\nlines",
        "two\rlines",
        "ends\n",
        "ends\r\n",
        "\nbegins",
        "\n\n",
        "\r\r\n\n",
        "a\n\nevent: gap\ndata: forged\n\n",
        "a\r\rid: forged\r\r",
        "data: nested",
        ": comment",
        "retry: 1",
        "id: x\u{0}y",
        "\u{feff}bom",
        "line\u{2028}separator\u{85}next",
        "tab\tand\u{b}vertical",
    ]
    .map(str::to_owned)
    .into();
    let mut rng = seed::rng("sse payloads");
    let pieces = ["\n", "\r", "\r\n", "data:", "id: 1", "event: gap", " ", ":", "x", "é", "\u{2028}"];
    for _ in 0..300 {
        let count = rng.usize(1..12);
        payloads.push((0..count).map(|_| pieces[rng.usize(0..pieces.len())]).collect());
    }
    for payload in &payloads {
        assert_eq!(publish(&url, TEXT, payload.clone()).await.status, 200);
        let block = stream.block().await;
        assert!(block.is_message() && block.retry.is_none(), "{payload:?} came as {block:?}");
        let expected = payload.replace("\r\n", "\n").replace('\r', "\n");
        assert_eq!(block.data.as_deref(), Some(expected.as_str()), "{payload:?}");
        assert!(block.id.is_some_and(|id| id.bytes().all(|byte| byte.is_ascii_graphic())));
    }
    drop(stream);
    sluice.stop().await;
}

#[tokio::test]
async fn a_payload_that_is_not_utf8_comes_as_a_binary_event() {
    let sluice = Sluice::start(&orders()).await;
    let url = sluice.url("/shop/orders");
    let mut stream = Sse::begin(&url).await;
    for bytes in [vec![0xff, 0xfe, 0x00], vec![b'a', 0xc3], vec![0xed, 0xa0, 0x80]] {
        publish(&url, &[], bytes.clone()).await;
        let block = stream.block().await;
        assert_eq!(block.event, "binary", "{block:?}");
        assert!(block.id.is_some());
        use base64::Engine;
        let data = block.data.expect("data");
        let text = serde_json::from_str::<serde_json::Value>(&data)
            .ok()
            .and_then(|value| value["dataBase64"].as_str().map(str::to_owned))
            .unwrap_or_else(|| data.trim_matches('"').to_owned());
        assert_eq!(base64::engine::general_purpose::STANDARD.decode(&text).expect("base64"), bytes, "{data}");
    }
    drop(stream);
    sluice.stop().await;
}

/// W20: an idle stream is kept alive by id-only blocks that never run ahead.
#[tokio::test]
async fn an_idle_stream_gets_heartbeats_from_which_nothing_is_missed() {
    let channel = Channel::both_ways("orders", "orders")
        .set("/subscribe/transports/sse/heartbeatInterval", json!("1s"));
    let sluice = Sluice::start(&shop(channel)).await;
    let url = sluice.url("/shop/orders");
    let mut stream = Sse::begin(&url).await;
    publish(&url, TEXT, "one").await;
    let one = stream.message().await.id.expect("an id");
    for _ in 0..2 {
        let beat = stream.block().await;
        assert!(beat.data.is_none() && beat.event.is_empty(), "a heartbeat is an id alone: {beat:?}");
        assert!(beat.id.is_some(), "{beat:?}");
    }
    let beat = stream.last_id().to_owned();
    publish(&url, TEXT, "two").await;
    assert_eq!(stream.message().await.data.as_deref(), Some("two"));
    for id in [one, beat] {
        let mut resumed = Sse::request(&url).last_event_id(&id).open().await.expect("resumed");
        assert_eq!(resumed.message().await.data.as_deref(), Some("two"), "nothing twice, nothing missed");
    }
    drop(stream);
    sluice.stop().await;
}

#[tokio::test]
async fn last_event_id_wins_over_cursor_and_cursor_over_start() {
    let sluice = Sluice::start(&orders()).await;
    let url = sluice.url("/shop/orders");
    let mut stream = Sse::begin(&url).await;
    let begin = stream.last_id().to_owned();
    for text in ["one", "two", "three"] {
        publish(&url, TEXT, text).await;
    }
    let one = stream.message().await.id.expect("an id");
    let two = stream.message().await.id.expect("an id");
    for (query, header, expected) in [
        (format!("?cursor={two}"), Some(&begin), "one"),
        (format!("?cursor={begin}"), Some(&one), "two"),
        (format!("?cursor={two}&start=latest"), None, "three"),
        (format!("?start=latest&cursor={one}"), None, "two"),
    ] {
        let mut request = Sse::request(&format!("{url}{query}"));
        if let Some(id) = header {
            request = request.last_event_id(id);
        }
        let mut resumed = request.open().await.expect("resumed");
        assert_eq!(resumed.message().await.data.as_deref(), Some(expected), "{query} {header:?}");
    }
    // A WebSocket takes the same cursors; of the two parameters the cursor wins.
    let mut socket = WebSocket::open(&format!("{url}?cursor={two}&start=latest"), "sluice.v1.json").await;
    assert_eq!(socket.frame().await.kind, "ready");
    assert_eq!(socket.message().await.payload(), Some(b"three".to_vec()));
    // What comes later is refused by name.
    let refused = Sse::request(&format!("{url}?start=earliest")).open().await;
    if let Err(answer) = refused {
        assert!(matches!(answer.status, 400 | 501), "{answer:?}");
        assert!(answer.text().contains("earliest"), "{answer:?}");
    } else {
        panic!("start=earliest was ignored");
    }
    drop((stream, socket));
    sluice.stop().await;
}

#[tokio::test]
async fn a_parameter_that_makes_no_sense_is_refused() {
    let sluice = Sluice::start(&orders()).await;
    let url = sluice.url("/shop/orders");
    for query in ["format=xml", "start=yesterday", "format=", "cursor=", "format=raw&format=envelope"] {
        let refused = Sse::request(&format!("{url}?{query}")).open().await;
        let answer = refused.expect_err(query);
        assert!((400..500).contains(&answer.status), "{query}: {answer:?}");
        answer.problem();
    }
    let only_raw = shop(Channel::both_ways("orders", "orders").set("/subscribe/formats", json!(["raw"])));
    let limited = Sluice::start(&only_raw).await;
    let refused = Sse::request(&limited.url("/shop/orders?format=envelope")).open().await;
    let answer = refused.expect_err("only raw is offered");
    assert!((400..500).contains(&answer.status) && answer.text().contains("raw"), "{answer:?}");
    limited.stop().await;
    sluice.stop().await;
}

/// A stream that comes later on a kept-alive connection is the same stream.
#[tokio::test]
async fn a_stream_may_follow_another_request_on_its_connection() {
    let sluice = Sluice::start(&orders()).await;
    let url = sluice.url("/shop/orders");
    let mut raw = Raw::connect(sluice.port()).await;
    raw.send("POST /shop/orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\na").await;
    assert_eq!(raw.status().await, 200);
    raw.until("}").await;
    raw.send("GET /shop/orders HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n").await;
    raw.until("text/event-stream").await;
    raw.until("id: ").await;
    publish(&url, TEXT, "later").await;
    raw.until("data: later").await;
    drop(raw);
    sluice.stop().await;
}

/// K22: TLS to clients, HTTP/1.1 and HTTP/2, both transports.
#[tokio::test]
async fn streams_and_publishes_go_over_tls() {
    let server = &certs::bundle().server;
    let documents = orders().tls_secret("edge", &server.certificate, &server.key);
    let sluice = Sluice::with(&documents).tls("default/edge").start().await;
    let url = sluice.tls_url("/shop/orders");
    let mut stream = Sse::begin(&url).await;
    let (mut socket, _) = WebSocket::begin(&url).await;
    let h2 = http::builder().http2_prior_knowledge().build().expect("a client");
    let mut second = h2.get(&url).header("accept", "text/event-stream").send().await.expect("answered");
    assert_eq!((second.status().as_u16(), second.version()), (200, ::http::Version::HTTP_2));
    let mut parser = Parser::default();
    let mut blocks = Vec::new();
    while !blocks.iter().any(|block: &sluice_tests::client::sse::Block| block.id.is_some()) {
        blocks.extend(parser.push(&second.chunk().await.expect("bytes").expect("more")));
    }
    let answer =
        h2.post(&url).header("content-type", "text/plain").body("over tls").send().await.expect("answered");
    assert_eq!(answer.status(), 200);
    assert_eq!(stream.message().await.data.as_deref(), Some("over tls"));
    assert_eq!(socket.message().await.payload(), Some(b"over tls".to_vec()));
    while !blocks.iter().any(|block| block.data.as_deref() == Some("over tls")) {
        blocks.extend(parser.push(&second.chunk().await.expect("bytes").expect("more")));
    }
    assert!(http::get(&sluice.tls_url("/shop/nothing")).await.is_ok_and(|answer| answer.status == 404));
    drop((stream, socket, second, h2));
    sluice.stop().await;
}

/// A client that is cut before its first message resumes too.
#[tokio::test]
async fn a_client_cut_before_its_first_message_misses_nothing() {
    let sluice = Sluice::start(&orders()).await;
    let url = sluice.url("/shop/orders");
    let stream = Sse::begin(&url).await;
    let id = stream.last_id().to_owned();
    drop(stream);
    publish(&url, TEXT, "meanwhile").await;
    let mut resumed = Sse::request(&url).last_event_id(&id).open().await.expect("resumed");
    assert_eq!(resumed.message().await.data.as_deref(), Some("meanwhile"));
    assert_eq!(resumed.within(Duration::from_millis(200)).await, None);
    drop(resumed);
    sluice.stop().await;
}
