//! A local cluster of true processes, and what a user can ask it.

use crate::binaries;
use crate::namespace::{NotAllowed, with_tmpfs};
use crate::network::Network;
use crate::process::Process;
use evoring_protocol::event::{Event, EventKind};
use serde_json::Value;
use std::fs::{File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Bound on every wait for visible state; generous because test machines are slow and shared.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Name of the network namespace with workers and commands.
pub const EVERYBODY_ELSE: &str = "others";
/// What `evoring local` says.
const LOCAL_LOG: &str = "local.log";
/// Pause between two looks at visible state.
const POLL: Duration = Duration::from_millis(25);

/// Held by a test while its clusters run: the machine has two cores, and a worker that is starved
/// counts as lost.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An `evoring local`, stopped and reaped when dropped.
#[derive(Debug)]
pub struct Cluster {
    // Dropped before the folder and the network are.
    local: Process,
    folder: TempDir,
    size: Size,
    network: Option<Network>,
}

/// How many processes a cluster has.
#[derive(Debug, Clone, Copy)]
struct Size {
    coordinators: usize,
    workers: usize,
}

impl Cluster {
    /// Starts a coordinator and `workers` workers of one slot each, and waits for all of them.
    ///
    /// # Panics
    /// If they do not come up.
    pub fn start(workers: usize) -> Self {
        Self::start_group(1, workers)
    }

    /// Starts a group of coordinators and `workers` workers of one slot each, and waits until each
    /// coordinator has a vote and each worker an executor.
    ///
    /// # Panics
    /// If they do not come up.
    pub fn start_group(coordinators: usize, workers: usize) -> Self {
        let command = Command::new(binaries::binary("evoring"));
        let size = Size {
            coordinators,
            workers,
        };
        Self::start_by(command, temporary_folder(), size, None)
    }

    /// [`Cluster::start_group`] with each coordinator in a network namespace of its own, named as the
    /// coordinator is, and everything else, commands included, in one called [`EVERYBODY_ELSE`].
    ///
    /// # Errors
    /// If the machine does not allow that.
    ///
    /// # Panics
    /// If they do not come up.
    pub fn start_apart(coordinators: usize, workers: usize) -> Result<Self, NotAllowed> {
        let folder = temporary_folder();
        let names = coordinator_names(coordinators);
        let nodes = names.iter().map(String::as_str).chain([EVERYBODY_ELSE]);
        let network = Network::new(&nodes.collect::<Vec<_>>())?;
        let program = programs_apart(folder.path(), &network, &names);
        let command = network.enter(EVERYBODY_ELSE, &program);
        let size = Size {
            coordinators,
            workers,
        };
        Ok(Self::start_by(command, folder, size, Some(network)))
    }

    /// [`Cluster::start_group`] with a file system of `bytes` for the first coordinator's own files, which
    /// only the cluster's processes see.
    ///
    /// # Errors
    /// If the machine lets nobody mount one.
    ///
    /// # Panics
    /// If they do not come up.
    pub fn start_on_small_disk(
        coordinators: usize,
        workers: usize,
        bytes: u64,
    ) -> Result<Self, NotAllowed> {
        let folder = TempDir::new().expect("a temporary folder");
        let first = &coordinator_names(coordinators)[0];
        let disk = folder.path().join("cluster").join(first);
        std::fs::create_dir_all(&disk).expect("a folder to mount on");
        let command = with_tmpfs(&disk, bytes, &binaries::binary("evoring"))?;
        let size = Size {
            coordinators,
            workers,
        };
        Ok(Self::start_by(command, folder, size, None))
    }

    fn start_by(
        mut evoring: Command,
        folder: TempDir,
        size: Size,
        network: Option<Network>,
    ) -> Self {
        let Size {
            coordinators,
            workers,
        } = size;
        let cluster = Self {
            local: spawn(&mut evoring, folder.path(), size),
            folder,
            size,
            network,
        };
        if coordinators > 1 {
            cluster.wait_for_group();
        }
        cluster.wait_for(&format!("{workers} workers with executors"), || {
            let views = cluster.workers()?;
            let ready = views
                .iter()
                .filter(|w| w["connected"] == true && executors(w).iter().all(|p| *p != 0));
            (ready.count() == workers).then_some(())
        });
        cluster
    }

    /// Stops `evoring local`, and starts it again in the same folder, which `meanwhile` gets before.
    ///
    /// # Panics
    /// If it does not stop.
    pub fn restart(&mut self, meanwhile: impl FnOnce(&Path)) {
        self.local.signal(rustix::process::Signal::TERM);
        self.local.wait();
        meanwhile(&self.folder());
        let mut evoring = Command::new(binaries::binary("evoring"));
        self.local = spawn(&mut evoring, self.folder.path(), self.size);
    }

    /// What `evoring local` has said since it was started last.
    pub fn said(&self) -> String {
        let log = self.folder.path().join(LOCAL_LOG);
        std::fs::read_to_string(log).unwrap_or_default()
    }

    /// The folder with everything in it.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().join("cluster")
    }

    /// A coordinator's folder as its process sees it.
    pub fn folder_of(&self, coordinator: &str) -> PathBuf {
        let seen = format!("/proc/{}/root", self.local.id());
        let folder = self.folder().join(coordinator);
        Path::new(&seen).join(folder.strip_prefix("/").expect("an absolute path"))
    }

    /// Names of the coordinators.
    pub fn coordinators(&self) -> Vec<String> {
        coordinator_names(self.size.coordinators)
    }

    /// The network of a cluster that was [started apart](Cluster::start_apart).
    ///
    /// # Panics
    /// If it was not.
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("a cluster with a network")
    }

    /// Stops or continues `evoring local`, which starts again what dies.
    pub fn signal_supervisor(&self, signal: rustix::process::Signal) {
        self.local.signal(signal);
    }

    /// A folder beside the cluster's, for job files and results.
    pub fn scratch(&self) -> &Path {
        self.folder.path()
    }

    /// What other commands read to reach this cluster.
    pub fn cluster_file(&self) -> PathBuf {
        self.folder().join("cluster.json")
    }

    /// Runs a command with `--cluster` set, to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.run_at(&self.cluster_file(), arguments)
    }

    /// Runs a command with another cluster file, to its end.
    pub fn run_at(&self, file: &Path, arguments: &[&str]) -> Output {
        let program = binaries::binary("evoring");
        let command = match &self.network {
            None => Command::new(program),
            Some(network) => network.enter(EVERYBODY_ELSE, &program),
        };
        output_of(command, file, arguments)
    }

    /// Runs a command with `--json`; `None` if it fails (the coordinator may be away).
    pub fn json(&self, arguments: &[&str]) -> Option<Value> {
        self.json_at(&self.cluster_file(), arguments)
    }

    /// [`Cluster::json`] with another cluster file.
    pub fn json_at(&self, file: &Path, arguments: &[&str]) -> Option<Value> {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        let output = self.run_at(file, &arguments);
        output
            .status
            .success()
            .then(|| serde_json::from_slice(&output.stdout).ok())
            .flatten()
    }

    /// `evoring workers --json`.
    pub fn workers(&self) -> Option<Vec<Value>> {
        self.json(&["workers"])?.as_array().cloned()
    }

    /// Submits a job file and returns its number.
    ///
    /// # Panics
    /// If it is refused.
    pub fn submit(&self, text: &str) -> u64 {
        let output = self.try_submit(text);
        assert!(
            output.status.success(),
            "submit: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let reply: Value =
            serde_json::from_slice(&output.stdout).expect("submit --json prints JSON");
        reply["job"].as_u64().expect("a job number")
    }

    /// Submits a job file that may be refused.
    pub fn try_submit(&self, text: &str) -> Output {
        let file = self.scratch().join("job.toml");
        std::fs::write(&file, text).expect("the job file is written");
        self.run(&["submit", file.to_str().expect("UTF-8"), "--json"])
    }

    /// `evoring show JOB --json`.
    pub fn job(&self, job: u64) -> Option<Value> {
        self.json(&["show", &job.to_string()])
    }

    /// All events so far; `None` while the coordinator is away.
    pub fn events(&self) -> Option<Vec<Event>> {
        let output = self.run(&["events", "--json"]);
        let text = String::from_utf8(output.stdout).ok()?;
        output
            .status
            .success()
            .then(|| text.lines().map(parse_event).collect())
    }

    /// Waits until `look` sees something.
    ///
    /// # Panics
    /// After [`PATIENCE`], with the log of the cluster.
    pub fn wait_for<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        match wait_for(look) {
            Some(seen) => seen,
            None => panic!("waited {PATIENCE:?} for {what}\n{}", self.logs()),
        }
    }

    /// Waits until the job has ended and returns its view.
    pub fn wait_for_end(&self, job: u64) -> Value {
        self.wait_for(&format!("the end of job {job}"), || {
            self.job(job).filter(|view| {
                ["finished", "failed", "cancelled"].contains(&view["status"].as_str().unwrap_or(""))
            })
        })
    }

    /// The artifacts of a finished job that must repeat byte for byte.
    ///
    /// # Panics
    /// If they cannot be fetched.
    pub fn repeatable_bytes(&self, job: u64) -> RepeatableBytes {
        let out = self.scratch().join(format!("out-{job}"));
        let output = self.run(&["fetch", &job.to_string(), out.to_str().expect("UTF-8")]);
        assert!(
            output.status.success(),
            "fetch: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.logs()
        );
        RepeatableBytes::read(&out)
    }

    /// Process id of the only coordinator, from its announcement.
    pub fn coordinator_process(&self) -> Option<i32> {
        self.process_of("coordinator")
    }

    /// Process id of the coordinator of this name, from its announcement.
    pub fn process_of(&self, coordinator: &str) -> Option<i32> {
        let file = self.folder().join(format!("{coordinator}.json"));
        let text = std::fs::read_to_string(file).ok()?;
        let value: Value = serde_json::from_str(&text).ok()?;
        i32::try_from(value["process"].as_i64()?).ok()
    }

    /// Last part of every log, for a failing test.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        let folders = [self.scratch().to_owned(), self.folder()];
        let files = folders
            .iter()
            .filter_map(|f| std::fs::read_dir(f).ok())
            .flatten()
            .flatten();
        for path in files
            .map(|entry| entry.path())
            .filter(|p| p.extension().is_some_and(|e| e == "log"))
        {
            let log = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(30)..];
            text.push_str(&format!("--- {}\n{}\n", path.display(), tail.join("\n")));
        }
        text
    }
}

