//! What the console lists.

use serde_json::json;
use sluice_config::channel::LifecycleState;

use crate::runtime::RunningChannel;

/// What the console shows of a channel.
pub(super) fn describe(
    spec: &sluice_config::Channel,
    channel: &RunningChannel,
    kind: &str,
) -> serde_json::Value {
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
        "contentType": spec.message.content_type,
        "address": spec.address,
        "server": spec.server,
        "serverKind": kind,
        "subscribe": subscribe,
        "publish": publish,
        "authentication": if state.policy.needs_key() { "apiKeys" } else { "none" },
    })
}

pub(super) const fn lifecycle(state: LifecycleState) -> &'static str {
    match state {
        LifecycleState::Published => "Published",
        LifecycleState::Deprecated => "Deprecated",
        LifecycleState::Blocked => "Blocked",
    }
}
