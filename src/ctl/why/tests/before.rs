//! Claims that are not there, or ask for what cannot be: nobody begins to make a volume for them.

use super::*;

/// No claim, in a namespace that has these.
fn without_claim(claims: &[(&str, &str)]) -> Facts {
    let claims = claims
        .iter()
        .map(|(namespace, name)| json!({ "metadata": { "namespace": namespace, "name": name } }));
    let namespace = json!({ "metadata": { "name": "demo" } });
    Facts {
        claim: Look::Missing,
        namespace_object: Look::There(namespace),
        namesakes: claims.collect(),
        ..cluster()
    }
}

#[test]
fn a_claim_that_does_not_exist_is_told_with_names_like_it() {
    let facts =
        without_claim(&[("demo", "date"), ("demo", "cache"), ("demo", "data-web-0"), ("prod", "data")]);
    assert_wrong(
        &facts,
        "claim-missing",
        &["There is no claim demo/data. Is date and data-web-0 meant, or prod/data?"],
    );
    assert_wrong(
        &without_claim(&[("prod", "data")]),
        "claim-missing",
        &["There is prod/data: name its namespace with -n."],
    );
    assert_wrong(&without_claim(&[("demo", "cache")]), "claim-missing", &["The namespace has one claim"]);
    assert_wrong(&without_claim(&[]), "claim-missing", &["The namespace has no claims"]);
}

#[test]
fn a_namespace_that_does_not_exist_is_told_as_that() {
    let facts = Facts { namespace_object: Look::Missing, ..without_claim(&[]) };
    assert_wrong(&facts, "namespace-missing", &["the namespace `demo` does not exist", "-n"]);
}

#[test]
fn a_quota_that_keeps_a_claim_from_being_made_is_named() {
    let message = "create Claim data for Pod web-0 in StatefulSet web failed error: persistentvolumeclaims \"data\" is forbidden: \
                   exceeded quota: storage, requested: requests.storage=10Gi, used: requests.storage=95Gi, limited: requests.storage=100Gi";
    let of = |message: &str| event("StatefulSet", "web", "FailedCreate", message, 60);
    let facts = without_claim(&[("demo", "data-2")]).with_events(&[of(message)]);
    assert_wrong(
        &facts,
        "quota",
        &[
            "does not let StatefulSet web make it, 60 s ago",
            "limited: requests.storage=100Gi",
            "Raise the quota",
        ],
    );
    // Another claim's, whose name begins the same.
    let other = message.replace("Claim data", "Claim data-10").replace("\"data\"", "\"data-10\"");
    let facts = without_claim(&[]).with_events(&[of(&other)]);
    assert_wrong(&facts, "claim-missing", &[]);
    // Nobody has said it yet, and it is full.
    let full = json!({ "metadata": { "name": "storage" }, "status": { "hard": { "persistentvolumeclaims": "3", "pods": "1" }, "used": { "persistentvolumeclaims": "3", "pods": "1" } } });
    let mut facts = without_claim(&[]);
    facts.quotas = Some(vec![full.clone()]);
    assert_wrong(&facts, "quota", &["ResourceQuota `storage` is used up, persistentvolumeclaims 3 of 3"]);
    let mut roomy = full;
    roomy["status"]["used"]["persistentvolumeclaims"] = json!("2");
    facts.quotas = Some(vec![roomy]);
    assert_wrong(&facts, "claim-missing", &[]);
}

#[test]
fn a_claim_without_a_class_is_told_whether_there_is_a_default_one() {
    let mut facts = cluster();
    facts.edit(|claim| drop(claim["spec"].as_object_mut().unwrap().remove("storageClassName")));
    let message = "no persistent volumes available for this claim and no storage class is set";
    facts = facts.with_events(&[of_claim("FailedBinding", message)]);
    assert_wrong(
        &facts,
        "no-class",
        &[
            "names no StorageClass, and no class is marked as the default one",
            "is-default-class=true",
            "Classes of ours: rockpool and now.",
        ],
    );
    // The default class is another's.
    let mut other = class("cloud", "ebs.csi.aws.com", "Immediate");
    other["metadata"]["annotations"] = json!({ "storageclass.kubernetes.io/is-default-class": "true" });
    facts.classes.as_mut().unwrap().push(other);
    assert_wrong(
        &facts,
        "other-driver",
        &["names no StorageClass, and the default one `cloud`, whose provisioner is `ebs.csi.aws.com`"],
    );
    // Nothing at all is to be made.
    let mut facts = cluster();
    facts.edit(|claim| claim["spec"]["storageClassName"] = json!(""));
    assert_wrong(&facts, "no-class", &["has an empty storageClassName"]);
}

