//! Every step of every small life, killed and with the power cut: the table of cells.
//!
//! Owns: which cells there are (from a life without a fault, by the driver's own log of its steps). A cell counts only if the
//! driver stopped itself at exactly that step.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::json;
use tokio::task::JoinSet;

use crate::Outcome;
use crate::breaks::{Break, Stage};
use crate::grounds::on_each;
use crate::lives::{LIVES, Life};
use crate::node::{Fault, Ground};
use crate::options::Options;
use crate::progress;
use crate::report::Report;

/// How often a cell is tried: with threads side by side the same life takes a step more or less.
const TRIES: usize = 3;

/// Why a cell is not covered. The first is no fault of anybody's where a run was given less time than it needs.
const NOT_BEGUN: &str = "not begun: the time was over";
const NOT_REACHED: &str = "no driver reached it";
const BROKEN: &str = "something was violated first";

/// Of transfers from node to node, for which one driver is not enough: tests/process/transfer.rs kills at each of their steps,
/// in a build with named steps.
const OF_TWO_NODES: [&str; 3] = ["receive: ", "lend: ", "give: "];

/// One cell of the table.
struct Cell {
    life: &'static Life,
    step: String,
    fault: Fault,
}

/// What the nodes of one ground share.
struct Table {
    cells: Vec<Cell>,
    /// Whether a cell that is not begun is a failure, too.
    whole: bool,
    /// When no more cells are begun.
    ends: Instant,
    next: AtomicUsize,
    covered: Mutex<BTreeSet<usize>>,
    /// Why a cell that was begun is not covered.
    missed: Mutex<BTreeMap<usize, &'static str>>,
    violations: Mutex<Vec<String>>,
    kills: AtomicUsize,
    power_cuts: AtomicUsize,
}

/// All grounds, side by side.
pub(crate) async fn part(options: &Options, report: &mut Report) -> Outcome<()> {
    let part = |base: PathBuf, ground, options| async move { ground_part(&base, ground, &options).await };
    let mut reached = BTreeSet::new();
    on_each(options, part, |ground, (table, seconds)| {
        reached.extend(table.steps());
        tell(&table, ground, seconds, report);
    })
    .await?;
    if options.only.is_empty() && options.grounds.len() == Ground::ALL.len() {
        all_reached(&reached, report)?;
    }
    Ok(())
}

/// Every step that the sources name is part of some life: the table of cells says nothing of one that is not.
fn all_reached(reached: &BTreeSet<String>, report: &mut Report) -> Outcome<()> {
    let mut named = BTreeSet::new();
    named_steps(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut named)?;
    let missing: Vec<String> =
        named.difference(reached).map(|step| format!("no life reaches the step `{step}`")).collect();
    println!("steps: {} of {} are reached by some life", named.len() - missing.len(), named.len());
    missing.iter().for_each(|missing| println!("  {missing}"));
    let part = json!({
        "part": "steps", "named": named.len(), "reached": named.len() - missing.len(), "violations": missing.len(),
    });
    report.add(part, missing);
    Ok(())
}

fn named_steps(dir: &Path, found: &mut BTreeSet<String>) -> Outcome<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            named_steps(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path)?;
            let names = text.split("step!(\"").skip(1).filter_map(|rest| rest.split('"').next());
            let here = names.filter(|name| !OF_TWO_NODES.iter().any(|verb| name.starts_with(verb)));
            found.extend(here.map(str::to_owned));
        }
    }
    Ok(())
}

impl Table {
    /// The names of the steps in it.
    fn steps(&self) -> BTreeSet<String> {
        self.cells.iter().filter_map(|cell| cell.step.split('#').next()).map(str::to_owned).collect()
    }
}

async fn ground_part(base: &Path, ground: Ground, options: &Options) -> Outcome<(Arc<Table>, f64)> {
    let began = Instant::now();
    let binary = options.armed.clone();
    let mut stage = Stage::new(&base.join("trace"), (ground, &binary), Vec::new()).await?;
    let mut cells = Vec::new();
    let mut violations = Vec::new();
    for life in LIVES.iter().filter(|life| life.fits(ground) && life.name.contains(&options.only)) {
        let steps = stage.steps(life).await?;
        violations.extend(stage.world.pardon());
        for fault in [Fault::Kill, Fault::PowerCut] {
            cells.extend(steps.iter().map(|step| Cell { life, step: step.clone(), fault }));
        }
    }
    drop(stage);
    progress::expect("cells", cells.len());
    let table = Arc::new(Table {
        cells,
        whole: options.whole,
        ends: began + options.lasts,
        next: AtomicUsize::new(0),
        covered: Mutex::default(),
        missed: Mutex::default(),
        violations: Mutex::new(violations),
        kills: AtomicUsize::new(0),
        power_cuts: AtomicUsize::new(0),
    });
    let mut all = JoinSet::new();
    for number in 0..options.nodes {
        let (table, base, binary) = (Arc::clone(&table), base.join(number.to_string()), binary.clone());
        all.spawn(async move { fill(&table, base, ground, binary).await });
    }
    while let Some(ended) = all.join_next().await {
        ended??;
    }
    Ok((table, began.elapsed().as_secs_f64()))
}

