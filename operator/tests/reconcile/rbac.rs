//! The chart grants what the operator uses, and nothing else: in both scopes, by the audit log.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sluice_operator::children::ChildKind;
use sluice_operator::world::{api_resource, policy_resource};
use sluice_tests::{ControlPlane, eventually};

use crate::admission::Desk;
use crate::bed::{ACCOUNT, Bed, policy, secret, shop};
use crate::expose;
use crate::exposure;
use crate::gateway;
use crate::operator::Operator;
use crate::pod::Pod;
use crate::sidecar;

/// Verb, group and resource.
type Right = (String, String, String);

/// What the rules of the operator's roles in the chart grant.
fn granted(plane: &ControlPlane, bed: &Bed, cluster: bool) -> BTreeSet<Right> {
    let role = if cluster { "clusterroles" } else { "roles" };
    let lease = format!("{ACCOUNT}-lease");
    let mut rights = BTreeSet::new();
    for (kind, name) in [(role, ACCOUNT), ("roles", lease.as_str())] {
        let role = plane.run("kubectl", &["get", kind, name, "-n", &bed.namespace, "-o", "json"], "");
        let role: Value = serde_json::from_str(&role).expect("JSON");
        let list = |rule: &Value, field: &str| -> Vec<String> {
            serde_json::from_value(rule[field].clone()).expect("a list of texts")
        };
        for rule in role["rules"].as_array().expect("rules") {
            for verb in list(rule, "verbs") {
                for group in list(rule, "apiGroups") {
                    rights.extend(
                        list(rule, "resources").into_iter().map(|it| (verb.clone(), group.clone(), it)),
                    );
                }
            }
        }
    }
    rights
}

/// Everything that can happen to an API and a policy.
async fn live(bed: &Bed, operator: &mut Operator, cluster: bool) {
    bed.apply(&secret("keys", &[])).await;
    let mut api = shop();
    bed.apply(&gateway::gateway(json!({}))).await;
    bed.gateway_told("edge", "Programmed", "False", "NoPods").await;
    exposure::come_and_go(bed).await;
    expose::come_and_go(bed).await;
    for most in [3, 4] {
        api["spec"]["placement"] = json!({"deployment": {"autoscaling": {"maxReplicas": most}}});
        bed.apply(&api).await;
        eventually("the autoscaler is made and changed", || async {
            let autoscaler = bed.child(ChildKind::HorizontalPodAutoscaler, "shop").await?;
            (autoscaler["spec"]["maxReplicas"] == most).then_some(())
        })
        .await;
    }
    for replicas in [2, 1] {
        api["spec"]["placement"] = json!({"deployment": {"replicas": replicas}});
        bed.apply(&api).await;
        bed.told("shop", "Programmed", "False", "NoPods").await;
        eventually("the budget is made and deleted", || async {
            (bed.child(ChildKind::PodDisruptionBudget, "shop").await.is_some() == (replicas == 2))
                .then_some(())
        })
        .await;
    }
    let keys = json!({"authentication": {"apiKeys": {"secretRef": {"name": "keys"}}}});
    bed.apply(&policy("keys", &["shop"], keys)).await;
    bed.policy_told("keys", "Accepted", "True", "Accepted").await;
    // The same Event again within a while is a patch of the first.
    for reason in ["RefNotFound", "ResolvedRefs", "RefNotFound", "ResolvedRefs", "RefNotFound"] {
        let there = reason == "ResolvedRefs";
        let label = if there { json!("true") } else { json!(null) };
        bed.patch(
            &ChildKind::Secret.resource(),
            "keys",
            &json!({"metadata": {"labels": {"sluice.dev/use": label}}}),
        )
        .await;
        bed.policy_told("keys", "ResolvedRefs", if there { "True" } else { "False" }, reason).await;
    }
    bed.apply(&sidecar::placed(json!({}))).await;
    for kind in ChildKind::ALL.into_iter().filter(|kind| kind.is_optional()) {
        eventually("what a sidecar does not need is deleted", || async {
            bed.child(kind, "shop").await.is_none().then_some(())
        })
        .await;
    }
    if cluster {
        inject(bed).await;
    }
    operator.stop().await;
    bed.delete(&policy_resource(), "keys").await;
    bed.delete(&api_resource(), "shop").await;
}

/// A pod is replaced by one with a sidecar, and that is told of a change.
async fn inject(bed: &Bed) {
    bed.apply(&sidecar::workload("till")).await;
    sidecar::the_pod(bed, "till", |pod| !sidecar::has_sidecar(pod)).await;
    sidecar::allow(bed).await;
    bed.apply(&sidecar::placed(json!({"update": "Rollout"}))).await;
    let pod = sidecar::the_pod(bed, "till", sidecar::has_sidecar).await;
    let _running = Pod::sidecar(bed, pod["metadata"]["name"].as_str().expect("a name"), "shop").await;
    let sync = |pod: &Value| pod["metadata"]["annotations"]["sluice.dev/sync"].is_string();
    bed.told("shop", "Programmed", "True", "Programmed").await;
    bed.patch(&api_resource(), "shop", &json!({"spec": {"description": "another"}})).await;
    sidecar::the_pod(bed, "till", sync).await;
}

