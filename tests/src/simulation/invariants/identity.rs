//! 12: what a worker says about work that is not its own changes nothing.

use super::super::rogue::FORGED;
use super::{Checked, Violation};

/// An entry was applied for the first time.
pub(super) fn applied(index: u64, data: &[u8]) -> Checked {
    match data.windows(FORGED.len()).any(|part| part == FORGED) {
        true => {
            let what = format!("entry {index} holds what a worker made up about another's work");
            Err(Violation::new("identity", what))
        }
        false => Ok(()),
    }
}
