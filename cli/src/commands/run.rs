//! `evoring run`: one job on a throw-away cluster.

use super::Context;
use super::fetch;
use super::local::stop;
use super::signals::Signals;
use super::start::{Patience, form_group, wait_for_workers};
use super::submit::{send, verdict};
use crate::args::RunArgs;
use crate::artifacts::folder::OutFolder;
use crate::artifacts::report::RunFacts;
use crate::artifacts::{Written, fetch as fetch_artifacts};
use crate::client::{Access, Client};
use crate::exit::{Exit, Failure};
use crate::follow::{Screen, follow};
use crate::job_file::JobFile;
use crate::local::registry::{Starter, fresh_folder, register_if_possible, state_folder};
use crate::local::{
    Binaries, ChildEvent, ClusterEvent, Folder, LocalCluster, LocalCoordinator, Size, Stop,
};
use crate::output::json::JobJson;
use crate::output::table::count;
use crate::output::{print_json, say};
use evoring_protocol::JobId;
use evoring_protocol::client::{ClientReply, ClientRequest, JobStatus, JobView};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// While its processes are kept alive, the cluster is waited for without end.
const WHILE_SUPERVISED: Duration = Duration::from_secs(24 * 3600);
/// How long a cancellation may take before everything is stopped anyway.
const CANCEL_PATIENCE: Duration = Duration::from_secs(2);

/// Everything from the job file to the exit code.
pub(super) async fn run(context: &Context, arguments: RunArgs) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    if arguments.cluster.workers == 0 {
        let message = "--workers 0: a job needs at least one worker";
        return Err(Failure::usage(message));
    }
    let binaries = Binaries::beside_this_program(arguments.cluster.workers)?;
    let file = JobFile::read(&arguments.job)?;
    let size = arguments.cluster.size();
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
    let group = match cluster.coordinators().len() {
        1 => String::new(),
        several => format!("{several} coordinators and "),
    };
    screen.note(&format!(
        "cluster of {group}{} with {} each, in {}",
        count(u64::from(size.workers), "worker"),
        count(u64::from(size.slots_per_worker), "slot"),
        root.display()
    ));
    let run = Run {
        file,
        size,
        coordinators: cluster.coordinators().to_vec(),
        place: out.place().to_owned(),
        screen,
        progress: Progress::default(),
    };
    let outcome = supervise(&mut cluster, &mut signals, &run, out).await;
    run.screen.finish();
    stop(&mut cluster, &mut signals).await;
    drop(registration);
    drop(cluster);
    let unfetched = run.unfetched(&outcome, &root);
    let is_done = match &outcome {
        Outcome::Ended(ended) => ended.view.status == JobStatus::Finished,
        // Without the coordinator's word the job may have results after all.
        Outcome::Stopped(_) => {
            let is_cancelled = run.progress.job.get().is_none() || run.progress.is_cancelled.get();
            unfetched.is_none() && is_cancelled
        }
        Outcome::Failed(_) => false,
    };
    tidy(&root, is_fresh && is_done && !arguments.keep);
    run.report(context, outcome, unfetched)
}

/// One run of one job.
struct Run {
    file: JobFile,
    size: Size,
    coordinators: Vec<LocalCoordinator>,
    /// For the results.
    place: PathBuf,
    screen: Screen,
    progress: Progress,
}

/// Written by the work, read when the work is cut short.
#[derive(Debug, Default)]
struct Progress {
    /// Once the job is accepted.
    job: Cell<Option<JobId>>,
    /// Whether it has results.
    is_finished: Cell<bool>,
    /// Whether the coordinator said that it is cancelled.
    is_cancelled: Cell<bool>,
    /// Whether it failed before it could be cancelled.
    has_failed: Cell<bool>,
    /// Processes that were started again.
    restarts: Cell<u64>,
}

impl Run {
    /// How to get results that the cluster holds and that were not written; `None` if there are
    /// none.
    fn unfetched(&self, outcome: &Outcome, root: &Path) -> Option<String> {
        let job = self.progress.job.get()?;
        let has_results = self.progress.is_finished.get() && !matches!(outcome, Outcome::Ended(_));
        has_results.then(|| {
            let (root, place) = (root.display(), self.place.display());
            format!(
                "job {job} is finished, and its results are kept in the cluster's folder: start that with `evoring local --dir {root}` and write them with `evoring fetch {job} {place}`"
            )
        })
    }

