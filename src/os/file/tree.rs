//! Removal of a tree whose content a tenant chose.
//!
//! It may hold symlinks, fifos, devices, hard links, immutable files and ten thousand levels. So: no recursion, one open
//! directory at a time, every name taken as it is, no entry opened but directories. Going up is by `..`, believed only
//! if it leads to the directory that we came down from; nothing crosses a mount, not even one of the same filesystem.

use std::ffi::{CStr, CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, IFlags, Mode, OFlags, RawDir, ResolveFlags, SeekFrom};
use rustix::io::Errno;

use super::{Dir, Identity, Removal, identity, one_component};
use crate::error::{Error, Result};

/// How often one directory may turn out not to be empty after all before somebody is taken to be filling it.
const PATIENCE: u32 = 64;

/// A directory above the one that is open.
struct Above {
    identity: Identity,
    /// Where to go on reading in it.
    position: u64,
    /// The name in it of the next directory down, and how often that one was visited.
    child: CString,
    visits: u32,
}

/// What one reading of the open directory came to.
enum Pass {
    Emptied,
    Below { child: CString, position: u64 },
}

impl Dir {
    /// Removes an entry and, if it is a directory, everything in it. On return its absence survives a power cut; after
    /// an error a part may be gone, and the same call goes on.
    ///
    /// # Errors
    /// `Precondition` if something is mounted in it: unmount it first. `Unavailable` if somebody is writing in it.
    pub fn remove_tree(&self, name: impl AsRef<OsStr>) -> Result<Removal> {
        let name = one_component(name.as_ref())?;
        self.fence.pass()?;
        let removal = match empty(self, name).and_then(|()| self.drop_name(name)) {
            Ok(()) => Removal::Now,
            Err(Errno::NOENT) => Removal::Already,
            Err(Errno::XDEV | Errno::BUSY) => {
                let at = self.at(name);
                return Err(Error::Precondition(format!(
                    "failed to remove {at}: something is mounted in it"
                )));
            }
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::STALE) => {
                let at = self.at(name);
                return Err(Error::Unavailable(format!("failed to remove {at}: somebody is changing it")));
            }
            Err(e) => return Err(self.refused("remove the tree", name, e)),
        };
        self.sync()?;
        Ok(removal)
    }

    fn drop_name(&self, name: &OsStr) -> rustix::io::Result<()> {
        let name = CString::new(name.as_encoded_bytes()).map_err(|_| Errno::INVAL)?;
        match remove_entry(&self.fd, &name, FileType::Unknown) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Errno::NOTEMPTY),
            Err(e) => Err(e),
        }
    }
}

/// Removes everything below a directory, but not its own name. Anything else than a directory is left as it is.
fn empty(dir: &Dir, name: &OsStr) -> rustix::io::Result<()> {
    let mut open = match descend(&dir.fd, name) {
        Ok(fd) => fd,
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        Err(e) => return Err(e),
    };
    let mut above: Vec<Above> = Vec::new();
    let mut start = 0;
    loop {
        match pass(&open, start)? {
            Pass::Below { child, position } => {
                let identity = identity(&open)?;
                open = descend(&open, &child)?;
                above.push(Above { identity, position, child, visits: 1 });
                start = 0;
            }
            Pass::Emptied => {
                let Some(mut parent) = above.pop() else {
                    return Ok(());
                };
                open = ascend(&open, parent.identity)?;
                if remove_entry(&open, &parent.child, FileType::Directory)? {
                    start = parent.position;
                } else if parent.visits < PATIENCE {
                    parent.visits += 1;
                    open = descend(&open, &parent.child)?;
                    above.push(parent);
                    start = 0;
                } else {
                    return Err(Errno::NOTEMPTY);
                }
            }
        }
    }
}

/// Removes entries from `start` on, until a directory that is not empty, or none is left.
fn pass(open: &OwnedFd, start: u64) -> rustix::io::Result<Pass> {
    let mut buffer = [MaybeUninit::uninit(); 32 * 1024];
    rustix::fs::seek(open, SeekFrom::Start(start))?;
    let mut entries = RawDir::new(open, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if !remove_entry(open, name, entry.file_type())? {
            return Ok(Pass::Below { child: name.to_owned(), position: entry.next_entry_cookie() });
        }
    }
    Ok(Pass::Emptied)
}

/// Removes one entry; false if it is a directory that is not empty. Gone already is as good.
fn remove_entry(parent: &OwnedFd, name: &CStr, kind: FileType) -> rustix::io::Result<bool> {
    let unlink = |flags| match rustix::fs::unlinkat(parent, name, flags) {
        Err(Errno::PERM) => {
            make_mutable(parent, name);
            rustix::fs::unlinkat(parent, name, flags)
        }
        other => other,
    };
    let done = match kind {
        FileType::Directory => unlink(AtFlags::REMOVEDIR),
        FileType::RegularFile
        | FileType::Symlink
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice => unlink(AtFlags::empty()),
        // Some filesystems do not tell, and the tree's own name was not read from a directory.
        FileType::Unknown => match unlink(AtFlags::REMOVEDIR) {
            Err(Errno::NOTDIR) => unlink(AtFlags::empty()),
            other => other,
        },
    };
    match done {
        Ok(()) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(Errno::NOENT) if kind != FileType::Unknown => Ok(true),
        Err(e) => Err(e),
    }
}

/// Takes the immutable and append-only flags off a directory and one regular file or directory in it, if it can.
fn make_mutable(parent: &OwnedFd, name: &CStr) {
    let clear = |fd: &OwnedFd| {
        if let Ok(flags) = rustix::fs::ioctl_getflags(fd) {
            let fixed = IFlags::IMMUTABLE | IFlags::APPEND;
            if flags.intersects(fixed) {
                // Where this fails, the unlink that follows says so.
                let _ = rustix::fs::ioctl_setflags(fd, flags.difference(fixed));
            }
        }
    };
    clear(parent);
    let kind = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode));
    // To open a device or fifo may do things.
    if matches!(kind, FileType::RegularFile | FileType::Directory) {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        if let Ok(fd) = rustix::fs::openat2(parent, name, flags, Mode::empty(), WITHIN) {
            clear(&fd);
        }
    }
}

const WITHIN: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

pub(super) fn descend(parent: &OwnedFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(parent, name, flags, Mode::empty(), WITHIN)
}

fn ascend(from: &OwnedFd, expected: Identity) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let within = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let parent = rustix::fs::openat2(from, c"..", flags, Mode::empty(), within)?;
    // Somebody moved the directory while we were in it: stop, rather than empty a stranger.
    if identity(&parent)? == expected { Ok(parent) } else { Err(Errno::STALE) }
}
