//! A claim that has its volume: whether its pods get it, and whether it grows.
//!
//! Owns: pods that cannot run where the volume is, mounts that fail, and growth. Never: looks for room.

use serde_json::Value;

use super::facts::{Facts, condition, list, name_of, named, quantity, text};
use super::fit::{NOT_READY, is_ready, refusals};
use super::home::{self, MEND, nodes, on_nodes, start};
use super::judge::{Cause, State, ago, names, said};
use super::{place, provision};

/// What kubelet says where a volume does not get to its pod.
const UNMOUNTED: [&str; 3] = ["FailedMount", "FailedMapVolume", "FailedAttachVolume"];
/// That a pod cannot be where its volume is, and nobody says why but that node.
const UNPLACED: [&str; 2] = ["driver-not-on-node", "pod-unschedulable"];
const NO_DRIVER: &str = "the driver is not registered there";
/// So many pods are told of.
const PODS: usize = 3;

/// All that is wrong, or that nothing is.
pub(super) fn causes(facts: &Facts) -> Vec<Cause> {
    let users = facts.users();
    let lost = home::lost(facts);
    let is_of_node = home::is_of_node(facts, lost.as_ref());
    let of_pods = users.iter().filter_map(|pod| of_pod(facts, pod, is_of_node)).take(PODS);
    let mut causes: Vec<Cause> = of_pods.chain(growth(facts)).collect();
    if let Some(lost) = lost {
        // What only waits may wait for ever, and what a node lacks for its pods is told with it.
        let follows = |cause: &Cause| is_of_node && UNPLACED.contains(&cause.code);
        causes.retain(|cause| cause.state == State::Wrong && !follows(cause));
        causes.insert(0, lost);
    }
    if causes.is_empty() {
        causes.push(Cause::well("bound", well(facts, &users)));
    }
    causes
}

fn well(facts: &Facts, users: &[&Value]) -> String {
    let size = quantity(text(facts.claim(), "/status/capacity/storage"));
    let size = size.map_or_else(String::new, |size| format!(" ({size})"));
    let start = format!("{}{size}{}", start(facts), on_nodes(facts));
    let running: Vec<String> = users
        .iter()
        .filter(|pod| pod["status"]["phase"] == "Running")
        .map(|pod| {
            let since = text(pod, "/status/startTime");
            if since.is_empty() { name_of(pod).to_owned() } else { format!("{} since {since}", name_of(pod)) }
        })
        .collect();
    match (&facts.pods, &running[..]) {
        (None, _) => format!("{start}; nothing is wrong with that. Which pods use it may not be read here."),
        (Some(_), []) => format!("{start}, and no pod uses it now; nothing is wrong."),
        (Some(_), running) => format!("{start}, and used by pod {}; nothing is wrong.", names(running)),
    }
}

/// What keeps a pod from its volume, besides what is wrong with the node itself, where that is told already.
fn of_pod(facts: &Facts, pod: &Value, is_of_node: bool) -> Option<Cause> {
    let is_leaving = !text(pod, "/metadata/deletionTimestamp").is_empty();
    if is_leaving || text(pod, "/status/phase") != "Pending" {
        return None;
    }
    match text(pod, "/spec/nodeName") {
        "" => unplaced(facts, pod, is_of_node),
        node => unmounted(facts, pod, node, is_of_node),
    }
}

/// The pod has no node: it may run only where its volume is.
fn unplaced(facts: &Facts, pod: &Value, is_of_node: bool) -> Option<Cause> {
    let (start, pod_name, homes) = (start(facts), name_of(pod), nodes(facts));
    let gates: Vec<&str> = list(pod, "/spec/schedulingGates").map(|gate| text(gate, "/name")).collect();
    if !gates.is_empty() {
        let what =
            format!("{start}; its pod {pod_name} is held back by its scheduling gates: {}.", names(&gates));
        return Some(Cause::waits("gated", what, "Whoever set them lets it go."));
    }
    if let Some(cause) = nowhere_else(facts, pod, &homes, is_of_node) {
        return Some(cause);
    }
    let only =
        if homes.is_empty() { String::new() } else { format!(", which is on node {} alone", names(&homes)) };
    let Some(words) = place::scheduler_said(facts, Some(pod)) else {
        let what = format!("{start}; its pod {pod_name} waits for the scheduler, which has not said why.");
        return Some(Cause::waits("scheduling", what, "Ask again in a moment."));
    };
    let what =
        format!("{start}{only}; the scheduler has found no place for its pod {pod_name}: {}.", said(&words));
    let fix =
        "Make room for the pod on that node: of what the scheduler says only the part about that one counts.";
    Some(Cause::wrong("pod-unschedulable", what, fix))
}