    /// Tells how it went, and hands out the exit code.
    fn report(
        &self,
        context: &Context,
        outcome: Outcome,
        unfetched: Option<String>,
    ) -> Result<Exit, Failure> {
        match outcome {
            Outcome::Failed(failure) => Err(match unfetched {
                Some(hint) => Failure::new(failure.exit, format!("{failure}\n{hint}")),
                None => failure,
            }),
            Outcome::Stopped(exit) => {
                let what = match (unfetched, self.progress.job.get()) {
                    (Some(hint), _) => hint,
                    (None, Some(_)) if self.progress.is_cancelled.get() => {
                        "the job was cancelled and nothing was written".to_owned()
                    }
                    (None, Some(_)) if self.progress.has_failed.get() => {
                        "the job had failed already and nothing was written".to_owned()
                    }
                    (None, Some(_)) => {
                        "the job was stopped with its cluster and nothing was written".to_owned()
                    }
                    (None, None) => "no job was submitted and nothing was written".to_owned(),
                };
                say(format_args!("evoring: interrupted; {what}"));
                Ok(exit)
            }
            Outcome::Ended(ended) => {
                let told = self.tell(context, &ended);
                // A job that failed counts for more than a reader that has gone.
                let exit = verdict(&ended.view)?;
                told.map(|()| exit)
            }
        }
    }

    /// Prints the job's last state and its results.
    fn tell(&self, context: &Context, ended: &Ended) -> Result<(), Failure> {
        if context.style.json {
            print_json(&serde_json::json!({ "type": "end", "view": JobJson::from(&ended.view) }))?;
        }
        match &ended.results {
            Some((written, replaced)) => {
                fetch::show(context.style, &ended.view, &self.place, written, *replaced)
            }
            None => Ok(()),
        }
    }
}

/// How the job went.
struct Ended {
    view: JobView,
    results: Option<(Written, bool)>,
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
    run: &Run,
    out: OutFolder,
) -> Outcome {
    let access = match cluster.access() {
        Ok(access) => access,
        Err(failure) => return Outcome::Failed(failure),
    };
    let mut client = Client::new(access.clone(), WHILE_SUPERVISED);
    let Run {
        screen, progress, ..
    } = run;
    let exit = {
        let mut work = std::pin::pin!(work(&mut client, run, out));
        loop {
            tokio::select! {
                biased;
                exit = signals.next() => break exit,
                event = cluster.next_event() => {
                    progress.restarts.set(cluster.deaths());
                    match event {
                        ClusterEvent::Child(ChildEvent::Started { .. }) => {}
                        ClusterEvent::Child(event) => screen.note(&event.to_string()),
                        ClusterEvent::Lost { message } => screen.note(&message),
                        ClusterEvent::Broken { message } => return Outcome::Failed(Failure::new(Exit::Unreachable, message)),
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
    if let Some(job) = progress.job.get().filter(|_| !progress.is_finished.get()) {
        tokio::select! {
            biased;
            _ = signals.next() => cluster.request_stop(Stop::Now),
            // The cluster ends in any case; the cancellation is for its event log.
            _ = tokio::time::timeout(CANCEL_PATIENCE, cancel(access, job, progress)) => {}
        }
    }
    Outcome::Stopped(exit)
}

/// Cancels the job, or notes that it was faster.
async fn cancel(access: Access, job: JobId, progress: &Progress) {
    let mut client = Client::new(access, CANCEL_PATIENCE);
    if client.ask(&ClientRequest::Cancel { job }).await.is_ok() {
        progress.is_cancelled.set(true);
        return;
    }
    if let Ok(ClientReply::Job(view)) = client.ask(&ClientRequest::Show { job }).await {
        progress.is_finished.set(view.status == JobStatus::Finished);
        progress
            .is_cancelled
            .set(view.status == JobStatus::Cancelled);
        progress.has_failed.set(view.status == JobStatus::Failed);
    }
}

/// Submits, follows and fetches.
async fn work(client: &mut Client, run: &Run, out: OutFolder) -> Result<Ended, Failure> {
    let Run {
        screen, progress, ..
    } = run;
    let note = |text: &str| screen.note(text);
    form_group(client, &run.coordinators, Patience::default(), note).await?;
    wait_for_workers(client, run.size, Patience::default(), note).await?;
    let job = send(client, &run.file, true).await?;
    progress.job.set(Some(job));
    let view = follow(client, job, screen).await?;
    if view.status != JobStatus::Finished {
        return Ok(Ended {
            view,
            results: None,
        });
    }
    progress.is_finished.set(true);
    screen.note("fetching results");
    let facts = RunFacts {
        workers: fetch::workers(client).await?,
        restarts: Some(progress.restarts.get()),
        wall_ms: Some(screen.elapsed().as_millis() as u64),
    };
    let written = fetch_artifacts(client, &view, &facts, out.staging()).await?;
    let replaced = out.put_in_place(&written.files)?;
    Ok(Ended {
        view,
        results: Some((written, replaced)),
    })
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

/// Removes the cluster's folder where nobody needs it any more, or says that it is kept: after a
/// failure, to find out why.
fn tidy(root: &Path, may_remove: bool) {
    let shown = root.display();
    if !may_remove {
        say(format_args!(
            "evoring: state and logs of the cluster are kept in {shown}"
        ));
    } else if let Err(error) = std::fs::remove_dir_all(root) {
        say(format_args!(
            "evoring: {shown} could not be removed: {error}"
        ));
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
