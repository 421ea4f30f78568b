//! What commands print: tables, JSON, times.

pub mod json;
pub mod table;
pub mod time;

use crate::exit::{Exit, Failure};
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// `--json`.
    pub json: bool,
    /// Bold and colours on standard output.
    pub colour: bool,
    /// Progress bars on standard error.
    pub live: bool,
}

impl Style {
    /// From `--json`, `NO_COLOR`, `TERM` and where the output goes.
    pub fn detect(json: bool) -> Self {
        let allowed = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            json,
            colour: allowed && !json && std::io::stdout().is_terminal(),
            live: !json && !is_dumb && std::io::stderr().is_terminal(),
        }
    }
}

/// Writes to standard output. A reader that has gone (`| head`) is a quiet success: the failure
/// carries [`Exit::Ok`] and no message.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Ok, ""))
        }
        Err(error) => Err(Failure::local("standard output", error)),
    }
}

/// One JSON document on one line.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::local("JSON", error))?;
    print(&format!("{text}\n"))
}
