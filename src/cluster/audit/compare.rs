//! Volumes without a PersistentVolume, and PersistentVolumes without a volume.
//!
//! Owns: when a difference is a finding: it was there at two looks, long enough apart, and nothing of it was on its way. Never: takes
//! a pool that is not there, or a list that is not whole, for an empty one. Never deletes anything: what has no PersistentVolume
//! may be the only copy of somebody's data.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::finding::{Finding, Object, Reason, count, some};
use super::kinds::{PersistentVolume, PersistentVolumeClaim};
use crate::cluster::news::{Seen, Standing};
use crate::error::quoted;
use crate::model::{NodeId, PoolId, VolumeId};

/// What one pool has, listed by its node between two looks at Kubernetes.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) node: NodeId,
    pub(super) uid: Option<String>,
    /// The pool's name there.
    pub(super) name: String,
    pub(super) volumes: BTreeSet<VolumeId>,
}

/// Which pools are known to be somewhere.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    /// Every pool that some node has, or had when it told last.
    pools: HashSet<PoolId>,
    /// The nodes that have told; none where a node is connected that may yet tell of any pool.
    nodes: HashSet<NodeId>,
}

impl Places {
    pub(super) fn of(seen: &[Seen]) -> Places {
        let pools = || seen.iter().flat_map(|seen| seen.pools.values());
        // A pool that was never open may be any.
        let may_tell_more = seen.iter().any(|seen| match seen.standing {
            Standing::Away => false,
            Standing::Untold => true,
            Standing::Told => seen.pools.values().any(|pool| pool.id.is_none()),
        });
        let told = seen.iter().filter(|seen| seen.standing == Standing::Told && !may_tell_more);
        Places {
            pools: pools().filter_map(|pool| pool.id).collect(),
            nodes: told.map(|seen| seen.node.clone()).collect(),
        }
    }

    /// Counts these as somewhere.
    pub(super) fn know(&mut self, pools: impl IntoIterator<Item = PoolId>) {
        self.pools.extend(pools);
    }

    /// Whether a volume's pool is at none of the nodes where it should be, nor at another.
    fn lack(&self, volume: &PersistentVolume, pool: PoolId) -> bool {
        let should = &volume.nodes;
        !should.is_empty()
            && should.iter().all(|node| self.nodes.contains(node))
            && !self.pools.contains(&pool)
    }
}

/// What is compared.
pub(super) struct Sides {
    /// The driver's PersistentVolumes before any pool was listed, and after all were.
    pub(super) before: Vec<Arc<PersistentVolume>>,
    pub(super) after: Vec<Arc<PersistentVolume>>,
    pub(super) claims: Vec<Arc<PersistentVolumeClaim>>,
    /// The pools that were listed whole.
    pub(super) pools: BTreeMap<PoolId, Listed>,
    pub(super) places: Places,
}

/// What was noticed, and since which look.
pub(super) struct Comparison {
    settle: Duration,
    volumes: BTreeMap<VolumeId, Instant>,
    persistent: BTreeMap<String, Instant>,
}

/// What came of a look.
#[derive(Debug, Default)]
pub(super) struct Compared {
    pub(super) findings: Vec<Finding>,
    /// Volumes without a PersistentVolume, and the other way round.
    pub(super) volumes: u64,
    pub(super) persistent: u64,
    /// PersistentVolumes whose pool no node has.
    pub(super) without_pool: u64,
    /// Whether another look will tell more soon.
    pub(super) is_open: bool,
}

impl Comparison {
    /// A difference must last so long.
    pub(super) fn new(settle: Duration) -> Comparison {
        Comparison { settle, volumes: BTreeMap::new(), persistent: BTreeMap::new() }
    }

    pub(super) fn look(&mut self, sides: &Sides, now: Instant) -> Compared {
        let mut compared = Compared::default();
        self.volumes(sides, now, &mut compared);
        self.persistent(sides, now, &mut compared);
        compared
    }

    fn volumes(&mut self, sides: &Sides, now: Instant, compared: &mut Compared) {
        let led_to: HashSet<VolumeId> =
            sides.after.iter().filter_map(|volume| volume.volume.clone().ok()).collect();
        let lone = |id: &VolumeId| !led_to.contains(id);
        // What lies in a pool that was not listed stays under suspicion.
        self.volumes.retain(|id, _| match sides.pools.get(&id.pool()) {
            Some(pool) => pool.volumes.contains(id) && lone(id),
            None => lone(id),
        });
        for pool in sides.pools.values() {
            let mut found = Vec::new();
            for id in pool.volumes.iter().filter(|id| lone(id)) {
                let since = *self.volumes.entry(*id).or_insert(now);
                if now - since >= self.settle {
                    found.push(id.to_string());
                } else {
                    compared.is_open = true;
                }
            }
            compared.volumes += u64::try_from(found.len()).unwrap_or(u64::MAX);
            compared.findings.extend((!found.is_empty()).then(|| of_pool(pool, &found)));
        }
    }

