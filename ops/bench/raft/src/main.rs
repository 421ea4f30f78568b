//! Evoring's coordinators beside etcd, both as three processes on this machine.
//! docs/benchmarks.md says what is measured and how; ops/bench/raft/etcd.sh fetches the rival.

mod commands;
mod cpu;
mod etcd;
mod evoring;
mod failover;
mod figures;
mod load;
mod process;
mod restart;
mod target;

use anyhow::{Result, bail, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use commands::Rounds;
use etcd::Etcd;
use evoring::Evoring;
use failover::Kills;
use load::Load;
use process::Scratch;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use target::{Cluster, Programs};

#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// The program etcd, as ops/bench/raft/etcd.sh prints it
    #[arg(long, global = true, default_value = "etcd", value_name = "FILE")]
    etcd: PathBuf,
    /// The program evoring, of a release build
    #[arg(
        long,
        global = true,
        default_value = "target/release/evoring",
        value_name = "FILE"
    )]
    evoring: PathBuf,
    /// Folder for the data of all clusters: on the file system that is to be measured
    #[arg(
        long,
        global = true,
        default_value = "target/bench-raft",
        value_name = "DIR"
    )]
    dir: PathBuf,
    /// Keep data and logs
    #[arg(long, global = true)]
    keep: bool,
    /// Only one of both
    #[arg(long, global = true, value_name = "SYSTEM")]
    only: Option<System>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum System {
    /// The rival
    Etcd,
    /// Ours
    Evoring,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Durable commands per second, round by round
    Commands {
        #[command(flatten)]
        load: LoadArgs,
        /// Rounds of each system, taking turns
        #[arg(long, default_value_t = 5, value_name = "N")]
        rounds: u32,
        /// Connections of all clients together, for both; each number is a column
        #[arg(long, value_delimiter = ',', default_values_t = [10, 50, 500], value_name = "N,…")]
        connections: Vec<usize>,
    },
    /// Kill the leader again and again
    Failover {
        /// Kills of Evoring's leader
        #[arg(long, default_value_t = 100, value_name = "N")]
        kills: u32,
        /// Kills of etcd's leader
        #[arg(long, default_value_t = 20, value_name = "N")]
        etcd_kills: u32,
        /// Bytes of each value
        #[arg(long, default_value_t = 256, value_name = "N")]
        value_bytes: usize,
        /// Seconds of writing before each kill
        #[arg(long, default_value_t = 2.0, value_name = "SECONDS", value_parser = seconds)]
        pause: f64,
    },
    /// Store ended jobs, kill all of Evoring's coordinators and start them again
    Restart {
        /// Jobs
        #[arg(long, default_value_t = 100_000, value_name = "N")]
        jobs: u64,
        /// Restarts
        #[arg(long, default_value_t = 3, value_name = "N")]
        times: u32,
    },
}

#[derive(Debug, Args)]
struct LoadArgs {
    /// Clients at once, each with one command at a time
    #[arg(long, default_value_t = 500, value_name = "N")]
    clients: usize,
    /// Bytes of each value
    #[arg(long, default_value_t = 256, value_name = "N")]
    value_bytes: usize,
    /// Seconds that are not measured
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS", value_parser = seconds)]
    warm_up: f64,
    /// Seconds that are measured
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS", value_parser = seconds)]
    measure: f64,
}

impl LoadArgs {
    fn load(&self) -> Load {
        Load {
            clients: self.clients,
            value_bytes: self.value_bytes,
            warm_up: Duration::from_secs_f64(self.warm_up),
            measure: Duration::from_secs_f64(self.measure),
        }
    }
}

/// A time of at most an hour.
fn seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.0..=3600.0).contains(seconds))
        .ok_or_else(|| "expected seconds, 0 to 3600".to_owned())
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(Cli { what, common }: Cli) -> Result<()> {
    let scratch = Scratch::new(&common.dir, common.keep)?;
    let run = async {
        let programs = common.programs(&what)?;
        match what {
            What::Commands {
                load,
                rounds,
                connections,
            } => compare(&common, &programs, &scratch, &load, rounds, &connections).await,
            What::Failover {
                kills,
                etcd_kills,
                value_bytes,
                pause,
            } => {
                let plan = |count| Kills {
                    count,
                    value_bytes,
                    pause: Duration::from_secs_f64(pause),
                };
                if common.wants(System::Etcd) {
                    failover::run::<Etcd>(&programs, &scratch, plan(etcd_kills)).await?;
                }
                if common.wants(System::Evoring) {
                    failover::run::<Evoring>(&programs, &scratch, plan(kills)).await?;
                }
                Ok(())
            }
            What::Restart { jobs, times } => restart::run(&programs, &scratch, jobs, times).await,
        }
    };
    // Leaving drops the clusters, which kills their processes.
    tokio::select! {
        outcome = run => outcome,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    }
}

impl Common {
    fn wants(&self, system: System) -> bool {
        self.only.is_none_or(|only| only == system)
    }

    /// The programs, if those that are wanted can run.
    fn programs(&self, what: &What) -> Result<Programs> {
        if self.wants(System::Etcd) && !matches!(what, What::Restart { .. }) {
            runs(
                &self.etcd,
                "name the one that ops/bench/raft/etcd.sh prints with --etcd",
            )?;
        }
        if self.wants(System::Evoring) {
            runs(
                &self.evoring,
                "build it (cargo build --release --bins), or name it with --evoring",
            )?;
        }
        Ok(Programs {
            etcd: self.etcd.clone(),
            evoring: self.evoring.clone(),
        })
    }
}

/// Fails with what to do if a program cannot say its version.
fn runs(program: &Path, otherwise: &str) -> Result<()> {
    let answer = std::process::Command::new(program)
        .arg("--version")
        .output();
    let problem = match answer {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => output.status.to_string(),
        Err(error) => error.to_string(),
    };
    bail!(
        "{} does not run ({problem}); {otherwise}",
        program.display()
    )
}

/// Rounds of both systems with each number of connections, then the table.
async fn compare(
    common: &Common,
    programs: &Programs,
    scratch: &Scratch,
    load: &LoadArgs,
    rounds: u32,
    connections: &[usize],
) -> Result<()> {
    ensure!(load.clients > 0 && rounds > 0, "nothing to measure");
    ensure!(
        connections.iter().all(|&count| count > 0),
        "--connections: at least 1"
    );
    println!(
        "{} clients in a closed loop, values of {} bytes, 3 nodes on {} cores; all clients talk to the leader; {rounds} rounds of {} s, each on a fresh cluster\n",
        load.clients,
        load.value_bytes,
        std::thread::available_parallelism()?,
        load.measure,
    );
    let all = |name| -> Vec<Rounds> {
        let each = connections.iter();
        each.map(|&count| Rounds::new(name, count)).collect()
    };
    let (mut rival, mut ours) = (all(Etcd::NAME), all(Evoring::NAME));
    for _ in 0..rounds {
        for (rival, ours) in rival.iter_mut().zip(&mut ours) {
            if common.wants(System::Etcd) {
                commands::round::<Etcd>(programs, scratch, load.load(), rival).await?;
            }
            if common.wants(System::Evoring) {
                commands::round::<Evoring>(programs, scratch, load.load(), ours).await?;
            }
        }
    }
    commands::print(&rival, &ours);
    Ok(())
}
