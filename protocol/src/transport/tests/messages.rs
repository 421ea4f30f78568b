//! Messages, their limits, and the ends of streams.

use super::*;
use crate::client::{ClientReply, ClientRequest};
use crate::codec::{CodecError, FRAME_VERSION, FrameKind};
use crate::limits;
use crate::worker::{WorkerCommand, WorkerReport};

/// A message of `bytes` bytes of content.
fn chunk(bytes: usize) -> ClientReply {
    let content = (0..bytes).map(|index| (index * 31 % 251) as u8).collect();
    ClientReply::BlobChunk(content)
}

/// Requests and replies go through one stream in order, and its end is seen as such.
#[tokio::test]
async fn request_and_reply() {
    let pair = Pair::new().await;
    let (mut sender, mut receiver) = pair.worker.open().await.unwrap();
    sender.send(&ClientRequest::Jobs).await.unwrap();
    sender.send(&ClientRequest::Workers).await.unwrap();
    sender.finish();

    let (mut replies, mut requests) = pair.coordinator.accept().await.unwrap();
    assert_eq!(requests.receive().await.unwrap(), Some(ClientRequest::Jobs));
    assert_eq!(
        requests.receive().await.unwrap(),
        Some(ClientRequest::Workers)
    );
    assert_eq!(requests.receive::<ClientRequest>().await.unwrap(), None);
    replies.send(&ClientReply::Done).await.unwrap();
    replies.finish_and_wait().await.unwrap();
    pair.coordinator.close("served");

    assert_eq!(receiver.receive().await.unwrap(), Some(ClientReply::Done));
    assert_eq!(receiver.receive::<ClientReply>().await.unwrap(), None);
    let error = pair.worker.closed().await.to_string();
    assert!(error.ends_with("closed the connection: served"), "{error}");
}

/// Both sides may open streams.
#[tokio::test]
async fn the_listening_side_opens_too() {
    let pair = Pair::new().await;
    let (mut sender, _) = pair.coordinator.open().await.unwrap();
    let command = WorkerCommand::Acknowledge { sequence: 7 };
    sender.send(&command).await.unwrap();
    let (_, mut receiver) = pair.worker.accept().await.unwrap();
    assert_eq!(receiver.receive().await.unwrap(), Some(command));
}

/// Messages of 2 MiB (the stream's window) and just below the limit of their kind pass whole.
#[tokio::test]
async fn large_messages_pass() {
    let pair = Pair::new().await;
    let (mut sender, _) = pair.worker.open().await.unwrap();
    let messages = [chunk(2 << 20), chunk(limits::CLIENT_REPLY_BYTES - 8)];
    let receive = async {
        let (_, mut receiver) = pair.coordinator.accept().await.unwrap();
        let first = receiver.receive::<ClientReply>().await.unwrap().unwrap();
        [first, receiver.receive().await.unwrap().unwrap()]
    };
    let send = async {
        for message in &messages {
            sender.send(message).await.unwrap();
        }
    };
    let (received, ()) = tokio::join!(receive, send);
    // Without the bytes in the failure's text.
    assert!(received == messages);
}

/// A message above its limit is refused where it would be sent; the stream goes on.
#[tokio::test]
async fn oversized_message_is_not_sent() {
    let pair = Pair::new().await;
    let (mut sender, _) = pair.worker.open().await.unwrap();
    let error = sender
        .send(&chunk(limits::CLIENT_REPLY_BYTES))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("a ClientReply may have 4194304"),
        "{error}"
    );
    sender.send(&ClientReply::Done).await.unwrap();
    let (_, mut receiver) = pair.coordinator.accept().await.unwrap();
    assert_eq!(receiver.receive().await.unwrap(), Some(ClientReply::Done));
}

/// What `receive` says to `bytes` on a stream that stays open: an answer proves that it did not
/// wait for, or take memory for, a body.
async fn receive_raw(bytes: &[u8]) -> TransportError {
    let pair = Pair::new().await;
    let (mut raw, _keep) = pair.worker.inner().open_bi().await.unwrap();
    raw.write_all(bytes).await.unwrap();
    let (_, mut receiver) = pair.coordinator.accept().await.unwrap();
    receiver.receive::<WorkerReport>().await.unwrap_err()
}

fn header(bytes: u32, kind: u8, version: u8) -> Vec<u8> {
    let mut header = bytes.to_le_bytes().to_vec();
    header.extend([kind, version]);
    header
}

/// A header that announces too much, another kind or another version is refused at once, and
/// the error names the peer.
#[tokio::test]
async fn hostile_headers_are_refused_at_once() {
    let kind = FrameKind::WorkerReport as u8;
    for bytes in [limits::WORKER_REPORT_BYTES as u32 + 1, u32::MAX] {
        let error = receive_raw(&header(bytes, kind, FRAME_VERSION)).await;
        let TransportError::Codec {
            source: CodecError::TooLarge { got, .. },
            ..
        } = error
        else {
            panic!("{error}")
        };
        assert_eq!(got, bytes as usize);
    }
    let error = receive_raw(&header(1, FrameKind::ClientRequest as u8, FRAME_VERSION)).await;
    assert!(
        error.to_string().starts_with("worker w1 at 127.0.0.1:")
            && error
                .to_string()
                .ends_with("frame of kind 3: expected WorkerReport (1)"),
        "{error}"
    );
    let error = receive_raw(&header(1, kind, 99)).await;
    assert!(error.to_string().contains("version 99"), "{error}");
}

