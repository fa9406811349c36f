//! What is wrong with nodes and pools, from what Kubernetes says and what nodes tell.
//!
//! Owns: for how long something is so before it is a finding. Never: asks anybody; counts time in which Kubernetes could not be seen
//! against a node; looks at a clock but the one that its caller passes, which does not jump.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::finding::{Finding, Object, Reason, count};
use super::kinds::{CsiNode, Node, PersistentVolume, PersistentVolumeClaim, StorageClass};
use super::stores::Stores;
use crate::cluster::news::{Pool, Seen, Standing};
use crate::error::quoted;
use crate::model::{NodeId, PoolId};

/// What Kubernetes says, all of it as of now.
pub(super) struct Scene {
    pub(super) volumes: Vec<Arc<PersistentVolume>>,
    pub(super) claims: Vec<Arc<PersistentVolumeClaim>>,
    pub(super) nodes: Vec<Arc<Node>>,
    pub(super) csi_nodes: Vec<Arc<CsiNode>>,
    pub(super) classes: Vec<Arc<StorageClass>>,
}

impl Scene {
    /// None while a part of it is not known.
    pub(super) fn of(stores: &Stores) -> Option<Scene> {
        Some(Scene {
            volumes: stores.volumes.all()?,
            claims: stores.claims.all()?,
            nodes: stores.nodes.all()?,
            csi_nodes: stores.csi_nodes.all()?,
            classes: stores.classes.all()?,
        })
    }
}

/// What holds for a judge.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) driver: String,
    /// How long a node is gone before that is reported, where a class does not say.
    pub(super) gone_after: Duration,
    /// How long a pool is unwell: it may only just be opened, or its disk be moved.
    pub(super) unwell: Duration,
}

/// What was noticed, and since when.
pub(super) struct Judge {
    terms: Terms,
    /// When Kubernetes was seen last, and for how long it was in all.
    seen: Option<Instant>,
    clock: Duration,
    /// Since when nodes are gone, by that clock.
    gone: BTreeMap<NodeId, Duration>,
    /// Since when pools are unwell, by node and name.
    unwell: BTreeMap<(NodeId, String, Reason), Instant>,
}

/// What keeps the volumes of a node from being used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Deleted,
    NotReady,
    Unregistered,
}

impl Trouble {
    fn reason(self) -> Reason {
        match self {
            Trouble::Deleted | Trouble::NotReady => Reason::NodeGone,
            Trouble::Unregistered => Reason::DriverNotRegistered,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Trouble::Deleted => "is deleted",
            Trouble::NotReady => "is not ready",
            Trouble::Unregistered => "does not have the driver registered with its kubelet",
        }
    }

    fn way_out(self) -> &'static str {
        match self {
            Trouble::Deleted => {
                "if it never comes back, delete their claims, or move its disks to another node"
            }
            Trouble::NotReady => {
                "see `kubectl describe node`; if it never comes back, delete the node and then their claims"
            }
            Trouble::Unregistered => "see the pod of the driver on it",
        }
    }
}

impl Judge {
    pub(super) fn new(terms: Terms) -> Judge {
        let (gone, unwell) = (BTreeMap::new(), BTreeMap::new());
        Judge { terms, seen: None, clock: Duration::ZERO, gone, unwell }
    }

    /// Kubernetes cannot be seen: until it can again no time passes.
    pub(super) fn blink(&mut self) {
        self.seen = None;
    }

    /// The nodes that are gone for too long for volumes that lie on them; one finding for each, and one for each claim.
    pub(super) fn nodes(&mut self, scene: &Scene, seen: &[Seen], now: Instant) -> Vec<Finding> {
        self.clock += self.seen.map_or(Duration::ZERO, |before| now - before);
        self.seen = Some(now);
        let view = View::new(scene, seen, &self.terms);
        let troubles = view.troubles();
        self.gone.retain(|node, _| troubles.contains_key(node));
        let mut found = Vec::new();
        for (node, (trouble, volumes)) in &troubles {
            let since = *self.gone.entry(node.clone()).or_insert(self.clock);
            let is_due = |volume: &PersistentVolume| self.clock - since >= view.gone_after(volume);
            let lost: Vec<&PersistentVolume> = volumes.iter().copied().filter(|it| is_due(it)).collect();
            if !lost.is_empty() {
                found.push(view.of_node(node, *trouble, lost.len()));
                found.extend(lost.iter().filter_map(|volume| view.of_claim(node, *trouble, volume)));
            }
        }
        found
    }

