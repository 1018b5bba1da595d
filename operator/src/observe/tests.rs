use kube::runtime::reflector::ObjectRef;
use serde_json::{Value, json};

use super::*;
use crate::world::{Dirty, api_resource, gateway_resource};

#[test]
fn many_pods_are_asked_less_often_and_none_more() {
    assert_eq!([0, 1, 150].map(interval), [EVERY; 3]);
    assert_eq!(interval(900), Duration::from_secs(60));
}

#[test]
fn what_a_pod_says_of_itself_is_bounded() {
    let pod = |apis: &str| -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "a", "uid": "u", "labels": {sidecar::INJECTED: "true"},
                "annotations": {sidecar::APIS: apis}},
            "status": {"phase": "Pending", "podIP": "10.0.0.1"},
        }))
        .expect("a pod")
    };
    let (_, apis, address) = running(&pod("stock,shop,shop")).expect("a sidecar may run before its pod");
    let named = ["shop", "stock"].map(|api| ("a".to_owned(), api.to_owned()));
    assert_eq!(apis, Serves::Apis(named.into()));
    assert_eq!(address.port(), sidecar::ADMIN_PORT);
    let many: Vec<String> = (0..1000).map(|n| format!("api-{n}")).collect();
    let (_, apis, _) = running(&pod(&format!("{},{}", "x".repeat(1000), many.join(",")))).expect("a pod");
    let Serves::Apis(apis) = apis else { panic!("it is no gateway") };
    assert_eq!(apis.len(), sidecar::MOST_APIS - 1);
}

#[test]
fn of_a_gateway_only_the_apis_that_fare_otherwise_are_looked_at() {
    let served = |name: &str, revision: &str| {
        let served = Served {
            namespace: "a".into(),
            name: name.into(),
            revision: revision.into(),
            material: BTreeMap::new(),
        };
        (format!("a/{name}"), served)
    };
    let server = |api: &str, up| ServerView {
        namespace: "a".into(),
        api: api.into(),
        server: "events".into(),
        up,
        reason: None,
    };
    let before = Report {
        apis: ["one", "two", "gone", "down"].map(|name| served(name, "1")).into(),
        refused: Vec::new(),
        servers: vec![server("one", true), server("down", true)],
    };
    assert!(changed(&before, &before).is_empty());
    let refused = RefusedApi { api: "a/wrong".into(), revision: "1".into(), problems: Vec::new() };
    let now = Report {
        apis: [served("one", "1"), served("two", "2"), served("new", "1"), served("down", "1")].into(),
        refused: vec![refused],
        servers: vec![server("one", true), server("down", false)],
    };
    let names: Vec<_> = changed(&before, &now).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["down", "gone", "new", "two", "wrong"]);
}

/// An observer of these pods, ready or not.
fn observer(pods: &[(&str, &Serves, bool)]) -> Observer {
    let observer = Observer::default();
    for (name, serves, ready) in pods {
        let view = PodView {
            name: (*name).into(),
            ready: *ready,
            placement: Place::Deployment,
            was_asked: false,
            report: Err("it has not been asked yet".into()),
        };
        let address = SocketAddr::from(([127, 0, 0, 1], ADMIN_PORT));
        let serves = Serves::clone(serves);
        let namespace = "a".to_owned();
        let asked =
            Asked { namespace, serves, address, view, streams: None, next: Instant::now(), pause: HURRY };
        observer.pods.lock().insert((*name).into(), asked);
    }
    observer
}

/// What a pod says that serves the revision 1 of APIs; without counts as earlier versions do.
fn answer(apis: &[(&str, Option<Value>)]) -> Answer {
    let api = |(name, streams): &(&str, Option<Value>)| {
        let mut api = json!({"namespace": "a", "name": name, "revision": "1"});
        if let Some(streams) = streams {
            api["streams"] = streams.clone();
        }
        api
    };
    let shown = json!({"apis": apis.iter().map(api).collect::<Vec<_>>(), "refused": []});
    serde_json::from_value::<Shown>(shown).expect("what a data plane shows").answer(Vec::new())
}

fn name(name: &str) -> Name {
    ("a".into(), name.into())
}

