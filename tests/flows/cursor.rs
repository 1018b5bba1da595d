//! Cursors that are wrong, foreign, old or of another life of the topic: refused or told, never
//! silent.

use serde_json::json;
use sluice_tests::client::http::publish;
use sluice_tests::client::websocket::{Event, JSON, RAW};
use sluice_tests::documents::{Api, Channel, Documents};
use sluice_tests::kafka::topics::Record;
use sluice_tests::{Cluster, Sluice, Sse, WebSocket, process, seed};

/// Checks what both transports say to `cursor`: a status (and 101 with the close code for
/// browsers), never a stream.
async fn refused(url: &str, cursor: &str, status: u16) {
    let by_query = format!("{url}?cursor={cursor}");
    for request in [Sse::request(&by_query), Sse::request(url).last_event_id(cursor)] {
        let answer = request.open().await.expect_err("the cursor is refused");
        assert_eq!(answer.status, status, "{cursor:?}: {answer:?}");
        answer.problem();
    }
    let answer =
        WebSocket::request(&by_query).protocol(JSON).open().await.expect_err("the cursor is refused");
    assert_eq!(answer.status, status, "{cursor:?}: {answer:?}");
}

/// Resumes at `cursor` on both transports and checks that each is first told a gap for `reason`;
/// gives the first payload after it.
async fn told(url: &str, cursor: &str, reason: &str) -> Vec<u8> {
    let by_query = format!("{url}?cursor={cursor}");
    let mut socket = WebSocket::open(&by_query, JSON).await;
    let ready = socket.frame().await;
    assert_eq!(
        (ready.kind.as_str(), &ready.cursor),
        ("ready", &None),
        "ready has no cursor before a gap: {ready:?}"
    );
    let gap = socket.frame().await;
    assert_eq!((gap.kind.as_str(), gap.reason.as_deref()), ("gap", Some(reason)), "{gap:?}");
    assert!(gap.to.is_some(), "a gap says where it goes on: {gap:?}");
    let unreadable = reason == "unknownCursor";
    assert_eq!(gap.from.is_none(), unreadable, "{gap:?}");

    let mut stream = Sse::request(url).last_event_id(cursor).open().await.expect("the stream opens");
    let block = loop {
        let block = stream.block().await;
        if block.id.is_some() || block.data.is_some() {
            break block;
        }
    };
    assert_eq!(block.event, "gap", "a gap stands in the place of the first id: {block:?}");
    let frame = block.frame();
    assert_eq!(frame.reason.as_deref(), Some(reason), "{frame:?}");
    assert_eq!(block.id, frame.to, "a gap carries the id to go on from");

    let mut raw = WebSocket::open(&by_query, RAW).await;
    let (code, text) = raw.close_code().await;
    assert_eq!((code, text.as_str()), (4409, format!("gap: {reason}").as_str()), "raw cannot be told");

    let message = socket.message().await;
    let payload = message.payload().expect("a payload");
    let text = String::from_utf8(payload.clone()).expect("text");
    assert_eq!(stream.message().await.data, Some(text));
    // From the gap's own cursor on, nothing is missed either.
    let mut resumed = WebSocket::open(&format!("{url}?cursor={}", gap.to.expect("checked")), JSON).await;
    assert_eq!(resumed.frame().await.kind, "ready");
    assert_eq!(resumed.message().await.id, message.id);
    payload
}

fn memory() -> Documents {
    let api = Api::new("shop")
        .memory()
        .channel(Channel::both_ways("orders", "orders").set("/subscribe/replay", json!({"messages": 10})))
        .channel(Channel::both_ways("invoices", "invoices"));
    Documents::new().api(api).api(Api::new("other").memory().channel(Channel::both_ways("orders", "orders")))
}

