//! Training on a small made-up data set, with one process and with threads as ranks.

use super::*;
use crate::data::tests::{Shapes, write_shapes};
use crate::evaluator::{Evaluator, Items};
use evoring_jobs::calls::{PruneEvaluateCall, Score, decode, encode};
use evoring_jobs::data::{DataSpec, Part};
use evoring_jobs::evolution::Chromosome;
use evoring_jobs::network::Layer;
use evoring_protocol::ItemIndex;
use evoring_protocol::work::Kernel;
use std::ops::Range;
use std::sync::{Arc, Barrier, Mutex};
use tempfile::TempDir;

/// Every kind of layer, as small as they get.
fn network() -> NetworkSpec {
    let conv = |filters, kernel, padding| Layer::Conv {
        filters,
        kernel,
        padding,
    };
    NetworkSpec {
        name: "small".to_owned(),
        input: [1, 10, 10],
        layers: vec![
            conv(6, 3, 1),
            Layer::BatchNorm,
            Layer::Relu,
            Layer::MaxPool { size: 2 },
            conv(7, 3, 0),
            Layer::Relu,
            Layer::Flatten,
            Layer::Dense { units: 12 },
            Layer::BatchNorm,
            Layer::Relu,
            Layer::Dropout { percent: 10 },
            Layer::Dense { units: 3 },
        ],
    }
}

struct Room {
    folder: TempDir,
    call: TrainCall,
}

/// A folder with data and a call that takes 20 steps of 32 images.
fn room() -> Room {
    crate::initialise();
    let folder = tempfile::tempdir().unwrap();
    let source = write_shapes(
        folder.path(),
        Shapes {
            train: 260,
            test: 60,
            side: 10,
        },
    );
    let data = DataSpec {
        source,
        shape: [1, 10, 10],
        classes: 3,
        split_seed: 1,
        fitness_images: 40,
        selection_images: 40,
        train_images: None,
        digest: None,
    };
    let recipe = Recipe {
        epochs: 4,
        batch: 32,
        learning_rate: 0.1,
        warmup_steps: 4,
        momentum: 0.9,
        weight_decay: 1e-3,
        flip: true,
        shift_pixels: 1,
    };
    let call = TrainCall {
        network: network(),
        chromosome: None,
        data,
        recipe,
        seed: 7,
        shards: 4,
        checkpoint_steps: 6,
    };
    Room { folder, call }
}

/// Keeps checkpoints, and stops after a step.
#[derive(Default)]
struct Recorder {
    checkpoints: Vec<(u64, PathBuf)>,
    losses: Vec<f64>,
    stop_after: Option<usize>,
}

impl TrainObserver for Recorder {
    fn progress(&mut self, progress: TrainingProgress) {
        self.losses.push(progress.loss);
    }
    fn checkpoint(&mut self, step: u64, path: &Path) -> Result<(), KernelError> {
        self.checkpoints.push((step, path.to_owned()));
        Ok(())
    }
    fn should_stop(&self) -> bool {
        self.stop_after
            .is_some_and(|steps| self.losses.len() >= steps)
    }
}

