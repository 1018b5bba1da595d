//! Admission: an API server asks about every StreamAPI, StreamGateway and StreamPolicy that is applied, and whoever
//! applies it is told at once what is wrong with it and what it would do. It also asks about pods that
//! are created where sidecars are wanted ([`inject`]).
//!
//! Every replica answers, whether it leads or not. An answer is a service to people, not a guard:
//! nothing rests on it, what passes unseen is told in conditions, so the webhook's `failurePolicy` is
//! `Ignore`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::IntoResponse;
use axum::routing::post;
use futures::StreamExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use k8s_openapi::api::core::v1::Secret;
use kube::api::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::admission::certificate::Identity;
use crate::admission::judge::{Applied, Judgement, causes, judge};
use crate::children::Settings;
use crate::dereference::identity;
use crate::metrics::Metrics;
use crate::objects::{Kind, Objects};
use crate::observe::Observer;
use crate::streams::ByApi;
use crate::world::{Name, World, anew, gateway_of, name_of};

pub mod certificate;
mod inject;
mod judge;

/// Where an API server asks about what is applied.
pub const PATH: &str = "/validate";
/// Where it asks about pods.
pub const PODS_PATH: &str = "/inject";
/// The largest question: an object before and after, of at most 1.5 MiB each, and some words.
const MAX_QUESTION_BYTES: usize = 4 << 20;
/// Connections at once; an API server keeps a few open.
const MAX_CONNECTIONS: usize = 64;
/// What was applied just before, with the same command, may not have come through the watch yet.
const CATCH_UP: Duration = Duration::from_millis(300);
/// How long a connection may take to become one.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(5);

/// What answering needs.
#[derive(Clone)]
pub struct Desk {
    /// What is there, once it was listed.
    pub world: watch::Receiver<Option<Arc<World>>>,
    /// How workloads are built.
    pub settings: Arc<Settings>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What pods told last; an answer asks none.
    pub observer: Observer,
}

