//! Loop devices: a file as a block device.
//!
//! Owns: /dev/loop-control, attaching, finding and detaching. Never: knows a loop device by the path of its file (a path
//! lies after a rename or an unlink; the file's device and inode do not), scans for partitions, or trusts a number that
//! was remembered without [`Loop::backs`].
//!
//! Every device is made with direct I/O and sectors of 4096 bytes: left to itself, the kernel takes 512 for a file that
//! was never cloned and 4096 for one that was, so a volume would change under its filesystem after its first snapshot.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags, makedev};
use rustix::io::Errno;

use self::wire::{Config, Info};
use super::file::Access;
use crate::error::{Error, Result};

mod wire;

/// The sector size of every loop device that Rockpool makes, in bytes.
pub const SECTOR: u32 = 4096;

const MAJOR: u32 = 7;
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;

const DISCARD_LIMIT: &str = "queue/discard_max_bytes";

/// How often another process may snatch a free device before we give up.
const TRIES: u32 = 1000;

/// GET_FREE reserves nothing: without turns our own threads would take devices from each other thousands of times.
static TAKEN: Mutex<bool> = Mutex::new(false);
static FREED: Condvar = Condvar::new();
/// Whoever attaches for longer hangs with the disk of its file; without a turn the others only need more tries.
const TURN: Duration = Duration::from_millis(200);

/// One loop device, attached or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Loop {
    /// The N of /dev/loopN.
    pub number: u32,
    /// The device number, as `st_rdev` of the node and `st_dev` of a filesystem on it.
    pub device: u64,
}

/// How a device ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// The kernel detaches it when nobody has it open or mounted any more: nothing is left even after a SIGKILL.
    Autoclear,
    /// It stays until it is detached.
    Held,
}

/// What a trim inside the volume may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discard {
    /// Give blocks back to the pool.
    Allow,
    /// Fail, so that an allocated file stays allocated.
    Forbid,
}

/// How the device reads and writes its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caching {
    /// Directly, as asked for.
    Direct,
    /// Through the page cache, because the filesystem beneath cannot do otherwise: memory is used twice, and O_DIRECT
    /// in a pod no longer is.
    Buffered,
}

/// What is wanted of a new device.
#[derive(Debug, Clone, Copy)]
pub struct Attach {
    /// Whether it can be written.
    pub access: Access,
    /// How it ends.
    pub lifetime: Lifetime,
    /// What a trim may do.
    pub discard: Discard,
}

/// A new device.
#[derive(Debug)]
pub struct Attached {
    /// Which one.
    pub device: Loop,
    /// Keeps it alive: an autoclear device goes with the last of its openers and mounts.
    pub held: File,
    /// Whether direct I/O was possible.
    pub caching: Caching,
}

/// A device that was found behind a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Which one.
    pub device: Loop,
    /// Whether it can be written.
    pub access: Access,
    /// How it ends.
    pub lifetime: Lifetime,
    /// Where in the file it starts, in bytes: not 0 means that somebody else made it.
    pub offset: u64,
}

/// Makes a free loop device show a file. Two devices on one file are no error to the kernel: [`find`] first, under the
/// volume's claim.
pub fn attach(file: &File, want: Attach) -> Result<Attached> {
    let control = open_node("/dev/loop-control", OFlags::RDWR)
        .map_err(|e| host("failed to open /dev/loop-control", e))?;
    let (device, held) = configure(&control, file, want)?;
    step!("loop: configured");
    match settle(device, want.discard) {
        Ok(caching) => Ok(Attached { device, held, caching }),
        Err(error) => {
            // An autoclear device goes with `held`; this is for the other kind.
            let _ = wire::clear(&held);
            Err(error)
        }
    }
}

/// The file that a loop device shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Backing {
    /// The device of its filesystem, as in `st_dev`.
    pub device: u64,
    /// Its inode number.
    pub inode: u64,
}