#[test]
fn a_class_that_does_not_exist_is_told_with_those_that_do() {
    let mut facts = cluster();
    facts.edit(|claim| claim["spec"]["storageClassName"] = json!("rockpol"));
    facts = facts
        .with_events(&[of_claim("ProvisioningFailed", "storageclass.storage.k8s.io \"rockpol\" not found")]);
    assert_wrong(
        &facts,
        "class-missing",
        &["StorageClass `rockpol`, which does not exist", "Classes of ours: rockpool and now."],
    );
    facts.classes = Some(vec![]);
    assert_wrong(&facts, "class-missing", &["There is no class of `csi.rockpool.dev` yet"]);
}

#[test]
fn a_class_of_another_provisioner_is_its_business() {
    let mut facts = cluster();
    facts.classes.as_mut().unwrap().push(class("cloud", "ebs.csi.aws.com", "Immediate"));
    facts.edit(|claim| claim["spec"]["storageClassName"] = json!("cloud"));
    assert_wrong(
        &facts,
        "other-driver",
        &[
            "StorageClass `cloud`, whose provisioner is `ebs.csi.aws.com`, not `csi.rockpool.dev`",
            "Classes of ours: rockpool and now.",
        ],
    );
    let mut facts = bound();
    facts.volume = Look::There(
        json!({ "metadata": { "name": "pvc-1" }, "spec": { "csi": { "driver": "ebs.csi.aws.com" } } }),
    );
    assert_says(
        &facts,
        State::Unknown,
        "other-driver",
        &["the volume pvc-1, which is of the driver `ebs.csi.aws.com`"],
    );
}

#[test]
fn access_modes_of_several_nodes_and_selectors_can_never_be_served_and_are_told_together() {
    for mode in ["ReadWriteMany", "ReadOnlyMany"] {
        let mut facts = cluster();
        facts.edit(|claim| claim["spec"]["accessModes"] = json!([mode]));
        assert_wrong(
            &facts,
            "access-mode",
            &[mode, "ReadWriteOnce, which several pods of one node may share"],
        );
    }
    let mut facts = cluster();
    facts.edit(|claim| claim["spec"]["selector"] = json!({ "matchLabels": { "a": "b" } }));
    assert_wrong(&facts, "selector", &["has a selector", "without selector"]);
    facts.edit(|claim| claim["spec"]["accessModes"] = json!(["ReadWriteMany"]));
    let verdict = judge(&facts);
    let codes: Vec<_> = verdict.0.iter().map(|cause| cause.code).collect();
    assert_eq!(codes, ["access-mode", "selector"], "{}", verdict.text());
    let mut facts = cluster();
    facts.edit(|claim| claim["spec"]["volumeAttributesClassName"] = json!("gold"));
    assert_wrong(&facts, "attributes-class", &["VolumeAttributesClass `gold`"]);
}

