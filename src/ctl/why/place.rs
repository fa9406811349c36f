//! Where the volume of a claim could be: which node has the driver and room, and which of them the pod may run on.
//!
//! Owns: what the scheduler lacks, and what it said. Never: reads what the provisioner said.

use std::cmp::Reverse;

use serde_json::Value;

use super::facts::{Facts, condition, list, name_of, newest_first, text, texts};
use super::gather::has_word;
use super::judge::{Cause, duration, names, said};
use super::provision;
use super::room::{Spot, published, spots};
use crate::error::quoted;
use crate::model::Bytes;

/// A class whose volumes wait for a pod, and no pod: as it must be.
pub(super) fn no_consumer(facts: &Facts) -> Option<Cause> {
    if !facts.waits_for_a_pod() || facts.selected_node().is_some() {
        return None;
    }
    let none_uses_it = match &facts.pods {
        Some(_) => facts.users().is_empty(),
        None => {
            let last = facts.newest(&[
                "WaitForFirstConsumer",
                "WaitForPodScheduled",
                "Provisioning",
                "ProvisioningFailed",
            ]);
            last.is_some_and(|event| text(event, "/reason") == "WaitForFirstConsumer")
        }
    };
    if !none_uses_it {
        return None;
    }
    let class = facts.class().map_or("", name_of);
    let what = format!(
        "Claim {} waits for a pod that uses it, as it must: its class {} has volumeBindingMode WaitForFirstConsumer, so that the volume is made where its pod runs. Nothing is wrong.",
        facts.title(),
        quoted(class)
    );
    Some(Cause::waits("no-consumer", what, "Make a pod that mounts it, and it is bound."))
}

/// A pod wants it, and has no node.
pub(super) fn unplaced(facts: &Facts) -> Option<Cause> {
    if !facts.waits_for_a_pod() || facts.selected_node().is_some() {
        return None;
    }
    let users = facts.users();
    if let Some(pod) = users.iter().find(|pod| !text(pod, "/spec/nodeName").is_empty()) {
        return Some(past_the_scheduler(facts, pod));
    }
    let pod = users.first().copied();
    if let Some(pod) = pod.filter(|pod| list(pod, "/spec/schedulingGates").next().is_some()) {
        let gates: Vec<&str> = list(pod, "/spec/schedulingGates").map(|gate| text(gate, "/name")).collect();
        let what = format!(
            "Claim {} waits for its pod {}, which its scheduling gates hold back: {}.",
            facts.title(),
            name_of(pod),
            names(&gates)
        );
        return Some(Cause::waits("gated", what, "Whoever set them lets it go; the claim follows."));
    }
    let class = facts.class()?;
    let words = scheduler_said(facts, pod);
    if let Some(asked) = facts.asked().filter(|_| facts.capacities.is_some()) {
        let spots = spots(facts, class, pod);
        if let Some(cause) = too_little(facts, class, asked, &spots) {
            return Some(cause);
        }
        if facts.nodes.is_some()
            && let Some(pod) = pod
            && let Some(cause) = kept_apart(facts, pod, asked, &spots)
        {
            return Some(cause);
        }
        let roomy = spots.iter().filter(|spot| spot.has(asked)).map(|spot| spot.name.as_str());
        return Some(stuck(facts, &words?, Some((asked, roomy.collect()))));
    }
    Some(stuck(facts, &words?, None))
}

/// The scheduler's words, and where there is room all the same.
fn stuck(facts: &Facts, words: &str, room: Option<(Bytes, Vec<&str>)>) -> Cause {
    let mut what = format!(
        "Claim {} waits for its pod, which the scheduler has found no node for: {}.",
        facts.title(),
        said(words)
    );
    if let Some((asked, roomy)) = room.filter(|(_, roomy)| !roomy.is_empty()) {
        let why = if words.contains("enough free storage") {
            "but not for all that the pod claims, or it was published a moment ago"
        } else {
            "so it is not for want of storage"
        };
        what = format!("{what} Room for {asked} is on {}, {why}.", names(&roomy));
    }
    Cause::wrong("pod-unschedulable", what, "Mend what the scheduler names, and the claim follows by itself.")
}

/// Whoever gives a pod its node leaves out the scheduler, who alone tells the provisioner where.
fn past_the_scheduler(facts: &Facts, pod: &Value) -> Cause {
    let what = format!(
        "Claim {} waits for the scheduler to choose a node, and its pod {} has been put on {} past the scheduler, by spec.nodeName: nobody says where the volume is to be made.",
        facts.title(),
        name_of(pod),
        text(pod, "/spec/nodeName")
    );
    Cause::wrong(
        "node-name",
        what,
        "Take nodeName out of the pod, and choose the node with a nodeSelector like kubernetes.io/hostname.",
    )
}

