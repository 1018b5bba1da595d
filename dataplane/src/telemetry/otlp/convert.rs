//! What the registry gathered, as an OTLP request. Values in, values out.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource as ProtoResource;
use opentelemetry_proto::transform::common::tonic::Attributes;
use opentelemetry_sdk::Resource;
use prometheus::proto::{LabelPair, Metric as Series, MetricFamily, MetricType};

/// The time that cumulative values count from, and the time they were read.
#[derive(Clone, Copy)]
struct Span {
    start_nanos: u64,
    now_nanos: u64,
}

/// `families` as one request. Counters and histograms are cumulative since `start_nanos`.
pub(super) fn request(
    families: &[MetricFamily],
    resource: &Resource,
    start_nanos: u64,
    now_nanos: u64,
) -> ExportMetricsServiceRequest {
    let span = Span { start_nanos, now_nanos };
    let attributes =
        resource.iter().map(|(key, value)| opentelemetry::KeyValue::new(key.clone(), value.clone()));
    let scope = InstrumentationScope {
        name: env!("CARGO_PKG_NAME").into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..Default::default()
    };
    let metrics = families.iter().filter_map(|family| metric(family, span)).collect();
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(ProtoResource {
                attributes: Attributes::from(attributes).0,
                ..Default::default()
            }),
            scope_metrics: vec![ScopeMetrics { scope: Some(scope), metrics, ..Default::default() }],
            ..Default::default()
        }],
    }
}

fn metric(family: &MetricFamily, span: Span) -> Option<Metric> {
    let cumulative = AggregationTemporality::Cumulative as i32;
    let series = family.get_metric().iter();
    let data = match family.get_field_type() {
        MetricType::COUNTER => metric::Data::Sum(Sum {
            data_points: series.map(|one| number(one, one.get_counter().get_value(), span)).collect(),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        MetricType::GAUGE => metric::Data::Gauge(Gauge {
            // A gauge counts from nowhere: no start time.
            data_points: series
                .map(|one| number(one, one.get_gauge().get_value(), Span { start_nanos: 0, ..span }))
                .collect(),
        }),
        MetricType::HISTOGRAM => metric::Data::Histogram(Histogram {
            data_points: series.map(|one| histogram(one, span)).collect(),
            aggregation_temporality: cumulative,
        }),
        // The registry holds no family of these kinds.
        MetricType::SUMMARY | MetricType::UNTYPED => return None,
    };
    Some(Metric {
        name: family.name().into(),
        description: family.help().into(),
        unit: unit(family.name()).into(),
        metadata: Vec::new(),
        data: Some(data),
    })
}

fn number(series: &Series, value: f64, span: Span) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(series.get_label()),
        start_time_unix_nano: span.start_nanos,
        time_unix_nano: span.now_nanos,
        value: Some(number_data_point::Value::AsDouble(value)),
        ..Default::default()
    }
}

/// Prometheus' buckets hold everything up to their bound; OTLP's only what the ones before do not,
/// and one more holds what lies above the last bound.
fn histogram(series: &Series, span: Span) -> HistogramDataPoint {
    let histogram = series.get_histogram();
    let count = histogram.get_sample_count();
    let finite = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
    let (mut explicit_bounds, mut bucket_counts, mut below) = (Vec::new(), Vec::new(), 0);
    for bucket in finite {
        explicit_bounds.push(bucket.upper_bound());
        bucket_counts.push(bucket.cumulative_count().saturating_sub(below));
        below = bucket.cumulative_count();
    }
    bucket_counts.push(count.saturating_sub(below));
    HistogramDataPoint {
        attributes: attributes(series.get_label()),
        start_time_unix_nano: span.start_nanos,
        time_unix_nano: span.now_nanos,
        count,
        sum: Some(histogram.get_sample_sum()),
        bucket_counts,
        explicit_bounds,
        ..Default::default()
    }
}

fn attributes(labels: &[LabelPair]) -> Vec<KeyValue> {
    let attribute = |label: &LabelPair| KeyValue {
        key: label.name().into(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue(label.value().into())) }),
        ..Default::default()
    };
    labels.iter().map(attribute).collect()
}

