//! One URL, many transports: which one a request asks for. Pure.

use http::header::{self, HeaderMap};
use http::{Method, request::Parts};
use sluice_config::channel::{Channel as Spec, Format};

use crate::respond::Refusal;
use crate::transport::websocket::upgrade;

/// What a request wants of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A WebSocket.
    WebSocket,
    /// An event stream.
    Sse,
    /// To publish.
    Publish,
}

/// What the query string may say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// `?format=`.
    pub format: Option<Format>,
    /// `?cursor=`.
    pub cursor: Option<String>,
    /// `?sse=strict`: plain statuses also for what is transient.
    pub strict: bool,
    /// `?key=` of a publish.
    pub key: Option<String>,
}

/// The parameters that mean something here.
const PARAMETERS: [&str; 6] = ["format", "cursor", "start", "sse", "key", "ticket"];

/// Reads the query string. Parameters that are not ours are not looked at.
pub fn query(text: Option<&str>) -> Result<Query, Refusal> {
    let mut query = Query::default();
    let mut seen = Vec::new();
    for (name, value) in form_urlencoded::parse(text.unwrap_or_default().as_bytes()) {
        if let Some(ours) = PARAMETERS.iter().find(|known| **known == name) {
            if seen.contains(ours) {
                return Err(Refusal::BadRequest(format!("the parameter {ours} stands twice")));
            }
            seen.push(*ours);
        }
        match (&*name, &*value) {
            ("format", "raw") => query.format = Some(Format::Raw),
            ("format", "envelope") => query.format = Some(Format::Envelope),
            ("format", "cloudevents") => query.format = Some(Format::CloudEvents),
            ("format", _) => {
                return Err(Refusal::BadRequest("format is raw, envelope or cloudevents".into()));
            }
            ("cursor", _) => query.cursor = Some(value.into_owned()),
            ("start", "latest") => {}
            ("start", "earliest") => return Err(Refusal::NotImplemented("start=earliest".into())),
            ("start", _) => return Err(Refusal::BadRequest("start is latest".into())),
            ("sse", "strict") => query.strict = true,
            ("sse", _) => return Err(Refusal::BadRequest("sse is strict or left out".into())),
            ("key", _) => query.key = Some(value.into_owned()),
            ("ticket", _) => return Err(Refusal::NotImplemented("ticket".into())),
            _ => {}
        }
    }
    Ok(query)
}

/// What `request` wants of a channel with this spec.
pub fn mode(request: &Parts, spec: &Spec) -> Result<Mode, Refusal> {
    let subscribe = spec.subscribe.as_ref().map(|subscribe| &subscribe.transports);
    let publish = spec.publish.as_ref().map(|publish| &publish.transports);
    let websocket = subscribe.is_some_and(|transports| transports.websocket.is_some())
        || publish.is_some_and(|transports| transports.websocket.is_some());
    let sse = subscribe.is_some_and(|transports| transports.sse.is_some());
    let post = publish.is_some_and(|transports| transports.http.is_some());
    let allow = match (websocket || sse, post) {
        (true, true) => "GET, POST, OPTIONS",
        (true, false) => "GET, OPTIONS",
        (false, _) => "POST, OPTIONS",
    };
    if request.method == Method::POST && post {
        return Ok(Mode::Publish);
    }
    if request.method != Method::GET || !(websocket || sse) {
        return Err(Refusal::MethodNotAllowed { allow });
    }
    if upgrade::is_upgrade(&request.headers) {
        return if websocket { Ok(Mode::WebSocket) } else { Err(not_acceptable(websocket, sse)) };
    }
    match preference(&request.headers) {
        Preference::EventStream if sse => Ok(Mode::Sse),
        Preference::Anything if sse => Ok(Mode::Sse),
        Preference::Anything => Err(Refusal::UpgradeRequired),
        Preference::EventStream | Preference::Other => Err(not_acceptable(websocket, sse)),
    }
}

fn not_acceptable(websocket: bool, sse: bool) -> Refusal {
    let offers = match (websocket, sse) {
        (true, true) => "text/event-stream and WebSocket",
        (true, false) => "WebSocket",
        (false, _) => "text/event-stream",
    };
    Refusal::NotAcceptable { offers: offers.into() }
}

#[derive(Debug, PartialEq, Eq)]
enum Preference {
    EventStream,
    Anything,
    Other,
}

