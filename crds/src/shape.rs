//! Checks what a person wrote against a resource's schema and finds every problem at once, each
//! with its path: the reader that `kubectl` and the API server are on a cluster, for files.
//!
//! It does not convert anything; serde does that with what was found good. The words that the
//! design has and this build lacks, and what to say about a pattern, stand in [`words`].

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use sluice_config::Problem;

use crate::schema::{NAME_LENGTH, NAME_PATTERN, schema_of, union_of};
use crate::{StreamAPI, StreamGateway, StreamPolicy};

mod words;

pub use sluice_config::shown::{clip, clip_to};
pub use words::{DURATION, nearest};

/// Problems listed of one document; a mangled one has no more to say after that.
const MAX_PROBLEMS: usize = 100;

/// The shape of one kind of document.
pub struct Shape(Value);

impl Shape {
    /// Every problem of `document`, in the order of the schema's fields.
    pub fn check(&self, document: &Value) -> Vec<Problem> {
        let mut found = Found(Vec::new());
        check(&self.0, document, "", &mut found);
        let Found(mut problems) = found;
        if problems.len() > MAX_PROBLEMS {
            problems.truncate(MAX_PROBLEMS);
            problems.push(Problem::new("", "has more problems than are listed; correct these first"));
        }
        problems
    }
}

/// The shape of a StreamAPI.
pub static STREAM_API: LazyLock<Shape> = LazyLock::new(|| document(schema_of::<StreamAPI>(), own_name()));

/// The shape of a StreamGateway.
pub static STREAM_GATEWAY: LazyLock<Shape> =
    LazyLock::new(|| document(schema_of::<StreamGateway>(), own_name()));

/// The shape of a StreamPolicy.
pub static STREAM_POLICY: LazyLock<Shape> =
    LazyLock::new(|| document(schema_of::<StreamPolicy>(), object_name()));

/// The shape of a Secret.
pub static SECRET: LazyLock<Shape> = LazyLock::new(|| {
    let map = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let fields = json!({"type": "object", "properties": {
        "type": {"type": "string"}, "immutable": {"type": "boolean"}, "data": map, "stringData": map,
    }});
    document(fields, object_name())
});

/// The shape of what is accepted and not used: a ConfigMap.
pub static CONFIG_MAP: LazyLock<Shape> = LazyLock::new(|| {
    let map = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let fields = json!({"type": "object", "properties": {
        "immutable": {"type": "boolean"}, "data": map, "binaryData": map,
    }});
    document(fields, object_name())
});

/// A name that those of children can be made of.
fn own_name() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": NAME_LENGTH, "pattern": NAME_PATTERN})
}

fn object_name() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": 253, "pattern": words::OBJECT_NAME})
}

/// `schema` with what every document has: apiVersion, kind and metadata.
fn document(mut schema: Value, name: Value) -> Shape {
    let strings = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let mut metadata = json!({
        "name": name,
        "namespace": {"type": "string", "minLength": 1, "maxLength": 63, "pattern": words::NAMESPACE},
        "labels": strings, "annotations": strings,
        "generation": {"type": "integer", "minimum": 0, "maximum": i64::MAX},
        "creationTimestamp": {},
    });
    // What `kubectl get -o yaml` adds; nothing here looks at it.
    for added in [
        "uid",
        "resourceVersion",
        "selfLink",
        "generateName",
        "managedFields",
        "finalizers",
        "ownerReferences",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        metadata[added] = json!({});
    }
    schema["properties"]["apiVersion"] = json!({"type": "string"});
    schema["properties"]["kind"] = json!({"type": "string"});
    schema["properties"]["metadata"] =
        json!({"type": "object", "properties": metadata, "required": ["name"]});
    let required = &mut schema["required"];
    match required.as_array_mut() {
        Some(names) => names.insert(0, "metadata".into()),
        None => *required = json!(["metadata"]),
    }
    Shape(schema)
}

/// What was found so far, in order.
struct Found(Vec<Problem>);

