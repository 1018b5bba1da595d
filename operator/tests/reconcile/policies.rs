//! StreamPolicies and Secrets: what is in force, what closes, and what people are told.

use std::time::Duration;

use serde_json::{Value, json};
use sluice_operator::children::ChildKind;
use sluice_operator::world::{api_resource, policy_resource};
use sluice_tests::client::http::{Answer, publish, request};
use sluice_tests::documents::api_key;
use sluice_tests::{eventually, seed, within};

use crate::bed::{Bed, kind_of, policy, secret, shop};
use crate::pod::Pod;

/// The contract's bound for what closes.
const CLOSED: Duration = Duration::from_secs(5);

fn keys(name: &str, secret: &str) -> Value {
    policy(name, &["shop"], json!({"authentication": {"apiKeys": {"secretRef": {"name": secret}}}}))
}

async fn with_key(pod: &Pod, key: &str) -> Answer {
    let bearer = format!("Bearer {key}");
    publish(&pod.url("/shop/orders"), &[("authorization", &bearer)], "1").await
}

async fn answers(pod: &Pod, key: &str, status: u16, what: &str) {
    within(CLOSED, what, || async { (with_key(pod, key).await.status == status).then_some(()) }).await;
}

#[tokio::test]
async fn a_secret_is_labelled_rotated_and_removed() {
    let bed = Bed::new("secrets").await;
    let operator = bed.operator().await;
    let mut rng = seed::rng("keys");
    let ((first, first_entry), (second, second_entry)) = (api_key(&mut rng), api_key(&mut rng));
    bed.apply(&shop()).await;
    bed.apply(&keys("keys", "keys")).await;
    let mut pod = Pod::run(&bed, "shop").await;
    pod.expect_log(&["not in force"]);
    let message = bed.policy_told("keys", "ResolvedRefs", "False", "RefNotFound").await;
    assert!(message.contains("there is no Secret `keys`"), "{message}");
    assert_eq!(with_key(&pod, &first).await.status, 503, "what cannot be told apart is closed");
    let mut object = secret("keys", &[("alice", &first_entry)]);
    object["metadata"]["labels"] = json!({});
    bed.apply(&object).await;
    let message = bed.policy_told("keys", "ResolvedRefs", "False", "RefNotFound").await;
    let command = format!("kubectl label secret keys -n {} sluice.dev/use=true", bed.namespace);
    assert!(message.contains(&command), "a Secret without the label: {message} lacks {command}");
    bed.plane.run("kubectl", &["label", "secret", "keys", "-n", &bed.namespace, "sluice.dev/use=true"], "");
    bed.policy_told("keys", "ResolvedRefs", "True", "ResolvedRefs").await;
    answers(&pod, &first, 200, "the first key is let in").await;
    assert_eq!(with_key(&pod, &second).await.status, 401);
    let digests = async || bed.child(ChildKind::Secret, "shop").await.expect("it is there")["data"].clone();
    let before = digests().await;
    bed.patch(&ChildKind::Secret.resource(), "keys", &json!({"stringData": {"alice": second_entry}})).await;
    answers(&pod, &second, 200, "the second key is let in").await;
    answers(&pod, &first, 401, "the first key is refused").await;
    assert_ne!(digests().await, before, "the data plane's Secret holds the new digest");
    let served = pod.served().await["material"].clone();
    assert_eq!(served.as_object().map(serde_json::Map::len), Some(1), "{served}");
    bed.delete(&ChildKind::Secret.resource(), "keys").await;
    answers(&pod, &second, 503, "without the Secret the channel is closed").await;
    bed.policy_told("keys", "ResolvedRefs", "False", "RefNotFound").await;
    let message = bed.told("shop", "ResolvedRefs", "False", "PolicyNotInForce").await;
    assert!(message.contains("orders") && message.contains("keys"), "{message}");
    let log = operator.log() + &pod.log();
    nowhere(&bed, &[&first_entry, &second_entry, &first, &second], &log).await;
    pod.stop().await;
}

