//! Message schemas: what does not fit `message.payload` is refused on every way to publish, is told where and
//! why and never with its values, and reaches neither the broker nor a subscriber.

use serde_json::{Value, json};
use sluice_tests::client::http::{Answer, publish};
use sluice_tests::client::websocket::{CLOUDEVENTS, Event, RAW};
use sluice_tests::documents::{Api, Channel, Documents};
use sluice_tests::{Sluice, Sse, WebSocket, eventually};
use tokio_tungstenite::tungstenite::protocol::Message;

const JSON: (&str, &str) = ("content-type", "application/json");
const EVENT: (&str, &str) = ("content-type", "application/cloudevents+json");

/// An order with a total of at least `minimum`.
fn order(minimum: u32) -> Value {
    json!({
        "type": "object",
        "required": ["total"],
        "properties": {"total": {"$ref": "#/$defs/money"}},
        "$defs": {"money": {"type": "number", "minimum": minimum}},
    })
}

fn documents(payload: Value) -> Documents {
    let channel = Channel::both_ways("orders", "orders").set("/message/payload", payload);
    Documents::new().api(Api::new("shop").memory().channel(channel))
}

/// Where the payload does not fit, as a refusal tells it.
fn places(refusal: &Value) -> Vec<&str> {
    let errors = refusal["errors"].as_array().unwrap_or_else(|| panic!("no errors: {refusal}"));
    assert!(
        errors.iter().all(|error| error["message"].as_str().is_some_and(|it| !it.is_empty())),
        "{refusal}"
    );
    errors.iter().filter_map(|error| error["at"].as_str()).collect()
}

/// Checks that `answer` refuses a payload at `at` without repeating it.
fn check_refused(answer: &Answer, at: &[&str]) {
    assert_eq!(answer.status, 422, "{answer:?}");
    let problem = answer.problem();
    assert_eq!(problem["type"], "https://sluice.dev/problems/invalidMessage", "{problem}");
    assert_eq!(places(&problem), at, "{problem}");
    assert!(!problem.to_string().contains("hunter2"), "{problem}");
}

/// The next frame or event that is about the publish `id`.
async fn answer_to(socket: &mut WebSocket, id: &str) -> Value {
    loop {
        let Event::Text(text) = socket.payload().await else { panic!("frames are text") };
        let frame: Value = serde_json::from_str(&text).expect("JSON");
        let fields = if frame["data"].is_object() { &frame["data"] } else { &frame };
        if fields["id"] == id && frame["type"] != "message" {
            return frame;
        }
    }
}

