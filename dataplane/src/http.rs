//! Everything but the engine's own streams: publishing, preflights, AsyncAPI documents, the console,
//! and streams that come over HTTP/2 or as a later request of a connection.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use tokio::runtime::Handle;
use tokio_util::io::ReaderStream;

use crate::asyncapi;
use crate::console;
use crate::encode::essence;
use crate::engine::Stream;
use crate::gateway::{Admitted, Gateway, Opened, Opening, Peer};
use crate::idempotency::{MAX_KEY, Met, Ticket};
use crate::message::{CONTENT_TYPE, Headers, Outgoing};
use crate::negotiate::Mode;
use crate::publish::{Via, begin, publish};
use crate::respond::{Body, Refusal, plain};
use crate::transport::websocket::protocol;

/// Most records of one batch.
const BATCH_RECORDS: usize = 1000;
/// A batch may be this many times as large as one message.
const BATCH_FACTOR: usize = 16;
/// How long a body may take.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// What a stream over HTTP/2 holds between the engine and the connection.
const PIPE_BYTES: usize = 64 << 10;

/// Answers one request.
pub async fn handle(
    gateway: Arc<Gateway>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let version = request.version();
    let mut response = answer(&gateway, peer, request).await;
    // HTTP/2 has GOAWAY for it. An upgrade takes the connection anyway.
    let is_kept = version < Version::HTTP_2 && response.status() != StatusCode::SWITCHING_PROTOCOLS;
    if is_kept && gateway.leaving.load(Ordering::Relaxed) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

async fn answer(gateway: &Arc<Gateway>, peer: Peer, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    if let Err(refusal) = gateway.check_host(&parts) {
        return refusal.response();
    }
    if let Some(answer) = asyncapi::answer(gateway, &parts, peer) {
        return answer;
    }
    if gateway.console
        && let Some(answer) = console::answer(gateway, &parts)
    {
        return answer;
    }
    if parts.method == Method::OPTIONS {
        return gateway.preflight(&parts, peer);
    }
    let found = match gateway.find(&parts, peer) {
        Ok(found) => found,
        Err(refusal) => return gateway.dress(refusal.response(), &parts, None),
    };
    let state = found.1.clone();
    if parts.method != Method::POST {
        return stream(gateway.clone(), peer, parts, body).await;
    }
    let answer = match gateway.admit(&parts, peer, found) {
        Ok(admitted) if admitted.mode == Mode::Publish => post(admitted, &parts, body).await,
        Ok(_) => Err(Refusal::MethodNotAllowed { allow: "GET" }),
        Err(refusal) => Err(refusal),
    };
    let response = answer.unwrap_or_else(|refusal| refusal.response());
    gateway.dress(response, &parts, Some(&state))
}

// --- publishing -----------------------------------------------------------------------------------

async fn post(mut admitted: Admitted, parts: &Parts, body: Incoming) -> Result<Response<Body>, Refusal> {
    let limit = admitted.state.policy.limits.max_message_bytes();
    let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let batch = match content_type.map(essence) {
        Some(kind) if kind.eq_ignore_ascii_case("application/x-ndjson") => Some(Batch::Lines),
        Some(kind) if kind.eq_ignore_ascii_case("application/cloudevents-batch+json") => Some(Batch::Events),
        _ => None,
    };
    let allowed = if batch.is_some() { limit.saturating_mul(BATCH_FACTOR) } else { limit };
    let read = async {
        check_head(parts, batch.is_some())?;
        let most = announced(parts).unwrap_or(allowed as u64).min(allowed as u64);
        let _held = admitted.channel.tenant.hold_body(most)?;
        let payload = read_body(parts, body, allowed).await?;
        // The body may have taken a while: what was allowed at its beginning may not be any more.
        admitted.state = admitted.channel.state();
        admitted.state.check()?;
        admitted.state.policy.reevaluate(&admitted.principal)?;
        Ok(payload)
    };
    let read: Result<Bytes, Refusal> = read.await;
    let payload = read.inspect_err(|refusal| {
        // Refused before it was a message; the books show it all the same.
        admitted.channel.metrics.published(&admitted.channel.metrics.http, refusal.name());
    })?;
    let Some(batch) = batch else {
        let key = parts.headers.get("message-key").map(|value| Bytes::copy_from_slice(value.as_bytes()));
        let key = key.or_else(|| admitted.query.key.clone().map(Bytes::from));
        let message = Outgoing { key, headers: headers(&parts.headers)?, payload: Some(payload) };
        let ticket = match idempotency_key(&parts.headers)? {
            None => None,
            Some(key) => {
                match admitted.channel.answers.meet(&admitted.name, key, &message, Instant::now())? {
                    Met::Before(id) => return Ok(json(StatusCode::OK, &serde_json::json!({"id": id}))),
                    Met::First(ticket) => Some(ticket),
                }
            }
        };
        let id = published(&admitted, message, ticket).await?;
        return Ok(json(StatusCode::OK, &serde_json::json!({"id": id})));
    };
    if idempotency_key(&parts.headers)?.is_some() {
        return Err(Refusal::NotImplemented("Idempotency-Key with a batch".into()));
    }
    let messages = batch.split(&payload)?;
    let results = published_batch(&admitted, messages).await;
    let (mut answers, mut mixed) = (Vec::with_capacity(results.len()), false);
    for result in results {
        answers.push(match result {
            Ok(id) => serde_json::json!({"status": 200, "id": id}),
            Err(refusal) => {
                mixed = true;
                let mut fields = refusal.fields();
                fields["status"] = refusal.status().as_u16().into();
                fields
            }
        });
    }
    let status = if mixed { StatusCode::MULTI_STATUS } else { StatusCode::OK };
    Ok(json(status, &serde_json::json!({"results": answers})))
}

/// Publishes; a client that goes away takes neither the books nor the stored answer along.
async fn published(
    admitted: &Admitted,
    message: Outgoing,
    ticket: Option<Ticket>,
) -> Result<String, Refusal> {
    let (channel, state, name) = (admitted.channel.clone(), admitted.state.clone(), admitted.name.clone());
    Finished::from(async move {
        let result = publish(channel, state, name, Via::Http, message).await;
        if let Some(ticket) = ticket {
            ticket.finish(&result);
        }
        result
    })
    .await
}

/// A batch is queued in its order and then awaited together.
async fn published_batch(admitted: &Admitted, messages: Vec<Outgoing>) -> Vec<Result<String, Refusal>> {
    let (channel, state, name) = (admitted.channel.clone(), admitted.state.clone(), admitted.name.clone());
    let count = messages.len();
    Finished::from(async move {
        let mut begun = Vec::with_capacity(count);
        for message in messages {
            begun.push(begin(channel.clone(), state.clone(), name.clone(), Via::Http, message).await);
            // Validating a thousand records is nothing that others are to wait for.
            if state.schema.is_some() {
                tokio::task::yield_now().await;
            }
        }
        let answers = begun.into_iter().map(async |begun| match begun {
            Ok(begun) => begun.finish().await,
            Err(refusal) => Err(refusal),
        });
        futures::future::join_all(answers).await
    })
    .await
}

/// A future that is carried through: dropped halfway, it goes on as a task of its own. As long as
/// nobody goes away that is one allocation, where a task for each would also be scheduled twice.
struct Finished<F: Future<Output: Send> + Send + 'static>(Option<Pin<Box<F>>>);

impl<F: Future<Output: Send> + Send + 'static> From<F> for Finished<F> {
    fn from(future: F) -> Self {
        Self(Some(Box::pin(future)))
    }
}