/// What of `Accept` (RFC 9110 §12.5.1) concerns us: exact media types first, then wildcards.
fn preference(headers: &HeaderMap) -> Preference {
    let (mut silent, mut anything, mut excluded) = (true, false, false);
    for (media, wanted) in accepted(headers) {
        silent = false;
        match (media.as_str(), wanted) {
            ("text/event-stream", true) => return Preference::EventStream,
            ("text/event-stream", false) => excluded = true,
            ("*/*" | "text/*", true) => anything = true,
            _ => {}
        }
    }
    if silent || (anything && !excluded) { Preference::Anything } else { Preference::Other }
}

/// The media ranges of `Accept` in lower case, and whether each is wanted (`q` is not 0).
pub fn accepted(headers: &HeaderMap) -> impl Iterator<Item = (String, bool)> {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let quality = parts
            .filter_map(|part| part.split_once('='))
            .find(|(name, _)| name.trim().eq_ignore_ascii_case("q"))
            .and_then(|(_, value)| value.trim().parse::<f32>().ok())
            .unwrap_or(1.0);
        (media, quality > 0.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(subscribe: &[&str], publish: &[&str]) -> Spec {
        let transports = |names: &[&str]| -> serde_json::Value {
            names
                .iter()
                .map(|name| ((*name).to_owned(), serde_json::json!({})))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let mut json = serde_json::json!({"name": "c", "server": "s", "address": "a"});
        if !subscribe.is_empty() {
            json["subscribe"] = serde_json::json!({"transports": transports(subscribe)});
        }
        if !publish.is_empty() {
            json["publish"] = serde_json::json!({"transports": transports(publish)});
        }
        serde_json::from_value(json).expect("a channel")
    }

    fn check(method: &str, headers: &[(&str, &str)], spec: &Spec, expected: Result<Mode, u16>) {
        let mut builder = http::Request::builder().method(method).uri("/a/b");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let (parts, ()) = builder.body(()).expect("a request").into_parts();
        let got = mode(&parts, spec).map_err(|refusal| refusal.status().as_u16());
        assert_eq!(got, expected, "{method} {headers:?}");
    }

    #[test]
    fn one_url_serves_what_is_asked_for() {
        let all = spec(&["websocket", "sse"], &["http"]);
        check("GET", &[("upgrade", "websocket")], &all, Ok(Mode::WebSocket));
        check("GET", &[("accept", "text/event-stream")], &all, Ok(Mode::Sse));
        check("GET", &[("accept", "*/*")], &all, Ok(Mode::Sse));
        check("GET", &[], &all, Ok(Mode::Sse));
        check("GET", &[("accept", "text/html,*/*;q=0.8")], &all, Ok(Mode::Sse));
        check("GET", &[("accept", "application/json")], &all, Err(406));
        check("GET", &[("accept", "text/event-stream;q=0, */*")], &all, Err(406));
        check("POST", &[], &all, Ok(Mode::Publish));
        check("PUT", &[], &all, Err(405));
        check("HEAD", &[], &all, Err(405));
    }

    #[test]
    fn what_a_channel_lacks_is_refused_with_what_it_has() {
        let socket = spec(&["websocket"], &[]);
        check("GET", &[("accept", "*/*")], &socket, Err(426));
        check("GET", &[("accept", "text/event-stream")], &socket, Err(406));
        check("POST", &[], &socket, Err(405));
        let events = spec(&["sse"], &[]);
        check("GET", &[("upgrade", "websocket")], &events, Err(406));
        let sink = spec(&[], &["http"]);
        check("GET", &[], &sink, Err(405));
        check("GET", &[("upgrade", "websocket")], &sink, Err(405));
        check("POST", &[], &spec(&[], &["websocket"]), Err(405));
        check("GET", &[("upgrade", "websocket")], &spec(&[], &["websocket"]), Ok(Mode::WebSocket));
    }

    #[test]
    fn the_query_is_read_or_refused_by_name() {
        let read = query(Some("format=envelope&cursor=a%2Bb&sse=strict&x=1&key=k")).expect("readable");
        let expected = Query {
            format: Some(Format::Envelope),
            cursor: Some("a+b".into()),
            strict: true,
            key: Some("k".into()),
        };
        assert_eq!(read, expected);
        for (text, status) in [
            ("format=xml", 400),
            ("start=earliest", 501),
            ("start=x", 400),
            ("ticket=t", 501),
            ("sse=x", 400),
            ("cursor=a&cursor=b", 400),
        ] {
            assert_eq!(query(Some(text)).expect_err(text).status(), status, "{text}");
        }
    }
}
