//! The words of refusals: what the design has and this build lacks, what was perhaps meant, and
//! what a pattern asks for.

use sluice_config::Span;
use sluice_config::placement::{Quantity, is_dns_name, is_label_value};
use sluice_config::shown::clip;

/// Pattern of durations.
pub const DURATION: &str = "^([0-9]{1,9}(ms|s|m|h))+$";
/// Pattern of the names of Secrets and policies (RFC 1123 subdomain).
pub const OBJECT_NAME: &str = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";
/// Pattern of namespaces (RFC 1123 label).
pub const NAMESPACE: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// Pattern of names of Ingress classes, Gateways and their listeners (RFC 1123 subdomain, label by label).
pub const DNS_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// Pattern of hosts, as the Gateway API has it.
pub const HOST: &str = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// Fields and values that the design names and this build does not honour, by where they stand.
/// They are refused by name, never ignored; the change that honours one removes it here.
const LATER: &[(&str, &[&str])] = &[
    ("spec", &["bridges", "listeners", "asyncapi"]),
    ("spec.placement.deployment.podTemplate", &["affinity"]),
    ("spec", &["validation", "authorization", "quota", "quotas", "transformation", "filter", "plan"]),
    ("spec.servers[]", &["mqtt", "rabbitmq", "amqp", "websocket", "sse", "http", "nats", "solace"]),
    ("spec.channels[]", &["parameters", "filter", "delivery"]),
    ("spec.channels[].message", &["headers"]),
    (
        "spec.channels[].subscribe",
        &[
            "delivery",
            "start",
            "guarantee",
            "ack",
            "acks",
            "acknowledge",
            "acknowledgement",
            "acknowledgements",
        ],
    ),
    ("spec.channels[].subscribe", &["filter", "deadLetter", "retry"]),
    ("spec.channels[].subscribe.transports", &["poll", "webhook", "webSub", "kafka", "mqtt", "http"]),
    ("spec.channels[].subscribe.slowConsumer", &["conflate", "block"]),
    ("spec.channels[].publish", &["guarantee", "batch", "idempotency", "filter"]),
    ("spec.channels[].publish.transports", &["poll", "webhook", "webSub", "kafka", "mqtt"]),
    ("spec.lifecycle.state", &["Draft", "Retired"]),
    ("spec.targetRefs[].kind", &["StreamGateway"]),
    ("spec.authentication", &["jwt", "oidc", "oauth2", "basic", "mtls", "clientCertificates", "tickets"]),
    ("spec.limits", &["subscribeRate", "bytesPerSecond", "connectionRate", "quota", "quotas"]),
];

/// Whether `name` at `at` is something a later build will know.
pub fn is_later(at: &str, name: &str) -> bool {
    let at = without_indices(at);
    LATER.iter().any(|(place, words)| *place == at && words.contains(&name))
}

/// What to say about the field `name`, which `at` does not have.
pub fn unknown_field<'a>(at: &str, name: &str, known: impl Iterator<Item = &'a String>) -> String {
    let shown = clip(name);
    if is_later(at, name) {
        return format!("`{shown}` is not implemented by this build; remove it");
    }
    let known: Vec<_> = known.map(String::as_str).collect();
    if known.is_empty() {
        return format!("`{shown}` is not a field; write `{{}}`, there are no settings here");
    }
    match nearest(name, &known) {
        Some(meant) => format!("`{shown}` is not a field; did you mean `{meant}`?"),
        None => format!("`{shown}` is not a field; remove it or write one of {}", list(&known)),
    }
}

/// What to say about `text`, which is none of `values`.
pub fn unknown_value(at: &str, text: &str, values: &[&str]) -> String {
    let shown = clip(text);
    if is_later(at, text) {
        return format!("`{shown}` is not implemented by this build; write {}", either(values));
    }
    match nearest(text, values) {
        Some(meant) => format!("`{shown}` is not a value here; did you mean `{meant}`?"),
        None => format!("`{shown}` is not a value here; write {}", either(values)),
    }
}

/// What to write instead of `text`, if it does not match `pattern`.
pub fn mismatch(pattern: &str, text: &str) -> Option<String> {
    let (fits, write) = expectation(pattern).expect("every pattern of a schema has its words");
    (!fits(text)).then(|| format!("`{}` does not fit; {write}", clip(text)))
}