impl<F: Future<Output: Send> + Send + 'static> Future for Finished<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // Out of here while it runs: one that panics is not carried on.
        let mut future = self.0.take().expect("polled after its end");
        let polled = future.as_mut().poll(context);
        if polled.is_pending() {
            self.0 = Some(future);
        }
        polled
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for Finished<F> {
    fn drop(&mut self) {
        // Without a runtime the process is ending, and so is the connection to the broker.
        if let (Some(rest), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(rest);
        }
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| !key.is_empty() && key.len() <= MAX_KEY);
    key.map(Some)
        .ok_or_else(|| Refusal::BadRequest(format!("Idempotency-Key has 1 to {MAX_KEY} visible characters")))
}

fn announced(parts: &Parts) -> Option<u64> {
    parts.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// What a publish's head may not say: it would be ignored.
fn check_head(parts: &Parts, batch: bool) -> Result<(), Refusal> {
    let encoded = parts.headers.get(header::CONTENT_ENCODING);
    if encoded.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Refusal::UnsupportedMediaType { accepted: "bodies without Content-Encoding".into() });
    }
    let of_one =
        |name: &str| name == "message-key" || name.starts_with("message-header-") || name.starts_with("ce-");
    let keyed = parts.headers.keys().any(|name| of_one(name.as_str()));
    let keyed =
        keyed || parts.uri.query().is_some_and(|query| query.split('&').any(|part| part.starts_with("key=")));
    if batch && keyed {
        return Err(Refusal::NotImplemented("a key or message headers for a whole batch".into()));
    }
    Ok(())
}

