//! The two file descriptors that the agent passes on.
#![expect(
    unsafe_code,
    reason = "only the kernel knows which descriptors a process has inherited"
)]

use anyhow::Context as _;
use rustix::fs::{FileType, fstat};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// Connected to the agent: frames.
const SOCKET: RawFd = 3;
/// Read end of a pipe that the agent holds open.
const LIFELINE: RawFd = 4;

/// Takes both over; to be called once, first of all.
pub fn take() -> anyhow::Result<(OwnedFd, OwnedFd)> {
    let socket = take_one(SOCKET, FileType::Socket, "the socket to the agent")?;
    Ok((socket, take_one(LIFELINE, FileType::Fifo, "the lifeline")?))
}

fn take_one(number: RawFd, kind: FileType, what: &str) -> anyhow::Result<OwnedFd> {
    let hint =
        || format!("file descriptor {number}, {what}: only `evoring-worker` starts executors");
    // SAFETY: borrowed for calls that fail if the descriptor is not open.
    let file = unsafe { BorrowedFd::borrow_raw(number) };
    let status = fstat(file).with_context(hint)?;
    let found = FileType::from_raw_mode(status.st_mode);
    // Others leave descriptors open as well: make, for one, its pipe of job tokens.
    anyhow::ensure!(
        found == kind,
        "{}: expected {kind:?}, found {found:?}",
        hint()
    );
    fcntl_getfd(file)
        .and_then(|flags| fcntl_setfd(file, flags | FdFlags::CLOEXEC))
        .with_context(hint)?;
    // SAFETY: open, as just checked, and nobody else in this process owns it: `take` is called once,
    // before any other file is opened.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
