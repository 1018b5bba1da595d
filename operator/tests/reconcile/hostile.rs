//! Texts that break out of what is written without care, in every field that takes text of any kind: refused or
//! told with the field's name, or taken as they are. Whatever becomes of them, nothing else changes.

use std::collections::BTreeMap;

use kube::api::{Patch, PatchParams, ValidationDirective};
use kube::core::ApiResource;
use serde_json::{Value, json};
use sluice_operator::children::ChildKind;
use sluice_operator::world::{api_resource, policy_resource};
use sluice_tests::eventually;

use crate::bed::{Bed, condition, kind_of};
use crate::children::children_of;
use crate::wrong::{base, set};

const TEXTS: &[&str] = &[
    "\"quoted\", 'twice' and `thrice`",
    "two\nlines\r\nand\ra third",
    "${HOME} $(id) %s%n%00",
    "{{ .Values.image }}",
    "\"\n- name: evil\n  image: \"evil",
    "---\nkind: Secret",
    "*anchor &a !!binary <<: x",
    "a\u{0}b\u{7}c\u{1b}[31m",
    "C:\\temp\\u0000\\",
    "../../etc/passwd",
    "\u{202e}txt.exe\u{2066}",
    "🦀\u{200d}ünïcödé\u{301}\u{feff}",
    "\t leading and trailing \t",
    // A server-side apply is read as YAML. There the first three are no characters, and the others end a line.
    "a\u{7f}b",
    "a\u{9b}31mb",
    "a\u{ffff}b",
    "a\u{85}b",
    "a \u{2028} b",
];
/// The longest one.
const LONG: usize = 1 << 20;

/// A place for text.
struct Field {
    /// What a refusal or a condition has to name.
    named: &'static str,
    /// What is set in the document.
    at: String,
    /// To what.
    value: fn(&str) -> Value,
    /// Where the same stands in the Deployment, if it does.
    shown: Option<&'static str>,
}

fn field(named: &'static str, at: &str, value: fn(&str) -> Value) -> Field {
    Field { named, at: at.to_owned(), value, shown: None }
}

fn template(named: &'static str, at: &str, value: fn(&str) -> Value) -> Field {
    field(named, &format!("/spec/placement/deployment/podTemplate/{at}"), value)
}

fn itself(text: &str) -> Value {
    json!(text)
}

fn key(text: &str) -> Value {
    json!({text: "x"})
}

/// Every field of a StreamAPI that the schema lets have any text, or any text after a beginning.
fn fields() -> Vec<Field> {
    vec![
        field("spec.description", "/spec/description", itself),
        field("spec.channels[0].description", "/spec/channels/0/description", itself),
        field("spec.channels[0].address", "/spec/channels/0/address", itself),
        field("server", "/spec/channels/0/server", itself),
        field("spec.channels[0].message.name", "/spec/channels/0/message/name", itself),
        field("spec.channels[0].message.contentType", "/spec/channels/0/message/contentType", |text| {
            json!(format!("text/plain;{text}"))
        }),
        field("spec.lifecycle.link", "/spec/lifecycle/link", |text| {
            json!(format!("https://example.com/{text}"))
        }),
        field("spec.lifecycle.deprecatedAt", "/spec/lifecycle/deprecatedAt", itself),
        field("spec.lifecycle.sunsetAt", "/spec/lifecycle/sunsetAt", itself),
        field("spec.servers[1].kafka.properties", "/spec/servers/1/kafka/properties/client.rack", itself),
        field("spec.servers[1].kafka.properties", "/spec/servers/1/kafka/properties", key),
        Field {
            shown: Some("/spec/template/metadata/annotations/example.org~1note"),
            ..template("podTemplate.annotations", "annotations/example.org~1note", itself)
        },
        template("podTemplate.annotations", "annotations", key),
        template("podTemplate.labels", "labels", key),
        template("podTemplate.nodeSelector", "nodeSelector", key),
        template(
            "podTemplate.tolerations[0]",
            "tolerations",
            |text| json!([{"key": text, "operator": "Exists"}]),
        ),
        template(
            "podTemplate.tolerations[0]",
            "tolerations",
            |text| json!([{"key": "team", "operator": "Equal", "value": text}]),
        ),
        template(
            "topologySpreadConstraints[0].topologyKey",
            "topologySpreadConstraints",
            |text| json!([{"maxSkew": 1, "topologyKey": text, "whenUnsatisfiable": "ScheduleAnyway"}]),
        ),
    ]
}

