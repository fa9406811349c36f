//! Files and directories, reached only through directory handles that are held.
//!
//! Owns: every open, rename and unlink below a pool or state directory, the durable replace, locks, and the removal of
//! trees that a tenant filled. Never: joins a name to a path, follows a symlink, or takes a name of more than one part.
//!
//! How a file is replaced durably is said in `replace`, what a disk that fails leads to in `fence`.

mod commit;
mod data;
mod fence;
mod lock;
mod measure;
mod replace;
mod table;
mod tree;

pub use data::{
    allocate, ask_device, clear_from, extent_count, next_data, program_path, random, random_hex, read_at,
    reflink, reflink_works, set_len, sync, write_at,
};
pub use lock::{Lock, Purpose};
pub use measure::Measured;
pub use table::{Kept, Table};

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use self::commit::Commit;
use self::fence::Fence;
use crate::error::{Error, Result};

const TEMPORARY: &str = ".new.";
/// Most files that are read whole are smaller, in bytes.
const USUAL: usize = 4096;
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// A directory that is held open: it stays the same one whatever happens to its path.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
    commit: Commit,
    /// Shared with all that was opened below it.
    fence: Arc<Fence>,
}

/// What tells one directory or file from every other on this host, as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The device of its filesystem, as in `st_dev`.
    pub device: u64,
    /// The inode number.
    pub inode: u64,
    /// The id of the mount through which it was reached.
    pub mount: u64,
}

/// What may be done with an opened file or an attached device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads only.
    ReadOnly,
    /// Reads and writes.
    ReadWrite,
}

/// Which success a removal was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It was there and is gone.
    Now,
    /// It was not there.
    Already,
}

/// The kind of a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symlink, device, socket or fifo: nothing that Rockpool makes.
    Other,
}

/// What the filesystem knows about one entry.
#[derive(Debug, Clone, Copy)]
pub struct Stat {
    /// The length in bytes.
    pub size: u64,
    /// The bytes that it really occupies, blocks shared with clones included.
    pub allocated: u64,
    /// The device of its filesystem, as in `st_dev` and in the `lo_device` of a loop device.
    pub device: u64,
    /// The inode number.
    pub inode: u64,
    /// What it is.
    pub kind: Kind,
}

/// Whether a name is debris of an interrupted [`Dir::replace`] or probe; remove such files only under the lock.
pub fn is_temporary(name: impl AsRef<OsStr>) -> bool {
    name.as_ref().as_bytes().starts_with(TEMPORARY.as_bytes())
}

