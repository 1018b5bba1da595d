//! An API as an AsyncAPI 3.0.0 document: its channels, where they are, and what clients do there and how.
//! Pure: which channels a document has is for whoever asks for it.
//!
//! A document speaks for the application that it describes, and that is the API: what clients subscribe to
//! the API sends, and what they publish it receives.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value, json};

use crate::channel::{Channel, Format, Lifecycle, LifecycleState, Message, Payload, StreamApiSpec, path};
use crate::shown::clip;

/// Media type of a [`document`].
pub const MEDIA_TYPE: &str = "application/vnd.aai.asyncapi+json;version=3.0.0";

/// Version of the specification.
const VERSION: &str = "3.0.0";
/// Version of the WebSocket binding.
const WEBSOCKET_BINDING: &str = "0.1.0";
/// Version of the HTTP binding.
const HTTP_BINDING: &str = "0.3.0";
/// Longest host of a base URL: a name of 253 bytes, a colon and a port.
const MAX_HOST: usize = 259;
/// Longest path of a base URL.
const MAX_PREFIX: usize = 128;

/// What a document is made of.
pub struct Description<'a> {
    /// Name of the API.
    pub name: &'a str,
    /// Its spec.
    pub spec: &'a StreamApiSpec,
    /// Where it is in its life now.
    pub lifecycle: &'a Lifecycle,
    /// Where it is reached. Nothing is said about that if there are none.
    pub base_urls: &'a [BaseUrl],
    /// The channels that the document has.
    pub channels: &'a [Described<'a>],
}

/// A channel of a document.
#[derive(Clone, Copy)]
pub struct Described<'a> {
    /// The channel.
    pub channel: &'a Channel,
    /// Whether its policy asks for an API key.
    pub needs_key: bool,
}

/// The document. It says nothing of the namespace or the cluster, so that an API is the same application
/// in every environment that it is promoted through.
pub fn document(api: &Description<'_>) -> Value {
    let (mut channels, mut operations) = (Map::new(), Map::new());
    for described in api.channels {
        let channel = described.channel;
        channels.insert(channel.name.clone(), channel_object(api, channel));
        for way in ways(channel) {
            operations.insert(format!("{}.{}", channel.name, way.name()), operation(described, way));
        }
    }
    let mut document = json!({
        "asyncapi": VERSION,
        "id": format!("urn:sluice:{}", api.name),
        "info": info(api),
    });
    document["channels"] = channels.into();
    document["operations"] = operations.into();
    let mut types = api.channels.iter().map(|described| content_type(described.channel));
    if let Some(first) = types.next()
        && types.all(|other| other == first)
    {
        document["defaultContentType"] = first.into();
    }
    if api.channels.iter().any(|described| described.needs_key) {
        document["components"] = json!({"securitySchemes": security_schemes()});
    }
    // Before the servers: the same contract has the same version wherever it is served.
    document["info"]["version"] = digest(&document).into();
    add_servers(&mut document, api);
    document
}

/// A StreamAPI has no version of its own, and its generation counts something else in every cluster. So the
/// version is a digest (FNV-1a) of what the document says: equal versions say the same.
fn digest(document: &Value) -> String {
    let hash = document.to_string().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

fn info(api: &Description<'_>) -> Value {
    let mut info = json!({"title": api.name});
    if let Some(description) = &api.spec.description {
        info["description"] = description.as_str().into();
    }
    // AsyncAPI has no word for an API that is about to go.
    if api.lifecycle.state == LifecycleState::Deprecated {
        info["tags"] = json!([{"name": "deprecated"}]);
    }
    if *api.lifecycle != Lifecycle::default() {
        info["x-lifecycle"] = json!(api.lifecycle);
    }
    // What is no URI (RFC 3986) would make the whole document invalid.
    let link = api.lifecycle.link.as_ref().filter(|link| !link.contains(['\\', '^', '`', '{', '|', '}']));
    if let Some(link) = link {
        info["externalDocs"] = json!({"url": link});
    }
    info
}

fn channel_object(api: &Description<'_>, channel: &Channel) -> Value {
    let mut object = json!({
        "address": path(api.name, api.spec, channel),
        "messages": {"message": message(channel)},
    });
    if let Some(description) = &channel.description {
        object["description"] = description.as_str().into();
    }
    if is_reached(channel, Protocol::WebSocket) {
        object["bindings"] =
            json!({"ws": {"method": "GET", "query": query(channel), "bindingVersion": WEBSOCKET_BINDING}});
    }
    object
}

/// The messages of a channel, which are the same in both directions.
fn message(channel: &Channel) -> Value {
    let mut message = json!({
        "name": channel.message.name.as_deref().unwrap_or(Message::NAME),
        "contentType": content_type(channel),
    });
    if let Some(payload) = &channel.message.payload {
        message["payload"] =
            json!({"schemaFormat": schema_format(payload), "schema": schema(channel, payload)});
    }
    message
}

/// Media type of a JSON Schema of that draft, as the specification writes it (Message Object, schema formats).
fn schema_format(payload: &Payload) -> &'static str {
    match payload.get("$schema").and_then(Value::as_str) {
        Some(draft) if draft.contains("draft-07") => "application/schema+json;version=draft-07",
        Some(draft) if draft.contains("2019-09") => "application/schema+json;version=draft-2019-09",
        _ => "application/schema+json;version=draft-2020-12",
    }
}

