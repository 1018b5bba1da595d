//! Gateways: many APIs in one data plane, each of which stands or falls alone, and is let in or not.

use std::time::{Duration, Instant};

use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use sluice_operator::children::ChildKind;
use sluice_operator::world::{api_resource, gateway_resource};
use sluice_tests::client::http::publish;
use sluice_tests::client::websocket::WebSocket;
use sluice_tests::{ControlPlane, eventually, within};

use crate::bed::{Bed, COLLECTED, condition, policy, secret, shop};
use crate::operator::Operator;
use crate::pod::{Pod, decode};

/// Within this a namespace that is no longer allowed is no longer served.
const REVOKED: Duration = Duration::from_secs(10);

pub fn gateway(spec: Value) -> Value {
    json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "StreamGateway", "metadata": {"name": "edge"}, "spec": spec})
}

/// An API in memory on the gateway `edge`.
pub fn placed(name: &str, namespace: Option<&str>) -> Value {
    let mut api = shop();
    api["metadata"]["name"] = json!(name);
    api["spec"]["placement"] = json!({"gateway": {"name": "edge"}});
    if let Some(namespace) = namespace {
        api["spec"]["placement"]["gateway"]["namespace"] = json!(namespace);
    }
    api
}

async fn child(bed: &Bed, kind: ChildKind) -> Option<Value> {
    bed.find(&kind.resource(), "edge-sluice-gateway").await
}

/// Applies an API and waits until every pod serves it.
async fn serve(bed: &Bed, api: &Value) {
    bed.apply(api).await;
    let name = api["metadata"]["name"].as_str().expect("a name");
    bed.told(name, "Programmed", "True", "Programmed").await;
}

/// What is made from now on is younger than what is there: ages are whole seconds.
async fn younger() {
    tokio::time::sleep(Duration::from_millis(1100)).await;
}

async fn status(url: &str) -> u16 {
    publish(url, &[], "1").await.status
}

