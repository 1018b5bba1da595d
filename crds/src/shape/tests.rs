use serde_json::{Value, json};

use super::*;

/// A good API in which `change` is made at the JSON pointer.
fn api(pointer: &str, change: Value) -> Value {
    let mut api = json!({
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "StreamAPI",
        "metadata": {"name": "shop"},
        "spec": {
            "servers": [{"name": "events", "kafka": {"brokers": ["kafka:9092"]}}],
            "channels": [{
                "name": "orders", "server": "events", "address": "orders.v1",
                "message": {"contentType": "application/json"},
                "subscribe": {"transports": {"websocket": {}, "sse": {}}},
                "publish": {"transports": {"http": {}}},
            }],
        },
    });
    set(&mut api, pointer, change);
    api
}

fn policy(pointer: &str, change: Value) -> Value {
    let mut policy = json!({
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "StreamPolicy",
        "metadata": {"name": "keys"},
        "spec": {
            "targetRefs": [{"kind": "StreamAPI", "name": "shop"}],
            "authentication": {"apiKeys": {"secretRef": {"name": "shop-keys"}}},
        },
    });
    set(&mut policy, pointer, change);
    policy
}

fn set(document: &mut Value, pointer: &str, change: Value) {
    if let Some((parent, name)) = pointer.rsplit_once('/') {
        let parent = document.pointer_mut(parent).expect("the parent exists");
        match parent {
            Value::Array(items) => items.push(change),
            parent => parent[name] = change,
        }
    }
}

