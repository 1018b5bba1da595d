//! Cursors: where a reader stands in a channel. Authenticated, opaque, bound to the channel and
//! to one incarnation of its address; they grant nothing and are never an identity.
//!
//! Layout before base64url: version (1 byte), key id (4), binding (8), incarnation (8), then the
//! next position of every partition as LEB128 varints, then the first 16 bytes of HMAC-SHA256
//! over all of that.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::config::CursorKey;
use crate::message::Incarnation;

/// Longest cursor in characters; a channel whose cursors would be longer is not resumable.
pub const MAX_CHARS: usize = 2048;
const VERSION: u8 = 1;
const HEAD: usize = 1 + 4 + 8 + 8;
const TAG: usize = 16;

/// Makes and reads the cursors of one channel.
#[derive(Clone)]
pub struct Cursors {
    keys: Vec<(CursorKey, Hmac<Sha256>)>,
    binding: [u8; 8],
}

/// A cursor that is genuine, or that asks for a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// The next position of every partition in the incarnation with this digest.
    At {
        /// [`Incarnation::digest`].
        incarnation: [u8; 8],
        /// Next positions.
        positions: Vec<i64>,
    },
    /// Made by a version or under a key that is not known here.
    Unknown,
}

/// Why a cursor is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Not a cursor, or tampered with.
    #[error("this is not a cursor of this server; leave it out to start at the channel's default")]
    Malformed,
    /// Of another namespace, API or channel.
    #[error("this cursor belongs to another channel; use it where it came from")]
    Foreign,
}

impl Cursors {
    /// Cursors of `channel` under `keys`: the first signs, all are accepted.
    pub fn new(namespace: &str, api: &str, channel: &str, keys: &[CursorKey]) -> Self {
        let hash = Sha256::new()
            .chain_update(namespace)
            .chain_update([0])
            .chain_update(api)
            .chain_update([0])
            .chain_update(channel)
            .finalize();
        let mut binding = [0; 8];
        binding.copy_from_slice(&hash[..8]);
        let keys = keys
            .iter()
            .map(|key| (key.clone(), Hmac::new_from_slice(&key.0).expect("HMAC takes any key length")))
            .collect();
        Self { keys, binding }
    }

