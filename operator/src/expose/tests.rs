use super::*;
use crate::compare::{Difference, difference};

/// A Service of a broker with these annotations.
fn service(annotations: Value) -> DynamicObject {
    with(annotations, json!({"ports": [{"name": "kafka", "port": 9092, "appProtocol": "kafka"}]}))
}

fn with(annotations: Value, spec: Value) -> DynamicObject {
    let metadata = json!({
        "name": "orders-kafka", "namespace": "a", "uid": "u-1", "labels": {LABEL: "true"}, "annotations": annotations,
    });
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec});
    serde_json::from_value(service).expect("a Service")
}

fn made(service: &DynamicObject) -> Child {
    expose(service).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// The port in the address of the broker.
fn port_of(service: &DynamicObject) -> String {
    let broker = made(service).body["spec"]["servers"][0]["kafka"]["brokers"][0].take();
    broker.as_str().and_then(|broker| broker.rsplit(':').next()).expect("host:port").to_owned()
}

/// W29.
#[test]
fn a_service_becomes_an_api_that_clients_read_and_that_goes_with_it() {
    let child = made(&service(json!({CHANNELS: "orders.v1, Payments_EU,", API: "orders"})));
    assert_eq!((child.kind, child.name.as_str()), (ChildKind::StreamApi, "orders"));
    let mut body = child.body.clone();
    assert!(body["metadata"]["annotations"][APPLIED].take().is_string());
    let transports = json!({"transports": {"websocket": {}, "sse": {}}});
    let expected = json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "StreamAPI",
        "metadata": {
            "name": "orders", "namespace": "a", "labels": {"app.kubernetes.io/managed-by": "sluice-operator"},
            "annotations": {APPLIED: null},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Service", "name": "orders-kafka", "uid": "u-1", "controller": true},
            ],
        },
        "spec": {
            "servers": [{"name": "broker", "kafka": {"brokers": ["orders-kafka.a.svc:9092"]}}],
            "channels": [
                {"name": "orders-v1", "server": "broker", "address": "orders.v1", "subscribe": transports},
                {"name": "payments-eu", "server": "broker", "address": "Payments_EU", "subscribe": transports},
            ],
        },
    });
    assert_eq!(body, expected);
    assert_eq!(difference(&child.body, &child.body), Difference::None);
    assert_eq!(made(&service(json!({CHANNELS: "orders"}))).name, "orders-kafka", "the Service's own name");
    for (text, placement) in
        [("edge", json!({"name": "edge"})), ("infra/edge", json!({"name": "edge", "namespace": "infra"}))]
    {
        let placed = made(&service(json!({CHANNELS: "orders", GATEWAY: text})));
        assert_eq!(placed.body["spec"]["placement"], json!({"gateway": placement}));
    }
}

#[test]
fn the_port_is_the_one_that_is_named_or_the_only_one_that_can_be_meant() {
    let ports = |ports: Value| json!({"ports": ports});
    let two = ports(
        json!([{"name": "http", "port": 80}, {"name": "tcp", "port": 9094, "appProtocol": "example.com/kafka"}]),
    );
    let plain = ports(json!([{"port": 9092}]));
    for (mut annotations, spec, expected) in [
        (json!({}), &two, "9094"),
        (json!({PORT: "80", PROTOCOL: "kafka"}), &two, "80"),
        (json!({PORT: "http", PROTOCOL: "kafka"}), &two, "80"),
        (json!({PROTOCOL: " kafka "}), &plain, "9092"),
    ] {
        annotations[CHANNELS] = json!("orders");
        assert_eq!(port_of(&with(annotations.clone(), spec.clone())), expected, "{annotations}");
    }
}

