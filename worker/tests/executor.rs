//! The real executor on the real data: what an agent says to it and hears from it.
#![expect(clippy::unwrap_used, reason = "tests")]

use command_fds::{CommandFdExt as _, FdMapping};
use evoring_jobs::calls::{self, PruneEvaluateCall, Recipe, Score, TrainCall, TrainResult};
use evoring_jobs::data::{DataSource, DataSpec, Part};
use evoring_jobs::evolution::Chromosome;
use evoring_jobs::network::NetworkSpec;
use evoring_protocol::codec::{read_frame, write_frame};
use evoring_protocol::executor::{ExecutorCommand, ExecutorReport};
use evoring_protocol::numerics::EXECUTOR_ENVIRONMENT;
use evoring_protocol::work::{Assignment, ItemOutcome, Kernel};
use evoring_protocol::{DemandId, Digest, ItemIndex, JobId, Rank, Step};
use std::io::PipeWriter;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// An executor as its agent holds it.
struct Executor {
    child: Child,
    socket: UnixStream,
    lifeline: Option<PipeWriter>,
    scratch: TempDir,
}

impl Executor {
    fn start() -> Self {
        let scratch = TempDir::new().unwrap();
        let (socket, theirs) = UnixStream::pair().unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let (lifeline, writer) = std::io::pipe().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_evoring-executor"));
        command
            .args(["--slot", "0", "--scratch"])
            .arg(scratch.path());
        command.envs(EXECUTOR_ENVIRONMENT).stdin(Stdio::null());
        let mappings = vec![
            FdMapping {
                parent_fd: OwnedFd::from(theirs),
                child_fd: 3,
            },
            FdMapping {
                parent_fd: OwnedFd::from(lifeline),
                child_fd: 4,
            },
        ];
        let child = command.fd_mappings(mappings).unwrap().spawn().unwrap();
        // The mappings still hold the executor's ends; without this its socket would never end.
        drop(command);
        let mut executor = Self {
            child,
            socket,
            lifeline: Some(writer),
            scratch,
        };
        assert!(
            matches!(executor.next(), ExecutorReport::Ready { numerics } if numerics.0.contains("avx2"))
        );
        executor
    }

    fn send(&mut self, command: &ExecutorCommand) {
        write_frame(&mut self.socket, command).unwrap();
    }

    fn next(&mut self) -> ExecutorReport {
        read_frame(&mut self.socket)
            .unwrap()
            .expect("a report, not the end of the socket")
    }

    /// Reports up to and with the first that ends a piece of work.
    fn until_end(&mut self) -> Vec<ExecutorReport> {
        let mut reports = Vec::new();
        loop {
            reports.push(self.next());
            let last = reports.last().unwrap();
            if matches!(
                last,
                ExecutorReport::ItemsDone { .. }
                    | ExecutorReport::RankFinished { .. }
                    | ExecutorReport::RankFailed { .. }
            ) {
                return reports;
            }
        }
    }

