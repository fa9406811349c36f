//! Claims that are in order, and have no volume yet.

use super::*;

/// What the scheduler says where all nodes lack room.
pub(super) const NO_ROOM: &str = "0/2 nodes are available: 2 node(s) did not have enough free storage. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";

#[test]
fn a_claim_that_waits_for_its_first_pod_is_in_order() {
    let facts = cluster().with_events(&[of_claim(
        "WaitForFirstConsumer",
        "waiting for first consumer to be created before binding",
    )]);
    assert_says(
        &facts,
        State::Waits,
        "no-consumer",
        &["waits for a pod that uses it, as it must", "Nothing is wrong."],
    );
    // Also for who may not read pods.
    let hidden = Facts { pods: None, ..facts };
    assert_says(&hidden, State::Waits, "no-consumer", &["as it must"]);
}

#[test]
fn where_no_node_has_room_the_numbers_are_told() {
    let mut facts = cluster().with_pod(unscheduled("web-0", NO_ROOM));
    facts.edit(|claim| claim["spec"]["resources"]["requests"]["storage"] = json!("100Gi"));
    let told = [
        "demo/data asks for 100 GiB of class `rockpool`, and the most that any node has is 40 GiB, on node n1 (n2: 20 GiB).",
        "Ask for less",
    ];
    assert_wrong(&facts, "no-room", &told);
    // Who may read neither pods nor nodes is told the same.
    let events = [
        of_claim("WaitForPodScheduled", "waiting for pod web-0 to be scheduled"),
        event("Pod", "web-0", "FailedScheduling", NO_ROOM, 20),
    ];
    let hidden = Facts { pods: None, nodes: None, csi_nodes: None, ..facts.clone().with_events(&events) };
    assert_wrong(&hidden, "no-room", &told);
    // One that waits for no pod.
    let facts = Facts { pods: Some(vec![]), ..facts }.at_once();
    assert_wrong(&facts, "no-room", &["asks for 100 GiB of class `now`", "40 GiB, on node n1"]);
    // What a volume can have, and not what there is in all.
    let mut exact = cluster().at_once();
    exact.edit(|claim| claim["spec"]["resources"]["requests"]["storage"] = json!("40Gi"));
    assert_ne!(judge(&exact).0[0].code, "no-room");
}

#[test]
fn where_nobody_counts_room_nobody_is_said_to_lack_it() {
    let mut facts = cluster().at_once();
    facts.csi_driver = Look::There(json!({ "spec": { "storageCapacity": false } }));
    facts.capacities = Some(vec![]);
    assert_ne!(judge(&facts).0[0].code, "no-capacity");
}

#[test]
fn a_pool_that_is_away_is_told_with_its_reason() {
    let mut facts = cluster().with_pod(unscheduled("web-0", NO_ROOM));
    facts.capacities = Some(vec![room("rockpool", "n1", "0"), room("rockpool", "n2", "2Gi")]);
    let pool = |name: &str, state: &str, node: &str, why: &str| json!({ "id": "aaaaaaaaaaaa", "name": name, "state": state, "nodes": [node], "why": why });
    let why = "pool `fast`: its disk does not answer";
    facts.told_nodes = Some(vec![]);
    facts.told_pools = Some(vec![
        pool("fast", "here", "n1", why),
        pool("fast", "here", "n2", ""),
        pool("slow", "away", "n2", ""),
    ]);
    let told = [
        "the most that any node has is 2 GiB, on node n2 (n1: 0 B)",
        "Pool `fast` of node n1 is away: “pool `fast`: its disk does not answer”.",
        "See to that first",
    ];
    assert_wrong(&facts, "pool-away", &told);
    assert!(!judge(&facts).text().contains("slow"), "the class names another pool");
    // Its whole node is.
    facts.told_pools =
        Some(vec![pool("fast", "away", "n1", ""), pool("fast", "lost", "n3", "its node is gone")]);
    facts.told_nodes =
        Some(vec![json!({ "id": "n1", "standing": "away", "away_seconds": 600, "gone": false })]);
    assert_wrong(
        &facts,
        "pool-away",
        &["Pool `fast` of node n1 is away. Node n1 has not been connected to the controller for 10 minutes."],
    );
    assert!(!judge(&facts).text().contains("n3"), "what is lost does not come back");
    // Nobody was asked.
    facts.capacities = Some(vec![room("rockpool", "n1", "0"), room("rockpool", "n2", "0")]);
    (facts.told_nodes, facts.told_pools) = (None, None);
    assert_wrong(
        &facts,
        "no-room",
        &["no node has any room: n1: 0 B (n2: 0 B)", "`rockpool ctl pool list` in a controller's pod"],
    );
}

