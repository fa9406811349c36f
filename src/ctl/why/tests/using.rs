//! Claims that have their volume: pods that do not get it, and growth.

use super::super::judge::Cause;
use super::*;

#[test]
fn a_claim_in_use_is_in_order() {
    let facts = bound().with_pod(placed("web-0", "n1", "Running"));
    let told = "Claim demo/data is Bound to volume pvc-1 (10 GiB) on node n1, and used by pod web-0 since 2026-11-23T04:51:00Z; nothing is wrong.";
    assert_says(&facts, State::Well, "bound", &[told]);
    assert_says(&bound(), State::Well, "bound", &["and no pod uses it now; nothing is wrong."]);
    assert_says(&Facts { pods: None, ..bound() }, State::Well, "bound", &["may not be read here"]);
}

#[test]
fn a_pod_whose_volume_is_on_a_closed_node_is_told_why_it_is_closed() {
    let words = "0/2 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, 1 node(s) were unschedulable. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    let waiting = || bound().with_pod(unscheduled("web-0", words));
    let mut facts = waiting();
    facts.nodes.as_mut().unwrap()[0]["spec"]["unschedulable"] = json!(true);
    assert_wrong(
        &facts,
        "node-closed",
        &[
            "volume pvc-1, which is on node n1 alone; and its pod web-0 cannot run there: it is cordoned.",
            "Uncordon",
        ],
    );
    let mut facts = waiting();
    facts.nodes.as_mut().unwrap()[0]["status"]["conditions"][0]["status"] = json!("Unknown");
    assert_wrong(&facts, "node-closed", &["on node n1, which is not ready"]);
    // Cordoned as well, as while it is started anew: to mend it is not enough.
    facts.nodes.as_mut().unwrap()[0]["spec"]["unschedulable"] = json!(true);
    let Verdict(causes) = judge(&facts);
    assert_eq!(codes(&causes), ["node-closed", "node-closed"], "{causes:?}");
    assert!(causes[1].what.ends_with("cannot run there: it is cordoned."), "{causes:?}");
    let mut facts = waiting();
    facts.csi_nodes = Some(vec![csi_node("n2", DRIVER)]);
    let Verdict(causes) = judge(&facts);
    assert_eq!(codes(&causes), ["driver-not-on-node"], "{causes:?}");
    let mut facts = waiting();
    facts.pods.as_mut().unwrap()[0]["spec"]["nodeSelector"] = json!({ "kubernetes.io/hostname": "n2" });
    assert_wrong(&facts, "node-closed", &["nodeSelector or affinity excludes it"]);
}

#[test]
fn a_pod_whose_volume_is_on_a_node_that_is_gone_is_told_the_ways_out() {
    let words = "0/1 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    let facts = Facts { nodes: Some(vec![node("n2")]), ..bound() }.with_pod(unscheduled("web-0", words));
    assert_wrong(
        &facts,
        "node-gone",
        &["on node n1 alone; that node no longer exists", "rockpool ctl pool moved"],
    );
}

#[test]
fn a_pod_that_says_that_it_runs_on_a_node_that_is_gone_is_not_believed() {
    let running = || bound().with_pod(placed("web-0", "n1", "Running"));
    let mut facts = running();
    facts.nodes.as_mut().unwrap()[0]["status"]["conditions"][0]["status"] = json!("Unknown");
    assert_wrong(&facts, "node-closed", &["volume pvc-1 on node n1, which is not ready.", "Mend the node"]);
    let facts = Facts { nodes: Some(vec![node("n2")]), ..running() };
    assert_wrong(&facts, "node-gone", &["that node no longer exists, so no pod can use it."]);
    let facts = Facts { csi_nodes: Some(vec![csi_node("n2", DRIVER)]), ..running() };
    assert_wrong(&facts, "driver-not-on-node", &["on node n1, where the driver is not registered"]);
    // Where nodes may not be read, what a controller has told of them counts; and nothing else.
    let told = |reason| {
        let event = event("PersistentVolumeClaim", "data", reason, "It lies on node n1 alone.", 60);
        running().with_events(&[event])
    };
    for (reason, code) in [("NodeGone", "node-gone"), ("DriverNotRegistered", "driver-not-on-node")] {
        assert_wrong(&Facts { nodes: None, ..told(reason) }, code, &["It lies on node n1 alone."]);
        assert_says(&told(reason), State::Well, "bound", &["nothing is wrong"]);
    }
    assert_says(&Facts { nodes: None, ..running() }, State::Well, "bound", &["nothing is wrong"]);
    // A volume that was written by hand may be had on another one.
    let mut facts = Facts { csi_nodes: Some(vec![csi_node("n2", DRIVER)]), ..running() };
    let Look::There(volume) = &mut facts.volume else { panic!("there is no volume") };
    volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]["values"] =
        json!(["n1", "n2"]);
    assert_says(&facts, State::Well, "bound", &["on node n1 and n2"]);
}

