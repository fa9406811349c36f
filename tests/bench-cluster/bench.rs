//! `make bench-cluster`: what a controller costs, the way through it and a thousand nodes behind it; and how fast a volume travels.
//!
//! Owns: the order of the parts. The method is in `docs/performance.md`. Never: measures anything but the release binary through its
//! socket; the thousand nodes alone are not processes of it but many of its engines in few processes of this program.

#![allow(clippy::disallowed_methods, reason = "a measurement makes its own files and runs programs")]

mod many;
mod nodes;
mod options;
mod process;
#[path = "../bench/report.rs"]
#[allow(dead_code, reason = "each program uses a part of it")]
mod report;
#[path = "../support/requests.rs"]
#[allow(dead_code, reason = "each program uses a part of it")]
mod requests;
mod routed;
mod stream;

use std::process::ExitCode;

use options::{Options, Part};
use report::Report;

/// What goes wrong here is told to a person and ends the run.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match words.split_first() {
        Some((mode, words)) if mode == nodes::MODE => nodes::run(words),
        _ => Options::read().and_then(|options| {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            runtime.block_on(run(&options))
        }),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Outcome<()> {
    let mut report = Report::new(options);
    let outcome = measure(options, &mut report).await;
    // What was measured before a failure is worth having.
    report.print();
    report.save()?;
    outcome
}

async fn measure(options: &Options, report: &mut Report) -> Outcome<()> {
    if options.wants(Part::Routed) {
        routed::measure(options, report).await?;
    }
    if options.wants(Part::Many) {
        many::measure(options, report).await?;
    }
    if options.wants(Part::Stream) {
        stream::measure(options, report).await?;
    }
    Ok(())
}
