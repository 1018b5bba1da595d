//! What may be used here, for whoever asks: a list of APIs at `/-/asyncapi`, and the AsyncAPI document of
//! each below it. An answer has only what its request may use, so that it tells nothing that the channels
//! would not.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body::Body as _;
use serde_json::json;
use sluice_config::asyncapi::{BaseUrl, Described, Description, MEDIA_TYPE, document};
use sluice_config::channel::path;
use sluice_config::policy::PublishRate;
use sluice_config::{Channel, Entry};

use crate::channel::State;
use crate::gateway::{Gateway, Peer, Routes, allows_origin, host, is_same_origin};
use crate::negotiate::accepted;
use crate::policy::{digest, presented};
use crate::respond::{Body, Refusal, full, plain};

/// Where the list is; `/<namespace>/<name>` behind it is a document.
const LIST: &str = "/-/asyncapi";
/// [`MEDIA_TYPE`] without its parameter.
const OWN_TYPE: &str = "application/vnd.aai.asyncapi+json";
/// What a client address may ask for in a second, and at once. What an answer costs grows with what is
/// served, and nobody needs one often.
const RATE: PublishRate = PublishRate { messages_per_second: 20, burst: Some(100) };

/// Who asks.
struct Asker<'a> {
    request: &'a Parts,
    scheme: &'static str,
    /// Digest of the API key that was shown: many channels are compared with it.
    key: Option<[u8; 32]>,
}

/// A channel that the asker may use.
type Usable<'a> = (&'a Channel, Arc<State>);

/// The answer to a request for the list or a document; `None` if it is for something else.
pub fn answer(gateway: &Gateway, request: &Parts, peer: Peer) -> Option<Response<Body>> {
    let rest = request.uri.path().strip_prefix(LIST)?;
    let answered = match rest.strip_prefix('/') {
        None if rest.is_empty() => admit(gateway, request, peer).and_then(|asker| list(gateway, &asker)),
        None => return None,
        Some(name) => admit(gateway, request, peer).and_then(|asker| describe(gateway, &asker, name)),
    };
    let mut response = answered.unwrap_or_else(|refusal| gateway.dress(refusal.response(), request, None));
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept, Origin, Authorization, X-API-Key"));
    // It holds what its reader alone may know, and the `Host` that its reader wrote.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Some(if request.method == Method::HEAD { without_body(response) } else { response })
}

/// Who may ask at all.
fn admit<'a>(gateway: &Gateway, request: &'a Parts, peer: Peer) -> Result<Asker<'a>, Refusal> {
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(Refusal::MethodNotAllowed { allow: "GET, HEAD" });
    }
    let per_second = RATE.messages_per_second;
    let spent = gateway.asked.spend(&peer.address.ip().to_string(), &RATE, Instant::now());
    spent.map_err(|retry_after| Refusal::TooManyRequests { per_second, retry_after })?;
    let key = presented(&request.headers, None).map(|key| digest(&key));
    Ok(Asker { request, scheme: peer.scheme, key })
}

fn list(gateway: &Gateway, asker: &Asker<'_>) -> Result<Response<Body>, Refusal> {
    let (apis, routes) = (gateway.apis.load(), gateway.routes.load());
    let listed = apis.iter().filter_map(|(key, entry)| {
        let (_, state) = asker.judged(entry, &routes).find_map(Result::ok)?;
        let api = &entry.api;
        Some(json!({
            "namespace": api.namespace,
            "name": api.name,
            "description": api.spec.description,
            "lifecycle": state.lifecycle.state,
            "asyncapi": format!("{LIST}/{key}"),
        }))
    });
    let listed: Vec<_> = listed.collect();
    let origin = asker.request.headers.get(header::ORIGIN);
    if origin.is_some() && listed.is_empty() && !is_same_origin(asker.request, asker.scheme) {
        return Err(Refusal::ForeignOrigin);
    }
    let mut response = plain(StatusCode::OK, "application/json", json!({"apis": listed}).to_string());
    if let Some(origin) = origin {
        // Whatever is listed may be used from there.
        response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    }
    Ok(response)
}

fn describe(gateway: &Gateway, asker: &Asker<'_>, name: &str) -> Result<Response<Body>, Refusal> {
    let (apis, routes) = (gateway.apis.load(), gateway.routes.load());
    let entry = apis.get(name).ok_or(Refusal::NotFound)?;
    let usable = asker.usable(entry, &routes)?;
    let media_type = media_type(&asker.request.headers)?;
    let base_urls = [asker.base_url()?];
    let channels: Vec<_> = usable
        .iter()
        .map(|(channel, state)| Described { channel, needs_key: state.policy.needs_key() })
        .collect();
    // All channels have the API's lifecycle.
    let (_, state) = &usable[0];
    let document = document(&Description {
        name: &entry.api.name,
        spec: &entry.api.spec,
        lifecycle: &state.lifecycle,
        base_urls: &base_urls,
        channels: &channels,
    });
    let response = plain(StatusCode::OK, media_type, document.to_string());
    Ok(gateway.dress(response, asker.request, Some(state)))
}

