//! OTLP over HTTP: sends what the one registry holds to a collector, and says who we are.
//!
//! Owns the endpoint, the interval and the export of metrics; spans are made and sent by `trace`.
//! The data plane never waits for an export: a collector that is away costs that export, is logged
//! once per change and counted.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_sdk::Resource;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use prost::Message;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tokio::sync::oneshot;

use super::periodic::{Periodic, ticks};

mod convert;

/// Between two exports of metrics, unless `OTEL_METRIC_EXPORT_INTERVAL` (milliseconds) says otherwise.
const INTERVAL: Duration = Duration::from_secs(10);
/// The least interval that is honoured.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// An export of either signal, unless `OTEL_EXPORTER_OTLP_TIMEOUT` (milliseconds) says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Opening the connection to the collector.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The last export, when the process ends.
pub(super) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
/// A collector's answer is not read beyond this.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// A collector's reason is not logged beyond this.
const MAX_REASON_CHARS: usize = 300;

/// Who sends, the same for both signals: `service.name` is `sluice` unless `OTEL_SERVICE_NAME` or
/// `OTEL_RESOURCE_ATTRIBUTES` say otherwise, and every process is an instance of its own, so that
/// the cumulative counts of replicas never mix.
pub fn resource() -> Resource {
    static RESOURCE: OnceLock<Resource> = OnceLock::new();
    RESOURCE.get_or_init(make_resource).clone()
}

fn make_resource() -> Resource {
    let own = [
        KeyValue::new("service.name", "sluice"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", format!("{:032x}", fastrand::u128(..))),
    ];
    let detected = Resource::builder().build();
    let said = detected.iter().filter(|(_, value)| !value.as_str().starts_with("unknown_service"));
    let said = said.map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    Resource::builder_empty().with_attributes(own).with_attributes(said).build()
}

/// Sends a registry's metrics at an interval, and a last time at [`Exporter::shutdown`].
pub struct Exporter(Periodic);

impl Exporter {
    /// Starts exporting `registry` to `{endpoint}/v1/metrics`. Must be called within a runtime.
    pub fn start(endpoint: &str, registry: Registry, resource: Resource) -> Result<Self, String> {
        let push = Push {
            url: signal_url(endpoint, "metrics")?,
            client: client()?,
            exports: Exports::register(&registry, "metrics")?,
            started_nanos: nanos(SystemTime::now()),
            registry,
            resource,
        };
        let every = millis("OTEL_METRIC_EXPORT_INTERVAL").unwrap_or(INTERVAL).max(MIN_INTERVAL);
        Ok(Self(Periodic::start(SHUTDOWN_TIMEOUT, |stopped| push.run(every, stopped))))
    }

    /// Exports once more and ends, within [`SHUTDOWN_TIMEOUT`].
    pub async fn shutdown(self) {
        self.0.shutdown().await;
    }
}

struct Push {
    url: String,
    client: reqwest::Client,
    registry: Registry,
    resource: Resource,
    started_nanos: u64,
    exports: Exports,
}

impl Push {
    async fn run(self, every: Duration, mut stopped: oneshot::Receiver<()>) {
        let mut ticks = ticks(every);
        let exporting = async {
            loop {
                ticks.tick().await;
                self.exports.record(self.export().await);
            }
        };
        // An export in flight is given up for the last one, which says the same and more.
        tokio::select! {
            () = exporting => {}
            _ = &mut stopped => {}
        }
        self.exports.record(self.export().await);
    }

    async fn export(&self) -> Result<(), String> {
        let (registry, resource) = (self.registry.clone(), self.resource.clone());
        let started = self.started_nanos;
        // Thousands of series take milliseconds, which a thread that serves clients must not lose.
        let body = tokio::task::spawn_blocking(move || {
            convert::request(&registry.gather(), &resource, started, nanos(SystemTime::now())).encode_to_vec()
        })
        .await
        .map_err(|_| "the metrics could not be gathered".to_owned())?;
        let request = self.client.post(&self.url).header(CONTENT_TYPE, "application/x-protobuf").body(body);
        let mut response = request.send().await.map_err(|error| chain(&error.without_url()))?;
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| chain(&error.without_url()))? {
            if answer.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err("the collector's answer is too long".into());
            }
            answer.extend_from_slice(&chunk);
        }
        if !response.status().is_success() {
            return Err(format!("the collector answered {}", response.status()));
        }
        match ExportMetricsServiceResponse::decode(answer.as_slice()) {
            Ok(ExportMetricsServiceResponse { partial_success: Some(partial) })
                if partial.rejected_data_points > 0 =>
            {
                Err(format!(
                    "the collector refused {} points: {}",
                    partial.rejected_data_points, partial.error_message
                ))
            }
            // A success whose body says nothing we know is still a success.
            _ => Ok(()),
        }
    }
}

/// Counts the exports of one signal and logs when they begin to fail and to work again.
#[derive(Debug)]
pub(super) struct Exports {
    signal: &'static str,
    failing: AtomicBool,
    exported: IntCounter,
    failed: IntCounter,
}

impl Exports {
    pub(super) fn register(registry: &Registry, signal: &'static str) -> Result<Self, String> {
        let options = Opts::new(
            format!("otlp_{signal}_exports_total"),
            format!("Exports of {signal} to the OpenTelemetry collector, by outcome."),
        );
        let family = IntCounterVec::new(options, &["outcome"]).map_err(|error| error.to_string())?;
        registry.register(Box::new(family.clone())).map_err(|error| error.to_string())?;
        Ok(Self {
            signal,
            failing: AtomicBool::new(false),
            exported: family.with_label_values(&["exported"]),
            failed: family.with_label_values(&["failed"]),
        })
    }

