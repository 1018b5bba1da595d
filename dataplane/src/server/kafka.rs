//! Kafka: one client per distinct configuration. It reads topics into inlets without a consumer
//! group, publishes with an idempotent producer, and keeps the server's status.
//!
//! `settings` (what it is configured with) → `native`, `event`, `answer` (librdkafka's consumer,
//! what comes out of it, its admin requests) → `poller`, `route` (the thread that reads) → `lookup`
//! (asking it) → `reading`, `window` (where a reading starts) → `keeper`, `topics`, `health` (what
//! became of broker and topics) → `producer`, `outcome` (publishing).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::runtime::Handle as Runtime;
use tokio::task::AbortHandle;

use crate::message::{Incarnation, Outgoing, Position};
use crate::server::{Inlet, PublishError, Status};

mod answer;
mod event;
mod health;
mod keeper;
mod lookup;
mod native;
mod outcome;
mod poller;
mod producer;
mod reading;
mod route;
mod settings;
mod topics;
mod window;

pub use settings::Settings;

use health::Health;
use keeper::Keeper;
use lookup::{Command, Lookup, Ties};
use poller::{Ends, Poller};
use producer::Producers;
use reading::Reader;
use topics::{Topics, Unusable};

/// A client of one Kafka, shared by everybody whose [`Settings`] are equal.
pub struct Client {
    runtime: Runtime,
    lookup: Lookup,
    health: Arc<Health>,
    topics: Arc<Topics>,
    producers: Arc<Producers>,
    keeper: AbortHandle,
    readers: AtomicU64,
    waiting: Arc<AtomicUsize>,
}

impl Client {
    /// Connects, for metadata only, and keeps `status` from then on. Comes back at once; that the
    /// broker is away is no error, settings that librdkafka refuses are. Needs a tokio runtime.
    pub fn connect(settings: Settings, status: Arc<Status>) -> Result<Arc<Self>, String> {
        producer::check(&settings)?;
        let handle = native::Handle::new(&settings.consumer(), settings.isolation())?;
        let (commands, obeyed) = mpsc::channel();
        let (troubles, troubled) = tokio::sync::mpsc::unbounded_channel();
        let lookup = Lookup::new(commands, handle.waker());
        let health = Arc::new(Health::new(settings.clone(), status));
        let topics = Arc::new(Topics::new(lookup.clone(), health.clone()));
        let producers = Arc::new(Producers::new(settings, health.clone()));
        let waiting = Arc::<AtomicUsize>::default();

        let ends = Ends { health: health.clone(), troubles, waiting: waiting.clone() };
        let poller = Poller::new(handle, obeyed, ends);
        let thread = std::thread::Builder::new().name("kafka-read".into());
        let watched = health.clone();
        let poll = move || {
            // What is pushed into could panic; that nothing is read any more must not go unseen.
            if catch_unwind(AssertUnwindSafe(|| poller.run())).is_err() {
                watched.broken();
            }
        };
        thread.spawn(poll).map_err(|error| error.to_string())?;

        let runtime = Runtime::current();
        let tidied = producers.clone();
        let keeper = Keeper {
            lookup: lookup.clone(),
            health: health.clone(),
            topics: topics.clone(),
            tidy: Box::new(move || tidied.tidy()),
        };
        let keeper = runtime.spawn(keeper.run(troubled)).abort_handle();
        let readers = AtomicU64::new(0);
        Ok(Arc::new(Self { runtime, lookup, health, topics, producers, keeper, readers, waiting }))
    }

    /// A channel uses `topic`: if it is missing or not allowed, the status says so. Counted.
    pub fn watch_topic(&self, topic: &str) {
        self.topics.watch(topic);
    }

    /// A channel no longer uses `topic`.
    pub fn unwatch_topic(&self, topic: &str) {
        self.topics.unwatch(topic);
    }

    /// Reads `topic` into `inlet` until the [`Reading`] is dropped: the replay window first, or
    /// from where the inlet's feed stands, then on. Waits for broker and topic as long as it takes.
    pub fn read(self: &Arc<Self>, topic: &str, inlet: Inlet) -> Reading {
        self.topics.watch(topic);
        let number = self.readers.fetch_add(1, Ordering::Relaxed);
        let ties = Arc::<Ties>::default();
        let reader = Reader {
            lookup: self.lookup.clone(),
            topic: topic.to_owned(),
            number,
            inlet,
            ties: ties.clone(),
        };
        let task = self.runtime.spawn(reader.run()).abort_handle();
        Reading { client: self.clone(), topic: topic.to_owned(), number, ties, task }
    }

    /// Connects the producer for publishes with `timeout` now, so that the first one need not wait
    /// for that.
    pub fn prepare(&self, timeout: Duration) {
        // What is wrong is told to who publishes.
        let _ = self.producers.prepare(timeout);
    }

    /// Queues `message` for the broker. Messages that are queued one after the other reach a
    /// partition in that order.
    pub async fn enqueue(
        &self,
        topic: &str,
        message: Outgoing,
        timeout: Duration,
    ) -> Result<Pending, PublishError> {
        let incarnation = match self.topics.incarnation(topic, timeout / 2).await {
            Ok(incarnation) => incarnation,
            Err(Unusable::Refused(reason)) => return Err(outcome::unusable(reason)),
            Err(Unusable::Silent(fault)) => {
                return Err(outcome::unreachable(self.health.down().map_or(fault.reason, str::to_owned)));
            }
        };
        let report = self.producers.send(topic, &message, timeout)?;
        Ok(Pending { incarnation, report })
    }

    /// Takes no more messages, and waits until all were reported, `within` at most.
    pub async fn close(&self, within: Duration) {
        self.producers.close(within).await;
    }

    /// Fetched events that wait in librdkafka's queue, as of the last look.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// A message on its way to the broker. If this is dropped the message may still be written, and is
/// counted.
#[must_use = "a message is published only once it is acknowledged"]
pub struct Pending {
    incarnation: Incarnation,
    report: tokio::sync::oneshot::Receiver<Result<Position, PublishError>>,
}

impl Pending {
    /// Resolves to the broker's acknowledgement, by all in-sync replicas.
    pub async fn acknowledged(self) -> Result<(Incarnation, Position), PublishError> {
        // librdkafka reports every message within the producer's timeout, whatever happens.
        let lost = |_| PublishError::Unknown { reason: "the connection to the broker was closed".into() };
        let position = self.report.await.map_err(lost)??;
        Ok((self.incarnation, position))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.keeper.abort();
        // The polling thread frees the consumer, the report threads their producers.
        self.lookup.send(Command::Stop);
    }
}

/// A topic being read; dropping it ends that.
#[must_use = "dropping a reading ends it"]
pub struct Reading {
    client: Arc<Client>,
    topic: String,
    number: u64,
    ties: Arc<Ties>,
    task: AbortHandle,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.task.abort();
        // The task may be about to join on another thread; whichever comes first, it is gone after.
        self.ties.dropped.store(true, Ordering::Release);
        let (topic, reader) = (self.topic.clone(), self.number);
        self.client.lookup.send(Command::Leave { topic, reader });
        self.client.topics.unwatch(&self.topic);
    }
}
