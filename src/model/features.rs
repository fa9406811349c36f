//! What pools can do.
//!
//! Owns: the values by which a pool, a kind of pools or a node says what it offers and what not. Never: says which of them
//! offers what; that is the pool's to say.

use super::{Access, Allocation, Asked, Bytes, Filesystem, Source, Volume};
use crate::error::{Error, Result};

/// Whether a pool offers something, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It does.
    Yes,
    /// It does not, for this reason (a sentence without a full stop, for people).
    No(String),
}

impl Offer {
    /// Whether it is offered.
    pub fn is_yes(&self) -> bool {
        *self == Offer::Yes
    }

    /// Refuses where it is not offered.
    ///
    /// # Errors
    /// `Unsupported` with the reason.
    pub fn require(&self) -> Result<()> {
        match self {
            Offer::Yes => Ok(()),
            Offer::No(reason) => Err(Error::Unsupported(reason.clone())),
        }
    }
}

/// What a pool can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// The filesystems it makes; the first is the default.
    pub filesystems: &'static [Filesystem],
    /// Raw block volumes.
    pub block: Offer,
    /// A hard size limit.
    pub size_limit: Offer,
    /// Snapshots, restores and clones.
    pub snapshots: Offer,
    /// Snapshots of several volumes at one moment.
    pub groups: Offer,
    /// Space that is taken at creation.
    pub reserved: Offer,
}

impl Features {
    /// The smallest volume of this access that can be made, in bytes.
    pub fn smallest(&self, access: Access) -> Bytes {
        match access {
            Access::Block | Access::Mount { fs: Filesystem::Shared } => Bytes::MIB,
            Access::Mount { fs: Filesystem::Ext4 } => Bytes::MIB.times(16),
            Access::Mount { fs: Filesystem::Xfs } => Bytes::MIB.times(300),
        }
    }

    /// The access of a volume that is asked for so; none where no such volume is made.
    pub fn access(&self, asked: Option<Asked>, allocation: Allocation) -> Option<Access> {
        let access = match asked {
            Some(Asked::Block) => self.block.is_yes().then_some(Access::Block),
            Some(Asked::Mount(Some(fs))) => self.filesystems.contains(&fs).then_some(Access::Mount { fs }),
            Some(Asked::Mount(None)) | None => self.filesystems.first().map(|fs| Access::Mount { fs: *fs }),
        };
        access.filter(|_| allocation != Allocation::Reserved || self.reserved.is_yes())
    }

    /// What these or the others offer.
    #[must_use]
    pub fn union(self, other: Features) -> Features {
        let either = |one: Offer, other: Offer| if one.is_yes() { one } else { other };
        let longer = self.filesystems.len() >= other.filesystems.len();
        Features {
            filesystems: if longer { self.filesystems } else { other.filesystems },
            block: either(self.block, other.block),
            size_limit: either(self.size_limit, other.size_limit),
            snapshots: either(self.snapshots, other.snapshots),
            groups: either(self.groups, other.groups),
            reserved: either(self.reserved, other.reserved),
        }
    }

    /// Refuses a volume of a sort that is not made here: every kind's `create` begins with it.
    ///
    /// # Errors
    /// `Unsupported` with the pool's reason.
    pub fn require(&self, want: &Volume) -> Result<()> {
        match want.access {
            Access::Block => self.block.require()?,
            Access::Mount { fs } if !self.filesystems.contains(&fs) => {
                let made: Vec<_> = self.filesystems.iter().map(|fs| fs.name()).collect();
                let made = made.join(", ");
                return Err(Error::Unsupported(format!("this pool does not make {fs}, only: {made}")));
            }
            Access::Mount { .. } => {}
        }
        if want.allocation == Allocation::Reserved {
            self.reserved.require()?;
        }
        match want.source {
            Source::Blank => Ok(()),
            Source::Volume(_) | Source::Snapshot(_) => self.snapshots.require(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> Features {
        let no = || Offer::No("a directory".to_owned());
        let filesystems: &[Filesystem] = &[Filesystem::Shared];
        Features {
            filesystems,
            block: no(),
            size_limit: Offer::Yes,
            snapshots: no(),
            groups: no(),
            reserved: no(),
        }
    }

    fn image() -> Features {
        let filesystems: &[Filesystem] = &[Filesystem::Ext4, Filesystem::Xfs];
        let (block, size_limit, snapshots, groups) = (Offer::Yes, Offer::Yes, Offer::Yes, Offer::Yes);
        Features { filesystems, block, size_limit, snapshots, groups, reserved: Offer::Yes }
    }

    #[test]
    fn a_volume_gets_what_is_made_or_nothing() {
        use Allocation::{Reserved, Sparse};
        let mount = |fs| Some(Access::Mount { fs });
        for asked in [None, Some(Asked::Mount(None))] {
            assert_eq!(image().access(asked, Sparse), mount(Filesystem::Ext4));
            assert_eq!(directory().access(asked, Sparse), mount(Filesystem::Shared));
            assert_eq!(image().access(asked, Reserved), mount(Filesystem::Ext4));
            assert_eq!(directory().access(asked, Reserved), None);
        }
        let xfs = Some(Asked::Mount(Some(Filesystem::Xfs)));
        assert_eq!(image().access(xfs, Sparse), mount(Filesystem::Xfs));
        assert_eq!(directory().access(xfs, Sparse), None);
        assert_eq!(image().access(Some(Asked::Block), Reserved), Some(Access::Block));
        assert_eq!(directory().access(Some(Asked::Block), Sparse), None);
        let none = Features { filesystems: &[], ..image() };
        assert_eq!(none.access(None, Sparse), None);
        assert_eq!(none.access(Some(Asked::Block), Sparse), Some(Access::Block));
    }

    #[test]
    fn together_they_offer_what_either_does() {
        assert_eq!(directory().union(image()), image());
        assert_eq!(image().union(directory()), image());
        assert_eq!(directory().union(directory()), directory());
    }
}
