//! The result: one table a measurement, one row a system, with the values of every repeat; as JSON
//! and as the Markdown between the markers of `docs/PERFORMANCE.md`.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::aims::{self, Verdict};
use crate::measure::{Machine, now_nanos};
use sluice_tests::curve::{Curve, median, number};

const BEGIN: &str = "<!-- bench: begin -->";
const END: &str = "<!-- bench: end -->";
/// If the floor moves by a larger share between repeats, something else had the cores.
const FLOOR_MAY_MOVE: f64 = 0.15;

/// Characters of a reason that are kept.
const MAX_REASON: usize = 400;

/// Where pictures go, beside the page.
const CURVES: &str = "curves";

/// A measure's name, which heads its column.
pub type Measure = &'static str;
/// What one run of one system gave.
pub type Values = Vec<(Measure, f64)>;

/// CPU time of the system's processes per message that a client got.
pub const CPU: Measure = "CPU µs per delivery";
/// Half of the messages were not older.
pub const P50: Measure = "p50 ms";
/// 99 of 100 messages were not older.
pub const P99: Measure = "p99 ms";
/// 999 of 1,000 messages were not older.
pub const P999: Measure = "p99.9 ms";
/// Messages times clients in the measured window.
pub const DELIVERIES: Measure = "deliveries";
/// The most memory the system's processes had resident.
pub const PEAK: Measure = "peak MiB";
/// Messages per second to every client.
pub const RATE: Measure = "messages/s";
/// Memory that an idle client adds.
pub const IDLE: Measure = "KiB per client";
/// CPU time of the system's processes per published message.
pub const EACH: Measure = "CPU µs each";
/// Bytes on the wire per delivery. Not shown.
pub const FRAME: Measure = "frame bytes";
/// The same, where it tells who was at the limit.
pub const LOADED: Measure = "load generator, % of its core";
/// How much of a core the load generator used. Not shown.
pub const OWN: Measure = "load generator, % of a core";

/// Measures that stand in the JSON only.
const UNSHOWN: &[Measure] = &[FRAME, OWN];

/// What one system did in one measurement.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Who.
    pub system: String,
    /// The values of the repeats, by measure.
    pub values: Vec<(Measure, Vec<f64>)>,
    /// Why repeats are void.
    pub void: Vec<String>,
}

impl Row {
    /// The middle of what was measured.
    pub fn median(&self, measure: Measure) -> Option<f64> {
        let (_, values) = self.values.iter().find(|(name, _)| *name == measure)?;
        median(values)
    }
}

/// One measurement of several systems.
#[derive(Debug, Serialize)]
pub struct Table {
    /// Its name in code.
    pub name: String,
    /// What is measured, with its conditions.
    pub title: String,
    /// One row a system.
    pub rows: Vec<Row>,
}

impl Table {
    fn measures(&self) -> Vec<Measure> {
        let mut measures: Vec<Measure> = Vec::new();
        for (measure, _) in self.rows.iter().flat_map(|row| &row.values) {
            if !measures.contains(measure) && !UNSHOWN.contains(measure) {
                measures.push(measure);
            }
        }
        measures
    }

    fn markdown(&self, text: &mut String) {
        let measures = self.measures();
        let _ =
            writeln!(text, "\n**{}: {}**\n\n| system | {} |", self.name, self.title, measures.join(" | "));
        let _ = writeln!(text, "|---|{}", "---|".repeat(measures.len().max(1)));
        for row in &self.rows {
            let cells = measures.iter().map(|measure| {
                let found = row.values.iter().find(|(name, _)| name == measure);
                found.map_or_else(|| "–".into(), |(_, values)| shown(values))
            });
            let cells: Vec<String> = cells.collect();
            let _ = writeln!(text, "| {} | {} |", row.system, cells.join(" | "));
        }
        for row in &self.rows {
            for void in &row.void {
                let _ = writeln!(text, "\nVoid: {}, {void}", row.system);
            }
        }
        let floor = self.rows.iter().find(|row| row.system == "floor");
        let cpu = floor.and_then(|row| row.values.iter().find(|(name, _)| *name == CPU));
        let moved = cpu.map_or(0.0, |(_, values)| spread(values));
        if moved > FLOOR_MAY_MOVE {
            let _ = writeln!(text, "\nDisturbed: the floor moved by {:.0} % between repeats.", moved * 100.0);
        }
    }
}

/// All measurements of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// Of what.
    pub versions: Vec<String>,
    /// By which command.
    pub command: String,
    /// When, in seconds since 1970.
    pub started: u64,
    /// In the order of the first repeat.
    pub tables: Vec<Table>,
    /// What is aimed at, judged when all is measured.
    pub aims: Vec<Verdict>,
    /// How cost grows, if that was measured.
    pub curves: Vec<Curve>,
}

impl Report {
    /// Nothing is measured yet.
    pub fn new(machine: Machine, versions: Vec<String>, command: String) -> Self {
        let started = now_nanos() / 1_000_000_000;
        Self { machine, versions, command, started, tables: Vec::new(), aims: Vec::new(), curves: Vec::new() }
    }

