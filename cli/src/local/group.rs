//! The coordinators of a local cluster become one group: the first makes it, and the others are
//! taken in one after the other.

use super::folder::Folder;
use crate::client::{Client, Setback, is_told_by_leader};
use crate::exit::Failure;
use crate::follow::unexpected;
use evoring_protocol::client::{ClientReply, ClientRequest, ClusterView, MemberRole, MemberView};
use evoring_protocol::limits::MEMBERS;
use evoring_protocol::transport::Announcement;
use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

/// Name of the first coordinator of a cluster that began with one alone.
const ALONE: &str = "coordinator";
/// Between two looks at what is awaited.
const LOOK: Duration = Duration::from_millis(100);
/// A coordinator that has a vote already is waited for no longer than this.
const MEMBER_PATIENCE: Duration = Duration::from_secs(4);

/// A coordinator of a local cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalCoordinator {
    /// Name of its process, its folder and its certificate.
    pub name: String,
    /// Where it announces itself.
    pub announce: PathBuf,
    /// Whether its folder held a log before this start.
    pub had_log: bool,
    /// Whether it makes a new group if its folder is empty.
    pub creates: bool,
}

/// The coordinators of the cluster in `folder`: as many as are asked for, or as there were, or one.
/// Names stay what they were: one alone is `coordinator` for ever, several are `c1`, `c2` and so on.
pub fn coordinators(folder: &Folder, asked: Option<u32>) -> Result<Vec<LocalCoordinator>, Failure> {
    let numbered = |number: usize| format!("c{number}");
    let is_there = |name: &str| folder.state(name).is_dir();
    let is_first_there = is_there(ALONE) || is_there(&numbered(1));
    let others = (2..=MEMBERS).take_while(|&number| is_there(&numbered(number)));
    let known = others.count() + usize::from(is_first_there);
    let count = asked.map_or(known.max(1), |count| count as usize);
    if count < known {
        return Err(Failure::usage(format!(
            "{} holds a cluster of {known} coordinators, of which more than half must run: start it with --coordinators {known}",
            folder.root().display()
        )));
    }
    let first = match is_there(ALONE) || (count == 1 && !is_first_there) {
        true => ALONE.to_owned(),
        false => numbered(1),
    };
    let mut coordinators: Vec<LocalCoordinator> = std::iter::once(first)
        .chain((2..=count).map(numbered))
        .map(|name| LocalCoordinator {
            announce: folder.announce(&name),
            had_log: folder.has_log(&name),
            creates: false,
            name,
        })
        .collect();
    // If only the first one's log is lost, the others are the group, and take it in again.
    let is_new = coordinators.iter().all(|coordinator| !coordinator.had_log);
    coordinators[0].creates = is_new || coordinators[0].had_log;
    Ok(coordinators)
}

/// What is to be done about a coordinator, from what the leader knows of the group.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing: it votes at its address, or it was removed on purpose.
    None,
    /// Tell the leader its address, new or changed.
    Add,
    /// Forget the member whose log is lost, so that it can come back under another number.
    Remove(u64),
}

fn step(view: &ClusterView, coordinator: &LocalCoordinator, address: &str) -> Step {
    let mut members = view.members.iter();
    let member = members
        .find(|member| member.name == coordinator.name && member.role != MemberRole::Leaving);
    match member {
        None if coordinator.had_log => Step::None,
        None => Step::Add,
        // A new group has its first member without our doing.
        Some(member) if !coordinator.had_log && !coordinator.creates => Step::Remove(member.id),
        Some(member) if member.address != address => Step::Add,
        Some(_) => Step::None,
    }
}

