//! A real Prometheus and a real OpenTelemetry collector see operator and data planes.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_e2e::kubernetes::{OPERATOR, SYSTEM, chart, helm};
use sluice_e2e::namespace::pods;
use sluice_e2e::prometheus::Prometheus;
use sluice_e2e::traffic::shop;
use sluice_e2e::{Namespace, host, kafka};
use sluice_tests::client::http::publish;
use sluice_tests::documents::Documents;
use sluice_tests::otel::Collector;
use sluice_tests::{WebSocket, seed, within};

/// Messages that are published.
const MESSAGES: usize = 50;
/// How long a scrape or an export may take to arrive.
const SOON: Duration = Duration::from_secs(40);

fn list(value: &Value, name: &str) -> Vec<Value> {
    value[name].as_array().cloned().unwrap_or_default()
}

/// Spans of `trace`, each with the attributes of the process it is from.
fn spans(documents: &[Value], trace: &str) -> Vec<Value> {
    let mut spans = Vec::new();
    for resource in documents.iter().flat_map(|document| list(document, "resourceSpans")) {
        for mut span in list(&resource, "scopeSpans").iter().flat_map(|scope| list(scope, "spans")) {
            if span["traceId"] == trace {
                span["resource"] = resource["resource"]["attributes"].clone();
                spans.push(span);
            }
        }
    }
    spans
}

/// The metrics of pods of `namespace`: one of each name.
fn metrics(documents: &[Value], namespace: &str) -> Vec<Value> {
    let mut found: Vec<Value> = Vec::new();
    for resource in documents.iter().flat_map(|document| list(document, "resourceMetrics")) {
        if !resource["resource"]["attributes"].to_string().contains(namespace) {
            continue;
        }
        for metric in list(&resource, "scopeMetrics").iter().flat_map(|scope| list(scope, "metrics")) {
            if !found.iter().any(|it| it["name"] == metric["name"]) {
                found.push(metric);
            }
        }
    }
    found
}

/// Where the excerpts for people go.
fn excerpts() -> PathBuf {
    let logs = std::env::var_os("SLUICE_LOGS").map_or_else(std::env::temp_dir, PathBuf::from);
    std::fs::create_dir_all(&logs).expect("a directory can be made");
    logs.join("observability.txt")
}

/// T10–T13 in a cluster.
#[tokio::test]
async fn prometheus_and_a_collector_see_metrics_and_a_trace_through_kafka() {
    let collector = Collector::start_at(&host()).await;
    let endpoint = collector.endpoint().replace(&host(), "host.sluice.test");
    let place = ["--namespace", SYSTEM, "--wait", "--timeout", "60s"];
    let setting = format!("dataplane.otlpEndpoint={endpoint}");
    helm(&[&["upgrade", "sluice", &chart(), "--reuse-values", "--set", &setting], &place[..]].concat()).await;
    let kafka = kafka().await;
    let topic = kafka.topic("seen", 1).await;
    let namespace = Namespace::new("seen").await;
    let url = namespace.serve("shop", &Documents::new().api(shop(kafka, &topic, 2))).await;
    namespace.rolled_out("shop").await;
    let operators = pods(SYSTEM, OPERATOR).await.into_iter().map(|pod| (SYSTEM, pod));
    let data_planes = namespace.pods("shop").await.into_iter().map(|pod| (namespace.name.as_str(), pod));
    let prometheus = Prometheus::start(&operators.chain(data_planes).collect::<Vec<_>>()).await;
    let (mut socket, _) = WebSocket::begin(&url).await;
    let mut rng = seed::rng("trace");
    let (trace, parent) = (format!("{:032x}", rng.u128(1..)), format!("{:016x}", rng.u64(1..)));
    let context = format!("00-{trace}-{parent}-01");
    let headers = [("traceparent", context.as_str())];
    assert_eq!(publish(&url, &headers, "{\"canary\":\"payload\"}").await.status, 200);
    let carried = socket.message().await.headers;
    assert!(json!(carried).to_string().contains(&trace), "the context goes with the message: {carried:?}");
    for _ in 1..MESSAGES {
        assert_eq!(publish(&url, &[], "{\"n\":1}").await.status, 200);
        socket.message().await;
    }

    // One trace: the client's span, the publish below it, the delivery below or linked to that.
    let trace = trace.as_str();
    let spans = collector
        .find("both spans of the trace", |documents| {
            let spans = spans(documents, trace);
            (spans.len() >= 2).then_some(spans)
        })
        .await;
    let published = spans.iter().find(|span| span["parentSpanId"] == parent.as_str());
    let published = published.unwrap_or_else(|| panic!("no child of the client's span: {spans:?}"));
    let follows = |span: &&Value| {
        let linked = list(span, "links").iter().any(|link| link["spanId"] == published["spanId"]);
        linked || span["parentSpanId"] == published["spanId"]
    };
    let delivered = spans.iter().find(follows).unwrap_or_else(|| panic!("no delivery: {spans:?}"));
    for span in [published, delivered] {
        let of = span["resource"].to_string();
        assert!(of.contains(&namespace.name) && of.contains("shop-sluice-") && of.contains("node"), "{of}");
    }
    assert!(!json!(spans).to_string().contains("canary"), "no payload in a span");
    let metrics = collector
        .find("metrics of the pods", |documents| {
            let found = metrics(documents, &namespace.name);
            let has = |part: &str| {
                found.iter().any(|metric| metric["name"].as_str().is_some_and(|it| it.contains(part)))
            };
            ["messages_published", "messages_written", "connections"]
                .iter()
                .all(|part| has(part))
                .then_some(found)
        })
        .await;

    // Prometheus counts the same.
    let of = format!("{{namespace=\"{}\"}}", namespace.name);
    let published_total = format!("sum by (namespace, api, channel) (sluice_messages_published_total{of})");
    within(SOON, "Prometheus has every publish", || async {
        (prometheus.sum(&published_total).await == MESSAGES as f64).then_some(())
    })
    .await;
    let up = format!("up{{pod_namespace=~\"{}|{SYSTEM}\"}}", namespace.name);
    within(SOON, "two pods and two operators are scraped", || async {
        (prometheus.sum(&up).await == 4.0 && prometheus.query(&up).await.len() == 4).then_some(())
    })
    .await;
    assert_eq!(prometheus.sum("sum(sluice_operator_leader)").await, 1.0, "one leads");
    assert!(prometheus.sum("sum(sluice_operator_reconciles_total{outcome=\"ok\"})").await > 0.0);

    let mut text =
        format!("# The collector: a trace from client over Kafka to client\n{published:#}\n{delivered:#}\n");
    text += "\n# The collector: metrics of data planes\n";
    for metric in metrics {
        text += &format!("{} {}\n", metric["name"], metric["unit"]);
    }
    text += "\n# Prometheus\n";
    for expression in [
        published_total.as_str(),
        &up,
        "sluice_operator_leader",
        "sluice_operator_reconciles_total",
        &format!("sluice_server_up{of}"),
    ] {
        text += &format!("{expression}\n");
        for series in prometheus.query(expression).await {
            text += &format!("  {} {}\n", series["metric"], series["value"][1]);
        }
    }
    std::fs::write(excerpts(), text).expect("a file can be written");
    println!("excerpts are in {}", excerpts().display());
    drop(socket);
    helm(&[&["rollback", "sluice"], &place[..]].concat()).await;
}
