//! The local cluster's promises about processes, with the real `evoring` and, in the place of
//! coordinator and workers, shell scripts that hold their lifeline (standard input) open as real
//! ones do. What real ones compute is tested in the workspace's `tests/`.

#![expect(clippy::unwrap_used, reason = "tests")]

mod stage;

use stage::{DYING, FAITHFUL, HOPELESS, Local, STUBBORN, Stage, lives, wait_for};
use std::fs;
use std::time::{Duration, Instant};

// Claim: no child outlives its parent, not even after SIGKILL, and no child keeps another's
// lifeline open. Method: kills `evoring local`, whose children only watch their lifelines.
#[test]
fn children_die_with_a_killed_parent() {
    let stage = Stage::new(FAITHFUL, FAITHFUL);
    let mut local = stage.local("cluster");
    assert!(local.processes.iter().all(|process| lives(*process)));
    local.signal("-KILL");
    local.child.wait().unwrap();
    local.assert_all_gone();
}

// Claim: Ctrl-C stops and reaps everything, and is a success. Method: SIGINT, then the exit code.
#[test]
fn interrupt_stops_everything() {
    let stage = Stage::new(FAITHFUL, FAITHFUL);
    let mut local = stage.local("cluster");
    local.signal("-INT");
    assert_eq!(local.child.wait().unwrap().code(), Some(0));
    assert!(local.processes.iter().all(|process| !lives(*process)));
    assert!(stage.path("cluster/cluster.json").exists());
    assert_eq!(
        fs::read_dir(stage.path("state/evoring/running"))
            .unwrap()
            .count(),
        0
    );
}

// Claim: under `nohup` the end of the terminal does not stop a cluster; otherwise it does, and is
// told by the exit code. Method: what the kernel says is done with SIGHUP once the children run.
#[test]
fn nohup_is_heeded() {
    let stage = Stage::new(FAITHFUL, FAITHFUL);
    let ignores_hangup = |local: &Local| {
        let status = fs::read_to_string(format!("/proc/{}/status", local.child.id())).unwrap();
        let mask = status
            .lines()
            .find_map(|line| line.strip_prefix("SigIgn:"))
            .unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap() & 1 == 1
    };
    let mut local = stage.local_under_nohup("nohup");
    assert!(ignores_hangup(&local));
    local.signal("-HUP");
    local.signal("-INT");
    assert_eq!(local.child.wait().unwrap().code(), Some(0));
    let mut local = stage.local_on_a_terminal("plain");
    assert!(!ignores_hangup(&local));
    local.signal("-HUP");
    assert_ne!(local.child.wait().unwrap().code(), Some(0));
    local.assert_all_gone();
}

