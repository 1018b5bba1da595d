//! A namespace of a test's own, with PodSecurity `restricted` enforced, and what a user sees in it.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use sluice_tests::client::http;
use sluice_tests::metrics::Metrics;
use sluice_tests::{Documents, seed, within};

use crate::kubernetes::{attempt, attempt_with, cluster, get, kubectl, kubectl_with, resolved};

/// How long pods may take to come and go.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A namespace. Dropping it has it deleted.
#[derive(Debug)]
pub struct Namespace {
    /// Its name.
    pub name: String,
}

/// What identifies a pod and tells whether it was disturbed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its address.
    pub ip: String,
    /// The number of its node.
    pub node: String,
    /// How often its container was started again.
    pub restarts: u64,
}

impl Pod {
    /// A URL of its admin port.
    pub fn admin(&self, path: &str) -> String {
        format!("http://{}:9090{path}", self.ip)
    }

    /// What it serves.
    pub async fn config(&self) -> Value {
        http::get(&self.admin("/config")).await.expect("the admin port answers").json()
    }

    /// A scrape of its metrics.
    pub async fn metrics(&self) -> Metrics {
        Metrics::parse(&http::get(&self.admin("/metrics")).await.expect("metrics are served").text())
    }

    /// SIGKILL to its container `name`; its kubelet starts it again, with or without an API server.
    pub async fn kill(&self, name: &str) {
        let ctr = async |arguments: &[&str]| {
            cluster(&[&["node-exec", &self.node, "ctr", "-n", "k8s.io"], arguments].concat()).await
        };
        let uid = format!("labels.\"io.kubernetes.pod.uid\"=={}", self.uid);
        let name = format!("labels.\"io.kubernetes.container.name\"=={name}");
        let containers = ctr(&["containers", "list", "-q", &format!("{uid},{name}")]).await;
        let tasks = ctr(&["tasks", "list"]).await;
        let is_ours = |task: &&str| containers.lines().any(|id| task.starts_with(id.trim()));
        let running = tasks.lines().filter(|task| task.contains("RUNNING")).find(is_ours);
        let running = running.unwrap_or_else(|| panic!("no container of {} runs:\n{tasks}", self.name));
        ctr(&["tasks", "kill", "-s", "SIGKILL", running.split_whitespace().next().expect("an id")]).await;
    }

    /// The revision of its one API.
    pub async fn revision(&self) -> Option<String> {
        let answer = http::get(&self.admin("/config")).await.ok()?;
        answer.json()["apis"][0]["revision"].as_str().map(str::to_owned)
    }
}

