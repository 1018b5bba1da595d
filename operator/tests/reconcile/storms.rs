//! Much at once, and others who interfere: a quota, a flood of edits, other appliers, a namespace that ends, and a
//! certificate that nobody renewed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use sluice_operator::children::ChildKind;
use sluice_operator::world::api_resource;
use sluice_tests::cluster::Request;
use sluice_tests::{eventually, within};

use crate::admission::Desk;
use crate::bed::{Bed, CHILDREN, COLLECTED, named, shop};
use crate::children::{children_of, managed, written};
use crate::gateway::two_namespaces;
use crate::pod::Pod;

/// The longest pause between two attempts at the same.
const RETRIED: Duration = Duration::from_secs(60);
/// How long everything may take that a thousand edits are to be sent in.
const MINUTE: Duration = Duration::from_secs(60);
/// How soon after the last edit it is written, and what others took is back.
const SOON: Duration = Duration::from_secs(10);
/// Whoever writes nothing for so long is at rest.
const REST: Duration = Duration::from_secs(3);
/// APIs that are edited at once, and how often each.
const FLOOD: (usize, usize) = (4, 250);
/// The Secret with the webhook's certificate.
const CERTIFICATE: &str = "sluice-operator-webhook";

/// What `managed` finds of these APIs.
fn children_of_all(apis: &[&str]) -> BTreeSet<(&'static str, String)> {
    apis.iter().flat_map(|api| children_of(api, false)).collect()
}

