//! What is refused of a schema before it is compiled: references that would fetch or never end, and what would
//! cost compiling or validating too much. What a draft asks of a schema is for the draft's own meta-schema.
//!
//! A schema is read as a graph. Its places are objects that are schemas; from one to the next leads either a
//! step into the value (`properties`) or none (`allOf`, `$ref`): the latter are what can repeat without end.

use std::collections::HashMap;

use jsonschema::Draft;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};
use sluice_config::Problem;
use sluice_config::shown::clip;

use crate::instance::Costs;
use crate::pattern::Patterns;
use crate::{MAX_PROBLEMS, is_within, path};

/// Deepest nesting of a schema as JSON.
const MAX_NESTING: usize = 48;
/// Schemas that may be applied to one value, counted as often as they are.
const MAX_APPLIED: u64 = 2000;
/// How many of them one through the other.
const MAX_CHAIN: usize = 16;
/// Words that bend what `$ref` means.
const BENDING: [&str; 4] = ["$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor"];
const TYPES: [&str; 7] = ["null", "boolean", "object", "array", "number", "integer", "string"];

/// What is known of a schema that may be compiled.
#[derive(Debug)]
pub(crate) struct Vetted {
    pub(crate) draft: Draft,
    pub(crate) costs: Costs,
}

/// Looks through `root`, an object.
pub(crate) fn vet(root: &Value) -> Result<Vetted, Vec<Problem>> {
    if !is_within(root, MAX_NESTING) {
        let message = format!("is nested deeper than {MAX_NESTING} levels; give parts names under `$defs`");
        return Err(vec![Problem::new("", message)]);
    }
    let draft = draft_of(root).map_err(|problem| vec![problem])?;
    let mut walk = Walk {
        root,
        draft,
        places: Vec::new(),
        known: HashMap::new(),
        anchors: HashMap::new(),
        references: Vec::new(),
        patterns: Patterns::default(),
        problems: Vec::new(),
    };
    walk.all();
    let names = walk.weigh();
    if !walk.problems.is_empty() {
        return Err(walk.problems);
    }
    let costs = Costs {
        text: walk.patterns.largest.max(1),
        names: walk.patterns.states.saturating_add(names).saturating_add(1),
    };
    Ok(Vetted { draft, costs })
}

fn draft_of(root: &Value) -> Result<Draft, Problem> {
    let uri = match root.get("$schema") {
        None => return Ok(Draft::Draft202012),
        Some(uri) => uri.as_str().unwrap_or_default(),
    };
    match Draft::from_schema_uri(uri) {
        known @ (Draft::Draft7 | Draft::Draft201909 | Draft::Draft202012) => Ok(known),
        _ => {
            let message = format!(
                "`{}` is not known here; write https://json-schema.org/draft/2020-12/schema, \
                 https://json-schema.org/draft/2019-09/schema or http://json-schema.org/draft-07/schema#",
                clip(uri)
            );
            Err(Problem::new("$schema", message))
        }
    }
}

/// An object that is a schema.
struct Place<'a> {
    /// Its path.
    at: String,
    schema: &'a Map<String, Value>,
    /// Places that are applied to the same value.
    applied: Vec<usize>,
    /// Places that are applied to names of the value's properties.
    names: Vec<usize>,
}

/// How a keyword's schemas are applied.
enum Reach {
    /// To the value itself.
    Same,
    /// To the names of its properties.
    Names,
    /// To what is in it, or only where something refers to them.
    Deeper,
}

/// How a keyword holds its schemas.
enum Form {
    /// One, or a list of them.
    Plain,
    /// By name.
    Named,
}

fn keyword(name: &str) -> Option<(Reach, Form)> {
    Some(match name {
        "allOf" | "anyOf" | "oneOf" | "not" | "if" | "then" | "else" => (Reach::Same, Form::Plain),
        "dependentSchemas" | "dependencies" => (Reach::Same, Form::Named),
        "propertyNames" => (Reach::Names, Form::Plain),
        "items"
        | "prefixItems"
        | "additionalItems"
        | "unevaluatedItems"
        | "contains"
        | "contentSchema"
        | "additionalProperties"
        | "unevaluatedProperties" => (Reach::Deeper, Form::Plain),
        "properties" | "patternProperties" | "$defs" | "definitions" => (Reach::Deeper, Form::Named),
        _ => return None,
    })
}

