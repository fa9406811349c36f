//! The judge, before clusters of a few objects each.
//!
//! Owns: those objects, and the words of Kubernetes 1.36, external-provisioner 6.3 and external-resizer 2.2 in their Events. Never:
//! asks anybody.

mod before;
mod making;
mod refused;
mod using;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::facts::{Facts, Look, moment};
use super::judge::{State, Verdict, judge};

const DRIVER: &str = "csi.rockpool.dev";
const NOW: &str = "2026-11-23T05:00:00Z";

/// A healthy cluster: two nodes with the driver, and a claim `demo/data` of 10Gi that no pod uses yet.
fn cluster() -> Facts {
    Facts {
        namespace: "demo".to_owned(),
        name: "data".to_owned(),
        driver: DRIVER.to_owned(),
        now: moment(NOW).unwrap(),
        claim: Look::There(claim("data", "10Gi")),
        classes: Some(vec![
            class("rockpool", DRIVER, "WaitForFirstConsumer"),
            class("now", DRIVER, "Immediate"),
        ]),
        csi_driver: Look::There(
            json!({ "metadata": { "name": DRIVER }, "spec": { "attachRequired": false, "storageCapacity": true } }),
        ),
        volume: Look::Missing,
        nodes: Some(vec![node("n1"), node("n2")]),
        csi_nodes: Some(vec![csi_node("n1", DRIVER), csi_node("n2", DRIVER)]),
        capacities: Some(
            ["rockpool", "now"]
                .iter()
                .flat_map(|class| [room(class, "n1", "40Gi"), room(class, "n2", "20Gi")])
                .collect(),
        ),
        pods: Some(vec![]),
        events: Some(vec![]),
        quotas: Some(vec![]),
        leases: Some(vec![lease("2026-11-23T04:59:57.000000Z")]),
        controllers: Some(vec![controller(json!({ "name": "provisioner", "ready": true }))]),
        ..Facts::default()
    }
}

/// The same, with the claim bound to a volume on n1.
fn bound() -> Facts {
    let mut facts = cluster();
    facts.edit(|claim| {
        claim["spec"]["volumeName"] = json!("pvc-1");
        claim["status"] = json!({ "phase": "Bound", "capacity": { "storage": "10Gi" } });
    });
    facts.volume = Look::There(volume("pvc-1", "n1"));
    facts
}

fn claim(name: &str, size: &str) -> Value {
    json!({
        "metadata": { "namespace": "demo", "name": name, "uid": format!("uid-{name}"), "creationTimestamp": "2026-11-23T04:50:00Z" },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "rockpool",
            "volumeMode": "Filesystem",
            "resources": { "requests": { "storage": size } },
        },
        "status": { "phase": "Pending" },
    })
}

fn class(name: &str, provisioner: &str, binding: &str) -> Value {
    json!({ "metadata": { "name": name }, "provisioner": provisioner, "volumeBindingMode": binding, "parameters": { "pool": "fast" } })
}

fn node(name: &str) -> Value {
    let labels = json!({ "topology.csi.rockpool.dev/node": name, "kubernetes.io/hostname": name });
    json!({ "metadata": { "name": name, "labels": labels }, "spec": {}, "status": { "conditions": [{ "type": "Ready", "status": "True" }] } })
}

fn csi_node(name: &str, driver: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": { "drivers": [{ "name": driver, "nodeID": name }] } })
}

fn room(class: &str, node: &str, size: &str) -> Value {
    let topology = json!({ "matchLabels": { "topology.csi.rockpool.dev/node": node } });
    json!({ "storageClassName": class, "nodeTopology": topology, "capacity": "100Gi", "maximumVolumeSize": size })
}

fn lease(renewed: &str) -> Value {
    json!({ "metadata": { "name": "csi-rockpool-dev" }, "spec": { "holderIdentity": "rockpool-controller-0", "leaseDurationSeconds": 15, "renewTime": renewed } })
}

fn controller(container: Value) -> Value {
    json!({ "metadata": { "name": "rockpool-controller-0" }, "status": { "phase": "Running", "containerStatuses": [container] } })
}

fn volume(name: &str, node: &str) -> Value {
    let rule = json!({ "key": "topology.csi.rockpool.dev/node", "operator": "In", "values": [node] });
    json!({
        "metadata": { "name": name },
        "spec": {
            "claimRef": { "namespace": "demo", "name": "data", "uid": "uid-data" },
            "csi": { "driver": DRIVER, "volumeHandle": "v1.aaaaaaaaaaaa.0000000000000001" },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [rule] }] } },
        },
        "status": { "phase": "Bound" },
    })
}

