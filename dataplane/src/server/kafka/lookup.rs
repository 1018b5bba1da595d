//! Asking the broker from async code: requests go to the polling thread, answers come back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::{Notify, oneshot};

use super::answer::{Description, Fault, TopicState};
use super::native::Waker;
use crate::server::{Inlet, Opening};

/// What the polling thread is told. The channel is unbounded, for `Drop` must not wait; what is in
/// it is bounded by readings (a join, a leave and one lookup each) and by publishes under way.
pub enum Command {
    /// Describe topics; without any, only see whether the broker answers.
    Describe {
        /// Names.
        topics: Vec<String>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Vec<Description>, Fault>>,
    },
    /// Look up offsets of a topic.
    Offsets {
        /// Name.
        topic: String,
        /// Partitions, each with a time or spec.
        wanted: Vec<(u32, i64)>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Vec<(u32, i64)>, Fault>>,
    },
    /// A reader is ready to start.
    Join(Box<Join>),
    /// A reader goes.
    Leave {
        /// Its topic.
        topic: String,
        /// Its number.
        reader: u64,
    },
    /// A partition that could not be read on can be.
    Mend {
        /// Topic.
        topic: String,
        /// The life of the topic that was looked at.
        id: [u8; 16],
        /// Partition.
        partition: u32,
        /// How.
        mend: Mend,
    },
    /// The client goes.
    Stop,
}

/// A reader that knows where to start.
pub struct Join {
    /// Topic.
    pub topic: String,
    /// What was described.
    pub state: TopicState,
    /// Number of the reader.
    pub reader: u64,
    /// Where records go.
    pub inlet: Inlet,
    /// Where it starts.
    pub opening: Opening,
    /// Opened before `opening`, so that everything held is dropped and told, although the
    /// incarnation is the same.
    pub wipe: Option<Opening>,
    /// The reader's ties to its task.
    pub ties: Arc<Ties>,
}

/// What a reader's task and the polling thread tell each other.
#[derive(Default)]
pub struct Ties {
    /// The reading was dropped.
    pub dropped: AtomicBool,
    /// The log went back behind what was read of it; see [`Mend::Rewound`].
    pub rewound: AtomicBool,
    /// The reader was let go of and has to start again.
    pub restart: Notify,
}

/// How a partition that could not be read on goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mend {
    /// Where it was.
    Resume(i64),
    /// At the oldest offset that the broker still has.
    Truncated(i64),
    /// The log ends below what was read of it (unclean leader election): the same offsets will
    /// carry other records, so whatever was read is void.
    Rewound,
}

/// A partition that cannot be read on.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// Topic.
    pub topic: String,
    /// The life of the topic that was being read.
    pub id: [u8; 16],
    /// Partition.
    pub partition: u32,
    /// Where it was being read.
    pub position: i64,
}

/// Asks the polling thread.
#[derive(Clone)]
pub struct Lookup {
    commands: mpsc::Sender<Command>,
    waker: Waker,
}

impl Lookup {
    /// Commands go into `commands`, and `waker` makes the thread look.
    pub const fn new(commands: mpsc::Sender<Command>, waker: Waker) -> Self {
        Self { commands, waker }
    }

    /// Hands over a command; nothing happens once the thread is gone.
    pub fn send(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            self.waker.wake();
        }
    }

    /// Describes `topics`; without any, only sees whether the broker answers.
    pub async fn describe(&self, topics: Vec<String>) -> Result<Vec<Description>, Fault> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Describe { topics, reply });
        answer.await.unwrap_or_else(|_| Err(Fault::of(RDKafkaErrorCode::BrokerDestroy)))
    }

    /// Describes one topic.
    pub async fn describe_one(&self, topic: &str) -> Result<TopicState, Fault> {
        let found = self.describe(vec![topic.to_owned()]).await?;
        match found.into_iter().find(|description| description.name == topic) {
            Some(description) => description.state.map_err(Fault::of),
            None => Err(Fault::of(RDKafkaErrorCode::UnknownTopic)),
        }
    }

    /// Looks up offsets of `partitions`, all by the same time or spec.
    pub async fn offsets(
        &self,
        topic: &str,
        partitions: impl Iterator<Item = u32>,
        spec: i64,
    ) -> Result<Vec<(u32, i64)>, Fault> {
        let (reply, answer) = oneshot::channel();
        let wanted = partitions.map(|partition| (partition, spec)).collect();
        self.send(Command::Offsets { topic: topic.to_owned(), wanted, reply });
        answer.await.unwrap_or_else(|_| Err(Fault::of(RDKafkaErrorCode::BrokerDestroy)))
    }
}

impl Ties {
    /// Lets the reader's task start again.
    pub fn start_again(&self, rewound: bool) {
        if rewound {
            self.rewound.store(true, Ordering::Relaxed);
        }
        self.restart.notify_one();
    }
}
