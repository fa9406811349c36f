//! Adversities: what happens to a node besides a kill, and must not cost anything but time.
//!
//! Owns: the table of them, and how one goes: it comes while calls run, it lasts, in some cases the driver is killed in the
//! middle, it is taken back, the pool comes back by itself, and then nothing is lost. What may be answered meanwhile is written
//! from the contract, not from what the driver does. Never: knows how each is made; that is `straits`, `room`, `places`, `sick` and
//! `damage`.

use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::sync::RwLock;

use crate::Outcome;
use crate::acts::{calm, verify_some};
use crate::chance::Chance;
use crate::meanwhile::{Allowance, Io};
use crate::model::{Is, Slot};
use crate::node::Fault;
use crate::program::Start;
use crate::random::{Run, after};
use crate::requests::{self, Shape};
use crate::wire::{Answer, PATIENT};
use crate::world::World;

/// In so many cases of a hundred the driver is killed in the middle.
const KILLED: usize = 40;
/// A pool that is usable again is used again after so long; it is looked for every five seconds.
const BACK: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// When it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comes {
    /// While calls run.
    Midway,
    /// While calls run, but what workloads have written is on the disk.
    Synced,
    /// While the driver is down.
    Down,
    /// With a reboot.
    Reboot,
}

/// When it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goes {
    /// While calls run.
    Midway,
    /// While the driver is down.
    Down,
}

/// One kind of trouble.
pub(crate) struct Adversity {
    pub(crate) name: &'static str,
    /// Why a node is spared.
    pub(crate) spared: fn(&World) -> Option<&'static str>,
    pub(crate) comes: Comes,
    pub(crate) goes: Goes,
    /// How long, in milliseconds.
    pub(crate) lasts: (u64, u64),
    pub(crate) allowance: Allowance,
    /// Does it. Where the host does not let it happen while somebody uses the pool, nothing, and it is tried again at rest.
    pub(crate) impose: Impose,
}

type Impose = for<'a> fn(&'a World, &mut Chance) -> Outcome<Option<Box<dyn Trouble + 'a>>>;

/// What an adversity looks at.
pub(crate) type Looking<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// An adversity that is there, until it is taken back or dropped.
pub(crate) trait Trouble: Send {
    /// Whether the driver may be killed meanwhile, and what a start must cope with then.
    fn may_kill(&self) -> bool {
        true
    }

    /// The driver was just killed.
    fn killed(&mut self) -> Outcome<()> {
        Ok(())
    }

    /// Whether it found nothing to trouble, so that nothing happened.
    fn is_nothing(&self) -> bool {
        false
    }

    /// What must hold while it lasts, besides all answers.
    fn look(&mut self) -> Looking<'_> {
        Box::pin(async {})
    }

    /// Whether, once it was taken back, only a reboot brings the pool back: what an operator must do, and is told to.
    fn needs_reboot(&self, _: &World) -> bool {
        false
    }

    /// Whether the driver answers nothing meanwhile, so that a patient caller may give up where it lasts.
    fn silences(&self) -> bool {
        false
    }

    /// Takes it back, and looks whether what it concerned was left alone.
    fn end(&mut self, world: &World) -> Outcome<()>;
}

/// How often one was met, and how long it took until the pool was usable after it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Met {
    pub(crate) times: u64,
    pub(crate) kills: u64,
    /// How often the pool came back by a reboot alone.
    pub(crate) reboots: u64,
    pub(crate) back: Vec<Duration>,
}

