//! Where a cluster is and who we are to it: the cluster file and the coordinator's announcement.

use crate::exit::Failure;
use crate::tilde::refuse_tilde;
use evoring_protocol::transport::{Connector, Identity};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Most bytes of a cluster file or an announcement.
const FILE_BYTES: u64 = 64 << 10;
/// Most coordinators in a cluster file.
const COORDINATORS: usize = 16;

/// The cluster file, as written by `evoring local` and by operators. Relative paths are looked up
/// beside the file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterFile {
    /// The cluster's number, 16 hexadecimal digits; for people and for restarts of `local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// File in which the coordinator announces its addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announce: Option<PathBuf>,
    /// Addresses of coordinators, `HOST:PORT`; used when there is no `announce`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub coordinators: Vec<String>,
    /// Folder with certificate and key.
    pub identity: PathBuf,
}

/// What a coordinator writes after each start; other fields are for other readers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Announcement {
    /// Where it listens for workers and clients.
    pub listen: SocketAddr,
    /// Its process; another process means that connections to the former one are dead.
    pub process: u32,
}

/// How to reach a cluster.
#[derive(Debug, Clone)]
pub struct Access {
    place: Place,
    connector: Connector,
}

#[derive(Debug, Clone)]
enum Place {
    Announced(PathBuf),
    Listed(Vec<String>),
}

impl Access {
    /// Reads a cluster file and the identity that it names.
    pub fn from_file(path: &Path) -> Result<Self, Failure> {
        let wrong =
            |reason: String| Failure::usage(format!("cluster file {}: {reason}", path.display()));
        let text = read_bounded(path).map_err(|error| {
            wrong(format!(
                "{error}; `evoring local` prints the path of its own"
            ))
        })?;
        let file: ClusterFile = serde_json::from_slice(&text).map_err(|error| {
            wrong(format!("{error}; expected {{\"announce\": FILE, \"identity\": DIR}} or {{\"coordinators\": [\"HOST:PORT\"], \"identity\": DIR}}"))
        })?;
        if file.coordinators.len() > COORDINATORS {
            return Err(wrong(format!(
                "{} coordinators: at most {COORDINATORS}",
                file.coordinators.len()
            )));
        }
        let paths = [Some(&file.identity), file.announce.as_ref()];
        for path in paths.into_iter().flatten() {
            refuse_tilde(path).map_err(wrong)?;
        }
        let beside = path.parent().unwrap_or(Path::new("."));
        let place = match file.announce {
            Some(announce) => Place::Announced(beside.join(announce)),
            None if file.coordinators.is_empty() => {
                return Err(wrong(
                    "neither \"announce\" nor \"coordinators\"".to_owned(),
                ));
            }
            None => Place::Listed(file.coordinators),
        };
        let connector = Identity::load(&beside.join(&file.identity))
            .and_then(|identity| Connector::new(&identity))
            .map_err(|error| wrong(error.to_string()))?;
        Ok(Self { place, connector })
    }

    /// The identity's side of connections.
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// What the announcement says now; `None` if there is none, or the addresses are listed.
    pub fn announced(&self) -> Option<Announcement> {
        match &self.place {
            Place::Announced(path) => serde_json::from_slice(&read_bounded(path).ok()?).ok(),
            Place::Listed(_) => None,
        }
    }

    /// Whether the coordinator's address can change, so that a wrong one may soon be right.
    pub fn is_announced(&self) -> bool {
        matches!(self.place, Place::Announced(_))
    }

    /// Addresses to try, in order, or why there is none.
    pub async fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        match &self.place {
            Place::Announced(path) => match self.announced() {
                Some(announcement) => Ok(vec![announcement.listen]),
                None => Err(format!(
                    "no coordinator has announced itself in {}: is the cluster running?",
                    path.display()
                )),
            },
            Place::Listed(names) => {
                let mut addresses = Vec::new();
                let mut problems = Vec::new();
                for name in names {
                    match tokio::net::lookup_host(name).await {
                        Ok(found) => addresses.extend(found.take(4)),
                        Err(error) => problems.push(format!("{name}: {error}")),
                    }
                }
                if addresses.is_empty() {
                    Err(problems.join("; "))
                } else {
                    Ok(addresses)
                }
            }
        }
    }
}

/// Reads a small file; a larger one is an error before memory is taken.
fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(FILE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(std::io::Error::other(format!(
            "more than {FILE_BYTES} bytes"
        )));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.json");
        std::fs::write(&path, text).unwrap();
        Access::from_file(&path).unwrap_err().message
    }

    // Claim: a wrong cluster file is refused with what is wrong. Method: one of each kind.
    #[test]
    fn wrong_files() {
        assert!(refusal("{").contains("expected {\"announce\""));
        assert!(refusal(r#"{"identity": "x"}"#).contains("neither"));
        assert!(refusal(r#"{"identity": "x", "announce": "a"}"#).contains("certificate.pem"));
        assert!(
            refusal(r#"{"identity": "x", "anounce": "a"}"#).contains("unknown field `anounce`")
        );
        for file in [
            r#"{"identity": "~/x", "announce": "a"}"#,
            r#"{"identity": "x", "announce": "~/a"}"#,
        ] {
            assert!(refusal(file).contains("without `~`"));
        }
        assert!(refusal(&" ".repeat(100_000)).contains("more than 65536 bytes"));
    }
}
