//! The torture test: drives the real program through its socket, breaks it wherever it can be broken, and compares what is
//! there with what was answered. See docs/reliability.md.
//!
//! Owns: the order of the parts. Never: reaches into the driver; all faults come from outside, or at steps that only a build
//! for this test has.

#![allow(clippy::disallowed_methods, reason = "a test makes its own files and runs programs")]

mod acts;
mod adversity;
mod attempts;
mod audit;
mod breaks;
#[path = "../support/chance.rs"]
mod chance;
mod content;
mod damage;
mod devices;
#[allow(dead_code, reason = "each program uses a part of it")]
#[path = "../support/disk.rs"]
mod disk;
mod exchange;
mod exhaustive;
mod facts;
mod ground;
mod grounds;
#[path = "../support/host.rs"]
mod host;
mod idle;
mod lifecycle;
mod lives;
mod meanwhile;
mod model;
mod mutants;
mod node;
mod options;
mod orders;
mod page;
mod places;
mod program;
mod progress;
mod raced;
mod races;
mod random;
mod report;
#[path = "../support/requests.rs"]
mod requests;
mod room;
mod sick;
mod straits;
mod syscalls;
mod undelete;
mod usage;
mod wire;
mod world;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use disk::Disk;
use node::Node;
use options::Options;
use random::Plan;
use report::Report;
use world::{Extent, World};

/// What keeps the test itself from going on is told to a person.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// More than the callers that a disk which hangs may keep waiting at once: somebody must be left to heal it.
const THREADS: usize = 8;

fn main() -> ExitCode {
    let outcome = Options::read().and_then(|options| {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
        let done = runtime.block_on(run(&options));
        // A thread that hangs on a frozen disk must not keep the program.
        runtime.shutdown_timeout(Duration::from_secs(1));
        done
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("torture: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Outcome<bool> {
    if !rustix::process::geteuid().is_root() {
        return Err("it mounts filesystems, which only root may: run it as root".into());
    }
    let mut report = Report::new();
    tokio::spawn(progress::tell("torture"));
    for part in &options.parts {
        match part.as_str() {
            "random" => random_part(options, &mut report).await?,
            "exhaustive" => exhaustive::part(options, &mut report).await?,
            "syscalls" => syscalls::part(options, &mut report).await?,
            "races" => races::part(options, &mut report).await?,
            "mutants" => mutants::part(options, &mut report).await?,
            "page" => page::write(&options.page, &options.runs)?,
            "clean" => clean(options, &mut report)?,
            "pools" => idle::part(options, &mut report)?,
            other => return Err(format!("unknown part {other}").into()),
        }
    }
    report.close(options)
}

/// All grounds side by side.
async fn random_part(options: &Options, report: &mut Report) -> Outcome<()> {
    adversity::check(&options.only_faults, options.lasts)?;
    let dir = tempfile::Builder::new().prefix("rp-torture.").tempdir()?;
    let mut all = tokio::task::JoinSet::new();
    let began = Instant::now();
    let lossy = options.lost_writes > 0 && Disk::is_possible();
    if options.lost_writes > 0 && !lossy {
        println!("SKIP torture::lost-writes: no /dev/fuse here");
    }
    for (number, ground) in options.grounds.iter().enumerate() {
        let seed = options.seed + u64::try_from(number)?;
        let extent = Extent { volumes: options.workers * 4, snapshots: options.workers };
        let node = if lossy {
            Node::on_disk(dir.path(), *ground, &options.plain, seed)?
        } else {
            Node::new(dir.path(), *ground, &options.plain)?
        };
        let world = Arc::new(World::new(node, extent, seed)?);
        straits::give_a_clock(&world)?;
        let plan = Plan {
            seed,
            adversities: options.adversities,
            only: options.only_faults.clone(),
            workers: options.workers,
            lasts: options.lasts,
            power_cuts: options.power_cuts,
            lost_writes: options.lost_writes,
            least: Duration::from_millis(20),
            most: Duration::from_millis(500),
        };
        all.spawn(async move {
            let run = random::run(&world, plan).await;
            (world, run, seed)
        });
    }
    while let Some(ended) = all.join_next().await {
        let (world, run, seed) = ended?;
        let run = run.unwrap_or_else(|error| {
            world.violation(format!("the run could not go on: {error}"));
            random::Run::default()
        });
        report::keep_log(options, &world)?;
        report.add_random(&world, &run, seed, began.elapsed());
    }
    Ok(())
}

/// A program as users run it has no step to stop at and no bug to plant.
fn clean(options: &Options, report: &mut Report) -> Outcome<()> {
    let names = ["ROCKPOOL_STEP", "ROCKPOOL_PLANTED", "object: placed", "drop-directory-fsync"];
    let holds = |file: &std::path::Path, name: &str| -> Outcome<bool> {
        let bytes = std::fs::read(file)?;
        Ok(bytes.windows(name.len()).any(|window| window == name.as_bytes()))
    };
    let mut violations = Vec::new();
    for name in names {
        if holds(&options.plain, name)? {
            violations.push(format!("{} contains `{name}`", options.plain.display()));
        }
        if !holds(&options.armed, name)? {
            violations.push(format!("{} does not contain `{name}`: is it armed?", options.armed.display()));
        }
    }
    println!("clean: {} violations", violations.len());
    report.add(serde_json::json!({ "part": "clean", "violations": violations.len() }), violations);
    Ok(())
}
