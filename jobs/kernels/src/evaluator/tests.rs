//! Items of maps as an executor runs them.

use super::*;
use crate::data::tests::{Shapes, write_shapes};
use crate::masked;
use evoring_jobs::calls::{
    EvaluateCall, EvaluateItem, EvaluateResult, RankCall, RankItem, decode, encode,
};
use evoring_jobs::network::Layer;
use evoring_jobs::random::{Purpose, Stream};
use tch::Tensor;
use tempfile::TempDir;

struct Room {
    folder: TempDir,
    network: NetworkSpec,
    data: DataSpec,
    weights: Weights,
    input: PathBuf,
}

fn room() -> Room {
    crate::initialise();
    let folder = tempfile::tempdir().unwrap();
    let layers = vec![
        Layer::Conv {
            filters: 9,
            kernel: 3,
            padding: 1,
        },
        Layer::BatchNorm,
        Layer::Relu,
        Layer::MaxPool { size: 2 },
        Layer::Conv {
            filters: 120,
            kernel: 3,
            padding: 0,
        },
        Layer::Relu,
        Layer::Flatten,
        Layer::Dense { units: 14 },
        Layer::Relu,
        Layer::Dense { units: 3 },
    ];
    let network = NetworkSpec {
        name: "small".to_owned(),
        input: [1, 10, 10],
        layers,
    };
    let data = DataSpec {
        source: write_shapes(
            folder.path(),
            Shapes {
                train: 120,
                test: 70,
                side: 10,
            },
        ),
        shape: [1, 10, 10],
        classes: 3,
        split_seed: 2,
        fitness_images: 50,
        selection_images: 30,
        train_images: None,
        digest: None,
    };
    let weights = Weights::initial(&network, 4);
    let input = folder.path().join("full.safetensors");
    std::fs::write(&input, weights.to_bytes().unwrap()).unwrap();
    Room {
        folder,
        network,
        data,
        weights,
        input,
    }
}

impl Room {
    fn chromosome(&self, number: u64) -> Chromosome {
        let mut stream = Stream::new(number, Purpose::Breeding, 0, 0);
        let mut chromosome = Chromosome::zeros(self.network.genes());
        (0..self.network.genes()).for_each(|gene| chromosome.set(gene, stream.uniform() < 0.6));
        self.network
            .prunable()
            .iter()
            .for_each(|layer| chromosome.set(layer.first_gene, true));
        chromosome
    }

    fn evaluate_call(&self, part: Part) -> Vec<u8> {
        encode(&PruneEvaluateCall {
            network: self.network.clone(),
            data: self.data.clone(),
            part,
        })
    }
}

/// Outcomes of some items, by one evaluator.
fn run(
    evaluator: &mut Evaluator,
    kernel: Kernel,
    payload: &[u8],
    inputs: &[PathBuf],
    items: &[Vec<u8>],
) -> Vec<Result<Vec<u8>, WorkError>> {
    let digests: Vec<Digest> = inputs
        .iter()
        .map(|input| Digest::of(input.as_os_str().as_encoded_bytes()))
        .collect();
    let numbered: Vec<_> = items
        .iter()
        .enumerate()
        .map(|(index, item)| (ItemIndex(index as u32), item.clone()))
        .collect();
    let work = Items {
        kernel,
        payload,
        inputs,
        digests: &digests,
        items: &numbered,
    };
    let mut outcomes = Vec::new();
    evaluator.run_items(work, &mut |outcome| outcomes.push(outcome), &|| false);
    assert!(
        outcomes
            .iter()
            .enumerate()
            .all(|(index, outcome)| outcome.index == ItemIndex(index as u32))
    );
    outcomes.into_iter().map(|outcome| outcome.result).collect()
}

