//! `evoring-simulate`: runs seeds of the simulator, and says how to run a failed one again.

use evoring_tests::simulation::{Counters, Report, Setup, Sometimes, complaint, run, runs_twice};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

const USAGE: &str = "\
usage: evoring-simulate [options]

  --seeds N        how many seeds (100)
  --start N        the first of them (1)
  --minutes N      simulated time of each (10)
  --threads N      seeds at a time (as many as there are cores)
  --quiet          no progress
  --tell           prints everything that happens
  --lying-disks    disks confirm what they have not written: that must be found
  --plant N        with this planted bug            (only in the build of `make plants`)
  --plants         looks for all planted bugs       (the same)
  --most-seeds N   … in so many seeds each at most (1000)";
/// A run of so many simulated hours must meet everything that happens sometimes.
const ENOUGH_HOURS: u64 = 150;
/// Seeds in which each planted bug must be found: as many as CI runs without any.
const MOST_SEEDS: u64 = 1_000;
/// Violations that are shown; the others are counted.
const SHOWN: u64 = 20;

struct Settings {
    seeds: u64,
    start: u64,
    threads: usize,
    is_quiet: bool,
    setup: Setup,
    /// The planted bug of this number.
    plant: Option<u64>,
    /// Look for all planted bugs, each in at most this many seeds.
    hunts: bool,
    most_seeds: u64,
}

/// What the arguments say; nothing if help is wanted.
fn settings() -> Result<Option<Settings>, String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut settings = Settings {
        seeds: 100,
        start: 1,
        threads: cores,
        is_quiet: false,
        setup: Setup::default(),
        plant: None,
        hunts: false,
        most_seeds: MOST_SEEDS,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--help" {
            return Ok(None);
        }
        if argument == "--lying-disks" {
            settings.setup.disks_lie = true;
            continue;
        }
        if argument == "--quiet" {
            settings.is_quiet = true;
            continue;
        }
        if argument == "--plants" {
            settings.hunts = true;
            continue;
        }
        if argument == "--tell" {
            settings.setup.is_told = true;
            continue;
        }
        let value = arguments.next().and_then(|value| value.parse::<u64>().ok());
        let value = value.ok_or_else(|| format!("{argument}: expected a number\n{USAGE}"))?;
        match argument.as_str() {
            "--seeds" => settings.seeds = value,
            "--start" => settings.start = value,
            "--minutes" => settings.setup.minutes = value.max(1),
            "--plant" => {
                settings.plant = Some(value);
                settings.setup.plant = Some(value);
            }
            "--most-seeds" => settings.most_seeds = value,
            "--threads" => settings.threads = usize::try_from(value).unwrap_or(1).max(1),
            _ => return Err(format!("{argument}: unknown\n{USAGE}")),
        }
    }
    Ok(Some(settings))
}

/// What all seeds have led to.
#[derive(Default)]
struct Total {
    seeds: u64,
    simulated_ms: u64,
    events: u64,
    faults: u64,
    violations: u64,
    repeated: u64,
    busy: Duration,
    counters: Counters,
}

struct Done {
    report: Report,
    took: Duration,
    /// What the second run did, if there was one.
    again: Option<Report>,
}

/// Time that this thread computed; others may want the same cores.
fn computed() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds = text.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

fn work(next: &AtomicU64, end: u64, settings: &Settings, done: &Sender<Done>) {
    let setup = settings.setup;
    let in_silence = Setup {
        is_told: false,
        ..setup
    };
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let (began, computed_before) = (Instant::now(), computed());
        let report = run(seed, setup);
        let took = match (computed_before, computed()) {
            (Some(before), Some(after)) => after.saturating_sub(before),
            _ => began.elapsed(),
        };
        let again = runs_twice(seed).then(|| run(seed, in_silence));
        let done_one = Done {
            report,
            took,
            again,
        };
        if done.send(done_one).is_err() {
            return;
        }
    }
}

impl Total {
    fn add(&mut self, done: Done, settings: &Settings) {
        let Done {
            report,
            took,
            again,
        } = done;
        self.seeds += 1;
        self.simulated_ms += report.simulated_ms;
        self.events += report.events;
        self.faults += report.faults;
        self.busy += took;
        self.counters.add(&report.counters);
        if let Some(violation) = &report.violation {
            self.violated(report.seed, &violation.to_string(), settings);
        }
        if let Some(again) = again {
            self.repeated += 1;
            if again != report {
                let what = format!(
                    "repeat: the second run's trace is {:x} after {} events, the first one's {:x} after {}",
                    again.trace, again.events, report.trace, report.events
                );
                self.violated(report.seed, &what, settings);
            }
        }
    }

    fn violated(&mut self, seed: u64, what: &str, settings: &Settings) {
        self.violations += 1;
        if self.violations <= SHOWN {
            eprintln!("\r{}", complaint(seed, what, settings.setup));
        }
    }

    fn speed(&self) -> f64 {
        self.simulated_ms as f64 / self.busy.as_millis().max(1) as f64
    }

