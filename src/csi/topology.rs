//! Where things are to be reachable from.
//!
//! Owns: the reading of topology on the wire. A volume or snapshot is reachable from exactly one node, named by one key.

use std::collections::HashSet;

use crate::error::{Error, Result, quoted};
use crate::model::TOPOLOGY_KEY;
use crate::proto::csi;

use super::parse::missing;

/// Whether this node satisfies a requirement.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// It does.
    Here,
    /// It does not; these nodes would, as text.
    Elsewhere(String),
}

/// The place of everything on a node.
pub(super) fn place(node_id: &str) -> csi::Topology {
    csi::Topology { segments: [(TOPOLOGY_KEY.to_owned(), node_id.to_owned())].into() }
}

/// Reads `accessibility_requirements`.
///
/// # Errors
/// `Invalid` for an empty requirement, an unknown key, and a preference that is not among the requisite.
pub(super) fn requirement(asked: Option<&csi::TopologyRequirement>, node_id: &str) -> Result<Reach> {
    let Some(csi::TopologyRequirement { requisite, preferred }) = asked else {
        return Ok(Reach::Here);
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
    // With a wish only, this node will do where no other is asked.
    if requisite.is_empty() || known.contains(node_id) {
        return Ok(Reach::Here);
    }
    let nodes: Vec<_> = nodes.iter().take(8).map(|node| quoted(node)).collect();
    Ok(Reach::Elsewhere(nodes.join(", ")))
}

/// Reads the topology of GetCapacity; an absent or empty one is everywhere.
///
/// # Errors
/// `Invalid` for an unknown key.
pub(super) fn covers(asked: Option<&csi::Topology>, node_id: &str) -> Result<Reach> {
    match asked.filter(|topology| !topology.segments.is_empty()) {
        None => Ok(Reach::Here),
        Some(topology) => match node("accessible_topology", topology)? {
            node if node == node_id => Ok(Reach::Here),
            node => Ok(Reach::Elsewhere(quoted(node))),
        },
    }
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

    fn at(nodes: &[&str]) -> Vec<csi::Topology> {
        nodes.iter().map(|node| place(node)).collect()
    }

    fn read(requisite: Vec<csi::Topology>, preferred: Vec<csi::Topology>) -> Result<Reach> {
        requirement(Some(&csi::TopologyRequirement { requisite, preferred }), "n1")
    }

    #[test]
    fn a_node_is_reached_if_it_is_among_the_requisite() {
        assert_eq!(requirement(None, "n1").unwrap(), Reach::Here);
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
    fn capacity_is_asked_for_a_place_or_for_all() {
        assert_eq!(covers(None, "n1").unwrap(), Reach::Here);
        assert_eq!(covers(Some(&csi::Topology::default()), "n1").unwrap(), Reach::Here);
        assert_eq!(covers(Some(&place("n1")), "n1").unwrap(), Reach::Here);
        assert_eq!(covers(Some(&place("n2")), "n1").unwrap(), Reach::Elsewhere("`n2`".into()));
        assert!(
            covers(Some(&csi::Topology { segments: [("zone".into(), "a".into())].into() }), "n1").is_err()
        );
    }
}
