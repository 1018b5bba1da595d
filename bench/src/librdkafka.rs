//! librdkafka alone, with the promises of Sluice and without HTTP: what publishing can come close to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};

use crate::publish::{Load, Published, Stopwatch};

/// Between two looks at the time, if nothing is due.
const LOOK: Duration = Duration::from_millis(5);

/// How long the first message may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Settings of a producer that promises what Sluice promises.
pub fn settings(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("enable.idempotence", "true").set("acks", "all");
    config.set("linger.ms", "0").set("socket.nagle.disable", "true").set("log_level", "3");
    config
}

/// Without a rate, sends the next message from the delivery report of the one before, on
/// librdkafka's own thread.
struct Deliveries {
    topic: String,
    payload: Vec<u8>,
    chained: AtomicBool,
    watch: Mutex<Stopwatch>,
    failed: AtomicBool,
    producer: OnceLock<Weak<ThreadedProducer<Self>>>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Instant>;

    fn delivery(&self, result: &DeliveryResult<'_>, meant: Self::DeliveryOpaque) {
        self.watch.lock().expect("not poisoned").acknowledged(*meant);
        if result.is_err() || (self.chained.load(Ordering::Relaxed) && self.send(Instant::now()).is_err()) {
            self.failed.store(true, Ordering::Relaxed);
        }
    }
}

impl Deliveries {
    fn send(&self, meant: Instant) -> Result<()> {
        // After the end there is no producer, and nothing more to send.
        let Some(producer) = self.producer.get().and_then(Weak::upgrade) else { return Ok(()) };
        let record: BaseRecord<'_, (), [u8], Box<Instant>> =
            BaseRecord::with_opaque_to(&self.topic, Box::new(meant)).payload(&self.payload);
        producer.send(record).map_err(|(error, _)| error.into())
    }
}

/// Publishes from this process.
pub fn publish(brokers: &str, topic: &str, load: &Load) -> Result<Published> {
    let context = Deliveries {
        topic: topic.to_owned(),
        payload: vec![b'x'; load.bytes],
        chained: AtomicBool::new(false),
        watch: Mutex::new(Stopwatch::new(load, vec![std::process::id()])),
        failed: AtomicBool::new(false),
        producer: OnceLock::new(),
    };
    let producer = Arc::new(settings(brokers).create_with_context::<_, ThreadedProducer<_>>(context)?);
    let context = producer.context();
    context.producer.get_or_init(|| Arc::downgrade(&producer));
    // What is done once, at the first message, is not what is measured.
    context.send(Instant::now())?;
    producer.flush(PATIENCE)?;
    *context.watch.lock().expect("not poisoned") = Stopwatch::new(load, vec![std::process::id()]);
    context.chained.store(load.rate.is_none(), Ordering::Relaxed);
    let (begun, mut sent) = (Instant::now(), 0);
    if load.rate.is_none() {
        (0..load.in_flight).try_for_each(|_| context.send(Instant::now()))?;
    }
    loop {
        match load.interval() {
            None => std::thread::sleep(LOOK),
            Some(interval) => {
                sent += 1;
                let meant = begun + interval.mul_f64(f64::from(sent));
                std::thread::sleep(meant.saturating_duration_since(Instant::now()));
                context.send(meant)?;
            }
        }
        ensure!(!context.failed.load(Ordering::Relaxed), "a delivery failed");
        if let Some(result) = context.watch.lock().expect("not poisoned").look()? {
            return Ok(result);
        }
    }
}
