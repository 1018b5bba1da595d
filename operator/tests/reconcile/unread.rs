//! An object that cannot be understood is told, fails closed, and blinds nothing else. A control
//! plane of its own: its definitions are relaxed for a while.

use serde_json::{Value, json};
use sluice_operator::children::ChildKind;
use sluice_operator::world::{api_resource, policy_resource};
use sluice_tests::ControlPlane;
use sluice_tests::eventually;

use crate::bed::{Bed, policy, shop};

/// Has the definitions take anything.
fn relax(plane: &ControlPlane) {
    for plural in ["streamapis", "streampolicies"] {
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let patch =
            json!([{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema", "value": schema}]);
        let crd = format!("crd/{plural}.sluice.dev");
        plane.run("kubectl", &["patch", &crd, "--type=json", "-p", &patch.to_string()], "");
    }
}

#[tokio::test]
async fn an_unreadable_object_is_told_and_blinds_nothing_else() {
    let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start()));
    let values = ["--set", "scope=Namespace,dataplane.networkPolicies=true"];
    let bed = Bed::on(plane, "unread", &values).await;
    bed.apply(&shop()).await;
    relax(plane);
    let mut broken = shop();
    broken["metadata"]["name"] = json!("broken");
    broken["spec"]["channels"][0]["subscribe"]["slowConsumer"] = json!("of the future");
    broken["spec"]["placement"] = json!({"deployment": {"replicas": 5000}});
    // Of this one the API server refuses even the status.
    let mut torn = shop();
    torn["metadata"]["name"] = json!("torn");
    torn["spec"]["servers"] = json!("none");
    let closing = policy("closing", &["shop"], json!({"limits": {"connections": -5}}));
    for document in [&broken, &torn, &closing] {
        eventually("the definition takes anything", || async { bed.try_apply(document).await.ok() }).await;
    }
    plane.run(
        "kubectl",
        &["apply", "--server-side", "--force-conflicts", "-f", "-"],
        &bed.chart(&["crds"], &[]),
    );
    eventually("the definition is what it was", || async {
        let mut again = broken.clone();
        again["metadata"]["name"] = json!("again");
        bed.try_apply(&again).await.err()
    })
    .await;
    let mut operator = bed.operator().await;
    operator.expect_log(&["status of `torn` was refused"]);
    let message = told(&bed, "broken").await;
    for part in ["spec.channels[0].subscribe.slowConsumer", "replicas"] {
        assert!(message.contains(part), "{message} lacks {part}");
    }
    let message = bed.policy_told("closing", "Accepted", "False", "Invalid").await;
    assert!(message.contains("spec.limits.connections"), "{message}");
    let closed = bed.told("shop", "ResolvedRefs", "False", "PolicyNotInForce").await;
    assert!(closed.contains("closing"), "{closed}");
    let map = bed.child(ChildKind::ConfigMap, "shop").await.expect("the readable one is built");
    assert!(map["data"]["config-v1.json"].as_str().is_some_and(|text| text.contains("closing")), "{map:#}");
    assert!(bed.child(ChildKind::ConfigMap, "broken").await.is_none());
    bed.delete(&policy_resource(), "closing").await;
    bed.told("shop", "ResolvedRefs", "True", "ResolvedRefs").await;
    let mut later = shop();
    later["metadata"]["name"] = json!("later");
    bed.apply(&later).await;
    bed.told("later", "Accepted", "True", "Accepted").await;
    eventually("what cannot be told in a status is logged", || async {
        operator.log().contains("status of `torn` was refused").then_some(())
    })
    .await;
    for name in ["broken", "torn"] {
        assert!(bed.child(ChildKind::Deployment, name).await.is_none(), "nothing is made of {name}");
    }
}

/// The condition of an object whose generation may not be what the API server counts.
async fn told(bed: &Bed, name: &str) -> String {
    eventually(&format!("{name} is told"), || async {
        let object: Value = bed.get(&api_resource(), name).await;
        let accepted = crate::bed::condition(&object, "Accepted");
        (accepted["status"] == "False").then(|| accepted["message"].as_str().unwrap_or_default().to_owned())
    })
    .await
}
