//! Connections that other coordinators made to this one.

use super::super::leader_thread::{Inbox, Message, Standing};
use super::super::member_file::Membership;
use super::super::raft_thread::RaftSender;
use super::Complaints;
use crate::consensus::{Assembly, decode_message};
use crate::leader;
use evoring_protocol::peer::{PeerHello, PeerMessage, PeerRefusal, PeerReply};
use evoring_protocol::transport::{Connection, Receiver, Sender, TransportError};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The first stream and the first message on it come within this time.
const FIRST_WORD: Duration = Duration::from_secs(5);
/// A refused coordinator has this long to read why.
const FAREWELL: Duration = Duration::from_secs(1);

/// Who is let in, and whom its messages go to.
#[derive(Debug, Clone)]
pub(in super::super) struct Doorkeeper {
    pub own: Membership,
    pub standing: watch::Receiver<Arc<Standing>>,
    pub raft: RaftSender,
    pub inbox: Inbox,
}

/// The stream that another coordinator opens first, and what it says on it; none if it is late or says
/// nothing.
pub(in super::super) async fn first_word(
    connection: &Connection,
) -> Result<Option<(Sender, Receiver, PeerMessage)>, TransportError> {
    let word = async {
        let (sender, mut receiver) = connection.accept().await?;
        let message = receiver.receive().await?;
        Ok(message.map(|message| (sender, receiver, message)))
    };
    let word = tokio::time::timeout(FIRST_WORD, word).await;
    word.unwrap_or(Ok(None))
}

/// Serves a coordinator's connection until it ends.
pub(in super::super) async fn serve(
    connection: Connection,
    door: Doorkeeper,
    mut stopped: watch::Receiver<bool>,
) {
    let served = async {
        let Some((mut sender, receiver, PeerMessage::Hello(hello) | PeerMessage::Join(hello))) =
            first_word(&connection).await?
        else {
            connection.close("a coordinator must say hello first");
            return Ok(());
        };
        if let Err((refusal, message)) = door.admits(&connection.peer().name, &hello) {
            tracing::warn!(peer = %connection.peer(), from = hello.from, message, "a coordinator is refused");
            return refuse(&connection, sender, refusal, message).await;
        }
        sender.send(&PeerReply::Welcome).await?;
        let from = hello.from;
        door.raft
            .address(from, connection.peer().name.clone(), hello.address);
        let mut standing = door.standing.clone();
        let name = &connection.peer().name;
        tokio::select! {
            biased;
            // It may never have heard of that; when it says hello again, it is told.
            ended = standing.wait_for(|standing| standing.refusal(from, name).is_some()) => {
                let why = ended.ok().and_then(|standing| standing.refusal(from, name));
                let why = why.map_or_else(|| "this coordinator ends".to_owned(), |(_, why)| why);
                tracing::info!(peer = %connection.peer(), from, why, "a coordinator is not heard any more");
                connection.close(&why);
                Ok(())
            }
            outcome = door.listen(from, receiver) => outcome,
            outcome = door.snapshots(from, &connection) => outcome,
        }
    };
    let outcome = tokio::select! {
        biased;
        _ = stopped.wait_for(|stopped| *stopped) => Ok(()),
        outcome = served => outcome,
    };
    if let Err(error) = outcome {
        tracing::debug!(peer = %connection.peer(), %error, "a coordinator's connection ended");
    }
}

async fn refuse(
    connection: &Connection,
    mut sender: Sender,
    refusal: PeerRefusal,
    message: String,
) -> Result<(), TransportError> {
    let reply = PeerReply::Refused {
        refusal,
        message: message.clone(),
    };
    sender.send(&reply).await?;
    sender.finish();
    // Its own side closes when it has read it.
    let _ = tokio::time::timeout(FAREWELL, connection.closed()).await;
    connection.close(&message);
    Ok(())
}

impl Standing {
    /// Why the coordinator of this certificate is not, or no longer, heard as the member of this id
    /// (`PEER-1`). One of which this coordinator, being behind, has not heard yet is let in, and looked
    /// at again with every change.
    fn refusal(&self, id: u64, name: &str) -> Option<(PeerRefusal, String)> {
        if self.has_left(id) {
            let message = format!("member {id} was removed from the group");
            return Some((PeerRefusal::Removed, message));
        }
        let member = self.members.get(&id)?;
        let message = || {
            let known = &member.name;
            format!("member {id} is {known}, but the certificate is {name}'s")
        };
        (member.name != name).then(|| (PeerRefusal::WrongName, message()))
    }
}

