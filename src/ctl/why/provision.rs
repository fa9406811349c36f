//! Who makes the volume of a claim: whether the driver and its provisioner are there, and what they said.
//!
//! Owns: what a gRPC code in an Event means for whoever reads it. Never: compares capacities.

use serde_json::Value;

use super::facts::{Facts, Look, list, moment, name_of, text};
use super::fit::is_ready;
use super::judge::{Cause, State, ago, duration, names, said};
use super::{place, source};
use crate::error::quoted;

/// A leader that has not been heard of for so long is none: leases are renewed every five seconds.
const SILENT: i64 = 60;
/// So long a claim may wait for somebody to begin.
const BEGIN: i64 = 30;
/// A call to the driver ends after one minute.
const CALL: i64 = 120;

/// The driver is not there, or not where the volume is to be.
pub(super) fn no_driver(facts: &Facts) -> Option<Cause> {
    let (title, driver) = (facts.title(), quoted(&facts.driver));
    if facts.csi_driver == Look::Missing {
        let what = format!(
            "Claim {title} waits for the driver {driver}, of which there is no CSIDriver object: it is not installed."
        );
        return Some(Cause::wrong(
            "driver-missing",
            what,
            "Install the chart, or name the driver with --driver-name if it has another name.",
        ));
    }
    if let Some(node) = facts.selected_node().filter(|node| facts.lacks_driver(node)) {
        let what = format!(
            "Claim {title} is to be made on node {node}, which the scheduler has chosen, and the driver {driver} is not registered there."
        );
        return Some(Cause::wrong("driver-not-on-node", what, node_pod(facts, node)));
    }
    if facts.with_driver().is_none_or(|nodes| !nodes.is_empty()) {
        return None;
    }
    let what = format!(
        "Claim {title} waits for the driver {driver}, which is registered on none of the {} nodes.",
        facts.csi_nodes.iter().flatten().count()
    );
    let fix = "See that the node pods run (kubectl get pods -A -l app.kubernetes.io/component=node) and that node.kubeletDir of the chart is kubelet's directory.";
    Some(Cause::wrong("driver-on-no-node", what, fix))
}

/// What to do where a node lacks the driver.
pub(super) fn node_pod(facts: &Facts, node: &str) -> String {
    let object = super::facts::named(&facts.nodes, node);
    let first = if object.is_some_and(|object| !is_ready(object)) {
        "The node is not ready: mend that first. "
    } else {
        ""
    };
    format!(
        "{first}See that the driver's pod runs there (kubectl get pods -A -l app.kubernetes.io/component=node --field-selector spec.nodeName={node}) and what its log says; \
         if the node is to have no storage, keep the pod away from it."
    )
}

/// The code and the words of a gRPC error in a message of Kubernetes.
pub(super) fn grpc(message: &str) -> Option<(&str, &str)> {
    let (_, rest) = message.split_once("rpc error: code = ")?;
    rest.split_once(" desc = ")
}

/// Codes, what they mean here, and what is to be done.
const CODES: [(&str, &str, &str); 11] = [
    (
        "ResourceExhausted",
        "no node or pool that may have it has room",
        "Ask for less, delete claims and snapshots that nobody needs, or make the pool larger; it is tried again by itself.",
    ),
    (
        "InvalidArgument",
        "the claim or its class asks for something that the driver does not know or cannot do, and asking again does not help",
        "Correct what it names: parameters of a class cannot be changed, so delete and make the class anew, or the claim with another one.",
    ),
    (
        "OutOfRange",
        "the size is one that no such volume can have",
        "Make the claim anew with a size that the message allows.",
    ),
    (
        "FailedPrecondition",
        "the pool or the node is in a state that forbids it, or cannot do it at all",
        "Mend what it names, or choose a class whose pool can do it; it is tried again by itself.",
    ),
    (
        "NotFound",
        "what it names, like its source or its volume, is not there any more",
        "Make the claim anew, with a source that exists.",
    ),
    (
        "AlreadyExists",
        "there is a volume of this name that differs from what is asked for",
        "Look at it with `rockpool ctl volume list`; a claim made anew gets a name of its own.",
    ),
    (
        "Unavailable",
        "a node or a pool that is needed cannot be asked now; it is asked again by itself",
        "If it stays so, look at `rockpool ctl nodes` and `rockpool ctl pool list` in a controller's pod, and at `rockpool ctl doctor` on the node.",
    ),
    (
        "Aborted",
        "somebody is at work on it right now; it is asked again by itself",
        "If it stays so for minutes, look at the log of the node.",
    ),
    (
        "DeadlineExceeded",
        "there was no answer in time; it is asked again by itself",
        "If it stays so, a disk or a node hangs: `rockpool ctl nodes` in a controller's pod, `rockpool ctl doctor` on the node.",
    ),
    (
        "Internal",
        "the host refused something, or a program failed",
        "`rockpool ctl doctor` on the node and its log say more; it is tried again by itself.",
    ),
    ("Unimplemented", "this driver does not offer it", "Do without it, or upgrade the driver."),
];

