//! The frames that clients send on `sluice.v1.json`, and CloudEvents on `cloudevents.json`. Pure.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::message::{CONTENT_TYPE, Headers, Outgoing};

/// Most headers of one message.
const MAX_HEADERS: usize = 100;
const CHANNEL: &str = "the field `channel`";
/// Longest `id` of a publish.
const MAX_ID: usize = 256;

/// What a client asks for.
#[derive(Debug)]
pub enum Frame {
    /// Publish a message; the answer repeats `id`.
    Publish {
        /// The client's own id.
        id: Option<String>,
        /// The message, or why it cannot be sent.
        message: Result<Outgoing, String>,
    },
    /// Stop sending messages until `resume`.
    Pause,
    /// Go on.
    Resume,
    /// A frame or field of the contract or of the future.
    Unsupported {
        /// The publish it belongs to.
        id: Option<String>,
        /// What it is.
        what: String,
    },
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    id: Option<String>,
    key: Option<String>,
    #[serde(rename = "keyBase64")]
    key_base64: Option<String>,
    #[serde(default)]
    headers: Vec<(String, HeaderValue)>,
    #[serde(rename = "contentType")]
    content_type: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(rename = "dataBase64")]
    data_base64: Option<String>,
    /// Reserved for several channels on one connection.
    channel: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum HeaderValue {
    Text(String),
    Binary { base64: String },
}

/// Reads one frame of `sluice.v1.json`.
pub fn read(text: &[u8]) -> Result<Frame, String> {
    let wire: Wire =
        serde_json::from_slice(text).map_err(|error| format!("not a frame of sluice.v1.json: {error}"))?;
    if wire.channel.is_some() {
        return Ok(match wire.id {
            Some(id) if wire.kind == "publish" => Frame::Unsupported { id: Some(id), what: CHANNEL.into() },
            _ => Frame::Unsupported { id: None, what: CHANNEL.into() },
        });
    }
    Ok(match &*wire.kind {
        "pause" => Frame::Pause,
        "resume" => Frame::Resume,
        "publish" => {
            let id = wire.id.clone().filter(|id| id.len() <= MAX_ID);
            let message = if wire.id.is_some() && id.is_none() {
                Err(format!("`id` is over {MAX_ID} bytes"))
            } else {
                message(wire)
            };
            Frame::Publish { id, message }
        }
        other => {
            let what = format!("the frame type {:?}", other.chars().take(40).collect::<String>());
            Frame::Unsupported { id: None, what }
        }
    })
}

fn message(wire: Wire<'_>) -> Result<Outgoing, String> {
    if wire.headers.len() > MAX_HEADERS {
        return Err(format!("more than {MAX_HEADERS} headers"));
    }
    let content_type = match (&wire.content_type, &wire.data) {
        (Some(content_type), _) => Some(content_type.clone()),
        (None, Some(_)) => Some("application/json".into()),
        (None, None) => None,
    };
    let payload = match (wire.data, &wire.data_base64) {
        (Some(_), Some(_)) => return Err("`data` and `dataBase64` exclude each other".into()),
        (None, None) => return Err("`data` or `dataBase64` is missing".into()),
        (None, Some(text)) => Bytes::from(decode("dataBase64", text)?),
        (Some(raw), None) => payload(raw, content_type.as_deref().unwrap_or_default()),
    };
    let key = match (wire.key, &wire.key_base64) {
        (Some(_), Some(_)) => return Err("`key` and `keyBase64` exclude each other".into()),
        (Some(key), None) => Some(Bytes::from(key)),
        (None, Some(text)) => Some(Bytes::from(decode("keyBase64", text)?)),
        (None, None) => None,
    };
    let mut headers: Headers = Vec::with_capacity(wire.headers.len() + 1);
    if let Some(content_type) = content_type {
        headers.push((Arc::from(CONTENT_TYPE), content_type.into()));
    }
    for (name, value) in wire.headers {
        let value = match value {
            HeaderValue::Text(text) => Bytes::from(text),
            HeaderValue::Binary { base64 } => Bytes::from(decode("headers", &base64)?),
        };
        if !name.eq_ignore_ascii_case(CONTENT_TYPE) {
            headers.push((name.into(), value));
        }
    }
    Ok(Outgoing { key, headers, payload: Some(payload) })
}

/// JSON goes as it was written; what is a string but not JSON by type goes as its text.
fn payload(raw: &RawValue, content_type: &str) -> Bytes {
    if !crate::encode::is_json(content_type)
        && let Ok(text) = serde_json::from_str::<String>(raw.get())
    {
        return text.into();
    }
    Bytes::copy_from_slice(raw.get().as_bytes())
}

