//! Where the volume of a claim is, and whether it, its pool and its node are there.
//!
//! Owns: what is wrong with the volume itself. Never: looks at what its pods say: one that runs on a node that is gone goes on saying
//! that it runs.

use serde_json::Value;

use super::facts::{Facts, homes, moment, named, seen_at, text};
use super::fit::is_ready;
use super::judge::{Cause, ago, names, said};
use super::{place, provision};
use crate::model::VolumeId;

/// What helps where the node of a volume is not ready.
pub(super) const MEND: &str = "Mend the node or bring it back; the volume itself does not move.";
/// What helps where a volume is not there.
const ANEW: &str =
    "Bring its disk back if there is one; if the data is lost, delete the claim and make it anew.";
/// What helps where a node no longer exists.
const MOVE: &str = "Bring the node back under its name; or, if its disk is in another one now, let the PersistentVolumes follow (`rockpool ctl pool moved`); \
                    if the data is lost, delete the claim and make it anew.";
/// What helps where a controller has told of a node that cannot be seen from here: it may be well again.
const ASK: &str = "Whoever may look at nodes sees whether that is still so.";
/// A controller writes what it finds again every ten minutes, and one that has just begun to lead later by as much; seconds. Of some hundreds of claims
/// at once it cannot write to each in that time, and what was mended meanwhile it does not take back.
const STANDS: i64 = 30 * 60;

/// Claim and volume, as a phrase.
pub(super) fn start(facts: &Facts) -> String {
    format!("Claim {} is Bound to volume {}", facts.title(), text(facts.claim(), "/spec/volumeName"))
}

/// Where it is, as a phrase.
pub(super) fn on_nodes(facts: &Facts) -> String {
    let nodes = nodes(facts);
    if nodes.is_empty() { String::new() } else { format!(" on node {}", names(&nodes)) }
}

/// The nodes that it can be used on.
pub(super) fn nodes(facts: &Facts) -> Vec<&str> {
    facts.volume.there().map(homes).unwrap_or_default()
}

/// Whether its nodes are known, and can be seen.
fn are_seen(facts: &Facts) -> bool {
    facts.nodes.is_some() && !nodes(facts).is_empty()
}

/// Whether what is wrong with the volume itself is its node, as it is seen now.
pub(super) fn is_of_node(facts: &Facts, lost: Option<&Cause>) -> bool {
    let codes = ["node-gone", "node-closed", "driver-not-on-node"];
    are_seen(facts) && lost.is_some_and(|lost| codes.contains(&lost.code))
}

/// What is wrong with the volume itself.
pub(super) fn lost(facts: &Facts) -> Option<Cause> {
    of_node(facts).or_else(|| of_pool(facts)).or_else(|| told(facts)).or_else(|| bare(facts))
}

/// Its node is gone, or not ready.
fn of_node(facts: &Facts) -> Option<Cause> {
    let homes = nodes(facts);
    if !are_seen(facts) {
        return None;
    }
    let found: Vec<&Value> = homes.iter().filter_map(|node| named(&facts.nodes, node)).collect();
    if found.is_empty() {
        let what = format!(
            "{}, which is on node {} alone; that node no longer exists, so no pod can use it.",
            start(facts),
            names(&homes)
        );
        return Some(Cause::wrong("node-gone", what, MOVE));
    }
    if found.iter().any(|node| is_ready(node)) {
        return None;
    }
    let what = format!("{}, which is not ready.", start(facts) + &on_nodes(facts));
    Some(Cause::wrong("node-closed", what, MEND))
}

/// Its pool cannot be used, as a controller knows it. One whose node is not connected just now is where it was, and what is mounted goes on.
fn of_pool(facts: &Facts) -> Option<Cause> {
    let handle = facts.volume.there().map(|volume| text(volume, "/spec/csi/volumeHandle"))?;
    let id = handle.parse::<VolumeId>().ok()?.pool().to_string();
    let pool = facts.told_pools.iter().flatten().find(|pool| pool["id"] == id.as_str())?;
    let what = format!("{}. {}", start(facts), place::pool_told(pool));
    match (text(pool, "/state"), text(pool, "/why")) {
        ("lost", _) => Some(Cause::wrong("pool-missing", what, ANEW)),
        ("here" | "away", "") => None,
        _ => {
            let fix =
                "`rockpool ctl doctor` in the driver's pod on that node says more, and how to bring it back.";
            Some(Cause::wrong("pool-away", what, fix))
        }
    }
}

/// What a controller has told on the claim, of late.
fn told(facts: &Facts) -> Option<Cause> {
    let stands = |event: &&Value| {
        moment(&format!("{}Z", seen_at(event))).is_some_and(|seen| facts.now - seen < STANDS)
    };
    // Where nodes can be seen, they are as they are seen.
    let reasons = ["PersistentVolumeWithoutVolume", "PoolMissing", "NodeGone", "DriverNotRegistered"];
    let reasons = if are_seen(facts) { &reasons[..2] } else { &reasons[..] };
    let event = facts.newest(reasons).filter(stands)?;
    let words = said(text(event, "/message"));
    let what = format!("{}; a controller has told{}: {words}.", start(facts), ago(event, facts.now));
    Some(match text(event, "/reason") {
        "PoolMissing" => Cause::wrong("pool-missing", what, ANEW),
        "NodeGone" => Cause::wrong("node-gone", what, ASK),
        "DriverNotRegistered" => Cause::wrong("driver-not-on-node", what, "See the pod of the driver there."),
        _ => Cause::wrong("volume-missing", what, ANEW),
    })
}

/// Its node lacks the driver.
fn bare(facts: &Facts) -> Option<Cause> {
    let homes = nodes(facts);
    let first = homes.first()?;
    if !homes.iter().all(|node| facts.lacks_driver(node)) {
        return None;
    }
    let what = format!(
        "{}, where the driver is not registered: what is mounted there stays so, and nothing else can be mounted.",
        start(facts) + &on_nodes(facts)
    );
    Some(Cause::wrong("driver-not-on-node", what, provision::node_pod(facts, first)))
}
