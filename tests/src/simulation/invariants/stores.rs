//! 11: what was confirmed is there when a store is opened again, exactly, or its damage is reported;
//! what a message promises is on the disk before it is sent (`RAFT-1`), and a snapshot has a commit
//! index beside it that covers it (`RAFT-2`).

use super::{Checked, Violation};
use evoring_coordinator::storage::{LogWrite, Stored};
use raft::eraftpb::{Message, MessageType};
use std::collections::BTreeMap;

const NAME: &str = "stores";

/// What each disk must hold.
#[derive(Debug, Default)]
pub(in super::super) struct Stores {
    mirrors: BTreeMap<usize, Mirror>,
}

#[derive(Debug, Default)]
struct Mirror {
    confirmed: Stored,
    /// A write that was on its way when the process ended.
    maybe: Option<LogWrite>,
}

impl Stores {
    /// A disk holds this from now on.
    pub(in super::super) fn begins(&mut self, host: usize, write: &LogWrite) -> Checked {
        let mirror = self.mirrors.entry(host).or_default();
        *mirror = Mirror::default();
        taken(&mut mirror.confirmed, write)
    }

    /// The disk was replaced by an empty one.
    pub(in super::super) fn is_empty(&mut self, host: usize) {
        self.mirrors.insert(host, Mirror::default());
    }

    /// Whether entries take the place of others on a disk.
    pub(super) fn is_replaced_by(&self, host: usize, write: &LogWrite) -> bool {
        let last = self
            .mirrors
            .get(&host)
            .map(|mirror| mirror.confirmed.last_index());
        let first = write.entries.first().map(|entry| entry.index);
        !write.installs && first.is_some_and(|first| last.is_some_and(|last| first <= last))
    }

    pub(super) fn durable(&mut self, host: usize, write: &LogWrite) -> Checked {
        let Some(Mirror { confirmed, .. }) = self.mirrors.get_mut(&host) else {
            return Ok(());
        };
        taken(confirmed, write)?;
        let commit = confirmed
            .hard_state
            .as_ref()
            .map_or(0, |hard_state| hard_state.commit);
        if write.snapshot.is_none() || commit >= confirmed.snapshot_index() {
            return Ok(());
        }
        let index = confirmed.snapshot_index();
        let what =
            format!("host {host} stored a snapshot at {index} beside a commit index of {commit}");
        Err(Violation::new(NAME, what))
    }

    /// A vote, and an acknowledgement of entries, stand on the sender's disk by then.
    pub(super) fn sends(&self, host: usize, message: &Message) -> Checked {
        let Some(Mirror { confirmed, .. }) = self.mirrors.get(&host) else {
            return Ok(());
        };
        let stored = confirmed.hard_state.clone().unwrap_or_default();
        // One that is in a later term by now has forgotten nothing: it was late.
        if stored.term > message.term {
            return Ok(());
        }
        let has_voted = |vote: u64| (stored.term, stored.vote) == (message.term, vote);
        let is_durable = match message.msg_type() {
            MessageType::MsgRequestVoteResponse if !message.reject => has_voted(message.to),
            MessageType::MsgRequestVote => has_voted(message.from),
            MessageType::MsgAppendResponse if !message.reject => {
                message.index <= confirmed.last_index()
            }
            _ => true,
        };
        if is_durable {
            return Ok(());
        }
        let what = format!(
            "host {host} sends {:?} of term {} and index {}, while its disk holds a log up to {} and \
             {stored:?}",
            message.msg_type(),
            message.term,
            message.index,
            confirmed.last_index(),
        );
        Err(Violation::new(NAME, what))
    }

    pub(super) fn ended(&mut self, host: usize, written: Option<LogWrite>) {
        if let Some(mirror) = self.mirrors.get_mut(&host) {
            mirror.maybe = written;
        }
    }

    pub(super) fn opened(&mut self, host: usize, stored: &Stored) -> Checked {
        let Some(mirror) = self.mirrors.get_mut(&host) else {
            return Ok(());
        };
        if let Some(write) = mirror.maybe.take()
            && mirror.confirmed != *stored
        {
            taken(&mut mirror.confirmed, &write)?;
        }
        if mirror.confirmed == *stored {
            return Ok(());
        }
        let confirmed = &mirror.confirmed;
        let what = format!(
            "host {host} confirmed a log up to {} after a snapshot at {} with {:?}, and opened one up \
             to {} after {} with {:?}",
            confirmed.last_index(),
            confirmed.snapshot_index(),
            confirmed.hard_state,
            stored.last_index(),
            stored.snapshot_index(),
            stored.hard_state
        );
        Err(Violation::new(NAME, what))
    }
}

fn taken(stored: &mut Stored, write: &LogWrite) -> Checked {
    let outcome = stored.take(write);
    outcome.map_err(|error| Violation::new(NAME, error.to_string()))
}
