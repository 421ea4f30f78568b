//! The search for an order, one key at a time.

use super::Model;
use super::cache::{BitSet, Cache};
use super::entries::{Entries, is_answer, operation_of};
use super::history::{Operation, Outcome};
use std::cmp::Reverse;
use std::collections::HashMap;

/// What the search found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// An order that the model accepts.
    Order,
    /// That there is none.
    Nothing,
    /// Neither, within the steps it had.
    TooLong,
}

/// A search on its way.
///
/// Operations are numbered by call, the answered ones first.
pub(super) struct Search<'a, M: Model> {
    model: &'a M,
    tasks: Vec<Task<'a, M>>,
    /// How many of the tasks were answered.
    answered: usize,
    entries: Entries,
    cache: Cache<M::State>,
    /// The state after `path`.
    state: M::State,
    path: Vec<Placed<M::State>>,
    /// The answered operations in `path`, how many, and the highest.
    placed: BitSet,
    placed_count: usize,
    highest: usize,
    /// The unanswered operations in `path`, counted from the first unanswered one.
    used: BitSet,
    /// What is left to try, for the operations of `path` and, from `choice.start` on, for the
    /// next one; the last goes first.
    choices: Vec<usize>,
    choice: Choice,
    /// Attempts to place an operation.
    steps: u64,
    longest: Longest,
}

/// One operation as the model sees it.
pub(super) struct Task<'a, M: Model> {
    pub(super) client: u64,
    pub(super) input: &'a M::Input,
    pub(super) called: u64,
    /// The answer and its time; none if it was never seen.
    pub(super) answer: Option<(&'a M::Output, u64)>,
    is_observation: bool,
    /// The unanswered operation with an equal input that was called just before.
    twin: Option<usize>,
}

/// An operation in the path, and what it takes to go back before it.
struct Placed<S> {
    operation: usize,
    state: S,
    highest: usize,
    /// What is left to try in its place; nothing need be if there is none.
    choice: Option<Choice>,
}

impl<M: Model> Task<'_, M> {
    /// The state after the operation; none if the model does not accept it in `state`.
    pub(super) fn step(&self, model: &M, state: &M::State) -> Option<M::State> {
        match self.answer {
            Some((output, _)) => model.step(state, self.input, output),
            None => model.step_unknown(state, self.input),
        }
    }
}

/// How far the choice of an operation has come.
#[derive(Debug, Clone, Copy)]
struct Choice {
    /// Where its part of the choices begins.
    start: usize,
    next: Stage,
}

impl Choice {
    fn at(start: usize) -> Self {
        Self {
            start,
            next: Stage::Urgent,
        }
    }
}

/// What is tried next, cheapest and most likely first.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// The operation that was answered first: it has to come soon.
    Urgent,
    /// The other answered ones that were called before its answer.
    Answered,
    /// The unanswered ones that were.
    Unanswered,
    Over,
}

