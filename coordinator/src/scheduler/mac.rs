//! Leases prove themselves: a keyed MAC that any later leader can check without a table.

#[cfg(evoring_plants)]
use evoring_protocol::plants::{Plant, is_planted};
use evoring_protocol::work::Lease;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Separates this use of the key from any other.
const CONTEXT: &[u8] = b"evoring lease 1";

fn hash(key: &[u8; 32], lease: &Lease) -> Hmac<Sha256> {
    let fields = (
        lease.job,
        lease.demand,
        &lease.items,
        &lease.worker,
        lease.slot,
        lease.term,
        lease.number,
        lease.expiry_ms,
    );
    // Writing plain data into a growing vector cannot fail, and HMAC takes keys of any length.
    let bytes =
        postcard::to_allocvec(&fields).unwrap_or_else(|e| panic!("a lease does not encode: {e}"));
    let mut hash = <Hmac<Sha256> as KeyInit>::new_from_slice(key)
        .unwrap_or_else(|e| panic!("HMAC refuses a key: {e}"));
    hash.update(CONTEXT);
    hash.update(&bytes);
    hash
}

/// Fills in the MAC.
pub(super) fn sign(key: &[u8; 32], mut lease: Lease) -> Lease {
    lease.mac = hash(key, &lease).finalize().into_bytes().into();
    lease
}

/// Whether the lease was made with this key and not changed since; in constant time.
pub(super) fn is_valid(key: &[u8; 32], lease: &Lease) -> bool {
    #[cfg(evoring_plants)]
    if is_planted(Plant::ForgedLeaseCounts) {
        return true;
    }
    hash(key, lease).verify_slice(&lease.mac).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use evoring_protocol::work::LeasedItem;
    use evoring_protocol::{Attempt, DemandId, ItemIndex, JobId, SlotIndex, Term, WorkerId};

    // Claim: no field of a lease can be changed, and no other key makes one.
    // Method: change each field in turn; check with another key.
    #[test]
    fn every_field_is_covered() {
        let lease = sign(
            &[7; 32],
            Lease {
                job: JobId(1),
                demand: DemandId(2),
                items: vec![LeasedItem {
                    index: ItemIndex(3),
                    attempt: Attempt(1),
                }],
                worker: WorkerId::new("w1").unwrap(),
                slot: SlotIndex(0),
                term: Term(5),
                number: 9,
                expiry_ms: 1_000,
                mac: [0; 32],
            },
        );
        assert!(is_valid(&[7; 32], &lease));
        assert!(!is_valid(&[8; 32], &lease));
        let changes: [fn(&mut Lease); 9] = [
            |l| l.job.0 += 1,
            |l| l.demand.0 += 1,
            |l| l.items[0].index.0 += 1,
            |l| l.items.clear(),
            |l| l.worker = WorkerId::new("w2").unwrap(),
            |l| l.slot.0 += 1,
            |l| l.term.0 += 1,
            |l| l.number += 1,
            |l| l.expiry_ms += 1,
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut changed = lease.clone();
            change(&mut changed);
            assert!(!is_valid(&[7; 32], &changed), "change {number}");
        }
    }
}