#[tokio::test]
async fn a_cursor_that_is_none_is_refused() {
    let sluice = Sluice::start(&memory()).await;
    let url = sluice.url("/shop/orders");
    let (socket, good) = WebSocket::begin(&url).await;
    let mut cursors: Vec<String> =
        ["nonsense", "AAAA", "-1", "0", "_", "null", "..%2f..%2fetc", "%00", "%F0%9F%92%A9"]
            .map(str::to_owned)
            .into();
    let known = &good[..good.len() - 8];
    cursors.push(format!("{known}{}", "A".repeat(2048 - known.len())));
    cursors.push(format!("{known}{}", "A".repeat(2049 - known.len())));
    cursors.push("A".repeat(2049));
    cursors.push("A".repeat(20_000));
    cursors.push(good[..good.len() - 4].to_owned());
    cursors.push(format!("{good}AAAA"));
    cursors.push(format!("{good}%3D%3D"));
    // Every flipped bit breaks the authentication; the version and the key id are not secret, and
    // one that is unknown may be told as a gap.
    let mut rng = seed::rng("flipped cursors");
    for _ in 0..40 {
        let at = rng.usize(good.len() / 2..good.len());
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        cursors.push(String::from_utf8(bytes).expect("ASCII"));
    }
    for cursor in &cursors {
        let by_query = Sse::request(&format!("{url}?cursor={cursor}")).open().await;
        let answer = by_query.err().unwrap_or_else(|| panic!("{cursor} was served"));
        assert!(matches!(answer.status, 400 | 414 | 431), "{cursor}: {answer:?}");
    }
    refused(&url, "nonsense", 400).await;
    drop(socket);
    sluice.stop().await;
}

#[tokio::test]
async fn a_cursor_of_another_channel_or_api_is_forbidden() {
    let sluice = Sluice::start(&memory()).await;
    let (_, other_channel) = WebSocket::begin(&sluice.url("/shop/invoices")).await;
    let (_, other_api) = WebSocket::begin(&sluice.url("/other/orders")).await;
    refused(&sluice.url("/shop/orders"), &other_channel, 403).await;
    // Another API has another key: its cursors cannot even be read here.
    let url = sluice.url("/shop/orders");
    let answer = Sse::request(&format!("{url}?cursor={other_api}")).open().await.err();
    let status = answer.map(|answer| answer.status);
    assert_eq!(status, Some(403), "another API's cursor");
    sluice.stop().await;
}

#[tokio::test]
async fn a_position_that_is_too_old_is_a_gap() {
    let sluice = Sluice::start(&memory()).await;
    let url = sluice.url("/shop/orders");
    let (_, cursor) = WebSocket::begin(&url).await;
    for n in 1..=25 {
        publish(&url, &[("content-type", "application/json")], n.to_string()).await;
    }
    assert_eq!(told(&url, &cursor, "expired").await, b"16", "the oldest entry held");
    sluice.stop().await;
}

/// A ring in memory is another one after a restart.
#[tokio::test]
async fn a_ring_that_was_lost_is_a_gap() {
    let mut sluice = Sluice::start(&memory()).await;
    let url = sluice.url("/shop/orders");
    let (_, cursor) = WebSocket::begin(&url).await;
    publish(&url, &[], "1").await;
    sluice.kill();
    sluice.restart().await;
    publish(&url, &[("content-type", "application/json")], "2").await;
    assert_eq!(told(&url, &cursor, "recreated").await, b"2");
    sluice.stop().await;
}

/// T: a cursor is good wherever its key is, and told where it is not.
#[tokio::test]
async fn a_cursor_of_an_unknown_key_is_a_gap() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic("keys", 1).await;
    let documents = Documents::new()
        .api(Api::new("shop").server("events", kafka.server()).channel(Channel::both_ways("orders", &topic)));
    let sluice = Sluice::start(&documents).await;
    let stranger = Sluice::with(&documents).state(&process::directory("stranger")).start().await;
    let (_, cursor) = WebSocket::begin(&sluice.url("/shop/orders")).await;
    let url = stranger.url("/shop/orders");
    let mut socket = WebSocket::open(&format!("{url}?cursor={cursor}"), JSON).await;
    assert_eq!(socket.frame().await.cursor, None);
    let gap = socket.frame().await;
    assert_eq!((gap.reason.as_deref(), &gap.from), (Some("unknownCursor"), &None), "{gap:?}");
    kafka.produce(&topic, &[Record::new("after")]).await;
    assert_eq!(
        socket.message().await.payload(),
        Some(b"after".to_vec()),
        "it goes on at the channel's start"
    );
    drop(socket);
    sluice.stop().await;
    stranger.stop().await;
}