// Claim: a `cluster.json` that is not ours is neither used nor replaced.
#[test]
fn foreign_cluster_file_is_kept() {
    let stage = Stage::new(FAITHFUL, FAITHFUL);
    fs::create_dir(stage.path("mine")).unwrap();
    let text = r#"{"coordinators": ["10.0.0.1:7000"], "identity": "me.json"}"#;
    fs::write(stage.path("mine/cluster.json"), text).unwrap();
    let output = stage.output(&["local", "--dir", "mine"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("cluster.json: not a file that"), "{said}");
    assert_eq!(
        fs::read_to_string(stage.path("mine/cluster.json")).unwrap(),
        text
    );
}

// Claim: a second Ctrl-C does not wait for children that do not end. Method: children that ignore
// SIGTERM; two signals; far less time than the grace period of 3 s.
#[test]
fn second_interrupt_kills() {
    let stage = Stage::new(STUBBORN, STUBBORN);
    let mut local = stage.local("cluster");
    local.signal("-INT");
    let first = Instant::now();
    wait_for("the signal to be handled or the end", || {
        if let Some(status) = local.child.try_wait().unwrap() {
            return Some(status);
        }
        local.signal("-INT");
        None
    });
    assert!(
        first.elapsed() < Duration::from_millis(2_500),
        "{:?}",
        first.elapsed()
    );
    local.assert_all_gone();
}

// Claim: children that keep dying end the cluster with their last lines. Method: workers that die
// at once.
#[test]
fn dying_children_end_the_cluster() {
    let stage = Stage::new(FAITHFUL, DYING);
    let output = stage.output(&["local", "--workers", "1", "--dir", "cluster"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(
        text.contains("w1 died five times in a minute")
            && text.contains("exit status: 7")
            && text.contains("no libtorch, run make setup"),
        "{text}"
    );
}

// Claim: a child that says that it would die again ends the cluster at once, with its last lines.
// Method: workers that end with status 78; how often they were started.
#[test]
fn hopeless_children_end_the_cluster_at_once() {
    let stage = Stage::new(FAITHFUL, HOPELESS);
    let output = stage.output(&["local", "--workers", "1", "--dir", "cluster"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(
        text.contains("w1 cannot run here (exit status: 78)")
            && text.contains("the coordinator refused this worker"),
        "{text}"
    );
    let log = fs::read_to_string(stage.path("cluster/w1.log")).unwrap();
    assert_eq!(log.matches("[evoring] w1 ended").count(), 1, "{log}");
}

// Claim: wrong arguments are a JSON object under `--json`, and the same words for people without it.
// Method: a command that there is not, and a number that is none.
#[test]
fn usage_errors_have_a_json_form() {
    let stage = Stage::new(FAITHFUL, FAITHFUL);
    for arguments in [
        ["--json", "lcoal"].as_slice(),
        &["local", "--workers", "x", "--json"],
    ] {
        let output = stage.output(arguments);
        assert_eq!(output.status.code(), Some(2));
        let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(error["error"]["code"], "usage");
        let message = error["error"]["message"].as_str().unwrap();
        let plain: Vec<&str> = arguments
            .iter()
            .copied()
            .filter(|a| *a != "--json")
            .collect();
        let told = stage.output(&plain);
        let told = String::from_utf8_lossy(&told.stderr);
        let first = message.lines().next().unwrap();
        assert!(
            first.contains("'lcoal'") || first.contains("'x'"),
            "{message}"
        );
        assert!(told.contains(first), "{told}");
    }
}

// Claim: two clusters run beside each other, and one folder belongs to one cluster. Method: two
// folders, then the first again.
#[test]
fn one_folder_one_cluster() {
    let stage = Stage::new(FAITHFUL, FAITHFUL);
    let mut first = stage.local("a");
    let mut second = stage.local("b");
    let third = stage.output(&["local", "--dir", "a"]);
    assert_eq!(third.status.code(), Some(5));
    assert!(
        String::from_utf8_lossy(&third.stderr).contains("used by another"),
        "{third:?}"
    );
    for local in [&mut first, &mut second] {
        local.signal("-TERM");
        assert_eq!(local.child.wait().unwrap().code(), Some(143));
        local.assert_all_gone();
    }
    // A stopped cluster goes on under its number.
    let number = |dir: &str| {
        let text = fs::read_to_string(stage.path(dir).join("cluster.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["cluster"].clone()
    };
    let before = number("a");
    let mut again = stage.local("a");
    again.signal("-INT");
    again.child.wait().unwrap();
    assert_eq!(number("a"), before);
    assert_ne!(number("b"), before);
}

// Claim: what is wrong from the start is refused before anything runs or is written. Method: a
// wrong job file, too few slots, a place for results that cannot be, programs that are missing.
#[test]
fn run_refuses_early() {
    let stage = Stage::new(FAITHFUL, FAITHFUL);
    let job = |name: &str, ranks: &str| {
        let text = format!(
            "name = \"x\"\nkind = \"evolve.prune\"\n[data]\nset = \"fashion-mnist\"\n[network]\nname = \"lenet\"\n[train]\n{ranks}\n"
        );
        fs::write(stage.path(name), text).unwrap();
    };
    job("wrong.toml", "rankz = 2");
    job("large.toml", "ranks = 4");
    job("right.toml", "ranks = \"1..2\"");
    fs::write(stage.path("file"), "").unwrap();
    fs::create_dir(stage.path("project")).unwrap();
    let foreign = stage.path("project/report.json");
    fs::write(&foreign, "{\"result\": 1, \"run\": {}}").unwrap();
    let cases: [(&[&str], i32, &str); 7] = [
        (&["run", "absent.toml"], 2, "absent.toml"),
        (&["run", "wrong.toml"], 2, "wrong.toml:8: train.rankz"),
        (
            &["run", "large.toml", "--workers", "2"],
            4,
            "needs 4 slots at once, 2 present",
        ),
        (
            &["run", "right.toml", "--out", "file/out"],
            5,
            "name another folder",
        ),
        (&["run", "right.toml", "--out", "."], 2, "other files"),
        (
            &["run", "right.toml", "--out", "project"],
            2,
            "did not write",
        ),
        (&["fetch", "1", "project"], 2, "did not write"),
    ];
    for (arguments, code, text) in cases {
        let output = stage.output(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(text), "{arguments:?}: {stderr}");
    }
    assert!(foreign.exists());
    fs::remove_file(stage.path("evoring-worker")).unwrap();
    let output = stage.output(&["run", "right.toml"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("evoring-worker not found in") && stderr.contains("`cargo build"),
        "{stderr}"
    );
    assert_eq!(output.status.code(), Some(5));
    assert!(!stage.path("evoring-out/x").exists());
}

// Claim: without a cluster, commands say what to do; a cluster that does not answer is named.
// Method: no cluster; then one whose coordinator announces nothing.
#[test]
fn unreachable_clusters() {
    let stage = Stage::new(FAITHFUL, FAITHFUL);
    let none = stage.output(&["jobs"]);
    assert_eq!(none.status.code(), Some(3));
    assert!(
        String::from_utf8_lossy(&none.stderr).contains("evoring local"),
        "{none:?}"
    );
    let mut local = stage.local("cluster");
    let silent = stage.output(&["jobs", "--json"]);
    assert_eq!(silent.status.code(), Some(3));
    let error: serde_json::Value = serde_json::from_slice(&silent.stderr).unwrap();
    assert_eq!(error["error"]["code"], "unreachable");
    assert!(
        error["error"]["message"]
            .as_str()
            .unwrap()
            .contains("coordinator.json"),
        "{error}"
    );
    local.signal("-INT");
    local.child.wait().unwrap();
}
