//! `make bench`: what the driver costs, beside what the same work costs without it.
//!
//! Owns: the order of the parts and the two drivers they run against. The method is in `docs/performance.md`. Never: measures
//! anything but the release binary through its socket, or compares figures of two runs.

#![allow(clippy::disallowed_methods, reason = "a measurement makes its own files and runs programs")]

mod calls;
mod client;
mod copies;
mod disk;
mod floor;
#[path = "../support/host.rs"]
mod host;
mod lives;
mod options;
mod report;
#[path = "../support/requests.rs"]
mod requests;
mod restart;
mod scene;

use std::path::Path;
use std::process::ExitCode;

use options::{Options, Part};
use report::Report;
use scene::{BINARY, Scene, Site};

/// What goes wrong here is told to a person and ends the run.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let outcome = Options::read().and_then(|options| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(run(&options))
    });
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
    let scene = Scene::new()?;
    let mut empty = Site::new(&scene, ("empty", Path::new(BINARY)), 8)?;
    empty.start().await?;
    if let Some(older) = options.against() {
        let mut older = Site::new(&scene, ("older", older), 4)?;
        older.start().await?;
        lives::against_older(options, report, &empty, &older).await?;
        older.stop()?;
        return empty.stop();
    }
    if options.wants(Part::Lives) {
        lives::against_floor(options, report, &empty).await?;
    }
    if options.wants(Part::Calls) {
        calls::publishing(options, report, &empty).await?;
    }
    // Before the copies, whose many extents keep the pool busy long after they are deleted.
    if options.wants(Part::Disk) {
        disk::measure(options, report, &empty).await?;
    }
    if options.wants(Part::Copies) {
        copies::measure(options, report, &empty).await?;
    }
    if options.wants(Part::Restart) {
        restart::measure(options, report, &mut empty, 0).await?;
    }
    if options.wants_volumes() {
        let mut full = Site::new(&scene, ("full", Path::new(BINARY)), 4)?;
        full.start().await?;
        for present in options.populations() {
            full.populate(present).await?;
            if options.wants(Part::Lives) {
                lives::against_empty(options, report, (&empty, &full), present).await?;
            }
            if options.wants(Part::Calls) {
                calls::creating(options, report, (&empty, &full), present).await?;
            }
            if options.wants(Part::Restart) && present != 5000 {
                restart::measure(options, report, &mut full, present).await?;
            }
        }
        full.stop()?;
    }
    empty.stop()
}
