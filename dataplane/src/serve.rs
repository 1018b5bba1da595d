//! Puts the data plane together: binds, serves, drains.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Shown};
use crate::config::Loaded;
use crate::engine::Engine;
use crate::gateway::Gateway;
use crate::listener::{Listener, TlsConfig};
use crate::runtime::Runtime;
use crate::telemetry::statsd::Statsd;
use crate::telemetry::trace::Tracing;
use crate::telemetry::{Metrics, otlp};
use crate::tenant::Commons;
use crate::tls;

/// How a data plane runs. What it serves comes as [`Loaded`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Plain HTTP listener.
    pub listen: SocketAddr,
    /// HTTPS listener; its certificate is [`Loaded::tls`].
    pub listen_tls: Option<SocketAddr>,
    /// Admin listener.
    pub admin: SocketAddr,
    /// `Host` names to take, without port. Empty: any (a pod behind a Service).
    pub hosts: Vec<String>,
    /// Serves the console at `/-/` and redirects `/` there.
    pub console: bool,
    /// How long listeners accept after readiness went off.
    pub drain_delay: Duration,
    /// Over how long reconnects are spread, and the most a drain takes after the delay.
    pub drain_grace: Duration,
    /// OTLP/HTTP endpoint for metrics and traces, like `http://127.0.0.1:4318`.
    pub otlp_endpoint: Option<String>,
    /// StatsD server for metrics, like `127.0.0.1:8125`.
    pub statsd: Option<String>,
}

/// Why a data plane could not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A listener's address is taken or not ours.
    #[error("cannot listen on {address}; choose another address or stop what listens there")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The HTTPS listener's certificate or key cannot be used.
    #[error("the certificate of the HTTPS listener cannot be used: {0}")]
    Certificate(String),
}

/// How long a sweep over feeds and gauges may wait.
const SWEEP: Duration = Duration::from_secs(1);
/// How long a drain may take after SIGINT: somebody waits at a terminal.
const INTERRUPT_GRACE: Duration = Duration::from_millis(900);
/// How long the exporter of metrics and traces may take at the end.
const EXPORT_PATIENCE: Duration = Duration::from_secs(3);
/// How long what was published may take to be acknowledged once nobody waits for it any more.
const FLUSH_PATIENCE: Duration = Duration::from_secs(5);
const FLUSH_AT_LEAST: Duration = Duration::from_millis(200);
/// Share of the memory limit that request bodies may hold.
const BODY_SHARE: f64 = 0.1;
/// Share of the memory limit that rings may hold.
const RING_SHARE: f64 = 0.4;

/// A bound data plane.
pub struct Server {
    /// Where plain HTTP listens (the port is known even if 0 was asked for).
    pub address: SocketAddr,
    /// Where HTTPS listens.
    pub tls_address: Option<SocketAddr>,
    /// Where the admin port listens.
    pub admin_address: SocketAddr,
    options: Options,
    http: TcpListener,
    https: Option<TcpListener>,
    admin: TcpListener,
    started: Instant,
}

impl Server {
    /// Opens the listeners; nothing is accepted before [`Server::run`].
    pub async fn bind(options: Options) -> Result<Self, ServeError> {
        let started = Instant::now();
        let (http, address) = bind(options.listen)?;
        let (admin, admin_address) = bind(options.admin)?;
        let (https, tls_address) = match options.listen_tls.map(bind).transpose()? {
            Some((socket, address)) => (Some(socket), Some(address)),
            None => (None, None),
        };
        Ok(Self { address, tls_address, admin_address, options, http, https, admin, started })
    }

