//! Which filters were kept, layer by layer: one cell for each filter of the full net.

use super::style::{BLUE, DrawError, FAINT, GRID, HEAD, INK, Key, WIDTH, head, text_style};
use crate::artifacts::files::ModelFile;
use crate::output::table::thousands;
use plotters::coord::Shift;
use plotters::prelude::*;
use std::collections::BTreeSet;

/// Left edge of everything.
const LEFT: i32 = 24;
/// Heading of a layer.
const HEADING: i32 = 40;
/// Below a layer.
const GAP: i32 = 18;
/// Layers with more filters than this get smaller cells.
const MANY: u32 = 1_000;
/// Most filters drawn in one picture; a file with more is not from this program.
const MOST: u64 = 200_000;

struct Grid {
    title: String,
    filters: u32,
    kept: BTreeSet<u32>,
    columns: u32,
    cell: i32,
}

impl Grid {
    fn new(place: usize, kind: &str, filters: u32, kept: &[u32]) -> Self {
        let (columns, cell) = if filters > MANY { (100, 9) } else { (50, 18) };
        let (name, unit) = match kind {
            "conv" => ("convolution", "filters"),
            "dense" => ("dense", "units"),
            other => (other, "filters"),
        };
        let share = 100.0 * kept.len() as f64 / f64::from(filters.max(1));
        let title = format!(
            "layer {}, {name}: {} of {} {unit} kept ({share:.0} %)",
            place + 1,
            thousands(kept.len() as u64),
            thousands(u64::from(filters))
        );
        Self {
            title,
            filters,
            kept: kept.iter().copied().collect(),
            columns,
            cell,
        }
    }

    fn height(&self) -> i32 {
        HEADING + self.filters.div_ceil(self.columns).cast_signed() * self.cell + GAP
    }

    fn draw(&self, area: &DrawingArea<SVGBackend<'_>, Shift>, top: i32) -> Result<(), DrawError> {
        area.draw(&Text::new(
            self.title.clone(),
            (LEFT, top + 18),
            text_style(16, &INK),
        ))?;
        for filter in 0..self.filters {
            let x = LEFT + (filter % self.columns).cast_signed() * self.cell;
            let y = top + HEADING + (filter / self.columns).cast_signed() * self.cell;
            let corners = [(x, y), (x + self.cell - 2, y + self.cell - 2)];
            if self.kept.contains(&filter) {
                area.draw(&Rectangle::new(corners, BLUE.filled()))?;
            } else {
                area.draw(&Rectangle::new(corners, GRID.stroke_width(1)))?;
            }
        }
        Ok(())
    }
}

/// Draws the picture.
pub(super) fn draw(title: &str, model: &ModelFile) -> Result<String, DrawError> {
    let layers = model
        .layers
        .iter()
        .filter_map(|layer| Some((layer, layer.full_filters?, layer.kept.as_ref()?)));
    let grids = layers
        .enumerate()
        .map(|(place, (layer, filters, kept))| Grid::new(place, &layer.kind, filters, kept));
    let grids: Vec<Grid> = grids.collect();
    let filters: u64 = grids.iter().map(|grid| u64::from(grid.filters)).sum();
    if filters > MOST {
        return Err(format!("model.json has {filters} filters: expected at most {MOST}").into());
    }
    let body: i32 = grids.iter().map(Grid::height).sum();
    let mut svg = String::new();
    {
        let size = (WIDTH, HEAD + body.cast_unsigned() + 34);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let subtitle = format!(
            "{}: {} of {} parameters are left ({:.1} times fewer)",
            model.name,
            thousands(model.parameters),
            thousands(model.full_parameters),
            model.full_parameters as f64 / model.parameters.max(1) as f64
        );
        let keys = [(Key::Square(BLUE), "kept"), (Key::Hollow(FAINT), "removed")];
        let area = head(&root, &format!("{title}: filters"), &subtitle, &keys)?;
        let mut top = 4;
        for grid in &grids {
            grid.draw(&area, top)?;
            top += grid.height();
        }
        let note = "filters are numbered from left to right, row by row, 50 in a row (100 where a layer has more than 1,000)";
        area.draw(&Text::new(note, (LEFT, top + 8), text_style(13, &FAINT)))?;
        root.present()?;
    }
    Ok(svg)
}
