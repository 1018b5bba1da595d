//! What became of an object, in conditions: pure. Each message says what to do.

use std::collections::BTreeMap;

use sluice_config::placement::SIDECAR_LABEL;
use sluice_config::policy::Authentication;
use sluice_config::{Entry, Problem};
use sluice_crds::resource::ConditionStatus;

use crate::apply::ApplyError;
use crate::build::Note;
use crate::children::Owner;
use crate::observe::{PodView, Report};

mod exposure;
mod gateway;
mod status;

pub use exposure::refused_route;
pub use gateway::{GatewayFindings, gateway_verdicts};
pub use status::{api_status, conditions, conditions_of, differs, keep_what_pods_say, service_url};

/// Label of namespaces in which pods may be given sidecars: `enabled`.
const INJECTION: &str = "sluice.dev/injection";
/// Where a StreamAPI names its gateway.
const GATEWAY_REF: &str = "spec.placement.gateway.";
/// Why something is not programmed that clients outside the cluster should reach.
const NOT_EXPOSED: &str = "NotExposed";
/// Longest message: an API server takes 32,768 bytes.
const MESSAGE_BYTES: usize = 8 * 1024;

/// A condition without its times.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Which aspect.
    pub kind: &'static str,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why, in one word.
    pub reason: &'static str,
    /// Why, and what to do.
    pub message: String,
}

impl Verdict {
    fn new(
        kind: &'static str,
        status: ConditionStatus,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_BYTES {
            let end = (0..=MESSAGE_BYTES).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
            message.truncate(end);
            message.push('…');
        }
        Self { kind, status, reason, message }
    }
}

/// What was found out about a StreamAPI.
pub struct ApiFindings<'a> {
    /// `namespace/name`.
    pub key: &'a str,
    /// Everything wrong with it.
    pub problems: &'a [Problem],
    /// What is to be served: its newest good self.
    pub entry: Option<&'a Entry>,
    /// What it, or the gateway that it is on, consists of.
    pub owner: Owner<'a>,
    /// Why that could not be written.
    pub failed: Option<&'a ApplyError>,
    /// What is wrong with the gateway.
    pub gateway_fault: Option<&'a str>,
    /// Its pods.
    pub pods: &'a [PodView],
    /// Its children are left as they are.
    pub paused: bool,
    /// What is known of the pods that are to have it as a sidecar.
    pub sidecars: Option<&'a Sidecars>,
    /// Why clients outside the cluster do not reach it, although that is asked for.
    pub unexposed: Option<&'a str>,
}

/// The pods that an API's sidecar selects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sidecars {
    /// This operator adds no sidecars.
    pub is_off: bool,
    /// Run without the API.
    pub missing: Vec<String>,
    /// Run with another sidecar than new pods get.
    pub outdated: Vec<String>,
    /// Why they are not replaced although that is asked for.
    pub stuck: Option<String>,
}

impl Sidecars {
    /// What has to be told of them, and by which reason.
    fn complaint(&self) -> Option<(&'static str, String)> {
        if self.missing.is_empty() {
            return None;
        }
        let how = self.stuck.as_deref().unwrap_or(
            "they were created before the API selected them or while nobody added sidecars; restart them \
             (`kubectl rollout restart …`), or set `update: Rollout`",
        );
        Some(("NotInjected", format!("pods run without the sidecar: {}; {how}", some(&self.missing))))
    }

    /// What is no fault and worth knowing.
    fn note(&self) -> Option<String> {
        let stuck = self.stuck.as_ref().map(|stuck| format!(" ({stuck})")).unwrap_or_default();
        (!self.outdated.is_empty()).then(|| {
            format!(
                "; until they are restarted, the sidecar of {} is an earlier one{stuck}",
                some(&self.outdated)
            )
        })
    }
}

/// The first names of a list, and how many more there are.
pub(crate) fn some(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let more = names.len().saturating_sub(SHOWN);
    let shown = names[..names.len() - more].join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

/// The conditions of a StreamAPI. `Available` is what it is right now; damping is the caller's.
pub fn api_verdicts(findings: &ApiFindings<'_>) -> Vec<Verdict> {
    let (references, mistakes): (Vec<&Problem>, Vec<&Problem>) =
        findings.problems.iter().partition(|problem| is_reference(problem));
    let accepted = accepted(&mistakes, findings.failed);
    let is_accepted = accepted.status == ConditionStatus::True;
    let resolved = resolved(&references, findings.entry);
    let programmed = if findings.paused {
        let message = "nothing is written while the annotation sluice.dev/paused is \"true\"; what is served, and by \
                       which policies and keys, stays as it was: `kubectl annotate streamapi NAME sluice.dev/paused-`";
        Verdict::new("Programmed", ConditionStatus::False, "Paused", message)
    } else if !is_accepted || !references.is_empty() {
        let served = match findings.entry {
            Some(entry) => {
                format!("generation {} is served until its problems are corrected", entry.generation)
            }
            None => "nothing is served until its problems are corrected".to_owned(),
        };
        Verdict::new("Programmed", ConditionStatus::False, "NotAccepted", served)
    } else {
        programmed(findings)
    };
    vec![accepted, resolved, programmed, available(findings), secured(findings.entry)]
}

/// Whether the problem is about something else that is missing.
pub(crate) fn is_reference(problem: &Problem) -> bool {
    is_place_of_reference(&problem.at)
}

/// Whether what is wrong at that path is about something else.
pub fn is_place_of_reference(at: &str) -> bool {
    at.ends_with("secretRef.name") || at.starts_with("spec.targetRefs[") || at.starts_with(GATEWAY_REF)
}

fn list<'a>(problems: impl IntoIterator<Item = &'a &'a Problem>) -> String {
    problems.into_iter().map(|problem| problem.to_string()).collect::<Vec<_>>().join("; ")
}

