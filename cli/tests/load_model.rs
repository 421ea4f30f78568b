//! `examples/load_model.py` loads every kind of layer into PyTorch, where PyTorch is.

use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// Channels, height and width of an image, all different, so that no two can be confused.
const IMAGE: [usize; 3] = [2, 4, 6];
/// Filters of the convolution.
const FILTERS: usize = 3;
/// Width and height of its kernel; the padding keeps the image's size.
const KERNEL: usize = 3;
/// Width and height of a pooled window.
const POOL: usize = 2;
/// Logits.
const CLASSES: usize = 5;
/// What PyTorch adds to a variance.
const EPSILON: f64 = 1e-5;

/// Height and width after pooling.
const POOLED: [usize; 2] = [IMAGE[1] / POOL, IMAGE[2] / POOL];
/// Numbers that enter the dense layer.
const FLAT: usize = FILTERS * POOLED[0] * POOLED[1];

/// Name and shape of each tensor.
fn tensors() -> Vec<(&'static str, Vec<usize>)> {
    vec![
        ("0.weight", vec![FILTERS, IMAGE[0], KERNEL, KERNEL]),
        ("0.bias", vec![FILTERS]),
        ("1.weight", vec![FILTERS]),
        ("1.bias", vec![FILTERS]),
        ("1.running_mean", vec![FILTERS]),
        ("1.running_var", vec![FILTERS]),
        ("6.weight", vec![CLASSES, FLAT]),
        ("6.bias", vec![CLASSES]),
    ]
}

/// Number `index` of a tensor: multiples of 1/16 without a pattern that a permutation would keep,
/// and above zero, which variances must be.
fn number(tensor: usize, index: usize) -> f64 {
    let mixed = (tensor * 97 + index * 53 + index * index * 29) % 31;
    (mixed + 1) as f64 / 16.0
}

/// The numbers of tensor number `tensor`, some of them negative where they may be.
fn numbers(tensor: usize) -> Vec<f64> {
    let (name, shape) = &tensors()[tensor];
    let shift = if name.ends_with("var") { 0.0 } else { 1.0 };
    let count = shape.iter().product();
    (0..count)
        .map(|index| number(tensor, index) - shift)
        .collect()
}

/// The image whose logits are computed.
fn image() -> Vec<f64> {
    (0..IMAGE.iter().product())
        .map(|index| number(8, index) - 1.0)
        .collect()
}

/// The net as `model.json` describes it.
fn model() -> Value {
    let [channels, height, width] = IMAGE;
    let wide = [FILTERS, height, width];
    let small = [FILTERS, POOLED[0], POOLED[1]];
    let layers = json!([
        {"index": 0, "kind": "conv", "input": IMAGE, "output": wide, "kernel": KERNEL, "padding": KERNEL / 2, "full_filters": 4, "kept": [0, 1, 3]},
        {"index": 1, "kind": "batch-norm", "input": wide, "output": wide},
        {"index": 2, "kind": "relu", "input": wide, "output": wide},
        {"index": 3, "kind": "max-pool", "input": wide, "output": small, "size": POOL},
        {"index": 4, "kind": "flatten", "input": small, "output": [FLAT]},
        {"index": 5, "kind": "dropout", "input": [FLAT], "output": [FLAT], "percent": 50},
        {"index": 6, "kind": "dense", "input": [FLAT], "output": [CLASSES]},
    ]);
    let named = tensors()
        .into_iter()
        .map(|(name, shape)| json!({"name": name, "shape": shape}));
    json!({
        "format": "evoring-model/1", "name": "tiny", "weights": "model.safetensors",
        "input": [channels, height, width], "classes": CLASSES,
        "pixels": {"mean": 0.5, "deviation": 0.5}, "layers": layers,
        "tensors": named.collect::<Vec<_>>(),
    })
}

/// The file with the numbers. They lie in another order than in `model.json`, as a reader must
/// look for them by name.
fn safetensors() -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut bytes: Vec<u8> = Vec::new();
    for (index, (name, shape)) in tensors().into_iter().enumerate().rev() {
        let begin = bytes.len();
        for number in numbers(index) {
            bytes.extend((number as f32).to_le_bytes());
        }
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, bytes.len()]});
        header.insert(name.to_owned(), entry);
    }
    let header = Value::Object(header).to_string();
    [
        &(header.len() as u64).to_le_bytes(),
        header.as_bytes(),
        &bytes,
    ]
    .concat()
}

