//! What commands print: tables, JSON, times.

pub mod json;
pub mod table;
pub mod time;

use crate::exit::{Exit, Failure};
use serde::Serialize;
use std::fmt::Display;
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
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            json,
            colour: !json && !is_dumb && !is_plain && std::io::stdout().is_terminal(),
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

/// Writes a line to standard error. Unlike `eprintln!` it does not panic where the reader or the
/// terminal has gone: what runs must not end for want of a listener.
pub fn say(line: impl Display) {
    // One write, so that lines of several processes on one terminal stay whole.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// One JSON document on one line.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::local("JSON", error))?;
    print(&format!("{text}\n"))
}
