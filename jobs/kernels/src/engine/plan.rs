//! A network seen as stages: a convolution or dense layer with everything up to the next one.

use super::lanes::{Lanes, Windows};
use crate::forward::BATCH_NORM_EPSILON;
use evoring_jobs::network::{Layer, NetworkSpec, Shape};
use evoring_protocol::Digest;

/// Something that is done to the values of one filter.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Batch norm in evaluation: scale · value + shift. One pair for each filter, or behind a
    /// flatten layer one for each value of each filter.
    Affine {
        /// Pairs of one filter.
        per_filter: usize,
        /// Scale and shift.
        pairs: Vec<(f32, f32)>,
    },
    /// max(value, 0).
    Relu,
    /// Maximum over windows of this side at this stride.
    MaxPool(usize),
}

/// Values of one channel for one block of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plane {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Zeros around, for the convolution that reads it.
    pub padding: usize,
}

impl Plane {
    /// Distance of two rows.
    pub fn stride(self) -> usize {
        self.width + 2 * self.padding
    }

    /// Values with the zeros around.
    pub fn values(self) -> usize {
        self.stride() * (self.height + 2 * self.padding)
    }

    /// Writes the rows of `source` between the zeros of `target`.
    pub fn store(self, source: &[Lanes], target: &mut [Lanes]) {
        for y in 0..self.height {
            let at = (y + self.padding) * self.stride() + self.padding;
            target[at..at + self.width].copy_from_slice(&source[y * self.width..][..self.width]);
        }
    }
}

/// A convolution or dense layer and what follows up to the next one.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// Position of the layer in the network.
    pub layer: usize,
    /// Filters or units of the full network.
    pub filters: usize,
    /// Input channels of the full network; before a dense layer, channels in front of the flatten
    /// layer.
    pub channels: usize,
    /// Values of one input channel.
    pub input: Plane,
    /// Where the values of one window lie in an input channel.
    pub taps: Vec<u32>,
    /// The windows.
    pub windows: Windows,
    /// What follows.
    pub ops: Vec<Op>,
    /// Values of one filter behind `ops`.
    pub output: Plane,
    /// `[filters][channels · taps]`.
    weights: Vec<f32>,
    biases: Vec<f32>,
}

/// The whole network.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What is done to the input before the first stage.
    pub prelude: Vec<Op>,
    /// Values of one input channel behind the prelude.
    pub input: Plane,
    /// The stages.
    pub stages: Vec<Stage>,
}

impl Stage {
    /// Weights of filter `filter` from channel `channel`, in the order of the taps.
    pub fn weights(&self, filter: usize, channel: usize) -> &[f32] {
        &self.weights[(filter * self.channels + channel) * self.taps.len()..][..self.taps.len()]
    }

    /// Bias of a filter.
    pub fn bias(&self, filter: usize) -> f32 {
        self.biases[filter]
    }

    /// Digest of everything that decides the stage's outputs for an input.
    pub fn digest(&self) -> Digest {
        // Taken apart, so that no field can be forgotten.
        let Self {
            layer: _,
            filters,
            channels,
            input,
            taps,
            windows,
            ops,
            output,
            weights,
            biases,
        } = self;
        let mut text = Vec::new();
        let numbers = |text: &mut Vec<u8>, numbers: &[usize]| {
            text.extend((numbers.len() as u64).to_le_bytes());
            text.extend(numbers.iter().flat_map(|n| (*n as u64).to_le_bytes()));
        };
        let floats = |text: &mut Vec<u8>, floats: &[f32]| {
            text.extend((floats.len() as u64).to_le_bytes());
            text.extend(floats.iter().flat_map(|value| value.to_le_bytes()));
        };
        numbers(&mut text, &[*filters, *channels]);
        for plane in [input, output] {
            numbers(&mut text, &[plane.height, plane.width, plane.padding]);
        }
        numbers(&mut text, &[windows.height, windows.width, windows.stride]);
        let taps: Vec<usize> = taps.iter().map(|tap| *tap as usize).collect();
        numbers(&mut text, &taps);
        for op in ops {
            match op {
                Op::Affine { per_filter, pairs } => {
                    numbers(&mut text, &[0, *per_filter]);
                    let pairs = pairs.iter().flat_map(|(scale, shift)| [*scale, *shift]);
                    floats(&mut text, &pairs.collect::<Vec<f32>>());
                }
                Op::Relu => numbers(&mut text, &[1]),
                Op::MaxPool(size) => numbers(&mut text, &[2, *size]),
            }
        }
        floats(&mut text, weights);
        floats(&mut text, biases);
        Digest::of(&text)
    }

    /// Values that [`Op`]s see first: the outputs of one filter.
    pub fn sums(&self) -> usize {
        self.windows.height * self.windows.width
    }
}

