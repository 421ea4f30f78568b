//! Commands with one question and one answer.

use super::{Context, resolve};
use crate::args::{JobRef, Label, LabelArgs};
use crate::exit::{Exit, Failure};
use crate::follow::unexpected;
use crate::local::{random, registry::now_ms};
use crate::output::json::{JobJson, WorkerJson, status_name};
use crate::output::table::{Align, Table, thousands};
use crate::output::time::{duration, rfc3339};
use crate::output::{print, print_json};
use evoring_protocol::RequestKey;
use evoring_protocol::client::{ClientReply, ClientRequest, JobView, WorkerView};

/// `evoring jobs`.
pub(super) async fn jobs(context: &Context) -> Result<Exit, Failure> {
    let mut client = context.client()?;
    let views = match client.ask(&ClientRequest::Jobs).await? {
        ClientReply::Jobs(views) => views,
        other => return Err(unexpected("Jobs", &other)),
    };
    if context.style.json {
        print_json(&views.iter().map(JobJson::from).collect::<Vec<_>>())?;
    } else if views.is_empty() {
        print("no jobs; submit one with `evoring submit JOB.toml`\n")?;
    } else {
        print(&jobs_table(&views, now_ms()).render(context.style.colour))?;
    }
    client.close().await;
    Ok(Exit::Ok)
}

fn jobs_table(views: &[JobView], now_ms: u64) -> Table {
    let mut table = Table::new(vec![
        ("job", Align::Right),
        ("name", Align::Left),
        ("kind", Align::Left),
        ("status", Align::Left),
        ("stage", Align::Left),
        ("slots", Align::Right),
        ("time", Align::Right),
    ]);
    for view in views {
        table.row(vec![
            view.job.to_string(),
            view.name.clone(),
            view.kind.clone(),
            status_name(view.status).to_owned(),
            view.stage.clone(),
            view.slots.to_string(),
            time_text(view, now_ms),
        ]);
    }
    table
}

/// How long the job has run, or ran.
fn time_text(view: &JobView, now_ms: u64) -> String {
    let end = view.ended_ms.unwrap_or(now_ms);
    view.started_ms.map_or_else(
        || "-".to_owned(),
        |start| duration(end.saturating_sub(start)),
    )
}

/// `evoring show`.
pub(super) async fn show(context: &Context, job: JobRef) -> Result<Exit, Failure> {
    let mut client = context.client()?;
    let job = resolve(&mut client, job).await?;
    let view = match client.ask(&ClientRequest::Show { job }).await? {
        ClientReply::Job(view) => view,
        other => return Err(unexpected("Show", &other)),
    };
    if context.style.json {
        print_json(&JobJson::from(&*view))?;
    } else {
        print(&job_text(&view, now_ms()))?;
    }
    client.close().await;
    Ok(Exit::Ok)
}

fn job_text(view: &JobView, now_ms: u64) -> String {
    let mut text = format!("job {}: {} ({})\n", view.job, view.name, view.kind);
    let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<12}{value}\n"));
    line("status", status_name(view.status).to_owned());
    if let Some(error) = &view.error {
        line("error", error.replace('\n', "\n              "));
    }
    line(
        "stages",
        view.stages
            .iter()
            .map(|stage| {
                if *stage == view.stage {
                    format!("[{stage}]")
                } else {
                    stage.clone()
                }
            })
            .collect::<Vec<_>>()
            .join(" → "),
    );
    line("submitted", rfc3339(view.submitted_ms));
    line("time", time_text(view, now_ms));
    line("slots", view.slots.to_string());
    if let Some((title, progress)) = &view.training {
        line(
            "training",
            format!(
                "{title}: step {}/{}, loss {:.4}",
                progress.step, progress.steps, progress.loss
            ),
        );
    }
    if let Some(generation) = &view.generation {
        line(
            "generation",
            format!(
                "{}/{}: best {:.4}, mean {:.4}",
                generation.generation + 1,
                generation.generations,
                generation.best_fitness,
                generation.mean_fitness
            ),
        );
    }
    line(
        "evaluations",
        format!(
            "{} computed, {} from the cache",
            thousands(view.evaluated),
            thousands(view.cache_hits)
        ),
    );
    line("run again", view.retries.to_string());
    for (key, value) in &view.labels {
        line("label", format!("{key}={value}"));
    }
    for (name, digest) in &view.artifacts {
        line("artifact", format!("{name}  {digest}"));
    }
    text
}

