//! The chart's own life: definitions that upgrade, and an end that takes nothing from users.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_e2e::kubernetes::{OPERATOR, SYSTEM, chart, cluster, helm, kubectl};
use sluice_e2e::namespace::pods;
use sluice_e2e::traffic::shop;
use sluice_e2e::{Namespace, Traffic, kafka};
use sluice_tests::documents::{Api, Channel, Documents};
use sluice_tests::{WebSocket, process, within};

/// Messages of each API at least, while a version replaces another.
const MESSAGES: usize = 5000;
/// Where the chart's next version takes its images from.
const NEXT: &str = "9.9.9";

/// A copy of the chart whose StreamAPI definition describes itself otherwise.
fn next_chart(words: &str) -> String {
    let copy = process::directory("chart").join("sluice");
    let copied = Command::new("cp").args(["-r", &chart()]).arg(&copy).status().expect("cp can be started");
    assert!(copied.success());
    let definitions = copy.join("files/crds");
    for file in std::fs::read_dir(&definitions).expect("the chart has definitions") {
        let path = file.expect("a file").path();
        let text = std::fs::read_to_string(&path).expect("a text");
        let at = text.find("description: ").expect("it describes itself") + "description: ".len();
        let end = text[at..].find('\n').expect("a line") + at;
        std::fs::write(&path, format!("{}{words}{}", &text[..at], &text[end..]))
            .expect("a file can be written");
    }
    assert!(Path::new(&copy).join("Chart.yaml").exists());
    copy.display().to_string()
}

async fn explained() -> String {
    kubectl(&["get", "crd", "streamapis.sluice.dev", "-o", "yaml"]).await
}

/// X08: definitions come with the chart's next version and go back with a rollback; an uninstalled
/// release leaves definitions, StreamAPIs and data planes, and the next one takes them over.
#[tokio::test]
async fn definitions_upgrade_and_users_keep_what_is_theirs() {
    let place = ["--namespace", SYSTEM, "--wait", "--timeout", "60s"];
    let namespace = Namespace::new("kept").await;
    let api = Api::new("shop").memory().channel(Channel::both_ways("orders", "orders"));
    let url = namespace.serve("shop", &Documents::new().api(api)).await;
    let before = namespace.pods("shop").await;
    let (mut socket, _) = WebSocket::begin(&url).await;

    let words = "Words of the next version.";
    helm(&[&["upgrade", "sluice", &next_chart(words)], &place[..]].concat()).await;
    assert!(explained().await.contains(words), "the definition was upgraded");
    helm(&[&["rollback", "sluice"], &place[..]].concat()).await;
    assert!(!explained().await.contains(words), "the definition was rolled back");

    helm(&[&["uninstall", "sluice"], &place[..]].concat()).await;
    assert!(pods(SYSTEM, OPERATOR).await.is_empty(), "the operator is gone");
    assert!(explained().await.contains("streamapis"), "the definitions stay");
    assert!(namespace.kubectl(&["get", "sapi", "-o", "name"]).await.contains("shop"), "and every StreamAPI");
    assert_eq!(namespace.pods("shop").await, before, "and its pods");
    socket.send(&json!({"type": "publish", "id": "1", "data": {"still": "served"}})).await;
    let frames = [socket.frame().await.kind, socket.frame().await.kind];
    assert!(frames.contains(&"ack".to_owned()) && frames.contains(&"message".to_owned()), "{frames:?}");

    helm(&[&["install", "sluice", &chart()], &place[..]].concat()).await;
    let revision = namespace.revision("shop").await;
    namespace.patch("shop", json!({"spec": {"description": "served by the new release"}})).await;
    namespace.serves_other_than("shop", &revision).await;
    namespace.programmed("shop").await;
    assert_eq!(namespace.pods("shop").await, before, "no pod was touched");
    assert_eq!(namespace.deployment_generation("shop").await, 1);
    drop(socket);
}