#[test]
fn a_pod_that_may_run_only_where_there_is_no_room_is_told_where_there_is() {
    let words = "0/2 nodes are available: 1 node(s) did not have enough free storage, 1 node(s) didn't match Pod's node affinity/selector. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    let mut pod = unscheduled("web-0", words);
    pod["spec"]["nodeSelector"] = json!({ "kubernetes.io/hostname": "n2" });
    let mut facts = cluster().with_pod(pod);
    facts.edit(|claim| claim["spec"]["resources"]["requests"]["storage"] = json!("30Gi"));
    assert_wrong(
        &facts,
        "room-elsewhere",
        &[
            "asks for 30 GiB; its pod web-0 may run only where that cannot be had (n2: 20 GiB)",
            "n1 (the pod's nodeSelector or affinity excludes it)",
        ],
    );
    // The one node that it may run on has no driver.
    facts.edit(|claim| claim["spec"]["resources"]["requests"]["storage"] = json!("1Gi"));
    facts.csi_nodes = Some(vec![csi_node("n1", DRIVER), csi_node("n2", "other")]);
    assert_wrong(&facts, "room-elsewhere", &["(n2: the driver is not registered)"]);
}

#[test]
fn a_pod_that_fits_nowhere_has_no_need_of_storage() {
    let words = "0/2 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    let mut facts = cluster().with_pod(unscheduled("web-0", words));
    let nodes = facts.nodes.as_mut().unwrap();
    nodes[0]["spec"]["taints"] = json!([{ "key": "dedicated", "value": "db", "effect": "NoSchedule" }]);
    nodes[1]["spec"]["unschedulable"] = json!(true);
    assert_wrong(
        &facts,
        "pod-fits-nowhere",
        &[
            "may run on no node at all: n1 (the pod does not tolerate its taint dedicated:NoSchedule) and n2 (it is cordoned)",
        ],
    );
}

#[test]
fn what_else_the_scheduler_lacks_is_repeated() {
    let words = "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.";
    let facts = cluster().with_pod(unscheduled("web-0", words));
    assert_wrong(
        &facts,
        "pod-unschedulable",
        &["2 Insufficient cpu", "Room for 10 GiB is on n1 and n2, so it is not for want of storage"],
    );
    // It says so only in an Event.
    let facts =
        cluster().with_pod(pod("web-0")).with_events(&[event("Pod", "web-0", "FailedScheduling", words, 10)]);
    assert_wrong(&facts, "pod-unschedulable", &["2 Insufficient cpu"]);
    // It has room for one claim of the pod, and not for all.
    let facts = cluster().with_pod(unscheduled("web-0", NO_ROOM));
    assert_wrong(&facts, "pod-unschedulable", &["on n1 and n2, but not for all that the pod claims"]);
    let mut gated = pod("web-0");
    gated["spec"]["schedulingGates"] = json!([{ "name": "quota.example/hold" }]);
    assert_says(&cluster().with_pod(gated), State::Waits, "gated", &["quota.example/hold"]);
}

#[test]
fn a_pod_that_names_its_node_goes_past_the_scheduler() {
    let facts = cluster().with_pod(placed("web-0", "n1", "Pending")).with_events(&[of_claim(
        "WaitForFirstConsumer",
        "waiting for first consumer to be created before binding",
    )]);
    assert_wrong(
        &facts,
        "node-name",
        &["web-0 has been put on n1 past the scheduler, by spec.nodeName", "kubernetes.io/hostname"],
    );
}

#[test]
fn a_driver_that_is_missing_is_told_where() {
    let facts = Facts { csi_driver: Look::Missing, ..cluster() };
    assert_wrong(&facts, "driver-missing", &["there is no CSIDriver object: it is not installed"]);
    let facts =
        Facts { csi_nodes: Some(vec![csi_node("n1", "other"), csi_node("n2", "other")]), ..cluster() };
    assert_wrong(&facts, "driver-on-no-node", &["registered on none of the 2 nodes", "node.kubeletDir"]);
    let mut facts = cluster().with_events(&[of_claim(
        "ProvisioningFailed",
        "error generating accessibility requirements: no topology key found for node n2",
    )]);
    facts.csi_nodes = Some(vec![csi_node("n1", DRIVER), csi_node("n2", "other")]);
    facts.edit(|claim| {
        claim["metadata"]["annotations"] = json!({ "volume.kubernetes.io/selected-node": "n2" })
    });
    assert_wrong(
        &facts,
        "driver-not-on-node",
        &["made on node n2, which the scheduler has chosen", "spec.nodeName=n2"],
    );
    facts.nodes.as_mut().unwrap()[1]["status"]["conditions"][0]["status"] = json!("Unknown");
    assert_wrong(&facts, "driver-not-on-node", &["The node is not ready: mend that first."]);
}

#[test]
fn capacity_is_found_by_any_selector_that_takes_the_node_in() {
    let mut facts = cluster().at_once();
    let by_rule = |operator: &str| json!({ "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": operator, "values": ["n2"] }] });
    let mut wide = room("now", "n1", "5Gi");
    wide["nodeTopology"] = by_rule("In");
    let mut nowhere = room("now", "n1", "500Gi");
    nowhere["nodeTopology"] = Value::Null;
    facts.capacities = Some(vec![
        wide,
        nowhere,
        room("other", "n1", "500Gi"),
        room("now", "n1", "3Gi"),
        room("now", "n1", "4Gi"),
    ]);
    assert_wrong(&facts, "no-room", &["5 GiB, on node n2 (n1: 4 GiB)"]);
}