impl Doorkeeper {
    /// Whether a coordinator of this certificate may say this hello (`PEER-1`, `PEER-2`).
    fn admits(&self, name: &str, hello: &PeerHello) -> Result<(), (PeerRefusal, String)> {
        let own = self.own;
        if hello.group != own.group {
            let message = format!(
                "this coordinator belongs to the group {}, not to {}",
                own.group, hello.group
            );
            return Err((PeerRefusal::OtherGroup, message));
        }
        if hello.to != own.id {
            let message = format!(
                "this coordinator is member {}, not {}: the other one's disk was lost; remove member {} \
                 and add the process at that address anew",
                own.id, hello.to, hello.to
            );
            return Err((PeerRefusal::WrongId, message));
        }
        let refusal = self.standing.borrow().refusal(hello.from, name);
        refusal.map_or(Ok(()), Err)
    }

    /// Takes the messages of the connection's first stream.
    async fn listen(&self, from: u64, mut receiver: Receiver) -> Result<(), TransportError> {
        let mut complaints = Complaints::default();
        while let Some(message) = receiver.receive::<PeerMessage>().await? {
            let taken = match message {
                PeerMessage::Raft(messages) => {
                    let outcomes = messages.iter().map(|bytes| self.raft_message(from, bytes));
                    // One that is wrong does not keep the others out.
                    outcomes.fold(Ok(()), Result::and)
                }
                PeerMessage::Health(health) => {
                    let event = leader::Event::Health { id: from, health };
                    // It comes again soon; the messages behind it do not wait for clients and workers.
                    self.inbox.offer(Message::Event(event));
                    Ok(())
                }
                PeerMessage::Hello(_) | PeerMessage::Join(_) => Err("a second hello".to_owned()),
                PeerMessage::SnapshotStart { .. } | PeerMessage::SnapshotChunk(_) => {
                    Err("a snapshot on the stream of messages".to_owned())
                }
            };
            if let Err(problem) = taken
                && let Some(unsaid) = complaints.may_complain(from, Instant::now())
            {
                tracing::warn!(
                    from,
                    problem,
                    unsaid,
                    "a message of another coordinator is not taken: does it run the same build as this one?"
                );
            }
        }
        Ok(())
    }

    fn raft_message(&self, from: u64, bytes: &[u8]) -> Result<(), String> {
        let message = decode_message(bytes).map_err(|error| error.to_string())?;
        let snapshot = message.snapshot.as_ref();
        if snapshot.is_some_and(|snapshot| !snapshot.is_empty()) {
            return Err("a snapshot came without its stream".to_owned());
        }
        self.raft.peer(from, message, bytes.len());
        Ok(())
    }

    /// Takes the snapshots of the connection's other streams, one after the other.
    async fn snapshots(&self, from: u64, connection: &Connection) -> Result<(), TransportError> {
        loop {
            let (mut sender, mut receiver) = connection.accept().await?;
            let reply = match self.snapshot(from, &mut receiver).await? {
                Ok(()) => PeerReply::SnapshotTaken,
                Err(message) => {
                    tracing::warn!(from, message, "a snapshot is not taken");
                    let refusal = PeerRefusal::NotReady;
                    PeerReply::Refused { refusal, message }
                }
            };
            sender.send(&reply).await?;
            sender.finish();
        }
    }

