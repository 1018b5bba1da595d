//! A pod's config: the operator writes one ConfigMap and one Secret, and both reach the pod twice.
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
    /// Directory of the mounted ConfigMap.
    pub config: PathBuf,
    /// Directory of the mounted Secret.
    pub material: PathBuf,
    /// Directory that outlives the container; what was applied last is kept there.
    pub state: PathBuf,
    /// Namespace and name of the ConfigMap and the Secret to watch; `None`: only the mounts are
    /// followed, as in a sidecar.
    pub watch: Option<(String, String)>,
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
        let mut gatherer = Gatherer::default();
        if let Some((config, values, keys)) = saved::read(&self.state) {
            gatherer.restore(config, values, keys);
        }
        let mounts = mounts::Mounts::start(&self.config, &self.material, deliver.clone())?;
        for delivery in mounts.read() {
            take(&mut gatherer, delivery);
        }
        if let Some((namespace, name)) = &self.watch {
            watched::start(namespace, name, deliver).await?;
        }
        let (send, receive) = watch::channel(Arc::new(gatherer.loaded()));
        tokio::spawn(async move {
            // The watcher of the mounts ends with this task.
            let _mounts = mounts;
            while let Some(delivery) = delivered.recv().await {
                let mut changed = take(&mut gatherer, delivery);
                while let Ok(Some(delivery)) = tokio::time::timeout(TOGETHER, delivered.recv()).await {
                    changed |= take(&mut gatherer, delivery);
                }
                if !changed {
                    continue;
                }
                let loaded = Arc::new(gatherer.loaded());
                if send.send(loaded.clone()).is_err() {
                    return;
                }
                if let Err(error) = saved::write(&self.state, &loaded) {
                    tracing::warn!(
                        %error,
                        directory = %self.state.display(),
                        "the config could not be kept; a restarted container begins with the mounted one"
                    );
                }
            }
        });
        Ok(receive)
    }
}

fn take(gatherer: &mut Gatherer, delivery: Delivery) -> bool {
    match delivery {
        Delivery::Config(origin, data) => match gather::parse(&data) {
            Ok(config) => gatherer.config(origin, config),
            Err(reason) => {
                tracing::warn!(?origin, %reason, "a config was refused; the last good one keeps serving");
                false
            }
        },
        Delivery::Material(origin, data) => gatherer.material(origin, &data),
    }
}
