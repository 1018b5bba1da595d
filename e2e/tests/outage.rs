//! What serves goes on while what manages it is away. One test at a time: each takes something from
//! all.

use std::time::{Duration, Instant};

use serde_json::json;
use sluice_e2e::kubernetes::{OPERATOR, SYSTEM, chart, cluster, helm, kubectl, kubectl_with, leader};
use sluice_e2e::namespace::{Pod, pods};
use sluice_e2e::traffic::shop;
use sluice_e2e::{Namespace, Traffic, kafka};
use sluice_tests::client::http::{self, publish};
use sluice_tests::documents::{Api, Channel, Documents, api_key};
use sluice_tests::kafka::Listener;
use sluice_tests::{WebSocket, seed, within};

/// How long the API server stays away.
const MINUTE: Duration = Duration::from_secs(60);
/// Some seconds of them: a clock that also shows that something is served.
const WHILE: usize = 5_000;
/// More versions than the cluster comes to by itself until what a restore undid works again.
const VERSIONS: usize = 600;
/// How soon after a restore a kubelet has made its pods what they are to be.
const MENDED: Duration = Duration::from_secs(120);
/// How soon a killed leader is replaced (D10), with the time that reconciling takes.
const SUCCESSION: Duration = Duration::from_secs(25);

/// A namespace that serves a new topic from two pods, and traffic through it.
async fn busy(purpose: &str, messages: usize) -> (Namespace, Traffic) {
    let kafka = kafka().await;
    let topic = kafka.topic(purpose, 6).await;
    let namespace = Namespace::new(purpose).await;
    let url = namespace.serve("shop", &Documents::new().api(shop(kafka, &topic, 2))).await;
    namespace.rolled_out("shop").await;
    let traffic = Traffic::start(purpose, &url, messages).await;
    (namespace, traffic)
}

/// Changes the API `shop` and waits until all its pods serve it.
async fn change(namespace: &Namespace, what: &str) {
    let revision = namespace.revision("shop").await;
    namespace.patch("shop", json!({"spec": {"description": what}})).await;
    namespace.serves_other_than("shop", &revision).await;
    namespace.programmed("shop").await;
}

/// D10.
#[tokio::test]
async fn a_killed_leader_is_replaced_and_nobody_notices() {
    let (namespace, traffic) = busy("leader", 3000).await;
    let before = namespace.pods("shop").await;
    let name = leader().await;
    let operators = pods(SYSTEM, OPERATOR).await;
    let leading = operators.iter().find(|pod| pod.name == name).expect("the leader is a pod");
    leading.kill("operator").await;
    let begun = Instant::now();
    change(&namespace, "served by the next leader").await;
    println!("a change was served {:?} after the leader's death", begun.elapsed());
    assert!(begun.elapsed() < SUCCESSION, "{:?}", begun.elapsed());
    assert_eq!(traffic.check(0).await, 0, "no request failed");
    assert_eq!(namespace.pods("shop").await, before);
    kubectl(&["-n", SYSTEM, "rollout", "status", "deploy", "-l", OPERATOR, "--timeout=60s"]).await;
}

/// X08: the operator is replaced by another version and comes back, by helm.
#[tokio::test]
async fn the_operator_is_upgraded_and_rolled_back_under_traffic() {
    for node in ["1", "2"] {
        let (image, next) = ("docker.io/sluice/operator:0.1.0", "docker.io/sluice/operator:next");
        cluster(&["node-exec", node, "ctr", "-n", "k8s.io", "images", "tag", "--force", image, next]).await;
    }
    let (namespace, traffic) = busy("upgraded", 5000).await;
    let before = namespace.pods("shop").await;
    let place = ["--namespace", SYSTEM, "--wait", "--timeout", "60s"];
    let next = ["--reuse-values", "--set", "image.tag=next"];
    helm(&[&["upgrade", "sluice", &chart()], &place[..], &next].concat()).await;
    let images = || async {
        kubectl(&[
            "-n",
            SYSTEM,
            "get",
            "pods",
            "-l",
            OPERATOR,
            "-o",
            "jsonpath={.items[*].spec.containers[*].image}",
        ])
        .await
    };
    assert!(images().await.contains("operator:next"), "the next version runs");
    change(&namespace, "served by the next version").await;
    helm(&[&["rollback", "sluice"], &place[..]].concat()).await;
    change(&namespace, "served by the former version").await;
    assert_eq!(traffic.check(0).await, 0, "no request failed");
    assert_eq!(namespace.pods("shop").await, before, "no data plane was touched");
    assert_eq!(namespace.deployment_generation("shop").await, 1);
}

