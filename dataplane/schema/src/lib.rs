//! Message schemas: JSON Schema as `message.payload` has it, compiled once, and payloads validated against it.
//!
//! Both sides may be hostile. A schema that would fetch, hang or take more than its share is refused with a
//! reason before it is compiled ([`vet`]); a payload costs its validation a bounded number of steps
//! ([`instance`]), and no value of it is ever repeated. No I/O. The only crate that knows `jsonschema`.

use std::fmt;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;
use sluice_config::channel::{Message, Payload, is_too_large};
use sluice_config::shown::{clip, clip_to};
use sluice_config::{Problem, StreamApiSpec};

use crate::instance::{Bounded, Costs, Instance, Run};
use crate::strict::Strict;

mod instance;
mod path;
mod pattern;
mod strict;
mod vet;

/// Problems listed of one schema.
const MAX_PROBLEMS: usize = 20;
/// Findings of a meta-schema that are looked at; it tells some of them several times.
const MAX_FINDINGS: usize = 500;
/// Violations listed of one payload.
pub const MAX_VIOLATIONS: usize = 10;
/// Longest place and longest message of a violation, and longest message of a problem, in characters.
const MAX_TEXT: usize = 200;
/// Deepest nesting of a payload. Together with the schemas that are applied to one value it bounds the stack.
const PAYLOAD_DEPTH: usize = 64;
/// Steps that validating a payload may take, and more for each of its bytes. A step is a look at a value.
const STEPS: u64 = 20_000;
const STEPS_PER_BYTE: u64 = 8;
/// Bytes of one compiled pattern, and of what one keeps to be fast.
const PATTERN_BYTES: usize = 2 << 20;
const PATTERN_CACHE_BYTES: usize = 256 << 10;

/// A compiled JSON Schema.
#[derive(Debug)]
pub struct Schema {
    validator: Validator<Bounded>,
    costs: Costs,
}

/// Where a payload does not fit its schema, and why; without the value that stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// JSON pointer (RFC 6901) of the place in the payload.
    pub at: String,
    /// What does not fit.
    pub message: String,
}

impl Violation {
    /// A violation at `at`, both cut to what may be told.
    pub fn new(at: &str, message: &str) -> Self {
        Self { at: clip_to(MAX_TEXT, at), message: clip_to(MAX_TEXT, message) }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.at.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.at, self.message)
        }
    }
}

impl Schema {
    /// Compiles `schema`, or tells why not; the places are paths inside the schema.
    pub fn compile(schema: &Payload) -> Result<Self, Vec<Problem>> {
        if is_too_large(schema) {
            let message = format!("is over {} bytes as JSON", Message::PAYLOAD_BYTES);
            return Err(vec![Problem::new("", message)]);
        }
        let mut schema = schema.clone();
        // A name for others, who do not exist here: without it every reference is one to this document.
        schema.remove("$id");
        let schema = Value::Object(schema);
        let vetted = vet::vet(&schema)?;
        let told = |error: &ValidationError<'_>| problem(&schema, error);
        let meta = jsonschema::meta::validator_for(&schema).map_err(|error| vec![told(&error)])?;
        let mut problems = Vec::new();
        for found in meta.iter_errors(&schema).take(MAX_FINDINGS).map(|error| told(&error)) {
            if problems.len() < MAX_PROBLEMS && !problems.contains(&found) {
                problems.push(found);
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_CACHE_BYTES);
        let validator = jsonschema::options_for::<Bounded>()
            .with_draft(vetted.draft)
            .offline()
            .with_pattern_options(patterns)
            .should_validate_formats(true)
            // Whether a text is a pattern takes the square of the groups that it names to find out.
            .with_format("regex", |_: &str| true)
            .build(&schema)
            .map_err(|error| vec![told(&error)])?;
        Ok(Self { validator, costs: vetted.costs })
    }

    /// Whether `payload` is JSON that fits; else the first [`MAX_VIOLATIONS`] places where it does not.
    pub fn validate(&self, payload: &[u8]) -> Result<(), Vec<Violation>> {
        let one = |message: &str| vec![Violation::new("", message)];
        // What the parser says has no text of the payload in it.
        let Strict(value) =
            serde_json::from_slice(payload).map_err(|error| one(&format!("is not JSON: {error}")))?;
        if !is_within(&value, PAYLOAD_DEPTH) {
            return Err(one(&format!("is nested deeper than {PAYLOAD_DEPTH} levels")));
        }
        let steps = STEPS + STEPS_PER_BYTE * payload.len() as u64;
        let run = Run::new(steps, self.costs);
        let fits = self.validator.is_valid(Instance::new(&value, &run));
        match (run.is_exhausted(), fits) {
            (true, _) => Err(one("takes too many steps to validate; send less at once")),
            (false, true) => Ok(()),
            (false, false) => Err(self.violations(&value, steps)),
        }
    }

    fn violations(&self, value: &Value, steps: u64) -> Vec<Violation> {
        let run = Run::new(steps, self.costs);
        let errors = self.validator.iter_errors(Instance::new(value, &run));
        let told = errors.filter(|error| !instance::is_late(error.instance())).take(MAX_VIOLATIONS);
        let mut violations: Vec<Violation> =
            told.map(|error| Violation::new(error.instance_path().as_str(), &message(&error))).collect();
        if violations.is_empty() {
            violations.push(Violation::new("", "does not fit"));
        }
        violations
    }
}

/// The problems of every channel's `message.payload`. One that is too large is told by
/// [`sluice_config::check::check_api`].
pub fn check(spec: &StreamApiSpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, channel) in spec.channels.iter().enumerate() {
        let payload = channel.message.payload.as_ref().filter(|payload| !is_too_large(payload));
        if let Some(Err(found)) = payload.map(Schema::compile) {
            problems.extend(below(index, found));
        }
    }
    problems
}

/// Problems of a schema as problems of the API whose channel number `index` has it.
pub fn below(index: usize, problems: Vec<Problem>) -> impl Iterator<Item = Problem> {
    let at = format!("spec.channels[{index}].message.payload");
    problems.into_iter().map(move |problem| Problem::new(path::below(&at, &problem.at), problem.message))
}

/// Whether `value` has at most so many levels.
fn is_within(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels > 0 && items.iter().all(|item| is_within(item, levels - 1)),
        Value::Object(members) => levels > 0 && members.values().all(|member| is_within(member, levels - 1)),
        _ => true,
    }
}

/// What a schema is told of itself.
fn problem(schema: &Value, error: &ValidationError<'_>) -> Problem {
    let shown = clip(&error.instance().to_string());
    let message = clip_to(MAX_TEXT, &error.masked_with(shown).to_string());
    Problem::new(path::of(schema, error.instance_path().as_str()), message)
}

/// What a publisher is told: by the schema's words, for values stay out of it.
fn message(error: &ValidationError<'_>) -> String {
    match error.kind() {
        ValidationErrorKind::AdditionalItems { limit } => format!("has more than {limit} items"),
        ValidationErrorKind::FalseSchema => "is not allowed".to_owned(),
        ValidationErrorKind::PropertyNames { error } => {
            format!("the name of a property does not fit: {}", message(error))
        }
        _ => error.masked().to_string(),
    }
}

#[cfg(test)]
mod tests;