    /// Closes the socket as an agent does that needs it no more.
    fn dismiss(mut self) -> ExitStatus {
        self.socket.shutdown(std::net::Shutdown::Both).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn data() -> DataSpec {
    DataSpec {
        source: DataSource::Named("fashion-mnist".to_owned()),
        shape: [1, 28, 28],
        classes: 10,
        split_seed: 7,
        fitness_images: 128,
        selection_images: 0,
        train_images: Some(256),
        digest: None,
    }
}

fn train_call(checkpoint_steps: u32) -> TrainCall {
    let recipe = Recipe {
        epochs: 1,
        batch: 32,
        learning_rate: 0.05,
        warmup_steps: 2,
        momentum: 0.9,
        weight_decay: 1e-4,
        flip: false,
        shift_pixels: 1,
    };
    let network = NetworkSpec::lenet(10);
    TrainCall {
        network,
        chromosome: None,
        data: data(),
        recipe,
        seed: 3,
        shards: 4,
        checkpoint_steps,
    }
}

fn assignment(kernel: Kernel, payload: Vec<u8>, inputs: Vec<Digest>) -> Assignment {
    Assignment {
        job: JobId(1),
        demand: DemandId(1),
        stage: "test".to_owned(),
        kernel,
        payload,
        inputs,
    }
}

fn run_rank(
    call: &TrainCall,
    task: u64,
    rank: u32,
    world_size: u32,
    secret: u8,
    resume: Option<(Step, PathBuf)>,
) -> ExecutorCommand {
    let assignment = assignment(Kernel::TrainClassify, calls::encode(call), Vec::new());
    let (rank, secret) = (Rank(rank), [secret; 32]);
    ExecutorCommand::RunRank {
        task,
        assignment,
        inputs: Vec::new(),
        rank,
        world_size,
        secret,
        resume,
    }
}

fn finished(reports: &[ExecutorReport]) -> (TrainResult, Vec<PathBuf>) {
    match reports.last() {
        Some(ExecutorReport::RankFinished { result, blobs, .. }) => {
            (calls::decode(result).unwrap(), blobs.clone())
        }
        other => panic!("expected the rank's result, got {other:?}"),
    }
}

/// Bits of everything in a result; floats that print alike may differ.
fn bits(result: &TrainResult) -> (Digest, u64, u64) {
    (result.weights, result.steps, result.final_loss.to_bits())
}

/// Claim: one executor trains, reports checkpoints and weights in files that its messages describe,
/// evaluates a chromosome on those weights, and ends with its socket.
#[test]
fn trains_and_evaluates() {
    let mut executor = Executor::start();
    let call = train_call(3);
    executor.send(&run_rank(&call, 1, 0, 1, 1, None));
    let reports = executor.until_end();
    let (result, blobs) = finished(&reports);
    assert_eq!(result.steps, 8);
    assert_eq!(blobs.len(), 1);
    assert!(blobs[0].starts_with(executor.scratch.path()));
    assert_eq!(
        Digest::of(&std::fs::read(&blobs[0]).unwrap()),
        result.weights
    );
    let progress = reports.iter().rev().find_map(|report| match report {
        ExecutorReport::Progress { progress, .. } => Some(progress.clone()),
        _ => None,
    });
    assert_eq!(
        progress.map(|progress| (progress.step, progress.steps)),
        Some((8, 8))
    );
    let checkpoints = reports.iter().filter_map(|report| match report {
        ExecutorReport::Checkpoint { step, path, .. } => Some((*step, path.clone())),
        _ => None,
    });
    let checkpoints: Vec<(Step, PathBuf)> = checkpoints.collect();
    assert_eq!(
        checkpoints
            .iter()
            .map(|(step, _)| step.0)
            .collect::<Vec<u64>>(),
        [3, 6]
    );
    // From a checkpoint on, the same bits come out.
    executor.send(&run_rank(&call, 2, 0, 1, 1, Some(checkpoints[0].clone())));
    let (resumed, _) = finished(&executor.until_end());
    assert_eq!(bits(&resumed), bits(&result));

    let evaluate = PruneEvaluateCall {
        network: call.network.clone(),
        data: data(),
        part: Part::Fitness,
    };
    let all = Chromosome::ones(call.network.genes());
    let items: Vec<(ItemIndex, Vec<u8>)> = vec![
        (ItemIndex(4), calls::encode(&all)),
        (ItemIndex(9), calls::encode(&all)),
        (ItemIndex(2), vec![0xff]),
    ];
    let assignment = assignment(
        Kernel::PruneEvaluate,
        calls::encode(&evaluate),
        vec![result.weights],
    );
    executor.send(&ExecutorCommand::RunItems {
        task: 3,
        assignment,
        inputs: blobs,
        items,
    });
    let reports = executor.until_end();
    assert_eq!(reports.last(), Some(&ExecutorReport::ItemsDone { task: 3 }));
    let outcomes = reports.into_iter().filter_map(|report| match report {
        ExecutorReport::Items { task: 3, outcomes } => Some(outcomes),
        _ => None,
    });
    let outcomes: Vec<ItemOutcome> = outcomes.flatten().collect();
    assert_eq!(
        outcomes
            .iter()
            .map(|outcome| outcome.index.0)
            .collect::<Vec<u32>>(),
        [4, 9, 2]
    );
    let score: Score = calls::decode(outcomes[0].result.as_ref().unwrap()).unwrap();
    assert!(
        score.total == 128 && score.correct > 12,
        "better than chance: {score:?}"
    );
    assert_eq!(outcomes[0].result, outcomes[1].result);
    assert!(
        !outcomes[2].result.as_ref().unwrap_err().cause.can_retry(),
        "bytes that are no chromosome stay none"
    );
    assert!(executor.dismiss().success());
}

/// Claim: two ranks in two processes give the bits of one, and only the first gives files. When one
/// of them is killed, the other gives up at once with an error that allows another attempt; and
/// the same processes serve the next roster.
#[test]
fn two_ranks_give_the_bits_of_one_and_notice_a_death() {
    let (mut first, mut second) = (Executor::start(), Executor::start());
    let call = train_call(1000);
    first.send(&run_rank(&call, 1, 0, 1, 1, None));
    let (alone, _) = finished(&first.until_end());
    first.send(&run_rank(&call, 2, 0, 2, 2, None));
    second.send(&run_rank(&call, 1, 1, 2, 2, None));
    let (of_first, files) = finished(&first.until_end());
    let (of_second, no_files) = finished(&second.until_end());
    assert_eq!(
        (bits(&of_first), bits(&of_second)),
        (bits(&alone), bits(&alone))
    );
    assert_eq!((files.len(), no_files.len()), (1, 0));

    // Long enough not to end by itself.
    let mut long = call.clone();
    long.recipe.epochs = 1000;
    first.send(&run_rank(&long, 3, 0, 2, 3, None));
    second.send(&run_rank(&long, 2, 1, 2, 3, None));
    while !matches!(first.next(), ExecutorReport::Progress { .. }) {}
    second.child.kill().unwrap();
    let begin = std::time::Instant::now();
    let reports = first.until_end();
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
    assert!(
        matches!(reports.last(), Some(ExecutorReport::RankFailed { task: 3, error }) if error.cause.can_retry() && error.message.contains("rank 1 is gone")),
        "{reports:?}"
    );
    // The survivor is ready for the next roster.
    first.send(&run_rank(&call, 4, 0, 1, 4, None));
    assert_eq!(bits(&finished(&first.until_end()).0), bits(&alone));
}

/// Claim: a stop ends its own piece of work only, also while a rank waits for members; what is
/// left of a stopped training does not stay on the disk.
#[test]
fn stops_what_it_is_told_to_stop() {
    let mut executor = Executor::start();
    let call = train_call(1000);
    // The other member never comes.
    executor.send(&run_rank(&call, 5, 0, 2, 5, None));
    executor.send(&ExecutorCommand::Stop { task: 4 });
    assert!(matches!(
        executor.next(),
        ExecutorReport::Log { task: 5, .. }
    ));
    let begin = std::time::Instant::now();
    executor.send(&ExecutorCommand::Stop { task: 5 });
    let reports = executor.until_end();
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
    assert!(
        matches!(reports.last(), Some(ExecutorReport::RankFailed { task: 5, error }) if error.cause.can_retry()),
        "{reports:?}"
    );
    // A later one of another number runs to its end.
    executor.send(&run_rank(&call, 6, 0, 1, 6, None));
    finished(&executor.until_end());
    assert!(!executor.scratch.path().join("task-5").exists());
}

/// Claim: an executor ends with its agent, whatever it does. Method: the lifeline's other end is
/// closed in the middle of a long training; the socket stays open.
#[test]
fn ends_with_its_agent() {
    let mut executor = Executor::start();
    let mut call = train_call(1000);
    call.recipe.epochs = 1000;
    executor.send(&run_rank(&call, 1, 0, 1, 7, None));
    while !matches!(executor.next(), ExecutorReport::Progress { .. }) {}
    drop(executor.lifeline.take());
    assert!(!executor.child.wait().unwrap().success());
}

/// Claim: without its two descriptors it says who starts executors, and fails.
#[test]
fn explains_how_it_is_started() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evoring-executor"));
    let null = |child_fd| FdMapping {
        parent_fd: OwnedFd::from(std::fs::File::open("/dev/null").unwrap()),
        child_fd,
    };
    command.fd_mappings(vec![null(3), null(4)]).unwrap();
    let output = command
        .args(["--slot", "0", "--scratch", "."])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && message.contains("evoring-worker"),
        "{message}"
    );
}
