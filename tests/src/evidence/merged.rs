//! One story from the event files of all coordinators of a group.
//!
//! Events of log entries are in every file, and told once. Others are only in the file of the
//! coordinator that led then; they are put behind the last entry that it knew when they happened, as
//! that is what it decided by, and in the order of the clock among each other.

use evoring_protocol::event::Event;
use std::collections::BTreeMap;

/// What happened, numbered from 1. A file may lack entries at its end, or some that came to it as a
/// snapshot.
pub fn merged(files: &[Vec<Event>]) -> Vec<Event> {
    // The events of each entry, from the file that has most of them: one may end in their middle.
    let mut of_entries: BTreeMap<u64, Vec<&Event>> = BTreeMap::new();
    let mut others: BTreeMap<u64, Vec<&Event>> = BTreeMap::new();
    for file in files {
        let mut known = 0;
        let mut own: BTreeMap<u64, Vec<&Event>> = BTreeMap::new();
        for event in file {
            match event.entry {
                Some(entry) => {
                    known = known.max(entry);
                    own.entry(entry).or_default().push(event);
                }
                None => others.entry(known).or_default().push(event),
            }
        }
        for (entry, events) in own {
            let longest = of_entries.entry(entry).or_default();
            if longest.len() < events.len() {
                *longest = events;
            }
        }
    }
    let mut told: BTreeMap<u64, Vec<&Event>> = of_entries;
    for (entry, mut events) in others {
        // Stable: events of one file at one instant keep their order.
        events.sort_by_key(|event| event.time_ms);
        told.entry(entry).or_default().extend(events);
    }
    let numbered = (1..).zip(told.into_values().flatten());
    numbered
        .map(|(number, event)| Event {
            number,
            ..event.clone()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use evoring_protocol::JobId;
    use evoring_protocol::event::EventKind;

    fn event(entry: Option<u64>, time_ms: u64) -> Event {
        Event {
            number: 0,
            time_ms,
            entry,
            kind: EventKind::JobFinished {
                job: JobId(time_ms),
            },
        }
    }

    fn told(files: &[Vec<Event>]) -> Vec<(Option<u64>, u64)> {
        let events = merged(files);
        let numbers: Vec<u64> = events.iter().map(|event| event.number).collect();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
        events.iter().map(|e| (e.entry, e.time_ms)).collect()
    }

    // Claim: each entry's events are told once and in full, the others behind what their coordinator
    // knew. Method: a leader that died, its follower that took over with another clock, and a file that
    // begins late and ends within an entry.
    #[test]
    fn told_once_and_in_order() {
        let old = vec![
            event(Some(1), 10),
            event(None, 11),
            event(Some(2), 12),
            event(None, 13),
        ];
        let new = vec![
            event(Some(1), 15),
            event(Some(2), 16),
            event(None, 12),
            event(Some(3), 17),
            event(Some(3), 18),
            event(None, 19),
        ];
        let late = vec![event(Some(3), 14)];
        let expected = [
            (Some(1), 10),
            (None, 11),
            (Some(2), 12),
            (None, 12),
            (None, 13),
            (Some(3), 17),
            (Some(3), 18),
            (None, 19),
        ];
        assert_eq!(told(&[old, new, late]), expected);
        assert_eq!(told(&[]), []);
    }
}
