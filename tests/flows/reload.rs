//! Edits of the file: what did not change keeps its clients, what is wrong is refused per API, and
//! what is closed closes on open connections too.

use std::time::{Duration, Instant};

use serde_json::json;
use sluice_tests::client::http::{self, publish};
use sluice_tests::client::websocket::{Event, JSON};
use sluice_tests::documents::{Api, Channel, Documents, api_key};
use sluice_tests::kafka::topics::Record;
use sluice_tests::{Cluster, Sluice, Sse, WebSocket, eventually, seed, sluice};

/// The contract's bound for everything that acts on open connections.
const LIVE: Duration = Duration::from_secs(5);

fn api(name: &str) -> Api {
    Api::new(name).memory().channel(Channel::both_ways("orders", "orders"))
}

/// Publishes one message and checks that both streams get it.
async fn alive(sluice: &Sluice, path: &str, socket: &mut WebSocket, stream: &mut Sse) {
    let text = format!("\"{}\"", seed::unique("alive"));
    let kind = [("content-type", "application/json")];
    assert_eq!(publish(&sluice.url(path), &kind, text.clone()).await.status, 200);
    assert_eq!(socket.message().await.payload(), Some(text.clone().into()));
    assert_eq!(stream.message().await.data, Some(text));
}

#[tokio::test]
async fn clients_of_what_did_not_change_stay_connected() {
    let before = Documents::new().api(api("stays")).api(api("goes"));
    let sluice = Sluice::start(&before).await;
    let url = sluice.url("/stays/orders");
    let (mut socket, _) = WebSocket::begin(&url).await;
    let mut stream = Sse::begin(&url).await;
    let (mut goes, _) = WebSocket::begin(&sluice.url("/goes/orders")).await;
    let revision = sluice.revision("stays").await;
    for edit in [
        Documents::new().api(api("stays")).api(api("goes").channel(Channel::both_ways("more", "more"))),
        Documents::new().api(api("comes")).api(api("stays")),
        Documents::new().api(api("stays")).policy("limits", "stays", json!({"limits": {"connections": 50}})),
    ] {
        sluice.apply(&edit).await;
        alive(&sluice, "/stays/orders", &mut socket, &mut stream).await;
    }
    assert_ne!(sluice.revision("stays").await, revision, "a policy is part of the revision");
    let (code, _) = goes.close_code().await;
    assert_eq!(code, 4404, "the API is gone");
    assert_eq!(publish(&sluice.url("/goes/orders"), &[], "1").await.status, 404);
    drop((socket, stream));
    sluice.stop().await;
}

/// A new channel on an API leaves the streams of the other channels alone.
#[tokio::test]
async fn clients_of_the_other_channels_of_a_changed_api_stay_connected() {
    let sluice = Sluice::start(&Documents::new().api(api("shop"))).await;
    let (mut socket, _) = WebSocket::begin(&sluice.url("/shop/orders")).await;
    let mut stream = Sse::begin(&sluice.url("/shop/orders")).await;
    let more = api("shop").channel(Channel::both_ways("more", "more"));
    sluice.apply(&Documents::new().api(more)).await;
    assert_eq!(publish(&sluice.url("/shop/more"), &[], "1").await.status, 200);
    alive(&sluice, "/shop/orders", &mut socket, &mut stream).await;
    drop((socket, stream));
    sluice.stop().await;
}