/// W12, X08, A20, A21: by `POST`, alone and in a batch, and as CloudEvents in both modes.
#[tokio::test]
async fn what_does_not_fit_is_refused_by_http() {
    let sluice = Sluice::start(&documents(order(1))).await;
    let url = sluice.url("/shop/orders");
    let mut stream = Sse::begin(&url).await;
    check_refused(&publish(&url, &[JSON], r#"{"total":"hunter2"}"#).await, &["/total"]);
    check_refused(&publish(&url, &[JSON], r#"{"total":0}"#).await, &["/total"]);
    check_refused(&publish(&url, &[JSON], r#"{"note":"hunter2"}"#).await, &[""]);
    check_refused(&publish(&url, &[JSON], r#"{"total":hunter2}"#).await, &[""]);
    check_refused(&publish(&url, &[JSON], "").await, &[""]);
    for kind in ["text/plain", "application/octet-stream", "application/xml"] {
        let answer = publish(&url, &[("content-type", kind)], r#"{"total":1}"#).await;
        assert_eq!(answer.status, 415, "{kind}: {answer:?}");
        answer.problem();
    }
    // Without a type of its own a message is of the channel's.
    assert_eq!(publish(&url, &[], r#"{"total":1}"#).await.status, 200);
    assert_eq!(
        publish(&url, &[("content-type", "application/order+json")], r#"{"total":2}"#).await.status,
        200
    );
    let batch = "{\"total\":3}\n{\"total\":\"hunter2\"}\n{\"total\":4}";
    let answer = publish(&url, &[("content-type", "application/x-ndjson")], batch).await;
    assert_eq!(answer.status, 207, "{answer:?}");
    let results = answer.json()["results"].clone();
    assert!(results[0]["id"].is_string() && results[2]["id"].is_string(), "{results}");
    assert_eq!((&results[1]["status"], &results[1]["code"]), (&json!(422), &json!("invalidMessage")));
    assert_eq!(places(&results[1]), ["/total"], "{results}");
    let binary = [JSON, ("ce-specversion", "1.0"), ("ce-id", "e"), ("ce-type", "t"), ("ce-source", "/s")];
    check_refused(&publish(&url, &binary, r#"{"total":"hunter2"}"#).await, &["/total"]);
    assert_eq!(publish(&url, &binary, r#"{"total":5}"#).await.status, 200);
    let event = |data: Value| {
        json!({"specversion": "1.0", "id": "e", "type": "t", "source": "/s", "data": data}).to_string()
    };
    check_refused(&publish(&url, &[EVENT], event(json!({"total": "hunter2"}))).await, &["/data/total"]);
    assert_eq!(publish(&url, &[EVENT], event(json!({"total": 6}))).await.status, 200);
    for total in 1..=6 {
        let data = stream.message().await.data.expect("data");
        assert!(data.contains(&format!("\"total\":{total}")), "only what fits was written: {data}");
    }
    let metrics = sluice.metrics().await;
    let published = |outcome: &str| metrics.sum("messages_published_total", &[("outcome", outcome)]);
    assert_eq!(
        (published("acknowledged"), published("invalidMessage"), published("unsupportedMediaType")),
        (6.0, 8.0, 3.0)
    );
    drop(stream);
    assert!(!sluice.log().contains("hunter2"), "no payload is logged");
    sluice.stop().await;
}

/// W12, A20, A21: by frames a `nack` that is final, after which the connection goes on; raw has only its close code.
#[tokio::test]
async fn what_does_not_fit_is_refused_by_websocket() {
    let sluice = Sluice::start(&documents(order(1))).await;
    let url = sluice.url("/shop/orders");
    let (mut socket, _) = WebSocket::begin(&url).await;
    socket.send(&json!({"type": "publish", "id": "bad", "data": {"total": "hunter2"}})).await;
    let nack = answer_to(&mut socket, "bad").await;
    assert_eq!((&nack["type"], &nack["code"]), (&json!("nack"), &json!("invalidMessage")), "{nack}");
    assert_eq!((&nack["retryable"], places(&nack)), (&json!(false), vec!["/total"]), "{nack}");
    assert!(
        nack["detail"].as_str().is_some_and(|it| it.contains("/total") && !it.contains("hunter2")),
        "{nack}"
    );
    socket
        .send(&json!({"type": "publish", "id": "text", "contentType": "text/plain", "data": "{\"total\":1}"}))
        .await;
    assert_eq!(answer_to(&mut socket, "text").await["code"], "unsupportedMediaType");
    socket.send(&json!({"type": "publish", "id": "good", "data": {"total": 1}})).await;
    assert_eq!(answer_to(&mut socket, "good").await["type"], "ack", "the connection goes on");

    let mut events = WebSocket::open(&url, CLOUDEVENTS).await;
    let event = |id: &str, data: Value| json!({"specversion": "1.0", "id": id, "type": "t", "source": "/s", "data": data});
    events.send(&event("bad", json!({"total": 0}))).await;
    let nack = answer_to(&mut events, "bad").await;
    assert_eq!(
        (&nack["type"], &nack["data"]["code"]),
        (&json!("dev.sluice.nack"), &json!("invalidMessage")),
        "{nack}"
    );
    assert_eq!(places(&nack["data"]), ["/data/total"], "{nack}");
    events.send(&event("good", json!({"total": 2}))).await;
    assert_eq!(answer_to(&mut events, "good").await["type"], "dev.sluice.ack");

    let mut raw = WebSocket::open(&url, RAW).await;
    raw.send_message(Message::text("{\"total\":3}")).await;
    assert_eq!(raw.payload().await, Event::Text("{\"total\":3}".into()));
    raw.send_message(Message::text("{\"total\":\"hunter2\"}")).await;
    let (code, reason) = raw.close_code().await;
    assert_eq!(code, 4422, "{reason}");
    assert!(reason.contains("schema") && !reason.contains("hunter2"), "{reason}");
    drop((socket, events));
    sluice.stop().await;
}

/// W12: a new schema holds for open connections and closes none; one that is wrong changes nothing.
#[tokio::test]
async fn a_schema_changes_under_open_connections() {
    let mut sluice = Sluice::start(&documents(order(1))).await;
    sluice.expect_log(&["apis.yaml", "shop"]);
    let url = sluice.url("/shop/orders");
    let (mut socket, _) = WebSocket::begin(&url).await;
    let mut stream = Sse::begin(&url).await;
    let ten = json!({"type": "publish", "id": "ten", "data": {"total": 10}});
    socket.send(&ten).await;
    assert_eq!(answer_to(&mut socket, "ten").await["type"], "ack");
    assert_eq!(stream.message().await.data.as_deref(), Some("{\"total\":10}"));
    sluice.apply(&documents(order(50))).await;
    socket.send(&ten).await;
    assert_eq!(answer_to(&mut socket, "ten").await["code"], "invalidMessage");
    socket.send(&json!({"type": "publish", "id": "more", "data": {"total": 50}})).await;
    assert_eq!(answer_to(&mut socket, "more").await["type"], "ack");
    assert_eq!(
        stream.message().await.data.as_deref(),
        Some("{\"total\":50}"),
        "on the streams that were open"
    );
    sluice.write(&documents(json!({"properties": {"total": {"$ref": "https://example.com/money"}}})));
    let refused = eventually("the wrong schema is told", || async {
        let refused = sluice.config().await["refused"].to_string();
        refused.contains("spec.channels[0].message.payload.properties.total.$ref").then_some(refused)
    })
    .await;
    assert!(refused.contains("nothing is ever fetched"), "{refused}");
    check_refused(&publish(&url, &[JSON], r#"{"total":10}"#).await, &["/total"]);
    sluice.apply(&documents(json!({}))).await;
    assert_eq!(publish(&url, &[JSON], r#"{"note":"anything"}"#).await.status, 200);
    assert_eq!(stream.message().await.data.as_deref(), Some("{\"note\":\"anything\"}"));
    drop((socket, stream));
    sluice.stop().await;
}
