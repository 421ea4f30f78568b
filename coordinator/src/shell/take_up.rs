//! What a process finds in its folder, or puts there as the first of its group.

use super::member_file::{self, Membership};
use super::random;
use super::settings::Settings;
use super::timed_disk::TimedDisk;
use crate::consensus::{Consensus, NodeConfig, first_write};
use crate::leader::{Leader, LeaderConfig, Secrets};
use crate::state::State;
use crate::storage::{LogStore, RedbStore, Stored};
use anyhow::Context as _;
use evoring_protocol::peer::GroupId;
use std::path::Path;
use std::sync::Arc;

/// Id of the first member of every group.
const FOUNDER: u64 = 1;

/// What the threads begin with.
pub(super) struct TakenUp {
    pub consensus: Consensus,
    pub store: RedbStore,
    pub leader: Leader,
    pub snapshot_bytes: u64,
}

/// Makes the folder that of the first member of a new group.
pub(super) fn create(folder: &Path) -> anyhow::Result<Membership> {
    let own = Membership {
        group: GroupId(random()?),
        id: FOUNDER,
    };
    member_file::write(folder, &own)?;
    Ok(own)
}

/// The first contents of the founder's log; an interrupted start may have left it empty.
fn found(
    store: &mut RedbStore,
    settings: &Settings,
    own: Membership,
    name: &str,
    address: &str,
) -> anyhow::Result<()> {
    let mut state = State::of_new_group(own.group, name.to_owned(), address.to_owned());
    hold(&mut state, settings);
    store.write(&first_write(own.id, state.encode()))?;
    Ok(())
}

fn hold(state: &mut State, settings: &Settings) {
    if let Some(version) = settings.hold_version {
        state.hold_version(version);
    }
}

/// Reads the stored state.
pub(super) fn take_up(
    settings: &Settings,
    own: Membership,
    name: String,
    address: String,
    disk: TimedDisk,
) -> anyhow::Result<TakenUp> {
    let mut store = RedbStore::open_on(Arc::new(disk))?;
    let mut stored = store.load()?;
    if own.id == FOUNDER && stored == Stored::default() {
        found(&mut store, settings, own, &name, &address)?;
        stored = store.load()?;
    }
    let mut state = match &stored.snapshot {
        Some(snapshot) => {
            let mut state = State::decode(&snapshot.data).with_context(|| {
                format!(
                    "the snapshot at index {} in {}",
                    snapshot.index,
                    settings.dir.display()
                )
            })?;
            state.begin_after(snapshot.index);
            state
        }
        // A new member, which waits for the leader's snapshot.
        None => State::default(),
    };
    hold(&mut state, settings);
    let snapshot_bytes = stored
        .snapshot
        .as_ref()
        .map_or(0, |snapshot| snapshot.data.len() as u64);
    let config = NodeConfig {
        id: own.id,
        boot: u64::from_le_bytes(random()?),
        seed: u64::from_le_bytes(random()?),
    };
    let consensus = Consensus::new(config, stored)?;
    let leader = LeaderConfig {
        process: std::process::id(),
        blobs: settings.blobs.clone(),
        id: own.id,
        name,
        address,
        is_advertised: settings.advertise.is_some(),
    };
    Ok(TakenUp {
        consensus,
        store,
        leader: Leader::new(leader, state, Secrets::new(random()?)),
        snapshot_bytes,
    })
}