fn accepted(mistakes: &[&Problem], failed: Option<&ApplyError>) -> Verdict {
    let refused = |reason, message: String| Verdict::new("Accepted", ConditionStatus::False, reason, message);
    match failed {
        _ if !mistakes.is_empty() => refused("Invalid", list(mistakes)),
        Some(error @ ApplyError::NameTaken { .. }) => refused("NameTaken", error.to_string()),
        _ => Verdict::new(
            "Accepted",
            ConditionStatus::True,
            "Accepted",
            "the definition is complete and valid",
        ),
    }
}

fn resolved(references: &[&Problem], entry: Option<&Entry>) -> Verdict {
    let kind = "ResolvedRefs";
    if !references.is_empty() {
        // As the Gateway API has it.
        let is_forbidden = references.iter().any(|problem| problem.at.ends_with("gateway.namespace"));
        let reason = if is_forbidden { "RefNotPermitted" } else { "RefNotFound" };
        return Verdict::new(kind, ConditionStatus::False, reason, list(references));
    }
    let mut closed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (channel, policy) in entry.iter().flat_map(|entry| &entry.policies) {
        if let Some(reason) = &policy.closed {
            closed.entry(reason).or_default().push(channel);
        }
    }
    if closed.is_empty() {
        return Verdict::new(kind, ConditionStatus::True, "ResolvedRefs", "everything it refers to is there");
    }
    let closed = closed.into_iter().map(|(reason, channels)| format!("{}: {reason}", channels.join(", ")));
    let message = format!(
        "channels are closed; see the conditions of the StreamPolicy: {}",
        closed.collect::<Vec<_>>().join("; ")
    );
    Verdict::new(kind, ConditionStatus::False, "PolicyNotInForce", message)
}

fn programmed(findings: &ApiFindings<'_>) -> Verdict {
    let verdict = |status, reason, message: String| Verdict::new("Programmed", status, reason, message);
    let Some(entry) = findings.entry else {
        return verdict(ConditionStatus::False, "Pending", "nothing was written yet".into());
    };
    if let Some(error) = findings.failed {
        return verdict(ConditionStatus::False, "ApplyFailed", error.to_string());
    }
    if let Some(fault) = findings.gateway_fault {
        let Owner { namespace, name, .. } = findings.owner;
        let message = format!("StreamGateway `{namespace}/{name}` is not as it should be: {fault}");
        return verdict(ConditionStatus::False, "GatewayNotProgrammed", message);
    }
    if findings.sidecars.is_some_and(|sidecars| sidecars.is_off) {
        let message = "this operator adds no sidecars; install its chart with `scope: Cluster` and `sidecars.enabled`, or \
                       set `placement.deployment`";
        return verdict(ConditionStatus::False, "InjectionOff", message.into());
    }
    if let Some((reason, message)) = findings.sidecars.and_then(Sidecars::complaint) {
        return verdict(ConditionStatus::False, reason, message);
    }
    if let Some(reason) = findings.unexposed {
        return verdict(ConditionStatus::False, NOT_EXPOSED, reason.to_owned());
    }
    let ready: Vec<_> = findings.pods.iter().filter(|pod| pod.ready).collect();
    if ready.is_empty() {
        return verdict(ConditionStatus::False, "NoPods", no_pods(findings));
    }
    let mut behind = Vec::new();
    for pod in ready {
        match &pod.report {
            Err(reason) => {
                let message = format!("pod {} does not tell what it serves: {reason}", pod.name);
                return verdict(ConditionStatus::Unknown, "Unreachable", message);
            }
            Ok(report) if !serves(report, findings.key, entry) => behind.push((pod, report)),
            Ok(_) => {}
        }
    }
    let Some((pod, report)) = behind.first() else {
        let note = findings.sidecars.and_then(Sidecars::note).unwrap_or_default();
        let message = format!("every ready pod serves this revision{note}");
        return verdict(ConditionStatus::True, "Programmed", message);
    };
    let refused = report.refused.iter().find(|refused| refused.revision == entry.revision);
    match refused {
        Some(refused) => {
            let problems: Vec<&Problem> = refused.problems.iter().collect();
            let message = format!("pod {} refuses it: {}", pod.name, list(&problems));
            verdict(ConditionStatus::False, "Refused", message)
        }
        None => verdict(ConditionStatus::False, "Pending", format!("pod {} does not serve it yet", pod.name)),
    }
}

