//! What coordinators say to each other, and how a machine becomes a member.

use super::counters::Sometimes;
use super::hosts::Absence;
use super::invariants::Checked;
use super::process::{Input, Process};
use super::world::{Happening, MS, OfProcess, SECOND, World};
use evoring_coordinator::consensus::{self, StopReason};
use evoring_coordinator::leader;
use evoring_protocol::peer::PeerHealth;
use raft::eraftpb::{Message, Snapshot, SnapshotMetadata};

/// A connection that carries nothing is given up after this.
const GIVE_UP_US: u64 = SECOND;
/// Chance, in millionths, that a lost message is noticed.
const NOTICED: u64 = 50_000;
/// Bytes of a snapshot that travel in a millisecond.
const SNAPSHOT_BYTES_PER_MS: u64 = 50_000;

/// Something that a coordinator says to another.
#[derive(Debug)]
pub(super) enum PeerNote {
    /// Raft's, from a member.
    Raft(u64, Box<Message>),
    /// A whole snapshot, from a member on this machine with this boot.
    Snapshot(u64, Box<Message>, usize, u64),
    /// A member introduces itself to another, or to a machine that shall become one.
    Hello(Box<PeerHello>),
    /// The hello's receiver is the member that was meant.
    Welcome(u64),
    /// The sender was removed from the group.
    Removed,
}

/// An introduction.
#[derive(Debug, Clone)]
pub(super) struct PeerHello {
    pub from: u64,
    pub from_host: usize,
    pub to: u64,
    /// Name of the member that is meant.
    pub name: String,
    /// Whether that one has joined, as the sender knows.
    pub has_joined: bool,
    pub health: PeerHealth,
}

impl World {
    pub(super) fn send_raft(&mut self, index: usize, message: Box<Message>) {
        let (from, to) = (message.from, message.to);
        let boot = self.hosts[index].boot();
        let receiver = self.host_of(to);
        let is_up = receiver.is_some_and(|host| self.hosts[host].process.is_some());
        let Some(receiver) = receiver.filter(|_| is_up) else {
            if self.dice.chance(NOTICED) {
                self.after_of(GIVE_UP_US, index, boot, OfProcess::Unreachable(to));
            }
            return;
        };
        let times = self.network.route(
            self.place_of(index),
            self.place_of(receiver),
            &mut self.dice,
            &mut self.watch.counters,
        );
        let [first, twin] = times;
        if let Some(time) = twin {
            let copy = message.clone();
            self.after(time, Happening::Peer(receiver, PeerNote::Raft(from, copy)));
        }
        match first {
            Some(time) => {
                self.after(
                    time,
                    Happening::Peer(receiver, PeerNote::Raft(from, message)),
                );
            }
            None if self.dice.chance(NOTICED) => {
                self.after_of(GIVE_UP_US, index, boot, OfProcess::Unreachable(to));
            }
            None => {}
        }
    }

    pub(super) fn send_snapshot(&mut self, index: usize, mut message: Box<Message>) {
        let to = message.to;
        let host = &self.hosts[index];
        let boot = host.boot();
        let record = host.process.as_ref().and_then(|process| process.snapshot());
        let receiver = self.host_of(to);
        let (Some(record), Some(receiver)) = (record, receiver) else {
            self.after_of(GIVE_UP_US, index, boot, OfProcess::SnapshotSent(to, false));
            return;
        };
        message.snapshot = Some(Snapshot {
            data: record.data.clone(),
            metadata: Some(SnapshotMetadata {
                conf_state: Some(record.membership.clone()),
                index: record.index,
                term: record.term,
            }),
        });
        let size_ms = record.data.len() as u64 / SNAPSHOT_BYTES_PER_MS;
        let (from, to_place) = (self.place_of(index), self.place_of(receiver));
        let is_lost =
            self.network.is_cut(from, to_place) || self.dice.chance(self.network.weather.loss * 4);
        if is_lost {
            self.watch.counters.hit(Sometimes::SnapshotLost);
            self.after_of(GIVE_UP_US, index, boot, OfProcess::SnapshotSent(to, false));
            return;
        }
        let late = self.dice.chance(self.network.weather.slowness * 4);
        let extra = if late { 2 * SECOND } else { 20 * MS };
        let delay = self.network.delay(&mut self.dice) * 2 + size_ms * MS + self.dice.below(extra);
        let note = PeerNote::Snapshot(message.from, message, index, boot);
        self.after(delay, Happening::Peer(receiver, note));
    }

