//! The conditions of a StreamGateway: pure.

use sluice_config::{Config, Problem};
use sluice_crds::resource::ConditionStatus;

use super::{NOT_EXPOSED, Verdict, accepted, is_reference, resolved, serves};
use crate::apply::ApplyError;
use crate::children::Owner;
use crate::observe::PodView;

/// What was found out about a StreamGateway.
pub struct GatewayFindings<'a> {
    /// It.
    pub owner: Owner<'a>,
    /// Everything wrong with it.
    pub problems: &'a [Problem],
    /// What its pods are to serve.
    pub config: &'a Config,
    /// Why that could not be written.
    pub failed: Option<&'a ApplyError>,
    /// Its pods.
    pub pods: &'a [PodView],
    /// Its children are left as they are.
    pub paused: bool,
    /// Why clients outside the cluster do not reach it, although that is asked for.
    pub unexposed: Option<&'a str>,
}

/// The conditions of a StreamGateway.
pub fn gateway_verdicts(findings: &GatewayFindings<'_>) -> Vec<Verdict> {
    let (references, mistakes): (Vec<&Problem>, Vec<&Problem>) =
        findings.problems.iter().partition(|problem| is_reference(problem));
    let accepted = accepted(&mistakes, findings.failed);
    let resolved = resolved(&references, None);
    let verdict = |status, reason, message: String| Verdict::new("Programmed", status, reason, message);
    let programmed = if findings.paused {
        let message = "nothing is written while the annotation sluice.dev/paused is \"true\"; what is served, of every API \
                       on it, stays as it was: `kubectl annotate streamgateway NAME sluice.dev/paused-`";
        verdict(ConditionStatus::False, "Paused", message.into())
    } else if accepted.status != ConditionStatus::True || !references.is_empty() {
        let message = "see the other conditions; until then it stays as it was".into();
        verdict(ConditionStatus::False, "NotAccepted", message)
    } else if let Some(error) = findings.failed {
        verdict(ConditionStatus::False, "ApplyFailed", error.to_string())
    } else {
        gateway_programmed(findings)
    };
    vec![accepted, resolved, programmed]
}

fn gateway_programmed(findings: &GatewayFindings<'_>) -> Verdict {
    let verdict = |status, reason, message: String| Verdict::new("Programmed", status, reason, message);
    if let Some(reason) = findings.unexposed {
        return verdict(ConditionStatus::False, NOT_EXPOSED, reason.to_owned());
    }
    let ready: Vec<_> = findings.pods.iter().filter(|pod| pod.ready).collect();
    if ready.is_empty() {
        let message = match findings.pods.first() {
            Some(pod) => format!("no pod is ready; see `kubectl describe pod {}`", pod.name),
            None => {
                format!("no pod runs; see `kubectl describe deployment {}`", findings.owner.child_name())
            }
        };
        return verdict(ConditionStatus::False, "NoPods", message);
    }
    for pod in ready {
        let report = match &pod.report {
            Ok(report) => report,
            Err(reason) => {
                let message = format!("pod {} does not tell what it serves: {reason}", pod.name);
                return verdict(ConditionStatus::Unknown, "Unreachable", message);
            }
        };
        // What one API has to say is in its own conditions.
        let is_refused = |revision: &str| report.refused.iter().any(|refused| refused.revision == revision);
        let mut behind = findings.config.apis.iter();
        let behind = behind.find(|(key, entry)| !serves(report, key, entry) && !is_refused(&entry.revision));
        if let Some((key, _)) = behind {
            let message = format!("pod {} does not serve {key} as it should yet", pod.name);
            return verdict(ConditionStatus::False, "Pending", message);
        }
    }
    verdict(ConditionStatus::True, "Programmed", "every ready pod serves what is placed here".into())
}
