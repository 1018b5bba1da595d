//! Metrics whose books balance, labels from bounded sets, and both signals at a real collector.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_tests::client::http::{self, publish};
use sluice_tests::client::websocket::JSON;
use sluice_tests::documents::{Api, Channel, Documents, api_key};
use sluice_tests::kafka::topics::Record;
use sluice_tests::metrics::Metrics;
use sluice_tests::otel::Collector;
use sluice_tests::wait::within;
use sluice_tests::{Cluster, Sluice, Sse, WebSocket, seed};

/// The contract's families (without prefix) that this build can fill.
const FAMILIES: &[&str] = &[
    "messages_received_total",
    "messages_due_total",
    "messages_written_total",
    "messages_dropped_total",
    "messages_published_total",
    "payload_bytes_total",
    "connections",
    "connections_opened_total",
    "connections_closed_total",
    "publish_duration_seconds",
    "delivery_age_seconds",
    "server_up",
    "config_reloads_total",
    "config_sequence",
    "policy_decisions_total",
];

/// Labels that any of our metrics may have.
const LABELS: &[&str] =
    &["namespace", "api", "channel", "transport", "server", "outcome", "reason", "direction", "policy", "le"];

/// due = written + filtered + dropped, for each channel and transport.
fn unbalanced(metrics: &Metrics) -> Vec<String> {
    let mut books = BTreeSet::new();
    for sample in metrics.samples().iter().filter(|it| it.name == "sluice_messages_due_total") {
        let label = |name: &str| sample.labels.get(name).cloned().unwrap_or_default();
        books.insert((label("api"), label("channel"), label("transport")));
    }
    assert!(!books.is_empty(), "no books at all");
    books
        .into_iter()
        .filter_map(|(api, channel, transport)| {
            let labels =
                [("api", api.as_str()), ("channel", channel.as_str()), ("transport", transport.as_str())];
            let sum = |name: &str| metrics.sum(name, &labels);
            let (due, written) = (sum("messages_due_total"), sum("messages_written_total"));
            let (filtered, dropped) = (sum("messages_filtered_total"), sum("messages_dropped_total"));
            let balanced = due == written + filtered + dropped;
            (!balanced).then(|| {
                format!("{labels:?}: due {due}, written {written}, filtered {filtered}, dropped {dropped}")
            })
        })
        .collect()
}

async fn balanced(sluice: &Sluice) -> Metrics {
    within(Duration::from_secs(10), "the books balance at rest", || async {
        let metrics = sluice.metrics().await;
        let wrong = unbalanced(&metrics);
        if wrong.is_empty() {
            return Some(metrics);
        }
        println!("{wrong:?}");
        None
    })
    .await
}

/// T10: events in and out per API and channel.
#[tokio::test]
async fn the_books_balance_to_the_message() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic("books", 3).await;
    let channel = Channel::both_ways("orders", &topic);
    let api = Api::new("shop").server("events", kafka.server()).channel(channel);
    let sluice = Sluice::start(&Documents::new().api(api)).await;
    let url = sluice.url("/shop/orders");
    let mut sockets = Vec::new();
    let mut streams = Vec::new();
    for _ in 0..5 {
        sockets.push(WebSocket::begin(&url).await.0);
        streams.push(Sse::begin(&url).await);
    }
    let records: Vec<Record> =
        (0..300).map(|n| Record::new(format!("{{\"n\":{n:07}}}")).key(n.to_string())).collect();
    kafka.produce(&topic, &records).await;
    for _ in 0..100 {
        assert_eq!(publish(&url, &[], "{\"n\":1234567}").await.status, 200);
    }
    for socket in &mut sockets {
        for _ in 0..400 {
            socket.message().await;
        }
    }
    for stream in &mut streams {
        for _ in 0..400 {
            stream.message().await;
        }
    }
    let labels = [("namespace", "default"), ("api", "shop"), ("channel", "orders")];
    let metrics = balanced(&sluice).await;
    let sum = |name: &str, more: &[(&str, &str)]| metrics.sum(name, &[&labels[..], more].concat());
    assert_eq!(sum("messages_received_total", &[]), 400.0, "each record was read once for all clients");
    for transport in ["websocket", "sse"] {
        assert_eq!(sum("messages_written_total", &[("transport", transport)]), 2000.0, "{transport}");
        assert_eq!(sum("connections", &[("transport", transport)]), 5.0, "{transport}");
        assert_eq!(sum("connections_opened_total", &[("transport", transport)]), 5.0, "{transport}");
    }
    assert_eq!(sum("messages_published_total", &[]), 100.0);
    assert_eq!(sum("publish_duration_seconds_count", &[]), 100.0);
    assert_eq!(sum("messages_dropped_total", &[]), 0.0);
    assert_eq!(metrics.sum("server_up", &[("server", "events")]), 1.0);
    assert!(sum("payload_bytes_total", &[]) > 0.0);
    // Clients that leave in the middle: what they were owed is dropped with a reason.
    drop((sockets, streams));
    kafka.produce(&topic, &records).await;
    within(Duration::from_secs(10), "all are gone", || async {
        (sluice.metrics().await.sum("connections", &labels) == 0.0).then_some(())
    })
    .await;
    let metrics = balanced(&sluice).await;
    assert_eq!(metrics.sum("connections_closed_total", &labels), 10.0);
    sluice.stop().await;
}