/// The UCUM unit that a name's ending stands for; counts have none.
fn unit(name: &str) -> &'static str {
    let stem = name.strip_suffix("_total").unwrap_or(name);
    if stem.ends_with("_seconds") {
        "s"
    } else if stem.ends_with("_bytes") {
        "By"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Gauge as RegistryGauge, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

    use super::*;

    fn converted(registry: &Registry) -> Vec<Metric> {
        let resource = Resource::builder_empty().with_service_name("sluice").build();
        let mut request = request(&registry.gather(), &resource, 7, 9);
        let mut only = request.resource_metrics.remove(0);
        assert!(request.resource_metrics.is_empty());
        let resource = only.resource.take().expect("a resource");
        assert_eq!(resource.attributes[0].key, "service.name");
        only.scope_metrics.remove(0).metrics
    }

    fn text(attribute: &KeyValue) -> (&str, &str) {
        match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
            Some(any_value::Value::StringValue(value)) => (&attribute.key, value),
            other => panic!("not a string: {other:?}"),
        }
    }

    #[test]
    fn a_counter_is_a_cumulative_monotonic_sum() {
        let registry = Registry::new_custom(Some("sluice".into()), None).expect("a valid prefix");
        let family = IntCounterVec::new(Opts::new("messages_written_total", "Written."), &["api", "channel"])
            .expect("a valid family");
        registry.register(Box::new(family.clone())).expect("a valid family");
        family.with_label_values(&["shop", "orders"]).inc_by(3);
        family.with_label_values(&["shop", "stock"]).inc_by(4);
        let metrics = converted(&registry);
        let [metric] = metrics.as_slice() else { panic!("{metrics:?}") };
        assert_eq!(
            (metric.name.as_str(), metric.description.as_str(), metric.unit.as_str()),
            ("sluice_messages_written_total", "Written.", "")
        );
        let Some(metric::Data::Sum(sum)) = &metric.data else { panic!("{metric:?}") };
        assert!(sum.is_monotonic);
        assert_eq!(sum.aggregation_temporality(), AggregationTemporality::Cumulative);
        let [orders, stock] = sum.data_points.as_slice() else { panic!("{sum:?}") };
        assert_eq!((orders.start_time_unix_nano, orders.time_unix_nano), (7, 9));
        assert_eq!(
            orders.attributes.iter().map(text).collect::<Vec<_>>(),
            [("api", "shop"), ("channel", "orders")]
        );
        assert_eq!(orders.value, Some(number_data_point::Value::AsDouble(3.0)));
        assert_eq!(stock.value, Some(number_data_point::Value::AsDouble(4.0)));
    }

    #[test]
    fn a_gauge_has_a_value_and_no_start() {
        let registry = Registry::new();
        let gauge = RegistryGauge::new("ring_bytes", "Held.").expect("a valid family");
        registry.register(Box::new(gauge.clone())).expect("a valid family");
        gauge.set(-2.5);
        let metrics = converted(&registry);
        assert_eq!(metrics[0].unit, "By");
        let Some(metric::Data::Gauge(gauge)) = &metrics[0].data else { panic!("{metrics:?}") };
        assert_eq!(gauge.data_points[0].value, Some(number_data_point::Value::AsDouble(-2.5)));
        assert_eq!((gauge.data_points[0].start_time_unix_nano, gauge.data_points[0].time_unix_nano), (0, 9));
    }

    #[test]
    fn a_histogram_counts_each_value_in_one_bucket() {
        let registry = Registry::new();
        let options = HistogramOpts::new("publish_duration_seconds", "Took.").buckets(vec![0.1, 1.0]);
        let family = HistogramVec::new(options, &["transport"]).expect("a valid family");
        registry.register(Box::new(family.clone())).expect("a valid family");
        let histogram = family.with_label_values(&["http"]);
        for seconds in [0.05, 0.1, 0.5, 2.0, 3.0] {
            histogram.observe(seconds);
        }
        let metrics = converted(&registry);
        assert_eq!(metrics[0].unit, "s");
        let Some(metric::Data::Histogram(data)) = &metrics[0].data else { panic!("{metrics:?}") };
        assert_eq!(data.aggregation_temporality(), AggregationTemporality::Cumulative);
        let point = &data.data_points[0];
        assert_eq!(point.explicit_bounds, [0.1, 1.0]);
        assert_eq!(point.bucket_counts, [2, 1, 2]);
        assert_eq!((point.count, point.sum, point.start_time_unix_nano), (5, Some(5.65), 7));
    }

    #[test]
    fn nothing_counted_is_nothing_sent() {
        assert!(converted(&Registry::new()).is_empty());
    }
}
