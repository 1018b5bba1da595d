//! The bytes of a message for each lane (transport and format): made once, the same for every
//! client of the lane.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use sluice_config::channel::{CursorPlacement, Format};

use crate::feed::ring::GapReason;
use crate::message::{CONTENT_TYPE, Record};
use crate::transport::sse::block;
use crate::transport::websocket::frame::{self, Opcode};

/// A transport and a format: clients of one lane get the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// WebSocket, payloads only.
    WsRaw,
    /// WebSocket, subprotocol `sluice.v1.json`.
    WsJson,
    /// WebSocket, subprotocol `cloudevents.json`.
    WsCloudEvents,
    /// SSE, payloads only.
    SseRaw,
    /// SSE, envelopes.
    SseEnvelope,
    /// SSE, CloudEvents.
    SseCloudEvents,
}

impl Lane {
    /// How many lanes there are.
    pub const COUNT: usize = 6;

    /// The SSE lane of `format`.
    pub const fn sse(format: Format) -> Self {
        match format {
            Format::Raw => Self::SseRaw,
            Format::Envelope => Self::SseEnvelope,
            Format::CloudEvents => Self::SseCloudEvents,
        }
    }

    /// The WebSocket lane of `format`.
    pub const fn websocket(format: Format) -> Self {
        match format {
            Format::Raw => Self::WsRaw,
            Format::Envelope => Self::WsJson,
            Format::CloudEvents => Self::WsCloudEvents,
        }
    }

    /// Its format.
    pub const fn format(self) -> Format {
        match self {
            Self::WsRaw | Self::SseRaw => Format::Raw,
            Self::WsJson | Self::SseEnvelope => Format::Envelope,
            Self::WsCloudEvents | Self::SseCloudEvents => Format::CloudEvents,
        }
    }

    /// Position in arrays of lanes.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether the lane is a WebSocket one.
    pub const fn is_websocket(self) -> bool {
        matches!(self, Self::WsRaw | Self::WsJson | Self::WsCloudEvents)
    }
}

/// What the encodings of a channel need to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoder {
    /// CloudEvents `source`: `/<namespace>/<api>/<channel>`.
    pub source: String,
    /// CloudEvents `type`.
    pub event_type: String,
    /// Content type of messages without their own.
    pub content_type: Arc<str>,
    /// Whether every message carries its cursor.
    pub cursor: CursorPlacement,
}

/// Content type of messages of which nothing is known.
pub const OCTET_STREAM: &str = sluice_config::channel::Message::CONTENT_TYPE;

/// Whether bytes of `content_type` are JSON by declaration.
pub fn is_json(content_type: &str) -> bool {
    let essence = essence(content_type).as_bytes();
    essence.eq_ignore_ascii_case(b"application/json")
        || essence.len() > 5 && essence[essence.len() - 5..].eq_ignore_ascii_case(b"+json")
        || essence.eq_ignore_ascii_case(b"text/json")
}

/// Whether bytes of `content_type` are text by declaration.
pub fn is_text(content_type: &str) -> bool {
    content_type.as_bytes().get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"text/"))
}

/// A media type without its parameters.
pub fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

impl Encoder {
    /// The frame or event of one message.
    pub fn message(&self, lane: Lane, id: &str, record: &Record, cursor: Option<&str>) -> Bytes {
        let cursor = cursor.filter(|_| self.cursor == CursorPlacement::PerMessage);
        match lane {
            Lane::WsRaw => {
                let payload = record.payload.as_deref().unwrap_or_default();
                let opcode = if self.is_textual(record) && std::str::from_utf8(payload).is_ok() {
                    Opcode::Text
                } else {
                    Opcode::Binary
                };
                frame::whole(opcode, payload.len(), |out| out.extend_from_slice(payload))
            }
            Lane::WsJson => frame::whole(Opcode::Text, 256 + record.size(), |out| {
                out.extend_from_slice(b"{\"type\":\"message\",");
                self.envelope(out, id, record, cursor);
            }),
            Lane::WsCloudEvents => frame::whole(Opcode::Text, 256 + record.size(), |out| {
                self.cloud_event(out, id, record, cursor);
            }),
            Lane::SseRaw => {
                let payload = record.payload.as_deref().unwrap_or_default();
                match std::str::from_utf8(payload) {
                    Ok(text) => block(None, cursor, text.as_bytes()),
                    Err(_) => block(Some("binary"), cursor, STANDARD.encode(payload).as_bytes()),
                }
            }
            Lane::SseEnvelope | Lane::SseCloudEvents => {
                let mut data = Vec::with_capacity(256 + record.size());
                if lane == Lane::SseEnvelope {
                    data.push(b'{');
                    self.envelope(&mut data, id, record, cursor);
                } else {
                    self.cloud_event(&mut data, id, record, cursor);
                }
                block(None, cursor, &data)
            }
        }
    }

