//! The cases of StreamAPIs: what is changed in a good one, and what becomes of that.

use serde_json::{Value, json};
use sluice_tests::documents::Channel;

use super::Case;
use super::Fate::{Refused, Told, Verbatim};

fn one(pointer: &'static str, value: Value) -> Vec<(&'static str, Value)> {
    vec![(pointer, value)]
}

fn long(length: usize) -> Value {
    "x".repeat(length).into()
}

pub fn unions_and_bounds() -> Vec<Case> {
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
        ("a gateway without a name", one("/spec/placement", json!({"gateway": {}})), Refused(&["gateway"])),
        (
            "two placements at once",
            one("/spec/placement", json!({"deployment": {}, "sidecar": {}})),
            Refused(&["exactly one"]),
        ),
        (
            "a sidecar in every pod",
            one("/spec/placement", json!({"sidecar": {"selector": {"matchLabels": {}}}})),
            Refused(&["matchLabels"]),
        ),
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

pub fn names_and_references() -> Vec<Case> {
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

pub fn placements() -> Vec<Case> {
    let template = |field: &str, value: Value| {
        one("/spec/placement", json!({"deployment": {"podTemplate": {field: value}}}))
    };
    let exposure = |value: Value| one("/spec/placement", json!({"deployment": {"exposure": value}}));
    let ingress = |host: &str| json!({"host": host, "className": "nginx"});
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
            "two ways out",
            exposure(
                json!({"ingress": ingress("a.example.com"), "httpRoute": {"parentRefs": [{"name": "a"}], "hostnames": ["a"]}}),
            ),
            Refused(&["exactly one of `ingress`, `httpRoute`"]),
        ),
        (
            "a host that ends a line",
            exposure(json!({"ingress": ingress("a.example.com\n}")})),
            Refused(&["exposure.ingress.host"]),
        ),
        (
            "annotations of an Ingress",
            exposure(json!({"ingress": {"host": "a", "className": "a", "annotations": {"a": "b"}}})),
            Refused(&["exposure.ingress.annotations"]),
        ),
        (
            "a host that is an address",
            exposure(json!({"ingress": ingress("192.0.2.1")})),
            Told("Accepted", &["exposure.ingress.host", "write a DNS name"]),
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
pub fn hostile() -> Vec<Case> {
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