/// All of them, for a run that lasts so long.
pub(crate) fn table(run: Duration) -> Vec<Adversity> {
    [
        crate::straits::table(run),
        crate::room::table(),
        crate::places::table(),
        crate::damage::table(),
        crate::sick::table(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Refuses a name that no adversity has: nothing of what was asked for would come.
pub(crate) fn check(only: &str, run: Duration) -> Outcome<()> {
    let all = table(run);
    let unknown = only.split(',').find(|name| !name.is_empty() && !all.iter().any(|one| one.name == *name));
    let names = || all.iter().map(|one| one.name).collect::<Vec<_>>().join(", ");
    unknown
        .map_or(Ok(()), |name| Err(format!("no adversity is called {name}: want some of {}", names()).into()))
}

/// Those that a node is not spared and whose names are wanted.
pub(crate) fn possible<'a>(all: &'a [Adversity], world: &World, only: &str) -> Vec<&'a Adversity> {
    let wanted = |name: &str| only.is_empty() || only.split(',').any(|one| one == name);
    all.iter().filter(|one| wanted(one.name) && (one.spared)(world).is_none()).collect()
}

/// One adversity from its beginning to its end.
pub(crate) async fn meet(
    world: &World,
    adversity: &Adversity,
    (turnstile, chance, run): (&RwLock<()>, &mut Chance, &mut Run),
) -> Outcome<()> {
    let node = &world.node;
    let meanwhile = &node.wire.meanwhile;
    let (least, most) = adversity.lasts;
    let lasts = chance.time(Duration::from_millis(least), Duration::from_millis(most));
    let mut trouble = come(world, adversity, (turnstile, chance)).await?;
    if trouble.is_nothing() {
        meanwhile.end();
        return Ok(());
    }
    let met = run.adversities.entry(adversity.name).or_default();
    met.times += 1;
    let kill = trouble.may_kill() && chance.percent(KILLED);
    tokio::time::sleep(lasts / 2).await;
    if kill {
        met.kills += 1;
        meanwhile.wane();
        node.strike(Fault::Kill)?;
        let _alone = turnstile.write().await;
        trouble.killed()?;
        after(world, Fault::Kill).await?;
        serve(world).await?;
        meanwhile.whole();
    }
    tokio::time::sleep(lasts / 2).await;
    if let Some(end) = node.program.ended()?.filter(|end| *end != Start::Stopped) {
        world.violation(format!(
            "{}: the driver ended by itself: {end:?}: {}",
            adversity.name,
            node.program.log_end()
        ));
        return Ok(());
    }
    trouble.look().await;
    meanwhile.wane();
    if adversity.goes == Goes::Down {
        node.strike(Fault::Kill)?;
        let _alone = turnstile.write().await;
        after(world, Fault::Kill).await?;
        trouble.end(world)?;
        serve(world).await?;
    } else {
        trouble.end(world)?;
    }
    let ended = Instant::now();
    let _alone = turnstile.write().await;
    if trouble.needs_reboot(world) {
        met.reboots += 1;
        reboot(world).await?;
        serve(world).await?;
    }
    let silent = trouble.silences() && lasts > PATIENT / 2;
    drop(trouble);
    back(world, adversity).await;
    met.back.push(ended.elapsed());
    if adversity.allowance.io == Io::MayFail {
        // What their disks failed to write is told at the next sync, be it that of a cut.
        calm(world).await;
        use_anew(world).await;
    }
    meanwhile.end();
    for what in meanwhile.wrong() {
        world.violation(format!("{}: {what}", adversity.name));
    }
    if silent {
        drop(node.wire.hung());
    }
    calm(world).await;
    grow_on(world).await;
    world.audit(chance).await?;
    verify_some(world, chance).await;
    node.program.trim_log();
    Ok(())
}

/// Makes it come.
async fn come<'a>(
    world: &'a World,
    adversity: &Adversity,
    (turnstile, chance): (&RwLock<()>, &mut Chance),
) -> Outcome<Box<dyn Trouble + 'a>> {
    let meanwhile = &world.node.wire.meanwhile;
    match adversity.comes {
        Comes::Midway | Comes::Synced => {
            {
                let _alone = turnstile.write().await;
                if adversity.comes == Comes::Synced {
                    sync(world).await?;
                }
                meanwhile.begin(adversity.allowance);
            }
            let mut trouble = (adversity.impose)(world, chance)?;
            if trouble.is_none() {
                let _alone = turnstile.write().await;
                put_down(world).await;
                trouble = (adversity.impose)(world, chance)?;
            }
            meanwhile.whole();
            trouble.ok_or_else(|| format!("{} cannot be brought about at rest", adversity.name).into())
        }
        Comes::Down | Comes::Reboot => {
            world.node.strike(Fault::Kill)?;
            let _alone = turnstile.write().await;
            if adversity.comes == Comes::Reboot {
                reboot(world).await?;
            } else {
                after(world, Fault::Kill).await?;
            }
            meanwhile.begin(adversity.allowance);
            let trouble = (adversity.impose)(world, chance)?;
            serve(world).await?;
            meanwhile.whole();
            trouble.ok_or_else(|| format!("{} cannot be brought about", adversity.name).into())
        }
    }
}

