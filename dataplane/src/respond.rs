//! The one place that names statuses and close codes: every refusal and every end of a stream,
//! and how each transport says it.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use sluice_schema::Violation;

use crate::cursor::CursorError;
use crate::feed::ring::GapReason;
use crate::server::PublishError;

/// Body of every answer.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Why a request is refused or a stream ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such API or channel.
    NotFound,
    /// The channel has no use for this method.
    MethodNotAllowed {
        /// `Allow`.
        allow: &'static str,
    },
    /// Nothing of what the client accepts can be served.
    NotAcceptable {
        /// What could be.
        offers: String,
    },
    /// Only a WebSocket is served here.
    UpgradeRequired,
    /// The request makes no sense.
    BadRequest(String),
    /// Something this build does not implement.
    NotImplemented(String),
    /// The cursor is not one.
    Cursor(CursorError),
    /// The page's origin is not allowed.
    ForeignOrigin,
    /// The name in `Host` is not one of ours.
    ForeignHost,
    /// No credential, or one that is not known.
    Unauthorized,
    /// The credential that opened the stream is no longer valid.
    Revoked,
    /// The channel takes no messages from clients, or gives none.
    Forbidden(&'static str),
    /// The API is blocked.
    Blocked,
    /// The channel cannot be served yet: broker, policy or position is missing.
    NotReady(String),
    /// A limit on open streams.
    TooManyConnections {
        /// Whose it is: the channel's or the API's.
        whose: &'static str,
        /// The limit.
        limit: u32,
    },
    /// A limit on messages per second.
    TooManyMessages {
        /// The limit.
        per_second: u32,
        /// When there is room again.
        retry_after: Duration,
    },
    /// A limit on questions per second about what is served.
    TooManyRequests {
        /// The limit.
        per_second: u32,
        /// When there is room again.
        retry_after: Duration,
    },
    /// A message over the size limit.
    TooLarge {
        /// The limit.
        bytes: usize,
    },
    /// The content type is not taken.
    UnsupportedMediaType {
        /// What is.
        accepted: String,
    },
    /// The payload does not fit the channel's schema.
    InvalidMessage {
        /// Where and why; at least one.
        violations: Vec<Violation>,
    },
    /// Another request with this `Idempotency-Key` is not answered yet.
    KeyInUse,
    /// This `Idempotency-Key` belongs to another message.
    KeyReused,
    /// The broker did not take it, surely.
    NotWritten {
        /// Why.
        reason: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// The broker may have taken it.
    OutcomeUnknown {
        /// Why.
        reason: String,
    },
    /// The process goes away; come back with the cursor.
    Drain {
        /// When to come back.
        retry_after: Duration,
    },
    /// The channel changed under the stream; come back with the cursor.
    Changed,
    /// The client fell behind the replay window.
    Slow,
    /// Messages are missing and the transport cannot tell it otherwise.
    Gap(GapReason),
    /// The peer broke RFC 6455.
    Protocol(&'static str),
    /// Text that is not UTF-8.
    NotUtf8,
    /// Binary where the subprotocol is text.
    NotText,
    /// The peer did not answer pings.
    Silent,
    /// More at once than there is memory for: request bodies, or answers that are not read.
    Overload,
}

impl From<CursorError> for Refusal {
    fn from(error: CursorError) -> Self {
        Self::Cursor(error)
    }
}

impl From<PublishError> for Refusal {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::NotWritten { reason, retry_after } => Self::NotWritten { reason, retry_after },
            PublishError::Unknown { reason } => Self::OutcomeUnknown { reason },
            PublishError::TooLarge => Self::TooLarge { bytes: 0 },
        }
    }
}

