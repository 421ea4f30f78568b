//! Executor processes: started, talked to, killed.
//!
//! An executor inherits a socket as descriptor 3 and the read end of a pipe as descriptor 4. The
//! write end of the pipe is close-on-exec and only this process has it: its end of file tells the
//! executor that the agent is gone, however it went.

use super::work::Event;
use command_fds::{CommandFdExt, FdMapping};
use evoring_protocol::SlotIndex;
use evoring_protocol::codec::{read_frame, write_frame};
use evoring_protocol::executor::{ExecutorCommand, ExecutorReport};
use evoring_protocol::numerics::EXECUTOR_ENVIRONMENT;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, PipeReader, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;

/// Lines of an executor's standard error that are kept for reports.
const KEPT_LINES: usize = 20;
/// Bytes of one such line.
const LINE_BYTES: u64 = 500;
/// How long the last lines of a dead executor are waited for: a process that it started may hold
/// its standard error open for ever.
const LAST_LINES_TIME: Duration = Duration::from_secs(1);

/// What executors need to start.
#[derive(Debug)]
pub struct Executors {
    program: PathBuf,
    scratch: PathBuf,
    lifeline: PipeReader,
    events: mpsc::Sender<Event>,
    slots: Vec<Option<Handle>>,
}

/// One executor; it may have ended by now.
#[derive(Debug)]
struct Handle {
    process: u32,
    /// Knows whether the process was waited for: its number may be another one's afterwards.
    child: Arc<Mutex<Child>>,
    commands: std::sync::mpsc::Sender<ExecutorCommand>,
    attendant: JoinHandle<()>,
}

/// Folder for the files of one slot's executor.
pub fn scratch_folder(scratch: &Path, slot: SlotIndex) -> PathBuf {
    scratch.join(format!("slot-{slot}"))
}

impl Executors {
    /// For `slots` slots; `program` is the executor's binary.
    pub fn new(
        program: PathBuf,
        scratch: PathBuf,
        slots: u32,
        lifeline: PipeReader,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self {
            program,
            scratch,
            lifeline,
            events,
            slots: (0..slots).map(|_| None).collect(),
        }
    }

    /// Starts the executor of a slot, and gives the event of its start; its end, or the failure to
    /// start, comes as an event later. With a pause, [`Event::RestartDue`] comes instead.
    pub fn start(&mut self, slot: SlotIndex, wait: Duration) -> Option<Event> {
        let (commands, inbox) = std::sync::mpsc::channel();
        let Ok(lifeline) = self.lifeline.try_clone() else {
            self.not_started(slot, "no descriptor is free");
            return None;
        };
        let launch = Launch {
            program: self.program.clone(),
            scratch: scratch_folder(&self.scratch, slot),
            slot,
            lifeline,
            events: self.events.clone(),
        };
        if wait.is_zero() {
            match launch.spawn() {
                Ok((child, socket)) => {
                    let process = child.id();
                    let child = Arc::new(Mutex::new(child));
                    let attendant = launch.attend(process, Arc::clone(&child), socket, inbox);
                    if let Some(place) = self.slots.get_mut(slot.0 as usize) {
                        *place = Some(Handle {
                            process,
                            child,
                            commands,
                            attendant,
                        });
                    }
                    return Some(Event::ExecutorStarted { slot, process });
                }
                Err(error) => {
                    let message = format!("{} cannot be started: {error}", self.program.display());
                    self.not_started(slot, &message);
                }
            }
        } else {
            // The pause ends with an event that brings us back here without one.
            let events = self.events.clone();
            tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                let _ = events.send(Event::RestartDue { slot }).await;
            });
        }
        None
    }

    fn not_started(&self, slot: SlotIndex, message: &str) {
        let (events, message) = (self.events.clone(), message.to_owned());
        tokio::spawn(async move {
            let event = Event::ExecutorExited {
                slot,
                process: 0,
                status: message,
                last_lines: String::new(),
            };
            let _ = events.send(event).await;
        });
    }

    /// Sends a command to the slot's executor if it still is `process` (any, if `None`).
    pub fn send(&self, slot: SlotIndex, process: Option<u32>, command: ExecutorCommand) {
        if let Some(Some(handle)) = self.slots.get(slot.0 as usize)
            && process.is_none_or(|process| process == handle.process)
        {
            // A dead executor's end is on its way as an event.
            let _ = handle.commands.send(command);
        }
    }

    /// Kills the slot's executor.
    pub fn kill(&self, slot: SlotIndex) {
        if let Some(Some(handle)) = self.slots.get(slot.0 as usize) {
            // Does nothing to a process that was waited for.
            let _ = handle
                .child
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .kill();
        }
    }

    /// Kills all executors and waits until they are gone. To be called when nobody takes events
    /// any more: the attendants would wait for room in the queue.
    pub fn kill_all(&mut self) {
        (0..self.slots.len() as u32).for_each(|slot| self.kill(SlotIndex(slot)));
        for handle in self.slots.iter_mut().filter_map(Option::take) {
            // A panic of an attendant is in the log already.
            let _ = handle.attendant.join();
        }
    }
}

/// One start of an executor.
struct Launch {
    program: PathBuf,
    scratch: PathBuf,
    slot: SlotIndex,
    lifeline: PipeReader,
    events: mpsc::Sender<Event>,
}

