//! The group as a coordinator knows it: who leads, how the members are, which records all read.

use super::proposals::Waiter;
use super::{Action, Leader, LeaderConfig};
use crate::consensus::PeerProgress;
use crate::scheduler::{ConnectionId, Now};
use crate::state::{Command, Member};
use evoring_protocol::client::{ClusterView, LeaderHint, MemberRole, MemberView};
use evoring_protocol::peer::PeerHealth;
#[cfg(evoring_plants)]
use evoring_protocol::plants::{Plant, is_planted};
use evoring_protocol::worker::WorkerCommand;
use raft::eraftpb::ConfState;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// What a member told is out of date after this, for the version of the records.
const HEALTH_MS: u64 = 5_000;
/// Between two attempts of a leader to give way.
const GIVES_WAY_MS: u64 = 2_000;

/// How the group stands, from consensus.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GroupReport {
    /// The current term.
    pub term: u64,
    /// The committed index.
    pub commit: u64,
    /// Index of this node's last entry.
    pub last: u64,
    /// The membership in force, as of what is durable here.
    pub membership: ConfState,
    /// The membership as of what is applied here.
    pub applied: ConfState,
    /// Where the others stand, from a leader.
    pub progress: BTreeMap<u64, PeerProgress>,
}

impl GroupReport {
    /// Nodes of the membership in force; empty before the first report. Who was taken in counts from
    /// when that is applied, who has left until that is durable.
    pub fn nodes(&self) -> BTreeSet<u64> {
        let mut nodes = Self::nodes_of(&self.membership);
        nodes.extend(Self::nodes_of(&self.applied));
        nodes
    }

    /// Nodes of a membership: those that vote, did so before the change that is under way, learn, or
    /// will.
    pub fn nodes_of(membership: &ConfState) -> BTreeSet<u64> {
        let lists = [
            &membership.voters,
            &membership.voters_outgoing,
            &membership.learners,
            &membership.learners_next,
        ];
        lists.into_iter().flatten().copied().collect()
    }
}

/// Soft knowledge about the group.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub report: GroupReport,
    leader: Option<u64>,
    health: BTreeMap<u64, (u64, PeerHealth)>,
    problems: BTreeMap<u64, String>,
    /// Members whose processes have taken their ids, which is not known to be replicated yet, and the
    /// term in which that was proposed last.
    joining: BTreeMap<u64, Option<u64>>,
    /// When this node gives way next, at the earliest.
    gives_way_ms: u64,
    /// Term in which a version was proposed last, and which.
    version_proposed: (u64, u16),
}

impl Group {
    /// How the group stands; what was known of removed members is of no use any more.
    pub(super) fn stands(&mut self, report: GroupReport, members: &BTreeMap<u64, Member>) {
        let nodes = report.nodes();
        // A member that is yet to be taken in may have told its problem already.
        let is_known = |id: &u64| nodes.contains(id) || members.contains_key(id);
        self.health.retain(|id, _| is_known(id));
        self.problems.retain(|id, _| is_known(id));
        self.report = report;
    }

    pub(super) fn heard(&mut self, id: u64, health: PeerHealth, now: Now) {
        self.health.insert(id, (now.mono_ms, health));
    }

    pub(super) fn contact(&mut self, id: u64, problem: Option<String>) {
        match problem {
            Some(problem) => self.problems.insert(id, problem),
            None => self.problems.remove(&id),
        };
    }
}

impl Group {
    /// The voter that holds most of those that said lately that nothing ails their disk.
    fn well(&self, own: u64, now: Now) -> Option<u64> {
        let is_well = |id: &u64| {
            let heard = self.health.get(id);
            heard.is_some_and(|(heard_ms, health)| {
                now.mono_ms - heard_ms <= HEALTH_MS && health.trouble.is_none()
            })
        };
        let voters = self.report.membership.voters.iter().copied();
        let matched = |id: &u64| {
            self.report
                .progress
                .get(id)
                .map(|progress| progress.matched)
        };
        voters
            .filter(|id| *id != own && is_well(id))
            .max_by_key(|id| (matched(id), *id))
    }
}

/// Whether a node votes, and the change that gave it its vote is over: until then the majority of before
/// is needed too, and the group can spare nobody of that.
fn has_vote(membership: &ConfState, id: u64) -> bool {
    let outgoing = &membership.voters_outgoing;
    let was_voter = outgoing.is_empty() || outgoing.contains(&id);
    was_voter && membership.voters.contains(&id)
}

