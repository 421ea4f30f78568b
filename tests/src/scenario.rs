//! Killing processes in a named stage, and proof from the events that the kill hit.
//!
//! A kill counts only if, between the stage's start and end, the events say that the victim held a
//! rank or an item when it died (see `evidence`), and at the end that a new attempt was made (or,
//! for a coordinator, that a new process took office and the work went on). As a victim may be
//! between two leases when the signal arrives, it is killed again until a kill counts; if the stage
//! ends first, the test fails.

use crate::cluster::{Cluster, RepeatableBytes, executors, kill, wait_for};
use crate::evidence::{
    assert_nothing_recorded_is_repeated, is_end, is_work, kill_counts, was_tried_again,
};
use crate::job::PruneJob;
use evoring_protocol::WorkerId;
use evoring_protocol::event::{Event, EventKind};
use serde_json::Value;
use std::sync::OnceLock;

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// An agent; its executors go with it.
    Agent,
    /// An executor; its agent stays.
    Executor,
    /// The coordinator, started again in the same folder.
    Coordinator,
    /// An agent and the coordinator at once.
    AgentAndCoordinator,
}

/// The worker that was struck, and its processes at that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Struck {
    /// Its name.
    pub worker: WorkerId,
    /// Process of its agent.
    pub agent: i64,
    /// Process of its only executor.
    pub executor: i64,
    /// Number of the last event that had happened for certain before the signal.
    pub seen: u64,
}

/// Most kills of one scenario; a fifth death within a minute would end the cluster.
const KILLS: usize = 4;

/// What `job` makes on two workers when nothing happens to it; run once for each program of tests.
///
/// # Panics
/// If it was asked for another job before, or the job does not finish.
pub fn undisturbed(job: &PruneJob) -> &'static RepeatableBytes {
    static REFERENCE: OnceLock<(PruneJob, RepeatableBytes)> = OnceLock::new();
    let (made_of, bytes) = REFERENCE.get_or_init(|| {
        let cluster = Cluster::start(2);
        let number = cluster.submit(&job.text());
        let view = cluster.wait_for_end(number);
        assert_eq!(view["status"], "finished", "{view}\n{}", cluster.logs());
        (job.clone(), cluster.repeatable_bytes(number))
    });
    assert_eq!(made_of, job, "one reference for each program");
    bytes
}

/// Runs `text` on `workers` workers of one slot, kills `victim` in `stage` until a kill counts, and
/// returns the cluster and the finished job's number.
///
/// # Panics
/// If no kill counts before the stage ends, or the job does not finish.
pub fn run_with_kill(text: &str, workers: usize, stage: &str, victim: Victim) -> (Cluster, u64) {
    let cluster = Cluster::start(workers);
    let job = cluster.submit(text);
    cluster.wait_for(&format!("work in stage {stage}"), || {
        let events = cluster.events()?;
        events.iter().any(|e| is_work(e, stage)).then_some(())
    });
    let mut struck = Vec::new();
    for kills in 1.. {
        let seen = cluster.wait_for("events", || cluster.events()).len();
        struck.extend(strike(&cluster, victim, kills));
        let (counts, events) = cluster.wait_for("the consequence of a kill", || {
            let events = cluster.events()?;
            verdict(&events, seen, stage, victim, &struck).map(|counts| (counts, events))
        });
        if counts {
            break;
        }
        assert!(
            kills < KILLS && !events.iter().any(|e| is_end(e, stage)),
            "{victim:?} was killed {kills} times in stage {stage}, never while it held work\n{}",
            cluster.logs()
        );
    }
    let view = cluster.wait_for_end(job);
    assert_eq!(view["status"], "finished", "{view}\n{}", cluster.logs());
    let events = cluster.wait_for("events", || cluster.events());
    assert!(
        kill_counts(&events, stage, victim, &struck),
        "the events no longer show the kill"
    );
    assert!(
        was_tried_again(&events, stage, victim, &struck),
        "no attempt was made again after {victim:?} died in {stage}"
    );
    assert_nothing_recorded_is_repeated(&events);
    if victim == Victim::Executor {
        assert_agents_live(&cluster, &struck);
    }
    (cluster, job)
}

/// Whether the last kill counts; `None` while that can still turn out.
fn verdict(
    events: &[Event],
    seen: usize,
    stage: &str,
    victim: Victim,
    struck: &[Struck],
) -> Option<bool> {
    if kill_counts(events, stage, victim, struck) {
        return Some(true);
    }
    let later = events.get(seen..)?;
    let is_over = later.iter().any(|e| is_end(e, stage));
    let consequence = later.iter().position(is_consequence(victim))?;
    let mut since = later[consequence..].iter();
    // The stage goes on with something new, so nothing of the victim's is waited for.
    (is_over || since.any(|e| is_work(e, stage))).then_some(false)
}

/// Recognises the event that must follow a kill.
fn is_consequence(victim: Victim) -> impl Fn(&Event) -> bool {
    move |event| match victim {
        Victim::Agent => matches!(event.kind, EventKind::WorkerLost { .. }),
        Victim::Executor => matches!(event.kind, EventKind::ExecutorExited { .. }),
        Victim::Coordinator | Victim::AgentAndCoordinator => {
            matches!(event.kind, EventKind::CoordinatorStarted { .. })
        }
    }
}

/// Kills the victim; returns the worker that was struck, if one was.
fn strike(cluster: &Cluster, victim: Victim, kills: usize) -> Option<Struck> {
    let coordinator =
        || i64::from(wait_for(|| cluster.coordinator_process()).expect("a coordinator"));
    if victim == Victim::Coordinator {
        kill(coordinator());
        return None;
    }
    // Workers take turns, so that no one reaches the limit of deaths in a minute.
    let struck = cluster.wait_for("a worker with work", || {
        let workers = cluster.workers()?;
        let worker = workers.get(kills % workers.len().max(1))?;
        let is_busy = worker["busy"].as_u64().is_some_and(|busy| busy > 0);
        let seen = cluster.events()?.last()?.number;
        whole(worker, seen).filter(|_| is_busy)
    });
    match victim {
        Victim::Executor => kill(struck.executor),
        Victim::Agent => kill(struck.agent),
        Victim::AgentAndCoordinator => {
            kill(coordinator());
            kill(struck.agent);
        }
        Victim::Coordinator => {}
    }
    Some(struck)
}

/// A connected worker's processes, after event `seen`; `None` while one of them is missing.
fn whole(worker: &Value, seen: u64) -> Option<Struck> {
    let [executor] = executors(worker)[..] else {
        return None;
    };
    let agent = worker["process"].as_i64()?;
    (worker["connected"] == true && executor != 0).then(|| Struck {
        worker: WorkerId::new(worker["worker"].as_str().expect("a name")).expect("a valid name"),
        agent,
        executor,
        seen,
    })
}

/// An executor dies alone: its agent is the same process as before, with another executor.
fn assert_agents_live(cluster: &Cluster, struck: &[Struck]) {
    for before in struck {
        let after = cluster.wait_for("the worker with a new executor", || {
            let workers = cluster.workers()?;
            let mut now = workers.iter().filter_map(|w| whole(w, before.seen));
            now.find(|now| now.worker == before.worker)
        });
        assert_eq!(
            after.agent, before.agent,
            "the agent died with its executor"
        );
        assert_ne!(after.executor, before.executor, "the executor did not die");
    }
}