fn found(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

#[test]
fn good_documents_have_no_problems() {
    // What a schema says is not for the shape.
    let payload = json!({"type": "object", "properties": {"any": {"thing": [1, null]}}});
    let with_payload = api("/spec/channels/0/message/payload", payload);
    for document in [api("", Value::Null), policy("", Value::Null), with_payload] {
        let shape = if document["kind"] == "StreamAPI" { &STREAM_API } else { &STREAM_POLICY };
        assert_eq!(found(&shape.check(&document)), "");
    }
}

#[test]
fn every_problem_of_an_api_says_where_and_what_to_write() {
    let long = "x".repeat(300);
    let cases = [
        ("/sepc", json!({}), "sepc: `sepc` is not a field; did you mean `spec`?"),
        ("/spec/server", json!([]), "spec.server: `server` is not a field; did you mean `servers`?"),
        ("/spec/xyz", json!(1), "spec.xyz: `xyz` is not a field; remove it or write one of"),
        ("/spec/placement", json!({"gateway": {}}), "spec.placement.gateway.name: is missing; add `name: …`"),
        ("/spec/bridges", json!([]), "spec.bridges: `bridges` is not implemented by this build; remove it"),
        ("/spec/servers", json!([]), "spec.servers: is empty; write at least one"),
        ("/spec/servers", json!({"events": {}}), "spec.servers: must be a list"),
        ("/spec/servers", Value::Null, "spec.servers: is empty; write `servers: […]`"),
        (
            "/spec/servers/-",
            json!({"name": "b"}),
            "spec.servers[1]: sets no kind; add one of `kafka`, `memory`",
        ),
        (
            "/spec/servers/-",
            json!({"name": "b", "memory": {}, "generator": {}}),
            "spec.servers[1]: sets `memory`, `generator`; keep exactly one",
        ),
        (
            "/spec/servers/-",
            json!({"name": "b", "mqtt": {"url": "x"}}),
            "spec.servers[1].mqtt: `mqtt` is not implemented by this build",
        ),
        (
            "/spec/servers/-",
            json!({"name": "b", "memory": null}),
            "spec.servers[1].memory: is empty; write `memory: {}`",
        ),
        (
            "/spec/servers/-",
            json!({"memory": {}}),
            "spec.servers[1].name: is missing; add `name: …` (Name of the server",
        ),
        (
            "/spec/servers/-",
            json!({"name": "B_", "memory": {}}),
            "spec.servers[1].name: `B_` does not fit; use a-z",
        ),
        (
            "/spec/servers/-",
            json!({"name": "events", "memory": {}}),
            "spec.servers[1].name: `events` stands at servers[0] too",
        ),
        ("/spec/servers/-", json!("memory"), "spec.servers[1]: must be a mapping; write `{memory: {}}`"),
        (
            "/spec/servers/0/kafka/brokers",
            json!("kafka:9092"),
            "spec.servers[0].kafka.brokers: must be a list; write `brokers: […]`",
        ),
        (
            "/spec/servers/0/kafka/brokers/-",
            json!("kafka"),
            "spec.servers[0].kafka.brokers[1]: `kafka` does not fit; write host:port",
        ),
        (
            "/spec/servers/0/kafka/properties",
            json!({"linger.ms": 5}),
            "spec.servers[0].kafka.properties[\"linger.ms\"]: must be a string; put it in quotes",
        ),
        (
            "/spec/servers/0/kafka/password",
            json!("x"),
            "spec.servers[0].kafka.password: `password` is not a field",
        ),
        (
            "/spec/servers/0/kafka/sasl",
            json!({"mechanism": "scram-sha-512", "secretRef": {"name": "x"}}),
            "spec.servers[0].kafka.sasl.mechanism: `scram-sha-512` is not a value here; did you mean `SCRAM-SHA-512`?",
        ),
        (
            "/spec/servers/0/kafka/sasl",
            json!({"mechanism": "PLAIN"}),
            "spec.servers[0].kafka.sasl.secretRef: is missing; add `secretRef: {…}`",
        ),
        (
            "/spec/channels/0/adress",
            json!("x"),
            "spec.channels[0].adress: `adress` is not a field; did you mean `address`?",
        ),
        (
            "/spec/channels/0/address",
            json!(long),
            "spec.channels[0].address: has 300 characters; write at most 249",
        ),
        ("/spec/channels/0/address", json!(""), "spec.channels[0].address: is empty; write a value"),
        (
            "/spec/channels/0/address",
            json!(7),
            "spec.channels[0].address: must be a string; put it in quotes",
        ),
        ("/spec/channels/0/path", json!("/a/"), "spec.channels[0].path: `/a/` does not fit; write a path"),
        (
            "/spec/channels/0/message/contentType",
            json!("json"),
            "spec.channels[0].message.contentType: `json` does not fit",
        ),
        (
            "/spec/channels/0/message/payload",
            json!("object"),
            "spec.channels[0].message.payload: must be a mapping; write `payload: {…}`",
        ),
        (
            "/spec/channels/0/message/schema",
            json!({}),
            "`schema` is not a field; remove it or write one of `contentType`, `name`, `payload`",
        ),
        (
            "/spec/channels/0/message/name",
            json!("a\r\nSet-Cookie: x"),
            "spec.channels[0].message.name: `a��Set-Cookie: x` does not fit; use printable",
        ),
        (
            "/spec/channels/0/subscribe/transports",
            json!(["sse"]),
            "spec.channels[0].subscribe.transports: must be a mapping, not a list; write `transports: {sse: {}}`",
        ),
        (
            "/spec/channels/0/subscribe/transports/sse",
            Value::Null,
            "transports.sse: is empty; write `sse: {}` or remove it",
        ),
        (
            "/spec/channels/0/subscribe/transports/poll",
            json!({}),
            "transports.poll: `poll` is not implemented by this build",
        ),
        (
            "/spec/channels/0/subscribe/transports/webSub",
            json!({}),
            "`webSub` is not implemented by this build",
        ),
        (
            "/spec/channels/0/subscribe/start",
            json!("earliest"),
            "subscribe.start: `start` is not implemented by this build",
        ),
        (
            "/spec/channels/0/subscribe/delivery",
            json!("queue"),
            "`delivery` is not implemented by this build",
        ),
        (
            "/spec/channels/0/subscribe/slowConsumer",
            json!("block"),
            "`block` is not implemented by this build; write `disconnect` or `dropOldest`",
        ),
        (
            "/spec/channels/0/subscribe/formats",
            json!(["raw", "raw"]),
            "subscribe.formats[1]: `raw` stands at formats[0] too",
        ),
        (
            "/spec/channels/0/subscribe/formats",
            json!(["xml"]),
            "formats[0]: `xml` is not a value here; write `raw`, `envelope` or `cloudevents`",
        ),
        (
            "/spec/channels/0/subscribe/replay",
            json!({"messages": 0}),
            "replay.messages: must be between 1 and 1000000",
        ),
        (
            "/spec/channels/0/subscribe/replay",
            json!({"messages": 1.5}),
            "replay.messages: must be a whole number",
        ),
        (
            "/spec/channels/0/subscribe/replay",
            json!({"bytes": "16Mi"}),
            "replay.bytes: must be a whole number, without quotes",
        ),
        (
            "/spec/channels/0/subscribe/replay",
            json!({"age": "10 min"}),
            "replay.age: `10 min` does not fit; write a duration like",
        ),
        (
            "/spec/channels/0/publish/transports/kafka",
            json!({}),
            "publish.transports.kafka: `kafka` is not implemented by this build",
        ),
        (
            "/spec/channels/0/publish/transports/http",
            json!({"x": 1}),
            "http.x: `x` is not a field; write `{}`",
        ),
        (
            "/spec/lifecycle",
            json!({"state": "Retired"}),
            "spec.lifecycle.state: `Retired` is not implemented by this build; write",
        ),
        ("/spec/lifecycle", json!({"state": "published"}), "did you mean `Published`?"),
        ("/metadata/name", json!("Shop"), "metadata.name: `Shop` does not fit; use a-z"),
        ("/metadata/name", json!("s".repeat(41)), "metadata.name: has 41 characters; write at most 40"),
        ("/metadata/nmae", json!("x"), "metadata.nmae: `nmae` is not a field; did you mean `name`?"),
        (
            "/metadata/labels",
            json!({"a": true}),
            "metadata.labels[\"a\"]: must be a string; put it in quotes",
        ),
        ("/spec/\u{1b}[31m", json!(1), "spec[\"�[31m\"]: `�[31m` is not a field"),
    ];
    for (pointer, change, expected) in cases {
        let problems = found(&STREAM_API.check(&api(pointer, change.clone())));
        assert!(problems.contains(expected), "{pointer} = {change}\n wanted {expected}\n found  {problems}");
        assert_eq!(problems.lines().count(), 1, "{pointer} = {change}: {problems}");
    }
}

#[test]
fn every_problem_of_a_policy_says_where_and_what_to_write() {
    let cases = [
        ("/spec/validation", json!({}), "spec.validation: `validation` is not implemented by this build"),
        ("/spec/quota", json!({}), "spec.quota: `quota` is not implemented by this build"),
        ("/spec/authentication", json!("none"), "spec.authentication: must be a mapping; write `{none: {}}`"),
        (
            "/spec/authentication",
            json!({}),
            "spec.authentication: sets no kind; add one of `apiKeys`, `none`",
        ),
        (
            "/spec/authentication",
            json!({"jwt": {}}),
            "spec.authentication.jwt: `jwt` is not implemented by this build",
        ),
        (
            "/spec/authentication/none",
            json!({}),
            "spec.authentication: sets `apiKeys`, `none`; keep exactly one",
        ),
        ("/spec/targetRefs", json!([]), "spec.targetRefs: is empty; write at least one"),
        (
            "/spec/targetRefs/0/kind",
            json!("StreamApi"),
            "targetRefs[0].kind: `StreamApi` is not a value here; did you mean `StreamAPI`?",
        ),
        (
            "/spec/targetRefs/0/group",
            json!("sluice.io"),
            "targetRefs[0].group: `sluice.io` does not fit; write sluice.dev",
        ),
        (
            "/spec/limits",
            json!({"connections": -1}),
            "spec.limits.connections: must be between 0 and 1000000",
        ),
        (
            "/spec/limits",
            json!({"connections": 18_446_744_073_709_551_615_u64}),
            "limits.connections: must be between",
        ),
        ("/spec/limits", json!({"publishRate": {}}), "limits.publishRate.messagesPerSecond: is missing; add"),
        ("/spec/cors", json!({"allowCredentials": "yes"}), "cors.allowCredentials: must be true or false"),
        ("/spec/cors", json!({"allowedOrigin": []}), "did you mean `allowedOrigins`?"),
    ];
    for (pointer, change, expected) in cases {
        let problems = found(&STREAM_POLICY.check(&policy(pointer, change.clone())));
        assert!(problems.contains(expected), "{pointer} = {change}\n wanted {expected}\n found  {problems}");
        assert_eq!(problems.lines().count(), 1, "{pointer} = {change}: {problems}");
    }
}

#[test]
fn all_problems_are_found_at_once_and_their_number_is_bounded() {
    let mut document = api("/spec/bridges", json!([]));
    set(&mut document, "/spec/channels/0/address", json!(""));
    set(&mut document, "/spec/servers/0/kafka/brokers", json!(7));
    assert_eq!(STREAM_API.check(&document).len(), 3);
    let many: Map<String, Value> = (0..5000).map(|n| (format!("field{n}"), json!(1))).collect();
    let problems = STREAM_API.check(&api("/spec/channels/0/message", Value::Object(many)));
    assert_eq!(problems.len(), MAX_PROBLEMS + 1);
}

#[test]
fn values_of_secrets_are_not_repeated() {
    let secret = json!({"metadata": {"name": "s"}, "data": {"a": 123_456}, "stringData": {"b": ["hunter2"]}});
    let problems = found(&SECRET.check(&secret));
    assert_eq!(problems.lines().count(), 2, "{problems}");
    assert!(!problems.contains("123456") && !problems.contains("hunter2"), "{problems}");
}

/// The messages of patterns come from functions; this finds a pattern that has none.
#[test]
fn every_pattern_of_a_schema_has_its_words() {
    fn patterns(schema: &Value, found: &mut Vec<String>) {
        match schema {
            Value::Object(fields) => {
                found.extend(fields.get("pattern").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|inner| patterns(inner, found));
            }
            Value::Array(items) => items.iter().for_each(|inner| patterns(inner, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    for Shape(schema) in [&*STREAM_API, &*STREAM_POLICY, &*SECRET, &*CONFIG_MAP] {
        patterns(schema, &mut found);
    }
    assert!(found.len() > 10);
    for pattern in found {
        assert!(words::expectation(&pattern).is_some(), "{pattern}");
    }
}

#[test]
fn patterns_and_their_functions_agree() {
    let cases = [
        (crate::schema::NAME_PATTERN, &["a", "a-1"][..], &["", "1a", "a-", "A", "a_"][..]),
        (words::OBJECT_NAME, &["0", "a.b-c"], &["", ".a", "a.", "a/b"]),
        (words::NAMESPACE, &["default", "0a"], &["a.b", "-a"]),
        (
            words::DNS_NAME,
            &["a", "a-b.c0"],
            &["", "a..b", ".a", "a.", "-a", "a-.b", "A", "*.a", "a_b", "a/b"],
        ),
        (
            words::HOST,
            &["a.example.com", "*.example.com"],
            &["", "*", "*.", "a.*.b", "*a.b", "**.a", "a:80", "a b"],
        ),
        (words::DURATION, &["1h30m", "0s"], &["", "1d", "1.5s"]),
        (
            r"^[0-9]+(\.[0-9]{1,3})?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$",
            &["0", "500m", "1.5", "256Mi"],
            &["", "m", "1.", "1.2345", "1e3", "-1", "1 Gi"],
        ),
        (
            r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$",
            &["", "a", "A-b_c.1"],
            &["-", "a-", ".a", "ä", "a b"],
        ),
        (r"^(/[A-Za-z0-9._~-]+)+$", &["/a", "/a/b.~_-"], &["", "/", "a", "/a/", "//a", "/a b", "/ä"]),
        (
            r"^https?://[!#-;=?-~]+$",
            &["https://x/?y"],
            &["https://", "ftp://x", "http://a b", "http://x>;rel=\"next\""],
        ),
        (
            r"^[A-Za-z0-9.\-_\[\]:]+:[0-9]{1,5}$",
            &["a:1", "[::1]:9092"],
            &["a", ":1", "a:", "a:123456", "a b:1"],
        ),
        (
            r"^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+( *;[ -~]*)?$",
            &["a/b", "text/plain; charset=utf-8", "a/b;"],
            &["a", "a/", "a/b ", "a/b;\n", "a/b/c"],
        ),
    ];
    for (pattern, good, bad) in cases {
        for text in good {
            assert_eq!(words::mismatch(pattern, text), None, "{pattern}");
        }
        for text in bad {
            assert!(words::mismatch(pattern, text).is_some(), "{pattern} {text:?}");
        }
    }
}

#[test]
fn a_slip_is_recognised_and_a_stranger_is_not() {
    assert_eq!(words::nearest("adress", &["address", "name"]), Some("address"));
    assert_eq!(words::nearest("webSocket", &["websocket", "sse"]), Some("websocket"));
    assert_eq!(words::nearest("brokres", &["brokers"]), Some("brokers"));
    assert_eq!(words::nearest("xy", &["xz"]), None);
    assert_eq!(words::nearest("tls", &["sasl"]), None);
    assert_eq!(words::nearest(&"a".repeat(10_000), &["address"]), None);
}
