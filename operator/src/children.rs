//! Builds what a StreamAPI or a StreamGateway consists of in a cluster: one list of objects, pure.
//!
//! Nothing here depends on what exists; [`crate::compare`] tells what of it has to be written.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use sluice_config::config::{
    CONFIG_KEY, CONFIG_KEY_ZSTD, Config, DELIVERED_BYTES, INFLATED_BYTES, Material, PLAIN_BYTES, cursor_key,
    material_key,
};
use sluice_config::placement::Deployment;
use sluice_crds::{GROUP, VERSION};

use crate::build::hex;
use crate::objects::Kind;

pub mod exposure;
mod kind;
pub mod sidecar;
mod workload;

pub use kind::{ChildKind, GATEWAY_GROUP, resource};

/// Label of everything that belongs to a StreamAPI; its value is the API's name.
pub const API_LABEL: &str = "sluice.dev/api";
/// Label of everything that belongs to a StreamGateway; its value is the gateway's name.
pub const GATEWAY_LABEL: &str = "sluice.dev/gateway";
/// Label that marks everything the operator made, here with its value.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "sluice-operator");
/// Annotation with the digest of what was applied, so that what is to be removed is noticed too.
pub const APPLIED: &str = "sluice.dev/applied";
/// What the names of children end with.
const SUFFIX: &str = "sluice";

/// How the operator was told to build.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Image of the data plane.
    pub image: String,
    /// When the kubelet pulls it.
    pub pull_policy: String,
    /// Where data planes send metrics and traces.
    pub otlp_endpoint: Option<String>,
    /// Where data planes send metrics as StatsD.
    pub statsd: Option<String>,
    /// Whether every data plane gets a NetworkPolicy.
    pub network_policies: bool,
    /// Namespace of the operator, which asks data planes for what they serve.
    pub namespace: String,
    /// Whether pods that a sidecar's API selects get it as they are created.
    pub injection: bool,
    /// Whether an `exposure.ingress` gets its Ingress.
    pub ingresses: bool,
    /// Whether an `exposure.httpRoute` gets its HTTPRoute.
    pub http_routes: bool,
    /// Whether StreamAPIs are made from the Services of brokers that ask for it.
    pub expose_services: bool,
}

impl Settings {
    /// Whether children of that kind are made at all; the others are not watched, for there may be no right to.
    pub const fn allows(&self, kind: ChildKind) -> bool {
        match kind {
            ChildKind::NetworkPolicy => self.network_policies,
            ChildKind::Ingress => self.ingresses,
            ChildKind::HttpRoute => self.http_routes,
            _ => true,
        }
    }
}

/// What children belong to.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// StreamAPI, StreamGateway or Service.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its uid; `None` if it is not in a cluster.
    pub uid: Option<&'a str>,
}

impl<'a> Owner<'a> {
    /// A StreamAPI.
    pub const fn api(namespace: &'a str, name: &'a str, uid: Option<&'a str>) -> Self {
        Self { kind: Kind::StreamApi, namespace, name, uid }
    }

    /// A StreamGateway.
    pub const fn gateway(namespace: &'a str, name: &'a str, uid: Option<&'a str>) -> Self {
        Self { kind: Kind::StreamGateway, namespace, name, uid }
    }

    /// A Service of a broker.
    pub const fn service(namespace: &'a str, name: &'a str, uid: Option<&'a str>) -> Self {
        Self { kind: Kind::Service, namespace, name, uid }
    }

    /// What its children are called.
    pub fn child_name(&self) -> String {
        match self.kind {
            Kind::StreamGateway => gateway_child_name(self.name),
            _ => child_name(self.name),
        }
    }
}

/// An object that is to exist.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// Its kind.
    pub kind: ChildKind,
    /// Its name.
    pub name: String,
    /// The whole object as it is applied.
    pub body: Value,
}

impl Child {
    /// `body` with the digest of the whole.
    pub(crate) fn sealed(kind: ChildKind, name: String, mut body: Value) -> Self {
        let digest = hex(&Sha256::digest(body.to_string())[..8]);
        body["metadata"][ANNOTATIONS][APPLIED] = digest.into();
        Self { kind, name, body }
    }
}

/// Name of the children of `api`.
pub fn child_name(api: &str) -> String {
    format!("{api}-{SUFFIX}")
}

