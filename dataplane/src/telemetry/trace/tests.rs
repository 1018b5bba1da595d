use std::sync::Mutex;

use super::*;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

#[derive(Clone, Debug, Default)]
struct Ended(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Ended {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().expect("not poisoned").extend(batch);
        Ok(())
    }
}

impl Ended {
    fn only(&self) -> SpanData {
        let mut spans = self.0.lock().expect("not poisoned");
        assert_eq!(spans.len(), 1, "{spans:?}");
        spans.remove(0)
    }
}

fn channel(root_ratio: f64) -> (ChannelTracing, Ended) {
    let ended = Ended::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(ended.clone())
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(root_ratio))))
        .build();
    let place =
        Place { namespace: "default", api: "shop", channel: "orders", system: "kafka", address: "orders.v1" };
    (Tracing::On(provider).channel(place), ended)
}

fn headers(list: &[(&str, &str)]) -> Headers {
    list.iter().map(|(name, value)| ((*name).into(), Bytes::from((*value).to_owned()))).collect()
}

fn outgoing(list: &[(&str, &str)]) -> Outgoing {
    Outgoing { headers: headers(list), payload: Some(Bytes::from_static(b"hello")), ..Default::default() }
}

fn attribute(span: &SpanData, key: &str) -> Option<String> {
    span.attributes.iter().find(|one| one.key.as_str() == key).map(|one| one.value.to_string())
}

#[test]
fn only_what_the_standard_allows_is_a_traceparent() {
    let good = TraceParent::parse(PARENT.as_bytes()).expect("a good one");
    assert_eq!((good.trace_id[0], good.span_id[7], good.flags), (0x0a, 0x31, 1));
    assert!(
        TraceParent::parse(b"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-09-more")
            .expect("of a later version")
            .is_sampled()
    );
    assert!(!TraceParent::parse(UNSAMPLED.as_bytes()).expect("a good one").is_sampled());
    for wrong in [
        "",
        "00",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01more",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01",
        "0g-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ] {
        assert_eq!(TraceParent::parse(wrong.as_bytes()), None, "{wrong}");
    }
}

#[test]
fn without_an_exporter_headers_pass_untouched() {
    let off =
        Tracing::Off.channel(Place { namespace: "", api: "", channel: "", system: "kafka", address: "" });
    let mut message = outgoing(&[("TraceParent", PARENT), ("tracestate", "a=1")]);
    off.publish("http", &mut message).acknowledged("id");
    assert_eq!(message.headers, headers(&[("TraceParent", PARENT), ("tracestate", "a=1")]));
}

#[test]
fn a_sampled_publish_is_a_child_and_passes_its_own_context_on() {
    let (channel, ended) = channel(0.0);
    let mut message = outgoing(&[("a", "1"), ("Traceparent", PARENT), ("tracestate", "v=x"), ("a", "2")]);
    channel.publish("http", &mut message).acknowledged("the-id");
    let span = ended.only();
    assert_eq!(span.span_kind, SpanKind::Producer);
    assert_eq!(span.name, "send orders.v1");
    assert_eq!(span.parent_span_id.to_string(), "b7ad6b7169203331");
    assert!(span.parent_span_is_remote);
    let own = format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", span.span_context.span_id());
    assert_eq!(
        message.headers,
        headers(&[("a", "1"), ("tracestate", "v=x"), ("a", "2"), ("traceparent", &own)])
    );
    assert_eq!(span.span_context.trace_state().header(), "v=x");
    for (key, value) in [
        ("messaging.system", "kafka"),
        ("messaging.operation.name", "send"),
        ("messaging.operation.type", "send"),
        ("messaging.destination.name", "orders.v1"),
        ("messaging.message.id", "the-id"),
        ("messaging.message.body.size", "5"),
        ("sluice.namespace", "default"),
        ("sluice.api", "shop"),
        ("sluice.channel", "orders"),
        ("sluice.transport", "http"),
    ] {
        assert_eq!(attribute(&span, key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(span.status, Status::Unset);
}

#[test]
fn a_failed_publish_says_why() {
    let (channel, ended) = channel(1.0);
    channel.publish("websocket", &mut outgoing(&[])).failed("notWritten");
    let span = ended.only();
    assert_eq!(span.status, Status::error("notWritten"));
    assert_eq!(attribute(&span, "error.type").as_deref(), Some("notWritten"));
    assert_eq!(attribute(&span, "messaging.message.id"), None);
}

#[test]
fn what_is_not_sampled_passes_untouched() {
    let (channel, ended) = channel(0.0);
    for list in [&[("traceparent", UNSAMPLED), ("tracestate", "a=1")][..], &[("traceparent", "rubbish")], &[]]
    {
        let mut message = outgoing(list);
        channel.publish("http", &mut message).acknowledged("id");
        assert_eq!(message.headers, headers(list));
    }
    assert!(ended.0.lock().expect("not poisoned").is_empty());
}

#[test]
fn a_sampled_root_replaces_a_context_that_cannot_be_one() {
    let (channel, ended) = channel(1.0);
    let twice = [("traceparent", PARENT), ("traceparent", PARENT), ("tracestate", "a=1"), ("b", "2")];
    let mut message = outgoing(&twice);
    channel.publish("http", &mut message).acknowledged("id");
    let span = ended.only();
    assert_eq!(span.parent_span_id, SpanId::INVALID);
    assert_ne!(span.span_context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
    let names: Vec<&str> = message.headers.iter().map(|(name, _)| name.as_ref()).collect();
    assert_eq!(names, ["b", "traceparent"]);
    let own = TraceParent::of(&message.headers).expect("it was injected");
    assert_eq!(own.span_id, span.span_context.span_id().to_bytes());
}

#[test]
fn a_push_is_a_span_only_where_the_message_is_sampled() {
    let (channel, ended) = channel(1.0);
    let record = |list: &[(&str, &str)]| Record {
        partition: 3,
        offset: 42,
        timestamp: None,
        key: None,
        headers: headers(list),
        payload: Some(Bytes::from_static(b"hello")),
    };
    for list in [&[][..], &[("traceparent", UNSAMPLED)], &[("traceparent", "rubbish")]] {
        let span = channel.push(&record(list), || unreachable!("the id is not needed"));
        assert!(!span.is_recording());
        span.written(1);
    }
    channel.push(&record(&[("traceparent", PARENT)]), || "the-id".into()).written(17);
    let span = ended.only();
    assert_eq!((span.span_kind.clone(), span.name.as_ref()), (SpanKind::Consumer, "push orders.v1"));
    assert_eq!(span.span_context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(span.parent_span_id.to_string(), "b7ad6b7169203331");
    for (key, value) in [
        ("messaging.operation.name", "push"),
        ("messaging.operation.type", "process"),
        ("messaging.message.id", "the-id"),
        ("messaging.destination.partition.id", "3"),
        ("sluice.clients", "17"),
    ] {
        assert_eq!(attribute(&span, key).as_deref(), Some(value), "{key}");
    }
}
