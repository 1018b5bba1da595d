//! Wrong resources: refused at apply by field, told in conditions, or taken as they are. Nothing
//! in between, and nothing is ever ignored.

use serde_json::{Value, json};
use sluice_operator::children::ChildKind;
use sluice_operator::world::{api_resource, policy_resource};
use sluice_tests::documents::{self, Channel};
use sluice_tests::{eventually, within};

use crate::bed::{Bed, COLLECTED, policy, secret};

/// What becomes of a document.
#[derive(Clone)]
enum Fate {
    /// The API server refuses it with a message that contains each of these.
    Refused(&'static [&'static str]),
    /// It is taken, and this condition is False with a message that contains each of these.
    Told(&'static str, &'static [&'static str]),
    /// It is taken, and the data plane is given the value as it stands.
    Verbatim,
}
use Fate::{Refused, Told, Verbatim};

/// A name, where the base document is changed, to what, and what becomes of that.
type Case = (&'static str, Vec<(&'static str, Value)>, Fate);

/// An API with everything that cases change.
fn base() -> Value {
    documents::Api::new("case")
        .memory()
        .server("log", json!({"kafka": {"brokers": ["kafka:9092"], "properties": {}}}))
        .channel(Channel::both_ways("orders", "orders").set("/subscribe/replay", json!({})))
        .channel(Channel::new("topic", "topic.v1").set("/server", json!("log")).subscribe())
        .0
}

/// Sets what a pointer names; parents are made, null removes.
fn set(document: &mut Value, pointer: &str, value: Value) {
    let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
    let field = field.replace("~1", "/").replace("~0", "~");
    if document.pointer(parent).is_none_or(Value::is_null) {
        set(document, parent, json!({}));
    }
    match document.pointer_mut(parent).expect("it was made") {
        Value::Array(list) if field == "-" => list.push(value),
        Value::Array(list) => list[field.parse::<usize>().expect("an index")] = value,
        Value::Object(map) if value.is_null() => drop(map.remove(&field)),
        Value::Object(map) => drop(map.insert(field, value)),
        other => panic!("{pointer} is below {other}"),
    }
}

fn one(pointer: &'static str, value: Value) -> Vec<(&'static str, Value)> {
    vec![(pointer, value)]
}

fn long(length: usize) -> Value {
    "x".repeat(length).into()
}

