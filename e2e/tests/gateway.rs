//! Many APIs of several namespaces on one gateway, under counted traffic of one of them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_e2e::kubernetes::resolved;
use sluice_e2e::namespace::pods;
use sluice_e2e::{Namespace, Traffic, kafka};
use sluice_tests::client::http::publish;
use sluice_tests::documents::{Api, Channel, Documents};
use sluice_tests::{WebSocket, within};

/// Messages at least of the API that nothing may disturb.
const MESSAGES: usize = 5000;
/// APIs that come and go beside it.
const SMALL: usize = 50;
/// Requests by which a neighbour's latency is measured.
const SAMPLES: usize = 400;

fn gateway(spec: Value) -> Documents {
    let gateway = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "StreamGateway", "metadata": {"name": "edge"}, "spec": spec});
    Documents::new().with(gateway)
}

/// `api` on the gateway of `infra`.
fn placed(mut api: Api, infra: &Namespace) -> Api {
    api.0["spec"]["placement"] = json!({"gateway": {"name": "edge", "namespace": infra.name}});
    api
}

fn small(name: &str, infra: &Namespace) -> Api {
    placed(Api::new(name).memory().channel(Channel::both_ways("notes", "notes")), infra)
}

async fn told(namespace: &Namespace, api: &str, condition: &str, reason: &str) -> String {
    within(Duration::from_secs(30), &format!("{api}: {condition} {reason}"), || async {
        let (_, found, message) = namespace.condition("sapi", api, condition).await;
        (found == reason).then_some(message)
    })
    .await
}

async fn code(url: &str) -> u16 {
    publish(url, &[], "1").await.status
}

/// K12, W29's base, X11: grant, conflict, revoke, fifty neighbours that come, change and go, and pods that are
/// replaced: one API's clients notice only the last, and lose nothing.
#[tokio::test]
async fn neighbours_come_and_go_and_nobody_else_notices() {
    let (infra, team, guest) =
        (Namespace::new("infra").await, Namespace::new("team").await, Namespace::new("guest").await);
    let allowed =
        |names: Value| json!({"replicas": 2, "allowedNamespaces": {"from": "Names", "names": names}});
    infra.apply(&gateway(allowed(json!([team.name])))).await;
    let kafka = kafka().await;
    let topic = kafka.topic("shared", 6).await;
    let shop =
        Api::new("shop").server("events", kafka.server()).channel(Channel::both_ways("orders", &topic));
    let url = team.serve("shop", &Documents::new().api(placed(shop, &infra))).await;
    infra.kubectl(&["rollout", "status", "deploy/edge-sluice-gateway", "--timeout=90s"]).await;
    team.programmed("shop").await;
    let traffic = Traffic::start("shared", &url, MESSAGES).await;

    // Fifty more of the same namespace, at once, and a change of each.
    let mut many = Documents::new();
    for n in 0..SMALL {
        many = many.api(small(&format!("small-{n}"), &infra));
    }
    let begun = Instant::now();
    team.apply(&many).await;
    team.kubectl(&["wait", "--for=condition=Programmed", "sapi", "--all", "--timeout=60s"]).await;
    println!("{SMALL} APIs served {:?} after kubectl began", begun.elapsed());
    let notes = url.replace("/shop/orders", "/small-7/notes");
    let (mut socket, _) = WebSocket::begin(&notes).await;

    // Another namespace: refused, let in, in conflict, sent away.
    let mut wanted = small("desk", &infra);
    guest.apply(&Documents::new().api(wanted.clone())).await;
    let message = told(&guest, "desk", "ResolvedRefs", "RefNotPermitted").await;
    assert!(message.contains("allowedNamespaces"), "{message}");
    let desk = url.replace("/shop/orders", "/desk/notes");
    assert_eq!(code(&desk).await, 404);
    infra.apply(&gateway(allowed(json!([team.name, guest.name])))).await;
    guest.programmed("desk").await;
    assert_eq!(code(&desk).await, 200);
    wanted.0["metadata"]["name"] = json!("twin");
    wanted.0["spec"]["basePath"] = json!("/shop");
    wanted.0["spec"]["channels"][0]["name"] = json!("orders");
    // The webhook tells at once; a cluster without one tells in conditions.
    let refused = guest.dry_run(&Documents::new().api(wanted).text()).await.expect_err("the path is taken");
    assert!(refused.contains(&format!("belongs to the older StreamAPI `{}/shop`", team.name)), "{refused}");
    infra.apply(&gateway(allowed(json!([team.name])))).await;
    let begun = Instant::now();
    within(Duration::from_secs(10), "who is sent away is served no longer", || async {
        (code(&desk).await == 404).then_some(())
    })
    .await;
    println!("revoked {:?} after kubectl was done", begun.elapsed());

    // Half of the neighbours go, one of them is wrong.
    for n in (0..SMALL).filter(|n| n % 2 == 0) {
        team.kubectl(&["delete", "sapi", &format!("small-{n}"), "--wait=false"]).await;
    }
    let broken = json!({"spec": {"servers": [{"name": "events", "memory": null, "kafka": {"brokers": ["127.0.0.1:1"]}}]}});
    team.patch("small-9", broken).await;
    socket.send(&json!({"type": "publish", "id": "1", "data": {"still": "served"}})).await;
    let frames = [socket.frame().await.kind, socket.frame().await.kind];
    assert!(frames.contains(&"ack".to_owned()) && frames.contains(&"message".to_owned()), "{frames:?}");
    drop(socket);
    assert_eq!(traffic.connections(), traffic.followers.len(), "nobody was disconnected so far");

    // A new template replaces the pods under all of them.
    let before = pods(&infra.name, "sluice.dev/gateway=edge").await;
    let mut rolled = allowed(json!([team.name]));
    rolled["podTemplate"] = json!({"annotations": {"example.com/why": "to see what happens"}});
    infra.apply(&gateway(rolled)).await;
    within(Duration::from_secs(90), "the former pods are gone", || async {
        let there = infra.kubectl(&["get", "pods", "-o", "name"]).await;
        before.iter().all(|pod| !there.contains(&pod.name)).then_some(())
    })
    .await;
    assert_eq!(traffic.check(4).await, 0, "no request failed");
    let attached = infra.get(&["sgw", "edge"]).await["status"]["attachedApis"].clone();
    assert_eq!(attached, json!(1 + SMALL / 2));
}

