//! The next change of membership: from what is in force to what is wanted, one node at a time.
//!
//! - `MEMBER-1`: a node votes only after it has caught up as a learner.
//! - `MEMBER-2`: voters change through a joint configuration, which whoever leads leaves.
//! - `MEMBER-3`: no change begins before the last one is applied; none removes the last voter.

use evoring_protocol::limits::LISTED_MEMBERS;
#[cfg(evoring_plants)]
use evoring_protocol::plants::{Plant, is_planted};
use prost::Message as _;
use raft::eraftpb::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
    Entry, EntryType,
};
use std::collections::{BTreeMap, BTreeSet};

/// What the replicated state wants of a node; nodes without a goal shall leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Goal {
    /// Its process has taken its id for good, so it may vote once it has caught up.
    pub may_vote: bool,
}

/// What a leader does next about the membership.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Next {
    /// Nothing.
    Settled,
    /// Propose this.
    Change(ConfChangeV2),
    /// This node shall leave: somebody else must lead first.
    HandOver,
}

/// What the leader sees of another member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It was not heard of lately.
    Silent,
    /// It answers, and lacks entries.
    Behind,
    /// It has (nearly) all entries.
    CaughtUp,
}

/// Decides it for the leader `id`; `standing` is that of a member.
pub(super) fn next(
    id: u64,
    goals: &BTreeMap<u64, Goal>,
    now: &ConfState,
    standing: impl Fn(u64) -> Standing,
) -> Next {
    let is_joint = !now.voters_outgoing.is_empty() || !now.learners_next.is_empty();
    #[cfg(evoring_plants)]
    let is_joint = is_joint && !is_planted(Plant::JointNeverLeft);
    if is_joint {
        return Next::Change(ConfChangeV2::default());
    }
    // Before the replicated state says who belongs, nobody is sent away.
    if goals.is_empty() {
        return Next::Settled;
    }
    // Of several the silent ones first: a group of which a member fails stays further from losing its
    // majority. This node last, since others lead on without the pause of an election.
    let unwanted = |nodes: &[u64]| {
        let order = |node: &u64| (*node == id, standing(*node) != Standing::Silent, *node);
        let leave = nodes.iter().copied();
        leave
            .filter(|node| !goals.contains_key(node))
            .min_by_key(order)
    };
    if let Some(node) = unwanted(&now.learners) {
        return change(node, ConfChangeType::RemoveNode);
    }
    let ready = now.learners.iter().copied().find(|&node| {
        let may_vote = goals.get(&node).is_some_and(|goal| goal.may_vote);
        may_vote && standing(node) == Standing::CaughtUp
    });
    if let Some(node) = ready {
        return change(node, ConfChangeType::AddNode);
    }
    if let Some(node) = unwanted(&now.voters)
        && now.voters.len() > 1
    {
        return match node == id {
            true => Next::HandOver,
            false => change(node, ConfChangeType::RemoveNode),
        };
    }
    let absent = goals
        .keys()
        .copied()
        .find(|node| !now.voters.contains(node) && !now.learners.contains(node));
    // One learns at a time; one that is silent holds up nobody.
    let learns = |node: &u64| standing(*node) != Standing::Silent;
    match absent {
        Some(node) if !now.learners.iter().any(learns) => {
            change(node, ConfChangeType::AddLearnerNode)
        }
        _ => Next::Settled,
    }
}

fn change(node: u64, kind: ConfChangeType) -> Next {
    let mut single = ConfChangeSingle {
        node_id: node,
        ..ConfChangeSingle::default()
    };
    single.set_change_type(kind);
    let mut change = ConfChangeV2 {
        changes: vec![single],
        ..ConfChangeV2::default()
    };
    // Learners do not vote, so their coming and going needs no joint configuration; but one that is
    // removed may be a voter by then.
    change.set_transition(match kind {
        ConfChangeType::AddLearnerNode => ConfChangeTransition::Auto,
        ConfChangeType::AddNode | ConfChangeType::RemoveNode => ConfChangeTransition::Explicit,
    });
    Next::Change(change)
}

/// The change that an entry holds, whose kind says that it is one; what is wrong with it otherwise.
/// `raft` panics on kinds that it does not know.
pub(super) fn decoded(entry: &Entry) -> Result<ConfChangeV2, String> {
    let malformed = |e: prost::DecodeError| format!("is a malformed change of membership: {e}");
    let data = entry.data.as_slice();
    let change = match entry.entry_type() {
        EntryType::EntryConfChange => {
            let change = ConfChange::decode(data).map_err(malformed)?;
            let single = ConfChangeSingle {
                change_type: change.change_type,
                node_id: change.node_id,
            };
            ConfChangeV2 {
                changes: vec![single],
                ..ConfChangeV2::default()
            }
        }
        _ => ConfChangeV2::decode(data).map_err(malformed)?,
    };
    let is_known =
        |single: &ConfChangeSingle| ConfChangeType::from_i32(single.change_type).is_some();
    let are_known = ConfChangeTransition::from_i32(change.transition).is_some()
        && change.changes.iter().all(is_known);
    if are_known && change.changes.len() <= LISTED_MEMBERS {
        return Ok(change);
    }
    Err("is a change of membership of an unknown kind".to_owned())
}

