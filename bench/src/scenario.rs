//! What is measured, as data, and one repeat of each.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::{Value, json};
use sluice_tests::documents::Channel;
use sluice_tests::kafka::Listener;
use sluice_tests::process;
use sluice_tests::{Api, Cluster, Documents};
use tokio::runtime::Runtime;

use crate::floor;
use crate::histogram::Histogram;
use crate::http::Http;
use crate::load::{Clients, Received, Window};
use crate::measure::{on_server_cpu, resident_bytes};
use crate::publish::{self, Load, Published};
use crate::report::Report;
use crate::server::{self, Server};
use crate::wire::Wire;

/// How long anything may go without progress.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a message that is fanned out.
const MESSAGE_BYTES: usize = 200;

/// How much of everything.
#[derive(Clone, Debug)]
pub struct Scale {
    /// Clients of a fan-out.
    pub clients: usize,
    /// Idle clients.
    pub idle: usize,
    /// Unmeasured and measured time of a run.
    pub warm: Duration,
    /// See `warm`.
    pub measured: Duration,
    /// Changes of the file.
    pub changes: usize,
}

/// Messages from Kafka to many clients.
struct Fanout {
    wire: Wire,
    rate: u64,
    cpu_aim: &'static str,
    p99_aim: &'static str,
}

const FANOUTS: [Fanout; 4] = [
    Fanout { wire: Wire::WebSocket, rate: 100, cpu_aim: "≤ 10", p99_aim: "" },
    Fanout { wire: Wire::WebSocket, rate: 20, cpu_aim: "≤ 10", p99_aim: "≤ 20" },
    Fanout { wire: Wire::Sse, rate: 100, cpu_aim: "≤ 10", p99_aim: "" },
    Fanout { wire: Wire::Sse, rate: 20, cpu_aim: "≤ 10", p99_aim: "≤ 20" },
];

/// Names of the scenarios, in order.
pub const NAMES: [&str; 5] = ["fanout", "publish", "idle", "change", "start"];

/// What all scenarios need.
pub struct Bench {
    /// How much of everything.
    pub scale: Scale,
    /// The binary under test.
    pub binary: PathBuf,
    /// A broker, on the load's core.
    pub cluster: Cluster,
    /// For the harness, which is asynchronous.
    pub runtime: Runtime,
}

impl Bench {
    /// One repeat of the scenario `name`.
    pub fn run(&self, name: &str, report: &mut Report) -> Result<()> {
        match name {
            "fanout" => FANOUTS.iter().try_for_each(|fanout| self.fanout(fanout, report)),
            "publish" => self.publish(report),
            "idle" => self.idle(report),
            "change" => self.change(report),
            "start" => self.start(report),
            other => anyhow::bail!("no scenario is called {other}; there are {}", NAMES.join(", ")),
        }
    }

    fn fanout(&self, fanout: &Fanout, report: &mut Report) -> Result<()> {
        let Fanout { wire, rate, .. } = *fanout;
        let scale = &self.scale;
        let what = format!(
            "Kafka → {} {} clients, {MESSAGE_BYTES} B at {rate}/s",
            thousands(scale.clients),
            wire.name()
        );
        let window = Window { warm: scale.warm, measured: scale.measured, rate };
        let ours = self.fanout_sluice(wire, window).with_context(|| what.clone())?;
        let floor = self.fanout_floor(wire, window, &ours).with_context(|| format!("floor of: {what}"))?;
        let cpu = |it: &Received| it.cpu_micros as f64 / it.deliveries as f64;
        let beside = |value| Some(("floor", value));
        report.add(&what, "CPU µs per delivery", fanout.cpu_aim, cpu(&ours), beside(cpu(&floor)));
        for (quantile, unit, aim) in [(0.5, "ms, p50", ""), (0.99, "ms, p99", fanout.p99_aim)] {
            let of = |it: &Received| it.latency.quantile_ms(quantile);
            report.add(&what, unit, aim, of(&ours), beside(of(&floor)));
        }
        Ok(())
    }

    fn fanout_sluice(&self, wire: Wire, window: Window) -> Result<Received> {
        let topic = self.runtime.block_on(self.cluster.topic("fanout", 1));
        let server = Server::start(&self.binary, &self.documents(&topic))?;
        let mut clients = Clients::open(server.port, "/bench/messages", wire, self.scale.clients)?;
        let feed = crate::feed::start(&self.cluster.bootstrap(), &topic, window, MESSAGE_BYTES);
        let received = clients.receive(server.pid(), window);
        let fed = feed.join().expect("the feed does not panic");
        fed.context("the feed failed").and(received)
    }

    /// The floor writes as many bytes per message as Sluice did.
    fn fanout_floor(&self, wire: Wire, window: Window, ours: &Received) -> Result<Received> {
        let options = floor::Options {
            port: process::port(),
            sse: wire == Wire::Sse,
            clients: self.scale.clients,
            rate: window.rate,
            messages: window.messages(),
            bytes: MESSAGE_BYTES,
            frame_bytes: ours.frame_bytes as usize,
        };
        let floor = server::floor(&options)?;
        Clients::open(options.port, "/", wire, options.clients)?.receive(floor.pid(), window)
    }

