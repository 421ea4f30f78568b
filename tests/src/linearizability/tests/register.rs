//! The register that checkers are usually tried on.

use crate::linearizability::Model;

/// A number that is written, read, and compared and set; 0 at first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Register;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum RegisterInput {
    Write(u64),
    Read,
    /// From the first to the second.
    Cas(u64, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum RegisterOutput {
    Written,
    Read(u64),
    /// Whether it was set.
    Cas(bool),
}

impl Model for Register {
    type State = u64;
    type Input = RegisterInput;
    type Output = RegisterOutput;

    fn initial(&self) -> u64 {
        0
    }

    fn step(&self, state: &u64, input: &RegisterInput, output: &RegisterOutput) -> Option<u64> {
        match (*input, *output) {
            (RegisterInput::Write(value), RegisterOutput::Written) => Some(value),
            (RegisterInput::Read, RegisterOutput::Read(value)) => {
                (value == *state).then_some(*state)
            }
            (RegisterInput::Cas(from, to), RegisterOutput::Cas(true)) => {
                (from == *state).then_some(to)
            }
            (RegisterInput::Cas(from, _), RegisterOutput::Cas(false)) => {
                (from != *state).then_some(*state)
            }
            _ => None,
        }
    }

    fn step_unknown(&self, state: &u64, input: &RegisterInput) -> Option<u64> {
        match *input {
            RegisterInput::Write(value) => Some(value),
            RegisterInput::Cas(from, to) => (from == *state).then_some(to),
            RegisterInput::Read => None,
        }
    }

    fn is_observation(&self, input: &RegisterInput, _: &RegisterOutput) -> bool {
        !matches!(input, RegisterInput::Write(_))
    }
}

pub(super) type Line = (RegisterInput, Option<RegisterOutput>, u64, u64);

pub(super) fn write(value: u64, called: u64, answered: u64) -> Line {
    let output = Some(RegisterOutput::Written);
    (RegisterInput::Write(value), output, called, answered)
}

pub(super) fn read(value: u64, called: u64, answered: u64) -> Line {
    let output = Some(RegisterOutput::Read(value));
    (RegisterInput::Read, output, called, answered)
}

pub(super) fn cas(from: u64, to: u64, is_set: bool, called: u64, answered: u64) -> Line {
    let output = Some(RegisterOutput::Cas(is_set));
    (RegisterInput::Cas(from, to), output, called, answered)
}

pub(super) fn unanswered(input: RegisterInput, called: u64) -> Line {
    (input, None, called, 0)
}
