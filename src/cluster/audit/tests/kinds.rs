//! What is kept of what an API server sends.

use std::time::Duration;

use kube::Resource;
use serde_json::{Value, json};

use super::super::kinds::{
    CsiNode, Kind, Node, PersistentVolume, PersistentVolumeClaim, StorageClass, Watched,
};
use super::{A, DRIVER, id, volume_id};

fn read<K: Kind>(value: Value) -> Watched<K> {
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_persistentvolume_is_read_as_the_api_server_writes_it() {
    let rule = json!({ "key": "topology.csi.rockpool.dev/node", "operator": "In", "values": ["n1"] });
    let watched: Watched<PersistentVolume> = read(json!({
        "metadata": {
            "name": "pvc-1", "uid": "u", "resourceVersion": "7", "deletionTimestamp": "2026-11-22T00:00:00Z",
            "annotations": null, "managedFields": [{ "manager": "x", "fieldsV1": { "f:spec": {} } }],
        },
        "spec": {
            "csi": { "driver": DRIVER, "volumeHandle": volume_id(A, 1), "volumeAttributes": { "secret": "x" } },
            "storageClassName": "fast",
            "claimRef": { "kind": "PersistentVolumeClaim", "namespace": "ns", "name": "data", "uid": "c" },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [rule] }] } },
        },
        "status": { "phase": "Bound" },
    }));
    let meta = watched.meta();
    assert!(meta.managed_fields.is_none() && meta.resource_version.as_deref() == Some("7"));
    assert_eq!((&*watched.key(), watched.whose.as_deref()), ("pvc-1", Some(DRIVER)));
    let volume = watched.object;
    assert_eq!((&*volume.name, &*volume.uid, &*volume.class), ("pvc-1", "u", "fast"));
    assert!(volume.is_leaving && volume.volume.is_ok());
    assert_eq!(volume.nodes[..], [id("n1")]);
    let claim = volume.claim.unwrap();
    assert_eq!((&*claim.namespace, &*claim.name, &*claim.uid), ("ns", "data", "c"));
}

#[test]
fn what_is_missing_or_null_is_nothing() {
    let spec = json!({ "nfs": { "server": "x" }, "claimRef": null, "storageClassName": null, "csi": null });
    let watched: Watched<PersistentVolume> = read(json!({ "metadata": { "name": "nfs" }, "spec": spec }));
    assert_eq!(watched.whose.as_deref(), Some(""), "nobody's that we know");
    let volume = watched.object;
    assert!(volume.claim.is_none() && volume.nodes.is_empty() && !volume.is_leaving);
    let node: Watched<Node> = read(json!({ "metadata": { "name": "n1" }, "status": { "conditions": null } }));
    assert!(!node.object.is_ready && node.whose.is_none());
    let csi: Watched<CsiNode> = read(json!({ "metadata": { "name": "n1" }, "spec": { "drivers": null } }));
    assert!(csi.object.drivers.is_empty());
    let class = json!({ "metadata": { "name": "c" }, "provisioner": "x", "parameters": null });
    assert_eq!(read::<StorageClass>(class).object.gone_after, None);
}

#[test]
fn a_node_is_ready_while_its_condition_says_so() {
    for (status, ready) in [("True", true), ("False", false), ("Unknown", false)] {
        let conditions =
            json!([{ "type": "DiskPressure", "status": "False" }, { "type": "Ready", "status": status }]);
        let node = json!({ "metadata": { "name": "n1" }, "status": { "conditions": conditions } });
        assert_eq!(read::<Node>(node).object.is_ready, ready, "{status}");
    }
}

#[test]
fn a_class_says_how_patient_it_is_and_a_claim_who_provisions_it() {
    let class = |after: &str| {
        let parameters = json!({ "reportNodeGoneAfter": after });
        let class = json!({ "metadata": { "name": "c" }, "provisioner": "x", "parameters": parameters });
        read::<StorageClass>(class).object.gone_after
    };
    assert_eq!(class("1h"), Some(Duration::from_secs(3600)));
    assert_eq!(class("soon"), None);
    let annotations = json!({ "volume.kubernetes.io/storage-provisioner": "other" });
    let metadata = json!({ "name": "c", "namespace": "ns", "uid": "u", "annotations": annotations });
    let claim: Watched<PersistentVolumeClaim> = read(json!({ "metadata": metadata }));
    assert_eq!((claim.whose.as_deref(), &*claim.key(), &*claim.object.uid), (Some("other"), "ns/c", "u"));
}
