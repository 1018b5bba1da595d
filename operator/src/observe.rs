//! Asks data planes what they serve: `/config` of every running pod.
//!
//! A pod is asked when it changes, quickly while it has yet to serve what was written, and now and
//! then otherwise. Whatever is new has its StreamAPI looked at again, but for how many streams are
//! open: that changes all the time, and is kept for whoever wants to change something.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use parking_lot::Mutex;
use serde::Deserialize;
use sluice_config::{Config, Problem};
use sluice_crds::schema::NAME_LENGTH;
use tokio::sync::Notify;

use crate::children::{API_LABEL, GATEWAY_LABEL, sidecar};
use crate::streams::{ByApi, Streams};
use crate::world::{AllDirty, Changed, Name, World, name_of};

/// The condition of a pod that clients are sent to.
pub const READY: &str = "Ready";
/// Port that data planes answer on in pods of their own.
const ADMIN_PORT: u16 = 9090;
/// How long a data plane may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much it may answer.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// How many are asked at once.
const AT_ONCE: usize = 16;
/// How often a pod is asked that serves what it should.
const EVERY: Duration = Duration::from_secs(10);
/// Of many pods each is asked less often, so that it is so many a second at most.
const A_SECOND: u32 = 15;
/// How long a connection is kept for the next question: those to a pod in a hurry come one after another, and
/// a thousand idle ones are no use to anybody.
const KEPT: Duration = Duration::from_secs(2);
/// Longer than two questions may take.
const UNDER_WAY: Duration = Duration::from_secs(5);
/// The first pause while a pod has yet to serve what was written; each further one is twice as long.
const HURRY: Duration = Duration::from_millis(20);

/// What is known of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodView {
    /// Its name.
    pub name: String,
    /// Whether clients are sent to it.
    pub ready: bool,
    /// Whose it is.
    pub placement: Place,
    /// It was asked, so that there is something to say about it.
    pub was_asked: bool,
    /// What it said; why it said nothing.
    pub report: Result<Arc<Report>, String>,
}

/// Kinds of pods that have a data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Of one API.
    Deployment,
    /// Of somebody else, with the data plane as a sidecar.
    Sidecar,
    /// Of a gateway.
    Gateway,
}

/// What a data plane says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Revision and material digests by `namespace/name`.
    pub apis: BTreeMap<String, Served>,
    /// What it refuses.
    pub refused: Vec<RefusedApi>,
    /// Its servers.
    pub servers: Vec<ServerView>,
}

/// An API as it is served.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Served {
    namespace: String,
    name: String,
    /// Digest of all of it.
    pub revision: String,
    /// Digests of the secret values it uses.
    #[serde(default)]
    pub material: BTreeMap<String, String>,
}

/// An API that is refused.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct RefusedApi {
    /// `namespace/name`.
    pub api: String,
    /// Which revision.
    pub revision: String,
    /// Why.
    pub problems: Vec<Problem>,
}

/// A server as a data plane sees it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ServerView {
    /// Namespace of its API.
    pub namespace: String,
    /// Its API.
    pub api: String,
    /// Its name.
    pub server: String,
    /// Whether it is connected.
    pub up: bool,
    /// Why not.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What a pod is to serve.
#[derive(Clone, Debug, PartialEq)]
enum Serves {
    /// These StreamAPIs.
    Apis(Vec<Name>),
    /// Those of a gateway.
    Gateway(Name),
}

/// What a data plane answers: what is acted upon, and what is only told.
struct Answer {
    report: Report,
    streams: Option<ByApi>,
}

/// What `/config` shows.
#[derive(Deserialize)]
struct Shown {
    apis: Vec<ShownApi>,
    refused: Vec<RefusedApi>,
    /// Data planes of earlier versions tell them at `/readyz` only.
    servers: Option<Vec<ServerView>>,
}

#[derive(Deserialize)]
struct ShownApi {
    #[serde(flatten)]
    served: Served,
    /// Data planes of earlier versions do not tell them.
    streams: Option<Streams>,
}

/// A pod that is asked.
struct Asked {
    namespace: String,
    serves: Serves,
    address: SocketAddr,
    view: PodView,
    /// Its open streams, if it told them last.
    streams: Option<ByApi>,
    next: Instant,
    pause: Duration,
}

