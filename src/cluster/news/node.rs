//! What one node has told: its pools, and the names that are taken there.
//!
//! Owns: what of it counts: names in a pool that has moved to another node do not. Never: knows what other nodes tell.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::mem::take;
use std::sync::Arc;

use tokio::time::Instant;

use super::{NAMES, POOLS, Pool, Seen, Standing};
use crate::cluster::link::Instance;
use crate::model::{NodeId, PoolId};
use crate::proto::link as wire;

/// One connection of one process of a node.
pub(super) type Connection = (Instance, u64);

/// How much of one node is kept: pools, names, and names that are told of once more since their pool is gone.
pub(super) struct Extent(usize, usize, usize);

impl Extent {
    pub(super) fn is_too_much(&self) -> bool {
        self.0 > POOLS || self.1 > NAMES || self.2 > NAMES
    }
}

/// What a message changes in the names of a node.
#[derive(Default)]
pub(super) struct Names {
    /// Those that are new.
    pub(super) taken: Vec<u64>,
    /// Those that are no more.
    pub(super) freed: Vec<u64>,
    /// Those that it tells of.
    pub(super) told: Vec<u64>,
}

/// A node.
pub(super) struct Node {
    pub(super) connection: Option<Connection>,
    pub(super) standing: Standing,
    pub(super) blind: Option<Instant>,
    heard: Option<Instant>,
    pools: Arc<BTreeMap<String, Pool>>,
    /// What it announced before and does not now, and no other node either.
    pub(super) lost: BTreeSet<PoolId>,
    pub(super) names: HashSet<u64>,
    /// Names from before its last beginning, that may be in a pool which is lost or unread.
    pub(super) former: HashSet<u64>,
    /// Pools that are gone from it and were open on another node since, with the names that it still tells of.
    pub(super) moved: BTreeMap<PoolId, HashSet<u64>>,
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

    /// How much would be kept of it with one more message.
    pub(super) fn with(&self, news: &wire::News) -> Extent {
        let first = news.sequence == 1;
        let known = |pool: &&wire::Pool| self.pools.get(&pool.name);
        let new = news.pools.iter().filter(|pool| first || known(pool).is_none()).count();
        // Who has another id now is lost under the one before.
        let told: HashSet<PoolId> = news.pools.iter().filter_map(|pool| pool.id.parse().ok()).collect();
        let renamed = news.pools.iter().filter_map(|pool| known(&pool)?.id).filter(|id| !told.contains(id));
        let lost = if first {
            self.ids().difference(&told.iter().copied().collect()).count()
        } else {
            renamed.count()
        };
        let pools = new + lost + self.lost.len() + if first { 0 } else { self.pools.len() };

        let taken: HashSet<&u64> = news.taken.iter().collect();
        let kept = if first {
            self.names.iter().filter(|hash| !taken.contains(hash)).count()
        } else {
            self.names.len() + self.moved.values().map(HashSet::len).sum::<usize>()
        };
        let former = self.former.iter().filter(|hash| !taken.contains(hash)).count();
        let is_told_anew = |name: &str| first || news.pools.iter().any(|pool| pool.name == name);
        let stays = self.pools.iter().filter(|(name, _)| !is_told_anew(name));
        let of_gone =
            stays.filter_map(|(_, pool)| pool.gone.as_ref()).map(|names| names.len()).sum::<usize>();
        let of_gone = of_gone + news.pools.iter().map(|pool| pool.names.len()).sum::<usize>();
        Extent(pools, kept + former + taken.len(), of_gone)
    }

    /// Whether it has a name, and not in a pool that is gone and may be elsewhere with it.
    pub(super) fn surely_has(&self, hash: u64) -> bool {
        let mut gone = self.pools.values().filter_map(|pool| pool.gone.as_ref());
        self.names.contains(&hash) && !gone.any(|names| names.contains(&hash))
    }

    pub(super) fn ids(&self) -> BTreeSet<PoolId> {
        self.pools.values().filter_map(|pool| pool.id).filter(|id| !self.moved.contains_key(id)).collect()
    }

    pub(super) fn pool(&self, id: PoolId) -> Option<&Pool> {
        self.pools.values().find(|it| it.id == Some(id))
    }