    /// Adds what a run of `system` gave, or why it gave nothing.
    pub fn add(&mut self, table: (&str, &str), system: &str, outcome: Result<Values>) {
        let (name, title) = table;
        let tables = &mut self.tables;
        let place = tables.iter().position(|table| table.name == name).unwrap_or_else(|| {
            tables.push(Table { name: name.into(), title: title.into(), rows: Vec::new() });
            tables.len() - 1
        });
        let rows = &mut tables[place].rows;
        let place = rows.iter().position(|row| row.system == system).unwrap_or_else(|| {
            rows.push(Row { system: system.into(), values: Vec::new(), void: Vec::new() });
            rows.len() - 1
        });
        let row = &mut rows[place];
        match outcome {
            Err(error) => row.void.push(brief(&format!("{error:#}"))),
            Ok(values) => values.into_iter().for_each(|(measure, value)| {
                match row.values.iter_mut().find(|(name, _)| *name == measure) {
                    Some((_, values)) => values.push(value),
                    None => row.values.push((measure, vec![value])),
                }
            }),
        }
    }

    /// A row, if it was measured.
    pub fn row(&self, table: &str, system: &str) -> Option<&Row> {
        let table = self.tables.iter().find(|it| it.name == table)?;
        table.rows.iter().find(|row| row.system == system)
    }

    /// Everything but the values themselves, for people.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        let machine = &self.machine;
        let _ = writeln!(
            text,
            "{}, {} cores, {} GiB, Linux {}, TCP {}, load average {} before. {}. Command: `{}`. Medians of the repeats (least–most).",
            machine.processor,
            machine.cores,
            machine.memory_gib,
            machine.kernel,
            machine.congestion_control,
            machine.load,
            self.versions.join(", "),
            self.command
        );
        aims::markdown(&self.aims, &mut text);
        self.tables.iter().for_each(|table| table.markdown(&mut text));
        text
    }

    /// Puts the tables into `page`, between its markers, and the curves beside it.
    pub fn write(&self, page: &Path) -> Result<()> {
        let text = std::fs::read_to_string(page).with_context(|| format!("{}", page.display()))?;
        let (before, rest) =
            text.split_once(BEGIN).with_context(|| format!("no {BEGIN} in {}", page.display()))?;
        let (_, after) = rest.split_once(END).with_context(|| format!("no {END} in {}", page.display()))?;
        std::fs::write(page, format!("{before}{BEGIN}\n{}{END}{after}", self.markdown()))?;
        let directory = page.with_file_name(CURVES);
        self.curves.iter().try_for_each(|curve| curve.write(&directory))
    }
}

/// One line of what may be a whole log.
fn brief(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(MAX_REASON).collect()
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// From the least to the most, as a share of the median.
fn spread(values: &[f64]) -> f64 {
    match sorted(values).as_slice() {
        [first, middle @ .., last] => (last - first) / median(middle).unwrap_or(*last),
        _ => 0.0,
    }
}

fn shown(values: &[f64]) -> String {
    match sorted(values).as_slice() {
        [] => String::new(),
        [only] => number(*only),
        [first, .., last] => {
            let middle = median(values).unwrap_or_default();
            format!("{} ({}–{})", number(middle), number(*first), number(*last))
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn values_are_shown_as_median_and_extremes() {
        assert_eq!(shown(&[3.0, 1.0, 2.0, 10.4, 0.5]), "2.00 (0.50–10.4)");
        assert_eq!(shown(&[26_601.4]), "26,601");
        assert_eq!(shown(&[]), "");
    }

    #[test]
    fn a_page_keeps_what_is_around_its_tables() {
        let page = std::env::temp_dir().join(format!("sluice-bench-page-{}", std::process::id()));
        std::fs::write(&page, format!("before\n{BEGIN}\nold\n{END}\nafter\n"))
            .expect("a file can be written");
        let mut report = Report::new(Machine::here(), vec!["sluice 1".into()], "make bench".into());
        for (floor, ours) in [(1.0, 2.0), (1.5, 4.0)] {
            report.add(("a", "a thing"), "floor", Ok(vec![(CPU, floor), (FRAME, 7.0)]));
            report.add(("a", "a thing"), "Sluice", Ok(vec![(CPU, ours), (P99, 9.0)]));
        }
        report.add(("a", "a thing"), "a peer", Err(anyhow!("no such command")));
        report.write(&page).expect("it has markers");
        let text = std::fs::read_to_string(&page).expect("it is there");
        std::fs::remove_file(&page).expect("it is there");
        assert!(
            text.starts_with("before\n") && text.ends_with("\nafter\n") && !text.contains("old"),
            "{text}"
        );
        for wanted in [
            "| system | CPU µs per delivery | p99 ms |",
            "| Sluice | 3.00 (2.00–4.00) | 9.00 (9.00–9.00) |",
            "| a peer | – | – |",
            "Void: a peer, no such command",
            "Disturbed: the floor moved by",
        ] {
            assert!(text.contains(wanted), "{wanted} is missing in {text}");
        }
    }
}
