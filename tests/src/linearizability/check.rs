//! The verdict on a history.

use super::search::{Found, Search, Task};
use super::{History, Model};
use std::fmt::{self, Debug, Display};

/// How many operations of a prefix are shown; the ones that matter are near its end.
const SHOWN: usize = 20;

/// Whether a history is linearizable.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Verdict<K> {
    /// For each key there is an order that the model accepts.
    Linearizable,
    /// There is none for `key`. Other keys were not all looked at.
    NotLinearizable {
        /// The key.
        key: K,
        /// A longest order that the model accepts of a part of the operations.
        prefix: Vec<String>,
        /// The model's state after it.
        state: String,
        /// The answered operations of which one must come next and none can, that answered first
        /// in front.
        stuck: Vec<String>,
    },
    /// No key was found to be wrong, and `key` took too many steps to decide.
    Undecided {
        /// The first such key.
        key: K,
    },
}

impl<K> Verdict<K> {
    /// Whether an order was found for every key.
    pub fn is_linearizable(&self) -> bool {
        matches!(self, Self::Linearizable)
    }
}

impl<K: Debug> Display for Verdict<K> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linearizable => write!(out, "linearizable"),
            Self::Undecided { key } => write!(
                out,
                "undecided for key {key:?}; allow more steps or use fewer clients for a key"
            ),
            Self::NotLinearizable {
                key,
                prefix,
                state,
                stuck,
            } => {
                let hidden = prefix.len().saturating_sub(SHOWN);
                writeln!(out, "not linearizable for key {key:?}")?;
                writeln!(
                    out,
                    "in order ({} operations, {hidden} not shown):",
                    prefix.len()
                )?;
                for operation in &prefix[hidden..] {
                    writeln!(out, "  {operation}")?;
                }
                writeln!(out, "then, in state {state}, none of these fits:")?;
                for operation in stuck {
                    writeln!(out, "  {operation}")?;
                }
                Ok(())
            }
        }
    }
}

/// Judges a history by a model, each key by itself in at most `most_steps` attempts to place an
/// operation. A few for each operation suffice, unless the history is wrong, or many operations
/// overlap; time and memory grow with the attempts.
///
/// Keys are looked at in their order, up to the first wrong one.
///
/// # Panics
///
/// If the model does not answer the same question always in the same way.
pub fn check<K, M>(
    history: &History<K, M::Input, M::Output>,
    model: &M,
    most_steps: u64,
) -> Verdict<K>
where
    K: Clone + Ord,
    M: Model,
{
    let mut undecided = None;
    for (key, operations) in history.by_key() {
        let mut search = Search::new(model, &operations);
        match search.run(most_steps) {
            Found::Order => {}
            Found::Nothing => return not_linearizable(key.clone(), model, &search),
            Found::TooLong => undecided = undecided.or_else(|| Some(key.clone())),
        }
    }
    match undecided {
        None => Verdict::Linearizable,
        Some(key) => Verdict::Undecided { key },
    }
}

fn not_linearizable<K, M: Model>(key: K, model: &M, search: &Search<'_, M>) -> Verdict<K> {
    let step = |state: M::State, task: &Task<'_, M>| task.step(model, &state);
    let state = search.prefix().try_fold(model.initial(), step);
    let state = state.expect("the model accepts what it accepted before");
    let describe = |task: &Task<'_, M>| describe(model, task);
    Verdict::NotLinearizable {
        key,
        prefix: search.prefix().map(describe).collect(),
        state: format!("{state:?}"),
        stuck: search.stuck().into_iter().map(describe).collect(),
    }
}

/// `client 3 [10, 20]: read -> 5`
fn describe<M: Model>(model: &M, task: &Task<'_, M>) -> String {
    let answered = match task.answer {
        Some((_, at)) => at.to_string(),
        None => "never".to_owned(),
    };
    let what = model.describe(task.input, task.answer.map(|(output, _)| output));
    format!(
        "client {} [{}, {answered}]: {what}",
        task.client, task.called
    )
}
