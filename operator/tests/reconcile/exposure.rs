//! What leads clients outside the cluster to a data plane: made, kept and taken away like everything else, where the
//! chart allows it and the cluster knows it. The definition of HTTPRoute is a stand-in.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use sluice_operator::children::ChildKind;
use sluice_operator::world::{api_resource, gateway_resource};
use sluice_tests::{ControlPlane, eventually};

use crate::bed::{Bed, condition, shop};
use crate::gateway::{gateway, placed};
use crate::operator::Operator;
use crate::rest::edit;

/// What the chart has to be told, and the operator with it.
pub const VALUES: &str = "dataplane.networkPolicies=true,exposure.ingress=true,exposure.httpRoute=true";
/// See [`VALUES`].
pub const FLAGS: [&str; 2] = ["--ingresses", "--http-routes"];
/// What can lead to a data plane.
const KINDS: [ChildKind; 2] = [ChildKind::Ingress, ChildKind::HttpRoute];

pub fn ingress(host: &str) -> Value {
    json!({"ingress": {"host": host, "className": "public", "tlsSecretName": "edge", "controller": "Nginx"}})
}

pub fn http_route(hostname: &str) -> Value {
    json!({"httpRoute": {"parentRefs": [{"name": "edge", "namespace": "infra"}], "hostnames": [hostname]}})
}

/// Has a control plane know HTTPRoutes.
pub fn define_http_routes(plane: &ControlPlane) {
    plane.run("kubectl", &["apply", "--server-side", "-f", "-"], include_str!("httproutes.yaml"));
    let crd = "crd/httproutes.gateway.networking.k8s.io";
    let wait = || plane.tool("kubectl", &["wait", "--for=condition=Established", crd], "");
    assert!((0..20).any(|_| wait().status.success()), "the definition is not established");
    // What is served is found out a moment after that.
    let found = || plane.tool("kubectl", &["get", "httproutes"], "").status.success();
    assert!((0..100).any(|_| found()), "HTTPRoutes are not served");
}

/// A namespace in which all that is allowed, and its operator.
async fn allowed(plane: &'static ControlPlane, prefix: &str) -> (Bed, Operator) {
    let bed = Bed::on(plane, prefix, &["--set", &format!("scope=Namespace,{VALUES}")]).await;
    let mut setup = Operator::namespaced(&bed);
    setup.arguments.extend(FLAGS.map(str::to_owned));
    let operator = Operator::launch(&bed, setup).await;
    operator.leads().await;
    (bed, operator)
}

fn exposed(exposure: &Value) -> Value {
    let mut api = shop();
    api["spec"]["placement"] = json!({"deployment": {"exposure": exposure}});
    api
}

/// Waits until of the two kinds there is `kind` alone, called `name`; that object.
async fn only(bed: &Bed, kind: Option<ChildKind>, name: &str) -> Value {
    eventually(&format!("{kind:?} is what leads to {name}"), || async {
        let mut there = Value::Null;
        for each in KINDS {
            match bed.find(&each.resource(), name).await {
                Some(object) if Some(each) == kind => there = object,
                None if Some(each) != kind => {}
                _ => return None,
            }
        }
        Some(there)
    })
    .await
}

/// Everything that can happen to what exposes a gateway.
pub async fn come_and_go(bed: &Bed) {
    for (kind, exposure) in [
        (Some(ChildKind::Ingress), ingress("a.example.com")),
        (Some(ChildKind::HttpRoute), http_route("a.example.com")),
        (None, Value::Null),
    ] {
        let spec = if exposure.is_null() { json!({}) } else { json!({"exposure": exposure}) };
        bed.apply(&gateway(spec)).await;
        only(bed, kind, "edge-sluice-gateway").await;
    }
}

async fn urls(bed: &Bed, api: &str) -> Value {
    bed.get(&api_resource(), api).await["status"]["urls"].clone()
}

