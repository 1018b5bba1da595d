//! What is aimed at, as data, and whether the medians of a run reach it.

use std::fmt::Write;

use serde::Serialize;

use crate::change::{RESIDENT, START};
use crate::report::{CPU, EACH, IDLE, Measure, P99, RATE, Report};
use sluice_tests::curve::number;

/// A bound on a value of Sluice, mostly relative to what others did in the same run.
struct Aim {
    table: &'static str,
    system: &'static str,
    measure: Measure,
    bound: Bound,
}

enum Bound {
    /// At most this.
    AtMost(f64),
    /// At most so many times what this system needs, in this table.
    Times(f64, &'static str),
    /// At most so much more than this system.
    Plus(f64, &'static str),
    /// At least so many times what this system reaches.
    AtLeastTimes(f64, &'static str),
    /// Not more than the least that any peer needs.
    BestPeer,
}

const FLUSHED: &str = "Sluice, maxDelay 50ms";

const fn aim(table: &'static str, measure: Measure, bound: Bound) -> Aim {
    Aim { table, system: "Sluice", measure, bound }
}

const AIMS: &[Aim] = &[
    aim("a-100", CPU, Bound::Times(1.1, "floor")),
    aim("a-100", CPU, Bound::Times(1.0, "Bun")),
    aim("a-20", CPU, Bound::Times(1.1, "floor")),
    aim("a-20", CPU, Bound::Times(1.0, "Bun")),
    Aim { table: "a-100", system: FLUSHED, measure: CPU, bound: Bound::Times(0.35, "floor") },
    aim("a-100", P99, Bound::BestPeer),
    aim("a-20", P99, Bound::BestPeer),
    aim("c", RATE, Bound::AtLeastTimes(2.5, "Centrifuge")),
    aim("c", RATE, Bound::AtLeastTimes(1.5, "Bun")),
    aim("d-100", CPU, Bound::Times(1.15, "floor")),
    aim("d-100", CPU, Bound::Times(0.7, "nchan")),
    aim("d-20", CPU, Bound::Times(1.15, "floor")),
    aim("d-20", CPU, Bound::Times(0.7, "nchan")),
    aim("f", IDLE, Bound::AtMost(1.5)),
    aim("i", EACH, Bound::Times(0.45, "Bento")),
    aim("i-half", P99, Bound::Plus(2.0, "librdkafka alone")),
    aim("j-1000", P99, Bound::AtMost(10.0)),
    Aim { table: "n", system: "beside 100/s to 1,000", measure: P99, bound: Bound::Times(1.1, "alone") },
    Aim { table: "n", system: "beside 400/s to 1,000", measure: P99, bound: Bound::Times(1.1, "alone") },
    aim("start", RESIDENT, Bound::AtMost(20.0)),
    aim("start", START, Bound::AtMost(300.0)),
];

/// An aim, measured.
#[derive(Debug, Serialize)]
pub struct Verdict {
    /// What is aimed at, in words.
    pub aim: String,
    /// Sluice's median.
    pub measured: Option<f64>,
    /// What it was to be, from the medians of the others.
    pub limit: Option<f64>,
    /// Whether it is reached; nothing if either is missing.
    pub met: Option<bool>,
}

/// All aims whose table is in `report`.
pub fn judge(report: &Report) -> Vec<Verdict> {
    let tables = |aim: &&Aim| report.tables.iter().any(|table| table.name == aim.table);
    AIMS.iter().filter(tables).map(|aim| aim.judge(report)).collect()
}

/// The verdicts as a Markdown table.
pub fn markdown(verdicts: &[Verdict], text: &mut String) {
    let shown = |value: Option<f64>| value.map_or_else(|| "–".into(), number);
    let _ = writeln!(text, "\n**Aims**\n\n| aim | limit | measured | |\n|---|---|---|---|");
    for Verdict { aim, measured, limit, met } in verdicts {
        let word = match met {
            Some(true) => "met",
            Some(false) => "missed",
            None => "not measured",
        };
        let _ = writeln!(text, "| {aim} | {} | {} | {word} |", shown(*limit), shown(*measured));
    }
}

impl Aim {
    fn judge(&self, report: &Report) -> Verdict {
        let of = |system: &str| report.row(self.table, system)?.median(self.measure);
        let (sign, words, limit) = match self.bound {
            Bound::AtMost(most) => ("≤", number(most), Some(most)),
            Bound::Times(factor, system) => ("≤", times(factor, system), of(system).map(|it| it * factor)),
            Bound::Plus(more, system) => ("≤", format!("{system} + {more}"), of(system).map(|it| it + more)),
            Bound::AtLeastTimes(factor, system) => {
                ("≥", times(factor, system), of(system).map(|it| it * factor))
            }
            Bound::BestPeer => ("≤", "the best peer".into(), self.best_peer(report)),
        };
        let measured = of(self.system);
        let met = measured.zip(limit).map(|(measured, limit)| match self.bound {
            Bound::AtLeastTimes(..) => measured >= limit,
            _ => measured <= limit,
        });
        let aim = format!("{}: {}, {} {sign} {words}", self.table, self.system, self.measure);
        Verdict { aim, measured, limit, met }
    }

    fn best_peer(&self, report: &Report) -> Option<f64> {
        let table = report.tables.iter().find(|it| it.name == self.table)?;
        let peers =
            table.rows.iter().filter(|row| row.system != "floor" && !row.system.starts_with("Sluice"));
        peers.filter_map(|row| row.median(self.measure)).min_by(f64::total_cmp)
    }
}

fn times(factor: f64, system: &str) -> String {
    if factor == 1.0 { system.to_owned() } else { format!("{factor} × {system}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Machine;

    #[test]
    fn aims_are_judged_by_medians_of_the_same_run() {
        let mut report = Report::new(Machine::here(), Vec::new(), String::new());
        for (system, cpu, p99) in [("floor", 2.0, 3.0), ("Sluice", 2.1, 5.0), ("nchan", 5.0, 9.0)] {
            report.add(("a-100", ""), system, Ok(vec![(CPU, cpu), (P99, p99)]));
        }
        let verdicts = judge(&report);
        let of = |text: &str| verdicts.iter().find(|it| it.aim.contains(text)).expect("it is an aim");
        assert_eq!(of("CPU µs per delivery ≤ 1.1 × floor").met, Some(true));
        assert_eq!(of("p99 ms ≤ the best peer").limit, Some(9.0));
        assert_eq!(of("CPU µs per delivery ≤ Bun").met, None);
        assert!(verdicts.iter().all(|it| it.aim.starts_with("a-100")));
    }
}
