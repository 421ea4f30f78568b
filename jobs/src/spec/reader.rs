//! Reading fields out of TOML tables, collecting every defect with its line.

use super::words::{did_you_mean, number, one_of, shorten, show, value_number};
use std::cell::{Cell, RefCell};
use std::ops::RangeInclusive;
use toml_edit::{Item, TableLike, Value};

/// Nesting of tables and arrays.
const MAX_DEPTH: usize = 32;
/// Defects reported at once.
const MAX_MESSAGES: usize = 50;

/// Line numbers of byte offsets.
pub(super) struct Lines {
    /// Offsets of line ends, ascending.
    ends: Vec<usize>,
}

impl Lines {
    pub(super) fn new(text: &str) -> Self {
        Self {
            ends: text.match_indices('\n').map(|(offset, _)| offset).collect(),
        }
    }

    /// Line of a byte offset, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.ends.partition_point(|end| *end < offset) + 1
    }
}

/// What all sections of one file share.
pub(super) struct Reader<'a> {
    file: &'a str,
    lines: Lines,
    /// The first defects by line, and how many more there were.
    messages: RefCell<Vec<(usize, String)>>,
    left_off: Cell<usize>,
    /// Every field that was looked for.
    fields: RefCell<Vec<String>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a str, lines: Lines) -> Self {
        Self {
            file,
            lines,
            messages: RefCell::default(),
            left_off: Cell::default(),
            fields: RefCell::default(),
        }
    }

    /// Line of a byte offset, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.lines.line(offset)
    }

    /// The file's outermost table.
    pub(super) fn top<'r>(&'r self, table: &'r dyn TableLike) -> Section<'r> {
        Section {
            reader: self,
            path: String::new(),
            table: Some(table),
            line: 1,
            asked: Vec::new(),
        }
    }

    pub(super) fn report(&self, line: usize, message: String) {
        let mut messages = self.messages.borrow_mut();
        if messages.len() < MAX_MESSAGES {
            messages.push((line, message));
        } else {
            self.left_off.set(self.left_off.get() + 1);
        }
    }

    /// Reports nesting that is too deep; everything else walks into depths that it knows.
    pub(super) fn check_depth(&self, root: &Item) -> bool {
        let mut level: Vec<&Item> = vec![root];
        let mut values: Vec<&Value> = Vec::new();
        for _ in 0..=MAX_DEPTH {
            let mut next: Vec<&Item> = Vec::new();
            let mut next_values: Vec<&Value> = Vec::new();
            for item in level {
                match item {
                    Item::None => {}
                    Item::Value(value) => values.push(value),
                    Item::Table(table) => next.extend(table.iter().map(|(_, item)| item)),
                    Item::ArrayOfTables(tables) => {
                        next.extend(
                            tables
                                .iter()
                                .flat_map(|table| table.iter().map(|(_, item)| item)),
                        );
                    }
                }
            }
            for value in values {
                match value {
                    Value::Array(array) => next_values.extend(array.iter()),
                    Value::InlineTable(table) => {
                        next_values.extend(table.iter().map(|(_, value)| value))
                    }
                    _ => {}
                }
            }
            (level, values) = (next, next_values);
        }
        let is_shallow = level.is_empty() && values.is_empty();
        if !is_shallow {
            self.report(
                1,
                format!("expected tables and arrays nested at most {MAX_DEPTH} deep, got more"),
            );
        }
        is_shallow
    }

    /// The defects, one line each, in the order of the file; and the fields that were looked for.
    pub(super) fn finish(self) -> (Vec<String>, Vec<String>) {
        let mut messages = self.messages.into_inner();
        messages.sort_by_key(|(line, _)| *line);
        let mut lines: Vec<String> = messages
            .into_iter()
            .map(|(line, message)| format!("{}:{line}: {message}", self.file))
            .collect();
        if self.left_off.get() > 0 {
            lines.push(format!("{}: and {} more", self.file, self.left_off.get()));
        }
        (lines, self.fields.into_inner())
    }
}

/// A field that is present.
#[derive(Clone, Copy)]
pub(super) struct Field<'r> {
    pub(super) value: &'r Item,
    pub(super) line: usize,
}

