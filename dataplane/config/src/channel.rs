//! The StreamAPI spec: servers, channels, and how clients subscribe and publish.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::placement::Placement;
use crate::server::Server;
use crate::span::Span;

/// A managed streaming API: servers (brokers), channels on them, and how clients reach those.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamApiSpec {
    /// What the API is for, shown in the console.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub description: Option<String>,
    /// First part of every channel's path. Default: `/` and the API's name. Never `/` alone and
    /// never under `/-/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 128), regex(pattern = r"^(/[A-Za-z0-9._~-]+)+$"))]
    pub base_path: Option<String>,
    /// Broker connections of this API.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub servers: Vec<Server>,
    /// Named streams of messages, each bound to an address at a server.
    #[schemars(length(min = 1, max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub channels: Vec<Channel>,
    /// Where the API is in its life. Acts on open connections too.
    #[serde(default)]
    pub lifecycle: Lifecycle,
    /// Where the data plane runs in a cluster.
    #[serde(default)]
    pub placement: Placement,
}

/// Where an API is in its life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Lifecycle {
    /// `Published` serves; `Deprecated` serves and says so in every answer's headers; `Blocked`
    /// refuses (410, close code 4410) and closes open connections within 5 s.
    pub state: LifecycleState,
    /// Since when the API is deprecated, RFC 3339: becomes the `Deprecation` header (RFC 9745).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub deprecated_at: Option<String>,
    /// When the API is expected to go, RFC 3339: becomes the `Sunset` header (RFC 8594).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub sunset_at: Option<String>,
    /// A page that tells more, sent as `Link` with `rel="deprecation"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = r"^https?://[!#-;=?-~]+$"))]
    pub link: Option<String>,
}

/// States of [`Lifecycle`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LifecycleState {
    /// In service.
    #[default]
    Published,
    /// In service, with a warning in every answer.
    Deprecated,
    /// Out of service.
    Blocked,
}

/// A named stream of messages, bound to an address at a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Channel {
    /// Name of the channel; the last part of its path unless `path` is set.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// What the channel carries, shown in the console.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub description: Option<String>,
    /// Name of the server in `servers`.
    #[schemars(length(min = 1, max = 40))]
    pub server: String,
    /// Where the messages are at the server: a Kafka topic, or any name for `memory` and
    /// `generator`. The topic must exist; it is never created.
    #[schemars(length(min = 1, max = 249))]
    pub address: String,
    /// Path below the API's base path. Default: `/` and the channel's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 128), regex(pattern = r"^(/[A-Za-z0-9._~-]+)+$"))]
    pub path: Option<String>,
    /// What the messages are.
    #[serde(default)]
    pub message: Message,
    /// Lets clients receive the channel's messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<Subscribe>,
    /// Lets clients send messages to the channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish: Option<Publish>,
}

/// What the messages of a channel are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Message {
    /// Name of the message, the CloudEvents `type`. Default: `dev.sluice.message`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[!-~]+$"))]
    pub name: Option<String>,
    /// Media type of messages that do not carry their own. Default: `application/json` with a `payload`, else
    /// `application/octet-stream`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 3, max = 128),
        regex(pattern = r"^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+( *;[ -~]*)?$")
    )]
    pub content_type: Option<String>,
    /// JSON Schema of the payloads: draft 2020-12, or 2019-09 or draft-07 where `$schema` says so. What clients
    /// publish and does not fit is refused (422, `nack`), and so is what is not JSON (415). `format` is checked.
    /// References lead to places of the schema itself (`#/$defs/…`), nothing is fetched; patterns do without
    /// look-around and back-references. At most 32 KiB as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub payload: Option<Payload>,
}

/// A JSON Schema as it was written; whether it is one is for `sluice-schema`.
pub type Payload = Map<String, Value>;

impl Message {
    /// The largest `payload`, in bytes of JSON.
    pub const PAYLOAD_BYTES: usize = 32 << 10;

    /// Media type of messages that do not carry their own, if anything says so.
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref().or(self.payload.as_ref().map(|_| "application/json"))
    }
}

/// Whether `payload` is more than anybody reads.
pub fn is_too_large(payload: &Payload) -> bool {
    serde_json::to_string(payload).is_ok_and(|text| text.len() > Message::PAYLOAD_BYTES)
}

/// Definitions of Kubernetes cannot say what a JSON Schema is.
fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

impl Message {
    /// Default of `name`.
    pub const NAME: &'static str = "dev.sluice.message";
    /// Default of `contentType`.
    pub const CONTENT_TYPE: &'static str = "application/octet-stream";
}

