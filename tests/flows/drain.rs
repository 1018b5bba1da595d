//! Going away: readiness first, clients told, publishes answered, reconnects spread, exit 0.

use std::time::{Duration, Instant};

use serde_json::json;
use sluice_tests::client::Follower;
use sluice_tests::client::follower::Transport;
use sluice_tests::client::http::{self, publish};
use sluice_tests::client::websocket::{Event, JSON, RAW};
use sluice_tests::documents::{Api, Channel, Documents};
use sluice_tests::proxy::Proxy;
use sluice_tests::wait::within;
use sluice_tests::{Cluster, Ledger, Load, Sluice, Sse, WebSocket, process};

fn memory() -> Documents {
    Documents::new().api(Api::new("shop").memory().channel(Channel::both_ways("orders", "orders")))
}

/// X10, D2.
#[tokio::test]
async fn clients_are_told_to_come_back_with_their_cursor() {
    let setup = Sluice::with(&memory()).arguments(&["--drain-delay", "1s", "--drain-grace", "3s"]);
    let mut sluice = setup.start().await;
    let url = sluice.url("/shop/orders");
    let (mut socket, _) = WebSocket::begin(&url).await;
    let mut raw = WebSocket::open(&url, RAW).await;
    let mut stream = Sse::begin(&url).await;
    publish(&url, &[], "1").await;
    let cursor = socket.message().await.cursor.expect("a cursor");
    assert_eq!(stream.message().await.id.as_deref(), Some(cursor.as_str()));
    let begun = Instant::now();
    sluice.signal(libc::SIGTERM);
    within(Duration::from_millis(500), "readiness goes off", || async {
        (sluice.readyz().await.0 != 200).then_some(())
    })
    .await;
    // Through the propagation delay, everything still works.
    let (mut late, _) = WebSocket::begin(&url).await;
    assert_eq!(publish(&url, &[], "2").await.status, 200);
    assert_eq!(late.message().await.payload(), Some(b"2".to_vec()));
    assert!(begun.elapsed() < Duration::from_secs(1), "the test was too slow to tell: {:?}", begun.elapsed());
    let mut last = cursor.clone();
    let drain = loop {
        let frame = socket.frame().await;
        match frame.kind.as_str() {
            "message" => last = frame.cursor.expect("a cursor"),
            "drain" => break frame,
            kind => panic!("{kind}"),
        }
    };
    assert_eq!(drain.cursor.as_deref(), Some(last.as_str()));
    assert!(drain.retry_after_ms.is_some_and(|ms| ms <= 3_000), "{drain:?}");
    assert_eq!(socket.close_code().await.0, 1012);
    assert_eq!(late.close_code().await.0, 1012);
    assert_eq!(raw.close_code().await.0, 1012, "raw is told by the code alone");
    let mut retry = None;
    let mut drained = false;
    while let Some(block) = stream.next().await {
        retry = block.retry.or(retry);
        drained |= block.event == "drain";
    }
    assert!(drained, "the stream says why it ends");
    assert!(retry.is_some_and(|ms| ms > 0), "and when to come back");
    let status = sluice.ended(Duration::from_secs(6)).await;
    assert_eq!(status.code(), Some(0));
    assert!(begun.elapsed() > Duration::from_secs(1), "the delay was kept");
}

#[tokio::test]
async fn reconnects_are_spread_over_the_grace_period() {
    let setup = Sluice::with(&memory()).arguments(&["--drain-grace", "4s"]);
    let mut sluice = setup.start().await;
    let url = sluice.url("/shop/orders");
    let mut sockets = Vec::new();
    for _ in 0..60 {
        sockets.push(WebSocket::begin(&url).await.0);
    }
    sluice.signal(libc::SIGTERM);
    let begun = Instant::now();
    let mut whens = Vec::new();
    for mut socket in sockets {
        whens.push(tokio::spawn(async move {
            let mut retry = 0;
            loop {
                match socket.event().await {
                    Event::Text(text) if text.contains("\"drain\"") => {
                        let frame = sluice_tests::client::Frame::parse(&text);
                        retry = frame.retry_after_ms.expect("a time");
                    }
                    Event::Close(code, _) => {
                        assert_eq!(code, 1012);
                        return begun.elapsed() + Duration::from_millis(retry);
                    }
                    Event::Ping => {}
                    event => panic!("{event:?}"),
                }
            }
        }));
    }
    // When each client would come back.
    let mut buckets = [0; 12];
    for when in whens {
        let when = when.await.expect("a client");
        let bucket = usize::try_from(when.as_millis() / 500).expect("small").min(11);
        buckets[bucket] += 1;
    }
    assert!(buckets.iter().all(|count| *count <= 30), "no half second with half of the clients: {buckets:?}");
    assert!(buckets.iter().filter(|count| **count > 0).count() >= 4, "spread over seconds: {buckets:?}");
    assert_eq!(sluice.ended(Duration::from_secs(8)).await.code(), Some(0));
}

