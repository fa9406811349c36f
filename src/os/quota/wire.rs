//! quotactl_fd(2) with the commands of linux/dqblk_xfs.h, which the kernel's quota layer answers for ext4 as well.
//!
//! Owns: their layouts and numbers. Never: decides what is limited.

#![expect(unsafe_code, reason = "quotactl_fd has no safe wrapper")]

use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::{Errno, Result};

const PROJECT: u32 = 2;
const Q_XGETQUOTA: u32 = command(3);
const Q_XSETQLIM: u32 = command(4);
const Q_XGETQSTATV: u32 = command(8);

const VERSION: i8 = 1;
const PROJECT_QUOTA: i8 = 1 << 1;
const SOFT_AND_HARD: u16 = 1 << 2 | 1 << 3;

const fn command(number: u32) -> u32 {
    (((b'X' as u32) << 8) + number) << 8 | PROJECT
}

/// The kernel's `fs_disk_quota_t`; blocks are of 512 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DiskQuota {
    version: i8,
    flags: i8,
    fields: u16,
    pub(super) id: u32,
    pub(super) block_hard_limit: u64,
    block_soft_limit: u64,
    inode_hard_limit: u64,
    inode_soft_limit: u64,
    pub(super) block_count: u64,
    pub(super) inode_count: u64,
    timers: [i32; 2],
    warnings: [u16; 2],
    timers_high: [i8; 4],
    realtime: [u64; 3],
    realtime_timer: i32,
    realtime_warnings: u16,
    padding: [i8; 10],
}

/// The kernel's `struct fs_quota_statv`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct State {
    version: i8,
    padding: u8,
    pub(super) flags: u16,
    in_core: u32,
    files: [[u64; 3]; 3],
    time_limits: [i32; 3],
    warning_limits: [u16; 3],
    more_padding: [u16; 3],
    future: [u64; 7],
}

impl DiskQuota {
    pub(super) fn hard_limit(id: u32, blocks: u64) -> DiskQuota {
        DiskQuota {
            version: VERSION,
            flags: PROJECT_QUOTA,
            fields: SOFT_AND_HARD,
            id,
            block_hard_limit: blocks,
            ..DiskQuota::default()
        }
    }
}

/// Which quotas are on.
pub(super) fn state(on: impl AsFd) -> Result<State> {
    let mut state = State { version: VERSION, ..State::default() };
    // SAFETY: the command fills one `struct fs_quota_statv`, of which `State` is the exact layout.
    unsafe { quotactl(on, Q_XGETQSTATV, 0, (&raw mut state).cast())? };
    Ok(state)
}

pub(super) fn read_quota(on: impl AsFd, id: u32) -> Result<DiskQuota> {
    let mut quota = DiskQuota::default();
    // SAFETY: the command fills one `fs_disk_quota_t`, of which `DiskQuota` is the exact layout.
    unsafe { quotactl(on, Q_XGETQUOTA, id, (&raw mut quota).cast())? };
    Ok(quota)
}

pub(super) fn set_quota(on: impl AsFd, mut quota: DiskQuota) -> Result<()> {
    // SAFETY: the command reads one `fs_disk_quota_t`, of which `DiskQuota` is the exact layout.
    unsafe { quotactl(on, Q_XSETQLIM, quota.id, (&raw mut quota).cast()) }
}

/// # Safety
/// `argument` must point to what the command reads or writes.
unsafe fn quotactl(on: impl AsFd, command: u32, id: u32, argument: *mut c_void) -> Result<()> {
    let fd = on.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open for the call, and the caller answers for `argument`.
    let result = unsafe { libc::syscall(libc::SYS_quotactl_fd, fd, command, id, argument) };
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn layouts_and_numbers_are_the_kernels() {
        assert_eq!((size_of::<DiskQuota>(), size_of::<State>()), (112, 160));
        assert_eq!((offset_of!(DiskQuota, block_count), offset_of!(DiskQuota, realtime)), (40, 72));
        assert_eq!((offset_of!(State, time_limits), offset_of!(State, future)), (80, 104));
        assert_eq!((Q_XGETQUOTA, Q_XSETQLIM, Q_XGETQSTATV), (0x58_0302, 0x58_0402, 0x58_0802));
    }
}