impl Dir {
    /// Opens a directory by a path from the configuration. Its last component must not be a symlink.
    pub fn open(path: &Path) -> Result<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|e| host(format!("failed to open directory `{}`", path.display()), e))?;
        Ok(Dir { fd, path: path.to_owned(), commit: Commit::default(), fence: Arc::default() })
    }

    /// Opens a directory whose path comes from the configuration, and makes it and its parents where they are missing.
    pub fn make_path(path: &Path, mode: u32) -> Result<Dir> {
        use std::os::unix::fs::DirBuilderExt;
        let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(path);
        made.map_err(|e| Error::host(format!("failed to make directory `{}`", path.display()), e))?;
        Dir::open(path)
    }

    /// Where it was when it was opened: for messages only, never to reach anything.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a directory directly below; a symlink, or anything else in its place, is an error.
    pub fn sub(&self, name: impl AsRef<OsStr>) -> Result<Dir> {
        let name = one_component(name.as_ref())?;
        let fd = self
            .open_beneath(name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            .map_err(|e| self.failed("open directory", name, e))?;
        let (path, fence) = (self.path.join(name), Arc::clone(&self.fence));
        Ok(Dir { fd, path, commit: Commit::default(), fence })
    }

    /// Opens a directory directly below, making it if it is not there. On return its name survives a power cut.
    pub fn ensure(&self, name: impl AsRef<OsStr>, mode: u32) -> Result<Dir> {
        let name = one_component(name.as_ref())?;
        match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(self.failed("make directory", name, e)),
        }
        // Also when it was there: whoever made it may have died before this line.
        self.sync()?;
        self.sub(name)
    }

    /// Device, inode and mount of the directory that is held.
    pub fn identity(&self) -> Result<Identity> {
        identity(&self.fd).map_err(|e| host(format!("failed to look at `{}`", self.path.display()), e))
    }

    /// Reads a whole file of at most `limit` bytes; `None` if there is no such name.
    pub fn read(&self, name: impl AsRef<OsStr>, limit: usize) -> Result<Option<Vec<u8>>> {
        let name = one_component(name.as_ref())?;
        let Some(file) = self.open_file(name, Access::ReadOnly)? else {
            return Ok(None);
        };
        // Room for what is usual in one read: an empty vector would begin with 32 bytes and double.
        let mut bytes = Vec::with_capacity(limit.min(USUAL));
        let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        file.take(most)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::host(format!("failed to read {}", self.at(name)), e))?;
        if bytes.len() > limit {
            return Err(Error::Corrupt(format!("{} is larger than {limit} bytes", self.at(name))));
        }
        Ok(Some(bytes))
    }

    /// Removes what `replace_unsynced` wrote; absent is `Ok`.
    pub fn remove_unsynced(&self, name: impl AsRef<OsStr>) -> Result<()> {
        let name = one_component(name.as_ref())?;
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(self.failed("remove", name, e)),
        }
    }

    /// Removes a file; on return its absence survives a power cut.
    pub fn remove(&self, name: impl AsRef<OsStr>) -> Result<Removal> {
        self.unlink(name.as_ref(), AtFlags::empty(), "remove")
    }

    /// Removes an empty directory; on return its absence survives a power cut.
    pub fn remove_dir(&self, name: impl AsRef<OsStr>) -> Result<Removal> {
        self.unlink(name.as_ref(), AtFlags::REMOVEDIR, "remove directory")
    }

    /// Every name in the directory, in no order, debris included.
    pub fn names(&self) -> Result<Vec<OsString>> {
        let failed = |e| host(format!("failed to list `{}`", self.path.display()), e);
        // A handle of its own: the position in a directory belongs to the open file, and listings run in parallel.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, ".", flags, Mode::empty()).map_err(failed)?;
        let mut buffer = vec![MaybeUninit::uninit(); 64 * 1024];
        let mut entries = rustix::fs::RawDir::new(fd, &mut buffer);
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let name = entry.map_err(failed)?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(std::os::unix::ffi::OsStringExt::from_vec(name));
            }
        }
        Ok(names)
    }

    /// Makes a new file, mode 0600, for reading and writing; a name that is taken is an error. Its name is not durable
    /// until [`Dir::sync`] or [`Dir::rename_into`].
    pub fn create(&self, name: impl AsRef<OsStr>) -> Result<File> {
        self.fence.pass()?;
        self.create_in_spite(one_component(name.as_ref())?)
    }

    /// As `create`, whatever the fence says.
    fn create_in_spite(&self, name: &OsStr) -> Result<File> {
        self.open_beneath(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, PRIVATE)
            .map(File::from)
            .map_err(|e| self.refused("create", name, e))
    }

    /// Opens a regular file; `None` if there is no such name.
    ///
    /// # Errors
    /// `Corrupt` if the name holds something else.
    pub fn open_file(&self, name: impl AsRef<OsStr>, access: Access) -> Result<Option<File>> {
        let name = one_component(name.as_ref())?;
        let mode = match access {
            Access::ReadOnly => OFlags::RDONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        // Without NONBLOCK a planted fifo would hold the caller for ever.
        let fd = match self.open_beneath(name, mode | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => return Err(self.not_a_file(name)),
            // Mounted so by somebody, or given up after an error: that is told apart.
            Err(Errno::ROFS) => return Err(self.refused("open", name, Errno::ROFS)),
            Err(e) => return Err(self.failed("open", name, e)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|e| self.failed("look at", name, e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(self.not_a_file(name));
        }
        rustix::fs::fcntl_setfl(&fd, mode).map_err(|e| self.failed("open", name, e))?;
        Ok(Some(File::from(fd)))
    }

    /// Moves an entry to another directory of the same filesystem, or to another name; a name that is taken is an error.
    /// On return the move survives a power cut.
    pub fn rename_into(&self, name: impl AsRef<OsStr>, to: &Dir, new_name: impl AsRef<OsStr>) -> Result<()> {
        let name = one_component(name.as_ref())?;
        let new_name = one_component(new_name.as_ref())?;
        self.fence.pass()?;
        rustix::fs::renameat_with(&self.fd, name, &to.fd, new_name, RenameFlags::NOREPLACE)
            .map_err(|e| self.refused(&format!("move to {}", to.at(new_name)), name, e))?;
        step!("move: renamed");
        // The new name first: a power cut between the two then shows both names, never none.
        to.sync()?;
        step!("move: target durable");
        if self.identity()? != to.identity()? {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes a directory with exactly this mode; a name that is taken is an error. Its name is not durable until
    /// [`Dir::sync`] or [`Dir::rename_into`].
    pub fn make_dir(&self, name: impl AsRef<OsStr>, mode: u32) -> Result<Dir> {
        let name = one_component(name.as_ref())?;
        self.fence.pass()?;
        rustix::fs::mkdirat(&self.fd, name, Mode::RWXU)
            .map_err(|e| self.refused("make directory", name, e))?;
        let made = self.sub(name)?;
        // The umask has no say here.
        rustix::fs::fchmod(&made.fd, Mode::from_raw_mode(mode))
            .map_err(|e| self.failed("set the mode of", name, e))?;
        Ok(made)
    }

    /// Size, kind and identity of an entry, without following it; `None` if there is no such name.
    pub fn stat(&self, name: impl AsRef<OsStr>) -> Result<Option<Stat>> {
        let name = one_component(name.as_ref())?;
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        match rustix::fs::statx(&self.fd, name, flags, StatxFlags::BASIC_STATS) {
            Ok(stat) => Ok(Some(Stat::from(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(self.failed("look at", name, e)),
        }
    }

    /// Makes every change of names in this directory durable. Who waits at the same time shares one fsync.
    ///
    /// # Errors
    /// `Unavailable`: which names a power cut would leave is unknown, and the fence is closed.
    pub fn sync(&self) -> Result<()> {
        // Once it failed, success would mean nothing: neither to who comes later, nor to who waited meanwhile.
        self.fence.pass()?;
        let close = |errno| {
            self.fence.close(format!("failed to make the names in `{}` durable", self.path.display()), errno)
        };
        let sync = || {
            if self.fenced().is_some() {
                return Err(Errno::IO);
            }
            if planted!("ignore-fsync-error") {
                return rustix::fs::fsync(&self.fd).or(Ok(()));
            }
            if planted!("descriptors-kept") {
                std::mem::forget(self.fd.try_clone());
            }
            rustix::fs::fsync(&self.fd).inspect_err(|errno| drop(close(*errno)))
        };
        self.commit.run(sync).map_err(close)
    }

    fn open_beneath(&self, name: &OsStr, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.fd, name, flags | OFlags::CLOEXEC, mode, within)
    }

    fn unlink(&self, name: &OsStr, flags: AtFlags, verb: &str) -> Result<Removal> {
        let name = one_component(name)?;
        self.fence.pass()?;
        let removal = match rustix::fs::unlinkat(&self.fd, name, flags) {
            Ok(()) => Removal::Now,
            Err(Errno::NOENT) => Removal::Already,
            Err(e) => return Err(self.refused(verb, name, e)),
        };
        step!("unlink: gone");
        // Also when it was gone: the call that removed it may have failed at this line.
        self.sync()?;
        step!("unlink: durable");
        Ok(removal)
    }

    fn at(&self, name: &OsStr) -> String {
        format!("`{}`", self.path.join(name).display())
    }

    fn failed(&self, verb: &str, name: &OsStr, errno: Errno) -> Error {
        host(format!("failed to {verb} {}", self.at(name)), errno)
    }

    fn not_a_file(&self, name: &OsStr) -> Error {
        Error::Corrupt(format!("{} is not a regular file", self.at(name)))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<&rustix::fs::Statx> for Stat {
    fn from(stat: &rustix::fs::Statx) -> Stat {
        let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => Kind::Other,
        };
        Stat {
            size: stat.stx_size,
            allocated: stat.stx_blocks.saturating_mul(512),
            device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            kind,
        }
    }
}

/// Size, kind and identity of an open file.
pub fn stat(file: impl AsFd) -> Result<Stat> {
    rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
        .map(|stat| Stat::from(&stat))
        .map_err(|e| host("failed to look at an open file", e))
}

fn identity(fd: impl AsFd) -> rustix::io::Result<Identity> {
    identity_of(fd, Path::new(""), AtFlags::EMPTY_PATH)
}

fn identity_of(fd: impl AsFd, path: &Path, flags: AtFlags) -> rustix::io::Result<Identity> {
    let mask = StatxFlags::INO | StatxFlags::MNT_ID;
    let stat = rustix::fs::statx(fd, path, flags, mask)?;
    Ok(Identity {
        device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        mount: stat.stx_mnt_id,
    })
}

/// Device, inode and mount of what a path from the configuration shows now; of a symlink its own.
pub fn identity_at(path: &Path) -> Result<Identity> {
    identity_of(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| host(format!("failed to look at `{}`", path.display()), e))
}

fn host(what: impl Into<String>, errno: Errno) -> Error {
    Error::host(what, errno.into())
}

fn one_component(name: &OsStr) -> Result<&OsStr> {
    let bytes = name.as_bytes();
    let forbidden = matches!(bytes, b"" | b"." | b"..") || bytes.iter().any(|b| matches!(b, b'/' | 0));
    if forbidden || bytes.len() > 255 {
        let shown = crate::error::quoted(&name.to_string_lossy());
        return Err(Error::Invalid(format!("{shown} is not a single file name of 1 to 255 bytes")));
    }
    Ok(name)
}

/// A configured path without symlinks; as it is where it leads nowhere.
pub fn real_path(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests;
