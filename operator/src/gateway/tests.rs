use serde_json::{Value, json};

use super::*;
use crate::children::{ChildKind, GATEWAY_LABEL};
use crate::objects::Unread;

const OWNER: Owner<'static> = Owner::gateway("infra", "edge", Some("u-1"));

/// An API of `namespace/name` on the gateway, made at `second`; `noise` makes it large.
fn api(key: &str, second: u32, noise: &str) -> Value {
    let (namespace, name) = key.split_once('/').expect("a key");
    json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "StreamAPI",
        "metadata": {
            "name": name, "namespace": namespace, "generation": 1,
            "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
        },
        "spec": {
            "basePath": format!("/{name}"), "description": noise,
            "placement": {"gateway": {"name": "edge", "namespace": "infra"}},
            "servers": [{"name": "log", "memory": {}}],
            "channels": [{"name": "orders", "server": "log", "address": "o", "subscribe": {"transports": {"sse": {}}}}],
        },
    })
}

fn objects(apis: &[Value]) -> Objects {
    let gateway = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "StreamGateway",
        "metadata": {"name": "edge", "namespace": "infra"}, "spec": {}});
    let read = |api: &Value| serde_json::from_value(api.clone()).expect("an API");
    Objects {
        apis: apis.iter().map(read).collect(),
        gateways: vec![serde_json::from_value(gateway).expect("a gateway")],
        ..Objects::default()
    }
}

fn hosted(objects: &Objects, last: &Config) -> Hosted {
    let known = objects.apis.iter().map(|api| identity(&api.metadata));
    let unread = objects
        .unread
        .iter()
        .filter_map(|unread| Some((unread.namespace.as_deref()?, unread.name.as_deref()?)));
    let keys =
        known.chain(unread).map(|(namespace, name)| (format!("{namespace}/{name}"), vec![7; 32])).collect();
    host(&OWNER, &StreamGatewaySpec::default(), objects, last, &keys, &Settings::default())
}

fn served(hosted: &Hosted) -> Vec<&str> {
    hosted.config.apis.keys().map(String::as_str).collect()
}

#[test]
fn of_two_on_one_path_the_older_wins_wherever_they_are() {
    let younger = hosted(&objects(&[api("a/shop", 2, ""), api("b/shop", 1, "")]), &Config::default());
    assert_eq!(served(&younger), ["b/shop"]);
    let problem = &younger.problems["a/shop"][0];
    assert!(problem.at == "spec.channels[0].path" && problem.message.contains("`b/shop`"), "{problem}");
    // Also if the younger one was there first.
    let before = hosted(&objects(&[api("a/shop", 2, "")]), &Config::default());
    let after = hosted(&objects(&[api("a/shop", 2, ""), api("b/shop", 1, "")]), &before.config);
    assert_eq!(served(&after), ["b/shop"]);
    assert_eq!(after.config.sequence, before.config.sequence + 1);
}

#[test]
fn what_is_wrong_with_one_api_touches_no_other() {
    let before = hosted(&objects(&[api("a/shop", 1, ""), api("a/chat", 2, "")]), &Config::default());
    let mut wrong = api("a/shop", 1, "");
    wrong["spec"]["channels"][0]["server"] = json!("nowhere");
    let after = hosted(&objects(&[wrong, api("a/chat", 2, "")]), &before.config);
    assert_eq!(after.config.apis, before.config.apis, "it is served as it last was good");
    assert_eq!(after.config.sequence, before.config.sequence, "so there is nothing to write");
    assert_eq!(after.problems.keys().collect::<Vec<_>>(), ["a/shop"]);
    let mut torn = objects(&[api("a/chat", 2, "")]);
    torn.unread.push(Unread {
        kind: Kind::StreamApi,
        namespace: Some("a".into()),
        name: Some("shop".into()),
        problems: vec![Problem::new("spec", "cannot be read")],
        targets: None,
    });
    let after = hosted(&torn, &before.config);
    assert_eq!(after.config.apis.len(), 2);
    assert_eq!(after.problems["a/shop"][0].message, "cannot be read");
}

#[test]
fn who_has_no_cursor_key_yet_waits() {
    let objects = objects(&[api("a/shop", 1, ""), api("a/chat", 2, "")]);
    let keys = [("a/chat".to_owned(), vec![7; 32])].into();
    let spec = StreamGatewaySpec::default();
    let hosted = host(&OWNER, &spec, &objects, &Config::default(), &keys, &Settings::default());
    assert_eq!(served(&hosted), ["a/chat"]);
    assert!(hosted.problems.is_empty());
}

