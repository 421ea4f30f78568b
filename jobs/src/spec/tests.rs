//! What job files may say, and what is said about wrong ones.

use super::*;
use crate::prune::PruneJob;
use proptest::prelude::*;

const SMALLEST: &str = "name = \"a\"\nkind = \"evolve.prune\"\n[data]\nset = \"fashion-mnist\"\n[network]\nname = \"lenet\"\n";

fn job(text: &str) -> PruneJob {
    let JobDriver::PruneV1(driver) = parse("job.toml", text).unwrap().driver;
    driver.job().clone()
}

fn messages(text: &str) -> Vec<String> {
    parse("job.toml", text).unwrap_err().messages
}

/// The only message about the smallest job with `lines` added to `section`.
fn message(section: &str, lines: &str) -> String {
    let header = format!("[{section}]\n");
    let text = match SMALLEST.contains(&header) {
        true => SMALLEST.replace(&header, &format!("{header}{lines}\n")),
        false => format!("{SMALLEST}{header}{lines}\n"),
    };
    let messages = messages(&text);
    assert_eq!(messages.len(), 1, "{messages:#?}");
    messages[0].clone()
}

/// Claim: what the parser would take hundreds of bytes for is refused before it is asked, by the
/// client as by the coordinator; as many words and signs as allowed are parsed.
/// Method: an array of numbers at both sides of the limit, and words alone.
#[test]
fn words_and_signs_are_limited() {
    let numbers = |count: usize| format!("{SMALLEST}a = [{}]", "1,".repeat(count));
    let fits = numbers(MAX_PIECES - pieces(&numbers(0)));
    assert!(
        messages(&fits)[0].contains("unknown field"),
        "{:?}",
        messages(&fits)
    );
    for text in [fits.replace("[1", "[ 1"), "a ".repeat(MAX_PIECES + 1)] {
        let refused = "job.toml:1: expected a job file of at most 16384 words and signs (= , . [ ] { } \" ' and line ends), got 16385; shorten lists and comments";
        assert_eq!(messages(&text), [refused]);
        let error = with_absolute_paths("job.toml", &text, "/folder").unwrap_err();
        assert_eq!(error.messages, [refused]);
    }
}

/// Claim: the smallest job has the defaults that the paper (Wang et al., *Towards Evolutionary
/// Compression*, KDD 2018) and `docs/job-file.md` name.
#[test]
fn smallest_job_has_the_defaults() {
    let job = job(SMALLEST);
    assert_eq!(job.network.genes(), 570);
    assert_eq!(job.data.shape, [1, 28, 28]);
    assert_eq!(
        (job.data.fitness_images, job.data.selection_images),
        (2_000, 8_000)
    );
    assert_eq!(
        (job.search.breeding.population, job.search.generations),
        (32, 50)
    );
    assert_eq!((job.shards, job.train.ranks), (4, [1, 4]));
    assert_eq!(
        job.finetune.recipe.learning_rate,
        job.train.recipe.learning_rate / 10.0
    );
    assert!(job.baselines.l1_allocations >= 48);
    for preset in ["default", "paper"] {
        let job = super::tests::job(&format!("{SMALLEST}[search]\npreset = \"{preset}\"\n"));
        let breeding = job.search.breeding;
        let rates = [
            breeding.copy_rate,
            breeding.crossover_rate,
            breeding.mutation_rate,
        ];
        assert_eq!(rates, [0.2, 0.7, 0.1]);
        assert_eq!(job.search.lambda, 0.3);
        let is_paper = (breeding.elites, breeding.child_mutation) == (1, 0.0);
        assert_eq!(is_paper, preset == "paper");
    }
}

/// Claim: the example is a valid job, and needs no more than what it says.
#[test]
fn the_example_is_valid() {
    let spec = parse(
        "prune-fashion.toml",
        include_str!("../../../examples/prune-fashion.toml"),
    )
    .unwrap();
    assert_eq!(
        (spec.name.as_str(), spec.kind.as_str()),
        ("prune-fashion", "evolve.prune")
    );
    assert_eq!(spec.min_ranks, 1);
}

