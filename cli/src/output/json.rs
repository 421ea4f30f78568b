//! The JSON forms of `--json`, as documented in `docs/formats.md`. Fields are added, never renamed
//! or removed. Events are printed in the form of [`evoring_protocol::event::Event`] itself.

use super::time::rfc3339;
use evoring_protocol::client::{ClusterView, JobStatus, JobView, LogLine, MemberView, WorkerView};
use evoring_protocol::event::GenerationSummary;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Name of a status in JSON and in tables.
pub fn status_name(status: JobStatus) -> &'static str {
    match status {
        JobStatus::Queued => "queued",
        JobStatus::Running => "running",
        JobStatus::Finished => "finished",
        JobStatus::Failed => "failed",
        JobStatus::Cancelled => "cancelled",
    }
}

/// A job.
#[derive(Debug, Serialize)]
pub struct JobJson<'a> {
    job: u64,
    name: &'a str,
    kind: &'a str,
    status: &'static str,
    stage: &'a str,
    stages: &'a [String],
    submitted_ms: u64,
    started_ms: Option<u64>,
    ended_ms: Option<u64>,
    error: Option<&'a str>,
    slots: u32,
    items_recorded: u64,
    items_total: u64,
    evaluated: u64,
    cache_hits: u64,
    retries: u64,
    training: Option<TrainingJson<'a>>,
    generation: Option<&'a GenerationSummary>,
    summary: Option<Value>,
    artifacts: BTreeMap<&'a str, String>,
    labels: BTreeMap<&'a str, &'a str>,
}

#[derive(Debug, Serialize)]
struct TrainingJson<'a> {
    title: &'a str,
    step: u64,
    steps: u64,
    loss: f64,
}

impl<'a> From<&'a JobView> for JobJson<'a> {
    fn from(view: &'a JobView) -> Self {
        Self {
            job: view.job.0,
            name: &view.name,
            kind: &view.kind,
            status: status_name(view.status),
            stage: &view.stage,
            stages: &view.stages,
            submitted_ms: view.submitted_ms,
            started_ms: view.started_ms,
            ended_ms: view.ended_ms,
            error: view.error.as_deref(),
            slots: view.slots,
            items_recorded: view.items.0,
            items_total: view.items.1,
            evaluated: view.evaluated,
            cache_hits: view.cache_hits,
            retries: view.retries,
            training: view
                .training
                .as_ref()
                .map(|(title, progress)| TrainingJson {
                    title,
                    step: progress.step,
                    steps: progress.steps,
                    loss: progress.loss,
                }),
            generation: view.generation.as_ref(),
            // Text that is not JSON stays text.
            summary: view.summary.as_ref().map(|text| {
                serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.as_str()))
            }),
            artifacts: view
                .artifacts
                .iter()
                .map(|(name, digest)| (name.as_str(), digest.to_string()))
                .collect(),
            labels: view
                .labels
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str()))
                .collect(),
        }
    }
}

/// A worker.
#[derive(Debug, Serialize)]
pub struct WorkerJson<'a> {
    worker: &'a str,
    connected: bool,
    process: u32,
    executors: &'a [u32],
    host: &'a str,
    slots: u32,
    busy: u32,
    numerics: &'a str,
    metrics: Option<&'a str>,
}

impl<'a> From<&'a WorkerView> for WorkerJson<'a> {
    fn from(view: &'a WorkerView) -> Self {
        Self {
            worker: view.worker.as_str(),
            connected: view.connected,
            process: view.process,
            executors: &view.executors,
            host: &view.host,
            slots: view.slots,
            busy: view.busy,
            numerics: &view.numerics,
            metrics: view.metrics.as_deref(),
        }
    }
}

/// The group of coordinators.
#[derive(Debug, Serialize)]
pub struct ClusterJson<'a> {
    group: &'a str,
    version: u16,
    term: u64,
    leader: Option<u64>,
    commit: u64,
    answered_by: &'a str,
    members: Vec<MemberJson<'a>>,
}

#[derive(Debug, Serialize)]
struct MemberJson<'a> {
    id: u64,
    name: &'a str,
    address: &'a str,
    role: &'static str,
    process: Option<u32>,
    matched: Option<u64>,
    lag: Option<u64>,
    trouble: Option<&'a str>,
    log_bytes: Option<u64>,
    free_bytes: Option<u64>,
    records: Option<u16>,
    build: Option<&'a str>,
    heard_ms: Option<u64>,
    problem: Option<&'a str>,
}