#[tokio::test]
async fn what_exposes_an_api_is_made_changed_put_back_and_taken_away() {
    let plane = ControlPlane::shared();
    define_http_routes(plane);
    let (bed, mut operator) = allowed(plane, "exposed").await;
    let inside = format!("http://shop-sluice.{}.svc/shop/orders", bed.namespace);
    bed.apply(&exposed(&ingress("a.example.com"))).await;
    let made = only(&bed, Some(ChildKind::Ingress), "shop-sluice").await;
    assert_eq!(made["spec"]["rules"][0]["http"]["paths"][0]["path"], "/shop");
    assert_eq!(made["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-read-timeout"], "7200");
    assert_eq!(made["metadata"]["ownerReferences"][0]["controller"], true);
    bed.told("shop", "Programmed", "False", "NoPods").await;
    eventually("the URL outside is told", || async {
        (urls(&bed, "shop").await == json!([inside, "https://a.example.com/shop/orders"])).then_some(())
    })
    .await;

    let mut another = ingress("b.example.com");
    another["ingress"]["controller"] = json!("None");
    bed.apply(&exposed(&another)).await;
    eventually("another host and no annotations but the operator's own", || async {
        let ingress = bed.child(ChildKind::Ingress, "shop").await?;
        let annotations = ingress["metadata"]["annotations"].as_object()?.len();
        (ingress["spec"]["rules"][0]["host"] == "b.example.com" && annotations == 1).then_some(())
    })
    .await;
    put_back(&bed, ChildKind::Ingress).await;

    bed.apply(&exposed(&http_route("a.example.com"))).await;
    let made = only(&bed, Some(ChildKind::HttpRoute), "shop-sluice").await;
    assert_eq!(made["spec"]["rules"][0]["timeouts"], json!({"request": "0s"}));
    eventually("the name outside is told", || async {
        (urls(&bed, "shop").await == json!([inside, "//a.example.com/shop/orders"])).then_some(())
    })
    .await;
    put_back(&bed, ChildKind::HttpRoute).await;

    bed.apply(&exposed(&ingress("a.example.com"))).await;
    only(&bed, Some(ChildKind::Ingress), "shop-sluice").await;
    bed.apply(&shop()).await;
    only(&bed, None, "shop-sluice").await;
    eventually("and it is no longer told", || async {
        (urls(&bed, "shop").await == json!([inside])).then_some(())
    })
    .await;
    operator.stop().await;
}

