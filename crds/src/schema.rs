//! From Rust types to schemas that an API server takes.
//!
//! kube makes the schemas structural; what is left to do here is the same for every resource:
//! numbers without fractions, no `null` beside a type (an empty `sse:` is then refused instead of
//! ignored), unions as rules whose message says what to write, and the bounds of the name.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use crate::{StreamAPI, StreamGateway, StreamPolicy};

/// Longest `metadata.name`, so that the children's names fit their labels.
pub const NAME_LENGTH: usize = 40;
/// What a name looks like.
pub const NAME_PATTERN: &str = "^[a-z]([-a-z0-9]*[a-z0-9])?$";

/// The definitions to apply to a cluster.
pub fn crds() -> Vec<CustomResourceDefinition> {
    [
        definition::<StreamAPI>(API_RULES),
        definition::<StreamGateway>(GATEWAY_RULES),
        definition::<StreamPolicy>(POLICY_RULES),
    ]
    .into()
}

/// The schema of `T`'s spec and status: structural, unions still told by `oneOf`.
pub fn schema_of<T: CustomResourceExt>() -> Value {
    let mut crd = serde_json::to_value(T::crd()).expect("a definition is JSON");
    let mut schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take();
    tidy(&mut schema);
    schema
}

fn definition<T: CustomResourceExt>(rules: &[Rule]) -> CustomResourceDefinition {
    let mut schema = schema_of::<T>();
    schema["properties"]["metadata"] = json!({
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": NAME_LENGTH, "pattern": NAME_PATTERN}},
    });
    unions_to_rules(&mut schema);
    for rule in rules {
        let at = schema.pointer_mut(rule.at).expect("a rule stands at a field of the schema");
        add_rule(at, rule.rule, rule.message);
    }
    let mut crd = serde_json::to_value(T::crd()).expect("a definition is JSON");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = schema;
    serde_json::from_value(crd).expect("a tidied definition is a definition")
}

/// A combination that no type can rule out.
struct Rule {
    /// JSON pointer into the schema.
    at: &'static str,
    /// In CEL.
    rule: &'static str,
    /// What to write.
    message: &'static str,
}

const API_RULES: &[Rule] = &[
    Rule {
        at: "/properties/spec",
        rule: "self.channels.all(c, self.servers.exists(s, s.name == c.server))",
        message: "every channel's `server` must be the name of one of `servers`",
    },
    Rule {
        at: "/properties/spec/properties/channels/items",
        rule: "has(self.subscribe) || has(self.publish)",
        message: "the channel does nothing; add `subscribe`, `publish` or both",
    },
    Rule {
        at: "/properties/spec/properties/channels/items/properties/subscribe/properties/transports",
        rule: "has(self.websocket) || has(self.sse)",
        message: "add `websocket: {}`, `sse: {}` or both",
    },
    Rule {
        at: "/properties/spec/properties/channels/items/properties/publish/properties/transports",
        rule: "has(self.http) || has(self.websocket)",
        message: "add `http: {}`, `websocket: {}` or both",
    },
];

const GATEWAY_RULES: &[Rule] = &[Rule {
    at: "/properties/spec/properties/allowedNamespaces",
    rule: "(self.from == 'Names') == (has(self.names) && size(self.names) > 0)",
    message: "`names` goes with `from: Names`, and `from: Names` with at least one",
}];

const POLICY_RULES: &[Rule] = &[
    Rule {
        at: "/properties/spec",
        rule: "has(self.authentication) || has(self.cors) || has(self.limits)",
        message: "the policy sets nothing; add `authentication`, `cors` or `limits`",
    },
    Rule {
        at: "/properties/spec/properties/cors",
        rule: "!(self.allowCredentials && self.allowedOrigins.exists(o, o == '*'))",
        message: "`allowCredentials` does not go with `\"*\"`; list the origins that may send credentials",
    },
];

/// Numbers without fractions, formats that Kubernetes knows, one line per paragraph, no `null`.
fn tidy(schema: &mut Value) {
    each_schema(schema, &mut |schema| {
        for noise in ["nullable", "title"] {
            schema.remove(noise);
        }
        if schema.get("default").is_some_and(Value::is_null) {
            schema.remove("default");
        }
        if schema.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
            schema.remove("format");
        }
        for bound in ["minimum", "maximum"] {
            if let Some(number) = schema.get(bound).and_then(Value::as_f64) {
                #[expect(clippy::cast_possible_truncation, reason = "bounds are whole and below 2^53")]
                schema.insert(bound.into(), json!(number as i64));
            }
        }
        if let Some(text) = schema.get("description").and_then(Value::as_str) {
            let text = text.split("\n\n").map(|paragraph| paragraph.replace('\n', " "));
            let text = text.collect::<Vec<_>>().join("\n\n");
            schema.insert("description".into(), text.into());
        }
    });
}

