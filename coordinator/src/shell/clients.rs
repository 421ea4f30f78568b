//! Clients: one stream a request, one or more replies.

use super::blobs::Blobs;
use super::event_file::EventFile;
use super::job_logs::JobLogs;
use super::leader_thread::Inbox;
use super::workers::is_kind;
use crate::leader::{Answer, Question};
use crate::state::{Outcome, Submission};
use evoring_protocol::client::{ClientReply, ClientRequest};
use evoring_protocol::codec::FrameKind;
use evoring_protocol::transport::{Connection, Receiver, Role, Sender, TransportError};
use evoring_protocol::worker::WorkerCommand;
use evoring_protocol::{Digest, ErrorCode, JobId, RemoteError, SubmissionKey, limits};
use futures::StreamExt as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// Requests that are worked on at once, streams that follow something included.
const REQUESTS: usize = 512;
/// A request must come within this time after its stream.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A write that is not durable after this is answered as unknown.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// A followed job is looked at this often.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);
/// Events or log lines of one reply: at 4 KiB for a long one below the reply's limit.
const PAGE: usize = 512;
/// Names of job files are cut to this.
const FILE_NAME_BYTES: usize = 512;

/// What all clients share.
pub(super) struct Clients {
    inbox: Inbox,
    events: EventFile,
    logs: JobLogs,
    blobs: Blobs,
    http: SocketAddr,
    requests: Arc<Semaphore>,
}

impl Clients {
    pub(super) fn new(
        inbox: Inbox,
        events: EventFile,
        logs: JobLogs,
        blobs: Blobs,
        http: SocketAddr,
    ) -> Self {
        Self {
            inbox,
            events,
            logs,
            blobs,
            http,
            requests: Arc::new(Semaphore::new(REQUESTS)),
        }
    }
}

/// Serves the streams of one connection until it ends.
pub(super) async fn serve(
    connection: Connection,
    clients: Arc<Clients>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return,
            accepted = connection.accept() => accepted,
        };
        let Ok((sender, receiver)) = accepted else {
            return;
        };
        let role = connection.peer().role;
        let (clients, mut stopped) = (Arc::clone(&clients), stopped.clone());
        tokio::spawn(async move {
            let mut request = Request {
                clients,
                role,
                sender,
            };
            let outcome = tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => Ok(()),
                outcome = request.serve(receiver) => outcome,
            };
            match outcome {
                Ok(()) => request.sender.finish(),
                // The client went away, or never spoke our language: its own side says so.
                Err(error) => tracing::debug!(%error, "a client's request ended early"),
            }
        });
    }
}

struct Request {
    clients: Arc<Clients>,
    role: Role,
    sender: Sender,
}

/// Why a request ends without its answer.
enum Stop {
    /// The client is told.
    Refused(RemoteError),
    /// The client cannot be told.
    Lost(TransportError),
}

impl From<RemoteError> for Stop {
    fn from(error: RemoteError) -> Self {
        Self::Refused(error)
    }
}

impl From<TransportError> for Stop {
    fn from(error: TransportError) -> Self {
        Self::Lost(error)
    }
}

impl Request {
    async fn serve(&mut self, mut receiver: Receiver) -> Result<(), TransportError> {
        let outcome = match tokio::time::timeout(
            REQUEST_TIMEOUT,
            receiver.receive::<ClientRequest>(),
        )
        .await
        {
            Ok(Ok(Some(request))) => self.answer(request).await,
            Ok(Ok(None)) | Err(_) => return Ok(()),
            Ok(Err(error)) if is_kind(&error, FrameKind::WorkerReport) => {
                let message = format!(
                    "a certificate of the role {} may not compute; use one of the role worker",
                    self.role
                );
                let refusal =
                    WorkerCommand::Refuse(RemoteError::new(ErrorCode::Forbidden, message));
                return self.sender.send(&refusal).await;
            }
            Ok(Err(error)) => Err(RemoteError::new(ErrorCode::Invalid, error.to_string()).into()),
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(Stop::Refused(error)) => self.sender.send(&ClientReply::Error(error)).await,
            Err(Stop::Lost(error)) => Err(error),
        }
    }

