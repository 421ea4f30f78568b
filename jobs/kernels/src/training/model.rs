//! One rank's net: its parameters in one flat order, and the gradients of a micro-batch.
//!
//! The flat order is that of [`NetworkSpec::tensors`]: first all parameters, then all running
//! statistics. A shard's buffer holds gradients, batch statistics and the loss in that order.

use super::batch::MicroBatch;
use super::checkpoint::Checkpoint;
use crate::KernelError;
use crate::forward::{BATCH_NORM_EPSILON, apply};
use crate::weights::{Weights, float_values};
use evoring_jobs::calls::Recipe;
use evoring_jobs::network::{Layer, NetworkSpec, Tensor as Described};
use evoring_jobs::random::{Purpose, Stream};
use std::collections::BTreeMap;
use std::ops::Range;
use tch::Tensor;

/// Weight of the newest batch in running statistics.
const STATISTICS_MOMENTUM: f32 = 0.1;
/// Up to this many input channels, the windows of a convolution of the input are laid out as rows
/// and multiplied: libtorch's convolution wastes most of its vectors on so few channels (on one
/// thread, 1 channel: 16 ms against 7 ms for gradients of 128 images).
const FEW_CHANNELS: i64 = 4;

/// A network in training.
#[derive(Debug)]
pub struct Model {
    spec: NetworkSpec,
    parameters: Vec<f32>,
    momentum: Vec<f32>,
    statistics: Vec<f32>,
    /// The tensors in `parameters`, and whether weight decay applies: to the weights of convolutions
    /// and dense layers.
    stretches: Vec<(Range<usize>, bool)>,
    /// `parameters` for libtorch; the leaves are views into it.
    mirror: Tensor,
    leaves: Vec<(String, Tensor)>,
    /// Descriptions of the running statistics.
    running: Vec<Described>,
}

impl Model {
    /// Starts from `weights`, which must be those of `spec`.
    pub fn new(spec: NetworkSpec, weights: &Weights) -> Self {
        let (learned, running): (Vec<_>, Vec<_>) = spec
            .tensors()
            .into_iter()
            .partition(Described::is_parameter);
        let flat = |tensors: &[Described]| -> Vec<f32> {
            tensors
                .iter()
                .flat_map(|tensor| float_values(&weights.tensors()[&tensor.name]))
                .collect()
        };
        let (parameters, statistics) = (flat(&learned), flat(&running));
        let mirror = Tensor::from_slice(&parameters);
        let (mut leaves, mut stretches, mut start) = (Vec::new(), Vec::new(), 0);
        for tensor in learned {
            let end = start + tensor.values() as usize;
            let shape: Vec<i64> = tensor.shape.iter().map(|size| *size as i64).collect();
            let view = mirror
                .narrow(0, start as i64, (end - start) as i64)
                .view(shape.as_slice());
            stretches.push((start..end, shape.len() > 1));
            leaves.push((tensor.name, view.detach().set_requires_grad(true)));
            start = end;
        }
        let momentum = vec![0.0; parameters.len()];
        Self {
            spec,
            parameters,
            momentum,
            statistics,
            stretches,
            mirror,
            leaves,
            running,
        }
    }

    /// Numbers of parameters and of running statistics.
    pub fn lengths(&self) -> (usize, usize) {
        (self.parameters.len(), self.statistics.len())
    }

    /// Parameters, momentum and running statistics.
    pub fn state(&self) -> (&[f32], &[f32], &[f32]) {
        (&self.parameters, &self.momentum, &self.statistics)
    }

    /// Takes over a checkpoint whose lengths were checked.
    pub fn restore(&mut self, checkpoint: Checkpoint) {
        (self.parameters, self.momentum, self.statistics) = (
            checkpoint.parameters,
            checkpoint.momentum,
            checkpoint.statistics,
        );
        self.show();
    }

    /// Shows libtorch the parameters as they are now.
    fn show(&mut self) {
        tch::no_grad(|| self.mirror.copy_(&Tensor::from_slice(&self.parameters)));
    }