#[test]
fn the_youngest_are_left_out_when_not_all_fit() {
    let mut state = 1_u64;
    let mut noise = || -> String {
        let digits = (0..60).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            format!("{state:016x}")
        });
        digits.collect()
    };
    let apis: Vec<_> = (0..3000).map(|n| api(&format!("a/api-{n}"), n / 60 % 60, &noise())).collect();
    let all = objects(&apis);
    let some = hosted(&all, &Config::default());
    let (count, out) = (some.config.apis.len(), some.problems.len());
    assert!(count > 100 && count + out == 3000, "{count} and {out}");
    // Equally old ones by name.
    let mut by_age: Vec<_> = (0..3000).map(|n| (n / 60 % 60, format!("a/api-{n}"))).collect();
    by_age.sort();
    assert!(by_age[..count].iter().all(|(_, key)| some.config.apis.contains_key(key)), "the oldest are in");
    let problem = &some.problems[&by_age[count].1][0];
    assert_eq!(problem.at, "spec.placement.gateway");
    assert!(problem.message.contains("there is no room"), "{problem}");
    assert!(some.children.iter().any(|child| child.kind == ChildKind::Deployment));
    // Who is there stays, whoever grows or comes.
    let mut grown = apis.clone();
    grown[0]["spec"]["description"] = json!((0..50).map(|_| noise()).collect::<String>());
    let after = hosted(&objects(&grown), &some.config);
    assert!(!after.config.apis.contains_key("a/api-0"), "who grew beyond the room is left out");
    let stay = after.config.apis.keys().filter(|key| some.config.apis.contains_key(*key)).count();
    assert!(stay + 20 > count, "{stay} of {count} stay");
    // Others have the place of those that go.
    let fewer = hosted(&objects(&apis[100..]), &some.config).config.apis.len();
    assert!(fewer.abs_diff(count) < 20, "{fewer} are served instead of {count}");
}

#[test]
fn one_that_is_too_large_by_itself_keeps_out_no_other() {
    let mut huge = api("a/huge", 1, "");
    huge["spec"]["servers"] =
        json!([{"name": "log", "kafka": {"brokers": ["kafka:9092"], "tls": {"secretRef": {"name": "ca"}}}}]);
    let mut all = objects(&[huge, api("b/shop", 2, ""), api("b/chat", 3, "")]);
    let authority = format!("-----BEGIN CERTIFICATE-----{}", "x".repeat(950_000));
    let secret = json!({"metadata": {"name": "ca", "namespace": "a", "labels": {"sluice.dev/use": "true"}},
        "data": {"ca.crt": k8s_openapi::ByteString(authority.into_bytes())}});
    all.secrets.push(serde_json::from_value(secret).expect("a Secret"));
    let hosted = hosted(&all, &Config::default());
    assert_eq!(served(&hosted), ["b/chat", "b/shop"]);
    assert_eq!(hosted.problems.keys().collect::<Vec<_>>(), ["a/huge"]);
    assert!(hosted.problems["a/huge"][0].message.contains("there is no room"), "{:?}", hosted.problems);
}

#[test]
fn a_gateway_is_named_and_labelled_like_no_api() {
    let hosted = hosted(&objects(&[api("a/shop", 1, "")]), &Config::default());
    for child in &hosted.children {
        let metadata = &child.body["metadata"];
        assert_eq!(metadata["name"], "edge-sluice-gateway");
        assert_eq!(metadata["namespace"], "infra");
        assert_eq!(metadata["labels"][GATEWAY_LABEL], "edge");
        assert_eq!(metadata["labels"]["sluice.dev/api"], Value::Null);
        assert_eq!(metadata["ownerReferences"][0]["kind"], "StreamGateway");
    }
    let find = |kind| hosted.children.iter().find(|child| child.kind == kind).expect("it is built");
    // An API of the gateway's name has other pods.
    let selector = &find(ChildKind::Service).body["spec"]["selector"];
    assert_eq!(selector["app.kubernetes.io/name"], "sluice-gateway");
    let arguments = &find(ChildKind::Deployment).body["spec"]["template"]["spec"]["containers"][0]["args"];
    assert!(arguments.to_string().contains("--watch=infra/edge-sluice-gateway"), "{arguments}");
    assert!(find(ChildKind::Secret).body["data"]["cursor-key.a_shop"].is_string());
}

#[test]
fn an_obstacle_says_who_can_do_what() {
    let reference =
        |namespace: Option<&str>| GatewayRef { name: "edge".into(), namespace: namespace.map(Into::into) };
    let spec = StreamGatewaySpec::default();
    assert_eq!(obstacle("infra", &reference(None), Some(&spec)), None);
    assert_eq!(obstacle("infra", &reference(Some("infra")), Some(&spec)), None);
    let missing = obstacle("a", &reference(None), None).expect("there is none");
    assert!(missing.at.ends_with("gateway.name") && missing.message.contains("namespace `a`"), "{missing}");
    let forbidden = obstacle("a", &reference(Some("infra")), Some(&spec)).expect("it is not allowed");
    assert!(
        forbidden.at.ends_with("gateway.namespace") && forbidden.message.contains("`infra/edge`"),
        "{forbidden}"
    );
}
