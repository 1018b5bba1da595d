//! Latencies in buckets whose width grows with the value: 3 % wide at most, 10 KiB, no allocation
//! while recording.

/// Buckets per power of two.
const PARTS: u32 = 32;
/// Powers of two above the linear part; enough for hours in microseconds.
const POWERS: usize = 38;

/// A histogram of microseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; (POWERS + 2) * PARTS as usize], total: 0 }
    }
}

impl Histogram {
    /// Counts one value.
    pub fn record(&mut self, micros: u64) {
        let bucket = index(micros).min(self.counts.len() - 1);
        self.counts[bucket] += 1;
        self.total += 1;
    }

    /// The value that a share `quantile` of all values does not exceed, in milliseconds.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        let wanted = (self.total as f64 * quantile).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return middle(bucket) / 1000.0;
            }
        }
        0.0
    }
}

/// Values below `2 * PARTS` have a bucket each; above, each power of two has `PARTS`.
fn index(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(PARTS.trailing_zeros() + 1);
    (shift * PARTS) as usize + (value >> shift) as usize
}

fn middle(bucket: usize) -> f64 {
    let parts = PARTS as usize;
    let shift = (bucket / parts).saturating_sub(1);
    let low = (bucket - shift * parts) << shift;
    low as f64 + ((1u64 << shift) - 1) as f64 / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_within_its_bucket() {
        for value in (0..100_000).chain((0..40).map(|power| 3 << power)) {
            let (found, value) = (middle(index(value)), value as f64);
            assert!((found - value).abs() <= value / 60.0, "{value} became {found}");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_ms(0.99), 0.0);
        (1..=1000).for_each(|millis| histogram.record(millis * 1000));
        assert!((histogram.quantile_ms(0.5) - 500.0).abs() < 10.0);
        assert!((histogram.quantile_ms(0.99) - 990.0).abs() < 20.0);
    }
}
