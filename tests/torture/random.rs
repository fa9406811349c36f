//! Random torture: workers live whole lives, the supervisor kills the driver or cuts its power, the auditor looks.
//!
//! Owns: who works when. Workers hold the turnstile for one act; after a fault the supervisor takes it alone, starts the driver,
//! and audits before anybody goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::RwLock;

use crate::Outcome;
use crate::acts::{finish, open_budget, verify_some, work};
use crate::adversity::{self, Met};
use crate::chance::Chance;
use crate::disk::Loss;
use crate::node::Fault;
use crate::progress;
use crate::world::World;

/// How a run goes.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) workers: usize,
    pub(crate) lasts: Duration,
    /// So many faults of a hundred are power cuts.
    pub(crate) power_cuts: usize,
    /// In so many of a hundred power cuts the disk loses what was not flushed.
    pub(crate) lost_writes: usize,
    /// So many of the others are adversities.
    pub(crate) adversities: usize,
    /// Only these, by name, and no other fault.
    pub(crate) only: String,
    pub(crate) least: Duration,
    pub(crate) most: Duration,
}

/// What it came to.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) recoveries: Vec<Duration>,
    pub(crate) reboots: Vec<Duration>,
    pub(crate) adversities: BTreeMap<&'static str, Met>,
    /// How many kinds of faults of those that were asked for can happen here.
    pub(crate) faults: usize,
}

/// Runs until the time is over or something was violated.
pub(crate) async fn run(world: &Arc<World>, plan: Plan) -> Outcome<Run> {
    let mut run = Run::default();
    world.node.start().await?;
    open_budget(world).await;
    let turnstile = Arc::new(RwLock::new(()));
    let over = Arc::new(AtomicBool::new(false));
    let mut workers = work(world, (plan.workers, plan.seed), (&turnstile, &over));
    let supervised = supervise(world, &plan, &turnstile, &mut run).await;
    over.store(true, Ordering::Relaxed);
    while workers.join_next().await.is_some() {}
    supervised?;
    finish(world, &mut Chance::new(plan.seed, 2)).await?;
    Ok(run)
}

async fn supervise(world: &Arc<World>, plan: &Plan, turnstile: &RwLock<()>, run: &mut Run) -> Outcome<()> {
    let mut chance = Chance::new(plan.seed, 1);
    let adversities = adversity::table(plan.lasts);
    let adversities = adversity::possible(&adversities, world, &plan.only);
    let only_adversities = !plan.only.is_empty();
    run.faults = adversities.len() + usize::from(!only_adversities);
    let began = Instant::now();
    while began.elapsed() < plan.lasts && world.violations().is_empty() {
        tokio::time::sleep(chance.time(plan.least, plan.most)).await;
        if let Some(end) = world.node.program.ended()? {
            world.violation(format!("the driver ended by itself: {end:?}: {}", world.node.program.log_end()));
            return Ok(());
        }
        if only_adversities || chance.percent(plan.adversities) {
            if let Some(adversity) = adversities.get(chance.below(adversities.len())) {
                adversity::meet(world, adversity, (turnstile, &mut chance, run)).await?;
                continue;
            }
            // Nothing of what was asked for can happen here, and nothing else was asked for.
            if only_adversities {
                continue;
            }
        }
        let fault = match chance.percent(plan.power_cuts) {
            true => power_cut(world, plan, &mut chance),
            false => Fault::Kill,
        };
        world.node.strike(fault)?;
        let _alone = turnstile.write().await;
        let struck = Instant::now();
        after(world, fault).await?;
        let took = world.node.start().await?;
        match fault {
            Fault::Kill => run.recoveries.push(took),
            Fault::PowerCut | Fault::LostWrites(_) => run.reboots.push(struck.elapsed()),
        }
        world.audit(&mut chance).await?;
        verify_some(world, &mut chance).await;
        world.node.program.trim_log();
    }
    Ok(())
}

fn power_cut(world: &World, plan: &Plan, chance: &mut Chance) -> Fault {
    if !chance.percent(plan.lost_writes) {
        return Fault::PowerCut;
    }
    world.node.darkness(chance.pick(&[(1, Loss::All), (2, Loss::Half), (1, Loss::AllButLast)]))
}

/// What a fault means for the model and the host.
pub(crate) async fn after(world: &World, fault: Fault) -> Outcome<()> {
    let (what, count) = match fault {
        Fault::Kill => ("kills", &world.counts.kills),
        Fault::PowerCut => ("power cuts", &world.counts.power_cuts),
        Fault::LostWrites(_) => ("power cuts with lost writes", &world.counts.lost_writes),
    };
    progress::one(what);
    count.fetch_add(1, Ordering::Relaxed);
    if fault != Fault::Kill {
        world.node.reboot().await?;
        for mut volume in world.all_volumes().await {
            volume.power_cut();
        }
    }
    Ok(())
}
