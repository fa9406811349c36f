//! The durable replace: after it a file is old or new, and never torn.
//!
//! Owns: temporary files and what becomes of them. Never: syncs a file a second time after its fsync failed.
//!
//! 1. a temporary file beside it, O_EXCL, 0600;
//! 2. write;
//! 3. fsync the file;
//! 4. rename over the name;
//! 5. fsync the directory.
//!
//! Repairs:
//! - a crash before 4 leaves a name for which [`is_temporary`](super::is_temporary) holds: it is removed at start, under the lock;
//! - 3 failed: the old file is untouched and what was written is lost; all is written once more to another file, and read
//!   back from the disk; where that fails as well the fence is closed;
//! - 5 failed: a power cut shows old or new; the caller is told `Unavailable`, and the fence is closed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, Write};

use rustix::fs::{Advice, AtFlags};
use rustix::io::Errno;

use super::{Dir, TEMPORARY, host, one_component, random_hex};
use crate::error::{Error, Result};

impl Dir {
    /// Writes a file so that a crash or power cut leaves the old content or the new one, never a mixture, and so that
    /// after `Ok` it is the new one.
    ///
    /// # Errors
    /// `Unavailable` if the disk failed. Was it in the last step, then the name shows the new content, and a power cut may
    /// bring the old back.
    pub fn replace(&self, name: impl AsRef<OsStr>, bytes: &[u8]) -> Result<()> {
        let name = one_component(name.as_ref())?;
        self.fence.pass()?;
        let temporary = self.durable(name, bytes)?;
        step!("replace: synced");
        temporary.rename(name)?;
        step!("replace: renamed");
        if !planted!("drop-directory-fsync") {
            self.sync()?;
        }
        step!("replace: durable");
        Ok(())
    }

    /// As `replace`, for what means nothing after a reboot: the death of this process leaves the old content or the new
    /// one, and nothing waits for the disk.
    pub fn replace_unsynced(&self, name: impl AsRef<OsStr>, bytes: &[u8]) -> Result<()> {
        let name = one_component(name.as_ref())?;
        self.written(name, bytes)?.rename(name)
    }

    /// Whether files can be replaced here: one with a temporary name is made and removed.
    pub fn refuse_unwritable(&self) -> Result<()> {
        Temporary::new(self).map(drop)
    }

    /// Steps 1 to 3.
    fn durable(&self, name: &OsStr, bytes: &[u8]) -> Result<Temporary<'_>> {
        let what = |how: &str| format!("failed to make {} durable{how}", self.at(name));
        let first = self.written(name, bytes)?;
        step!("replace: written");
        if planted!("drop-file-fsync") {
            return Ok(first);
        }
        match rustix::fs::fsync(&first.file) {
            Ok(()) => return Ok(first),
            Err(_) if planted!("ignore-fsync-error") => return Ok(first),
            // Nothing is broken: there was no room for what was written, as a filesystem may find out this late.
            Err(errno @ (Errno::NOSPC | Errno::DQUOT)) => return Err(host(what(""), errno)),
            Err(errno) => {
                tracing::warn!(error = %errno, "{}; it is written once more, to another file", what(""));
            }
        }
        drop(first);
        let mut second = self.written(name, bytes)?;
        rustix::fs::fsync(&second.file)
            .and_then(|()| second.shows(bytes))
            .map_err(|errno| self.fence.close(what(", twice, to two files"), errno))?;
        Ok(second)
    }

    fn written(&self, name: &OsStr, bytes: &[u8]) -> Result<Temporary<'_>> {
        let temporary = Temporary::new(self)?;
        let mut file = &temporary.file;
        file.write_all(bytes).map_err(|e| match Errno::from_io_error(&e) {
            Some(errno) => self.refused("write", name, errno),
            None => Error::host(format!("failed to write {}", self.at(name)), e),
        })?;
        Ok(temporary)
    }
}

/// A file under a temporary name that is removed unless it was renamed.
pub(super) struct Temporary<'a> {
    dir: &'a Dir,
    pub(super) name: OsString,
    pub(super) file: File,
}

impl<'a> Temporary<'a> {
    pub(super) fn new(dir: &'a Dir) -> Result<Self> {
        let name = OsString::from(format!("{TEMPORARY}{}", random_hex::<16>()?));
        let file = dir.create_in_spite(&name)?;
        Ok(Temporary { dir, name, file })
    }

    pub(super) fn rename(mut self, to: &OsStr) -> Result<()> {
        rustix::fs::renameat(&self.dir.fd, &self.name, &self.dir.fd, to)
            .map_err(|e| self.dir.refused("replace", to, e))?;
        self.name.clear();
        Ok(())
    }

    /// Whether the disk has these bytes, read past the cache as far as the kernel lets go of it.
    fn shows(&mut self, bytes: &[u8]) -> rustix::io::Result<()> {
        rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed)?;
        let mut found = Vec::with_capacity(bytes.len());
        let read = self.file.rewind().and_then(|()| self.file.read_to_end(&mut found));
        if read.is_ok() && found == bytes { Ok(()) } else { Err(Errno::IO) }
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            // Nothing more can be done here: what stays is swept at the next start.
            let _ = rustix::fs::unlinkat(&self.dir.fd, &self.name, AtFlags::empty());
        }
    }
}