impl LeaderConfig {
    /// Whether others shall know this coordinator's own address instead of the one that they know. One
    /// that nobody named only does if it is the same machine at another port.
    fn replaces(&self, known: &str) -> bool {
        let (own, known_at) = (self.address.parse(), known.parse());
        let is_same_machine = |own: SocketAddr, known: SocketAddr| own.ip() == known.ip();
        let is_found =
            matches!((own, known_at), (Ok(own), Ok(known)) if is_same_machine(own, known));
        known != self.address && (self.is_advertised || is_found)
    }
}

impl Leader {
    /// A leader whose disk is full gives way to a member whose disk is not.
    pub(super) fn give_way(&mut self, now: Now) {
        let is_due = now.mono_ms >= self.group.gives_way_ms;
        if self.scheduler.is_none() || self.read_only().is_none() || !is_due {
            return;
        }
        if let Some(to) = self.group.well(self.config.id, now) {
            self.group.gives_way_ms = now.mono_ms + GIVES_WAY_MS;
            self.out.push(Action::HandOver { to });
        }
    }

    /// Whether this node certainly does not lead; alone in its group it only has not started to. One
    /// that a group took for its member but has told nothing yet belongs to no membership that it
    /// knows of, for ever if it is removed before.
    pub(super) fn is_elsewhere(&self) -> bool {
        let is_alone = self.state.members().len() <= 1 && self.nodes().contains(&self.config.id);
        self.leads.is_none() && !is_alone
    }

    /// Nodes of the membership in force, as of the last report; empty before the first.
    pub fn nodes(&self) -> BTreeSet<u64> {
        self.group.report.nodes()
    }

    /// Whether another coordinator is known to lead.
    pub fn knows_leader(&self) -> bool {
        self.group.leader.is_some_and(|id| id != self.config.id)
    }

    pub(super) fn leader_hint(&self) -> Option<LeaderHint> {
        let id = self.group.leader.filter(|id| *id != self.config.id)?;
        let member = self.state.members().get(&id)?;
        Some(LeaderHint {
            name: member.name.clone(),
            address: member.address.clone(),
        })
    }

    pub(super) fn leader_changed(&mut self, leader: Option<u64>) {
        self.group.leader = leader;
        if leader.is_some_and(|id| id != self.config.id) {
            for connection in std::mem::take(&mut self.early).into_keys() {
                self.send_elsewhere(connection, "another coordinator leads");
            }
        }
    }

    /// Ends a worker's connection, and says who leads.
    pub(super) fn send_elsewhere(&mut self, connection: ConnectionId, reason: &str) {
        let leader = self.leader_hint();
        self.out.push(Action::Send {
            connection,
            command: WorkerCommand::NotLeader { leader },
        });
        self.out.push(Action::Close {
            connection,
            reason: reason.to_owned(),
        });
    }

    /// A member's process has taken its id, for good; it may vote once that is replicated. Its
    /// connection says so once, so it is remembered until then.
    pub(super) fn joined(&mut self, id: u64, now: Now) {
        if self.state.members().contains_key(&id) {
            self.group.joining.entry(id).or_default();
            self.record_joined(now);
        }
    }

    /// Proposes what is known of joined members, once in each term: a proposal of an earlier one may be
    /// lost.
    fn record_joined(&mut self, now: Now) {
        let members = self.state.members();
        let waits = |id: &u64| members.get(id).is_some_and(|member| !member.has_joined);
        self.group.joining.retain(|id, _| waits(id));
        let Some(term) = self.leads.filter(|_| self.scheduler.is_some()) else {
            return;
        };
        for (&id, proposed) in &mut self.group.joining {
            if proposed.replace(term) != Some(term) {
                self.proposals
                    .add(Command::MemberJoined { id }, Waiter::Nobody, now);
            }
        }
    }

    /// A leader that takes office and listens elsewhere than the group knows says so; and what it heard
    /// of joined members before.
    pub(super) fn record_own_address(&mut self, now: Now) {
        self.record_joined(now);
        let Some(member) = self.state.members().get(&self.config.id) else {
            return;
        };
        if self.config.replaces(&member.address) {
            let (name, address) = (member.name.clone(), self.config.address.clone());
            self.proposals
                .add(Command::AddMember { name, address }, Waiter::Nobody, now);
        }
    }