/// The schema, whose references to itself are now some way down in a document.
fn schema(channel: &Channel, payload: &Payload) -> Value {
    fn moved(value: &mut Value, root: &str) {
        match value {
            Value::Object(fields) => {
                fields.iter_mut().for_each(|(name, value)| match (name.as_str(), value) {
                    ("$ref", Value::String(to)) if to == "#" || to.starts_with("#/") => {
                        to.replace_range(..1, root)
                    }
                    // Values that messages may have.
                    ("const" | "enum" | "default" | "examples", _) => {}
                    (_, value) => moved(value, root),
                })
            }
            Value::Array(items) => items.iter_mut().for_each(|item| moved(item, root)),
            _ => {}
        }
    }
    let mut schema = Value::Object(payload.clone());
    moved(&mut schema, &format!("#/channels/{}/messages/message/payload/schema", channel.name));
    schema
}

fn content_type(channel: &Channel) -> &str {
    channel.message.content_type().unwrap_or(Message::CONTENT_TYPE)
}

/// The query string of a stream.
fn query(channel: &Channel) -> Value {
    let allowed = channel.subscribe.as_ref().map(|subscribe| &subscribe.formats);
    let mut formats = Format::all();
    formats.retain(|format| allowed.is_none_or(|allowed| allowed.contains(format)));
    let mut query = json!({
        "type": "object",
        "properties": {
            "format": {
                "type": "string",
                "enum": formats,
                "description": "raw: the payload alone. envelope: JSON with id, cursor, key, headers, \
                                timestamp, contentType and data. cloudevents: CloudEvents 1.0 as JSON.",
            },
        },
    });
    if formats.contains(&Format::Raw) {
        query["properties"]["format"]["default"] = "raw".into();
    }
    if channel.subscribe.is_some() {
        query["properties"]["cursor"] =
            json!({"type": "string", "description": "The cursor of the last message, to go on after it."});
    }
    query
}

/// A way to use a channel, which is an operation of the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    SubscribeWebSocket,
    SubscribeSse,
    PublishHttp,
    PublishWebSocket,
}

/// What carries a [`Way`]; each has servers of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    WebSocket,
    Http,
}

impl Way {
    /// What the operation is called behind its channel's name, in the words of clients.
    const fn name(self) -> &'static str {
        match self {
            Self::SubscribeWebSocket => "subscribe.websocket",
            Self::SubscribeSse => "subscribe.sse",
            Self::PublishHttp => "publish.http",
            Self::PublishWebSocket => "publish.websocket",
        }
    }

    /// What the API does.
    const fn action(self) -> &'static str {
        match self {
            Self::SubscribeWebSocket | Self::SubscribeSse => "send",
            Self::PublishHttp | Self::PublishWebSocket => "receive",
        }
    }

    const fn summary(self) -> &'static str {
        match self {
            Self::SubscribeWebSocket => "Clients receive over WebSocket",
            Self::SubscribeSse => "Clients receive server-sent events",
            Self::PublishHttp => "Clients publish by POST, answered after the broker's acknowledgement",
            Self::PublishWebSocket => "Clients publish over WebSocket",
        }
    }

    const fn protocol(self) -> Protocol {
        match self {
            Self::SubscribeWebSocket | Self::PublishWebSocket => Protocol::WebSocket,
            Self::SubscribeSse | Self::PublishHttp => Protocol::Http,
        }
    }

    fn bindings(self, channel: &Channel) -> Value {
        match self {
            // The binding has its say in the channel; here it only tells the transport.
            Self::SubscribeWebSocket | Self::PublishWebSocket => json!({"ws": {}}),
            Self::SubscribeSse => http("GET", query(channel)),
            Self::PublishHttp => {
                let key =
                    json!({"type": "string", "description": "The message's key; or the header Message-Key."});
                http("POST", json!({"type": "object", "properties": {"key": key}}))
            }
        }
    }
}

fn http(method: &str, query: Value) -> Value {
    json!({"http": {"method": method, "query": query, "bindingVersion": HTTP_BINDING}})
}

fn ways(channel: &Channel) -> Vec<Way> {
    let subscribe = channel.subscribe.as_ref().map(|subscribe| &subscribe.transports);
    let publish = channel.publish.as_ref().map(|publish| &publish.transports);
    let enabled = [
        (Way::SubscribeWebSocket, subscribe.is_some_and(|transports| transports.websocket.is_some())),
        (Way::SubscribeSse, subscribe.is_some_and(|transports| transports.sse.is_some())),
        (Way::PublishHttp, publish.is_some_and(|transports| transports.http.is_some())),
        (Way::PublishWebSocket, publish.is_some_and(|transports| transports.websocket.is_some())),
    ];
    enabled.into_iter().filter_map(|(way, enabled)| enabled.then_some(way)).collect()
}

