//! Clients: one stream a request, one or more replies.

use super::blobs::Blobs;
use super::event_file::EventFile;
use super::gates::Gates;
use super::job_logs::JobLogs;
use super::leader_thread::Inbox;
use super::pages;
use super::workers::is_kind;
use crate::leader::{Answer, Question};
use crate::state::{Outcome, Submission};
use evoring_protocol::client::{ClientReply, ClientRequest, WorkerView};
use evoring_protocol::codec::{CodecError, FrameKind};
use evoring_protocol::transport::{Connection, Receiver, Role, Sender, TransportError};
use evoring_protocol::worker::WorkerCommand;
use evoring_protocol::{Digest, ErrorCode, JobId, RemoteError, SubmissionKey, limits};
use futures::StreamExt as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A request must come within this time after its stream.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A write that is not durable after this is answered as unknown.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// A followed job is looked at this often.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);
/// Names of job files are cut to this.
const FILE_NAME_BYTES: usize = 512;

/// What all clients share.
pub(super) struct Clients {
    inbox: Inbox,
    events: EventFile,
    logs: JobLogs,
    blobs: Blobs,
    http: SocketAddr,
    gates: Gates,
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
            gates: Gates::default(),
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
        match &error {
            TransportError::Codec { source, .. } => too_long(source),
            _ => None,
        }
        .map_or(Self::Lost(error), Self::Refused)
    }
}

/// What the client is told of an answer that exceeds a frame. Nothing of it was sent, so there is
/// room for a sentence.
fn too_long(error: &CodecError) -> Option<RemoteError> {
    matches!(error, CodecError::TooLarge { .. }).then(|| {
        RemoteError::new(
            ErrorCode::Internal,
            format!("the answer is too long to be sent: {error}"),
        )
    })
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
        self.allowed(&request)?;
        let _permit = self.clients.gates.enter(&request)?;
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
            Answer::Jobs(jobs) => ClientReply::Jobs(pages::newest(jobs)),
            Answer::Job(job) => ClientReply::Job(job),
            Answer::Explanation(sentences) => ClientReply::Explanation(sentences),
            Answer::Workers(workers) => ClientReply::Workers(fitting(workers)),
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
                let page = self.clients.events.page(next);
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
                let (lines, end) = self.clients.logs.page(job, next);
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

/// All workers, without the process ids of their executors where these are too many for one
/// reply: nobody may be missing in this list.
fn fitting(mut workers: Vec<WorkerView>) -> Vec<WorkerView> {
    if pages::exceeds_reply(&workers) {
        workers
            .iter_mut()
            .for_each(|worker| worker.executors.clear());
    }
    workers
}

#[cfg(test)]
mod tests {
    use super::*;
    use evoring_protocol::WorkerId;
    use evoring_protocol::codec::encode;

    fn workers(count: usize, slots: u32) -> Vec<WorkerView> {
        let view = |number| WorkerView {
            worker: WorkerId::new(&format!("w{number}")).unwrap(),
            connected: true,
            process: 4_000_000,
            executors: vec![4_000_000; slots as usize],
            host: "a1b2c3d4-e5f6-7890-abcd-ef0123456789/net:[4026531840]".to_owned(),
            slots,
            busy: slots,
            numerics: "libtorch 2.13.0, cpu, avx2".to_owned(),
            metrics: Some("127.0.0.1:65535".to_owned()),
        };
        (0..count).map(view).collect()
    }

    // Claim: ten thousand workers of many slots still fit into one reply, and none is missing; a
    // few keep all that is known of them.
    // Method: the encoder's own limit decides.
    #[test]
    fn all_workers_fit() {
        let many = workers(10_000, 256);
        assert!(encode(&ClientReply::Workers(many.clone())).is_err());
        let fitted = fitting(many);
        assert_eq!(fitted.len(), 10_000);
        encode(&ClientReply::Workers(fitted)).unwrap();
        assert_eq!(fitting(workers(3, 8)), workers(3, 8));
    }

    // Claim: an answer that cannot be encoded is told to the client instead of ending the stream.
    // Method: the error of the real encoder.
    #[test]
    fn too_long_answers_are_told() {
        let reply = ClientReply::Explanation(vec!["x".repeat(limits::CLIENT_REPLY_BYTES + 1)]);
        let source = encode(&reply).unwrap_err();
        let error = too_long(&source).unwrap();
        assert!(error.message.contains("too long"), "{error}");
    }
}
