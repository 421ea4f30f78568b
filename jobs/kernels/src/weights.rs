//! Parameters and batch-norm statistics of a network: files, initial values, cutting.

use crate::KernelError;
use evoring_jobs::evolution::Chromosome;
use evoring_jobs::network::{Layer, NetworkSpec};
use evoring_jobs::random::{Purpose, Stream};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::BTreeMap;
use std::path::Path;
use tch::Tensor;

/// Bytes of a weights file that will be read.
const MAX_FILE_BYTES: u64 = 8 << 30;

/// Tensors by name, as [`NetworkSpec::tensors`] names and shapes them; 32-bit floats.
#[derive(Debug)]
pub struct Weights(BTreeMap<String, Tensor>);

impl Weights {
    /// Wraps tensors that follow `spec`.
    pub fn new(tensors: BTreeMap<String, Tensor>) -> Self {
        Self(tensors)
    }

    /// Tensor `name` of layer `layer`.
    ///
    /// # Panics
    /// If the network has none, which a spec that passed `validate` rules out.
    pub fn tensor(&self, layer: usize, name: &str) -> &Tensor {
        let key = format!("{layer}.{name}");
        self.0
            .get(&key)
            .unwrap_or_else(|| panic!("weights have no {key}"))
    }

    /// All tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.0
    }

    /// All tensors by name, to change them.
    pub fn into_tensors(self) -> BTreeMap<String, Tensor> {
        self.0
    }

    /// Initial weights: He's uniform bound √(6 / inputs) (He et al. 2015, §2.2) from the job's
    /// generator; biases 0, scales 1.
    pub fn initial(spec: &NetworkSpec, seed: u64) -> Self {
        let tensors = spec
            .tensors()
            .into_iter()
            .enumerate()
            .map(|(index, tensor)| {
                let values = tensor.values() as usize;
                let data = if tensor.shape.len() > 1 {
                    let inputs: u64 = tensor.shape[1..].iter().product();
                    let bound = (6.0 / inputs as f64).sqrt();
                    let mut stream = Stream::new(seed, Purpose::Weights, index as u64, 0);
                    (0..values)
                        .map(|_| ((2.0 * stream.uniform() - 1.0) * bound) as f32)
                        .collect()
                } else {
                    let layer = tensor
                        .name
                        .split('.')
                        .next()
                        .and_then(|n| n.parse::<usize>().ok())
                        .unwrap_or_default();
                    let is_scale = matches!(spec.layers[layer], Layer::BatchNorm)
                        && (tensor.name.ends_with(".weight")
                            || tensor.name.ends_with("running_var"));
                    vec![if is_scale { 1f32 } else { 0f32 }; values]
                };
                (tensor.name.clone(), shaped(&data, &tensor.shape))
            });
        Self(tensors.collect())
    }

    /// Reads a safetensors file that must hold exactly the tensors of `spec`.
    pub fn load(path: &Path, spec: &NetworkSpec) -> Result<Self, KernelError> {
        let bytes = read_bounded(path, MAX_FILE_BYTES)?;
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|e| KernelError::corrupt(path, 0, e.to_string()))?;
        let expected = spec.tensors();
        if file.len() != expected.len() {
            let message = format!(
                "{} tensors, expected {} of network {:?}",
                file.len(),
                expected.len(),
                spec.name
            );
            return Err(KernelError::corrupt(path, 8, message));
        }
        let mut tensors = BTreeMap::new();
        for tensor in expected {
            let view = file
                .tensor(&tensor.name)
                .map_err(|e| KernelError::corrupt(path, 8, e.to_string()))?;
            let shape: Vec<u64> = view.shape().iter().map(|size| *size as u64).collect();
            if shape != tensor.shape || view.dtype() != Dtype::F32 {
                let message = format!(
                    "tensor {}: {:?} of shape {shape:?}, expected F32 of shape {:?}",
                    tensor.name,
                    view.dtype(),
                    tensor.shape
                );
                return Err(KernelError::corrupt(path, 8, message));
            }
            tensors.insert(tensor.name, shaped(&floats(view.data()), &tensor.shape));
        }
        Ok(Self(tensors))
    }

    /// The bytes of a safetensors file; equal weights give equal bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, KernelError> {
        let data: Vec<(&String, Vec<usize>, Vec<u8>)> = self
            .0
            .iter()
            .map(|(name, tensor)| (name, sizes(tensor), float_bytes(tensor)))
            .collect();
        write_tensors(data.iter().map(|(name, shape, bytes)| {
            (name.as_str(), Dtype::F32, shape.clone(), bytes.as_slice())
        }))
    }

    /// The same weights, with those of convolutions in libtorch's usual order in memory.
    pub fn with_channels_first(&self) -> Self {
        Self(
            self.0
                .iter()
                .map(|(name, tensor)| (name.clone(), tensor.contiguous()))
                .collect(),
        )
    }

    /// The same weights, with those of convolutions in an order in memory that makes libtorch
    /// compute with channels last, and their outputs be so.
    pub fn with_channels_last(&self) -> Self {
        let last = |tensor: &Tensor| match tensor.dim() {
            4 => tensor
                .permute([0, 2, 3, 1])
                .contiguous()
                .permute([0, 3, 1, 2]),
            _ => tensor.shallow_clone(),
        };
        Self(
            self.0
                .iter()
                .map(|(name, tensor)| (name.clone(), last(tensor)))
                .collect(),
        )
    }

    /// The small net's weights: kept filters, and of those that follow the kept inputs.
    pub fn cut(&self, spec: &NetworkSpec, chromosome: &Chromosome) -> Self {
        let mut tensors = BTreeMap::new();
        for cut in spec.cuts(chromosome) {
            let outputs = index_tensor(&cut.outputs);
            for name in ["weight", "bias", "running_mean", "running_var"] {
                let key = format!("{}.{name}", cut.layer);
                let Some(tensor) = self.0.get(&key) else {
                    continue;
                };
                let kept = tensor.index_select(0, &outputs);
                let kept = match tensor.dim() {
                    1 => kept,
                    _ => kept.index_select(1, &index_tensor(&cut.inputs)),
                };
                tensors.insert(key, kept);
            }
        }
        Self(tensors)
    }
}

