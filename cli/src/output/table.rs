//! Text tables for people.

/// How a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table with a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new(columns: Vec<(&'static str, Align)>) -> Self {
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a row, one text for each column.
    pub fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// The lines; the header is bold if `bold`.
    pub fn render(&self, bold: bool) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells
                .chain([self.columns[column].0.chars().count()])
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let set = cells
                .zip(&self.columns)
                .zip(&widths)
                .map(|((cell, (_, align)), &width)| match align {
                    Align::Left => format!("{cell:<width$}"),
                    Align::Right => format!("{cell:>width$}"),
                });
            set.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let header = line(&mut self.columns.iter().map(|(name, _)| *name));
        let mut text = if bold {
            format!("\x1b[1m{header}\x1b[0m\n")
        } else {
            format!("{header}\n")
        };
        for row in &self.rows {
            text.push_str(&line(&mut row.iter().map(String::as_str)));
            text.push('\n');
        }
        text
    }
}

/// `430500` as `430,500`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// "1 slot", "2 slots", "1,000 slots".
pub fn count(number: u64, noun: &str) -> String {
    format!(
        "{} {noun}{}",
        thousands(number),
        if number == 1 { "" } else { "s" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: columns line up, numbers to the right. Method: a small table, pinned.
    #[test]
    fn columns_line_up() {
        let mut table = Table::new(vec![
            ("net", Align::Left),
            ("parameters", Align::Right),
            ("note", Align::Left),
        ]);
        table.row(vec!["full".into(), thousands(431_080), String::new()]);
        table.row(vec!["pruned λ".into(), thousands(999), "x".into()]);
        assert_eq!(
            table.render(false),
            "net       parameters  note\nfull         431,080\npruned λ         999  x\n"
        );
    }

    // Claim: groups of three from the right. Method: around the borders.
    #[test]
    fn groups() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(thousands),
            ["0", "999", "1,000", "1,234,567"]
        );
    }
}
