//! Where a cluster is and who we are to it: the cluster file and the coordinators' announcements.

use crate::exit::Failure;
use crate::tilde::refuse_tilde;
use evoring_protocol::client::is_address;
use evoring_protocol::transport::{Announcement, Connector, Identity, look_up, small_file};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Most bytes of a cluster file.
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
    /// Files in which the coordinators announce their addresses; a single one may stand alone.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_several",
        serialize_with = "one_alone"
    )]
    pub announce: Vec<PathBuf>,
    /// Addresses of coordinators, `HOST:PORT`; used when there is no `announce`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub coordinators: Vec<String>,
    /// Folder with certificate and key.
    pub identity: PathBuf,
}

fn one_or_several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "the path of a file, or a list of paths")]
    enum Files {
        One(PathBuf),
        Several(Vec<PathBuf>),
    }
    Ok(match Files::deserialize(deserializer)? {
        Files::One(path) => vec![path],
        Files::Several(paths) => paths,
    })
}

/// As the file was before there were groups, where one coordinator is enough.
fn one_alone<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    match paths {
        [path] => path.serialize(serializer),
        paths => paths.serialize(serializer),
    }
}

/// How to reach a cluster.
#[derive(Debug, Clone)]
pub struct Access {
    /// One for each coordinator.
    places: Vec<Place>,
    connector: Connector,
}

#[derive(Debug, Clone)]
enum Place {
    Announced(PathBuf),
    Listed(String),
}

impl Place {
    fn announcement(&self) -> Option<Announcement> {
        match self {
            Self::Announced(path) => Announcement::read(path).ok(),
            Self::Listed(_) => None,
        }
    }
}

/// What the announcements say at one moment, one for each coordinator.
pub type Announcements = Vec<Option<Announcement>>;

impl Access {
    /// Reads a cluster file and the identity that it names.
    pub fn from_file(path: &Path) -> Result<Self, Failure> {
        let wrong =
            |reason: String| Failure::usage(format!("cluster file {}: {reason}", path.display()));
        let text = small_file(path, FILE_BYTES).map_err(|error| {
            wrong(format!(
                "{error}; `evoring local` prints the path of its own"
            ))
        })?;
        let file: ClusterFile = serde_json::from_slice(&text).map_err(|error| {
            wrong(format!("{error}; expected {{\"announce\": FILE, \"identity\": DIR}} or {{\"coordinators\": [\"HOST:PORT\"], \"identity\": DIR}}"))
        })?;
        let count = file.coordinators.len().max(file.announce.len());
        if count > COORDINATORS {
            return Err(wrong(format!(
                "{count} coordinators: at most {COORDINATORS}"
            )));
        }
        for path in [&file.identity].into_iter().chain(&file.announce) {
            refuse_tilde(path).map_err(wrong)?;
        }
        if let Some(address) = file.coordinators.iter().find(|text| !is_address(text)) {
            return Err(wrong(format!(
                "coordinator {address:?}: expected HOST:PORT or [IPV6]:PORT"
            )));
        }
        let beside = path.parent().unwrap_or(Path::new("."));
        let announced = file.announce.iter().map(|path| beside.join(path));
        let mut places: Vec<Place> = announced.map(Place::Announced).collect();
        if places.is_empty() {
            places = file.coordinators.into_iter().map(Place::Listed).collect();
        }
        if places.is_empty() {
            return Err(wrong(
                "neither \"announce\" nor \"coordinators\"".to_owned(),
            ));
        }
        let connector = Identity::load(&beside.join(&file.identity))
            .and_then(|identity| Connector::new(&identity))
            .map_err(|error| wrong(error.to_string()))?;
        let connector = match places.len() {
            1 => connector,
            _ => connector.watchful(),
        };
        Ok(Self { places, connector })
    }

    /// The identity's side of connections.
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Coordinators that are known.
    pub fn coordinators(&self) -> usize {
        self.places.len()
    }

    /// Whether there are several coordinators, so that one that is silent can be left.
    pub fn is_group(&self) -> bool {
        self.places.len() > 1
    }

    /// What the announcements say now; `None` for an absent one, and where addresses are listed.
    pub fn announced(&self) -> Announcements {
        self.places.iter().map(Place::announcement).collect()
    }

    /// What one coordinator announces now.
    pub fn announced_at(&self, index: usize) -> Option<Announcement> {
        self.places.get(index)?.announcement()
    }

    /// Whether the coordinators' addresses can change, so that a wrong one may soon be right.
    pub fn is_announced(&self) -> bool {
        matches!(self.places[..], [Place::Announced(_), ..])
    }

    /// Addresses to try, in order, or why there is none.
    pub async fn addresses(&self, announced: &Announcements) -> Result<Vec<SocketAddr>, String> {
        let mut addresses = Vec::new();
        let mut problems = Vec::new();
        for (place, announcement) in self.places.iter().zip(announced) {
            match (place, announcement) {
                (Place::Announced(_), Some(announcement)) => addresses.push(announcement.listen),
                (Place::Announced(path), None) => problems.push(path.display().to_string()),
                (Place::Listed(name), _) => match look_up(name).await {
                    Ok(found) => addresses.extend(found),
                    Err(error) => problems.push(format!("{name}: {error}")),
                },
            }
        }
        if !addresses.is_empty() {
            Ok(addresses)
        } else if self.is_announced() {
            Err(format!(
                "no coordinator has announced itself in {}: is the cluster running?",
                problems.join(", ")
            ))
        } else {
            Err(problems.join("; "))
        }
    }
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
        let nowhere = r#"{"identity": "x", "coordinators": ["h:1", "nowhere"]}"#;
        assert!(refusal(nowhere).contains(r#"coordinator "nowhere": expected HOST:PORT"#));
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

    // Claim: one announcement may stand alone or in a list, several in a list, and what is written is
    // read again; one alone is written as it always was. Method: each form there and back.
    #[test]
    fn announcements() {
        for (announce, count) in [
            (r#""a.json""#, 1),
            (r#"["a.json"]"#, 1),
            (r#"["a.json","b.json"]"#, 2),
        ] {
            let text = format!(r#"{{"announce":{announce},"identity":"x"}}"#);
            let file: ClusterFile = serde_json::from_str(&text).unwrap();
            assert_eq!(file.announce.len(), count);
            let written = serde_json::to_string(&file).unwrap();
            assert_eq!(written.contains('['), count > 1, "{written}");
            assert_eq!(serde_json::from_str::<ClusterFile>(&written).unwrap(), file);
        }
        assert!(refusal(r#"{"identity": "x", "announce": 3}"#).contains("or a list of paths"));
        assert!(refusal(r#"{"identity": "x", "announce": []}"#).contains("neither"));
        assert!(refusal(r#"{"identity": "x", "announce": ["a", "~/b"]}"#).contains("without `~`"));
        let many = vec![r#""h:1""#; 17].join(",");
        let many = format!(r#"{{"identity": "x", "coordinators": [{many}]}}"#);
        assert!(refusal(&many).contains("17 coordinators: at most 16"));
    }
}
