//! Growing a filesystem to the size of its device.
//!
//! Owns: the ioctls that do it, the proof afterwards, and that a power cut finds the new size. Never: shrinks.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fstat, major, minor};
use rustix::io::Errno;
use rustix::ioctl::{self, opcode};

use super::{Frozen, FsKind, probe};
use crate::error::{Error, Result, quoted_path};

/// ext4 and xfs leave the end of a device alone where a last group could hold little but its own tables: xfs below 64
/// blocks, ext4 below about 1 600 with our layout.
const SMALLEST_XFS_GROUP: u64 = 64;
const SMALLEST_EXT4_GROUP: u64 = 2048;
/// The blocks of an ext4 group with blocks of 4 KiB.
const EXT4_GROUP: u64 = 32_768;
const EXT4_BLOCK: u64 = 4096;

/// Which success it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// The filesystem filled its device before.
    Already,
    /// It grew just now.
    Now,
}

/// Grows a mounted filesystem to its device of `device_bytes`. `root` is its open root directory.
pub fn grow_mounted(root: impl AsFd, kind: FsKind, device_bytes: u64) -> Result<Growth> {
    let root = root.as_fd();
    match kind {
        FsKind::Ext4 => grow_ext4(root, device_bytes),
        FsKind::Xfs => grow_xfs(root, device_bytes),
    }
}

/// The size of a mounted filesystem, its own tables included.
#[cfg(test)]
pub(super) fn size_mounted(root: impl AsFd, kind: FsKind) -> Result<u64> {
    let root = root.as_fd();
    match kind {
        FsKind::Ext4 => ext4_size(root),
        FsKind::Xfs => geometry(root).map(|now| now.datablocks.saturating_mul(now.blocksize.into())),
    }
}

/// Grows an unmounted ext4 to its device or file; one that fills it already is fine.
pub fn grow_unmounted_ext4(device: &Path) -> Result<()> {
    super::make::resize_ext4(device)
}

fn grow_ext4(root: BorrowedFd<'_>, device_bytes: u64) -> Result<Growth> {
    let want = device_bytes / EXT4_BLOCK;
    if fills(ext4_size(root)? / EXT4_BLOCK, want) {
        return Ok(Growth::Already);
    }
    rustix::fs::ext4_ioc_resize_fs(root, want).map_err(|error| match error {
        Errno::PERM => Error::Precondition(
            "an ext4 filesystem in use can only grow with the capability CAP_SYS_RESOURCE, which this process \
             lacks; it grows when the volume is staged next"
                .to_owned(),
        ),
        other => Error::host("failed to grow the ext4 filesystem", other.into()),
    })?;
    let now = ext4_size(root)?;
    if fills(now / EXT4_BLOCK, want) { Ok(Growth::Now) } else { Err(too_small(now, device_bytes)) }
}

/// Whether an ext4 of `bytes` leaves nothing of its device that it could use.
pub fn ext4_fills(bytes: u64, device_bytes: u64) -> bool {
    fills(bytes / EXT4_BLOCK, device_bytes / EXT4_BLOCK)
}

/// The same in blocks.
pub(super) fn fills(blocks: u64, want: u64) -> bool {
    blocks >= want || (blocks.is_multiple_of(EXT4_GROUP) && want - blocks < SMALLEST_EXT4_GROUP)
}

fn grow_xfs(root: BorrowedFd<'_>, device_bytes: u64) -> Result<Growth> {
    let before = geometry(root)?;
    if before.fills(device_bytes) {
        return Ok(Growth::Already);
    }
    if is_behind(root, before.datablocks)? {
        write_back_xfs(root)?;
    }
    let mut wanted = XfsGrow {
        newblocks: device_bytes / u64::from(before.blocksize.max(1)),
        imaxpct: before.imaxpct,
        spare: 0,
    };
    grow_data(root, &mut wanted)
        .map_err(|error| Error::host("failed to grow the xfs filesystem", error.into()))?;
    let now = geometry(root)?;
    if now.fills(device_bytes) {
        return Ok(Growth::Now);
    }
    Err(too_small(now.datablocks.saturating_mul(now.blocksize.into()), device_bytes))
}

/// Whether the superblock of an xfs on its device tells of fewer blocks than it has: its last growth is in the log only, for half a
/// minute or so. Linux (6.18) cannot replay a log in which the last group is changed ahead of the size that has it, as the next growth
/// does: after a power cut such a filesystem cannot be mounted.
pub(super) fn is_behind(root: BorrowedFd<'_>, blocks: u64) -> Result<bool> {
    let device = device_below(root)?;
    let failed =
        |error| Error::host(format!("failed to read the superblock of {}", quoted_path(&device)), error);
    let file = File::open(&device).map_err(failed)?;
    // xfs writes past the device's page cache. Where that stays old all the same, it is written back once more than needed.
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).map_err(|error| failed(error.into()))?;
    let mut head = [0; 16];
    file.read_exact_at(&mut head, 0).map_err(failed)?;
    let [.., a, b, c, d, e, f, g, h] = head;
    Ok(u64::from_be_bytes([a, b, c, d, e, f, g, h]) < blocks)
}

