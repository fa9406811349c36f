//! A place: where something is or will be mounted.
//!
//! Owns: the walk to a place without following symlinks, what lies there, and the empty directory or file to mount on.
//! Never: joins text to a path and hopes, or removes anything that is not empty.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Statx, StatxAttributes, StatxFlags,
};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::raw;
use crate::error::{Error, Result, quoted_path};

/// Asks statx for the mount id that is never used again (Linux 6.8).
const UNIQUE_ID: StatxFlags = StatxFlags::from_bits_retain(0x4000);
/// More stacked mounts than this at one place are an endless loop.
const MOST_STACKED: u32 = 10_000;
/// A program that any thread of ours is just starting holds copies of all our descriptors until it executes: what looks
/// busy only for that long is not.
const PATIENCE: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_millis(2);

/// Where something is or will be mounted: a held parent directory and the last component of the path.
#[derive(Debug)]
pub struct Place {
    parent: OwnedFd,
    name: OsString,
    shown: PathBuf,
}

/// What is at a place.
#[derive(Debug)]
pub enum Here {
    /// Nothing.
    Nothing,
    /// A directory with nothing mounted on it.
    Directory {
        /// Whether it holds no entry.
        empty: bool,
    },
    /// A regular file with nothing mounted on it.
    File {
        /// Whether it has no byte.
        empty: bool,
    },
    /// Something else: a symlink, a socket, a device node that is not mounted.
    Other,
    /// A mount; of stacked ones, the one on top.
    Mounted(Mounted),
}

/// The root of what is mounted at a place.
#[derive(Debug)]
pub struct Mounted {
    /// `st_dev` of the mounted root. Zero when `dead` and not in the mount table.
    pub device: u64,
    /// The inode number of the mounted root; zero when `dead`.
    pub inode: u64,
    /// The device number behind a bound device node, else zero.
    pub rdev: u64,
    /// The mount's id as in the mount table; the kernel uses it again after an unmount.
    pub mount_id: u64,
    /// The mount's id that is never used again during this boot, where the kernel knows one (Linux 6.8).
    pub unique_id: Option<u64>,
    /// Whether the mount or its filesystem is read-only.
    pub read_only: bool,
    /// Why the root cannot be read, if so; such a mount can still be unmounted.
    pub dead: Option<io::Error>,
}

/// The mount that this process has for its root, by an id that the kernel uses never again during this boot, where it knows one. Each
/// container has one of its own, and its own ids for all that is mounted.
///
/// # Errors
/// Those of the host.
pub fn root_mount() -> Result<u64> {
    let flags = AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(rustix::fs::CWD, "/", flags, StatxFlags::MNT_ID | UNIQUE_ID);
    stat.map(|stat| stat.stx_mnt_id)
        .map_err(|error| Error::host("failed to look at the mount of `/`", error.into()))
}