/// A pod that mounts the claim and has no node yet.
fn pod(name: &str) -> Value {
    json!({
        "metadata": { "name": name, "uid": format!("uid-{name}") },
        "spec": { "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }] },
        "status": { "phase": "Pending" },
    })
}

/// The same, as the scheduler leaves it with these words.
fn unscheduled(name: &str, words: &str) -> Value {
    let mut pod = pod(name);
    pod["status"]["conditions"] =
        json!([{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words }]);
    pod
}

/// A pod that mounts the claim on a node, in this phase.
fn placed(name: &str, node: &str, phase: &str) -> Value {
    let mut pod = pod(name);
    pod["spec"]["nodeName"] = json!(node);
    pod["status"] = json!({ "phase": phase, "startTime": "2026-11-23T04:51:00Z" });
    pod
}

/// An Event about an object, so many seconds ago.
fn event(kind: &str, name: &str, reason: &str, message: &str, ago: u32) -> Value {
    let left = 3600 - ago;
    let at = format!("2026-11-23T04:{:02}:{:02}Z", left / 60, left % 60);
    json!({
        "involvedObject": { "kind": kind, "name": name, "uid": format!("uid-{name}") },
        "reason": reason, "message": message, "lastTimestamp": at,
    })
}

/// An Event about the claim.
fn of_claim(reason: &str, message: &str) -> Value {
    event("PersistentVolumeClaim", "data", reason, message, 30)
}

impl Facts {
    fn edit(&mut self, change: impl FnOnce(&mut Value)) {
        let Look::There(claim) = &mut self.claim else { panic!("there is no claim") };
        change(claim);
    }

    fn with_events(mut self, events: &[Value]) -> Facts {
        self.events.as_mut().unwrap().extend_from_slice(events);
        self
    }

    fn with_pod(mut self, pod: Value) -> Facts {
        self.pods.as_mut().unwrap().push(pod);
        self
    }

    /// The claim is of the class whose volumes are made at once.
    fn at_once(mut self) -> Facts {
        self.edit(|claim| claim["spec"]["storageClassName"] = json!("now"));
        self
    }
}

#[test]
fn every_code_is_told_in_the_docs_and_no_other() {
    let sources = [
        include_str!("bound.rs"),
        include_str!("claim.rs"),
        include_str!("home.rs"),
        include_str!("judge.rs"),
        include_str!("place.rs"),
        include_str!("provision.rs"),
        include_str!("source.rs"),
    ];
    let is_code = |word: &&str| {
        word.len() > 2
            && word.starts_with(|c: char| c.is_ascii_lowercase())
            && word.chars().all(|c| c.is_ascii_lowercase() || c == '-')
    };
    let after = |source: &'static str, start: &'static str| {
        source
            .split(start)
            .skip(1)
            .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
            .filter(is_code)
    };
    let starts = ["Cause::wrong(", "Cause::waits(", "Cause::well(", "code: "];
    let codes: BTreeSet<&str> =
        sources.iter().flat_map(|source| starts.iter().flat_map(|start| after(source, start))).collect();
    let docs = include_str!("../../../docs/install.md").split("| code | meaning |").nth(1).unwrap();
    let told = docs.lines().filter_map(|line| line.split('|').nth(1)).flat_map(|cell| cell.split('`'));
    let told: BTreeSet<&str> = told.filter(is_code).collect();
    assert_eq!(told, codes);
    assert!(codes.len() > 40, "{codes:?}");
}

/// The verdict is this cause alone, and says all of that.
#[track_caller]
fn assert_says(facts: &Facts, state: State, code: &str, parts: &[&str]) {
    let Verdict(causes) = judge(facts);
    let [cause] = &causes[..] else { panic!("not one cause: {causes:?}") };
    let text = Verdict(causes.clone()).text();
    assert_eq!((cause.code, cause.state), (code, state), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    assert!(!text.contains('\n') && !text.contains("  ") && !text.contains(".."), "{text}");
    assert!(text.starts_with(char::is_uppercase) && text.ends_with(['.', '?', '”']), "{text}");
    assert!(cause.state != State::Wrong || !cause.fix.is_empty(), "nothing would mend it: {text}");
}

#[track_caller]
fn assert_wrong(facts: &Facts, code: &str, parts: &[&str]) {
    assert_says(facts, State::Wrong, code, parts);
}
