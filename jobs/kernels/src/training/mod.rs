//! Supervised data-parallel training (kernel `train.classify`).
//!
//! The global batch is cut into `shards` micro-batches. A rank computes each of its shards by
//! itself and writes gradients, batch-norm statistics and loss into the shard's buffer; the
//! exchange sums the buffers over all shards by one fixed tree; every rank then takes the same
//! step. So the bits depend on the job alone: not on the number of ranks, nor on interruptions.

mod batch;
mod checkpoint;
mod exchange;
mod model;
#[cfg(test)]
mod tests;

pub use checkpoint::Checkpoint;
pub use evoring_jobs::tree::{shards_of, tree_sum};
pub use exchange::{ExchangeError, GradientExchange, SingleProcess};

use crate::KernelError;
use crate::evaluator::{check_call, check_fits};
use crate::weights::Weights;
use batch::BatchMaker;
use evoring_jobs::calls::{Recipe, TrainCall, TrainResult};
use evoring_jobs::network::NetworkSpec;
use evoring_protocol::Digest;
use evoring_protocol::work::TrainingProgress;
use model::Model;
use std::path::{Path, PathBuf};

/// What a training tells while it runs.
pub trait TrainObserver {
    /// Called after every step; may be lost.
    fn progress(&mut self, progress: TrainingProgress);
    /// A checkpoint of `step` lies at `path` (first rank only); the callee takes the file.
    fn checkpoint(&mut self, step: u64, path: &Path) -> Result<(), KernelError>;
    /// Whether to stop as soon as possible.
    fn should_stop(&self) -> bool;
}

/// Files that a training starts from and writes.
#[derive(Debug, Clone, Copy)]
pub struct TrainFiles<'a> {
    /// Files of the demand's inputs: none, or the full net's weights.
    pub inputs: &'a [PathBuf],
    /// Checkpoint to go on from, with its step.
    pub resume: Option<(u64, &'a Path)>,
    /// Folder for checkpoints and the result.
    pub scratch: &'a Path,
}

/// The network that a call trains: the full one, or what a chromosome leaves of it.
pub fn trained_network(call: &TrainCall) -> Result<NetworkSpec, KernelError> {
    check_call(&call.network, &call.data)?;
    let Some(chromosome) = &call.chromosome else {
        return Ok(call.network.clone());
    };
    check_fits(&call.network, chromosome)?;
    Ok(call.network.pruned(chromosome))
}

/// Values in one shard's buffer: gradients, batch statistics, loss.
pub fn exchange_length(call: &TrainCall) -> Result<usize, KernelError> {
    let values: u64 = trained_network(call)?
        .tensors()
        .iter()
        .map(|tensor| tensor.values())
        .sum();
    Ok(values as usize + 1)
}

/// Runs one rank to the end and returns the result with the file of the trained weights, which
/// every rank writes with the same bytes.
pub fn run_rank(
    call: &TrainCall,
    files: TrainFiles<'_>,
    exchange: &mut dyn GradientExchange,
    observer: &mut dyn TrainObserver,
) -> Result<(TrainResult, PathBuf), KernelError> {
    let spec = trained_network(call)?;
    let mut training = Training::begin(call, spec, files)?;
    while training.step < training.steps {
        if observer.should_stop() {
            return Err(KernelError::Stopped {
                step: training.step,
                message: "told to stop".to_owned(),
            });
        }
        training.take_step(exchange)?;
        observer.progress(training.progress());
        let is_due = training
            .step
            .is_multiple_of(u64::from(call.checkpoint_steps.max(1)));
        if is_due && training.step < training.steps && exchange.is_first_rank() {
            let path = files
                .scratch
                .join(format!("checkpoint-{}.safetensors", training.step));
            training.checkpoint().save(&path)?;
            observer.checkpoint(training.step, &path)?;
        }
    }
    training.finish(files.scratch)
}

struct Training<'a> {
    call: &'a TrainCall,
    model: Model,
    batches: BatchMaker<'a>,
    step: u64,
    steps: u64,
    /// Sum of the mean losses of this epoch's steps, and their number.
    epoch_loss: (f64, u64),
    last_loss: f64,
}

impl<'a> Training<'a> {
    fn begin(
        call: &'a TrainCall,
        spec: NetworkSpec,
        files: TrainFiles<'_>,
    ) -> Result<Self, KernelError> {
        let batches = BatchMaker::new(call)?;
        let steps = batches.steps_per_epoch() * u64::from(call.recipe.epochs);
        let mut training = Self {
            call,
            model: Model::new(spec, &start_weights(call, files.inputs)?),
            batches,
            step: 0,
            steps,
            epoch_loss: (0.0, 0),
            last_loss: 0.0,
        };
        if let Some((step, path)) = files.resume {
            training.restore(
                Checkpoint::load(path, training.model.lengths())?,
                step,
                path,
            )?;
        }
        Ok(training)
    }

