//! What one copy would do.

use std::fmt::Debug;
use std::hash::Hash;

/// The sequential specification of what one key names.
///
/// A model that is free to choose (a job may end by itself) keeps in its state what is known, that
/// is, the set of all states it could be in, and makes it smaller with every answer.
pub trait Model {
    /// What the operations so far have led to.
    type State: Clone + Eq + Hash + Debug;
    /// What a client asks.
    type Input: Eq + Hash + Debug;
    /// What a client is answered.
    type Output: Debug;

    /// The state before the first operation.
    fn initial(&self) -> Self::State;

    /// The state after `input` was answered with `output` in `state`; none if that answer is
    /// wrong there.
    fn step(
        &self,
        state: &Self::State,
        input: &Self::Input,
        output: &Self::Output,
    ) -> Option<Self::State>;

    /// The state after `input` took effect in `state` and nobody saw the answer; none if it has
    /// no effect there. What it leads to when it never happens is not asked.
    fn step_unknown(&self, state: &Self::State, input: &Self::Input) -> Option<Self::State>;

    /// Whether the operation only looks: where it is accepted and leaves the state as it is, any
    /// order of operations that is accepted with it further on is accepted with it here as well.
    /// True of reads and of everything else that, once it changes nothing, changes nothing later;
    /// not of writes, which overwrite what comes in between.
    ///
    /// The search is correct if this is always false, and much faster if it is not.
    fn is_observation(&self, input: &Self::Input, output: &Self::Output) -> bool {
        let _ = (input, output);
        false
    }

    /// The operation as a person reads it.
    fn describe(&self, input: &Self::Input, output: Option<&Self::Output>) -> String {
        match output {
            Some(output) => format!("{input:?} -> {output:?}"),
            None => format!("{input:?} -> no answer"),
        }
    }
}
