//! Metrics: every family and label of the contract stands here, in one registry that `/metrics`
//! and OTLP both read. Labels come from bounded sets only; children are resolved once per channel
//! and counted per batch.

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus::core::Collector as _;
use prometheus::{
    Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry,
};

pub mod otlp;
mod periodic;
pub mod statsd;
pub mod trace;

/// Reasons of `messages_dropped_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The client fell behind the replay window.
    Slow,
    /// Unread when the connection closed.
    Closed,
    /// Over the size limit.
    TooLarge,
    /// Gone from the broker or the window before it was read.
    Gap,
}

impl DropReason {
    /// The label value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Closed => "closed",
            Self::TooLarge => "tooLarge",
            Self::Gap => "gap",
        }
    }
}

/// Open streams of an API by channel and transport; what has none is left out.
pub type Streams = BTreeMap<String, BTreeMap<String, u64>>;

/// All metrics of one data plane.
pub struct Metrics {
    /// The one registry.
    pub registry: Registry,
    received: IntCounterVec,
    due: IntCounterVec,
    written: IntCounterVec,
    filtered: IntCounterVec,
    dropped: IntCounterVec,
    published: IntCounterVec,
    in_flight: IntGaugeVec,
    payload_bytes: IntCounterVec,
    connections: IntGaugeVec,
    opened: IntCounterVec,
    closed: IntCounterVec,
    publish_duration: HistogramVec,
    delivery_age: HistogramVec,
    feed_lag: GaugeVec,
    ring_messages: IntGaugeVec,
    /// Events in the fetch queues of all Kafka clients.
    pub fetch_queue_events: IntGauge,
    server_up: IntGaugeVec,
    engine_seconds: CounterVec,
    reloads: IntCounterVec,
    /// `config_sequence`.
    pub config_sequence: IntGauge,
    config_refused: IntGauge,
    decisions: IntCounterVec,
    /// Bytes held by rings, and what they may hold.
    pub ring_bytes: IntGauge,
    /// The bound of `ring_bytes`.
    pub ring_budget_bytes: IntGauge,
    /// Accepted sockets that have not become a request or a stream yet, and their refusals.
    pub handshakes: IntGauge,
    /// Connections refused before a request was read.
    pub refused_connections: IntCounterVec,
    /// `start_time_seconds` is of the process collector; this one tells how long the start took.
    pub start_seconds: Gauge,
}

const CHANNEL: [&str; 3] = ["namespace", "api", "channel"];
const TRANSPORT: [&str; 4] = ["namespace", "api", "channel", "transport"];

fn labels<'a>(base: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    base.iter().chain(more).copied().collect()
}

