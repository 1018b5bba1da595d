use serde_json::json;

use super::*;

mod hostile;

/// A schema that must compile.
fn compiled(schema: Value) -> Schema {
    let Value::Object(schema) = schema else { panic!("not an object: {schema}") };
    Schema::compile(&schema).unwrap_or_else(|problems| panic!("{problems:#?}\n{}", Value::Object(schema)))
}

/// What is said of `payload`, `at: message` each.
fn told(schema: &Schema, payload: &str) -> Vec<String> {
    let violations = schema.validate(payload.as_bytes()).err().unwrap_or_default();
    violations.iter().map(Violation::to_string).collect()
}

fn order() -> Value {
    json!({
        "type": "object",
        "required": ["id", "total"],
        "properties": {
            "id": {"type": "string", "pattern": "^[a-z0-9-]{1,36}$"},
            "total": {"type": "number", "minimum": 0},
            "state": {"enum": ["new", "paid"]},
            "at": {"type": "string", "format": "date-time"},
            "lines": {"type": "array", "minItems": 1, "uniqueItems": true, "items": {"$ref": "#/$defs/line"}},
        },
        "additionalProperties": false,
        "$defs": {"line": {"type": "object", "properties": {"sku": {"type": "string", "maxLength": 5}}}},
    })
}

#[test]
fn what_fits_passes() {
    let schema = compiled(order());
    for payload in [
        r#"{"id":"o-1","total":0}"#,
        r#" {"id":"o-1","total":1.5,"state":"paid","at":"2026-11-30T12:00:00Z","lines":[{"sku":"a"},{}]} "#,
    ] {
        assert_eq!(told(&schema, payload), Vec::<String>::new(), "{payload}");
    }
    assert!(compiled(json!({})).validate(b"null").is_ok(), "an empty schema lets everything in that is JSON");
}

