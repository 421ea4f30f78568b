//! The obvious way to evaluate a chromosome: the full net with the outputs of removed filters set
//! to zero. Reference for tests and benchmarks.

use crate::forward::{batches, count_correct, evaluate_layer};
use crate::weights::Weights;
use evoring_jobs::calls::Score;
use evoring_jobs::evolution::Chromosome;
use evoring_jobs::network::{Layer, NetworkSpec, Shape};
use tch::Tensor;

/// Logits `[images, classes]` of the full net with removed filters masked.
///
/// The mask is applied in front of the next layer with weights, so behind every batch norm, whose
/// shift would leak through otherwise, and behind pooling, where fewest values are left.
pub fn logits(
    spec: &NetworkSpec,
    weights: &Weights,
    chromosome: &Chromosome,
    x: &Tensor,
) -> Tensor {
    let prunable = spec.prunable();
    let mut x = x.shallow_clone();
    let mut mask: Option<Tensor> = None;
    for (index, (layer, input)) in spec.layers.iter().zip(spec.input_shapes()).enumerate() {
        let has_weights = matches!(layer, Layer::Conv { .. } | Layer::Dense { .. });
        if has_weights && let Some(mask) = mask.take() {
            x *= mask;
        }
        x = evaluate_layer(layer, index, weights, &x);
        if let Some(place) = prunable.iter().find(|place| place.layer == index) {
            let genes: Vec<f32> = place
                .genes()
                .map(|gene| if chromosome.gene(gene) { 1.0 } else { 0.0 })
                .collect();
            let shape: &[i64] = if matches!(layer, Layer::Conv { .. }) {
                &[1, -1, 1, 1]
            } else {
                &[1, -1]
            };
            mask = Some(Tensor::from_slice(&genes).view(shape));
        }
        if let (Layer::Flatten, Shape::Image([_, height, width])) = (layer, input) {
            let each = i64::from(height) * i64::from(width);
            mask = mask.map(|mask| {
                mask.view([-1, 1])
                    .expand([-1, each], false)
                    .reshape([1, -1])
            });
        }
    }
    x
}

/// Correct answers of the masked full net.
pub fn score(
    spec: &NetworkSpec,
    weights: &Weights,
    chromosome: &Chromosome,
    images: &Tensor,
    labels: &Tensor,
    batch: u32,
) -> Score {
    let total = images.size()[0];
    let correct = batches(total, batch)
        .map(|(start, count)| {
            let logits = logits(spec, weights, chromosome, &images.narrow(0, start, count));
            count_correct(&logits, &labels.narrow(0, start, count))
        })
        .sum();
    Score {
        correct,
        total: u32::try_from(total).unwrap_or(u32::MAX),
    }
}
