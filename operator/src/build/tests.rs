use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use sluice_config::policy::PublishRate;

use super::*;
use crate::objects::{Kind, Objects};
use crate::read::{Object, read};
use crate::render;

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// The objects of documents, in their order.
fn objects(documents: &[Value]) -> Objects {
    let mut objects = Objects::default();
    for document in documents {
        match read(document.clone(), "default") {
            Ok(Object::Api(api)) => objects.apis.push(*api),
            Ok(Object::Gateway(gateway)) => objects.gateways.push(*gateway),
            Ok(Object::Policy(policy)) => objects.policies.push(*policy),
            Ok(Object::Secret(secret)) => objects.secrets.push(*secret),
            Ok(Object::Unused(_)) => {}
            Err(unread) => objects.unread.push(*unread),
        }
    }
    objects
}

fn api(name: &str, channels: &[&str]) -> Value {
    let channels: Vec<_> = channels
        .iter()
        .map(|channel| {
            json!({"name": channel, "server": "log", "address": channel,
                "subscribe": {"transports": {"sse": {}}}})
        })
        .collect();
    json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "StreamAPI", "metadata": {"name": name},
        "spec": {"servers": [{"name": "log", "memory": {}}], "channels": channels}})
}

fn policy(name: &str, targets: &[&str], parts: Value) -> Value {
    let mut spec = parts;
    spec["targetRefs"] = targets
        .iter()
        .map(|target| match target.split_once('/') {
            Some((api, channel)) => json!({"kind": "StreamAPI", "name": api, "sectionName": channel}),
            None => json!({"kind": "StreamAPI", "name": target}),
        })
        .collect();
    json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "StreamPolicy", "metadata": {"name": name}, "spec": spec})
}

fn keys(secret: &str) -> Value {
    json!({"authentication": {"apiKeys": {"secretRef": {"name": secret}}}})
}

fn secret(name: &str, entries: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "stringData": entries,
        "metadata": {"name": name, "labels": {"sluice.dev/use": "true"}}})
}

fn rendered(documents: &[Value]) -> Rendered {
    render(&objects(documents), &Config::default())
}

fn in_force<'a>(rendered: &'a Rendered, api: &str, channel: &str) -> &'a ChannelPolicy {
    &rendered.config.apis[&format!("default/{api}")].policies[channel]
}

/// The channels that are closed, as `api/channel`.
fn closed(rendered: &Rendered) -> Vec<String> {
    let channels = rendered.config.apis.values().flat_map(|entry| {
        entry.policies.iter().map(move |(channel, policy)| (format!("{}/{channel}", entry.api.name), policy))
    });
    channels.filter(|(_, policy)| policy.closed.is_some()).map(|(channel, _)| channel).collect()
}

fn problems(rendered: &Rendered) -> Vec<String> {
    let each = |refusal: &crate::Refusal| {
        let name = format!("{} {}", refusal.kind, refusal.name);
        refusal.problems.iter().map(move |problem| format!("{name}: {problem}")).collect::<Vec<_>>()
    };
    rendered.refused.iter().flat_map(each).collect()
}

/// Exactly one problem, that says this.
fn assert_problem(rendered: &Rendered, expected: &str) {
    let found = problems(rendered);
    assert!(found.len() == 1 && found[0].contains(expected), "wanted {expected}\nfound {found:#?}");
}

#[test]
fn parts_are_taken_whole_from_the_most_specific_policy() {
    let documents = [
        api("shop", &["orders", "status"]),
        policy(
            "all",
            &["shop"],
            json!({
                "authentication": {"apiKeys": {"secretRef": {"name": "keys"}}},
                "cors": {"allowedOrigins": ["https://a.example"], "allowCredentials": true},
            }),
        ),
        policy(
            "one",
            &["shop/status"],
            json!({
                "authentication": {"none": {}}, "cors": {"allowedOrigins": ["https://b.example"]},
            }),
        ),
        secret("keys", json!({"alice": DIGEST})),
    ];
    let rendered = rendered(&documents);
    assert_eq!(problems(&rendered), Vec::<String>::new());
    let orders = in_force(&rendered, "shop", "orders");
    assert!(matches!(orders.authentication, Some(Authentication::ApiKeys(_))));
    let status = in_force(&rendered, "shop", "status");
    assert!(matches!(status.authentication, Some(Authentication::None(_))));
    let cors = status.cors.as_ref().expect("set");
    assert_eq!(cors.allowed_origins, ["https://b.example"]);
    assert!(!cors.allow_credentials, "nothing of the other policy's part");
    let notes: Vec<_> =
        rendered.notes.iter().map(|n| (&*n.policy, n.part, &*n.channel, &*n.winner)).collect();
    assert_eq!(
        notes,
        [("all", "authentication", "shop/status", "one"), ("all", "cors", "shop/status", "one")]
    );
    assert_eq!(closed(&rendered), Vec::<String>::new());
}

