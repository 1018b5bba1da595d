//! Documents: what files say, object by object, with the lines to tell problems by.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sluice_config::Problem;
use sluice_crds::shape;
use sluice_operator::read::{self, Object};
use sluice_operator::{Kind, Objects, Refusal, Unread};

use crate::yaml::{self, Content, Cost, Node, Unparsable};

/// One object as a file has it.
#[derive(Clone)]
pub struct Document(Arc<Read>);

/// What a document says.
struct Read {
    file: Arc<str>,
    node: Node,
    object: Result<Object, Box<Unread>>,
    /// Lines of problems that have no node of their own.
    lines: Vec<(String, usize)>,
}

/// A problem and where it stands: `file:line: at: message`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Report {
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1; 0 if the file could not be read.
    pub line: usize,
    /// Path inside the object.
    pub at: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A directory may hold names that a terminal would obey.
        f.write_str(&shape::clip_to(300, &self.file))?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.at.is_empty() {
            write!(f, ": {}", self.at)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl Report {
    /// A problem of a whole file.
    pub fn of_file(file: &Path, line: usize, message: impl Into<String>) -> Self {
        Self { file: file.display().to_string(), line, at: String::new(), message: message.into() }
    }
}

/// Reads the documents of a file. An object without a namespace belongs to `namespace`.
pub fn parse(file: &str, text: &str, namespace: &str) -> Result<Vec<Document>, Unparsable> {
    parse_again(file, text, namespace, &mut Known::default())
}

/// The documents of a file by place and words, and what reading them cost.
pub type Known = HashMap<(usize, [u8; 32]), (Vec<Document>, Cost)>;

/// The same for a file that was read before: what still says the same in the same place is not read
/// again, so that a change costs what it changes. `known` is brought up to date once all is read: what
/// cannot be parsed is about to be mended.
pub fn parse_again(
    file: &str,
    text: &str,
    namespace: &str,
    known: &mut Known,
) -> Result<Vec<Document>, Unparsable> {
    let file: Arc<str> = file.into();
    let (mut documents, mut now, mut cost) = (Vec::new(), Known::new(), Cost::default());
    for (above, piece) in yaml::split(text)? {
        let key = (above, Sha256::digest(piece).into());
        let piece = match known.get(&key) {
            Some(before) => {
                cost.add(before.1, above + 1)?;
                before.clone()
            }
            None => {
                let before = cost;
                let read = |document| Document::read(Arc::clone(&file), document, namespace);
                let parsed = yaml::parse(piece, above, &mut cost)?;
                (parsed.into_iter().flat_map(items).map(read).collect(), cost.since(before))
            }
        };
        documents.extend(piece.0.iter().cloned());
        now.insert(key, piece);
    }
    *known = now;
    Ok(documents)
}

/// A List's items stand for themselves, also in a List of Lists.
fn items(document: yaml::Document) -> Vec<yaml::Document> {
    let kind = document.root.field("kind").map(|(_, kind)| kind.value());
    if !kind.as_ref().and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List")) {
        return vec![document];
    }
    let yaml::Document { root, problems } = document;
    let nodes = match root.field("items").map(|(_, items)| &items.content) {
        Some(Content::List(nodes)) => nodes,
        None => return Vec::new(),
        Some(_) => {
            let problem = (root.line, Problem::new("items", "must be a list; write one `- …` a line"));
            return vec![yaml::Document { root, problems: vec![problem] }];
        }
    };
    let each = nodes.iter().enumerate().flat_map(|(index, node)| {
        // A problem of the List itself may hide any item, so it is one of all items.
        let own = |(line, problem): &(usize, Problem)| {
            let rest = match problem.at.strip_prefix("items[").and_then(|rest| rest.split_once(']')) {
                Some((number, rest)) if number == index.to_string() => rest.trim_start_matches('.'),
                Some(_) => return None,
                None => "",
            };
            Some((*line, Problem::new(rest, problem.message.clone())))
        };
        items(yaml::Document { root: node.clone(), problems: problems.iter().filter_map(own).collect() })
    });
    each.collect()
}

impl Document {
    fn read(file: Arc<str>, document: yaml::Document, namespace: &str) -> Self {
        let yaml::Document { root: node, problems } = document;
        let value = node.value();
        let lines = problems.iter().map(|(line, problem)| (problem.at.clone(), *line)).collect();
        let found: Vec<_> = problems.into_iter().map(|(_, problem)| problem).collect();
        let mut object = read::read(value.clone(), namespace);
        if !found.is_empty() {
            let more = object.err().map(|unread| unread.problems).unwrap_or_default();
            let more = more
                .into_iter()
                .filter(|more| found.iter().all(|told| told.at != more.at && told.at != "items"));
            let problems = found.iter().cloned().chain(more).collect();
            object = Err(read::unread(&value, read::guess_kind(&value), namespace, problems));
        }
        Self(Arc::new(Read { file, node, object, lines }))
    }

    /// The problem with the place where it stands.
    pub fn report(&self, problem: &Problem) -> Report {
        let noted = self.0.lines.iter().find(|(at, _)| *at == problem.at).map(|(_, line)| *line);
        Report {
            file: self.0.file.to_string(),
            line: noted.unwrap_or_else(|| self.0.node.line_of(&problem.at)),
            at: problem.at.clone(),
            message: problem.message.clone(),
        }
    }

