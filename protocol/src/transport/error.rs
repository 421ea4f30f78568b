//! What can go wrong between two processes, each case with what to do about it.

use super::{IdentityPart, Remote, Role};
use crate::ClusterId;
use crate::codec::CodecError;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Why an identity cannot be made, stored, loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The name does not fit into a certificate.
    #[error(
        "name {0:?}: expected 1 to 63 characters of a-z, 0-9 and '-', neither beginning nor ending with '-'"
    )]
    InvalidName(String),
    /// A key or certificate could not be made.
    #[error("cannot make the certificate of {subject}: {source}")]
    Issue {
        /// Whose certificate.
        subject: String,
        /// What the library says.
        source: rcgen::Error,
    },
    /// The time is outside of what certificates can hold.
    #[error("cannot make a certificate now: the clock of this machine is out of range")]
    ClockOutOfRange,
    /// A file of an identity cannot be read.
    #[error("cannot read {path}: {source}; expected a file of an identity made by the cluster")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// A file of an identity cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// A file of an identity is larger than any certificate or key.
    #[error("{path}: an identity's file has at most {limit} bytes; restore the identity")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Most bytes.
        limit: u64,
    },
    /// A certificate or key cannot be used.
    #[error("the {part} is broken: {reason}; restore it, or have the cluster make a new identity")]
    Malformed {
        /// Which of the three.
        part: IdentityPart,
        /// What is wrong.
        reason: String,
    },
    /// The files were read, and their content is wrong.
    #[error("the identity in {directory} cannot be used: {source}", directory = directory.display())]
    Load {
        /// The folder.
        directory: PathBuf,
        /// What is wrong.
        source: Box<IdentityError>,
    },
    /// Processes of this role only connect.
    #[error("the identity of {role} {name} cannot listen: only coordinators and workers do")]
    CannotListen {
        /// The role in the certificate.
        role: Role,
        /// The name in the certificate.
        name: String,
    },
}

/// Why processes do not talk, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Another process listens there.
    #[error(
        "UDP port {} of {} is taken: stop the process that holds it, choose another port, or 0 for a free one",
        address.port(),
        address.ip()
    )]
    AddressInUse {
        /// Where we wanted to listen.
        address: SocketAddr,
    },
    /// No socket can be made at an address.
    #[error("cannot use the UDP address {address}: {source}; choose an address of this machine")]
    Bind {
        /// Where we wanted to listen, or to connect from.
        address: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
    /// This process's own identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Nobody answered.
    #[error(
        "{address} did not answer within {:.1} s: is the {expected} running there, and does UDP reach it?",
        waited.as_secs_f64()
    )]
    NoAnswer {
        /// Where we connected to.
        address: SocketAddr,
        /// Who should be there.
        expected: Role,
        /// How long we waited.
        waited: Duration,
    },
    /// The connection could not be made for a reason of the network.
    #[error("cannot connect to the {expected} at {address}: {reason}")]
    Unreachable {
        /// Where we connected to.
        address: SocketAddr,
        /// Who should be there.
        expected: Role,
        /// What happened.
        reason: String,
    },
    /// The other side refused our certificate because its cluster did not make it.
    #[error(
        "the {expected} at {address} refused this certificate: it belongs to another cluster ({cluster}); use the identity made by the cluster that runs there"
    )]
    OtherCluster {
        /// Where we connected to.
        address: SocketAddr,
        /// Who should be there.
        expected: Role,
        /// Cluster of our identity.
        cluster: ClusterId,
    },
    /// We refused the other side's certificate because our cluster did not make it.
    #[error(
        "the process at {address} belongs to another cluster: its certificate was not made by cluster {cluster}; use the identity made by the cluster that runs there, or the address of this cluster's {expected}"
    )]
    ForeignServer {
        /// Where we connected to.
        address: SocketAddr,
        /// Who should be there.
        expected: Role,
        /// Cluster of our identity.
        cluster: ClusterId,
    },
    /// A process with a certificate of another cluster connected to us.
    #[error(
        "refused {address}: its certificate belongs to another cluster, this one is {cluster}; it must use an identity made by this cluster"
    )]
    ForeignClient {
        /// Where it came from.
        address: SocketAddr,
        /// Our cluster.
        cluster: ClusterId,
    },
    /// A process without a certificate connected to us.
    #[error(
        "refused {address}: it presented no certificate; it must use an identity made by this cluster"
    )]
    NoCertificate {
        /// Where it came from.
        address: SocketAddr,
    },
    /// One of the two certificates is outside of its lifetime.
    #[error(
        "{whose} certificate has expired or is not valid yet (connection with {address}): check the clocks of both machines, or have the cluster make a new identity"
    )]
    Expired {
        /// The other side.
        address: SocketAddr,
        /// "this process's" or "the other side's".
        whose: &'static str,
    },
    /// Somebody of our cluster is there, but another one than we wanted.
    #[error("the process at {address} is a {got}: expected a {expected}; check the address")]
    WrongRole {
        /// Where we connected to.
        address: SocketAddr,
        /// Who should be there.
        expected: Role,
        /// Who is there.
        got: Role,
    },
    /// The certificates were not accepted for another reason.
    #[error("no connection with {address}: {reason}")]
    Refused {
        /// The other side.
        address: SocketAddr,
        /// What happened.
        reason: String,
    },
    /// The other side ended the connection on purpose.
    #[error("{remote} closed the connection: {reason}")]
    Closed {
        /// The other side.
        remote: Arc<Remote>,
        /// What it said.
        reason: String,
    },
    /// This side ended the connection.
    #[error("the connection with {remote} was closed here")]
    ClosedHere {
        /// The other side.
        remote: Arc<Remote>,
    },
    /// The connection broke.
    #[error("lost the connection with {remote}: {reason}")]
    Lost {
        /// The other side.
        remote: Arc<Remote>,
        /// What happened.
        reason: String,
    },
    /// The stream ended inside of a frame.
    #[error("{remote} ended a stream inside of a frame: expected {expected} bytes, got {got}")]
    Truncated {
        /// The other side.
        remote: Arc<Remote>,
        /// Bytes of the header or the body.
        expected: usize,
        /// Bytes that came.
        got: usize,
    },
    /// The other side no longer reads, or gave up writing, this stream.
    #[error("{remote} abandoned the stream")]
    Abandoned {
        /// The other side.
        remote: Arc<Remote>,
    },
    /// A frame is not what it should be.
    #[error("{remote}: {source}")]
    Codec {
        /// The other side.
        remote: Arc<Remote>,
        /// What is wrong.
        source: CodecError,
    },
}

impl TransportError {
    /// Whether connecting again, without changing anything, may help.
    pub fn can_retry(&self) -> bool {
        matches!(
            self,
            Self::NoAnswer { .. }
                | Self::Unreachable { .. }
                | Self::Closed { .. }
                | Self::Lost { .. }
                | Self::Abandoned { .. }
        )
    }
}
