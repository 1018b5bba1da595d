use serde_json::{Value, json};

use super::*;
use crate::read::read;

fn api(name: &str) -> Value {
    json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "StreamAPI",
    "metadata": {"name": name, "namespace": "a"},
    "spec": {
        "servers": [{"name": "log", "memory": {}}],
        "channels": [
            {"name": "orders", "server": "log", "address": "orders", "subscribe": {"transports": {"sse": {}}}},
            {"name": "notes", "server": "log", "address": "notes", "subscribe": {"transports": {"sse": {}}}},
        ],
    }})
}

fn policy(name: &str, target: Value, parts: Value) -> Value {
    let mut spec = parts;
    spec["targetRefs"] = json!([target]);
    json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "StreamPolicy",
        "metadata": {"name": name, "namespace": "a"}, "spec": spec})
}

fn target(channel: Option<&str>) -> Value {
    let mut target = json!({"kind": "StreamAPI", "name": "shop"});
    if let Some(channel) = channel {
        target["sectionName"] = json!(channel);
    }
    target
}

/// Judges `new`, which was `old`, among `others`; how many streams are open nobody knows.
fn judged(new: &Value, old: Option<&Value>, others: &[Value]) -> Judgement {
    tried(new, old, others, (false, None))
}

/// As [`judged`], in a dry run or not, while streams are open.
fn tried(
    new: &Value,
    old: Option<&Value>,
    others: &[Value],
    (is_dry_run, streams): (bool, Option<&ByApi>),
) -> Judgement {
    let mut objects = Objects::default();
    for document in others.iter().chain([new]) {
        match read(document.clone(), "a") {
            Ok(Object::Api(api)) => objects.apis.push(*api),
            Ok(Object::Gateway(gateway)) => objects.gateways.push(*gateway),
            Ok(Object::Policy(policy)) => objects.policies.push(*policy),
            Ok(Object::Secret(secret)) => objects.secrets.push(*secret),
            Ok(Object::Unused(_)) => {}
            Err(unread) => objects.unread.push(*unread),
        }
    }
    let dynamic =
        |document: &Value| -> DynamicObject { serde_json::from_value(document.clone()).expect("an object") };
    let kind = Kind::of(new["kind"].as_str().expect("a kind")).expect("a kind");
    let name = ("a".to_owned(), new["metadata"]["name"].as_str().expect("a name").to_owned());
    let old = old.map(dynamic);
    let applied = Applied { kind, name: &name, old: old.as_ref(), is_dry_run, streams };
    judge(&applied, &objects, &Settings::default())
}

fn paths(judgement: &Judgement) -> Vec<&str> {
    judgement.problems.iter().map(|problem| problem.at.as_str()).collect()
}

#[test]
fn what_is_good_passes_without_a_word() {
    let limits = policy("limits", target(Some("orders")), json!({"limits": {"connections": 5}}));
    assert_eq!(judged(&api("shop"), None, &[]), Judgement::default());
    assert_eq!(judged(&api("shop"), Some(&api("shop")), std::slice::from_ref(&limits)), Judgement::default());
    assert_eq!(judged(&limits, None, &[api("shop")]), Judgement::default());
}

#[test]
fn every_mistake_is_told_by_field() {
    let mut wrong = api("shop");
    wrong["spec"]["channels"][0]["server"] = json!("nowhere");
    wrong["spec"]["channels"][1]["name"] = json!("orders");
    let found = judged(&wrong, None, &[]);
    assert!(paths(&found).contains(&"spec.channels[0].server"), "{found:?}");
    assert!(found.problems.len() >= 2, "{found:?}");
    let told = causes(&found.problems);
    assert_eq!(told[0]["field"], found.problems[0].at);
    let mut unreadable = api("shop");
    unreadable["spec"]["bridges"] = json!([]);
    assert_eq!(paths(&judged(&unreadable, None, &[])), ["spec.bridges"]);
    let empty = policy("empty", target(None), json!({}));
    assert_eq!(paths(&judged(&empty, None, &[api("shop")])), ["spec"]);
}

