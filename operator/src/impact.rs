//! What a change of a StreamAPI would do to those who use it, before it is made: pure.
//!
//! It tells what `runtime` of the data plane and the Deployment controller do with the same
//! difference: whose streams end, which brokers are connected anew, whether pods are replaced.

use std::collections::BTreeMap;

use sluice_config::channel::{LifecycleState, Subscribe, path};
use sluice_config::placement::{Deployment, Placement, StreamGatewaySpec};
use sluice_config::server::ServerKind;
use sluice_config::{Channel, Config, StreamApiSpec};

use crate::children::{Owner, Settings, pod_template};
use crate::dereference::{Api, Gateway, References, dereference};
use crate::merge::merge;
use crate::objects::Objects;
use crate::report::some;
use crate::streams::{ByApi, Open, Streams};

mod consequences;

pub use consequences::Impact;
use consequences::{Fate, Transport, among, open_now};

const BOTH: &[Transport] = &[Transport::WebSocket, Transport::Sse];
const WEBSOCKET: &[Transport] = &[Transport::WebSocket];
const SSE: &[Transport] = &[Transport::Sse];
const NONE: &[Transport] = &[];

/// The consequences of turning `old`, of which `streams` are open if that is known, into `new`.
pub fn impact(
    owner: &Owner<'_>,
    old: &StreamApiSpec,
    new: &StreamApiSpec,
    settings: &Settings,
    streams: Option<&Streams>,
) -> Impact {
    let mut impact = Impact::on_api(old, streams);
    if old.lifecycle.state != LifecycleState::Blocked && new.lifecycle.state == LifecycleState::Blocked {
        let open = open_now(impact.meet_all(Fate::Closed));
        impact.tell(format!(
            "every open stream is closed{open} and every request refused: `lifecycle.state` is Blocked"
        ));
    }
    for before in &old.channels {
        match new.channels.iter().find(|channel| channel.name == before.name) {
            Some(after) => channel(&mut impact, owner.name, (old, before), (new, after)),
            None => {
                let open = open_now(impact.meet_of(before, BOTH, Fate::Closed));
                impact.tell_of(before, &format!("is removed; its clients{open} are sent away and get 404"));
            }
        }
    }
    for before in &old.servers {
        let after = new.servers.iter().find(|server| server.name == before.name);
        if after.is_some_and(|after| matches!(after.kind, ServerKind::Kafka(_)) && after.kind != before.kind)
        {
            impact.servers += 1;
            impact.tell(format!("server {}: the broker is connected anew", before.name));
        }
    }
    let deployments = [old, new].map(|spec| spec.placement.deployment());
    impact.told.extend(hidden(deployments));
    let (before, after) = (place(owner, old), place(owner, new));
    if before == after {
        impact.is_whole = match (&old.placement, &new.placement) {
            (Placement::Deployment(had), Placement::Deployment(has)) => had.exposure == has.exposure,
            (Placement::Sidecar(had), Placement::Sidecar(has)) => had == has,
            _ => true,
        };
        pods(&mut impact, owner, deployments, settings, ", because of `placement`");
    } else {
        let open = open_now(impact.meet_all(Fate::Closed));
        impact.tell(format!(
            "it moves from {before} to {after}: clients have to go there, and open streams end{open}"
        ));
    }
    impact
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

/// What becomes of pods that are made from another template, or that are too many; `why` they are.
fn pods(
    impact: &mut Impact,
    owner: &Owner<'_>,
    deployments: [Option<&Deployment>; 2],
    settings: &Settings,
    why: &str,
) {
    let [old, new] = deployments.map(|deployment| pod_template(owner, deployment, settings));
    if old != new {
        let open = open_now(impact.meet_all(Fate::Moves));
        impact.tell(format!("pods are replaced one by one, and clients of each move to another{open}{why}"));
    }
    let most = |deployment: &Deployment| {
        deployment.autoscaling.as_ref().map_or(deployment.replicas, |autoscaling| autoscaling.max_replicas)
    };
    let [Some(old), Some(new)] = deployments.map(|deployment| deployment.map(most)) else { return };
    if new == 0 && old > 0 {
        let open = open_now(impact.meet_all(Fate::Closed));
        impact.tell(format!("no pod is left: every open stream is closed{open}{why}"));
    } else if new < old {
        let open = among(impact.meet_all(Fate::MayMove));
        impact.tell(format!(
            "of {old} pods at most {new} stay, and clients of the others move to these{open}{why}"
        ));
    }
}

/// What becomes of clients outside the cluster who ask by names that are no longer there.
fn hidden(deployments: [Option<&Deployment>; 2]) -> Option<String> {
    let hosts = |deployment: &Deployment| deployment.exposure.as_deref().map(|it| it.hosts().to_vec());
    let [old, new] = deployments.map(|deployment| deployment.and_then(hosts).unwrap_or_default());
    let lost: Vec<String> = old.into_iter().filter(|host| !new.contains(host)).collect();
    (!lost.is_empty()).then(|| format!("clients outside the cluster no longer find it at {}", some(&lost)))
}

/// The consequences of turning a gateway's `old` into `new` for those who use the APIs that are placed on it
/// (namespace and name), of which `streams` are open if that is known.
pub fn gateway_impact<'a>(
    owner: &Owner<'_>,
    [old, new]: [&StreamGatewaySpec; 2],
    apis: impl Iterator<Item = (&'a str, &'a str)>,
    settings: &Settings,
    streams: Option<&ByApi>,
) -> Impact {
    let mut impact = Impact::on_gateway(streams);
    impact.is_whole = old.deployment.exposure == new.deployment.exposure;
    let deployments = [Some(&old.deployment), Some(&new.deployment)];
    impact.told.extend(hidden(deployments));
    pods(&mut impact, owner, deployments, settings, "");
    let loses = |namespace: &str| {
        old.allowed_namespaces.includes(owner.namespace, namespace)
            && !new.allowed_namespaces.includes(owner.namespace, namespace)
    };
    let lost = apis.filter(|(namespace, _)| loses(namespace));
    let lost: Vec<String> = lost.map(|(namespace, name)| format!("{namespace}/{name}")).collect();
    if !lost.is_empty() {
        let open = open_now(impact.meet(Fate::Closed, |api, _| lost.iter().any(|lost| lost == api)));
        impact.tell(format!(
            "its APIs of namespaces that are no longer allowed are served no longer, and their clients{open} get \
             404: {}",
            some(&lost)
        ));
    }
    impact
}