/// How clients receive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Subscribe {
    /// The transports, each enabled by its key. At least one.
    pub transports: SubscribeTransports,
    /// What `?format=` may ask for. Default: all.
    #[serde(default = "Format::all")]
    #[schemars(length(min = 1, max = 3), extend("x-kubernetes-list-type" = "set"))]
    pub formats: Vec<Format>,
    /// How much of the past is kept at hand for clients that come back.
    #[serde(default)]
    pub replay: Replay,
    /// What happens to a client that falls behind the replay window: `disconnect` (close code
    /// 4408) or `dropOldest` (a `gap`, then on at the oldest message held).
    #[serde(default)]
    pub slow_consumer: SlowConsumer,
    /// Where cursors go: on every message, or once after each write.
    #[serde(default)]
    pub cursor: CursorPlacement,
    /// When what is due is written.
    #[serde(default)]
    pub flush: Flush,
    /// How long a subscribe may wait for the broker to tell where the stream ends.
    #[serde(default = "Subscribe::default_timeout")]
    pub timeout: Span,
}

impl Subscribe {
    /// Default of `timeout`.
    pub const fn default_timeout() -> Span {
        Span::seconds(5)
    }
}

/// When messages are written to clients. What came together is always written together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Flush {
    /// How long a message may wait for others to be written with it, which costs a server much
    /// less. A message that follows a pause of this length does not wait, nor do any once a quarter
    /// of the replay window is due. Default: no wait. At most `5s`.
    pub max_delay: Span,
}

impl Flush {
    /// The longest `maxDelay`.
    pub const MAX_DELAY: Span = Span::seconds(5);
}

impl Default for Flush {
    fn default() -> Self {
        Self { max_delay: Span::seconds(0) }
    }
}

/// The transports by which clients receive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscribeTransports {
    /// WebSocket (RFC 6455).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub websocket: Option<WebSocket>,
    /// Server-sent events (WHATWG HTML §9.2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sse: Option<Sse>,
}

/// Settings of the `websocket` transport.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WebSocket {
    /// Time between pings. Two missed pongs close the connection.
    pub ping_interval: Span,
}

impl Default for WebSocket {
    fn default() -> Self {
        Self { ping_interval: Span::seconds(20) }
    }
}

/// Settings of the `sse` transport.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Sse {
    /// Time without a message after which an id-only block is sent as a heartbeat.
    pub heartbeat_interval: Span,
}

impl Default for Sse {
    fn default() -> Self {
        Self { heartbeat_interval: Span::seconds(15) }
    }
}

/// How messages are written to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Format {
    /// The payload alone.
    Raw,
    /// JSON with id, cursor, key, headers, timestamp, content type and data.
    Envelope,
    /// CloudEvents 1.0 in structured JSON mode.
    #[serde(rename = "cloudevents")]
    CloudEvents,
}

impl Format {
    /// Every format.
    pub fn all() -> Vec<Self> {
        vec![Self::Raw, Self::Envelope, Self::CloudEvents]
    }
}

/// The replay window: the tightest of three bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Replay {
    /// Messages kept.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub messages: u32,
    /// Payload bytes kept.
    #[schemars(range(min = 65_536, max = 1_073_741_824))]
    pub bytes: u64,
    /// Age up to which messages are kept.
    pub age: Span,
}

impl Default for Replay {
    fn default() -> Self {
        Self { messages: 10_000, bytes: 16 << 20, age: Span::seconds(600) }
    }
}

/// The rule for a client that falls off the replay window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SlowConsumer {
    /// Close it (4408); it comes back with its cursor.
    #[default]
    Disconnect,
    /// Tell a gap and go on at the oldest message held.
    DropOldest,
}

/// Where cursors are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CursorPlacement {
    /// On every message.
    #[default]
    PerMessage,
    /// Once after each write.
    PerWrite,
}

/// How clients send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Publish {
    /// The transports, each enabled by its key. At least one.
    pub transports: PublishTransports,
    /// How long the broker may take to acknowledge. After it the answer is 503 if the message was
    /// surely not written and 504 if that is unknown.
    #[serde(default = "Publish::default_timeout")]
    pub timeout: Span,
    /// Media types accepted, without parameters. Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 3, max = 128), regex(pattern = r"^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub content_types: Vec<String>,
}

impl Publish {
    /// Default of `timeout`.
    pub const fn default_timeout() -> Span {
        Span::seconds(10)
    }
}

/// The transports by which clients send.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PublishTransports {
    /// `POST`, answered after the broker's acknowledgement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpPublish>,
    /// `publish` frames on a WebSocket, each answered by `ack` or `nack`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub websocket: Option<WebSocketPublish>,
}

/// Settings of publishing by `http`. There are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HttpPublish {}

/// Settings of publishing by `websocket`. There are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WebSocketPublish {}

/// The path below which the channels of the API called `api` are: `/<api>` unless overridden.
pub fn base_path(api: &str, spec: &StreamApiSpec) -> String {
    spec.base_path.clone().unwrap_or_else(|| format!("/{api}"))
}

/// The path of `channel` of the API called `api`: `/<api>/<channel>` unless overridden.
pub fn path(api: &str, spec: &StreamApiSpec, channel: &Channel) -> String {
    let base = base_path(api, spec);
    let rest = channel.path.clone().unwrap_or_else(|| format!("/{}", channel.name));
    format!("{base}{rest}")
}