fn unions_and_bounds() -> Vec<Case> {
    let channel = |name: &str| Channel::both_ways(name, "a").0;
    vec![
        ("no server", one("/spec/servers", json!([])), Refused(&["spec.servers"])),
        ("no channel", one("/spec/channels", json!([])), Refused(&["spec.channels"])),
        ("no spec", one("/spec", Value::Null), Refused(&["spec"])),
        (
            "a server of no kind",
            one("/spec/servers/0", json!({"name": "events"})),
            Refused(&["spec.servers[0]", "set exactly one of `kafka`"]),
        ),
        (
            "a server of two kinds",
            one("/spec/servers/0/generator", json!({})),
            Refused(&["spec.servers[0]", "set exactly one of `kafka`"]),
        ),
        ("a server of the future", one("/spec/servers/0/pulsar", json!({})), Refused(&["pulsar"])),
        (
            "seventeen servers",
            one("/spec/servers", (0..17).map(|n| json!({"name": format!("s{n}"), "memory": {}})).collect()),
            Refused(&["spec.servers", "16"]),
        ),
        (
            "257 channels",
            one("/spec/channels", (0..257).map(|n| channel(&format!("c{n}"))).collect()),
            Refused(&["spec.channels", "256"]),
        ),
        (
            "a placement of no kind",
            one("/spec/placement", json!({})),
            Refused(&["spec.placement", "set exactly one of `deployment`"]),
        ),
        ("a placement of the future", one("/spec/placement", json!({"sidecar": {}})), Refused(&["sidecar"])),
        (
            "no transports",
            one("/spec/channels/0/subscribe/transports", json!({})),
            Refused(&["spec.channels[0].subscribe.transports", "websocket"]),
        ),
        (
            "no way to publish",
            one("/spec/channels/0/publish/transports", json!({})),
            Refused(&["spec.channels[0].publish.transports", "http"]),
        ),
        (
            "a transport of the future",
            one("/spec/channels/0/subscribe/transports/webhook", json!({})),
            Refused(&["webhook"]),
        ),
        (
            "a channel that does nothing",
            vec![("/spec/channels/0/subscribe", Value::Null), ("/spec/channels/0/publish", Value::Null)],
            Refused(&["spec.channels[0]", "does nothing"]),
        ),
        (
            "no format",
            one("/spec/channels/0/subscribe/formats", json!([])),
            Refused(&["spec.channels[0].subscribe.formats"]),
        ),
        (
            "an unknown format",
            one("/spec/channels/0/subscribe/formats", json!(["xml"])),
            Refused(&["spec.channels[0].subscribe.formats[0]", "xml"]),
        ),
        (
            "one format twice",
            one("/spec/channels/0/subscribe/formats", json!(["raw", "raw"])),
            Refused(&["formats", "duplicate"]),
        ),
        (
            "no messages kept",
            one("/spec/channels/0/subscribe/replay/messages", json!(0)),
            Refused(&["replay.messages"]),
        ),
        (
            "too many messages kept",
            one("/spec/channels/0/subscribe/replay/messages", json!(1_000_001)),
            Refused(&["replay.messages"]),
        ),
        (
            "too few bytes kept",
            one("/spec/channels/0/subscribe/replay/bytes", json!(1)),
            Refused(&["replay.bytes"]),
        ),
        (
            "a fraction of messages",
            one("/spec/channels/0/subscribe/replay/messages", json!(1.5)),
            Refused(&["replay.messages"]),
        ),
        (
            "a number as text",
            one("/spec/channels/0/subscribe/replay/messages", json!("10")),
            Refused(&["replay.messages"]),
        ),
        (
            "a duration without a unit",
            one("/spec/channels/0/subscribe/timeout", json!("5")),
            Refused(&["spec.channels[0].subscribe.timeout"]),
        ),
        (
            "a duration as a number",
            one("/spec/channels/0/subscribe/timeout", json!(5)),
            Refused(&[".subscribe.timeout"]),
        ),
        (
            "a duration out of bounds",
            one("/spec/channels/0/publish/timeout", json!("301s")),
            Told("Accepted", &["spec.channels[0].publish.timeout"]),
        ),
        (
            "a duration beyond all numbers",
            one("/spec/channels/0/publish/timeout", json!("999999999h999999999h")),
            Told("Accepted", &["spec.channels[0].publish.timeout"]),
        ),
        (
            "a rule of the future for the slow",
            one("/spec/channels/0/subscribe/slowConsumer", json!("block")),
            Refused(&["slowConsumer", "block"]),
        ),
        (
            "too many replicas",
            one("/spec/placement/deployment/replicas", json!(1001)),
            Refused(&["replicas"]),
        ),
        (
            "fewer than no replicas",
            one("/spec/placement/deployment/replicas", json!(-1)),
            Refused(&["replicas"]),
        ),
        ("an unknown field", one("/spec/surprise", json!(1)), Refused(&["spec.surprise"])),
        (
            "an unknown field deep inside",
            one("/spec/channels/0/subscribe/transports/sse/retry", json!(1)),
            Refused(&["sse.retry"]),
        ),
        (
            "an unknown state",
            one("/spec/lifecycle/state", json!("Retired")),
            Refused(&["spec.lifecycle.state"]),
        ),
        (
            "too many messages a second",
            vec![("/spec/servers/0", json!({"name": "events", "generator": {"messagesPerSecond": 10_001}}))],
            Refused(&["messagesPerSecond"]),
        ),
    ]
}

