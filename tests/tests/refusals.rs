//! Claim: what cannot work is refused, at once and with the reason, and costs the cluster nothing.
//!
//! Method: the real binaries on loopback; broken data files, wrong job files, gangs that do not
//! fit, certificates of another cluster. What `run` refuses before it starts anything beside wrong
//! fields is tested in `cli/tests`, a client's messages to a coordinator in `coordinator/tests`.

use evoring_protocol::JobId;
use evoring_protocol::event::{Event, EventKind};
use evoring_tests::binaries;
use evoring_tests::cluster::{Cluster, alone, run_at};
use evoring_tests::evidence::is_growth;
use evoring_tests::images::{self, IMAGES_HEADER, SIDE, TEST};
use evoring_tests::job::PruneJob;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A file of a data set that is damaged, and what is said about it.
struct Broken {
    file: &'static str,
    damage: fn(&mut Vec<u8>),
    offset: u64,
    reason: &'static str,
    /// The stage that reads it.
    stage: &'static str,
}

/// Whether any work of the job was handed out more than once; a second run of a slow lease beside the
/// first is none.
fn is_repeated(events: &[Event], job: JobId) -> bool {
    let mut gangs = BTreeSet::new();
    let mut items = BTreeSet::new();
    let mut is_new = |event: &Event| match &event.kind {
        // The gang's next roster is not another attempt.
        EventKind::RosterBroken { job: j, demand, .. } if *j == job && is_growth(&event.kind) => {
            gangs.remove(demand)
        }
        EventKind::RosterCommitted { job: j, demand, .. } if *j == job => gangs.insert(*demand),
        EventKind::LeaseGranted {
            job: j,
            demand,
            items: granted,
            is_copy: false,
            ..
        } if *j == job => granted
            .iter()
            .all(|(index, _)| items.insert((*demand, *index))),
        EventKind::ItemsRetried { job: j, .. } | EventKind::RosterBroken { job: j, .. } => {
            *j != job
        }
        _ => true,
    };
    !events.iter().all(&mut is_new)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Claim: a truncated or corrupt data file fails the job at the first attempt, with file and byte,
/// and the cluster goes on with the next job.
/// Method: an IDX data set with one damaged file for each job; the events say what was tried. The
/// last job reads the same data undamaged.
#[test]
fn broken_data_fails_the_job_at_once() {
    let _alone = alone();
    let cluster = Cluster::start(2);
    let image = u64::from(SIDE * SIDE);
    let cases = [
        Broken {
            file: "train-images-idx3-ubyte",
            damage: |bytes| bytes.truncate(50_000),
            offset: 50_000,
            reason: "the file ends after",
            stage: "train",
        },
        Broken {
            file: "train-labels-idx1-ubyte",
            damage: |bytes| bytes[131] ^= 0x80,
            offset: 131,
            reason: "expected 0 to 9",
            stage: "train",
        },
        // Read by the last stage alone: items of a map fail as gangs do.
        Broken {
            file: "t10k-images-idx3-ubyte",
            damage: |bytes| bytes.push(0),
            offset: IMAGES_HEADER + u64::from(TEST) * image,
            reason: "more data than the header says",
            stage: "evaluate",
        },
    ];
    for (number, broken) in cases.iter().enumerate() {
        let place = cluster.scratch().join(format!("broken-{number}"));
        let file = images::write_damaged(&place, broken.file, broken.damage);
        let job = cluster.submit(&images::job(&place));
        let view = cluster.wait_for_end(job);
        assert_eq!(view["status"], "failed", "{view}\n{}", cluster.logs());
        assert_eq!(view["stage"], broken.stage, "{view}");
        let error = view["error"].as_str().unwrap_or_default();
        let at = format!("{}: at byte {}: ", file.display(), broken.offset);
        assert!(
            error.contains(&at) && error.contains(broken.reason),
            "{error}"
        );
        let events = cluster.events().expect("events of a living coordinator");
        assert!(!is_repeated(&events, JobId(job)), "tried again: {error}");
        assert_eq!(view["retries"], 0, "{view}");
    }
    let place = cluster.scratch().join("whole");
    images::write(&place);
    let job = cluster.submit(&images::job(&place));
    let view = cluster.wait_for_end(job);
    assert_eq!(view["status"], "finished", "{view}\n{}", cluster.logs());
    let events = cluster.events().expect("events of a living coordinator");
    let lost = |event: &Event| {
        matches!(
            event.kind,
            EventKind::ExecutorExited { .. } | EventKind::WorkerLost { .. }
        )
    };
    assert!(!events.iter().any(lost), "a broken file ended a process");
}

/// Claim: a wrong job file is refused by `run` and by `submit` with file, line, field, what was
/// expected and the nearest name, and exit code 2, before anything is started.
/// Method: one defect at a time in a file that is else right, then all at once.
#[test]
fn wrong_fields_are_named() {
    let right = PruneJob::default().text();
    // What is written instead of which line, and what is said about it.
    let cases = [
        (
            "population = 12",
            "populaton = 12",
            "search.populaton: unknown field; [search] may have preset, population, ",
            "did you mean \"population\"?",
        ),
        (
            "epochs = 2",
            "epochs = \"two\"",
            "train.epochs: expected an integer from 1 to 10000, got \"two\"",
            "",
        ),
        (
            "name = \"lenet\"",
            "name = \"lennet\"",
            "network.name: expected \"lenet\" or \"vgg-small\", got \"lennet\"",
            "did you mean \"lenet\"?",
        ),
        (
            "finalists = 4",
            "finalists = 4\nmutation = \"bitflip\"",
            "search.mutation: expected \"segment\", \"bit-flip\" or \"exchange\", got \"bitflip\"",
            "did you mean \"bit-flip\"?",
        ),
        (
            "population = 12",
            "population = 0",
            "search.population: expected an integer from 1 to 4096, got 0",
            "",
        ),
        (
            "generations = 3",
            "crossover_rate = 1.5",
            "search.crossover_rate: expected a number from 0 to 1, got 1.5",
            "",
        ),
        (
            "ranks = \"1..4\"",
            "ranks = 0",
            "train.ranks: expected \"MIN..MAX\" with 1 ≤ MIN ≤ MAX ≤ 4 (shards), or one number, got 0",
            "",
        ),
    ];
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    for (before, after, says, nearest) in cases {
        assert!(right.contains(before), "{before}");
        let text = right.replacen(before, after, 1);
        let wrong = after.lines().last().unwrap_or_default();
        let line = 1 + text.lines().take_while(|line| *line != wrong).count();
        let expected = format!("job.toml:{line}: {says}");
        for command in ["run", "submit"] {
            let output = with_job(folder.path(), command, &text);
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{command} {after}: {said}");
            assert!(
                said.contains(&expected) && said.contains(nearest),
                "{command}: {said}"
            );
        }
    }
    let all = right
        .replacen("epochs = 2", "epochs = -1", 1)
        .replacen("population = 12", "population = 0", 1)
        .replacen("ranks = \"1..4\"", "ranks = \"0..4\"", 1);
    let said = stderr(&with_job(folder.path(), "submit", &all));
    let fields: Vec<usize> = ["train.ranks", "train.epochs", "search.population"]
        .iter()
        .filter_map(|field| said.find(field))
        .collect();
    assert!(
        fields.len() == 3 && fields.is_sorted(),
        "all, by line: {said}"
    );
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .expect("the folder")
        .flatten()
        .collect();
    assert_eq!(left.len(), 1, "only the job file: {left:?}");
}

/// Runs `evoring COMMAND job.toml` in `folder`, which has no cluster.
fn with_job(folder: &Path, command: &str, text: &str) -> Output {
    std::fs::write(folder.join("job.toml"), text).expect("the job file is written");
    let mut evoring = Command::new(binaries::binary("evoring"));
    evoring
        .args([command, "job.toml"])
        .current_dir(folder)
        .env("XDG_STATE_HOME", folder)
        .env_remove("EVORING_CLUSTER")
        .stdin(Stdio::null());
    evoring.output().expect("evoring starts")
}

/// Claim: a job that needs more slots than there are waits in the queue of `submit`, and `explain`
/// says for what; `run` refuses it.
/// Method: four ranks on two workers of one slot each; another job is submitted behind it and runs.
#[test]
fn too_many_ranks_are_queued_and_explained() {
    let _alone = alone();
    let large = PruneJob {
        ranks: "4",
        ..PruneJob::default()
    };
    let cluster = Cluster::start(2);
    let refused = with_job(cluster.scratch(), "run", &large.text());
    assert_eq!(refused.status.code(), Some(4), "{}", stderr(&refused));
    assert!(
        stderr(&refused).contains("the job needs 4 slots at once, 2 present"),
        "{}",
        stderr(&refused)
    );
    let job = cluster.submit(&large.text());
    let place = cluster.scratch().join("whole");
    images::write(&place);
    let small = cluster.submit(&images::job(&place));
    let view = cluster.wait_for_end(small);
    assert_eq!(view["status"], "finished", "{view}\n{}", cluster.logs());
    let explained = cluster.run(&["explain", &job.to_string()]);
    let said = String::from_utf8_lossy(&explained.stdout);
    assert!(said.contains("needs 4 slots, 2 present"), "{said}");
    let view = cluster.job(job).expect("a view");
    assert_eq!(view["status"], "queued", "{view}");
    assert!(cluster.run(&["cancel", &job.to_string()]).status.success());
    assert_eq!(cluster.wait_for_end(job)["status"], "cancelled");
}

/// Claim: a certificate of another cluster opens nothing, and the user is told that this is why.
/// Method: two clusters; the address of one with the identity of the other, in both forms of a
/// cluster file; the other way round as the right combination.
#[test]
fn foreign_certificates_are_refused() {
    let _alone = alone();
    let [ours, theirs] = [Cluster::start(1), Cluster::start(1)];
    let announce = theirs.folder().join("coordinator.json");
    let announced = std::fs::read(&announce).expect("an announcement");
    let announced: Value = serde_json::from_slice(&announced).expect("JSON");
    let listed = serde_json::json!([announced["listen"]]);
    let identity = |cluster: &Cluster| cluster.folder().join("identity").join("client");
    let file = ours.scratch().join("mixed.json");
    for place in [
        serde_json::json!({ "coordinators": listed }),
        serde_json::json!({ "announce": announce }),
    ] {
        let write = |identity: &Path| {
            let mut access = place.clone();
            access["identity"] = serde_json::json!(identity);
            std::fs::write(&file, access.to_string()).expect("a cluster file");
        };
        write(&identity(&ours));
        let output = run_at(&file, &["jobs"]);
        assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
        assert!(
            stderr(&output).contains("another cluster"),
            "{}",
            stderr(&output)
        );
        write(&identity(&theirs));
        let output = run_at(&file, &["jobs"]);
        assert!(output.status.success(), "{}", stderr(&output));
    }
}
