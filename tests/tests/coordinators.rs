//! Claim: whatever happens to the coordinators of a group, a job completes with the same bytes as with
//! one coordinator that nothing happens to; nothing that was recorded is computed again; and while
//! coordinators are away, what runs goes on.
//!
//! Method: three coordinators (or five) and two workers, all of them true processes. The one that leads (or all)
//! is struck in a named stage while work is held, which the event files of all coordinators together
//! must show (`evidence`): it had the office, work had been handed out and had no result, and another
//! process took the office.

use evoring_protocol::event::{Event, EventKind};
use evoring_tests::client::Clients;
use evoring_tests::cluster::{Cluster, alone};
use evoring_tests::evidence::{Item, assert_nothing_recorded_is_repeated, is_end, is_work};
use evoring_tests::group::{Away, Strike, awaited};
use evoring_tests::job::PruneJob;
use evoring_tests::linearizability::{JobModel, LabelModel, check};
use evoring_tests::namespace::not_run;
use evoring_tests::network::Cut;
use evoring_tests::process::http_body;
use evoring_tests::scenario::undisturbed;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long all coordinators are away, if `EVORING_OUTAGE_SECONDS` says nothing else: longer than any
/// timeout between them, the workers and clients.
const OUTAGE_SECONDS: u64 = 12;
/// What is done to those that lead while clients ask. One that was stopped may go on as if it still led:
/// what it has read from clients until then is asked elsewhere meanwhile.
const STRIKES: [Strike; 8] = [
    Strike::Kill,
    Strike::Stop,
    Strike::Stop,
    Strike::KillAll,
    Strike::Stop,
    Strike::Kill,
    Strike::Stop,
    Strike::Kill,
];
/// Operations that clients record at least.
const OPERATIONS: usize = 2_000;
/// Clients that ask at the same time.
const CLIENTS: u64 = 6;

fn outage() -> Duration {
    let wanted = std::env::var("EVORING_OUTAGE_SECONDS");
    let seconds = wanted.map_or(OUTAGE_SECONDS, |text| text.parse().expect("seconds"));
    Duration::from_secs(seconds)
}

fn job() -> PruneJob {
    PruneJob::to_be_struck(8)
}

/// Waits for the result, and returns the job's last view.
fn finish(cluster: &Cluster, job: u64) -> Value {
    let view = cluster.wait_for_end(job);
    assert_eq!(view["status"], "finished", "{view}\n{}", cluster.logs());
    view
}

/// The job finishes with the same bytes, nothing was computed twice, and the coordinators agree.
fn assert_undisturbed(cluster: &Cluster, job: u64, what: &str) {
    finish(cluster, job);
    cluster
        .repeatable_bytes(job)
        .assert_equals(undisturbed(&self::job()), what);
    assert_nothing_recorded_is_repeated(&cluster.merged_events());
    cluster.wait_for_group();
    cluster.wait_until_applied_alike();
}

/// Runs the job on a group of `size` and strikes once in each of the stages.
fn check_strikes(size: usize, stages: &[&str], strike: Strike) {
    let _alone = alone();
    undisturbed(&self::job());
    let cluster = Cluster::start_group(size, 2);
    let job = cluster.submit(&self::job().text());
    for stage in stages {
        cluster.strike_in(stage, strike);
    }
    assert_undisturbed(&cluster, job, &format!("{strike:?} in {stages:?}"));
}

macro_rules! strike_tests {
    ($($name:ident: $strike:ident of $size:literal in [$($stage:literal),*];)*) => {
        $(#[test]
        fn $name() {
            check_strikes($size, &[$($stage),*], Strike::$strike);
        })*
    };
}

strike_tests! {
    leaders_killed: Kill of 3 in ["train", "search", "finetune"];
    leaders_stopped: Stop of 3 in ["train", "search", "finetune"];
    all_killed_at_once: KillAll of 3 in ["train", "search", "finetune"];
    two_of_five_killed_at_once: KillMinority of 5 in ["train", "search"];
}

