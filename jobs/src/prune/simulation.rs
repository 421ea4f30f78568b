//! Whole jobs with a made-up cluster: kernels are pure functions of their arguments, the driver is
//! encoded and decoded between every two steps, and demands are answered in different orders.

use super::job::PruneJob;
use crate::calls::*;
use crate::data::Part;
use crate::driver::{Demand, Driver, DriverAction, DriverEvent, JobDriver};
use crate::evolution::Chromosome;
use crate::random::{Purpose, Stream};
use crate::spec;
use evoring_protocol::work::{FailureCause, Kernel, WorkError};
use evoring_protocol::{DemandId, Digest, limits};
use std::collections::{BTreeMap, BTreeSet};

mod content;
mod search;

const JOB: &str = r#"
name = "simulated"
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
    { type = "batch-norm" },
    { type = "conv", filters = 16, kernel = 3 },
    { type = "max-pool", size = 2 },
    { type = "relu" },
    { type = "flatten" },
    { type = "dense", units = 110 },
    { type = "relu" },
    { type = "dense", units = 3 },
]
[search]
population = 16
generations = 12
min_compression = 4
finalists = 8
[baselines]
l1_allocations = 10
"#;

/// Content of the images that trainings read.
const TRAIN_DATA: Digest = Digest([1; 32]);

/// Which open demand is answered next.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    First,
    Last,
}

/// What a job gave out.
#[derive(Default, PartialEq, Debug)]
struct Record {
    steps: Vec<String>,
    stores: BTreeMap<String, Vec<u8>>,
    artifacts: BTreeMap<String, Digest>,
    best: Vec<f64>,
    /// Genomes asked for, part by part, in order.
    asked: Vec<(Part, Vec<Chromosome>)>,
    gangs: Vec<TrainCall>,
    /// Content that each call about data names, in order.
    named: Vec<Option<Digest>>,
    summary: Option<String>,
    failure: Option<String>,
}

/// How much filter `gene` matters; the L1 rank tells little of it.
fn importance(gene: u32) -> f64 {
    0.2 + Stream::new(99, Purpose::Weights, gene.into(), 0).uniform()
}

/// Accuracy falls with the importance that is lost in any layer.
fn score(genome: &Chromosome, images: u32, part: Part) -> Score {
    let mut share = 0.9;
    for layer in [0..12, 12..28, 28..138] {
        let all: f64 = layer.clone().map(importance).sum();
        let kept = layer.filter(|gene| genome.gene(*gene)).map(importance);
        share *= 0.4 + 0.6 * kept.sum::<f64>() / all;
    }
    let noise = if part == Part::Selection {
        0
    } else {
        genome.count(0..138) % 3
    };
    Score {
        correct: (share * f64::from(images)) as u32 + noise,
        total: images,
    }
}

fn train_result(call: &TrainCall) -> Vec<u8> {
    encode(&TrainResult {
        weights: Digest::of(&encode(call)),
        steps: 42,
        final_loss: 0.25,
        data: TRAIN_DATA,
    })
}

/// Content of the test images; workers of the job "torn" have different files.
fn test_data(job: &str, input: u32) -> Digest {
    Digest(if job == "torn" {
        [input as u8; 32]
    } else {
        [2; 32]
    })
}

fn map_result(
    job: &PruneJob,
    kernel: Kernel,
    payload: &[u8],
    item: &[u8],
    inputs: &[Digest],
) -> Vec<u8> {
    match kernel {
        Kernel::PruneRank => {
            let item: RankItem = decode(item).unwrap();
            let layer = job.network.prunable()[item.layer as usize];
            let mut order: Vec<u32> = (0..layer.filters).collect();
            let norm = |filter: &u32| {
                importance(layer.first_gene + filter) * 0.3 + f64::from(filter % 5) * 0.2
            };
            order.sort_by(|a, b| norm(b).total_cmp(&norm(a)));
            let rank =
                |filter: u32| order.iter().position(|other| *other == filter).unwrap() as u16;
            encode(
                &(item.first..item.first + item.count)
                    .map(rank)
                    .collect::<Vec<u16>>(),
            )
        }
        Kernel::PruneEvaluate => {
            let call: PruneEvaluateCall = decode(payload).unwrap();
            let images = if call.part == Part::Fitness { 500 } else { 900 };
            encode(&score(&decode(item).unwrap(), images, call.part))
        }
        Kernel::EvaluateClassify => {
            let item: EvaluateItem = decode(item).unwrap();
            assert!((item.input as usize) < inputs.len());
            let genome = item
                .chromosome
                .unwrap_or(Chromosome::ones(job.network.genes()));
            let mut score = score(&genome, 1000, Part::Test);
            score.correct += 10 * u32::from(item.is_small);
            encode(&EvaluateResult {
                score,
                data: test_data(&job.name, item.input),
                nanoseconds_per_image: 1234,
            })
        }
        Kernel::TrainClassify => panic!("a gang, not a map"),
    }
}