#[test]
fn a_claim_that_names_its_volume_waits_for_that_one_alone() {
    let mut facts = cluster();
    facts.edit(|claim| claim["spec"]["volumeName"] = json!("pv-7"));
    assert_wrong(
        &facts,
        "volume-name",
        &[
            "wants the PersistentVolume `pv-7` by its name, so nothing is made for it, and there is none of that name",
        ],
    );
    let mut other = volume("pv-7", "n1");
    other["spec"]["claimRef"] = json!({ "namespace": "demo", "name": "old", "uid": "uid-old" });
    facts.volume = Look::There(other.clone());
    assert_wrong(&facts, "volume-name", &["bound to claim demo/old"]);
    // A released one, whose claim had the same name.
    other["spec"]["claimRef"] = json!({ "namespace": "demo", "name": "data", "uid": "uid-before" });
    other["status"]["phase"] = json!("Released");
    facts.volume = Look::There(other.clone());
    assert_wrong(
        &facts,
        "volume-name",
        &["an earlier claim of this name, and is Released", "take the uid out"],
    );
    other["spec"]["claimRef"] = Value::Null;
    facts.volume = Look::There(other);
    assert_says(&facts, State::Waits, "volume-name", &["about to be bound"]);
    let message = "Cannot bind to requested volume \"pv-7\": requested PV is too small";
    let facts = facts.with_events(&[of_claim("VolumeMismatch", message)]);
    assert_wrong(
        &facts,
        "volume-name",
        &["Kubernetes does not bind them, 30 s ago", "requested PV is too small"],
    );
}

#[test]
fn a_claim_on_its_way_out_is_held_by_its_pods() {
    let leaving = |finalizers: Value| {
        let mut facts = bound();
        facts.edit(|claim| {
            claim["metadata"]["deletionTimestamp"] = json!("2026-11-23T04:58:00Z");
            claim["metadata"]["finalizers"] = finalizers;
        });
        facts
    };
    let protected = || leaving(json!(["kubernetes.io/pvc-protection"]));
    let facts = protected().with_pod(placed("web-0", "n1", "Running"));
    assert_wrong(
        &facts,
        "deleting",
        &["on its way out since 2026-11-23T04:58:00Z, and pod web-0 still uses it", "Delete the pod"],
    );
    // One that has ended holds nothing.
    let facts = protected().with_pod(placed("job", "n1", "Succeeded"));
    assert_wrong(&facts, "deleting", &["no pod uses it", "kubernetes.io/pvc-protection"]);
    let facts = leaving(json!(["snapshot.storage.kubernetes.io/pvc-as-source-protection"]));
    assert_says(&facts, State::Waits, "deleting", &["a snapshot or clone of it is being made"]);
}

#[test]
fn a_lost_claim_is_told_what_may_be_left_of_its_data() {
    let mut facts = bound();
    facts.volume = Look::Missing;
    facts.edit(|claim| claim["status"]["phase"] = json!("Lost"));
    facts = facts.with_events(&[of_claim(
        "ClaimLost",
        "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
    )]);
    assert_wrong(
        &facts,
        "lost",
        &[
            "is Lost: its PersistentVolume pvc-1 is gone",
            "rockpool ctl volume list",
            "rockpool ctl retained list",
        ],
    );
    // Before the controller has seen it.
    facts.edit(|claim| claim["status"]["phase"] = json!("Bound"));
    assert_wrong(&facts, "lost", &["its PersistentVolume pvc-1 is gone"]);
    let mut other = volume("pvc-1", "n1");
    other["spec"]["claimRef"]["uid"] = json!("uid-other");
    facts.volume = Look::There(other);
    facts.edit(|claim| claim["status"]["phase"] = json!("Lost"));
    assert_wrong(&facts, "lost", &["is bound to another claim"]);
}

