//! Where to look for the coordinator that leads.

use std::net::SocketAddr;

/// What is known about where the leader is; touches no network.
///
/// Whoever looks asks for an [`Search::order`], connects to the first that answers, and tells what
/// came of it: [`Search::elsewhere`] or [`Search::found`].
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// What the last coordinator that did not lead said about who does.
    hinted: Vec<SocketAddr>,
    /// Where the leader was not.
    left: Option<SocketAddr>,
    /// Steps since the leader was last found, or nobody was.
    steps: usize,
}

impl Search {
    /// Addresses in the order in which to try them: the hint, then `known` from behind the last one
    /// tried on, so that this one comes last.
    pub fn order(&self, known: &[SocketAddr]) -> Vec<SocketAddr> {
        let begin = self
            .left
            .and_then(|left| known.iter().position(|address| *address == left))
            .map_or(0, |index| index + 1);
        let (first, last) = known.split_at(begin);
        let mut order: Vec<SocketAddr> = Vec::new();
        for address in self.hinted.iter().chain(last).chain(first) {
            if !order.contains(address) {
                order.push(*address);
            }
        }
        order
    }

    /// The coordinator at `left` does not lead, or is gone; `hinted` is where it says that the leader
    /// is. Whether to go on at once: a round over all of `known` coordinators is free, then there is
    /// no leader at the moment, and whoever looks must pause.
    pub fn elsewhere(&mut self, left: SocketAddr, hinted: Vec<SocketAddr>, known: usize) -> bool {
        self.hinted = hinted.into_iter().filter(|hint| *hint != left).collect();
        self.left = Some(left);
        self.steps += 1;
        // One more than there are: the hint of the last one is worth following.
        self.steps <= known && known > 1
    }

    /// Nobody answered: hints are worth nothing any more, and once somebody does, another round is free.
    pub fn nobody(&mut self) {
        self.hinted.clear();
        self.steps = 0;
    }

    /// The leader answered.
    pub fn found(&mut self) {
        self.hinted.clear();
        self.steps = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    // Claim: the hint comes first, then the next one in turn, and the one that was left comes last.
    // Method: three coordinators, of which the second is left.
    #[test]
    fn hint_then_next() {
        let known = [at(1), at(2), at(3)];
        let mut search = Search::default();
        assert_eq!(search.order(&known), known);
        search.elsewhere(at(2), Vec::new(), known.len());
        assert_eq!(search.order(&known), [at(3), at(1), at(2)]);
        search.elsewhere(at(2), vec![at(1)], known.len());
        assert_eq!(search.order(&known), [at(1), at(3), at(2)]);
        // One that nobody listed is found too; one that hints at itself is not believed.
        search.elsewhere(at(1), vec![at(9)], known.len());
        assert_eq!(search.order(&known), [at(9), at(2), at(3), at(1)]);
        search.elsewhere(at(1), vec![at(1)], known.len());
        assert_eq!(search.order(&known), [at(2), at(3), at(1)]);
        search.elsewhere(at(1), vec![at(9)], known.len());
        search.nobody();
        assert_eq!(search.order(&known), [at(2), at(3), at(1)]);
    }

    // Claim: two coordinators that hint at each other are not asked without pause, and a single one
    // never is. Method: hints in a circle, until the leader is found.
    #[test]
    fn a_circle_of_hints_is_paced() {
        let mut search = Search::default();
        let step = |search: &mut Search, left: u16, hint: u16| {
            search.elsewhere(at(left), vec![at(hint)], 2)
        };
        for _ in 0..2 {
            assert!(step(&mut search, 1, 2) && step(&mut search, 2, 1));
            assert!(!step(&mut search, 1, 2) && !step(&mut search, 2, 1));
            search.found();
        }
        assert!(step(&mut search, 1, 2) && step(&mut search, 2, 1));
        assert!(!step(&mut search, 1, 2));
        // After a time without anybody the first hint is followed at once.
        search.nobody();
        assert!(search.elsewhere(at(1), vec![at(2)], 2));
        assert!(!Search::default().elsewhere(at(1), Vec::new(), 1));
    }
}
