//! Who belongs to the group of coordinators, and which version of the records all of them read.
//!
//! - `GROUP-1`: an id is given once and never again: whoever comes back without its disk is another
//!   member.
//! - `GROUP-2`: the version of the records only grows, and only to what every member has said that
//!   it reads. What is newer than the version in force is in no entry.

use super::{Outcome, State};
use evoring_protocol::ErrorCode;
use evoring_protocol::limits::{MEMBERS, TEXT_BYTES};
use evoring_protocol::peer::GroupId;
#[cfg(evoring_plants)]
use evoring_protocol::plants::{Plant, is_planted};
use serde::{Deserialize, Serialize};

/// Oldest version of the records that this build reads.
pub const OLDEST_RECORDS: u16 = 2;
/// Newest version of the records that this build reads. 3 brought labels, 4 the keys of requests for
/// them.
pub const NEWEST_RECORDS: u16 = 4;

/// A coordinator of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Name in its certificate.
    pub name: String,
    /// `HOST:PORT` where it listens.
    pub address: String,
    /// Whether its process has taken its id for good.
    pub has_joined: bool,
}

impl State {
    /// State of a new group, whose only member has the id 1.
    pub fn of_new_group(group: GroupId, name: String, address: String) -> Self {
        let mut state = Self {
            group,
            ..Self::default()
        };
        state.members.insert(
            1,
            Member {
                name,
                address,
                has_joined: true,
            },
        );
        state.next_member = 2;
        state
    }

    /// The group's number.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Members by id, those that are on their way in included.
    pub fn members(&self) -> &std::collections::BTreeMap<u64, Member> {
        &self.members
    }

    /// Lowest id that was never given.
    pub fn next_member(&self) -> u64 {
        self.next_member
    }

    /// Whether the member of this id was removed.
    pub fn was_removed(&self, id: u64) -> bool {
        id < self.next_member && !self.members.contains_key(&id)
    }

    /// Version of the records in force (`GROUP-2`).
    pub fn version(&self) -> u16 {
        self.version
    }

    pub(super) fn add_member(&mut self, name: String, address: String) -> Outcome {
        if let Some((&id, member)) = self.members.iter_mut().find(|(_, m)| m.name == name) {
            member.address = address;
            return Outcome::MemberAdded { id };
        }
        let problem = match () {
            () if self.members.len() >= MEMBERS => Some(format!(
                "the group has {} members, at most {MEMBERS} are allowed; remove one first",
                self.members.len()
            )),
            // Whoever takes requests refuses what is far shorter; all members must agree here.
            () if name.len() + address.len() > TEXT_BYTES => Some(format!(
                "name and address have {} bytes, at most {TEXT_BYTES} are allowed",
                name.len() + address.len()
            )),
            () => None,
        };
        if let Some(message) = problem {
            let code = ErrorCode::Invalid;
            return Outcome::Refused { code, message };
        }
        #[cfg(evoring_plants)]
        if is_planted(Plant::MemberIdReused) {
            self.next_member = self.members.keys().max().map_or(1, |id| id + 1);
        }
        let id = self.next_member;
        self.next_member += 1;
        let has_joined = false;
        self.members.insert(
            id,
            Member {
                name,
                address,
                has_joined,
            },
        );
        Outcome::MemberAdded { id }
    }

    pub(super) fn remove_member(&mut self, id: u64) -> Outcome {
        let voters = self.members.values().filter(|m| m.has_joined).count();
        let refused = |code, message| Outcome::Refused { code, message };
        match self.members.get(&id) {
            // Asked again, by somebody who may not have heard the answer.
            None if self.was_removed(id) => Outcome::Done,
            None => refused(
                ErrorCode::NotFound,
                format!("no member {id}; `evoring cluster status` lists them"),
            ),
            Some(member) if member.has_joined && voters == 1 => refused(
                ErrorCode::Invalid,
                format!("member {id} is the only one; add another first"),
            ),
            Some(_) => {
                self.members.remove(&id);
                Outcome::Done
            }
        }
    }

    pub(super) fn member_joined(&mut self, id: u64) {
        if let Some(member) = self.members.get_mut(&id) {
            member.has_joined = true;
        }
    }

    pub(super) fn raise_version(&mut self, version: u16) {
        self.version = self.version.max(version.min(NEWEST_RECORDS));
    }
}
