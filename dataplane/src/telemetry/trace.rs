//! Spans: one per publish, one per message pushed to a channel's clients, and the W3C trace context
//! that ties them to the client's and the consumer's own spans.
//!
//! Without an exporter nothing here allocates or looks at a header, and a client's context passes
//! through untouched; the same holds for the headers of what is not sampled.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_otlp::{Protocol, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, Span, SpanData, SpanExporter};
use prometheus::Registry;

use super::otlp::{Exports, SHUTDOWN_TIMEOUT, signal_url, timeout};
use crate::message::{Headers, Outgoing, Record};

/// Header of the W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// Its companion, which is never changed here.
pub const TRACESTATE: &str = "tracestate";

/// Share of publishes without a parent that are sampled, unless `OTEL_TRACES_SAMPLER_ARG` says
/// otherwise. (With `OTEL_TRACES_SAMPLER` the sampler is the one it names.)
const ROOT_RATIO: f64 = 0.01;

/// Makes spans, or nothing.
#[derive(Clone, Debug, Default)]
pub enum Tracing {
    /// No exporter.
    #[default]
    Off,
    /// Spans go to a collector in batches, from a thread of their own.
    On(SdkTracerProvider),
}

impl Tracing {
    /// Starts exporting spans to `{endpoint}/v1/traces`; what the queue cannot hold is dropped.
    pub fn start(endpoint: &str, registry: &Registry, resource: Resource) -> Result<Self, String> {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(signal_url(endpoint, "traces")?)
            .with_timeout(timeout())
            .build()
            .map_err(|error| error.to_string())?;
        let exporter = Counted { exporter, exports: Exports::register(registry, "traces")? };
        let mut builder = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource);
        if std::env::var_os("OTEL_TRACES_SAMPLER").is_none() {
            let ratio =
                std::env::var("OTEL_TRACES_SAMPLER_ARG").ok().and_then(|ratio| ratio.trim().parse().ok());
            builder = builder.with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
                ratio.unwrap_or(ROOT_RATIO),
            ))));
        }
        Ok(Self::On(builder.build()))
    }

    /// Sends what is queued and ends, within three seconds.
    pub async fn shutdown(&self) {
        let Self::On(provider) = self else { return };
        let provider = provider.clone();
        // The SDK blocks the thread that asks; a failure was counted and logged by the export itself.
        let _ = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT)).await;
    }

    /// The spans of one channel.
    pub fn channel(&self, place: Place<'_>) -> ChannelTracing {
        let Self::On(provider) = self else { return ChannelTracing(None) };
        let text = |text: &str| Value::from(Arc::<str>::from(text));
        ChannelTracing(Some(Arc::new(Common {
            tracer: provider.tracer(env!("CARGO_PKG_NAME")),
            send: format!("send {}", place.address),
            push: format!("push {}", place.address),
            attributes: vec![
                KeyValue::new("messaging.system", place.system),
                KeyValue::new("messaging.destination.name", text(place.address)),
                KeyValue::new("sluice.namespace", text(place.namespace)),
                KeyValue::new("sluice.api", text(place.api)),
                KeyValue::new("sluice.channel", text(place.channel)),
            ],
        })))
    }
}

/// Which channel spans belong to.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Namespace of the API.
    pub namespace: &'a str,
    /// Name of the API.
    pub api: &'a str,
    /// Name of the channel.
    pub channel: &'a str,
    /// The kind of server, as `messaging.system` names it: `kafka`, `memory`, `generator`.
    pub system: &'static str,
    /// The address at the server: the topic.
    pub address: &'a str,
}

/// Makes the spans of one channel.
#[derive(Clone, Debug, Default)]
pub struct ChannelTracing(Option<Arc<Common>>);

#[derive(Debug)]
struct Common {
    tracer: SdkTracer,
    send: String,
    push: String,
    attributes: Vec<KeyValue>,
}

impl Common {
    /// A span if it is sampled. Names and attributes are made only then.
    fn span(&self, kind: SpanKind, parent: Option<SpanContext>) -> Option<Box<Span>> {
        let context =
            parent.map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
        let (name, operation, operation_type) = match kind {
            SpanKind::Producer => (&self.send, "send", "send"),
            _ => (&self.push, "push", "process"),
        };
        let builder = SpanBuilder::from_name(operation).with_kind(kind);
        let mut span = self.tracer.build_with_context(builder, &context);
        if !span.span_context().is_sampled() || !span.is_recording() {
            return None;
        }
        span.update_name(name.clone());
        span.set_attributes(self.attributes.iter().cloned());
        span.set_attribute(KeyValue::new("messaging.operation.name", operation));
        span.set_attribute(KeyValue::new("messaging.operation.type", operation_type));
        Some(Box::new(span))
    }
}

impl ChannelTracing {
    /// A client's publish over `transport`: a child of the context in the message's headers. If it
    /// is sampled, the message carries the span's own context from here on.
    pub fn publish(&self, transport: &'static str, message: &mut Outgoing) -> PublishSpan {
        let Some(common) = &self.0 else { return PublishSpan(None) };
        let parent = TraceParent::of(&message.headers).map(|parent| parent.context(&message.headers));
        let inherits = parent.is_some();
        let Some(mut span) = common.span(SpanKind::Producer, parent) else { return PublishSpan(None) };
        span.set_attribute(KeyValue::new("sluice.transport", transport));
        span.set_attribute(body_size(message.payload.as_ref()));
        inject(span.span_context(), inherits, &mut message.headers);
        PublishSpan(Some(span))
    }

