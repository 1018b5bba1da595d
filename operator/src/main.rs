//! The operator's process: waits to lead, watches, reconciles, answers its admin port.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use clap::Parser;
use futures::FutureExt as _;
use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use prometheus::{Encoder as _, TextEncoder};
use sluice_operator::admission::certificate::Keeper;
use sluice_operator::admission::{self, Desk};
use sluice_operator::apply::Writer;
use sluice_operator::children::Settings;
use sluice_operator::control::{self, Context};
use sluice_operator::lease::{Candidate, Leadership};
use sluice_operator::metrics::Metrics;
use sluice_operator::observe::Observer;
use sluice_operator::world::{AllDirty, World};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

/// Turns StreamAPIs and StreamPolicies into running data planes.
#[derive(Parser)]
#[command(name = "sluice-operator", version)]
struct Args {
    /// The only namespace to look after; empty: all of them
    #[arg(long, env = "SLUICE_WATCH_NAMESPACE", default_value = "")]
    watch_namespace: String,
    /// Image of the data plane
    #[arg(long, env = "SLUICE_DATAPLANE_IMAGE")]
    dataplane_image: String,
    /// When the kubelet pulls that image
    #[arg(long, env = "SLUICE_DATAPLANE_PULL_POLICY", default_value = "IfNotPresent",
          value_parser = ["Always", "IfNotPresent", "Never"])]
    dataplane_pull_policy: String,
    /// Where data planes send metrics and traces (OTLP over HTTP)
    #[arg(long, env = "SLUICE_DATAPLANE_OTLP_ENDPOINT", default_value = "")]
    dataplane_otlp_endpoint: String,
    /// Where data planes send metrics as StatsD, host:port
    #[arg(long, env = "SLUICE_DATAPLANE_STATSD", default_value = "")]
    dataplane_statsd: String,
    /// Gives every data plane a NetworkPolicy
    #[arg(long, env = "SLUICE_NETWORK_POLICIES", default_value_t = false, num_args = 0..=1,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    network_policies: bool,
    /// Makes an Ingress where a StreamAPI or StreamGateway has `exposure.ingress`
    #[arg(long, env = "SLUICE_INGRESSES", default_value_t = false, num_args = 0..=1,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    ingresses: bool,
    /// Makes an HTTPRoute where one has `exposure.httpRoute`
    #[arg(long, env = "SLUICE_HTTP_ROUTES", default_value_t = false, num_args = 0..=1,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    http_routes: bool,
    /// Makes a StreamAPI of every Service with the label `sluice.dev/expose: "true"`
    #[arg(long, env = "SLUICE_EXPOSE_SERVICES", default_value_t = false, num_args = 0..=1,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    expose_services: bool,
    /// Where health and metrics are
    #[arg(long, env = "SLUICE_ADMIN", default_value = "0.0.0.0:9090")]
    admin: SocketAddr,
    #[command(flatten)]
    webhook: Webhook,
    /// Name of the Lease that decides which replica leads
    #[arg(long, env = "SLUICE_LEASE", default_value = "sluice-operator")]
    lease: String,
    /// Namespace of this pod and of the Lease
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: String,
    /// Name of this pod
    #[arg(long, env = "POD_NAME")]
    pod: String,
}

/// What is said when an object is applied.
#[derive(clap::Args)]
struct Webhook {
    /// Where the API server asks about objects that are applied; without it, it does not
    #[arg(long = "webhook", env = "SLUICE_WEBHOOK", value_name = "ADDRESS",
          requires_all = ["webhook_configuration", "webhook_secret"])]
    address: Option<SocketAddr>,
    /// Name of the ValidatingWebhookConfiguration that points here, and of the MutatingWebhookConfiguration
    /// if there is one
    #[arg(
        long = "webhook-configuration",
        env = "SLUICE_WEBHOOK_CONFIGURATION",
        value_name = "NAME",
        id = "webhook_configuration"
    )]
    configuration: Option<String>,
    /// Name of the Secret with the webhook's certificate
    #[arg(
        long = "webhook-secret",
        env = "SLUICE_WEBHOOK_SECRET",
        value_name = "NAME",
        id = "webhook_secret"
    )]
    secret: Option<String>,
    /// Whether that MutatingWebhookConfiguration is there, so that pods are given sidecars
    #[arg(long = "webhook-sidecars", env = "SLUICE_WEBHOOK_SIDECARS", default_value_t = false, num_args = 0..=1,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    sidecars: bool,
    /// Names by which the API server reaches the webhook: the certificate is made for them, renewed and trusted.
    /// Without any, somebody else sees to all that (cert-manager)
    #[arg(long = "webhook-names", env = "SLUICE_WEBHOOK_NAMES", value_name = "NAME", value_delimiter = ',')]
    names: Vec<String>,
}