#[test]
fn limits_merge_limit_by_limit() {
    let rate = json!({"messagesPerSecond": 7});
    let documents = [
        api("shop", &["orders"]),
        policy("all", &["shop"], json!({"limits": {"connections": 5, "maxMessageBytes": 100}})),
        policy("one", &["shop/orders"], json!({"limits": {"connections": 9, "publishRate": rate}})),
    ];
    let rendered = rendered(&documents);
    let limits = &in_force(&rendered, "shop", "orders").limits;
    assert_eq!((limits.connections, limits.max_message_bytes), (Some(9), Some(100)));
    assert_eq!(limits.publish_rate, Some(PublishRate { messages_per_second: 7, burst: None }));
    let notes: Vec<_> = rendered.notes.iter().map(|note| (&*note.policy, note.part)).collect();
    assert_eq!(notes, [("all", "limits.connections")]);
}

#[test]
fn of_equally_specific_policies_the_older_wins_then_the_order() {
    let limit = |connections: u32| json!({"limits": {"connections": connections}});
    let mut documents = [
        api("shop", &["orders"]),
        policy("second", &["shop"], limit(2)),
        policy("third", &["shop"], limit(3)),
    ];
    let limit_of = |documents: &[Value]| in_force(&rendered(documents), "shop", "orders").limits.connections;
    assert_eq!(limit_of(&documents), Some(2));
    documents[2]["metadata"]["creationTimestamp"] = json!("2026-01-02T00:00:00Z");
    assert_eq!(limit_of(&documents), Some(3), "what has an age is older than what has none");
    documents[1]["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(limit_of(&documents), Some(2));
}

#[test]
fn a_policy_stays_in_its_namespace() {
    let mut other = policy("keys", &["shop"], keys("missing"));
    other["metadata"]["namespace"] = json!("other");
    let rendered = rendered(&[api("shop", &["orders"]), other]);
    assert_eq!(closed(&rendered), Vec::<String>::new());
    assert_eq!(in_force(&rendered, "shop", "orders").authentication, None);
}

/// What each broken policy closes, of `shop` with `orders` and `status`, and `chat` with `lobby`.
#[test]
fn a_policy_with_a_problem_closes_what_it_targets() {
    let all = &["chat/lobby", "shop/orders", "shop/status"][..];
    let unlabelled = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"},
        "stringData": {"alice": DIGEST}});
    let label = |value: Value| {
        let mut secret = secret("keys", json!({"alice": DIGEST}));
        secret["metadata"]["labels"]["sluice.dev/use"] = value;
        secret
    };
    let entry = |value: &str| secret("keys", json!({"alice": value, "bob": DIGEST}));
    let unknown = |targets: &[&str]| policy("p", targets, json!({"quota": {}, "limits": {"connections": 1}}));
    let mut no_targets = policy("p", &["shop"], json!({"limits": {"connections": 1}}));
    no_targets["spec"]["targetRefs"] = json!("shop");
    let mut no_namespace = no_targets.clone();
    no_namespace["metadata"]["namespace"] = json!(["default"]);
    let cases: Vec<(&str, Vec<Value>, &[&str], &str)> = vec![
        (
            "no Secret",
            vec![policy("p", &["shop"], keys("keys"))],
            &all[1..],
            "spec.authentication.apiKeys.secretRef.name: there is no Secret `keys` in namespace `default`",
        ),
        (
            "no label",
            vec![policy("p", &["shop/orders"], keys("keys")), unlabelled],
            &all[1..2],
            "kubectl label secret keys -n default sluice.dev/use=true",
        ),
        (
            "another label",
            vec![policy("p", &["shop"], keys("keys")), label(json!("yes"))],
            &all[1..],
            "kubectl label",
        ),
        (
            "a plain key",
            vec![policy("p", &["shop"], keys("keys")), entry("slk_plain")],
            &all[1..],
            "entry `alice` of Secret `keys` is not `<id>: sha256:<64 hex digits>`",
        ),
        (
            "a short digest",
            vec![policy("p", &["shop"], keys("keys")), entry("sha256:abc")],
            &all[1..],
            "entry `alice`",
        ),
        (
            "an unreadable Secret",
            vec![
                policy("p", &["shop"], keys("keys")),
                json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "data": {"a": "?"}}),
            ],
            &all[1..],
            "Secret `keys` cannot be read",
        ),
        ("nothing set", vec![policy("p", &["shop/status"], json!({}))], &all[2..], "spec: sets nothing; add"),
        (
            "a bad origin",
            vec![policy("p", &["shop"], json!({"cors": {"allowedOrigins": ["shop.example"]}}))],
            &all[1..],
            "spec.cors.allowedOrigins[0]",
        ),
        (
            "a channel that is not there",
            vec![policy("p", &["shop/ordres"], json!({"limits": {"connections": 1}}))],
            &all[1..],
            "spec.targetRefs[0].sectionName: StreamAPI `shop` has no channel `ordres`; its channels are: orders, status",
        ),
        (
            "an API that is not there",
            vec![policy("p", &["shp", "chat"], json!({"limits": {"connections": 1}}))],
            &[],
            "spec.targetRefs[0].name: there is no StreamAPI `shp`",
        ),
        ("a part of the future", vec![unknown(&["shop/orders"])], &all[1..2], ""),
        ("a part of the future, for a channel that is not there", vec![unknown(&["shop/x"])], &all[1..], ""),
        ("targets that cannot be read", vec![no_targets], all, ""),
        ("a namespace that cannot be read", vec![no_namespace], all, ""),
    ];
    for (name, mut documents, expected, message) in cases {
        documents.insert(0, api("shop", &["orders", "status"]));
        documents.insert(0, api("chat", &["lobby"]));
        let rendered = rendered(&documents);
        assert_eq!(closed(&rendered), expected, "{name}");
        let found = problems(&rendered).join("\n");
        assert!(found.contains(message), "{name}: {found}");
        assert!(!found.contains("slk_plain"), "{name}: no credential is repeated");
        assert_eq!(rendered.config.apis.len(), 2, "{name}: every API is still there");
    }
}