fn names_and_references() -> Vec<Case> {
    vec![
        ("an API's name in capitals", one("/metadata/name", json!("Shop")), Refused(&["metadata.name"])),
        (
            "an API's name with a digit first",
            one("/metadata/name", json!("1shop")),
            Refused(&["metadata.name"]),
        ),
        ("an API's name with a dot", one("/metadata/name", json!("a.b")), Refused(&["metadata.name"])),
        (
            "an API's name that is too long",
            one("/metadata/name", json!("a".repeat(41))),
            Refused(&["metadata.name", "40"]),
        ),
        (
            "two servers of one name",
            one("/spec/servers/1/name", json!("events")),
            Refused(&["spec.servers", "duplicate"]),
        ),
        (
            "two channels of one name",
            one("/spec/channels/1/name", json!("orders")),
            Refused(&["spec.channels", "duplicate"]),
        ),
        (
            "a channel's name with a slash",
            one("/spec/channels/0/name", json!("a/b")),
            Refused(&["spec.channels[0].name"]),
        ),
        (
            "a channel's name that is too long",
            one("/spec/channels/0/name", json!("a".repeat(41))),
            Refused(&["spec.channels[0].name"]),
        ),
        (
            "a server that is not there",
            one("/spec/channels/0/server", json!("evnets")),
            Refused(&["every channel's `server`"]),
        ),
        ("no address", one("/spec/channels/0/address", Value::Null), Refused(&["spec.channels[0].address"])),
        (
            "an empty address",
            one("/spec/channels/0/address", json!("")),
            Refused(&["spec.channels[0].address"]),
        ),
        (
            "an address that is too long",
            one("/spec/channels/0/address", long(250)),
            Refused(&["spec.channels[0].address"]),
        ),
        (
            "not a topic",
            one("/spec/channels/1/address", json!("a topic")),
            Told("Accepted", &["spec.channels[1].address", "not a Kafka topic"]),
        ),
        (
            "parameters",
            one("/spec/channels/1/address", json!("orders.{region}")),
            Told("Accepted", &["spec.channels[1].address", "parameters"]),
        ),
        (
            "the reserved path",
            one("/spec/basePath", json!("/-/x")),
            Told("Accepted", &["spec.basePath", "reserved"]),
        ),
        ("the root as base", one("/spec/basePath", json!("/")), Refused(&["spec.basePath"])),
        (
            "a path with dots",
            one("/spec/channels/0/path", json!("/a/../b")),
            Told("Accepted", &["spec.channels[0].path"]),
        ),
        (
            "a path with a query",
            one("/spec/channels/0/path", json!("/a?b")),
            Refused(&["spec.channels[0].path"]),
        ),
        (
            "a path that ends with a slash",
            one("/spec/channels/0/path", json!("/a/")),
            Refused(&["spec.channels[0].path"]),
        ),
        (
            "two channels on one path",
            one("/spec/channels/1/path", json!("/orders")),
            Told("Accepted", &["spec.channels[1].path"]),
        ),
        (
            "not a broker",
            one("/spec/servers/1/kafka/brokers", json!(["kafka"])),
            Refused(&["kafka.brokers[0]"]),
        ),
        (
            "a broker's port beyond all ports",
            one("/spec/servers/1/kafka/brokers", json!(["kafka:99999"])),
            Told("Accepted", &["spec.servers[1].kafka.brokers[0]"]),
        ),
        ("no broker", one("/spec/servers/1/kafka/brokers", json!([])), Refused(&["kafka.brokers"])),
        (
            "a setting that runs a program",
            one("/spec/servers/1/kafka/properties/sasl.kerberos.kinit.cmd", json!("id")),
            Told("Accepted", &["spec.servers[1].kafka.properties", "sasl.kerberos.kinit.cmd"]),
        ),
        (
            "a setting with a line break",
            one("/spec/servers/1/kafka/properties/client.rack", json!("a\nb")),
            Told("Accepted", &["client.rack"]),
        ),
        (
            "a login without encryption",
            one("/spec/servers/1/kafka/sasl", json!({"mechanism": "PLAIN", "secretRef": {"name": "none"}})),
            Told("Accepted", &["spec.servers[1].kafka.sasl.mechanism"]),
        ),
        (
            "a Secret that is not there",
            one(
                "/spec/servers/1/kafka/sasl",
                json!({"mechanism": "SCRAM-SHA-512", "secretRef": {"name": "none"}}),
            ),
            Told("ResolvedRefs", &["spec.servers[1].kafka.sasl.secretRef.name", "`none`"]),
        ),
        (
            "a Secret's name with a slash",
            one(
                "/spec/servers/1/kafka/sasl",
                json!({"mechanism": "SCRAM-SHA-512", "secretRef": {"name": "../x"}}),
            ),
            Refused(&["secretRef.name"]),
        ),
        (
            "a generator that takes messages",
            one("/spec/servers/0", json!({"name": "events", "generator": {}})),
            Told("Accepted", &["spec.channels[0].publish", "generator"]),
        ),
        (
            "not a time",
            one("/spec/lifecycle/sunsetAt", json!("tomorrow")),
            Told("Accepted", &["spec.lifecycle.sunsetAt"]),
        ),
        (
            "every problem at once",
            vec![
                ("/spec/channels/1/address", json!("a topic")),
                ("/spec/basePath", json!("/-")),
                ("/spec/lifecycle/sunsetAt", json!("x")),
                ("/spec/channels/0/path", json!("/.")),
                ("/spec/channels/0/publish/timeout", json!("0s")),
            ],
            Told(
                "Accepted",
                &[
                    "spec.channels[1].address",
                    "spec.basePath",
                    "sunsetAt",
                    "spec.channels[0].path",
                    "publish.timeout",
                ],
            ),
        ),
    ]
}

