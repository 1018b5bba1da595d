//! The Kafka server: where it is, how to log in, and which client settings may be passed.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::server::SecretRef;

/// Settings of a `kafka` server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Kafka {
    /// Bootstrap brokers, each `host:port`.
    #[schemars(
        length(min = 1, max = 32),
        inner(length(min = 3, max = 259), regex(pattern = r"^[A-Za-z0-9.\-_\[\]:]+:[0-9]{1,5}$"))
    )]
    pub brokers: Vec<String>,
    /// Encrypts the connection. Without it the connection is plaintext.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Logs in with SASL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
    /// Client settings by their librdkafka names, passed to the consumer and the producer they
    /// apply to. Only names on the allow list of the reference page are taken; what carries
    /// secrets, runs programs or loads plug-ins is refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub properties: BTreeMap<String, PropertyValue>,
}

/// TLS to the brokers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// A Secret with `ca.crt` (PEM; without it the system's roots are trusted) and, for client
    /// certificates, `tls.crt` and `tls.key` (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
}

/// SASL login. The Secret holds the keys `username` and `password`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sasl {
    /// The SASL mechanism. `PLAIN` sends the password as it is and so requires `tls`, unless the
    /// broker is on a loopback address.
    pub mechanism: Mechanism,
    /// A Secret with the keys `username` and `password`.
    pub secret_ref: SecretRef,
}

/// SASL mechanisms (RFC 4616, RFC 5802, RFC 7677).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mechanism {
    /// RFC 4616.
    #[serde(rename = "PLAIN")]
    Plain,
    /// RFC 7677.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// RFC 5802 with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl Mechanism {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// Value of a client setting, at most 256 characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct PropertyValue(#[schemars(length(max = 256))] pub String);

/// Which client a setting applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// Consumer only.
    Consumer,
    /// Producer only.
    Producer,
    /// Both.
    Both,
}

/// The client settings that `properties` may carry. What Sluice's guarantees rest on (`acks`,
/// `enable.idempotence`, commits, group membership, topic creation), what carries credentials,
/// and what runs programs or loads code is not among them.
pub const ALLOWED_PROPERTIES: &[(&str, Applies)] = &[
    ("batch.num.messages", Applies::Producer),
    ("batch.size", Applies::Producer),
    ("broker.address.family", Applies::Both),
    ("broker.address.ttl", Applies::Both),
    ("check.crcs", Applies::Consumer),
    ("client.dns.lookup", Applies::Both),
    ("client.id", Applies::Both),
    ("client.rack", Applies::Consumer),
    ("compression.codec", Applies::Producer),
    ("compression.level", Applies::Producer),
    ("compression.type", Applies::Producer),
    ("connections.max.idle.ms", Applies::Both),
    ("fetch.error.backoff.ms", Applies::Consumer),
    ("fetch.max.bytes", Applies::Consumer),
    ("fetch.message.max.bytes", Applies::Consumer),
    ("fetch.min.bytes", Applies::Consumer),
    ("fetch.wait.max.ms", Applies::Consumer),
    ("isolation.level", Applies::Consumer),
    ("linger.ms", Applies::Producer),
    ("max.in.flight", Applies::Producer),
    ("max.in.flight.requests.per.connection", Applies::Producer),
    ("max.partition.fetch.bytes", Applies::Consumer),
    ("message.max.bytes", Applies::Both),
    ("metadata.max.age.ms", Applies::Both),
    ("partitioner", Applies::Producer),
    ("queue.buffering.backpressure.threshold", Applies::Producer),
    ("queue.buffering.max.kbytes", Applies::Producer),
    ("queue.buffering.max.messages", Applies::Producer),
    ("queue.buffering.max.ms", Applies::Producer),
    ("queued.max.messages.kbytes", Applies::Consumer),
    ("queued.min.messages", Applies::Consumer),
    ("receive.message.max.bytes", Applies::Both),
    ("reconnect.backoff.max.ms", Applies::Both),
    ("reconnect.backoff.ms", Applies::Both),
    ("request.timeout.ms", Applies::Producer),
    ("retry.backoff.max.ms", Applies::Producer),
    ("retry.backoff.ms", Applies::Both),
    ("socket.connection.setup.timeout.ms", Applies::Both),
    ("socket.keepalive.enable", Applies::Both),
    ("socket.nagle.disable", Applies::Both),
    ("socket.receive.buffer.bytes", Applies::Both),
    ("socket.send.buffer.bytes", Applies::Both),
    ("socket.timeout.ms", Applies::Both),
    ("sticky.partitioning.linger.ms", Applies::Producer),
    ("topic.metadata.refresh.fast.interval.ms", Applies::Both),
    ("topic.metadata.refresh.interval.ms", Applies::Both),
    ("topic.metadata.refresh.sparse", Applies::Both),
];

/// Which client the setting `name` applies to, if it is on the allow list.
pub fn property(name: &str) -> Option<Applies> {
    ALLOWED_PROPERTIES.iter().find(|(allowed, _)| *allowed == name).map(|(_, applies)| *applies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dangerous_properties_are_not_allowed() {
        for name in [
            "sasl.kerberos.kinit.cmd",
            "plugin.library.paths",
            "sasl.password",
            "ssl.key.pem",
            "ssl.providers",
            "ssl.engine.location",
            "acks",
            "enable.idempotence",
            "group.id",
            "allow.auto.create.topics",
            "bootstrap.servers",
            "log_cb",
        ] {
            assert_eq!(property(name), None, "{name}");
        }
        assert_eq!(property("linger.ms"), Some(Applies::Producer));
    }

    #[test]
    fn the_allow_list_is_sorted_and_unique() {
        assert!(ALLOWED_PROPERTIES.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
