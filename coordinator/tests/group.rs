//! A group of real coordinator processes.

#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(
    clippy::disallowed_methods,
    reason = "real processes need clocks and threads"
)]

mod support;

use evoring_coordinator::state::{NEWEST_RECORDS, OLDEST_RECORDS};
use evoring_protocol::client::{ClientReply, ClientRequest, ClusterView, MemberRole, MemberView};
use evoring_protocol::transport::{Connection, Connector, Role};
use evoring_protocol::{JobId, RequestKey, SubmissionKey};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{Build, Cluster, JOB, PATIENCE, Plan};

/// A submission that takes this long was stopped: far longer than an election and than a client's search
/// among coordinators of which some have ended.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Several coordinators of one authority; each has its own folder.
struct Group(Vec<Cluster>);

impl Group {
    /// The first makes the group, the others wait to be taken in.
    fn of_one(processes: usize) -> Self {
        let mut clusters = vec![Cluster::start()];
        for number in 2..=processes {
            let next = clusters[0].start_another(&format!("c{number}"));
            clusters.push(next);
        }
        Self(clusters)
    }

    /// The first makes the group, the others are taken in one after the other.
    async fn start(size: usize) -> Self {
        let group = Self::of_one(size);
        for number in 2..=size {
            group.add(number).await;
        }
        group
    }

    async fn add(&self, number: usize) {
        let address = self.0[number - 1].address.to_string();
        let name = format!("c{number}");
        let request = ClientRequest::AddMember { name, address };
        let ClientReply::MemberAdded { id } = self.ask(request).await else {
            panic!("not added")
        };
        self.until(&format!("c{number} votes"), |view| {
            let members = view.members.iter();
            members
                .filter(|m| m.id == id && matches!(m.role, MemberRole::Voter | MemberRole::Leader))
                .count()
                == 1
        })
        .await;
    }

    async fn connect(&self, at: usize) -> Option<Connection> {
        let identity = self.0[0].identity(Role::Submitter, "tester");
        let connector = Connector::new(&identity).unwrap();
        let limit = Duration::from_millis(500);
        connector
            .connect_within(limit, self.0[at].address, Role::Coordinator)
            .await
            .ok()
    }

    /// Asks one coordinator.
    async fn try_ask(&self, at: usize, request: &ClientRequest) -> Option<ClientReply> {
        let connection = self.connect(at).await?;
        let asked = async {
            let (mut sender, mut receiver) = connection.open().await.ok()?;
            sender.send(request).await.ok()?;
            sender.finish();
            receiver.receive::<ClientReply>().await.ok().flatten()
        };
        tokio::time::timeout(Duration::from_secs(3), asked)
            .await
            .ok()
            .flatten()
    }

    /// Asks whoever leads.
    async fn ask(&self, request: ClientRequest) -> ClientReply {
        let began = Instant::now();
        loop {
            for at in 0..self.0.len() {
                if !self.0[at].is_running() {
                    continue;
                }
                match self.try_ask(at, &request).await {
                    None | Some(ClientReply::NotLeader { .. }) => {}
                    Some(ClientReply::Error(error)) if error.code.can_retry() => {}
                    Some(reply) => return reply,
                }
            }
            assert!(began.elapsed() < PATIENCE, "nobody answers {request:?}");
        }
    }

    /// The leader's view.
    async fn view(&self) -> Option<ClusterView> {
        for at in 0..self.0.len() {
            if !self.0[at].is_running() {
                continue;
            }
            if let Some(ClientReply::Cluster(view)) =
                self.try_ask(at, &ClientRequest::Cluster).await
                && let Some(leader) = view.members.iter().find(|m| m.role == MemberRole::Leader)
                && leader.name == view.answered_by
            {
                return Some(*view);
            }
        }
        None
    }

