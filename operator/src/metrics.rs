//! What the operator counts, under the prefix `sluice_operator_`.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramTimer, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};

/// The operator's metrics.
pub struct Metrics {
    /// Where they are gathered.
    pub registry: Registry,
    /// 1 while this process leads.
    pub leader: IntGauge,
    reconciles: IntCounterVec,
    duration: HistogramVec,
    steps: HistogramVec,
    writes: IntCounterVec,
    admissions: IntCounterVec,
    admission_duration: HistogramVec,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let registry = Registry::new();
        let valid = "names and labels are constants";
        let leader = IntGauge::new("sluice_operator_leader", "1 while this process leads.").expect(valid);
        let reconciles = Opts::new("sluice_operator_reconciles_total", "Objects looked at, by outcome.");
        let reconciles = IntCounterVec::new(reconciles, &["kind", "outcome"]).expect(valid);
        let duration = HistogramOpts::new("sluice_operator_reconcile_seconds", "How long looking took.")
            .buckets(vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0]);
        let duration = HistogramVec::new(duration, &["kind"]).expect(valid);
        let steps = HistogramOpts::new("sluice_operator_step_seconds", "How long a step of looking took.")
            .buckets(vec![0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0]);
        let steps = HistogramVec::new(steps, &["kind", "step"]).expect(valid);
        let writes = Opts::new("sluice_operator_writes_total", "Children written, by kind.");
        let writes = IntCounterVec::new(writes, &["kind"]).expect(valid);
        let admissions = Opts::new(
            "sluice_operator_admissions_total",
            "Objects judged when they were applied, by outcome: allowed, warned, denied, unchecked.",
        );
        let admissions = IntCounterVec::new(admissions, &["kind", "outcome"]).expect(valid);
        let admission_duration =
            HistogramOpts::new("sluice_operator_admission_seconds", "How long judging took.")
                .buckets(vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0]);
        let admission_duration = HistogramVec::new(admission_duration, &["kind"]).expect(valid);
        let all: [Box<dyn prometheus::core::Collector>; 7] = [
            Box::new(leader.clone()),
            Box::new(reconciles.clone()),
            Box::new(duration.clone()),
            Box::new(steps.clone()),
            Box::new(writes.clone()),
            Box::new(admissions.clone()),
            Box::new(admission_duration.clone()),
        ];
        for collector in all {
            registry.register(collector).expect("each is registered once");
        }
        Self { registry, leader, reconciles, duration, steps, writes, admissions, admission_duration }
    }

    /// An object was looked at.
    pub fn reconciled(&self, kind: &str, outcome: &str, took: Duration) {
        self.reconciles.with_label_values(&[kind, outcome]).inc();
        self.duration.with_label_values(&[kind]).observe(took.as_secs_f64());
    }

    /// Times a step of looking at an object, until it is dropped: `read`, `render`, `write` or `status`.
    pub fn step(&self, kind: &str, step: &'static str) -> HistogramTimer {
        self.steps.with_label_values(&[kind, step]).start_timer()
    }

    /// An object was judged.
    pub fn admitted(&self, kind: &str, outcome: &str, took: Duration) {
        self.admissions.with_label_values(&[kind, outcome]).inc();
        self.admission_duration.with_label_values(&[kind]).observe(took.as_secs_f64());
    }

    /// A child was written.
    pub fn wrote(&self, kind: &str) {
        self.writes.with_label_values(&[kind]).inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
