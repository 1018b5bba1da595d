//! What is served differently after a load, in words for a person.

use std::sync::Arc;

use sluice_config::config::{Config, Entry};

/// A difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The API is served now.
    Served(String),
    /// The API is served in another revision.
    Changed(String),
    /// The API is no longer served.
    Gone(String),
    /// The channel (`namespace/api/channel`) is closed, for this reason.
    Closed(String, String),
    /// The channel is open again.
    Opened(String),
}

/// The differences between two configs, by API.
pub fn changes(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    for (name, entry) in &new.apis {
        let before = old.apis.get(name);
        if before.is_some_and(|before| Arc::ptr_eq(before, entry)) {
            continue;
        }
        match before {
            None => changes.push(Change::Served(name.clone())),
            Some(before) if before.revision != entry.revision => changes.push(Change::Changed(name.clone())),
            Some(_) => {}
        }
        for (channel, policy) in &entry.policies {
            let path = format!("{name}/{channel}");
            match (before.and_then(|before| closed(before, channel)), &policy.closed) {
                (None, Some(reason)) => changes.push(Change::Closed(path, reason.clone())),
                (Some(old), Some(reason)) if old != reason => {
                    changes.push(Change::Closed(path, reason.clone()))
                }
                (Some(_), None) => changes.push(Change::Opened(path)),
                _ => {}
            }
        }
    }
    let gone = old.apis.keys().filter(|name| !new.apis.contains_key(*name));
    changes.extend(gone.map(|name| Change::Gone(name.clone())));
    changes
}

fn closed<'a>(entry: &'a Entry, channel: &str) -> Option<&'a String> {
    entry.policies.get(channel)?.closed.as_ref()
}
