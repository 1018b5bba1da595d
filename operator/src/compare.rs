//! Tells whether an object has to be written, and how: pure, so that nothing is written at rest.
//!
//! An object is as it should be if everything the operator builds stands in it with the same value,
//! whatever the API server defaulted and others own besides, and if it was applied from the very
//! same build: otherwise a field that is no longer built would stay.

use serde_json::Value;
use sluice_config::StreamApiSpec;
use sluice_config::placement::Quantity;

use crate::children::{APPLIED, ChildKind};

/// Maps that are the operator's alone: what others add there is taken away.
const OWN_MAPS: [&str; 7] =
    ["data", "binaryData", "nodeSelector", "requests", "limits", "matchLabels", "selector"];

/// The name of the whole object, which no field has.
const ROOT: &str = "";

/// What has to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// Nothing.
    None,
    /// Fields, by server-side apply.
    Fields,
    /// What others added to a list or a map of ours. Server-side apply would leave it.
    Entries,
}

/// How `live` differs from `desired`.
pub fn difference(desired: &Value, live: &Value) -> Difference {
    let digest = |object: &Value| object["metadata"]["annotations"][APPLIED].as_str().map(str::to_owned);
    // What is built differently is applied first.
    if digest(desired) != digest(live) {
        return Difference::Fields;
    }
    match compare(desired, live, ROOT, false) {
        Difference::None if is_api(desired) && says_more(desired, live) => Difference::Entries,
        difference => difference,
    }
}

/// Whether it is a StreamAPI that is built. All that it says is the operator's.
fn is_api(desired: &Value) -> bool {
    desired["kind"] == ChildKind::StreamApi.names().2
}

/// Whether a StreamAPI says anything besides what was built and the defaults: who adds to one changes what is served.
fn says_more(desired: &Value, live: &Value) -> bool {
    let said = |object: &Value| serde_json::from_value::<StreamApiSpec>(object["spec"].clone()).ok();
    said(desired) != said(live)
}

/// How `found`, at the field `name`, differs from `part`. Lists are compared as wholes, for order and
/// length are part of them. `amounts`: the values are quantities, which may be written in several ways.
fn compare(part: &Value, found: &Value, name: &str, amounts: bool) -> Difference {
    match (part, found) {
        (Value::Object(part), Value::Object(found)) => {
            let amounts = amounts || matches!(name, "requests" | "limits");
            let missing =
                |value: &Value| if is_nothing(value) { Difference::None } else { Difference::Fields };
            // The kind was asked for; the items of a list do not repeat it.
            let said = |key: &str| name == ROOT && matches!(key, "apiVersion" | "kind");
            let fields = part.iter().filter(|(key, _)| !said(key)).map(|(key, value)| {
                found.get(key).map_or_else(|| missing(value), |found| compare(value, found, key, amounts))
            });
            let added = OWN_MAPS.contains(&name) && found.keys().any(|key| !part.contains_key(key));
            fields.chain(added.then_some(Difference::Entries)).max().unwrap_or(Difference::None)
        }
        (Value::Array(part), Value::Array(found)) if part.len() != found.len() => Difference::Entries,
        (Value::Array(part), Value::Array(found)) => {
            let items = part.iter().zip(found).map(|(part, found)| compare(part, found, name, amounts));
            if items.max() > Some(Difference::None) { Difference::Entries } else { Difference::None }
        }
        (Value::String(part), Value::String(found)) if amounts => {
            let milli = |text: &str| Quantity(text.to_owned()).milli();
            let same = part == found || milli(part).is_some_and(|amount| milli(found) == Some(amount));
            if same { Difference::None } else { Difference::Fields }
        }
        (part, found) if part == found => Difference::None,
        _ => Difference::Fields,
    }
}

/// `desired` as a merge patch on `live`, which replaces lists and takes away what others added to
/// maps of ours.
pub fn replacement(desired: &Value, live: &Value) -> Value {
    let mut patch = desired.clone();
    take_away(&mut patch, live, ROOT, false);
    if is_api(desired) {
        // Defaults go, too, and are set again.
        take_away(&mut patch["spec"], &live["spec"], "spec", true);
    }
    patch
}

/// `all`: every map is the operator's.
fn take_away(patch: &mut Value, live: &Value, name: &str, all: bool) {
    let (Value::Object(patch), Value::Object(live)) = (patch, live) else { return };
    for (key, value) in patch.iter_mut() {
        if let Some(live) = live.get(key) {
            take_away(value, live, key, all);
        }
    }
    if all || OWN_MAPS.contains(&name) {
        for key in live.keys() {
            patch.entry(key.clone()).or_insert(Value::Null);
        }
    }
}