/// One table of the file. Every method that reads a field reports what is wrong with it and then
/// goes on with the default, so that later fields are checked too.
pub(super) struct Section<'r> {
    pub(super) reader: &'r Reader<'r>,
    path: String,
    /// `None` where the file has no such table: all fields have their defaults.
    table: Option<&'r dyn TableLike>,
    pub(super) line: usize,
    asked: Vec<&'static str>,
}

impl<'r> Section<'r> {
    /// A table inside this one.
    pub(super) fn section(&mut self, name: &'static str) -> Section<'r> {
        self.asked.push(name);
        let path = self.path_of(name);
        let mut section = Section {
            reader: self.reader,
            path,
            table: None,
            line: self.line,
            asked: Vec::new(),
        };
        if let Some(field) = self.find(name) {
            section.line = field.line;
            section.table = field.value.as_table_like();
            if section.table.is_none() {
                let message = format!(
                    "{}: expected a table [{}], got {}",
                    section.path,
                    section.path,
                    show(field.value)
                );
                self.reader.report(field.line, message);
            }
        }
        section
    }

    /// A table that is an element of an array.
    pub(super) fn element(
        &self,
        table: &'r dyn TableLike,
        path: String,
        line: usize,
    ) -> Section<'r> {
        Section {
            reader: self.reader,
            path,
            table: Some(table),
            line,
            asked: Vec::new(),
        }
    }

    /// A field, if it is there.
    pub(super) fn field(&mut self, name: &'static str) -> Option<Field<'r>> {
        self.asked.push(name);
        self.reader.fields.borrow_mut().push(self.path_of(name));
        self.find(name)
    }

    /// A field that was looked for already.
    pub(super) fn find(&self, name: &str) -> Option<Field<'r>> {
        let (key, value) = self.table?.get_key_value(name)?;
        let span = key.span().or_else(|| value.span());
        let line = span.map_or(self.line, |span| self.reader.line(span.start));
        Some(Field { value, line })
    }

    pub(super) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// Reports a field of the wrong type or value.
    pub(super) fn wrong(&self, name: &str, field: Field<'_>, expected: &str) {
        let message = format!(
            "{}: expected {expected}, got {}",
            self.path_of(name),
            show(field.value)
        );
        self.reader.report(field.line, message);
    }

    /// Reports a field that must be there.
    pub(super) fn missing(&self, name: &str, expected: &str, got: &str) {
        self.reader.report(
            self.line,
            format!("{}: expected {expected}, got {got}", self.path_of(name)),
        );
    }

