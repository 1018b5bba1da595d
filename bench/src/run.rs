//! One repeat of a scenario: every system has its turn, and what fails is told, not left out.

use std::time::Instant;

use anyhow::Result;

use crate::entrant::Stage;
use crate::report::{Report, Values};
use crate::scenario::{Scale, Scenario, Work};
use crate::{change, fanout};

/// Where results go.
pub struct Run<'a> {
    /// What systems need to start.
    pub stage: &'a Stage,
    /// How much of everything.
    pub scale: Scale,
    /// What was found so far.
    pub report: Report,
}

impl Run<'_> {
    /// One repeat of `scenario`.
    pub fn repeat(&mut self, scenario: &Scenario) {
        match &scenario.work {
            Work::Fanouts(fanouts) => {
                for fanout in *fanouts {
                    let title = fanout.title(&self.scale);
                    for entrant in fanout.entrants() {
                        self.turn((fanout.table, &title), &entrant.name(), |stage, scale| {
                            fanout::run(stage, scale, fanout, entrant)
                        });
                    }
                }
            }
            Work::Start => self.turn(("start", "One process"), "Sluice", change::start),
        }
    }

    fn turn(
        &mut self,
        table: (&str, &str),
        system: &str,
        work: impl FnOnce(&Stage, &Scale) -> Result<Values>,
    ) {
        let begun = Instant::now();
        let outcome = work(self.stage, &self.scale);
        let said = match &outcome {
            Ok(values) => values.iter().map(|(measure, value)| format!("{measure} {value:.3}")).collect(),
            Err(error) => vec![format!("void: {error:#}")],
        };
        let took = begun.elapsed().as_secs_f64();
        eprintln!("{} {system}: {} ({took:.1} s)", table.0, said.join(", "));
        self.report.add(table, system, outcome);
    }
}
