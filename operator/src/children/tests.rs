use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::*;
use crate::{Objects, render};

const OWNER: Owner<'static> = Owner::api("a", "shop", Some("u-1"));

pub(super) fn settings() -> Settings {
    Settings {
        image: "sluice/dataplane:1".into(),
        pull_policy: "IfNotPresent".into(),
        otlp_endpoint: Some("http://collector:4318".into()),
        statsd: Some("collector:8125".into()),
        network_policies: true,
        namespace: "sluice-system".into(),
        injection: true,
        ingresses: true,
        http_routes: true,
        expose_services: true,
    }
}

#[test]
fn what_is_served_in_a_sidecar_is_what_it_mounts() {
    let children = build(|api| api["spec"]["placement"] = json!({"sidecar": {}}));
    let kinds: Vec<_> = children.iter().map(|child| child.kind).collect();
    assert_eq!(kinds, [ChildKind::Secret, ChildKind::ConfigMap]);
    assert!(kinds.iter().all(|kind| !kind.is_optional()), "they stay when the API moves");
}

pub(super) fn build(change: impl FnOnce(&mut Value)) -> Vec<Child> {
    build_with(&[], change)
}

pub(super) fn build_with(secrets: &[Value], change: impl FnOnce(&mut Value)) -> Vec<Child> {
    let mut api = json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "StreamAPI",
        "metadata": {"name": "shop", "namespace": "a", "generation": 3},
        "spec": {
            "servers": [{"name": "events", "kafka": {"brokers": ["kafka:9092"], "sasl": {
                "mechanism": "SCRAM-SHA-512", "secretRef": {"name": "login"},
            }}}],
            "channels": [{
                "name": "orders", "server": "events", "address": "orders.v1",
                "subscribe": {"transports": {"sse": {}}},
            }],
        },
    });
    change(&mut api);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "login", "namespace": "a", "labels": {"sluice.dev/use": "true"}},
        "data": {"username": "c2x1aWNl", "password": "aHVudGVyMg==", "other": "dW51c2Vk"},
    });
    let mut objects = Objects::default();
    objects.apis.push(serde_json::from_value(api).expect("an API"));
    for secret in secrets.iter().chain([&secret]) {
        objects.secrets.push(serde_json::from_value(secret.clone()).expect("a Secret"));
    }
    let rendered = render(&objects, &Config::default());
    assert!(rendered.refused.is_empty(), "{:?}", rendered.refused);
    let entry = &rendered.config.apis["a/shop"];
    let keys = [(entry.api.key(), vec![7; 32])].into();
    let content = Content {
        config: &rendered.config,
        material: &rendered.material,
        keys: &keys,
        deployment: entry.api.spec.placement.deployment(),
    };
    children(&OWNER, &content, &settings()).expect("children")
}

pub(super) fn find(children: &[Child], kind: ChildKind) -> Value {
    children.iter().find(|child| child.kind == kind).map(|child| child.body.clone()).unwrap_or_default()
}

/// Every field that was built is a field of the type, by its right name.
pub(super) fn is_typed<T: DeserializeOwned + Serialize>(built: &Value) {
    let typed: T = serde_json::from_value(built.clone()).expect("the type");
    let mut again = serde_json::to_value(typed).expect("JSON");
    again["apiVersion"] = built["apiVersion"].clone();
    again["kind"] = built["kind"].clone();
    let difference = crate::compare::difference(built, &again);
    assert_eq!(difference, crate::compare::Difference::None, "{built:#} is not {again:#}");
}

