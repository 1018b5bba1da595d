use sluice_config::config::Material;

use super::*;
use crate::children::tests::{build, build_with, find, settings};
use crate::children::{APPLIED, Content, children};

/// What is made of an exposure in front of an API with these listeners, without the digest.
fn exposed(kind: ChildKind, exposure: &Value, listeners: &Value) -> Value {
    let certificate = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "cert", "namespace": "a", "labels": {"sluice.dev/use": "true"}},
        "data": {"tls.crt": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg==", "tls.key": "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0tCg=="},
    });
    let children = build_with(&[certificate], |api| {
        api["spec"]["placement"] = json!({"deployment": {"exposure": exposure, "listeners": listeners}});
    });
    let mut found = find(&children, kind);
    let annotations = found["metadata"]["annotations"].as_object_mut().expect("annotations");
    annotations.remove(APPLIED).expect("every child has the digest");
    found
}

fn http() -> Value {
    json!([{"name": "http", "protocol": "HTTP", "port": 8000}])
}

fn https() -> Value {
    json!([{"name": "tls", "protocol": "HTTPS", "tls": {"secretRef": {"name": "cert"}}}])
}

fn ingress_of(controller: &str) -> Value {
    json!({"ingress": {
        "host": "streams.example.com", "className": "public", "tlsSecretName": "edge", "controller": controller,
    }})
}

fn route_of(hostname: &str) -> Value {
    let parents = json!([{"name": "edge", "namespace": "infra", "sectionName": "https"}, {"name": "own"}]);
    json!({"httpRoute": {"parentRefs": parents, "hostnames": [hostname]}})
}

#[test]
fn an_ingress_leads_to_what_the_api_serves_and_to_nothing_else() {
    let built = exposed(ChildKind::Ingress, &ingress_of("Nginx"), &http());
    assert_eq!((&built["apiVersion"], &built["kind"]), (&json!("networking.k8s.io/v1"), &json!("Ingress")));
    assert_eq!(built["metadata"]["name"], "shop-sluice");
    let backend = json!({"service": {"name": "shop-sluice", "port": {"number": 8000}}});
    let path = json!({"path": "/shop", "pathType": "Prefix", "backend": backend});
    assert_eq!(
        built["spec"],
        json!({
            "ingressClassName": "public",
            "rules": [{"host": "streams.example.com", "http": {"paths": [path]}}],
            "tls": [{"hosts": ["streams.example.com"], "secretName": "edge"}],
        })
    );
}

#[test]
fn each_controller_is_told_what_streams_need_in_its_own_words() {
    let annotations = |controller: &str, listeners: Value| {
        exposed(ChildKind::Ingress, &ingress_of(controller), &listeners)["metadata"]["annotations"].take()
    };
    let mut nginx = json!({
        "nginx.ingress.kubernetes.io/proxy-read-timeout": "7200",
        "nginx.ingress.kubernetes.io/proxy-send-timeout": "7200",
        "nginx.ingress.kubernetes.io/proxy-buffering": "off",
        "nginx.ingress.kubernetes.io/proxy-request-buffering": "off",
        "nginx.ingress.kubernetes.io/proxy-body-size": "0",
    });
    let mut haproxy = json!({"haproxy.org/timeout-server": "7200s"});
    assert_eq!(annotations("Nginx", http()), nginx);
    assert_eq!(annotations("HAProxy", http()), haproxy);
    assert_eq!(annotations("None", http()), json!({}));
    // Where nothing is spoken in the clear, it has to be told so.
    nginx["nginx.ingress.kubernetes.io/backend-protocol"] = json!("HTTPS");
    haproxy["haproxy.org/server-ssl"] = json!("true");
    assert_eq!(annotations("Nginx", https()), nginx);
    assert_eq!(annotations("HAProxy", https()), haproxy);
    assert_eq!(annotations("None", https()), json!({}));
    let backend = &exposed(ChildKind::Ingress, &ingress_of("Nginx"), &https())["spec"]["rules"][0]["http"];
    assert_eq!(backend["paths"][0]["backend"]["service"]["port"]["number"], 443);
}