    /// The first tensor with a value that is infinite or no number, and that value.
    pub fn not_finite(&self) -> Option<(&str, f32)> {
        let learned = self.leaves.iter().zip(&self.stretches);
        let learned =
            learned.map(|((name, _), (range, _))| (name.as_str(), &self.parameters[range.clone()]));
        let mut rest = self.statistics.as_slice();
        let running = self.running.iter().map(|tensor| {
            let (values, behind) = rest.split_at(tensor.values() as usize);
            rest = behind;
            (tensor.name.as_str(), values)
        });
        learned.chain(running).find_map(|(name, values)| {
            let value = values.iter().find(|value| !value.is_finite())?;
            Some((name, *value))
        })
    }

    /// The weights as they are now.
    pub fn weights(&self) -> Weights {
        let mut tensors: BTreeMap<String, Tensor> = self
            .leaves
            .iter()
            .map(|(name, leaf)| (name.clone(), leaf.detach().copy()))
            .collect();
        let mut rest = self.statistics.as_slice();
        for tensor in &self.running {
            let (values, behind) = rest.split_at(tensor.values() as usize);
            tensors.insert(tensor.name.clone(), Tensor::from_slice(values));
            rest = behind;
        }
        Weights::new(tensors)
    }

    /// Writes gradients of the summed loss, batch statistics and the summed loss into `buffer`.
    pub fn compute_shard(
        &self,
        batch: &MicroBatch,
        seed: u64,
        step: u64,
        buffer: &mut [f32],
    ) -> Result<(), KernelError> {
        let mut pass = Pass {
            model: self,
            statistics: Vec::new(),
            streams: streams(batch, seed, step),
        };
        let logits = pass.forward(&batch.images);
        let loss = logits.f_cross_entropy_loss(
            &batch.labels,
            None::<Tensor>,
            tch::Reduction::Sum,
            -100,
            0.0,
        )?;
        let leaves: Vec<&Tensor> = self.leaves.iter().map(|(_, leaf)| leaf).collect();
        let gradients = Tensor::f_run_backward(&[&loss], &leaves, false, false)?;
        let mut rest = buffer;
        for part in gradients.iter().chain(&pass.statistics).chain([&loss]) {
            let (here, behind) = rest.split_at_mut(part.numel());
            part.contiguous().f_copy_data(here, part.numel())?;
            rest = behind;
        }
        Ok(())
    }

    fn leaf(&self, layer: usize, name: &str) -> &Tensor {
        let key = format!("{layer}.{name}");
        let leaf = self.leaves.iter().find(|(leaf, _)| *leaf == key);
        &leaf
            .unwrap_or_else(|| panic!("network {:?} has no parameter {key}", self.spec.name))
            .1
    }

    /// One step of SGD with momentum, in PyTorch's formula, from the sums over all shards.
    pub fn update(&mut self, sums: &[f32], recipe: &Recipe, learning_rate: f64, shards: u32) {
        let (gradients, rest) = sums.split_at(self.parameters.len());
        let (each, rate, keep) = (
            1.0 / recipe.batch as f32,
            learning_rate as f32,
            recipe.momentum as f32,
        );
        for (range, is_decayed) in &self.stretches {
            let decay = if *is_decayed {
                recipe.weight_decay as f32
            } else {
                0.0
            };
            let values = self.parameters[range.clone()]
                .iter_mut()
                .zip(&mut self.momentum[range.clone()]);
            for ((value, momentum), sum) in values.zip(&gradients[range.clone()]) {
                let gradient = sum * each + decay * *value;
                *momentum = keep * *momentum + gradient;
                *value -= rate * *momentum;
            }
        }
        let each = 1.0 / shards as f32;
        for (value, sum) in self.statistics.iter_mut().zip(rest) {
            *value = (1.0 - STATISTICS_MOMENTUM) * *value + STATISTICS_MOMENTUM * (sum * each);
        }
        self.show();
    }
}

/// Random numbers for dropout, one stream for each sample.
fn streams(batch: &MicroBatch, seed: u64, step: u64) -> Vec<Stream> {
    let samples = batch.labels.numel() as u64;
    (0..samples)
        .map(|sample| Stream::new(seed, Purpose::Dropout, step, batch.first_sample + sample))
        .collect()
}