/// Starts of its process, for a container that is killed is the same pod.
async fn started(pod: &Pod) -> Option<f64> {
    let answer = http::get(&pod.admin("/metrics")).await.ok()?.text();
    let line = answer.lines().find(|line| line.starts_with("process_start_time_seconds "))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

async fn killed_and_back(pod: &Pod) {
    let before = within(MINUTE, "the pod answers", || started(pod)).await;
    pod.kill("sluice").await;
    let begun = Instant::now();
    within(MINUTE, "the container is back", || async {
        started(pod).await.filter(|start| *start > before)?;
        let ready = http::get(&pod.admin("/readyz")).await.ok()?;
        (ready.status == 200).then_some(())
    })
    .await;
    println!("{} serves {:?} after its container was killed", pod.name, begun.elapsed());
}

/// D8, D17: right after a rotation the API server goes for a minute, and a container is killed. The
/// mounted volumes are a minute old then: only what was kept in the pod has the newest.
#[tokio::test]
async fn without_an_api_server_a_killed_container_comes_back_with_the_newest() {
    let kafka = kafka().await;
    let topic = kafka.topic("away", 6).await;
    for user in ["first", "second"] {
        kafka.set_password(user, &format!("{user}-secret"));
        kafka.allow(user, &topic);
    }
    let mut rng = seed::rng("away");
    let ((old, old_entry), (new, new_entry)) = (api_key(&mut rng), api_key(&mut rng));
    let mut api = shop(kafka, &topic, 2)
        .server("log", json!({"memory": {}}))
        .server("clock", json!({"generator": {"messagesPerSecond": 5}}));
    let mut server = kafka.sasl_server(Listener::Sasl, "SCRAM-SHA-512", "login");
    server["name"] = "events".into();
    api.0["spec"]["servers"][0] = server;
    let mut guarded = Channel::both_ways("guarded", "guarded");
    guarded.0["server"] = "log".into();
    let mut ticks = Channel::new("ticks", "ticks").subscribe();
    ticks.0["server"] = "clock".into();
    let mut api = api.channel(guarded).channel(ticks);
    // After an outage the cluster's controllers may hold nodes dead until they have caught up.
    let everywhere = json!([{"operator": "Exists", "effect": "NoExecute"}]);
    api.0["spec"]["placement"]["deployment"]["podTemplate"] = json!({"tolerations": everywhere});
    let target = json!([{"kind": "StreamAPI", "name": "shop", "sectionName": "guarded"}]);
    let keys = json!({"authentication": {"apiKeys": {"secretRef": {"name": "keys"}}}});
    let documents = |user: &str, entry: &str| {
        Documents::new()
            .secret("login", &[("username", user), ("password", &format!("{user}-secret"))])
            .secret("keys", &[("alice", entry)])
            .targeted("keys", target.clone(), keys.clone())
            .api(api.clone())
    };
    let namespace = Namespace::new("away").await;
    let url = namespace.serve("shop", &documents("first", &old_entry)).await;
    namespace.rolled_out("shop").await;
    let revision = namespace.revision("shop").await;
    let traffic = Traffic::start("api server away", &url, 4000).await;
    let before = namespace.pods("shop").await;

    namespace.apply(&documents("second", &new_entry)).await;
    namespace.serves_other_than("shop", &revision).await;
    namespace.programmed("shop").await;
    cluster(&["kill", "kube-apiserver"]).await;
    let away = Instant::now();
    kafka.forbid("first", &topic);
    let serves_the_newest = async || {
        for pod in &before {
            let url = format!("http://{}:8080/shop/guarded", pod.ip);
            assert_eq!(publish(&url, &[("x-api-key", &old)], "1").await.status, 401, "the old key");
            assert_eq!(publish(&url, &[("x-api-key", &new)], "1").await.status, 200, "the new key");
        }
    };
    serves_the_newest().await;
    killed_and_back(&before[0]).await;
    serves_the_newest().await;
    traffic.reaches(3, 4).await;
    traffic.connected().await;
    // A stream that gives five a second is a clock that also shows that something is served.
    let (mut watch, _) = WebSocket::begin(&url.replace("/orders", "/ticks")).await;
    while away.elapsed() < MINUTE {
        watch.message().await;
    }
    drop(watch);
    killed_and_back(&before[1]).await;
    serves_the_newest().await;
    traffic.check(4).await;

    cluster(&["start", "kube-apiserver"]).await;
    // Having lost their leases, these start again in most clusters. Here they have none, and would
    // look again a minute later, with all that the next test asks of them.
    for controller in ["kube-controller-manager", "kube-scheduler"] {
        cluster(&["kill", controller]).await;
        cluster(&["start", controller]).await;
    }
    let back = Instant::now();
    change(&namespace, "served after the outage").await;
    println!("a change was served {:?} after the API server was back", back.elapsed());
    let after = namespace.pods("shop").await;
    let same = after.iter().zip(&before).all(|(after, before)| after.uid == before.uid);
    assert!(same && after.len() == before.len(), "the same pods: {after:?}");
}

/// D9.
#[tokio::test]
async fn a_restart_of_etcd_is_not_noticed_by_clients() {
    let (namespace, traffic) = busy("etcd", 3000).await;
    let before = namespace.pods("shop").await;
    cluster(&["stop", "etcd"]).await;
    traffic.reaches(2, 4).await;
    cluster(&["start", "etcd"]).await;
    let back = Instant::now();
    within(MINUTE, "the API server works again", || async {
        namespace.attempt(&["get", "sapi", "shop"]).await.is_ok().then_some(())
    })
    .await;
    change(&namespace, "served after etcd was back").await;
    println!("a change was served {:?} after etcd was back", back.elapsed());
    assert_eq!(traffic.check(0).await, 0, "no request failed");
    assert_eq!(namespace.pods("shop").await, before);
    assert_eq!(namespace.deployment_generation("shop").await, 1);
}

/// Waits until what is asked of the API server is answered from etcd.
async fn works(namespace: &Namespace) {
    within(MINUTE, "the API server works again", || async {
        namespace.attempt(&["get", "sapi", "shop"]).await.is_ok().then_some(())
    })
    .await;
}

/// An API in memory.
fn small(name: &str) -> Documents {
    Documents::new().api(Api::new(name).memory().channel(Channel::both_ways("notes", "notes")))
}

/// Changes the API `shop`, makes `added`, and deletes `lost`; the pods of what was made.
async fn move_on(namespace: &Namespace) -> Vec<Pod> {
    // Versions first, so that what watches see of the rest is far ahead.
    let map = |n: usize| {
        let name = format!("version-{n}");
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
    };
    let maps: Vec<_> = (0..VERSIONS).map(map).collect();
    let maps = json!({"apiVersion": "v1", "kind": "List", "items": maps}).to_string();
    kubectl_with(&["-n", &namespace.name, "create", "-f", "-"], &maps).await;
    change(namespace, "made after the snapshot").await;
    namespace.serve("added", &small("added")).await;
    let added = namespace.pods("added").await;
    namespace.kubectl(&["delete", "sapi", "lost", "--wait=false"]).await;
    within(MENDED, "its pods are gone", || async {
        let left = namespace.kubectl(&["get", "pods", "-l", "sluice.dev/api=lost", "-o", "name"]).await;
        left.is_empty().then_some(())
    })
    .await;
    added
}

/// Starts again what remembers a future that is none, as Kubernetes wants it after a restore, but for the operator
/// and its data planes. Node after node: where a kubelet begins, pods are sent no clients until they were probed.
async fn forget_the_future(namespace: &Namespace, traffic: &Traffic) {
    for controller in ["kube-controller-manager", "kube-scheduler"] {
        cluster(&["kill", controller]).await;
        cluster(&["start", controller]).await;
    }
    for node in ["1", "2"] {
        for part in ["kubelet", "kube-proxy"] {
            cluster(&["kill", part, node]).await;
            cluster(&["start", part, node]).await;
        }
        traffic.load.reaches(traffic.load.accepted() + WHILE).await;
        let ready = ["wait", "--for=condition=Ready", "pod", "-l", "sluice.dev/api=shop", "--timeout=60s"];
        namespace.kubectl(&ready).await;
    }
    for dns in pods("kube-system", "k8s-app=kube-dns").await {
        dns.kill("coredns").await;
    }
}

/// Whether something answers with 200 within a moment: an address that nobody has any more says nothing.
async fn is_there(method: &str, url: &str) -> bool {
    let asked = http::request(method.parse().expect("a method"), url, &[], "1");
    let answer = tokio::time::timeout(Duration::from_secs(2), asked).await;
    matches!(answer, Ok(Ok(answer)) if answer.status == 200)
}

/// What was changed, made and deleted since the snapshot is undone, and versions begin again below those that
/// everybody has seen. Clients notice none of it.
#[tokio::test]
async fn etcd_restored_from_an_older_snapshot_drops_nobody() {
    let (namespace, traffic) = busy("restored", WHILE).await;
    let lost = namespace.serve("lost", &small("lost")).await;
    let (before, revision) = (namespace.pods("shop").await, namespace.revision("shop").await);
    assert_ne!(before[0].node, before[1].node, "pods spread over nodes");
    cluster(&["save", "etcd"]).await;
    works(&namespace).await;
    let added = move_on(&namespace).await;

    cluster(&["restore", "etcd"]).await;
    let back = Instant::now();
    works(&namespace).await;
    within(MINUTE, "the pods serve what was saved", || async {
        for pod in &before {
            pod.revision().await.filter(|served| *served == revision)?;
        }
        Some(())
    })
    .await;
    println!("the pods served what was saved {:?} after the restore", back.elapsed());
    forget_the_future(&namespace, &traffic).await;
    within(MENDED, "what was deleted is served", || async { is_there("POST", &lost).await.then_some(()) })
        .await;
    within(MENDED, "what was added is served no longer", || async {
        for pod in &added {
            if is_there("GET", &pod.admin("/healthz")).await {
                return None;
            }
        }
        Some(())
    })
    .await;
    println!("both were as they had been {:?} after the restore", back.elapsed());
    let begun = Instant::now();
    for api in ["shop", "lost"] {
        let revision = namespace.revision(api).await;
        namespace.patch(api, json!({"spec": {"description": "made after the restore"}})).await;
        namespace.serves_other_than(api, &revision).await;
        namespace.programmed(api).await;
    }
    println!("changes of both were served after {:?}", begun.elapsed());
    for gone in ["sapi/added", "cm/added-sluice", "deploy/added-sluice"] {
        let found = namespace.attempt(&["get", gone]).await;
        assert!(found.is_err_and(|error| error.contains("NotFound")), "{gone} was made again");
    }
    assert_eq!(traffic.check(0).await, 0, "no request failed");
    assert_eq!(namespace.pods("shop").await, before, "no pod was touched");
    assert_eq!(namespace.deployment_generation("shop").await, 1);
}

/// `kubectl drain` respects the PodDisruptionBudget, and clients move.
#[tokio::test]
async fn nothing_is_lost_when_a_node_is_drained() {
    let (namespace, traffic) = busy("drained", 5000).await;
    let before = namespace.pods("shop").await;
    assert!(before.iter().any(|pod| pod.node == "2"), "pods spread over nodes: {before:?}");
    kubectl(&[
        "drain",
        "node2",
        "--pod-selector=sluice.dev/api=shop",
        "--delete-emptydir-data",
        "--timeout=90s",
    ])
    .await;
    namespace.rolled_out("shop").await;
    let after = namespace.pods("shop").await;
    kubectl(&["uncordon", "node2"]).await;
    assert!(after.len() == 2 && after.iter().all(|pod| pod.node == "1"), "{after:?}");
    assert_eq!(traffic.check(3).await, 0, "no request failed");
}
