//! What a seed decides before anything happens: the group, the work, how much fails and what.

use super::Setup;
use super::dice::Dice;
use super::hosts::Store;
use super::invariants::Violation;
use super::world::{MS, SECOND};
use evoring_coordinator::state::{Batch, Command, NEWEST_RECORDS, OLDEST_RECORDS, State};
use evoring_protocol::peer::GroupId;

/// The share of a run, in percent, in which things fail; then nothing does, and all must end well.
const FAULTY_PERCENT: u64 = 75;

/// One seed in so many uses the real store, whose machines lose their power and whose disks rot.
const REDB_EVERY: u64 = 10;

/// In one seed of so many, somebody broke into a worker.
const ROGUE_EVERY: u64 = 4;

/// In one seed of so many, the threads of coordinators take their time.
const SLOW_EVERY: u64 = 3;

/// In one seed of so many, work takes long, so that it is under way whenever something fails …
const HEAVY_EVERY: u64 = 3;
/// … if the calm part is long enough for it to end.
const HEAVY_MINUTES: u64 = 10;

/// How long clients wait for an answer, in one seed or another: those who wait long see little of
/// what happens between two leaders.
const PATIENCE_US: [u64; 4] = [100 * MS, 400 * MS, SECOND, 3 * SECOND];

/// In one seed of so many, there are more clients, and all hurry when something fails.
const HURRY_EVERY: u64 = 2;
const HURRIED_CLIENTS: u64 = 2;

/// A number that follows from a seed, and has nothing to do with what else is chosen by it.
fn share_of(seed: u64, what: u64) -> u64 {
    crate::random::mix(seed ^ what << 56)
}

/// How long work takes; times are the shortest and the longest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub is_heavy: bool,
    /// Of one item.
    pub item_us: (u64, u64),
    /// Of the steps between two looks at a training, five of them.
    pub steps_us: (u64, u64),
    /// Steps of a training.
    pub steps: u64,
    /// Of what clients do, so many in a thousand is that they cancel a job.
    pub cancels: u64,
}

const LIGHT: Load = Load {
    is_heavy: false,
    item_us: (20 * MS, 150 * MS),
    steps_us: (220 * MS, 350 * MS),
    steps: 40,
    cancels: 20,
};

const HEAVY: Load = Load {
    is_heavy: true,
    item_us: (100 * MS, 1_200 * MS),
    steps_us: (400 * MS, 1_000 * MS),
    steps: 80,
    cancels: 2,
};

/// A seed's decisions.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub seed: u64,
    pub end_us: u64,
    pub calm_us: u64,
    /// Members that a group begins with.
    pub members: u64,
    /// Machines that wait to be added.
    pub spares: u64,
    pub agents: u64,
    pub slots: u32,
    pub clients: u64,
    /// Clients give up a request after this.
    pub patience_us: u64,
    /// Whether they hurry when something fails.
    pub hurry: bool,
    pub jobs: u64,
    pub load: Load,
    pub store: Store,
    /// Mean time between faults; never, if absent.
    pub fault_every_us: Option<u64>,
    /// Whether all machines lose their power at once, sometimes.
    pub power_cuts: bool,
    /// Whether bits flip, on one machine at a time.
    pub bit_flips: bool,
    /// Whether members come and go.
    pub membership: bool,
    /// Whether all processes begin as an older build.
    pub upgrade: bool,
    /// Whether disks become full, fail and stall.
    pub disk_faults: bool,
    /// Whether clocks jump and drift.
    pub clock_faults: bool,
    pub disks_lie: bool,
    /// Whether somebody broke into a worker.
    pub rogue: bool,
    /// Whether the threads of coordinators take their time.
    pub slow_threads: bool,
    /// Whether stores expect plenty of space, rightly or not.
    pub expects_space: bool,
    pub snapshot_entries: u64,
    pub write_us: u64,
}

