//! Maps what a command returned to an exit code.

#![deny(clippy::print_stdout, clippy::print_stderr)]

use clap::Parser;
use evoring::args::Cli;
use evoring::commands;
use evoring::exit::Exit;
use evoring::output::say;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.global.json;
    match commands::execute(cli) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(failure) => {
            if failure.exit == Exit::Ok {
                // The reader of standard output has had enough.
            } else if json {
                let error =
                    serde_json::json!({ "code": failure.exit.name(), "message": failure.message });
                say(serde_json::json!({ "error": error }));
            } else {
                say(format_args!("evoring: {failure}"));
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}
