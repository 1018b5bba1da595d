//! Builds the config and the material it names: every channel with the policy in force on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use sluice_config::StreamApiSpec;
use sluice_config::config::{Api as ConfigApi, Config, Entry, Material};
use sluice_config::policy::{Authentication, ChannelPolicy};

use crate::Rendered;
use crate::dereference::{Api, Purpose, References, Use, certificate_of, secrets_of};
use crate::merge::merge;
use crate::validate::{Valid, api_key_entry, entries, secret_problems, value};

/// A part of a policy that another policy overrides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// Namespace of both policies.
    pub namespace: String,
    /// The policy that is overridden.
    pub policy: String,
    /// Which part of it.
    pub part: &'static str,
    /// On which channel: `api/channel`.
    pub channel: String,
    /// The policy that is more specific or older.
    pub winner: String,
}

/// Builds what is served.
pub fn build(references: &References<'_>, valid: Valid<'_>, last: &Config) -> Rendered {
    let mut rendered = Rendered { refused: valid.refused.clone(), ..Rendered::default() };
    for (api, spec) in &valid.apis {
        let entry = entry(api, spec, references, &valid, last, &mut rendered);
        rendered.config.apis.insert(entry.api.key(), entry);
    }
    rendered.notes.sort();
    let grown = u64::from(rendered.config.apis != last.apis);
    rendered.config.sequence = last.sequence + grown;
    rendered
}

fn entry(
    api: &Api<'_>,
    spec: &Arc<StreamApiSpec>,
    references: &References<'_>,
    valid: &Valid<'_>,
    last: &Config,
    rendered: &mut Rendered,
) -> Arc<Entry> {
    let mut secrets = Collector { names: BTreeMap::new(), material: &mut rendered.material };
    let broken = server_secrets(api, spec, references, &mut secrets);
    let mut policies = BTreeMap::new();
    let mut key_secrets = BTreeSet::new();
    for channel in &spec.channels {
        let merged = merge(&references.policies, api.namespace, api.name, &channel.name);
        let mut policy = merged.policy;
        policy.closed =
            closed(api, &channel.name, valid).or_else(|| broken.get(channel.server.as_str()).cloned());
        if let Some(Authentication::ApiKeys(keys)) = &policy.authentication {
            key_secrets.insert(keys.secret_ref.name.clone());
        }
        policies.insert(channel.name.clone(), policy);
        rendered.notes.extend(merged.losers.into_iter().map(|(policy, part, winner)| Note {
            namespace: api.namespace.into(),
            policy: policy.into(),
            part,
            channel: format!("{}/{}", api.name, channel.name),
            winner: winner.into(),
        }));
    }
    if let Some(place) = certificate_of(spec) {
        add_values(api.namespace, &place, references, &mut secrets);
    }
    for name in key_secrets {
        api_keys(api.namespace, &name, references, &mut secrets);
    }
    let material = secrets.names;
    // What it says now is refused or cannot be read: then this is what it said before.
    let is_new = api.spec.is_some_and(|now| now == spec);
    let before = last.apis.get(&format!("{}/{}", api.namespace, api.name)).filter(|_| !is_new);
    let generation = before.map_or(api.generation, |before| before.generation);
    let api_part = ConfigApi { namespace: api.namespace.into(), name: api.name.into(), spec: spec.clone() };
    // The digest of a large API costs much more than a look whether it is the same.
    let same = last
        .apis
        .get(&api_part.key())
        .filter(|last| last.api == api_part && last.policies == policies && last.material == material);
    if let Some(same) = same.filter(|last| last.generation == generation) {
        return Arc::clone(same);
    }
    let revision =
        same.map_or_else(|| revision(&api_part, &policies, &material), |last| last.revision.clone());
    Arc::new(Entry { generation, revision, api: api_part, policies, material })
}

/// Why the channel is closed, if it is.
fn closed(api: &Api<'_>, channel: &str, valid: &Valid<'_>) -> Option<String> {
    let covers =
        |closure: &&crate::validate::Closure<'_>| closure.scope.covers(api.namespace, api.name, channel);
    valid.closures.iter().find(covers).map(|closure| closure.reason.clone())
}

/// Adds the values that the servers refer to. What is missing can only be missing for a spec that
/// was good before; its server's channels are closed, for the reason given.
fn server_secrets<'a>(
    api: &Api<'_>,
    spec: &'a StreamApiSpec,
    references: &References<'_>,
    secrets: &mut Collector<'_>,
) -> BTreeMap<&'a str, String> {
    let mut broken = BTreeMap::new();
    for (server, place) in secrets_of(spec) {
        if !secret_problems(api.namespace, &place, &references.secrets).is_empty() {
            broken.insert(server, format!("server `{server}` has no usable credentials"));
        }
        add_values(api.namespace, &place, references, secrets);
    }
    broken
}

fn add_values(namespace: &str, place: &Use<'_>, references: &References<'_>, secrets: &mut Collector<'_>) {
    let Ok(secret) = references.secrets.find(namespace, place.secret) else { return };
    for key in keys_of(place) {
        if let Some(value) = value(secret, key) {
            secrets.add(place.secret, key, value);
        }
    }
}

const fn keys_of(place: &Use<'_>) -> &'static [&'static str] {
    match place.purpose {
        Purpose::BrokerTls => &["ca.crt", "tls.crt", "tls.key"],
        Purpose::BrokerLogin => &["username", "password"],
        Purpose::ListenerTls => &["tls.crt", "tls.key"],
        Purpose::ApiKeys => &[],
    }
}

fn api_keys(namespace: &str, name: &str, references: &References<'_>, secrets: &mut Collector<'_>) {
    let Ok(secret) = references.secrets.find(namespace, name) else { return };
    for (id, value) in entries(secret) {
        if let Some(entry) = api_key_entry(id, value) {
            secrets.add(name, id, entry.as_bytes());
        }
    }
}

/// Collects an entry's values: the names go to the entry, the bytes to the material.
struct Collector<'r> {
    names: BTreeMap<String, String>,
    material: &'r mut Material,
}

impl Collector<'_> {
    fn add(&mut self, secret: &str, key: &str, value: &[u8]) {
        self.names.insert(format!("{secret}/{key}"), add(self.material, value));
    }
}

/// Adds `value` to the material; what it is called there.
pub(crate) fn add(material: &mut Material, value: &[u8]) -> String {
    let digest = hex(&Sha256::digest(value));
    material.0.entry(digest.clone()).or_insert_with(|| Arc::from(value));
    digest
}

/// What the revision of `entry` must be.
pub fn revision_of(entry: &Entry) -> String {
    revision(&entry.api, &entry.policies, &entry.material)
}

/// Digest of everything that is served, over its JSON.
fn revision(
    api: &ConfigApi,
    policies: &BTreeMap<String, ChannelPolicy>,
    material: &BTreeMap<String, String>,
) -> String {
    // The order of the fields is that of the types, and maps are sorted.
    let json = serde_json::to_vec(&(api, policies, material)).expect("every key is text");
    hex(&Sha256::digest(json))
}

/// `bytes` as lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
