//! Random torture: workers live whole lives, the supervisor kills the driver or cuts its power, the auditor looks.
//!
//! Owns: who works when. Workers hold the turnstile for one act; after a fault the supervisor takes it alone, starts the driver,
//! and audits before anybody goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::RwLock;
use tokio::task::JoinSet;

use crate::Outcome;
use crate::adversity::{self, Met};
use crate::audit::SLACK;
use crate::chance::Chance;
use crate::content::Sync;
use crate::disk::Loss;
use crate::lifecycle::Parent;
use crate::model::{Is, Volume};
use crate::node::Fault;
use crate::progress;
use crate::requests::{self, Origin};
use crate::wire::{Answer, PATIENT};
use crate::world::World;

/// What stays in doubt for so long while the driver lives is a promise broken.
const DOUBT: Duration = Duration::from_secs(30);

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
    let mut workers = JoinSet::new();
    for number in 0..plan.workers {
        let (world, turnstile, over) = (Arc::clone(world), Arc::clone(&turnstile), Arc::clone(&over));
        let mut chance = Chance::new(plan.seed, 100 + u64::try_from(number)?);
        workers.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                let turn = turnstile.read().await;
                act(&world, &mut chance).await;
                drop(turn);
                tokio::task::yield_now().await;
            }
        });
    }
    let supervised = supervise(world, &plan, &turnstile, &mut run).await;
    over.store(true, Ordering::Relaxed);
    while workers.join_next().await.is_some() {}
    supervised?;
    finish(world, &mut Chance::new(plan.seed, 2)).await?;
    Ok(run)
}

