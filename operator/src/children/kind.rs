//! What children there are, and what the API server calls them.

use kube::core::ApiResource;
use sluice_crds::{GROUP, VERSION};

/// Group of the Gateway API.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// Kinds of children, in the order in which they are written: what a pod needs comes before it,
/// values before the config that names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChildKind {
    /// The material, and the key of cursors.
    Secret,
    /// The config.
    ConfigMap,
    /// The pods' account.
    ServiceAccount,
    /// What the pods may watch.
    Role,
    /// Gives the account the role.
    RoleBinding,
    /// Where clients connect.
    Service,
    /// Who may connect.
    NetworkPolicy,
    /// How many pods stay up while nodes are drained.
    PodDisruptionBudget,
    /// The pods.
    Deployment,
    /// How many pods there are.
    HorizontalPodAutoscaler,
    /// How clients outside the cluster reach them.
    Ingress,
    /// The same by the Gateway API, which a cluster may lack.
    HttpRoute,
    /// What is made from the Service of a broker; no data plane consists of it.
    StreamApi,
}

impl ChildKind {
    /// All that a data plane consists of, in order.
    pub const ALL: [Self; 12] = [
        Self::Secret,
        Self::ConfigMap,
        Self::ServiceAccount,
        Self::Role,
        Self::RoleBinding,
        Self::Service,
        Self::NetworkPolicy,
        Self::PodDisruptionBudget,
        Self::Deployment,
        Self::HorizontalPodAutoscaler,
        Self::Ingress,
        Self::HttpRoute,
    ];

    /// Group, version, kind and plural.
    pub const fn names(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::Secret => ("", "v1", "Secret", "secrets"),
            Self::ConfigMap => ("", "v1", "ConfigMap", "configmaps"),
            Self::ServiceAccount => ("", "v1", "ServiceAccount", "serviceaccounts"),
            Self::Role => ("rbac.authorization.k8s.io", "v1", "Role", "roles"),
            Self::RoleBinding => ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"),
            Self::Service => ("", "v1", "Service", "services"),
            Self::NetworkPolicy => ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
            Self::PodDisruptionBudget => ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
            Self::Deployment => ("apps", "v1", "Deployment", "deployments"),
            Self::HorizontalPodAutoscaler => {
                ("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
            }
            Self::Ingress => ("networking.k8s.io", "v1", "Ingress", "ingresses"),
            Self::HttpRoute => (GATEWAY_GROUP, "v1", "HTTPRoute", "httproutes"),
            Self::StreamApi => (GROUP, VERSION, "StreamAPI", "streamapis"),
        }
    }

    /// Whether it is deleted when it is needed no longer. The operator may delete no Secret and no ConfigMap; these
    /// are [`emptied`](super::emptied).
    pub const fn is_optional(self) -> bool {
        !matches!(self, Self::Secret | Self::ConfigMap)
    }

    /// Whether it leads there from outside. Others have a say in it, so it is written when all else is done.
    pub const fn is_outside(self) -> bool {
        matches!(self, Self::Ingress | Self::HttpRoute)
    }

    /// Whether a cluster may not know it.
    pub const fn may_be_absent(self) -> bool {
        matches!(self, Self::HttpRoute)
    }

    /// As the client wants it.
    pub fn resource(self) -> ApiResource {
        let (group, version, kind, plural) = self.names();
        resource(group, version, kind, plural)
    }
}

/// A kind as the client wants it.
pub fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    ApiResource {
        group: group.into(),
        version: version.into(),
        api_version,
        kind: kind.into(),
        plural: plural.into(),
    }
}
