//! Histories whose verdict is known: made by hand, taken from Porcupine, enumerated, simulated.

mod enumerated;
mod jobs;
mod labels;
mod limits;
mod porcupine;
mod register;
mod registers;
mod simulated;

use super::{History, Model, Verdict, check};
use register::{Register, RegisterInput, RegisterOutput};

/// Far more than any history here needs.
const STEPS: u64 = 1_000_000;

/// Key of histories about one thing.
const KEY: u64 = 1;

type HistoryOf<M> = History<u64, <M as Model>::Input, <M as Model>::Output>;

/// Operations of [`KEY`], each by a client of its own: what was asked, what was answered, and
/// when both happened; without an answer it was never seen.
fn history<M: Model>(
    operations: impl IntoIterator<Item = (M::Input, Option<M::Output>, u64, u64)>,
) -> HistoryOf<M> {
    let mut history = History::new();
    for (client, (input, output, called, answered)) in operations.into_iter().enumerate() {
        let handle = history.invoke(client as u64, KEY, input, called);
        match output {
            Some(output) => history.complete(handle, output, answered),
            None => history.unknown(handle),
        }
    }
    history
}

/// Asserts that the history is refused after the operations of `clients`, in that order, and that
/// the operations of `stuck` are the ones that do not fit then.
#[track_caller]
fn refused(verdict: &Verdict<u64>, clients: &[u64], stuck_clients: &[u64]) {
    let Verdict::NotLinearizable { prefix, stuck, .. } = verdict else {
        panic!("expected a refusal, got: {verdict}");
    };
    let names = |lines: &[String]| -> Vec<u64> { lines.iter().map(|line| client(line)).collect() };
    assert_eq!(names(prefix), clients, "prefix of: {verdict}");
    assert_eq!(names(stuck), stuck_clients, "stuck in: {verdict}");
}

/// The number in `client 3 [10, 20]: …`.
fn client(line: &str) -> u64 {
    let number = line.split(' ').nth(1).expect("a number");
    number.parse().expect("a number")
}