/// A client that never reads and is cut: the books still balance.
#[tokio::test]
async fn what_a_client_did_not_read_is_counted_as_dropped() {
    let channel = Channel::both_ways("orders", "orders").set("/subscribe/replay", json!({"messages": 20}));
    let mut sluice = Sluice::start(&Documents::new().api(Api::new("shop").memory().channel(channel))).await;
    sluice.expect_log(&["slow"]);
    let url = sluice.url("/shop/orders");
    let mut silent = sluice_tests::client::raw::Raw::connect(sluice.port()).await;
    silent.send("GET /shop/orders HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n").await;
    silent.until("id:").await;
    let body = "x".repeat(200_000);
    for _ in 0..200 {
        assert_eq!(publish(&url, &[], body.clone()).await.status, 200);
    }
    within(Duration::from_secs(15), "the slow client is cut", || async {
        (sluice.metrics().await.sum("connections", &[("channel", "orders")]) == 0.0).then_some(())
    })
    .await;
    let metrics = balanced(&sluice).await;
    assert!(metrics.sum("messages_dropped_total", &[]) > 0.0);
    assert_eq!(metrics.sum("messages_due_total", &[]), 200.0);
    drop(silent);
    sluice.stop().await;
}

#[tokio::test]
async fn every_family_is_there_with_labels_from_bounded_sets() {
    let (key, entry) = api_key(&mut seed::rng("labels"));
    let documents = Documents::new()
        .api(Api::new("shop").memory().channel(Channel::both_ways("orders", "orders.address")))
        .policy("keys", "shop", json!({"authentication": {"apiKeys": {"secretRef": {"name": "keys"}}}}))
        .secret("keys", &[("laptop-key", &entry)]);
    let sluice = Sluice::start(&documents).await;
    let url = sluice.url("/shop/orders");
    let mut socket =
        WebSocket::request(&url).protocol(JSON).header("x-api-key", &key).open().await.expect("served");
    socket.frame().await;
    let headers =
        [("x-api-key", key.as_str()), ("message-key", "canary-message-key"), ("user-agent", "canary-agent")];
    assert_eq!(publish(&format!("{url}?format=raw"), &headers, "canary-payload").await.status, 200);
    socket.message().await;
    assert_eq!(publish(&url, &[("x-api-key", "slk_wrong")], "1").await.status, 401);
    for n in 0..50 {
        http::get(&sluice.url(&format!("/canary-path-{n}/x"))).await.expect("answered");
    }
    socket.close().await;
    within(Duration::from_secs(5), "the close is counted", || async {
        (sluice.metrics().await.sum("connections_closed_total", &[]) == 1.0).then_some(())
    })
    .await;
    let answer = http::get(&sluice.admin("/metrics")).await.expect("served");
    assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"), "{answer:?}");
    let text = answer.text();
    let metrics = Metrics::parse(&text);
    for family in FAMILIES {
        let name = format!("sluice_{family}");
        let there = metrics.types.contains_key(&name);
        assert!(there || family.contains("dropped"), "{name} is missing:\n{text}");
    }
    for sample in metrics.samples().iter().filter(|it| it.name.starts_with("sluice_")) {
        for (label, value) in &sample.labels {
            assert!(LABELS.contains(&label.as_str()), "label {label} of {}", sample.name);
            assert!(!value.contains("canary") && !value.contains("slk_"), "{label}={value}");
        }
    }
    assert!(
        !text.contains("canary") && !text.contains("orders.address") && !text.contains("laptop-key"),
        "{text}"
    );
    assert!(text.contains("process_resident_memory_bytes"), "process metrics as usual");
    sluice.stop().await;
}