    /// The pools that are unwell for a while, and those that were and are not any more.
    pub(super) fn pools(
        &mut self,
        seen: &[Seen],
        uid: impl Fn(&NodeId) -> Option<String>,
        now: Instant,
    ) -> Vec<Finding> {
        let ill = ill(seen);
        let mut found = self.healed(seen, &ill, now);
        for ((node, name, reason), why) in ill {
            let since = *self.unwell.entry((node.clone(), name.clone(), reason)).or_insert(now);
            if now.duration_since(since) >= self.terms.unwell {
                found.push(((node, name), reason, why));
            }
        }
        let shown =
            |(at, reason, why): (At, Reason, String)| of_pool(&at, reason, &why, uid(&at.0).as_deref());
        found.into_iter().map(shown).collect()
    }

    /// The pools that were unwell for long enough to be told, and are well. What is over is forgotten.
    fn healed(&mut self, seen: &[Seen], ill: &Ill, now: Instant) -> Vec<(At, Reason, String)> {
        let told: BTreeMap<&NodeId, &Seen> = told(seen).map(|seen| (&seen.node, seen)).collect();
        let mut healed = BTreeSet::new();
        self.unwell.retain(|key @ (node, name, _), since| {
            // Who does not tell says nothing, and a pool that was taken out of the file is not well.
            let Some(seen) = told.get(node) else { return true };
            let is_well = seen.pools.get(name).is_some_and(|pool| unwell(pool).is_empty());
            if is_well && now.duration_since(*since) >= self.terms.unwell {
                healed.insert((node.clone(), name.clone()));
            }
            ill.contains_key(key)
        });
        let well = |at| (at, Reason::PoolHealthy, "it can be used again".to_owned());
        healed.into_iter().map(well).collect()
    }
}

/// A pool by its node and its name there.
type At = (NodeId, String);
/// What is wrong with which pool, and why.
type Ill = BTreeMap<(NodeId, String, Reason), String>;

fn told(seen: &[Seen]) -> impl Iterator<Item = &Seen> {
    seen.iter().filter(|seen| seen.standing == Standing::Told)
}

/// All that is wrong now. A pool that is gone from a node, and that another has, has moved: nothing is wrong with that.
fn ill(seen: &[Seen]) -> Ill {
    let has = |pool: &&Pool| pool.gone.is_none() && pool.away.is_none();
    let here: BTreeSet<PoolId> =
        told(seen).flat_map(|seen| seen.pools.values()).filter(has).filter_map(|pool| pool.id).collect();
    let mut ill = Ill::new();
    for seen in told(seen) {
        for (name, pool) in seen.pools.iter() {
            let has_moved =
                pool.gone.is_some() && !pool.twice && pool.id.is_some_and(|id| here.contains(&id));
            if !has_moved {
                let wrong = unwell(pool).into_iter();
                ill.extend(wrong.map(|(reason, why)| ((seen.node.clone(), name.clone(), reason), why)));
            }
        }
    }
    ill
}

/// What is wrong with a pool, and why: the worst of what keeps it from being used, and records that cannot be read.
fn unwell(pool: &Pool) -> Vec<(Reason, String)> {
    let away = pool.away.clone().unwrap_or_default();
    let mut wrong = Vec::new();
    if pool.twice {
        wrong.push((
            Reason::PoolCopied,
            format!("another node announces it, too, so neither is used: is its disk a copy? {away}"),
        ));
    } else if pool.gone.is_some() {
        wrong.push((Reason::PoolGone, format!("its disk is not at this node any more: {away}")));
    } else if pool.away.is_some() {
        wrong.push((Reason::PoolAway, format!("it cannot be used: {away}")));
    } else if let Some(why) = &pool.read_only {
        wrong.push((Reason::PoolReadOnly, format!("it can be read and not be changed: {why}")));
    }
    if pool.quarantined > 0 {
        let records = count(usize::try_from(pool.quarantined).unwrap_or(usize::MAX), "record");
        let why = format!(
            "{records} in it cannot be read; `rockpool ctl doctor` on the node says which, and what can be done"
        );
        wrong.push((Reason::RecordQuarantined, why));
    }
    wrong
}