/// The schemas in the value of a keyword at `at`, each with its path and, if it has one, its name.
fn parts<'a>(at: &str, form: &Form, value: &'a Value) -> Vec<(String, Option<&'a str>, &'a Value)> {
    match (form, value) {
        (Form::Named, Value::Object(members)) => {
            let part =
                |(name, value): (&'a String, &'a Value)| (path::field(at, name), Some(name.as_str()), value);
            members.iter().map(part).collect()
        }
        (Form::Plain, Value::Array(items)) => {
            items.iter().enumerate().map(|(index, value)| (path::item(at, index), None, value)).collect()
        }
        (_, value) => vec![(at.to_owned(), None, value)],
    }
}

struct Walk<'a> {
    root: &'a Value,
    draft: Draft,
    places: Vec<Place<'a>>,
    known: HashMap<*const Map<String, Value>, usize>,
    anchors: HashMap<&'a str, usize>,
    /// References that were met and not followed yet, and whose they are.
    references: Vec<(usize, &'a str)>,
    patterns: Patterns<'a>,
    problems: Vec<Problem>,
}

impl<'a> Walk<'a> {
    /// Visits every place that can be reached.
    fn all(&mut self) {
        self.add(String::new(), self.root);
        let mut next = 0;
        loop {
            while next < self.places.len() {
                self.visit(next);
                next += 1;
            }
            // Now every anchor is known.
            let references = std::mem::take(&mut self.references);
            if references.is_empty() {
                return;
            }
            for (place, reference) in references {
                match self.target(reference) {
                    Ok(Some(target)) => self.places[place].applied.push(target),
                    // What allows or forbids everything applies nothing.
                    Ok(None) => {}
                    Err(why) => self.tell(path::field(&self.places[place].at, "$ref"), why),
                }
            }
        }
    }

    fn tell(&mut self, at: String, message: impl Into<String>) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem::new(at, message));
        }
    }

    /// The place that `value` is, if it is an object.
    fn add(&mut self, at: String, value: &'a Value) -> Option<usize> {
        let Value::Object(schema) = value else { return None };
        let next = self.places.len();
        let place = *self.known.entry(std::ptr::from_ref(schema)).or_insert(next);
        if place == next {
            self.places.push(Place { at, schema, applied: Vec::new(), names: Vec::new() });
        }
        Some(place)
    }

    fn visit(&mut self, place: usize) {
        let (schema, at) = (self.places[place].schema, self.places[place].at.clone());
        self.check_identity(place, &at, schema);
        self.check_type(&at, schema);
        if let Some(Value::String(reference)) = schema.get("$ref") {
            if reference.starts_with('#') {
                self.references.push((place, reference.as_str()));
            } else {
                let message = format!(
                    "`{}` leads out of this schema, and nothing is ever fetched; put what it means under `$defs` \
                     and write #/$defs/…",
                    clip(reference)
                );
                self.tell(path::field(&at, "$ref"), message);
            }
            // To draft-07 nothing stands beside a reference.
            if self.draft == Draft::Draft7 {
                return;
            }
        }
        if let Some(Value::String(pattern)) = schema.get("pattern") {
            self.check_pattern(path::field(&at, "pattern"), pattern);
        }
        for (name, value) in schema {
            let Some((reach, form)) = keyword(name) else { continue };
            for (at, pattern, value) in parts(&path::field(&at, name), &form, value) {
                if let Some(pattern) = pattern.filter(|_| name == "patternProperties") {
                    self.check_pattern(at.clone(), pattern);
                }
                let Some(inner) = self.add(at, value) else { continue };
                match reach {
                    Reach::Same => self.places[place].applied.push(inner),
                    Reach::Names => self.places[place].names.push(inner),
                    Reach::Deeper => {}
                }
            }
        }
    }

    /// What gives places names, so that references mean what they say.
    fn check_identity(&mut self, place: usize, at: &str, schema: &'a Map<String, Value>) {
        for word in ["$id", "$schema"] {
            if place > 0 && schema.contains_key(word) {
                self.tell(path::field(at, word), "stands only at the top of a schema; remove it here");
            }
        }
        for word in BENDING {
            if schema.contains_key(word) {
                self.tell(path::field(at, word), "is not supported; write `$ref` and `$defs`");
            }
        }
        if let Some(Value::String(anchor)) = schema.get("$anchor")
            && self.draft != Draft::Draft7
        {
            self.anchors.insert(anchor, place);
        }
    }

    /// The meta-schema has no good words for the commonest slip.
    fn check_type(&mut self, at: &str, schema: &Map<String, Value>) {
        let named: Vec<&str> = match schema.get("type") {
            Some(Value::String(name)) => vec![name.as_str()],
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        for name in named {
            if !TYPES.contains(&name) {
                let message = format!("`{}` is not a type; write one of {}", clip(name), TYPES.join(", "));
                self.tell(path::field(at, "type"), message);
            }
        }
    }

    fn check_pattern(&mut self, at: String, pattern: &'a str) {
        if let Err(why) = self.patterns.add(pattern) {
            self.tell(at, why);
        }
    }

    /// The place that a reference into this document leads to, if that is an object.
    fn target(&mut self, reference: &str) -> Result<Option<usize>, String> {
        let shown = clip(reference);
        let Ok(fragment) = percent_decode_str(&reference[1..]).decode_utf8() else {
            return Err(format!("`{shown}` is not UTF-8 once %-escapes are read; correct it"));
        };
        if !fragment.is_empty() && !fragment.starts_with('/') {
            let place = self.anchors.get(&*fragment).copied();
            return place.map(Some).ok_or_else(|| {
                format!("`{shown}` names no `$anchor` of this schema; write one, or #/$defs/…")
            });
        }
        let root = self.root;
        match root.pointer(&fragment) {
            Some(value @ Value::Object(_)) => Ok(self.add(path::of(root, &fragment), value)),
            Some(Value::Bool(_)) => Ok(None),
            Some(_) => Err(format!("`{shown}` leads to what is not a schema; correct it")),
            None => Err(format!("`{shown}` leads to nothing in this schema; correct it")),
        }
    }

    /// Looks at what every place takes, and gives what the names of properties do.
    fn weigh(&mut self) -> u64 {
        let mut marks = vec![Mark::New; self.places.len()];
        let (mut unevaluated, mut names) = (0_u64, 0_u64);
        for place in 0..self.places.len() {
            let weight = match weight(&self.places, place, 0, &mut marks) {
                Ok(weight) => weight,
                Err(problem) => {
                    self.tell(problem.at, problem.message);
                    return 0;
                }
            };
            // Each of these looks through all that is applied beside it once more.
            let words = ["unevaluatedProperties", "unevaluatedItems"];
            if words.iter().any(|word| self.places[place].schema.contains_key(*word)) {
                unevaluated = unevaluated.saturating_add(weight.applied);
            }
            if unevaluated > MAX_APPLIED {
                let at = self.places[place].at.clone();
                let message =
                    "is one `unevaluated…` too many for so large a schema; write `additionalProperties`";
                self.tell(at, message);
                return 0;
            }
        }
        for place in &self.places {
            for inner in &place.names {
                if let Mark::Done(weight) = marks[*inner] {
                    names = names.saturating_add(weight.applied);
                }
            }
        }
        names
    }
}