/// What turning the policies of `before` into those of `after` means for those who are connected to the APIs of
/// `after`, which is rendered as `config`, of which `streams` are open if that is known. What only holds for what comes
/// from then on is not told, nor what happens to a channel that nobody is connected to.
pub fn policy_impact(before: &Objects, after: &Objects, config: &Config, streams: Option<&ByApi>) -> Impact {
    let nothing = Config::default();
    let (old, new) = (dereference(before, &nothing), dereference(after, &nothing));
    let mut all = Impact::on_nobody();
    for api in &new.apis {
        let Some(spec) = api.spec else { continue };
        let key = format!("{}/{}", api.namespace, api.name);
        let streams = streams.map(|streams| streams.get(&key).cloned().unwrap_or_default());
        let mut impact = Impact::on_api(spec, streams.as_ref());
        let whose = format!("StreamAPI {}: ", api.name);
        for channel in &spec.channels {
            for (what, _) in policy_changes([&old, &new], api, channel).filter(|(_, is_checked)| *is_checked)
            {
                let open = impact.meet_of(channel, BOTH, Fate::Checked);
                if open != Some(Open::default()) {
                    let open = among(open);
                    impact.tell(format!("{whose}channel {}: {what}{open}", channel.name));
                }
            }
        }
        if let Some(entry) = config.apis.get(&key) {
            impact.close(entry, &whose);
        }
        all.join(impact);
    }
    all
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
                let mut told = impact(&owner, was, spec, settings, None).told;
                for channel in spec
                    .channels
                    .iter()
                    .filter(|channel| was.channels.iter().any(|it| it.name == channel.name))
                {
                    let changes = policy_changes([&old, &new], api, channel);
                    told.extend(changes.map(|(what, _)| format!("channel {}: {what}", channel.name)));
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
                gateway_impact(&owner, [was.spec, gateway.spec], apis, settings, None).told
            }
            None => vec!["is new".to_owned()],
        };
        found.insert(format!("StreamGateway {}/{}", gateway.namespace, gateway.name), told);
    }
    found.retain(|_, told| !told.is_empty());
    found
}

