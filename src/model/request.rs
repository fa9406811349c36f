//! What callers ask for, checked field by field.
//!
//! Owns: the requests that a node answers and a controller reads before it chooses a node. Never: says what a pool can do.

use std::str::FromStr;

use super::{Access, Allocation, Bytes, Claim, Filesystem, FsUuid, Parameters, Source, UNIT, VolumeId};
use crate::error::{Error, Result};

/// The size of a volume for which none was asked.
pub const DEFAULT_SIZE: Bytes = Bytes::GIB;

/// A size as asked for, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// At least this.
    pub required: Option<Bytes>,
    /// At most this.
    pub limit: Option<Bytes>,
}

/// An access type as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A filesystem; `None` takes what the volume has, or the pool's default.
    Mount(Option<Filesystem>),
    /// A raw block device.
    Block,
}

/// Where a new volume goes, where several nodes will do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// To the node that has promised the smallest share of its room: the default.
    #[default]
    Spread,
    /// To the one that has promised the largest share and still has room.
    Pack,
}

impl FromStr for Placement {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "spread" => Ok(Placement::Spread),
            "pack" => Ok(Placement::Pack),
            _ => Err(Error::invalid("parameters[placement]", text, "want `spread` or `pack`")),
        }
    }
}

/// A CreateVolume call, checked field by field.
#[derive(Clone, Debug)]
pub struct CreateVolume {
    /// The key of idempotency.
    pub name: String,
    /// The size asked for.
    pub range: Range,
    /// Mount or block; all capabilities of the call agree on it.
    pub asked: Asked,
    /// The pool by name; `None` lets the engine choose.
    pub pool: Option<String>,
    /// Sparse or reserved.
    pub allocation: Allocation,
    /// All StorageClass parameters but the claim's metadata and the placement, as sent.
    pub parameters: Parameters,
    /// The claim it is for.
    pub claim: Option<Claim>,
    /// What it is made from.
    pub source: Source,
}

/// What a source on another node is: the parts of its record that a copy inherits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// How long it is.
    pub size: Bytes,
    /// How it is accessed.
    pub access: Access,
    /// The UUID of the filesystem inside.
    pub fs_uuid: Option<FsUuid>,
}

/// A CreateSnapshot call, checked.
#[derive(Clone, Debug)]
pub struct CreateSnapshot {
    /// The key of idempotency.
    pub name: String,
    /// The volume to cut.
    pub source: VolumeId,
    /// The class parameters but the metadata.
    pub parameters: Parameters,
}

/// A CreateVolumeGroupSnapshot call, checked.
#[derive(Clone, Debug)]
pub struct CreateGroup {
    /// The key of idempotency.
    pub name: String,
    /// The volumes to cut together, in any order, without duplicates.
    pub sources: Vec<VolumeId>,
    /// The class parameters but the metadata.
    pub parameters: Parameters,
}

/// What a size that is asked for becomes: at least `smallest`, and whole units. None for more than can be counted.
pub fn becomes(asked: Bytes, smallest: Bytes) -> Option<Bytes> {
    asked.max(smallest).checked_round_up(UNIT)
}

impl Range {
    /// The size to make: what is required, at least `smallest`, whole units, within the limit.
    ///
    /// # Errors
    /// `OutOfRange` where that is impossible.
    pub fn settle(&self, smallest: Bytes, default: Bytes) -> Result<Bytes> {
        let wanted = match (self.required, self.limit) {
            (Some(required), _) => required.max(smallest),
            (None, Some(limit)) => default.min(limit.round_down(UNIT)).max(smallest),
            (None, None) => default.max(smallest),
        };
        // Without a limit the pool says what is too much, and how much it can give.
        let fits = |size: &Bytes| self.limit.is_none_or(|limit| *size <= limit);
        let size = wanted.checked_round_up(UNIT).filter(fits);
        size.ok_or_else(|| {
            Error::OutOfRange(format!(
                "capacity_range: required_bytes {} and limit_bytes {} leave no possible size: sizes are multiples of \
                 {} bytes, here at least {}",
                self.required.map_or("unset".to_owned(), |b| b.get().to_string()),
                self.limit.map_or("unset".to_owned(), |b| b.get().to_string()),
                UNIT.get(),
                smallest.get(),
            ))
        })
    }

    /// Whether a size satisfies it.
    pub fn holds(&self, size: Bytes) -> bool {
        self.required.is_none_or(|required| size >= required) && self.limit.is_none_or(|limit| size <= limit)
    }
}

impl Asked {
    /// Whether a volume of this access satisfies it.
    pub fn fits(self, access: Access) -> bool {
        match (self, access) {
            (Asked::Block, Access::Block) | (Asked::Mount(None), Access::Mount { .. }) => true,
            (Asked::Mount(Some(asked)), Access::Mount { fs }) => asked == fs,
            (Asked::Block, Access::Mount { .. }) | (Asked::Mount(_), Access::Block) => false,
        }
    }
}
