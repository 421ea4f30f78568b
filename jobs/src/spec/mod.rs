//! Job files: parsed once into validated types; every error names file, line, field, what was
//! expected and the nearest valid name. The fields are described in `docs/job-file.md`.
//!
//! [`parse`] is pure, never panics, and reports all defects at once. Relative paths in a job file
//! are meant beside it: the client calls [`with_absolute_paths`] before it submits the text.

mod checks;
mod data;
mod network;
mod paths;
mod prune;
mod reader;
mod words;

#[cfg(test)]
mod tests;

pub use paths::with_absolute_paths;

use crate::driver::JobDriver;
use crate::prune::PruneDriver;
use evoring_protocol::limits::JOB_FILE_BYTES;
use reader::{Lines, Reader};

/// Kinds of jobs that this build runs.
pub const KINDS: [&str; 1] = ["evolve.prune"];

/// Words and signs (`= , . [ ] { } " '` and line ends) of one job file. The parser takes up to 1,100
/// bytes for each, far more than for a letter, so this bounds what a file can make a coordinator hold;
/// 256 layers with every field have under 9,000.
const MAX_PIECES: usize = 1 << 14;

/// A job file that cannot be accepted, in one line for each defect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .messages.join("\n"))]
pub struct SpecError {
    /// `FILE:LINE: field: expected …, got …; did you mean …?`
    pub messages: Vec<String>,
}

/// A validated job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobSpec {
    /// Name for people.
    pub name: String,
    /// Kind, as in the job file.
    pub kind: String,
    /// Fewest slots that its gangs need at once.
    pub min_ranks: u32,
    /// Its driver, before the first event.
    pub driver: JobDriver,
}

/// Parses and validates a job file of at most [`evoring_protocol::limits::JOB_FILE_BYTES`].
pub fn parse(file: &str, text: &str) -> Result<JobSpec, SpecError> {
    parse_with_fields(file, text).0
}

/// [`parse`], and the name of every field that was looked for (`section.field`).
fn parse_with_fields(file: &str, text: &str) -> (Result<JobSpec, SpecError>, Vec<String>) {
    let file: String = file.chars().filter(|c| !c.is_control()).take(200).collect();
    if let Some(excess) = excess(text) {
        let messages = vec![format!("{file}:1: expected a job file of at most {excess}")];
        return (Err(SpecError { messages }), Vec::new());
    }
    let lines = Lines::new(text);
    let document = match toml_edit::Document::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let line = lines.line(error.span().map_or(0, |span| span.start));
            let message = format!(
                "{file}:{line}: not TOML: {}",
                error.message().replace('\n', " ")
            );
            return (
                Err(SpecError {
                    messages: vec![message],
                }),
                Vec::new(),
            );
        }
    };
    let reader = Reader::new(&file, lines);
    let job = match reader.check_depth(document.as_item()) {
        true => job(&reader, document.as_table()),
        false => None,
    };
    let (messages, fields) = reader.finish();
    match job {
        Some(job) if messages.is_empty() => (Ok(job), fields),
        _ => (Err(SpecError { messages }), fields),
    }
}

/// What a text has too much of: the limit, and what it has.
fn excess(text: &str) -> Option<String> {
    if text.len() > JOB_FILE_BYTES {
        return Some(format!("{JOB_FILE_BYTES} bytes, got {}", text.len()));
    }
    let pieces = pieces(text);
    let is_excessive = pieces > MAX_PIECES;
    is_excessive.then(|| {
        format!("{MAX_PIECES} words and signs (= , . [ ] {{ }} \" ' and line ends), got {pieces}; shorten lists and comments")
    })
}

/// Words and signs, as [`MAX_PIECES`] counts them.
fn pieces(text: &str) -> usize {
    let is_sign = |byte: &u8| b"=,.[]{}\"'\r\n".contains(byte);
    let signs = text.bytes().filter(is_sign).count();
    signs + text.split_ascii_whitespace().count()
}

/// `None` only where a defect was reported.
fn job(reader: &Reader<'_>, table: &toml_edit::Table) -> Option<JobSpec> {
    let mut top = reader.top(table);
    let name = top.name("name");
    let kind = top.choice_without_default("kind", &KINDS.map(|kind| (kind, kind)));
    let job = prune::read(&mut top, name.as_deref().unwrap_or_default());
    top.finish();
    let (name, kind, job) = (name?, kind?, job?);
    let min_ranks = job.train.ranks[0].max(job.finetune.ranks[0]);
    let driver = JobDriver::PruneV1(Box::new(PruneDriver::new(job)));
    Some(JobSpec {
        name,
        kind: kind.to_owned(),
        min_ranks,
        driver,
    })
}
