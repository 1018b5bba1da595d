//! Loads files: what each says is kept, and all together become one [`Loaded`].
//!
//! A file that cannot be read or parsed changes nothing; a document that is gone counts only when
//! its file was parsed whole; a file that is gone takes its documents along.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use sluice_config::Problem;
use sluice_config::config::Config;
use sluice_config::placement::Placement;
use sluice_crds::StreamAPI;
use sluice_dataplane::{CursorKey, Loaded, Refused, TlsMaterial};
use sluice_operator::{Kind, Rendered, Unread};

use super::ObjectName;
use super::changes::{Change, changes};
use super::state::State;
use super::tls;
use super::watch::Changed;
use crate::documents::{self, Assembled, Document, Known, Report};
use crate::files::{self, Unreadable};

/// Keeps what the files said.
pub struct Loader {
    sources: Vec<PathBuf>,
    namespace: String,
    state: State,
    tls_secret: Option<ObjectName>,
    files: BTreeMap<PathBuf, FileState>,
    /// Problems of sources that cannot be listed.
    missing: Vec<Report>,
    keys: BTreeMap<String, Vec<CursorKey>>,
    tls: Option<TlsMaterial>,
    config: Config,
    told: BTreeSet<Report>,
}

/// What a file said when it could last be read.
#[derive(Default)]
struct FileState {
    digest: Option<[u8; 32]>,
    documents: Vec<Document>,
    known: Known,
    /// Why it says nothing new.
    problem: Option<Report>,
    /// Whether that is because there is nothing in it.
    is_empty: bool,
    /// What it may hold if it never could be parsed.
    suspicion: Option<Unread>,
}

/// What became of a load.
pub struct Update {
    /// What to serve.
    pub loaded: Arc<Loaded>,
    /// Problems that were not told before.
    pub problems: Vec<Report>,
    /// What is served differently.
    pub changes: Vec<Change>,
    /// APIs (`namespace/name`) that say where they run in a cluster.
    pub placed: BTreeSet<String>,
    /// Whether anything can be served.
    pub usable: bool,
}

/// Here everything runs in one process, so what a `placement` refers to need not be there.
fn take_placements(apis: &mut [StreamAPI]) -> BTreeSet<String> {
    let placed = apis.iter_mut().filter_map(|api| {
        if api.spec.0.placement == Placement::default() {
            return None;
        }
        Arc::make_mut(&mut api.spec.0).placement = Placement::default();
        let metadata = &api.metadata;
        let [namespace, name] =
            [&metadata.namespace, &metadata.name].map(|part| part.as_deref().unwrap_or_default());
        Some(format!("{namespace}/{name}"))
    });
    placed.collect()
}

impl Loader {
    /// Of `sources`; nothing is read yet.
    pub fn new(
        sources: Vec<PathBuf>,
        namespace: String,
        state: State,
        tls_secret: Option<ObjectName>,
    ) -> Self {
        Self {
            sources,
            namespace,
            state,
            tls_secret,
            files: BTreeMap::new(),
            missing: Vec::new(),
            keys: BTreeMap::new(),
            tls: None,
            config: Config::default(),
            told: BTreeSet::new(),
        }
    }

    /// Reads everything for the first time. A source that is not there may hold policies, so
    /// nothing is served then.
    pub fn start(&mut self) -> Update {
        self.refresh(&Changed::Anything);
        for (path, file) in &mut self.files {
            if let Some(problem) = file.problem.as_ref().filter(|_| !file.is_empty) {
                // There is no "before" that could go on: what may have been a policy closes all.
                let problem = Problem::new(problem.file.clone(), problem.message.clone());
                file.suspicion = documents::suspicion(files::peek(path).as_deref(), problem);
            }
        }
        let mut update = self.update();
        update.usable &= self.missing.is_empty();
        update
    }

    /// Reads what changed; `None` if that makes no difference.
    pub fn reload(&mut self, changed: &Changed) -> Option<Update> {
        self.refresh(changed).then(|| self.update())
    }

    /// Brings the files up to date; `true` if one of them says something else now.
    fn refresh(&mut self, changed: &Changed) -> bool {
        let mut different = false;
        let mut present = Vec::new();
        let mut unknown = Vec::new();
        self.missing.clear();
        for source in &self.sources {
            match files::list(source) {
                Ok(files) => present.extend(files),
                Err(error) => {
                    self.missing.push(Report::of_file(source, 0, error.to_string()));
                    unknown.extend((error != Unreadable::Missing).then_some(source));
                }
            }
        }
        self.files.retain(|path, _| {
            let hidden = unknown.iter().any(|source| path.starts_with(source));
            let stays = present.contains(path) || hidden || !changed.has(path);
            different |= !stays;
            stays
        });
        for path in present {
            // A new file in a directory is read when it is closed, like any other.
            if changed.has(&path) {
                let file = self.files.entry(path.clone()).or_default();
                different |= file.refresh(&path, &self.namespace);
            }
        }
        different || self.told_differs()
    }

    /// Whether a problem of a source came or went.
    fn told_differs(&self) -> bool {
        self.missing.iter().any(|report| !self.told.contains(report))
    }

