//! The command line.

use crate::local::Size;
use crate::tilde::refuse_tilde;
use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use evoring_protocol::WorkerId;
use evoring_protocol::limits::{LABEL_BYTES, LABEL_KEY_BYTES};
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
    /// Cluster to talk to: a file with `{"announce": [FILE, ...], "identity": DIR}` or
    /// `{"coordinators": ["HOST:PORT", ...], "identity": DIR}` [default: the last running `evoring
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
    /// Attach a label to a job, or replace its value; `show` prints labels
    #[command(
        after_help = "Examples:\n  evoring label latest dataset=v3\n  evoring label 7 note='learning rate halved'"
    )]
    Label(LabelArgs),
    /// Look at the group of coordinators, and change it
    Cluster(GroupArgs),
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
    /// Coordinator processes: with 3 one may fail, with 5 two [default: as many as the folder has,
    /// else 1]
    #[arg(long, value_name = "1|3|5", value_parser = coordinators)]
    pub coordinators: Option<u32>,
    /// Worker processes; 0, for `local` alone, starts coordinators only
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=256), value_name = "N")]
    pub workers: u32,
    /// Slots of each worker: how many executors compute at once in it
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(evoring_protocol::limits::WORKER_SLOTS)), value_name = "N")]
    pub slots_per_worker: u32,
    /// Folder for all state of the cluster [default: a fresh one below
    /// ${XDG_STATE_HOME:-~/.local/state}/evoring/clusters]
    #[arg(long, value_name = "DIR", value_parser = path())]
    pub dir: Option<PathBuf>,
}

impl ClusterArgs {
    /// What to start.
    pub fn size(&self) -> Size {
        Size {
            coordinators: self.coordinators,
            workers: self.workers,
            slots_per_worker: self.slots_per_worker,
        }
    }
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

/// Arguments of `label`.
#[derive(Debug, Args)]
pub struct LabelArgs {
    /// Number of the job, or `latest`
    pub job: JobRef,
    /// Name and value of the label
    #[arg(value_name = "KEY=VALUE")]
    pub label: Label,
}

/// Arguments of `cluster`.
#[derive(Debug, Args)]
pub struct GroupArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: GroupCommand,
}

/// The commands about the group of coordinators.
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// Show every coordinator: who leads, how far the others are, what is wrong
    #[command(
        after_help = "Examples:\n  evoring cluster status\n  evoring cluster status --json | jq '.members[] | select(.problem)'"
    )]
    Status,
    /// Take a coordinator in that runs and waits for it, and wait until it has a vote
    #[command(after_help = "Example:\n  evoring cluster add c4 host-d:4433")]
    Add(AddMemberArgs),
    /// Remove a coordinator, and wait until the group does without it
    #[command(after_help = "Example:\n  evoring cluster remove c2")]
    Remove(RemoveMemberArgs),
    /// Hand the leadership to another coordinator, before maintenance
    #[command(after_help = "Example:\n  evoring cluster transfer")]
    Transfer,
}

/// Arguments of `cluster add`.
#[derive(Debug, Args)]
pub struct AddMemberArgs {
    /// Name of the coordinator, as in its certificate
    #[arg(value_parser = member_name)]
    pub name: String,
    /// Where it listens, as the other coordinators reach it
    #[arg(value_name = "HOST:PORT", value_parser = host_and_port)]
    pub address: String,
    /// Return as soon as it is accepted
    #[arg(long)]
    pub no_wait: bool,
}

/// Arguments of `cluster remove`.
#[derive(Debug, Args)]
pub struct RemoveMemberArgs {
    /// Number or name of the coordinator (`evoring cluster status`)
    #[arg(value_name = "ID|NAME")]
    pub member: String,
    /// Return as soon as it is accepted
    #[arg(long)]
    pub no_wait: bool,
}

/// A label as people write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Before the first `=`.
    pub key: String,
    /// After it.
    pub value: String,
}