    /// The push of `record` to the channel's clients: a child of the context in its headers, if
    /// that is sampled. `id` is the message's id.
    pub fn push(&self, record: &Record, id: impl FnOnce() -> String) -> PushSpan {
        let Some(common) = &self.0 else { return PushSpan(None) };
        let parent = TraceParent::of(&record.headers).filter(TraceParent::is_sampled);
        let Some(parent) = parent.map(|parent| parent.context(&record.headers)) else {
            return PushSpan(None);
        };
        let Some(mut span) = common.span(SpanKind::Consumer, Some(parent)) else { return PushSpan(None) };
        span.set_attribute(KeyValue::new("messaging.message.id", id()));
        span.set_attribute(KeyValue::new("messaging.destination.partition.id", record.partition.to_string()));
        span.set_attribute(body_size(record.payload.as_ref()));
        PushSpan(Some(span))
    }
}

fn body_size(payload: Option<&Bytes>) -> KeyValue {
    KeyValue::new(
        "messaging.message.body.size",
        i64::try_from(payload.map_or(0, Bytes::len)).unwrap_or(i64::MAX),
    )
}

/// A publish under way. Dropping it ends it without an outcome (the client left first).
#[must_use]
#[derive(Debug, Default)]
pub struct PublishSpan(Option<Box<Span>>);

impl PublishSpan {
    /// The broker acknowledged the message as `id`.
    pub fn acknowledged(self, id: &str) {
        if let Some(mut span) = self.0 {
            span.set_attribute(KeyValue::new("messaging.message.id", id.to_owned()));
            span.end();
        }
    }

    /// The publish failed; `outcome` is the value of `messages_published_total{outcome}`.
    pub fn failed(self, outcome: &'static str) {
        if let Some(mut span) = self.0 {
            span.set_attribute(KeyValue::new("error.type", outcome));
            span.set_status(Status::error(outcome));
            span.end();
        }
    }
}

/// A push under way; a pointer wide, so that a ring's entry can hold it.
#[must_use]
#[derive(Debug, Default)]
pub struct PushSpan(Option<Box<Span>>);

impl PushSpan {
    /// Whether there is anything to count clients for.
    pub const fn is_recording(&self) -> bool {
        self.0.is_some()
    }

    /// The message was written to `clients` clients.
    pub fn written(self, clients: usize) {
        if let Some(mut span) = self.0 {
            span.set_attribute(KeyValue::new("sluice.clients", i64::try_from(clients).unwrap_or(i64::MAX)));
            span.end();
        }
    }
}

/// A parsed `traceparent`: <https://www.w3.org/TR/trace-context/#traceparent-header>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    flags: u8,
}

impl TraceParent {
    /// Reads a header's value. Later versions are read as far as version 00 knows them.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (known, rest) = value.split_first_chunk::<55>()?;
        let [version] = hex(&known[..2])?;
        let separated = known[2] == b'-' && known[35] == b'-' && known[52] == b'-';
        let ends = rest.is_empty() || (version > 0 && rest[0] == b'-');
        let parent = Self {
            trace_id: hex(&known[3..35])?,
            span_id: hex(&known[36..52])?,
            flags: hex::<1>(&known[53..])?[0],
        };
        let valid = version != 0xff && parent.trace_id != [0; 16] && parent.span_id != [0; 8];
        (separated && ends && valid).then_some(parent)
    }

    /// The one valid `traceparent` of a message; several are none.
    fn of(headers: &Headers) -> Option<Self> {
        let mut values = values(headers, TRACEPARENT);
        let parent = Self::parse(values.next()?)?;
        values.next().is_none().then_some(parent)
    }

    /// Whether its sender records the trace.
    pub const fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }

    fn context(self, headers: &Headers) -> SpanContext {
        let list: Vec<&str> =
            values(headers, TRACESTATE).filter_map(|value| std::str::from_utf8(value).ok()).collect();
        // A list that does not parse is dropped from the span; the header itself is the client's.
        let state: TraceState = list.join(",").parse().unwrap_or_default();
        let flags = TraceFlags::NOT_SAMPLED.with_sampled(self.is_sampled());
        SpanContext::new(
            TraceId::from_bytes(self.trace_id),
            SpanId::from_bytes(self.span_id),
            flags,
            true,
            state,
        )
    }
}

fn values<'a>(headers: &'a Headers, wanted: &'static str) -> impl Iterator<Item = &'a [u8]> {
    headers.iter().filter(move |(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.as_ref())
}

/// Lower-case hex digits only, as the specification asks.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

/// Puts `context` in the place of what `headers` said. A list of states without a valid parent
/// belongs to no trace, so a new root drops it.
fn inject(context: &SpanContext, inherits: bool, headers: &mut Headers) {
    headers.retain(|(name, _)| {
        !name.eq_ignore_ascii_case(TRACEPARENT) && (inherits || !name.eq_ignore_ascii_case(TRACESTATE))
    });
    let flags = u8::from(context.is_sampled());
    let value = format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id());
    headers.push((TRACEPARENT.into(), Bytes::from(value)));
}

/// Counts what the SDK's exporter does; the SDK itself would fail in silence.
#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    exports: Exports,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let outcome = self.exporter.export(batch).await;
        self.exports.record(outcome.as_ref().copied().map_err(OTelSdkError::to_string));
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests;