/// Claim: each kind of defect is refused with file, line, field, expected, got and the nearest
/// valid name.
#[test]
fn defects_are_named() {
    let cases = [
        (
            "search",
            "populaton = 32",
            "job.toml:8: search.populaton: unknown field; [search] may have preset, ",
            "; did you mean \"population\"?",
        ),
        (
            "search",
            "population = \"32\"",
            "job.toml:8: search.population: expected an integer from 1 to 4096",
            "got \"32\"",
        ),
        (
            "search",
            "population = 0",
            "job.toml:8: search.population: expected an integer from 1 to 4096",
            "got 0",
        ),
        (
            "search",
            "\n\npopulation = -1",
            "job.toml:10: search.population",
            "got -1",
        ),
        (
            "search",
            "lambda = nan",
            "search.lambda: expected a number from 0 to 100",
            "got NaN",
        ),
        (
            "search",
            "lambda = inf",
            "search.lambda: expected a number from 0 to 100",
            "got inf",
        ),
        (
            "search",
            "copy_rate = 1.5",
            "search.copy_rate: expected a number from 0 to 1",
            "got 1.5",
        ),
        (
            "search",
            "copy_rate = 0.5",
            "search: expected copy_rate + crossover_rate + mutation_rate = 1",
            "",
        ),
        (
            "search",
            "elites = 40",
            "search.elites: expected at most the population (32)",
            "got 40",
        ),
        (
            "search",
            "keep_rates = [0.9, 0.2]",
            "search.keep_rates: expected [low, high]",
            "got [0.9, 0.2]",
        ),
        (
            "search",
            "crossover = \"two_point\"",
            "search.crossover: expected \"two-point\" or \"uniform\"",
            "did you mean \"two-point\"?",
        ),
        (
            "network",
            "layers = []",
            "network.name: expected either a name or layers",
            "",
        ),
        (
            "train",
            "ranks = 0",
            "train.ranks: expected \"MIN..MAX\" with 1 ≤ MIN ≤ MAX ≤ 4 (shards)",
            "got 0",
        ),
        (
            "train",
            "ranks = \"0..4\"",
            "train.ranks: expected",
            "got \"0..4\"",
        ),
        (
            "train",
            "ranks = \"1..8\"",
            "train.ranks: expected",
            "got \"1..8\"",
        ),
        (
            "train",
            "shards = 3",
            "train.shards: expected a power of two from 1 to 4096",
            "got 3",
        ),
        (
            "train",
            "batch = 126",
            "train.batch: expected a multiple of shards (4)",
            "got 126",
        ),
        (
            "train",
            "batch = 50004",
            "job.toml:8: train.batch: expected at most 50000, the images that are left for training",
            "got 50004",
        ),
        (
            "data",
            "train_images = 127",
            "job.toml:4: train.batch: expected at most 127, the images that are left for training",
            "got 128",
        ),
        (
            "finetune",
            "batch = 50004",
            "job.toml:8: finetune.batch: expected at most 50000",
            "got 50004",
        ),
        (
            "train",
            "momentum = true",
            "train.momentum: expected a number",
            "got true",
        ),
        (
            "train",
            "flip = 1",
            "train.flip: expected true or false",
            "got 1",
        ),
        (
            "data",
            "fitness_images = 59000",
            "data: fashion-mnist has 60000 train-side images",
            "need 67001",
        ),
        (
            "data",
            "npz = \"x.npz\"",
            "data.set: expected exactly one of set, idx, folder, npz",
            "got set and npz",
        ),
        (
            "data",
            "classes = 5",
            "data: fashion-mnist has 10 classes",
            "got 5",
        ),
        (
            "serach",
            "",
            "job.toml:7: serach: unknown field; the file may have name, kind, seed",
            "did you mean \"search\"?",
        ),
    ];
    for (section, lines, start, end) in cases {
        let message = message(section, lines);
        assert!(
            message.contains(start) && message.ends_with(end),
            "{lines}: {message}"
        );
    }
    let unknown = messages(&SMALLEST.replace("\"lenet\"", "\"lennet\""));
    assert_eq!(
        unknown,
        [
            "job.toml:6: network.name: expected \"lenet\" or \"vgg-small\", got \"lennet\"; did you mean \"lenet\"?"
        ]
    );
    let set = messages(&SMALLEST.replace("\"fashion-mnist\"", "\"fashion-mnits\""));
    assert_eq!(
        set,
        [
            "job.toml:4: data.set: expected \"fashion-mnist\", got \"fashion-mnits\"; did you mean \"fashion-mnist\"?"
        ]
    );
    let kind = messages(&SMALLEST.replace("evolve.prune", "evolve.prone"));
    assert_eq!(
        kind,
        [
            "job.toml:2: kind: expected \"evolve.prune\", got \"evolve.prone\"; did you mean \"evolve.prune\"?"
        ]
    );
    assert_eq!(messages("x = \n").len(), 1);
    assert!(messages("a = 1\nx = = 2\n")[0].starts_with("job.toml:2: not TOML: "));
    let vgg = messages(&SMALLEST.replace("\"lenet\"", "\"vgg-small\""));
    assert!(
        vgg[0].contains("has images of [1, 28, 28]: the network expects [3, 32, 32]"),
        "{vgg:?}"
    );
}

