//! Looks after pods of somebody else that are to have a sidecar.
//!
//! A sidecar sees its config only through mounts, which a kubelet looks at once a minute, or at once
//! when anything of the pod changes: so pods that are behind are touched. Pods without the sidecar, or
//! with an earlier one, are found, told and, where that is asked for, replaced.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use parking_lot::Mutex;
use serde_json::json;
use sluice_config::Entry;
use sluice_config::placement::{Sidecar, Update};

use crate::apply::{ApplyError, PATIENCE, Writer};
use crate::children::Settings;
use crate::children::sidecar::{APIS, GIVEN, Guest, NAME, digest, guests, obstacle};
use crate::observe::{PodView, is_ready};
use crate::report::Sidecars;
use crate::world::{Name, World};

/// Annotation that is changed so that a kubelet looks at a pod's mounts.
const SYNC: &str = "sluice.dev/sync";
/// Pauses between two touches of a pod that is still behind.
const TOUCH: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How often pods are looked for at most, and how often if nothing happens.
const LOOK: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// Pods of one page of a list, and most pages.
const LIST: (u32, usize) = (500, 20);
/// After this an eviction is forgotten, whatever became of it: somebody may have mended what was wrong.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// What is known of the sidecars of all APIs.
#[derive(Default)]
pub struct Care {
    /// By API and pod.
    touched: Mutex<HashMap<(Name, String), Touch>>,
    looked: Mutex<HashMap<Name, Look>>,
    /// By namespace, for several APIs may select the same pods: one pod at a time, whoever asks.
    evicted: Mutex<HashMap<String, Eviction>>,
}

/// The last touch of a pod.
struct Touch {
    revision: String,
    at: Instant,
    attempts: u32,
}

/// The last look at the pods of an API.
#[derive(Clone)]
struct Look {
    at: Instant,
    /// What was expected of new pods then.
    digests: Vec<String>,
    found: Sidecars,
}

/// A pod that had to go, until its successor is there and as it should be.
#[derive(Clone)]
struct Eviction {
    api: String,
    pod: String,
    at: Instant,
    /// What was expected of new pods then.
    digests: Vec<String>,
    /// Everybody who was there: whoever is not among them is new.
    known: BTreeSet<String>,
    /// How many were not about to end.
    count: usize,
}

/// What new pods of a namespace are given.
struct NewPods<'a> {
    guests: Vec<Guest>,
    settings: &'a Settings,
    /// Of each guest's alone: they change when anything does.
    digests: Vec<String>,
}

impl<'a> NewPods<'a> {
    fn new(guests: Vec<Guest>, settings: &'a Settings) -> Self {
        let alone = |guest| digest(std::slice::from_ref(guest), settings);
        let digests = guests.iter().filter_map(alone).collect();
        Self { guests, settings, digests }
    }

    /// Of a pod with these labels.
    fn digest(&self, labels: &BTreeMap<String, String>) -> Option<String> {
        digest(&guests(&self.guests, labels), self.settings)
    }
}

impl Care {
    /// Forgets an API.
    pub fn forget(&self, api: &Name) {
        self.touched.lock().retain(|(of, _), _| of != api);
        self.looked.lock().remove(api);
        self.evicted.lock().retain(|namespace, eviction| *namespace != api.0 || eviction.api != api.1);
    }

    /// Has kubelets look at the mounts of the pods that do not serve `entry`, or do not tell; when to try
    /// again. What cannot be touched is told in the log: it looks by itself within a minute or so.
    pub async fn sync(
        &self,
        writer: &Writer,
        api: &Name,
        entry: &Entry,
        pods: &[PodView],
    ) -> Option<Duration> {
        let key = format!("{}/{}", api.0, api.1);
        let serves = |pod: &PodView| {
            let served = pod.report.as_ref().ok().and_then(|report| report.apis.get(&key));
            served.is_some_and(|served| served.revision == entry.revision)
        };
        let behind: Vec<_> = pods.iter().filter(|pod| !serves(pod)).collect();
        self.touched.lock().retain(|(of, name), _| of != api || behind.iter().any(|pod| pod.name == *name));
        let mut again = None;
        for pod in behind {
            let (due, attempts) = self.due(api, pod, &entry.revision);
            // Who starts reads the newest anyway; who is ready and cannot be reached may serve it already, so
            // once is enough.
            if pod.report.is_err() && (attempts > 1 || !pod.ready) {
                continue;
            }
            if due.is_zero() {
                let value = format!("{}-{attempts}", &entry.revision[..entry.revision.len().min(12)]);
                if let Err(error) = writer.annotate(&api.0, &pod.name, SYNC, &value).await {
                    tracing::warn!(namespace = api.0, pod = pod.name, %error, "a pod was not touched");
                }
                let touch = Touch { revision: entry.revision.clone(), at: Instant::now(), attempts };
                self.touched.lock().insert((api.clone(), pod.name.clone()), touch);
            }
            let next = if due.is_zero() { pause(attempts) } else { due };
            again = Some(again.map_or(next, |again: Duration| again.min(next)));
        }
        again
    }

