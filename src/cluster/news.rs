//! What a controller knows of its nodes, from what they tell it.
//!
//! Owns: which node has which pool, where a name may be taken, how much room is left, and how old all of that is. Never: asks a
//! node anything but to go on telling; forgets a node that left: who asks for its volumes must hear that it is away, not that
//! they do not exist.
//!
//! A node is believed only while its stream lasts: it tells everything first, and then, numbered, what has changed. Where a
//! number is missing, or nothing comes for long, the stream begins anew, and until then nothing is sent to the node.

mod node;
mod pool;
mod table;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use self::node::Connection;
pub use self::pool::{Pool, Room};
use self::table::Table;
use crate::error::{Error, Result, of_pool, quoted};
use crate::model::{NodeId, PoolId};
use crate::proto::link as wire;

/// So many pools of one node are believed, and so many names, ten times as many as one was tried with: what one node tells must
/// not take the memory of all.
const POOLS: usize = 1_000;
const NAMES: usize = 1_000_000;

/// How patient a controller is with the streams of its nodes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The pause before a stream begins anew.
    pub pause: Duration,
    /// How long nothing may come: a node says something every two seconds.
    pub silence: Duration,
    /// How long a disk may seem to be on two nodes while it moves: each looks after its pools every five seconds. What is there for
    /// longer is a copy.
    pub moving: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            pause: Duration::from_millis(500),
            silence: Duration::from_secs(10),
            moving: Duration::from_secs(15),
        }
    }
}

/// What is known of all nodes.
pub struct Known {
    pace: Pace,
    table: Mutex<Table>,
}

impl Default for Known {
    fn default() -> Self {
        Known::new(Pace::default())
    }
}

/// What is known of one node.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Which.
    pub node: NodeId,
    /// Whether it can be believed now.
    pub standing: Standing,
    /// For how long it has been so that any name may be taken there: it is away, has not told everything, or has not read the
    /// records of a pool.
    pub blind: Option<Duration>,
    /// When it last told something, over whatever connection.
    pub heard: Option<Duration>,
    /// Its pools by name, as last told.
    pub pools: Arc<BTreeMap<String, Pool>>,
}

/// Whether what is known of a node is true now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is not connected.
    Away,
    /// It is connected, and has not told everything yet.
    Untold,
    /// It has told everything.
    Told,
}

impl Known {
    /// Nothing yet; [`Known::follow`] makes it more.
    pub fn new(pace: Pace) -> Known {
        Known { pace, table: Mutex::new(Table::new(pace.moving)) }
    }

    /// The node that has a pool, and that can be called about it now.
    ///
    /// # Errors
    /// `Unavailable` where nobody announced it, its node is away, or two nodes announce it.
    pub fn holder(&self, pool: PoolId) -> Result<NodeId> {
        let table = self.lock();
        let here = table.live(pool);
        if let [one, other, ..] = &here[..] {
            if !table.twice.contains_key(&pool) {
                return Err(Error::Unavailable(format!(
                    "pool {pool} was on node {one} and on node {other}, and neither has its disk open now; nothing was done, ask again \
                     when one has"
                )));
            }
            return Err(Error::Unavailable(format!(
                "pool {pool} is announced by node {one} and by node {other}, so neither is asked about it: is its disk a copy? \
                 Nothing was done; take the copy away, and ask again. A node from which a disk was moved says so within seconds; where it does not, \
                 start it anew without that pool"
            )));
        }
        if let [one] = &here[..] {
            // What it remembers may be older than what another has done since.
            if table.is_gone(one, pool) {
                return Err(Error::Unavailable(format!(
                    "the disk of pool {pool} is gone from node {one}; nothing was done, ask again when a node has it, or see \
                     `rockpool ctl pool forget` where it never comes back"
                )));
            }
            return Ok((*one).clone());
        }
        let all = table.announced.get(&pool).into_iter().flatten();
        if planted!("absence-not-found") {
            return Err(Error::NotFound(format!("pool {pool} is on no node that is connected")));
        }
        // Who was there last has it, if anybody.
        let last = all.filter_map(|node| Some((node, table.nodes.get(node)?))).max_by_key(|(_, it)| it.blind);
        Err(Error::Unavailable(match last {
            Some((node, it)) if it.lost.contains(&pool) => format!(
                "node {node} had pool {pool}, and no node that is known has it now; nothing was done, ask again when it is back"
            ),
            Some((node, it)) => {
                format!(
                    "{}; it has pool {pool}; nothing was done, ask again when it is back",
                    it.seen(node, Instant::now())
                )
            }
            None => format!(
                "no node that has ever been connected to this controller has pool {pool}; nothing was done, ask again when \
                 its node is connected"
            ),
        }))
    }