impl Metrics {
    /// Registers every family.
    pub fn new() -> Arc<Self> {
        let registry = Registry::new_custom(Some("sluice".into()), None).expect("a valid prefix");
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels).expect("a valid family");
            registry.register(Box::new(family.clone())).expect("registered once");
            family
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let family = IntGaugeVec::new(Opts::new(name, help), labels).expect("a valid family");
            registry.register(Box::new(family.clone())).expect("registered once");
            family
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help).expect("a valid gauge");
            registry.register(Box::new(gauge.clone())).expect("registered once");
            gauge
        };
        let histogram = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let family = HistogramVec::new(options, labels).expect("a valid family");
            registry.register(Box::new(family.clone())).expect("registered once");
            family
        };
        let seconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
        let ages = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0];
        let feed_lag = GaugeVec::new(
            Opts::new("feed_lag_messages", "Messages at the broker that the feed has not read yet."),
            &CHANNEL,
        )
        .expect("a valid family");
        registry.register(Box::new(feed_lag.clone())).expect("registered once");
        let engine_seconds = CounterVec::new(
            Opts::new("engine_seconds_total", "Time threads worked for the clients of an API beside others."),
            &["namespace", "api"],
        )
        .expect("a valid family");
        registry.register(Box::new(engine_seconds.clone())).expect("registered once");
        let start_seconds =
            Gauge::new("start_seconds", "Seconds from process start to serving.").expect("a valid gauge");
        registry.register(Box::new(start_seconds.clone())).expect("registered once");
        Arc::new(Self {
            received: counter("messages_received_total", "Messages read from the broker.", &CHANNEL),
            due: counter("messages_due_total", "Messages due to clients.", &TRANSPORT),
            written: counter("messages_written_total", "Messages written to clients.", &TRANSPORT),
            filtered: counter(
                "messages_filtered_total",
                "Messages a client's selection left out.",
                &TRANSPORT,
            ),
            dropped: counter(
                "messages_dropped_total",
                "Messages a client will not get.",
                &labels(&TRANSPORT, &["reason"]),
            ),
            published: counter(
                "messages_published_total",
                "Messages clients published, by outcome.",
                &labels(&TRANSPORT, &["outcome"]),
            ),
            in_flight: gauges("messages_in_flight", "Publishes awaiting the broker.", &CHANNEL),
            payload_bytes: counter(
                "payload_bytes_total",
                "Payload bytes, out to clients and in from them.",
                &labels(&TRANSPORT, &["direction"]),
            ),
            connections: gauges("connections", "Open streams.", &TRANSPORT),
            opened: counter("connections_opened_total", "Streams opened.", &TRANSPORT),
            closed: counter(
                "connections_closed_total",
                "Streams closed, by reason.",
                &labels(&TRANSPORT, &["reason"]),
            ),
            publish_duration: histogram(
                "publish_duration_seconds",
                "From a whole message to the broker's acknowledgement.",
                &TRANSPORT,
                &seconds,
            ),
            delivery_age: histogram(
                "delivery_age_seconds",
                "From event time to the last socket write of a walk over the clients.",
                &TRANSPORT,
                &ages,
            ),
            feed_lag,
            ring_messages: gauges("ring_messages", "Messages held for replay.", &CHANNEL),
            server_up: gauges(
                "server_up",
                "Whether the server answers: 1 or 0.",
                &["namespace", "api", "server"],
            ),
            engine_seconds,
            reloads: counter("config_reloads_total", "Configs taken or refused.", &["outcome"]),
            config_refused: gauge("config_refused_apis", "APIs whose newest config is refused."),
            config_sequence: gauge("config_sequence", "Sequence of the config in force."),
            decisions: counter(
                "policy_decisions_total",
                "What policies decided.",
                &labels(&CHANNEL, &["policy", "outcome"]),
            ),
            fetch_queue_events: gauge("fetch_queue_events", "Fetched records that wait in Kafka clients."),
            ring_bytes: gauge("ring_bytes", "Bytes held by all rings."),
            ring_budget_bytes: gauge("ring_budget_bytes", "Bytes all rings may hold."),
            handshakes: gauge("handshakes", "Accepted sockets that are not a request yet."),
            refused_connections: counter(
                "refused_connections_total",
                "Connections given up before a request was read.",
                &["reason"],
            ),
            start_seconds,
            registry,
        })
    }

    /// Says whether a server answers.
    pub fn set_server_up(&self, namespace: &str, api: &str, server: &str, up: bool) {
        self.server_up.with_label_values(&[namespace, api, server]).set(i64::from(up));
    }

    /// Forgets a server that is gone.
    pub fn forget_server(&self, namespace: &str, api: &str, server: &str) {
        // It may never have been looked at.
        let _ = self.server_up.remove_label_values(&[namespace, api, server]);
    }

    /// Time that the engine works for an API.
    pub fn engine_seconds(&self, namespace: &str, api: &str) -> Counter {
        self.engine_seconds.with_label_values(&[namespace, api])
    }

    /// Forgets an API that is gone.
    pub fn forget_api(&self, namespace: &str, api: &str) {
        // It is there from the API's beginning on.
        let _ = self.engine_seconds.remove_label_values(&[namespace, api]);
    }

    /// Counts a config of which so many APIs were refused.
    pub fn reload(&self, refused: usize) {
        let outcome = if refused == 0 { "applied" } else { "refused" };
        self.reloads.with_label_values(&[outcome]).inc();
        self.config_refused.set(i64::try_from(refused).unwrap_or(i64::MAX));
    }

    /// Open streams by namespace and name of their API, as `connections` has them.
    pub fn streams(&self) -> BTreeMap<(String, String), Streams> {
        let mut streams: BTreeMap<_, Streams> = BTreeMap::new();
        for series in self.connections.collect().iter().flat_map(|family| family.get_metric()) {
            let open = series.get_gauge().get_value();
            if open < 1.0 {
                continue;
            }
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it is a whole number"
            )]
            let open = open as u64;
            let label = |name: &str| {
                let label = series.get_label().iter().find(|label| label.name() == name);
                label.map(|label| label.value().to_owned()).unwrap_or_default()
            };
            let of_api = streams.entry((label("namespace"), label("api"))).or_default();
            of_api.entry(label("channel")).or_default().insert(label("transport"), open);
        }
        streams
    }

    /// Resolves the children of one channel.
    pub fn channel(self: &Arc<Self>, namespace: &str, api: &str, channel: &str) -> Arc<ChannelMetrics> {
        let names = [namespace, api, channel];
        Arc::new(ChannelMetrics {
            websocket: self.transport(&names, "websocket"),
            sse: self.transport(&names, "sse"),
            http: self.transport(&names, "http"),
            received: self.received.with_label_values(&names),
            in_flight: self.in_flight.with_label_values(&names),
            feed_lag: self.feed_lag.with_label_values(&names),
            ring_messages: self.ring_messages.with_label_values(&names),
            names: names.map(Into::into),
            all: self.clone(),
        })
    }

    fn transport(&self, names: &[&str; 3], transport: &'static str) -> TransportMetrics {
        let values = [names[0], names[1], names[2], transport];
        let with = |more: &'static str| [names[0], names[1], names[2], transport, more];
        let dropped = |reason: DropReason| self.dropped.with_label_values(&with(reason.name()));
        TransportMetrics {
            due: self.due.with_label_values(&values),
            written: self.written.with_label_values(&values),
            filtered: self.filtered.with_label_values(&values),
            dropped_slow: dropped(DropReason::Slow),
            dropped_closed: dropped(DropReason::Closed),
            dropped_too_large: dropped(DropReason::TooLarge),
            dropped_gap: dropped(DropReason::Gap),
            bytes_out: self.payload_bytes.with_label_values(&with("out")),
            bytes_in: self.payload_bytes.with_label_values(&with("in")),
            connections: self.connections.with_label_values(&values),
            opened: self.opened.with_label_values(&values),
            publish_duration: self.publish_duration.with_label_values(&values),
            delivery_age: self.delivery_age.with_label_values(&values),
            name: transport,
        }
    }
}

