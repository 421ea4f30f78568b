//! `evoring local --coordinators` and `evoring cluster`, with the real `evoring`, scripts for its
//! children, and coordinators in this process that only keep a list of members.

#![expect(clippy::unwrap_used, reason = "tests")]

mod stage;

use evoring_protocol::client::{
    ClientReply, ClientRequest, ClusterView, LeaderHint, MemberRole, MemberView,
};
use evoring_protocol::transport::{Connection, Identity, Listener, TransportError};
use serde_json::Value;
use stage::{FAITHFUL, Stage, signal, spawn, wait_for};
use std::fs;
use std::path::Path;
use std::process::Child;
use std::sync::{Arc, Mutex};

/// Writes down how it was started, and lives until its lifeline ends.
const NOTED: &str = "echo \"$*\" >> coordinators.txt\nexec cat";
/// The same for workers.
const NOTED_WORKER: &str = "echo \"$*\" >> workers.txt\nexec cat";
/// Ends as c3 does once it was removed.
const THIRD_IS_REMOVED: &str = "case \"$*\" in */c3.json*) exit 79 ;; esac\nexec cat";

/// What the coordinators have in common.
#[derive(Default)]
struct Group {
    leader: u64,
    members: Vec<MemberView>,
    /// Everything that changed it, in order.
    changes: Vec<String>,
}

impl Group {
    /// What `name` answers.
    fn answer(&mut self, name: &str, request: &ClientRequest) -> ClientReply {
        let leader = self.members.iter().find(|member| member.id == self.leader);
        let hint = leader.map(|leader| LeaderHint {
            name: leader.name.clone(),
            address: leader.address.clone(),
        });
        if matches!(request, ClientRequest::Cluster) {
            return ClientReply::Cluster(Box::new(self.view(name)));
        }
        if hint.as_ref().is_none_or(|hint| hint.name != name) {
            return ClientReply::NotLeader { leader: hint };
        }
        match request {
            ClientRequest::AddMember { name, address } => ClientReply::MemberAdded {
                id: self.add(name, address),
            },
            ClientRequest::RemoveMember { id } => {
                self.changes.push(format!("remove {id}"));
                self.members.retain(|member| member.id != *id);
                ClientReply::Done
            }
            ClientRequest::TransferLeadership => {
                self.changes.push("transfer".to_owned());
                self.leader = 3 - self.leader;
                ClientReply::Done
            }
            ClientRequest::LabelOnce {
                job, key, value, ..
            } => {
                self.changes.push(format!("label {job} {key}={value}"));
                ClientReply::Done
            }
            other => panic!("not expected in this test: {other:?}"),
        }
    }

    /// Who waits to be taken in knows nothing; the others look a step further each time.
    fn view(&mut self, name: &str) -> ClusterView {
        let is_member = self.members.iter().any(|member| member.name == name);
        for member in &mut self.members {
            member.role = match member.role {
                MemberRole::Joining => MemberRole::Learner,
                _ if member.id == self.leader => MemberRole::Leader,
                _ => MemberRole::Voter,
            };
        }
        ClusterView {
            answered_by: name.to_owned(),
            group: if is_member { "abc" } else { "" }.to_owned(),
            version: 3,
            term: 4,
            leader: is_member.then_some(self.leader),
            commit: 9,
            members: match is_member {
                true => self.members.clone(),
                false => Vec::new(),
            },
        }
    }

    /// The first that starts leads; a leader's address is its own affair.
    fn start(&mut self, name: &str, address: &str) {
        if self.leader == 0 {
            self.leader = self.add(name, address);
        }
        let leader = self.leader;
        let own = |member: &&mut MemberView| member.id == leader && member.name == name;
        if let Some(own) = self.members.iter_mut().find(own) {
            address.clone_into(&mut own.address);
        }
    }

    fn add(&mut self, name: &str, address: &str) -> u64 {
        self.changes.push(format!("add {name}"));
        if let Some(known) = self.members.iter_mut().find(|member| member.name == name) {
            address.clone_into(&mut known.address);
            return known.id;
        }
        let id = self.members.iter().map(|member| member.id).max();
        let id = id.unwrap_or(0) + 1;
        self.members.push(MemberView {
            id,
            name: name.to_owned(),
            address: address.to_owned(),
            role: MemberRole::Joining,
            matched: Some(9),
            health: None,
            heard_ms: None,
            problem: None,
        });
        id
    }
}

