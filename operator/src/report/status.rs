//! What is written to the status of an object: pure.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use sluice_config::Entry;
use sluice_config::channel::path;
use sluice_config::placement::{Deployment, Protocol};
use sluice_crds::resource::{Condition, StreamApiStatus};

use super::Verdict;
use crate::children::Owner;

/// Verdicts as conditions; a time moves only when the status does.
pub fn conditions(verdicts: &[Verdict], before: &[Condition], generation: i64) -> Vec<Condition> {
    let conditions = verdicts.iter().map(|verdict| {
        let old = before.iter().find(|old| old.type_ == verdict.kind && old.status == verdict.status);
        Condition {
            type_: verdict.kind.into(),
            status: verdict.status,
            observed_generation: generation,
            last_transition_time: old.map_or_else(now, |old| old.last_transition_time.clone()),
            reason: verdict.reason.into(),
            message: verdict.message.clone(),
        }
    });
    conditions.collect()
}

/// While pods were not all asked, what they said before holds: an operator that has just started knows
/// nothing better.
pub fn keep_what_pods_say(conditions: &mut [Condition], before: &[Condition]) {
    for condition in
        conditions.iter_mut().filter(|it| matches!(it.type_.as_str(), "Programmed" | "Available"))
    {
        if let Some(before) = before.iter().find(|before| before.type_ == condition.type_) {
            condition.clone_from(before);
        }
    }
}

fn now() -> String {
    Timestamp::now().round(k8s_openapi::jiff::Unit::Second).unwrap_or_else(|_| Timestamp::now()).to_string()
}

/// The status of a StreamAPI as it is written; `null` takes a field away. `bases`: where its data plane is.
pub fn api_status(conditions: Vec<Condition>, entry: Option<&Entry>, bases: &[String]) -> Value {
    let urls: Vec<_> = entry
        .map(|entry| {
            let api = &entry.api;
            let paths = api.spec.channels.iter().map(|channel| path(&api.name, &api.spec, channel));
            let paths: Vec<_> = paths.collect();
            bases.iter().flat_map(|base| paths.iter().map(move |path| format!("{base}{path}"))).collect()
        })
        .unwrap_or_default();
    json!({"conditions": conditions, "urls": urls, "revision": entry.map(|entry| &entry.revision)})
}

/// Where clients reach a data plane inside the cluster; with TLS where there is a choice.
pub fn service_url(owner: &Owner<'_>, deployment: &Deployment) -> Option<String> {
    let listener = deployment.listener(Protocol::Https).or_else(|| deployment.listener(Protocol::Http))?;
    let (scheme, usual) = match listener.protocol {
        Protocol::Http => ("http", 80),
        Protocol::Https => ("https", 443),
    };
    let port = Some(listener.service_port()).filter(|port| *port != usual);
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    Some(format!("{scheme}://{}.{}.svc{port}", owner.child_name(), owner.namespace))
}

/// Whether `status` says something else than the one `there`.
pub fn differs(status: &Value, there: &Value) -> bool {
    let Some(fields) = status.as_object() else { return false };
    fields.iter().any(|(name, value)| {
        let before = there.get(name).unwrap_or(&Value::Null);
        let nothing = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        before != value && !(nothing(before) && nothing(value))
    })
}

/// The conditions of a status, as far as it can be read.
pub fn conditions_of(status: &Value) -> Vec<Condition> {
    serde_json::from_value::<StreamApiStatus>(status.clone()).unwrap_or_default().conditions
}