#[test]
fn a_node_that_the_class_excludes_is_no_place_whatever_its_room() {
    let mut facts = cluster().at_once();
    let term =
        json!({ "matchLabelExpressions": [{ "key": "topology.csi.rockpool.dev/node", "values": ["n2"] }] });
    facts.classes.as_mut().unwrap()[1]["allowedTopologies"] = json!([term]);
    facts.edit(|claim| claim["spec"]["resources"]["requests"]["storage"] = json!("30Gi"));
    assert_wrong(&facts, "no-room", &["20 GiB, on node n2 (n1: the class's allowedTopologies exclude it)"]);
}

#[test]
fn where_no_capacity_was_published_that_is_said_and_whether_anybody_could() {
    let facts = Facts { capacities: Some(vec![room("other", "n1", "40Gi")]), ..cluster() }
        .with_pod(unscheduled("web-0", NO_ROOM));
    assert_wrong(&facts, "no-capacity", &["there is no CSIStorageCapacity of it", "within a minute"]);
    let facts = Facts { leases: Some(vec![]), controllers: Some(vec![]), ..facts };
    assert_wrong(
        &facts,
        "no-capacity",
        &["None has ever led: there is no Lease of it. There are no pods of the controller."],
    );
    // For a class that binds at once nothing is published, unless the provisioner is told to.
    let facts = Facts { pods: Some(vec![]), leases: None, controllers: None, ..facts }.at_once();
    assert_ne!(judge(&facts).0[0].code, "no-capacity");
}

#[test]
fn a_provisioner_that_is_away_is_told_by_its_lease_and_its_pods() {
    let external = "Waiting for a volume to be created either by the external provisioner 'csi.rockpool.dev' or manually by the system administrator. \
                    If volume creation is delayed, please verify that the provisioner is running and correctly registered.";
    let waiting = || cluster().at_once().with_events(&[of_claim("ExternalProvisioning", external)]);
    let broken = json!({ "name": "provisioner", "ready": false, "state": { "waiting": { "reason": "CrashLoopBackOff" } } });
    let facts = Facts {
        leases: Some(vec![lease("2026-11-23T04:40:00Z")]),
        controllers: Some(vec![controller(broken.clone())]),
        ..waiting()
    };
    assert_wrong(
        &facts,
        "provisioner-away",
        &[
            "The one that led, rockpool-controller-0, has not renewed its Lease for 20 minutes.",
            "pod rockpool-controller-0: container provisioner CrashLoopBackOff",
        ],
    );
    let facts = Facts { leases: Some(vec![]), ..waiting() };
    assert_wrong(&facts, "provisioner-away", &["None has ever led"]);
    let mut given_back = lease(NOW);
    given_back["spec"]["holderIdentity"] = json!("");
    assert_wrong(
        &Facts { leases: Some(vec![given_back]), ..waiting() },
        "provisioner-away",
        &["has been given back"],
    );
    // Leases may not be read.
    let facts = Facts { leases: None, controllers: Some(vec![controller(broken)]), ..waiting() };
    assert_wrong(&facts, "provisioner-away", &["No pod of the controller is ready"]);
    // Neither shows anything.
    assert_says(
        &waiting(),
        State::Unknown,
        "provisioner-silent",
        &["has waited for 10 minutes, and no provisioner has said"],
    );
    let mut new = waiting();
    new.edit(|claim| claim["metadata"]["creationTimestamp"] = json!("2026-11-23T04:59:50Z"));
    assert_says(&new, State::Waits, "new", &["was made 10 s ago"]);
}

#[test]
fn a_volume_that_is_being_made_is_waited_for_and_what_is_not_known_is_not_guessed() {
    let begun = |ago: u32| {
        event(
            "PersistentVolumeClaim",
            "data",
            "Provisioning",
            "External provisioner is provisioning volume for claim \"demo/data\"",
            ago,
        )
    };
    assert_says(
        &cluster().at_once().with_events(&[begun(10)]),
        State::Waits,
        "provisioning",
        &["is being made, since 10 s"],
    );
    let facts = cluster().at_once().with_events(&[begun(600)]);
    assert_says(
        &facts,
        State::Unknown,
        "unknown",
        &[
            "nothing wrong was found",
            "Provisioning of PersistentVolumeClaim data, 10 minutes ago: “External provisioner",
        ],
    );
    // Whose turn it is cannot be told where classes may not be read.
    let facts = Facts { classes: None, leases: Some(vec![]), ..cluster() };
    assert_says(&facts, State::Unknown, "unknown", &["There are no Events."]);
    let facts = Facts { events: None, ..cluster() }.with_pod(pod("web-0"));
    assert_says(&facts, State::Unknown, "unknown", &["Events may not be read."]);
}