/// Takes cells until there are none.
async fn fill(table: &Table, base: PathBuf, ground: Ground, binary: PathBuf) -> Outcome<()> {
    let mut fresh = 0;
    let mut stage = Stage::new(&base.join("0"), (ground, &binary), Vec::new()).await?;
    loop {
        if Instant::now() > table.ends {
            break;
        }
        let number = table.next.fetch_add(1, Ordering::Relaxed);
        let Some(cell) = table.cells.get(number) else { break };
        progress::one("cells");
        let broken = Break::Step(cell.step.clone(), cell.fault);
        let (mut tries, mut missed) = (0, Some(NOT_REACHED));
        while missed.is_some() && tries < TRIES && stage.world.violations().is_empty() {
            tries += 1;
            match stage.live(cell.life, &broken).await {
                Ok(true) => missed = None,
                Ok(false) => {}
                Err(error) => {
                    stage.world.violation(format!("the life could not go on: {error}"));
                }
            }
        }
        let violations = stage.world.pardon();
        if let Some(why) = missed {
            let why = if violations.is_empty() { why } else { BROKEN };
            table.missed.lock().unwrap_or_else(PoisonError::into_inner).insert(number, why);
        } else {
            table.covered.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
        }
        if !violations.is_empty() {
            let cell = format!("{} / {} / {}", cell.life.name, cell.step, cell.fault.name());
            let said = violations.into_iter().map(|what| format!("{cell}: {what}"));
            table.violations.lock().unwrap_or_else(PoisonError::into_inner).extend(said);
            fresh += 1;
            count(table, &stage);
            drop(stage);
            stage = Stage::new(&base.join(fresh.to_string()), (ground, &binary), Vec::new()).await?;
        }
    }
    count(table, &stage);
    Ok(())
}

fn count(table: &Table, stage: &Stage) {
    let number = |counter: &std::sync::atomic::AtomicU64| {
        usize::try_from(counter.load(Ordering::Relaxed)).unwrap_or(0)
    };
    table.kills.fetch_add(number(&stage.world.counts.kills), Ordering::Relaxed);
    table.power_cuts.fetch_add(number(&stage.world.counts.power_cuts), Ordering::Relaxed);
}

/// The table, a line for each life: covered of all, by fault.
fn tell(table: &Table, ground: Ground, seconds: f64, report: &mut Report) {
    let covered = table.covered.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let missed = table.missed.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut lines: BTreeMap<&str, [(usize, usize); 2]> = BTreeMap::new();
    let mut missing = Vec::new();
    let mut violations = table.violations.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for (number, cell) in table.cells.iter().enumerate() {
        let at = usize::from(cell.fault == Fault::PowerCut);
        let line = &mut lines.entry(cell.life.name).or_default()[at];
        line.1 += 1;
        if covered.contains(&number) {
            line.0 += 1;
        } else {
            let why = missed.get(&number).copied().unwrap_or(NOT_BEGUN);
            let said = format!("{} / {} / {}: {why}", cell.life.name, cell.step, cell.fault.name());
            if is_failure(why, table.whole) {
                violations.push(format!("not covered: {said}"));
            }
            missing.push(said);
        }
    }
    println!("exhaustive {}: covered cells (life: kill, power cut)", ground.name());
    for (life, [kill, cut]) in &lines {
        println!("  {life:<44} {:>4}/{:<4} {:>4}/{:<4}", kill.0, kill.1, cut.0, cut.1);
    }
    println!(
        "exhaustive {}: {} of {} cells covered in {seconds:.0} s, {} violations",
        ground.name(),
        covered.len(),
        table.cells.len(),
        violations.len()
    );
    missing.iter().for_each(|cell| println!("  not covered: {cell}"));
    let part = json!({
        "part": "exhaustive", "ground": ground.name(), "seconds": seconds, "cells": table.cells.len(),
        "covered": covered.len(), "missing": missing, "lives": lines.len(), "steps": table.steps().len(),
        "kills": table.kills.load(Ordering::Relaxed), "power_cuts": table.power_cuts.load(Ordering::Relaxed),
        "violations": violations.len(),
    });
    report.add(part, violations);
}

/// Whether a cell that is not covered is a failure by itself.
fn is_failure(why: &str, whole: bool) -> bool {
    match why {
        // Told already.
        BROKEN => false,
        NOT_BEGUN => whole,
        _ => true,
    }
}
