//! Writes that wait for the disk, in order: those that may share a transaction do.

use super::LogWrite;
use std::collections::VecDeque;

/// Writes share a transaction up to this size; one that is larger is alone.
pub const TRANSACTION_BYTES: usize = 8 << 20;

/// The queue. Each write has a token, which grows.
#[derive(Debug, Default)]
pub struct WriteQueue(VecDeque<(u64, LogWrite)>);

impl WriteQueue {
    /// Adds a write.
    pub fn push(&mut self, token: u64, write: LogWrite) {
        self.0.push_back((token, write));
    }

    /// Joins the writes at the front into one, under the token of the last: that it is durable says so
    /// of those before it. Gives it, if any write waits.
    pub fn join(&mut self) -> Option<&(u64, LogWrite)> {
        let (mut token, mut joined) = self.0.pop_front()?;
        let mut bytes = joined.bytes();
        while let Some((next, write)) = self.0.pop_front() {
            bytes += write.bytes();
            if bytes > TRANSACTION_BYTES || !joined.takes(&write) {
                self.0.push_front((next, write));
                break;
            }
            joined.join(write);
            token = next;
        }
        self.0.push_front((token, joined));
        self.0.front()
    }

    /// The write at the front, as it is: one that failed is not joined with others before it is
    /// repeated.
    pub fn first(&self) -> Option<&(u64, LogWrite)> {
        self.0.front()
    }

    /// Takes the write at the front out.
    pub fn pop(&mut self) -> Option<(u64, LogWrite)> {
        self.0.pop_front()
    }

    /// Writes that wait.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
