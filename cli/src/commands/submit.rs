//! `evoring submit`.

use super::Context;
use super::signals::Signals;
use crate::args::SubmitArgs;
use crate::client::{Client, LONG_PATIENCE};
use crate::exit::{Exit, Failure};
use crate::follow::{Screen, follow, unexpected};
use crate::job_file::JobFile;
use crate::local::random;
use crate::output::json::JobJson;
use crate::output::{print, print_json, say};
use evoring_protocol::client::{ClientReply, ClientRequest, JobStatus, JobView};
use evoring_protocol::{JobId, SubmissionKey};

/// Hands the job over, and follows it if asked.
pub(super) async fn submit(context: &Context, arguments: SubmitArgs) -> Result<Exit, Failure> {
    let file = JobFile::read(&arguments.job)?;
    let mut client = context.client()?;
    let job = send(&mut client, &file, false).await?;
    if context.style.json {
        print_json(
            &serde_json::json!({ "type": "submitted", "job": job.0, "name": file.spec.name }),
        )?;
    } else {
        print(&format!("job {job} is accepted\n"))?;
    }
    if !arguments.follow {
        client.close().await;
        return Ok(Exit::Ok);
    }
    client.set_patience(LONG_PATIENCE);
    let mut signals = Signals::new()?;
    let screen = Screen::new(context.style, file.facts());
    let followed = tokio::select! {
        biased;
        exit = signals.next() => Err(exit),
        view = follow(&mut client, job, &screen) => Ok(view),
    };
    screen.finish();
    match followed {
        Err(exit) => {
            say(format_args!(
                "evoring: job {job} goes on; stop it with `evoring cancel {job}`"
            ));
            Ok(exit)
        }
        Ok(view) => {
            let view = view?;
            let told = if context.style.json {
                print_json(&serde_json::json!({ "type": "end", "view": JobJson::from(&view) }))
            } else if view.status == JobStatus::Finished {
                print(&format!(
                    "job {job} is finished; get its results with `evoring fetch {job} DIR`\n"
                ))
            } else {
                Ok(())
            };
            client.close().await;
            // A job that failed counts for more than a reader that has gone.
            let exit = verdict(&view)?;
            told.map(|()| exit)
        }
    }
}

/// Submits under a fresh key, so that a lost answer makes no second job.
pub(super) async fn send(
    client: &mut Client,
    file: &JobFile,
    refuse_unless_fits: bool,
) -> Result<JobId, Failure> {
    let request = ClientRequest::Submit {
        key: SubmissionKey(random()?),
        file: file.file.clone(),
        text: file.text.clone(),
        refuse_unless_fits,
    };
    match client.ask(&request).await? {
        ClientReply::Submitted { job, .. } => Ok(job),
        other => Err(unexpected("Submit", &other)),
    }
}

/// The exit code that an ended job stands for.
pub(super) fn verdict(view: &JobView) -> Result<Exit, Failure> {
    match view.status {
        JobStatus::Finished => Ok(Exit::Ok),
        JobStatus::Failed => {
            let error = view.error.as_deref().unwrap_or("no reason given");
            Err(Failure::new(
                Exit::JobFailed,
                format!("job {} failed: {error}", view.job),
            ))
        }
        JobStatus::Cancelled => Err(Failure::new(
            Exit::JobFailed,
            format!("job {} was cancelled", view.job),
        )),
        JobStatus::Queued | JobStatus::Running => Err(Failure::new(
            Exit::Unreachable,
            format!("job {} has not ended", view.job),
        )),
    }
}
