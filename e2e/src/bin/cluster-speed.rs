//! How fast a cluster follows: prints a table. `scripts/e2e speed` runs it on a cluster of its own;
//! figures count on an otherwise idle machine only.

use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use sluice_e2e::Namespace;
use sluice_e2e::kubernetes::{OPERATOR, SYSTEM, kubectl_with, leader};
use sluice_e2e::namespace::{Pod, pods};
use sluice_tests::client::http;
use sluice_tests::documents::{Channel, Documents, api_key};
use sluice_tests::{seed, within};

/// Changes that are timed.
const CHANGES: usize = 100;
/// Pods that serve the API that is changed.
const PODS: u32 = 2;
/// Pods whose start is timed.
const STARTS: u32 = 6;
/// APIs at once.
const APIS: usize = 100;
/// Time between two looks at a pod.
const LOOK: Duration = Duration::from_millis(2);
/// The longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(180);

fn main() {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.install_default().expect("nothing installed a provider before main");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    runtime.block_on(async {
        println!("| what | figure |\n|---|---|");
        let namespace = Namespace::new("speed").await;
        changes(&namespace).await;
        starts(&namespace).await;
        drop(namespace);
        many("0 pods each", 0).await;
    });
}

fn row(what: &str, figure: &str) {
    println!("| {what} | {figure} |");
}

/// The row of a list of times.
fn times(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1000.0;
    let figure = format!("p50 {:.0} ms, p99 {:.0} ms, longest {:.0} ms", at(0.5), at(0.99), at(1.0));
    row(what, &figure);
}

fn kind() -> ApiResource {
    let (group, version) = ("sluice.dev".to_owned(), "v1alpha1".to_owned());
    let (kind, plural) = ("StreamAPI".into(), "streamapis".into());
    ApiResource { api_version: format!("{group}/{version}"), group, version, kind, plural }
}

/// Documents of an API with synthetic messages and keys, named `name`.
fn documents(name: &str, replicas: u32, entry: &str) -> Documents {
    let mut api =
        sluice_tests::Api::new(name).generator(1, 1).channel(Channel::new("ticks", "ticks").subscribe());
    api.0["spec"]["placement"] = json!({"deployment": {"replicas": replicas}});
    Documents::new()
        .secret("keys", &[("alice", entry)])
        .policy(name, name, json!({"authentication": {"apiKeys": {"secretRef": {"name": "keys"}}}}))
        .api(api)
}

/// Waits until `pod` serves another revision than `before`.
async fn follows(pod: &Pod, before: &str) {
    let begun = Instant::now();
    while pod.revision().await.as_deref().is_none_or(|revision| revision == before) {
        assert!(begun.elapsed() < PATIENCE, "{} does not follow", pod.name);
        tokio::time::sleep(LOOK).await;
    }
}

async fn changes(namespace: &Namespace) {
    let mut rng = seed::rng("speed");
    namespace.serve("shop", &documents("shop", PODS, &api_key(&mut rng).1)).await;
    namespace.rolled_out("shop").await;
    let pods = namespace.pods("shop").await;
    let client = Client::try_default().await.expect("KUBECONFIG is set: run scripts/e2e");
    let apis: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace.name, &kind());
    let secrets: Api<Secret> = Api::namespaced(client, &namespace.name);
    let (mut of_apis, mut of_secrets) = (Vec::new(), Vec::new());
    for change in 0..CHANGES {
        let before = pods[0].revision().await.expect("it is served");
        let patch = Patch::Merge(json!({"spec": {"description": format!("change {change}")}}));
        let begun = Instant::now();
        apis.patch("shop", &PatchParams::default(), &patch).await.expect("a change is taken");
        join_all(pods.iter().map(|pod| follows(pod, &before))).await;
        of_apis.push(begun.elapsed());

        let before = pods[0].revision().await.expect("it is served");
        let patch = Patch::Merge(json!({"stringData": {"alice": api_key(&mut rng).1}}));
        let begun = Instant::now();
        secrets.patch("keys", &PatchParams::default(), &patch).await.expect("a change is taken");
        join_all(pods.iter().map(|pod| follows(pod, &before))).await;
        of_secrets.push(begun.elapsed());
    }
    times(&format!("patch of a StreamAPI → {PODS} pods serve it ({CHANGES} changes)"), of_apis);
    times(&format!("patch of a Secret → {PODS} pods use it ({CHANGES} changes)"), of_secrets);
}

/// Time from process start to serving, as the pods tell it.
async fn starts(namespace: &Namespace) {
    namespace.patch("shop", json!({"spec": {"placement": {"deployment": {"replicas": STARTS}}}})).await;
    within(PATIENCE, "all pods run", || async {
        (namespace.pods("shop").await.len() == STARTS as usize).then_some(())
    })
    .await;
    namespace.rolled_out("shop").await;
    let mut all = Vec::new();
    for pod in namespace.pods("shop").await {
        all.push(Duration::from_secs_f64(pod.metrics().await.sum("start_seconds", &[])));
    }
    times(&format!("start of a data plane's process → serving ({STARTS} pods)"), all);
}

/// Resident memory of the operator that leads, in MiB, and seconds of CPU it used.
async fn operator() -> (f64, f64) {
    let name = leader().await;
    let pods = pods(SYSTEM, OPERATOR).await;
    let pod = pods.iter().find(|pod| pod.name == name).expect("the leader is a pod");
    let text = http::get(&pod.admin("/metrics")).await.expect("metrics are served").text();
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).expect("a metric")
    };
    (value("process_resident_memory_bytes") / 1_048_576.0, value("process_cpu_seconds_total"))
}

/// Many APIs at once: applied by one kubectl, in one namespace.
async fn many(what: &str, replicas: u32) {
    let namespace = Namespace::new("many").await;
    let (_, entry) = api_key(&mut seed::rng("many"));
    let mut text = String::new();
    for number in 0..APIS {
        text += &documents(&format!("api{number:03}"), replicas, &entry).text();
    }
    let (before, cpu_before) = operator().await;
    let begun = Instant::now();
    let applied = async {
        kubectl_with(&["-n", &namespace.name, "apply", "-f", "-"], &text).await;
        begun.elapsed()
    };
    let written = async {
        within(PATIENCE, "every API has its children", || async {
            let made = namespace.kubectl(&["get", "deploy", "-o", "name"]).await;
            (made.lines().count() == APIS).then_some(())
        })
        .await;
        begun.elapsed()
    };
    let (applied, written) = tokio::join!(applied, written);
    row(
        &format!("{APIS} APIs with a policy each ({what}) → every child is written"),
        &format!("{:.1} s, of which kubectl {:.1} s", written.as_secs_f64(), applied.as_secs_f64()),
    );
    let (after, cpu_after) = operator().await;
    row(
        &format!("operator that leads, resident: before, with {APIS} APIs"),
        &format!("{before:.1} MiB, {after:.1} MiB; {:.1} s of CPU for them", cpu_after - cpu_before),
    );
}
