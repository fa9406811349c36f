//! What is found, and how it is told.
//!
//! Owns: the words of an Event. Never: a word that changes while the matter does not, like for how long: the same must look the same, to
//! be told once.

use super::kinds::{PersistentVolume, Reference};
use crate::model::NodeId;

/// Why there is an Event, as operators filter by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Reason {
    /// Another node announces the same pool.
    PoolCopied,
    /// The disk of a pool is not at its node any more.
    PoolGone,
    /// A pool cannot be used.
    PoolAway,
    /// A pool can be read and not be changed.
    PoolReadOnly,
    /// Records in a pool cannot be read.
    RecordQuarantined,
    /// A pool that was reported is well again.
    PoolHealthy,
    /// A node is deleted, or not ready.
    NodeGone,
    /// A node has volumes, and the driver is not registered with its kubelet.
    DriverNotRegistered,
    /// Volumes to which no PersistentVolume leads.
    VolumeWithoutPersistentVolume,
    /// A PersistentVolume that leads to no volume.
    PersistentVolumeWithoutVolume,
    /// A PersistentVolume whose pool no node has.
    PoolMissing,
}

/// All of them, for the metric.
pub(crate) const REASONS: [Reason; 11] = [
    Reason::PoolCopied,
    Reason::PoolGone,
    Reason::PoolAway,
    Reason::PoolReadOnly,
    Reason::RecordQuarantined,
    Reason::PoolHealthy,
    Reason::NodeGone,
    Reason::DriverNotRegistered,
    Reason::VolumeWithoutPersistentVolume,
    Reason::PersistentVolumeWithoutVolume,
    Reason::PoolMissing,
];

impl Reason {
    /// As it stands in an Event.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Reason::PoolCopied => "PoolCopied",
            Reason::PoolGone => "PoolGone",
            Reason::PoolAway => "PoolAway",
            Reason::PoolReadOnly => "PoolReadOnly",
            Reason::RecordQuarantined => "RecordQuarantined",
            Reason::PoolHealthy => "PoolHealthy",
            Reason::NodeGone => "NodeGone",
            Reason::DriverNotRegistered => "DriverNotRegistered",
            Reason::VolumeWithoutPersistentVolume => "VolumeWithoutPersistentVolume",
            Reason::PersistentVolumeWithoutVolume => "PersistentVolumeWithoutVolume",
            Reason::PoolMissing => "PoolMissing",
        }
    }
}

/// An object that an Event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) kind: &'static str,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) uid: String,
}

impl Object {
    /// A node. One whose object is gone, or not known, is told of by its name, as kubelet does it.
    pub(super) fn node(node: &NodeId, uid: Option<&str>) -> Object {
        let uid = uid.filter(|uid| !uid.is_empty()).unwrap_or(node.as_str()).to_owned();
        Object { kind: "Node", namespace: None, name: node.to_string(), uid }
    }

    pub(super) fn claim(claim: &Reference) -> Object {
        Object {
            kind: "PersistentVolumeClaim",
            namespace: Some(claim.namespace.to_string()),
            name: claim.name.to_string(),
            uid: claim.uid.to_string(),
        }
    }

    pub(super) fn volume(volume: &PersistentVolume) -> Object {
        let (name, uid) = (volume.name.to_string(), volume.uid.to_string());
        Object { kind: "PersistentVolume", namespace: None, name, uid }
    }
}

/// What makes a finding the same as an earlier one: its reason, and what it is about.
pub(super) type Key = (Reason, String);

/// Something that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) reason: Reason,
    /// With the reason, what makes it the same as an earlier one.
    pub(super) subject: String,
    pub(super) about: Object,
    pub(super) note: String,
}

impl Finding {
    pub(super) fn key(&self) -> Key {
        (self.reason, self.subject.clone())
    }

    /// Whether there may be thousands of its like at once. Metrics count them all.
    pub(super) fn is_one_of_many(&self) -> bool {
        self.about.kind != "Node"
    }

    /// Whether a pool cannot be used as it should.
    pub(super) fn is_illness(&self) -> bool {
        let ills = [
            Reason::PoolCopied,
            Reason::PoolGone,
            Reason::PoolAway,
            Reason::PoolReadOnly,
            Reason::RecordQuarantined,
        ];
        ills.contains(&self.reason)
    }

    /// Whether it is told once and is over by that.
    pub(super) fn is_news(&self) -> bool {
        self.reason == Reason::PoolHealthy
    }
}

/// The first few of many, as people count them.
pub(super) fn some(all: &[String]) -> String {
    const FEW: usize = 3;
    let shown = all.iter().take(FEW).cloned().collect::<Vec<_>>().join(", ");
    if all.len() > FEW { format!("{shown} and {} more", all.len() - FEW) } else { shown }
}

/// `1 volume`, `2 volumes`.
pub(super) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
