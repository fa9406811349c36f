//! Fences: a directory tree on a disk that failed takes no more changes.
//!
//! Owns: what closes a fence, and the proof that a disk takes changes durably again. Never: opens a closed one: who wants to
//! go on opens the directory anew, and reads again what lies there.
//!
//! After a failed fsync the kernel calls the lost pages clean, so that the next one succeeds and means nothing. What a
//! failed sync of a directory leaves behind a power cut is not known at all. So neither is ever tried again.

use std::ffi::OsStr;
use std::sync::OnceLock;

use rustix::fs::{AtFlags, StatVfsMountFlags};
use rustix::io::Errno;

use super::{Dir, host};
use crate::error::{Error, Result};

/// What a proof makes, and what it calls that then; temporary names, as `is_temporary` knows them.
const PROOF: &str = ".new.proof";
const PROVEN: &str = ".new.proven";

/// Whether a directory, and all that was opened below it, takes changes.
#[derive(Debug, Default)]
pub(super) struct Fence {
    why: OnceLock<String>,
}

impl Fence {
    /// Refuses where it is closed.
    pub(super) fn pass(&self) -> Result<()> {
        match self.why.get() {
            None => Ok(()),
            Some(why) => Err(Error::Unavailable(format!("no more changes are made, since this: {why}"))),
        }
    }

    /// Closes it, unless it is closed already; answers the failure that did it.
    pub(super) fn close(&self, what: String, errno: Errno) -> Error {
        let why = format!("{what}: {errno}");
        if self.why.set(why.clone()).is_ok() {
            tracing::error!(why, "a disk failed; nothing more is changed on it");
        }
        Error::Unavailable(why)
    }
}

impl Dir {
    /// Why nothing is changed any more in this directory and all that was opened below it; `None` as long as all is well.
    pub fn fenced(&self) -> Option<&str> {
        self.fence.why.get().map(String::as_str)
    }

    /// Closes the fence of a directory that is not to be changed.
    pub fn fence_off(&self, why: String) {
        // Closed already is as good.
        let _ = self.fence.why.set(why);
    }

    /// Makes the content of a file of this directory durable, one that cannot be written again under another name.
    ///
    /// # Errors
    /// `Unavailable`: what a power cut would leave is unknown, and the fence is closed.
    pub fn sync_file(&self, file: impl std::os::fd::AsFd, name: impl AsRef<OsStr>) -> Result<()> {
        let what = || format!("failed to make {} durable", self.at(name.as_ref()));
        let synced = rustix::fs::fsync(file);
        if planted!("ignore-fsync-error") {
            return Ok(());
        }
        synced.map_err(|errno| self.fence.close(what(), errno))
    }

    /// What a refused change is to its caller. A disk that is broken closes the fence.
    pub(super) fn refused(&self, verb: &str, name: &OsStr, errno: Errno) -> Error {
        let what = format!("failed to {verb} {}", self.at(name));
        if is_of_a_broken_disk(errno) || (errno == Errno::ROFS && !self.is_mounted_read_only()) {
            self.fence.close(what, errno)
        } else {
            host(what, errno)
        }
    }

    /// Whether somebody mounted it so. A filesystem that gave up after an error refuses to be written without saying it here.
    fn is_mounted_read_only(&self) -> bool {
        let stat = rustix::fs::fstatvfs(&self.fd);
        stat.is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY))
    }

    /// Proves, whatever the fence says, that a new file and a new name in this directory become durable now.
    ///
    /// # Errors
    /// What the disk said.
    pub fn prove(&self) -> Result<()> {
        let failed = |errno| host(format!("failed to write in `{}`", self.path().display()), errno);
        self.clear_proof()?;
        let file = self.create_in_spite(OsStr::new(PROOF))?;
        std::io::Write::write_all(&mut &file, &[1; 4096])
            .map_err(|error| Error::host(format!("failed to write in `{}`", self.path().display()), error))?;
        rustix::fs::fsync(&file).map_err(failed)?;
        rustix::fs::renameat(&self.fd, PROOF, &self.fd, PROVEN).map_err(failed)?;
        let synced = rustix::fs::fsync(&self.fd);
        // A name that stays is removed at the next opening.
        rustix::fs::unlinkat(&self.fd, PROVEN, AtFlags::empty()).map_err(failed)?;
        synced.and_then(|()| rustix::fs::fsync(&self.fd)).map_err(failed)
    }

    /// Removes what a proof left that was cut off. Its names are always the same: to look for others among a hundred thousand
    /// volumes would take too long at every opening.
    ///
    /// # Errors
    /// What the disk said.
    pub fn clear_proof(&self) -> Result<()> {
        for name in [PROOF, PROVEN] {
            match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => {
                    return Err(host(format!("failed to remove {}", self.at(OsStr::new(name))), errno));
                }
            }
        }
        Ok(())
    }
}

/// Whether a system call failed because the disk or what lies on it is broken, not because of what was asked.
fn is_of_a_broken_disk(errno: Errno) -> bool {
    matches!(errno, Errno::IO | Errno::UCLEAN | Errno::BADMSG | Errno::NODEV | Errno::SHUTDOWN)
}
