//! Where a coordinator is, in a file that it writes after each start.

use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Most bytes of an announcement.
const FILE_BYTES: u64 = 64 << 10;

/// What a coordinator announces; a reader takes no offence at other fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Where it listens for workers and clients.
    pub listen: SocketAddr,
    /// Where it serves metrics and health.
    #[serde(default)]
    pub http: Option<SocketAddr>,
    /// Its process; another process means that connections to the former one are dead.
    pub process: u32,
}

impl Announcement {
    /// Reads one.
    ///
    /// # Errors
    /// If the file cannot be read, is too large, or says something else.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&small_file(path, FILE_BYTES)?)?)
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// If the folder takes no file.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let unfinished = format!("{}.{}.unfinished", path.display(), self.process);
        let unfinished = PathBuf::from(unfinished);
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        File::create(&unfinished)?.write_all(&text)?;
        fs::rename(&unfinished, path)
    }
}

/// Reads a file that is small; of a larger one only so much is read, which is an error then.
///
/// # Errors
/// If the file cannot be read, or has more than `most` bytes.
pub fn small_file(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("more than {most} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: what is written is read; no file, other text, and more than an announcement needs are
    // errors that say which. Method: each once.
    #[test]
    fn written_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c1.json");
        assert_eq!(
            Announcement::read(&path).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        let announcement = Announcement {
            listen: SocketAddr::from(([127, 0, 0, 1], 7000)),
            http: Some(SocketAddr::from(([127, 0, 0, 1], 7001))),
            process: 42,
        };
        announcement.write(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "{\"listen\":\"127.0.0.1:7000\",\"http\":\"127.0.0.1:7001\",\"process\":42}\n"
        );
        assert_eq!(Announcement::read(&path).unwrap(), announcement);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::write(&path, "{\"process\": 42}").unwrap();
        let error = Announcement::read(&path).unwrap_err().to_string();
        assert!(error.contains("listen"), "{error}");
        fs::write(&path, vec![b' '; FILE_BYTES as usize + 1]).unwrap();
        let error = Announcement::read(&path).unwrap_err().to_string();
        assert!(error.contains("65536"), "{error}");
    }
}
