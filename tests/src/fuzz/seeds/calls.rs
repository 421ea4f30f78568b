//! Calls of kernels, their items and results.

use super::Seed;
use crate::fuzz::kernels::network;
use evoring_jobs::calls::{
    self, EvaluateCall, EvaluateItem, EvaluateResult, PruneEvaluateCall, RankCall, RankItem,
    Recipe, Score, TrainCall, TrainResult,
};
use evoring_jobs::data::{DataSource, DataSpec, Part};
use evoring_jobs::evolution::Chromosome;
use evoring_jobs::network::NetworkSpec;
use evoring_protocol::Digest;

fn data(network: &NetworkSpec) -> DataSpec {
    DataSpec {
        source: DataSource::Npz("/data.npz".to_owned()),
        shape: network.input,
        classes: 2,
        split_seed: 1,
        fitness_images: 10,
        selection_images: 20,
        train_images: Some(30),
        digest: Some(Digest([2; 32])),
    }
}

fn train(network: &NetworkSpec, chromosome: &Chromosome) -> TrainCall {
    let recipe = Recipe {
        epochs: 2,
        batch: 8,
        learning_rate: 0.1,
        warmup_steps: 3,
        momentum: 0.9,
        weight_decay: 1e-4,
        flip: true,
        shift_pixels: 2,
    };
    TrainCall {
        network: network.clone(),
        chromosome: Some(chromosome.clone()),
        data: data(network),
        recipe,
        seed: 7,
        shards: 4,
        checkpoint_steps: 10,
    }
}

pub fn calls() -> Vec<Seed> {
    let network = network();
    let mut chromosome = Chromosome::ones(network.genes());
    chromosome.set(0, false);
    let trained = TrainResult {
        weights: Digest([1; 32]),
        steps: 42,
        final_loss: 0.25,
        data: Digest([2; 32]),
    };
    let evaluate = EvaluateItem {
        input: 1,
        chromosome: Some(chromosome.clone()),
        is_small: false,
    };
    let score = Score {
        correct: 9,
        total: 10,
    };
    let evaluated = EvaluateResult {
        score,
        data: Digest([2; 32]),
        nanoseconds_per_image: 1_234,
    };
    let fitness = PruneEvaluateCall {
        network: network.clone(),
        data: data(&network),
        part: Part::Fitness,
    };
    let values = [
        ("train", calls::encode(&train(&network, &chromosome))),
        ("trained", calls::encode(&trained)),
        (
            "rank",
            calls::encode(&RankCall {
                network: network.clone(),
            }),
        ),
        (
            "rank-item",
            calls::encode(&RankItem {
                layer: 0,
                first: 1,
                count: 100,
            }),
        ),
        ("fitness", calls::encode(&fitness)),
        ("score", calls::encode(&score)),
        (
            "evaluate",
            calls::encode(&EvaluateCall {
                data: data(&network),
                network,
                batch: 100,
            }),
        ),
        ("evaluate-item", calls::encode(&evaluate)),
        ("evaluated", calls::encode(&evaluated)),
        ("ranks", calls::encode(&vec![0u16, 300, 65_535])),
        ("chromosome", calls::encode(&chromosome)),
    ];
    (0..)
        .zip(values)
        .map(|(kind, (name, bytes))| (name, [vec![kind], bytes].concat()))
        .collect()
}
