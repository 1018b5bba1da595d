//! Servers: what every broker offers to the rest of the data plane, and the state it reports.
//!
//! A broker's module reads into an [`Inlet`] and publishes [`Outgoing`] messages; it knows nothing
//! of clients, policies or transports.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sluice_config::channel::Replay;
use sluice_config::server::Generator;

use crate::feed::{Feed, Wait};
use crate::message::{Incarnation, Outgoing, Position, Record};

pub mod generator;
pub mod kafka;
pub mod memory;

/// Where a reader of a broker puts what it reads: one feed.
///
/// # Invariants
/// - [`Inlet::open`] comes before anything else, and again after every interruption that may have
///   changed the address.
/// - Offsets of one partition never step back between two `open`s; what is below the feed's own
///   position is ignored, so reading something twice is harmless.
#[derive(Clone)]
pub struct Inlet(pub(crate) Arc<Feed>, pub(crate) u64);

/// Where a reader starts.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The incarnation that was found.
    pub incarnation: Incarnation,
    /// First offset that will be read, per partition.
    pub starts: Vec<i64>,
    /// End of the log, per partition, when it was looked at: records below are the past and enter
    /// the ring in timestamp order across partitions, once every partition has reached its end.
    pub ends: Vec<i64>,
}

/// What a feed holds already; a reader goes on there instead of filling the window again.
#[derive(Clone, Debug)]
pub struct Resume {
    /// The incarnation that was read.
    pub incarnation: Incarnation,
    /// Next offset, per partition.
    pub positions: Vec<i64>,
}

impl Inlet {
    /// What the feed holds already.
    pub fn resume(&self) -> Option<Resume> {
        self.0.resume()
    }

    /// The replay window to fill.
    pub fn window(&self) -> Replay {
        self.0.window()
    }

    /// Payloads over this many bytes are [`Inlet::skip`]ped.
    pub fn max_message_bytes(&self) -> usize {
        self.0.max_message_bytes()
    }

    /// The reader starts. If the incarnation is another than before, everything held is dropped
    /// and every client is told a gap (`recreated`); if a start lies above what a client needs
    /// next, that client is told a gap (`expired`).
    pub fn open(&self, opening: Opening) {
        self.0.open(self.1, opening);
    }

    /// Takes `records`, each partition's in order, and leaves the vector empty. Blocks while shards
    /// are behind: for threads of a reader's own.
    pub fn push(&self, records: &mut Vec<Record>) {
        self.0.push(self.1, records, Wait::ForShards);
    }

    /// The same without waiting; [`Inlet::relieved`] is for tasks to wait with.
    pub fn push_now(&self, records: &mut Vec<Record>) {
        self.0.push(self.1, records, Wait::Never);
    }

    /// Resolves when shards are no longer behind, within a second at most.
    pub async fn relieved(&self) {
        for _ in 0..1000 {
            if !self.0.is_under_pressure() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Everything of `partition` below `position` was read or does not exist (transaction markers,
    /// compacted records): the end of the partition was reached there.
    pub fn reached(&self, partition: u32, position: i64) {
        self.0.reached(self.1, partition, position);
    }

    /// The address has `partitions` partitions now; the new ones are read from offset 0.
    pub fn grow(&self, partitions: usize) {
        self.0.grow(self.1, partitions);
    }

    /// The record at `position` is over the size limit: it is counted, and clients are told.
    pub fn skip(&self, position: Position) {
        self.0.skip(self.1, position);
    }

    /// So many messages at the broker were not read yet, as far as is known.
    pub fn lag(&self, messages: u64) {
        self.0.set_lag(messages);
    }

    /// The broker no longer holds what lies below `position`; clients that needed it are told.
    pub fn truncated(&self, partition: u32, position: i64) {
        self.0.truncated(self.1, partition, position);
    }
}

/// Why a message was not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Surely not written; trying again later can help.
    #[error("{reason}")]
    NotWritten {
        /// What a client is told.
        reason: String,
        /// When trying again makes sense.
        retry_after: Duration,
    },
    /// The broker may have it.
    #[error("{reason}")]
    Unknown {
        /// What a client is told.
        reason: String,
    },
    /// The broker refuses messages of this size.
    #[error("the broker refuses a message of this size")]
    TooLarge,
}

/// State of one server connection, as `/readyz` and `server_up` show it.
#[derive(Debug)]
pub struct Status(Mutex<State>);

/// What a [`Status`] says.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Whether the broker answers.
    pub up: bool,
    /// Why not, and what is missing (a topic, a permission), in words for the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Default for Status {
    fn default() -> Self {
        Self(Mutex::new(State { up: false, reason: Some("connecting".into()) }))
    }
}

impl Status {
    /// The state now.
    pub fn state(&self) -> State {
        self.0.lock().clone()
    }

    /// Sets the state; `true` if it changed (so that the caller logs it once).
    pub fn set(&self, up: bool, reason: Option<String>) -> bool {
        let mut state = self.0.lock();
        let new = State { up, reason };
        let changed = *state != new;
        *state = new;
        changed
    }
}

/// What a feed reads.
pub enum Source {
    /// A topic.
    Kafka {
        /// The client, shared by everything with the same configuration.
        client: Arc<kafka::Client>,
        /// The topic.
        topic: String,
    },
    /// A log in memory.
    Memory(Arc<memory::Log>),
    /// Synthetic messages.
    Generator {
        /// What is generated.
        settings: Generator,
        /// For whom.
        address: String,
    },
}

/// A source being read; dropping it stops that.
pub type Reading = Box<dyn Any + Send>;

impl Source {
    /// Starts reading into `inlet`.
    pub fn read(&self, inlet: Inlet) -> Reading {
        match self {
            Self::Kafka { client, topic } => Box::new(client.read(topic, inlet)),
            Self::Memory(log) => Box::new(log.read(inlet)),
            Self::Generator { settings, address } => Box::new(generator::read(settings, address, inlet)),
        }
    }

    /// Whether it is read also while nobody listens: its ring is the log.
    pub const fn is_always_on(&self) -> bool {
        matches!(self, Self::Memory(_))
    }
}

/// Where a channel's messages go.
#[derive(Clone)]
pub enum Sink {
    /// A topic.
    Kafka {
        /// The client, shared by everything with the same configuration.
        client: Arc<kafka::Client>,
        /// The topic.
        topic: String,
    },
    /// A log in memory.
    Memory(Arc<memory::Log>),
}

impl Sink {
    /// Queues a message. Messages that are queued one after the other keep their order.
    pub async fn enqueue(&self, message: Outgoing, timeout: Duration) -> Result<Pending, PublishError> {
        match self {
            Self::Kafka { client, topic } => {
                client.enqueue(topic, message, timeout).await.map(Pending::Kafka)
            }
            Self::Memory(log) => {
                let (incarnation, position) = log.publish(message);
                log.relieved().await;
                Ok(Pending::Done(incarnation, position))
            }
        }
    }
}

/// A message on its way.
pub enum Pending {
    /// To a topic.
    Kafka(kafka::Pending),
    /// It is there already.
    Done(Incarnation, Position),
}

impl Pending {
    /// Resolves when the broker has acknowledged, or will not.
    pub async fn acknowledged(self) -> Result<(Incarnation, Position), PublishError> {
        match self {
            Self::Kafka(pending) => pending.acknowledged().await,
            Self::Done(incarnation, position) => Ok((incarnation, position)),
        }
    }
}
