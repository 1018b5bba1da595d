//! Wrong resources: refused at apply by field, told in conditions, or taken as they are. Nothing
//! in between, and nothing is ever ignored.

use serde_json::{Value, json};
use sluice_operator::children::ChildKind;
use sluice_operator::world::{api_resource, policy_resource};
use sluice_tests::documents::{self, Channel};
use sluice_tests::{eventually, within};

use crate::bed::{Bed, COLLECTED, kinds, policy, secret};

pub mod cases;
pub mod schemas;

/// What becomes of a document.
#[derive(Clone)]
pub enum Fate {
    /// The API server refuses it with a message that contains each of these.
    Refused(&'static [&'static str]),
    /// It is taken, and this condition is False with a message that contains each of these.
    Told(&'static str, &'static [&'static str]),
    /// It is taken, and the data plane is given the value as it stands.
    Verbatim,
}
use Fate::{Refused, Told, Verbatim};

/// A name, where the base document is changed, to what, and what becomes of that.
pub type Case = (&'static str, Vec<(&'static str, Value)>, Fate);

/// Every case of StreamAPIs.
pub fn all() -> [Vec<Case>; 5] {
    [
        cases::unions_and_bounds(),
        cases::names_and_references(),
        cases::placements(),
        cases::hostile(),
        schemas::schemas(),
    ]
}

/// An API with everything that cases change.
pub fn base() -> Value {
    documents::Api::new("case")
        .memory()
        .server("log", json!({"kafka": {"brokers": ["kafka:9092"], "properties": {}}}))
        .channel(Channel::both_ways("orders", "orders").set("/subscribe/replay", json!({})))
        .channel(Channel::new("topic", "topic.v1").set("/server", json!("log")).subscribe())
        .0
}

/// Sets what a pointer names; parents are made, null removes.
pub fn set(document: &mut Value, pointer: &str, value: Value) {
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

#[tokio::test]
async fn a_wrong_api_is_refused_by_field_or_told_in_conditions() {
    let bed = Bed::new("wrong").await;
    let mut operator = bed.operator().await;
    // An API that is deleted while it is being written.
    operator.expect_log(&["NotFound"]);
    let cases = all().concat();
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
        for kind in kinds() {
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
    for (name, document, fate) in policies() {
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

/// Wrong policies for the API `shop`, where the Secret `bad` has a key as it is.
pub fn policies() -> Vec<(&'static str, Value, Fate)> {
    let keys = |name: &str| json!({"authentication": {"apiKeys": {"secretRef": {"name": name}}}});
    vec![
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
    ]
}
