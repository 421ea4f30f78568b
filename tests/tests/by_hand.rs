//! Claim: a group of coordinators that users keep by hand, as `docs/coordinators.md` describes, grows,
//! changes its leader and shrinks by `evoring cluster`; what cannot be is refused with the reason and the
//! exit code of `docs/cli.md`.
//!
//! Method: the real `evoring` and real coordinators, each with its own folder and identity.

use evoring_protocol::transport::{Authority, Role};
use evoring_protocol::{ClusterId, EXIT_REMOVED};
use evoring_tests::binaries;
use evoring_tests::cluster::{alone, run_at, wait_for};
use evoring_tests::process::Process;
use rustix::process::Signal;
use serde_json::Value;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::SystemTime;
use tempfile::TempDir;

/// Exit codes of `docs/cli.md`.
const USAGE: i32 = 2;
const UNREACHABLE: i32 = 3;
const REFUSED: i32 = 4;
const INTERRUPTED: i32 = 130;
/// Where nobody listens.
const NOWHERE: &str = "127.0.0.1:1";

/// Coordinators that were started one by one, and a cluster file that names them.
struct Hand {
    // Dropped before the folder is.
    coordinators: Vec<Process>,
    authority: Authority,
    folder: TempDir,
}

impl Hand {
    fn new() -> Self {
        let now = SystemTime::now();
        let authority = Authority::create(ClusterId(*b"by-hand!"), now).expect("an authority");
        let hand = Self {
            coordinators: Vec::new(),
            authority,
            folder: TempDir::new().expect("a temporary folder"),
        };
        hand.identity(Role::Submitter, "client");
        let announced = ["c1.json", "c2.json", "c3.json"];
        hand.cluster_file(&serde_json::json!({ "announce": announced, "identity": "client" }));
        hand
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn cluster_file(&self, value: &Value) {
        fs::write(self.path("cluster.json"), value.to_string()).expect("a cluster file");
    }

    fn identity(&self, role: Role, name: &str) {
        let identity = self.authority.issue(role, name, SystemTime::now());
        let identity = identity.expect("a certificate");
        identity.save(&self.path(name)).expect("an identity");
    }

    /// Starts the next one, of name `c1`, `c2` and so on; the first makes the group. Returns where it
    /// listens.
    fn start(&mut self) -> String {
        let name = format!("c{}", self.coordinators.len() + 1);
        self.identity(Role::Coordinator, &name);
        let announcement = self.path(&format!("{name}.json"));
        let log = File::create(self.path(&format!("{name}.log"))).expect("a log");
        let blobs = format!("file://{}", self.path("blobs").display());
        let mut command = Command::new(binaries::binary("evoring-coordinator"));
        command
            .args(["--listen", "127.0.0.1:0", "--blobs", &blobs, "--dir"])
            .arg(self.path(&format!("{name}-dir")))
            .arg("--identity")
            .arg(self.path(&name))
            .arg("--announce")
            .arg(&announcement)
            .args(self.coordinators.is_empty().then_some("--create"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.coordinators.push(Process::spawn(&mut command));
        let announced = wait_for(|| {
            let text = fs::read(&announcement).ok()?;
            serde_json::from_slice::<Value>(&text).ok()
        });
        let announced = announced.unwrap_or_else(|| panic!("{name} says nothing\n{}", self.logs()));
        announced["listen"].as_str().expect("an address").to_owned()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        run_at(&self.path("cluster.json"), arguments)
    }

    /// What a command that succeeds prints.
    fn told(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        let logs = || self.logs();
        assert!(output.status.success(), "{arguments:?}: {said}\n{}", logs());
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// The same, with `--json`.
    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.told(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {text}"))
    }

    /// A command that fails with this code, says why for people and as JSON, and prints nothing.
    fn fails(&self, arguments: &[&str], code: i32, name: &str, why: &str) {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(why), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        let output = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        let last = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = last.lines().last().unwrap_or_default();
        let error: Value = serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {last}"));
        assert_eq!(error["error"]["code"], name, "{arguments:?}");
        let message = error["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(why), "{arguments:?}: {message}");
    }

    /// The roles in `cluster status --json` by name, in the order of numbers.
    fn roles(&self) -> Vec<(String, String)> {
        let status = self.json(&["cluster", "status"]);
        let members = status["members"].as_array().expect("members");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let role = |member: &Value| (text(&member["name"]), text(&member["role"]));
        members.iter().map(role).collect()
    }

    fn logs(&self) -> String {
        let names = (1..=self.coordinators.len()).map(|number| format!("c{number}.log"));
        let log = |name: String| {
            let text = fs::read_to_string(self.path(&name)).unwrap_or_default();
            format!("--- {name}\n{text}")
        };
        names.map(log).collect()
    }
}

fn voters(leader: usize, size: usize) -> Vec<(String, String)> {
    let role = |number| if number == leader { "leader" } else { "voter" };
    let voter = |number| (format!("c{number}"), role(number).to_owned());
    (1..=size).map(voter).collect()
}

/// Claim: one coordinator becomes three by `add`, `status` shows their votes to people and as JSON,
/// `transfer` moves the leadership, `remove` takes one out, whose process ends with 79; the others go on.
/// Method: each command once, the output compared with what the next `status` says.
#[test]
fn one_becomes_three_and_two() {
    let _alone = alone();
    let mut hand = Hand::new();
    hand.start();
    assert_eq!(hand.roles(), voters(1, 1));
    for number in 2..=3 {
        let address = hand.start();
        let name = format!("c{number}");
        let added = hand.told(&["cluster", "add", &name, &address]);
        let expected = format!("member {number} ({name} at {address}) has a vote\n");
        assert_eq!(added, expected);
    }
    assert_eq!(hand.roles(), voters(1, 3));
    let text = hand.told(&["cluster", "status"]);
    assert!(text.contains("leader      c1 at 127.0.0.1:"), "{text}");
    assert!(text.contains("told by     c1\n"), "{text}");
    let row = |number: usize| {
        let line = text.lines().nth(8 + number).expect("a line");
        line.split_whitespace().take(3).collect::<Vec<_>>()
    };
    assert_eq!(row(0), ["1", "c1", "leader"], "{text}");
    assert_eq!(row(1), ["2", "c2", "voter"], "{text}");
    assert_eq!(row(2), ["3", "c3", "voter"], "{text}");

    let moved = hand.json(&["cluster", "transfer"]);
    assert_eq!(moved["from"], 1, "{moved}");
    let leader = moved["leader"].as_u64().expect("a number") as usize;
    assert!(leader == 2 || leader == 3, "{moved}");
    assert_eq!(moved["name"], format!("c{leader}"));
    assert_eq!(hand.roles(), voters(leader, 3));

    let leaves = 5 - leader;
    let name = format!("c{leaves}");
    let removed = hand.told(&["cluster", "remove", &name]);
    assert!(
        removed.starts_with(&format!("member {leaves} ({name}) is removed")),
        "{removed}"
    );
    let status = hand.coordinators[leaves - 1].wait();
    assert_eq!(status.code(), Some(EXIT_REMOVED.into()), "{}", hand.logs());
    let mut expected = voters(leader, 3);
    expected.remove(leaves - 1);
    assert_eq!(hand.roles(), expected);
    // The group takes writes: the same member under the number that it had is told nothing new.
    let address = hand.json(&["cluster", "status"])["members"][0]["address"].clone();
    let address = address.as_str().expect("an address");
    let again = hand.json(&["cluster", "add", "c1", address]);
    assert_eq!((&again["id"], &again["votes"]), (&1.into(), &true.into()));
}

/// Claim: wrong uses change nothing, and say what is wrong.
/// Method: a name and a number that nobody has, the only member, what is no address; a coordinator that
/// is not there, whose absence is told until somebody stops waiting; a cluster file that leads nowhere.
#[test]
fn what_cannot_be_is_refused() {
    let _alone = alone();
    let mut hand = Hand::new();
    hand.start();
    let before = voters(1, 1);
    let wrong: [(&[&str], i32, &str, &str); 6] = [
        (
            &["remove", "c9"],
            REFUSED,
            "refused",
            "no member c9; there are 1 (c1)",
        ),
        (
            &["remove", "9"],
            REFUSED,
            "refused",
            "no member 9; there are 1 (c1)",
        ),
        (
            &["remove", "c1"],
            REFUSED,
            "refused",
            "member 1 is the only one",
        ),
        (&["transfer"], REFUSED, "refused", "nobody else can lead"),
        (&["add", "c2"], USAGE, "usage", "<HOST:PORT>"),
        (
            &["add", "c2", "nowhere"],
            USAGE,
            "usage",
            "expected HOST:PORT",
        ),
    ];
    for (arguments, code, name, why) in wrong {
        hand.fails(&[&["cluster"], arguments].concat(), code, name, why);
    }
    assert_eq!(hand.roles(), before);

    let said = hand.path("said");
    let mut add = Command::new(binaries::binary("evoring"));
    add.args(["cluster", "add", "c2", NOWHERE, "--cluster"])
        .arg(hand.path("cluster.json"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&said).expect("a file"));
    let mut add = Process::spawn(&mut add);
    let told = wait_for(|| {
        let said = fs::read_to_string(&said).unwrap_or_default();
        said.contains("c2 cannot be reached").then_some(said)
    });
    let told = told.expect("the problem is told");
    assert!(told.contains(NOWHERE), "{told}");
    add.signal(Signal::INT);
    assert_eq!(add.wait().code(), Some(INTERRUPTED));
    // It stays a member that is yet to come; the group of one goes on, and takes it out again.
    let removed = hand.json(&["cluster", "remove", "c2"]);
    assert_eq!(
        (&removed["id"], &removed["removed"]),
        (&2.into(), &true.into())
    );
    assert_eq!(hand.roles(), before);

    hand.cluster_file(&serde_json::json!({ "coordinators": [NOWHERE], "identity": "client" }));
    hand.fails(&["cluster", "status"], UNREACHABLE, "unreachable", NOWHERE);
}
