//! What a change of a StreamAPI would do to those who use it, before it is made: pure.
//!
//! It tells what `runtime` of the data plane and the Deployment controller do with the same
//! difference: whose streams end, which brokers are connected anew, whether pods are replaced.

use std::collections::BTreeMap;

use sluice_config::channel::{LifecycleState, Subscribe, path};
use sluice_config::placement::{Deployment, Placement, StreamGatewaySpec};
use sluice_config::policy::ChannelPolicy;
use sluice_config::server::ServerKind;
use sluice_config::{Channel, Config, StreamApiSpec};

use crate::children::{Owner, Settings, pod_template};
use crate::dereference::{Api, Gateway, References, dereference};
use crate::merge::merge;
use crate::objects::Objects;
use crate::report::some;

/// The consequences of turning `old` into `new`, each a sentence; none if nobody notices.
pub fn impact(
    owner: &Owner<'_>,
    old: &StreamApiSpec,
    new: &StreamApiSpec,
    settings: &Settings,
) -> Vec<String> {
    let mut found = Vec::new();
    if old.lifecycle.state != LifecycleState::Blocked && new.lifecycle.state == LifecycleState::Blocked {
        found.push(
            "every open stream is closed and every request refused: `lifecycle.state` is Blocked".into(),
        );
    }
    for before in &old.channels {
        let after = new.channels.iter().find(|channel| channel.name == before.name);
        found.extend(match after {
            Some(after) => channel(owner.name, (old, before), (new, after)),
            None => {
                vec![format!("channel {}: is removed; its clients are sent away and get 404", before.name)]
            }
        });
    }
    for before in &old.servers {
        let after = new.servers.iter().find(|server| server.name == before.name);
        if after.is_some_and(|after| matches!(after.kind, ServerKind::Kafka(_)) && after.kind != before.kind)
        {
            found.push(format!("server {}: the broker is connected anew", before.name));
        }
    }
    let (before, after) = (place(owner, old), place(owner, new));
    let deployments = [old, new].map(|spec| spec.placement.deployment());
    found.extend(hidden(deployments));
    if before == after {
        found.extend(
            replaced(owner, deployments, settings).map(|what| format!("{what}, because of `placement`")),
        );
    } else {
        found.push(format!(
            "it moves from {before} to {after}: clients have to go there, and open streams end"
        ));
    }
    found
}

/// Where clients find the API.
fn place(owner: &Owner<'_>, spec: &StreamApiSpec) -> String {
    match &spec.placement {
        Placement::Deployment(_) => format!("the Service {}", owner.child_name()),
        Placement::Sidecar(_) => "sidecars".to_owned(),
        Placement::Gateway(gateway) => {
            format!("the StreamGateway {}/{}", gateway.namespace(owner.namespace), gateway.name)
        }
    }
}

/// What becomes of pods that are made from another template.
fn replaced(
    owner: &Owner<'_>,
    [old, new]: [Option<&Deployment>; 2],
    settings: &Settings,
) -> Option<&'static str> {
    let differs = pod_template(owner, old, settings) != pod_template(owner, new, settings);
    differs.then_some("pods are replaced one by one, and clients of each move to another")
}

/// What becomes of clients outside the cluster who ask by names that are no longer there.
fn hidden(deployments: [Option<&Deployment>; 2]) -> Option<String> {
    let hosts = |deployment: &Deployment| deployment.exposure.as_deref().map(|it| it.hosts().to_vec());
    let [old, new] = deployments.map(|deployment| deployment.and_then(hosts).unwrap_or_default());
    let lost: Vec<String> = old.into_iter().filter(|host| !new.contains(host)).collect();
    (!lost.is_empty()).then(|| format!("clients outside the cluster no longer find it at {}", some(&lost)))
}

/// The consequences of turning a gateway's `old` into `new` for those who use the APIs that are placed on it
/// (namespace and name).
pub fn gateway_impact<'a>(
    owner: &Owner<'_>,
    old: &StreamGatewaySpec,
    new: &StreamGatewaySpec,
    apis: impl Iterator<Item = (&'a str, &'a str)>,
    settings: &Settings,
) -> Vec<String> {
    let deployments = [Some(&old.deployment), Some(&new.deployment)];
    let mut found: Vec<String> = hidden(deployments).into_iter().collect();
    found.extend(replaced(owner, deployments, settings).map(Into::into));
    let loses = |namespace: &str| {
        old.allowed_namespaces.includes(owner.namespace, namespace)
            && !new.allowed_namespaces.includes(owner.namespace, namespace)
    };
    let lost = apis.filter(|(namespace, _)| loses(namespace));
    let lost: Vec<String> = lost.map(|(namespace, name)| format!("{namespace}/{name}")).collect();
    if !lost.is_empty() {
        found.push(format!(
            "its APIs of namespaces that are no longer allowed are served no longer, and their clients get 404: {}",
            some(&lost)
        ));
    }
    found
}