#[test]
fn a_switched_off_part_does_not_open_what_a_broken_policy_closes() {
    let documents = [
        api("shop", &["orders"]),
        policy("all", &["shop"], keys("missing")),
        policy("one", &["shop/orders"], json!({"authentication": {"none": {}}})),
    ];
    assert_eq!(closed(&rendered(&documents)), ["shop/orders"]);
}

#[test]
fn a_channel_opens_again_when_its_policy_is_whole() {
    let mut documents = vec![api("shop", &["orders"]), policy("p", &["shop"], keys("keys"))];
    let first = rendered(&documents);
    assert_eq!((closed(&first).len(), first.config.sequence), (1, 1));
    documents.push(secret("keys", json!({"alice": DIGEST})));
    let second = render(&objects(&documents), &first.config);
    assert_eq!((closed(&second).len(), second.config.sequence), (0, 2));
}

#[test]
fn api_keys_become_material_in_one_notation() {
    let upper = format!("{}\n", DIGEST.to_uppercase().replace("SHA256", "sha256"));
    let documents = [
        api("shop", &["orders"]),
        policy("p", &["shop"], keys("keys")),
        secret("keys", json!({"alice": DIGEST, "bob": upper})),
        secret("unused", json!({"x": "hunter2"})),
    ];
    let rendered = rendered(&documents);
    let entry = &rendered.config.apis["default/shop"];
    let of_secret: Vec<_> =
        rendered.material.of_secret(entry, "keys").map(|(id, value)| (id.to_owned(), value)).collect();
    assert_eq!(of_secret.len(), 2);
    assert!(of_secret.iter().all(|(_, value)| **value == *DIGEST.as_bytes()), "{of_secret:?}");
    assert_eq!(rendered.material.0.len(), 1, "equal values are held once, unused ones not at all");
    assert_eq!(rendered.material.missing(entry), Vec::<String>::new());
}

