//! Who is on the other side, as its certificate says.

use super::error::IdentityError;
use super::identity::IdentityPart;
use crate::ClusterId;
use rustls::pki_types::CertificateDer;
use std::fmt;
use std::net::SocketAddr;

/// Last label of every name in our certificates.
const DOMAIN: &str = "evoring";

/// What the holder of a certificate may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Decides; listens for all others.
    Coordinator,
    /// Computes.
    Worker,
    /// A person or program that submits and cancels jobs.
    Submitter,
    /// A person or program that only looks.
    Viewer,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [
        Self::Coordinator,
        Self::Worker,
        Self::Submitter,
        Self::Viewer,
    ];

    /// Name in certificates and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Worker => "worker",
            Self::Submitter => "submitter",
            Self::Viewer => "viewer",
        }
    }

    /// Whether processes of this role listen.
    pub fn can_listen(self) -> bool {
        matches!(self, Self::Coordinator | Self::Worker)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The holder of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// What it may do.
    pub role: Role,
    /// Its name, unique within its role and cluster.
    pub name: String,
    /// Its cluster.
    pub cluster: ClusterId,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}

impl Peer {
    /// Checks the name: it must be a DNS label.
    pub(super) fn new(role: Role, name: &str, cluster: ClusterId) -> Result<Self, IdentityError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let valid = (1..=63).contains(&name.len())
            && name.bytes().all(allowed)
            && !name.starts_with('-')
            && !name.ends_with('-');
        if valid {
            Ok(Self {
                role,
                name: name.to_owned(),
                cluster,
            })
        } else {
            Err(IdentityError::InvalidName(name.chars().take(80).collect()))
        }
    }

    /// The name in the certificate that holds all of this.
    pub(super) fn dns_name(&self) -> String {
        format!("{}.{}.{}", self.role, self.name, cluster_name(self.cluster))
    }

    /// Reads a certificate. It proves nothing unless the certificate's chain was verified.
    pub(super) fn from_certificate(
        certificate: &CertificateDer<'_>,
    ) -> Result<Self, IdentityError> {
        let malformed = |reason: &dyn fmt::Display| IdentityPart::Certificate.malformed(reason);
        let parsed = webpki::EndEntityCert::try_from(certificate).map_err(|e| malformed(&e))?;
        let mut peers = parsed.valid_dns_names().filter_map(Self::from_dns_name);
        match (peers.next(), peers.next()) {
            (Some(peer), None) => Ok(peer),
            (None, _) => Err(malformed(&"no name of the form ROLE.NAME.CLUSTER.evoring")),
            (Some(_), Some(_)) => Err(malformed(&"it names more than one role")),
        }
    }

    fn from_dns_name(name: &str) -> Option<Self> {
        let mut labels = name.split('.');
        let (role, name, cluster) = (labels.next()?, labels.next()?, labels.next()?);
        if labels.next() != Some(DOMAIN) || labels.next().is_some() {
            return None;
        }
        let role = Role::ALL.into_iter().find(|known| known.name() == role)?;
        Self::new(role, name, cluster_from_hexadecimal(cluster)?).ok()
    }
}

/// The name that all certificates of a cluster have; all their other names lie below it.
pub(super) fn cluster_name(cluster: ClusterId) -> String {
    format!("{cluster}.{DOMAIN}")
}

fn cluster_from_hexadecimal(text: &str) -> Option<ClusterId> {
    let mut bytes = [0u8; 8];
    if text.len() != 2 * bytes.len()
        || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(ClusterId(bytes))
}

/// The other side of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Who it is, verified.
    pub peer: Peer,
    /// Its address when the connection began.
    pub address: SocketAddr,
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.peer, self.address)
    }
}