/// What a code means here, and what is to be done.
pub(super) fn meaning(code: &str) -> (&'static str, &'static str) {
    let known = CODES.iter().find(|(name, ..)| *name == code);
    known.map_or(
        (
            "it failed in a way that this driver does not answer with",
            "Look at the log of the container `provisioner` in the controller's pods.",
        ),
        |(_, meaning, fix)| (*meaning, *fix),
    )
}

/// The provisioner has tried, and failed.
pub(super) fn refused(facts: &Facts) -> Option<Cause> {
    let event = facts.newest(&["ProvisioningFailed", "ProvisioningSucceeded"])?;
    if text(event, "/reason") != "ProvisioningFailed" {
        return None;
    }
    let message = text(event, "/message");
    let (code, words) = grpc(message).unwrap_or(("", message));
    let heard = format!("{}: {}", ago(event, facts.now), said(words));
    let copied = on_its_way(facts, code, words).or_else(|| source::elsewhere(facts, words));
    if copied.is_some() {
        return copied;
    }
    // Where the scheduler is to choose again, what it lacks now counts more than what was refused before, but for what no node can do.
    let better = match (is_its_turn(facts), code) {
        (_, "InvalidArgument") => None,
        (false, _) => place::unplaced(facts),
        (true, "ResourceExhausted" | "OutOfRange") => place::nowhere(facts),
        (true, _) => None,
    };
    if let Some(cause) = better {
        return Some(Cause { what: format!("{} The driver's last answer{heard}.", cause.what), ..cause });
    }
    Some(explained(facts, code, &heard))
}

/// What was answered, and what its code says.
fn explained(facts: &Facts, code: &str, heard: &str) -> Cause {
    let title = facts.title();
    if code.is_empty() {
        let what = format!("Claim {title}: the provisioner could not make its volume{heard}.");
        return Cause::wrong("provisioning-failed", what, "Mend what it names; it tries again by itself.");
    }
    let (meaning, fix) = meaning(code);
    let rooms = place::rooms(facts).filter(|_| code == "ResourceExhausted");
    let rooms = match (facts.asked(), rooms) {
        (Some(asked), Some(rooms)) => format!(" It asks for {asked}; published is {rooms}."),
        (_, _) => String::new(),
    };
    let what = format!(
        "Claim {title}: the driver refused to make its volume with {code}{heard}. That code says that {meaning}.{rooms}"
    );
    Cause::wrong("provisioning-failed", what, fix)
}

/// A copy that comes from another node is answered with how much of it is there.
fn on_its_way(facts: &Facts, code: &str, words: &str) -> Option<Cause> {
    if code != "Unavailable" || !words.contains("has received") || !words.contains("it goes on, ask again") {
        return None;
    }
    let what = format!(
        "Claim {} is being copied from the node of its source: {}. Nothing is wrong.",
        facts.title(),
        said(words)
    );
    Some(Cause::waits(
        "copying",
        what,
        "It is bound when all of it is there; `rockpool ctl transfer list` on that node shows how far it is.",
    ))
}

/// Whether it is the provisioner's turn: nobody else has yet to choose a node.
fn is_its_turn(facts: &Facts) -> bool {
    facts.selected_node().is_some() || facts.class().is_some() && !facts.waits_for_a_pod()
}

