//! Watches the pod's ConfigMap and Secret by name: all that a data plane may see of the API.
//!
//! A watch without a version begins with the object as it is now, so no other verb is needed. It
//! goes on for ever: what ends it is told and tried again with backoff and jitter.

use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{WatchEvent, WatchParams};
use kube::{Api, Client, Config};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::gather::{Data, Origin};
use super::{Delivery, PodError};

/// How long the API server keeps one watch open, in seconds.
const WATCH_SECONDS: u32 = 290;
/// Bookmarks come every minute or so: what is silent for longer is dead.
const SILENCE: Duration = Duration::from_secs(150);
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Pauses between attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Watches both objects, for the first pair of mounts.
pub async fn start(
    namespace: &str,
    name: &str,
    deliver: mpsc::Sender<(usize, Delivery)>,
) -> Result<(), PodError> {
    let mut config = Config::infer().await.map_err(|error| PodError::Environment(Box::new(error)))?;
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    let client = Client::try_from(config).map_err(|error| PodError::Client(Box::new(error)))?;
    let configs: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let secrets: Api<Secret> = Api::namespaced(client, namespace);
    let material = deliver.clone();
    tokio::spawn(follow(secrets, name.to_owned(), move |secret: Secret| {
        let data = secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
        (material.clone(), (0, Delivery::Material(Origin::Watch, data.collect())))
    }));
    tokio::spawn(follow(configs, name.to_owned(), move |config: ConfigMap| {
        let text = config.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes()));
        let binary = config.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
        (deliver.clone(), (0, Delivery::Config(Origin::Watch, text.chain(binary).collect::<Data>())))
    }));
    Ok(())
}

async fn follow<K, F>(api: Api<K>, name: String, delivery: F)
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    F: Fn(K) -> (mpsc::Sender<(usize, Delivery)>, (usize, Delivery)),
{
    let parameters = WatchParams::default().fields(&format!("metadata.name={name}")).timeout(WATCH_SECONDS);
    let mut pause = PAUSE.0;
    let mut told = false;
    loop {
        let ended = match api.watch(&parameters, "").await {
            Ok(events) => {
                let mut events = std::pin::pin!(events);
                loop {
                    match tokio::time::timeout(SILENCE, events.next()).await {
                        Ok(Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)))) => {
                            (pause, told) = (PAUSE.0, false);
                            let (deliver, delivery) = delivery(object);
                            if deliver.send(delivery).await.is_err() {
                                return;
                            }
                        }
                        // Whoever deleted it will be corrected, or the whole API goes: serve on.
                        Ok(Some(Ok(WatchEvent::Deleted(_) | WatchEvent::Bookmark(_)))) => pause = PAUSE.0,
                        Ok(Some(Ok(WatchEvent::Error(status)))) => break Some(status.to_string()),
                        Ok(Some(Err(error))) => break Some(error.to_string()),
                        Ok(None) => break None,
                        Err(_) => break Some("nothing was heard for too long".to_owned()),
                    }
                }
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(reason) = ended.filter(|_| !told) {
            told = true;
            let kind = K::kind(&());
            tracing::warn!(%kind, %name, %reason, "the API server cannot be watched; serving goes on, trying again");
        }
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}
