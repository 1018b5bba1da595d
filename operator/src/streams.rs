//! How many streams are open, as data planes count them. Nothing is decided by it: people are told.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

/// Open streams of StreamAPIs by `namespace/name`; what has none may be left out.
pub type ByApi = BTreeMap<String, Streams>;

/// Open streams of a StreamAPI by channel; what has none is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Streams(BTreeMap<String, Open>);

/// Open streams by transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Open {
    /// By WebSocket, whether they read or only publish.
    pub websocket: u64,
    /// By server-sent events.
    pub sse: u64,
}

impl Streams {
    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of one channel.
    pub fn of(&self, channel: &str) -> Open {
        self.0.get(channel).copied().unwrap_or_default()
    }

    /// Those of all channels.
    pub fn all(&self) -> Open {
        self.0.values().fold(Open::default(), |all, open| all.and(*open))
    }

    /// Adds those of another pod.
    pub fn add(&mut self, more: &Self) {
        for (channel, open) in &more.0 {
            let sum = self.0.entry(channel.clone()).or_default();
            *sum = sum.and(*open);
        }
    }
}

impl Open {
    /// Of every transport.
    pub const fn total(self) -> u64 {
        self.websocket.saturating_add(self.sse)
    }

    /// Both together. Whoever runs a pod may tell any number.
    pub const fn and(self, more: Self) -> Self {
        Self {
            websocket: self.websocket.saturating_add(more.websocket),
            sse: self.sse.saturating_add(more.sse),
        }
    }
}

impl fmt::Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.websocket, self.sse) {
            (0, 0) => f.write_str("none"),
            (websocket, 0) => write!(f, "{websocket} WebSocket"),
            (0, sse) => write!(f, "{sse} SSE"),
            (websocket, sse) => write!(f, "{websocket} WebSocket, {sse} SSE"),
        }
    }
}