impl FromStr for Label {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (key, value) = text
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or("expected KEY=VALUE")?;
        for (what, part, limit) in [
            ("name", key, LABEL_KEY_BYTES),
            ("value", value, LABEL_BYTES),
        ] {
            if part.len() > limit {
                return Err(format!(
                    "the label's {what} has {} bytes: at most {limit}",
                    part.len()
                ));
            }
        }
        Ok(Self {
            key: key.to_owned(),
            value: value.to_owned(),
        })
    }
}

/// An even number of coordinators survives no more than one fewer, and more than five are slower.
fn coordinators(text: &str) -> Result<u32, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("expected 1, 3 or 5".to_owned()),
    }
}

/// What a certificate can name; the same rule as for workers.
fn member_name(text: &str) -> Result<String, String> {
    match WorkerId::new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(
            "expected 1 to 63 characters of a-z, 0-9 and `-`, neither first nor last `-`"
                .to_owned(),
        ),
    }
}

fn host_and_port(text: &str) -> Result<String, String> {
    let is_valid = text.rsplit_once(':').is_some_and(|(host, port)| {
        // An address of IPv6 has colons of its own.
        let is_host = !host.is_empty() && (!host.contains(':') || host.ends_with(']'));
        is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    match is_valid {
        true => Ok(text.to_owned()),
        false => Err("expected HOST:PORT or [IPV6]:PORT".to_owned()),
    }
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

    fn parse(line: &str) -> Result<Cli, String> {
        let words = std::iter::once("evoring").chain(line.split(' '));
        Cli::try_parse_from(words).map_err(|error| error.to_string())
    }

    // Claim: sizes of groups that make no sense are refused with those that do; without a number the
    // folder decides. Method: both commands that start clusters.
    #[test]
    fn numbers_of_coordinators() {
        for line in ["local", "run job.toml"] {
            let size = |line: &str| match parse(line).unwrap().command {
                Command::Local(arguments) => arguments.cluster.size(),
                Command::Run(arguments) => arguments.cluster.size(),
                other => panic!("{other:?}"),
            };
            assert_eq!(size(line).coordinators, None);
            for number in [1, 3, 5] {
                let line = format!("{line} --coordinators {number}");
                assert_eq!(size(&line).coordinators, Some(number));
            }
            for number in ["0", "2", "7", "x"] {
                let error = parse(&format!("{line} --coordinators {number}")).unwrap_err();
                assert!(error.contains("expected 1, 3 or 5"), "{error}");
            }
        }
    }

    // Claim: names and addresses that no coordinator can have are refused before anybody is asked.
    // Method: right and wrong ones.
    #[test]
    fn members() {
        for line in ["c4 host:1", "c4 127.0.0.1:4433", "c-4 [fd00::2]:4433"] {
            parse(&format!("cluster add {line}")).unwrap();
        }
        for line in [
            "C4 host:1",
            "c4 host",
            "c4 host:0",
            "c4 host:70000",
            "c4 :1",
            "c4 fd00::2:4433",
        ] {
            let error = parse(&format!("cluster add {line}")).unwrap_err();
            assert!(error.contains("expected"), "{line}: {error}");
        }
        parse("cluster remove 3 --no-wait").unwrap();
        parse("cluster transfer --json").unwrap();
        assert!(parse("cluster").is_err());
    }

    // Claim: a label is cut at its first `=`, and is bounded. Method: texts around the rules.
    #[test]
    fn labels() {
        let label = |key: &str, value: &str| {
            Ok(Label {
                key: key.to_owned(),
                value: value.to_owned(),
            })
        };
        assert_eq!("a=b=c".parse(), label("a", "b=c"));
        assert_eq!("a=".parse(), label("a", ""));
        for text in ["a", "=b", ""] {
            assert_eq!(text.parse::<Label>().unwrap_err(), "expected KEY=VALUE");
        }
        let long = format!("{}=b", "k".repeat(65));
        assert!(long.parse::<Label>().unwrap_err().contains("at most 64"));
        let long = format!("a={}", "v".repeat(1025));
        assert!(long.parse::<Label>().unwrap_err().contains("at most 1024"));
    }
}
