//! Publishing by HTTP: keys, headers, batches, and every refusal.

use std::time::Duration;

use serde_json::{Value, json};
use sluice_tests::client::http::publish;
use sluice_tests::client::raw::Raw;
use sluice_tests::documents::{Api, Channel, Documents, api_key};
use sluice_tests::kafka::topics::Record;
use sluice_tests::{Cluster, Sluice, Sse, seed};

const JSON: (&str, &str) = ("content-type", "application/json");

fn memory() -> Documents {
    Documents::new().api(Api::new("shop").memory().channel(Channel::both_ways("orders", "orders")))
}

/// A25: headers are a list; CloudEvents and trace headers have names of their own in Kafka.
#[tokio::test]
async fn key_headers_and_type_reach_the_topic() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic("headers", 1).await;
    let channel = Channel::both_ways("orders", &topic);
    let sluice = Sluice::start(
        &Documents::new().api(Api::new("shop").server("events", kafka.server()).channel(channel)),
    )
    .await;
    let url = sluice.url("/shop/orders");
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [
        ("content-type", "text/plain; charset=utf-8"),
        ("message-key", "k 1"),
        ("message-header-region", "eu"),
        ("message-header-Region", "us"),
        ("message-header-empty", ""),
        ("traceparent", trace),
        ("tracestate", "vendor=1"),
        ("ce-specversion", "1.0"),
        ("ce-type", "order.created"),
        ("ce-source", "/web"),
        ("ce-id", "e-1"),
        ("x-other", "stays here"),
    ];
    assert_eq!(publish(&url, &headers, "hello").await.status, 200);
    assert_eq!(publish(&format!("{url}?key=by%20query"), &[], vec![0_u8, 1, 2]).await.status, 200);
    assert_eq!(publish(&url, &[JSON], "").await.status, 200);
    let records = kafka.records(&topic).await;
    let values = |record: &Record, name: &str| -> Vec<String> {
        let wanted = record.headers.iter().filter(|(key, _)| key == name);
        wanted.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    };
    assert_eq!(records[0].key.as_deref(), Some(&b"k 1"[..]));
    assert_eq!(values(&records[0], "content-type"), ["text/plain; charset=utf-8"]);
    assert_eq!(values(&records[0], "region"), ["eu", "us"], "order and duplicates");
    assert_eq!(values(&records[0], "empty"), [""]);
    assert_eq!(values(&records[0], "tracestate"), ["vendor=1"]);
    let carried = values(&records[0], "traceparent");
    assert!(carried.len() == 1 && carried[0].contains("0af7651916cd43dd8448eb211c80319c"), "{carried:?}");
    for (name, value) in
        [("ce_type", "order.created"), ("ce_source", "/web"), ("ce_id", "e-1"), ("ce_specversion", "1.0")]
    {
        assert_eq!(values(&records[0], name), [value], "{name}");
    }
    assert!(values(&records[0], "x-other").is_empty() && values(&records[0], "host").is_empty());
    assert_eq!(records[1].key.as_deref(), Some(&b"by query"[..]));
    assert_eq!(records[1].payload.as_deref(), Some(&[0_u8, 1, 2][..]));
    assert_eq!(records[2].payload.as_deref(), Some(&b""[..]), "an empty body is an empty payload");
    sluice.stop().await;
}

