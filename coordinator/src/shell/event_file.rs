//! The event file: JSON lines in `events`, numbered across restarts, bounded by rotation into
//! `events.1`. The last [`KEPT`] events are in memory, as many as [`KEPT_BYTES`] hold, which is what
//! both files hold, more or less.
//!
//! Events of log entries carry the entry's index: a replay of the log after a restart gives them
//! again, and those that the file already holds are skipped.

use super::{pages, wall_clock_ms};
use anyhow::Context as _;
use evoring_protocol::event::{Event, EventKind};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// Events of one file; there are at most two files.
const FILE_EVENTS: u64 = 20_000;
/// A file that is larger is full.
const FILE_BYTES: u64 = 64 << 20;
/// Events in memory.
const KEPT: usize = 2 * FILE_EVENTS as usize;
/// Their memory.
const KEPT_BYTES: usize = 64 << 20;
/// A line that is longer than this is damaged.
const LINE_BYTES: u64 = 1 << 20;
/// A file that cannot be written is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Ring {
    lines: VecDeque<Event>,
    /// Memory that they take, more or less.
    bytes: usize,
    next_number: u64,
    /// Entries before this one have all their events in the file of an earlier process …
    replayed_to: u64,
    /// … and this one so many that are still to be skipped.
    skips: u64,
    is_closed: bool,
}

/// What an event takes in memory: its items, and what others said in their own words, decide.
fn memory(event: &Event) -> usize {
    let more = match &event.kind {
        EventKind::LeaseGranted { items, .. } => size_of_val(items.as_slice()),
        EventKind::ItemsRetried { items, reason, .. } => {
            size_of_val(items.as_slice()) + reason.len()
        }
        EventKind::ItemsRecorded { items, .. } => size_of_val(items.as_slice()),
        EventKind::RosterBroken { reason, .. } | EventKind::WorkerLost { reason, .. } => {
            reason.len()
        }
        EventKind::ExecutorExited { status, .. } => status.len(),
        EventKind::JobFailed { error, .. } => error.len(),
        _ => 0,
    };
    size_of::<Event>() + more
}

impl Ring {
    fn push(&mut self, event: Event) {
        self.bytes += memory(&event);
        self.lines.push_back(event);
        while self.lines.len() > KEPT || self.bytes > KEPT_BYTES {
            let Some(oldest) = self.lines.pop_front() else {
                return;
            };
            self.bytes -= memory(&oldest);
        }
    }

    /// Where the event of this number is, or would be.
    fn position(&self, number: u64) -> usize {
        self.lines.partition_point(|line| line.number < number)
    }

    /// Whether the next event of this entry is in the file already.
    fn has(&mut self, index: Option<u64>) -> bool {
        match index {
            Some(index) if index < self.replayed_to => true,
            Some(index) if index == self.replayed_to && self.skips > 0 => {
                self.skips -= 1;
                true
            }
            _ => false,
        }
    }
}

/// A handle on the event file.
#[derive(Debug, Clone)]
pub(super) struct EventFile {
    ring: Arc<Mutex<Ring>>,
    last: watch::Sender<u64>,
    wake: SyncSender<()>,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl EventFile {
    /// Reads what is there and starts the writing thread.
    pub(super) fn open(folder: &Path) -> anyhow::Result<Self> {
        let mut lines: VecDeque<Event> = VecDeque::new();
        read(&old_path(folder), &mut lines)?;
        let in_old = lines.len();
        let good_bytes = read(&path(folder), &mut lines)?;
        let in_current = (lines.len() - in_old) as u64;
        let next_number = lines.back().map_or(1, |line| line.number + 1);
        let replayed_to = lines
            .iter()
            .filter_map(|line| line.entry)
            .max()
            .unwrap_or(0);
        let skips = lines
            .iter()
            .filter(|line| line.entry == Some(replayed_to))
            .count() as u64;
        let mut ring = Ring {
            lines: VecDeque::new(),
            bytes: 0,
            next_number,
            replayed_to,
            skips,
            is_closed: false,
        };
        lines.into_iter().for_each(|line| ring.push(line));
        let ring = Arc::new(Mutex::new(ring));
        let (wake, woken) = sync_channel(1);
        let writer = Writer {
            folder: folder.to_owned(),
            ring: Arc::clone(&ring),
            written: next_number - 1,
            in_current,
            good_bytes,
            file: None,
        };
        let thread = std::thread::Builder::new()
            .name("evoring-events".to_owned())
            .spawn(move || writer.run(&woken))
            .context("starting the thread of the event file")?;
        Ok(Self {
            ring,
            last: watch::Sender::new(next_number - 1),
            wake,
            writer: Arc::new(Mutex::new(Some(thread))),
        })
    }

    /// Appends an event; `index` names the log entry that it comes from. False if the file of an
    /// earlier process has it.
    pub(super) fn append(&self, index: Option<u64>, kind: EventKind) -> bool {
        let time_ms = wall_clock_ms();
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.has(index) {
            return false;
        }
        let number = ring.next_number;
        ring.next_number += 1;
        ring.push(Event {
            number,
            time_ms,
            entry: index,
            kind,
        });
        drop(ring);
        self.last.send_replace(number);
        // A full channel says that the writer is awake already.
        let _ = self.wake.try_send(());
        true
    }

    /// All events.
    pub(super) fn all(&self) -> Vec<Event> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.lines.iter().cloned().collect()
    }

