//! Pods of others with the data plane inside: added by an API server that asks the operator, found where
//! it did not ask, and told of changes by a touch, as there is no watch in them.

use std::time::Duration;

use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use sluice_operator::children::ChildKind;
use sluice_operator::world::api_resource;
use sluice_tests::client::http::publish;
use sluice_tests::{eventually, within};

use crate::admission::Desk;
use crate::bed::{ACCOUNT, Bed, kind_of, shop};
use crate::pod::Pod;

/// A StreamAPI that is served in sidecars, from memory.
pub fn placed(sidecar: Value) -> Value {
    let mut api = shop();
    api["spec"]["placement"] = json!({"sidecar": sidecar});
    api
}

/// A Deployment of somebody else whose pods ask for the sidecar of `shop`.
pub fn workload(name: &str) -> Value {
    let labels = json!({"app": name, "sluice.dev/sidecar": "shop"});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": labels}, "spec": {
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "app", "image": "example.com/app", "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
            }}],
        }},
    }})
}

/// Lets pods of the namespace be given sidecars, and has them keep to the restricted level.
pub async fn allow(bed: &Bed) {
    let labels = json!({"metadata": {"labels": {
        "sluice.dev/injection": "enabled", "pod-security.kubernetes.io/enforce": "restricted",
    }}});
    let arguments = ["patch", "namespace", &bed.namespace, "--type=merge", "-p", &labels.to_string()];
    bed.plane.run("kubectl", &arguments, "");
}

/// The one pod of the workload `app` that is not about to end and for which `is_it` holds.
pub async fn the_pod(bed: &Bed, app: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    eventually("the workload has such a pod", || async {
        let pods = bed.list(&kind_of(&json!({"kind": "Pod"}))).await;
        pods.into_iter().find(|pod| {
            let metadata = &pod["metadata"];
            metadata["labels"]["app"] == app && metadata["deletionTimestamp"].is_null() && is_it(pod)
        })
    })
    .await
}

pub fn has_sidecar(pod: &Value) -> bool {
    pod["spec"]["initContainers"][0]["name"] == "sluice"
}

/// Tells the API server that a pod is ready.
async fn runs(bed: &Bed, pod: &str) {
    let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    let pods = bed.objects(&kind_of(&json!({"kind": "Pod"})));
    let told = pods.patch_status(pod, &PatchParams::default(), &Patch::Merge(&ready)).await;
    told.expect("a status is taken");
}

fn name(pod: &Value) -> &str {
    pod["metadata"]["name"].as_str().expect("a name")
}

/// As the operator's account: what an API server says to a patch of a pod.
async fn as_operator(bed: &Bed, pod: &str, patch: &Value) -> Result<(), String> {
    let mut config = Bed::config(bed.plane).await;
    config.auth_info.impersonate = Some(format!("system:serviceaccount:{}:{ACCOUNT}", bed.namespace));
    let pods: Api<DynamicObject> = Api::namespaced_with(
        Client::try_from(config).expect("a client"),
        &bed.namespace,
        &kind_of(&json!({"kind": "Pod"})),
    );
    let patched = pods.patch(pod, &PatchParams::default(), &Patch::Strategic(patch)).await;
    patched.map(drop).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_pod_that_asks_is_given_a_sidecar_and_serves_what_changes() {
    let desk = Desk::new("sidecar").await;
    let bed = &desk.bed;
    allow(bed).await;
    let mut operator = desk.operator().await;
    bed.apply(&placed(json!({}))).await;
    bed.told("shop", "Programmed", "False", "NoPods").await;
    bed.apply(&workload("till")).await;
    let pod = the_pod(bed, "till", has_sidecar).await;
    let sidecar = &pod["spec"]["initContainers"][0];
    assert_eq!(sidecar["restartPolicy"], "Always");
    assert_eq!(pod["spec"]["containers"][0]["env"][0]["name"], "SLUICE_URL");
    // The API server would mount a token for the sidecar, too.
    let mounts = sidecar["volumeMounts"].as_array().expect("mounts");
    let tokens: Vec<_> = mounts
        .iter()
        .filter(|mount| mount["mountPath"].as_str().is_some_and(|path| path.contains("serviceaccount")))
        .collect();
    assert_eq!(tokens.len(), 1, "{mounts:#?}");
    assert_eq!(tokens[0]["name"], "sluice-no-token");

    let running = Pod::sidecar(bed, name(&pod), "shop").await;
    bed.told("shop", "Programmed", "True", "Programmed").await;
    assert_eq!(publish(&running.url("/shop/orders"), &[], "1").await.status, 200);
    let urls = bed.get(&api_resource(), "shop").await["status"]["urls"].clone();
    assert_eq!(urls, json!(["http://127.0.0.1:15080/shop/orders"]));

    // A kubelet looks at mounts when something of the pod changes.
    let sync = |pod: &Value| pod["metadata"]["annotations"]["sluice.dev/sync"].as_str().map(str::to_owned);
    assert_eq!(sync(&pod), None, "nothing was behind so far");
    bed.patch(&api_resource(), "shop", &json!({"spec": {"description": "another"}})).await;
    the_pod(bed, "till", |pod| sync(pod).is_some()).await;
    bed.told("shop", "Programmed", "False", "Pending").await;
    running.mount(bed).await;
    bed.told("shop", "Programmed", "True", "Programmed").await;
    operator.stop().await;
}

#[tokio::test]
async fn a_pod_without_its_sidecar_is_told_and_replaced_only_if_that_is_asked_for() {
    let desk = Desk::new("missed").await;
    let bed = &desk.bed;
    allow(bed).await;
    // Nobody answers yet.
    bed.apply(&workload("till")).await;
    let missed = the_pod(bed, "till", |pod| !has_sidecar(pod)).await;
    let mut alone = workload("alone")["spec"]["template"].clone();
    (alone["apiVersion"], alone["kind"]) = (json!("v1"), json!("Pod"));
    alone["metadata"]["name"] = json!("alone");
    bed.apply(&alone).await;
    let mut operator = desk.operator().await;
    bed.apply(&placed(json!({}))).await;
    let message = bed.told("shop", "Programmed", "False", "NotInjected").await;
    assert!(message.contains(name(&missed)) && message.contains("alone"), "{message}");

    // Only when all others are ready.
    bed.apply(&placed(json!({"update": "Rollout"}))).await;
    within(Duration::from_secs(20), "it waits for the other pod", || async {
        let message = bed.told("shop", "Programmed", "False", "NotInjected").await;
        message.contains("waiting for alone").then_some(())
    })
    .await;
    assert_eq!(name(&the_pod(bed, "till", |_| true).await), name(&missed));
    runs(bed, "alone").await;
    let replaced = the_pod(bed, "till", has_sidecar).await;
    assert_ne!(name(&replaced), name(&missed));
    // Nobody would make this one again.
    within(Duration::from_secs(20), "the one that is alone is told", || async {
        let message = bed.told("shop", "Programmed", "False", "NotInjected").await;
        (message.contains("alone") && message.contains("delete them yourself")).then_some(())
    })
    .await;
    assert!(bed.find(&kind_of(&json!({"kind": "Pod"})), "alone").await.is_some());
    operator.stop().await;
}

#[tokio::test]
async fn a_disruption_budget_is_asked_and_told() {
    let desk = Desk::new("budget").await;
    let bed = &desk.bed;
    allow(bed).await;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "none"},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "till"}}}});
    bed.apply(&budget).await;
    bed.apply(&workload("till")).await;
    let missed = the_pod(bed, "till", |pod| !has_sidecar(pod)).await;
    // Of pods that do not run no budget is asked.
    runs(bed, name(&missed)).await;
    let mut operator = desk.operator().await;
    bed.apply(&placed(json!({"update": "Rollout"}))).await;
    within(Duration::from_secs(20), "it tells what keeps the pod", || async {
        let message = bed.told("shop", "Programmed", "False", "NotInjected").await;
        message.contains("disruption budget").then_some(())
    })
    .await;
    assert_eq!(name(&the_pod(bed, "till", |_| true).await), name(&missed));
    bed.delete(&ChildKind::PodDisruptionBudget.resource(), "none").await;
    the_pod(bed, "till", has_sidecar).await;
    operator.stop().await;
}

