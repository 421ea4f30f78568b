//! `evoring fetch`.

use super::signals::Signals;
use super::{Context, resolve};
use crate::args::{FetchArgs, JobRef};
use crate::artifacts::folder::OutFolder;
use crate::artifacts::report::RunFacts;
use crate::artifacts::{Written, fetch as fetch_artifacts};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::follow::unexpected;
use crate::output::json::status_name;
use crate::output::{Style, print, print_json};
use evoring_protocol::client::{ClientReply, ClientRequest, JobStatus, JobView, WorkerView};
use std::path::Path;

/// Writes a finished job's results.
pub(super) async fn fetch(context: &Context, arguments: FetchArgs) -> Result<Exit, Failure> {
    // Before the folder is made, which is removed again when a signal cuts the transfer short.
    let mut signals = Signals::new()?;
    let out = OutFolder::prepare(&arguments.dir)?;
    let (view, written) = tokio::select! {
        biased;
        exit = signals.next() => {
            return Err(Failure::new(exit, "interrupted; nothing was written"));
        }
        transferred = transfer(context, arguments.job, &out) => transferred?,
    };
    let place = out.place().to_owned();
    let replaced = out.put_in_place(&written.files)?;
    show(context.style, &view, &place, &written, replaced)?;
    Ok(Exit::Ok)
}

/// Fetches the results into the folder that is being filled.
async fn transfer(
    context: &Context,
    job: JobRef,
    out: &OutFolder,
) -> Result<(Box<JobView>, Written), Failure> {
    let mut client = context.client()?;
    let job = resolve(&mut client, job).await?;
    let view = match client.ask(&ClientRequest::Show { job }).await? {
        ClientReply::Job(view) => view,
        other => return Err(unexpected("Show", &other)),
    };
    if view.status != JobStatus::Finished {
        return Err(Failure::new(
            Exit::Refused,
            format!(
                "job {job} is {}: only finished jobs have results",
                status_name(view.status)
            ),
        ));
    }
    let facts = RunFacts {
        workers: workers(&mut client).await?,
        ..RunFacts::default()
    };
    let written = fetch_artifacts(&mut client, &view, &facts, out.staging()).await?;
    client.close().await;
    Ok((view, written))
}

/// Workers for `report.json`.
pub(super) async fn workers(client: &mut Client) -> Result<Vec<WorkerView>, Failure> {
    match client.ask(&ClientRequest::Workers).await? {
        ClientReply::Workers(workers) => Ok(workers),
        other => Err(unexpected("Workers", &other)),
    }
}

/// Prints the table and where everything is.
pub(super) fn show(
    style: Style,
    view: &JobView,
    place: &Path,
    written: &Written,
    replaced: bool,
) -> Result<(), Failure> {
    if style.json {
        return print_json(&serde_json::json!({
            "type": "result", "job": view.job.0, "status": status_name(view.status), "out": place,
            "files": written.files, "replaced": replaced,
        }));
    }
    let mut text = String::new();
    if let Some((table, note)) = &written.table {
        text.push_str(&format!("\n{}{note}\n", table.render(style.colour)));
    }
    text.push_str(&format!(
        "results in {}{}\n",
        place.display(),
        if replaced {
            " (earlier results there were replaced)"
        } else {
            ""
        }
    ));
    for name in &written.files {
        text.push_str(&format!("  {}\n", place.join(name).display()));
    }
    print(&text)
}
