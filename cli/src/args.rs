//! The command line.

use crate::tilde::refuse_tilde;
use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use std::path::{MAIN_SEPARATOR, Path, PathBuf};
use std::str::FromStr;

const AFTER: &str = "\
Exit codes: 0 done, 1 the job failed, 2 wrong arguments or job file, 3 the cluster cannot be
reached, 4 the cluster refused, 5 something on this machine (disk, damaged download),
130 interrupted, 143 terminated.

Examples:
  evoring run examples/prune-fashion.toml --workers 2
  evoring local --workers 2                  # in one terminal
  evoring submit JOB.toml --follow           # in another
  evoring events -f --json | jq .kind";

/// A compute cluster for search-driven machine learning.
#[derive(Debug, Parser)]
#[command(name = "evoring", version, about, after_help = AFTER)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Print JSON with stable names instead of text (docs/formats.md)
    #[arg(long, global = true)]
    pub json: bool,
    /// Cluster to talk to: a file with `{"announce": FILE, "identity": DIR}` or
    /// `{"coordinators": ["HOST:PORT"], "identity": DIR}` [default: the last running `evoring
    /// local` or `run`]
    #[arg(long, global = true, value_name = "FILE", env = "EVORING_CLUSTER", value_parser = path())]
    pub cluster: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one job on a throw-away cluster on this machine and wait for it
    ///
    /// Starts a coordinator and workers as processes of their own, submits the job, shows its
    /// progress, writes what came out, and stops everything. Ctrl-C cancels; a second Ctrl-C stops
    /// at once.
    #[command(
        after_help = "Examples:\n  evoring run examples/prune-fashion.toml\n  evoring run JOB.toml --workers 4 --out result\n  evoring run JOB.toml --json > progress.jsonl"
    )]
    Run(RunArgs),
    /// Keep a cluster on this machine until Ctrl-C
    ///
    /// With --dir, a cluster that was stopped goes on where it was.
    #[command(
        after_help = "Examples:\n  evoring local --workers 2\n  evoring local --workers 4 --dir ~/cluster    # later again with the same --dir"
    )]
    Local(LocalArgs),
    /// Hand a job to a cluster
    #[command(
        after_help = "Examples:\n  evoring submit JOB.toml\n  evoring submit JOB.toml --follow --cluster ~/cluster/cluster.json"
    )]
    Submit(SubmitArgs),
    /// List all jobs
    #[command(
        after_help = "Example:\n  evoring jobs --json | jq '.[] | select(.status == \"running\") | .job'"
    )]
    Jobs,
    /// Show one job
    #[command(after_help = "Example:\n  evoring show latest")]
    Show(JobArgs),
    /// Print what a job's workers said
    #[command(after_help = "Examples:\n  evoring logs 1\n  evoring logs latest -f")]
    Logs(FollowJobArgs),
    /// Say why a job waits
    #[command(after_help = "Example:\n  evoring explain 3        # needs 4 slots, 2 present")]
    Explain(JobArgs),
    /// Stop a job
    #[command(after_help = "Example:\n  evoring cancel latest")]
    Cancel(JobArgs),
    /// Write what a finished job made into a folder: report, population, model, pictures
    #[command(after_help = "Example:\n  evoring fetch latest result")]
    Fetch(FetchArgs),
    /// Draw one picture of a job or of a folder written by `run` or `fetch`
    #[command(
        after_help = "Examples:\n  evoring plot latest -o fitness.svg\n  evoring plot evoring-out/prune-fashion --what front -o front.svg"
    )]
    Plot(PlotArgs),
    /// Print changes of state, one per line
    #[command(
        after_help = "Examples:\n  evoring events\n  evoring events -f --json | jq 'select(.kind.lease_granted?)'"
    )]
    Events(EventsArgs),
    /// List all workers
    #[command(after_help = "Example:\n  evoring workers --json")]
    Workers,
    /// Print a completion script for a shell
    #[command(
        after_help = "Examples:\n  evoring completions bash > ~/.local/share/bash-completion/completions/evoring\n  evoring completions zsh > ~/.zfunc/_evoring"
    )]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// How large a local cluster is, and where it lives.
#[derive(Debug, Clone, Args)]
pub struct ClusterArgs {
    /// Worker processes
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256), value_name = "N")]
    pub workers: u32,
    /// Slots of each worker: how many executors compute at once in it
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(evoring_protocol::limits::WORKER_SLOTS)), value_name = "N")]
    pub slots_per_worker: u32,
    /// Folder for all state of the cluster [default: a fresh one below
    /// ${XDG_STATE_HOME:-~/.local/state}/evoring/clusters]
    #[arg(long, value_name = "DIR", value_parser = path())]
    pub dir: Option<PathBuf>,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Job file (docs/job-file.md)
    pub job: PathBuf,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Folder for the results; earlier results there are replaced, other files of yours stay
    /// [default: evoring-out/JOB]
    #[arg(long, value_name = "DIR", value_parser = path())]
    pub out: Option<PathBuf>,
    /// Keep the cluster's folder also after success (a folder named by --dir is always kept)
    #[arg(long)]
    pub keep: bool,
}