/// Reads a file of at most `limit` bytes.
pub fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, KernelError> {
    let bytes = std::fs::metadata(path)
        .map_err(KernelError::io(path))?
        .len();
    if bytes > limit {
        return Err(KernelError::corrupt(
            path,
            limit,
            format!("{bytes} bytes, expected at most {limit}"),
        ));
    }
    std::fs::read(path).map_err(KernelError::io(path))
}

/// Serialises tensors in a fixed order.
pub fn write_tensors<'a>(
    tensors: impl Iterator<Item = (&'a str, Dtype, Vec<usize>, &'a [u8])>,
) -> Result<Vec<u8>, KernelError> {
    let unfit = |e: safetensors::SafeTensorError| KernelError::Unfit(format!("safetensors: {e}"));
    let views: Result<Vec<_>, _> = tensors
        .map(|(name, kind, shape, bytes)| {
            TensorView::new(kind, shape, bytes).map(|view| (name, view))
        })
        .collect();
    safetensors::serialize(views.map_err(unfit)?, None).map_err(unfit)
}

/// 64-bit indices as a tensor.
pub fn index_tensor(indices: &[u32]) -> Tensor {
    Tensor::from_slice(
        &indices
            .iter()
            .map(|index| i64::from(*index))
            .collect::<Vec<i64>>(),
    )
}

/// Little-endian 32-bit floats.
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
        .collect()
}

/// The values of a tensor as little-endian 32-bit floats.
pub fn float_bytes(tensor: &Tensor) -> Vec<u8> {
    float_values(tensor)
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// The values of a 32-bit tensor.
pub fn float_values(tensor: &Tensor) -> Vec<f32> {
    let mut values = vec![0f32; tensor.numel()];
    tensor.contiguous().copy_data(&mut values, tensor.numel());
    values
}

fn sizes(tensor: &Tensor) -> Vec<usize> {
    tensor.size().iter().map(|size| *size as usize).collect()
}

fn shaped(values: &[f32], shape: &[u64]) -> Tensor {
    Tensor::from_slice(values).view(
        shape
            .iter()
            .map(|size| *size as i64)
            .collect::<Vec<i64>>()
            .as_slice(),
    )
}
