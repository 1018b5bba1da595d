//! Values that know their lines, and the way from a path to a line.

use serde_json::Value;
use sluice_crds::shape;

/// A value and the line on which it begins.
#[derive(Clone, Debug)]
pub struct Node {
    /// From 1.
    pub line: usize,
    /// The value.
    pub content: Content,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub enum Content {
    /// Anything but a list or a mapping.
    Scalar(Value),
    /// A list.
    List(Vec<Node>),
    /// A mapping: key, the key's line, value.
    Mapping(Vec<(String, usize, Node)>),
}

impl Node {
    /// The value without its lines.
    pub fn value(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(items) => items.iter().map(Self::value).collect(),
            Content::Mapping(fields) => {
                Value::Object(fields.iter().map(|(key, _, node)| (key.clone(), node.value())).collect())
            }
        }
    }

    /// The field `name`, if this is a mapping that has it.
    pub fn field(&self, name: &str) -> Option<(usize, &Self)> {
        match &self.content {
            Content::Mapping(fields) => {
                fields.iter().find(|(key, _, _)| key == name).map(|(_, line, node)| (*line, node))
            }
            Content::Scalar(_) | Content::List(_) => None,
        }
    }

    /// The line of what stands at the path `at` (`spec.channels[2].address`), or of its nearest
    /// parent that exists.
    pub fn line_of(&self, at: &str) -> usize {
        let (mut node, mut line) = (self, self.line);
        for step in steps(at) {
            let next = match (&step, &node.content) {
                (Step::Index(index), Content::List(items)) => items.get(*index).map(|item| (item.line, item)),
                (Step::Field(name), _) => node.field(name),
                (Step::Quoted(name), Content::Mapping(fields)) => {
                    // Paths name long and hostile keys as messages do.
                    let named = |key: &str| quoted(key) == *name;
                    fields.iter().find(|(key, _, _)| named(key)).map(|(_, line, node)| (*line, node))
                }
                _ => None,
            };
            match next {
                Some(next) => (line, node) = next,
                None => break,
            }
        }
        line
    }
}

/// A key as it stands between brackets in a path.
fn quoted(key: &str) -> String {
    format!("{:?}", shape::clip(key))
}

/// One step of a path.
enum Step<'a> {
    Field(&'a str),
    /// With its quotes.
    Quoted(&'a str),
    Index(usize),
}

/// The steps of a path: `.field`, `[2]`, `["any text"]`, as far as it is one.
fn steps(at: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut rest = at;
    while !rest.is_empty() {
        let Some((step, after)) = step(rest) else { break };
        steps.push(step);
        rest = after;
    }
    steps
}

fn step(text: &str) -> Option<(Step<'_>, &str)> {
    if let Some(bracketed) = text.strip_prefix('[') {
        if bracketed.starts_with('"') {
            let end = end_of_quoted(bracketed)?;
            return Some((Step::Quoted(&bracketed[..end]), bracketed[end..].strip_prefix(']')?));
        }
        let (index, after) = bracketed.split_once(']')?;
        return Some((Step::Index(index.parse().ok()?), after));
    }
    let name = text.strip_prefix('.').unwrap_or(text);
    let end = name.find(['.', '[']).unwrap_or(name.len());
    (end > 0).then(|| (Step::Field(&name[..end]), &name[end..]))
}

/// Where the quoted text at the beginning of `text` ends, its closing quote included.
fn end_of_quoted(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (index, character) in text.char_indices().skip(1) {
        match character {
            '"' if !escaped => return Some(index + 1),
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    None
}
