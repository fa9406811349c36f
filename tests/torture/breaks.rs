//! A small life with one thing broken in it.
//!
//! Owns: starting the driver so that it breaks, noticing that it did, bringing the node back, and going on with the life as a
//! caller does, by the same call again.

use std::time::{Duration, Instant};

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Outcome;
use crate::acts::{calm, empty, open_budget};
use crate::audit::Held;
use crate::chance::Chance;
use crate::disk::Loss;
use crate::host::run;
use crate::lives::{Act, Life, VOLUMES};
use crate::node::{Fault, Ground, Node};
use crate::program::{Around, NOT_RUNNING, Start};
use crate::random::after;
use crate::world::{Extent, World};

/// An act that does not come about in this time never will.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a driver that met an error may go on refusing.
const INJURED: Duration = Duration::from_secs(3);

/// What breaks a life.
#[derive(Clone, Debug)]
pub(crate) enum Break {
    /// Nothing; the steps are noted.
    Nothing,
    /// A stop at a step.
    Step(String, Fault),
    /// A program around the driver that injects something.
    Wrapper(Vec<String>),
}

impl Break {
    /// Whether nothing is broken: then the auditor looks after every act.
    fn is_none(&self) -> bool {
        matches!(self, Break::Nothing) || matches!(self, Break::Wrapper(words) if words.is_empty())
    }

    fn fault(&self) -> Fault {
        match self {
            Break::Step(_, fault) => *fault,
            Break::Nothing | Break::Wrapper(_) => Fault::Kill,
        }
    }
}

/// A node that small lives are lived on, one after the other.
pub(crate) struct Stage {
    pub(crate) world: World,
    environment: Vec<(String, String)>,
    chance: Chance,
}

impl Stage {
    /// A fresh node, its driver down.
    pub(crate) async fn new(
        base: &Path,
        (ground, binary): (Ground, &Path),
        environment: Vec<(String, String)>,
    ) -> Outcome<Stage> {
        std::fs::create_dir_all(base)?;
        let extent = Extent { volumes: VOLUMES, snapshots: 2 };
        let world = World::new(Node::new(base, ground, binary)?, extent, 0)?;
        let stage = Stage { world, environment, chance: Chance::new(7, 7) };
        stage.around(&Break::Wrapper(Vec::new()));
        stage.world.node.start().await?;
        open_budget(&stage.world).await;
        stage.world.node.terminate()?;
        Ok(stage)
    }

    fn around(&self, broken: &Break) {
        let mut around = Around { environment: self.environment.clone(), ..Around::default() };
        let mut set = |key: &str, value: String| around.environment.push((key.to_owned(), value));
        match broken {
            Break::Nothing => set("ROCKPOOL_STEP_LOG", self.world.node.own("steps").display().to_string()),
            Break::Step(step, _) => set("ROCKPOOL_STEP", step.clone()),
            Break::Wrapper(words) => around.wrapper = words.clone(),
        }
        self.world.node.program.around(around);
    }

    /// The steps of a life without a fault, in their order.
    pub(crate) async fn steps(&mut self, life: &Life) -> Outcome<Vec<String>> {
        let log = self.world.node.own("steps");
        std::fs::write(&log, "")?;
        self.live(life, &Break::Nothing).await?;
        let mut steps: Vec<String> = Vec::new();
        for step in std::fs::read_to_string(&log)?.lines() {
            if !steps.iter().any(|known| known == step) {
                steps.push(step.to_owned());
            }
        }
        Ok(steps)
    }

    /// Lives a life to its end whatever breaks it; whether the break came about.
    pub(crate) async fn live(&mut self, life: &Life, broken: &Break) -> Outcome<bool> {
        let mut acts: std::collections::VecDeque<Act> = life.acts.iter().copied().collect();
        if let Some(step) = life.debris {
            self.debris(step, &mut acts).await?;
        }
        let (mut struck, mut helped) = (false, false);
        self.around(broken);
        self.world.node.program.spawn()?;
        let ready = self.world.node.until_ready().await?;
        let held = self.world.held();
        if ready != Start::Ready {
            struck |= self.recover(broken).await?;
        } else if broken.is_none() {
            self.world.audit(&mut self.chance).await?;
        }
        while let Some(act) = acts.pop_front() {
            let began = Instant::now();
            while !self.world.holds(act).await {
                if self.falls(act, broken.fault()).await? {
                    struck |= self.recover(broken).await?;
                } else if act.is_over() {
                    break;
                }
                if matches!(broken, Break::Wrapper(_)) && !helped && began.elapsed() > INJURED {
                    // An error may leave a pool that only a new start opens.
                    helped = true;
                    self.recover(broken).await?;
                }
                if began.elapsed() > PATIENCE || !self.world.violations().is_empty() {
                    let what = format!("{}: {act:?} did not come about: {broken:?}", life.name);
                    self.world.violation(what);
                    return Ok(struck);
                }
            }
            if broken.is_none() {
                self.world.audit(&mut self.chance).await?;
            }
        }
        if self.world.lenient() {
            // What an error left is swept when the next driver opens the pool.
            self.recover(broken).await?;
        }
        self.end(held).await?;
        Ok(struck)
    }

