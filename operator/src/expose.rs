//! Makes a StreamAPI of the Service of a broker that is labelled and annotated for it: pure.
//!
//! What is made lets clients read and nothing else: that is what exposing a stream means. Who is to write to a broker,
//! and as whom it is logged in to, is said in a StreamAPI of one's own.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use sluice_config::Problem;
use sluice_config::check::{check_api, is_name, is_topic};
use sluice_config::shown::clip;
use sluice_crds::schema::NAME_LENGTH;
use sluice_crds::{GROUP, VERSION};

use crate::children::{APPLIED, Child, ChildKind, MANAGED_BY};
use crate::read::{self, Object};

/// Label of the Services that are looked at: `"true"`.
pub const LABEL: &str = "sluice.dev/expose";
/// Annotation with the addresses that become channels, separated by commas. Without it nothing is made.
pub const CHANNELS: &str = "sluice.dev/channels";
/// Annotation with what the broker speaks. Default: the `appProtocol` of the port.
pub const PROTOCOL: &str = "sluice.dev/protocol";
/// Annotation with the number or the name of the port. Default: the only one, else the one that speaks `kafka`.
pub const PORT: &str = "sluice.dev/port";
/// Annotation with the name of the StreamAPI. Default: that of the Service.
pub const API: &str = "sluice.dev/api";
/// Annotation with the StreamGateway that serves it, `[namespace/]name`. Default: pods of its own.
pub const GATEWAY: &str = "sluice.dev/gateway";

/// The protocol that can be exposed.
const KAFKA: &str = "kafka";
/// What the server of a StreamAPI that was made is called.
const SERVER: &str = "broker";
/// Most channels of a StreamAPI.
const MAX_CHANNELS: usize = 256;
/// What to do where an annotation cannot say enough.
const OWN: &str = "write a StreamAPI of your own that names the channel";

/// The name of the StreamAPI that `service` asks for, whether there can be one of that name or not.
pub fn wanted(service: &DynamicObject) -> Option<&str> {
    annotation(service, CHANNELS)?;
    annotation(service, API).or(service.metadata.name.as_deref())
}

/// The Service that is the controller of `api`, if one is.
pub fn maker(api: &DynamicObject) -> Option<&OwnerReference> {
    let mut owners = api.owner_references().iter();
    owners
        .find(|owner| owner.controller == Some(true) && owner.api_version == "v1" && owner.kind == "Service")
}

/// Whether `api` was made from a Service that does not ask for it any more; `service` is what there is of that name.
/// A name that there cannot be is a slip of the pen, which costs nobody a stream.
pub fn is_left(api: &DynamicObject, service: Option<&DynamicObject>) -> bool {
    let Some(maker) = maker(api).filter(|_| api.annotations().contains_key(APPLIED)) else { return false };
    let asks = |service: &&DynamicObject| {
        service.metadata.uid.as_ref() == Some(&maker.uid) && service.metadata.deletion_timestamp.is_none()
    };
    match service.filter(asks).and_then(wanted) {
        Some(name) => is_name(name) && api.metadata.name.as_deref() != Some(name),
        None => true,
    }
}

/// The StreamAPI that `service` asks for, or everything that is wrong with how it does.
pub fn expose(service: &DynamicObject) -> Result<Child, Vec<Problem>> {
    let Some(api) = wanted(service) else {
        let message = "is missing; name the topics to expose, separated by commas, or take the label away";
        return Err(vec![Problem::new(CHANNELS, message)]);
    };
    let mut problems = Vec::new();
    if !is_name(api) {
        problems.push(Problem::new(
            API,
            format!(
                "`{}` cannot name a StreamAPI; name one with at most {NAME_LENGTH} characters of a-z, 0-9 and -, that starts \
                 with a letter and does not end with -",
                clip(api)
            ),
        ));
    }
    let port = port(service).map_err(|problem| problems.push(problem));
    let channels = channels(service, &mut problems);
    let placement = placement(service).map_err(|problem| problems.push(problem));
    let (Ok(port), Ok(placement)) = (port, placement) else { return Err(problems) };
    if !problems.is_empty() {
        return Err(problems);
    }
    let (name, namespace) = (service.name_any(), service.namespace().unwrap_or_default());
    let broker = format!("{name}.{namespace}.svc:{port}");
    let mut body = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"), "kind": ChildKind::StreamApi.names().2,
        "metadata": {
            "name": api, "namespace": namespace, "labels": {(MANAGED_BY.0): MANAGED_BY.1},
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": name, "uid": service.uid().unwrap_or_default(),
                "controller": true,
            }],
        },
        "spec": {"servers": [{"name": SERVER, (KAFKA): {"brokers": [broker]}}], "channels": channels},
    });
    if let Some(placement) = placement {
        body["spec"]["placement"] = placement;
    }
    match read::read(body.clone(), &namespace) {
        Ok(Object::Api(built)) => problems.extend(check_api(api, &built.spec.0)),
        Ok(_) => unreachable!("a StreamAPI was built"),
        Err(unread) => problems.extend(unread.problems),
    }
    if problems.is_empty() {
        Ok(Child::sealed(ChildKind::StreamApi, api.to_owned(), body))
    } else {
        Err(problems)
    }
}

