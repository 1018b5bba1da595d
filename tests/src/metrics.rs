//! Reads Prometheus text 0.0.4.

use std::collections::BTreeMap;

/// One scrape.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    samples: Vec<Sample>,
    /// `# TYPE` lines by family.
    pub types: BTreeMap<String, String>,
}

/// One line of a scrape.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Name with suffix (`_total`, `_bucket`).
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Value.
    pub value: f64,
}

impl Metrics {
    /// Parses a scrape.
    ///
    /// # Panics
    /// If it is not Prometheus text.
    pub fn parse(text: &str) -> Self {
        let mut metrics = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a type line has a name and a type");
                metrics.types.insert(name.into(), kind.into());
            } else if !line.starts_with('#') {
                metrics.samples.push(sample(line));
            }
        }
        metrics
    }

    /// Every sample.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Sum of the samples called `name` (with the prefix `sluice_`) that carry all of `labels`.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let name = format!("sluice_{name}");
        self.samples
            .iter()
            .filter(|sample| sample.name == name)
            .filter(|sample| {
                labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|it| it == value))
            })
            .map(|sample| sample.value)
            .sum()
    }
}

fn sample(line: &str) -> Sample {
    let parse = |value: &str| value.parse().unwrap_or_else(|_| panic!("not a Prometheus sample: {line}"));
    let (head, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a Prometheus sample: {line}"));
    let (name, labels) = match head.split_once('{') {
        Some((name, rest)) => (name, labels(rest.strip_suffix('}').expect("labels are closed"))),
        None => (head, BTreeMap::new()),
    };
    let value = if value == "+Inf" { f64::INFINITY } else { parse(value) };
    Sample { name: name.into(), labels, value }
}

/// `a="b",c="d\"e"` with the escapes of the format.
fn labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut chars = text.chars().peekable();
    while chars.peek().is_some() {
        let name: String = chars.by_ref().take_while(|c| *c != '=').collect();
        assert_eq!(chars.next(), Some('"'), "a label value is quoted: {text}");
        let mut value = String::new();
        while let Some(c) = chars.next() {
            match c {
                '"' => break,
                '\\' => match chars.next() {
                    Some('n') => value.push('\n'),
                    Some(c) => value.push(c),
                    None => panic!("an escape ends: {text}"),
                },
                c => value.push(c),
            }
        }
        labels.insert(name.trim().to_owned(), value);
        if chars.peek() == Some(&',') {
            chars.next();
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_is_read_with_its_escapes() {
        let metrics = Metrics::parse(
            "# HELP sluice_x help\n# TYPE sluice_x counter\nsluice_x{a=\"1,2\",b=\"q\\\"\"} 3\nsluice_x{a=\"z\"} 4\nup 1\n",
        );
        assert_eq!(metrics.sum("x", &[]), 7.0);
        assert_eq!(metrics.sum("x", &[("b", "q\"")]), 3.0);
        assert_eq!(metrics.types["sluice_x"], "counter");
    }
}