impl Asker<'_> {
    /// The channels of an API that may be used, at least one; else why none may.
    fn usable<'e>(&self, entry: &'e Entry, routes: &Routes) -> Result<Vec<Usable<'e>>, Refusal> {
        let (mut usable, mut why) = (Vec::new(), Refusal::NotFound);
        for judged in self.judged(entry, routes) {
            match judged {
                Ok(channel) => usable.push(channel),
                // That a key would help is worth more than what else is wrong.
                Err(refusal) if why == Refusal::NotFound || refusal == Refusal::Unauthorized => why = refusal,
                Err(_) => {}
            }
        }
        if usable.is_empty() { Err(why) } else { Ok(usable) }
    }

    /// Every channel of an API that is served, or why it may not be used.
    fn judged<'e>(
        &self,
        entry: &'e Entry,
        routes: &Routes,
    ) -> impl Iterator<Item = Result<Usable<'e>, Refusal>> {
        let api = entry.api.key();
        entry.api.spec.channels.iter().filter_map(move |channel| {
            let found = routes.get(&path(&entry.api.name, &entry.api.spec, channel))?;
            // The path may be another API's.
            let is_own = *found.tenant.api == *api && *found.name == *channel.name;
            let state = is_own.then(|| found.state())?;
            Some(self.judge(&state).map(|()| (channel, state)))
        })
    }

    /// As [`Gateway::find`] and [`Gateway::admit`] judge a request to the channel.
    fn judge(&self, state: &State) -> Result<(), Refusal> {
        if !allows_origin(&state.policy, self.request, self.scheme) {
            return Err(Refusal::ForeignOrigin);
        }
        state.check()?;
        state.policy.recognise(self.key.as_ref()).map(drop)
    }

    /// Where the asker found this server.
    fn base_url(&self) -> Result<BaseUrl, Refusal> {
        // Who ends TLS in front says so. A lie reaches the liar alone, for no answer is kept.
        let forwarded = self.request.headers.get("x-forwarded-proto");
        let is_secure = forwarded.is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"));
        let scheme = if is_secure { "https" } else { self.scheme };
        let base_url = host(self.request).and_then(|host| BaseUrl::new(scheme, host));
        base_url.ok_or_else(|| {
            Refusal::BadRequest("Host must be a name or an address, with or without a port".into())
        })
    }
}

/// AsyncAPI's own media type, unless only `application/json` is named (RFC 9110 §12.5.1).
fn media_type(headers: &HeaderMap) -> Result<&'static str, Refusal> {
    let names = |name: &str| accepted(headers).any(|(range, wanted)| wanted && range == name);
    if !headers.contains_key(header::ACCEPT) || names(OWN_TYPE) {
        Ok(MEDIA_TYPE)
    } else if names("application/json") {
        Ok("application/json")
    } else if names("*/*") || names("application/*") {
        Ok(MEDIA_TYPE)
    } else {
        Err(Refusal::NotAcceptable { offers: format!("{OWN_TYPE} and application/json") })
    }
}

/// What a `GET` would be answered, without the body.
fn without_body(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact() {
        parts.headers.insert(header::CONTENT_LENGTH, length.into());
    }
    Response::from_parts(parts, full(Bytes::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_called_so_only_where_that_is_what_is_named() {
        for (accept, expected) in [
            (&["*/*"][..], Some(MEDIA_TYPE)),
            (&[], Some(MEDIA_TYPE)),
            (&["text/html,application/xhtml+xml,*/*;q=0.8"], Some(MEDIA_TYPE)),
            (&["application/*"], Some(MEDIA_TYPE)),
            (&["application/vnd.aai.asyncapi+json"], Some(MEDIA_TYPE)),
            (&["application/vnd.aai.asyncapi+json;version=3.0.0"], Some(MEDIA_TYPE)),
            (&["application/json", "application/vnd.aai.asyncapi+json;q=0.1"], Some(MEDIA_TYPE)),
            (&["application/json"], Some("application/json")),
            (&["text/html, Application/JSON;q=0.5, */*;q=0.1"], Some("application/json")),
            (&["application/json;q=0"], None),
            (&["text/html"], None),
            (&["application/vnd.aai.asyncapi+yaml"], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in accept {
                headers.append(header::ACCEPT, HeaderValue::from_static(value));
            }
            assert_eq!(media_type(&headers).ok(), expected, "{accept:?}");
        }
    }
}
