//! How members find and know each other: a name and proofs derived from the roster's secret.
//!
//! The first rank listens on an abstract socket, which vanishes with its process. A member sends
//! one message of [`HELLO_BYTES`]; if its proof is right it gets the first rank's proof and the
//! memfd, else the connection is closed. Nothing that travels, nor the name, tells the secret.

use super::CollectiveError;
use evoring_protocol::Digest;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};

/// Names what speaks here, with its version.
const GREETING: [u8; 4] = *b"EVS1";
/// Bytes of a member's first and only message: greeting, rank, proof.
pub const HELLO_BYTES: usize = 4 + 4 + PROOF_BYTES;
/// Bytes of a proof.
pub const PROOF_BYTES: usize = 32;

/// What a roster's members share.
pub type Secret = [u8; 32];

/// Where the members of the gang with this secret meet.
pub fn address(secret: &Secret) -> Result<SocketAddr, CollectiveError> {
    let name = format!("evoring-gang-{}", derive(b"name", secret, 0));
    SocketAddr::from_abstract_name(name)
        .map_err(CollectiveError::io("name the gang's meeting point"))
}

fn derive(purpose: &[u8], secret: &Secret, rank: u32) -> Digest {
    Digest::of(
        &[
            b"evoring shm ",
            purpose,
            secret.as_slice(),
            &rank.to_le_bytes(),
        ]
        .concat(),
    )
}

/// What `rank` says first.
pub fn hello(secret: &Secret, rank: u32) -> [u8; HELLO_BYTES] {
    let mut bytes = [0; HELLO_BYTES];
    bytes[..4].copy_from_slice(&GREETING);
    bytes[4..8].copy_from_slice(&rank.to_le_bytes());
    bytes[8..].copy_from_slice(&derive(b"member", secret, rank).0);
    bytes
}

/// The rank that a hello proves, if it proves one.
pub fn read_hello(secret: &Secret, bytes: &[u8; HELLO_BYTES]) -> Option<u32> {
    let [_, _, _, _, a, b, c, d, ..] = *bytes;
    let rank = u32::from_le_bytes([a, b, c, d]);
    is_equal(&hello(secret, rank), bytes).then_some(rank)
}

/// What the first rank answers with the memfd.
pub fn answer(secret: &Secret) -> [u8; PROOF_BYTES] {
    derive(b"first", secret, 0).0
}

/// Compares in a time that does not tell where they differ.
pub fn is_equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .fold(0, |differences, (a, b)| differences | (a ^ b))
            == 0
}

/// Sends the first rank's answer together with the memfd.
pub fn send_answer(
    stream: &UnixStream,
    secret: &Secret,
    file: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [file];
    control.push(SendAncillaryMessage::ScmRights(&files));
    // A fresh connection takes these few bytes whole.
    let sent = sendmsg(
        stream,
        &[IoSlice::new(&answer(secret))],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    if sent == PROOF_BYTES {
        Ok(())
    } else {
        Err(Errno::MSGSIZE)
    }
}

/// Receives what is there of the first rank's answer: `None` at the end of the stream.
pub fn receive_answer(
    stream: impl AsFd,
    bytes: &mut [u8],
) -> Result<Option<(usize, Option<OwnedFd>)>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let file = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    Ok((received.bytes > 0).then_some((received.bytes, file)))
}
