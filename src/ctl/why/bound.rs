//! A claim that has its volume: whether its pods get it, and whether it grows.
//!
//! Owns: the node of the volume, mounts that fail, and growth. Never: looks for room.

use serde_json::Value;

use super::facts::{Facts, condition, homes, list, name_of, named, quantity, text};
use super::fit::refusals;
use super::judge::{Cause, ago, names, said};
use super::{place, provision};

/// What kubelet says where a volume does not get to its pod.
const UNMOUNTED: [&str; 3] = ["FailedMount", "FailedMapVolume", "FailedAttachVolume"];
/// So many pods are told of.
const PODS: usize = 3;

/// All that is wrong, or that nothing is.
pub(super) fn causes(facts: &Facts) -> Vec<Cause> {
    let users = facts.users();
    let mut causes: Vec<Cause> = users.iter().filter_map(|pod| of_pod(facts, pod)).take(PODS).collect();
    causes.extend(growth(facts));
    if causes.is_empty() {
        causes.push(Cause::well("bound", well(facts, &users)));
    }
    causes
}

/// Claim and volume, as a phrase.
fn start(facts: &Facts) -> String {
    format!("Claim {} is Bound to volume {}", facts.title(), text(facts.claim(), "/spec/volumeName"))
}

fn nodes(facts: &Facts) -> Vec<&str> {
    facts.volume.there().map(homes).unwrap_or_default()
}

/// Where it is, as a phrase.
fn place(facts: &Facts) -> String {
    let nodes = nodes(facts);
    if nodes.is_empty() { String::new() } else { format!(" on node {}", names(&nodes)) }
}