    /// A page of events from number `from` on.
    pub(super) fn page(&self, from: u64) -> Vec<Event> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = ring.lines.range(ring.position(from)..);
        pages::page(lines)
    }

    /// Number of the first event of an entry after this one; the next number if there is none.
    pub(super) fn first_after(&self, entry: u64) -> u64 {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = ring.lines.iter();
        lines
            .find(|line| line.entry.is_some_and(|index| index > entry))
            .map_or(ring.next_number, |line| line.number)
    }

    /// Number of the newest event.
    pub(super) fn last(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    /// Ends the writing thread after what is there is written. The other handles go on in memory.
    pub(super) fn close(self) {
        let thread = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Self { wake, ring, .. } = self;
        // Other handles may exist, so the channel's end does not tell the writer.
        ring.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_closed = true;
        let _ = wake.try_send(());
        drop(wake);
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread of the event file panicked");
        }
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("events")
}

fn old_path(folder: &Path) -> PathBuf {
    folder.join("events.1")
}

/// Reads a file's events; gives the bytes up to the end of the last whole line.
fn read(path: &Path, lines: &mut VecDeque<Event>) -> anyhow::Result<u64> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error).with_context(|| format!("opening {}", path.display())),
    };
    let mut reader = BufReader::new(file);
    let (mut good_bytes, mut number) = (0, 0u64);
    loop {
        let mut text = Vec::new();
        let bytes = std::io::Read::take(&mut reader, LINE_BYTES)
            .read_until(b'\n', &mut text)
            .with_context(|| format!("reading {}", path.display()))?;
        // A line without an end was cut off by a crash; it is written over.
        if bytes == 0 || text.last() != Some(&b'\n') {
            return Ok(good_bytes);
        }
        number += 1;
        good_bytes += bytes as u64;
        match serde_json::from_slice::<Event>(&text) {
            Ok(line) => lines.push_back(line),
            Err(error) => {
                tracing::warn!(file = %path.display(), line = number, %error, "an event cannot be read")
            }
        }
    }
}

struct Writer {
    folder: PathBuf,
    ring: Arc<Mutex<Ring>>,
    /// Number of the last event in the file.
    written: u64,
    in_current: u64,
    /// Where the file's last whole line ends.
    good_bytes: u64,
    file: Option<File>,
}