fn placements() -> Vec<Case> {
    let template = |field: &str, value: Value| {
        one("/spec/placement", json!({"deployment": {"podTemplate": {field: value}}}))
    };
    vec![
        ("containers", template("containers", json!([])), Refused(&["podTemplate.containers"])),
        (
            "a ServiceAccount",
            template("serviceAccountName", json!("admin")),
            Refused(&["podTemplate.serviceAccountName"]),
        ),
        ("the host's network", template("hostNetwork", json!(true)), Refused(&["podTemplate.hostNetwork"])),
        ("volumes", template("volumes", json!([])), Refused(&["podTemplate.volumes"])),
        (
            "a security context",
            template("securityContext", json!({})),
            Refused(&["podTemplate.securityContext"]),
        ),
        (
            "a label of the operator's",
            template("labels", json!({"sluice.dev/api": "other"})),
            Told("Accepted", &["podTemplate.labels"]),
        ),
        (
            "the label that Services select",
            template("labels", json!({"app.kubernetes.io/instance": "other"})),
            Told("Accepted", &["podTemplate.labels"]),
        ),
        (
            "a label that is none",
            template("labels", json!({"a": "two words"})),
            Refused(&["podTemplate.labels.a"]),
        ),
        (
            "a label's name that is none",
            template("labels", json!({"a b": "x"})),
            Told("Accepted", &["podTemplate.labels"]),
        ),
        (
            "an annotation's name that is none",
            template("annotations", json!({"a b": "x"})),
            Told("Accepted", &["podTemplate.annotations"]),
        ),
        (
            "a node's label that is none",
            template("nodeSelector", json!({"disk": "s s d"})),
            Refused(&["podTemplate.nodeSelector.disk"]),
        ),
        (
            "a toleration of an unknown effect",
            template("tolerations", json!([{"effect": "Sometimes"}])),
            Refused(&["tolerations[0].effect"]),
        ),
        (
            "a toleration without a key",
            template("tolerations", json!([{"operator": "Equal", "value": "x"}])),
            Told("Accepted", &["podTemplate.tolerations[0]"]),
        ),
        (
            "not a quantity",
            one("/spec/placement", json!({"deployment": {"resources": {"limits": {"memory": "much"}}}})),
            Refused(&["resources.limits.memory"]),
        ),
        (
            "more asked for than allowed",
            one(
                "/spec/placement",
                json!({"deployment": {"resources": {"limits": {"memory": "64Mi"}, "requests": {"memory": "128Mi"}}}}),
            ),
            Told("Accepted", &["resources"]),
        ),
    ]
}

