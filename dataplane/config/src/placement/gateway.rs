//! A data plane that many APIs share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Deployment;

/// The StreamGateway that serves an API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRef {
    /// Name of the StreamGateway.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Its namespace, which has to allow the API's own. Default: that of the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: Option<String>,
}

impl GatewayRef {
    /// Its namespace, for an API in `own`.
    pub fn namespace<'a>(&'a self, own: &'a str) -> &'a str {
        self.namespace.as_deref().unwrap_or(own)
    }
}

/// The data plane's own Deployment, and who may place APIs on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StreamGatewaySpec {
    /// The pods and how clients reach them, as an API of its own has them.
    #[serde(flatten)]
    pub deployment: Deployment,
    /// Which namespaces' StreamAPIs may be served here. Their credentials are copied into this
    /// gateway's namespace, and taking a namespace away ends what is served of it.
    pub allowed_namespaces: AllowedNamespaces,
    /// What each API may take of every pod, besides its part of what they all share.
    #[serde(skip_serializing_if = "ApiLimits::is_default")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub api_limits: ApiLimits,
}

/// Limits of each API of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ApiLimits {
    /// Streams that all channels of one API may have open on one pod. Default: what its channels allow
    /// (`limits.connections` of a StreamPolicy). Those that are open stay when it is lowered.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections: Option<u32>,
}

impl ApiLimits {
    /// Whether nothing is limited.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Namespaces whose StreamAPIs a gateway serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AllowedNamespaces {
    /// Which ones.
    pub from: AllowedFrom,
    /// Those that `from: Names` means. The gateway's own is always among them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        inner(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub names: Vec<String>,
}

/// Values of [`AllowedNamespaces::from`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AllowedFrom {
    /// The gateway's own namespace.
    #[default]
    Same,
    /// Those that are named.
    Names,
    /// All of the cluster.
    All,
}

impl AllowedNamespaces {
    /// Whether a gateway in `own` serves APIs of `namespace`.
    pub fn includes(&self, own: &str, namespace: &str) -> bool {
        let is_listed = || match self.from {
            AllowedFrom::Same => false,
            AllowedFrom::Names => self.names.iter().any(|name| name == namespace),
            AllowedFrom::All => true,
        };
        own == namespace || is_listed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_allowed_is_served() {
        let allowed = |from, names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let allowed = AllowedNamespaces { from, names };
            ["infra", "shop", "sho", "other"].map(|namespace| allowed.includes("infra", namespace))
        };
        assert_eq!(allowed(AllowedFrom::Same, &[]), [true, false, false, false]);
        assert_eq!(allowed(AllowedFrom::Same, &["shop"]), [true, false, false, false]);
        assert_eq!(allowed(AllowedFrom::Names, &["shop"]), [true, true, false, false]);
        assert_eq!(allowed(AllowedFrom::All, &[]), [true; 4]);
    }
}
