//! Maps what a command returned to an exit code.

use clap::Parser;
use evoring::args::Cli;
use evoring::commands;
use evoring::exit::Exit;
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
                eprintln!(
                    "{}",
                    serde_json::json!({ "error": { "code": failure.exit.name(), "message": failure.message } })
                );
            } else {
                eprintln!("evoring: {failure}");
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}