    fn restore(
        &mut self,
        checkpoint: Checkpoint,
        step: u64,
        path: &Path,
    ) -> Result<(), KernelError> {
        if checkpoint.step != step || step > self.steps {
            let message = format!(
                "checkpoint of step {}, expected step {step} of {}",
                checkpoint.step, self.steps
            );
            return Err(KernelError::corrupt(path, 0, message));
        }
        if checkpoint.data != self.batches.data() {
            return Err(KernelError::OtherData {
                path: path.to_owned(),
                expected: checkpoint.data,
                got: self.batches.data(),
            });
        }
        self.step = step;
        self.epoch_loss = checkpoint.epoch_loss;
        self.model.restore(checkpoint);
        Ok(())
    }

    fn checkpoint(&self) -> Checkpoint {
        let (parameters, momentum, statistics) = self.model.state();
        let [parameters, momentum, statistics] =
            [parameters, momentum, statistics].map(<[f32]>::to_vec);
        Checkpoint {
            step: self.step,
            epoch_loss: self.epoch_loss,
            parameters,
            momentum,
            statistics,
            data: self.batches.data(),
        }
    }

    fn take_step(&mut self, exchange: &mut dyn GradientExchange) -> Result<(), KernelError> {
        if self.step.is_multiple_of(self.batches.steps_per_epoch()) {
            self.epoch_loss = (0.0, 0);
        }
        for shard in exchange.shards() {
            let micro_batch = self.batches.micro_batch(self.step, shard);
            self.model.compute_shard(
                &micro_batch,
                self.call.seed,
                self.step,
                exchange.shard_buffer(shard),
            )?;
        }
        let step = self.step;
        let sum = exchange.reduce().map_err(|e| KernelError::Stopped {
            step,
            message: e.to_string(),
        })?;
        let recipe = &self.call.recipe;
        self.model.update(
            sum,
            recipe,
            learning_rate(recipe, self.step, self.steps),
            self.call.shards,
        );
        let loss = f64::from(sum.last().copied().unwrap_or_default()) / f64::from(recipe.batch);
        if !loss.is_finite() {
            let message =
                format!("step {step}: the loss is {loss}; a lower learning_rate may help");
            return Err(KernelError::Unfit(message));
        }
        self.step += 1;
        self.last_loss = loss;
        self.epoch_loss = (self.epoch_loss.0 + loss, self.epoch_loss.1 + 1);
        Ok(())
    }

    fn progress(&self) -> TrainingProgress {
        TrainingProgress {
            step: self.step,
            steps: self.steps,
            loss: self.last_loss,
        }
    }

    fn finish(self, scratch: &Path) -> Result<(TrainResult, PathBuf), KernelError> {
        // A loss shows what the step before made of the weights; nothing shows what the last made.
        if let Some((tensor, value)) = self.model.not_finite() {
            let message = format!(
                "step {}: tensor {tensor} holds {value}, expected finite numbers; a lower learning_rate may help",
                self.step
            );
            return Err(KernelError::Unfit(message));
        }
        let bytes = self.model.weights().to_bytes()?;
        let digest = Digest::of(&bytes);
        let path = scratch.join(format!("weights-{digest}.safetensors"));
        std::fs::write(&path, &bytes).map_err(KernelError::io(&path))?;
        let final_loss = self.epoch_loss.0 / self.epoch_loss.1.max(1) as f64;
        Ok((
            TrainResult {
                weights: digest,
                steps: self.steps,
                final_loss,
                data: self.batches.data(),
            },
            path,
        ))
    }
}

/// Initial weights: from the generator, or the full net's, cut to the small net.
fn start_weights(call: &TrainCall, inputs: &[PathBuf]) -> Result<Weights, KernelError> {
    match (inputs.first(), &call.chromosome) {
        (None, None) => Ok(Weights::initial(&call.network, call.seed)),
        (None, Some(_)) => Err(KernelError::Unfit(
            "train.classify: a chromosome without weights to cut".to_owned(),
        )),
        (Some(path), None) => Weights::load(path, &call.network),
        (Some(path), Some(chromosome)) => {
            Ok(Weights::load(path, &call.network)?.cut(&call.network, chromosome))
        }
    }
}

/// Linear warm-up, then half a cosine down to 1 % of the peak.
fn learning_rate(recipe: &Recipe, step: u64, steps: u64) -> f64 {
    let warmup = u64::from(recipe.warmup_steps).min(steps);
    if step < warmup {
        return recipe.learning_rate * (step + 1) as f64 / warmup as f64;
    }
    let progress = (step - warmup) as f64 / (steps - warmup).max(1) as f64;
    // libm: the same bits on every machine.
    let cosine = libm::cos(progress * std::f64::consts::PI);
    recipe.learning_rate * (0.01 + 0.99 * 0.5 * (1.0 + cosine))
}