/// What turning the objects `before` into `after` does to each StreamAPI (`namespace/name`) and StreamGateway
/// that anybody would notice it at. What cannot be read is left out, as it changes nothing.
pub fn differences(before: &Objects, after: &Objects, settings: &Settings) -> BTreeMap<String, Vec<String>> {
    let nothing = Config::default();
    let (old, new) = (dereference(before, &nothing), dereference(after, &nothing));
    let same = |one: &Api<'_>, other: &Api<'_>| (one.namespace, one.name) == (other.namespace, other.name);
    let mut found = BTreeMap::new();
    for api in &new.apis {
        let was = old.apis.iter().find(|was| same(was, api));
        let told = match (was.and_then(|was| was.spec), api.spec) {
            (Some(was), Some(spec)) => {
                let owner = Owner::api(api.namespace, api.name, None);
                let mut told = impact(&owner, was, spec, settings);
                for channel in spec
                    .channels
                    .iter()
                    .filter(|channel| was.channels.iter().any(|it| it.name == channel.name))
                {
                    let policy = |references: &References<'_>| {
                        merge(&references.policies, api.namespace, api.name, &channel.name).policy
                    };
                    let told_of = policy_changes(&policy(&old), &policy(&new)).into_iter();
                    told.extend(told_of.map(|what| format!("channel {}: {what}", channel.name)));
                }
                told
            }
            _ => vec!["is new".to_owned()],
        };
        found.insert(format!("{}/{}", api.namespace, api.name), told);
    }
    for api in old.apis.iter().filter(|was| !new.apis.iter().any(|api| same(was, api))) {
        let told = "is removed; its clients are sent away and get 404".to_owned();
        found.insert(format!("{}/{}", api.namespace, api.name), vec![told]);
    }
    for gateway in &new.gateways {
        let is_it = |was: &&Gateway<'_>| (was.namespace, was.name) == (gateway.namespace, gateway.name);
        let told = match old.gateways.iter().find(is_it) {
            Some(was) => {
                let owner = Owner::gateway(gateway.namespace, gateway.name, None);
                let is_on = |api: &&Api<'_>| {
                    let reference = api.spec.and_then(|spec| spec.placement.gateway());
                    reference.is_some_and(|it| {
                        (it.namespace(api.namespace), it.name.as_str()) == (gateway.namespace, gateway.name)
                    })
                };
                let apis = new.apis.iter().filter(is_on).map(|api| (api.namespace, api.name));
                gateway_impact(&owner, was.spec, gateway.spec, apis, settings)
            }
            None => vec!["is new".to_owned()],
        };
        found.insert(format!("StreamGateway {}/{}", gateway.namespace, gateway.name), told);
    }
    found.retain(|_, told| !told.is_empty());
    found
}

/// What another policy in force means for those who are connected.
fn policy_changes(old: &ChannelPolicy, new: &ChannelPolicy) -> Vec<&'static str> {
    let changed = [
        (
            old.authentication != new.authentication,
            "`authentication` changes; streams that it would not let in are closed within 5 s",
        ),
        (
            old.cors != new.cors,
            "`cors` changes; streams from origins that it does not name are closed within 5 s",
        ),
        (old.limits != new.limits, "`limits` change; they hold for what comes from then on"),
    ];
    changed.into_iter().filter(|(changed, _)| *changed).map(|(_, what)| what).collect()
}

