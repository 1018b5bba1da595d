//! Checks of what a schema cannot say. Every problem is collected, with a path and what to write
//! instead.

use std::collections::BTreeMap;
use std::fmt;

use crate::channel::{Channel, Flush, Message, StreamApiSpec, is_too_large, path};
use crate::kafka::{Kafka, Mechanism, property};
use crate::placement;
use crate::policy::{Authentication, Cors, StreamPolicySpec};
use crate::server::ServerKind;
use crate::shown::clip;
use crate::span::Span;

/// A user's mistake: where it is and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Problem {
    /// Path inside the object: `spec.channels[2].address`.
    pub at: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl Problem {
    /// A problem at `at`.
    pub fn new(at: impl Into<String>, message: impl Into<String>) -> Self {
        Self { at: at.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.message)
    }
}

/// Checks a StreamAPI's name and spec.
pub fn check_api(name: &str, spec: &StreamApiSpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    if !is_name(name) {
        problems.push(Problem::new(
            "metadata.name",
            "must be at most 40 characters of a-z, 0-9 and -, start with a letter and not end with -",
        ));
    }
    if spec.base_path.as_deref().is_some_and(|base| base == "/-" || base.starts_with("/-/")) {
        problems.push(Problem::new("spec.basePath", "/-/ is reserved; choose another path"));
    }
    check_dots(|| "spec.basePath".into(), spec.base_path.as_deref(), &mut problems);
    check_servers(spec, &mut problems);
    check_lifecycle(spec, &mut problems);
    check_channels(name, spec, &mut problems);
    placement::check(&spec.placement, &mut problems);
    problems
}

/// Whether `name` can name a StreamAPI, a server or a channel.
pub fn is_name(name: &str) -> bool {
    (1..=40).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.as_bytes()[0].is_ascii_lowercase()
        && !name.ends_with('-')
}

fn check_servers(spec: &StreamApiSpec, problems: &mut Vec<Problem>) {
    let mut seen = BTreeMap::new();
    for (index, server) in spec.servers.iter().enumerate() {
        let at = format!("spec.servers[{index}]");
        if let Some(first) = seen.insert(&server.name, index) {
            problems.push(Problem::new(
                format!("{at}.name"),
                format!("`{}` is the name of servers[{first}] too; give each server its own", server.name),
            ));
        }
        match &server.kind {
            ServerKind::Kafka(kafka) => check_kafka(&format!("{at}.kafka"), kafka, problems),
            ServerKind::Memory(_) | ServerKind::Generator(_) => {}
        }
    }
}

fn check_kafka(at: &str, kafka: &Kafka, problems: &mut Vec<Problem>) {
    for (index, broker) in kafka.brokers.iter().enumerate() {
        let port = broker
            .rsplit_once(':')
            .and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>().ok()).flatten());
        if port.is_none_or(|port| port == 0) {
            problems.push(Problem::new(
                format!("{at}.brokers[{index}]"),
                format!("`{}` is not host:port; write it like kafka:9092", clip(broker)),
            ));
        }
    }
    let plain = kafka.sasl.as_ref().is_some_and(|sasl| sasl.mechanism == Mechanism::Plain);
    if plain && kafka.tls.is_none() && !kafka.brokers.iter().all(|broker| is_loopback(broker)) {
        problems.push(Problem::new(
            format!("{at}.sasl.mechanism"),
            "PLAIN without tls would send the password readable; add `tls: {}` or use SCRAM-SHA-512",
        ));
    }
    for (name, value) in &kafka.properties {
        let at = format!("{at}.properties[{:?}]", clip(name));
        if property(name).is_none() {
            problems.push(Problem::new(
                &at,
                "is not a setting that may be passed; remove it (credentials go to `sasl` and `tls`, \
                 the allowed names stand in the reference)",
            ));
        }
        if value.0.len() > 256 || value.0.chars().any(char::is_control) {
            problems.push(Problem::new(&at, "must be at most 256 characters without control characters"));
        }
    }
}

fn is_loopback(broker: &str) -> bool {
    let host = broker.rsplit_once(':').map_or(broker, |(host, _)| host);
    host == "localhost" || host == "[::1]" || host.starts_with("127.")
}

