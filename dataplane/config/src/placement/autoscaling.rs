//! How many pods there are when that depends on what they do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A HorizontalPodAutoscaler for the pods. Of several targets the one that asks for most pods counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Autoscaling {
    /// Fewest pods.
    #[serde(default = "Autoscaling::default_min")]
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: u32,
    /// Most pods.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: u32,
    /// Average use of the CPU that the pods request, in percent; needs metrics-server. Default: 70, if no
    /// other target is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub cpu_utilization: Option<u32>,
    /// Open streams of each pod on average; needs an adapter (such as prometheus-adapter) that serves
    /// `sluice_connections` as a metric of pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections_per_pod: Option<u32>,
}

impl Autoscaling {
    /// Default of `cpuUtilization` where nothing else is aimed at.
    const CPU_UTILIZATION: u32 = 70;

    const fn default_min() -> u32 {
        1
    }

    /// Percent of the requested CPU, if that is aimed at.
    pub fn cpu(&self) -> Option<u32> {
        self.cpu_utilization.or_else(|| self.connections_per_pod.is_none().then_some(Self::CPU_UTILIZATION))
    }
}