impl Plan {
    /// Plans `spec`, which must have passed `validate`; `tensor` gives the values of a tensor by
    /// layer and name.
    pub fn new(spec: &NetworkSpec, tensor: impl Fn(usize, &str) -> Vec<f32>) -> Self {
        let shapes = spec.input_shapes();
        let is_stage = |layer: &Layer| matches!(layer, Layer::Conv { .. } | Layer::Dense { .. });
        let starts: Vec<usize> = (0..spec.layers.len())
            .filter(|index| is_stage(&spec.layers[*index]))
            .collect();
        let padding = |layer: Option<&usize>| match layer.map(|index| &spec.layers[*index]) {
            Some(Layer::Conv { padding, .. }) => *padding as usize,
            _ => 0,
        };
        let [channels, height, width] = spec.input.map(|side| side as usize);
        let first = starts.first().copied().unwrap_or(spec.layers.len());
        let plane = Plane {
            height,
            width,
            padding: 0,
        };
        let (prelude, mut plane) = ops(spec, 0..first, channels, plane, &tensor);
        plane.padding = padding(starts.first());
        let mut plan = Self {
            prelude,
            input: plane,
            stages: Vec::new(),
        };
        let mut channels = channels;
        for (place, layer) in starts.iter().copied().enumerate() {
            let end = starts.get(place + 1).copied().unwrap_or(spec.layers.len());
            let (filters, taps, windows) = window(&spec.layers[layer], shapes[layer], plane);
            let sums = Plane {
                height: windows.height,
                width: windows.width,
                padding: 0,
            };
            let (ops, mut output) = ops(spec, layer + 1..end, filters, sums, &tensor);
            output.padding = padding(starts.get(place + 1));
            let (weights, biases) = (tensor(layer, "weight"), tensor(layer, "bias"));
            plan.stages.push(Stage {
                layer,
                filters,
                channels,
                input: plane,
                taps,
                windows,
                ops,
                output,
                weights,
                biases,
            });
            (channels, plane) = (filters, output);
        }
        plan
    }
}

/// Filters, taps and windows of a layer with weights.
fn window(layer: &Layer, input: Shape, plane: Plane) -> (usize, Vec<u32>, Windows) {
    match (layer, input) {
        (
            &Layer::Conv {
                filters,
                kernel,
                padding,
            },
            Shape::Image([_, height, width]),
        ) => {
            let side = |side: u32| (side + 2 * padding + 1).saturating_sub(kernel) as usize;
            let taps = (0..kernel)
                .flat_map(|y| (0..kernel).map(move |x| y * plane.stride() as u32 + x))
                .collect();
            (
                filters as usize,
                taps,
                Windows {
                    height: side(height),
                    width: side(width),
                    stride: plane.stride(),
                },
            )
        }
        (&Layer::Dense { units }, _) => {
            let taps = (0..plane.values() as u32).collect();
            (
                units as usize,
                taps,
                Windows {
                    height: 1,
                    width: 1,
                    stride: 1,
                },
            )
        }
        _ => (
            0,
            Vec::new(),
            Windows {
                height: 0,
                width: 0,
                stride: 0,
            },
        ),
    }
}

/// The layers `range` without weights as operations on the values of one filter.
fn ops(
    spec: &NetworkSpec,
    range: std::ops::Range<usize>,
    filters: usize,
    mut plane: Plane,
    tensor: &impl Fn(usize, &str) -> Vec<f32>,
) -> (Vec<Op>, Plane) {
    let mut ops = Vec::new();
    for index in range {
        match spec.layers[index] {
            Layer::BatchNorm => {
                let pairs = affine(index, tensor);
                ops.push(Op::Affine {
                    per_filter: pairs.len() / filters.max(1),
                    pairs,
                });
            }
            Layer::Relu => ops.push(Op::Relu),
            Layer::MaxPool { size } => {
                ops.push(Op::MaxPool(size as usize));
                plane.height /= size as usize;
                plane.width /= size as usize;
            }
            // The values of a filter lie together already, in the order of a flatten layer.
            Layer::Flatten | Layer::Dropout { .. } => {}
            Layer::Conv { .. } | Layer::Dense { .. } => {}
        }
    }
    (ops, plane)
}

/// Batch norm with running statistics as scale and shift.
fn affine(layer: usize, tensor: &impl Fn(usize, &str) -> Vec<f32>) -> Vec<(f32, f32)> {
    let [weight, bias, mean, variance] =
        ["weight", "bias", "running_mean", "running_var"].map(|name| tensor(layer, name));
    let channels = weight.iter().zip(bias).zip(mean).zip(variance);
    let pair = |(((weight, bias), mean), variance): (((&f32, f32), f32), f32)| {
        let scale = f64::from(*weight) / (f64::from(variance) + BATCH_NORM_EPSILON).sqrt();
        (
            scale as f32,
            (f64::from(bias) - f64::from(mean) * scale) as f32,
        )
    };
    channels.map(pair).collect()
}
