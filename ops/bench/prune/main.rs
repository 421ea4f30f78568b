//! How much faster a fitness evaluation is than running the masked full net (`make bench-prune`).
//!
//! Runs a job file's driver up to the end of its search, with the real kernels in this process, on
//! one thread. Every chromosome that the job evaluates is timed once (the cluster answers repeated
//! ones from its cache); beside it the full net with masks, by libtorch, at the fastest of four
//! batches. The result is the sum of the second over the sum of the first.
//!
//! ```text
//! cargo bench -p evoring-kernels --bench prune -- [JOB.toml] [--all]
//! ```
//! The masked net multiplies the same numbers whatever the chromosome is, so a few chromosomes of
//! each map stand for the others; `--all` times every one (several minutes). Times are of the
//! processor, not of the wall, so other programs disturb little. The training of the full net takes
//! minutes and is kept below the target folder.

mod clock;
mod masked_net;

use clock::Clock;
use evoring_jobs::calls::{PruneEvaluateCall, TrainCall, decode, encode};
use evoring_jobs::driver::{Demand, Driver, DriverAction, DriverEvent};
use evoring_jobs::evolution::Chromosome;
use evoring_kernels::data::prepare;
use evoring_kernels::engine::Engine;
use evoring_kernels::evaluator::{Evaluator, Items};
use evoring_kernels::training::{
    SingleProcess, TrainFiles, TrainObserver, exchange_length, run_rank,
};
use evoring_kernels::weights::{Weights, float_values};
use evoring_protocol::numerics::EXECUTOR_ENVIRONMENT;
use evoring_protocol::work::{Kernel, TrainingProgress};
use evoring_protocol::{Digest, ItemIndex};
use masked_net::MaskedNet;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::path::{Path, PathBuf};

/// Job whose chromosomes are timed.
const EXAMPLE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../examples/prune-fashion.toml"
);
/// Chromosomes of one map that the masked net is timed with.
const SAMPLE: usize = 2;
/// What the project promises.
const GOAL: f64 = 6.0;

struct Progress;

impl TrainObserver for Progress {
    fn progress(&mut self, progress: TrainingProgress) {
        if progress.step.is_multiple_of(500) {
            eprintln!(
                "training the full net: step {} of {}",
                progress.step, progress.steps
            );
        }
    }
    fn checkpoint(&mut self, _: u64, path: &Path) -> Result<(), evoring_kernels::KernelError> {
        // Nobody resumes here; a file that stays does no harm.
        let _ = std::fs::remove_file(path);
        Ok(())
    }
    fn should_stop(&self) -> bool {
        false
    }
}

/// Times in milliseconds and multiplications in millions.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    chromosomes: usize,
    ours: f64,
    plain: f64,
    channels_last: f64,
    /// Of the small net.
    small: f64,
    /// That had not been made for another chromosome.
    made: f64,
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.chromosomes += other.chromosomes;
        self.ours += other.ours;
        self.plain += other.plain;
        self.channels_last += other.channels_last;
        self.small += other.small;
        self.made += other.made;
    }

    /// One line; `rate` is in millions of multiplications in a millisecond.
    fn print(&self, name: &str, rate: f64) {
        let each = |value: f64| value / self.chromosomes.max(1) as f64;
        println!(
            "{name:<34} {:>5} {:>9.2} {:>9.1} {:>9.1} {:>8.1} {:>8.1} {:>7.0}% {:>7.0}%",
            self.chromosomes,
            each(self.ours),
            each(self.plain),
            self.plain / self.ours,
            self.channels_last / self.ours,
            self.plain / (self.made / rate),
            100.0 * self.made / self.small,
            100.0 * self.made / rate / self.ours,
        );
    }
}

/// What is timed for one part of the data.
struct Bench {
    engine: Engine,
    plain: MaskedNet,
    channels_last: MaskedNet,
}