/// Starts `evoring local` for a cluster in `folder`.
fn spawn(evoring: &mut Command, folder: &Path, size: Size) -> Process {
    let log = File::create(folder.join(LOCAL_LOG)).expect("a log file");
    evoring
        .args(["local", "--workers", &size.workers.to_string()])
        .args(["--coordinators", &size.coordinators.to_string(), "--dir"])
        .arg(folder.join("cluster"))
        // The list of clusters that run is the user's.
        .env("XDG_STATE_HOME", folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log);
    Process::spawn(evoring)
}

/// The bytes that must be equal between runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepeatableBytes {
    /// `population.json`
    pub population: Vec<u8>,
    /// `model.safetensors`
    pub model: Vec<u8>,
    /// Object `result` of `report.json`, as it stands in the file.
    pub result: Vec<u8>,
}

impl RepeatableBytes {
    /// Reads them from a folder of artifacts.
    ///
    /// # Panics
    /// If one is missing.
    pub fn read(folder: &Path) -> Self {
        let read = |name: &str| {
            std::fs::read(folder.join(name))
                .unwrap_or_else(|e| panic!("{}: {e}", folder.join(name).display()))
        };
        Self {
            population: read("population.json"),
            model: read("model.safetensors"),
            result: raw_result(&read("report.json")).to_vec(),
        }
    }