fn no_pods(findings: &ApiFindings<'_>) -> String {
    let name = findings.key.split_once('/').map_or(findings.key, |(_, name)| name);
    let child = findings.owner.child_name();
    match findings.pods.first() {
        Some(pod) => format!("no pod is ready; see `kubectl describe pod {}`", pod.name),
        None if findings.sidecars.is_some() => format!(
            "no pod has the sidecar; give the pods of a workload the labels of `placement.sidecar.selector` (default: \
             {SIDECAR_LABEL}: {name}), in a namespace with the label {INJECTION}: enabled"
        ),
        None => {
            format!("no pod runs; see `kubectl describe deployment {child} -n {}`", findings.owner.namespace)
        }
    }
}

fn serves(report: &Report, key: &str, entry: &Entry) -> bool {
    let served = report.apis.get(key);
    served.is_some_and(|served| served.revision == entry.revision && served.material == entry.material)
}

fn available(findings: &ApiFindings<'_>) -> Verdict {
    let verdict = |status, reason, message: String| Verdict::new("Available", status, reason, message);
    let ready: Vec<_> = findings.pods.iter().filter(|pod| pod.ready).collect();
    if ready.is_empty() {
        return verdict(ConditionStatus::False, "NoPods", no_pods(findings));
    }
    let reports: Vec<_> = ready.iter().filter_map(|pod| pod.report.as_ref().ok()).collect();
    if reports.is_empty() {
        let message = "no pod tells the state of its servers".into();
        return verdict(ConditionStatus::Unknown, "Unreachable", message);
    }
    let mut away: BTreeMap<&str, &str> = BTreeMap::new();
    for server in findings.entry.iter().flat_map(|entry| &entry.api.spec.servers) {
        let seen: Vec<_> = reports
            .iter()
            .flat_map(|report| &report.servers)
            .filter(|seen| {
                seen.server == server.name
                    && Some((&*seen.namespace, &*seen.api)) == findings.key.split_once('/')
            })
            .collect();
        if !seen.iter().any(|seen| seen.up) {
            let reason = seen.iter().find_map(|seen| seen.reason.as_deref());
            away.insert(&server.name, reason.unwrap_or("no pod has connected to it yet"));
        }
    }
    if away.is_empty() {
        return verdict(ConditionStatus::True, "Available", "every server is connected".into());
    }
    let away: Vec<_> = away.iter().map(|(server, reason)| format!("server {server}: {reason}")).collect();
    verdict(ConditionStatus::False, "ServerDown", away.join("; "))
}

fn secured(entry: Option<&Entry>) -> Verdict {
    let verdict = |status, reason, message: String| Verdict::new("Secured", status, reason, message);
    let Some(entry) = entry else {
        return verdict(ConditionStatus::Unknown, "Pending", "nothing is served yet".into());
    };
    let open = entry.policies.iter().filter(|(_, policy)| {
        matches!(policy.authentication, None | Some(Authentication::None(_))) && policy.closed.is_none()
    });
    let open: Vec<_> = open.map(|(channel, _)| channel.as_str()).collect();
    if open.is_empty() {
        let message = "an authentication policy covers every channel".into();
        return verdict(ConditionStatus::True, "Secured", message);
    }
    let message = format!(
        "anybody may use {}; add a StreamPolicy with `authentication` that targets the API",
        open.join(", ")
    );
    verdict(ConditionStatus::False, "Open", message)
}

/// The conditions of a StreamPolicy.
pub fn policy_verdicts(problems: &[Problem], notes: &[&Note]) -> Vec<Verdict> {
    let (references, mistakes): (Vec<&Problem>, Vec<&Problem>) =
        problems.iter().partition(|problem| is_reference(problem));
    let accepted = if mistakes.is_empty() {
        let overridden: Vec<_> = notes
            .iter()
            .map(|note| {
                format!("`{}` on {} comes from StreamPolicy `{}`", note.part, note.channel, note.winner)
            })
            .collect();
        let message = match overridden.as_slice() {
            [] => "the policy is in force on its targets".to_owned(),
            some => format!("in force but for what is more specific or older: {}", some.join("; ")),
        };
        let reason = if notes.is_empty() { "Accepted" } else { "PartlyOverridden" };
        Verdict::new("Accepted", ConditionStatus::True, reason, message)
    } else {
        let message = format!("{}; its targets are closed until then", list(&mistakes));
        Verdict::new("Accepted", ConditionStatus::False, "Invalid", message)
    };
    let resolved = if references.is_empty() {
        Verdict::new(
            "ResolvedRefs",
            ConditionStatus::True,
            "ResolvedRefs",
            "everything it refers to is there",
        )
    } else {
        Verdict::new("ResolvedRefs", ConditionStatus::False, "RefNotFound", list(&references))
    };
    vec![accepted, resolved]
}

#[cfg(test)]
mod tests;