/// Makes a quota that leaves no room for Deployments, and waits until the API server keeps to it.
async fn no_room(bed: &Bed) {
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"},
        "spec": {"hard": {"count/deployments.apps": "0"}}});
    bed.plane.run("kubectl", &["create", "-n", &bed.namespace, "-f", "-"], &quota.to_string());
    let labels = json!({"app": "probe"});
    let probe = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "probe"}, "spec": {
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "a"}]}},
    }});
    // It is in force when a controller has counted what there is.
    within(MINUTE, "the quota is in force", || async {
        let arguments = ["create", "--dry-run=server", "-n", &bed.namespace, "-f", "-"];
        let said = bed.plane.tool("kubectl", &arguments, &probe.to_string());
        String::from_utf8_lossy(&said.stderr).contains("exceeded quota: none").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_quota_is_told_and_what_is_due_follows_when_there_is_room() {
    let (infra, team, mut operator) = two_namespaces().await;
    operator.expect_log(&["exceeded quota: none"]);
    team.apply(&named("before")).await;
    team.told("before", "Programmed", "False", "NoPods").await;
    no_room(&team).await;
    team.apply(&named("shop")).await;
    let message = team.told("shop", "Programmed", "False", "ApplyFailed").await;
    for part in ["Deployment `shop-sluice` was refused", "exceeded quota: none", "count/deployments.apps=0"] {
        assert!(message.contains(part), "{message} lacks {part}");
    }
    team.told("shop", "Accepted", "True", "Accepted").await;
    // Neither what was there before nor another namespace waits for it.
    infra.apply(&named("shop")).await;
    infra.told("shop", "Programmed", "False", "NoPods").await;
    assert_eq!(managed(&infra).await, children_of("shop", false));
    team.patch(&api_resource(), "before", &json!({"spec": {"description": "edited"}})).await;
    written(&team, "before", "edited", SOON).await;
    assert_eq!(team.child(ChildKind::Deployment, "shop").await, None);

    team.plane.run("kubectl", &["delete", "resourcequota", "none", "-n", &team.namespace], "");
    let begun = Instant::now();
    within(RETRIED, "what was due is made", || team.child(ChildKind::Deployment, "shop")).await;
    println!("made {:?} after there was room", begun.elapsed());
    let pod = Pod::run(&team, "shop").await;
    team.told("shop", "Programmed", "True", "Programmed").await;
    assert_eq!(managed(&team).await, children_of_all(&["before", "shop"]));
    pod.stop().await;
    operator.stop().await;
    team.plane.end();
}

/// Edits the API again and again, as fast as it is answered.
async fn flood(bed: &Bed, api: &str) {
    let apis = bed.objects(&api_resource());
    for edit in 1..=FLOOD.1 {
        let patch = Patch::Merge(json!({"spec": {"description": format!("edit {edit}")}}));
        loop {
            match apis.patch(api, &PatchParams::default(), &patch).await {
                Ok(_) => break,
                // The operator wrote a status in between, again and again.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => panic!("{api}: {error}"),
            }
        }
    }
}

#[tokio::test]
async fn a_thousand_updates_in_a_minute_end_with_the_last_one() {
    let bed = Bed::new("flood").await;
    let mut operator = bed.operator().await;
    let apis: Vec<String> = (0..FLOOD.0).map(|n| format!("api{n}")).collect();
    let apis: Vec<&str> = apis.iter().map(String::as_str).collect();
    for api in &apis {
        bed.apply(&named(api)).await;
        bed.told(api, "Programmed", "False", "NoPods").await;
    }
    let (mark, begun) = (bed.plane.mark(), Instant::now());
    futures::future::join_all(apis.iter().map(|api| flood(&bed, api))).await;
    let took = begun.elapsed();
    assert!(took < MINUTE, "{took:?}");
    for api in &apis {
        written(&bed, api, &format!("edit {}", FLOOD.1), SOON).await;
        bed.told(api, "Programmed", "False", "NoPods").await;
    }
    println!("all of it is told {:?} after the last of {:?}", begun.elapsed() - took, took);
    within(MINUTE, "it comes to rest", || async {
        let mark = bed.plane.mark();
        tokio::time::sleep(REST).await;
        bed.writes(mark).is_empty().then_some(())
    })
    .await;
    let mut writes = bed.writes(mark);
    writes.retain(|it| it.resource != "events");
    let kinds: BTreeSet<_> = writes.iter().map(|it| (it.verb.as_str(), it.resource.as_str())).collect();
    assert_eq!(kinds, [("patch", "configmaps"), ("patch", "streamapis/status")].into());
    for api in &apis {
        let child = format!("{api}-sluice");
        let of = |resource: &str, name: &str| {
            writes.iter().filter(|it| it.resource == resource && it.name == name).count()
        };
        let (maps, statuses) = (of("configmaps", &child), of("streamapis/status", api));
        println!("{api}: {maps} configs and {statuses} statuses written for {} edits", FLOOD.1);
        assert!(maps <= FLOOD.1, "{maps} configs for {} edits", FLOOD.1);
        let generation = bed.get(&api_resource(), api).await["metadata"]["generation"].clone();
        assert_eq!(generation, FLOOD.1 + 1, "one for each edit");
    }
    assert_eq!(managed(&bed).await, children_of_all(&apis));
    operator.stop().await;
}

/// What somebody else takes by force, as the part that is applied.
fn seizures() -> [(ChildKind, Value); 7] {
    let template = json!({"spec": {"terminationGracePeriodSeconds": 1}});
    [
        (ChildKind::Deployment, json!({"spec": {"replicas": 3, "template": template}})),
        (ChildKind::ConfigMap, json!({"data": {"config-v1.json": "{}"}})),
        (ChildKind::Service, json!({"spec": {"selector": {"app.kubernetes.io/instance": "other"}}})),
        (ChildKind::Role, json!({"rules": []})),
        // As Helm does with what it adopts. The operator's own watch loses sight of it then.
        (
            ChildKind::ServiceAccount,
            json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "Helm"}}}),
        ),
        (ChildKind::NetworkPolicy, json!({"metadata": {"annotations": {"sluice.dev/applied": "theirs"}}})),
        (ChildKind::RoleBinding, json!({"metadata": {"labels": {"sluice.dev/api": "other"}}})),
    ]
}

