//! What a process needs to prove who it is, and its files.

use super::error::IdentityError;
use super::peer::Peer;
use super::tls;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// File of the certificate.
pub const CERTIFICATE_FILE: &str = "certificate.pem";
/// File of the private key; only its owner may read it.
pub const KEY_FILE: &str = "key.pem";
/// File of the authority's certificate.
pub const AUTHORITY_FILE: &str = "authority.pem";

/// Most bytes of one file. Ours have under 1,000.
const FILE_BYTES: u64 = 64 << 10;

/// A certificate, its private key, and the authority against which others are checked.
#[derive(Clone)]
pub struct Identity {
    peer: Peer,
    pub(super) certificate_pem: String,
    pub(super) key_pem: String,
    pub(super) authority_pem: String,
}

impl fmt::Debug for Identity {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Checks that the three texts can be used, that key and certificate belong together, and
    /// that the certificate names a role.
    pub fn from_pem(
        certificate_pem: String,
        key_pem: String,
        authority_pem: String,
    ) -> Result<Self, IdentityError> {
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|e| IdentityPart::Certificate.malformed(e))?;
        let identity = Self {
            peer: Peer::from_certificate(&certificate)?,
            certificate_pem,
            key_pem,
            authority_pem,
        };
        tls::connecting(&identity)?;
        Ok(identity)
    }

    /// Who this is.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Writes the three files into `directory`, which is made if absent. Each file is replaced
    /// whole; the key is never readable by others.
    pub fn save(&self, directory: &Path) -> Result<(), IdentityError> {
        fs::create_dir_all(directory).map_err(|source| IdentityError::Write {
            path: directory.to_owned(),
            source,
        })?;
        write_file(directory, AUTHORITY_FILE, &self.authority_pem, 0o644)?;
        write_file(directory, KEY_FILE, &self.key_pem, 0o600)?;
        write_file(directory, CERTIFICATE_FILE, &self.certificate_pem, 0o644)
    }

    /// Reads what [`Identity::save`] wrote.
    pub fn load(directory: &Path) -> Result<Self, IdentityError> {
        Self::from_pem(
            read_file(directory, CERTIFICATE_FILE)?,
            read_file(directory, KEY_FILE)?,
            read_file(directory, AUTHORITY_FILE)?,
        )
        .map_err(|source| IdentityError::Load {
            directory: directory.to_owned(),
            source: Box::new(source),
        })
    }

    pub(super) fn chain(&self) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        let certificate = CertificateDer::from_pem_slice(self.certificate_pem.as_bytes());
        Ok(vec![
            certificate.map_err(|e| IdentityPart::Certificate.malformed(e))?,
        ])
    }

    pub(super) fn key(&self) -> Result<PrivateKeyDer<'static>, IdentityError> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())
            .map_err(|e| IdentityPart::Key.malformed(e))
    }

    pub(super) fn authority(&self) -> Result<CertificateDer<'static>, IdentityError> {
        CertificateDer::from_pem_slice(self.authority_pem.as_bytes())
            .map_err(|e| IdentityPart::Authority.malformed(e))
    }
}

/// The three texts of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityPart {
    /// In [`CERTIFICATE_FILE`].
    Certificate,
    /// In [`KEY_FILE`].
    Key,
    /// In [`AUTHORITY_FILE`].
    Authority,
}

impl IdentityPart {
    pub(super) fn malformed(self, reason: impl fmt::Display) -> IdentityError {
        let reason = reason.to_string();
        IdentityError::Malformed { part: self, reason }
    }
}

impl fmt::Display for IdentityPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate => write!(f, "certificate ({CERTIFICATE_FILE})"),
            Self::Key => write!(f, "private key ({KEY_FILE})"),
            Self::Authority => write!(f, "certificate of the authority ({AUTHORITY_FILE})"),
        }
    }
}

fn read_file(directory: &Path, name: &str) -> Result<String, IdentityError> {
    let path = directory.join(name);
    let mut text = String::new();
    match fs::File::open(&path).and_then(|file| file.take(FILE_BYTES + 1).read_to_string(&mut text))
    {
        Ok(read) if read as u64 > FILE_BYTES => Err(IdentityError::TooLarge {
            path,
            limit: FILE_BYTES,
        }),
        Ok(_) => Ok(text),
        Err(source) => Err(IdentityError::Read { path, source }),
    }
}

fn write_file(directory: &Path, name: &str, text: &str, mode: u32) -> Result<(), IdentityError> {
    let path = directory.join(name);
    let temporary = directory.join(format!(".{name}.new"));
    let write = || -> io::Result<()> {
        // A left-over of an earlier attempt could have other permissions.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(|source| IdentityError::Write {
        path: path.clone(),
        source,
    })
}
