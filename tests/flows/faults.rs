//! Faults under load. Every message is counted by id and checksum; a client within the replay
//! window gets no gap and loses nothing.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_tests::client::Follower;
use sluice_tests::client::follower::Transport;
use sluice_tests::client::websocket::Event;
use sluice_tests::documents::{Api, Channel, Documents};
use sluice_tests::kafka::Listener;
use sluice_tests::proxy::Proxy;
use sluice_tests::{Cluster, Ledger, Load, Sluice, Sse, WebSocket, eventually};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

/// Messages of each fault.
const MESSAGES: usize = 5_000;

/// How long clients may take to get everything after the load ended.
const HEALING: Duration = Duration::from_secs(40);

/// Keys of a load straight into a topic of six partitions.
const KEYS: &[(&str, i32)] =
    &[("a", 0), ("b", 1), ("c", 2), ("d", 3), ("e", 4), ("f", 5), ("g", 0), ("h", 1), ("i", 2), ("j", 3)];

fn orders(server: Value, topic: &str) -> Documents {
    Documents::new()
        .api(Api::new("shop").server("events", server).channel(Channel::both_ways("orders", topic)))
}

/// Publishers at once, each with one message under way.
const PUBLISHERS: usize = 10;

/// Two clients on each transport.
async fn followers(url: &str, ledger: &Ledger) -> Vec<Follower> {
    vec![
        Follower::start("first WebSocket", Transport::WebSocket, url, ledger).await,
        Follower::start("second WebSocket", Transport::WebSocket, url, ledger).await,
        Follower::start("first SSE", Transport::Sse, url, ledger).await,
        Follower::start("second SSE", Transport::Sse, url, ledger).await,
    ]
}

/// Nothing lost, corrupted, invented, reordered; no gap; never cut more than `cuts` times.
async fn check(followers: &[Follower], ledger: &Ledger, cuts: usize) {
    assert!(ledger.accepted() >= MESSAGES, "{} messages are too few", ledger.accepted());
    for follower in followers {
        follower.check(HEALING).await;
        let seen = follower.seen();
        assert!(seen.connections <= 1 + cuts, "{} connections", seen.connections);
        // A broker that is stopped may write a record, lose its leadership, and answer that it is
        // not the leader; librdkafka takes that for "not persisted". So 503 can be untrue for what
        // was under way at that moment, and for nothing else.
        let untrue = seen.reader.written_though_refused();
        assert!(untrue <= PUBLISHERS, "{untrue} messages were written though refused");
        if cuts == 0 {
            assert_eq!(seen.reader.duplicated(), 0, "nothing twice on an uncut connection");
        }
    }
}

/// Three nodes for the tests of this file, one test at a time.
async fn three_nodes() -> MutexGuard<'static, Cluster> {
    static THREE: OnceCell<Mutex<Cluster>> = OnceCell::const_new();
    THREE.get_or_init(|| async { Mutex::new(Cluster::start(3).await) }).await.lock().await
}

/// A14: clients stay connected while Kafka is away, publishes are refused and come through later.
#[tokio::test]
async fn nothing_is_lost_when_kafka_stops_and_starts() {
    let kafka = Cluster::start(1).await;
    let topic = kafka.topic("stopped", 6).await;
    // Shorter than the outage, so that publishes fail and are sent again.
    let channel = Channel::both_ways("orders", &topic).set("/publish/timeout", json!("2s"));
    let api = Api::new("shop").server("events", kafka.server()).channel(channel);
    let mut sluice = Sluice::start(&Documents::new().api(api)).await;
    sluice.expect_log(&["kafka", "Kafka", "server", "publish"]);
    let ledger = Ledger::new("kafka stops", 1);
    let url = sluice.url("/shop/orders");
    let followers = followers(&url, &ledger).await;
    let load = Load::http(&url, &ledger, MESSAGES, PUBLISHERS);
    load.reaches(MESSAGES / 4).await;
    kafka.stop(1).await;
    eventually("readyz tells that the broker is away", || async {
        let (status, body) = sluice.readyz().await;
        assert_eq!(status, 200, "readiness does not follow one broker");
        (!body.contains("\"up\":true")).then_some(())
    })
    .await;
    assert_eq!(sluice.metrics().await.sum("server_up", &[]), 0.0);
    eventually("every publisher was refused", || async { (load.refused() >= PUBLISHERS).then_some(()) })
        .await;
    kafka.restart(1).await;
    load.reaches(MESSAGES / 2).await;
    let failed = load.refused() + load.unknown();
    kafka.kill(1);
    eventually("publishes fail", || async {
        (load.refused() + load.unknown() >= failed + PUBLISHERS).then_some(())
    })
    .await;
    kafka.restart(1).await;
    load.done().await;
    check(&followers, &ledger, 0).await;
    assert_eq!(sluice.metrics().await.sum("server_up", &[]), 1.0);
    drop(followers);
    sluice.stop().await;
}

