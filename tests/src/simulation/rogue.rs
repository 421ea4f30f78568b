//! A worker that somebody broke into. It has its certificate and hears what all workers say; beside
//! what it should, it says what it heard, as it is or changed.
//!
//! Whatever it makes up holds [`FORGED`], so that the invariant `identity` can see it in the log. What
//! it says about its own work is true: that is for others to find out, by computing it again.

use super::counters::Sometimes;
use super::dice::Dice;
use super::world::World;
use evoring_protocol::work::{Checkpoint, FailureCause, HeldRank, ItemOutcome, Lease, WorkError};
use evoring_protocol::worker::{Ran, RankEvent, WorkerReport};
use evoring_protocol::{Digest, SlotIndex, WorkerId};

/// In everything that is made up.
pub(super) const FORGED: &[u8; 16] = b"made up by rogue";
/// Which agent it is.
const ROGUE: usize = 0;
/// A slot that no worker has: its own are in use by its honest half.
const SLOT_OF_NOBODY: SlotIndex = SlotIndex(77);
/// Reports that it takes up, in a million.
const TAKEN_UP: u64 = 30_000;
/// Sequence numbers that its honest half never comes to: what is acknowledged must not be its own.
const FIRST_SEQUENCE: u64 = 1 << 60;

/// What it knows.
pub(super) struct Rogue {
    /// Of its own, so that the other seeds do as they did without it.
    dice: Dice,
    sequence: u64,
    /// The last lease and rank of others that it heard of.
    lease: Option<Lease>,
    rank: Option<HeldRank>,
}

impl Rogue {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed ^ 0x0bad_0bad),
            sequence: FIRST_SEQUENCE,
            lease: None,
            rank: None,
        }
    }

    /// What it says when it hears this report of another worker.
    fn forge(&mut self, heard: &WorkerReport, own: &WorkerId) -> Option<WorkerReport> {
        self.sequence += 1;
        let sequence = self.sequence;
        match heard {
            WorkerReport::Results {
                lease, outcomes, ..
            } => {
                self.lease = Some(lease.clone());
                let mut lease = lease.clone();
                match self.dice.below(4) {
                    0 => {
                        return Some(ended(
                            SLOT_OF_NOBODY,
                            Ran::Lease {
                                term: lease.term,
                                number: lease.number,
                            },
                        ));
                    }
                    1 => lease.worker = own.clone(),
                    2 => {
                        lease.worker = own.clone();
                        lease.number += 1;
                    }
                    _ => {}
                }
                let outcomes = outcomes
                    .iter()
                    .map(|outcome| self.outcome(outcome))
                    .collect();
                Some(WorkerReport::Results {
                    sequence,
                    lease,
                    outcomes,
                })
            }
            WorkerReport::Rank { held, .. } => {
                self.rank = Some(held.clone());
                let held = held.clone();
                let event = match self.dice.below(4) {
                    0 => return Some(ended(SLOT_OF_NOBODY, Ran::Rank(held))),
                    1 => RankEvent::Finished {
                        result: FORGED.to_vec(),
                    },
                    2 => RankEvent::Failed(made_up_error()),
                    _ => RankEvent::Checkpointed(made_up_checkpoint(self.dice.below(20))),
                };
                Some(WorkerReport::Rank {
                    sequence,
                    held,
                    event,
                })
            }
            _ => None,
        }
    }

    fn outcome(&mut self, outcome: &ItemOutcome) -> ItemOutcome {
        let result = match self.dice.chance(500_000) {
            true => Ok(FORGED.to_vec()),
            false => Err(made_up_error()),
        };
        ItemOutcome {
            index: outcome.index,
            result,
        }
    }
}

fn made_up_error() -> WorkError {
    WorkError {
        message: String::from_utf8_lossy(FORGED).into_owned(),
        cause: FailureCause::Final,
    }
}

fn made_up_checkpoint(step: u64) -> Checkpoint {
    let mut digest = [0; 32];
    digest[..FORGED.len()].copy_from_slice(FORGED);
    Checkpoint {
        step: evoring_protocol::Step(step),
        digest: Digest(digest),
    }
}

fn ended(slot: SlotIndex, ran: Ran) -> WorkerReport {
    let text = String::from_utf8_lossy(FORGED).into_owned();
    WorkerReport::ExecutorExited {
        slot,
        process: 1,
        status: text.clone(),
        last_lines: text,
        ran: Some(ran),
    }
}

impl World {
    /// An agent says something; the rogue hears it, and may say something itself. Its own introduction
    /// claims what it heard of.
    pub(super) fn rogue_hears(&mut self, speaker: usize, report: &mut WorkerReport) {
        let (is_calm, own) = (self.now >= self.plan.calm_us, self.agents.get(ROGUE));
        let Some(rogue) = self.rogue.as_mut().filter(|_| !is_calm) else {
            return;
        };
        let Some(own) = own.filter(|_| rogue.dice.chance(TAKEN_UP) || is_hello(report)) else {
            return;
        };
        if let WorkerReport::Hello(hello) = report {
            if speaker == ROGUE {
                hello.leases.extend(rogue.lease.take());
                hello.ranks.extend(rogue.rank.take());
            }
            return;
        }
        let forged = match speaker == ROGUE {
            true => None,
            false => rogue.forge(report, &own.name),
        };
        if let (Some(forged), Some(connection)) = (forged, own.connection) {
            self.watch.counters.hit(Sometimes::Forged);
            self.link_up(connection, forged);
        }
    }
}

fn is_hello(report: &WorkerReport) -> bool {
    matches!(report, WorkerReport::Hello(_))
}
