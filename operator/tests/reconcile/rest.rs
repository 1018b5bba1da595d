//! Nothing is written at rest, and what others change is put back by one write.

use std::time::Duration;

use serde_json::{Value, json};
use sluice_operator::children::ChildKind;
use sluice_operator::world::{api_resource, policy_resource};
use sluice_tests::cluster::Request;
use sluice_tests::{eventually, within};

use crate::bed::{Bed, CHILDREN, kind_of, policy, secret, shop};
use crate::operator::Operator;
use crate::pod::Pod;

/// How soon what was changed by hand is back.
const BACK: Duration = Duration::from_secs(2);

/// An API with two replicas, so with children of every kind.
fn two_replicas() -> Value {
    let mut api = shop();
    api["spec"]["placement"] = json!({"deployment": {"replicas": 2}});
    api
}

/// Has the operator look at everything once more: when it has, whatever it wanted to write before
/// that is written.
async fn looked_again(bed: &Bed, operator: &Operator, round: usize) {
    let before = operator.looks("StreamAPI").await;
    bed.patch(&api_resource(), "shop", &json!({"metadata": {"annotations": {"touched": round.to_string()}}}))
        .await;
    eventually("the operator looked", || async {
        (operator.looks("StreamAPI").await > before).then_some(())
    })
    .await;
}

/// Applies [`two_replicas`] and waits until the operator has nothing left to write.
async fn settled(bed: &Bed, operator: &Operator) {
    bed.apply(&two_replicas()).await;
    bed.told("shop", "Programmed", "False", "NoPods").await;
    bed.whole("shop", &CHILDREN).await;
    looked_again(bed, operator, 0).await;
}

/// What the operator wrote since `mark`, without Events.
fn writes_to_children(bed: &Bed, mark: u64) -> Vec<Request> {
    bed.writes(mark).into_iter().filter(|it| !it.resource.contains("events")).collect()
}

#[tokio::test]
async fn at_rest_nothing_is_written_over_ten_resyncs_and_a_restart() {
    let bed = Bed::new("rest").await;
    let mut operator = bed.operator().await;
    bed.apply(&secret("keys", &[])).await;
    bed.apply(&two_replicas()).await;
    bed.apply(&policy(
        "keys",
        &["shop"],
        json!({"authentication": {"apiKeys": {"secretRef": {"name": "keys"}}}}),
    ))
    .await;
    bed.told("shop", "Secured", "True", "Secured").await;
    bed.policy_told("keys", "Accepted", "True", "Accepted").await;
    bed.whole("shop", &CHILDREN).await;
    // The Deployment's own controller is done when it has counted its replicas.
    eventually("two pods are asked for", || async {
        (bed.child(ChildKind::Deployment, "shop").await?["status"]["unavailableReplicas"] == 2).then_some(())
    })
    .await;
    looked_again(&bed, &operator, 0).await;
    let mark = bed.plane.mark();
    for round in 1..=10 {
        let touch = json!({"metadata": {"annotations": {"touched": round.to_string()}}});
        bed.patch(&policy_resource(), "keys", &touch).await;
        for kind in CHILDREN {
            bed.patch(&kind.resource(), "shop-sluice", &touch).await;
        }
        looked_again(&bed, &operator, round).await;
    }
    operator.stop().await;
    operator.restart();
    operator.leads().await;
    eventually("the new process looked at everything", || async {
        (operator.looks("StreamAPI").await > 0.0 && operator.looks("StreamPolicy").await > 0.0).then_some(())
    })
    .await;
    looked_again(&bed, &operator, 11).await;
    let writes = bed.writes(mark);
    assert!(writes.is_empty(), "written at rest: {writes:#?}");
    let leases = bed
        .plane
        .requests(mark)
        .into_iter()
        .filter(|it| it.resource == "leases" && it.namespace == bed.namespace);
    assert!(leases.count() > 0, "the audit log does not see this operator");
}

