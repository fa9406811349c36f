//! Filesystems on a device or in an image file: recognise, make, check, grow, freeze, measure.
//!
//! Owns: reading superblocks, the pinned mkfs options, and the ioctls on a mounted filesystem. Never: decides to make a
//! filesystem because it found none; [`make()`] runs only where the caller's record says that the object is new.
//!
//! The order when a volume grows is file, loop device, filesystem; each step here may be repeated.

mod frozen;
mod grow;
mod make;
mod needs;
mod probe;
#[cfg(test)]
mod tests;

pub use frozen::{Frozen, Member, late as late_thaws};
pub use grow::{Growth, ext4_fills, grow_mounted, grow_unmounted_ext4};
pub use make::{check_ext4, make, make_pool_filesystem};
pub use needs::{Missing, grows_ext4_in_use, missing_programs};
pub use probe::{Emptiness, Found, probe, provably_empty};

use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::StatVfs;
use rustix::io::Errno;
use rustix::ioctl::{self, opcode};

use crate::error::{Error, Result};

/// The filesystems that a volume can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FsKind {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
}

impl FsKind {
    /// The name that mount and mkfs know.
    pub fn name(self) -> &'static str {
        match self {
            FsKind::Ext4 => "ext4",
            FsKind::Xfs => "xfs",
        }
    }
}

impl fmt::Display for FsKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What thawing did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thawed {
    /// It was frozen until now.
    Now,
    /// It was not frozen: somebody else had thawed it, or nobody froze it.
    WasNot,
}

/// Room in a mounted filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All bytes that can hold data.
    pub total: u64,
    /// Bytes not in use.
    pub free: u64,
    /// Bytes that unprivileged processes can still use.
    pub available: u64,
    /// All inodes.
    pub inodes: u64,
    /// Inodes not in use.
    pub inodes_free: u64,
}

/// Stops all writing and makes what is on the disk consistent, until [`thaw_once`]. Allocates nothing.
#[expect(unsafe_code, reason = "rustix has no FIFREEZE")]
fn freeze_once(root: impl AsFd) -> rustix::io::Result<()> {
    let mut ignored = 0i32;
    // SAFETY: FIFREEZE takes a pointer to an int that it does not read, and writes nothing.
    unsafe {
        ioctl::ioctl(root, ioctl::Updater::<{ opcode::read_write::<i32>(b'X', 119) }, i32>::new(&mut ignored))
    }
}

/// Lets writing go on; `INVAL` where it was not frozen. Allocates nothing.
#[expect(unsafe_code, reason = "rustix has no FITHAW")]
fn thaw_once(root: impl AsFd) -> rustix::io::Result<()> {
    if planted!("thaw-forgotten") {
        return Ok(());
    }
    let mut ignored = 0i32;
    // SAFETY: FITHAW takes a pointer to an int that it does not read, and writes nothing.
    unsafe {
        ioctl::ioctl(root, ioctl::Updater::<{ opcode::read_write::<i32>(b'X', 120) }, i32>::new(&mut ignored))
    }
}

/// Lets writing go on, whoever froze it. Says whether it was frozen.
pub fn thaw(root: impl AsFd) -> Result<Thawed> {
    match thaw_once(root) {
        Ok(()) => Ok(Thawed::Now),
        Err(Errno::INVAL) => Ok(Thawed::WasNot),
        Err(error) => Err(Error::host("failed to thaw the filesystem", error.into())),
    }
}

/// Cuts the power of the filesystem that `root` lies in, as far as a kernel can: nothing that was not synced reaches its disk
/// any more, and every call on it fails until it is mounted anew.
#[cfg(feature = "torture")]
#[expect(unsafe_code, reason = "rustix has no FS_IOC_SHUTDOWN")]
pub fn cut_power(root: impl AsFd) -> Result<()> {
    const NO_LOG_FLUSH: u32 = 2;
    // SAFETY: FS_IOC_SHUTDOWN reads a u32 and writes nothing.
    let done = unsafe {
        ioctl::ioctl(root, ioctl::Setter::<{ opcode::read::<u32>(b'X', 125) }, u32>::new(NO_LOG_FLUSH))
    };
    done.map_err(|error| Error::host("failed to shut the filesystem down", error.into()))
}

/// How many errors a mounted ext4 on this device found since it was last checked; `None` where it is no ext4.
pub fn ext4_errors(device: &Path) -> Option<u64> {
    let name = device.file_name()?.to_str()?;
    std::fs::read_to_string(format!("/sys/fs/ext4/{name}/errors_count")).ok()?.trim().parse().ok()
}

/// Writes everything that the filesystem holds in memory to its disk.
pub fn sync(root: impl AsFd) -> Result<()> {
    rustix::fs::syncfs(root).map_err(|error| Error::host("failed to sync the filesystem", error.into()))
}

/// `struct fstrim_range` of linux/fs.h.
#[repr(C)]
struct TrimRange {
    start: u64,
    length: u64,
    smallest: u64,
}

/// Gives free space back to what lies below; says how many bytes that were.
#[expect(unsafe_code, reason = "rustix has no FITRIM")]
pub fn trim(root: impl AsFd) -> Result<u64> {
    let mut range = TrimRange { start: 0, length: u64::MAX, smallest: 0 };
    // SAFETY: `TrimRange` is what FITRIM reads and writes, and it lives across the call.
    let done = unsafe {
        ioctl::ioctl(
            root,
            ioctl::Updater::<{ opcode::read_write::<TrimRange>(b'X', 121) }, TrimRange>::new(&mut range),
        )
    };
    match done {
        Ok(()) => Ok(range.length),
        Err(Errno::OPNOTSUPP) => Err(Error::Unsupported("the device below takes no discard".to_owned())),
        Err(error) => Err(Error::host("failed to trim the filesystem", error.into())),
    }
}

/// How much room there is. `root` is any open file or directory of the filesystem.
pub fn space(root: impl AsFd) -> Result<Space> {
    let stat: StatVfs = rustix::fs::fstatvfs(root)
        .map_err(|error| Error::host("failed to ask the filesystem for its space", error.into()))?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Space {
        total: bytes(stat.f_blocks),
        free: bytes(stat.f_bfree),
        available: bytes(stat.f_bavail),
        inodes: stat.f_files,
        inodes_free: stat.f_ffree,
    })
}
