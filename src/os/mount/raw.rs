//! The two mount calls that rustix does not have.
//!
//! Owns: their argument structures as the kernel lays them out. Never: decides anything.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::mount::MountAttrFlags;

/// statmount(2) has this number on every architecture that has the common table.
const SYS_STATMOUNT: libc::c_long = 457;
const STATMOUNT_SB_BASIC: u64 = 1;
const STATMOUNT_MNT_BASIC: u64 = 2;
const SB_RDONLY: u32 = 1;

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// `struct mnt_id_req` of linux/mount.h in its first version.
#[repr(C)]
struct MountIdRequest {
    size: u32,
    spare: u32,
    id: u64,
    mask: u64,
}

/// The head of `struct statmount` of linux/mount.h, and room for its tail.
#[repr(C)]
struct StatMount {
    size: u32,
    options: u32,
    mask: u64,
    device: [u32; 2],
    magic: u64,
    super_flags: u32,
    kind: u32,
    id: u64,
    parent: u64,
    old_id: u32,
    old_parent: u32,
    attributes: u64,
    tail: [u64; 64],
}

/// What statmount(2) says about one mount.
pub(super) struct Facts {
    /// The id as in the mount table; the kernel uses it again.
    pub(super) id: u64,
    /// Whether the mount or its filesystem is read-only.
    pub(super) read_only: bool,
}

/// Changes attributes or propagation of the tree that `fd` stands for, and of all below it.
#[expect(unsafe_code, reason = "rustix has no mount_setattr")]
pub(super) fn mount_setattr(
    fd: BorrowedFd<'_>,
    set: MountAttrFlags,
    clear: MountAttrFlags,
    propagation: u64,
) -> io::Result<()> {
    let attr = MountAttr { set: set.bits().into(), clear: clear.bits().into(), propagation, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is a NUL-terminated literal, `attr` lives across the call and its true size is passed.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(&attr),
            size_of::<MountAttr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks about the mount with this id, the kind that is never used again (`STATX_MNT_ID_UNIQUE`).
#[expect(unsafe_code, reason = "rustix has no statmount")]
pub(super) fn statmount(unique_id: u64) -> io::Result<Facts> {
    let request =
        MountIdRequest { size: 24, spare: 0, id: unique_id, mask: STATMOUNT_SB_BASIC | STATMOUNT_MNT_BASIC };
    // SAFETY: a structure of plain integers may be all zero.
    let mut answer: StatMount = unsafe { std::mem::zeroed() };
    // SAFETY: both structures live across the call; the kernel writes at most the size that it is given.
    let done = unsafe {
        libc::syscall(
            SYS_STATMOUNT,
            std::ptr::from_ref(&request),
            std::ptr::from_mut(&mut answer),
            size_of::<StatMount>(),
            0u32,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    if answer.mask & request.mask != request.mask {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let of_mount = answer.attributes & u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()) != 0;
    Ok(Facts { id: answer.old_id.into(), read_only: of_mount || answer.super_flags & SB_RDONLY != 0 })
}