#[tokio::test]
async fn nothing_is_lost_when_one_of_three_brokers_is_killed() {
    let kafka = three_nodes().await;
    let topic = kafka.topic("killed", 6).await;
    kafka.healed(&topic).await;
    let mut sluice = Sluice::start(&orders(kafka.server(), &topic)).await;
    sluice.expect_log(&["kafka", "Kafka", "server", "publish"]);
    let ledger = Ledger::new("broker killed", 1);
    let url = sluice.url("/shop/orders");
    let followers = followers(&url, &ledger).await;
    let load = Load::http(&url, &ledger, MESSAGES, PUBLISHERS);
    load.reaches(MESSAGES / 4).await;
    let leader = usize::try_from(kafka.leader(&topic, 0).expect("a leader")).expect("a node");
    kafka.kill(leader);
    load.reaches(MESSAGES / 2).await;
    kafka.restart(leader).await;
    load.done().await;
    check(&followers, &ledger, 0).await;
    kafka.healed(&topic).await;
    drop(followers);
    sluice.stop().await;
}

#[tokio::test]
async fn nothing_is_lost_when_the_leader_moves() {
    let kafka = three_nodes().await;
    let topic = kafka.topic("moved", 6).await;
    kafka.healed(&topic).await;
    let mut sluice = Sluice::start(&orders(kafka.server(), &topic)).await;
    sluice.expect_log(&["kafka", "Kafka", "server", "publish"]);
    let ledger = Ledger::new("leader moves", 1);
    let url = sluice.url("/shop/orders");
    let followers = followers(&url, &ledger).await;
    let load = Load::http(&url, &ledger, MESSAGES, PUBLISHERS);
    load.reaches(MESSAGES / 5).await;
    for node in [1, 2, 3] {
        kafka.lead(&topic, 6, node).await;
    }
    load.done().await;
    check(&followers, &ledger, 0).await;
    drop(followers);
    sluice.stop().await;
}

/// A13, A14: killed three times and drained once, under load; cursors carry the clients over.
#[tokio::test]
async fn nothing_is_lost_when_the_process_is_killed_three_times_and_drained() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic("process", 6).await;
    let documents = orders(kafka.server(), &topic);
    let mut sluice = Sluice::with(&documents).arguments(&["--drain-grace", "2s"]).start().await;
    let ledger = Ledger::new("process killed", 1);
    let url = sluice.url("/shop/orders");
    let followers = followers(&url, &ledger).await;
    let posted = Load::http(&url, &ledger, MESSAGES * 3 / 5, 6);
    let produced = Load::kafka(kafka, &topic, &ledger, MESSAGES * 2 / 5, &KEYS[..4]);
    for part in 1..=3 {
        posted.reaches(MESSAGES * 3 / 5 * part / 5).await;
        sluice.kill();
        sluice.restart().await;
    }
    posted.reaches(MESSAGES * 3 / 5 * 4 / 5).await;
    for follower in &followers {
        follower.connected().await;
    }
    sluice.signal(libc::SIGTERM);
    let status = sluice.ended(Duration::from_secs(10)).await;
    assert!(status.success(), "drained with {status}");
    sluice.restart().await;
    posted.done().await;
    produced.done().await;
    check(&followers, &ledger, 20).await;
    for follower in &followers {
        assert!(follower.seen().drains >= 1, "{} was not told to leave", follower.report());
    }
    drop(followers);
    sluice.stop().await;
}

/// Edits of other APIs and of the policies around do not touch an API's clients.
#[tokio::test]
async fn nothing_is_lost_when_the_file_changes_a_hundred_times() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic("edited", 6).await;
    let documents = |edit: u32| {
        let other = Api::new("other").memory().channel(Channel::both_ways(&format!("edit{edit}"), "x"));
        let limits = json!({"limits": {"maxMessageBytes": 500_000 + edit}});
        let mut all = orders(kafka.server(), &topic).policy("limits", "other", limits);
        if !edit.is_multiple_of(3) {
            all = all.api(other);
        }
        all
    };
    let mut sluice = Sluice::start(&documents(1)).await;
    // A policy whose API is gone for a while is worth a warning.
    sluice.expect_log(&["limits", "other"]);
    let ledger = Ledger::new("edits", 1);
    let url = sluice.url("/shop/orders");
    let followers = followers(&url, &ledger).await;
    let load = Load::http(&url, &ledger, MESSAGES, PUBLISHERS);
    for edit in 2..=101 {
        load.reaches(MESSAGES / 110 * edit as usize).await;
        if edit % 10 == 0 {
            sluice.write_text("apiVersion: [broken");
        }
        sluice.write(&documents(edit));
    }
    eventually("the last edit is served", || async {
        let answer = sluice_tests::client::http::publish(&sluice.url("/other/edit101"), &[], "{}").await;
        (answer.status == 200).then_some(())
    })
    .await;
    load.done().await;
    check(&followers, &ledger, 0).await;
    drop(followers);
    sluice.expect_log(&["apis.yaml"]);
    sluice.stop().await;
}

