//! 10: a configuration always has voters, its majorities meet those of the one before, no id comes
//! back, and at the end the group is what was asked for, and not joint.

use super::super::counters::{Counters, Sometimes};
use super::super::process::Birth;
use super::super::world::World;
use super::{Checked, Violation};
use raft::eraftpb::ConfState;
use std::collections::{BTreeMap, BTreeSet};

const NAME: &str = "membership";

/// What each process has seen.
#[derive(Debug, Default)]
pub(in super::super) struct Membership {
    seen: BTreeMap<usize, Seen>,
    /// Voters of all configurations that any process came to.
    known: BTreeSet<Vec<BTreeSet<u64>>>,
    /// Ids that machines have taken.
    taken: BTreeSet<u64>,
    /// Terms whose leaders took office in a joint configuration.
    inherited: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct Seen {
    boot: u64,
    present: BTreeSet<u64>,
    learners: BTreeSet<u64>,
    /// Voters of its configuration, or of both that are in force together.
    voters: Vec<BTreeSet<u64>>,
    gone: BTreeSet<u64>,
}

fn nodes(membership: &ConfState) -> BTreeSet<u64> {
    let nodes = [
        &membership.voters,
        &membership.voters_outgoing,
        &membership.learners,
        &membership.learners_next,
    ];
    nodes.into_iter().flatten().copied().collect()
}

/// The voters whose majorities decide: each of these sets must have one.
fn voters_of(membership: &ConfState) -> Vec<BTreeSet<u64>> {
    let sets = [&membership.voters, &membership.voters_outgoing];
    let sets = sets.into_iter().filter(|voters| !voters.is_empty());
    sets.map(|voters| voters.iter().copied().collect())
        .collect()
}

/// Whether no two groups of nodes can decide alone, one by each configuration. If both have a set in
/// common, its majorities meet; so do those of sets of which one has at most one node more.
fn overlap(before: &[BTreeSet<u64>], after: &[BTreeSet<u64>]) -> bool {
    let meet = |a: &BTreeSet<u64>, b: &BTreeSet<u64>| a.symmetric_difference(b).count() <= 1;
    before.iter().any(|a| after.iter().any(|b| meet(a, b)))
}

impl Membership {
    /// A machine with an empty disk takes an id; nobody had it before.
    pub(in super::super) fn taken(&mut self, id: u64) -> Checked {
        match self.taken.insert(id) {
            true => Ok(()),
            false => Err(Violation::new(NAME, format!("id {id} is taken twice"))),
        }
    }

    /// Somebody leads from now on, in this configuration as far as its disk knows.
    pub(super) fn elected(&mut self, term: u64, membership: &ConfState) {
        if !membership.voters_outgoing.is_empty() {
            self.inherited.insert(term);
        }
    }

    /// A leader comes to this configuration; before [`Membership::changed`].
    pub(super) fn led(
        &mut self,
        birth: &Birth,
        term: u64,
        membership: &ConfState,
        counters: &mut Counters,
    ) {
        if membership.voters_outgoing.is_empty() && self.inherited.remove(&term) {
            counters.hit(Sometimes::JointInherited);
        }
        let seen = self.seen.get(&birth.host);
        let seen = seen.filter(|seen| seen.boot == birth.boot);
        let learned = |voter: &u64| seen.is_some_and(|seen| seen.learners.contains(voter));
        if membership.voters.iter().any(learned) {
            counters.hit(Sometimes::LearnerPromoted);
        }
    }

    pub(super) fn changed(&mut self, birth: &Birth, membership: &ConfState) -> Checked {
        let seen = self.seen.entry(birth.host).or_default();
        if seen.boot != birth.boot {
            *seen = Seen {
                boot: birth.boot,
                ..Seen::default()
            };
        }
        let present = nodes(membership);
        let gone: Vec<u64> = seen.present.difference(&present).copied().collect();
        seen.gone.extend(gone);
        if membership.voters.is_empty() || seen.gone.intersection(&present).next().is_some() {
            let what = format!(
                "member {} sees {membership:?} after {:?} had left",
                birth.id, seen.gone
            );
            return Err(Violation::new(NAME, what));
        }
        // Whoever comes to it first comes from the one before; others may skip some by a snapshot.
        let voters = voters_of(membership);
        let is_new = self.known.insert(voters.clone());
        if is_new && !seen.voters.is_empty() && !overlap(&seen.voters, &voters) {
            let what = format!(
                "member {} sees {membership:?} after the voters {:?}: both can decide alone",
                birth.id, seen.voters
            );
            return Err(Violation::new(NAME, what));
        }
        seen.voters = voters;
        seen.present = present;
        seen.learners = membership.learners.iter().copied().collect();
        Ok(())
    }
}

/// At the end: what is in force is what was asked for.
pub(super) fn at_end(world: &World) -> Checked {
    let members = world.watch.log.reference().members();
    let wanted: BTreeSet<u64> = members.keys().copied().collect();
    for host in &world.hosts {
        // One that was removed before it ever took part is never told.
        let is_wanted = host.id.is_some_and(|id| wanted.contains(&id));
        let Some(process) = host.process.as_ref().filter(|_| is_wanted) else {
            continue;
        };
        let membership = process.consensus.membership();
        let voters: BTreeSet<u64> = membership.voters.iter().copied().collect();
        let is_joint = !membership.voters_outgoing.is_empty();
        if is_joint || voters != wanted || !membership.learners.is_empty() {
            let what = format!(
                "member {} ends with {membership:?}, while the members are {wanted:?}",
                process.birth.id
            );
            return Err(Violation::new(NAME, what));
        }
    }
    Ok(())
}
