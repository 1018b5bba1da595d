//! The servers under test, each a process of its own on the server's core: `sluice run`, and the
//! floor. Dropping one kills it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sluice_tests::Documents;
use sluice_tests::process::{self, Process};

use crate::floor;
use crate::http::Http;
use crate::measure::on_server_cpu;

/// How long a start may take.
const START: Duration = Duration::from_secs(20);

/// A running `sluice run`.
#[derive(Debug)]
pub struct Server {
    process: Process,
    log: PathBuf,
    file: PathBuf,
    /// The public port.
    pub port: u16,
    /// The admin port.
    pub admin: u16,
}

impl Server {
    /// Serves `documents` and waits until it is ready.
    pub fn start(binary: &Path, documents: &Documents) -> Result<Self> {
        let mut server = Self::launch(binary, documents)?;
        let begun = Instant::now();
        while !Http::connect(server.admin)
            .and_then(|mut admin| admin.get("/readyz"))
            .is_ok_and(|(status, _)| status == 200)
        {
            server.check()?;
            ensure!(begun.elapsed() < START, "sluice is not ready after {START:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    /// Serves `documents` and waits for nothing.
    pub fn launch(binary: &Path, documents: &Documents) -> Result<Self> {
        let home = process::directory("sluice");
        let (file, log) = (home.join("apis.yaml"), home.join("log"));
        std::fs::write(&file, documents.text())?;
        let (port, admin) = (process::port(), process::port());
        let mut command = Command::new(binary);
        command.arg("run").arg("-f").arg(&file).arg("--state").arg(home.join("state"));
        command.args(["--listen", &format!("127.0.0.1:{port}"), "--admin", &format!("127.0.0.1:{admin}")]);
        on_server_cpu(&mut command);
        Ok(Self { process: Process::spawn("sluice", command, &log), log, file, port, admin })
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

/// The binary under test: `SLUICE_BIN`, else the one beside this program.
pub fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os("SLUICE_BIN") {
        Some(path) => path.into(),
        None => std::env::current_exe()?.with_file_name("sluice"),
    };
    ensure!(path.exists(), "{} is missing: run `make build`", path.display());
    Ok(path)
}

/// Starts the floor and waits until it listens.
pub fn floor(options: &floor::Options) -> Result<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("floor").args(["--port", &options.port.to_string(), "--rate", &options.rate.to_string()]);
    command.args(["--clients", &options.clients.to_string(), "--messages", &options.messages.to_string()]);
    command.args(["--bytes", &options.bytes.to_string(), "--frame-bytes", &options.frame_bytes.to_string()]);
    command.args(options.sse.then_some("--sse"));
    on_server_cpu(&mut command);
    let log = process::directory("floor").join("log");
    let mut process = Process::spawn("floor", command, &log);
    let begun = Instant::now();
    // The listener is watched in the kernel's table: a connection would count as a client.
    while !listens(options.port)? {
        ensure!(process.runs(), "the floor ended: {}", std::fs::read_to_string(&log).unwrap_or_default());
        ensure!(begun.elapsed() < START, "the floor does not listen after {START:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(process)
}

fn listens(port: u16) -> Result<bool> {
    let sockets = std::fs::read_to_string("/proc/net/tcp").context("no table of sockets")?;
    let wanted = format!("0100007F:{port:04X} 00000000:0000 0A");
    Ok(sockets.lines().any(|line| line.contains(&wanted)))
}
