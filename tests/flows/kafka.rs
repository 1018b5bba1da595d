//! Kafka, both ways: keys, headers, order, logins, and the same messages from every process.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_tests::client::http::{self, publish};
use sluice_tests::client::websocket::JSON;
use sluice_tests::documents::{Api, Channel, Documents};
use sluice_tests::kafka::topics::Record;
use sluice_tests::kafka::{Listener, USERS};
use sluice_tests::wait::within;
use sluice_tests::{Cluster, Ledger, Reader, Sluice, Sse, WebSocket, certs, eventually, process};

fn orders(server: Value, topic: &str) -> Documents {
    Documents::new()
        .api(Api::new("shop").server("events", server).channel(Channel::both_ways("orders", topic)))
}

/// T04: the same API publishes to and subscribes from one broker.
#[tokio::test]
async fn what_is_posted_is_in_the_topic_and_comes_to_every_client() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic("orders", 1).await;
    let sluice = Sluice::start(&orders(kafka.server(), &topic)).await;
    let url = sluice.url("/shop/orders");
    let mut stream = Sse::begin(&url).await;
    let (mut socket, _) = WebSocket::begin(&url).await;
    let body = r#"{"order": 1,  "total":9.90}"#;
    let answer = publish(&url, &[("content-type", "application/json"), ("message-key", "alice")], body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let id = answer.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(stream.message().await.data.as_deref(), Some(body));
    let message = socket.message().await;
    assert_eq!((message.id.as_deref(), message.key.as_deref()), (Some(id.as_str()), Some("alice")));
    assert_eq!(message.payload().as_deref(), Some(body.as_bytes()), "byte for byte");
    let records = kafka.records(&topic).await;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].key.as_deref(), Some(&b"alice"[..]));
    assert_eq!(records[0].payload.as_deref(), Some(body.as_bytes()));
    drop((stream, socket));
    sluice.stop().await;
}

/// T14: whatever a record has, the envelope tells.
#[tokio::test]
async fn an_envelope_carries_everything_a_record_has() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic("envelope", 1).await;
    let sluice = Sluice::start(&orders(kafka.server(), &topic)).await;
    let (mut socket, _) = WebSocket::begin(&sluice.url("/shop/orders")).await;
    let time = 1_700_000_000_123;
    let mut dated = Record::new("{\"a\":1}").key("k").header("b", "1").header("a", "2").header("b", "3");
    dated.timestamp = Some(time);
    let records = [
        dated,
        Record::new("plain").header("content-type", "text/plain"),
        Record::new(vec![0, 159, 146, 150]).key(vec![0xff, 0xfe]).header("content-type", "image/png"),
        Record { key: Some(b"gone".to_vec()), ..Record::default() },
        Record::new("{not json"),
        Record::new("").header("content-type", "text/plain"),
        Record::new("{}").header("raw", vec![0xff, 0x00]),
    ];
    kafka.produce(&topic, &records).await;

    let dated = socket.message().await;
    assert_eq!(dated.timestamp.as_deref(), Some("2023-11-14T22:13:20.123Z"));
    let headers: Vec<(&str, &Value)> =
        dated.headers.iter().map(|(name, value)| (name.as_str(), value)).collect();
    assert_eq!(headers, [("b", &json!("1")), ("a", &json!("2")), ("b", &json!("3"))], "order and duplicates");
    assert_eq!(dated.content_type.as_deref(), Some("application/json"), "the channel's");

    let text = socket.message().await;
    assert_eq!((text.content_type.as_deref(), text.payload()), (Some("text/plain"), Some(b"plain".to_vec())));
    assert!(text.data.is_some(), "text is a string");

    let binary = socket.message().await;
    assert_eq!((binary.key_base64.as_deref(), &binary.key), (Some("//4="), &None));
    assert_eq!(binary.payload(), Some(vec![0, 159, 146, 150]));
    assert!(binary.data.is_none() && !binary.invalid, "{binary:?}");

    let tombstone = socket.message().await;
    assert!(tombstone.tombstone && tombstone.payload().is_none(), "{tombstone:?}");
    assert_eq!(tombstone.key.as_deref(), Some("gone"));

    let broken = socket.message().await;
    assert!(broken.invalid && broken.data.is_none(), "{broken:?}");
    assert_eq!(broken.payload(), Some(b"{not json".to_vec()));

    let empty = socket.message().await;
    assert_eq!((empty.payload(), empty.tombstone), (Some(Vec::new()), false));

    let odd = socket.message().await;
    assert_eq!(odd.headers, [("raw".to_owned(), json!({"base64": "/wA="}))]);
    drop(socket);
    sluice.stop().await;
}

