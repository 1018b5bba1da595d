//! Reads one document: it becomes an object, or every problem of it is told.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use sluice_config::{Problem, check, placement};
use sluice_crds::shape::{self, Shape};
use sluice_crds::{GROUP, StreamAPI, StreamGateway, StreamPolicy, VERSION};

use crate::objects::{Kind, Unread};
use crate::validate::spec_problems;

/// A document that was understood.
#[derive(Clone, PartialEq)]
pub enum Object {
    /// A StreamAPI.
    Api(Box<StreamAPI>),
    /// A StreamGateway.
    Gateway(Box<StreamGateway>),
    /// A StreamPolicy.
    Policy(Box<StreamPolicy>),
    /// A Secret; `stringData` is in `data`.
    Secret(Box<Secret>),
    /// Accepted, and nothing refers to it.
    Unused(Kind),
}

/// Reads `document`; without a namespace of its own it belongs to `namespace`.
pub fn read(mut document: Value, namespace: &str) -> Result<Object, Box<Unread>> {
    let kind = guess_kind(&document);
    let problems = check_header(&document, kind);
    if !problems.is_empty() {
        return Err(unread(&document, kind, namespace, problems));
    }
    let shape: &Shape = match kind {
        Kind::StreamApi => &shape::STREAM_API,
        Kind::StreamGateway => &shape::STREAM_GATEWAY,
        Kind::StreamPolicy => &shape::STREAM_POLICY,
        Kind::Secret => &shape::SECRET,
        Kind::ConfigMap => &shape::CONFIG_MAP,
        Kind::Service | Kind::Other => unreachable!("refused by its header"),
    };
    let mut problems = shape.check(&document);
    if let Some(metadata) = document["metadata"].as_object_mut() {
        metadata.entry("namespace").or_insert_with(|| namespace.into());
    }
    let object = match kind {
        Kind::StreamApi => typed(&document, &mut problems, check_api).map(Object::Api),
        Kind::StreamGateway => typed(&document, &mut problems, check_gateway).map(Object::Gateway),
        Kind::StreamPolicy => typed(&document, &mut problems, check_policy).map(Object::Policy),
        Kind::Secret => secret(&document, &mut problems).map(|secret| Object::Secret(Box::new(secret))),
        Kind::ConfigMap | Kind::Service | Kind::Other => Some(Object::Unused(kind)),
    };
    match object {
        Some(object) if problems.is_empty() => Ok(object),
        _ => Err(unread(&document, kind, namespace, problems)),
    }
}

/// The document as something that cannot be understood. A policy's targets are read as leniently
/// as possible, for it closes them.
pub fn unread(document: &Value, kind: Kind, namespace: &str, problems: Vec<Problem>) -> Box<Unread> {
    let namespace = match &document["metadata"]["namespace"] {
        Value::Null => Some(namespace.to_owned()),
        other => other.as_str().map(str::to_owned),
    };
    let targets = serde_json::from_value(document["spec"]["targetRefs"].clone()).ok();
    Box::new(Unread {
        kind,
        namespace,
        name: document["metadata"]["name"].as_str().map(str::to_owned),
        problems,
        targets: targets.filter(|targets: &Vec<_>| !targets.is_empty()),
    })
}

/// The kind of the document; where it is misspelt or missing, the one that was surely meant: a
/// policy that cannot be understood must not be left out.
pub fn guess_kind(document: &Value) -> Kind {
    let name = document["kind"].as_str().unwrap_or_default();
    let group = document["apiVersion"].as_str().unwrap_or_default();
    match Kind::of(name) {
        Some(kind) => kind,
        None if !document["spec"]["targetRefs"].is_null()
            && (group.is_empty() || group.starts_with(GROUP)) =>
        {
            Kind::StreamPolicy
        }
        None => nearest_kind(name).unwrap_or(Kind::Other),
    }
}

fn nearest_kind(name: &str) -> Option<Kind> {
    let kinds = [Kind::StreamApi, Kind::StreamGateway, Kind::StreamPolicy].map(Kind::name);
    shape::nearest(name, &kinds).and_then(Kind::of)
}

