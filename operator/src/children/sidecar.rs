//! What a pod of somebody else is given so that its containers reach their APIs on the loopback: pure.
//!
//! The result is the same however often a pod goes through it: what an earlier pass gave stays as others
//! have left it, and what somebody wrote in its place is taken out first.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use sluice_config::placement::{Bind, SIDECAR_PORT, Sidecar};

use super::{MANAGED_BY, Settings, child_name, workload};
use crate::build::hex;

/// Most APIs of one pod; of more that select it the oldest count.
pub const MOST_APIS: usize = 16;
/// Name of the container.
pub const NAME: &str = "sluice";
/// Name of the volume that has no token.
const NO_TOKEN: &str = "sluice-no-token";
/// What of an API is mounted.
const CONFIG: &str = "config";
const MATERIAL: &str = "material";
/// Label of pods with the sidecar: `"true"`.
pub const INJECTED: &str = "sluice.dev/injected";
/// Annotation with the digest of everything a pod was given, so that what is no longer given is noticed.
pub const GIVEN: &str = "sluice.dev/given";
/// Annotation with the names of the APIs, in the order in which they are mounted.
pub const APIS: &str = "sluice.dev/apis";
/// Port on which a sidecar answers probes, scrapers and the operator.
/// (15090 is taken in pods of a service mesh.)
pub const ADMIN_PORT: u16 = 15081;
/// Environment variable of the other containers: where the sidecar is.
const URL_VARIABLE: &str = "SLUICE_URL";
/// Clients are in the same pod and end first, so nobody has to be waited for but the brokers.
const DRAIN: [&str; 2] = ["--drain-delay=0s", "--drain-grace=5s"];
/// Where the API's credentials would be: an empty directory instead.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// An API that selects a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Guest {
    /// Its name.
    pub api: String,
    /// How it is to be served.
    pub sidecar: Sidecar,
}

/// Why a pod gets no sidecar although one is asked for.
pub fn obstacle(pod: &Value) -> Option<&'static str> {
    if pod["metadata"]["labels"][MANAGED_BY.0] == MANAGED_BY.1 {
        return Some("it is a data plane itself");
    }
    if pod["spec"]["hostNetwork"] == true {
        return Some(
            "it uses the network of its node, where every process would reach the sidecar; remove `hostNetwork`",
        );
    }
    if pod["spec"]["containers"].as_array().is_some_and(|all| all.iter().any(|it| it["name"] == NAME)) {
        return Some("a container of its own is called `sluice`; rename it");
    }
    if pod["spec"]["os"]["name"] == "windows" {
        return Some("it runs on Windows");
    }
    None
}

/// The pod with the sidecar of `guests`, the oldest first; if there are none, without the one it was given.
pub fn inject(pod: &Value, guests: &[Guest], settings: &Settings) -> Value {
    let mut pod = pod.clone();
    let Some(given) = given(guests, settings) else {
        if was_given(&pod) {
            take_out(&mut pod);
        }
        return pod;
    };
    let digest = digest_of(&given);
    if has_been_given(&pod, &given, &digest) {
        tell_all(object(&mut pod["spec"]));
        return pod;
    }
    take_out(&mut pod);
    let metadata = object(&mut pod["metadata"]);
    object(metadata.entry("labels").or_insert(Value::Null)).insert(INJECTED.into(), "true".into());
    let annotations = object(metadata.entry("annotations").or_insert(Value::Null));
    annotations.insert(GIVEN.into(), digest.into());
    annotations.insert(APIS.into(), names(guests).into());
    let spec = object(&mut pod["spec"]);
    tell_all(spec);
    // First, so that the other init containers have it too.
    list(spec, "initContainers").insert(0, given["container"].clone());
    list(spec, "volumes").extend(given["volumes"].as_array().cloned().unwrap_or_default());
    pod
}

/// Whether an earlier pass gave all that. What others did to the container since, a default limit or
/// another registry, is theirs: who takes it back may make a pod that nobody admits.
fn has_been_given(pod: &Value, given: &Value, digest: &str) -> bool {
    let containers = pod["spec"]["initContainers"].as_array();
    let container = containers.into_iter().flatten().find(|container| container["name"] == NAME);
    let same = |field: &str| container.is_some_and(|it| it[field] == given["container"][field]);
    pod["metadata"]["annotations"][GIVEN] == digest
        && ["args", "restartPolicy", "securityContext"].map(same) == [true; 3]
}

fn tell_all(spec: &mut Map<String, Value>) {
    for kind in ["initContainers", "containers"] {
        let containers = spec.get_mut(kind).and_then(Value::as_array_mut).into_iter().flatten();
        containers.filter(|container| container["name"] != NAME).for_each(tell);
    }
}

/// Digest of what `guests` have a pod given now.
pub fn digest(guests: &[Guest], settings: &Settings) -> Option<String> {
    given(guests, settings).as_ref().map(digest_of)
}

fn digest_of(given: &Value) -> String {
    hex(&Sha256::digest(given.to_string())[..8])
}

/// Whether the pod says that it has a sidecar.
pub fn was_given(pod: &Value) -> bool {
    pod["metadata"]["annotations"][GIVEN].is_string()
}

/// The names of `guests` as the annotation has them.
pub fn names(guests: &[Guest]) -> String {
    guests.iter().map(|guest| guest.api.as_str()).collect::<Vec<_>>().join(",")
}