#[test]
fn a_removed_key_changes_the_revision_and_an_empty_secret_admits_nobody() {
    let documents = |entries: Value| {
        [api("shop", &["orders"]), policy("p", &["shop"], keys("keys")), secret("keys", entries)]
    };
    let first = rendered(&documents(json!({"alice": DIGEST, "bob": DIGEST})));
    let second = render(&objects(&documents(json!({"alice": DIGEST}))), &first.config);
    let third = render(&objects(&documents(json!({}))), &second.config);
    let revision = |rendered: &Rendered| rendered.config.apis["default/shop"].revision.clone();
    assert_ne!(revision(&first), revision(&second));
    assert_ne!(revision(&second), revision(&third));
    assert_eq!((second.config.sequence, third.config.sequence), (2, 3));
    assert_eq!(closed(&third), Vec::<String>::new());
    assert!(matches!(in_force(&third, "shop", "orders").authentication, Some(Authentication::ApiKeys(_))));
}

fn kafka(name: &str, topic: &str) -> Value {
    let mut api = api(name, &["orders"]);
    api["spec"]["servers"][0] = json!({"name": "log", "kafka": {
        "brokers": ["kafka:9093"],
        "tls": {"secretRef": {"name": "tls"}},
        "sasl": {"mechanism": "SCRAM-SHA-512", "secretRef": {"name": "login"}},
    }});
    api["spec"]["channels"][0]["address"] = json!(topic);
    api
}

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n";

fn broker_secrets() -> [Value; 2] {
    [
        secret("tls", json!({"ca.crt": CERTIFICATE, "tls.crt": CERTIFICATE, "tls.key": KEY, "other": "x"})),
        secret("login", json!({"username": "u", "password": "p"})),
    ]
}

#[test]
fn broker_secrets_become_material_by_secret_and_key() {
    let [tls, login] = broker_secrets();
    let rendered = rendered(&[kafka("shop", "orders.v1"), tls, login]);
    assert_eq!(problems(&rendered), Vec::<String>::new());
    let names: Vec<_> = rendered.config.apis["default/shop"].material.keys().cloned().collect();
    assert_eq!(names, ["login/password", "login/username", "tls/ca.crt", "tls/tls.crt", "tls/tls.key"]);
}

#[test]
fn broken_broker_secrets_refuse_the_api() {
    let [tls, login] = broker_secrets();
    let cases = [
        (vec![login.clone()], "kafka.tls.secretRef.name: there is no Secret `tls`"),
        (vec![login.clone(), secret("tls", json!({}))], "has none of the keys `ca.crt`"),
        (
            vec![login.clone(), secret("tls", json!({"tls.crt": CERTIFICATE}))],
            "has `tls.crt` without `tls.key`",
        ),
        (
            vec![login.clone(), secret("tls", json!({"ca.crt": "hunter2"}))],
            "`ca.crt` of Secret `tls` is not PEM",
        ),
        (vec![tls.clone(), secret("login", json!({"username": "u"}))], "no usable key `password`"),
        (
            vec![tls.clone(), secret("login", json!({"username": "u\n", "password": "p"}))],
            "no usable key `username`",
        ),
    ];
    for (mut documents, expected) in cases {
        documents.push(kafka("shop", "orders.v1"));
        let rendered = rendered(&documents);
        assert_problem(&rendered, expected);
        assert!(rendered.config.apis.is_empty(), "it never was good");
        assert!(!problems(&rendered)[0].contains("hunter2"));
    }
}

#[test]
fn a_refused_api_is_served_as_it_last_was_good_under_current_policies() {
    let good = [api("shop", &["orders"])];
    let first = rendered(&good);
    let mut bad = api("shop", &["orders", "more"]);
    bad["spec"]["channels"][1]["server"] = json!("nowhere");
    let mut unreadable = api("shop", &["orders"]);
    unreadable["spec"]["bridges"] = json!([]);
    for broken in [bad, unreadable] {
        let limits = policy("p", &["shop"], json!({"limits": {"connections": 3}}));
        let second = render(&objects(&[broken, limits]), &first.config);
        let entry = &second.config.apis["default/shop"];
        assert_eq!(entry.api, first.config.apis["default/shop"].api);
        assert_eq!(entry.policies["orders"].limits.connections, Some(3));
        assert_ne!(entry.revision, first.config.apis["default/shop"].revision);
        assert_eq!(second.config.sequence, 2);
    }
    let gone = render(&Objects::default(), &first.config);
    assert!(gone.config.apis.is_empty(), "what is deleted is gone, good or not");
}

