//! Registers, by hand.

use super::register::{Line, cas, read, unanswered, write};
use super::*;

fn judge(lines: impl IntoIterator<Item = Line>) -> Verdict<u64> {
    check(&history::<Register>(lines), &Register, STEPS)
}

/// Claim: what is right is accepted.
/// Method: nothing; one client alone; reads that overlap a write and see either value, in the
/// order of time; writes that overlap, in any order.
#[test]
fn right_histories_are_accepted() {
    assert_eq!(judge([]), Verdict::Linearizable);
    let alone = [
        write(1, 0, 1),
        read(1, 2, 3),
        cas(1, 2, true, 4, 5),
        read(2, 6, 7),
    ];
    assert_eq!(judge(alone), Verdict::Linearizable);
    let overlapping = [
        write(1, 0, 10),
        read(0, 1, 2),
        read(1, 3, 4),
        read(1, 11, 12),
    ];
    assert_eq!(judge(overlapping), Verdict::Linearizable);
    for last in [1, 2] {
        let writes = [write(1, 0, 10), write(2, 0, 10), read(last, 11, 12)];
        assert_eq!(judge(writes), Verdict::Linearizable);
    }
}

/// Claim: a read that began after a write was answered does not see an older value.
/// Method: the old value after an answered write, and after a read that saw the new one while
/// the write was still open.
#[test]
fn stale_reads_are_refused() {
    refused(&judge([write(1, 0, 1), read(0, 2, 3)]), &[0], &[1]);
    let back = judge([write(1, 0, 10), read(1, 1, 2), read(0, 3, 4)]);
    refused(&back, &[0, 1], &[2]);
}

/// Claim: an answered write is not lost, neither to another one nor to a compare-and-set.
/// Method: two writes in order and the first one's value afterwards; two clients that both set
/// what they had read to be 0.
#[test]
fn lost_updates_are_refused() {
    let overwritten = judge([write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)]);
    refused(&overwritten, &[0, 1], &[2]);
    let both_set = judge([
        read(0, 0, 1),
        read(0, 0, 1),
        cas(0, 1, true, 2, 5),
        cas(0, 2, true, 2, 6),
    ]);
    refused(&both_set, &[0, 1, 2], &[3]);
}

/// Claim: nothing is seen before it was asked for.
/// Method: a read that was answered before the call of the write it saw, answered or not.
#[test]
fn reads_from_the_future_are_refused() {
    refused(&judge([read(1, 0, 1), write(1, 2, 3)]), &[], &[0]);
    let open = judge([read(1, 0, 1), unanswered(RegisterInput::Write(1), 2)]);
    refused(&open, &[], &[0]);
}

/// Claim: an operation takes effect once.
/// Method: a compare-and-set from 1 to 2 whose effect is seen, undone by a write, and seen again;
/// answered and not. Asked twice it may be.
#[test]
fn effects_happen_once() {
    let around = |set: Line| {
        [
            write(1, 0, 1),
            set,
            read(2, 4, 5),
            write(1, 6, 7),
            read(2, 8, 9),
        ]
    };
    refused(&judge(around(cas(1, 2, true, 2, 20))), &[0, 1, 2, 3], &[4]);
    let open = unanswered(RegisterInput::Cas(1, 2), 2);
    refused(&judge(around(open)), &[0, 1, 2, 3], &[4]);
    let twice = around(open).into_iter().chain([open]);
    assert_eq!(judge(twice), Verdict::Linearizable);
}

/// Claim: an unanswered operation may take effect at once, late, between any two others, or
/// never.
/// Method: a write that was never answered, and every place where its value may show.
#[test]
fn unanswered_operations_stay_open() {
    let seen: [&[u64]; 5] = [&[1, 1, 1], &[9, 9, 9], &[1, 1, 9], &[1, 9, 9], &[9, 9, 1]];
    for values in seen {
        let reads = values.iter().zip([10, 1000, 100_000]);
        let reads = reads.map(|(&value, time)| read(value, time, time + 1));
        let before = [write(1, 0, 1), unanswered(RegisterInput::Write(9), 2)];
        let verdict = judge(before.into_iter().chain(reads));
        // Once it has shown, it is there for good.
        let is_right = values != [9, 9, 1];
        assert_eq!(verdict.is_linearizable(), is_right, "{values:?}: {verdict}");
    }
}

/// Claim: several unanswered operations may be needed in an order other than that of their calls.
/// Method: three compare-and-sets that only lead to the value seen when the last goes first.
#[test]
fn unanswered_operations_chain() {
    let open = |from, to| unanswered(RegisterInput::Cas(from, to), 0);
    let chain = [open(2, 3), open(1, 2), open(0, 1), read(3, 10, 11)];
    assert_eq!(judge(chain), Verdict::Linearizable);
    let broken = judge([open(2, 3), open(0, 1), read(3, 10, 11)]);
    refused(&broken, &[], &[2]);
}

/// Claim: operations that certainly did not happen are left out, and those that never ended count
/// as unanswered.
/// Method: a write whose value shows and does not show, with either end.
#[test]
fn operations_without_an_answer() {
    for (value, is_executed, is_right) in [
        (0, false, true),
        (5, false, false),
        (0, true, true),
        (5, true, true),
    ] {
        let mut history = HistoryOf::<Register>::new();
        let write = history.invoke(1, KEY, RegisterInput::Write(5), 0);
        if is_executed {
            drop(write);
        } else {
            history.failed(write);
        }
        let read = history.invoke(2, KEY, RegisterInput::Read, 1);
        history.complete(read, RegisterOutput::Read(value), 2);
        let verdict = check(&history, &Register, STEPS);
        assert_eq!(verdict.is_linearizable(), is_right, "{value}: {verdict}");
    }
}

/// Claim: keys are independent, and the key that is wrong is named, with what is wrong about it.
/// Method: three keys at the same times, of which the second loses a write; its text as people
/// read it.
#[test]
fn wrong_keys_are_named() {
    let mut history = HistoryOf::<Register>::new();
    for key in [3, 2, 1] {
        let write = history.invoke(10, key, RegisterInput::Write(key), 0);
        let read = history.invoke(11, key, RegisterInput::Read, 7);
        history.complete(write, RegisterOutput::Written, 5);
        let seen = if key == 2 { 0 } else { key };
        history.complete(read, RegisterOutput::Read(seen), 9);
    }
    let verdict = check(&history, &Register, STEPS);
    let text = "not linearizable for key 2\n\
                in order (1 operations, 0 not shown):\n  \
                client 10 [0, 5]: Write(2) -> Written\n\
                then, in state 2, none of these fits:\n  \
                client 11 [7, 9]: Read -> Read(0)\n";
    assert_eq!(verdict.to_string(), text);
}

/// Claim: a handle ends its operation after the call only.
/// Method: an answer before the call.
#[test]
#[should_panic(expected = "operation 0 was answered at 4, before its call at 5")]
fn answers_before_calls_are_bugs() {
    let mut history = HistoryOf::<Register>::new();
    let read = history.invoke(1, KEY, RegisterInput::Read, 5);
    history.complete(read, RegisterOutput::Read(0), 4);
}