#[test]
fn of_two_listeners_a_proxy_is_led_to_the_one_in_the_clear() {
    let both = json!([https()[0], http()[0]]);
    let built = exposed(ChildKind::Ingress, &ingress_of("Nginx"), &both);
    let service = &built["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"];
    assert_eq!(service["port"]["number"], 8000);
    let protocol = &built["metadata"]["annotations"]["nginx.ingress.kubernetes.io/backend-protocol"];
    assert!(protocol.is_null(), "{protocol}");
}

#[test]
fn a_route_has_no_end_for_requests() {
    let built = exposed(ChildKind::HttpRoute, &route_of("*.example.com"), &http());
    assert_eq!(built["apiVersion"], "gateway.networking.k8s.io/v1");
    assert_eq!(built["kind"], "HTTPRoute");
    let gateway = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway"});
    let parent = |more: Value| {
        let mut parent = gateway.as_object().expect("an object").clone();
        parent.extend(more.as_object().expect("an object").clone());
        Value::Object(parent)
    };
    assert_eq!(
        built["spec"],
        json!({
            "parentRefs": [
                parent(json!({"name": "edge", "namespace": "infra", "sectionName": "https"})),
                parent(json!({"name": "own"})),
            ],
            "hostnames": ["*.example.com"],
            "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": "/shop"}}],
                "filters": [],
                "backendRefs": [{"group": "", "kind": "Service", "name": "shop-sluice", "port": 8000}],
                "timeouts": {"request": "0s"},
            }],
        })
    );
}

#[test]
fn the_path_is_the_apis_base_path_and_of_a_gateway_everything() {
    let children = build(|api| {
        api["spec"]["basePath"] = json!("/v1/shop");
        api["spec"]["placement"] = json!({"deployment": {"exposure": ingress_of("None")}});
    });
    let path = |built: &Value| built["spec"]["rules"][0]["http"]["paths"][0]["path"].clone();
    assert_eq!(path(&find(&children, ChildKind::Ingress)), "/v1/shop");

    let deployment = serde_json::from_value(json!({"exposure": ingress_of("None")})).expect("a deployment");
    let (config, material, keys) = (Config::default(), Material::default(), [].into());
    let content =
        Content { config: &config, material: &material, keys: &keys, deployment: Some(&deployment) };
    let owner = Owner::gateway("a", "shop", Some("u-2"));
    let built = find(&children_of(&owner, &content), ChildKind::Ingress);
    assert_eq!(path(&built), "/");
    let service = &built["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"];
    assert_eq!((&service["name"], &service["port"]["number"]), (&json!("shop-sluice-gateway"), &json!(80)));
}

fn children_of(owner: &Owner<'_>, content: &Content<'_>) -> Vec<crate::children::Child> {
    children(owner, content, &settings()).expect("children")
}

#[test]
fn what_the_chart_does_not_allow_is_not_made_and_why_is_told() {
    let off = Settings { ingresses: false, http_routes: false, ..settings() };
    for (exposure, value) in
        [(ingress_of("Nginx"), "exposure.ingress"), (route_of("a.example.com"), "exposure.httpRoute")]
    {
        let deployment: Deployment =
            serde_json::from_value(json!({"exposure": exposure})).expect("a deployment");
        let (config, material, keys) = (Config::default(), Material::default(), [].into());
        let content =
            Content { config: &config, material: &material, keys: &keys, deployment: Some(&deployment) };
        let built = children(&Owner::gateway("a", "edge", None), &content, &off).expect("children");
        assert!(built.iter().all(|child| off.allows(child.kind)), "{built:#?}");
        let told = obstacle(&deployment, &off).expect("a reason");
        assert!(told.contains(&format!("switched off by the chart's {value}")), "{told}");
        assert_eq!(obstacle(&deployment, &settings()), None);
    }
    assert_eq!(obstacle(&Deployment::default(), &off), None, "nothing is asked for");
}

/// Annotations that are no longer right have to go, so the digest has to see them.
#[test]
fn another_controller_is_another_digest() {
    let digest = |controller: &str| {
        let children = build(|api| {
            api["spec"]["placement"] = json!({"deployment": {"exposure": ingress_of(controller)}});
        });
        find(&children, ChildKind::Ingress)["metadata"]["annotations"][APPLIED].take()
    };
    assert_ne!(digest("Nginx"), digest("None"));
}
