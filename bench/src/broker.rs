//! POST → Kafka, acknowledged: as fast as 64 connections can, and at half of what the weaker system
//! reaches.

use std::time::Duration;

use anyhow::{Result, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use sluice_tests::Cluster;

use crate::entrant::Stage;
use crate::measure::on_server_cpu;
use crate::peer::{Bento, Kind};
use crate::publish::{self, Load, Published, REQUESTS};
use crate::report::{Report, Values};
use crate::scenario::Scale;
use crate::server::Server;
use crate::system::System;
use crate::wire::Wire;

/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections, or messages in flight.
const IN_FLIGHT: usize = 64;
/// Bytes of a message.
const BYTES: usize = 1024;

/// Who publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publisher {
    /// Sluice.
    Sluice,
    /// Bento.
    Bento,
    /// librdkafka alone.
    Librdkafka,
}

impl Publisher {
    /// Everybody, in the order of tables.
    pub const ALL: &[Self] = &[Self::Sluice, Self::Bento, Self::Librdkafka];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sluice => "Sluice",
            Self::Bento => Kind::Bento.name(),
            Self::Librdkafka => "librdkafka alone",
        }
    }

    /// Publishes for a while to a topic of its own: as fast as it can, or at `rate`.
    pub fn run(self, stage: &Stage, scale: &Scale, rate: Option<u64>) -> Result<Values> {
        let (warm, measured) = (scale.warm.as_millis() as u64, scale.measured.as_millis() as u64);
        let load = Load { in_flight: IN_FLIGHT, bytes: BYTES, warm, measured, rate };
        let topic = stage.topic("publish");
        let published = match self {
            Self::Sluice => {
                let server = Server::start(&stage.binary, &stage.kafka(&topic), Wire::Sse)?;
                publish::http(server.pids()?, &server.publication(), &load)?
            }
            Self::Bento => {
                let bento = Bento::start(&stage.cluster().bootstrap(), &topic)?;
                publish::http(bento.pids()?, &bento.publication(), &load)?
            }
            Self::Librdkafka => return Ok(alone(stage.cluster(), &topic, &load)?.values()),
        };
        let held = held(stage.cluster(), &topic)?;
        let acknowledged = published.acknowledged;
        ensure!(held == acknowledged, "{acknowledged} publishes were acknowledged, {held} are there");
        Ok(published.values())
    }
}

/// Half of what the weaker of those that speak HTTP reached.
pub fn half(report: &Report, table: &str) -> Option<u64> {
    let http = Publisher::ALL.iter().filter(|it| **it != Publisher::Librdkafka);
    let reached = http.filter_map(|it| report.row(table, it.name())?.median(REQUESTS));
    reached.min_by(f64::total_cmp).map(|most| (most / 2.0) as u64)
}

/// A process of its own on the server's core.
fn alone(cluster: &Cluster, topic: &str, load: &Load) -> Result<Published> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args(["produce", "--brokers", &cluster.bootstrap(), "--topic", topic]);
    command.args(["--in-flight", &load.in_flight.to_string(), "--bytes", &load.bytes.to_string()]);
    command.args(["--warm", &load.warm.to_string(), "--measured", &load.measured.to_string()]);
    command.args(load.rate.iter().flat_map(|rate| ["--rate".to_owned(), rate.to_string()]));
    on_server_cpu(&mut command);
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Messages in the only partition of `topic`.
fn held(cluster: &Cluster, topic: &str) -> Result<u64> {
    let mut config = cluster.client();
    let consumer: BaseConsumer = config.set("group.id", "bench").create()?;
    let (low, high) = consumer.fetch_watermarks(topic, 0, PATIENCE)?;
    Ok(u64::try_from(high - low)?)
}