/// Answers in the place of the scripts; ends when it is dropped.
struct Coordinators {
    _runtime: tokio::runtime::Runtime,
}

impl Coordinators {
    /// Takes over for `names` in a cluster's folder as soon as that is complete. The first makes the
    /// group if there is none.
    fn of_cluster(folder: &Path, names: &[&str], group: &Arc<Mutex<Group>>) -> Self {
        wait_for("the cluster file", || {
            let text = fs::read(folder.join("cluster.json")).ok()?;
            serde_json::from_slice::<Value>(&text).ok()
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let _guard = runtime.enter();
        for name in names {
            let identity = Identity::load(&folder.join("identity").join(name)).unwrap();
            let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), &identity).unwrap();
            let address = listener.local_addr();
            group.lock().unwrap().start(name, &address.to_string());
            let text = serde_json::json!({ "listen": address, "process": 1 }).to_string();
            let path = folder.join(format!("{name}.json"));
            fs::write(path.with_extension("part"), text).unwrap();
            fs::rename(path.with_extension("part"), path).unwrap();
            runtime.spawn(listen(listener, (*name).to_owned(), Arc::clone(group)));
        }
        drop(_guard);
        Self { _runtime: runtime }
    }
}

async fn listen(mut listener: Listener, name: String, group: Arc<Mutex<Group>>) {
    while let Some(accepted) = listener.accept().await {
        if let Ok(connection) = accepted {
            tokio::spawn(serve(connection, name.clone(), Arc::clone(&group)));
        }
    }
}

async fn serve(
    connection: Connection,
    name: String,
    group: Arc<Mutex<Group>>,
) -> Result<(), TransportError> {
    loop {
        let (mut sender, mut receiver) = connection.accept().await?;
        if let Some(request) = receiver.receive::<ClientRequest>().await? {
            let reply = group.lock().unwrap().answer(&name, &request);
            sender.send(&reply).await?;
        }
        sender.finish();
    }
}

/// Starts `evoring local` with its output in files; ends with the test.
struct Local(Child);

impl Local {
    fn start(stage: &Stage, arguments: &[&str]) -> Self {
        let mut command = stage.command(&["local", "--workers", "1", "--dir", "cluster"]);
        command
            .args(arguments)
            .stdout(fs::File::create(stage.path("stdout")).unwrap())
            .stderr(fs::File::create(stage.path("stderr")).unwrap());
        Self(spawn(&mut command))
    }

