//! The `rockpool` binary: parse the command line and do what it says.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    rockpool::cli::run(rockpool::cli::Cli::parse())
}
