//! Raft's messages from other coordinators, as a node takes them over a connection.

use evoring_coordinator::consensus::{Action, Consensus, Event, NodeConfig, first_write};
use evoring_coordinator::storage::Stored;
use prost::Message as _;
use raft::eraftpb::Message;
use std::collections::VecDeque;

/// This node; the others of the group are 2 and 3.
pub const NODE: u64 = 1;
/// Steps of one input.
const STEPS: usize = 64;
/// Ticks of one step: long enough for an election.
const TICKS: usize = 30;

/// Set in a step's first byte: its writes are not reported as durable before a later step.
pub const STALLS: u8 = 0x10;
/// Set in a step's first byte: what is committed is not reported as applied before a later step.
pub const LAGS: u8 = 0x20;

/// What a step is, in the lower half of its first byte. Messages follow with their length, 2 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// A message, as it is.
    Raw = 0,
    /// A message from 2 or 3 to this node, in its own term or one of the next two: the first checks pass.
    Message = 1,
    /// Time passes.
    Ticks = 2,
    /// A proposal.
    Propose = 3,
    /// A read.
    Read = 4,
    /// A snapshot at the index that is applied.
    Snapshot = 5,
    /// Leadership shall go.
    HandOver = 6,
    /// 2 cannot be reached.
    Unreachable = 7,
}

const STEPS_BY_NUMBER: [Step; 8] = [
    Step::Raw,
    Step::Message,
    Step::Ticks,
    Step::Propose,
    Step::Read,
    Step::Snapshot,
    Step::HandOver,
    Step::Unreachable,
];

/// A follower of three, and what its shell owes it.
struct Node {
    consensus: Consensus,
    persisted: VecDeque<u64>,
    applied: VecDeque<u64>,
    last_applied: u64,
    has_stopped: bool,
}

impl Node {
    fn new() -> Self {
        let mut write = first_write(NODE, Vec::new());
        if let Some(snapshot) = &mut write.snapshot {
            snapshot.membership.voters = vec![1, 2, 3];
        }
        let stored = Stored {
            hard_state: write.hard_state,
            snapshot: write.snapshot,
            entries: Vec::new(),
        };
        let config = NodeConfig {
            id: NODE,
            boot: 1,
            seed: 1,
        };
        Self {
            consensus: Consensus::new(config, stored).expect("a first write is taken up"),
            persisted: VecDeque::new(),
            applied: VecDeque::new(),
            last_applied: 1,
            has_stopped: false,
        }
    }

    /// Takes an event and checks that nothing is taken back.
    fn feed(&mut self, event: Event) {
        let before = (self.consensus.term(), self.consensus.committed());
        let actions = self.consensus.handle(event);
        assert!(self.consensus.term() >= before.0 && self.consensus.committed() >= before.1);
        for action in actions {
            match action {
                Action::Persist { token, .. } => self.persisted.push_back(token),
                Action::Apply(entries) => {
                    self.applied.extend(entries.last().map(|entry| entry.index));
                }
                Action::Install { index, .. } => self.applied.push_back(index),
                Action::Stop(_) => self.has_stopped = true,
                _ => {}
            }
        }
    }

    fn settle(&mut self, flags: u8) {
        while !self.has_stopped {
            if flags & STALLS == 0
                && let Some(token) = self.persisted.pop_front()
            {
                self.feed(Event::Persisted { token });
            } else if flags & LAGS == 0
                && let Some(index) = self.applied.pop_front()
            {
                self.last_applied = index;
                self.feed(Event::Applied { index });
            } else {
                return;
            }
        }
    }

    fn receive(&mut self, bytes: &[u8], is_patched: bool) {
        let Ok(mut message) = Message::decode(bytes) else {
            return;
        };
        let again = Message::decode(message.encode_to_vec().as_slice());
        assert_eq!(again.as_ref(), Ok(&message));
        drop(again);
        if is_patched {
            message.from = 2 + message.from % 2;
            message.to = NODE;
            message.term = self.consensus.term().saturating_add(message.term % 3);
        }
        let (from, message) = (message.from, Box::new(message));
        self.feed(Event::Receive { from, message });
    }

    fn step(&mut self, step: Step, rest: &mut &[u8]) {
        match step {
            Step::Raw | Step::Message => {
                let length = rest.split_off(..2).unwrap_or_default();
                let length = length
                    .first_chunk()
                    .map_or(0, |bytes| usize::from(u16::from_le_bytes(*bytes)));
                let bytes = rest.split_off(..length.min(rest.len()));
                self.receive(bytes.unwrap_or_default(), step == Step::Message);
            }
            Step::Ticks => (0..TICKS).for_each(|_| self.feed(Event::Tick)),
            Step::Propose => self.feed(Event::Propose {
                token: 1,
                data: vec![1],
            }),
            Step::Read => self.feed(Event::Read { token: 1 }),
            Step::Snapshot => self.feed(Event::Snapshot {
                index: self.last_applied,
                data: Vec::new(),
            }),
            Step::HandOver => self.feed(Event::HandOver),
            Step::Unreachable => self.feed(Event::Unreachable { id: 2 }),
        }
    }
}

/// Messages to a follower, and what happens to it between them. It may refuse them, or stop.
pub fn raft_message(data: &[u8]) {
    drop(after(data));
}

fn after(data: &[u8]) -> Node {
    let mut rest = data;
    let mut node = Node::new();
    for _ in 0..STEPS {
        let Some(&first) = rest.split_off_first() else {
            break;
        };
        node.step(STEPS_BY_NUMBER[usize::from(first % 8)], &mut rest);
        node.settle(first);
        if node.has_stopped {
            break;
        }
    }
    node
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::seeds;

    /// Claim: the seeds lead to the places where a node's messages matter: a longer log, another
    /// membership, office, the leader's snapshot.
    /// Method: where the node stands after each.
    #[test]
    fn seeds_lead_somewhere() {
        let seeds = seeds::of("raft_message");
        let after = |name: &str| {
            let (_, bytes) = seeds.iter().find(|(seed, _)| *seed == name).unwrap();
            after(bytes)
        };
        assert_eq!(after("follows").last_applied, 3);
        assert_eq!(after("members").last_applied, 6);
        assert!(after("members").consensus.membership().learners.is_empty());
        assert_eq!(after("votes").consensus.vote(), 2);
        let leads = after("leads");
        assert!(leads.consensus.is_leader() && leads.last_applied > 1);
        assert_eq!(after("installs").last_applied, 10);
        assert_eq!(after("stalls").consensus.last_index(), 3);
    }
}