#[tokio::test]
async fn an_api_with_problems_is_refused_alone_and_its_last_good_version_serves() {
    let mut sluice = Sluice::start(&Documents::new().api(api("good")).api(api("turns-bad"))).await;
    sluice.expect_log(&["turns-bad", "apis.yaml"]);
    let (mut socket, _) = WebSocket::begin(&sluice.url("/turns-bad/orders")).await;
    let mut stream = Sse::begin(&sluice.url("/turns-bad/orders")).await;
    let bad = Api::new("turns-bad")
        .memory()
        .channel(Channel::both_ways("orders", "orders").set("/server", json!("nowhere")))
        .channel(Channel::both_ways("orders", "orders").set("/surprise", json!(1)));
    let added = api("good").channel(Channel::both_ways("added", "added"));
    sluice.write(&Documents::new().api(added).api(bad));
    eventually("the good API is served anew", || async {
        (publish(&sluice.url("/good/added"), &[], "1").await.status == 200).then_some(())
    })
    .await;
    alive(&sluice, "/turns-bad/orders", &mut socket, &mut stream).await;
    let refused = sluice.config().await["refused"].clone();
    let entry =
        refused.as_array().and_then(|list| list.iter().find(|it| it["api"] == "default/turns-bad").cloned());
    let entry = entry.unwrap_or_else(|| panic!("{refused}"));
    let problems = entry["problems"].to_string();
    for part in ["nowhere", "surprise", "spec.channels[1].name"] {
        assert!(problems.contains(part), "every problem at once, {part}: {problems}");
    }
    let metrics = sluice.metrics().await;
    let reloads: f64 = metrics.sum("config_reloads_total", &[]);
    assert!(reloads >= 2.0, "{reloads}");
    sluice.apply(&Documents::new().api(api("good")).api(api("turns-bad"))).await;
    eventually("nothing is refused any more", || async {
        sluice.config().await["refused"].as_array().is_some_and(Vec::is_empty).then_some(())
    })
    .await;
    alive(&sluice, "/turns-bad/orders", &mut socket, &mut stream).await;
    drop((socket, stream));
    sluice.stop().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_read_changes_nothing() {
    let documents = Documents::new().api(api("shop"));
    let mut sluice = Sluice::start(&documents).await;
    sluice.expect_log(&["apis.yaml"]);
    let (mut socket, _) = WebSocket::begin(&sluice.url("/shop/orders")).await;
    let mut stream = Sse::begin(&sluice.url("/shop/orders")).await;
    let bomb: String = (0..9).fold("a0: &a0 [x]\n".into(), |text, level| {
        let next = level + 1;
        let items = vec![format!("*a{level}"); 10].join(", ");
        format!("{text}a{next}: &a{next} [{items}]\n")
    });
    let texts = [
        String::new(),
        "\n\n".into(),
        "apiVersion: [broken".into(),
        "\u{0}\u{1}binary".into(),
        bomb,
        format!("description: {}", "[".repeat(100_000)),
        documents.text()[..documents.text().len() / 2].into(),
    ];
    for (number, text) in texts.iter().enumerate() {
        // A problem is told once; something good between two bad texts makes the second one new.
        sluice.apply(&documents.clone().api(api(&format!("between{number}")))).await;
        let before = sluice.log().len();
        sluice.write_text(text);
        eventually("the file is reported", || async {
            sluice.log()[before..].contains("apis.yaml").then_some(())
        })
        .await;
        alive(&sluice, "/shop/orders", &mut socket, &mut stream).await;
    }
    sluice.apply(&documents.clone().api(api("second"))).await;
    assert_eq!(
        publish(&sluice.url("/second/orders"), &[], "1").await.status,
        200,
        "the next good one is taken"
    );
    alive(&sluice, "/shop/orders", &mut socket, &mut stream).await;
    drop((socket, stream));
    sluice.stop().await;
}

/// K03: taking a key away closes its open streams, and only those.
#[tokio::test]
async fn a_key_that_is_removed_closes_its_clients_within_five_seconds() {
    let mut rng = seed::rng("removed key");
    let ((gone, gone_entry), (kept, kept_entry)) = (api_key(&mut rng), api_key(&mut rng));
    let documents = |entries: &[(&str, &str)]| {
        Documents::new()
            .api(api("shop"))
            .policy("keys", "shop", json!({"authentication": {"apiKeys": {"secretRef": {"name": "keys"}}}}))
            .secret("keys", entries)
    };
    let sluice = Sluice::start(&documents(&[("gone", &gone_entry), ("kept", &kept_entry)])).await;
    let url = sluice.url("/shop/orders");
    let open = |key: String| {
        let url = url.clone();
        async move {
            let socket = WebSocket::request(&url).protocol(JSON).header("x-api-key", &key).open().await;
            let stream = Sse::request(&url).header("x-api-key", &key).open().await;
            (socket.expect("a good key"), stream.expect("a good key"))
        }
    };
    let (mut gone_socket, mut gone_stream) = open(gone.clone()).await;
    let (mut kept_socket, mut kept_stream) = open(kept.clone()).await;
    let begun = Instant::now();
    sluice.write(&documents(&[("kept", &kept_entry)]));
    let (code, reason) = gone_socket.close_code().await;
    assert!(matches!(code, 4401 | 4403), "{code} {reason}");
    while gone_stream.next().await.is_some() {}
    assert!(begun.elapsed() < LIVE, "{:?}", begun.elapsed());
    assert_eq!(publish(&url, &[("x-api-key", &gone)], "1").await.status, 401);
    assert_eq!(publish(&url, &[("x-api-key", &kept)], "1").await.status, 200);
    assert_eq!(kept_socket.frame().await.kind, "ready");
    assert_eq!(kept_socket.message().await.payload(), Some(b"1".to_vec()));
    assert_eq!(kept_stream.message().await.data.as_deref(), Some("1"));
    drop((kept_socket, kept_stream));
    sluice.stop().await;
}

/// Lifecycle `Blocked` acts on open connections.
#[tokio::test]
async fn a_blocked_api_closes_its_clients_within_five_seconds() {
    let documents = |state: &str| Documents::new().api(api("shop").lifecycle(json!({"state": state})));
    let sluice = Sluice::start(&documents("Published")).await;
    let url = sluice.url("/shop/orders");
    let (mut socket, _) = WebSocket::begin(&url).await;
    let mut stream = Sse::begin(&url).await;
    let begun = Instant::now();
    sluice.write(&documents("Blocked"));
    assert_eq!(socket.close_code().await.0, 4410);
    while stream.next().await.is_some() {}
    assert!(begun.elapsed() < LIVE, "{:?}", begun.elapsed());
    let answer = publish(&url, &[], "1").await;
    assert_eq!(answer.status, 410, "{answer:?}");
    answer.problem();
    assert_eq!(Sse::request(&url).open().await.expect_err("blocked").status, 410);
    sluice.apply(&documents("Published")).await;
    assert_eq!(publish(&url, &[], "1").await.status, 200);
    sluice.stop().await;
}

/// RFC 9745 and RFC 8594.
#[tokio::test]
async fn a_deprecated_api_serves_and_says_so() {
    let lifecycle = json!({
        "state": "Deprecated",
        "deprecatedAt": "2026-01-02T03:04:05Z",
        "sunsetAt": "2027-01-01T00:00:00Z",
        "link": "https://shop.example/move",
    });
    let sluice = Sluice::start(&Documents::new().api(api("shop").lifecycle(lifecycle))).await;
    let url = sluice.url("/shop/orders");
    let answer = publish(&url, &[], "1").await;
    let stream = Sse::open(&url).await;
    let socket = WebSocket::open(&url, JSON).await;
    for headers in [&answer.headers, &stream.headers, &socket.headers] {
        let header = |name: &str| headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default();
        assert_eq!(header("deprecation"), "@1767323045", "{headers:?}");
        assert_eq!(header("sunset"), "Fri, 01 Jan 2027 00:00:00 GMT", "{headers:?}");
        assert!(
            header("link").contains("<https://shop.example/move>") && header("link").contains("deprecation")
        );
    }
    drop((stream, socket));
    sluice.stop().await;
}

/// Design §2: it fails closed, on open connections too.
#[tokio::test]
async fn a_channel_whose_policy_cannot_be_resolved_is_closed() {
    let (key, entry) = api_key(&mut seed::rng("fails closed"));
    let keys = json!({"authentication": {"apiKeys": {"secretRef": {"name": "keys"}}}});
    let good = Documents::new().api(api("shop")).api(api("other")).policy("keys", "shop", keys.clone());
    let whole = good.clone().secret("keys", &[("laptop", &entry)]);
    let unlabelled = good.clone().with(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"laptop": entry},
    }));
    let broken = whole.clone().policy(
        "more",
        "shop",
        json!({"authentication": {"apiKeys": {"secretRef": {"name": ""}}}}),
    );
    let mut sluice = Sluice::start(&whole).await;
    sluice.expect_log(&["keys", "shop", "more", "apis.yaml"]);
    let url = sluice.url("/shop/orders");
    for (name, documents) in [("no secret", &good), ("no label", &unlabelled), ("a wrong policy", &broken)] {
        let opened = WebSocket::request(&url).protocol(JSON).header("x-api-key", &key).open().await;
        let mut socket = opened.unwrap_or_else(|answer| panic!("before {name}: {answer:?}"));
        let mut stream = Sse::request(&url).header("x-api-key", &key).open().await.expect("a good key");
        let begun = Instant::now();
        sluice.write(documents);
        assert_eq!(socket.close_code().await.0, 1013, "{name}: not ready");
        while stream.next().await.is_some() {}
        assert!(begun.elapsed() < LIVE, "{name}: {:?}", begun.elapsed());
        for headers in [&[("x-api-key", key.as_str())][..], &[]] {
            let answer = publish(&url, headers, "1").await;
            assert_eq!(answer.status, 503, "{name}: {answer:?}");
        }
        let mut throttled =
            Sse::request(&url).header("x-api-key", &key).open().await.expect("transient: 200");
        assert_eq!(throttled.event().await.event, "throttled", "{name}");
        assert_eq!(publish(&sluice.url("/other/orders"), &[], "1").await.status, 200, "{name}: others serve");
        sluice.write(&whole);
        eventually("it serves again", || async {
            (publish(&url, &[("x-api-key", &key)], "1").await.status == 200).then_some(())
        })
        .await;
    }
    sluice.stop().await;
}