/// Who asks, in the API server's audit log.
const USER_AGENT: &str = concat!("sluice-operator/", env!("CARGO_PKG_VERSION"));

/// What the libraries tell of an outage is told here once, in words.
const FILTER: &str = "warn,sluice_operator=info,kube_client=off,kube_runtime=off";

fn main() -> ExitCode {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.install_default().expect("nothing installed a provider before main");
    let args = Args::parse();
    let filter = EnvFilter::try_from_env("SLUICE_LOG").unwrap_or_else(|_| EnvFilter::new(FILTER));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .json()
        .flatten_event(true)
        .init();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the operator ends");
            ExitCode::from(3)
        }
    }
}

/// How often memory that is free is given back to the system: lists and renderings take much for a moment.
const GIVE_BACK: Duration = Duration::from_secs(30);

/// glibc keeps memory for each thread, and of each gives back the end alone.
#[cfg(target_env = "gnu")]
async fn give_back() {
    loop {
        tokio::time::sleep(GIVE_BACK).await;
        // SAFETY: it takes no pointers and may be called at any time.
        let trimmed = tokio::task::spawn_blocking(|| unsafe { libc::malloc_trim(0) });
        trimmed.await.expect("it does not panic");
    }
}

#[cfg(not(target_env = "gnu"))]
async fn give_back() {}

#[tokio::main]
async fn run(args: Args) -> anyhow::Result<()> {
    let mut config = kube::Config::infer().await.context("cannot tell where the API server is")?;
    config.headers.push((header::USER_AGENT, HeaderValue::from_static(USER_AGENT)));
    let mut without_retries = config.clone();
    without_retries.default_retry = false;
    let client = Client::try_from(config).context("cannot make a client for the API server")?;
    let once = Client::try_from(without_retries).context("cannot make a client for the API server")?;
    tokio::spawn(give_back());
    let metrics = Arc::new(Metrics::new());
    let admin = tokio::net::TcpListener::bind(args.admin)
        .await
        .with_context(|| format!("cannot listen on {}", args.admin))?;
    let stop = stopped().shared();
    let mut candidate = Candidate::new(client.clone(), &args.namespace, args.lease.clone(), args.pod.clone());
    let leadership = candidate.leadership();
    tokio::spawn(axum::serve(admin, routes(metrics.clone(), leadership.clone())).into_future());
    let settings = Arc::new(args.settings());
    let (found, world) = watch::channel(None);
    let observer = Observer::default();
    let desk = Desk {
        world: world.clone(),
        settings: settings.clone(),
        metrics: metrics.clone(),
        observer: observer.clone(),
    };
    let keeper = admit(&args, &client, &leadership, desk).await?;
    let dirty = AllDirty::default();
    let seeing = see(&args, &client, &settings, &dirty, found);
    let observing = observe(world.clone(), observer.clone(), dirty.clone());
    let leading = async {
        candidate.acquire().await;
        tracing::info!("leading");
        metrics.leader.set(1);
        if let Some(keeper) = keeper {
            tokio::spawn(keeper.run());
        }
        let reporter = Reporter { controller: "sluice-operator".into(), instance: Some(args.pod.clone()) };
        let context = |world| Context {
            world,
            settings: Settings::clone(&settings),
            writer: Writer::new(client.clone(), once, leadership.clone()),
            observer: observer.clone(),
            recorder: Recorder::new(client.clone(), reporter.clone()),
            reporter,
            metrics: metrics.clone(),
            last: Default::default(),
            hosts: Default::default(),
            keys: Default::default(),
            dirty: dirty.clone(),
            failures: Default::default(),
            unavailable: Default::default(),
            care: Default::default(),
            told: Default::default(),
        };
        tokio::select! {
            () = reconcile(world, context, stop.clone()) => {}
            () = candidate.keep() => anyhow::bail!("another replica leads now; this one starts again"),
        }
        candidate.release().await;
        Ok(())
    };
    tokio::select! {
        done = leading => done,
        error = seeing => Err(error),
        error = observing => Err(error),
        // Whoever leads ends by itself, and gives the Lease back.
        () = async { stop.clone().await; if leadership.holds() { std::future::pending().await } } => Ok(()),
    }
}

