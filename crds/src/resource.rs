//! The resources themselves: a spec of `sluice-config` plus kind, names, columns and status.
#![expect(clippy::duplicated_attributes, reason = "each printer column has a type of its own")]

use std::sync::Arc;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_config::StreamApiSpec;
use sluice_config::placement::StreamGatewaySpec;
use sluice_config::policy::StreamPolicySpec;

/// What the API consists of: servers, channels and how clients reach them.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "StreamAPI",
    plural = "streamapis",
    singular = "streamapi",
    shortname = "sapi",
    category = "sluice",
    namespaced,
    doc = "A managed streaming API: named channels of messages at brokers, and how clients reach them.",
    status = "StreamApiStatus",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].status"#
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].status"#
    ),
    printcolumn(
        name = "Available",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Available")].status"#
    ),
    printcolumn(
        name = "Secured",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Secured")].status"#,
        priority = 1
    ),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.urls[0]"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(transparent)]
pub struct ApiSpec(pub Arc<StreamApiSpec>);

/// What the policy sets and what it applies to.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "StreamPolicy",
    plural = "streampolicies",
    singular = "streampolicy",
    shortname = "spol",
    category = "sluice",
    namespaced,
    doc = "Rules for StreamAPIs and their channels of the same namespace: who may connect, from where, how much.",
    status = "StreamPolicyStatus",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].status"#
    ),
    printcolumn(name = "Target", type_ = "string", json_path = ".spec.targetRefs[*].name"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(transparent)]
pub struct PolicySpec(pub StreamPolicySpec);

/// Pods and listeners of a data plane that serves many APIs, and whose they may be.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "StreamGateway",
    plural = "streamgateways",
    singular = "streamgateway",
    shortname = "sgw",
    category = "sluice",
    namespaced,
    doc = "A data plane that serves every StreamAPI placed on it, of its own and of allowed namespaces.",
    status = "StreamGatewayStatus",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].status"#
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].status"#
    ),
    printcolumn(name = "APIs", type_ = "integer", json_path = ".status.attachedApis"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(transparent)]
pub struct GatewaySpec(pub StreamGatewaySpec);

/// What became of a StreamAPI. Nothing here moves with traffic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StreamApiStatus {
    /// `Accepted`, `ResolvedRefs`, `Programmed`, `Available` and `Secured`, each with a message to
    /// act on.
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Where clients reach the channels: inside the cluster, and with an `exposure` outside, too. Those of an
    /// HTTPRoute have no scheme, for it is that of the Gateway's listener.
    #[schemars(length(max = 512), inner(length(max = 1024)))]
    pub urls: Vec<String>,
    /// Digest of what the data planes serve of this API.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub revision: Option<String>,
}

/// What became of a StreamPolicy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StreamPolicyStatus {
    /// `Accepted` and `ResolvedRefs`, each with a message to act on. Where another policy is more
    /// specific or older, the message names the part and that policy.
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// What became of a StreamGateway. Nothing here moves with traffic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StreamGatewayStatus {
    /// `Accepted`, `ResolvedRefs` and `Programmed`, each with a message to act on.
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// How many StreamAPIs are served here.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub attached_apis: u32,
    /// Where clients reach it inside the cluster; the paths are the APIs'.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub url: Option<String>,
    /// Where clients outside the cluster reach it, if `exposure` names a host. That of an HTTPRoute has no scheme, for it
    /// is that of the Gateway's listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub external_url: Option<String>,
}

/// One aspect of an object's state, as everywhere in Kubernetes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which aspect.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 316))]
    pub type_: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// `metadata.generation` of the object that was looked at.
    #[serde(default)]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub observed_generation: i64,
    /// When `status` last changed, RFC 3339.
    #[schemars(length(max = 40), extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// Why, in one word for programs.
    #[schemars(length(min = 1, max = 256))]
    pub reason: String,
    /// Why, in a sentence for people: what to do about it.
    #[schemars(length(max = 32_768))]
    pub message: String,
}

/// Values of [`Condition::status`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It could not be found out.
    Unknown,
}
