//! What is kept of the objects that are watched.
//!
//! Owns: which of their fields matter. Never: keeps another: of 10,000 PersistentVolumes at 3 KiB each a tenth is left. Never refuses
//! an object for a field that it does not know, or that is null as the API server writes what is empty.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::cluster::kubernetes::or_default;
use crate::cluster::router::nodes_of;
use crate::model::{NodeId, VolumeId, report_node_gone_after};

/// Who provisions a claim, as the controller that binds claims notes it.
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";

/// A PersistentVolume.
#[derive(Clone, Debug)]
pub(super) struct PersistentVolume {
    pub(super) name: Box<str>,
    pub(super) uid: Box<str>,
    /// The volume that it leads to; its handle, where that is no id of ours.
    pub(super) volume: Result<VolumeId, Box<str>>,
    pub(super) class: Box<str>,
    /// The nodes on which it may be used.
    pub(super) nodes: Box<[NodeId]>,
    pub(super) claim: Option<Reference>,
    /// Whether it is being deleted.
    pub(super) is_leaving: bool,
}

/// A PersistentVolumeClaim.
#[derive(Clone, Debug)]
pub(super) struct PersistentVolumeClaim {
    pub(super) uid: Box<str>,
}

/// A Node.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) name: Box<str>,
    pub(super) uid: Box<str>,
    pub(super) is_ready: bool,
}

/// A CSINode.
#[derive(Clone, Debug)]
pub(super) struct CsiNode {
    pub(super) name: Box<str>,
    pub(super) drivers: Vec<String>,
}

/// A StorageClass.
#[derive(Clone, Debug)]
pub(super) struct StorageClass {
    pub(super) name: Box<str>,
    /// How long a node is gone before that is reported for volumes of this class.
    pub(super) gone_after: Option<Duration>,
}

/// The claim that a volume is bound to, or was.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Reference {
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
    pub(super) uid: Box<str>,
}

/// A kind of object that is watched.
pub(super) trait Kind: Clone + Debug + Send + Sync + Sized + 'static {
    const KIND: &'static str;
    const GROUP: &'static str;
    const PLURAL: &'static str;
    /// As it is sent.
    type Sent: DeserializeOwned;

    /// What is kept of it.
    fn keep(sent: Self::Sent) -> Watched<Self>;
}

/// An object on its way into a store.
#[derive(Clone, Debug)]
pub(super) struct Watched<K> {
    metadata: ObjectMeta,
    /// The driver that it belongs to; none: any.
    pub(super) whose: Option<String>,
    pub(super) object: K,
}

impl<'de, K: Kind> Deserialize<'de> for Watched<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        K::Sent::deserialize(deserializer).map(K::keep)
    }
}

