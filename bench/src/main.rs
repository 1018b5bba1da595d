//! `make bench`: measures Sluice, and beside it in the same run what others make of the same, and
//! what nobody can beat: a floor that only writes the bytes, and librdkafka alone. The tables go to
//! stdout, the values to a file.
//!
//! The system under test has the first core to itself; load and broker share the second.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

use crate::entrant::Stage;
use crate::measure::{LOAD_CPU, Machine, pin};
use crate::report::Report;
use crate::run::Run;
use crate::scenario::{SCENARIOS, Scale, Scenario};

mod aims;
mod broker;
mod change;
mod client;
mod crowd;
mod curve;
mod disturbed;
mod entrant;
mod epoll;
mod fanout;
mod feed;
mod floor;
mod histogram;
mod http;
mod idle;
mod librdkafka;
mod load;
mod measure;
mod neighbours;
mod part;
mod peer;
mod publish;
mod report;
mod run;
mod saturation;
mod scenario;
mod selecting;
mod server;
mod system;
mod wire;

/// Repeats of what is worth most.
const MOST_REPEATS: usize = 5;

/// Measures Sluice on this machine.
#[derive(Parser)]
#[command(after_help = "Example: make bench SCENARIO=a, or sluice-bench --quick a c start")]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// A smoke test: one repeat of little.
    #[arg(long)]
    quick: bool,
    /// No second repeat begins that would end later than so many minutes after the start.
    #[arg(long, default_value_t = 20)]
    minutes: u64,
    /// Only these scenarios; all of them without.
    scenarios: Vec<String>,
    /// Only systems whose names begin so; everybody without.
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
    /// Serves selections by the engine alone.
    #[command(hide = true)]
    Selecting(selecting::Options),
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
        Some(Part::Selecting(options)) => selecting::run(options),
        Some(Part::Produce { brokers, topic, load }) => {
            println!("{}", serde_json::to_string(&librdkafka::publish(brokers, topic, load)?)?);
            Ok(())
        }
        Some(Part::Peers) => peer::check::all(),
        None => measure(&arguments),
    }
}

fn measure(arguments: &Arguments) -> Result<()> {
    let scenarios = chosen(&arguments.scenarios)?;
    pin(LOAD_CPU);
    let (begun, machine, stage) = (Instant::now(), Machine::here(), Stage::new()?);
    let report = Report::new(machine, versions(&stage)?, command());
    let scale = if arguments.quick { Scale::QUICK } else { Scale::FULL };
    let mut run = Run { stage: &stage, scale, only: &arguments.only, report };
    let bound = Duration::from_secs(arguments.minutes * 60);
    let repeats = if arguments.quick { 1 } else { MOST_REPEATS };
    let mut took = vec![Duration::ZERO; scenarios.len()];
    for repeat in 1..=repeats {
        for (scenario, took) in scenarios.iter().zip(&mut took) {
            if repeat > scenario.repeats || (repeat > 1 && begun.elapsed() + *took > bound) {
                continue;
            }
            let scenario_begun = Instant::now();
            run.repeat(scenario);
            *took = scenario_begun.elapsed();
            eprintln!("repeat {repeat} of {}: {:.1} s", scenario.name, took.as_secs_f64());
        }
    }
    run.report.aims = aims::judge(&run.report);
    finish(arguments, &run.report)
}

fn chosen(names: &[String]) -> Result<Vec<&'static Scenario>> {
    if names.is_empty() {
        return Ok(SCENARIOS.iter().collect());
    }
    let found = |name: &String| {
        SCENARIOS.iter().find(|scenario| scenario.name == name).with_context(|| {
            let names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
            format!("no scenario is called {name}; there are {}", names.join(", "))
        })
    };
    names.iter().map(found).collect()
}

fn versions(stage: &Stage) -> Result<Vec<String>> {
    let output = std::process::Command::new(&stage.binary).arg("--version").output()?;
    let librdkafka = rdkafka::util::get_rdkafka_version().1;
    let mut versions = vec![
        String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        format!("librdkafka {librdkafka}"),
        "one Apache Kafka node, acks=all, idempotent".into(),
    ];
    // A peer that is not there says so in its rows.
    let peer = |kind: peer::Kind| Some(format!("{} {}", kind.name(), kind.version().ok()?));
    versions.extend(peer::Kind::ALL.into_iter().filter_map(peer));
    Ok(versions)
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
    if let Some(page) = &arguments.write {
        report.write(page)?;
    }
    let ours = report.tables.iter().flat_map(|table| &table.rows);
    let void: usize = ours.filter(|row| row.system.starts_with("Sluice")).map(|row| row.void.len()).sum();
    ensure!(void == 0, "{void} runs of Sluice are void");
    Ok(())
}