#[test]
fn every_child_is_what_its_kind_says() {
    let children = build(|api| {
        let autoscaling =
            json!({"minReplicas": 3, "maxReplicas": 5, "cpuUtilization": 60, "connectionsPerPod": 9});
        let exposure = json!({"ingress": {"host": "a.example.com", "className": "nginx"}});
        api["spec"]["placement"] = json!({"deployment": {"autoscaling": autoscaling, "exposure": exposure, "podTemplate": {
            "labels": {"team": "a"}, "annotations": {"note": "b"}, "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}],
            "topologySpreadConstraints": [{
                "maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            }],
            "priorityClassName": "high", "imagePullSecrets": [{"name": "pull"}],
        }}});
    });
    let kinds: Vec<_> = children.iter().map(|child| child.kind).collect();
    let others = ChildKind::ALL.into_iter().filter(|kind| *kind != ChildKind::HttpRoute);
    assert_eq!(kinds, others.collect::<Vec<_>>(), "of the two that expose it there is one");
    is_typed::<Secret>(&find(&children, ChildKind::Secret));
    is_typed::<ConfigMap>(&find(&children, ChildKind::ConfigMap));
    is_typed::<ServiceAccount>(&find(&children, ChildKind::ServiceAccount));
    is_typed::<Role>(&find(&children, ChildKind::Role));
    is_typed::<RoleBinding>(&find(&children, ChildKind::RoleBinding));
    is_typed::<Service>(&find(&children, ChildKind::Service));
    is_typed::<NetworkPolicy>(&find(&children, ChildKind::NetworkPolicy));
    is_typed::<PodDisruptionBudget>(&find(&children, ChildKind::PodDisruptionBudget));
    is_typed::<Deployment>(&find(&children, ChildKind::Deployment));
    is_typed::<HorizontalPodAutoscaler>(&find(&children, ChildKind::HorizontalPodAutoscaler));
    is_typed::<Ingress>(&find(&children, ChildKind::Ingress));
}

#[test]
fn whoever_scales_the_pods_is_the_only_one() {
    let children = build(|api| {
        api["spec"]["placement"] = json!({"deployment": {"replicas": 3, "autoscaling": {"maxReplicas": 5}}});
    });
    assert_eq!(find(&children, ChildKind::Deployment)["spec"]["replicas"], Value::Null);
    let autoscaler = find(&children, ChildKind::HorizontalPodAutoscaler);
    assert_eq!(autoscaler["spec"]["minReplicas"], 1);
    assert_eq!(autoscaler["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70);
    assert_eq!(autoscaler["spec"]["scaleTargetRef"]["name"], "shop-sluice");
    let budget = find(&children, ChildKind::PodDisruptionBudget);
    assert_eq!(budget, Value::Null, "one pod may be all there is, and it must be able to go");
}

#[test]
fn children_are_named_labelled_and_owned() {
    for child in build(|_| {}) {
        let metadata = &child.body["metadata"];
        assert_eq!(metadata["name"], "shop-sluice");
        assert_eq!(metadata["namespace"], "a");
        assert_eq!(metadata["labels"][API_LABEL], "shop");
        assert_eq!(metadata["labels"][MANAGED_BY.0], MANAGED_BY.1);
        assert_eq!(metadata["ownerReferences"][0]["uid"], "u-1");
        assert_eq!(metadata["ownerReferences"][0]["controller"], true);
        assert_eq!(metadata["annotations"][APPLIED].as_str().map(str::len), Some(16));
    }
}

#[test]
fn a_pod_disruption_budget_comes_with_the_second_replica() {
    let has = |replicas: u32| {
        let children = build(|api| api["spec"]["placement"] = json!({"deployment": {"replicas": replicas}}));
        !find(&children, ChildKind::PodDisruptionBudget).is_null()
    };
    assert_eq!([0, 1, 2, 3].map(has), [false, false, true, true]);
}

#[test]
fn an_https_listener_has_ports_and_its_certificate_and_may_stand_alone() {
    let certificate = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "cert", "namespace": "a", "labels": {"sluice.dev/use": "true"}},
        "data": {"tls.crt": base64(b"-----BEGIN CERTIFICATE-----\n"), "tls.key": base64(b"-----BEGIN PRIVATE KEY-----\n")},
    });
    let listener =
        json!({"name": "tls", "protocol": "HTTPS", "port": 8443, "tls": {"secretRef": {"name": "cert"}}});
    let children = build_with(&[certificate], |api| {
        api["spec"]["placement"] = json!({"deployment": {"listeners": [listener]}});
    });
    let service = find(&children, ChildKind::Service);
    assert_eq!(service["spec"]["ports"].as_array().map(Vec::len), Some(1));
    assert_eq!(service["spec"]["ports"][0]["port"], 8443);
    let container = &find(&children, ChildKind::Deployment)["spec"]["template"]["spec"]["containers"][0];
    let arguments = container["args"].to_string();
    assert!(arguments.contains("--listen-tls=0.0.0.0:8443"), "{arguments}");
    assert!(arguments.contains("--listen=127.0.0.1:8080"), "{arguments}");
    assert_eq!(
        container["ports"][0],
        json!({"name": "https", "containerPort": 8443, "hostPort": 0, "protocol": "TCP"})
    );
    let secret = find(&children, ChildKind::Secret);
    assert!(secret["data"]["a_shop_cert_tls.key"].is_string(), "{secret}");
    let policy = find(&children, ChildKind::NetworkPolicy);
    assert_eq!(policy["spec"]["ingress"][0]["ports"], json!([{"port": "https", "protocol": "TCP"}]));
}

#[test]
fn the_secret_holds_exactly_the_keys_that_are_referenced() {
    let secret = find(&build(|_| {}), ChildKind::Secret);
    let keys: Vec<_> = secret["data"].as_object().expect("data").keys().collect();
    assert_eq!(keys, ["a_shop_login_password", "a_shop_login_username", "cursor-key.a_shop"]);
    assert_eq!(secret["data"]["a_shop_login_password"], "aHVudGVyMg==");
}

#[test]
fn no_reference_changes_the_pods() {
    let before = find(&build(|_| {}), ChildKind::Deployment);
    let after = build(|api| {
        api["spec"]["channels"][0]["address"] = json!("orders.v2");
        api["spec"]["servers"][0]["kafka"]["brokers"] = json!(["other:9092"]);
        api["metadata"]["generation"] = json!(4);
    });
    assert_eq!(before, find(&after, ChildKind::Deployment));
    assert_ne!(find(&build(|_| {}), ChildKind::ConfigMap), find(&after, ChildKind::ConfigMap));
}

#[test]
fn the_pods_are_restricted() {
    let deployment = find(&build(|_| {}), ChildKind::Deployment);
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0]["securityContext"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(container["allowPrivilegeEscalation"], false);
    assert_eq!(container["readOnlyRootFilesystem"], true);
    assert_eq!(container["capabilities"]["drop"][0], "ALL");
    let role = find(&build(|_| {}), ChildKind::Role);
    assert_eq!(role["rules"].as_array().map(Vec::len), Some(1));
    assert_eq!(role["rules"][0]["resourceNames"], json!(["shop-sluice"]));
    assert_eq!(role["rules"][0]["verbs"], json!(["watch"]));
}

#[test]
fn labels_of_the_user_do_not_replace_those_of_the_operator() {
    let deployment = find(
        &build(|api| {
            api["spec"]["placement"] = json!({"deployment": {"podTemplate": {
                "labels": {"team": "a"}, "annotations": {"note": "b"},
            }}});
        }),
        ChildKind::Deployment,
    );
    let metadata = &deployment["spec"]["template"]["metadata"];
    assert_eq!(metadata["labels"]["team"], "a");
    assert_eq!(metadata["labels"]["app.kubernetes.io/instance"], "shop");
    assert_eq!(metadata["annotations"], json!({"note": "b"}));
}

#[test]
fn a_large_config_is_compressed_and_a_huge_one_is_refused() {
    let config = |noise: &mut dyn FnMut() -> String| {
        let mut config = Config::default();
        for index in 0..900 {
            let entry = sluice_config::Entry {
                generation: 1,
                revision: noise(),
                api: sluice_config::config::Api {
                    namespace: "a".into(),
                    name: format!("api-{index}"),
                    spec: Default::default(),
                },
                policies: Default::default(),
                material: [(noise(), noise())].into(),
            };
            config.apis.insert(format!("a/api-{index}"), entry.into());
        }
        config
    };
    let compressed = config_map(&config(&mut || "x".repeat(400))).expect("fits");
    let bytes: ByteString =
        serde_json::from_value(compressed["binaryData"][CONFIG_KEY_ZSTD].clone()).expect("base64");
    let text = zstd::decode_all(bytes.0.as_slice()).expect("zstd");
    assert_eq!(serde_json::from_slice::<Config>(&text).expect("a config").apis.len(), 900);
    let mut state = 1_u64;
    let mut random = || {
        let digits = (0..40).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            format!("{state:016x}")
        });
        digits.collect::<String>()
    };
    let refused = config_map(&config(&mut random)).expect_err("is too large");
    assert!(refused.to_string().contains("more than the 921600 that"), "{refused}");
}

#[test]
fn the_cursor_key_has_a_secret_of_its_own() {
    let secret = cursor_secret(&OWNER, &[1; 32]);
    assert_eq!(secret.name, "shop-sluice-cursor");
    assert_eq!(secret.body["metadata"]["name"], "shop-sluice-cursor");
    is_typed::<Secret>(&secret.body);
}