impl<K: Kind> Resource for Watched<K> {
    type DynamicType = ();
    // It is watched in all namespaces, if it has any.
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        K::KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        K::GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl<K> Watched<K> {
    /// What tells it from others of its kind.
    pub(super) fn key(&self) -> Box<str> {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        match &self.metadata.namespace {
            Some(namespace) => format!("{namespace}/{name}").into(),
            None => name.into(),
        }
    }
}

/// An object as it is sent.
#[derive(Deserialize)]
#[serde(bound = "S: Default + Deserialize<'de>, T: Default + Deserialize<'de>")]
pub(super) struct Sent<S, T> {
    metadata: Metadata,
    #[serde(default, deserialize_with = "or_default")]
    spec: S,
    #[serde(default, deserialize_with = "or_default")]
    status: T,
}

#[derive(Default, Deserialize)]
pub(super) struct Empty {}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: Option<String>,
    #[serde(default)]
    uid: Box<str>,
    resource_version: Option<String>,
    deletion_timestamp: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    annotations: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VolumeSpec {
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
pub(super) struct NodeStatus {
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
pub(super) struct CsiNodeSpec {
    #[serde(default, deserialize_with = "or_default")]
    drivers: Vec<Driver>,
}

#[derive(Deserialize)]
struct Driver {
    name: String,
}

#[derive(Deserialize)]
pub(super) struct SentClass {
    metadata: Metadata,
    #[serde(default)]
    provisioner: String,
    #[serde(default, deserialize_with = "or_default")]
    parameters: BTreeMap<String, String>,
}

impl Metadata {
    /// With what is kept, and whose it is.
    fn watched<K>(self, whose: Option<String>, object: K) -> Watched<K> {
        let Metadata { name, namespace, resource_version, .. } = self;
        let metadata = ObjectMeta { name: Some(name), namespace, resource_version, ..ObjectMeta::default() };
        Watched { metadata, whose, object }
    }

    fn name(&self) -> Box<str> {
        self.name.as_str().into()
    }
}

impl Kind for PersistentVolume {
    const KIND: &'static str = "PersistentVolume";
    const GROUP: &'static str = "";
    const PLURAL: &'static str = "persistentvolumes";
    type Sent = Sent<VolumeSpec, Empty>;

    fn keep(sent: Self::Sent) -> Watched<Self> {
        let Sent { metadata, spec, .. } = sent;
        let handle = spec.csi.volume_handle;
        let volume = PersistentVolume {
            name: metadata.name(),
            uid: metadata.uid.clone(),
            volume: handle.parse().map_err(|_| handle.into()),
            class: spec.storage_class_name.into(),
            nodes: nodes_of(&spec.node_affinity).into(),
            claim: spec.claim_ref,
            is_leaving: metadata.deletion_timestamp.is_some(),
        };
        metadata.watched(Some(spec.csi.driver), volume)
    }
}

impl Kind for PersistentVolumeClaim {
    const KIND: &'static str = "PersistentVolumeClaim";
    const GROUP: &'static str = "";
    const PLURAL: &'static str = "persistentvolumeclaims";
    type Sent = Sent<Empty, Empty>;

    fn keep(sent: Self::Sent) -> Watched<Self> {
        let mut metadata = sent.metadata;
        let claim = PersistentVolumeClaim { uid: metadata.uid.clone() };
        let whose = metadata.annotations.remove(PROVISIONER);
        metadata.watched(whose, claim)
    }
}

impl Kind for Node {
    const KIND: &'static str = "Node";
    const GROUP: &'static str = "";
    const PLURAL: &'static str = "nodes";
    type Sent = Sent<Empty, NodeStatus>;

    fn keep(sent: Self::Sent) -> Watched<Self> {
        let ready = sent.status.conditions.iter().find(|condition| condition.kind == "Ready");
        let is_ready = ready.is_some_and(|it| it.status == "True");
        let node = Node { name: sent.metadata.name(), uid: sent.metadata.uid.clone(), is_ready };
        sent.metadata.watched(None, node)
    }
}

impl Kind for CsiNode {
    const KIND: &'static str = "CSINode";
    const GROUP: &'static str = "storage.k8s.io";
    const PLURAL: &'static str = "csinodes";
    type Sent = Sent<CsiNodeSpec, Empty>;

    fn keep(sent: Self::Sent) -> Watched<Self> {
        let drivers = sent.spec.drivers.into_iter().map(|driver| driver.name).collect();
        let node = CsiNode { name: sent.metadata.name(), drivers };
        sent.metadata.watched(None, node)
    }
}

impl Kind for StorageClass {
    const KIND: &'static str = "StorageClass";
    const GROUP: &'static str = "storage.k8s.io";
    const PLURAL: &'static str = "storageclasses";
    type Sent = SentClass;

    fn keep(sent: Self::Sent) -> Watched<Self> {
        // A wrong one is refused where a volume is to be made.
        let gone_after = report_node_gone_after(&sent.parameters).ok().flatten();
        let class = StorageClass { name: sent.metadata.name(), gone_after };
        sent.metadata.watched(Some(sent.provisioner), class)
    }
}