/// Arguments of `local`.
#[derive(Debug, Args)]
pub struct LocalArgs {
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Arguments of `submit`.
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// Job file (docs/job-file.md)
    pub job: PathBuf,
    /// Wait for the job's end, show its progress, and exit with its status
    #[arg(long, short)]
    pub follow: bool,
}

/// One job.
#[derive(Debug, Args)]
pub struct JobArgs {
    /// Number of the job, or `latest`
    pub job: JobRef,
}

/// One job, once or for as long as it lives.
#[derive(Debug, Args)]
pub struct FollowJobArgs {
    /// Number of the job, or `latest`
    pub job: JobRef,
    /// Go on until the job ends
    #[arg(long, short)]
    pub follow: bool,
}

/// Arguments of `fetch`.
#[derive(Debug, Args)]
pub struct FetchArgs {
    /// Number of the job, or `latest`
    pub job: JobRef,
    /// Folder for the results; earlier results there are replaced, other files of yours stay
    #[arg(value_parser = path())]
    pub dir: PathBuf,
}

/// Arguments of `plot`.
#[derive(Debug, Args)]
pub struct PlotArgs {
    /// Number of a job, `latest`, or a folder written by `run` or `fetch` (./latest is a folder)
    #[arg(value_name = "JOB|DIR")]
    pub source: PlotSource,
    /// The picture (SVG)
    #[arg(long, short, value_name = "FILE.svg", value_parser = path())]
    pub output: PathBuf,
    /// Which picture [default: by the name of FILE, else fitness]
    #[arg(long, value_enum)]
    pub what: Option<PictureKind>,
}

/// Arguments of `events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Go on with new events
    #[arg(long, short)]
    pub follow: bool,
    /// Number of the first event wanted
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    pub from: u64,
}

/// Which picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PictureKind {
    /// Best and mean fitness of each generation
    Fitness,
    /// Size against accuracy of everything evaluated
    Front,
    /// Which filters were kept, layer by layer
    Filters,
}

/// A job as people name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobRef {
    /// By number.
    Number(u64),
    /// The one submitted last.
    Latest,
}

impl FromStr for JobRef {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "latest" => Ok(Self::Latest),
            number => number.parse().map(Self::Number).map_err(|_| {
                "expected the number of a job (see `evoring jobs`) or `latest`".to_owned()
            }),
        }
    }
}

/// What `plot` draws.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlotSource {
    /// A job of a cluster.
    Job(JobRef),
    /// A folder of results.
    Folder(PathBuf),
}

impl FromStr for PlotSource {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A job's name has no separator, so `./7` and `7/` are the folder.
        if !text.contains(MAIN_SEPARATOR)
            && let Ok(job) = text.parse()
        {
            return Ok(Self::Job(job));
        }
        refuse_tilde(Path::new(text))?;
        Ok(Self::Folder(text.into()))
    }
}

/// Paths that something is written to or looked up in.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| refuse_tilde(&path).map(|()| path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    // Claim: the definition has no contradictions. Method: clap's own check.
    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }
    // Claim: a folder can be plotted whatever it is called. Method: names of jobs, and the same
    // with a separator.
    #[test]
    fn plot_sources() {
        let job = |job| Ok(PlotSource::Job(job));
        assert_eq!("latest".parse(), job(JobRef::Latest));
        assert_eq!("7".parse(), job(JobRef::Number(7)));
        for folder in [
            "./latest",
            "./7",
            "7/",
            "latest/",
            "evoring-out/7",
            "result",
        ] {
            assert_eq!(folder.parse(), Ok(PlotSource::Folder(folder.into())));
        }
    }

    // Claim: a `~` that no shell replaced is refused wherever a path is given, before a folder of
    // that name is made. Method: each option.
    #[test]
    fn tilde_is_refused() {
        for line in [
            "run job.toml --out=~/x",
            "run job.toml --dir=~/x",
            "local --dir=~/x",
            "jobs --cluster=~/x",
            "fetch 1 ~/x",
            "plot ~/x -o x.svg",
            "plot 1 --output=~/x.svg",
        ] {
            let words = std::iter::once("evoring").chain(line.split(' '));
            let error = Cli::try_parse_from(words).unwrap_err().to_string();
            assert!(
                error.contains("expected a path without `~`"),
                "{line}: {error}"
            );
        }
    }
}
