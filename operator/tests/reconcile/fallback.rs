//! Where the API server does not ask the operator, a ValidatingAdmissionPolicy of the chart refuses what can
//! be told from the object alone, and the operator tells the rest.

use serde_json::{Value, json};
use sluice_tests::{ControlPlane, eventually};

use crate::bed::{Bed, shop};
use crate::exposure::http_route;
use crate::gateway::gateway;
use crate::operator::Operator;

fn deployment(content: Value) -> Value {
    let mut api = shop();
    api["spec"]["placement"] = json!({"deployment": content});
    api
}

fn kafka(content: Value) -> Value {
    let mut api = shop();
    api["spec"]["servers"] = json!([{"name": "events", "kafka": content}]);
    api
}

fn path(path: &str) -> Value {
    let mut api = shop();
    api["spec"]["channels"][0]["path"] = json!(path);
    api
}

/// What the policy refuses, and with which words.
fn wrong() -> Vec<(Value, &'static str)> {
    let mut twice = path("/same");
    let mut other = twice["spec"]["channels"][0].clone();
    other["name"] = json!("other");
    twice["spec"]["channels"].as_array_mut().expect("a list").push(other);
    let mut reserved = shop();
    reserved["spec"]["basePath"] = json!("/-/shop");
    let brokers = json!(["kafka:9092"]);
    let plain = json!({"mechanism": "PLAIN", "secretRef": {"name": "login"}});
    let tls = json!({"secretRef": {"name": "cert"}});
    let bare = |protocol: &str| json!([{"name": "a", "protocol": protocol}]);
    let with_tls = json!([{"name": "a", "protocol": "HTTP", "tls": tls}]);
    let twins = json!([{"name": "a", "protocol": "HTTP"}, {"name": "b", "protocol": "HTTP", "port": 81}]);
    let scaled = json!({"minReplicas": 5, "maxReplicas": 2});
    let https = json!([{"name": "a", "protocol": "HTTPS", "tls": tls}]);
    let unserved = json!({"listeners": https, "exposure": http_route("a.example.com")});
    vec![
        (twice, "two of them have the same path"),
        (reserved, "/-/ is reserved"),
        (path("/a/../b"), "`.` or `..`"),
        (
            kafka(json!({"brokers": brokers, "properties": {"acks": "1", "linger.ms": "5"}})),
            "may be passed: acks; remove it",
        ),
        (
            kafka(json!({"brokers": brokers, "properties": {"plugin.library.paths": "x"}})),
            "plugin.library.paths",
        ),
        (kafka(json!({"brokers": brokers, "sasl": plain})), "PLAIN without tls"),
        (deployment(json!({"listeners": bare("HTTPS")})), "HTTPS needs `tls:"),
        (deployment(json!({"listeners": with_tls})), "HTTP goes without"),
        (deployment(json!({"listeners": twins})), "one of each protocol"),
        (deployment(json!({"podTemplate": {"labels": {"sluice.dev/api": "x"}}})), "set by the operator"),
        (
            deployment(json!({"podTemplate": {"annotations": {"app.kubernetes.io/x": "x"}}})),
            "set by the operator",
        ),
        (deployment(json!({"autoscaling": scaled})), "minReplicas is more than maxReplicas"),
        (gateway(json!({"autoscaling": scaled})), "minReplicas is more than maxReplicas"),
        (deployment(unserved.clone()), "exposure.httpRoute needs an HTTP listener"),
        (gateway(unserved), "exposure.httpRoute needs an HTTP listener"),
        (gateway(json!({"listeners": bare("HTTPS")})), "HTTPS needs `tls:"),
        (gateway(json!({"podTemplate": {"labels": {"app.kubernetes.io/name": "x"}}})), "set by the operator"),
    ]
}

fn right() -> Vec<Value> {
    let tls = json!({"tls": {"secretRef": {"name": "cert"}}});
    let both =
        json!([{"name": "a", "protocol": "HTTP"}, {"name": "b", "protocol": "HTTPS", "tls": tls["tls"]}]);
    let plain = json!({"mechanism": "PLAIN", "secretRef": {"name": "login"}});
    vec![
        shop(),
        path("/a.b/c"),
        kafka(json!({"brokers": ["kafka:9092"], "properties": {"linger.ms": "5"}, "tls": {}, "sasl": plain})),
        kafka(json!({"brokers": ["127.0.0.1:9092"], "sasl": plain})),
        deployment(json!({"listeners": both, "podTemplate": {"labels": {"team": "a"}}})),
        deployment(json!({"autoscaling": {"maxReplicas": 2}})),
        deployment(json!({"exposure": http_route("a.example.com")})),
        deployment(json!({"listeners": both, "exposure": http_route("a.example.com")})),
        gateway(json!({})),
        gateway(json!({"listeners": both, "autoscaling": {"minReplicas": 2, "maxReplicas": 2}})),
    ]
}

#[tokio::test]
async fn without_the_webhook_a_policy_refuses_what_it_can_tell_and_the_operator_tells_the_rest() {
    let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start()));
    let bed = Bed::on(plane, "fallback", &["--set", "scope=Namespace,dataplane.networkPolicies=true"]).await;
    let policies = bed.chart(&["admissionpolicy"], &["--set", "webhook.enabled=false"]);
    plane.run("kubectl", &["apply", "--server-side", "-f", "-"], &policies);
    let cases = wrong();
    eventually("the policies are in force", || async {
        let last = bed.try_apply(&cases[cases.len() - 1].0).await.err()?;
        bed.try_apply(&cases[0].0)
            .await
            .err()
            .filter(|first| first.contains("denied") && last.contains("denied"))
    })
    .await;
    let mut unmet = Vec::new();
    for (document, words) in &cases {
        let refused = bed.try_apply(document).await.err().unwrap_or_else(|| "it was taken".to_owned());
        if !refused.contains(words) {
            unmet.push(format!("{words}: {refused}"));
        }
    }
    for document in right() {
        if let Err(refused) = bed.try_apply(&document).await {
            unmet.push(format!("{document}: {refused}"));
        }
    }
    assert!(unmet.is_empty(), "{} cases:\n{}", unmet.len(), unmet.join("\n"));
    // What is in other objects it does not see.
    let mut operator = Operator::start(&bed).await;
    bed.apply(&kafka(json!({"brokers": ["kafka:9092"], "tls": {"secretRef": {"name": "nowhere"}}}))).await;
    bed.told("shop", "ResolvedRefs", "False", "RefNotFound").await;
    operator.stop().await;
    plane.end();
}