    /// When a pod is to be touched, and for which time.
    fn due(&self, api: &Name, pod: &PodView, revision: &str) -> (Duration, u32) {
        let touched = self.touched.lock();
        match touched.get(&(api.clone(), pod.name.clone())) {
            Some(touch) if touch.revision == revision => {
                (pause(touch.attempts).saturating_sub(touch.at.elapsed()), touch.attempts + 1)
            }
            _ => (Duration::ZERO, 1),
        }
    }

    /// Looks at the pods that `sidecar` selects, and replaces one that is not as a new one would be, if
    /// that is asked for. What was found, and when to look again.
    pub async fn look(
        &self,
        writer: &Writer,
        world: &World,
        settings: &Settings,
        api: &Name,
        sidecar: &Sidecar,
    ) -> (Sidecars, Duration) {
        let guests = world.guests(&api.0);
        // What is served is its last good self, while new pods get what it says now: nothing.
        if !guests.iter().any(|guest| guest.api == api.1) {
            return (Sidecars::default(), LOOK.1);
        }
        let new_pods = NewPods::new(guests, settings);
        let before = self.looked.lock().get(api).cloned();
        let before = before.filter(|look| look.digests == new_pods.digests);
        if let Some(look) = before.as_ref().filter(|look| look.at.elapsed() < LOOK.0) {
            return (look.found.clone(), LOOK.0.saturating_sub(look.at.elapsed()));
        }
        let (found, again) = match selected(writer, api, sidecar).await {
            Ok(pods) => self.compare(writer, api, sidecar, &pods, &new_pods).await,
            Err(error) => {
                tracing::warn!(namespace = api.0, api = api.1, %error, "pods were not looked for");
                (before.map(|look| look.found).unwrap_or_default(), LOOK.1)
            }
        };
        let look = Look { at: Instant::now(), digests: new_pods.digests, found: found.clone() };
        self.looked.lock().insert(api.clone(), look);
        (found, again)
    }

    /// Tells `pods` from new ones, and replaces one that differs, if that is asked for.
    async fn compare(
        &self,
        writer: &Writer,
        api: &Name,
        sidecar: &Sidecar,
        pods: &[Pod],
        new_pods: &NewPods<'_>,
    ) -> (Sidecars, Duration) {
        let mut found = Sidecars::default();
        let mut strays = Vec::new();
        let mut expected = HashMap::new();
        for pod in pods.iter().filter(|pod| !is_ending(pod)) {
            // The pods of a workload have the same labels.
            let digest = expected.entry(pod.labels()).or_insert_with_key(|labels| new_pods.digest(labels));
            if !has(pod, &api.1) {
                found.missing.push(pod.name_any());
            } else if pod.annotations().get(GIVEN) != digest.as_ref() {
                found.outdated.push(pod.name_any());
            } else {
                continue;
            }
            strays.push(pod);
        }
        let mut again = LOOK.1;
        if sidecar.update == Update::Rollout {
            (found.stuck, again) = self.replace(writer, api, pods, &strays, &new_pods.digests).await;
        }
        (found, again)
    }