fn decode(field: &str, text: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(text).map_err(|_| format!("`{field}` is not base64"))
}

/// Reads one event of `cloudevents.json`: it is published in structured mode, as it came.
pub fn read_cloud_event(text: &[u8]) -> Result<(String, Outgoing), String> {
    #[derive(Deserialize)]
    struct Event {
        specversion: String,
        id: String,
        source: String,
        #[serde(rename = "type")]
        kind: String,
    }
    let event: Event = serde_json::from_slice(text).map_err(|error| format!("not a CloudEvent: {error}"))?;
    if event.specversion != "1.0" || event.id.is_empty() || event.source.is_empty() || event.kind.is_empty() {
        return Err("not a CloudEvent 1.0: specversion, id, source and type must be set".into());
    }
    let headers = vec![(Arc::from(CONTENT_TYPE), Bytes::from_static(b"application/cloudevents+json"))];
    let payload = Some(Bytes::copy_from_slice(text));
    Ok((event.id.chars().take(MAX_ID).collect(), Outgoing { key: None, headers, payload }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(text: &str) -> Result<Outgoing, String> {
        match read(text.as_bytes()).expect("a frame") {
            Frame::Publish { message, .. } => message,
            other => panic!("{other:?}"),
        }
    }

    fn header<'a>(message: &'a Outgoing, name: &str) -> Option<&'a [u8]> {
        message.headers.iter().find(|(known, _)| &**known == name).map(|(_, value)| &**value)
    }

    #[test]
    fn data_keeps_its_bytes_or_becomes_its_text() {
        let json =
            published(r#"{"type":"publish","id":"1","key":"k","data":{"a": 1.0}}"#).expect("a message");
        assert_eq!(json.payload.as_deref(), Some(br#"{"a": 1.0}"#.as_slice()));
        assert_eq!(header(&json, "content-type"), Some(b"application/json".as_slice()));
        assert_eq!(json.key.as_deref(), Some(b"k".as_slice()));
        let text =
            published(r#"{"type":"publish","contentType":"text/plain","data":"hi\n"}"#).expect("a message");
        assert_eq!(text.payload.as_deref(), Some(b"hi\n".as_slice()));
        let bytes =
            published(r#"{"type":"publish","dataBase64":"/w==","keyBase64":"/w=="}"#).expect("a message");
        assert_eq!(
            (bytes.payload.as_deref(), bytes.key.as_deref()),
            (Some([255].as_slice()), Some([255].as_slice()))
        );
        assert_eq!(header(&bytes, "content-type"), None);
    }

    #[test]
    fn headers_keep_order_and_duplicates() {
        let message = published(
            r#"{"type":"publish","data":1,"headers":[["x","1"],["x",{"base64":"/w=="}],["content-type","a/b"]]}"#,
        )
        .expect("a message");
        let rest: Vec<_> = message.headers.iter().skip(1).map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(rest, [("x", b"1".as_slice()), ("x", [255].as_slice())]);
    }

    #[test]
    fn what_cannot_be_published_says_why() {
        for (text, word) in [
            (r#"{"type":"publish"}"#, "missing"),
            (r#"{"type":"publish","data":1,"dataBase64":""}"#, "exclude"),
            (r#"{"type":"publish","dataBase64":"!"}"#, "base64"),
            (r#"{"type":"publish","data":1,"key":"a","keyBase64":""}"#, "exclude"),
        ] {
            let reason = published(text).expect_err(text);
            assert!(reason.contains(word), "{reason}");
        }
        for text in ["", "[]", "{}", "{\"type\":1}", "nonsense"] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
        assert!(
            matches!(read(br#"{"type":"ack","cursor":"x"}"#), Ok(Frame::Unsupported { id: None, what }) if what.contains("ack"))
        );
        let several = read(br#"{"type":"publish","id":"1","channel":"c","data":1}"#);
        assert!(matches!(several, Ok(Frame::Unsupported { id: Some(id), .. }) if id == "1"));
    }

    #[test]
    fn events_must_be_events() {
        let good = br#"{"specversion":"1.0","id":"e","source":"/s","type":"t","data":1}"#;
        assert_eq!(read_cloud_event(good).expect("an event").0, "e");
        for bad in [
            "{}",
            r#"{"specversion":"0.3","id":"e","source":"/s","type":"t"}"#,
            r#"{"specversion":"1.0","id":"","source":"/s","type":"t"}"#,
        ] {
            assert!(read_cloud_event(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
