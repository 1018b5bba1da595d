//! Policies: what a StreamPolicy sets, and what is in force on a channel after merging.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::server::SecretRef;
use crate::span::Span;

/// Rules for APIs and channels, attached by `targetRefs`. Each top-level part is taken whole from
/// the most specific policy that sets it; `limits` merges limit by limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamPolicySpec {
    /// What the policy applies to, in its own namespace.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// Who may connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
    /// Which web origins may connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,
    /// How much is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
}

/// A StreamAPI, or one channel of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// `sluice.dev`.
    #[serde(default = "TargetRef::default_group")]
    #[schemars(length(max = 253), regex(pattern = r"^sluice\.dev$"))]
    pub group: String,
    /// The kind of the target.
    pub kind: TargetKind,
    /// Name of the StreamAPI.
    #[schemars(length(min = 1, max = 40))]
    pub name: String,
    /// Name of one channel. Without it the policy applies to every channel of the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 40))]
    pub section_name: Option<String>,
}

impl TargetRef {
    fn default_group() -> String {
        "sluice.dev".into()
    }
}

/// Kinds a policy can target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TargetKind {
    /// A StreamAPI.
    StreamAPI,
}

/// Who may connect. Exactly one kind is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Authentication {
    /// Holders of an API key.
    ApiKeys(ApiKeys),
    /// Everybody. Switches off what a less specific policy asks for.
    None(Anonymous),
}

/// API keys from a Secret with one entry a key, `<id>: sha256:<hex>`, as `sluice key create`
/// prints it. Several are valid at once, so that keys can be rotated without a break.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeys {
    /// The Secret of the entries.
    pub secret_ref: SecretRef,
}

/// Settings of `none`. There are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Anonymous {}

/// Which web origins may connect. Requests without `Origin` (not from a browser) and from this
/// host are always allowed; any other origin is refused unless it is listed here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Cors {
    /// Origins, exactly as browsers send them (`https://app.example`), or `"*"` alone.
    #[schemars(length(max = 64), inner(length(min = 1, max = 255)), extend("x-kubernetes-list-type" = "set"))]
    pub allowed_origins: Vec<String>,
    /// Whether browsers may send credentials. Not with `"*"`.
    pub allow_credentials: bool,
    /// How long browsers may remember a preflight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Span>,
}

/// Named limits. What is not set has a default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Open streams of a channel on each data plane. Default: 10,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub connections: Option<u32>,
    /// Bytes of one message's payload, in both directions. Default: 1 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16_777_216))]
    pub max_message_bytes: Option<u32>,
    /// Messages a client may publish per second and data plane, counted by API key, or by client
    /// address where there is none. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish_rate: Option<PublishRate>,
}

impl Limits {
    /// Default of `connections`.
    pub const CONNECTIONS: u32 = 10_000;
    /// Default of `maxMessageBytes`.
    pub const MAX_MESSAGE_BYTES: u32 = 1 << 20;

    /// The connections limit in force.
    pub fn connections(&self) -> u32 {
        self.connections.unwrap_or(Self::CONNECTIONS)
    }

    /// The message size limit in force.
    pub fn max_message_bytes(&self) -> usize {
        self.max_message_bytes.unwrap_or(Self::MAX_MESSAGE_BYTES) as usize
    }

    /// `self` where it sets a limit, else `other`.
    pub fn or(&self, other: &Self) -> Self {
        Self {
            connections: self.connections.or(other.connections),
            max_message_bytes: self.max_message_bytes.or(other.max_message_bytes),
            publish_rate: self.publish_rate.clone().or_else(|| other.publish_rate.clone()),
        }
    }
}

/// A rate with a burst.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PublishRate {
    /// Messages per second.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub messages_per_second: u32,
    /// Messages that may come at once. Default: one second's worth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: Option<u32>,
}

/// What is in force on one channel after merging every policy that targets it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ChannelPolicy {
    /// Why the channel is closed: a policy that targets it is unresolved or refused. The channel
    /// then answers as not ready, whatever else stands here (fails closed).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
    /// Who may connect; nobody set it: everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
    /// Allowed origins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,
    /// Merged limits.
    pub limits: Limits,
}
