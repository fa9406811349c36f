//! The nouns of Rockpool: ids, sizes, volumes, snapshots, groups and their phases.
//!
//! Owns: what a valid value is. Constructors and `FromStr` are the only way in, `Display` and serde the only way out, so
//! that a string from the wire becomes an id once. Never: touches the host, the disk or the wire.

mod bytes;
mod capacity;
mod features;
mod id;
mod name_hash;
mod node;
mod patience;
mod piece;
pub mod record;
mod request;
mod retention;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

pub use self::bytes::{Bytes, UNIT};
pub use self::capacity::{Capacity, CapacityQuery};
pub use self::features::{Features, Offer};
pub use self::id::{FsUuid, GroupId, ObjectId, PoolId, SnapshotId, VolumeId};
pub use self::name_hash::{Named, name_hash};
pub use self::node::NodeId;
pub use self::patience::{REPORT_NODE_GONE_AFTER, report_node_gone_after};
pub use self::piece::{BLOCK, LONGEST as LONGEST_PIECE, Piece, WINDOW};
pub use self::record::Record;
pub use self::request::{
    Asked, CreateGroup, CreateSnapshot, CreateVolume, DEFAULT_SIZE, Elsewhere, Placement, Range, becomes,
};
pub use self::retention::{Age, RETAIN_DELETED, Retention};
use crate::error::{Error, Result};

/// The topology key whose value is the node a volume lives on.
pub const TOPOLOGY_KEY: &str = "topology.csi.rockpool.dev/node";

/// A moment, in milliseconds since 1970 UTC. Only for people and for CSI timestamps: no decision depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(u64);

impl Time {
    /// Now, by the host's clock.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// Milliseconds since 1970 UTC.
    pub fn millis(self) -> u64 {
        self.0
    }
}

/// A filesystem as a volume carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filesystem {
    /// ext4 on the volume's own device: the default.
    Ext4,
    /// xfs on the volume's own device; at least 300 MiB.
    Xfs,
    /// A directory of the pool's filesystem, as directory pools make it.
    Shared,
}

impl Filesystem {
    /// The name that the kernel and StorageClasses use; a shared directory has none of its own.
    pub fn name(self) -> &'static str {
        match self {
            Filesystem::Ext4 => "ext4",
            Filesystem::Xfs => "xfs",
            Filesystem::Shared => "directory",
        }
    }
}

impl fmt::Display for Filesystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a workload sees a volume; fixed at creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// A mounted filesystem.
    Mount {
        /// Which one.
        fs: Filesystem,
    },
    /// A raw block device.
    Block,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Access::Mount { fs } => write!(f, "mount ({fs})"),
            Access::Block => f.write_str("block"),
        }
    }
}

/// Whether a volume's space is taken at creation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Allocation {
    /// Space is taken when it is written: the default.
    #[default]
    Sparse,
    /// All space is taken at creation and stays taken; discard is refused.
    Reserved,
}

impl Allocation {
    /// The name that StorageClasses use.
    pub fn name(self) -> &'static str {
        match self {
            Allocation::Sparse => "sparse",
            Allocation::Reserved => "reserved",
        }
    }
}

impl FromStr for Allocation {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "sparse" => Ok(Allocation::Sparse),
            "reserved" => Ok(Allocation::Reserved),
            _ => Err(Error::invalid("parameters[allocation]", text, "want `sparse` or `reserved`")),
        }
    }
}

/// What a volume's first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Nothing: zeros, or a fresh filesystem.
    Blank,
    /// Another volume as it was at the creation.
    Volume(VolumeId),
    /// A snapshot.
    Snapshot(SnapshotId),
}

/// Where an object is in its life. Every phase that is not whole has one way forward, taken by `engine::recover::settle`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Begun; rolled back when interrupted.
    Creating,
    /// Its bytes come from another node, and are no volume before all have come. It goes on when interrupted.
    Receiving {
        /// So much of it is durable, from the beginning on.
        done: Bytes,
        /// The digest of that part, see [`Piece::digest`].
        digest: u32,
    },
    /// Of a snapshot: cut only so that another node can copy it, and shown to nobody. It goes when that is over.
    Lent {
        /// What is made of it there.
        to: VolumeId,
    },
    /// Whole.
    Ready,
    /// Becoming larger; finished when interrupted.
    Growing {
        /// The size that it is to get.
        to: Bytes,
        /// What was asked for, where that was rounded up.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        asked: Option<Bytes>,
    },
    /// Acknowledged as deleted, or about to be; finished when interrupted.
    Deleting,
    /// Deleted for everybody but an operator, who may still restore it. Its bytes and its promise stay.
    Retained {
        /// When it goes, by its pool's own clock.
        until: Age,
        /// For how long it was to be kept.
        kept: Retention,
        /// When it was deleted; for people.
        deleted: Time,
    },
}

