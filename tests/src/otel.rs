//! A real OpenTelemetry collector that writes what it gets into a file.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::parts;
use crate::process::{self, Process};
use crate::wait::within;

/// A running collector.
#[derive(Debug)]
pub struct Collector {
    host: String,
    port: u16,
    out: PathBuf,
    _process: Process,
}

impl Collector {
    /// Starts one and waits until it is ready.
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1").await
    }

    /// Starts one that listens on the address `host` of this machine.
    pub async fn start_at(host: &str) -> Self {
        let home = process::directory("otelcol");
        let port = process::port();
        let out = home.join("out.jsonl");
        let config = format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: '{host}:{port}'}}}}}}}}\n\
             exporters: {{file: {{path: '{}', flush_interval: 100ms}}}}\n\
             service:\n\
             \x20 telemetry: {{metrics: {{level: none}}}}\n\
             \x20 pipelines:\n\
             \x20   traces: {{receivers: [otlp], exporters: [file]}}\n\
             \x20   metrics: {{receivers: [otlp], exporters: [file]}}\n",
            out.display(),
        );
        let file = home.join("config.yaml");
        std::fs::write(&file, config).expect("a file can be written");
        let program = parts::find("otelcol", &["otelcol/main.go", "otelcol/go.mod", "otelcol/go.sum"]);
        let mut command = Command::new(program.join("otelcol"));
        command.arg("--config").arg(&file);
        let log = home.join("log");
        let mut process = Process::spawn("otelcol", command, &log);
        loop {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            if text.contains("Everything is ready") {
                break;
            }
            assert!(process.runs(), "the collector ended:\n{text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { host: host.into(), port, out, _process: process }
    }

    /// Its OTLP/HTTP endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
    }

    /// Everything received so far, one OTLP/JSON document each.
    pub fn received(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.out).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until `look` finds what it looks for in what was received.
    pub async fn find<T>(&self, what: &str, look: impl Fn(&[Value]) -> Option<T>) -> T {
        within(Duration::from_secs(60), what, || async { look(&self.received()) }).await
    }
}
