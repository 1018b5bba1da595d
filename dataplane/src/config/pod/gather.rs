//! Decides which config a pod serves: pure, from what was delivered so far.
//!
//! At the start the highest sequence whose material is there counts. From then on the watch wins,
//! also backwards (a cluster restored from a backup); a mount, which lags behind, only counts if its
//! sequence is higher. Where there is nothing but the mount, as in a sidecar, the mount counts whatever
//! its sequence, as soon as its material is there too. Secret values are found by digest, so the order in which a ConfigMap and a
//! Secret arrive does not matter.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use sluice_config::config::{CONFIG_KEY, CONFIG_KEY_ZSTD, Config, INFLATED_BYTES, api_of_cursor_key};
use sluice_config::placement::ApiLimits;
use sluice_config::{Entry, Material};

use crate::config::{CursorKey, Loaded, TlsMaterial};

/// Content of a ConfigMap or a Secret.
pub type Data = BTreeMap<String, Vec<u8>>;
/// Cursor keys by `namespace/name` of their API.
pub type Keys = BTreeMap<String, Vec<CursorKey>>;

/// What was applied: the ConfigMap's content as it was delivered, and the values and keys that it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Content of the ConfigMap.
    pub config: Data,
    /// Values by digest.
    pub values: Material,
    /// Keys of cursors.
    pub keys: Keys,
}

/// How something was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By the kubelet.
    Mount,
    /// By the API server.
    Watch,
}

/// What is known so far.
#[derive(Default)]
pub struct Gatherer {
    config: Option<Config>,
    /// The same as it was delivered.
    delivered: Data,
    reader: Reader,
    /// Values of the newest Secret of each origin, and those the config in force needs.
    values: Material,
    keys: Keys,
    /// The watch has delivered a Secret: the mount's is older or the same.
    watched: bool,
    /// There is no watch and never will be.
    only_mounted: bool,
    /// Mounted, and without all of its material so far.
    waiting: Option<Config>,
}

impl Gatherer {
    /// Of a pod that has its mounts and nothing else.
    pub fn of_mounts() -> Self {
        Self { only_mounted: true, ..Self::default() }
    }

    /// Begins with what was applied before the container was restarted.
    pub fn restore(&mut self, kept: Kept) -> Result<(), String> {
        self.config = Some(self.reader.parse(&kept.config)?);
        (self.delivered, self.values, self.keys) = (kept.config, kept.values, kept.keys);
        Ok(())
    }

    /// What is to be kept for a container that is restarted.
    pub fn kept(&self) -> Kept {
        Kept { config: self.delivered.clone(), values: self.values.clone(), keys: self.keys.clone() }
    }

    /// Takes the content of a ConfigMap; `true` if it is served now.
    pub fn deliver(&mut self, origin: Origin, data: Data) -> Result<bool, String> {
        let config = self.reader.parse(&data)?;
        let is_served = self.config(origin, config);
        if is_served {
            self.delivered = data;
        }
        Ok(is_served)
    }

    /// Takes a config; `true` if it is served now.
    pub fn config(&mut self, origin: Origin, config: Config) -> bool {
        self.waiting = None;
        let better = match &self.config {
            None => true,
            Some(current) if *current == config => return false,
            Some(current) => {
                let is_newer = self.only_mounted || config.sequence > current.sequence;
                let is_usable = self.is_complete(&config) || !self.is_complete(current);
                origin == Origin::Watch || (is_newer && is_usable)
            }
        };
        if better {
            self.config = Some(config);
        } else if self.only_mounted {
            self.waiting = Some(config);
        }
        better
    }

    /// The mounted ConfigMap is not there, or no longer; `true` if that makes a difference.
    pub fn gone(&mut self) -> bool {
        self.waiting = None;
        self.only_mounted && self.config.take().is_some()
    }

    /// Takes the content of a Secret; `true` if that makes a difference.
    pub fn material(&mut self, origin: Origin, data: &Data) -> bool {
        let watched = self.watched;
        self.watched |= origin == Origin::Watch;
        let mut values = BTreeMap::new();
        let mut keys = Keys::new();
        for (name, value) in data {
            match api_of_cursor_key(name) {
                Some(api) => {
                    let whole =
                        value.chunks_exact(32).map(|key| CursorKey(key.try_into().expect("32 bytes")));
                    keys.insert(api, whole.collect());
                }
                None => {
                    let digest: String =
                        Sha256::digest(value).iter().map(|byte| format!("{byte:02x}")).collect();
                    values.insert(digest, Arc::from(value.as_slice()));
                }
            }
        }
        // A value that the config in force names stays until the config is another.
        let named = self.config.iter().flat_map(|config| {
            config.apis.values().flat_map(|entry| entry.material.values()).chain(config.certificate.values())
        });
        for digest in named {
            if let Some(value) = self.values.0.get(digest) {
                values.entry(digest.clone()).or_insert_with(|| value.clone());
            }
        }
        let named = self.config.iter().flat_map(|config| config.apis.keys());
        for api in named.filter(|_| self.only_mounted) {
            if let Some(kept) = self.keys.get(api) {
                keys.entry(api.clone()).or_insert_with(|| kept.clone());
            }
        }
        if origin == Origin::Mount && watched {
            // Older than what the watch brought; it may only add what is missing.
            values.extend(self.values.0.iter().map(|(digest, value)| (digest.clone(), value.clone())));
            keys = self.keys.clone();
        }
        let changed = values != self.values.0 || keys != self.keys;
        (self.values.0, self.keys) = (values, keys);
        let waiting = self.waiting.take();
        changed | waiting.is_some_and(|config| self.config(Origin::Mount, config))
    }

