//! Jobs without a cluster: the driver and the kernels in one process, on one thread.
//!
//! For measurements, for choosing hyper-parameters and for tests. [`drive`] hands a driver's
//! demands to a [`Runner`]; [`Local`] answers them with the real kernels. In the environment of
//! executors ([`enter_executor_environment`]) the driver then stores the same bytes as in a cluster
//! of this numerics class, but for the times in `measured.json`.

#[cfg(test)]
mod tests;

use crate::KernelError;
use crate::data::{Side, load};
use crate::evaluator::{Evaluator, Items};
use crate::training::{SingleProcess, TrainFiles, TrainObserver, exchange_length, run_rank};
use evoring_jobs::calls::{TrainCall, TrainResult, decode, encode};
use evoring_jobs::driver::{Demand, Driver, DriverAction, DriverError, DriverEvent};
use evoring_protocol::numerics::EXECUTOR_ENVIRONMENT;
use evoring_protocol::work::{Kernel, TrainingProgress, WorkError};
use evoring_protocol::{Digest, ItemIndex};
use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

/// What a gang or a map is to do.
#[derive(Debug, Clone, Copy)]
pub struct Work<'a> {
    /// For people.
    pub title: &'a str,
    /// What to run.
    pub kernel: Kernel,
    /// Its arguments.
    pub payload: &'a [u8],
    /// Blobs that it reads.
    pub inputs: &'a [Digest],
}

/// Results of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answers {
    /// In the order of the items.
    pub results: Vec<Vec<u8>>,
    /// How many of them were known.
    pub cache_hits: u32,
}