/// `evoring explain`.
pub(super) async fn explain(context: &Context, job: JobRef) -> Result<Exit, Failure> {
    let mut client = context.client()?;
    let job = resolve(&mut client, job).await?;
    let sentences = match client.ask(&ClientRequest::Explain { job }).await? {
        ClientReply::Explanation(sentences) => sentences,
        other => return Err(unexpected("Explain", &other)),
    };
    if context.style.json {
        print_json(&serde_json::json!({ "job": job.0, "explanation": sentences }))?;
    } else {
        print(&format!("{}\n", sentences.join("\n")))?;
    }
    client.close().await;
    Ok(Exit::Ok)
}

/// `evoring cancel`.
pub(super) async fn cancel(context: &Context, job: JobRef) -> Result<Exit, Failure> {
    let mut client = context.client()?;
    let job = resolve(&mut client, job).await?;
    match client.ask(&ClientRequest::Cancel { job }).await? {
        ClientReply::Done if context.style.json => {
            print_json(&serde_json::json!({ "job": job.0, "cancelled": true }))?
        }
        ClientReply::Done => print(&format!("job {job} is cancelled\n"))?,
        other => return Err(unexpected("Cancel", &other)),
    }
    client.close().await;
    Ok(Exit::Ok)
}

/// `evoring label`.
pub(super) async fn label(context: &Context, arguments: LabelArgs) -> Result<Exit, Failure> {
    let mut client = context.client()?;
    let job = resolve(&mut client, arguments.job).await?;
    let Label { key, value } = arguments.label;
    let request = ClientRequest::LabelOnce {
        job,
        key: key.clone(),
        value: value.clone(),
        request: RequestKey(random()?),
    };
    match client.ask(&request).await? {
        ClientReply::Done if context.style.json => {
            print_json(&serde_json::json!({ "job": job.0, "label": { key: value } }))?
        }
        ClientReply::Done => print(&format!("job {job} is labelled {key}={value}\n"))?,
        other => return Err(unexpected("Label", &other)),
    }
    client.close().await;
    Ok(Exit::Ok)
}

/// `evoring workers`.
pub(super) async fn workers(context: &Context) -> Result<Exit, Failure> {
    let mut client = context.client()?;
    let views = match client.ask(&ClientRequest::Workers).await? {
        ClientReply::Workers(views) => views,
        other => return Err(unexpected("Workers", &other)),
    };
    if context.style.json {
        print_json(&views.iter().map(WorkerJson::from).collect::<Vec<_>>())?;
    } else if views.is_empty() {
        print("no workers\n")?;
    } else {
        print(&workers_table(&views).render(context.style.colour))?;
    }
    client.close().await;
    Ok(Exit::Ok)
}

fn workers_table(views: &[WorkerView]) -> Table {
    let mut table = Table::new(vec![
        ("worker", Align::Left),
        ("state", Align::Left),
        ("busy", Align::Right),
        ("slots", Align::Right),
        ("host", Align::Left),
        ("process", Align::Right),
        ("numerics", Align::Left),
        ("metrics", Align::Left),
    ]);
    for view in views {
        table.row(vec![
            view.worker.to_string(),
            if view.connected { "connected" } else { "lost" }.to_owned(),
            view.busy.to_string(),
            view.slots.to_string(),
            view.host.chars().take(24).collect(),
            view.process.to_string(),
            view.numerics
                .split('/')
                .take(2)
                .collect::<Vec<_>>()
                .join("/"),
            view.metrics.clone().unwrap_or_default(),
        ]);
    }
    table
}
