use super::*;

fn encoder() -> Encoder {
    Encoder {
        source: "/default/shop/orders".into(),
        event_type: "dev.sluice.message".into(),
        content_type: "application/json".into(),
        cursor: CursorPlacement::PerMessage,
    }
}

fn record(payload: Option<&[u8]>, headers: &[(&str, &[u8])]) -> Record {
    Record {
        partition: 0,
        offset: 1,
        timestamp: Some(1_700_000_000_123),
        key: Some(Bytes::from_static(b"k\"1")),
        headers: headers
            .iter()
            .map(|(name, value)| (Arc::from(*name), Bytes::copy_from_slice(value)))
            .collect(),
        payload: payload.map(Bytes::copy_from_slice),
    }
}

fn json(lane: Lane, record: &Record) -> serde_json::Value {
    let bytes = encoder().message(lane, "id.0.1", record, Some("CUR"));
    let text = match lane {
        Lane::WsJson | Lane::WsCloudEvents => {
            let (_, payload) = frame::tests::split(&bytes);
            payload
        }
        _ => String::from_utf8(bytes.to_vec())
            .expect("UTF-8")
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .collect::<Vec<_>>()
            .join("\n")
            .into_bytes(),
    };
    serde_json::from_slice(&text).expect("JSON")
}

#[test]
fn an_envelope_keeps_the_original_json() {
    let record = record(
        Some(b"{\"b\": 1.0,\n \"a\": 2}"),
        &[("x", b"1"), ("x", b"\xff"), ("content-type", b"application/json")],
    );
    for lane in [Lane::WsJson, Lane::SseEnvelope] {
        let json = json(lane, &record);
        assert_eq!(json["id"], "id.0.1");
        assert_eq!(json["cursor"], "CUR");
        assert_eq!(json["key"], "k\"1");
        assert_eq!(json["timestamp"], "2023-11-14T22:13:20.123Z");
        assert_eq!(json["headers"], serde_json::json!([["x", "1"], ["x", {"base64": "/w=="}]]));
        assert_eq!(json["data"], serde_json::json!({"a": 2, "b": 1.0}));
    }
    let bytes = encoder().message(Lane::WsJson, "i", &record, None);
    assert!(String::from_utf8_lossy(&bytes).contains("\"data\":{\"b\": 1.0,\n \"a\": 2}"));
}

#[test]
fn what_is_not_what_it_says_is_base64() {
    let broken = record(Some(b"{oops"), &[]);
    let envelope = json(Lane::WsJson, &broken);
    assert_eq!(envelope["invalid"], true);
    assert_eq!(envelope["dataBase64"], "e29vcHM=");
    let binary = record(Some(b"\xff\x00"), &[("content-type", b"text/plain")]);
    assert_eq!(json(Lane::WsJson, &binary)["dataBase64"], "/wA=");
    let text = record(Some(b"a\nb"), &[("content-type", b"text/plain; charset=utf-8")]);
    assert_eq!(json(Lane::SseEnvelope, &text)["data"], "a\nb");
    let tombstone = json(Lane::WsJson, &record(None, &[]));
    assert_eq!(tombstone["tombstone"], true);
    assert_eq!(tombstone.get("data"), None);
}

#[test]
fn events_keep_their_attributes() {
    let plain = json(Lane::WsCloudEvents, &record(Some(b"[1]"), &[]));
    assert_eq!(plain["source"], "/default/shop/orders");
    assert_eq!(plain["id"], "id.0.1");
    assert_eq!(plain["data"], serde_json::json!([1]));
    assert_eq!(plain["sluicecursor"], "CUR");
    assert_eq!(plain["partitionkey"], "k\"1");
    let binary = record(
        Some(b"[1]"),
        &[
            ("ce_id", b"e1"),
            ("ce_source", b"/s"),
            ("ce_type", b"t"),
            ("ce_specversion", b"1.0"),
            ("ce_foo", b"bar"),
        ],
    );
    let event = json(Lane::WsCloudEvents, &binary);
    assert_eq!((&event["id"], &event["source"], &event["foo"]), (&"e1".into(), &"/s".into(), &"bar".into()));
    let structured = record(
        Some(b" {\"specversion\":\"1.0\",\"id\":\"e2\",\"source\":\"/s\",\"type\":\"t\",\"data\":{}} "),
        &[("content-type", b"application/cloudevents+json")],
    );
    let event = json(Lane::WsCloudEvents, &structured);
    assert_eq!((&event["id"], &event["sluicecursor"]), (&"e2".into(), &"CUR".into()));
}

#[test]
fn raw_frames_are_text_only_where_they_may_be() {
    for (payload, content_type, text) in [
        (b"{}".as_slice(), "application/json", true),
        (b"hello", "text/plain", true),
        (b"\xff", "text/plain", false),
        (b"hello", "application/octet-stream", false),
        (b"{}", "application/vnd.x+json", true),
    ] {
        let record = record(Some(payload), &[("content-type", content_type.as_bytes())]);
        let bytes = encoder().message(Lane::WsRaw, "i", &record, None);
        let (opcode, got) = frame::tests::split(&bytes);
        assert_eq!(opcode == Opcode::Text, text, "{content_type}");
        assert_eq!(got, payload);
    }
}

#[test]
fn hostile_bytes_break_no_lane() {
    let payloads: [&[u8]; 5] = [b"\"\xff\"", b"{\"a\":\"\xc3\"}", b"\xf0\x9f", b"{", b""];
    let types: [&[u8]; 6] = [
        b"application/json",
        "a/\u{e9}json".as_bytes(),
        "\u{1f600}+json".as_bytes(),
        "te\u{20ac}t/x".as_bytes(),
        b"application/cloudevents+json",
        b"\xff\xfe",
    ];
    let lanes = [
        Lane::WsRaw,
        Lane::WsJson,
        Lane::WsCloudEvents,
        Lane::SseRaw,
        Lane::SseEnvelope,
        Lane::SseCloudEvents,
    ];
    for (payload, kind, lane) in payloads
        .iter()
        .flat_map(|payload| types.iter().map(move |kind| (payload, kind)))
        .flat_map(|(payload, kind)| lanes.iter().map(move |lane| (payload, kind, *lane)))
    {
        let record = record(Some(payload), &[("content-type", kind), ("x", b"\xff")]);
        let bytes = encoder().message(lane, "i", &record, Some("C"));
        if !matches!(lane, Lane::WsRaw | Lane::SseRaw) {
            json(lane, &record);
        }
        if !lane.is_websocket() {
            assert!(std::str::from_utf8(&bytes).is_ok(), "{lane:?}");
        }
    }
    assert_eq!(json(Lane::WsJson, &record(Some(b"\"\xff\""), &[]))["invalid"], true);
}

#[test]
fn absurd_timestamps_do_not_break_encoding() {
    for timestamp in [i64::MIN, -1, 0, i64::MAX] {
        let mut record = record(Some(b"1"), &[]);
        record.timestamp = Some(timestamp);
        assert!(json(Lane::WsJson, &record)["timestamp"].is_string());
    }
}
