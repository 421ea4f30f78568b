//! Clients: one stream a request, one or more replies.

use super::blobs::Blobs;
use super::event_file::EventFile;
use super::gates::Gates;
use super::job_logs::JobLogs;
use super::leader_thread::{Inbox, Message, Standing};
use super::pages;
use super::workers::is_kind;
use crate::leader::{Answer, Denial, Question};
use crate::state::{Command, Outcome, Submission};
use evoring_protocol::client::{
    ClientReply, ClientRequest, EventsPlace, LeaderHint, WorkerView, is_address,
};
use evoring_protocol::codec::{CodecError, FrameKind};
use evoring_protocol::transport::{Connection, Receiver, Role, Sender, TransportError};
use evoring_protocol::worker::WorkerCommand;
use evoring_protocol::{Digest, ErrorCode, JobId, RemoteError, SubmissionKey, WorkerId, limits};
use futures::StreamExt as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A request must come within this time after its stream.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A question that nobody could answer for so long is given up: no majority may be there.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(20);
/// A write that is not durable after this is answered as unknown.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// A client that takes nothing of its answer for this long is left: it holds one of the places that a
/// gate has.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// One that follows something may wait for a person who reads.
const FOLLOWER_TIMEOUT: Duration = Duration::from_secs(600);
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
    /// This coordinator's name.
    name: String,
    gates: Gates,
    standing: watch::Receiver<Arc<Standing>>,
}

impl Clients {
    pub(super) fn new(
        inbox: Inbox,
        events: EventFile,
        logs: JobLogs,
        blobs: Blobs,
        http: SocketAddr,
        name: String,
        standing: watch::Receiver<Arc<Standing>>,
    ) -> Self {
        Self {
            inbox,
            events,
            logs,
            blobs,
            http,
            name,
            gates: Gates::default(),
            standing,
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
    /// The client is sent to another coordinator.
    Elsewhere(Option<LeaderHint>),
    /// The client cannot be told.
    Lost(Lost),
}

/// Why a client cannot be told anything.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("the client took nothing for {0:?}")]
    Slow(Duration),
}

impl From<Lost> for Stop {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Transport(error) => error.into(),
            Lost::Slow(_) => Self::Lost(lost),
        }
    }
}

/// Sends unless the client takes nothing for so long; the stream is of no use then.
async fn send_within<M: evoring_protocol::codec::Message>(
    sender: &mut Sender,
    message: &M,
    limit: Duration,
) -> Result<(), Lost> {
    match tokio::time::timeout(limit, sender.send(message)).await {
        Ok(sent) => Ok(sent?),
        Err(_) => Err(Lost::Slow(limit)),
    }
}

impl From<RemoteError> for Stop {
    fn from(error: RemoteError) -> Self {
        Self::Refused(error)
    }
}

impl From<Denial> for Stop {
    fn from(denial: Denial) -> Self {
        match denial {
            Denial::Error(error) => Self::Refused(error),
            Denial::NotLeader(leader) => Self::Elsewhere(leader),
        }
    }
}

