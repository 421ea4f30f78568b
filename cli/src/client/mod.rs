//! Requests to the coordinator that leads, tried again while it restarts or another takes over.
//!
//! CLIENT-1: every request but [`Client::ask_unrepeated`]'s may be sent twice without harm (a
//! submission carries its key), so a lost answer is asked for again.
//! CLIENT-2: a coordinator that came back elsewhere is noticed by its announcement at once, not by
//! the silence of the old connection.
//! CLIENT-3: which coordinator leads is the client's affair: one that does not is left for the one
//! that it names, else for the next, and nobody is told.
//! CLIENT-4: one that is merely silent is asked on, beside another that leads (`beside.rs`).

mod access;
mod beside;
mod group;
mod setback;

pub use access::{Access, ClusterFile};
pub use group::{is_told_by_leader, leader};
pub use setback::Setback;

use crate::exit::{Exit, Failure};
use access::Announcements;
use evoring_protocol::client::{ClientReply, ClientRequest};
use evoring_protocol::transport::{
    Announcement, CONNECT_TIMEOUT, Connection, Role, Search, TransportError, look_up,
};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How long a command waits for a cluster that does not answer: long enough for a coordinator's
/// restart, shorter than one connection attempt, so that a second one is not made in vain.
pub const SHORT_PATIENCE: Duration = Duration::from_secs(4);
/// How long a command that follows something waits for a cluster that has gone.
pub const LONG_PATIENCE: Duration = Duration::from_secs(60);
/// At least this long a group is waited for: an election takes one or two seconds, more on a busy
/// machine, and a stream's frozen leader is noticed after three.
const GROUP_PATIENCE: Duration = Duration::from_secs(10);
/// A coordinator for which there are others is given up after this.
const GROUP_CONNECT: Duration = Duration::from_secs(2);
/// Pause before the next attempt …
const RETRY: Duration = Duration::from_millis(150);
/// … but for the first ones, which come as fast as an election that takes half a second deserves.
const FIRST_RETRY: Duration = Duration::from_millis(40);
const FIRST_RETRIES: u32 = 15;
/// How often the announcement is looked at while something is awaited.
const LOOK: Duration = Duration::from_millis(200);

/// A client of one cluster.
#[derive(Debug)]
pub struct Client {
    access: Access,
    patience: Duration,
    current: Option<Current>,
    search: Search,
    /// The next attempt needs no pause.
    at_once: bool,
    /// Since somebody answered last.
    setbacks: u32,
}

#[derive(Debug, Clone)]
struct Current {
    connection: Connection,
    seen: Seen,
}

/// Whose announcement led to a connection, and what it said; `None` if no announcement did.
type Seen = Option<(usize, Announcement)>;

