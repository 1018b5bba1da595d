//! A StreamAPI becomes what the contract says, in pods too, and nothing of it outlives it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_operator::children::ChildKind;
use sluice_operator::world::api_resource;
use sluice_tests::client::http::publish;
use sluice_tests::client::websocket::WebSocket;
use sluice_tests::documents::Channel;
use sluice_tests::{eventually, within};

use crate::bed::{Bed, CHILDREN, COLLECTED, kind_of, kinds, shop};
use crate::pod::Pod;

/// Kind and name of everything in the namespace that the operator labelled.
pub async fn managed(bed: &Bed) -> BTreeSet<(&'static str, String)> {
    let mut found = BTreeSet::new();
    for kind in kinds() {
        for object in bed.list(&kind.resource()).await {
            if object["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "sluice-operator" {
                found.insert((
                    kind.names().2,
                    object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
                ));
            }
        }
    }
    found
}

/// What `managed` finds of an API, with or without a PodDisruptionBudget.
pub fn children_of(api: &str, budget: bool) -> BTreeSet<(&'static str, String)> {
    let kinds = CHILDREN.into_iter().filter(|kind| budget || *kind != ChildKind::PodDisruptionBudget);
    let mut all: BTreeSet<_> = kinds.map(|kind| (kind.names().2, format!("{api}-sluice"))).collect();
    all.insert(("Secret", format!("{api}-sluice-cursor")));
    all
}

#[tokio::test]
async fn an_api_becomes_exactly_its_children_and_they_go_with_it() {
    let bed = Bed::new("children").await;
    let _operator = bed.operator().await;
    let mut api = shop();
    let uid = bed.apply(&api).await["metadata"]["uid"].clone();
    let message = bed.told("shop", "Programmed", "False", "NoPods").await;
    assert!(message.contains("shop-sluice"), "it names what to look at: {message}");
    bed.told("shop", "Accepted", "True", "Accepted").await;
    bed.told("shop", "ResolvedRefs", "True", "ResolvedRefs").await;
    bed.told("shop", "Secured", "False", "Open").await;
    assert_eq!(managed(&bed).await, children_of("shop", false));
    for (kind, name) in managed(&bed).await {
        let kind = kind_of(&json!({"kind": kind}));
        let metadata = bed.get(&kind, &name).await["metadata"].clone();
        let labels = [
            ("app.kubernetes.io/name", "sluice-dataplane"),
            ("app.kubernetes.io/instance", "shop"),
            ("app.kubernetes.io/managed-by", "sluice-operator"),
            ("sluice.dev/api", "shop"),
        ];
        if name != "shop-sluice-cursor" {
            assert!(metadata["annotations"]["sluice.dev/applied"].is_string(), "{metadata:#}");
        }
        for (label, value) in labels {
            assert_eq!(metadata["labels"][label], value, "{} {name}", kind.kind);
        }
        assert_eq!(metadata["ownerReferences"].as_array().map(Vec::len), Some(1));
        assert_eq!(
            (&metadata["ownerReferences"][0]["uid"], &metadata["ownerReferences"][0]["controller"]),
            (&uid, &json!(true))
        );
    }
    let status = bed.get(&api_resource(), "shop").await["status"].clone();
    assert_eq!(status["urls"], json!([format!("http://shop-sluice.{}.svc/shop/orders", bed.namespace)]));
    for (replicas, budget) in [(2, true), (1, false)] {
        api["spec"]["placement"] = json!({"deployment": {"replicas": replicas}});
        bed.apply(&api).await;
        eventually(&format!("{replicas} replicas"), || async {
            (managed(&bed).await == children_of("shop", budget)).then_some(())
        })
        .await;
    }
    assert_eq!(bed.get(&api_resource(), "shop").await["metadata"]["generation"], 3, "only edits count");
    bed.delete(&api_resource(), "shop").await;
    within(COLLECTED, "everything is collected", || async { managed(&bed).await.is_empty().then_some(()) })
        .await;

    // Another one of its name has none of its past to fall back on.
    let mut next = shop();
    next["spec"]["servers"] = json!([{"name": "events", "kafka": {"brokers": ["127.0.0.1:1"], "sasl": {
        "mechanism": "SCRAM-SHA-512", "secretRef": {"name": "nowhere"},
    }}}]);
    bed.apply(&next).await;
    bed.told("shop", "ResolvedRefs", "False", "RefNotFound").await;
    assert!(managed(&bed).await.is_empty(), "something was made of it");
}