/// Name of the children of `gateway`. No StreamAPI has such children.
pub fn gateway_child_name(gateway: &str) -> String {
    format!("{gateway}-{SUFFIX}-gateway")
}

/// Name of the Secret that holds the key of `api`'s cursors. It is made once and never rendered.
pub fn cursor_secret_name(api: &str) -> String {
    format!("{api}-{SUFFIX}-cursor")
}

/// Key of the bytes inside that Secret.
pub const CURSOR_SECRET_KEY: &str = "key";

/// What a data plane is to serve, and where it runs.
pub struct Content<'a> {
    /// The APIs.
    pub config: &'a Config,
    /// The secret values that the config names.
    pub material: &'a Material,
    /// Keys of cursors by `namespace/name` of their API.
    pub keys: &'a BTreeMap<String, Vec<u8>>,
    /// The pods; `None` in a sidecar, which is in pods of somebody else.
    pub deployment: Option<&'a Deployment>,
}

/// More than one data plane can be given.
#[derive(Debug, thiserror::Error)]
#[error("{what} come to {bytes} bytes, more than the {DELIVERED_BYTES} that a data plane can be given")]
pub struct TooLarge {
    what: &'static str,
    bytes: usize,
}

/// How often a Secret holds the name of each of its values: server-side apply keeps book of them.
const NAMED: usize = 2;

/// Everything `owner` consists of, in the order of [`ChildKind`]. What is served in a sidecar consists of
/// what the sidecar mounts.
pub fn children(
    owner: &Owner<'_>,
    content: &Content<'_>,
    settings: &Settings,
) -> Result<Vec<Child>, TooLarge> {
    let mut children = vec![
        child(owner, ChildKind::Secret, secret(owner, content)?),
        child(owner, ChildKind::ConfigMap, config_map(content.config)?),
    ];
    let Some(deployment) = content.deployment else { return Ok(children) };
    children.extend([
        child(owner, ChildKind::ServiceAccount, json!({"automountServiceAccountToken": false})),
        child(owner, ChildKind::Role, workload::role(owner)),
        child(owner, ChildKind::RoleBinding, workload::role_binding(owner)),
        child(owner, ChildKind::Service, workload::service(owner, deployment)),
    ]);
    if settings.network_policies {
        let policy = workload::network_policy(owner, deployment, settings);
        children.push(child(owner, ChildKind::NetworkPolicy, policy));
    }
    if deployment.fewest() >= 2 {
        children.push(child(owner, ChildKind::PodDisruptionBudget, workload::disruption_budget(owner)));
    }
    let workload = workload::deployment(owner, deployment, settings);
    children.push(child(owner, ChildKind::Deployment, workload));
    if let Some(autoscaling) = &deployment.autoscaling {
        let autoscaler = workload::autoscaler(owner, autoscaling);
        children.push(child(owner, ChildKind::HorizontalPodAutoscaler, autoscaler));
    }
    if let Some((kind, exposed)) = exposure::build(owner, deployment, content.config)
        && settings.allows(kind)
    {
        children.push(child(owner, kind, exposed));
    }
    Ok(children)
}

/// What is left of an API's own config and material when a gateway serves it: nothing is in them.
pub fn emptied(owner: &Owner<'_>) -> [Child; 2] {
    [
        child(owner, ChildKind::Secret, json!({"type": "Opaque", "data": {}})),
        child(owner, ChildKind::ConfigMap, json!({"data": {}})),
    ]
}

/// What the pods are made from; nothing if there are none of its own.
pub fn pod_template(owner: &Owner<'_>, deployment: Option<&Deployment>, settings: &Settings) -> Value {
    let Some(deployment) = deployment else { return Value::Null };
    workload::deployment(owner, deployment, settings)["spec"]["template"].take()
}

/// The Secret that holds the cursor key, as it is created.
pub fn cursor_secret(owner: &Owner<'_>, key: &[u8]) -> Child {
    let content = json!({"type": "Opaque", "data": {CURSOR_SECRET_KEY: base64(key)}});
    named(owner, ChildKind::Secret, cursor_secret_name(owner.name), content)
}

fn child(owner: &Owner<'_>, kind: ChildKind, content: Value) -> Child {
    named(owner, kind, owner.child_name(), content)
}

