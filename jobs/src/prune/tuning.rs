//! Who is fine-tuned and evaluated, and how.

use super::comparison::Base;
use super::job::PruneJob;
use super::step::{Step, error, result};
use crate::calls::{EvaluateItem, TrainCall, TrainResult, encode};
use crate::driver::{Demand, DriverError};
use crate::evolution::Chromosome;
use crate::random::{Purpose, Stream};
use evoring_protocol::work::Kernel;
use evoring_protocol::{DemandId, Digest};
use serde::{Deserialize, Serialize};

/// A net of the final table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Role {
    /// The full net with the same extra epochs.
    FullExtra,
    /// The search's.
    Compressed,
    /// L1-norm pruning at the search's widths.
    L1Widths,
    /// L1-norm pruning at the best of many allocations.
    L1Best,
    /// The best random chromosome of the search's widths.
    Random,
}

impl Role {
    /// Name in files.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::FullExtra => "full_extra",
            Self::Compressed => "compressed",
            Self::L1Widths => "l1_widths",
            Self::L1Best => "l1_best",
            Self::Random => "random",
        }
    }

    /// Name for people.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::FullExtra => "full net, extra epochs",
            Self::Compressed => "compressed net",
            Self::L1Widths => "L1-norm pruning at the same widths",
            Self::L1Best => "L1-norm pruning at the best widths",
            Self::Random => "random search",
        }
    }
}

/// One net on its way through fine-tuning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Contestant {
    pub(super) role: Role,
    /// `None` = the full net.
    pub(super) genome: Option<Chromosome>,
    /// Its gang; contestants of equal genes share one.
    pub(super) demand: DemandId,
    /// Its gang's result.
    pub(super) tuned: Option<TrainResult>,
}

impl Contestant {
    /// Its weights after fine-tuning.
    pub(super) fn weights(&self) -> Option<Digest> {
        self.tuned.as_ref().map(|tuned| tuned.weights)
    }
}

/// Starts one gang for each different net. The full net comes first: it takes longest, and
/// the small ones fit beside it.
pub(super) fn start(
    job: &PruneJob,
    base: &Base,
    nets: &[(Role, Option<Chromosome>)],
    step: &mut Step<'_>,
) -> Vec<Contestant> {
    let mut contestants: Vec<Contestant> = Vec::new();
    for (role, genome) in nets {
        let twin = contestants.iter().find(|other| other.genome == *genome);
        let demand = match twin {
            Some(twin) => twin.demand,
            None => step.run(
                "finetune",
                format!("fine-tuning: {}", role.title()),
                gang(job, base, genome.clone()),
            ),
        };
        contestants.push(Contestant {
            role: *role,
            genome: genome.clone(),
            demand,
            tuned: None,
        });
    }
    contestants
}

fn gang(job: &PruneJob, base: &Base, chromosome: Option<Chromosome>) -> Demand {
    let call = TrainCall {
        network: job.network.clone(),
        chromosome,
        data: job.data.clone(),
        recipe: job.finetune.recipe.clone(),
        seed: Stream::new(job.seed, Purpose::FineTune, 0, 0).bits(),
        shards: job.shards,
        checkpoint_steps: job.finetune.checkpoint_steps,
    };
    let [min, max] = job.finetune.ranks;
    Demand::Gang {
        min,
        max,
        kernel: Kernel::TrainClassify,
        payload: encode(&call),
        inputs: vec![base.full],
    }
}

/// Enters the result of a gang; true once all are there.
pub(super) fn enter(
    contestants: &mut [Contestant],
    demand: DemandId,
    bytes: &[u8],
) -> Result<bool, DriverError> {
    let tuned: TrainResult = result("fine-tuning", bytes)?;
    let mut is_known = false;
    for contestant in contestants
        .iter_mut()
        .filter(|contestant| contestant.demand == demand)
    {
        contestant.tuned = Some(tuned.clone());
        is_known = true;
    }
    if !is_known {
        return Err(error(format!("demand {demand} is no fine-tuning")));
    }
    Ok(contestants
        .iter()
        .all(|contestant| contestant.tuned.is_some()))
}

/// A row of the final table, before it is evaluated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) item: EvaluateItem,
}

/// The rows and the blobs that they read.
pub(super) fn rows(base: &Base, contestants: &[Contestant]) -> (Vec<Row>, Vec<Digest>) {
    let mut inputs = vec![base.full];
    let mut rows = Vec::new();
    let mut push =
        |name: String, weights: Digest, chromosome: &Option<Chromosome>, is_small: bool| {
            let known = inputs.iter().position(|input| *input == weights);
            let input = known.unwrap_or_else(|| {
                inputs.push(weights);
                inputs.len() - 1
            });
            let item = EvaluateItem {
                input: input as u32,
                chromosome: chromosome.clone(),
                is_small,
            };
            rows.push(Row { name, item });
        };
    push("full".to_owned(), base.full, &None, false);
    for Contestant {
        role,
        genome,
        tuned,
        ..
    } in contestants
    {
        let tuned = tuned.as_ref().map_or(base.full, |tuned| tuned.weights);
        match genome {
            None => push(role.name().to_owned(), tuned, &None, false),
            Some(_) => {
                push(format!("{}_before", role.name()), base.full, genome, false);
                push(format!("{}_after", role.name()), tuned, genome, true);
            }
        }
    }
    (rows, inputs)
}
