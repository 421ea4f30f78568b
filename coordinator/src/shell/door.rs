//! Where peers come in, until the process shall end.

use super::clients::{self, Clients};
use super::event_file::EventFile;
use super::folder::Folder;
use super::leader_thread::{Inbox, Message};
use super::peers::{self, Doorkeeper};
use super::place::Place;
use super::settings::Settings;
use super::workers;
use crate::leader::{Denial, Question};
use evoring_protocol::transport::{Connection, Role};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// A coordinator that starts looks this often whether anybody leads.
const OFFICE_INTERVAL: Duration = Duration::from_millis(2);
/// A coordinator that stops waits this long for another one to lead.
const HAND_OVER: Duration = Duration::from_secs(1);
/// Workers that wait until this coordinator announces itself.
const EARLY_WORKERS: usize = 16_384;

/// Where peers come in.
pub(super) struct Door {
    settings: Settings,
    place: Place,
    clients: Arc<Clients>,
    doorkeeper: Doorkeeper,
    /// Tells connections that the process ends.
    stop: watch::Sender<bool>,
    /// The group had one member at the start.
    is_alone: bool,
}

/// Keeps a worker's connection for later, with those that have not ended.
fn keep(early: &mut Vec<Connection>, connection: Connection) {
    early.retain(|connection| !connection.is_closed());
    if early.len() < EARLY_WORKERS {
        early.push(connection);
    } else {
        connection.close("the coordinator is taking office; connect again");
    }
}

impl Door {
    pub(super) fn new(
        settings: Settings,
        place: Place,
        doorkeeper: Doorkeeper,
        is_alone: bool,
    ) -> Self {
        let clients = Clients::new(
            doorkeeper.inbox.clone(),
            place.events.clone(),
            place.logs.clone(),
            place.blobs.clone(),
            place.http.address(),
            place.identity.peer().name.clone(),
            doorkeeper.standing.clone(),
        );
        Self {
            settings,
            place,
            clients: Arc::new(clients),
            doorkeeper,
            stop: watch::channel(false).0,
            is_alone,
        }
    }

    /// Lets peers in until the process shall end; gives the reason.
    pub(super) async fn open(
        &mut self,
        mut failure: mpsc::Receiver<anyhow::Error>,
    ) -> anyhow::Result<String> {
        // In a group others answer as well, and a coordinator without a leader can say so.
        let mut is_announced = !self.is_alone;
        if is_announced {
            self.announce()?;
        }
        // An agent takes what is announced when it is first spoken to for the announcement of whom it
        // talks with.
        let mut early = Vec::new();
        loop {
            tokio::select! {
                biased;
                reason = &mut self.place.end => return Ok(reason.unwrap_or_else(|_| "the watcher of signals ended".to_owned())),
                error = failure.recv() => return Err(error.unwrap_or_else(|| anyhow::anyhow!("a thread ended"))),
                () = in_office(&self.doorkeeper.inbox), if !is_announced => {
                    is_announced = true;
                    self.announce()?;
                    early.drain(..).for_each(|connection| self.serve(connection));
                }
                accepted = self.place.listener.accept() => match accepted {
                    Some(Ok(connection)) if !is_announced && connection.peer().role == Role::Worker => keep(&mut early, connection),
                    Some(Ok(connection)) => self.serve(connection),
                    Some(Err(error)) => tracing::warn!(%error, "a connection was refused"),
                    None => anyhow::bail!("the listener at {} ended", self.place.listener.local_addr()),
                },
            }
        }
    }

    fn announce(&self) -> anyhow::Result<()> {
        let (listen, http) = (self.place.listener.local_addr(), self.place.http.address());
        self.place
            .folder
            .announce(&self.settings.announce, listen, http)?;
        tracing::info!(%listen, %http, dir = %self.settings.dir.display(), "coordinator is up");
        Ok(())
    }

    /// Gives a connection to those who talk with its role.
    fn serve(&self, connection: Connection) {
        let stopped = self.stop.subscribe();
        match connection.peer().role {
            Role::Worker => {
                tokio::spawn(workers::serve(
                    connection,
                    self.doorkeeper.inbox.clone(),
                    stopped,
                ));
            }
            Role::Coordinator => {
                tokio::spawn(peers::serve(connection, self.doorkeeper.clone(), stopped));
            }
            Role::Submitter | Role::Viewer => {
                tokio::spawn(clients::serve(
                    connection,
                    Arc::clone(&self.clients),
                    stopped,
                ));
            }
        }
    }

    /// Lets another coordinator lead before this one ends, so that nobody waits for an election.
    pub(super) async fn hand_over(&self) {
        let mut standing = self.doorkeeper.standing.clone();
        let is_needed = {
            let standing = standing.borrow();
            standing.is_elected && standing.members.len() > 1
        };
        if is_needed && self.doorkeeper.inbox.send(Message::HandOver).await {
            let handed = standing.wait_for(|standing| !standing.is_elected);
            match tokio::time::timeout(HAND_OVER, handed).await {
                Ok(Ok(_)) => tracing::info!("left the office"),
                // The leader thread has ended, and says why.
                Ok(Err(_)) => {}
                Err(_) => tracing::warn!(
                    "nobody took the office within {HAND_OVER:?}; the others find out by themselves"
                ),
            }
        }
    }

    /// Ends all connections and tells the leader thread to end; gives back the locked folder, and the
    /// event file that is still to be closed.
    pub(super) async fn close(self) -> (Folder, EventFile) {
        self.stop.send_replace(true);
        self.place.listener.close("the coordinator stops").await;
        self.place.http.stop();
        self.doorkeeper.inbox.stop();
        (self.place.folder, self.place.events)
    }
}

/// Waits until this coordinator is in office, or knows who is.
async fn in_office(inbox: &Inbox) {
    loop {
        match inbox.ask(Question::Leadership).await {
            Ok(_) | Err(Denial::NotLeader(Some(_))) => return,
            Err(_) => tokio::time::sleep(OFFICE_INTERVAL).await,
        }
    }
}
