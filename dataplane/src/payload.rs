//! Whether the payload of a publish fits its channel's schema: what of a message is JSON, and what of a
//! CloudEvent is its payload. Reads only.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use sluice_schema::{Schema, Violation};

use crate::encode::{essence, is_json};
use crate::message::Outgoing;
use crate::respond::Refusal;
use crate::transport::websocket::protocol::read_cloud_event;

/// What can be validated.
const ACCEPTED: &str = "application/json, or a media type that ends with +json";

/// What of a CloudEvent in structured mode (JSON format §3) carries its payload.
#[derive(Deserialize)]
struct Event<'a> {
    datacontenttype: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
}

/// Refuses a `message`, by default of `content_type`, that does not fit `schema`.
pub fn check(schema: &Schema, content_type: &str, message: &Outgoing) -> Result<(), Refusal> {
    let Some(payload) = &message.payload else { return Ok(()) };
    let content_type = message.content_type().unwrap_or(content_type);
    check_type(content_type)?;
    if essence(content_type).eq_ignore_ascii_case("application/cloudevents+json") {
        return check_event(schema, payload);
    }
    schema.validate(payload).map_err(|violations| Refusal::InvalidMessage { violations })
}

fn check_type(content_type: &str) -> Result<(), Refusal> {
    if is_json(content_type) {
        Ok(())
    } else {
        Err(Refusal::UnsupportedMediaType { accepted: ACCEPTED.into() })
    }
}

