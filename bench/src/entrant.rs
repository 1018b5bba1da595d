//! Who takes part: the floor, Sluice in the ways it can be set up, and the peers; how each is
//! started for a scenario.

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sluice_tests::documents::Channel;
use sluice_tests::kafka::Listener;
use sluice_tests::{Api, Cluster, Documents, certs};
use tokio::runtime::Runtime;

use crate::floor::Floor;
use crate::peer::Kind;
use crate::server::{self, Server};
use crate::system::System;
use crate::wire::Wire;

/// How long a frame of the variant with a bounded wait may be held back.
const MAX_DELAY: &str = "50ms";

/// A system with the way it is set up and fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrant {
    /// The least that brings the bytes to the clients.
    Floor,
    /// Sluice as it is, fed like everybody.
    Sluice,
    /// Sluice that may wait a little and write more at once.
    SluiceFlush,
    /// Sluice fed by Kafka.
    SluiceKafka,
    /// Sluice with TLS towards its clients.
    SluiceTls,
    /// Somebody else's server.
    Peer(Kind),
}

/// How messages get into a system.
#[derive(Debug)]
pub enum Inlet {
    /// By its own publication.
    Http,
    /// Through this topic.
    Kafka {
        /// Where the broker is.
        brokers: String,
        /// Its only partition is written to.
        topic: String,
    },
}

/// A system that runs, and how to feed it.
pub struct Started {
    /// Dropping it stops the system.
    pub system: Box<dyn System>,
    /// How to feed it.
    pub inlet: Inlet,
}

/// What entrants need to start.
pub struct Stage {
    /// The binary under test.
    pub binary: PathBuf,
    cluster: OnceLock<Cluster>,
    runtime: Runtime,
}

impl Stage {
    /// Nothing runs yet.
    pub fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { binary: server::binary()?, cluster: OnceLock::new(), runtime })
    }

    /// The broker, on the load's core; started when it is first needed.
    pub fn cluster(&self) -> &Cluster {
        self.cluster.get_or_init(|| self.runtime.block_on(Cluster::start(1)))
    }

    /// A new topic of one partition.
    pub fn topic(&self, prefix: &str) -> String {
        self.runtime.block_on(self.cluster().topic(prefix, 1))
    }

    /// An API whose one channel is the topic.
    pub fn kafka(&self, topic: &str) -> Documents {
        let server = json!({"kafka": {"brokers": self.cluster().brokers(Listener::Plaintext)}});
        Documents::new().api(Api::new("bench").server("events", server).channel(channel("messages", topic)))
    }
}

impl Entrant {
    /// Everybody who can serve `sse` or WebSocket clients, in the order of tables.
    pub fn all(sse: bool) -> Vec<Self> {
        let peers = Kind::ALL.into_iter().filter(|kind| wire(*kind, sse).is_some()).map(Self::Peer);
        [Self::Floor, Self::Sluice].into_iter().chain(peers).collect()
    }

    /// Its name in tables.
    pub fn name(self) -> String {
        match self {
            Self::Floor => "floor".into(),
            Self::Sluice => "Sluice".into(),
            Self::SluiceFlush => format!("Sluice, maxDelay {MAX_DELAY}"),
            Self::SluiceKafka => "Sluice, fed by Kafka".into(),
            Self::SluiceTls => "Sluice, TLS".into(),
            Self::Peer(kind) => kind.name().into(),
        }
    }

    /// Starts it.
    pub fn start(self, stage: &Stage, sse: bool) -> Result<Started> {
        let ours = if sse { Wire::Sse } else { Wire::WebSocket };
        let mut inlet = Inlet::Http;
        let sluice = |documents: &Documents| Server::start(&stage.binary, documents, ours);
        let system: Box<dyn System> = match self {
            Self::Floor => Box::new(Floor::start(ours)?),
            Self::Sluice => Box::new(sluice(&memory(channel("messages", "messages")))?),
            Self::SluiceFlush => {
                let waits = channel("messages", "messages");
                Box::new(sluice(&memory(waits.set("/subscribe/flush", json!({"maxDelay": MAX_DELAY}))))?)
            }
            Self::SluiceKafka => {
                let topic = stage.topic("fanout");
                let server = sluice(&stage.kafka(&topic))?;
                inlet = Inlet::Kafka { brokers: stage.cluster().bootstrap(), topic };
                Box::new(server)
            }
            Self::SluiceTls => {
                let identity = &certs::bundle().server;
                let documents = memory(channel("messages", "messages"));
                let documents = documents.tls_secret("edge", &identity.certificate, &identity.key);
                Box::new(Server::with_tls(&stage.binary, &documents, ours, "default/edge")?)
            }
            Self::Peer(kind) => Box::new(kind.start(wire(kind, sse).context("it has no such clients")?)?),
        };
        Ok(Started { system, inlet })
    }
}

/// How a peer serves such clients, if it does.
fn wire(kind: Kind, sse: bool) -> Option<Wire> {
    kind.wires().iter().copied().find(|wire| (*wire == Wire::Sse) == sse)
}

/// An API with one channel in memory.
pub fn memory(channel: Channel) -> Documents {
    Documents::new().api(Api::new("bench").memory().channel(channel))
}

/// A channel of text both ways.
pub fn channel(name: &str, address: &str) -> Channel {
    let publish: Value = json!({"transports": {"http": {}}});
    Channel::new(name, address).content_type("text/plain").subscribe().set("/publish", publish)
}
