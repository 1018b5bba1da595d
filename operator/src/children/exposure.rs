//! What stands in front of a data plane's Service, so that clients outside the cluster reach it. Pure.
//!
//! Nothing that a user wrote becomes an annotation: there is a fixed list of them for each controller.

use serde_json::{Map, Value, json};
use sluice_config::Config;
use sluice_config::channel::base_path;
use sluice_config::placement::{
    Controller, Deployment, Exposure, HttpRoute, Ingress, Listener, ParentRef, Protocol,
};

use super::{ANNOTATIONS, ChildKind, GATEWAY_GROUP, Owner, Settings};
use crate::objects::Kind;

/// How long a stream may be silent, in seconds: twice as long as its `heartbeatInterval` or `pingInterval` can be.
const SILENCE_SECONDS: u32 = 2 * 60 * 60;

/// Kind of what is made for `exposure`.
pub const fn kind(exposure: &Exposure) -> ChildKind {
    match exposure {
        Exposure::Ingress(_) => ChildKind::Ingress,
        Exposure::HttpRoute(_) => ChildKind::HttpRoute,
    }
}

/// Where an `exposure` says which kind it is.
pub const fn field(exposure: &Exposure) -> &'static str {
    match exposure {
        Exposure::Ingress(_) => "exposure.ingress",
        Exposure::HttpRoute(_) => "exposure.httpRoute",
    }
}

/// Why an operator with `settings` does not make what `deployment` asks for.
pub fn obstacle(deployment: &Deployment, settings: &Settings) -> Option<String> {
    let exposure = deployment.exposure.as_deref()?;
    let (what, field) = (kind(exposure).names().2, field(exposure));
    (!settings.allows(kind(exposure))).then(|| {
        format!(
            "no {what} is made, for that is switched off by the chart's {field}; have whoever installed the operator set it \
             to true, or remove `{field}`"
        )
    })
}

/// What `deployment` asks for in front of the Service of `owner`, which serves `config`.
pub(super) fn build(
    owner: &Owner<'_>,
    deployment: &Deployment,
    config: &Config,
) -> Option<(ChildKind, Value)> {
    let exposure = deployment.exposure.as_deref()?;
    let listener = deployment.listener(Protocol::Http).or_else(|| deployment.listener(Protocol::Https))?;
    let path = prefix(owner, config);
    let content = match exposure {
        Exposure::Ingress(asked) => ingress(owner, asked, &path, listener),
        Exposure::HttpRoute(asked) => http_route(owner, asked, &path, listener),
    };
    Some((kind(exposure), content))
}

/// Below which path `owner` serves something: an API on its own below its base path, a gateway anywhere.
fn prefix(owner: &Owner<'_>, config: &Config) -> String {
    let own = config.apis.get(&format!("{}/{}", owner.namespace, owner.name));
    match own.filter(|_| owner.kind == Kind::StreamApi) {
        Some(entry) => base_path(owner.name, &entry.api.spec),
        None => "/".to_owned(),
    }
}

fn ingress(owner: &Owner<'_>, asked: &Ingress, path: &str, listener: &Listener) -> Value {
    let service = json!({"name": owner.child_name(), "port": {"number": listener.service_port()}});
    let tls: Vec<_> = asked
        .tls_secret_name
        .iter()
        .map(|secret| json!({"hosts": [asked.host], "secretName": secret}))
        .collect();
    let mut content = json!({"spec": {
        "ingressClassName": asked.class_name,
        "rules": [{"host": asked.host, "http": {"paths": [
            {"path": path, "pathType": "Prefix", "backend": {"service": service}},
        ]}}],
        "tls": tls,
    }});
    let annotations = annotations(asked.controller, listener.protocol);
    if !annotations.is_empty() {
        content[ANNOTATIONS] = annotations.into();
    }
    content
}

/// What a controller is told, beside the Ingress itself, about streams from a listener of that protocol.
fn annotations(controller: Controller, protocol: Protocol) -> Map<String, Value> {
    let silence = SILENCE_SECONDS.to_string();
    let (domain, always, https) = match controller {
        Controller::None => return Map::new(),
        Controller::Nginx => (
            "nginx.ingress.kubernetes.io",
            vec![
                ("proxy-read-timeout", silence.clone()),
                ("proxy-send-timeout", silence),
                ("proxy-buffering", "off".into()),
                ("proxy-request-buffering", "off".into()),
                // The data plane knows how large a message may be, and says so in its own words.
                ("proxy-body-size", "0".into()),
            ],
            ("backend-protocol", "HTTPS".to_owned()),
        ),
        // `timeout-client` and `timeout-tunnel` it reads from its ConfigMap only.
        Controller::HaProxy => (
            "haproxy.org",
            vec![("timeout-server", format!("{silence}s"))],
            ("server-ssl", "true".to_owned()),
        ),
    };
    let https = (protocol == Protocol::Https).then_some(https);
    let all = always.into_iter().chain(https);
    all.map(|(name, value)| (format!("{domain}/{name}"), value.into())).collect()
}

fn http_route(owner: &Owner<'_>, asked: &HttpRoute, path: &str, listener: &Listener) -> Value {
    let parent = |parent: &ParentRef| {
        let mut parent = json!(parent);
        parent["group"] = GATEWAY_GROUP.into();
        parent["kind"] = "Gateway".into();
        parent
    };
    json!({"spec": {
        "parentRefs": asked.parent_refs.iter().map(parent).collect::<Vec<_>>(),
        "hostnames": asked.hostnames,
        "rules": [{
            "matches": [{"path": {"type": "PathPrefix", "value": path}}],
            // Said although it is the default: so what somebody sets there by hand is noticed.
            "filters": [],
            "backendRefs": [
                {"group": "", "kind": "Service", "name": owner.child_name(), "port": listener.service_port()},
            ],
            // No end (GEP-1742): what is not said is up to the implementation, and for some that is 15 seconds.
            "timeouts": {"request": "0s"},
        }],
    }})
}

#[cfg(test)]
mod tests;