/// T14: order per key, over twelve partitions.
#[tokio::test]
async fn messages_of_a_key_come_in_order() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic("order", 12).await;
    let sluice = Sluice::start(&orders(kafka.server(), &topic)).await;
    let ledger = Ledger::new("order", 40);
    let url = sluice.url("/shop/orders");
    let (mut socket, _) = WebSocket::begin(&url).await;
    let mut stream = Sse::begin(&url).await;
    let records: Vec<Record> = (0..3000)
        .map(|_| {
            let payload = ledger.offer();
            ledger.accept(&payload.ident);
            Record::new(payload.bytes).key(payload.key)
        })
        .collect();
    kafka.produce(&topic, &records).await;
    let mut readers = [Reader::new(&ledger), Reader::new(&ledger)];
    for _ in 0..records.len() {
        let message = socket.message().await;
        readers[0].take(&message.payload().expect("a payload"), message.id.as_deref());
        readers[1].take(stream.message().await.data.expect("a payload").as_bytes(), None);
    }
    readers[0].check("WebSocket");
    readers[1].check("SSE");
    assert_eq!((readers[0].duplicated(), readers[1].duplicated()), (0, 0));
    drop((socket, stream));
    sluice.stop().await;
}

/// K22, T14: each way to log in works, and each wrong way is told.
#[tokio::test]
async fn every_login_carries_messages_both_ways() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic("logins", 1).await;
    kafka.allow("alice", &topic);
    kafka.allow("client-alice", &topic);
    let bundle = certs::bundle();
    let mut mutual = json!({"kafka": {"brokers": kafka.brokers(Listener::MutualTls)}});
    mutual["kafka"]["tls"] = json!({"secretRef": {"name": "client"}});
    let mut cases = vec![("mutual-tls", mutual)];
    for (name, listener, mechanism) in [
        ("plain", Listener::Sasl, "PLAIN"),
        ("scram256", Listener::Sasl, "SCRAM-SHA-256"),
        ("scram512", Listener::Sasl, "SCRAM-SHA-512"),
        ("plain-tls", Listener::SaslTls, "PLAIN"),
        ("scram512-tls", Listener::SaslTls, "SCRAM-SHA-512"),
    ] {
        cases.push((name, kafka.sasl_server(listener, mechanism, "login")));
    }
    let mut documents = Documents::new()
        .secret("login", &[("username", USERS[1].0), ("password", USERS[1].1)])
        .secret("ca", &[("ca.crt", &bundle.ca)])
        .secret(
            "client",
            &[
                ("ca.crt", &bundle.ca),
                ("tls.crt", &bundle.client.certificate),
                ("tls.key", &bundle.client.key),
            ],
        );
    for (name, server) in &cases {
        let channel = Channel::both_ways("orders", &topic);
        documents = documents.api(Api::new(name).server("events", server.clone()).channel(channel));
    }
    let sluice = Sluice::start(&documents).await;
    for (name, _) in &cases {
        let url = sluice.url(&format!("/{name}/orders"));
        let mut stream = Sse::begin(&url).await;
        let answer = publish(&url, &[], format!("{{\"by\":\"{name}\"}}")).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        assert_eq!(stream.message().await.data, Some(format!("{{\"by\":\"{name}\"}}")), "{name}");
    }
    sluice.stop().await;
}

