//! Requests to a coordinator, tried again while it restarts.
//!
//! CLIENT-1: every request may be sent twice without harm (a submission carries its key), so a
//! lost answer is asked for again.
//! CLIENT-2: a coordinator that came back elsewhere is noticed by its announcement at once, not by
//! the silence of the old connection.

mod access;

pub use access::{Access, Announcement, ClusterFile};

use crate::exit::{Exit, Failure};
use evoring_protocol::client::{ClientReply, ClientRequest};
use evoring_protocol::transport::{Connection, Role, TransportError};
use evoring_protocol::{ErrorCode, RemoteError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How long a command waits for a cluster that does not answer: long enough for a coordinator's
/// restart, shorter than one connection attempt, so that a second one is not made in vain.
pub const SHORT_PATIENCE: Duration = Duration::from_secs(4);
/// How long a command that follows something waits for a cluster that has gone.
pub const LONG_PATIENCE: Duration = Duration::from_secs(60);
/// Pause before the next attempt.
const RETRY: Duration = Duration::from_millis(150);
/// How often the announcement is looked at while something is awaited.
const LOOK: Duration = Duration::from_millis(200);

/// A client of one cluster.
#[derive(Debug)]
pub struct Client {
    access: Access,
    patience: Duration,
    current: Option<Current>,
}

#[derive(Debug, Clone)]
struct Current {
    connection: Connection,
    announced: Option<Announcement>,
}

/// Why one attempt gave nothing.
#[derive(Debug)]
pub enum Setback {
    /// Another attempt may succeed; the failure is for when patience ends.
    Temporary(Failure),
    /// No attempt can succeed.
    Final(Failure),
}

impl Client {
    /// A client that gives a silent cluster `patience` before it fails.
    pub fn new(access: Access, patience: Duration) -> Self {
        Self {
            access,
            patience,
            current: None,
        }
    }

    /// Changes how long a silent cluster is waited for.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Asks for one reply; a refusal is a failure.
    pub async fn ask(&mut self, request: &ClientRequest) -> Result<ClientReply, Failure> {
        let began = Instant::now();
        loop {
            match self.try_ask(request).await {
                Ok(reply) => return Ok(reply),
                Err(setback) => self.wait_or_fail(setback, began).await?,
            }
        }
    }

    /// Asks once, whatever the client's patience. Cancel-safe, as every request is (CLIENT-1).
    pub async fn try_ask(&mut self, request: &ClientRequest) -> Result<ClientReply, Setback> {
        self.open_once(request).await?.next().await?.ok_or_else(|| {
            Setback::Temporary(Failure::new(
                Exit::Unreachable,
                "the coordinator ended the request without an answer",
            ))
        })
    }

    /// Opens a stream of replies. Losses after the first reply are for the caller, who knows where
    /// to go on.
    pub async fn open(&mut self, request: &ClientRequest) -> Result<Replies, Failure> {
        let began = Instant::now();
        loop {
            match self.open_once(request).await {
                Ok(replies) => return Ok(replies),
                Err(setback) => self.wait_or_fail(setback, began).await?,
            }
        }
    }

    /// After a setback: fails if that is final or patience is over, else waits a little.
    pub async fn wait_or_fail(&mut self, setback: Setback, began: Instant) -> Result<(), Failure> {
        match setback {
            Setback::Final(failure) => Err(failure),
            Setback::Temporary(failure) if began.elapsed() >= self.patience => Err(failure),
            Setback::Temporary(_) => {
                tokio::time::sleep(RETRY).await;
                Ok(())
            }
        }
    }

    /// Says goodbye, so that the coordinator need not wait for silence.
    pub async fn close(self) {
        if let Some(current) = self.current {
            current.connection.close_and_wait("done").await;
        }
    }

    async fn open_once(&mut self, request: &ClientRequest) -> Result<Replies, Setback> {
        let current = self.connection().await?;
        let opened = async {
            let (mut sender, receiver) = current.connection.open().await?;
            sender.send(request).await?;
            sender.finish();
            Ok(receiver.into_queue::<ClientReply>(8))
        };
        let access = self.access.clone();
        let queue = tokio::select! {
            biased;
            opened = opened => opened.map_err(|error| self.lost(error)),
            () = moved(&access, current.announced.as_ref()) => Err(self.forget()),
        }?;
        Ok(Replies {
            queue,
            access,
            announced: current.announced,
        })
    }

    /// The connection there is, or a new one.
    async fn connection(&mut self) -> Result<Current, Setback> {
        let announced = self.access.announced();
        if let Some(current) = &self.current
            && current.announced == announced
        {
            return Ok(current.clone());
        }
        self.current = None;
        let unreachable =
            |reason: String| Setback::Temporary(Failure::new(Exit::Unreachable, reason));
        let addresses = self.access.addresses().await.map_err(unreachable)?;
        let mut last = unreachable("no address".to_owned());
        for address in addresses {
            let connected = tokio::select! {
                biased;
                connected = self.access.connector().connect(address, Role::Coordinator) => connected,
                () = moved(&self.access, announced.as_ref()) => {
                    return Err(unreachable(format!("the coordinator at {address} has moved")));
                }
            };
            match connected {
                Ok(connection) => {
                    let current = Current {
                        connection,
                        announced,
                    };
                    self.current = Some(current.clone());
                    return Ok(current);
                }
                Err(error) => last = self.lost(error),
            }
        }
        Err(last)
    }

    fn lost(&mut self, error: TransportError) -> Setback {
        self.current = None;
        setback(&error, self.access.is_announced())
    }

    fn forget(&mut self) -> Setback {
        self.current = None;
        Setback::Temporary(Failure::new(Exit::Unreachable, "the coordinator has moved"))
    }
}

/// Replies of one request, in order.
#[derive(Debug)]
pub struct Replies {
    queue: mpsc::Receiver<Result<ClientReply, TransportError>>,
    access: Access,
    announced: Option<Announcement>,
}

impl Replies {
    /// The next reply; `None` at the end. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<ClientReply>, Setback> {
        let received = tokio::select! {
            biased;
            received = self.queue.recv() => received,
            () = moved(&self.access, self.announced.as_ref()) => {
                return Err(Setback::Temporary(Failure::new(Exit::Unreachable, "the coordinator has moved")));
            }
        };
        match received {
            None => Ok(None),
            Some(Ok(ClientReply::Error(error))) => Err(refusal(&error)),
            Some(Ok(reply)) => Ok(Some(reply)),
            Some(Err(error)) => Err(setback(&error, self.access.is_announced())),
        }
    }
}