/// Answers a driver's demands and hears the rest of what it says.
pub trait Runner {
    /// What ends the job early.
    type Error: From<DriverError>;
    /// The result of a gang.
    fn gang(&mut self, work: Work<'_>) -> Result<Vec<u8>, Self::Error>;
    /// The results of a map.
    fn map(&mut self, work: Work<'_>, items: &[Vec<u8>]) -> Result<Answers, Self::Error>;
    /// An action other than [`DriverAction::Run`]; a break stops the job here.
    fn hear(&mut self, action: DriverAction) -> Result<ControlFlow<()>, Self::Error>;
}

/// Runs a job from its start; a break if `runner` stopped it.
pub fn drive<R: Runner>(
    driver: &mut impl Driver,
    runner: &mut R,
) -> Result<ControlFlow<()>, R::Error> {
    let mut events = VecDeque::from([DriverEvent::Start]);
    while let Some(event) = events.pop_front() {
        for action in driver.on(&event)? {
            let DriverAction::Run {
                demand,
                title,
                what,
                ..
            } = action
            else {
                if runner.hear(action)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                continue;
            };
            let (Demand::Gang {
                kernel,
                payload,
                inputs,
                ..
            }
            | Demand::Map {
                kernel,
                payload,
                inputs,
                ..
            }) = &what;
            let work = Work {
                title: &title,
                kernel: *kernel,
                payload,
                inputs,
            };
            events.push_back(match &what {
                Demand::Gang { .. } => DriverEvent::GangFinished {
                    demand,
                    result: runner.gang(work)?,
                },
                Demand::Map { items, .. } => {
                    let Answers {
                        results,
                        cache_hits,
                    } = runner.map(work, items)?;
                    DriverEvent::MapFinished {
                        demand,
                        evaluated: (results.len() as u32).saturating_sub(cache_hits),
                        results,
                        cache_hits,
                    }
                }
            });
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Work that gave no result in this process.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// A gang's.
    #[error(transparent)]
    Gang(#[from] KernelError),
    /// An item's.
    #[error(transparent)]
    Item(#[from] WorkError),
}

/// The kernels, with a folder for weights.
pub struct Local {
    folder: PathBuf,
    evaluator: Evaluator,
    /// Results of items whose kernel allows that; as many as the jobs of this process have.
    known: BTreeMap<Vec<u8>, Vec<u8>>,
    progress: Progress,
}

/// Where a training's progress goes; checkpoints are thrown away, for nobody goes on from them.
struct Progress(Box<dyn FnMut(&TrainingProgress)>);

impl TrainObserver for Progress {
    fn progress(&mut self, progress: TrainingProgress) {
        (self.0)(&progress);
    }
    fn checkpoint(&mut self, _: u64, path: &Path) -> Result<(), KernelError> {
        std::fs::remove_file(path).map_err(KernelError::io(path))
    }
    fn should_stop(&self) -> bool {
        false
    }
}

impl Local {
    /// Keeps weights and results of trainings in `folder`, which is made; another process that is
    /// given the same folder does not train again.
    pub fn new(
        folder: &Path,
        progress: impl FnMut(&TrainingProgress) + 'static,
    ) -> Result<Self, KernelError> {
        crate::initialise();
        std::fs::create_dir_all(folder).map_err(KernelError::io(folder))?;
        Ok(Self {
            folder: folder.to_owned(),
            evaluator: Evaluator::default(),
            known: BTreeMap::new(),
            progress: Progress(Box::new(progress)),
        })
    }

    /// File of a blob that a training made.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}.safetensors"))
    }

    /// Trains, or takes the result of an equal training on equal images.
    pub fn gang(&mut self, work: Work<'_>) -> Result<Vec<u8>, LocalError> {
        let call: TrainCall = decode(work.payload).map_err(KernelError::from)?;
        let class = crate::numerics_class().0;
        let key = Digest::of(&encode(&(class, work.payload, work.inputs)));
        let file = self.folder.join(format!("{key}.result"));
        let data = load(&call.data, Side::Train)?.digest;
        let earlier = std::fs::read(&file).ok();
        let earlier = earlier.and_then(|bytes| decode::<TrainResult>(&bytes).ok());
        let is_usable =
            |earlier: &TrainResult| earlier.data == data && self.blob(&earlier.weights).is_file();
        if let Some(earlier) = earlier.filter(is_usable) {
            return Ok(encode(&earlier));
        }
        let inputs = self.blobs(work.inputs);
        let mut exchange = SingleProcess::new(call.shards, exchange_length(&call)?);
        let files = TrainFiles {
            inputs: &inputs,
            resume: None,
            scratch: &self.folder,
        };
        let (result, weights) = run_rank(&call, files, &mut exchange, &mut self.progress)?;
        std::fs::rename(&weights, self.blob(&result.weights)).map_err(KernelError::io(&weights))?;
        let result = encode(&result);
        std::fs::write(&file, &result).map_err(KernelError::io(&file))?;
        Ok(result)
    }

    /// Runs the items that are not known yet.
    pub fn map(&mut self, work: Work<'_>, items: &[Vec<u8>]) -> Result<Answers, LocalError> {
        let inputs = self.blobs(work.inputs);
        let mut answers = Answers {
            results: Vec::new(),
            cache_hits: 0,
        };
        for item in items {
            let key = encode(&(work.kernel, work.payload, work.inputs, item));
            if let Some(known) = self.known.get(&key) {
                answers.cache_hits += 1;
                answers.results.push(known.clone());
                continue;
            }
            let one = [(ItemIndex(0), item.clone())];
            let piece = Items {
                kernel: work.kernel,
                payload: work.payload,
                inputs: &inputs,
                digests: work.inputs,
                items: &one,
            };
            let mut results = Vec::new();
            let mut report = |outcome: evoring_protocol::work::ItemOutcome| {
                results.push(outcome.result);
            };
            self.evaluator.run_items(piece, &mut report, &|| false);
            for result in results {
                let result = result?;
                if work.kernel.is_cacheable() {
                    self.known.insert(key.clone(), result.clone());
                }
                answers.results.push(result);
            }
        }
        Ok(answers)
    }

    fn blobs(&self, digests: &[Digest]) -> Vec<PathBuf> {
        digests.iter().map(|digest| self.blob(digest)).collect()
    }
}

/// Starts this program again in the environment of executors, unless it is in it: bits depend on
/// it, and libtorch reads it when it starts. Returns only in that environment, or with the reason
/// why it cannot be had.
pub fn enter_executor_environment() -> std::io::Result<()> {
    let is_set = |(name, value): &(&str, &str)| std::env::var(name).as_deref() == Ok(*value);
    if EXECUTOR_ENVIRONMENT.iter().all(is_set) {
        return Ok(());
    }
    let mut command = std::process::Command::new(std::env::current_exe()?);
    let arguments = std::env::args_os().skip(1);
    Err(command.args(arguments).envs(EXECUTOR_ENVIRONMENT).exec())
}