/// The value of an annotation; one without anything in it is none.
fn annotation<'a>(service: &'a DynamicObject, name: &str) -> Option<&'a str> {
    let value = service.metadata.annotations.as_ref()?.get(name)?.trim();
    (!value.is_empty()).then_some(value)
}

/// The port at which the broker speaks what can be exposed.
fn port(service: &DynamicObject) -> Result<i32, Problem> {
    let spec = &service.data["spec"];
    if spec["type"] == "ExternalName" {
        let message = "an ExternalName is another name of something elsewhere; write a StreamAPI with its brokers instead";
        return Err(Problem::new("spec.type", message));
    }
    let ports: Vec<ServicePort> = serde_json::from_value(spec["ports"].clone()).unwrap_or_default();
    let port = chosen(annotation(service, PORT), &ports)?;
    let spoken = annotation(service, PROTOCOL).or_else(|| app_protocol(port));
    let is_tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    match spoken {
        Some(KAFKA) if is_tcp => Ok(port.port),
        Some(KAFKA) => {
            let message = format!("port {} is not one of TCP; name another", port.port);
            Err(Problem::new(PORT, message))
        }
        Some(other) => {
            let message = format!("`{}` cannot be exposed by this build; only `{KAFKA}` can", clip(other));
            Err(Problem::new(PROTOCOL, message))
        }
        None => {
            let message = format!("is missing, and port {} has no `appProtocol`; write `{KAFKA}`", port.port);
            Err(Problem::new(PROTOCOL, message))
        }
    }
}

/// The port that is asked for: by number or name, else the only one, else the only one that speaks `kafka`.
fn chosen<'a>(asked: Option<&str>, ports: &'a [ServicePort]) -> Result<&'a ServicePort, Problem> {
    let named = |port: &&ServicePort| {
        asked.is_some_and(|asked| port.name.as_deref() == Some(asked) || port.port.to_string() == asked)
    };
    let suitable: Vec<_> = match (asked, ports) {
        (Some(_), _) => ports.iter().filter(named).collect(),
        (None, [port]) => vec![port],
        (None, _) => ports.iter().filter(|port| app_protocol(port) == Some(KAFKA)).collect(),
    };
    if let &[port] = suitable.as_slice() {
        return Ok(port);
    }
    let all: Vec<_> = ports.iter().map(|port| port.port.to_string()).collect();
    let all = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
    let message = match asked {
        Some(asked) => format!("`{}` is not one port of the Service; its ports are: {all}", clip(asked)),
        None => format!("is missing, and the ports do not tell which one is meant; name one of: {all}"),
    };
    Err(Problem::new(PORT, message))
}

/// What is spoken at a port, without the domain of whoever defined that.
fn app_protocol(port: &ServicePort) -> Option<&str> {
    port.app_protocol.as_deref().map(|protocol| protocol.rsplit('/').next().unwrap_or(protocol))
}

/// A channel for each address.
fn channels(service: &DynamicObject, problems: &mut Vec<Problem>) -> Vec<Value> {
    let text = annotation(service, CHANNELS).unwrap_or_default();
    let addresses: Vec<_> = text.split(',').map(str::trim).filter(|address| !address.is_empty()).collect();
    let mut tell = |message: String| problems.push(Problem::new(CHANNELS, message));
    match addresses.len() {
        0 => tell("names no topic; name those to expose, separated by commas".to_owned()),
        count if count > MAX_CHANNELS => {
            tell(format!(
                "names {count} topics, and a StreamAPI has at most {MAX_CHANNELS}; use several Services"
            ));
            return Vec::new();
        }
        _ => {}
    }
    let mut names: BTreeMap<String, &str> = BTreeMap::new();
    let mut channels = Vec::new();
    for address in addresses {
        let name = channel_name(address);
        if !is_topic(address) {
            tell(format!("`{}` is not a Kafka topic; use a-z, A-Z, 0-9, '.', '_' and '-'", clip(address)));
        } else if !is_name(&name) {
            let address = clip(address);
            tell(format!("no channel can be named after `{address}`, for names start with a letter; {OWN}"));
        } else if let Some(other) = names.insert(name.clone(), address) {
            let (one, other) = (clip(other), clip(address));
            tell(format!(
                "`{one}` and `{other}` would both be the channel `{name}`; keep one of them, or {OWN}"
            ));
        } else {
            channels.push(json!({
                "name": name, "server": SERVER, "address": address,
                "subscribe": {"transports": {"websocket": {}, "sse": {}}},
            }));
        }
    }
    channels
}

/// The name of the channel at `address`: what a name may have of it.
fn channel_name(address: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = address.chars().map(plain).collect();
    let name: String = name.trim_matches('-').chars().take(NAME_LENGTH).collect();
    name.trim_end_matches('-').to_owned()
}

/// Where the API is placed, if that is said.
fn placement(service: &DynamicObject) -> Result<Option<Value>, Problem> {
    let Some(text) = annotation(service, GATEWAY) else { return Ok(None) };
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, text),
    };
    if !is_name(name) || namespace.is_some_and(str::is_empty) {
        let message = format!("`{}` names no StreamGateway; write `name` or `namespace/name`", clip(text));
        return Err(Problem::new(GATEWAY, message));
    }
    let mut gateway = json!({"name": name});
    if let Some(namespace) = namespace {
        gateway["namespace"] = namespace.into();
    }
    Ok(Some(json!({"gateway": gateway})))
}

#[cfg(test)]
mod tests;
