//! The attributes that the kernel keeps of a file for its filesystem: extents, project, flags.
//!
//! Owns: the layout of `struct fsxattr` and its two ioctls, for `file` and `quota`. Never: decides what is set.

#![expect(unsafe_code, reason = "neither FS_IOC_FSGETXATTR nor FS_IOC_FSSETXATTR has a safe wrapper")]

use std::os::fd::AsFd;

use rustix::io::Result;
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};

const FS_IOC_FSGETXATTR: Opcode = opcode::read::<FsXattr>(b'X', 31);
const FS_IOC_FSSETXATTR: Opcode = opcode::write::<FsXattr>(b'X', 32);

/// The kernel's `struct fsxattr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FsXattr {
    pub(super) flags: u32,
    extent_size: u32,
    pub(super) extents: u32,
    pub(super) project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

pub(super) fn read(of: impl AsFd) -> Result<FsXattr> {
    // SAFETY: the opcode fills one `struct fsxattr`, of which `FsXattr` is the exact layout.
    unsafe { ioctl(of, Getter::<FS_IOC_FSGETXATTR, FsXattr>::new()) }
}

pub(super) fn write(of: impl AsFd, attributes: FsXattr) -> Result<()> {
    // SAFETY: the opcode reads one `struct fsxattr`, of which `FsXattr` is the exact layout.
    unsafe { ioctl(of, Setter::<FS_IOC_FSSETXATTR, FsXattr>::new(attributes)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_and_numbers_are_the_kernels() {
        assert_eq!(size_of::<FsXattr>(), 28);
        assert_eq!((FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR), (0x801c_581f, 0x401c_5820));
    }
}
