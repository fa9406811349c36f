//! The router: the CSI services of a controller, which has no storage of its own.
//!
//! Owns: which node answers a call, in what order nodes are asked, and what a caller hears when one cannot be asked. Never:
//! keeps state that matters: everything here is what nodes told, and another controller does the same at the same time. The
//! node is the one place of order.
//!
//! ```text
//!   a call ── csi::checked ── by id:   the pool in the id ── Known::holder ── forward
//!             INVALID_…       create:  who holds the name, who may, who has room ── forward
//!                             lists:   every pool in the order of its id ── forward, merged
//!                             room:    from what nodes told, nobody is asked
//! ```
//!
//! # What a failure means
//! Only what a node said itself is passed on (`link::told`). A node that is away, that has not told what it has, or that does
//! not answer in time makes the answer UNAVAILABLE: never NOT_FOUND, and never a shorter list. Only what is surely gone is: a
//! node that no longer exists (`cluster::roster`) is not waited for, and a pool that was declared lost (`cluster::lost`) holds
//! nothing.

mod capacity;
mod controller;
mod create;
mod forward;
mod groups;
mod identity;
mod lists;
mod place;
#[cfg(test)]
mod tests;
mod transfer;
mod tried;
mod upkeep;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use self::tried::Tried;
pub(in crate::cluster) use self::upkeep::nodes_of;
use super::kubernetes::Kubernetes;
use super::link::Links;
use super::lost::Lost;
use super::news::{Known, Seen, Standing};
use super::roster::Roster;
use crate::error::{Error, Result};
use crate::model::{Features, NodeId, PoolId};
use crate::proto::csi::controller_server::ControllerServer;
use crate::proto::csi::group_controller_server::GroupControllerServer;
use crate::proto::csi::identity_server::IdentityServer;
use crate::proto::csi::snapshot_metadata_server::SnapshotMetadataServer;

/// How long what may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The longest call; a caller's own deadline may be shorter.
    pub answer: Duration,
    /// So long before its deadline a caller hears that there is no answer, and from which node.
    pub margin: Duration,
    /// After the start, until nodes that have not connected are taken for absent.
    pub start: Duration,
    /// After it one candidate among several that is away is passed over.
    pub away: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            answer: Duration::from_secs(60),
            margin: Duration::from_millis(300),
            start: Duration::from_secs(10),
            away: Duration::from_secs(300),
        }
    }
}

/// The services of a controller; clones are the same one.
#[derive(Clone)]
pub struct Router(Arc<Inner>);

/// What a router stands on; the default knows nothing.
#[derive(Clone, Default)]
pub struct Ground {
    /// Who is connected.
    pub links: Arc<Links>,
    /// What the nodes told.
    pub known: Arc<Known>,
    /// Which nodes ought to be there.
    pub roster: Arc<Roster>,
    /// Which pools are lost.
    pub lost: Arc<Lost>,
    /// Where the volumes of deleted nodes are looked up.
    pub kubernetes: Option<Kubernetes>,
}

struct Inner {
    driver: String,
    features: Features,
    links: Arc<Links>,
    known: Arc<Known>,
    roster: Arc<Roster>,
    lost: Arc<Lost>,
    kubernetes: Option<Kubernetes>,
    patience: Patience,
    began: Instant,
    tried: Tried,
    /// Pools that were asked for and of which nothing is known.
    unknown: Mutex<BTreeSet<PoolId>>,
    /// Pools whose orphans were reported.
    reported: Mutex<BTreeSet<PoolId>>,
    /// Pools in which PersistentVolumes lay when they were last read; why they have not been read yet.
    placed: Mutex<std::result::Result<BTreeSet<PoolId>, String>>,
}

impl Router {
    /// The services of the driver of this name. They offer what pools with these features can do.
    pub fn new(ground: Ground, driver: String, features: Features, patience: Patience) -> Router {
        let Ground { links, known, roster, lost, kubernetes } = ground;
        Router(Arc::new(Inner {
            driver,
            features,
            links,
            known,
            roster,
            lost,
            kubernetes,
            patience,
            began: Instant::now(),
            tried: Tried::default(),
            unknown: Mutex::default(),
            reported: Mutex::default(),
            placed: Mutex::new(Err("it has only just started".to_owned())),
        }))
    }

    /// Listens to what the nodes tell, until the future is dropped. Without it no node can be asked.
    pub async fn follow(self) {
        Arc::clone(&self.0.known).follow(Arc::clone(&self.0.links)).await;
    }

    /// What is known of the nodes.
    pub fn known(&self) -> &Arc<Known> {
        &self.0.known
    }

    /// Which nodes ought to be there.
    pub fn roster(&self) -> &Arc<Roster> {
        &self.0.roster
    }

    /// Which pools are lost.
    pub fn lost(&self) -> &Arc<Lost> {
        &self.0.lost
    }

    /// The Identity service.
    pub fn identity(&self) -> IdentityServer<Router> {
        IdentityServer::new(self.clone())
    }

    /// The Controller service.
    pub fn controller(&self) -> ControllerServer<Router> {
        ControllerServer::new(self.clone())
    }

    /// The GroupController service.
    pub fn group_controller(&self) -> GroupControllerServer<Router> {
        GroupControllerServer::new(self.clone())
    }

    /// The SnapshotMetadata service, which says that it is not offered.
    pub fn snapshot_metadata(&self) -> SnapshotMetadataServer<Router> {
        SnapshotMetadataServer::new(self.clone())
    }

