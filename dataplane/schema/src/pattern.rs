//! Patterns before they are compiled: whether the engine of linear time can run them, and what they cost.

use std::collections::HashMap;

use regex_syntax::hir::{Class, Hir, HirKind};

/// Bytes that translating the patterns of a schema from ECMA-262 may read. Each class escape (`\d`) makes the
/// translator read its pattern once more, and each becomes up to this many bytes.
const MAX_WORK: usize = 1 << 20;
const ESCAPE_BYTES: usize = 140;
/// States of all patterns of a schema.
const MAX_STATES: u64 = 10_000;

/// The patterns of a schema.
#[derive(Default)]
pub(crate) struct Patterns<'a> {
    known: HashMap<&'a str, Result<(), String>>,
    work: usize,
    /// States of all of them.
    pub(crate) states: u64,
    /// States of the largest one.
    pub(crate) largest: u64,
}

impl<'a> Patterns<'a> {
    /// Adds `pattern`, or says why it cannot be used.
    pub(crate) fn add(&mut self, pattern: &'a str) -> Result<(), String> {
        if let Some(known) = self.known.get(pattern) {
            return known.clone();
        }
        let found = self.read(pattern);
        self.known.insert(pattern, found.clone());
        found
    }

    fn read(&mut self, pattern: &str) -> Result<(), String> {
        self.work = self.work.saturating_add(work(pattern));
        if self.work > MAX_WORK {
            return Err("is one pattern too many, or too long; write shorter ones".to_owned());
        }
        let translated = jsonschema_regex::to_rust_regex(pattern)
            .map_err(|()| "is not a pattern as ECMA-262 has it; correct it".to_owned())?;
        let read = regex_syntax::parse(&translated).map_err(|error| reason(&error))?;
        let states = states(&read);
        self.states = self.states.saturating_add(states);
        self.largest = self.largest.max(states);
        if self.states > MAX_STATES {
            return Err(
                "makes the patterns of this schema too large; write `maxLength` in place of counted repetitions"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

/// Bytes that translating `pattern` reads.
fn work(pattern: &str) -> usize {
    let (mut escapes, mut escaped) = (0_usize, false);
    for byte in pattern.bytes() {
        if escaped && matches!(byte, b'd' | b'D' | b'w' | b'W' | b's' | b'S' | b'c') {
            escapes += 1;
        }
        escaped = byte == b'\\' && !escaped;
    }
    (escapes + 1).saturating_mul(pattern.len() + escapes.saturating_mul(ESCAPE_BYTES))
}

fn reason(error: &regex_syntax::Error) -> String {
    let reason = match error {
        regex_syntax::Error::Parse(error) => error.kind().to_string(),
        regex_syntax::Error::Translate(error) => error.kind().to_string(),
        other => other.to_string(),
    };
    format!("is a pattern that cannot be used: {reason}")
}

/// States of the automaton, roughly: repetitions are written out. Nesting is bounded by the parser.
fn states(pattern: &Hir) -> u64 {
    match pattern.kind() {
        HirKind::Empty | HirKind::Look(_) => 1,
        HirKind::Literal(literal) => literal.0.len() as u64,
        // Characters are told apart byte by byte.
        HirKind::Class(Class::Unicode(class)) if !class.is_ascii() => 8 + class.ranges().len() as u64,
        HirKind::Class(_) => 1,
        HirKind::Repetition(repetition) => {
            let times = repetition.max.unwrap_or(repetition.min).max(1);
            states(&repetition.sub).saturating_mul(u64::from(times)).saturating_add(1)
        }
        HirKind::Capture(capture) => states(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => {
            parts.iter().fold(1, |sum: u64, part| sum.saturating_add(states(part)))
        }
    }
}
