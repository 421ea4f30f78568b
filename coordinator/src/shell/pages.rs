//! Answers of any length in replies of bounded size.

use evoring_protocol::limits::{CLIENT_REPLY_BYTES, PAGE_ITEMS};
use postcard::ser_flavors::Size;
use serde::Serialize;

/// A page is full at this many bytes, counted as they are sent: far below a reply's limit, so that
/// the first page comes soon and the lock under which it is filled is short.
const PAGE_BYTES: usize = CLIENT_REPLY_BYTES / 4;
/// Room in a reply for what is around its items.
const OVERHEAD_BYTES: usize = 64;

/// The first of `items`, as many as fit into one page and may be there; one at least, if there are any. An item that
/// exceeds even a reply is found out when it is sent.
pub(super) fn page<'a, T>(items: impl IntoIterator<Item = &'a T>) -> Vec<T>
where
    T: Serialize + Clone + 'a,
{
    let mut filled = 0;
    items
        .into_iter()
        .take(PAGE_ITEMS)
        .take_while(|item| {
            let is_first = filled == 0;
            filled += encoded_bytes(*item);
            is_first || filled <= PAGE_BYTES
        })
        .cloned()
        .collect()
}

/// The last of `items`, in their order, as many as fit into one reply.
pub(super) fn newest<T: Serialize>(mut items: Vec<T>) -> Vec<T> {
    let mut filled = OVERHEAD_BYTES;
    let kept = items
        .iter()
        .rev()
        .take_while(|item| {
            filled += encoded_bytes(*item);
            filled <= CLIENT_REPLY_BYTES
        })
        .count();
    items.split_off(items.len() - kept)
}

/// Whether these are too many for one reply.
pub(super) fn exceeds_reply<T: Serialize>(items: &[T]) -> bool {
    items.iter().map(encoded_bytes).sum::<usize>() + OVERHEAD_BYTES > CLIENT_REPLY_BYTES
}

/// Size of an item as it is sent.
fn encoded_bytes<T: Serialize>(item: &T) -> usize {
    // What cannot be encoded at all fills a page, and fails when it is sent.
    postcard::serialize_with_flavor(item, Size::default()).unwrap_or(PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use evoring_protocol::client::{ClientReply, LogLine};
    use evoring_protocol::codec::encode;
    use evoring_protocol::event::{Event, EventKind};
    use evoring_protocol::{Attempt, DemandId, ItemIndex, JobId, SlotIndex, WorkerId};

    fn reply(events: &[Event]) -> ClientReply {
        ClientReply::Events {
            coordinator: "x".repeat(63),
            events: events.to_vec(),
        }
    }

    fn granted(number: u64) -> Event {
        let items = (1_000_000..1_004_096).map(|index| (ItemIndex(index), Attempt(1)));
        let kind = EventKind::LeaseGranted {
            job: JobId(1),
            demand: DemandId(1),
            stage: "search".to_owned(),
            worker: WorkerId::new("w1").unwrap(),
            slot: SlotIndex(0),
            items: items.collect(),
            is_copy: false,
        };
        Event {
            number,
            time_ms: 1,
            entry: None,
            kind,
        }
    }

    // Claim: the longest events and log lines travel in replies that can be encoded, none is lost
    // and none comes twice.
    // Method: more leases of the most items than one reply holds; page after page until the end.
    #[test]
    fn long_events_fit() {
        let events: Vec<Event> = (1..=512).map(granted).collect();
        assert!(encode(&reply(&events)).is_err());
        let mut sent = Vec::new();
        while sent.len() < events.len() {
            let page = page(&events[sent.len()..]);
            assert!(!page.is_empty());
            encode(&reply(&page)).unwrap();
            sent.extend(page);
        }
        assert_eq!(sent, events);
    }

    // Claim: short items share a page, an empty list gives an empty page, and one item that is
    // longer than a page comes alone.
    // Method: log lines of both lengths.
    #[test]
    fn pages_are_filled() {
        let line = |bytes: usize| LogLine {
            time_ms: 1,
            worker: None,
            text: "x".repeat(bytes),
        };
        assert_eq!(page(&Vec::<LogLine>::new()), []);
        assert_eq!(page(&vec![line(100); 5_000]).len(), 5_000);
        assert_eq!(page(&vec![line(1); 2 * PAGE_ITEMS]).len(), PAGE_ITEMS);
        let long = [line(2 * PAGE_BYTES), line(1)];
        assert_eq!(page(&long), long[..1]);
    }

    // Claim: of too many items the newest ones are kept, in order, and they fit.
    // Method: strings of 1 KiB, more than a reply holds; the encoder decides.
    #[test]
    fn newest_items_fit() {
        let items: Vec<String> = (0..8_000).map(|i| format!("{i:01024}")).collect();
        assert!(exceeds_reply(&items));
        let kept = newest(items.clone());
        assert_eq!(kept, items[items.len() - kept.len()..]);
        assert!(kept.len() > 3_000 && !exceeds_reply(&kept));
        encode(&ClientReply::Explanation(kept)).unwrap();
        assert_eq!(newest(items[..10].to_vec()), items[..10]);
    }
}
