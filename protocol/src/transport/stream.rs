//! The two halves of a stream: messages in order, each in one frame.

use super::connection::lost;
use super::error::TransportError;
use super::peer::Remote;
use crate::codec::{self, CodecError, HEADER_BYTES, Message};
use quinn::{ReadError, WriteError};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Memory taken for a body before any of it has arrived; the rest is taken as it comes.
const FIRST_BODY_BYTES: usize = 64 << 10;

/// The writing half of a stream. Dropping it ends the stream like [`Sender::finish`].
#[derive(Debug)]
pub struct Sender {
    inner: quinn::SendStream,
    remote: Arc<Remote>,
}

impl Sender {
    pub(super) fn new(inner: quinn::SendStream, remote: Arc<Remote>) -> Self {
        Self { inner, remote }
    }

    /// Sends one message; waits while the other side does not read. That it returns does not
    /// mean that the message has arrived.
    ///
    /// Not cancel-safe: never inside `select!`. Use one task for each stream, or
    /// [`Sender::into_queue`].
    pub async fn send<M: Message>(&mut self, message: &M) -> Result<(), TransportError> {
        let frame = codec::encode(message).map_err(|source| self.codec(source))?;
        self.inner
            .write_all(&frame)
            .await
            .map_err(|e| self.failed(e))
    }

    /// Ends the stream after what was sent; the other side's next `receive` gives `None`.
    pub fn finish(&mut self) {
        // Fails only if it was ended before, which is what we want.
        let _ = self.inner.finish();
    }

    /// Ends the stream and waits until the other side's machine has all of it, so that closing
    /// the connection loses nothing. The program there may not have read it yet.
    pub async fn finish_and_wait(mut self) -> Result<(), TransportError> {
        self.finish();
        match self.inner.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(TransportError::Abandoned {
                remote: self.remote,
            }),
            Err(quinn::StoppedError::ConnectionLost(e)) => Err(lost(&self.remote, e)),
            Err(other) => Err(TransportError::Lost {
                remote: self.remote,
                reason: other.to_string(),
            }),
        }
    }

    /// Starts the one task that writes this stream, and gives a queue of `capacity` messages to
    /// it, for callers that `select!`. The stream is finished when all queue handles are gone;
    /// the task then gives `Ok`. After an error the queue is closed.
    pub fn into_queue<M: Message + Send + Sync + 'static>(
        mut self,
        capacity: usize,
    ) -> (mpsc::Sender<M>, JoinHandle<Result<(), TransportError>>) {
        let (queue, mut messages) = mpsc::channel::<M>(capacity);
        let task = tokio::spawn(async move {
            while let Some(message) = messages.recv().await {
                self.send(&message).await?;
            }
            self.finish();
            Ok(())
        });
        (queue, task)
    }

    fn codec(&self, source: CodecError) -> TransportError {
        TransportError::Codec {
            remote: Arc::clone(&self.remote),
            source,
        }
    }

    fn failed(&self, error: WriteError) -> TransportError {
        match error {
            WriteError::ConnectionLost(e) => lost(&self.remote, e),
            WriteError::Stopped(_) => TransportError::Abandoned {
                remote: Arc::clone(&self.remote),
            },
            other => TransportError::Lost {
                remote: Arc::clone(&self.remote),
                reason: other.to_string(),
            },
        }
    }
}

/// The reading half of a stream. Dropping it tells the other side to stop sending.
#[derive(Debug)]
pub struct Receiver {
    inner: quinn::RecvStream,
    remote: Arc<Remote>,
}

impl Receiver {
    pub(super) fn new(inner: quinn::RecvStream, remote: Arc<Remote>) -> Self {
        Self { inner, remote }
    }

    /// Receives one message; `None` when the other side has finished. The header is checked
    /// before any memory is taken, and memory grows with what arrives. After an error the
    /// stream is of no further use.
    ///
    /// Not cancel-safe: a cancelled call loses the bytes it has read. Never call it inside
    /// `select!`; let one task read each stream, for example by [`Receiver::into_queue`].
    pub async fn receive<M: Message>(&mut self) -> Result<Option<M>, TransportError> {
        let mut header = [0u8; HEADER_BYTES];
        let mut filled = 0;
        while filled < HEADER_BYTES {
            match self
                .inner
                .read(&mut header[filled..])
                .await
                .map_err(|e| self.failed(e))?
            {
                Some(read) => filled += read,
                None if filled == 0 => return Ok(None),
                None => return Err(self.truncated(HEADER_BYTES, filled)),
            }
        }
        let bytes = codec::decode_header::<M>(header).map_err(|source| self.codec(source))?;
        let body = self.body(bytes).await?;
        codec::decode_body(&body)
            .map(Some)
            .map_err(|source| self.codec(source))
    }

    async fn body(&mut self, bytes: usize) -> Result<Vec<u8>, TransportError> {
        let mut body = Vec::with_capacity(bytes.min(FIRST_BODY_BYTES));
        while body.len() < bytes {
            match self
                .inner
                .read_chunk(bytes - body.len(), true)
                .await
                .map_err(|e| self.failed(e))?
            {
                Some(chunk) => body.extend_from_slice(&chunk.bytes),
                None => return Err(self.truncated(bytes, body.len())),
            }
        }
        Ok(body)
    }

    /// Starts the one task that reads this stream, and gives its messages in a queue of
    /// `capacity`, which is safe inside `select!`. The queue ends with the stream, or after the
    /// first error; dropping it ends the task and tells the other side to stop sending.
    pub fn into_queue<M: Message + Send + 'static>(
        mut self,
        capacity: usize,
    ) -> mpsc::Receiver<Result<M, TransportError>> {
        let (messages, queue) = mpsc::channel(capacity);
        tokio::spawn(async move {
            loop {
                // Cancelling `receive` loses nothing here: nobody will read the stream again.
                let received = tokio::select! {
                    biased;
                    () = messages.closed() => return,
                    received = self.receive::<M>() => received,
                };
                let Some(message) = received.transpose() else {
                    return;
                };
                let failed = message.is_err();
                if messages.send(message).await.is_err() || failed {
                    return;
                }
            }
        });
        queue
    }

    fn codec(&self, source: CodecError) -> TransportError {
        TransportError::Codec {
            remote: Arc::clone(&self.remote),
            source,
        }
    }

    fn truncated(&self, expected: usize, got: usize) -> TransportError {
        TransportError::Truncated {
            remote: Arc::clone(&self.remote),
            expected,
            got,
        }
    }

    fn failed(&self, error: ReadError) -> TransportError {
        match error {
            ReadError::ConnectionLost(e) => lost(&self.remote, e),
            ReadError::Reset(_) => TransportError::Abandoned {
                remote: Arc::clone(&self.remote),
            },
            other => TransportError::Lost {
                remote: Arc::clone(&self.remote),
                reason: other.to_string(),
            },
        }
    }
}
