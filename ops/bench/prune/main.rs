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
use evoring_jobs::calls::{PruneEvaluateCall, decode, encode};
use evoring_jobs::driver::DriverAction;
use evoring_jobs::evolution::Chromosome;
use evoring_kernels::data::prepare;
use evoring_kernels::engine::Engine;
use evoring_kernels::local::{Answers, Local, Runner, Work, drive, enter_executor_environment};
use evoring_kernels::weights::{Weights, float_values};
use evoring_protocol::work::{Kernel, TrainingProgress};
use masked_net::MaskedNet;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::error::Error;
use std::ops::ControlFlow;
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

/// Times what the search evaluates.
struct Timer {
    local: Local,
    is_all: bool,
    benches: BTreeMap<Vec<u8>, Bench>,
    known: BTreeMap<Vec<u8>, Vec<u8>>,
    total: Sums,
    /// Millions of multiplications in a millisecond that the processor can make at most.
    rate: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    enter_executor_environment()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let file = arguments
        .iter()
        .find(|argument| !argument.starts_with("--"));
    let file = file.map_or(EXAMPLE, String::as_str);
    let mut driver = evoring_jobs::spec::parse(file, &std::fs::read_to_string(file)?)?.driver;
    let mut timer = Timer {
        local: Local::new(&target_folder()?, print)?,
        is_all: arguments.iter().any(|argument| argument == "--all"),
        benches: BTreeMap::new(),
        known: BTreeMap::new(),
        total: Sums::default(),
        rate: clock::multiplications_per_millisecond() / 1e6,
    };
    println!(
        "one thread; at most {:.1} thousand million multiplications a second",
        timer.rate
    );
    println!(
        "{:<34} {:>5} {:>9} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8}",
        "", "new", "ours ms", "masked ms", "ratio", "(ch.l.)", "limit", "made", "of peak"
    );
    match drive(&mut driver, &mut timer)? {
        ControlFlow::Break(()) => timer.finish(),
        ControlFlow::Continue(()) => Err("the job ended before its search did".into()),
    }
}

fn print(progress: &TrainingProgress) {
    let TrainingProgress { step, steps, .. } = progress;
    if step.is_multiple_of(500) {
        eprintln!("training the full net: step {step} of {steps}");
    }
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

impl Runner for Timer {
    type Error = Box<dyn Error>;

    fn gang(&mut self, work: Work<'_>) -> Result<Vec<u8>, Self::Error> {
        Ok(self.local.gang(work)?)
    }

    fn map(&mut self, work: Work<'_>, items: &[Vec<u8>]) -> Result<Answers, Self::Error> {
        if work.kernel == Kernel::PruneEvaluate {
            return self.evaluate(work, items);
        }
        Ok(self.local.map(work, items)?)
    }

    /// Stops the job at the end of its search.
    fn hear(&mut self, action: DriverAction) -> Result<ControlFlow<()>, Self::Error> {
        match action {
            DriverAction::StageStarted(stage) if stage == "finetune" => Ok(ControlFlow::Break(())),
            DriverAction::Fail { error } => Err(error.into()),
            _ => Ok(ControlFlow::Continue(())),
        }
    }
}

impl Timer {
    /// Scores chromosomes and times the new ones.
    fn evaluate(&mut self, work: Work<'_>, items: &[Vec<u8>]) -> Result<Answers, Box<dyn Error>> {
        let Work {
            title,
            payload,
            inputs,
            ..
        } = work;
        let call: PruneEvaluateCall = decode(payload)?;
        if !self.benches.contains_key(payload) {
            let weights = self.local.blob(inputs.first().ok_or("no weights")?);
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
        let results: Option<Vec<Vec<u8>>> = items.iter().map(result).collect();
        Ok(Answers {
            results: results.ok_or("scored above")?,
            cache_hits: 0,
        })
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