#[tokio::test]
async fn the_admin_port_only_reads() {
    let sluice =
        Sluice::start(&Documents::new().api(Api::new("shop").memory().channel(Channel::both_ways("o", "o"))))
            .await;
    for path in ["/healthz", "/readyz", "/metrics", "/config"] {
        assert_eq!(http::get(&sluice.admin(path)).await.expect("answered").status, 200, "{path}");
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let method = method.parse().expect("a method");
            let answer = http::request(method, &sluice.admin(path), &[], "").await.expect("answered");
            assert_eq!(answer.status, 405, "{path}");
        }
        let public = http::get(&sluice.url(path)).await.expect("answered");
        assert_eq!(public.status, 404, "{path} on the public port");
    }
    assert_eq!(http::get(&sluice.admin("/nothing")).await.expect("answered").status, 404);
    let config = sluice.config().await;
    assert_eq!(config["sequence"].as_u64(), Some(1), "{config}");
    let api = &config["apis"][0];
    assert_eq!((&api["namespace"], &api["name"]), (&json!("default"), &json!("shop")), "{config}");
    assert!(
        api["revision"].is_string() && api["material"].is_object() && config["appliedAt"].is_string(),
        "{config}"
    );
    assert_eq!(config["refused"], json!([]));
    sluice.stop().await;
}

/// X09: who wants to know whom a change would meet asks one page.
#[tokio::test]
async fn open_streams_are_told_by_channel_and_transport() {
    let api = Api::new("shop").memory().channel(Channel::both_ways("orders", "orders"));
    let api = api.channel(Channel::both_ways("notes", "notes"));
    let sluice = Sluice::start(&Documents::new().api(api)).await;
    let told = async |what: &str, expected: Value| {
        within(Duration::from_secs(10), what, || async {
            (sluice.config().await["apis"][0]["streams"] == expected).then_some(())
        })
        .await;
    };
    told("there are none", json!({})).await;
    let url = sluice.url("/shop/orders");
    let (first, _) = WebSocket::begin(&url).await;
    let (_second, _) = WebSocket::begin(&url).await;
    let _stream = Sse::begin(&url).await;
    told("three are open", json!({"orders": {"websocket": 2, "sse": 1}})).await;
    first.close().await;
    told("one has gone", json!({"orders": {"websocket": 1, "sse": 1}})).await;
    sluice.stop().await;
}

/// T11: metrics, and one trace from client over broker to client, at a real collector.
#[tokio::test]
async fn a_collector_gets_metrics_and_a_trace_through_the_broker() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic("traced", 1).await;
    let collector = Collector::start().await;
    let channel = Channel::both_ways("orders", &topic);
    let documents = Documents::new().api(Api::new("shop").server("events", kafka.server()).channel(channel));
    let setup = Sluice::with(&documents).environment("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint());
    let sluice = setup.start().await;
    let url = sluice.url("/shop/orders");
    let (mut socket, _) = WebSocket::begin(&url).await;
    let mut rng = seed::rng("trace");
    let trace = format!("{:032x}", rng.u128(1..));
    let parent = format!("{:016x}", rng.u64(1..));
    let traceparent = format!("00-{trace}-{parent}-01");
    assert_eq!(publish(&url, &[("traceparent", &traceparent)], "{\"canary\":\"payload\"}").await.status, 200);
    let message = socket.message().await;
    let carried = message.headers.iter().find(|(name, _)| name == "traceparent");
    let carried = carried.and_then(|(_, value)| value.as_str()).expect("the context goes with the message");
    assert!(carried.contains(&trace), "{carried}");
    let spans = collector
        .find("both spans of the trace", |documents| {
            let spans: Vec<Value> =
                spans(documents).into_iter().filter(|span| span["traceId"] == trace.as_str()).collect();
            (spans.len() >= 2).then_some(spans)
        })
        .await;
    let publish_span = spans.iter().find(|span| span["parentSpanId"] == parent.as_str());
    let publish_span = publish_span.unwrap_or_else(|| panic!("no child of the client's span: {spans:?}"));
    let pushed = spans
        .iter()
        .any(|span| span["parentSpanId"] == publish_span["spanId"] || linked(span, &publish_span["spanId"]));
    assert!(pushed, "no span of the delivery below the publish: {spans:?}");
    let attributes = publish_span["attributes"].to_string();
    for part in ["messaging.system", "kafka", "messaging.destination.name", &topic] {
        assert!(attributes.contains(part), "{part}: {attributes}");
    }
    assert!(!json!(spans).to_string().contains("canary"), "no payload in a span");
    let seen: BTreeSet<String> = collector
        .find("the metrics", |documents| {
            let names = metric_names(documents);
            let wanted = ["messages_published", "messages_written", "connections"];
            wanted.iter().all(|part| names.iter().any(|name| name.contains(part))).then_some(names)
        })
        .await;
    println!("{seen:?}");
    drop(socket);
    sluice.stop().await;
}