impl Refusal {
    /// HTTP status, WebSocket close code, and the word for frames, metrics and problem types.
    const fn codes(&self) -> (u16, u16, &'static str) {
        match self {
            Self::NotFound => (404, 4404, "notFound"),
            Self::MethodNotAllowed { .. } => (405, 4400, "methodNotAllowed"),
            Self::NotAcceptable { .. } => (406, 4400, "notAcceptable"),
            Self::UpgradeRequired => (426, 4400, "upgradeRequired"),
            Self::BadRequest(_) => (400, 4400, "badRequest"),
            Self::NotImplemented(_) => (501, 4400, "notImplemented"),
            Self::Cursor(CursorError::Malformed) => (400, 4400, "badCursor"),
            Self::Cursor(CursorError::Foreign) => (403, 4403, "foreignCursor"),
            Self::ForeignOrigin => (403, 4403, "foreignOrigin"),
            Self::ForeignHost => (403, 4403, "foreignHost"),
            Self::Unauthorized => (401, 4401, "unauthorized"),
            Self::Revoked => (401, 4403, "revoked"),
            Self::Forbidden(_) => (403, 4403, "forbidden"),
            Self::Blocked => (410, 4410, "blocked"),
            Self::NotReady(_) => (503, 1013, "notReady"),
            Self::TooManyConnections { .. } => (429, 4429, "tooManyConnections"),
            Self::TooManyMessages { .. } => (429, 4429, "tooManyMessages"),
            Self::TooManyRequests { .. } => (429, 4429, "tooManyRequests"),
            Self::TooLarge { .. } => (413, 1009, "tooLarge"),
            Self::UnsupportedMediaType { .. } => (415, 4400, "unsupportedMediaType"),
            Self::InvalidMessage { .. } => (422, 4422, "invalidMessage"),
            Self::KeyInUse => (409, 4400, "idempotencyKeyInUse"),
            Self::KeyReused => (422, 4422, "idempotencyKeyReused"),
            Self::NotWritten { .. } => (503, 1013, "notWritten"),
            Self::OutcomeUnknown { .. } => (504, 1011, "outcomeUnknown"),
            Self::Drain { .. } => (503, 1012, "drain"),
            Self::Changed => (503, 1012, "changed"),
            Self::Slow => (503, 4408, "slow"),
            Self::Gap(_) => (410, 4409, "gap"),
            Self::Protocol(_) => (400, 1002, "protocol"),
            Self::NotUtf8 => (400, 1007, "notUtf8"),
            Self::NotText => (400, 1003, "notText"),
            Self::Silent => (408, 1011, "silent"),
            Self::Overload => (503, 1013, "overload"),
        }
    }

    /// HTTP status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.codes().0).expect("a valid status")
    }

    /// WebSocket close code.
    pub const fn close_code(&self) -> u16 {
        self.codes().1
    }

    /// The word for frames, metrics and problem types.
    pub const fn name(&self) -> &'static str {
        self.codes().2
    }

    /// Whether trying again later can help: an SSE client must then not see a final status.
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::NotReady(_)
                | Self::TooManyConnections { .. }
                | Self::TooManyMessages { .. }
                | Self::TooManyRequests { .. }
                | Self::NotWritten { .. }
                | Self::Drain { .. }
                | Self::Changed
                | Self::Slow
                | Self::Overload
        )
    }

    /// When trying again makes sense.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyMessages { retry_after, .. }
            | Self::TooManyRequests { retry_after, .. }
            | Self::NotWritten { retry_after, .. }
            | Self::Drain { retry_after } => Some(*retry_after),
            Self::Changed | Self::Slow => Some(jitter(Duration::from_secs(1))),
            _ if self.is_transient() => Some(jitter(Duration::from_secs(5))),
            _ => None,
        }
    }

    /// A short sentence for the client.
    pub fn detail(&self) -> String {
        match self {
            Self::NotFound => "no such API or channel".into(),
            Self::MethodNotAllowed { allow } => format!("this URL takes {allow}"),
            Self::NotAcceptable { offers } => format!("this URL can serve {offers}"),
            Self::UpgradeRequired => {
                "the channel is served over WebSocket; connect with ws:// or wss://".into()
            }
            Self::BadRequest(reason) => reason.clone(),
            Self::NotImplemented(what) => format!("{what} is not implemented by this build"),
            Self::Cursor(error) => error.to_string(),
            Self::ForeignOrigin => {
                "this origin is not allowed; add it to cors.allowedOrigins of a StreamPolicy".into()
            }
            Self::ForeignHost => "this host name is not served here; add it with --host".into(),
            Self::Unauthorized => "a valid API key is needed: Authorization: Bearer, or X-API-Key".into(),
            Self::Revoked => "the API key is no longer valid".into(),
            Self::Forbidden(reason) => (*reason).into(),
            Self::Blocked => "the API is blocked by its owner".into(),
            Self::NotReady(reason) => reason.clone(),
            Self::TooManyConnections { whose, limit } => {
                format!("the {whose}'s limit of {limit} connections is reached")
            }
            Self::TooManyMessages { per_second, .. } => {
                format!("over the limit of {per_second} messages per second")
            }
            Self::TooManyRequests { per_second, .. } => {
                format!("over the limit of {per_second} such requests per second")
            }
            Self::TooLarge { bytes: 0 } => "the broker refuses a message of this size".into(),
            Self::TooLarge { bytes } => format!("the message is over the limit of {bytes} bytes"),
            Self::UnsupportedMediaType { accepted } => format!("the channel accepts {accepted}"),
            Self::InvalidMessage { violations } => {
                let first = violations.first().map(ToString::to_string).unwrap_or_default();
                format!("the payload does not fit the channel's schema: {first}")
            }
            Self::KeyInUse => {
                "a request with this Idempotency-Key is under way; ask again for its answer".into()
            }
            Self::KeyReused => "this Idempotency-Key belongs to another message; use a new one".into(),
            Self::NotWritten { reason, .. } => format!("not written: {reason}"),
            Self::OutcomeUnknown { reason } => {
                format!("outcome unknown, the broker may have the message: {reason}")
            }
            Self::Drain { .. } => "this server is going away; come back with your cursor".into(),
            Self::Changed => "the channel changed; come back with your cursor".into(),
            Self::Slow => "fell behind the replay window; come back with your cursor".into(),
            Self::Gap(reason) => format!("gap: {}", reason.name()),
            Self::Protocol(reason) => (*reason).into(),
            Self::NotUtf8 => "text that is not UTF-8".into(),
            Self::NotText => "this subprotocol is text; send sluice.v1.raw for bytes".into(),
            Self::Silent => "two pings went unanswered".into(),
            Self::Overload => "more at once than this server has memory for; try again".into(),
        }
    }

    /// The fields of `error`, `throttled`, `drain` and `problem` frames and events.
    pub fn fields(&self) -> serde_json::Value {
        let mut fields = serde_json::json!({"code": self.name(), "detail": self.detail()});
        self.add_errors(&mut fields);
        if let Some(retry_after) = self.retry_after() {
            fields["retryAfterMs"] = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX).into();
        }
        fields
    }

    /// Adds every violation, as `errors`.
    fn add_errors(&self, fields: &mut serde_json::Value) {
        if let Self::InvalidMessage { violations } = self {
            let error =
                |violation: &Violation| serde_json::json!({"at": violation.at, "message": violation.message});
            fields["errors"] = violations.iter().map(error).collect();
        }
    }

    /// The SSE event that says it.
    pub const fn event(&self) -> &'static str {
        match self {
            Self::Drain { .. } | Self::Changed => "drain",
            _ if self.is_transient() => "throttled",
            _ => "problem",
        }
    }

    /// The answer as RFC 9457 problem details.
    pub fn response(&self) -> Response<Body> {
        let status = self.status();
        let mut body = serde_json::json!({
            "type": format!("https://sluice.dev/problems/{}", self.name()),
            "title": status.canonical_reason().unwrap_or("Error"),
            "status": status.as_u16(),
            "detail": self.detail(),
        });
        self.add_errors(&mut body);
        let mut response = Response::new(full(body.to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(retry_after) = self.retry_after() {
            let seconds = retry_after.as_secs_f64().ceil().max(1.0) as u64;
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        match self {
            Self::MethodNotAllowed { allow } => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allow));
            }
            Self::Unauthorized | Self::Revoked => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"sluice\""));
            }
            Self::UpgradeRequired => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            }
            Self::TooManyMessages { per_second, retry_after } => {
                tell_rate(headers, "publish", *per_second, *retry_after);
            }
            Self::TooManyRequests { per_second, retry_after } => {
                tell_rate(headers, "asyncapi", *per_second, *retry_after);
            }
            _ => {}
        }
        response
    }
}