/// The 99th percentile of requests one after the other to a quiet API.
async fn p99(url: &str) -> Duration {
    let mut times = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        let begun = Instant::now();
        assert_eq!(code(url).await, 200);
        times.push(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    times.sort();
    times[SAMPLES * 99 / 100]
}

/// X11: what a broken, a slow and a hot neighbour do to a quiet API. That nothing fails is asserted; how long
/// things take is printed, for load and cluster share this machine.
#[tokio::test]
async fn a_bad_neighbour_breaks_nothing() {
    let infra = Namespace::new("bad").await;
    infra.apply(&gateway(json!({}))).await;
    let mut broken = small("broken", &infra);
    broken.0["spec"]["servers"] = json!([{"name": "events", "kafka": {"brokers": ["127.0.0.1:1"]}}]);
    let hot = placed(
        Api::new("hot").generator(2000, 1).channel(Channel::new("ticks", "ticks").subscribe()),
        &infra,
    );
    let all = Documents::new().api(small("quiet", &infra)).api(broken).api(hot);
    infra.apply(&all).await;
    infra.programmed("quiet").await;
    infra.programmed("hot").await;
    let quiet = resolved(&format!("http://edge-sluice-gateway.{}.svc/quiet/notes", infra.name)).await;
    let alone = p99(&quiet).await;

    // Publishes to a broker that is not there: each is answered, none waits for ever.
    let unavailable = quiet.replace("/quiet/", "/broken/");
    let trying = tokio::spawn(async move {
        for _ in 0..3 {
            assert_eq!(code(&unavailable).await, 503);
        }
    });
    let beside_broken = p99(&quiet).await;
    trying.await.expect("a broker that is away is told");

    // A client that never reads what is sent to it.
    let ticks = quiet.replace("/quiet/notes", "/hot/ticks");
    let (slow, _) = WebSocket::begin(&ticks).await;
    let beside_slow = p99(&quiet).await;
    drop(slow);

    // And twenty that read everything.
    let mut readers = Vec::new();
    for _ in 0..20 {
        let (mut socket, _) = WebSocket::begin(&ticks).await;
        readers.push(tokio::spawn(async move {
            loop {
                socket.message().await;
            }
        }));
    }
    let beside_hot = p99(&quiet).await;
    readers.iter().for_each(tokio::task::JoinHandle::abort);
    println!(
        "p99 of a publish: alone {alone:?}, beside a broken API {beside_broken:?}, beside a slow client \
         {beside_slow:?}, beside 40,000 deliveries a second {beside_hot:?}"
    );
    let (status, _, message) = infra.condition("sapi", "broken", "Available").await;
    assert_eq!(status, "False", "{message}");
    assert_eq!(infra.condition("sapi", "quiet", "Available").await.0, "True");
}
