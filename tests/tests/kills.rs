//! Claim: whatever process is killed in whatever stage, the job completes with the same bytes.
//!
//! Method: one undisturbed run is the reference; each scenario runs the same job on two workers,
//! kills the victim with SIGKILL while the named stage runs and the victim holds a rank or a lease
//! (shown by the events, see `evidence`), and compares `population.json`, `model.safetensors` and
//! `report.json`'s `result`.

use evoring_tests::cluster::alone;
use evoring_tests::job::PruneJob;
use evoring_tests::scenario::{Victim, run_with_kill, undisturbed};

fn job() -> PruneJob {
    PruneJob::to_be_struck(6)
}

fn check(stage: &str, victim: Victim) {
    let _alone = alone();
    let reference = undisturbed(&job());
    let (cluster, job) = run_with_kill(&job().text(), 2, stage, victim);
    cluster
        .repeatable_bytes(job)
        .assert_equals(reference, &format!("{victim:?} killed in {stage}"));
}

macro_rules! kill_tests {
    ($($name:ident: $stage:literal, $victim:ident;)*) => {
        $(#[test]
        fn $name() {
            check($stage, Victim::$victim);
        })*
    };
}

kill_tests! {
    agent_killed_in_train: "train", Agent;
    agent_killed_in_search: "search", Agent;
    agent_killed_in_finetune: "finetune", Agent;
    executor_killed_in_train: "train", Executor;
    executor_killed_in_search: "search", Executor;
    executor_killed_in_finetune: "finetune", Executor;
    coordinator_killed_in_train: "train", Coordinator;
    coordinator_killed_in_search: "search", Coordinator;
    coordinator_killed_in_finetune: "finetune", Coordinator;
    coordinator_killed_in_evaluate: "evaluate", Coordinator;
    agent_and_coordinator_killed_in_train: "train", AgentAndCoordinator;
    agent_and_coordinator_killed_in_search: "search", AgentAndCoordinator;
    agent_and_coordinator_killed_in_finetune: "finetune", AgentAndCoordinator;
}
