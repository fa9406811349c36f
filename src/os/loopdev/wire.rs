//! The ioctls of linux/loop.h.
//!
//! Owns: their layouts and numbers. Never: decides which device is taken.

#![expect(unsafe_code, reason = "the loop ioctls have no safe wrappers")]

use std::ffi::c_void;
use std::os::fd::{AsFd, RawFd};

use rustix::io::{Errno, Result};
use rustix::ioctl::{Getter, Ioctl, IoctlOutput, NoArg, Opcode, Setter, ioctl, opcode};

const CLR_FD: Opcode = 0x4c01;
const SET_STATUS64: Opcode = 0x4c04;
const GET_STATUS64: Opcode = 0x4c05;
const SET_CAPACITY: Opcode = 0x4c07;
const CONFIGURE: Opcode = 0x4c0a;
const CTL_ADD: Opcode = 0x4c80;
const CTL_REMOVE: Opcode = 0x4c81;
const CTL_GET_FREE: Opcode = 0x4c82;
const BLKGETSIZE64: Opcode = opcode::read::<usize>(0x12, 114);

/// The kernel's `struct loop_info64`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Info {
    pub(super) device: u64,
    pub(super) inode: u64,
    rdevice: u64,
    pub(super) offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    pub(super) flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// The kernel's `struct loop_config`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

impl Config {
    pub(super) fn new(fd: RawFd, flags: u32) -> Config {
        let info = Info {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        };
        Config { fd: fd.cast_unsigned(), block_size: super::SECTOR, info, reserved: [0; 8] }
    }
}

/// An ioctl of /dev/loop-control: the argument is a number or nothing, the answer is what the call returns.
struct Control {
    opcode: Opcode,
    argument: usize,
}

// SAFETY: these opcodes take a number, not a pointer, and touch no memory; their result is the return value alone.
unsafe impl Ioctl for Control {
    type Output = u32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::without_provenance_mut(self.argument)
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> Result<u32> {
        u32::try_from(out).map_err(|_| Errno::RANGE)
    }
}

fn control(control: impl AsFd, opcode: Opcode, argument: usize) -> Result<u32> {
    // SAFETY: see `Control`; only the opcodes of this file are passed.
    unsafe { ioctl(control, Control { opcode, argument }) }
}

/// The number of a device that was free a moment ago, made if need be.
pub(super) fn free(device: impl AsFd) -> Result<u32> {
    control(device, CTL_GET_FREE, 0)
}

/// Makes a device of the next number that does not exist yet.
pub(super) fn add(device: impl AsFd) -> Result<u32> {
    // -1 asks the kernel to choose.
    control(device, CTL_ADD, usize::MAX)
}

/// Removes an idle device that nobody has open.
pub(super) fn remove(device: impl AsFd, number: u32) -> Result<()> {
    control(device, CTL_REMOVE, number as usize).map(drop)
}

pub(super) fn configure(device: impl AsFd, config: Config) -> Result<()> {
    // SAFETY: the opcode reads one `struct loop_config`, of which `Config` is the exact layout.
    unsafe { ioctl(device, Setter::<CONFIGURE, Config>::new(config)) }
}

pub(super) fn status(device: impl AsFd) -> Result<Info> {
    // SAFETY: the opcode fills one `struct loop_info64`, of which `Info` is the exact layout; all its bits are valid.
    unsafe { ioctl(device, Getter::<GET_STATUS64, Info>::new()) }
}

pub(super) fn set_status(device: impl AsFd, info: Info) -> Result<()> {
    // SAFETY: the opcode reads one `struct loop_info64`, of which `Info` is the exact layout.
    unsafe { ioctl(device, Setter::<SET_STATUS64, Info>::new(info)) }
}

pub(super) fn clear(device: impl AsFd) -> Result<()> {
    // SAFETY: the opcode takes no argument.
    unsafe { ioctl(device, NoArg::<CLR_FD>::new()) }
}

pub(super) fn set_capacity(device: impl AsFd) -> Result<()> {
    // SAFETY: the opcode takes no argument.
    unsafe { ioctl(device, NoArg::<SET_CAPACITY>::new()) }
}

pub(super) fn size(device: impl AsFd) -> Result<u64> {
    // SAFETY: the opcode fills one u64.
    unsafe { ioctl(device, Getter::<BLKGETSIZE64, u64>::new()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_the_kernels() {
        assert_eq!((size_of::<Info>(), size_of::<Config>()), (232, 304));
        assert_eq!(BLKGETSIZE64, 0x8008_1272);
    }
}