/// Every loop device of this host that shows a file. One whose file lies on a filesystem that gave up cannot be asked, and is
/// left out: it must not keep the devices of all others from being found.
///
/// Each is opened and asked, be its path as strange as it may: a path passed over would be a second device on one image, and
/// what is in it destroyed. It is for openings and the doctor; docs/performance.md tells what a thousand cost.
pub fn all() -> Result<Vec<(Backing, Found)>> {
    let mut all = Vec::new();
    for number in attached_numbers()? {
        let candidate = Loop::new(number);
        if let Some(info) = candidate.info_if_attached()? {
            all.push((Backing { device: info.device, inode: info.inode }, info.found(candidate)));
        }
    }
    Ok(all)
}

/// Every loop device that shows the file with this device and inode, as in `st_dev` and `st_ino`.
pub fn find(device: u64, inode: u64) -> Result<Vec<Found>> {
    let wanted = Backing { device, inode };
    Ok(all()?.into_iter().filter(|(backing, _)| *backing == wanted).map(|(_, found)| found).collect())
}

impl Loop {
    /// The device of this number, whether it exists or not.
    pub fn new(number: u32) -> Loop {
        Loop { number, device: makedev(MAJOR, number) }
    }

    /// The device of this `st_rdev`, if it is a loop device.
    pub fn from_device(device: u64) -> Option<Loop> {
        (rustix::fs::major(device) == MAJOR).then(|| Loop::new(rustix::fs::minor(device)))
    }