fn channel(
    api: &str,
    (old, before): (&StreamApiSpec, &Channel),
    (new, after): (&StreamApiSpec, &Channel),
) -> Vec<String> {
    let mut found = Vec::new();
    let mut tell = |what: String| found.push(format!("channel {}: {what}", before.name));
    let (old_path, new_path) = (path(api, old, before), path(api, new, after));
    if old_path != new_path {
        tell(format!(
            "moves from {old_path} to {new_path}; open streams stay, requests to {old_path} get 404"
        ));
    }
    if before.subscribe.is_some() && after.subscribe.is_some() && !same_messages(old, before, new, after) {
        tell(
            "reads other messages; its subscribers are sent away and told a gap when they come back with a cursor"
                .into(),
        );
    }
    for (name, had, has) in [
        ("WebSocket", websocket(before), websocket(after)),
        ("SSE", sse(before), sse(after)),
        ("HTTP publish", http_publish(before), http_publish(after)),
        ("WebSocket publish", websocket_publish(before), websocket_publish(after)),
    ] {
        if had && !has {
            tell(format!("{name} is switched off; who uses it is sent away"));
        }
    }
    if before.publish.is_some() && after.publish.is_some() && before.message.payload != after.message.payload
    {
        tell(match &after.message.payload {
            Some(_) => "messages that do not fit the new `message.payload` are refused from then on".into(),
            None => "messages are no longer validated, for `message.payload` is gone".into(),
        });
    }
    let formats = |subscribe: &Option<Subscribe>| subscribe.as_ref().map(|it| it.formats.clone());
    if let (Some(had), Some(has)) = (formats(&before.subscribe), formats(&after.subscribe)) {
        let gone: Vec<String> =
            had.iter().filter(|format| !has.contains(format)).map(|format| format!("{format:?}")).collect();
        if !gone.is_empty() {
            tell(format!("format {} is switched off; who reads it is sent away", gone.join(", ")));
        }
    }
    found
}

/// Whether a subscriber reads on as if nothing had happened.
fn same_messages(old: &StreamApiSpec, before: &Channel, new: &StreamApiSpec, after: &Channel) -> bool {
    let kind = |spec: &StreamApiSpec, channel: &Channel| {
        spec.servers.iter().find(|server| server.name == channel.server).map(|server| server.kind.clone())
    };
    let same_server = match (kind(old, before), kind(new, after)) {
        (Some(ServerKind::Kafka(before)), Some(ServerKind::Kafka(after))) => before.brokers == after.brokers,
        (before, after) => before.is_some() && before == after,
    };
    same_server && before.address == after.address
}

fn websocket(channel: &Channel) -> bool {
    channel.subscribe.as_ref().is_some_and(|subscribe| subscribe.transports.websocket.is_some())
}

fn sse(channel: &Channel) -> bool {
    channel.subscribe.as_ref().is_some_and(|subscribe| subscribe.transports.sse.is_some())
}

fn http_publish(channel: &Channel) -> bool {
    channel.publish.as_ref().is_some_and(|publish| publish.transports.http.is_some())
}