impl From<TransportError> for Stop {
    fn from(error: TransportError) -> Self {
        match &error {
            TransportError::Codec { source, .. } => too_long(source),
            _ => None,
        }
        .map_or(Self::Lost(error.into()), Self::Refused)
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
    /// Answers the stream's requests one after the other: the first must come soon, each has one reply
    /// but the last, which may have many.
    async fn serve(&mut self, mut receiver: Receiver) -> Result<(), Lost> {
        let first = receiver.receive::<ClientRequest>();
        let Ok(mut received) = tokio::time::timeout(REQUEST_TIMEOUT, first).await else {
            return Ok(());
        };
        loop {
            let has_more = matches!(&received, Ok(Some(request)) if !request.has_many_replies());
            if received.as_ref().is_ok_and(Option::is_none) {
                return Ok(());
            }
            self.serve_one(received).await?;
            if !has_more {
                return Ok(());
            }
            received = receiver.receive::<ClientRequest>().await;
        }
    }

    /// Sends an answer, or a part of one.
    async fn send<M: evoring_protocol::codec::Message>(&mut self, reply: &M) -> Result<(), Lost> {
        send_within(&mut self.sender, reply, ANSWER_TIMEOUT).await
    }

    /// Sends the next part of what the client follows.
    async fn send_follower(&mut self, reply: &ClientReply) -> Result<(), Lost> {
        send_within(&mut self.sender, reply, FOLLOWER_TIMEOUT).await
    }

    async fn serve_one(
        &mut self,
        received: Result<Option<ClientRequest>, TransportError>,
    ) -> Result<(), Lost> {
        let outcome = match received {
            Ok(Some(request)) => self.answer(request).await,
            Ok(None) => return Ok(()),
            Err(error) if is_kind(&error, FrameKind::WorkerReport) => {
                let message = format!(
                    "a certificate of the role {} may not compute; use one of the role worker",
                    self.role
                );
                let refusal =
                    WorkerCommand::Refuse(RemoteError::new(ErrorCode::Forbidden, message));
                return self.send(&refusal).await;
            }
            Err(error) => Err(RemoteError::new(ErrorCode::Invalid, error.to_string()).into()),
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(Stop::Refused(error)) => self.send(&ClientReply::Error(error)).await,
            Err(Stop::Elsewhere(leader)) => self.send(&ClientReply::NotLeader { leader }).await,
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
            ClientRequest::Cancel { job } => self.write(Command::Cancel { job }).await?,
            ClientRequest::Label { job, key, value } => {
                self.write(Command::Label { job, key, value }).await?
            }
            ClientRequest::LabelOnce {
                job,
                key,
                value,
                request,
            } => {
                self.write(Command::LabelOnce {
                    job,
                    key,
                    value,
                    request,
                })
                .await?
            }
            ClientRequest::AddMember { name, address } => {
                check_member(&name, &address)?;
                self.write(Command::AddMember { name, address }).await?
            }
            ClientRequest::RemoveMember { id } => self.write(Command::RemoveMember { id }).await?,
            ClientRequest::TransferLeadership => {
                self.ask(Question::Leadership).await?;
                if self.clients.standing.borrow().members.len() < 2 {
                    let message = "the group has one member: nobody else can lead";
                    return Err(RemoteError::new(ErrorCode::Invalid, message).into());
                }
                self.clients.inbox.send(Message::HandOver).await;
                ClientReply::Done
            }
            ClientRequest::Cluster => self.ask(Question::Cluster).await?,
            ClientRequest::Jobs => self.ask(Question::Jobs).await?,
            ClientRequest::Show { job } => self.ask(Question::Job(job)).await?,
            ClientRequest::Explain { job } => self.ask(Question::Explain(job)).await?,
            ClientRequest::Workers => self.ask(Question::Workers).await?,
            ClientRequest::Status => self.ask(Question::Status).await?,
            ClientRequest::Logs { job, follow } => return self.logs(job, follow).await,
            ClientRequest::Events { from, follow, of } => {
                return self.events(from, follow, of).await;
            }
            ClientRequest::Follow { job } => return self.follow(job).await,
            ClientRequest::Blob { digest } => return self.blob(digest).await,
        };
        Ok(self.send(&reply).await?)
    }

    /// Checks the role in the client's certificate.
    fn allowed(&self, request: &ClientRequest) -> Result<(), RemoteError> {
        let writes = matches!(
            request,
            ClientRequest::Submit { .. }
                | ClientRequest::Cancel { .. }
                | ClientRequest::Label { .. }
                | ClientRequest::LabelOnce { .. }
                | ClientRequest::AddMember { .. }
                | ClientRequest::RemoveMember { .. }
                | ClientRequest::TransferLeadership
        );
        if writes && self.role == Role::Viewer {
            let message = "a certificate of the role viewer may not submit or cancel jobs; use one of the role submitter";
            return Err(RemoteError::new(ErrorCode::Forbidden, message));
        }
        Ok(())
    }

    async fn ask(&self, question: Question) -> Result<ClientReply, Stop> {
        let asked = self.clients.inbox.ask(question);
        let answer = tokio::time::timeout(QUESTION_TIMEOUT, asked).await.map_err(|_| {
            let message = format!(
                "no majority of the coordinators confirmed within {} s that this one leads; see `evoring cluster status`",
                QUESTION_TIMEOUT.as_secs()
            );
            RemoteError::new(ErrorCode::NotReady, message)
        })?;
        Ok(match answer? {
            Answer::Jobs(jobs) => ClientReply::Jobs(pages::newest(jobs)),
            Answer::Job(job) => ClientReply::Job(job),
            Answer::Explanation(sentences) => ClientReply::Explanation(sentences),
            Answer::Workers(workers) => ClientReply::Workers(fitting(workers)),
            Answer::Status(mut status) => {
                status.metrics = Some(format!("http://{}/metrics", self.clients.http));
                ClientReply::Status(status)
            }
            Answer::Cluster(view) => ClientReply::Cluster(view),
            Answer::Leads | Answer::PendingBlob(_) => ClientReply::Done,
        })
    }

    async fn submit(
        &self,
        key: SubmissionKey,
        file: String,
        text: String,
        refuse_unless_fits: bool,
    ) -> Result<ClientReply, Stop> {
        if text.len() > limits::JOB_FILE_BYTES {
            let message = format!(
                "the job file has {} bytes, at most {} are allowed",
                text.len(),
                limits::JOB_FILE_BYTES
            );
            return Err(RemoteError::new(ErrorCode::Invalid, message).into());
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

    async fn write(&self, command: Command) -> Result<ClientReply, Stop> {
        self.written(self.clients.inbox.write(command)).await
    }

    /// Waits for a write to be durable.
    async fn written(
        &self,
        outcome: impl Future<Output = Result<Outcome, Denial>>,
    ) -> Result<ClientReply, Stop> {
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
            Outcome::MemberAdded { id } => Ok(ClientReply::MemberAdded { id }),
            Outcome::Refused { code, message } => Err(RemoteError::new(code, message).into()),
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
                self.send_follower(&ClientReply::Job(view.clone())).await?;
            }
            if view.status.is_final() {
                return Ok(());
            }
            last = Some(view);
        }
    }

    async fn events(
        &mut self,
        from: u64,
        follow: bool,
        of: Option<EventsPlace>,
    ) -> Result<(), Stop> {
        let mut last = self.clients.events.last();
        let mut standing = self.clients.standing.clone();
        let name = self.clients.name.clone();
        let mut next = match of {
            Some(place) if place.coordinator != name => {
                self.clients.events.first_after(place.after)
            }
            _ => from,
        };
        // Another leader's events are in its own file.
        self.ask(Question::Leadership).await?;
        loop {
            let newest = *last.borrow_and_update();
            while next <= newest {
                let page = self.clients.events.page(next);
                let Some(end) = page.last() else { break };
                next = end.number + 1;
                let reply = ClientReply::Events {
                    coordinator: name.clone(),
                    events: page,
                };
                self.send_follower(&reply).await?;
            }
            if !follow {
                return Ok(());
            }
            tokio::select! {
                biased;
                changed = last.changed() => if changed.is_err() {
                    return Ok(());
                },
                _ = standing.wait_for(|standing| !standing.leads) => {
                    return Err(Stop::Elsewhere(None));
                }
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
                self.send_follower(&ClientReply::LogLines(lines)).await?;
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
            self.send(&ClientReply::BlobStart {
                bytes: bytes.len() as u64,
            })
            .await?;
            for chunk in bytes.chunks(limits::BLOB_CHUNK_BYTES) {
                self.send(&ClientReply::BlobChunk(chunk.to_vec())).await?;
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
        self.send(&ClientReply::BlobStart {
            bytes: download.bytes,
        })
        .await?;
        while let Some(piece) = download.pieces.next().await {
            let piece = piece.map_err(|error| internal(&error))?;
            for chunk in piece.chunks(limits::BLOB_CHUNK_BYTES) {
                self.send(&ClientReply::BlobChunk(chunk.to_vec())).await?;
            }
        }
        Ok(())
    }
}

/// Checks what a client says of a member: an entry of the log is too late for that, since all members
/// must agree on it, those of older builds too.
fn check_member(name: &str, address: &str) -> Result<(), RemoteError> {
    const SHOWN: usize = 80;
    let invalid = |what: &str, got: &str, expected: &str| {
        let got: String = got.chars().take(SHOWN).collect();
        let message = format!("{what} {got:?}: expected {expected}");
        Err(RemoteError::new(ErrorCode::Invalid, message))
    };
    // What a certificate can name; the same rule as for workers.
    if WorkerId::new(name).is_err() {
        let expected = "1 to 63 characters of a-z, 0-9 and '-', neither first nor last '-'";
        return invalid("name", name, expected);
    }
    if !is_address(address) {
        return invalid("address", address, "HOST:PORT or [IPV6]:PORT");
    }
    Ok(())
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

    // Claim: a member that nobody could ever reach is refused, with the reason that applies.
    // Method: names and addresses of both kinds.
    #[test]
    fn members_are_checked() {
        assert_eq!(check_member("c2", "10.0.0.2:7400"), Ok(()));
        let long = "a".repeat(5_000);
        for (name, address, expected) in [
            ("c2", "10.0.0.2", "address \"10.0.0.2\": expected HOST:PORT"),
            ("C2", "10.0.0.2:7400", "name \"C2\": expected 1 to 63"),
            (&long, "10.0.0.2:7400", "expected 1 to 63"),
            ("c2", &format!("{long}:1"), "expected HOST:PORT"),
        ] {
            let error = check_member(name, address).unwrap_err();
            assert!(error.message.contains(expected), "{error}");
            assert!(error.message.len() < 300);
        }
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

    // Claim: a client that reads nothing holds its place at a gate for a bounded time; one that reads
    // gets all.
    // Method: more than the windows of a connection take, to a real client that does not read, and to
    // one that does.
    #[tokio::test(flavor = "multi_thread")]
    async fn silent_clients_are_left() {
        use evoring_protocol::ClusterId;
        use evoring_protocol::transport::{Authority, Connector, Listener};
        let now = std::time::SystemTime::now();
        let authority = Authority::create(ClusterId(*b"made-up!"), now).unwrap();
        let identity = authority.issue(Role::Coordinator, "c1", now).unwrap();
        let mut listener = Listener::bind("127.0.0.1:0".parse().unwrap(), &identity).unwrap();
        let client = authority.issue(Role::Viewer, "someone", now).unwrap();
        let connector = Connector::new(&client).unwrap();
        let address = listener.local_addr();
        let connecting = connector.connect_within(FOLLOW_INTERVAL * 50, address, Role::Coordinator);
        let (connected, accepted) = tokio::join!(connecting, listener.accept());
        let (connection, accepted) = (connected.unwrap(), accepted.unwrap().unwrap());
        let piece = ClientReply::BlobChunk(vec![1; limits::BLOB_CHUNK_BYTES]);
        for reads in [true, false] {
            let (mut asks, mut receiver) = connection.open().await.unwrap();
            asks.send(&ClientRequest::Status).await.unwrap();
            let (mut sender, _requests) = accepted.accept().await.unwrap();
            let reading = tokio::spawn(async move {
                while reads && matches!(receiver.receive::<ClientReply>().await, Ok(Some(_))) {}
                receiver
            });
            let limit = if reads {
                FOLLOW_INTERVAL * 50
            } else {
                FOLLOW_INTERVAL
            };
            let mut outcome = Ok(());
            for _ in 0..16 {
                outcome = send_within(&mut sender, &piece, limit).await;
                if outcome.is_err() {
                    break;
                }
            }
            match outcome {
                Ok(()) => assert!(reads),
                Err(error) => assert!(!reads && matches!(error, Lost::Slow(_)), "{error}"),
            }
            drop(sender);
            drop(reading.await);
        }
    }
}
