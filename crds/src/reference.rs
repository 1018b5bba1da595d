//! The reference page: every field of every resource, made from the schemas.

use std::fmt::Write as _;

use kube::CustomResourceExt;
use serde_json::Value;
use sluice_config::kafka::{ALLOWED_PROPERTIES, Applies};

use crate::schema::{schema_of, union_of};
use crate::{StreamAPI, StreamGateway, StreamPolicy};

const OPENING: &str = "\
# Reference

Made from the types in `dataplane/config` and `crds`; `cargo test -p sluice-crds` rewrites it.
A field is required where the default column says so. Durations are whole numbers with the units
`ms`, `s`, `m` and `h`, largest first: `250ms`, `10s`, `1h30m`. Fields that this page lacks are
refused, also those that a later build will know.
";

const PROPERTIES: &str = "
## Kafka client settings

What `spec.servers[].kafka.properties` may carry, by librdkafka's names and with librdkafka's
meanings. What Sluice's guarantees rest on, what carries credentials, and what runs programs or
loads code is not among them.

| setting | client |
|---|---|
";

/// The page as Markdown.
pub fn page() -> String {
    let mut page = OPENING.to_owned();
    section::<StreamAPI>("StreamAPI", &mut page);
    section::<StreamGateway>("StreamGateway", &mut page);
    section::<StreamPolicy>("StreamPolicy", &mut page);
    page.push_str(PROPERTIES);
    for (name, applies) in ALLOWED_PROPERTIES {
        let applies = match applies {
            Applies::Consumer => "consumer",
            Applies::Producer => "producer",
            Applies::Both => "both",
        };
        page.push_str(&format!("| `{name}` | {applies} |\n"));
    }
    page
}

fn section<T: CustomResourceExt>(kind: &str, page: &mut String) {
    let schema = schema_of::<T>();
    let names = T::shortnames().join(", ");
    let about = cell(schema["description"].as_str().unwrap_or_default());
    let _ = write!(
        page,
        "\n## {kind}\n\n`apiVersion: {}/{}`, short name `{names}`. {about}\n\
         `metadata.name`: at most 40 characters of a-z, 0-9 and `-`, beginning with a letter.\n\n\
         | field | type | default | bounds | description |\n|---|---|---|---|---|\n",
        crate::GROUP,
        crate::VERSION,
    );
    for part in ["spec", "status"] {
        rows(part, &schema["properties"][part], false, page);
    }
}

/// One row for the field at `at`, and one for each below it.
fn rows(at: &str, schema: &Value, required: bool, page: &mut String) {
    let default = match &schema["default"] {
        _ if required => "required".to_owned(),
        Value::Null => String::new(),
        default => format!("`{default}`"),
    };
    let about = cell(schema["description"].as_str().unwrap_or_default());
    let _ = writeln!(page, "| `{at}` | {} | {default} | {} | {about} |", type_of(schema), bounds(schema));
    let (at, inner) = match schema["type"].as_str() {
        Some("array") => (format!("{at}[]"), &schema["items"]),
        _ => (at.to_owned(), schema),
    };
    let required = |name: &str| {
        inner["required"].as_array().is_some_and(|names| names.iter().any(|required| required == name))
    };
    for (name, property) in inner["properties"].as_object().into_iter().flatten() {
        rows(&format!("{at}.{name}"), property, required(name), page);
    }
}

fn type_of(schema: &Value) -> String {
    match schema["type"].as_str() {
        Some("array") => format!("list of {}", type_of(&schema["items"])),
        Some("object") if schema["additionalProperties"].is_object() => "map of string".into(),
        Some("string") if schema["pattern"] == crate::shape::DURATION => "duration".into(),
        Some(name) => name.to_owned(),
        None => String::new(),
    }
}

fn bounds(schema: &Value) -> String {
    let mut bounds = Vec::new();
    let range = |from: &str, to: &str, unit: &str| match (schema[from].as_i64(), schema[to].as_i64()) {
        (Some(from), Some(to)) => Some(format!("{from} to {to}{unit}")),
        (None, Some(to)) => Some(format!("at most {to}{unit}")),
        _ => None,
    };
    bounds.extend(range("minimum", "maximum", ""));
    bounds.extend(range("minItems", "maxItems", " items"));
    bounds.extend(range("minProperties", "maxProperties", " entries"));
    if schema["pattern"] != crate::shape::DURATION {
        bounds.extend(range("minLength", "maxLength", " characters"));
        bounds.extend(schema["pattern"].as_str().map(|pattern| format!("`{}`", pattern.replace('|', "\\|"))));
    }
    let values = schema["enum"].as_array().or_else(|| schema["items"]["enum"].as_array());
    bounds.extend(values.map(|values| {
        let values: Vec<_> = values.iter().filter_map(Value::as_str).map(|v| format!("`{v}`")).collect();
        values.join(", ")
    }));
    let inner = if schema["items"].is_object() { &schema["items"] } else { schema };
    if let Some(kinds) = inner.as_object().and_then(union_of) {
        bounds.push(format!("exactly one of {}", kinds.join(", ")));
    }
    bounds.join("; ")
}

fn cell(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sluice_config::kafka::ALLOWED_PROPERTIES;

    use crate::{crds, yaml::to_yaml};

    /// Fails once when `file` is stale, and rewrites it.
    fn check_fresh(file: &str, fresh: &str) {
        let path = Path::new(&std::env::var("CARGO_MANIFEST_DIR").expect("cargo tells")).join(file);
        if std::fs::read_to_string(&path).is_ok_and(|text| text == fresh) {
            return;
        }
        std::fs::write(&path, fresh).expect("the checkout is writable");
        panic!("{file} was stale, rewritten; commit it");
    }

    fn definition(index: usize) -> String {
        to_yaml(&serde_json::to_value(&crds()[index]).expect("JSON"))
    }

    #[test]
    fn streamapis_yaml_is_fresh() {
        check_fresh("streamapis.yaml", &definition(0));
    }

    #[test]
    fn streamgateways_yaml_is_fresh() {
        check_fresh("streamgateways.yaml", &definition(1));
    }

    #[test]
    fn streampolicies_yaml_is_fresh() {
        check_fresh("streampolicies.yaml", &definition(2));
    }

    /// For the chart's ValidatingAdmissionPolicy.
    #[test]
    fn the_list_of_kafka_settings_is_fresh() {
        let names: Vec<_> = ALLOWED_PROPERTIES.iter().map(|(name, _)| *name).collect();
        let list = serde_json::to_string_pretty(&names).expect("JSON");
        check_fresh("../charts/sluice/files/kafka-settings.json", &format!("{list}\n"));
    }

    #[test]
    fn the_reference_page_is_fresh() {
        check_fresh("../docs/REFERENCE.md", &super::page());
    }
}
