//! Publishers: connections that each send a request and wait for its answer, as fast as they can or
//! at a rate; and librdkafka alone with as many messages in flight, which nobody can beat.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::epoll::{Epoll, Ticks};
use crate::histogram::Histogram;
use crate::http::{parse, request};
use crate::measure::cpu_micros;
use crate::report::{EACH, Measure, P50, P99, Values};
use crate::system::Publication;

/// Acknowledged messages.
pub const REQUESTS: Measure = "requests/s";

/// How long anything may go without progress.
const PATIENCE: Duration = Duration::from_secs(20);
/// Names what says that messages are due.
const TICKS: usize = usize::MAX;

/// What publishers do.
#[derive(Clone, Debug, clap::Args)]
pub struct Load {
    /// Messages in flight: connections, for HTTP.
    #[arg(long)]
    pub in_flight: usize,
    /// Bytes of a payload.
    #[arg(long)]
    pub bytes: usize,
    /// Unmeasured milliseconds at first.
    #[arg(long)]
    pub warm: u64,
    /// Measured milliseconds.
    #[arg(long)]
    pub measured: u64,
    /// Messages per second; without it, each is sent when the one before it is acknowledged.
    #[arg(long)]
    pub rate: Option<u64>,
}

impl Load {
    /// Between two messages, if there is a rate.
    pub fn interval(&self) -> Option<Duration> {
        self.rate.map(|rate| Duration::from_nanos(1_000_000_000 / rate.max(1)))
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Published {
    /// Acknowledged messages per second.
    pub per_second: f64,
    /// CPU time per message.
    pub cpu_micros: f64,
    /// Median time to the acknowledgement, from when the message was meant to be sent.
    pub p50_ms: f64,
    /// The same, for 99 of 100.
    pub p99_ms: f64,
    /// Acknowledged in all, warm-up included.
    pub acknowledged: u64,
}

impl Published {
    /// For a table.
    pub fn values(&self) -> Values {
        vec![(REQUESTS, self.per_second), (EACH, self.cpu_micros), (P50, self.p50_ms), (P99, self.p99_ms)]
    }
}

/// Counts acknowledgements and knows when to measure.
pub struct Stopwatch {
    load: Load,
    pids: Vec<u32>,
    begun: Instant,
    before: Option<(Instant, u64, u64)>,
    latency: Histogram,
    acknowledged: u64,
}

impl Stopwatch {
    /// Starts now; the CPU time is that of `pids`.
    pub fn new(load: &Load, pids: Vec<u32>) -> Self {
        let (begun, latency) = (Instant::now(), Histogram::default());
        Self { load: load.clone(), pids, begun, before: None, latency, acknowledged: 0 }
    }

    /// A message that was meant to be sent then is acknowledged.
    pub fn acknowledged(&mut self, meant: Instant) {
        self.acknowledged += 1;
        if self.before.is_some() {
            self.latency.record(meant.elapsed().as_micros() as u64);
        }
    }

    /// `Some` when the time is over.
    pub fn look(&mut self) -> Result<Option<Published>> {
        let elapsed = self.begun.elapsed().as_millis() as u64;
        if self.before.is_none() && elapsed >= self.load.warm {
            self.before = Some((Instant::now(), cpu_micros(&self.pids)?, self.acknowledged));
        }
        let Some((begun, cpu, acknowledged)) = self.before else { return Ok(None) };
        if elapsed < self.load.warm + self.load.measured {
            return Ok(None);
        }
        let messages = (self.acknowledged - acknowledged) as f64;
        ensure!(messages > 0.0, "nothing was acknowledged");
        Ok(Some(Published {
            per_second: messages / begun.elapsed().as_secs_f64(),
            cpu_micros: (cpu_micros(&self.pids)? - cpu) as f64 / messages,
            p50_ms: self.latency.quantile_ms(0.5),
            p99_ms: self.latency.quantile_ms(0.99),
            acknowledged: self.acknowledged,
        }))
    }
}

/// Connections, of which some wait for an answer and some for something to send.
struct Publishers {
    request: Vec<u8>,
    connections: Vec<Connection>,
    idle: Vec<usize>,
    begun: Instant,
    interval: Option<Duration>,
    due: u64,
    sent: u64,
}

struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
    meant: Instant,
}

impl Publishers {
    fn connect(publication: &Publication, load: &Load, epoll: &Epoll) -> Result<Self> {
        let mut connections = Vec::with_capacity(load.in_flight);
        for name in 0..load.in_flight {
            let stream = TcpStream::connect(("127.0.0.1", publication.port)).context("cannot connect")?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            epoll.add(&stream, name)?;
            connections.push(Connection { stream, answer: Vec::new(), meant: Instant::now() });
        }
        Ok(Self {
            request: request(publication, &vec![b'x'; load.bytes]),
            connections,
            idle: (0..load.in_flight).collect(),
            begun: Instant::now(),
            interval: load.interval(),
            due: if load.rate.is_some() { 0 } else { u64::MAX },
            sent: 0,
        })
    }

    /// Sends what is due on connections that wait for nothing.
    fn send(&mut self) -> Result<()> {
        while self.sent < self.due
            && let Some(name) = self.idle.pop()
        {
            self.sent += 1;
            let connection = &mut self.connections[name];
            let scheduled = self.interval.map(|interval| self.begun + interval.mul_f64(self.sent as f64));
            connection.meant = scheduled.unwrap_or_else(Instant::now);
            connection.stream.write_all(&self.request)?;
        }
        Ok(())
    }

    /// Reads from one, and tells when its message was meant if it is acknowledged.
    fn read(&mut self, name: usize, buffer: &mut [u8]) -> Result<Option<Instant>> {
        let connection = &mut self.connections[name];
        match connection.stream.read(buffer) {
            Ok(0) => bail!("the server closed a connection"),
            Ok(length) => connection.answer.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let Some((status, body)) = parse(&connection.answer)? else { return Ok(None) };
        ensure!((200..300).contains(&status), "a publish failed: {status} {body}");
        connection.answer.clear();
        self.idle.push(name);
        Ok(Some(connection.meant))
    }
}

/// Publishes by HTTP; the CPU time is that of the processes `pids`.
pub fn http(pids: Vec<u32>, publication: &Publication, load: &Load) -> Result<Published> {
    let mut epoll = Epoll::new()?;
    // Its schedule begins before the timer does, so that no message is sent before it is due.
    let mut publishers = Publishers::connect(publication, load, &epoll)?;
    let ticks = load.interval().map(|interval| Ticks::every(interval.as_nanos() as u64)).transpose()?;
    if let Some(ticks) = &ticks {
        epoll.add(ticks, TICKS)?;
    }
    let (mut watch, mut result, mut progress) = (Stopwatch::new(load, pids), None, Instant::now());
    let mut buffer = [0; 4096];
    while result.is_none() || publishers.idle.len() < load.in_flight {
        ensure!(progress.elapsed() < PATIENCE, "publishes are not answered");
        if result.is_none() {
            publishers.send()?;
        }
        for (name, _) in epoll.wait(10)? {
            if name == TICKS {
                publishers.due += ticks.as_ref().map_or(0, Ticks::passed);
            } else if let Some(meant) = publishers.read(name, &mut buffer)? {
                progress = Instant::now();
                watch.acknowledged(meant);
                if result.is_none() {
                    publishers.send()?;
                }
            }
        }
        if result.is_none() {
            result = watch.look()?;
        }
    }
    let result = result.context("the time is over, so there is a result")?;
    Ok(Published { acknowledged: watch.acknowledged, ..result })
}
