//! Waiting for a local cluster to come up.

use crate::client::{Client, Setback};
use crate::exit::{Exit, Failure};
use crate::follow::unexpected;
use crate::local::{LocalCoordinator, START_PATIENCE, Size, group};
use crate::output::time::duration;
use evoring_protocol::client::{ClientReply, ClientRequest};
use std::cell::RefCell;
use std::time::Duration;

/// Between two looks at the workers that are starting.
const LOOK: Duration = Duration::from_millis(100);

/// How long a start may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// After this, the user is told what is missing.
    pub told: Duration,
    /// After this, the start has failed.
    pub ended: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            // A start takes one or two seconds; nobody looks at nothing for longer than this.
            told: Duration::from_secs(5),
            ended: START_PATIENCE,
        }
    }
}

/// Makes one group of the coordinators, if there are several.
pub(super) async fn form_group(
    client: &mut Client,
    coordinators: &[LocalCoordinator],
    patience: Patience,
    note: impl Fn(&str),
) -> Result<(), Failure> {
    let missing = RefCell::new("the coordinators do not answer".to_owned());
    let work = group::form(client, coordinators, &missing);
    within(patience, &missing, note, work).await
}

/// Waits until every worker is connected: a job that needs all slots is accepted only then.
/// `client` may have any patience of its own, as each of its attempts is bounded here.
pub(super) async fn wait_for_workers(
    client: &mut Client,
    size: Size,
    patience: Patience,
    note: impl Fn(&str),
) -> Result<(), Failure> {
    let missing = RefCell::new("the coordinator does not answer".to_owned());
    let work = async {
        loop {
            match client.try_ask(&ClientRequest::Workers).await {
                Ok(ClientReply::Workers(workers)) => {
                    let connected = workers.iter().filter(|worker| worker.connected).count();
                    if connected >= size.workers as usize {
                        return Ok(());
                    }
                    missing.replace(format!(
                        "{connected} of {} workers are connected",
                        size.workers
                    ));
                }
                Ok(other) => return Err(unexpected("Workers", &other)),
                Err(Setback::Final(failure)) => return Err(failure),
                Err(setback) => {
                    client.heed(&setback).await;
                    missing.replace(setback.into_failure().message);
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    within(patience, &missing, note, work).await
}

/// Waits for `work`, tells what is `missing` once, and gives up in the end.
async fn within(
    patience: Patience,
    missing: &RefCell<String>,
    note: impl Fn(&str),
    work: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let mut work = std::pin::pin!(work);
    if let Ok(outcome) = tokio::time::timeout(patience.told, &mut work).await {
        return outcome;
    }
    note(&format!(
        "the cluster is still starting: {}",
        missing.borrow()
    ));
    let rest = patience.ended.saturating_sub(patience.told);
    if let Ok(outcome) = tokio::time::timeout(rest, work).await {
        return outcome;
    }
    let waited = duration(patience.ended.as_millis() as u64);
    let message = format!(
        "the cluster did not come up within {waited}: {}; the logs of its processes say why",
        missing.borrow()
    );
    Err(Failure::new(Exit::Unreachable, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Access, ClusterFile};
    use evoring_protocol::ClusterId;
    use evoring_protocol::transport::{Authority, Listener, Role};
    use std::path::Path;
    use std::time::SystemTime;

    /// Writes what a client needs, and returns a client that would wait for a day.
    fn client(folder: &Path, authority: &Authority) -> Client {
        let identity = folder.join("client");
        authority
            .issue(Role::Submitter, "client", SystemTime::now())
            .and_then(|issued| issued.save(&identity))
            .unwrap();
        let file = ClusterFile {
            announce: vec!["coordinator.json".into()],
            identity,
            ..ClusterFile::default()
        };
        let path = folder.join("cluster.json");
        std::fs::write(&path, serde_json::to_vec(&file).unwrap()).unwrap();
        Client::new(
            Access::from_file(&path).unwrap(),
            Duration::from_secs(24 * 3600),
        )
    }

    /// What the user reads, and the failure in the end.
    async fn fails(client: &mut Client) -> (Vec<String>, Failure) {
        let size = Size {
            coordinators: None,
            workers: 2,
            slots_per_worker: 1,
        };
        let patience = Patience {
            told: Duration::from_millis(200),
            ended: Duration::from_millis(600),
        };
        let notes = RefCell::new(Vec::new());
        let note = |text: &str| notes.borrow_mut().push(text.to_owned());
        let failure = wait_for_workers(client, size, patience, note)
            .await
            .unwrap_err();
        (notes.into_inner(), failure)
    }

    // Claim: a cluster that does not come up is told of once and then given up, whatever the
    // client's own patience. Method: a coordinator that never announces itself; then one that
    // accepts connections and answers nothing.
    #[tokio::test]
    async fn silent_cluster_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(ClusterId([7; 8]), SystemTime::now()).unwrap();
        let mut client = client(folder.path(), &authority);
        let (notes, failure) = fails(&mut client).await;
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains("no coordinator has announced itself"));
        assert_eq!(failure.exit, Exit::Unreachable);
        assert!(
            failure.message.contains("did not come up within 0.6 s")
                && failure.message.contains("no coordinator has announced"),
            "{failure}"
        );

        let identity = authority
            .issue(Role::Coordinator, "coordinator", SystemTime::now())
            .unwrap();
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), &identity).unwrap();
        let announcement =
            serde_json::json!({ "listen": listener.local_addr(), "process": std::process::id() });
        std::fs::write(
            folder.path().join("coordinator.json"),
            announcement.to_string(),
        )
        .unwrap();
        let (notes, failure) = fails(&mut client).await;
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(
            failure.message.contains("the coordinator does not answer"),
            "{failure}"
        );
    }
}
