//! What a user does: applies, waits, opens the URL, changes it, rotates what is secret.

use std::time::Duration;

use serde_json::json;
use sluice_e2e::traffic::shop;
use sluice_e2e::{Namespace, Traffic, host, kafka, kubectl};
use sluice_tests::client::http::publish;
use sluice_tests::client::websocket::JSON;
use sluice_tests::documents::{Api, Channel, Documents, api_key};
use sluice_tests::kafka::Listener;
use sluice_tests::{Sse, WebSocket, eventually, seed, within};

/// The example as it is in the checkout.
fn example() -> String {
    let file = sluice_tests::parts::source().join("../examples/orders.yaml");
    std::fs::read_to_string(file).expect("the example is there")
}

/// T02, T03: a second apply changes the API; clients stay, pods stay.
#[tokio::test]
async fn the_example_is_served_and_a_second_apply_disturbs_nobody() {
    let namespace = Namespace::new("example").await;
    namespace.apply_text(&example()).await;
    namespace.programmed("shop").await;
    let told = namespace.kubectl(&["get", "sapi", "shop", "-o", "jsonpath={.status.urls[*]}"]).await;
    assert_eq!(told, format!("http://shop-sluice.{}.svc/shop/orders", namespace.name));
    let url = namespace.url("shop").await;
    let (mut socket, _) = WebSocket::begin(&url).await;
    let mut stream = Sse::begin(&url).await;
    socket.message().await;
    stream.message().await;
    let pods = namespace.pods("shop").await;
    assert_eq!(pods.len(), 1);
    let revision = namespace.revision("shop").await;

    let more = "    - name: returns\n      server: events\n      address: returns.v1\n      \
        message: {contentType: application/json}\n      subscribe: {transports: {sse: {}}}\n";
    let changed = example().replace("does not exist", "still does not exist");
    assert_ne!(changed, example());
    namespace.apply_text(&format!("{changed}{more}")).await;
    namespace.serves_other_than("shop", &revision).await;
    namespace.programmed("shop").await;
    assert_ne!(namespace.revision("shop").await, revision);
    Sse::begin(&url.replace("/orders", "/returns")).await.message().await;
    // Five a second: these came after the change, on the streams opened before it.
    for _ in 0..10 {
        socket.message().await;
        stream.message().await;
    }
    assert_eq!(namespace.pods("shop").await, pods, "no pod was touched");
    assert_eq!(namespace.deployment_generation("shop").await, 1);

    let columns = namespace.kubectl(&["get", "sluice"]).await;
    assert!(columns.contains("PROGRAMMED") && columns.contains("True"), "{columns}");
    let explained = kubectl(&["explain", "sapi.spec.channels.subscribe"]).await;
    assert!(explained.contains("transports") && explained.contains("DESCRIPTION"), "{explained}");
    let events =
        namespace.kubectl(&["get", "events.events.k8s.io", "-o", "jsonpath={.items[*].reason}"]).await;
    assert!(events.contains("Programmed") && events.contains("Available"), "{events}");
}

/// X08, X09: nothing is stored that is wrong, and nothing need be changed to know what it would do.
#[tokio::test]
async fn a_mistake_is_refused_at_apply_and_a_dry_run_tells_what_a_change_would_do() {
    let namespace = Namespace::new("refused").await;
    namespace.apply_text(&example()).await;
    namespace.programmed("shop").await;
    let same = namespace.dry_run(&example()).await.expect("nothing is to be said");
    assert!(same.contains("streamapi.sluice.dev/shop"), "{same}");
    let policy = "apiVersion: sluice.dev/v1alpha1\nkind: StreamPolicy\nmetadata: {name: limits}\nspec:\n  \
        targetRefs: [{kind: StreamAPI, name: shop, sectionName: CHANNEL}]\n  limits: {connections: 5}\n";
    let refused = namespace.dry_run(&policy.replace("CHANNEL", "ordres")).await.expect_err("there is none");
    let expected = "The StreamPolicy \"limits\" is invalid: spec.targetRefs[0].sectionName: StreamAPI `shop` has no channel";
    assert!(refused.contains(expected), "{refused}");
    namespace.dry_run(&policy.replace("CHANNEL", "orders")).await.expect("it is right");
    let renamed = example().replace("- name: orders", "- name: sales");
    assert_ne!(renamed, example());
    let warned = namespace.dry_run(&renamed).await.expect_err("there is a warning");
    assert!(warned.contains("Warning: channel orders: is removed; its clients"), "{warned}");
    // Each replica asks the pods itself.
    eventually("how many are connected is told", || async {
        let warned = namespace.dry_run(&renamed).await.expect_err("there is a warning");
        warned.contains("Warning: in all: 0 streams closed").then_some(())
    })
    .await;
    assert_eq!(namespace.get(&["sapi", "shop"]).await["spec"]["channels"][0]["name"], "orders");
}