impl Found {
    fn add(&mut self, at: &str, message: impl Into<String>) {
        // One more than is listed says that there are more.
        if self.0.len() <= MAX_PROBLEMS {
            self.0.push(Problem::new(at, message));
        }
    }
}

fn check(schema: &Value, value: &Value, at: &str, found: &mut Found) {
    let Some(kind) = schema["type"].as_str() else { return };
    match (kind, value) {
        ("object", Value::Object(fields)) => check_object(schema, fields, at, found),
        ("array", Value::Array(items)) => check_list(schema, items, at, found),
        ("string", Value::String(text)) => check_string(schema, text, at, found),
        ("integer", Value::Number(number)) => check_integer(schema, number, at, found),
        ("boolean", Value::Bool(_)) => {}
        _ => found.add(at, wrong_type(schema, kind, value, at)),
    }
}

fn check_object(schema: &Value, fields: &Map<String, Value>, at: &str, found: &mut Found) {
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    if let Some(inner) = schema.get("additionalProperties") {
        check_count(schema, fields.len(), ["minProperties", "maxProperties"], "entries", at, found);
        for (key, value) in fields {
            check(inner, value, &format!("{at}[{:?}]", clip(key)), found);
        }
        return;
    }
    let none = Map::new();
    let known = schema["properties"].as_object().unwrap_or(&none);
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            found.add(&join(at, name), missing(name, &known[name]));
        }
    }
    for (name, value) in fields {
        match known.get(name) {
            Some(inner) => check(inner, value, &join(at, name), found),
            None => found.add(&join(at, name), words::unknown_field(at, name, known.keys())),
        }
    }
    check_union(schema, fields, at, found);
}

fn check_union(schema: &Value, fields: &Map<String, Value>, at: &str, found: &mut Found) {
    let Some(kinds) = schema.as_object().and_then(union_of) else { return };
    let set: Vec<_> = kinds.iter().filter(|kind| fields.contains_key(*kind)).collect();
    let later = || fields.keys().any(|name| words::is_later(at, name));
    match set.len() {
        1 => {}
        // The refusal of the kind that this build lacks says it already.
        0 if later() => {}
        0 => found.add(at, format!("sets no kind; add one of {}", words::list(&kinds))),
        _ => found.add(at, format!("sets {}; keep exactly one of them", words::list(&set))),
    }
}

fn check_list(schema: &Value, items: &[Value], at: &str, found: &mut Found) {
    check_count(schema, items.len(), ["minItems", "maxItems"], "items", at, found);
    // Beyond the bound nothing is looked at: the list is refused as it is.
    let most = schema["maxItems"].as_u64().and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    for (index, item) in items.iter().enumerate().take(most) {
        check(&schema["items"], item, &format!("{at}[{index}]"), found);
    }
    let name = at.rsplit('.').next().unwrap_or(at);
    let mut seen = BTreeMap::new();
    for (index, item) in items.iter().enumerate().take(most) {
        let (at, key) = match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => (format!("{at}[{index}]"), item.as_str()),
            Some("map") => {
                let key = schema["x-kubernetes-list-map-keys"][0].as_str().unwrap_or_default();
                (format!("{at}[{index}].{key}"), item[key].as_str())
            }
            _ => return,
        };
        let Some(key) = key else { continue };
        if let Some(first) = seen.insert(key, index) {
            seen.insert(key, first);
            let key = clip(key);
            found.add(&at, format!("`{key}` stands at {name}[{first}] too; give each its own"));
        }
    }
}

