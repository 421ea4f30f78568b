//! How messages show values and find the nearest valid name.

use toml_edit::{Item, Value};

/// Characters of a value that a message repeats.
const MAX_SHOWN: usize = 60;

/// An integer or a float as a finite number.
pub(super) fn number(item: &Item) -> Option<f64> {
    item.as_value().and_then(value_number)
}

/// The same for a bare value.
pub(super) fn value_number(value: &Value) -> Option<f64> {
    let number = value
        .as_float()
        .or_else(|| value.as_integer().map(|value| value as f64));
    number.filter(|value| value.is_finite())
}

/// A value as a message repeats it.
pub(super) fn show(item: &Item) -> String {
    match item {
        Item::Value(Value::String(text)) => format!("{:?}", shorten(text.value())),
        Item::Value(Value::Integer(value)) => value.value().to_string(),
        Item::Value(Value::Float(value)) => value.value().to_string(),
        Item::Value(Value::Boolean(value)) => value.value().to_string(),
        Item::Value(Value::Datetime(_)) => "a date".to_owned(),
        Item::Value(Value::Array(array)) => {
            match array.iter().map(value_number).collect::<Option<Vec<f64>>>() {
                Some(values) if values.len() <= 4 => format!("{values:?}"),
                _ => format!("an array of {}", array.len()),
            }
        }
        Item::Value(Value::InlineTable(_)) | Item::Table(_) => "a table".to_owned(),
        Item::ArrayOfTables(tables) => format!("an array of {} tables", tables.len()),
        Item::None => "nothing".to_owned(),
    }
}

/// The beginning of a text from outside, without control characters.
pub(super) fn shorten(text: &str) -> String {
    let mut short: String = text
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_SHOWN)
        .collect();
    if text.chars().count() > MAX_SHOWN {
        short.push('…');
    }
    short
}

/// The valid words as a message lists them.
pub(super) fn one_of<'w>(words: impl Iterator<Item = &'w str>) -> String {
    let words: Vec<String> = words.map(|word| format!("{word:?}")).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

/// `; did you mean "…"?` where a valid name is near.
pub(super) fn did_you_mean<'w>(name: &str, words: impl Iterator<Item = &'w str>) -> String {
    let near =
        |word: &str| Some(distance(name, word)?).filter(|distance| *distance <= 1 + word.len() / 3);
    let nearest = words.filter_map(|word| Some((near(word)?, word))).min();
    nearest.map_or_else(String::new, |(_, word)| format!("; did you mean {word:?}?"))
}

/// Insertions, deletions, replacements and exchanges of neighbours that turn `a` into `b`;
/// `None` for long names.
fn distance(a: &str, b: &str) -> Option<usize> {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len() > 64 || b.len() > 64 {
        return None;
    }
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows.last()?.last().copied()
}