/// The same of a StreamPolicy. No text here is an origin or a name.
fn policy_fields() -> Vec<Field> {
    vec![
        field("spec.cors.allowedOrigins[0]", "/spec/cors", |text| json!({"allowedOrigins": [text]})),
        field("spec.targetRefs[0].name", "/spec/targetRefs/0/name", itself),
        field("spec.targetRefs[0].sectionName", "/spec/targetRefs/0/sectionName", itself),
    ]
}

/// The API without any of them; what a case before has left is taken away.
fn plain_api() -> Value {
    let mut document = base();
    for field in ["description", "lifecycle", "placement"] {
        document["spec"][field] = Value::Null;
    }
    document
}

fn plain_policy() -> Value {
    json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "StreamPolicy", "metadata": {"name": "p"}, "spec": {
        "cors": null, "limits": {"connections": 5}, "targetRefs": [{"kind": "StreamAPI", "name": "case"}],
    }})
}

/// As `kubectl apply` without `--server-side` says it: in JSON, in which any text can be said.
async fn send(bed: &Bed, document: &Value) -> Result<Value, String> {
    let name = document["metadata"]["name"].as_str().expect("a name");
    let field_validation = Some(ValidationDirective::Strict);
    let parameters = PatchParams { field_validation, ..PatchParams::default() };
    loop {
        match bed.objects(&kind_of(document)).patch(name, &parameters, &Patch::Merge(document)).await {
            Ok(object) => return Ok(serde_json::to_value(object).expect("JSON")),
            // The operator wrote a status in between, again and again.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(kube::Error::Api(status)) => return Err(status.message.clone()),
            Err(error) => panic!("{error}"),
        }
    }
}

/// The object, as soon as the operator has judged this generation of it.
async fn judged(bed: &Bed, kind: &ApiResource, name: &str, generation: &Value) -> Value {
    eventually("the operator has judged it", || async {
        let object = bed.get(kind, name).await;
        let observed = condition(&object, "Accepted")["observedGeneration"].clone();
        (observed == *generation).then_some(object)
    })
    .await
}

/// The API as its data plane is given it.
async fn config(bed: &Bed) -> Value {
    let map = bed.child(ChildKind::ConfigMap, "case").await.expect("it was written");
    let text = map["data"]["config-v1.json"].as_str().expect("it is small");
    let config: Value = serde_json::from_str(text).expect("JSON");
    config["apis"][format!("{}/case", bed.namespace)]["api"].clone()
}

/// Every child but for the config, for what follows from that, and for what is [shown](Field::shown).
async fn children(bed: &Bed) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for (kind, name) in children_of("case", false) {
        let mut child = bed.get(&kind_of(&json!({"kind": kind})), &name).await;
        child["status"] = Value::Null;
        for field in ["resourceVersion", "generation"] {
            child["metadata"][field] = Value::Null;
        }
        for annotation in ["sluice.dev/applied", "deployment.kubernetes.io/revision"] {
            child["metadata"]["annotations"][annotation] = Value::Null;
        }
        match kind {
            "ConfigMap" => child["data"] = Value::Null,
            "Deployment" => {
                child["spec"]["template"]["metadata"]["annotations"]["example.org/note"] = Value::Null;
            }
            _ => {}
        }
        all.insert(format!("{kind} {name}"), child);
    }
    all
}

/// What the API came to without any of the texts.
struct Plain {
    api: Value,
    children: BTreeMap<String, Value>,
}

