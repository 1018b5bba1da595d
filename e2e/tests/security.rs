//! What must not be possible, and what must be found nowhere. One test at a time: one changes the
//! release.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sluice_e2e::kubernetes::{self, OPERATOR, SYSTEM, attempt, chart, get, helm, kubectl};
use sluice_e2e::namespace::pods;
use sluice_e2e::traffic::shop;
use sluice_e2e::{Namespace, kafka};
use sluice_tests::client::http::{self, publish};
use sluice_tests::documents::{Api, Channel, Documents, api_key};
use sluice_tests::kafka::Listener;
use sluice_tests::{Sse, seed, within};

/// Patience with rules of the network, which take effect a moment after a pod starts.
const SOON: Duration = Duration::from_secs(20);

/// A pod that may run under `restricted`, with a client to try the network with.
fn probe() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"}, "spec": {
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{
            "name": "tool", "image": "sluice.test/tool:1", "imagePullPolicy": "Never", "args": ["serve"],
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        }],
    }})
}

/// A data plane may watch its own two objects, and nothing else of the API.
#[tokio::test]
async fn a_data_plane_may_watch_its_own_objects_and_nothing_else() {
    let namespace = Namespace::new("rights").await;
    let api = Api::new("shop").memory().channel(Channel::both_ways("orders", "orders"));
    let documents = Documents::new().api(api).secret("other", &[("password", "not for pods")]);
    namespace.serve("shop", &documents).await;
    let account = format!("--as=system:serviceaccount:{}:shop-sluice", namespace.name);
    let may = async |arguments: &[&str]| {
        let answer = namespace.attempt(&[&["auth", "can-i", &account], arguments].concat()).await;
        answer.is_ok_and(|answer| answer.trim() == "yes")
    };
    assert!(may(&["watch", "secret/shop-sluice"]).await, "what it needs");
    assert!(may(&["watch", "configmap/shop-sluice"]).await, "what it needs");
    let others = [
        "get secret/other",
        "watch secret/other",
        "watch secret/shop-sluice-cursor",
        "list secrets",
        "watch secrets",
        "list configmaps",
        "get pods",
        "create pods",
        "update configmap/shop-sluice",
        "patch secret/shop-sluice",
        "list sapi",
        "get nodes",
        "create serviceaccounts/token",
    ];
    for words in others {
        let words: Vec<&str> = words.split(' ').collect();
        assert!(!may(&words).await, "{words:?}");
    }
    for words in [&["get", "secret", "other"][..], &["get", "secrets"], &["get", "sapi"]] {
        let refused = namespace.attempt(&[words, &[&account]].concat()).await.expect_err("refused");
        assert!(refused.contains("Forbidden"), "{refused}");
    }
    // In another namespace it is nobody.
    let elsewhere = attempt(&["-n", SYSTEM, "get", "secrets", &account]).await.expect_err("refused");
    assert!(elsewhere.contains("Forbidden"), "{elsewhere}");
}

/// `restricted` is enforced wherever something of ours runs.
#[tokio::test]
async fn everything_runs_under_the_restricted_level() {
    let namespace = Namespace::new("level").await;
    let api = Api::new("shop").memory().channel(Channel::both_ways("orders", "orders"));
    namespace.serve("shop", &Documents::new().api(api)).await;
    let all =
        get(&["pods", "-A", "-l", "app.kubernetes.io/name in (sluice-dataplane, sluice-operator)"]).await;
    let all = all["items"].as_array().expect("a list");
    assert!(all.len() >= 3, "two operators and a data plane");
    for pod in all {
        let place = pod["metadata"]["namespace"].as_str().expect("a namespace");
        let place = get(&["namespace", place]).await;
        let level = &place["metadata"]["labels"]["pod-security.kubernetes.io/enforce"];
        assert_eq!(level, "restricted", "{}", place["metadata"]["name"]);
    }
    let mut outside = probe();
    outside["spec"]["hostNetwork"] = true.into();
    let file = sluice_tests::process::directory("pod").join("pod.json");
    std::fs::write(&file, outside.to_string()).expect("a file can be written");
    let refused = namespace.attempt(&["create", "-f", &file.display().to_string()]).await;
    let refused = refused.expect_err("refused");
    assert!(refused.contains("PodSecurity"), "{refused}");
}

/// Every text of the cluster that is no Secret, by where it is from.
async fn everything() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let kinds = kubectl(&["api-resources", "--verbs=list", "-o", "name"]).await;
    for kind in kinds.lines().filter(|kind| *kind != "secrets") {
        if let Ok(text) = attempt(&["get", kind, "-A", "-o", "json"]).await {
            found.push((kind.to_owned(), text));
        }
    }
    let all =
        get(&["pods", "-A", "-l", "app.kubernetes.io/name in (sluice-dataplane, sluice-operator)"]).await;
    for pod in all["items"].as_array().expect("a list") {
        let place = pod["metadata"]["namespace"].as_str().expect("a namespace");
        let name = pod["metadata"]["name"].as_str().expect("a name");
        if let Ok(log) = attempt(&["-n", place, "logs", name]).await {
            found.push((format!("log of {name}"), log));
        }
        let Some(ip) = pod["status"]["podIP"].as_str() else { continue };
        for path in ["/metrics", "/config", "/readyz"] {
            if let Ok(answer) = http::get(&format!("http://{ip}:9090{path}")).await {
                found.push((format!("{path} of {name}"), answer.text()));
            }
        }
    }
    let audit = kubernetes::directory().join("log/audit.log");
    found.push(("audit log".into(), std::fs::read_to_string(audit).expect("the cluster keeps one")));
    found
}