/// That no value is in an object that is not a Secret, in an Event or in `log`.
async fn nowhere(bed: &Bed, canaries: &[&str], log: &str) {
    let mut texts = vec![("the logs".to_owned(), log.to_owned())];
    let kinds =
        bed.plane.run("kubectl", &["api-resources", "--namespaced", "--verbs=list", "-o", "name"], "");
    let kinds: Vec<_> = kinds.lines().filter(|kind| *kind != "secrets").collect();
    assert!(kinds.len() > 20 && kinds.iter().any(|kind| kind.starts_with("events")), "{kinds:?}");
    let objects =
        bed.plane.run("kubectl", &["get", &kinds.join(","), "-n", &bed.namespace, "-o", "json"], "");
    assert!(objects.contains("shop-sluice"), "the objects were read");
    texts.push(("the objects".into(), objects));
    for (place, text) in texts {
        for canary in canaries {
            // A person's own `kubectl apply` may leave values in annotations of Secrets, which are left out.
            assert!(!text.contains(canary.trim_start_matches("sha256:")), "{canary} is in {place}");
        }
    }
}

#[tokio::test]
async fn a_brokers_credentials_are_delivered_and_missing_ones_close() {
    let bed = Bed::new("login").await;
    let operator = bed.operator().await;
    let mut api = shop();
    api["spec"]["servers"] = json!([{"name": "events", "kafka": {"brokers": ["127.0.0.1:1"], "sasl": {
        "mechanism": "SCRAM-SHA-512", "secretRef": {"name": "login"},
    }}}]);
    bed.apply(&api).await;
    let message = bed.told("shop", "ResolvedRefs", "False", "RefNotFound").await;
    assert!(message.contains("spec.servers[0].kafka.sasl.secretRef.name"), "{message}");
    assert!(bed.child(ChildKind::Deployment, "shop").await.is_none(), "nothing is made of it");
    let (canary, rotated) = (seed::unique("canary"), seed::unique("rotated"));
    bed.apply(&secret("login", &[("username", "me"), ("password", &canary), ("unused", "unused-canary")]))
        .await;
    bed.told("shop", "ResolvedRefs", "True", "ResolvedRefs").await;
    let values = async || {
        let secret = bed.child(ChildKind::Secret, "shop").await.unwrap_or_default();
        let data = secret["data"].as_object().cloned().unwrap_or_default();
        let texts = data.values().map(|value| crate::pod::decode(value.as_str().unwrap_or_default()));
        texts.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect::<Vec<_>>()
    };
    eventually("the password is delivered", || async { values().await.contains(&canary).then_some(()) })
        .await;
    assert!(!values().await.contains(&"unused-canary".to_owned()), "only what is referred to is copied");
    bed.patch(&ChildKind::Secret.resource(), "login", &json!({"stringData": {"password": rotated}})).await;
    eventually("the new password is delivered", || async { values().await.contains(&rotated).then_some(()) })
        .await;
    assert!(!values().await.contains(&canary), "the old one is gone");
    let config = bed.child(ChildKind::ConfigMap, "shop").await.expect("it is there").to_string();
    let digest = sluice_tests::documents::key_entry(&rotated);
    assert!(config.contains(digest.trim_start_matches("sha256:")), "the config names it by digest");
    bed.delete(&ChildKind::Secret.resource(), "login").await;
    let message = bed.told("shop", "ResolvedRefs", "False", "RefNotFound").await;
    assert!(message.contains("there is no Secret `login`"), "{message}");
    eventually("the password is taken away", || async { (!values().await.contains(&rotated)).then_some(()) })
        .await;
    let config = eventually("the channel is closed", || async {
        let config = bed.child(ChildKind::ConfigMap, "shop").await?.to_string();
        config.contains("no usable credentials").then_some(config)
    })
    .await;
    nowhere(&bed, &[&canary, &rotated, "unused-canary"], &(operator.log() + &config)).await;
}

