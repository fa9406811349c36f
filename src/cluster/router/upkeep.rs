//! What a controller does without being asked: it reads which pools are lost, declares those of deleted nodes lost, and reports
//! what has come back.
//!
//! Owns: the policy for nodes that are gone. Never: declares a pool lost that some node may still have: only where everybody who
//! ever announced it to this controller is gone for the whole grace, or, for a pool of which nothing is known, where the
//! PersistentVolumes in it name one such node and no other; and only while every node that ought to be there is, and has told
//! which pools its disks are: the disk may have moved into one of them.
//!
//! Whoever is wrong all the same loses nothing: a pool that comes back is the node's again, with everything in it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::Router;
use crate::cluster::kubernetes::{Answer, Kubernetes, or_default};
use crate::cluster::link::jittered;
use crate::cluster::news::Standing;
use crate::error::{Error, Result, chain, quoted};
use crate::model::{NodeId, PoolId, TOPOLOGY_KEY, Time, VolumeId};

/// How soon after a failure where nothing is known yet.
const FIRST: Duration = Duration::from_secs(1);
/// How often.
const LOOK: Duration = Duration::from_secs(10);
/// So many PersistentVolumes are read at once.
const PAGE: usize = 500;
/// So many pools of which nothing is known are remembered until the next look.
const UNKNOWN: usize = 1000;

#[derive(Deserialize)]
struct Volumes {
    #[serde(deserialize_with = "or_default")]
    items: Vec<Volume>,
    #[serde(default)]
    metadata: Page,
}

#[derive(Default, Deserialize)]
struct Page {
    #[serde(default, rename = "continue")]
    next: String,
}

/// Of a PersistentVolume what says where it lies.
#[derive(Deserialize)]
struct Volume {
    #[serde(default)]
    spec: Value,
}

impl Router {
    /// Looks again and again, until the future is dropped.
    pub async fn tend(self) {
        let mut said = String::new();
        loop {
            match self.look().await {
                Ok(()) => said.clear(),
                Err(error) => {
                    let error = chain(&error);
                    if let Err(why) = &mut *self.placed() {
                        why.clone_from(&error);
                    }
                    if error != said {
                        tracing::warn!(error, "failed to see to the lost pools; trying on");
                        said = error;
                    }
                }
            }
            // Until it has looked once, no list can be given.
            let is_first = self.0.kubernetes.is_some() && self.placed().is_err();
            tokio::time::sleep(jittered(if is_first { FIRST } else { LOOK })).await;
        }
    }

    /// Looks once.
    pub(super) async fn look(&self) -> Result<()> {
        self.0.lost.refresh().await?;
        self.note_returned().await?;
        for seen in self.0.known.nodes() {
            if seen.standing == Standing::Away && self.0.roster.is_lost(&seen.node) {
                let missing = self.0.known.missing(&seen.node);
                let pools = seen.pools.values().filter_map(|pool| pool.id).chain(missing);
                for pool in pools {
                    self.write_off(pool, &seen.node).await?;
                }
            }
        }
        self.find_unknown().await
    }

    /// A pool was asked for of which nothing is known: perhaps its node is gone.
    pub(super) fn wonder(&self, pool: PoolId) {
        if self.0.kubernetes.is_some() && self.0.known.announcers(pool).is_empty() {
            let mut unknown = self.unknown();
            if unknown.len() < UNKNOWN {
                unknown.insert(pool);
            }
        }
    }

    /// Pools that are there again are lost no more, and what was deleted in them is an orphan.
    async fn note_returned(&self) -> Result<()> {
        let is_back = |pool: &PoolId| !self.0.known.here(*pool).is_empty();
        let book = self.0.lost.book();
        let lost = book.iter().filter(|(_, declared)| !declared.returned).map(|(pool, _)| *pool);
        let back: Vec<PoolId> = lost.filter(is_back).collect();
        if !back.is_empty() {
            self.0.lost.returned(&back).await?;
        }
        for pool in &back {
            tracing::warn!(%pool, nodes = ?self.0.known.live(*pool), "a pool that was declared lost is back");
        }
        for (pool, declared) in self.0.lost.book().iter().filter(|(_, declared)| declared.returned) {
            if self.reported().insert(*pool) {
                let orphans: Vec<&String> = declared.deleted.iter().take(20).collect();
                let count = declared.deleted.len();
                tracing::error!(%pool, count, ?orphans, "orphans: what was deleted while this pool was lost is there again, and no claim leads to it; delete it by hand, then `rockpool ctl pool recall`");
            }
        }
        Ok(())
    }

    /// Refuses a list that lacks a pool of which this controller knows nothing, since its node was deleted before it began: while the pool
    /// is not declared lost, PersistentVolumes lead to what is in it. They are read at the start, and again while one is missed: what is
    /// made later is in pools that are known.
    pub(super) fn refuse_unplaced(&self) -> Result<()> {
        if self.0.kubernetes.is_none() {
            return Ok(());
        }
        let mut placed = self.placed();
        let placed = placed.as_mut().map_err(|why| {
            Error::Unavailable(format!(
                "this controller has not read yet in which pools there are PersistentVolumes ({why}): a list might not be whole; ask again"
            ))
        })?;
        placed.retain(|pool| self.0.known.announcers(*pool).is_empty());
        let missed: Vec<&PoolId> = placed.iter().filter(|pool| !self.is_lost(**pool)).collect();
        missed.iter().for_each(|pool| self.wonder(**pool));
        missed.first().map_or(Ok(()), |pool| {
            Err(Error::Unavailable(format!(
                "pool {pool} has PersistentVolumes, and no node that this controller knows has ever had it: a list would not be whole; ask \
                 again when its node is connected, or see `rockpool ctl pool forget`"
            )))
        })
    }