    async fn until(&self, what: &str, condition: impl Fn(&ClusterView) -> bool) -> ClusterView {
        let began = Instant::now();
        loop {
            let view = self.view().await;
            if let Some(view) = view.as_ref().filter(|view| condition(view)) {
                return view.clone();
            }
            assert!(began.elapsed() < PATIENCE, "waited for: {what}; {view:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn leader(&self) -> usize {
        let view = self.until("a leader", |_| true).await;
        let number = view.answered_by.strip_prefix('c').unwrap();
        number.parse::<usize>().unwrap() - 1
    }

    async fn submit(&self, number: u64) -> JobId {
        let request = ClientRequest::Submit {
            key: SubmissionKey(u128::from(number).to_le_bytes()),
            file: "job.toml".to_owned(),
            text: JOB.to_owned(),
            refuse_unless_fits: false,
        };
        match self.ask(request).await {
            ClientReply::Submitted { job, .. } => job,
            other => panic!("{other:?}"),
        }
    }
}

// Claim: a group of one grows to three; an acknowledged submission survives the leader's death, is
// not made twice by being repeated, and the killed coordinator catches up when it is back.
// Method: submit, SIGKILL the leader, submit again with the same and with another key, restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_loses_nothing() {
    let mut group = Group::start(3).await;
    let first = group.submit(1).await;
    let leader = group.leader().await;
    group.0[leader].kill();
    assert_eq!(group.submit(1).await, first);
    let second = group.submit(2).await;
    assert_ne!(first, second);
    group.0[leader].start_process();
    let name = format!("c{}", leader + 1);
    group
        .until("the killed one has caught up", |view| {
            let member = view.members.iter().find(|m| m.name == name).unwrap();
            member.matched == Some(view.commit) && member.problem.is_none()
        })
        .await;
}

// Claim: all coordinators can be killed at once; what was acknowledged is there afterwards.
// Method: label a job, SIGKILL all three, restart, read the label.
#[tokio::test(flavor = "multi_thread")]
async fn all_killed_at_once() {
    let mut group = Group::start(3).await;
    let job = group.submit(1).await;
    let request = ClientRequest::LabelOnce {
        job,
        key: "note".to_owned(),
        value: "kept".to_owned(),
        request: RequestKey([1; 16]),
    };
    assert_eq!(group.ask(request).await, ClientReply::Done);
    group.0.iter_mut().for_each(Cluster::kill);
    group.0.iter_mut().for_each(Cluster::start_process);
    let ClientReply::Job(view) = group.ask(ClientRequest::Show { job }).await else {
        panic!("no job")
    };
    assert_eq!(view.labels, [("note".to_owned(), "kept".to_owned())]);
}

// Claim: after all were killed, a group of which most got other addresses works without anybody's help:
// nothing else could teach it the new ones. Once it is told them, all follow.
// Method: SIGKILL all three; two come back on other ports; submit; add both anew.
#[tokio::test(flavor = "multi_thread")]
async fn most_members_move() {
    let mut group = Group::start(3).await;
    group.0.iter_mut().for_each(Cluster::kill);
    for moved in &mut group.0[1..] {
        std::fs::remove_file(moved.dir().join("address")).unwrap();
        moved.forget_address();
    }
    group.0.iter_mut().for_each(Cluster::start_process);
    group.submit(1).await;
    for number in 2..=3 {
        group.add(number).await;
    }
    group
        .until("all follow", |view| {
            let follows = |m: &MemberView| m.matched.is_some() && m.problem.is_none();
            view.members.iter().all(follows)
        })
        .await;
}

// Claim: leadership is handed over on demand and before a leader ends; a member that is removed
// stops by itself with a status that says so, and the others go on.
// Method: transfer; SIGTERM to the leader, which logs that it left the office before it ended; remove
// a member.
#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go() {
    let mut group = Group::start(3).await;
    let before = group.leader().await;
    assert_eq!(
        group.ask(ClientRequest::TransferLeadership).await,
        ClientReply::Done
    );
    let began = Instant::now();
    let mut leader = group.leader().await;
    while leader == before {
        assert!(began.elapsed() < PATIENCE, "leadership stays");
        leader = group.leader().await;
    }
    assert!(group.0[leader].stop().success());
    let log = group.0[leader].log();
    assert!(log.contains("left the office"), "{log}");
    group.submit(1).await;
    group.0[leader].start_process();
    let view = group
        .until("three members", |view| view.members.len() == 3)
        .await;
    let victim = view
        .members
        .iter()
        .find(|m| m.name != view.answered_by)
        .unwrap();
    let (id, at) = (victim.id, victim.name[1..].parse::<usize>().unwrap() - 1);
    assert_eq!(
        group.ask(ClientRequest::RemoveMember { id }).await,
        ClientReply::Done
    );
    let status = group.0[at].wait_end();
    assert_eq!(status.code(), Some(evoring_protocol::EXIT_REMOVED.into()));
    group
        .until("two members", |view| view.members.len() == 2)
        .await;
    group.submit(2).await;
}