/// An edit by hand of a child of each kind, as a merge patch.
pub fn edit(kind: ChildKind, live: &Value) -> Value {
    match kind {
        ChildKind::Secret => {
            let (key, _) =
                live["data"].as_object().and_then(|data| data.iter().next()).expect("the cursor key");
            json!({"data": {key: "aGVsbG8="}, "metadata": {"labels": {"app.kubernetes.io/name": "x"}}})
        }
        ChildKind::ConfigMap => json!({"data": {"config-v1.json": "{}"}}),
        ChildKind::ServiceAccount => json!({"automountServiceAccountToken": true}),
        ChildKind::Role => {
            json!({"rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}]})
        }
        ChildKind::RoleBinding => json!({"subjects": []}),
        ChildKind::Service => json!({"spec": {"selector": {"app.kubernetes.io/instance": "other"}}}),
        ChildKind::NetworkPolicy => json!({"spec": {"ingress": [{}]}}),
        ChildKind::PodDisruptionBudget => json!({"spec": {"maxUnavailable": 2}}),
        ChildKind::HorizontalPodAutoscaler => json!({"spec": {"maxReplicas": 9}}),
        ChildKind::Ingress => json!({"spec": {"ingressClassName": "theirs"}}),
        ChildKind::HttpRoute => json!({"spec": {"hostnames": ["theirs.example.com"]}}),
        ChildKind::StreamApi => unreachable!("`expose` has it"),
        ChildKind::Deployment => {
            json!({"spec": {"replicas": 5, "template": {"spec": {"terminationGracePeriodSeconds": 1}}}})
        }
    }
}

/// What of an object its owner decides: everything but what the API server keeps book of.
fn content(mut object: Value) -> Value {
    for field in ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink"] {
        object["metadata"][field] = Value::Null;
    }
    object["status"] = Value::Null;
    // Given by the API server, another one to another object.
    for field in ["clusterIP", "clusterIPs"] {
        object["spec"][field] = Value::Null;
    }
    object["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = Value::Null;
    object
}

#[tokio::test]
async fn what_is_edited_or_deleted_by_hand_is_back_by_one_patch() {
    let bed = Bed::new("drift").await;
    let operator = bed.operator().await;
    settled(&bed, &operator).await;
    let mut round = 0;
    for kind in CHILDREN {
        let before = content(bed.child(kind, "shop").await.expect("it is whole"));
        for action in ["edit", "delete"] {
            let mark = bed.plane.mark();
            match action {
                "edit" => {
                    let live = bed.child(kind, "shop").await.expect("it is whole");
                    bed.patch(&kind.resource(), "shop-sluice", &edit(kind, &live)).await;
                }
                _ => bed.delete(&kind.resource(), "shop-sluice").await,
            }
            within(BACK, &format!("{kind:?} is back after {action}"), || async {
                (content(bed.child(kind, "shop").await?) == before).then_some(())
            })
            .await;
            round += 1;
            looked_again(&bed, &operator, round).await;
            let writes = writes_to_children(&bed, mark);
            let [write] = writes.as_slice() else { panic!("{kind:?} {action}: {writes:#?}") };
            let wrote = (write.verb.as_str(), write.resource.as_str(), write.name.as_str());
            assert_eq!(wrote, ("patch", kind.names().3, "shop-sluice"), "{kind:?} {action}");
        }
    }
}

/// Something that somebody adds to a child, as a merge patch on what is there.
type Addition = (&'static str, ChildKind, fn(&Value) -> Value);

const ADDITIONS: [Addition; 6] = [
    ("a variable", ChildKind::Deployment, |live| {
        let mut containers = live["spec"]["template"]["spec"]["containers"].clone();
        containers[0]["env"].as_array_mut().expect("a list").push(json!({"name": "X", "value": "1"}));
        json!({"spec": {"template": {"spec": {"containers": containers}}}})
    }),
    ("a container", ChildKind::Deployment, |live| {
        let mut containers = live["spec"]["template"]["spec"]["containers"].clone();
        containers.as_array_mut().expect("a list").push(json!({"name": "guest", "image": "guest:1"}));
        json!({"spec": {"template": {"spec": {"containers": containers}}}})
    }),
    (
        "an init container",
        ChildKind::Deployment,
        |_| json!({"spec": {"template": {"spec": {"initContainers": [{"name": "guest", "image": "guest:1"}]}}}}),
    ),
    (
        "the host's network",
        ChildKind::Deployment,
        |_| json!({"spec": {"template": {"spec": {"hostNetwork": true}}}}),
    ),
    ("a port", ChildKind::Service, |live| {
        let mut ports = live["spec"]["ports"].clone();
        ports.as_array_mut().expect("a list").push(json!({"name": "more", "port": 81, "protocol": "TCP"}));
        json!({"spec": {"ports": ports}})
    }),
    ("a value", ChildKind::Secret, |_| json!({"data": {"more": "eA=="}})),
];

#[tokio::test]
async fn what_others_add_to_a_child_is_taken_away_by_one_patch() {
    let bed = Bed::new("added").await;
    let operator = bed.operator().await;
    settled(&bed, &operator).await;
    for (round, (what, kind, addition)) in ADDITIONS.into_iter().enumerate() {
        let live = bed.child(kind, "shop").await.expect("it is whole");
        let before = content(live.clone());
        let mark = bed.plane.mark();
        bed.patch(&kind.resource(), "shop-sluice", &addition(&live)).await;
        within(BACK, &format!("{what} is gone"), || async {
            (content(bed.child(kind, "shop").await?) == before).then_some(())
        })
        .await;
        looked_again(&bed, &operator, round + 1).await;
        let writes = writes_to_children(&bed, mark);
        assert_eq!(writes.len(), 1, "{what}: {writes:#?}");
    }
}

#[tokio::test]
async fn the_cursor_key_survives_everything_but_its_own_deletion() {
    let bed = Bed::new("cursor").await;
    let mut operator = bed.operator().await;
    bed.apply(&shop()).await;
    let secrets = ChildKind::Secret.resource();
    let key =
        async || bed.find(&secrets, "shop-sluice-cursor").await.map(|secret| secret["data"]["key"].clone());
    let delivered = async || bed.child(ChildKind::Secret, "shop").await.map(|secret| secret["data"].clone());
    bed.told("shop", "Accepted", "True", "Accepted").await;
    bed.told("shop", "Programmed", "False", "NoPods").await;
    let first = key().await.expect("it was made");
    assert!(delivered().await.expect("it was written").to_string().contains(first.as_str().expect("text")));
    bed.apply(&two_replicas()).await;
    bed.delete(&secrets, "shop-sluice").await;
    eventually("the data plane's Secret is back", delivered).await;
    operator.stop().await;
    bed.delete(&ChildKind::ConfigMap.resource(), "shop-sluice").await;
    operator.restart();
    operator.leads().await;
    eventually("the ConfigMap is back", || bed.child(ChildKind::ConfigMap, "shop")).await;
    assert_eq!(key().await, Some(first.clone()));
    bed.delete(&secrets, "shop-sluice-cursor").await;
    let second = eventually("a new key is made", key).await;
    assert_ne!(second, first);
    eventually("the data plane gets the new key", || async {
        delivered().await?.to_string().contains(second.as_str()?).then_some(())
    })
    .await;
    assert!(!delivered().await.expect("it is there").to_string().contains(first.as_str().expect("text")));
}

#[tokio::test]
async fn a_paused_api_is_left_as_it_is_until_it_is_not() {
    let bed = Bed::new("paused").await;
    let operator = bed.operator().await;
    bed.apply(&shop()).await;
    bed.told("shop", "Programmed", "False", "NoPods").await;
    let pause = |value: Value| json!({"metadata": {"annotations": {"sluice.dev/paused": value}}});
    bed.patch(&api_resource(), "shop", &pause(json!("true"))).await;
    let message = bed.told("shop", "Programmed", "False", "Paused").await;
    assert!(message.contains("sluice.dev/paused-"), "it tells the way out: {message}");
    for step in ["read", "render", "write", "status"] {
        let taken = operator.metric("step_seconds_count", &[("kind", "StreamAPI"), ("step", step)]).await;
        assert!(taken > Some(0.0), "{step}: {taken:?}");
    }
    let before = operator.metric("writes_total", &[]).await.expect("it answers");
    // A change, and a child that is not as it should be.
    let map = ChildKind::ConfigMap.resource();
    bed.patch(&map, "shop-sluice", &json!({"data": {"mine": "x"}})).await;
    bed.patch(&api_resource(), "shop", &json!({"spec": {"description": "new"}})).await;
    let looks = operator.looks("StreamAPI").await;
    bed.patch(&api_resource(), "shop", &json!({"metadata": {"labels": {"look": "again"}}})).await;
    eventually("it looked", || async { (operator.looks("StreamAPI").await > looks).then_some(()) }).await;
    assert_eq!(operator.metric("writes_total", &[]).await, Some(before), "nothing is written");
    assert_eq!(bed.get(&map, "shop-sluice").await["data"]["mine"], "x");
    bed.patch(&api_resource(), "shop", &pause(Value::Null)).await;
    eventually("both are made good", || async {
        let map = bed.get(&map, "shop-sluice").await;
        let config = map["data"]["config-v1.json"].as_str().unwrap_or_default();
        (map["data"]["mine"].is_null() && config.contains("\"description\":\"new\"")).then_some(())
    })
    .await;
    bed.told("shop", "Programmed", "False", "NoPods").await;
}

/// A new process has asked no pod yet, and knows nothing better than what is told already.
#[tokio::test]
async fn a_restart_takes_back_nothing_that_pods_said() {
    let bed = Bed::new("again").await;
    let mut operator = bed.operator().await;
    bed.apply(&shop()).await;
    let pod = Pod::run(&bed, "shop").await;
    bed.told("shop", "Programmed", "True", "Programmed").await;
    bed.told("shop", "Available", "True", "Available").await;
    // The Event about a condition comes after the condition.
    eventually("both are told by Events, too", || async {
        let events = bed.list(&kind_of(&json!({"kind": "Event"}))).await;
        let told = |reason: &str| events.iter().any(|event| event["reason"] == reason);
        (told("Programmed") && told("Available")).then_some(())
    })
    .await;
    for _ in 0..3 {
        let mark = bed.plane.mark();
        operator.stop().await;
        operator.restart();
        operator.leads().await;
        eventually("it looked", || async { (operator.looks("StreamAPI").await > 0.0).then_some(()) }).await;
        // Longer than it takes to ask the pod, and to tell what it said.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let writes = bed.writes(mark);
        assert!(writes.is_empty(), "written after a restart: {writes:#?}");
    }
    pod.stop().await;
    operator.stop().await;
}