    /// Why nobody can be taken for absent yet: it is not known who ought to be there, or nodes may still be on their way to a
    /// controller that has only just started.
    fn starting(&self) -> Option<String> {
        if let Some(why) = self.0.roster.unread() {
            return Some(format!("this controller has not learnt yet which nodes there are ({why})"));
        }
        let is_starting = self.0.began.elapsed() < self.0.patience.start && !self.is_complete();
        is_starting.then(|| "this controller has only just started, and waits for its nodes".to_owned())
    }

    /// Whether everybody who ought to be there is, and has told everything.
    fn is_complete(&self) -> bool {
        self.expected().is_some_and(|nodes| {
            !nodes.is_empty() && nodes.iter().all(|seen| seen.standing == Standing::Told)
        })
    }

    /// The nodes that ought to be there, whether they ever were or not; none where that is not known.
    fn expected(&self) -> Option<Vec<Seen>> {
        let nodes = self.0.roster.expected()?;
        Some(nodes.into_iter().map(|node| self.seen(node)).collect())
    }

    /// What is known of a node. Who was never seen may have anything: this controller is not all that was ever there.
    fn seen(&self, node: NodeId) -> Seen {
        self.0.known.node(&node).unwrap_or_else(|| Seen::never(node, self.0.began))
    }

    /// The nodes that ought to be there and have told this controller nothing yet.
    pub fn unheard(&self) -> impl Iterator<Item = Seen> {
        let expected = self.expected().unwrap_or_default();
        expected.into_iter().filter(|seen| seen.heard.is_none())
    }

    /// How many nodes ought to be there and were never seen by this controller.
    pub fn never_seen(&self) -> usize {
        let expected = self.0.roster.expected().unwrap_or_default();
        expected.iter().filter(|node| self.0.known.node(node).is_none()).count()
    }

    /// Whether a node no longer exists. One that is connected does, whatever is said of it.
    fn is_gone(&self, node: &NodeId) -> bool {
        match self.0.known.node(node) {
            Some(seen) => self.is_over(&seen),
            None => self.0.roster.is_gone(node),
        }
    }

    /// The same of a node of which something is known.
    fn is_over(&self, seen: &Seen) -> bool {
        seen.standing == Standing::Away && self.0.roster.is_gone(&seen.node)
    }

    /// Whether a pool was declared lost. One that a connected node has, or had when it last told, is not.
    pub(super) fn is_lost(&self, pool: PoolId) -> bool {
        self.0.lost.is_declared(pool) && self.0.known.present(pool).is_empty()
    }

    /// Whether nothing that a node once had can matter any more.
    fn is_written_off(&self, node: &NodeId) -> bool {
        let Some(seen) = self.0.known.node(node).filter(|seen| seen.standing == Standing::Away) else {
            return false;
        };
        let is_lost = |pool: PoolId| self.0.lost.is_declared(pool);
        let pools_are = || seen.pools.values().all(|pool| pool.id.is_some_and(is_lost));
        let all_are =
            seen.heard.is_some() && pools_are() && self.0.known.missing(node).into_iter().all(is_lost);
        all_are || self.is_gone(node)
    }

    /// The nodes where a name may be taken.
    fn holding(&self, hash: u64) -> Vec<NodeId> {
        let holding = self.0.known.holding(hash).into_iter();
        holding.filter(|node| !self.is_written_off(node)).collect()
    }

    /// The node that has a pool, and that can be called about it now.
    ///
    /// # Errors
    /// `NotFound` where the pool is lost, `Unavailable` where its node cannot be asked.
    fn holder(&self, pool: PoolId) -> Result<NodeId> {
        if self.is_lost(pool) {
            return Err(Error::NotFound(format!(
                "pool {pool} was declared lost, and with it what was in it"
            )));
        }
        self.0.known.holder(pool)
    }

    /// The same for who only asks how things are: also the node that says that the disk is gone.
    fn witness(&self, pool: PoolId) -> Result<NodeId> {
        let holder = self.holder(pool);
        if matches!(holder, Err(Error::Unavailable(_))) { self.0.known.witness(pool) } else { holder }
    }

    /// Refuses an operator's word that a pool is lost while a node that is there may be about to tell of it.
    ///
    /// # Errors
    /// `Unavailable`.
    pub fn refuse_unheard(&self, pool: PoolId) -> Result<()> {
        let refusal = |why: String| {
            Err(Error::Unavailable(format!("whether pool {pool} is lost is not known yet: {why}; ask again")))
        };
        if let Some(why) = self.starting() {
            return refusal(why);
        }
        let nodes = self.0.known.nodes();
        let untold = nodes.iter().find(|seen| seen.standing == Standing::Untold);
        untold.map_or(Ok(()), |seen| refusal(seen.to_string()))
    }

    /// Whether a node has a pool, and no other has: what it says of a volume there is believed.
    fn is_its_own(&self, node: &NodeId, pool: PoolId) -> bool {
        matches!(&self.0.known.live(pool)[..], [only] if only == node)
    }

    fn unknown(&self) -> MutexGuard<'_, BTreeSet<PoolId>> {
        self.0.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn placed(&self) -> MutexGuard<'_, std::result::Result<BTreeSet<PoolId>, String>> {
        self.0.placed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reported(&self) -> MutexGuard<'_, BTreeSet<PoolId>> {
        self.0.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