/// Entries that a member is behind what is committed, if that is known.
pub fn lag(view: &ClusterView, member: &MemberView) -> Option<u64> {
    member
        .matched
        .map(|matched| view.commit.saturating_sub(matched))
}

impl<'a> From<&'a ClusterView> for ClusterJson<'a> {
    fn from(view: &'a ClusterView) -> Self {
        let member = |member: &'a MemberView| {
            let health = member.health.as_ref();
            MemberJson {
                id: member.id,
                name: &member.name,
                address: &member.address,
                role: member.role.name(),
                process: health.map(|health| health.process),
                matched: member.matched,
                lag: lag(view, member),
                trouble: health.and_then(|health| health.trouble.as_deref()),
                log_bytes: health.map(|health| health.log_bytes),
                free_bytes: health.and_then(|health| health.free_bytes),
                records: health.map(|health| health.version),
                build: health.map(|health| health.build.as_str()),
                heard_ms: member.heard_ms,
                problem: member.problem.as_deref(),
            }
        };
        Self {
            group: &view.group,
            version: view.version,
            term: view.term,
            leader: view.leader,
            commit: view.commit,
            answered_by: &view.answered_by,
            members: view.members.iter().map(member).collect(),
        }
    }
}

/// A line of a job's log.
#[derive(Debug, Serialize)]
pub struct LogLineJson<'a> {
    time_ms: u64,
    time: String,
    worker: Option<&'a str>,
    text: &'a str,
}

