//! A message as the data plane carries it, whatever broker it came from or goes to.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use sha2::{Digest, Sha256};

/// Header that carries the content type in brokers that have no field for it.
pub const CONTENT_TYPE: &str = "content-type";

/// A list of headers: order and duplicates are kept.
pub type Headers = Vec<(Arc<str>, Bytes)>;

/// A message read from a broker, at its place in the log.
#[derive(Clone, Debug)]
pub struct Record {
    /// Partition of the address; brokers without partitions have one, 0.
    pub partition: u32,
    /// Offset in the partition.
    pub offset: i64,
    /// Event time in milliseconds since 1970, if the broker gives one.
    pub timestamp: Option<i64>,
    /// Key.
    pub key: Option<Bytes>,
    /// Headers, the content type among them.
    pub headers: Headers,
    /// Payload; `None` is a tombstone.
    pub payload: Option<Bytes>,
}

impl Record {
    /// The message's own content type.
    pub fn content_type(&self) -> Option<&str> {
        content_type(&self.headers)
    }

    /// Bytes that count towards budgets: payload, key, headers and a flat share for the rest.
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 40).sum();
        self.payload.as_ref().map_or(0, Bytes::len) + self.key.as_ref().map_or(0, Bytes::len) + headers + 120
    }
}

/// A message on its way to a broker.
#[derive(Clone, Debug, Default)]
pub struct Outgoing {
    /// Key.
    pub key: Option<Bytes>,
    /// Headers, the content type among them.
    pub headers: Headers,
    /// Payload; `None` is a tombstone.
    pub payload: Option<Bytes>,
}

impl Outgoing {
    /// The message's own content type.
    pub fn content_type(&self) -> Option<&str> {
        content_type(&self.headers)
    }
}

fn content_type(headers: &Headers) -> Option<&str> {
    let (_, value) = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(CONTENT_TYPE))?;
    std::str::from_utf8(value).ok()
}

/// Where a broker put a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Partition.
    pub partition: u32,
    /// Offset.
    pub offset: i64,
}

/// One life of an address at its broker: a topic that is deleted and created again under its name
/// is another incarnation. Message ids and cursors are bound to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incarnation {
    digest: [u8; 8],
}

impl Incarnation {
    /// The incarnation of `address` that the broker tells apart by `id` (a Kafka topic id, the
    /// epoch of a ring in memory).
    pub fn new(address: &str, id: &[u8]) -> Self {
        let hash = Sha256::new_with_prefix(address.as_bytes()).chain_update([0]).chain_update(id).finalize();
        let mut digest = [0; 8];
        digest.copy_from_slice(&hash[..8]);
        Self { digest }
    }

    /// What a cursor is bound to.
    pub const fn digest(&self) -> [u8; 8] {
        self.digest
    }

    /// The id of the message at `position`: the same on every replica, restart and transport.
    pub fn message_id(&self, position: Position) -> String {
        let mut id = URL_SAFE_NO_PAD.encode(&self.digest[..6]);
        id.push('.');
        id.push_str(&position.partition.to_string());
        id.push('.');
        id.push_str(&position.offset.to_string());
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_by_incarnation_and_position() {
        let first = Incarnation::new("orders", b"one");
        let second = Incarnation::new("orders", b"two");
        let at = Position { partition: 3, offset: 42 };
        assert_eq!(first.message_id(at), Incarnation::new("orders", b"one").message_id(at));
        assert_ne!(first.message_id(at), second.message_id(at));
        assert_ne!(first.message_id(at), first.message_id(Position { partition: 4, offset: 42 }));
        assert!(first.message_id(at).ends_with(".3.42"));
    }
}