/// K22, D17: a new user and password from the same Secret, while messages flow.
#[tokio::test]
async fn nothing_is_lost_when_a_credential_is_rotated() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic("rotated", 6).await;
    let server = kafka.sasl_server(Listener::Sasl, "SCRAM-SHA-512", "login");
    for user in ["before", "after"] {
        kafka.set_password(user, &format!("{user}-secret"));
        kafka.allow(user, &topic);
    }
    let documents = |user: &str| {
        orders(server.clone(), &topic)
            .secret("login", &[("username", user), ("password", &format!("{user}-secret"))])
    };
    let mut sluice = Sluice::start(&documents("before")).await;
    sluice.expect_log(&["kafka", "Kafka", "server"]);
    let ledger = Ledger::new("rotation", 1);
    let url = sluice.url("/shop/orders");
    let followers = followers(&url, &ledger).await;
    let posted = Load::http(&url, &ledger, MESSAGES / 2, 8);
    let produced = Load::kafka(kafka, &topic, &ledger, MESSAGES / 2, KEYS);
    posted.reaches(MESSAGES / 10).await;
    sluice.apply(&documents("after")).await;
    posted.reaches(MESSAGES / 4).await;
    // From now on nothing of the former user works.
    kafka.forbid("before", &topic);
    posted.reaches(MESSAGES / 10 * 4).await;
    posted.done().await;
    produced.done().await;
    check(&followers, &ledger, 0).await;
    drop(followers);
    sluice.stop().await;
}

/// D25: new partitions are read from their first record.
#[tokio::test]
async fn nothing_is_lost_when_the_partition_count_is_raised() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic("raised", 3).await;
    let mut sluice = Sluice::start(&orders(kafka.server(), &topic)).await;
    let ledger = Ledger::new("growth", 1);
    let url = sluice.url("/shop/orders");
    let followers = followers(&url, &ledger).await;
    let old = Load::kafka(kafka, &topic, &ledger, MESSAGES / 2, &KEYS[..3]);
    old.reaches(MESSAGES / 8).await;
    // What comes before the new partitions are noticed must come to clients, too: so nothing can be
    // noticed while they are made and first written to.
    sluice.signal(libc::SIGSTOP);
    kafka.grow(&topic, 6).await;
    Load::kafka(kafka, &topic, &ledger, 60, &KEYS[3..6]).done().await;
    sluice.signal(libc::SIGCONT);
    let new = Load::kafka(kafka, &topic, &ledger, MESSAGES / 2, &KEYS[3..6]);
    old.done().await;
    new.done().await;
    check(&followers, &ledger, 0).await;
    drop(followers);
    sluice.stop().await;
}

/// W20: idle for a minute behind something that cuts after twenty idle seconds. Heartbeats of SSE
/// come every 15 s by default; pings, every 20 s by default, must be set below what is in the way.
#[tokio::test]
async fn idle_streams_stay_up_through_a_proxy_that_cuts_idle_connections() {
    let channel = Channel::both_ways("orders", "orders")
        .set("/subscribe/transports/websocket/pingInterval", json!("12s"));
    let sluice = Sluice::start(&Documents::new().api(Api::new("shop").memory().channel(channel))).await;
    let idle = Duration::from_secs(20);
    let proxy = Proxy::start(sluice.port(), idle).await;
    let url = format!("http://127.0.0.1:{}/shop/orders", proxy.port);
    let mut stream = Sse::begin(&url).await;
    let (mut socket, _) = WebSocket::begin(&url).await;
    // A connection that is kept alive after its answer, which nobody keeps busy.
    let mut silent = TcpStream::connect(("127.0.0.1", proxy.port)).await.expect("the proxy listens");
    let request = b"GET /-/ HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n";
    silent.write_all(request).await.expect("open");
    let end = Instant::now() + Duration::from_secs(60);
    let (mut beats, mut pings) = (0, 0);
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        tokio::select! {
            block = stream.within(left) => match block {
                Some(block) => {
                    assert!(block.data.is_none() && block.id.is_some(), "{block:?}");
                    beats += 1;
                }
                None => assert!(Instant::now() >= end, "the stream ended"),
            },
            event = socket.within(left) => match event {
                Some(Event::Ping) => pings += 1,
                Some(event) => panic!("{event:?}"),
                None => {}
            },
        }
    }
    assert!(beats >= 3 && pings >= 3, "{beats} heartbeats, {pings} pings");
    assert_eq!(proxy.cuts(), 1, "the proxy cut the connection that was silent, and no other");
    assert_eq!(sluice_tests::client::http::publish(&sluice.url("/shop/orders"), &[], "1").await.status, 200);
    assert_eq!(stream.message().await.data.as_deref(), Some("1"));
    assert_eq!(socket.message().await.payload(), Some(b"1".to_vec()));
    drop((stream, socket, silent));
    sluice.stop().await;
}