/// Makes one group of all `coordinators`, and returns once each has a vote. `missing` says what is
/// awaited. Never gives up; whoever calls must bound it. Harmless if it was done before.
pub async fn form(
    client: &mut Client,
    coordinators: &[LocalCoordinator],
    missing: &RefCell<String>,
) -> Result<(), Failure> {
    if coordinators.len() < 2 {
        return Ok(());
    }
    for coordinator in coordinators {
        let view = leaders_view(client, missing).await?;
        let is_member = |member: &MemberView| member.name == coordinator.name;
        // One that was removed may announce nothing ever again.
        if coordinator.had_log && !view.members.iter().any(is_member) {
            continue;
        }
        // One that cannot run any more keeps nobody from using the others.
        let mut votes = view.members.iter().filter(|member| has_vote(member));
        let is_needed = !votes.any(is_member);
        let waits = tokio::time::timeout(MEMBER_PATIENCE, address_of(coordinator, missing));
        let address = match waits.await {
            Ok(address) => address,
            Err(_) if is_needed => address_of(coordinator, missing).await,
            Err(_) => continue,
        };
        if let Step::Remove(id) = step(&view, coordinator, &address) {
            ask(client, &ClientRequest::RemoveMember { id }, missing).await?;
            add(client, coordinator, address, missing).await?;
        } else if step(&view, coordinator, &address) == Step::Add {
            add(client, coordinator, address, missing).await?;
        }
    }
    Ok(())
}