// Claim: a group of one grows to five and shrinks to two without a stop: whatever clients submit
// meanwhile is accepted within seconds, and each of their jobs is there afterwards, once; whoever left
// has ended.
// Method: three clients submit one job after the other, while four members are added and three removed,
// the leader among them; then everything is submitted again.
#[tokio::test(flavor = "multi_thread")]
async fn grows_and_shrinks_under_load() {
    let mut group = Group::of_one(5);
    let is_over = AtomicBool::new(false);
    let load = |client: u64| {
        let (group, is_over) = (&group, &is_over);
        async move {
            let mut jobs = Vec::new();
            let mut longest = Duration::ZERO;
            while !is_over.load(Ordering::Relaxed) {
                let key = client << 32 | jobs.len() as u64;
                let began = Instant::now();
                jobs.push((key, group.submit(key).await));
                longest = longest.max(began.elapsed());
            }
            (jobs, longest)
        }
    };
    let changes = async {
        for number in 2..=5 {
            group.add(number).await;
        }
        let mut left = Vec::new();
        for size in [4, 3, 2] {
            // The leader the first time, then whoever does not lead.
            let view = group.until("a leader", |_| true).await;
            assert_eq!(view.members.len(), size + 1, "{view:#?}");
            let leads = |member: &&MemberView| member.name == view.answered_by;
            let member = view.members.iter().find(|m| leads(m) == (size == 4));
            let member = member.unwrap();
            let request = ClientRequest::RemoveMember { id: member.id };
            assert_eq!(group.ask(request).await, ClientReply::Done);
            left.push(member.name.clone());
            group
                .until("one less", |view| view.members.len() == size)
                .await;
        }
        is_over.store(true, Ordering::Relaxed);
        left
    };
    let (left, clients) = tokio::join!(changes, async { tokio::join!(load(1), load(2), load(3)) });
    for name in left {
        let at = name[1..].parse::<usize>().unwrap() - 1;
        let status = group.0[at].wait_end();
        assert_eq!(status.code(), Some(evoring_protocol::EXIT_REMOVED.into()));
    }
    for (jobs, longest) in [clients.0, clients.1, clients.2] {
        println!("{} jobs, one took {longest:?} at most", jobs.len());
        assert!(longest < LONGEST_WAIT, "a submission took {longest:?}");
        let numbers: BTreeSet<JobId> = jobs.iter().map(|(_, job)| *job).collect();
        assert_eq!(numbers.len(), jobs.len());
        for (key, job) in jobs {
            assert_eq!(group.submit(key).await, job);
        }
    }
}

