//! Labels, by hand.

use super::*;
use crate::linearizability::{LabelInput, LabelModel, LabelOutput};

type Key = (u64, String);

fn put(value: &str) -> LabelInput {
    LabelInput::Put(value.to_owned())
}

fn seen(value: Option<&str>) -> LabelOutput {
    LabelOutput::Read(value.map(str::to_owned))
}

/// Claim: a label is absent until it is put, then holds the last value; labels of one job, and
/// equal labels of two, are apart.
/// Method: one right history of three labels; the same with each read changed to what another
/// label holds.
#[test]
fn labels_are_registers() {
    for wrong in [None, Some(0), Some(1), Some(2)] {
        let mut history: History<Key, LabelInput, LabelOutput> = History::new();
        let keys = [(1, "best"), (1, "worst"), (2, "best")];
        for (index, (job, label)) in keys.into_iter().enumerate() {
            let key = (job, label.to_owned());
            let absent = history.invoke(1, key.clone(), LabelInput::Read, 0);
            history.complete(absent, seen(None), 1);
            let value = index.to_string();
            let handle = history.invoke(1, key.clone(), put(&value), 2);
            history.complete(handle, LabelOutput::Put, 3);
            let value = if wrong == Some(index) { "9" } else { &value };
            let present = history.invoke(2, key, LabelInput::Read, 4);
            history.complete(present, seen(Some(value)), 5);
        }
        match (wrong, check(&history, &LabelModel, STEPS)) {
            (None, verdict) => assert_eq!(verdict, Verdict::Linearizable),
            (Some(index), Verdict::NotLinearizable { key, state, .. }) => {
                assert_eq!((key.0, key.1.as_str()), keys[index]);
                assert_eq!(state, format!("Some(\"{index}\")"));
            }
            (Some(_), verdict) => panic!("expected a refusal, got: {verdict}"),
        }
    }
}

/// Claim: a put that timed out may show later, and a value once seen does not vanish.
/// Method: reads of nothing, then of the value; then of nothing again.
#[test]
fn late_labels() {
    let read = |value, time| (LabelInput::Read, Some(seen(value)), time, time + 1);
    let late = [(put("a"), None, 0, 0), read(None, 5), read(Some("a"), 50)];
    let right = history::<LabelModel>(late.clone());
    assert_eq!(check(&right, &LabelModel, STEPS), Verdict::Linearizable);
    let vanished = history::<LabelModel>(late.into_iter().chain([read(None, 60)]));
    refused(&check(&vanished, &LabelModel, STEPS), &[1, 0, 2], &[3]);
}

/// Claim: a put of the value that the label has already may be needed later.
/// Method: one that overlaps a put of another value, and a read of the first value afterwards.
#[test]
fn repeated_puts() {
    let put = |value, called, answered| (put(value), Some(LabelOutput::Put), called, answered);
    let read = (LabelInput::Read, Some(seen(Some("a"))), 50, 51);
    let lines = [put("a", 0, 1), put("a", 10, 40), put("b", 11, 12), read];
    let verdict = check(&history::<LabelModel>(lines), &LabelModel, STEPS);
    assert_eq!(verdict, Verdict::Linearizable);
}