fn check_lifecycle(spec: &StreamApiSpec, problems: &mut Vec<Problem>) {
    let dates = [("deprecatedAt", &spec.lifecycle.deprecated_at), ("sunsetAt", &spec.lifecycle.sunset_at)];
    for (field, value) in dates {
        if value.as_deref().is_some_and(|text| !looks_like_rfc3339(text)) {
            problems.push(Problem::new(
                format!("spec.lifecycle.{field}"),
                "is not an RFC 3339 time; write it like 2026-12-31T00:00:00Z",
            ));
        }
    }
}

/// `YYYY-MM-DDTHH:MM:SS[.fff](Z|±HH:MM)`; ranges are checked as far as ISO fields go.
fn looks_like_rfc3339(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.len() < 20 || !text.is_ascii() {
        return false;
    }
    let number = |from: usize, to: usize| text[from..to].parse::<u32>().ok();
    let separators = bytes[4] == b'-'
        && bytes[7] == b'-'
        && matches!(bytes[10], b'T' | b't')
        && bytes[13] == b':'
        && bytes[16] == b':';
    let ranges = number(0, 4).is_some()
        && number(5, 7).is_some_and(|month| (1..=12).contains(&month))
        && number(8, 10).is_some_and(|day| (1..=31).contains(&day))
        && number(11, 13).is_some_and(|hour| hour < 24)
        && number(14, 16).is_some_and(|minute| minute < 60)
        && number(17, 19).is_some_and(|second| second <= 60);
    let fraction = bytes[19..].iter().take_while(|b| **b == b'.' || b.is_ascii_digit()).count();
    let zone = &text[19 + fraction..];
    let offset = zone.len() == 6
        && matches!(zone.as_bytes()[0], b'+' | b'-')
        && zone.as_bytes()[3] == b':'
        && zone[1..3].parse::<u32>().is_ok_and(|hour| hour < 24)
        && zone[4..6].parse::<u32>().is_ok_and(|minute| minute < 60);
    separators && ranges && (zone.eq_ignore_ascii_case("z") || offset)
}

fn check_channels(name: &str, spec: &StreamApiSpec, problems: &mut Vec<Problem>) {
    let mut names = BTreeMap::new();
    let mut paths = BTreeMap::new();
    for (index, channel) in spec.channels.iter().enumerate() {
        let at = format!("spec.channels[{index}]");
        if let Some(first) = names.insert(&channel.name, index) {
            problems.push(Problem::new(
                format!("{at}.name"),
                format!("`{}` is the name of channels[{first}] too; give each channel its own", channel.name),
            ));
        } else if let Some(first) = paths.insert(path(name, spec, channel), index) {
            problems.push(Problem::new(
                format!("{at}.path"),
                format!("is the path of channels[{first}] too; set another `path`"),
            ));
        }
        check_channel(&at, spec, channel, problems);
    }
}

/// Clients and proxies take `.` and `..` out of a path before they send it (RFC 3986 §5.2.4).
fn check_dots(at: impl FnOnce() -> String, path: Option<&str>, problems: &mut Vec<Problem>) {
    if path.is_some_and(|path| path.split('/').any(|segment| segment == "." || segment == "..")) {
        problems
            .push(Problem::new(at(), "a path with `.` or `..` in it is never asked for; write it without"));
    }
}