    pub(super) fn tell_health(&mut self, index: usize) {
        let Some(process) = &self.hosts[index].process else {
            return;
        };
        let (from, health) = (process.birth.id, process.health());
        // Only who is in office has surely applied what says that an id is taken.
        let may_invite = process.leader.scheduler().is_some();
        let members = process.leader.state().members();
        let others: Vec<_> = members
            .iter()
            .filter(|(id, member)| **id != from && (member.has_joined || may_invite))
            .map(|(id, member)| (*id, member.clone()))
            .collect();
        for (to, member) in others {
            let Some(receiver) = self.host_at(&member.address) else {
                continue;
            };
            let hello = PeerHello {
                from,
                from_host: index,
                to,
                name: member.name,
                has_joined: member.has_joined,
                health: health.clone(),
            };
            self.send_note(index, receiver, || PeerNote::Hello(Box::new(hello.clone())));
        }
    }

    pub(super) fn peer_note(&mut self, index: usize, note: PeerNote) -> Checked {
        match note {
            PeerNote::Raft(from, message) => self.raft_arrives(index, from, message),
            PeerNote::Snapshot(from, message, sender, boot) => {
                let to = message.to;
                let was_up = self.hosts[index].process.is_some();
                self.raft_arrives(index, from, message)?;
                let back = self
                    .network
                    .is_cut(self.place_of(index), self.place_of(sender));
                let arrived = was_up && !back;
                let wait = if arrived { MS } else { GIVE_UP_US };
                self.after_of(wait, sender, boot, OfProcess::SnapshotSent(to, arrived));
                Ok(())
            }
            PeerNote::Hello(hello) => self.hello_arrives(index, &hello),
            PeerNote::Welcome(id) => self.feed(index, Input::Lead(leader::Event::Joined { id })),
            PeerNote::Removed => self.was_removed(index),
        }
    }

    fn raft_arrives(&mut self, index: usize, from: u64, message: Box<Message>) -> Checked {
        let host = &self.hosts[index];
        let Some(process) = host
            .process
            .as_ref()
            .filter(|_| host.id == Some(message.to))
        else {
            return Ok(());
        };
        if has_left(process, from) {
            self.refuse_removed(index, from);
            return Ok(());
        }
        self.feed(
            index,
            Input::Raft(consensus::Event::Receive { from, message }),
        )
    }

    /// Tells a removed member so.
    fn refuse_removed(&mut self, index: usize, from: u64) {
        if let Some(sender) = self.host_of(from) {
            self.send_note(index, sender, || PeerNote::Removed);
        }
    }

    fn was_removed(&mut self, index: usize) -> Checked {
        match self.hosts[index].process {
            Some(_) => self.stopped(index, &StopReason::Removed),
            None => Ok(()),
        }
    }

    fn hello_arrives(&mut self, index: usize, hello: &PeerHello) -> Checked {
        let host = &mut self.hosts[index];
        let may_join = host.id.is_none() && host.absence == Absence::Spare && !hello.has_joined;
        if may_join && host.name == hello.name {
            host.id = Some(hello.to);
            host.absence = Absence::Down;
            self.watch.membership.taken(hello.to)?;
            self.watch.counters.hit(Sometimes::MemberAdded);
            self.start_host(index)?;
        }
        let host = &self.hosts[index];
        let Some(process) = host.process.as_ref().filter(|_| host.id == Some(hello.to)) else {
            return Ok(());
        };
        if has_left(process, hello.from) {
            self.refuse_removed(index, hello.from);
            return Ok(());
        }
        let (id, health) = (hello.from, hello.health.clone());
        let to = hello.to;
        self.send_note(index, hello.from_host, || PeerNote::Welcome(to));
        self.feed(index, Input::Lead(leader::Event::Health { id, health }))
    }
}

/// Whether a member was removed, and the group goes on without it: until then its vote may be
/// needed for just that.
fn has_left(process: &Process, id: u64) -> bool {
    let membership = process.consensus.membership();
    let present = [
        &membership.voters,
        &membership.voters_outgoing,
        &membership.learners,
        &membership.learners_next,
    ];
    let is_present = present.into_iter().any(|nodes| nodes.contains(&id));
    process.leader.state().was_removed(id) && !is_present
}