    /// The cursor at `positions`, unless there is no key or it would be too long.
    pub fn encode(&self, incarnation: &Incarnation, positions: &[i64]) -> Option<String> {
        let (key, mac) = self.keys.first()?;
        let mut bytes = Vec::with_capacity(HEAD + TAG + positions.len() * 4);
        bytes.push(VERSION);
        bytes.extend_from_slice(&key.id());
        bytes.extend_from_slice(&self.binding);
        bytes.extend_from_slice(&incarnation.digest());
        for position in positions {
            push_varint(&mut bytes, u64::try_from(*position).unwrap_or(0));
        }
        if (bytes.len() + TAG).div_ceil(3) * 4 > MAX_CHARS {
            return None;
        }
        let tag = mac.clone().chain_update(&bytes).finalize().into_bytes();
        bytes.extend_from_slice(&tag[..TAG]);
        Some(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads a cursor that a client brought.
    pub fn decode(&self, text: &str) -> Result<Cursor, CursorError> {
        if text.len() > MAX_CHARS {
            return Err(CursorError::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError::Malformed)?;
        if bytes.len() < HEAD + TAG {
            return Err(CursorError::Malformed);
        }
        if bytes[0] != VERSION {
            return Ok(Cursor::Unknown);
        }
        let (body, tag) = bytes.split_at(bytes.len() - TAG);
        let key = self.keys.iter().find(|(key, _)| key.id() == body[1..5]);
        if let Some((_, mac)) = key {
            let expected = mac.clone().chain_update(body).finalize().into_bytes();
            if !bool::from(expected[..TAG].ct_eq(tag)) {
                return Err(CursorError::Malformed);
            }
        }
        if body[5..13] != self.binding {
            return Err(CursorError::Foreign);
        }
        if key.is_none() {
            return Ok(Cursor::Unknown);
        }
        let mut incarnation = [0; 8];
        incarnation.copy_from_slice(&body[13..HEAD]);
        let positions = read_varints(&body[HEAD..]).ok_or(CursorError::Malformed)?;
        Ok(Cursor::At { incarnation, positions })
    }
}

fn push_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn read_varints(mut bytes: &[u8]) -> Option<Vec<i64>> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        let mut value = 0u64;
        let length = bytes.iter().position(|byte| byte & 0x80 == 0)? + 1;
        if length > 9 {
            return None;
        }
        for byte in bytes[..length].iter().rev() {
            value = value << 7 | u64::from(byte & 0x7f);
        }
        values.push(i64::try_from(value).ok()?);
        bytes = &bytes[length..];
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> CursorKey {
        CursorKey([byte; 32])
    }

    fn cursors() -> Cursors {
        Cursors::new("default", "shop", "orders", &[key(1), key(2)])
    }

    fn topic() -> Incarnation {
        Incarnation::new("orders.v1", b"topic id")
    }

    #[test]
    fn a_cursor_reads_back_what_was_written() {
        let positions = vec![0, 1, 127, 128, 1 << 40, i64::MAX];
        let text = cursors().encode(&topic(), &positions).expect("short enough");
        let read = cursors().decode(&text).expect("genuine");
        assert_eq!(read, Cursor::At { incarnation: topic().digest(), positions });
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let text = cursors().encode(&topic(), &[5, 6]).expect("short enough");
        let bytes = URL_SAFE_NO_PAD.decode(&text).expect("base64url");
        for index in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[index / 8] ^= 1 << (index % 8);
            let read = cursors().decode(&URL_SAFE_NO_PAD.encode(&flipped));
            // The version and the key id come before what can be authenticated.
            let expected = if index / 8 < 5 { Ok(Cursor::Unknown) } else { Err(CursorError::Malformed) };
            assert_eq!(read, expected, "bit {index}");
        }
    }

    #[test]
    fn old_keys_stay_valid_and_unknown_keys_ask_for_a_gap() {
        let old = Cursors::new("default", "shop", "orders", &[key(2)]).encode(&topic(), &[1]).expect("short");
        assert!(matches!(cursors().decode(&old), Ok(Cursor::At { .. })));
        let gone =
            Cursors::new("default", "shop", "orders", &[key(9)]).encode(&topic(), &[1]).expect("short");
        assert_eq!(cursors().decode(&gone), Ok(Cursor::Unknown));
    }

    #[test]
    fn another_channels_cursor_is_foreign() {
        for (namespace, api, channel) in
            [("other", "shop", "orders"), ("default", "shop2", "orders"), ("default", "shop", "returns")]
        {
            for keys in [[key(1)], [key(9)]] {
                let cursor =
                    Cursors::new(namespace, api, channel, &keys).encode(&topic(), &[1]).expect("short");
                assert_eq!(cursors().decode(&cursor), Err(CursorError::Foreign));
            }
        }
    }

    #[test]
    fn absurd_cursors_are_malformed() {
        for text in ["", "x", "!!", "AAAA", &"A".repeat(2049), &"A".repeat(100_000)] {
            assert!(
                matches!(cursors().decode(text), Err(CursorError::Malformed) | Ok(Cursor::Unknown)),
                "{text:.20}"
            );
        }
        assert_eq!(cursors().decode(&"A".repeat(2049)), Err(CursorError::Malformed));
        assert_eq!(read_varints(&[0x80]), None);
        assert_eq!(read_varints(&[0xff; 12]), None);
    }

    #[test]
    fn a_cursor_that_would_be_too_long_is_none() {
        assert!(cursors().encode(&topic(), &vec![1 << 40; 100]).is_some());
        assert!(cursors().encode(&topic(), &vec![1 << 40; 1000]).is_none());
    }
}
