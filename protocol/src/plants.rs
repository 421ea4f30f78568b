//! Planted bugs: mistakes that systems of this kind have made, in builds with `--cfg evoring_plants`
//! alone. The simulator must find each of them (`docs/simulation.md`); no other build has any trace of
//! them.
//!
//! A place that can be wrong says `#[cfg(evoring_plants)] if is_planted(..)`; one at a time is, for
//! the whole process.

use std::sync::atomic::{AtomicUsize, Ordering};

static PLANTED: AtomicUsize = AtomicUsize::new(0);

macro_rules! plants {
    ($($(#[doc = $what:literal])* $name:ident,)*) => {
        /// A planted bug.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Plant {
            $($(#[doc = $what])* $name,)*
        }

        impl Plant {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// What goes wrong.
            pub fn what(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($what),*).trim(),)*
                }
            }
        }
    };
}

plants! {
    /// A vote is sent before it is durable.
    VotesBeforeDurable,
    /// A follower acknowledges entries before they are durable.
    AppendsBeforeDurable,
    /// The vote is not stored with its term.
    VoteNotStored,
    /// Of writes that share a transaction, only the first one's term, vote and commit are kept.
    JoinedWriteForgets,
    /// A snapshot is stored without a commit index that covers it.
    SnapshotWithoutCommit,
    /// A snapshot is stored with the last snapshot's membership.
    SnapshotMembershipStale,
    /// A snapshot is stored with the current term instead of its last entry's.
    SnapshotTermIsCurrent,
    /// A snapshot lacks the keys of submissions.
    SnapshotForgetsKeys,
    /// A write for which the disk had no space is confirmed.
    FailedWriteIgnored,
    /// What was written is not synced.
    WritesNotSynced,
    /// A damaged log is taken for an empty one.
    DamagedLogEmptied,
    /// A label is confirmed when it is proposed.
    AnswersAtPropose,
    /// Those who wait for one entry get each other's answers.
    AnswersMixedUp,
    /// Applying an entry looks at the machine's clock.
    ClockInApply,
    /// Replicated time goes back when the leader's clock does.
    TimeGoesBack,
    /// The version of the records is raised before all members read it.
    VersionRaisedEarly,
    /// A submission is taken again although its key is known.
    KeyIgnored,
    /// A result that comes again is recorded again.
    ResultCountsTwice,
    /// What a rank of an old roster says counts for the new one.
    OldRosterCounts,
    /// A joint configuration is never left.
    JointNeverLeft,
    /// The id of a removed member is given again.
    MemberIdReused,
    /// An agent gives a slot new work before the old has stopped.
    StartsBeforeStopped,
    /// Entries are put into messages that name another place (`raft` does, if it batches appends).
    AppendsBatched,
    /// A result counts although its lease is another worker's.
    ForeignLeaseCounts,
    /// A result counts although the seal of its lease is wrong.
    ForgedLeaseCounts,
    /// A copy of a request that labels a job, which comes late, labels it again.
    LabelsAgain,
    /// Items of a lost lease are given to nobody.
    LostItemsForgotten,
    /// A gang waits for ranks that are gone.
    GangWaitsForGone,
    /// An agent does not send again what was lost.
    OutboxNotSentAgain,
    /// A leader answers reads without asking the others.
    ReadsUnasked,
    /// A gang that gets another roster begins anew, although it has a checkpoint.
    CheckpointForgotten,
}

impl Plant {
    /// Its number, from 1 on.
    pub fn number(self) -> usize {
        self as usize + 1
    }

    /// The one with this number.
    pub fn of(number: usize) -> Option<Self> {
        Self::ALL.get(number.checked_sub(1)?).copied()
    }
}

/// Plants one bug in this process, or none.
pub fn plant(plant: Option<Plant>) {
    PLANTED.store(plant.map_or(0, Plant::number), Ordering::Relaxed);
}

/// Whether this bug is planted.
pub fn is_planted(plant: Plant) -> bool {
    PLANTED.load(Ordering::Relaxed) == plant.number()
}

/// This machine's clock, in nanoseconds: what replicated state must not look at.
pub fn machine_clock() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    since.as_nanos() as u64
}