// Claim: a member that lost its disk is not taken for the one that it was; under a new id it is.
// Method: kill a follower, empty its folder, restart it without --create; remove, add.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_disk_needs_a_new_id() {
    let mut group = Group::start(3).await;
    let leader = group.leader().await;
    let at = (0..3).rev().find(|at| *at != leader && *at != 0).unwrap();
    let name = format!("c{}", at + 1);
    group.0[at].kill();
    std::fs::remove_dir_all(group.0[at].dir()).unwrap();
    group.0[at].forget_address();
    group.0[at].start_process();
    let address = group.0[at].address.to_string();
    let add = || ClientRequest::AddMember {
        name: name.clone(),
        address: address.clone(),
    };
    // The same name is the same member, at another address.
    let ClientReply::MemberAdded { id } = group.ask(add()).await else {
        panic!("not told")
    };
    let view = group
        .until("the loss is told", |view| {
            let member = view.members.iter().find(|m| m.id == id).unwrap();
            member
                .problem
                .as_ref()
                .is_some_and(|p| p.contains("disk was lost"))
        })
        .await;
    assert_eq!(view.members.len(), 3);
    assert_eq!(
        group.ask(ClientRequest::RemoveMember { id }).await,
        ClientReply::Done
    );
    let ClientReply::MemberAdded { id: new } = group.ask(add()).await else {
        panic!("not added")
    };
    assert!(new > id);
    group
        .until("it votes again", |view| {
            view.members
                .iter()
                .any(|m| m.id == new && m.role == MemberRole::Voter)
        })
        .await;
}

// Claim: why a member cannot be talked to is told, and no longer once it can be.
// Method: kill a follower and say that it has moved to where nobody listens; start it, and say that it is
// where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_problem_goes_with_its_cause() {
    let mut group = Group::start(3).await;
    let leader = group.leader().await;
    let at = (0..3).find(|at| *at != leader).unwrap();
    let name = format!("c{}", at + 1);
    let problem = |view: &ClusterView| {
        let member = view.members.iter().find(|m| m.name == name).unwrap();
        member.problem.clone()
    };
    let moves = |address: String| ClientRequest::AddMember {
        name: name.clone(),
        address,
    };
    let nowhere = "127.0.0.1:1".to_owned();
    group.0[at].kill();
    group.ask(moves(nowhere.clone())).await;
    group
        .until("the problem is told", |view| {
            problem(view).is_some_and(|problem| problem.contains(&nowhere))
        })
        .await;
    group.0[at].start_process();
    group.ask(moves(group.0[at].address.to_string())).await;
    group
        .until("there is no problem", |view| problem(view).is_none())
        .await;
}

