//! The table of nodes: what each has told, and what follows from it for the others.
//!
//! Owns: who has announced a pool, which names are taken where, and what is reported when two nodes say the same. Never: asks
//! anybody; forgets a pool that its node has lost before another node has it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::mem::take;
use std::sync::Arc;

use tokio::time::Instant;

use super::{Pool, Seen, Standing};
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
        if before != now {
            it.lost.extend(before.difference(&now));
            it.lost.retain(|pool| !now.contains(pool));
            for pool in &now {
                self.announced.entry(*pool).or_default().insert(node.clone());
            }
            self.find_lost();
            before.difference(&now).for_each(|pool| self.compare(*pool));
        }
        self.compare_announcements(node);
        if let Some(it) = self.nodes.get_mut(node) {
            it.forget_former();
        }
        self.count(node, names);
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

    /// The nodes that announce a pool now.
    pub(super) fn live(&self, pool: PoolId) -> Vec<&NodeId> {
        let told = |node: &&NodeId| {
            self.nodes.get(*node).is_some_and(|it| it.standing == Standing::Told && it.has(pool))
        };
        self.announced.get(&pool).into_iter().flatten().filter(told).collect()
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
        if nodes.len() > 1 {
            if self.twice.insert(pool) {
                tracing::error!(%pool, ?nodes, "several nodes announce one pool: it is refused on all of them; is its disk a copy?");
            }
        } else if self.twice.remove(&pool) {
            tracing::info!(%pool, ?nodes, "a pool that several nodes announced is one node's again");
        }
    }

    /// Counts the names of a node, and reports those that another node has told of too, once.
    fn count(&mut self, node: &NodeId, names: Names) {
        for hash in names.freed {
            if let Some(count) = self.taken.get_mut(&hash) {
                *count -= 1;
                if *count < 2 {
                    self.same.remove(&hash);
                }
                if *count == 0 {
                    self.taken.remove(&hash);
                }
            }
        }
        names.taken.iter().for_each(|hash| *self.taken.entry(*hash).or_default() += 1);
        let several: Vec<u64> =
            names.told.into_iter().filter(|hash| self.taken.get(hash) > Some(&1)).collect();
        for hash in several {
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

    /// How many pools and names it tells of.
    pub(super) fn extent(&self) -> (usize, usize) {
        (self.pools.len(), self.names.len() + self.former.len())
    }

    fn ids(&self) -> BTreeSet<PoolId> {
        self.pools.values().filter_map(|pool| pool.id).collect()
    }

    fn has(&self, pool: PoolId) -> bool {
        self.pools.values().any(|it| it.id == Some(pool))
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
        let mut freed: Vec<u64> = news.freed.into_iter().filter(|hash| self.names.remove(hash)).collect();
        let told = news.taken;
        let taken: Vec<u64> =
            told.iter().copied().filter(|hash| self.names.insert(*hash) && !before.contains(hash)).collect();
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
