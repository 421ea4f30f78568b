//! A label of a job: a register that is written and read.

use super::Model;

/// One label of a job, absent at first. The history's key names both: `(job, label)`.
#[derive(Debug, Clone, Copy, Default)]
pub struct LabelModel;

/// What is asked of a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LabelInput {
    /// Sets the value.
    Put(String),
    /// Asks for the value.
    Read,
}

/// What a label's coordinator answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LabelOutput {
    /// The value was set.
    Put,
    /// The value; none if it was never set.
    Read(Option<String>),
}

impl Model for LabelModel {
    type State = Option<String>;
    type Input = LabelInput;
    type Output = LabelOutput;

    fn initial(&self) -> Option<String> {
        None
    }

    fn step(
        &self,
        state: &Option<String>,
        input: &LabelInput,
        output: &LabelOutput,
    ) -> Option<Option<String>> {
        match (input, output) {
            (LabelInput::Put(value), LabelOutput::Put) => Some(Some(value.clone())),
            (LabelInput::Read, LabelOutput::Read(value)) => (value == state).then(|| state.clone()),
            (LabelInput::Put(_), LabelOutput::Read(_)) | (LabelInput::Read, LabelOutput::Put) => {
                None
            }
        }
    }

    fn step_unknown(&self, _: &Option<String>, input: &LabelInput) -> Option<Option<String>> {
        match input {
            LabelInput::Put(value) => Some(Some(value.clone())),
            LabelInput::Read => None,
        }
    }

    fn is_observation(&self, input: &LabelInput, _: &LabelOutput) -> bool {
        *input == LabelInput::Read
    }
}
