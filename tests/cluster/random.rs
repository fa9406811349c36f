//! Random faults: workers live whole lives through the controllers, one fault after the other befalls the cluster, and when it is
//! healed and whole again the auditor looks.
//!
//! Owns: who works when, and what becomes of names that are there twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rockpool::model::{Named, name_hash};
use tokio::sync::RwLock;

use crate::Outcome;
use crate::acts::{finish, verify_some, work};
use crate::chance::Chance;
use crate::facts::Facts;
use crate::faults::Fault;
use crate::progress;
use crate::requests;
use crate::wire::{Answer, PATIENT};
use crate::world::World;

/// So many faults come one after the other before everybody waits until the cluster is whole.
const MANY: usize = 5;
/// Both nodes have told of their names within this time.
const TOLD: Duration = Duration::from_secs(10);

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) workers: usize,
    pub(crate) lasts: Duration,
    /// No fault lasts longer.
    pub(crate) longest: Duration,
    /// So many of a hundred calls go through both controllers at once.
    pub(crate) twofold: usize,
}

/// What it came to.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) faults: BTreeMap<&'static str, u64>,
    /// How long the cluster took to be whole again after each.
    pub(crate) whole: Vec<Duration>,
    /// Names that were there twice, each reported.
    pub(crate) twice: u64,
}

/// Runs on a cluster that has been started, until the time is over or something was violated.
pub(crate) async fn run(world: &Arc<World>, plan: Plan) -> Outcome<Run> {
    let mut run = Run::default();
    world.node.wire.exchange.double(plan.twofold, plan.seed);
    let (turnstile, over) = (Arc::new(RwLock::new(())), Arc::new(AtomicBool::new(false)));
    let mut workers = work(world, (plan.workers, plan.seed), (&turnstile, &over));
    let supervised = supervise(world, plan, &turnstile, &mut run).await;
    over.store(true, Ordering::Relaxed);
    while workers.join_next().await.is_some() {}
    supervised?;
    world.node.wire.exchange.double(0, plan.seed);
    finish(world, &mut Chance::new(plan.seed, 2)).await?;
    Ok(run)
}

async fn supervise(world: &Arc<World>, plan: Plan, turnstile: &RwLock<()>, run: &mut Run) -> Outcome<()> {
    let mut chance = Chance::new(plan.seed, 1);
    let began = Instant::now();
    while began.elapsed() < plan.lasts && world.violations().is_empty() {
        tokio::time::sleep(chance.time(Duration::from_millis(20), Duration::from_millis(1500))).await;
        if let Some(end) = world.node.ended()? {
            world.violation(end);
            return Ok(());
        }
        let mut spell = Vec::new();
        for _ in 0..=chance.below(MANY) {
            spell.push(befall(world, (&mut chance, plan.longest), run).await?);
        }
        let _alone = turnstile.write().await;
        let healed = Instant::now();
        if let Err(error) = world.node.converged().await {
            world.violation(format!("after {spell:?}: {error}"));
            return Ok(());
        }
        run.whole.push(healed.elapsed());
        world.node.wire.exchange.wrong().into_iter().for_each(|what| world.violation(what));
        run.twice += orphans(world).await?;
        world.audit(&mut chance).await?;
        verify_some(world, &mut chance).await;
    }
    Ok(())
}

/// One fault, which is healed in the end; and in the middle of some that leave all parts alive, one of them is killed.
async fn befall(world: &World, (chance, longest): (&mut Chance, Duration), run: &mut Run) -> Outcome<Fault> {
    let fault = Fault::any(chance);
    let lasts = fault.lasts(chance, longest);
    let beside = fault.leaves_alive().filter(|_| chance.percent(30)).map(|part| Fault::Kill(vec![part]));
    eprintln!("cluster: {fault:?} for {} ms, beside it {beside:?}", lasts.as_millis());
    let dies = async {
        let Some(dies) = &beside else { return Ok(()) };
        tokio::time::sleep(lasts / 3).await;
        dies.begin(&world.node)?;
        tokio::time::sleep(lasts / 3).await;
        dies.end(&world.node).await
    };
    let (befell, died) = tokio::join!(fault.befall(&world.node, lasts, chance), dies);
    befell.and(died)?;
    for fault in [Some(&fault), beside.as_ref()].into_iter().flatten() {
        *run.faults.entry(fault.name()).or_default() += 1;
        progress::one("faults");
    }
    Ok(fault)
}

/// Removes the volumes that are there beside another of their name, where several nodes may have it; how many there were. That there
/// are must have been reported.
pub(crate) async fn orphans(world: &World) -> Outcome<u64> {
    let mut count = 0;
    let facts = Facts::of(&world.node)?;
    for volume in world.all_volumes().await.iter().filter(|volume| world.node.may_be_twice(&volume.name)) {
        let all = facts.records.iter().chain(&facts.receiving);
        let of_it = all.filter(|(_, record)| record.kind == "volume" && record.name == volume.name);
        let ids: Vec<&String> = of_it.map(|(id, _)| id).collect();
        // Which of several is the one is not known where the answer is open.
        let kept = if volume.in_doubt() { ids.first().copied() } else { None };
        for id in ids.iter().filter(|id| volume.id.as_ref() != Some(**id) && kept != Some(**id)) {
            count += 1;
            let hash = format!("{:016x}", name_hash(Named::Volume, &volume.name));
            if !reported(world, &hash).await {
                world.violation(format!("{id} is an orphan, and nobody reported it: {}", volume.story()));
            }
            let answer = world.node.wire.delete(requests::delete(id), PATIENT).await;
            if !matches!(answer, Answer::Done(_)) {
                world.violation(format!("the orphan {id} cannot be removed: {answer:?}"));
            }
        }
    }
    world.node.parts.iter().for_each(crate::part::Part::turn_the_page);
    Ok(count)
}

/// Whether a controller says within a while that a name with this hash is there twice.
pub(crate) async fn reported(world: &World, hash: &str) -> bool {
    let began = Instant::now();
    while began.elapsed() < TOLD {
        if world.node.is_reported(&["name-twice", hash]) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}
