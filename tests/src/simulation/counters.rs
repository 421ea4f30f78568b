//! What must happen sometimes: a run in which one of these never did has tested less than it says.

macro_rules! sometimes {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// Something rare that a run must meet.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Sometimes {
            $($(#[doc = $doc])* $name,)*
        }

        impl Sometimes {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

sometimes! {
    /// A message was lost.
    MessageLost,
    /// A message came twice.
    MessageDoubled,
    /// A message was overtaken.
    MessageOvertaken,
    /// A coordinator's process was killed.
    ProcessKilled,
    /// … while a write was on its way to the disk.
    KilledWhileWriting,
    /// Machines were cut off from others, both ways.
    Partition,
    /// … one way only.
    OneWayPartition,
    /// A path went to and fro.
    FlappingPath,
    /// The weather became bad.
    BadWeather,
    /// A coordinator stood still.
    ProcessPaused,
    /// All coordinators were ended, and came back minutes later.
    AllEnded,
    /// All coordinators stood still for minutes.
    AllPaused,
    /// A job was submitted just before nothing fails any more.
    LateJob,
    /// An item took longer than its lease allows.
    ItemHung,
    /// A clock jumped.
    ClockJumped,
    /// A disk stood still.
    DiskStalled,
    /// A write found the disk full.
    DiskFull,
    /// A sync failed.
    SyncFailed,
    /// The power of a whole group was cut.
    GroupPowerCut,
    /// … while at least one of its coordinators wrote.
    GroupPowerCutWhileWriting,
    /// The power of one machine was cut.
    PowerCut,
    /// A bit of a stored file was flipped.
    BitFlipped,
    /// A write went to the place of another.
    WriteMisdirected,
    /// A damaged store was recognized.
    CorruptionFound,
    /// What was damaged was no live data: the store read as it was written.
    HarmlessDamage,
    /// A member lost its disk, and came back under a new id.
    DiskLost,
    /// A member was replaced by a new one under a new id.
    MemberReplaced,
    /// A member was added.
    MemberAdded,
    /// A member was removed.
    MemberRemoved,
    /// A learner got a vote.
    LearnerPromoted,
    /// A leader took office in a joint configuration, and it was left in its term.
    JointInherited,
    /// A removed member stopped itself.
    RemovedStopped,
    /// A leader was asked to hand over.
    HandOver,
    /// A leader whose disk was full gave way to a member whose disk was not.
    GaveWay,
    /// A leader gave way because its disk was slow.
    SlowDiskGaveWay,
    /// Consensus took several events at once.
    EventsTogether,
    /// A leader was elected.
    Elected,
    /// A leader stepped down.
    SteppedDown,
    /// A leader that had stood still gave up its office.
    PausedResigned,
    /// A proposal was refused, by one that does not lead.
    ProposalRefused,
    /// A proposal was put off: the leader was handing over.
    ProposalPutOff,
    /// A snapshot was taken.
    SnapshotTaken,
    /// A snapshot was made for a follower that none of those that were there would do for.
    SnapshotWanted,
    /// Entries replaced others in a follower's log.
    TailOverwritten,
    /// A leader's snapshot was installed.
    SnapshotInstalled,
    /// A snapshot was lost on its way.
    SnapshotLost,
    /// A read waited for the others' word and was answered.
    ReadAnswered,
    /// A read failed.
    ReadFailed,
    /// A client saw a job.
    JobShown,
    /// A client was sent to another coordinator.
    ClientSentElsewhere,
    /// A client's request got no answer.
    RequestTimedOut,
    /// Something failed, and all clients asked and labelled as fast as they could.
    ClientsHurried,
    /// A submission was known already.
    SubmissionKnown,
    /// An agent was sent to another coordinator.
    AgentSentElsewhere,
    /// An agent's connection broke.
    ConnectionBroken,
    /// An agent's process was killed.
    AgentKilled,
    /// A worker's machine stood still.
    AgentPaused,
    /// An executor died.
    ExecutorKilled,
    /// A worker made up something about another's work.
    Forged,
    /// An item's report came after its result was known.
    DuplicateReport,
    /// An item was to be run again.
    ItemRetried,
    /// A lease expired on a worker that lived.
    LeaseExpired,
    /// A lease was slow, and its items were given to another slot too.
    CopyGranted,
    /// A gang's roster ended so that it could get more ranks.
    GangGrown,
    /// A gang got another roster.
    RosterReplaced,
    /// A rank of an old roster took a step after one of a newer one had.
    OldRosterStepped,
    /// An old roster's report was ignored.
    OldRosterIgnored,
    /// A checkpoint was committed.
    Checkpointed,
    /// A job finished.
    JobFinished,
    /// A job was cancelled.
    JobCancelled,
    /// A label was set.
    Labelled,
    /// A request for a label was sent to a second coordinator.
    LabelSentAgain,
    /// A label was refused, because an old build was in the group.
    LabelTooNew,
    /// The version of the records rose.
    VersionRaised,
}

/// How often each of them happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters([u64; Sometimes::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; Sometimes::ALL.len()])
    }
}

impl Counters {
    pub(super) fn hit(&mut self, what: Sometimes) {
        self.0[what as usize] += 1;
    }

    /// How often it happened.
    pub fn count(&self, what: Sometimes) -> u64 {
        self.0[what as usize]
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// What never happened.
    pub fn missing(&self) -> impl Iterator<Item = Sometimes> + '_ {
        let all = Sometimes::ALL.iter().copied();
        all.filter(|what| self.count(*what) == 0)
    }
}