/// An object without what the API server and other controllers keep book of.
fn content(mut object: Value) -> Value {
    for field in ["resourceVersion", "generation"] {
        object["metadata"][field] = Value::Null;
    }
    object["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = Value::Null;
    object["status"] = Value::Null;
    object
}

#[tokio::test]
async fn what_others_apply_by_force_is_taken_back_by_one_patch() {
    let bed = Bed::new("seized").await;
    let mut operator = bed.operator().await;
    bed.apply(&shop()).await;
    bed.told("shop", "Programmed", "False", "NoPods").await;
    let theirs = PatchParams::apply("somebody").force();
    for (round, (kind, part)) in seizures().into_iter().enumerate() {
        let before = content(bed.child(kind, "shop").await.expect("it is whole"));
        let resource = kind.resource();
        let mut body = part.clone();
        (body["apiVersion"], body["kind"]) = (json!(resource.api_version), json!(resource.kind));
        body["metadata"]["name"] = json!("shop-sluice");
        let mark = bed.plane.mark();
        let taken = bed.objects(&resource).patch("shop-sluice", &theirs, &Patch::Apply(&body)).await;
        taken.unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        within(SOON, &format!("{kind:?} is as it was after {part}"), || async {
            (content(bed.child(kind, "shop").await?) == before).then_some(())
        })
        .await;
        // When the operator has looked once more, whatever it wanted to write before that is written.
        let looks = operator.looks("StreamAPI").await;
        let touch = json!({"metadata": {"annotations": {"touched": round.to_string()}}});
        bed.patch(&api_resource(), "shop", &touch).await;
        eventually("it looked", || async { (operator.looks("StreamAPI").await > looks).then_some(()) }).await;
        let writes = bed.writes(mark);
        // What is labelled otherwise is no longer seen, and met when it is made anew.
        let is_of_child = |it: &&Request| !["events.k8s.io", "sluice.dev"].contains(&it.group.as_str());
        let children: Vec<_> = writes.iter().filter(|it| is_of_child(it) && it.code < 400).collect();
        let [write] = children.as_slice() else { panic!("{kind:?}: {children:#?}") };
        assert_eq!((write.verb.as_str(), write.resource.as_str()), ("patch", kind.names().3), "{part}");
    }
    assert_eq!(managed(&bed).await, children_of("shop", false));
    operator.stop().await;
}

#[tokio::test]
async fn a_namespace_that_ends_while_its_apis_are_made_is_left_in_peace() {
    let (infra, team, mut operator) = two_namespaces().await;
    // What was asked for on behalf of an API that was there a moment ago.
    operator.expect_log(&["not found", "UID in precondition"]);
    infra.apply(&shop()).await;
    infra.told("shop", "Programmed", "False", "NoPods").await;
    let mark = infra.plane.mark();
    for n in 0..20 {
        team.apply(&named(&format!("api{n}"))).await;
    }
    team.plane.run("kubectl", &["delete", "namespace", &team.namespace, "--wait=false"], "");
    within(COLLECTED, "the namespace is gone", || async {
        let found = team.plane.tool("kubectl", &["get", "namespace", &team.namespace], "");
        (!found.status.success()).then_some(())
    })
    .await;
    let of_team = |mark| infra.writes(mark).into_iter().filter(|it| it.namespace == team.namespace);
    let is_child = |resource: &str| CHILDREN.iter().any(|kind| kind.names().3 == resource);
    let made = of_team(mark).filter(|it| it.code < 400 && is_child(&it.resource)).count();
    println!("{made} children were written before the end");
    within(MINUTE, "it comes to rest", || async {
        let mark = infra.plane.mark();
        tokio::time::sleep(REST).await;
        (of_team(mark).count() == 0).then_some(())
    })
    .await;
    infra.patch(&api_resource(), "shop", &json!({"spec": {"description": "edited"}})).await;
    written(&infra, "shop", "edited", SOON).await;
    operator.stop().await;
    infra.plane.end();
}

/// Nobody led for three months: what is found then is of no use to anybody.
#[tokio::test]
async fn an_expired_certificate_is_replaced_by_whoever_leads_next() {
    let desk = Desk::new("expired").await;
    let mut operator = desk.operator().await;
    operator.stop().await;
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut parameters = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2020, 4, 1);
    let expired = parameters.self_signed(&key).expect("a certificate").pem();
    let secrets = ChildKind::Secret.resource();
    let found = json!({
        "metadata": {"annotations": {"sluice.dev/not-after": "2020-04-01T00:00:00Z"}},
        "stringData": {"ca.crt": expired, "tls.crt": expired, "tls.key": key.serialize_pem()},
    });
    desk.bed.patch(&secrets, CERTIFICATE, &found).await;
    let before = desk.bed.get(&secrets, CERTIFICATE).await["data"]["tls.crt"].clone();
    // It waits until the API server trusts it, asks, and is answered.
    let mut next = desk.operator().await;
    let after = desk.bed.get(&secrets, CERTIFICATE).await["data"]["tls.crt"].clone();
    assert_ne!(after, before);
    desk.bed.apply(&shop()).await;
    desk.bed.told("shop", "Accepted", "True", "Accepted").await;
    next.stop().await;
}
