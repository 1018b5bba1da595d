use rdkafka::mocking::MockCluster;
use sluice_config::kafka::Kafka;
use sluice_config::{Entry, Material};

use super::*;
use crate::server::Status;

const TIMEOUT: Duration = Duration::from_secs(10);

fn producers(brokers: &str) -> Producers {
    let kafka: Kafka =
        serde_json::from_value(serde_json::json!({ "brokers": brokers.split(',').collect::<Vec<_>>() }))
            .expect("a server");
    let entry: Entry = serde_json::from_value(serde_json::json!({
        "generation": 1, "revision": "1", "policies": {}, "material": {},
        "api": {"namespace": "default", "name": "shop", "spec": {"servers": [], "channels": []}},
    }))
    .expect("an entry");
    let settings = Settings::resolve(&kafka, &entry, &Material::default()).expect("settings");
    let health = Arc::new(Health::new(settings.clone(), Arc::new(Status::default())));
    Producers::new(settings, health)
}

fn give_up(producers: &Producers) {
    let running = producers.running.lock();
    let native = &running[&TIMEOUT].producer.0.native;
    let code = ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
    // SAFETY: the client is live and the reason a C string.
    unsafe { ffi::rd_kafka_test_fatal_error(native.client().native_ptr(), code, c"made up".as_ptr()) };
}

#[tokio::test]
async fn a_producer_that_librdkafka_gave_up_is_replaced() {
    let cluster = MockCluster::new(1).expect("brokers");
    cluster.create_topic("orders", 1, 1).expect("a topic");
    let producers = producers(&cluster.bootstrap_servers());
    let message = Outgoing { payload: Some("{}".into()), ..Outgoing::default() };
    let report = producers.send("orders", &message, TIMEOUT).expect("taken").await.expect("a report");
    assert_eq!(report, Ok(Position { partition: 0, offset: 0 }));

    cluster.broker_round_trip_time(1, Duration::from_secs(30)).expect("a slow broker");
    let in_flight = producers.send("orders", &message, TIMEOUT).expect("taken");
    // librdkafka does not tell when it has sent a message; a little later it has.
    tokio::time::sleep(Duration::from_millis(200)).await;
    give_up(&producers);
    let report = in_flight.await.expect("a report");
    assert!(matches!(report, Err(PublishError::Unknown { .. })), "{report:?}");
    cluster.broker_round_trip_time(1, Duration::ZERO).expect("a fast broker");
    let deadline = Instant::now() + TIMEOUT;
    let report = loop {
        assert!(Instant::now() < deadline, "no new producer");
        match producers.send("orders", &message, TIMEOUT) {
            Ok(report) => break report,
            Err(error) => assert!(matches!(error, PublishError::NotWritten { .. }), "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(report.await.expect("a report").is_ok());
    let unknown = producers.deliveries().unknown.load(Ordering::Relaxed);
    assert_eq!((unknown, producers.deliveries().in_flight.load(Ordering::Relaxed)), (1, 0));
}

#[tokio::test]
async fn a_closed_client_takes_nothing() {
    let producers = producers("127.0.0.1:1");
    producers.close(Duration::from_millis(10)).await;
    let refused = producers.send("orders", &Outgoing::default(), TIMEOUT).expect_err("closed");
    assert!(matches!(refused, PublishError::NotWritten { .. }));
}