/// What the scheduler says of the pod; where pods may not be read, of one that the claim waits for.
pub(super) fn scheduler_said(facts: &Facts, pod: Option<&Value>) -> Option<String> {
    let of_condition =
        pod.and_then(|pod| condition(pod, "PodScheduled")).filter(|one| one["status"] == "False");
    let words = of_condition.map(|one| text(one, "/message")).filter(|words| !words.is_empty());
    let of_event = || match pod {
        Some(pod) => {
            facts.events_of("Pod", pod).into_iter().find(|event| text(event, "/reason") == "FailedScheduling")
        }
        None => {
            let waits = text(facts.newest(&["WaitForPodScheduled"])?, "/message");
            let is_meant = |event: &&Value| {
                text(event, "/reason") == "FailedScheduling"
                    && has_word(waits, text(event, "/involvedObject/name"))
            };
            let mut all: Vec<&Value> = facts.events.iter().flatten().filter(is_meant).collect();
            newest_first(&mut all);
            all.first().copied()
        }
    };
    words.or_else(|| of_event().map(|event| text(event, "/message"))).map(str::to_owned)
}

/// Nobody has published anything, or nobody has enough.
fn too_little(facts: &Facts, class: &Value, asked: Bytes, spots: &[Spot]) -> Option<Cause> {
    let is_tracked = facts.csi_driver.there().is_none_or(|driver| driver["spec"]["storageCapacity"] == true);
    if !is_tracked || facts.capacities.is_none() {
        return None;
    }
    if published(facts, class).next().is_none() {
        return Some(unpublished(facts, class));
    }
    (!spots.iter().any(|spot| spot.has(asked))).then(|| no_room(facts, class, asked, spots))
}

fn unpublished(facts: &Facts, class: &Value) -> Cause {
    let what = format!(
        "Claim {} waits: nobody has said yet how much room there is for its class {}; there is no CSIStorageCapacity of it, and the scheduler takes that for none.",
        facts.title(),
        quoted(name_of(class))
    );
    let absent = provision::absence(facts);
    let fix = "The provisioner publishes it within a minute after the class is made or the driver is installed. If it does not, see that a container `provisioner` of the controller's pods runs, and what it logs.";
    Cause::wrong("no-capacity", absent.map_or(what.clone(), |absent| format!("{what} {absent}")), fix)
}

fn no_room(facts: &Facts, class: &Value, asked: Bytes, spots: &[Spot]) -> Cause {
    let mut spots: Vec<&Spot> =
        spots.iter().filter(|spot| spot.room.is_some() || spot.barred.is_some()).collect();
    spots.sort_by_key(|spot| (spot.barred.is_some(), Reverse(spot.room), spot.name.clone()));
    let (most, rooms) = most(&spots);
    let mut what =
        format!("Claim {} asks for {asked} of class {}, and {rooms}.", facts.title(), quoted(name_of(class)));
    let away = away(facts, class);
    let fix = "Ask for less, delete claims and snapshots that nobody needs, or give a pool or a node more; it is tried again by itself.";
    if !away.is_empty() {
        what = format!("{what} {}", away.join(" "));
        let fix = format!(
            "See to that first: `rockpool ctl doctor` on that node says more. If it is not enough: {}",
            lower(fix)
        );
        return Cause::wrong("pool-away", what, fix);
    }
    let hint = if facts.told_pools.is_none() && most == Bytes::ZERO {
        " Whether a pool is away, and why, says `rockpool ctl pool list` in a controller's pod."
    } else {
        ""
    };
    Cause::wrong("no-room", what, format!("{fix}{hint}"))
}

/// The most that there is, and who has how much, as a phrase; the first has most.
fn most(spots: &[&Spot]) -> (Bytes, String) {
    let first = spots.first().filter(|spot| spot.barred.is_none());
    let others: Vec<String> =
        spots.iter().skip(usize::from(first.is_some())).map(|spot| spot.told()).collect();
    let others = if others.is_empty() { String::new() } else { format!(" ({})", names(&others)) };
    let room = first.and_then(|spot| spot.room).unwrap_or_default();
    let told = match first {
        Some(spot) if room > Bytes::ZERO => {
            format!("the most that any node has is {room}, on node {}{others}", spot.name)
        }
        Some(spot) => format!("no node has any room: {}{others}", spot.told()),
        None => format!("no node can have it{others}"),
    };
    (room, told)
}

