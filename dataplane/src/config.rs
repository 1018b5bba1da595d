//! What is loaded: the rendered config, the secret values it names, and the keys it does not.
//!
//! Whoever loads (files on a laptop, mounted or watched objects in a pod) sends a whole [`Loaded`]
//! through one `tokio::sync::watch` channel; the data plane knows nothing of where it came from.
//! [`pod`] is the loader of a pod; that of files stands with the command line.

pub mod pod;

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use sluice_config::{Config, Material, Problem};

/// Everything the data plane serves from, always whole.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The APIs.
    pub config: Config,
    /// The secret values that the config names by digest.
    pub material: Material,
    /// The keys of each API's cursors by `namespace/name`: the first signs, all are accepted.
    pub cursor_keys: BTreeMap<String, Vec<CursorKey>>,
    /// Certificate of the HTTPS listener, if there is one.
    pub tls: Option<TlsMaterial>,
    /// What was refused before it became config, for `/config`, logs and metrics.
    pub refused: Vec<Refused>,
}

/// A key that authenticates cursors.
#[derive(Clone, PartialEq, Eq)]
pub struct CursorKey(pub [u8; 32]);

impl CursorKey {
    /// Names the key inside a cursor without telling anything about it.
    pub fn id(&self) -> [u8; 4] {
        let digest = Sha256::new_with_prefix(b"sluice cursor key id").chain_update(self.0).finalize();
        [digest[0], digest[1], digest[2], digest[3]]
    }
}

impl std::fmt::Debug for CursorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CursorKey({:02x?})", self.id())
    }
}

/// A certificate chain and its key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsMaterial {
    /// The chain, leaf first.
    pub certificate: Vec<u8>,
    /// The private key.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for TlsMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsMaterial")
    }
}

/// An API or policy that was refused, and why.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Refused {
    /// `namespace/name`.
    pub api: String,
    /// The revision that was refused; empty if it never became one.
    pub revision: String,
    /// Every problem found.
    pub problems: Vec<Problem>,
}