#[tokio::test]
async fn a_wrong_login_is_told_and_nobody_is_let_in() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic("wrong", 1).await;
    let bundle = certs::bundle();
    let wrong_password = kafka.sasl_server(Listener::Sasl, "SCRAM-SHA-512", "wrong");
    let no_permission = kafka.sasl_server(Listener::Sasl, "SCRAM-SHA-512", "bob");
    let stranger = json!({"kafka": {
        "brokers": kafka.brokers(Listener::MutualTls), "tls": {"secretRef": {"name": "rogue"}}, "properties": {},
    }});
    let untrusted = json!({"kafka": {
        "brokers": kafka.brokers(Listener::SaslTls), "tls": {},
        "sasl": {"mechanism": "SCRAM-SHA-512", "secretRef": {"name": "bob"}},
    }});
    let cases = [
        ("wrong-password", wrong_password, ["login", "authentication"]),
        ("no-permission", no_permission, ["grant", "authorization"]),
        ("stranger", stranger, ["TLS", "SSL"]),
        ("untrusted", untrusted, ["TLS", "SSL"]),
    ];
    let mut documents = Documents::new()
        .secret("wrong", &[("username", "alice"), ("password", "canary-password")])
        .secret("bob", &[("username", "bob"), ("password", "bob-secret")])
        .secret(
            "rogue",
            &[("ca.crt", &bundle.ca), ("tls.crt", &bundle.rogue.certificate), ("tls.key", &bundle.rogue.key)],
        );
    for (name, server, _) in &cases {
        let channel = Channel::both_ways("orders", &topic)
            .set("/subscribe/timeout", json!("1s"))
            .set("/publish/timeout", json!("1s"));
        documents = documents.api(Api::new(name).server("events", server.clone()).channel(channel));
    }
    let mut sluice = Sluice::start(&documents).await;
    sluice.expect_log(&["kafka", "Kafka", "server"]);
    for (name, _, told) in &cases {
        let url = sluice.url(&format!("/{name}/orders"));
        let answer = publish(&url, &[], "{}").await;
        assert!(matches!(answer.status, 503 | 504), "{name}: {answer:?}");
        let refused = Sse::request(&format!("{url}?sse=strict")).open().await.expect_err("not ready");
        assert_eq!(refused.status, 503, "{name}: {refused:?}");
        assert!(refused.header("retry-after").parse::<u32>().is_ok(), "{name}: {refused:?}");
        within(Duration::from_secs(20), "readyz tells the state", || async {
            let (status, body) = sluice.readyz().await;
            assert_eq!(status, 200, "one dead broker does not take the process out");
            let body: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
            state(&body, name).filter(|state| told.iter().any(|it| state.contains(it))).map(|_| ())
        })
        .await;
    }
    let (_, ready) = sluice.readyz().await;
    assert!(!sluice.log().contains("canary-password") && !ready.contains("canary-password"));
    assert_eq!(kafka.records(&topic).await.len(), 0, "nothing was written");
    sluice.stop().await;
}

/// What `/readyz` says of the servers of an API, as text.
fn state(body: &Value, api: &str) -> Option<String> {
    match body {
        Value::Object(fields) => fields.iter().find_map(|(key, value)| {
            let named = key.contains(api) || value.as_str().is_some_and(|it| it.contains(api));
            if named { Some(body.to_string()) } else { state(value, api) }
        }),
        Value::Array(items) => items.iter().find_map(|item| state(item, api)),
        _ => None,
    }
}

/// T24, A13: two processes, a hundred clients, every event to each of them, the same ids.
#[tokio::test]
async fn a_hundred_clients_on_two_processes_get_every_message_once() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic("hundred", 3).await;
    let documents = orders(kafka.server(), &topic);
    let state = process::directory("state");
    let (one, two) = (
        Sluice::with(&documents).state(&state).start().await,
        Sluice::with(&documents).state(&state).start().await,
    );
    let ledger = Ledger::new("hundred", 20);
    let mut clients = Vec::new();
    for number in 0..100 {
        let sluice = if number % 2 == 0 { &one } else { &two };
        clients.push(WebSocket::begin(&sluice.url("/shop/orders")).await.0);
    }
    for _ in 0..200 {
        let payload = ledger.offer();
        let url = one.url(&format!("/shop/orders?key={}", payload.key));
        assert_eq!(publish(&url, &[], payload.bytes).await.status, 200);
        ledger.accept(&payload.ident);
    }
    let mut first: Option<BTreeMap<String, Vec<u8>>> = None;
    for (number, mut client) in clients.into_iter().enumerate() {
        let mut reader = Reader::new(&ledger);
        let mut messages = BTreeMap::new();
        for _ in 0..200 {
            let message = client.message().await;
            let payload = message.payload().expect("a payload");
            reader.take(&payload, message.id.as_deref());
            messages.insert(message.id.expect("an id"), payload);
        }
        reader.check(&format!("client {number}"));
        assert_eq!(
            first.get_or_insert_with(|| messages.clone()),
            &messages,
            "the ids are the same everywhere"
        );
    }
    one.stop().await;
    two.stop().await;
}