    /// Kind, namespace and name of what was understood.
    fn identity(&self) -> Option<(Kind, &str, &str)> {
        let (kind, metadata) = match self.0.object.as_ref().ok()? {
            Object::Api(api) => (Kind::StreamApi, &api.metadata),
            Object::Gateway(gateway) => (Kind::StreamGateway, &gateway.metadata),
            Object::Policy(policy) => (Kind::StreamPolicy, &policy.metadata),
            Object::Secret(secret) => (Kind::Secret, &secret.metadata),
            Object::Unused(_) => return None,
        };
        let ObjectMeta { namespace, name, .. } = metadata;
        Some((kind, namespace.as_deref().unwrap_or_default(), name.as_deref().unwrap_or_default()))
    }
}

/// All documents together.
pub struct Assembled {
    /// The objects, each once.
    pub objects: Objects,
    /// Problems of documents that could not be understood or stand twice.
    pub reports: Vec<Report>,
}

/// Puts the documents together. What stands twice and differs is ambiguous: of two StreamAPIs the
/// first is served, of two StreamPolicies or Secrets neither is trusted.
pub fn assemble<'a>(documents: impl Iterator<Item = &'a Document>) -> Assembled {
    let mut seen: BTreeMap<(Kind, &str, &str), &Document> = BTreeMap::new();
    let mut assembled = Assembled { objects: Objects::default(), reports: Vec::new() };
    for document in documents {
        if let Some(identity) = document.identity() {
            if let Some(first) = seen.get(&identity) {
                assembled.repeat(first, document, identity);
                continue;
            }
            seen.insert(identity, document);
        }
        assembled.take(document);
    }
    assembled
}

impl Assembled {
    fn take(&mut self, document: &Document) {
        match &document.0.object {
            Ok(Object::Api(api)) => self.objects.apis.push((**api).clone()),
            Ok(Object::Gateway(gateway)) => self.objects.gateways.push((**gateway).clone()),
            Ok(Object::Policy(policy)) => self.objects.policies.push((**policy).clone()),
            Ok(Object::Secret(secret)) => self.objects.secrets.push((**secret).clone()),
            Ok(Object::Unused(_)) => {}
            Err(unread) => {
                self.reports.extend(unread.problems.iter().map(|problem| document.report(problem)));
                self.objects.unread.push((**unread).clone());
            }
        }
    }

    fn repeat(&mut self, first: &Document, second: &Document, identity: (Kind, &str, &str)) {
        let (kind, namespace, name) = identity;
        let place = format!("{}:{}", shape::clip_to(300, &first.0.file), first.0.node.line);
        let message = format!("{kind} `{namespace}/{name}` stands at {place} too; remove one of them");
        let problem = Problem::new("metadata.name", message);
        self.reports.push(second.report(&problem));
        // Moving a document from file to file leaves it in both for a moment.
        if first.0.object == second.0.object || kind == Kind::StreamApi {
            return;
        }
        let targets = match &second.0.object {
            Ok(Object::Policy(policy)) => Some(policy.spec.0.target_refs.clone()),
            _ => None,
        };
        self.objects.unread.push(Unread {
            kind,
            namespace: Some(namespace.into()),
            name: Some(name.into()),
            problems: vec![problem],
            targets,
        });
    }
}

/// The refusals with the places where they stand.
pub fn reports<'a>(documents: impl Iterator<Item = &'a Document>, refused: &[Refusal]) -> Vec<Report> {
    let mut reports = Vec::new();
    let by_identity = documents.filter_map(|document| Some((document.identity()?, document)));
    let mut first: BTreeMap<_, &Document> = BTreeMap::new();
    for (identity, document) in by_identity {
        first.entry(identity).or_insert(document);
    }
    for refusal in refused {
        if let Some(document) = first.get(&(refusal.kind, refusal.namespace.as_str(), refusal.name.as_str()))
        {
            reports.extend(refusal.problems.iter().map(|problem| document.report(problem)));
        }
    }
    reports
}

/// What a file that never could be read or parsed may have held: if it speaks of a policy, or if
/// what it speaks of cannot be told, a policy that nobody can read, which closes everything.
pub fn suspicion(bytes: Option<&[u8]>, problem: Problem) -> Option<Unread> {
    let names_policy = bytes.is_none_or(|bytes| {
        // UTF-16 has a NUL beside each ASCII letter.
        let letters: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0).collect();
        let text = String::from_utf8_lossy(&letters);
        text.contains(Kind::StreamPolicy.name()) || text.contains("targetRefs")
    });
    names_policy.then(|| Unread {
        kind: Kind::StreamPolicy,
        namespace: None,
        name: None,
        problems: vec![problem],
        targets: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_read_again() {
        let secret = |name: &str| {
            format!("---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{}}\n")
        };
        let text = |names: [&str; 3]| names.map(secret).concat();
        let mut known = Known::new();
        let mut read = |text: &str| parse_again("a.yaml", text, "default", &mut known).expect("YAML");
        let before = read(&text(["a", "b", "c"]));
        let after = read(&text(["a", "d", "c"]));
        let same = |index: usize| Arc::ptr_eq(&before[index].0, &after[index].0);
        assert_eq!([same(0), same(1), same(2)], [true, false, true]);
        assert_eq!(after[1].identity().map(|(_, _, name)| name), Some("d"));
        let shifted = read(&format!("# one more line\n{}", text(["a", "d", "c"])));
        let line = |document: &Document| document.report(&Problem::new("metadata.name", "")).line;
        assert_eq!(shifted.iter().map(line).collect::<Vec<_>>(), [5, 10, 15]);
        let twice = text(["a", "a", "a"]);
        assert_eq!(read(&twice).iter().map(line).collect::<Vec<_>>(), [4, 9, 14]);
    }
}