fn well(facts: &Facts, users: &[&Value]) -> String {
    let size = quantity(text(facts.claim(), "/status/capacity/storage"));
    let size = size.map_or_else(String::new, |size| format!(" ({size})"));
    let start = format!("{}{size}{}", start(facts), place(facts));
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

/// What keeps a pod from its volume.
fn of_pod(facts: &Facts, pod: &Value) -> Option<Cause> {
    let is_leaving = !text(pod, "/metadata/deletionTimestamp").is_empty();
    if is_leaving || text(pod, "/status/phase") != "Pending" {
        return None;
    }
    match text(pod, "/spec/nodeName") {
        "" => unplaced(facts, pod),
        node => unmounted(facts, pod, node),
    }
}

/// The pod has no node: it may run only where its volume is.
fn unplaced(facts: &Facts, pod: &Value) -> Option<Cause> {
    let (start, pod_name) = (start(facts), name_of(pod));
    let gates: Vec<&str> = list(pod, "/spec/schedulingGates").map(|gate| text(gate, "/name")).collect();
    if !gates.is_empty() {
        let what =
            format!("{start}; its pod {pod_name} is held back by its scheduling gates: {}.", names(&gates));
        return Some(Cause::waits("gated", what, "Whoever set them lets it go."));
    }
    let homes = nodes(facts);
    if facts.nodes.is_some() && !homes.is_empty() {
        let found: Vec<&Value> = homes.iter().filter_map(|node| named(&facts.nodes, node)).collect();
        if found.is_empty() {
            return Some(gone(facts, pod_name, &homes));
        }
        let closed: Vec<String> = found.iter().filter_map(|node| closed(facts, node, pod)).collect();
        if closed.len() == found.len() {
            let what = format!(
                "{start}, which is on node {} alone; and its pod {pod_name} cannot run there: {}.",
                names(&homes),
                names(&closed)
            );
            let fix = "Uncordon or mend the node, or change the pod's selector, affinity or tolerations; the volume itself does not move.";
            return Some(Cause::wrong("node-closed", what, fix));
        }
    }
    let words = place::scheduler_said(facts, Some(pod));
    let only =
        if homes.is_empty() { String::new() } else { format!(", which is on node {} alone", names(&homes)) };
    Some(match words {
        Some(words) => {
            let what = format!(
                "{start}{only}; the scheduler has found no place for its pod {pod_name}: {}.",
                said(&words)
            );
            Cause::wrong(
                "pod-unschedulable",
                what,
                "Make room for the pod on that node: of what the scheduler says only the part about that one counts.",
            )
        }
        None => Cause::waits(
            "scheduling",
            format!("{start}; its pod {pod_name} waits for the scheduler, which has not said why."),
            "Ask again in a moment.",
        ),
    })
}

/// Why a pod cannot run on the node of its volume.
fn closed(facts: &Facts, node: &Value, pod: &Value) -> Option<String> {
    let mut why = refusals(node, pod);
    if facts.lacks_driver(name_of(node)) {
        why.push("the driver is not registered there".to_owned());
    }
    (!why.is_empty()).then(|| why.join(", "))
}

fn gone(facts: &Facts, pod: &str, homes: &[&str]) -> Cause {
    let what = format!(
        "{}, which is on node {} alone; that node no longer exists, so pod {pod} can run nowhere.",
        start(facts),
        names(homes)
    );
    let fix = "Bring the node back under its name; or, if its disk is in another one now, let the PersistentVolumes follow (`rockpool ctl pool moved`); \
               if the data is lost, delete the claim and make it anew.";
    Cause::wrong("node-gone", what, fix)
}

/// The pod has a node, and does not start.
fn unmounted(facts: &Facts, pod: &Value, node: &str) -> Option<Cause> {
    let (start, pod_name) = (start(facts), name_of(pod));
    let object = named(&facts.nodes, node);
    if facts.nodes.is_some() && object.is_none_or(|node| !super::fit::is_ready(node)) {
        let state = if object.is_some() { "is not ready" } else { "no longer exists" };
        let what = format!("{start}; its pod {pod_name} is on node {node}, which {state}.");
        return Some(Cause::wrong(
            "node-closed",
            what,
            "Mend the node or bring it back; the volume itself does not move.",
        ));
    }
    if let Some(event) = unmounted_event(facts, pod) {
        let message = text(event, "/message");
        let heard = ago(event, facts.now);
        let what = format!("{start}; its pod {pod_name} does not get it on node {node}{heard}");
        if message.contains("not found in the list of registered CSI drivers") {
            let what = format!("{what}: the driver is not registered there ({}).", said(message));
            return Some(Cause::wrong("driver-not-on-node", what, provision::node_pod(facts, node)));
        }
        let doctor = format!(
            "`rockpool ctl doctor` in the driver's pod on node {node} says more, and so does its log; kubelet tries again by itself."
        );
        return Some(match provision::grpc(message) {
            Some((code, words)) => {
                let (meaning, _) = provision::meaning(code);
                let what = format!(
                    "{what}: the driver refused with {code}, {}. That code says that {meaning}.",
                    said(words)
                );
                Cause::wrong("mount-failed", what, doctor)
            }
            None => Cause::wrong("mount-failed", format!("{what}: {}.", said(message)), doctor),
        });
    }
    let waits = ["/status/initContainerStatuses", "/status/containerStatuses"]
        .iter()
        .flat_map(|field| list(pod, field));
    let waits: Vec<&str> =
        waits.map(|one| text(one, "/state/waiting/reason")).filter(|why| !why.is_empty()).collect();
    let starting = |why: &&str| ["ContainerCreating", "PodInitializing"].contains(why);
    if let Some(why) = waits.iter().find(|why| !starting(why)) {
        let what = format!("{start}; its pod {pod_name} on node {node} waits for something else: {why}.");
        return Some(Cause::wrong(
            "not-storage",
            what,
            format!("See kubectl describe pod -n {} {pod_name}.", facts.namespace),
        ));
    }
    let what = format!(
        "{start}; its pod {pod_name} is starting on node {node}, and nobody has said that anything fails."
    );
    Some(Cause::waits("starting", what, "Ask again in a moment."))
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
    let status = text(claim, "/status/allocatedResourceStatuses/storage");
    let failed = facts.newest(&[
        "VolumeResizeFailed",
        "FileSystemResizeFailed",
        "VolumeResizeSuccessful",
        "FileSystemResizeSuccessful",
    ]);
    let failed = failed
        .filter(|event| text(event, "/reason").ends_with("Failed"))
        .map(|event| text(event, "/message"));
    let errors =
        ["ControllerResizeError", "NodeResizeError"].iter().filter_map(|kind| condition(claim, kind));
    let error = errors.map(|error| text(error, "/message")).find(|error| !error.is_empty());
    if let Some(message) = error.or(failed) {
        return Some(ungrown(&start, message));
    }
    if status.ends_with("Infeasible") {
        return Some(Cause::wrong(
            "resize-failed",
            format!("{start}; its state is {status}, and nobody says why any more."),
            LESS,
        ));
    }
    if ["NodeResizePending", "NodeResizeInProgress"].contains(&status)
        || condition(claim, "FileSystemResizePending").is_some()
    {
        let is_used = facts.users().iter().any(|pod| pod["status"]["phase"] == "Running");
        let fix = match (&facts.pods, is_used) {
            (Some(_), true) => {
                "Kubelet does that within a minute or two; an ext4 that its node cannot grow while it is used grows when the pod is started anew."
            }
            (Some(_), false) => "That happens when a pod uses it.",
            (None, _) => "That happens where a pod uses it, within a minute or two.",
        };
        return Some(Cause::waits(
            "resize-pending",
            format!(
                "{start}: the volume is large enough, and its filesystem has yet to grow on its node. Nothing is wrong."
            ),
            fix,
        ));
    }
    let fix = "If it stays so for minutes, look at the container `resizer` of the controller's pods.";
    Some(Cause::waits("resizing", format!("{start}; the resizer is at work, or about to be."), fix))
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
            Cause::wrong(
                "resize-failed",
                what,
                "Mend what it names, and it is tried again by itself; or set the claim's request lower, to no less than it has.",
            )
        }
        None => Cause::wrong(
            "resize-failed",
            format!("{start}, and does not grow: {}.", said(message)),
            "Mend what it names, and it is tried again by itself.",
        ),
    }
}
