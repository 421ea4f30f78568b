//! Shapes and sizes.

use super::{Layer, NetworkSpec};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Shape of what flows between layers, for one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shape {
    /// `[channels, height, width]`.
    Image([u32; 3]),
    /// `[features]`.
    Features(u32),
}

impl Shape {
    /// Channels of an image, or features.
    pub fn channels(self) -> u32 {
        match self {
            Self::Image([channels, _, _]) => channels,
            Self::Features(features) => features,
        }
    }

    /// Values in all.
    pub fn values(self) -> u64 {
        match self {
            Self::Image(sides) => sides.iter().fold(1u64, |product, side| {
                product.saturating_mul(u64::from(*side))
            }),
            Self::Features(features) => u64::from(features),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image([channels, height, width]) => write!(f, "[{channels}, {height}, {width}]"),
            Self::Features(features) => write!(f, "[{features}]"),
        }
    }
}

/// A tensor of a network's weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tensor {
    /// `INDEX.weight` and so on.
    pub name: String,
    /// Sizes.
    pub shape: Vec<u64>,
}

impl Tensor {
    /// Values in it.
    pub fn values(&self) -> u64 {
        self.shape
            .iter()
            .fold(1, |product, size| product.saturating_mul(*size))
    }

    /// Whether it is learned (running statistics are not).
    pub fn is_parameter(&self) -> bool {
        !self.name.contains(".running_")
    }
}

impl NetworkSpec {
    /// Number of classes: units of the last layer.
    pub fn classes(&self) -> u32 {
        match self.layers.last() {
            Some(Layer::Dense { units }) => *units,
            _ => 0,
        }
    }

    /// Output shape of each layer; `shapes()[i]` is what layer `i` gives.
    pub fn shapes(&self) -> Vec<Shape> {
        let mut shape = Shape::Image(self.input);
        let step = |layer| {
            shape = output(layer, shape);
            shape
        };
        self.layers.iter().map(step).collect()
    }

    /// Input shape of each layer; `input_shapes()[i]` is what layer `i` reads.
    pub fn input_shapes(&self) -> Vec<Shape> {
        let mut shapes = self.shapes();
        shapes.pop();
        shapes.insert(0, Shape::Image(self.input));
        shapes.truncate(self.layers.len());
        shapes
    }

    /// Every tensor in the order of the layers (weight, bias, running mean, running variance).
    pub fn tensors(&self) -> Vec<Tensor> {
        let mut tensors = Vec::new();
        for (index, (layer, input)) in self.layers.iter().zip(self.input_shapes()).enumerate() {
            let mut push = |name: &str, shape: Vec<u64>| {
                tensors.push(Tensor {
                    name: format!("{index}.{name}"),
                    shape,
                })
            };
            let channels = u64::from(input.channels());
            match *layer {
                Layer::Conv {
                    filters, kernel, ..
                } => {
                    push(
                        "weight",
                        vec![filters.into(), channels, kernel.into(), kernel.into()],
                    );
                    push("bias", vec![filters.into()]);
                }
                Layer::Dense { units } => {
                    push("weight", vec![units.into(), channels]);
                    push("bias", vec![units.into()]);
                }
                Layer::BatchNorm => {
                    for name in ["weight", "bias", "running_mean", "running_var"] {
                        push(name, vec![channels]);
                    }
                }
                Layer::Relu | Layer::MaxPool { .. } | Layer::Flatten | Layer::Dropout { .. } => {}
            }
        }
        tensors
    }

    /// Learned values: weights, biases, scales and shifts.
    pub fn parameters(&self) -> u64 {
        self.layers
            .iter()
            .zip(self.input_shapes())
            .fold(0, |sum, (layer, input)| {
                let channels = u64::from(input.channels());
                sum.saturating_add(match *layer {
                    Layer::Conv {
                        filters, kernel, ..
                    } => {
                        let weights = channels
                            .saturating_mul(u64::from(kernel))
                            .saturating_mul(u64::from(kernel));
                        u64::from(filters).saturating_mul(weights.saturating_add(1))
                    }
                    Layer::Dense { units } => {
                        u64::from(units).saturating_mul(channels.saturating_add(1))
                    }
                    Layer::BatchNorm => channels.saturating_mul(2),
                    Layer::Relu
                    | Layer::MaxPool { .. }
                    | Layer::Flatten
                    | Layer::Dropout { .. } => 0,
                })
            })
    }

    /// Bytes of all tensors in f32, running statistics included.
    pub fn bytes(&self) -> u64 {
        self.tensors().iter().fold(0, |sum: u64, tensor| {
            sum.saturating_add(tensor.values().saturating_mul(4))
        })
    }

    /// Multiplications of convolutions and dense layers for one image. Batch norm is not counted:
    /// at inference it can be folded into the layer in front.
    pub fn multiplications(&self) -> u64 {
        self.layers
            .iter()
            .zip(self.input_shapes())
            .fold(0, |sum, (layer, input)| {
                sum.saturating_add(match *layer {
                    Layer::Conv { kernel, .. } => {
                        let window = u64::from(kernel).saturating_mul(u64::from(kernel));
                        let each = u64::from(input.channels()).saturating_mul(window);
                        output(layer, input).values().saturating_mul(each)
                    }
                    Layer::Dense { units } => {
                        u64::from(units).saturating_mul(u64::from(input.channels()))
                    }
                    _ => 0,
                })
            })
    }
}

/// Output shape without a check; sizes that do not fit become 0 instead of wrapping.
pub(super) fn output(layer: &Layer, input: Shape) -> Shape {
    match (layer, input) {
        (
            Layer::Conv {
                filters,
                kernel,
                padding,
            },
            Shape::Image([_, height, width]),
        ) => {
            let side = |side: u32| {
                let padded = side
                    .saturating_add(padding.saturating_mul(2))
                    .saturating_add(1);
                padded.saturating_sub(*kernel)
            };
            Shape::Image([*filters, side(height), side(width)])
        }
        (Layer::MaxPool { size }, Shape::Image([channels, height, width])) => {
            let side = |side: u32| side.checked_div(*size).unwrap_or(0);
            Shape::Image([channels, side(height), side(width)])
        }
        (Layer::Flatten, Shape::Image(_)) => {
            Shape::Features(input.values().try_into().unwrap_or(u32::MAX))
        }
        (Layer::Dense { units }, _) => Shape::Features(*units),
        _ => input,
    }
}
