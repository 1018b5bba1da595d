//! One repeat of a scenario: every system has its turn, and what fails is told, not left out.

use std::time::Instant;

use anyhow::Result;

use crate::broker::Publisher;
use crate::entrant::{Entrant, Stage};
use crate::report::{Report, Values};
use crate::scenario::{Scale, Scenario, Work, thousands};
use crate::{broker, change, curve, disturbed, fanout, idle, neighbours, saturation, selecting};

/// Where results go.
pub struct Run<'a> {
    /// What systems need to start.
    pub stage: &'a Stage,
    /// How much of everything.
    pub scale: Scale,
    /// Beginnings of the names of those who take part; nobody is left out without.
    pub only: &'a [String],
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
            Work::Saturation(clients) => {
                let title = format!(
                    "Highest rate, {} WebSocket clients, 200 B: ≥ 99 % delivered, p99 ≤ 100 ms",
                    self.people(*clients)
                );
                self.everybody(("c", &title), &[Entrant::SluiceFlush], |stage, scale, entrant| {
                    saturation::run(stage, scale, entrant, *clients)
                });
            }
            Work::Idle(clients) => {
                let title = format!("{} idle WebSocket clients", self.people(*clients));
                self.everybody(("f", &title), &[], |stage, scale, entrant| {
                    idle::run(stage, scale, entrant, *clients)
                });
            }
            Work::Storm(clients) => {
                let title = format!(
                    "{} WebSocket clients, 200 B at 100/s, while ten times as many come in 10 s",
                    self.people(*clients)
                );
                self.everybody(("g", &title), &[], |stage, scale, entrant| {
                    disturbed::storm(stage, scale, entrant, *clients)
                });
            }
            Work::Slow(clients) => {
                let title = format!(
                    "{} WebSocket clients, 1 KiB at 100/s, of which one in ten reads 1 kB/s: the rest",
                    self.people(*clients)
                );
                self.everybody(("h", &title), &[], |stage, scale, entrant| {
                    disturbed::slow(stage, scale, entrant, *clients)
                });
            }
            Work::Selections(clients, counts) => {
                let title = format!(
                    "{} WebSocket clients of the engine alone, 200 B at {}/s, of which each gets one in {}",
                    self.people(*clients),
                    thousands(selecting::RATE as usize),
                    selecting::SHARES
                );
                for distinct in *counts {
                    let system = format!("Sluice, distinct selections: {distinct}");
                    self.turn(("k", &title), &system, |_, scale| {
                        selecting::measure(scale, *clients, *distinct)
                    });
                }
            }
            Work::Neighbours(rates) => {
                let title =
                    "A quiet API, 50 WebSocket clients, 200 B at 100/s, beside a hot one in the same process";
                for rate in *rates {
                    self.turn(("n", title), &neighbours::row(*rate), |stage, scale| {
                        neighbours::measure(stage, scale, *rate)
                    });
                }
            }
            Work::Publish => self.publish(),
            Work::Change(counts) => {
                for count in *counts {
                    let title = format!("File change → served, {} channels", thousands(*count));
                    self.turn((&format!("j-{count}"), &title), "Sluice", |stage, scale| {
                        change::change(stage, scale, *count)
                    });
                }
            }
            Work::Start => self.turn(("start", "One process"), "Sluice", change::start),
            Work::Curves => {
                let curves = &mut self.report.curves;
                if curves.is_empty() {
                    *curves = curve::empty();
                }
                if let Err(error) = curve::run(self.stage, &self.scale, curves) {
                    eprintln!("the curves are not complete: {error:#}");
                }
            }
        }
    }

    fn people(&self, clients: usize) -> String {
        thousands(self.scale.clients(clients))
    }

    fn everybody(
        &mut self,
        table: (&str, &str),
        also: &[Entrant],
        work: impl Fn(&Stage, &Scale, Entrant) -> Result<Values>,
    ) {
        for entrant in Entrant::all(false).into_iter().chain(also.iter().copied()) {
            self.turn(table, &entrant.name(), |stage, scale| work(stage, scale, entrant));
        }
    }

    fn publish(&mut self) {
        let title = "POST → Kafka acknowledged, 64 connections, 1 KiB";
        for publisher in Publisher::ALL {
            self.turn(("i", title), publisher.name(), |stage, scale| publisher.run(stage, scale, None));
        }
        let Some(half) = broker::half(&self.report, "i") else { return };
        let title = "The same, at half of the rate that the weaker of them reached";
        for publisher in Publisher::ALL {
            self.turn(("i-half", title), publisher.name(), |stage, scale| {
                publisher.run(stage, scale, Some(half))
            });
        }
    }

    fn turn(
        &mut self,
        table: (&str, &str),
        system: &str,
        work: impl FnOnce(&Stage, &Scale) -> Result<Values>,
    ) {
        if !self.only.is_empty() && !self.only.iter().any(|name| system.starts_with(name.as_str())) {
            return;
        }
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