    /// Ends it as Ctrl-C does.
    fn stop(mut self) {
        signal(&self.0, "-INT");
        assert_eq!(self.0.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for_text(stage: &Stage, file: &str, text: &str) -> String {
    wait_for(text, || {
        let said = fs::read_to_string(stage.path(file)).ok()?;
        said.contains(text).then_some(said)
    })
}

fn changes(group: &Arc<Mutex<Group>>) -> Vec<String> {
    std::mem::take(&mut group.lock().unwrap().changes)
}

/// Answers of `evoring cluster …`, or another command, on the cluster that runs.
fn answers(stage: &Stage, arguments: &[&str]) -> Value {
    let output = stage.output(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

// Claim: a local cluster of three is told to be up once all vote, one is taken in after the other, its
// processes get what they need, and a restart in its folder adds nobody again. Method: what the
// coordinators were asked; how the children were started; logs as real ones leave them.
#[test]
fn three_coordinators_become_one_group() {
    let stage = Stage::new(NOTED, NOTED_WORKER);
    let folder = stage.path("cluster");
    let group = Arc::new(Mutex::new(Group::default()));
    let names = ["c1", "c2", "c3"];
    let local = Local::start(&stage, &["--coordinators", "3"]);
    let coordinators = Coordinators::of_cluster(&folder, &names, &group);
    let said = wait_for_text(&stage, "stdout", "Ctrl-C stops it");
    let is_told = |name: &str| said.contains(&format!("{name} at 127.0.0.1:"));
    assert!(names.into_iter().all(is_told), "{said}");
    assert_eq!(changes(&group), ["add c1", "add c2", "add c3"]);
    let roles = group.lock().unwrap().view("c1").members;
    assert!(
        roles
            .iter()
            .all(|member| member.role != MemberRole::Joining)
    );

    let started = wait_for_lines(&stage, "coordinators.txt", 3);
    for (name, creates) in [("c1", true), ("c2", false), ("c3", false)] {
        let mut lines = started.lines();
        let line = lines.find(|line| line.contains(&format!("/{name}.json")));
        assert_eq!(line.unwrap().contains("--create"), creates, "{started}");
    }
    let started = wait_for_lines(&stage, "workers.txt", 1);
    assert_eq!(started.matches("--announce").count(), 3, "{started}");

    local.stop();
    drop(coordinators);
    for name in names {
        fs::create_dir_all(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("log.redb"), "").unwrap();
    }
    // Known to be new again once it is there.
    fs::remove_file(folder.join("cluster.json")).unwrap();
    let local = Local::start(&stage, &[]);
    let _coordinators = Coordinators::of_cluster(&folder, &["c2", "c3", "c1"], &group);
    // The others' addresses have changed, which the leader is told; nobody is added.
    wait_for_text(&stage, "stdout", "Ctrl-C stops it");
    assert_eq!(changes(&group), ["add c2", "add c3"]);
    assert_eq!(group.lock().unwrap().members.len(), 3);
    local.stop();
}

fn wait_for_lines(stage: &Stage, file: &str, count: usize) -> String {
    wait_for(file, || {
        let text = fs::read_to_string(stage.path(file)).ok()?;
        (text.lines().count() >= count).then_some(text)
    })
}

// Claim: the commands about the group reach its leader and wait for what they say, and labels go the
// same way. Method: each command once on a group of two, whose leader changes.
#[test]
fn commands_about_the_group() {
    let stage = Stage::new(FAITHFUL, FAITHFUL);
    let group = Arc::new(Mutex::new(Group::default()));
    let _local = Local::start(&stage, &["--coordinators", "3"]);
    let folder = stage.path("cluster");
    let _coordinators = Coordinators::of_cluster(&folder, &["c1", "c2", "c3"], &group);
    wait_for_text(&stage, "stdout", "Ctrl-C stops it");
    changes(&group);

    let status = answers(&stage, &["cluster", "status", "--json"]);
    assert_eq!(
        (&status["leader"], &status["group"]),
        (&1.into(), &"abc".into())
    );
    assert_eq!(status["members"][2]["name"], "c3");
    let moved = answers(&stage, &["cluster", "transfer", "--json"]);
    assert_eq!((&moved["from"], &moved["leader"]), (&1.into(), &2.into()));
    let removed = answers(&stage, &["cluster", "remove", "c3", "--json"]);
    assert_eq!(
        (&removed["id"], &removed["removed"]),
        (&3.into(), &true.into())
    );
    let added = answers(&stage, &["cluster", "add", "c9", "host:1", "--json"]);
    assert_eq!((&added["id"], &added["votes"]), (&3.into(), &true.into()));
    let labelled = answers(&stage, &["label", "7", "data=v3", "--json"]);
    assert_eq!(labelled["label"]["data"], "v3");
    assert_eq!(
        changes(&group),
        ["transfer", "remove 3", "add c9", "label 7 data=v3"]
    );
    let absent = stage.output(&["cluster", "remove", "c5"]);
    assert_eq!(absent.status.code(), Some(4));
    let text = stage.output(&["cluster", "status"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("leader      c2 at 127.0.0.1:"), "{text}");
}

// Claim: a coordinator that was removed is neither started again nor added again, and the cluster goes
// on without it. Method: a third one that ends as a removed one does; a folder in which it has a log.
#[test]
fn a_removed_coordinator_is_left_alone() {
    let stage = Stage::new(THIRD_IS_REMOVED, FAITHFUL);
    let folder = stage.path("cluster");
    for name in ["c1", "c2", "c3"] {
        fs::create_dir_all(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("log.redb"), "").unwrap();
    }
    let group = Arc::new(Mutex::new(Group::default()));
    let local = Local::start(&stage, &[]);
    let names = ["c1", "c2"];
    {
        let mut group = group.lock().unwrap();
        group.leader = 1;
        for name in names {
            group.add(name, "127.0.0.1:1");
        }
        group.changes.clear();
    }
    let _coordinators = Coordinators::of_cluster(&folder, &names, &group);
    wait_for_text(&stage, "stdout", "c3 (not running)");
    wait_for_text(&stage, "stderr", "c3 was removed from the group");
    assert_eq!(changes(&group), ["add c2"]);
    local.stop();
}
