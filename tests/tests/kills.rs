//! Claim: whatever process is killed in whatever stage, the job completes with the same bytes.
//!
//! Method: one undisturbed run is the reference; each scenario runs the same job on two workers,
//! kills the victim with SIGKILL while the named stage runs and the victim holds a rank or a lease
//! (shown by the events, see `evidence`), and compares `population.json`, `model.safetensors` and
//! `report.json`'s `result`.

use evoring_tests::cluster::{Cluster, RepeatableBytes, alone};
use evoring_tests::job::PruneJob;
use evoring_tests::scenario::{Victim, run_with_kill};
use std::sync::OnceLock;

/// Long enough in every stage for a kill to hit, short enough for a test.
fn job() -> PruneJob {
    PruneJob {
        epochs: 10,
        finetune_epochs: 6,
        generations: 6,
        ..PruneJob::default()
    }
}

fn undisturbed() -> &'static RepeatableBytes {
    static REFERENCE: OnceLock<RepeatableBytes> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        let cluster = Cluster::start(2);
        let job = cluster.submit(&job().text());
        let view = cluster.wait_for_end(job);
        assert_eq!(view["status"], "finished", "{view}\n{}", cluster.logs());
        cluster.repeatable_bytes(job)
    })
}

fn check(stage: &str, victim: Victim) {
    let _alone = alone();
    let reference = undisturbed();
    let (cluster, job) = run_with_kill(&self::job().text(), 2, stage, victim);
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