async fn read_body(parts: &Parts, body: Incoming, limit: usize) -> Result<Bytes, Refusal> {
    if announced(parts).is_some_and(|announced| announced > limit as u64) {
        return Err(Refusal::TooLarge { bytes: limit });
    }
    match tokio::time::timeout(BODY_PATIENCE, Limited::new(body, limit).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Refusal::TooLarge { bytes: limit })
        }
        Ok(Err(_)) => Err(Refusal::BadRequest("the body ended early".into())),
        Err(_) => {
            Err(Refusal::BadRequest(format!("the body took longer than {} s", BODY_PATIENCE.as_secs())))
        }
    }
}

/// Message headers of a `POST`: `Message-Header-*` by their own names, the content type, trace
/// context, and CloudEvents' binary mode (`ce-*`, which Kafka spells `ce_*`).
fn headers(request: &HeaderMap) -> Result<Headers, Refusal> {
    let mut headers = Headers::new();
    for (name, value) in request {
        let name = name.as_str();
        let mapped = if let Some(own) = name.strip_prefix("message-header-") {
            if own.is_empty() {
                return Err(Refusal::BadRequest("a message header needs a name".into()));
            }
            Arc::from(own)
        } else if let Some(attribute) = name.strip_prefix("ce-") {
            Arc::from(format!("ce_{attribute}"))
        } else if matches!(name, CONTENT_TYPE | "traceparent" | "tracestate") {
            Arc::from(name)
        } else {
            continue;
        };
        headers.push((mapped, Bytes::copy_from_slice(value.as_bytes())));
    }
    Ok(headers)
}

#[derive(Clone, Copy)]
enum Batch {
    Lines,
    Events,
}

impl Batch {
    fn split(self, body: &Bytes) -> Result<Vec<Outgoing>, Refusal> {
        let (content_type, payloads) = match self {
            Self::Lines => ("application/json", lines(body)),
            Self::Events => ("application/cloudevents+json", events(body)?),
        };
        if payloads.is_empty() || payloads.len() > BATCH_RECORDS {
            return Err(Refusal::BadRequest(format!("a batch has 1 to {BATCH_RECORDS} records")));
        }
        let header = (Arc::from(CONTENT_TYPE), Bytes::from_static(content_type.as_bytes()));
        let message = |payload| Outgoing { key: None, headers: vec![header.clone()], payload: Some(payload) };
        Ok(payloads.into_iter().map(message).collect())
    }
}

fn lines(body: &Bytes) -> Vec<Bytes> {
    let lines = body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    lines.map(|line| body.slice_ref(line)).collect()
}

