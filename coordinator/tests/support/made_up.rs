//! A job and made-up results for it: pure functions of what a kernel is asked. Used by the tests
//! of real processes and by those of the cores.

use evoring_jobs::calls::{
    EvaluateItem, EvaluateResult, PruneEvaluateCall, RankItem, Score, TrainResult, decode, encode,
};
use evoring_jobs::data::Part;
use evoring_jobs::evolution::Chromosome;
use evoring_protocol::Digest;
use evoring_protocol::work::Kernel;

/// A small job that goes through every stage.
pub const JOB: &str = r#"
name = "made-up"
kind = "evolve.prune"
seed = 7
[data]
folder = "/images"
classes = 3
fitness_images = 500
selection_images = 900
[network]
input = [1, 8, 8]
layers = [
    { type = "conv", filters = 12, kernel = 3 },
    { type = "max-pool", size = 2 },
    { type = "relu" },
    { type = "flatten" },
    { type = "dense", units = 110 },
    { type = "relu" },
    { type = "dense", units = 3 },
]
[search]
population = 16
generations = 6
min_compression = 4
finalists = 8
[baselines]
l1_allocations = 10
"#;

/// A made-up result.
pub fn compute(kernel: Kernel, payload: &[u8], item: &[u8]) -> Vec<u8> {
    match kernel {
        Kernel::PruneRank => {
            let item: RankItem = decode(item).unwrap();
            encode(
                &(item.first..item.first + item.count)
                    .map(|rank| rank as u16)
                    .collect::<Vec<u16>>(),
            )
        }
        Kernel::PruneEvaluate => {
            let call: PruneEvaluateCall = decode(payload).unwrap();
            let genome: Chromosome = decode(item).unwrap();
            let total = if call.part == Part::Fitness { 500 } else { 900 };
            let kept = (0..genome.len())
                .filter(|gene| genome.gene(*gene))
                .map(|gene| 1 + gene % 5)
                .sum::<u32>();
            encode(&Score {
                correct: (kept * 3).min(total),
                total,
            })
        }
        Kernel::EvaluateClassify => {
            let item: EvaluateItem = decode(item).unwrap();
            let correct = 700 + 10 * item.input + u32::from(item.is_small);
            encode(&EvaluateResult {
                score: Score {
                    correct,
                    total: 1000,
                },
                data: Digest([8; 32]),
                nanoseconds_per_image: 1234,
            })
        }
        Kernel::TrainClassify => panic!("a gang, not a map"),
    }
}

/// A made-up result of a training.
pub fn trained(payload: &[u8]) -> Vec<u8> {
    encode(&TrainResult {
        weights: Digest::of(payload),
        steps: 10,
        final_loss: 0.25,
        data: Digest([7; 32]),
    })
}
