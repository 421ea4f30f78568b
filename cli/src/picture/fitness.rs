//! Best and mean fitness of each generation.

use super::PictureData;
use super::style::{
    BLUE, DrawError, GRID, HEIGHT, INK, Key, ORANGE, WIDTH, axis_style, head, padded,
};
use crate::artifacts::files::Individual;
use plotters::prelude::*;

/// Draws the picture.
pub(super) fn draw(data: &PictureData) -> Result<String, DrawError> {
    let generations = data
        .generations
        .iter()
        .enumerate()
        .filter(|(_, members)| !members.is_empty());
    let points: Vec<(f64, f64, f64)> = generations
        .map(|(number, members)| (number as f64, best(members), mean(members)))
        .collect();
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        let last = points.last().map_or(0.0, |(number, _, _)| *number);
        let subtitle = format!(
            "fitness = accuracy on the fitness images + size term; {} generations, generation 0 is the first",
            points.len()
        );
        let keys = [
            (Key::Line(BLUE), "best of the generation"),
            (Key::Dashes(ORANGE), "mean of the generation"),
        ];
        let area = head(&root, &format!("{}: fitness", data.title), &subtitle, &keys)?;
        let (low, high) = padded(points.iter().flat_map(|(_, best, mean)| [*best, *mean]));
        let mut chart = ChartBuilder::on(&area)
            .margin_left(14)
            .margin_right(32)
            .margin_bottom(12)
            .margin_top(6)
            .x_label_area_size(52)
            .y_label_area_size(84)
            .build_cartesian_2d(0.0..last.max(1.0), low..high)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_desc("generation")
            .y_desc("fitness")
            .x_labels(11)
            .y_labels(9)
            .label_style(axis_style(15))
            .axis_desc_style(axis_style(17))
            .x_label_formatter(&|x| {
                // Labels lie where sums of fractions put them.
                if (x - x.round()).abs() < 1e-9 {
                    format!("{x:.0}")
                } else {
                    String::new()
                }
            })
            .y_label_formatter(&|y| format!("{y:.3}"))
            .draw()?;
        let means = points.iter().map(|(number, _, mean)| (*number, *mean));
        chart.draw_series(DashedLineSeries::new(
            means.clone(),
            7,
            5,
            ORANGE.stroke_width(3),
        ))?;
        let bests = points.iter().map(|(number, best, _)| (*number, *best));
        chart.draw_series(LineSeries::new(bests.clone(), BLUE.stroke_width(3)))?;
        // One generation makes no line.
        if points.len() == 1 {
            chart.draw_series(means.map(|point| Circle::new(point, 5, ORANGE.filled())))?;
            chart.draw_series(bests.map(|point| Circle::new(point, 5, BLUE.filled())))?;
        }
        root.present()?;
    }
    Ok(svg)
}

fn best(members: &[Individual]) -> f64 {
    members
        .iter()
        .map(|member| member.fitness)
        .fold(f64::NEG_INFINITY, f64::max)
}

fn mean(members: &[Individual]) -> f64 {
    members.iter().map(|member| member.fitness).sum::<f64>() / members.len() as f64
}