/// It is the provisioner's turn, and there is none.
pub(super) fn away(facts: &Facts) -> Option<Cause> {
    let absent = absence(facts).filter(|_| is_its_turn(facts))?;
    let what = format!(
        "Claim {} waits for the provisioner of {}, which is away. {absent}",
        facts.title(),
        quoted(&facts.driver)
    );
    let fix = "See that the controller's pods run (kubectl get pods -A -l app.kubernetes.io/component=controller) and what their container `provisioner` logs; \
               the claim follows by itself.";
    Some(Cause::wrong("provisioner-away", what, fix))
}

/// It is the provisioner's turn, and it has said nothing.
pub(super) fn silent(facts: &Facts) -> Option<Cause> {
    let has_begun = || facts.newest(&["Provisioning", "ProvisioningSucceeded"]).is_some();
    if !is_its_turn(facts) || facts.events.is_none() || has_begun() {
        return None;
    }
    let title = facts.title();
    let age = facts.now - moment(text(facts.claim(), "/metadata/creationTimestamp"))?;
    if age < BEGIN {
        let what = format!("Claim {title} was made {} ago, and nobody has begun with it yet.", duration(age));
        return Some(Cause::waits("new", what, "Ask again in a moment."));
    }
    let what = format!(
        "Claim {title} has waited for {}, and no provisioner has said that it makes a volume for it.",
        duration(age)
    );
    let fix = "See that the controller's pods run, that the container `provisioner` of one of them leads, and what it logs.";
    Some(Cause { code: "provisioner-silent", state: State::Unknown, what, fix: fix.to_owned() })
}

/// What shows that there is no provisioner; nothing where there is one, or where nobody knows.
pub(super) fn absence(facts: &Facts) -> Option<String> {
    let ill: Vec<String> = facts.controllers.iter().flatten().filter_map(ailment).collect();
    let ill = if ill.is_empty() { String::new() } else { format!(" {}.", names(&ill)) };
    let Some(leases) = &facts.leases else {
        let none_ready = facts
            .controllers
            .as_ref()
            .is_some_and(|pods| !pods.is_empty() && pods.iter().all(|pod| ailment(pod).is_some()));
        return none_ready.then(|| format!("No pod of the controller is ready:{ill}"));
    };
    let Some(lease) = leases.iter().max_by_key(|lease| text(lease, "/spec/renewTime")) else {
        let pods = if facts.controllers.as_ref().is_some_and(Vec::is_empty) {
            " There are no pods of the controller."
        } else {
            ""
        };
        return Some(format!("None has ever led: there is no Lease of it.{pods}{ill}"));
    };
    let holder = text(lease, "/spec/holderIdentity");
    if holder.is_empty() {
        return Some(format!("None leads: its Lease {} has been given back.{ill}", name_of(lease)));
    }
    let silent = facts.now - moment(text(lease, "/spec/renewTime"))?;
    (silent > SILENT).then(|| {
        format!("The one that led, {holder}, has not renewed its Lease for {}.{ill}", duration(silent))
    })
}

/// What is wrong with a pod of the controller.
fn ailment(pod: &Value) -> Option<String> {
    let containers: Vec<&Value> =
        list(pod, "/status/containerStatuses").filter(|one| one["ready"] != true).collect();
    let is_pending = text(pod, "/status/phase") == "Pending";
    if containers.is_empty() && !is_pending {
        return None;
    }
    let why = containers.iter().map(|one| {
        let waits = text(one, "/state/waiting/reason");
        let why = if waits.is_empty() { "not ready" } else { waits };
        format!("container {} {why}", text(one, "/name"))
    });
    let why: Vec<String> = why.collect();
    let why = if why.is_empty() { "it has no node or no container yet".to_owned() } else { names(&why) };
    Some(format!("pod {}: {why}", name_of(pod)))
}

/// Somebody is at it.
pub(super) fn at_work(facts: &Facts) -> Option<Cause> {
    let event = facts.newest(&["Provisioning"])?;
    let seen = moment(&format!("{}Z", super::facts::seen_at(event)))?;
    if facts.now - seen > CALL {
        return None;
    }
    let on = facts.selected_node().map_or_else(String::new, |node| format!(" on node {node}"));
    let what = format!(
        "The volume of claim {} is being made{on}, since {}.",
        facts.title(),
        duration(facts.now - seen)
    );
    Some(Cause::waits("provisioning", what, "Ask again in a moment."))
}
