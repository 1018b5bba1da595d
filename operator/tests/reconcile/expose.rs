//! StreamAPIs that are made of the Services of brokers: made, kept and taken away as the Services ask, where the chart
//! allows it.

use serde_json::{Value, json};
use sluice_operator::children::ChildKind;
use sluice_operator::world::{api_resource, gateway_resource};
use sluice_tests::{ControlPlane, eventually, within};

use crate::bed::{Bed, COLLECTED, kind_of, named, policy};
use crate::gateway::gateway;
use crate::operator::Operator;

/// What the chart has to be told, and the operator with it.
pub const VALUES: &str = "services.expose=true";
/// See [`VALUES`].
pub const FLAG: &str = "--expose-services";
/// What is logged beside the Event about a Service.
const COMPLAINT: &str = "a Service is not exposed";

/// A Service of a broker that asks for a StreamAPI.
fn service(name: &str, annotations: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "labels": {"sluice.dev/expose": "true"}, "annotations": annotations},
        "spec": {"selector": {"app": "kafka"}, "ports": [{"name": "kafka", "port": 9092, "appProtocol": "kafka"}]},
    })
}

/// The annotations of a Service that asks for the StreamAPI `orders`.
fn orders(channels: &str) -> Value {
    json!({"sluice.dev/channels": channels, "sluice.dev/api": "orders"})
}

/// A namespace in which Services are exposed, and its operator.
async fn allowed(prefix: &str) -> (Bed, Operator) {
    let values = format!("scope=Namespace,dataplane.networkPolicies=true,{VALUES}");
    let bed = Bed::on(ControlPlane::shared(), prefix, &["--set", &values]).await;
    let mut setup = Operator::namespaced(&bed);
    setup.arguments.push(FLAG.into());
    let operator = Operator::launch(&bed, setup).await;
    operator.leads().await;
    (bed, operator)
}

/// Waits until the StreamAPI has channels at these addresses; the whole object.
async fn made(bed: &Bed, api: &str, addresses: &[&str]) -> Value {
    eventually(&format!("{api} has {addresses:?}"), || async {
        let api = bed.find(&api_resource(), api).await?;
        let channels = api["spec"]["channels"].as_array().cloned().unwrap_or_default();
        let found: Vec<_> = channels.iter().filter_map(|channel| channel["address"].as_str()).collect();
        (found == addresses && api["metadata"]["deletionTimestamp"].is_null()).then_some(api)
    })
    .await
}

async fn gone(bed: &Bed, api: &str) {
    eventually(&format!("{api} is gone"), || async {
        bed.find(&api_resource(), api).await.is_none().then_some(())
    })
    .await;
}

async fn unlabel(bed: &Bed, name: &str) {
    let patch = json!({"metadata": {"labels": {"sluice.dev/expose": null}}});
    bed.patch(&ChildKind::Service.resource(), name, &patch).await;
}

/// Everything that can happen to a Service that asks for a StreamAPI.
pub async fn come_and_go(bed: &Bed) {
    for topics in ["orders.v1", "orders.v1,payments.v1"] {
        bed.apply(&service("kafka", orders(topics))).await;
        made(bed, "orders", &topics.split(',').collect::<Vec<_>>()).await;
    }
    unlabel(bed, "kafka").await;
    gone(bed, "orders").await;
}

/// Type, reason and text of each Event about the Service, the oldest first.
async fn told(bed: &Bed, service: &str) -> Vec<(String, String, String)> {
    let mut all = bed.list(&kind_of(&json!({"kind": "Event"}))).await;
    all.retain(|event| event["regarding"]["kind"] == "Service" && event["regarding"]["name"] == service);
    all.sort_by_key(|event| event["eventTime"].as_str().map(str::to_owned));
    assert!(all.iter().all(|event| event["series"].is_null()), "told more than once: {all:#?}");
    let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    all.iter().map(|event| (text(event, "type"), text(event, "reason"), text(event, "note"))).collect()
}

/// Waits until so many Events are there about the Service; the reason and the text of the last one.
async fn told_last(bed: &Bed, service: &str, count: usize) -> (String, String) {
    let all = eventually(&format!("{count} Events about {service}"), || async {
        let all = told(bed, service).await;
        (all.len() >= count).then_some(all)
    })
    .await;
    assert_eq!(all.len(), count, "{all:#?}");
    let (type_, reason, note) = all.into_iter().next_back().expect("there is one");
    assert_eq!(type_, if reason == "Exposed" { "Normal" } else { "Warning" });
    (reason, note)
}

