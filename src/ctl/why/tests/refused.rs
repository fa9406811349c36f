//! Claims that the driver has refused a volume, or answers step by step.

use super::making::NO_ROOM;
use super::*;

#[test]
fn what_the_driver_refused_is_repeated_and_its_code_explained() {
    let refused = |message: &str| {
        let started = event(
            "PersistentVolumeClaim",
            "data",
            "Provisioning",
            "External provisioner is provisioning volume for claim \"demo/data\"",
            31,
        );
        cluster().at_once().with_events(&[started, of_claim("ProvisioningFailed", message)])
    };
    let facts = refused(
        "Volume provisioning failed with infeasible error. Retries will be delayed. rpc error: code = InvalidArgument desc = parameters has the unknown key `size`: \
         the known ones are `pool`, `allocation`, `placement`, `retainDeleted` and `csi.storage.k8s.io/*`",
    );
    assert_wrong(
        &facts,
        "provisioning-failed",
        &[
            "with InvalidArgument, 30 s ago: “parameters has the unknown key `size`",
            "asking again does not help",
            "delete and make the class anew",
        ],
    );
    for (code, part) in [
        ("Unavailable", "cannot be asked now"),
        ("FailedPrecondition", "in a state that forbids it"),
        ("OutOfRange", "no such volume can have"),
        ("NotFound", "not there any more"),
        ("AlreadyExists", "differs from what is asked for"),
        ("Aborted", "at work on it right now"),
        ("DeadlineExceeded", "no answer in time"),
        ("Internal", "the host refused something"),
        ("Unimplemented", "does not offer it"),
        ("Unknown", "does not answer with"),
    ] {
        let facts = refused(&format!("rpc error: code = {code} desc = words of the driver"));
        assert_wrong(&facts, "provisioning-failed", &[code, "“words of the driver”", part]);
    }
    let facts = refused(
        "rpc error: code = ResourceExhausted desc = no node has room, nothing was made: node n1: pool `fast`: no room for 10 GiB more",
    );
    assert_wrong(
        &facts,
        "provisioning-failed",
        &["no room for 10 GiB more", "It asks for 10 GiB; published is n1: 40 GiB and n2: 20 GiB."],
    );
    let facts = refused(
        "failed to strip CSI Parameters of prefixed keys: found unknown parameter key \"csi.storage.k8s.io/x\" with reserved namespace csi.storage.k8s.io/",
    );
    assert_wrong(
        &facts,
        "provisioning-failed",
        &["could not make its volume, 30 s ago: “failed to strip CSI Parameters"],
    );
    // It is over.
    let made = event(
        "PersistentVolumeClaim",
        "data",
        "ProvisioningSucceeded",
        "Successfully provisioned volume pvc-1",
        1,
    );
    assert_ne!(
        judge(&refused("rpc error: code = Internal desc = x").with_events(&[made])).0[0].code,
        "provisioning-failed"
    );
}

#[test]
fn an_earlier_claim_of_the_same_name_is_not_meant() {
    let mut old = of_claim("ProvisioningFailed", "rpc error: code = Internal desc = x");
    let facts = || cluster().at_once();
    assert_wrong(&facts().with_events(&[old.clone()]), "provisioning-failed", &[]);
    old["involvedObject"]["uid"] = json!("uid-of-yesterday");
    assert_says(&facts().with_events(&[old]), State::Unknown, "provisioner-silent", &[]);
}

#[test]
fn room_that_was_refused_is_told_with_the_numbers_and_the_refusal() {
    let message = "rpc error: code = ResourceExhausted desc = no node has room, nothing was made: node n1: pool `fast`: no room for 100 GiB more";
    let mut facts = cluster()
        .with_pod(unscheduled("web-0", NO_ROOM))
        .with_events(&[of_claim("ProvisioningFailed", message)]);
    facts.edit(|claim| claim["spec"]["resources"]["requests"]["storage"] = json!("100Gi"));
    assert_wrong(
        &facts,
        "no-room",
        &["40 GiB, on node n1", "The driver's last answer, 30 s ago: “no node has room"],
    );
}