/// X09: status does not move with traffic.
#[test]
fn streams_come_and_go_and_nothing_is_looked_at_for_them() {
    let gateway = Serves::Gateway(name("edge"));
    let observer = observer(&[("own", &Serves::Apis(vec![name("shop")]), true), ("shared", &gateway, true)]);
    let dirty = AllDirty::default();
    dirty.apis.begin();
    dirty.gateways.begin();
    let looked_at = |dirty: &Dirty, resource| {
        let mut names = std::pin::pin!(dirty.stream(resource));
        let next: Option<Option<ObjectRef<_>>> =
            futures::FutureExt::now_or_never(futures::StreamExt::next(&mut names));
        next.flatten().map(|reference| reference.name)
    };
    let touched = || [looked_at(&dirty.apis, api_resource()), looked_at(&dirty.gateways, gateway_resource())];
    let tells = |pod: &str, sse: u64| {
        let streams = if sse == 0 { json!({}) } else { json!({"orders": {"sse": sse, "later": 7}}) };
        observer.note(pod, Ok(answer(&[("shop", Some(streams))])), &dirty);
    };
    tells("own", 1);
    tells("shared", 1);
    assert_eq!(touched(), ["shop", "edge"].map(|name| Some(name.to_owned())), "they were asked");
    for sse in [5, 0, 9] {
        tells("own", sse);
        tells("shared", sse);
        assert_eq!(touched(), [None, None]);
    }
    observer.note("own", Err("it is gone".into()), &dirty);
    assert_eq!(touched()[0].as_deref(), Some("shop"));
}

#[test]
fn streams_are_known_if_every_ready_pod_tells_them() {
    let serves = Serves::Apis(vec![name("shop")]);
    let gateway = Serves::Gateway(name("edge"));
    let pods = [("one", &serves, true), ("two", &serves, true), ("late", &serves, false)];
    let observer = observer(&[&pods[..], &[("shared", &gateway, true)]].concat());
    let dirty = AllDirty::default();
    let note = |pod, apis: &[_]| observer.note(pod, Ok(answer(apis)), &dirty);
    let streams = |value: Value| -> Option<Streams> { Some(serde_json::from_value(value).expect("counts")) };
    let (shop, edge) = (name("shop"), name("edge"));
    let orders = |websocket: u64| Some(json!({"orders": {"websocket": websocket}}));
    note("one", &[("shop", orders(2))]);
    note("two", &[("shop", orders(1))]);
    assert_eq!(observer.streams(&shop, None), None, "it is not known which pods there are");
    observer.listed.store(true, Ordering::SeqCst);
    assert_eq!(observer.streams(&shop, None), streams(json!({"orders": {"websocket": 3}})));
    assert_eq!(observer.streams(&name("none"), None), streams(json!({})));
    assert_eq!((observer.streams(&shop, Some(&edge)), observer.streams_of_gateway(&edge)), (None, None));
    note("shared", &[("shop", Some(json!({"notes": {"sse": 4}}))), ("chat", Some(json!({})))]);
    let both = streams(json!({"orders": {"websocket": 3}, "notes": {"sse": 4}}));
    assert_eq!(observer.streams(&shop, Some(&edge)), both);
    let on_edge = streams(json!({"notes": {"sse": 4}})).map(|shop| ByApi::from([("a/shop".into(), shop)]));
    assert_eq!(observer.streams_of_gateway(&edge), on_edge);
    // Of another version, and one that does not answer.
    note("two", &[("shop", None)]);
    assert_eq!(observer.streams(&shop, None), None);
    note("two", &[("shop", orders(u64::MAX))]);
    assert_eq!(observer.streams(&shop, None), streams(json!({"orders": {"websocket": u64::MAX}})));
    observer.note("one", Err("it is gone".into()), &dirty);
    assert_eq!(observer.streams(&shop, None), None);
}

#[test]
fn what_was_heard_while_standing_by_is_asked_again() {
    let observer = observer(&[("one", &Serves::Apis(vec![name("shop")]), true)]);
    observer.note("one", Ok(answer(&[("shop", None)])), &AllDirty::default());
    let was_asked = || observer.pods(&name("shop")).iter().all(|pod| pod.was_asked);
    assert!(was_asked() && observer.take_due(1).is_empty());
    observer.begin();
    assert!(!was_asked() && observer.take_due(1).len() == 1);
}
