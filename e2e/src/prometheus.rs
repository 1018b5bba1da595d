//! A real Prometheus on the host that scrapes pods at their addresses. Debian's is built without
//! discovery by the Kubernetes API, so it is told which.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_tests::client::http;
use sluice_tests::logs;
use sluice_tests::process::{self, Process};
use sluice_tests::within;

use crate::namespace::Pod;

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    port: u16,
    _process: Process,
}

impl Prometheus {
    /// Starts one that scrapes `pods` of their namespaces, and waits until it is ready.
    pub async fn start(pods: &[(&str, Pod)]) -> Self {
        let home = process::directory("prometheus");
        let port = process::port();
        let targets: Vec<Value> = pods
            .iter()
            .map(|(namespace, pod)| {
                let labels = json!({"pod": pod.name, "pod_namespace": namespace});
                json!({"targets": [format!("{}:9090", pod.ip)], "labels": labels})
            })
            .collect();
        let job = json!({"job_name": "sluice", "honor_labels": true, "static_configs": targets});
        let config = json!({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]});
        let file = home.join("prometheus.yml");
        std::fs::write(&file, config.to_string()).expect("a file can be written");
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", home.join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}")).arg("--log.level=warn");
        let log = home.join("log");
        let mut process = Process::spawn("prometheus", command, &log);
        let ready = format!("http://127.0.0.1:{port}/-/ready");
        let runs = &mut process;
        within(Duration::from_secs(30), "Prometheus is ready", || {
            assert!(runs.runs(), "Prometheus ended:\n{}", logs::tail(&log, 20));
            async { http::get(&ready).await.is_ok_and(|answer| answer.status == 200).then_some(()) }
        })
        .await;
        Self { port, _process: process }
    }

    /// The result of an instant query, a list of series.
    pub async fn query(&self, expression: &str) -> Vec<Value> {
        let url = format!("http://127.0.0.1:{}/api/v1/query", self.port);
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer =
            http::request("POST".parse().expect("a method"), &url, &form, format!("query={encoded}")).await;
        let answer = answer.expect("Prometheus answers").json();
        assert_eq!(answer["status"], "success", "{answer}");
        answer["data"]["result"].as_array().cloned().expect("a list of series")
    }

    /// The sum over the series of a query; none is 0.
    pub async fn sum(&self, expression: &str) -> f64 {
        let values = self.query(expression).await;
        values.iter().filter_map(|series| series["value"][1].as_str()?.parse::<f64>().ok()).sum()
    }
}
