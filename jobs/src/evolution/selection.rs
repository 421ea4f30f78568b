//! Choosing parents.

use super::Scaling;
use crate::random::Stream;

/// A roulette wheel: index `k` comes up with probability `weight[k] / Σ weight`.
#[derive(Debug, Clone, PartialEq)]
pub struct Wheel {
    /// Cumulative sums of the weights.
    sums: Vec<f64>,
}

impl Wheel {
    /// A wheel for these fitness values, each finite; a negative weight counts as 0 (a net above the
    /// wanted size, where that matters). If all weights are 0, every index is equally likely.
    pub fn new(fitness: &[f64], scaling: Scaling) -> Self {
        let lowest = match scaling {
            Scaling::Raw => 0.0,
            Scaling::Windowed => fitness
                .iter()
                .copied()
                .min_by(f64::total_cmp)
                .unwrap_or(0.0),
        };
        let mut sum = 0.0;
        let mut add = |weight: f64| {
            sum += weight;
            sum
        };
        let mut sums: Vec<f64> = fitness
            .iter()
            .map(|value| add((value - lowest).max(0.0)))
            .collect();
        if sums.last().is_none_or(|total| *total <= 0.0) {
            sums = (1..=fitness.len()).map(|count| count as f64).collect();
        }
        Self { sums }
    }

    /// Draws an index; 0 if the wheel is empty.
    pub fn spin(&self, stream: &mut Stream) -> usize {
        let total = self.sums.last().copied().unwrap_or(0.0);
        let at = stream.uniform() * total;
        // Rounding may push `at` to the total; the last index is the right answer then.
        self.sums
            .partition_point(|sum| *sum <= at)
            .min(self.sums.len().saturating_sub(1))
    }
}

/// Draws `size` indices of `count` with replacement and returns the smallest: with individuals
/// sorted from best to worst, the best of the tournament.
pub fn tournament(count: usize, size: u32, stream: &mut Stream) -> usize {
    (0..size.max(1))
        .map(|_| stream.below(count as u64) as usize)
        .min()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    fn chi_squared(counts: &[u64], probabilities: &[f64]) -> f64 {
        let total: u64 = counts.iter().sum();
        let term = |(count, probability): (&u64, &f64)| {
            let expected = probability * total as f64;
            (*count as f64 - expected) * (*count as f64 - expected) / expected
        };
        counts.iter().zip(probabilities).map(term).sum()
    }

    /// Claim: roulette picks index k with probability f_k / Σ f, as in Wang et al., *Towards
    /// Evolutionary Compression* (KDD 2018).
    /// Method: χ² on 10⁵ draws, 9 degrees of freedom, limit 27.9 (p = 0.001), fixed seed.
    #[test]
    fn roulette_frequencies_pass_chi_squared() {
        let fitness = [0.1, 0.9, 0.3, 1.2, 0.05, 0.7, 0.7, 0.25, 1.0, 0.5];
        let wheel = Wheel::new(&fitness, Scaling::Raw);
        let mut stream = Stream::new(11, Purpose::Breeding, 0, 0);
        let mut counts = [0u64; 10];
        (0..100_000).for_each(|_| counts[wheel.spin(&mut stream)] += 1);
        let probabilities = fitness.map(|value| value / fitness.iter().sum::<f64>());
        let chi = chi_squared(&counts, &probabilities);
        assert!(chi < 27.9, "χ² = {chi}, counts {counts:?}");
    }

    /// Claim: windowing restores the pressure that roulette lacks on nearly equal fitness. With 0.90
    /// against 0.95 the raw wheel prefers the better one by 5 %, the windowed wheel never picks the
    /// worst. Method: 10⁵ draws.
    #[test]
    fn windowing_restores_pressure() {
        let fitness = [0.90, 0.925, 0.95];
        let share = |scaling| {
            let wheel = Wheel::new(&fitness, scaling);
            let mut stream = Stream::new(5, Purpose::Breeding, 0, 0);
            let mut counts = [0u64; 3];
            (0..100_000).for_each(|_| counts[wheel.spin(&mut stream)] += 1);
            counts.map(|count| count as f64 / 100_000.0)
        };
        let raw = share(Scaling::Raw);
        assert!((raw[2] / raw[0] - 0.95 / 0.90).abs() < 0.03, "{raw:?}");
        let windowed = share(Scaling::Windowed);
        assert_eq!(windowed[0], 0.0);
        assert!((windowed[2] - 2.0 / 3.0).abs() < 0.01, "{windowed:?}");
    }

    /// Claim: a wheel without weight is fair, one without entries gives 0, and zeros are never
    /// picked beside positive weights.
    #[test]
    fn degenerate_wheels() {
        let mut stream = Stream::new(1, Purpose::Breeding, 0, 0);
        let fair = Wheel::new(&[0.0; 4], Scaling::Raw);
        let mut counts = [0u64; 4];
        (0..4000).for_each(|_| counts[fair.spin(&mut stream)] += 1);
        assert!(
            counts.iter().all(|count| (850..1150).contains(count)),
            "{counts:?}"
        );
        assert_eq!(Wheel::new(&[], Scaling::Windowed).spin(&mut stream), 0);
        let mut seen = [false; 4];
        let wheel = Wheel::new(&[0.0, 1.0, 0.0, 0.0], Scaling::Raw);
        (0..1000).for_each(|_| seen[wheel.spin(&mut stream)] = true);
        assert_eq!(seen, [false, true, false, false]);
    }

    /// Claim: the best of a tournament of 3 among 10 is the best one in 1 − (9/10)³ of the cases.
    #[test]
    fn tournaments_prefer_the_best() {
        let mut stream = Stream::new(3, Purpose::Breeding, 0, 0);
        let wins = (0..100_000)
            .filter(|_| tournament(10, 3, &mut stream) == 0)
            .count();
        assert!((wins as f64 / 100_000.0 - 0.271).abs() < 0.006, "{wins}");
    }
}