/// The logits, by the definition of each layer.
fn logits() -> Vec<f64> {
    let [channels, height, width] = IMAGE;
    let image = image();
    let tensors: Vec<Vec<f64>> = (0..tensors().len()).map(numbers).collect();
    let pixel = |channel: usize, row: usize, column: usize| {
        // Rows and columns are counted from the padding's edge.
        let inside = (1..=height).contains(&row) && (1..=width).contains(&column);
        inside.then(|| image[(channel * height + row - 1) * width + column - 1])
    };
    let activation = |filter: usize, row: usize, column: usize| {
        let mut sum = tensors[1][filter];
        for channel in 0..channels {
            for down in 0..KERNEL {
                for right in 0..KERNEL {
                    let at = ((filter * channels + channel) * KERNEL + down) * KERNEL + right;
                    let pixel = pixel(channel, row + down, column + right).unwrap_or(0.0);
                    sum += tensors[0][at] * pixel;
                }
            }
        }
        let normal = (sum - tensors[4][filter]) / (tensors[5][filter] + EPSILON).sqrt();
        (tensors[2][filter] * normal + tensors[3][filter]).max(0.0)
    };
    let mut flat = Vec::new();
    for filter in 0..FILTERS {
        for row in 0..POOLED[0] {
            for column in 0..POOLED[1] {
                let window = (0..POOL * POOL).map(|at| {
                    activation(filter, row * POOL + at / POOL, column * POOL + at % POOL)
                });
                flat.push(window.fold(0.0, f64::max));
            }
        }
    }
    (0..CLASSES)
        .map(|class| {
            let weights = &tensors[6][class * FLAT..][..FLAT];
            let products = weights.iter().zip(&flat).map(|(weight, x)| weight * x);
            tensors[7][class] + products.sum::<f64>()
        })
        .collect()
}

/// Runs python3; its standard output.
/// The interpreters that may have PyTorch: the user's own, and the system's, for which set-up installs it.
const PYTHONS: [&str; 2] = ["python3", "/usr/bin/python3"];

fn python(python: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(python).args(arguments).output();
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

// Claim: the reference computes with every number that it should. Method: each tensor and the
// image has another logit's worth of influence, so the logits differ and no activation is lost
// wholly; runs without PyTorch too.
#[test]
fn reference_is_not_degenerate() {
    let logits = logits();
    for (index, logit) in logits.iter().enumerate() {
        assert!(logit.abs() > 0.01, "{logits:?}");
        assert!(
            logits[..index]
                .iter()
                .all(|other| (other - logit).abs() > 0.01),
            "{logits:?}"
        );
    }
}

// Claim: the example rebuilds a net from the two files alone, with every number in its place.
// Method: a small net with every kind of layer; what the script prints, and the logits of an
// image, against the ones computed here. Where PyTorch is absent, that is said past the capture
// of the test's output, in the form that `ops/test.py` repeats before its summary.
#[test]
fn example_loads_every_kind_of_layer() {
    let imports_torch = |name: &&str| python(name, &["-c", "import torch"]).is_ok();
    let Some(interpreter) = PYTHONS.into_iter().find(imports_torch) else {
        let notice = "not run: examples/load_model.py (no python3 imports PyTorch)";
        writeln!(std::io::stderr(), "\n{notice}").unwrap();
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model.json"), model().to_string()).unwrap();
    fs::write(folder.path().join("model.safetensors"), safetensors()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/load_model.py");
    // The logits of the image first, then what the script prints by itself.
    let program = "import json, runpy, sys, torch\n\
        script, folder, image = sys.argv[1:]\n\
        net, description = runpy.run_path(script)['load'](folder)\n\
        image = torch.tensor(json.loads(image)).reshape(1, *description['input'])\n\
        print(json.dumps(net(image)[0].tolist()))\n\
        sys.argv = [script, folder]\n\
        runpy.run_path(script, run_name='__main__')";
    let (script, results) = (script.to_str().unwrap(), folder.path().to_str().unwrap());
    let image = json!(image()).to_string();
    let printed = python(interpreter, &["-c", program, script, results, &image]).unwrap();
    let lines: Vec<&str> = printed.lines().collect();
    let parameters: usize = tensors()
        .iter()
        .filter(|(name, _)| !name.contains("running"))
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum();
    let summary = format!("tiny: {parameters} parameters, logits [1, {CLASSES}]");
    assert_eq!(lines[1..], [summary.as_str()]);
    let got: Vec<f64> = serde_json::from_str(lines[0]).unwrap();
    let expected = logits();
    assert_eq!(got.len(), expected.len());
    for (got, wanted) in got.iter().zip(&expected) {
        assert!(
            (got - wanted).abs() < 1e-4,
            "expected {expected:?}, got {got:?}"
        );
    }
}
