use std::sync::atomic::{AtomicUsize, Ordering};

use kube::client::Body;

use super::*;
use crate::lease::tests::renewed;

/// A client whose API server has nothing and takes everything, and how many writes it was sent.
fn server() -> (Client, Arc<AtomicUsize>) {
    let writes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&writes);
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let is_read = request.method() == http::Method::GET;
        counted.fetch_add(usize::from(!is_read), Ordering::SeqCst);
        let kind = if request.uri().path().contains("/pods/") { "Pod" } else { "ConfigMap" };
        let kind = if request.uri().path().ends_with("/eviction") { "Status" } else { kind };
        let found = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "shop-sluice"}});
        let missing = json!({"kind": "Status", "apiVersion": "v1", "code": 404, "reason": "NotFound"});
        let (code, body) = if is_read { (404, missing) } else { (200, found) };
        let response = http::Response::builder().status(code).body(Body::from(body.to_string().into_bytes()));
        futures::future::ready(Ok::<_, std::convert::Infallible>(response.expect("a response")))
    });
    (Client::new(service, "default"), writes)
}

/// Tries every kind of write; what became of each.
async fn every_write(writer: &Writer) -> [Result<(), ApplyError>; 8] {
    let owner = Owner::api("default", "shop", Some("u"));
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shop-sluice"}, "data": {"a": "b"}});
    let child = Child { kind: ChildKind::ConfigMap, name: "shop-sluice".into(), body: body.clone() };
    let live = |data: Value| {
        let mut live = body.clone();
        live["metadata"]["uid"] = "c".into();
        live["metadata"]["ownerReferences"] = json!([{"apiVersion": "sluice.dev/v1alpha1", "kind": "StreamAPI", "name": "shop", "uid": "u", "controller": true}]);
        live["data"] = data;
        serde_json::from_value::<DynamicObject>(live).expect("an object")
    };
    let changed = live(json!({"a": "c"}));
    let added = live(json!({"a": "b", "more": "d"}));
    let api = writer.api(&owner, ChildKind::ConfigMap);
    let till = kube::api::ObjectMeta { name: Some("till-0".into()), ..Default::default() };
    [
        writer.apply(&owner, &child, None).await.map(drop),
        writer.apply(&owner, &child, Some(&changed)).await.map(drop),
        writer.apply(&owner, &child, Some(&added)).await.map(drop),
        writer.create(&owner, &child).await.map(drop),
        writer.prune(&owner, ChildKind::ConfigMap, &added).await,
        writer.status(&api, "shop", &json!({})).await,
        writer.annotate("default", "till-0", "a", "b").await,
        writer.evict("default", &Pod { metadata: till, ..Pod::default() }).await.map(drop),
    ]
}

#[tokio::test]
async fn whoever_does_not_lead_writes_nothing() {
    let (client, writes) = server();
    let late = Writer::new(client.clone(), client, renewed(Duration::from_secs(60)));
    for result in every_write(&late).await {
        assert!(matches!(result, Err(ApplyError::NotLeading)), "{result:?}");
    }
    assert_eq!(writes.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn the_leader_writes() {
    let (client, writes) = server();
    for result in every_write(&Writer::new(client.clone(), client, renewed(Duration::ZERO))).await {
        assert!(result.is_ok(), "{result:?}");
    }
    assert_eq!(writes.load(Ordering::SeqCst), 8);
}

/// A pod that was made again under its name is another one.
#[tokio::test]
async fn an_eviction_is_of_the_pod_that_was_seen() {
    let (send, mut sent) = tokio::sync::mpsc::channel(1);
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let send = send.clone();
        async move {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect_bytes().await.expect("a body");
            send.send((path, body)).await.expect("somebody looks");
            let done = json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}).to_string();
            Ok::<_, std::convert::Infallible>(http::Response::new(Body::from(done.into_bytes())))
        }
    });
    let client = Client::new(service, "default");
    let writer = Writer::new(client.clone(), client, renewed(Duration::ZERO));
    let metadata =
        kube::api::ObjectMeta { name: Some("till-0".into()), uid: Some("u-1".into()), ..Default::default() };
    assert!(writer.evict("shop", &Pod { metadata, ..Pod::default() }).await.expect("evicted"));
    let (path, body) = sent.recv().await.expect("a request");
    assert_eq!(path, "/api/v1/namespaces/shop/pods/till-0/eviction");
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(body["kind"], "Eviction");
    assert_eq!(body["deleteOptions"]["preconditions"]["uid"], "u-1");
}
