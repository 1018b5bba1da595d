//! `sluice serve`: the data plane in a pod. What it serves is written by the operator, mounted and
//! watched; nothing here is meant to be typed by a person.

use std::net::SocketAddr;
use std::path::PathBuf;

use sluice_config::Span;
use sluice_dataplane::{Mount, Options, PodSource, Server, Watch};

use crate::run::{ObjectName, drain_span, runtime};
use crate::{Failure, logging};

const EXAMPLES: &str = "\
Example (what the operator puts into a pod):
  sluice serve --config /etc/sluice/config --material /etc/sluice/material \\
    --state /var/lib/sluice --watch default/shop-sluice

To serve files without a cluster there is `sluice run`.";

/// Flags of `sluice serve`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Directory of a mounted ConfigMap; a sidecar has one for each of its APIs
    #[arg(long, value_name = "DIR", required = true)]
    config: Vec<PathBuf>,
    /// Directory of the mounted Secret that belongs to it, in the same order
    #[arg(long, value_name = "DIR", required = true)]
    material: Vec<PathBuf>,
    /// The ConfigMap and the Secret to watch; without it only the mounts are followed, as in a sidecar
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = ObjectName::parse, requires = "state")]
    watch: Option<ObjectName>,
    /// Directory that outlives the container; what was applied last is kept there
    #[arg(long, value_name = "DIR", requires = "watch")]
    state: Option<PathBuf>,
    /// Where clients connect
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Where clients connect with TLS
    #[arg(long, value_name = "ADDRESS")]
    listen_tls: Option<SocketAddr>,
    /// Where health, metrics and the config in force are
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9090")]
    admin: SocketAddr,
    /// How long to accept connections after being told to stop: until every node knows
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = drain_span)]
    drain_delay: Span,
    /// Over how long clients are sent away after that
    #[arg(long, value_name = "DURATION", default_value = "25s", value_parser = drain_span)]
    drain_grace: Span,
    /// Sends metrics and traces there (OTLP over HTTP), like http://collector:4318
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
    /// Sends metrics there (StatsD over UDP, labels as tags), like 127.0.0.1:8125
    #[arg(long, value_name = "HOST:PORT", env = "SLUICE_STATSD")]
    statsd: Option<String>,
}

/// Serves until told to stop.
pub fn serve(args: Args) -> Result<(), Failure> {
    logging::start();
    let options = Options {
        listen: args.listen,
        listen_tls: args.listen_tls,
        admin: args.admin,
        hosts: Vec::new(),
        console: false,
        drain_delay: args.drain_delay.0,
        drain_grace: args.drain_grace.0,
        otlp_endpoint: args.otlp_endpoint.filter(|endpoint| !endpoint.is_empty()),
        statsd: args.statsd.filter(|address| !address.is_empty()),
    };
    let source = source(args.config, args.material, args.watch.zip(args.state))?;
    runtime()?.block_on(async move {
        let server = Server::bind(options).await?;
        let loaded = source.follow().await?;
        server.run(loaded).await?;
        Ok(())
    })
}

fn source(
    configs: Vec<PathBuf>,
    materials: Vec<PathBuf>,
    watch: Option<(ObjectName, PathBuf)>,
) -> anyhow::Result<PodSource> {
    if configs.len() != materials.len() || (watch.is_some() && configs.len() > 1) {
        anyhow::bail!("write one --material for each --config, and only one of each with --watch");
    }
    let mounts = configs.into_iter().zip(materials).map(|(config, material)| Mount { config, material });
    let watch = watch.map(|(object, state)| Watch { namespace: object.namespace, name: object.name, state });
    Ok(PodSource { mounts: mounts.collect(), watch })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(more: &str) -> Result<Args, clap::Error> {
        let line = format!("serve --config /c --material /m {more}");
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.args)
    }

    #[test]
    fn defaults_are_those_of_a_pod() {
        let args = parse("--watch a/shop-sluice --state /s").expect("a line");
        assert_eq!(args.listen.to_string(), "0.0.0.0:8080");
        assert_eq!((args.drain_delay, args.drain_grace), (Span::seconds(5), Span::seconds(25)));
        let watch = args.watch.expect("it is named");
        assert_eq!((watch.namespace.as_str(), watch.name.as_str()), ("a", "shop-sluice"));
    }

    #[test]
    fn wrong_usage_is_refused() {
        for more in
            ["--watch shop --state /s", "--watch a/b/c --state /s", "--watch a/b", "--state /s", "--file x"]
        {
            assert!(parse(more).is_err(), "{more}");
        }
        let built = |more: &str| {
            let args = parse(more).expect("a line");
            source(args.config, args.material, args.watch.zip(args.state)).is_ok()
        };
        assert!(built("--config /d --material /n"), "a sidecar of two APIs");
        assert!(!built("--config /d"), "a Secret is missing");
        assert!(!built("--config /d --material /n --watch a/b --state /s"), "what is to be watched?");
    }
}