/// Takes the coordinator in and waits until it has a vote.
async fn add(
    client: &mut Client,
    coordinator: &LocalCoordinator,
    address: String,
    missing: &RefCell<String>,
) -> Result<(), Failure> {
    let request = ClientRequest::AddMember {
        name: coordinator.name.clone(),
        address,
    };
    let id = match ask(client, &request, missing).await? {
        ClientReply::MemberAdded { id } => id,
        other => return Err(unexpected("AddMember", &other)),
    };
    loop {
        let view = leaders_view(client, missing).await?;
        let member = view.members.iter().find(|member| member.id == id);
        if member.is_some_and(has_vote) {
            return Ok(());
        }
        let name = &coordinator.name;
        missing.replace(
            member
                .and_then(|member| member.problem.clone())
                .map_or_else(
                    || format!("{name} does not vote yet"),
                    |problem| format!("{name} does not vote yet: {problem}"),
                ),
        );
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether a member takes part in elections.
pub fn has_vote(member: &MemberView) -> bool {
    matches!(member.role, MemberRole::Leader | MemberRole::Voter)
}

/// The group as its leader knows it.
async fn leaders_view(
    client: &mut Client,
    missing: &RefCell<String>,
) -> Result<ClusterView, Failure> {
    loop {
        match client.try_cluster().await {
            Ok(view) if is_told_by_leader(&view) => return Ok(view),
            Ok(_) => drop(missing.replace("no coordinator leads yet".to_owned())),
            Err(setback) => note(client, setback, missing).await?,
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn address_of(coordinator: &LocalCoordinator, missing: &RefCell<String>) -> String {
    loop {
        if let Some(address) = announced(coordinator) {
            return address;
        }
        missing.replace(format!(
            "{} has not announced itself in {}",
            coordinator.name,
            coordinator.announce.display()
        ));
        tokio::time::sleep(LOOK).await;
    }
}

/// Where the coordinator says that it listens.
pub fn announced(coordinator: &LocalCoordinator) -> Option<String> {
    let announcement = Announcement::read(&coordinator.announce).ok()?;
    Some(announcement.listen.to_string())
}

async fn ask(
    client: &mut Client,
    request: &ClientRequest,
    missing: &RefCell<String>,
) -> Result<ClientReply, Failure> {
    loop {
        match client.try_ask(request).await {
            Ok(reply) => return Ok(reply),
            Err(setback) => note(client, setback, missing).await?,
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn note(
    client: &mut Client,
    setback: Setback,
    missing: &RefCell<String>,
) -> Result<(), Failure> {
    if let Setback::Final(failure) = setback {
        return Err(failure);
    }
    client.heed(&setback).await;
    missing.replace(setback.into_failure().message);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Folder, asked: Option<u32>) -> Vec<String> {
        let coordinators = coordinators(folder, asked).unwrap();
        coordinators.into_iter().map(|one| one.name).collect()
    }

    fn give_log(folder: &Folder, name: &str) {
        std::fs::create_dir_all(folder.state(name)).unwrap();
        std::fs::write(folder.state(name).join("log.redb"), "").unwrap();
    }

    // Claim: names stay with the folder, a cluster can grow, and is never started with fewer than it
    // has. Method: new folders, and folders of one and of three.
    #[test]
    fn names_are_stable() {
        let base = tempfile::tempdir().unwrap();
        let new = Folder::open(&base.path().join("new")).unwrap();
        assert_eq!(names(&new, None), ["coordinator"]);
        assert_eq!(names(&new, Some(3)), ["c1", "c2", "c3"]);
        let one = Folder::open(&base.path().join("one")).unwrap();
        give_log(&one, "coordinator");
        assert_eq!(names(&one, None), ["coordinator"]);
        assert_eq!(names(&one, Some(3)), ["coordinator", "c2", "c3"]);
        let three = Folder::open(&base.path().join("three")).unwrap();
        for name in ["c1", "c2", "c3"] {
            give_log(&three, name);
        }
        assert_eq!(names(&three, None), ["c1", "c2", "c3"]);
        assert_eq!(names(&three, Some(5)), ["c1", "c2", "c3", "c4", "c5"]);
        let refusal = coordinators(&three, Some(1)).unwrap_err();
        assert!(refusal.message.contains("--coordinators 3"), "{refusal}");
    }

    // Claim: the first coordinator makes a group of its own only where there is none. Method: all
    // combinations of two logs.
    #[test]
    fn no_second_group_is_made() {
        for (first, second, creates) in [
            (false, false, true),
            (true, false, true),
            (true, true, true),
            (false, true, false),
        ] {
            let base = tempfile::tempdir().unwrap();
            let folder = Folder::open(base.path()).unwrap();
            for (name, is_there) in [("c1", first), ("c2", second)] {
                if is_there {
                    give_log(&folder, name);
                }
            }
            let all = coordinators(&folder, Some(3)).unwrap();
            let flags: Vec<bool> = all.iter().map(|one| one.creates).collect();
            assert_eq!(flags, [creates, false, false], "{first} {second}");
        }
    }

    fn member(id: u64, name: &str, address: &str, role: MemberRole) -> MemberView {
        MemberView {
            id,
            name: name.to_owned(),
            address: address.to_owned(),
            role,
            matched: None,
            health: None,
            heard_ms: None,
            problem: None,
        }
    }

    // Claim: a restart in the same folder adds nobody twice; a new address is told, a lost disk gets a
    // new number, and who was removed stays away. Method: what the leader knows against what was there.
    #[test]
    fn steps() {
        let view = ClusterView {
            answered_by: "c1".to_owned(),
            group: "g".to_owned(),
            version: 3,
            term: 4,
            leader: Some(1),
            commit: 5,
            members: vec![
                member(1, "c1", "h:1", MemberRole::Leader),
                member(2, "c2", "h:2", MemberRole::Voter),
                member(3, "c3", "h:3", MemberRole::Leaving),
            ],
        };
        let step = |name: &str, address: &str, had_log: bool, creates: bool| {
            let coordinator = LocalCoordinator {
                name: name.to_owned(),
                announce: PathBuf::new(),
                had_log,
                creates,
            };
            step(&view, &coordinator, address)
        };
        assert_eq!(step("c1", "h:1", false, true), Step::None);
        assert_eq!(step("c2", "h:2", true, false), Step::None);
        assert_eq!(step("c2", "h:9", true, false), Step::Add);
        assert_eq!(step("c2", "h:2", false, false), Step::Remove(2));
        assert_eq!(step("c3", "h:3", true, false), Step::None);
        assert_eq!(step("c3", "h:3", false, false), Step::Add);
        assert_eq!(step("c4", "h:4", false, false), Step::Add);
    }
}
