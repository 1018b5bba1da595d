//! A server that is a part of the bench itself, in a process of its own.

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use sluice_tests::process::{self, Process};

use crate::measure::on_server_cpu;

/// How long a start may take.
const START: Duration = Duration::from_secs(10);

/// A part that listens. Dropping it stops it.
#[derive(Debug)]
pub struct Part {
    process: Process,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
}

impl Part {
    /// Starts the part `name` of this program and waits until it listens.
    pub fn start(name: &str, arguments: &[String]) -> Result<Self> {
        let port = process::port();
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(name).args(["--port", &port.to_string()]).args(arguments);
        on_server_cpu(&mut command);
        let log = process::directory(name).join("log");
        let mut process = Process::spawn(name, command, &log);
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if !process.runs() {
                bail!("{name} ended: {}", std::fs::read_to_string(&log).unwrap_or_default());
            }
            ensure!(begun.elapsed() < START, "{name} does not listen after {START:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Self { process, port })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}