    /// Makes a whole of what all files say.
    fn update(&mut self) -> Update {
        let documents: Vec<&Document> =
            self.ordered().into_iter().flat_map(|file| &self.files[file].documents).collect();
        let mut assembled = documents::assemble(documents.iter().copied());
        let placed = take_placements(&mut assembled.objects.apis);
        assembled.objects.gateways.clear();
        assembled.objects.unread.extend(self.files.values().filter_map(|file| file.suspicion.clone()));
        let rendered = sluice_operator::render(&assembled.objects, &self.config);
        let mut reports = documents::reports(documents.iter().copied(), &rendered.refused);
        drop(documents);
        reports.append(&mut assembled.reports);
        reports.extend(self.missing.iter().cloned());
        reports.extend(self.files.values().filter_map(|file| file.problem.clone()));
        let mut usable = !rendered.config.apis.is_empty();
        usable &= self.load_tls(&assembled, &mut reports);
        self.load_keys(&rendered.config, &mut reports);
        let reports = BTreeSet::from_iter(reports);
        let changes = changes(&self.config, &rendered.config);
        let problems = reports.difference(&self.told).cloned().collect();
        self.told = reports;
        self.config = rendered.config.clone();
        let loaded = Arc::new(Loaded {
            refused: refused(&rendered, &assembled),
            config: rendered.config,
            material: rendered.material,
            cursor_keys: self.keys.clone(),
            tls: self.tls.clone(),
        });
        Update { loaded, problems, changes, placed, usable }
    }

    /// The files in the order that decides ties: as they were named, directories by name.
    fn ordered(&self) -> Vec<&PathBuf> {
        let mut order: Vec<_> = self.files.keys().collect();
        let source = |path: &Path| {
            let of = |source: &PathBuf| path == source || path.parent() == Some(source);
            self.sources.iter().position(of)
        };
        order.sort_by_key(|path| (source(path), path.to_owned()));
        order
    }

    /// The listener's certificate; the last good one stays. `false` if there never was one.
    fn load_tls(&mut self, assembled: &Assembled, reports: &mut Vec<Report>) -> bool {
        let Some(name) = &self.tls_secret else { return true };
        match tls::material(&assembled.objects, name) {
            Ok(material) => self.tls = Some(material),
            Err(message) => reports.push(Report {
                file: "--tls-secret".into(),
                line: 0,
                at: format!("{}/{}", name.namespace, name.name),
                message,
            }),
        }
        self.tls.is_some()
    }

    /// The cursor keys of what is served. An API keeps its key while it is away.
    fn load_keys(&mut self, config: &Config, reports: &mut Vec<Report>) {
        for (name, entry) in &config.apis {
            if self.keys.contains_key(name) {
                continue;
            }
            match self.state.cursor_key(&entry.api.namespace, &entry.api.name) {
                Ok(key) => {
                    self.keys.insert(name.clone(), vec![key]);
                }
                Err(error) => reports.push(Report {
                    file: "--state".into(),
                    line: 0,
                    at: name.clone(),
                    message: format!("{error:#}"),
                }),
            }
        }
    }
}

impl FileState {
    /// Reads the file; `true` if it says something else now.
    fn refresh(&mut self, path: &Path, namespace: &str) -> bool {
        let name = path.display().to_string();
        let text = match files::read(path) {
            Ok(text) => text,
            // Closed again soon, and then read again.
            Err(Unreadable::Changing) if !self.documents.is_empty() => return false,
            Err(error) => {
                self.is_empty = error == Unreadable::Empty;
                return self.keep(Report::of_file(path, 0, error.to_string()));
            }
        };
        self.is_empty = false;
        let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        if self.digest == Some(digest) && self.problem.is_none() {
            return false;
        }
        match documents::parse_again(&name, &text, namespace, &mut self.known) {
            Ok(documents) => {
                let known = std::mem::take(&mut self.known);
                *self = Self { digest: Some(digest), documents, known, ..Self::default() };
                true
            }
            Err(error) => self.keep(Report::of_file(path, error.line, error.message)),
        }
    }

    /// What it said before stays; `true` if the problem is new.
    fn keep(&mut self, problem: Report) -> bool {
        let new = self.problem.as_ref() != Some(&problem);
        self.problem = Some(problem);
        new
    }
}

/// What was refused, for the data plane's `/config`.
fn refused(rendered: &Rendered, assembled: &Assembled) -> Vec<Refused> {
    let entry = |kind: Kind, namespace: &str, name: &str, problems: &[Problem]| Refused {
        api: format!("{namespace}/{name}"),
        revision: String::new(),
        problems: match kind {
            Kind::StreamApi => problems.to_vec(),
            // The list names APIs; what is of another kind says so.
            kind => {
                problems.iter().map(|p| Problem::new(format!("{kind} {}", p.at), p.message.clone())).collect()
            }
        },
    };
    let refusals = rendered
        .refused
        .iter()
        .map(|refusal| entry(refusal.kind, &refusal.namespace, &refusal.name, &refusal.problems));
    let unread = assembled.objects.unread.iter().map(|unread| {
        let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "?".into());
        entry(unread.kind, &part(&unread.namespace), &part(&unread.name), &unread.problems)
    });
    refusals.chain(unread).collect()
}

#[cfg(test)]
mod tests;
