//! The table of nodes: what each has told, and what follows from it for the others.
//!
//! Owns: who has announced a pool, which names are taken where, and what is reported when two nodes say the same. Never: asks
//! anybody; forgets a pool that its node has lost before another node has it.
//!
//! A disk that moves while both nodes run: its old node says that it is gone, and keeps on telling of it and its names, until another
//! node has it open. From then on the old one has neither, until it opens it again: what it remembers is out of date, also when the
//! new node leaves.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::mem::take;
use std::sync::Arc;

use tokio::time::Instant;

use super::{NAMES, POOLS, Pool, Seen, Standing};
use crate::cluster::link::Instance;
use crate::model::{NodeId, PoolId};
use crate::proto::link as wire;

/// One connection of one process of a node.
pub(super) type Connection = (Instance, u64);

#[derive(Default)]
pub(super) struct Table {
    pub(super) nodes: BTreeMap<NodeId, Node>,
    /// Who has announced a pool, those who are away or have lost it included.
    pub(super) announced: BTreeMap<PoolId, BTreeSet<NodeId>>,
    /// The pools that more than one node announces now, each reported.
    pub(super) twice: BTreeSet<PoolId>,
    /// On how many nodes a name is taken, by its hash.
    taken: HashMap<u64, u32>,
    /// The names that are taken on more than one node, each reported.
    pub(super) same: HashSet<u64>,
}

pub(super) struct Node {
    connection: Option<Connection>,
    standing: Standing,
    pub(super) blind: Option<Instant>,
    heard: Option<Instant>,
    pools: Arc<BTreeMap<String, Pool>>,
    /// What it announced before and does not now, and no other node either.
    pub(super) lost: BTreeSet<PoolId>,
    pub(super) names: HashSet<u64>,
    /// Names from before its last beginning, that may be in a pool which is lost or unread.
    pub(super) former: HashSet<u64>,
    /// Pools that are gone from it and were open on another node since, with the names that it still tells of.
    moved: BTreeMap<PoolId, HashSet<u64>>,
}

impl Table {
    pub(super) fn is_of(&self, node: &NodeId, connection: Connection) -> bool {
        self.nodes.get(node).is_some_and(|it| it.connection == Some(connection))
    }

    pub(super) fn met(&mut self, node: &NodeId, connection: Connection) {
        let it = self.nodes.entry(node.clone()).or_default();
        it.connection = Some(connection);
        it.stands(Standing::Untold);
        self.compare_announcements(node);
    }

    /// Lets go of all that a node ever told, but that it is connected.
    pub(super) fn forget(&mut self, node: &NodeId) {
        let Some(it) = self.nodes.get_mut(node) else { return };
        let before = take(it);
        let blind = before.blind.or_else(|| Some(Instant::now()));
        *it = Node { connection: before.connection, standing: Standing::Untold, blind, ..Node::default() };
        self.announced.retain(|_, nodes| {
            nodes.remove(node);
            !nodes.is_empty()
        });
        self.count(&[], &before.names.iter().copied().collect::<Vec<_>>());
        before.ids().into_iter().for_each(|pool| self.compare(pool));
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
        self.count(&names.taken, &names.freed);
        let Some(it) = self.nodes.get_mut(node) else { return };
        if before != now {
            it.lost.extend(before.difference(&now));
            it.lost.retain(|pool| !now.contains(pool));
            for pool in &now {
                self.announced.entry(*pool).or_default().insert(node.clone());
            }
            self.find_lost();
            before.difference(&now).for_each(|pool| self.compare(*pool));
        }
        self.find_moved(&now);
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
        let is_twice = |pool: &Pool| pool.id.is_some_and(|id| self.twice.contains(&id));
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

    /// The nodes that announce a pool now; those from which it is gone where it is nowhere else.
    pub(super) fn live(&self, pool: PoolId) -> Vec<&NodeId> {
        let told = |node: &&NodeId| {
            self.nodes.get(*node).is_some_and(|it| it.standing == Standing::Told && it.has(pool))
        };
        let all = self.announced.get(&pool).into_iter().flatten().filter(told);
        let (gone, here): (Vec<_>, Vec<_>) = all.partition(|node| self.is_gone(node, pool));
        if here.is_empty() { gone } else { here }
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
            let is_open = |node: &NodeId| {
                self.nodes.get(node).is_some_and(|it| {
                    it.standing == Standing::Told && it.pool(*pool).is_some_and(Pool::is_open)
                })
            };
            if !all.iter().any(is_open) {
                continue;
            }
            for node in all.into_iter().filter(|node| self.is_gone(node, *pool)).collect::<Vec<_>>() {
                let Some(it) = self.nodes.get_mut(&node) else { continue };
                let freed = it.cede(*pool);
                tracing::info!(%pool, %node, "a pool is gone from this node, and another has it now");
                self.count(&[], &freed);
                self.announced.entry(*pool).or_default().remove(&node);
                self.compare(*pool);
            }
        }
    }

