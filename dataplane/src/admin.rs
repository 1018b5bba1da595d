//! The admin port: health, readiness, metrics and the config in force. GET only, never public.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Encoder, TextEncoder};

use crate::gateway::check_host_name;
use crate::runtime::{Applied, ServerState};
use crate::telemetry::Metrics;

/// What the admin port shows.
pub struct Shown {
    /// Listeners are open.
    pub open: AtomicBool,
    /// A config was applied and something of it is served: a pod whose config or secrets have not
    /// arrived yet must get no clients.
    pub loaded: AtomicBool,
    /// The process goes away.
    pub draining: Arc<AtomicBool>,
    /// The config in force.
    pub applied: ArcSwap<Applied>,
    /// State of every server.
    pub servers: ArcSwap<Vec<ServerState>>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
}

/// The admin port's routes.
pub fn routes(shown: Arc<Shown>, hosts: Vec<String>) -> Router {
    let hosts: Arc<[String]> = hosts.into();
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/config", get(config))
        .with_state(shown)
        .layer(from_fn(move |request: Request, next: Next| check_host(hosts.clone(), request, next)))
}

/// A page that was led here by a name that is not ours sees nothing (DNS rebinding).
async fn check_host(hosts: Arc<[String]>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match check_host_name(&hosts, &parts) {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(refusal) => refusal.response().into_response(),
    }
}

/// A broker that is away does not change the status: one dead broker must not take a gateway out of
/// its Service.
async fn ready(State(shown): State<Arc<Shown>>) -> Response {
    let draining = shown.draining.load(Ordering::SeqCst);
    let serving = [&shown.open, &shown.loaded].iter().all(|flag| flag.load(Ordering::SeqCst));
    let ready = serving && !draining;
    let body = serde_json::json!({"ready": ready, "draining": draining, "servers": servers(&shown)});
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(body)).into_response()
}

/// With the servers and the open streams, so that who looks after many pods asks each once.
async fn config(State(shown): State<Arc<Shown>>) -> Response {
    #[derive(serde::Serialize)]
    struct Config {
        #[serde(flatten)]
        applied: Applied,
        servers: Vec<serde_json::Value>,
    }
    let mut applied = Applied::clone(&shown.applied.load());
    let mut streams = shown.metrics.streams();
    for api in &mut applied.apis {
        let text = |field: &str| api[field].as_str().unwrap_or_default().to_owned();
        let open = streams.remove(&(text("namespace"), text("name"))).unwrap_or_default();
        api["streams"] = serde_json::json!(open);
    }
    axum::Json(Config { applied, servers: servers(&shown) }).into_response()
}

fn servers(shown: &Shown) -> Vec<serde_json::Value> {
    let tell = |server: &ServerState| {
        let state = server.status.state();
        serde_json::json!({
            "namespace": server.namespace,
            "api": server.api,
            "server": server.server,
            "up": state.up,
            "reason": state.reason,
        })
    };
    shown.servers.load().iter().map(tell).collect()
}

async fn metrics(State(shown): State<Arc<Shown>>) -> Response {
    // As of now, like `/readyz`.
    for server in &**shown.servers.load() {
        shown.metrics.set_server_up(&server.namespace, &server.api, &server.server, server.status.state().up);
    }
    let mut families = shown.metrics.registry.gather();
    families.extend(prometheus::gather());
    let mut body = Vec::new();
    match TextEncoder::new().encode(&families, &mut body) {
        Ok(()) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], body).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