impl<'a, M: Model> Search<'a, M> {
    /// A search over the operations of one key.
    pub(super) fn new<K>(
        model: &'a M,
        operations: &[&'a Operation<K, M::Input, M::Output>],
    ) -> Self {
        let tasks = tasks(model, operations);
        let answered = tasks.iter().filter(|task| task.answer.is_some()).count();
        let times = |task: &Task<'a, M>| task.answer.map(|(_, at)| (task.called, at));
        let closed: Vec<(u64, u64)> = tasks.iter().filter_map(times).collect();
        let open: Vec<u64> = tasks[answered..].iter().map(|task| task.called).collect();
        let entries = Entries::new(&closed, &open);
        Self {
            model,
            answered,
            entries,
            choices: Vec::new(),
            choice: Choice::at(0),
            cache: Cache::new(),
            state: model.initial(),
            path: Vec::new(),
            placed: BitSet::new(answered),
            placed_count: 0,
            highest: 0,
            used: BitSet::new(open.len()),
            steps: 0,
            longest: Longest::default(),
            tasks,
        }
    }

    /// Looks for an order, in at most `most_steps` attempts to place an operation.
    pub(super) fn run(&mut self, most_steps: u64) -> Found {
        self.settle();
        self.is_new();
        while self.placed_count < self.answered {
            let Some(operation) = self.next_choice() else {
                if !self.take_back() {
                    return Found::Nothing;
                }
                continue;
            };
            if self.steps >= most_steps {
                return Found::TooLong;
            }
            if let Some(state) = self.state_after(operation) {
                self.place(operation, state, Some(self.choice));
                self.settle();
                if !self.is_new() {
                    self.take_back();
                }
            }
        }
        Found::Order
    }

    /// The operation to try next; none if all that may come next were tried.
    fn next_choice(&mut self) -> Option<usize> {
        while self.choices.len() == self.choice.start {
            let urgent = self.entries.urgent()?;
            self.choice.next = match self.choice.next {
                Stage::Urgent => {
                    self.choices.push(urgent);
                    Stage::Answered
                }
                Stage::Answered => {
                    let pending = self.entries.pending_answered();
                    let others = pending.filter(|&operation| operation != urgent);
                    self.choices.extend(others);
                    self.sort_choices(urgent);
                    Stage::Unanswered
                }
                Stage::Unanswered => {
                    let pending = self.entries.pending_unanswered(urgent);
                    let used = |twin| self.used.contains(twin - self.answered);
                    let is_first = |&task: &usize| self.tasks[task].twin.is_none_or(used);
                    self.choices.extend(pending.filter(is_first));
                    self.sort_choices(urgent);
                    Stage::Over
                }
                Stage::Over => return None,
            };
        }
        self.choices.pop()
    }

    /// Puts last, to be tried first, what the urgent operation can follow, and of that what was
    /// answered first: what is answered late is better left for late.
    fn sort_choices(&mut self, urgent: usize) {
        let (model, tasks, state) = (self.model, &self.tasks, &self.state);
        let urgent = &tasks[urgent];
        self.choices[self.choice.start..].sort_by_cached_key(|&operation| {
            let task = &tasks[operation];
            let after = task.step(model, state);
            let is_followed = after.is_some_and(|after| urgent.step(model, &after).is_some());
            (is_followed, Reverse(task.answer.map(|(_, at)| at)))
        });
    }

    /// The state if the operation comes next; none if it cannot, or need not.
    fn state_after(&mut self, operation: usize) -> Option<M::State> {
        self.steps += 1;
        let task = &self.tasks[operation];
        let state = task.step(self.model, &self.state)?;
        // An unanswered operation that makes no difference to the one behind it is not needed:
        // without it, that one leads to the same state and is tried as well.
        if let Some(last) = self.path.last()
            && last.operation >= self.answered
            && task.step(self.model, &last.state).as_ref() == Some(&state)
        {
            return None;
        }
        Some(state)
    }

    fn place(&mut self, operation: usize, state: M::State, choice: Option<Choice>) {
        self.path.push(Placed {
            operation,
            state: std::mem::replace(&mut self.state, state),
            highest: self.highest,
            choice,
        });
        if operation < self.answered {
            self.placed.insert(operation);
            self.placed_count += 1;
            self.highest = self.highest.max(operation);
        } else {
            self.used.insert(operation - self.answered);
        }
        self.entries.lift(operation);
        self.choice = Choice::at(self.choices.len());
    }

    /// Places all that only looks, may come next and fits. The state stays, so one pass suffices.
    fn settle(&mut self) {
        let mut entry = self.entries.first_answered();
        while !self.entries.is_end(entry) && !is_answer(entry) {
            let operation = operation_of(entry);
            let before = self.entries.before(entry);
            let task = &self.tasks[operation];
            if task.is_observation
                && task.step(self.model, &self.state).as_ref() == Some(&self.state)
            {
                self.place(operation, self.state.clone(), None);
                entry = self.entries.after(before);
            } else {
                entry = self.entries.after(entry);
            }
        }
    }

    /// Whether the search was not here before, nor anywhere it could do the same from.
    fn is_new(&mut self) -> bool {
        let first = self.entries.first_answered();
        if self.entries.is_end(first) {
            return true;
        }
        let window = self.placed.window(operation_of(first), self.highest);
        self.cache.insert(window, self.state.clone(), &self.used)
    }

    /// Goes back before the last operation that something else can be tried for, and on to that;
    /// false if there is none.
    fn take_back(&mut self) -> bool {
        self.longest
            .see(&self.path, self.placed_count, self.answered);
        while let Some(last) = self.path.pop() {
            self.entries.unlift(last.operation);
            if last.operation < self.answered {
                self.placed.remove(last.operation);
                self.placed_count -= 1;
            } else {
                self.used.remove(last.operation - self.answered);
            }
            self.state = last.state;
            self.highest = last.highest;
            if let Some(choice) = last.choice {
                self.choice = choice;
                self.longest.shorten(self.path.len());
                return true;
            }
        }
        false
    }

    /// The longest path that was found, in its order.
    pub(super) fn prefix(&self) -> impl Iterator<Item = &Task<'a, M>> {
        let order = self.longest.order.iter();
        order.map(|&operation| &self.tasks[operation])
    }