#[test]
fn more_than_any_pool_can_ever_give_is_a_lack_of_room_also_where_nobody_schedules() {
    let message = "rpc error: code = OutOfRange desc = capacity_range.required_bytes 107374182400 is more than pool `fast` can ever give: 12176900096 bytes";
    let mut facts = cluster().at_once().with_events(&[of_claim("ProvisioningFailed", message)]);
    facts.edit(|claim| claim["spec"]["resources"]["requests"]["storage"] = json!("100Gi"));
    assert_wrong(
        &facts,
        "no-room",
        &["40 GiB, on node n1", "last answer, 30 s ago: “capacity_range.required_bytes"],
    );
    // Unless it is told to, the provisioner publishes nothing for such a class, and nobody misses that.
    facts.capacities = Some(vec![]);
    assert_wrong(
        &facts,
        "provisioning-failed",
        &["with OutOfRange, 30 s ago", "can ever give: 12176900096 bytes"],
    );
}

#[test]
fn what_was_refused_before_the_scheduler_chooses_again_counts_less() {
    let message = "rpc error: code = Unavailable desc = node n1 has not been connected for 8 s; nothing was done, ask again";
    let words = "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.";
    let facts = cluster()
        .with_pod(unscheduled("web-0", words))
        .with_events(&[of_claim("ProvisioningFailed", message)]);
    assert_wrong(
        &facts,
        "pod-unschedulable",
        &[
            "2 Insufficient cpu",
            "The driver's last answer, 30 s ago: “node n1 has not been connected for 8 s",
        ],
    );
}

#[test]
fn a_source_on_another_node_than_the_scheduler_chose_wants_an_immediate_class() {
    let message = "rpc error: code = ResourceExhausted desc = volume_content_source lies on node n1, and no node that accessibility_requirements allow can have a copy of it; \
                   nothing was made: node n2: pool `fast`: no room for 10 GiB more";
    let mut facts = cluster().with_pod(pod("web-0")).with_events(&[of_claim("ProvisioningFailed", message)]);
    facts.edit(|claim| {
        claim["spec"]["dataSource"] = json!({ "kind": "PersistentVolumeClaim", "name": "origin" });
        claim["metadata"]["annotations"] = json!({ "volume.kubernetes.io/selected-node": "n2" });
    });
    let mut origin = claim("origin", "10Gi");
    origin["status"] = json!({ "phase": "Bound", "capacity": { "storage": "10Gi" } });
    facts.source.claim = Look::There(origin);
    facts.source.volume = Look::There(volume("pvc-2", "n1"));
    assert_wrong(
        &facts,
        "source-elsewhere",
        &[
            "a copy of PersistentVolumeClaim demo/origin, which lies on node n1",
            "lets the scheduler choose a node for the pod first",
            "(n2 at last)",
            "volumeBindingMode Immediate",
        ],
    );
    // The snapshot's claim is gone: its handle says the pool, and the controller where that is.
    facts.edit(|claim| claim["spec"]["dataSource"] = json!({ "kind": "VolumeSnapshot", "name": "monday" }));
    facts.source = Default::default();
    facts.source.snapshot = Look::There(
        json!({ "status": { "boundVolumeSnapshotContentName": "c", "readyToUse": true, "restoreSize": "10Gi" } }),
    );
    facts.source.content = Look::There(
        json!({ "spec": { "driver": DRIVER }, "status": { "snapshotHandle": "s1.aaaaaaaaaaaa.0000000000000001" } }),
    );
    facts.told_pools = Some(vec![
        json!({ "id": "aaaaaaaaaaaa", "name": "fast", "state": "here", "nodes": ["n1"], "why": "" }),
    ]);
    assert_wrong(&facts, "source-elsewhere", &["VolumeSnapshot demo/monday, which lies on node n1"]);
}

#[test]
fn a_copy_that_comes_from_another_node_is_on_its_way() {
    let message = "rpc error: code = Unavailable desc = volume name `pvc-1`: node n2 has received 3 GiB of 10 GiB; it goes on, ask again";
    let facts = cluster().at_once().with_events(&[of_claim("ProvisioningFailed", message)]);
    assert_says(&facts, State::Waits, "copying", &["3 GiB of 10 GiB", "Nothing is wrong."]);
}
