//! Mounted ConfigMaps and Secrets. The kubelet swaps a whole directory at once by renaming the
//! link `..data`, so a change is one event there and what is read is never half of two versions.

use std::path::{Path, PathBuf};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::gather::{Data, Origin};
use super::{Delivery, Mount, PodError};

/// The largest file that is read; an object of the API server is smaller.
const FILE_BYTES: u64 = 2 * 1024 * 1024;

/// All mounts; changes are delivered, each with its mount's place, until this is dropped.
pub struct Mounts {
    mounts: Vec<Mount>,
    _watcher: RecommendedWatcher,
}

impl Mounts {
    /// Watches all directories.
    pub fn start(mounts: &[Mount], deliver: mpsc::Sender<(usize, Delivery)>) -> Result<Self, PodError> {
        let watched = mounts.to_owned();
        let watching = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An event that could not be read may have been anything.
            let changed = |directory: &Path| match &event {
                Ok(event) if matches!(event.kind, EventKind::Access(_)) => false,
                Ok(event) => {
                    event.need_rescan() || event.paths.iter().any(|path| path.starts_with(directory))
                }
                Err(_) => true,
            };
            for (place, mount) in watched.iter().enumerate() {
                // The Secret first, for the config names what is in it. The thread is the watcher's
                // own, so it may wait.
                let material = changed(&mount.material).then(|| material(mount)).flatten();
                let config = changed(&mount.config).then(|| config(mount)).flatten();
                for delivery in material.into_iter().chain(config) {
                    let _ = deliver.blocking_send((place, delivery));
                }
            }
        });
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| PodError::Mount { path, source }
        };
        let directories = || mounts.iter().flat_map(|mount| [&mount.config, &mount.material]);
        let any = directories().next().map(PathBuf::as_path).unwrap_or_else(|| Path::new("/"));
        let mut watcher = watching.map_err(failed(any))?;
        for directory in directories() {
            watcher.watch(directory, RecursiveMode::NonRecursive).map_err(failed(directory))?;
        }
        Ok(Self { mounts: mounts.to_owned(), _watcher: watcher })
    }

    /// What is mounted now, the Secrets first.
    pub fn read(&self) -> impl Iterator<Item = (usize, Delivery)> {
        let both =
            |(place, mount)| material(mount).into_iter().chain(config(mount)).map(move |it| (place, it));
        self.mounts.iter().enumerate().flat_map(both)
    }
}

/// What the Secret holds; nothing at all if that could not be read.
fn material(mount: &Mount) -> Option<Delivery> {
    let (data, is_whole) = read(&mount.material);
    is_whole.then_some(Delivery::Material(Origin::Mount, data))
}

/// What the ConfigMap holds; nothing at all if that could not be read.
fn config(mount: &Mount) -> Option<Delivery> {
    let (data, is_whole) = read(&mount.config);
    is_whole.then_some(Delivery::Config(Origin::Mount, data))
}

/// The files of a mount by name, and whether that is all of them. What cannot be read is told.
fn read(directory: &Path) -> (Data, bool) {
    // Through the link, so that all files are of one version.
    let version = directory.join("..data");
    let directory =
        if version.exists() { version.canonicalize().unwrap_or(version) } else { directory.to_owned() };
    let mut data = Data::new();
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(%error, directory = %directory.display(), "a mount cannot be read");
            return (data, false);
        }
    };
    let mut is_whole = true;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        let regular = std::fs::metadata(&path).map(|file| file.is_file() && file.len() <= FILE_BYTES);
        if name.starts_with("..") || matches!(regular, Ok(false)) {
            continue;
        }
        // The kubelet takes the former version away while it may be read.
        match regular.and_then(|_| std::fs::read(&path)) {
            Ok(bytes) => {
                data.insert(name, bytes);
            }
            Err(error) => {
                tracing::warn!(%error, file = %path.display(), "a mounted file cannot be read");
                is_whole = false;
            }
        }
    }
    (data, is_whole)
}