impl Plan {
    pub(super) fn draw(seed: u64, setup: Setup, dice: &mut Dice) -> Self {
        let uses_redb = seed.is_multiple_of(REDB_EVERY);
        let end_us = setup.minutes * 60 * SECOND;
        // What is damaged is replaced: more coming and going could end in the loss of a majority.
        let membership = dice.chance(300_000) && !uses_redb;
        let starts_alone = membership && dice.chance(300_000);
        let members = match dice.below(10) {
            _ if starts_alone => 1,
            0 => 5,
            _ => 3,
        };
        // One seed in ten is calm; the others have a fault each two to twelve seconds.
        let fault_every_us = (!dice.chance(100_000)).then(|| dice.between(2, 12) * SECOND);
        let is_heavy = share_of(seed, 5).is_multiple_of(HEAVY_EVERY);
        let load = match is_heavy && setup.minutes >= HEAVY_MINUTES {
            true => HEAVY,
            false => LIGHT,
        };
        let hurry = share_of(seed, 7).is_multiple_of(HURRY_EVERY);
        let most_jobs = if load.is_heavy { 3 } else { u64::MAX };
        Self {
            seed,
            end_us,
            calm_us: end_us / 100 * FAULTY_PERCENT,
            members,
            spares: match (uses_redb, membership) {
                (true, _) => 8,
                (false, true) => 4,
                (false, false) => 0,
            },
            agents: dice.between(2, 3),
            slots: dice.between(1, 2) as u32,
            clients: dice.between(2, 3) + if hurry { HURRIED_CLIENTS } else { 0 },
            patience_us: PATIENCE_US[(share_of(seed, 6) % PATIENCE_US.len() as u64) as usize],
            hurry,
            jobs: dice.between(2, 5).min(most_jobs),
            load,
            store: if uses_redb {
                Store::Redb
            } else {
                Store::Sector
            },
            fault_every_us,
            power_cuts: uses_redb,
            bit_flips: uses_redb,
            membership,
            upgrade: dice.chance(200_000),
            // The real store meets all of it, then a loss of power.
            disk_faults: dice.chance(400_000) || uses_redb,
            clock_faults: dice.chance(300_000),
            disks_lie: setup.disks_lie,
            rogue: share_of(seed, 1).is_multiple_of(ROGUE_EVERY),
            expects_space: share_of(seed, 3).is_multiple_of(2),
            slow_threads: share_of(seed, 2).is_multiple_of(SLOW_EVERY),
            snapshot_entries: dice.pick(&[16, 64, 256, 4_096]).unwrap_or(256),
            write_us: dice.pick(&[100, 500, 2_000, 8_000]).unwrap_or(500),
        }
    }

    /// Newest version of the records that a build reads at first.
    pub(super) fn first_reads(&self) -> u16 {
        match self.upgrade {
            true => {
                let versions = u64::from(NEWEST_RECORDS - OLDEST_RECORDS);
                OLDEST_RECORDS + (share_of(self.seed, 4) % versions) as u16
            }
            false => NEWEST_RECORDS,
        }
    }
}

/// Name of the machine of this index.
pub(super) fn name(host: usize) -> String {
    format!("n{}", host + 1)
}

/// Where it listens.
pub(super) fn address(host: usize) -> String {
    format!("n{}:1", host + 1)
}

/// The state that a group begins with: all its members have joined.
pub(super) fn first_state(plan: &Plan) -> Result<State, Violation> {
    let group = GroupId([plan.seed as u8; 16]);
    let mut state = State::of_new_group(group, name(0), address(0));
    state.hold_version(plan.first_reads());
    let others = 1..plan.members as usize;
    let commands = others.flat_map(|host| {
        let (name, address) = (name(host), address(host));
        let id = host as u64 + 1;
        [
            Command::AddMember { name, address },
            Command::MemberJoined { id },
        ]
    });
    let batch = Batch {
        time_ms: 0,
        commands: commands.collect(),
    };
    let entry = batch.encode(state.version());
    let applied = state.apply(super::invariants::FIRST_INDEX, &entry);
    applied.map_err(|error| Violation::new("start", error.to_string()))?;
    // As whoever decodes it: an older build is one by its settings.
    let state = State::decode(&state.encode());
    state.map_err(|error| Violation::new("start", error.to_string()))
}