/// What becoming the other policy in force means for those who are connected to a channel, and whether their
/// streams are checked anew for it.
fn policy_changes(
    references: [&References<'_>; 2],
    api: &Api<'_>,
    channel: &Channel,
) -> impl Iterator<Item = (&'static str, bool)> + use<> {
    let [old, new] = references
        .map(|references| merge(&references.policies, api.namespace, api.name, &channel.name).policy);
    let changed = [
        (
            old.authentication != new.authentication,
            "`authentication` changes; streams that it would not let in are closed within 5 s",
            true,
        ),
        (
            old.cors != new.cors,
            "`cors` changes; streams from origins that it does not name are closed within 5 s",
            true,
        ),
        (old.limits != new.limits, "`limits` change; they hold for what comes from then on", false),
    ];
    changed.into_iter().filter(|(changed, ..)| *changed).map(|(_, what, is_checked)| (what, is_checked))
}

/// What becomes of those who use a channel that stays.
fn channel(
    impact: &mut Impact,
    api: &str,
    (old, before): (&StreamApiSpec, &Channel),
    (new, after): (&StreamApiSpec, &Channel),
) {
    let (old_path, new_path) = (path(api, old, before), path(api, new, after));
    if old_path != new_path {
        let what =
            format!("moves from {old_path} to {new_path}; open streams stay, requests to {old_path} get 404");
        impact.tell_of(before, &what);
    }
    // Where WebSocket does not read, whoever has one only publishes.
    let readers = if websocket(before) { BOTH } else { SSE };
    if before.subscribe.is_some() && after.subscribe.is_some() && !same_messages(old, before, new, after) {
        let open = open_now(impact.meet_of(before, readers, Fate::Closed));
        let what = format!(
            "reads other messages; its subscribers{open} are sent away and told a gap when they come back with a cursor"
        );
        impact.tell_of(before, &what);
    }
    // A WebSocket that reads stays open.
    let publishers = if websocket(before) && websocket(after) { NONE } else { WEBSOCKET };
    for (name, had, has, transports) in [
        ("WebSocket", websocket(before), websocket(after), WEBSOCKET),
        ("SSE", sse(before), sse(after), SSE),
        ("HTTP publish", http_publish(before), http_publish(after), NONE),
        ("WebSocket publish", websocket_publish(before), websocket_publish(after), publishers),
    ] {
        if !had || has {
            continue;
        }
        let what = if transports.is_empty() {
            "who publishes by it is refused".to_owned()
        } else {
            let open = open_now(impact.meet_of(before, transports, Fate::Closed));
            format!("who uses it{open} is sent away")
        };
        impact.tell_of(before, &format!("{name} is switched off; {what}"));
    }
    if before.publish.is_some() && after.publish.is_some() && before.message.payload != after.message.payload
    {
        let what = match &after.message.payload {
            Some(_) => "messages that do not fit the new `message.payload` are refused from then on",
            None => "messages are no longer validated, for `message.payload` is gone",
        };
        impact.tell_of(before, what);
    }
    let formats = |subscribe: &Option<Subscribe>| subscribe.as_ref().map(|it| it.formats.clone());
    if let (Some(had), Some(has)) = (formats(&before.subscribe), formats(&after.subscribe)) {
        let gone: Vec<String> =
            had.iter().filter(|format| !has.contains(format)).map(|format| format!("{format:?}")).collect();
        if !gone.is_empty() {
            let open = among(impact.meet_of(before, readers, Fate::Checked));
            let what = format!("format {} is switched off; who reads it{open} is sent away", gone.join(", "));
            impact.tell_of(before, &what);
        }
    }
}

/// Whether a subscriber reads on as if nothing had happened.
fn same_messages(old: &StreamApiSpec, before: &Channel, new: &StreamApiSpec, after: &Channel) -> bool {
    let kind = |spec: &StreamApiSpec, channel: &Channel| {
        spec.servers.iter().find(|server| server.name == channel.server).map(|server| server.kind.clone())
    };
    let same_server = match (kind(old, before), kind(new, after)) {
        (Some(ServerKind::Kafka(had)), Some(ServerKind::Kafka(has))) => had.brokers == has.brokers,
        // What is in memory is a server's own.
        (Some(ServerKind::Memory(_)), Some(ServerKind::Memory(_))) => before.server == after.server,
        (Some(ServerKind::Generator(_)), Some(ServerKind::Generator(_))) => true,
        _ => false,
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
mod tests;