/// Reason and action of each Event about the object, with how often it happened.
async fn events(bed: &Bed, name: &str) -> Vec<(String, String, u64)> {
    let all = bed.list(&kind_of(&json!({"kind": "Event"}))).await;
    let ours = all.into_iter().filter(|event| event["regarding"]["name"] == name);
    let mut events: Vec<_> = ours
        .map(|event| {
            let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
            (text("action"), text("reason"), event["series"]["count"].as_u64().unwrap_or(1))
        })
        .collect();
    events.sort();
    events
}

#[tokio::test]
async fn who_loses_is_told_and_every_turn_is_one_event() {
    let bed = Bed::new("policies").await;
    let _operator = bed.operator().await;
    bed.apply(&shop()).await;
    // Two kinds are two watches: a policy that comes at the same moment may find no target at first.
    bed.told("shop", "Accepted", "True", "Accepted").await;
    bed.apply(&policy("all", &["shop"], json!({"limits": {"connections": 5, "maxMessageBytes": 10}}))).await;
    bed.policy_told("all", "Accepted", "True", "Accepted").await;
    bed.apply(&policy("one", &["shop/orders"], json!({"limits": {"connections": 3}}))).await;
    let message = bed.policy_told("all", "Accepted", "True", "PartlyOverridden").await;
    for part in ["connections", "orders", "`one`"] {
        assert!(message.contains(part), "{message} lacks {part}");
    }
    assert!(!message.contains("maxMessageBytes"), "{message}");
    eventually("both limits are in force", || async {
        let config =
            bed.child(ChildKind::ConfigMap, "shop").await?["data"]["config-v1.json"].as_str()?.to_owned();
        let config: Value = serde_json::from_str(&config).ok()?;
        let key = format!("{}/shop", bed.namespace);
        let limits = &config["apis"][key]["policies"]["orders"]["limits"];
        (limits["connections"] == 3 && limits["maxMessageBytes"] == 10).then_some(())
    })
    .await;
    bed.delete(&policy_resource(), "one").await;
    bed.policy_told("all", "Accepted", "True", "Accepted").await;
    let expected = |action: &str, reason: &str| (action.to_owned(), reason.to_owned());
    let told = within(Duration::from_secs(5), "every turn is told", || async {
        let told = events(&bed, "all").await;
        (told.iter().map(|event| event.2).sum::<u64>() >= 2).then_some(told)
    })
    .await;
    let turns: Vec<_> = told.iter().map(|(action, reason, _)| expected(action, reason)).collect();
    assert!(turns.contains(&expected("Accepted", "PartlyOverridden")), "{told:?}");
    let count: u64 = told.iter().map(|event| event.2).sum();
    assert_eq!(count, 2, "PartlyOverridden, Accepted: {told:?}");
    // Looking again is no turn.
    for round in 0..3 {
        bed.patch(
            &policy_resource(),
            "all",
            &json!({"metadata": {"annotations": {"touched": round.to_string()}}}),
        )
        .await;
    }
    bed.apply(&policy("last", &["shop"], json!({"cors": {"allowedOrigins": ["https://a.example"]}}))).await;
    bed.policy_told("last", "Accepted", "True", "Accepted").await;
    assert_eq!(events(&bed, "all").await, told);
    assert_eq!(events(&bed, "shop").await, [], "that a new one is as it should be is no news");
    assert!(bed.get(&api_resource(), "shop").await["status"]["conditions"].is_array());
}

#[tokio::test]
async fn a_blocked_api_and_its_return_reach_the_pods() {
    let bed = Bed::new("blocked").await;
    let _operator = bed.operator().await;
    bed.apply(&shop()).await;
    let pod = Pod::run(&bed, "shop").await;
    bed.told("shop", "Programmed", "True", "Programmed").await;
    for (state, status) in [("Blocked", 410), ("Published", 200)] {
        let mut api = shop();
        api["spec"]["lifecycle"] = json!({"state": state});
        bed.apply(&api).await;
        within(CLOSED, state, || async {
            let answer = request(reqwest::Method::POST, &pod.url("/shop/orders"), &[], "1").await.ok()?;
            (answer.status == status).then_some(())
        })
        .await;
    }
    pod.stop().await;
}
