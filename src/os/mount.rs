//! Mounts: where they may go, what is there, how they are made and undone.
//!
//! Owns: every mount and unmount of this program. Never: follows a symlink that came with a request, deletes recursively,
//! detaches lazily (that hides use and lets a busy volume be deleted), or touches a mount of somebody else.
//!
//! A mount is made in three steps:
//!  1. a detached [`Tree`] is made and restricted: nobody can see it yet, so there is no writable window;
//!  2. the caller compares what is inside with what it wants;
//!  3. the tree is attached at a [`Place`].
//!
//! Repairs: a crash before step 3 leaves nothing, since the kernel undoes a detached tree with its last descriptor; after
//! it, [`Place::look`] and [`table()`] show the mount.

mod options;
mod place;
mod raw;
#[cfg(test)]
pub(crate) mod scene;
mod shared;
mod table;
#[cfg(test)]
mod tests;
mod tree;

pub use options::MountOption;
pub use place::{Here, Mounted, Place, root_mount};
pub use shared::{ensure_shared, is_shared};
pub use table::{Mount, Of, Seat, boot_id, mounts_in, of_device, seats, table};
pub use tree::{Devices, ReadOnly, Restrict, RootStat, Tree};

use std::path::Path;

use crate::error::Result;

/// Unmounts everything that is mounted at a path that comes from the configuration; says how many mounts that were.
pub fn unmount_path(path: &Path) -> Result<u32> {
    Place::trusted(path)?.unmount_all()
}