fn check_channel(at: &str, spec: &StreamApiSpec, channel: &Channel, problems: &mut Vec<Problem>) {
    match spec.servers.iter().find(|server| server.name == channel.server) {
        None => problems.push(Problem::new(
            format!("{at}.server"),
            format!(
                "no server is called `{}`; the servers are: {}",
                clip(&channel.server),
                spec.servers.iter().map(|server| server.name.as_str()).collect::<Vec<_>>().join(", ")
            ),
        )),
        Some(server) => check_address(at, &server.kind, channel, problems),
    }
    check_dots(|| format!("{at}.path"), channel.path.as_deref(), problems);
    if channel.subscribe.is_none() && channel.publish.is_none() {
        problems.push(Problem::new(at, "does nothing; add `subscribe`, `publish` or both"));
    }
    if channel.message.payload.as_ref().is_some_and(is_too_large) {
        let message = format!(
            "is over {} bytes as JSON; say less, or give what repeats a name under `$defs`",
            Message::PAYLOAD_BYTES
        );
        problems.push(Problem::new(format!("{at}.message.payload"), message));
    }
    if let Some(subscribe) = &channel.subscribe {
        let at = format!("{at}.subscribe");
        let transports = &subscribe.transports;
        if transports.websocket.is_none() && transports.sse.is_none() {
            problems.push(Problem::new(format!("{at}.transports"), "add `websocket: {}`, `sse: {}` or both"));
        }
        if subscribe.formats.is_empty() {
            problems.push(Problem::new(
                format!("{at}.formats"),
                "name at least one of raw, envelope, cloudevents",
            ));
        }
        if let Some(websocket) = &transports.websocket {
            let at = || format!("{at}.transports.websocket.pingInterval");
            check_span(at, websocket.ping_interval, 1, 3600, problems);
        }
        if let Some(sse) = &transports.sse {
            let at = || format!("{at}.transports.sse.heartbeatInterval");
            check_span(at, sse.heartbeat_interval, 1, 3600, problems);
        }
        check_span(|| format!("{at}.replay.age"), subscribe.replay.age, 1, 86_400, problems);
        check_span(|| format!("{at}.timeout"), subscribe.timeout, 1, 60, problems);
        if subscribe.flush.max_delay > Flush::MAX_DELAY {
            let message = format!("must be at most {}", Flush::MAX_DELAY);
            problems.push(Problem::new(format!("{at}.flush.maxDelay"), message));
        }
    }
    if let Some(publish) = &channel.publish {
        let at = format!("{at}.publish");
        if publish.transports.http.is_none() && publish.transports.websocket.is_none() {
            problems
                .push(Problem::new(format!("{at}.transports"), "add `http: {}`, `websocket: {}` or both"));
        }
        check_span(|| format!("{at}.timeout"), publish.timeout, 1, 300, problems);
    }
}

fn check_address(at: &str, server: &ServerKind, channel: &Channel, problems: &mut Vec<Problem>) {
    let address = &channel.address;
    if address.contains(['{', '}']) {
        problems.push(Problem::new(
            format!("{at}.address"),
            "channel parameters are not implemented by this build; write an address without braces",
        ));
        return;
    }
    match server {
        ServerKind::Kafka(_) if !is_topic(address) => problems.push(Problem::new(
            format!("{at}.address"),
            format!("`{}` is not a Kafka topic; use a-z, A-Z, 0-9, '.', '_' and '-'", clip(address)),
        )),
        ServerKind::Generator(_) if channel.publish.is_some() => problems.push(Problem::new(
            format!("{at}.publish"),
            "a generator takes no messages; remove `publish` or use a `memory` server",
        )),
        ServerKind::Kafka(_) | ServerKind::Memory(_) | ServerKind::Generator(_) => {
            if address.chars().any(char::is_control) {
                problems.push(Problem::new(format!("{at}.address"), "must not contain control characters"));
            }
        }
    }
}

/// Whether Kafka takes these characters for the name of a topic.
pub fn is_topic(name: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    name != "." && name != ".." && name.bytes().all(is_good)
}

fn check_span(at: impl FnOnce() -> String, span: Span, min: u64, max: u64, problems: &mut Vec<Problem>) {
    if span < Span::seconds(min) || span > Span::seconds(max) {
        problems.push(Problem::new(
            at(),
            format!("must be between {} and {}", Span::seconds(min), Span::seconds(max)),
        ));
    }
}

/// Checks a StreamPolicy's spec; whether its targets exist is for the caller.
pub fn check_policy(spec: &StreamPolicySpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    if spec.target_refs.is_empty() {
        problems.push(Problem::new("spec.targetRefs", "name at least one StreamAPI"));
    }
    if spec.authentication.is_none() && spec.cors.is_none() && spec.limits.is_none() {
        problems.push(Problem::new("spec", "sets nothing; add `authentication`, `cors` or `limits`"));
    }
    if let Some(Authentication::ApiKeys(keys)) = &spec.authentication
        && keys.secret_ref.name.is_empty()
    {
        problems.push(Problem::new("spec.authentication.apiKeys.secretRef.name", "name a Secret"));
    }
    if let Some(cors) = &spec.cors {
        check_cors(cors, &mut problems);
    }
    problems
}

