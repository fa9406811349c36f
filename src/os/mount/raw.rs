//! The three mount calls that rustix does not have.
//!
//! Owns: their argument structures as the kernel lays them out. Never: decides anything.

use std::ffi::OsStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::mount::MountAttrFlags;

/// statmount(2) has this number on every architecture that has the common table.
const SYS_STATMOUNT: libc::c_long = 457;
const SYS_LISTMOUNT: libc::c_long = 458;
const STATMOUNT_SB_BASIC: u64 = 1;
const STATMOUNT_MNT_BASIC: u64 = 2;
const STATMOUNT_MNT_ROOT: u64 = 8;
const STATMOUNT_MNT_POINT: u64 = 16;
/// listmount(2) of everything below the root of this process.
const LSMT_ROOT: u64 = u64::MAX;
/// Mount ids that are asked for at once.
const PAGE: usize = 512;
/// For two paths; the kernel refuses with EOVERFLOW what does not fit.
const STRINGS: usize = 2 * 4096;
const SB_RDONLY: u32 = 1;
/// Of tmpfs, and of devtmpfs.
pub(super) const TMPFS_MAGIC: u64 = 0x0102_1994;

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
    /// What statmount(2) shall say, or the id after which listmount(2) shall begin.
    param: u64,
}

impl MountIdRequest {
    fn new(id: u64, param: u64) -> Self {
        MountIdRequest { size: 24, spare: 0, id, param }
    }
}

/// `struct statmount` of linux/mount.h, without the strings that may follow it.
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
    propagation: [u64; 4],
    root: u32,
    point: u32,
    spare: [u64; 50],
}

/// The strings begin where the kernel's structure ends.
const _: () = assert!(size_of::<StatMount>() == 512);

/// The same with its strings.
#[repr(C)]
struct StatMountPaths {
    head: StatMount,
    strings: [u8; STRINGS],
}

/// What statmount(2) says about one mount.
pub(super) struct Facts {
    /// The id as in the mount table; the kernel uses it again.
    pub(super) id: u64,
    /// The device number of its filesystem.
    pub(super) device: u64,
    /// The magic number of its filesystem's type.
    pub(super) magic: u64,
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
    // SAFETY: a structure of plain integers may be all zero.
    let mut answer: StatMount = unsafe { std::mem::zeroed() };
    let mask = STATMOUNT_SB_BASIC | STATMOUNT_MNT_BASIC;
    // SAFETY: the structure is the kernel's.
    unsafe { call(unique_id, mask, &raw mut answer, size_of::<StatMount>())? };
    let of_mount = answer.attributes & u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()) != 0;
    Ok(Facts {
        id: answer.old_id.into(),
        device: rustix::fs::makedev(answer.device[0], answer.device[1]),
        magic: answer.magic,
        read_only: of_mount || answer.super_flags & SB_RDONLY != 0,
    })
}

/// The root of a mount within its filesystem, and where it is mounted, as seen from this process.
#[expect(unsafe_code, reason = "rustix has no statmount")]
pub(super) fn paths_of(unique_id: u64) -> io::Result<(PathBuf, PathBuf)> {
    // SAFETY: a structure of plain integers may be all zero.
    let mut answer: Box<StatMountPaths> = Box::new(unsafe { std::mem::zeroed() });
    let size = size_of::<StatMountPaths>();
    // SAFETY: the structure begins with the kernel's and has as many bytes as are told.
    unsafe { call(unique_id, STATMOUNT_MNT_ROOT | STATMOUNT_MNT_POINT, (&raw mut *answer).cast(), size)? };
    let path = |from: u32| {
        let rest = usize::try_from(from).ok().and_then(|from| answer.strings.get(from..)).unwrap_or_default();
        let text = rest.split(|byte| *byte == 0).next().unwrap_or_default();
        PathBuf::from(OsStr::from_bytes(text))
    };
    Ok((path(answer.head.root), path(answer.head.point)))
}

/// The ids of all mounts that this process can reach, in the order in which they were made.
#[expect(unsafe_code, reason = "rustix has no listmount")]
pub(super) fn listmount() -> io::Result<Vec<u64>> {
    let mut all: Vec<u64> = Vec::new();
    loop {
        let request = MountIdRequest::new(LSMT_ROOT, all.last().copied().unwrap_or(0));
        let mut page = [0_u64; PAGE];
        // SAFETY: both live across the call; the kernel writes at most as many ids as it is told.
        let listed = unsafe {
            libc::syscall(SYS_LISTMOUNT, std::ptr::from_ref(&request), page.as_mut_ptr(), PAGE, 0u32)
        };
        let listed = usize::try_from(listed).map_err(|_| io::Error::last_os_error())?;
        all.extend(page.iter().take(listed));
        if listed < PAGE {
            return Ok(all);
        }
    }
}

/// statmount(2) of everything in `mask`, or an error.
///
/// # Safety
/// `size` bytes from `answer` on are initialised and can be written; it is aligned and `size` is at least that of the structure.
#[expect(unsafe_code, reason = "rustix has no statmount")]
unsafe fn call(unique_id: u64, mask: u64, answer: *mut StatMount, size: usize) -> io::Result<()> {
    let request = MountIdRequest::new(unique_id, mask);
    // SAFETY: the request lives across the call; the kernel writes at most `size` bytes.
    let done = unsafe { libc::syscall(SYS_STATMOUNT, std::ptr::from_ref(&request), answer, size, 0u32) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it can be written, so it can be read, and any bits are an integer.
    let said = unsafe { (*answer).mask };
    if said & mask == mask { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}