/// Claim: a leader that the others cannot hear, that cannot hear them, or both, is replaced, as
/// followers are done without; the job goes on meanwhile, and afterwards all agree again.
/// Method: each coordinator in a network namespace; one after the other is cut off and healed while the
/// search runs, each time until something more was recorded.
#[test]
fn coordinators_cut_off() {
    let _alone = alone();
    let cluster = match Cluster::start_apart(3, 2) {
        Ok(cluster) => cluster,
        Err(reason) => return not_run("coordinators_cut_off", &reason),
    };
    undisturbed(&self::job());
    let job = cluster.submit(&self::job().text());
    cluster.strike_in("train", Strike::Cut(Cut::Both));
    for cut in [Cut::Sends, Cut::Receives] {
        cluster.wait_for_group();
        cluster.strike_in("search", Strike::Cut(cut));
    }
    cluster.wait_for_group();
    let leader = cluster.leader();
    let mut names = cluster.coordinators();
    names.retain(|name| *name != leader.name);
    cluster.network().cut(&names[0], Cut::Both);
    cluster.wait_for_progress();
    cluster.network().heal(&names[0], Cut::Both);
    assert_undisturbed(&cluster, job, "coordinators cut off");
}

/// Claim: a coordinator whose log is damaged is told of and done without; once its folder is deleted, it
/// is taken in anew, under another number.
/// Method: damage a third of the log of one of three while they are stopped, start, and write; then
/// delete its folder, and start again.
#[test]
fn a_damaged_coordinator_is_done_without() {
    let _alone = alone();
    let mut cluster = Cluster::start_group(3, 0);
    let job = cluster.submit(&PruneJob::default().text());
    let number_of = |cluster: &Cluster, name: &str| {
        let view = cluster.status()?;
        let mut members = view["members"].as_array()?.iter();
        members.find(|member| member["name"] == name)?["id"].as_u64()
    };
    let before = number_of(&cluster, "c3").expect("c3 is a member");
    cluster.restart(|folder| {
        let file = folder.join("c3").join("log.redb");
        let mut bytes = std::fs::read(&file).expect("a log");
        let third = bytes.len() / 3;
        for byte in &mut bytes[third..2 * third] {
            *byte ^= 0x10;
        }
        std::fs::write(&file, bytes).expect("the log is written");
    });
    cluster.wait_for("what is said of c3, and that the others run", || {
        let said = cluster.said();
        let is_told = said.contains("the others go on") && said.contains("corrupt");
        (is_told && said.contains("cluster file:")).then_some(())
    });
    let label = cluster.run(&["label", &job.to_string(), "after=damage"]);
    assert!(label.status.success(), "{label:?}");
    cluster.restart(|folder| std::fs::remove_dir_all(folder.join("c3")).expect("its folder"));
    cluster.wait_for_group();
    let after = number_of(&cluster, "c3").expect("c3 is a member again");
    assert_ne!(after, before);
    let view = cluster.job(job).expect("the job");
    assert_eq!(view["labels"]["after"], "damage", "{view}");
}

/// How often each item got a result, and how many were handed out as copies.
fn counts(events: &[Event]) -> (BTreeMap<Item, usize>, usize) {
    let (mut recorded, mut copied) = (BTreeMap::new(), 0);
    for event in events {
        match &event.kind {
            EventKind::LeaseGranted {
                items,
                is_copy: true,
                ..
            } => copied += items.len(),
            EventKind::ItemsRecorded {
                job, demand, items, ..
            } => {
                for index in items {
                    *recorded.entry((*job, *demand, *index)).or_default() += 1;
                }
            }
            _ => {}
        }
    }
    (recorded, copied)
}