    /// Raises the version of the records once every member has said that it reads it (`GROUP-2`).
    pub(super) fn raise_version(&mut self, now: Now) {
        if self.scheduler.is_none() || self.state.members().is_empty() {
            return;
        }
        let reads = |id: &u64| {
            if *id == self.config.id {
                return Some(self.state.reads());
            }
            let (heard_ms, health) = self.group.health.get(id)?;
            (now.mono_ms - heard_ms <= HEALTH_MS).then_some(health.version)
        };
        // One that was removed applies entries until it has left the membership in force.
        let mut ids = self.nodes();
        ids.extend(self.state.members().keys());
        let all: Option<Vec<u16>> = ids.iter().map(reads).collect();
        #[cfg(evoring_plants)]
        let all = match is_planted(Plant::VersionRaisedEarly) {
            true => Some(vec![self.state.reads()]),
            false => all,
        };
        let Some(version) = all.and_then(|versions| versions.into_iter().min()) else {
            return;
        };
        // What was proposed in an earlier term may be lost.
        let proposal = (self.term(), version);
        if version > self.state.version() && proposal != self.group.version_proposed {
            self.group.version_proposed = proposal;
            self.proposals
                .add(Command::RaiseVersion { version }, Waiter::Nobody, now);
        }
    }

    /// The group for people.
    pub(super) fn cluster(&self, now: Now) -> ClusterView {
        let report = &self.group.report;
        let mut members: BTreeMap<u64, MemberView> = BTreeMap::new();
        for (&id, member) in self.state.members() {
            members.insert(id, self.member_view(id, &member.name, &member.address, now));
        }
        for id in report.nodes() {
            members
                .entry(id)
                .or_insert_with(|| self.member_view(id, "", "", now));
        }
        ClusterView {
            answered_by: self.config.name.clone(),
            group: self.state.group().to_string(),
            version: self.state.version(),
            term: report.term,
            leader: self.group.leader,
            commit: report.commit,
            members: members.into_values().collect(),
        }
    }

