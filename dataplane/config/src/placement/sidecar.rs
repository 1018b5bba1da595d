//! The data plane inside the pods of other workloads.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{LabelValue, Quantity};

/// Where clients reach a sidecar, on the pod's own loopback unless [`Bind::Pod`] is asked for.
pub const SIDECAR_PORT: u16 = 15080;
/// Label by which pods ask for the sidecar of the API that its value names.
pub const SIDECAR_LABEL: &str = "sluice.dev/sidecar";

/// A native sidecar in every pod that is selected, added as the pod is created. The namespace must be
/// labelled `sluice.dev/injection: enabled`. Several APIs that select a pod share one sidecar; then
/// `resources` and `bind` are those of the oldest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Sidecar {
    /// Which pods of the namespace get it. Default: those with the label `sluice.dev/sidecar` and the
    /// API's name as its value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// What the sidecar's container asks for and may use. Default: 50m and 64Mi, at most 256Mi.
    pub resources: SidecarResources,
    /// Who may connect to port 15080.
    pub bind: Bind,
    /// What becomes of running pods that lack the sidecar or have another one than new pods get.
    pub update: Update,
}

/// Compute resources of a sidecar by name (`cpu`, `memory`), as Kubernetes quantities. Rings, client
/// buffers and broker queues stay within 60 % of the memory limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SidecarResources {
    /// What the scheduler reserves.
    #[schemars(extend("maxProperties" = 8))]
    pub requests: BTreeMap<String, Quantity>,
    /// What the container may use at most.
    #[schemars(extend("maxProperties" = 8))]
    pub limits: BTreeMap<String, Quantity>,
}

impl Default for SidecarResources {
    fn default() -> Self {
        let quantity = |name: &str, value: &str| (name.to_owned(), Quantity(value.to_owned()));
        Self {
            requests: [quantity("cpu", "50m"), quantity("memory", "64Mi")].into(),
            limits: [quantity("memory", "256Mi")].into(),
        }
    }
}

impl Sidecar {
    /// Whether a pod with these labels gets the sidecar of `api`.
    pub fn selects(&self, api: &str, labels: &BTreeMap<String, String>) -> bool {
        self.labels(api).iter().all(|(name, value)| labels.get(*name).is_some_and(|found| found == value))
    }

    /// The labels of the pods that get the sidecar of `api`.
    pub fn labels<'a>(&'a self, api: &'a str) -> Vec<(&'a str, &'a str)> {
        let Some(selector) = &self.selector else { return vec![(SIDECAR_LABEL, api)] };
        selector.match_labels.iter().map(|(name, value)| (name.as_str(), value.0.as_str())).collect()
    }
}

/// Selects pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    /// Labels that a pod must have, all of them.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 8))]
    pub match_labels: BTreeMap<String, LabelValue>,
}

/// Who may connect to a sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Bind {
    /// The containers of the pod, at `127.0.0.1`.
    #[default]
    Localhost,
    /// Whoever reaches the pod's address.
    Pod,
}

/// When running pods get what new pods get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Update {
    /// When somebody restarts them; the StreamAPI's conditions name them.
    #[default]
    OnNextRestart,
    /// Pods are evicted one at a time, as their disruption budgets allow, when all others are ready.
    /// Pods of Jobs and pods that nobody would make again stay.
    Rollout,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn pods_ask_by_label_unless_a_selector_says_otherwise() {
        let by_label = Sidecar::default();
        assert!(by_label.selects("shop", &labels(&[(SIDECAR_LABEL, "shop"), ("app", "x")])));
        assert!(!by_label.selects("shop", &labels(&[(SIDECAR_LABEL, "stock")])));
        assert!(!by_label.selects("shop", &labels(&[])));
        let match_labels = [("app", "till"), ("tier", "")]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), LabelValue(value.into())))
            .collect();
        let selecting = Sidecar { selector: Some(Selector { match_labels }), ..Sidecar::default() };
        assert!(selecting.selects("shop", &labels(&[("app", "till"), ("tier", ""), ("more", "y")])));
        assert!(!selecting.selects("shop", &labels(&[("app", "till")])), "all of them");
        assert!(!selecting.selects("shop", &labels(&[(SIDECAR_LABEL, "shop")])));
    }
}