fn tell_rate(headers: &mut http::HeaderMap, name: &str, per_second: u32, retry_after: Duration) {
    let seconds = retry_after.as_secs_f64().ceil().max(1.0) as u64;
    insert(headers, "ratelimit", &format!("\"{name}\";r=0;t={seconds}"));
    insert(headers, "ratelimit-policy", &format!("\"{name}\";q={per_second};w=1"));
}

fn insert(headers: &mut http::HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// Between the whole and twice `base`, so that clients do not come back together.
pub fn jitter(base: Duration) -> Duration {
    base + base.mul_f64(fastrand::f64())
}

/// A whole body.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An answer of `status` with `content_type`.
pub fn plain(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_status_and_what_to_do() {
        let response =
            Refusal::TooManyMessages { per_second: 5, retry_after: Duration::from_millis(300) }.response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.headers()["ratelimit"], "\"publish\";r=0;t=1");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }

    #[test]
    fn an_invalid_message_lists_its_violations_and_is_final() {
        let violations = vec![Violation::new("/total", "value is not of type \"integer\"")];
        let refusal = Refusal::InvalidMessage { violations };
        assert_eq!((refusal.status().as_u16(), refusal.close_code()), (422, 4422));
        assert!(!refusal.is_transient() && refusal.retry_after().is_none());
        let fields = refusal.fields();
        assert_eq!(fields["code"], "invalidMessage");
        assert_eq!(fields["errors"][0]["at"], "/total");
        assert_eq!(fields["errors"][0]["message"], "value is not of type \"integer\"");
        assert!(refusal.detail().ends_with("schema: /total: value is not of type \"integer\""));
    }

    #[test]
    fn reasons_fit_a_close_frame() {
        for refusal in [
            Refusal::NotFound,
            Refusal::Unauthorized,
            Refusal::Revoked,
            Refusal::ForeignOrigin,
            Refusal::Drain { retry_after: Duration::ZERO },
            Refusal::Slow,
            Refusal::Cursor(CursorError::Malformed),
            Refusal::Cursor(CursorError::Foreign),
        ] {
            assert!(refusal.detail().len() <= 123, "{}", refusal.detail());
        }
    }
}
