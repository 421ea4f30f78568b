//! Arguments and results of kernels, as drivers write and executors read them (postcard).

use crate::data::{DataSpec, Part};
use crate::evolution::Chromosome;
use crate::network::NetworkSpec;
use evoring_protocol::Digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How a net is trained: cross-entropy, SGD with momentum in PyTorch's formula (weight decay is added
/// to the gradient), a learning rate that rises linearly and then falls as half a cosine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Passes over the training images.
    pub epochs: u32,
    /// Images of one step, over all shards.
    pub batch: u32,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Linear warm-up, in steps; then half a cosine down to 1 % of the peak.
    pub warmup_steps: u32,
    /// Momentum (Nesterov is off).
    pub momentum: f64,
    /// Weight decay on weights of convolutions and dense layers (not on biases or batch norm).
    pub weight_decay: f64,
    /// Mirror each image left to right with probability ½.
    pub flip: bool,
    /// Shift each image by up to this many pixels in each direction, zeros outside.
    pub shift_pixels: u32,
}

/// Argument of [`evoring_protocol::work::Kernel::TrainClassify`].
///
/// Inputs: none (weights from our generator), or one blob with the full net's weights, which are
/// rebuilt to the small net of `chromosome` before training if one is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainCall {
    /// The full network.
    pub network: NetworkSpec,
    /// Which filters to keep; `None` = all.
    pub chromosome: Option<Chromosome>,
    /// Images.
    pub data: DataSpec,
    /// How.
    pub recipe: Recipe,
    /// Seed of weights, order, augmentation and dropout.
    pub seed: u64,
    /// Micro-batches of one step, a power of two; fixes the arithmetic.
    pub shards: u32,
    /// Steps between checkpoints.
    pub checkpoint_steps: u32,
}

/// Result of [`evoring_protocol::work::Kernel::TrainClassify`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainResult {
    /// The trained weights (safetensors; names as [`crate::network`] gives them).
    pub weights: Digest,
    /// Steps made.
    pub steps: u64,
    /// Mean training loss of the last epoch.
    pub final_loss: f64,
    /// Content of the training side that was read; see [`DataSpec::digest`].
    pub data: Digest,
}

/// Argument of [`evoring_protocol::work::Kernel::PruneRank`]; input: the full net's weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankCall {
    /// The full network.
    pub network: NetworkSpec,
}

/// Item of [`evoring_protocol::work::Kernel::PruneRank`]: filters `first..first + count` of the
/// prunable layer `layer` (index among the prunable ones). Result: for each its rank by L1 norm of
/// its weights within the layer, 0 = largest, ties by index (`Vec<u16>`; so `count` ≤ 100).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankItem {
    /// Index among the prunable layers.
    pub layer: u32,
    /// First filter.
    pub first: u32,
    /// Number of filters.
    pub count: u32,
}

/// Argument of [`evoring_protocol::work::Kernel::PruneEvaluate`]; input: the full net's weights.
/// Items are [`Chromosome`]s, results [`Score`]s.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PruneEvaluateCall {
    /// The full network.
    pub network: NetworkSpec,
    /// Images.
    pub data: DataSpec,
    /// Which of them: fitness or selection.
    pub part: Part,
}

/// Correct answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Score {
    /// Images answered correctly.
    pub correct: u32,
    /// Images asked.
    pub total: u32,
}

/// Argument of [`evoring_protocol::work::Kernel::EvaluateClassify`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvaluateCall {
    /// The full network.
    pub network: NetworkSpec,
    /// Images; the test part is read.
    pub data: DataSpec,
    /// Images in one forward pass.
    pub batch: u32,
}

/// Item of [`evoring_protocol::work::Kernel::EvaluateClassify`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluateItem {
    /// Which of the inputs holds the weights.
    pub input: u32,
    /// Which filters the evaluated net has; `None` = all.
    pub chromosome: Option<Chromosome>,
    /// Whether the input holds the small net already (after fine-tuning) or the full one.
    pub is_small: bool,
}

/// Result of [`evoring_protocol::work::Kernel::EvaluateClassify`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EvaluateResult {
    /// On the test part.
    pub score: Score,
    /// Content of the test side that was read.
    pub data: Digest,
    /// Least processor time of a forward pass divided by its images, one thread; not reproducible.
    pub nanoseconds_per_image: u64,
}

/// Encodes an argument, item or result.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Writing plain data into a growing vector cannot fail.
    postcard::to_allocvec(value).unwrap_or_default()
}

/// Bytes that are not what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {reason} ({bytes} bytes)")]
pub struct CallError {
    /// Type that was expected.
    pub what: &'static str,
    /// What the decoder says.
    pub reason: String,
    /// Size.
    pub bytes: usize,
}

/// Decodes an argument, item or result; bytes left over are an error.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CallError> {
    let error = |reason: String| CallError {
        what: std::any::type_name::<T>(),
        reason,
        bytes: bytes.len(),
    };
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(|e| error(e.to_string()))?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(error(format!("{} bytes left over", rest.len())))
    }
}
