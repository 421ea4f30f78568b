//! Following a job: one loop that survives the coordinator's restarts, and the views that show it.

mod describe;
mod lines;
mod live;
mod pace;

use crate::client::{Client, Setback};
use crate::exit::{Exit, Failure};
use crate::output::json::JobJson;
use crate::output::{Style, print_json};
use evoring_protocol::JobId;
use evoring_protocol::client::{ClientReply, ClientRequest, JobView};
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// Between two movements of the clock: one that stands still looks like a program that does.
const TICK: Duration = Duration::from_secs(1);
/// After this long without news, the coordinator is asked how it is.
const QUIET: Duration = Duration::from_secs(5);

/// What a user reads while nobody tells about the job.
const LOST: &str = "lost the coordinator, looking for it again; the job goes on";

/// What the job file says about the work, for rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// Images of one step of the stage `train`.
    pub train_batch: Option<u32>,
    /// Images of one step of the stage `finetune`.
    pub finetune_batch: Option<u32>,
}

impl Facts {
    /// Images of one step of a stage.
    fn images_per_step(self, stage: &str) -> Option<u32> {
        if stage == "finetune" {
            self.finetune_batch
        } else {
            self.train_batch
        }
    }
}

/// Shows a job to a person or a program. `now` counts from the view's beginning.
pub trait View {
    /// The job's newest state.
    fn update(&mut self, now: Duration, view: &JobView);
    /// Something else worth a line.
    fn note(&mut self, now: Duration, text: &str);
    /// Time has passed without news.
    fn tick(&mut self, _now: Duration) {}
    /// Nothing more will come.
    fn finish(&mut self) {}
}

/// A view and its clock, shared by everything that happens during a run.
pub struct Screen {
    began: Instant,
    view: RefCell<Box<dyn View>>,
}

impl Screen {
    /// The view that fits the output.
    pub fn new(style: Style, facts: Facts) -> Self {
        let view: Box<dyn View> = if style.json {
            Box::new(JsonView::default())
        } else if style.live {
            Box::new(live::LiveView::new(facts))
        } else {
            Box::new(lines::LineView::new(facts))
        };
        Self {
            began: Instant::now(),
            view: RefCell::new(view),
        }
    }

    /// The job's newest state.
    pub fn update(&self, view: &JobView) {
        self.view.borrow_mut().update(self.began.elapsed(), view);
    }

    /// Something else worth a line.
    pub fn note(&self, text: &str) {
        self.view.borrow_mut().note(self.began.elapsed(), text);
    }

    /// Time has passed without news.
    pub fn tick(&self) {
        self.view.borrow_mut().tick(self.began.elapsed());
    }

    /// Takes bars away.
    pub fn finish(&self) {
        self.view.borrow_mut().finish();
    }

    /// Since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

/// Follows a job to its end and returns its last state.
pub async fn follow(client: &mut Client, job: JobId, screen: &Screen) -> Result<JobView, Failure> {
    let mut silence_began = None;
    let mut health = Health::default();
    loop {
        let mut replies = client.open(&ClientRequest::Follow { job }).await?;
        let mut news = Instant::now();
        let setback = loop {
            let Ok(received) = tokio::time::timeout(TICK, replies.next()).await else {
                screen.tick();
                if news.elapsed() >= QUIET {
                    news = Instant::now();
                    health.look(client, screen).await;
                }
                continue;
            };
            match received {
                Ok(Some(ClientReply::Job(view))) => {
                    silence_began = None;
                    news = Instant::now();
                    screen.update(&view);
                    if view.status.is_final() {
                        return Ok(*view);
                    }
                }
                Ok(Some(other)) => return Err(unexpected("Follow", &other)),
                Ok(None) => break stopped_telling(job),
                Err(setback) => break setback,
            }
        };
        let began = *silence_began.get_or_insert_with(|| {
            // Who leads is the client's affair.
            if !matches!(setback, Setback::Elsewhere { .. }) {
                screen.note(LOST);
            }
            Instant::now()
        });
        client.wait_or_fail(setback, began).await?;
    }
}

fn stopped_telling(job: JobId) -> Setback {
    Setback::Temporary(Failure::new(
        Exit::Unreachable,
        format!("job {job}: the coordinator stopped telling"),
    ))
}

/// Whether the coordinator can write: without that a job stands still, and nobody would know why.
#[derive(Debug, Default)]
struct Health {
    read_only: Option<String>,
}

impl Health {
    async fn look(&mut self, client: &mut Client, screen: &Screen) {
        // A coordinator that does not answer is noticed by the stream.
        let Ok(Ok(ClientReply::Status(status))) =
            tokio::time::timeout(QUIET, client.ask(&ClientRequest::Status)).await
        else {
            return;
        };
        if status.read_only != self.read_only {
            match &status.read_only {
                Some(reason) => screen.note(&format!(
                    "the coordinator only reads until this is mended: {reason}"
                )),
                None => screen.note("the coordinator writes again"),
            }
            self.read_only = status.read_only;
        }
    }
}

/// A reply that does not belong to the request.
pub fn unexpected(request: &str, reply: &ClientReply) -> Failure {
    let text: String = format!("{reply:?}").chars().take(120).collect();
    Failure::new(
        Exit::Refused,
        format!(
            "the coordinator answered {request} with {text}; run commands and cluster from one build"
        ),
    )
}

/// One JSON document a line on standard output: every change of the job, and notes.
#[derive(Debug, Default)]
struct JsonView {
    last: Option<JobView>,
}

impl View for JsonView {
    fn update(&mut self, _now: Duration, view: &JobView) {
        if self.last.as_ref() != Some(view) {
            let value = serde_json::json!({ "type": "job", "view": JobJson::from(view) });
            // Standard output is checked by the command's last print.
            let _ = print_json(&value);
            self.last = Some(view.clone());
        }
    }

    fn note(&mut self, now: Duration, text: &str) {
        let _ = print_json(
            &serde_json::json!({ "type": "note", "elapsed_ms": now.as_millis() as u64, "text": text }),
        );
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use evoring_protocol::JobId;
    use evoring_protocol::client::{JobStatus, JobView};

    /// A running job without progress.
    pub fn view() -> JobView {
        JobView {
            job: JobId(1),
            name: "small".to_owned(),
            kind: "evolve.prune".to_owned(),
            status: JobStatus::Running,
            stage: String::new(),
            stages: ["train", "search", "finetune", "evaluate"]
                .map(str::to_owned)
                .to_vec(),
            submitted_ms: 0,
            started_ms: Some(0),
            ended_ms: None,
            error: None,
            slots: 2,
            items: (0, 0),
            evaluated: 0,
            cache_hits: 0,
            retries: 0,
            training: None,
            generation: None,
            summary: None,
            artifacts: Vec::new(),
            labels: Vec::new(),
        }
    }
}