// Claim: workers find the leader by themselves, and their job ends although the leader is killed.
// Method: a worker that tries each coordinator in turn, as agents do; kill the leader twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_outlives_leaders() {
    let mut group = Group::start(3).await;
    let addresses = group.0.iter().map(|cluster| cluster.address).collect();
    let _worker = group.0[0].worker_of("w1", Plan::default(), addresses);
    let job = group.submit(1).await;
    for _ in 0..2 {
        let leader = group.leader().await;
        group.0[leader].kill();
        group.ask(ClientRequest::Show { job }).await;
        group.0[leader].start_process();
        let name = format!("c{}", leader + 1);
        group
            .until("all three are up to date", |view| {
                let member = view.members.iter().find(|m| m.name == name).unwrap();
                member.matched == Some(view.commit)
            })
            .await;
    }
    let began = Instant::now();
    loop {
        match group.ask(ClientRequest::Show { job }).await {
            ClientReply::Job(view) if view.status.is_final() => {
                assert_eq!(view.error, None);
                return;
            }
            _ => assert!(began.elapsed() < PATIENCE, "the job does not end"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

// Claim: two versions work in one group: what only the newer knows is refused until every member is
// upgraded, one after the other, without a stop; then it works, and a member that can no longer read
// the records says so and ends.
// Method: three processes held at the oldest version (or of the build that EVORING_OLDER_COORDINATOR
// names), upgraded by restarts in turn, the leader too; labels are of newer versions, submissions of all;
// then one goes back.
#[tokio::test(flavor = "multi_thread")]
async fn two_versions_in_one_group() {
    // What both builds know, at versions of the records that not both read.
    let label = |job| ClientRequest::Label {
        job,
        key: "note".to_owned(),
        value: "old".to_owned(),
    };
    // A group that was made by the older build.
    let mut group = {
        let mut group = Group(vec![Cluster::start_as(Build::older())]);
        for name in ["c2", "c3"] {
            let next = group.0[0].start_another(name);
            group.0.push(next);
        }
        group.add(2).await;
        group.add(3).await;
        group
    };
    let job = group.submit(1).await;
    let once = |request| ClientRequest::LabelOnce {
        job,
        key: "note".to_owned(),
        value: "new".to_owned(),
        request: RequestKey([request; 16]),
    };
    let old = group.until("a leader", |_| true).await.version;
    assert!(old < NEWEST_RECORDS);
    for at in 0..3 {
        let view = group
            .until("the old version", |view| view.version == old)
            .await;
        assert_eq!(view.members.len(), 3);
        let leader = group.leader().await;
        let reply = group.try_ask(leader, &label(job)).await;
        match old {
            OLDEST_RECORDS => assert!(
                matches!(&reply, Some(ClientReply::Error(error)) if error.message.contains("version 2")),
                "{reply:?}"
            ),
            _ => assert_eq!(reply, Some(ClientReply::Done)),
        }
        if old > OLDEST_RECORDS && group.0[leader].build == Build::This {
            // It is written as the older build reads it.
            let reply = group.try_ask(leader, &once(at as u8)).await;
            assert_eq!(reply, Some(ClientReply::Done));
        }
        assert!(group.0[at].stop().success());
        group.0[at].build = Build::This;
        group.0[at].start_process();
        group.submit(10 + at as u64).await;
        let name = format!("c{}", at + 1);
        group
            .until("it has caught up", |view| {
                let member = view.members.iter().find(|m| m.name == name).unwrap();
                member.health.as_ref().is_some_and(|health| {
                    health.version == NEWEST_RECORDS && health.free_bytes > Some(0)
                })
            })
            .await;
    }
    group
        .until("the new version", |view| view.version == NEWEST_RECORDS)
        .await;
    assert_eq!(group.ask(label(job)).await, ClientReply::Done);
    assert_eq!(group.ask(once(9)).await, ClientReply::Done);
    let follower = (group.leader().await + 1) % 3;
    group
        .until("the label is everywhere", |view| {
            let members = view.members.iter();
            members.filter(|m| m.matched == Some(view.commit)).count() == 3
        })
        .await;
    group.0[follower].kill();
    group.0[follower].build = Build::older();
    let status = group.0[follower].start_until_end();
    assert_eq!(status.code(), Some(1));
    group.submit(20).await;
}

/// What one coordinator's /metrics says: kinds by name, and values by name without labels.
struct Metrics {
    text: String,
    kinds: BTreeMap<String, String>,
    values: BTreeMap<String, f64>,
}

impl Metrics {
    fn of(cluster: &Cluster) -> Self {
        let (status, text) = cluster.get("/metrics", "localhost");
        assert_eq!(status, 200, "{text}");
        let pair = |line: &str| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.to_owned()))
        };
        let kinds = text
            .lines()
            .filter_map(|line| pair(line.strip_prefix("# TYPE ")?));
        let values = text
            .lines()
            .filter_map(pair)
            .filter_map(|(name, value)| Some((name, value.parse().ok()?)));
        Self {
            kinds: kinds.collect(),
            values: values.collect(),
            text,
        }
    }

    fn value(&self, name: &str) -> f64 {
        let name = format!("evoring_coordinator_{name}");
        let value = self.values.get(&name);
        *value.unwrap_or_else(|| panic!("no {name}\n{}", self.text))
    }

    /// How often a histogram was given something, checked against its sum: some time each, and not long.
    fn count(&self, name: &str) -> f64 {
        let [count, sum] = ["count", "sum"].map(|end| self.value(&format!("{name}_{end}")));
        assert!(
            count > 0.0 && sum > 0.0 && sum < count * 5.0,
            "{name}: {count} took {sum} s\n{}",
            self.text
        );
        count
    }
}

