//! How many streams a change would end, told before it is made: real streams of real data planes, and a
//! person who runs `kubectl apply`.

use serde_json::{Value, json};
use sluice_operator::world::api_resource;
use sluice_tests::client::http;
use sluice_tests::documents::{self, Channel};
use sluice_tests::{Sse, WebSocket, eventually};

use crate::admission::Desk;
use crate::bed::{policy, secret};
use crate::pod::Pod;

/// An API with these channels, whose clients need not answer pings while they are not looked at.
fn shop(channels: &[&str]) -> Value {
    let ping = json!({"pingInterval": "3600s"});
    let channel =
        |name: &str| Channel::both_ways(name, name).set("/subscribe/transports/websocket", ping.clone());
    let api = documents::Api::new("shop").memory();
    channels.iter().fold(api, |api, name| api.channel(channel(name))).0
}

/// The same with another field of its spec.
fn with(mut api: Value, field: &str, value: Value) -> Value {
    api["spec"][field] = value;
    api
}

/// X09: counts come from the pods, each stream is counted once, and who only applies is told what has consequences.
#[tokio::test]
async fn a_dry_run_tells_how_many_streams_a_change_would_end() {
    let desk = Desk::new("preview").await;
    let _leader = desk.operator().await;
    let one = || shop(&["orders"]);
    let two = || shop(&["orders", "notes"]);
    desk.bed.apply(&two()).await;
    let pod = Pod::run(&desk.bed, "shop").await;
    desk.bed.told("shop", "Available", "True", "Available").await;
    let (orders, notes) = (pod.url("/shop/orders"), pod.url("/shop/notes"));
    let (_first, _) = WebSocket::begin(&orders).await;
    let (_second, _) = WebSocket::begin(&orders).await;
    let (_third, _fourth) = (Sse::begin(&orders).await, Sse::begin(&notes).await);
    let told = |document: &Value, parts: &[&str]| {
        let said = desk.said(document);
        match parts.iter().find(|part| !said.contains(**part)) {
            Some(part) => Err(format!("{part} is missing:\n{said}")),
            None => Ok(said),
        }
    };
    let removed = [
        "Warning: channel notes: is removed; its clients (1 SSE open now) are sent away",
        "Warning: in all: 1 stream closed\n",
    ];
    // Pods are asked every ten seconds.
    eventually("the streams are counted", || async { told(&one(), &removed).ok() }).await;
    let version = async || {
        let api = desk.bed.get(&api_resource(), "shop").await;
        api["metadata"]["resourceVersion"].clone()
    };
    let before = version().await;

    let labels = json!({"deployment": {"podTemplate": {"labels": {"team": "a"}}}});
    let rolled = [
        "clients of each move to another (2 WebSocket, 2 SSE open now)",
        "Warning: in all: 0 streams closed, 4 moved\n",
    ];
    told(&with(two(), "placement", labels.clone()), &rolled).expect("whoever is on a pod moves");
    told(&with(one(), "placement", labels), &["Warning: in all: 1 stream closed, 3 moved\n"])
        .expect("whose channel goes does not move");
    let blocked = ["every open stream is closed (2 WebSocket, 2 SSE open now)", "in all: 4 streams closed\n"];
    told(&with(two(), "lifecycle", json!({"state": "Blocked"})), &blocked).expect("all end");
    let keys = policy(
        "keys",
        &["shop/orders"],
        json!({"authentication": {"apiKeys": {"secretRef": {"name": "keys"}}}}),
    );
    let checked = [
        "StreamAPI shop: channel orders: `authentication` changes",
        "(of 2 WebSocket, 1 SSE open now)",
        "Warning: in all: 0 streams closed, 3 checked anew\n",
    ];
    desk.bed.apply(&secret("keys", &[])).await;
    told(&keys, &checked).expect("who is connected is checked");

    // A person who applies what disturbs nobody is told so if that was the question, and else left alone.
    let described = with(two(), "description", json!("A shop."));
    told(&described, &["Warning: no open stream is closed (2 WebSocket, 2 SSE open now)"])
        .expect("it is sure");
    let said = told(&two(), &[]).expect("nothing is asked for");
    assert!(!said.contains("Warning"), "{said}");
    assert_eq!(version().await, before, "status does not move with traffic");
    let arguments = ["apply", "--server-side", "-n", &desk.bed.namespace, "-f", "-"];
    let done = desk.bed.plane.tool("kubectl", &arguments, &described.to_string());
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && !said.contains("Warning"), "{said}");

    // Whoever is asked knows it, whether it leads or not.
    let standby = desk.standby().await;
    eventually("the other replica has counted too", || async { told(&one(), &removed).ok() }).await;
    assert!(!standby.is_leading().await);
    let config = http::get(&pod.admin("/config")).await.expect("the admin port answers").json();
    assert_eq!(config["apis"][0]["streams"]["orders"], json!({"websocket": 2, "sse": 1}));
}
