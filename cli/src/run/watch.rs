//! Which files changed, by inotify: a file counts when it was closed after writing or renamed into
//! place, never while it is written. A removed file counts after a moment, for editors replace
//! files by removing and writing them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RenameMode};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};

/// Changes that come together are loaded together.
const DEBOUNCE: Duration = Duration::from_millis(1);
/// How long a file must be away to count as removed.
pub const REMOVAL: Duration = Duration::from_millis(200);
/// More paths than this at once, and everything is read again.
const MAX_PATHS: usize = 1000;

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// These files, by their absolute paths: written, renamed into place, or gone.
    Files(BTreeSet<PathBuf>),
    /// What changed was lost, or a whole directory was exchanged.
    Anything,
}

impl Changed {
    /// Whether `file` may have changed.
    pub fn has(&self, file: &Path) -> bool {
        match self {
            Self::Anything => true,
            Self::Files(files) => {
                let named = |path: std::io::Result<PathBuf>| path.is_ok_and(|path| files.contains(&path));
                named(std::path::absolute(file)) || named(file.canonicalize())
            }
        }
    }
}

/// Watches the directories in which the sources are.
pub struct Watch {
    watcher: RecommendedWatcher,
    noticed: Arc<Noticed>,
}

/// What was noticed and not yet loaded.
#[derive(Default)]
struct Noticed {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    now: BTreeSet<PathBuf>,
    anything: bool,
    /// Files that went away, each with the time when it is looked at again.
    gone: Vec<(Instant, PathBuf)>,
    stopped: bool,
}

impl Watch {
    /// Starts to notice.
    pub fn start(sources: &[PathBuf]) -> anyhow::Result<Self> {
        let noticed = Arc::new(Noticed::default());
        let sink = Arc::clone(&noticed);
        let mut watcher = notify::recommended_watcher(move |event| sink.take(event))
            .context("cannot watch files; is the limit of inotify instances reached?")?;
        let mut watched = BTreeSet::new();
        for directory in sources.iter().flat_map(|source| directories(source)) {
            // A directory that is not there was told as a problem of its source.
            if directory.is_dir() && watched.insert(directory.clone()) {
                watcher
                    .watch(&directory, RecursiveMode::NonRecursive)
                    .with_context(|| format!("cannot watch {}", directory.display()))?;
            }
        }
        Ok(Self { watcher, noticed })
    }

    /// Calls `load` with whatever changes, on a thread of its own.
    pub fn follow(self, mut load: impl FnMut(&Changed) + Send + 'static) -> anyhow::Result<Following> {
        let noticed = Arc::clone(&self.noticed);
        let thread = std::thread::Builder::new().name("reload".into()).spawn(move || {
            while let Some(changed) = noticed.wait() {
                load(&changed);
            }
        })?;
        Ok(Following { watch: self, thread })
    }
}

/// The thread that reloads.
pub struct Following {
    watch: Watch,
    thread: JoinHandle<()>,
}

impl Following {
    /// Ends it.
    pub fn stop(self) {
        let Self { watch: Watch { watcher, noticed }, thread } = self;
        drop(watcher);
        noticed.state().stopped = true;
        noticed.wake.notify_all();
        if thread.join().is_err() {
            tracing::error!("the reload thread panicked");
        }
    }
}

/// Where changes of `source` are seen: its directory, and that of what a link points to.
fn directories(source: &Path) -> Vec<PathBuf> {
    if source.is_dir() {
        return vec![source.to_owned()];
    }
    let parent = |path: &Path| {
        let parent = path.parent().unwrap_or(Path::new("."));
        if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() }
    };
    let mut directories = vec![parent(source)];
    directories.extend(source.canonicalize().ok().map(|target| parent(&target)));
    directories
}

impl Noticed {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, event: notify::Result<Event>) {
        let mut state = self.state();
        match event {
            Err(error) => {
                tracing::warn!(%error, "watching files failed; all are read again");
                state.anything = true;
            }
            Ok(event) if event.need_rescan() => state.anything = true,
            Ok(event) => match meaning(&event) {
                Meaning::Written => state.now.extend(event.paths),
                Meaning::Exchanged => state.anything = true,
                Meaning::Gone => {
                    let due = Instant::now() + REMOVAL;
                    state.gone.extend(event.paths.into_iter().map(|path| (due, path)));
                }
                Meaning::Nothing => return,
            },
        }
        if state.now.len() + state.gone.len() > MAX_PATHS {
            *state = State { anything: true, stopped: state.stopped, ..State::default() };
        }
        drop(state);
        self.wake.notify_all();
    }

    /// Waits for changes; `None` when it is time to stop.
    fn wait(&self) -> Option<Changed> {
        let mut state = self.state();
        loop {
            if state.stopped {
                return None;
            }
            if state.anything || !state.now.is_empty() {
                break;
            }
            let due = state.gone.iter().map(|(due, _)| *due).min();
            let now = Instant::now();
            match due {
                None => state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(due) if due <= now => {
                    let (over, later) =
                        std::mem::take(&mut state.gone).into_iter().partition(|(due, _)| *due <= now);
                    state.gone = later;
                    let over: Vec<(Instant, PathBuf)> = over;
                    return Some(Changed::Files(over.into_iter().map(|(_, path)| path).collect()));
                }
                Some(due) => {
                    let waited = self.wake.wait_timeout(state, due - now);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
        drop(state);
        std::thread::sleep(DEBOUNCE);
        let mut state = self.state();
        let files = std::mem::take(&mut state.now);
        if std::mem::take(&mut state.anything) {
            Some(Changed::Anything)
        } else {
            Some(Changed::Files(files))
        }
    }
}

/// What an event means for whoever reads files.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Written,
    Gone,
    /// A kubelet or `ln -sfn` put another directory in place.
    Exchanged,
    Nothing,
}

fn meaning(event: &Event) -> Meaning {
    let links = || event.paths.iter().any(|path| path.is_symlink());
    let exchanged = || {
        let data = |path: &PathBuf| path.file_name().is_some_and(|name| name == "..data");
        event.paths.iter().any(data)
    };
    match event.kind {
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) if exchanged() => Meaning::Exchanged,
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Meaning::Written,
        // A link is whole when it is made; nobody closes it.
        EventKind::Create(CreateKind::File | CreateKind::Any) if links() => Meaning::Written,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => Meaning::Gone,
        _ => Meaning::Nothing,
    }
}

#[cfg(test)]
mod tests;