#[tokio::test]
async fn many_apis_share_a_gateway_and_each_stands_alone() {
    let bed = Bed::new("gateway").await;
    let mut operator = bed.operator().await;
    bed.apply(&placed("shop", None)).await;
    let message = bed.told("shop", "ResolvedRefs", "False", "RefNotFound").await;
    assert!(message.contains("there is no StreamGateway `edge`"), "{message}");
    bed.apply(&gateway(json!({"replicas": 2}))).await;
    bed.gateway_told("edge", "Programmed", "False", "NoPods").await;
    let pod = Pod::gateway(&bed, "edge").await;
    bed.told("shop", "Programmed", "True", "Programmed").await;
    bed.told("shop", "Available", "True", "Available").await;
    bed.gateway_told("edge", "Programmed", "True", "Programmed").await;
    let told = bed.get(&api_resource(), "shop").await["status"]["urls"].clone();
    assert_eq!(told, json!([format!("http://edge-sluice-gateway.{}.svc/shop/orders", bed.namespace)]));
    assert_eq!(bed.child(ChildKind::Deployment, "shop").await, None, "it has nothing of its own");
    assert!(child(&bed, ChildKind::PodDisruptionBudget).await.is_some());

    // Others come and go, are wrong, and change; who is connected to one notices nothing.
    let (mut socket, _) = WebSocket::begin(&pod.url("/shop/orders")).await;
    serve(&bed, &placed("chat", None)).await;
    let (mut chat, _) = WebSocket::begin(&pod.url("/chat/orders")).await;
    let mut wrong = placed("wrong", None);
    wrong["spec"]["servers"] = json!([{"name": "events", "kafka": {"brokers": ["127.0.0.1:1"], "sasl": {
        "mechanism": "PLAIN", "secretRef": {"name": "nowhere"},
    }}}]);
    bed.apply(&wrong).await;
    bed.told("wrong", "ResolvedRefs", "False", "RefNotFound").await;
    let mut twin = placed("twin", None);
    twin["spec"]["basePath"] = json!("/shop");
    younger().await;
    bed.apply(&twin).await;
    let message = bed.told("twin", "Accepted", "False", "Invalid").await;
    assert!(message.contains("belongs to the older StreamAPI"), "{message}");
    bed.gateway_told("edge", "Programmed", "True", "Programmed").await;
    assert_eq!(bed.get(&gateway_resource(), "edge").await["status"]["attachedApis"], 2);
    bed.patch(&api_resource(), "chat", &json!({"spec": {"description": "another"}})).await;
    bed.told("chat", "Programmed", "True", "Programmed").await;
    for (api, socket) in [("shop", &mut socket), ("chat", &mut chat)] {
        assert_eq!(status(&pod.url(&format!("/{api}/orders"))).await, 200);
        assert_eq!(socket.message().await.payload(), Some("1".into()), "{api}");
    }
    // Who comes after takes the path.
    bed.delete(&api_resource(), "shop").await;
    let (code, reason) = socket.close_code().await;
    assert_eq!((code, reason.as_str()), (4404, "no such API or channel"));
    bed.told("twin", "Programmed", "True", "Programmed").await;
    assert_eq!(status(&pod.url("/shop/orders")).await, 200);
    bed.delete(&api_resource(), "twin").await;
    eventually("what is deleted is served no longer", || async {
        (status(&pod.url("/shop/orders")).await == 404).then_some(())
    })
    .await;
    assert_eq!(status(&pod.url("/chat/orders")).await, 200);
    assert_eq!(chat.message().await.payload(), Some("1".into()));

    drop(chat);
    bed.delete(&gateway_resource(), "edge").await;
    bed.told("chat", "ResolvedRefs", "False", "RefNotFound").await;
    within(COLLECTED, "what the gateway consists of goes with it", || async {
        (child(&bed, ChildKind::Deployment).await.is_none() && child(&bed, ChildKind::Secret).await.is_none())
            .then_some(())
    })
    .await;
    operator.stop().await;
    pod.stop().await;
}

/// An operator for the whole cluster, and a second namespace.
pub async fn two_namespaces() -> (Bed, Bed, Operator) {
    let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start()));
    let values = ["--set", "scope=Cluster,dataplane.networkPolicies=true"];
    let infra = Bed::on(plane, "infra", &values).await;
    let team = Bed::bare(plane, "team").await;
    let mut setup = Operator::namespaced(&infra);
    setup.arguments.retain(|argument| argument == "--network-policies");
    let operator = Operator::launch(&infra, setup).await;
    operator.leads().await;
    (infra, team, operator)
}

