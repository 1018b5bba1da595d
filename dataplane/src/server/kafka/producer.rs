//! The producers of one client: one per distinct publish timeout, made when first needed, replaced
//! when librdkafka gives one up, ended when unused.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::bindings as ffi;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext, PurgeConfig};
use tokio::sync::{mpsc, oneshot};

use super::health::Health;
use super::outcome::{self, SOON};
use super::settings::Settings;
use crate::message::{Outgoing, Position};
use crate::server::PublishError;

/// A producer that published nothing for this long is ended.
const UNUSED: Duration = Duration::from_secs(300);
/// Between two producers of one timeout, should one fail right after the other, and if that was
/// for want of a permission.
const RENEW: Duration = Duration::from_millis(500);
const RENEW_DENIED: Duration = Duration::from_secs(5);
/// How long the thread waits for reports before it looks whether it is to end. rdkafka spins for
/// the last millisecond of the wait, so a short one would cost an idle client dear.
const REPORTS: Duration = Duration::from_millis(500);
/// Reports passed on at once.
const ANSWERS: usize = 256;

/// What was published and what became of it, since the client exists.
#[derive(Debug, Default)]
pub struct Deliveries {
    /// Acknowledged by the broker.
    pub acknowledged: AtomicU64,
    /// Surely not written.
    pub not_written: AtomicU64,
    /// Unknown.
    pub unknown: AtomicU64,
    /// Handed to librdkafka, and without a report yet.
    pub in_flight: AtomicU64,
}

/// Whether librdkafka takes the producer's settings, which is otherwise known at the first publish
/// only. Connects to nothing.
pub fn check(settings: &Settings) -> Result<(), String> {
    let mut config = settings.producer(Duration::from_secs(10));
    config.remove("bootstrap.servers");
    let producer: BaseProducer<Silent> =
        config.create_with_context(Silent).map_err(|error| error.to_string())?;
    let thread = std::thread::Builder::new().name("kafka-check".into());
    thread.spawn(move || drop(producer)).map(drop).map_err(|error| error.to_string())
}

/// The producers of one client.
pub struct Producers {
    settings: Settings,
    health: Arc<Health>,
    deliveries: Arc<Deliveries>,
    closed: AtomicBool,
    running: Mutex<HashMap<Duration, Running>>,
}

struct Running {
    producer: Producer,
    made: Instant,
    used: Instant,
}

/// A message's report: where it went, or why it did not.
type Report = Result<Position, PublishError>;

impl Producers {
    /// None run at first.
    pub fn new(settings: Settings, health: Arc<Health>) -> Self {
        let (deliveries, closed, running) = (Arc::default(), AtomicBool::new(false), Mutex::default());
        Self { settings, health, deliveries, closed, running }
    }

    /// Makes the producer for `timeout`.
    pub fn prepare(&self, timeout: Duration) -> Result<(), PublishError> {
        self.producer(timeout).map(drop)
    }

    /// Hands a message to librdkafka; the report comes within `timeout` and a little.
    pub fn send(
        &self,
        topic: &str,
        message: &Outgoing,
        timeout: Duration,
    ) -> Result<oneshot::Receiver<Report>, PublishError> {
        let producer = self.producer(timeout)?;
        producer.send(topic, message).or_else(|error| match error {
            // Given up between the check and the send: the next one is made right away.
            Code::Fatal => self.producer(timeout)?.send(topic, message).map_err(|code| {
                let status = ffi::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED;
                outcome::failure(topic, code, status, timeout)
            }),
            code => {
                let status = ffi::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED;
                Err(outcome::failure(topic, code, status, timeout))
            }
        })
    }

    /// Counters of everything published.
    #[cfg(test)]
    pub fn deliveries(&self) -> &Deliveries {
        &self.deliveries
    }

    /// Ends producers that are of no use any more.
    pub fn tidy(&self) {
        let mut running = self.running.lock();
        running.retain(|_, entry| {
            let idle = entry.used.elapsed() >= UNUSED && entry.producer.in_flight() == 0;
            !idle
        });
    }

