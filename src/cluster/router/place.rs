//! Which of several nodes is asked first for a volume.
//!
//! Owns: the order, from what nodes told. It needs no agreement: two controllers that know the same choose the same. Never:
//! refuses for want of room: the node itself says whether it has any, and where every node seems to be full some are asked all
//! the same, since room may have come in the last second.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::create::REASONS;
use crate::cluster::news::{Pool, Seen, Standing};
use crate::csi::checked::volumes::Create;
use crate::error::{Error, Result, chain, of_pool};
use crate::model::{Bytes, CreateVolume, DEFAULT_SIZE, Named, NodeId, Placement, Source, name_hash};

/// How finely nodes are told apart by how full they are: what is nearly equal is equal, so that new nodes do not get every
/// volume until they are as full as the others to the byte.
const STEPS: u64 = 32;

/// So many nodes are asked at least, also where fewer had room when they last told.
const ASKED: usize = 8;

/// Whom to ask.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Order {
    /// These nodes, in this order; not all of them, see [`Order::asked`].
    pub(super) asked: Vec<NodeId>,
    /// So many of them, the first ones, have room by what they told.
    pub(super) fit: usize,
    /// Why not the others.
    pub(super) unfit: Vec<String>,
}

/// What a node, or a pool, is for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fitness {
    /// It has room, and so many of `STEPS` of what it may promise are free.
    Fit(u64),
    /// It can make such a volume, but had no room when it last told.
    Full,
    /// It could if a pool were there, or were its own alone.
    Away(String),
    /// It cannot make such a volume.
    Lacks(String),
}

/// The order in which candidates are asked; `all` are the nodes that are known, looked at only where no candidate will do.
///
/// # Errors
/// `Unavailable` where what is asked for is away; `Full` where no candidate has such a thing, and another node may.
pub(super) fn order(
    wanted: &Create,
    candidates: Vec<Seen>,
    all: impl FnOnce() -> Vec<Seen>,
) -> Result<Order> {
    if wanted.volume.source != Source::Blank {
        // There is nothing to choose: it lies beside its source.
        let asked = candidates.into_iter().map(|seen| seen.node).collect();
        return Ok(Order { asked, ..Order::default() });
    }
    let (mut able, mut unable, mut is_away) = (Vec::new(), Vec::new(), false);
    for seen in candidates {
        let fitness = fitness(&seen, &wanted.volume);
        is_away |= matches!(fitness, Fitness::Away(_));
        match fitness {
            Fitness::Away(why) | Fitness::Lacks(why) => unable.push((seen.node, why)),
            fitness @ (Fitness::Fit(_) | Fitness::Full) => {
                able.push((rank(wanted, &seen.node, &fitness), seen.node))
            }
        }
    }
    able.sort_unstable();
    let fit = able.iter().filter(|((no_room, ..), _)| !no_room).count();
    let mut asked: Vec<NodeId> = able.into_iter().map(|(_, node)| node).collect();
    let reason = |(node, why): &(NodeId, String)| format!("node {node}: {why}");
    if asked.is_empty() {
        let why = unable.iter().take(REASONS).map(reason).collect::<Vec<_>>().join("; ");
        if is_away {
            return Err(Error::Unavailable(format!("{why}; nothing was done, ask again when it is back")));
        }
        let candidates: BTreeSet<&NodeId> = unable.iter().map(|(node, _)| node).collect();
        let may_have = |seen: &Seen| {
            !candidates.contains(&seen.node)
                && (seen.standing != Standing::Told
                    || !matches!(fitness(seen, &wanted.volume), Fitness::Lacks(_)))
        };
        if all().iter().any(may_have) {
            return Err(Error::Full(format!(
                "no node that is allowed has such a thing, nothing was made: {why}"
            )));
        }
        // Whoever is asked says it in the right words.
        asked.extend(unable.first().map(|(node, _)| node.clone()));
        unable.drain(..1.min(unable.len()));
    }
    Ok(Order { asked, fit, unfit: unable.iter().map(reason).collect() })
}

/// Lower is asked earlier: with room before without, then by the caller's wish, then by how full it is, then by lot, which
/// falls the same way everywhere.
fn rank(wanted: &Create, node: &NodeId, fitness: &Fitness) -> (bool, usize, u64, Reverse<u64>) {
    let wishes = &wanted.requirement.preferred;
    let wish = wishes.iter().position(|wish| wish == node.as_str()).unwrap_or(wishes.len());
    let free = if let Fitness::Fit(free) = fitness { *free } else { 0 };
    let fullness = match wanted.placement {
        Placement::Spread => STEPS - free,
        Placement::Pack => free,
    };
    let lot = name_hash(Named::Volume, &format!("{}\0{node}", wanted.volume.name));
    (!matches!(fitness, Fitness::Fit(_)), wish, fullness, Reverse(lot))
}

impl Order {
    /// Those that are asked: all that had room when they last told, and otherwise a few, which may have some again.
    pub(super) fn asked(&self) -> &[NodeId] {
        &self.asked[..self.fit.max(ASKED).min(self.asked.len())]
    }
}

/// What a node is: as good as its best pool.
fn fitness(seen: &Seen, want: &CreateVolume) -> Fitness {
    if let Some(why) = seen.twice(want.pool.as_deref()) {
        // It would choose among its pools itself, and does not know that another node has one of them too.
        return Fitness::Away(why);
    }
    let meant = |name: &&String| want.pool.as_ref().is_none_or(|pool| pool == *name);
    let pools = seen.pools.iter().filter(|(name, _)| meant(name)).map(|(name, pool)| of(name, pool, want));
    let best = pools.reduce(|one, other| match (&one, &other) {
        (Fitness::Fit(free), Fitness::Fit(more)) => {
            if more > free {
                other
            } else {
                one
            }
        }
        (Fitness::Fit(_), _)
        | (Fitness::Full, Fitness::Full | Fitness::Away(_) | Fitness::Lacks(_))
        | (Fitness::Away(_), Fitness::Away(_) | Fitness::Lacks(_))
        | (Fitness::Lacks(_), Fitness::Lacks(_)) => one,
        (Fitness::Full | Fitness::Away(_) | Fitness::Lacks(_), _) => other,
    });
    best.unwrap_or_else(|| {
        Fitness::Lacks(match &want.pool {
            Some(pool) => of_pool(pool, "there is none of this name"),
            None => "it has no pool".to_owned(),
        })
    })
}

fn of(name: &str, pool: &Pool, want: &CreateVolume) -> Fitness {
    if let Some(why) = &pool.away {
        return Fitness::Away(of_pool(name, why));
    }
    if pool.rooms.is_empty() {
        // It has not said yet what it makes.
        return Fitness::Full;
    }
    let room =
        pool.rooms.iter().find(|room| want.asked.fits(room.access) && room.allocation == want.allocation);
    let Some(room) = room else {
        return Fitness::Lacks(of_pool(name, "it makes no such volumes, or no more of them"));
    };
    match want.range.settle(room.minimum, DEFAULT_SIZE) {
        Ok(size) if size <= room.available => Fitness::Fit(free(pool)),
        Ok(_) => Fitness::Full,
        Err(error) => Fitness::Lacks(of_pool(name, &chain(&error))),
    }
}

/// How much of what it may promise a pool has not promised.
fn free(pool: &Pool) -> u64 {
    let (free, all) = (pool.budget.less(pool.promised), pool.budget.max(Bytes::new(1)));
    let steps = u128::from(free.get()) * u128::from(STEPS) / u128::from(all.get());
    u64::try_from(steps).unwrap_or(STEPS).min(STEPS)
}
