//! The table of nodes: what each has told, and what follows from it for the others.
//!
//! Owns: who has announced a pool, which names are taken where, and what is reported when two nodes say the same. Never: asks
//! anybody; forgets a pool that its node has lost before another node has it.
//!
//! A disk that moves while both nodes run: its old node says that it is gone, and keeps on telling of it and its names. Once another
//! node has it open, the old one has neither, until it opens it again: what it remembers is out of date, also when the new node leaves.
//! Where two nodes had it open for longer than they need to look, it is a copy, and stays refused, whatever one of them says.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::node::{Connection, Names, Node};
use super::{Pool, Seen, Standing};
use crate::model::{NodeId, PoolId};
use crate::proto::link as wire;

pub(super) struct Table {
    /// As `Pace` has it.
    moving: Duration,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    /// Who has announced a pool, those who are away or have lost it included.
    pub(super) announced: BTreeMap<PoolId, BTreeSet<NodeId>>,
    /// The pools that more than one node announces now, each reported, and since when more than one has it open.
    pub(super) twice: BTreeMap<PoolId, Option<Instant>>,
    /// Those that were open on several for too long for a disk that moves, as long as several have ever announced them.
    copies: BTreeSet<PoolId>,
    /// On how many nodes a name is taken, by its hash.
    taken: HashMap<u64, u32>,
    /// The names that are taken on more than one node, each reported.
    pub(super) same: HashSet<u64>,
}

impl Table {
    pub(super) fn new(moving: Duration) -> Table {
        Table {
            moving,
            nodes: BTreeMap::new(),
            announced: BTreeMap::new(),
            twice: BTreeMap::new(),
            copies: BTreeSet::new(),
            taken: HashMap::new(),
            same: HashSet::new(),
        }
    }

    pub(super) fn is_of(&self, node: &NodeId, connection: Connection) -> bool {
        self.nodes.get(node).is_some_and(|it| it.connection == Some(connection))
    }

    pub(super) fn met(&mut self, node: &NodeId, connection: Connection) {
        let it = self.nodes.entry(node.clone()).or_default();
        it.connection = Some(connection);
        it.stands(Standing::Untold);
        self.compare_announcements(node);
    }

    /// Whether a connection takes the place of an earlier one of the same process, which has not ended: then what was told stands
    /// until the new one tells, a moment later.
    pub(super) fn renewed(&mut self, node: &NodeId, connection: Connection) -> bool {
        let Some(it) = self.nodes.get_mut(node) else { return false };
        let same = it.connection.is_some_and(|before| before.0 == connection.0 && before.1 < connection.1);
        let renewed = same && it.standing == Standing::Told;
        if renewed {
            it.connection = Some(connection);
        }
        renewed
    }

    pub(super) fn parted(&mut self, node: &NodeId) {
        if let Some(it) = self.nodes.get_mut(node) {
            it.connection = None;
            it.stands(Standing::Away);
        }
        self.compare_announcements(node);
    }

    pub(super) fn hear(&mut self, node: &NodeId, news: wire::News) {
        let Some(it) = self.nodes.get_mut(node) else { return };
        let before = it.ids();
        let names = it.hear(news);
        let now = it.ids();
        self.count(&names);
        let Some(it) = self.nodes.get_mut(node) else { return };
        if before != now {
            it.lost.extend(before.difference(&now));
            it.lost.retain(|pool| !now.contains(pool));
            for pool in &now {
                self.announced.entry(*pool).or_default().insert(node.clone());
            }
            before.difference(&now).for_each(|pool| self.compare(*pool));
        }
        let is_shared = |pool: &PoolId| self.announced.get(pool).is_some_and(|nodes| nodes.len() > 1);
        if before != now || now.iter().any(is_shared) {
            self.find_lost();
            self.find_moved(&now);
        }
        self.compare_announcements(node);
        if let Some(it) = self.nodes.get_mut(node) {
            it.forget_former();
        }
        self.report(node, &names.told);
    }