/// The metrics of a coordinator in docs/metrics.md, with their kinds; those with labels are only shown
/// once there is something to say.
fn documented() -> BTreeMap<String, (String, bool)> {
    let guide = include_str!("../../docs/metrics.md");
    let row = |line: &str| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (name, kind) = (cells.next()?.trim_matches('`'), cells.next()?);
        let (bare, has_labels) = match name.split_once('{') {
            Some((bare, _)) => (bare, true),
            None => (name, false),
        };
        let is_ours = bare.starts_with("evoring_coordinator_");
        is_ours.then(|| (bare.to_owned(), (kind.to_owned(), has_labels)))
    };
    guide.lines().filter_map(row).collect()
}

// Claim: /metrics of each coordinator says what docs/metrics.md promises, under those names and kinds,
// and what it says of Raft is so: one term for all, changes of leader, times of commits, of writes, of
// their syncs and of snapshots, the size of the log.
// Method: submissions before and after a transfer; the numbers against what was done and what
// `ClusterView` says, and the names against the guide.
#[tokio::test(flavor = "multi_thread")]
async fn what_metrics_say_of_raft() {
    const JOBS: u64 = 10;
    let group = Group::start(3).await;
    for number in 0..JOBS {
        group.submit(number).await;
    }
    let before = group.leader().await;
    let transferred = group.ask(ClientRequest::TransferLeadership).await;
    assert_eq!(transferred, ClientReply::Done);
    let name = format!("c{}", before + 1);
    group
        .until("another leader", |view| view.answered_by != name)
        .await;
    for number in JOBS..2 * JOBS {
        group.submit(number).await;
    }
    let view = group
        .until("all follow", |view| {
            let members = view.members.iter();
            members.filter(|m| m.matched == Some(view.commit)).count() == 3
        })
        .await;
    let leads = |at: usize| view.answered_by == format!("c{}", at + 1);
    let mut commits = 0.0;
    for (at, cluster) in group.0.iter().enumerate() {
        // Gauges are brought up to date twice a second.
        let began = Instant::now();
        let metrics = loop {
            let metrics = Metrics::of(cluster);
            let log = std::fs::metadata(cluster.dir().join("log.redb")).unwrap();
            let is_current = metrics.value("applied_index") >= view.commit as f64
                && metrics.value("raft_term") == view.term as f64
                && metrics.value("is_leader") == f64::from(u8::from(leads(at)))
                && metrics.value("log_bytes") == log.len() as f64;
            if is_current {
                break metrics;
            }
            let passed = began.elapsed();
            assert!(passed < PATIENCE, "{view:#?}\n{}", metrics.text);
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let term = if leads(at) { view.term as f64 } else { 0.0 };
        assert_eq!(metrics.value("term"), term);
        assert!(metrics.value("leader_changes_total") >= 2.0);
        assert_eq!(metrics.value("peer_messages_rejected_total"), 0.0);
        assert!(metrics.value("log_bytes") > 0.0);
        let writes = metrics.count("log_write_seconds") + metrics.count("snapshot_write_seconds");
        let syncs = metrics.count("log_sync_seconds");
        assert!(syncs >= writes, "{syncs} syncs of {writes} writes");
        commits += metrics.value("commit_seconds_count");
        if leads(at) || at == before {
            metrics.count("commit_seconds");
        }
        let documented = documented();
        for (name, kind) in &metrics.kinds {
            let known = documented.get(name).map(|(kind, _)| kind);
            assert_eq!(known, Some(kind), "docs/metrics.md lacks {name}");
        }
        for (name, (_, has_labels)) in &documented {
            let is_told = metrics.kinds.contains_key(name);
            assert!(is_told || *has_labels, "{name} is not at /metrics");
        }
    }
    assert!(commits >= 2.0 * JOBS as f64, "{commits} commits");
}
