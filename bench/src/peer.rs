//! The servers of others that are measured beside Sluice: each one process with one worker on the
//! server's core, one channel in memory, without TLS, history, pings and access logs.

use std::cell::RefCell;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use sluice_tests::logs;
use sluice_tests::process::{self, Process};

use crate::measure::on_server_cpu;
use crate::system::{Publication, Subscription, System};
use crate::wire::Wire;

pub mod check;
mod install;
mod launch;

/// How long a start may take.
const START: Duration = Duration::from_secs(20);
/// Between two looks whether a peer listens.
const LOOK: Duration = Duration::from_millis(5);
/// Lines of a log that are told.
const LOG_LINES: usize = 30;

/// Which peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `Bun.serve` with its own topics, which are those of uWebSockets.
    Bun,
    /// The package `ws` on Node.js.
    Ws,
    /// nginx with the module nchan.
    Nchan,
    /// The library Centrifuge, the engine of Centrifugo.
    Centrifuge,
    /// Mercure's hub.
    Mercure,
    /// Bento, which publishes to Kafka and has no fan-out: [`bento`].
    Bento,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Bun, Self::Ws, Self::Nchan, Self::Centrifuge, Self::Mercure, Self::Bento];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bun => "Bun",
            Self::Ws => "Node.js ws",
            Self::Nchan => "nchan",
            Self::Centrifuge => "Centrifuge",
            Self::Mercure => "Mercure",
            Self::Bento => "Bento",
        }
    }

    /// The version that is installed.
    pub fn version(self) -> Result<String> {
        install::version(self)
    }

    /// How it can bring messages to many clients.
    pub const fn wires(self) -> &'static [Wire] {
        match self {
            Self::Bun | Self::Ws => &[Wire::WebSocket],
            Self::Nchan => &[Wire::WebSocket, Wire::Sse],
            Self::Centrifuge => &[Wire::Centrifuge],
            Self::Mercure => &[Wire::Sse],
            Self::Bento => &[],
        }
    }

    /// Starts it for clients of `wire` and waits until it listens.
    pub fn start(self, wire: Wire) -> Result<Running> {
        ensure!(self.wires().contains(&wire), "{} has no {}", self.name(), wire.name());
        let port = process::port();
        let (subscribe, head) = match self {
            Self::Centrifuge => ("/subscribe", post("/publish", "application/json")),
            Self::Mercure => (launch::MERCURE_SUBSCRIBE, launch::mercure_head()),
            _ => ("/subscribe", post("/publish", "text/plain")),
        };
        let body = match self {
            Self::Centrifuge => quoted,
            Self::Mercure => launch::mercure_body,
            _ => <[u8]>::to_vec,
        };
        let server = Server::start(self, launch::fan_out(self, port)?, port)?;
        let subscription = Subscription::to_all(port, wire, subscribe);
        Ok(Running { server, subscription, publication: Publication { port, head, body } })
    }
}

/// A peer with subscribers.
#[derive(Debug)]
pub struct Running {
    server: Server,
    subscription: Subscription,
    publication: Publication,
}

impl System for Running {
    fn pids(&self) -> Result<Vec<u32>> {
        self.server.pids()
    }

    fn subscription(&self) -> Subscription {
        self.subscription.clone()
    }

    fn publication(&self) -> Publication {
        self.publication.clone()
    }
}

/// Bento between HTTP and Kafka: an answer is an acknowledgement of the brokers.
#[derive(Debug)]
pub struct Bento {
    server: Server,
    publication: Publication,
}

impl Bento {
    /// Starts it and waits until it listens. `brokers` are `host:port`, with commas between them.
    pub fn start(brokers: &str, topic: &str) -> Result<Self> {
        let port = process::port();
        let server = Server::start(Kind::Bento, launch::bento(port, brokers, topic)?, port)?;
        let head = post("/publish", "text/plain");
        Ok(Self { server, publication: Publication { port, head, body: <[u8]>::to_vec } })
    }

    /// As [`System::pids`].
    pub fn pids(&self) -> Result<Vec<u32>> {
        self.server.pids()
    }

    /// As [`System::publication`].
    pub fn publication(&self) -> Publication {
        self.publication.clone()
    }
}

/// The one process of a peer.
#[derive(Debug)]
struct Server {
    kind: Kind,
    process: RefCell<Process>,
    log: PathBuf,
}

impl Server {
    fn start(kind: Kind, mut command: Command, port: u16) -> Result<Self> {
        let log = process::directory("peer").join("log");
        on_server_cpu(&mut command);
        let server = Self { kind, process: RefCell::new(Process::spawn(kind.name(), command, &log)), log };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            server.pids()?;
            ensure!(begun.elapsed() < START, "{} does not listen after {START:?}", kind.name());
            std::thread::sleep(LOOK);
        }
        Ok(server)
    }

    /// Fails with what the peer logged if it has ended.
    fn pids(&self) -> Result<Vec<u32>> {
        let mut process = self.process.borrow_mut();
        let Some(status) = process.status() else { return Ok(vec![process.pid()]) };
        bail!("{} ended ({status}):\n{}", self.kind.name(), logs::tail(&self.log, LOG_LINES))
    }
}

fn post(path: &str, content_type: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n")
}

/// The payload as a JSON string.
fn quoted(payload: &[u8]) -> Vec<u8> {
    [b"\"", payload, b"\""].concat()
}