#[test]
fn a_policy_for_a_channel_that_is_not_there_is_refused() {
    let limits = policy("limits", target(Some("ordres")), json!({"limits": {"connections": 5}}));
    let found = judged(&limits, None, &[api("shop")]);
    assert_eq!(paths(&found), ["spec.targetRefs[0].sectionName"]);
    assert!(found.problems[0].message.contains("notes, orders"), "{found:?}");
}

#[test]
fn what_may_come_later_is_a_warning() {
    let limits = policy("limits", target(Some("orders")), json!({"limits": {"connections": 5}}));
    let found = judged(&limits, None, &[]);
    assert!(
        found.problems.is_empty() && found.warnings[0].contains("there is no StreamAPI `shop`"),
        "{found:?}"
    );
    let keys = json!({"authentication": {"apiKeys": {"secretRef": {"name": "keys"}}}});
    let found = judged(&policy("keys", target(None), keys), None, &[api("shop")]);
    assert!(found.problems.is_empty() && found.warnings[0].contains("Secret `keys`"), "{found:?}");
}

#[test]
fn a_change_tells_what_it_does_to_policies_and_clients() {
    let limits = policy("limits", target(Some("notes")), json!({"limits": {"connections": 5}}));
    let mut changed = api("shop");
    changed["spec"]["channels"].as_array_mut().expect("a list").remove(1);
    let found = judged(&changed, Some(&api("shop")), &[limits]);
    assert!(found.problems.is_empty(), "{found:?}");
    let [policy, clients] = &found.warnings[..] else { panic!("{found:?}") };
    assert!(policy.starts_with("StreamPolicy limits: spec.targetRefs[0].sectionName"), "{policy}");
    assert!(clients.starts_with("channel notes: is removed"), "{clients}");
}

fn gateway(allowed: Value) -> Value {
    json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "StreamGateway", "metadata": {"name": "edge", "namespace": "a"},
        "spec": {"allowedNamespaces": allowed}})
}

#[test]
fn a_gateway_is_judged_with_the_apis_that_are_on_it() {
    let good = gateway(json!({"from": "All"}));
    assert_eq!(judged(&good, None, &[]), Judgement::default());
    assert_eq!(
        paths(&judged(&gateway(json!({"from": "Names"})), None, &[])),
        ["spec.allowedNamespaces.names"]
    );
    let mut shop = api("shop");
    shop["metadata"]["namespace"] = json!("b");
    shop["spec"]["placement"] = json!({"gateway": {"name": "edge", "namespace": "a"}});
    let found = judged(&gateway(json!({"from": "Same"})), Some(&good), &[shop]);
    let [lost] = &found.warnings[..] else { panic!("{found:?}") };
    assert!(found.problems.is_empty() && lost.ends_with("get 404: b/shop"), "{lost}");
    let mut secured = good.clone();
    secured["spec"]["listeners"] =
        json!([{"name": "tls", "protocol": "HTTPS", "tls": {"secretRef": {"name": "cert"}}}]);
    let found = judged(&secured, None, &[]);
    assert!(found.problems.is_empty() && found.warnings[0].contains("Secret `cert`"), "{found:?}");
}

#[test]
fn of_two_apis_on_one_path_each_author_is_told() {
    let placed = |name: &str, second: u32| {
        let mut api = api(name);
        api["metadata"]["creationTimestamp"] = json!(format!("2026-01-01T00:00:0{second}Z"));
        api["spec"]["basePath"] = json!("/shop");
        api["spec"]["placement"] = json!({"gateway": {"name": "edge"}});
        api
    };
    let found = judged(&placed("young", 2), None, &[placed("old", 1)]);
    assert_eq!(paths(&found), ["spec.channels[0].path", "spec.channels[1].path"]);
    assert!(found.problems[0].message.contains("older StreamAPI `a/old`"), "{found:?}");
    let found = judged(&placed("old", 1), None, &[placed("young", 2)]);
    assert!(found.problems.is_empty() && found.warnings[0].starts_with("StreamAPI young: "), "{found:?}");
}

