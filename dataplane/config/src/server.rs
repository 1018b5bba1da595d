//! Servers: one broker or backend connection of an API each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::kafka::Kafka;

/// One broker or backend connection of an API. Exactly one kind is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// Name of the server, referred to by `channels[].server`.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// What is at the other end.
    #[serde(flatten)]
    pub kind: ServerKind,
}

/// The kinds of server. The key names the kind, its value the settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ServerKind {
    /// Apache Kafka, or a broker that speaks its protocol (Redpanda).
    Kafka(Kafka),
    /// A log in the memory of each data-plane process: for trying things out and for tests.
    /// Nothing survives the process and replicas do not share it.
    Memory(Memory),
    /// Synthetic events: a sandbox and demo source that needs no broker.
    Generator(Generator),
}

impl ServerKind {
    /// The key that selects this kind.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "kafka",
            Self::Memory(_) => "memory",
            Self::Generator(_) => "generator",
        }
    }
}

/// Settings of a `memory` server. There are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Memory {}

/// Settings of a `generator` server: synthetic orders as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Generator {
    /// Events per second on each channel.
    #[schemars(range(min = 1, max = 10_000))]
    pub messages_per_second: u32,
    /// Seed of the pseudo-random content: the same seed gives the same orders.
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub seed: u64,
}

impl Default for Generator {
    fn default() -> Self {
        Self { messages_per_second: 5, seed: 1 }
    }
}

/// A Secret of the StreamAPI's namespace that carries the label `sluice.dev/use: "true"`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
}