/// What may be promised, while the pool is empty.
pub(crate) async fn open_budget(world: &World) {
    let available = world.available().await.unwrap_or(0);
    world.budget.store(u64::try_from(available).unwrap_or(0), Ordering::Relaxed);
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

pub(crate) async fn verify_some(world: &World, chance: &mut Chance) {
    for mut volume in world.all_volumes().await {
        if volume.published == Is::Yes && chance.percent(50) {
            world.verify(&mut volume).await;
        }
    }
}

/// Takes everything out of doubt, verifies it, removes it, and looks whether anything stayed.
pub(crate) async fn finish(world: &World, chance: &mut Chance) -> Outcome<()> {
    calm(world).await;
    world.audit(chance).await?;
    for mut volume in world.all_volumes().await {
        if volume.exists == Is::Yes && volume.staged == Is::No {
            world.stage(&mut volume, PATIENT).await;
        }
        if volume.staged == Is::Yes && volume.published == Is::No {
            world.publish(&mut volume, PATIENT).await;
        }
        if volume.published == Is::Yes {
            world.verify(&mut volume).await;
            world.unpublish(&mut volume, PATIENT).await;
        }
        if volume.staged == Is::Yes && volume.published == Is::No {
            world.unstage(&mut volume, PATIENT).await;
        }
        if volume.exists == Is::Yes && volume.staged == Is::No {
            world.remove(&mut volume, PATIENT).await;
        }
    }
    for mut snapshot in world.all_snapshots().await {
        if snapshot.exists == Is::Yes {
            world.forget(&mut snapshot, PATIENT).await;
        }
    }
    calm(world).await;
    world.audit(chance).await?;
    world.node.terminate()?;
    // What others take is drawn up at the opening, and the last one may have come while the filesystem was freeing.
    world.node.start().await?;
    empty(world).await;
    world.node.terminate()
}

/// Nothing is left, and all may be promised again.
pub(crate) async fn empty(world: &World) {
    for kind in ["volume", "snapshot"] {
        if let Some(left) = world.listed(kind, 0).await.filter(|left| !left.is_empty()) {
            world.violation(format!("{} {kind}s are left in the end: {left:?}", left.len()));
        }
    }
    let budget = i64::try_from(world.budget.load(Ordering::Relaxed)).unwrap_or(0);
    let Some(available) = world.available().await else { return };
    if available < budget - SLACK {
        world.violation(format!("{available} bytes may be promised in the end, {budget} at the start"));
    }
}

/// Asks again until nothing is in doubt.
pub(crate) async fn calm(world: &World) {
    let began = Instant::now();
    loop {
        let mut doubts = Vec::new();
        for mut volume in world.all_volumes().await {
            if volume.in_doubt() {
                world.settle(&mut volume, false).await;
            }
            if volume.in_doubt() {
                doubts.push(volume.story());
            }
        }
        for mut snapshot in world.all_snapshots().await {
            if snapshot.exists == Is::Maybe {
                world.settle_snapshot(&mut snapshot).await;
            }
            if snapshot.exists == Is::Maybe {
                doubts.push(format!("{snapshot:?}"));
            }
        }
        if doubts.is_empty() {
            return;
        }
        if began.elapsed() > DOUBT {
            world.violation(format!("in doubt after {DOUBT:?}: {}", doubts.join("; ")));
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// One act of one worker.
async fn act(world: &World, chance: &mut Chance) {
    match chance.pick(&[(92, 0), (3, 1), (5, 2)]) {
        0 => volume_act(world, chance).await,
        1 => {
            let size = i32::try_from(1 + chance.below(20)).unwrap_or(1);
            if let Answer::Refused(code, message) = world.list("volume", size).await {
                world.refused("ListVolumes", code, &message);
            }
        }
        _ => snapshot_act(world, chance).await,
    }
}

fn patience(chance: &mut Chance) -> Duration {
    match chance.below(10) {
        0 | 1 => chance.time(Duration::from_millis(1), Duration::from_millis(200)),
        _ => PATIENT,
    }
}

async fn snapshot_act(world: &World, chance: &mut Chance) {
    let Some(snapshot) = world.snapshots.get(chance.below(world.snapshots.len())) else { return };
    let Ok(mut snapshot) = snapshot.try_lock() else { return };
    match snapshot.exists {
        Is::Maybe => world.settle_snapshot(&mut snapshot).await,
        Is::Yes => world.forget(&mut snapshot, patience(chance)).await,
        Is::No => {}
    }
}

async fn volume_act(world: &World, chance: &mut Chance) {
    let number = chance.below(world.volumes.len());
    let Ok(mut volume) = world.volumes[number].try_lock() else {
        tokio::time::sleep(Duration::from_micros(200)).await;
        return;
    };
    let patience = patience(chance);
    if volume.in_doubt() {
        return world.settle(&mut volume, chance.percent(50)).await;
    }
    match (volume.exists, volume.staged, volume.published) {
        (Is::No, _, _) => match chance.pick(&[(70, 0), (25, 1), (5, 2)]) {
            0 => world.make(&mut volume, None, patience).await,
            1 => copy(world, number, &mut volume, chance).await,
            _ => world.storm(&mut volume).await,
        },
        (_, Is::Yes, Is::Yes) => used_act(world, (number, &mut *volume), chance, patience).await,
        (_, Is::Yes, _) => match chance.pick(&[(60, 0), (20, 1), (5, 2), (5, 3), (5, 4), (5, 5)]) {
            0 => world.publish(&mut volume, patience).await,
            1 => world.unstage(&mut volume, patience).await,
            2 => world.remove_used(&mut volume).await,
            3 => world.stage(&mut volume, patience).await,
            4 => snapshot(world, number, &mut volume, chance).await,
            _ => world.grow(&mut volume, patience).await,
        },
        (_, _, _) => match chance.pick(&[(50, 0), (25, 1), (6, 2), (8, 3), (4, 4), (4, 5), (3, 6)]) {
            0 => world.stage(&mut volume, patience).await,
            1 => world.remove(&mut volume, patience).await,
            2 => world.grow(&mut volume, patience).await,
            3 => snapshot(world, number, &mut volume, chance).await,
            4 => world.remove_past(&mut volume).await,
            5 => world.make(&mut volume, None, patience).await,
            _ => world.make_other(&mut volume).await,
        },
    }
}

async fn used_act(
    world: &World,
    (number, volume): (usize, &mut Volume),
    chance: &mut Chance,
    patience: Duration,
) {
    let slot = chance.below(volume.slots.0.len());
    let sync = if chance.percent(70) { Sync::Yes } else { Sync::No };
    match chance.pick(&[(35, 0), (20, 1), (20, 2), (4, 3), (4, 4), (8, 5), (4, 6), (3, 7), (2, 8)]) {
        0 => world.write(volume, slot, sync).await,
        1 => world.verify(volume).await,
        2 => world.unpublish(volume, patience).await,
        3 => world.unstage_used(volume).await,
        4 => world.remove_used(volume).await,
        5 => snapshot(world, number, volume, chance).await,
        6 => world.grow(volume, patience).await,
        7 => world.publish(volume, patience).await,
        _ => world.unpublish_busy(volume).await,
    }
}

async fn snapshot(world: &World, number: usize, volume: &mut Volume, chance: &mut Chance) {
    let Some(snapshot) = world.snapshots.get(chance.below(world.snapshots.len())) else { return };
    let Ok(mut snapshot) = snapshot.try_lock() else { return };
    if snapshot.exists == Is::No {
        let patience = patience(chance);
        world.cut(&mut snapshot, (number, volume), patience).await;
    }
}

/// From a snapshot or another volume of the same shape, which stays as it is meanwhile.
async fn copy(world: &World, number: usize, volume: &mut Volume, chance: &mut Chance) {
    let patience = patience(chance);
    if chance.percent(60) {
        let Some(snapshot) = world.snapshots.get(chance.below(world.snapshots.len())) else { return };
        let Ok(snapshot) = snapshot.try_lock() else { return };
        let (Is::Yes, Some(of), Some(id)) = (snapshot.exists, &snapshot.of, &snapshot.id) else { return };
        if of.shape == volume.shape {
            let from = Parent {
                origin: Origin::Snapshot(id.clone()),
                size: of.size,
                slots: snapshot.slots.copied(),
            };
            world.make(volume, Some(from), patience).await;
        }
        return;
    }
    let other = chance.below(world.volumes.len());
    if other == number {
        return;
    }
    let Ok(source) = world.volumes[other].try_lock() else { return };
    if let (Is::Yes, Some(id)) = (source.exists, &source.id)
        && source.shape == volume.shape
    {
        let from =
            Parent { origin: Origin::Volume(id.clone()), size: source.size.1, slots: source.slots.copied() };
        world.make(volume, Some(from), patience).await;
    }
}

impl World {
    /// The same call several times at once, byte by byte the same and not: one volume comes of it.
    pub(crate) async fn storm(&self, volume: &mut Volume) {
        volume.request =
            Some(requests::create(&volume.name, (volume.shape, crate::lifecycle::size(volume.shape)), None));
        volume.slots = crate::model::Slots::blank();
        let Some(request) = volume.request.clone() else { return };
        let call = |number: usize| {
            let mut request = request.clone();
            if number % 2 == 1 {
                request.secrets.insert("caller".to_owned(), number.to_string());
            }
            self.node.wire.create(request, PATIENT)
        };
        let (a, b, c, d) = tokio::join!(call(0), call(1), call(2), call(3));
        // An open answer says nothing where another one says that it is there.
        let (mut sure, open): (Vec<_>, Vec<_>) =
            [a, b, c, d].into_iter().partition(|answer| !matches!(answer, Answer::Open(..)));
        sure.extend(open);
        for answer in sure {
            self.made(volume, answer);
        }
    }
}
