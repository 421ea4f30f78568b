//! `evoring cluster`: the group of coordinators.

use super::Context;
use super::signals::Signals;
use crate::args::{AddMemberArgs, GroupCommand, RemoveMemberArgs};
use crate::client::{Client, LONG_PATIENCE, is_told_by_leader, leader};
use crate::exit::{Exit, Failure};
use crate::follow::unexpected;
use crate::local::group::has_vote;
use crate::output::json::{ClusterJson, lag};
use crate::output::table::{Align, Table, thousands};
use crate::output::time::duration;
use crate::output::{print, print_json, say};
use evoring_protocol::client::{ClientReply, ClientRequest, ClusterView, MemberRole, MemberView};
use std::time::{Duration, Instant};

/// Between two looks at what is awaited.
const LOOK: Duration = Duration::from_millis(250);
/// How long another coordinator may take to lead: several elections.
const HANDOVER: Duration = Duration::from_secs(10);

/// Runs one of the commands; a signal ends the waiting, and undoes nothing.
pub(super) async fn group(context: &Context, command: GroupCommand) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let mut client = context.client()?;
    let work = async {
        match command {
            GroupCommand::Status => status(context, &mut client).await,
            GroupCommand::Add(arguments) => add(context, &mut client, arguments).await,
            GroupCommand::Remove(arguments) => remove(context, &mut client, arguments).await,
            GroupCommand::Transfer => transfer(context, &mut client).await,
        }
    };
    let exit = tokio::select! {
        biased;
        exit = signals.next() => exit,
        done = work => done.map(|()| Exit::Ok)?,
    };
    client.close().await;
    Ok(exit)
}

async fn status(context: &Context, client: &mut Client) -> Result<(), Failure> {
    let view = client.cluster().await?;
    if context.style.json {
        return print_json(&ClusterJson::from(&view));
    }
    print(&status_text(&view, context.style.colour))
}

fn status_text(view: &ClusterView, is_bold: bool) -> String {
    let group = match view.group.as_str() {
        "" => "none: this coordinator waits to be taken in (`evoring cluster add`)",
        group => group,
    };
    let leader = match (leader(view), view.leader) {
        (Some(leader), _) => format!("{} at {}", leader.name, leader.address),
        (None, Some(id)) => format!("member {id}"),
        (None, None) => {
            "UNKNOWN: nothing can be changed until more than half of the members run and see each other"
                .to_owned()
        }
    };
    let mut text = String::new();
    let mut line = |name: &str, value: &str| text.push_str(&format!("{name:<12}{value}\n"));
    line("group", group);
    line("leader", &leader);
    line("term", &view.term.to_string());
    line("commit", &thousands(view.commit));
    line("records", &format!("version {}", view.version));
    line("told by", &view.answered_by);
    if !view.members.is_empty() {
        text.push('\n');
        text.push_str(&members_table(view).render(is_bold));
    }
    text
}

fn members_table(view: &ClusterView) -> Table {
    let mut table = Table::new(vec![
        ("id", Align::Right),
        ("name", Align::Left),
        ("role", Align::Left),
        ("address", Align::Left),
        ("matched", Align::Right),
        ("lag", Align::Right),
        ("log", Align::Right),
        ("free", Align::Right),
        ("heard", Align::Right),
        ("build", Align::Left),
        ("records", Align::Right),
        ("trouble", Align::Left),
    ]);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for member in &view.members {
        let health = member.health.as_ref();
        let troubles = [
            member.problem.clone(),
            health.and_then(|health| health.trouble.clone()),
        ];
        table.row(vec![
            member.id.to_string(),
            member.name.clone(),
            member.role.name().to_owned(),
            member.address.clone(),
            or_dash(member.matched.map(thousands)),
            or_dash(lag(view, member).map(thousands)),
            or_dash(health.map(|health| size_text(health.log_bytes))),
            or_dash(health.and_then(|health| health.free_bytes).map(size_text)),
            or_dash(member.heard_ms.map(|ago| format!("{} ago", duration(ago)))),
            or_dash(health.map(|health| health.build.clone())),
            or_dash(health.map(|health| health.version.to_string())),
            troubles
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join("; "),
        ]);
    }
    table
}