async fn check_api(bed: &Bed, field: &Field, text: &str, plain: &Plain) -> Result<(), String> {
    let mut document = plain_api();
    send(bed, &document).await.map_err(|message| format!("without it: {message}"))?;
    let value = (field.value)(text);
    set(&mut document, &field.at, value.clone());
    let object = match send(bed, &document).await {
        Ok(object) => object,
        Err(message) => return names(field, &message),
    };
    let api = judged(bed, &api_resource(), "case", &object["metadata"]["generation"]).await;
    if condition(&api, "Accepted")["status"] == "True" {
        let programmed = condition(&api, "Programmed");
        if programmed["reason"] != "NoPods" {
            return Err(format!("is accepted, and {}", clip(&programmed["message"].to_string())));
        }
        let mut expected = plain.api.clone();
        set(&mut expected, &field.at, value.clone());
        let found = config(bed).await;
        if found != expected {
            return Err(format!("became {:?}", found.pointer(&field.at)));
        }
        if let Some(shown) = field.shown {
            let deployment = bed.child(ChildKind::Deployment, "case").await.expect("it is there");
            if deployment.pointer(shown) != Some(&value) {
                return Err(format!("became {:?} in the Deployment", deployment.pointer(shown)));
            }
        }
    } else {
        told(field, &condition(&api, "Accepted"))?;
    }
    let differs = |(name, child): &(&String, &Value)| plain.children.get(*name) != Some(*child);
    let now = children(bed).await;
    let changed: Vec<_> = now.iter().filter(differs).map(|(name, _)| name).collect();
    if changed.is_empty() { Ok(()) } else { Err(format!("changed {changed:?}")) }
}

async fn check_policy(bed: &Bed, field: &Field, text: &str) -> Result<(), String> {
    let mut document = plain_policy();
    set(&mut document, &field.at, (field.value)(text));
    let object = match send(bed, &document).await {
        Ok(object) => object,
        Err(message) => return names(field, &message),
    };
    let policy = judged(bed, &policy_resource(), "p", &object["metadata"]["generation"]).await;
    let conditions = ["Accepted", "ResolvedRefs"].map(|of| condition(&policy, of));
    match conditions.iter().find(|condition| condition["status"] != "True") {
        Some(wrong) => told(field, wrong),
        None => Err("is in force".into()),
    }
}

fn names(field: &Field, message: &str) -> Result<(), String> {
    // What is more than one request may be is refused before anybody looks at fields.
    if message.contains(field.named) || message.contains("too large") {
        return Ok(());
    }
    Err(format!("lacks {}: {}", field.named, clip(message)))
}

fn told(field: &Field, condition: &Value) -> Result<(), String> {
    let message = condition["message"].as_str().unwrap_or_default();
    let turns = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if message.chars().any(|c| c.is_control() || turns(c)) {
        return Err(format!("the message can be obeyed by a terminal: {}", clip(message)));
    }
    names(field, message)
}

/// The beginning of a text, safe to be looked at.
fn clip(text: &str) -> String {
    format!("{:?}", text.chars().take(400).collect::<String>())
}

#[tokio::test]
async fn hostile_strings_change_nothing_but_themselves() {
    let bed = Bed::new("hostile").await;
    let mut operator = bed.operator().await;
    bed.apply(&base()).await;
    bed.told("case", "Programmed", "False", "NoPods").await;
    let plain = Plain { api: config(&bed).await, children: children(&bed).await };
    let long = "x".repeat(LONG);
    let texts: Vec<&str> = TEXTS.iter().copied().chain([long.as_str()]).collect();
    let mut failed = Vec::new();
    let mut note = |field: &Field, text: &str, outcome: Result<(), String>| {
        if let Err(why) = outcome {
            let text: String = text.chars().take(40).collect();
            failed.push(format!("{} {text:?}: {why}", field.at));
        }
    };
    for field in fields() {
        for &text in &texts {
            note(&field, text, check_api(&bed, &field, text, &plain).await);
        }
    }
    send(&bed, &plain_api()).await.expect("it is what it was");
    bed.told("case", "Programmed", "False", "NoPods").await;
    let limits = json!({"limits": {"connections": 5}});
    bed.apply(&crate::bed::policy("p", &["case"], limits)).await;
    for field in policy_fields() {
        for &text in &texts {
            note(&field, text, check_policy(&bed, &field, text).await);
        }
    }
    assert!(failed.is_empty(), "{} cases:\n{}", failed.len(), failed.join("\n"));
    bed.delete(&policy_resource(), "p").await;
    bed.told("case", "ResolvedRefs", "True", "ResolvedRefs").await;
    assert_eq!(config(&bed).await, plain.api, "nothing stays");
    assert_eq!(children(&bed).await, plain.children, "nothing stays");
    operator.stop().await;
}
