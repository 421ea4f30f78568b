//! What clients asked and were answered, and when.

use std::collections::BTreeMap;

/// Operations of one run, in the order of recording.
///
/// Times come from one monotonic clock, in any unit: of a call before it is sent, of an answer
/// after it is received.
#[derive(Debug, Clone)]
pub struct History<K, I, O> {
    operations: Vec<Operation<K, I, O>>,
}

/// Names an operation that was called, until it ends.
#[derive(Debug, PartialEq, Eq, Hash)]
#[must_use = "an operation that is never ended counts as unanswered"]
pub struct Handle(usize);

/// One operation.
#[derive(Debug, Clone)]
pub(super) struct Operation<K, I, O> {
    pub(super) client: u64,
    pub(super) key: K,
    pub(super) input: I,
    pub(super) called: u64,
    pub(super) outcome: Outcome<O>,
}

/// How an operation ended.
#[derive(Debug, Clone)]
pub(super) enum Outcome<O> {
    Answered { output: O, at: u64 },
    Unknown,
    NotExecuted,
}

impl<K, I, O> Default for History<K, I, O> {
    fn default() -> Self {
        Self {
            operations: Vec::new(),
        }
    }
}

impl<K, I, O> History<K, I, O> {
    /// A history of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many operations were called.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether nothing was called.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// `client` asks `input` of `key` at `time`. Until it ends the operation is unanswered.
    pub fn invoke(&mut self, client: u64, key: K, input: I, time: u64) -> Handle {
        self.operations.push(Operation {
            client,
            key,
            input,
            called: time,
            outcome: Outcome::Unknown,
        });
        Handle(self.operations.len() - 1)
    }

    /// The operation was answered with `output` at `time`.
    ///
    /// # Panics
    ///
    /// If `time` is before the call, or the handle is of another history.
    pub fn complete(&mut self, handle: Handle, output: O, time: u64) {
        let operation = self.operation(&handle);
        let called = operation.called;
        assert!(
            called <= time,
            "operation {} was answered at {time}, before its call at {called}",
            handle.0
        );
        operation.outcome = Outcome::Answered { output, at: time };
    }

    /// Nobody will see the answer (it timed out, the client died): the operation stays open.
    ///
    /// # Panics
    ///
    /// If the handle is of another history.
    pub fn unknown(&mut self, handle: Handle) {
        self.operation(&handle).outcome = Outcome::Unknown;
    }

    /// The operation certainly never takes effect (it was never sent, or refused before the log).
    ///
    /// # Panics
    ///
    /// If the handle is of another history.
    pub fn failed(&mut self, handle: Handle) {
        self.operation(&handle).outcome = Outcome::NotExecuted;
    }

    fn operation(&mut self, handle: &Handle) -> &mut Operation<K, I, O> {
        let count = self.operations.len();
        self.operations
            .get_mut(handle.0)
            .unwrap_or_else(|| panic!("no operation {} among {count}", handle.0))
    }
}

impl<K: Ord, I, O> History<K, I, O> {
    /// What may have happened, by key.
    pub(super) fn by_key(&self) -> BTreeMap<&K, Vec<&Operation<K, I, O>>> {
        let mut keys: BTreeMap<&K, Vec<&Operation<K, I, O>>> = BTreeMap::new();
        for operation in &self.operations {
            if !matches!(operation.outcome, Outcome::NotExecuted) {
                keys.entry(&operation.key).or_default().push(operation);
            }
        }
        keys
    }
}