    /// What is known of a node.
    pub(super) fn seen(&self, node: &NodeId) -> Option<Seen> {
        let (node, it) = self.nodes.get_key_value(node)?;
        Some(self.shown(node, it, Instant::now()))
    }

    /// The same of all, in their order.
    pub(super) fn all_seen(&self) -> Vec<Seen> {
        let now = Instant::now();
        self.nodes.iter().map(|(node, it)| self.shown(node, it, now)).collect()
    }

    /// The nodes that have told of a name with this hash.
    pub(super) fn holding(&self, hash: u64) -> Vec<NodeId> {
        // Of most names nobody has told, and every create asks: then no node's names are looked into.
        let is_taken = self.taken.contains_key(&hash);
        let has = |it: &Node| (is_taken && it.names.contains(&hash)) || it.former.contains(&hash);
        self.nodes.iter().filter(|(_, it)| has(it)).map(|(node, _)| node.clone()).collect()
    }

    fn shown(&self, node: &NodeId, it: &Node, now: Instant) -> Seen {
        let mut seen = it.seen(node, now);
        if !it.moved.is_empty() {
            let is_moved = |pool: &Pool| pool.id.is_some_and(|id| it.moved.contains_key(&id));
            Arc::make_mut(&mut seen.pools).retain(|_, pool| !is_moved(pool));
        }
        let is_twice = |pool: &Pool| pool.id.is_some_and(|id| self.twice.contains_key(&id));
        if !self.twice.is_empty() && seen.pools.values().any(is_twice) {
            for pool in Arc::make_mut(&mut seen.pools).values_mut().filter(|pool| is_twice(pool)) {
                let id = pool.id.map_or_else(String::new, |id| id.to_string());
                pool.away = Some(format!(
                    "several nodes announce {id}, so none is asked about it: is its disk a copy?"
                ));
                pool.twice = true;
            }
        }
        seen
    }

    /// The nodes that announce a pool now, those from which it is gone included.
    pub(super) fn live(&self, pool: PoolId) -> Vec<&NodeId> {
        let told = |node: &&NodeId| {
            self.nodes.get(*node).is_some_and(|it| it.standing == Standing::Told && it.has(pool))
        };
        self.announced.get(&pool).into_iter().flatten().filter(told).collect()
    }

    /// Whether a pool is surely not at a node that tells of it.
    pub(super) fn is_gone(&self, node: &NodeId, pool: PoolId) -> bool {
        self.nodes.get(node).and_then(|it| it.pool(pool)).is_some_and(|pool| pool.gone.is_some())
    }

    /// Of the pools that a node tells of, those that are gone from one node and open on another are the other's.
    fn find_moved(&mut self, told: &BTreeSet<PoolId>) {
        if planted!("names-of-moved-kept") {
            return;
        }
        for pool in told {
            let all = self.announced.get(pool).filter(|nodes| nodes.len() > 1);
            let all: Vec<NodeId> = all.into_iter().flatten().cloned().collect();
            if !all.iter().any(|node| self.is_open(node, *pool)) || self.is_copied(*pool) {
                continue;
            }
            for node in all.into_iter().filter(|node| self.is_gone(node, *pool)).collect::<Vec<_>>() {
                let Some(it) = self.nodes.get_mut(&node) else { continue };
                let freed = it.cede(*pool);
                tracing::info!(%pool, %node, "a pool is gone from this node, and another has it now");
                self.count(&Names { freed, ..Names::default() });
                self.announced.entry(*pool).or_default().remove(&node);
                self.compare(*pool);
            }
        }
    }

    /// What a node has lost and another has is lost no more.
    fn find_lost(&mut self) {
        let lost = self.nodes.iter().flat_map(|(node, it)| it.lost.iter().map(|pool| (node.clone(), *pool)));
        for (node, pool) in lost.collect::<Vec<_>>() {
            let elsewhere = |other: &&NodeId| {
                **other != node
                    && !self.is_gone(other, pool)
                    && self.nodes.get(*other).is_some_and(|it| it.has(pool))
            };
            if self.announced.get(&pool).into_iter().flatten().any(|other| elsewhere(&other)) {
                self.announced.entry(pool).or_default().remove(&node);
                if let Some(it) = self.nodes.get_mut(&node) {
                    it.lost.remove(&pool);
                    it.forget_former();
                }
            }
        }
    }

