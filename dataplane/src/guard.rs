//! What the hot functions cost. `scripts/guard` runs the one test of this module under callgrind,
//! which counts instructions inside of [`counted`] only, and compares them with `guard.tsv`.
//!
//! So that every run counts the same, nothing here depends on time, threads or chance.

use std::hint::black_box;

mod cases;

/// A function with what it needs to run.
struct Case {
    /// What the baseline calls it.
    name: &'static str,
    /// Does the work and tells how many times it was done.
    run: Box<dyn FnMut() -> u64>,
}

impl Case {
    fn new(name: &'static str, run: impl FnMut() -> u64 + 'static) -> Self {
        Self { name, run: Box::new(run) }
    }
}

/// Counts what `work` does. `scripts/guard` knows it by name.
#[inline(never)]
fn counted<R>(work: impl FnOnce() -> R) -> R {
    black_box(work())
}

/// From here on counts are of the case called `name`. `scripts/guard` knows it by name.
#[inline(never)]
fn begin(name: &str) {
    black_box(name);
}

/// Counts so far are of the case called `name`. `scripts/guard` knows it by name.
#[inline(never)]
fn finish(name: &str, times: u64) {
    eprintln!("guard\t{name}\t{times}");
}

#[tokio::test(start_paused = true)]
async fn every_case_does_its_work() {
    for Case { name, mut run } in cases::all().await {
        // Once for what is made on first use.
        run();
        begin(name);
        let times = run();
        assert!(times > 0, "{name}");
        finish(name, times);
    }
}
