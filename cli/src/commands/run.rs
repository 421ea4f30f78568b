//! `evoring run`: one job on a throw-away cluster.

use super::Context;
use super::fetch;
use super::local::stop;
use super::signals::Signals;
use super::submit::{send, verdict};
use crate::args::RunArgs;
use crate::artifacts::folder::OutFolder;
use crate::artifacts::report::RunFacts;
use crate::artifacts::{Written, fetch as fetch_artifacts};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::follow::{Screen, follow};
use crate::job_file::JobFile;
use crate::local::registry::{Starter, fresh_folder, register_if_possible, state_folder};
use crate::local::{Binaries, ChildEvent, Folder, LocalCluster, START_PATIENCE, Size, Stop};
use crate::output::json::JobJson;
use crate::output::print_json;
use crate::output::table::count;
use evoring_protocol::JobId;
use evoring_protocol::client::{ClientRequest, JobStatus, JobView};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// While its processes are kept alive, the cluster is waited for without end.
const WHILE_SUPERVISED: Duration = Duration::from_secs(24 * 3600);
/// How long a cancellation may take before everything is stopped anyway.
const CANCEL_PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at the workers that are starting.
const LOOK: Duration = Duration::from_millis(100);

/// Everything from the job file to the exit code.
pub(super) async fn run(context: &Context, arguments: RunArgs) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let binaries = Binaries::beside_this_program()?;
    let file = JobFile::read(&arguments.job)?;
    let size = Size {
        workers: arguments.cluster.workers,
        slots_per_worker: arguments.cluster.slots_per_worker,
    };
    check_slots(&file, size)?;
    let place = arguments
        .out
        .clone()
        .unwrap_or_else(|| default_place(&file.spec.name));
    let out = OutFolder::prepare(&place)?;
    let state = state_folder();
    let (root, is_fresh) = match &arguments.cluster.dir {
        Some(dir) => (dir.clone(), false),
        None => (
            fresh_folder(state.as_ref().map_err(Clone::clone)?, Starter::Run),
            true,
        ),
    };
    let folder = Folder::open(&root)?;
    if folder.cluster_file().exists() {
        let root = root.display();
        return Err(Failure::usage(format!(
            "{root} holds a cluster already: name another folder, or go on with it by `evoring local --dir {root}`"
        )));
    }
    let mut cluster = LocalCluster::start(&binaries, folder, size)?;
    let registration = register_if_possible(state, &cluster.folder().cluster_file(), Starter::Run);
    let screen = Screen::new(context.style, file.facts());
    screen.note(&format!(
        "cluster of {} with {} each, in {}",
        count(u64::from(size.workers), "worker"),
        count(u64::from(size.slots_per_worker), "slot"),
        root.display()
    ));
    let outcome = supervise(&mut cluster, &mut signals, &screen, &file, size, out).await;
    screen.finish();
    stop(&mut cluster, &mut signals).await;
    drop(registration);
    drop(cluster);
    tidy(&root, is_fresh && !arguments.keep, &outcome);
    report(context, outcome)
}

/// How the job went.
struct Ended {
    view: JobView,
    results: Option<(Written, PathBuf, bool)>,
}

/// Why nothing more is waited for.
enum Outcome {
    Ended(Box<Ended>),
    Stopped(Exit),
    Failed(Failure),
}

/// The job, its cluster and the user, whichever speaks first.
async fn supervise(
    cluster: &mut LocalCluster,
    signals: &mut Signals,
    screen: &Screen,
    file: &JobFile,
    size: Size,
    out: OutFolder,
) -> Outcome {
    let access = match cluster.access() {
        Ok(access) => access,
        Err(failure) => return Outcome::Failed(failure),
    };
    let mut client = Client::new(access.clone(), WHILE_SUPERVISED);
    let (job, restarts) = (Cell::new(None), Cell::new(0));
    let exit = {
        let mut work = std::pin::pin!(work(&mut client, screen, file, size, out, &job, &restarts));
        loop {
            tokio::select! {
                biased;
                exit = signals.next() => break exit,
                event = cluster.next_event() => {
                    restarts.set(cluster.deaths());
                    match event {
                        ChildEvent::Started { .. } => {}
                        ChildEvent::Died { name, status } => screen.note(&format!("{name} ended ({status}), starting it again")),
                        ChildEvent::GaveUp { message } => return Outcome::Failed(Failure::new(Exit::Unreachable, message)),
                    }
                }
                result = &mut work => return match result {
                    Ok(ended) => Outcome::Ended(Box::new(ended)),
                    Err(failure) => Outcome::Failed(failure),
                },
            }
        }
    };
    screen.note("stopping (again: at once)");
    if let Some(job) = job.get() {
        let mut client = Client::new(access, CANCEL_PATIENCE);
        let request = ClientRequest::Cancel { job };
        tokio::select! {
            biased;
            _ = signals.next() => cluster.request_stop(Stop::Now),
            // The cluster ends in any case; the cancellation is for its event log.
            _ = tokio::time::timeout(CANCEL_PATIENCE, client.ask(&request)) => {}
        }
    }
    Outcome::Stopped(exit)
}

