//! What ends the process: signals, and the end of the lifeline.

use anyhow::Context as _;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// A stop that takes longer than this is given up.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Resolves with the reason when the process shall end; a stop that hangs ends it by force.
pub(super) fn end(lifeline: Option<u32>) -> anyhow::Result<oneshot::Receiver<String>> {
    let (sender, receiver) = oneshot::channel();
    let mut terminate = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watching for SIGINT")?;
    let pipe = lifeline.map(watch).transpose()?;
    tokio::spawn(async move {
        let cut = async {
            match pipe {
                Some(pipe) => pipe.await.unwrap_or(()),
                None => std::future::pending().await,
            }
        };
        let reason = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            () = cut => "the process that started this one is gone",
        };
        // The receiver is gone only if the process ends for another reason.
        let _ = sender.send(reason.to_owned());
        tokio::time::sleep(STOP_TIMEOUT).await;
        tracing::error!("stopping took longer than {STOP_TIMEOUT:?}");
        std::process::exit(1);
    });
    Ok(receiver)
}

/// Resolves at the end of file of an inherited pipe.
fn watch(descriptor: u32) -> anyhow::Result<oneshot::Receiver<()>> {
    // Opening the descriptor's own entry gives a handle of ours without taking over a raw number.
    let path = format!("/proc/self/fd/{descriptor}");
    let mut pipe =
        File::open(&path).with_context(|| format!("--lifeline-fd {descriptor}: {path}"))?;
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("evoring-lifeline".to_owned())
        .spawn(move || {
            let mut bytes = [0u8; 64];
            loop {
                match pipe.read(&mut bytes) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            // Nobody waits any more if the process already stops.
            let _ = sender.send(());
        })?;
    Ok(receiver)
}