/// An existing event keeps its attributes, in through HTTP and out as CloudEvents.
#[tokio::test]
async fn a_cloudevent_keeps_its_attributes() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic("events", 1).await;
    let channel = Channel::both_ways("orders", &topic);
    let sluice = Sluice::start(
        &Documents::new().api(Api::new("shop").server("events", kafka.server()).channel(channel)),
    )
    .await;
    let url = sluice.url("/shop/orders");
    let mut stream = Sse::begin(&format!("{url}?format=cloudevents")).await;
    let headers = [
        JSON,
        ("ce-specversion", "1.0"),
        ("ce-type", "order.created"),
        ("ce-source", "/web/shop"),
        ("ce-id", "e-1"),
        ("ce-subject", "order 1"),
        ("ce-region", "eu"),
    ];
    assert_eq!(publish(&url, &headers, r#"{"total":1.50}"#).await.status, 200);
    let text = stream.message().await.data.expect("an event");
    let event: Value = serde_json::from_str(&text).expect("JSON");
    for (name, value) in [
        ("specversion", "1.0"),
        ("type", "order.created"),
        ("source", "/web/shop"),
        ("id", "e-1"),
        ("subject", "order 1"),
        ("region", "eu"),
        ("datacontenttype", "application/json"),
    ] {
        assert_eq!(event[name], value, "{event}");
    }
    assert!(text.contains(r#"{"total":1.50}"#), "the data's own bytes: {text}");
    let structured = r#"{"specversion":"1.0","id":"e-2","type":"order.paid","source":"/web","data":{"n":2}}"#;
    let answer = publish(&url, &[("content-type", "application/cloudevents+json")], structured).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let event: Value = serde_json::from_str(&stream.message().await.data.expect("an event")).expect("JSON");
    assert_eq!(
        (&event["id"], &event["type"], &event["data"]),
        (&json!("e-2"), &json!("order.paid"), &json!({"n": 2}))
    );
    sluice.stop().await;
}

#[tokio::test]
async fn a_batch_is_answered_record_by_record() {
    let sluice =
        Sluice::start(&memory().policy("limits", "shop", json!({"limits": {"maxMessageBytes": 100}}))).await;
    let url = sluice.url("/shop/orders");
    let mut stream = Sse::begin(&url).await;
    let ndjson = [("content-type", "application/x-ndjson")];
    let answer = publish(&url, &ndjson, "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let text = answer.text();
    for n in 1..=3 {
        assert_eq!(stream.message().await.data, Some(format!("{{\"n\":{n}}}")));
    }
    let ids: Vec<String> =
        results(&answer.json()).iter().map(|it| it["id"].as_str().expect("an id").into()).collect();
    assert_eq!(ids.len(), 3, "{text}");
    let mixed = format!("{{\"n\":4}}\n\"{}\"\n{{\"n\":5}}", "x".repeat(200));
    let answer = publish(&url, &ndjson, mixed).await;
    assert_eq!(answer.status, 207, "{answer:?}");
    let results = results(&answer.json());
    assert_eq!(results.len(), 3, "{answer:?}");
    assert!(results[0]["id"].is_string() && results[2]["id"].is_string(), "{results:?}");
    assert_eq!(results[1]["status"], 413, "{results:?}");
    assert_eq!(stream.message().await.data.as_deref(), Some("{\"n\":4}"));
    assert_eq!(
        stream.message().await.data.as_deref(),
        Some("{\"n\":5}"),
        "and the large one was not written"
    );
    drop(stream);
    sluice.stop().await;
}

/// Results of a batch: the list itself, or under one name.
fn results(answer: &Value) -> Vec<Value> {
    let list = answer.as_array().or_else(|| answer["results"].as_array());
    list.unwrap_or_else(|| panic!("no results: {answer}")).clone()
}

#[tokio::test]
async fn a_batch_of_cloudevents_is_answered_event_by_event() {
    let sluice = Sluice::start(&memory()).await;
    let url = sluice.url("/shop/orders");
    let mut stream = Sse::begin(&format!("{url}?format=cloudevents")).await;
    let event = |n: u32| json!({"specversion": "1.0", "id": format!("b-{n}"), "type": "t", "source": "/s", "data": {"n": n}});
    let batch = json!([event(1), event(2)]).to_string();
    let answer = publish(&url, &[("content-type", "application/cloudevents-batch+json")], batch).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(results(&answer.json()).len(), 2);
    for n in 1..=2 {
        let event: Value =
            serde_json::from_str(&stream.message().await.data.expect("an event")).expect("JSON");
        assert_eq!((&event["id"], &event["data"]), (&json!(format!("b-{n}")), &json!({"n": n})), "{event}");
    }
    for broken in ["{}", "[", "[{\"id\":1}]", "[1]"] {
        let answer = publish(&url, &[("content-type", "application/cloudevents-batch+json")], broken).await;
        assert!((400..500).contains(&answer.status) || answer.status == 207, "{broken}: {answer:?}");
    }
    drop(stream);
    sluice.stop().await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_however_it_is_framed() {
    let sluice =
        Sluice::start(&memory().policy("limits", "shop", json!({"limits": {"maxMessageBytes": 1000}}))).await;
    let url = sluice.url("/shop/orders");
    assert_eq!(publish(&url, &[JSON], "x".repeat(1000)).await.status, 200, "exactly at the limit");
    let answer = publish(&url, &[JSON], "x".repeat(1001)).await;
    assert_eq!(answer.status, 413);
    answer.problem();
    let port = sluice.port();
    let mut declared = Raw::connect(port).await;
    declared
        .send("POST /shop/orders HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\n")
        .await;
    assert_eq!(declared.status().await, 413, "answered before the body comes");
    let mut chunked = Raw::connect(port).await;
    chunked.send("POST /shop/orders HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for _ in 0..20 {
        chunked.send(format!("64\r\n{}\r\n", "x".repeat(100))).await;
    }
    assert_eq!(chunked.status().await, 413);
    sluice.stop().await;
}

#[tokio::test]
async fn a_content_type_that_is_not_accepted_is_refused() {
    let channel =
        Channel::both_ways("orders", "orders").set("/publish/contentTypes", json!(["application/json"]));
    let sluice = Sluice::start(&Documents::new().api(Api::new("shop").memory().channel(channel))).await;
    let url = sluice.url("/shop/orders");
    for (kind, expected) in [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON", 200),
        ("text/plain", 415),
        ("application/jsonx", 415),
        ("image/png", 415),
    ] {
        let answer = publish(&url, &[("content-type", kind)], "{}").await;
        assert_eq!(answer.status, expected, "{kind}: {answer:?}");
        if expected != 200 {
            answer.problem();
        }
    }
    sluice.stop().await;
}

/// K13 (publish events/s): over the rate is 429 with when to come back, per key.
#[tokio::test]
async fn a_client_over_its_rate_is_told_when_to_come_back() {
    let mut rng = seed::rng("rate");
    let ((key, entry), (other, other_entry)) = (api_key(&mut rng), api_key(&mut rng));
    let documents = memory()
        .policy(
            "rate",
            "shop",
            json!({
                "limits": {"publishRate": {"messagesPerSecond": 2, "burst": 5}},
                "authentication": {"apiKeys": {"secretRef": {"name": "keys"}}},
            }),
        )
        .secret("keys", &[("one", &entry), ("two", &other_entry)]);
    let sluice = Sluice::start(&documents).await;
    let url = sluice.url("/shop/orders");
    let mut statuses = Vec::new();
    let mut refused = None;
    for _ in 0..8 {
        let answer = publish(&url, &[("x-api-key", &key)], "{}").await;
        statuses.push(answer.status);
        if answer.status != 200 {
            refused.get_or_insert(answer);
        }
    }
    let allowed = statuses.iter().filter(|status| **status == 200).count();
    assert!((5..=7).contains(&allowed), "{statuses:?}");
    let refused = refused.expect("some were refused");
    assert_eq!(refused.status, 429, "{refused:?}");
    assert!(refused.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds >= 1), "{refused:?}");
    assert!(
        !refused.header("ratelimit").is_empty() && !refused.header("ratelimit-policy").is_empty(),
        "{refused:?}"
    );
    refused.problem();
    assert_eq!(
        publish(&url, &[("x-api-key", &other)], "{}").await.status,
        200,
        "the other key is not concerned"
    );
    // A batch counts each of its records.
    let batch = publish(
        &url,
        &[("x-api-key", &other), ("content-type", "application/x-ndjson")],
        "1\n2\n3\n4\n5\n6\n7",
    )
    .await;
    assert!(matches!(batch.status, 207 | 429), "{batch:?}");
    sluice.stop().await;
}

#[tokio::test]
async fn what_is_malformed_is_refused_and_not_written() {
    let sluice = Sluice::start(&memory()).await;
    let url = sluice.url("/shop/orders");
    let mut stream = Sse::begin(&url).await;
    let port = sluice.port();
    for head in [
        "Content-Length: 2\r\nContent-Length: 3\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        "Content-Type: \r\nContent-Length: x\r\n",
    ] {
        let mut raw = Raw::connect(port).await;
        raw.send(format!("POST /shop/orders HTTP/1.1\r\nHost: localhost\r\n{head}\r\n{{}}")).await;
        let answer = raw.to_end(Duration::from_secs(1)).await.unwrap_or_default();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(!answer.starts_with("HTTP/1.1 2"), "{head:?}: {answer}");
    }
    for (headers, query) in [
        (vec![("ce-specversion", "0.3"), ("ce-id", "1"), ("ce-type", "t"), ("ce-source", "s")], ""),
        (vec![("ce-specversion", "1.0"), ("ce-type", "t")], ""),
        (vec![("content-type", "application/cloudevents+json")], ""),
        (vec![], "?key=%zz"),
        (vec![], "?key=%ff"),
    ] {
        let answer = publish(&format!("{url}{query}"), &headers, "{").await;
        if answer.status != 200 {
            assert!(matches!(answer.status, 400 | 415 | 422), "{headers:?} {query}: {answer:?}");
            answer.problem();
        }
    }
    assert_eq!(publish(&url, &[JSON], "\"end\"").await.status, 200);
    loop {
        let data = stream.message().await.data.expect("data");
        if data == "\"end\"" {
            break;
        }
        assert_eq!(data, "{", "only bodies as they were sent");
    }
    drop(stream);
    sluice.stop().await;
}

/// A Kafka that cannot be reached: surely not written. One that does not answer: unknown.
#[tokio::test]
async fn a_broker_that_is_away_is_503_and_one_that_hangs_is_504() {
    let kafka = Cluster::start(1).await;
    let topic = kafka.topic("away", 1).await;
    let channel = Channel::both_ways("orders", &topic).set("/publish/timeout", json!("2s"));
    let documents = Documents::new().api(Api::new("shop").server("events", kafka.server()).channel(channel));
    let mut sluice = Sluice::start(&documents).await;
    sluice.expect_log(&["kafka", "Kafka", "server", "publish"]);
    let url = sluice.url("/shop/orders");
    assert_eq!(publish(&url, &[JSON], "{\"n\":0}").await.status, 200);
    kafka.pause(1);
    let begun = std::time::Instant::now();
    let answer = publish(&url, &[JSON], "{\"n\":1}").await;
    assert_eq!(answer.status, 504, "{answer:?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let detail = answer.problem()["detail"].as_str().expect("a detail").to_lowercase();
    assert!(
        detail.contains("unknown") || detail.contains("may"),
        "the body says that the broker may have it: {detail}"
    );
    kafka.unpause(1);
    sluice_tests::eventually("publishing works again", || async {
        (publish(&url, &[JSON], "{\"n\":2}").await.status == 200).then_some(())
    })
    .await;
    kafka.kill(1);
    let answer = publish(&url, &[JSON], "{\"n\":3}").await;
    assert!(matches!(answer.status, 503 | 504), "{answer:?}");
    let mut not_written = Vec::new();
    for n in 100..120 {
        let body = format!("{{\"n\":{n}}}");
        let answer = publish(&url, &[JSON], body.clone()).await;
        assert!(matches!(answer.status, 503 | 504), "{answer:?}");
        if answer.status == 503 {
            assert!(answer.header("retry-after").parse::<u32>().is_ok(), "{answer:?}");
            answer.problem();
            not_written.push(body);
        }
        if not_written.len() == 3 {
            break;
        }
    }
    assert_eq!(not_written.len(), 3, "a broker that is known to be away is 503");
    kafka.restart(1).await;
    sluice_tests::eventually("publishing works again", || async {
        (publish(&url, &[JSON], "{\"n\":5}").await.status == 200).then_some(())
    })
    .await;
    let written: Vec<String> = kafka.records(&topic).await.into_iter().map(text).collect();
    assert!(not_written.iter().all(|it| !written.contains(it)), "503 means surely not written: {written:?}");
    sluice.stop().await;
}

fn text(record: Record) -> String {
    String::from_utf8(record.payload.unwrap_or_default()).expect("text")
}