    /// Has one of `strays` end, if it is time; how that stands, and when to look again.
    async fn replace(
        &self,
        writer: &Writer,
        api: &Name,
        pods: &[Pod],
        strays: &[&Pod],
        digests: &[String],
    ) -> (Option<String>, Duration) {
        let eviction = self.evicted.lock().get(&api.0).cloned();
        let eviction = eviction.filter(|eviction| eviction.at.elapsed() < FORGOTTEN);
        let next = match &eviction {
            Some(other) if other.api != api.1 && strays.is_empty() => Next::Nothing,
            Some(other) if other.api != api.1 => Next::Wait(format!("{} of {}", other.pod, other.api)),
            own => next(pods, strays, digests, own.as_ref()),
        };
        match next {
            Next::Nothing => {
                if eviction.is_some_and(|eviction| eviction.api == api.1) {
                    self.evicted.lock().remove(&api.0);
                }
                (None, LOOK.1)
            }
            Next::Stuck(reason) => (Some(reason), LOOK.1),
            Next::Wait(whom) => (Some(format!("they are replaced one by one; waiting for {whom}")), LOOK.0),
            Next::Evict(pod) => {
                let name = pod.name_any();
                match writer.evict(&api.0, pod).await {
                    Ok(true) => {}
                    Ok(false) => {
                        return (Some(format!("a disruption budget keeps {name} for now")), LOOK.0);
                    }
                    Err(error) => return (Some(format!("{name} cannot be evicted: {error}")), LOOK.1),
                }
                tracing::info!(namespace = api.0, pod = name, "evicted for a new sidecar");
                let eviction = Eviction {
                    api: api.1.clone(),
                    pod: name.clone(),
                    at: Instant::now(),
                    digests: digests.to_vec(),
                    known: pods.iter().filter_map(Pod::uid).collect(),
                    count: pods.iter().filter(|pod| !is_ending(pod)).count(),
                };
                self.evicted.lock().insert(api.0.clone(), eviction);
                (Some(format!("they are replaced one by one; waiting for the successor of {name}")), LOOK.0)
            }
        }
    }
}

fn pause(attempts: u32) -> Duration {
    (TOUCH.0 * 2_u32.saturating_pow(attempts.saturating_sub(1).min(16))).min(TOUCH.1)
}

fn is_ending(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether the sidecar of `api` is in the pod: by what it says, and by what it has.
fn has(pod: &Pod, api: &str) -> bool {
    let says = pod.annotations().get(APIS).is_some_and(|apis| apis.split(',').any(|it| it == api));
    let containers = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    says && containers.into_iter().any(|container| container.name == NAME)
}

/// The pods that `sidecar` selects and that can have one, those that are about to end included.
async fn selected(writer: &Writer, of: &Name, sidecar: &Sidecar) -> Result<Vec<Pod>, ApplyError> {
    let labels: Vec<_> =
        sidecar.labels(&of.1).iter().map(|(name, value)| format!("{name}={value}")).collect();
    let labels = labels.join(",");
    let api: Api<Pod> = Api::namespaced(writer.client.clone(), &of.0);
    let mut parameters = ListParams::default()
        .labels(&labels)
        .fields("status.phase!=Succeeded,status.phase!=Failed")
        .limit(LIST.0);
    let mut pods = Vec::new();
    for _ in 0..LIST.1 {
        let page =
            tokio::time::timeout(PATIENCE, api.list(&parameters)).await.map_err(|_| ApplyError::Late)?;
        let page = page.map_err(|source| ApplyError::Request {
            kind: "Pods",
            name: labels.clone(),
            source: Box::new(source),
        })?;
        pods.extend(page.items.into_iter().filter(can_have));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(pods),
        }
    }
    tracing::warn!(namespace = of.0, labels, "more pods than can be looked at; name fewer");
    Ok(pods)
}

fn can_have(pod: &Pod) -> bool {
    obstacle(&json!({"metadata": {"labels": pod.labels()}, "spec": pod.spec})).is_none()
}

/// What to do about pods that are not as new ones would be.
enum Next<'a> {
    /// Nothing: all are as they should be.
    Nothing,
    /// Nothing will help.
    Stuck(String),
    /// This one comes first.
    Wait(String),
    /// Have this one end.
    Evict(&'a Pod),
}