/// Has the operator look at the Service once more.
async fn look(bed: &Bed, operator: &Operator, service: &str, round: usize) {
    let before = operator.looks("Service").await;
    let touch = json!({"metadata": {"annotations": {"touched": round.to_string()}}});
    bed.patch(&ChildKind::Service.resource(), service, &touch).await;
    eventually("the operator looked", || async { (operator.looks("Service").await > before).then_some(()) })
        .await;
}

/// W29.
#[tokio::test]
async fn a_service_has_its_api_as_long_as_it_asks_for_it() {
    let (bed, mut operator) = allowed("expose").await;
    bed.apply(&service("kafka", orders("orders.v1, payments.v1"))).await;
    let api = made(&bed, "orders", &["orders.v1", "payments.v1"]).await;
    let brokers = &api["spec"]["servers"][0]["kafka"]["brokers"];
    assert_eq!(*brokers, json!([format!("kafka.{}.svc:9092", bed.namespace)]));
    let owner = &api["metadata"]["ownerReferences"][0];
    assert_eq!(
        [&owner["kind"], &owner["name"], &owner["controller"]],
        [&json!("Service"), &json!("kafka"), &json!(true)]
    );
    assert!(api["spec"]["channels"].as_array().expect("channels").iter().all(|it| it["publish"].is_null()));
    bed.told("orders", "Accepted", "True", "Accepted").await;
    assert!(told_last(&bed, "kafka", 1).await.1.contains("StreamAPI `orders`"));
    // It is an API as any.
    bed.apply(&policy("limits", &["orders/orders-v1"], json!({"limits": {"connections": 5}}))).await;
    bed.policy_told("limits", "Accepted", "True", "Accepted").await;
    eventually("the policy is in force", || async {
        let config = bed.child(ChildKind::ConfigMap, "orders").await?;
        config["data"]["config-v1.json"].as_str()?.contains("\"connections\":5").then_some(())
    })
    .await;

    // What stays wants no other name, what differs is patched: it is the same object.
    bed.apply(&service("kafka", orders("payments.v1, refunds.v1"))).await;
    let changed = made(&bed, "orders", &["payments.v1", "refunds.v1"]).await;
    assert_eq!(changed["metadata"]["uid"], api["metadata"]["uid"]);
    // Another name is another API.
    bed.apply(&service("kafka", json!({"sluice.dev/channels": "payments.v1"}))).await;
    made(&bed, "kafka", &["payments.v1"]).await;
    gone(&bed, "orders").await;
    // Without channels, and without the label, there is none.
    bed.apply(&service("kafka", orders("orders.v1"))).await;
    made(&bed, "orders", &["orders.v1"]).await;
    gone(&bed, "kafka").await;
    unlabel(&bed, "kafka").await;
    gone(&bed, "orders").await;
    assert!(bed.find(&ChildKind::Service.resource(), "kafka").await.is_some(), "it is not ours");
    operator.expect_log(&["NotFound", "exists and was not made for this object"]);
    operator.stop().await;
}

/// Also what went while no operator looked.
#[tokio::test]
async fn what_is_made_goes_with_its_service() {
    let (bed, mut operator) = allowed("expose-gone").await;
    operator.expect_log(&["NotFound", "exists and was not made for this object"]);
    for name in ["stays", "deleted", "unlabelled"] {
        bed.apply(&service(name, json!({"sluice.dev/channels": "orders.v1"}))).await;
        made(&bed, name, &["orders.v1"]).await;
        bed.told(name, "Accepted", "True", "Accepted").await;
    }
    operator.stop().await;
    bed.delete(&ChildKind::Service.resource(), "deleted").await;
    within(COLLECTED, "the garbage collector takes it", || async {
        bed.find(&api_resource(), "deleted").await.is_none().then_some(())
    })
    .await;
    unlabel(&bed, "unlabelled").await;
    assert!(bed.find(&api_resource(), "unlabelled").await.is_some(), "nobody looks");
    operator.restart();
    operator.leads().await;
    gone(&bed, "unlabelled").await;
    assert!(bed.find(&api_resource(), "stays").await.is_some());
    operator.stop().await;
}