/// Claim: scores are those of the masked full net, whatever was evaluated before and on which part.
/// Method: the same chromosomes forwards and backwards, both parts in turn, against libtorch.
#[test]
fn scores_are_those_of_the_masked_net() {
    let room = room();
    let items: Vec<Vec<u8>> = (0..6)
        .map(|number| encode(&room.chromosome(number)))
        .collect();
    let backwards: Vec<Vec<u8>> = items.iter().rev().cloned().collect();
    let inputs = std::slice::from_ref(&room.input);
    let mut evaluator = Evaluator::default();
    for part in [Part::Fitness, Part::Selection, Part::Fitness] {
        let payload = room.evaluate_call(part);
        let results = run(
            &mut evaluator,
            Kernel::PruneEvaluate,
            &payload,
            inputs,
            &items,
        );
        let mut other = run(
            &mut evaluator,
            Kernel::PruneEvaluate,
            &payload,
            inputs,
            &backwards,
        );
        other.reverse();
        assert_eq!(results, other);
        let prepared = data::prepare(&room.data, part).unwrap();
        let images = Tensor::from_slice(&prepared.images).view([-1, 1, 10, 10]);
        let labels: Vec<i64> = prepared
            .labels
            .iter()
            .map(|label| i64::from(*label))
            .collect();
        for (number, result) in results.into_iter().enumerate() {
            let chromosome = room.chromosome(number as u64);
            let labels = Tensor::from_slice(&labels);
            let expected = tch::no_grad(|| {
                masked::score(
                    &room.network,
                    &room.weights,
                    &chromosome,
                    &images,
                    &labels,
                    7,
                )
            });
            assert_eq!(decode::<Score>(&result.unwrap()).unwrap(), expected);
        }
    }
}

/// Claim: an evaluator that lives on answers for the files as they are now, where the call names no
/// content. Method: all labels are wrong after the first call; the scores add up to all images
/// whose answer is one of both.
#[test]
fn a_living_evaluator_sees_corrected_files() {
    let room = room();
    let inputs = std::slice::from_ref(&room.input);
    let items = [encode(&room.chromosome(1))];
    let payload = room.evaluate_call(Part::Fitness);
    let mut evaluator = Evaluator::default();
    let mut score = || {
        let results = run(
            &mut evaluator,
            Kernel::PruneEvaluate,
            &payload,
            inputs,
            &items,
        );
        decode::<Score>(results[0].as_ref().unwrap()).unwrap()
    };
    let before = score();
    let file = room.folder.path().join("train-labels-idx1-ubyte");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[8..]
        .iter_mut()
        .for_each(|label| *label = (*label + 1) % 3);
    let new = room.folder.path().join("new");
    std::fs::write(&new, &bytes).unwrap();
    std::fs::rename(&new, &file).unwrap();
    let after = score();
    assert_ne!(before, after);
    assert!(before.correct + after.correct <= before.total);
}

/// Claim: a net cut from the full weights and the same net as a file of its own have the same
/// score on the test part, and a time is measured.
#[test]
fn cut_and_small_nets_score_alike() {
    let room = room();
    let chromosome = room.chromosome(1);
    let small = room.folder.path().join("small.safetensors");
    std::fs::write(
        &small,
        room.weights
            .cut(&room.network, &chromosome)
            .to_bytes()
            .unwrap(),
    )
    .unwrap();
    let payload = encode(&EvaluateCall {
        network: room.network.clone(),
        data: room.data.clone(),
        batch: 32,
    });
    let items = [
        (0, None, false),
        (0, Some(chromosome.clone()), false),
        (1, Some(chromosome), true),
    ];
    let items = items.map(|(input, chromosome, is_small)| {
        encode(&EvaluateItem {
            input,
            chromosome,
            is_small,
        })
    });
    let inputs = [room.input.clone(), small];
    let results = run(
        &mut Evaluator::default(),
        Kernel::EvaluateClassify,
        &payload,
        &inputs,
        &items,
    );
    let results: Vec<EvaluateResult> = results
        .into_iter()
        .map(|result| decode(&result.unwrap()).unwrap())
        .collect();
    assert!(
        results
            .iter()
            .all(|result| result.score.total == 70 && result.nanoseconds_per_image > 0)
    );
    assert_eq!(results[1].score, results[2].score);
}