/// An event's attributes are none of the schema's business.
fn check_event(schema: &Schema, payload: &[u8]) -> Result<(), Refusal> {
    let invalid = |at: &str, message: &str| {
        let violations = vec![Violation::new(at, message)];
        Err(Refusal::InvalidMessage { violations })
    };
    // The parser would read a list as the fields in their order.
    if payload.trim_ascii_start().first() != Some(&b'{') {
        return invalid("", "is not a CloudEvent in JSON, an object");
    }
    // Nothing but an event has its payload inside.
    if read_cloud_event(payload).is_err() {
        return invalid("", "is not a CloudEvent 1.0 in JSON: specversion, id, source and type must be set");
    }
    let event: Event<'_> = match serde_json::from_slice(payload) {
        Ok(event) => event,
        // The words of the parser would repeat what it met.
        Err(error) => {
            let place = format!("line {} column {}", error.line(), error.column());
            return invalid("", &format!("is not a CloudEvent in JSON, {place}"));
        }
    };
    check_type(event.datacontenttype.as_deref().unwrap_or("application/json"))?;
    let data: Cow<'_, [u8]> = match (event.data, event.data_base64) {
        (Some(_), Some(_)) => return invalid("/data_base64", "goes without `data`"),
        (Some(data), None) => data.get().as_bytes().into(),
        (None, Some(text)) => match STANDARD.decode(text) {
            Ok(data) => data.into(),
            Err(_) => return invalid("/data_base64", "is not base64"),
        },
        // An event without data is one whose data is nothing.
        (None, None) => b"null".as_slice().into(),
    };
    schema.validate(&data).map_err(|violations| {
        let below =
            |violation: Violation| Violation::new(&format!("/data{}", violation.at), &violation.message);
        Refusal::InvalidMessage { violations: violations.into_iter().map(below).collect() }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;
    use crate::message::{CONTENT_TYPE, Headers};

    const EVENT: &str = "application/cloudevents+json; charset=utf-8";
    const ATTRIBUTES: &str = r#"{"specversion":"1.0","id":"e","source":"/s","type":"t""#;

    /// What becomes of `payload`, of a channel whose messages are of `default` type: 200, or the status of its
    /// refusal and where it does not fit.
    fn fate(content_type: Option<&str>, default: &str, payload: &str) -> (u16, Vec<String>) {
        let Value::Object(schema) =
            json!({"type": "object", "required": ["n"], "properties": {"n": {"minimum": 1}}})
        else {
            panic!("an object")
        };
        let schema = Schema::compile(&schema).expect("it compiles");
        let header = |value: &str| (Arc::from(CONTENT_TYPE), Bytes::from(value.to_owned()));
        let headers: Headers = content_type.map(header).into_iter().collect();
        let message = Outgoing { key: None, headers, payload: Some(payload.to_owned().into()) };
        match check(&schema, default, &message) {
            Ok(()) => (200, Vec::new()),
            Err(Refusal::InvalidMessage { violations }) => {
                (422, violations.into_iter().map(|violation| violation.at).collect())
            }
            Err(refusal) => (refusal.status().as_u16(), Vec::new()),
        }
    }

    #[test]
    fn what_is_json_by_declaration_is_validated_and_all_else_refused() {
        let json = "application/json";
        for (content_type, default, payload, status, at) in [
            (Some("application/json"), "text/plain", r#"{"n":1}"#, 200, &[][..]),
            (Some("Application/Vnd.Order+JSON; v=1"), "text/plain", r#"{"n":1}"#, 200, &[]),
            (None, json, r#"{"n":1}"#, 200, &[]),
            (None, json, r#"{"n":0}"#, 422, &["/n"]),
            (None, json, "{", 422, &[""]),
            (None, json, "", 422, &[""]),
            (None, "application/octet-stream", r#"{"n":1}"#, 415, &[]),
            (Some("text/plain"), json, r#"{"n":1}"#, 415, &[]),
            (Some("application/x-www-form-urlencoded"), json, r#"{"n":1}"#, 415, &[]),
            (Some(EVENT), json, r#"{"data":{"n":1}}"#, 200, &[]),
            (Some(EVENT), json, r#"{"data":{"n":1},"datacontenttype":"application/json"}"#, 200, &[]),
            (Some(EVENT), json, r#"{"data_base64":"eyJuIjoxfQ=="}"#, 200, &[]),
            (Some(EVENT), json, r#"{"data":{"n":0}}"#, 422, &["/data/n"]),
            (Some(EVENT), json, r#"{"extension":1}"#, 422, &["/data"]),
            (Some(EVENT), json, r#"{"data":null}"#, 422, &["/data"]),
            (Some(EVENT), json, r#"{"data":{"n":1},"data":{"n":0}}"#, 422, &[""]),
            (Some(EVENT), json, r#"{"data":{"n":1},"data_base64":"eyJuIjowfQ=="}"#, 422, &["/data_base64"]),
            (Some(EVENT), json, r#"{"data_base64":"%%"}"#, 422, &["/data_base64"]),
            (Some(EVENT), json, r#"{"data":"<n/>","datacontenttype":"application/xml"}"#, 415, &[]),
            (Some(EVENT), json, "[1]", 422, &[""]),
            (Some(EVENT), json, r#"[null,{"n":1},null]"#, 422, &[""]),
        ] {
            let at: Vec<String> = at.iter().map(|at| (*at).to_owned()).collect();
            let payload = match payload.strip_prefix('{') {
                Some(rest) if content_type == Some(EVENT) => format!("{ATTRIBUTES},{rest}"),
                _ => payload.to_owned(),
            };
            let (found, places) = fate(content_type, default, &payload);
            assert_eq!((found, places), (status, at), "{payload}");
        }
    }

    #[test]
    fn what_only_claims_to_be_an_event_is_refused() {
        let json = "application/json";
        for payload in [r#"{"data":{"n":1},"n":-5}"#, r#"{"specversion":"1.0","id":"","data":{"n":1}}"#] {
            assert_eq!(fate(Some(EVENT), json, payload), (422, vec![String::new()]), "{payload}");
        }
    }

    #[test]
    fn a_tombstone_has_nothing_to_validate() {
        let schema = Schema::compile(&serde_json::Map::new()).expect("it compiles");
        assert_eq!(check(&schema, "text/plain", &Outgoing::default()), Ok(()));
    }
}
