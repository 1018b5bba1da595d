//! etcd is put back to what it was a while ago, as after a lost quorum: what was made, changed and deleted since
//! then is undone, and versions begin again below those that watches have seen. A control plane of its own.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_operator::children::ChildKind;
use sluice_operator::world::api_resource;
use sluice_tests::client::http::publish;
use sluice_tests::client::websocket::WebSocket;
use sluice_tests::{ControlPlane, eventually, within};

use crate::bed::{Bed, COLLECTED, named};
use crate::children::{children_of, managed, written};
use crate::operator::Operator;
use crate::pod::Pod;

/// More versions than this control plane makes by itself while the test looks.
const VERSIONS: usize = 500;
/// How soon after the restore everything works again.
const RECOVERED: Duration = Duration::from_secs(60);

async fn describe(bed: &Bed, api: &str, text: &str) {
    bed.patch(&api_resource(), api, &json!({"spec": {"description": text}})).await;
}

/// Waits until the pod serves what status tells; the revision.
async fn served(bed: &Bed, pod: &Pod) -> Value {
    within(RECOVERED, "the pod serves what status tells", || async {
        let revision = bed.get(&api_resource(), "shop").await["status"]["revision"].clone();
        (revision.is_string() && pod.served().await["revision"] == revision).then_some(revision)
    })
    .await
}

/// Waits until the API server answers again.
async fn answers(bed: &Bed) {
    within(Duration::from_secs(30), "the API server answers", || async {
        bed.objects(&api_resource()).get("shop").await.ok()
    })
    .await;
}

/// Makes versions that a restored API server has yet to come to.
async fn advance(bed: &Bed) {
    let maps = ChildKind::ConfigMap.resource();
    bed.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "versions"}})).await;
    for version in 0..VERSIONS {
        bed.patch(&maps, "versions", &json!({"data": {"version": version.to_string()}})).await;
    }
}

/// An operator that leads, and one that stands by and so outlives any outage.
async fn replicas(bed: &Bed) -> [Operator; 2] {
    let mut leader = bed.operator().await;
    let mut setup = Operator::namespaced(bed);
    setup.pod = "operator-1".into();
    let mut standby = Operator::launch(bed, setup).await;
    eventually("the other one stands by", || async { standby.metric("leader", &[]).await }).await;
    for operator in [&mut leader, &mut standby] {
        operator.expect_log(&[
            "kube_client",
            "kube_runtime",
            "a watch was interrupted",
            "Lease",
            "leads",
            "API server",
            "could not be",
            "reconciling failed",
            "the operator ends",
        ]);
    }
    [leader, standby]
}

#[tokio::test]
async fn a_backup_that_is_put_back_is_what_is_served_and_what_is_edited() {
    let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start()));
    let bed = Bed::on(plane, "backup", &["--set", "scope=Namespace,dataplane.networkPolicies=true"]).await;
    let [mut leader, mut standby] = replicas(&bed).await;
    bed.apply(&named("shop")).await;
    bed.apply(&named("lost")).await;
    let mut pod = Pod::run(&bed, "shop").await;
    pod.expect_log(&["kube_client", "kube_runtime", "watch", "API server"]);
    bed.told("lost", "Programmed", "False", "NoPods").await;
    describe(&bed, "shop", "kept").await;
    written(&bed, "shop", "kept", RECOVERED).await;
    bed.told("shop", "Programmed", "True", "Programmed").await;
    let kept = served(&bed, &pod).await;
    let (mut socket, _) = WebSocket::begin(&pod.url("/shop/orders")).await;
    plane.component("save", "etcd");
    answers(&bed).await;

    // First of all, so that what watches see of the rest is far ahead.
    advance(&bed).await;
    describe(&bed, "shop", "undone").await;
    written(&bed, "shop", "undone", RECOVERED).await;
    bed.told("shop", "Programmed", "True", "Programmed").await;
    assert_ne!(served(&bed, &pod).await, kept);
    bed.delete(&api_resource(), "lost").await;
    bed.apply(&named("added")).await;
    bed.told("added", "Programmed", "False", "NoPods").await;
    within(COLLECTED, "what was deleted is collected", || async {
        bed.child(ChildKind::ConfigMap, "lost").await.is_none().then_some(())
    })
    .await;

    plane.component("restore", "etcd");
    let back = Instant::now();
    // As Kubernetes wants it for whatever remembers a future that is none; the operator is to see to itself.
    for action in ["kill", "start"] {
        plane.component(action, "kube-controller-manager");
    }
    answers(&bed).await;
    within(RECOVERED, "the pod serves what was kept", || async {
        (pod.served().await["revision"] == kept).then_some(())
    })
    .await;
    println!("the pod served what was kept {:?} after the restore", back.elapsed());
    leader.signal(libc::SIGKILL);
    leader.ended(Duration::from_secs(5)).await;
    within(Duration::from_secs(30), "the other one leads", || async {
        standby.is_leading().await.then_some(())
    })
    .await;
    for api in ["shop", "lost"] {
        let begun = Instant::now();
        describe(&bed, api, "after the restore").await;
        written(&bed, api, "after the restore", RECOVERED).await;
        println!("an edit of {api} was written after {:?}", begun.elapsed());
    }
    bed.told("shop", "Programmed", "True", "Programmed").await;
    bed.told("lost", "Programmed", "False", "NoPods").await;
    assert_ne!(served(&bed, &pod).await, kept);
    assert!(bed.find(&api_resource(), "added").await.is_none());
    let expected: BTreeSet<_> =
        ["shop", "lost"].into_iter().flat_map(|api| children_of(api, false)).collect();
    assert_eq!(managed(&bed).await, expected, "nothing is made of what is no longer there");
    // Nobody was disconnected by any of it.
    assert_eq!(publish(&pod.url("/shop/orders"), &[], "1").await.status, 200);
    assert_eq!(socket.message().await.payload(), Some("1".into()));
    drop(socket);
    pod.stop().await;
    standby.stop().await;
    plane.end();
}
