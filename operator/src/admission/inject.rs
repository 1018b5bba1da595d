//! Pods as they are created: those that an API's sidecar selects are given it.
//!
//! Pods of others must start whether the operator is there or not, so the webhook's `failurePolicy` is
//! `Ignore`; whoever started without is found and told ([`crate::sidecars`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use kube::api::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use serde_json::Value;
use sluice_config::placement::SIDECAR_LABEL;
use sluice_crds::shape;

use super::judge::MAX_WARNING;
use super::{CATCH_UP, Desk, reviewed};
use crate::children::sidecar::{Guest, guests, inject, names, obstacle, was_given};
use crate::world::World;

/// How long the first list may take; the API server waits longer.
const LISTED: Duration = Duration::from_secs(3);

/// Answers about one pod.
pub async fn answer(
    State(desk): State<Desk>,
    Json(review): Json<AdmissionReview<DynamicObject>>,
) -> impl IntoResponse {
    reviewed(&desk, review, async |request| {
        let (response, outcome) = respond(&desk, request).await;
        (response, "Pod", outcome)
    })
    .await
}

async fn respond(
    desk: &Desk,
    request: &AdmissionRequest<DynamicObject>,
) -> (AdmissionResponse, &'static str) {
    let mut response = AdmissionResponse::from(request);
    let Some(pod) = request.object.as_ref().and_then(|pod| serde_json::to_value(pod).ok()) else {
        return (response, "allowed");
    };
    let mut world = desk.world.clone();
    let listed = tokio::time::timeout(LISTED, world.wait_for(Option::is_some)).await;
    let Some(world) = listed.ok().and_then(|world| world.ok()?.clone()) else {
        let warning =
            "the operator has just started and added no sidecar; see the conditions of the StreamAPI";
        response.warnings = Some(vec![warning.into()]);
        return (response, "unchecked");
    };
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let asking = selecting(&world, namespace, &pod).await;
    // A copy of a pod that had one may ask for none.
    if asking.is_empty() && !was_given(&pod) {
        return (response, "allowed");
    }
    if let Some(obstacle) = obstacle(&pod).filter(|_| !asking.is_empty()) {
        let warning = format!("the pod gets no sidecar of {}: {obstacle}", names(&asking));
        response.warnings = Some(vec![shape::clip_to(MAX_WARNING, &warning)]);
        return (response, "warned");
    }
    let injected = inject(&pod, &asking, &desk.settings);
    let patch = json_patch::diff(&pod, &injected);
    match response.with_patch(patch) {
        Ok(response) => (response, "injected"),
        Err(error) => (AdmissionResponse::invalid(error.to_string()), "failed"),
    }
}

/// The APIs that select the pod, the oldest first.
async fn selecting(world: &Arc<World>, namespace: &str, pod: &Value) -> Vec<Guest> {
    let labels: BTreeMap<String, String> =
        serde_json::from_value(pod["metadata"]["labels"].clone()).unwrap_or_default();
    let found = guests(&world.guests(namespace), &labels);
    // An API that was applied just before, with the same command, may not have come through the watch yet.
    let asked = labels.get(SIDECAR_LABEL);
    if asked.is_none_or(|asked| found.iter().any(|guest| guest.api == *asked)) {
        return found;
    }
    tokio::time::sleep(CATCH_UP).await;
    guests(&world.guests(namespace), &labels)
}
