//! Everything that a process has and others can see before it belongs to a group.

use super::blobs::Blobs;
use super::event_file::EventFile;
use super::folder::Folder;
use super::http::{self, Http};
use super::job_logs::JobLogs;
use super::member_file::{self, Membership};
use super::metrics::Metrics;
use super::settings::Settings;
use super::take_up::create;
use super::{joining, lifeline};
use anyhow::Context as _;
use evoring_protocol::transport::{Identity, Listener};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Sockets and files.
pub(super) struct Place {
    /// Locked.
    pub folder: Folder,
    pub identity: Identity,
    pub metrics: Arc<Metrics>,
    pub blobs: Blobs,
    pub events: EventFile,
    pub logs: JobLogs,
    pub listener: Listener,
    pub http: Http,
    /// Why the process shall end, once it shall.
    pub end: oneshot::Receiver<String>,
    /// Where others reach this coordinator.
    pub address: String,
}

impl Place {
    pub(super) async fn open(settings: &Settings) -> anyhow::Result<Self> {
        let folder = Folder::open(&settings.dir)?;
        let identity = Identity::load(&settings.identity)
            .with_context(|| format!("the identity in {}", settings.identity.display()))?;
        let metrics = Arc::new(Metrics::new()?);
        let blobs = Blobs::open(&settings.blobs)?;
        let events = EventFile::open(&settings.dir)?;
        let logs = JobLogs::default();
        logs.take_up(&events.all());
        let listener = folder.listen(settings.listen, &identity)?;
        let http = http::start(settings.http, Arc::clone(&metrics)).await?;
        let end = lifeline::end(settings.lifeline_fd)?;
        let address = own_address(settings.advertise.as_deref(), listener.local_addr())?;
        Ok(Self {
            folder,
            identity,
            metrics,
            blobs,
            events,
            logs,
            listener,
            http,
            end,
            address,
        })
    }

    /// Which member of which group this process is: the one that it was, the first of a new group, or
    /// the one that a group takes it for, which may take long; none if the process shall end before.
    pub(super) async fn membership(
        &mut self,
        settings: &Settings,
    ) -> anyhow::Result<Option<Membership>> {
        if let Some(own) = member_file::read(&settings.dir)? {
            return Ok(Some(own));
        }
        if settings.create {
            return create(&settings.dir).map(Some);
        }
        let (listen, http) = (self.listener.local_addr(), self.http.address());
        self.folder.announce(&settings.announce, listen, http)?;
        tracing::info!(address = self.address, "waits to be taken into a group");
        joining::wait(&mut self.listener, &settings.dir, &mut self.end).await
    }
}

/// Where others reach this coordinator.
fn own_address(advertised: Option<&str>, listens: SocketAddr) -> anyhow::Result<String> {
    match advertised {
        Some(address) => Ok(address.to_owned()),
        None if listens.ip().is_unspecified() => anyhow::bail!(
            "nobody can be told to reach this coordinator at {listens}, every address of this machine: name one of them with --advertise HOST:PORT"
        ),
        None => Ok(listens.to_string()),
    }
}