/// Submits, follows and fetches.
async fn work(
    client: &mut Client,
    screen: &Screen,
    file: &JobFile,
    size: Size,
    out: OutFolder,
    job: &Cell<Option<JobId>>,
    restarts: &Cell<u64>,
) -> Result<Ended, Failure> {
    wait_for_workers(client, size).await?;
    let number = send(client, file, true).await?;
    job.set(Some(number));
    let view = follow(client, number, screen).await?;
    if view.status != JobStatus::Finished {
        return Ok(Ended {
            view,
            results: None,
        });
    }
    screen.note("fetching results");
    let facts = RunFacts {
        workers: fetch::workers(client).await?,
        restarts: Some(restarts.get()),
        wall_ms: Some(screen.elapsed().as_millis() as u64),
    };
    let written = fetch_artifacts(client, &view, &facts, out.staging()).await?;
    let place = out.place().to_owned();
    let replaced = out.put_in_place()?;
    Ok(Ended {
        view,
        results: Some((written, place, replaced)),
    })
}

/// A job that needs all slots is accepted once all are there.
async fn wait_for_workers(client: &mut Client, size: Size) -> Result<(), Failure> {
    let began = Instant::now();
    loop {
        let workers = fetch::workers(client).await?;
        let connected = workers.iter().filter(|worker| worker.connected).count();
        if connected >= size.workers as usize {
            return Ok(());
        }
        if began.elapsed() > START_PATIENCE {
            let message = format!(
                "{connected} of {} workers came up within {} s; see the logs of the others",
                size.workers,
                START_PATIENCE.as_secs()
            );
            return Err(Failure::new(Exit::Unreachable, message));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Refuses before anything is started.
fn check_slots(file: &JobFile, size: Size) -> Result<(), Failure> {
    let slots = u64::from(size.workers) * u64::from(size.slots_per_worker);
    if u64::from(file.spec.min_ranks) <= slots {
        return Ok(());
    }
    let message = format!(
        "{}: the job needs {} slots at once, {slots} present: raise --workers or --slots-per-worker, or lower `ranks` in the job file",
        file.file, file.spec.min_ranks
    );
    Err(Failure::new(Exit::Refused, message))
}

/// `evoring-out/JOB` in the current folder.
fn default_place(name: &str) -> PathBuf {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "._-".contains(c) {
            c
        } else {
            '-'
        }
    };
    let name: String = name.chars().take(64).map(plain).collect();
    let name = name.trim_start_matches('.');
    Path::new("evoring-out").join(if name.is_empty() { "job" } else { name })
}

/// Removes the cluster's folder after success; after a failure it is needed to find out why.
fn tidy(root: &Path, may_remove: bool, outcome: &Outcome) {
    let is_good = match outcome {
        Outcome::Ended(ended) => ended.view.status == JobStatus::Finished,
        Outcome::Stopped(_) => true,
        Outcome::Failed(_) => false,
    };
    if !(may_remove && is_good) {
        eprintln!(
            "evoring: state and logs of the cluster are kept in {}",
            root.display()
        );
    } else if let Err(error) = std::fs::remove_dir_all(root) {
        eprintln!("evoring: {} could not be removed: {error}", root.display());
    }
}

fn report(context: &Context, outcome: Outcome) -> Result<Exit, Failure> {
    match outcome {
        Outcome::Failed(failure) => Err(failure),
        Outcome::Stopped(exit) => {
            eprintln!("evoring: interrupted; the job was cancelled and nothing was written");
            Ok(exit)
        }
        Outcome::Ended(ended) => {
            if context.style.json {
                print_json(
                    &serde_json::json!({ "type": "end", "view": JobJson::from(&ended.view) }),
                )?;
            }
            if let Some((written, place, replaced)) = &ended.results {
                fetch::show(context.style, &ended.view, place, written, *replaced)?;
            }
            verdict(&ended.view)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: a job's name makes one folder below `evoring-out`, whatever is in it.
    #[test]
    fn default_places() {
        for (name, folder) in [
            ("prune-fashion", "prune-fashion"),
            ("a/../b c", "a-..-b-c"),
            ("..", "job"),
            ("λ", "-"),
        ] {
            assert_eq!(default_place(name), Path::new("evoring-out").join(folder));
        }
    }
}