    /// Reports those pools of a node that another announces too, once, and once more when that is over.
    fn compare_announcements(&mut self, node: &NodeId) {
        let pools = self.nodes.get(node).map(Node::ids).unwrap_or_default();
        pools.into_iter().for_each(|pool| self.compare(pool));
    }

    fn compare(&mut self, pool: PoolId) {
        if self.is_copied(pool) {
            self.copies.insert(pool);
        }
        if self.announced.get(&pool).is_none_or(|nodes| nodes.len() < 2) {
            self.copies.remove(&pool);
        }
        let all: Vec<NodeId> = self.live(pool).into_iter().cloned().collect();
        let here = all.iter().filter(|node| !self.is_gone(node, pool)).count();
        if here > 1 || (all.len() > 1 && self.copies.contains(&pool)) {
            let open = all.iter().filter(|node| self.is_open(node, pool)).count();
            let before = self.twice.get(&pool).copied();
            let since = (open > 1).then(|| before.flatten().unwrap_or_else(Instant::now));
            self.twice.insert(pool, since);
            if before.is_none() {
                tracing::error!(%pool, nodes = ?all, "several nodes announce one pool: it is refused on all of them; is its disk a copy?");
            }
        } else if self.twice.remove(&pool).is_some() {
            tracing::info!(%pool, nodes = ?all, "a pool that several nodes announced is one node's again");
        }
    }

    /// Whether a pool was open on several nodes for longer than a disk needs that moves.
    fn is_copied(&self, pool: PoolId) -> bool {
        let open_since = self.twice.get(&pool).copied().flatten();
        self.copies.contains(&pool) || open_since.is_some_and(|since| since.elapsed() > self.moving)
    }

    /// Whether a connected node has a pool, and could use it when it last told.
    fn is_open(&self, node: &NodeId, pool: PoolId) -> bool {
        self.nodes.get(node).is_some_and(|it| {
            it.standing == Standing::Told && it.has(pool) && it.pool(pool).is_some_and(Pool::is_open)
        })
    }

    /// Counts the names that a node has taken and freed.
    fn count(&mut self, names: &Names) {
        for hash in &names.freed {
            if let Some(count) = self.taken.get_mut(hash) {
                *count -= 1;
                if *count < 2 {
                    self.same.remove(hash);
                }
                if *count == 0 {
                    self.taken.remove(hash);
                }
            }
        }
        names.taken.iter().for_each(|hash| *self.taken.entry(*hash).or_default() += 1);
    }

    /// Reports those names of a node that another node has told of too, once.
    fn report(&mut self, node: &NodeId, told: &[u64]) {
        let own = |hash: &u64| self.nodes.get(node).is_some_and(|it| it.surely_has(*hash));
        let several = told.iter().copied().filter(|hash| self.taken.get(hash) > Some(&1) && own(hash));
        for hash in several.collect::<Vec<_>>() {
            let others = self.nodes.iter().filter(|(other, _)| *other != node);
            let others = others.filter(|(_, it)| it.standing == Standing::Told && it.surely_has(hash));
            // Of a pool that is copied every name is there twice, and that is reported already.
            let others = others.filter(|(_, it)| !it.ids().iter().any(|pool| self.twice.contains_key(pool)));
            let others: Vec<&NodeId> = others.map(|(other, _)| other).collect();
            if !others.is_empty() && self.same.insert(hash) && !planted!("twice-unreported") {
                let hash = format!("{hash:016x}");
                tracing::error!(%node, ?others, hash, "name-twice: one name is taken on several nodes; one of the two is an orphan");
            }
        }
    }
}