    /// Serves what `loaded` holds and follows its changes, until SIGTERM or SIGINT; then drains.
    pub async fn run(self, mut loaded: watch::Receiver<Arc<Loaded>>) -> Result<(), ServeError> {
        let Self { options, http, https, admin, started, .. } = self;
        let mut signals = Signals::new();
        let metrics = Metrics::new();
        let export = Export::start(&options, &metrics);
        let shards = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let engine = Engine::start(shards, &Handle::current()).expect("the system can start threads");
        let memory = memory_limit() as f64;
        let commons = Commons::new((memory * RING_SHARE) as usize, (memory * BODY_SHARE) as usize);
        metrics.ring_budget_bytes.set(i64::try_from(commons.rings.limit()).unwrap_or(i64::MAX));
        let leaving = Arc::new(AtomicBool::new(false));
        let gateway = Arc::new(Gateway {
            routes: Default::default(),
            apis: Default::default(),
            asked: Default::default(),
            catalog: Default::default(),
            engine: engine.clone(),
            metrics: metrics.clone(),
            hosts: options.hosts.clone(),
            console: options.console,
            leaving: leaving.clone(),
            draining: CancellationToken::new(),
        });
        let shown = Arc::new(Shown {
            open: AtomicBool::new(false),
            loaded: AtomicBool::new(false),
            draining: leaving,
            applied: Default::default(),
            servers: Default::default(),
            metrics: metrics.clone(),
        });
        let mut runtime = Runtime::new(gateway.clone(), export.tracing.clone(), commons);
        let certificate: TlsConfig = Default::default();
        let first = loaded.borrow_and_update().clone();
        if let (Some(_), Err(reason)) = (&https, take_certificate(&first, &certificate)) {
            return Err(ServeError::Certificate(reason));
        }
        apply(&mut runtime, &first, &shown);
        shown.open.store(true, Ordering::SeqCst);

        let graceful = Arc::new(GracefulShutdown::new());
        let mut tasks = JoinSet::new();
        let listener = Listener { socket: http, tls: None, gateway: gateway.clone() };
        tasks.spawn(listener.run(graceful.clone()));
        if let Some(socket) = https {
            let listener = Listener { socket, tls: Some(certificate.clone()), gateway: gateway.clone() };
            tasks.spawn(listener.run(graceful.clone()));
        }
        let admin = tokio::spawn(
            axum::serve(admin, admin::routes(shown.clone(), options.hosts.clone())).into_future(),
        );
        metrics.start_seconds.set(started.elapsed().as_secs_f64());

        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (spread, grace) = loop {
            tokio::select! {
                changed = loaded.changed() => {
                    if changed.is_err() {
                        break (options.drain_grace / 2, options.drain_grace);
                    }
                    let next = loaded.borrow_and_update().clone();
                    if let Err(reason) = take_certificate(&next, &certificate) {
                        tracing::warn!(%reason, "the certificate was refused; the last good one keeps serving");
                    }
                    apply(&mut runtime, &next, &shown);
                }
                _ = sweep.tick() => runtime.sweep(),
                interrupted = signals.next() => {
                    let grace = if interrupted { INTERRUPT_GRACE.min(options.drain_grace) } else { options.drain_grace };
                    break (grace / 2, grace);
                }
            }
        };
        let drain = drain(&options, (spread, grace), &shown, &gateway, tasks, graceful, &runtime);
        tokio::select! {
            () = drain => {}
            () = signals.interrupted() => tracing::warn!("interrupted again: exiting without finishing the drain"),
        }
        admin.abort();
        export.shutdown().await;
        Ok(())
    }
}

/// Readiness goes off at once. For the propagation delay listeners accept and connections that are
/// kept alive end with their next answer. Then every client is told to go and pending publishes are
/// answered.
async fn drain(
    options: &Options,
    (spread, grace): (Duration, Duration),
    shown: &Shown,
    gateway: &Gateway,
    mut listeners: JoinSet<()>,
    graceful: Arc<GracefulShutdown>,
    runtime: &Runtime,
) {
    tracing::info!(streams = gateway.engine.open(), "draining");
    shown.draining.store(true, Ordering::SeqCst);
    tokio::time::sleep(options.drain_delay).await;
    gateway.draining.cancel();
    listeners.shutdown().await;
    let streams = gateway.engine.drain(spread);
    // The listeners' clones are gone with their tasks.
    let requests = async {
        if let Ok(graceful) = Arc::try_unwrap(graceful) {
            graceful.shutdown().await;
        }
    };
    let both = async { tokio::join!(streams, requests) };
    let deadline = Instant::now() + grace;
    if tokio::time::timeout(grace, both).await.is_err() {
        tracing::warn!(streams = gateway.engine.open(), "the drain took longer than its grace period");
    }
    let left = deadline.saturating_duration_since(Instant::now());
    runtime.close(left.clamp(FLUSH_AT_LEAST, FLUSH_PATIENCE)).await;
    tracing::info!("drained");
}

