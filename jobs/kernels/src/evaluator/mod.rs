//! Answers the items of maps.

mod classify;
mod rank;
#[cfg(test)]
mod tests;

use crate::KernelError;
use crate::data::{self, Side};
use crate::engine::activations::{ActivationStore, PrivateActivations};
use crate::engine::{Engine, SHARED_BYTES};
use crate::weights::{Weights, float_values};
use evoring_jobs::calls::{self, PruneEvaluateCall, Score};
use evoring_jobs::data::{DataSpec, Part};
use evoring_jobs::evolution::Chromosome;
use evoring_jobs::network::NetworkSpec;
use evoring_protocol::work::{ItemOutcome, Kernel, WorkError};
use evoring_protocol::{Digest, ItemIndex};
use std::path::{Path, PathBuf};

/// Engines that an evaluator keeps: for the fitness and the selection images of one job.
const KEPT_ENGINES: usize = 2;

/// One piece of work for [`Evaluator::run_items`].
#[derive(Debug, Clone, Copy)]
pub struct Items<'a> {
    /// What to run.
    pub kernel: Kernel,
    /// Its arguments.
    pub payload: &'a [u8],
    /// Files of the inputs.
    pub inputs: &'a [PathBuf],
    /// Digests of the inputs.
    pub digests: &'a [Digest],
    /// The items.
    pub items: &'a [(ItemIndex, Vec<u8>)],
}

/// A long-lived evaluator with bounded caches: data sets ([`data::load`]), and for the networks
/// evaluated last their weights and what chromosomes share ([`Engine`]).
#[derive(Debug)]
pub struct Evaluator {
    engines: Vec<(EngineKey, Engine)>,
    /// Keeps what engines of several evaluators may have in common.
    store: Box<dyn ActivationStore>,
}

/// Shares nothing with other evaluators.
impl Default for Evaluator {
    fn default() -> Self {
        Self::new(Box::new(PrivateActivations))
    }
}

/// What an engine was made for. `data` names the content of the images.
#[derive(Debug, Clone, PartialEq)]
struct EngineKey {
    network: NetworkSpec,
    data: DataSpec,
    part: Part,
    weights: Digest,
}

impl Evaluator {
    /// An evaluator whose engines take their first layer's outputs from `store`.
    pub fn new(store: Box<dyn ActivationStore>) -> Self {
        Self {
            engines: Vec::new(),
            store,
        }
    }

    /// Runs items one after the other and reports each; stops early when told to.
    pub fn run_items(
        &mut self,
        work: Items<'_>,
        report: &mut dyn FnMut(ItemOutcome),
        should_stop: &dyn Fn() -> bool,
    ) {
        crate::initialise();
        for (index, item) in work.items {
            if should_stop() {
                return;
            }
            let result = tch::no_grad(|| self.run_item(work, item));
            report(ItemOutcome {
                index: *index,
                result: result.map_err(|error| WorkError::from(&error)),
            });
        }
    }

    fn run_item(&mut self, work: Items<'_>, item: &[u8]) -> Result<Vec<u8>, KernelError> {
        match work.kernel {
            Kernel::PruneRank => {
                let call = calls::decode(work.payload)?;
                let ranks = rank::filters(&call, input(work.inputs, 0)?, &calls::decode(item)?)?;
                Ok(calls::encode(&ranks))
            }
            Kernel::PruneEvaluate => Ok(calls::encode(&self.score(work, &calls::decode(item)?)?)),
            Kernel::EvaluateClassify => {
                let call = calls::decode(work.payload)?;
                Ok(calls::encode(&classify::evaluate(
                    &call,
                    &calls::decode(item)?,
                    work.inputs,
                )?))
            }
            Kernel::TrainClassify => Err(KernelError::Unfit(format!(
                "{} is not a map's kernel",
                work.kernel.name()
            ))),
        }
    }

    fn score(&mut self, work: Items<'_>, chromosome: &Chromosome) -> Result<Score, KernelError> {
        let call: PruneEvaluateCall = calls::decode(work.payload)?;
        let Some(weights) = work.digests.first().copied() else {
            return Err(KernelError::Unfit(format!(
                "{}: no weights among the inputs",
                work.kernel.name()
            )));
        };
        let mut data = call.data;
        if data.digest.is_none() {
            // Such a call means what the files hold now.
            check_call(&call.network, &data)?;
            data.digest = Some(data::load(&data, Side::Train)?.digest);
        }
        let key = EngineKey {
            network: call.network,
            data,
            part: call.part,
            weights,
        };
        let engine = self.engine(key, input(work.inputs, 0)?)?;
        check_fits(engine.network(), chromosome)?;
        Ok(engine.score(chromosome))
    }

    fn engine(&mut self, key: EngineKey, weights: &Path) -> Result<&mut Engine, KernelError> {
        match self.engines.iter().position(|(known, _)| *known == key) {
            Some(index) => self.engines[..=index].rotate_right(1),
            None => {
                check_call(&key.network, &key.data)?;
                self.engines.truncate(KEPT_ENGINES - 1);
                let weights = Weights::load(weights, &key.network)?;
                let prepared = data::prepare(&key.data, key.part)?;
                let tensor = |layer: usize, name: &str| float_values(weights.tensor(layer, name));
                let (images, labels) = (&prepared.images, &prepared.labels);
                let store = &*self.store;
                let engine =
                    Engine::with_store(&key.network, tensor, images, labels, SHARED_BYTES, store);
                self.engines.insert(0, (key, engine));
            }
        }
        Ok(&mut self.engines[0].1)
    }
}

/// Refuses a network that cannot run on its data.
pub(crate) fn check_call(network: &NetworkSpec, data: &DataSpec) -> Result<(), KernelError> {
    network
        .validate()
        .map_err(|error| KernelError::Unfit(error.to_string()))?;
    if network.input != data.shape || network.classes() != data.classes {
        return Err(KernelError::Unfit(format!(
            "network {:?} takes {:?} and has {} classes, the data are {:?} with {} classes",
            network.name,
            network.input,
            network.classes(),
            data.shape,
            data.classes
        )));
    }
    Ok(())
}

/// Refuses a chromosome of another network, or one that empties a layer.
pub(crate) fn check_fits(
    network: &NetworkSpec,
    chromosome: &Chromosome,
) -> Result<(), KernelError> {
    if network.fits(chromosome) {
        return Ok(());
    }
    Err(KernelError::Unfit(format!(
        "a chromosome of {} genes does not fit network {:?}: expected {} genes and at least one filter kept in each layer",
        chromosome.len(),
        network.name,
        network.genes()
    )))
}

fn input(inputs: &[PathBuf], index: u32) -> Result<&PathBuf, KernelError> {
    inputs
        .get(index as usize)
        .ok_or_else(|| KernelError::Unfit(format!("no input {index}, there are {}", inputs.len())))
}