#[tokio::test]
async fn a_namespace_is_let_in_and_out_again() {
    let (infra, team, mut operator) = two_namespaces().await;
    infra.apply(&gateway(json!({}))).await;
    let mut own = placed("own", None);
    own["spec"]["basePath"] = json!("/mine");
    infra.apply(&own).await;
    let pod = Pod::gateway(&infra, "edge").await;
    infra.told("own", "Programmed", "True", "Programmed").await;

    team.apply(&secret("keys", &[("alice", &format!("sha256:{}", "a".repeat(64)))])).await;
    let keys = json!({"authentication": {"apiKeys": {"secretRef": {"name": "keys"}}}});
    team.apply(&policy("keys", &["shop"], keys)).await;
    let guest = placed("shop", Some(&infra.namespace));
    team.apply(&guest).await;
    let message = team.told("shop", "ResolvedRefs", "False", "RefNotPermitted").await;
    assert!(message.contains("allowedNamespaces"), "{message}");
    assert_eq!(status(&pod.url("/shop/orders")).await, 404);
    let copied = |material: &Value| {
        let keys = material["data"].as_object().expect("values").keys();
        keys.filter(|key| key.contains(&team.namespace)).count()
    };
    let material = child(&infra, ChildKind::Secret).await.expect("the material");
    assert_eq!(copied(&material), 0, "nothing of it is copied before it may be there");

    let names = json!([team.namespace]);
    for (allowed, is_in) in [
        (json!({"from": "Names", "names": names}), true),
        (json!({"from": "Names", "names": ["somebody"]}), false),
        (json!({"from": "All"}), true),
        (json!({"from": "Same"}), false),
    ] {
        let begun = Instant::now();
        infra.apply(&gateway(json!({"allowedNamespaces": allowed}))).await;
        let expected = if is_in { 401 } else { 404 };
        within(REVOKED, &format!("{allowed} is in force"), || async {
            (status(&pod.url("/shop/orders")).await == expected).then_some(())
        })
        .await;
        println!("{allowed} in force after {:?}", begun.elapsed());
        match is_in {
            true => drop(team.told("shop", "Programmed", "True", "Programmed").await),
            false => drop(team.told("shop", "ResolvedRefs", "False", "RefNotPermitted").await),
        }
        let material = child(&infra, ChildKind::Secret).await.expect("the material");
        assert_eq!(copied(&material), if is_in { 2 } else { 0 }, "the key and the cursor key");
        assert_eq!(status(&pod.url("/mine/orders")).await, 200, "the gateway's own stays");
    }
    // The same names in two namespaces are two APIs; the younger has to have other paths.
    infra.apply(&gateway(json!({"allowedNamespaces": {"from": "All"}}))).await;
    team.told("shop", "Programmed", "True", "Programmed").await;
    younger().await;
    infra.apply(&placed("shop", None)).await;
    let message = infra.told("shop", "Accepted", "False", "Invalid").await;
    assert!(message.contains(&format!("`{}/shop`", team.namespace)), "{message}");
    // Somebody who names a gateway that nobody has told them of learns only that it is not there.
    let nobody = placed("lost", Some("kube-system"));
    team.apply(&nobody).await;
    team.told("lost", "ResolvedRefs", "False", "RefNotFound").await;
    operator.stop().await;
    pod.stop().await;
}

#[tokio::test]
async fn an_api_moves_to_a_gateway_and_back_and_its_cursors_stay_good() {
    let bed = Bed::new("moves").await;
    let mut operator = bed.operator().await;
    bed.apply(&shop()).await;
    let mut own = Pod::run(&bed, "shop").await;
    bed.told("shop", "Programmed", "True", "Programmed").await;
    let key = |material: &Value| {
        let at = format!("cursor-key.{}_shop", bed.namespace);
        decode(material["data"][&at].as_str().expect("a cursor key"))
    };
    let before = key(&bed.child(ChildKind::Secret, "shop").await.expect("the material"));

    // The gateway it names is not there: it stays where it is.
    bed.apply(&placed("shop", None)).await;
    let message = bed.told("shop", "Programmed", "False", "NotAccepted").await;
    assert!(message.contains("generation 1 is served"), "{message}");
    assert_eq!(status(&own.url("/shop/orders")).await, 200);
    // It is there and has no pods yet: so it does.
    bed.apply(&gateway(json!({}))).await;
    bed.told("shop", "Programmed", "False", "NoPods").await;
    assert!(bed.child(ChildKind::Deployment, "shop").await.is_some());
    // Meanwhile its own pods follow its policies.
    bed.apply(&policy("limits", &["shop"], json!({"limits": {"maxMessageBytes": 1}}))).await;
    eventually("its own pods keep to the policy", || async {
        (publish(&own.url("/shop/orders"), &[], "12345").await.status == 413).then_some(())
    })
    .await;
    own.kill();
    let shared = Pod::gateway(&bed, "edge").await;
    bed.told("shop", "Programmed", "True", "Programmed").await;
    assert_eq!(status(&shared.url("/shop/orders")).await, 200);
    for kind in ChildKind::ALL.into_iter().filter(|kind| kind.is_optional()) {
        eventually("what it had of its own goes", || async {
            bed.child(kind, "shop").await.is_none().then_some(())
        })
        .await;
    }
    within(Duration::from_secs(20), "nothing is left in what the operator may not delete", || async {
        let left = [ChildKind::Secret, ChildKind::ConfigMap].map(|kind| bed.child(kind, "shop"));
        let [secret, config] = left;
        [secret.await?, config.await?].iter().all(|left| left["data"].is_null()).then_some(())
    })
    .await;
    assert_eq!(key(&child(&bed, ChildKind::Secret).await.expect("the material")), before);

    bed.apply(&shop()).await;
    eventually("it has pods of its own again", || async { bed.child(ChildKind::Deployment, "shop").await })
        .await;
    assert_eq!(key(&bed.child(ChildKind::Secret, "shop").await.expect("the material")), before);
    eventually("the gateway serves it no longer", || async {
        (status(&shared.url("/shop/orders")).await == 404).then_some(())
    })
    .await;
    operator.stop().await;
    shared.stop().await;
}

