//! StatsD over UDP: the same registry, sent at an interval, labels as tags (`|#name:value`, the
//! notation of DogStatsD, which Telegraf, Vector and statsd_exporter read too).
//!
//! Counters go as what was added since the last time, gauges as they are, of histograms the count
//! and the sum. Nobody acknowledges: what is lost on the way is lost.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use prometheus::proto::{Metric as Series, MetricFamily, MetricType};
use prometheus::{IntCounterVec, Opts, Registry};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;

use super::periodic::{Periodic, ticks};

/// Between two sendings, as StatsD servers flush by default.
const INTERVAL: Duration = Duration::from_secs(10);
/// Bytes of a packet that fit any path without being cut.
const PACKET_BYTES: usize = 1400;
/// How long the last sending may take, when the process ends.
const LAST: Duration = Duration::from_secs(1);

/// Sends a registry's metrics at an interval, and a last time at [`Statsd::shutdown`].
pub struct Statsd(Periodic);

impl Statsd {
    /// Starts sending `registry` to `address` (`host:port`), which is resolved anew each time. Must
    /// be called within a runtime.
    pub fn start(address: &str, registry: Registry) -> Result<Self, String> {
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none_or(|port| port == 0) {
            return Err(format!("`{address}` is not host:port; write it like 127.0.0.1:8125"));
        }
        let options = Opts::new("statsd_packets_total", "Packets to the StatsD server, by outcome.");
        let packets = IntCounterVec::new(options, &["outcome"]).map_err(|error| error.to_string())?;
        registry.register(Box::new(packets.clone())).map_err(|error| error.to_string())?;
        let sender =
            Sender { address: address.to_owned(), registry, packets, before: HashMap::new(), failing: false };
        Ok(Self(Periodic::start(LAST, |stopped| sender.run(stopped))))
    }

    /// Sends once more and ends.
    pub async fn shutdown(self) {
        self.0.shutdown().await;
    }
}

struct Sender {
    address: String,
    registry: Registry,
    packets: IntCounterVec,
    /// Cumulative values as they were sent last.
    before: HashMap<String, f64>,
    failing: bool,
}

impl Sender {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut ticks = ticks(INTERVAL);
        loop {
            let last = tokio::select! {
                _ = ticks.tick() => false,
                _ = &mut stopped => true,
            };
            let sent = self.send().await;
            if let (Err(error), false) = (&sent, self.failing) {
                tracing::warn!(%error, address = self.address, "metrics cannot be sent to StatsD; trying on");
            }
            self.failing = sent.is_err();
            if last {
                return;
            }
        }
    }

    async fn send(&mut self) -> std::io::Result<()> {
        let lines = lines(&self.registry.gather(), &mut self.before);
        let mut addresses = tokio::net::lookup_host(&self.address).await?;
        let to = addresses.next().ok_or_else(|| std::io::Error::other("the name has no address"))?;
        let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).await?;
        for packet in packets(&lines) {
            let sent = socket.send_to(packet.as_bytes(), to).await;
            self.packets.with_label_values(&[if sent.is_ok() { "sent" } else { "failed" }]).inc();
            sent?;
        }
        Ok(())
    }
}

/// Lines joined into packets.
fn packets(lines: &[String]) -> Vec<String> {
    let mut packets: Vec<String> = Vec::new();
    for line in lines {
        match packets.last_mut() {
            Some(packet) if packet.len() + 1 + line.len() <= PACKET_BYTES => {
                packet.push('\n');
                packet.push_str(line);
            }
            _ => packets.push(line.clone()),
        }
    }
    packets
}

