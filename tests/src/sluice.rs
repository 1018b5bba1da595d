//! The binary under test, as a process of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::http;
use crate::documents::Documents;
use crate::logs;
use crate::metrics::Metrics;
use crate::parts;
use crate::process::{self, Process};
use crate::wait::{PATIENCE, eventually};

/// How a [`Sluice`] is started.
#[derive(Clone, Debug)]
pub struct Setup {
    documents: Documents,
    state: Option<PathBuf>,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    tls: Option<String>,
}

impl Setup {
    /// Uses `state` instead of a directory of its own.
    #[must_use]
    pub fn state(mut self, state: &Path) -> Self {
        self.state = Some(state.into());
        self
    }

    /// Adds command-line arguments.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Adds an HTTPS listener with the certificate of a Secret, `namespace/name`.
    #[must_use]
    pub fn tls(mut self, secret: &str) -> Self {
        self.tls = Some(secret.into());
        self
    }

    /// Starts it and waits until it is ready.
    pub async fn start(self) -> Sluice {
        let mut sluice = self.launch();
        sluice.ready().await;
        sluice
    }

    /// Starts it and waits for nothing.
    pub fn launch(self) -> Sluice {
        let home = process::directory("sluice");
        let state = self.state.clone().unwrap_or_else(|| home.join("state"));
        let mut sluice = Sluice {
            file: home.join("apis.yaml"),
            log: home.join("sluice.log"),
            state,
            port: process::port(),
            tls_port: process::port(),
            admin_port: process::port(),
            expected: Vec::new(),
            process: None,
            setup: self,
        };
        sluice.write(&sluice.setup.documents.clone());
        sluice.launch();
        sluice
    }
}

/// A running `sluice run`. Dropping it kills it and checks its log.
#[derive(Debug)]
pub struct Sluice {
    setup: Setup,
    file: PathBuf,
    log: PathBuf,
    state: PathBuf,
    port: u16,
    tls_port: u16,
    admin_port: u16,
    expected: Vec<String>,
    process: Option<Process>,
}

impl Sluice {
    /// A process that will serve `documents`, with its own directories and ports.
    pub fn with(documents: &Documents) -> Setup {
        Setup {
            documents: documents.clone(),
            state: None,
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            tls: None,
        }
    }

    /// Serves `documents` and waits until it is ready.
    pub async fn start(documents: &Documents) -> Self {
        Self::with(documents).start().await
    }

    fn launch(&mut self) {
        let mut command = Command::new(parts::sluice());
        command.arg("run").arg("-f").arg(&self.file);
        command.arg("--listen").arg(format!("127.0.0.1:{}", self.port));
        command.arg("--admin").arg(format!("127.0.0.1:{}", self.admin_port));
        command.arg("--state").arg(&self.state);
        if let Some(secret) = &self.setup.tls {
            command.arg("--listen-tls").arg(format!("127.0.0.1:{}", self.tls_port));
            command.arg("--tls-secret").arg(secret);
        }
        command.args(&self.setup.arguments).envs(&self.setup.environment);
        command.env_remove("SLUICE_LOG").env("RUST_BACKTRACE", "1");
        self.process = Some(Process::spawn("sluice", command, &self.log));
    }

    /// Waits until `/readyz` says 200.
    ///
    /// # Panics
    /// If the process ends first, or is not ready in time.
    pub async fn ready(&mut self) {
        let begun = Instant::now();
        loop {
            let process = self.process.as_mut().expect("it was started");
            if let Some(status) = process.status() {
                panic!("sluice ended ({status}) instead of getting ready:\n{}", logs::tail(&self.log, 40));
            }
            if http::get(&self.admin("/readyz")).await.is_ok_and(|answer| answer.status == 200) {
                return;
            }
            if begun.elapsed() > PATIENCE {
                panic!("sluice did not get ready in {PATIENCE:?}:\n{}", logs::tail(&self.log, 40));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// `http://127.0.0.1:<port><path>`.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// `https://localhost:<port><path>`.
    pub fn tls_url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.tls_port)
    }

    /// The public listener's port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A URL on the admin port.
    pub fn admin(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.admin_port)
    }