    /// Declares a pool of a deleted node lost, unless somebody else may have it.
    async fn write_off(&self, pool: PoolId, node: &NodeId) -> Result<()> {
        let gone = |node: &NodeId| self.is_gone(node) && self.0.roster.is_lost(node);
        // Also a node from which it has moved: it may be there again, and not open yet.
        let is_somewhere = !self.0.known.present(pool).is_empty();
        if self.0.lost.is_declared(pool) || is_somewhere || !self.0.known.had(pool).iter().all(gone) {
            return Ok(());
        }
        if let Some(why) = self.may_be_elsewhere() {
            return Err(Error::Unavailable(format!(
                "pool {pool} of node {node}, which was deleted, is not declared lost while {why}; `rockpool ctl pool forget {pool}` declares it now"
            )));
        }
        if self.0.lost.declare(pool, &format!("node {node} was deleted")).await? {
            tracing::error!(%pool, %node, "the node of a pool was deleted, and the pool is declared lost: what is deleted in it is forgotten");
            if let Some(api) = &self.0.kubernetes
                && let Err(fault) = tell(api, &self.0.driver, pool, node).await
            {
                tracing::warn!(error = %fault, "failed to tell of it with an event");
            }
        }
        Ok(())
    }

    /// Why a pool that nobody announces may be in some node all the same.
    fn may_be_elsewhere(&self) -> Option<String> {
        if let Some(why) = self.starting() {
            return Some(why);
        }
        let expected = self.expected().unwrap_or_default();
        if let Some(seen) = expected.iter().find(|seen| seen.standing != Standing::Told) {
            return Some(format!("node {} has not told what it has", seen.node));
        }
        let nodes = self.0.known.nodes();
        let mut connected = nodes.iter().filter(|seen| seen.standing != Standing::Away);
        connected.find_map(|seen| {
            let (name, _) = seen.pools.iter().find(|(_, pool)| pool.id.is_none())?;
            Some(format!("node {} does not know which pool its pool {} is", seen.node, quoted(name)))
        })
    }

    /// Looks in the PersistentVolumes for the nodes of pools that nobody has announced to this controller.
    async fn find_unknown(&self) -> Result<()> {
        let Some(api) = &self.0.kubernetes else { return Ok(()) };
        let wanted = std::mem::take(&mut *self.unknown());
        if wanted.is_empty() && self.placed().is_ok() {
            return Ok(());
        }
        let places = places(api, &self.0.driver).await.map_err(|fault| fault.open())?;
        *self.placed() = Ok(places.keys().copied().collect());
        for (pool, nodes) in places.into_iter().filter(|(pool, _)| wanted.contains(pool)) {
            if let [node] = &nodes.iter().collect::<Vec<_>>()[..]
                && self.is_gone(node)
                && self.0.roster.is_lost(node)
            {
                self.write_off(pool, node).await?;
            }
        }
        Ok(())
    }
}

/// The pools in which PersistentVolumes lie, and the nodes on which those may be used.
async fn places(api: &Kubernetes, driver: &str) -> Answer<BTreeMap<PoolId, BTreeSet<NodeId>>> {
    let (mut found, mut next) = (BTreeMap::<PoolId, BTreeSet<NodeId>>::new(), String::new());
    loop {
        let page: Volumes =
            api.get(&format!("/api/v1/persistentvolumes?limit={PAGE}&continue={next}")).await?;
        for Volume { spec } in &page.items {
            let handle = spec["csi"]["volumeHandle"].as_str().filter(|_| spec["csi"]["driver"] == driver);
            let pool = handle.and_then(|handle| handle.parse::<VolumeId>().ok()).map(|id| id.pool());
            if let Some(pool) = pool {
                found.entry(pool).or_default().extend(nodes_of(&spec["nodeAffinity"]));
            }
        }
        if page.metadata.next.is_empty() {
            return Ok(found);
        }
        next = page.metadata.next;
    }
}

/// The nodes that a PersistentVolume's affinity names.
pub(in crate::cluster) fn nodes_of(affinity: &Value) -> Vec<NodeId> {
    let terms = affinity["required"]["nodeSelectorTerms"].as_array().into_iter().flatten();
    let rules = terms.flat_map(|term| term["matchExpressions"].as_array().into_iter().flatten());
    let ours = rules.filter(|rule| rule["key"] == TOPOLOGY_KEY && rule["operator"] == "In");
    let names = ours.flat_map(|rule| rule["values"].as_array().into_iter().flatten());
    names.filter_map(|name| name.as_str()?.parse().ok()).collect()
}

/// An event about a node that is gone.
async fn tell(api: &Kubernetes, driver: &str, pool: PoolId, node: &NodeId) -> Answer<()> {
    let millis = Time::now().millis();
    let time = prost_types::Timestamp { seconds: i64::try_from(millis / 1000).unwrap_or_default(), nanos: 0 };
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "name": format!("{node}.{pool}.{millis:x}"), "namespace": "default" },
        "type": "Warning",
        "reason": "PoolLost",
        "message": format!("Node {node} was deleted; its pool {pool} is declared lost, and volumes in it can be deleted."),
        "involvedObject": { "apiVersion": "v1", "kind": "Node", "name": node.as_str() },
        "source": { "component": driver },
        "firstTimestamp": time.to_string(),
        "lastTimestamp": time.to_string(),
        "count": 1,
    });
    api.post::<Value>("/api/v1/namespaces/default/events", &event).await.map(drop)
}