/// A publish that waits for the broker is answered before the end.
#[tokio::test]
async fn pending_publishes_are_answered() {
    let kafka = Cluster::start(1).await;
    let topic = kafka.topic("pending", 1).await;
    let channel = Channel::both_ways("orders", &topic);
    let documents = Documents::new().api(Api::new("shop").server("events", kafka.server()).channel(channel));
    let mut sluice = Sluice::with(&documents).arguments(&["--drain-grace", "15s"]).start().await;
    sluice.expect_log(&["kafka", "Kafka", "server"]);
    let url = sluice.url("/shop/orders");
    assert_eq!(publish(&url, &[], "\"warm\"").await.status, 200);
    let (mut socket, _) = WebSocket::begin(&url).await;
    kafka.pause(1);
    let posts: Vec<_> = (0..20)
        .map(|n| {
            let url = url.clone();
            tokio::spawn(async move { publish(&url, &[], n.to_string()).await.status })
        })
        .collect();
    socket.send(&json!({"type": "publish", "id": "w", "data": "by socket"})).await;
    within(Duration::from_secs(5), "they are in flight", || async {
        (sluice.metrics().await.sum("messages_in_flight", &[]) >= 21.0).then_some(())
    })
    .await;
    sluice.signal(libc::SIGTERM);
    within(Duration::from_secs(2), "readiness goes off", || async {
        (sluice.readyz().await.0 != 200).then_some(())
    })
    .await;
    kafka.unpause(1);
    for post in posts {
        assert_eq!(post.await.expect("a client"), 200, "answered after the broker's acknowledgement");
    }
    loop {
        match socket.event().await {
            Event::Text(text) if text.contains("\"ack\"") => break,
            Event::Text(_) | Event::Ping => {}
            event => panic!("closed before the ack: {event:?}"),
        }
    }
    assert_eq!(sluice.ended(Duration::from_secs(20)).await.code(), Some(0));
    assert_eq!(kafka.records(&topic).await.len(), 22);
}

/// D2, A13: two processes behind one address list; one goes away under load and nobody notices.
#[tokio::test]
async fn a_drain_under_load_fails_no_request_and_loses_nothing() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic("rolling", 3).await;
    let channel = Channel::both_ways("orders", &topic);
    let documents = Documents::new().api(Api::new("shop").server("events", kafka.server()).channel(channel));
    let state = process::directory("state");
    let arguments = ["--drain-delay", "1s", "--drain-grace", "3s"];
    let mut old = Sluice::with(&documents).state(&state).arguments(&arguments).start().await;
    let new = Sluice::with(&documents).state(&state).start().await;
    let ledger = Ledger::new("rolling", 1);
    let (first, second) = (old.url("/shop/orders"), new.url("/shop/orders"));
    let urls = [first.as_str(), second.as_str()];
    let followers = [
        Follower::with_key("WebSocket", Transport::WebSocket, &urls, &ledger, None).await,
        Follower::with_key("SSE", Transport::Sse, &urls, &ledger, None).await,
    ];
    // Publishers keep their connections to the old one until they are told to leave.
    let proxy = Proxy::start(old.port(), Duration::from_secs(60)).await;
    let load = Load::http(&format!("http://127.0.0.1:{}/shop/orders", proxy.port), &ledger, 3_000, 10);
    load.reaches(600).await;
    proxy.lead_to(new.port());
    old.signal(libc::SIGTERM);
    assert_eq!(old.ended(Duration::from_secs(10)).await.code(), Some(0));
    assert_eq!(load.done().await, 0, "no request failed");
    for follower in &followers {
        follower.check(Duration::from_secs(20)).await;
        let seen = follower.seen();
        assert_eq!((seen.drains, seen.connections), (1, 2), "{:?}", seen.closes);
        assert_eq!(seen.reader.duplicated(), 0, "a clean hand-over");
    }
    drop(followers);
    new.stop().await;
}

#[tokio::test]
async fn an_interrupt_drains_at_once_and_a_second_one_exits() {
    let mut sluice = Sluice::start(&memory()).await;
    sluice.expect_log(&["drain"]);
    let (mut socket, _) = WebSocket::begin(&sluice.url("/shop/orders")).await;
    let (_never_answers, _) = WebSocket::begin(&sluice.url("/shop/orders")).await;
    let begun = Instant::now();
    sluice.signal(libc::SIGINT);
    assert_eq!(socket.close_code().await.0, 1012);
    assert_eq!(sluice.ended(Duration::from_secs(3)).await.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    drop(sluice);

    let setup = Sluice::with(&memory()).arguments(&["--drain-delay", "30s", "--drain-grace", "30s"]);
    let mut slow = setup.start().await;
    slow.expect_log(&["drain"]);
    let (_open, _) = WebSocket::begin(&slow.url("/shop/orders")).await;
    slow.signal(libc::SIGTERM);
    within(Duration::from_secs(2), "it drains", || async { (slow.readyz().await.0 != 200).then_some(()) })
        .await;
    assert!(slow.runs());
    slow.signal(libc::SIGINT);
    slow.ended(Duration::from_secs(3)).await;
}

/// A connection that says nothing must not hold up the end.
#[tokio::test]
async fn idle_and_half_open_connections_do_not_hold_up_the_end() {
    let mut sluice = Sluice::with(&memory()).arguments(&["--drain-grace", "2s"]).start().await;
    sluice.expect_log(&["drain"]);
    let mut held = Vec::new();
    for text in [
        "",
        "GET /shop/orders HTTP/1.1\r\nHost: loc",
        "POST /shop/orders HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n1",
    ] {
        let mut raw = sluice_tests::client::raw::Raw::connect(sluice.port()).await;
        raw.send(text).await;
        held.push(raw);
    }
    let kept = http::builder().pool_max_idle_per_host(5).build().expect("a client");
    assert_eq!(kept.post(sluice.url("/shop/orders")).body("1").send().await.expect("answered").status(), 200);
    let mut stuck = WebSocket::open(&sluice.url("/shop/orders"), JSON).await;
    assert!(matches!(stuck.event().await, Event::Text(_)));
    sluice.signal(libc::SIGTERM);
    assert_eq!(sluice.ended(Duration::from_secs(6)).await.code(), Some(0));
    drop((held, kept, stuck));
}