/// Texts that break out of what is not written with care.
const HOSTILE: &[&str] = &[
    "\"}],\"x\":[{\"",
    "'; DROP TABLE x; --",
    "a\nb: c\n- d",
    "${jndi:ldap://x}",
    "$(id)",
    "`id`",
    "{{ .Values.x }}",
    "%s%n%00",
    "---\nkind: Secret",
    "\u{202e}evil\u{2066}",
    "🦀 ünïcödé",
    "\u{feff}x",
    "<script>alert(1)</script>",
    "\\u0000\\x00",
    "*anchor &a !!python/object",
];

/// Every free text, with the hostile ones; and texts that control characters are in.
fn hostile() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for text in HOSTILE {
        cases.push(("a hostile description", one("/spec/description", json!(text)), Verbatim));
        cases.push((
            "a hostile channel's description",
            one("/spec/channels/0/description", json!(text)),
            Verbatim,
        ));
        let controls = text.chars().any(char::is_control);
        let braces = text.contains(['{', '}']);
        let address =
            if controls || braces { Told("Accepted", &["spec.channels[0].address"]) } else { Verbatim };
        cases.push(("a hostile address", one("/spec/channels/0/address", json!(text)), address));
        let property = if controls { Told("Accepted", &["client.rack"]) } else { Verbatim };
        cases.push((
            "a hostile setting",
            one("/spec/servers/1/kafka/properties/client.rack", json!(text)),
            property,
        ));
        let annotation = "/spec/placement/deployment/podTemplate/annotations/example.org~1note";
        cases.push(("a hostile annotation", one(annotation, json!(text)), Verbatim));
        for (name, pointer, field) in [
            ("a hostile name", "/spec/channels/0/name", &["spec.channels[0].name"]),
            ("a hostile path", "/spec/channels/0/path", &["spec.channels[0].path"]),
            ("a hostile base path", "/spec/basePath", &["spec.basePath"]),
            ("a hostile server", "/spec/channels/0/server", &["every channel's `server`"]),
            ("a hostile link", "/spec/lifecycle/link", &["spec.lifecycle.link"]),
            ("a hostile content type", "/spec/channels/0/message/contentType", &["message.contentType"]),
            ("a hostile broker", "/spec/servers/1/kafka/brokers/0", &["kafka.brokers[0]"]),
        ] {
            cases.push((name, one(pointer, json!(text)), Refused(field)));
        }
    }
    cases.extend([
        (
            "a control character in a description",
            one("/spec/description", json!("a\u{0}b\u{7}\u{1b}[31m")),
            Verbatim,
        ),
        ("the longest description", one("/spec/description", long(1024)), Verbatim),
        (
            "a description that is too long",
            one("/spec/description", long(1025)),
            Refused(&["spec.description"]),
        ),
        ("a megabyte", one("/spec/description", long(1 << 20)), Refused(&["spec.description"])),
        (
            "a message's name with a space",
            one("/spec/channels/0/message/name", json!("a b")),
            Refused(&["message.name"]),
        ),
    ]);
    cases
}