/// The resolved children of one channel.
pub struct ChannelMetrics {
    /// Of WebSocket clients.
    pub websocket: TransportMetrics,
    /// Of SSE clients.
    pub sse: TransportMetrics,
    /// Of HTTP publishers.
    pub http: TransportMetrics,
    /// `messages_received_total`.
    pub received: IntCounter,
    /// `messages_in_flight`.
    pub in_flight: IntGauge,
    /// `feed_lag_messages`.
    pub feed_lag: Gauge,
    /// `ring_messages`.
    pub ring_messages: IntGauge,
    names: [Box<str>; 3],
    all: Arc<Metrics>,
}

impl ChannelMetrics {
    /// Counts a closed stream.
    pub fn closed(&self, transport: &TransportMetrics, reason: &str) {
        let [namespace, api, channel] = &self.names;
        self.all.closed.with_label_values(&[namespace, api, channel, transport.name, reason]).inc();
    }

    /// Counts a publish.
    pub fn published(&self, transport: &TransportMetrics, outcome: &str) {
        let [namespace, api, channel] = &self.names;
        self.all.published.with_label_values(&[namespace, api, channel, transport.name, outcome]).inc();
    }

    /// Counts a policy's decision.
    pub fn decision(&self, policy: &str, outcome: &str) {
        let [namespace, api, channel] = &self.names;
        self.all.decisions.with_label_values(&[namespace, api, channel, policy, outcome]).inc();
    }
}

/// The resolved children of one channel and transport.
pub struct TransportMetrics {
    /// `messages_due_total`.
    pub due: IntCounter,
    /// `messages_written_total`.
    pub written: IntCounter,
    /// `messages_filtered_total`.
    pub filtered: IntCounter,
    /// `messages_dropped_total{reason="slow"}`.
    pub dropped_slow: IntCounter,
    /// `messages_dropped_total{reason="closed"}`.
    pub dropped_closed: IntCounter,
    /// `messages_dropped_total{reason="tooLarge"}`.
    pub dropped_too_large: IntCounter,
    /// `messages_dropped_total{reason="gap"}`.
    pub dropped_gap: IntCounter,
    /// `payload_bytes_total{direction="out"}`.
    pub bytes_out: IntCounter,
    /// `payload_bytes_total{direction="in"}`.
    pub bytes_in: IntCounter,
    /// `connections`.
    pub connections: IntGauge,
    /// `connections_opened_total`.
    pub opened: IntCounter,
    /// `publish_duration_seconds`.
    pub publish_duration: Histogram,
    /// `delivery_age_seconds`.
    pub delivery_age: Histogram,
    name: &'static str,
}

impl TransportMetrics {
    /// Counts messages a client will not get.
    pub fn dropped(&self, reason: DropReason) -> &IntCounter {
        match reason {
            DropReason::Slow => &self.dropped_slow,
            DropReason::Closed => &self.dropped_closed,
            DropReason::TooLarge => &self.dropped_too_large,
            DropReason::Gap => &self.dropped_gap,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// X09
    #[test]
    fn streams_are_told_where_some_are_open() {
        let metrics = Metrics::new();
        let channel = |api, channel| metrics.channel("a", api, channel);
        let (orders, notes, chat) =
            (channel("shop", "orders"), channel("shop", "notes"), channel("chat", "room"));
        assert!(metrics.streams().is_empty());
        orders.websocket.connections.add(12);
        orders.sse.connections.add(3);
        chat.sse.connections.inc();
        notes.sse.connections.inc();
        notes.sse.connections.dec();
        let told = metrics.streams();
        let of = |api: &str| serde_json::json!(told[&("a".to_owned(), api.to_owned())]);
        assert_eq!(of("shop"), serde_json::json!({"orders": {"websocket": 12, "sse": 3}}));
        assert_eq!(of("chat"), serde_json::json!({"room": {"sse": 1}}));
        assert_eq!(told.len(), 2);
    }
}