/// What there is to send; `before` is brought up to date.
fn lines(families: &[MetricFamily], before: &mut HashMap<String, f64>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut added = |name: &str, tags: &str, value: f64| {
        let key = format!("{name}{tags}");
        let last = before.insert(key, value).unwrap_or_default();
        // A series that went and came back begins anew.
        let more = if value < last { value } else { value - last };
        (more > 0.0).then(|| format!("{name}:{more}|c{tags}"))
    };
    for family in families {
        let name = family.name();
        for series in family.get_metric() {
            let tags = tags(series);
            match family.get_field_type() {
                MetricType::COUNTER => lines.extend(added(name, &tags, series.get_counter().get_value())),
                MetricType::GAUGE => lines.push(format!("{name}:{}|g{tags}", series.get_gauge().get_value())),
                MetricType::HISTOGRAM => {
                    let histogram = series.get_histogram();
                    #[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
                    let count = histogram.get_sample_count() as f64;
                    lines.extend(added(&format!("{name}_count"), &tags, count));
                    lines.extend(added(&format!("{name}_sum"), &tags, histogram.get_sample_sum()));
                }
                // The registry makes neither.
                MetricType::SUMMARY | MetricType::UNTYPED => {}
            }
        }
    }
    lines
}

fn tags(series: &Series) -> String {
    let labels = series.get_label().iter();
    let tags: Vec<_> = labels.map(|label| format!("{}:{}", label.name(), plain(label.value()))).collect();
    if tags.is_empty() { String::new() } else { format!("|#{}", tags.join(",")) }
}

/// Without what has a meaning in a line.
fn plain(value: &str) -> String {
    value
        .chars()
        .map(|c| if c.is_control() || matches!(c, '|' | ',' | '#' | ':') { '_' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use prometheus::{Histogram, HistogramOpts, IntGauge};

    use super::*;

    #[test]
    fn counters_go_as_what_was_added_and_gauges_as_they_are() {
        let registry = Registry::new();
        let counter = IntCounterVec::new(Opts::new("written", "w"), &["api", "transport"]).expect("valid");
        let gauge = IntGauge::new("connections", "c").expect("valid");
        let ages = Histogram::with_opts(HistogramOpts::new("age", "a")).expect("valid");
        registry.register(Box::new(counter.clone())).expect("registered");
        registry.register(Box::new(gauge.clone())).expect("registered");
        registry.register(Box::new(ages.clone())).expect("registered");
        let mut before = HashMap::new();
        counter.with_label_values(&["shop", "sse"]).inc_by(3);
        gauge.set(7);
        ages.observe(0.5);
        assert_eq!(
            lines(&registry.gather(), &mut before),
            ["age_count:1|c", "age_sum:0.5|c", "connections:7|g", "written:3|c|#api:shop,transport:sse"]
        );
        assert_eq!(lines(&registry.gather(), &mut before), ["connections:7|g"], "nothing was added");
        counter.with_label_values(&["shop", "sse"]).inc();
        gauge.set(0);
        let lines = lines(&registry.gather(), &mut before);
        assert_eq!(lines, ["connections:0|g", "written:1|c|#api:shop,transport:sse"]);
    }

    #[test]
    fn a_series_that_begins_anew_is_no_loss() {
        let mut before = HashMap::from([("written".to_owned(), 10.0)]);
        let registry = Registry::new();
        let counter = prometheus::IntCounter::new("written", "w").expect("valid");
        registry.register(Box::new(counter.clone())).expect("registered");
        counter.inc_by(4);
        assert_eq!(lines(&registry.gather(), &mut before), ["written:4|c"]);
    }

    #[test]
    fn packets_hold_whole_lines_and_fit_the_path() {
        let many: Vec<_> = (0..200).map(|n| format!("{}:{n}|c", "x".repeat(40))).collect();
        let packets = packets(&many);
        assert!(packets.len() > 5 && packets.iter().all(|packet| packet.len() <= PACKET_BYTES));
        assert_eq!(packets.iter().flat_map(|packet| packet.split('\n')).collect::<Vec<_>>(), many);
    }

    #[test]
    fn a_label_cannot_forge_a_line() {
        assert_eq!(plain("a|b,c#d:e\nf"), "a_b_c_d_e_f");
    }

    #[tokio::test]
    async fn an_address_without_a_port_is_refused() {
        for address in ["collector", "collector:", "collector:0", "8125"] {
            assert!(Statsd::start(address, Registry::new()).is_err(), "{address}");
        }
    }
}
