//! What of a changed API is as it was.

use std::collections::HashMap;

use sluice_config::{Channel, Entry};

use super::Running;
use crate::config::CursorKey;
use crate::runtime::server::RunningServer;

/// An API as it ran before a change, and whether what all its channels share is the same behind it.
pub(super) struct Frame<'a> {
    old: &'a Running,
    specs: HashMap<&'a str, &'a Channel>,
    same: bool,
}

impl<'a> Frame<'a> {
    pub(super) fn of(old: &'a Running, entry: &Entry, keys: &[CursorKey]) -> Self {
        let specs = &old.entry.api.spec.channels;
        let same = !old.merged
            && old.keys == keys
            && old.entry.material == entry.material
            && old.entry.api.spec.lifecycle == entry.api.spec.lifecycle;
        Self { old, specs: specs.iter().map(|spec| (spec.name.as_str(), spec)).collect(), same }
    }

    /// The server and the address that the channel was at.
    pub(super) fn place(&self, channel: &str) -> Option<(&'a RunningServer, &'a str)> {
        let spec = self.specs.get(channel)?;
        Some((self.old.servers.get(&spec.server)?, spec.address.as_str()))
    }

    /// Whether the channel is in every respect what it was: then nothing of it is touched.
    pub(super) fn keeps(&self, spec: &Channel, running: &Running) -> bool {
        let (old, new) = (&self.old.entry, &running.entry);
        let server = || {
            let servers = self.old.servers.get(&spec.server).zip(running.servers.get(&spec.server));
            servers.is_some_and(|(old, new)| old.kind == new.kind && old.reads_the_same(new))
        };
        self.same
            && self.specs.get(spec.name.as_str()) == Some(&spec)
            && old.policies.get(&spec.name) == new.policies.get(&spec.name)
            && server()
    }
}