fn events(body: &Bytes) -> Result<Vec<Bytes>, Refusal> {
    let events: Vec<&serde_json::value::RawValue> = serde_json::from_slice(body)
        .map_err(|error| Refusal::BadRequest(format!("not a JSON list of CloudEvents: {error}")))?;
    for (index, event) in events.iter().enumerate() {
        protocol::read_cloud_event(event.get().as_bytes())
            .map_err(|reason| Refusal::BadRequest(format!("record {index}: {reason}")))?;
    }
    Ok(events.into_iter().map(|event| Bytes::copy_from_slice(event.get().as_bytes())).collect())
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    plain(status, "application/json", value.to_string())
}

// --- streams through HTTP ---------------------------------------------------------------------------

async fn stream(gateway: Arc<Gateway>, peer: Peer, parts: Parts, body: Incoming) -> Response<Body> {
    match gateway.open(&parts, peer).await {
        Opened::Answer(response) => response,
        Opened::Closed(response, last_words) => {
            let request = Request::from_parts(parts, body);
            tokio::spawn(async move {
                if let Ok(upgraded) = hyper::upgrade::on(request).await {
                    crate::listener::say_and_close(TokioIo::new(upgraded), &last_words).await;
                }
            });
            response.map(|()| crate::respond::full(Bytes::new()))
        }
        Opened::Stream(response, opening) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            let request = Request::from_parts(parts, body);
            tokio::spawn(async move {
                if let Ok(upgraded) = hyper::upgrade::on(request).await {
                    let stream = Stream::Other(Box::new(TokioIo::new(upgraded)));
                    opening.attach(&gateway.engine, stream, Bytes::new(), Bytes::new());
                }
            });
            response.map(|()| crate::respond::full(Bytes::new()))
        }
        Opened::Stream(response, opening) => piped(&gateway, response, *opening),
    }
}

/// An event stream that the HTTP library carries: the engine writes into a pipe.
fn piped(gateway: &Gateway, response: Response<()>, opening: Opening) -> Response<Body> {
    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
    opening.attach(&gateway.engine, Stream::Other(Box::new(ours)), Bytes::new(), Bytes::new());
    let frames = ReaderStream::new(theirs).map(|chunk| chunk.map(Frame::data));
    response.map(|()| StreamBody::new(frames).boxed_unsync())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_finished() {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let (done, when_done) = tokio::sync::oneshot::channel();
        let mut publish = Finished::from(async move {
            let acknowledged: bool = answered.await.expect("it is answered");
            done.send(acknowledged).expect("somebody looks");
        });
        assert!(futures::poll!(&mut publish).is_pending());
        drop(publish);
        answer.send(true).expect("it goes on");
        assert_eq!(when_done.await, Ok(true));
    }

    #[test]
    fn message_headers_keep_order_and_duplicates() {
        let mut request = HeaderMap::new();
        for (name, value) in [
            ("content-type", "application/json"),
            ("message-header-a", "1"),
            ("message-header-a", "2"),
            ("ce-id", "e1"),
            ("traceparent", "00-x"),
            ("cookie", "secret"),
            ("authorization", "secret"),
        ] {
            request.append(name, value.parse().expect("a value"));
        }
        let got = headers(&request).expect("mapped");
        let mut names: Vec<_> = got.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        names.sort();
        let expected = [
            "a=b\"1\"",
            "a=b\"2\"",
            "ce_id=b\"e1\"",
            "content-type=b\"application/json\"",
            "traceparent=b\"00-x\"",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn batches_are_split_and_bounded() {
        let records = |batch: Batch, body: &'static str| {
            batch.split(&Bytes::from_static(body.as_bytes())).map(|messages| messages.len()).ok()
        };
        assert_eq!(records(Batch::Lines, "{\"a\":1}\r\n\n {\"b\":2}"), Some(2));
        assert_eq!(records(Batch::Lines, "\n\n"), None);
        let event = "[{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/s\",\"type\":\"t\"}]";
        assert_eq!(records(Batch::Events, event), Some(1));
        assert_eq!(records(Batch::Events, "[{}]"), None);
        assert_eq!(records(Batch::Events, "{}"), None);
        assert_eq!(records(Batch::Events, "[]"), None);
    }
}
