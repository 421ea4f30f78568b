//! Whole jobs on tiny images, in this process.

use super::*;
use crate::data::tests::{npy, picture, zip};
use crate::data::{Side, load, prepare};
use crate::masked;
use crate::weights::Weights;
use evoring_jobs::calls::{PruneEvaluateCall, Recipe, Score};
use evoring_jobs::data::{DataSource, DataSpec, Part};
use evoring_jobs::driver::JobDriver;
use evoring_jobs::evolution::Chromosome;
use evoring_jobs::network::NetworkSpec;
use evoring_jobs::random::{Purpose, Stream};
use std::error::Error;
use tch::Tensor;

/// Classes, images of a class on each side, and the side of an image.
const CLASSES: u8 = 3;
const TRAIN: u8 = 20;
const TEST: u8 = 5;
const SIDE: u32 = 8;

/// A job that goes through every stage in a moment.
const JOB: &str = r#"
name = "tiny"
kind = "evolve.prune"
[data]
SOURCE
classes = 3
fitness_images = 12
selection_images = 12
[network]
input = [3, 8, 8]
layers = [
    { type = "conv", filters = 4, kernel = 3 },
    { type = "batch-norm" },
    { type = "max-pool", size = 2 },
    { type = "relu" },
    { type = "flatten" },
    { type = "dense", units = 6 },
    { type = "relu" },
    { type = "dense", units = 3 },
]
[train]
shards = 2
batch = 8
epochs = 4
warmup_steps = 2
[search]
population = 6
generations = 3
min_compression = 2
finalists = 3
[baselines]
l1_allocations = 4
"#;

fn job(source: &str, path: &Path) -> JobDriver {
    let source = format!("{source} = {:?}", path.to_str().unwrap());
    let text = JOB.replace("SOURCE", &source);
    evoring_jobs::spec::parse("tiny.toml", &text)
        .unwrap()
        .driver
}

/// Everything that a job gave out.
struct Collector {
    local: Local,
    stores: BTreeMap<String, Vec<u8>>,
    artifacts: BTreeMap<String, Digest>,
}

impl Runner for Collector {
    type Error = Box<dyn Error>;

    fn gang(&mut self, work: Work<'_>) -> Result<Vec<u8>, Self::Error> {
        Ok(self.local.gang(work)?)
    }

    fn map(&mut self, work: Work<'_>, items: &[Vec<u8>]) -> Result<Answers, Self::Error> {
        Ok(self.local.map(work, items)?)
    }