/// A policy that is deleted by accident of an unreadable file keeps protecting.
#[tokio::test]
async fn a_new_policy_asks_open_clients_for_its_key() {
    let (key, entry) = api_key(&mut seed::rng("new policy"));
    let open = Documents::new().api(api("shop"));
    let closed = open
        .clone()
        .policy("keys", "shop", json!({"authentication": {"apiKeys": {"secretRef": {"name": "keys"}}}}))
        .secret("keys", &[("laptop", &entry)]);
    let sluice = Sluice::start(&open).await;
    let url = sluice.url("/shop/orders");
    let (mut anonymous, _) = WebSocket::begin(&url).await;
    let begun = Instant::now();
    sluice.write(&closed);
    let (code, reason) = anonymous.close_code().await;
    assert!(matches!(code, 4401 | 4403), "{code} {reason}");
    assert!(begun.elapsed() < LIVE);
    assert_eq!(publish(&url, &[], "1").await.status, 401);
    assert_eq!(publish(&url, &[("x-api-key", &key)], "1").await.status, 200);
    sluice.stop().await;
}

/// Of several policies the more specific one wins part by part; limits merge limit by limit.
#[tokio::test]
async fn the_more_specific_policy_wins() {
    let (key, entry) = api_key(&mut seed::rng("specific"));
    let api = api("shop").channel(Channel::both_ways("open", "open"));
    let documents = Documents::new()
        .api(api)
        .policy(
            "all",
            "shop",
            json!({
                "authentication": {"apiKeys": {"secretRef": {"name": "keys"}}},
                "limits": {"maxMessageBytes": 10, "connections": 1},
            }),
        )
        .targeted(
            "one",
            json!([{"kind": "StreamAPI", "name": "shop", "sectionName": "open"}]),
            json!({"authentication": {"none": {}}, "limits": {"maxMessageBytes": 20}}),
        )
        .secret("keys", &[("laptop", &entry)]);
    let sluice = Sluice::start(&documents).await;
    let key = [("x-api-key", key.as_str())];
    let (orders, open) = (sluice.url("/shop/orders"), sluice.url("/shop/open"));
    for (url, headers, size, expected) in [
        (&orders, &key[..], 10, 200),
        (&orders, &key[..], 11, 413),
        (&orders, &[], 1, 401),
        (&open, &[], 20, 200),
        (&open, &[], 21, 413),
    ] {
        assert_eq!(publish(url, headers, "x".repeat(size)).await.status, expected, "{url} {size}");
    }
    let _one = Sse::begin(&open).await;
    let second = Sse::request(&format!("{open}?sse=strict")).open().await;
    assert_eq!(second.expect_err("connections come from the other policy").status, 429);
    sluice.stop().await;
}

