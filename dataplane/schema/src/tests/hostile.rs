//! Schemas and payloads that would fetch, hang, overflow or fill memory.

use std::time::{Duration, Instant};

use serde_json::{Map, json};

use super::*;

/// The longest that refusing or compiling a schema may take.
const PATIENCE: Duration = Duration::from_millis(50);

/// What `run` gives and how long it takes; other work on the machine is not counted against it.
fn timed<T>(run: impl Fn() -> T) -> (T, Duration) {
    let mut best: Option<(T, Duration)> = None;
    for _ in 0..3 {
        let begun = Instant::now();
        let result = run();
        let took = begun.elapsed();
        if best.as_ref().is_none_or(|(_, known)| took < *known) {
            best = Some((result, took));
        }
    }
    best.expect("it ran")
}

fn pattern(pattern: &str) -> Value {
    json!({"properties": {"a": {"pattern": pattern}}})
}

/// `levels` definitions, each of which applies `width` times the next.
fn laughs(levels: usize, width: usize) -> Value {
    let mut definitions = Map::new();
    for level in 0..levels {
        let next = json!({"$ref": format!("#/$defs/d{}", level + 1)});
        definitions.insert(format!("d{level}"), json!({"allOf": vec![next; width]}));
    }
    definitions.insert(format!("d{levels}"), json!({"type": "string"}));
    json!({"$ref": "#/$defs/d0", "$defs": definitions})
}

fn nested(levels: usize) -> Value {
    (0..levels).fold(json!({}), |inner, _| json!({"not": inner}))
}

/// A name, the schema, where it is refused, and with which words.
fn corpus() -> Vec<(&'static str, Value, &'static str, &'static str)> {
    let unevaluated: Map<String, Value> = (0..60)
        .map(|n| {
            (
                format!("p{n}"),
                json!({"allOf": vec![json!({"$ref": "#/$defs/b"}); 20], "unevaluatedProperties": false}),
            )
        })
        .collect();
    vec![
        ("a remote reference", json!({"$ref": "https://example.com/s"}), "$ref", "nothing is ever fetched"),
        ("a file", json!({"items": {"$ref": "file:///etc/passwd"}}), "items.$ref", "nothing is ever fetched"),
        ("a relative reference", json!({"not": {"$ref": "other#/a"}}), "not.$ref", "nothing is ever fetched"),
        ("the metadata service", json!({"$ref": "//169.254.169.254/#"}), "$ref", "nothing is ever fetched"),
        (
            "a base that is bent",
            json!({"properties": {"a": {"$id": "http://127.0.0.1/", "$ref": "#/x"}}}),
            "properties.a.$id",
            "only at the top",
        ),
        ("a draft within", json!({"items": {"$schema": "http://a.b/c"}}), "items.$schema", "only at the top"),
        ("a draft of its own", json!({"$schema": "http://a.b/c"}), "$schema", "`http://a.b/c` is not known"),
        (
            "an old draft",
            json!({"$schema": "http://json-schema.org/draft-04/schema#"}),
            "$schema",
            "not known",
        ),
        ("no draft", json!({"$schema": 7}), "$schema", "is not known"),
        ("a dynamic reference", json!({"$dynamicRef": "#a"}), "$dynamicRef", "is not supported"),
        (
            "a recursive reference",
            json!({"not": {"$recursiveRef": "#"}}),
            "not.$recursiveRef",
            "not supported",
        ),
        ("itself", json!({"$ref": "#"}), "", "leads back to itself"),
        (
            "two that mean each other",
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}}),
            "$defs.a",
            "leads back to itself",
        ),
        ("one of itself", json!({"anyOf": [{"type": "null"}, {"$ref": "#"}]}), "", "leads back to itself"),
        ("nothing", json!({"$ref": "#/$defs/a"}), "$ref", "leads to nothing"),
        ("no anchor", json!({"$ref": "#a"}), "$ref", "names no `$anchor`"),
        (
            "no schema",
            json!({"required": ["a"], "not": {"$ref": "#/required/0"}}),
            "not.$ref",
            "not a schema",
        ),
        ("not UTF-8", json!({"$ref": "#/%ff"}), "$ref", "not UTF-8"),
        ("many laughs", laughs(7, 4), "$defs.d2", "more than 2000 schemas"),
        ("long laughs", laughs(100, 2), "$defs.d7.allOf[0]", "one through the other"),
        (
            "what is unevaluated",
            json!({"properties": unevaluated, "$defs": {"b": {"type": "object"}}}),
            "properties.p52",
            "too many",
        ),
        ("look-ahead", pattern("^(?=a)"), "properties.a.pattern", "look-ahead"),
        ("look-behind", pattern("(?<!a)b"), "properties.a.pattern", "look-behind"),
        ("a back-reference", pattern(r"(a)\1"), "properties.a.pattern", "backreferences are not supported"),
        ("no pattern", pattern("("), "properties.a.pattern", "pattern"),
        (
            "the name of no pattern",
            json!({"patternProperties": {"[": {}}}),
            "patternProperties[\"[\"]",
            "pattern",
        ),
        (
            "repetitions of repetitions",
            pattern("((a{1000}){1000}){1000}"),
            "properties.a.pattern",
            "too large",
        ),
        ("a wide repetition", pattern(r"\p{L}{500}"), "properties.a.pattern", "too large"),
        ("groups in groups", pattern(&"(".repeat(10_000)), "properties.a.pattern", "pattern"),
        ("digits", pattern(&r"\d".repeat(10_000)), "properties.a.pattern", "too long"),
        ("control characters", pattern(&r"\cA".repeat(5_000)), "properties.a.pattern", "too long"),
        ("a type that is none", json!({"type": ["string", "\u{1b}[31mx"]}), "type", "is not a type"),
        ("a type that is a number", json!({"type": 7}), "type", "7"),
        ("deep", nested(60), "", "nested deeper than 48"),
        ("large", json!({"description": "x".repeat(40 << 10)}), "", "is over 32768 bytes"),
        ("very large", json!({"description": "x".repeat(10 << 20)}), "", "is over 32768 bytes"),
    ]
}