/// Takes out what was added before.
fn take_out(pod: &mut Value) {
    let is_ours = |name: &Value| {
        let name = name.as_str().unwrap_or_default();
        name == NO_TOKEN || [CONFIG, MATERIAL].iter().any(|part| name.starts_with(&volume_name(part, "")))
    };
    if let Some(containers) = pod["spec"]["initContainers"].as_array_mut() {
        containers.retain(|container| container["name"] != NAME);
    }
    if let Some(volumes) = pod["spec"]["volumes"].as_array_mut() {
        volumes.retain(|volume| !is_ours(&volume["name"]));
    }
    for (map, names) in [("labels", &[INJECTED][..]), ("annotations", &[GIVEN, APIS])] {
        if let Some(map) = pod["metadata"][map].as_object_mut() {
            names.iter().for_each(|name| drop(map.remove(*name)));
        }
    }
}

/// A volume without a token, and without data that would keep a node from being drained.
fn nothing() -> Value {
    let item = json!({"path": "pod", "fieldRef": {"fieldPath": "metadata.name"}});
    json!({"name": NO_TOKEN, "downwardAPI": {"items": [item]}})
}

fn volume_name(part: &str, api: &str) -> String {
    format!("sluice-{part}-{api}")
}

/// Tells a container where the sidecar is, unless it has a word for that of its own.
fn tell(container: &mut Value) {
    let Some(container) = container.as_object_mut() else { return };
    let variables = list(container, "env");
    if !variables.iter().any(|variable| variable["name"] == URL_VARIABLE) {
        variables.push(json!({"name": URL_VARIABLE, "value": url()}));
    }
}

/// Where containers of the pod reach the sidecar.
pub fn url() -> String {
    format!("http://127.0.0.1:{SIDECAR_PORT}")
}

/// The container and its volumes, if there are guests.
fn given(guests: &[Guest], settings: &Settings) -> Option<Value> {
    let eldest = guests.first()?;
    let mut arguments = vec!["serve".to_owned()];
    let mut volumes = vec![nothing()];
    let mut mounts = vec![json!({"name": NO_TOKEN, "mountPath": TOKEN_PATH, "readOnly": true})];
    for guest in guests {
        let (api, child) = (&guest.api, child_name(&guest.api));
        // The pod must start whether the operator has written them yet or not. Others than root must be
        // able to read them: which group the pod's volumes belong to is the pod's affair.
        let sources = [
            (CONFIG, json!({"configMap": {"name": child, "optional": true}})),
            (MATERIAL, json!({"secret": {"secretName": child, "optional": true, "defaultMode": 0o444}})),
        ];
        for (part, mut volume) in sources {
            let (name, path) = (volume_name(part, api), format!("/etc/sluice/{part}/{api}"));
            arguments.push(format!("--{part}={path}"));
            mounts.push(json!({"name": name, "mountPath": path, "readOnly": true}));
            volume["name"] = name.into();
            volumes.push(volume);
        }
    }
    let host = match eldest.sidecar.bind {
        Bind::Localhost => "127.0.0.1",
        Bind::Pod => "0.0.0.0",
    };
    arguments.push(format!("--listen={host}:{SIDECAR_PORT}"));
    arguments.push(format!("--admin=0.0.0.0:{ADMIN_PORT}"));
    arguments.extend(DRAIN.map(str::to_owned));
    let mut ports = vec![json!({"name": "sluice-admin", "containerPort": ADMIN_PORT, "protocol": "TCP"})];
    if eldest.sidecar.bind == Bind::Pod {
        ports.push(json!({"name": "sluice", "containerPort": SIDECAR_PORT, "protocol": "TCP"}));
    }
    let mut security = workload::container_security();
    if let Some(security) = security.as_object_mut() {
        security.insert("runAsNonRoot".into(), true.into());
        security.insert("runAsUser".into(), workload::USER.into());
        security.insert("runAsGroup".into(), workload::USER.into());
        security.insert("seccompProfile".into(), json!({"type": "RuntimeDefault"}));
    }
    let container = json!({
        "name": NAME,
        // That makes it a sidecar: it starts before the others, ends after them, and holds up no Job.
        "restartPolicy": "Always",
        "image": settings.image,
        "imagePullPolicy": settings.pull_policy,
        "args": arguments,
        "env": workload::environment(settings),
        "ports": ports,
        "startupProbe": workload::probe("sluice-admin", "/healthz", 1, 60),
        "readinessProbe": workload::probe("sluice-admin", "/readyz", 2, 2),
        "livenessProbe": workload::probe("sluice-admin", "/healthz", 10, 3),
        "resources": eldest.sidecar.resources,
        "securityContext": security,
        "volumeMounts": mounts,
    });
    Some(json!({"container": container, "volumes": volumes}))
}

fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("it was made one")
}

fn list<'a>(fields: &'a mut Map<String, Value>, name: &str) -> &'a mut Vec<Value> {
    let value = fields.entry(name).or_insert(Value::Null);
    if !value.is_array() {
        *value = json!([]);
    }
    value.as_array_mut().expect("it was made one")
}

/// Those of `apis` (oldest first) that select a pod with these labels.
pub fn guests(apis: &[Guest], labels: &BTreeMap<String, String>) -> Vec<Guest> {
    let selecting = apis.iter().filter(|guest| guest.sidecar.selects(&guest.api, labels));
    selecting.take(MOST_APIS).cloned().collect()
}

#[cfg(test)]
mod tests;