/// Claim: jobs whose steps would take the coordinator more than its 10 ms are refused.
#[test]
fn sizes_of_steps_are_bounded() {
    let message = message("search", "population = 2000");
    assert!(
        message.ends_with("search.population: expected at most 1269 with 570 filters, got 2000"),
        "{message}"
    );
    let convolution = "{ type = \"conv\", filters = 1, kernel = 1 },";
    let deep = format!(
        "input = [1, 28, 28]\nlayers = [{}{{ type = \"flatten\" }}, {{ type = \"dense\", units = 10 }}]",
        convolution.repeat(250)
    );
    let text = SMALLEST.replace("name = \"lenet\"", &deep) + "[baselines]\nl1_allocations = 21\n";
    assert!(
        messages(&text)[0]
            .contains("expected at most 20 width allocations for this network, got 21")
    );
}

/// Claim: a job whose shards no host could hold is refused before anything runs.
#[test]
fn shards_are_bounded_by_the_network() {
    let wide = "input = [1, 100, 100]\nlayers = [{ type = \"flatten\" }, { type = \"dense\", units = 10000 }, { type = \"dense\", units = 10 }]";
    let text = |shards: u32| {
        let network = own_images("name = \"lenet\"", wide);
        format!("{network}[train]\nshards = {shards}\nbatch = 64\n")
    };
    assert_eq!(
        messages(&text(64)),
        [
            "job.toml:9: train.shards: expected at most 42 for a network of 100110011 values, each shard has its own gradients; got 64"
        ]
    );
    assert_eq!(job(&text(32)).shards, 32);
}

/// Claim: as many finalists are refused as would make `selection.json` larger than a step of the
/// driver may write, and one fewer is not.
#[test]
fn finalists_are_bounded_by_their_genes() {
    let wide = "input = [1, 8, 8]\nlayers = [{ type = \"flatten\" }, { type = \"dense\", units = 16000 }, { type = \"dense\", units = 10 }]";
    let text = |finalists| {
        let network = own_images("name = \"lenet\"", wide);
        format!("{network}[search]\nfinalists = {finalists}\n")
    };
    assert_eq!(
        messages(&text(64)),
        ["job.toml:9: search.finalists: expected at most 63 with 16000 filters, got 64"]
    );
    assert_eq!(job(&text(63)).search.finalists, 63);
}

/// The smallest job about data of unknown size, with `from` replaced by `to`.
fn own_images(from: &str, to: &str) -> String {
    SMALLEST
        .replace(from, to)
        .replace("set = \"fashion-mnist\"", "npz = \"x.npz\"")
}

/// Claim: a batch that leaves batch norm one value of a channel in a shard is refused, where it is
/// given; behind a dense layer an image gives one value, behind a convolution one for each pixel.
#[test]
fn batch_norm_gets_two_values_of_a_channel() {
    let text = |layers: &str, sections: &str| {
        let network =
            format!("input = [1, 3, 3]\nlayers = [{layers} {{ type = \"dense\", units = 10 }}]");
        own_images("name = \"lenet\"", &network) + sections
    };
    let dense =
        "{ type = \"flatten\" }, { type = \"dense\", units = 5 }, { type = \"batch-norm\" },";
    let reason = "batch norm in layer 2 needs 2 values of each channel in every shard";
    let cases = [
        (
            "[train]\nshards = 8\nbatch = 8\n",
            "job.toml:10: train.batch: expected at least 16 with 8 shards, got 8",
        ),
        (
            "[train]\nshards = 128\n",
            "job.toml:9: train.batch: expected at least 256 with 128 shards, got 128",
        ),
        (
            "[finetune]\nbatch = 4\n",
            "job.toml:9: finetune.batch: expected at least 8 with 4 shards, got 4",
        ),
    ];
    for (sections, expected) in cases {
        assert_eq!(
            messages(&text(dense, sections)),
            [format!("{expected}: {reason}")]
        );
    }
    job(&text(dense, "[train]\nbatch = 8\n"));
    let conv = |kernel| {
        format!(
            "{{ type = \"conv\", filters = 2, kernel = {kernel} }}, {{ type = \"batch-norm\" }}, {{ type = \"flatten\" }},"
        )
    };
    job(&text(&conv(2), "[train]\nbatch = 4\n"));
    assert_eq!(messages(&text(&conv(3), "[train]\nbatch = 4\n")).len(), 1);
}

