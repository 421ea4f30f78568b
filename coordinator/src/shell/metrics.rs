//! What Prometheus reads; names in `docs/metrics.md`.

use crate::leader::Leader;
use crate::scheduler::Use;
use evoring_protocol::event::EventKind;
use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Gauges are brought up to date this often.
const OBSERVE_MS: u64 = 500;
/// A leader thread that has done nothing for this long hangs.
const HANGS_MS: u64 = 5_000;
/// No disk has as much to spare.
const NOT_LOOKED: u64 = u64::MAX;

/// From a fast disk's sync to one that stalls.
const WRITE_SECONDS: [f64; 12] = [
    0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0,
];

/// All metrics of a coordinator, and what the health pages say.
pub(super) struct Metrics {
    registry: Registry,
    started: Instant,
    beat_ms: AtomicU64,
    observed_ms: AtomicU64,
    not_ready: Mutex<Option<String>>,
    is_leader: IntGauge,
    is_read_only: IntGauge,
    term: IntGauge,
    applied: IntGauge,
    state_time: Gauge,
    jobs: IntGaugeVec,
    workers: IntGauge,
    slots: IntGaugeVec,
    cache_entries: IntGauge,
    blobs_pending: IntGauge,
    log_write_seconds: Histogram,
    log_sync_seconds: Histogram,
    snapshot_write_seconds: Histogram,
    commit_seconds: Histogram,
    log_bytes: IntGauge,
    /// For the other coordinators; hosts have gauges of their own for it.
    free_bytes: AtomicU64,
    raft_term: IntGauge,
    leader_changes: IntCounter,
    rejected: IntCounter,
    /// When proposals that are not applied yet were made.
    proposals: Mutex<BTreeMap<u64, Instant>>,
    events: EventCounters,
}

impl Metrics {
    /// Registers everything.
    pub(super) fn new() -> prometheus::Result<Self> {
        let made = Registrar(Registry::new_custom(
            Some("evoring_coordinator".to_owned()),
            None,
        )?);
        Ok(Self {
            started: Instant::now(),
            beat_ms: AtomicU64::new(0),
            observed_ms: AtomicU64::new(0),
            not_ready: Mutex::new(Some("the coordinator is taking office".to_owned())),
            is_leader: made.gauge("is_leader", "1 while this coordinator leads")?,
            is_read_only: made.gauge("is_read_only", "1 while no new jobs are taken")?,
            term: made.gauge("term", "Raft term that this coordinator leads, 0 if none")?,
            applied: made.gauge("applied_index", "Index of the last applied log entry")?,
            state_time: made.seconds(
                "replicated_time_seconds",
                "Replicated time, seconds since 1970",
            )?,
            jobs: made.gauges("jobs", "Jobs by state", "state")?,
            workers: made.gauge("workers_connected", "Workers with a session")?,
            slots: made.gauges(
                "slots",
                "Slots of connected workers by what they do",
                "does",
            )?,
            cache_entries: made.gauge("cache_entries", "Results in the fitness cache")?,
            blobs_pending: made.gauge(
                "blobs_pending",
                "Drivers' blobs that the blob store does not have yet",
            )?,
            log_write_seconds: made
                .histogram("log_write_seconds", "Time of one synced log transaction")?,
            log_sync_seconds: made
                .histogram("log_sync_seconds", "Time of one sync of the log's file")?,
            snapshot_write_seconds: made.histogram(
                "snapshot_write_seconds",
                "Time of one synced transaction with a snapshot",
            )?,
            commit_seconds: made.histogram(
                "commit_seconds",
                "Time from the proposal of an entry to its application, on the leader",
            )?,
            log_bytes: made.gauge("log_bytes", "Size of the log's file")?,
            free_bytes: AtomicU64::new(NOT_LOOKED),
            raft_term: made.gauge("raft_term", "Raft's current term")?,
            leader_changes: made.counter(
                "leader_changes_total",
                "Times that another leader, or none, became known",
            )?,
            rejected: made.counter(
                "peer_messages_rejected_total",
                "Messages of other coordinators that were not taken",
            )?,
            proposals: Mutex::default(),
            events: EventCounters::new(&made)?,
            registry: made.0,
        })
    }

    /// Counts an event.
    pub(super) fn event(&self, event: &EventKind) {
        self.events.count(event);
    }

