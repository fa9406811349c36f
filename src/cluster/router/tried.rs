//! Where volumes were tried to be made in the last minutes.
//!
//! Owns: the memory that bridges the moment until a node has told of a new name. Nothing is wrong without it, but that a retry
//! in that moment could choose another node. Never: outlives the process, or is the only reason for an answer.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::NodeId;

/// How long an attempt with an open outcome is remembered: for longer than a node is silent before it is away.
const OPEN: Duration = Duration::from_secs(600);
/// How long a success is: its node tells of it within seconds.
const MADE: Duration = Duration::from_secs(30);
/// From so many on the old ones are looked for.
const MANY: usize = 4096;

/// Hashes of names, the nodes that were asked, and until when that matters.
#[derive(Default)]
pub(super) struct Tried(Mutex<HashMap<u64, Vec<(NodeId, Instant)>>>);

impl Tried {
    /// The nodes that may hold a name, who was asked last before the others.
    pub(super) fn of(&self, hash: u64) -> Vec<NodeId> {
        let now = Instant::now();
        let tried = self.lock();
        let nodes = tried.get(&hash).into_iter().flatten().rev().filter(|(_, until)| *until > now);
        nodes.map(|(node, _)| node.clone()).collect()
    }

    /// A node is about to be asked.
    pub(super) fn begin(&self, hash: u64, node: &NodeId) {
        self.put(hash, node, OPEN);
    }

    /// It has made the volume, or had it; the others are not asked any more.
    pub(super) fn made(&self, hash: u64, node: &NodeId) {
        let until = Instant::now() + MADE;
        self.lock().insert(hash, vec![(node.clone(), until)]);
    }

    /// It surely has not.
    pub(super) fn forget(&self, hash: u64, node: &NodeId) {
        let mut tried = self.lock();
        if let Some(nodes) = tried.get_mut(&hash) {
            nodes.retain(|(there, _)| there != node);
            if nodes.is_empty() {
                tried.remove(&hash);
            }
        }
    }

    fn put(&self, hash: u64, node: &NodeId, time: Duration) {
        let now = Instant::now();
        let mut tried = self.lock();
        if tried.len() >= MANY && tried.len().is_power_of_two() {
            tried.retain(|_, nodes| nodes.iter().any(|(_, until)| *until > now));
        }
        let nodes = tried.entry(hash).or_default();
        nodes.retain(|(there, until)| there != node && *until > now);
        nodes.push((node.clone(), now + time));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Vec<(NodeId, Instant)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    #[test]
    fn an_attempt_is_remembered_until_it_cannot_matter() {
        let (tried, one, other) = (Tried::default(), node("n1"), node("n2"));
        tried.begin(1, &one);
        tried.put(2, &one, Duration::ZERO);
        assert_eq!((tried.of(1), tried.of(2)), (vec![one.clone()], vec![]));
        tried.forget(1, &other);
        assert_eq!(tried.of(1), vec![one.clone()], "it is another node's");
        tried.begin(1, &other);
        assert_eq!(tried.of(1), [other.clone(), one.clone()], "each of them may have it");
        tried.begin(1, &one);
        assert_eq!(tried.of(1), [one.clone(), other.clone()]);
        tried.forget(1, &one);
        assert_eq!(tried.of(1), vec![other.clone()]);
        tried.begin(1, &one);
        tried.made(1, &other);
        assert_eq!(tried.of(1), vec![other.clone()]);
        tried.forget(1, &other);
        assert!(tried.of(1).is_empty() && !tried.lock().contains_key(&1));
    }

    #[test]
    fn what_is_over_takes_no_memory() {
        let (tried, node) = (Tried::default(), node("n1"));
        (0..MANY as u64).for_each(|hash| tried.put(hash, &node, Duration::ZERO));
        tried.begin(u64::MAX, &node);
        assert_eq!(tried.lock().len(), 1);
    }
}