    /// The frame or event that tells a gap; `None` where a lane cannot tell one.
    pub fn gap(&self, lane: Lane, from: Option<&str>, to: Option<&str>, reason: GapReason) -> Option<Bytes> {
        let data = serde_json::json!({"from": from, "to": to, "reason": reason.name()});
        self.control(lane, "gap", to, data)
    }

    /// The frame or event that carries nothing but a cursor.
    pub fn cursor(&self, lane: Lane, cursor: &str) -> Option<Bytes> {
        if lane.is_websocket() {
            self.control(lane, "cursor", Some(cursor), serde_json::json!({"cursor": cursor}))
        } else {
            Some(crate::transport::sse::id_only(cursor))
        }
    }

    /// A frame or event of Sluice's own, with `fields`.
    pub fn control(
        &self,
        lane: Lane,
        kind: &str,
        cursor: Option<&str>,
        fields: serde_json::Value,
    ) -> Option<Bytes> {
        match lane {
            Lane::WsRaw => None,
            Lane::WsJson => {
                let frame = with_type(kind, fields);
                Some(frame::whole(Opcode::Text, frame.len(), |out| out.extend_from_slice(frame.as_bytes())))
            }
            Lane::WsCloudEvents => {
                let mut event = serde_json::json!({
                    "specversion": "1.0",
                    "id": format!("{:016x}", fastrand::u64(..)),
                    "source": self.source,
                    "type": format!("dev.sluice.{kind}"),
                    "datacontenttype": "application/json",
                });
                if let Some(cursor) = cursor {
                    event["sluicecursor"] = cursor.into();
                }
                let raw: serde_json::Value =
                    serde_json::from_str(&with_type(kind, fields)).expect("our own JSON");
                event["data"] = raw;
                let text = event.to_string();
                Some(frame::whole(Opcode::Text, text.len(), |out| out.extend_from_slice(text.as_bytes())))
            }
            Lane::SseRaw | Lane::SseEnvelope | Lane::SseCloudEvents => {
                Some(block(Some(kind), cursor, fields.to_string().as_bytes()))
            }
        }
    }

    fn content_type<'a>(&'a self, record: &'a Record) -> &'a str {
        record.content_type().unwrap_or(&self.content_type)
    }

    fn is_textual(&self, record: &Record) -> bool {
        let content_type = self.content_type(record);
        is_text(content_type) || is_json(content_type)
    }

    /// The envelope's fields and its closing brace.
    fn envelope(&self, out: &mut Vec<u8>, id: &str, record: &Record, cursor: Option<&str>) {
        out.extend_from_slice(b"\"id\":");
        push_string(out, id);
        if let Some(cursor) = cursor {
            out.extend_from_slice(b",\"cursor\":");
            push_string(out, cursor);
        }
        if let Some(key) = &record.key {
            push_text_or_base64(out, key, b",\"key\":", b",\"keyBase64\":");
        }
        out.extend_from_slice(b",\"headers\":[");
        let headers = record.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case(CONTENT_TYPE));
        for (index, (name, value)) in headers.enumerate() {
            out.extend_from_slice(if index == 0 { b"[" } else { b",[" });
            push_string(out, name);
            out.push(b',');
            match std::str::from_utf8(value) {
                Ok(text) => push_string(out, text),
                Err(_) => {
                    out.extend_from_slice(b"{\"base64\":");
                    push_string(out, &STANDARD.encode(value));
                    out.push(b'}');
                }
            }
            out.push(b']');
        }
        out.push(b']');
        if let Some(timestamp) = record.timestamp {
            out.extend_from_slice(b",\"timestamp\":");
            push_string(out, &rfc3339(timestamp));
        }
        let content_type = self.content_type(record);
        out.extend_from_slice(b",\"contentType\":");
        push_string(out, content_type);
        match &record.payload {
            None => out.extend_from_slice(b",\"tombstone\":true"),
            Some(payload) => push_data(out, payload, content_type, b",\"dataBase64\":", b",\"invalid\":true"),
        }
        out.push(b'}');
    }

    /// A whole CloudEvent in structured JSON mode. An event that the message is already keeps its
    /// attributes (CloudEvents Kafka binding §3).
    fn cloud_event(&self, out: &mut Vec<u8>, id: &str, record: &Record, cursor: Option<&str>) {
        let content_type = self.content_type(record);
        if essence(content_type).eq_ignore_ascii_case("application/cloudevents+json")
            && let Some(payload) = &record.payload
            && push_structured(out, payload, cursor)
        {
            return;
        }
        let attributes: Vec<(&str, &str)> = record
            .headers
            .iter()
            .filter_map(|(name, value)| Some((name.strip_prefix("ce_")?, std::str::from_utf8(value).ok()?)))
            .collect();
        let is_event = ["id", "source", "type", "specversion"]
            .iter()
            .all(|wanted| attributes.iter().any(|(name, _)| name == wanted));
        if is_event {
            for (index, (name, value)) in attributes.iter().enumerate() {
                out.push(if index == 0 { b'{' } else { b',' });
                push_string(out, name);
                out.push(b':');
                push_string(out, value);
            }
        } else {
            out.extend_from_slice(b"{\"specversion\":\"1.0\",\"id\":");
            push_string(out, id);
            out.extend_from_slice(b",\"source\":");
            push_string(out, &self.source);
            out.extend_from_slice(b",\"type\":");
            push_string(out, &self.event_type);
            if let Some(timestamp) = record.timestamp {
                out.extend_from_slice(b",\"time\":");
                push_string(out, &rfc3339(timestamp));
            }
            self.push_extensions(out, record);
        }
        if let Some(cursor) = cursor {
            out.extend_from_slice(b",\"sluicecursor\":");
            push_string(out, cursor);
        }
        if let Some(payload) = &record.payload {
            out.extend_from_slice(b",\"datacontenttype\":");
            push_string(out, content_type);
            push_data(out, payload, content_type, b",\"data_base64\":", b"");
        }
        out.push(b'}');
    }

    /// Partitioning and distributed tracing extensions of CloudEvents.
    fn push_extensions(&self, out: &mut Vec<u8>, record: &Record) {
        if let Some(key) = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()) {
            out.extend_from_slice(b",\"partitionkey\":");
            push_string(out, key);
        }
        for wanted in ["traceparent", "tracestate"] {
            let value = record.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            if let Some(text) = value.and_then(|(_, value)| std::str::from_utf8(value).ok()) {
                out.extend_from_slice(b",\"");
                out.extend_from_slice(wanted.as_bytes());
                out.extend_from_slice(b"\":");
                push_string(out, text);
            }
        }
    }
}