    /// Its device node.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/dev/loop{}", self.number))
    }

    /// Opens its device node. As long as the file is open, an attached device cannot come to show another file.
    pub fn open(&self, access: Access) -> Result<File> {
        self.open_raw(access).map_err(|e| self.failed("open", e))
    }

    /// Whether it shows, at this moment, the file with this device and inode.
    pub fn backs(&self, device: u64, inode: u64) -> Result<bool> {
        let info = self.info_if_attached()?;
        Ok(info.is_some_and(|info| (info.device, info.inode) == (device, inode)))
    }

    /// Detaches it from the file with this device and inode; a device that shows nothing or another file is left alone,
    /// and that is Ok. If somebody still has it open or mounted, the kernel does it when they are done.
    pub fn detach(&self, device: u64, inode: u64) -> Result<()> {
        // Held open from the check to the end: in between it cannot be given to another file.
        let Some(held) = self.hold()? else { return Ok(()) };
        match wire::status(&held) {
            Ok(info) if (info.device, info.inode) == (device, inode) => {}
            Ok(_) | Err(Errno::NXIO) => return Ok(()),
            // The filesystem of its file gave up and tells nothing any more. Who asks knows what it showed, and what it shows
            // now is of no use to anybody.
            Err(e) if tells_nothing(e) => {}
            Err(e) => return Err(self.failed("look at", e)),
        }
        match wire::clear(&held) {
            Ok(()) | Err(Errno::NXIO) => Ok(()),
            Err(e) => Err(self.failed("detach", e)),
        }
    }

    /// Changes how it ends.
    pub fn set_lifetime(&self, lifetime: Lifetime) -> Result<()> {
        let held = self.open(Access::ReadOnly)?;
        let mut info = wire::status(&held).map_err(|e| self.failed("look at", e))?;
        info.flags = match lifetime {
            Lifetime::Autoclear => info.flags | AUTOCLEAR,
            Lifetime::Held => info.flags & !AUTOCLEAR,
        };
        wire::set_status(&held, info).map_err(|e| self.failed("change the lifetime of", e))
    }

    /// Takes over the present length of its file. Safe to repeat.
    pub fn resize(&self) -> Result<()> {
        wire::set_capacity(self.open(Access::ReadOnly)?).map_err(|e| self.failed("resize", e))
    }

    /// Its size in bytes.
    pub fn size(&self) -> Result<u64> {
        wire::size(self.open(Access::ReadOnly)?).map_err(|e| self.failed("read the size of", e))
    }

    /// How it reads and writes its file.
    pub fn caching(&self) -> Result<Caching> {
        Ok(match self.read_setting("loop/dio")?.as_str() {
            "1" => Caching::Direct,
            _ => Caching::Buffered,
        })
    }

    /// The last part of the path that its file once had. For telling what a deleted file was, never what a file is.
    pub fn backing_name(&self) -> Option<String> {
        let path = self.read_setting("loop/backing_file").ok()?;
        let path = path.strip_suffix(" (deleted)").unwrap_or(&path);
        path.rsplit('/').next().map(str::to_owned)
    }

    fn open_raw(&self, access: Access) -> rustix::io::Result<File> {
        let flags = match access {
            Access::ReadOnly => OFlags::RDONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        let path = format!("/dev/loop{}", self.number);
        let file = match open_node(&path, flags) {
            // A container whose /dev is no devtmpfs gets no nodes from the kernel.
            Err(Errno::NOENT) if self.known_to_the_kernel() => {
                let mode = Mode::RUSR | Mode::WUSR;
                match rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::BlockDevice, mode, self.device) {
                    Ok(()) | Err(Errno::EXIST) => open_node(&path, flags)?,
                    Err(e) => return Err(e),
                }
            }
            other => other?,
        };
        let stat = rustix::fs::fstat(&file)?;
        let right =
            FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice && stat.st_rdev == self.device;
        if right { Ok(file) } else { Err(Errno::NODEV) }
    }

    fn known_to_the_kernel(&self) -> bool {
        PathBuf::from(self.setting("dev")).exists()
    }

    /// The open file that keeps it showing what it shows; `None` if there is no such device.
    fn hold(&self) -> Result<Option<File>> {
        match self.open_raw(Access::ReadOnly) {
            Ok(held) => Ok(Some(held)),
            Err(Errno::NOENT | Errno::NXIO) => Ok(None),
            Err(e) => Err(self.failed("open", e)),
        }
    }

    /// What it shows; `None` if it shows nothing, or a file of a filesystem that gave up after an error, as one that
    /// answers nothing: that one must not hide all others.
    fn info_if_attached(&self) -> Result<Option<Info>> {
        let Some(held) = self.hold()? else { return Ok(None) };
        match wire::status(&held) {
            Ok(info) => Ok(Some(info)),
            Err(Errno::NXIO) => Ok(None),
            Err(e) if tells_nothing(e) => Ok(None),
            Err(e) => Err(self.failed("look at", e)),
        }
    }

    fn setting(&self, name: &str) -> String {
        format!("/sys/block/loop{}/{name}", self.number)
    }

    fn read_setting(&self, name: &str) -> Result<String> {
        let path = self.setting(name);
        std::fs::read_to_string(&path)
            .map(|text| text.trim().to_owned())
            .map_err(|e| Error::host(format!("failed to read {path}"), e))
    }

    /// Whether a former user of this number forbade discards for good.
    fn lost_discard(&self) -> bool {
        let is_zero = |name| self.read_setting(name).is_ok_and(|value| value == "0");
        is_zero(DISCARD_LIMIT) && !is_zero("queue/discard_max_hw_bytes")
    }

    fn write_setting(&self, name: &str, value: &str) -> Result<()> {
        let path = self.setting(name);
        let written =
            File::options().write(true).open(&path).and_then(|mut file| file.write_all(value.as_bytes()));
        written.map_err(|e| Error::host(format!("failed to write {path}"), e))
    }

    fn failed(&self, verb: &str, errno: Errno) -> Error {
        host(format!("failed to {verb} {}", self.path().display()), errno)
    }
}

/// The right to attach alone.
struct Turn;

impl Turn {
    fn take() -> Option<Turn> {
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut taken, waited) =
            FREED.wait_timeout_while(taken, TURN, |taken| *taken).unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return None;
        }
        *taken = true;
        Some(Turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = false;
        FREED.notify_one();
    }
}

