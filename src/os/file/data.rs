//! What is done to the bytes of an open file: allocation, length, sync, clones.
//!
//! Owns: these calls and what their failures mean. Never: opens anything by a path.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::replace::Temporary;
use super::{Dir, host};
use crate::error::{Error, Result};
use crate::os::fsxattr;

/// Makes sure that the first `len` bytes have blocks of their own, and that the file is at least that long.
pub fn allocate(file: &File, len: u64) -> Result<()> {
    rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len)
        .map_err(|e| host(format!("failed to allocate {len} bytes"), e))
}

/// Sets the length: what is added is a hole, what is cut off is gone.
pub fn set_len(file: &File, len: u64) -> Result<()> {
    rustix::fs::ftruncate(file, len)
        .map_err(|e| host(format!("failed to set a file's length to {len} bytes"), e))
}

/// Makes all that lies from an offset on read as zeros, without a change of the length. Blocks that are there to stay (`reserved`)
/// stay, the others are given back.
pub fn clear_from(file: &File, from: u64, reserved: bool) -> Result<()> {
    let len = super::stat(file)?.size.saturating_sub(from);
    if len == 0 {
        return Ok(());
    }
    let how = if reserved { FallocateFlags::ZERO_RANGE } else { FallocateFlags::PUNCH_HOLE };
    rustix::fs::fallocate(file, how | FallocateFlags::KEEP_SIZE, from, len)
        .map_err(|e| host(format!("failed to clear {len} bytes from {from} on"), e))
}

/// Makes the content durable.
///
/// # Errors
/// What was written since the last success is lost or not: the kernel marks the pages clean, so another try proves
/// nothing. Write again, to another file.
pub fn sync(file: &File) -> Result<()> {
    let synced = rustix::fs::fsync(file);
    if planted!("ignore-fsync-error") {
        return Ok(());
    }
    synced.map_err(|e| host("failed to make a file durable", e))
}

/// Makes `to` a clone of `from`: all blocks shared, copied when either is written. Durable after [`sync`] of `to`.
///
/// # Errors
/// `Unsupported` if the filesystem cannot do it, or the two lie on different ones.
pub fn reflink(from: &File, to: &File) -> Result<()> {
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => Ok(()),
        Err(e @ (Errno::OPNOTSUPP | Errno::XDEV | Errno::NOTTY)) => {
            Err(Error::Unsupported(format!("this filesystem cannot clone files by reflink: {e}")))
        }
        Err(e) => Err(host("failed to clone a file by reflink", e)),
    }
}

/// Whether files in this directory can be cloned by reflink, found out by doing it.
pub fn reflink_works(dir: &Dir) -> Result<bool> {
    let (from, to) = (Temporary::new(dir)?, Temporary::new(dir)?);
    std::io::Write::write_all(&mut &from.file, &[1; 4096])
        .map_err(|e| Error::host(format!("failed to write in `{}`", dir.path().display()), e))?;
    match reflink(&from.file, &to.file) {
        Ok(()) => Ok(true),
        Err(Error::Unsupported(_)) => Ok(false),
        Err(other) => Err(other),
    }
}

/// Where the next bytes of a file lie that were written, from an offset on; `None` where there are none up to its end.
pub fn next_data(file: &File, from: u64) -> Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(from)) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        Err(e) => Err(host("failed to look for a file's data", e)),
    }
}

/// Fills all of `bytes` from a place in a file.
pub fn read_at(file: &File, offset: u64, bytes: &mut [u8]) -> Result<()> {
    file.read_exact_at(bytes, offset).map_err(|e| Error::host(format!("failed to read at {offset}"), e))
}

/// Puts all of `bytes` at a place in a file. Durable after [`sync`].
pub fn write_at(file: &File, offset: u64, bytes: &[u8]) -> Result<()> {
    file.write_all_at(bytes, offset).map_err(|e| Error::host(format!("failed to write at {offset}"), e))
}

/// How many extents a file has: a clone takes about 7 µs for each, and stops writers meanwhile. `None` where the
/// filesystem does not count them.
pub fn extent_count(file: &File) -> Result<Option<u32>> {
    match fsxattr::read(file) {
        Ok(attributes) => Ok(Some(attributes.extents)),
        Err(Errno::OPNOTSUPP | Errno::NOTTY) => Ok(None),
        Err(e) => Err(host("failed to count a file's extents", e)),
    }
}

/// What the disk reads and writes in one piece.
#[repr(align(4096))]
struct Page([u8; 4096]);

impl Dir {
    /// Reads the beginning of a file from the disk itself, past all caches: returns when the disk has answered. Where the
    /// filesystem has no direct I/O there is nothing to ask.
    pub fn ask_disk(&self, name: &str) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::DIRECT;
        let file = match self.open_beneath(OsStr::new(name), flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::INVAL) => return Ok(()),
            Err(e) => return Err(self.failed("open", OsStr::new(name), e)),
        };
        read_past_caches(&file).map_err(|e| self.failed("read", OsStr::new(name), e))
    }
}

/// The same with an open device. A process that is killed while it waits for a page of a device's cache closes the device in
/// its end, waits there again, and keeps everybody else from opening it: waiting for the disk itself keeps nobody.
pub fn ask_device(device: &File) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::DIRECT | OFlags::CLOEXEC;
    let asked = match rustix::fs::open(program_path(device), flags, Mode::empty()) {
        Ok(file) => read_past_caches(&file),
        Err(Errno::INVAL) => Ok(()),
        Err(e) => Err(e),
    };
    asked.map_err(|e| host("failed to read from a device", e))
}

fn read_past_caches(file: impl AsFd) -> rustix::io::Result<()> {
    let mut page = Box::new(Page([0; 4096]));
    match rustix::io::read(file, &mut page.0[..]) {
        Ok(_) | Err(Errno::INVAL) => Ok(()),
        Err(e) => Err(e),
    }
}

/// A path by which a program that is run meanwhile reaches exactly this open file. Valid as long as `file` is open and the
/// calling thread lives: the number means a file in that thread's table only.
pub fn program_path(file: &impl AsRawFd) -> PathBuf {
    let (process, thread) = (std::process::id(), rustix::thread::gettid().as_raw_pid());
    PathBuf::from(format!("/proc/{process}/task/{thread}/fd/{}", file.as_raw_fd()))
}

/// `N` random bytes from the kernel.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0_u8; N];
    let mut filled = 0;
    while filled < N {
        let rest = &mut bytes[filled..];
        filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| host("failed to read random bytes", e))?;
    }
    Ok(bytes)
}

/// `N` random hexadecimal digits from the kernel.
pub fn random_hex<const N: usize>() -> Result<String> {
    let bytes = random::<N>()?;
    Ok(bytes.iter().map(|byte| char::from(b"0123456789abcdef"[usize::from(byte & 15)])).collect())
}
