//! Looks after pods of somebody else that are to have a sidecar.
//!
//! A sidecar sees its config only through mounts, which a kubelet looks at once a minute, or at once
//! when anything of the pod changes: so pods that are behind are touched. Pods without the sidecar, or
//! with an earlier one, are found, told and, where that is asked for, replaced.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sluice_config::Entry;
use sluice_config::placement::{Sidecar, Update};

use crate::apply::{ApplyError, PATIENCE, Writer};
use crate::children::sidecar::{APIS, GIVEN, digest, guests, obstacle};
use crate::children::{Owner, Settings};
use crate::observe::{PodView, is_ready};
use crate::report::Sidecars;
use crate::world::{Name, World};

/// Annotation that is changed so that a kubelet looks at a pod's mounts.
const SYNC: &str = "sluice.dev/sync";
/// Pauses between two touches of a pod that is still behind.
const TOUCH: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How often pods are looked for at most, and how often if nothing happens.
const LOOK: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// Most pods of one list.
const LIST: u32 = 500;

/// What is known of the sidecars of all APIs.
#[derive(Default)]
pub struct Care {
    /// By API and pod.
    touched: Mutex<HashMap<(Name, String), Touch>>,
    looked: Mutex<HashMap<Name, Look>>,
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
    /// When a pod was last evicted: younger ones show whether that helps.
    evicted: Option<Timestamp>,
}

impl Care {
    /// Forgets an API.
    pub fn forget(&self, api: &Name) {
        self.touched.lock().retain(|(of, _), _| of != api);
        self.looked.lock().remove(api);
    }

    /// Has kubelets look at the mounts of the pods that do not serve `entry`; when to try again.
    pub async fn sync(
        &self,
        writer: &Writer,
        api: &Name,
        entry: &Entry,
        pods: &[PodView],
    ) -> Result<Option<Duration>, ApplyError> {
        let key = format!("{}/{}", api.0, api.1);
        let is_behind = |pod: &&PodView| {
            let Ok(report) = &pod.report else { return false };
            let refuses = report.refused.iter().any(|refused| refused.revision == entry.revision);
            !refuses && report.apis.get(&key).is_none_or(|served| served.revision != entry.revision)
        };
        let behind: Vec<_> = pods.iter().filter(is_behind).collect();
        self.touched.lock().retain(|(of, name), _| of != api || behind.iter().any(|pod| pod.name == *name));
        let mut again = None;
        for pod in behind {
            let (due, attempts) = self.due(api, pod, &entry.revision);
            if due.is_zero() {
                let value = format!("{}-{attempts}", &entry.revision[..entry.revision.len().min(12)]);
                writer.annotate(&api.0, &pod.name, SYNC, &value).await?;
                let touch = Touch { revision: entry.revision.clone(), at: Instant::now(), attempts };
                self.touched.lock().insert((api.clone(), pod.name.clone()), touch);
            }
            let next = if due.is_zero() { pause(attempts) } else { due };
            again = Some(again.map_or(next, |again: Duration| again.min(next)));
        }
        Ok(again)
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
        owner: &Owner<'_>,
        sidecar: &Sidecar,
    ) -> Result<(Sidecars, Duration), ApplyError> {
        if !settings.injection {
            return Ok((Sidecars { is_off: true, ..Sidecars::default() }, LOOK.1));
        }
        let name = (owner.namespace.to_owned(), owner.name.to_owned());
        let apis = world.guests(owner.namespace);
        let expected = |labels| digest(&guests(&apis, labels), settings);
        let before = self.looked.lock().get(&name).cloned();
        let digests: Vec<String> =
            apis.iter().filter_map(|guest| digest(std::slice::from_ref(guest), settings)).collect();
        if let Some(look) = &before
            && look.digests == digests
            && look.at.elapsed() < LOOK.0
        {
            return Ok((look.found.clone(), LOOK.0.saturating_sub(look.at.elapsed())));
        }
        let pods = selected(writer, owner, sidecar).await?;
        let mut found = Sidecars::default();
        let mut strays = Vec::new();
        for pod in &pods {
            let annotation = |name: &str| pod.annotations().get(name).map(String::as_str);
            let has = annotation(APIS).is_some_and(|apis| apis.split(',').any(|api| api == owner.name));
            if !has {
                found.missing.push(pod.name_any());
            } else if annotation(GIVEN) != expected(pod.labels()).as_deref() {
                found.outdated.push(pod.name_any());
            } else {
                continue;
            }
            strays.push(pod);
        }
        let mut evicted = before.as_ref().and_then(|look| look.evicted);
        let mut again = LOOK.1;
        if sidecar.update == Update::Rollout && !strays.is_empty() {
            again = LOOK.0;
            match next(&pods, &strays, evicted) {
                Next::Stuck(reason) => found.stuck = Some(reason),
                Next::Wait(pod) => {
                    let pod = pod.name_any();
                    found.stuck =
                        Some(format!("they are replaced one by one, the next one when {pod} is ready"));
                }
                Next::Evict(pod) => {
                    let at = Timestamp::now();
                    if writer.evict(owner.namespace, pod).await? {
                        tracing::info!(
                            namespace = owner.namespace,
                            pod = pod.name_any(),
                            "evicted for a new sidecar"
                        );
                        evicted = Some(at);
                    } else {
                        found.stuck = Some(format!(
                            "the disruption budget of {} does not allow it now",
                            pod.name_any()
                        ));
                    }
                }
            }
        }
        self.looked.lock().insert(name, Look { at: Instant::now(), digests, found: found.clone(), evicted });
        Ok((found, again))
    }
}

