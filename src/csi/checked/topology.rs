//! Where things are to be reachable from.
//!
//! Owns: the reading of topology on the wire. A volume or snapshot is reachable from exactly one node, named by one key.
//! Never: knows which nodes there are.

use std::collections::HashSet;

use crate::csi::parse::missing;
use crate::error::{Error, Result, quoted};
use crate::model::TOPOLOGY_KEY;
use crate::proto::csi;

/// Which nodes something is to be reachable from, as a caller says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirement {
    /// The nodes of which any one will do, in the order sent; none: any node at all.
    pub requisite: Vec<String>,
    /// The nodes that are liked better than others, the best first. Where `requisite` has any, they are among those.
    pub preferred: Vec<String>,
}

/// Whether a node satisfies a requirement.
#[derive(Debug, PartialEq, Eq)]
pub enum Reach {
    /// It does.
    Here,
    /// It does not; these nodes would, as text.
    Elsewhere(String),
}

impl Requirement {
    /// Whether what lies on this node satisfies it. With a wish only, any node will do: none that is wished for may be asked.
    pub fn reach(&self, node_id: &str) -> Reach {
        if self.requisite.is_empty() || self.requisite.iter().any(|node| node == node_id) {
            return Reach::Here;
        }
        let nodes: Vec<_> = self.requisite.iter().take(8).map(|node| quoted(node)).collect();
        Reach::Elsewhere(nodes.join(", "))
    }
}

/// Reads `accessibility_requirements`; where there are none, nothing is required.
///
/// # Errors
/// `Invalid` for an empty requirement, an unknown key, and a preference that is not among the requisite.
pub(super) fn requirement(asked: Option<&csi::TopologyRequirement>) -> Result<Requirement> {
    let Some(csi::TopologyRequirement { requisite, preferred }) = asked else {
        return Ok(Requirement::default());
    };
    let field = "accessibility_requirements";
    if requisite.is_empty() && preferred.is_empty() {
        return Err(missing(
            &format!("{field}.requisite"),
            "want at least one topology, or no requirement at all",
        ));
    }
    let nodes = nodes(&format!("{field}.requisite"), requisite)?;
    let wishes = self::nodes(&format!("{field}.preferred"), preferred)?;
    // A set: a large cluster sends all its nodes in both lists.
    let known: HashSet<&str> = nodes.iter().copied().collect();
    if let Some(n) = wishes.iter().position(|wish| !requisite.is_empty() && !known.contains(wish)) {
        return Err(Error::invalid(
            &format!("{field}.preferred[{n}]"),
            wishes[n],
            "want only topologies that are in requisite too",
        ));
    }
    let owned = |nodes: Vec<&str>| nodes.into_iter().map(str::to_owned).collect();
    Ok(Requirement { requisite: owned(nodes), preferred: owned(wishes) })
}

/// Reads the topology of GetCapacity: the node that is meant; none where it is absent or empty, which means all.
///
/// # Errors
/// `Invalid` for an unknown key.
pub(super) fn segment(asked: Option<&csi::Topology>) -> Result<Option<&str>> {
    let asked = asked.filter(|topology| !topology.segments.is_empty());
    asked.map(|topology| node("accessible_topology", topology)).transpose()
}

fn nodes<'a>(field: &str, all: &'a [csi::Topology]) -> Result<Vec<&'a str>> {
    all.iter().enumerate().map(|(n, topology)| node(&format!("{field}[{n}]"), topology)).collect()
}

fn node<'a>(field: &str, topology: &'a csi::Topology) -> Result<&'a str> {
    if let Some(key) = topology.segments.keys().find(|key| *key != TOPOLOGY_KEY) {
        return Err(Error::invalid(
            &format!("{field}.segments key"),
            key,
            format!("want only `{TOPOLOGY_KEY}`"),
        ));
    }
    let node = topology.segments.get(TOPOLOGY_KEY);
    node.map(String::as_str).ok_or_else(|| missing(&format!("{field}.segments"), "want a node"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::describe::place;

    fn at(nodes: &[&str]) -> Vec<csi::Topology> {
        nodes.iter().map(|node| place(node)).collect()
    }

    fn read(requisite: Vec<csi::Topology>, preferred: Vec<csi::Topology>) -> Result<Reach> {
        Ok(requirement(Some(&csi::TopologyRequirement { requisite, preferred }))?.reach("n1"))
    }

    #[test]
    fn a_node_is_reached_if_it_is_among_the_requisite() {
        assert_eq!(requirement(None).unwrap().reach("n1"), Reach::Here);
        assert_eq!(read(at(&["n2", "n1"]), at(&["n2"])).unwrap(), Reach::Here);
        assert_eq!(read(at(&[]), at(&["n2"])).unwrap(), Reach::Here);
        assert_eq!(read(at(&["n2"]), at(&["n2"])).unwrap(), Reach::Elsewhere("`n2`".into()));
    }

    #[test]
    fn requirements_that_say_nothing_or_contradict_themselves_are_refused() {
        let foreign = csi::Topology { segments: [("zone".to_owned(), "a".to_owned())].into() };
        let empty = csi::Topology::default();
        for (requisite, preferred, shown) in [
            (vec![], vec![], "requisite"),
            (vec![foreign.clone()], vec![], "requisite[0].segments key `zone`"),
            (at(&["n1"]), vec![foreign], "preferred[0].segments key `zone`"),
            (vec![empty], vec![], "requisite[0]"),
            (at(&["n1"]), at(&["n1", "n2"]), "preferred[1] `n2`"),
        ] {
            let error = read(requisite, preferred).unwrap_err();
            assert!(matches!(&error, Error::Invalid(text) if text.contains(shown)), "{error}");
        }
    }

    #[test]
    fn both_lists_keep_their_order() {
        let read = |requisite, preferred| {
            requirement(Some(&csi::TopologyRequirement { requisite, preferred })).unwrap()
        };
        let both = read(at(&["n3", "n1", "n2"]), at(&["n2", "n3"]));
        assert_eq!((both.requisite, both.preferred), (owned(&["n3", "n1", "n2"]), owned(&["n2", "n3"])));
        let wish = read(at(&[]), at(&["n2"]));
        assert_eq!((wish.requisite, wish.preferred), (Vec::new(), owned(&["n2"])));
    }

    fn owned(nodes: &[&str]) -> Vec<String> {
        nodes.iter().map(|&node| node.to_owned()).collect()
    }

    #[test]
    fn capacity_is_asked_for_a_place_or_for_all() {
        assert_eq!(segment(None).unwrap(), None);
        assert_eq!(segment(Some(&csi::Topology::default())).unwrap(), None);
        assert_eq!(segment(Some(&place("n1"))).unwrap(), Some("n1"));
        assert!(segment(Some(&csi::Topology { segments: [("zone".into(), "a".into())].into() })).is_err());
    }
}
