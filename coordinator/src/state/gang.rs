//! A gang: ranks that run together or not at all.

use evoring_protocol::bounded::{bytes, map_to_bytes};
#[cfg(evoring_plants)]
use evoring_protocol::plants::{Plant, is_planted};
use evoring_protocol::work::{Checkpoint, FailureCause, Kernel, Member, Roster};
use evoring_protocol::{Digest, Rank, RosterNumber, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A gang.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GangState {
    /// Fewest ranks.
    pub min: u32,
    /// Most ranks.
    pub max: u32,
    /// What to run.
    pub kernel: Kernel,
    /// Its arguments.
    #[serde(serialize_with = "bytes::serialize")]
    #[serde(deserialize_with = "bytes::at_most::<_, { usize::MAX }>")]
    pub payload: Vec<u8>,
    /// Blobs that it reads.
    pub inputs: Vec<Digest>,
    /// Number of the last roster; 0 before the first.
    pub last_roster: RosterNumber,
    /// The current roster; absent while the gang waits for slots.
    pub roster: Option<Roster>,
    /// The newest durable checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// Attempts that failed since the newest checkpoint.
    pub failures: u32,
    /// Attempts that were lost since the newest checkpoint.
    pub losses: u32,
    /// The last roster that counts as lost: the rank that is to blame may speak after its peers.
    pub lost: Option<RosterNumber>,
    /// Results of the current roster's ranks.
    #[serde(serialize_with = "map_to_bytes::serialize")]
    #[serde(deserialize_with = "map_to_bytes::at_most::<_, _, { usize::MAX }>")]
    pub results: BTreeMap<Rank, Vec<u8>>,
}

impl GangState {
    /// A gang that waits for its first slots.
    pub(super) fn new(
        min: u32,
        max: u32,
        kernel: Kernel,
        payload: Vec<u8>,
        inputs: Vec<Digest>,
    ) -> Self {
        Self {
            min,
            max,
            kernel,
            payload,
            inputs,
            last_roster: RosterNumber(0),
            roster: None,
            checkpoint: None,
            failures: 0,
            losses: 0,
            lost: None,
            results: BTreeMap::new(),
        }
    }

    /// The current roster if it has this number.
    pub fn current(&self, number: RosterNumber) -> Option<&Roster> {
        #[cfg(evoring_plants)]
        if is_planted(Plant::OldRosterCounts) {
            return self.roster.as_ref();
        }
        self.roster
            .as_ref()
            .filter(|roster| roster.number == number)
    }

    /// Makes the next roster, if the gang waits and the number is right.
    pub(super) fn commit(
        &mut self,
        number: RosterNumber,
        members: &[Member],
        secret: [u8; 32],
    ) -> Option<&Roster> {
        let size = u32::try_from(members.len()).ok()?;
        let fits = self.roster.is_none()
            && number.0 == self.last_roster.0.checked_add(1)?
            && (self.min..=self.max).contains(&size);
        if !fits {
            return None;
        }
        self.last_roster = number;
        self.results.clear();
        #[cfg(evoring_plants)]
        if is_planted(Plant::CheckpointForgotten) {
            self.checkpoint = None;
        }
        Some(self.roster.insert(Roster {
            number,
            members: members.to_vec(),
            secret,
            resume: self.checkpoint,
        }))
    }

    /// Voids the roster; gives why the gang is given up, if it is.
    pub(super) fn void(&mut self, cause: Option<FailureCause>, reason: &str) -> Option<String> {
        let number = self.roster.take().map(|roster| roster.number);
        self.results.clear();
        self.lost = number.filter(|_| cause == Some(FailureCause::Lost));
        self.count(cause, reason)
    }

    /// A rank of a roster says that its work failed, after a peer said that it was lost; gives why the
    /// gang is given up, if it is.
    pub(super) fn blame(&mut self, number: RosterNumber, reason: &str) -> Option<String> {
        if self.lost != Some(number) {
            return None;
        }
        self.lost = None;
        self.losses = self.losses.saturating_sub(1);
        self.count(Some(FailureCause::Failed), reason)
    }

    fn count(&mut self, cause: Option<FailureCause>, reason: &str) -> Option<String> {
        let (count, limit, what) = match cause? {
            FailureCause::Lost => (&mut self.losses, limits::LOSSES, "was lost"),
            FailureCause::Failed | FailureCause::Final => {
                (&mut self.failures, limits::FAILURES, "failed")
            }
        };
        *count += 1;
        let is_given_up = *count >= limit;
        is_given_up.then(|| {
            format!(
                "the gang {what} {count} times without a new checkpoint; the last time: {reason}"
            )
        })
    }

    /// Takes a durable checkpoint of the current roster, if it is newer.
    pub(super) fn checkpoint(&mut self, number: RosterNumber, checkpoint: Checkpoint) -> bool {
        let is_newer = self
            .checkpoint
            .is_none_or(|last| checkpoint.step > last.step);
        let is_taken = self.current(number).is_some() && is_newer;
        if is_taken {
            self.checkpoint = Some(checkpoint);
            self.failures = 0;
            self.losses = 0;
        }
        is_taken
    }

    /// Takes a rank's result; gives the gang's once all ranks agree, an error if they do not.
    pub(super) fn finish(
        &mut self,
        number: RosterNumber,
        rank: Rank,
        result: &[u8],
    ) -> Option<Result<Vec<u8>, String>> {
        let world_size = self.current(number)?.members.len();
        if rank.0 as usize >= world_size {
            return None;
        }
        self.results.entry(rank).or_insert_with(|| result.to_vec());
        if self.results.len() < world_size {
            return None;
        }
        let mut groups: BTreeMap<&[u8], Vec<String>> = BTreeMap::new();
        for (rank, result) in &self.results {
            groups.entry(result).or_default().push(rank.to_string());
        }
        if groups.len() == 1 {
            return groups.into_keys().next().map(|result| Ok(result.to_vec()));
        }
        let sides: Vec<String> = groups
            .iter()
            .map(|(result, ranks)| format!("ranks {} gave {}", ranks.join(", "), short(result)))
            .collect();
        Some(Err(format!(
            "the ranks of roster {number} disagree on the result: {}",
            sides.join("; ")
        )))
    }
}

/// First bytes of a result's digest, enough to tell two apart.
fn short(result: &[u8]) -> String {
    Digest::of(result).to_string().chars().take(12).collect()
}