/// A pattern as a function, and what to write to fit it.
pub type Expectation = (fn(&str) -> bool, &'static str);

/// What `pattern` asks for.
pub fn expectation(pattern: &str) -> Option<Expectation> {
    let expectation: Expectation = match pattern {
        crate::schema::NAME_PATTERN => {
            (is_name, "use a-z, 0-9 and -, begin with a letter and end with a letter or digit")
        }
        OBJECT_NAME => (is_object_name, "use a-z, 0-9, - and ., and begin and end with a letter or digit"),
        NAMESPACE => (
            |text| is_object_name(text) && !text.contains('.'),
            "use a-z, 0-9 and -, as namespaces are named",
        ),
        DNS_NAME => (is_dns_name, "use a-z, 0-9 and -, in parts with . between them"),
        HOST => (
            |text| is_dns_name(text.strip_prefix("*.").unwrap_or(text)),
            "write a DNS name in lower case, like streams.example.com or *.example.com",
        ),
        DURATION => (|text| text.parse::<Span>().is_ok(), "write a duration like 250ms, 10s, 5m or 1h30m"),
        r"^[0-9]+(\.[0-9]{1,3})?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$" => {
            (|text| Quantity(text.into()).milli().is_some(), "write a quantity like 500m, 2 or 256Mi")
        }
        r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$" => (
            is_label_value,
            "use letters, digits, '-', '_' and '.', and begin and end with a letter or digit",
        ),
        r"^(/[A-Za-z0-9._~-]+)+$" => (
            is_path,
            "write a path like /shop/orders of letters, digits, '.', '_', '~' and '-', without '/' at the end",
        ),
        r"^https?://[!#-;=?-~]+$" => (is_link, "write a link that begins with http:// or https://"),
        r"^[A-Za-z0-9.\-_\[\]:]+:[0-9]{1,5}$" => (is_broker, "write host:port, like kafka:9092"),
        r"^sluice\.dev$" => (|text| text == "sluice.dev", "write sluice.dev or remove it"),
        r"^[!-~]+$" => (is_printable, "use printable ASCII without spaces"),
        r"^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+$" => {
            (is_media_type, "write a media type like application/json, without parameters")
        }
        r"^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+( *;[ -~]*)?$" => {
            (is_content_type, "write a media type like application/json")
        }
        _ => return None,
    };
    Some(expectation)
}

fn is_name(text: &str) -> bool {
    sluice_config::check::is_name(text)
}

fn is_object_name(text: &str) -> bool {
    let alphanumeric = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    alphanumeric(text.as_bytes().first())
        && alphanumeric(text.as_bytes().last())
        && text.bytes().all(|b| alphanumeric(Some(&b)) || matches!(b, b'-' | b'.'))
}

fn is_path(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~-".contains(&b))
    };
    text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(part))
}

fn is_printable(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

fn is_link(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    // Between angle brackets, in a `Link` header.
    rest.is_some_and(|rest| is_printable(rest) && !rest.contains(['<', '>', '"']))
}

fn is_broker(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_[]:".contains(&b))
            && (1..=5).contains(&port.len())
            && port.bytes().all(|b| b.is_ascii_digit())
    })
}

fn is_media_type(text: &str) -> bool {
    let token = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b))
    };
    text.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}

fn is_content_type(text: &str) -> bool {
    let (media_type, parameters) = text.split_once(';').unwrap_or((text, ""));
    is_media_type(media_type.trim_end_matches(' '))
        && parameters.bytes().all(|b| (b' '..=b'~').contains(&b))
        && (text.contains(';') || !text.ends_with(' '))
}

/// The one of `known` that `word` is a slip of: the same but for case, or at most two edits away
/// and not too short for that.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let allowed = match word.chars().count() {
        0..=2 => return None,
        3..=5 => 1,
        6..=40 => 2,
        _ => return None,
    };
    known
        .iter()
        .map(|meant| (distance(&word.to_lowercase(), &meant.to_lowercase()), *meant))
        .filter(|(edits, _)| *edits <= allowed)
        .min()
        .map(|(_, meant)| meant)
}

/// Edits between two short words; two neighbours swapped count as one (optimal string alignment).
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![vec![0; to.len() + 1]; from.len() + 1];
    for i in 0..=from.len() {
        for j in 0..=to.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
                let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[from.len()][to.len()]
}

/// `` `a`, `b`, `c` ``.
pub fn list(names: &[impl AsRef<str>]) -> String {
    names.iter().map(|name| format!("`{}`", name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// `` `a`, `b` or `c` ``.
fn either(names: &[&str]) -> String {
    match names {
        [rest @ .., last] if !rest.is_empty() => format!("{} or `{last}`", list(rest)),
        names => list(names),
    }
}

/// `spec.servers[2].kafka` as `spec.servers[].kafka`.
fn without_indices(at: &str) -> String {
    at.chars().filter(|c| !c.is_ascii_digit()).collect()
}
