//! Reads YAML (and JSON, which is YAML) into trees that know their lines.
//!
//! Within budgets: a bomb ends in an error, not in memory. What makes a document ambiguous
//! (duplicate and merge keys, foreign tags) is a problem of that document; what cannot be parsed is
//! an error of the whole file, because where the rest begins cannot be told.

use std::collections::HashMap;
use std::rc::Rc;

use granit_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::Value;
use sluice_config::Problem;
use sluice_crds::shape;

mod node;
mod scalar;

pub use node::{Content, Node};

/// Longest file.
pub const MAX_BYTES: usize = 4 << 20;
/// Deepest nesting.
pub const MAX_DEPTH: usize = 64;
/// Most nodes in a file, those that aliases stand for included.
pub const MAX_NODES: usize = 100_000;
/// Most bytes of text that aliases stand for.
const MAX_ALIAS_BYTES: usize = MAX_BYTES;
/// Problems listed of one document.
const MAX_PROBLEMS: usize = 100;

/// A file that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unparsable {
    /// Where it was noticed.
    pub line: usize,
    /// What to do about it.
    pub message: String,
}

/// One document of a file.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its root.
    pub root: Node,
    /// What makes it ambiguous, each with its line.
    pub problems: Vec<(usize, Problem)>,
}

/// The documents of a file, each with the number of lines above it. A line that begins with `---`
/// begins one, whatever stands before (YAML 1.2.2 §9.1.2); what ends documents in other ways stays
/// in one piece.
pub fn split(text: &str) -> Result<Vec<(usize, &str)>, Unparsable> {
    if text.len() > MAX_BYTES {
        let message = format!("has {} bytes; at most {MAX_BYTES} are read", text.len());
        return Err(Unparsable { line: 1, message });
    }
    let (mut pieces, mut begun, mut above, mut at) = (Vec::new(), 0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let breaks_within =
            line.trim_end_matches(['\r', '\n']).contains(['\r', '\u{85}', '\u{2028}', '\u{2029}']);
        if line.starts_with("...") || breaks_within {
            return Ok(vec![(0, text)]);
        }
        let is_marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if is_marker && at > begun {
            pieces.push((above, &text[begun..at]));
            (begun, above) = (at, number);
        }
        at += line.len();
    }
    pieces.push((above, &text[begun..]));
    Ok(pieces)
}

/// Parses a piece of a file that has so many lines above it; empty documents are left out. `cost` is
/// what the pieces before cost, and grows by this one's.
pub fn parse(text: &str, above: usize, cost: &mut Cost) -> Result<Vec<Document>, Unparsable> {
    let mut options = granit_parser::options! {
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
        disallow_directives: true,
    };
    options.set_emit_comments(false);
    let mut builder = Builder { cost: *cost, ..Builder::default() };
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| Unparsable {
            line: above + error.marker().line(),
            message: format!("is not YAML: {}", shape::clip_to(200, &error.info())),
        })?;
        builder.take(event, above + span.start.line())?;
    }
    *cost = builder.cost;
    Ok(builder.documents)
}

/// Makes trees of events.
#[derive(Default)]
struct Builder {
    documents: Vec<Document>,
    root: Option<Node>,
    problems: Vec<(usize, Problem)>,
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    cost: Cost,
}

/// What a file costs to hold; bounded over all its pieces together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    nodes: usize,
    alias_bytes: usize,
}

impl Cost {
    /// What was added since `before`.
    pub const fn since(self, before: Self) -> Self {
        Self { nodes: self.nodes - before.nodes, alias_bytes: self.alias_bytes - before.alias_bytes }
    }

    /// Adds what a piece costs.
    pub fn add(&mut self, more: Self, line: usize) -> Result<(), Unparsable> {
        self.nodes += more.nodes;
        self.alias_bytes += more.alias_bytes;
        if self.nodes > MAX_NODES || self.alias_bytes > MAX_ALIAS_BYTES {
            let message = format!("has more than {MAX_NODES} values, aliases counted out; split the file");
            return Err(Unparsable { line, message });
        }
        Ok(())
    }
}

/// A list or mapping that is being read.
struct Open {
    line: usize,
    anchor: usize,
    content: Content,
    /// The lines of the keys that stand in it.
    seen: HashMap<String, usize>,
    /// The key whose value comes next.
    key: Option<Key>,
}

/// A key whose value comes next.
struct Key {
    text: String,
    line: usize,
    /// Of duplicates the first stays.
    again: bool,
}