    /// The file it serves.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Its state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").pid()
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::runs)
    }

    /// A scrape of its metrics.
    pub async fn metrics(&self) -> Metrics {
        Metrics::parse(&http::get(&self.admin("/metrics")).await.expect("metrics are served").text())
    }

    /// The body of `/readyz`, whatever its status.
    pub async fn readyz(&self) -> (u16, String) {
        let answer = http::get(&self.admin("/readyz")).await.expect("the admin port answers");
        (answer.status, answer.text())
    }

    /// The body of `/config`.
    pub async fn config(&self) -> Value {
        http::get(&self.admin("/config")).await.expect("the admin port answers").json()
    }

    /// The revision of `default/<api>` in `/config`.
    pub async fn revision(&self, api: &str) -> Option<String> {
        let config = self.config().await;
        let apis = config["apis"].as_array().cloned().unwrap_or_default();
        let found = apis.iter().find(|it| it["name"] == api)?;
        found["revision"].as_str().map(str::to_owned)
    }

    /// Replaces the file by renaming a new one into place.
    pub fn write(&self, documents: &Documents) {
        self.write_text(&documents.text());
    }

    /// Replaces the file's text by renaming a new one into place.
    pub fn write_text(&self, text: &str) {
        let fresh = self.file.with_extension("new");
        std::fs::write(&fresh, text).expect("a file can be written");
        std::fs::rename(&fresh, &self.file).expect("a file can be renamed");
    }

    /// Replaces the file and waits until `/config` tells a higher sequence.
    pub async fn apply(&self, documents: &Documents) {
        let before = self.config().await["sequence"].as_u64();
        self.write(documents);
        eventually("the edit is applied", || async {
            (self.config().await["sequence"].as_u64() > before).then_some(())
        })
        .await;
    }

    /// Allows warnings and errors in the log that contain one of `texts`.
    pub fn expect_log(&mut self, texts: &[&str]) {
        self.expected.extend(texts.iter().map(ToString::to_string));
    }

    /// Everything it logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: i32) {
        self.process.as_mut().expect("it runs").signal(signal);
    }

    /// Waits for its end.
    pub async fn ended(&mut self, patience: Duration) -> ExitStatus {
        self.process.as_mut().expect("it was started").ended(patience).await
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.as_mut().expect("it was started").kill();
    }

    /// Starts it again on the same ports, file and state.
    pub async fn restart(&mut self) {
        assert!(!self.runs(), "stop or kill it first");
        self.launch();
        self.ready().await;
    }

    /// SIGTERM, waits for the end, and checks the log.
    ///
    /// # Panics
    /// If it does not exit 0 or logged what was not expected.
    pub async fn stop(mut self) {
        self.signal(libc::SIGTERM);
        let status = self.ended(PATIENCE).await;
        assert!(status.success(), "sluice ended with {status}:\n{}", logs::tail(&self.log, 40));
    }

    fn check_log(&self) {
        let complaints = logs::complaints(&self.log(), &self.expected);
        if complaints.is_empty() {
            return;
        }
        logs::keep(&self.log);
        panic!("the log has what the test does not expect:\n{}", complaints.join("\n"));
    }
}

impl Drop for Sluice {
    fn drop(&mut self) {
        self.process.take();
        if std::thread::panicking() {
            println!("--- {} ends:\n{}", self.log.display(), logs::tail(&self.log, 60));
            logs::keep(&self.log);
        } else {
            self.check_log();
        }
    }
}

/// Runs a `sluice` command to its end.
pub fn command(arguments: &[&str]) -> Output {
    Command::new(parts::sluice())
        .args(arguments)
        .env_remove("SLUICE_LOG")
        .output()
        .expect("the binary can be started")
}