/// What all pods said last.
#[derive(Clone, Default)]
pub struct Observer {
    /// It is known which pods there are.
    listed: Arc<AtomicBool>,
    pods: Arc<Mutex<HashMap<String, Asked>>>,
    /// Revisions that pods are to serve.
    expected: Arc<Mutex<HashMap<Name, String>>>,
    /// What the pods of gateways are to serve.
    hosted: Arc<Mutex<HashMap<Name, Config>>>,
    hurry: Arc<Notify>,
}

impl Observer {
    /// The pods of an API's own and those that have it as a sidecar.
    pub fn pods(&self, api: &Name) -> Vec<PodView> {
        self.views(|serves| matches!(serves, Serves::Apis(apis) if apis.contains(api)))
    }

    /// The pods of a gateway.
    pub fn pods_of_gateway(&self, gateway: &Name) -> Vec<PodView> {
        self.views(|serves| matches!(serves, Serves::Gateway(of) if of == gateway))
    }

    fn views(&self, is_meant: impl Fn(&Serves) -> bool) -> Vec<PodView> {
        let pods = self.pods.lock();
        let meant = pods.values().filter(|pod| is_meant(&pod.serves));
        let mut views: Vec<_> = meant.map(|pod| pod.view.clone()).collect();
        views.sort_by(|one, other| one.name.cmp(&other.name));
        views
    }

    /// Open streams of an API that is placed on `gateway`, or on none, as of when its pods were last asked;
    /// `None` if one that is ready has not told them. It may just be moving, so pods of its own count in any case.
    pub fn streams(&self, api: &Name, gateway: Option<&Name>) -> Option<Streams> {
        let key = key_of(api);
        let mut sum = Streams::default();
        let is_meant = |serves: &Serves| match serves {
            Serves::Apis(apis) => apis.contains(api),
            Serves::Gateway(of) => Some(of) == gateway,
        };
        self.each_count(is_meant, |counts| {
            if let Some(streams) = counts.get(&key) {
                sum.add(streams);
            }
        })?;
        Some(sum)
    }

    /// As [`Self::streams`], of all APIs on a gateway.
    pub fn streams_of_gateway(&self, gateway: &Name) -> Option<ByApi> {
        let mut sums = ByApi::new();
        let is_meant = |serves: &Serves| matches!(serves, Serves::Gateway(of) if of == gateway);
        self.each_count(is_meant, |counts| {
            for (api, streams) in counts {
                sums.entry(api.clone()).or_default().add(streams);
            }
        })?;
        Some(sums)
    }

    /// Has `add` look at the counts of every pod that is meant; `None` if one that is ready has told none.
    fn each_count(&self, is_meant: impl Fn(&Serves) -> bool, mut add: impl FnMut(&ByApi)) -> Option<()> {
        if !self.has_listed() {
            return None;
        }
        let pods = self.pods.lock();
        for pod in pods.values().filter(|pod| is_meant(&pod.serves)) {
            match &pod.streams {
                Some(counts) => add(counts),
                None if pod.view.ready => return None,
                None => {}
            }
        }
        Some(())
    }

    /// From now on what pods say is acted upon, so all are asked anew: what a replica that stood by heard is old.
    pub fn begin(&self) {
        self.pods.lock().values_mut().for_each(|pod| pod.view.was_asked = false);
        self.hurry(|_| true);
    }

    /// Whether it is known which pods there are.
    pub fn has_listed(&self) -> bool {
        self.listed.load(Ordering::SeqCst)
    }

    /// Has the pods of `api` asked quickly until they serve `revision`.
    pub fn expect(&self, api: &Name, revision: &str) {
        let before = self.expected.lock().insert(api.clone(), revision.to_owned());
        if before.as_deref() != Some(revision) {
            self.hurry(|serves| matches!(serves, Serves::Apis(apis) if apis.contains(api)));
        }
    }

    /// Has the pods of `gateway` asked quickly until they serve `config`.
    pub fn expect_of_gateway(&self, gateway: &Name, config: &Config) {
        let before = self.hosted.lock().insert(gateway.clone(), config.clone());
        if before.is_none_or(|before| before.apis != config.apis) {
            self.hurry(|serves| matches!(serves, Serves::Gateway(of) if of == gateway));
        }
    }