/// Runs a job; `fail` names a demand by the start of its title.
fn run(text: &str, order: Order, fail: Option<&str>) -> Record {
    let job = match &spec::parse("job.toml", text).unwrap().driver {
        JobDriver::PruneV1(driver) => driver.job().clone(),
    };
    let mut bytes = postcard::to_allocvec(&spec::parse("job.toml", text).unwrap().driver).unwrap();
    let mut record = Record::default();
    let mut open: Vec<(DemandId, String, Demand)> = Vec::new();
    let mut cached: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut event = DriverEvent::Start;
    let mut next_demand = 1;
    loop {
        let mut driver: JobDriver = postcard::from_bytes(&bytes).unwrap();
        let actions = driver.on(&event).unwrap();
        bytes = postcard::to_allocvec(&driver).unwrap();
        for action in actions {
            record.note(&action);
            if let DriverAction::Run {
                demand,
                stage,
                title,
                what,
            } = action
            {
                assert_eq!(demand, DemandId(next_demand));
                assert!(driver.stages().contains(&stage));
                next_demand += 1;
                check_limits(&what);
                record.note_demand(&what);
                open.push((demand, title, what));
            }
        }
        if record.summary.is_some() || record.failure.is_some() {
            // Late answers change nothing.
            for (demand, ..) in open {
                let late = DriverEvent::GangFinished {
                    demand,
                    result: vec![1],
                };
                assert!(driver.on(&late).unwrap().is_empty());
            }
            return record;
        }
        let (demand, title, what) = if order == Order::First {
            open.remove(0)
        } else {
            open.pop().unwrap()
        };
        event = match what {
            _ if fail.is_some_and(|start| title.starts_with(start)) => {
                let error = WorkError {
                    message: "t10k-images: 3 bytes short".to_owned(),
                    cause: FailureCause::Final,
                };
                DriverEvent::DemandFailed { demand, error }
            }
            Demand::Gang { payload, .. } => DriverEvent::GangFinished {
                demand,
                result: train_result(&decode(&payload).unwrap()),
            },
            Demand::Map {
                kernel,
                payload,
                items,
                inputs,
            } => {
                let results: Vec<Vec<u8>> = items
                    .iter()
                    .map(|item| map_result(&job, kernel, &payload, item, &inputs))
                    .collect();
                assert!(
                    results
                        .iter()
                        .all(|result| result.len() <= limits::RESULT_BYTES)
                );
                let key = |item: &Vec<u8>| [payload.clone(), item.clone()].concat();
                let evaluated = items.iter().filter(|item| cached.insert(key(item))).count() as u32;
                DriverEvent::MapFinished {
                    demand,
                    results,
                    evaluated,
                    cache_hits: items.len() as u32 - evaluated,
                }
            }
        };
    }
}

fn check_limits(what: &Demand) {
    match what {
        Demand::Gang {
            min,
            max,
            payload,
            inputs,
            ..
        } => {
            assert!(1 <= *min && min <= max);
            assert!(payload.len() <= limits::PAYLOAD_BYTES && inputs.len() <= limits::INPUTS);
        }
        Demand::Map {
            payload,
            items,
            inputs,
            ..
        } => {
            assert!(payload.len() <= limits::PAYLOAD_BYTES && inputs.len() <= limits::INPUTS);
            assert!((1..=limits::MAP_ITEMS).contains(&items.len()));
            assert!(items.iter().all(|item| item.len() <= limits::ITEM_BYTES));
        }
    }
}