    /// Counts a write of the log.
    pub(super) fn log_write(&self, took: Duration) {
        self.log_write_seconds.observe(took.as_secs_f64());
    }

    /// Counts the syncs of the log's file.
    pub(super) fn log_syncs(&self) -> Histogram {
        self.log_sync_seconds.clone()
    }

    /// Counts a write of a snapshot.
    pub(super) fn snapshot_write(&self, took: Duration) {
        self.snapshot_write_seconds.observe(took.as_secs_f64());
    }

    /// Notes that an entry is proposed.
    pub(super) fn proposed(&self, token: u64) {
        let mut proposals = self.proposals();
        // Proposals of a lost office are never applied as such.
        while proposals.len() >= 2 * crate::leader::IN_FLIGHT {
            proposals.pop_first();
        }
        proposals.insert(token, Instant::now());
    }

    /// Notes that it is applied.
    pub(super) fn committed(&self, token: u64) {
        if let Some(since) = self.proposals().remove(&token) {
            self.commit_seconds.observe(since.elapsed().as_secs_f64());
        }
    }

    fn proposals(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.proposals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the size of the log's file.
    pub(super) fn log_bytes(&self, bytes: u64) {
        self.log_bytes.set(bytes as i64);
    }

    /// The size of the log's file.
    pub(super) fn log_size(&self) -> u64 {
        self.log_bytes.get() as u64
    }

    /// Notes what the log's file system has for it.
    pub(super) fn note_free_bytes(&self, bytes: u64) {
        self.free_bytes.store(bytes, Ordering::Relaxed);
    }

    /// What the log's file system has for it, if it was looked at.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        let bytes = self.free_bytes.load(Ordering::Relaxed);
        (bytes != NOT_LOOKED).then_some(bytes)
    }

    /// Notes Raft's term.
    pub(super) fn term(&self, term: u64) {
        self.raft_term.set(term as i64);
    }

    /// Counts a change of leader.
    pub(super) fn leader_changed(&self) {
        self.leader_changes.inc();
    }

    /// Counts a message that was not taken.
    pub(super) fn rejected(&self) {
        self.rejected.inc();
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Looks at the leader; called by its thread after each round.
    pub(super) fn observe(&self, leader: &Leader) {
        let now_ms = self.now_ms();
        self.beat_ms.store(now_ms, Ordering::Relaxed);
        let not_ready = match (leader.scheduler(), leader.read_only()) {
            (None, _) if leader.knows_leader() => None,
            (None, _) => Some("the coordinator is taking office".to_owned()),
            (Some(_), Some(reason)) => Some(format!("the coordinator only reads: {reason}")),
            (Some(_), None) => None,
        };
        *self
            .not_ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = not_ready;
        if now_ms < self.observed_ms.load(Ordering::Relaxed) + OBSERVE_MS {
            return;
        }
        self.observed_ms.store(now_ms, Ordering::Relaxed);
        self.is_leader.set(i64::from(leader.scheduler().is_some()));
        self.is_read_only
            .set(i64::from(leader.read_only().is_some()));
        self.term.set(leader.term() as i64);
        let state = leader.state();
        self.applied.set(state.applied() as i64);
        self.state_time.set(state.time_ms() as f64 / 1e3);
        self.cache_entries.set(state.cache().len() as i64);
        self.blobs_pending.set(state.blobs().len() as i64);
        let active = state.active_jobs().count();
        self.jobs.with_label_values(&["active"]).set(active as i64);
        self.jobs
            .with_label_values(&["ended"])
            .set((state.jobs().len() - active) as i64);
        if let Some(scheduler) = leader.scheduler() {
            let connected = || {
                scheduler
                    .workers()
                    .filter(|(_, worker)| worker.connection.is_some())
            };
            self.workers.set(connected().count() as i64);
            let mut counts = [("idle", 0), ("lease", 0), ("rank", 0), ("other", 0)];
            for slot in connected().flat_map(|(_, worker)| &worker.slots) {
                let position = match slot.does {
                    Use::Idle => 0,
                    Use::Lease(..) => 1,
                    Use::Rank(_) => 2,
                    _ => 3,
                };
                counts[position].1 += 1;
            }
            for (does, count) in counts {
                self.slots.with_label_values(&[does]).set(count);
            }
        }
    }

    /// All metrics in Prometheus' text format.
    pub(super) fn text(&self) -> String {
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("# {error}\n"),
        }
    }

