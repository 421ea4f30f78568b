//! Whether a description is a network that can be trained and pruned.

use super::measure::output;
use super::{Layer, NetworkSpec, Shape};

/// Layers of one network.
const MAX_LAYERS: usize = 256;
/// Filters or units of one layer, and sides of the input.
const MAX_WIDTH: u32 = 1 << 14;
/// Values that flow between two layers for one image.
const MAX_VALUES: u64 = 1 << 26;
/// Parameters of one network (4 GiB in f32).
const MAX_PARAMETERS: u64 = 1 << 30;

/// A description that is not a network that can be trained and pruned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", match .layer { Some(index) => format!("layer {index}"), None => "network".to_owned() })]
pub struct NetworkError {
    /// Position in [`NetworkSpec::layers`]; `None` if the defect is of the whole.
    pub layer: Option<usize>,
    /// What is wrong, expected and got.
    pub reason: String,
}

impl NetworkSpec {
    /// Checks that the layers fit each other and the declared limits.
    pub fn validate(&self) -> Result<(), NetworkError> {
        let whole = |reason: String| NetworkError {
            layer: None,
            reason,
        };
        if self.layers.len() > MAX_LAYERS {
            return Err(whole(format!(
                "expected at most {MAX_LAYERS} layers, got {}",
                self.layers.len()
            )));
        }
        if self
            .input
            .iter()
            .any(|side| !(1..=MAX_WIDTH).contains(side))
        {
            return Err(whole(format!(
                "expected an input of 1 to {MAX_WIDTH} in each size, got {:?}",
                self.input
            )));
        }
        let mut shape = Shape::Image(self.input);
        for (index, layer) in self.layers.iter().enumerate() {
            let next = check(layer, shape);
            shape = next.map_err(|reason| NetworkError {
                layer: Some(index),
                reason,
            })?;
            if shape.values() > MAX_VALUES {
                let reason =
                    format!("expected at most {MAX_VALUES} values for one image, got {shape}");
                return Err(NetworkError {
                    layer: Some(index),
                    reason,
                });
            }
        }
        match self.layers.last() {
            Some(Layer::Dense { units }) if *units >= 2 => {}
            Some(Layer::Dense { units }) => {
                return Err(whole(format!(
                    "the last layer gives the logits: expected 2 units or more, got {units}"
                )));
            }
            _ => {
                return Err(whole(
                    "expected a dense layer at the end, which gives the logits".to_owned(),
                ));
            }
        }
        if self.prunable().is_empty() {
            return Err(whole(
                "expected a convolution or a second dense layer, or nothing can be pruned"
                    .to_owned(),
            ));
        }
        if self.parameters() > MAX_PARAMETERS {
            return Err(whole(format!(
                "expected at most {MAX_PARAMETERS} parameters, got {}",
                self.parameters()
            )));
        }
        Ok(())
    }
}

/// Output shape of a layer that fits its input, or what does not fit.
fn check(layer: &Layer, input: Shape) -> Result<Shape, String> {
    let kind = layer.kind();
    let range = |what: &str, value: u32, low: u32, high: u32| {
        let fits = (low..=high).contains(&value);
        if fits {
            Ok(())
        } else {
            Err(format!(
                "{kind}: expected {what} from {low} to {high}, got {value}"
            ))
        }
    };
    let is_image = matches!(input, Shape::Image(_));
    match *layer {
        Layer::Conv { .. } | Layer::MaxPool { .. } | Layer::Flatten if !is_image => {
            return Err(format!(
                "{kind}: expected [channels, height, width] in front, got {input} (flattened already)"
            ));
        }
        Layer::Dense { .. } if is_image => {
            return Err(format!(
                "dense: expected [features] in front, got {input}; put a flatten layer between"
            ));
        }
        Layer::Conv {
            filters,
            kernel,
            padding,
        } => {
            range("filters", filters, 1, MAX_WIDTH)?;
            range("kernel", kernel, 1, 31)?;
            range("padding", padding, 0, kernel - 1)?;
        }
        Layer::MaxPool { size } => range("size", size, 1, 31)?,
        Layer::Dense { units } => range("units", units, 1, MAX_WIDTH)?,
        Layer::Dropout { percent } => range("percent", percent, 0, 90)?,
        Layer::BatchNorm | Layer::Relu | Layer::Flatten => {}
    }
    let shape = output(layer, input);
    if shape.values() == 0 {
        return Err(format!("{kind}: nothing is left of an input of {input}"));
    }
    Ok(shape)
}
