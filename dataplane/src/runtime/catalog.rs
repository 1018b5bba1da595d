//! What the console lists.

use serde_json::json;
use sluice_config::channel::LifecycleState;

use crate::runtime::{Running, RunningChannel};

/// What the console shows of an API.
pub(super) fn listing(running: &Running) -> serde_json::Value {
    let api = &running.entry.api;
    let described = api.spec.channels.iter().filter_map(|spec| {
        let kind = running.servers.get(&spec.server).map_or("", |server| server.kind.name());
        Some(describe(spec, running.channels.get(&spec.name)?, kind))
    });
    json!({
        "namespace": api.namespace,
        "name": api.name,
        "description": api.spec.description,
        "lifecycle": lifecycle(api.spec.lifecycle.state),
        "channels": described.collect::<Vec<_>>(),
    })
}

/// What the console shows of a channel.
fn describe(spec: &sluice_config::Channel, channel: &RunningChannel, kind: &str) -> serde_json::Value {
    let state = channel.channel.state();
    let subscribe = spec.subscribe.as_ref().map(|subscribe| {
        json!({"websocket": subscribe.transports.websocket.is_some(),
               "sse": subscribe.transports.sse.is_some(),
               "formats": subscribe.formats})
    });
    let publish = spec.publish.as_ref().map(|publish| {
        json!({"http": publish.transports.http.is_some(), "websocket": publish.transports.websocket.is_some()})
    });
    json!({
        "name": spec.name,
        "path": channel.path,
        "description": spec.description,
        "contentType": spec.message.content_type(),
        "address": spec.address,
        "server": spec.server,
        "serverKind": kind,
        "subscribe": subscribe,
        "publish": publish,
        "authentication": if state.policy.needs_key() { "apiKeys" } else { "none" },
    })
}

const fn lifecycle(state: LifecycleState) -> &'static str {
    match state {
        LifecycleState::Published => "Published",
        LifecycleState::Deprecated => "Deprecated",
        LifecycleState::Blocked => "Blocked",
    }
}
