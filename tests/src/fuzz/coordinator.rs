//! What a coordinator keeps: entries of the log, snapshots of the state, the event file.

use evoring_coordinator::state::{Batch, NEWEST_RECORDS, State};
use evoring_protocol::event::Event;

/// An entry of the log.
pub fn batch(data: &[u8]) {
    let Ok(batch) = Batch::decode(data, NEWEST_RECORDS) else {
        return;
    };
    let bytes = batch.encode(NEWEST_RECORDS);
    drop(batch);
    let again = Batch::decode(&bytes, NEWEST_RECORDS).expect("what was encoded decodes");
    assert_eq!(again.encode(NEWEST_RECORDS), bytes);
}

/// A snapshot of the state.
pub fn state(data: &[u8]) {
    let Ok(state) = State::decode(data) else {
        return;
    };
    let bytes = state.encode();
    let again = State::decode(&bytes).expect("what was encoded decodes");
    assert_eq!(again.encode(), bytes);
    assert_eq!(again.full_hash(), state.full_hash());
}

/// An event as the event file holds it, in JSON.
pub fn event(data: &[u8]) {
    let Ok(event) = serde_json::from_slice::<Event>(data) else {
        return;
    };
    let text = serde_json::to_vec(&event).expect("an event is written as JSON");
    let again: Event = serde_json::from_slice(&text).expect("what was written can be read");
    assert_eq!(again, event);
}