/// The codes of these, in their order.
fn codes(causes: &[Cause]) -> Vec<&str> {
    causes.iter().map(|cause| cause.code).collect()
}

#[test]
fn what_is_wrong_with_the_volume_itself_comes_before_what_its_pods_do() {
    let missing = || {
        let words = "The volume is not in its pool.";
        event("PersistentVolumeClaim", "data", "PersistentVolumeWithoutVolume", words, 60)
    };
    let gone = |facts: Facts| Facts { nodes: Some(vec![node("n2")]), ..facts };
    // What only waits, as growth does, and a pod that is held back, waits for ever: nobody is told that nothing is wrong.
    let mut gated = pod("web-0");
    gated["spec"]["schedulingGates"] = json!([{ "name": "quota.example/hold" }]);
    let waiting = [
        (gone(growing("", None)), "node-gone"),
        (gone(growing("NodeResizePending", None)), "node-gone"),
        (bound().with_pod(gated).with_events(&[missing()]), "volume-missing"),
        (bound().with_pod(placed("web-0", "n1", "Pending")).with_events(&[missing()]), "volume-missing"),
    ];
    for (facts, code) in waiting {
        let Verdict(causes) = judge(&facts);
        assert_eq!((codes(&causes), causes[0].state), (vec![code], State::Wrong), "{causes:?}");
    }
    // What fails, fails for that.
    let away = "failed to expand pvc with rpc error: code = Unavailable desc = node n1 is away";
    let mount = "MountVolume.MountDevice failed for volume \"pvc-1\" : rpc error: code = NotFound desc = volume_id: there is no such volume";
    let failed = event("Pod", "web-0", "FailedMount", mount, 5);
    let mut imageless = placed("web-0", "n1", "Pending");
    imageless["status"]["containerStatuses"] =
        json!([{ "name": "web", "state": { "waiting": { "reason": "ImagePullBackOff" } } }]);
    let failing = [
        (gone(growing("", Some(("ControllerResizeError", away)))), ["node-gone", "resize-failed"]),
        (
            bound().with_pod(placed("web-0", "n1", "Pending")).with_events(&[failed, missing()]),
            ["volume-missing", "mount-failed"],
        ),
        (bound().with_pod(imageless).with_events(&[missing()]), ["volume-missing", "not-storage"]),
    ];
    for (facts, expected) in failing {
        let Verdict(causes) = judge(&facts);
        assert_eq!(codes(&causes), expected, "{causes:?}");
    }
}

#[test]
fn a_pool_that_a_controller_knows_to_be_away_is_not_in_order() {
    let of = |state: &str, why: &str| {
        let mut facts = bound().with_pod(placed("web-0", "n1", "Running"));
        facts.told_pools = Some(vec![
            json!({ "id": "bbbbbbbbbbbb", "name": "slow", "nodes": ["n1"], "state": "away", "why": "no disk" }),
            json!({ "id": "aaaaaaaaaaaa", "name": "fast", "nodes": ["n1"], "state": state, "why": why }),
        ]);
        facts
    };
    let told = ["volume pvc-1. Pool `fast` of node n1 is away: “its disk is not there”.", "ctl doctor"];
    assert_wrong(&of("away", "its disk is not there"), "pool-away", &told);
    assert_wrong(&of("here", "its disk is not there"), "pool-away", &told);
    assert_wrong(&of("twice", ""), "pool-away", &["is announced by both"]);
    assert_wrong(&of("lost", "burnt"), "pool-missing", &["was declared lost: “burnt”", "delete the claim"]);
    assert_says(&of("here", ""), State::Well, "bound", &[]);
    // Its node is not connected, as while the driver is rolled.
    assert_says(&of("away", ""), State::Well, "bound", &[]);
}