fn of_pool((node, name): &At, reason: Reason, why: &str, uid: Option<&str>) -> Finding {
    Finding {
        reason,
        subject: format!("{node}/{name}"),
        about: Object::node(node, uid),
        note: format!("Pool {} of node {node}: {}", quoted(name), why.trim_end_matches([' ', ':'])),
    }
}

/// What is asked of a scene again and again.
struct View<'a> {
    terms: &'a Terms,
    volumes: Vec<&'a PersistentVolume>,
    claims: BTreeSet<&'a str>,
    nodes: BTreeMap<&'a str, &'a Node>,
    registered: BTreeSet<&'a str>,
    classes: BTreeMap<&'a str, Duration>,
    connected: BTreeSet<&'a NodeId>,
}

impl<'a> View<'a> {
    fn new(scene: &'a Scene, seen: &'a [Seen], terms: &'a Terms) -> View<'a> {
        let has_driver = |node: &&Arc<CsiNode>| node.drivers.contains(&terms.driver);
        let of_class = |class: &'a Arc<StorageClass>| Some((&*class.name, class.gone_after?));
        let connected = seen.iter().filter(|seen| seen.standing != Standing::Away);
        View {
            terms,
            // What is being deleted needs nobody's care.
            volumes: scene.volumes.iter().map(AsRef::as_ref).filter(|volume| !volume.is_leaving).collect(),
            claims: scene.claims.iter().map(|claim| &*claim.uid).collect(),
            nodes: scene.nodes.iter().map(|node| (&*node.name, node.as_ref())).collect(),
            registered: scene.csi_nodes.iter().filter(has_driver).map(|node| &*node.name).collect(),
            classes: scene.classes.iter().filter_map(of_class).collect(),
            connected: connected.map(|seen| &seen.node).collect(),
        }
    }

    /// The nodes with volumes that can be used nowhere now, with those volumes.
    fn troubles(&self) -> BTreeMap<NodeId, (Trouble, Vec<&'a PersistentVolume>)> {
        let mut troubles = BTreeMap::new();
        for volume in &self.volumes {
            let [node] = &volume.nodes[..] else { continue };
            if let Some(trouble) = self.trouble(node) {
                troubles.entry(node.clone()).or_insert((trouble, Vec::new())).1.push(*volume);
            }
        }
        troubles
    }

    fn trouble(&self, node: &NodeId) -> Option<Trouble> {
        match self.nodes.get(node.as_str()) {
            // It is there, whatever is said of it.
            None if self.connected.contains(node) => None,
            None => Some(Trouble::Deleted),
            Some(it) if !it.is_ready => Some(Trouble::NotReady),
            Some(_) => (!self.registered.contains(node.as_str())).then_some(Trouble::Unregistered),
        }
    }

    fn gone_after(&self, volume: &PersistentVolume) -> Duration {
        self.classes.get(&*volume.class).copied().unwrap_or(self.terms.gone_after)
    }

    fn of_node(&self, node: &NodeId, trouble: Trouble, volumes: usize) -> Finding {
        let volumes = count(volumes, "volume");
        Finding {
            reason: trouble.reason(),
            subject: node.to_string(),
            about: Object::node(node, self.nodes.get(node.as_str()).map(|node| &*node.uid)),
            note: format!(
                "Node {node} {}, and {volumes} of {} lie on it alone: {}",
                trouble.words(),
                self.terms.driver,
                trouble.way_out()
            ),
        }
    }

    /// On the claim, where that is still there.
    fn of_claim(&self, node: &NodeId, trouble: Trouble, volume: &PersistentVolume) -> Option<Finding> {
        let claim = volume.claim.as_ref().filter(|claim| self.claims.contains(&*claim.uid))?;
        Some(Finding {
            reason: trouble.reason(),
            subject: format!("{node}/{}", volume.name),
            about: Object::claim(claim),
            note: format!(
                "The volume lies on node {node} alone, which {}: {}",
                trouble.words(),
                trouble.way_out()
            ),
        })
    }
}
