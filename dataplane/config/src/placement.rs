//! Where the data plane of an API runs in a cluster, and what its pods may be given.
//!
//! A sidecar is the same data plane in pods of somebody else: it takes nothing from a pod template,
//! and gives the pods nothing but itself.
//!
//! The pod template is a typed subset on purpose: whoever may write a StreamAPI need not be one
//! who may run any pod, so containers, volumes, service accounts and security contexts cannot be
//! expressed.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::server::SecretRef;

mod autoscaling;
mod check;
mod exposure;
mod gateway;
mod sidecar;

pub use autoscaling::Autoscaling;
pub use check::{check, check_gateway, is_dns_name, is_label_value};
pub use exposure::{Controller, Exposure, HttpRoute, Ingress, ParentRef};
pub use gateway::{AllowedFrom, AllowedNamespaces, ApiLimits, GatewayRef, StreamGatewaySpec};
pub use sidecar::{Bind, SIDECAR_LABEL, SIDECAR_PORT, Selector, Sidecar, SidecarResources, Update};

/// Where the API's data plane runs. Exactly one kind is set. `sluice run` serves every API in its
/// own process and ignores this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Placement {
    /// A Deployment of the API's own.
    Deployment(Deployment),
    /// Inside the pods of other workloads, as a native sidecar container.
    Sidecar(Sidecar),
    /// On a StreamGateway that many APIs share.
    Gateway(GatewayRef),
}

impl Placement {
    /// The Deployment of the API's own, if it has one.
    pub const fn deployment(&self) -> Option<&Deployment> {
        match self {
            Self::Deployment(deployment) => Some(deployment),
            Self::Sidecar(_) | Self::Gateway(_) => None,
        }
    }

    /// The sidecar, if it is served by one.
    pub const fn sidecar(&self) -> Option<&Sidecar> {
        match self {
            Self::Sidecar(sidecar) => Some(sidecar),
            Self::Deployment(_) | Self::Gateway(_) => None,
        }
    }

    /// The gateway, if it is served by one.
    pub const fn gateway(&self) -> Option<&GatewayRef> {
        match self {
            Self::Gateway(gateway) => Some(gateway),
            Self::Deployment(_) | Self::Sidecar(_) => None,
        }
    }
}

impl Default for Placement {
    fn default() -> Self {
        Self::Deployment(Deployment::default())
    }
}

/// The Deployment that serves the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Deployment {
    /// How many pods. Every one serves every client; from two on, a PodDisruptionBudget keeps all
    /// but one of them up while nodes are drained. With `autoscaling` it has no effect.
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: u32,
    /// Has the number of pods follow what they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub autoscaling: Option<Autoscaling>,
    /// What the data plane's container asks for and may use.
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub resources: Resources,
    /// What the pods are given besides.
    pub pod_template: PodTemplate,
    /// Where clients connect: at most one listener of each protocol. Default: `HTTP` on port 80.
    // Whoever applies others replaces them all: the default, stored and nobody's, must not stay beside them.
    #[schemars(length(min = 1, max = 2), extend("x-kubernetes-list-type" = "atomic"))]
    pub listeners: Vec<Listener>,
    /// Has clients outside the cluster reach it, below the path of what it serves. Default: nobody outside does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposure: Option<Box<Exposure>>,
}

/// A port of the API's Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Name of the listener.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Port of the Service. Default: 80 for `HTTP`, 443 for `HTTPS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// What is spoken there.
    pub protocol: Protocol,
    /// The certificate of an `HTTPS` listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
}

impl Listener {
    /// The port of the Service.
    pub fn service_port(&self) -> u16 {
        self.port.unwrap_or(match self.protocol {
            Protocol::Http => 80,
            Protocol::Https => 443,
        })
    }
}

/// What a listener speaks. Both serve HTTP/1.1, HTTP/2 and WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// In the clear.
    #[serde(rename = "HTTP")]
    Http,
    /// With TLS.
    #[serde(rename = "HTTPS")]
    Https,
}

/// The certificate of a listener. A new one is taken without restarting pods or closing connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTls {
    /// A `kubernetes.io/tls` Secret: `tls.crt` (the chain, leaf first) and `tls.key`, both PEM.
    pub secret_ref: SecretRef,
}

impl Default for Deployment {
    fn default() -> Self {
        let http = Listener { name: "http".into(), port: None, protocol: Protocol::Http, tls: None };
        Self {
            replicas: 1,
            autoscaling: None,
            resources: Resources::default(),
            pod_template: PodTemplate::default(),
            listeners: vec![http],
            exposure: None,
        }
    }
}

impl Deployment {
    /// The listener of that protocol, if there is one.
    pub fn listener(&self, protocol: Protocol) -> Option<&Listener> {
        self.listeners.iter().find(|listener| listener.protocol == protocol)
    }

    /// The fewest pods there are to be.
    pub fn fewest(&self) -> u32 {
        self.autoscaling.as_ref().map_or(self.replicas, |autoscaling| autoscaling.min_replicas)
    }

    /// The Secret of the HTTPS listener's certificate.
    pub fn certificate(&self) -> Option<&SecretRef> {
        Some(&self.listener(Protocol::Https)?.tls.as_ref()?.secret_ref)
    }
}