fn size_text(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

async fn add(
    context: &Context,
    client: &mut Client,
    arguments: AddMemberArgs,
) -> Result<(), Failure> {
    let AddMemberArgs {
        name,
        address,
        no_wait,
    } = arguments;
    let request = ClientRequest::AddMember {
        name: name.clone(),
        address: address.clone(),
    };
    let id = match client.ask(&request).await? {
        ClientReply::MemberAdded { id } => id,
        other => return Err(unexpected("AddMember", &other)),
    };
    if !no_wait {
        say(format_args!(
            "evoring: {name} is member {id}; waiting until it has a vote (Ctrl-C stops waiting only)"
        ));
        until(client, |view| awaited_vote(view, id, &name)).await?;
    }
    if context.style.json {
        return print_json(&serde_json::json!({
            "id": id, "name": name, "address": address, "votes": !no_wait,
        }));
    }
    let what = match no_wait {
        true => "is accepted, and gets a vote once it has caught up",
        false => "has a vote",
    };
    print(&format!("member {id} ({name} at {address}) {what}\n"))
}

/// What a new member still waits for; `None` once it has a vote.
fn awaited_vote(view: &ClusterView, id: u64, name: &str) -> Result<Option<String>, Failure> {
    let Some(member) = view.members.iter().find(|member| member.id == id) else {
        return Err(Failure::new(
            Exit::Refused,
            format!("member {id} ({name}) was removed before it had a vote"),
        ));
    };
    if has_vote(member) {
        return Ok(None);
    }
    let what = match (&member.problem, member.role) {
        (Some(problem), _) => format!("{name} cannot be reached: {problem}"),
        (None, MemberRole::Leaving) => format!("{name} is being removed"),
        (None, MemberRole::Learner) => format!("{name} catches up"),
        (None, _) => format!("{name} is about to be taken in"),
    };
    Ok(Some(what))
}

async fn remove(
    context: &Context,
    client: &mut Client,
    arguments: RemoveMemberArgs,
) -> Result<(), Failure> {
    let view = client.cluster().await?;
    let (id, name) = {
        let member = find(&view, &arguments.member)?;
        (member.id, member.name.clone())
    };
    match client.ask(&ClientRequest::RemoveMember { id }).await? {
        ClientReply::Done => {}
        other => return Err(unexpected("RemoveMember", &other)),
    }
    if !arguments.no_wait {
        until(client, |view| {
            let is_there = view.members.iter().any(|member| member.id == id);
            Ok(is_there.then(|| format!("{name} is still counted")))
        })
        .await?;
    }
    if context.style.json {
        return print_json(
            &serde_json::json!({ "id": id, "name": name, "removed": !arguments.no_wait }),
        );
    }
    let what = match arguments.no_wait {
        true => "will be removed",
        false => "is removed; its process may be stopped and its folder deleted",
    };
    print(&format!("member {id} ({name}) {what}\n"))
}

/// The member that the user means.
fn find<'a>(view: &'a ClusterView, wanted: &str) -> Result<&'a MemberView, Failure> {
    let by_name = |member: &&MemberView| member.name == wanted;
    let named: Vec<&MemberView> = view.members.iter().filter(by_name).collect();
    let by_id = view
        .members
        .iter()
        .find(|member| wanted.parse() == Ok(member.id));
    match (by_id, &named[..]) {
        // A name may be a number.
        (None, [member]) => Ok(member),
        (Some(member), []) => Ok(member),
        (Some(member), [same]) if same.id == member.id => Ok(member),
        (None, []) => {
            let known: Vec<String> = view
                .members
                .iter()
                .map(|member| format!("{} ({})", member.id, member.name))
                .collect();
            Err(Failure::new(
                Exit::Refused,
                format!("no member {wanted}; there are {}", known.join(", ")),
            ))
        }
        _ => Err(Failure::new(
            Exit::Refused,
            format!("{wanted} names more than one member; see `evoring cluster status`"),
        )),
    }
}

