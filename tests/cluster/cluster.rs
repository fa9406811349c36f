//! The test of a cluster: three nodes and two controllers as processes in network namespaces of their own, whose ways and lives are
//! broken while the oracle of tests/torture judges every answer. See docs/reliability.md.
//!
//! Owns: the order of the parts. Never: reaches into the driver; it speaks CSI to its sockets, as sidecars and kubelet do.

#![allow(clippy::disallowed_methods, reason = "a test makes its own files and runs programs")]

#[path = "../torture/acts.rs"]
mod acts;
#[path = "../torture/audit.rs"]
#[allow(dead_code, reason = "each program uses a part of it")]
mod audit;
#[path = "../support/chance.rs"]
mod chance;
#[path = "../torture/content.rs"]
mod content;
#[path = "../torture/devices.rs"]
mod devices;
mod direct;
mod exchange;
#[path = "../torture/facts.rs"]
#[allow(dead_code, reason = "each program uses a part of it")]
mod facts;
mod faults;
#[path = "../torture/ground.rs"]
#[allow(dead_code, reason = "each program uses a part of it")]
mod ground;
#[path = "../support/host.rs"]
mod host;
mod keys;
#[path = "../torture/lifecycle.rs"]
mod lifecycle;
#[path = "../torture/meanwhile.rs"]
#[allow(dead_code, reason = "each program uses a part of it")]
mod meanwhile;
#[path = "../torture/model.rs"]
#[allow(dead_code, reason = "each program uses a part of it")]
mod model;
mod mutants;
mod net;
mod node;
mod options;
#[path = "../torture/orders.rs"]
#[allow(dead_code, reason = "each program uses a part of it")]
mod orders;
mod part;
#[path = "../torture/progress.rs"]
#[allow(dead_code, reason = "each program uses a part of it")]
mod progress;
mod random;
#[path = "../support/requests.rs"]
mod requests;
mod sanity;
mod scenes;
#[path = "../torture/usage.rs"]
mod usage;
#[path = "../torture/wire.rs"]
#[allow(dead_code, reason = "each program uses a part of it")]
mod wire;
#[path = "../torture/world.rs"]
#[allow(dead_code, reason = "each program uses a part of it")]
mod world;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use node::Node;
use options::Options;
use random::{Plan, Run};
use world::{Extent, World};

/// What keeps the test itself from going on is told to a person.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const THREADS: usize = 4;

fn main() -> ExitCode {
    let outcome = Options::read().and_then(|options| {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
        let done = runtime.block_on(run(&options));
        runtime.shutdown_timeout(Duration::from_secs(1));
        done
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cluster: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Outcome<bool> {
    net::switch_on()?;
    tokio::spawn(progress::tell("cluster"));
    let mut found = Vec::new();
    for part in &options.parts {
        let violations = match part.as_str() {
            "mutants" => mutants::part(options).await?,
            "sanity" => sanity::part(options)?,
            _ => unbroken(part, options).await?,
        };
        println!("cluster {part}: {} violations", violations.len());
        found.extend(violations);
    }
    for violation in &found {
        println!("VIOLATION {violation}");
    }
    if !found.is_empty() {
        let (parts, seed) = (options.parts.join(" "), options.seed);
        println!("cluster: again with: make test-cluster PARTS='{parts}' ARGS='--seed {seed}'");
    }
    Ok(found.is_empty())
}

/// A part on a cluster of the program as users run it.
async fn unbroken(part: &str, options: &Options) -> Outcome<Vec<String>> {
    let dir = tempfile::Builder::new().prefix("rp-cluster.").tempdir()?;
    let world = Arc::new(build(dir.path(), &options.plain, options)?);
    let took = world.node.start().await?;
    println!("cluster: 3 nodes and 2 controllers know each other after {} ms", took.as_millis());
    acts::open_budget(&world).await;
    match part {
        "scenes" => scenes::part(&world, options).await?,
        "random" => random_part(&world, options).await?,
        other => return Err(format!("unknown part {other}").into()),
    }
    let violations = world.pardon();
    if !violations.is_empty() {
        keep_logs(&world, options)?;
    }
    Ok(violations)
}

fn build(dir: &Path, binary: &Path, options: &Options) -> Outcome<World> {
    let extent = Extent { volumes: options.workers * 4, snapshots: options.workers };
    World::new(Node::new(dir, binary)?, extent, options.seed)
}

async fn random_part(world: &Arc<World>, options: &Options) -> Outcome<()> {
    let plan = Plan {
        seed: options.seed,
        workers: options.workers,
        lasts: options.lasts,
        longest: options.longest,
        twofold: 20,
    };
    let run = random::run(world, plan).await.unwrap_or_else(|error| {
        world.violation(format!("the run could not go on: {error}"));
        Run::default()
    });
    tell(world, &run, options);
    if run.faults.is_empty() || world.counts.verified.load(std::sync::atomic::Ordering::Relaxed) == 0 {
        world.violation("the run proved nothing");
    }
    Ok(())
}

/// What a run came to.
fn tell(world: &World, run: &Run, options: &Options) {
    let answers: u64 = world.node.wire.counts().values().flat_map(|codes| codes.values()).sum();
    let mut whole: Vec<u128> = run.whole.iter().map(Duration::as_millis).collect();
    whole.sort_unstable();
    let verified = world.counts.verified.load(std::sync::atomic::Ordering::Relaxed);
    println!(
        "cluster random: seed {}, {} faults, {answers} answers, {verified} slots verified, {} names twice, whole again p50 {} max {} ms",
        options.seed,
        run.whole.len(),
        run.twice,
        whole.get(whole.len() / 2).unwrap_or(&0),
        whole.last().unwrap_or(&0)
    );
    for (fault, times) in &run.faults {
        println!("    {times:4} x {fault}");
    }
    for (call, codes) in world.node.wire.counts() {
        println!("    {call}: {codes:?}");
    }
}

/// For who looks into a violation.
fn keep_logs(world: &World, options: &Options) -> Outcome<()> {
    let Some(dir) = &options.logs else { return Ok(()) };
    std::fs::create_dir_all(dir)?;
    for part in &world.node.parts {
        std::fs::copy(part.file("log"), dir.join(format!("{}.log", part.name)))?;
    }
    println!("cluster: the logs of all parts are in {}", dir.display());
    Ok(())
}
