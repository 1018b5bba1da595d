//! Draws curves as SVG: axes, labels, points, and colours that can be read on light and on dark.

use std::fmt::Write;

use super::{Curve, number};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 380.0;
/// Room for labels: left, right, top, bottom.
const MARGIN: [f64; 4] = [64.0, 150.0, 40.0, 52.0];
/// Colours of the series, each with enough contrast to white and to black.
const COLOURS: [&str; 5] = ["#2f81f7", "#db6d28", "#2da44e", "#a475f9", "#bf8700"];
/// Lines across the picture, about.
const LINES: f64 = 5.0;
const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#57606a}.title{font-size:14px;fill:#1f2328}\
    .axis{stroke:#57606a}.grid{stroke:#8c959f;stroke-opacity:.3}\
    @media(prefers-color-scheme:dark){text{fill:#9198a1}.title{fill:#f0f6fc}.axis{stroke:#9198a1}}";

/// Where values lie in the picture.
struct Frame {
    x_least: f64,
    x_most: f64,
    y_most: f64,
    logarithmic: bool,
}

impl Frame {
    fn of(curve: &Curve) -> Self {
        let points = || curve.series.iter().flat_map(|series| &series.points);
        let xs = || points().map(|point| point.x);
        let y_most = points().map(|point| point.y()).fold(0.0, f64::max);
        let step = step(y_most);
        Self {
            x_least: if curve.logarithmic { xs().fold(f64::MAX, f64::min).max(1.0) } else { 0.0 },
            x_most: xs().fold(1.0, f64::max),
            y_most: (y_most / step).ceil().max(1.0) * step,
            logarithmic: curve.logarithmic,
        }
    }

    fn x(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value / self.x_least).ln() / (self.x_most / self.x_least).ln().max(f64::MIN_POSITIVE)
        } else {
            value / self.x_most
        };
        MARGIN[0] + share * (WIDTH - MARGIN[0] - MARGIN[1])
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - MARGIN[3] - value / self.y_most * (HEIGHT - MARGIN[2] - MARGIN[3])
    }

    /// What is written along the lower edge.
    fn x_marks(&self) -> Vec<f64> {
        if self.logarithmic {
            let powers = (0..10).map(|power| 10_f64.powi(power));
            return powers.filter(|mark| (self.x_least..=self.x_most * 1.001).contains(mark)).collect();
        }
        marks(self.x_most)
    }
}

/// 1, 2 or 5 times a power of ten, so that a few of them reach `most`.
fn step(most: f64) -> f64 {
    let power = 10_f64.powf((most.max(1e-9) / LINES).log10().floor());
    let enough = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power * LINES >= most);
    enough.unwrap_or(10.0) * power
}

fn marks(most: f64) -> Vec<f64> {
    let step = step(most);
    (0..=(most / step).round() as usize).map(|count| count as f64 * step).collect()
}

/// The whole file.
pub fn draw(curve: &Curve) -> String {
    let frame = Frame::of(curve);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n\
         <title>{0}</title>\n<style>{STYLE}</style>\n<text class=\"title\" x=\"{1}\" y=\"20\">{0}</text>\n",
        escaped(&curve.title),
        MARGIN[0]
    );
    axes(&mut svg, &frame, curve);
    for (place, series) in curve.series.iter().enumerate() {
        let colour = COLOURS[place % COLOURS.len()];
        let at: Vec<(f64, f64)> =
            series.points.iter().map(|point| (frame.x(point.x), frame.y(point.y()))).collect();
        let line: Vec<String> = at.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
            line.join(" ")
        );
        for (x, y) in at {
            let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>");
        }
        let (x, y) = (WIDTH - MARGIN[1] + 20.0, MARGIN[2] + 16.0 + 20.0 * place as f64);
        let _ = writeln!(svg, "<circle cx=\"{x}\" cy=\"{}\" r=\"5\" fill=\"{colour}\"/>", y - 4.0);
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{y}\">{}</text>", x + 12.0, escaped(&series.name));
    }
    svg + "</svg>\n"
}

fn axes(svg: &mut String, frame: &Frame, curve: &Curve) {
    let (left, right, top, bottom) = (MARGIN[0], WIDTH - MARGIN[1], MARGIN[2], HEIGHT - MARGIN[3]);
    for mark in marks(frame.y_most) {
        let y = frame.y(mark);
        let _ =
            writeln!(svg, "<line class=\"grid\" x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
        let at = (left - 8.0, y + 4.0);
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            at.0,
            at.1,
            plain(mark)
        );
    }
    for mark in frame.x_marks() {
        let x = frame.x(mark);
        let _ = writeln!(
            svg,
            "<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{}\"/>",
            bottom + 5.0
        );
        let at = bottom + 20.0;
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{at}\" text-anchor=\"middle\">{}</text>", plain(mark));
    }
    let _ = writeln!(svg, "<path class=\"axis\" fill=\"none\" d=\"M{left} {top}V{bottom}H{right}\"/>");
    let (middle, low) = (f64::midpoint(left, right), HEIGHT - 12.0);
    let _ = writeln!(
        svg,
        "<text x=\"{middle}\" y=\"{low}\" text-anchor=\"middle\">{}</text>",
        escaped(&curve.x_label)
    );
    let height = f64::midpoint(top, bottom);
    let _ = writeln!(
        svg,
        "<text transform=\"translate(16 {height})rotate(-90)\" text-anchor=\"middle\">{}</text>",
        escaped(&curve.y_label)
    );
}

fn plain(value: f64) -> String {
    if value.fract() == 0.0 && value < 1000.0 { format!("{value}") } else { number(value) }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lie_within_the_axes() {
        for logarithmic in [true, false] {
            let mut curve = Curve::new("c", "a < b", ("clients", "µs"), logarithmic);
            for (x, y) in [(10.0, 5.0), (100.0, 7.3), (10_000.0, 6.0)] {
                curve.add("Sluice", x, y);
            }
            let frame = Frame::of(&curve);
            assert_eq!(
                (frame.y_most, frame.x(10_000.0), frame.y(0.0)),
                (8.0, WIDTH - MARGIN[1], HEIGHT - MARGIN[3])
            );
            let svg = draw(&curve);
            assert_eq!(svg.matches("r=\"3.5\"").count(), 3);
            assert!(svg.contains("a &lt; b") && svg.contains("10,000") && svg.ends_with("</svg>\n"));
        }
    }

    #[test]
    fn marks_are_round_numbers() {
        assert_eq!(marks(8.0), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(step(0.3), 0.1);
    }
}