    async fn answer(&mut self, request: ClientRequest) -> Result<(), Stop> {
        let requests = Arc::clone(&self.clients.requests);
        let Ok(_permit) = requests.try_acquire() else {
            let message =
                format!("the coordinator works on {REQUESTS} requests already; ask again");
            return Err(RemoteError::new(ErrorCode::Busy, message).into());
        };
        self.allowed(&request)?;
        let reply = match request {
            ClientRequest::Submit {
                key,
                file,
                text,
                refuse_unless_fits,
            } => self.submit(key, file, text, refuse_unless_fits).await?,
            ClientRequest::Cancel { job } => self.written(self.clients.inbox.cancel(job)).await?,
            ClientRequest::Jobs => self.ask(Question::Jobs).await?,
            ClientRequest::Show { job } => self.ask(Question::Job(job)).await?,
            ClientRequest::Explain { job } => self.ask(Question::Explain(job)).await?,
            ClientRequest::Workers => self.ask(Question::Workers).await?,
            ClientRequest::Status => self.ask(Question::Status).await?,
            ClientRequest::Logs { job, follow } => return self.logs(job, follow).await,
            ClientRequest::Events { from, follow } => return self.events(from, follow).await,
            ClientRequest::Follow { job } => return self.follow(job).await,
            ClientRequest::Blob { digest } => return self.blob(digest).await,
        };
        Ok(self.sender.send(&reply).await?)
    }

    /// Checks the role in the client's certificate.
    fn allowed(&self, request: &ClientRequest) -> Result<(), RemoteError> {
        let writes = matches!(
            request,
            ClientRequest::Submit { .. } | ClientRequest::Cancel { .. }
        );
        if writes && self.role == Role::Viewer {
            let message = "a certificate of the role viewer may not submit or cancel jobs; use one of the role submitter";
            return Err(RemoteError::new(ErrorCode::Forbidden, message));
        }
        Ok(())
    }

    async fn ask(&self, question: Question) -> Result<ClientReply, RemoteError> {
        Ok(match self.clients.inbox.ask(question).await? {
            Answer::Jobs(jobs) => ClientReply::Jobs(jobs),
            Answer::Job(job) => ClientReply::Job(job),
            Answer::Explanation(sentences) => ClientReply::Explanation(sentences),
            Answer::Workers(workers) => ClientReply::Workers(workers),
            Answer::Status(mut status) => {
                status.metrics = Some(format!("http://{}/metrics", self.clients.http));
                ClientReply::Status(status)
            }
            Answer::PendingBlob(_) => ClientReply::Done,
        })
    }

    async fn submit(
        &self,
        key: SubmissionKey,
        file: String,
        text: String,
        refuse_unless_fits: bool,
    ) -> Result<ClientReply, RemoteError> {
        if text.len() > limits::JOB_FILE_BYTES {
            let message = format!(
                "the job file has {} bytes, at most {} are allowed",
                text.len(),
                limits::JOB_FILE_BYTES
            );
            return Err(RemoteError::new(ErrorCode::Invalid, message));
        }
        let file = file[..file.floor_char_boundary(FILE_NAME_BYTES)].to_owned();
        let parsed =
            tokio::task::spawn_blocking(move || evoring_jobs::spec::parse(&file, &text)).await;
        let spec = parsed
            .map_err(|_| {
                RemoteError::new(
                    ErrorCode::Internal,
                    "parsing the job file panicked; this is a defect",
                )
            })?
            .map_err(|error| RemoteError::new(ErrorCode::Invalid, error.to_string()))?;
        let submission = Box::new(Submission {
            key,
            name: spec.name,
            kind: spec.kind,
            min_ranks: spec.min_ranks,
            driver: spec.driver,
        });
        self.written(self.clients.inbox.submit(submission, refuse_unless_fits))
            .await
    }

