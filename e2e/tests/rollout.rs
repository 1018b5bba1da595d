//! Pods come and go under load, and every message is counted.

use std::time::Duration;

use serde_json::json;
use sluice_e2e::kubernetes::{attempt, operator_logs};
use sluice_e2e::traffic::shop;
use sluice_e2e::{Namespace, Traffic, kafka};
use sluice_tests::documents::Documents;
use sluice_tests::within;

/// Messages of each: some five seconds of them; a drain takes longer and is waited for.
const MESSAGES: usize = 6000;

/// A namespace that serves a new topic from two pods, and traffic through it.
async fn busy(purpose: &str) -> (Namespace, Traffic) {
    let kafka = kafka().await;
    let topic = kafka.topic(purpose, 6).await;
    let namespace = Namespace::new(purpose).await;
    let url = namespace.serve("shop", &Documents::new().api(shop(kafka, &topic, 2))).await;
    namespace.rolled_out("shop").await;
    let traffic = Traffic::start(purpose, &url, MESSAGES).await;
    (namespace, traffic)
}

/// D1.
#[tokio::test]
async fn nothing_is_lost_when_containers_are_killed() {
    let (namespace, traffic) = busy("killed").await;
    let pods = namespace.pods("shop").await;
    for (part, pod) in pods.iter().enumerate() {
        traffic.reaches(part + 1, 4).await;
        pod.kill("sluice").await;
        traffic.connected().await;
        namespace.rolled_out("shop").await;
    }
    let after = namespace.pods("shop").await;
    let same = after.iter().zip(&pods).all(|(after, before)| after.uid == before.uid && after.restarts == 1);
    assert!(same && after.len() == 2, "killed once each, and the same pods: {after:?}");
    traffic.check(3).await;
}

/// D2: told to leave, clients go to the other pod, and no request fails.
#[tokio::test]
async fn nothing_is_lost_when_a_pod_is_deleted() {
    let (namespace, traffic) = busy("deleted").await;
    let pods = namespace.pods("shop").await;
    namespace.kubectl(&["delete", "pod", &pods[0].name, "--wait=false"]).await;
    within(Duration::from_secs(60), "the pod ends", || async {
        let there = namespace.kubectl(&["get", "pods", "-o", "name"]).await;
        (!there.contains(&pods[0].name)).then_some(())
    })
    .await;
    namespace.rolled_out("shop").await;
    let told: usize = traffic.followers.iter().map(|follower| follower.seen().drains).sum();
    println!("{told} followers were told to leave");
    assert_eq!(traffic.check(2).await, 0, "no request failed");
}

/// D3: a new annotation replaces every pod.
#[tokio::test]
async fn nothing_is_lost_when_a_deployment_is_rolled() {
    let (namespace, traffic) = busy("rolled").await;
    let pods = namespace.pods("shop").await;
    let template = json!({"podTemplate": {"annotations": {"example.com/why": "to see what happens"}}});
    namespace.patch("shop", json!({"spec": {"placement": {"deployment": template}}})).await;
    within(Duration::from_secs(90), "the former pods are gone", || async {
        let there = namespace.kubectl(&["get", "pods", "-o", "name"]).await;
        pods.iter().all(|pod| !there.contains(&pod.name)).then_some(())
    })
    .await;
    assert_eq!(namespace.pods("shop").await.len(), 2);
    for follower in &traffic.followers {
        assert!(follower.seen().drains >= 1, "told to leave: {}", follower.report());
    }
    assert_eq!(traffic.check(4).await, 0, "no request failed");
}

/// A namespace goes while its API is busy: all of it, and nobody complains.
#[tokio::test]
async fn a_namespace_may_be_deleted_in_the_middle() {
    let (namespace, traffic) = busy("doomed").await;
    let name = namespace.name.clone();
    // Its clients are of no interest any more.
    drop(traffic);
    namespace.kubectl(&["delete", "namespace", &name, "--wait=false"]).await;
    within(Duration::from_secs(90), "the namespace is gone", || async {
        attempt(&["get", "namespace", &name]).await.is_err().then_some(())
    })
    .await;
    for (pod, log) in operator_logs().await {
        let about = |line: &&str| line.contains(&name);
        let loud = |line: &&str| line.contains("\"WARN\"") || line.contains("\"ERROR\"");
        let complaints: Vec<&str> = log.lines().filter(about).filter(loud).collect();
        assert!(complaints.is_empty(), "{pod}: {complaints:#?}");
    }
}
