//! How time, memory and CPU grow with the number of StreamAPIs.

use std::path::Path;
use std::time::{Duration, Instant};

use sluice_tests::curve::Curve;
use sluice_tests::within;

use crate::usage::Usage;
use crate::{Bench, FLOOR, PATIENCE, row, seconds};

/// How many points a curve has.
const POINTS: usize = 10;
/// Between two looks how many there are.
const LOOK: Duration = Duration::from_millis(100);
const APIS: &str = "StreamAPIs";
const OPERATOR: &str = "operator";

/// The curves of one run.
pub struct Growth {
    time: Curve,
    memory: Curve,
    cpu: Curve,
}

impl Growth {
    pub fn new() -> Self {
        let curve = |name: &str, title: &str, y: &str| Curve::new(name, title, (APIS, y), false);
        Self {
            time: curve("scale-time", "All created at once → so many are served", "s"),
            memory: curve("scale-memory", "Resident memory of the operator, while they are made", "MiB"),
            cpu: curve("scale-cpu", "CPU that the operator took to make them", "s"),
        }
    }

    /// Follows how many are served until all are; how long that took.
    pub async fn follow(&mut self, bench: &Bench, begun: Instant, operator: Usage) -> Duration {
        let spent = operator.cpu();
        for goal in goals(bench.count) {
            bench.programmed(goal).await;
            let (goal, took) = (goal as f64, begun.elapsed());
            self.time.add("Sluice", goal, seconds(took));
            self.memory.add(OPERATOR, goal, operator.memory());
            self.cpu.add(OPERATOR, goal, operator.cpu() - spent);
        }
        begun.elapsed()
    }

    /// Follows how many pods of the floor run until all do; how long that took.
    pub async fn follow_floor(&mut self, bench: &Bench, begun: Instant) -> Duration {
        for goal in goals(bench.count) {
            within(PATIENCE, "pods of the floor run", || async {
                tokio::time::sleep(LOOK).await;
                let running = bench.running.lock().expect("nobody panics with it");
                (running.get(FLOOR).copied().unwrap_or_default() >= goal).then_some(())
            })
            .await;
            self.time.add("floor", goal as f64, seconds(begun.elapsed()));
        }
        begun.elapsed()
    }

    /// Prints the curves' points, and writes their pictures if that is asked for.
    pub fn tell(&self, pictures: Option<&str>) {
        for curve in [&self.time, &self.memory, &self.cpu] {
            for series in &curve.series {
                let points = series.points.iter().map(|point| format!("{}: {:.1}", point.x, point.y()));
                let points: Vec<_> = points.collect();
                row(&format!("{}, {} ({})", curve.title, series.name, curve.y_label), points.join(", "));
            }
            if let Some(directory) = pictures {
                curve.write(Path::new(directory)).expect("a picture can be written");
            }
        }
    }
}

/// How many are waited for, one after the other.
fn goals(count: usize) -> impl Iterator<Item = usize> {
    (1..=POINTS).map(move |point| count * point / POINTS)
}