impl Writer {
    fn run(mut self, woken: &Receiver<()>) {
        let mut has_failed = false;
        loop {
            let is_last = match woken.recv_timeout(if has_failed { RETRY } else { Duration::MAX }) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };
            // Asked before writing: what comes before the end is written.
            let is_closed = self
                .ring
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_closed;
            let outcome = self.write_new();
            match &outcome {
                Err(error) if !has_failed => {
                    tracing::warn!(%error, "events stay in memory until their file can be written");
                }
                Ok(_) if has_failed => tracing::info!("the event file can be written again"),
                _ => {}
            }
            has_failed = outcome.is_err();
            if is_last || is_closed {
                return;
            }
        }
    }

    fn write_new(&mut self) -> std::io::Result<()> {
        let mut text = Vec::new();
        let (mut last, mut count) = (self.written, 0);
        {
            let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
            for line in ring.lines.range(ring.position(self.written + 1)..) {
                serde_json::to_writer(&mut text, line).map_err(std::io::Error::other)?;
                text.push(b'\n');
                last = line.number;
                count += 1;
            }
        }
        if text.is_empty() {
            return Ok(());
        }
        if self.in_current >= FILE_EVENTS || self.good_bytes >= FILE_BYTES {
            self.file = None;
            fs::rename(path(&self.folder), old_path(&self.folder))?;
            (self.in_current, self.good_bytes) = (0, 0);
        }
        if let Err(error) = self.append(&text) {
            // Half a line must not stay: the next attempt begins where the last whole one ended.
            self.file = None;
            return Err(error);
        }
        self.good_bytes += text.len() as u64;
        self.in_current += count;
        self.written = last;
        Ok(())
    }

    fn append(&mut self, text: &[u8]) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let file = OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(path(&self.folder))?;
                file.set_len(self.good_bytes)?;
                let mut file = file;
                std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0))?;
                self.file.insert(file)
            }
        };
        file.write_all(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evoring_protocol::JobId;

    fn ended(job: u64) -> EventKind {
        EventKind::JobFinished { job: JobId(job) }
    }

    fn numbers(file: &EventFile) -> Vec<u64> {
        file.all().iter().map(|event| event.number).collect()
    }

    // Claim: numbers go on after a restart, and events that a replay gives again are not repeated,
    // even if the file was cut off in the middle of an entry's events.
    // Method: write events of entries and others; cut half a line; open and replay.
    #[test]
    fn restart_and_replay() {
        let folder = tempfile::tempdir().unwrap();
        let file = EventFile::open(folder.path()).unwrap();
        file.append(Some(7), ended(1));
        file.append(None, ended(2));
        file.append(Some(8), ended(3));
        file.append(Some(8), ended(4));
        file.close();
        // The process died while it wrote the last line.
        let path = path(folder.path());
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 4);
        fs::write(&path, &text[..text.len() - 5]).unwrap();
        let file = EventFile::open(folder.path()).unwrap();
        assert_eq!(numbers(&file), [1, 2, 3]);
        for (index, job) in [(7, 1), (8, 3), (8, 4), (9, 5)] {
            file.append(Some(index), ended(job));
        }
        let jobs: Vec<EventKind> = file.page(4).into_iter().map(|event| event.kind).collect();
        assert_eq!(jobs, [ended(4), ended(5)]);
        file.close();
        let file = EventFile::open(folder.path()).unwrap();
        assert_eq!(numbers(&file), [1, 2, 3, 4, 5]);
        assert_eq!(*file.last().borrow(), 5);
        file.close();
    }

    // Claim: the files and the memory are bounded, and the newest events stay readable.
    // Method: three times as many events as a file holds, in two processes.
    #[test]
    fn bounded() {
        let folder = tempfile::tempdir().unwrap();
        let file = EventFile::open(folder.path()).unwrap();
        let total = 3 * FILE_EVENTS + 10;
        for job in 1..=total {
            file.append(None, ended(job));
            // The writer takes what is there at once; a pause lets files fill as in real life.
            if job % (FILE_EVENTS / 4) == 0 {
                let began = std::time::Instant::now();
                while !fs::read_to_string(path(folder.path()))
                    .unwrap_or_default()
                    .contains(&format!("\"number\":{job},"))
                {
                    assert!(began.elapsed() < Duration::from_secs(10));
                    std::thread::yield_now();
                }
            }
        }
        file.close();
        let file = EventFile::open(folder.path()).unwrap();
        let kept = numbers(&file);
        assert_eq!(kept.last(), Some(&total));
        assert!(
            (FILE_EVENTS as usize..=KEPT).contains(&kept.len()),
            "{}",
            kept.len()
        );
        assert!(kept.windows(2).all(|pair| pair[1] == pair[0] + 1));
        let page = file.page(total - 3);
        assert_eq!(
            page.iter().map(|event| event.number).collect::<Vec<_>>(),
            [total - 3, total - 2, total - 1, total]
        );
        file.close();
        let count = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(count, 2);
    }

    // Claim: events of many items take a bounded part of the memory and of the disk; the newest stay.
    // Method: twice as many as there is memory for; a file that is as large as one may be, and one more.
    #[test]
    fn events_of_many_items() {
        let event = |number| Event {
            number,
            time_ms: 1,
            entry: None,
            kind: EventKind::ItemsRecorded {
                job: JobId(1),
                demand: evoring_protocol::DemandId(1),
                stage: "search".to_owned(),
                items: (0..4_096).map(evoring_protocol::ItemIndex).collect(),
            },
        };
        let total = 2 * (KEPT_BYTES / memory(&event(1))) as u64;
        let mut ring = Ring {
            lines: VecDeque::new(),
            bytes: 0,
            next_number: total + 1,
            replayed_to: 0,
            skips: 0,
            is_closed: false,
        };
        (1..=total).for_each(|number| ring.push(event(number)));
        let failed = |text: &str| Event {
            kind: EventKind::JobFailed {
                job: JobId(1),
                error: text.to_owned(),
            },
            ..event(1)
        };
        assert_eq!(memory(&failed("twelve bytes")), memory(&failed("")) + 12);
        let counted: usize = ring.lines.iter().map(memory).sum();
        assert_eq!(ring.bytes, counted);
        assert!((KEPT_BYTES / 2..=KEPT_BYTES).contains(&counted));
        assert_eq!(ring.lines.back().map(|line| line.number), Some(total));

        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer {
            folder: folder.path().to_owned(),
            ring: Arc::new(Mutex::new(ring)),
            written: total - 1,
            in_current: 1,
            good_bytes: FILE_BYTES - 1,
            file: None,
        };
        writer.write_new().unwrap();
        assert!(!old_path(folder.path()).exists());
        writer.written -= 1;
        writer.write_new().unwrap();
        assert!(old_path(folder.path()).exists());
    }

    // Claim: a file that cannot be written loses nothing: events stay in memory and are written
    // once it can.
    // Method: a folder in the file's place, removed later.
    #[test]
    fn survives_a_failing_disk() {
        let folder = tempfile::tempdir().unwrap();
        let file = EventFile::open(folder.path()).unwrap();
        fs::create_dir(path(folder.path())).unwrap();
        file.append(None, ended(1));
        assert_eq!(numbers(&file), [1]);
        fs::remove_dir(path(folder.path())).unwrap();
        file.append(None, ended(2));
        file.close();
        let file = EventFile::open(folder.path()).unwrap();
        assert_eq!(numbers(&file), [1, 2]);
        file.close();
    }
}
