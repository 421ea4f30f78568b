//! Reads commands while the main thread computes, so that a stop is seen at once.

use anyhow::Context as _;
use evoring_protocol::codec::read_frame;
use evoring_protocol::executor::ExecutorCommand;
use std::collections::VecDeque;
use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Pieces of work that may wait. The agent hands over one at a time; more than these are a mistake
/// of the agent, which then reads the end of the socket.
const WAITING_TASKS: usize = 16;

/// A piece of work with its stop flag.
pub struct Task {
    /// Its number.
    pub number: u64,
    /// Not [`ExecutorCommand::Stop`].
    pub command: ExecutorCommand,
    /// Set when it is to stop.
    pub stop: Arc<AtomicBool>,
}

/// Starts to read; the receiver ends with the socket.
pub fn open(socket: UnixStream) -> anyhow::Result<Receiver<Task>> {
    let (sender, receiver) = sync_channel(WAITING_TASKS);
    let thread = std::thread::Builder::new().name("inbox".to_owned());
    thread
        .spawn(move || read(socket, &sender))
        .context("start the thread that reads commands")?;
    Ok(receiver)
}

fn read(socket: UnixStream, sender: &SyncSender<Task>) {
    let mut reader = BufReader::new(socket);
    let mut stops = Stops::default();
    loop {
        match read_frame::<ExecutorCommand>(&mut reader) {
            Ok(Some(ExecutorCommand::Stop { task })) => stops.stop(task),
            Ok(Some(command)) => {
                let (ExecutorCommand::RunItems { task, .. }
                | ExecutorCommand::RunRank { task, .. }
                | ExecutorCommand::Stop { task }) = &command;
                let number = *task;
                let task = Task {
                    number,
                    command,
                    stop: stops.add(number),
                };
                if sender.try_send(task).is_err() {
                    eprintln!(
                        "executor: task {number}: {WAITING_TASKS} others are waiting; one is expected"
                    );
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                eprintln!("executor: the agent's commands end: {error}");
                break;
            }
        }
    }
    // Nobody waits for results any more.
    stops.stop_all();
}

/// Stop flags of the pieces of work that may still be running or waiting.
#[derive(Default)]
struct Stops {
    flags: VecDeque<(u64, Arc<AtomicBool>)>,
}

impl Stops {
    fn add(&mut self, task: u64) -> Arc<AtomicBool> {
        // One more than can wait is running; older ones have ended.
        self.flags.truncate(WAITING_TASKS + 1);
        let flag = Arc::new(AtomicBool::new(false));
        self.flags.push_front((task, flag.clone()));
        flag
    }

    /// Sets the flag of one; others are not concerned, and one that has ended does not mind.
    fn stop(&self, task: u64) {
        for (_, flag) in self.flags.iter().filter(|(number, _)| *number == task) {
            flag.store(true, Ordering::Release);
        }
    }

    fn stop_all(&self) {
        self.flags
            .iter()
            .for_each(|(_, flag)| flag.store(true, Ordering::Release));
    }
}
