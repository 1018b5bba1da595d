//! Publishing: limits, the sink, and the books, the same for every transport.

use std::sync::Arc;
use std::time::Instant;

use sluice_config::channel::Publish;

use crate::channel::{Channel, State};
use crate::encode::essence;
use crate::message::Outgoing;
use crate::respond::Refusal;
use crate::telemetry::TransportMetrics;

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
    let metrics = via.metrics(&channel);
    let size = message.payload.as_ref().map_or(0, bytes::Bytes::len);
    let started = Instant::now();
    let result = match admit(&channel, &state, &client, &message, size, started) {
        Ok(publish) => send(&channel, &state, via, message, publish).await,
        Err(refusal) => Err(refusal),
    };
    match &result {
        Ok(_) => {
            metrics.publish_duration.observe(started.elapsed().as_secs_f64());
            metrics.bytes_in.inc_by(size as u64);
            channel.metrics.published(metrics, "acknowledged");
        }
        Err(refusal) => channel.metrics.published(metrics, refusal.name()),
    }
    result
}

/// What stands before the broker: lifecycle, size, content type, rate.
fn admit<'a>(
    channel: &Channel,
    state: &'a State,
    client: &str,
    message: &Outgoing,
    size: usize,
    now: Instant,
) -> Result<&'a Publish, Refusal> {
    state.check()?;
    let publish = state.spec.publish.as_ref().ok_or(Refusal::Forbidden("this channel takes no messages"))?;
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
    Ok(publish)
}

fn check_content_type(publish: &Publish, message: &Outgoing) -> Result<(), Refusal> {
    if publish.content_types.is_empty() {
        return Ok(());
    }
    let is_content_type = |name: &str| name.eq_ignore_ascii_case(crate::message::CONTENT_TYPE);
    let given = message.headers.iter().find(|(name, _)| is_content_type(name));
    let given = given.and_then(|(_, value)| std::str::from_utf8(value).ok()).map(essence).unwrap_or_default();
    if publish.content_types.iter().any(|accepted| accepted.eq_ignore_ascii_case(given)) {
        return Ok(());
    }
    Err(Refusal::UnsupportedMediaType { accepted: publish.content_types.join(", ") })
}

async fn send(
    channel: &Channel,
    state: &State,
    via: Via,
    mut message: Outgoing,
    publish: &Publish,
) -> Result<String, Refusal> {
    let sink = state.sink.as_ref().ok_or(Refusal::Forbidden("this channel takes no messages"))?;
    let span = state.tracing.publish(via.name(), &mut message);
    let _in_flight = InFlight::new(channel);
    match sink.publish(message, publish.timeout.0).await {
        Ok((incarnation, position)) => {
            let id = incarnation.message_id(position);
            span.acknowledged(&id);
            Ok(id)
        }
        Err(error) => {
            let refusal = Refusal::from(error);
            span.failed(refusal.name());
            Err(refusal)
        }
    }
}

/// Counts a publish that awaits the broker, also when whoever waits for it goes away.
struct InFlight<'a>(&'a Channel);

impl<'a> InFlight<'a> {
    fn new(channel: &'a Channel) -> Self {
        channel.metrics.in_flight.inc();
        Self(channel)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.metrics.in_flight.dec();
    }
}
