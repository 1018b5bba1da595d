//! The mounted ConfigMap and Secret. The kubelet swaps a whole directory at once by renaming the
//! link `..data`, so a change is one event there and what is read is never half of two versions.

use std::path::{Path, PathBuf};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::gather::{Data, Origin};
use super::{Delivery, PodError};

/// The largest file that is read; an object of the API server is smaller.
const FILE_BYTES: u64 = 2 * 1024 * 1024;

/// Both mounts; changes are delivered until this is dropped.
pub struct Mounts {
    config: PathBuf,
    material: PathBuf,
    _watcher: RecommendedWatcher,
}

impl Mounts {
    /// Watches both directories.
    pub fn start(config: &Path, material: &Path, deliver: mpsc::Sender<Delivery>) -> Result<Self, PodError> {
        let (for_config, for_material) = (config.to_owned(), material.to_owned());
        let watching = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An event that could not be read may have been anything.
            let changed = |directory: &Path| match &event {
                Ok(event) if matches!(event.kind, EventKind::Access(_)) => false,
                Ok(event) => {
                    event.need_rescan() || event.paths.iter().any(|path| path.starts_with(directory))
                }
                Err(_) => true,
            };
            // The thread is the watcher's own, so it may wait.
            if changed(&for_material) {
                let _ = deliver.blocking_send(Delivery::Material(Origin::Mount, read(&for_material)));
            }
            if changed(&for_config) {
                let _ = deliver.blocking_send(Delivery::Config(Origin::Mount, read(&for_config)));
            }
        });
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| PodError::Mount { path, source }
        };
        let mut watcher = watching.map_err(failed(config))?;
        for directory in [config, material] {
            watcher.watch(directory, RecursiveMode::NonRecursive).map_err(failed(directory))?;
        }
        Ok(Self { config: config.to_owned(), material: material.to_owned(), _watcher: watcher })
    }

    /// What is mounted now; the Secret first, for the config names what is in it.
    pub fn read(&self) -> [Delivery; 2] {
        [
            Delivery::Material(Origin::Mount, read(&self.material)),
            Delivery::Config(Origin::Mount, read(&self.config)),
        ]
    }
}

/// The files of a mount by name. What cannot be read is left out and told; then a config lacks its
/// material, and the last good one keeps serving.
fn read(directory: &Path) -> Data {
    // Through the link, so that all files are of one version.
    let version = directory.join("..data");
    let directory =
        if version.exists() { version.canonicalize().unwrap_or(version) } else { directory.to_owned() };
    let mut data = Data::new();
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(%error, directory = %directory.display(), "a mount cannot be read");
            return data;
        }
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        let regular = std::fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() <= FILE_BYTES);
        if name.starts_with("..") || !regular {
            continue;
        }
        match std::fs::read(&path) {
            Ok(bytes) => {
                data.insert(name, bytes);
            }
            Err(error) => tracing::warn!(%error, file = %path.display(), "a mounted file cannot be read"),
        }
    }
    data
}