    pub(super) fn has(&self, pool: PoolId) -> bool {
        !self.moved.contains_key(&pool) && self.pool(pool).is_some()
    }

    /// It has a pool no more that is gone from it; the names that are free by that.
    pub(super) fn cede(&mut self, pool: PoolId) -> Vec<u64> {
        let names = self.pool(pool).and_then(|pool| pool.gone.clone()).unwrap_or_default();
        let freed: Vec<u64> = names.iter().copied().filter(|hash| self.names.remove(hash)).collect();
        self.moved.insert(pool, freed.iter().copied().collect());
        freed
    }

    /// What it has ceded is its own again once it has opened it, and forgotten once it does not tell of it any more. Until then the names
    /// in it are those that it last said to be. A first message tells all names anew.
    fn look_at_moved(&mut self, first: bool, fresh: &[PoolId], told: &[u64], names: &mut Names) {
        for (id, before) in take(&mut self.moved) {
            let pool = self.pool(id).filter(|pool| !pool.is_open());
            let Some(pool) = pool else {
                if !first {
                    names.taken.extend(before.into_iter().filter(|hash| self.names.insert(*hash)));
                }
                continue;
            };
            let now: HashSet<u64> = match &pool.gone {
                Some(gone) if fresh.contains(&id) => HashSet::clone(gone),
                None if first => told.iter().copied().filter(|hash| before.contains(hash)).collect(),
                Some(_) | None => before.clone(),
            };
            if !first {
                let back = before.difference(&now).copied();
                names.taken.extend(back.filter(|hash| self.names.insert(*hash)));
                names.freed.extend(now.iter().copied().filter(|hash| self.names.remove(hash)));
            }
            self.moved.insert(id, now);
        }
    }

    /// Whether it is connected and tells of a pool, or did when it last told; also where the pool is gone, and another has it.
    pub(super) fn may_have(&self, pool: PoolId) -> bool {
        self.standing != Standing::Away && self.pool(pool).is_some()
    }

    /// It cannot be believed from now on: that a pool was unread before is another matter.
    pub(super) fn stands(&mut self, standing: Standing) {
        if self.standing == Standing::Told || self.blind.is_none() {
            self.blind = Some(Instant::now());
        }
        self.standing = standing;
    }

    pub(super) fn hear(&mut self, news: wire::News) -> Names {
        self.heard = Some(Instant::now());
        let first = news.sequence == 1;
        let before = if first { take(&mut self.names) } else { HashSet::new() };
        if first {
            self.pools = Arc::default();
        }
        let fresh: Vec<PoolId> = news.pools.iter().filter_map(|pool| pool.id.parse().ok()).collect();
        if !news.pools.is_empty() {
            Arc::make_mut(&mut self.pools)
                .extend(news.pools.into_iter().map(|pool| (pool.name.clone(), pool.into())));
        }
        let mut names = Names::default();
        for hash in news.freed {
            self.moved.values_mut().for_each(|moved| _ = moved.remove(&hash));
            names.freed.extend(Some(hash).filter(|hash| self.names.remove(hash)));
        }
        self.look_at_moved(first, &fresh, &news.taken, &mut names);
        let is_ceded = |hash: &u64| self.moved.values().any(|moved| moved.contains(hash));
        names.told = news.taken.into_iter().filter(|hash| !is_ceded(hash)).collect();
        // Where it is told to be, it is known to be.
        names.told.iter().for_each(|hash| _ = self.former.remove(hash));
        let new = names.told.iter().filter(|hash| self.names.insert(**hash) && !before.contains(hash));
        names.taken.extend(new);
        let gone: Vec<u64> = before.into_iter().filter(|hash| !self.names.contains(hash)).collect();
        self.former.extend(&gone);
        names.freed.extend(gone);
        self.standing = Standing::Told;
        if self.pools.values().any(|pool| pool.unread) {
            self.blind.get_or_insert_with(Instant::now);
        } else {
            self.blind = None;
        }
        names
    }

    /// Where every pool is there and read, the names that it tells of are all.
    pub(super) fn forget_former(&mut self) {
        if self.lost.is_empty() && !self.pools.values().any(|pool| pool.unread) {
            self.former = HashSet::new();
        }
    }
}
