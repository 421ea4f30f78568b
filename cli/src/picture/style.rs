//! What all pictures share: size, fonts, colours (Okabe and Ito's palette, which people with
//! colour-blindness can tell apart), the title and the legend.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Width of every picture in pixels.
pub const WIDTH: u32 = 960;
/// Height of the charts in pixels.
pub const HEIGHT: u32 = 600;
/// Title and legend above a chart.
pub const HEAD: u32 = 92;

/// Everything drawn as text.
pub const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
/// Explanations.
pub const FAINT: RGBColor = RGBColor(0x66, 0x66, 0x66);
/// Grid lines and what was removed.
pub const GRID: RGBColor = RGBColor(0xD0, 0xD0, 0xD0);
/// First series.
pub const BLUE: RGBColor = RGBColor(0x00, 0x72, 0xB2);
/// Second series.
pub const ORANGE: RGBColor = RGBColor(0xD5, 0x5E, 0x00);
/// Crowds of points.
pub const SKY: RGBColor = RGBColor(0x56, 0xB4, 0xE9);
/// A single point among others.
pub const GREEN: RGBColor = RGBColor(0x00, 0x9E, 0x73);

/// Font of everything.
const FONT: &str = "sans-serif";

/// Errors of the drawing library; drawing into memory fails only by a defect.
pub type DrawError = Box<dyn std::error::Error>;

/// The library writes sizes into the file divided by this.
const SIZE_DIVISOR: f64 = 1.24;

/// Text of a size and colour, placed by its left end and middle.
pub fn text_style(size: u32, colour: &'static RGBColor) -> TextStyle<'static> {
    TextStyle::from((FONT, f64::from(size) * SIZE_DIVISOR).into_font())
        .color(colour)
        .pos(Pos::new(HPos::Left, VPos::Center))
}

/// The same as a font for axes.
pub fn axis_style(size: u32) -> TextStyle<'static> {
    TextStyle::from((FONT, f64::from(size) * SIZE_DIVISOR).into_font()).color(&INK)
}

/// How a legend shows a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A solid line.
    Line(RGBColor),
    /// A dashed line.
    Dashes(RGBColor),
    /// A small dot.
    Dot(RGBColor),
    /// A filled square.
    Square(RGBColor),
    /// A triangle.
    Triangle(RGBColor),
    /// An outlined square.
    Hollow(RGBColor),
}

/// Average width of a character, as a share of the font's size; a little more than most fonts
/// have, so that legends do not run into each other.
const CHARACTER: f64 = 0.58;
/// Size of the legend's letters.
const LEGEND_SIZE: u32 = 15;

/// Draws title, subtitle and a legend in one row, and leaves the rest for the picture.
pub fn head<'a>(
    area: &DrawingArea<SVGBackend<'a>, Shift>,
    title: &str,
    subtitle: &str,
    keys: &[(Key, &str)],
) -> Result<DrawingArea<SVGBackend<'a>, Shift>, DrawError> {
    area.fill(&WHITE)?;
    let (top, rest) = area.split_vertically(HEAD);
    let title: String = shorten(title, 80);
    top.draw(&Text::new(title, (24, 24), text_style(22, &INK)))?;
    top.draw(&Text::new(
        subtitle.to_owned(),
        (24, 49),
        text_style(14, &FAINT),
    ))?;
    let mut left = 24;
    for (key, name) in keys {
        draw_key(&top, *key, (left, 75))?;
        top.draw(&Text::new(
            (*name).to_owned(),
            (left + 34, 75),
            text_style(LEGEND_SIZE, &INK),
        ))?;
        left += 34 + 24 + text_width(name, LEGEND_SIZE);
    }
    Ok(rest)
}

fn draw_key(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    key: Key,
    (x, y): (i32, i32),
) -> Result<(), DrawError> {
    let centre = (x + 13, y);
    match key {
        Key::Line(colour) => area.draw(&PathElement::new(
            vec![(x, y), (x + 26, y)],
            colour.stroke_width(3),
        ))?,
        Key::Dashes(colour) => {
            for start in [x, x + 10, x + 20] {
                area.draw(&PathElement::new(
                    vec![(start, y), (start + 6, y)],
                    colour.stroke_width(3),
                ))?;
            }
        }
        Key::Dot(colour) => area.draw(&Circle::new(centre, 4, colour.mix(0.6).filled()))?,
        Key::Square(colour) => area.draw(&Rectangle::new(
            [(x + 7, y - 6), (x + 19, y + 6)],
            colour.filled(),
        ))?,
        Key::Triangle(colour) => area.draw(&TriangleMarker::new(centre, 9, colour.filled()))?,
        Key::Hollow(colour) => area.draw(&Rectangle::new(
            [(x + 7, y - 6), (x + 19, y + 6)],
            colour.stroke_width(1),
        ))?,
    }
    Ok(())
}

/// About how many pixels a text takes.
pub fn text_width(text: &str, size: u32) -> i32 {
    (text.chars().count() as f64 * f64::from(size) * CHARACTER) as i32
}

/// At most `most` characters.
pub fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars()
        .take(most.saturating_sub(1))
        .chain(['…'])
        .collect()
}

/// A range a little larger than the values, never empty.
pub fn padded(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
    if low > high {
        return (0.0, 1.0);
    }
    let pad = ((high - low) * 0.05).max(high.abs() * 1e-3).max(1e-6);
    (low - pad, high + pad)
}