#[tokio::test]
async fn the_certificate_of_a_gateway_is_its_own_and_is_told() {
    let bed = Bed::new("edge-tls").await;
    let mut operator = bed.operator().await;
    let https = json!([{"name": "tls", "protocol": "HTTPS", "tls": {"secretRef": {"name": "cert"}}}]);
    bed.apply(&gateway(json!({"listeners": https}))).await;
    let message = bed.gateway_told("edge", "ResolvedRefs", "False", "RefNotFound").await;
    assert!(message.contains("spec.listeners[0].tls.secretRef.name"), "{message}");
    let (certificate, key) = ("-----BEGIN CERTIFICATE-----\nx", "-----BEGIN PRIVATE KEY-----\nx");
    bed.apply(&secret("cert", &[("tls.crt", certificate), ("tls.key", key)])).await;
    bed.gateway_told("edge", "ResolvedRefs", "True", "ResolvedRefs").await;
    let config = child(&bed, ChildKind::ConfigMap).await.expect("the config");
    let config: Value =
        serde_json::from_str(config["data"]["config-v1.json"].as_str().expect("text")).expect("JSON");
    assert_eq!(config["certificate"].as_object().map(serde_json::Map::len), Some(2), "{config:#}");
    let material = child(&bed, ChildKind::Secret).await.expect("the material");
    let at = format!("{}_edge_cert_tls.crt", bed.namespace);
    assert_eq!(decode(material["data"][&at].as_str().expect("the certificate")), certificate.as_bytes());
    let told = bed.get(&gateway_resource(), "edge").await["status"]["url"].clone();
    // No default of before stays beside what is applied.
    let whole = json!({"listeners": https, "autoscaling": {"maxReplicas": 3}, "resources": {"limits": {"memory": "1Gi"}}});
    bed.apply(&gateway(json!({}))).await;
    let stored = bed.apply(&gateway(whole)).await["spec"].clone();
    assert_eq!(stored["listeners"], https);
    assert_eq!(stored["resources"]["limits"], json!({"memory": "1Gi"}));
    let stored = bed.apply(&gateway(json!({"listeners": https}))).await["spec"].clone();
    assert_eq!(stored["autoscaling"], Value::Null);
    assert_eq!(told, json!(format!("https://edge-sluice-gateway.{}.svc", bed.namespace)));
    operator.stop().await;
}

