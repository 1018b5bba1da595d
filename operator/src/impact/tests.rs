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

/// What setting each pointer to its value would do while `streams` are open; null removes.
fn impact_of(changes: &[(&str, Value)], streams: Option<&Streams>) -> Impact {
    let (old, mut new) = (spec(), spec());
    for (pointer, value) in changes {
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
        match new.pointer_mut(parent).expect(pointer) {
            Value::Object(map) if value.is_null() => drop(map.remove(field)),
            Value::Object(map) => drop(map.insert(field.into(), value.clone())),
            Value::Array(list) => drop(list.remove(field.parse().expect("an index"))),
            other => panic!("{pointer} is below {other}"),
        }
    }
    let owner = Owner::api("a", "shop", None);
    let read = |spec: Value| serde_json::from_value(spec).expect("a spec");
    impact(&owner, &read(old), &read(new), &Settings::default(), streams)
}

fn told(pointer: &str, value: Value) -> Vec<String> {
    let impact = impact_of(&[(pointer, value)], None);
    assert_eq!([false, true].map(|is_dry_run| impact.conclusion(is_dry_run)), [None, None]);
    impact.told
}

fn streams(counts: Value) -> Streams {
    serde_json::from_value(counts).expect("counts")
}

#[test]
fn a_gateway_tells_who_loses_it() {
    let spec = |text: &str| serde_json::from_str::<StreamGatewaySpec>(text).expect("a gateway");
    let told = |old: &str, new: &str| {
        let owner = Owner::gateway("infra", "edge", None);
        let apis = [("infra", "own"), ("a", "shop"), ("b", "chat")].into_iter();
        gateway_impact(&owner, [&spec(old), &spec(new)], apis, &Settings::default(), None).told
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
        let (specs, nobody) = ([&read(old), &read(new)], std::iter::empty());
        gateway_impact(&owner, specs, nobody, &Settings::default(), None).told
    };
    let ingress =
        |host: &str| format!(r#"{{"exposure": {{"ingress": {{"host": "{host}", "className": "nginx"}}}}}}"#);
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
            &["channel orders: messages that do not fit the new `message.payload` are refused from then on"],
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
        ("/placement", json!({"deployment": {"replicas": 0}}), &["no pod is left"]),
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

/// X09
#[test]
fn numbers_are_told_and_no_stream_is_counted_twice() {
    let open = streams(json!({"orders": {"websocket": 12, "sse": 3}, "notes": {"sse": 1}}));
    let deployment = |parts: Value| ("/placement", json!({"deployment": parts}));
    let rolled = || deployment(json!({"podTemplate": {"labels": {"a": "b"}}}));
    let removed = || ("/channels/1", Value::Null);
    for (changes, expected, conclusion) in [
        (
            &[("/channels/0/name", json!("sales"))][..],
            &["orders: is removed; its clients (12 WebSocket, 3 SSE open now) are sent away"][..],
            "15 streams closed",
        ),
        (&[removed()], &["notes: is removed; its clients (1 SSE open now)"], "1 stream closed"),
        (
            &[rolled()],
            &["move to another (12 WebSocket, 4 SSE open now), because"],
            "0 streams closed, 16 moved",
        ),
        (&[removed(), rolled()], &["is removed", "are replaced"], "1 stream closed, 15 moved"),
        (
            &[removed(), rolled(), ("/lifecycle", json!({"state": "Blocked"}))],
            &["every open stream is closed (12 WebSocket, 4 SSE open now)", "is removed", "are replaced"],
            "16 streams closed",
        ),
        (
            &[
                ("/channels/0/subscribe/transports/websocket", Value::Null),
                ("/channels/0/subscribe/formats", json!(["raw"])),
            ],
            &[
                "who uses it (12 WebSocket open now)",
                "who reads it (of 12 WebSocket, 3 SSE open now) is sent",
            ],
            "12 streams closed, 3 checked anew",
        ),
        // Who reads by WebSocket is refused when it publishes, and reads on.
        (
            &[("/channels/0/publish", Value::Null)],
            &["HTTP publish is switched off; who publishes by it is refused", "WebSocket publish"],
            "0 streams closed",
        ),
        (
            &[(
                "/servers/0/kafka",
                json!({"brokers": ["kafka:9092"], "properties": {"fetch.min.bytes": "9"}}),
            )],
            &["server events: the broker is connected anew"],
            "0 streams closed, 1 server connected anew",
        ),
        (
            &[("/channels/0/address", json!("other")), removed()],
            &["its subscribers (12 WebSocket, 3 SSE open now) are sent away and told", "is removed"],
            "16 streams closed",
        ),
        (
            &[("/placement", json!({"sidecar": {}}))],
            &["and open streams end (12 WebSocket, 4 SSE open now)"],
            "16 streams closed",
        ),
        (&[deployment(json!({"replicas": 0}))], &["no pod is left"], "16 streams closed"),
    ] {
        let impact = impact_of(changes, Some(&open));
        let fits = impact.told.len() == expected.len()
            && impact.told.iter().zip(expected).all(|(told, part)| told.contains(part));
        assert!(fits, "{changes:?}: {:#?}", impact.told);
        let conclusion = Some(format!("in all: {conclusion}"));
        assert_eq!((impact.conclusion(false), impact.conclusion(true)), (conclusion.clone(), conclusion));
    }
}

#[test]
fn that_nobody_loses_a_stream_is_told_in_a_dry_run_alone() {
    let open = streams(json!({"orders": {"websocket": 12}}));
    let described = [("/description", json!("new"))];
    let impact = impact_of(&described, Some(&open));
    let sure = Some("no open stream is closed (12 WebSocket open now)".to_owned());
    assert_eq!((impact.told.len(), impact.conclusion(false), impact.conclusion(true)), (0, None, sure));
    assert_eq!(impact_of(&described, Some(&Streams::default())).conclusion(true), None, "nobody is there");
    // Of what stands between clients and pods it is not known what it does to streams.
    let exposure = json!({"ingress": {"host": "a.b", "className": "nginx"}});
    let exposed = [("/placement", json!({"deployment": {"exposure": exposure}}))];
    assert_eq!(impact_of(&exposed, Some(&open)).conclusion(true), None);
}

#[test]
fn fewer_pods_move_some_of_the_clients() {
    let read = |text: &str| serde_json::from_str::<StreamGatewaySpec>(text).expect("a gateway");
    let known = ByApi::from([
        ("a/shop".to_owned(), streams(json!({"orders": {"sse": 3}}))),
        ("b/chat".to_owned(), streams(json!({"room": {"websocket": 2}, "lobby": {"websocket": 1}}))),
    ]);
    let changed = |old: &str, new: &str| {
        let owner = Owner::gateway("a", "edge", None);
        let apis = [("a", "shop"), ("b", "chat")].into_iter();
        gateway_impact(&owner, [&read(old), &read(new)], apis, &Settings::default(), Some(&known))
    };
    let fewer = changed(r#"{"autoscaling": {"maxReplicas": 5}}"#, r#"{"replicas": 2}"#);
    let [told] = &fewer.told[..] else { panic!("{fewer:?}") };
    assert!(
        told.starts_with("of 5 pods at most 2 stay") && told.contains("(of 3 WebSocket, 3 SSE"),
        "{told}"
    );
    assert_eq!(fewer.conclusion(false).as_deref(), Some("in all: 0 streams closed, up to 6 moved"));
    let all = r#"{"allowedNamespaces": {"from": "All"}, "replicas": 2}"#;
    let both = changed(all, r#"{"replicas": 1}"#);
    assert!(both.told[1].contains("their clients (3 WebSocket open now) get 404: b/chat"), "{both:?}");
    assert_eq!(both.conclusion(false).as_deref(), Some("in all: 3 streams closed, up to 3 moved"));
}

#[test]
fn who_reads_on_is_not_sent_away() {
    let spec = |server: &str, kind: Value| -> StreamApiSpec {
        let mut server = json!({"name": server});
        server.as_object_mut().expect("a map").extend(kind.as_object().expect("a map").clone());
        let channel = json!({"name": "orders", "server": server["name"], "address": "o",
            "subscribe": {"transports": {"sse": {}}}});
        serde_json::from_value(json!({"servers": [server], "channels": [channel]})).expect("a spec")
    };
    let told = |old: StreamApiSpec, new: StreamApiSpec| {
        let owner = Owner::api("a", "shop", None);
        impact(&owner, &old, &new, &Settings::default(), None).told
    };
    let memory = |server| spec(server, json!({"memory": {}}));
    let generator = |rate: u32| spec("log", json!({"generator": {"messagesPerSecond": rate}}));
    let kafka = |server| spec(server, json!({"kafka": {"brokers": ["kafka:9092"]}}));
    assert!(told(generator(1), generator(2)).is_empty());
    assert!(told(kafka("one"), kafka("other")).is_empty());
    assert!(told(memory("one"), memory("other"))[0].contains("reads other messages"));
}

const VERSION: &str = "sluice.dev/v1alpha1";

/// What `new` policies, which were `old`, mean for who is connected to two APIs.
fn of_policies(old: &[Value], new: &[Value], streams: Option<&ByApi>) -> Impact {
    let objects = |policies: &[Value]| {
        let mut objects = Objects::default();
        for name in ["chat", "shop"] {
            let header = json!({"name": name, "namespace": "a"});
            let api = json!({"apiVersion": VERSION, "kind": "StreamAPI", "metadata": header, "spec": spec()});
            objects.apis.push(serde_json::from_value(api).expect("an API"));
        }
        for (index, spec) in policies.iter().enumerate() {
            let header = json!({"name": format!("p{index}"), "namespace": "a"});
            let policy =
                json!({"apiVersion": VERSION, "kind": "StreamPolicy", "metadata": header, "spec": spec});
            objects.policies.push(serde_json::from_value(policy).expect("a policy"));
        }
        objects
    };
    policy_impact(&objects(old), &objects(new), &Config::default(), streams)
}

/// X09
#[test]
fn another_policy_tells_whose_streams_are_checked_anew() {
    let policy = |channel: Value, parts: Value| {
        let mut spec = parts;
        spec["targetRefs"] = json!([{"kind": "StreamAPI", "name": "shop", "sectionName": channel}]);
        spec
    };
    let keys = |channel: &str| {
        let cors = json!({"allowedOrigins": ["https://a.b"]});
        let keys = json!({"apiKeys": {"secretRef": {"name": "keys"}}});
        policy(json!(channel), json!({"authentication": keys, "cors": cors}))
    };
    let limits = || policy(json!("orders"), json!({"limits": {"connections": 5}}));
    let known = ByApi::from([("a/shop".to_owned(), streams(json!({"orders": {"websocket": 12, "sse": 3}})))]);
    let both = [
        "StreamAPI shop: channel orders: `authentication` changes; streams that it would not let in are closed \
         within 5 s (of 12 WebSocket, 3 SSE open now)",
        "StreamAPI shop: channel orders: `cors` changes; streams from origins that it does not name are closed \
         within 5 s (of 12 WebSocket, 3 SSE open now)",
    ];
    for (old, new) in
        [(&[][..], &[keys("orders")][..]), (&[keys("orders")], &[]), (&[keys("orders")], &[limits()])]
    {
        let impact = of_policies(old, new, Some(&known));
        assert_eq!(impact.told, both);
        let conclusion = impact.conclusion(false);
        assert_eq!(conclusion.as_deref(), Some("in all: 0 streams closed, 15 checked anew"));
    }
    // Nobody is connected to the other channel, and limits end no stream.
    for new in [keys("notes"), limits()] {
        let impact = of_policies(&[], &[new], Some(&known));
        let sure = Some("no open stream is closed (12 WebSocket, 3 SSE open now)".to_owned());
        assert_eq!((impact.told.len(), impact.conclusion(true)), (0, sure));
    }
    let unknown = of_policies(&[], &[keys("notes"), limits()], None);
    assert_eq!((unknown.told.len(), unknown.conclusion(true)), (2, None));
    assert!(unknown.told[0].ends_with("within 5 s"), "{unknown:?}");
}
