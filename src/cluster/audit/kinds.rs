//! What is kept of the objects that are watched.
//!
//! Owns: which of their fields matter. Never: keeps another: of 10,000 PersistentVolumes at 3 KiB each a tenth is left. Never refuses
//! an object for a field that it does not know, or that is null as the API server writes what is empty.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::Resource;
use serde::Deserialize;
use serde_json::Value;

use crate::cluster::kubernetes::or_default;
use crate::cluster::router::nodes_of;
use crate::model::{NodeId, VolumeId, report_node_gone_after};

/// Who provisions a claim, as the controller that binds claims notes it.
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";

/// A PersistentVolume.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Sent<VolumeSpec, Empty>")]
pub(super) struct PersistentVolume {
    metadata: ObjectMeta,
    pub(super) driver: String,
    pub(super) handle: String,
    pub(super) class: String,
    /// The nodes on which it may be used.
    pub(super) nodes: Box<[NodeId]>,
    pub(super) claim: Option<Reference>,
    /// Whether it is being deleted.
    pub(super) is_leaving: bool,
}

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Sent<Empty, Empty>")]
pub(super) struct PersistentVolumeClaim {
    metadata: ObjectMeta,
    /// Who provisions it, where that is known.
    pub(super) provisioner: Option<String>,
}

/// A Node.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Sent<Empty, NodeStatus>")]
pub(super) struct Node {
    metadata: ObjectMeta,
    pub(super) is_ready: bool,
}

/// A CSINode.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Sent<CsiNodeSpec, Empty>")]
pub(super) struct CsiNode {
    metadata: ObjectMeta,
    pub(super) drivers: Vec<String>,
}

/// A StorageClass.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "SentClass")]
pub(super) struct StorageClass {
    metadata: ObjectMeta,
    pub(super) provisioner: String,
    /// How long a node is gone before that is reported for volumes of this class.
    pub(super) gone_after: Option<Duration>,
}

/// The claim that a volume is bound to, or was.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Reference {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
}

/// An object as it is sent.
#[derive(Deserialize)]
#[serde(bound = "S: Default + Deserialize<'de>, T: Default + Deserialize<'de>")]
struct Sent<S, T> {
    metadata: Metadata,
    #[serde(default, deserialize_with = "or_default")]
    spec: S,
    #[serde(default, deserialize_with = "or_default")]
    status: T,
}

#[derive(Default, Deserialize)]
struct Empty {}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    deletion_timestamp: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    annotations: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct VolumeSpec {
    #[serde(default, deserialize_with = "or_default")]
    csi: CsiSource,
    #[serde(default, deserialize_with = "or_default")]
    storage_class_name: String,
    claim_ref: Option<Reference>,
    #[serde(default)]
    node_affinity: Value,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct CsiSource {
    driver: String,
    volume_handle: String,
}

#[derive(Default, Deserialize)]
struct NodeStatus {
    #[serde(default, deserialize_with = "or_default")]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

#[derive(Default, Deserialize)]
struct CsiNodeSpec {
    #[serde(default, deserialize_with = "or_default")]
    drivers: Vec<Driver>,
}

#[derive(Deserialize)]
struct Driver {
    name: String,
}

#[derive(Deserialize)]
struct SentClass {
    metadata: Metadata,
    #[serde(default)]
    provisioner: String,
    #[serde(default, deserialize_with = "or_default")]
    parameters: BTreeMap<String, String>,
}

impl From<Metadata> for ObjectMeta {
    fn from(sent: Metadata) -> ObjectMeta {
        ObjectMeta {
            name: Some(sent.name),
            namespace: sent.namespace,
            uid: sent.uid,
            resource_version: sent.resource_version,
            ..ObjectMeta::default()
        }
    }
}

impl From<Sent<VolumeSpec, Empty>> for PersistentVolume {
    fn from(sent: Sent<VolumeSpec, Empty>) -> Self {
        PersistentVolume {
            is_leaving: sent.metadata.deletion_timestamp.is_some(),
            metadata: sent.metadata.into(),
            driver: sent.spec.csi.driver,
            handle: sent.spec.csi.volume_handle,
            class: sent.spec.storage_class_name,
            nodes: nodes_of(&sent.spec.node_affinity).into(),
            claim: sent.spec.claim_ref,
        }
    }
}

impl From<Sent<Empty, Empty>> for PersistentVolumeClaim {
    fn from(mut sent: Sent<Empty, Empty>) -> Self {
        let provisioner = sent.metadata.annotations.remove(PROVISIONER);
        PersistentVolumeClaim { provisioner, metadata: sent.metadata.into() }
    }
}

impl From<Sent<Empty, NodeStatus>> for Node {
    fn from(sent: Sent<Empty, NodeStatus>) -> Self {
        let ready = sent.status.conditions.iter().find(|condition| condition.kind == "Ready");
        Node { is_ready: ready.is_some_and(|it| it.status == "True"), metadata: sent.metadata.into() }
    }
}

impl From<Sent<CsiNodeSpec, Empty>> for CsiNode {
    fn from(sent: Sent<CsiNodeSpec, Empty>) -> Self {
        let drivers = sent.spec.drivers.into_iter().map(|driver| driver.name).collect();
        CsiNode { drivers, metadata: sent.metadata.into() }
    }
}

impl From<SentClass> for StorageClass {
    fn from(sent: SentClass) -> Self {
        // A wrong one is refused where a volume is to be made.
        let gone_after = report_node_gone_after(&sent.parameters).ok().flatten();
        StorageClass { gone_after, provisioner: sent.provisioner, metadata: sent.metadata.into() }
    }
}

impl PersistentVolume {
    /// The volume that it leads to, if its handle is an id of ours.
    pub(super) fn volume(&self) -> Option<VolumeId> {
        self.handle.parse().ok()
    }
}

/// What every kind has.
pub(super) trait Named {
    /// Its name.
    fn name(&self) -> &str;
    /// Its uid; empty where it was sent without.
    fn uid(&self) -> &str;
}

impl<K: Resource> Named for K {
    fn name(&self) -> &str {
        self.meta().name.as_deref().unwrap_or_default()
    }