/// A stream that ends inside of a header or a body is an error, not an end.
#[tokio::test]
async fn half_a_frame_is_an_error() {
    let header = header(100, FrameKind::WorkerReport as u8, FRAME_VERSION);
    let body = [header.as_slice(), &[1, 2, 3]].concat();
    for (sent, expected, got) in [
        (&header[..4], 6, 4),
        (&header[..], 100, 0),
        (&body[..], 100, 3),
    ] {
        let pair = Pair::new().await;
        let (mut raw, _keep) = pair.worker.inner().open_bi().await.unwrap();
        raw.write_all(sent).await.unwrap();
        raw.finish().unwrap();
        let (_, mut receiver) = pair.coordinator.accept().await.unwrap();
        let error = receiver.receive::<WorkerReport>().await.unwrap_err();
        let TransportError::Truncated {
            expected: e,
            got: g,
            ..
        } = error
        else {
            panic!("{error}")
        };
        assert_eq!((e, g), (expected, got));
    }
}

/// A reading queue gives the messages in order, then ends with the stream; a writing queue
/// finishes the stream when it is dropped.
#[tokio::test]
async fn queues_carry_and_end() {
    let pair = Pair::new().await;
    let (sender, _) = pair.worker.open().await.unwrap();
    let (queue, writer) = sender.into_queue::<WorkerReport>(2);
    let sent: Vec<_> = (0..50)
        .map(|process| WorkerReport::Heartbeat {
            executors: vec![process],
        })
        .collect();
    let send = async {
        for message in sent.clone() {
            queue.send(message).await.unwrap();
        }
        drop(queue);
        writer.await.unwrap().unwrap();
    };
    let receive = async {
        let (_, receiver) = pair.coordinator.accept().await.unwrap();
        let mut queue = receiver.into_queue::<WorkerReport>(2);
        let mut received = Vec::new();
        while let Some(message) = queue.recv().await {
            received.push(message.unwrap());
        }
        received
    };
    let ((), received) = tokio::join!(send, receive);
    assert_eq!(received, sent);
}

/// Dropping a reading queue ends its task: the other side is told to stop, also while it waits.
#[tokio::test]
async fn dropped_queue_stops_the_sender() {
    let pair = Pair::new().await;
    let (mut sender, _) = pair.worker.open().await.unwrap();
    sender.send(&ClientRequest::Jobs).await.unwrap();
    let (_, receiver) = pair.coordinator.accept().await.unwrap();
    let mut queue = receiver.into_queue::<ClientRequest>(1);
    assert_eq!(queue.recv().await.unwrap().unwrap(), ClientRequest::Jobs);
    drop(queue);
    let error = loop {
        if let Err(error) = sender.send(&ClientRequest::Jobs).await {
            break error;
        }
    };
    assert!(matches!(error, TransportError::Abandoned { .. }), "{error}");
}

/// After its first error a reading queue ends.
#[tokio::test]
async fn queue_ends_after_an_error() {
    let pair = Pair::new().await;
    let (mut sender, _) = pair.worker.open().await.unwrap();
    sender.send(&ClientRequest::Jobs).await.unwrap();
    sender.send(&ClientRequest::Jobs).await.unwrap();
    let (_, receiver) = pair.coordinator.accept().await.unwrap();
    let mut queue = receiver.into_queue::<WorkerReport>(4);
    let error = queue.recv().await.unwrap().unwrap_err();
    assert!(matches!(error, TransportError::Codec { .. }), "{error}");
    assert!(queue.recv().await.is_none());
}

/// A closed connection ends what waits on it, on both sides, with who closed it and why; a long
/// reason is cut.
#[tokio::test]
async fn close_ends_everything() {
    let pair = Pair::new().await;
    let (mut sender, mut receiver) = pair.worker.open().await.unwrap();
    sender.send(&ClientRequest::Jobs).await.unwrap();
    pair.coordinator.accept().await.unwrap();
    pair.coordinator.close(&"x".repeat(10_000));
    let error = receiver.receive::<ClientReply>().await.unwrap_err();
    let TransportError::Closed { reason, .. } = &error else {
        panic!("{error}")
    };
    assert!(reason.len() <= 512 && reason.starts_with("xxx"), "{reason}");
    assert!(error.can_retry());
    let error = pair.coordinator.open().await.unwrap_err();
    assert!(
        matches!(error, TransportError::ClosedHere { .. }) && !error.can_retry(),
        "{error}"
    );
}
