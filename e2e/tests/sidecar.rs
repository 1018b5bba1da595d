//! Workloads of somebody else that get the data plane as a native sidecar. One test at a time: the
//! last one sends the operator away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_e2e::kubernetes::{OPERATOR, SYSTEM, kubectl};
use sluice_e2e::namespace::{Pod, pods};
use sluice_e2e::traffic::shop;
use sluice_e2e::{Namespace, kafka};
use sluice_tests::client::http;
use sluice_tests::documents::{Api, Documents};
use sluice_tests::{Cluster, within};

/// How long pods may take to come, go and follow.
const PATIENCE: Duration = Duration::from_secs(90);
/// How soon a sidecar serves a change, although nothing in it watches.
const FOLLOWS: Duration = Duration::from_secs(10);

/// The API `shop` on `topic`, served in sidecars.
fn placed(kafka: &Cluster, topic: &str, sidecar: Value) -> Api {
    let mut api = shop(kafka, topic, 1);
    api.0["spec"]["placement"] = json!({"sidecar": sidecar});
    api
}

/// A workload of `till`s, which only know HTTP on their loopback.
fn tills(kind: &str, name: &str, arguments: &[&str], replicas: u32) -> Value {
    let template = json!({
        "metadata": {"labels": {"app": name, "sluice.dev/sidecar": "shop"}},
        "spec": {
            "restartPolicy": if kind == "Job" { "Never" } else { "Always" },
            "terminationGracePeriodSeconds": 20,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "till", "image": "sluice.test/till:1", "imagePullPolicy": "Never", "args": arguments,
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    });
    let selector = json!({"matchLabels": {"app": name}});
    match kind {
        "Job" => json!({"apiVersion": "batch/v1", "kind": kind, "metadata": {"name": name},
            "spec": {"backoffLimit": 0, "template": template}}),
        _ => json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": selector, "template": template,
                "strategy": {"rollingUpdate": {"maxUnavailable": 0}}}}),
    }
}

/// A namespace where pods may be given sidecars.
async fn allowed(purpose: &str) -> Namespace {
    let namespace = Namespace::new(purpose).await;
    kubectl(&["label", "namespace", &namespace.name, "sluice.dev/injection=enabled"]).await;
    namespace
}

/// What a till shows of itself.
async fn tally(pod: &Pod) -> Option<(u64, u64, u64)> {
    let shown = http::get(&format!("http://{}:8000/", pod.ip)).await.ok()?.json();
    Some((shown["sold"].as_u64()?, shown["troubled"].as_u64()?, shown["seen"].as_u64()?))
}

/// Waits until both tills of `app` sold and saw as many.
async fn busy(namespace: &Namespace, app: &str, count: u64) -> Vec<Pod> {
    within(PATIENCE, "every till sells and sees orders", || async {
        let pods = pods(&namespace.name, &format!("app={app}")).await;
        for pod in &pods {
            tally(pod).await.filter(|(sold, _, seen)| *sold >= count && *seen >= count)?;
        }
        (pods.len() == 2).then_some(pods)
    })
    .await
}

/// The revision that a sidecar serves.
async fn served(pod: &Pod) -> Option<String> {
    let config = http::get(&format!("http://{}:15081/config", pod.ip)).await.ok()?.json();
    config["apis"][0]["revision"].as_str().map(str::to_owned)
}

/// What is in the topic: the numbers that each till sold, all of them once or more, and how many had to
/// be sent again.
async fn sold(kafka: &Cluster, topic: &str) -> (BTreeMap<String, BTreeSet<u64>>, u64) {
    let mut sold = BTreeMap::<String, BTreeSet<u64>>::new();
    let mut troubled = BTreeMap::<String, u64>::new();
    for record in kafka.records(topic).await {
        let order: Value =
            serde_json::from_slice(record.payload.as_deref().expect("a payload")).expect("JSON");
        let till = order["till"].as_str().expect("a till").to_owned();
        let most = troubled.entry(till.clone()).or_default();
        *most = (*most).max(order["troubled"].as_u64().expect("a number"));
        sold.entry(till).or_default().insert(order["number"].as_u64().expect("a number"));
    }
    (sold, troubled.values().sum())
}