#[tokio::test]
async fn at_rest_and_after_a_restart_nothing_of_a_gateway_is_written() {
    let bed = Bed::new("edge-rest").await;
    let mut operator = bed.operator().await;
    bed.apply(&gateway(json!({}))).await;
    for n in 0..5 {
        bed.apply(&placed(&format!("api{n}"), None)).await;
    }
    let pod = Pod::gateway(&bed, "edge").await;
    for n in 0..5 {
        bed.told(&format!("api{n}"), "Available", "True", "Available").await;
    }
    bed.gateway_told("edge", "Programmed", "True", "Programmed").await;
    eventually("all are counted", || async {
        (bed.get(&gateway_resource(), "edge").await["status"]["attachedApis"] == 5).then_some(())
    })
    .await;
    let settled = async |operator: &Operator| {
        let before = (operator.looks("StreamGateway").await, operator.looks("StreamAPI").await);
        let touch = json!({"metadata": {"annotations": {"touched": format!("{before:?}")}}});
        bed.patch(&gateway_resource(), "edge", &touch).await;
        for n in 0..5 {
            bed.patch(&api_resource(), &format!("api{n}"), &touch).await;
        }
        eventually("it looked", || async {
            (operator.looks("StreamGateway").await > before.0
                && operator.looks("StreamAPI").await >= before.1 + 5.0)
                .then_some(())
        })
        .await;
    };
    settled(&operator).await;
    let mark = bed.plane.mark();
    settled(&operator).await;
    operator.stop().await;
    operator.restart();
    operator.leads().await;
    eventually("the new process knows what the pod serves", || async {
        let api = bed.get(&api_resource(), "api4").await;
        (operator.looks("StreamAPI").await >= 5.0 && condition(&api, "Programmed")["status"] == "True")
            .then_some(())
    })
    .await;
    settled(&operator).await;
    let writes = bed.writes(mark);
    assert!(writes.is_empty(), "written at rest: {writes:#?}");
    operator.stop().await;
    pod.stop().await;
}

#[tokio::test]
async fn who_scales_the_pods_is_not_fought_and_turning_it_on_closes_none() {
    let bed = Bed::new("scaled").await;
    let mut operator = bed.operator().await;
    let mut api = shop();
    api["spec"]["placement"] = json!({"deployment": {"replicas": 3}});
    bed.apply(&api).await;
    let replicas =
        async || bed.child(ChildKind::Deployment, "shop").await.map(|it| it["spec"]["replicas"].clone());
    eventually("three pods are asked for", || async { (replicas().await? == 3).then_some(()) }).await;
    let autoscaling = json!({"minReplicas": 2, "maxReplicas": 5, "connectionsPerPod": 1000});
    api["spec"]["placement"] = json!({"deployment": {"replicas": 3, "autoscaling": autoscaling}});
    bed.apply(&api).await;
    let autoscaler = eventually("there is an autoscaler", || async {
        bed.child(ChildKind::HorizontalPodAutoscaler, "shop").await
    })
    .await;
    let metric = &autoscaler["spec"]["metrics"];
    assert_eq!(metric[0]["pods"]["metric"]["name"], "sluice_connections", "{metric:#}");
    assert_eq!(metric.as_array().map(Vec::len), Some(1));
    assert_eq!(replicas().await, Some(json!(3)), "no pod ends because somebody else decides now");
    // As the autoscaler does it.
    let deployments: Api<DynamicObject> = bed.objects(&ChildKind::Deployment.resource());
    let five = json!({"spec": {"replicas": 5}});
    let scaled = deployments.patch_scale("shop-sluice", &PatchParams::default(), &Patch::Merge(&five)).await;
    scaled.expect("it is scaled");
    api["spec"]["placement"]["deployment"]["podTemplate"] =
        json!({"annotations": {"example.com/why": "another"}});
    bed.apply(&api).await;
    eventually("the pods are made from another template", || async {
        let deployment = bed.child(ChildKind::Deployment, "shop").await?;
        deployment["spec"]["template"]["metadata"]["annotations"]["example.com/why"].is_string().then_some(())
    })
    .await;
    assert_eq!(replicas().await, Some(json!(5)), "who scales is not fought");
    api["spec"]["placement"] = json!({"deployment": {"replicas": 1}});
    bed.apply(&api).await;
    eventually("it decides again", || async { (replicas().await? == 1).then_some(()) }).await;
    eventually("the autoscaler goes", || async {
        bed.child(ChildKind::HorizontalPodAutoscaler, "shop").await.is_none().then_some(())
    })
    .await;
    operator.stop().await;
}
