//! `sluice run`, a process of its own on the server's core. Dropping it kills it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use sluice_tests::Documents;
use sluice_tests::process::{self, Process};

use crate::http::Http;
use crate::measure::on_server_cpu;
use crate::system::{Publication, Subscription, System};
use crate::wire::Wire;

/// How long a start may take.
const START: Duration = Duration::from_secs(20);

/// Where the one channel is served.
const PATH: &str = "/bench/messages";

/// A running `sluice run`.
#[derive(Debug)]
pub struct Server {
    process: Process,
    log: PathBuf,
    file: PathBuf,
    wire: Wire,
    subscribe: u16,
    /// The public port.
    pub port: u16,
    admin: u16,
}

/// What it serves, and how clients reach it.
struct Setup<'a> {
    documents: &'a Documents,
    wire: Wire,
    tls: Option<&'a str>,
}

impl Server {
    /// Serves `documents` and waits until it is ready.
    pub fn start(binary: &Path, documents: &Documents, wire: Wire) -> Result<Self> {
        Self::begin(binary, &Setup { documents, wire, tls: None })?.ready()
    }

    /// Serves clients with the certificate of `secret`.
    pub fn with_tls(binary: &Path, documents: &Documents, wire: Wire, secret: &str) -> Result<Self> {
        Self::begin(binary, &Setup { documents, wire, tls: Some(secret) })?.ready()
    }

    /// Serves `documents` and waits for nothing.
    pub fn launch(binary: &Path, documents: &Documents) -> Result<Self> {
        Self::begin(binary, &Setup { documents, wire: Wire::Sse, tls: None })
    }

    fn begin(binary: &Path, setup: &Setup<'_>) -> Result<Self> {
        let home = process::directory("sluice");
        let (file, log) = (home.join("apis.yaml"), home.join("log"));
        std::fs::write(&file, setup.documents.text())?;
        let (port, admin) = (process::port(), process::port());
        let mut subscribe = port;
        let mut command = Command::new(binary);
        command.arg("run").arg("-f").arg(&file).arg("--state").arg(home.join("state"));
        command.args(["--listen", &format!("127.0.0.1:{port}"), "--admin", &format!("127.0.0.1:{admin}")]);
        if let Some(secret) = setup.tls {
            subscribe = process::port();
            command.args(["--listen-tls", &format!("127.0.0.1:{subscribe}"), "--tls-secret", secret]);
        }
        on_server_cpu(&mut command);
        let process = Process::spawn("sluice", command, &log);
        Ok(Self { process, log, file, wire: setup.wire, subscribe, port, admin })
    }

    fn ready(mut self) -> Result<Self> {
        let begun = Instant::now();
        while !Http::connect(self.admin)
            .and_then(|mut admin| admin.get("/readyz"))
            .is_ok_and(|(status, _)| status == 200)
        {
            self.check()?;
            ensure!(begun.elapsed() < START, "sluice is not ready after {START:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(self)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Fails if the process has ended.
    pub fn check(&mut self) -> Result<()> {
        let Some(status) = self.process.status() else { return Ok(()) };
        bail!("sluice ended ({status}):\n{}", std::fs::read_to_string(&self.log).unwrap_or_default())
    }

    /// Replaces the file it serves by renaming another into its place.
    pub fn change(&self, documents: &Documents) -> Result<()> {
        let fresh = self.file.with_extension("new");
        std::fs::write(&fresh, documents.text())?;
        Ok(std::fs::rename(&fresh, &self.file)?)
    }
}

impl System for Server {
    fn pids(&self) -> Result<Vec<u32>> {
        Ok(vec![self.pid()])
    }

    fn subscription(&self) -> Subscription {
        Subscription::to_all(self.subscribe, self.wire, PATH)
    }

    fn publication(&self) -> Publication {
        let head = format!("POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\n");
        Publication { port: self.port, head, body: <[u8]>::to_vec }
    }
}

/// The binary under test: `SLUICE_BIN`, else the one beside this program.
pub fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os("SLUICE_BIN") {
        Some(path) => path.into(),
        None => std::env::current_exe()?.with_file_name("sluice"),
    };
    ensure!(path.exists(), "{} is missing: run `make build`", path.display());
    Ok(path)
}
