//! Watches, and begins anew after every interruption.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::{self, Event, watcher as watch};
use kube::runtime::{WatchStreamExt as _, reflector};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use super::touched::Touched;

/// The first and the longest pause before an interrupted watch begins again. Nothing is decided before all have listed, so
/// the longest one is how long after an API server the operator is back.
const INTERRUPTED: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));

/// A watch that lasted so long was no failure.
const LASTED: Duration = Duration::from_secs(30);

/// Pauses between attempts to watch: each twice as long as the last, some more or less.
pub struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(INTERRUPTED.0)
    }
}

impl Pauses {
    /// How long to wait now.
    pub fn next(&mut self) -> Duration {
        let pause = self.0.mul_f64(0.75 + 0.5 * fastrand::f64());
        self.0 = (self.0 * 2).min(INTERRUPTED.1);
        pause
    }
}

/// Watches; what was interrupted is listed again. Going on from the last version that was seen is not enough:
/// when etcd was restored from a backup, versions are lower than that, and an API server lets a watch from a
/// version that is still to come wait for it, without a word.
pub fn anew<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let begin = move || (Instant::now(), watch(api.clone(), config.clone()).boxed());
    let state: (Option<(Instant, BoxStream<'static, _>)>, _) = (None, Pauses::default());
    futures::stream::unfold((begin, state), async |(begin, (watching, mut pauses))| {
        let (begun, mut events) = watching.unwrap_or_else(&begin);
        let event = events.next().await?;
        if event.is_ok() {
            return Some((event, (begin, (Some((begun, events)), pauses))));
        }
        if begun.elapsed() >= LASTED {
            pauses = Pauses::default();
        }
        tokio::time::sleep(pauses.next()).await;
        Some((event, (begin, (None, pauses))))
    })
}

/// Keeps `writer`'s store and tells `touched` what changed, for ever.
pub async fn watching<K>(
    api: Api<K>,
    writer: Writer<K>,
    config: watcher::Config,
    touched: Arc<Touched>,
    pack: fn(&mut K),
    touch: fn(&Touched, &K),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Hash + Eq + Clone + Send + Sync,
{
    let url = api.resource_url().to_owned();
    // Who last wrote which field is half of an object's size and nothing to us.
    let events = anew(api, config).modify(move |object| {
        object.meta_mut().managed_fields = None;
        if let Some(annotations) = &mut object.meta_mut().annotations {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
        pack(object);
    });
    let mut events = std::pin::pin!(reflector(writer, events));
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object) | Event::Delete(object)) => touch(&touched, &object),
            Ok(Event::InitDone) => touched.everything(),
            Ok(Event::Init | Event::InitApply(_)) => {}
            Err(error) => tracing::warn!(%error, %url, "a watch was interrupted; it starts again"),
        }
    }
}
