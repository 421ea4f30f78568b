//! `model.json`: the architecture of the small net, so that anybody can rebuild it.

use crate::data::{PIXEL_DEVIATION, PIXEL_MEAN};
use crate::evolution::Chromosome;
use crate::network::{Layer, NetworkSpec, Shape, Tensor};
use serde::Serialize;

#[derive(Serialize)]
struct Model<'a> {
    format: &'static str,
    name: &'a str,
    weights: &'static str,
    /// `[channels, height, width]`.
    input: [u32; 3],
    classes: u32,
    /// The network reads `(value / 255 − mean) / deviation` for pixel values 0 to 255.
    pixels: Pixels,
    parameters: u64,
    full_parameters: u64,
    multiplications: u64,
    layers: Vec<LayerEntry>,
    tensors: Vec<Tensor>,
}

#[derive(Serialize)]
struct Pixels {
    mean: f32,
    deviation: f32,
}

/// One layer; fields that a kind does not have are left out.
#[derive(Serialize)]
struct LayerEntry {
    index: usize,
    kind: &'static str,
    input: Vec<u32>,
    output: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    padding: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    percent: Option<u32>,
    /// Filters or units of this layer in the full net.
    #[serde(skip_serializing_if = "Option::is_none")]
    full_filters: Option<u32>,
    /// Which of them are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<Vec<u32>>,
}

/// The file for the net that `genome` leaves of `full`.
pub(super) fn file(full: &NetworkSpec, genome: &Chromosome) -> Vec<u8> {
    let small = full.pruned(genome);
    let prunable = full.prunable();
    let kept = full.kept(genome);
    let sizes = |shape: Shape| match shape {
        Shape::Image(sizes) => sizes.to_vec(),
        Shape::Features(features) => vec![features],
    };
    let shapes = small.input_shapes().into_iter().zip(small.shapes());
    let entry = |(index, (layer, (input, output))): (usize, (&Layer, (Shape, Shape)))| {
        let place = prunable
            .iter()
            .position(|candidate| candidate.layer == index);
        let mut entry = LayerEntry {
            index,
            kind: layer.kind(),
            input: sizes(input),
            output: sizes(output),
            kernel: None,
            padding: None,
            size: None,
            percent: None,
            full_filters: place.map(|place| prunable[place].filters),
            kept: place.map(|place| kept[place].clone()),
        };
        match layer {
            Layer::Conv {
                kernel, padding, ..
            } => (entry.kernel, entry.padding) = (Some(*kernel), Some(*padding)),
            Layer::MaxPool { size } => entry.size = Some(*size),
            Layer::Dropout { percent } => entry.percent = Some(*percent),
            Layer::BatchNorm | Layer::Relu | Layer::Flatten | Layer::Dense { .. } => {}
        }
        entry
    };
    let model = Model {
        format: "evoring-model/1",
        name: &small.name,
        weights: "model.safetensors",
        input: small.input,
        classes: small.classes(),
        pixels: Pixels {
            mean: PIXEL_MEAN,
            deviation: PIXEL_DEVIATION,
        },
        parameters: small.parameters(),
        full_parameters: full.parameters(),
        multiplications: small.multiplications(),
        layers: small
            .layers
            .iter()
            .zip(shapes)
            .enumerate()
            .map(entry)
            .collect(),
        tensors: small.tensors(),
    };
    super::report::json(&model)
}