    fn publish(&self, report: &mut Report) -> Result<()> {
        let (warm, seconds) = (self.scale.warm.as_secs(), self.scale.measured.as_secs());
        let load = Load { in_flight: 64, bytes: 1024, warm, seconds };
        let what = "POST → Kafka acknowledged, 64 connections, 1 KiB";
        let topic = self.runtime.block_on(self.cluster.topic("publish", 1));
        let server = Server::start(&self.binary, &self.documents(&topic))?;
        let ours = publish::http(server.pid(), server.port, "/bench/messages", &load).context(what)?;
        drop(server);
        let held = self.held(&topic)?;
        ensure!(
            held == ours.acknowledged,
            "{} publishes were acknowledged, {held} are there",
            ours.acknowledged
        );
        let alone = self.librdkafka(&load).context("librdkafka alone")?;
        for (unit, of) in [
            ("requests/s", (|it| it.per_second) as fn(&Published) -> f64),
            ("CPU µs each", |it| it.cpu_micros),
            ("ms, p50", |it| it.p50_ms),
            ("ms, p99", |it| it.p99_ms),
        ] {
            report.add(what, unit, "", of(&ours), Some(("librdkafka alone, 64 in flight", of(&alone))));
        }
        Ok(())
    }

    fn librdkafka(&self, load: &Load) -> Result<Published> {
        let topic = self.runtime.block_on(self.cluster.topic("alone", 1));
        let mut command = std::process::Command::new(std::env::current_exe()?);
        command.args(["produce", "--brokers", &self.cluster.bootstrap(), "--topic", &topic]);
        command.args(["--in-flight", &load.in_flight.to_string(), "--bytes", &load.bytes.to_string()]);
        command.args(["--warm", &load.warm.to_string(), "--seconds", &load.seconds.to_string()]);
        on_server_cpu(&mut command);
        let output = command.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Messages in the only partition of `topic`.
    fn held(&self, topic: &str) -> Result<u64> {
        let mut config = self.cluster.client();
        let consumer: BaseConsumer = config.set("group.id", "bench").create()?;
        let (low, high) = consumer.fetch_watermarks(topic, 0, PATIENCE)?;
        Ok(u64::try_from(high - low)?)
    }

    fn idle(&self, report: &mut Report) -> Result<()> {
        let documents =
            Documents::new().api(Api::new("bench").memory().channel(channel("messages", "messages")));
        let server = Server::start(&self.binary, &documents)?;
        std::thread::sleep(self.scale.warm);
        let before = resident_bytes(server.pid())?;
        report.add("resident, idle", "MiB", "≤ 20", before as f64 / (1024.0 * 1024.0), None);
        let clients = Clients::open(server.port, "/bench/messages", Wire::WebSocket, self.scale.idle)?;
        std::thread::sleep(self.scale.warm);
        let each = (resident_bytes(server.pid())? - before) as f64 / self.scale.idle as f64;
        let what = format!("resident per idle WebSocket client, of {}", thousands(self.scale.idle));
        report.add(&what, "KiB", "≤ 6", each / 1024.0, None);
        drop(clients);
        Ok(())
    }

    fn change(&self, report: &mut Report) -> Result<()> {
        let documents = |name: &str| {
            let api = Api::new("bench").memory().channel(channel("messages", "messages"));
            Documents::new().api(api.channel(channel(name, name)))
        };
        let server = Server::start(&self.binary, &documents("change"))?;
        let mut client = Http::connect(server.port)?;
        let mut served = Histogram::default();
        for change in 0..self.scale.changes {
            let name = format!("change-{change}");
            let path = format!("/bench/{name}");
            ensure!(client.get(&path)?.0 == 404, "{path} is served before it is there");
            let begun = Instant::now();
            server.change(&documents(&name))?;
            // What is there answers 406: it has no JSON to poll.
            while client.get(&path)?.0 == 404 {
                ensure!(begun.elapsed() < PATIENCE, "{path} is not served after {PATIENCE:?}");
            }
            served.record(begun.elapsed().as_micros() as u64);
        }
        let what = format!("file change → served, {} changes", self.scale.changes);
        report.add(&what, "ms, p50", "", served.quantile_ms(0.5), None);
        report.add(&what, "ms, p99", "≤ 20", served.quantile_ms(0.99), None);
        Ok(())
    }

    fn start(&self, report: &mut Report) -> Result<()> {
        let orders = Channel::new("messages", "messages").subscribe();
        let api = Api::new("bench").generator(100, 1).channel(orders);
        let begun = Instant::now();
        let mut server = Server::launch(&self.binary, &Documents::new().api(api))?;
        while let Err(error) = first_message(server.port) {
            server.check()?;
            ensure!(begun.elapsed() < PATIENCE, "no message after {PATIENCE:?}: {error}");
            std::thread::sleep(Duration::from_millis(1));
        }
        let took = begun.elapsed().as_secs_f64() * 1000.0;
        report.add("cold start → first message of a generator at 100/s, by SSE", "ms", "≤ 300", took, None);
        Ok(())
    }

    fn documents(&self, topic: &str) -> Documents {
        let server = json!({"kafka": {"brokers": self.cluster.brokers(Listener::Plaintext)}});
        Documents::new().api(Api::new("bench").server("events", server).channel(channel("messages", topic)))
    }
}

fn channel(name: &str, address: &str) -> Channel {
    let publish: Value = json!({"transports": {"http": {}}});
    Channel::new(name, address).content_type("text/plain").subscribe().set("/publish", publish)
}

fn thousands(count: usize) -> String {
    if count < 1000 { count.to_string() } else { format!("{},{:03}", count / 1000, count % 1000) }
}

/// Connects, subscribes and waits for the first message.
fn first_message(port: u16) -> Result<()> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(Wire::Sse.request("/bench/messages").as_bytes())?;
    let (mut decoder, mut buffer, mut seen) = (crate::wire::Decoder::new(Wire::Sse), [0; 8192], false);
    while !seen {
        let length = stream.read(&mut buffer)?;
        ensure!(length > 0, "closed");
        decoder
            .take(&buffer[..length], &mut |event| seen |= matches!(event, crate::wire::Event::Message(_)))?;
    }
    Ok(())
}