    /// Fails with what differs.
    ///
    /// # Panics
    /// If anything differs.
    pub fn assert_equals(&self, other: &Self, what: &str) {
        assert!(
            self.population == other.population,
            "{what}: population.json differs"
        );
        assert!(
            self.result == other.result,
            "{what}: report.json's result differs:\n{}\n{}",
            String::from_utf8_lossy(&self.result),
            String::from_utf8_lossy(&other.result)
        );
        assert!(
            self.model == other.model,
            "{what}: model.safetensors differs"
        );
    }
}

/// The bytes of the value of `result`: parsing and printing would hide differences in spacing, in
/// the order of fields and in how numbers are written.
fn raw_result(report: &[u8]) -> &[u8] {
    let whole: Value = serde_json::from_slice(report).expect("report.json is JSON");
    let key = b"\"result\":";
    let key_at = report.windows(key.len()).position(|bytes| bytes == key);
    let begin = key_at.expect("report.json has a result") + key.len();
    let mut values = serde_json::Deserializer::from_slice(&report[begin..]).into_iter::<Value>();
    let value = values.next().expect("a value").expect("a whole value");
    assert_eq!(
        value, whole["result"],
        "another field named result is before it"
    );
    report[begin..begin + values.byte_offset()].trim_ascii()
}

/// As `evoring local` names them.
fn coordinator_names(count: usize) -> Vec<String> {
    match count {
        1 => vec!["coordinator".to_owned()],
        count => (1..=count).map(|number| format!("c{number}")).collect(),
    }
}

