//! What waits for one coordinator.

use super::link::Outgoing;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;

/// Messages that wait for one coordinator; more are dropped, as a network may.
const MESSAGES: usize = 1_024;
/// Bytes of those messages. Raft sends a follower up to 256 messages of 1 MiB ahead; a slow one
/// gets what is dropped again once it has taken the rest.
const BYTES: usize = 32 << 20;

/// The end into which messages are put.
#[derive(Debug)]
pub(super) struct Queue {
    sender: mpsc::Sender<Outgoing>,
    waiting_bytes: Arc<AtomicUsize>,
}

/// The end from which they are taken.
pub(super) struct Waiting {
    receiver: mpsc::Receiver<Outgoing>,
    waiting_bytes: Arc<AtomicUsize>,
}

pub(super) fn queue() -> (Queue, Waiting) {
    let (sender, receiver) = mpsc::channel(MESSAGES);
    let waiting_bytes = Arc::<AtomicUsize>::default();
    let queue = Queue {
        sender,
        waiting_bytes: Arc::clone(&waiting_bytes),
    };
    let waiting = Waiting {
        receiver,
        waiting_bytes,
    };
    (queue, waiting)
}

/// A snapshot counts nothing: Raft sends a follower one at a time, however large it is.
fn counted_bytes(outgoing: &Outgoing) -> usize {
    match outgoing {
        Outgoing::Raft(message) => message.len(),
        Outgoing::Snapshot { .. } => 0,
    }
}

impl Queue {
    /// Whether there is room for it. A message that is alone always has room.
    pub(super) fn send(&self, outgoing: Outgoing) -> bool {
        let bytes = counted_bytes(&outgoing);
        let before = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let has_room = bytes == 0 || before == 0 || before + bytes <= BYTES;
        let is_sent = has_room && self.sender.try_send(outgoing).is_ok();
        if !is_sent {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        is_sent
    }
}

impl Waiting {
    /// The next message, as soon as there is one; none once nobody can send any more. Loses nothing
    /// if it is cancelled.
    pub(super) async fn recv(&mut self) -> Option<Outgoing> {
        let outgoing = self.receiver.recv().await?;
        Some(self.taken(outgoing))
    }

    /// The next message, if there is one.
    pub(super) fn try_recv(&mut self) -> Option<Outgoing> {
        let outgoing = self.receiver.try_recv().ok()?;
        Some(self.taken(outgoing))
    }

    fn taken(&self, outgoing: Outgoing) -> Outgoing {
        let bytes = counted_bytes(&outgoing);
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        outgoing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raft(bytes: usize) -> Outgoing {
        Outgoing::Raft(vec![1; bytes])
    }

    /// Claim: a coordinator that reads nothing costs a bounded number of bytes and of messages; what
    /// is taken makes room; a snapshot is not kept out.
    /// Method: fill the queue with large messages, then with small ones.
    #[test]
    fn bytes_and_messages_are_bounded() {
        let (queue, mut waiting) = queue();
        assert!(queue.send(raft(BYTES + 1)), "one alone");
        assert!(!queue.send(raft(1)));
        assert!(waiting.try_recv().is_some());
        let large = (0..).take_while(|_| queue.send(raft(1 << 20))).count();
        assert_eq!(large, BYTES >> 20);
        let (message, state) = (Vec::new(), vec![1; 9]);
        assert!(queue.send(Outgoing::Snapshot { message, state }));
        assert!(!queue.send(raft(1)));
        assert!(waiting.try_recv().is_some());
        assert!(queue.send(raft(1 << 20)));
        while waiting.try_recv().is_some() {}
        let small = (0..).take_while(|_| queue.send(raft(1))).count();
        assert_eq!(small, MESSAGES);
    }
}
