//! Events, as the event file holds them.

use super::Seed;
use super::parts::worker;
use evoring_protocol::event::{Event, EventKind, GenerationSummary};
use evoring_protocol::{Attempt, DemandId, Digest, ItemIndex, JobId, RosterNumber, SlotIndex};

pub(super) fn summary() -> GenerationSummary {
    GenerationSummary {
        generation: 1,
        generations: 4,
        best_fitness: 0.8125,
        mean_fitness: 0.1 + 0.2,
        best_parameters: 9_000,
        best_accuracy: 0.75,
        evaluated: 10,
        cache_hits: 2,
    }
}

pub(super) fn all_events() -> Vec<Event> {
    let (job, demand, worker) = (JobId(7), DemandId(2), worker());
    let stage = || "search".to_owned();
    let kinds = [
        EventKind::CoordinatorWritable,
        EventKind::GenerationFinished {
            job,
            summary: summary(),
        },
        EventKind::LeaseGranted {
            job,
            demand,
            stage: stage(),
            worker: worker.clone(),
            slot: SlotIndex(0),
            items: vec![(ItemIndex(1), Attempt(1))],
            is_copy: false,
        },
        EventKind::RosterCommitted {
            job,
            demand,
            stage: stage(),
            roster: RosterNumber(1),
            members: vec![(worker, SlotIndex(0))],
            resume_step: 10,
        },
        EventKind::Checkpointed {
            job,
            demand,
            step: 10,
            digest: Digest([0xcc; 32]),
        },
        EventKind::ItemsRecorded {
            job,
            demand,
            stage: stage(),
            items: vec![ItemIndex(1)],
        },
    ];
    let event = |(number, kind)| Event {
        number,
        time_ms: 1_800_000_000_000,
        entry: number.is_multiple_of(2).then_some(number),
        kind,
    };
    (1..).zip(kinds).map(event).collect()
}

pub fn events() -> Vec<Seed> {
    let names = [
        "writable",
        "generation",
        "lease",
        "roster",
        "checkpoint",
        "recorded",
    ];
    let text = |event: &Event| serde_json::to_vec(event).expect("an event is written as JSON");
    names
        .into_iter()
        .zip(all_events().iter().map(text))
        .collect()
}
