//! The harness itself: its Kafka is real, and what it starts ends.

use rdkafka::consumer::{BaseConsumer, Consumer};
use sluice_tests::kafka::Listener;
use sluice_tests::kafka::topics::Record;
use sluice_tests::{Cluster, certs};

#[tokio::test]
async fn kafka_keeps_keys_headers_and_order() {
    let kafka = Cluster::shared().await;
    let topic = kafka.topic("harness", 3).await;
    let records: Vec<Record> = (0..100)
        .map(|n| Record::new(format!("{n}")).key(format!("k{}", n % 5)).header("a", "1").header("a", "2"))
        .collect();
    let positions = kafka.produce(&topic, &records).await;
    let read = kafka.records(&topic).await;
    assert_eq!(read.len(), 100);
    for (record, (partition, offset)) in records.iter().zip(positions) {
        let found = read.iter().find(|it| it.partition == Some(partition) && it.offset == offset);
        let found = found.expect("every record is read back");
        assert_eq!(
            (&found.key, &found.payload, &found.headers),
            (&record.key, &record.payload, &record.headers)
        );
    }
    kafka.grow(&topic, 5).await;
    kafka.truncate(&topic, 0, 1).await;
    kafka.delete(&topic).await;
}

#[tokio::test]
async fn every_listener_of_kafka_lets_the_right_clients_in() {
    let kafka = Cluster::shared().await;
    let bundle = certs::bundle();
    let secret = |user, password| [("sasl.username", user), ("sasl.password", password)];
    let sasl = |mechanism| [("security.protocol", "sasl_plaintext"), ("sasl.mechanism", mechanism)];
    let mut cases = Vec::new();
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        cases.push((Listener::Sasl, [&sasl(mechanism)[..], &secret("alice", "alice-secret")].concat(), true));
        cases.push((Listener::Sasl, [&sasl(mechanism)[..], &secret("alice", "wrong")].concat(), false));
    }
    let tls = [
        ("security.protocol", "sasl_ssl"),
        ("sasl.mechanism", "SCRAM-SHA-512"),
        ("ssl.ca.pem", bundle.ca.as_str()),
    ];
    cases.push((Listener::SaslTls, [&tls[..], &secret("admin", "admin-secret")].concat(), true));
    let certificate = |identity: &'static certs::Identity| {
        vec![
            ("security.protocol", "ssl"),
            ("ssl.ca.pem", bundle.ca.as_str()),
            ("ssl.certificate.pem", identity.certificate.as_str()),
            ("ssl.key.pem", identity.key.as_str()),
        ]
    };
    cases.push((Listener::MutualTls, certificate(&bundle.client), true));
    cases.push((Listener::MutualTls, certificate(&bundle.rogue), false));
    for (listener, settings, allowed) in cases {
        let mut config = rdkafka::ClientConfig::new();
        config.set("bootstrap.servers", kafka.brokers(listener).join(",")).set("log_level", "0");
        for (key, value) in &settings {
            config.set(*key, *value);
        }
        let client: BaseConsumer = config.create().expect("a client can be made");
        let patience = std::time::Duration::from_secs(if allowed { 20 } else { 2 });
        let answered = client.fetch_metadata(None, patience).is_ok();
        assert_eq!(
            answered,
            allowed,
            "{listener:?} {:?}",
            settings.iter().map(|it| it.0).collect::<Vec<_>>()
        );
    }
}

/// An OpenSSL built without threads corrupts the heap here; see `scripts/openssl-perl`.
#[tokio::test]
async fn many_tls_clients_may_connect_at_once() {
    let kafka = Cluster::shared().await;
    let brokers = kafka.brokers(Listener::MutualTls).join(",");
    let bundle = certs::bundle();
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                for _ in 0..8 {
                    let mut config = rdkafka::ClientConfig::new();
                    config.set("bootstrap.servers", &brokers).set("log_level", "0");
                    config.set("security.protocol", "ssl").set("ssl.ca.pem", &bundle.ca);
                    config.set("ssl.certificate.pem", &bundle.client.certificate);
                    config.set("ssl.key.pem", &bundle.client.key);
                    let client: BaseConsumer = config.create().expect("a client can be made");
                    client.fetch_metadata(None, std::time::Duration::from_secs(20)).expect("an answer");
                }
            });
        }
    });
}

#[tokio::test]
async fn three_nodes_survive_a_kill_and_move_their_leaders() {
    let kafka = Cluster::start(3).await;
    let topic = kafka.topic("harness", 2).await;
    kafka.lead(&topic, 2, 3).await;
    kafka.kill(3);
    kafka.produce(&topic, &[Record::new("a"), Record::new("b")]).await;
    kafka.restart(3).await;
    kafka.healed(&topic).await;
    kafka.stop(1).await;
    assert_eq!(kafka.records(&topic).await.len(), 2);
}