/// Values of Secrets and payloads are in Secrets and on the wire, and nowhere else.
#[tokio::test]
async fn what_is_secret_is_found_in_secrets_only() {
    let kafka = kafka().await;
    let topic = kafka.topic("canary", 1).await;
    let mut rng = seed::rng("canary");
    let (key, entry) = api_key(&mut rng);
    let mut word = |prefix: &str| {
        format!("{prefix}{}", std::iter::repeat_with(|| rng.alphanumeric()).take(24).collect::<String>())
    };
    let (password, payload, header) = (word("canaryPassword"), word("canaryPayload"), word("canaryHeader"));
    kafka.set_password("canary", &password);
    kafka.allow("canary", &topic);
    let mut api = shop(kafka, &topic, 1);
    let mut server = kafka.sasl_server(Listener::Sasl, "SCRAM-SHA-512", "login");
    server["name"] = "events".into();
    api.0["spec"]["servers"][0] = server;
    let documents = Documents::new()
        .secret("login", &[("username", "canary"), ("password", &password)])
        .secret("keys", &[("alice", &entry)])
        .policy("keys", "shop", json!({"authentication": {"apiKeys": {"secretRef": {"name": "keys"}}}}))
        .api(api);
    let namespace = Namespace::new("canary").await;
    let url = namespace.serve("shop", &documents).await;
    let stream = Sse::request(&url).header("x-api-key", &key).open().await;
    let mut stream = stream.unwrap_or_else(|answer| panic!("refused: {answer:?}"));
    let headers = [("x-api-key", key.as_str()), ("x-note", header.as_str())];
    assert_eq!(publish(&url, &headers, format!("{{\"canary\":\"{payload}\"}}")).await.status, 200);
    assert!(stream.message().await.data.expect("a message").contains(&payload));
    // Refusals are told and counted, too.
    assert_eq!(publish(&url, &[("x-api-key", &format!("{key}x"))], payload.clone()).await.status, 401);

    let digest = entry.strip_prefix("sha256:").expect("an entry").to_owned();
    let canaries = [key, digest, password, payload, header];
    let everything = everything().await;
    let names: Vec<&str> = everything.iter().map(|(name, _)| name.as_str()).collect();
    for part in
        ["pods", "configmaps", "events.events.k8s.io", "streamapis.sluice.dev", "audit log", "log of shop"]
    {
        assert!(names.iter().any(|name| name.contains(part)), "{part} was looked at: {names:?}");
    }
    let marked = everything.iter().filter(|(_, text)| text.contains(&namespace.name)).count();
    assert!(marked >= 10, "the namespace itself is seen in {marked} places");
    for canary in canaries {
        for canary in [canary.clone(), STANDARD.encode(&canary)] {
            let seen: Vec<&str> = everything
                .iter()
                .filter(|(_, text)| text.contains(&canary))
                .map(|(name, _)| name.as_str())
                .collect();
            assert!(seen.is_empty(), "{canary} is seen in {seen:?}");
        }
    }
}

/// By value, the admin port is for the operator alone.
#[tokio::test]
async fn a_network_policy_keeps_strangers_from_the_admin_port() {
    let place = ["--namespace", SYSTEM, "--wait", "--timeout", "60s"];
    let on = ["--reuse-values", "--set", "dataplane.networkPolicies=true"];
    helm(&[&["upgrade", "sluice", &chart()], &place[..], &on].concat()).await;
    let namespace = Namespace::new("policy").await;
    let stranger = Namespace::new("stranger").await;
    let api = Api::new("shop").memory().channel(Channel::both_ways("orders", "orders"));
    let url = namespace.serve("shop", &Documents::new().api(api)).await;
    stranger.apply_text(&probe().to_string()).await;
    stranger.kubectl(&["wait", "--for=condition=Ready", "pod/probe", "--timeout=60s"]).await;
    let pod = namespace.pods("shop").await.remove(0);
    let reaches =
        async |url: &str| stranger.attempt(&["exec", "probe", "--", "/tool", "get", url]).await.is_ok();
    within(SOON, "the admin port is closed to strangers", || async {
        (!reaches(&pod.admin("/healthz")).await).then_some(())
    })
    .await;
    assert!(
        reaches(&format!("http://{}:8080/-/", pod.ip)).await || publish(&url, &[], "1").await.status == 200
    );
    let told = stranger
        .attempt(&["exec", "probe", "--", "/tool", "get", &format!("http://{}:8080/shop/none", pod.ip)])
        .await;
    assert!(told.expect_err("there is no such channel").contains("404"), "strangers reach the public port");
    // The operator still reads what pods serve.
    let revision = namespace.revision("shop").await;
    namespace.patch("shop", json!({"spec": {"description": "seen through the policy"}})).await;
    within(SOON, "status follows", || async { (namespace.revision("shop").await != revision).then_some(()) })
        .await;
    namespace.programmed("shop").await;
    helm(&[&["rollback", "sluice"], &place[..]].concat()).await;
    assert_eq!(pods(SYSTEM, OPERATOR).await.len(), 2);
}