#[test]
fn what_is_wrong_is_told_where_it_is_and_nothing_is_made() {
    let kafka = json!({"ports": [{"port": 9092, "appProtocol": "kafka"}]});
    let two = json!({"ports": [{"port": 1, "appProtocol": "kafka"}, {"port": 2, "appProtocol": "kafka"}]});
    let many: Vec<_> = (0..=MAX_CHANNELS).map(|n| format!("t{n}")).collect();
    for (annotations, spec, at, part) in [
        (json!({}), &kafka, CHANNELS, "name the topics"),
        (json!({CHANNELS: "  "}), &kafka, CHANNELS, "name the topics"),
        (json!({CHANNELS: " , ,"}), &kafka, CHANNELS, "names no topic"),
        (json!({CHANNELS: many.join(",")}), &kafka, CHANNELS, "257 topics"),
        (json!({CHANNELS: "orders.v1,orders-v1"}), &kafka, CHANNELS, "both be the channel `orders-v1`"),
        (json!({CHANNELS: "orders,orders"}), &kafka, CHANNELS, "keep one of them"),
        (json!({CHANNELS: "2024.orders"}), &kafka, CHANNELS, "start with a letter"),
        (json!({CHANNELS: "o", PROTOCOL: "amqp"}), &kafka, PROTOCOL, "`amqp` cannot be exposed"),
        (json!({CHANNELS: "o"}), &json!({"ports": [{"port": 9092}]}), PROTOCOL, "no `appProtocol`"),
        (json!({CHANNELS: "o"}), &two, PORT, "name one of: 1, 2"),
        (json!({CHANNELS: "o", PORT: "9093"}), &kafka, PORT, "its ports are: 9092"),
        (json!({CHANNELS: "o"}), &json!({}), PORT, "name one of: none"),
        (
            json!({CHANNELS: "o", PROTOCOL: "kafka"}),
            &json!({"ports": [{"port": 9092, "protocol": "UDP"}]}),
            PORT,
            "not one of TCP",
        ),
        (
            json!({CHANNELS: "o", PROTOCOL: "kafka"}),
            &json!({"type": "ExternalName", "externalName": "kafka.example.com"}),
            "spec.type",
            "write a StreamAPI",
        ),
        (json!({CHANNELS: "o", API: "Orders"}), &kafka, API, "cannot name a StreamAPI"),
        (json!({CHANNELS: "o", API: "a".repeat(41)}), &kafka, API, "at most 40"),
        (json!({CHANNELS: "o", GATEWAY: "infra/../edge"}), &kafka, GATEWAY, "namespace/name"),
        (json!({CHANNELS: "o", GATEWAY: "/edge"}), &kafka, GATEWAY, "namespace/name"),
        (json!({CHANNELS: "o", GATEWAY: "INFRA/edge"}), &kafka, "spec.placement.gateway.namespace", ""),
        (json!({CHANNELS: "t".repeat(250)}), &kafka, "spec.channels[0].address", ""),
    ] {
        let told = expose(&with(annotations.clone(), spec.clone())).expect_err("nothing is made");
        let [problem] = told.as_slice() else { panic!("{annotations}: {told:#?}") };
        assert!(problem.at == at && problem.message.contains(part), "{annotations}: {problem}");
    }
    let everything = json!({CHANNELS: "a b", PROTOCOL: "mqtt", API: "-", GATEWAY: "-"});
    assert_eq!(expose(&service(everything)).expect_err("nothing is made").len(), 4, "all at once");
}

#[test]
fn no_annotation_becomes_more_than_the_name_it_stands_for() {
    for hostile in [
        "orders\u{0}",
        "orders\nspec: {}",
        "\u{202e}srедro",
        "../../etc/passwd",
        "..",
        "orders v1",
        "{{ .Values }}",
        "rooms.{roomId}",
        "orders\"}],\"publish\":{}",
        "kafka:9092",
        "заказы",
        "--",
        "\u{1f4a3}",
        "%00",
    ] {
        let told = expose(&service(json!({CHANNELS: format!("good,{hostile}")}))).expect_err(hostile);
        for annotation in [API, GATEWAY, PROTOCOL, PORT] {
            let told = expose(&service(json!({CHANNELS: "good", annotation: hostile}))).expect_err(hostile);
            assert_eq!((told.len(), told[0].at.as_str()), (1, annotation), "{hostile:?}: {told:#?}");
        }
        for problem in told {
            let text = problem.to_string();
            assert!(
                !text.contains(char::is_control) && !text.contains('\u{202e}') && text.len() < 400,
                "{text:?}"
            );
        }
    }
}

#[test]
fn a_channel_is_named_after_what_a_name_may_have_of_its_address() {
    let (long, cut) = (format!("{}.x", "a".repeat(39)), "a".repeat(39));
    for (address, expected) in [
        ("orders", "orders"),
        ("Orders.V1", "orders-v1"),
        ("_orders_", "orders"),
        ("a.b_c-d", "a-b-c-d"),
        (long.as_str(), cut.as_str()),
    ] {
        let name = channel_name(address);
        assert!(name == expected && is_name(&name), "{address}: {name}");
    }
}

#[test]
fn an_api_is_left_when_its_service_asks_for_it_no_more() {
    let asks = service(json!({CHANNELS: "orders", API: "orders"}));
    let api: DynamicObject = serde_json::from_value(made(&asks).body).expect("an object");
    let changed = |change: fn(&mut DynamicObject)| {
        let mut service = asks.clone();
        change(&mut service);
        service
    };
    let annotate = |service: &mut DynamicObject, name: &str, value: &str| {
        service.annotations_mut().insert(name.into(), value.into());
    };
    assert!(!is_left(&api, Some(&asks)));
    assert!(is_left(&api, None), "it is gone, or has lost the label");
    assert!(is_left(&api, Some(&changed(|it| it.metadata.uid = Some("u-2".into())))), "it is another one");
    assert!(is_left(&api, Some(&changed(|it| drop(it.annotations_mut().remove(CHANNELS))))));
    let mut other = asks.clone();
    annotate(&mut other, API, "payments");
    assert!(is_left(&api, Some(&other)), "it asks for another");
    let mut wrong = asks.clone();
    annotate(&mut wrong, API, "Order s");
    annotate(&mut wrong, CHANNELS, "{");
    assert!(!is_left(&api, Some(&wrong)), "what is wrong costs nobody a stream");
    let mut own = api.clone();
    own.annotations_mut().remove(APPLIED);
    assert!(!is_left(&own, None), "it was not made by the operator");
    own = api;
    own.owner_references_mut().clear();
    assert!(!is_left(&own, None), "somebody has taken it over");
}