fn apply(runtime: &mut Runtime, loaded: &Loaded, shown: &Shown) {
    let (applied, servers) = runtime.apply(loaded);
    tracing::info!(
        sequence = applied.sequence,
        apis = applied.apis.len(),
        refused = applied.refused.len(),
        "config applied"
    );
    if !applied.apis.is_empty() {
        shown.loaded.store(true, Ordering::SeqCst);
    }
    shown.applied.store(Arc::new(applied));
    shown.servers.store(Arc::new(servers));
    runtime.sweep();
}

fn take_certificate(loaded: &Loaded, certificate: &TlsConfig) -> Result<(), String> {
    if let Some(material) = &loaded.tls {
        certificate.store(Arc::new(Some(tls::server_config(material)?)));
    }
    Ok(())
}

fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let open = || {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        // Thousands of clients come back at once after a restart.
        socket.listen(4096)?;
        let socket = TcpListener::from_std(socket.into())?;
        let address = socket.local_addr()?;
        Ok((socket, address))
    };
    open().map_err(|source| ServeError::Bind { address, source })
}

/// The memory this process may use: its cgroup's limit, else the machine's.
fn memory_limit() -> u64 {
    // Version 2, then version 1; without a limit version 1 gives a number beyond all memory.
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let cgroup =
        limits.iter().find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    let machine = || {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()? * 1024)
    };
    [cgroup, machine()].into_iter().flatten().min().unwrap_or(1 << 30)
}

/// Export of metrics and traces, if it was asked for.
struct Export {
    tracing: Tracing,
    exporter: Option<otlp::Exporter>,
    statsd: Option<Statsd>,
}

impl Export {
    /// An endpoint that cannot be used is reported; it stops nothing.
    fn start(options: &Options, metrics: &Metrics) -> Self {
        let statsd = options.statsd.as_ref().and_then(|address| {
            let told = |reason: String| tracing::warn!(%reason, "StatsD is off");
            Statsd::start(address, metrics.registry.clone()).map_err(told).ok()
        });
        let Some(endpoint) = &options.otlp_endpoint else {
            return Self { tracing: Tracing::Off, exporter: None, statsd };
        };
        let told = |reason: String| tracing::warn!(%reason, "OTLP export is off");
        let exporter = otlp::Exporter::start(endpoint, metrics.registry.clone(), otlp::resource());
        let tracing = Tracing::start(endpoint, &metrics.registry, otlp::resource());
        let tracing = tracing.map_err(told).unwrap_or_default();
        Self { exporter: exporter.map_err(told).ok(), tracing, statsd }
    }

    async fn shutdown(self) {
        let Self { tracing, exporter, statsd } = self;
        let last_metrics = async {
            if let Some(exporter) = exporter {
                exporter.shutdown().await;
            }
        };
        let last_packets = async {
            if let Some(statsd) = statsd {
                statsd.shutdown().await;
            }
        };
        let all = async { tokio::join!(tracing.shutdown(), last_metrics, last_packets) };
        if tokio::time::timeout(EXPORT_PATIENCE, all).await.is_err() {
            tracing::warn!("the last metrics and traces could not be exported in time");
        }
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Self {
        let listen = |kind| signal(kind).expect("signals can be listened to");
        Self { terminate: listen(SignalKind::terminate()), interrupt: listen(SignalKind::interrupt()) }
    }

    /// Whether the next signal is an interrupt from a terminal.
    async fn next(&mut self) -> bool {
        tokio::select! {
            _ = self.terminate.recv() => false,
            _ = self.interrupt.recv() => true,
        }
    }

    async fn interrupted(&mut self) {
        self.interrupt.recv().await;
    }
}