struct Runner {
    folder: PathBuf,
    is_all: bool,
    evaluator: Evaluator,
    benches: BTreeMap<Vec<u8>, Bench>,
    known: BTreeMap<Vec<u8>, Vec<u8>>,
    total: Sums,
    /// Millions of multiplications in a millisecond that the processor can make at most.
    rate: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    for (name, value) in EXECUTOR_ENVIRONMENT {
        if std::env::var(name).as_deref() != Ok(value) {
            return restart();
        }
    }
    evoring_kernels::initialise();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let file = arguments
        .iter()
        .find(|argument| !argument.starts_with("--"));
    let file = file.map_or(EXAMPLE, String::as_str);
    let mut driver = evoring_jobs::spec::parse(file, &std::fs::read_to_string(file)?)?.driver;
    let folder = target_folder()?;
    std::fs::create_dir_all(&folder)?;
    let is_all = arguments.iter().any(|argument| argument == "--all");
    let mut runner = Runner {
        folder,
        is_all,
        evaluator: Evaluator::default(),
        benches: BTreeMap::new(),
        known: BTreeMap::new(),
        total: Sums::default(),
        rate: clock::multiplications_per_millisecond() / 1e6,
    };
    println!(
        "one thread; at most {:.1} thousand million multiplications a second",
        runner.rate
    );
    println!(
        "{:<34} {:>5} {:>9} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8}",
        "", "new", "ours ms", "masked ms", "ratio", "(ch.l.)", "limit", "made", "of peak"
    );
    let mut events = VecDeque::from([DriverEvent::Start]);
    while let Some(event) = events.pop_front() {
        for action in driver.on(&event)? {
            match action {
                DriverAction::StageStarted(stage) if stage == "finetune" => return runner.finish(),
                DriverAction::Run {
                    demand,
                    title,
                    what,
                    ..
                } => events.push_back(match what {
                    Demand::Gang {
                        payload, inputs, ..
                    } => DriverEvent::GangFinished {
                        demand,
                        result: runner.gang(&payload, &inputs)?,
                    },
                    Demand::Map {
                        kernel,
                        payload,
                        items,
                        inputs,
                    } => {
                        let results = runner.map(&title, kernel, &payload, &items, &inputs)?;
                        DriverEvent::MapFinished {
                            demand,
                            evaluated: results.len() as u32,
                            results,
                            cache_hits: 0,
                        }
                    }
                }),
                DriverAction::Fail { error } => return Err(error.into()),
                _ => {}
            }
        }
    }
    Err("the job ended before its search did".into())
}

/// Starts this program again in the environment of executors, which libtorch reads when it starts.
fn restart() -> Result<(), Box<dyn Error>> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    let status = command
        .args(std::env::args().skip(1))
        .envs(EXECUTOR_ENVIRONMENT)
        .status()?;
    std::process::exit(status.code().unwrap_or(1));
}

/// `bench-prune` in the target folder, in which this program lies.
fn target_folder() -> Result<PathBuf, Box<dyn Error>> {
    let program = std::env::current_exe()?;
    Ok(program
        .ancestors()
        .nth(3)
        .ok_or("the program lies in no target folder")?
        .join("bench-prune"))
}