/// K01, K12: POST, Kafka on the host by its name, two pods, every client; counted.
#[tokio::test]
async fn messages_go_both_ways_through_kafka() {
    let kafka = kafka().await;
    let topic = kafka.topic("both", 6).await;
    let namespace = Namespace::new("both").await;
    let mut api = shop(kafka, &topic, 2);
    let broker = kafka.brokers(Listener::Plaintext)[0].replace(&host(), "host.sluice.test");
    api.0["spec"]["servers"][0]["kafka"]["brokers"] = json!([broker]);
    let url = namespace.serve("shop", &Documents::new().api(api)).await;
    namespace.rolled_out("shop").await;
    let traffic = Traffic::start("both ways", &url, 1600).await;
    let ledger = traffic.ledger.clone();
    assert_eq!(traffic.check(0).await, 0, "every publish is answered with 200");
    assert_eq!(kafka.records(&topic).await.len(), ledger.accepted(), "each message was written once");
}

/// D17, K22: a key's Secret is edited; who used the old key is cut, nobody else is.
#[tokio::test]
async fn a_rotated_api_key_closes_its_own_streams_and_no_others() {
    let mut rng = seed::rng("keys");
    let ((alice, alice_entry), (fresh, fresh_entry), (bob, bob_entry)) =
        (api_key(&mut rng), api_key(&mut rng), api_key(&mut rng));
    let documents = |alice_entry: &str| {
        Documents::new()
            .api(Api::new("shop").memory().channel(Channel::both_ways("orders", "orders")))
            .policy("keys", "shop", json!({"authentication": {"apiKeys": {"secretRef": {"name": "keys"}}}}))
            .secret("keys", &[("alice", alice_entry), ("bob", &bob_entry)])
    };
    let namespace = Namespace::new("keys").await;
    let url = namespace.serve("shop", &documents(&alice_entry)).await;
    let pods = namespace.pods("shop").await;
    let open = async |key: &str| {
        let request = WebSocket::request(&url).protocol(JSON).header("x-api-key", key);
        let mut socket = request.open().await.unwrap_or_else(|answer| panic!("refused: {answer:?}"));
        assert_eq!(socket.frame().await.kind, "ready");
        socket
    };
    let (mut old, mut other) = (open(&alice).await, open(&bob).await);
    assert_eq!(publish(&url, &[], "1").await.status, 401, "without a key");

    namespace.apply(&documents(&fresh_entry)).await;
    let (code, reason) = old.close_code().await;
    assert_eq!(code, 4403, "{reason}");
    let old_key = || WebSocket::request(&url).protocol(JSON).header("x-api-key", &alice).open();
    assert_eq!(old_key().await.expect_err("the old key is refused").status, 401);
    let mut new = open(&fresh).await;
    assert_eq!(publish(&url, &[("x-api-key", &bob)], "2").await.status, 200);
    assert_eq!(new.message().await.payload(), Some(b"2".to_vec()));
    // Nothing but the message came to whoever was connected all the time.
    assert_eq!(other.message().await.payload(), Some(b"2".to_vec()));
    assert_eq!(namespace.pods("shop").await, pods, "no pod was touched");
    assert_eq!(namespace.deployment_generation("shop").await, 1);

    // It fails closed when the Secret goes, and says so.
    namespace.kubectl(&["delete", "secret", "keys"]).await;
    let (code, reason) = other.close_code().await;
    assert_eq!(code, 1013, "{reason}");
    within(Duration::from_secs(10), "the policy's condition tells", || async {
        let (status, _, message) = namespace.condition("spol", "keys", "ResolvedRefs").await;
        (status == "False" && message.contains("keys")).then_some(())
    })
    .await;
    assert_eq!(publish(&url, &[("x-api-key", &bob)], "3").await.status, 503, "not served without its policy");
}

/// D17, K22: another user and password from the same Secret, while messages flow.
#[tokio::test]
async fn nothing_is_lost_when_a_kafka_credential_is_rotated() {
    let kafka = kafka().await;
    let topic = kafka.topic("login", 3).await;
    for user in ["before", "after"] {
        kafka.set_password(user, &format!("{user}-secret"));
        kafka.allow(user, &topic);
    }
    let mut api = shop(kafka, &topic, 1);
    let mut server = kafka.sasl_server(Listener::Sasl, "SCRAM-SHA-512", "login");
    server["name"] = "events".into();
    api.0["spec"]["servers"][0] = server;
    let login = |user: &str| {
        Documents::new().secret("login", &[("username", user), ("password", &format!("{user}-secret"))])
    };
    let namespace = Namespace::new("login").await;
    namespace.apply(&login("before")).await;
    let url = namespace.serve("shop", &Documents::new().api(api)).await;
    let pods = namespace.pods("shop").await;
    let traffic = Traffic::start("credential", &url, 2500).await;
    let revision = namespace.revision("shop").await;
    namespace.apply(&login("after")).await;
    namespace.serves_other_than("shop", &revision).await;
    traffic.reaches(2, 4).await;
    // From now on nothing of the former user works.
    kafka.forbid("before", &topic);
    traffic.check(0).await;
    assert_eq!(namespace.pods("shop").await, pods, "no pod was touched");
}