/// What somebody changes is what it was again, but for what an API server keeps book of.
async fn put_back(bed: &Bed, kind: ChildKind) {
    let content = |object: Value| (object["spec"].clone(), object["metadata"]["annotations"].clone());
    let before = content(bed.child(kind, "shop").await.expect("it is there"));
    let edits = [
        edit(kind, &Value::Null),
        json!({"metadata": {"annotations": {"sluice.dev/applied": "somebody"}}}),
        json!({"metadata": {"labels": {"app.kubernetes.io/instance": "somebody"}}}),
    ];
    for edit in edits {
        bed.patch(&kind.resource(), "shop-sluice", &edit).await;
        eventually(&format!("{kind:?} is put back after {edit}"), || async {
            let object = bed.child(kind, "shop").await?;
            let is_labelled = object["metadata"]["labels"]["app.kubernetes.io/instance"] == "shop";
            (content(object) == before && is_labelled).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn at_rest_nothing_of_it_is_written() {
    let plane = ControlPlane::shared();
    define_http_routes(plane);
    let (bed, mut operator) = allowed(plane, "exposed-rest").await;
    // Without pods, of which others would have something to tell.
    let mut api = exposed(&ingress("a.example.com"));
    api["spec"]["placement"]["deployment"]["replicas"] = json!(0);
    bed.apply(&api).await;
    bed.apply(&gateway(json!({"exposure": http_route("*.example.com"), "replicas": 0}))).await;
    only(&bed, Some(ChildKind::Ingress), "shop-sluice").await;
    only(&bed, Some(ChildKind::HttpRoute), "edge-sluice-gateway").await;
    eventually("all is told", || async { (urls(&bed, "shop").await[1].is_string()).then_some(()) }).await;
    bed.told("shop", "Programmed", "False", "NoPods").await;
    bed.gateway_told("edge", "Programmed", "False", "NoPods").await;
    let look = async |round: usize, operator: &Operator| {
        let before = (operator.looks("StreamAPI").await, operator.looks("StreamGateway").await);
        let touch = json!({"metadata": {"annotations": {"touched": round.to_string()}}});
        bed.patch(&api_resource(), "shop", &touch).await;
        bed.patch(&gateway_resource(), "edge", &touch).await;
        eventually("the operator looked at both", || async {
            let now = (operator.looks("StreamAPI").await, operator.looks("StreamGateway").await);
            (now.0 > before.0 && now.1 > before.1).then_some(())
        })
        .await;
    };
    look(0, &operator).await;
    look(1, &operator).await;
    let mark = plane.mark();
    for round in 2..5 {
        look(round, &operator).await;
    }
    operator.stop().await;
    operator.restart();
    operator.leads().await;
    look(5, &operator).await;
    look(6, &operator).await;
    let writes = bed.writes(mark);
    assert!(writes.is_empty(), "written at rest: {writes:#?}");
    operator.stop().await;
}

#[tokio::test]
async fn a_gateway_is_exposed_for_all_that_it_serves() {
    let plane = ControlPlane::shared();
    define_http_routes(plane);
    let (bed, mut operator) = allowed(plane, "exposed-edge").await;
    bed.apply(&gateway(json!({"exposure": ingress("streams.example.com")}))).await;
    let made = only(&bed, Some(ChildKind::Ingress), "edge-sluice-gateway").await;
    assert_eq!(made["spec"]["rules"][0]["http"]["paths"][0]["path"], "/");
    bed.apply(&placed("shop", None)).await;
    let inside = format!("http://edge-sluice-gateway.{}.svc/shop/orders", bed.namespace);
    eventually("both URLs are told", || async {
        (urls(&bed, "shop").await == json!([inside, "https://streams.example.com/shop/orders"])).then_some(())
    })
    .await;
    let status = bed.get(&gateway_resource(), "edge").await["status"].clone();
    assert_eq!(status["externalUrl"], "https://streams.example.com");
    come_and_go(&bed).await;
    eventually("one is told", || async { (urls(&bed, "shop").await == json!([inside])).then_some(()) }).await;
    operator.stop().await;
}

#[tokio::test]
async fn an_object_of_somebody_else_is_never_written() {
    let plane = ControlPlane::shared();
    define_http_routes(plane);
    let (bed, mut operator) = allowed(plane, "exposed-foreign").await;
    operator.expect_log(&["exists and was not made for this object"]);
    let rule = json!({"host": "theirs.example.com", "http": {"paths": [{"path": "/", "pathType": "Prefix",
        "backend": {"service": {"name": "theirs", "port": {"number": 80}}}}]}});
    let foreign = [
        (ChildKind::Ingress, json!({"rules": [rule]}), ingress("a.example.com")),
        (ChildKind::HttpRoute, json!({"hostnames": ["theirs.example.com"]}), http_route("a.example.com")),
    ];
    for (kind, spec, exposure) in foreign {
        let resource = kind.resource();
        // Labelled as ours: it is the owner that counts.
        let metadata =
            json!({"name": "shop-sluice", "labels": {"app.kubernetes.io/managed-by": "sluice-operator"}});
        let theirs = json!({"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, "spec": spec});
        let before = bed.apply(&theirs).await["metadata"]["resourceVersion"].clone();
        bed.apply(&exposed(&exposure)).await;
        let message = bed.told("shop", "Accepted", "False", "NameTaken").await;
        assert!(message.contains(&resource.kind) && message.contains("delete or rename it"), "{message}");
        assert_eq!(bed.get(&resource, "shop-sluice").await["metadata"]["resourceVersion"], before);
        assert_eq!(urls(&bed, "shop").await.as_array().map(Vec::len), Some(1), "it leads elsewhere");
        assert!(bed.child(ChildKind::Deployment, "shop").await.is_some(), "all else is there");
        bed.delete(&resource, "shop-sluice").await;
        bed.told("shop", "Accepted", "True", "Accepted").await;
        only(&bed, Some(kind), "shop-sluice").await;
        bed.apply(&shop()).await;
        only(&bed, None, "shop-sluice").await;
    }
    operator.stop().await;
}

#[tokio::test]
async fn what_a_gateway_has_against_a_route_is_told() {
    let plane = ControlPlane::shared();
    define_http_routes(plane);
    let (bed, mut operator) = allowed(plane, "exposed-refused").await;
    bed.apply(&exposed(&http_route("a.example.com"))).await;
    let route = only(&bed, Some(ChildKind::HttpRoute), "shop-sluice").await;
    bed.told("shop", "Programmed", "False", "NoPods").await;
    let says = async |status: &str, reason: &str| {
        let accepted = json!({"type": "Accepted", "status": status, "reason": reason, "message": "no listener takes it",
            "observedGeneration": route["metadata"]["generation"], "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let parent = json!({"parentRef": {"name": "edge", "namespace": "infra"}, "controllerName": "example.com/it",
            "conditions": [accepted]});
        let patch = json!({"status": {"parents": [parent]}});
        let routes = bed.objects(&ChildKind::HttpRoute.resource());
        let done = routes.patch_status("shop-sluice", &PatchParams::default(), &Patch::Merge(&patch)).await;
        done.expect("a status is taken");
    };
    says("False", "NotAllowedByListeners").await;
    let message = bed.told("shop", "Programmed", "False", "NotExposed").await;
    for part in ["Gateway `edge`", "NotAllowedByListeners", "no listener takes it"] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(urls(&bed, "shop").await.as_array().map(Vec::len), Some(1));
    says("True", "Accepted").await;
    bed.told("shop", "Programmed", "False", "NoPods").await;
    operator.stop().await;
}

/// Neither the right nor the flag: nothing is asked for that would be denied.
#[tokio::test]
async fn what_the_chart_does_not_allow_is_told_and_not_even_looked_for() {
    let bed = Bed::new("unexposed").await;
    let mark = bed.plane.mark();
    let mut operator = bed.operator().await;
    for (exposure, value) in
        [(ingress("a.example.com"), "exposure.ingress"), (http_route("a.example.com"), "exposure.httpRoute")]
    {
        bed.apply(&exposed(&exposure)).await;
        let message = bed.told("shop", "Programmed", "False", "NotExposed").await;
        assert!(message.contains(&format!("switched off by the chart's {value}")), "{message}");
        bed.told("shop", "Accepted", "True", "Accepted").await;
        assert!(bed.child(ChildKind::Deployment, "shop").await.is_some(), "inside the cluster it is served");
        bed.apply(&gateway(json!({"exposure": exposure}))).await;
        let message = bed.gateway_told("edge", "Programmed", "False", "NotExposed").await;
        assert!(message.contains(value), "{message}");
    }
    bed.apply(&shop()).await;
    bed.told("shop", "Programmed", "False", "NoPods").await;
    operator.stop().await;
    let account = format!("system:serviceaccount:{}:", bed.namespace);
    let asked = bed.plane.requests(mark).into_iter().filter(|it| {
        it.user.starts_with(&account) && matches!(it.resource.as_str(), "ingresses" | "httproutes")
    });
    let asked: Vec<_> = asked.collect();
    assert!(asked.is_empty(), "{asked:#?}");
}

/// On a control plane of its own, which knows no HTTPRoutes until it is told of them.
#[tokio::test]
async fn a_cluster_without_the_gateway_api_is_told_of_and_holds_nothing_up() {
    let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start()));
    let (bed, mut operator) = allowed(plane, "no-routes").await;
    operator.expect_log(&["the cluster does not know this kind"]);
    bed.apply(&exposed(&http_route("a.example.com"))).await;
    let message = bed.told("shop", "Programmed", "False", "NotExposed").await;
    assert!(message.contains("does not know HTTPRoute of gateway.networking.k8s.io/v1"), "{message}");
    assert!(bed.child(ChildKind::Deployment, "shop").await.is_some(), "inside the cluster it is served");
    let mut other = exposed(&ingress("b.example.com"));
    other["metadata"]["name"] = json!("other");
    bed.apply(&other).await;
    only(&bed, Some(ChildKind::Ingress), "other-sluice").await;
    bed.told("other", "Programmed", "False", "NoPods").await;
    // It is found without a restart.
    define_http_routes(plane);
    only(&bed, Some(ChildKind::HttpRoute), "shop-sluice").await;
    bed.told("shop", "Programmed", "False", "NoPods").await;
    assert_eq!(condition(&bed.get(&api_resource(), "shop").await, "Accepted")["status"], "True");
    operator.stop().await;
    plane.end();
}