/// Where content has the annotations of its own.
const ANNOTATIONS: &str = "annotations";

/// `content` with what every child has: identity, labels, owner, and the digest of the whole.
fn named(owner: &Owner<'_>, kind: ChildKind, name: String, content: Value) -> Child {
    let resource = kind.resource();
    let mut body = json!({"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {
        "name": name, "namespace": owner.namespace, "labels": labels(owner),
    }});
    if let Some(uid) = owner.uid {
        body["metadata"]["ownerReferences"] = json!([{
            "apiVersion": format!("{GROUP}/{VERSION}"), "kind": owner.kind.name(), "name": owner.name, "uid": uid,
            "controller": true,
        }]);
    }
    if let Value::Object(mut content) = content {
        if let Some(annotations) = content.remove(ANNOTATIONS) {
            body["metadata"][ANNOTATIONS] = annotations;
        }
        body.as_object_mut().expect("it was built as one").extend(content);
    }
    Child::sealed(kind, name, body)
}

/// Labels of every child and of the pods.
fn labels(owner: &Owner<'_>) -> Map<String, Value> {
    let mut labels = selector(owner);
    labels.insert(MANAGED_BY.0.into(), MANAGED_BY.1.into());
    let label = if owner.kind == Kind::StreamGateway { GATEWAY_LABEL } else { API_LABEL };
    labels.insert(label.into(), owner.name.into());
    labels
}

/// What the pods are found by; it can never change.
fn selector(owner: &Owner<'_>) -> Map<String, Value> {
    let name = if owner.kind == Kind::StreamGateway { "sluice-gateway" } else { "sluice-dataplane" };
    let pairs = [("app.kubernetes.io/name", name), ("app.kubernetes.io/instance", owner.name)];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
}

fn base64(bytes: &[u8]) -> Value {
    json!(ByteString(bytes.to_vec()))
}

fn config_map(config: &Config) -> Result<Value, TooLarge> {
    let text = serde_json::to_string(config).expect("a config is JSON");
    if text.len() <= PLAIN_BYTES {
        return Ok(json!({"data": {CONFIG_KEY: text}}));
    }
    let compressed = zstd::encode_all(text.as_bytes(), zstd::DEFAULT_COMPRESSION_LEVEL)
        .expect("memory can be compressed into memory");
    // A ConfigMap's binary data is held and sent as base64.
    if compressed.len() / 3 * 4 > DELIVERED_BYTES || text.len() > INFLATED_BYTES {
        return Err(TooLarge { what: "definitions and policies", bytes: compressed.len() });
    }
    Ok(json!({"binaryData": {CONFIG_KEY_ZSTD: base64(&compressed)}}))
}

fn secret(owner: &Owner<'_>, content: &Content<'_>) -> Result<Value, TooLarge> {
    let mut data: BTreeMap<String, Value> = BTreeMap::new();
    let mut bytes = 0;
    for (api, keys) in content.keys {
        let (namespace, name) = api.split_once('/').expect("keys are namespace/name");
        let name = cursor_key(namespace, name);
        bytes += keys.len() + NAMED * name.len();
        data.insert(name, base64(keys));
    }
    let mut add = |namespace: &str, api: &str, name: &str, digest: &str| {
        let (secret, key) = name.split_once('/').expect("names are secret/key");
        if let Some(value) = content.material.0.get(digest) {
            let name = material_key(namespace, api, secret, key, digest);
            bytes += value.len() + NAMED * name.len();
            data.insert(name, base64(value));
        }
    };
    for entry in content.config.apis.values() {
        let (namespace, api) = (&entry.api.namespace, &entry.api.name);
        entry.material.iter().for_each(|(name, digest)| add(namespace, api, name, digest));
    }
    let certificate = content.deployment.and_then(Deployment::certificate).map(|secret| &secret.name);
    for (key, digest) in &content.config.certificate {
        let secret = certificate.expect("a certificate comes from a Secret");
        add(owner.namespace, owner.name, &format!("{secret}/{key}"), digest);
    }
    if bytes > DELIVERED_BYTES {
        return Err(TooLarge { what: "the Secrets that are referred to", bytes });
    }
    Ok(json!({"type": "Opaque", "data": data}))
}

#[cfg(test)]
mod tests;