fn is_reached(channel: &Channel, protocol: Protocol) -> bool {
    ways(channel).into_iter().any(|way| way.protocol() == protocol)
}

fn operation(described: &Described<'_>, way: Way) -> Value {
    let Described { channel, needs_key } = described;
    let reference = format!("#/channels/{}", channel.name);
    let mut operation = json!({
        "action": way.action(),
        "channel": {"$ref": reference},
        "messages": [{"$ref": format!("{reference}/messages/message")}],
        "summary": way.summary(),
        "bindings": way.bindings(channel),
    });
    let accepted = channel.publish.as_ref().map(|publish| publish.content_types.join(", "));
    if let Some(accepted) = accepted.filter(|types| way.action() == "receive" && !types.is_empty()) {
        operation["description"] = format!("Taken are {accepted}").into();
    }
    if *needs_key {
        operation["security"] = SCHEMES
            .iter()
            .map(|scheme| json!({"$ref": format!("#/components/securitySchemes/{scheme}")}))
            .collect();
    }
    operation
}

/// The ways to show an API key; one is enough.
const SCHEMES: [&str; 2] = ["apiKey", "bearer"];

fn security_schemes() -> Value {
    json!({
        "apiKey": {
            "type": "httpApiKey",
            "in": "header",
            "name": "X-API-Key",
            "description": "An API key. Browsers' WebSockets offer the subprotocol \
                            sluice.key.<base64url of the key> beside a real one instead.",
        },
        "bearer": {"type": "http", "scheme": "bearer", "description": "The same API key."},
    })
}

/// Adds where the API is reached, and to each channel where that one is.
fn add_servers(document: &mut Value, api: &Description<'_>) {
    let servers = servers(api);
    for Described { channel, .. } in api.channels {
        let here = servers.iter().filter(|server| is_reached(channel, server.protocol));
        let here: Vec<_> = here.map(|server| json!({"$ref": format!("#/servers/{}", server.name)})).collect();
        if !here.is_empty() {
            document["channels"][&channel.name]["servers"] = here.into();
        }
    }
    if !servers.is_empty() {
        document["servers"] = servers.into_iter().map(|server| (server.name, server.object)).collect();
    }
}

struct Server {
    name: String,
    protocol: Protocol,
    object: Value,
}

/// One for each base URL and protocol that a channel of the document is reached by.
fn servers(api: &Description<'_>) -> Vec<Server> {
    let mut servers = Vec::new();
    for (index, base) in api.base_urls.iter().enumerate() {
        let alike = api.base_urls[..index].iter().filter(|before| before.secure == base.secure).count();
        for protocol in [Protocol::WebSocket, Protocol::Http] {
            if !api.channels.iter().any(|described| is_reached(described.channel, protocol)) {
                continue;
            }
            let scheme = base.scheme(protocol);
            let name = if alike == 0 { scheme.to_owned() } else { format!("{scheme}-{}", alike + 1) };
            let mut object = json!({"host": base.host, "protocol": scheme});
            if !base.prefix.is_empty() {
                object["pathname"] = base.prefix.as_str().into();
            }
            servers.push(Server { name, protocol, object });
        }
    }
    servers
}

/// Where an API is reached: `http(s)://HOST[:PORT][/PREFIX]`, without what a document would take for a
/// variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    secure: bool,
    host: String,
    prefix: String,
}

/// Why a string is not a [`BaseUrl`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrlError(String);

impl fmt::Display for BaseUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not a base URL; write it like https://streams.example or http://localhost:8080",
            self.0
        )
    }
}

impl std::error::Error for BaseUrlError {}

impl BaseUrl {
    /// Of a scheme, `http` or `https`, and a host with or without a port.
    pub fn new(scheme: &str, host: &str) -> Option<Self> {
        let secure = match scheme {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let begins = host.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[');
        let known = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:[]".contains(&b));
        let good = begins && known && host.len() <= MAX_HOST;
        good.then(|| Self { secure, host: host.to_owned(), prefix: String::new() })
    }

    const fn scheme(&self, protocol: Protocol) -> &'static str {
        match (protocol, self.secure) {
            (Protocol::WebSocket, false) => "ws",
            (Protocol::WebSocket, true) => "wss",
            (Protocol::Http, false) => "http",
            (Protocol::Http, true) => "https",
        }
    }
}

impl FromStr for BaseUrl {
    type Err = BaseUrlError;

    fn from_str(text: &str) -> Result<Self, BaseUrlError> {
        let wrong = || BaseUrlError(clip(text));
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let (host, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let prefix = prefix.trim_end_matches('/');
        let known = prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._~-".contains(&b));
        if !known || prefix.len() > MAX_PREFIX {
            return Err(wrong());
        }
        let base = Self::new(scheme, host).ok_or_else(wrong)?;
        Ok(Self { prefix: prefix.to_owned(), ..base })
    }
}

#[cfg(test)]
mod tests;