impl Runner {
    fn blob(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}.safetensors"))
    }

    /// Trains, or takes the result of an earlier run with the same call.
    fn gang(&mut self, payload: &[u8], inputs: &[Digest]) -> Result<Vec<u8>, Box<dyn Error>> {
        let known = self.folder.join(format!(
            "{}.result",
            Digest::of(&encode(&(payload, inputs)))
        ));
        if let Ok(result) = std::fs::read(&known) {
            return Ok(result);
        }
        let call: TrainCall = decode(payload)?;
        let inputs: Vec<PathBuf> = inputs.iter().map(|digest| self.blob(digest)).collect();
        let mut exchange = SingleProcess::new(call.shards, exchange_length(&call)?);
        let files = TrainFiles {
            inputs: &inputs,
            resume: None,
            scratch: &self.folder,
        };
        let (result, weights) = run_rank(&call, files, &mut exchange, &mut Progress)?;
        std::fs::rename(weights, self.blob(&result.weights))?;
        let result = encode(&result);
        std::fs::write(known, &result)?;
        Ok(result)
    }

    fn map(
        &mut self,
        title: &str,
        kernel: Kernel,
        payload: &[u8],
        items: &[Vec<u8>],
        inputs: &[Digest],
    ) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
        if kernel == Kernel::PruneEvaluate {
            return self.evaluate(title, payload, items, inputs);
        }
        let paths: Vec<PathBuf> = inputs.iter().map(|digest| self.blob(digest)).collect();
        let items: Vec<(ItemIndex, Vec<u8>)> = items
            .iter()
            .map(|item| (ItemIndex(0), item.clone()))
            .collect();
        let work = Items {
            kernel,
            payload,
            inputs: &paths,
            digests: inputs,
            items: &items,
        };
        let mut results = Vec::new();
        self.evaluator
            .run_items(work, &mut |outcome| results.push(outcome.result), &|| false);
        Ok(results.into_iter().collect::<Result<_, _>>()?)
    }

    /// Scores chromosomes and times the new ones.
    fn evaluate(
        &mut self,
        title: &str,
        payload: &[u8],
        items: &[Vec<u8>],
        inputs: &[Digest],
    ) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
        let call: PruneEvaluateCall = decode(payload)?;
        if !self.benches.contains_key(payload) {
            let weights = self.blob(inputs.first().ok_or("no weights")?);
            let bench = Bench::new(&call, &weights)?;
            println!(
                "{:?} images: masked net in batches of {}, channels last {}",
                call.part,
                bench.plain.batch(),
                bench.channels_last.batch()
            );
            self.benches.insert(payload.to_vec(), bench);
        }
        let bench = self.benches.get_mut(payload).ok_or("made above")?;
        let (mut new, mut sums) = (Vec::new(), Sums::default());
        let made = bench.engine.multiplications();
        let clock = Clock::start();
        for item in items {
            let key = encode(&(payload, item));
            if let Entry::Vacant(unknown) = self.known.entry(key) {
                let chromosome: Chromosome = decode(item)?;
                unknown.insert(encode(&bench.engine.score(&chromosome)));
                new.push(chromosome);
            }
        }
        sums.ours = clock.milliseconds();
        sums.chromosomes = new.len();
        sums.made = (bench.engine.multiplications() - made) as f64 / 1e6;
        let images = bench.engine.images() as f64;
        let small = |chromosome: &Chromosome| {
            call.network.pruned(chromosome).multiplications() as f64 * images / 1e6
        };
        sums.small = new.iter().map(small).sum();
        let step = if self.is_all {
            1
        } else {
            new.len().div_ceil(SAMPLE).max(1)
        };
        let sample: Vec<&Chromosome> = new.iter().step_by(step).collect();
        let share = new.len() as f64 / sample.len().max(1) as f64;
        sums.plain = share
            * sample
                .iter()
                .map(|chromosome| bench.plain.milliseconds(chromosome))
                .sum::<f64>();
        sums.channels_last = share
            * sample
                .iter()
                .map(|chromosome| bench.channels_last.milliseconds(chromosome))
                .sum::<f64>();
        if !new.is_empty() {
            sums.print(&title.chars().take(34).collect::<String>(), self.rate);
            self.total.add(&sums);
        }
        let result = |item: &Vec<u8>| self.known.get(&encode(&(payload, item))).cloned();
        Ok(items
            .iter()
            .map(result)
            .collect::<Option<_>>()
            .ok_or("scored above")?)
    }

    fn finish(&self) -> Result<(), Box<dyn Error>> {
        self.total.print("all", self.rate);
        println!(
            "ratio = masked net / ours; (ch.l.) = the same against the masked net with channels last in memory;\n\
             limit = ratio if the multiplications that were made ran at the processor's peak; made = share of\n\
             the small nets' multiplications that no other chromosome had needed before."
        );
        let ratio = self.total.plain / self.total.ours;
        println!(
            "bench-prune: {ratio:.1} times faster, goal {GOAL}: {}",
            if ratio >= GOAL { "reached" } else { "missed" }
        );
        if ratio >= GOAL {
            Ok(())
        } else {
            Err(format!("{ratio:.1} is below the goal of {GOAL}").into())
        }
    }
}

impl Bench {
    fn new(call: &PruneEvaluateCall, weights: &Path) -> Result<Self, Box<dyn Error>> {
        let weights = Weights::load(weights, &call.network)?;
        let prepared = prepare(&call.data, call.part)?;
        let tensor = |layer: usize, name: &str| float_values(weights.tensor(layer, name));
        let engine = Engine::new(&call.network, tensor, &prepared.images, &prepared.labels);
        let plain = MaskedNet::new(&call.network, weights.with_channels_first(), &prepared);
        let channels_last = MaskedNet::new(&call.network, weights.with_channels_last(), &prepared);
        Ok(Self {
            engine,
            plain,
            channels_last,
        })
    }
}
