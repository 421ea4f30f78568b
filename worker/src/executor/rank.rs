//! Runs one rank of a gang.

use crate::outbox::Outbox;
use crate::panic;
use evoring_jobs::calls::{self, TrainCall};
use evoring_kernels::KernelError;
use evoring_kernels::training::{
    ExchangeError, GradientExchange, SingleProcess, TrainFiles, TrainObserver, exchange_length,
    run_rank,
};
use evoring_protocol::Step;
use evoring_protocol::executor::ExecutorReport;
use evoring_protocol::limits::RESULT_BYTES;
use evoring_protocol::work::{Assignment, FailureCause, Kernel, TrainingProgress, WorkError};
use evoring_worker::collective::shm::{Settings, Shm};
use evoring_worker::collective::{Collective, CollectiveError};
use evoring_worker::text::bounded;
use std::cell::Cell;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Progress is for people: five times a second is enough.
const PROGRESS_TIME: Duration = Duration::from_millis(200);

/// One member of a roster.
#[derive(Debug, Clone, Copy)]
pub struct Member {
    /// Its rank.
    pub rank: u32,
    /// Number of members.
    pub world_size: u32,
    /// Known to the members only.
    pub secret: [u8; 32],
}

/// A rank to run.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// Number of this piece of work.
    pub task: u64,
    /// What to run.
    pub assignment: &'a Assignment,
    /// Files of the inputs.
    pub inputs: &'a [PathBuf],
    /// Who this is.
    pub member: Member,
    /// Checkpoint to go on from.
    pub resume: Option<&'a (Step, PathBuf)>,
}

/// A rank's result and the files that belong to it.
type Finished = (Vec<u8>, Vec<PathBuf>);

/// Runs the rank and reports its end; the message of a panic.
pub fn run(
    piece: Piece<'_>,
    scratch: &Path,
    outbox: &Outbox,
    stop: &Arc<AtomicBool>,
) -> Result<(), String> {
    let Piece {
        task,
        member,
        assignment,
        ..
    } = piece;
    let folder = scratch.join(format!("task-{task}"));
    let mut observer = Observer::new(task, outbox, stop);
    let result = panic::catch(|| train(piece, &folder, &mut observer));
    let (result, panicked) = match result {
        Ok(result) => (result, Ok(())),
        Err(message) => {
            let error = WorkError {
                message: format!("panic: {message}"),
                cause: FailureCause::Failed,
            };
            (Err(error), Err(message))
        }
    };
    let mut kept = observer.files;
    kept.extend(result.iter().flat_map(|(_, blobs)| blobs.iter().cloned()));
    // Before the end is reported, so that the agent finds what the report says and nothing else.
    clean(scratch, &folder, &kept);
    match result {
        Ok((result, blobs)) => {
            outbox.report(ExecutorReport::RankFinished {
                task,
                result,
                blobs,
            });
        }
        Err(error) => {
            let place = format!(
                "job {}: {}: rank {} of {}",
                assignment.job, assignment.stage, member.rank, member.world_size
            );
            let error = bounded(WorkError {
                message: format!("{place}: {}", error.message),
                cause: error.cause,
            });
            eprintln!("executor: {}", error.message);
            if panicked.is_err() {
                outbox.report(ExecutorReport::Panicked { task });
            }
            outbox.report(ExecutorReport::RankFailed { task, error });
        }
    }
    panicked
}

