//! `make bench`: measures Sluice, and beside it in the same run what it cannot beat: a floor that
//! only writes the bytes, and librdkafka alone. The table goes to stdout, the values to a file.
//!
//! The system under test has the first core to itself; load and broker share the second.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use sluice_tests::Cluster;

use crate::measure::{LOAD_CPU, Machine, now_nanos, pin};
use crate::report::Report;
use crate::scenario::{Bench, NAMES, Scale};

mod epoll;
mod feed;
mod floor;
mod histogram;
mod http;
mod load;
mod measure;
mod peer;
mod publish;
mod report;
mod scenario;
mod server;
mod system;
mod wire;

/// No repeat begins that would end after this.
const BOUND: Duration = Duration::from_secs(12 * 60);

/// Measures Sluice on this machine.
#[derive(Parser)]
#[command(after_help = "Example: make bench, or sluice-bench --quick --only fanout,publish")]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// A smoke test: one repeat of little.
    #[arg(long)]
    quick: bool,
    /// Repeats of everything.
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Only these scenarios: fanout, publish, idle, change, start.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where the values go [default: bench.json in SLUICE_CACHE].
    #[arg(long)]
    json: Option<PathBuf>,
    /// A page that gets the table between its markers.
    #[arg(long)]
    write: Option<PathBuf>,
}

/// Processes of their own, started by the bench itself.
#[derive(Subcommand)]
enum Part {
    /// Serves the floor.
    #[command(hide = true)]
    Floor(floor::Options),
    /// Produces by librdkafka alone.
    #[command(hide = true)]
    Produce {
        #[arg(long)]
        brokers: String,
        #[arg(long)]
        topic: String,
        #[command(flatten)]
        load: publish::Load,
    },
    /// Starts every peer and checks that it delivers.
    #[command(hide = true)]
    Peers,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.part {
        Some(Part::Floor(options)) => floor::run(options),
        Some(Part::Produce { brokers, topic, load }) => {
            println!("{}", serde_json::to_string(&publish::librdkafka(brokers, topic, load)?)?);
            Ok(())
        }
        Some(Part::Peers) => peer::check::all(),
        None => measure(&arguments),
    }
}

fn measure(arguments: &Arguments) -> Result<()> {
    let names: Vec<&str> = match arguments.only.as_slice() {
        [] => NAMES.to_vec(),
        only => only.iter().map(String::as_str).collect(),
    };
    pin(LOAD_CPU);
    let (begun, machine) = (Instant::now(), Machine::here());
    let bench = bench(arguments.quick)?;
    let mut report = Report {
        machine,
        versions: versions(&bench)?,
        command: command(),
        started: now_nanos() / 1_000_000_000,
        rows: Vec::new(),
        void: Vec::new(),
    };
    for repeat in 1..=if arguments.quick { 1 } else { arguments.repeats } {
        let repeat_begun = Instant::now();
        for name in &names {
            let scenario_begun = Instant::now();
            if let Err(error) = bench.run(name, &mut report) {
                report.void.push(format!("repeat {repeat}: {error:#}"));
                eprintln!("{name} is void: {error:#}");
            }
            eprintln!("repeat {repeat}: {name}, {:.1} s", scenario_begun.elapsed().as_secs_f64());
        }
        if begun.elapsed() + repeat_begun.elapsed() > BOUND {
            eprintln!("{repeat} repeats; another would end after {BOUND:?}");
            break;
        }
    }
    drop(bench);
    finish(arguments, &report)
}

fn bench(quick: bool) -> Result<Bench> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cluster = runtime.block_on(Cluster::start(1));
    let seconds = Duration::from_secs;
    let scale = if quick {
        Scale { clients: 100, idle: 500, warm: seconds(1), measured: seconds(1), changes: 10 }
    } else {
        Scale { clients: 1000, idle: 10_000, warm: seconds(1), measured: seconds(5), changes: 100 }
    };
    Ok(Bench { scale, binary: server::binary()?, cluster, runtime })
}

fn versions(bench: &Bench) -> Result<Vec<String>> {
    let output = std::process::Command::new(&bench.binary).arg("--version").output()?;
    let librdkafka = rdkafka::util::get_rdkafka_version().1;
    Ok(vec![
        String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        format!("librdkafka {librdkafka}"),
        "one Apache Kafka node, acks=all, idempotent".into(),
    ])
}

/// The command that repeats this run.
fn command() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.is_empty() {
        "make bench".into()
    } else {
        format!("make bench ARGS=\"{}\"", arguments.join(" "))
    }
}

fn finish(arguments: &Arguments, report: &Report) -> Result<()> {
    let cache = || {
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/sluice"));
        std::env::var_os("SLUICE_CACHE").map(PathBuf::from).or_else(home)
    };
    let json = arguments.json.clone().or_else(|| Some(cache()?.join("bench.json")));
    let json = json.context("neither --json nor SLUICE_CACHE nor HOME say where the values go")?;
    std::fs::write(&json, serde_json::to_string_pretty(report)?)?;
    println!("{}", report.markdown());
    eprintln!("all values: {}", json.display());
    if !report.void.is_empty() {
        bail!("{} runs are void", report.void.len());
    }
    match &arguments.write {
        Some(page) => report.write(page),
        None => Ok(()),
    }
}