    fn uid(&self) -> &str {
        self.meta().uid.as_deref().unwrap_or_default()
    }
}

macro_rules! resource {
    ($kind:ident, $group:literal, $plural:literal, $scope:ty) => {
        impl Resource for $kind {
            type DynamicType = ();
            type Scope = $scope;

            fn kind((): &()) -> Cow<'_, str> {
                stringify!($kind).into()
            }

            fn group((): &()) -> Cow<'_, str> {
                $group.into()
            }

            fn version((): &()) -> Cow<'_, str> {
                "v1".into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

resource!(PersistentVolume, "", "persistentvolumes", ClusterResourceScope);
resource!(PersistentVolumeClaim, "", "persistentvolumeclaims", NamespaceResourceScope);
resource!(Node, "", "nodes", ClusterResourceScope);
resource!(CsiNode, "storage.k8s.io", "csinodes", ClusterResourceScope);
resource!(StorageClass, "storage.k8s.io", "storageclasses", ClusterResourceScope);

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    fn read<K: DeserializeOwned>(value: Value) -> K {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_persistentvolume_is_read_as_the_api_server_writes_it() {
        let volume: PersistentVolume = read(json!({
            "metadata": {
                "name": "pvc-1", "uid": "u", "resourceVersion": "7", "deletionTimestamp": "2026-11-22T00:00:00Z",
                "annotations": null, "managedFields": [{ "manager": "x", "fieldsV1": { "f:spec": {} } }],
            },
            "spec": {
                "csi": { "driver": "csi.rockpool.dev", "volumeHandle": "v1.aaaaaaaaaaaa.0101010101010101", "volumeAttributes": { "secret": "x" } },
                "storageClassName": "fast",
                "claimRef": { "kind": "PersistentVolumeClaim", "namespace": "ns", "name": "data", "uid": "c" },
                "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                    { "key": "topology.csi.rockpool.dev/node", "operator": "In", "values": ["n1"] }] }] } },
            },
            "status": { "phase": "Bound" },
        }));
        assert_eq!((volume.name(), volume.uid(), volume.class.as_str()), ("pvc-1", "u", "fast"));
        assert!(volume.is_leaving && volume.volume().is_some());
        assert_eq!(volume.nodes[..], ["n1".parse().unwrap()]);
        let claim = volume.claim.unwrap();
        assert_eq!(
            (claim.namespace, claim.name, claim.uid),
            ("ns".to_owned(), "data".to_owned(), "c".to_owned())
        );
        assert!(volume.metadata.managed_fields.is_none());
    }

    #[test]
    fn what_is_missing_or_null_is_nothing() {
        let volume: PersistentVolume = read(
            json!({ "metadata": { "name": "nfs" }, "spec": { "nfs": { "server": "x" }, "claimRef": null, "storageClassName": null } }),
        );
        assert!(
            volume.driver.is_empty()
                && volume.claim.is_none()
                && volume.nodes.is_empty()
                && !volume.is_leaving
        );
        let node: Node = read(json!({ "metadata": { "name": "n1" }, "status": { "conditions": null } }));
        assert!(!node.is_ready);
        let csi: CsiNode = read(json!({ "metadata": { "name": "n1" }, "spec": { "drivers": null } }));
        assert!(csi.drivers.is_empty());
        let class: StorageClass =
            read(json!({ "metadata": { "name": "c" }, "provisioner": "x", "parameters": null }));
        assert_eq!(class.gone_after, None);
    }

    #[test]
    fn a_node_is_ready_while_its_condition_says_so() {
        for (status, ready) in [("True", true), ("False", false), ("Unknown", false)] {
            let node: Node = read(json!({ "metadata": { "name": "n1" }, "status": { "conditions": [
                { "type": "DiskPressure", "status": "False" }, { "type": "Ready", "status": status }] } }));
            assert_eq!(node.is_ready, ready, "{status}");
        }
    }

    #[test]
    fn a_class_says_how_patient_it_is_and_a_claim_who_provisions_it() {
        let class = |after: &str| -> StorageClass {
            read(
                json!({ "metadata": { "name": "c" }, "provisioner": "x", "parameters": { "reportNodeGoneAfter": after } }),
            )
        };
        assert_eq!(class("1h").gone_after, Some(Duration::from_secs(3600)));
        assert_eq!(class("soon").gone_after, None);
        let claim: PersistentVolumeClaim = read(
            json!({ "metadata": { "name": "c", "namespace": "ns", "annotations": { PROVISIONER: "other" } } }),
        );
        assert_eq!(claim.provisioner.as_deref(), Some("other"));
    }
}
