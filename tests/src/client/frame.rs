//! Frames and envelopes as JSON, with the payload's bytes as they came.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// A server frame of `sluice.v1.json`, an envelope, or the data of a named SSE event: whichever
/// fields were there.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Frame {
    /// `ready`, `message`, `ack`, `nack`, `gap`, `error`, `drain`, `cursor`; empty for SSE.
    #[serde(rename = "type")]
    pub kind: String,
    /// Message id, or the id of the publish that is answered.
    pub id: Option<String>,
    /// Cursor.
    pub cursor: Option<String>,
    /// Whether the channel has cursors.
    pub resumable: Option<bool>,
    /// Key.
    pub key: Option<String>,
    /// Key that is not UTF-8.
    pub key_base64: Option<String>,
    /// Headers, in order.
    pub headers: Vec<(String, Value)>,
    /// RFC 3339 UTC with milliseconds.
    pub timestamp: Option<String>,
    /// Content type.
    pub content_type: Option<String>,
    /// Payload as JSON.
    pub data: Option<Box<RawValue>>,
    /// Payload of other types.
    pub data_base64: Option<String>,
    /// The payload claims to be JSON and is not.
    pub invalid: bool,
    /// There is no payload.
    pub tombstone: bool,
    /// Id of the message that was published.
    pub message: Option<String>,
    /// Error code.
    pub code: Option<String>,
    /// What went wrong, in words.
    pub detail: Option<String>,
    /// Whether the same publish may succeed later.
    pub retryable: Option<bool>,
    /// Gap: the first position that is lost.
    pub from: Option<String>,
    /// Gap: where it goes on.
    pub to: Option<String>,
    /// Gap: why.
    pub reason: Option<String>,
    /// Drain: when to come back.
    pub retry_after_ms: Option<u64>,
}

impl Frame {
    /// Parses a frame.
    ///
    /// # Panics
    /// If it is not one.
    pub fn parse(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("not a frame ({error}): {text}"))
    }

    /// The payload's bytes: the original JSON, the text of a string, or what base64 holds.
    pub fn payload(&self) -> Option<Vec<u8>> {
        if let Some(data) = &self.data {
            let json = self.content_type.as_deref().is_none_or(is_json);
            let bytes = if json {
                data.get().as_bytes().to_vec()
            } else {
                serde_json::from_str::<String>(data.get()).expect("text comes as a string").into_bytes()
            };
            return Some(bytes);
        }
        self.data_base64.as_ref().map(|text| STANDARD.decode(text).expect("dataBase64 is base64"))
    }
}

/// Whether a media type is JSON (RFC 6839 suffix included).
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}
