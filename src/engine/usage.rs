//! What a mounted volume holds, and growing its filesystem.
//!
//! Owns: NodeGetVolumeStats and NodeExpandVolume. Never: answers with the numbers of the pool for those of the volume.

use std::path::Path;

use crate::engine::volumes::show;
use crate::engine::{Amount, Engine, Key, NodeExpand, Stats};
use crate::error::{Error, Result};
use crate::model::{Access, Bytes, Filesystem, ObjectId, Volume, VolumeId};
use crate::os::fs::{self, FsKind, Space};

impl Engine {
    /// The bytes and inodes of the volume at a path where it is staged or published.
    ///
    /// # Errors
    /// `NotFound` for any other path.
    pub fn stats(&self, id: &VolumeId, path: &Path) -> Result<Stats> {
        let volume = self.volume(id)?;
        let (place, mounted) = self.mounted_at(&volume, path)?;
        if let Some(why) = mounted.dead {
            return Err(Error::host(format!("failed to look at volume {id}"), why));
        }
        if volume.access == Access::Block {
            let bytes = Amount { total: volume.size.get(), ..Amount::default() };
            return Ok(Stats { bytes, inodes: None });
        }
        let space = fs::space(place.open_directory()?)?;
        let consumed = self.pool(id.pool())?.consumed(id)?;
        let Some(consumed) = consumed else { return Ok(own(&space)) };
        let left = volume.size.less(consumed.bytes).get().min(space.available);
        let total = volume.size.max(consumed.bytes).get();
        Ok(Stats {
            bytes: Amount { total, used: consumed.bytes.get(), available: left },
            inodes: Some(Amount {
                total: consumed.inodes.saturating_add(space.inodes_free),
                used: consumed.inodes,
                available: space.inodes_free,
            }),
        })
    }

    /// The filesystem of a mounted volume grown to its device; answers the size of the device.
    ///
    /// # Errors
    /// `OutOfRange` where the limit is below the volume's size or more is required than it has; `Precondition` where the
    /// process may not grow it while it is mounted; it then grows at the next stage.
    pub fn expand_node(&self, want: &NodeExpand) -> Result<Bytes> {
        let id = ObjectId::Volume(want.volume);
        let _claim = self.store.claim(&[Key::Object(id)], &[])?;
        let volume = self.volume(&want.volume)?;
        if let Some(asked) = want.asked.filter(|asked| !asked.fits(volume.access)) {
            let right = format!("volume {} is {}", volume.id, volume.access);
            return Err(Error::invalid("volume_capability", show(asked), right));
        }
        refuse_range(&volume, want)?;
        let (place, mounted) = self.mounted_at(&volume, &want.path)?;
        let pool = self.pool(volume.id.pool())?;
        let size = pool.grow(&volume.id, volume.size)?;
        step!("node expand: device long");
        let kind = match volume.access {
            Access::Mount { fs: Filesystem::Ext4 } => FsKind::Ext4,
            Access::Mount { fs: Filesystem::Xfs } => FsKind::Xfs,
            Access::Mount { fs: Filesystem::Shared } | Access::Block => return Ok(size),
        };
        let root = if mounted.read_only { self.writable_root(&volume)? } else { place.open_directory()? };
        match kind {
            FsKind::Ext4 => fs::grow_mounted(root, kind, size.get())?,
            // It may have to be frozen for a moment.
            FsKind::Xfs => {
                self.thaw(pool.as_ref(), id, &[volume.id])?;
                self.freezes.during(id, &[volume.id], || fs::grow_mounted(root, kind, size.get()))?
            }
        };
        step!("node expand: grown");
        Ok(size)
    }

    /// A mount of the volume through which its filesystem can be changed.
    fn writable_root(&self, volume: &Volume) -> Result<std::os::fd::OwnedFd> {
        let pool = self.pool(volume.id.pool())?;
        let mounts = self.mounts_of(pool.as_ref(), volume)?;
        let mount = mounts.iter().find(|mount| !mount.read_only && mount.point.starts_with(&self.real_root));
        let mount = mount.ok_or_else(|| {
            Error::Precondition(format!(
                "every mount of volume {} is read-only; it grows at the next stage",
                volume.id
            ))
        })?;
        self.place_of(mount)?.0.open_directory()
    }
}

/// The controller has set the size; the node can only follow.
fn refuse_range(volume: &Volume, want: &NodeExpand) -> Result<()> {
    let size = volume.size;
    if let Some(limit) = want.range.limit.filter(|limit| *limit < size) {
        return Err(Error::OutOfRange(format!(
            "capacity_range.limit_bytes {} is below the {} bytes that volume {} has; it never shrinks",
            limit.get(),
            size.get(),
            volume.id
        )));
    }
    if let Some(required) = want.range.required.filter(|required| *required > size) {
        return Err(Error::OutOfRange(format!(
            "capacity_range.required_bytes {} is more than the {} bytes that volume {} has; call ControllerExpandVolume first",
            required.get(),
            size.get(),
            volume.id
        )));
    }
    Ok(())
}

/// A filesystem of the volume's own tells its numbers itself.
fn own(space: &Space) -> Stats {
    Stats {
        bytes: Amount {
            total: space.total,
            used: space.total.saturating_sub(space.free),
            available: space.available,
        },
        inodes: Some(Amount {
            total: space.inodes,
            used: space.inodes.saturating_sub(space.inodes_free),
            available: space.inodes_free,
        }),
    }
}
