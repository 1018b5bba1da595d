//! `sluice run`: loads files, serves them, follows their changes.
//!
//! One thread reloads: [`watch`] says which files changed, [`load`] makes a whole `Loaded` of all
//! files, and a watch channel hands it to the data plane, which knows nothing of files.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use sluice_config::Span;
use sluice_dataplane::{Options, ServeError, Server};
use tokio::sync::watch as channel;

use crate::{Failure, logging};

mod changes;
mod load;
mod state;
mod tell;
mod tls;
mod watch;

use load::Loader;
use state::State;
use tell::{Addresses, Voice};

const EXAMPLES: &str = "\
Examples:
  sluice run -f examples/orders.yaml
  sluice run -f apis/ -f secrets.yaml --listen 0.0.0.0:8080 --host sluice.example
  sluice run -f apis/ --listen-tls 127.0.0.1:8443 --tls-secret default/tls

The files are watched: what is written there is served a moment later, and clients of what did not
change stay connected. SLUICE_LOG=debug says more.";

/// Flags of `sluice run`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Files or directories (*.yaml, *.yml, *.json) of StreamAPIs, StreamPolicies and Secrets
    #[arg(short, long = "file", value_name = "FILE|DIR", required = true, num_args = 1..)]
    files: Vec<PathBuf>,
    /// Where clients connect
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where clients connect with TLS
    #[arg(long, value_name = "ADDRESS", requires = "tls_secret")]
    listen_tls: Option<SocketAddr>,
    /// The kubernetes.io/tls Secret of --listen-tls, among the same files
    #[arg(long, value_name = "NAMESPACE/NAME", requires = "listen_tls", value_parser = ObjectName::parse)]
    tls_secret: Option<ObjectName>,
    /// Where health, metrics and the config in force are
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    admin: SocketAddr,
    /// Further names that clients may use in `Host`; loopback names and the listen address always may
    #[arg(long = "host", value_name = "NAME", num_args = 1..)]
    hosts: Vec<String>,
    /// Where keys are kept that outlive the process [default: $XDG_STATE_HOME/sluice or ~/.local/state/sluice]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Namespace of objects that name none
    #[arg(long, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,
    /// How long to accept connections after being told to stop
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = drain_span)]
    drain_delay: Span,
    /// Over how long clients are sent away after that
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = drain_span)]
    drain_grace: Span,
    /// Sends metrics and traces there (OTLP over HTTP), like http://127.0.0.1:4318
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
    /// Sends metrics there (StatsD over UDP, labels as tags), like 127.0.0.1:8125
    #[arg(long, value_name = "HOST:PORT", env = "SLUICE_STATSD")]
    statsd: Option<String>,
}

/// Namespace and name of an object.
#[derive(Clone, Debug)]
pub struct ObjectName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectName {
    /// Parses `NAMESPACE/NAME`.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.into(), name: name.into() })
            }
            _ => Err("write NAMESPACE/NAME, like default/shop".into()),
        }
    }
}

/// What the data plane runs on.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    // Two at least: a blocked one must not stop the other.
    tokio::runtime::Builder::new_multi_thread().worker_threads(cores.max(2)).enable_all().build()
}

/// Parses how long a part of a drain may take.
pub fn drain_span(text: &str) -> Result<Span, String> {
    let span: Span = text.parse().map_err(|error| format!("{error}"))?;
    if span <= Span::seconds(3600) { Ok(span) } else { Err("at most 1h".into()) }
}

/// Serves until told to stop.
pub fn run(args: Args) -> Result<(), Failure> {
    let voice = Voice::of(logging::start());
    let state = State::open(args.state.clone())?;
    // Watched before they are read: what changes in between is read again.
    let watch = watch::Watch::start(&args.files)?;
    let mut loader = Loader::new(args.files.clone(), args.namespace.clone(), state, args.tls_secret.clone());
    let first = loader.start();
    voice.problems(&first.problems);
    if !first.usable {
        voice.not_started();
        return Err(Failure::Input);
    }
    let (send, receive) = channel::channel(Arc::clone(&first.loaded));
    let runtime = runtime()?;
    let server = runtime.block_on(Server::bind(args.options()))?;
    let addresses = Addresses { plain: server.address, tls: server.tls_address, admin: server.admin_address };
    voice.listening(&addresses);
    voice.changes(&first, &addresses);
    let reloading = watch.follow(move |changed| {
        let Some(update) = loader.reload(changed) else { return };
        // Nobody receives any more when the server is about to end.
        let _ = send.send(Arc::clone(&update.loaded));
        voice.problems(&update.problems);
        voice.changes(&update, &addresses);
    })?;
    let served = runtime.block_on(server.run(receive));
    reloading.stop();
    served.map_err(|error| match error {
        ServeError::Certificate(_) => {
            voice.failed(&error);
            Failure::Input
        }
        ServeError::Bind { .. } => error.into(),
    })
}

impl Args {
    fn options(&self) -> Options {
        let mut hosts: Vec<String> = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned).into();
        let listen =
            [Some(self.listen), self.listen_tls].into_iter().flatten().map(|address| host_of(address.ip()));
        for host in listen.chain(self.hosts.iter().cloned()) {
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        Options {
            listen: self.listen,
            listen_tls: self.listen_tls,
            admin: self.admin,
            hosts,
            console: true,
            drain_delay: self.drain_delay.0,
            drain_grace: self.drain_grace.0,
            otlp_endpoint: self.otlp_endpoint.clone().filter(|endpoint| !endpoint.is_empty()),
            statsd: self.statsd.clone().filter(|address| !address.is_empty()),
        }
    }
}

/// The address as it stands in a URL.
fn host_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// An address that can be connected to: where everything is listened on, the loopback one.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
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

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Cli::try_parse_from(format!("run {line}").split(' ')).map(|cli| cli.args)
    }

    #[test]
    fn hosts_are_loopback_names_the_listen_addresses_and_what_is_named() {
        let hosts = |line: &str| parse(line).expect(line).options().hosts;
        let loopback = ["localhost", "127.0.0.1", "[::1]"];
        assert_eq!(hosts("-f a.yaml"), loopback);
        let more = hosts(
            "-f a.yaml --listen 10.0.0.1:80 --listen-tls [fd00::1]:443 --tls-secret a/b --host x y --host z",
        );
        assert_eq!(more[..3], loopback);
        assert_eq!(more[3..], ["10.0.0.1", "[fd00::1]", "x", "y", "z"]);
    }

    #[test]
    fn defaults_are_those_of_a_laptop() {
        let options = parse("-f a.yaml b.yaml").expect("a line").options();
        assert_eq!(options.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(options.admin.to_string(), "127.0.0.1:9090");
        assert_eq!((options.drain_delay.as_secs(), options.drain_grace.as_secs()), (0, 10));
        assert!(options.console && options.listen_tls.is_none());
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "",
            "-f a --listen 8080",
            "-f a --listen-tls 127.0.0.1:1",
            "-f a --tls-secret a/b",
            "-f a --listen-tls 127.0.0.1:1 --tls-secret b",
            "-f a --drain-grace 10",
            "-f a --drain-grace 2h",
            "-f a --render",
        ] {
            assert!(parse(line.trim()).is_err(), "{line}");
        }
    }
}