fn pause(attempts: u32) -> Duration {
    (TOUCH.0 * 2_u32.saturating_pow(attempts.saturating_sub(1).min(16))).min(TOUCH.1)
}

/// The pods that `sidecar` selects, are not about to end, and can have one.
async fn selected(writer: &Writer, owner: &Owner<'_>, sidecar: &Sidecar) -> Result<Vec<Pod>, ApplyError> {
    let labels: Vec<_> =
        sidecar.labels(owner.name).iter().map(|(name, value)| format!("{name}={value}")).collect();
    let api: Api<Pod> = Api::namespaced(writer.client.clone(), owner.namespace);
    let parameters = ListParams::default()
        .labels(&labels.join(","))
        .fields("status.phase!=Succeeded,status.phase!=Failed")
        .limit(LIST);
    let listed = tokio::time::timeout(PATIENCE, api.list(&parameters)).await.map_err(|_| ApplyError::Late)?;
    let listed = listed.map_err(|source| ApplyError::Request {
        kind: "Pods",
        name: labels.join(","),
        source: Box::new(source),
    })?;
    let can_have = |pod: &Pod| {
        let pod = json!({"metadata": {"labels": pod.labels()}, "spec": {
            "hostNetwork": pod.spec.as_ref().and_then(|spec| spec.host_network),
            "os": pod.spec.as_ref().and_then(|spec| spec.os.as_ref()).map_or(Value::Null, |os| json!({"name": os.name})),
        }});
        obstacle(&pod).is_none()
    };
    Ok(listed.items.into_iter().filter(can_have).collect())
}

/// What to do about pods that are not as new ones would be.
enum Next<'a> {
    /// Nothing will help.
    Stuck(String),
    /// This one has to become ready first.
    Wait(&'a Pod),
    /// Have this one end.
    Evict(&'a Pod),
}

/// One pod at a time, when all others are ready; none if the last successor was no better.
fn next<'a>(pods: &'a [Pod], strays: &[&'a Pod], evicted: Option<Timestamp>) -> Next<'a> {
    let younger = |pod: &&&Pod| {
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        // Creation is told in whole seconds.
        created.zip(evicted).is_some_and(|(created, evicted)| created.as_second() > evicted.as_second())
    };
    if let Some(pod) = strays.iter().find(younger) {
        return Next::Stuck(format!(
            "{} took the place of an evicted one and is no better, so no other is evicted; is the namespace labelled \
             sluice.dev/injection: enabled, and does the webhook answer?",
            pod.name_any()
        ));
    }
    let would_come_back = |pod: &&Pod| {
        pod.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.kind != "Job")
    };
    let Some(stray) = strays.iter().copied().find(would_come_back) else {
        return Next::Stuck("nobody would make them again; delete them yourself".to_owned());
    };
    let settled = |pod: &Pod| pod.metadata.deletion_timestamp.is_none() && is_ready(pod);
    match pods.iter().filter(|pod| pod.uid() != stray.uid()).find(|pod| !settled(pod)) {
        Some(pod) => Next::Wait(pod),
        None => Next::Evict(stray),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, ready: bool, created: &str, controller: Option<&str>) -> Pod {
        let owners = controller.map(|kind| {
            json!([{"apiVersion": "apps/v1", "kind": kind, "name": "x", "uid": "x", "controller": true}])
        });
        let status = if ready { "True" } else { "False" };
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": created, "ownerReferences": owners},
            "status": {"conditions": [{"type": "Ready", "status": status}]},
        }))
        .expect("a pod")
    }

    fn outcome(pods: &[Pod], strays: &[usize], evicted: Option<&str>) -> String {
        let strays: Vec<_> = strays.iter().map(|stray| &pods[*stray]).collect();
        match next(pods, &strays, evicted.map(|at| at.parse().expect("a time"))) {
            Next::Stuck(_) => "stuck".to_owned(),
            Next::Wait(_) => "wait".to_owned(),
            Next::Evict(pod) => pod.name_any(),
        }
    }

    #[test]
    fn one_pod_at_a_time_is_evicted_and_none_in_vain() {
        let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-01T00:10:00Z");
        let set = Some("ReplicaSet");
        let pods = [pod("a", true, early, set), pod("b", true, early, set)];
        assert_eq!(outcome(&pods, &[0, 1], None), "a");
        let busy = [pod("a", true, early, set), pod("b", false, early, set)];
        assert_eq!(outcome(&busy, &[0], None), "wait");
        assert_eq!(outcome(&busy, &[1], None), "b", "whoever is replaced need not be ready");
        // The successor of the last one lacks it too.
        let vain = [pod("a", true, late, set), pod("b", true, early, set)];
        assert_eq!(outcome(&vain, &[0, 1], Some("2026-01-01T00:05:00Z")), "stuck");
        assert_eq!(outcome(&vain, &[1], Some("2026-01-01T00:05:00Z")), "b", "the successor is fine");
        let alone = [pod("a", true, early, None), pod("b", true, early, Some("Job"))];
        assert_eq!(outcome(&alone, &[0, 1], None), "stuck");
    }
}