impl Place {
    /// Finds `path`, which comes from a request, below `root`, which is configured. The parent must exist.
    pub fn walk(root: &Path, path: &Path) -> Result<Place> {
        let refused = |why: &str| {
            Error::Invalid(format!(
                "{} {why}; it must be an absolute path below {}",
                quoted_path(path),
                quoted_path(root)
            ))
        };
        if !path.is_absolute() {
            return Err(refused("is not absolute"));
        }
        if path.as_os_str().as_bytes().contains(&0) {
            return Err(refused("has a zero byte"));
        }
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(refused("has a `..`"));
        }
        let below = path.strip_prefix(root).map_err(|_| refused("is outside"))?;
        let (Some(name), Some(parent)) = (below.file_name(), below.parent()) else {
            return Err(refused("is the root itself"));
        };
        let root_fd = open_root(root)?;
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let parent = rustix::fs::openat2(
            &root_fd,
            parent,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )
        .map_err(|error| match error {
            Errno::LOOP => refused("has a symlink on the way"),
            Errno::XDEV => refused("leads outside"),
            Errno::NAMETOOLONG => refused("is too long"),
            Errno::NOENT | Errno::NOTDIR => Error::Precondition(format!(
                "the parent directory of {} does not exist; whoever asks for a mount there makes it",
                quoted_path(path)
            )),
            other => Error::host(
                format!("failed to open the parent directory of {}", quoted_path(path)),
                other.into(),
            ),
        })?;
        if name.len() > 255 {
            return Err(refused("is too long"));
        }
        Ok(Place { parent, name: name.to_owned(), shown: path.to_owned() })
    }

    /// A place that comes from the configuration: symlinks before its last component are followed.
    pub fn trusted(path: &Path) -> Result<Place> {
        let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
            return Err(Error::Invalid(format!("{} is no path to mount at", quoted_path(path))));
        };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        Ok(Place { parent: open_root(parent)?, name: name.to_owned(), shown: path.to_owned() })
    }

    /// The path as it was asked for, for messages.
    pub fn path(&self) -> &Path {
        &self.shown
    }

    /// What is here. Needs neither the mount table nor the disk, and works on dead mounts.
    pub fn look(&self) -> Result<Here> {
        let stat = match self.stat(UNIQUE_ID) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Here::Nothing),
            Err(error) => return self.look_in_table(error),
        };
        if self.is_mount(&stat)? {
            return self.mounted(&stat).map(Here::Mounted);
        }
        Ok(match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::Directory => Here::Directory { empty: self.is_empty_directory()? },
            FileType::RegularFile => Here::File { empty: stat.stx_size == 0 },
            FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => Here::Other,
        })
    }

    /// Makes an empty directory to mount on; one that exists already is fine.
    pub fn make_directory(&self, mode: u32) -> Result<()> {
        match rustix::fs::mkdirat(&self.parent, &self.name, Mode::from_raw_mode(mode)) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => match self.look()? {
                Here::Directory { .. } | Here::Mounted(_) => Ok(()),
                Here::Nothing | Here::File { .. } | Here::Other => Err(self.is_not("a directory")),
            },
            Err(error) => Err(self.failed("make the directory", error)),
        }
    }

    /// Makes an empty file to mount on; one that exists already is fine if it is empty.
    pub fn make_file(&self, mode: u32) -> Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.parent, &self.name, flags, Mode::from_raw_mode(mode)) {
            Ok(_) => Ok(()),
            Err(Errno::EXIST) => match self.look()? {
                Here::File { empty: true } | Here::Mounted(_) => Ok(()),
                Here::Nothing | Here::Directory { .. } | Here::File { empty: false } | Here::Other => {
                    Err(self.is_not("an empty file"))
                }
            },
            Err(error) => Err(self.failed("make the file", error)),
        }
    }

    /// Removes the empty directory or file; nothing there is fine, anything else stays and is an error.
    pub fn remove(&self) -> Result<()> {
        let flags = match self.look()? {
            Here::Nothing => return Ok(()),
            Here::Directory { .. } => AtFlags::REMOVEDIR,
            Here::File { empty: true } => AtFlags::empty(),
            Here::File { empty: false } | Here::Other => {
                return Err(self.is_not("an empty directory or file, so it stays"));
            }
            Here::Mounted(_) => {
                return Err(Error::Busy(format!("{} is still mounted", self.quoted())));
            }
        };
        match rustix::fs::unlinkat(&self.parent, &self.name, flags) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Err(self.is_not("empty, so it stays")),
            Err(Errno::BUSY) => Err(Error::Busy(format!("{} is in use", self.quoted()))),
            Err(error) => Err(self.failed("remove", error)),
        }
    }

    /// Opens the directory here, or the root of what is mounted on it. Holding it keeps a mount busy.
    pub fn open_directory(&self) -> Result<OwnedFd> {
        self.open(OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC)
            .map_err(|error| self.failed("open the directory", error))
    }

    /// A handle on what is here, without opening it: for [`super::Tree::clone_of`]. Holding it keeps a mount busy.
    pub fn handle(&self) -> Result<OwnedFd> {
        self.open(OFlags::PATH | OFlags::CLOEXEC).map_err(|error| self.failed("open", error))
    }

    /// Unmounts until nothing is mounted here any more and says how many mounts that were. Asks the mounts nothing first,
    /// so a dead one goes as well. Something that is in use stays: [`Error::Busy`].
    pub fn unmount_all(&self) -> Result<u32> {
        let started = Instant::now();
        let mut undone = 0;
        while undone < MOST_STACKED {
            if !self.unmount_top(started)? {
                return Ok(undone);
            }
            undone += 1;
        }
        Err(Error::Busy(format!("{} is mounted again and again", self.quoted())))
    }

    /// Unmounts as long as what is on top is `ours`, and says how many mounts that were. Each is looked at before it goes.
    pub fn unmount_while(&self, ours: impl Fn(&Mounted) -> bool) -> Result<u32> {
        let started = Instant::now();
        let mut undone = 0;
        while let Here::Mounted(mounted) = self.look()?
            && ours(&mounted)
            && self.unmount_top(started)?
        {
            undone += 1;
        }
        Ok(undone)
    }

    /// Unmounts what is on top; `false` where nothing is mounted here any more.
    fn unmount_top(&self, started: Instant) -> Result<bool> {
        let target = fd_path(self.parent.as_fd()).join(&self.name);
        let lazy = if planted!("lazy-unmount") { UnmountFlags::DETACH } else { UnmountFlags::empty() };
        loop {
            match rustix::mount::unmount(&target, UnmountFlags::NOFOLLOW | lazy) {
                Ok(()) => return Ok(true),
                Err(Errno::BUSY) if planted!("ignore-unmount-error") => return Ok(false),
                Err(Errno::NOENT) => return Ok(false),
                // "Not a mount", but also "a mount that this namespace may not undo".
                Err(Errno::INVAL) => match self.look()? {
                    Here::Mounted(_) => return Err(self.failed("unmount", Errno::INVAL)),
                    Here::Nothing | Here::Directory { .. } | Here::File { .. } | Here::Other => {
                        return Ok(false);
                    }
                },
                Err(Errno::BUSY) if started.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
                Err(Errno::BUSY) => {
                    return Err(Error::Busy(format!(
                        "{} is in use: a process has a file or directory open there, or something is mounted below it",
                        self.quoted()
                    )));
                }
                Err(error) => return Err(self.failed("unmount", error)),
            }
        }
    }

    /// The held parent directory.
    pub(super) fn parent(&self) -> BorrowedFd<'_> {
        self.parent.as_fd()
    }

    /// The last component.
    pub(super) fn name(&self) -> &OsString {
        &self.name
    }

    pub(super) fn failed(&self, what: &str, error: Errno) -> Error {
        Error::host(format!("failed to {what} {}", self.quoted()), error.into())
    }

    fn quoted(&self) -> String {
        quoted_path(&self.shown)
    }

    fn is_not(&self, want: &str) -> Error {
        Error::Precondition(format!("{} is not {want}", self.quoted()))
    }

    fn open(&self, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        // A last symlink is refused, even for a mere handle.
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.parent, &self.name, flags, Mode::empty(), resolve)
    }

    fn stat(&self, id: StatxFlags) -> rustix::io::Result<Statx> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID | id;
        rustix::fs::statx(&self.parent, &self.name, flags, wanted)
    }

    fn is_mount(&self, stat: &Statx) -> Result<bool> {
        if stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
            return Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
        }
        // A filesystem that reports no attributes at all: the mount ids still tell.
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let parent = rustix::fs::statx(&self.parent, "", flags, StatxFlags::MNT_ID | UNIQUE_ID)
            .map_err(|error| self.failed("look at the parent of", error))?;
        Ok(parent.stx_mnt_id != stat.stx_mnt_id)
    }

    fn mounted(&self, stat: &Statx) -> Result<Mounted> {
        let unique_id = (stat.stx_mask & UNIQUE_ID.bits() != 0).then_some(stat.stx_mnt_id);
        let (mount_id, read_only) = match unique_id.map(raw::statmount) {
            Some(Ok(facts)) => (facts.id, facts.read_only),
            // No statmount before Linux 6.8, and a strict seccomp filter may refuse it later, too.
            Some(Err(_)) | None => self.facts_in_table()?,
        };
        Ok(Mounted {
            device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            rdev: rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
            mount_id,
            unique_id,
            read_only,
            dead: None,
        })
    }

    /// The id of the mount here, and whether it or its filesystem is read-only.
    fn facts_in_table(&self) -> Result<(u64, bool)> {
        let id = self.stat(StatxFlags::empty()).map_err(|error| self.failed("look at", error))?.stx_mnt_id;
        let mount = super::table()?.into_iter().find(|mount| mount.id == id);
        Ok((id, mount.is_some_and(|mount| mount.read_only || mount.super_read_only)))
    }

    /// What cannot even be looked at is a dead mount if the table says that something is mounted here.
    fn look_in_table(&self, error: Errno) -> Result<Here> {
        let point = std::fs::read_link(fd_path(self.parent.as_fd()))
            .map_err(|error| Error::host(format!("failed to find the parent of {}", self.quoted()), error))?
            .join(&self.name);
        let on_top = super::table()?.into_iter().rfind(|mount| mount.point == point);
        let mount = on_top.ok_or_else(|| self.failed("look at", error))?;
        Ok(Here::Mounted(Mounted {
            device: mount.device,
            inode: 0,
            rdev: 0,
            mount_id: mount.id,
            unique_id: None,
            read_only: mount.read_only || mount.super_read_only,
            dead: Some(error.into()),
        }))
    }

    fn is_empty_directory(&self) -> Result<bool> {
        let failed = |error| self.failed("read the directory", error);
        let directory = self.open(OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC).map_err(failed)?;
        for entry in Dir::new(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The path under which the kernel knows a descriptor of this thread.
pub(super) fn fd_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(OsString::from_vec(format!("/proc/thread-self/fd/{}", fd.as_raw_fd()).into_bytes()))
}

fn open_root(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|error| match error {
        Errno::NOENT | Errno::NOTDIR => {
            Error::Precondition(format!("the directory {} does not exist", quoted_path(path)))
        }
        other => Error::host(format!("failed to open the directory {}", quoted_path(path)), other.into()),
    })
}