#[tokio::test]
async fn a_wrong_api_is_refused_by_field_or_told_in_conditions() {
    let bed = Bed::new("wrong").await;
    let mut operator = bed.operator().await;
    // An API that is deleted while it is being written.
    operator.expect_log(&["NotFound"]);
    let cases = [unions_and_bounds(), names_and_references(), placements(), hostile()].concat();
    let distinct: std::collections::BTreeSet<_> = cases.iter().map(|case| case.0).collect();
    assert!(distinct.len() >= 60, "{} cases", distinct.len());
    let mut failed = Vec::new();
    for (n, (name, changes, fate)) in cases.into_iter().enumerate() {
        let mut document = base();
        document["metadata"]["name"] = json!(format!("case{n}"));
        for (pointer, value) in &changes {
            set(&mut document, pointer, value.clone());
        }
        if let Err(why) = check(&bed, &document, &changes, &fate).await {
            failed.push(format!(
                "{name} {:?}: {why}",
                changes[0].1.to_string().chars().take(80).collect::<String>()
            ));
        }
    }
    within(COLLECTED, "what was being made of a deleted API is collected", || async {
        for kind in ChildKind::ALL {
            let left = bed.list(&kind.resource()).await;
            if left.iter().any(|object| object["metadata"]["labels"]["sluice.dev/api"].is_string()) {
                return None;
            }
        }
        Some(())
    })
    .await;
    assert!(failed.is_empty(), "{} cases:\n{}", failed.len(), failed.join("\n"));
}

async fn check(bed: &Bed, document: &Value, changes: &[(&str, Value)], fate: &Fate) -> Result<(), String> {
    let name = document["metadata"]["name"].as_str().unwrap_or_default();
    match (bed.try_apply(document).await, fate) {
        (Err(message), Refused(parts)) => {
            let missing: Vec<_> = parts.iter().filter(|part| !message.contains(**part)).collect();
            if !missing.is_empty() {
                return Err(format!("the refusal lacks {missing:?}: {}", clip(&message)));
            }
            return Ok(());
        }
        (Err(message), _) => return Err(format!("was refused: {}", clip(&message))),
        (Ok(_), Refused(_)) => {
            bed.delete(&api_resource(), name).await;
            return Err("was taken".into());
        }
        (Ok(_), Told(condition, parts)) => {
            let status = eventually("there is a status", || async {
                let api = bed.get(&api_resource(), name).await;
                (crate::bed::condition(&api, condition)["status"].is_string()).then_some(api)
            })
            .await;
            let found = crate::bed::condition(&status, condition);
            let message = found["message"].as_str().unwrap_or_default();
            let missing: Vec<_> = parts.iter().filter(|part| !message.contains(**part)).collect();
            if found["status"] != "False" || !missing.is_empty() {
                return Err(format!("{condition}={} lacks {missing:?}: {message}", found["status"]));
            }
            if message.chars().any(|c| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c)) {
                return Err(format!("the message can be obeyed by a terminal: {message:?}"));
            }
            if bed.child(ChildKind::Deployment, name).await.is_some() {
                return Err("something was made of it".into());
            }
        }
        (Ok(_), Verbatim) => {
            let map = eventually("the ConfigMap is written", || bed.child(ChildKind::ConfigMap, name)).await;
            let text = map["data"]["config-v1.json"].as_str().unwrap_or_default();
            let config: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
            let entry = &config["apis"][format!("{}/{name}", bed.namespace)]["api"];
            for (pointer, value) in changes {
                if entry.pointer(pointer) != Some(value) {
                    return Err(format!("{pointer} became {:?}", entry.pointer(pointer)));
                }
            }
        }
    }
    bed.delete(&api_resource(), name).await;
    Ok(())
}

fn clip(text: &str) -> String {
    text.chars().take(400).collect()
}

