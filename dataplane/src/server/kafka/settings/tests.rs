use super::*;

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";

/// Resolves a server with `secrets`, given as `secret/key` and value.
fn resolve(kafka: serde_json::Value, secrets: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
    let kafka: Kafka = serde_json::from_value(kafka).expect("a server");
    let material: BTreeMap<&str, &str> = secrets.iter().copied().collect();
    let entry = serde_json::from_value(serde_json::json!({
        "generation": 1, "revision": "1", "policies": {}, "material": material,
        "api": {"namespace": "default", "name": "shop", "spec": {"servers": [], "channels": []}},
    }));
    // The value stands for its own digest.
    let values = secrets.iter().map(|(_, value)| ((*value).to_owned(), Arc::from(value.as_bytes())));
    let material = Material(values.collect());
    let problems = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect();
    Settings::resolve(&kafka, &entry.expect("an entry"), &material).map_err(problems)
}

fn with_properties(properties: serde_json::Value) -> Result<Settings, Vec<String>> {
    resolve(serde_json::json!({"brokers": ["kafka:9092"], "properties": properties}), &[])
}

#[test]
fn properties_go_to_the_client_they_are_for_and_win_over_defaults() {
    let settings = with_properties(serde_json::json!({
        "queue.buffering.max.ms": "7", "fetch.wait.max.ms": "50", "client.id": "mine",
    }))
    .expect("settings");
    let (consumer, producer) = (settings.consumer(), settings.producer(Duration::from_secs(10)));
    assert_eq!(producer.get("linger.ms"), Some("7"));
    assert_eq!(consumer.get("linger.ms"), None);
    assert_eq!(consumer.get("fetch.wait.max.ms"), Some("50"));
    assert_eq!((consumer.get("client.id"), producer.get("client.id")), (Some("mine"), Some("mine")));
    assert_eq!(producer.get("acks"), Some("all"));
    assert_eq!(producer.get("allow.auto.create.topics"), Some("false"));
    assert_eq!(consumer.get("security.protocol"), Some("plaintext"));
}

#[test]
fn properties_that_cannot_work_are_refused_by_name() {
    let problems = with_properties(serde_json::json!({
        "acks": "1", "linger.ms": "soon", "max.in.flight": "6",
        "compression.codec": "lz4", "compression.type": "zstd",
    }))
    .expect_err("problems");
    assert_eq!(problems.len(), 4, "{problems:?}");
    for (problem, start) in problems.iter().zip(["acks", "compression.type", "linger.ms", "max.in.flight"]) {
        assert!(problem.starts_with(&format!("kafka.properties[{start:?}]: ")), "{problem}");
    }
}

#[test]
fn a_login_needs_both_keys_and_shows_neither() {
    let kafka = serde_json::json!({
        "brokers": ["kafka:9092"],
        "sasl": {"mechanism": "SCRAM-SHA-512", "secretRef": {"name": "login"}},
    });
    let settings = resolve(kafka.clone(), &[("login/username", "canary-user"), ("login/password", "canary")])
        .expect("settings");
    assert_eq!(settings.consumer().get("security.protocol"), Some("sasl_plaintext"));
    assert_eq!(settings.consumer().get("sasl.mechanism"), Some("SCRAM-SHA-512"));
    assert!(!format!("{settings:?}").contains("canary"));
    assert_eq!(settings.scrub("canary-user has canary"), "*** has ***");
    let other = resolve(kafka.clone(), &[("login/username", "canary-user"), ("login/password", "other")]);
    assert_ne!(settings, other.expect("settings"), "another password is another client");

    let problems = resolve(kafka, &[("login/password", "with-break\n")]).expect_err("problems");
    assert_eq!(
        problems,
        [
            "kafka.sasl.secretRef: the key `username` of the Secret `login` is missing; add it",
            "kafka.sasl.secretRef: the key `password` of the Secret `login` ends with a line break; store it \
             without one (`printf %s` instead of `echo`)",
        ]
    );
}

#[test]
fn tls_trusts_the_secret_or_else_the_system() {
    let kafka = |secret: serde_json::Value| serde_json::json!({"brokers": ["kafka:9093"], "tls": secret});
    let named = || kafka(serde_json::json!({"secretRef": {"name": "tls"}}));
    let system = resolve(kafka(serde_json::json!({})), &[]).expect("settings").consumer();
    assert_eq!(system.get("ssl.ca.location"), Some("probe"));
    assert_eq!(system.get("ssl.endpoint.identification.algorithm"), Some("https"));

    let all = [("tls/ca.crt", CERTIFICATE), ("tls/tls.crt", CERTIFICATE), ("tls/tls.key", KEY)];
    let mutual = resolve(named(), &all).expect("settings").producer(Duration::from_secs(10));
    assert_eq!(mutual.get("ssl.ca.location"), None);
    assert_eq!(mutual.get("ssl.key.pem"), Some(KEY));
    assert_eq!(mutual.get("security.protocol"), Some("ssl"));

    let half = resolve(named(), &all[..2]).expect_err("problems");
    assert!(half[0].contains("needs both keys"), "{half:?}");
    let wrong = resolve(named(), &[("tls/ca.crt", "hello")]).expect_err("problems");
    assert!(wrong[0].contains("holds no certificate in PEM"), "{wrong:?}");
}
