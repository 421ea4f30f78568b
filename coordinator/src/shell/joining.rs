//! A coordinator without an id waits until a leader gives it one.

use super::member_file::{self, Membership};
use super::peers::first_word;
use evoring_protocol::peer::{PeerMessage, PeerRefusal, PeerReply};
use evoring_protocol::transport::{Connection, Listener, Role, TransportError};
use std::path::Path;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// A refused peer has this long to read why.
const FAREWELL: Duration = Duration::from_secs(1);
const WAITS: &str = "this coordinator waits to be taken into a group";

/// Waits for a leader's word and keeps it durably; `None` if the process shall end before.
pub(super) async fn wait(
    listener: &mut Listener,
    folder: &Path,
    end: &mut oneshot::Receiver<String>,
) -> anyhow::Result<Option<Membership>> {
    let (told, mut words) = mpsc::channel(1);
    loop {
        tokio::select! {
            biased;
            _ = &mut *end => return Ok(None),
            Some((membership, connection, sender)) = words.recv() => {
                let (membership, connection): (Membership, Connection) = (membership, connection);
                let mut sender: evoring_protocol::transport::Sender = sender;
                member_file::write(folder, &membership)?;
                tracing::info!(group = %membership.group, id = membership.id, "taken into a group");
                // The leader says hello again; that it hears this only spares it an attempt.
                let _ = sender.send(&PeerReply::Welcome).await;
                sender.finish();
                drop(connection);
                return Ok(Some(membership));
            }
            accepted = listener.accept() => match accepted {
                Some(Ok(connection)) if connection.peer().role == Role::Coordinator => {
                    let told = told.clone();
                    tokio::spawn(async move {
                        if let Err(error) = hear(connection, told).await {
                            tracing::debug!(%error, "a coordinator's connection ended");
                        }
                    });
                }
                Some(Ok(connection)) => connection.close(WAITS),
                Some(Err(error)) => tracing::warn!(%error, "a connection was refused"),
                None => anyhow::bail!("the listener at {} ended", listener.local_addr()),
            },
        }
    }
}

type Word = (Membership, Connection, evoring_protocol::transport::Sender);

async fn hear(connection: Connection, told: mpsc::Sender<Word>) -> Result<(), TransportError> {
    let Some((mut sender, _receiver, first)) = first_word(&connection).await? else {
        connection.close(WAITS);
        return Ok(());
    };
    let message = match first {
        PeerMessage::Join(hello) => {
            let membership = Membership {
                group: hello.group,
                id: hello.to,
            };
            // Only the first word counts; the process goes on as that member.
            let _ = told.send((membership, connection, sender)).await;
            return Ok(());
        }
        PeerMessage::Hello(hello) => format!(
            "{WAITS}: it is not member {}, whose disk was lost; remove that member and add this \
             process anew",
            hello.to
        ),
        _ => WAITS.to_owned(),
    };
    let refusal = PeerRefusal::WrongId;
    sender
        .send(&PeerReply::Refused {
            refusal,
            message: message.clone(),
        })
        .await?;
    sender.finish();
    let _ = tokio::time::timeout(FAREWELL, connection.closed()).await;
    connection.close(&message);
    Ok(())
}