    /// The node that can say how a pool is: its holder, or the one from which it is gone.
    ///
    /// # Errors
    /// As `holder`.
    pub fn witness(&self, pool: PoolId) -> Result<NodeId> {
        match &self.live(pool)[..] {
            [one] => Ok(one.clone()),
            _ => self.holder(pool),
        }
    }

    /// The nodes that announce a pool now, those from which it is gone included.
    pub fn live(&self, pool: PoolId) -> Vec<NodeId> {
        self.lock().live(pool).into_iter().cloned().collect()
    }

    /// The nodes that announce a pool now, and do not say that it is gone.
    pub fn here(&self, pool: PoolId) -> Vec<NodeId> {
        let table = self.lock();
        table.live(pool).into_iter().filter(|node| !table.is_gone(node, pool)).cloned().collect()
    }

    /// Whether several nodes announce a pool, and it is refused on all of them.
    pub fn is_twice(&self, pool: PoolId) -> bool {
        self.lock().twice.contains_key(&pool)
    }

    /// The connected nodes that tell of a pool, or did when they last told; those from which it is gone or has moved included.
    pub fn present(&self, pool: PoolId) -> Vec<NodeId> {
        let table = self.lock();
        table.nodes.iter().filter(|(_, it)| it.may_have(pool)).map(|(node, _)| node.clone()).collect()
    }

    /// The nodes that have announced a pool, and those from which it has moved.
    pub fn had(&self, pool: PoolId) -> BTreeSet<NodeId> {
        let table = self.lock();
        let moved = table.nodes.iter().filter(|(_, it)| it.moved.contains_key(&pool));
        let announced = table.announced.get(&pool).into_iter().flatten();
        moved.map(|(node, _)| node).chain(announced).cloned().collect()
    }

    /// The nodes that have announced a pool, those that have lost it included as long as nobody else has it.
    pub fn announcers(&self, pool: PoolId) -> Vec<NodeId> {
        self.lock().announced.get(&pool).into_iter().flatten().cloned().collect()
    }

    /// The pools that a node had and has not now, and no other node either.
    pub fn missing(&self, node: &NodeId) -> BTreeSet<PoolId> {
        self.lock().nodes.get(node).map(|it| it.lost.clone()).unwrap_or_default()
    }

    /// The nodes where a name with this hash was taken when they last told, those that are away included.
    pub fn holding(&self, hash: u64) -> Vec<NodeId> {
        self.lock().holding(hash)
    }

    /// Whether a node has told of a name with this hash before, and cannot say now whether it is still taken: it has lost the
    /// pool where that may be, or has not read its records since.
    pub fn is_former(&self, node: &NodeId, hash: u64) -> bool {
        let table = self.lock();
        let it = table.nodes.get(node);
        it.is_some_and(|it| it.former.contains(&hash) && !it.names.contains(&hash))
    }

    /// Whether a node remembers a name with this hash from a pool that is another's since, and refuses it for that.
    pub fn is_out_of_date(&self, node: &NodeId, hash: u64) -> bool {
        let table = self.lock();
        table.nodes.get(node).is_some_and(|it| it.moved.values().any(|names| names.contains(&hash)))
    }