impl Client {
    /// A client that gives a silent cluster `patience` before it fails.
    pub fn new(access: Access, patience: Duration) -> Self {
        Self {
            access,
            patience,
            current: None,
            search: Search::default(),
            at_once: false,
            setbacks: 0,
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

    /// Asks once, whatever the client's patience; a setback must be [heeded](Client::heed).
    /// Cancel-safe, as every request is (CLIENT-1).
    pub async fn try_ask(&mut self, request: &ClientRequest) -> Result<ClientReply, Setback> {
        let current = self.connection().await?;
        let access = self.access.clone();
        let asked = current.clone();
        let (current, answer) = tokio::select! {
            biased;
            answer = self.ask_on(current, request) => return answer,
            answered = beside::ask_beside(&access, &asked, request) => answered,
        };
        self.current = Some(current);
        if answer.is_ok() {
            self.found();
        }
        answer
    }

    async fn ask_on(
        &mut self,
        current: Current,
        request: &ClientRequest,
    ) -> Result<ClientReply, Setback> {
        let mut replies = self.open_on(current, request).await?;
        let reply = replies.first().await?;
        self.found();
        Ok(reply)
    }

    fn found(&mut self) {
        self.search.found();
        self.setbacks = 0;
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

    /// After a setback: fails if that is final or patience is over, else waits a little, or not at
    /// all where another coordinator can be asked.
    pub async fn wait_or_fail(&mut self, setback: Setback, began: Instant) -> Result<(), Failure> {
        let patience = match self.access.is_group() {
            true => self.patience.max(GROUP_PATIENCE),
            false => self.patience,
        };
        if matches!(setback, Setback::Final(_)) || began.elapsed() >= patience {
            return Err(setback.into_failure());
        }
        tokio::time::sleep(self.heed(&setback).await).await;
        Ok(())
    }

    /// Learns from a setback where to ask next, and how long to wait before.
    pub async fn heed(&mut self, setback: &Setback) -> Duration {
        if let Setback::Elsewhere { asked, leader } = setback {
            let hinted = match leader {
                // A name that means nothing here is no help, and the others are asked.
                Some(leader) => look_up(&leader.address).await.unwrap_or_default(),
                None => Vec::new(),
            };
            self.leave(*asked, hinted);
        }
        self.leave_lost();
        self.setbacks = self.setbacks.saturating_add(1);
        match std::mem::take(&mut self.at_once) {
            true => Duration::ZERO,
            false if self.setbacks <= FIRST_RETRIES => FIRST_RETRY,
            false => RETRY,
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
        self.open_on(current, request).await
    }

    async fn open_on(
        &mut self,
        current: Current,
        request: &ClientRequest,
    ) -> Result<Replies, Setback> {
        let access = self.access.clone();
        let seen = current.seen.clone();
        tokio::select! {
            biased;
            opened = Replies::open(access.clone(), current, request) => {
                opened.map_err(|error| self.lost(&error))
            }
            () = moved(&access, &seen) => Err(has_moved()),
        }
    }

    /// The connection there is, or a new one to the most likely leader that answers.
    async fn connection(&mut self) -> Result<Current, Setback> {
        self.leave_lost();
        if let Some(current) = &self.current {
            return Ok(current.clone());
        }
        let announced = self.access.announced();
        let known = self.access.addresses(&announced).await;
        let order = self.search.order(&known.map_err(Setback::unreachable)?);
        let limit = match self.access.is_group() {
            true => GROUP_CONNECT,
            false => CONNECT_TIMEOUT,
        };
        let connector = self.access.connector();
        let connected = tokio::select! {
            biased;
            connected = connector.connect_first(limit, &order, Role::Coordinator) => connected,
            () = changed(&self.access, &announced) => return Err(has_moved()),
        };
        match connected {
            Ok(connection) => {
                let current = Current {
                    seen: seen(announced, connection.remote_address()),
                    connection,
                };
                Ok(self.current.insert(current).clone())
            }
            Err(failures) => {
                self.search.nobody();
                Err(Setback::of_all(&failures, self.access.is_announced()))
            }
        }
    }

    /// Where the client is connected to.
    fn address(&self) -> Option<SocketAddr> {
        let current = self.current.as_ref()?;
        Some(current.connection.remote_address())
    }

    fn lost(&mut self, error: &TransportError) -> Setback {
        if let Some(address) = self.address() {
            self.leave(address, Vec::new());
        }
        Setback::of_transport(error, self.access.is_announced())
    }

    /// Gives up a connection that has ended, or whose other side has moved.
    fn leave_lost(&mut self) {
        let is_lost = self.current.as_ref().is_some_and(|current| {
            current.connection.is_closed() || is_moved(&self.access, &current.seen)
        });
        if let Some(address) = self.address().filter(|_| is_lost) {
            self.leave(address, Vec::new());
        }
    }

    /// Looks for the leader elsewhere than at `left`.
    fn leave(&mut self, left: SocketAddr, hinted: Vec<SocketAddr>) {
        if self.address() == Some(left) {
            self.current = None;
        }
        let known = self.access.coordinators();
        self.at_once = self.search.elsewhere(left, hinted, known);
    }
}

/// Replies of one request, in order.
#[derive(Debug)]
pub struct Replies {
    queue: mpsc::Receiver<Result<ClientReply, TransportError>>,
    access: Access,
    current: Current,
}

impl Replies {
    async fn open(
        access: Access,
        current: Current,
        request: &ClientRequest,
    ) -> Result<Self, TransportError> {
        let (mut sender, receiver) = current.connection.open().await?;
        sender.send(request).await?;
        sender.finish();
        Ok(Self {
            queue: receiver.into_queue::<ClientReply>(8),
            access,
            current,
        })
    }

    /// The first reply, which every request has.
    async fn first(&mut self) -> Result<ClientReply, Setback> {
        self.next().await?.ok_or_else(|| {
            Setback::unreachable("the coordinator ended the request without an answer")
        })
    }

    /// The next reply; `None` at the end. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<ClientReply>, Setback> {
        let received = tokio::select! {
            biased;
            received = self.queue.recv() => received,
            () = moved(&self.access, &self.current.seen) => return Err(has_moved()),
        };
        match received {
            None => Ok(None),
            Some(Ok(ClientReply::Error(error))) => {
                Err(Setback::refused(&error, self.access.is_group()))
            }
            Some(Ok(ClientReply::NotLeader { leader })) => Err(Setback::Elsewhere {
                asked: self.current.connection.remote_address(),
                leader,
            }),
            Some(Ok(reply)) => Ok(Some(reply)),
            Some(Err(error)) => Err(Setback::of_transport(&error, self.access.is_announced())),
        }
    }
}

fn has_moved() -> Setback {
    Setback::Temporary(Failure::new(Exit::Unreachable, "the coordinator has moved"))
}

/// The announcement that names `address`.
fn seen(announced: Announcements, address: SocketAddr) -> Seen {
    let mut numbered = announced.into_iter().enumerate();
    numbered.find_map(|(index, announcement)| {
        let announcement = announcement.filter(|announcement| announcement.listen == address)?;
        Some((index, announcement))
    })
}

/// Whether another process, or another address, is announced than the one connected to.
fn is_moved(access: &Access, seen: &Seen) -> bool {
    seen.as_ref()
        .is_some_and(|(index, seen)| access.announced_at(*index).is_some_and(|now| now != *seen))
}

/// Waits until it is; for ever if the address was not announced.
async fn moved(access: &Access, seen: &Seen) {
    while !is_moved(access, seen) {
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until any coordinator announces something else.
async fn changed(access: &Access, announced: &Announcements) {
    loop {
        tokio::time::sleep(LOOK).await;
        let mut pairs = access.announced().into_iter().zip(announced);
        if pairs.any(|(now, before)| now.is_some() && now != *before) {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
