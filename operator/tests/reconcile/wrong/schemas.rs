//! The cases of message schemas: what the API server takes as any object, and the operator looks at.

use serde_json::{Map, Value, json};

use super::Case;
use super::Fate::{Refused, Told, Verbatim};

fn payload(schema: Value) -> Vec<(&'static str, Value)> {
    vec![("/spec/channels/0/message/payload", schema)]
}

fn property(schema: Value) -> Vec<(&'static str, Value)> {
    payload(json!({"type": "object", "properties": {"total": schema}}))
}

/// X08: message schemas.
pub fn schemas() -> Vec<Case> {
    let nested = (0..55).fold(json!({}), |inner, _| json!({"not": inner}));
    let laughs: Map<String, Value> = (0..50)
        .map(|level| {
            let next = json!({"$ref": format!("#/$defs/d{}", level + 1)});
            (format!("d{level}"), json!({"allOf": [next, next]}))
        })
        .chain([("d50".to_owned(), json!({}))])
        .collect();
    vec![
        ("a schema that is text", payload(json!("object")), Refused(&["message.payload"])),
        ("a schema that is a list", payload(json!([])), Refused(&["message.payload"])),
        (
            "a type that is none",
            property(json!({"type": "nubmer"})),
            Told(
                "Accepted",
                &["spec.channels[0].message.payload.properties.total.type: `nubmer` is not a type"],
            ),
        ),
        (
            "a keyword of the wrong kind",
            property(json!({"minimum": "1"})),
            Told("Accepted", &["spec.channels[0].message.payload.properties.total.minimum"]),
        ),
        (
            "a remote reference",
            property(json!({"$ref": "https://example.com/money"})),
            Told("Accepted", &["payload.properties.total.$ref", "nothing is ever fetched"]),
        ),
        (
            "a file",
            property(json!({"$ref": "file:///var/run/secrets/kubernetes.io/serviceaccount/token"})),
            Told("Accepted", &["payload.properties.total.$ref", "nothing is ever fetched"]),
        ),
        (
            "a reference to nothing",
            property(json!({"$ref": "#/$defs/money"})),
            Told("Accepted", &["payload.properties.total.$ref", "leads to nothing"]),
        ),
        (
            "a reference to itself",
            property(json!({"$ref": "#/properties/total"})),
            Told("Accepted", &["payload.properties.total: leads back to itself"]),
        ),
        (
            "a base of its own",
            property(json!({"$id": "https://example.com/", "$ref": "#"})),
            Told("Accepted", &["payload.properties.total.$id"]),
        ),
        (
            "a draft that is not known",
            payload(json!({"$schema": "https://example.com/draft"})),
            Told("Accepted", &["message.payload.$schema", "2020-12"]),
        ),
        (
            "a pattern with look-ahead",
            property(json!({"pattern": "^(?!a)"})),
            Told("Accepted", &["payload.properties.total.pattern", "look-ahead"]),
        ),
        (
            "a pattern of patterns",
            property(json!({"pattern": "((a{1000}){1000}){1000}"})),
            Told("Accepted", &["payload.properties.total.pattern", "too large"]),
        ),
        (
            "a name that no terminal obeys",
            payload(json!({"properties": {"\u{1b}[31m\u{202e}": {"type": "x"}}})),
            Told("Accepted", &["message.payload.properties[", "is not a type"]),
        ),
        (
            "definitions that repeat each other",
            payload(json!({"$ref": "#/$defs/d0", "$defs": laughs})),
            Told("Accepted", &["message.payload.$defs", "one through the other"]),
        ),
        ("a deep schema", payload(nested), Told("Accepted", &["message.payload: is nested deeper"])),
        (
            "a large schema",
            payload(json!({"description": "x".repeat(33 << 10)})),
            Told("Accepted", &["spec.channels[0].message.payload: is over 32768 bytes"]),
        ),
        ("an empty schema", payload(json!({})), Verbatim),
        (
            "a schema",
            payload(json!({
                "$schema": "http://json-schema.org/draft-07/schema#",
                "$id": "https://example.com/order",
                "type": "object",
                "required": ["total"],
                "properties": {
                    "total": {"type": "number", "exclusiveMinimum": 0.5, "multipleOf": 0.01},
                    "note": {"type": ["string", "null"], "pattern": "^[^\\u0000-\\u001f]*$"},
                    "lines": {"type": "array", "items": {"$ref": "#/definitions/line"}},
                },
                "additionalProperties": false,
                "definitions": {"line": {"type": "object", "properties": {"parts": {"items": {"$ref": "#/definitions/line"}}}}},
            })),
            Verbatim,
        ),
    ]
}