#[tokio::test]
async fn a_topic_that_was_created_again_is_a_gap() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic("again", 1).await;
    let documents = Documents::new()
        .api(Api::new("shop").server("events", kafka.server()).channel(Channel::both_ways("orders", &topic)));
    let mut sluice = Sluice::start(&documents).await;
    sluice.expect_log(&[&topic]);
    let url = sluice.url("/shop/orders");
    kafka.produce(&topic, &[Record::new("1"), Record::new("2")]).await;
    let (mut open, _) = WebSocket::begin(&url).await;
    kafka.produce(&topic, &[Record::new("3")]).await;
    let cursor = open.message().await.cursor.expect("a cursor");
    kafka.delete(&topic).await;
    kafka.create(&topic, 1, &[]).await;
    kafka.produce(&topic, &[Record::new("new")]).await;
    // The open client is told, and goes on at the oldest entry of the new topic.
    loop {
        match open.event().await {
            Event::Text(text) if text.contains("\"gap\"") => {
                assert!(text.contains("recreated"), "{text}");
                break;
            }
            Event::Ping => {}
            event => panic!("a gap was expected: {event:?}"),
        }
    }
    assert_eq!(open.message().await.payload(), Some(b"new".to_vec()));
    assert_eq!(told(&url, &cursor, "recreated").await, b"new");
    drop(open);
    sluice.stop().await;
}

/// Retention took what the cursor needs.
#[tokio::test]
async fn records_that_the_broker_no_longer_has_are_a_gap() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic("retention", 1).await;
    let documents = Documents::new()
        .api(Api::new("shop").server("events", kafka.server()).channel(Channel::both_ways("orders", &topic)));
    let mut sluice = Sluice::start(&documents).await;
    let url = sluice.url("/shop/orders");
    let (socket, cursor) = WebSocket::begin(&url).await;
    drop(socket);
    sluice.kill();
    let records: Vec<Record> = (0..20).map(|n| Record::new(n.to_string())).collect();
    kafka.produce(&topic, &records).await;
    kafka.truncate(&topic, 0, 15).await;
    sluice.restart().await;
    assert_eq!(told(&url, &cursor, "expired").await, b"15");
    sluice.stop().await;
}

/// A partition that the cursor does not know is read from its beginning.
#[tokio::test]
async fn partitions_that_came_later_are_read_from_their_beginning() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic("grown", 1).await;
    let documents = Documents::new()
        .api(Api::new("shop").server("events", kafka.server()).channel(Channel::both_ways("orders", &topic)));
    let mut sluice = Sluice::start(&documents).await;
    let url = sluice.url("/shop/orders");
    let (socket, cursor) = WebSocket::begin(&url).await;
    drop(socket);
    sluice.kill();
    kafka.grow(&topic, 3).await;
    let records: Vec<Record> = (0..9).map(|n| Record::new(n.to_string()).partition(n % 3)).collect();
    kafka.produce(&topic, &records).await;
    sluice.restart().await;
    let mut socket = WebSocket::open(&format!("{url}?cursor={cursor}"), JSON).await;
    assert_eq!(socket.frame().await.kind, "ready");
    let mut seen = Vec::new();
    for _ in 0..9 {
        let payload = socket.message().await.payload().expect("a payload");
        seen.push(String::from_utf8(payload).expect("text"));
    }
    seen.sort();
    assert_eq!(seen, (0..9).map(|n| n.to_string()).collect::<Vec<_>>());
    drop(socket);
    sluice.stop().await;
}