/// Watches the cluster, for whoever leads and for answers at apply; tells why that ended.
async fn see(
    args: &Args,
    client: &Client,
    settings: &Settings,
    dirty: &AllDirty,
    found: watch::Sender<Option<Arc<World>>>,
) -> anyhow::Error {
    let only = Some(args.watch_namespace.as_str()).filter(|namespace| !namespace.is_empty());
    let (world, mut tasks) = World::start(client, only, settings, dirty).await;
    found.send_replace(Some(world));
    tasks.join_next().await;
    // Without one of them the operator would be blind and not know it.
    anyhow::anyhow!("a watch ended; the operator starts again")
}

/// Answers at apply, if that is wanted. Whoever leads looks after the certificate.
async fn admit(
    args: &Args,
    client: &Client,
    leadership: &Leadership,
    desk: Desk,
) -> anyhow::Result<Option<Keeper>> {
    let Webhook {
        address: Some(address),
        configuration: Some(configuration),
        secret: Some(secret),
        names,
        sidecars,
    } = &args.webhook
    else {
        return Ok(None);
    };
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    let (tell, identity) = watch::channel(None);
    let (follower, namespace, followed) = (client.clone(), args.namespace.clone(), secret.clone());
    tokio::spawn(async move { admission::follow(follower, &namespace, &followed, tell).await });
    tokio::spawn(admission::serve(listener, identity.clone(), desk));
    Ok((!names.is_empty()).then(|| Keeper {
        client: client.clone(),
        leadership: leadership.clone(),
        namespace: args.namespace.clone(),
        secret: secret.clone(),
        configuration: configuration.clone(),
        sidecars: *sidecars,
        names: names.clone(),
        changed: identity,
    }))
}

/// What is there, once it was listed.
async fn listed(mut world: watch::Receiver<Option<Arc<World>>>) -> Arc<World> {
    let found = world.wait_for(Option::is_some).await.expect("it is told as long as this runs");
    found.clone().expect("it was waited for")
}

/// Asks pods, for whoever leads and for answers at apply, which every replica gives; tells why that ended.
async fn observe(
    world: watch::Receiver<Option<Arc<World>>>,
    observer: Observer,
    dirty: AllDirty,
) -> anyhow::Error {
    let world = listed(world).await;
    let _ = tokio::spawn(observer.run(world, dirty)).await;
    anyhow::anyhow!("the pods are no longer observed; the operator starts again")
}

/// Reconciles until `stop` resolves.
async fn reconcile(
    world: watch::Receiver<Option<Arc<World>>>,
    context: impl FnOnce(Arc<World>) -> Context,
    stop: impl Future<Output = ()> + Clone + Send + Sync + 'static,
) {
    let world = tokio::select! {
        world = listed(world) => world,
        () = stop.clone() => return,
    };
    let context = context(world.clone());
    context.observer.begin();
    world.lead();
    control::run(Arc::new(context), stop).await;
}

impl Args {
    fn settings(&self) -> Settings {
        Settings {
            image: self.dataplane_image.clone(),
            pull_policy: self.dataplane_pull_policy.clone(),
            otlp_endpoint: Some(self.dataplane_otlp_endpoint.clone()).filter(|endpoint| !endpoint.is_empty()),
            statsd: Some(self.dataplane_statsd.clone()).filter(|address| !address.is_empty()),
            network_policies: self.network_policies,
            namespace: self.namespace.clone(),
            injection: self.webhook.sidecars && self.webhook.address.is_some(),
            ingresses: self.ingresses,
            http_routes: self.http_routes,
            expose_services: self.expose_services,
        }
    }
}

/// SIGTERM or SIGINT.
async fn stopped() {
    let listen = |kind| signal(kind).expect("signals can be listened to");
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate()), listen(SignalKind::interrupt()));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn routes(metrics: Arc<Metrics>, leadership: Leadership) -> axum::Router {
    let ready = async |State(leadership): State<Leadership>| {
        if leadership.is_known() {
            (StatusCode::OK, "ready\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "the API server has not answered yet\n")
        }
    };
    let show = async move || {
        let mut families = metrics.registry.gather();
        families.extend(prometheus::gather());
        let mut body = Vec::new();
        match TextEncoder::new().encode(&families, &mut body) {
            Ok(()) => {
                ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], body).into_response()
            }
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    };
    axum::Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(show))
        .with_state(leadership)
}