    fn hurry(&self, is_meant: impl Fn(&Serves) -> bool) {
        for pod in self.pods.lock().values_mut().filter(|pod| is_meant(&pod.serves)) {
            (pod.next, pod.pause) = (Instant::now(), HURRY);
        }
        self.hurry.notify_one();
    }

    /// Forgets an API that is gone.
    pub fn forget(&self, api: &Name) {
        self.expected.lock().remove(api);
    }

    /// Forgets a gateway that is gone.
    pub fn forget_gateway(&self, gateway: &Name) {
        self.hosted.lock().remove(gateway);
    }

    /// Asks for ever.
    pub async fn run(self, world: Arc<World>, dirty: AllDirty) {
        let client = reqwest::Client::builder()
            .timeout(PATIENCE)
            .connect_timeout(PATIENCE)
            .pool_idle_timeout(KEPT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            // Plain HTTP to pods needs no roots, and the image has none.
            .tls_certs_only([])
            .build()
            .expect("a client without special settings can be built");
        let mut asking = FuturesUnordered::<BoxFuture<'_, (String, Result<Answer, String>)>>::new();
        loop {
            let next = self.pods.lock().values().map(|pod| pod.next).min();
            let wait = next.map_or(EVERY, |next| next.saturating_duration_since(Instant::now()));
            tokio::select! {
                () = tokio::time::sleep(wait), if asking.len() < AT_ONCE => {}
                changed = world.changed_pods.next() => self.look(&world, changed, &dirty),
                () = self.hurry.notified() => {}
                Some((uid, answer)) = asking.next() => self.note(&uid, answer, &dirty),
            }
            // A pod that does not answer holds up no other one.
            for (uid, address) in self.take_due(AT_ONCE.saturating_sub(asking.len())) {
                let client = &client;
                asking.push(async move { (uid, ask(client, address).await) }.boxed());
            }
        }
    }

    /// At most `count` pods that are due; while they are asked they are not.
    fn take_due(&self, count: usize) -> Vec<(String, SocketAddr)> {
        let now = Instant::now();
        let mut pods = self.pods.lock();
        let due = pods.iter_mut().filter(|(_, pod)| pod.next <= now).take(count).map(|(uid, pod)| {
            pod.next = now + UNDER_WAY;
            (uid.clone(), pod.address)
        });
        due.collect()
    }

    /// Takes over what became of pods.
    fn look(&self, world: &World, changed: Changed, dirty: &AllDirty) {
        let Changed::Some(names) = changed else { return self.list(world, dirty) };
        let mut pods = self.pods.lock();
        for name in &names {
            // Also one that was made again under its name.
            let is_it = |asked: &Asked| asked.view.name == name.1 && asked.namespace == name.0;
            let mut before: HashMap<_, _> = pods.extract_if(|_, asked| is_it(asked)).collect();
            if let Some(pod) = world.pod(name) {
                self.take_over(&pod, &mut before, &mut pods, dirty);
            }
            before.into_values().for_each(|gone| self.touch(&gone.serves, dirty));
        }
    }

    /// Takes over which pods there are.
    fn list(&self, world: &World, dirty: &AllDirty) {
        let mut pods = self.pods.lock();
        let mut before = std::mem::take(&mut *pods);
        for pod in world.pods.state().into_iter().chain(world.sidecars.state()) {
            self.take_over(&pod, &mut before, &mut pods, dirty);
        }
        before.into_values().for_each(|gone| self.touch(&gone.serves, dirty));
        drop(pods);
        if !self.listed.swap(true, Ordering::SeqCst) {
            // Whoever has no pods was looked at too early.
            world.apis.state().iter().for_each(|api| dirty.apis.add(name_of(api)));
            world.gateways.state().iter().for_each(|gateway| dirty.gateways.add(name_of(gateway)));
        }
    }

    /// Adds a pod to `pods`, if it runs; what is known of it is taken from `before`. One that changed is asked at once.
    fn take_over(
        &self,
        pod: &Pod,
        before: &mut HashMap<String, Asked>,
        pods: &mut HashMap<String, Asked>,
        dirty: &AllDirty,
    ) {
        let Some((uid, serves, address)) = running(pod) else { return };
        if pods.contains_key(&uid) {
            return;
        }
        let ready = is_ready(pod);
        let asked = before.remove(&uid).filter(|asked| asked.address == address);
        let mut asked = asked.unwrap_or_else(|| {
            let report = Err("it has not been asked yet".to_owned());
            let placement = match &serves {
                Serves::Gateway(_) => Place::Gateway,
                Serves::Apis(_) if address.port() == sidecar::ADMIN_PORT => Place::Sidecar,
                Serves::Apis(_) => Place::Deployment,
            };
            let view = PodView { name: pod.name_any(), ready, placement, was_asked: false, report };
            let namespace = pod.namespace().unwrap_or_default();
            Asked { namespace, serves, address, view, streams: None, next: Instant::now(), pause: HURRY }
        });
        if asked.view.ready != ready {
            (asked.next, asked.pause) = (Instant::now(), HURRY);
            asked.view.ready = ready;
            self.touch(&asked.serves, dirty);
        }
        pods.insert(uid, asked);
    }

    /// Has everything that a pod serves looked at again.
    fn touch(&self, serves: &Serves, dirty: &AllDirty) {
        match serves {
            Serves::Apis(apis) => apis.iter().for_each(|api| dirty.apis.add(api.clone())),
            Serves::Gateway(gateway) => {
                let hosted = self.hosted.lock();
                let entries = hosted.get(gateway).into_iter().flat_map(|config| config.apis.values());
                let names = entries.map(|entry| (entry.api.namespace.clone(), entry.api.name.clone()));
                names.for_each(|api| dirty.apis.add(api));
                dirty.gateways.add(gateway.clone());
            }
        }
    }

    fn note(&self, uid: &str, answer: Result<Answer, String>, dirty: &AllDirty) {
        let mut pods = self.pods.lock();
        let every = interval(pods.len());
        let Some(pod) = pods.get_mut(uid) else { return };
        let (report, streams) = match answer {
            Ok(Answer { report, streams }) => (Ok(report), streams),
            Err(reason) => (Err(reason), None),
        };
        pod.streams = streams;
        let is_good = match &pod.serves {
            Serves::Apis(apis) => {
                let expected = self.expected.lock();
                apis.iter().all(|api| {
                    let serves = || Some(&report.as_ref().ok()?.apis.get(&key_of(api))?.revision);
                    expected.get(api).is_none_or(|revision| serves() == Some(revision))
                })
            }
            Serves::Gateway(gateway) => {
                let hosted = self.hosted.lock();
                let mut entries = hosted.get(gateway).into_iter().flat_map(|config| &config.apis);
                entries.all(|(key, entry)| {
                    let serves = || Some(&report.as_ref().ok()?.apis.get(key)?.revision);
                    serves() == Some(&entry.revision)
                })
            }
        };
        pod.next = Instant::now() + if is_good { every } else { pod.pause };
        pod.pause = (pod.pause * 2).min(EVERY);
        let first = !std::mem::replace(&mut pod.view.was_asked, true);
        let before = std::mem::replace(&mut pod.view.report, report.map(Arc::new));
        match (&pod.serves, &before, &pod.view.report) {
            _ if before == pod.view.report && !first => {}
            // Of hundreds of APIs only those that fare otherwise.
            (Serves::Gateway(gateway), Ok(before), Ok(now)) if !first => {
                changed(before, now).into_iter().for_each(|api| dirty.apis.add(api));
                dirty.gateways.add(gateway.clone());
            }
            _ => {
                let serves = pod.serves.clone();
                drop(pods);
                self.touch(&serves, dirty);
            }
        }
    }
}

fn key_of((namespace, name): &Name) -> String {
    format!("{namespace}/{name}")
}

/// The APIs of which `now` says something else than `before`.
fn changed(before: &Report, now: &Report) -> BTreeSet<Name> {
    let mut names = BTreeSet::new();
    for (one, other) in [(before, now), (now, before)] {
        let served = one.apis.iter().filter(|(key, served)| other.apis.get(*key) != Some(*served));
        let refused = one.refused.iter().filter(|refused| !other.refused.contains(refused));
        names.extend(served.map(|(key, _)| key.as_str()).chain(refused.map(|refused| refused.api.as_str())));
    }
    let mut names: BTreeSet<Name> =
        names.into_iter().filter_map(|key| key.split_once('/')).map(|(a, b)| (a.into(), b.into())).collect();
    let servers = |report: &Report| -> BTreeMap<(Name, String), ServerView> {
        let servers = report.servers.iter().cloned();
        servers.map(|it| (((it.namespace.clone(), it.api.clone()), it.server.clone()), it)).collect()
    };
    let (were, are) = (servers(before), servers(now));
    for (some, others) in [(&were, &are), (&are, &were)] {
        let other = some.iter().filter(|(of, server)| others.get(*of) != Some(*server));
        names.extend(other.map(|((api, _), _)| api.clone()));
    }
    names
}

/// How often each of so many pods is asked.
fn interval(pods: usize) -> Duration {
    EVERY.max(Duration::from_secs(1) * u32::try_from(pods).unwrap_or(u32::MAX) / A_SECOND)
}

/// Uid, APIs and admin port of a pod that runs and is not about to end.
fn running(pod: &Pod) -> Option<(String, Serves, SocketAddr)> {
    let status = pod.status.as_ref()?;
    let is_sidecar = pod.labels().contains_key(sidecar::INJECTED);
    // A sidecar runs before the containers that wait for it.
    let phases: &[&str] = if is_sidecar { &["Running", "Pending"] } else { &["Running"] };
    if pod.metadata.deletion_timestamp.is_some() || !phases.contains(&status.phase.as_deref()?) {
        return None;
    }
    let namespace = pod.namespace()?;
    let address = |port| Some(SocketAddr::new(status.pod_ip.as_ref()?.parse().ok()?, port));
    if let Some(gateway) = pod.labels().get(GATEWAY_LABEL).filter(|_| !is_sidecar) {
        return Some((pod.uid()?, Serves::Gateway((namespace, gateway.clone())), address(ADMIN_PORT)?));
    }
    let (names, port) = match pod.labels().get(API_LABEL) {
        Some(api) if !is_sidecar => (api, ADMIN_PORT),
        _ => (pod.annotations().get(sidecar::APIS)?, sidecar::ADMIN_PORT),
    };
    // Whoever made the pod may have written that.
    let names = names.split(',').take(sidecar::MOST_APIS).filter(|name| name.len() <= NAME_LENGTH);
    let names: BTreeSet<&str> = names.collect();
    let apis = names.into_iter().map(|api| (namespace.clone(), api.to_owned())).collect();
    Some((pod.uid()?, Serves::Apis(apis), address(port)?))
}

/// Whether clients are sent to it.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == READY && condition.status == "True")
}