/// Who came, was lost, and what was tried again because of it.
fn of_workers(events: &[Event]) -> Vec<&Event> {
    let is_such = |event: &&Event| {
        matches!(
            event.kind,
            EventKind::CoordinatorStarted { .. }
                | EventKind::WorkerJoined { .. }
                | EventKind::WorkerLost { .. }
                | EventKind::ExecutorExited { .. }
                | EventKind::ItemsRetried { .. }
                | EventKind::RosterBroken { .. }
        )
    };
    events.iter().filter(is_such).collect()
}

/// Where the workers serve their metrics, while coordinators may be away.
struct WorkerPages(Vec<String>);

impl WorkerPages {
    fn of(cluster: &Cluster) -> Self {
        let workers = cluster.wait_for("the workers", || cluster.workers());
        let address = |worker: &Value| {
            let url = worker["metrics"].as_str().expect("an address");
            let address = url.trim_start_matches("http://");
            address.trim_end_matches("/metrics").to_owned()
        };
        Self(workers.iter().map(address).collect())
    }

    /// Sum of a metric over all workers.
    fn sum(&self, name: &str) -> u64 {
        let value = |address: &String| {
            let page = http_body(address, "/metrics");
            let line = page.lines().find_map(|line| line.strip_prefix(name));
            let number = line.expect("the metric").trim().parse::<f64>();
            number.expect("a number") as u64
        };
        self.0.iter().map(value).sum()
    }

    fn items(&self) -> u64 {
        self.sum("evoring_worker_items_total")
    }
}

/// Claim: no evaluation of a running search is lost while all coordinators are away: what workers held
/// goes on, is recorded once afterwards, and is not computed again.
/// Method: all coordinators killed and not started again for a while, or stopped, while all slots are
/// busy; what workers count grows meanwhile, and is what is recorded in the end, but for copies of slow
/// ones. An item that is granted as its coordinator dies may never reach a worker, so that grants prove
/// nothing.
fn check_outage_of_search(how: Away) {
    let _alone = alone();
    undisturbed(&self::job());
    let cluster = Cluster::start_group(3, 2);
    let workers = WorkerPages::of(&cluster);
    let job = cluster.submit(&self::job().text());
    cluster.wait_for("work in the search", || {
        let events = cluster.merged_events();
        let is_work = events.iter().any(|e| is_work(e, "search")) && !counts(&events).0.is_empty();
        let are_busy =
            || workers.sum("evoring_worker_slots_busy") == workers.sum("evoring_worker_slots ");
        (is_work && are_busy()).then_some(())
    });
    let (mut computed, mut before) = (Vec::new(), Vec::new());
    cluster.without_coordinators(how, outage(), || {
        computed.push(workers.items());
        before = cluster.merged_events();
    });
    assert!(
        !before.iter().any(|e| is_end(e, "search")),
        "the search was over"
    );
    assert!(
        computed.first() < computed.last(),
        "the workers computed nothing meanwhile: {computed:?}"
    );
    let view = finish(&cluster, job);
    let events = cluster.merged_events();
    let (recorded, copied) = counts(&events);
    let told = || format!("{:#?}\n{}", of_workers(&events), cluster.logs());
    assert!(recorded.values().all(|&count| count == 1), "{recorded:?}");
    assert_eq!(view["evaluated"], recorded.len(), "{view}");
    assert_eq!(view["retries"], 0, "{}", told());
    let again = workers.items().checked_sub(recorded.len() as u64);
    assert!(
        again.is_some_and(|again| again <= copied as u64),
        "{again:?} items were computed again, {copied} as copies: {}",
        told()
    );
    assert_undisturbed(&cluster, job, &format!("{how:?} in the search"));
}

