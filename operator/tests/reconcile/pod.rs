//! A pod as a kubelet would run it: the real data plane as a process on a loopback address of its
//! own, with the pod's ServiceAccount, and the pod's status as the API server then shows it.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod as PodObject;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use sluice_operator::children::ChildKind;
use sluice_tests::client::http;
use sluice_tests::process::{self, Process};
use sluice_tests::{eventually, logs, parts};

use crate::bed::{Bed, kind_of};

/// A running pod. Dropping it kills its process; the object stays.
pub struct Pod {
    /// Name of the object.
    pub name: String,
    api: String,
    /// What its ConfigMap, its Secret and its account are called.
    child: String,
    address: String,
    ports: Ports,
    home: PathBuf,
    process: Option<Process>,
    expected: Vec<String>,
}

/// Where a data plane listens: for clients, and for the operator.
#[derive(Clone, Copy)]
struct Ports {
    clients: u16,
    admin: u16,
}

const OWN: Ports = Ports { clients: 8080, admin: 9090 };
const SIDECAR: Ports = Ports { clients: 15080, admin: 15081 };

impl Pod {
    /// Runs the pod that the Deployment of `api` asks for, and waits until it is ready.
    pub async fn run(bed: &Bed, api: &str) -> Self {
        Self::of_deployment(bed, ("sluice.dev/api", api), format!("{api}-sluice")).await
    }

    /// Runs the pod that the Deployment of `gateway` asks for, and waits until it is ready.
    pub async fn gateway(bed: &Bed, gateway: &str) -> Self {
        Self::of_deployment(bed, ("sluice.dev/gateway", gateway), format!("{gateway}-sluice-gateway")).await
    }

    async fn of_deployment(bed: &Bed, (label, value): (&str, &str), child: String) -> Self {
        let name = eventually("the Deployment has a pod that nobody runs", || async {
            let pods = bed.list(&kind_of(&json!({"kind": "Pod"}))).await;
            let ours = pods.into_iter().find(|pod| {
                pod["metadata"]["labels"][label] == value
                    && pod["metadata"]["deletionTimestamp"].is_null()
                    && pod["status"]["podIP"].is_null()
            });
            ours.map(|pod| pod["metadata"]["name"].as_str().expect("a name").to_owned())
        })
        .await;
        let mut pod = Self::new(name, value, child, OWN);
        bed.kubeconfig(&pod.child, None, &pod.home.join("kubeconfig")).await;
        pod.start(bed).await;
        pod
    }

    /// Runs the sidecar of `api` in the pod `name`, and waits until it is ready.
    pub async fn sidecar(bed: &Bed, name: &str, api: &str) -> Self {
        let mut pod = Self::new(name.to_owned(), api, format!("{api}-sluice"), SIDECAR);
        pod.start(bed).await;
        pod
    }

    fn new(name: String, api: &str, child: String, ports: Ports) -> Self {
        let home = process::directory("pod");
        let address = address(ports);
        Self { name, api: api.into(), child, address, ports, home, process: None, expected: Vec::new() }
    }

    async fn start(&mut self, bed: &Bed) {
        let pod = self;
        pod.mount(bed).await;
        pod.launch(bed);
        pod.ready().await;
        pod.report(bed).await;
    }

    /// What a kubelet mounts, as it is now.
    pub async fn mount(&self, bed: &Bed) {
        for (kind, directory) in [(ChildKind::ConfigMap, "config"), (ChildKind::Secret, "material")] {
            let directory = self.home.join(directory);
            std::fs::create_dir_all(&directory).expect("a directory can be made");
            let object = bed.get(&kind.resource(), &self.child).await;
            for (key, value) in object["data"].as_object().into_iter().flatten() {
                let text = value.as_str().expect("text");
                let bytes = match kind {
                    ChildKind::Secret => decode(text),
                    _ => text.as_bytes().to_vec(),
                };
                // As a kubelet's, a file is there whole or not at all.
                let whole = self.home.join("next");
                std::fs::write(&whole, bytes).expect("a file can be written");
                std::fs::rename(&whole, directory.join(key)).expect("a file can be moved");
            }
        }
    }