/// A TLS certificate is exchanged without closing anybody.
#[tokio::test]
async fn a_new_certificate_is_served_without_dropping_clients() {
    let bundle = sluice_tests::certs::bundle();
    let documents = |identity: &sluice_tests::certs::Identity| {
        Documents::new().api(api("shop")).tls_secret("edge", &identity.certificate, &identity.key)
    };
    let sluice = Sluice::with(&documents(&bundle.server)).tls("default/edge").start().await;
    let url = sluice.tls_url("/shop/orders");
    let (mut socket, _) = WebSocket::begin(&url).await;
    let mut stream = Sse::begin(&url).await;
    let before = peer_certificate(&url).await;
    let next = bundle.another_server();
    sluice.write(&documents(&next));
    eventually("the new certificate is served", || async {
        (peer_certificate(&url).await != before).then_some(())
    })
    .await;
    alive(&sluice, "/shop/orders", &mut socket, &mut stream).await;
    drop((socket, stream));
    sluice.stop().await;
}

/// The certificate that new connections get, DER.
async fn peer_certificate(url: &str) -> Vec<u8> {
    let client = http::builder().tls_info(true).pool_max_idle_per_host(0).build().expect("a client");
    let answer = client.head(url).send().await.expect("answered");
    let info = answer.extensions().get::<reqwest::tls::TlsInfo>().expect("TLS was used");
    info.peer_certificate().expect("a certificate").to_vec()
}

