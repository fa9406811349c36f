//! How much room each node has for a class, and whether it can have such a volume at all.
//!
//! Owns: capacity objects as the scheduler reads them. Never: says what that means for a claim.

use std::collections::BTreeMap;

use serde_json::Value;

use super::facts::{Facts, name_of, quantity, text};
use super::fit::{is_allowed, is_selected, refusals};
use crate::model::{Bytes, TOPOLOGY_KEY};

/// A node, as a place for the volume.
pub(super) struct Spot {
    pub(super) name: String,
    /// The most that one volume can have; none where nothing was published.
    pub(super) room: Option<Bytes>,
    /// Why there can be none, whatever the room.
    pub(super) barred: Option<&'static str>,
    /// Why the pod cannot run there.
    pub(super) refusals: Vec<String>,
}

impl Spot {
    pub(super) fn has(&self, asked: Bytes) -> bool {
        self.barred.is_none() && self.room.is_some_and(|room| room >= asked)
    }

    /// The node and what it has, as a phrase.
    pub(super) fn told(&self) -> String {
        match (self.barred, self.room) {
            (Some(why), _) => format!("{}: {why}", self.name),
            (None, Some(room)) => format!("{}: {room}", self.name),
            (None, None) => format!("{}: no capacity published", self.name),
        }
    }
}

/// The most that one volume can have, as the scheduler reads it.
fn room_of(capacity: &Value) -> Option<Bytes> {
    let most = text(capacity, "/maximumVolumeSize");
    quantity(if most.is_empty() { text(capacity, "/capacity") } else { most })
}

/// What was published for the class of the claim.
pub(super) fn published<'a>(facts: &'a Facts, class: &Value) -> impl Iterator<Item = &'a Value> + use<'a> {
    let class = name_of(class).to_owned();
    facts.capacities.iter().flatten().filter(move |one| one["storageClassName"] == class.as_str())
}

/// All nodes; where they may not be read, those that capacity was published for.
pub(super) fn spots(facts: &Facts, class: &Value, pod: Option<&Value>) -> Vec<Spot> {
    let Some(nodes) = &facts.nodes else {
        let spot = |one: &Value| {
            let name = one["nodeTopology"]["matchLabels"][TOPOLOGY_KEY].as_str()?.to_owned();
            Some(Spot { name, room: room_of(one), barred: None, refusals: Vec::new() })
        };
        return published(facts, class).filter_map(spot).collect();
    };
    let (rooms, with_driver) = (Rooms::of(facts, class), facts.with_driver());
    let spot = |node: &Value| {
        let name = name_of(node);
        let barred = if with_driver.as_ref().is_some_and(|nodes| !nodes.contains(name)) {
            Some("the driver is not registered")
        } else if is_allowed(node, class) {
            None
        } else {
            Some("the class's allowedTopologies exclude it")
        };
        let refusals = pod.map(|pod| refusals(node, pod)).unwrap_or_default();
        Spot { name: name.to_owned(), room: rooms.at(node), barred, refusals }
    };
    nodes.iter().map(spot).collect()
}

/// What was published for a class, found by node: a cluster has thousands of both.
struct Rooms<'a> {
    by_name: BTreeMap<&'a str, Bytes>,
    /// For those that are selected by anything else.
    others: Vec<(&'a Value, Bytes)>,
}

impl<'a> Rooms<'a> {
    fn of(facts: &'a Facts, class: &Value) -> Rooms<'a> {
        let mut rooms = Rooms { by_name: BTreeMap::new(), others: Vec::new() };
        for one in published(facts, class) {
            let (selector, room) = (&one["nodeTopology"], room_of(one));
            let labels = selector["matchLabels"].as_object().filter(|labels| labels.len() == 1);
            let name = labels.and_then(|labels| labels.get(TOPOLOGY_KEY)?.as_str());
            match (room, name.filter(|_| selector["matchExpressions"].is_null())) {
                (Some(room), Some(name)) => {
                    let most = rooms.by_name.entry(name).or_default();
                    *most = room.max(*most);
                }
                (Some(room), None) if selector.is_object() => rooms.others.push((selector, room)),
                (_, _) => {}
            }
        }
        rooms
    }

    fn at(&self, node: &Value) -> Option<Bytes> {
        let name = node["metadata"]["labels"][TOPOLOGY_KEY].as_str();
        let by_name = name.and_then(|name| self.by_name.get(name).copied());
        let others = self.others.iter().filter(|(selector, _)| is_selected(node, selector));
        by_name.into_iter().chain(others.map(|(_, room)| *room)).max()
    }
}
