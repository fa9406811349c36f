//! A tree: a mount that nobody can see yet.
//!
//! Owns: making one from a filesystem or from something mounted, restricting and attaching it. Never: builds an option
//! string; each option is one typed parameter, so no value can become two options.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::options::Parameter;
use super::{MountOption, Place, raw};
use crate::error::{Error, Result, quoted_path};

/// The most lines of the kernel's mount log that an error repeats.
const MOST_LOG_LINES: usize = 8;

/// A detached mount. Dropped before it is attached, it unmounts itself.
#[derive(Debug)]
pub struct Tree {
    fd: OwnedFd,
}

/// Whether writing through a mount is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadOnly {
    /// Refused.
    Yes,
    /// Allowed, if the filesystem allows it.
    #[default]
    No,
}

/// Whether device nodes can be opened through a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Devices {
    /// Not: for every filesystem.
    #[default]
    Refused,
    /// Yes: for the bind of one device node, which is a raw block volume.
    Allowed,
}

/// What a mount refuses. `nosuid` is always on; nothing that was restricted before is ever allowed again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restrict {
    /// Whether writing is refused.
    pub read_only: ReadOnly,
    /// Whether device nodes are refused.
    pub devices: Devices,
    /// What the caller asked for; of these the ones that belong to a mount and not to the filesystem count.
    pub options: Vec<MountOption>,
}

/// Which filesystem and which inode a tree's root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootStat {
    /// As in `st_dev`.
    pub device: u64,
    /// As in `st_ino`.
    pub inode: u64,
    /// The device number behind a device node, else zero.
    pub rdev: u64,
}

impl Tree {
    /// The filesystem of `kind` ("ext4", "xfs") on a device; always nosuid and nodev.
    pub fn filesystem(kind: &str, device: &Path, options: &[MountOption]) -> Result<Tree> {
        let what = || format!("failed to mount the {kind} filesystem of {}", quoted_path(device));
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(|error| Error::host(format!("{}: the kernel has no {kind}", what()), error.into()))?;
        configure(context.as_fd(), device, options)
            .and_then(|()| {
                let always = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
                let attributes = options.iter().fold(always, |all, option| all | option.attribute());
                fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            })
            .map(|fd| Tree { fd })
            .map_err(|error| explained(&what(), error, &log_of(context.as_fd())))
    }

    /// A bind of what `root` stands for: a directory, a file or a device node, with nothing that is mounted below it.
    pub fn clone_of(root: impl AsFd) -> Result<Tree> {
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let fd = open_tree(root, "", flags)
            .map_err(|error| Error::host("failed to clone a mount", error.into()))?;
        Ok(Tree { fd })
    }

    /// A bind of a path that this program made or was configured with, such as a device node; not through a last symlink.
    pub fn clone_of_path(path: &Path) -> Result<Tree> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .map_err(|error| Error::host(format!("failed to open {}", quoted_path(path)), error.into()))?;
        Tree::clone_of(root)
    }

    /// Takes rights away, before anybody can use them.
    pub fn restrict(&self, restrict: &Restrict) -> Result<()> {
        let mut set = MountAttrFlags::MOUNT_ATTR_NOSUID;
        if restrict.read_only == ReadOnly::Yes {
            set |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        }
        if restrict.devices == Devices::Refused {
            set |= MountAttrFlags::MOUNT_ATTR_NODEV;
        }
        let mut clear = MountAttrFlags::empty();
        for option in &restrict.options {
            set |= option.attribute();
            if option.sets_access_time() {
                clear |= MountAttrFlags::MOUNT_ATTR__ATIME;
            }
        }
        if restrict.devices == Devices::Allowed {
            set -= MountAttrFlags::MOUNT_ATTR_NODEV;
        }
        raw::mount_setattr(self.fd.as_fd(), set, clear, 0)
            .map_err(|error| Error::host("failed to restrict a mount", error))
    }

    /// What the root is, for a comparison with what was wanted.
    pub fn root_stat(&self) -> Result<RootStat> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = rustix::fs::statx(&self.fd, "", flags, StatxFlags::BASIC_STATS)
            .map_err(|error| Error::host("failed to look at the root of a new mount", error.into()))?;
        Ok(RootStat {
            device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            rdev: rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
        })
    }

    /// The root directory, opened: for freezing, growing and asking for space. Holding it keeps the mount busy.
    pub fn root(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, ".", flags, Mode::empty())
            .map_err(|error| Error::host("failed to open the root of a new mount", error.into()))
    }

    /// Makes the mount visible, on top of what may be mounted there.
    pub fn attach(self, place: &Place) -> Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&self.fd, "", place.parent(), place.name(), flags).map_err(|error| match error {
            // The kernel says "invalid" for a directory on a file and the reverse.
            Errno::NOENT | Errno::NOTDIR | Errno::INVAL => Error::Precondition(format!(
                "{} cannot be mounted on: it is gone, or it is a file where a directory is needed or the reverse",
                quoted_path(place.path())
            )),
            other => place.failed("mount at", other),
        })
    }

    /// Makes mounts below this one propagate.
    pub(super) fn share(&self) -> Result<()> {
        let none = MountAttrFlags::empty();
        raw::mount_setattr(self.fd.as_fd(), none, none, libc::MS_SHARED)
            .map_err(|error| Error::host("failed to make a mount shared", error))
    }
}

fn configure(context: BorrowedFd<'_>, device: &Path, options: &[MountOption]) -> rustix::io::Result<()> {
    fsconfig_set_string(context, "source", device)?;
    for option in options {
        match option.parameter() {
            Parameter::OfTheMount => {}
            Parameter::Flag(word) => fsconfig_set_flag(context, word)?,
            Parameter::Text(key, value) => fsconfig_set_string(context, key, value)?,
        }
    }
    fsconfig_create(context)
}

/// What the kernel logged about this one mount: each read gives one line, of the form "e text".
fn log_of(context: BorrowedFd<'_>) -> String {
    let mut lines = Vec::new();
    let mut line = [0u8; 1024];
    while lines.len() < MOST_LOG_LINES {
        let Ok(length) = rustix::io::read(context, &mut line) else { break };
        let text = String::from_utf8_lossy(&line[..length]);
        let text = text.trim();
        lines.push(text.get(2..).unwrap_or(text).escape_debug().to_string());
    }
    lines.join("; ")
}

fn explained(what: &str, error: Errno, log: &str) -> Error {
    let what = if log.is_empty() { what.to_owned() } else { format!("{what} ({log})") };
    match error {
        Errno::BUSY => Error::Busy(format!("{what}: the device is in use, or mounted with other options")),
        other => Error::host(what, other.into()),
    }
}
