//! What the search asks for.

use super::*;
use crate::network::NetworkSpec;
use crate::prune::search::SearchState;

/// Claim: generation 0 holds the full net (random masks alone answer at chance, and the size term
/// would rule), no chromosome has an empty layer, and best fitness never decreases.
#[test]
fn the_search_keeps_its_promises() {
    for preset in ["default", "paper"] {
        let text = JOB.replace("[search]", &format!("[search]\npreset = \"{preset}\""));
        let record = run(&text, Order::First, None);
        let network = record.gangs[0].network.clone();
        assert!(record.asked[0].1[0] == Chromosome::ones(network.genes()));
        assert!(
            record
                .asked
                .iter()
                .all(|(_, genomes)| genomes.iter().all(|genome| network.fits(genome)))
        );
        assert!(record.best.is_sorted(), "{:?}", record.best);
        // Raw roulette has hardly any pressure where all fitness is nearly equal.
        assert!(preset == "paper" || record.best[12] > record.best[0]);
    }
}

/// Whether the widths keep to the budget and no layer could have one filter more.
fn is_filled(network: &NetworkSpec, genome: &Chromosome) -> bool {
    let formula = network.size_formula();
    let budget = network.parameters() / 4;
    let widths = network.widths(genome);
    let is_largest = |layer: usize| {
        let mut wider = widths.clone();
        wider[layer] += 1;
        widths[layer] == network.prunable()[layer].filters || formula.parameters(&wider) > budget
    };
    formula.parameters(&widths) <= budget && (0..widths.len()).all(is_largest)
}

/// Claim: with the preset `default`, every net of generation 0 but the full one and every child of
/// a crossover or a mutation has the wanted size; with `fit = false` many children have not.
#[test]
fn children_have_the_wanted_size() {
    for is_fit in [true, false] {
        let text = JOB.replace("[search]", &format!("[search]\nfit = {is_fit}"));
        let record = run(&text, Order::First, None);
        let network = record.gangs[0].network.clone();
        let first = &record.asked[0].1;
        assert_eq!(first.len(), 16);
        assert!(first[1..].iter().all(|genome| is_filled(&network, genome)));
        let (mut filled, mut other) = (0, 0);
        for generation in 1..=12 {
            let name = format!("population/{generation:03}.json");
            let file: serde_json::Value = serde_json::from_slice(&record.stores[&name]).unwrap();
            for individual in file.as_array().unwrap() {
                let operator = individual["operator"].as_str().unwrap();
                if matches!(operator, "crossover" | "mutation") {
                    let genome = individual["genome"].as_str().unwrap();
                    match is_filled(&network, &Chromosome::parse(genome).unwrap()) {
                        true => filled += 1,
                        false => other += 1,
                    }
                }
            }
        }
        assert!(filled + other > 100);
        assert_eq!(other == 0, is_fit, "{filled} filled, {other} others");
    }
}

/// Claim: an elite keeps the score that it was chosen for, so that the best fitness never falls, also
/// where the same net answers worse when it is asked again.
/// Method: three generations of which each answers worse than the one before, elites included.
#[test]
fn elites_keep_their_scores() {
    let JobDriver::PruneV1(driver) = &spec::parse("job.toml", JOB).unwrap().driver;
    let job = driver.job();
    let l1: Vec<Vec<u32>> = [12, 16, 110].map(|filters| (0..filters).collect()).to_vec();
    let mut search = SearchState::new(job, &l1);
    let mut best = Vec::new();
    for correct in [400, 200, 0] {
        let asked = search.genomes().len();
        // Among nets within the size one is better than the others.
        let scores: Vec<Score> = (0..asked as u32)
            .map(|index| Score {
                correct: correct + u32::from(index == 5),
                total: 500,
            })
            .collect();
        search.enter(job, &scores, asked as u32, 0);
        best.push(search.summary(job).unwrap().best_fitness);
        assert!(search.advance(job, &l1));
    }
    assert_eq!(best, [401.0 / 500.0 + 0.3; 3]);
}