#[test]
fn a_policy_for_a_channel_of_the_refused_version_closes_nothing() {
    let first = rendered(&[api("shop", &["orders"])]);
    let mut next = api("shop", &["orders", "more"]);
    next["spec"]["channels"][0]["server"] = json!("nowhere");
    let limits = policy("p", &["shop/more", "shop/orders"], json!({"limits": {"connections": 3}}));
    let second = render(&objects(&[next, limits]), &first.config);
    assert_eq!(closed(&second), Vec::<String>::new());
    assert_problem(&second, "spec.channels[0].server");
}

#[test]
fn a_last_good_api_without_its_credentials_is_closed() {
    let [tls, login] = broker_secrets();
    let first = rendered(&[kafka("shop", "orders.v1"), tls.clone(), login]);
    let second = render(&objects(&[kafka("shop", "orders.v2"), tls]), &first.config);
    assert_problem(&second, "there is no Secret `login`");
    assert_eq!(second.config.apis["default/shop"].api.spec.channels[0].address, "orders.v1");
    let reason = in_force(&second, "shop", "orders").closed.clone();
    assert_eq!(reason.as_deref(), Some("server `log` has no usable credentials"));
    let names: Vec<_> = second.config.apis["default/shop"].material.keys().cloned().collect();
    assert_eq!(names, ["tls/ca.crt", "tls/tls.crt", "tls/tls.key"]);
}

/// Two APIs whose one channel each is at `/shop/orders`.
fn rivals() -> [Value; 2] {
    let mut other = api("other", &["orders"]);
    other["spec"]["basePath"] = json!("/shop");
    [api("shop", &["orders"]), other]
}

#[test]
fn of_two_apis_on_one_path_the_older_is_served() {
    let [shop, other] = rivals();
    let message = "spec.channels[0].path: `/shop/orders` belongs to the older StreamAPI `default/";
    let served = |rendered: &Rendered| rendered.config.apis.keys().cloned().collect::<Vec<_>>();
    let by_order = rendered(&[shop.clone(), other.clone()]);
    assert_eq!(served(&by_order), ["default/shop"]);
    assert_problem(&by_order, &format!("StreamAPI other: {message}shop`; set another `path` or `basePath`"));
    let mut aged = objects(&[shop, other]);
    aged.apis[1].metadata.creation_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().expect("a time")));
    let by_age = render(&aged, &Config::default());
    assert_eq!(served(&by_age), ["default/other"]);
    assert_problem(&by_age, &format!("StreamAPI shop: {message}other`"));
}

#[test]
fn the_younger_of_two_on_one_path_keeps_what_it_served() {
    let [shop, mut other] = rivals();
    let wanted = other.clone();
    other["spec"]["basePath"] = json!("/elsewhere");
    let first = rendered(&[shop.clone(), other]);
    assert_eq!(first.config.apis.len(), 2);
    let second = render(&objects(&[shop, wanted]), &first.config);
    assert_eq!(second.config.apis, first.config.apis);
    assert_eq!(second.config.sequence, first.config.sequence, "nothing changed");
    assert_problem(&second, "`/shop/orders` belongs to the older");
}

#[test]
fn the_same_objects_give_the_same_config() {
    let documents = [api("shop", &["orders"]), api("chat", &["lobby"])];
    let first = rendered(&documents);
    let again = render(&objects(&documents), &first.config);
    assert_eq!(again.config, first.config);
    assert_eq!(first.config.apis["default/shop"].revision.len(), 64);
    let only_generation = {
        let mut documents = documents.clone();
        documents[0]["metadata"]["generation"] = json!(7);
        render(&objects(&documents), &first.config)
    };
    let entry = &only_generation.config.apis["default/shop"];
    assert_eq!((entry.generation, &entry.revision), (7, &first.config.apis["default/shop"].revision));
}

#[test]
fn an_unread_api_that_was_never_served_is_not() {
    let mut unreadable = api("shop", &["orders"]);
    unreadable["spec"]["bridges"] = json!([]);
    let objects = objects(&[unreadable, api("chat", &["lobby"])]);
    assert_eq!(objects.unread[0].kind, Kind::StreamApi);
    let rendered = render(&objects, &Config::default());
    assert_eq!(rendered.config.apis.keys().collect::<Vec<_>>(), ["default/chat"]);
}
