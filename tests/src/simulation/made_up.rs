//! A small job and a larger one, and made-up results for them: pure functions of what a kernel is asked.

use evoring_coordinator::state::Submission;
use evoring_jobs::calls::{
    EvaluateItem, EvaluateResult, PruneEvaluateCall, RankItem, Score, TrainResult, decode, encode,
};
use evoring_jobs::data::Part;
use evoring_jobs::evolution::Chromosome;
use evoring_jobs::spec::{JobSpec, parse};
use evoring_protocol::work::{FailureCause, Kernel, WorkError};
use evoring_protocol::{Digest, RequestKey, SubmissionKey};
use std::sync::OnceLock;

/// Jobs that differ in their random seed.
const VARIANTS: u64 = 3;
/// Generations of a small job and of a larger one.
const GENERATIONS: [u64; 2] = [2, 4];

fn job_file(seed: u64, generations: u64) -> String {
    format!(
        r#"
name = "made-up-{seed}"
kind = "evolve.prune"
seed = {seed}
[data]
folder = "/images"
classes = 3
fitness_images = 500
selection_images = 900
[network]
input = [1, 8, 8]
layers = [
    {{ type = "conv", filters = 4, kernel = 3 }},
    {{ type = "max-pool", size = 2 }},
    {{ type = "relu" }},
    {{ type = "flatten" }},
    {{ type = "dense", units = 24 }},
    {{ type = "relu" }},
    {{ type = "dense", units = 3 }},
]
[search]
population = 8
generations = {generations}
min_compression = 2
finalists = 2
[baselines]
l1_allocations = 2
"#
    )
}

fn specs(is_large: bool) -> &'static [JobSpec] {
    static SPECS: OnceLock<[Vec<JobSpec>; 2]> = OnceLock::new();
    let made = SPECS.get_or_init(|| {
        let parsed = |seed, generations| {
            parse("made-up.toml", &job_file(seed, generations))
                .unwrap_or_else(|error| panic!("the made-up job is refused: {error}"))
        };
        GENERATIONS.map(|generations| {
            (1..=VARIANTS)
                .map(|seed| parsed(seed, generations))
                .collect()
        })
    });
    &made[usize::from(is_large)]
}

/// A submission with this key.
pub(super) fn submission(key: u64, is_large: bool) -> Option<Submission> {
    let specs = specs(is_large);
    let spec = specs.get((key % specs.len() as u64) as usize)?.clone();
    Some(Submission {
        key: submission_key(key),
        name: spec.name,
        kind: spec.kind,
        min_ranks: spec.min_ranks,
        driver: spec.driver,
    })
}

/// The key of a request.
pub(super) fn request_key(number: u64) -> RequestKey {
    RequestKey(u128::from(number).to_le_bytes())
}

pub(super) fn submission_key(key: u64) -> SubmissionKey {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&key.to_le_bytes());
    SubmissionKey(bytes)
}

fn malformed(what: &str) -> WorkError {
    WorkError {
        message: format!("a malformed {what}"),
        cause: FailureCause::Final,
    }
}

/// A made-up result of an item.
pub(super) fn compute(kernel: Kernel, payload: &[u8], item: &[u8]) -> Result<Vec<u8>, WorkError> {
    match kernel {
        Kernel::PruneRank => {
            let item: RankItem = decode(item).map_err(|_| malformed("item"))?;
            let ranks = item.first..item.first + item.count;
            let ranks: Vec<u16> = ranks.map(|rank| rank as u16).collect();
            Ok(encode(&ranks))
        }
        Kernel::PruneEvaluate => {
            let call: PruneEvaluateCall = decode(payload).map_err(|_| malformed("call"))?;
            let genome: Chromosome = decode(item).map_err(|_| malformed("item"))?;
            let total = if call.part == Part::Fitness { 500 } else { 900 };
            let genes = (0..genome.len()).filter(|gene| genome.gene(*gene));
            let kept: u32 = genes.map(|gene| 1 + gene % 5).sum();
            Ok(encode(&Score {
                correct: (kept * 9).min(total),
                total,
            }))
        }
        Kernel::EvaluateClassify => {
            let item: EvaluateItem = decode(item).map_err(|_| malformed("item"))?;
            let correct = 700 + 10 * item.input + u32::from(item.is_small);
            Ok(encode(&EvaluateResult {
                score: Score {
                    correct,
                    total: 1000,
                },
                data: Digest([8; 32]),
                nanoseconds_per_image: 1234,
            }))
        }
        Kernel::TrainClassify => Err(malformed("kernel")),
    }
}

/// A made-up result of a training.
pub(super) fn trained(payload: &[u8]) -> Vec<u8> {
    encode(&TrainResult {
        weights: Digest::of(payload),
        steps: 10,
        final_loss: 0.25,
        data: Digest([7; 32]),
    })
}
