//! The filesystem with one file that is the disk.
//!
//! Owns: what the kernel asks and is told. Never: waits, or decides how a call is taken; that is `state`.

use std::ffi::OsStr;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};

use super::state::{Asked, State, done};

/// The name of the one file.
pub(super) const NAME: &str = "disk";
/// Its name until a pool in it is made.
const UNREADY: &str = ".disk.new";
const FILE: INodeNo = INodeNo(2);
/// Nothing is remembered by the kernel.
const NOW: Duration = Duration::ZERO;
/// The longest write in one piece.
const MOST: u32 = 1 << 20;
/// How many calls the kernel may have open at once.
const OPEN: u16 = 128;
/// What the filesystem seems to hold, in blocks of 4096 bytes.
const BLOCKS: u64 = (64 << 30) / 4096;

impl State {
    fn attributes(&self, inode: INodeNo) -> io::Result<FileAttr> {
        let file = inode == FILE;
        let (size, taken) = if file { self.medium.size()? } else { (0, 0) };
        Ok(FileAttr {
            ino: inode,
            size,
            blocks: taken / 512,
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind: if file { FileType::RegularFile } else { FileType::Directory },
            perm: if file { 0o600 } else { 0o700 },
            nlink: if file { 1 } else { 2 },
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn is_file(&self, parent: INodeNo, name: &OsStr) -> bool {
        parent == INodeNo::ROOT && self.name.is_some_and(|own| name == own)
    }
}

/// A name that the one file may have.
fn known(parent: INodeNo, name: &OsStr) -> Option<&'static str> {
    [NAME, UNREADY].into_iter().find(|known| parent == INodeNo::ROOT && name == *known)
}

/// How it is mounted.
pub(super) fn config() -> Config {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("disk".to_owned()), MountOption::NoExec];
    config
}

/// Past the page cache, and several at once.
fn opened() -> FopenFlags {
    FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
}

/// What the kernel talks to.
pub(super) struct Server(Arc<Mutex<State>>);

impl Server {
    pub(super) fn new(state: Arc<Mutex<State>>) -> Server {
        Server(state)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attributes(&self, inode: INodeNo, reply: ReplyAttr) {
        match self.state().attributes(inode) {
            Ok(attributes) => reply.attr(&NOW, &attributes),
            Err(error) => reply.error(error.into()),
        }
    }
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let refused = |_| io::Error::from(io::ErrorKind::Unsupported);
        // A read or write that hangs must not keep the loop device's own thread.
        config.add_capabilities(InitFlags::FUSE_ASYNC_DIO).map_err(refused)?;
        config.set_max_write(MOST).map_err(|_| io::Error::from(io::ErrorKind::Unsupported))?;
        config.set_max_background(OPEN).map(drop).map_err(|_| io::Error::from(io::ErrorKind::Unsupported))
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.state();
        match state.attributes(FILE) {
            Ok(attributes) if state.is_file(parent, name) => reply.entry(&NOW, &attributes, Generation(0)),
            Ok(_) => reply.error(Errno::ENOENT),
            Err(error) => reply.error(error.into()),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.attributes(inode, reply);
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match size.filter(|_| inode == FILE).map(|size| self.state().medium.resize(size)) {
            Some(Err(error)) => reply.error(error.into()),
            Some(Ok(())) | None => self.attributes(inode, reply),
        }
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        let mut state = self.state();
        match known(parent, name) {
            Some(known) if state.name.is_none_or(|own| own == known) => state.name = Some(known),
            Some(_) | None => return reply.error(Errno::EPERM),
        }
        match state.attributes(FILE) {
            Ok(attributes) => {
                reply.created(&NOW, &attributes, Generation(0), FileHandle(state.generation), opened());
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = self.state();
        if !state.is_file(parent, name) {
            return reply.error(Errno::ENOENT);
        }
        state.name = None;
        done(state.medium.resize(0), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut state = self.state();
        match known(to, new_name) {
            Some(known) if state.is_file(parent, name) => {
                state.name = Some(known);
                reply.ok();
            }
            Some(_) | None => reply.error(Errno::EPERM),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(self.state().generation), opened());
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        at: u64,
        length: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let length = usize::try_from(length).unwrap_or(0);
        self.state().take(handle.0, Asked::Read { at, length, reply });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        at: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.state().take(handle.0, Asked::Write { at, bytes: bytes.to_vec(), reply });
    }

    /// Every mode of it that a loop device knows makes zeros: discards, and zeros with or without room for them.
    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        at: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode == 0 {
            // Plain allocation: there is room, and nothing to zero.
            return reply.error(Errno::EOPNOTSUPP);
        }
        self.state().take(handle.0, Asked::Zero { at, length, reply });
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        self.state().take(handle.0, Asked::Flush { reply });
    }

    /// The end of an open file, which says nothing about the disk.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let there = self.state().name.map(|name| (FILE, FileType::RegularFile, name));
        let own = [(INodeNo::ROOT, FileType::Directory, "."), (INodeNo::ROOT, FileType::Directory, "..")];
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (number, (inode, kind, name)) in own.into_iter().chain(there).enumerate().skip(from) {
            if reply.add(inode, u64::try_from(number + 1).unwrap_or(0), kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let taken = self.state().medium.size().map_or(0, |(_, taken)| taken / 4096);
        let free = BLOCKS.saturating_sub(taken);
        reply.statfs(BLOCKS, free, free, 16, 8, 4096, 255, 4096);
    }
}
