//! The result: one row a measure, with the median and the extremes of its repeats, as JSON and as
//! the Markdown table of `docs/PERFORMANCE.md`.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::measure::Machine;

const BEGIN: &str = "<!-- bench: begin -->";
const END: &str = "<!-- bench: end -->";
/// If the floor moves by a larger share between repeats, something else had the cores.
const FLOOR_MAY_MOVE: f64 = 0.15;

/// One measure.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What is measured, with its conditions.
    pub what: String,
    /// Unit of all values.
    pub unit: &'static str,
    /// What is aimed at, in words; empty if nothing is.
    pub aim: &'static str,
    /// Sluice's values, one a repeat.
    pub sluice: Vec<f64>,
    /// What `beside` is.
    pub peer: &'static str,
    /// The values of what ran beside it in the same run.
    pub beside: Vec<f64>,
}

/// All measures of a run.
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
    /// The measures, in the order of the first repeat.
    pub rows: Vec<Row>,
    /// Runs that are void, and why.
    pub void: Vec<String>,
}

impl Report {
    /// Adds a repeat's value, and that of `peer`, which may have none.
    pub fn add(
        &mut self,
        what: &str,
        unit: &'static str,
        aim: &'static str,
        sluice: f64,
        beside: Option<(&'static str, f64)>,
    ) {
        let place =
            self.rows.iter().position(|row| row.what == what && row.unit == unit).unwrap_or_else(|| {
                let peer = beside.map_or("", |(peer, _)| peer);
                let what = what.to_owned();
                self.rows.push(Row { what, unit, aim, sluice: Vec::new(), peer, beside: Vec::new() });
                self.rows.len() - 1
            });
        let row = &mut self.rows[place];
        row.sluice.push(sluice);
        row.beside.extend(beside.map(|(_, value)| value));
    }

    /// Everything but the values themselves, for people.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        let machine = &self.machine;
        let _ = writeln!(
            text,
            "{}, {} cores, {} GiB, Linux {}, TCP {}, load average {} before. {}. Command: `{}`. Medians of the repeats (least–most).\n",
            machine.processor,
            machine.cores,
            machine.memory_gib,
            machine.kernel,
            machine.congestion_control,
            machine.load,
            self.versions.join(", "),
            self.command
        );
        let _ = writeln!(
            text,
            "| measure | unit | aim | Sluice | beside it, in the same run |\n|---|---|---|---|---|"
        );
        for row in &self.rows {
            let beside = if row.beside.is_empty() {
                String::new()
            } else {
                format!("{}: {}", row.peer, shown(&row.beside))
            };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {beside} |",
                row.what,
                row.unit,
                row.aim,
                shown(&row.sluice)
            );
        }
        for row in self.rows.iter().filter(|row| row.peer == "floor" && row.unit.starts_with("CPU")) {
            let moved = spread(&row.beside);
            if moved > FLOOR_MAY_MOVE {
                let _ = writeln!(
                    text,
                    "\nDisturbed: the floor of “{}” moved by {:.0} % between repeats.",
                    row.what,
                    moved * 100.0
                );
            }
        }
        for void in &self.void {
            let _ = writeln!(text, "\nVoid: {void}");
        }
        text
    }

    /// Puts the table into `page`, between its markers.
    pub fn write(&self, page: &Path) -> Result<()> {
        let text = std::fs::read_to_string(page).with_context(|| format!("{}", page.display()))?;
        let (before, rest) =
            text.split_once(BEGIN).with_context(|| format!("no {BEGIN} in {}", page.display()))?;
        let (_, after) = rest.split_once(END).with_context(|| format!("no {END} in {}", page.display()))?;
        Ok(std::fs::write(page, format!("{before}{BEGIN}\n{}{END}{after}", self.markdown()))?)
    }
}

/// From the least to the most, as a share of the median.
fn spread(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.as_slice() {
        [first, .., last] => (last - first) / sorted[sorted.len() / 2],
        _ => 0.0,
    }
}

fn shown(values: &[f64]) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.as_slice() {
        [] => String::new(),
        [only] => number(*only),
        [first, .., last] => {
            format!("{} ({}–{})", number(sorted[sorted.len() / 2]), number(*first), number(*last))
        }
    }
}

/// Three digits, and no more behind the point than help.
fn number(value: f64) -> String {
    match value.abs() {
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        size if size < 10_000.0 => format!("{value:.0}"),
        _ => {
            let (thousands, rest) = ((value / 1000.0).trunc(), (value % 1000.0).abs().trunc());
            format!("{thousands:.0},{rest:03.0}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_median_and_extremes() {
        assert_eq!(shown(&[3.0, 1.0, 2.0, 10.4, 0.5]), "2.00 (0.50–10.4)");
        assert_eq!(shown(&[26_601.4]), "26,601");
        assert_eq!(shown(&[]), "");
    }

    #[test]
    fn a_page_keeps_what_is_around_its_table() {
        let page = std::env::temp_dir().join(format!("sluice-bench-page-{}", std::process::id()));
        std::fs::write(&page, format!("before\n{BEGIN}\nold\n{END}\nafter\n"))
            .expect("a file can be written");
        let mut report = Report {
            machine: Machine::here(),
            versions: vec!["sluice 1".into()],
            command: "make bench".into(),
            started: 0,
            rows: Vec::new(),
            void: Vec::new(),
        };
        report.add("a thing", "ms", "≤ 3", 2.0, Some(("floor", 1.0)));
        report.add("a thing", "ms", "≤ 3", 4.0, Some(("floor", 1.5)));
        report.write(&page).expect("it has markers");
        let text = std::fs::read_to_string(&page).expect("it is there");
        assert!(
            text.starts_with("before\n") && text.ends_with("\nafter\n") && !text.contains("old"),
            "{text}"
        );
        assert!(
            text.contains("| a thing | ms | ≤ 3 | 4.00 (2.00–4.00) | floor: 1.50 (1.00–1.50) |"),
            "{text}"
        );
        std::fs::remove_file(page).expect("it is there");
    }
}