    /// An integer in a range.
    pub(super) fn integer(
        &mut self,
        name: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> u64 {
        let Some(field) = self.field(name) else {
            return default;
        };
        let value = field
            .value
            .as_integer()
            .and_then(|value| u64::try_from(value).ok());
        match value {
            Some(value) if range.contains(&value) => value,
            _ => {
                let (low, high) = (range.start(), range.end());
                self.wrong(name, field, &format!("an integer from {low} to {high}"));
                default
            }
        }
    }

    /// [`Section::integer`] for ranges inside 32 bits.
    pub(super) fn count(
        &mut self,
        name: &'static str,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> u32 {
        let wide = u64::from(*range.start())..=u64::from(*range.end());
        // The range holds it back within 32 bits.
        self.integer(name, default.into(), wide)
            .try_into()
            .unwrap_or(default)
    }

    /// [`Section::count`], `None` where nothing is given.
    pub(super) fn count_if_given(
        &mut self,
        name: &'static str,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let is_given = self.find(name).is_some();
        let count = self.count(name, *range.start(), range);
        is_given.then_some(count)
    }

    /// [`Section::count`] of a field that must be there.
    pub(super) fn required(
        &mut self,
        name: &'static str,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let expected = format!("an integer from {} to {}", range.start(), range.end());
        let count = self.count_if_given(name, range);
        if count.is_none() {
            self.missing(name, &expected, "nothing");
        }
        count
    }

    /// A finite number in a range.
    pub(super) fn number(
        &mut self,
        name: &'static str,
        default: f64,
        range: RangeInclusive<f64>,
    ) -> f64 {
        let Some(field) = self.field(name) else {
            return default;
        };
        match number(field.value) {
            Some(value) if range.contains(&value) => value,
            _ => {
                let (low, high) = (range.start(), range.end());
                self.wrong(name, field, &format!("a number from {low} to {high}"));
                default
            }
        }
    }

    /// Two numbers `[low, high]` in a range, ascending.
    pub(super) fn interval(
        &mut self,
        name: &'static str,
        default: [f64; 2],
        range: RangeInclusive<f64>,
    ) -> [f64; 2] {
        let Some(field) = self.field(name) else {
            return default;
        };
        let values = field
            .value
            .as_array()
            .map(|array| array.iter().map(value_number).collect::<Option<Vec<f64>>>());
        if let Some(Some(values)) = values
            && let [low, high] = values[..]
            && range.contains(&low)
            && range.contains(&high)
            && low <= high
        {
            return [low, high];
        }
        let (low, high) = (range.start(), range.end());
        self.wrong(
            name,
            field,
            &format!("[low, high] with {low} ≤ low ≤ high ≤ {high}"),
        );
        default
    }

    /// true or false.
    pub(super) fn boolean(&mut self, name: &'static str, default: bool) -> bool {
        let Some(field) = self.field(name) else {
            return default;
        };
        field.value.as_bool().unwrap_or_else(|| {
            self.wrong(name, field, "true or false");
            default
        })
    }

    /// Text of 1 to `limit` characters without control characters.
    pub(super) fn as_text(&self, name: &str, field: Field<'r>, limit: usize) -> Option<&'r str> {
        let is_valid = |text: &&str| {
            !text.is_empty() && text.chars().count() <= limit && !text.chars().any(char::is_control)
        };
        let text = field.value.as_str().filter(is_valid);
        if text.is_none() {
            self.wrong(name, field, &format!("text of 1 to {limit} characters"));
        }
        text
    }

    /// A name that must be there: 1 to 64 of `A-Z a-z 0-9 . _ -`, not starting with a dot or dash.
    pub(super) fn name(&mut self, name: &'static str) -> Option<String> {
        let expected =
            "1 to 64 characters of A-Z, a-z, 0-9, '.', '_', '-', the first a letter or digit";
        let Some(field) = self.field(name) else {
            self.missing(name, expected, "nothing");
            return None;
        };
        let is_valid = |text: &&str| {
            (1..=64).contains(&text.len())
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
                && text.as_bytes()[0].is_ascii_alphanumeric()
        };
        let text = field.value.as_str().filter(is_valid).map(str::to_owned);
        if text.is_none() {
            self.wrong(name, field, expected);
        }
        text
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        name: &'static str,
        default: T,
        words: &[(&str, T)],
    ) -> T {
        let Some(field) = self.field(name) else {
            return default;
        };
        self.chosen(name, field, words).unwrap_or(default)
    }

    /// One of several words that must be there.
    pub(super) fn choice_without_default<T: Copy>(
        &mut self,
        name: &'static str,
        words: &[(&str, T)],
    ) -> Option<T> {
        let Some(field) = self.field(name) else {
            self.missing(
                name,
                &one_of(words.iter().map(|(word, _)| *word)),
                "nothing",
            );
            return None;
        };
        self.chosen(name, field, words)
    }

    pub(super) fn chosen<T: Copy>(
        &self,
        name: &str,
        field: Field<'_>,
        words: &[(&str, T)],
    ) -> Option<T> {
        let text = field.value.as_str().unwrap_or_default();
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let names = || words.iter().map(|(word, _)| *word);
            let hint = did_you_mean(text, names());
            let message = format!(
                "{}: expected {}, got {}{hint}",
                self.path_of(name),
                one_of(names()),
                show(field.value)
            );
            self.reader.report(field.line, message);
        }
        found.map(|(_, value)| *value)
    }

    /// Reports every field that nobody asked for.
    pub(super) fn finish(self) {
        let Some(table) = self.table else { return };
        for (name, item) in table.iter().filter(|(name, _)| !self.asked.contains(name)) {
            let span = table
                .key(name)
                .and_then(|key| key.span())
                .or_else(|| item.span());
            let line = span.map_or(self.line, |span| self.reader.line(span.start));
            let hint = did_you_mean(name, self.asked.iter().copied());
            let place = if self.path.is_empty() {
                "the file".to_owned()
            } else {
                format!("[{}]", self.path)
            };
            let known = self.asked.join(", ");
            let name = self.path_of(&shorten(name));
            self.reader.report(
                line,
                format!("{name}: unknown field; {place} may have {known}{hint}"),
            );
        }
    }
}