impl Record {
    fn note(&mut self, action: &DriverAction) {
        let text = match action {
            DriverAction::Run { stage, title, .. } => format!("run {stage}: {title}"),
            DriverAction::StageStarted(stage) => format!("start {stage}"),
            DriverAction::StageFinished(stage) => format!("finish {stage}"),
            DriverAction::Generation(summary) => {
                self.best.push(summary.best_fitness);
                assert!(summary.mean_fitness <= summary.best_fitness);
                assert!(summary.generation < summary.generations);
                format!("generation {}", summary.generation)
            }
            DriverAction::Store { name, bytes } => {
                assert!(bytes.len() <= limits::DRIVER_BLOB_BYTES);
                let _: serde_json::Value = serde_json::from_slice(bytes).unwrap();
                assert_eq!(
                    self.stores.insert(name.clone(), bytes.clone()),
                    None,
                    "{name} twice"
                );
                format!("store {name}")
            }
            DriverAction::Artifact { name, digest } => {
                assert_eq!(
                    self.artifacts.insert(name.clone(), *digest),
                    None,
                    "{name} twice"
                );
                format!("artifact {name}")
            }
            DriverAction::Finish { summary } => {
                assert!(
                    summary.len() <= limits::SUMMARY_BYTES,
                    "{} bytes",
                    summary.len()
                );
                self.summary = Some(summary.clone());
                "end".to_owned()
            }
            DriverAction::Fail { error } => {
                self.failure = Some(error.clone());
                "fail".to_owned()
            }
        };
        self.steps.push(text);
    }

    fn note_demand(&mut self, what: &Demand) {
        match what {
            Demand::Map {
                kernel: Kernel::PruneEvaluate,
                payload,
                items,
                ..
            } => {
                let call: PruneEvaluateCall = decode(payload).unwrap();
                self.named.push(call.data.digest);
                self.asked.push((
                    call.part,
                    items.iter().map(|item| decode(item).unwrap()).collect(),
                ));
            }
            Demand::Map {
                kernel: Kernel::EvaluateClassify,
                payload,
                ..
            } => {
                let call: EvaluateCall = decode(payload).unwrap();
                self.named.push(call.data.digest);
            }
            Demand::Map { .. } => {}
            Demand::Gang { payload, .. } => {
                let call: TrainCall = decode(payload).unwrap();
                self.named.push(call.data.digest);
                self.gangs.push(call);
            }
        }
    }

    fn json(&self, name: &str) -> serde_json::Value {
        serde_json::from_slice(&self.stores[name]).unwrap()
    }
}

/// Claim: a whole job goes through the stages and demands in this order.
/// Method: the made-up cluster, first demand first.
#[test]
fn a_whole_job() {
    let record = run(JOB, Order::First, None);
    let mut expected = vec!["start train", "run train: training the full net"];
    expected.extend(["artifact full.safetensors", "finish train", "start search"]);
    expected.extend([
        "run search: ranking filters by L1 norm",
        "run search: generation 0 of 12",
    ]);
    let generations: Vec<[String; 3]> = (0..=12)
        .map(|k| {
            [
                format!("generation {k}"),
                format!("store population/{k:03}.json"),
                format!("run search: generation {} of 12", k + 1),
            ]
        })
        .collect();
    generations
        .iter()
        .for_each(|steps| expected.extend(steps.iter().map(String::as_str)));
    *expected.last_mut().unwrap() = "run search: choosing among the 8 best";
    expected.extend([
        "store selection.json",
        "run search: L1-norm pruning: width allocations",
    ]);
    let different = record.json("result.json")["search"]["different"]
        .as_u64()
        .unwrap();
    let random = format!("run search: random search: {different} of {different} chromosomes");
    expected.extend([
        random.as_str(),
        "run search: random search: choosing among the best",
    ]);
    expected.extend(["finish search", "start finetune"]);
    let tuned = [
        "full net, extra epochs",
        "compressed net",
        "L1-norm pruning at the same widths",
    ];
    let tuned = [
        &tuned[..],
        &["L1-norm pruning at the best widths", "random search"],
    ]
    .concat();
    let tuned: Vec<String> = tuned
        .iter()
        .map(|title| format!("run finetune: fine-tuning: {title}"))
        .collect();
    expected.extend(tuned.iter().map(String::as_str));
    expected.extend([
        "finish finetune",
        "start evaluate",
        "run evaluate: evaluating every net on the test images",
    ]);
    expected.extend([
        "store model.json",
        "artifact model.safetensors",
        "store result.json",
        "store measured.json",
    ]);
    expected.extend(["finish evaluate", "end"]);
    assert_eq!(record.steps, expected);
}

