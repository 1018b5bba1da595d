//! The API server and etcd go away and come back. A control plane of its own.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_operator::children::ChildKind;
use sluice_operator::world::api_resource;
use sluice_tests::client::http::publish;
use sluice_tests::client::websocket::WebSocket;
use sluice_tests::cluster::Request;
use sluice_tests::{ControlPlane, eventually, within};

use crate::bed::{Bed, shop};
use crate::pod::Pod;

/// Whether the API server answers the operator's user again.
async fn answers(bed: &Bed) {
    within(Duration::from_secs(30), "the API server answers", || async {
        bed.objects(&api_resource()).get("shop").await.ok()
    })
    .await;
}

async fn description(bed: &Bed) -> Option<String> {
    let map = bed.child(ChildKind::ConfigMap, "shop").await?;
    let config: Value = serde_json::from_str(map["data"]["config-v1.json"].as_str()?).ok()?;
    let entry = &config["apis"][format!("{}/shop", bed.namespace)];
    entry["api"]["spec"]["description"].as_str().map(str::to_owned)
}

/// An edit arrives in the running data plane, and what was to be written is all that was.
async fn recovers(bed: &Bed, pod: &Pod, what: &str) {
    let mark = bed.plane.mark();
    bed.patch(&api_resource(), "shop", &json!({"spec": {"description": what}})).await;
    within(Duration::from_secs(40), &format!("the operator works after: {what}"), || async {
        (description(bed).await.as_deref() == Some(what)).then_some(())
    })
    .await;
    let revision = eventually("the status tells the revision", || async {
        let api = bed.get(&api_resource(), "shop").await;
        let current =
            crate::bed::condition(&api, "Programmed")["observedGeneration"] == api["metadata"]["generation"];
        current.then(|| api["status"]["revision"].clone())
    })
    .await;
    within(Duration::from_secs(40), &format!("the data plane follows after: {what}"), || async {
        (pod.served().await["revision"] == revision).then_some(())
    })
    .await;
    bed.told("shop", "Programmed", "True", "Programmed").await;
    let writes = bed.writes(mark);
    let children: Vec<_> =
        writes.iter().filter(|it| it.group != "sluice.dev" && !it.resource.contains("events")).collect();
    // While a watch is away the same patch may be sent again: it changes nothing then.
    let kinds: BTreeSet<_> = children.iter().map(|it| (it.verb.as_str(), it.resource.as_str())).collect();
    assert_eq!(kinds, [("patch", "configmaps")].into(), "after {what}: {children:#?}");
}

#[tokio::test]
async fn the_operator_recovers_and_traffic_goes_on_while_the_api_server_is_away() {
    let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start()));
    let bed = Bed::on(plane, "faults", &["--set", "scope=Namespace,dataplane.networkPolicies=true"]).await;
    let mut operator = bed.operator().await;
    operator.expect_log(&[
        "kube_client",
        "kube_runtime",
        "a watch was interrupted",
        "Lease",
        "API server",
        "could not be",
        "reconciling failed",
    ]);
    bed.apply(&shop()).await;
    let mut pod = Pod::run(&bed, "shop").await;
    pod.expect_log(&["kube_client", "kube_runtime", "watch", "API server"]);
    bed.told("shop", "Programmed", "True", "Programmed").await;
    recovers(&bed, &pod, "nothing").await;

    plane.component("kill", "kube-apiserver");
    let (mut socket, _) = WebSocket::begin(&pod.url("/shop/orders")).await;
    assert_eq!(publish(&pod.url("/shop/orders"), &[], "1").await.status, 200);
    assert_eq!(socket.message().await.payload(), Some("1".into()));
    plane.component("start", "kube-apiserver");
    answers(&bed).await;
    recovers(&bed, &pod, "an API server that was killed").await;
    assert_eq!(publish(&pod.url("/shop/orders"), &[], "2").await.status, 200);
    assert_eq!(socket.message().await.payload(), Some("2".into()));
    drop(socket);

    // The container is killed and started again by its kubelet while there is no API server.
    pod.mount(&bed).await;
    plane.component("kill", "kube-apiserver");
    pod.kill();
    pod.launch(&bed);
    pod.ready().await;
    assert_eq!(publish(&pod.url("/shop/orders"), &[], "3").await.status, 200);
    plane.component("start", "kube-apiserver");
    answers(&bed).await;
    recovers(&bed, &pod, "a container that started without an API server").await;

    // What the operator last saw is older than what the API server knows when it is back: its watches
    // have expired, and what happened meanwhile is only found by listing again.
    operator.signal(libc::SIGSTOP);
    plane.component("kill", "kube-apiserver");
    plane.component("start", "kube-apiserver");
    answers(&bed).await;
    bed.patch(&api_resource(), "shop", &json!({"spec": {"description": "unseen"}})).await;
    let mark = plane.mark();
    operator.signal(libc::SIGCONT);
    within(Duration::from_secs(40), "the unseen edit is found", || async {
        (description(&bed).await.as_deref() == Some("unseen")).then_some(())
    })
    .await;
    let listed = |request: &Request| request.verb == "list" && request.resource == "streamapis";
    assert!(plane.requests(mark).iter().any(listed), "the watch did not expire");
    recovers(&bed, &pod, "a watch that expired").await;

    plane.component("kill", "etcd");
    plane.component("start", "etcd");
    within(Duration::from_secs(30), "etcd answers", || async {
        plane.tool("kubectl", &["get", "--raw", "/readyz"], "").status.success().then_some(())
    })
    .await;
    answers(&bed).await;
    recovers(&bed, &pod, "an etcd that was killed").await;
    pod.stop().await;
    plane.end();
}