/// The driver is down, and mounts and devices are gone; what was written is not.
async fn reboot(world: &World) -> Outcome<()> {
    world.node.strike(Fault::Kill)?;
    after(world, Fault::Kill).await?;
    world.node.reboot().await?;
    for mut volume in world.all_volumes().await {
        volume.note("reboot".to_owned());
        volume.rebooted();
    }
    Ok(())
}

/// Starts the driver and waits until it answers, well or not: one whose pool is away serves what it can.
async fn serve(world: &World) -> Outcome<()> {
    let node = &world.node;
    node.program.spawn()?;
    let began = Instant::now();
    while began.elapsed() < BACK {
        if let Some(end) = node.program.ended()? {
            return Err(format!("the driver does not start: {end:?}: {}", node.program.log_end()).into());
        }
        if node.connect().await && node.wire.serves().await {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Err(format!("the driver does not answer {BACK:?} after its start: {}", node.program.log_end()).into())
}

/// Waits until the pool takes changes again; nobody helps it.
async fn back(world: &World, adversity: &Adversity) {
    let began = Instant::now();
    let shape = world.node.ground.shape(0);
    let want = requests::create("back", (shape, crate::lifecycle::size(shape)), None);
    let mut said = String::new();
    while began.elapsed() < BACK {
        match world.node.wire.create(want.clone(), PATIENT).await {
            Answer::Done(made) => {
                let id = made.volume.map(|volume| volume.volume_id).unwrap_or_default();
                match world.node.wire.delete(requests::delete(&id), PATIENT).await {
                    Answer::Done(_) if world.node.wire.ready().await => return,
                    Answer::Done(_) => said = "it is not ready".to_owned(),
                    other @ (Answer::Refused(..) | Answer::Open(..)) => said = format!("{other:?}"),
                }
            }
            other @ (Answer::Refused(..) | Answer::Open(..)) => said = format!("{other:?}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
    world.violation(format!("{}: the pool is not back after {BACK:?}: {said}", adversity.name));
}

/// What workloads have written is on the disk, of the pool as well.
async fn sync(world: &World) -> Outcome<()> {
    for mut volume in world.all_volumes().await {
        if volume.staged != Is::Yes {
            continue;
        }
        let staging = &volume.spot.staging;
        let synced = match volume.shape {
            Shape::Block => std::fs::File::open(staging.join("device")).and_then(|device| device.sync_all()),
            Shape::Directory | Shape::Ext4 | Shape::Xfs => {
                std::fs::File::open(staging).and_then(|root| Ok(rustix::fs::syncfs(&root)?))
            }
        };
        if synced.is_ok() {
            volume.slots.0.iter_mut().for_each(Slot::synced);
        }
    }
    rustix::fs::syncfs(std::fs::File::open(world.node.pool())?)?;
    Ok(())
}

/// Everybody lets go of everything.
async fn put_down(world: &World) {
    for mut volume in world.all_volumes().await {
        world.attempt_leave(&mut volume).await;
    }
}

/// Asks again for what was asked for and left open: no start comes that would finish it.
async fn grow_on(world: &World) {
    for mut volume in world.all_volumes().await {
        if volume.exists == Is::Yes && volume.size.0 < volume.size.1 {
            world.grow(&mut volume, PATIENT).await;
        }
    }
}

/// What a workload does whose disk failed: it begins anew, on a fresh mount, with what it has synced.
async fn use_anew(world: &World) {
    for mut volume in world.all_volumes().await {
        volume.unsynced_lost();
        let was = (volume.staged, volume.published);
        world.attempt_leave(&mut volume).await;
        if was.0 == Is::Yes && volume.staged == Is::No {
            world.stage(&mut volume, PATIENT).await;
        }
        if was.1 == Is::Yes && volume.staged == Is::Yes && volume.published == Is::No {
            world.publish(&mut volume, PATIENT).await;
        }
    }
}
