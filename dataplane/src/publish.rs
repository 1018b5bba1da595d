//! Publishing: limits, the sink, and the books, the same for every transport.

use std::sync::Arc;
use std::time::Instant;

use sluice_config::channel::Publish;

use crate::channel::{Channel, State};
use crate::encode::essence;
use crate::message::Outgoing;
use crate::payload;
use crate::respond::Refusal;
use crate::server::Pending;
use crate::telemetry::TransportMetrics;
use crate::telemetry::trace::PublishSpan;

const NO_MESSAGES: &str = "this channel takes no messages";

/// Which transport a message came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// `POST`.
    Http,
    /// A WebSocket.
    WebSocket,
}

impl Via {
    const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::WebSocket => "websocket",
        }
    }

    fn metrics(self, channel: &Channel) -> &TransportMetrics {
        match self {
            Self::Http => &channel.metrics.http,
            Self::WebSocket => &channel.metrics.websocket,
        }
    }
}

/// Publishes `message` for `client` (an API key's id or an address) and resolves to its id once
/// the broker acknowledged it.
pub async fn publish(
    channel: Arc<Channel>,
    state: Arc<State>,
    client: Arc<str>,
    via: Via,
    message: Outgoing,
) -> Result<String, Refusal> {
    begin(channel, state, client, via, message).await?.finish().await
}

/// A message that was queued for the broker and is not answered yet.
pub struct Begun {
    in_flight: InFlight,
    via: Via,
    size: u64,
    started: Instant,
    span: PublishSpan,
    pending: Pending,
}

/// The first half of a publish: limits, and a place in the broker's queue. Who begins one message
/// after the other keeps their order.
pub async fn begin(
    channel: Arc<Channel>,
    state: Arc<State>,
    client: Arc<str>,
    via: Via,
    mut message: Outgoing,
) -> Result<Begun, Refusal> {
    let started = Instant::now();
    let size = message.payload.as_ref().map_or(0, bytes::Bytes::len);
    let queued = async {
        let publish = admit(&channel, &state, &client, &message, size, started)?;
        let sink = state.sink.as_ref().ok_or(Refusal::Forbidden(NO_MESSAGES))?;
        let span = state.tracing.publish(via.name(), &mut message);
        let in_flight = InFlight::new(channel.clone());
        match sink.enqueue(message, publish.timeout.0).await {
            Ok(pending) => Ok(Begun { in_flight, via, size: size as u64, started, span, pending }),
            Err(error) => {
                let refusal = Refusal::from(error);
                span.failed(refusal.name());
                Err(refusal)
            }
        }
    };
    let begun: Result<Begun, Refusal> = queued.await;
    begun.inspect_err(|refusal| channel.metrics.published(via.metrics(&channel), refusal.name()))
}

impl Begun {
    /// The second half: the broker's acknowledgement, as the message's id.
    pub async fn finish(self) -> Result<String, Refusal> {
        let channel = &self.in_flight.0;
        let metrics = self.via.metrics(channel);
        match self.pending.acknowledged().await {
            Ok((incarnation, position)) => {
                let id = incarnation.message_id(position);
                self.span.acknowledged(&id);
                metrics.publish_duration.observe(self.started.elapsed().as_secs_f64());
                metrics.bytes_in.inc_by(self.size);
                channel.metrics.published(metrics, "acknowledged");
                Ok(id)
            }
            Err(error) => {
                let refusal = Refusal::from(error);
                self.span.failed(refusal.name());
                channel.metrics.published(metrics, refusal.name());
                Err(refusal)
            }
        }
    }
}

/// What stands before the broker: lifecycle, size, content type, rate, and what costs most, the schema.
fn admit<'a>(
    channel: &Channel,
    state: &'a State,
    client: &str,
    message: &Outgoing,
    size: usize,
    now: Instant,
) -> Result<&'a Publish, Refusal> {
    state.check()?;
    let publish = state.spec.publish.as_ref().ok_or(Refusal::Forbidden(NO_MESSAGES))?;
    let limit = state.policy.limits.max_message_bytes();
    if size > limit {
        return Err(Refusal::TooLarge { bytes: limit });
    }
    check_content_type(publish, message)?;
    if let Some(rate) = &state.policy.limits.publish_rate {
        channel
            .rates
            .take(client, rate, now)
            .inspect_err(|_| channel.metrics.decision("limits", "refused"))?;
    }
    if let Some(schema) = &state.schema {
        payload::check(schema, &state.encoder.content_type, message)?;
    }
    Ok(publish)
}

fn check_content_type(publish: &Publish, message: &Outgoing) -> Result<(), Refusal> {
    if publish.content_types.is_empty() {
        return Ok(());
    }
    let given = message.content_type().map(essence).unwrap_or_default();
    if publish.content_types.iter().any(|accepted| accepted.eq_ignore_ascii_case(given)) {
        return Ok(());
    }
    Err(Refusal::UnsupportedMediaType { accepted: publish.content_types.join(", ") })
}

/// Counts a publish that awaits the broker, also when whoever waits for it goes away.
struct InFlight(Arc<Channel>);

impl InFlight {
    fn new(channel: Arc<Channel>) -> Self {
        channel.metrics.in_flight.inc();
        Self(channel)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.metrics.in_flight.dec();
    }
}
