//! What a run came to, for people and as JSON.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::Outcome;
use crate::options::Options;
use crate::random::Run;
use crate::world::World;

/// The parts of a run as they end.
#[derive(Debug)]
pub(crate) struct Report {
    began: SystemTime,
    parts: Vec<Value>,
    violations: Vec<String>,
    /// What was asked for and proved nothing.
    hollow: Vec<String>,
}

impl Report {
    pub(crate) fn new() -> Report {
        Report { began: SystemTime::now(), parts: Vec::new(), violations: Vec::new(), hollow: Vec::new() }
    }

    /// A part that is over.
    pub(crate) fn add(&mut self, part: Value, violations: Vec<String>) {
        self.hollow.extend(hollow(&part));
        self.parts.push(part);
        self.violations.extend(violations);
    }

    /// Random torture of one node.
    pub(crate) fn add_random(&mut self, world: &World, run: &Run, seed: u64, lasted: Duration) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let ground = world.node.ground.name();
        let calls: BTreeMap<String, BTreeMap<String, u64>> = world.node.wire.counts();
        let answers: u64 = calls.values().flat_map(BTreeMap::values).sum();
        let violations = world.violations();
        let toll = world.node.toll();
        println!(
            "random {ground}: {:.0} s, seed {seed}: {} kills, {} power cuts, {} with lost writes ({}), {answers} answers, {} audits, \
             {} slots verified, recovery p50 {:.0} p99 {:.0} max {:.0} ms, {} violations",
            lasted.as_secs_f64(),
            count(&world.counts.kills),
            count(&world.counts.power_cuts),
            count(&world.counts.lost_writes),
            format_args!("{} writes lost, {} kept, {} torn", toll.lost, toll.kept, toll.torn),
            count(&world.counts.audits),
            count(&world.counts.verified),
            percentile(&run.recoveries, 0.5),
            percentile(&run.recoveries, 0.99),
            percentile(&run.recoveries, 1.0),
            violations.len()
        );
        let part = json!({
            "part": "random", "ground": ground, "seed": seed, "seconds": lasted.as_secs_f64(),
            "possible_faults": run.faults, "kills": count(&world.counts.kills), "power_cuts": count(&world.counts.power_cuts),
            "lost_writes": count(&world.counts.lost_writes),
            "writes": { "lost": toll.lost, "kept": toll.kept, "torn": toll.torn },
            "audits": count(&world.counts.audits), "slots_written": count(&world.counts.written),
            "slots_verified": count(&world.counts.verified), "answers": calls,
            "recovery_ms": spread(&run.recoveries), "reboot_ms": spread(&run.reboots), "faults": faults(run),
            "violations": violations.len(),
        });
        self.add(part, violations);
    }

    /// Prints the sum, writes the JSON; whether all is well.
    pub(crate) fn close(self, options: &Options) -> Outcome<bool> {
        let hollow = [self.hollow, idle(&self.parts)].concat();
        let well = self.violations.is_empty() && hollow.is_empty();
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let whole = json!({
            "began": self.began.duration_since(UNIX_EPOCH)?.as_secs(),
            "seconds": self.began.elapsed()?.as_secs(),
            "seed": options.seed, "commit": std::env::var("ROCKPOOL_COMMIT").unwrap_or_default(),
            "kernel": read("/proc/sys/kernel/osrelease"), "cpus": std::thread::available_parallelism()?.get(),
            "options": asked(options), "parts": self.parts, "violations": self.violations, "proved_nothing": hollow,
        });
        if let Some(file) = options.report.as_ref().filter(|_| !self.parts.is_empty()) {
            save(file, &whole)?;
        }
        hollow.iter().for_each(|what| println!("torture: {what}; that proves nothing"));
        println!("torture: {} violations", self.violations.len());
        Ok(well)
    }
}