/// A24: constraints hold, `format` among them.
#[test]
fn what_does_not_fit_is_told_by_place_and_never_by_value() {
    let schema = compiled(order());
    for (payload, expected) in [
        (r#"{"id":"hunter2"}"#, &["\"total\" is a required property"][..]),
        (r#"{"id":"hunter2","total":"hunter2"}"#, &["/total: value is not of type \"number\""]),
        (r#"{"id":"hunter2","total":-7654321}"#, &["/total: value is less than the minimum of 0"]),
        (r#"{"id":"HUNTER2","total":0}"#, &["/id: value does not match \"^[a-z0-9-]{1,36}$\""]),
        (r#"{"id":"a","total":0,"state":"hunter2"}"#, &["/state: value is not one of"]),
        (r#"{"id":"a","total":0,"at":"hunter2"}"#, &["/at: value is not a \"date-time\""]),
        (r#"{"id":"a","total":0,"lines":[]}"#, &["/lines: value has less than 1 item"]),
        (r#"{"id":"a","total":0,"lines":[{},{}]}"#, &["/lines: value has non-unique elements"]),
        (
            r#"{"id":"a","total":0,"lines":[{},{"sku":"hunter2"}]}"#,
            &["/lines/1/sku: value is longer than 5 characters"],
        ),
        (r#"{"id":"a","total":0,"more":"hunter2"}"#, &["Additional properties are not allowed ('more' was"]),
        (r#"{"id":7654321,"total":null}"#, &["/id: value is not of type", "/total: value is not of type"]),
        (r#"["hunter2"]"#, &["value is not of type \"object\""]),
        (r#"{"id":"hunter2""#, &["is not JSON: EOF while parsing an object at line 1"]),
        ("", &["is not JSON"]),
        ("{} {}", &["is not JSON"]),
        (r#"{"hunter2":-1,"hunter2":1}"#, &["is not JSON: an object has a name twice at line 1"]),
        ("\"\u{7f}\\ud800\"", &["is not JSON"]),
    ] {
        let told = told(&schema, payload);
        let fits = told.len() == expected.len()
            && expected.iter().all(|part| told.iter().any(|found| found.starts_with(part)));
        assert!(fits, "{payload}\nwanted {expected:#?}\nfound  {told:#?}");
        let text = told.join("\n");
        assert!(!text.to_lowercase().contains("hunter2") && !text.contains("7654321"), "{text}");
    }
    assert!(schema.validate(&[b'"', 0xff, b'"']).is_err(), "text that is not UTF-8 is not JSON");
}

#[test]
fn values_stay_out_of_every_message() {
    for (schema, payload) in [
        (json!({"not": {"type": "string"}}), r#""hunter2""#),
        (json!({"const": 1}), r#""hunter2""#),
        (json!({"anyOf": [{"type": "null"}, {"type": "number"}]}), r#""hunter2""#),
        (json!({"oneOf": [{}, {"type": "string"}]}), r#""hunter2""#),
        (json!({"contains": {"type": "null"}}), r#"["hunter2"]"#),
        (json!({"prefixItems": [{}], "unevaluatedItems": false}), r#"[1,"hunter2"]"#),
        (json!({"unevaluatedProperties": {"type": "null"}}), r#"{"a":"hunter2"}"#),
        (
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{}], "additionalItems": false}),
            r#"[1,"hunter2"]"#,
        ),
        (json!({"propertyNames": {"maxLength": 3}}), r#"{"hunter2":1}"#),
        (json!({"properties": {"a": false}}), r#"{"a":"hunter2"}"#),
        (json!({"multipleOf": 2}), "7654321"),
        (json!({"exclusiveMaximum": 5}), "7654321"),
        (json!({"dependentSchemas": {"a": {"required": ["b"]}}}), r#"{"a":"hunter2"}"#),
        (json!({"if": {"type": "string"}, "then": false}), r#""hunter2""#),
    ] {
        let told = told(&compiled(schema.clone()), payload);
        assert!(!told.is_empty(), "{schema} took {payload}");
        let text = told.join("\n");
        assert!(!text.contains("hunter2") && !text.contains("7654321"), "{schema}: {text}");
    }
}

/// Each draft means what it says: the same words differ between them.
#[test]
fn drafts_are_told_apart() {
    let (old, middle, new) = (
        "http://json-schema.org/draft-07/schema#",
        "https://json-schema.org/draft/2019-09/schema",
        "https://json-schema.org/draft/2020-12/schema",
    );
    let with = |draft: &str, mut schema: Value| {
        schema["$schema"] = draft.into();
        compiled(schema)
    };
    let tuple = json!({"items": [{"type": "string"}], "additionalItems": false});
    for draft in [old, middle] {
        let schema = with(draft, tuple.clone());
        assert!(schema.validate(br#"["a"]"#).is_ok() && schema.validate(b"[1]").is_err(), "{draft}");
        assert_eq!(told(&schema, r#"["a",1]"#), ["has more than 1 items"], "{draft}");
    }
    let Value::Object(tuple) = tuple else { panic!("an object") };
    let problems = Schema::compile(&tuple).expect_err("2020-12 has prefixItems for it");
    assert_eq!(problems[0].at, "items", "{problems:#?}");
    let schema = with(new, json!({"prefixItems": [{"type": "string"}], "items": false}));
    assert!(schema.validate(br#"["a"]"#).is_ok() && schema.validate(br#"["a",1]"#).is_err());
    // Beside a reference nothing counts, or everything does.
    let beside = json!({"$ref": "#/definitions/any", "type": "string", "definitions": {"any": {}}});
    assert!(with(old, beside.clone()).validate(b"1").is_ok());
    assert!(with(middle, beside).validate(b"1").is_err());
    let dependent = json!({"dependencies": {"a": ["b"]}});
    assert!(with(old, dependent).validate(br#"{"a":1}"#).is_err());
}

#[test]
fn references_lead_within_the_schema_by_pointer_and_anchor() {
    let schema = compiled(json!({
        "$id": "https://example.com/order",
        "properties": {
            "a": {"$ref": "#/$defs/a%20b~1c"},
            "b": {"$ref": "#positive"},
            "c": {"$ref": "#/properties/a"},
            "d": {"$ref": "#/$defs/any"},
            "e": {"$ref": "#/components/odd/0"},
        },
        "$defs": {"a b/c": {"type": "string"}, "p": {"$anchor": "positive", "minimum": 1}, "any": true},
        "components": {"odd": [{"type": "null"}]},
    }));
    assert!(schema.validate(br#"{"a":"x","b":1,"c":"x","d":1,"e":null}"#).is_ok());
    let told = told(&schema, r#"{"a":1,"b":0,"c":1,"d":1,"e":1}"#);
    assert_eq!(told.len(), 4, "{told:#?}");
}

#[test]
fn what_is_recursive_is_followed_as_deep_as_payloads_may_be() {
    let schema = compiled(json!({
        "type": "object",
        "properties": {"children": {"type": "array", "items": {"$ref": "#"}}, "name": {"type": "string"}},
    }));
    let nested = |levels: usize, name: &str| {
        format!("{}{{\"name\":{name}}}{}", "{\"children\":[".repeat(levels), "]}".repeat(levels))
    };
    assert_eq!(told(&schema, &nested(31, "\"x\"")), Vec::<String>::new());
    let told_at = told(&schema, &nested(3, "1"));
    assert_eq!(told_at, ["/children/0/children/0/children/0/name: value is not of type \"string\""]);
    assert_eq!(told(&schema, &nested(32, "\"x\"")), ["is nested deeper than 64 levels"]);
    assert!(told(&schema, &"[".repeat(100_000))[0].starts_with("is not JSON"));
}

#[test]
fn the_number_and_the_length_of_violations_are_bounded() {
    let long = "x".repeat(10_000);
    let schema = compiled(json!({"items": {"type": "integer"}}));
    let payload = format!("[{}]", vec!["\"a\""; 50_000].join(","));
    assert_eq!(told(&schema, &payload).len(), MAX_VIOLATIONS);
    let schema =
        compiled(json!({"additionalProperties": {"type": "integer"}, "propertyNames": {"maxLength": 9}}));
    for violation in
        schema.validate(format!("{{\"{long}\":\"{long}\"}}").as_bytes()).expect_err("it is wrong")
    {
        let (at, message) = (violation.at.chars().count(), violation.message.chars().count());
        assert!(at <= MAX_TEXT + 1 && message <= MAX_TEXT + 1, "{at} {message}");
    }
    let told = told(&schema, "{\"a\\u001b[31m\\u202e\":\"x\"}").join("\n");
    assert!(!told.is_empty() && !told.contains(['\u{1b}', '\u{202e}']), "no terminal obeys it: {told:?}");
}

/// X08: each problem of a schema with its path in the API.
#[test]
fn every_problem_of_an_api_has_its_path() {
    let channel = |name: &str, payload: Value| {
        json!({"name": name, "server": "log", "address": "a", "message": {"payload": payload},
            "publish": {"transports": {"http": {}}}})
    };
    let wrong = json!({"required": "total", "properties": {"total": {"type": "nubmer"}}});
    let spec: StreamApiSpec = serde_json::from_value(json!({
        "servers": [{"name": "log", "memory": {}}],
        "channels": [
            channel("good", order()),
            channel("wrong", wrong),
            channel("large", json!({"description": "x".repeat(Message::PAYLOAD_BYTES)})),
            channel("foreign", json!({"properties": {"a b": {"$ref": "https://example.com/a"}}})),
        ],
    }))
    .expect("a spec");
    let told: Vec<_> = check(&spec).iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "what is too large is told elsewhere: {told:#?}");
    assert!(
        told[0].starts_with("spec.channels[1].message.payload.properties.total.type: `nubmer` is not a type"),
        "{told:#?}"
    );
    assert!(
        told[1].starts_with(
            "spec.channels[3].message.payload.properties[\"a b\"].$ref: `https://example.com/a`"
        ),
        "{told:#?}"
    );
}

#[test]
fn problems_that_the_meta_schema_finds_are_told_together() {
    let Value::Object(schema) = json!({"required": "total", "minLength": -1, "properties": {"a": 7}}) else {
        panic!("an object")
    };
    let problems = Schema::compile(&schema).expect_err("three mistakes");
    let mut places: Vec<_> = problems.iter().map(|problem| problem.at.as_str()).collect();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places, ["minLength", "properties.a", "required"], "{problems:#?}");
}