    /// Whether the leader thread works.
    pub(super) fn healthy(&self) -> Result<(), String> {
        let silent_ms = self
            .now_ms()
            .saturating_sub(self.beat_ms.load(Ordering::Relaxed));
        if silent_ms <= HANGS_MS {
            Ok(())
        } else {
            Err(format!(
                "the leader thread has done nothing for {silent_ms} ms"
            ))
        }
    }

    /// Whether writes are accepted.
    pub(super) fn ready(&self) -> Result<(), String> {
        self.healthy()?;
        self.not_ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .map_or(Ok(()), Err)
    }
}

/// How often what the event file tells of happened.
struct EventCounters {
    leases_granted: IntCounter,
    items_granted: IntCounter,
    items_retried: IntCounter,
    rosters_committed: IntCounter,
    rosters_broken: IntCounter,
    checkpoints: IntCounter,
    workers_lost: IntCounter,
    executors_exited: IntCounter,
    jobs_ended: IntCounterVec,
}

impl EventCounters {
    fn new(made: &Registrar) -> prometheus::Result<Self> {
        Ok(Self {
            leases_granted: made.counter("leases_granted_total", "Leases granted")?,
            items_granted: made.counter("items_granted_total", "Items in granted leases")?,
            items_retried: made.counter(
                "items_retried_total",
                "Attempts of items that failed or were lost",
            )?,
            rosters_committed: made.counter("rosters_committed_total", "Rosters of gangs")?,
            rosters_broken: made.counter(
                "rosters_broken_total",
                "Rosters that lost a member, failed or grew",
            )?,
            checkpoints: made.counter("checkpoints_total", "Durable checkpoints of gangs")?,
            workers_lost: made.counter("workers_lost_total", "Sessions of workers that ended")?,
            executors_exited: made.counter("executors_exited_total", "Executors that ended")?,
            jobs_ended: made.counters(
                "jobs_ended_total",
                "Jobs that ended, since this process started",
                "how",
            )?,
        })
    }

    fn count(&self, event: &EventKind) {
        match event {
            EventKind::LeaseGranted { items, .. } => {
                self.leases_granted.inc();
                self.items_granted.inc_by(items.len() as u64);
            }
            EventKind::ItemsRetried { items, .. } => self.items_retried.inc_by(items.len() as u64),
            EventKind::RosterCommitted { .. } => self.rosters_committed.inc(),
            EventKind::RosterBroken { .. } => self.rosters_broken.inc(),
            EventKind::Checkpointed { .. } => self.checkpoints.inc(),
            EventKind::WorkerLost { .. } => self.workers_lost.inc(),
            EventKind::ExecutorExited { .. } => self.executors_exited.inc(),
            EventKind::JobFinished { .. } => self.jobs_ended.with_label_values(&["finished"]).inc(),
            EventKind::JobFailed { .. } => self.jobs_ended.with_label_values(&["failed"]).inc(),
            EventKind::JobCancelled { .. } => {
                self.jobs_ended.with_label_values(&["cancelled"]).inc()
            }
            _ => {}
        }
    }
}

/// Makes metrics and registers them.
struct Registrar(Registry);

impl Registrar {
    fn register<M: Collector + Clone + 'static>(&self, metric: M) -> prometheus::Result<M> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.register(IntGauge::new(name, help)?)
    }

    fn seconds(&self, name: &str, help: &str) -> prometheus::Result<Gauge> {
        self.register(Gauge::new(name, help)?)
    }

    fn gauges(&self, name: &str, help: &str, label: &str) -> prometheus::Result<IntGaugeVec> {
        self.register(IntGaugeVec::new(Opts::new(name, help), &[label])?)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.register(IntCounter::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, label: &str) -> prometheus::Result<IntCounterVec> {
        self.register(IntCounterVec::new(Opts::new(name, help), &[label])?)
    }

    fn histogram(&self, name: &str, help: &str) -> prometheus::Result<Histogram> {
        let options = HistogramOpts::new(name, help).buckets(WRITE_SECONDS.to_vec());
        self.register(Histogram::with_opts(options)?)
    }
}
