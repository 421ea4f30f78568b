//! Which member of which group this folder is: a small file beside the log, written once, when there
//! is a log. Without it a process is nobody yet, whatever the group remembers of one that had lost its
//! disk; without the log it is one that forgot what it acknowledged, and must not go on.

use crate::storage::{LOG_FILE, LogStore as _, RedbStore, Stored};
use anyhow::{Context as _, bail};
use evoring_protocol::peer::GroupId;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::Path;

const FILE: &str = "member.json";
/// Most bytes of the file.
const FILE_BYTES: u64 = 4 << 10;

/// Who this folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Membership {
    /// The group.
    pub group: GroupId,
    /// Its id there.
    pub id: u64,
}

/// Reads it; `None` if the folder is nobody's yet. A log of which nothing was ever written is what an
/// interrupted first start leaves.
pub(super) fn read(folder: &Path) -> anyhow::Result<Option<Membership>> {
    let path = folder.join(FILE);
    let log = folder.join(LOG_FILE);
    let mut bytes = Vec::new();
    match File::open(&path).and_then(|file| file.take(FILE_BYTES).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if log.exists() && RedbStore::open(folder)?.load()? != Stored::default() {
                bail!(
                    "{} is missing beside a log: it says who this coordinator is; restore it from a \
                     copy, or remove the folder and join as a new coordinator",
                    path.display()
                );
            }
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    }
    let membership: Membership = serde_json::from_slice(&bytes).with_context(|| {
        format!(
            "{} is not what was written; restore it from a copy, or remove the folder and join as a \
             new coordinator",
            path.display()
        )
    })?;
    if !log.exists() {
        bail!(
            "{} is missing, and with it what member {} of group {} had acknowledged; this coordinator \
             must not go on with an empty log: remove that member (`evoring cluster remove {}`), empty \
             the folder, start again and add it anew",
            log.display(),
            membership.id,
            membership.group,
            membership.id
        );
    }
    Ok(Some(membership))
}

/// Writes it, durably, whole or not at all, after an empty log: that is a member's from the start.
pub(super) fn write(folder: &Path, membership: &Membership) -> anyhow::Result<()> {
    drop(RedbStore::open(folder)?);
    let path = folder.join(FILE);
    let unfinished = folder.join(format!("{FILE}.new"));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&unfinished)?;
        file.write_all(&serde_json::to_vec(membership)?)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, &path)?;
        File::open(folder)?.sync_all()
    };
    write().with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: what is written is read; a folder without it is nobody's, unless there is a log with
    // anything in it; a damaged file is an error, and one without a log.
    // Method: the folders.
    #[test]
    fn says_who_the_folder_is() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), None);
        let (group, id) = (GroupId([7; 16]), 3);
        let membership = Membership { group, id };
        write(folder.path(), &membership).unwrap();
        assert_eq!(read(folder.path()).unwrap(), Some(membership));
        let path = folder.path().join(FILE);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read(folder.path()).unwrap(), None);
        std::fs::write(&path, b"{\"group\": 1}").unwrap();
        assert!(read(folder.path()).is_err());
        std::fs::remove_file(&path).unwrap();
        let mut log = RedbStore::open(folder.path()).unwrap();
        log.write(&crate::consensus::first_write(1, Vec::new()))
            .unwrap();
        drop(log);
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("is missing beside a log"), "{error}");
        write(folder.path(), &membership).unwrap();
        assert_eq!(read(folder.path()).unwrap(), Some(membership));
        std::fs::remove_file(folder.path().join(LOG_FILE)).unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("evoring cluster remove 3"), "{error}");
    }
}
