//! Durable commands per second: rounds that take turns, each on a fresh cluster.

use crate::figures::median;
use crate::load::{self, Load, Outcome};
use crate::process::Scratch;
use crate::target::{Cluster, Programs};
use anyhow::{Context, Result};
use std::sync::Arc;

/// Outcomes of one system, round by round.
#[derive(Debug)]
pub struct Rounds {
    /// Which system.
    pub name: &'static str,
    /// Connections of its clients, all together.
    pub connections: usize,
    /// One a round.
    pub outcomes: Vec<Outcome>,
}

impl Rounds {
    /// None yet.
    pub fn new(name: &'static str, connections: usize) -> Self {
        Self {
            name,
            connections,
            outcomes: Vec::new(),
        }
    }

    /// The median of a figure over all rounds.
    pub fn median(&self, figure: impl Fn(&Outcome) -> f64) -> f64 {
        median(self.outcomes.iter().map(figure))
    }

    /// Commands in a second; the median.
    pub fn per_second(&self) -> f64 {
        self.median(|outcome| outcome.per_second)
    }
}

/// One round on a fresh cluster, which is gone afterwards. Prints a line.
pub async fn round<C: Cluster>(
    programs: &Programs,
    scratch: &Scratch,
    load: Load,
    rounds: &mut Rounds,
) -> Result<()> {
    let number = rounds.outcomes.len() + 1;
    let label = format!("{} {} {number}", C::NAME, rounds.connections);
    let folder = scratch.fresh(&label.replace(' ', "-"))?;
    let outcome = on_fresh_cluster::<C>(programs, &folder, load, rounds.connections)
        .await
        .with_context(|| label.clone())?;
    scratch.forget(&folder);
    println!(
        "{:8} {:4} connections, round {number}: {}",
        C::NAME,
        rounds.connections,
        line(&outcome)
    );
    rounds.outcomes.push(outcome);
    Ok(())
}

async fn on_fresh_cluster<C: Cluster>(
    programs: &Programs,
    folder: &std::path::Path,
    load: Load,
    connections: usize,
) -> Result<Outcome> {
    let cluster = C::start(programs, folder).await?;
    let target = Arc::new(cluster.target(load.clients, connections).await?);
    let outcome = load::run(target, load, &cluster.processes().await?).await;
    cluster.stop().await?;
    outcome
}

fn line(outcome: &Outcome) -> String {
    let Outcome {
        per_second,
        latencies,
        failed,
        client_us,
        cluster_us,
    } = outcome;
    format!(
        "{per_second:7.0}/s   p50 {:6.1} ms   p99 {:6.1} ms   max {:6.1} ms   failed {failed}   processor time of a command: client {client_us:.0} us, cluster {cluster_us:.0} us",
        latencies.percentile_ms(0.5),
        latencies.percentile_ms(0.99),
        latencies.max_ms(),
    )
}

/// Medians of both systems side by side, and their ratios. Each list has one entry for each number
/// of connections; a system that was not measured has no rounds.
pub fn print(rival: &[Rounds], ours: &[Rounds]) {
    let both: Vec<&Rounds> = rival
        .iter()
        .zip(ours)
        .flat_map(|(rival, ours)| [rival, ours])
        .filter(|rounds| !rounds.outcomes.is_empty())
        .collect();
    print_table(&both);
    for (rival, ours) in rival.iter().zip(ours) {
        print_ratio(rival, ours);
    }
    if let (Some(rival), Some(ours)) = (best(rival), best(ours)) {
        println!(
            "each at its best number of connections ({} and {}): {:.2}",
            ours.connections,
            rival.connections,
            ours.per_second() / rival.per_second()
        );
    }
}

/// What a row of the table shows.
type Figure = fn(&Outcome) -> f64;

fn print_table(all: &[&Rounds]) {
    println!();
    println!(
        "{:30}{}",
        "median of the rounds",
        columns(all, |rounds| rounds.name.to_owned())
    );
    println!(
        "{:30}{}",
        "connections",
        columns(all, |rounds| rounds.connections.to_string())
    );
    let rows: [(&str, usize, Figure); 7] = [
        ("durable commands per second", 0, |o| o.per_second),
        ("p50, ms", 1, |o| o.latencies.percentile_ms(0.5)),
        ("p99, ms", 1, |o| o.latencies.percentile_ms(0.99)),
        ("longest, ms", 1, |o| o.latencies.max_ms()),
        ("failed and repeated", 0, |o| o.failed as f64),
        ("client's processor, us each", 0, |o| o.client_us),
        ("cluster's processor, us each", 0, |o| o.cluster_us),
    ];
    for (name, digits, figure) in rows {
        let row = columns(all, |rounds| format!("{:.digits$}", rounds.median(figure)));
        println!("{name:30}{row}");
    }
    println!();
}

fn columns(all: &[&Rounds], text: impl Fn(&Rounds) -> String) -> String {
    all.iter()
        .map(|rounds| format!("{:>10}", text(rounds)))
        .collect()
}

/// Ratio of the medians, and the range of the ratios of rounds that followed each other.
fn print_ratio(rival: &Rounds, ours: &Rounds) {
    let pairs = rival.outcomes.iter().zip(&ours.outcomes);
    let ratios: Vec<f64> = pairs.map(|(a, b)| b.per_second / a.per_second).collect();
    if ratios.is_empty() {
        return;
    }
    println!(
        "{} connections: {} makes {:.2} times the commands of {} (round by round {:.2} to {:.2})",
        ours.connections,
        ours.name,
        ours.per_second() / rival.per_second(),
        rival.name,
        ratios.iter().copied().fold(f64::INFINITY, f64::min),
        ratios.iter().copied().fold(0.0, f64::max),
    );
}

fn best(all: &[Rounds]) -> Option<&Rounds> {
    all.iter()
        .filter(|rounds| !rounds.outcomes.is_empty())
        .max_by(|a, b| a.per_second().total_cmp(&b.per_second()))
}