/// Claim: a running gang loses no step while all coordinators are away: its ranks go on in the same
/// roster, and it is never formed again.
/// Method: all coordinators killed in training and not started again for a while, or stopped; meanwhile
/// checkpoints must appear in the blob store.
fn check_outage_of_gang(how: Away) {
    let _alone = alone();
    undisturbed(&self::job());
    let cluster = Cluster::start_group(3, 2);
    let job = cluster.submit(&self::job().text());
    cluster.wait_for("a checkpoint of the training", || {
        let is_checkpoint = |e: &Event| matches!(e.kind, EventKind::Checkpointed { .. });
        cluster
            .merged_events()
            .iter()
            .any(is_checkpoint)
            .then_some(())
    });
    let (mut seen, mut before) = (BTreeSet::new(), Vec::new());
    cluster.without_coordinators(how, outage(), || {
        seen.insert(files_below(&cluster.folder().join("blobs")));
        before = cluster.merged_events();
    });
    assert!(
        !before.iter().any(|e| is_end(e, "train")),
        "the training was over"
    );
    // One more may have been on its way to the disk; another takes steps.
    assert!(
        seen.len() > 2,
        "the gang went on with nothing meanwhile: {seen:?}"
    );
    let view = finish(&cluster, job);
    let rosters = |events: &[Event]| {
        let of_train = events.iter().filter_map(|event| match &event.kind {
            EventKind::RosterCommitted { stage, roster, .. } if stage == "train" => Some(*roster),
            _ => None,
        });
        of_train.collect::<Vec<_>>()
    };
    let events = cluster.merged_events();
    assert_eq!(
        rosters(&events),
        rosters(&before),
        "the gang was formed again"
    );
    let broken: Vec<&Event> = events
        .iter()
        .filter(|event| matches!(&event.kind, EventKind::RosterBroken { stage, .. } if stage == "train"))
        .collect();
    let told = || format!("{:#?}\n{}", of_workers(&events), cluster.logs());
    assert!(broken.is_empty(), "{}", told());
    assert_eq!(view["retries"], 0, "{}", told());
    let workers = WorkerPages::of(&cluster);
    assert_eq!(workers.sum("evoring_worker_ranks_failed_total"), 0);
    assert_undisturbed(&cluster, job, &format!("{how:?} in training"));
}

fn files_below(folder: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path()),
            _ => 1,
        })
        .sum()
}

#[test]
fn search_outlives_dead_coordinators() {
    check_outage_of_search(Away::Killed);
}

#[test]
fn search_outlives_frozen_coordinators() {
    check_outage_of_search(Away::Stopped);
}

#[test]
fn gang_outlives_dead_coordinators() {
    check_outage_of_gang(Away::Killed);
}

#[test]
fn gang_outlives_frozen_coordinators() {
    check_outage_of_gang(Away::Stopped);
}

/// Claim: what clients are answered is linearizable while leaders are killed and stopped.
/// Method: several clients submit, cancel, show and label jobs that wait for workers; the leader is struck
/// again and again; the record of all their operations is judged.
#[test]
fn answers_are_linearizable() {
    let _alone = alone();
    let cluster = Cluster::start_group(3, 0);
    let text = PruneJob::default().text();
    let clients = Clients::new(&cluster.cluster_file(), &text);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            runtime.block_on(async {
                let asking = (0..CLIENTS).map(|number| clients.ask_on(number));
                futures::future::join_all(asking).await;
            });
        });
        let _stop = StopOnDrop(&clients);
        for (number, strike) in (1..).zip(STRIKES) {
            let goal = number * OPERATIONS / (STRIKES.len() + 1);
            awaited("answers", || (clients.answered() >= goal).then_some(()));
            cluster.strike(strike);
        }
        awaited("answers", || {
            (clients.answered() >= OPERATIONS).then_some(())
        });
    });
    let record = clients.into_record();
    let begin = Instant::now();
    let jobs = check(
        &record.jobs,
        &JobModel {
            clients_resend: true,
        },
        1_000_000,
    );
    assert!(jobs.is_linearizable(), "{jobs}");
    let labels = check(&record.labels, &LabelModel, 1_000_000);
    assert!(labels.is_linearizable(), "{labels}");
    println!(
        "{} answered, {} not, judged in {:?}",
        record.answered,
        record.unknown,
        begin.elapsed()
    );
}

/// Lets the clients end also if the test fails.
struct StopOnDrop<'a>(&'a Clients);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}