#[tokio::test]
async fn an_application_that_only_knows_localhost_uses_kafka_through_its_sidecar() {
    let kafka = kafka().await;
    let topic = kafka.topic("tills", 3).await;
    let namespace = allowed("tills").await;
    namespace.apply(&Documents::new().api(placed(kafka, &topic, json!({})))).await;
    // With the same command, or a moment later.
    namespace.apply_text(&tills("Deployment", "till", &["run"], 2).to_string()).await;
    let before = busy(&namespace, "till", 20).await;
    assert_eq!(before.len(), 2);
    namespace.programmed("shop").await;

    // A change is served without a restart, and without anything in the pod that watches.
    let revision = namespace.revision("shop").await;
    let begun = Instant::now();
    namespace.patch("shop", json!({"spec": {"description": "another"}})).await;
    within(FOLLOWS, "every sidecar serves the change", || async {
        for pod in &before {
            served(pod).await.filter(|served| *served != revision)?;
        }
        Some(())
    })
    .await;
    println!("a change was served in sidecars after {:?}", begun.elapsed());
    namespace.programmed("shop").await;
    assert_eq!(pods(&namespace.name, "app=till").await, before, "the same pods, never restarted");

    // Their own Deployment rolls them: what ends sells its last order through a sidecar that ends after it.
    namespace.kubectl(&["rollout", "restart", "deploy/till"]).await;
    namespace.kubectl(&["rollout", "status", "deploy/till", "--timeout=90s"]).await;
    let after = busy(&namespace, "till", 20).await;
    assert!(after.iter().all(|pod| before.iter().all(|old| old.uid != pod.uid)));

    namespace.apply_text(&tills("Job", "sale", &["sell", "50"], 1).to_string()).await;
    namespace.kubectl(&["wait", "--for=condition=complete", "job/sale", "--timeout=60s"]).await;
    namespace.kubectl(&["delete", "deploy/till"]).await;
    within(PATIENCE, "the tills are gone", || async {
        pods(&namespace.name, "app=till").await.is_empty().then_some(())
    })
    .await;
    let (sold, troubled) = sold(kafka, &topic).await;
    assert_eq!(sold.len(), 5, "four tills and a sale: {:?}", sold.keys());
    for (till, numbers) in &sold {
        let whole = (0..numbers.len() as u64).collect();
        assert_eq!(*numbers, whole, "{till} sold them all");
    }
    let sale = sold.iter().find(|(till, _)| till.starts_with("sale")).expect("the Job");
    assert_eq!(sale.1.len(), 50);
    assert_eq!(troubled, 0, "no request failed");
}

/// While nobody answers, pods start without; they are found, told, and replaced if that is asked for.
#[tokio::test]
async fn what_started_while_the_operator_was_away_gets_its_sidecar_when_it_is_back() {
    let kafka = kafka().await;
    let topic = kafka.topic("missed", 3).await;
    let namespace = allowed("missed").await;
    namespace.apply(&Documents::new().api(placed(kafka, &topic, json!({})))).await;
    within(PATIENCE, "the API is looked at", || async {
        (namespace.condition("sapi", "shop", "Programmed").await.1 == "NoPods").then_some(())
    })
    .await;
    let scale = async |replicas: &str| {
        kubectl(&["-n", SYSTEM, "scale", "deploy", "-l", OPERATOR, &format!("--replicas={replicas}")]).await
    };
    scale("0").await;
    within(PATIENCE, "the operator is away", || async {
        pods(SYSTEM, OPERATOR).await.is_empty().then_some(())
    })
    .await;
    namespace.apply_text(&tills("Deployment", "till", &["run"], 2).to_string()).await;
    namespace.kubectl(&["rollout", "status", "deploy/till", "--timeout=90s"]).await;
    let missed = pods(&namespace.name, "app=till").await;
    for pod in &missed {
        assert_eq!(within(PATIENCE, "it runs", || tally(pod)).await, (0, 0, 0), "it has nobody to sell to");
    }
    scale("2").await;
    kubectl(&["-n", SYSTEM, "rollout", "status", "deploy", "-l", OPERATOR, "--timeout=60s"]).await;
    within(PATIENCE, "they are told by name", || async {
        let (_, reason, message) = namespace.condition("sapi", "shop", "Programmed").await;
        (reason == "NotInjected" && missed.iter().all(|pod| message.contains(&pod.name))).then_some(())
    })
    .await;
    assert_eq!(pods(&namespace.name, "app=till").await, missed, "left alone until somebody restarts them");

    namespace.patch("shop", json!({"spec": {"placement": {"sidecar": {"update": "Rollout"}}}})).await;
    within(PATIENCE, "both are replaced", || async {
        let pods = pods(&namespace.name, "app=till").await;
        (pods.len() == 2 && pods.iter().all(|pod| missed.iter().all(|old| old.uid != pod.uid))).then_some(())
    })
    .await;
    namespace.programmed("shop").await;
    busy(&namespace, "till", 5).await;
}
