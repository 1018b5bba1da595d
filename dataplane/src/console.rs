//! The console of `sluice run`: three static files and a list of what is served.

use std::sync::Arc;

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};

use crate::gateway::Gateway;
use crate::respond::{Body, Refusal, full, plain};

const PAGE: &str = include_str!("../console/index.html");
const STYLE: &str = include_str!("../console/console.css");

/// The page's modules; it loads the first, which imports the others.
const SCRIPTS: &[(&str, &str)] = &[
    ("catalogue.js", include_str!("../console/catalogue.js")),
    ("console.js", include_str!("../console/console.js")),
    ("decode.js", include_str!("../console/decode.js")),
    ("inspect.js", include_str!("../console/inspect.js")),
    ("messages.js", include_str!("../console/messages.js")),
    ("page.js", include_str!("../console/page.js")),
    ("publish.js", include_str!("../console/publish.js")),
    ("snippets.js", include_str!("../console/snippets.js")),
    ("stream.js", include_str!("../console/stream.js")),
    ("transports.js", include_str!("../console/transports.js")),
    ("words.js", include_str!("../console/words.js")),
];

/// Nothing from elsewhere, nothing inline, nobody frames it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws: wss:; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The answer to a request for the console; `None` if it is for a channel.
pub fn answer(gateway: &Arc<Gateway>, request: &Parts) -> Option<Response<Body>> {
    let path = request.uri.path();
    let wants_page = request
        .headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"));
    if path == "/" && wants_page {
        let mut response = plain(StatusCode::TEMPORARY_REDIRECT, "text/plain", "the console is at /-/\n");
        response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/-/"));
        return Some(response);
    }
    let rest = path.strip_prefix("/-/")?;
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Some(Refusal::MethodNotAllowed { allow: "GET, HEAD" }.response());
    }
    let mut response = match rest {
        "" => plain(StatusCode::OK, "text/html; charset=utf-8", PAGE),
        "console.css" => plain(StatusCode::OK, "text/css; charset=utf-8", STYLE),
        "apis.json" => plain(StatusCode::OK, "application/json", apis(gateway).to_string()),
        _ => match SCRIPTS.iter().find(|(name, _)| *name == rest) {
            Some((_, script)) => plain(StatusCode::OK, "text/javascript; charset=utf-8", *script),
            None => return Some(Refusal::NotFound.response()),
        },
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if request.method == Method::HEAD {
        response = response.map(|_| full(bytes::Bytes::new()));
    }
    Some(response)
}

fn apis(gateway: &Gateway) -> serde_json::Value {
    let list = gateway.catalog.load();
    serde_json::json!({ "apis": list.iter().map(|api| &**api).collect::<Vec<_>>() })
}
