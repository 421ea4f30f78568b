//! Commands on their way into the log.

use super::Ticket;
use crate::scheduler::{ConnectionId, Now};
use crate::state::{Batch, Command};
use std::collections::BTreeMap;

/// Results that arrive within this time share one entry, and with it one sync.
pub const BATCH_MS: u64 = 5;
/// Entries that are proposed and not applied yet; what comes more goes into the next one.
pub const IN_FLIGHT: usize = 32;
/// Commands of one entry …
const BATCH_COMMANDS: usize = 4_096;
/// … and about their bytes, so that an entry travels in one message.
const BATCH_BYTES: usize = 1 << 20;

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

/// Commands that are not applied yet.
#[derive(Debug, Default)]
pub(super) struct Proposals {
    waiting: Vec<(Command, Waiter)>,
    /// When the first waiting command came.
    since_ms: u64,
    is_urgent: bool,
    in_flight: BTreeMap<u64, (Vec<Command>, Vec<Waiter>)>,
    last_token: u64,
}

/// Whether a command shall not wait for company: people, drivers or gangs wait for it.
fn is_urgent(command: &Command) -> bool {
    !matches!(
        command,
        Command::Record { .. } | Command::BlobStored { .. } | Command::AdmitWorker { .. }
    )
}

/// About as many bytes as the command takes in an entry.
fn command_bytes(command: &Command) -> usize {
    let body = match command {
        Command::Record { outcomes, .. } => outcomes
            .iter()
            .map(|report| 16 + report.outcome.as_ref().map_or(256, Vec::len))
            .sum(),
        Command::Label { key, value, .. } => key.len() + value.len(),
        Command::RankFinished { result, .. } => result.len(),
        // The driver holds what the job file says, and that has a limit.
        Command::Submit(_) => 4 << 10,
        _ => 0,
    };
    64 + body
}

impl Proposals {
    pub(super) fn add(&mut self, command: Command, waiter: Waiter, now: Now) {
        if self.waiting.is_empty() {
            self.since_ms = now.mono_ms;
        }
        self.is_urgent |= is_urgent(&command);
        self.waiting.push((command, waiter));
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
        let mut bytes = 0;
        let fitting = self
            .waiting
            .iter()
            .take(BATCH_COMMANDS)
            .take_while(|(command, _)| {
                let is_first = bytes == 0;
                bytes += command_bytes(command);
                is_first || bytes <= BATCH_BYTES
            });
        let count = fitting.count();
        let (commands, waiters): (Vec<Command>, Vec<Waiter>) = self.waiting.drain(..count).unzip();
        self.is_urgent = self.waiting.iter().any(|(command, _)| is_urgent(command));
        self.last_token += 1;
        let batch = Batch { time_ms, commands };
        let data = batch.encode(version);
        self.in_flight
            .insert(self.last_token, (batch.commands, waiters));
        Some((self.last_token, data))
    }

    /// Who waited for an entry, in the order of its commands.
    pub(super) fn applied(&mut self, token: u64) -> Option<Vec<Waiter>> {
        self.in_flight.remove(&token).map(|(_, waiters)| waiters)
    }

    /// Puts a refused entry's commands back to the front.
    pub(super) fn again(&mut self, token: u64, now: Now) {
        let Some((commands, waiters)) = self.in_flight.remove(&token) else {
            return;
        };
        if self.waiting.is_empty() {
            self.since_ms = now.mono_ms;
        }
        self.waiting.splice(0..0, commands.into_iter().zip(waiters));
    }

    /// Clients who wait; they will not be answered by an entry any more.
    pub(super) fn clients(&mut self) -> Vec<Ticket> {
        let mut tickets = Vec::new();
        let waiting = self.waiting.iter_mut().map(|(_, waiter)| waiter);
        for waiter in waiting.chain(self.in_flight.values_mut().flat_map(|(_, waiters)| waiters)) {
            if let Waiter::Client(ticket) = *waiter {
                tickets.push(ticket);
                *waiter = Waiter::Nobody;
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
