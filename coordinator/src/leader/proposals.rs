//! Commands on their way into the log.

use super::Ticket;
use crate::scheduler::{ConnectionId, Now};
use crate::state::{BatchEncoder, Command, ItemReport};
use std::collections::BTreeMap;

/// Results that arrive within this time share one entry, and with it one sync.
pub const BATCH_MS: u64 = 5;
/// Entries that are proposed and not applied yet; what comes more goes into the next one.
pub const IN_FLIGHT: usize = 6;
/// Commands of one entry …
const BATCH_COMMANDS: usize = 4_096;
/// … and their bytes, unless one command alone has more: an entry travels in one message.
const BATCH_BYTES: usize = 1 << 20;
/// Bytes of outcomes in one command, so that none is larger than what a job file or a result may be.
const PART_BYTES: usize = 512 << 10;

/// Who waits for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiter {
    /// Nobody.
    Nobody,
    /// A worker's report of this number.
    Worker(ConnectionId, u64),
    /// A client.
    Client(Ticket),
}

/// A command and who waits for it.
#[derive(Debug)]
struct Proposal {
    /// Grows with each; what came first is applied first.
    number: u64,
    command: Command,
    waiter: Waiter,
}

/// Commands that are not applied yet.
#[derive(Debug, Default)]
pub(super) struct Proposals {
    /// In the order of their numbers.
    waiting: Vec<Proposal>,
    last_number: u64,
    /// When the first waiting command came.
    since_ms: u64,
    is_urgent: bool,
    in_flight: BTreeMap<u64, Vec<Proposal>>,
    last_token: u64,
}

/// Whether a command shall not wait for company: people, drivers or gangs wait for it.
fn is_urgent(command: &Command) -> bool {
    !matches!(
        command,
        Command::Record { .. } | Command::BlobStored { .. } | Command::AdmitWorker { .. }
    )
}

/// Cuts the outcomes of many items into commands that fit one entry each; errors come with texts.
fn parts(command: Command) -> Vec<Command> {
    let Command::Record {
        job,
        demand,
        outcomes,
    } = command
    else {
        return vec![command];
    };
    let size = |report: &ItemReport| match &report.outcome {
        Ok(result) => 32 + result.len(),
        Err(error) => 32 + error.message.len(),
    };
    let mut parts: Vec<Vec<ItemReport>> = vec![Vec::new()];
    let mut bytes = 0;
    for report in outcomes {
        bytes += size(&report);
        if bytes > PART_BYTES {
            bytes = size(&report);
            parts.push(Vec::new());
        }
        if let Some(part) = parts.last_mut() {
            part.push(report);
        }
    }
    let part = |outcomes| Command::Record {
        job,
        demand,
        outcomes,
    };
    parts.into_iter().map(part).collect()
}

impl Proposals {
    pub(super) fn add(&mut self, command: Command, waiter: Waiter, now: Now) {
        if self.waiting.is_empty() {
            self.since_ms = now.mono_ms;
        }
        self.is_urgent |= is_urgent(&command);
        let parts = parts(command);
        let last = parts.len() - 1;
        for (part, command) in parts.into_iter().enumerate() {
            // The last is applied last.
            let waiter = if part == last { waiter } else { Waiter::Nobody };
            self.last_number += 1;
            self.waiting.push(Proposal {
                number: self.last_number,
                command,
                waiter,
            });
        }
    }

    /// When the waiting commands must go.
    pub(super) fn deadline_ms(&self) -> Option<u64> {
        let can_go = !self.waiting.is_empty() && self.in_flight.len() < IN_FLIGHT;
        can_go.then_some(self.since_ms + BATCH_MS)
    }

    /// The next entry, if it is time for one.
    pub(super) fn take_batch(
        &mut self,
        now: Now,
        time_ms: u64,
        version: u16,
    ) -> Option<(u64, Vec<u8>)> {
        let is_due = self.is_urgent
            || self
                .deadline_ms()
                .is_some_and(|deadline| now.mono_ms >= deadline);
        if self.waiting.is_empty() || self.in_flight.len() >= IN_FLIGHT || !is_due {
            return None;
        }
        let mut entry = BatchEncoder::default();
        let commands = self.waiting.iter().take(BATCH_COMMANDS);
        let fitting = commands.take_while(|one| entry.add(&one.command, BATCH_BYTES));
        let count = fitting.count();
        let proposed = self.waiting.drain(..count).collect();
        self.is_urgent = self.waiting.iter().any(|one| is_urgent(&one.command));
        self.last_token += 1;
        let data = entry.finish(time_ms, version);
        self.in_flight.insert(self.last_token, proposed);
        Some((self.last_token, data))
    }

    /// Who waited for an entry, in the order of its commands.
    pub(super) fn applied(&mut self, token: u64) -> Option<Vec<Waiter>> {
        let applied = self.in_flight.remove(&token)?;
        Some(applied.into_iter().map(|one| one.waiter).collect())
    }

    /// Puts a refused entry's commands back to where they were.
    pub(super) fn again(&mut self, token: u64, now: Now) {
        let Some(refused) = self.in_flight.remove(&token) else {
            return;
        };
        let Some(first) = refused.first().map(|one| one.number) else {
            return;
        };
        if self.waiting.is_empty() {
            self.since_ms = now.mono_ms;
        }
        // Of several entries, the earlier ones may have been refused before.
        let at = self.waiting.partition_point(|one| one.number < first);
        self.waiting.splice(at..at, refused);
    }

