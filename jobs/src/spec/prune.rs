//! Sections of `evolve.prune`.

use super::reader::Section;
use super::{checks, data, network};
use crate::calls::Recipe;
use crate::evolution::{Breeding, Crossover, Mutation, Scaling, Selection, Start};
use crate::prune::{Baselines, PruneJob, Search, Shares, SizeTerm, Training};
use evoring_protocol::limits::GANG_RANKS;

/// Bytes of one generation's file, estimated: individuals × (genes + [`INDIVIDUAL_BYTES`]). Keeps
/// a step of the driver within its 10 ms.
const GENERATION_BYTES: u64 = 1 << 20;
/// Width allocations times prunable layers, for the same reason; those of a start at the wanted
/// size count too.
const ALLOCATION_LAYERS: usize = 10_000;
/// Bytes of an individual beside its genes.
const INDIVIDUAL_BYTES: u64 = 256;

/// Reads the whole job; `None` where a defect was reported.
pub(super) fn read(top: &mut Section<'_>, name: &str) -> Option<PruneJob> {
    let seed = top.integer("seed", 1, 0..=i64::MAX as u64);

    let mut section = top.section("data");
    let data = data::read(&mut section, seed);
    let mut network_section = top.section("network");
    let network = network::read(
        &mut network_section,
        data.as_ref().map_or(10, |data| data.classes),
    );
    network_section.finish();
    let data = data
        .zip(network.as_ref())
        .and_then(|(data, network)| data::fit(&section, data, network.input));
    let images = data
        .as_ref()
        .and_then(|data| data::training_images(&section, data));
    section.finish();

    let mut section = top.section("train");
    let shards = shards(&mut section);
    let train = training(&mut section, shards, &train_defaults());
    if let Some(network) = &network {
        checks::shards(&section, shards, network);
        checks::batch(&section, &train, shards, network, images);
    }
    section.finish();

    let mut section = top.section("search");
    let search = search(&mut section);
    if let Some(network) = &network {
        check_generation_bytes(&section, &search, network.genes());
        checks::finalists(&section, &search, network.genes());
        if search.breeding.start == Start::L1Target {
            let layers = network.prunable().len();
            check_allocations(&section, "population", search.breeding.population, layers);
        }
    }
    section.finish();

    let mut section = top.section("baselines");
    let baselines = Baselines {
        l1_widths: section.boolean("l1_widths", true),
        l1_allocations: section.count("l1_allocations", 48, 0..=1_000),
        random: section.boolean("random", true),
        full_extra: section.boolean("full_extra", true),
    };
    if let Some(network) = &network {
        // As many again are drawn where the search starts from L1-norm prunings.
        let draws = 1 + usize::from(search.breeding.start == Start::L1Target);
        let layers = draws * network.prunable().len();
        check_allocations(&section, "l1_allocations", baselines.l1_allocations, layers);
    }
    section.finish();

    let mut section = top.section("finetune");
    let finetune = training(&mut section, shards, &finetune_defaults(&train));
    // A batch that it takes over from [train] was checked there.
    if let Some(network) = network.as_ref().filter(|_| section.find("batch").is_some()) {
        checks::batch(&section, &finetune, shards, network, images);
    }
    section.finish();

    let mut section = top.section("evaluate");
    let evaluate_batch = section.count("batch", 250, 1..=65_536);
    section.finish();

    Some(PruneJob {
        name: name.to_owned(),
        seed,
        data: data?,
        network: network?,
        shards,
        train,
        search,
        finetune,
        baselines,
        evaluate_batch,
    })
}

fn train_defaults() -> Training {
    let recipe = Recipe {
        epochs: 6,
        batch: 128,
        learning_rate: 0.05,
        warmup_steps: 100,
        momentum: 0.9,
        weight_decay: 5e-4,
        flip: false,
        shift_pixels: 0,
    };
    Training {
        ranks: [1, 4],
        recipe,
        checkpoint_steps: 100,
    }
}

/// The training's own recipe for one epoch at a tenth of the learning rate.
fn finetune_defaults(train: &Training) -> Training {
    let learning_rate = train.recipe.learning_rate / 10.0;
    Training {
        recipe: Recipe {
            epochs: 1,
            learning_rate,
            ..train.recipe.clone()
        },
        ..train.clone()
    }
}

fn shards(section: &mut Section<'_>) -> u32 {
    let Some(field) = section.field("shards") else {
        return 4;
    };
    let shards = field
        .value
        .as_integer()
        .and_then(|shards| u32::try_from(shards).ok());
    match shards {
        Some(shards) if shards.is_power_of_two() && shards <= GANG_RANKS => shards,
        _ => {
            section.wrong(
                "shards",
                field,
                &format!("a power of two from 1 to {GANG_RANKS}"),
            );
            4
        }
    }
}