#[test]
fn risks_are_told_and_warnings_are_bounded() {
    let mut scram = api("shop");
    let login = json!({"mechanism": "SCRAM-SHA-512", "secretRef": {"name": "login"}});
    scram["spec"]["servers"][0] = json!({"name": "log", "kafka": {"brokers": ["kafka:9092"], "sasl": login}});
    let found = judged(&scram, None, &[]);
    assert!(found.warnings.iter().any(|warning| warning.contains("`sasl` without `tls`")), "{found:?}");
    let open = json!({"authentication": {"none": {}}, "cors": {"allowedOrigins": ["*"]}});
    let found = judged(&policy("open", target(None), open), None, &[api("shop")]);
    assert!(found.warnings[0].contains("every web page"), "{found:?}");
    let (mut many, mut none) = (api("shop"), api("shop"));
    let channels = (0..40).map(|n| {
        json!({"name": format!("c{n}"), "server": "log", "address": format!("a{n}"),
        "subscribe": {"transports": {"sse": {}}}})
    });
    many["spec"]["channels"] = channels.collect();
    none["spec"]["channels"] = json!([many["spec"]["channels"][0]]);
    let found = judged(&none, Some(&many), &[]);
    assert_eq!(found.warnings.len(), MAX_WARNINGS + 1);
    assert_eq!(found.warnings.last().map(String::as_str), Some("and 27 more"));
    assert!(found.warnings.iter().all(|warning| warning.chars().count() <= MAX_WARNING + 1));
}

#[test]
fn an_exposure_that_the_chart_does_not_allow_is_warned_of() {
    let exposure = json!({"ingress": {"host": "a.example.com", "className": "nginx"}});
    let mut exposed = api("shop");
    exposed["spec"]["placement"] = json!({"deployment": {"exposure": exposure}});
    let gateway = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "StreamGateway",
        "metadata": {"name": "edge", "namespace": "a"}, "spec": {"exposure": exposure}});
    for (document, at) in
        [(exposed, "spec.placement.deployment.exposure.ingress: "), (gateway, "spec.exposure.ingress: ")]
    {
        let found = judged(&document, None, &[]);
        assert!(found.problems.is_empty(), "inside the cluster it is served: {found:?}");
        let warning = &found.warnings[0];
        assert!(warning.starts_with(at) && warning.contains("switched off by the chart's"), "{warning}");
        assert!(!warning.ends_with('…'), "it is not cut off: {warning}");
    }
}

/// X09
#[test]
fn numbers_are_told_and_a_dry_run_tells_that_nobody_loses_anything() {
    let streams = serde_json::from_value(json!({"orders": {"sse": 3}, "notes": {"sse": 1}}));
    let known = ByApi::from([("a/shop".to_owned(), streams.expect("counts"))]);
    let told = |new: &Value, old: Option<&Value>, is_dry_run: bool| {
        tried(new, old, &[api("shop")], (is_dry_run, Some(&known))).warnings
    };
    let of_api = |new: &Value, is_dry_run: bool| {
        tried(new, Some(&api("shop")), &[], (is_dry_run, Some(&known))).warnings
    };
    let mut fewer = api("shop");
    fewer["spec"]["channels"].as_array_mut().expect("a list").remove(1);
    let removed = "channel notes: is removed; its clients (1 SSE open now) are sent away and get 404";
    assert_eq!(of_api(&fewer, false), [removed, "in all: 1 stream closed"]);
    let mut described = api("shop");
    described["spec"]["description"] = json!("new");
    let sure = "no open stream is closed (4 SSE open now)";
    assert_eq!(of_api(&described, true), [sure]);
    let quiet: [&str; 0] = [];
    assert_eq!(of_api(&described, false), quiet);
    assert_eq!(of_api(&api("shop"), true), quiet, "nothing changes");
    // Policies: a new one, another one, one that lets go of what it held, and one that ends no stream.
    let keys = policy("p", target(None), json!({"authentication": {"none": {}}}));
    let narrow = policy("p", target(Some("orders")), json!({"authentication": {"none": {}}}));
    let limits = policy("p", target(Some("orders")), json!({"limits": {"connections": 5}}));
    let [orders, notes] = [("orders", 3), ("notes", 1)].map(|(channel, open)| {
        format!(
            "StreamAPI shop: channel {channel}: `authentication` changes; streams that it would not let in are \
             closed within 5 s (of {open} SSE open now)"
        )
    });
    let in_all = |checked: u32| format!("in all: 0 streams closed, {checked} checked anew");
    assert_eq!(told(&keys, None, false), [orders.clone(), notes.clone(), in_all(4)]);
    assert_eq!(told(&narrow, Some(&keys), false), [notes, in_all(1)]);
    assert_eq!(told(&limits, Some(&narrow), false), [orders, in_all(3)]);
    assert_eq!(told(&limits, None, true), [sure]);
    assert_eq!(told(&limits, None, false), quiet);
    assert_eq!(told(&keys, Some(&keys), true), quiet);
}

