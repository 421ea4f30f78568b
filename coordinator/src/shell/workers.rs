//! One worker's connection: its one stream, both ways.

use super::leader_thread::{Inbox, Message, WorkerLink};
use crate::leader::Event;
use crate::scheduler::ConnectionId;
use evoring_protocol::client::ClientReply;
use evoring_protocol::codec::{CodecError, FrameKind};
use evoring_protocol::transport::{Connection, Sender, TransportError};
use evoring_protocol::worker::{Hello, WorkerCommand, WorkerReport};
use evoring_protocol::{ErrorCode, RemoteError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// The first stream and the hello on it must come within this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Reports that wait to be taken by the leader thread.
const REPORTS: usize = 64;
/// Commands that wait for the network; an agent that reads none of these is cut off.
const COMMANDS: usize = 1_024;
/// A refused agent has this long to read why.
const FAREWELL: Duration = Duration::from_secs(1);

/// A connection whose agent has said hello.
struct Session {
    hello: Hello,
    reports: mpsc::Receiver<Result<WorkerReport, TransportError>>,
    commands: mpsc::Sender<WorkerCommand>,
    writer: JoinHandle<Result<(), TransportError>>,
}

/// Serves the connection until either side ends it.
pub(super) async fn serve(
    connection: Connection,
    inbox: Inbox,
    mut stopped: watch::Receiver<bool>,
) {
    let Some(Session {
        hello,
        mut reports,
        commands,
        writer,
    }) = greet(&connection).await
    else {
        return;
    };
    let id = inbox.connection();
    let (close, closed) = oneshot::channel();
    let link = WorkerLink {
        commands: commands.clone(),
        close,
    };
    if !inbox
        .send(Message::Connected {
            connection: id,
            link,
        })
        .await
        || !inbox
            .send(Message::Event(Event::Hello {
                connection: id,
                hello,
            }))
            .await
    {
        return;
    }
    let reason = tokio::select! {
        biased;
        _ = stopped.wait_for(|stopped| *stopped) => End::Here("the coordinator stops".to_owned()),
        reason = closed => End::Here(reason.unwrap_or_else(|_| "the coordinator stops".to_owned())),
        reason = forward(&mut reports, &inbox, id) => End::There(reason),
        outcome = writer => End::There(match outcome {
            Ok(Err(error)) => error.to_string(),
            Ok(Ok(())) | Err(_) => "the stream to the agent ended".to_owned(),
        }),
    };
    match reason {
        End::Here(reason) => farewell(&connection, commands, &reason).await,
        End::There(reason) => {
            let event = Event::Disconnected {
                connection: id,
                reason: reason.clone(),
            };
            inbox.send(Message::Event(event)).await;
            connection.close(&reason);
        }
    }
}

/// Waits for the first stream and the hello on it; refuses whoever is not the agent that the
/// certificate names.
async fn greet(connection: &Connection) -> Option<Session> {
    let peer = connection.peer();
    let first = async {
        let (sender, receiver) = connection.accept().await?;
        let mut reports = receiver.into_queue::<WorkerReport>(REPORTS);
        let first = reports.recv().await;
        Ok::<_, TransportError>((sender, reports, first))
    };
    let (sender, reports, first) = match tokio::time::timeout(HELLO_TIMEOUT, first).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => {
            tracing::warn!(%peer, %error, "a worker's connection ended before its hello");
            return None;
        }
        Err(_) => {
            connection.close("no hello came");
            return None;
        }
    };
    if let Some(Err(error)) = &first
        && is_kind(error, FrameKind::ClientRequest)
    {
        refuse_client(connection, sender).await;
        return None;
    }
    let (commands, writer) = sender.into_queue::<WorkerCommand>(COMMANDS);
    let error = match first {
        Some(Ok(WorkerReport::Hello(hello))) if hello.worker.as_str() == peer.name => {
            return Some(Session {
                hello,
                reports,
                commands,
                writer,
            });
        }
        Some(Ok(WorkerReport::Hello(hello))) => {
            let message = format!(
                "the agent calls itself {}, its certificate is for {}",
                hello.worker, peer.name
            );
            RemoteError::new(ErrorCode::Forbidden, message)
        }
        Some(Ok(_)) => RemoteError::new(
            ErrorCode::Invalid,
            "the first message of an agent must be its hello",
        ),
        Some(Err(error)) => RemoteError::new(ErrorCode::Invalid, error.to_string()),
        None => RemoteError::new(ErrorCode::Invalid, "the agent said nothing"),
    };
    tracing::warn!(%peer, %error, "a worker is refused");
    let reason = error.message.clone();
    // An agent that reads nothing is cut off below.
    let _ = commands.send(WorkerCommand::Refuse(error)).await;
    farewell(connection, commands, &reason).await;
    None
}

/// Somebody asks what clients ask with a worker's certificate.
async fn refuse_client(connection: &Connection, mut sender: Sender) {
    let message = "a certificate of the role worker may not ask what clients ask; use one of the role \
                   submitter or viewer";
    let error = RemoteError::new(ErrorCode::Forbidden, message);
    // Whoever asked may be gone.
    let _ = sender.send(&ClientReply::Error(error)).await;
    let _ = sender.finish_and_wait().await;
    connection.close(message);
}

/// Whether the other side sent a message of this kind, which this stream does not carry.
pub(super) fn is_kind(error: &TransportError, kind: FrameKind) -> bool {
    matches!(
        error,
        TransportError::Codec { source: CodecError::WrongKind { got, .. }, .. } if *got == kind as u8
    )
}

/// Who ended a connection.
enum End {
    Here(String),
    There(String),
}

/// Hands reports on until the stream ends; gives the reason.
async fn forward(
    reports: &mut mpsc::Receiver<Result<WorkerReport, TransportError>>,
    inbox: &Inbox,
    connection: ConnectionId,
) -> String {
    loop {
        match reports.recv().await {
            Some(Ok(report)) => {
                if !inbox
                    .send(Message::Event(Event::Report { connection, report }))
                    .await
                {
                    return "the coordinator stops".to_owned();
                }
            }
            Some(Err(error)) => return error.to_string(),
            None => return "the agent ended its stream".to_owned(),
        }
    }
}

/// Lets the agent read what was sent, then ends the connection.
async fn farewell(connection: &Connection, commands: mpsc::Sender<WorkerCommand>, reason: &str) {
    // The stream is finished once nobody can add to it.
    drop(commands);
    let _ = tokio::time::timeout(FAREWELL, connection.closed()).await;
    connection.close(reason);
}
