//! 14: once nothing fails any more, there is a leader, everybody catches up, and all work ends.

use super::super::hosts::Absence;
use super::super::process::Process;
use super::super::world::{SECOND, World};
use super::{Checked, Violation};

const NAME: &str = "liveness";
/// Whoever asked for so long in vain while nothing failed was forgotten.
const PATIENCE_US: u64 = 30 * SECOND;

fn fails(what: String) -> Checked {
    Err(Violation::new(NAME, what))
}

/// How all processes stand, for people.
fn standing(world: &World) -> String {
    let line = |process: &Process| {
        let consensus = &process.consensus;
        format!(
            "\n  member {} in term {} with a log up to {}, committed {}, applied {}, leads {}, \
             membership {:?}, store {:?}, {} writes wait",
            process.birth.id,
            consensus.term(),
            consensus.last_index(),
            consensus.committed(),
            process.leader.state().applied(),
            consensus.is_leader(),
            consensus.membership(),
            process.broken,
            process.waiting_writes(),
        )
    };
    let processes = world.hosts.iter().filter_map(|host| host.process.as_ref());
    processes.map(line).collect()
}

/// At the end of a run whose last part was calm.
pub(super) fn at_end(world: &World) -> Checked {
    let state = world.watch.log.reference();
    let processes = || world.hosts.iter().filter_map(|host| host.process.as_ref());
    let leaders: Vec<u64> = processes()
        .filter(|process| process.leader.scheduler().is_some())
        .map(|process| process.birth.id)
        .collect();
    if leaders.len() != 1 {
        return fails(format!("{leaders:?} are in office:{}", standing(world)));
    }
    for (&id, member) in state.members() {
        let host = world.host_of(id).and_then(|index| world.hosts.get(index));
        let Some(host) = host.filter(|host| host.process.is_some()) else {
            return fails(format!("member {id} ({}) is not up", member.name));
        };
        let applied = host
            .process
            .as_ref()
            .map_or(0, |p| p.leader.state().applied());
        // The last entries may be on their way.
        if applied + 8 < world.watch.log.last() {
            let last = world.watch.log.last();
            return fails(format!(
                "member {id} has applied {applied} of {last} entries"
            ));
        }
    }
    if let Some(host) = world.hosts.iter().find(|host| host.is_suspect) {
        let name = &host.name;
        return fails(format!(
            "the damage of {name} was neither found nor harmless"
        ));
    }
    let corrupt = |host: &&super::super::hosts::Host| {
        let is_member = host.id.is_some_and(|id| state.members().contains_key(&id));
        host.absence == Absence::Corrupt && is_member
    };
    if let Some(host) = world.hosts.iter().find(corrupt) {
        return fails(format!("{} is damaged and was not replaced", host.name));
    }
    if let Some((id, job, work)) = state.active_jobs().next() {
        let demands: Vec<&str> = work.demands.values().map(|d| d.title.as_str()).collect();
        return fails(format!(
            "job {id} did not end; it is in stage {} with {demands:?}",
            job.stage
        ));
    }
    if world.plan.upgrade && state.version() < evoring_coordinator::state::NEWEST_RECORDS {
        return fails(format!("the records stay at version {}", state.version()));
    }
    for client in &world.clients {
        if let Some(task) = client.tasks.front() {
            return fails(format!("{task:?} was not done"));
        }
        let waits_us = world
            .now
            .saturating_sub(client.since_us.max(world.plan.calm_us));
        if let Some((request, _)) = client.asking.as_ref().filter(|_| waits_us > PATIENCE_US) {
            return fails(format!(
                "{request:?} has been asked for {} s",
                waits_us / SECOND
            ));
        }
    }
    Ok(())
}
