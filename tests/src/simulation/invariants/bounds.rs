//! 13: queues stay short.

use super::super::world::World;
use super::{Checked, Violation};

const NAME: &str = "bounds";
/// Writes that wait for the disk of one coordinator: it writes what came meanwhile at once, so that
/// a stalled disk is what fills this.
const WAITING_WRITES: usize = 16_384;
/// Reports that wait for their acknowledgement at one agent.
const UNACKNOWLEDGED: usize = 4_096;
/// Requests of clients that wait at one coordinator.
const TICKETS: usize = 4_096;

/// Looks at all queues.
pub(in super::super) fn now(world: &World) -> Checked {
    for (index, host) in world.hosts.iter().enumerate() {
        let Some(process) = &host.process else {
            continue;
        };
        let writes = process.waiting_writes();
        within("waiting writes", index, writes, WAITING_WRITES)?;
        within("waiting requests", index, process.tickets.len(), TICKETS)?;
    }
    for (index, agent) in world.agents.iter().enumerate() {
        let waiting = agent.core.as_ref().map_or(0, |core| core.outbox_len());
        within("unacknowledged reports", index, waiting, UNACKNOWLEDGED)?;
    }
    Ok(())
}

fn within(what: &str, who: usize, length: usize, bound: usize) -> Checked {
    if length <= bound {
        return Ok(());
    }
    let what = format!("{length} {what} at {who}, at most {bound} are to be");
    Err(Violation::new(NAME, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: one more than a bound is found, the bound is not. Method: both.
    #[test]
    fn too_long_queues_are_found() {
        within("requests", 1, TICKETS, TICKETS).unwrap();
        let found = within("requests", 1, TICKETS + 1, TICKETS).unwrap_err();
        assert_eq!(
            found.to_string(),
            "bounds: 4097 requests at 1, at most 4096 are to be"
        );
    }
}