impl Launch {
    fn spawn(&self) -> std::io::Result<(Child, UnixStream)> {
        // Leftovers of an executor that died are of no use to anybody.
        let _ = std::fs::remove_dir_all(&self.scratch);
        std::fs::create_dir_all(&self.scratch)?;
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(&self.program);
        command
            .args(["--slot", &self.slot.to_string(), "--scratch"])
            .arg(&self.scratch);
        command
            .envs(EXECUTOR_ENVIRONMENT)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mappings = vec![
            FdMapping {
                parent_fd: OwnedFd::from(theirs),
                child_fd: 3,
            },
            FdMapping {
                parent_fd: OwnedFd::from(self.lifeline.try_clone()?),
                child_fd: 4,
            },
        ];
        command
            .fd_mappings(mappings)
            .map_err(std::io::Error::other)?;
        Ok((command.spawn()?, ours))
    }

    /// Starts the threads that write commands, read reports, keep the last lines and wait for the
    /// end. They end with the executor; the one that keeps the lines with whoever writes them.
    fn attend(
        self,
        process: u32,
        child: Arc<Mutex<Child>>,
        socket: UnixStream,
        inbox: std::sync::mpsc::Receiver<ExecutorCommand>,
    ) -> JoinHandle<()> {
        let (slot, events) = (self.slot, self.events);
        let writer = socket.try_clone();
        std::thread::spawn(move || {
            let Ok(mut writer) = writer else { return };
            while let Ok(command) = inbox.recv() {
                if write_frame(&mut writer, &command).is_err() {
                    return;
                }
            }
        });
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let errors = child
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stderr
            .take();
        let kept = Arc::clone(&lines);
        let (all_read, end_of_lines) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            // Dropped at the end, however it comes.
            let _all_read = all_read;
            if let Some(errors) = errors {
                keep_lines(BufReader::new(errors), &kept);
            }
        });
        std::thread::spawn(move || {
            let mut reader = BufReader::new(socket);
            while let Ok(Some(report)) = read_frame::<ExecutorReport>(&mut reader) {
                if events
                    .blocking_send(Event::Report { slot, report })
                    .is_err()
                {
                    break;
                }
            }
            // The socket is closed or holds nonsense: the executor is of no more use.
            let status = end(&child).map_or_else(|e| e.to_string(), |status| status.to_string());
            // Both the end of the lines and of the time end the wait.
            let _ = end_of_lines.recv_timeout(LAST_LINES_TIME);
            let last_lines = lines
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .cloned()
                .collect::<Vec<String>>();
            let event = Event::ExecutorExited {
                slot,
                process,
                status,
                last_lines: last_lines.join("\n"),
            };
            let _ = events.blocking_send(event);
        })
    }
}

/// Kills and waits for a child. The lock is held only for moments in which nothing blocks but a
/// process that is being killed.
fn end(child: &Mutex<Child>) -> std::io::Result<ExitStatus> {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    child.kill()?;
    child.wait()
}

/// Copies lines to our own standard error and keeps the last ones.
fn keep_lines(mut reader: impl BufRead, kept: &Mutex<VecDeque<String>>) {
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        // A longer line is cut into several: what an executor says has no bound of its own.
        match reader
            .by_ref()
            .take(LINE_BYTES)
            .read_until(b'\n', &mut bytes)
        {
            Ok(1..) => {}
            _ => return,
        }
        let line =
            String::from_utf8_lossy(bytes.strip_suffix(b"\n").unwrap_or(&bytes)).into_owned();
        eprintln!("{line}");
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back(line);
        if kept.len() > KEPT_LINES {
            kept.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Instant;

    /// Claim: the death of an executor is told, with its status and its last lines, also while a
    /// process that it started holds its standard error open.
    /// Method: a script in the executor's place that leaves such a process behind.
    #[test]
    fn a_death_is_told_despite_a_grandchild() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("executor");
        let script = "#!/bin/sh\nsleep 600 3>&- 4>&- &\necho $! > \"$4/grandchild\"\necho last words >&2\nexit 3\n";
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let (lifeline, _keep_alive) = std::io::pipe().unwrap();
        let (events, mut inbox) = mpsc::channel(16);
        let scratch = folder.path().join("scratch");
        let mut executors = Executors::new(program, scratch.clone(), 1, lifeline, events);
        let started = executors.start(SlotIndex(0), Duration::ZERO);
        assert!(matches!(started, Some(Event::ExecutorStarted { .. })));
        let begin = Instant::now();
        let event = loop {
            match inbox.try_recv() {
                Ok(event) => break Some(event),
                Err(_) if begin.elapsed() > Duration::from_secs(60) => break None,
                Err(_) => std::thread::yield_now(),
            }
        };
        let path = scratch_folder(&scratch, SlotIndex(0)).join("grandchild");
        let grandchild = std::fs::read_to_string(path).unwrap();
        let grandchild = rustix::process::Pid::from_raw(grandchild.trim().parse().unwrap());
        rustix::process::kill_process(grandchild.unwrap(), rustix::process::Signal::KILL).unwrap();
        let Some(Event::ExecutorExited {
            status, last_lines, ..
        }) = event
        else {
            panic!("the death is not told: {event:?}")
        };
        assert!(status.contains('3'), "{status}");
        assert_eq!(last_lines, "last words");
        executors.kill_all();
    }
}