impl Room {
    fn scratch(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn run(
        &self,
        name: &str,
        resume: Option<(u64, &Path)>,
        observer: &mut Recorder,
    ) -> Result<(TrainResult, Vec<u8>), KernelError> {
        self.run_with(&self.call, &[], name, resume, observer)
    }

    fn run_with(
        &self,
        call: &TrainCall,
        inputs: &[PathBuf],
        name: &str,
        resume: Option<(u64, &Path)>,
        observer: &mut Recorder,
    ) -> Result<(TrainResult, Vec<u8>), KernelError> {
        let scratch = self.scratch(name);
        let mut exchange = SingleProcess::new(call.shards, exchange_length(call)?);
        let files = TrainFiles {
            inputs,
            resume,
            scratch: &scratch,
        };
        let (result, path) = run_rank(call, files, &mut exchange, observer)?;
        Ok((result, std::fs::read(path).unwrap()))
    }
}

/// Ranks as threads of one process.
struct Threads {
    shards: Range<u32>,
    rank: u32,
    parts: Vec<Vec<f32>>,
    all: Arc<Mutex<Vec<Vec<f32>>>>,
    barrier: Arc<Barrier>,
    sum: Vec<f32>,
}

impl GradientExchange for Threads {
    fn shards(&self) -> Range<u32> {
        self.shards.clone()
    }
    fn shard_buffer(&mut self, shard: u32) -> &mut [f32] {
        &mut self.parts[(shard - self.shards.start) as usize]
    }
    fn reduce(&mut self) -> Result<&[f32], ExchangeError> {
        for (shard, part) in self.shards.clone().zip(&self.parts) {
            self.all.lock().unwrap()[shard as usize].clone_from(part);
        }
        self.barrier.wait();
        {
            let all = self.all.lock().unwrap();
            let parts: Vec<&[f32]> = all.iter().map(Vec::as_slice).collect();
            tree_sum(&parts, 0..self.sum.len(), &mut self.sum);
        }
        self.barrier.wait();
        Ok(&self.sum)
    }
    fn is_first_rank(&self) -> bool {
        self.rank == 0
    }
}

/// Claim: 1, 2, 3 and 4 ranks write the same bytes and report the same loss as one process.
/// Method: threads as ranks, a net with every kind of layer, with augmentation and dropout.
#[test]
fn any_number_of_ranks_gives_the_same_bits() {
    let room = room();
    let (result, bytes) = room.run("single", None, &mut Recorder::default()).unwrap();
    assert_eq!(result.steps, 20);
    assert_eq!(result.weights, Digest::of(&bytes));
    let (call, length) = (&room.call, exchange_length(&room.call).unwrap());
    for world_size in 1..=4 {
        let barrier = Arc::new(Barrier::new(world_size as usize));
        let all = Arc::new(Mutex::new(vec![vec![0.0; length]; call.shards as usize]));
        let run = |rank: u32| {
            let shards = shards_of(rank, world_size, call.shards);
            let parts = vec![vec![0.0; length]; shards.len()];
            let (all, barrier, sum) = (all.clone(), barrier.clone(), vec![0.0; length]);
            let mut exchange = Threads {
                shards,
                rank,
                parts,
                all,
                barrier,
                sum,
            };
            let scratch = room.scratch(&format!("{world_size}-{rank}"));
            let files = TrainFiles {
                inputs: &[],
                resume: None,
                scratch: &scratch,
            };
            let mut recorder = Recorder::default();
            let (result, path) = run_rank(call, files, &mut exchange, &mut recorder).unwrap();
            assert_eq!(recorder.checkpoints.len(), if rank == 0 { 3 } else { 0 });
            (result, std::fs::read(path).unwrap())
        };
        std::thread::scope(|scope| {
            let run = &run;
            let ranks: Vec<_> = (0..world_size)
                .map(|rank| scope.spawn(move || run(rank)))
                .collect();
            for rank in ranks {
                let (other, other_bytes) = rank.join().unwrap();
                assert_eq!(other, result, "{world_size} ranks");
                assert!(other_bytes == bytes, "{world_size} ranks");
            }
        });
    }
}

/// Claim: a training that goes on from any of its checkpoints ends with the same bytes, and so
/// does one that was stopped in between. Method: stop after 8 steps, resume from step 6; resume
/// from the later checkpoints too (12 and 18: inside an epoch and with a loss sum under way).
#[test]
fn resuming_gives_the_same_bits() {
    let room = room();
    let mut whole = Recorder::default();
    let (result, bytes) = room.run("whole", None, &mut whole).unwrap();
    let steps: Vec<u64> = whole.checkpoints.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [6, 12, 18]);
    let mut stopped = Recorder {
        stop_after: Some(8),
        ..Recorder::default()
    };
    let error = room.run("stopped", None, &mut stopped).unwrap_err();
    assert!(matches!(error, KernelError::Stopped { step: 8, .. }) && error.can_retry());
    for (step, path) in stopped.checkpoints.iter().chain(&whole.checkpoints) {
        let (other, other_bytes) = room
            .run("resumed", Some((*step, path)), &mut Recorder::default())
            .unwrap();
        assert_eq!(other, result);
        assert!(other_bytes == bytes);
    }
    // A checkpoint of another step than the coordinator says.
    let error = room
        .run(
            "wrong",
            Some((7, &whole.checkpoints[0].1)),
            &mut Recorder::default(),
        )
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("checkpoint of step 6, expected step 7"),
        "{error}"
    );
    // A broken one is refused, and it does not help to try again.
    let mut broken = std::fs::read(&whole.checkpoints[0].1).unwrap();
    broken.truncate(broken.len() / 2);
    let path = room.folder.path().join("broken");
    std::fs::write(&path, broken).unwrap();
    let error = room
        .run("wrong", Some((6, &path)), &mut Recorder::default())
        .unwrap_err();
    assert!(
        error.to_string().contains("broken") && !error.can_retry(),
        "{error}"
    );
}