async fn transfer(context: &Context, client: &mut Client) -> Result<(), Failure> {
    let before = client.cluster().await?;
    let reply = client
        .ask_unrepeated(&ClientRequest::TransferLeadership)
        .await?;
    match reply {
        Some(ClientReply::Done) => {}
        Some(other) => return Err(unexpected("TransferLeadership", &other)),
        // The leader may have gone before it could answer; whether it did what was asked, the next
        // one's name tells.
        None => say("evoring: the leader was lost before it answered; looking who leads"),
    }
    let began = Instant::now();
    let after = loop {
        let view = client.cluster().await?;
        if is_told_by_leader(&view) && view.leader != before.leader {
            break view;
        }
        if began.elapsed() >= HANDOVER {
            return Err(Failure::new(
                Exit::Refused,
                "the leadership was not handed over: no other coordinator took it; see `evoring cluster status`, and try again",
            ));
        }
        tokio::time::sleep(LOOK).await;
    };
    let name = |view: &ClusterView| leader(view).map(|leader| leader.name.clone());
    let (from, to) = (name(&before), name(&after));
    if context.style.json {
        return print_json(&serde_json::json!({
            "from": before.leader, "leader": after.leader, "name": to, "term": after.term,
        }));
    }
    print(&format!(
        "{} leads now{}\n",
        to.unwrap_or_default(),
        from.map_or_else(String::new, |from| format!(", {from} before"))
    ))
}

/// Looks at the group, as its leader knows it, until nothing is awaited any more, and tells each
/// change of what is.
async fn until(
    client: &mut Client,
    mut awaited: impl FnMut(&ClusterView) -> Result<Option<String>, Failure>,
) -> Result<(), Failure> {
    client.set_patience(LONG_PATIENCE);
    let mut told = String::new();
    loop {
        let view = client.cluster().await?;
        let what = match is_told_by_leader(&view) {
            true => awaited(&view)?,
            false => Some("no coordinator leads at the moment".to_owned()),
        };
        match what {
            None => return Ok(()),
            Some(what) if what != told => {
                say(format_args!("evoring: {what}"));
                told = what;
            }
            Some(_) => {}
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::json::tests::cluster_view;

    // Claim: the table says who leads, how far each is and what is wrong, and says clearly if nobody
    // leads. Method: pinned for a group of two; then without a leader, and without a group.
    #[test]
    fn status_for_people() {
        let mut view = cluster_view();
        assert_eq!(
            status_text(&view, false),
            "group       g\n\
             leader      c1 at h1:1\n\
             term        4\n\
             commit      300\n\
             records     version 3\n\
             told by     c1\n\
             \n\
             id  name  role     address  matched  lag   log    free      heard  build  records  trouble\n \
             1  c1    leader   h1:1         290   10  4 kB  9.0 GB  0.0 s ago  b            3  space is low\n \
             2  c2    joining  h2:1           -    -     -       -          -  -            -  no answer\n"
        );
        view.leader = None;
        assert!(status_text(&view, false).contains("leader      UNKNOWN"));
        view.group = String::new();
        view.members.clear();
        assert!(status_text(&view, false).contains("waits to be taken in"));
    }

    // Claim: a member is found by number and by name, never by guess. Method: one that exists, one that
    // does not, and a name that is another's number.
    #[test]
    fn members_are_found() {
        let mut view = cluster_view();
        let id = |view: &ClusterView, wanted: &str| find(view, wanted).map(|member| member.id);
        assert_eq!(id(&view, "1"), Ok(1));
        assert_eq!(id(&view, "c2"), Ok(2));
        let failure = id(&view, "c3").unwrap_err();
        assert!(
            failure.message.contains("there are 1 (c1), 2 (c2)"),
            "{failure}"
        );
        view.members[1].name = "1".to_owned();
        assert!(
            id(&view, "1")
                .unwrap_err()
                .message
                .contains("more than one")
        );
        assert_eq!(id(&view, "2"), Ok(2));
    }

    // Claim: waiting for a vote ends with it, names what is missing, and ends if it never comes.
    // Method: the roles on the way.
    #[test]
    fn what_a_vote_waits_for() {
        let mut view = cluster_view();
        let awaited = |view: &ClusterView| awaited_vote(view, 2, "c2");
        let text = awaited(&view).unwrap().unwrap();
        assert!(text.contains("cannot be reached: no answer"), "{text}");
        view.members[1].problem = None;
        view.members[1].role = MemberRole::Learner;
        assert_eq!(awaited(&view), Ok(Some("c2 catches up".to_owned())));
        view.members[1].role = MemberRole::Voter;
        assert_eq!(awaited(&view), Ok(None));
        view.members.pop();
        assert_eq!(awaited(&view).unwrap_err().exit, Exit::Refused);
    }
}