/// Has everything in an xfs's log written to its place, which only a freeze does at once.
pub(super) fn write_back_xfs(root: BorrowedFd<'_>) -> Result<()> {
    let own = root.try_clone_to_owned();
    let own = own.map_err(|error| Error::host("failed to open the xfs filesystem's root again", error))?;
    // What is written out now is not written out while every writer waits.
    super::sync(root)?;
    let mut frozen = match Frozen::begin(vec![("the xfs filesystem".to_owned(), own)]) {
        Err(Error::Busy(why)) => {
            let text = format!("{why}; it has not grown, ask again when it is thawed");
            return Err(Error::Unavailable(text));
        }
        outcome => outcome?,
    };
    frozen.thaw().map(drop)
}

fn too_small(now: u64, want: u64) -> Error {
    Error::Unavailable(format!("the filesystem has {now} bytes after it grew, but its device has {want}"))
}

/// The first fields of `struct xfs_fsop_geom_v1`, which every xfs since 2003 answers.
#[repr(C)]
#[derive(Default)]
struct XfsGeometry {
    blocksize: u32,
    rtextsize: u32,
    agblocks: u32,
    agcount: u32,
    logblocks: u32,
    sectsize: u32,
    inodesize: u32,
    imaxpct: u32,
    datablocks: u64,
    rest: [u64; 9],
}

impl XfsGeometry {
    fn fills(&self, device_bytes: u64) -> bool {
        let want = device_bytes / u64::from(self.blocksize.max(1));
        let whole = self.datablocks.is_multiple_of(self.agblocks.max(1).into());
        self.datablocks >= want || (whole && want - self.datablocks < SMALLEST_XFS_GROUP)
    }
}

/// `struct xfs_growfs_data`.
#[repr(C)]
struct XfsGrow {
    newblocks: u64,
    imaxpct: u32,
    spare: u32,
}

#[expect(unsafe_code, reason = "rustix has no xfs ioctls")]
fn geometry(root: BorrowedFd<'_>) -> Result<XfsGeometry> {
    let mut answer = XfsGeometry::default();
    // SAFETY: `XfsGeometry` has the 112 bytes that XFS_IOC_FSGEOMETRY_V1 writes, and lives across the call.
    let done = unsafe {
        ioctl::ioctl(
            root,
            ioctl::Updater::<{ opcode::read::<XfsGeometry>(b'X', 100) }, XfsGeometry>::new(&mut answer),
        )
    };
    done.map_err(|error| Error::host("failed to ask the xfs filesystem for its size", error.into()))?;
    Ok(answer)
}

#[expect(unsafe_code, reason = "rustix has no xfs ioctls")]
fn grow_data(root: BorrowedFd<'_>, wanted: &mut XfsGrow) -> rustix::io::Result<()> {
    // SAFETY: `XfsGrow` is what XFS_IOC_FSGROWFSDATA reads, and lives across the call.
    unsafe {
        ioctl::ioctl(root, ioctl::Updater::<{ opcode::write::<XfsGrow>(b'X', 110) }, XfsGrow>::new(wanted))
    }
}

/// statfs hides ext4's own tables, so the superblock is read; the kernel keeps the mounted one in the device's page cache.
fn ext4_size(root: BorrowedFd<'_>) -> Result<u64> {
    let device = device_below(root)?;
    let failed =
        |error| Error::host(format!("failed to read the superblock of {}", quoted_path(&device)), error);
    let mut head = [0; 4096];
    File::open(&device).and_then(|file| file.read_exact_at(&mut head, 0)).map_err(failed)?;
    probe::size_in(&head)
        .ok_or_else(|| Error::Corrupt(format!("{} holds no ext4 superblock", quoted_path(&device))))
}

/// The device node of the filesystem that `root` lies on, by the name that the kernel gave it.
fn device_below(root: BorrowedFd<'_>) -> Result<PathBuf> {
    let stat =
        fstat(root).map_err(|error| Error::host("failed to look at the filesystem's root", error.into()))?;
    let link = format!("/sys/dev/block/{}:{}", major(stat.st_dev), minor(stat.st_dev));
    let target = std::fs::read_link(&link)
        .map_err(|error| Error::host("failed to find the filesystem's device in sysfs", error))?;
    let name = target
        .file_name()
        .ok_or_else(|| Error::Corrupt(format!("{link} leads to no device")))?
        // A name with a slash, such as `cciss/c0d0`, has a `!` there in sysfs.
        .to_string_lossy()
        .replace('!', "/");
    Ok(Path::new("/dev").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_kernels_sizes() {
        assert_eq!(size_of::<XfsGeometry>(), 112);
        assert_eq!(size_of::<XfsGrow>(), 16);
    }
}