/// Claim: training learns, another seed gives other weights, and a small net cut from the trained
/// one is fine-tuned to an accuracy of its own. Method: three classes of drawn shapes.
#[test]
fn trained_nets_answer_and_small_nets_are_fine_tuned() {
    let mut room = room();
    room.call.recipe.epochs = 12;
    let mut observer = Recorder::default();
    let (result, bytes) = room.run("train", None, &mut observer).unwrap();
    assert!(
        observer.losses[0] > 0.9 && result.final_loss < 0.5 * observer.losses[0],
        "{:?}",
        observer.losses
    );
    let other = TrainCall {
        seed: 8,
        ..room.call.clone()
    };
    assert!(
        room.run_with(&other, &[], "other", None, &mut Recorder::default())
            .unwrap()
            .1
            != bytes
    );

    let weights = room.folder.path().join("full.safetensors");
    std::fs::write(&weights, &bytes).unwrap();
    let mut chromosome = Chromosome::ones(room.call.network.genes());
    [1, 3, 7, 14, 20]
        .into_iter()
        .for_each(|gene| chromosome.set(gene, false));
    let tune = TrainCall {
        chromosome: Some(chromosome.clone()),
        ..room.call.clone()
    };
    let inputs = [weights.clone()];
    let (small, small_bytes) = room
        .run_with(&tune, &inputs, "tune", None, &mut Recorder::default())
        .unwrap();
    let path = room.folder.path().join("small.safetensors");
    std::fs::write(&path, small_bytes).unwrap();
    Weights::load(&path, &room.call.network.pruned(&chromosome)).unwrap();
    assert!(small.final_loss < observer.losses[0]);

    let call = PruneEvaluateCall {
        network: room.call.network.clone(),
        data: room.call.data.clone(),
        part: Part::Selection,
    };
    let items = [(
        ItemIndex(3),
        encode(&Chromosome::ones(room.call.network.genes())),
    )];
    let (payload, digests) = (encode(&call), [result.weights]);
    let work = Items {
        kernel: Kernel::PruneEvaluate,
        payload: &payload,
        inputs: &inputs,
        digests: &digests,
        items: &items,
    };
    let mut scores = Vec::new();
    Evaluator::default().run_items(work, &mut |outcome| scores.push(outcome), &|| false);
    let score: Score = decode(scores[0].result.as_ref().unwrap()).unwrap();
    assert_eq!((scores[0].index, score.total), (ItemIndex(3), 40));
    assert!(score.correct >= 34, "{score:?}");
}