async fn ask(client: &reqwest::Client, address: SocketAddr) -> Result<Answer, String> {
    #[derive(Deserialize)]
    struct Ready {
        servers: Vec<ServerView>,
    }
    let url = |path: &str| format!("http://{address}{path}");
    let mut shown: Shown = fetch(client, &url("/config")).await?;
    let servers = match shown.servers.take() {
        Some(servers) => servers,
        None => fetch::<Ready>(client, &url("/readyz")).await?.servers,
    };
    Ok(shown.answer(servers))
}

impl Shown {
    fn answer(self, servers: Vec<ServerView>) -> Answer {
        let all_tell = self.apis.iter().all(|api| api.streams.is_some());
        let (mut apis, mut counts) = (BTreeMap::new(), ByApi::new());
        for ShownApi { served, streams } in self.apis {
            let key = format!("{}/{}", served.namespace, served.name);
            if let Some(streams) = streams.filter(|streams| !streams.is_empty()) {
                counts.insert(key.clone(), streams);
            }
            apis.insert(key, served);
        }
        Answer {
            report: Report { apis, refused: self.refused, servers },
            streams: all_tell.then_some(counts),
        }
    }
}

/// JSON whatever the status, for `/readyz` says more than ready or not.
async fn fetch<T: for<'de> Deserialize<'de>>(client: &reqwest::Client, url: &str) -> Result<T, String> {
    let unreachable = |error: reqwest::Error| format!("{url} cannot be reached: {error}");
    let mut answer = client.get(url).send().await.map_err(unreachable)?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_BYTES {
            return Err(format!("{url} answers with more than {ANSWER_BYTES} bytes"));
        }
    }
    serde_json::from_slice(&body).map_err(|error| format!("{url} cannot be understood: {error}"))
}

#[cfg(test)]
mod tests;