/// Claim: all defects are reported at once, in the order of lines, and their number is bounded.
#[test]
fn all_defects_at_once() {
    let text = "kind = \"evolve\"\nsed = 1\nname = \"-\"\n[search]\npopulation = 0\n[data]\nset = 4\n[network]\nname = 1\n[train]\nranks = {}\n";
    let found = messages(text);
    let lines: Vec<&str> = found
        .iter()
        .map(|message| message.split(':').nth(1).unwrap())
        .collect();
    assert_eq!(lines, ["1", "2", "3", "5", "7", "9", "11"], "{found:#?}");
    assert!(found[1].ends_with("; did you mean \"seed\"?"));
    let many: String = (0..200_000).map(|k| format!("a{k}=1\n")).collect();
    let many = messages(&many[..1_000_000]);
    assert!(many.len() <= 52, "{}", many.len());
}

/// Claim: a job file is at most 1 MiB and at most 32 deep.
#[test]
fn size_and_depth_are_bounded() {
    let long = format!("{SMALLEST}#{}", "x".repeat(1 << 20));
    assert!(messages(&long)[0].contains("at most 1048576 bytes"));
    let nested = |depth: usize| {
        format!(
            "{SMALLEST}[x]\ny = {}{}\n",
            "[".repeat(depth),
            "]".repeat(depth)
        )
    };
    for depth in [40, 79, 100, 10_000, 400_000] {
        assert_eq!(messages(&nested(depth)).len(), 1, "{depth}");
    }
    assert!(messages(&nested(40))[0].contains("at most 32 deep"));
    for dots in [40, 79, 100, 400_000] {
        messages(&format!("{}a = 1", "a.".repeat(dots)));
        messages(&format!("[{}a]\n", "a.".repeat(dots)));
    }
    // Extending one table step by step must not get around the limit of the parser.
    let steps: String = (1..600)
        .map(|k| format!("[{}]\n", vec!["a"; k].join(".")))
        .collect();
    messages(&steps);
}

/// Claim: networks may be written down layer by layer, both ways that TOML has.
#[test]
fn networks_layer_by_layer() {
    let inline = SMALLEST.replace(
        "name = \"lenet\"",
        "input = [1, 28, 28]\nlayers = [\n{ type = \"conv\", filters = 4, kernel = 3, padding = 1 },\n{ type = \"max-pool\", size = 2 },\n{ type = \"flatten\" },\n{ type = \"dense\", units = 10 },\n]",
    );
    let tables = SMALLEST.replace(
        "name = \"lenet\"",
        "input = [1, 28, 28]\n[[network.layers]]\ntype = \"conv\"\nfilters = 4\nkernel = 3\npadding = 1\n[[network.layers]]\ntype = \"max-pool\"\nsize = 2\n[[network.layers]]\ntype = \"flatten\"\n[[network.layers]]\ntype = \"dense\"\nunits = 10\n",
    );
    assert_eq!(job(&inline).network, job(&tables).network);
    assert_eq!(job(&inline).network.genes(), 4);
    let cases = [
        (
            inline.replace("kernel = 3, ", ""),
            "job.toml:8: network.layers[0].kernel: expected an integer from 1 to 31, got nothing",
        ),
        (
            inline.replace("size", "sizes"),
            "job.toml:9: network.layers[1].size: expected an integer",
        ),
        (
            inline.replace("max-pool", "maxpool"),
            "did you mean \"max-pool\"?",
        ),
        (
            inline.replace("units = 10", "units = 11"),
            "network: expected 10 units in the last layer",
        ),
        (
            inline.replace("kernel = 3", "kernel = 31"),
            "network: layer 0: conv: nothing is left",
        ),
        (
            inline.replace("input = [1, 28, 28]\n", ""),
            "network.input: expected [channels, height, width] beside layers",
        ),
        (
            inline.replace("[1, 28, 28]", "[28, 28]"),
            "network.input: expected [channels, height, width]",
        ),
    ];
    for (text, expected) in cases {
        let found = messages(&text);
        assert!(
            found[0].contains(expected),
            "{found:#?} should hold {expected}"
        );
    }
}

