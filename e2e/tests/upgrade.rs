//! The chart's own life: definitions that upgrade, and an end that takes nothing from users.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use sluice_e2e::Namespace;
use sluice_e2e::kubernetes::{OPERATOR, SYSTEM, chart, helm, kubectl};
use sluice_e2e::namespace::pods;
use sluice_tests::documents::{Api, Channel, Documents};
use sluice_tests::{WebSocket, process};

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