fn check_cors(cors: &Cors, problems: &mut Vec<Problem>) {
    let any = cors.allowed_origins.iter().any(|origin| origin == "*");
    if any && cors.allowed_origins.len() > 1 {
        problems.push(Problem::new("spec.cors.allowedOrigins", "`\"*\"` stands alone; remove the others"));
    }
    if any && cors.allow_credentials {
        problems.push(Problem::new(
            "spec.cors.allowCredentials",
            "not with `\"*\"`; list the origins that may send credentials",
        ));
    }
    for (index, origin) in cors.allowed_origins.iter().enumerate() {
        if origin != "*" && !is_origin(origin) {
            problems.push(Problem::new(
                format!("spec.cors.allowedOrigins[{index}]"),
                format!(
                    "`{}` is not an origin; write scheme, host and port only, like https://app.example",
                    clip(origin)
                ),
            ));
        }
    }
}

/// Whether `text` is an origin as browsers serialise it (RFC 6454 §6.1): lower case, no path, no
/// default port.
fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    !rest.is_empty()
        && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b))
        && rest.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._:[]".contains(&b))
        && (default_port.is_empty() || !rest.ends_with(default_port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: serde_json::Value) -> StreamApiSpec {
        serde_json::from_value(json).expect("a readable spec")
    }

    fn check(json: serde_json::Value, expected: &[&str]) {
        let problems = check_api("shop", &spec(json));
        let found: Vec<_> = problems.iter().map(|problem| problem.at.as_str()).collect();
        assert_eq!(found, expected, "{problems:#?}");
        assert!(problems.iter().all(|problem| problem.message.len() > 10));
    }

    fn orders() -> serde_json::Value {
        serde_json::json!({
            "servers": [{"name": "events", "kafka": {"brokers": ["kafka:9092"]}}],
            "channels": [{"name": "orders", "server": "events", "address": "orders.v1",
                "subscribe": {"transports": {"sse": {}}}}],
        })
    }

    #[test]
    fn a_good_api_has_no_problems() {
        check(orders(), &[]);
    }

    #[test]
    fn every_problem_is_found_at_once() {
        let mut api = orders();
        api["servers"][0]["kafka"]["properties"] =
            serde_json::json!({"plugin.library.paths": "/tmp/x.so", "linger.ms": "5"});
        api["servers"][0]["kafka"]["brokers"] = serde_json::json!(["kafka:0"]);
        api["channels"][0]["server"] = "evnets".into();
        api["channels"][0]["subscribe"]["timeout"] = "2h".into();
        let second = api["channels"][0].clone();
        api["channels"].as_array_mut().expect("a list").push(second);
        check(
            api,
            &[
                "spec.servers[0].kafka.brokers[0]",
                "spec.servers[0].kafka.properties[\"plugin.library.paths\"]",
                "spec.channels[0].server",
                "spec.channels[0].subscribe.timeout",
                "spec.channels[1].name",
                "spec.channels[1].server",
                "spec.channels[1].subscribe.timeout",
            ],
        );
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let mut api = orders();
        api["channels"][0]["address"] = "rooms.{roomId}".into();
        check(api, &["spec.channels[0].address"]);
        let mut api = orders();
        api["channels"][0]["path"] = "/../x".into();
        check(api, &["spec.channels[0].path"]);
        let mut api = orders();
        api["channels"][0]["address"] = "a/b".into();
        check(api, &["spec.channels[0].address"]);
        let mut api = orders();
        api["channels"][0]["subscribe"] = serde_json::Value::Null;
        check(api, &["spec.channels[0]"]);
        let mut api = orders();
        api["servers"][0] = serde_json::json!({"name": "events", "generator": {}});
        api["channels"][0]["publish"] = serde_json::json!({"transports": {"http": {}}});
        check(api, &["spec.channels[0].publish"]);
        let mut api = orders();
        api["servers"][0]["kafka"]["sasl"] =
            serde_json::json!({"mechanism": "PLAIN", "secretRef": {"name": "login"}});
        check(api, &["spec.servers[0].kafka.sasl.mechanism"]);
        let mut api = orders();
        api["channels"][0]["message"] =
            serde_json::json!({"payload": {"description": "x".repeat(Message::PAYLOAD_BYTES)}});
        check(api, &["spec.channels[0].message.payload"]);
        let mut api = orders();
        api["lifecycle"] = serde_json::json!({"state": "Deprecated", "sunsetAt": "tomorrow"});
        check(api, &["spec.lifecycle.sunsetAt"]);
    }

    #[test]
    fn origins_are_checked_as_browsers_write_them() {
        for good in ["https://app.example", "http://localhost:3000", "http://[::1]:8080"] {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "app.example",
            "https://app.example/",
            "https://App.example",
            "https://a:443",
            "null",
            "https://",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
