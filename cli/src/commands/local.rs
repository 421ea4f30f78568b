//! `evoring local`: a cluster in the foreground.

use super::Context;
use super::signals::Signals;
use crate::args::LocalArgs;
use crate::exit::{Exit, Failure};
use crate::local::registry::{Starter, fresh_folder, register_if_possible, state_folder};
use crate::local::{Binaries, ChildEvent, Folder, LocalCluster, Size, Stop};
use crate::output::{print, print_json, say};
use std::path::Path;

/// Runs until a signal, or until a process dies too often.
pub(super) async fn local(context: &Context, arguments: LocalArgs) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let binaries = Binaries::beside_this_program()?;
    let state = state_folder();
    let (root, is_fresh) = match &arguments.cluster.dir {
        Some(dir) => (dir.clone(), false),
        None => (
            fresh_folder(state.as_ref().map_err(Clone::clone)?, Starter::Local),
            true,
        ),
    };
    let size = Size {
        workers: arguments.cluster.workers,
        slots_per_worker: arguments.cluster.slots_per_worker,
    };
    let mut cluster = LocalCluster::start(&binaries, Folder::open(&root)?, size)?;
    let file = cluster.folder().cluster_file();
    let registration = register_if_possible(state, &file, Starter::Local);
    announce(context, &file, size)?;
    let outcome = loop {
        tokio::select! {
            biased;
            exit = signals.next() => break Ok(exit),
            event = cluster.next_event() => match event {
                ChildEvent::Started { name, process } => say(format_args!("evoring: {name} runs as process {process}")),
                ChildEvent::Died { name, status } => say(format_args!("evoring: {name} ended ({status}), starting it again")),
                ChildEvent::GaveUp { message } => break Err(Failure::new(Exit::Unreachable, message)),
            }
        }
    };
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

fn announce(context: &Context, file: &Path, size: Size) -> Result<(), Failure> {
    if context.style.json {
        return print_json(
            &serde_json::json!({ "cluster": file, "workers": size.workers, "slots_per_worker": size.slots_per_worker }),
        );
    }
    print(&format!(
        "cluster file: {}\nother commands find this cluster by themselves, or with --cluster; Ctrl-C stops it\n",
        file.display()
    ))
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