fn lower(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// Pools and nodes that would count, and are away; a sentence each. What was declared lost does not come back.
fn away(facts: &Facts, class: &Value) -> Vec<String> {
    let wanted = text(class, "/parameters/pool");
    let is_meant =
        |pool: &&Value| wanted.is_empty() || text(pool, "/name").is_empty() || pool["name"] == wanted;
    let is_away = |pool: &&Value| match text(pool, "/state") {
        "here" => !text(pool, "/why").is_empty(),
        state => state != "lost",
    };
    let pools = facts.told_pools.iter().flatten().filter(is_meant).filter(is_away).map(pool_told);
    let nodes = facts
        .told_nodes
        .iter()
        .flatten()
        .filter(|node| node["standing"] != "connected" && node["gone"] != true);
    let nodes = nodes.map(|node| {
        let since = node["away_seconds"].as_i64().filter(|seconds| *seconds > 0);
        let since = since.map_or_else(String::new, |seconds| format!(" for {}", duration(seconds)));
        format!("Node {} has not been connected to the controller{since}.", text(node, "/id"))
    });
    pools.chain(nodes).take(5).collect()
}

/// What a controller says of a pool that cannot be used, as a sentence.
pub(super) fn pool_told(pool: &Value) -> String {
    let nodes = texts(pool, "/nodes");
    let place = if nodes.is_empty() { "no node".to_owned() } else { format!("node {}", names(&nodes)) };
    let name = if text(pool, "/name").is_empty() { text(pool, "/id") } else { text(pool, "/name") };
    let why = match (text(pool, "/state"), text(pool, "/why")) {
        ("here", why) => format!("is away: {}", said(why)),
        ("twice", _) => "is announced by both: one of them has a copy".to_owned(),
        ("lost", "") => "was declared lost".to_owned(),
        ("lost", why) => format!("was declared lost: {}", said(why)),
        (state, "") => format!("is {state}"),
        (state, why) => format!("is {state}: {}", said(why)),
    };
    format!("Pool {} of {place} {why}.", quoted(name))
}

/// Where there is room the pod may not run, and where it may run there is none.
fn kept_apart(facts: &Facts, pod: &Value, asked: Bytes, spots: &[Spot]) -> Option<Cause> {
    let (open, closed): (Vec<&Spot>, Vec<&Spot>) = spots.iter().partition(|spot| spot.refusals.is_empty());
    if open.iter().any(|spot| spot.has(asked)) {
        return None;
    }
    let excluded = |spot: &&Spot| format!("{} ({})", spot.name, spot.refusals.join(", "));
    let roomy: Vec<String> = closed.iter().filter(|spot| spot.has(asked)).map(excluded).collect();
    let title = facts.title();
    let pod = name_of(pod);
    if open.is_empty() {
        let all: Vec<String> = closed.iter().map(excluded).collect();
        let what = format!(
            "Claim {title} waits for its pod {pod}, which may run on no node at all: {}. It is not for want of storage.",
            names(&all)
        );
        return Some(Cause::wrong(
            "pod-fits-nowhere",
            what,
            "Change the pod's selector, affinity or tolerations, or uncordon or mend a node; the claim follows by itself.",
        ));
    }
    let poor: Vec<String> = open.iter().map(|spot| spot.told()).collect();
    let what = format!(
        "Claim {title} asks for {asked}; its pod {pod} may run only where that cannot be had ({}), and where it can, the pod may not run: {}.",
        names(&poor),
        names(&roomy)
    );
    Some(Cause::wrong(
        "room-elsewhere",
        what,
        "Let the pod run there (selector, affinity, tolerations, cordon), ask for less, or make room where it may run; the scheduler tries again by itself.",
    ))
}

/// No pod is waited for, and no node has enough.
pub(super) fn nowhere(facts: &Facts) -> Option<Cause> {
    let class = facts.class().filter(|_| !facts.waits_for_a_pod())?;
    // For such classes the provisioner publishes nothing unless it is told to.
    published(facts, class).next()?;
    too_little(facts, class, facts.asked()?, &spots(facts, class, None))
}

/// The most that a node has for the class of the claim, for a sentence about a refusal.
pub(super) fn rooms(facts: &Facts) -> Option<String> {
    let class = facts.class()?;
    let mut all = spots(facts, class, None);
    all.retain(|spot| spot.room.is_some());
    all.sort_by_key(|spot| Reverse(spot.room));
    let told: Vec<String> = all.iter().map(Spot::told).collect();
    (!told.is_empty()).then(|| names(&told))
}
