//! Bounds on work.

use super::register::{read, unanswered, write};
use super::*;

/// Claim: a search stops at its limit and says for which key; a key that is wrong is told all the
/// same, and a key that is right costs little.
/// Method: a key with many writes at once and a value nobody wrote, with few steps; beside it a
/// right key, then a wrong one.
#[test]
fn undecided() {
    let mut history = history::<Register>((1..=20).map(|value| write(value, 0, 100 + value)));
    let read = history.invoke(99, KEY, RegisterInput::Read, 200);
    history.complete(read, RegisterOutput::Read(77), 201);
    for (key, value) in [(0, 0), (2, 0)] {
        let read = history.invoke(99, key, RegisterInput::Read, 0);
        history.complete(read, RegisterOutput::Read(value), 1);
    }
    assert_eq!(
        check(&history, &Register, 100),
        Verdict::Undecided { key: KEY }
    );
    let read = history.invoke(99, 3, RegisterInput::Read, 0);
    history.complete(read, RegisterOutput::Read(5), 1);
    let verdict = check(&history, &Register, 100);
    assert!(
        matches!(verdict, Verdict::NotLinearizable { key: 3, .. }),
        "{verdict}"
    );
}

/// Claim: unanswered operations that nothing depends on cost no more than looking at them, even
/// where there is no order.
/// Method: sixty different writes that were never answered, then a value that nobody wrote: with
/// each set of them tried, 2^60 steps.
#[test]
fn unanswered_operations_are_cheap() {
    let open = (1..=60).map(|value| unanswered(RegisterInput::Write(value), 0));
    let reads = [
        write(99, 1, 2),
        read(30, 3, 4),
        read(40, 5, 6),
        read(77, 7, 8),
    ];
    let history = history::<Register>(open.chain(reads));
    let verdict = check(&history, &Register, 20_000);
    let Verdict::NotLinearizable { prefix, stuck, .. } = &verdict else {
        panic!("expected a refusal, got: {verdict}");
    };
    let order: Vec<u64> = prefix.iter().map(|line| client(line)).collect();
    assert_eq!(order, [60, 29, 61, 39, 62]);
    assert_eq!(client(&stuck[0]), 63);
}