/// What applying a place to one value takes.
#[derive(Clone, Copy)]
struct Weight {
    /// Schemas, itself among them, as often as they are applied.
    applied: u64,
    /// The longest way through them.
    chain: usize,
}

#[derive(Clone, Copy)]
enum Mark {
    New,
    Begun,
    Done(Weight),
}

fn weight(places: &[Place<'_>], place: usize, depth: usize, marks: &mut [Mark]) -> Result<Weight, Problem> {
    let refused = |message: String| Err(Problem::new(&places[place].at, message));
    match marks[place] {
        Mark::Done(weight) => return Ok(weight),
        Mark::Begun => {
            return refused(
                "leads back to itself for the same value and would never end; let a property or an item \
                 stand between"
                    .to_owned(),
            );
        }
        Mark::New => marks[place] = Mark::Begun,
    }
    let mut whole = Weight { applied: 1, chain: 0 };
    for inner in &places[place].applied {
        // Before it goes on: a way that is too long is not followed to its end.
        if depth < MAX_CHAIN {
            let part = weight(places, *inner, depth + 1, marks)?;
            whole.applied = whole.applied.saturating_add(part.applied);
            whole.chain = whole.chain.max(part.chain + 1);
        } else {
            whole.chain = MAX_CHAIN + 1;
        }
    }
    if whole.chain > MAX_CHAIN {
        return refused(format!(
            "applies more than {MAX_CHAIN} schemas, one through the other, to one value; join some of them"
        ));
    }
    if whole.applied > MAX_APPLIED {
        return refused(format!("applies more than {MAX_APPLIED} schemas to one value; join some of them"));
    }
    marks[place] = Mark::Done(whole);
    Ok(whole)
}