fn train(
    piece: Piece<'_>,
    folder: &Path,
    observer: &mut Observer<'_>,
) -> Result<Finished, WorkError> {
    let fail = |error: KernelError| WorkError::from(&error);
    let Piece {
        assignment, member, ..
    } = piece;
    if assignment.kernel != Kernel::TrainClassify {
        return Err(fail(KernelError::Unfit(format!(
            "{} is not a gang's kernel",
            assignment.kernel.name()
        ))));
    }
    let call: TrainCall = calls::decode(&assignment.payload).map_err(|e| fail(e.into()))?;
    std::fs::create_dir_all(folder)
        .map_err(KernelError::io(folder))
        .map_err(fail)?;
    let resume = piece.resume.map(|(step, path)| (step.0, path.as_path()));
    observer.outbox.report(ExecutorReport::Log {
        task: piece.task,
        line: starting(piece),
    });
    let cause = Rc::new(Cell::new(None));
    let mut exchange = exchange(&call, member, observer.stop, &cause)?;
    let files = TrainFiles {
        inputs: piece.inputs,
        resume,
        scratch: folder,
    };
    let outcome = run_rank(&call, files, &mut *exchange, observer);
    let (result, weights) = outcome.map_err(|error| stopped(error, cause.get()))?;
    observer.last();
    let result = calls::encode(&result);
    if result.len() > RESULT_BYTES {
        let message = format!("a result of {} bytes, at most {RESULT_BYTES}", result.len());
        return Err(WorkError {
            message,
            cause: FailureCause::Final,
        });
    }
    // All ranks wrote the same bytes; one copy is enough.
    Ok((
        result,
        if member.rank == 0 {
            vec![weights]
        } else {
            Vec::new()
        },
    ))
}

/// The failure of a training, with the cause of the sum that ended it, if one did.
fn stopped(error: KernelError, cause: Option<FailureCause>) -> WorkError {
    let error_of_kernel = WorkError::from(&error);
    match (error, cause) {
        (KernelError::Stopped { .. }, Some(cause)) => WorkError {
            cause,
            ..error_of_kernel
        },
        _ => error_of_kernel,
    }
}

fn starting(piece: Piece<'_>) -> String {
    let Piece {
        member,
        assignment,
        resume,
        ..
    } = piece;
    let step = resume.map_or(0, |(step, _)| step.0);
    format!(
        "{}: rank {} of {} starts at step {step}",
        assignment.stage, member.rank, member.world_size
    )
}

/// How this rank sums with the others; a failure of a sum leaves its cause in `cause`.
fn exchange(
    call: &TrainCall,
    member: Member,
    stop: &Arc<AtomicBool>,
    cause: &Rc<Cell<Option<FailureCause>>>,
) -> Result<Box<dyn GradientExchange>, WorkError> {
    let length = exchange_length(call).map_err(|error| WorkError::from(&error))?;
    // A gang of one needs no shared memory.
    if member.world_size == 1 && member.rank == 0 && call.shards.is_power_of_two() {
        return Ok(Box::new(SingleProcess::new(call.shards, length)));
    }
    let settings = Settings {
        rank: member.rank,
        world_size: member.world_size,
        stop: stop.clone(),
        ..Settings::new(call.shards, length, member.secret)
    };
    let collective = Shm::join(&settings).map_err(|error| WorkError {
        cause: cause_of(&error),
        message: error.to_string(),
    })?;
    let cause = Rc::clone(cause);
    Ok(Box::new(Between { collective, cause }))
}

/// What is to blame for a collective that did not come about.
fn cause_of(error: &CollectiveError) -> FailureCause {
    if error.can_retry() {
        FailureCause::Lost
    } else {
        FailureCause::Final
    }
}

/// A collective as the kernels see it. The kernels know only the words of a failure, so its cause
/// is kept beside them.
struct Between<C> {
    collective: C,
    cause: Rc<Cell<Option<FailureCause>>>,
}

impl<C: Collective> GradientExchange for Between<C> {
    fn shards(&self) -> Range<u32> {
        self.collective.shards()
    }

    fn shard_buffer(&mut self, shard: u32) -> &mut [f32] {
        self.collective.shard_buffer(shard)
    }

    fn reduce(&mut self) -> Result<&[f32], ExchangeError> {
        let cause = &self.cause;
        self.collective.all_reduce().map_err(|error| {
            cause.set(Some(cause_of(&error)));
            ExchangeError(error.to_string())
        })
    }

    fn is_first_rank(&self) -> bool {
        self.collective.rank() == 0
    }
}

/// Passes on what a training tells.
struct Observer<'a> {
    task: u64,
    outbox: &'a Outbox,
    stop: &'a Arc<AtomicBool>,
    /// When progress was reported last.
    told: Option<Instant>,
    /// What was not reported yet: the last step, and losses and steps since the last report.
    open: Option<(TrainingProgress, f64, u32)>,
    /// Files that belong to the agent now.
    files: Vec<PathBuf>,
}