    /// Adds what is to be served.
    pub fn add_to(&self, loaded: &mut Loaded) {
        if let Some(config) = &self.config {
            loaded.config.sequence += config.sequence;
            loaded.config.apis.extend(config.apis.clone());
            loaded.config.certificate.extend(config.certificate.clone());
            loaded.config.api_limits.clone_from(&config.api_limits);
        }
        loaded.material.0.extend(self.values.0.clone());
        loaded.cursor_keys.extend(self.keys.clone());
        loaded.tls = loaded.tls.take().or_else(|| self.certificate());
    }

    /// The certificate of the HTTPS listener: that of the shared gateway, or of the one API that such a pod
    /// serves.
    fn certificate(&self) -> Option<TlsMaterial> {
        let config = self.config.as_ref()?;
        if !config.certificate.is_empty() {
            let value = |key: &str| Some(self.values.0.get(config.certificate.get(key)?)?.to_vec());
            return Some(TlsMaterial { certificate: value("tls.crt")?, key: value("tls.key")? });
        }
        config.apis.values().find_map(|entry| {
            let secret = &entry.api.spec.placement.deployment()?.certificate()?.name;
            let value = |key: &str| Some(self.values.find(entry, secret, key)?.to_vec());
            Some(TlsMaterial { certificate: value("tls.crt")?, key: value("tls.key")? })
        })
    }

    fn is_complete(&self, config: &Config) -> bool {
        let has_certificate = config.certificate.values().all(|digest| self.values.0.contains_key(digest));
        has_certificate && config.apis.values().all(|entry| self.values.missing(entry).is_empty())
    }
}

/// A config whose entries have not been looked at.
#[derive(Deserialize)]
struct Outline<'a> {
    sequence: u64,
    #[serde(borrow)]
    apis: BTreeMap<String, &'a RawValue>,
    #[serde(default)]
    certificate: BTreeMap<String, String>,
    #[serde(default, rename = "apiLimits")]
    api_limits: ApiLimits,
}

/// Reads configs, and of each only what was not in the one before: of a gateway with hundreds of APIs a
/// change costs what it changes.
#[derive(Default)]
pub struct Reader(BTreeMap<String, ([u8; 32], Arc<Entry>)>);

impl Reader {
    /// Reads a config out of a ConfigMap's content.
    pub fn parse(&mut self, data: &Data) -> Result<Config, String> {
        let inflated;
        let text = match (data.get(CONFIG_KEY), data.get(CONFIG_KEY_ZSTD)) {
            (Some(text), _) => text,
            (None, Some(compressed)) => {
                inflated = inflate(compressed)?;
                &inflated
            }
            (None, None) => {
                return Err(format!("the ConfigMap has neither {CONFIG_KEY} nor {CONFIG_KEY_ZSTD}"));
            }
        };
        let Outline { sequence, apis, certificate, api_limits } =
            serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let mut entries = BTreeMap::new();
        for (key, raw) in apis {
            let digest: [u8; 32] = Sha256::digest(raw.get()).into();
            let known = self.0.remove(&key);
            if let Some(known) = known.as_ref().filter(|known| known.0 == digest) {
                entries.insert(key, known.clone());
                continue;
            }
            match serde_json::from_str(raw.get()) {
                Ok(entry) => drop(entries.insert(key, (digest, entry))),
                // Another one's change goes on: an API of a newer operator's holds up no other one.
                Err(error) => {
                    tracing::warn!(api = key, %error, "an API was refused; the last good one keeps serving");
                    entries.extend(known.map(|known| (key, known)));
                }
            }
        }
        self.0 = entries;
        let apis = self.0.iter().map(|(key, (_, entry))| (key.clone(), entry.clone())).collect();
        Ok(Config { sequence, apis, certificate, api_limits })
    }
}

fn inflate(compressed: &[u8]) -> Result<Vec<u8>, String> {
    let decoder = zstd::Decoder::new(compressed).map_err(|error| error.to_string())?;
    let mut text = Vec::new();
    let limit = INFLATED_BYTES as u64;
    decoder.take(limit + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > limit { Err(format!("it inflates to more than {limit} bytes")) } else { Ok(text) }
}

#[cfg(test)]
mod tests;
