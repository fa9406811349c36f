//! The kinds of pools that are tortured.
//!
//! Owns: their names, what each can do, and the shapes of volumes in it. Never: makes one; that is `node`.

use crate::requests::Shape;

/// What a pool is, and what it lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ground {
    /// Images in a file with xfs, which can clone.
    ImageOnXfs,
    /// Images on ext4, which cannot.
    ImageOnExt4,
    /// Directories on xfs.
    Directory,
}

impl Ground {
    pub(crate) const ALL: [Ground; 3] = [Ground::ImageOnXfs, Ground::ImageOnExt4, Ground::Directory];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Ground::ImageOnXfs => "image-on-xfs",
            Ground::ImageOnExt4 => "image-on-ext4",
            Ground::Directory => "directory",
        }
    }

    /// Whether it makes snapshots and clones.
    pub(crate) fn copies(self) -> bool {
        self == Ground::ImageOnXfs
    }

    /// Its name in the pool file.
    pub(crate) fn pool(self) -> &'static str {
        match self {
            Ground::ImageOnXfs | Ground::ImageOnExt4 => "images",
            Ground::Directory => "dirs",
        }
    }

    /// The shapes of volumes in it, the usual ones more often.
    pub(crate) fn shape(self, number: usize) -> Shape {
        match (self, number % 8) {
            (Ground::Directory, _) => Shape::Directory,
            (Ground::ImageOnXfs, 7) => Shape::Xfs,
            (Ground::ImageOnXfs | Ground::ImageOnExt4, 2 | 5) => Shape::Block,
            (Ground::ImageOnXfs | Ground::ImageOnExt4, _) => Shape::Ext4,
        }
    }
}
