//! Project quota: a limit on what a directory may hold, kept by xfs or ext4 itself.
//!
//! Owns: project ids of directories, limits and usage, always on a held directory of the filesystem. Never: names a
//! device or a path, since what a container calls `/dev/sda` may be nothing, or another disk.
//!
//! The order for a new directory, under a name that nobody can reach yet:
//! 1. [`limit`] for an id that was never used;
//! 2. [`set_project`] on the empty directory, after which all that is made in it inherits the id;
//! 3. `sync`, which makes both durable, then the rename into place.
//!
//! What a project quota cannot stop: the owner of a file may take it out of the project (`chattr -p 0`), unless it runs
//! in a user namespace or may not call the ioctl; and on ext4 a process with CAP_SYS_RESOURCE is not limited at all. It
//! keeps honest programs within their size. Where tenants do not trust each other, use image pools.

use rustix::io::Errno;

use self::wire::DiskQuota;
use super::file::Dir;
use super::fsxattr;
use crate::error::{Error, Result};

mod wire;

const INHERIT: u32 = 0x200;
const ACCOUNTED: u16 = 1 << 4;
const ENFORCED: u16 = 1 << 5;
const XFS: u64 = 0x5846_5342;
const EXT: u64 = 0xef53;

/// Whether directories on a filesystem can be limited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Support {
    /// Limits hold.
    Enforced(Reach),
    /// They do not; why, and what would change it.
    No(String),
}

/// For whom a limit holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// For every process.
    Everyone,
    /// For all but those with CAP_SYS_RESOURCE, that is privileged pods.
    AllButPrivileged,
}

/// What a project holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The bytes in all its files and directories.
    pub bytes: u64,
    /// How many files and directories it has.
    pub inodes: u64,
    /// The most that `bytes` may become; `None` if there is no limit.
    pub limit: Option<u64>,
}

/// Whether the filesystem of this directory enforces project quota now.
pub fn supported(dir: &Dir) -> Result<Support> {
    let failed = |e| host(format!("failed to look at the filesystem of `{}`", dir.path().display()), e);
    let magic = rustix::fs::fstatfs(dir).map_err(failed)?.f_type.cast_unsigned();
    let (name, reach) = match magic {
        XFS => ("xfs", Reach::Everyone),
        EXT => ("ext4", Reach::AllButPrivileged),
        _ => return Ok(Support::No("only xfs and ext4 filesystems have project quota".to_owned())),
    };
    Ok(match wire::state(dir) {
        Ok(state) => judge(state.flags, name, reach),
        Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => Support::No(format!(
            "{name} here has no quota: the running kernel was built without it, or the filesystem is not mounted with prjquota"
        )),
        Err(Errno::SRCH) => Support::No(not_mounted(name)),
        Err(e) => {
            return Err(host(format!("failed to ask for the quota state of `{}`", dir.path().display()), e));
        }
    })
}

fn judge(flags: u16, name: &str, reach: Reach) -> Support {
    let wanted = ACCOUNTED | ENFORCED;
    match flags & wanted {
        both if both == wanted => Support::Enforced(reach),
        ACCOUNTED => {
            Support::No(format!("{name} counts per project but does not limit; mount it with prjquota"))
        }
        _ => Support::No(not_mounted(name)),
    }
}

fn not_mounted(name: &str) -> String {
    let features =
        if name == "ext4" { " (it needs the features quota and project, see tune2fs)" } else { "" };
    format!("{name} is not mounted with prjquota{features}")
}

/// The project of a directory; 0 is no project.
pub fn project(dir: &Dir) -> Result<u32> {
    fsxattr::read(dir)
        .map(|attributes| attributes.project)
        .map_err(|e| refused(dir, "read the project of", e))
}

/// Puts an empty directory into a project, and with it all that will be made in it. Durable after the directory's sync.
pub fn set_project(dir: &Dir, project: u32) -> Result<()> {
    let project = real_project(project)?;
    let mut attributes = fsxattr::read(dir).map_err(|e| refused(dir, "read the project of", e))?;
    attributes.project = project;
    attributes.flags |= INHERIT;
    fsxattr::write(dir, attributes).map_err(|e| refused(dir, "set the project of", e))
}

/// Limits a project to so many bytes, rounded up to whole sectors of 512. Durable after the sync of a directory of the
/// same filesystem.
pub fn limit(dir: &Dir, project: u32, bytes: u64) -> Result<()> {
    if bytes == 0 {
        // To the kernel 0 means no limit: the opposite of what it says.
        return Err(Error::OutOfRange("a project's limit of 0 bytes: it must be at least 1".to_owned()));
    }
    set_sectors(dir, project, bytes.div_ceil(512))
}

/// Takes a project's limit away, when its last file is gone.
pub fn release(dir: &Dir, project: u32) -> Result<()> {
    set_sectors(dir, project, 0)
}

/// What a project holds now, and its limit. A project that nobody ever used holds nothing.
pub fn usage(dir: &Dir, project: u32) -> Result<Usage> {
    let project = real_project(project)?;
    match wire::read_quota(dir, project) {
        Ok(quota) => Ok(Usage::from(&quota)),
        Err(Errno::NOENT) => Ok(Usage::default()),
        Err(e) => Err(refused(dir, "read the quota in", e)),
    }
}

fn set_sectors(dir: &Dir, project: u32, sectors: u64) -> Result<()> {
    let project = real_project(project)?;
    wire::set_quota(dir, DiskQuota::hard_limit(project, sectors))
        .map_err(|e| refused(dir, "set a limit in", e))
}

/// On xfs the limit of project 0 is the default of all others; on ext4 project 0 is everything.
fn real_project(project: u32) -> Result<u32> {
    if project == 0 {
        return Err(Error::OutOfRange("project 0 is no project: it must be at least 1".to_owned()));
    }
    Ok(project)
}

impl From<&DiskQuota> for Usage {
    fn from(quota: &DiskQuota) -> Usage {
        Usage {
            bytes: quota.block_count.saturating_mul(512),
            inodes: quota.inode_count,
            limit: (quota.block_hard_limit != 0).then(|| quota.block_hard_limit.saturating_mul(512)),
        }
    }
}

fn refused(dir: &Dir, verb: &str, errno: Errno) -> Error {
    let what = format!("failed to {verb} `{}`", dir.path().display());
    match errno {
        Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOTTY | Errno::SRCH => {
            Error::Precondition(format!("{what}: project quota is not on ({errno})"))
        }
        other => host(what, other),
    }
}

fn host(what: String, errno: Errno) -> Error {
    Error::host(what, errno.into())
}

#[cfg(test)]
mod tests;
