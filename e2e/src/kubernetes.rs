//! The cluster that the environment names (`cluster env`): its commands, and its names as pods
//! resolve them.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use sluice_tests::wait::at_most;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// How long any one command may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Namespace of the operator.
pub const SYSTEM: &str = "sluice-system";
/// Labels of the operator's pods.
pub const OPERATOR: &str = "app.kubernetes.io/name=sluice-operator";

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run scripts/e2e"))
}

/// The directory of the cluster: its logs, and its nodes' files.
pub fn directory() -> PathBuf {
    variable("SLUICE_CLUSTER").into()
}

/// Address of this machine as pods see it.
pub fn host() -> String {
    variable("SLUICE_CLUSTER_HOST")
}

/// Runs a program, and says what it printed; what it complained about if it fails.
async fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut stdin = child.stdin.take().expect("it was asked for");
    let what = format!("{program} {}", arguments.join(" "));
    let feed = async {
        // A program that does not want its input may end before it has read it.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
    };
    let (output, ()) = at_most(PATIENCE, &what, async { tokio::join!(child.wait_with_output(), feed) }).await;
    let output = output.expect("a child can be waited for");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(format!("{what}: {}{}", text(&output.stdout), text(&output.stderr)))
}

/// Runs kubectl; what it printed.
///
/// # Panics
/// If it fails.
pub async fn kubectl(arguments: &[&str]) -> String {
    attempt(arguments).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Runs kubectl; an error is what it complained about.
pub async fn attempt(arguments: &[&str]) -> Result<String, String> {
    run("kubectl", arguments, "").await
}

/// Runs kubectl with `input`.
///
/// # Panics
/// If it fails.
pub async fn kubectl_with(arguments: &[&str], input: &str) -> String {
    attempt_with(arguments, input).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Runs kubectl with `input`; an error is what it complained about.
pub async fn attempt_with(arguments: &[&str], input: &str) -> Result<String, String> {
    run("kubectl", arguments, input).await
}

/// `kubectl get … -o json`.
///
/// # Panics
/// If it fails.
pub async fn get(arguments: &[&str]) -> Value {
    let text = kubectl(&[&["get"], arguments, &["-o", "json"]].concat()).await;
    serde_json::from_str(&text).expect("kubectl prints JSON")
}

/// Runs helm; what it printed.
///
/// # Panics
/// If it fails.
pub async fn helm(arguments: &[&str]) -> String {
    run("helm", arguments, "").await.unwrap_or_else(|error| panic!("{error}"))
}

/// The chart in the checkout.
pub fn chart() -> String {
    sluice_tests::parts::source().join("../charts/sluice").display().to_string()
}

/// `cluster <arguments>`: stops and starts components, runs commands on nodes.
///
/// # Panics
/// If it fails.
pub async fn cluster(arguments: &[&str]) -> String {
    let script = sluice_tests::parts::source().join("../e2e/cluster/cluster");
    let script = script.display().to_string();
    run(&script, arguments, "").await.unwrap_or_else(|error| panic!("{error}"))
}

/// Addresses of `name` by the cluster's own DNS.
///
/// # Panics
/// If it has none.
pub async fn lookup(name: &str) -> String {
    let server = variable("SLUICE_CLUSTER_DNS");
    let answer = run("tool", &["lookup", name, &server], "").await.unwrap_or_else(|error| panic!("{error}"));
    answer.split_whitespace().next().unwrap_or_else(|| panic!("{name} has no address")).to_owned()
}

/// `url` of a Service with the address in place of its name, for this machine does not ask the
/// cluster's DNS.
pub async fn resolved(url: &str) -> String {
    let rest = url.strip_prefix("http://").expect("an URL");
    let (name, path) = rest.split_once('/').expect("a path");
    format!("http://{}/{path}", lookup(&format!("{name}.cluster.local")).await)
}

/// Everything that the operator's pods have logged, each with its name.
pub async fn operator_logs() -> Vec<(String, String)> {
    let pods = kubectl(&["-n", SYSTEM, "get", "pods", "-l", OPERATOR, "-o", "name"]).await;
    let mut logs = Vec::new();
    for pod in pods.lines() {
        logs.push((pod.to_owned(), kubectl(&["-n", SYSTEM, "logs", pod]).await));
    }
    logs
}

/// The pod that leads.
pub async fn leader() -> String {
    kubectl(&["-n", SYSTEM, "get", "leases", "-o", "jsonpath={.items[0].spec.holderIdentity}"]).await
}