    fn hear(&mut self, action: DriverAction) -> Result<ControlFlow<()>, Self::Error> {
        match action {
            DriverAction::Store { name, bytes } => {
                self.stores.insert(name, bytes);
            }
            DriverAction::Artifact { name, digest } => {
                self.artifacts.insert(name, digest);
            }
            DriverAction::Fail { error } => return Err(error.into()),
            _ => {}
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl Collector {
    fn new(folder: &Path) -> Self {
        Self {
            local: Local::new(folder, |_| {}).unwrap(),
            stores: BTreeMap::new(),
            artifacts: BTreeMap::new(),
        }
    }

    /// Runs a job to its end.
    fn run(&mut self, mut driver: JobDriver) {
        self.stores.clear();
        self.artifacts.clear();
        assert!(drive(&mut driver, self).unwrap().is_continue());
    }

    fn result(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stores["result.json"]).unwrap()
    }

    /// Files of the generations.
    fn populations(&self) -> Vec<&Vec<u8>> {
        let files = self.stores.iter();
        files
            .filter(|(name, _)| name.starts_with("population/"))
            .map(|(_, bytes)| bytes)
            .collect()
    }
}

/// Colour of an image: bright in the channel of its class, and a little different each time.
fn color(class: u8, index: u8) -> [u8; 3] {
    let mut color = [30 + 3 * index, 60 + index, 90];
    color[usize::from(class)] = 220 - 5 * index;
    color
}

/// Images and labels of one side as arrays, class by class.
fn arrays(count: u8, relabel: impl Fn(usize, u8) -> u8) -> [Vec<u8>; 2] {
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for class in 0..CLASSES {
        for index in 0..count {
            for channel in color(class, index) {
                pixels.extend(vec![channel; (SIDE * SIDE) as usize]);
            }
            labels.push(relabel(labels.len(), class));
        }
    }
    let shape = format!("{}, 3, {SIDE}, {SIDE}", labels.len());
    let labels = npy("|u1", &format!("{},", labels.len()), &labels);
    [npy("|u1", &shape, &pixels), labels]
}

/// The images as one file, put in place whole, as an editor or a copy does.
fn write_npz(path: &Path, relabel: impl Fn(usize, u8) -> u8) {
    let [x_train, y_train] = arrays(TRAIN, relabel);
    let [x_test, y_test] = arrays(TEST, |_, label| label);
    let members = [
        ("x_train.npy", x_train),
        ("y_train.npy", y_train),
        ("x_test.npy", x_test),
        ("y_test.npy", y_test),
    ];
    let temporary = path.with_extension("part");
    std::fs::write(&temporary, zip(&members, true)).unwrap();
    std::fs::rename(temporary, path).unwrap();
}

/// The same images as pictures in class folders.
fn write_folder(folder: &Path) {
    for (side, count) in [("train", TRAIN), ("test", TEST)] {
        for class in 0..CLASSES {
            for index in 0..count {
                let name = format!("{side}/class-{class}/{index:02}.png");
                picture(&folder.join(name), SIDE, SIDE, color(class, index));
            }
        }
    }
}

/// Claim: jobs on an `.npz` file and on a folder of pictures go through all four stages, and what
/// comes out depends on the images alone, not on the files that they came in. Method: the same
/// images in both forms, every file but for the source in `result.json` compared.
#[test]
fn equal_images_give_equal_results() {
    let room = tempfile::tempdir().unwrap();
    let (file, folder) = (room.path().join("set.npz"), room.path().join("pictures"));
    write_npz(&file, |_, label| label);
    write_folder(&folder);
    let mut first = Collector::new(&room.path().join("first"));
    first.run(job("npz", &file));
    let mut second = Collector::new(&room.path().join("second"));
    second.run(job("folder", &folder));

    let (mut one, mut other) = (first.result(), second.result());
    assert_eq!(one["rows"].as_array().unwrap().len(), 10);
    assert_eq!(one["rows"][0]["total"], u32::from(CLASSES * TEST));
    assert!(
        one["rows"][0]["accuracy"].as_f64().unwrap() > 0.9,
        "{one:#}"
    );
    assert_eq!(one["job"]["data"]["digest"].as_str().unwrap().len(), 64);
    assert_ne!(one["job"]["data"]["digest"], one["test_digest"]);
    for result in [&mut one, &mut other] {
        result["job"]["data"]["source"].take();
    }
    assert_eq!(one, other);
    assert_eq!(first.artifacts, second.artifacts);
    assert_eq!(first.populations().len(), 4);
    assert_eq!(first.populations(), second.populations());
    assert_eq!(
        first.stores["selection.json"],
        second.stores["selection.json"]
    );
}

/// Claim: a job on a corrected file is answered for the corrected images, although path, job file
/// and weights of the full net are those of the job before. Method: the labels of the fitness
/// images, which no gradient sees, are corrected between two jobs of one process.
#[test]
fn a_corrected_file_is_another_job() {
    let room = tempfile::tempdir().unwrap();
    let file = room.path().join("set.npz");
    write_npz(&file, |_, label| label);
    let driver = job("npz", &file);
    let JobDriver::PruneV1(inner) = &driver;
    let images = u32::from(CLASSES * TRAIN);
    let fitness = inner.job().data.indices(Part::Fitness, images).unwrap();
    let mut collector = Collector::new(&room.path().join("blobs"));
    collector.run(driver.clone());
    let weights = collector.artifacts["full.safetensors"];
    let digest = collector.result()["job"]["data"]["digest"].clone();
    let first = collector.stores["population/000.json"].clone();

    // Once more on the same file: everything is known.
    collector.run(driver.clone());
    let measured = |collector: &Collector| -> serde_json::Value {
        serde_json::from_slice(&collector.stores["measured.json"]).unwrap()
    };
    assert_eq!(measured(&collector)["evaluated"], 0);

    write_npz(&file, |index, label| {
        let is_fitness = fitness.contains(&(index as u32));
        if is_fitness {
            (label + 1) % CLASSES
        } else {
            label
        }
    });
    collector.run(driver);
    assert_eq!(collector.artifacts["full.safetensors"], weights);
    assert_ne!(collector.result()["job"]["data"]["digest"], digest);
    assert_ne!(collector.stores["population/000.json"], first);
    assert_ne!(measured(&collector)["evaluated"], 0);
}

/// Claim: vgg-small trains on RGB images and its chromosomes are scored as the masked net scores
/// them. Method: a few steps on random images, the full net and a random half of its filters.
#[test]
fn vgg_small_trains_and_is_evaluated() {
    let room = tempfile::tempdir().unwrap();
    let network = NetworkSpec::vgg_small(10);
    let mut stream = Stream::new(5, Purpose::Order, 0, 0);
    let mut random =
        |count: usize| -> Vec<u8> { (0..count).map(|_| stream.bits() as u8).collect() };
    let members = [
        (
            "x_train.npy",
            npy("|u1", "32, 3, 32, 32", &random(32 * 3 * 32 * 32)),
        ),
        (
            "y_train.npy",
            npy(
                "|u1",
                "32,",
                &(0..32).map(|label| label % 10).collect::<Vec<u8>>(),
            ),
        ),
    ];
    let file = room.path().join("set.npz");
    std::fs::write(&file, zip(&members, false)).unwrap();
    let data = DataSpec {
        source: DataSource::Npz(file.to_str().unwrap().to_owned()),
        shape: network.input,
        classes: 10,
        split_seed: 1,
        fitness_images: 8,
        selection_images: 8,
        train_images: None,
        digest: None,
    };
    let call = TrainCall {
        network: network.clone(),
        chromosome: None,
        data: data.clone(),
        recipe: Recipe {
            epochs: 1,
            batch: 8,
            learning_rate: 0.01,
            warmup_steps: 0,
            momentum: 0.9,
            weight_decay: 5e-4,
            flip: true,
            shift_pixels: 2,
        },
        seed: 3,
        shards: 2,
        checkpoint_steps: 1,
    };
    let mut local = Local::new(&room.path().join("blobs"), |_| {}).unwrap();
    let work = |kernel, payload, inputs| Work {
        title: "vgg-small",
        kernel,
        payload,
        inputs,
    };
    let payload = encode(&call);
    let result = local
        .gang(work(Kernel::TrainClassify, &payload, &[]))
        .unwrap();
    let result: TrainResult = decode(&result).unwrap();
    assert_eq!(result.steps, 2);
    assert_eq!(result.data, load(&data, Side::Train).unwrap().digest);
    let weights = Weights::load(&local.blob(&result.weights), &network).unwrap();

    let mut half = Chromosome::zeros(network.genes());
    let mut stream = Stream::new(6, Purpose::Breeding, 0, 0);
    (0..network.genes()).for_each(|gene| half.set(gene, stream.uniform() < 0.5));
    let chromosomes = [Chromosome::ones(network.genes()), half];
    assert!(
        chromosomes
            .iter()
            .all(|chromosome| network.fits(chromosome))
    );
    let payload = encode(&PruneEvaluateCall {
        network: network.clone(),
        data: DataSpec {
            digest: Some(result.data),
            ..data.clone()
        },
        part: Part::Fitness,
    });
    let items = chromosomes.each_ref().map(encode);
    let inputs = [result.weights];
    let answers = local
        .map(work(Kernel::PruneEvaluate, &payload, &inputs), &items)
        .unwrap();
    let prepared = prepare(&data, Part::Fitness).unwrap();
    let images = Tensor::from_slice(&prepared.images).view([-1, 3, 32, 32]);
    let labels: Vec<i64> = prepared
        .labels
        .iter()
        .map(|label| i64::from(*label))
        .collect();
    let labels = Tensor::from_slice(&labels);
    for (chromosome, answer) in chromosomes.iter().zip(&answers.results) {
        let score: Score = decode(answer).unwrap();
        let expected =
            tch::no_grad(|| masked::score(&network, &weights, chromosome, &images, &labels, 8));
        assert_eq!((score, score.total), (expected, 8));
    }
}
