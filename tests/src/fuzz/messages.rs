//! Frames and messages of the wire: network input of every process.

use evoring_protocol::client::{ClientReply, ClientRequest};
use evoring_protocol::codec::{self, HEADER_BYTES, Message};
use evoring_protocol::executor::{ExecutorCommand, ExecutorReport};
use evoring_protocol::peer::{PeerMessage, PeerReply};
use evoring_protocol::worker::{WorkerCommand, WorkerReport};
use std::io::Cursor;

/// A body: refused, or a message that survives another round.
fn message<M: Message>(body: &[u8]) {
    let Ok(message) = codec::decode_body::<M>(body) else {
        return;
    };
    let frame = codec::encode(&message).expect("a decoded message fits into a frame");
    // One message at a time: the target's memory is that of decoding.
    drop(message);
    let again = codec::decode_body::<M>(&frame[HEADER_BYTES..]).expect("what was encoded decodes");
    // Not the messages: a NaN is not equal to itself.
    assert_eq!(codec::encode(&again).as_deref(), Ok(frame.as_slice()));
}

/// Body of a report of a worker, read by the coordinator.
pub fn worker_report(data: &[u8]) {
    message::<WorkerReport>(data);
}

/// Body of a command to a worker, read by its agent.
pub fn worker_command(data: &[u8]) {
    message::<WorkerCommand>(data);
}

/// Body of a request of a client, read by the coordinator.
pub fn client_request(data: &[u8]) {
    message::<ClientRequest>(data);
}

/// Body of a reply, read by the command line.
pub fn client_reply(data: &[u8]) {
    message::<ClientReply>(data);
}

/// Body of a command to an executor.
pub fn executor_command(data: &[u8]) {
    message::<ExecutorCommand>(data);
}

/// Body of a report of an executor, read by its agent.
pub fn executor_report(data: &[u8]) {
    message::<ExecutorReport>(data);
}

/// Body of a message of a coordinator, read by another.
pub fn peer_message(data: &[u8]) {
    message::<PeerMessage>(data);
}

/// Body of a coordinator's answer to another.
pub fn peer_reply(data: &[u8]) {
    message::<PeerReply>(data);
}

/// A stream of frames with their headers, through the blocking reader.
pub fn frames(data: &[u8]) {
    let mut stream = Cursor::new(data);
    while let Ok(Some(request)) = codec::read_frame::<ClientRequest>(&mut stream) {
        let mut written = Vec::new();
        codec::write_frame(&mut written, &request).expect("a decoded message fits into a frame");
        let again = codec::read_frame::<ClientRequest>(&mut Cursor::new(written));
        assert_eq!(again.expect("what was written can be read"), Some(request));
    }
}