/// A policy that names a channel which is not there closes them all, and so does one whose Secret is missing.
#[test]
fn channels_that_a_policy_closes_lose_their_streams() {
    let streams = serde_json::from_value(json!({"orders": {"sse": 3}, "notes": {"sse": 1}}));
    let known = ByApi::from([("a/shop".to_owned(), streams.expect("counts"))]);
    let limits = policy("limits", target(Some("notes")), json!({"limits": {"connections": 5}}));
    let mut fewer = api("shop");
    fewer["spec"]["channels"].as_array_mut().expect("a list").remove(1);
    let found = tried(&fewer, Some(&api("shop")), &[limits], (false, Some(&known))).warnings;
    let [policy_told, removed, closed, sum] = &found[..] else { panic!("{found:?}") };
    assert!(policy_told.starts_with("StreamPolicy limits: "), "{policy_told}");
    assert!(removed.starts_with("channel notes: is removed"), "{removed}");
    assert!(
        closed.starts_with("channel orders: is closed and its streams (3 SSE open now) end: "),
        "{closed}"
    );
    assert_eq!(sum, "in all: 4 streams closed");
    let keys = json!({"authentication": {"apiKeys": {"secretRef": {"name": "keys"}}}});
    let keys = policy("keys", target(Some("orders")), keys);
    let found = tried(&keys, None, &[api("shop")], (false, Some(&known))).warnings;
    let [secret, changed, closed, sum] = &found[..] else { panic!("{found:?}") };
    assert!(secret.contains("Secret `keys`") && changed.contains("`authentication` changes"), "{found:?}");
    assert!(closed.starts_with("StreamAPI shop: channel orders: is closed and its streams"), "{closed}");
    assert_eq!(sum, "in all: 3 streams closed");
}

/// X09
#[test]
fn the_sum_is_told_however_much_there_is_to_tell() {
    let mut many = api("shop");
    let channels = (0..40).map(|n| {
        json!({"name": format!("c{n}"), "server": "log", "address": format!("a{n}"),
        "subscribe": {"transports": {"sse": {}}}})
    });
    many["spec"]["channels"] = channels.collect();
    let counts: Value =
        (0..40).map(|n| (format!("c{n}"), json!({"sse": 1}))).collect::<serde_json::Map<_, _>>().into();
    let known = ByApi::from([("a/shop".to_owned(), serde_json::from_value(counts).expect("counts"))]);
    let mut one = many.clone();
    one["spec"]["channels"].as_array_mut().expect("a list").truncate(1);
    let found = tried(&one, Some(&many), &[], (false, Some(&known)));
    assert_eq!(found.warnings[MAX_WARNINGS..], ["and 27 more", "in all: 39 streams closed"]);
}