impl<'a> From<&'a LogLine> for LogLineJson<'a> {
    fn from(line: &'a LogLine) -> Self {
        Self {
            time_ms: line.time_ms,
            time: rfc3339(line.time_ms),
            worker: line.worker.as_ref().map(|worker| worker.as_str()),
            text: &line.text,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use evoring_protocol::client::MemberRole;
    use evoring_protocol::event::{Event, EventKind};
    use evoring_protocol::peer::PeerHealth;
    use evoring_protocol::work::TrainingProgress;
    use evoring_protocol::{DemandId, Digest, ItemIndex, JobId, SlotIndex, WorkerId};
    use serde_json::json;

    /// A view with every field set.
    pub fn full_view() -> JobView {
        JobView {
            job: JobId(3),
            name: "prune".to_owned(),
            kind: "evolve.prune".to_owned(),
            status: JobStatus::Running,
            stage: "search".to_owned(),
            stages: vec!["train".to_owned(), "search".to_owned()],
            submitted_ms: 1,
            started_ms: Some(2),
            ended_ms: None,
            error: None,
            slots: 2,
            items: (3, 32),
            evaluated: 40,
            cache_hits: 5,
            retries: 1,
            training: Some((
                "full net".to_owned(),
                TrainingProgress {
                    step: 10,
                    steps: 20,
                    loss: 0.5,
                },
            )),
            generation: Some(GenerationSummary {
                generation: 1,
                generations: 51,
                best_fitness: 1.25,
                mean_fitness: 1.0,
                best_parameters: 1000,
                best_accuracy: 0.9,
                evaluated: 40,
                cache_hits: 5,
            }),
            summary: Some(r#"{"a":1}"#.to_owned()),
            artifacts: vec![("model.safetensors".to_owned(), Digest([0x11; 32]))],
            labels: vec![("data".to_owned(), "v3".to_owned())],
        }
    }

    // Claim: the names in `--json` are stable. Method: the whole form of a job, pinned.
    #[test]
    fn job_form_is_pinned() {
        let value = serde_json::to_value(JobJson::from(&full_view())).unwrap();
        let expected = json!({
            "job": 3, "name": "prune", "kind": "evolve.prune", "status": "running", "stage": "search",
            "stages": ["train", "search"], "submitted_ms": 1, "started_ms": 2, "ended_ms": null, "error": null,
            "slots": 2, "items_recorded": 3, "items_total": 32, "evaluated": 40, "cache_hits": 5, "retries": 1,
            "training": {"title": "full net", "step": 10, "steps": 20, "loss": 0.5},
            "generation": {"generation": 1, "generations": 51, "best_fitness": 1.25, "mean_fitness": 1.0,
                "best_parameters": 1000, "best_accuracy": 0.9, "evaluated": 40, "cache_hits": 5},
            "summary": {"a": 1},
            "artifacts": {"model.safetensors": "11".repeat(32)}, "labels": {"data": "v3"},
        });
        assert_eq!(value, expected);
    }

    /// A group of two, as its leader knows it: a member with everything, and one that is not heard.
    pub fn cluster_view() -> ClusterView {
        let health = PeerHealth {
            build: "b".to_owned(),
            version: 3,
            process: 1234,
            applied: 300,
            log_bytes: 4096,
            free_bytes: Some(9_000_000_000),
            trouble: Some("space is low".to_owned()),
        };
        let member = |id: u64, role| MemberView {
            id,
            name: format!("c{id}"),
            address: format!("h{id}:1"),
            role,
            matched: None,
            health: None,
            heard_ms: None,
            problem: None,
        };
        ClusterView {
            answered_by: "c1".to_owned(),
            group: "g".to_owned(),
            version: 3,
            term: 4,
            leader: Some(1),
            commit: 300,
            members: vec![
                MemberView {
                    matched: Some(290),
                    health: Some(health),
                    heard_ms: Some(7),
                    ..member(1, MemberRole::Leader)
                },
                MemberView {
                    problem: Some("no answer".to_owned()),
                    ..member(2, MemberRole::Joining)
                },
            ],
        }
    }

    // Claim: the same for the group. Method: pinned, with everything and with nothing.
    #[test]
    fn cluster_form_is_pinned() {
        let value = serde_json::to_value(ClusterJson::from(&cluster_view())).unwrap();
        let expected = json!({
            "group": "g", "version": 3, "term": 4, "leader": 1, "commit": 300, "answered_by": "c1",
            "members": [
                {"id": 1, "name": "c1", "address": "h1:1", "role": "leader", "process": 1234, "matched": 290,
                    "lag": 10, "trouble": "space is low", "log_bytes": 4096, "free_bytes": 9_000_000_000u64,
                    "records": 3, "build": "b", "heard_ms": 7,
                    "problem": null},
                {"id": 2, "name": "c2", "address": "h2:1", "role": "joining", "process": null, "matched": null,
                    "lag": null, "trouble": null, "log_bytes": null, "free_bytes": null,
                    "records": null, "build": null, "heard_ms": null,
                    "problem": "no answer"},
            ],
        });
        assert_eq!(value, expected);
    }

    // Claim: the same for events. Method: kinds with and without fields, an id inside a list and a
    // digest, pinned; and read back.
    #[test]
    fn event_form_is_pinned() {
        let kinds = [
            (
                EventKind::CoordinatorWritable,
                json!("coordinator_writable"),
            ),
            (
                EventKind::LeaseGranted {
                    job: JobId(1),
                    demand: DemandId(2),
                    stage: "search".to_owned(),
                    worker: WorkerId::new("w1").unwrap(),
                    slot: SlotIndex(0),
                    items: vec![(ItemIndex(7), evoring_protocol::Attempt(1))],
                    is_copy: false,
                },
                json!({"lease_granted": {"job": 1, "demand": 2, "stage": "search", "worker": "w1", "slot": 0, "items": [[7, 1]], "is_copy": false}}),
            ),
            (
                EventKind::ItemsRetried {
                    job: JobId(1),
                    demand: DemandId(2),
                    stage: "search".to_owned(),
                    items: vec![(ItemIndex(7), evoring_protocol::Attempt(2))],
                    reason: "lost".to_owned(),
                },
                json!({"items_retried": {"job": 1, "demand": 2, "stage": "search", "items": [[7, 2]], "reason": "lost"}}),
            ),
            (
                EventKind::Checkpointed {
                    job: JobId(1),
                    demand: DemandId(2),
                    step: 50,
                    digest: Digest([0x22; 32]),
                },
                json!({"checkpointed": {"job": 1, "demand": 2, "step": 50, "digest": "22".repeat(32)}}),
            ),
        ];
        for (kind, expected) in kinds {
            let event = Event {
                number: 9,
                time_ms: 8,
                entry: Some(5),
                kind,
            };
            let value = serde_json::to_value(&event).unwrap();
            assert_eq!(
                value,
                json!({"number": 9, "time_ms": 8, "entry": 5, "kind": expected})
            );
            assert_eq!(serde_json::from_value::<Event>(value).unwrap(), event);
        }
    }
}
