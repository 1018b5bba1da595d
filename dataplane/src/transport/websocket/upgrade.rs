//! The opening handshake (RFC 6455 §4.2) and the choice of a subprotocol.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use sha1::{Digest, Sha1};
use sluice_config::channel::Format;

use crate::respond::Refusal;

/// Subprotocol prefix that carries an API key, which browsers cannot send otherwise.
const KEY_PREFIX: &str = "sluice.key.";

/// What a client offers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// The first subprotocol that is known here, and its format.
    pub subprotocol: Option<(&'static str, Format)>,
    /// Any subprotocol but a key was offered.
    pub named_any: bool,
    /// The API key.
    pub key: Option<Vec<u8>>,
}

/// Whether a request asks for a WebSocket.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    has_token(headers, &header::UPGRADE, "websocket")
}

/// Reads the subprotocols offered.
pub fn offer(headers: &HeaderMap) -> Offer {
    let mut offer = Offer::default();
    let values =
        headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    for name in values.flat_map(|value| value.split(',')).map(str::trim).filter(|name| !name.is_empty()) {
        if let Some(key) = name.strip_prefix(KEY_PREFIX) {
            offer.key = URL_SAFE_NO_PAD.decode(key.trim_end_matches('=')).ok().or(Some(Vec::new()));
            continue;
        }
        offer.named_any = true;
        let known = match name {
            "sluice.v1.json" => Some(("sluice.v1.json", Format::Envelope)),
            "sluice.v1.raw" => Some(("sluice.v1.raw", Format::Raw)),
            "cloudevents.json" => Some(("cloudevents.json", Format::CloudEvents)),
            _ => None,
        };
        offer.subprotocol = offer.subprotocol.or(known);
    }
    offer
}

impl Offer {
    /// The format that the subprotocol and `?format=` agree on.
    pub fn format(&self, asked: Option<Format>) -> Result<Format, Refusal> {
        let refuse = |reason: &str| Err(Refusal::BadRequest(reason.into()));
        match (self.subprotocol, asked) {
            (None, _) if self.named_any => {
                refuse("offer the subprotocol sluice.v1.json, sluice.v1.raw or cloudevents.json")
            }
            (None, _) if self.key.is_some() => {
                refuse("offer a subprotocol beside the key, like sluice.v1.json")
            }
            (None, asked) => Ok(asked.unwrap_or(Format::Raw)),
            (Some((_, format)), Some(asked)) if asked != format => {
                refuse("the subprotocol and ?format= contradict each other")
            }
            (Some((_, format)), _) => Ok(format),
        }
    }
}

/// The 101 answer, if the handshake is well-formed.
pub fn answer(headers: &HeaderMap, offer: &Offer) -> Result<Response<()>, Refusal> {
    let refuse = |reason: &str| Err(Refusal::BadRequest(reason.into()));
    if !has_token(headers, &header::CONNECTION, "upgrade") {
        return refuse("Connection: Upgrade is missing");
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return refuse("Sec-WebSocket-Version must be 13");
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    if STANDARD.decode(key).map_or(0, |key| key.len()) != 16 {
        return refuse("Sec-WebSocket-Key must be 16 bytes in base64");
    }
    let accept =
        Sha1::new().chain_update(key).chain_update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = response.headers_mut();
    out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    out.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::from_str(&STANDARD.encode(accept)).expect("base64 is a header value");
    out.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some((name, _)) = offer.subprotocol {
        out.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok(response)
}

fn has_token(headers: &HeaderMap, name: &header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_handshake_of_the_rfc_is_answered() {
        let headers = headers(&[
            ("upgrade", "websocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "chat, sluice.key.c2xrX2E, sluice.v1.json"),
        ]);
        let offer = offer(&headers);
        assert_eq!(offer.key.as_deref(), Some(b"slk_a".as_slice()));
        let response = answer(&headers, &offer).expect("well-formed");
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(response.headers()["sec-websocket-protocol"], "sluice.v1.json");
    }

    #[test]
    fn formats_and_subprotocols_agree_or_are_refused() {
        for (protocols, asked, expected) in [
            ("", None, Some(Format::Raw)),
            ("", Some(Format::Envelope), Some(Format::Envelope)),
            ("sluice.v1.json", None, Some(Format::Envelope)),
            ("sluice.v1.json", Some(Format::Raw), None),
            ("cloudevents.json, sluice.v1.json", None, Some(Format::CloudEvents)),
            ("sluice.key.c2xr", None, None),
            ("sluice.key.c2xr, sluice.v1.raw", None, Some(Format::Raw)),
            ("chat", None, None),
        ] {
            let headers = headers(&[("sec-websocket-protocol", protocols)]);
            assert_eq!(offer(&headers).format(asked).ok(), expected, "{protocols}");
        }
    }

    #[test]
    fn malformed_handshakes_are_refused() {
        let good = [
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        for (index, value) in [(1, "close"), (2, "8"), (3, "short")] {
            let mut bad = good;
            bad[index].1 = value;
            assert!(answer(&headers(&bad), &Offer::default()).is_err(), "{value}");
        }
    }
}