/// What narrows a run, or widens it.
fn asked(options: &Options) -> Value {
    let grounds: Vec<_> = options.grounds.iter().map(|ground| ground.name()).collect();
    json!({
        "only": options.only, "only_faults": options.only_faults, "grounds": grounds, "whole": options.whole,
        "minutes": options.lasts.as_secs_f64() / 60.0, "workers": options.workers, "nodes": options.nodes,
        "rounds": options.rounds, "power_cuts": options.power_cuts, "lost_writes": options.lost_writes,
        "adversities": options.adversities,
    })
}

/// Why a part on one pool proved nothing, though there was something to do.
fn hollow(part: &Value) -> Option<String> {
    let number = |key: &str| part[key].as_u64().unwrap_or(0);
    let faults = part["faults"].as_object().into_iter().flat_map(|faults| faults.values());
    let met: u64 = faults.filter_map(|met| met["times"].as_u64()).sum();
    let why = match part["part"].as_str()? {
        // Whether another pool was concerned is looked at in the end.
        "random" if number("possible_faults") == 0 => return None,
        "random" if number("kills") + number("power_cuts") + number("lost_writes") + met == 0 => "no fault",
        "random" if number("slots_verified") == 0 => "no byte of a workload was read back",
        "exhaustive" if number("cells") > 0 && number("covered") == 0 => "no cell was covered",
        "syscalls" if number("kinds") > 0 && number("injected") == 0 => "nothing was injected",
        "races" if number("races") == 0 => "no race",
        "mutants" if number("planted") == 0 => "no bug was planted",
        _ => return None,
    };
    let ground = part["ground"].as_str().unwrap_or("all pools");
    Some(format!("{} on {ground}: {why}", part["part"].as_str()?))
}

/// The parts for which no pool had anything to do. A life that only one kind of pool can live is no matter of the others.
fn idle(parts: &[Value]) -> Vec<String> {
    let idle = |(name, key, what): &(&str, &str, &str)| {
        let mut of = parts.iter().filter(|part| part["part"] == *name).peekable();
        of.peek()?;
        of.all(|part| part[*key] == 0).then(|| format!("{name}: {what} on any pool that was asked for"))
    };
    [
        ("random", "possible_faults", "no fault can happen"),
        ("exhaustive", "cells", "no cell"),
        ("syscalls", "kinds", "no kind of call"),
    ]
    .iter()
    .filter_map(idle)
    .collect()
}

/// Where something was violated, keeps what the driver logged, beside the JSON.
pub(crate) fn keep_log(options: &Options, world: &World) -> Outcome<()> {
    let Some(file) = options.report.as_ref().filter(|_| !world.violations().is_empty()) else {
        return Ok(());
    };
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let kept = file.with_extension(format!("{}.log", world.node.ground.name()));
    world.node.program.copy_log(&kept)?;
    println!("the driver's log is in {}", kept.display());
    Ok(())
}

/// The adversities by name.
fn faults(run: &Run) -> Value {
    let told = run.adversities.iter().map(|(name, met)| {
        println!(
            "    {:4} x {name}, {} with a kill, {} to be rebooted, back p50 {:.0} max {:.0} ms",
            met.times,
            met.kills,
            met.reboots,
            percentile(&met.back, 0.5),
            percentile(&met.back, 1.0)
        );
        let told = json!({ "times": met.times, "kills": met.kills, "reboots": met.reboots, "back_ms": spread(&met.back) });
        ((*name).to_owned(), told)
    });
    Value::Object(told.collect())
}

fn save(file: &Path, whole: &Value) -> Outcome<()> {
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(file, format!("{whole:#}\n"))?;
    println!("written to {}", file.display());
    Ok(())
}

fn spread(times: &[Duration]) -> Value {
    json!({
        "count": times.len(), "p50": percentile(times, 0.5), "p99": percentile(times, 0.99),
        "max": percentile(times, 1.0),
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of a number of samples"
)]
fn percentile(times: &[Duration], share: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}