    /// Starts the container.
    pub fn launch(&mut self, bed: &Bed) {
        let mut command = Command::new(parts::sluice());
        command.arg("serve");
        for directory in ["config", "material"] {
            command.arg(format!("--{directory}")).arg(self.home.join(directory));
        }
        if self.ports.admin == OWN.admin {
            std::fs::create_dir_all(self.home.join("state")).expect("a directory can be made");
            command.arg("--state").arg(self.home.join("state"));
            command.args(["--watch", &format!("{}/{}", bed.namespace, self.child)]);
            command.env("KUBECONFIG", self.home.join("kubeconfig"));
        }
        command.args(["--listen", &format!("{}:{}", self.address, self.ports.clients)]);
        command.args(["--admin", &format!("{}:{}", self.address, self.ports.admin)]);
        command.args(["--drain-delay", "0ms", "--drain-grace", "0ms"]);
        command.env_remove("SLUICE_LOG");
        self.process = Some(Process::spawn("sluice serve", command, &self.home.join("sluice.log")));
    }

    /// Waits until it says so.
    pub async fn ready(&mut self) {
        eventually("the data plane is ready", || async {
            let answer = http::get(&self.admin("/readyz")).await;
            answer.is_ok_and(|answer| answer.status == 200).then_some(())
        })
        .await;
    }

    /// Tells the API server what a kubelet would.
    async fn report(&self, bed: &Bed) {
        let status = json!({"status": {
            "phase": "Running", "podIP": self.address, "podIPs": [{"ip": self.address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }});
        let pods: Api<PodObject> = Api::namespaced(bed.client.clone(), &bed.namespace);
        let patch = Patch::Merge(&status);
        pods.patch_status(&self.name, &PatchParams::default(), &patch)
            .await
            .expect("a pod's status is taken");
    }

    /// SIGKILL for the container.
    pub fn kill(&mut self) {
        self.process.take();
    }

    /// A URL of the public listener.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}:{}{path}", self.address, self.ports.clients)
    }

    /// A URL of the admin port.
    pub fn admin(&self, path: &str) -> String {
        format!("http://{}:{}{path}", self.address, self.ports.admin)
    }

    /// The one API in `/config`.
    pub async fn served(&self) -> Value {
        let config = http::get(&self.admin("/config")).await.expect("the admin port answers").json();
        let apis = config["apis"].as_array().expect("a list");
        apis.iter().find(|api| api["name"] == self.api.as_str()).cloned().unwrap_or_default()
    }

    /// Allows warnings and errors in the log that contain one of `texts`.
    pub fn expect_log(&mut self, texts: &[&str]) {
        self.expected.extend(texts.iter().map(ToString::to_string));
    }

    /// Everything it logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.home.join("sluice.log")).unwrap_or_default()).into_owned()
    }

    /// SIGTERM, and waits for its end.
    pub async fn stop(mut self) {
        let process = self.process.as_mut().expect("it runs");
        process.signal(libc::SIGTERM);
        let status = process.ended(Duration::from_secs(20)).await;
        assert!(status.success(), "{status}");
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.process.take();
        if std::thread::panicking() {
            println!("--- {} ends:\n{}", self.name, logs::tail(&self.home.join("sluice.log"), 40));
            return;
        }
        let complaints = logs::complaints(&self.log(), &self.expected);
        assert!(
            complaints.is_empty(),
            "the data plane's log has what the test does not expect:\n{}",
            complaints.join("\n")
        );
    }
}

/// Bytes of a Secret's value.
pub fn decode(text: &str) -> Vec<u8> {
    let bytes: k8s_openapi::ByteString = serde_json::from_value(text.into()).expect("base64");
    bytes.0
}

/// A loopback address whose ports of a data plane are free.
fn address(ports: Ports) -> String {
    for _ in 0..1000 {
        let address = format!("127.{}.{}.{}", fastrand::u8(1..255), fastrand::u8(..), fastrand::u8(1..255));
        let is_free = |port| TcpListener::bind((address.as_str(), port)).is_ok();
        if is_free(ports.clients) && is_free(ports.admin) {
            return address;
        }
    }
    panic!("no loopback address is free");
}
