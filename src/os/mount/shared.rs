//! Propagation: what is mounted below a directory must reach the namespaces of the workloads.
//!
//! Owns: telling whether it does and, for a directory of ours, making it so. Never: changes a mount that it did not make
//! unless the directory is that mount's own root.

use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};

use super::{Place, Tree};
use crate::error::{Error, Result, quoted_path};

/// Whether mounts made below `dir` propagate.
///
/// # Errors
/// Those of a look at it.
pub fn is_shared(dir: &Path) -> Result<bool> {
    Ok(holder(dir)?.shared)
}

/// Makes mounts below `dir` propagate. True: the directory was bound on itself for that, and [`super::unmount_path`]
/// takes that back; false: nothing was mounted.
pub fn ensure_shared(dir: &Path) -> Result<bool> {
    let holder = holder(dir)?;
    if holder.shared {
        return Ok(false);
    }
    if holder.is_root {
        set_shared(dir)?;
        return Ok(false);
    }
    if let Some(hidden) = mounted_below(dir)? {
        return Err(Error::Precondition(format!(
            "mounts below {} do not propagate, and binding it on itself would hide {}: make the mount that \
             holds it shared (mount --make-shared)",
            quoted_path(dir),
            quoted_path(&hidden)
        )));
    }
    let tree = Tree::clone_of_path(&resolved(dir)?)?;
    tree.share()?;
    tree.attach(&Place::trusted(&resolved(dir)?)?)?;
    Ok(true)
}

struct Holder {
    shared: bool,
    is_root: bool,
}

fn holder(dir: &Path) -> Result<Holder> {
    let failed = |error: rustix::io::Errno| {
        Error::host(format!("failed to look at {}", quoted_path(dir)), error.into())
    };
    let stat = rustix::fs::statx(CWD, dir, AtFlags::STATX_DONT_SYNC, StatxFlags::MNT_ID).map_err(failed)?;
    let mount = super::table()?.into_iter().find(|mount| mount.id == stat.stx_mnt_id);
    let mount = mount.ok_or_else(|| failed(rustix::io::Errno::NOENT))?;
    Ok(Holder { shared: mount.shared, is_root: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) })
}

fn set_shared(dir: &Path) -> Result<()> {
    rustix::mount::mount_change(dir, rustix::mount::MountPropagationFlags::SHARED).map_err(|error| {
        Error::host(format!("failed to make {} a shared mount", quoted_path(dir)), error.into())
    })
}

fn mounted_below(dir: &Path) -> Result<Option<std::path::PathBuf>> {
    let dir = resolved(dir)?;
    Ok(super::table()?
        .into_iter()
        .map(|mount| mount.point)
        .find(|point| *point != dir && point.starts_with(&dir)))
}

fn resolved(dir: &Path) -> Result<std::path::PathBuf> {
    dir.canonicalize().map_err(|error| Error::host(format!("failed to resolve {}", quoted_path(dir)), error))
}