impl<'a> Observer<'a> {
    fn new(task: u64, outbox: &'a Outbox, stop: &'a Arc<AtomicBool>) -> Self {
        Self {
            task,
            outbox,
            stop,
            told: None,
            open: None,
            files: Vec::new(),
        }
    }

    /// Reports what is open.
    fn last(&mut self) {
        if let Some((progress, losses, steps)) = self.open.take() {
            let progress = TrainingProgress {
                loss: losses / f64::from(steps),
                ..progress
            };
            self.outbox.report(ExecutorReport::Progress {
                task: self.task,
                progress,
            });
            self.told = Some(Instant::now());
        }
    }
}

impl TrainObserver for Observer<'_> {
    fn progress(&mut self, progress: TrainingProgress) {
        let (losses, steps) = self
            .open
            .as_ref()
            .map_or((0.0, 0), |(_, losses, steps)| (*losses, *steps));
        let is_last = progress.step >= progress.steps;
        self.open = Some((progress.clone(), losses + progress.loss, steps + 1));
        if is_last || self.told.is_none_or(|told| told.elapsed() >= PROGRESS_TIME) {
            self.last();
        }
    }

    fn checkpoint(&mut self, step: u64, path: &Path) -> Result<(), KernelError> {
        self.files.push(path.to_owned());
        let (task, step, path) = (self.task, Step(step), path.to_owned());
        self.outbox
            .report(ExecutorReport::Checkpoint { task, step, path });
        Ok(())
    }

    fn should_stop(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// Removes what is left in a task's folder, but not the files that belong to the agent now; and
/// folders, also of earlier tasks, from which the agent has taken everything.
fn clean(scratch: &Path, folder: &Path, kept: &[PathBuf]) {
    // What cannot be removed takes room until the agent empties the folder at the next start.
    for path in entries(folder).filter(|path| !kept.contains(path)) {
        let _ = std::fs::remove_file(path);
    }
    for path in entries(scratch) {
        // It fails for folders that hold something.
        let _ = std::fs::remove_dir(path);
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A gang whose next sum fails.
    struct Failing(Option<CollectiveError>);

    impl Failing {
        fn fail<T>(&mut self) -> Result<T, CollectiveError> {
            Err(self.0.take().unwrap())
        }
    }

    impl Collective for Failing {
        fn rank(&self) -> u32 {
            1
        }

        fn world_size(&self) -> u32 {
            2
        }

        fn shards(&self) -> Range<u32> {
            0..1
        }

        fn shard_buffer(&mut self, _: u32) -> &mut [f32] {
            &mut []
        }

        fn all_reduce(&mut self) -> Result<&[f32], CollectiveError> {
            self.fail()
        }

        fn reduce_scatter(&mut self) -> Result<(Range<usize>, &[f32]), CollectiveError> {
            self.fail()
        }

        fn all_gather(&mut self, _: &[f32], _: &mut [f32]) -> Result<(), CollectiveError> {
            self.fail()
        }

        fn broadcast(&mut self, _: u32, _: &mut [f32]) -> Result<(), CollectiveError> {
            self.fail()
        }

        fn barrier(&mut self) -> Result<(), CollectiveError> {
            self.fail()
        }
    }

    /// Claim: members that do not agree stay so, whatever roster comes; a lost member does not.
    /// Method: a sum that fails in both ways, passed on as kernels do.
    #[test]
    fn a_refused_sum_is_final() {
        let lost = CollectiveError::Aborted {
            reason: "rank 0 is gone".to_owned(),
        };
        let refused = CollectiveError::Refused("another length".to_owned());
        for (error, expected) in [(lost, FailureCause::Lost), (refused, FailureCause::Final)] {
            let cause = Rc::new(Cell::new(None));
            let mut between = Between {
                collective: Failing(Some(error)),
                cause: Rc::clone(&cause),
            };
            let message = between.reduce().unwrap_err().0;
            let error = stopped(KernelError::Stopped { step: 3, message }, cause.get());
            assert_eq!(error.cause, expected, "{error}");
        }
        let unfit = KernelError::Io {
            path: PathBuf::from("file"),
            source: std::io::Error::other("broken"),
        };
        let error = stopped(unfit, None);
        assert_eq!(error.cause, FailureCause::Failed);
    }
}
