//! Connections between coordinators. Each keeps one to every other member and only speaks on those
//! that it made; what it hears comes on those that others made.
//!
//! - `PEER-1`: a message of Raft counts as its connection's, whose certificate names the member,
//!   also once the member of that id becomes known under another name.
//! - `PEER-2`: a process answers to its own id alone: whoever lost its disk has none (see
//!   [`super::member_file`]).
//! - `PEER-3`: where the group knows a member to listen comes first; where the member itself says so,
//!   only if nobody of its name is found there.

mod complaints;
mod incoming;
mod link;
mod queue;

pub(super) use complaints::Complaints;
pub(super) use incoming::{Doorkeeper, first_word, serve};
pub(super) use link::Outgoing;

use super::leader_thread::{Inbox, Standing};
use super::raft_thread::{Input, RaftSender};
use crate::consensus;
use crate::state::Member;
use evoring_protocol::client::is_address;
use evoring_protocol::peer::{GroupId, PeerHealth};
use evoring_protocol::transport::Connector;
use link::Link;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// What all links share.
#[derive(Debug, Clone)]
pub(super) struct Common {
    pub connector: Connector,
    pub group: GroupId,
    pub id: u64,
    /// Where this process listens, as others reach it.
    pub address: String,
    pub raft: RaftSender,
    pub inbox: Inbox,
    /// How this coordinator stands: only one in office gives ids.
    pub standing: watch::Receiver<Arc<Standing>>,
    pub runtime: tokio::runtime::Handle,
}

/// The links to all other members.
#[derive(Debug)]
pub(super) struct Links {
    common: Common,
    links: BTreeMap<u64, Link>,
    /// Names and addresses of coordinators, as they said last: they say it once for each connection.
    hints: BTreeMap<u64, (String, String)>,
    health: watch::Sender<Option<PeerHealth>>,
}

impl Links {
    pub(super) fn new(common: Common) -> Self {
        Self {
            common,
            links: BTreeMap::new(),
            hints: BTreeMap::new(),
            health: watch::channel(None).0,
        }
    }

    /// Sends if there is room, and a way.
    pub(super) fn send(&mut self, to: u64, outgoing: Outgoing) -> bool {
        if !self.links.contains_key(&to)
            && let Some((name, address)) = self.hints.get(&to).cloned()
        {
            self.start(to, name, address, true);
        }
        self.links.get(&to).is_some_and(|link| link.send(outgoing))
    }

    /// Notes where a coordinator of this certificate says that it listens. This node may be behind and
    /// not know it; or it is where the group does not know it, and without it there may be no majority
    /// that could learn that (`PEER-3`).
    pub(super) fn hint(&mut self, id: u64, name: String, address: String) {
        const HINTS: usize = 2 * evoring_protocol::limits::MEMBERS;
        if id == self.common.id || !is_address(&address) {
            return;
        }
        let link = self.links.get(&id);
        if let Some(link) = link {
            link.heard(&name, address.clone());
        }
        if link.is_some() || self.hints.len() < HINTS || self.hints.contains_key(&id) {
            self.hints.insert(id, (name, address));
        }
    }

    /// Links these; others stay until [`Links::retain`].
    pub(super) fn set_members(&mut self, members: &BTreeMap<u64, Member>) {
        for (&id, member) in members {
            if id == self.common.id {
                continue;
            }
            let (name, address) = (member.name.clone(), member.address.clone());
            let is_known = self
                .links
                .get(&id)
                .is_some_and(|link| link.is_to(&name, &address, member.has_joined));
            if !is_known {
                self.start(id, name, address, member.has_joined);
            }
        }
    }

    /// Ends the links to coordinators that belong neither to the group nor to its membership in
    /// force: until then they must hear that they are leaving.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(u64) -> bool) {
        let unwanted = self.links.keys().copied().filter(|id| !is_wanted(*id));
        for id in unwanted.collect::<Vec<_>>() {
            self.end(id);
        }
        self.hints.retain(|&id, _| is_wanted(id));
    }

    /// What this process tells of itself from now on.
    pub(super) fn set_health(&self, health: &PeerHealth) {
        self.health.send_replace(Some(health.clone()));
    }

    /// Ends a link. A snapshot that waits there is lost, which `raft` must hear: it sends nothing more
    /// until it knows what became of it.
    fn end(&mut self, id: u64) {
        if self.links.remove(&id).is_some() {
            let event = consensus::Event::SnapshotSent {
                to: id,
                arrived: false,
            };
            self.common.raft.send(Input::Core(event));
        }
    }

    fn start(&mut self, id: u64, name: String, address: String, has_joined: bool) {
        self.end(id);
        let hint = self.hints.get(&id).cloned();
        let link = Link::start(
            self.common.clone(),
            id,
            name,
            address,
            has_joined,
            self.health.subscribe(),
        );
        if let Some((name, address)) = hint {
            link.heard(&name, address);
        }
        self.links.insert(id, link);
    }
}

#[cfg(test)]
mod incoming_tests;
#[cfg(test)]
mod tests;