impl Namespace {
    /// Makes one.
    pub async fn new(purpose: &str) -> Self {
        let name = seed::unique(purpose);
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {
            "pod-security.kubernetes.io/enforce": "restricted",
        }}});
        kubectl_with(&["create", "-f", "-"], &namespace.to_string()).await;
        Self { name }
    }

    /// kubectl in it.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        kubectl(&[&["-n", &self.name], arguments].concat()).await
    }

    /// kubectl in it; an error is what it complained about.
    pub async fn attempt(&self, arguments: &[&str]) -> Result<String, String> {
        attempt(&[&["-n", &self.name], arguments].concat()).await
    }

    /// `kubectl get … -o json` in it.
    pub async fn get(&self, arguments: &[&str]) -> Value {
        get(&[&["-n", &self.name], arguments].concat()).await
    }

    /// `kubectl apply` of `documents`.
    pub async fn apply(&self, documents: &Documents) {
        self.apply_text(&documents.text()).await;
    }

    /// `kubectl apply` of a file's text.
    pub async fn apply_text(&self, text: &str) {
        kubectl_with(&["-n", &self.name, "apply", "-f", "-"], text).await;
    }

    /// What `kubectl apply` would say, without doing it; an error has its refusal or its warnings.
    pub async fn dry_run(&self, text: &str) -> Result<String, String> {
        let how = ["apply", "--dry-run=server", "--warnings-as-errors", "-n", &self.name, "-f", "-"];
        attempt_with(&how, text).await
    }

    /// A merge patch of the StreamAPI `api`.
    pub async fn patch(&self, api: &str, patch: Value) {
        self.kubectl(&["patch", "sapi", api, "--type=merge", "-p", &patch.to_string()]).await;
    }

    /// `kubectl wait` until the current generation of the StreamAPI `api` is programmed.
    pub async fn programmed(&self, api: &str) {
        let api = format!("sapi/{api}");
        self.kubectl(&["wait", "--for=condition=Programmed", &api, "--timeout=60s"]).await;
    }

    /// Applies and waits until it is programmed; the URL of the first channel.
    pub async fn serve(&self, api: &str, documents: &Documents) -> String {
        self.apply(documents).await;
        self.programmed(api).await;
        self.url(api).await
    }

    /// The URL of the first channel as status tells it, with the Service's address in it.
    pub async fn url(&self, api: &str) -> String {
        let status = self.kubectl(&["get", "sapi", api, "-o", "jsonpath={.status.urls[0]}"]).await;
        resolved(&status).await
    }

    /// Revision of the StreamAPI `api` by its status.
    pub async fn revision(&self, api: &str) -> String {
        self.kubectl(&["get", "sapi", api, "-o", "jsonpath={.status.revision}"]).await
    }

    /// Waits until every running pod of `api` serves another revision than `before`.
    pub async fn serves_other_than(&self, api: &str, before: &str) {
        let pods = self.pods(api).await;
        within(PATIENCE, "every pod serves what is new", || async {
            for pod in &pods {
                if pod.revision().await.as_deref().is_none_or(|revision| revision == before) {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    /// Pods of `api` that run and are not about to end, by name.
    pub async fn pods(&self, api: &str) -> Vec<Pod> {
        pods(&self.name, &format!("sluice.dev/api={api}")).await
    }

    /// Waits until the Deployment of `api` has rolled out.
    pub async fn rolled_out(&self, api: &str) {
        let deployment = format!("deploy/{api}-sluice");
        self.kubectl(&["rollout", "status", &deployment, "--timeout=90s"]).await;
    }

    /// Generation of the Deployment of `api`: 1 as long as nothing touched its pods.
    pub async fn deployment_generation(&self, api: &str) -> u64 {
        let deployment = self.get(&["deploy", &format!("{api}-sluice")]).await;
        deployment["metadata"]["generation"].as_u64().expect("a generation")
    }

    /// Status and reason of a condition.
    pub async fn condition(&self, resource: &str, name: &str, kind: &str) -> (String, String, String) {
        let object = self.get(&[resource, name]).await;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found =
            conditions.iter().find(|condition| condition["type"] == kind).cloned().unwrap_or_default();
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"), text("message"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            explain(&self.name);
        }
        let mut delete = Command::new("kubectl");
        delete.args(["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found"]);
        let _ = delete.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// Pods with a label that run and are not about to end, by name.
pub async fn pods(namespace: &str, label: &str) -> Vec<Pod> {
    let list = get(&["-n", namespace, "pods", "-l", label]).await;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let runs =
        |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null() && pod["status"]["phase"] == "Running";
    let pod = |pod: &Value| Pod {
        name: text(&pod["metadata"]["name"]),
        uid: text(&pod["metadata"]["uid"]),
        ip: text(&pod["status"]["podIP"]),
        node: text(&pod["spec"]["nodeName"]).replace("node", ""),
        restarts: pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default(),
    };
    let mut pods: Vec<Pod> = list["items"].as_array().into_iter().flatten().filter(runs).map(pod).collect();
    pods.sort();
    pods
}

/// Prints what helps to understand a failed test.
fn explain(namespace: &str) {
    for arguments in [
        &["get", "pods,sapi,sgw,spol", "-o", "wide"][..],
        &[
            "logs",
            "-l",
            "app.kubernetes.io/name in (sluice-dataplane, sluice-gateway)",
            "--tail=20",
            "--prefix",
        ],
        &["get", "sapi,sgw", "-o", "jsonpath={.items[*].status}"],
        &["get", "events"],
    ] {
        let output = Command::new("kubectl").args(["-n", namespace]).args(arguments).output();
        let output = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        println!("--- kubectl {}:\n{}", arguments.join(" "), output.unwrap_or_default());
    }
}