    /// Clients who wait; they will not be answered by an entry any more.
    pub(super) fn clients(&mut self) -> Vec<Ticket> {
        let mut tickets = Vec::new();
        let in_flight = self.in_flight.values_mut().flatten();
        for one in self.waiting.iter_mut().chain(in_flight) {
            if let Waiter::Client(ticket) = one.waiter {
                tickets.push(ticket);
                one.waiter = Waiter::Nobody;
            }
        }
        tickets
    }

    /// Forgets everything; gives the clients who waited.
    pub(super) fn abandon(&mut self) -> Vec<Ticket> {
        let tickets = self.clients();
        self.waiting.clear();
        self.in_flight.clear();
        self.is_urgent = false;
        tickets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Batch, NEWEST_RECORDS};
    use evoring_protocol::peer::RAFT_MESSAGE_BYTES;
    use evoring_protocol::work::{FailureCause, WorkError};
    use evoring_protocol::{Attempt, DemandId, ItemIndex, JobId};

    const NOW: Now = Now {
        mono_ms: 0,
        wall_ms: 0,
    };

    fn record(items: std::ops::Range<u32>, text: usize) -> Command {
        let report = |index| ItemReport {
            index: ItemIndex(index),
            attempt: Attempt(1),
            outcome: Err(WorkError {
                message: "x".repeat(text),
                cause: FailureCause::Failed,
            }),
        };
        Command::Record {
            job: JobId(1),
            demand: DemandId(2),
            outcomes: items.map(report).collect(),
        }
    }

    // Claim: whatever is proposed at once, no entry is larger than what travels in one message; nothing
    // is lost or changes its place, and whoever waits for a command waits for its last part.
    // Method: two reports of thousands of failed items with the longest texts, and a small command
    // between them.
    #[test]
    fn entries_fit_messages() {
        let mut proposals = Proposals::default();
        let small = Command::Cancel { job: JobId(7) };
        let commands = [
            record(0..3_000, 4 << 10),
            small.clone(),
            record(3_000..5_000, 4 << 10),
        ];
        for (command, number) in commands.into_iter().zip(0u64..) {
            let waiter = Waiter::Worker(ConnectionId(1), number);
            proposals.add(command, waiter, NOW);
        }
        let (mut items, mut waiters, mut order) = (Vec::new(), Vec::new(), Vec::new());
        let later = Now {
            mono_ms: BATCH_MS,
            ..NOW
        };
        while let Some((token, entry)) = proposals.take_batch(later, 5, NEWEST_RECORDS) {
            assert!(
                entry.len() < RAFT_MESSAGE_BYTES / 2,
                "{} bytes",
                entry.len()
            );
            let batch = Batch::decode(&entry, NEWEST_RECORDS).unwrap();
            assert_eq!(batch.encode(NEWEST_RECORDS), entry);
            let waiting = proposals.applied(token).unwrap();
            assert_eq!(waiting.len(), batch.commands.len());
            for (command, waiter) in batch.commands.into_iter().zip(waiting) {
                match command {
                    Command::Record { outcomes, .. } => {
                        items.extend(outcomes.iter().map(|report| report.index.0));
                    }
                    other => assert_eq!(other, small),
                }
                if let Waiter::Worker(_, number) = waiter {
                    waiters.push(number);
                    order.push(items.len());
                }
            }
        }
        assert_eq!(items, (0..5_000).collect::<Vec<_>>());
        assert_eq!((waiters, order), (vec![0, 1, 2], vec![3_000, 3_000, 5_000]));
    }

    // Claim: whatever is refused, and in whatever order that is told, commands keep their order.
    // Method: three entries are refused, the last first, while a fourth command waits.
    #[test]
    fn refused_commands_keep_their_order() {
        let mut proposals = Proposals::default();
        let mut tokens = Vec::new();
        for job in 1..=3 {
            proposals.add(Command::Cancel { job: JobId(job) }, Waiter::Nobody, NOW);
            let (token, _) = proposals.take_batch(NOW, 5, NEWEST_RECORDS).unwrap();
            tokens.push(token);
        }
        proposals.add(Command::Cancel { job: JobId(4) }, Waiter::Nobody, NOW);
        for order in [[2, 0, 1], [0, 1, 2], [2, 1, 0]] {
            for refused in order {
                proposals.again(tokens[refused], NOW);
            }
            let later = Now {
                mono_ms: BATCH_MS,
                ..NOW
            };
            let (token, entry) = proposals.take_batch(later, 5, NEWEST_RECORDS).unwrap();
            let batch = Batch::decode(&entry, NEWEST_RECORDS).unwrap();
            let jobs: Vec<Command> = (1..=4)
                .map(|job| Command::Cancel { job: JobId(job) })
                .collect();
            assert_eq!(batch.commands, jobs);
            proposals.again(token, NOW);
            // As three entries again.
            let mut waiting = std::mem::take(&mut proposals.waiting);
            for token in &mut tokens {
                *token += 10;
                proposals.in_flight.insert(*token, vec![waiting.remove(0)]);
            }
            proposals.waiting = waiting;
        }
    }
}