/// `fields` as JSON with `type` in front.
fn with_type(kind: &str, fields: serde_json::Value) -> String {
    let rest = fields.to_string();
    let comma = if rest == "{}" { "" } else { "," };
    format!("{{\"type\":\"{kind}\"{comma}{}", &rest[1..])
}

/// A structured event as it is, plus the cursor; `false` if it is not a JSON object.
fn push_structured(out: &mut Vec<u8>, payload: &[u8], cursor: Option<&str>) -> bool {
    let raw = std::str::from_utf8(payload).ok().and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
    let Some(text) = raw.map(|raw| raw.get().trim()) else { return false };
    let Some(inner) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) else { return false };
    out.push(b'{');
    if let Some(cursor) = cursor {
        out.extend_from_slice(b"\"sluicecursor\":");
        push_string(out, cursor);
        if !inner.trim().is_empty() {
            out.push(b',');
        }
    }
    out.extend_from_slice(inner.as_bytes());
    out.push(b'}');
    true
}

/// `data` where the content type and the bytes allow it, else base64 under `otherwise`.
fn push_data(out: &mut Vec<u8>, payload: &[u8], content_type: &str, otherwise: &[u8], invalid: &[u8]) {
    if is_json(content_type) {
        // What is skipped is not checked for UTF-8 by the parser.
        if std::str::from_utf8(payload).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok()) {
            out.extend_from_slice(b",\"data\":");
            out.extend_from_slice(payload);
            return;
        }
        out.extend_from_slice(invalid);
    } else if is_text(content_type)
        && let Ok(text) = std::str::from_utf8(payload)
    {
        out.extend_from_slice(b",\"data\":");
        push_string(out, text);
        return;
    }
    out.extend_from_slice(otherwise);
    push_string(out, &STANDARD.encode(payload));
}

fn push_text_or_base64(out: &mut Vec<u8>, bytes: &[u8], text_field: &[u8], base64_field: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            out.extend_from_slice(text_field);
            push_string(out, text);
        }
        Err(_) => {
            out.extend_from_slice(base64_field);
            push_string(out, &STANDARD.encode(bytes));
        }
    }
}

fn push_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing to memory does not fail");
}

/// RFC 3339 in UTC with milliseconds.
pub fn rfc3339(milliseconds: i64) -> String {
    match jiff::Timestamp::from_millisecond(milliseconds) {
        Ok(timestamp) => format!("{timestamp:.3}"),
        // Kafka allows any 64-bit number; years beyond 9999 have no RFC 3339 form.
        Err(_) => "1970-01-01T00:00:00.000Z".into(),
    }
}

#[cfg(test)]
mod tests;