    fn line(&self, settings: &Settings) -> String {
        format!(
            "{} of {} seeds, {:.1} simulated hours, {} faults, {} violations, {:.0} times real time per core",
            self.seeds,
            settings.seeds,
            self.simulated_ms as f64 / 3_600_000.0,
            self.faults,
            self.violations,
            self.speed()
        )
    }

    fn show_counters(&self) {
        for what in Sometimes::ALL {
            println!("{:>12}  {what:?}", self.counters.count(*what));
        }
    }
}

fn collect(reports: &Receiver<Done>, settings: &Settings) -> Total {
    let mut total = Total::default();
    let is_terminal = std::io::stderr().is_terminal();
    let interval = if is_terminal {
        Duration::from_millis(200)
    } else {
        Duration::from_secs(10)
    };
    let mut shown = Instant::now();
    loop {
        match reports.recv_timeout(interval) {
            Ok(done) => total.add(done, settings),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if shown.elapsed() >= interval && !settings.is_quiet {
            shown = Instant::now();
            if is_terminal {
                eprint!("\r{}\x1b[K", total.line(settings));
                // A terminal that is gone is no reason to stop.
                let _ = std::io::stderr().flush();
            } else {
                eprintln!("{}", total.line(settings));
            }
        }
    }
    if is_terminal && !settings.is_quiet {
        eprint!("\r\x1b[K");
    }
    total
}

/// Plants the bug that is asked for, or looks for all of them.
#[cfg(evoring_plants)]
fn planted(settings: &Settings) -> Result<Option<ExitCode>, String> {
    use evoring_protocol::plants::Plant;
    use evoring_tests::simulation::plants::{Hunt, Limits, hunt_all, plant_number};
    let chosen = settings.plant.map(plant_number).transpose()?;
    if !settings.hunts {
        if let Some(plant) = chosen {
            println!("planted bug {}: {}", plant.number(), plant.what());
        }
        return Ok(None);
    }
    // A panic is a violation, and shown as one.
    std::panic::set_hook(Box::new(|_| {}));
    let limits = Limits {
        most_seeds: settings.most_seeds,
        setup: settings.setup,
        threads: settings.threads,
    };
    let tell = |hunt: &Hunt| {
        let (number, what, seconds) = (
            hunt.plant.number(),
            hunt.plant.what(),
            hunt.took.as_secs_f64(),
        );
        match &hunt.found {
            Some((seed, violation)) => {
                println!(
                    "{number:>3}  {what}  seed {seed}, {}, {seconds:.1} s",
                    violation.invariant
                );
                if !settings.is_quiet {
                    println!("     {violation:.200}");
                }
            }
            None => println!("{number:>3}  {what}  NOT FOUND, {seconds:.1} s"),
        }
    };
    let bugs = chosen.map_or(Plant::ALL.to_vec(), |plant| vec![plant]);
    let hunts = hunt_all(&bugs, limits, tell);
    let seeds: Vec<u64> = hunts
        .iter()
        .filter_map(|hunt| Some(hunt.found.as_ref()?.0))
        .collect();
    let most = seeds.iter().max().copied().unwrap_or(0);
    println!(
        "{} of {} planted bugs found, at most {most} seeds",
        seeds.len(),
        hunts.len()
    );
    Ok(Some(match seeds.len() == hunts.len() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }))
}

#[cfg(not(evoring_plants))]
fn planted(settings: &Settings) -> Result<Option<ExitCode>, String> {
    match settings.hunts || settings.plant.is_some() {
        true => Err(
            "this build has no planted bugs; `make plants` builds one that has them, with \
                     RUSTFLAGS=\"--cfg evoring_plants\" in a target folder of its own"
                .to_owned(),
        ),
        false => Ok(None),
    }
}

fn main() -> ExitCode {
    let settings = match settings() {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    match planted(&settings) {
        Ok(None) => {}
        Ok(Some(status)) => return status,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    }
    let next = AtomicU64::new(settings.start);
    let end = settings.start.saturating_add(settings.seeds);
    let (sender, reports) = channel();
    let total = std::thread::scope(|scope| {
        for _ in 0..settings.threads {
            let (sender, next, settings) = (sender.clone(), &next, &settings);
            scope.spawn(move || work(next, end, settings, &sender));
        }
        drop(sender);
        collect(&reports, &settings)
    });
    if !settings.is_quiet {
        total.show_counters();
    }
    let missing: Vec<String> = total
        .counters
        .missing()
        .map(|it| format!("{it:?}"))
        .collect();
    let is_enough = total.simulated_ms >= ENOUGH_HOURS * 3_600_000;
    let is_thin = is_enough && !missing.is_empty();
    let count = |what| total.counters.count(what);
    if is_thin {
        println!("never happened: {}", missing.join(", "));
    }
    println!(
        "{}; {} power cuts of a whole group, {} of them in the middle of a write; {} bit flips and {} \
         misdirected writes, {} of them found, {} in no live data; {} seeds run twice",
        total.line(&settings),
        count(Sometimes::GroupPowerCut),
        count(Sometimes::GroupPowerCutWhileWriting),
        count(Sometimes::BitFlipped),
        count(Sometimes::WriteMisdirected),
        count(Sometimes::CorruptionFound),
        count(Sometimes::HarmlessDamage),
        total.repeated
    );
    if total.violations > 0 || is_thin {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
