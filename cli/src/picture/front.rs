//! Size against accuracy of everything evaluated.

use super::PictureData;
use super::style::{
    DrawError, GREEN, GRID, HEIGHT, INK, Key, ORANGE, SKY, WIDTH, axis_style, head, padded,
    text_style, text_width,
};
use crate::output::table::thousands;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use std::collections::BTreeSet;

/// Pixels of the picture in which one point is enough: bounds the file for any population.
const CELL: i32 = 2;
/// Letters beside a point.
const LABEL_SIZE: u32 = 15;

/// A net: parameters and accuracy in percent.
type Net = (u64, f64);
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<LogAxis, RangedCoordf64>>;

/// What is drawn.
struct Crowd {
    nets: Vec<Net>,
    full: Option<Net>,
    pick: Option<Net>,
}

/// Draws the picture.
pub(super) fn draw(data: &PictureData) -> Result<String, DrawError> {
    let crowd = Crowd::new(data);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        let area = crowd.head(&root, &data.title)?;
        let (left, right) = padded(crowd.all().map(|(size, _)| log(size)));
        let (low, high) = padded(crowd.all().map(|(_, accuracy)| accuracy));
        let mut chart = ChartBuilder::on(&area)
            .margin_left(14)
            .margin_right(40)
            .margin_bottom(12)
            .margin_top(6)
            .x_label_area_size(52)
            .y_label_area_size(84)
            .build_cartesian_2d(LogAxis(left, right), low..high.min(101.0).max(low + 1e-6))?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_desc("parameters (logarithmic)")
            .y_desc("accuracy in %")
            .y_labels(9)
            .label_style(axis_style(15))
            .axis_desc_style(axis_style(17))
            .y_label_formatter(&|y| format!("{y:.1}"))
            .draw()?;
        let plot = chart.plotting_area();
        let cell = |net: Net| {
            let (x, y) = plot.map_coordinate(&(log(net.0), net.1));
            (x / CELL, y / CELL)
        };
        let mut cells = BTreeSet::new();
        let visible: Vec<Net> = crowd
            .nets
            .iter()
            .copied()
            .filter(|net| cells.insert(cell(*net)))
            .collect();
        let dot =
            |(size, accuracy): Net| Circle::new((log(size), accuracy), 4, SKY.mix(0.7).filled());
        chart.draw_series(visible.into_iter().map(dot))?;
        chart.draw_series(LineSeries::new(
            steps(&pareto(&crowd.nets), right),
            ORANGE.stroke_width(2),
        ))?;
        if let Some((size, accuracy)) = crowd.full {
            let square = Rectangle::new([(-7, -7), (7, 7)], INK.filled());
            chart.draw_series([EmptyElement::at((log(size), accuracy)) + square])?;
        }
        if let Some(pick) = crowd.pick {
            draw_pick(&mut chart, pick, log(pick.0) < (left + right) / 2.0)?;
        }
        root.present()?;
    }
    Ok(svg)
}

impl Crowd {
    fn new(data: &PictureData) -> Self {
        let nets = nets(data);
        let full_size = data.model.as_ref().map(|model| model.full_parameters);
        let full = nets
            .iter()
            .copied()
            .find(|(size, _)| Some(*size) == full_size);
        let winner = data.result.as_ref().map(|result| &result.winner);
        let pick = winner.map(|winner| {
            (
                winner.parameters,
                percent(winner.fitness_correct, winner.fitness_total),
            )
        });
        Self { nets, full, pick }
    }

    fn all(&self) -> impl Iterator<Item = Net> {
        self.nets.iter().copied().chain(self.full).chain(self.pick)
    }

    fn head<'a>(
        &self,
        root: &DrawingArea<SVGBackend<'a>, Shift>,
        title: &str,
    ) -> Result<DrawingArea<SVGBackend<'a>, Shift>, DrawError> {
        let mut keys = vec![
            (Key::Dot(SKY), "evaluated net"),
            (Key::Line(ORANGE), "Pareto front"),
        ];
        keys.extend(self.full.map(|_| (Key::Square(INK), "full net")));
        keys.extend(self.pick.map(|_| (Key::Triangle(GREEN), "final pick")));
        let subtitle =
            "every net of the search, before fine-tuning, measured on the fitness images";
        head(
            root,
            &format!("{title}: size and accuracy"),
            subtitle,
            &keys,
        )
    }
}

