//! Publishers: connections that each send a request, wait for its answer and send the next; and
//! librdkafka alone with as many messages in flight, which is what Sluice can come close to.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use serde::{Deserialize, Serialize};

use crate::epoll::Epoll;
use crate::histogram::Histogram;
use crate::http::parse;
use crate::measure::cpu_micros;

/// How long anything may go without progress.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at the time.
const LOOK: Duration = Duration::from_millis(5);

/// What publishers do.
#[derive(Clone, Debug, clap::Args)]
pub struct Load {
    /// Messages in flight: connections, for HTTP.
    #[arg(long)]
    pub in_flight: usize,
    /// Bytes of a payload.
    #[arg(long)]
    pub bytes: usize,
    /// Unmeasured seconds at first.
    #[arg(long)]
    pub warm: u64,
    /// Measured seconds.
    #[arg(long)]
    pub seconds: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Published {
    /// Acknowledged messages per second.
    pub per_second: f64,
    /// CPU time per message.
    pub cpu_micros: f64,
    /// Median time to the acknowledgement.
    pub p50_ms: f64,
    /// The same, for 99 of 100.
    pub p99_ms: f64,
    /// Acknowledged in all, warm-up included.
    pub acknowledged: u64,
}

/// Counts acknowledgements and knows when to measure.
struct Stopwatch {
    load: Load,
    pid: u32,
    begun: Instant,
    before: Option<(Instant, u64, u64)>,
    latency: Histogram,
    acknowledged: u64,
}

impl Stopwatch {
    fn new(load: &Load, pid: u32) -> Self {
        Self {
            load: load.clone(),
            pid,
            begun: Instant::now(),
            before: None,
            latency: Histogram::default(),
            acknowledged: 0,
        }
    }

    fn acknowledged(&mut self, took: Duration) {
        self.acknowledged += 1;
        if self.before.is_some() {
            self.latency.record(took.as_micros() as u64);
        }
    }

    /// `Some` when the time is over.
    fn look(&mut self) -> Result<Option<Published>> {
        let elapsed = self.begun.elapsed();
        if self.before.is_none() && elapsed.as_secs() >= self.load.warm {
            self.before = Some((Instant::now(), cpu_micros(&[self.pid])?, self.acknowledged));
        }
        let Some((begun, cpu, acknowledged)) = self.before else { return Ok(None) };
        if elapsed.as_secs() < self.load.warm + self.load.seconds {
            return Ok(None);
        }
        let messages = (self.acknowledged - acknowledged) as f64;
        ensure!(messages > 0.0, "nothing was acknowledged");
        Ok(Some(Published {
            per_second: messages / begun.elapsed().as_secs_f64(),
            cpu_micros: (cpu_micros(&[self.pid])? - cpu) as f64 / messages,
            p50_ms: self.latency.quantile_ms(0.5),
            p99_ms: self.latency.quantile_ms(0.99),
            acknowledged: self.acknowledged,
        }))
    }
}

struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
    sent: Instant,
}

/// Publishes by `POST` to `path`; the CPU time is that of the process `pid`.
pub fn http(pid: u32, port: u16, path: &str, load: &Load) -> Result<Published> {
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
        load.bytes
    )
    .into_bytes();
    request.resize(request.len() + load.bytes, b'x');
    let mut epoll = Epoll::new()?;
    let mut connections = Vec::with_capacity(load.in_flight);
    for name in 0..load.in_flight {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).context("cannot connect")?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll.add(&stream, name)?;
        stream.write_all(&request)?;
        connections.push(Connection { stream, answer: Vec::new(), sent: Instant::now() });
    }
    let (mut watch, mut result, mut waiting, mut progress) =
        (Stopwatch::new(load, pid), None, load.in_flight, Instant::now());
    let mut buffer = [0; 4096];
    while waiting > 0 {
        ensure!(progress.elapsed() < PATIENCE, "{waiting} publishes are not answered");
        for (name, _) in epoll.wait(10)? {
            progress = Instant::now();
            let connection = &mut connections[name];
            match connection.stream.read(&mut buffer) {
                Ok(0) => bail!("the server closed a connection"),
                Ok(length) => connection.answer.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            }
            let Some((status, body)) = parse(&connection.answer)? else { continue };
            ensure!(status == 200, "a publish failed: {status} {body}");
            watch.acknowledged(connection.sent.elapsed());
            connection.answer.clear();
            if result.is_some() {
                waiting -= 1;
                continue;
            }
            connection.sent = Instant::now();
            connection.stream.write_all(&request)?;
        }
        if result.is_none() {
            result = watch.look()?;
        }
    }
    let result = result.context("the time is over, so there is a result")?;
    Ok(Published { acknowledged: watch.acknowledged, ..result })
}

/// Settings of a producer that promises what Sluice promises.
pub fn settings(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("enable.idempotence", "true").set("acks", "all");
    config.set("linger.ms", "0").set("socket.nagle.disable", "true").set("log_level", "3");
    config
}

/// Sends the next message from the delivery report of the one before, on librdkafka's own thread.
struct Deliveries {
    topic: String,
    payload: Vec<u8>,
    watch: Mutex<Stopwatch>,
    failed: AtomicBool,
    producer: OnceLock<Weak<ThreadedProducer<Self>>>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Instant>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Self::DeliveryOpaque) {
        self.watch.lock().expect("not poisoned").acknowledged(sent.elapsed());
        if result.is_err() || self.send().is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
    }
}

impl Deliveries {
    fn send(&self) -> Result<()> {
        // After the end there is no producer, and nothing more to send.
        let Some(producer) = self.producer.get().and_then(Weak::upgrade) else { return Ok(()) };
        let record: BaseRecord<'_, (), [u8], Box<Instant>> =
            BaseRecord::with_opaque_to(&self.topic, Box::new(Instant::now())).payload(&self.payload);
        producer.send(record).map_err(|(error, _)| error.into())
    }
}

/// Publishes by librdkafka from this process.
pub fn librdkafka(brokers: &str, topic: &str, load: &Load) -> Result<Published> {
    let context = Deliveries {
        topic: topic.to_owned(),
        payload: vec![b'x'; load.bytes],
        watch: Mutex::new(Stopwatch::new(load, std::process::id())),
        failed: AtomicBool::new(false),
        producer: OnceLock::new(),
    };
    let producer = Arc::new(settings(brokers).create_with_context::<_, ThreadedProducer<_>>(context)?);
    let context = producer.context();
    context.producer.get_or_init(|| Arc::downgrade(&producer));
    for _ in 0..load.in_flight {
        context.send()?;
    }
    loop {
        std::thread::sleep(LOOK);
        ensure!(!context.failed.load(Ordering::Relaxed), "a delivery failed");
        if let Some(result) = context.watch.lock().expect("not poisoned").look()? {
            return Ok(result);
        }
    }
}