    /// Waits for a write to be durable.
    async fn written(
        &self,
        outcome: impl Future<Output = Result<Outcome, RemoteError>>,
    ) -> Result<ClientReply, RemoteError> {
        let outcome = tokio::time::timeout(WRITE_TIMEOUT, outcome).await.map_err(|_| {
            let message = format!(
                "not durable within {} s, so whether it was carried out is not known; repeat it",
                WRITE_TIMEOUT.as_secs()
            );
            RemoteError::new(ErrorCode::NotReady, message)
        })?;
        match outcome? {
            Outcome::Done => Ok(ClientReply::Done),
            Outcome::Submitted { job, already_known } => {
                Ok(ClientReply::Submitted { job, already_known })
            }
            Outcome::Refused { code, message } => Err(RemoteError::new(code, message)),
        }
    }

    async fn follow(&mut self, job: JobId) -> Result<(), Stop> {
        let mut interval = tokio::time::interval(FOLLOW_INTERVAL);
        let mut last = None;
        loop {
            interval.tick().await;
            let ClientReply::Job(view) = self.ask(Question::Job(job)).await? else {
                continue;
            };
            if last.as_ref() != Some(&view) {
                self.sender.send(&ClientReply::Job(view.clone())).await?;
            }
            if view.status.is_final() {
                return Ok(());
            }
            last = Some(view);
        }
    }

    async fn events(&mut self, from: u64, follow: bool) -> Result<(), Stop> {
        let mut last = self.clients.events.last();
        let mut next = from;
        loop {
            let newest = *last.borrow_and_update();
            while next <= newest {
                let page = self.clients.events.events(next, PAGE);
                let Some(end) = page.last() else { break };
                next = end.number + 1;
                self.sender.send(&ClientReply::Events(page)).await?;
            }
            if !follow || last.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn logs(&mut self, job: JobId, follow: bool) -> Result<(), Stop> {
        let mut changed = self.clients.logs.changed();
        let mut next = 0;
        loop {
            // Asked before reading: lines that come before the job's end are sent.
            let ClientReply::Job(view) = self.ask(Question::Job(job)).await? else {
                return Ok(());
            };
            changed.mark_unchanged();
            loop {
                let (lines, end) = self.clients.logs.lines(job, next, PAGE);
                next = end;
                if lines.is_empty() {
                    break;
                }
                self.sender.send(&ClientReply::LogLines(lines)).await?;
            }
            if !follow || view.status.is_final() {
                return Ok(());
            }
            // A job may end without another line.
            let _ = tokio::time::timeout(Duration::from_secs(1), changed.changed()).await;
        }
    }

    async fn blob(&mut self, digest: Digest) -> Result<(), Stop> {
        if let Answer::PendingBlob(Some(bytes)) = self
            .clients
            .inbox
            .ask(Question::PendingBlob(digest))
            .await?
        {
            self.sender
                .send(&ClientReply::BlobStart {
                    bytes: bytes.len() as u64,
                })
                .await?;
            for chunk in bytes.chunks(limits::BLOB_CHUNK_BYTES) {
                self.sender
                    .send(&ClientReply::BlobChunk(chunk.to_vec()))
                    .await?;
            }
            return Ok(());
        }
        let internal = |error: &dyn std::fmt::Display| {
            RemoteError::new(ErrorCode::Internal, format!("blob {digest}: {error}"))
        };
        let found = self
            .clients
            .blobs
            .get(digest)
            .await
            .map_err(|error| internal(&format!("{error:#}")))?;
        let Some(mut download) = found else {
            return Err(RemoteError::new(
                ErrorCode::NotFound,
                format!("no blob {digest} in the blob store"),
            )
            .into());
        };
        self.sender
            .send(&ClientReply::BlobStart {
                bytes: download.bytes,
            })
            .await?;
        while let Some(piece) = download.pieces.next().await {
            let piece = piece.map_err(|error| internal(&error))?;
            for chunk in piece.chunks(limits::BLOB_CHUNK_BYTES) {
                self.sender
                    .send(&ClientReply::BlobChunk(chunk.to_vec()))
                    .await?;
            }
        }
        Ok(())
    }
}
