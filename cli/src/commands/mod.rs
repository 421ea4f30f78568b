//! One function for each command.

mod fetch;
mod group;
mod inspect;
mod local;
mod plot;
mod run;
mod signals;
mod start;
mod stream;
mod submit;

use crate::args::{Cli, Command, Global, JobRef};
use crate::client::{Access, Client, SHORT_PATIENCE};
use crate::exit::{Exit, Failure};
use crate::follow::unexpected;
use crate::local::registry;
use crate::output::{Style, print};
use clap::CommandFactory;
use evoring_protocol::JobId;
use evoring_protocol::client::{ClientReply, ClientRequest};
use std::path::PathBuf;

/// What every command knows.
#[derive(Debug, Clone)]
struct Context {
    style: Style,
    cluster: Option<PathBuf>,
}

/// Runs a command to its end.
pub fn execute(cli: Cli) -> Result<Exit, Failure> {
    if let Command::Completions { shell } = cli.command {
        // Into memory first: the library panics where its writer fails.
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "evoring", &mut script);
        print(&String::from_utf8_lossy(&script))?;
        return Ok(Exit::Ok);
    }
    let Global { json, cluster } = cli.global;
    // As unset: a shell cannot always unset a variable for one command.
    let cluster = cluster.filter(|path| !path.as_os_str().is_empty());
    let context = Context {
        style: Style::detect(json),
        cluster,
    };
    // One thread: this process waits, the workers compute.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::local("runtime", error))?;
    runtime.block_on(dispatch(&context, cli.command))
}

async fn dispatch(context: &Context, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Run(arguments) => run::run(context, arguments).await,
        Command::Local(arguments) => local::local(context, arguments).await,
        Command::Submit(arguments) => submit::submit(context, arguments).await,
        Command::Jobs => inspect::jobs(context).await,
        Command::Show(arguments) => inspect::show(context, arguments.job).await,
        Command::Explain(arguments) => inspect::explain(context, arguments.job).await,
        Command::Cancel(arguments) => inspect::cancel(context, arguments.job).await,
        Command::Label(arguments) => inspect::label(context, arguments).await,
        Command::Cluster(arguments) => group::group(context, arguments.command).await,
        Command::Workers => inspect::workers(context).await,
        Command::Logs(arguments) => stream::logs(context, arguments).await,
        Command::Events(arguments) => stream::events(context, arguments).await,
        Command::Fetch(arguments) => fetch::fetch(context, arguments).await,
        Command::Plot(arguments) => plot::plot(context, arguments).await,
        // Handled before the runtime.
        Command::Completions { .. } => Ok(Exit::Ok),
    }
}

impl Context {
    /// A client of the cluster that the user means.
    fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(self.access()?, SHORT_PATIENCE))
    }

    fn access(&self) -> Result<Access, Failure> {
        if let Some(path) = &self.cluster {
            return Access::from_file(path);
        }
        let state = registry::state_folder()?;
        let path = registry::last_running(&state).ok_or_else(|| {
            Failure::new(
                Exit::Unreachable,
                "no cluster runs on this machine: start one with `evoring local`, or name one with --cluster FILE or EVORING_CLUSTER",
            )
        })?;
        Access::from_file(&path)
    }
}

/// The number of the job that the user means.
async fn resolve(client: &mut Client, job: JobRef) -> Result<JobId, Failure> {
    match job {
        JobRef::Number(number) => Ok(JobId(number)),
        JobRef::Latest => match client.ask(&ClientRequest::Jobs).await? {
            ClientReply::Jobs(jobs) => {
                let latest = jobs.iter().map(|view| view.job).max();
                latest.ok_or_else(|| Failure::new(Exit::Refused, "this cluster has no job yet"))
            }
            other => Err(unexpected("Jobs", &other)),
        },
    }
}