/// `oneOf` gives users "must validate one and only one schema"; a rule says what to write.
fn unions_to_rules(schema: &mut Value) {
    let mut rewrite = |schema: &mut Map<String, Value>| {
        let Some(kinds) = union_of(schema) else { return };
        schema.remove("oneOf");
        schema.remove("default");
        let set: Vec<_> = kinds.iter().map(|kind| format!("has(self.{kind})")).collect();
        let rule = format!("[{}].filter(set, set).size() == 1", set.join(", "));
        let names: Vec<_> = kinds.iter().map(|kind| format!("`{kind}`")).collect();
        let mut whole = Value::Object(std::mem::take(schema));
        add_rule(&mut whole, &rule, &format!("set exactly one of {}", names.join(", ")));
        // Whoever applies another kind replaces the whole: no default of the former one, stored and
        // nobody's, may stay beside it.
        whole["x-kubernetes-map-type"] = json!("atomic");
        let Value::Object(whole) = whole else { unreachable!("a rule is added to an object") };
        *schema = whole;
    };
    each_schema(schema, &mut rewrite);
}

fn add_rule(schema: &mut Value, rule: &str, message: &str) {
    let rule = json!({"rule": rule, "message": message});
    match schema["x-kubernetes-validations"].as_array_mut() {
        Some(rules) => rules.push(rule),
        None => schema["x-kubernetes-validations"] = json!([rule]),
    }
}

/// The keys of which exactly one is set, if `schema` is a union.
pub fn union_of(schema: &Map<String, Value>) -> Option<Vec<String>> {
    let kinds = schema.get("oneOf")?.as_array()?;
    kinds.iter().map(|kind| Some(kind.get("required")?.get(0)?.as_str()?.to_owned())).collect()
}

/// Calls `change` on `schema` and every schema in it, inner ones first.
fn each_schema(schema: &mut Value, change: &mut impl FnMut(&mut Map<String, Value>)) {
    let Value::Object(schema) = schema else { return };
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().for_each(|property| each_schema(property, change));
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(inner) {
            each_schema(inner, change);
        }
    }
    change(schema);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is not there but should be, for each property below `schema`.
    fn lacks(at: &str, schema: &Value, found: &mut Vec<String>) {
        let kind = schema["type"].as_str().unwrap_or_default();
        let has = |key: &str| !schema[key].is_null();
        let complete = match kind {
            "string" => has("maxLength") || has("enum"),
            "array" => has("maxItems"),
            "integer" => has("minimum") && has("maximum"),
            "object" => !has("additionalProperties") || has("maxProperties"),
            "boolean" => true,
            _ => false,
        };
        if !complete {
            found.push(format!("{at} ({kind}) has no bounds"));
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let at = format!("{at}.{name}");
            if property["description"].as_str().is_none_or(str::is_empty) && !at.starts_with(".metadata") {
                found.push(format!("{at} has no description"));
            }
            lacks(&at, property, found);
        }
        for inner in ["items", "additionalProperties"] {
            if has(inner) {
                lacks(&format!("{at}.{inner}"), &schema[inner], found);
            }
        }
    }

    #[test]
    fn every_field_has_a_description_and_bounds() {
        for crd in crds() {
            let crd = serde_json::to_value(crd).expect("JSON");
            let mut found = Vec::new();
            lacks("", &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], &mut found);
            assert!(found.is_empty(), "{found:#?}");
        }
    }

    #[test]
    fn schemas_are_structural() {
        for crd in crds() {
            let text = serde_json::to_string(&crd).expect("JSON");
            for foreign in ["oneOf", "anyOf", "allOf", "$ref", "nullable", "uint", "\"not\""] {
                assert!(!text.contains(foreign), "{foreign} in {text}");
            }
        }
    }

    #[test]
    fn a_union_becomes_a_rule_that_says_what_to_write() {
        let crd = serde_json::to_value(&crds()[0]).expect("JSON");
        let servers = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/servers/items";
        let rule = &crd.pointer(servers).expect("servers")["x-kubernetes-validations"][0];
        assert_eq!(rule["message"], "set exactly one of `kafka`, `memory`, `generator`");
        assert_eq!(
            rule["rule"],
            "[has(self.kafka), has(self.memory), has(self.generator)].filter(set, set).size() == 1"
        );
    }
}