/// Claim: relative paths are looked up beside the job file, absolute ones stay, lines keep their
/// numbers, and a job without paths stays as it is, byte for byte.
#[test]
fn paths_become_absolute() {
    let text = "# comment\nname = \"a\"\nkind = \"evolve.prune\"\n[data]\nfolder = \"images/x\" # mine\n[network]\nname = \"lenet\"\n";
    let absolute = with_absolute_paths("job.toml", text, "/data/me").unwrap();
    assert_eq!(
        job(&absolute).data.source,
        crate::data::DataSource::Folder("/data/me/images/x".to_owned())
    );
    assert_eq!(absolute.lines().count(), text.lines().count());
    assert_eq!(
        with_absolute_paths("job.toml", &absolute, "/elsewhere").unwrap(),
        absolute
    );
    assert_eq!(
        with_absolute_paths("job.toml", SMALLEST, "/data/me").unwrap(),
        SMALLEST
    );
    assert!(with_absolute_paths("job.toml", "x = = 1", "/data/me").is_err());
}

/// Claim: every field that the parser knows is described in `docs/job-file.md`, as a heading of a
/// table row or a section.
#[test]
fn every_field_is_documented() {
    let page = include_str!("../../../docs/job-file.md");
    let layers = SMALLEST.replace(
        "name = \"lenet\"",
        "layers = [{ type = \"conv\", filters = 1, kernel = 1 }, { type = \"max-pool\", size = 1 }, { type = \"dropout\", percent = 1 }, { type = \"dense\", units = 2 }]",
    );
    let mut fields = parse_with_fields("job.toml", SMALLEST).1;
    fields.extend(parse_with_fields("job.toml", &layers).1);
    assert!(fields.len() > 55, "{}", fields.len());
    for field in fields {
        let name = field.rsplit('.').next().unwrap();
        let section = field.strip_suffix(name).unwrap().trim_end_matches('.');
        let section = if section.starts_with("network.layers[") {
            "network.layers"
        } else {
            section
        };
        let heading = if section.is_empty() {
            "## Top level".to_owned()
        } else {
            format!("## `[{section}]`")
        };
        let (_, rest) = page
            .split_once(&heading)
            .unwrap_or_else(|| panic!("no heading {heading}"));
        let text = rest.split("\n## ").next().unwrap();
        assert!(
            text.contains(&format!("\n| `{name}` |")),
            "{field} is missing under {heading}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Claim: no text makes the parser panic. Method: the example with pieces replaced, removed,
    /// doubled, and random text put in.
    #[test]
    fn parsing_never_panics(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[ -~\n]{0,12}"), 1..6),
    ) {
        let mut text: Vec<char> = include_str!("../../../examples/prune-fashion.toml").chars().collect();
        for (place, removed, added) in edits {
            let start = place.index(text.len() + 1);
            let end = (start + removed).min(text.len());
            text.splice(start..end, added.chars());
        }
        let text: String = text.into_iter().collect();
        let _ = parse("job.toml", &text);
        let _ = with_absolute_paths("job.toml", &text, "/x");
    }

    /// The same for values of any type in any field.
    #[test]
    fn any_value_in_any_field(place in any::<prop::sample::Index>(), value in value()) {
        let fields = parse_with_fields("job.toml", SMALLEST).1;
        let field = place.get(&fields);
        let (section, name) = field.split_once('.').unwrap_or(("", field));
        let text = if section.is_empty() { format!("{name} = {value}\n") } else { format!("[{section}]\n{name} = {value}\n") };
        let _ = parse("job.toml", &text);
    }
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|value| value.to_string()),
        any::<f64>().prop_map(|value| format!("{value:?}").replace("NaN", "nan")),
        Just("true".to_owned()),
        "[a-zA-Z0-9.é☃-]{0,12}".prop_map(|text| format!("{text:?}")),
        Just("[1, 28, 28]".to_owned()),
        Just("[nan, -1, \"x\"]".to_owned()),
        Just("{ a = { b = [1979-05-27] } }".to_owned()),
        Just("1979-05-27T07:32:00Z".to_owned()),
    ]
}
