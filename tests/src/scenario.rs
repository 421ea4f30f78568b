//! Killing processes in a named stage, and proof from the events that the kill hit.
//!
//! A kill counts only if, between the stage's start and end, an event says that the victim held a
//! rank or an item when it died, and a later one that a new attempt was made (or, for a
//! coordinator, that a new process took office). As a victim may be between two leases when the
//! signal arrives, it is killed again until a kill counts; if the stage ends first, the test fails.

use crate::cluster::{Cluster, executors, kill, stage_of, wait_for};
use evoring_protocol::event::{Event, EventKind};

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

/// Most kills of one scenario; a fifth death within a minute would end the cluster.
const KILLS: usize = 4;

/// Runs `text` on `workers` workers, kills `victim` in `stage` until a kill counts, and returns
/// the cluster and the finished job's number.
///
/// # Panics
/// If no kill counts before the stage ends, or the job does not finish.
pub fn run_with_kill(text: &str, workers: usize, stage: &str, victim: Victim) -> (Cluster, u64) {
    let cluster = Cluster::start(workers);
    let job = cluster.submit(text);
    cluster.wait_for(&format!("work in stage {stage}"), || {
        works_in(&cluster.events()?, stage).then_some(())
    });
    let mut kills = 0;
    loop {
        let seen = cluster.events().map_or(0, |events| events.len());
        strike(&cluster, victim, kills);
        kills += 1;
        let counts = cluster.wait_for("the consequence of a kill", || {
            let events = cluster.events()?;
            let consequence =
                events.len() > seen && events[seen..].iter().any(is_consequence(victim));
            consequence.then(|| kill_counts(&events, stage, victim))
        });
        if counts {
            break;
        }
        let events = cluster.wait_for("events", || cluster.events());
        let is_over = events
            .iter()
            .any(|e| matches!(&e.kind, EventKind::StageFinished { stage: s, .. } if s == stage));
        assert!(
            kills < KILLS && !is_over,
            "{victim:?} was killed {kills} times in stage {stage}, never while it held work\n{}",
            cluster.logs()
        );
    }
    let view = cluster.wait_for_end(job);
    assert_eq!(view["status"], "finished", "{view}\n{}", cluster.logs());
    let events = cluster.wait_for("events", || cluster.events());
    assert!(
        kill_counts(&events, stage, victim),
        "the events no longer show the kill"
    );
    assert!(
        was_tried_again(&events, stage, victim),
        "no attempt was made again after {victim:?} died in {stage}"
    );
    (cluster, job)
}

/// Whether work of the stage was handed out.
fn works_in(events: &[Event], stage: &str) -> bool {
    let mut in_stage = events.iter().filter(|e| stage_of(&e.kind) == Some(stage));
    in_stage.any(|e| {
        matches!(
            e.kind,
            EventKind::LeaseGranted { .. } | EventKind::RosterCommitted { .. }
        )
    })
}

fn strike(cluster: &Cluster, victim: Victim, kills: usize) {
    let coordinator =
        || i64::from(wait_for(|| cluster.coordinator_process()).expect("a coordinator"));
    // Workers take turns, so that no one reaches the limit of deaths in a minute.
    let worker = || {
        wait_for(|| {
            let workers = cluster.workers()?;
            let worker = workers.get(kills % workers.len().max(1))?.clone();
            let is_busy = worker["busy"].as_u64().is_some_and(|busy| busy > 0);
            let is_whole =
                worker["connected"] == true && executors(&worker).iter().all(|p| *p != 0);
            (is_whole && is_busy).then_some(worker)
        })
        .expect("a connected worker")
    };
    match victim {
        Victim::Agent => kill(worker()["process"].as_i64().expect("a process id")),
        Victim::Executor => kill(executors(&worker())[0]),
        Victim::Coordinator => kill(coordinator()),
        Victim::AgentAndCoordinator => {
            let (agent, coordinator) = (
                worker()["process"].as_i64().expect("a process id"),
                coordinator(),
            );
            kill(coordinator);
            kill(agent);
        }
    }
}

/// Recognises the event that must follow a kill.
fn is_consequence(victim: Victim) -> impl Fn(&Event) -> bool {
    move |event| match victim {
        Victim::Agent => matches!(event.kind, EventKind::WorkerLost { .. }),
        Victim::Executor => matches!(event.kind, EventKind::ExecutorExited { .. }),
        Victim::Coordinator => matches!(event.kind, EventKind::CoordinatorStarted { .. }),
        // The new leader either runs something again or goes on with something new.
        Victim::AgentAndCoordinator => matches!(
            event.kind,
            EventKind::ItemsRetried { .. }
                | EventKind::RosterBroken { .. }
                | EventKind::RosterCommitted { .. }
                | EventKind::LeaseGranted { .. }
                | EventKind::StageFinished { .. }
        ),
    }
}

/// Whether the events show that the victim died within the stage while it held work.
fn kill_counts(events: &[Event], stage: &str, victim: Victim) -> bool {
    within(events, stage).iter().any(|event| match &event.kind {
        EventKind::WorkerLost {
            held_items,
            held_ranks,
            ..
        } => victim == Victim::Agent && held_items + held_ranks > 0,
        EventKind::ExecutorExited {
            held_items,
            held_ranks,
            ..
        } => victim == Victim::Executor && held_items + held_ranks > 0,
        EventKind::CoordinatorStarted { .. } => {
            victim == Victim::Coordinator && works_in(events, stage)
        }
        // The agent died with the old leader, who could tell nobody; what it held is run again.
        EventKind::ItemsRetried { stage: s, .. } => {
            victim == Victim::AgentAndCoordinator && s == stage
        }
        // The other ranks notice a death before the coordinator does, and break the roster.
        EventKind::RosterBroken { .. } => {
            matches!(victim, Victim::Agent | Victim::AgentAndCoordinator) && is_loss(event, stage)
        }
        _ => false,
    })
}

/// Whether an attempt was made again after the death (a killed coordinator needs none: its
/// workers go on).
fn was_tried_again(events: &[Event], stage: &str, victim: Victim) -> bool {
    let events = within(events, stage);
    let items = |event: &Event| matches!(&event.kind, EventKind::ItemsRetried { stage: s, .. } if s == stage);
    let lost = |event: &&Event| is_loss(event, stage);
    let is_formed_again = |broken: &Event| {
        events
            .iter()
            .any(|event| match (&event.kind, &broken.kind) {
                (
                    EventKind::RosterCommitted { demand, roster, .. },
                    EventKind::RosterBroken {
                        demand: d,
                        roster: r,
                        ..
                    },
                ) => demand == d && roster > r,
                _ => false,
            })
    };
    victim == Victim::Coordinator
        || events.iter().any(items)
        || events.iter().filter(lost).any(is_formed_again)
}

/// Whether a gang of the stage lost a member (and did not merely grow).
fn is_loss(event: &Event, stage: &str) -> bool {
    matches!(&event.kind, EventKind::RosterBroken { stage: s, reason, .. }
        if s == stage && !reason.starts_with("the gang grows"))
}

/// Events from the start of a stage to its end.
fn within<'a>(events: &'a [Event], stage: &str) -> &'a [Event] {
    let begin = events
        .iter()
        .position(|e| matches!(&e.kind, EventKind::StageStarted { stage: s, .. } if s == stage));
    let end = events
        .iter()
        .position(|e| matches!(&e.kind, EventKind::StageFinished { stage: s, .. } if s == stage));
    begin.map_or(&[], |begin| {
        &events[begin..end.unwrap_or(events.len()).max(begin)]
    })
}
