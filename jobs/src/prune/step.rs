//! What a step of the driver gives out, and the checks on what comes in.

use crate::calls::{self, Score};
use crate::driver::{Demand, DriverAction, DriverError};
use evoring_protocol::work::Kernel;
use evoring_protocol::{DemandId, Digest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Name and version in errors and files.
pub(super) const NAME: &str = "evolve.prune/1";

pub(super) fn error(message: impl Into<String>) -> DriverError {
    DriverError {
        driver: NAME,
        message: message.into(),
    }
}

/// Demands given out and not yet answered.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Demands {
    given: u32,
    open: BTreeMap<DemandId, String>,
}

impl Demands {
    /// Takes an answered demand off the list and returns its title.
    pub(super) fn close(&mut self, demand: DemandId) -> Result<String, DriverError> {
        let unknown = || {
            error(format!(
                "demand {demand} was never given out or is answered already"
            ))
        };
        self.open.remove(&demand).ok_or_else(unknown)
    }
}

/// Actions of one step.
pub(super) struct Step<'a> {
    pub(super) actions: Vec<DriverAction>,
    pub(super) demands: &'a mut Demands,
}

impl Step<'_> {
    pub(super) fn run(&mut self, stage: &str, title: String, what: Demand) -> DemandId {
        self.demands.given += 1;
        let demand = DemandId(self.demands.given);
        self.demands.open.insert(demand, title.clone());
        self.actions.push(DriverAction::Run {
            demand,
            stage: stage.to_owned(),
            title,
            what,
        });
        demand
    }

    pub(super) fn start_stage(&mut self, stage: &str) {
        self.actions
            .push(DriverAction::StageStarted(stage.to_owned()));
    }

    pub(super) fn finish_stage(&mut self, stage: &str) {
        self.actions
            .push(DriverAction::StageFinished(stage.to_owned()));
    }

    pub(super) fn store(&mut self, name: impl Into<String>, bytes: Vec<u8>) {
        self.actions.push(DriverAction::Store {
            name: name.into(),
            bytes,
        });
    }

    pub(super) fn artifact(&mut self, name: &str, digest: Digest) {
        self.actions.push(DriverAction::Artifact {
            name: name.to_owned(),
            digest,
        });
    }
}

/// A map over items of one type.
pub(super) fn map<'a, P: Serialize, I: Serialize + 'a>(
    kernel: Kernel,
    payload: &P,
    items: impl IntoIterator<Item = &'a I>,
    inputs: Vec<Digest>,
) -> Demand {
    let items = items.into_iter().map(calls::encode).collect();
    Demand::Map {
        kernel,
        payload: calls::encode(payload),
        items,
        inputs,
    }
}

/// Decodes one result.
pub(super) fn result<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, DriverError> {
    calls::decode(bytes).map_err(|e| error(format!("{what}: {e}")))
}

/// Decodes the results of a map of `count` items.
pub(super) fn results<T: DeserializeOwned>(
    what: &str,
    bytes: &[Vec<u8>],
    count: usize,
) -> Result<Vec<T>, DriverError> {
    if bytes.len() != count {
        return Err(error(format!(
            "{what}: expected {count} results, got {}",
            bytes.len()
        )));
    }
    bytes.iter().map(|bytes| result(what, bytes)).collect()
}

/// Decodes the scores of a map of `count` chromosomes over `images` images.
pub(super) fn scores(
    what: &str,
    bytes: &[Vec<u8>],
    count: usize,
    images: u32,
) -> Result<Vec<Score>, DriverError> {
    let scores: Vec<Score> = results(what, bytes, count)?;
    match scores
        .iter()
        .find(|score| score.total != images || score.correct > score.total)
    {
        Some(Score { correct, total }) => Err(error(format!(
            "{what}: expected a score out of {images} images, got {correct} of {total}"
        ))),
        None => Ok(scores),
    }
}
