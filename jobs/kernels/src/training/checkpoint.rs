//! Saved training state: a safetensors file with `parameters`, `momentum`, `statistics` (32-bit
//! floats, flat), `progress` (64-bit: step, bits of the epoch's loss sum, steps in that sum) and
//! `data` (32 bytes: digest of the images).

use crate::KernelError;
use crate::weights::{floats, read_bounded, write_tensors};
use evoring_protocol::Digest;
use safetensors::tensor::{Dtype, SafeTensors};
use std::path::Path;

/// Bytes of a checkpoint that will be read.
const MAX_BYTES: u64 = 16 << 30;

/// Everything that the next step depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Completed steps.
    pub step: u64,
    /// Sum of the mean losses of this epoch's steps, and their number.
    pub epoch_loss: (f64, u64),
    /// Parameters, flat.
    pub parameters: Vec<f32>,
    /// Momentum, flat.
    pub momentum: Vec<f32>,
    /// Running statistics, flat.
    pub statistics: Vec<f32>,
    /// Content of the images that it was trained on.
    pub data: Digest,
}

impl Checkpoint {
    /// Writes the file; it appears whole or not at all.
    pub fn save(&self, path: &Path) -> Result<(), KernelError> {
        let progress = [self.step, self.epoch_loss.0.to_bits(), self.epoch_loss.1];
        let progress: Vec<u8> = progress
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let flat = [
            ("momentum", &self.momentum),
            ("parameters", &self.parameters),
            ("statistics", &self.statistics),
        ];
        let flat = flat.map(|(name, values)| {
            let bytes: Vec<u8> = values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            (name, values.len(), bytes)
        });
        let tensors = flat
            .iter()
            .map(|(name, length, bytes)| (*name, Dtype::F32, vec![*length], bytes.as_slice()));
        let bytes = write_tensors(tensors.chain([
            ("progress", Dtype::U64, vec![3], progress.as_slice()),
            ("data", Dtype::U8, vec![32], self.data.0.as_slice()),
        ]))?;
        let temporary = path.with_extension("part");
        std::fs::write(&temporary, bytes).map_err(KernelError::io(&temporary))?;
        std::fs::rename(&temporary, path).map_err(KernelError::io(path))
    }

    /// Reads a file that must have `lengths` parameters and statistics.
    pub fn load(path: &Path, lengths: (usize, usize)) -> Result<Self, KernelError> {
        let bytes = read_bounded(path, MAX_BYTES)?;
        let corrupt = |message: String| KernelError::corrupt(path, 8, message);
        let file = SafeTensors::deserialize(&bytes).map_err(|e| corrupt(e.to_string()))?;
        let flat = |name: &str, length: usize| {
            let view = file.tensor(name).map_err(|e| corrupt(e.to_string()))?;
            if view.dtype() != Dtype::F32 || view.shape() != [length] {
                return Err(corrupt(format!(
                    "{name}: {:?} {:?}, expected F32 [{length}]",
                    view.dtype(),
                    view.shape()
                )));
            }
            Ok(floats(view.data()))
        };
        let progress = file
            .tensor("progress")
            .map_err(|e| corrupt(e.to_string()))?;
        let [step, loss, count] = match progress.data().as_chunks::<8>() {
            ([step, loss, count], []) => {
                [step, loss, count].map(|value| u64::from_le_bytes(*value))
            }
            _ => {
                return Err(corrupt(format!(
                    "progress: {} bytes, expected 24",
                    progress.data().len()
                )));
            }
        };
        let data = file.tensor("data").map_err(|e| corrupt(e.to_string()))?;
        let data = <[u8; 32]>::try_from(data.data())
            .map_err(|_| corrupt(format!("data: {} bytes, expected 32", data.data().len())))?;
        Ok(Self {
            data: Digest(data),
            step,
            epoch_loss: (f64::from_bits(loss), count),
            parameters: flat("parameters", lengths.0)?,
            momentum: flat("momentum", lengths.0)?,
            statistics: flat("statistics", lengths.1)?,
        })
    }
}
