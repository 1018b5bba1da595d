//! A pod's config: the operator writes one ConfigMap and one Secret, and both reach the pod twice.
//! (A sidecar has a pair for each of its APIs, and only as mounts, for it has no API access.)
//!
//! They are mounted, so that a container can start without an API server, and watched by name, so
//! that a change is served in milliseconds (the kubelet takes a minute or more). What was applied
//! last is kept in a directory that outlives the container. Which of the three counts is decided in
//! [`gather`], without I/O.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::config::Loaded;

mod gather;
mod mounts;
mod saved;
mod watched;

use gather::{Gatherer, Origin};

/// Where a pod's config comes from.
#[derive(Clone, Debug)]
pub struct PodSource {
    /// The mounted pairs; together they are served.
    pub mounts: Vec<Mount>,
    /// The watch of the first pair; `None`: only the mounts are followed, as in a sidecar.
    pub watch: Option<Watch>,
}

/// A mounted ConfigMap and the Secret that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Directory of the ConfigMap.
    pub config: PathBuf,
    /// Directory of the Secret.
    pub material: PathBuf,
}

/// What brings changes sooner than a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Namespace of the ConfigMap and the Secret.
    pub namespace: String,
    /// Their name.
    pub name: String,
    /// Directory that outlives the container; what was applied last is kept there, for the mounts may be
    /// older.
    pub state: PathBuf,
}

/// Why a pod's config cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// Neither mount can be watched for changes.
    #[error("cannot watch {path}; mount the ConfigMap and the Secret there")]
    Mount {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: notify::Error,
    },
    /// The pod has no credentials for the API server.
    #[error("cannot reach the API server; run in a pod with a service account or drop --watch")]
    Client(#[source] Box<kube::Error>),
    /// The pod's environment does not say where the API server is.
    #[error("cannot tell where the API server is; run in a pod with a service account or drop --watch")]
    Environment(#[source] Box<kube::config::InferConfigError>),
}

/// Something that was delivered.
enum Delivery {
    /// The content of the ConfigMap: bytes by key.
    Config(Origin, gather::Data),
    /// The content of the Secret: bytes by key.
    Material(Origin, gather::Data),
}

/// Deliveries that wait to be taken; each is small in number and whole.
const DELIVERIES: usize = 16;
/// A ConfigMap and a Secret that change together arrive one after the other: they are applied as
/// one if the second comes within this.
const TOGETHER: Duration = Duration::from_millis(5);

impl PodSource {
    /// Reads what is there and follows it. The receiver always holds the newest whole; it is empty until
    /// something was delivered.
    pub async fn follow(self) -> Result<watch::Receiver<Arc<Loaded>>, PodError> {
        let (deliver, mut delivered) = mpsc::channel(DELIVERIES);
        let mut parts: Vec<_> = self.mounts.iter().map(|_| Gatherer::of_mounts()).collect();
        if let Some(watch) = &self.watch {
            parts[0] = Gatherer::default();
            if let Some(Err(reason)) = saved::read(&watch.state).map(|kept| parts[0].restore(kept)) {
                tracing::warn!(reason, "what was applied last cannot be understood");
            }
        }
        let mounts = mounts::Mounts::start(&self.mounts, deliver.clone())?;
        for (place, delivery) in mounts.read() {
            take(&mut parts[place], delivery);
        }
        if let Some(watch) = &self.watch {
            watched::start(&watch.namespace, &watch.name, deliver).await?;
        }
        let (send, receive) = watch::channel(Arc::new(loaded(&parts)));
        tokio::spawn(async move {
            // The watcher of the mounts ends with this task.
            let _mounts = mounts;
            while let Some((place, delivery)) = delivered.recv().await {
                let mut changed = take(&mut parts[place], delivery);
                while let Ok(Some((place, delivery))) = tokio::time::timeout(TOGETHER, delivered.recv()).await
                {
                    changed |= take(&mut parts[place], delivery);
                }
                if !changed {
                    continue;
                }
                let loaded = Arc::new(loaded(&parts));
                if send.send(loaded.clone()).is_err() {
                    return;
                }
                let Some(Watch { state, .. }) = &self.watch else { continue };
                let kept = parts[0].kept();
                if kept.config.is_empty() {
                    continue;
                }
                if let Err(error) = saved::write(state, &kept) {
                    tracing::warn!(
                        %error,
                        directory = %state.display(),
                        "the config could not be kept; a restarted container begins with the mounted one"
                    );
                }
            }
        });
        Ok(receive)
    }
}

/// What is to be served of all parts.
fn loaded(parts: &[Gatherer]) -> Loaded {
    let mut loaded = Loaded::default();
    parts.iter().for_each(|part| part.add_to(&mut loaded));
    loaded
}

fn take(gatherer: &mut Gatherer, delivery: Delivery) -> bool {
    match delivery {
        Delivery::Config(Origin::Mount, data) if data.is_empty() => gatherer.gone(),
        Delivery::Config(origin, data) => gatherer.deliver(origin, data).unwrap_or_else(|reason| {
            tracing::warn!(?origin, %reason, "a config was refused; the last good one keeps serving");
            false
        }),
        Delivery::Material(origin, data) => gatherer.material(origin, &data),
    }
}

#[cfg(test)]
mod tests;