#[tokio::test]
async fn what_somebody_changes_of_it_is_put_back() {
    let (bed, mut operator) = allowed("expose-drift").await;
    // Who deletes it deletes what belongs to it, too, and that takes a moment.
    operator.expect_log(&["NotFound", "exists and was not made for this object"]);
    bed.apply(&service("kafka", orders("orders.v1"))).await;
    made(&bed, "orders", &["orders.v1"]).await;
    let content = |api: &Value| {
        let metadata = &api["metadata"];
        (api["spec"].clone(), metadata["labels"].clone(), metadata["annotations"].clone())
    };
    let before = content(&bed.get(&api_resource(), "orders").await);
    let channel = before.0["channels"][0].clone();
    let with = |field: &str, value: Value| {
        let mut channel = channel.clone();
        channel[field] = value;
        json!({"spec": {"channels": [channel]}})
    };
    let publish = json!({"transports": {"http": {}}});
    for edit in [
        with("address", json!("payments.v1")),
        with("publish", publish),
        json!({"spec": {"basePath": "/theirs"}}),
        json!({"spec": {"lifecycle": {"state": "Blocked"}}}),
        json!({"spec": {"placement": {"deployment": {"replicas": 0}}}}),
        json!({"spec": {"servers": [{"name": "broker", "kafka": {"brokers": ["theirs:9092"]}}]}}),
        json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "somebody"}}}),
        json!({"metadata": {"annotations": {"sluice.dev/applied": null}}}),
    ] {
        bed.patch(&api_resource(), "orders", &edit).await;
        eventually(&format!("it is put back after {edit}"), || async {
            (content(&bed.get(&api_resource(), "orders").await) == before).then_some(())
        })
        .await;
    }
    bed.delete(&api_resource(), "orders").await;
    eventually("it is made again", || async {
        (content(&bed.find(&api_resource(), "orders").await?) == before).then_some(())
    })
    .await;
    operator.stop().await;
}

#[tokio::test]
async fn an_api_of_somebody_else_is_told_and_never_written() {
    let (bed, mut operator) = allowed("expose-foreign").await;
    operator.expect_log(&[COMPLAINT, "NotFound", "exists and was not made for this object"]);
    let before = bed.apply(&named("orders")).await;
    bed.told("orders", "Accepted", "True", "Accepted").await;
    bed.apply(&service("kafka", orders("orders.v1"))).await;
    let (reason, note) = told_last(&bed, "kafka", 1).await;
    assert!(reason == "NameTaken" && note.contains("`orders`") && note.contains("sluice.dev/api"), "{note}");
    for round in 0..3 {
        look(&bed, &operator, "kafka", round).await;
    }
    // Another Service is no better off than this one.
    bed.apply(&service("other", orders("payments.v1"))).await;
    assert_eq!(told_last(&bed, "other", 1).await.0, "NameTaken");
    let now = bed.get(&api_resource(), "orders").await;
    for field in ["uid", "generation", "ownerReferences"] {
        assert_eq!(now["metadata"][field], before["metadata"][field], "{field}");
    }
    assert_eq!(told(&bed, "kafka").await.len(), 1, "once");
    let taken = operator.metric("reconciles_total", &[("kind", "Service"), ("outcome", "nameTaken")]).await;
    assert!(taken >= Some(4.0), "{taken:?}");
    unlabel(&bed, "kafka").await;
    bed.delete(&api_resource(), "orders").await;
    made(&bed, "orders", &["payments.v1"]).await;
    assert_eq!(told_last(&bed, "other", 2).await.0, "Exposed");
    operator.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_service_is_told_once_each_time_and_costs_nobody_a_stream() {
    let (bed, mut operator) = allowed("expose-wrong").await;
    operator.expect_log(&[COMPLAINT]);
    let external = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "external", "labels": {"sluice.dev/expose": "true"}, "annotations": orders("orders.v1")},
        "spec": {"type": "ExternalName", "externalName": "kafka.example.com"},
    });
    let many = (0..257).map(|n| format!("t{n}")).collect::<Vec<_>>().join(",");
    for (document, part) in [
        (service("none", json!({})), "sluice.dev/channels: is missing"),
        (service("many", orders(&many)), "257 topics"),
        (service("hostile", orders("orders.v1,../../etc\u{7}\u{202e}")), "is not a Kafka topic"),
        (service("twice", orders("orders.v1,orders-v1")), "both be the channel `orders-v1`"),
        (
            service("amqp", json!({"sluice.dev/channels": "o", "sluice.dev/protocol": "amqp"})),
            "`amqp` cannot be exposed",
        ),
        (service("port", json!({"sluice.dev/channels": "o", "sluice.dev/port": "1"})), "its ports are: 9092"),
        (
            service("name", json!({"sluice.dev/channels": "o", "sluice.dev/api": "No"})),
            "cannot name a StreamAPI",
        ),
        (external, "an ExternalName is another name"),
    ] {
        let name = document["metadata"]["name"].as_str().expect("a name");
        bed.apply(&document).await;
        let (reason, note) = told_last(&bed, name, 1).await;
        assert!(reason == "Invalid" && note.contains(part), "{name}: {note}");
        assert!(note.contains("until this is corrected") && !note.contains(['\u{7}', '\u{202e}']), "{note}");
        look(&bed, &operator, name, 0).await;
        assert_eq!(told(&bed, name).await.len(), 1, "{name}: looking again is no change");
    }
    assert!(bed.list(&api_resource()).await.is_empty(), "nothing is made");
    let wrong = operator.metric("reconciles_total", &[("kind", "Service"), ("outcome", "invalid")]).await;
    assert!(wrong >= Some(16.0), "{wrong:?}");

    bed.apply(&service("kafka", orders("orders.v1"))).await;
    let api = made(&bed, "orders", &["orders.v1"]).await;
    assert_eq!(told_last(&bed, "kafka", 1).await.0, "Exposed");
    for (count, wrong) in [(2, "orders.v1,{"), (3, "orders.v1,}")] {
        bed.apply(&service("kafka", orders(wrong))).await;
        let (reason, note) = told_last(&bed, "kafka", count).await;
        assert!(reason == "Invalid" && note.contains(&wrong[10..]), "each mistake is told: {note}");
    }
    let stayed = bed.get(&api_resource(), "orders").await;
    assert_eq!(stayed["metadata"]["generation"], api["metadata"]["generation"], "it is served as it was");
    bed.apply(&service("kafka", orders("orders.v1"))).await;
    assert_eq!(told_last(&bed, "kafka", 4).await.0, "Exposed", "and that it is corrected is told, too");
    operator.stop().await;
}