/// The pod cannot run on the node of its volume, and so nowhere.
fn nowhere_else(facts: &Facts, pod: &Value, homes: &[&str], is_of_node: bool) -> Option<Cause> {
    let found: Vec<&Value> = homes.iter().filter_map(|node| named(&facts.nodes, node)).collect();
    let closed: Vec<String> = found.iter().filter_map(|node| closed(facts, node, pod, is_of_node)).collect();
    if found.is_empty() || closed.len() < found.len() {
        return None;
    }
    let what = format!(
        "{}, which is on node {} alone; and its pod {} cannot run there: {}.",
        start(facts),
        names(homes),
        name_of(pod),
        names(&closed)
    );
    let fix = "Uncordon or mend the node, or change the pod's selector, affinity or tolerations; the volume itself does not move.";
    Some(Cause::wrong("node-closed", what, fix))
}

/// Why a pod cannot run on the node of its volume.
fn closed(facts: &Facts, node: &Value, pod: &Value, is_of_node: bool) -> Option<String> {
    let mut why = refusals(node, pod);
    if facts.lacks_driver(name_of(node)) {
        why.push(NO_DRIVER.to_owned());
    }
    if is_of_node {
        why.retain(|why| why != NOT_READY && why != NO_DRIVER);
    }
    (!why.is_empty()).then(|| why.join(", "))
}

/// The pod has a node, and does not start.
fn unmounted(facts: &Facts, pod: &Value, node: &str, is_of_node: bool) -> Option<Cause> {
    let start = format!("{}; its pod {}", start(facts), name_of(pod));
    let object = named(&facts.nodes, node);
    if facts.nodes.is_some() && object.is_none_or(|node| !is_ready(node)) {
        if is_of_node {
            return None;
        }
        let state = if object.is_some() { "is not ready" } else { "no longer exists" };
        let what = format!("{start} is on node {node}, which {state}.");
        return Some(Cause::wrong("node-closed", what, MEND));
    }
    if let Some(event) = unmounted_event(facts, pod) {
        let what = format!("{start} does not get it on node {node}{}", ago(event, facts.now));
        return Some(refused(facts, node, &what, text(event, "/message")));
    }
    let containers = ["/status/initContainerStatuses", "/status/containerStatuses"];
    let containers = containers.iter().flat_map(|field| list(pod, field));
    let mut waits = containers.map(|one| text(one, "/state/waiting/reason"));
    if let Some(why) = waits.find(|why| !["", "ContainerCreating", "PodInitializing"].contains(why)) {
        let what = format!("{start} on node {node} waits for something else: {why}.");
        let fix = format!("See kubectl describe pod -n {} {}.", facts.namespace, name_of(pod));
        return Some(Cause::wrong("not-storage", what, fix));
    }
    let what = format!("{start} is starting on node {node}, and nobody has said that anything fails.");
    Some(Cause::waits("starting", what, "Ask again in a moment."))
}

/// What kubelet says, which is mostly what the driver has said.
fn refused(facts: &Facts, node: &str, what: &str, message: &str) -> Cause {
    if message.contains("not found in the list of registered CSI drivers") {
        let what = format!("{what}: the driver is not registered there ({}).", said(message));
        return Cause::wrong("driver-not-on-node", what, provision::node_pod(facts, node));
    }
    let what = match provision::grpc(message) {
        Some((code, words)) => {
            let (meaning, _) = provision::meaning(code);
            format!("{what}: the driver refused with {code}, {}. That code says that {meaning}.", said(words))
        }
        None => format!("{what}: {}.", said(message)),
    };
    let fix = format!(
        "`rockpool ctl doctor` in the driver's pod on node {node} says more, and so does its log; kubelet tries again by itself."
    );
    Cause::wrong("mount-failed", what, fix)
}