#[test]
fn hostile_schemas_are_refused_with_a_reason_and_in_time() {
    // The meta-schemas are compiled once.
    drop(compiled(json!({"type": "string"})));
    let mut wrong = Vec::new();
    for (name, schema, at, words) in corpus() {
        let Value::Object(schema) = schema else { panic!("{name} is an object") };
        let (result, took) = timed(|| Schema::compile(&schema));
        let Err(problems) = result else {
            wrong.push(format!("{name}: is taken"));
            continue;
        };
        if !problems.iter().any(|problem| problem.at == at && problem.message.contains(words)) {
            wrong.push(format!("{name}: wanted {at}: {words}\n  found {problems:#?}"));
        }
        let told = problems.iter().map(ToString::to_string).collect::<String>();
        if problems.len() > MAX_PROBLEMS || told.chars().any(char::is_control) || told.len() > 10_000 {
            wrong.push(format!("{name}: is told too much"));
        }
        if took > PATIENCE {
            wrong.push(format!("{name}: took {took:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is large and still fair.
#[test]
fn large_schemas_that_are_not_hostile_are_taken() {
    let properties: Map<String, Value> = (0..150)
        .map(|n| {
            (
                format!("field{n}"),
                json!({"type": "string", "maxLength": 64, "pattern": r"^\d{4}-[\w.-]{1,40}$"}),
            )
        })
        .collect();
    drop(compiled(json!({"type": "object", "properties": properties})));
    let kinds: Vec<Value> = (0..100)
        .map(|n| json!({"allOf": [{"$ref": "#/$defs/base"}, {"properties": {"type": {"const": n}}}]}))
        .collect();
    drop(compiled(json!({"oneOf": kinds, "$defs": {"base": {"type": "object", "required": ["type"]}}})));
    for fair in
        [r"^[^@\s]{1,64}@[a-z0-9.-]{1,255}$", r"^(https?|wss?)://[^\s/$.?#].[^\s]*$", r"^[\p{L} '-]+$"]
    {
        drop(compiled(pattern(fair)));
    }
}

/// Validating costs a bounded number of steps, whatever a schema repeats for each level of a payload.
#[test]
fn a_payload_is_validated_or_refused_in_time() {
    let twice = json!({"allOf": [{"items": {"$ref": "#"}}, {"items": {"$ref": "#"}}]});
    let node = |op: &str| json!({"type": "object", "required": ["op"], "properties": {"op": {"const": op}, "args": {"items": {"$ref": "#"}}}});
    let tree = json!({"oneOf": [node("and"), node("or"), {"type": "string"}]});
    let lists = format!("{}{}", "[".repeat(60), "]".repeat(60));
    let operations = format!("{}\"x\"{}", "{\"op\":\"and\",\"args\":[".repeat(30), "]}".repeat(30));
    let broken = format!("{}7{}", "{\"op\":\"and\",\"args\":[".repeat(30), "]}".repeat(30));
    // Lists of nothing, which differ only in their shape.
    let shape =
        |n: u32| (0..16).map(|bit| if n & (1 << bit) == 0 { "[]" } else { "[[]]" }).collect::<Vec<_>>();
    let shapes: Vec<String> = (0..20_000).map(|n| format!("[{}]", shape(n).join(","))).collect();
    let names: Map<String, Value> = (0..100).map(|n| (format!("(a|b)*c{n}"), json!({}))).collect();
    let name = format!("{{\"{}\":1}}", "ab".repeat(100_000));
    let choices = vec![json!({"type": "null"}); 500];
    // What reads every value to its leaves, as often as a schema may be applied.
    let unique = json!({"allOf": vec![json!({"uniqueItems": true}); 1500]});
    let wide: Vec<u32> = (0..3000).collect();
    let same =
        json!({"allOf": vec![json!({"$ref": "#/$defs/wide"}); 500], "$defs": {"wide": {"const": [wide]}}});
    let wide = serde_json::to_string(&[wide]).expect("JSON");
    for (what, schema, payload, fits) in [
        ("twice each level", twice, lists, None),
        ("a tree of operations", tree.clone(), operations, None),
        ("a tree that is broken at its leaf", tree, broken, Some(false)),
        ("shapes", json!({"uniqueItems": true}), format!("[{}]", shapes.join(",")), Some(true)),
        ("a name for many patterns", json!({"patternProperties": names}), name, None),
        (
            "a wide choice",
            json!({"items": {"anyOf": choices}}),
            format!("[{}]", vec!["1"; 20_000].join(",")),
            Some(false),
        ),
        ("a long list in a short one", unique, format!("[[{}]]", vec!["0"; 500_000].join(",")), Some(false)),
        ("a long value that is looked for often", same, wide, Some(false)),
        (
            "a text for a large pattern",
            json!({"pattern": "^(a?){500}(a?){500}b"}),
            format!("\"{}\"", "a".repeat(50_000)),
            Some(false),
        ),
    ] {
        let schema = compiled(schema);
        let (result, took) = timed(|| schema.validate(payload.as_bytes()));
        assert!(took < Duration::from_millis(1500), "{what}: {took:?}");
        assert!(fits.is_none_or(|fits| fits == result.is_ok()), "{what}: {result:?}");
    }
}

/// The deepest payload under the longest way through schemas, on a thread as small as those that publish.
#[test]
fn the_deepest_validation_fits_its_stack() {
    let mut definitions = Map::new();
    let links = 7;
    for link in 0..links {
        definitions
            .insert(format!("d{link}"), json!({"allOf": [{"$ref": format!("#/$defs/d{}", link + 1)}]}));
    }
    definitions.insert(format!("d{links}"), json!({"type": "array", "items": {"$ref": "#"}}));
    let schema = json!({"$ref": "#/$defs/d0", "$defs": definitions});
    let validate = move || {
        let schema = compiled(schema);
        let payload = format!("{}7{}", "[".repeat(PAYLOAD_DEPTH), "]".repeat(PAYLOAD_DEPTH));
        told(&schema, &payload)
    };
    let stack = if cfg!(debug_assertions) { 16 << 20 } else { 2 << 20 };
    let thread = std::thread::Builder::new().stack_size(stack).spawn(validate).expect("a thread");
    let told = thread.join().expect("it does not overflow");
    let at: String = "/0".repeat(PAYLOAD_DEPTH);
    assert_eq!(told, [format!("{at}: value is not of type \"array\"")]);
}
