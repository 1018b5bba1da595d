//! What has a child's name and is somebody else's is never written.

use std::time::Duration;

use serde_json::{Value, json};
use sluice_operator::children::ChildKind;
use sluice_tests::within;

use crate::bed::{Bed, kinds, shop};

/// An object of somebody else's with a child's name.
fn foreign(kind: ChildKind, name: &str) -> Value {
    let resource = kind.resource();
    let mut object =
        json!({"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}});
    let labels = json!({"app": "mine"});
    let content = match kind {
        ChildKind::Secret | ChildKind::ConfigMap => json!({"data": {}}),
        ChildKind::ServiceAccount => json!({}),
        ChildKind::Role => json!({"rules": []}),
        ChildKind::RoleBinding => {
            json!({"subjects": [], "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "mine"}})
        }
        ChildKind::Service => json!({"spec": {"ports": [{"port": 1}]}}),
        ChildKind::NetworkPolicy => json!({"spec": {"podSelector": {}}}),
        ChildKind::PodDisruptionBudget => json!({"spec": {"selector": {"matchLabels": labels}}}),
        ChildKind::HorizontalPodAutoscaler => json!({"spec": {
            "maxReplicas": 1, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "mine"},
        }}),
        ChildKind::Deployment => json!({"spec": {
            "replicas": 0, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "a"}]}},
        }}),
        ChildKind::Ingress | ChildKind::HttpRoute => unreachable!("`exposure` has these"),
        ChildKind::StreamApi => unreachable!("`expose` has it"),
    };
    object.as_object_mut().expect("an object").extend(content.as_object().cloned().expect("an object"));
    object
}

/// Every child, with the name it has under the API that the case is about.
fn cases() -> impl Iterator<Item = (usize, ChildKind, &'static str)> {
    let children = kinds().map(|kind| (kind, "sluice"));
    children
        .chain([(ChildKind::Secret, "sluice-cursor")])
        .enumerate()
        .map(|(n, (kind, name))| (n, kind, name))
}

#[tokio::test]
async fn a_foreign_object_of_a_childs_name_is_told_and_never_written() {
    let bed = Bed::new("foreign").await;
    let mut operator = bed.operator().await;
    operator.expect_log(&["exists and was not made for this object"]);
    let mark = bed.plane.mark();
    for (n, kind, suffix) in cases() {
        let name = format!("api{n}-{suffix}");
        // Labelled as ours or not: it is the owner that counts.
        let mut object = foreign(kind, &name);
        if n % 2 == 0 {
            object["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "sluice-operator"});
        }
        let before = bed.apply(&object).await["metadata"]["resourceVersion"].clone();
        let mut api = shop();
        api["metadata"]["name"] = json!(format!("api{n}"));
        api["spec"]["placement"] =
            json!({"deployment": {"autoscaling": {"minReplicas": 2, "maxReplicas": 3}}});
        bed.apply(&api).await;
        let message = bed.told(&format!("api{n}"), "Accepted", "False", "NameTaken").await;
        for part in [kind.names().2, &name, "delete or rename it"] {
            assert!(message.contains(part), "{kind:?}: {message}");
        }
        let now = bed.get(&kind.resource(), &name).await["metadata"]["resourceVersion"].clone();
        // Its own controller counts a budget's and a Deployment's pods.
        if !matches!(
            kind,
            ChildKind::PodDisruptionBudget | ChildKind::Deployment | ChildKind::HorizontalPodAutoscaler
        ) {
            assert_eq!(now, before, "{kind:?} {name} was written");
        }
        let writes =
            bed.writes(mark).into_iter().filter(|it| it.resource == kind.names().3 && it.name == name);
        let allowed = writes.filter(|it| it.code < 400).collect::<Vec<_>>();
        assert!(allowed.is_empty(), "{allowed:#?}");
        bed.delete(&kind.resource(), &name).await;
    }
    for (n, _, _) in cases() {
        let api = format!("api{n}");
        bed.told(&api, "Accepted", "True", "Accepted").await;
        bed.whole(&api, &kinds().collect::<Vec<_>>()).await;
    }
}

/// A child that loses its owner reference by hand is somebody else's from then on.
#[tokio::test]
async fn a_child_that_is_disowned_is_left_alone() {
    let bed = Bed::new("disowned").await;
    let mut operator = bed.operator().await;
    operator.expect_log(&["exists and was not made for this object"]);
    bed.apply(&shop()).await;
    bed.told("shop", "Programmed", "False", "NoPods").await;
    let services = ChildKind::Service.resource();
    bed.patch(&services, "shop-sluice", &json!({"metadata": {"ownerReferences": null}})).await;
    bed.told("shop", "Accepted", "False", "NameTaken").await;
    assert!(bed.get(&services, "shop-sluice").await["metadata"]["ownerReferences"].is_null());
    bed.delete(&services, "shop-sluice").await;
    within(Duration::from_secs(10), "the Service is made again", || async {
        let service = bed.child(ChildKind::Service, "shop").await?;
        service["metadata"]["ownerReferences"].is_array().then_some(())
    })
    .await;
    bed.told("shop", "Accepted", "True", "Accepted").await;
}