/// Claim: files, digests and summary do not depend on the order in which demands are answered, nor
/// on the run. Method: first-in-first-out against last-in-first-out, and a replay.
#[test]
fn files_repeat() {
    let first = run(JOB, Order::First, None);
    assert_eq!(first, run(JOB, Order::First, None));
    let last = run(JOB, Order::Last, None);
    assert_eq!(first.stores, last.stores);
    assert_eq!(first.artifacts, last.artifacts);
    assert_eq!(first.summary, last.summary);
    let other_seed = run(&JOB.replace("seed = 7", "seed = 8"), Order::First, None);
    assert_ne!(
        first.stores["population/000.json"],
        other_seed.stores["population/000.json"]
    );
}

/// Claim: the fitness part and the selection part are the only ones that any choice reads, and the
/// test part is read in one map at the end.
#[test]
fn choices_never_read_the_test_part() {
    let record = run(JOB, Order::First, None);
    assert!(
        record
            .asked
            .iter()
            .all(|(part, _)| matches!(part, Part::Fitness | Part::Selection))
    );
    let reads = record
        .steps
        .iter()
        .filter(|step| step.starts_with("run evaluate"))
        .count();
    assert_eq!(reads, 1);
    assert!(
        record
            .steps
            .iter()
            .position(|step| step.starts_with("run evaluate"))
            .unwrap()
            > record.steps.len() - 8
    );
}

/// Claim: the rivals are of the winner's size and chosen as the winner is: equally many random
/// chromosomes of its widths, L1 allocations of at most its parameters and close to them, as many
/// again of the kind that the search started from, all finalists on the selection part; everything
/// is fine-tuned by the same recipe and seed.
#[test]
fn rivals_are_fair() {
    let record = run(JOB, Order::First, None);
    let network = record.gangs[0].network.clone();
    let result = record.json("result.json");
    let winner = Chromosome::parse(result["winner"]["genome"].as_str().unwrap()).unwrap();
    let budget = network.pruned(&winner).parameters();
    assert!(budget <= network.parameters() / 4);
    assert_eq!(result["winner"]["compression_reached"], true);

    let [
        ..,
        (Part::Selection, finalists),
        (Part::Selection, l1),
        (Part::Fitness, random),
        (Part::Selection, best),
    ] = &record.asked[..]
    else {
        panic!("unexpected order of evaluations");
    };
    assert_eq!(finalists.len(), 8);
    assert!(finalists.contains(&winner));
    assert!(
        finalists
            .iter()
            .all(|genome| network.pruned(genome).parameters() <= network.parameters() / 4)
    );
    assert_eq!(l1.len(), 10 + 10);
    assert!((1..l1.len()).all(|k| !l1[..k].contains(&l1[k])));
    for genome in l1 {
        let widths = network.widths(genome);
        assert!(network.with_widths(&widths).parameters() <= budget);
        for (layer, filters) in [12, 16, 110].into_iter().enumerate() {
            let mut wider = widths.clone();
            wider[layer] += 1;
            let is_larger = network.with_widths(&wider).parameters() > budget;
            assert!(widths[layer] == filters || is_larger, "{widths:?}");
        }
    }
    assert_eq!(
        random.len() as u64,
        result["search"]["different"].as_u64().unwrap()
    );
    assert!(
        random
            .iter()
            .all(|genome| network.widths(genome) == network.widths(&winner))
    );
    assert_eq!(best.len(), 8);
    assert!(best.iter().all(|genome| random.contains(genome)));

    let (full, tuned) = record.gangs.split_first().unwrap();
    assert_eq!(tuned.len(), 5);
    assert!(
        tuned
            .iter()
            .all(|call| call.recipe == tuned[0].recipe && call.seed == tuned[0].seed)
    );
    assert_eq!(
        tuned[0].recipe.learning_rate,
        full.recipe.learning_rate / 10.0
    );
    assert_ne!(tuned[0].seed, full.seed);
}

