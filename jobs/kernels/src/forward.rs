//! Runs a network that is described as data.

use crate::weights::Weights;
use evoring_jobs::network::{Layer, NetworkSpec};
use std::ops::Range;
use tch::Tensor;

/// Added to the variance by batch norm.
pub const BATCH_NORM_EPSILON: f64 = 1e-5;

/// Applies layers `range` of `spec` to `x` as in evaluation (running statistics, no dropout).
pub fn evaluate_layers(
    spec: &NetworkSpec,
    weights: &Weights,
    range: Range<usize>,
    x: &Tensor,
) -> Tensor {
    let mut x = x.shallow_clone();
    for index in range {
        x = evaluate_layer(&spec.layers[index], index, weights, &x);
    }
    x
}

/// Applies one layer as in evaluation.
pub fn evaluate_layer(layer: &Layer, index: usize, weights: &Weights, x: &Tensor) -> Tensor {
    match *layer {
        Layer::BatchNorm => x.batch_norm(
            Some(weights.tensor(index, "weight")),
            Some(weights.tensor(index, "bias")),
            Some(weights.tensor(index, "running_mean")),
            Some(weights.tensor(index, "running_var")),
            false,
            0.0,
            BATCH_NORM_EPSILON,
            false,
        ),
        Layer::Dropout { .. } => x.shallow_clone(),
        _ => apply(layer, x, |name| weights.tensor(index, name)),
    }
}

/// Applies a layer that does the same in training and evaluation.
///
/// # Panics
/// For batch norm and dropout.
pub fn apply<'a>(layer: &Layer, x: &Tensor, tensor: impl Fn(&str) -> &'a Tensor) -> Tensor {
    match *layer {
        Layer::Conv { padding, .. } => x.conv2d(
            tensor("weight"),
            Some(tensor("bias")),
            1,
            i64::from(padding),
            1,
            1,
        ),
        Layer::Relu => x.relu(),
        Layer::MaxPool { size } => x.max_pool2d(i64::from(size), i64::from(size), 0, 1, false),
        Layer::Flatten => x.flatten(1, -1),
        Layer::Dense { .. } => x.linear(tensor("weight"), Some(tensor("bias"))),
        Layer::BatchNorm | Layer::Dropout { .. } => {
            panic!("{} differs between training and evaluation", layer.kind())
        }
    }
}

/// Number of rows whose largest logit is at the label.
pub fn count_correct(logits: &Tensor, labels: &Tensor) -> u32 {
    let correct = logits
        .argmax(1, false)
        .eq_tensor(labels)
        .sum(tch::Kind::Int64)
        .int64_value(&[]);
    u32::try_from(correct).unwrap_or_default()
}

/// Consecutive ranges of at most `batch` that cover `0..total`.
pub fn batches(total: i64, batch: u32) -> impl Iterator<Item = (i64, i64)> {
    let batch = i64::from(batch.max(1));
    (0..total)
        .step_by(batch as usize)
        .map(move |start| (start, batch.min(total - start)))
}