/// The API with channels besides `orders`.
fn with_channels(channels: &[String]) -> Value {
    let mut api = shop();
    let list = api["spec"]["channels"].as_array_mut().expect("a list");
    list.extend(channels.iter().map(|name| Channel::both_ways(name, name).0));
    api
}

#[tokio::test]
async fn an_edit_reaches_the_running_data_plane_and_its_clients_stay() {
    let bed = Bed::new("edits").await;
    let _operator = bed.operator().await;
    bed.apply(&shop()).await;
    let pod = Pod::run(&bed, "shop").await;
    bed.told("shop", "Programmed", "True", "Programmed").await;
    bed.told("shop", "Available", "True", "Available").await;
    let (mut socket, _) = WebSocket::begin(&pod.url("/shop/orders")).await;
    let mut times = Vec::new();
    for round in 0..10 {
        let channels: Vec<String> = (0..=round).map(|n| format!("more{n}")).collect();
        let before = pod.served().await["revision"].clone();
        let begun = Instant::now();
        bed.apply(&with_channels(&channels)).await;
        within(Duration::from_secs(5), "the data plane serves the edit", || async {
            (pod.served().await["revision"] != before).then_some(())
        })
        .await;
        times.push(begun.elapsed());
        assert_eq!(publish(&pod.url(&format!("/shop/more{round}")), &[], "1").await.status, 200);
        bed.told("shop", "Programmed", "True", "Programmed").await;
    }
    times.sort();
    println!(
        "from the apply to /config: median {:?}, slowest {:?}",
        times[times.len() / 2],
        times[times.len() - 1]
    );
    let revision = bed.get(&api_resource(), "shop").await["status"]["revision"].clone();
    assert_eq!(pod.served().await["revision"], revision);
    // The client of a channel that did not change is where it was.
    assert_eq!(publish(&pod.url("/shop/orders"), &[], "\"still there\"").await.status, 200);
    assert_eq!(socket.message().await.payload(), Some("\"still there\"".into()));
    drop(socket);
    let pods = bed.list(&kind_of(&json!({"kind": "Pod"}))).await;
    assert_eq!(pods.len(), 1, "no edit made a new pod");
    bed.delete(&api_resource(), "shop").await;
    within(COLLECTED, "the pod's object is collected", || async {
        bed.find(&kind_of(&json!({"kind": "Pod"})), &pod.name).await.is_none().then_some(())
    })
    .await;
    pod.stop().await;
}

/// Two APIs in one namespace: what happens to one is nothing to the clients of the other.
#[tokio::test]
async fn clients_of_another_api_stay_connected() {
    let bed = Bed::new("others").await;
    let _operator = bed.operator().await;
    let mut other = shop();
    other["metadata"]["name"] = json!("other");
    bed.apply(&shop()).await;
    bed.apply(&other).await;
    let pod = Pod::run(&bed, "other").await;
    bed.told("other", "Programmed", "True", "Programmed").await;
    let (mut socket, _) = WebSocket::begin(&pod.url("/other/orders")).await;
    let before = (pod.served().await, bed.child(ChildKind::ConfigMap, "other").await);
    assert_eq!(before.0["streams"], json!({"orders": {"websocket": 1}}));
    let config = bed.child(ChildKind::ConfigMap, "shop").await;
    bed.apply(&with_channels(&["more".into()])).await;
    eventually("the edit is written", || async {
        (bed.child(ChildKind::ConfigMap, "shop").await != config).then_some(())
    })
    .await;
    bed.delete(&api_resource(), "shop").await;
    eventually("it is collected", || async {
        bed.child(ChildKind::ConfigMap, "shop").await.is_none().then_some(())
    })
    .await;
    assert_eq!(publish(&pod.url("/other/orders"), &[], "1").await.status, 200);
    assert_eq!(socket.message().await.payload(), Some("1".into()));
    assert_eq!((pod.served().await, bed.child(ChildKind::ConfigMap, "other").await), before);
    drop(socket);
    pod.stop().await;
}

/// Waits until the API's config has that description.
pub async fn written(bed: &Bed, api: &str, text: &str, patience: Duration) {
    within(patience, &format!("{api} is written as {text}"), || async {
        let map = bed.child(ChildKind::ConfigMap, api).await?;
        let config: Value = serde_json::from_str(map["data"]["config-v1.json"].as_str()?).ok()?;
        let entry = &config["apis"][format!("{}/{api}", bed.namespace)];
        (entry["api"]["spec"]["description"] == text).then_some(())
    })
    .await;
}