/// Problems of `apiVersion` and `kind`.
fn check_header(document: &Value, kind: Kind) -> Vec<Problem> {
    let mut problems = Vec::new();
    if !document.is_object() {
        problems.push(Problem::new("", "is not an object; write apiVersion, kind, metadata and spec"));
        return problems;
    }
    let name = document["kind"].as_str();
    match name {
        None => problems.push(Problem::new("kind", "is missing; add `kind: StreamAPI`")),
        Some(name) if Kind::of(name).is_none() => problems.push(unknown_kind(name, kind)),
        Some(_) => {}
    }
    let expected = match kind {
        Kind::StreamApi | Kind::StreamGateway | Kind::StreamPolicy => format!("{GROUP}/{VERSION}"),
        Kind::Secret | Kind::ConfigMap => "v1".to_owned(),
        Kind::Service | Kind::Other => return problems,
    };
    match document["apiVersion"].as_str() {
        Some(version) if version == expected => {}
        Some(version) => problems.push(Problem::new(
            "apiVersion",
            format!(
                "`{}` has no {kind} that is known here; write `apiVersion: {expected}`",
                shape::clip(version)
            ),
        )),
        None => {
            problems.push(Problem::new("apiVersion", format!("is missing; add `apiVersion: {expected}`")));
        }
    }
    problems
}

fn unknown_kind(name: &str, meant: Kind) -> Problem {
    let name = shape::clip(name);
    let message = match meant {
        Kind::Other => format!(
            "`{name}` is not a kind that is used here; remove it (used are StreamAPI, StreamGateway, \
             StreamPolicy, Secret, ConfigMap and List)"
        ),
        meant => format!("`{name}` is not a kind; did you mean `{meant}`?"),
    };
    Problem::new("kind", message)
}

/// The object, and in `problems` also what `check` finds; `None` if no object can be made of it.
fn typed<T: DeserializeOwned>(
    document: &Value,
    problems: &mut Vec<Problem>,
    check: fn(&T) -> Vec<Problem>,
) -> Option<Box<T>> {
    match serde_json::from_value::<T>(document.clone()) {
        // A readable object is checked with all others; here only to tell all problems at once.
        Ok(object) if problems.is_empty() => Some(Box::new(object)),
        Ok(object) => {
            // Not what follows from a problem that is told: `sse:` alone is also no transport.
            let told = |at: &str| problems.iter().any(|known| is_within(&known.at, at));
            let news: Vec<_> = check(&object).into_iter().filter(|more| !told(&more.at)).collect();
            problems.extend(news);
            Some(Box::new(object))
        }
        Err(_) if !problems.is_empty() => None,
        Err(error) => {
            problems.push(unreadable("", &error));
            None
        }
    }
}

fn check_api(api: &StreamAPI) -> Vec<Problem> {
    spec_problems(api.metadata.name.as_deref().unwrap_or_default(), &api.spec.0)
}

fn check_gateway(gateway: &StreamGateway) -> Vec<Problem> {
    placement::check_gateway(&gateway.spec.0)
}

fn check_policy(policy: &StreamPolicy) -> Vec<Problem> {
    check::check_policy(&policy.spec.0)
}