/// Answers on `listener` for ever, with the certificate that `identity` has at the moment.
pub async fn serve(listener: TcpListener, identity: watch::Receiver<Option<Arc<ServerConfig>>>, desk: Desk) {
    let routes = Router::new()
        .route(PATH, post(answer))
        .route(PODS_PATH, post(inject::answer))
        .layer(DefaultBodyLimit::max(MAX_QUESTION_BYTES))
        .with_state(desk);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("it is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection to the webhook was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Until there is a certificate nobody trusts us.
        let Some(config) = identity.borrow().clone() else { continue };
        let service = TowerToHyperService::new(routes.clone());
        tokio::spawn(async move {
            let _place = place;
            let handshake = TlsAcceptor::from(config).accept(stream);
            let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_PATIENCE, handshake).await else { return };
            // An API server that hangs up is no event.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// Tells the certificate in the Secret whenever that changes; the last one stays when it is deleted.
pub async fn follow(
    client: Client,
    namespace: &str,
    secret: &str,
    tell: watch::Sender<Option<Arc<ServerConfig>>>,
) {
    let api: Api<Secret> = Api::namespaced(client, namespace);
    let only = watcher::Config::default().fields(&format!("metadata.name={secret}"));
    let found = anew(api, only).touched_objects();
    let mut found = std::pin::pin!(found);
    while let Some(secret) = found.next().await {
        match secret {
            Ok(secret) => {
                match Identity::of(&secret).ok_or("a part is missing".to_owned()).and_then(|it| tls(&it)) {
                    Ok(config) => drop(tell.send_replace(Some(config))),
                    Err(reason) => tracing::warn!(
                        reason,
                        secret = secret.name_any(),
                        "the webhook's certificate cannot be used; the last good one stays"
                    ),
                }
            }
            Err(error) => tracing::warn!(%error, "the webhook's Secret cannot be watched; trying again"),
        }
    }
}

/// What serves with that certificate.
fn tls(identity: &Identity) -> Result<Arc<ServerConfig>, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(identity.certificate.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("tls.crt: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())
        .map_err(|error| format!("tls.key: {error}"))?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    let mut config = config.map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

async fn answer(
    State(desk): State<Desk>,
    Json(review): Json<AdmissionReview<DynamicObject>>,
) -> impl IntoResponse {
    reviewed(&desk, review, async |request| {
        let kind = Kind::of(&request.kind.kind).unwrap_or(Kind::Other);
        let (response, outcome) = respond(&desk, kind, request).await;
        (response, kind.name(), outcome)
    })
    .await
}

/// Answers with what `respond` makes of the question, and counts its kind and outcome.
async fn reviewed(
    desk: &Desk,
    review: AdmissionReview<DynamicObject>,
    respond: impl AsyncFnOnce(&AdmissionRequest<DynamicObject>) -> (AdmissionResponse, &'static str, &'static str),
) -> Json<AdmissionReview<DynamicObject>> {
    let begun = Instant::now();
    let asked: Result<AdmissionRequest<DynamicObject>, _> = review.try_into();
    let response = match asked {
        Ok(request) => {
            let (response, kind, outcome) = respond(&request).await;
            desk.metrics.admitted(kind, outcome, begun.elapsed());
            response
        }
        Err(error) => AdmissionResponse::invalid(error.to_string()),
    };
    Json(response.into_review())
}

async fn respond(
    desk: &Desk,
    kind: Kind,
    request: &AdmissionRequest<DynamicObject>,
) -> (AdmissionResponse, &'static str) {
    let mut response = AdmissionResponse::from(request);
    let judged = matches!(kind, Kind::StreamApi | Kind::StreamGateway | Kind::StreamPolicy)
        && matches!(request.operation, Operation::Create | Operation::Update);
    let Some(new) = request.object.as_ref().filter(|_| judged) else { return (response, "allowed") };
    // What is being deleted has finalizers taken away; that must not fail for what it says.
    if new.metadata.deletion_timestamp.is_some() {
        return (response, "allowed");
    }
    let Some(world) = desk.world.borrow().clone() else {
        let warning = "the operator has just started and did not check this; see the conditions";
        response.warnings = Some(vec![warning.into()]);
        return (response, "unchecked");
    };
    let name = name_of(new);
    let old = request.old_object.as_ref();
    let judge = || {
        let objects = world.around_applied(kind, new, old);
        let streams = streams(&desk.observer, (kind, &name), old, &objects);
        let is_dry_run = request.dry_run;
        let applied = Applied { kind, name: &name, old, is_dry_run, streams: streams.as_ref() };
        judge(&applied, &objects, &desk.settings)
    };
    let mut judgement = judge();
    if judgement.is_early {
        tokio::time::sleep(CATCH_UP).await;
        judgement = judge();
    }
    let Judgement { problems, warnings, .. } = judgement;
    let outcome = match (problems.is_empty(), warnings.is_empty()) {
        (false, _) => "denied",
        (true, false) => "warned",
        (true, true) => "allowed",
    };
    response.warnings = (!warnings.is_empty()).then_some(warnings);
    if !problems.is_empty() {
        let message = problems.iter().map(|problem| format!("\n* {problem}")).collect::<String>();
        response.allowed = false;
        let details = json!({
            "name": name.1, "group": request.kind.group, "kind": request.kind.kind, "causes": causes(&problems),
        });
        let status = json!({
            "status": "Failure", "reason": "Invalid", "code": 422, "message": message, "details": details,
        });
        response.result = serde_json::from_value(status).expect("a status");
    }
    (response, outcome)
}

/// Open streams of whatever a change of the object concerns; `None` if they are not known of all of it.
fn streams(
    observer: &Observer,
    (kind, name): (Kind, &Name),
    old: Option<&DynamicObject>,
    objects: &Objects,
) -> Option<ByApi> {
    let of_api = |api: Name, gateway: Option<Name>| {
        let streams = observer.streams(&api, gateway.as_ref())?;
        Some((format!("{}/{}", api.0, api.1), streams))
    };
    match kind {
        Kind::StreamGateway => observer.streams_of_gateway(name),
        // Clients are where it was, not where it goes.
        Kind::StreamApi => Some(ByApi::from([of_api(name.clone(), gateway_of(old?))?])),
        _ => {
            let apis = objects.apis.iter().map(|api| {
                let (namespace, name) = identity(&api.metadata);
                let gateway = api.spec.0.placement.gateway();
                let gateway = gateway.map(|it| (it.namespace(namespace).to_owned(), it.name.clone()));
                of_api((namespace.to_owned(), name.to_owned()), gateway)
            });
            apis.collect()
        }
    }
}