    /// Nothing more is taken. Waits until everything was reported, `within` at most; then what is
    /// left is given up, and reported as that.
    pub async fn close(&self, within: Duration) {
        self.closed.store(true, Ordering::Release);
        let running: Vec<Producer> = self.running.lock().drain().map(|(_, entry)| entry.producer).collect();
        let deadline = tokio::time::Instant::now() + within;
        for producer in &running {
            producer.flush();
        }
        while self.deliveries.in_flight.load(Ordering::Acquire) > 0 && tokio::time::Instant::now() < deadline
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn producer(&self, timeout: Duration) -> Result<Producer, PublishError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(outcome::not_written("the connection to the broker is being closed", SOON));
        }
        let now = Instant::now();
        let mut running = self.running.lock();
        if let Some(entry) = running.get_mut(&timeout) {
            if !entry.producer.given_up() {
                entry.used = now;
                return Ok(entry.producer.clone());
            }
            if let Some(error) = entry.producer.refusal(entry.made.elapsed()) {
                return Err(error);
            }
        }
        let producer = Producer::start(&self.settings, timeout, self.health.clone(), self.deliveries.clone())
            .map_err(|error| {
                tracing::error!(brokers = self.settings.brokers(), "no producer: {error}");
                outcome::not_written(format!("cannot publish to the broker: {error}"), SOON)
            })?;
        let entry = Running { producer: producer.clone(), made: now, used: now };
        running.insert(timeout, entry);
        Ok(producer)
    }
}

/// One producer and the thread that takes its reports.
#[derive(Clone)]
struct Producer(Arc<Shared>);

struct Shared {
    native: Arc<BaseProducer<Context>>,
    state: Arc<ProducerState>,
    deliveries: Arc<Deliveries>,
}

#[derive(Default)]
struct ProducerState {
    /// Nobody uses it any more.
    ended: AtomicBool,
    /// librdkafka gave it up.
    given_up: AtomicBool,
    why: Mutex<Option<Code>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Release);
    }
}

impl Producer {
    fn start(
        settings: &Settings,
        timeout: Duration,
        health: Arc<Health>,
        deliveries: Arc<Deliveries>,
    ) -> Result<Self, String> {
        let state = Arc::<ProducerState>::default();
        let (answers, answered) = mpsc::unbounded_channel();
        tokio::spawn(answer(answered));
        let context =
            Context { health, timeout, state: state.clone(), deliveries: deliveries.clone(), answers };
        let native = BaseProducer::from_config_and_context(&settings.producer(timeout), context)
            .map_err(|error| error.to_string())?;
        let native = Arc::new(native);
        let thread = std::thread::Builder::new().name("kafka-reports".into());
        let (reports, watched) = (native.clone(), state.clone());
        thread.spawn(move || take_reports(reports, &watched)).map_err(|error| error.to_string())?;
        Ok(Self(Arc::new(Shared { native, state, deliveries })))
    }

    fn send(&self, topic: &str, message: &Outgoing) -> Result<oneshot::Receiver<Report>, Code> {
        let (reply, report) = oneshot::channel();
        let mut record = BaseRecord::with_opaque_to(topic, Box::new(reply));
        record.payload = message.payload.as_deref();
        record.key = message.key.as_deref();
        if !message.headers.is_empty() {
            let headers = OwnedHeaders::new_with_capacity(message.headers.len());
            record.headers = Some(message.headers.iter().fold(headers, |headers, (name, value)| {
                headers.insert(Header { key: name, value: Some(value.as_ref()) })
            }));
        }
        self.0.deliveries.in_flight.fetch_add(1, Ordering::AcqRel);
        self.0.native.send(record).map(|()| report).map_err(|(error, _)| {
            self.0.deliveries.in_flight.fetch_sub(1, Ordering::AcqRel);
            self.0.deliveries.not_written.fetch_add(1, Ordering::Relaxed);
            let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
            if self.0.native.client().fatal_error().is_some() {
                self.0.state.given_up.store(true, Ordering::Release);
                return Code::Fatal;
            }
            code
        })
    }

    /// Sends what lingers.
    fn flush(&self) {
        // SAFETY: the client is live. A flush without time to wait only ends the lingering.
        unsafe { ffi::rd_kafka_flush(self.0.native.client().native_ptr(), 0) };
    }

    fn in_flight(&self) -> i32 {
        self.0.native.in_flight_count()
    }

    fn given_up(&self) -> bool {
        self.0.state.given_up.load(Ordering::Acquire)
    }

    /// Why nothing is taken so soon after this producer, which was given up, was made.
    fn refusal(&self, age: Duration) -> Option<PublishError> {
        let denied = *self.0.state.why.lock() == Some(Code::ClusterAuthorizationFailed);
        if denied && age < RENEW_DENIED {
            let status = ffi::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED;
            return Some(outcome::failure("", Code::ClusterAuthorizationFailed, status, age));
        }
        let renewing = || outcome::not_written("the connection to the broker is being renewed", SOON);
        (age < RENEW).then(renewing)
    }
}

