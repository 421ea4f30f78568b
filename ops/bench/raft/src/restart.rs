//! How long a cluster with many ended jobs needs to come back when all of it was killed.

use crate::evoring::{self, Evoring, jobs};
use crate::process::{Scratch, until};
use crate::target::{Cluster, Programs};
use anyhow::{Result, ensure};
use evoring_protocol::JobId;
use std::time::{Duration, Instant};

/// Bound on coming back.
const PATIENCE: Duration = Duration::from_secs(300);
/// Time between two tries to write.
const LOOK: Duration = Duration::from_millis(5);

/// Stores jobs, kills every process, starts them again and times until a write is acknowledged.
pub async fn run(programs: &Programs, scratch: &Scratch, count: u64, times: u32) -> Result<()> {
    let folder = scratch.fresh("evoring-restart")?;
    let mut cluster = Evoring::start(programs, &folder).await?;
    let begin = Instant::now();
    fill(&cluster, count).await?;
    let seconds = begin.elapsed().as_secs_f64();
    println!("{count} jobs submitted and ended in {seconds:.1} s");
    for number in 1..=times {
        cluster.kill_all().await?;
        let begin = Instant::now();
        cluster = Evoring::spawn(programs, &folder)?;
        until("a write after the restart", PATIENCE, LOOK, async || {
            evoring::write_once(&cluster.access()?, JobId(count)).await
        })
        .await?;
        let seconds = begin.elapsed().as_secs_f64();
        check(&cluster, count).await?;
        println!("restart {number}/{times}: a write is acknowledged after {seconds:.2} s");
    }
    cluster.stop().await?;
    scratch.forget(&folder);
    Ok(())
}

async fn fill(cluster: &Evoring, count: u64) -> Result<()> {
    let access = cluster.access()?;
    let mut connections = Vec::new();
    for _ in 0..jobs::CONNECTIONS {
        connections.push(access.leader().await?.0);
    }
    jobs::store_ended(&connections, count).await
}

/// The first and the last job are there and have ended.
async fn check(cluster: &Evoring, count: u64) -> Result<()> {
    let (connection, _) = cluster.access()?.leader().await?;
    for job in [JobId(1), JobId(count)] {
        ensure!(
            jobs::has_ended(&connection, job).await?,
            "job {job} has not ended"
        );
    }
    Ok(())
}