    /// Lives until the step, kills the driver there, and leaves what it left.
    async fn debris(&mut self, step: &str, acts: &mut std::collections::VecDeque<Act>) -> Outcome<()> {
        self.around(&Break::Step(step.to_owned(), Fault::Kill));
        self.world.node.program.spawn()?;
        let mut fallen = self.world.node.until_ready().await? != Start::Ready;
        while let Some(act) = acts.front().copied().filter(|_| !fallen) {
            fallen = self.falls(act, Fault::Kill).await?;
            if !fallen && (act.is_over() || self.world.holds(act).await) {
                acts.pop_front();
            }
        }
        if !fallen {
            self.world.violation(format!("no debris: the life ended before {step}"));
        }
        self.world.node.strike(Fault::Kill)?;
        after(&self.world, Fault::Kill).await
    }

    /// Tries an act while somebody watches the driver and does the fault where it stops; whether the driver is gone.
    async fn falls(&self, act: Act, fault: Fault) -> Outcome<bool> {
        let node = &self.world.node;
        if let Act::Unflushed(volume) = act {
            self.world.attempt_unflushed(&mut *self.world.volumes[volume].lock().await).await?;
        }
        if matches!(act, Act::Dark | Act::Unflushed(_)) {
            let fault = node.darkness(Loss::All);
            node.strike(fault)?;
            after(&self.world, fault).await?;
            self.around(&Break::Wrapper(Vec::new()));
            node.start().await?;
            self.world.audit(&mut Chance::new(7, 8)).await?;
            return Ok(false);
        }
        if matches!(act, Act::Restart | Act::Remount) {
            node.terminate()?;
            if act == Act::Remount {
                run(Command::new("umount").arg("-l").arg(node.pool()))?;
            }
            node.program.spawn()?;
            return Ok(node.until_ready().await? != Start::Ready);
        }
        let over = AtomicBool::new(false);
        let work = async {
            let done = self.world.attempt(act).await;
            over.store(true, Ordering::Relaxed);
            done
        };
        let watch = async {
            loop {
                let last = over.load(Ordering::Relaxed);
                match node.program.ended()? {
                    Some(Start::Stopped) => {
                        node.strike(fault)?;
                        return Outcome::Ok(true);
                    }
                    Some(Start::Died(_) | Start::Ready) => return Ok(true),
                    None if last => return Ok(false),
                    None => tokio::time::sleep(Duration::from_micros(500)).await,
                }
            }
        };
        let (done, fell) = tokio::join!(work, watch);
        done?;
        fell
    }

    /// Brings a node back whose driver is gone; whether that was the fault that was ordered.
    async fn recover(&mut self, broken: &Break) -> Outcome<bool> {
        let (node, fault) = (&self.world.node, broken.fault());
        let mut ordered = true;
        match node.program.ended()? {
            Some(Start::Stopped) => node.strike(fault)?,
            Some(Start::Died(how)) if how != NOT_RUNNING && !matches!(broken, Break::Wrapper(_)) => {
                ordered = false;
                self.world
                    .violation(format!("the driver ended by itself with {how}: {}", node.program.log_end()));
            }
            Some(Start::Died(_) | Start::Ready) | None => {}
        }
        node.kill();
        after(&self.world, fault).await?;
        if fault == Fault::Kill && !self.world.lenient() {
            self.world.audit_dead().await?;
        }
        self.around(&Break::Wrapper(Vec::new()));
        self.world.node.start().await?;
        self.world.audit(&mut self.chance).await?;
        Ok(ordered)
    }

    /// The end of a life: nothing is in doubt, and nothing is left.
    async fn end(&mut self, at_start: Option<Held>) -> Outcome<()> {
        calm(&self.world).await;
        self.world.audit(&mut self.chance).await?;
        empty(&self.world).await;
        if !self.world.lenient() {
            self.world.nothing_kept(at_start);
        }
        self.world.node.terminate()
    }
}

impl Act {
    /// Whether it is over when it was tried on a driver that lived, whatever came of it.
    fn is_over(self) -> bool {
        match self {
            Act::Write(..)
            | Act::Verify(_)
            | Act::Restart
            | Act::Spoil(_)
            | Act::Squat(_)
            | Act::Busy(_)
            | Act::BusyStaging(_)
            | Act::RemoveUsed(_)
            | Act::Second(_)
            | Act::Again(_)
            | Act::Other(_)
            | Act::Late(_)
            | Act::Unflushed(_)
            | Act::Remount
            | Act::Ail(_)
            | Act::Dark => true,
            Act::Make(_)
            | Act::MakeKept(_)
            | Act::Keep(_)
            | Act::Undelete(_)
            | Act::Purge(_)
            | Act::Restore(..)
            | Act::Twin(..)
            | Act::Use(_)
            | Act::Leave(_)
            | Act::Remove(_)
            | Act::Grow(_)
            | Act::Cut(..)
            | Act::Forget(_)
            | Act::Group(..)
            | Act::Disband
            | Act::Storm(_) => false,
        }
    }
}