/// Compute resources by name (`cpu`, `memory`), as Kubernetes quantities (`500m`, `256Mi`). Rings,
/// client buffers and broker queues stay within 60 % of the memory limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// What the scheduler reserves.
    #[schemars(extend("maxProperties" = 8))]
    pub requests: BTreeMap<String, Quantity>,
    /// What the container may use at most.
    #[schemars(extend("maxProperties" = 8))]
    pub limits: BTreeMap<String, Quantity>,
}

impl Default for Resources {
    fn default() -> Self {
        let quantities = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), Quantity((*value).to_owned()))).collect()
        };
        Self {
            requests: quantities(&[("cpu", "100m"), ("memory", "128Mi")]),
            limits: quantities(&[("memory", "512Mi")]),
        }
    }
}

/// A Kubernetes quantity, like `500m`, `2` or `256Mi`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Quantity(
    #[schemars(
        length(min = 1, max = 20),
        regex(pattern = r"^[0-9]+(\.[0-9]{1,3})?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")
    )]
    pub String,
);

impl Quantity {
    /// The amount in thousandths of the base unit; `None` if it is not a quantity.
    pub fn milli(&self) -> Option<u128> {
        let text = self.0.as_str();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || fraction.len() > 3 || (number.contains('.') && fraction.is_empty()) {
            return None;
        }
        let thousandths: u128 = format!("{whole}{fraction:0<3}").parse().ok()?;
        let factor: u128 = match unit {
            "m" => return Some(thousandths / 1000),
            "" => 1,
            "k" => 1000,
            "M" => 1000_u128.pow(2),
            "G" => 1000_u128.pow(3),
            "T" => 1000_u128.pow(4),
            "Ki" => 1024,
            "Mi" => 1024_u128.pow(2),
            "Gi" => 1024_u128.pow(3),
            "Ti" => 1024_u128.pow(4),
            _ => return None,
        };
        thousandths.checked_mul(factor)
    }
}

/// What pods are given besides what the operator decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PodTemplate {
    /// Labels of the pods. Those below `sluice.dev/` and `app.kubernetes.io/` are the operator's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub labels: BTreeMap<String, LabelValue>,
    /// Annotations of the pods. Those below `sluice.dev/` are the operator's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, AnnotationValue>,
    /// Labels that a node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, LabelValue>,
    /// Taints that the pods accept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tolerations: Vec<Toleration>,
    /// How the pods spread over nodes and zones. Default: softly, over nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub topology_spread_constraints: Option<Vec<TopologySpread>>,
    /// The pods' PriorityClass.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub priority_class_name: Option<String>,
    /// Secrets for pulling the data plane's image.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub image_pull_secrets: Vec<PullSecret>,
}

/// A Secret of the StreamAPI's namespace that the kubelet pulls images with; it needs no label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PullSecret {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
}

/// Value of a label, at most 63 characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct LabelValue(
    #[schemars(length(max = 63), regex(pattern = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"))]
    pub  String,
);

/// Value of an annotation, at most 1,024 characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct AnnotationValue(#[schemars(length(max = 1024))] pub String);

/// A taint that the pods accept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Toleration {
    /// Key of the taint. Without it every key, with `operator: Exists`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 316))]
    pub key: Option<String>,
    /// How key and value are compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<TolerationOperator>,
    /// Value of the taint.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// Effect of the taint. Without it every effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
    /// Seconds for which `NoExecute` is tolerated. Without it for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub toleration_seconds: Option<i64>,
}

/// How a toleration compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TolerationOperator {
    /// The taint has this key.
    Exists,
    /// The taint has this key and value.
    Equal,
}

/// Effects of a taint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TaintEffect {
    /// Not scheduled there.
    NoSchedule,
    /// Rather not scheduled there.
    PreferNoSchedule,
    /// Not scheduled there, and evicted.
    NoExecute,
}

/// How pods spread over a topology; the selector is the API's own pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopologySpread {
    /// By how many pods two domains may differ.
    #[schemars(range(min = 1, max = 1000))]
    pub max_skew: u32,
    /// Label of nodes that names the domain, like `topology.kubernetes.io/zone`.
    #[schemars(length(min = 1, max = 316))]
    pub topology_key: String,
    /// What to do if that is not possible.
    pub when_unsatisfiable: WhenUnsatisfiable,
}

/// What to do with a pod that cannot be spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenUnsatisfiable {
    /// It waits.
    DoNotSchedule,
    /// It is placed where the skew is least.
    ScheduleAnyway,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_quantities_are_equal_however_they_are_written() {
        let milli = |text: &str| Quantity(text.into()).milli();
        assert_eq!(milli("0.5"), milli("500m"));
        assert_eq!(milli("1"), milli("1000m"));
        assert_eq!(milli("1Gi"), milli("1024Mi"));
        assert_eq!(milli("1.5k"), Some(1_500_000));
        assert_ne!(milli("1M"), milli("1Mi"));
    }

    #[test]
    fn what_is_not_a_quantity_has_no_amount() {
        for text in ["", "m", "1.", "1.2345", "1e3", "-1", "1 Gi", "1GiB"] {
            assert_eq!(Quantity(text.into()).milli(), None, "{text}");
        }
    }
}
