//! What Gateways say of an HTTPRoute: pure.

use serde_json::Value;
use sluice_crds::shape::clip_to;

/// What a Gateway's controller wants to say is somebody else's text.
const MAX_MESSAGE: usize = 512;

/// Why a Gateway does not serve the route with that generation and content as it is now, if one of them says so. One that
/// says nothing is not there, or does not look at routes of this namespace.
pub fn refused_route(generation: Option<i64>, route: &Value) -> Option<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let parents = list(&route["status"]["parents"]).into_iter();
    let mut refusals = parents.filter_map(|parent| {
        let conditions = list(&parent["conditions"]);
        let refusal = conditions.iter().find(|condition| is_refusal(condition, generation))?;
        let text = |value: &Value| clip_to(MAX_MESSAGE, value.as_str().unwrap_or_default());
        Some(format!(
            "Gateway `{}` does not serve the HTTPRoute: {}={}, {}: {}",
            text(&parent["parentRef"]["name"]),
            text(&refusal["type"]),
            text(&refusal["status"]),
            text(&refusal["reason"]),
            text(&refusal["message"])
        ))
    });
    refusals.next()
}

/// Whether it says no to what the route says now.
fn is_refusal(condition: &Value, generation: Option<i64>) -> bool {
    let seen = condition["observedGeneration"].as_i64();
    matches!(condition["type"].as_str(), Some("Accepted" | "ResolvedRefs"))
        && condition["status"] == "False"
        && seen.is_none_or(|seen| Some(seen) == generation)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn route(condition: Value) -> Value {
        json!({"status": {"parents": [
            {"parentRef": {"name": "quiet"}, "conditions": []},
            {"parentRef": {"name": "edge"}, "conditions": [condition]},
        ]}})
    }

    #[test]
    fn a_no_to_what_the_route_says_now_is_told() {
        let no = |kind: &str, seen: i64| {
            route(json!({"type": kind, "status": "False", "observedGeneration": seen,
                "reason": "NotAllowedByListeners", "message": "no listener takes routes of namespace a"}))
        };
        let told = refused_route(Some(2), &no("Accepted", 2)).expect("a refusal");
        assert_eq!(
            told,
            "Gateway `edge` does not serve the HTTPRoute: Accepted=False, NotAllowedByListeners: no listener takes routes of \
             namespace a"
        );
        assert!(refused_route(Some(2), &no("ResolvedRefs", 2)).is_some());
        assert_eq!(refused_route(Some(2), &no("Accepted", 1)), None, "it is about what was before");
        assert_eq!(refused_route(Some(2), &no("PartiallyInvalid", 2)), None);
        let yes = route(json!({"type": "Accepted", "status": "True", "observedGeneration": 2}));
        assert_eq!(refused_route(Some(2), &yes), None);
        for nothing in [json!({}), json!({"status": {"parents": "?"}}), json!({"status": {"parents": [{}]}})]
        {
            assert_eq!(refused_route(Some(2), &nothing), None);
        }
    }
}
