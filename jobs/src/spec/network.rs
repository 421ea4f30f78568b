//! `[network]`.

use super::reader::Section;
use super::words::show;
use crate::network::{Layer, NetworkSpec, PRESET_NAMES};
use toml_edit::{Item, TableLike, Value};

/// Filters of all layers together: a chromosome stays within one item of a map.
const MAX_GENES: u32 = 1 << 16;

/// Reads the section; `None` where a defect was reported.
pub(super) fn read(section: &mut Section<'_>, classes: u32) -> Option<NetworkSpec> {
    let presets = PRESET_NAMES.map(|name| (name, name));
    let name = section.field("name");
    let layers = section.field("layers");
    let input = input(section);
    let network = match (name, layers) {
        (Some(field), None) => {
            let mut network =
                NetworkSpec::preset(section.chosen("name", field, &presets)?, classes)?;
            network.input = input?.unwrap_or(network.input);
            network
        }
        (None, Some(field)) => {
            let layers = read_layers(section, field.value, field.line)?;
            let Some(input) = input? else {
                section.missing(
                    "input",
                    "[channels, height, width] beside layers",
                    "nothing",
                );
                return None;
            };
            NetworkSpec {
                name: "custom".to_owned(),
                input,
                layers,
            }
        }
        (Some(field), Some(_)) => {
            section.wrong("name", field, "either a name or layers, not both");
            return None;
        }
        (None, None) => {
            section.missing(
                "name",
                &format!("a name ({}) or layers", PRESET_NAMES.join(", ")),
                "nothing",
            );
            return None;
        }
    };
    let line = layers.or(name).map_or(section.line, |field| field.line);
    check(section, &network, classes, line)?;
    Some(network)
}

fn check(section: &Section<'_>, network: &NetworkSpec, classes: u32, line: usize) -> Option<()> {
    let report = |message: String| section.reader.report(line, format!("network: {message}"));
    if let Err(error) = network.validate() {
        report(error.to_string());
        return None;
    }
    if network.genes() > MAX_GENES {
        report(format!(
            "expected at most {MAX_GENES} filters in all, got {}",
            network.genes()
        ));
        return None;
    }
    if network.classes() != classes {
        report(format!(
            "expected {classes} units in the last layer, as data.classes says, got {}",
            network.classes()
        ));
        return None;
    }
    Some(())
}

/// `Some(None)` where nothing is given.
fn input(section: &mut Section<'_>) -> Option<Option<[u32; 3]>> {
    let Some(field) = section.field("input") else {
        return Some(None);
    };
    let size = |value: &Value| {
        u32::try_from(value.as_integer()?)
            .ok()
            .filter(|size| (1..=16_384).contains(size))
    };
    let sizes: Option<Vec<u32>> = field
        .value
        .as_array()
        .and_then(|array| array.iter().map(size).collect());
    match sizes.as_deref() {
        Some([channels, height, width]) => Some(Some([*channels, *height, *width])),
        _ => {
            section.wrong(
                "input",
                field,
                "[channels, height, width], each from 1 to 16384",
            );
            None
        }
    }
}

fn read_layers(section: &mut Section<'_>, item: &Item, line: usize) -> Option<Vec<Layer>> {
    let tables: Option<Vec<&dyn TableLike>> = match item {
        Item::ArrayOfTables(tables) => {
            Some(tables.iter().map(|table| table as &dyn TableLike).collect())
        }
        Item::Value(Value::Array(array)) => array
            .iter()
            .map(|value| value.as_inline_table().map(|table| table as &dyn TableLike))
            .collect(),
        _ => None,
    };
    let Some(tables) = tables.filter(|tables| tables.len() <= 256) else {
        let message = format!(
            "{}: expected at most 256 layers like {{ type = \"conv\", filters = 20, kernel = 5 }}, got {}",
            section.path_of("layers"),
            show(item)
        );
        section.reader.report(line, message);
        return None;
    };
    let layers: Vec<Option<Layer>> = (0..)
        .zip(tables)
        .map(|(index, table)| {
            let span = table.iter().find_map(|(name, _)| table.key(name)?.span());
            let line = span.map_or(line, |span| section.reader.line(span.start));
            read_layer(section.element(table, section.path_of(&format!("layers[{index}]")), line))
        })
        .collect();
    layers.into_iter().collect()
}

fn read_layer(mut section: Section<'_>) -> Option<Layer> {
    let kinds = [
        "conv",
        "batch-norm",
        "relu",
        "max-pool",
        "flatten",
        "dense",
        "dropout",
    ]
    .map(|kind| (kind, kind));
    let kind = section.choice_without_default("type", &kinds)?;
    let wide = 1..=16_384;
    let layer = match kind {
        "conv" => Layer::Conv {
            filters: section.required("filters", wide)?,
            kernel: section.required("kernel", 1..=31)?,
            padding: section.count("padding", 0, 0..=30),
        },
        "batch-norm" => Layer::BatchNorm,
        "relu" => Layer::Relu,
        "max-pool" => Layer::MaxPool {
            size: section.required("size", 1..=31)?,
        },
        "flatten" => Layer::Flatten,
        "dense" => Layer::Dense {
            units: section.required("units", wide)?,
        },
        _ => Layer::Dropout {
            percent: section.required("percent", 0..=90)?,
        },
    };
    section.finish();
    Some(layer)
}