/// What an API server does not keep: nothing, in any notation.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_i64() == Some(0),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(spec: &Value, digest: &str) -> Value {
        json!({"metadata": {"annotations": {APPLIED: digest}}, "spec": spec})
    }

    #[test]
    fn what_others_add_is_left_alone() {
        let desired = object(&json!({"replicas": 1, "ports": [{"port": 80}]}), "a");
        let mut live = desired.clone();
        live["metadata"]["uid"] = json!("u");
        live["spec"]["clusterIP"] = json!("10.0.0.1");
        live["spec"]["ports"][0]["nodePort"] = json!(0);
        live["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = json!("3");
        assert_eq!(difference(&desired, &live), Difference::None);
    }

    #[test]
    fn an_item_of_a_list_is_what_it_should_be() {
        let live = object(&json!({"replicas": 1}), "a");
        let mut desired = live.clone();
        desired["apiVersion"] = json!("apps/v1");
        desired["kind"] = json!("Deployment");
        assert_eq!(difference(&desired, &live), Difference::None);
    }

    #[test]
    fn what_was_changed_is_noticed() {
        let desired = object(&json!({"replicas": 1, "args": ["a", "b"], "flag": true}), "a");
        for (path, value) in [
            ("/spec/replicas", json!(2)),
            ("/spec/args", json!(["a"])),
            ("/spec/args", json!(["b", "a"])),
            ("/spec/args", json!(["a", "b", "c"])),
            ("/spec/flag", json!(false)),
            ("/spec", json!({})),
        ] {
            let mut live = desired.clone();
            *live.pointer_mut(path).expect("a field") = value;
            assert_ne!(difference(&desired, &live), Difference::None, "{path}");
        }
    }

    #[test]
    fn what_is_no_longer_built_is_noticed() {
        let live = object(&json!({"replicas": 1, "nodeSelector": {"disk": "ssd"}}), "with selector");
        assert_eq!(difference(&object(&json!({"replicas": 1}), "without"), &live), Difference::Fields);
    }

    #[test]
    fn quantities_are_compared_by_amount_and_nothing_else_is() {
        let desired = object(&json!({"resources": {"limits": {"cpu": "0.5"}}, "env": "1000m"}), "a");
        let mut live = desired.clone();
        live["spec"]["resources"]["limits"]["cpu"] = json!("500m");
        assert_eq!(difference(&desired, &live), Difference::None);
        live["spec"]["resources"]["limits"]["cpu"] = json!("501m");
        assert_eq!(difference(&desired, &live), Difference::Fields);
        live = desired.clone();
        live["spec"]["env"] = json!("1");
        assert_eq!(difference(&desired, &live), Difference::Fields);
    }

    #[test]
    fn empty_fields_that_the_server_drops_are_no_difference() {
        let desired = object(&json!({"resources": {"requests": {}, "limits": {}}, "list": []}), "a");
        assert_eq!(difference(&desired, &object(&json!({"resources": {}}), "a")), Difference::None);
    }

    #[test]
    fn what_others_add_to_our_lists_and_maps_is_taken_away() {
        let desired = json!({
            "metadata": {"annotations": {APPLIED: "a"}, "labels": {"app": "x"}},
            "data": {"k": "v"},
            "spec": {"env": [{"name": "A", "value": "1"}], "nodeSelector": {}, "init": []},
        });
        for (path, value) in [
            ("/data", json!({"k": "v", "more": "x"})),
            ("/spec/env", json!([{"name": "A", "value": "1"}, {"name": "B", "value": "2"}])),
            ("/spec/env", json!([{"name": "B", "value": "1"}])),
            ("/spec/nodeSelector", json!({"disk": "ssd"})),
            ("/spec/init", json!([{"name": "guest"}])),
        ] {
            let mut live = desired.clone();
            *live.pointer_mut(path).expect("a field") = value;
            assert_eq!(difference(&desired, &live), Difference::Entries, "{path}");
            // RFC 7396: null takes away, lists are replaced.
            let patch = replacement(&desired, &live);
            assert_eq!(patch["spec"]["env"], desired["spec"]["env"]);
            let nulls = [&patch["data"]["more"], &patch["spec"]["nodeSelector"]["disk"]];
            assert!(nulls.iter().all(|value| value.is_null()), "{patch}");
        }
        let mut live = desired.clone();
        live["metadata"]["labels"]["team"] = json!("others");
        assert_eq!(difference(&desired, &live), Difference::None);
    }

    #[test]
    fn what_others_add_to_a_streamapi_is_taken_away_and_defaults_are_not_noticed() {
        let spec = json!({
            "servers": [{"name": "broker", "kafka": {"brokers": ["kafka:9092"]}}],
            "channels": [{"name": "orders", "server": "broker", "address": "orders",
                "subscribe": {"transports": {"sse": {}}}}],
        });
        let mut desired = object(&spec, "a");
        desired["kind"] = json!("StreamAPI");
        let mut stored = desired.clone();
        // As an API server stores it.
        stored["spec"]["lifecycle"] = json!({"state": "Published"});
        stored["spec"]["channels"][0]["message"] = json!({});
        stored["spec"]["channels"][0]["subscribe"]["transports"]["sse"]["heartbeatInterval"] = json!("15s");
        assert_eq!(difference(&desired, &stored), Difference::None);
        for (path, field, value) in [
            ("/spec/channels/0", "publish", json!({"transports": {"http": {}}})),
            ("/spec/servers/0/kafka", "tls", json!({})),
            ("/spec/lifecycle", "state", json!("Blocked")),
            ("/spec", "basePath", json!("/other")),
            ("/spec", "placement", json!({"deployment": {"replicas": 3}})),
        ] {
            let mut live = stored.clone();
            live.pointer_mut(path).expect("a field")[field] = value;
            assert_eq!(difference(&desired, &live), Difference::Entries, "{path} {field}");
            let patch = replacement(&desired, &live);
            assert_eq!(
                [&patch["spec"]["servers"], &patch["spec"]["channels"]],
                [&spec["servers"], &spec["channels"]]
            );
            let taken = |field: &str| patch["spec"].get(field).is_none_or(Value::is_null);
            assert!(["basePath", "placement", "lifecycle"].iter().all(|field| taken(field)), "{patch}");
        }
        let mut live = stored.clone();
        live["spec"]["channels"][0]["address"] = json!("payments");
        assert_eq!(difference(&desired, &live), Difference::Entries);
    }
}
