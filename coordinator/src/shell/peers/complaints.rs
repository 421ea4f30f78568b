//! How often a person is told of messages that are not taken: one that sends nothing else would fill
//! the log.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// One complaint about each coordinator within this time.
const INTERVAL: Duration = Duration::from_secs(1);
/// Coordinators whose complaints are counted; more share one count.
const SENDERS: usize = evoring_protocol::limits::LISTED_MEMBERS;

/// Which complaints were made.
#[derive(Debug, Default)]
pub(in super::super) struct Complaints(BTreeMap<u64, Said>);

#[derive(Debug)]
struct Said {
    at: Instant,
    /// How often nothing was said since then.
    unsaid: u64,
}

impl Complaints {
    /// Whether it is time for one about this coordinator, and if so how many were left out before.
    pub(in super::super) fn may_complain(&mut self, about: u64, now: Instant) -> Option<u64> {
        let is_known = self.0.contains_key(&about) || self.0.len() < SENDERS;
        let about = if is_known { about } else { 0 };
        match self.0.get_mut(&about) {
            Some(said) if now.saturating_duration_since(said.at) < INTERVAL => {
                said.unsaid += 1;
                None
            }
            Some(said) => {
                said.at = now;
                Some(std::mem::take(&mut said.unsaid))
            }
            None => {
                self.0.insert(about, Said { at: now, unsaid: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Claim: one complaint about each coordinator and second, which says how many were left out; the
    /// memory for that is bounded.
    /// Method: three coordinators over two seconds, then a thousand others.
    #[test]
    fn one_about_each_and_second() {
        let mut complaints = Complaints::default();
        let began = Instant::now();
        let mut at = |about, ms| complaints.may_complain(about, began + Duration::from_millis(ms));
        assert_eq!(at(2, 0), Some(0));
        assert_eq!(at(3, 1), Some(0));
        assert_eq!([at(2, 500), at(2, 999), at(3, 1_000)], [None; 3]);
        assert_eq!([at(2, 1_000), at(3, 1_001)], [Some(2), Some(1)]);
        assert_eq!(at(2, 2_000), Some(0));
        let others = 10..1_010;
        let said = others.filter(|&about| at(about, 3_000).is_some()).count();
        assert!(said <= SENDERS);
        assert!(complaints.0.len() <= SENDERS + 1);
    }
}
