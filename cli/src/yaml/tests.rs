use std::time::Duration;

use serde_json::json;

use super::*;

fn one(text: &str) -> Document {
    let documents = parse(text).expect("parses");
    assert_eq!(documents.len(), 1, "{documents:?}");
    documents.into_iter().next().expect("one")
}

/// What no file may cost to be refused.
pub const BUDGET: Duration = Duration::from_millis(200);

/// Time this thread ran: a machine that is busy otherwise does not count.
pub fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a Linux with procfs");
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("nanoseconds on the CPU come first"))
}

/// A whole file, piece by piece.
pub fn parse(text: &str) -> Result<Vec<Document>, Unparsable> {
    let (mut documents, mut cost) = (Vec::new(), Cost::default());
    for (above, piece) in split(text)? {
        documents.append(&mut super::parse(piece, above, &mut cost)?);
    }
    Ok(documents)
}

fn refused(text: &str) -> Unparsable {
    let begun = cpu_time();
    let error = parse(text).expect_err("is refused");
    let took = cpu_time() - begun;
    assert!(took < BUDGET, "{took:?}");
    error
}

#[test]
fn a_tree_knows_its_lines() {
    let text = "a:\n  b: [1,\n    two]\nc:\n- d: x\n\n  e: {f: g}\n\"h.i\": j\n";
    let document = one(text);
    assert_eq!(
        document.root.value(),
        json!({"a": {"b": [1, "two"]}, "c": [{"d": "x", "e": {"f": "g"}}], "h.i": "j"})
    );
    for (at, line) in [
        ("", 1),
        ("a", 1),
        ("a.b", 2),
        ("a.b[1]", 3),
        ("a.missing.deeper", 1),
        ("c[0].e.f", 7),
        ("c[9].e", 4),
        ("[\"h.i\"]", 8),
        ("c[", 4),
        ("..", 1),
        ("[\"unclosed", 1),
    ] {
        assert_eq!(document.root.line_of(at), line, "{at}");
    }
}

#[test]
fn documents_are_separated_and_empty_ones_left_out() {
    let documents = parse("---\na: 1\n---\n# nothing\n---\nb: 2\n...\n").expect("parses");
    let values: Vec<_> = documents.iter().map(|document| document.root.value()).collect();
    assert_eq!(values, [json!({"a": 1}), json!({"b": 2})]);
    assert!(parse("# only words\n").expect("parses").is_empty());
}

#[test]
fn json_is_read_too() {
    let document = one("{\n\t\"a\": [1, 2.5, true, null, \"\\u00e9\\n\"],\n\t\"b\": {\"c\": {}}\n}\n");
    assert_eq!(document.root.value(), json!({"a": [1, 2.5, true, null, "é\n"], "b": {"c": {}}}));
    assert_eq!(document.root.line_of("b.c"), 3);
}

#[test]
fn what_is_ambiguous_is_a_problem_of_its_document_only() {
    let text =
        "a: {b: 1}\na: 2\nc:\n- d: 1\n  d: 2\n---\n<<: {x: 1}\ne: !!binary aGk=\nf: !Ref x\n---\ng: 1\n";
    let documents = parse(text).expect("parses");
    let found: Vec<_> = documents
        .iter()
        .flat_map(|document| &document.problems)
        .map(|(line, problem)| format!("{line}: {problem}"))
        .collect();
    assert_eq!(
        found,
        [
            "2: a: is set on line 1 already; keep one of the two",
            "5: c[0].d: is set on line 4 already; keep one of the two",
            "7: [\"<<\"]: merge keys are not used here; write the fields out",
            "8: e: has a tag that is not used here; remove the tag",
            "9: f: has a tag that is not used here; remove the tag",
        ]
    );
    assert!(documents[2].problems.is_empty());
    assert_eq!(documents[0].root.value()["a"], json!({"b": 1}));
}

#[test]
fn aliases_stand_for_what_they_name() {
    let document = one("a: &x {b: 1}\nc: *x\nd: &k key\ne: {*k : 2}\n");
    assert_eq!(document.root.value(), json!({"a": {"b": 1}, "c": {"b": 1}, "d": "key", "e": {"key": 2}}));
    assert_eq!(document.root.line_of("c"), 2);
}

