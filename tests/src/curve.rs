//! What is measured as curves, and these as pictures.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

mod svg;

/// A picture's values.
#[derive(Debug, Serialize)]
pub struct Curve {
    /// Names its file.
    pub name: String,
    /// What is drawn.
    pub title: String,
    /// What goes to the right.
    pub x_label: String,
    /// What goes up, from zero.
    pub y_label: String,
    /// Whether equal distances to the right are equal factors.
    pub logarithmic: bool,
    /// The lines.
    pub series: Vec<Series>,
}

/// A line.
#[derive(Debug, Serialize)]
pub struct Series {
    /// Whose.
    pub name: String,
    /// From left to right.
    pub points: Vec<Point>,
}

/// A value with all its repeats.
#[derive(Debug, Serialize)]
pub struct Point {
    /// Where.
    pub x: f64,
    /// What was measured there.
    pub values: Vec<f64>,
}

impl Point {
    /// What is drawn.
    pub fn y(&self) -> f64 {
        median(&self.values).unwrap_or_default()
    }
}

impl Curve {
    /// Without lines.
    pub fn new(name: &str, title: &str, (x, y): (&str, &str), logarithmic: bool) -> Self {
        let (x_label, y_label) = (x.to_owned(), y.to_owned());
        Self { name: name.into(), title: title.into(), x_label, y_label, logarithmic, series: Vec::new() }
    }

    /// Adds a value at the end of a line, or to those of its last point.
    pub fn add(&mut self, series: &str, x: f64, y: f64) {
        let place = self.series.iter().position(|it| it.name == series).unwrap_or_else(|| {
            self.series.push(Series { name: series.into(), points: Vec::new() });
            self.series.len() - 1
        });
        let points = &mut self.series[place].points;
        match points.iter_mut().find(|point| point.x == x) {
            Some(point) => point.values.push(y),
            None => points.push(Point { x, values: vec![y] }),
        }
    }

    /// Writes its picture to `directory`.
    pub fn write(&self, directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory)?;
        let file = directory.join(format!("{}.svg", self.name));
        std::fs::write(&file, svg::draw(self)).with_context(|| format!("{}", file.display()))
    }
}

/// The middle of some values; of an even number, what lies between the two in the middle.
pub fn median(values: &[f64]) -> Option<f64> {
    let (mut sorted, middle) = (values.to_vec(), values.len() / 2);
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(middle)?;
    Some(if values.len() % 2 == 1 { upper } else { f64::midpoint(sorted[middle - 1], upper) })
}

/// Three digits, and no more behind the point than help.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        size if size < 1000.0 => format!("{value:.0}"),
        size if size < 1_000_000.0 => format!("{},{:03}", value as i64 / 1000, value as i64 % 1000),
        _ => format!("{:.2} M", value / 1_000_000.0),
    }
}
