//! What happens to a cluster: parts die, stop and come back, and the ways between them fail.
//!
//! Owns: how each fault is done and healed, and how long it lasts. Never: judges what came of it.

use std::time::Duration;

use rustix::process::Signal;

use crate::Outcome;
use crate::chance::Chance;
use crate::net::{Loss, cut, mend};
use crate::node::{CONTROLLERS, NODES, Node};

const MS: Duration = Duration::from_millis(1);

/// One fault. Parts are told by their numbers: the nodes, then the controllers.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// SIGKILL, of all of them at once.
    Kill(Vec<usize>),
    /// SIGTERM.
    Restart(usize),
    /// SIGSTOP, then SIGCONT.
    Stop(usize),
    /// What the first sends to the second is lost.
    OneWay(usize, usize, Loss),
    /// What either sends to the other is lost.
    BothWays(usize, usize, Loss),
    /// What it sends to all of the other kind is lost, and what they send to it.
    Apart(usize, Loss),
    /// Its cable is pulled.
    Unplug(usize),
    /// All its connections are reset.
    Reset(usize),
    /// Its cable is pulled and put back, again and again.
    Flap(usize),
}

use Fault::{Apart, BothWays, Flap, Kill, OneWay, Reset, Restart, Stop, Unplug};

impl Fault {
    /// Any, by chance.
    pub(crate) fn any(chance: &mut Chance) -> Fault {
        let part = chance.below(NODES + CONTROLLERS);
        let (node, controller) = (chance.below(NODES), NODES + chance.below(CONTROLLERS));
        let loss = chance.pick(&[(3, Loss::Silent), (1, Loss::Loud)]);
        let (from, to) = if chance.percent(50) { (node, controller) } else { (controller, node) };
        match chance.below(12) {
            0 => Kill(vec![node]),
            1 => Kill(vec![controller]),
            2 => Kill(vec![node, controller]),
            3 => Kill((NODES..NODES + CONTROLLERS).collect()),
            4 => Restart(part),
            5 => Stop(node),
            6 => Stop(controller),
            7 => OneWay(from, to, loss),
            8 => BothWays(from, to, loss),
            9 => Apart(part, loss),
            10 => {
                if chance.percent(50) {
                    Unplug(part)
                } else {
                    Flap(part)
                }
            }
            _ => Reset(part),
        }
    }

    /// For tables.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Kill(parts) if parts.len() == 1 && parts[0] < NODES => "a node is killed",
            Kill(parts) if parts.len() == 1 => "a controller is killed",
            Kill(parts) if parts.contains(&0) || parts.contains(&1) || parts.contains(&2) => {
                "a node and a controller are killed"
            }
            Kill(_) => "all controllers are killed",
            Restart(_) => "a part is started anew",
            Stop(part) if *part < NODES => "a node is stopped",
            Stop(_) => "a controller is stopped",
            OneWay(_, _, Loss::Silent) => "one way is cut, silently",
            OneWay(_, _, Loss::Loud) => "one way is cut, loudly",
            BothWays(_, _, Loss::Silent) => "both ways are cut, silently",
            BothWays(_, _, Loss::Loud) => "both ways are cut, loudly",
            Apart(_, Loss::Silent) => "a part is cut off, silently",
            Apart(_, Loss::Loud) => "a part is cut off, loudly",
            Unplug(_) => "a cable is pulled",
            Reset(_) => "connections are reset",
            Flap(_) => "a cable flaps",
        }
    }

    /// A node that can be killed while this lasts, because all parts run: the one that is concerned, or the first.
    pub(crate) fn leaves_alive(&self) -> Option<usize> {
        match self {
            Kill(_) | Restart(_) | Stop(_) | Reset(_) => None,
            OneWay(one, other, _) | BothWays(one, other, _) => Some(*one.min(other)),
            Apart(part, _) | Unplug(part) | Flap(part) => Some(if *part < NODES { *part } else { 0 }),
        }
    }

    /// How long it lasts: `longest` at most.
    pub(crate) fn lasts(&self, chance: &mut Chance, longest: Duration) -> Duration {
        let most = match self {
            Kill(_) | Restart(_) => longest.min(2000 * MS),
            // Longer than that, and a caller gives up what was not answered.
            Stop(_) => longest.min(20_000 * MS),
            OneWay(..) | BothWays(..) | Apart(..) | Unplug(_) | Flap(_) => longest,
            Reset(_) => 2 * MS,
        };
        chance.time(MS, most)
    }

    /// Does it, waits, and takes it back.
    pub(crate) async fn befall(&self, cluster: &Node, lasts: Duration, chance: &mut Chance) -> Outcome<()> {
        self.begin(cluster)?;
        if let Flap(part) = self {
            flap(cluster, *part, lasts, chance).await?;
        } else {
            tokio::time::sleep(lasts).await;
        }
        self.end(cluster).await
    }

    /// Does it.
    pub(crate) fn begin(&self, cluster: &Node) -> Outcome<()> {
        let port = |part: usize| &cluster.parts[part].port;
        match self {
            Kill(parts) => parts.iter().for_each(|part| cluster.kill(*part)),
            Restart(part) => cluster.terminate_one(*part)?,
            Stop(part) => cluster.parts[*part].signal(Signal::STOP)?,
            OneWay(from, to, loss) => cut(port(*from), port(*to), *loss)?,
            BothWays(one, other, loss) => {
                cut(port(*one), port(*other), *loss)?;
                cut(port(*other), port(*one), *loss)?;
            }
            Apart(part, loss) => {
                for other in others(*part) {
                    BothWays(*part, other, *loss).begin(cluster)?;
                }
            }
            Unplug(part) => port(*part).unplug()?,
            Reset(part) => port(*part).reset()?,
            Flap(_) => {}
        }
        Ok(())
    }

    /// Takes it back.
    pub(crate) async fn end(&self, cluster: &Node) -> Outcome<()> {
        let port = |part: usize| &cluster.parts[part].port;
        match self {
            Kill(parts) => {
                for part in parts {
                    cluster.start_one(*part).await?;
                }
            }
            Restart(part) => cluster.start_one(*part).await?,
            Stop(part) => cluster.parts[*part].signal(Signal::CONT)?,
            OneWay(from, to, loss) => mend(port(*from), port(*to), *loss)?,
            BothWays(one, other, loss) => {
                mend(port(*one), port(*other), *loss)?;
                mend(port(*other), port(*one), *loss)?;
            }
            Apart(part, loss) => {
                for other in others(*part) {
                    Box::pin(BothWays(*part, other, *loss).end(cluster)).await?;
                }
            }
            Unplug(part) | Flap(part) => port(*part).plug()?,
            Reset(_) => {}
        }
        Ok(())
    }
}

/// Those that a part has connections with.
fn others(part: usize) -> std::ops::Range<usize> {
    if part < NODES { NODES..NODES + CONTROLLERS } else { 0..NODES }
}

async fn flap(cluster: &Node, part: usize, lasts: Duration, chance: &mut Chance) -> Outcome<()> {
    let until = tokio::time::Instant::now() + lasts;
    while tokio::time::Instant::now() < until {
        cluster.parts[part].port.unplug()?;
        tokio::time::sleep(chance.time(10 * MS, 500 * MS)).await;
        cluster.parts[part].port.plug()?;
        tokio::time::sleep(chance.time(10 * MS, 500 * MS)).await;
    }
    Ok(())
}