fn linked(span: &Value, to: &Value) -> bool {
    span["links"].as_array().is_some_and(|links| links.iter().any(|link| &link["spanId"] == to))
}

fn spans(documents: &[Value]) -> Vec<Value> {
    let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    documents
        .iter()
        .flat_map(|document| list(document, "resourceSpans"))
        .flat_map(|resource| list(&resource, "scopeSpans"))
        .flat_map(|scope| list(&scope, "spans"))
        .collect()
}

fn metric_names(documents: &[Value]) -> BTreeSet<String> {
    let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    documents
        .iter()
        .flat_map(|document| list(document, "resourceMetrics"))
        .flat_map(|resource| list(&resource, "scopeMetrics"))
        .flat_map(|scope| list(&scope, "metrics"))
        .filter_map(|metric| metric["name"].as_str().map(str::to_owned))
        .collect()
}

/// A collector that is away costs nothing but its telemetry.
#[tokio::test]
async fn a_collector_that_is_away_stops_nothing() {
    let channel = Channel::both_ways("orders", "orders");
    let documents = Documents::new().api(Api::new("shop").memory().channel(channel));
    let nobody = format!("http://127.0.0.1:{}", sluice_tests::process::port());
    let setup = Sluice::with(&documents).environment("OTEL_EXPORTER_OTLP_ENDPOINT", &nobody);
    let mut sluice = setup.start().await;
    sluice.expect_log(&["otlp", "OTLP", "telemetry", "opentelemetry", "collector"]);
    assert_eq!(publish(&sluice.url("/shop/orders"), &[], "1").await.status, 200);
    sluice.stop().await;
}

/// T12: a StatsD server gets the same counts as `/metrics`.
#[tokio::test]
async fn a_statsd_server_gets_the_same_counts() {
    let server = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let address = server.local_addr().expect("bound").to_string();
    let documents =
        Documents::new().api(Api::new("shop").memory().channel(Channel::both_ways("orders", "a")));
    let sluice = Sluice::with(&documents).arguments(&["--statsd", &address]).start().await;
    for message in 0..7 {
        assert_eq!(publish(&sluice.url("/shop/orders"), &[], message.to_string()).await.status, 200);
    }
    let labels = [("api", "shop"), ("outcome", "acknowledged")];
    assert_eq!(sluice.metrics().await.sum("messages_published_total", &labels), 7.0);
    // The last packets are sent when the process ends.
    sluice.stop().await;
    let mut published = 0.0;
    let mut packet = [0; 2048];
    while let Ok((size, _)) = server.try_recv_from(&mut packet) {
        let text = std::str::from_utf8(&packet[..size]).expect("text");
        for line in text.lines().filter(|line| line.starts_with("sluice_messages_published_total:")) {
            let (value, tags) = line.split_once("|c|#").unwrap_or_else(|| panic!("{line}"));
            assert!(tags.contains("api:shop") && tags.contains("channel:orders"), "{line}");
            if tags.contains("outcome:acknowledged") {
                published += value.rsplit(':').next().and_then(|text| text.parse::<f64>().ok()).expect(line);
            }
        }
    }
    assert_eq!(published, 7.0);
}
