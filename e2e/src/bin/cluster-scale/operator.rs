//! The operator as a process, and what it takes.

use std::process::Command;
use std::time::Duration;

use sluice_tests::client::http;
use sluice_tests::metrics::Metrics;
use sluice_tests::process::{self, Process};
use sluice_tests::{ControlPlane, within};

use crate::PATIENCE;
use crate::usage::Usage;

/// A running operator.
pub struct Operator {
    process: Process,
    port: u16,
}

impl Operator {
    pub async fn start(plane: &ControlPlane) -> Self {
        let port = process::port();
        let beside = std::env::current_exe().expect("it has a path").with_file_name("sluice-operator");
        let mut command = Command::new(beside);
        command.args(["--dataplane-image", "sluice/dataplane:test", "--admin", &format!("127.0.0.1:{port}")]);
        command
            .env("KUBECONFIG", plane.kubeconfig())
            .env("POD_NAMESPACE", "sluice-system")
            .env("POD_NAME", "operator-0");
        let log = process::directory("operator").join("operator.log");
        let operator = Self { process: Process::spawn("sluice-operator", command, &log), port };
        within(PATIENCE, "the operator leads", || async {
            (operator.metric("leader", &[]).await == Some(1.0)).then_some(())
        })
        .await;
        operator
    }

    async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let answer = http::get(&format!("http://127.0.0.1:{}/metrics", self.port)).await.ok()?;
        Some(Metrics::parse(&answer.text()).sum(&format!("operator_{name}"), labels))
    }

    /// Waits until it has looked at so many StreamAPIs.
    pub async fn looked_at(&self, count: usize) {
        within(PATIENCE, "the operator has looked at all", || async {
            let looks = self.metric("reconciles_total", &[("kind", "StreamAPI")]).await?;
            (looks >= count as f64).then_some(())
        })
        .await;
    }

    /// What it takes.
    pub fn usage(&self) -> Usage {
        Usage(self.process.pid())
    }

    pub async fn stop(&mut self) {
        self.process.signal(libc::SIGTERM);
        self.process.ended(Duration::from_secs(20)).await;
    }
}