/// The newest that is not about another volume of the pod.
fn unmounted_event<'a>(facts: &'a Facts, pod: &Value) -> Option<&'a Value> {
    let volume = text(facts.claim(), "/spec/volumeName");
    let is_other = |message: &str| message.contains("for volume \"") && !message.contains(volume);
    let all = facts.events_of("Pod", pod);
    let mut all = all.into_iter().filter(|event| UNMOUNTED.contains(&text(event, "/reason")));
    all.find(|event| !is_other(text(event, "/message")))
}

/// It asks for more than it has.
fn growth(facts: &Facts) -> Option<Cause> {
    let claim = facts.claim();
    let (asked, has) = (facts.asked()?, quantity(text(claim, "/status/capacity/storage"))?);
    if asked <= has {
        return None;
    }
    let start = format!("Claim {} has {has} and asks for {asked}", facts.title());
    if let Some(message) = growth_failed(facts) {
        return Some(ungrown(&start, message));
    }
    let status = text(claim, "/status/allocatedResourceStatuses/storage");
    if status.ends_with("Infeasible") {
        let what = format!("{start}; its state is {status}, and nobody says why any more.");
        return Some(Cause::wrong("resize-failed", what, LESS));
    }
    let is_pending = ["NodeResizePending", "NodeResizeInProgress"].contains(&status);
    if !is_pending && condition(claim, "FileSystemResizePending").is_none() {
        let fix = "If it stays so for minutes, look at the container `resizer` of the controller's pods.";
        let what = format!("{start}; the resizer is at work, or about to be.");
        return Some(Cause::waits("resizing", what, fix));
    }
    let is_used = facts.users().iter().any(|pod| pod["status"]["phase"] == "Running");
    let fix = match (&facts.pods, is_used) {
        (Some(_), true) => {
            "Kubelet does that within a minute or two; an ext4 that its node cannot grow while it is used grows when the pod is started anew."
        }
        (Some(_), false) => "That happens when a pod uses it.",
        (None, _) => "That happens where a pod uses it, within a minute or two.",
    };
    let what = format!(
        "{start}: the volume is large enough, and its filesystem has yet to grow on its node. Nothing is wrong."
    );
    Some(Cause::waits("resize-pending", what, fix))
}

/// What the resizer or kubelet say, where they have not grown it since.
fn growth_failed(facts: &Facts) -> Option<&str> {
    let errors = ["ControllerResizeError", "NodeResizeError"].iter();
    let mut errors =
        errors.filter_map(|kind| condition(facts.claim(), kind)).map(|one| text(one, "/message"));
    let ends = [
        "VolumeResizeFailed",
        "FileSystemResizeFailed",
        "VolumeResizeSuccessful",
        "FileSystemResizeSuccessful",
    ];
    let failed = || facts.newest(&ends).filter(|event| text(event, "/reason").ends_with("Failed"));
    errors.find(|error| !error.is_empty()).or_else(|| failed().map(|event| text(event, "/message")))
}

/// What helps where a volume cannot grow.
const LESS: &str = "Make room in its pool (delete claims and snapshots that nobody needs, or make the pool larger), and it is tried again by itself; or set the claim's request lower, to no less than it has.";

fn ungrown(start: &str, message: &str) -> Cause {
    match provision::grpc(message) {
        Some(("ResourceExhausted", words)) => {
            let what = format!("{start}; its pool has no room for that: {}.", said(words));
            Cause::wrong("resize-no-room", what, LESS)
        }
        Some((code, words)) => {
            let (meaning, _) = provision::meaning(code);
            let what = format!(
                "{start}; the driver refused with {code}: {}. That code says that {meaning}.",
                said(words)
            );
            let fix = "Mend what it names, and it is tried again by itself; or set the claim's request lower, to no less than it has.";
            Cause::wrong("resize-failed", what, fix)
        }
        None => Cause::wrong(
            "resize-failed",
            format!("{start}, and does not grow: {}.", said(message)),
            "Mend what it names, and it is tried again by itself.",
        ),
    }
}