/// Marks the final pick, its label towards the middle and on a ground of its own, so that points do
/// not run through it.
fn draw_pick(
    chart: &mut Chart<'_, '_>,
    (size, accuracy): Net,
    is_left: bool,
) -> Result<(), DrawError> {
    let label = format!("{} parameters, {accuracy:.2} %", thousands(size));
    let place = (log(size), accuracy);
    let width = text_width(&label, LABEL_SIZE);
    let start = if is_left { 16 } else { -16 - width };
    let ground = Rectangle::new(
        [(start - 4, 10), (start + width + 4, 32)],
        WHITE.mix(0.85).filled(),
    );
    chart.draw_series([EmptyElement::at(place) + ground])?;
    let marker = TriangleMarker::new((0, 0), 10, GREEN.filled());
    let text = Text::new(label, (start, 21), text_style(LABEL_SIZE, &INK));
    chart.draw_series([EmptyElement::at(place) + marker + text])?;
    Ok(())
}

/// Every different net, smallest first.
fn nets(data: &PictureData) -> Vec<Net> {
    let all = data.generations.iter().flatten();
    let different: BTreeSet<(u64, u64, u64)> = all
        .map(|net| (net.parameters.max(1), net.correct, net.total))
        .collect();
    different
        .into_iter()
        .map(|(size, correct, total)| (size, percent(correct, total)))
        .collect()
}

/// Nets that no smaller or equal one beats, smallest first.
fn pareto(nets: &[Net]) -> Vec<Net> {
    let mut front: Vec<Net> = Vec::new();
    for &(size, accuracy) in nets {
        match front.last_mut() {
            Some(last) if accuracy <= last.1 => {}
            Some(last) if size == last.0 => last.1 = accuracy,
            _ => front.push((size, accuracy)),
        }
    }
    front
}

/// The front as stairs up to the right edge: between two nets, the smaller one's accuracy is what
/// can be had.
fn steps(front: &[Net], right: f64) -> Vec<(f64, f64)> {
    let mut points = Vec::with_capacity(2 * front.len());
    for &(size, accuracy) in front {
        if let Some(&(_, before)) = points.last() {
            points.push((log(size), before));
        }
        points.push((log(size), accuracy));
    }
    if let Some(&(_, last)) = points.last() {
        points.push((right, last));
    }
    points
}

fn log(size: u64) -> f64 {
    (size.max(1) as f64).log10()
}

fn percent(correct: u64, total: u64) -> f64 {
    100.0 * correct as f64 / total.max(1) as f64
}

/// An axis over logarithms, from and to, with round numbers as labels.
struct LogAxis(f64, f64);

impl Ranged for LogAxis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        from + ((value - self.0) / (self.1 - self.0) * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        ticks(self.0, self.1)
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.0..self.1
    }
}

impl ValueFormatter<f64> for LogAxis {
    fn format(value: &f64) -> String {
        thousands(10f64.powf(*value).round() as u64)
    }
}

/// Round numbers, as many as fit.
fn ticks(left: f64, right: f64) -> Vec<f64> {
    let decades = (left.floor() as i32)..=(right.ceil() as i32);
    let factors: &[f64] = match right - left {
        range if range > 4.0 => &[1.0],
        range if range > 1.5 => &[1.0, 2.0, 5.0],
        _ => &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0],
    };
    let ticks = decades.flat_map(|decade| {
        factors
            .iter()
            .map(move |factor| factor.log10() + f64::from(decade))
    });
    ticks.filter(|tick| (left..=right).contains(tick)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: the front has every net that is not beaten, and no other. Method: against the
    // definition, on a small crowd with ties.
    #[test]
    fn pareto_is_the_definition() {
        let mut nets: Vec<Net> = (0..60u64)
            .map(|k| (1 + k * 7 % 13, (k * 11 % 17) as f64))
            .collect();
        nets.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        nets.dedup();
        let beaten = |net: &Net| {
            nets.iter()
                .any(|other| other.0 <= net.0 && other.1 >= net.1 && other != net)
        };
        let expected: Vec<Net> = nets.iter().filter(|net| !beaten(net)).copied().collect();
        assert_eq!(pareto(&nets), expected);
    }

    // Claim: an axis always has a few labels. Method: ranges from a third of a decade to nine.
    #[test]
    fn axis_has_labels() {
        for (left, right) in [(4.0, 4.34), (3.2, 5.7), (0.0, 9.0)] {
            let count = ticks(left, right).len();
            assert!((2..=12).contains(&count), "{left}..{right}: {count}");
        }
    }
}