    /// What a node has lost and another has is lost no more.
    fn find_lost(&mut self) {
        let lost = self.nodes.iter().flat_map(|(node, it)| it.lost.iter().map(|pool| (node.clone(), *pool)));
        for (node, pool) in lost.collect::<Vec<_>>() {
            let all = self.announced.entry(pool).or_default();
            let elsewhere =
                |other: &NodeId| *other != node && self.nodes.get(other).is_some_and(|it| it.has(pool));
            if all.iter().any(elsewhere) {
                all.remove(&node);
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
        let nodes: Vec<NodeId> = self.live(pool).into_iter().cloned().collect();
        if nodes.len() > 1 && !self.is_gone(&nodes[0], pool) {
            if self.twice.insert(pool) {
                tracing::error!(%pool, ?nodes, "several nodes announce one pool: it is refused on all of them; is its disk a copy?");
            }
        } else if self.twice.remove(&pool) {
            tracing::info!(%pool, ?nodes, "a pool that several nodes announced is one node's again");
        }
    }

    /// Counts the names that a node has taken and freed.
    fn count(&mut self, taken: &[u64], freed: &[u64]) {
        for hash in freed {
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
        taken.iter().for_each(|hash| *self.taken.entry(*hash).or_default() += 1);
    }

    /// Reports those names of a node that another node has told of too, once.
    fn report(&mut self, node: &NodeId, told: &[u64]) {
        let own = |hash: &u64| self.nodes.get(node).is_some_and(|it| it.names.contains(hash));
        let several = told.iter().copied().filter(|hash| self.taken.get(hash) > Some(&1) && own(hash));
        for hash in several.collect::<Vec<_>>() {
            let others = self.nodes.iter().filter(|(other, _)| *other != node);
            let others = others.filter(|(_, it)| it.standing == Standing::Told && it.names.contains(&hash));
            // Of a pool that is copied every name is there twice, and that is reported already.
            let others = others.filter(|(_, it)| !it.ids().iter().any(|pool| self.twice.contains(pool)));
            let others: Vec<&NodeId> = others.map(|(other, _)| other).collect();
            if !others.is_empty() && self.same.insert(hash) && !planted!("twice-unreported") {
                let hash = format!("{hash:016x}");
                tracing::error!(%node, ?others, hash, "name-twice: one name is taken on several nodes; one of the two is an orphan");
            }
        }
    }
}

/// How many pools and names a message has.
pub(super) fn extent(news: &wire::News) -> (usize, usize) {
    let of_pools = news.pools.iter().map(|pool| pool.names.len()).sum::<usize>();
    (news.pools.len(), news.taken.len() + news.freed.len() + of_pools)
}

/// Whether so many pools and names of one node are too many.
pub(super) fn is_too_much((pools, names): (usize, usize)) -> bool {
    pools > POOLS || names > NAMES
}

/// What a message changes in the names of a node.
struct Names {
    /// Those that are new.
    taken: Vec<u64>,
    /// Those that are no more.
    freed: Vec<u64>,
    /// Those that it tells of.
    told: Vec<u64>,
}

impl Default for Node {
    fn default() -> Self {
        Node {
            connection: None,
            standing: Standing::Away,
            blind: None,
            heard: None,
            pools: Arc::default(),
            lost: BTreeSet::new(),
            names: HashSet::new(),
            former: HashSet::new(),
            moved: BTreeMap::new(),
        }
    }
}

impl Node {
    pub(super) fn seen(&self, node: &NodeId, now: Instant) -> Seen {
        Seen {
            node: node.clone(),
            standing: self.standing,
            blind: self.blind.map(|since| now - since),
            heard: self.heard.map(|at| now - at),
            pools: Arc::clone(&self.pools),
        }
    }

    /// How many pools and names are kept of it.
    pub(super) fn extent(&self) -> (usize, usize) {
        let of_gone = self.pools.values().filter_map(|pool| pool.gone.as_ref()).map(|names| names.len());
        let names = self.names.len() + self.former.len() + of_gone.sum::<usize>();
        (self.pools.len() + self.lost.len(), names)
    }

    fn ids(&self) -> BTreeSet<PoolId> {
        self.pools.values().filter_map(|pool| pool.id).filter(|id| !self.moved.contains_key(id)).collect()
    }

    fn pool(&self, id: PoolId) -> Option<&Pool> {
        self.pools.values().find(|it| it.id == Some(id))
    }

    fn has(&self, pool: PoolId) -> bool {
        !self.moved.contains_key(&pool) && self.pool(pool).is_some()
    }

    /// It has a pool no more that is gone from it; the names that are free by that.
    fn cede(&mut self, pool: PoolId) -> Vec<u64> {
        let names = self.pool(pool).and_then(|pool| pool.gone.clone()).unwrap_or_default();
        let freed: Vec<u64> = names.iter().copied().filter(|hash| self.names.remove(hash)).collect();
        self.moved.insert(pool, freed.iter().copied().collect());
        freed
    }

    /// What it has ceded is its own again once it has opened it, and forgotten once it does not tell of it any more; the names that are
    /// taken by that. A first message tells all names anew.
    fn take_back(&mut self, first: bool) -> Vec<u64> {
        let mut back = Vec::new();
        for (id, names) in take(&mut self.moved) {
            match self.pool(id) {
                Some(pool) if !pool.is_open() => {
                    let told = pool.gone.iter().flat_map(|names| names.iter().copied());
                    let names = if first { told.collect() } else { names };
                    self.moved.insert(id, names);
                }
                Some(_) | None if first => {}
                Some(_) | None => back.extend(names.into_iter().filter(|hash| self.names.insert(*hash))),
            }
        }
        back
    }

    /// Whether it is connected and has a pool, or had it when it last told.
    pub(super) fn may_have(&self, pool: PoolId) -> bool {
        self.standing != Standing::Away && self.has(pool)
    }

    /// It cannot be believed from now on: that a pool was unread before is another matter.
    fn stands(&mut self, standing: Standing) {
        if self.standing == Standing::Told || self.blind.is_none() {
            self.blind = Some(Instant::now());
        }
        self.standing = standing;
    }

    fn hear(&mut self, news: wire::News) -> Names {
        self.heard = Some(Instant::now());
        let first = news.sequence == 1;
        let before = if first { take(&mut self.names) } else { HashSet::new() };
        if first {
            self.pools = Arc::default();
        }
        if !news.pools.is_empty() {
            Arc::make_mut(&mut self.pools)
                .extend(news.pools.into_iter().map(|pool| (pool.name.clone(), pool.into())));
        }
        let mut freed = Vec::new();
        for hash in news.freed {
            self.moved.values_mut().for_each(|names| _ = names.remove(&hash));
            freed.extend(Some(hash).filter(|hash| self.names.remove(hash)));
        }
        let mut taken = self.take_back(first);
        let is_ceded = |hash: &u64| self.moved.values().any(|names| names.contains(hash));
        let told: Vec<u64> = news.taken.into_iter().filter(|hash| !is_ceded(hash)).collect();
        taken.extend(told.iter().filter(|hash| self.names.insert(**hash) && !before.contains(hash)));
        let gone = before.into_iter().filter(|hash| !self.names.contains(hash));
        let gone: Vec<u64> = gone.collect();
        self.former.extend(&gone);
        freed.extend(gone);
        self.standing = Standing::Told;
        if self.pools.values().any(|pool| pool.unread) {
            self.blind.get_or_insert_with(Instant::now);
        } else {
            self.blind = None;
        }
        Names { taken, freed, told }
    }

    /// Where every pool is there and read, the names that it tells of are all.
    fn forget_former(&mut self) {
        if self.lost.is_empty() && !self.pools.values().any(|pool| pool.unread) {
            self.former = HashSet::new();
        }
    }
}
