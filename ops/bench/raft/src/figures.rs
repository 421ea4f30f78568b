//! Medians and percentiles.

/// Times in microseconds, sorted.
#[derive(Debug, Clone)]
pub struct Latencies {
    sorted_us: Vec<u32>,
}

impl Latencies {
    /// Sorts them.
    pub fn new(mut us: Vec<u32>) -> Self {
        us.sort_unstable();
        Self { sorted_us: us }
    }

    /// The smallest time that `share` (0 to 1) of all do not exceed, in milliseconds; 0 of none.
    pub fn percentile_ms(&self, share: f64) -> f64 {
        let count = self.sorted_us.len();
        let rank = (share * count as f64).ceil().max(1.0) as usize;
        self.sorted_us
            .get(rank.min(count).wrapping_sub(1))
            .map_or(0.0, |&us| f64::from(us) / 1e3)
    }

    /// The longest, in milliseconds.
    pub fn max_ms(&self) -> f64 {
        self.percentile_ms(1.0)
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.sorted_us.len()
    }
}

/// The middle one; of an even number the mean of both; 0 of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[half],
        _ => f64::midpoint(values[half - 1], values[half]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: percentiles are times that occurred, and of none there is 0. Method: 1 to 100 ms.
    #[test]
    fn percentiles_of_a_hundred() {
        let latencies = Latencies::new((1..=100).rev().map(|ms| ms * 1000).collect());
        assert_eq!(latencies.percentile_ms(0.5), 50.0);
        assert_eq!(latencies.percentile_ms(0.99), 99.0);
        assert_eq!(latencies.max_ms(), 100.0);
        assert_eq!(Latencies::new(vec![7000]).percentile_ms(0.5), 7.0);
        assert_eq!(Latencies::new(Vec::new()).max_ms(), 0.0);
    }

    // Claim: the median of an even number lies between both. Method: three, four, none.
    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median([]), 0.0);
    }
}