/// Gives the images of both nodes the next version's name besides their own.
async fn tag_images() {
    for node in ["1", "2"] {
        for image in ["operator", "dataplane"] {
            let [from, to] = [env!("CARGO_PKG_VERSION"), NEXT]
                .map(|version| format!("docker.io/sluice/{image}:{version}"));
            cluster(&["node-exec", node, "ctr", "-n", "k8s.io", "images", "tag", "--force", &from, &to])
                .await;
        }
    }
}

/// Waits until pods of a namespace run, two of them and all with the next version's image.
async fn replaced(namespace: &str, label: &str) {
    within(Duration::from_secs(150), "two pods of the next version serve", || async {
        let list = kubectl(&["-n", namespace, "get", "pods", "-l", label, "-o", "json"]).await;
        let list: Value = serde_json::from_str(&list).expect("kubectl prints JSON");
        let pods = list["items"].as_array().expect("pods");
        let is_next = |pod: &Value| {
            let status = &pod["status"]["containerStatuses"][0];
            let image = pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
            status["ready"] == true && image.ends_with(NEXT) && pod["metadata"]["deletionTimestamp"].is_null()
        };
        (pods.len() == 2 && pods.iter().all(is_next)).then_some(())
    })
    .await;
}

/// X08, K71: the next version of definitions, operator and data planes comes under traffic, one of two nodes is drained
/// meanwhile: no request fails and nothing is lost, of an API of its own and of one on a gateway. Then it goes back.
#[tokio::test]
async fn a_version_replaces_another_under_traffic_and_nothing_is_lost() {
    let place = ["--namespace", SYSTEM, "--wait", "--timeout", "120s"];
    let kafka = kafka().await;
    let topic = kafka.topic("upgraded", 6).await;
    let namespace = Namespace::new("upgraded").await;
    let url = namespace.serve("shop", &Documents::new().api(shop(kafka, &topic, 2))).await;
    let gateway = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "StreamGateway", "metadata": {"name": "edge"},
        "spec": {"replicas": 2}});
    let other = kafka.topic("upgraded-chat", 6).await;
    let mut chat =
        Api::new("chat").server("events", kafka.server()).channel(Channel::both_ways("orders", &other));
    chat.0["spec"]["placement"] = json!({"gateway": {"name": "edge"}});
    namespace.apply(&Documents::new().with(gateway)).await;
    let shared = namespace.serve("chat", &Documents::new().api(chat)).await;
    for deployment in ["shop-sluice", "edge-sluice-gateway"] {
        namespace.kubectl(&["rollout", "status", &format!("deploy/{deployment}"), "--timeout=90s"]).await;
    }
    tag_images().await;
    let traffic = Traffic::start("upgraded", &url, MESSAGES).await;
    let shared = Traffic::start("upgraded-chat", &shared, MESSAGES).await;

    let tags = format!("image.tag={NEXT},dataplane.image.tag={NEXT}");
    let words = "Words of the next version.";
    helm(&[&["upgrade", "sluice", &next_chart(words), "--set", &tags], &place[..]].concat()).await;
    assert!(explained().await.contains(words), "the definition was upgraded");
    let drain = "--pod-selector=app.kubernetes.io/managed-by=sluice-operator";
    kubectl(&["drain", "node2", drain, "--delete-emptydir-data", "--timeout=120s"]).await;
    kubectl(&["uncordon", "node2"]).await;
    for label in ["sluice.dev/api=shop", "sluice.dev/gateway=edge"] {
        replaced(&namespace.name, label).await;
    }
    namespace.programmed("shop").await;
    namespace.programmed("chat").await;
    // Of the first pods to the second, of these to other nodes, and a rolling update meets a drain.
    for traffic in [traffic, shared] {
        assert_eq!(traffic.check(6).await, 0, "no request failed");
    }
    helm(&[&["rollback", "sluice"], &place[..]].concat()).await;
    assert!(!explained().await.contains(words), "the definition was rolled back");
}