/// Waits until another coordinator process is announced; for ever if addresses are listed.
async fn moved(access: &Access, seen: Option<&Announcement>) {
    loop {
        tokio::time::sleep(LOOK).await;
        if access.announced().is_some_and(|now| Some(&now) != seen) {
            return;
        }
    }
}

fn refusal(error: &RemoteError) -> Setback {
    let failure = Failure::refused(error);
    match error.code {
        ErrorCode::NotReady | ErrorCode::Busy => Setback::Temporary(failure),
        _ => Setback::Final(failure),
    }
}

/// While a coordinator is announced, its port may for a moment belong to somebody else.
fn setback(error: &TransportError, is_announced: bool) -> Setback {
    let failure = |exit| Failure::new(exit, error.to_string());
    match error {
        TransportError::OtherCluster { .. }
        | TransportError::ForeignServer { .. }
        | TransportError::WrongRole { .. }
            if is_announced =>
        {
            Setback::Temporary(failure(Exit::Refused))
        }
        TransportError::OtherCluster { .. }
        | TransportError::ForeignServer { .. }
        | TransportError::WrongRole { .. }
        | TransportError::Expired { .. }
        | TransportError::Refused { .. }
        | TransportError::NoCertificate { .. }
        | TransportError::Codec { .. } => Setback::Final(failure(Exit::Refused)),
        TransportError::Identity(_) => Setback::Final(failure(Exit::Usage)),
        _ => Setback::Temporary(failure(Exit::Unreachable)),
    }
}
