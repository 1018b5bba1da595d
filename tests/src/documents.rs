//! The resources a test serves: written as a person would, as documents of one file.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Documents of one file. JSON is YAML, so each document is one line of JSON.
#[derive(Clone, Debug, Default)]
pub struct Documents(Vec<Value>);

impl Documents {
    /// No documents yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an API.
    #[must_use]
    pub fn api(self, api: Api) -> Self {
        self.with(api.0)
    }

    /// Adds any document.
    #[must_use]
    pub fn with(mut self, document: Value) -> Self {
        self.0.push(document);
        self
    }

    /// Adds a StreamPolicy called `name` on the whole API `api`; `parts` are the policy's parts.
    #[must_use]
    pub fn policy(self, name: &str, api: &str, parts: Value) -> Self {
        self.targeted(name, json!([{"kind": "StreamAPI", "name": api}]), parts)
    }

    /// Adds a StreamPolicy with `target_refs`.
    #[must_use]
    pub fn targeted(self, name: &str, target_refs: Value, parts: Value) -> Self {
        let mut spec = parts;
        spec["targetRefs"] = target_refs;
        self.with(json!({
            "apiVersion": "sluice.dev/v1alpha1",
            "kind": "StreamPolicy",
            "metadata": {"name": name},
            "spec": spec,
        }))
    }

    /// Adds a Secret with the label that lets Sluice use it.
    #[must_use]
    pub fn secret(self, name: &str, data: &[(&str, &str)]) -> Self {
        self.typed_secret(name, "Opaque", data)
    }

    /// Adds a `kubernetes.io/tls` Secret with the label that lets Sluice use it.
    #[must_use]
    pub fn tls_secret(self, name: &str, certificate: &str, key: &str) -> Self {
        self.typed_secret(name, "kubernetes.io/tls", &[("tls.crt", certificate), ("tls.key", key)])
    }

    fn typed_secret(self, name: &str, kind: &str, data: &[(&str, &str)]) -> Self {
        let data: serde_json::Map<String, Value> =
            data.iter().map(|(key, value)| ((*key).into(), STANDARD.encode(value).into())).collect();
        self.with(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "labels": {"sluice.dev/use": "true"}},
            "type": kind,
            "data": data,
        }))
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for document in &self.0 {
            let _ = writeln!(text, "---\n{document}");
        }
        text
    }
}

/// A StreamAPI under construction.
#[derive(Clone, Debug)]
pub struct Api(pub Value);

impl Api {
    /// An API called `name`.
    pub fn new(name: &str) -> Self {
        Self(json!({
            "apiVersion": "sluice.dev/v1alpha1",
            "kind": "StreamAPI",
            "metadata": {"name": name},
            "spec": {"servers": [], "channels": []},
        }))
    }

    /// Adds a server of some kind: `{"kafka": {…}}`, `{"memory": {}}`, `{"generator": {…}}`.
    #[must_use]
    pub fn server(mut self, name: &str, kind: Value) -> Self {
        let mut server = kind;
        server["name"] = name.into();
        self.list("servers").push(server);
        self
    }

    /// Adds a `memory` server called `events`.
    #[must_use]
    pub fn memory(self) -> Self {
        self.server("events", json!({"memory": {}}))
    }

    /// Adds a `generator` server called `events`.
    #[must_use]
    pub fn generator(self, messages_per_second: u32, seed: u64) -> Self {
        self.server("events", json!({"generator": {"messagesPerSecond": messages_per_second, "seed": seed}}))
    }

    /// Adds a channel as it stands.
    #[must_use]
    pub fn channel(mut self, channel: Channel) -> Self {
        self.list("channels").push(channel.0);
        self
    }

    /// Sets `spec.lifecycle`.
    #[must_use]
    pub fn lifecycle(mut self, lifecycle: Value) -> Self {
        self.0["spec"]["lifecycle"] = lifecycle;
        self
    }

    fn list(&mut self, field: &str) -> &mut Vec<Value> {
        self.0["spec"][field].as_array_mut().expect("made as a list")
    }
}

/// A channel under construction, on the server `events` unless told otherwise.
#[derive(Clone, Debug)]
pub struct Channel(pub Value);

impl Channel {
    /// A channel that does nothing yet, with JSON messages.
    pub fn new(name: &str, address: &str) -> Self {
        Self(json!({
            "name": name,
            "server": "events",
            "address": address,
            "message": {"contentType": "application/json"},
        }))
    }

    /// A channel with WebSocket and SSE, both ways.
    pub fn both_ways(name: &str, address: &str) -> Self {
        Self::new(name, address).subscribe().publish()
    }

    /// Lets clients receive by WebSocket and SSE.
    #[must_use]
    pub fn subscribe(mut self) -> Self {
        self.0["subscribe"] = json!({"transports": {"websocket": {}, "sse": {}}});
        self
    }

    /// Lets clients send by HTTP and WebSocket.
    #[must_use]
    pub fn publish(mut self) -> Self {
        self.0["publish"] = json!({"transports": {"http": {}, "websocket": {}}});
        self
    }

    /// Sets `message.contentType`.
    #[must_use]
    pub fn content_type(mut self, content_type: &str) -> Self {
        self.0["message"]["contentType"] = content_type.into();
        self
    }

    /// Sets a field by its JSON pointer, like `/subscribe/replay`.
    #[must_use]
    pub fn set(mut self, pointer: &str, value: Value) -> Self {
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
        self.0.pointer_mut(parent).expect("the parent exists")[field] = value;
        self
    }
}

/// A new API key and the value of its Secret entry.
pub fn api_key(rng: &mut fastrand::Rng) -> (String, String) {
    let key: String = std::iter::repeat_with(|| rng.alphanumeric()).take(43).collect();
    let key = format!("slk_{key}");
    let entry = key_entry(&key);
    (key, entry)
}

/// The Secret entry's value of `key`: `sha256:<hex>`.
pub fn key_entry(key: &str) -> String {
    let digest = Sha256::digest(key);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