/// A13, A14: a cursor is good on another process and after a restart, on both transports.
#[tokio::test]
async fn a_client_goes_on_where_it_was_on_another_process_and_after_a_restart() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic("resume", 3).await;
    let documents = orders(kafka.server(), &topic);
    let state = process::directory("state");
    let mut one = Sluice::with(&documents).state(&state).start().await;
    let two = Sluice::with(&documents).state(&state).start().await;
    let ledger = Ledger::new("resume", 9);
    let mut reader = Reader::new(&ledger);
    let send = |count: usize| {
        let (ledger, topic) = (&ledger, &topic);
        async move {
            let mut records = Vec::new();
            for _ in 0..count {
                let payload = ledger.offer();
                ledger.accept(&payload.ident);
                records.push(Record::new(payload.bytes).key(payload.key));
            }
            kafka.produce(topic, &records).await;
        }
    };
    let (mut socket, _) = WebSocket::begin(&one.url("/shop/orders")).await;
    send(30).await;
    let mut cursor = String::new();
    for _ in 0..20 {
        let message = socket.message().await;
        reader.take(&message.payload().expect("a payload"), message.id.as_deref());
        cursor = message.cursor.expect("a cursor");
    }
    drop(socket);
    // The other process, by the other transport.
    let mut stream = Sse::request(&two.url("/shop/orders?format=envelope"))
        .last_event_id(&cursor)
        .open()
        .await
        .expect("served");
    for _ in 0..5 {
        let block = stream.message().await;
        let envelope = block.frame();
        reader.take(&envelope.payload().expect("a payload"), envelope.id.as_deref());
        assert_eq!(block.id, envelope.cursor, "the event's id is the cursor");
        cursor = block.id.expect("an id");
    }
    drop(stream);
    one.kill();
    send(30).await;
    one.restart().await;
    let mut socket = WebSocket::open(&one.url(&format!("/shop/orders?cursor={cursor}")), JSON).await;
    assert_eq!(socket.frame().await.kind, "ready", "no gap");
    // Partitions interleave differently on each process, so a cursor may step back on the way:
    // some messages come twice with the same id, none is missed.
    for count in 0.. {
        if reader.lost().is_empty() {
            break;
        }
        assert!(count < 60, "{reader}");
        let message = socket.message().await;
        reader.take(&message.payload().expect("a payload"), message.id.as_deref());
    }
    reader.check("the client");
    drop(socket);
    one.stop().await;
    two.stop().await;
}

/// `start: latest` is the default: the past is for those who have a cursor.
#[tokio::test]
async fn a_new_client_starts_at_the_end() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic("latest", 2).await;
    kafka.produce(&topic, &(0..10).map(|n| Record::new(format!("old {n}"))).collect::<Vec<_>>()).await;
    let sluice = Sluice::start(&orders(kafka.server(), &topic)).await;
    let mut stream = Sse::begin(&sluice.url("/shop/orders")).await;
    kafka.produce(&topic, &[Record::new("new")]).await;
    assert_eq!(stream.message().await.data.as_deref(), Some("new"));
    sluice.stop().await;
}

/// A missing topic is a state, not the client's 404, and never made by us.
#[tokio::test]
async fn a_missing_topic_is_not_created_and_served_once_it_is_there() {
    let kafka = Cluster::shared().await;
    let topic = sluice_tests::seed::unique("missing");
    let channel = Channel::both_ways("orders", &topic).set("/subscribe/timeout", json!("1s"));
    let documents = Documents::new().api(Api::new("shop").server("events", kafka.server()).channel(channel));
    let mut sluice = Sluice::start(&documents).await;
    sluice.expect_log(&[&topic]);
    let url = sluice.url("/shop/orders");
    let answer = publish(&url, &[], "{}").await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.header("retry-after").parse::<u32>().is_ok(), "{answer:?}");
    answer.problem();
    let refused = Sse::request(&format!("{url}?sse=strict")).open().await.expect_err("not ready");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(!kafka.topics().contains(&topic), "the topic was created");
    eventually("readyz names the topic", || async { sluice.readyz().await.1.contains(&topic).then_some(()) })
        .await;
    kafka.create(&topic, 1, &[]).await;
    eventually("the topic is served", || async {
        (publish(&url, &[], "{}").await.status == 200).then_some(())
    })
    .await;
    let mut stream = Sse::begin(&url).await;
    assert_eq!(publish(&url, &[], "{\"n\":2}").await.status, 200);
    let mut message = stream.message().await;
    // The end is that of the process's ring: what was acknowledged a moment before the stream began
    // may still be on its way there from the broker.
    if message.data.as_deref() == Some("{}") {
        message = stream.message().await;
    }
    assert_eq!(message.data.as_deref(), Some("{\"n\":2}"));
    drop(stream);
    sluice.stop().await;
}