/// Claim: calls that cannot run are refused with what does not fit, and no retry is asked for.
#[test]
fn calls_that_cannot_run_are_refused() {
    let room = room();
    let recipe = |change: fn(&mut Recipe)| {
        let mut call = room.call.clone();
        change(&mut call.recipe);
        call
    };
    let mut empty = Chromosome::ones(room.call.network.genes());
    (0..6).for_each(|gene| empty.set(gene, false));
    let cases = [
        (
            recipe(|recipe| recipe.batch = 30),
            "batch of 30 for 4 shards",
        ),
        (recipe(|recipe| recipe.batch = 400), "180 training images"),
        (
            recipe(|recipe| recipe.learning_rate = 1e30),
            "a lower learning_rate may help",
        ),
        (
            TrainCall {
                shards: 0,
                ..room.call.clone()
            },
            "batch of 32 for 0 shards",
        ),
        (
            TrainCall {
                shards: 3,
                ..room.call.clone()
            },
            "batch of 32 for 3 shards",
        ),
        (
            TrainCall {
                chromosome: Some(empty),
                ..room.call.clone()
            },
            "at least one filter kept in each layer",
        ),
        (
            TrainCall {
                chromosome: Some(Chromosome::ones(25)),
                ..room.call.clone()
            },
            "without weights to cut",
        ),
    ];
    for (call, expected) in cases {
        let error = room
            .run_with(&call, &[], "wrong", None, &mut Recorder::default())
            .unwrap_err();
        assert!(
            error.to_string().contains(expected) && !error.can_retry(),
            "{error}"
        );
    }
}

/// Claim: a last update that breaks the weights is refused, naming tensor and step, although every
/// loss was finite. Method: one step of an infinite learning rate; a variance of one value.
#[test]
fn broken_weights_are_refused() {
    let room = room();
    let mut call = room.call.clone();
    (call.recipe.epochs, call.recipe.batch) = (1, 180);
    call.recipe.learning_rate = 1e39;
    let mut recorder = Recorder::default();
    let error = room
        .run_with(&call, &[], "broken", None, &mut recorder)
        .unwrap_err();
    assert_eq!(recorder.losses.len(), 1);
    let message = error.to_string();
    assert!(
        message.starts_with("step 1: tensor 0.") && message.contains("expected finite numbers"),
        "{message}"
    );
    assert!(!error.can_retry());

    // One image in a shard: batch norm behind the dense layer has no variance.
    call.recipe = Recipe {
        epochs: 1,
        batch: 4,
        ..room.call.recipe.clone()
    };
    call.data.train_images = Some(4);
    let error = room
        .run_with(&call, &[], "broken", None, &mut Recorder::default())
        .unwrap_err();
    assert!(
        error.to_string().contains("tensor 8.running_var holds"),
        "{error}"
    );
}

/// Claim: a training does not go on from a checkpoint that was made with other images.
#[test]
fn checkpoints_of_other_images_are_refused() {
    let room = room();
    let mut recorder = Recorder::default();
    let (result, _) = room.run("before", None, &mut recorder).unwrap();
    write_shapes(
        room.folder.path(),
        Shapes {
            train: 270,
            test: 60,
            side: 10,
        },
    );
    let (step, path) = &recorder.checkpoints[0];
    let error = room
        .run("after", Some((*step, path)), &mut Recorder::default())
        .unwrap_err();
    assert!(
        matches!(&error, KernelError::OtherData { path: named, expected, .. }
            if named == path && *expected == result.data),
        "{error}"
    );
    assert!(error.can_retry());
    let (other, _) = room.run("anew", None, &mut Recorder::default()).unwrap();
    assert_ne!(other.data, result.data);
}

/// Claim: the learning rate rises linearly and falls as half a cosine to 1 % of the peak.
#[test]
fn learning_rate_follows_its_curve() {
    let recipe = Recipe {
        learning_rate: 2.0,
        warmup_steps: 10,
        ..room().call.recipe
    };
    assert!((learning_rate(&recipe, 0, 110) - 0.2).abs() < 1e-12);
    assert!((learning_rate(&recipe, 9, 110) - 2.0).abs() < 1e-12);
    assert!((learning_rate(&recipe, 10, 110) - 2.0).abs() < 1e-12);
    assert!((learning_rate(&recipe, 60, 110) - (0.02 + 0.99)).abs() < 1e-12);
    assert!((learning_rate(&recipe, 110, 110) - 0.02).abs() < 1e-12);
    // Warm-up longer than the training.
    assert!(learning_rate(&recipe, 3, 4) <= 2.0);
}