/// Checks that there is such a membership, by the rules of `raft`, which panics on any other.
pub(super) fn check(members: &ConfState) -> Result<(), String> {
    let lists = [
        &members.voters,
        &members.learners,
        &members.voters_outgoing,
        &members.learners_next,
    ];
    let sets = lists.map(|list| list.iter().copied().collect::<BTreeSet<u64>>());
    let count: usize = lists.iter().map(|list| list.len()).sum();
    let [voters, learners, outgoing, next] = &sets;
    let is_joint = !outgoing.is_empty();
    let problem = match () {
        () if count > LISTED_MEMBERS => "is too long",
        () if voters.is_empty() => "has no voters",
        () if count != sets.iter().map(BTreeSet::len).sum::<usize>() => "names a node twice",
        () if sets.iter().any(|set| set.contains(&0)) => "names node 0",
        () if !is_joint && (!next.is_empty() || members.auto_leave) => "is joint with nothing",
        () if !learners.is_disjoint(voters) || !learners.is_disjoint(outgoing) => {
            "has voters that learn"
        }
        () if !next.is_subset(outgoing) || !next.is_disjoint(voters) => {
            "has voters that shall learn and do not vote, or go on to"
        }
        () => return Ok(()),
    };
    Err(problem.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(voters: &[u64], learners: &[u64]) -> ConfState {
        ConfState {
            voters: voters.to_vec(),
            learners: learners.to_vec(),
            ..ConfState::default()
        }
    }

    fn goals(nodes: &[u64]) -> BTreeMap<u64, Goal> {
        let goal = Goal { may_vote: true };
        nodes.iter().map(|&node| (node, goal)).collect()
    }

    fn step(next: &Next) -> Option<(u64, ConfChangeType, ConfChangeTransition)> {
        let Next::Change(change) = next else {
            return None;
        };
        let single = change.changes.first()?;
        Some((single.node_id, single.change_type(), change.transition()))
    }

    // Claim: a node is added as a learner, votes only when it has caught up and may, through a
    // joint configuration, which is left by an empty change; two wait for each other.
    // Method: one goal more than there are voters; each answer is taken as applied.
    #[test]
    fn nodes_join_one_by_one() {
        let goals = goals(&[1, 2, 3]);
        let never = |_| Standing::Behind;
        let always = |_| Standing::CaughtUp;
        let first = next(1, &goals, &conf(&[1], &[]), never);
        assert_eq!(
            step(&first),
            Some((
                2,
                ConfChangeType::AddLearnerNode,
                ConfChangeTransition::Auto
            ))
        );
        assert_eq!(next(1, &goals, &conf(&[1], &[2]), never), Next::Settled);
        let second = next(1, &goals, &conf(&[1], &[2]), always);
        assert_eq!(
            step(&second),
            Some((2, ConfChangeType::AddNode, ConfChangeTransition::Explicit))
        );
        let joint = ConfState {
            voters: vec![1, 2],
            voters_outgoing: vec![1],
            ..ConfState::default()
        };
        assert_eq!(
            next(2, &goals, &joint, always),
            Next::Change(ConfChangeV2::default())
        );
        let third = next(1, &goals, &conf(&[1, 2], &[]), always);
        assert_eq!(step(&third).map(|(node, ..)| node), Some(3));
        let done = next(1, &goals, &conf(&[1, 2, 3], &[]), always);
        assert_eq!(done, Next::Settled);
        let mut waits = goals.clone();
        waits.insert(2, Goal { may_vote: false });
        assert_eq!(next(1, &waits, &conf(&[1], &[2]), always), Next::Settled);
    }

    // Claim: whoever has no goal leaves, the leader only after it has handed over, and the last
    // voter never; without goals nothing happens.
    // Method: goals without each of the nodes.
    #[test]
    fn nodes_leave() {
        let all = conf(&[1, 2, 3], &[]);
        let gone = next(1, &goals(&[1, 3]), &all, |_| Standing::CaughtUp);
        assert_eq!(
            step(&gone),
            Some((
                2,
                ConfChangeType::RemoveNode,
                ConfChangeTransition::Explicit
            ))
        );
        assert_eq!(
            next(2, &goals(&[1, 3]), &all, |_| Standing::CaughtUp),
            Next::HandOver
        );
        assert_eq!(
            next(1, &goals(&[7]), &conf(&[1], &[7]), |_| Standing::Behind),
            Next::Settled
        );
        assert_eq!(
            next(1, &goals(&[]), &all, |_| Standing::CaughtUp),
            Next::Settled
        );
        let learner = next(1, &goals(&[1]), &conf(&[1], &[4]), |_| Standing::CaughtUp);
        assert_eq!(step(&learner).map(|(node, ..)| node), Some(4));
    }

    // Claim: of several that shall leave, those that are silent go first and the leader last; a learner
    // that never answers keeps no other node from learning, one that is behind does.
    // Method: goals without two or three of the nodes, with each of them silent.
    #[test]
    fn silent_nodes() {
        let silent = |silent: u64| {
            move |node| match node == silent {
                true => Standing::Silent,
                false => Standing::CaughtUp,
            }
        };
        let all = conf(&[1, 2, 3, 4, 5], &[]);
        let leaves = |node: u64| {
            let next = next(2, &goals(&[1]), &all, silent(node));
            step(&next).map(|(node, ..)| node)
        };
        assert_eq!([3, 4, 5].map(leaves), [Some(3), Some(4), Some(5)]);
        assert_eq!(leaves(1), Some(3));
        let goals = goals(&[1, 2, 3]);
        let waits = conf(&[1], &[2]);
        let learns = next(1, &goals, &waits, silent(2));
        assert_eq!(step(&learns).map(|(node, ..)| node), Some(3));
        assert_eq!(next(1, &goals, &waits, |_| Standing::Behind), Next::Settled);
    }
}
