//! `evoring local`: a cluster in the foreground.

use super::Context;
use super::signals::Signals;
use super::start::{Patience, form_group};
use crate::args::LocalArgs;
use crate::client::{Client, LONG_PATIENCE};
use crate::exit::{Exit, Failure};
use crate::local::registry::{Starter, fresh_folder, register_if_possible, state_folder};
use crate::local::{
    Binaries, ClusterEvent, Folder, LocalCluster, LocalCoordinator, Size, Stop, group,
};
use crate::output::{print, print_json, say};
use std::path::Path;

/// Runs until a signal, or until a process dies too often.
pub(super) async fn local(context: &Context, arguments: LocalArgs) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let binaries = Binaries::beside_this_program(arguments.cluster.workers)?;
    let state = state_folder();
    let (root, is_fresh) = match &arguments.cluster.dir {
        Some(dir) => (dir.clone(), false),
        None => (
            fresh_folder(state.as_ref().map_err(Clone::clone)?, Starter::Local),
            true,
        ),
    };
    let size = arguments.cluster.size();
    let mut cluster = LocalCluster::start(&binaries, Folder::open(&root)?, size)?;
    let file = cluster.folder().cluster_file();
    let registration = register_if_possible(state, &file, Starter::Local);
    let outcome = attend(context, &mut cluster, &mut signals, size).await;
    stop(&mut cluster, &mut signals).await;
    drop(registration);
    if is_fresh {
        say(format_args!(
            "evoring: the cluster's folder stays: {} (go on with `evoring local --dir` and this folder, or delete it)",
            root.display()
        ));
    }
    // Ctrl-C is the documented way to end this command.
    outcome.map(|exit| {
        if exit == Exit::Interrupted {
            Exit::Ok
        } else {
            exit
        }
    })
}

/// Makes the coordinators a group, says that the cluster is up, and watches it until a signal comes or
/// it cannot go on.
async fn attend(
    context: &Context,
    cluster: &mut LocalCluster,
    signals: &mut Signals,
    size: Size,
) -> Result<Exit, Failure> {
    let file = cluster.folder().cluster_file();
    let coordinators = cluster.coordinators().to_vec();
    let mut client = Client::new(cluster.access()?, LONG_PATIENCE);
    let note = |text: &str| say(format_args!("evoring: {text}"));
    let forming = form_group(&mut client, &coordinators, Patience::default(), note);
    let mut forming = std::pin::pin!(forming);
    let mut is_formed = false;
    loop {
        tokio::select! {
            biased;
            exit = signals.next() => return Ok(exit),
            event = cluster.next_event() => match event {
                ClusterEvent::Child(event) => say(format_args!("evoring: {event}")),
                ClusterEvent::Lost { message } => say(format_args!("evoring: {message}")),
                ClusterEvent::Broken { message } => return Err(Failure::new(Exit::Unreachable, message)),
            },
            formed = &mut forming, if !is_formed => {
                formed?;
                is_formed = true;
                announce(context, &file, &coordinators, size)?;
            }
        }
    }
}

fn announce(
    context: &Context,
    file: &Path,
    coordinators: &[LocalCoordinator],
    size: Size,
) -> Result<(), Failure> {
    if context.style.json {
        return print_json(&serde_json::json!({
            "cluster": file, "workers": size.workers, "slots_per_worker": size.slots_per_worker,
            "coordinators": coordinators.len(),
        }));
    }
    let mut text = format!("cluster file: {}\n", file.display());
    if coordinators.len() > 1 {
        let names = coordinators.iter().map(|one| match group::announced(one) {
            Some(address) => format!("{} at {address}", one.name),
            None => format!("{} (not running)", one.name),
        });
        let names: Vec<String> = names.collect();
        text.push_str(&format!("coordinators: {}\n", names.join(", ")));
    }
    text.push_str(
        "other commands find this cluster by themselves, or with --cluster; Ctrl-C stops it\n",
    );
    print(&text)
}

/// Stops every process; a second signal kills.
pub(super) async fn stop(cluster: &mut LocalCluster, signals: &mut Signals) {
    cluster.request_stop(Stop::Gently);
    tokio::select! {
        () = cluster.wait_stopped() => return,
        _ = signals.next() => {}
    }
    cluster.request_stop(Stop::Now);
    cluster.wait_stopped().await;
}
