//! Watches the connections to other members: the end of one means that a member is gone.

use super::CollectiveError;
use super::barrier::abort;
use super::mapping::Header;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// A thread that sleeps until a member goes, and then tells all others through the header.
#[derive(Debug)]
pub struct Watch {
    connections: Arc<Vec<(u32, UnixStream)>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins to watch; without connections there is nothing to do.
    pub fn begin(
        header: Arc<Header>,
        connections: Vec<(u32, UnixStream)>,
    ) -> Result<Self, CollectiveError> {
        let (connections, is_over) = (Arc::new(connections), Arc::new(AtomicBool::new(false)));
        let mut watch = Self {
            connections: connections.clone(),
            is_over: is_over.clone(),
            thread: None,
        };
        if !connections.is_empty() {
            let thread = std::thread::Builder::new().name("gang-watch".to_owned());
            let run = move || {
                if let Some(gone) = wait_for_end(&connections)
                    && !is_over.load(Ordering::Acquire)
                {
                    abort(&header, gone);
                }
            };
            watch.thread = Some(thread.spawn(run).map_err(CollectiveError::io(
                "start the thread that watches the gang",
            ))?);
        }
        Ok(watch)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        for (_, stream) in self.connections.iter() {
            // Also wakes our own thread. It fails if the other side is gone already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sleeps until a connection ends; whose it was.
fn wait_for_end(connections: &[(u32, UnixStream)]) -> Option<u32> {
    loop {
        let mut files: Vec<PollFd<'_>> = connections
            .iter()
            .map(|(_, stream)| PollFd::new(stream, PollFlags::IN))
            .collect();
        match poll(&mut files, None) {
            // Members say nothing here: whatever comes is the end.
            Ok(_) => {
                let ended = files.iter().position(|file| !file.revents().is_empty());
                if let Some(ended) = ended {
                    return connections.get(ended).map(|(rank, _)| *rank);
                }
            }
            Err(Errno::INTR) => {}
            // Nobody can be watched any more; say that the first one is gone, rather than wait for ever.
            Err(_) => return connections.first().map(|(rank, _)| *rank),
        }
    }
}