    fn persistent(&mut self, sides: &Sides, now: Instant, compared: &mut Compared) {
        // One that is new, or that is being deleted, may be ahead of its volume or behind it.
        let before: HashSet<&str> = sides.before.iter().map(|volume| &*volume.uid).collect();
        let steady = sides.after.iter().filter(|it| before.contains(&*it.uid) && !it.is_leaving);
        let claims: HashSet<&str> = sides.claims.iter().map(|claim| &*claim.uid).collect();
        let mut suspects = BTreeMap::new();
        for volume in steady {
            let since = self.persistent.get(&*volume.uid).copied();
            match sides.leads(volume) {
                Leads::There => {}
                Leads::Somewhere => suspects.extend(since.map(|since| (volume.uid.to_string(), since))),
                Leads::Nowhere | Leads::ToNoPool => {
                    let since = since.unwrap_or(now);
                    suspects.insert(volume.uid.to_string(), since);
                    if now - since < self.settle {
                        compared.is_open = true;
                        continue;
                    }
                    let finding = of_volume(volume, sides, &claims);
                    // A pool may come back, and with it the volume.
                    let is_poolless = finding.reason == Reason::PoolMissing;
                    compared.persistent += u64::from(!is_poolless);
                    compared.without_pool += u64::from(is_poolless);
                    compared.findings.push(finding);
                }
            }
        }
        self.persistent = suspects;
    }
}

/// Where a PersistentVolume leads.
enum Leads {
    There,
    /// Into a pool that was not listed, and is somewhere, as far as is known.
    Somewhere,
    /// Into a pool that does not have the volume; or its handle is no id.
    Nowhere,
    /// Into a pool that no node has.
    ToNoPool,
}

impl Sides {
    fn leads(&self, volume: &PersistentVolume) -> Leads {
        let Ok(id) = &volume.volume else { return Leads::Nowhere };
        match self.pools.get(&id.pool()) {
            Some(pool) if pool.volumes.contains(id) => Leads::There,
            Some(_) => Leads::Nowhere,
            None if self.places.lack(volume, id.pool()) => Leads::ToNoPool,
            None => Leads::Somewhere,
        }
    }
}

fn of_pool(pool: &Listed, found: &[String]) -> Finding {
    let (node, name, them) = (&pool.node, quoted(&pool.name), if found.len() == 1 { "it" } else { "them" });
    let (volumes, ids) = (count(found.len(), "volume"), some(found));
    Finding {
        reason: Reason::VolumeWithoutPersistentVolume,
        subject: format!("{node}/{}", pool.name),
        about: Object::node(node, pool.uid.as_deref()),
        note: format!(
            "No PersistentVolume leads to {volumes} in pool {name} of node {node}: {ids}. Nothing deletes {them}; if nobody needs \
             {them}, `rockpool ctl volume delete` does"
        ),
    }
}

/// On the claim, and where there is none, on the PersistentVolume.
fn of_volume(volume: &PersistentVolume, sides: &Sides, claims: &HashSet<&str>) -> Finding {
    let claim = volume.claim.as_ref().filter(|claim| claims.contains(&*claim.uid));
    let (reason, what) = match &volume.volume {
        Ok(id) if sides.pools.contains_key(&id.pool()) => (
            Reason::PersistentVolumeWithoutVolume,
            format!("volume {id}, which pool {} does not have: no pod can use it", id.pool()),
        ),
        Ok(id) => (
            Reason::PoolMissing,
            format!(
                "volume {id} in pool {}, which no node has that is connected: no pod can use it until one has",
                id.pool()
            ),
        ),
        Err(handle) => (
            Reason::PersistentVolumeWithoutVolume,
            format!("{}, which is no id of a volume of this driver: no pod can use it", quoted(handle)),
        ),
    };
    Finding {
        reason,
        subject: volume.uid.to_string(),
        about: claim.map_or_else(|| Object::volume(volume), Object::claim),
        note: format!("PersistentVolume {} leads to {what}", quoted(&volume.name)),
    }
}
