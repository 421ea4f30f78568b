//! The best chromosomes seen so far, each once.

use crate::calls::Score;
use crate::evolution::Chromosome;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// An evaluated chromosome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its genes.
    pub genome: Chromosome,
    /// Parameters of its net.
    pub parameters: u64,
    /// Its answers on the fitness images.
    pub score: Score,
    /// Its fitness.
    pub fitness: f64,
    /// Generation in which it was first seen; 0 outside a search.
    pub generation: u32,
}

impl Candidate {
    /// Better candidates first: higher fitness, then fewer parameters, then genes. Equal only for
    /// the same chromosome.
    fn by_fitness(&self, other: &Self) -> Ordering {
        let by_fitness = other.fitness.total_cmp(&self.fitness);
        by_fitness.then_with(|| self.by_size(other))
    }

    fn by_size(&self, other: &Self) -> Ordering {
        self.parameters
            .cmp(&other.parameters)
            .then_with(|| self.genome.cmp(&other.genome))
    }
}

/// The best `size` different candidates of at most `budget` parameters, and the smallest of all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shortlist {
    size: u32,
    budget: u64,
    best: Vec<Candidate>,
    smallest: Option<Candidate>,
}

impl Shortlist {
    /// An empty list.
    pub fn new(size: u32, budget: u64) -> Self {
        Self {
            size,
            budget,
            best: Vec::new(),
            smallest: None,
        }
    }

    /// Enters a candidate, if it is good enough and new.
    pub fn enter(&mut self, candidate: Candidate) {
        let is_smallest = |smallest: &Candidate| candidate.by_size(smallest).is_lt();
        if self.smallest.as_ref().is_none_or(is_smallest) {
            self.smallest = Some(candidate.clone());
        }
        if candidate.parameters > self.budget {
            return;
        }
        if let Err(place) = self
            .best
            .binary_search_by(|other| other.by_fitness(&candidate))
        {
            self.best.insert(place, candidate);
            self.best.truncate(self.size as usize);
        }
    }

    /// The candidates inside the budget, best first; if there is none, the smallest of all.
    pub fn finalists(&self) -> Vec<Candidate> {
        match &self.smallest {
            Some(smallest) if self.best.is_empty() => vec![smallest.clone()],
            _ => self.best.clone(),
        }
    }

    /// Whether any candidate was inside the budget.
    pub fn is_budget_met(&self) -> bool {
        !self.best.is_empty()
    }
}

/// Position of the highest selection score; ties: fewer parameters, then genes.
pub fn winner(candidates: &[(Chromosome, u64)], scores: &[Score]) -> Option<usize> {
    let better = |a: &usize, b: &usize| {
        let ((genome_a, size_a), (genome_b, size_b)) = (&candidates[*a], &candidates[*b]);
        let by_score = scores[*b].correct.cmp(&scores[*a].correct);
        by_score
            .then(size_a.cmp(size_b))
            .then_with(|| genome_a.cmp(genome_b))
    };
    (0..candidates.len().min(scores.len())).min_by(better)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(gene: u32, parameters: u64, fitness: f64) -> Candidate {
        let mut genome = Chromosome::zeros(64);
        genome.set(gene, true);
        Candidate {
            genome,
            parameters,
            score: Score {
                correct: 1,
                total: 2,
            },
            fitness,
            generation: 0,
        }
    }

    /// Claim: the list holds the best different candidates inside the budget, best first, whatever
    /// the order of arrival.
    #[test]
    fn holds_the_best_inside_the_budget() {
        let mut all: Vec<Candidate> = (0..20)
            .map(|k| candidate(k, 10 + u64::from(k % 5), f64::from(k / 2)))
            .collect();
        all.push(candidate(40, 99, 1e9));
        for turn in 0..all.len() {
            all.rotate_left(turn);
            let mut list = Shortlist::new(4, 20);
            all.iter()
                .chain(&all)
                .for_each(|each| list.enter(each.clone()));
            let fitness: Vec<f64> = list.finalists().iter().map(|each| each.fitness).collect();
            assert_eq!(fitness, [9.0, 9.0, 8.0, 8.0]);
            assert_eq!(list.finalists()[0].parameters, 13);
            assert!(list.is_budget_met());
        }
    }

    /// Claim: if nothing is small enough, the smallest is offered and that is said.
    #[test]
    fn offers_the_smallest_when_the_budget_is_not_met() {
        let mut list = Shortlist::new(4, 5);
        [
            candidate(0, 10, 3.0),
            candidate(1, 7, 1.0),
            candidate(2, 8, 9.0),
        ]
        .into_iter()
        .for_each(|each| list.enter(each));
        assert!(!list.is_budget_met());
        assert_eq!(list.finalists(), [candidate(1, 7, 1.0)]);
        assert!(Shortlist::new(4, 5).finalists().is_empty());
    }

    /// Claim: the highest score wins, then the smaller net, then the genes.
    #[test]
    fn winner_breaks_ties_by_size() {
        let genome = |gene| candidate(gene, 0, 0.0).genome;
        let score = |correct| Score { correct, total: 10 };
        let candidates = [(genome(1), 5), (genome(2), 4), (genome(3), 9)];
        assert_eq!(
            winner(&candidates, &[score(7), score(7), score(6)]),
            Some(1)
        );
        assert_eq!(
            winner(&candidates, &[score(7), score(7), score(8)]),
            Some(2)
        );
        assert_eq!(winner(&[], &[]), None);
    }
}