    async fn snapshot(
        &self,
        from: u64,
        receiver: &mut Receiver,
    ) -> Result<Result<(), String>, TransportError> {
        let Some(PeerMessage::SnapshotStart {
            message,
            bytes,
            digest,
        }) = receiver.receive().await?
        else {
            return Ok(Err("a snapshot's stream begins with its size".to_owned()));
        };
        let mut assembly = match Assembly::begin(&message, bytes, digest) {
            Ok(assembly) => assembly,
            Err(error) => return Ok(Err(error.to_string())),
        };
        while let Some(piece) = receiver.receive::<PeerMessage>().await? {
            let PeerMessage::SnapshotChunk(piece) = piece else {
                return Ok(Err("expected a piece of the snapshot".to_owned()));
            };
            if let Err(error) = assembly.add(&piece) {
                return Ok(Err(error.to_string()));
            }
        }
        match assembly.finish() {
            Ok(message) => {
                // At most `SNAPSHOT_BYTES`.
                self.raft.peer(from, message, bytes as usize);
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::raft_thread::input_channel;
    use super::*;
    use crate::state::Member;
    use evoring_protocol::peer::{GroupId, RAFT_MESSAGE_BYTES};
    use prost::Message as _;
    use raft::eraftpb;
    use std::collections::{BTreeMap, BTreeSet};
    use tokio::sync::mpsc;

    const GROUP: GroupId = GroupId([1; 16]);

    /// The door of coordinator 1 of a group in which 3 was removed and 4 still leaves.
    fn door(nodes: &[u64]) -> Doorkeeper {
        let member = |name: &str| Member {
            name: name.into(),
            address: "127.0.0.1:1".into(),
            has_joined: true,
        };
        let standing = Standing {
            is_elected: true,
            leads: true,
            members: BTreeMap::from([(1, member("c1")), (2, member("c2"))]),
            next_member: 5,
            nodes: nodes.iter().copied().collect::<BTreeSet<u64>>(),
        };
        let (raft, _) = input_channel();
        let (inbox, _) = mpsc::channel(1);
        Doorkeeper {
            own: Membership {
                group: GROUP,
                id: 1,
            },
            standing: watch::channel(Arc::new(standing)).1,
            raft,
            inbox: Inbox::new(inbox),
        }
    }

    fn hello(from: u64) -> PeerHello {
        PeerHello {
            group: GROUP,
            from,
            to: 1,
            address: "127.0.0.1:2".into(),
        }
    }

    /// Claim (`PEER-1`, `PEER-2`): a member is known by its number and its name; a process answers to
    /// its own number in its own group; who was removed is told so once its vote is needed no more, and
    /// who is not known yet is let in.
    /// Method: each hello with the answer that it must get.
    #[test]
    fn who_is_let_in() {
        let door_of_group = door(&[1, 2, 4]);
        let other_group = PeerHello {
            group: GroupId([2; 16]),
            ..hello(2)
        };
        let other_id = PeerHello { to: 7, ..hello(2) };
        for (name, hello, expected) in [
            ("c2", hello(2), None),
            ("c9", hello(2), Some(PeerRefusal::WrongName)),
            ("c2", other_group, Some(PeerRefusal::OtherGroup)),
            ("c2", other_id, Some(PeerRefusal::WrongId)),
            ("c3", hello(3), Some(PeerRefusal::Removed)),
            ("c4", hello(4), None),
            ("c5", hello(5), None),
        ] {
            let refused = door_of_group.admits(name, &hello).err();
            let got = refused.map(|(refusal, _)| refusal);
            assert_eq!(got, expected, "{name} {hello:?}");
        }
        // Before this coordinator knows the membership, nobody is sent away for good.
        assert_eq!(door(&[]).admits("c3", &hello(3)), Ok(()));
    }

    /// Claim: what is no message of Raft, is too large, or brings a snapshot without its stream, is not
    /// handed on, and the reason is given.
    /// Method: one of each, and a good one.
    #[test]
    fn what_is_handed_on() {
        let door = door(&[1, 2]);
        let with_snapshot = eraftpb::Message {
            snapshot: Some(eraftpb::Snapshot {
                data: vec![1],
                metadata: Some(eraftpb::SnapshotMetadata {
                    index: 1,
                    ..Default::default()
                }),
            }),
            ..eraftpb::Message::default()
        };
        let good = eraftpb::Message::default().encode_to_vec();
        for (bytes, expected) in [
            (good, None),
            (vec![0xff; 9], Some("malformed")),
            (vec![0; RAFT_MESSAGE_BYTES + 1], Some("at most")),
            (with_snapshot.encode_to_vec(), Some("without its stream")),
        ] {
            let problem = door.raft_message(2, &bytes).err();
            match expected {
                None => assert_eq!(problem, None),
                Some(expected) => assert!(problem.unwrap().contains(expected)),
            }
        }
    }
}