/// Claim: the files hold the rows and digests that the demands gave.
#[test]
fn files_hold_what_came_out() {
    let record = run(JOB, Order::First, None);
    let result = record.json("result.json");
    let names: Vec<&str> = result["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    let expected = [
        "full",
        "full_extra",
        "compressed_before",
        "compressed_after",
        "l1_widths_before",
        "l1_widths_after",
    ];
    assert_eq!(
        names,
        [
            &expected[..],
            &[
                "l1_best_before",
                "l1_best_after",
                "random_before",
                "random_after"
            ]
        ]
        .concat()
    );
    let row =
        |name: &str| result["rows"][names.iter().position(|other| *other == name).unwrap()].clone();
    let network = &record.gangs[0].network;
    assert_eq!(row("full")["parameters"], network.parameters());
    let small =
        network.pruned(&Chromosome::parse(result["winner"]["genome"].as_str().unwrap()).unwrap());
    for name in ["compressed_before", "compressed_after"] {
        assert_eq!(row(name)["parameters"], small.parameters());
        assert_eq!(row(name)["multiplications"], small.multiplications());
        assert_eq!(row(name)["bytes"], small.bytes());
    }
    assert_eq!(
        row("compressed_after")["correct"].as_u64(),
        row("compressed_before")["correct"].as_u64().map(|n| n + 10)
    );

    let digest = |k: usize| Digest::of(&encode(&record.gangs[k]));
    assert_eq!(record.artifacts["full.safetensors"], digest(0));
    assert_eq!(record.artifacts["model.safetensors"], digest(2));
    assert_eq!(result["weights"][2]["digest"], digest(2).to_string());

    let model = record.json("model.json");
    assert_eq!(
        model["tensors"].as_array().unwrap().len(),
        small.tensors().len()
    );
    assert_eq!(
        model["layers"][0]["kept"].as_array().unwrap().len() as u64,
        model["layers"][0]["output"][0].as_u64().unwrap()
    );
    let measured = record.json("measured.json");
    assert_eq!(measured["rows"].as_array().unwrap().len(), 10);
    assert!(measured["cache_hits"].as_u64().unwrap() > 0);
    let summary: serde_json::Value =
        serde_json::from_str(record.summary.as_ref().unwrap()).unwrap();
    assert_eq!(summary["rows"][3]["nanoseconds_per_image"], 1234);
    assert!(!String::from_utf8_lossy(&record.stores["result.json"]).contains("nanoseconds"));

    let population = record.json("population/003.json");
    assert_eq!(population.as_array().unwrap().len(), 16);
    assert_eq!(population[0]["operator"], "elite");
    for individual in population.as_array().unwrap() {
        let genome = Chromosome::parse(individual["genome"].as_str().unwrap()).unwrap();
        assert_eq!(
            individual["parameters"],
            network.pruned(&genome).parameters()
        );
    }
}

/// Claim: a size that nobody reaches is said, and the smallest individual is taken.
#[test]
fn an_unreached_size_is_said() {
    let text = JOB.replace(
        "min_compression = 4",
        "min_compression = 60\npreset = \"paper\"",
    );
    let record = run(&text, Order::First, None);
    let result = record.json("result.json");
    assert_eq!(result["winner"]["compression_reached"], false);
    let mut smallest = u64::MAX;
    for k in 0..=12 {
        let file = record.json(&format!("population/{k:03}.json"));
        smallest = file
            .as_array()
            .unwrap()
            .iter()
            .map(|each| each["parameters"].as_u64().unwrap())
            .fold(smallest, u64::min);
    }
    assert_eq!(result["winner"]["parameters"], smallest);
}

