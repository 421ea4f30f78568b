//! Networks described as data: a list of layers, from which encoding, parameter counts,
//! multiplications and the rebuilding of a pruned net are computed.
//!
//! Tensors are named as PyTorch's `nn.Sequential` over [`NetworkSpec::layers`] names them: the
//! index of the layer, then `weight`, `bias`, and for batch norm also `running_mean` and
//! `running_var`. Convolutions store `[filters, input channels, kernel, kernel]`, dense layers
//! `[units, inputs]`.
//!
//! A spec that came from outside is to be checked with [`NetworkSpec::validate`] first; the other
//! functions never panic, but only describe a network that passed it.

mod check;
mod encoding;
mod measure;
mod presets;
mod sizes;

pub use check::NetworkError;
pub use encoding::{Cut, PrunableLayer};
pub use measure::{Shape, Tensor};
pub use presets::PRESET_NAMES;
pub use sizes::SizeFormula;

use serde::{Deserialize, Serialize};

/// A layer; shapes are `[channels, height, width]` until [`Layer::Flatten`], `[features]` after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// Convolution with bias, stride 1; `padding` zeros on each side.
    Conv {
        /// Filters = output channels.
        filters: u32,
        /// Side of the square kernel.
        kernel: u32,
        /// Zeros on each side.
        padding: u32,
    },
    /// Batch normalisation over channels, with learned scale and shift; ε = 1e-5, momentum 0.1.
    BatchNorm,
    /// max(x, 0).
    Relu,
    /// Maximum over `size` × `size` windows at stride `size`; rests at the border are dropped.
    MaxPool {
        /// Side and stride of the window.
        size: u32,
    },
    /// `[channels, height, width]` to `[channels · height · width]`, channel-major.
    Flatten,
    /// Fully connected with bias. The last one gives the logits and is never pruned.
    Dense {
        /// Units = output features.
        units: u32,
    },
    /// Zeroes each value with this probability while training, in percent.
    Dropout {
        /// 0 to 90.
        percent: u32,
    },
}

impl Layer {
    /// Name of the kind, as in job files and `model.json`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Conv { .. } => "conv",
            Self::BatchNorm => "batch-norm",
            Self::Relu => "relu",
            Self::MaxPool { .. } => "max-pool",
            Self::Flatten => "flatten",
            Self::Dense { .. } => "dense",
            Self::Dropout { .. } => "dropout",
        }
    }
}

/// A network: input shape and layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Name, as in the job file.
    pub name: String,
    /// `[channels, height, width]`.
    pub input: [u32; 3],
    /// From input to logits.
    pub layers: Vec<Layer>,
}
