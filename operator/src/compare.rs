//! Tells whether an object has to be written: pure, so that nothing is written at rest.
//!
//! An object is as it should be if everything the operator builds stands in it with the same value,
//! whatever the API server defaulted and others own besides, and if it was applied from the very
//! same build: otherwise a field that is no longer built would stay.

use serde_json::Value;
use sluice_config::placement::Quantity;

use crate::children::APPLIED;

/// Whether `live` has to be written to be `desired`.
pub fn needs_apply(desired: &Value, live: &Value) -> bool {
    let digest = |object: &Value| object["metadata"]["annotations"][APPLIED].as_str().map(str::to_owned);
    let mut content = desired.clone();
    // The kind was asked for; the items of a list do not repeat it.
    for field in ["apiVersion", "kind"] {
        content.as_object_mut().map(|object| object.remove(field));
    }
    digest(desired) != digest(live) || !is_in(&content, live, false)
}

/// Whether `part` stands in `whole`. Lists are compared as wholes, for order and length are part of
/// them. `amounts`: the values below are quantities, which may be written in several ways.
fn is_in(part: &Value, whole: &Value, amounts: bool) -> bool {
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => part.iter().all(|(key, value)| {
            let amounts = amounts || matches!(key.as_str(), "requests" | "limits");
            whole.get(key).map_or_else(|| is_nothing(value), |found| is_in(value, found, amounts))
        }),
        (Value::Array(part), Value::Array(whole)) => {
            part.len() == whole.len()
                && part.iter().zip(whole).all(|(part, whole)| is_in(part, whole, amounts))
        }
        (Value::String(part), Value::String(whole)) if amounts => {
            let milli = |text: &str| Quantity(text.to_owned()).milli();
            part == whole || milli(part).is_some_and(|amount| milli(whole) == Some(amount))
        }
        (part, whole) => part == whole,
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
        assert!(!needs_apply(&desired, &live));
    }

    #[test]
    fn an_item_of_a_list_is_what_it_should_be() {
        let live = object(&json!({"replicas": 1}), "a");
        let mut desired = live.clone();
        desired["apiVersion"] = json!("apps/v1");
        desired["kind"] = json!("Deployment");
        assert!(!needs_apply(&desired, &live));
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
            assert!(needs_apply(&desired, &live), "{path}");
        }
    }

    #[test]
    fn what_is_no_longer_built_is_noticed() {
        let live = object(&json!({"replicas": 1, "nodeSelector": {"disk": "ssd"}}), "with selector");
        assert!(needs_apply(&object(&json!({"replicas": 1}), "without"), &live));
    }

    #[test]
    fn quantities_are_compared_by_amount_and_nothing_else_is() {
        let desired = object(&json!({"resources": {"limits": {"cpu": "0.5"}}, "env": "1000m"}), "a");
        let mut live = desired.clone();
        live["spec"]["resources"]["limits"]["cpu"] = json!("500m");
        assert!(!needs_apply(&desired, &live));
        live["spec"]["resources"]["limits"]["cpu"] = json!("501m");
        assert!(needs_apply(&desired, &live));
        live = desired.clone();
        live["spec"]["env"] = json!("1");
        assert!(needs_apply(&desired, &live));
    }

    #[test]
    fn empty_fields_that_the_server_drops_are_no_difference() {
        let desired = object(&json!({"resources": {"requests": {}, "limits": {}}, "list": []}), "a");
        assert!(!needs_apply(&desired, &object(&json!({"resources": {}}), "a")));
    }
}