    pub(super) fn record(&self, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => {
                self.exported.inc();
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("the OpenTelemetry collector takes {} again", self.signal);
                }
            }
            Err(reason) => {
                self.failed.inc();
                if !self.failing.swap(true, Ordering::Relaxed) {
                    let reason: String = reason.chars().take(MAX_REASON_CHARS).collect();
                    tracing::warn!(
                        reason,
                        "the OpenTelemetry collector does not take {}; trying on",
                        self.signal
                    );
                }
            }
        }
    }
}

/// `{endpoint}/v1/{signal}`, if `endpoint` is an address without credentials.
pub(super) fn signal_url(endpoint: &str, signal: &str) -> Result<String, String> {
    let refused = |why: &str| format!("the OTLP endpoint {why}; write one like http://127.0.0.1:4318");
    let uri: http::Uri = endpoint.parse().map_err(|_| refused("is not a URL"))?;
    let authority = uri.authority().ok_or_else(|| refused("names no host"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(refused("is neither http nor https"));
    }
    if authority.as_str().contains('@') || uri.query().is_some() {
        return Err(refused("carries credentials or a query, which belong into OTEL_EXPORTER_OTLP_HEADERS"));
    }
    Ok(format!("{}/v1/{signal}", endpoint.trim_end_matches('/')))
}

/// How long an export of either signal may take.
pub(super) fn timeout() -> Duration {
    millis("OTEL_EXPORTER_OTLP_TIMEOUT").unwrap_or(TIMEOUT)
}

fn client() -> Result<reqwest::Client, String> {
    let headers = std::env::var("OTEL_EXPORTER_OTLP_HEADERS").unwrap_or_default();
    reqwest::Client::builder()
        .timeout(timeout())
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .default_headers(parse_headers(&headers))
        .build()
        .map_err(|error| chain(&error))
}

/// `name=value,name=value`, values percent-encoded (the SDK reads the same for spans).
fn parse_headers(list: &str) -> HeaderMap {
    let pair = |member: &str| {
        let (name, value) = member.split_once('=')?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
        let mut value = HeaderValue::from_bytes(&percent_decode(value.trim())).ok()?;
        value.set_sensitive(true);
        Some((name, value))
    };
    list.split(',').filter_map(pair).collect()
}

fn percent_decode(text: &str) -> Vec<u8> {
    let (mut decoded, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                rest = &after[2..];
            }
            None => {
                decoded.push(first);
                rest = after;
            }
        }
    }
    decoded
}

fn millis(variable: &str) -> Option<Duration> {
    std::env::var(variable).ok()?.trim().parse().ok().filter(|&millis| millis > 0).map(Duration::from_millis)
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_plain_base_url() {
        assert_eq!(
            signal_url("http://127.0.0.1:4318", "metrics").as_deref(),
            Ok("http://127.0.0.1:4318/v1/metrics")
        );
        assert_eq!(
            signal_url("https://otel.example/base/", "traces").as_deref(),
            Ok("https://otel.example/base/v1/traces")
        );
        for wrong in
            ["", "127.0.0.1:4318", "grpc://a:4317", "http://user:secret@a", "http://a/?key=secret", "no url"]
        {
            let problem = signal_url(wrong, "metrics").expect_err("not an endpoint");
            assert!(!problem.contains("secret"), "{problem}");
        }
    }

    #[test]
    fn headers_are_read_as_the_specification_says() {
        let headers = parse_headers("authorization=Bearer%20x%3D, x-a = b ,bad,=c,x y=z,x-open=%");
        assert_eq!(headers.len(), 3);
        assert_eq!(headers["authorization"], "Bearer x=");
        assert_eq!(headers["x-a"], "b");
        assert_eq!(headers["x-open"], "%");
    }

    #[test]
    fn every_process_is_an_instance_of_the_service() {
        let value =
            |resource: &Resource, key: &'static str| resource.get(&key.into()).map(|it| it.to_string());
        let ids = [resource(), resource(), make_resource()].map(|it| value(&it, "service.instance.id"));
        assert!(ids[0].is_some() && ids[0] == ids[1] && ids[0] != ids[2], "{ids:?}");
        assert_eq!(value(&resource(), "service.name").as_deref(), Some("sluice"));
    }

    #[test]
    fn exports_are_counted_by_outcome() {
        let registry = Registry::new();
        let exports = Exports::register(&registry, "metrics").expect("it can be had");
        for outcome in [Err("away".to_owned()), Err("away".to_owned()), Ok(())] {
            exports.record(outcome);
        }
        assert_eq!((exports.exported.get(), exports.failed.get()), (1, 2));
        assert!(Exports::register(&registry, "metrics").is_err());
    }

    #[tokio::test]
    async fn a_collector_that_is_away_delays_neither_start_nor_end() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("it can be had");
        let endpoint = format!("http://{}", listener.local_addr().expect("it can be had"));
        drop(listener);
        let registry = Registry::new();
        let exporter = Exporter::start(&endpoint, registry.clone(), resource()).expect("it can be had");
        let began = std::time::Instant::now();
        exporter.shutdown().await;
        assert!(began.elapsed() < SHUTDOWN_TIMEOUT);
        let failed = registry.gather().iter().flat_map(|family| family.get_metric().to_vec()).any(|metric| {
            metric.get_label().iter().any(|label| label.value() == "failed")
                && metric.get_counter().get_value() == 1.0
        });
        assert!(failed, "{:?}", registry.gather());
    }
}
