//! `examples/load_model.py` loads every kind of layer into PyTorch, where PyTorch is.

#![expect(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

/// A net with each kind of layer, as `model.json` describes it, and the sizes of its tensors.
fn model() -> Value {
    let layers = json!([
        {"index": 0, "kind": "conv", "input": [1, 6, 6], "output": [2, 6, 6], "kernel": 3, "padding": 1, "full_filters": 4, "kept": [0, 3]},
        {"index": 1, "kind": "batch-norm", "input": [2, 6, 6], "output": [2, 6, 6]},
        {"index": 2, "kind": "relu", "input": [2, 6, 6], "output": [2, 6, 6]},
        {"index": 3, "kind": "max-pool", "input": [2, 6, 6], "output": [2, 3, 3], "size": 2},
        {"index": 4, "kind": "flatten", "input": [2, 3, 3], "output": [18]},
        {"index": 5, "kind": "dropout", "input": [18], "output": [18], "percent": 50},
        {"index": 6, "kind": "dense", "input": [18], "output": [3]},
    ]);
    let tensor = |name: &str, shape: &[u64]| json!({"name": name, "shape": shape});
    json!({
        "format": "evoring-model/1", "name": "tiny", "weights": "model.safetensors", "input": [1, 6, 6], "classes": 3,
        "pixels": {"mean": 0.5, "deviation": 0.5}, "layers": layers,
        "tensors": [
            tensor("0.weight", &[2, 1, 3, 3]), tensor("0.bias", &[2]),
            tensor("1.weight", &[2]), tensor("1.bias", &[2]), tensor("1.running_mean", &[2]), tensor("1.running_var", &[2]),
            tensor("6.weight", &[3, 18]), tensor("6.bias", &[3]),
        ],
    })
}

/// The file for these tensors, each filled with its own number.
fn safetensors(model: &Value) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut numbers: Vec<u8> = Vec::new();
    for (index, tensor) in model["tensors"].as_array().unwrap().iter().enumerate() {
        let count: u64 = tensor["shape"]
            .as_array()
            .unwrap()
            .iter()
            .map(|size| size.as_u64().unwrap())
            .product();
        let begin = numbers.len();
        (0..count).for_each(|_| numbers.extend(((index + 1) as f32).to_le_bytes()));
        let entry = json!({"dtype": "F32", "shape": tensor["shape"], "data_offsets": [begin, numbers.len()]});
        header.insert(tensor["name"].as_str().unwrap().to_owned(), entry);
    }
    let header = Value::Object(header).to_string();
    [
        &(header.len() as u64).to_le_bytes(),
        header.as_bytes(),
        &numbers,
    ]
    .concat()
}

// Claim: the example rebuilds a net from the two files alone. Method: a small net with every kind
// of layer; the script prints its parameters (2·9+2 + 2+2 + 3·18+3 = 81) and the shape of its
// answer. Said on standard error where PyTorch is absent.
#[test]
fn example_loads_every_kind_of_layer() {
    let has_torch = Command::new("python3")
        .args(["-c", "import torch"])
        .output();
    if !has_torch.is_ok_and(|output| output.status.success()) {
        eprintln!("PyTorch is not importable by python3: examples/load_model.py was not run");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let model = model();
    fs::write(folder.path().join("model.json"), model.to_string()).unwrap();
    fs::write(folder.path().join("model.safetensors"), safetensors(&model)).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/load_model.py");
    let output = Command::new("python3")
        .arg(script)
        .arg(folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        text.trim(),
        "tiny: 81 parameters, logits [1, 3]",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