    fn member_view(&self, id: u64, name: &str, address: &str, now: Now) -> MemberView {
        let report = &self.group.report;
        let is_wanted = self.state.members().contains_key(&id);
        let role = match () {
            () if !is_wanted => MemberRole::Leaving,
            () if self.group.leader == Some(id) => MemberRole::Leader,
            () if has_vote(&report.membership, id) => MemberRole::Voter,
            () if GroupReport::nodes_of(&report.membership).contains(&id) => MemberRole::Learner,
            () => MemberRole::Joining,
        };
        let matched = match id == self.config.id {
            true => Some(report.last),
            false => report.progress.get(&id).map(|progress| progress.matched),
        };
        let health = self.group.health.get(&id);
        MemberView {
            id,
            name: name.to_owned(),
            address: address.to_owned(),
            role,
            matched,
            health: health.map(|(_, health)| health.clone()),
            heard_ms: health.map(|(heard_ms, _)| now.mono_ms.saturating_sub(*heard_ms)),
            problem: self.group.problems.get(&id).cloned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{GroupReport, has_vote};
    use crate::consensus::Committed;
    use crate::leader::{Action, Denial, Event, Leader, LeaderConfig, Secrets, Ticket};
    use crate::scheduler::{ConnectionId, Now, TICK_MS};
    use crate::state::{Batch, Command, NEWEST_RECORDS, OLDEST_RECORDS, State};
    use evoring_protocol::WorkerId;
    use evoring_protocol::numerics::NumericsClass;
    use evoring_protocol::peer::GroupId;
    use evoring_protocol::worker::{Hello, WorkerCommand};
    use raft::eraftpb::ConfState;

    /// A leader whose entries are committed by hand.
    struct Office {
        leader: Leader,
        index: u64,
        now: Now,
    }

    impl Office {
        fn feed(&mut self, event: Event) -> Vec<Command> {
            let actions = self.leader.handle(event, self.now).unwrap();
            let entries = actions.into_iter().filter_map(|action| match action {
                Action::Propose { data, .. } => Some(data),
                _ => None,
            });
            let decoded = |data: Vec<u8>| Batch::decode(&data, NEWEST_RECORDS).unwrap();
            entries.flat_map(|data| decoded(data).commands).collect()
        }

        fn commit(&mut self, term: u64, commands: Vec<Command>) -> Vec<Command> {
            self.index += 1;
            let batch = Batch {
                time_ms: 0,
                commands,
            };
            let entry = Committed {
                index: self.index,
                term,
                proposal: None,
                data: batch.encode(OLDEST_RECORDS),
            };
            self.feed(Event::Committed(vec![entry]))
        }

        fn tick(&mut self) -> Vec<Command> {
            self.now.mono_ms += TICK_MS;
            self.feed(Event::Tick)
        }
    }

    fn office() -> Office {
        let mut state = State::of_new_group(GroupId([1; 16]), "a".into(), "a:1".into());
        state.hold_version(OLDEST_RECORDS);
        state.hold_version(NEWEST_RECORDS);
        assert_eq!(state.version(), OLDEST_RECORDS);
        let config = LeaderConfig::of_test("a", "a:1");
        let now = Now {
            mono_ms: 0,
            wall_ms: 0,
        };
        Office {
            leader: Leader::new(config, state, Secrets::new([1; 32])),
            index: 1,
            now,
        }
    }

    fn hello() -> Hello {
        Hello {
            build: "test".into(),
            worker: WorkerId::new("w").unwrap(),
            incarnation: 1,
            process: 1,
            host: "h".into(),
            slots: 1,
            numerics: NumericsClass("cpu".into()),
            metrics: None,
            leases: Vec::new(),
            ranks: Vec::new(),
        }
    }

    /// A membership of these voters, applied.
    fn report(voters: &[u64]) -> Event {
        let membership = ConfState {
            voters: voters.to_vec(),
            ..ConfState::default()
        };
        Event::Group(Box::new(GroupReport {
            applied: membership.clone(),
            membership,
            ..GroupReport::default()
        }))
    }

    const KEY: Command = Command::SetLeaseKey { key: [2; 32] };

    /// Claim: a leader that lost its office with the proposal of a new version proposes it again in
    /// its next term. Method: the same node leads twice; the first proposal is never committed.
    #[test]
    fn a_lost_version_is_proposed_again() {
        let mut office = office();
        let raise = Command::RaiseVersion {
            version: NEWEST_RECORDS,
        };
        for term in 1..=2 {
            office.feed(Event::Elected { term });
            office.commit(term, vec![KEY]);
            assert_eq!(office.tick(), std::slice::from_ref(&raise), "term {term}");
            assert_eq!(office.tick(), []);
            office.feed(Event::SteppedDown);
        }
    }

    /// Claim: the version is not raised while one that was removed, and may not read it, still belongs to
    /// the membership in force: it applies entries, and its vote may be needed.
    /// Method: a member is removed, and leaves the membership later (simulated: seed 5816).
    #[test]
    fn a_leaving_member_holds_the_version() {
        let mut office = office();
        let add = Command::AddMember {
            name: "b".into(),
            address: "b:1".into(),
        };
        office.feed(report(&[1, 2]));
        office.feed(Event::Elected { term: 1 });
        office.commit(1, vec![KEY, add]);
        assert_eq!(office.tick(), []);
        office.commit(1, vec![Command::RemoveMember { id: 2 }]);
        assert_eq!(office.tick(), []);
        office.feed(report(&[1]));
        let raise = Command::RaiseVersion {
            version: NEWEST_RECORDS,
        };
        assert_eq!(office.tick(), std::slice::from_ref(&raise));
    }

    /// Claim: a coordinator that a group took in, but told nothing yet, sends workers and clients
    /// elsewhere; the only one of its group lets them wait until it leads.
    /// Method: a hello and a write, each before and after the first report, without an election
    /// (simulated: seed 1116; it was removed at once, and three workers waited for it for ever).
    #[test]
    fn who_knows_no_group_sends_elsewhere() {
        let connection = ConnectionId(7);
        let is_sent_away = |leader: &mut Leader, now| {
            let hello = Event::Hello {
                connection,
                hello: hello(),
            };
            let write = Event::Write {
                ticket: Ticket(1),
                command: KEY,
            };
            let mut actions = leader.handle(hello, now).unwrap();
            actions.extend(leader.handle(write, now).unwrap());
            let is_said = |action: &Action| {
                matches!(
                    action,
                    Action::Send {
                        command: WorkerCommand::NotLeader { leader: None },
                        ..
                    }
                )
            };
            let is_denied = |action: &Action| {
                matches!(
                    action,
                    Action::Reply {
                        outcome: Err(Denial::NotLeader(None)),
                        ..
                    }
                )
            };
            let said = actions.iter().any(is_said);
            assert_eq!(actions.iter().any(is_denied), said);
            said
        };
        let Office { leader, now, .. } = &mut office();
        leader.handle(report(&[1]), *now).unwrap();
        assert!(!is_sent_away(leader, *now));
        let config = LeaderConfig::of_test("a", "a:1");
        let mut joiner = Leader::new(config, State::default(), Secrets::new([1; 32]));
        assert!(is_sent_away(&mut joiner, *now));
        joiner.handle(report(&[]), *now).unwrap();
        assert!(is_sent_away(&mut joiner, *now));
    }

    /// Claim: what a member that is yet to be taken in told of its problem stays; of one that was
    /// removed nothing does.
    /// Method: two members, of which Raft knows neither; a report; both are removed; a report.
    #[test]
    fn problems_of_members_alone_are_kept() {
        let mut office = office();
        let added = ["b", "c"].map(|name| Command::AddMember {
            name: name.into(),
            address: format!("{name}:1"),
        });
        office.commit(1, added.to_vec());
        let known = |office: &Office| office.leader.group.problems.keys().copied().collect();
        for id in [2, 3] {
            let problem = Some("cannot be reached".to_owned());
            office.feed(Event::Contact { id, problem });
        }
        office.feed(Event::Group(Box::default()));
        let before: Vec<u64> = known(&office);
        assert_eq!(before, [2, 3]);
        office.commit(1, vec![Command::RemoveMember { id: 3 }]);
        office.feed(Event::Group(Box::default()));
        let after: Vec<u64> = known(&office);
        assert_eq!(after, [2]);
    }

    /// Claim: that a process has taken its id is proposed in each term until it is replicated, although
    /// its connection says it once; then no more, and not for whoever is no member.
    /// Method: the same node leads twice, and the first proposal is never committed; it hears of a
    /// member, of a stranger, and of the member again.
    #[test]
    fn a_lost_joining_is_proposed_again() {
        let mut office = office();
        let add = Command::AddMember {
            name: "b".into(),
            address: "b:1".into(),
        };
        office.feed(Event::Elected { term: 1 });
        office.commit(1, vec![KEY, add]);
        let joined = Command::MemberJoined { id: 2 };
        let first = office.feed(Event::Joined { id: 2 });
        assert_eq!(first, std::slice::from_ref(&joined));
        assert_eq!(office.feed(Event::Joined { id: 2 }), []);
        assert_eq!(office.feed(Event::Joined { id: 3 }), []);
        office.feed(Event::SteppedDown);
        assert_eq!(office.feed(Event::Joined { id: 2 }), []);
        office.feed(Event::Elected { term: 2 });
        let again = office.commit(2, vec![KEY]);
        assert_eq!(again, std::slice::from_ref(&joined));
        office.commit(2, vec![joined]);
        office.feed(Event::SteppedDown);
        office.feed(Event::Elected { term: 3 });
        assert_eq!(office.commit(3, vec![KEY]), []);
        assert_eq!(office.feed(Event::Joined { id: 2 }), []);
    }

    /// Claim: who is being given a vote has none before the change is over.
    /// Method: a membership of two that becomes one of three, before, during and after.
    #[test]
    fn votes_count_after_the_change() {
        let membership = |voters: &[u64], outgoing: &[u64]| ConfState {
            voters: voters.to_vec(),
            voters_outgoing: outgoing.to_vec(),
            ..ConfState::default()
        };
        for (membership, expected) in [
            (membership(&[1, 2], &[]), [true, true, false]),
            (membership(&[1, 2, 3], &[1, 2]), [true, true, false]),
            (membership(&[1, 2, 3], &[]), [true, true, true]),
        ] {
            assert_eq!([1, 2, 3].map(|id| has_vote(&membership, id)), expected);
        }
    }

    /// Claim: a leader tells the group its own address where somebody named it, or where it listens at
    /// another port than the group knows; what a person told the group otherwise stays.
    /// Method: pairs of addresses, each with and without a name given.
    #[test]
    fn which_address_is_told() {
        let config = |address: &str, is_advertised| LeaderConfig {
            is_advertised,
            ..LeaderConfig::of_test("a", address)
        };
        for (own, known, if_found) in [
            ("10.0.0.2:7400", "10.0.0.2:7400", None),
            ("10.0.0.2:7401", "10.0.0.2:7400", Some(true)),
            ("10.0.0.2:7400", "192.0.2.9:7400", Some(false)),
            ("10.0.0.2:7400", "c2.example:7400", Some(false)),
            ("[::1]:7401", "[::1]:7400", Some(true)),
        ] {
            let told = |is_advertised| config(own, is_advertised).replaces(known);
            assert_eq!(told(false), if_found == Some(true), "{own} {known}");
            assert_eq!(told(true), if_found.is_some(), "{own} {known}");
        }
    }
}