#[test]
fn what_a_controller_has_told_of_the_volume_is_no_longer_in_order() {
    let told = |reason, ago| {
        bound().with_events(&[event("PersistentVolumeClaim", "data", reason, "It leads nowhere.", ago)])
    };
    let facts = told("PersistentVolumeWithoutVolume", 600);
    assert_wrong(
        &facts,
        "volume-missing",
        &["volume pvc-1; a controller has told, 10 minutes ago: “It leads nowhere.”", "delete the claim"],
    );
    assert_wrong(&told("PoolMissing", 60), "pool-missing", &["It leads nowhere."]);
    // It would have been told again.
    assert_says(&told("PoolMissing", 1801), State::Well, "bound", &["nothing is wrong"]);
}

#[test]
fn a_node_that_is_full_of_pods_is_told_in_the_schedulers_words() {
    let words = "0/2 nodes are available: 1 Too many pods, 1 node(s) didn't match PersistentVolume's node affinity. no new claims to deallocate, preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling.";
    let facts = bound().with_pod(unscheduled("web-0", words));
    assert_wrong(
        &facts,
        "pod-unschedulable",
        &[
            "pvc-1, which is on node n1 alone; the scheduler has found no place for its pod web-0: “0/2 nodes are available: 1 Too many pods",
        ],
    );
    assert_says(&bound().with_pod(pod("web-0")), State::Waits, "scheduling", &["has not said why"]);
    let mut gated = pod("web-0");
    gated["spec"]["schedulingGates"] = json!([{ "name": "quota.example/hold" }]);
    assert_says(&bound().with_pod(gated), State::Waits, "gated", &["quota.example/hold"]);
}

#[test]
fn a_pod_that_does_not_get_its_volume_is_told_in_the_drivers_words() {
    let failed = |message: &str| {
        let generic = event(
            "Pod",
            "web-0",
            "FailedMount",
            "MountVolume.SetUp failed for volume \"other\" : configmap \"x\" not found",
            1,
        );
        bound()
            .with_pod(placed("web-0", "n1", "Pending"))
            .with_events(&[generic, event("Pod", "web-0", "FailedMount", message, 5)])
    };
    let message = "MountVolume.MountDevice failed for volume \"pvc-1\" : rpc error: code = FailedPrecondition desc = volume v1.aaaaaaaaaaaa.0000000000000001: its filesystem is not the one that was made";
    assert_wrong(
        &failed(message),
        "mount-failed",
        &[
            "web-0 does not get it on node n1, 5 s ago: the driver refused with FailedPrecondition, “volume v1.aaaaaaaaaaaa",
            "rockpool ctl doctor",
        ],
    );
    let message = "MountVolume.MountDevice failed for volume \"pvc-1\" : kubernetes.io/csi: attacher.MountDevice failed to create newCsiDriverClient: driver name csi.rockpool.dev not found in the list of registered CSI drivers";
    assert_wrong(
        &failed(message),
        "driver-not-on-node",
        &["the driver is not registered there", "spec.nodeName=n1"],
    );
    let message = "Unable to attach or mount volumes: unmounted volumes=[data], unattached volumes=[], failed to process volumes=[]: timed out waiting for the condition";
    assert_wrong(&failed(message), "mount-failed", &["timed out waiting for the condition"]);
    let facts = bound().with_pod(placed("web-0", "n1", "Pending"));
    assert_says(&facts, State::Waits, "starting", &["is starting on node n1"]);
}

#[test]
fn a_pod_that_waits_for_its_image_or_its_node_does_not_wait_for_storage() {
    let mut pod = placed("web-0", "n1", "Pending");
    pod["status"]["containerStatuses"] =
        json!([{ "name": "web", "state": { "waiting": { "reason": "ImagePullBackOff" } } }]);
    assert_wrong(
        &bound().with_pod(pod.clone()),
        "not-storage",
        &["waits for something else: ImagePullBackOff"],
    );
    pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] = json!("ContainerCreating");
    assert_says(&bound().with_pod(pod.clone()), State::Waits, "starting", &[]);
    let mut facts = bound().with_pod(pod);
    facts.nodes.as_mut().unwrap()[0]["status"]["conditions"][0]["status"] = json!("Unknown");
    assert_wrong(&facts, "node-closed", &["on node n1, which is not ready"]);
    facts.nodes = Some(vec![node("n2")]);
    assert_wrong(&facts, "node-gone", &["that node no longer exists, so no pod can use it", "pool moved"]);
}