/// Runs a command of `evoring` to its end, on the cluster of `file`.
pub fn run_at(file: &Path, arguments: &[&str]) -> Output {
    let command = Command::new(binaries::binary("evoring"));
    output_of(command, file, arguments)
}

fn output_of(mut command: Command, file: &Path, arguments: &[&str]) -> Output {
    command.args(arguments).arg("--cluster").arg(file);
    command.stdin(Stdio::null());
    command.output().expect("evoring starts")
}

/// With a space, as users' folders have.
fn temporary_folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("evoring tests ").tempdir();
    folder.expect("a temporary folder")
}

/// A folder of programs as `evoring` expects them beside itself, of which the coordinator's goes to
/// the namespace that has its name, and listens there. Returns the path of `evoring`.
fn programs_apart(folder: &Path, network: &Network, coordinators: &[String]) -> PathBuf {
    let programs = folder.join("programs");
    std::fs::create_dir(&programs).expect("a folder");
    let evoring = programs.join("evoring");
    // It looks for the others where its own file is, so a symbolic link will not do.
    let own = binaries::binary("evoring");
    if std::fs::hard_link(&own, &evoring).is_err() {
        std::fs::copy(&own, &evoring).expect("a copy of evoring");
    }
    for name in ["evoring-worker", "evoring-executor"] {
        symlink(binaries::binary(name), programs.join(name)).expect("a symbolic link");
    }
    let program = binaries::binary("evoring-coordinator");
    let cases = coordinators.iter().map(|name| {
        let address = network.address(name);
        let entered = shell_words(&network.cross(name, &program));
        format!("    */{name}.json) listen={address}:0; enter() {{ exec {entered} \"$@\"; }} ;;\n")
    });
    let text = format!(
        r#"#!/bin/sh
# The announcement says which coordinator this is.
for argument; do
    case $argument in
{}    esac
done
# The same arguments, with another address to listen at.
previous=
for argument; do
    shift
    case $previous in --listen) set -- "$@" "$listen" ;; *) set -- "$@" "$argument" ;; esac
    previous=$argument
done
enter "$@"
"#,
        cases.collect::<String>()
    );
    let script = programs.join("evoring-coordinator");
    std::fs::write(&script, text).expect("a script");
    std::fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("an executable");
    evoring
}

/// The command as words of a shell.
fn shell_words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|word| {
        let word = word.to_str().expect("UTF-8");
        format!("'{}'", word.replace('\'', "'\\''"))
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// Looks again and again; `None` after [`PATIENCE`].
pub fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let begin = Instant::now();
    loop {
        if let Some(seen) = look() {
            return Some(seen);
        }
        if begin.elapsed() > PATIENCE {
            return None;
        }
        std::thread::sleep(POLL);
    }
}

/// Process ids of a worker's executors.
pub fn executors(worker: &Value) -> Vec<i64> {
    worker["executors"]
        .as_array()
        .map(|a| a.iter().filter_map(Value::as_i64).collect())
        .unwrap_or_default()
}

/// Sends SIGKILL.
pub fn kill(process: i64) {
    let process = i32::try_from(process)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let process = process.expect("a process id");
    rustix::process::kill_process(process, rustix::process::Signal::KILL)
        .expect("the victim lives");
}

fn parse_event(line: &str) -> Event {
    serde_json::from_str(line).unwrap_or_else(|e| panic!("events --json printed {line:?}: {e}"))
}

/// The stage that a gang or a lease belongs to, for events that name one.
pub fn stage_of(kind: &EventKind) -> Option<&str> {
    match kind {
        EventKind::LeaseGranted { stage, .. }
        | EventKind::ItemsRetried { stage, .. }
        | EventKind::RosterCommitted { stage, .. }
        | EventKind::RosterBroken { stage, .. } => Some(stage),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: two results that mean the same and are written differently are told apart. Method:
    // the same object with another spacing, another order, another number.
    #[test]
    fn results_are_compared_as_bytes() {
        let report = |result: &str| {
            format!("{{\n\"format\": \"a\",\n\"result\": {result},\n\"run\": {{\"b\": 2}}\n}}\n")
        };
        let written = r#"{"x": 1.50, "y": [ ]}"#;
        assert_eq!(raw_result(report(written).as_bytes()), written.as_bytes());
        for other in [
            r#"{"x":1.50,"y":[]}"#,
            r#"{"y": [ ], "x": 1.50}"#,
            r#"{"x": 1.5, "y": [ ]}"#,
        ] {
            assert_ne!(raw_result(report(other).as_bytes()), written.as_bytes());
        }
    }
}