    /// The answered operations of which one must come next after the longest path, the one that
    /// was answered first in front.
    pub(super) fn stuck(&self) -> Vec<&Task<'a, M>> {
        let mut is_placed = vec![false; self.tasks.len()];
        for &operation in &self.longest.order {
            is_placed[operation] = true;
        }
        let left = self.tasks[..self.answered].iter().enumerate();
        let left = left.filter(|&(operation, _)| !is_placed[operation]);
        let with_answer = left.filter_map(|(_, task)| Some((task.answer?.1, task)));
        let mut pending: Vec<(u64, &Task<'a, M>)> = with_answer.collect();
        pending.sort_by_key(|&(at, _)| at);
        let Some(&(first, _)) = pending.first() else {
            return Vec::new();
        };
        pending.retain(|(_, task)| task.called <= first);
        pending.into_iter().map(|(_, task)| task).collect()
    }
}

/// The path that held the most answered operations.
#[derive(Default)]
struct Longest {
    order: Vec<usize>,
    /// How many of them were answered; none were seen yet if there is no number.
    answered: Option<usize>,
    /// How much of `order` the path has in common with it.
    shared: usize,
}

impl Longest {
    /// Looks at a path of `placed` answered operations, of `answered` in all.
    fn see<S>(&mut self, path: &[Placed<S>], placed: usize, answered: usize) {
        if self.answered.is_some_and(|most| placed <= most) {
            return;
        }
        self.answered = Some(placed);
        // Unanswered operations at its end led nowhere.
        let last = path.iter().rposition(|placed| placed.operation < answered);
        let path = &path[..last.map_or(0, |last| last + 1)];
        self.order.truncate(self.shared);
        let rest = path.iter().skip(self.shared);
        self.order.extend(rest.map(|placed| placed.operation));
        self.order.truncate(path.len());
        self.shared = path.len();
    }

    fn shorten(&mut self, length: usize) {
        self.shared = self.shared.min(length);
    }
}

fn tasks<'a, K, M: Model>(
    model: &M,
    operations: &[&'a Operation<K, M::Input, M::Output>],
) -> Vec<Task<'a, M>> {
    let mut tasks: Vec<Task<'a, M>> = Vec::with_capacity(operations.len());
    tasks.extend(operations.iter().map(|operation| {
        let answer = match &operation.outcome {
            Outcome::Answered { output, at } => Some((output, *at)),
            Outcome::Unknown | Outcome::NotExecuted => None,
        };
        let looks = |(output, _)| model.is_observation(&operation.input, output);
        Task {
            client: operation.client,
            input: &operation.input,
            called: operation.called,
            answer,
            is_observation: answer.is_some_and(looks),
            twin: None,
        }
    }));
    tasks.sort_by_key(|task| (task.answer.is_none(), task.called));
    let mut last: HashMap<&M::Input, usize> = HashMap::new();
    for (index, task) in tasks.iter_mut().enumerate() {
        if task.answer.is_none() {
            task.twin = last.insert(task.input, index);
        }
    }
    tasks
}
