//! Claim: the job of `make demo` does what its file and the README say: it finishes with two
//! workers, the full net reaches 90 % on the test images, the compressed net has at most an eighth
//! of its parameters, every row of the table is there, and every file can be read.
//!
//! Method: `evoring run` with the example as it is, then its artifacts from the outside: JSON,
//! safetensors by their published layout, pictures by a foreign XML parser. The longest test of
//! all (minutes on two cores), so it stands alone.

use evoring_tests::binaries;
use evoring_tests::cluster::alone;
use evoring_tests::job::ROWS;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

/// Genes of LeNet 20-50-500.
const GENES: usize = 570;
/// `[search]` and `[data]` of the example.
const GENERATIONS: usize = 51;
const POPULATION: usize = 32;
const FITNESS_IMAGES: u64 = 4_000;

#[test]
fn the_example_job_keeps_its_promises() {
    let _alone = alone();
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let out = folder.path().join("out");
    let run = Command::new(binaries::binary("evoring"))
        .arg("run")
        .arg(binaries::repository().join("examples/prune-fashion.toml"))
        .args(["--workers", "2", "--out"])
        .arg(&out)
        .current_dir(folder.path())
        .env("XDG_STATE_HOME", folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("evoring starts");
    let said = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(0), "{said}");

    let report = json(&out.join("report.json"));
    check_rows(&report);
    check_population(&json(&out.join("population.json")));
    let model = json(&out.join("model.json"));
    check_tensors(&model, &out.join("model.safetensors"));
    let compressed = row(&report, "compressed_after");
    assert_eq!(model["parameters"], compressed["parameters"]);
    tensors(&out.join("full.safetensors"));
    let selection = json(&out.join("selection.json"));
    assert!(!array(&selection["finalists"]).is_empty(), "{selection}");
    check_pictures(&out);
}

fn check_rows(report: &Value) {
    let names: Vec<&str> = array(&report["result"]["rows"])
        .iter()
        .filter_map(|row| row["name"].as_str())
        .collect();
    assert_eq!(names, ROWS);
    let measured = array(&report["run"]["measured"]["rows"]);
    assert_eq!(measured.len(), ROWS.len(), "{measured:?}");
    for name in ROWS {
        let row = row(report, name);
        assert_eq!(row["total"], 10_000, "all test images: {row}");
        let is_full = name.starts_with("full");
        let compression = row["compression"].as_f64().expect("a number");
        assert!(
            if is_full {
                compression == 1.0
            } else {
                compression >= 8.0
            },
            "{row}"
        );
    }
    let full = row(report, "full")["accuracy"].as_f64().expect("a number");
    assert!(full >= 0.9, "the full net answers {full}");
    assert_eq!(report["result"]["winner"]["compression_reached"], true);
}

fn check_population(population: &Value) {
    let generations = array(&population["generations"]);
    assert_eq!(generations.len(), GENERATIONS);
    for (number, generation) in generations.iter().enumerate() {
        let individuals = array(generation);
        assert_eq!(individuals.len(), POPULATION, "generation {number}");
        for each in individuals {
            let genome = each["genome"].as_str().expect("a genome");
            let is_valid =
                genome.len() == GENES && genome.bytes().all(|gene| b"01".contains(&gene));
            assert!(is_valid && each["total"] == FITNESS_IMAGES, "{each}");
        }
    }
}

/// The tensors that `model.json` names, with their shapes, and no others.
fn check_tensors(model: &Value, file: &Path) {
    let found = tensors(file);
    let named = array(&model["tensors"]);
    assert_eq!(found.len(), named.len());
    for tensor in named {
        let name = tensor["name"].as_str().expect("a name");
        assert_eq!(found[name]["shape"], tensor["shape"], "{name}");
    }
}

/// Header of a safetensors file: its length (8 bytes), JSON, then the numbers without gaps.
fn tensors(file: &Path) -> serde_json::Map<String, Value> {
    let bytes = read(file);
    let (length, rest) = bytes.split_first_chunk::<8>().expect("a length");
    let (header, numbers) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header: serde_json::Map<String, Value> =
        serde_json::from_slice(header).expect("a header");
    header.remove("__metadata__");
    let mut pieces: Vec<[u64; 2]> = Vec::new();
    for (name, tensor) in &header {
        assert_eq!(tensor["dtype"], "F32", "{name}");
        let values: u64 = array(&tensor["shape"])
            .iter()
            .filter_map(Value::as_u64)
            .product();
        let offsets: Vec<u64> = array(&tensor["data_offsets"])
            .iter()
            .filter_map(Value::as_u64)
            .collect();
        assert_eq!(offsets[1] - offsets[0], 4 * values, "{name}");
        pieces.push([offsets[0], offsets[1]]);
    }
    pieces.sort_unstable();
    let end = pieces.iter().fold(0, |end, [from, to]| {
        assert_eq!(*from, end, "{}: a gap", file.display());
        *to
    });
    assert_eq!(end, numbers.len() as u64, "{}", file.display());
    header
}

/// Python is there wherever this repository is built, and its parser is not ours.
fn check_pictures(out: &Path) {
    let script = "import sys, xml.etree.ElementTree as e\n\
        for f in sys.argv[1:]: assert e.parse(f).getroot().tag == '{http://www.w3.org/2000/svg}svg', f";
    let pictures = ["fitness.svg", "front.svg", "filters.svg"].map(|name| out.join(name));
    let parsed = Command::new("python3")
        .args(["-c", script])
        .args(pictures)
        .output()
        .expect("python3 starts");
    assert!(
        parsed.status.success(),
        "{}",
        String::from_utf8_lossy(&parsed.stderr)
    );
}

fn row<'a>(report: &'a Value, name: &str) -> &'a Value {
    let rows = array(&report["result"]["rows"]);
    let row = rows.iter().find(|row| row["name"] == name);
    row.unwrap_or_else(|| panic!("no row {name}"))
}

fn array(value: &Value) -> &[Value] {
    value
        .as_array()
        .unwrap_or_else(|| panic!("no array: {value}"))
}

fn read(file: &Path) -> Vec<u8> {
    std::fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

fn json(file: &Path) -> Value {
    serde_json::from_slice(&read(file)).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}
