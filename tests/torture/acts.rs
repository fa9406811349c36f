//! What the workers of a random run do: one act after the other, each as a caller of a driver would, and the end, when all is removed.
//!
//! Owns: which act comes next, by chance, from the state of a volume; and how everything is taken out of doubt. Never: breaks anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::RwLock;
use tokio::task::JoinSet;

use crate::Outcome;
use crate::audit::{MOMENT, slack};
use crate::chance::Chance;
use crate::content::Sync;
use crate::facts::Facts;
use crate::lifecycle::Parent;
use crate::model::{Is, Volume};
use crate::requests::{self, Origin};
use crate::wire::{Answer, PATIENT};
use crate::world::World;

/// What stays in doubt for so long while the driver lives is a promise broken.
const DOUBT: Duration = Duration::from_secs(30);

/// What may be promised, while the pool is empty.
pub(crate) async fn open_budget(world: &World) {
    let available = world.available().await.unwrap_or(0);
    world.budget.store(u64::try_from(available).unwrap_or(0), Ordering::Relaxed);
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
    // What others take is drawn up at the opening, and the last one may have come while the filesystem was freeing; on a slow disk this
    // one as well.
    world.node.start().await?;
    if let Some(lacking) = lacking(world).await {
        println!("{lacking}; once more");
        world.node.terminate()?;
        tokio::time::sleep(MOMENT).await;
        world.node.start().await?;
    }
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
    if let Some(lacking) = lacking(world).await {
        world.violation(lacking);
    }
}

/// How much less than at the start may be promised while nothing is there, for longer than a controller is behind its nodes. One
/// driver alone says what holds now.
async fn lacking(world: &World) -> Option<String> {
    let budget = i64::try_from(world.budget.load(Ordering::Relaxed)).unwrap_or(0);
    let began = Instant::now();
    loop {
        let available = world.available().await? + Facts::of(&world.node).map_or(0, |facts| facts.lent);
        if available >= budget - slack(world) {
            return None;
        }
        if world.node.pools().len() == 1 || began.elapsed() > MOMENT {
            return Some(format!("{available} bytes may be promised in the end, {budget} at the start"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
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

/// So many workers, with chance from this seed, go on until it is over; each act is done within the turnstile.
pub(crate) fn work(
    world: &Arc<World>,
    (workers, seed): (usize, u64),
    (turnstile, over): (&Arc<RwLock<()>>, &Arc<AtomicBool>),
) -> JoinSet<()> {
    let mut working = JoinSet::new();
    for number in (100..).take(workers) {
        let (world, turnstile, over) = (Arc::clone(world), Arc::clone(turnstile), Arc::clone(over));
        let mut chance = Chance::new(seed, number);
        working.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                let turn = turnstile.read().await;
                act(&world, &mut chance).await;
                drop(turn);
                tokio::task::yield_now().await;
            }
        });
    }
    working
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
        let mut request =
            requests::create(&volume.name, (volume.shape, crate::lifecycle::size(volume.shape)), None);
        self.node.arrange(&mut request);
        volume.request = Some(request.clone());
        volume.slots = crate::model::Slots::blank();
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
