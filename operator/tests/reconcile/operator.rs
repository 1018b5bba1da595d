//! The operator's own binary as a process.

use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use sluice_tests::client::http;
use sluice_tests::metrics::Metrics;
use sluice_tests::process::{self, Process};
use sluice_tests::{eventually, logs};

use crate::bed::{ACCOUNT, Bed};

/// How an operator is started, besides what its Deployment sets.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The ServiceAccount it is.
    pub account: String,
    /// `POD_NAME`, its identity.
    pub pod: String,
    /// Arguments.
    pub arguments: Vec<String>,
}

/// A running operator. Dropping it kills it and checks its log.
#[derive(Debug)]
pub struct Operator {
    setup: Setup,
    namespace: String,
    home: PathBuf,
    admin_port: u16,
    expected: Vec<String>,
    process: Option<Process>,
}

impl Operator {
    /// As the chart would start it in namespaced mode.
    pub fn namespaced(bed: &Bed) -> Setup {
        let arguments = ["--watch-namespace", &bed.namespace, "--network-policies"];
        Setup {
            account: ACCOUNT.into(),
            pod: "operator-0".into(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
        }
    }

    /// Starts it and waits until it leads.
    pub async fn start(bed: &Bed) -> Self {
        let operator = Self::launch(bed, Self::namespaced(bed)).await;
        operator.leads().await;
        operator
    }

    /// Starts it with the API server behind `server`, and waits until it leads.
    pub async fn through(bed: &Bed, server: &str) -> Self {
        let operator = Self::launch_at(bed, Self::namespaced(bed), Some(server)).await;
        operator.leads().await;
        operator
    }

    /// Starts it and waits for nothing.
    pub async fn launch(bed: &Bed, setup: Setup) -> Self {
        Self::launch_at(bed, setup, None).await
    }

    async fn launch_at(bed: &Bed, setup: Setup, server: Option<&str>) -> Self {
        let home = process::directory("operator");
        bed.kubeconfig(&setup.account, server, &home.join("kubeconfig")).await;
        let admin_port = process::port();
        let mut operator = Self {
            setup,
            namespace: bed.namespace.clone(),
            home,
            admin_port,
            expected: Vec::new(),
            process: None,
        };
        operator.spawn();
        operator
    }

    fn spawn(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice-operator"));
        command.args(["--dataplane-image", "sluice/dataplane:test"]);
        command.args(["--admin", &format!("127.0.0.1:{}", self.admin_port)]);
        command.args(&self.setup.arguments);
        command.env("KUBECONFIG", self.home.join("kubeconfig"));
        command.env("POD_NAMESPACE", &self.namespace).env("POD_NAME", &self.setup.pod);
        command.env_remove("SLUICE_LOG").env("RUST_BACKTRACE", "1");
        self.process = Some(Process::spawn("sluice-operator", command, &self.log_file()));
    }

    fn log_file(&self) -> PathBuf {
        self.home.join(format!("{}.log", self.setup.pod))
    }

    /// A URL on its admin port.
    pub fn admin(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.admin_port)
    }

    /// A metric.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let answer = http::get(&self.admin("/metrics")).await.ok()?;
        Some(Metrics::parse(&answer.text()).sum(&format!("operator_{name}"), labels))
    }

    /// The value of one of its arguments.
    pub fn argument(&self, name: &str) -> &str {
        let at = self.setup.arguments.iter().position(|argument| argument == name).expect("it has it");
        &self.setup.arguments[at + 1]
    }

    /// Whether it leads right now.
    pub async fn is_leading(&self) -> bool {
        self.metric("leader", &[]).await == Some(1.0)
    }

    /// Waits until it leads.
    pub async fn leads(&self) {
        eventually("the operator leads", || async { self.is_leading().await.then_some(()) }).await;
    }

    /// How often it looked at an object of `kind`.
    pub async fn looks(&self, kind: &str) -> f64 {
        self.metric("reconciles_total", &[("kind", kind)]).await.expect("it answers")
    }

    /// Allows warnings and errors in the log that contain one of `texts`.
    pub fn expect_log(&mut self, texts: &[&str]) {
        self.expected.extend(texts.iter().map(ToString::to_string));
    }

    /// Everything it logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: i32) {
        self.process.as_mut().expect("it runs").signal(signal);
    }

    /// Waits for its end.
    pub async fn ended(&mut self, patience: Duration) -> ExitStatus {
        self.process.as_mut().expect("it was started").ended(patience).await
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Panics
    /// If it takes longer than two seconds or does not exit 0.
    pub async fn stop(&mut self) {
        self.signal(libc::SIGTERM);
        let status = self.ended(Duration::from_secs(2)).await;
        assert!(status.success(), "the operator ended with {status}:\n{}", logs::tail(&self.log_file(), 40));
    }

    /// Starts it again after its end.
    pub fn restart(&mut self) {
        assert!(!self.process.as_mut().is_some_and(Process::runs), "stop or kill it first");
        self.spawn();
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.process.take();
        if std::thread::panicking() {
            println!("--- {} ends:\n{}", self.log_file().display(), logs::tail(&self.log_file(), 60));
            logs::keep(&self.log_file());
            return;
        }
        let complaints = logs::complaints(&self.log(), &self.expected);
        if !complaints.is_empty() {
            logs::keep(&self.log_file());
            panic!("the operator's log has what the test does not expect:\n{}", complaints.join("\n"));
        }
    }
}
