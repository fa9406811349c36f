//! Who is connected to this controller.
//!
//! Owns: that a node has one link, and which of two counts. Never: trusts a name: it was proven before it comes here.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Instance, Line};
use crate::model::NodeId;

/// A connected node.
#[derive(Clone, Debug)]
pub struct Link {
    /// Which.
    pub node: NodeId,
    /// Its process.
    pub instance: Instance,
    /// The how-manyth connection of that process.
    pub attempt: u64,
    /// The version of its program.
    pub version: String,
    /// The version of the link that both speak.
    pub protocol: u32,
    /// Since when it is connected.
    pub since: Instant,
    /// What calls go through.
    pub line: Line,
}

/// The connected nodes.
#[derive(Debug)]
pub struct Links {
    linked: Mutex<BTreeMap<NodeId, Link>>,
    /// Counts comings and goings.
    changes: watch::Sender<u64>,
}

impl Default for Links {
    fn default() -> Self {
        Links { linked: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl Links {
    /// The link of a node.
    pub fn of(&self, node: &NodeId) -> Option<Link> {
        self.lock().get(node).cloned()
    }

    /// Every link, by node.
    pub fn all(&self) -> Vec<Link> {
        self.lock().values().cloned().collect()
    }

    /// Tells of every coming and going from now on.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether a connection comes too late: the same process has made a newer one.
    pub(super) fn is_stale(&self, node: &NodeId, instance: Instance, attempt: u64) -> bool {
        let linked = self.lock();
        linked.get(node).is_some_and(|link| link.instance == instance && link.attempt >= attempt)
    }

    /// Takes a link in; the one before it is returned. It ends when the calls that run on it have ended. Refused, and itself
    /// returned, where it came too late after all.
    pub(super) fn add(&self, link: Link) -> Result<Option<Link>, Link> {
        let mut linked = self.lock();
        let later = |before: &Link| before.instance == link.instance && before.attempt >= link.attempt;
        let stays = |before: &Link| later(before) || planted!("stale-link-kept");
        if linked.get(&link.node).is_some_and(stays) {
            return Err(link);
        }
        let before = linked.insert(link.node.clone(), link);
        drop(linked);
        self.changes.send_modify(|count| *count += 1);
        Ok(before)
    }

    /// Forgets a link whose connection ended, unless another has taken its place.
    pub(super) fn remove(&self, node: &NodeId, instance: Instance, attempt: u64) {
        let mut linked = self.lock();
        let same = |link: &Link| link.instance == instance && link.attempt == attempt;
        if linked.get(node).is_some_and(same) {
            linked.remove(node);
            drop(linked);
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// Forgets all links, and so ends their connections once their calls have ended.
    pub(super) fn clear(&self) {
        self.lock().clear();
        self.changes.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Link>> {
        self.linked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