/// One pod at a time, when the successor of the last one is there and good, and all others are ready.
fn next<'a>(pods: &[Pod], strays: &[&'a Pod], digests: &[String], eviction: Option<&Eviction>) -> Next<'a> {
    let live: Vec<_> = pods.iter().filter(|pod| !is_ending(pod)).collect();
    if let Some(eviction) = eviction {
        let is_new = |pod: &&&Pod| pod.uid().is_none_or(|uid| !eviction.known.contains(&uid));
        // What new pods get may be something else by now; then its successor gets another chance.
        if eviction.digests == digests
            && let Some(pod) = strays.iter().find(is_new)
        {
            return Next::Stuck(format!(
                "{} took the place of {} and is no better, so no other is evicted; is the namespace labelled \
                 sluice.dev/injection: enabled, and does the webhook answer?",
                pod.name_any(),
                eviction.pod
            ));
        }
        if !live.iter().any(|pod| is_new(&pod)) || live.len() < eviction.count {
            return Next::Wait(format!("the successor of {}", eviction.pod));
        }
    }
    if strays.is_empty() {
        return Next::Nothing;
    }
    let would_come_back = |pod: &&Pod| {
        pod.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.kind != "Job")
    };
    let Some(stray) = strays.iter().copied().find(would_come_back) else {
        return Next::Stuck("nobody would make them again; delete them yourself".to_owned());
    };
    let settled = |pod: &Pod| !is_ending(pod) && is_ready(pod);
    match pods.iter().filter(|pod| pod.uid() != stray.uid()).find(|pod| !settled(pod)) {
        Some(pod) => Next::Wait(pod.name_any()),
        None => Next::Evict(stray),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, ready: bool, controller: Option<&str>) -> Pod {
        let owners = controller.map(|kind| {
            json!([{"apiVersion": "apps/v1", "kind": kind, "name": "x", "uid": "x", "controller": true}])
        });
        let status = if ready { "True" } else { "False" };
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "ownerReferences": owners},
            "status": {"conditions": [{"type": "Ready", "status": status}]},
        }))
        .expect("a pod")
    }

    fn ending(mut pod: Pod) -> Pod {
        let at = json!("2026-01-01T00:00:00Z");
        pod.metadata.deletion_timestamp = Some(serde_json::from_value(at).expect("a time"));
        pod
    }

    /// What `strays` of `pods` come to, after `known` were there when one was evicted.
    fn outcome(pods: &[Pod], strays: &[usize], known: &[&str]) -> String {
        outcome_of(pods, strays, known, &[])
    }

    /// The same, when new pods get what has the digests `expected`; then they had none.
    fn outcome_of(pods: &[Pod], strays: &[usize], known: &[&str], expected: &[String]) -> String {
        let strays: Vec<_> = strays.iter().map(|stray| &pods[*stray]).collect();
        let eviction = (!known.is_empty()).then(|| Eviction {
            api: "shop".into(),
            pod: known[0].into(),
            at: Instant::now(),
            digests: Vec::new(),
            known: known.iter().map(|name| (*name).to_owned()).collect(),
            count: known.len(),
        });
        match next(pods, &strays, expected, eviction.as_ref()) {
            Next::Nothing => "nothing".to_owned(),
            Next::Stuck(_) => "stuck".to_owned(),
            Next::Wait(whom) => format!("wait for {whom}"),
            Next::Evict(pod) => pod.name_any(),
        }
    }

    #[test]
    fn one_pod_at_a_time_is_evicted_when_all_others_are_ready() {
        let set = Some("ReplicaSet");
        let pods = [pod("a", true, set), pod("b", true, set)];
        assert_eq!(outcome(&pods, &[], &[]), "nothing");
        assert_eq!(outcome(&pods, &[0, 1], &[]), "a");
        let busy = [pod("a", true, set), pod("b", false, set)];
        assert_eq!(outcome(&busy, &[0], &[]), "wait for b");
        assert_eq!(outcome(&busy, &[1], &[]), "b", "whoever is replaced need not be ready");
        let leaving = [pod("a", true, set), ending(pod("b", true, set))];
        assert_eq!(outcome(&leaving, &[0], &[]), "wait for b");
        let alone = [pod("a", true, None), pod("b", true, Some("Job"))];
        assert_eq!(outcome(&alone, &[0, 1], &[]), "stuck");
    }

    #[test]
    fn after_an_eviction_nobody_goes_before_a_good_successor_is_there() {
        let set = Some("ReplicaSet");
        // `a` was evicted of three: it ends, it is gone, and nobody came, as a quota may have it.
        let ends = [ending(pod("a", true, set)), pod("b", true, set), pod("c", true, set)];
        assert_eq!(outcome(&ends, &[1, 2], &["a", "b", "c"]), "wait for the successor of a");
        let gone = [pod("b", true, set), pod("c", true, set)];
        assert_eq!(outcome(&gone, &[0, 1], &["a", "b", "c"]), "wait for the successor of a");
        let starts = [pod("b", true, set), pod("c", true, set), pod("d", false, set)];
        assert_eq!(outcome(&starts, &[0, 1], &["a", "b", "c"]), "wait for d");
        let good = [pod("b", true, set), pod("c", true, set), pod("d", true, set)];
        assert_eq!(outcome(&good, &[0, 1], &["a", "b", "c"]), "b");
        assert_eq!(outcome(&good, &[0, 1, 2], &["a", "b", "c"]), "stuck", "the successor is no better");
        assert_eq!(outcome(&good, &[], &["a", "b", "c"]), "nothing");
        // Something else is to be given since: the count still holds, the blame does not.
        let since = ["another".to_owned()];
        assert_eq!(outcome_of(&gone, &[0, 1], &["a", "b", "c"], &since), "wait for the successor of a");
        assert_eq!(outcome_of(&good, &[0, 1, 2], &["a", "b", "c"], &since), "b");
    }
}
