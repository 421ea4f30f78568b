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
    let too_long = |what: &str, who: usize, length: usize| {
        Err(Violation::new(NAME, format!("{length} {what} at {who}")))
    };
    for (index, host) in world.hosts.iter().enumerate() {
        let Some(process) = &host.process else {
            continue;
        };
        if process.waiting_writes() > WAITING_WRITES {
            return too_long("waiting writes", index, process.waiting_writes());
        }
        if process.tickets.len() > TICKETS {
            return too_long("waiting requests", index, process.tickets.len());
        }
    }
    for (index, agent) in world.agents.iter().enumerate() {
        let waiting = agent.core.as_ref().map_or(0, |core| core.outbox_len());
        if waiting > UNACKNOWLEDGED {
            return too_long("unacknowledged reports", index, waiting);
        }
    }
    Ok(())
}