fn check_string(schema: &Value, text: &str, at: &str, found: &mut Found) {
    let values: Vec<_> = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !values.is_empty() {
        if !values.contains(&text) {
            found.add(at, words::unknown_value(at, text, &values));
        }
        return;
    }
    let length = text.chars().count();
    if let Some(most) = bound(schema, "maxLength").filter(|most| length > *most) {
        return found.add(at, format!("has {length} characters; write at most {most}"));
    }
    if let Some(least) = bound(schema, "minLength").filter(|least| length < *least) {
        let message = if length == 0 {
            "is empty; write a value".to_owned()
        } else {
            format!("is too short; write at least {least} characters")
        };
        return found.add(at, message);
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && let Some(message) = words::mismatch(pattern, text)
    {
        found.add(at, message);
    }
}

fn check_integer(schema: &Value, number: &serde_json::Number, at: &str, found: &mut Found) {
    let (least, most) = (schema["minimum"].as_i64(), schema["maximum"].as_i64());
    let (least, most) = (least.unwrap_or(i64::MIN), most.unwrap_or(i64::MAX));
    match number.as_i64() {
        Some(number) if (least..=most).contains(&number) => {}
        None if number.as_u64().is_none() => found.add(at, "must be a whole number; remove the fraction"),
        _ => found.add(at, format!("must be between {least} and {most}")),
    }
}

fn check_count(schema: &Value, count: usize, keys: [&str; 2], things: &str, at: &str, found: &mut Found) {
    if bound(schema, keys[0]).is_some_and(|least| count < least) {
        found.add(at, format!("is empty; write at least one of the {things}"));
    }
    if let Some(most) = bound(schema, keys[1]).filter(|most| count > *most) {
        found.add(at, format!("has {count} {things}; write at most {most}"));
    }
}

fn bound(schema: &Value, key: &str) -> Option<usize> {
    schema[key].as_u64().and_then(|bound| usize::try_from(bound).ok())
}

fn missing(name: &str, schema: &Value) -> String {
    let about = schema["description"].as_str().unwrap_or_default();
    let about = about.split(". ").next().unwrap_or_default().trim_end_matches('.');
    let about = if about.is_empty() { String::new() } else { format!(" ({about})") };
    format!("is missing; add `{name}: {}`{about}", placeholder(schema))
}

/// What to write after a field's name, as an example.
fn placeholder(schema: &Value) -> &'static str {
    match schema["type"].as_str() {
        Some("array") => "[…]",
        Some("object") => "{…}",
        Some("integer") => "5",
        Some("boolean") => "true",
        _ => "…",
    }
}

/// The value itself is not repeated: it may be a secret.
fn wrong_type(schema: &Value, kind: &str, value: &Value, at: &str) -> String {
    let name = at.rsplit('.').next().unwrap_or(at);
    let has = |text: &str| schema["properties"].get(text).is_some();
    match (kind, value) {
        ("object", Value::String(text)) if has(text) => {
            format!("must be a mapping; write `{{{text}: {{}}}}`")
        }
        ("object", Value::Array(items)) if items.iter().all(|item| item.as_str().is_some_and(has)) => {
            let fields: Vec<_> =
                items.iter().filter_map(Value::as_str).map(|text| format!("{text}: {{}}")).collect();
            format!("must be a mapping, not a list; write `{name}: {{{}}}`", fields.join(", "))
        }
        ("object", Value::Null) if schema["required"].is_null() => {
            format!("is empty; write `{name}: {{}}` or remove it")
        }
        (_, Value::Null) => format!("is empty; write `{name}: {}` or remove it", placeholder(schema)),
        ("string", Value::Number(_)) => "must be a string; put it in quotes".into(),
        ("string", Value::Bool(_)) => {
            "must be a string; put it in quotes (YAML has yes, no, on, off, y and n for true and false)"
                .into()
        }
        ("integer", Value::String(_)) => "must be a whole number, without quotes".into(),
        ("boolean", Value::String(_)) => "must be true or false, without quotes".into(),
        ("array", _) => format!("must be a list; write `{name}: […]` or one `- …` a line"),
        ("object", _) => format!("must be a mapping; write `{name}: {{…}}` or fields on lines of their own"),
        ("integer", _) => "must be a whole number".into(),
        ("boolean", _) => "must be true or false".into(),
        _ => "must be a string".into(),
    }
}

/// The path of field `name` below `at`.
fn join(at: &str, name: &str) -> String {
    let plain = !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    match (plain, at) {
        (true, "") => name.to_owned(),
        (true, at) => format!("{at}.{name}"),
        (false, at) => format!("{at}[{:?}]", clip(name)),
    }
}

#[cfg(test)]
mod tests;