/// What a stolen token can do to pods of others: have their mounts looked at.
#[tokio::test]
async fn of_a_pod_the_operator_may_change_one_annotation() {
    let desk = Desk::new("guarded").await;
    let bed = &desk.bed;
    bed.apply(&workload("till")).await;
    let pod = the_pod(bed, "till", |_| true).await;
    let sync = json!({"metadata": {"annotations": {"sluice.dev/sync": "x"}}});
    eventually("pods of other namespaces are nothing to the operator", || async {
        let sync = json!({"metadata": {"annotations": {"sluice.dev/sync": fastrand::u64(..).to_string()}}});
        let said = as_operator(bed, name(&pod), &sync).await;
        said.err().filter(|said| said.contains("sluice.dev/injection=enabled"))
    })
    .await;
    allow(bed).await;
    let only = "sluice.dev/sync and nothing else";
    eventually("the API server knows the policy", || async {
        // What changes nothing is nobody's business.
        let image = format!("example.com/{}", fastrand::u64(..));
        let image = json!({"spec": {"containers": [{"name": "app", "image": image}]}});
        as_operator(bed, name(&pod), &image).await.err().filter(|said| said.contains(only))
    })
    .await;
    for patch in [
        json!({"metadata": {"labels": {"app": "other"}}}),
        json!({"metadata": {"annotations": {"example.com/any": "x"}}}),
        json!({"metadata": {"finalizers": ["example.com/stay"]}}),
        json!({"metadata": {"ownerReferences": [{"$patch": "replace"}]}}),
    ] {
        let said = as_operator(bed, name(&pod), &patch).await.expect_err("it is refused");
        assert!(said.contains(only), "{said}");
    }
    eventually("what it needs is allowed", || async { as_operator(bed, name(&pod), &sync).await.ok() }).await;
    // Others do with the pod what they like.
    let arguments = ["label", "pod", name(&pod), "-n", &bed.namespace, "team=shop"];
    bed.plane.run("kubectl", &arguments, "");
}

#[tokio::test]
async fn an_api_moves_between_placements_and_leaves_nothing_behind() {
    let bed = Bed::new("moved").await;
    let mut operator = bed.operator().await;
    bed.apply(&shop()).await;
    bed.told("shop", "Programmed", "False", "NoPods").await;
    let key = bed.child(ChildKind::Secret, "shop").await.expect("the material")["data"].clone();
    bed.apply(&placed(json!({}))).await;
    for kind in ChildKind::ALL.into_iter().filter(|kind| kind.is_optional()) {
        eventually("what is no longer needed goes", || async {
            bed.child(kind, "shop").await.is_none().then_some(())
        })
        .await;
    }
    bed.told("shop", "Programmed", "False", "InjectionOff").await;
    let kept = bed.child(ChildKind::Secret, "shop").await.expect("the material")["data"].clone();
    assert_eq!(kept, key, "cursors stay good");
    bed.apply(&shop()).await;
    eventually("it runs in pods of its own again", || async {
        bed.child(ChildKind::Deployment, "shop").await
    })
    .await;
    operator.stop().await;
}