/// A report, and who waits for it.
type Answer = (Box<oneshot::Sender<Report>>, Report);

/// Tells who published. Reports come in batches from a thread of librdkafka's: one wake-up across
/// threads covers a batch, and the many who wait are woken within the runtime, which is cheap.
async fn answer(mut answered: mpsc::UnboundedReceiver<Answer>) {
    let mut batch = Vec::with_capacity(ANSWERS);
    while answered.recv_many(&mut batch, ANSWERS).await > 0 {
        for (reply, report) in batch.drain(..) {
            // Whoever published may be gone; the message was delivered all the same, and counted.
            let _ = reply.send(report);
        }
    }
}

/// Takes reports until nobody uses the producer any more, and is the last to let go of it: that
/// waits for librdkafka's threads.
fn take_reports(native: Arc<BaseProducer<Context>>, state: &ProducerState) {
    loop {
        native.poll(REPORTS);
        if !state.given_up.load(Ordering::Acquire)
            && let Some((code, reason)) = native.client().fatal_error()
        {
            let reason = native.context().health.scrubbed(&reason);
            tracing::warn!(?code, "librdkafka gave up a producer: {reason}");
            *state.why.lock() = Some(code);
            state.given_up.store(true, Ordering::Release);
            native.purge(PurgeConfig::default().queue().inflight());
        }
        if state.ended.load(Ordering::Acquire) && Arc::strong_count(&native) == 1 {
            return;
        }
    }
}

/// The context of a producer that never connects.
struct Silent;

impl ClientContext for Silent {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}
    fn error(&self, _: KafkaError, _: &str) {}
}

impl ProducerContext for Silent {
    type DeliveryOpaque = ();
    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

struct Context {
    health: Arc<Health>,
    timeout: Duration,
    state: Arc<ProducerState>,
    deliveries: Arc<Deliveries>,
    /// Bounded by the publishes that wait: each has one answer.
    answers: mpsc::UnboundedSender<Answer>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.health.log(level as i32, facility, text);
    }

    // The consumer of the same client sees the same broker and keeps the status.
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{}", self.health.scrubbed(reason));
        // Comes before the reports of what is given up for it.
        if error.rdkafka_error_code() == Some(Code::ClusterAuthorizationFailed) {
            *self.state.why.lock() = Some(Code::ClusterAuthorizationFailed);
        }
        self.health.look_again();
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<oneshot::Sender<Report>>;

    fn delivery(&self, result: &DeliveryResult<'_>, reply: Self::DeliveryOpaque) {
        let report = match result {
            Ok(message) => self.delivered(message),
            Err((error, message)) => Err(self.failed(error, message)),
        };
        let counter = match &report {
            Ok(_) => &self.deliveries.acknowledged,
            Err(PublishError::Unknown { .. }) => &self.deliveries.unknown,
            Err(PublishError::NotWritten { .. } | PublishError::TooLarge) => &self.deliveries.not_written,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.deliveries.in_flight.fetch_sub(1, Ordering::AcqRel);
        // Without the runtime nobody is left to be answered.
        let _ = self.answers.send((reply, report));
    }
}

impl Context {
    fn delivered(&self, message: &BorrowedMessage<'_>) -> Report {
        self.health.writable(message.topic());
        let (partition, offset) = (message.partition() as u32, message.offset());
        // A retry met its own first attempt, which the broker has and no longer can place.
        let unplaced =
            || PublishError::Unknown { reason: "the broker has the message, but did not say where".into() };
        if offset < 0 { Err(unplaced()) } else { Ok(Position { partition, offset }) }
    }

    fn failed(&self, error: &KafkaError, message: &BorrowedMessage<'_>) -> PublishError {
        // SAFETY: the message is live while it is reported.
        let status = unsafe { ffi::rd_kafka_message_status(message.ptr()) };
        // What is purged with a producer that was given up fails for the same reason.
        let given_up = *self.state.why.lock();
        let code = given_up.or(error.rdkafka_error_code()).unwrap_or(Code::Fail);
        let failure = outcome::failure(message.topic(), code, status, self.timeout);
        if outcome::is_denied(code) {
            self.health.unwritable(message.topic(), &failure.to_string());
        }
        failure
    }
}

#[cfg(test)]
mod tests;