/// Finds a free device and attaches the file to it; another process may be faster, then the next one is tried.
fn configure(control: &File, file: &File, want: Attach) -> Result<(Loop, File)> {
    let mut flags = DIRECT_IO;
    if want.access == Access::ReadOnly {
        flags |= READ_ONLY;
    }
    if want.lifetime == Lifetime::Autoclear {
        flags |= AUTOCLEAR;
    }
    let _one_at_a_time = Turn::take();
    for attempt in 0..TRIES {
        let device = free_device(control, want.discard)?;
        let held = match device.open_raw(want.access) {
            Ok(held) => held,
            Err(Errno::BUSY | Errno::NXIO) => continue,
            Err(e) => return Err(device.failed("open", e)),
        };
        match wire::configure(&held, Config::new(file.as_fd().as_raw_fd(), flags)) {
            // Between the look and the attach another process may have forbidden discards on it: give it back.
            Ok(()) if want.discard == Discard::Allow && device.lost_discard() => {
                wire::clear(&held).map_err(|e| device.failed("detach", e))?;
            }
            Ok(()) => return Ok((device, held)),
            // Taken meanwhile, or still being taken down.
            Err(Errno::BUSY | Errno::NXIO) => {}
            Err(e) => return Err(device.failed("attach a file to", e)),
        }
        if attempt > 16 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    Err(Error::Unavailable(format!("other processes took each of {TRIES} loop devices first")))
}

/// A device that was free a moment ago and can do what is wanted.
///
/// A limit of 0 on discards stays with the number when its file goes, and the kernel refuses to raise it again: only a
/// device that is made anew is without it.
fn free_device(control: &File, discard: Discard) -> Result<Loop> {
    // Whatever the kernel calls it, a host without a free device is no disk without room.
    let failed =
        |e: Errno| Error::Host { what: "failed to find a free loop device".to_owned(), source: e.into() };
    let device = Loop::new(wire::free(control).map_err(failed)?);
    if discard == Discard::Forbid || !device.lost_discard() {
        return Ok(device);
    }
    made_anew(control, device)
}

/// Another device in place of an idle one.
fn made_anew(control: &File, device: Loop) -> Result<Loop> {
    let removed = match wire::remove(control, device.number) {
        // Somebody else was at it, and was faster.
        Err(Errno::NODEV) => Ok(()),
        removed => removed,
    };
    match removed.and_then(|()| wire::free(control)) {
        Ok(number) => Ok(Loop::new(number)),
        // Somebody has the idle device open: leave it to them.
        Err(Errno::BUSY) => {
            wire::add(control).map(Loop::new).map_err(|e| host("failed to make another loop device", e))
        }
        Err(e) => Err(device.failed("make anew", e)),
    }
}

/// What sysfs must say before anybody may use a new device.
fn settle(device: Loop, discard: Discard) -> Result<Caching> {
    if discard == Discard::Forbid {
        device.write_setting(DISCARD_LIMIT, "0")?;
    }
    device.caching()
}

/// The numbers of all devices that show a file, from sysfs: without opening the thousands that may lie idle.
fn attached_numbers() -> Result<Vec<u32>> {
    let failed = |e| Error::host("failed to list /sys/block", e);
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir("/sys/block").map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(number) =
            name.to_str().and_then(|name| name.strip_prefix("loop")).and_then(|n| n.parse().ok())
        else {
            continue;
        };
        match std::fs::symlink_metadata(entry.path().join("loop/backing_file")) {
            Ok(_) => numbers.push(number),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(numbers)
}

impl Info {
    fn found(&self, device: Loop) -> Found {
        Found {
            device,
            access: if self.flags & READ_ONLY == 0 { Access::ReadWrite } else { Access::ReadOnly },
            lifetime: if self.flags & AUTOCLEAR == 0 { Lifetime::Held } else { Lifetime::Autoclear },
            offset: self.offset,
        }
    }
}

fn open_node(path: &str, flags: OFlags) -> rustix::io::Result<File> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()).map(File::from)
}

fn host(what: impl Into<String>, errno: Errno) -> Error {
    Error::host(what, errno.into())
}

/// What LOOP_GET_STATUS answers where the filesystem of the device's file is dead: a disk that gave up, a server that is gone.
fn tells_nothing(error: Errno) -> bool {
    [
        Errno::IO,
        Errno::NOTCONN,
        Errno::CONNABORTED,
        Errno::STALE,
        Errno::TIMEDOUT,
        Errno::HOSTDOWN,
        Errno::SHUTDOWN,
        Errno::UCLEAN,
        Errno::NODEV,
    ]
    .contains(&error)
}

#[cfg(test)]
mod tests;
