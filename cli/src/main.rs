//! Maps what a command returned to an exit code.

#![deny(clippy::print_stdout, clippy::print_stderr)]

use clap::Parser;
use evoring::args::Cli;
use evoring::commands;
use evoring::exit::{Exit, Failure};
use evoring::output::say;
use std::process::ExitCode;

fn main() -> ExitCode {
    let (json, result) = match Cli::try_parse() {
        Ok(cli) => (cli.global.json, commands::execute(cli)),
        // Help and versions are answers, not errors.
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => {
            // The arguments were not understood, so this is looked up by hand.
            let json = std::env::args_os()
                .skip(1)
                .any(|argument| argument == "--json");
            if !json {
                error.exit();
            }
            let message = error.render().to_string();
            let message = message.trim_end().trim_start_matches("error: ");
            (json, Err(Failure::usage(message)))
        }
    };
    match result {
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