fn websocket_publish(channel: &Channel) -> bool {
    channel.publish.as_ref().is_some_and(|publish| publish.transports.websocket.is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec() -> Value {
        json!({
            "servers": [{"name": "events", "kafka": {"brokers": ["kafka:9092"]}}, {"name": "log", "memory": {}}],
            "channels": [
                {"name": "orders", "server": "events", "address": "orders.v1",
                 "subscribe": {"transports": {"websocket": {}, "sse": {}}},
                 "publish": {"transports": {"http": {}, "websocket": {}}}},
                {"name": "notes", "server": "log", "address": "notes", "subscribe": {"transports": {"sse": {}}}},
            ],
        })
    }

    /// What setting `pointer` to `value` would do; null removes.
    fn told(pointer: &str, value: Value) -> Vec<String> {
        let (old, mut new) = (spec(), spec());
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
        match new.pointer_mut(parent).expect(pointer) {
            Value::Object(map) if value.is_null() => drop(map.remove(field)),
            Value::Object(map) => drop(map.insert(field.into(), value)),
            Value::Array(list) => drop(list.remove(field.parse().expect("an index"))),
            other => panic!("{pointer} is below {other}"),
        }
        let owner = Owner::api("a", "shop", None);
        let read = |spec: Value| serde_json::from_value(spec).expect("a spec");
        impact(&owner, &read(old), &read(new), &Settings::default())
    }

    #[test]
    fn a_gateway_tells_who_loses_it() {
        let spec = |text: &str| serde_json::from_str::<StreamGatewaySpec>(text).expect("a gateway");
        let told = |old: &str, new: &str| {
            let owner = Owner::gateway("infra", "edge", None);
            let apis = [("infra", "own"), ("a", "shop"), ("b", "chat")].into_iter();
            gateway_impact(&owner, &spec(old), &spec(new), apis, &Settings::default())
        };
        let (all, some) = (
            r#"{"allowedNamespaces": {"from": "All"}}"#,
            r#"{"allowedNamespaces": {"from": "Names", "names": ["a"]}}"#,
        );
        assert!(told(some, all).is_empty() && told("{}", r#"{"replicas": 5}"#).is_empty());
        assert!(told(all, some)[0].ends_with("get 404: b/chat"), "{:?}", told(all, some));
        assert!(told(all, "{}")[0].ends_with("get 404: a/shop, b/chat"));
        let rolled = told("{}", r#"{"podTemplate": {"labels": {"a": "b"}}}"#);
        assert!(rolled.len() == 1 && rolled[0].starts_with("pods are replaced"), "{rolled:?}");
    }

    #[test]
    fn clients_outside_lose_names_and_not_what_leads_there() {
        let told = |old: &str, new: &str| {
            let read = |text: &str| serde_json::from_str::<StreamGatewaySpec>(text).expect("a gateway");
            let owner = Owner::gateway("infra", "edge", None);
            gateway_impact(&owner, &read(old), &read(new), std::iter::empty(), &Settings::default())
        };
        let ingress = |host: &str| {
            format!(r#"{{"exposure": {{"ingress": {{"host": "{host}", "className": "nginx"}}}}}}"#)
        };
        let route =
            r#"{"exposure": {"httpRoute": {"parentRefs": [{"name": "edge"}], "hostnames": ["a.b", "c.b"]}}}"#;
        assert!(told("{}", route).is_empty() && told(&ingress("a.b"), route).is_empty());
        assert_eq!(told(route, &ingress("a.b")), ["clients outside the cluster no longer find it at c.b"]);
        assert_eq!(told(route, "{}"), ["clients outside the cluster no longer find it at a.b, c.b"]);
    }

    #[test]
    fn what_a_change_does_is_told_and_nothing_else() {
        for (pointer, value, expected) in [
            ("/description", json!("new"), &[][..]),
            ("/channels/0/subscribe/replay", json!({"messages": 5}), &[]),
            ("/channels/1/message", json!({"contentType": "text/plain"}), &[]),
            (
                "/channels/0/message",
                json!({"payload": {"type": "object"}}),
                &[
                    "channel orders: messages that do not fit the new `message.payload` are refused from then on",
                ],
            ),
            ("/channels/1/message", json!({"payload": {"type": "object"}}), &[]),
            ("/channels/1", Value::Null, &["channel notes: is removed"]),
            ("/channels/0/address", json!("orders.v2"), &["channel orders: reads other messages"]),
            ("/channels/0/server", json!("log"), &["channel orders: reads other messages"]),
            ("/channels/0/path", json!("/other"), &["moves from /shop/orders to /shop/other"]),
            ("/basePath", json!("/s"), &["/s/orders", "/s/notes"]),
            ("/channels/0/subscribe/transports/websocket", Value::Null, &["WebSocket is switched off"]),
            ("/channels/0/subscribe/transports/sse", Value::Null, &["SSE is switched off"]),
            ("/channels/0/publish/transports/http", Value::Null, &["HTTP publish is switched off"]),
            ("/channels/0/publish", Value::Null, &["HTTP publish", "WebSocket publish"]),
            (
                "/servers/0/kafka",
                json!({"brokers": ["kafka:9092"], "properties": {"fetch.min.bytes": "1000"}}),
                &["server events: the broker is connected anew"],
            ),
            (
                "/servers/0/kafka",
                json!({"brokers": ["other:9092"]}),
                &["channel orders: reads other messages", "server events"],
            ),
            ("/lifecycle", json!({"state": "Blocked"}), &["every open stream is closed"]),
            ("/placement", json!({"deployment": {"replicas": 3}}), &[]),
            (
                "/placement",
                json!({"deployment": {"podTemplate": {"labels": {"a": "b"}}}}),
                &["pods are replaced one by one"],
            ),
            (
                "/placement",
                json!({"gateway": {"name": "edge"}}),
                &["from the Service shop-sluice to the StreamGateway a/edge"],
            ),
            ("/placement", json!({"sidecar": {}}), &["to sidecars"]),
        ] {
            let found = told(pointer, value);
            let fits = found.len() == expected.len()
                && found.iter().zip(expected).all(|(found, part)| found.contains(part));
            assert!(fits, "{pointer}: {found:#?}");
        }
    }
}
