//! The full net with masks, at its fastest batch.

use crate::clock::Clock;
use evoring_jobs::evolution::Chromosome;
use evoring_jobs::network::NetworkSpec;
use evoring_kernels::data::Prepared;
use evoring_kernels::masked;
use evoring_kernels::weights::Weights;
use tch::Tensor;

/// Batches that are tried.
const BATCHES: [u32; 4] = [50, 100, 250, 1000];

/// The baseline.
pub struct MaskedNet {
    spec: NetworkSpec,
    weights: Weights,
    images: Tensor,
    labels: Tensor,
    batch: u32,
}

impl MaskedNet {
    /// Tries the batches, twice each.
    pub fn new(spec: &NetworkSpec, weights: Weights, prepared: &Prepared) -> Self {
        let [channels, height, width] = spec.input.map(i64::from);
        let images = Tensor::from_slice(&prepared.images).view([-1, channels, height, width]);
        let labels: Vec<i64> = prepared
            .labels
            .iter()
            .map(|label| i64::from(*label))
            .collect();
        let labels = Tensor::from_slice(&labels);
        let mut net = Self {
            spec: spec.clone(),
            weights,
            images,
            labels,
            batch: BATCHES[0],
        };
        let full = Chromosome::ones(spec.genes());
        let mut best = f64::INFINITY;
        for batch in BATCHES {
            let tried = std::mem::replace(&mut net.batch, batch);
            let time = net.milliseconds(&full).min(net.milliseconds(&full));
            if time < best {
                best = time;
            } else {
                net.batch = tried;
            }
        }
        net
    }

    /// The batch that was fastest.
    pub fn batch(&self) -> u32 {
        self.batch
    }

    /// Processor time of one evaluation.
    pub fn milliseconds(&self, chromosome: &Chromosome) -> f64 {
        let clock = Clock::start();
        let score = tch::no_grad(|| {
            masked::score(
                &self.spec,
                &self.weights,
                chromosome,
                &self.images,
                &self.labels,
                self.batch,
            )
        });
        let milliseconds = clock.milliseconds();
        assert!(score.total > 0, "no images");
        milliseconds
    }
}