    /// Every pool that was ever announced and not withdrawn, by its id, from one on.
    pub fn pools(&self, from: Option<PoolId>) -> Vec<PoolId> {
        let from = from.map_or(Bound::Unbounded, Bound::Included);
        self.lock().announced.range((from, Bound::Unbounded)).map(|(pool, _)| *pool).collect()
    }

    /// How many pools several nodes announce.
    pub fn pools_twice(&self) -> u64 {
        u64::try_from(self.lock().twice.len()).unwrap_or(u64::MAX)
    }

    /// How many names are known to be taken on several nodes.
    pub fn names_twice(&self) -> u64 {
        u64::try_from(self.lock().same.len()).unwrap_or(u64::MAX)
    }

    /// Every node that was ever connected, by its id.
    pub fn nodes(&self) -> Vec<Seen> {
        self.lock().all_seen()
    }

    /// One of them.
    pub fn node(&self, node: &NodeId) -> Option<Seen> {
        self.lock().seen(node)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node has connected; what it told over another connection is kept, but no longer true for certain, unless it is the same
    /// process that only renews its proof.
    fn met(&self, node: &NodeId, connection: Connection) {
        let mut table = self.lock();
        if !table.renewed(node, connection) {
            table.met(node, connection);
        }
    }

    /// A node has left.
    fn parted(&self, node: &NodeId) {
        self.lock().parted(node);
    }

    /// What a connection tells has ended, and the connection has not.
    fn broke_off(&self, node: &NodeId, connection: Connection) {
        let mut table = self.lock();
        if table.is_of(node, connection) {
            table.met(node, connection);
        }
    }

    /// Takes in what a node tells. The first message of a stream is all of it; everything else is what has changed. No longer
    /// heard is a connection that is not the node's any more. Whether it is not too much to be believed.
    fn hear(&self, node: &NodeId, connection: Connection, news: wire::News) -> bool {
        let mut table = self.lock();
        if !table.is_of(node, connection) {
            return true;
        }
        let is_too_much = table.nodes.get(node).is_some_and(|it| it.with(&news).is_too_much());
        if is_too_much {
            // What it told before may be true still.
            table.met(node, connection);
        } else {
            table.hear(node, news);
        }
        !is_too_much
    }
}

impl Seen {
    /// A node that somebody names and that has not been connected since this moment, that of the start.
    pub fn never(node: NodeId, since: Instant) -> Seen {
        let (standing, blind) = (Standing::Away, Some(since.elapsed()));
        Seen { node, standing, blind, heard: None, pools: Arc::default() }
    }

    /// A pool of it that another node announces too, as the beginning of a sentence; one of this name, if one is meant.
    pub fn twice(&self, meant: Option<&str>) -> Option<String> {
        let mut pools = self.pools.iter().filter(|(name, _)| meant.is_none_or(|meant| meant == *name));
        let (name, pool) = pools.find(|(_, pool)| pool.twice)?;
        let why = pool.away.as_deref().unwrap_or_default();
        Some(format!("node {}: {}", self.node, of_pool(name, why)))
    }
}

impl std::fmt::Display for Seen {
    /// What is wrong with it, as the beginning of a sentence.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (node, seconds) = (&self.node, self.blind.unwrap_or_default().as_secs());
        match self.standing {
            Standing::Away if self.heard.is_none() => {
                write!(f, "node {node} has not told this controller anything yet, for {seconds} s")
            }
            Standing::Away => write!(f, "node {node} has not been connected for {seconds} s"),
            Standing::Untold => write!(f, "node {node} is connected and has not told what it has yet"),
            Standing::Told => {
                let unread = self.pools.iter().find(|(_, pool)| pool.unread);
                let Some((name, pool)) = unread else { return write!(f, "node {node} is connected") };
                let why = pool.away.as_deref().unwrap_or("its records are being read");
                write!(f, "node {node} does not know what its pool {} holds: {why}", quoted(name))
            }
        }
    }
}
