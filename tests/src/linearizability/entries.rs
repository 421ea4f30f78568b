//! Calls and answers of one key in the order of time, as lists that entries are lifted out of.

/// Place of an entry: call of operation `i` at `2 i`, its answer at `2 i + 1`, then the two heads.
pub(super) type Entry = usize;

/// Two circular doubly linked lists: calls and answers of answered operations, and calls of
/// unanswered ones. Operations are numbered by call, the answered ones first.
///
/// An entry that was lifted keeps its neighbours, so that it can go back between them.
pub(super) struct Entries {
    next: Vec<Entry>,
    previous: Vec<Entry>,
    /// Place of each entry in the order of time.
    position: Vec<usize>,
    answered: usize,
    operations: usize,
}

impl Entries {
    /// From (time of call, time of answer) of the answered operations and times of call of the
    /// unanswered ones, both in the order of call.
    pub(super) fn new(answered: &[(u64, u64)], unanswered: &[u64]) -> Self {
        let operations = answered.len() + unanswered.len();
        // At equal instants calls come first, so that the operations overlap (LIN-1).
        let mut order: Vec<(u64, bool, Entry)> = Vec::new();
        for (operation, &(call, answer)) in answered.iter().enumerate() {
            order.push((call, false, call_of(operation)));
            order.push((answer, true, answer_of(operation)));
        }
        for (index, &call) in unanswered.iter().enumerate() {
            order.push((call, false, call_of(answered.len() + index)));
        }
        order.sort_unstable();
        let count = 2 * operations + 2;
        let mut entries = Self {
            next: (0..count).collect(),
            previous: (0..count).collect(),
            position: vec![usize::MAX; count],
            answered: answered.len(),
            operations,
        };
        for (position, &(_, _, entry)) in order.iter().enumerate() {
            entries.position[entry] = position;
            let is_answered = operation_of(entry) < entries.answered;
            entries.append(entry, is_answered);
        }
        entries
    }

    fn append(&mut self, entry: Entry, is_answered: bool) {
        let head = if is_answered {
            self.answered_head()
        } else {
            self.unanswered_head()
        };
        self.previous[entry] = self.previous[head];
        self.next[entry] = head;
        self.restore(entry);
    }

    fn answered_head(&self) -> Entry {
        2 * self.operations
    }

    fn unanswered_head(&self) -> Entry {
        2 * self.operations + 1
    }

    /// The first call or answer of the answered operations that are not lifted. The first one of
    /// all is always a call; none are left if it is the head.
    pub(super) fn first_answered(&self) -> Entry {
        self.next[self.answered_head()]
    }

    /// The operation that was answered first, of those that are not lifted.
    pub(super) fn urgent(&self) -> Option<usize> {
        let first = self.first_answered();
        let mut entries = self.walk(first);
        entries.find(|&entry| is_answer(entry)).map(operation_of)
    }

    /// The answered operations that were called before the first answer.
    pub(super) fn pending_answered(&self) -> impl Iterator<Item = usize> {
        let entries = self.walk(self.first_answered());
        let calls = entries.take_while(|&entry| !is_answer(entry));
        calls.map(operation_of)
    }

    /// The unanswered operations that were called before the answer of `urgent`.
    pub(super) fn pending_unanswered(&self, urgent: usize) -> impl Iterator<Item = usize> {
        let answer = self.position[answer_of(urgent)];
        let entries = self.walk(self.next[self.unanswered_head()]);
        let calls = entries.take_while(move |&entry| self.position[entry] < answer);
        calls.map(operation_of)
    }

    fn walk(&self, first: Entry) -> impl Iterator<Item = Entry> {
        let next = |&entry: &Entry| Some(self.next[entry]);
        std::iter::successors(Some(first), next).take_while(|&entry| !self.is_end(entry))
    }

    /// The entry after `entry`.
    pub(super) fn after(&self, entry: Entry) -> Entry {
        self.next[entry]
    }

    /// The entry before `entry`, or the head.
    pub(super) fn before(&self, entry: Entry) -> Entry {
        self.previous[entry]
    }

    /// Whether `entry` is the end of its list.
    pub(super) fn is_end(&self, entry: Entry) -> bool {
        entry >= 2 * self.operations
    }

    fn is_answered(&self, operation: usize) -> bool {
        operation < self.answered
    }

    /// Takes an operation out.
    pub(super) fn lift(&mut self, operation: usize) {
        self.remove(call_of(operation));
        if self.is_answered(operation) {
            self.remove(answer_of(operation));
        }
    }

    /// Puts the operation back that was lifted last.
    pub(super) fn unlift(&mut self, operation: usize) {
        if self.is_answered(operation) {
            self.restore(answer_of(operation));
        }
        self.restore(call_of(operation));
    }

    fn remove(&mut self, entry: Entry) {
        let (previous, next) = (self.previous[entry], self.next[entry]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    fn restore(&mut self, entry: Entry) {
        let (previous, next) = (self.previous[entry], self.next[entry]);
        self.next[previous] = entry;
        self.previous[next] = entry;
    }
}

/// The operation of a call or answer.
pub(super) fn operation_of(entry: Entry) -> usize {
    entry / 2
}

/// Whether the entry, which is no end, is an answer.
pub(super) fn is_answer(entry: Entry) -> bool {
    entry % 2 == 1
}

fn call_of(operation: usize) -> Entry {
    2 * operation
}

fn answer_of(operation: usize) -> Entry {
    2 * operation + 1
}