#[tokio::test]
async fn at_rest_nothing_of_it_is_written() {
    let (bed, mut operator) = allowed("expose-rest").await;
    // On a gateway without pods, of which others would have something to tell.
    bed.apply(&gateway(json!({"replicas": 0}))).await;
    let mut annotations = orders("orders.v1");
    annotations["sluice.dev/gateway"] = json!(format!("{}/edge", bed.namespace));
    bed.apply(&service("kafka", annotations)).await;
    let api = made(&bed, "orders", &["orders.v1"]).await;
    let placement = json!({"gateway": {"name": "edge", "namespace": bed.namespace}});
    assert_eq!(api["spec"]["placement"], placement);
    bed.told("orders", "Programmed", "False", "NoPods").await;
    bed.gateway_told("edge", "Programmed", "False", "NoPods").await;
    eventually("it is attached", || async {
        (bed.get(&gateway_resource(), "edge").await["status"]["attachedApis"] == 1).then_some(())
    })
    .await;
    told_last(&bed, "kafka", 1).await;
    let all = async |operator: &Operator, round: usize| {
        let before = operator.looks("StreamAPI").await;
        look(&bed, operator, "kafka", round).await;
        let touch = json!({"metadata": {"annotations": {"touched": round.to_string()}}});
        bed.patch(&api_resource(), "orders", &touch).await;
        eventually("the operator looked", || async {
            (operator.looks("StreamAPI").await > before).then_some(())
        })
        .await;
    };
    all(&operator, 0).await;
    all(&operator, 1).await;
    let mark = bed.plane.mark();
    for round in 2..5 {
        all(&operator, round).await;
    }
    operator.stop().await;
    operator.restart();
    operator.leads().await;
    all(&operator, 5).await;
    all(&operator, 6).await;
    let writes = bed.writes(mark);
    assert!(writes.is_empty(), "written at rest: {writes:#?}");
    operator.stop().await;
}

/// Neither the right nor the flag: nobody looks at the label.
#[tokio::test]
async fn unless_the_chart_allows_it_no_service_is_exposed() {
    let bed = Bed::new("unexposed-services").await;
    let mut operator = bed.operator().await;
    bed.apply(&service("kafka", orders("orders.v1"))).await;
    // One made while it was switched on stays when it is off.
    let mut left = named("left");
    let uid = bed.get(&ChildKind::Service.resource(), "kafka").await["metadata"]["uid"].clone();
    left["metadata"]["annotations"] = json!({"sluice.dev/applied": "0"});
    left["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "Service", "name": "kafka", "uid": uid, "controller": true}]);
    bed.apply(&left).await;
    bed.told("left", "Accepted", "True", "Accepted").await;
    assert_eq!(bed.list(&api_resource()).await.len(), 1, "only the one that was there");
    assert!(told(&bed, "kafka").await.is_empty());
    assert_eq!(operator.looks("Service").await, 0.0);
    operator.stop().await;
}