/// A record over `maxMessageBytes` is skipped and told; what follows still comes.
#[tokio::test]
async fn a_record_that_is_too_large_is_a_gap_of_its_own() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic_with("large", 1, &[("max.message.bytes", "4000000")]).await;
    let documents =
        orders(kafka.server(), &topic).policy("limits", "shop", json!({"limits": {"maxMessageBytes": 1000}}));
    let sluice = Sluice::start(&documents).await;
    let (mut socket, _) = WebSocket::begin(&sluice.url("/shop/orders")).await;
    let mut stream = Sse::begin(&sluice.url("/shop/orders")).await;
    let records = [
        Record::new("{\"n\":1}"),
        Record::new(format!("\"{}\"", "x".repeat(998))),
        Record::new(format!("\"{}\"", "x".repeat(999))),
        Record::new("x".repeat(3_000_000)),
        Record::new("{\"n\":2}"),
    ];
    kafka.produce(&topic, &records).await;
    assert_eq!(socket.message().await.payload().as_deref(), Some(&b"{\"n\":1}"[..]));
    assert_eq!(socket.message().await.payload().map(|it| it.len()), Some(1000), "exactly at the limit");
    let gap = socket.frame().await;
    assert_eq!((gap.kind.as_str(), gap.reason.as_deref()), ("gap", Some("tooLarge")), "{gap:?}");
    let mut next = socket.frame().await;
    while next.kind == "gap" {
        next = socket.frame().await;
    }
    assert_eq!(next.payload().as_deref(), Some(&b"{\"n\":2}"[..]));
    assert_eq!(stream.message().await.data.as_deref(), Some("{\"n\":1}"));
    stream.message().await;
    let gap = stream.block().await;
    assert_eq!((gap.event.as_str(), gap.id.is_some()), ("gap", true), "{gap:?}");
    assert_eq!(gap.frame().reason.as_deref(), Some("tooLarge"));
    let metrics = sluice.metrics().await;
    assert!(
        metrics.sum("messages_dropped_total", &[("reason", "tooLarge")]) >= 2.0,
        "{:?}",
        metrics.samples()
    );
    drop((socket, stream));
    sluice.stop().await;
}

/// A17: settings reach librdkafka, and dangerous ones are refused by name.
#[tokio::test]
async fn client_settings_pass_through_an_allow_list() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic("settings", 1).await;
    let mut good = kafka.server();
    good["kafka"]["properties"] =
        json!({"linger.ms": "300", "compression.codec": "lz4", "client.id": "orders-app"});
    let mut bad = kafka.server();
    bad["kafka"]["properties"] =
        json!({"plugin.library.paths": "/tmp/evil.so", "acks": "0", "linger.ms": "x"});
    let documents = orders(good, &topic)
        .api(Api::new("evil").server("events", bad).channel(Channel::both_ways("orders", &topic)));
    let mut sluice = Sluice::start(&documents).await;
    sluice.expect_log(&["evil", "apis.yaml"]);
    let begun = std::time::Instant::now();
    assert_eq!(publish(&sluice.url("/shop/orders"), &[], "{}").await.status, 200);
    assert!(begun.elapsed() >= Duration::from_millis(280), "linger.ms did not reach the producer");
    let status = http::get(&sluice.url("/evil/orders")).await.expect("answered").status;
    assert!(matches!(status, 404 | 503), "{status}");
    let refused = sluice.config().await["refused"].to_string();
    for name in ["plugin.library.paths", "acks"] {
        assert!(refused.contains(name), "{name}: {refused}");
    }
    sluice.stop().await;
}