#[test]
fn bombs_end_in_an_error_at_once() {
    let mut laughs = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for level in 1..=9 {
        let refs = vec![format!("*a{}", level - 1); 9].join(", ");
        laughs.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
    }
    let text = "x".repeat(1 << 20);
    let deep_flow = format!("a: {}", "[".repeat(100_000));
    let deep_block: String = (0..2000).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
    let keys: String = (0..200_000).map(|key| format!("k{key}: 1\n")).collect();
    let wide = format!("[{}]", "1,".repeat(150_000));
    let fat = format!("a: &a {text}\nb: [{}]\n", vec!["*a"; 1000].join(","));
    let anchors: String =
        (0..60).map(|n| format!("{}a: &a{n}\n", " ".repeat(n))).collect::<String>() + &" ".repeat(60) + &text;
    for (name, bomb) in [
        ("laughs", laughs),
        ("deep flow", deep_flow),
        ("deep block", deep_block),
        ("keys", keys),
        ("wide", wide),
        ("fat", fat),
        ("anchors", anchors),
        ("self", "a: &a [*a]".into()),
        ("huge", "x".repeat(MAX_BYTES + 1)),
    ] {
        let error = refused(&bomb);
        assert!(!error.message.is_empty() && error.line > 0, "{name}: {error:?}");
    }
}

#[test]
fn hostile_text_is_an_error_and_never_a_panic() {
    for text in [
        "\0",
        "a: \0",
        "a: b: c",
        "\ta: 1",
        "a:\n\t- b",
        "{",
        "[}",
        "a: *missing",
        "%YAML 9.9\n---\na: 1",
        "\"\\x\"",
        "? [a]\n: b",
        "a: 'unclosed",
        "- a\nb: c",
        "a: |9999999999\n x",
        "&a &b c: d",
        "\u{feff}\u{feff}a: 1",
    ] {
        if let Err(error) = parse(text) {
            assert!(!error.message.chars().any(char::is_control), "{text:?}: {error:?}");
        }
    }
    for text in ["a: 1", "\u{feff}a: 1", "a: \"\\0\"", "a: \u{202e}x", "'': 1", "\"\": {\"\": 1}"] {
        assert_eq!(parse(text).expect(text).len(), 1, "{text:?}");
    }
}

#[test]
fn a_file_is_split_where_its_documents_begin() {
    let pieces = |text| split(text).expect("short");
    assert_eq!(pieces("a: 1\n"), [(0, "a: 1\n")]);
    assert_eq!(
        pieces("---\na: 1\n--- # b\nb: 2\n---"),
        [(0, "---\na: 1\n"), (2, "--- # b\nb: 2\n"), (4, "---")]
    );
    assert_eq!(pieces("# words\r\n---\r\na: 1"), [(0, "# words\r\n"), (1, "---\r\na: 1")]);
    for whole in ["", "a: |\n  x\n ---\n", "---a: 1\n", "a: 1\n...\n---\nb: 2\n", "a: 1\r---\nb: 2\n---\n"] {
        assert_eq!(pieces(whole), [(0, whole)]);
    }
}

#[test]
fn lines_are_those_of_the_file() {
    let in_one = |text| super::parse(text, 0, &mut Cost::default());
    let text = "a: 1\n---\nb: 2\n---\nc: 3\nc: 4\n";
    let lines = |documents: Vec<Document>| -> Vec<(usize, Vec<(usize, Problem)>)> {
        documents.into_iter().map(|document| (document.root.line, document.problems)).collect()
    };
    assert_eq!(lines(parse(text).expect("YAML")), lines(in_one(text).expect("YAML")));
    let unfinished = "a: 1\n---\nb: [\n";
    assert_eq!(parse(unfinished).expect_err("no end"), in_one(unfinished).expect_err("no end"));
}

#[test]
fn all_pieces_together_are_bounded() {
    let piece = format!("---\n[{}]\n", "1,".repeat(MAX_NODES / 10));
    assert!(parse(&piece.repeat(9)).is_ok());
    assert!(refused(&piece.repeat(10)).message.contains("split the file"));
}