fn training(section: &mut Section<'_>, shards: u32, defaults: &Training) -> Training {
    let recipe = &defaults.recipe;
    Training {
        ranks: ranks(section, shards, defaults.ranks),
        recipe: Recipe {
            epochs: section.count("epochs", recipe.epochs, 1..=10_000),
            batch: batch(section, shards, recipe.batch),
            learning_rate: section.number("learning_rate", recipe.learning_rate, 1e-9..=100.0),
            warmup_steps: section.count("warmup_steps", recipe.warmup_steps, 0..=1_000_000),
            momentum: section.number("momentum", recipe.momentum, 0.0..=0.999_999),
            weight_decay: section.number("weight_decay", recipe.weight_decay, 0.0..=1.0),
            flip: section.boolean("flip", recipe.flip),
            shift_pixels: section.count("shift_pixels", recipe.shift_pixels, 0..=64),
        },
        checkpoint_steps: section.count(
            "checkpoint_steps",
            defaults.checkpoint_steps,
            1..=1_000_000,
        ),
    }
}

/// Images of one step; every shard gets the same number.
fn batch(section: &mut Section<'_>, shards: u32, default: u32) -> u32 {
    let default = default.div_ceil(shards) * shards;
    let Some(field) = section.field("batch") else {
        return default;
    };
    let batch = field
        .value
        .as_integer()
        .and_then(|batch| u32::try_from(batch).ok());
    match batch {
        Some(batch) if (1..=65_536).contains(&batch) && batch % shards == 0 => batch,
        _ => {
            section.wrong(
                "batch",
                field,
                &format!("a multiple of shards ({shards}) from {shards} to 65536"),
            );
            default
        }
    }
}

/// `"1..4"` (both ends included), `"2"` or `2`.
fn ranks(section: &mut Section<'_>, shards: u32, default: [u32; 2]) -> [u32; 2] {
    let default = [default[0].min(shards), default[1].min(shards)];
    let Some(field) = section.field("ranks") else {
        return default;
    };
    let number = |text: &str| text.trim().parse::<u32>().ok();
    let ranks = match (field.value.as_integer(), field.value.as_str()) {
        (Some(ranks), _) => u32::try_from(ranks).ok().map(|ranks| [ranks, ranks]),
        (None, Some(text)) => match text.split_once("..") {
            Some((min, max)) => number(min).zip(number(max)).map(|(min, max)| [min, max]),
            None => number(text).map(|ranks| [ranks, ranks]),
        },
        (None, None) => None,
    };
    match ranks {
        Some([min, max]) if 1 <= min && min <= max && max <= shards => [min, max],
        _ => {
            let expected =
                format!("\"MIN..MAX\" with 1 ≤ MIN ≤ MAX ≤ {shards} (shards), or one number");
            section.wrong("ranks", field, &expected);
            default
        }
    }
}

/// Defaults of `search.preset = "paper"`: the operators and numbers of the paper, with a start
/// from high keep rates (see `docs/job-file.md`).
fn paper() -> Search {
    Search {
        generations: 50,
        breeding: Breeding {
            population: 32,
            start: Start::KeepRates,
            keep_rates: [0.7, 0.95],
            selection: Selection::Roulette,
            tournament_size: 3,
            scaling: Scaling::Raw,
            copy_rate: 0.2,
            crossover_rate: 0.7,
            mutation_rate: 0.1,
            crossover: Crossover::TwoPoint,
            mutation: Mutation::Segment,
            mutation_genes: 6.0,
            child_mutation: 0.0,
            elites: 1,
        },
        // Convolutions first: after fine-tuning, nets of one size are the better the more of their
        // parameters are in convolutions.
        start_shares: Shares {
            conv: [0.5, 1.0],
            dense: [0.05, 0.3],
        },
        fit: false,
        lambda: 0.3,
        size_term: SizeTerm::Linear,
        min_compression: 8.0,
        finalists: 50,
    }
}

/// Defaults of `search.preset = "default"`: the paper's sizes, rates and λ, but a start at the
/// wanted size, tournaments, small mutations, and accuracy alone among nets that are small enough.
fn default() -> Search {
    let paper = paper();
    Search {
        breeding: Breeding {
            start: Start::L1Target,
            selection: Selection::Tournament,
            mutation: Mutation::BitFlip,
            child_mutation: 0.5,
            elites: 2,
            ..paper.breeding
        },
        fit: true,
        size_term: SizeTerm::Target,
        ..paper
    }
}