/// A forward pass in training mode.
struct Pass<'a> {
    model: &'a Model,
    /// Batch means and variances, in flat order.
    statistics: Vec<Tensor>,
    streams: Vec<Stream>,
}

impl Pass<'_> {
    fn forward(&mut self, images: &Tensor) -> Tensor {
        let mut x = images.shallow_clone();
        for (index, layer) in self.model.spec.layers.iter().enumerate() {
            x = match *layer {
                Layer::Conv {
                    kernel, padding, ..
                } => self.convolve(&x, index, kernel.into(), padding.into()),
                Layer::BatchNorm => self.normalise(&x, index),
                Layer::Dropout { percent } => self.drop_out(&x, percent),
                _ => apply(layer, &x, |name| self.model.leaf(index, name)),
            };
        }
        x
    }

    /// A convolution with channels last in memory, which pooling and convolutions take fastest.
    fn convolve(&self, x: &Tensor, index: usize, kernel: i64, padding: i64) -> Tensor {
        let (weight, bias) = (
            self.model.leaf(index, "weight"),
            self.model.leaf(index, "bias"),
        );
        let size = x.size();
        if x.requires_grad() || size[1] > FEW_CHANNELS {
            let x = x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
            return x.conv2d(weight, Some(bias), 1, padding, 1, 1);
        }
        let x = if padding > 0 {
            x.constant_pad_nd([padding; 4])
        } else {
            x.shallow_clone()
        };
        let windows = x
            .unfold(2, kernel, 1)
            .unfold(3, kernel, 1)
            .permute([0, 2, 3, 1, 4, 5]);
        let (height, width) = (windows.size()[1], windows.size()[2]);
        let rows = windows.reshape([-1, size[1] * kernel * kernel]);
        let sums = rows.linear(&weight.flatten(1, -1), Some(bias));
        sums.view([size[0], height, width, -1])
            .permute([0, 3, 1, 2])
    }

    fn normalise(&mut self, x: &Tensor, index: usize) -> Tensor {
        let (scale, shift) = (
            self.model.leaf(index, "weight"),
            self.model.leaf(index, "bias"),
        );
        // With momentum 1 the running values become the batch's own.
        let (mean, variance) = tch::no_grad(|| (scale.zeros_like(), scale.ones_like()));
        let (scale, shift, running) = (Some(scale), Some(shift), (Some(&mean), Some(&variance)));
        let y = x.batch_norm(
            scale,
            shift,
            running.0,
            running.1,
            true,
            1.0,
            BATCH_NORM_EPSILON,
            false,
        );
        self.statistics.extend([mean, variance]);
        y
    }

    /// Zeroes values with the job's own random numbers and scales the rest.
    fn drop_out(&mut self, x: &Tensor, percent: u32) -> Tensor {
        let keep = 1.0 - f64::from(percent) / 100.0;
        let each = x.numel() / self.streams.len().max(1);
        let mut factors = Vec::with_capacity(x.numel());
        for stream in &mut self.streams {
            factors.extend((0..each).map(|_| {
                if stream.uniform() < keep {
                    (1.0 / keep) as f32
                } else {
                    0.0
                }
            }));
        }
        x * Tensor::from_slice(&factors).view(x.size().as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::evaluate_layers;

    fn batch(shape: [i64; 4]) -> MicroBatch {
        let mut stream = Stream::new(3, Purpose::Order, 0, 0);
        let values = shape.iter().product::<i64>() as usize;
        let pixels: Vec<f32> = (0..values)
            .map(|_| (2.0 * stream.uniform() - 1.0) as f32)
            .collect();
        let labels: Vec<i64> = (0..shape[0]).map(|_| stream.below(10) as i64).collect();
        let (images, labels) = (
            Tensor::from_slice(&pixels).view(shape),
            Tensor::from_slice(&labels),
        );
        MicroBatch {
            images,
            labels,
            first_sample: 0,
        }
    }

    /// Claim: gradients and loss are those of libtorch's ordinary convolutions. Method: LeNet with
    /// one input channel (windows as rows) and a net with five, against autograd on
    /// [`evaluate_layers`].
    #[test]
    fn gradients_are_those_of_ordinary_convolutions() {
        crate::initialise();
        let mut five = NetworkSpec::lenet(10);
        five.input[0] = 5;
        for spec in [NetworkSpec::lenet(10), five] {
            let weights = Weights::initial(&spec, 1);
            let model = Model::new(spec.clone(), &weights);
            let batch = batch([8, spec.input[0].into(), 28, 28]);
            let mut buffer = vec![0.0; model.lengths().0 + 1];
            model.compute_shard(&batch, 1, 0, &mut buffer).unwrap();

            let leaves = weights
                .into_tensors()
                .into_iter()
                .map(|(name, tensor)| (name, tensor.set_requires_grad(true)));
            let weights = Weights::new(leaves.collect());
            let logits = evaluate_layers(&spec, &weights, 0..spec.layers.len(), &batch.images);
            let loss = logits.cross_entropy_loss(
                &batch.labels,
                None::<Tensor>,
                tch::Reduction::Sum,
                -100,
                0.0,
            );
            let leaves: Vec<&Tensor> = spec
                .tensors()
                .iter()
                .map(|tensor| &weights.tensors()[&tensor.name])
                .collect();
            let gradients = Tensor::run_backward(&[&loss], &leaves, false, false);
            let parts = gradients
                .iter()
                .chain([&loss])
                .map(|part| part.flatten(0, -1));
            let expected = float_values(&Tensor::cat(&parts.collect::<Vec<_>>(), 0));
            let largest = expected
                .iter()
                .fold(0f32, |largest, value| largest.max(value.abs()));
            for (value, expected) in buffer.iter().zip(expected) {
                assert!(
                    (value - expected).abs() <= 1e-5 * largest,
                    "{value} {expected}"
                );
            }
        }
    }

    /// Claim: a step is PyTorch's SGD with momentum, with weight decay on weights and not on biases,
    /// and running statistics move a tenth of the way. Method: by hand for two steps.
    #[test]
    fn a_step_is_sgd_with_momentum() {
        crate::initialise();
        let layers = vec![
            Layer::Flatten,
            Layer::Dense { units: 2 },
            Layer::BatchNorm,
            Layer::Dense { units: 2 },
        ];
        let spec = NetworkSpec {
            name: "x".to_owned(),
            input: [1, 1, 1],
            layers,
        };
        let mut model = Model::new(spec.clone(), &Weights::initial(&spec, 1));
        let recipe = Recipe {
            epochs: 1,
            batch: 8,
            learning_rate: 0.5,
            warmup_steps: 0,
            momentum: 0.9,
            weight_decay: 0.1,
            flip: false,
            shift_pixels: 0,
        };
        let before = model.state().0.to_vec();
        // Weights and biases 2 + 2, scales and shifts 2 + 2, weights and biases 4 + 2.
        assert_eq!(model.lengths(), (14, 4));
        let sums: Vec<f32> = (0..18).map(|value| value as f32).chain([1.0]).collect();
        model.update(&sums, &recipe, 0.5, 4);
        model.update(&sums, &recipe, 0.5, 4);
        let is_weight = |index: usize| index < 2 || (8..12).contains(&index);
        for (index, value) in model.state().0.iter().enumerate() {
            let (mut expected, mut momentum) = (f64::from(before[index]), 0.0);
            for _ in 0..2 {
                let decay = if is_weight(index) {
                    0.1 * expected
                } else {
                    0.0
                };
                momentum = 0.9 * momentum + index as f64 / 8.0 + decay;
                expected -= 0.5 * momentum;
            }
            assert!(
                (f64::from(*value) - expected).abs() < 1e-5,
                "{index}: {value} {expected}"
            );
        }
        for (index, value) in model.state().2.iter().enumerate() {
            let (sum, start) = ((14 + index) as f64 / 4.0, if index < 2 { 0.0 } else { 1.0 });
            let expected = 0.9 * (0.9 * start + 0.1 * sum) + 0.1 * sum;
            assert!(
                (f64::from(*value) - expected).abs() < 1e-5,
                "{index}: {value} {expected}"
            );
        }
        let weights = model.weights();
        assert_eq!(
            float_values(weights.tensor(2, "running_var")),
            model.state().2[2..]
        );
        assert_eq!(
            float_values(weights.tensor(1, "bias")),
            model.state().0[2..4]
        );
    }
}