/// Whether the path `inner` is `outer` or below it.
fn is_within(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// What the shape cannot find, like a malformed creationTimestamp.
fn unreadable(at: &str, error: &serde_json::Error) -> Problem {
    Problem::new(at, format!("cannot be read: {}", shape::clip_to(200, &error.to_string())))
}

/// A Secret; never a value in a problem.
fn secret(document: &Value, problems: &mut Vec<Problem>) -> Option<Secret> {
    let metadata = match serde_json::from_value(document["metadata"].clone()) {
        Ok(metadata) => metadata,
        Err(error) => {
            if problems.is_empty() {
                problems.push(unreadable("metadata", &error));
            }
            return None;
        }
    };
    let mut secret =
        Secret { metadata, type_: document["type"].as_str().map(str::to_owned), ..Secret::default() };
    let none = Map::new();
    let map = |name: &str| document[name].as_object().unwrap_or(&none).clone();
    let mut data = std::collections::BTreeMap::new();
    for (key, value) in map("data") {
        let text: String = value.as_str()?.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        match STANDARD.decode(text) {
            Ok(bytes) => {
                data.insert(key, ByteString(bytes));
            }
            Err(_) => problems.push(Problem::new(
                format!("data[{:?}]", shape::clip(&key)),
                "is not base64; put plain text under `stringData`",
            )),
        }
    }
    for (key, value) in map("stringData") {
        data.insert(key, ByteString(value.as_str()?.as_bytes().to_vec()));
    }
    for key in data.keys().filter(|key| !is_secret_key(key)) {
        problems.push(Problem::new(
            format!("data[{:?}]", shape::clip(key)),
            "is not a key of a Secret; use letters, digits, '.', '_' and '-'",
        ));
    }
    secret.data = Some(data);
    Some(secret)
}

fn is_secret_key(key: &str) -> bool {
    (1..=253).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(document: Value) -> Box<Unread> {
        match read(document, "default") {
            Ok(_) => panic!("was read"),
            Err(unread) => unread,
        }
    }

    #[test]
    fn a_document_of_another_kind_is_refused_by_name() {
        let unread =
            refused(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}}));
        assert_eq!(unread.kind, Kind::Other);
        assert_eq!(unread.problems[0].at, "kind");
        assert!(unread.problems[0].message.contains("`Deployment`"));
    }

    #[test]
    fn a_misspelt_policy_still_counts_as_one() {
        let targets = json!([{"kind": "StreamAPI", "name": "shop"}]);
        for (version, kind) in [
            (json!("sluice.dev/v1alpha1"), json!("Streampolicy")),
            (json!("sluice.dev/v1"), json!("StreamPolicy")),
            (json!("sluice.dev/v1alpha1"), Value::Null),
            (Value::Null, json!("StreamPolicy")),
        ] {
            let unread = refused(json!({"apiVersion": version, "kind": kind, "metadata": {"name": "keys"},
                "spec": {"targetRefs": targets}}));
            assert_eq!(unread.kind, Kind::StreamPolicy, "{version} {kind}");
            assert_eq!(unread.targets.as_ref().map(Vec::len), Some(1));
            assert_eq!(unread.namespace.as_deref(), Some("default"));
        }
    }

    #[test]
    fn targets_are_read_leniently_and_their_absence_is_told() {
        let policy = |targets: Value| {
            let spec = json!({"targetRefs": targets, "quota": {}});
            refused(json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "StreamPolicy",
                "metadata": {"name": "keys", "namespace": "a"}, "spec": spec}))
        };
        let readable = policy(json!([{"kind": "StreamAPI", "name": "shop", "sectionNmae": "orders"}]));
        assert_eq!(readable.targets.map(|targets| targets[0].name.clone()).as_deref(), Some("shop"));
        for unreadable in [json!([]), json!("shop"), json!([{"kind": "StreamAPI"}]), Value::Null] {
            assert_eq!(policy(unreadable).targets, None);
        }
    }

    #[test]
    fn shape_and_checks_are_told_together() {
        let unread = refused(json!({
            "apiVersion": "sluice.dev/v1alpha1", "kind": "StreamAPI", "metadata": {"name": "shop"},
            "spec": {
                "bridges": [], "servers": [{"name": "a", "memory": {}}],
                "channels": [{"name": "b", "server": "x", "address": "b"}],
            },
        }));
        let found: Vec<_> = unread.problems.iter().map(|problem| problem.at.as_str()).collect();
        assert_eq!(found, ["spec.bridges", "spec.channels[0].server", "spec.channels[0]"]);
    }

    #[test]
    fn string_data_wins_and_base64_is_checked() {
        let document = |data: Value| {
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
                "data": data, "stringData": {"a": "plain"}})
        };
        let Ok(Object::Secret(secret)) = read(document(json!({"a": "eA==", "b": "aGk=\n"})), "ns") else {
            panic!("not read");
        };
        let data = secret.data.expect("data");
        assert_eq!((data["a"].0.as_slice(), data["b"].0.as_slice()), (&b"plain"[..], &b"hi"[..]));
        assert_eq!(secret.metadata.namespace.as_deref(), Some("ns"));
        let unread = refused(document(json!({"b": "hunter2!"})));
        assert_eq!(unread.problems[0].at, "data[\"b\"]");
        assert!(!unread.problems[0].message.contains("hunter2"));
    }
}