/// Another topic for a channel: its clients are told, the others are not concerned.
#[tokio::test]
async fn a_channel_that_moves_to_another_topic_tells_its_clients() {
    let kafka = Cluster::shared().await;
    let (first, second) = (kafka.topic("first", 1).await, kafka.topic("second", 1).await);
    let documents = |topic: &str| {
        Documents::new()
            .api(
                Api::new("shop")
                    .server("events", kafka.server())
                    .channel(Channel::both_ways("orders", topic)),
            )
            .api(api("other"))
    };
    let sluice = Sluice::start(&documents(&first)).await;
    let url = sluice.url("/shop/orders");
    let (mut socket, _) = WebSocket::begin(&url).await;
    let (mut other, _) = WebSocket::begin(&sluice.url("/other/orders")).await;
    kafka.produce(&first, &[Record::new("1")]).await;
    let cursor = socket.message().await.cursor.expect("a cursor");
    sluice.apply(&documents(&second)).await;
    kafka.produce(&second, &[Record::new("2")]).await;
    // Either told in place or sent back to reconnect: never silently on the old topic.
    match socket.payload_or_close().await {
        Event::Text(text) => assert!(text.contains("\"gap\"") || text.contains("\"drain\""), "{text}"),
        Event::Close(code, _) => assert!(matches!(code, 1012 | 4409 | 4404), "{code}"),
        event => panic!("{event:?}"),
    }
    let mut resumed = WebSocket::open(&format!("{url}?cursor={cursor}"), JSON).await;
    assert_eq!(resumed.frame().await.cursor, None);
    assert_eq!(resumed.frame().await.reason.as_deref(), Some("recreated"), "same channel, another address");
    assert_eq!(resumed.message().await.payload(), Some(b"2".to_vec()));
    assert_eq!(other.within(Duration::from_millis(50)).await, None);
    sluice.stop().await;
}

/// At start, the good is served and the rest reported; with nothing good it ends with 1.
#[tokio::test]
async fn a_start_with_nothing_to_serve_ends_with_one() {
    let bad = Api::new("bad").memory().channel(Channel::new("orders", "orders"));
    let mut half = Sluice::start(&Documents::new().api(api("good")).api(bad.clone())).await;
    half.expect_log(&["bad", "apis.yaml"]);
    assert_eq!(publish(&half.url("/good/orders"), &[], "1").await.status, 200);
    assert_eq!(publish(&half.url("/bad/orders"), &[], "1").await.status, 404);
    half.stop().await;
    let mut none = Sluice::with(&Documents::new().api(bad)).launch();
    none.expect_log(&["bad", "apis.yaml", "correct the problems above"]);
    assert_eq!(none.ended(Duration::from_secs(10)).await.code(), Some(1));
}

/// `sluice check` names every problem by file and line.
#[tokio::test]
async fn check_tells_every_problem_with_its_line() {
    let file = sluice_tests::process::directory("check").join("apis.yaml");
    let text = "apiVersion: sluice.dev/v1alpha1\nkind: StreamAPI\nmetadata: {name: shop}\nspec:\n  servers:\n    - name: events\n      memory: {}\n  channels:\n    - name: orders\n      server: nowhere\n      address: orders\n      subscribe: {transports: {websocket: {}, poll: {}}}\n    - name: Orders\n      server: events\n      address: a\n      publish: {transports: {http: {}}}\n      colour: blue\n";
    std::fs::write(&file, text).expect("a file can be written");
    let path = file.display().to_string();
    let output = sluice::command(&["check", "-f", &path]);
    let told = [output.stdout, output.stderr].map(|it| String::from_utf8_lossy(&it).into_owned()).concat();
    assert_eq!(output.status.code(), Some(1), "{told}");
    for (line, part) in [(10, "nowhere"), (12, "poll"), (13, "Orders"), (17, "colour")] {
        let found = told.lines().any(|it| it.contains(&format!("apis.yaml:{line}:")) && it.contains(part));
        assert!(found, "line {line}, {part}:\n{told}");
    }
    std::fs::write(&file, Documents::new().api(api("shop")).text()).expect("a file can be written");
    assert_eq!(sluice::command(&["check", "-f", &path]).status.code(), Some(0));
    assert_eq!(sluice::command(&["check"]).status.code(), Some(2), "wrong usage");
    assert_eq!(sluice::command(&["check", "-f", "/nonexistent/x.yaml"]).status.code(), Some(1));
}