#[tokio::test]
async fn a_wrong_policy_is_refused_by_field_or_told_in_conditions() {
    let bed = Bed::new("wrongpol").await;
    let _operator = bed.operator().await;
    bed.apply(&crate::bed::shop()).await;
    bed.apply(&secret("bad", &[("alice", "hunter2")])).await;
    let keys = |name: &str| json!({"authentication": {"apiKeys": {"secretRef": {"name": name}}}});
    let cases: Vec<(&str, Value, Fate)> = vec![
        ("nothing set", policy("p", &["shop"], json!({})), Refused(&["sets nothing"])),
        ("no target", policy("p", &[], json!({"limits": {"connections": 1}})), Refused(&["spec.targetRefs"])),
        (
            "seventeen targets",
            policy("p", &["shop"; 17], json!({"limits": {"connections": 1}})),
            Refused(&["spec.targetRefs"]),
        ),
        (
            "a target of another kind",
            {
                let mut it = policy("p", &["shop"], json!({"limits": {"connections": 1}}));
                it["spec"]["targetRefs"][0]["kind"] = json!("Service");
                it
            },
            Refused(&["targetRefs[0].kind", "Service"]),
        ),
        (
            "a target of another group",
            {
                let mut it = policy("p", &["shop"], json!({"limits": {"connections": 1}}));
                it["spec"]["targetRefs"][0]["group"] = json!("apps");
                it
            },
            Refused(&["targetRefs[0].group"]),
        ),
        (
            "both authentications",
            policy(
                "p",
                &["shop"],
                json!({"authentication": {"none": {}, "apiKeys": {"secretRef": {"name": "k"}}}}),
            ),
            Refused(&["spec.authentication", "exactly one"]),
        ),
        (
            "no authentication",
            policy("p", &["shop"], json!({"authentication": {}})),
            Refused(&["spec.authentication", "exactly one"]),
        ),
        (
            "any origin with credentials",
            policy("p", &["shop"], json!({"cors": {"allowedOrigins": ["*"], "allowCredentials": true}})),
            Refused(&["spec.cors", "allowCredentials"]),
        ),
        (
            "not an origin",
            policy("p", &["shop"], json!({"cors": {"allowedOrigins": ["app.example"]}})),
            Told("Accepted", &["spec.cors.allowedOrigins[0]", "closed"]),
        ),
        (
            "fewer than no connections",
            policy("p", &["shop"], json!({"limits": {"connections": -1}})),
            Refused(&["limits.connections"]),
        ),
        (
            "an API that is not there",
            policy("p", &["shpo"], json!({"limits": {"connections": 1}})),
            Told("ResolvedRefs", &["spec.targetRefs[0].name", "`shpo`"]),
        ),
        (
            "a channel that is not there",
            policy("p", &["shop/ordres"], json!({"limits": {"connections": 1}})),
            Told("ResolvedRefs", &["spec.targetRefs[0].sectionName", "orders"]),
        ),
        (
            "a Secret that is not there",
            policy("p", &["shop"], keys("none")),
            Told("ResolvedRefs", &["secretRef.name", "`none`"]),
        ),
        (
            "a key in a Secret as it is",
            policy("p", &["shop"], keys("bad")),
            Told("ResolvedRefs", &["`alice`", "sluice key create"]),
        ),
        ("a part of the future", policy("p", &["shop"], json!({"validation": {}})), Refused(&["validation"])),
    ];
    for (name, document, fate) in cases {
        match (bed.try_apply(&document).await, fate) {
            (Err(message), Refused(parts)) => {
                for part in parts {
                    assert!(message.contains(part), "{name}: {message} lacks {part}");
                }
            }
            (Ok(_), Told(condition, parts)) => {
                let reason = if condition == "Accepted" { "Invalid" } else { "RefNotFound" };
                let message = bed.policy_told("p", condition, "False", reason).await;
                for part in parts {
                    assert!(message.contains(part), "{name}: {message} lacks {part}");
                }
                assert!(!message.contains("hunter2"), "{name}: {message}");
                bed.delete(&policy_resource(), "p").await;
            }
            (result, _) => panic!("{name}: {result:?}"),
        }
    }
}