/// A claim that is to be restored from a snapshot that is ready.
fn restored() -> Facts {
    let mut facts = cluster().at_once();
    facts.edit(|claim| {
        claim["spec"]["dataSource"] =
            json!({ "apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "monday" })
    });
    facts.source.snapshot = Look::There(json!({
        "metadata": { "name": "monday" },
        "status": { "boundVolumeSnapshotContentName": "snapcontent-1", "readyToUse": true, "restoreSize": "10Gi" },
    }));
    facts.source.content =
        Look::There(json!({ "spec": { "driver": DRIVER, "sourceVolumeMode": "Filesystem" } }));
    facts
}

fn of(look: &mut Look) -> &mut Value {
    let Look::There(object) = look else { panic!("it is not there") };
    object
}

#[test]
fn a_snapshot_that_is_missing_or_not_ready_is_told_with_its_error() {
    let facts = Facts { source: Default::default(), ..restored() };
    let mut missing = facts.clone();
    missing.source.snapshot = Look::Missing;
    assert_wrong(
        &missing,
        "source-missing",
        &["restored from VolumeSnapshot demo/monday, which does not exist"],
    );
    let mut facts = restored();
    of(&mut facts.source.snapshot)["status"]["readyToUse"] = json!(false);
    assert_says(&facts, State::Waits, "source-not-ready", &["which is not ready yet"]);
    let error = "Failed to check and update snapshot content: failed to take snapshot of the volume v1.aaaaaaaaaaaa.0000000000000001: \
                 \"rpc error: code = Unavailable desc = node n1 has not been connected for 8 s\"";
    of(&mut facts.source.snapshot)["status"]["error"] = json!({ "message": error });
    assert_wrong(
        &facts,
        "source-not-ready",
        &[
            "which cannot be made: “Failed to check and update snapshot content",
            "has not been connected for 8 s",
        ],
    );
    let mut facts = restored();
    facts.source.content = Look::Missing;
    assert_wrong(&facts, "source-missing", &["whose VolumeSnapshotContent snapcontent-1 is gone"]);
    let mut facts = restored();
    of(&mut facts.source.snapshot)["metadata"]["deletionTimestamp"] = json!(NOW);
    assert_wrong(&facts, "source-missing", &["which is being deleted"]);
    let mut facts = restored();
    of(&mut facts.source.content)["spec"]["driver"] = json!("ebs.csi.aws.com");
    assert_wrong(&facts, "source-other-driver", &["which the driver `ebs.csi.aws.com` has made"]);
}

#[test]
fn a_copy_cannot_be_smaller_than_its_source_nor_of_another_mode() {
    let mut facts = restored();
    facts.edit(|claim| claim["spec"]["resources"]["requests"]["storage"] = json!("5Gi"));
    assert_wrong(
        &facts,
        "smaller-than-source",
        &["asks for 5 GiB, and VolumeSnapshot demo/monday", "has 10 GiB", "Make it anew with 10 GiB or more"],
    );
    let mut facts = restored();
    facts.edit(|claim| claim["spec"]["volumeMode"] = json!("Block"));
    assert_wrong(
        &facts,
        "volume-mode",
        &["asks for the volumeMode Block", "is Filesystem", "Make it anew with volumeMode Filesystem"],
    );
}

#[test]
fn a_claim_that_is_to_be_copied_has_to_be_there_and_bound() {
    let mut facts = cluster().at_once();
    facts.edit(|claim| {
        claim["spec"]["dataSourceRef"] = json!({ "kind": "PersistentVolumeClaim", "name": "origin" })
    });
    facts.source.claim = Look::Missing;
    assert_wrong(&facts, "source-missing", &["a clone of claim demo/origin, which does not exist"]);
    let mut origin = claim("origin", "20Gi");
    facts.source.claim = Look::There(origin.clone());
    assert_wrong(&facts, "source-not-ready", &["which is Pending itself", "rockpool ctl why demo/origin"]);
    origin["status"] = json!({ "phase": "Bound", "capacity": { "storage": "20Gi" } });
    facts.source.claim = Look::There(origin);
    facts.source.volume = Look::There(volume("pvc-2", "n1"));
    assert_wrong(
        &facts,
        "smaller-than-source",
        &["asks for 10 GiB, and PersistentVolumeClaim demo/origin", "asked for 20 GiB"],
    );
    // The same words again are enough, whatever they were rounded up to.
    facts.edit(|claim| claim["spec"]["resources"]["requests"]["storage"] = json!("10G"));
    let same = of(&mut facts.source.claim);
    same["spec"]["resources"]["requests"]["storage"] = json!("10G");
    same["status"]["capacity"]["storage"] = json!("10000003072");
    assert_ne!(judge(&facts).0[0].code, "smaller-than-source");
    facts.source.volume = Look::There(json!({ "spec": { "csi": { "driver": "ebs.csi.aws.com" } } }));
    assert_wrong(&facts, "source-other-driver", &["whose volume is not of `csi.rockpool.dev`"]);
}