async fn check(plane: &'static ControlPlane, cluster: bool) {
    let scope = if cluster { "scope=Cluster" } else { "scope=Namespace" };
    let values = format!("{scope},{},{}", exposure::VALUES, expose::VALUES);
    exposure::define_http_routes(plane);
    let mut bed = Bed::on(plane, "rbac", &["--set", &values]).await;
    let mut setup = Operator::namespaced(&bed);
    if cluster {
        let desk = Desk::of(bed);
        setup.arguments.retain(|argument| argument == "--network-policies");
        setup.arguments.extend(desk.own_arguments());
        bed = desk.bed;
    }
    setup.arguments.extend(exposure::FLAGS.map(str::to_owned));
    setup.arguments.push(expose::FLAG.to_owned());
    let mark = plane.mark();
    let mut operator = Operator::launch(&bed, setup).await;
    operator.leads().await;
    live(&bed, &mut operator, cluster).await;
    let user = format!("system:serviceaccount:{}:{ACCOUNT}", bed.namespace);
    let requests: Vec<_> = plane.requests(mark).into_iter().filter(|it| it.user == user).collect();
    let denied: Vec<_> = requests.iter().filter(|it| it.code == 403 || it.code == 401).collect();
    assert!(denied.is_empty(), "{denied:#?}");
    let mut used = BTreeSet::new();
    for request in requests.into_iter().filter(|it| !it.resource.is_empty()) {
        // An apply that makes an object needs the right to create it, too.
        if request.verb == "patch" && request.code == 201 {
            used.insert(("create".into(), request.group.clone(), request.resource.clone()));
        }
        used.insert((request.verb, request.group, request.resource));
    }
    let granted = granted(plane, &bed, cluster);
    let unused: Vec<_> = granted.difference(&used).collect();
    let more: Vec<_> = used.difference(&granted).collect();
    assert!(
        unused.is_empty() && more.is_empty(),
        "granted and never used: {unused:#?}; used beyond that: {more:#?}"
    );
}

#[tokio::test]
async fn every_right_of_one_namespace_is_used_and_none_is_missing() {
    check(ControlPlane::shared(), false).await;
}

/// On a control plane of its own, for this operator would look after every other test's namespace.
#[tokio::test]
async fn every_right_in_all_namespaces_is_used_and_none_is_missing() {
    let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start()));
    check(plane, true).await;
    plane.end();
}

/// What a stolen token of the operator is not good for.
#[tokio::test]
async fn a_token_of_the_operator_is_not_good_for_more() {
    let bed = Bed::new("stolen").await;
    let stranger = Bed::new("stranger").await;
    let account = format!("--as=system:serviceaccount:{}:{ACCOUNT}", bed.namespace);
    let may = |namespace: &str, what: &str| {
        let arguments = ["auth", "can-i", &account, "-n", namespace];
        let arguments: Vec<&str> = arguments.into_iter().chain(what.split(' ')).collect();
        let answer = bed.plane.tool("kubectl", &arguments, "");
        String::from_utf8_lossy(&answer.stdout).trim() == "yes"
    };
    for what in [
        "list secrets",
        "patch deployments.apps",
        "create events.events.k8s.io",
        "patch streamapis --subresource status",
    ] {
        assert!(may(&bed.namespace, what), "{what}: it needs that here");
        assert!(!may(&stranger.namespace, what), "{what}: not elsewhere");
    }
    let never = [
        "create pods",
        "delete pods",
        "create pods --subresource exec",
        "create pods --subresource ephemeralcontainers",
        "get pods --subresource log",
        "create serviceaccounts --subresource token",
        "impersonate users",
        "impersonate serviceaccounts",
        "escalate roles.rbac.authorization.k8s.io",
        "bind roles.rbac.authorization.k8s.io",
        "create clusterroles.rbac.authorization.k8s.io",
        "create clusterrolebindings.rbac.authorization.k8s.io",
        "delete secrets",
        "delete configmaps",
        "deletecollection secrets",
        "update secrets",
        "create streamapis.sluice.dev",
        "patch streamapis.sluice.dev",
        "delete streamapis.sluice.dev",
        "patch streamgateways.sluice.dev",
        "patch streampolicies.sluice.dev",
        "get nodes",
        "get namespaces",
        "patch namespaces",
        "create daemonsets.apps",
        "create jobs.batch",
        "create validatingwebhookconfigurations.admissionregistration.k8s.io",
        "create mutatingwebhookconfigurations.admissionregistration.k8s.io",
        "patch mutatingwebhookconfigurations.admissionregistration.k8s.io",
        "create customresourcedefinitions.apiextensions.k8s.io",
        "approve certificatesigningrequests.certificates.k8s.io",
        "create tokenreviews.authentication.k8s.io",
    ];
    for what in never {
        assert!(!may(&bed.namespace, what), "{what}");
    }
}
