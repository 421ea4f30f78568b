//! Claim: what cannot work is refused, at once and with the reason, and costs the cluster nothing.
//!
//! Method: the real binaries on loopback; broken data files, wrong job files, gangs that do not
//! fit, certificates of another cluster, ports that are taken, an executor without libtorch. What
//! `run` refuses before it starts anything beside wrong fields is tested in `cli/tests`, a client's
//! messages to a coordinator in `coordinator/tests`.

use evoring_protocol::JobId;
use evoring_protocol::event::{Event, EventKind};
use evoring_tests::binaries;
use evoring_tests::cluster::{Cluster, alone, run_at, wait_for};
use evoring_tests::evidence::is_growth;
use evoring_tests::images::{self, IMAGES_HEADER, SIDE, TEST};
use evoring_tests::job::PruneJob;
use evoring_tests::process::{Process, living_with};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::File;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
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

/// A coordinator that is started by hand, in a folder of its own.
struct Coordinator {
    /// Of a role that may listen.
    identity: PathBuf,
    folder: PathBuf,
}

impl Coordinator {
    fn announcement(&self) -> PathBuf {
        self.folder.with_extension("json")
    }

    /// Starts it; what it says is in the file beside its folder.
    fn start(&self, listen: SocketAddr, http: SocketAddr) -> Process {
        let said = File::create(self.folder.with_extension("stderr")).expect("a log file");
        let mut command = Command::new(binaries::binary("evoring-coordinator"));
        command
            .arg("--dir")
            .arg(&self.folder)
            .arg("--identity")
            .arg(&self.identity)
            .arg("--announce")
            .arg(self.announcement())
            .arg(format!("--blobs=file://{}-blobs", self.folder.display()))
            .args(["--listen", &listen.to_string()])
            .args(["--http", &http.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said);
        Process::spawn(&mut command)
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.folder.with_extension("stderr")).expect("a log file")
    }

    /// Where it listens, once it does.
    fn address(&self) -> SocketAddr {
        let seen = wait_for(|| {
            let text = std::fs::read(self.announcement()).ok()?;
            let announced: Value = serde_json::from_slice(&text).ok()?;
            announced["listen"].as_str()?.parse().ok()
        });
        seen.unwrap_or_else(|| panic!("no announcement: {}", self.said()))
    }
}

/// Claim: a coordinator whose port is taken ends at once, with exit code 1, and says which port and
/// what to do; neither a process nor the lock of its folder stays. Where it may choose the port, it
/// takes another one.
/// Method: sockets on the ports for workers (UDP) and for metrics (TCP); then a start in the same
/// folder at free ports, and one more while a socket has the port that it got.
#[test]
fn taken_ports_are_named() {
    let _alone = alone();
    let cluster = Cluster::start(1);
    let coordinator = Coordinator {
        identity: cluster.folder().join("identity").join("coordinator"),
        folder: cluster.scratch().join("by-hand"),
    };
    let free: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let udp = UdpSocket::bind(free).expect("a socket");
    let tcp = TcpListener::bind(free).expect("a socket");
    let [for_workers, for_metrics] =
        [udp.local_addr(), tcp.local_addr()].map(|a| a.expect("bound"));
    let port = for_workers.port();
    let cases = [
        (
            (for_workers, free),
            vec![
                format!("UDP port {port} of 127.0.0.1 is taken"),
                "stop the process that holds it, choose another port, or 0 for a free one".into(),
            ],
        ),
        (
            (free, for_metrics),
            vec![
                format!("--http {for_metrics}: cannot listen there"),
                "port 0 takes a free one".into(),
                "in use".into(),
            ],
        ),
    ];
    for ((listen, http), says) in cases {
        let status = coordinator.start(listen, http).wait();
        let said = coordinator.said();
        assert_eq!(status.code(), Some(1), "{said}");
        for part in says {
            assert!(said.contains(&part), "no {part:?}: {said}");
        }
        assert_eq!(living_with(&coordinator.folder), []);
        assert!(!coordinator.announcement().exists(), "announced: {said}");
    }

    let mut process = coordinator.start(free, free);
    let first = coordinator.address();
    process.signal(Signal::TERM);
    process.wait();
    std::fs::remove_file(coordinator.announcement()).expect("an announcement");
    let _held = UdpSocket::bind(first).expect("the port is free again");
    let _process = coordinator.start(free, free);
    assert_ne!(coordinator.address(), first);
}

/// Copies the programs into `place`, with an executor that looks for libtorch where nothing is.
fn programs_without_libtorch(place: &Path) {
    std::fs::create_dir(place).expect("a new folder");
    for name in ["evoring", "evoring-coordinator", "evoring-worker"] {
        std::fs::copy(binaries::binary(name), place.join(name)).expect("a copy");
    }
    let original = binaries::binary("evoring-executor");
    let mut program = std::fs::read(&original).expect("the executor");
    // `worker/build.rs` writes both into it: the link, and where it leads.
    let link = binaries::repository().join(".libtorch").join("lib");
    let real = link.canonicalize().expect("libtorch");
    let replaced = [link, real].map(|path| replace(&mut program, path.as_os_str().as_bytes()));
    assert_ne!(replaced, [0, 0], "the executor finds libtorch elsewhere");
    let executor = place.join("evoring-executor");
    std::fs::write(&executor, program).expect("a copy");
    let permissions = std::fs::metadata(&original).expect("the executor");
    std::fs::set_permissions(&executor, permissions.permissions()).expect("the copy's mode");
}

/// Turns every occurrence of a path into one of the same length that does not exist; how many.
fn replace(program: &mut [u8], path: &[u8]) -> usize {
    let mut count = 0;
    let mut from = 0;
    while let Some(at) = program[from..].windows(path.len()).position(|b| b == path) {
        program[from + at + 1..from + at + path.len()].fill(b'-');
        from += at + path.len();
        count += 1;
    }
    count
}

/// Claim: where libtorch is missing, the worker names the library and says how to get it, and the
/// cluster ends at once with these words and exit code 3.
/// Method: the programs in another folder, the executor's path to libtorch overwritten in its file,
/// as after the cache of `make setup` was removed.
#[test]
fn missing_libtorch_is_named() {
    let _alone = alone();
    let scratch = tempfile::TempDir::new().expect("a temporary folder");
    let programs = scratch.path().join("programs");
    programs_without_libtorch(&programs);
    let folder = scratch.path().join("cluster");
    let log = scratch.path().join("local.log");
    let mut command = Command::new(programs.join("evoring"));
    command
        .args(["local", "--workers", "1", "--dir"])
        .arg(&folder)
        .env("XDG_STATE_HOME", scratch.path())
        .env_remove("LD_LIBRARY_PATH")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).expect("a log file"));
    let mut local = Process::spawn(&mut command);
    let status = local.wait();
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    assert_eq!(status.code(), Some(3), "{said}");
    for part in [
        "w1 cannot run here (exit status: 78)",
        "error while loading shared libraries: libtorch",
        "cannot open shared object file",
        "A library of libtorch is missing: run `make setup`, which fetches it",
    ] {
        assert!(said.contains(part), "no {part:?}: {said}");
    }
}