impl Phase {
    /// Whether another object may be made under the name of one in this phase.
    pub fn frees_name(self) -> bool {
        match self {
            Phase::Deleting | Phase::Retained { .. } => true,
            Phase::Creating
            | Phase::Receiving { .. }
            | Phase::Lent { .. }
            | Phase::Ready
            | Phase::Growing { .. } => false,
        }
    }

    /// Whether it is whole, so that its bytes must be there and nothing is left to settle.
    pub fn is_whole(self) -> bool {
        match self {
            Phase::Ready | Phase::Lent { .. } | Phase::Retained { .. } => true,
            Phase::Creating | Phase::Receiving { .. } | Phase::Growing { .. } | Phase::Deleting => false,
        }
    }
}

/// Key and value text, as a StorageClass carries it.
pub type Parameters = BTreeMap<String, String>;

/// The claim that asked for an object, where the sidecars said so (`--extra-create-metadata`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A volume, as its record says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    /// Its id.
    pub id: VolumeId,
    /// The name that CreateVolume gave: the key of idempotency.
    pub name: String,
    /// Where it is in its life.
    pub phase: Phase,
    /// The exact size of the device, or the limit of the directory.
    pub size: Bytes,
    /// What was asked for, where that was rounded up: in units, or to the least that its filesystem needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Bytes>,
    /// Mount or block.
    pub access: Access,
    /// The UUID of the filesystem inside, of a clone that of its source; none for block and directories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs_uuid: Option<FsUuid>,
    /// The logical sector size of the device, in bytes.
    pub sector_size: u32,
    /// Sparse or reserved.
    pub allocation: Allocation,
    /// What it was made from.
    pub source: Source,
    /// The StorageClass parameters at creation, compared with those of a retry.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: Parameters,
    /// The claim it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// When it was made.
    pub created: Time,
}

impl Volume {
    /// The most that its bytes may be long: while it grows, or where that was interrupted, the size that it is to get.
    pub fn reach(&self) -> Bytes {
        match self.phase {
            Phase::Growing { to, .. } => to.max(self.size),
            Phase::Creating
            | Phase::Receiving { .. }
            | Phase::Lent { .. }
            | Phase::Ready
            | Phase::Deleting
            | Phase::Retained { .. } => self.size,
        }
    }

    /// What was asked for that, where it was rounded up.
    pub fn asked_for_reach(&self) -> Option<Bytes> {
        if let Phase::Growing { asked, .. } = self.phase { asked } else { self.asked }
    }
}

/// A snapshot, as its record says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
    /// The name that CreateSnapshot gave.
    pub name: String,
    /// Where it is in its life.
    pub phase: Phase,
    /// The volume it was cut from, which may be gone.
    pub source: VolumeId,
    /// The size of the source at the cut: what a restore needs.
    pub size: Bytes,
    /// What was asked for the source, where that was rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Bytes>,
    /// The bytes that were allocated at the cut: what it counts against the pool.
    pub held: Bytes,
    /// How its source was accessed.
    pub access: Access,
    /// The UUID of the filesystem inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs_uuid: Option<FsUuid>,
    /// The logical sector size of the source's device, in bytes.
    pub sector_size: u32,
    /// The group it was cut with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
    /// The VolumeSnapshotClass parameters at creation.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: Parameters,
    /// The claim of the volume it was cut from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// The time of the cut.
    pub created: Time,
}

impl Snapshot {
    /// What has to be asked for in a restore: as much as for the source. Rounded up in the same way it is `size` again, and who asks
    /// with the same words twice, like a claim of 10G, must not be told that it is too little.
    pub fn enough(&self) -> Bytes {
        self.asked.map_or(self.size, |asked| asked.min(self.size))
    }
}

/// A group of snapshots cut at one moment, as its record says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Its id.
    pub id: GroupId,
    /// The name that CreateVolumeGroupSnapshot gave.
    pub name: String,
    /// Where it is in its life.
    pub phase: Phase,
    /// Its members, in the order of `sources`.
    pub members: Vec<SnapshotId>,
    /// The volumes that were cut, in ascending order.
    pub sources: Vec<VolumeId>,
    /// The VolumeGroupSnapshotClass parameters at creation.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: Parameters,
    /// The time of the cut.
    pub created: Time,
}