fn search(section: &mut Section<'_>) -> Search {
    let is_paper = section.choice("preset", false, &[("default", false), ("paper", true)]);
    let preset = if is_paper { paper() } else { default() };
    let breeding = breeding(section, &preset.breeding);
    let size_terms = [("linear", SizeTerm::Linear), ("target", SizeTerm::Target)];
    Search {
        generations: section.count("generations", preset.generations, 0..=999),
        breeding,
        start_shares: Shares {
            conv: section.interval("conv_shares", preset.start_shares.conv, 0.001..=1.0),
            dense: section.interval("dense_shares", preset.start_shares.dense, 0.001..=1.0),
        },
        fit: section.boolean("fit", preset.fit),
        lambda: section.number("lambda", preset.lambda, 0.0..=100.0),
        size_term: section.choice("size_term", preset.size_term, &size_terms),
        min_compression: section.number("min_compression", preset.min_compression, 1.0..=10_000.0),
        finalists: section.count("finalists", preset.finalists, 1..=1_000),
    }
}

fn breeding(section: &mut Section<'_>, preset: &Breeding) -> Breeding {
    let starts = [
        ("keep-rates", Start::KeepRates),
        ("bernoulli", Start::Bernoulli),
        ("l1", Start::L1),
        ("l1-target", Start::L1Target),
    ];
    let selections = [
        ("roulette", Selection::Roulette),
        ("tournament", Selection::Tournament),
    ];
    let scalings = [("raw", Scaling::Raw), ("windowed", Scaling::Windowed)];
    let crossovers = [
        ("two-point", Crossover::TwoPoint),
        ("uniform", Crossover::Uniform),
    ];
    let mutations = [
        ("segment", Mutation::Segment),
        ("bit-flip", Mutation::BitFlip),
        ("exchange", Mutation::Exchange),
    ];
    let population = section.count("population", preset.population, 1..=4_096);
    let breeding = Breeding {
        population,
        start: section.choice("init", preset.start, &starts),
        keep_rates: section.interval("keep_rates", preset.keep_rates, 0.0..=1.0),
        selection: section.choice("selection", preset.selection, &selections),
        tournament_size: section.count("tournament_size", preset.tournament_size, 1..=64),
        scaling: section.choice("fitness", preset.scaling, &scalings),
        copy_rate: section.number("copy_rate", preset.copy_rate, 0.0..=1.0),
        crossover_rate: section.number("crossover_rate", preset.crossover_rate, 0.0..=1.0),
        mutation_rate: section.number("mutation_rate", preset.mutation_rate, 0.0..=1.0),
        crossover: section.choice("crossover", preset.crossover, &crossovers),
        mutation: section.choice("mutation", preset.mutation, &mutations),
        mutation_genes: section.number("mutation_genes", preset.mutation_genes, 0.0..=65_536.0),
        child_mutation: section.number("child_mutation", preset.child_mutation, 0.0..=1.0),
        elites: section.count("elites", preset.elites.min(population), 1..=4_096),
    };
    let sum = breeding.copy_rate + breeding.crossover_rate + breeding.mutation_rate;
    if (sum - 1.0).abs() > 1e-6 {
        let message =
            format!("search: expected copy_rate + crossover_rate + mutation_rate = 1, got {sum}");
        section.reader.report(section.line, message);
    }
    if let Some(field) = section
        .find("elites")
        .filter(|_| breeding.elites > population)
    {
        section.wrong(
            "elites",
            field,
            &format!("at most the population ({population})"),
        );
    }
    breeding
}

fn check_generation_bytes(section: &Section<'_>, search: &Search, genes: u32) {
    let individual = u64::from(genes) + INDIVIDUAL_BYTES;
    let most = GENERATION_BYTES / individual;
    if u64::from(search.breeding.population) > most {
        let population = search.breeding.population;
        let line = section
            .find("population")
            .map_or(section.line, |field| field.line);
        let message = format!(
            "search.population: expected at most {most} with {genes} filters, got {population}"
        );
        section.reader.report(line, message);
    }
}

fn check_allocations(section: &Section<'_>, name: &str, count: u32, layers: usize) {
    let most = ALLOCATION_LAYERS / layers.max(1);
    if count as usize > most {
        let line = section.find(name).map_or(section.line, |field| field.line);
        let name = section.path_of(name);
        let message = format!(
            "{name}: expected at most {most} width allocations for this network, got {count}"
        );
        section.reader.report(line, message);
    }
}