#[test]
fn of_several_pods_each_that_waits_is_told_and_none_that_runs_or_ends() {
    let mut leaving = pod("old");
    leaving["metadata"]["deletionTimestamp"] = json!(NOW);
    let facts = bound()
        .with_pod(placed("web-0", "n1", "Running"))
        .with_pod(leaving)
        .with_pod(unscheduled("web-1", "0/2 nodes are available: 2 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod."));
    assert_wrong(
        &facts,
        "pod-unschedulable",
        &["web-1", "ReadWriteOncePod access mode already in-use by another pod"],
    );
    let verdict =
        judge(&facts.with_pod(unscheduled("web-2", "0/2 nodes are available: 2 Insufficient cpu.")));
    assert_eq!(verdict.0.len(), 2, "{}", verdict.text());
}

/// A claim of 10 GiB that asks for 20, in this state of growing.
fn growing(status: &str, condition: Option<(&str, &str)>) -> Facts {
    let mut facts = bound();
    facts.edit(|claim| {
        claim["spec"]["resources"]["requests"]["storage"] = json!("20Gi");
        claim["status"]["allocatedResourceStatuses"] = json!({ "storage": status });
        if let Some((kind, message)) = condition {
            claim["status"]["conditions"] = json!([{ "type": kind, "status": "True", "message": message }]);
        }
    });
    facts
}

#[test]
fn growth_that_waits_for_a_node_is_told_from_growth_that_fails() {
    let pending = || {
        growing(
            "NodeResizePending",
            Some((
                "FileSystemResizePending",
                "Waiting for user to (re-)start a pod to finish file system resize of volume on node.",
            )),
        )
    };
    assert_says(
        &pending(),
        State::Waits,
        "resize-pending",
        &["has 10 GiB and asks for 20 GiB", "when a pod uses it"],
    );
    assert_says(
        &pending().with_pod(placed("web-0", "n1", "Running")),
        State::Waits,
        "resize-pending",
        &["Kubelet does that", "grows when the pod is started anew"],
    );
    let full = "failed to expand pvc with rpc error: code = ResourceExhausted desc = pool `fast`: no room for 10 GiB more";
    for facts in [
        growing("ControllerResizeInProgress", Some(("ControllerResizeError", full))),
        growing("", None).with_events(&[of_claim("VolumeResizeFailed", full)]),
    ] {
        assert_wrong(
            &facts,
            "resize-no-room",
            &[
                "its pool has no room for that: “pool `fast`: no room for 10 GiB more”",
                "set the claim's request lower",
            ],
        );
    }
    let refused = "failed to expand pvc with rpc error: code = OutOfRange desc = capacity_range.required_bytes 21474836480 is above the largest";
    assert_wrong(
        &growing("ControllerResizeInfeasible", Some(("ControllerResizeError", refused))),
        "resize-failed",
        &["refused with OutOfRange"],
    );
    assert_wrong(
        &growing("NodeResizeInfeasible", None),
        "resize-failed",
        &["its state is NodeResizeInfeasible"],
    );
    let facts = growing("NodeResizeInProgress", None)
        .with_events(&[of_claim("FileSystemResizeFailed", "NodeExpandVolume failed: no space left")]);
    assert_wrong(&facts, "resize-failed", &["does not grow: “NodeExpandVolume failed"]);
    assert_says(
        &growing("ControllerResizeInProgress", None),
        State::Waits,
        "resizing",
        &["the resizer is at work"],
    );
    // It failed once, and has grown since.
    let mut done = bound().with_events(&[of_claim("VolumeResizeFailed", full)]);
    done.edit(|claim| claim["status"]["capacity"]["storage"] = json!("10Gi"));
    assert_says(&done, State::Well, "bound", &[]);
}