/// Claim: comparisons that are switched off cost nothing and leave no row.
#[test]
fn baselines_can_be_switched_off() {
    let off = "l1_widths = false\nrandom = false\nfull_extra = false\nl1_allocations = 0";
    let record = run(&JOB.replace("l1_allocations = 10", off), Order::First, None);
    let rows = record.json("result.json")["rows"]
        .as_array()
        .unwrap()
        .clone();
    let names: Vec<&str> = rows
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["full", "compressed_before", "compressed_after"]);
    assert_eq!(record.gangs.len(), 2);
    assert_eq!(record.asked.len(), 14);
}

/// Claim: nets with equal genes share one gang. Method: a search of one generation whose winner is
/// an L1-norm pruning itself.
#[test]
fn equal_nets_are_tuned_once() {
    let record = run(
        &JOB.replace("generations = 12", "generations = 0")
            .replace("[search]", "[search]\ninit = \"l1\""),
        Order::First,
        None,
    );
    let weights = record.json("result.json")["weights"].clone();
    assert_eq!(weights[2]["digest"], weights[3]["digest"]);
    let different: BTreeSet<Vec<u8>> = record.gangs.iter().map(encode).collect();
    assert_eq!(different.len(), record.gangs.len());
}

/// Claim: a demand that fails for good ends the job with what failed and why, in every stage.
#[test]
fn failures_end_the_job() {
    for title in [
        "training",
        "ranking",
        "generation 3",
        "choosing",
        "L1-norm",
        "random search",
        "fine-tuning: L1",
        "evaluating",
    ] {
        let record = run(JOB, Order::First, Some(title));
        let failure = record.failure.unwrap();
        assert!(
            failure.starts_with(title) && failure.contains("t10k-images: 3 bytes short"),
            "{failure}"
        );
        assert_eq!(record.steps.last().unwrap(), "fail");
    }
}

/// Claim: answers that fit no demand are errors, not panics, and leave the job to its copy.
#[test]
fn wrong_answers_are_errors() {
    let driver = spec::parse("job.toml", JOB).unwrap().driver;
    let mut started = driver.clone();
    started.on(&DriverEvent::Start).unwrap();
    let gang = |demand, result: Vec<u8>| DriverEvent::GangFinished {
        demand: DemandId(demand),
        result,
    };
    let map = |demand, results| DriverEvent::MapFinished {
        demand: DemandId(demand),
        results,
        evaluated: 0,
        cache_hits: 0,
    };
    for event in [
        DriverEvent::Start,
        gang(2, vec![]),
        gang(1, vec![1, 2, 3]),
        map(1, vec![]),
    ] {
        assert!(started.clone().on(&event).is_err());
    }
    let call = TrainResult {
        weights: Digest([0; 32]),
        steps: 1,
        final_loss: 0.1,
        data: TRAIN_DATA,
    };
    assert!(driver.clone().on(&gang(1, encode(&call))).is_err());
    started.on(&gang(1, encode(&call))).unwrap();
    let ranks = |first: Vec<u16>| {
        let rest: Vec<u16> = (0..100).collect();
        map(
            2,
            vec![
                encode(&first),
                encode(&(0..16).collect::<Vec<u16>>()),
                encode(&rest),
                encode(&(100..110).collect::<Vec<u16>>()),
            ],
        )
    };
    let wrong = [
        (0..11).collect(),
        (0..13).collect(),
        vec![0; 12],
        (1..13).collect::<Vec<u16>>(),
    ];
    for ranks in wrong.map(&ranks) {
        assert!(started.clone().on(&ranks).is_err());
    }
    started.on(&ranks((0..12).rev().collect())).unwrap();
    let scores = |correct, total, count| map(3, vec![encode(&Score { correct, total }); count]);
    for event in [
        scores(1, 500, 15),
        scores(501, 500, 16),
        scores(1, 499, 16),
        scores(0, 0, 16),
    ] {
        assert!(started.clone().on(&event).is_err());
    }
    started.on(&scores(0, 500, 16)).unwrap();
}