/// What an anchor names, and what an alias of it costs.
struct Anchored {
    node: Rc<Node>,
    nodes: usize,
    bytes: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), Unparsable> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.cost.add(Cost { nodes: 1, alias_bytes: 0 }, line)?;
                if self.key_is_next() {
                    return self.key(&text, style, line);
                }
                let value = self.scalar(&text, style, tag.as_deref(), line);
                let node = Node { line, content: Content::Scalar(value) };
                self.complete(node, anchor, line)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.open(Content::List(Vec::new()), anchor, tag.as_deref(), line)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.open(Content::Mapping(Vec::new()), anchor, tag.as_deref(), line)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(()) };
                self.complete(Node { line: open.line, content: open.content }, open.anchor, line)
            }
            Event::Alias(anchor) => self.alias(anchor, line),
            Event::DocumentStart(..) => {
                self.anchors.clear();
                Ok(())
            }
            Event::DocumentEnd => {
                let problems = std::mem::take(&mut self.problems);
                if let Some(root) = self.root.take()
                    && !matches!(root.content, Content::Scalar(Value::Null))
                {
                    self.documents.push(Document { root, problems });
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn key_is_next(&self) -> bool {
        self.open.last().is_some_and(|open| matches!(open.content, Content::Mapping(_)) && open.key.is_none())
    }

    fn key(&mut self, text: &str, style: ScalarStyle, line: usize) -> Result<(), Unparsable> {
        let Some(open) = self.open.last_mut() else { return Ok(()) };
        let first = open.seen.get(text).copied();
        open.seen.entry(text.to_owned()).or_insert(line);
        open.key = Some(Key { text: text.to_owned(), line, again: first.is_some() });
        if let Some(first) = first {
            let at = self.at();
            self.problem(line, at, format!("is set on line {first} already; keep one of the two"));
        } else if text == "<<" && style == ScalarStyle::Plain {
            let at = self.at();
            self.problem(line, at, "merge keys are not used here; write the fields out");
        }
        Ok(())
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, line: usize) -> Value {
        let resolved = scalar::resolve(text, style == ScalarStyle::Plain, tag);
        resolved.unwrap_or_else(|message| {
            let at = self.at();
            self.problem(line, at, message);
            Value::Null
        })
    }

    fn open(
        &mut self,
        content: Content,
        anchor: usize,
        tag: Option<&Tag>,
        line: usize,
    ) -> Result<(), Unparsable> {
        self.cost.add(Cost { nodes: 1, alias_bytes: 0 }, line)?;
        if self.key_is_next() {
            return Err(Unparsable { line, message: "has a list or mapping as a key; write text".into() });
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(Unparsable { line, message: format!("is nested deeper than {MAX_DEPTH}") });
        }
        if tag.is_some_and(|tag| !matches!(tag.core_suffix(), Some("map" | "seq"))) {
            let at = self.at();
            self.problem(line, at, scalar::FOREIGN_TAG);
        }
        self.open.push(Open { line, anchor, content, seen: HashMap::new(), key: None });
        Ok(())
    }

    fn alias(&mut self, anchor: usize, line: usize) -> Result<(), Unparsable> {
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err(Unparsable { line, message: "has an alias inside of what it stands for".into() });
        };
        let (node, nodes, bytes) = (Rc::clone(&anchored.node), anchored.nodes, anchored.bytes);
        self.cost.add(Cost { nodes, alias_bytes: bytes }, line)?;
        if self.key_is_next() {
            let Content::Scalar(Value::String(text)) = &node.content else {
                return Err(Unparsable { line, message: "has a key that is not text; write text".into() });
            };
            return self.key(text, ScalarStyle::DoubleQuoted, line);
        }
        let mut node = Node::clone(&node);
        node.line = line;
        self.complete(node, 0, line)
    }

    /// Puts a finished node where it belongs.
    fn complete(&mut self, node: Node, anchor: usize, line: usize) -> Result<(), Unparsable> {
        if anchor != 0 {
            let (mut nodes, mut bytes) = (0, 0);
            measure(&node, &mut nodes, &mut bytes);
            // The copy that is kept counts like an alias: many anchors on one tree cost too.
            self.cost.add(Cost { nodes, alias_bytes: bytes }, line)?;
            self.anchors.insert(anchor, Anchored { node: Rc::new(node.clone()), nodes, bytes });
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open { content: Content::List(items), .. }) => items.push(node),
            Some(Open { content: Content::Mapping(fields), key, .. }) => {
                if let Some(key) = key.take().filter(|key| !key.again) {
                    fields.push((key.text, key.line, node));
                }
            }
            Some(Open { content: Content::Scalar(_), .. }) => {}
        }
        Ok(())
    }

    fn problem(&mut self, line: usize, at: String, message: impl Into<String>) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push((line, Problem::new(at, message)));
        }
    }

    /// The path of what is being read.
    fn at(&self) -> String {
        let mut at = String::new();
        for open in &self.open {
            match (&open.content, &open.key) {
                (Content::List(items), _) => at.push_str(&format!("[{}]", items.len())),
                (_, Some(key)) => push_field(&mut at, &key.text),
                (_, None) => {}
            }
        }
        at
    }
}

fn push_field(at: &mut String, name: &str) {
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')) {
        if !at.is_empty() {
            at.push('.');
        }
        at.push_str(&shape::clip(name));
    } else {
        at.push_str(&format!("[{:?}]", shape::clip(name)));
    }
}

fn measure(node: &Node, nodes: &mut usize, bytes: &mut usize) {
    *nodes += 1;
    match &node.content {
        Content::Scalar(Value::String(text)) => *bytes += text.len(),
        Content::Scalar(_) => {}
        Content::List(items) => items.iter().for_each(|item| measure(item, nodes, bytes)),
        Content::Mapping(fields) => {
            for (key, _, value) in fields {
                *bytes += key.len();
                measure(value, nodes, bytes);
            }
        }
    }
}

#[cfg(test)]
pub mod tests;