/// Claim: ranks of a layer's filters come in pieces that fit together, 0 = largest L1 norm.
#[test]
fn ranks_come_in_pieces() {
    let room = room();
    let payload = encode(&RankCall {
        network: room.network.clone(),
    });
    let items = [(1, 0, 100), (1, 100, 20), (0, 0, 9)].map(|(layer, first, count)| {
        encode(&RankItem {
            layer,
            first,
            count,
        })
    });
    let inputs = std::slice::from_ref(&room.input);
    let results = run(
        &mut Evaluator::default(),
        Kernel::PruneRank,
        &payload,
        inputs,
        &items,
    );
    let ranks: Vec<Vec<u16>> = results
        .into_iter()
        .map(|result| decode(&result.unwrap()).unwrap())
        .collect();
    let second = [&ranks[0][..], &ranks[1][..]].concat();
    let norms: Vec<f64> = float_values(room.weights.tensor(4, "weight"))
        .chunks(81)
        .map(|filter| filter.iter().map(|value| f64::from(value.abs())).sum())
        .collect();
    for (filter, rank) in second.iter().enumerate() {
        assert_eq!(
            usize::from(*rank),
            norms.iter().filter(|norm| **norm > norms[filter]).count()
        );
    }
    assert_eq!(ranks[2].len(), 9);
}

/// Claim: an item that cannot run says why and does not stop the others; a stop is obeyed between
/// items.
#[test]
fn items_that_cannot_run_are_refused_one_by_one() {
    let room = room();
    let inputs = std::slice::from_ref(&room.input);
    let mut empty = room.chromosome(1);
    (0..9).for_each(|gene| empty.set(gene, false));
    let items = [
        encode(&Chromosome::ones(4)),
        encode(&empty),
        b"junk".to_vec(),
        encode(&room.chromosome(1)),
    ];
    let payload = room.evaluate_call(Part::Fitness);
    let mut evaluator = Evaluator::default();
    let results = run(
        &mut evaluator,
        Kernel::PruneEvaluate,
        &payload,
        inputs,
        &items,
    );
    for result in &results[..3] {
        assert!(!result.as_ref().unwrap_err().cause.can_retry());
    }
    assert!(
        results[0]
            .as_ref()
            .unwrap_err()
            .message
            .contains("expected 143 genes"),
        "{results:?}"
    );
    assert!(results[3].is_ok());

    // Data that are not those that the job began with may be right on another worker.
    let mut elsewhere = room.data.clone();
    elsewhere.digest = Some(Digest::of(b"other images"));
    let elsewhere = encode(&PruneEvaluateCall {
        network: room.network.clone(),
        data: elsewhere,
        part: Part::Fitness,
    });
    let result = run(
        &mut evaluator,
        Kernel::PruneEvaluate,
        &elsewhere,
        inputs,
        &items[3..],
    );
    let error = result[0].as_ref().unwrap_err();
    assert!(error.cause.can_retry() && error.message.contains("that the job began with"));

    let mut other = PruneEvaluateCall {
        network: room.network.clone(),
        data: room.data.clone(),
        part: Part::Fitness,
    };
    other.data.classes = 4;
    let message = |kernel, payload: &[u8], inputs: &[PathBuf]| {
        run(
            &mut Evaluator::default(),
            kernel,
            payload,
            inputs,
            &items[3..],
        )[0]
        .clone()
        .unwrap_err()
        .message
    };
    assert!(
        message(Kernel::PruneEvaluate, &encode(&other), inputs)
            .contains("the data are [1, 10, 10] with 4 classes")
    );
    assert!(message(Kernel::PruneEvaluate, &payload, &[]).contains("no weights among the inputs"));
    assert!(message(Kernel::TrainClassify, &payload, inputs).contains("is not a map's kernel"));
    // Weights of another network.
    let wrong = room.folder.path().join("wrong.safetensors");
    std::fs::write(
        &wrong,
        Weights::initial(&NetworkSpec::lenet(10), 1)
            .to_bytes()
            .unwrap(),
    )
    .unwrap();
    assert!(message(Kernel::PruneEvaluate, &payload, &[wrong]).contains("wrong.safetensors"));

    let numbered = [
        (ItemIndex(0), items[3].clone()),
        (ItemIndex(1), items[3].clone()),
    ];
    let digests = [Digest::of(b"weights")];
    let work = Items {
        kernel: Kernel::PruneEvaluate,
        payload: &payload,
        inputs,
        digests: &digests,
        items: &numbered,
    };
    let count = std::cell::Cell::new(0);
    evaluator.run_items(work, &mut |_| count.set(count.get() + 1), &|| {
        count.get() > 0
    });
    assert_eq!(count.get(), 1);
}
