//! The rendered configuration of one data plane.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::channel::StreamApiSpec;
use crate::placement::ApiLimits;
use crate::policy::ChannelPolicy;

/// Key of the rendered [`Config`] in its ConfigMap, as JSON. The number is the format's version.
pub const CONFIG_KEY: &str = "config-v1.json";
/// The same, compressed with zstd, in `binaryData`: for what is larger than [`PLAIN_BYTES`].
pub const CONFIG_KEY_ZSTD: &str = "config-v1.json.zst";
/// The largest config that is written as it is, so that people can read it.
pub const PLAIN_BYTES: usize = 200 * 1024;
/// The most a ConfigMap's or a Secret's content may take; an API server takes 1 MiB with all.
pub const DELIVERED_BYTES: usize = 900 * 1024;
/// What the largest config may inflate to.
pub const INFLATED_BYTES: usize = 16 * 1024 * 1024;
/// The longest key of a Secret's data that an API server takes.
const SECRET_KEY_BYTES: usize = 253;

/// Key of the value `secret/key` of an API in the data plane's Secret. It is for people: data planes
/// find values by their digests. No two values share a key, for `_` is in no name but the last.
pub fn material_key(namespace: &str, api: &str, secret: &str, key: &str, digest: &str) -> String {
    let name = format!("{namespace}_{api}_{secret}_{key}");
    if name.len() <= SECRET_KEY_BYTES { name } else { format!("digest_{digest}") }
}

/// Key of an API's cursor keys in the data plane's Secret: 32 bytes each, the first signs. No
/// namespace has a dot, so this is no [`material_key`].
pub fn cursor_key(namespace: &str, api: &str) -> String {
    format!("{CURSOR_KEY_PREFIX}{namespace}_{api}")
}

/// The API (`namespace/name`) whose cursor keys are at `key`, if it is such a key.
pub fn api_of_cursor_key(key: &str) -> Option<String> {
    Some(key.strip_prefix(CURSOR_KEY_PREFIX)?.replacen('_', "/", 1))
}

const CURSOR_KEY_PREFIX: &str = "cursor-key.";

/// Everything one data plane serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Grows with every change.
    pub sequence: u64,
    /// The APIs by `namespace/name`.
    pub apis: BTreeMap<String, Arc<Entry>>,
    /// Of a shared gateway, SHA-256 (hex) of the `tls.crt` and `tls.key` that its HTTPS listener shows.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub certificate: BTreeMap<String, String>,
    /// Of a shared gateway, what each API may take.
    #[serde(default, skip_serializing_if = "ApiLimits::is_default")]
    pub api_limits: ApiLimits,
}

/// One API as rendered. `revision` is a digest of everything else but `generation`: equal
/// revisions need no second look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// `metadata.generation` of the StreamAPI.
    pub generation: i64,
    /// Digest of `api`, `policies` and `material`.
    pub revision: String,
    /// The API.
    pub api: Api,
    /// What is in force, by channel name; every channel has one.
    pub policies: BTreeMap<String, ChannelPolicy>,
    /// SHA-256 (hex) of each secret value the entry refers to, by `secret/key`. The values come
    /// apart, as [`Material`].
    pub material: BTreeMap<String, String>,
}

/// An API's identity and spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Api {
    /// Namespace of the StreamAPI.
    pub namespace: String,
    /// Name of the StreamAPI.
    pub name: String,
    /// Its spec.
    pub spec: Arc<StreamApiSpec>,
}

impl Api {
    /// `namespace/name`, the key in [`Config::apis`].
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// Secret values by the SHA-256 (hex) of their bytes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Material(pub BTreeMap<String, Arc<[u8]>>);

impl Material {
    /// The value that `entry` knows as `secret/key`, if it is here.
    pub fn find(&self, entry: &Entry, secret: &str, key: &str) -> Option<Arc<[u8]>> {
        self.0.get(entry.material.get(&format!("{secret}/{key}"))?).cloned()
    }

    /// All values of the Secret `secret` that `entry` refers to, by key.
    pub fn of_secret<'a>(
        &'a self,
        entry: &'a Entry,
        secret: &'a str,
    ) -> impl Iterator<Item = (&'a str, Arc<[u8]>)> {
        entry.material.iter().filter_map(move |(name, digest)| {
            let key = name.strip_prefix(secret)?.strip_prefix('/')?;
            Some((key, self.0.get(digest)?.clone()))
        })
    }

    /// The names (`secret/key`) that `entry` refers to and that are not here.
    pub fn missing(&self, entry: &Entry) -> Vec<String> {
        entry
            .material
            .iter()
            .filter(|(_, digest)| !self.0.contains_key(*digest))
            .map(|(name, _)| name.clone())
            .collect()
    }
}

/// Values stay out of logs and panics.
impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Material({} values)", self.0.len())
    }
}
