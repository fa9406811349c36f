//! Pools that Rockpool mounts itself: those in a file and those on a block device.
//!
//! Owns: the loop device of a pool's file, the mount at the pool's path, and the directory it is mounted on. Never:
//! formats, mounts over something, or unmounts what it would not have mounted.
//!
//! Mount                                              Repair
//!  1. lock the parent directory                       A. the kernel lets go with the process
//!  2. look at the path: mounted already?              B. by the file or device of the setup: used; else refused
//!  3. an empty directory, below a shared mount        C. used again
//!  4. lock that directory instead, look once more     D. as A; one that hangs with its disk keeps no other pool waiting
//!  5. the loop device there is, or a new one          E. autoclear: it goes with the process, or with the mount
//!  6. mount                                           F. shown by step 2

use std::ffi::OsString;
use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::home::Marker;
use super::{Kind, Quota, Setup};
use crate::error::{Error, Result};
use crate::os::file::{self, Access, Dir, Stat};
use crate::os::loopdev::{self, Discard, Lifetime, Loop};
use crate::os::mount::{self, Here, MountOption, Place, Tree};

const FILESYSTEM: &str = "xfs";
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// What a pool's filesystem lies on.
enum Ground {
    /// A file of another filesystem.
    File(File, Stat),
    /// A block device of this number.
    Device(PathBuf, u64),
}

/// A device to mount from, held until the mount holds it.
struct Source {
    path: PathBuf,
    _held: Option<File>,
}

/// Mounts a pool in a file or on a device at its path, unless it is mounted there. A pool that is a directory of a
/// filesystem that others mount is left alone.
///
/// # Errors
/// `Unavailable` where the file or device is missing, `Precondition` where something else is at the path.
pub(super) fn ensure(setup: &Setup) -> Result<()> {
    let Some(ground) = Ground::of(setup)? else {
        return Ok(());
    };
    let (parent, _) = parent_and_name(&setup.path)?;
    DirBuilder::new().recursive(true).mode(0o700).create(&parent).map_err(|error| {
        Error::host(format!("failed to make the directory `{}`", parent.display()), error)
    })?;
    let lock = locked(&parent)?;
    if is_mounted(setup, &ground, &Place::trusted(&setup.path)?)? {
        return Ok(());
    }
    mount::ensure_shared(&parent)?;
    // Found anew: the parent may just have been bound on itself.
    let place = Place::trusted(&setup.path)?;
    place.make_directory(0o700)?;
    drop(lock);
    // Two processes that start at once must not stack two mounts.
    let _lock = locked(&setup.path)?;
    if is_mounted(setup, &ground, &place)? {
        return Ok(());
    }
    let source = ground.attach()?;
    Tree::filesystem(FILESYSTEM, &source.path, &options(setup)?)
        .map_err(|error| explained(setup, error))?
        .attach(&place)
}

/// Whether the pool is mounted; what is there instead must be nothing, or an empty directory.
fn is_mounted(setup: &Setup, ground: &Ground, place: &Place) -> Result<bool> {
    match place.look()? {
        Here::Mounted(there) if ground.is_at(there.device)? => Ok(true),
        Here::Mounted(_) => Err(refused(setup, "something else is mounted there")),
        Here::Nothing | Here::Directory { empty: true } => Ok(false),
        Here::Directory { empty: false } => {
            Err(refused(setup, "it is not mounted, and the directory there is not empty"))
        }
        Here::File { .. } | Here::Other => Err(refused(setup, "that is no directory")),
    }
}

/// Unmounts a pool in a file or on a device, and removes what only its mount needed.
///
/// # Errors
/// `Busy` where it is in use; `Invalid` for a pool that Rockpool does not mount.
pub fn unmount(setup: &Setup) -> Result<()> {
    if setup.file.is_none() && setup.device.is_none() {
        return Err(Error::Invalid(format!(
            "pool `{}` is the directory `{}` of a filesystem that Rockpool did not mount; unmount that yourself",
            setup.name,
            setup.path.display()
        )));
    }
    let (parent, _) = parent_and_name(&setup.path)?;
    if !parent.exists() {
        return Ok(());
    }
    let lock = locked(&parent)?;
    let place = Place::trusted(&setup.path)?;
    if let (Here::Mounted(there), Ok(Some(ground))) = (place.look()?, Ground::of(setup))
        && !ground.is_at(there.device)?
    {
        return Err(refused(setup, "something else is mounted there"));
    }
    place.unmount_all()?;
    place.remove()?;
    // Both hold the parent, which would keep its own mount busy.
    drop(place);
    drop(lock);
    unshare(&parent)
}

/// The file of a sparse pool, whose filesystem must have the room; none where the pool was copied to a real device.
pub(super) fn host_file(setup: &Setup, marker: &Marker, root: &Dir) -> Result<Option<File>> {
    let Some(below) = Loop::from_device(root.identity()?.device) else {
        return Ok(None);
    };
    let hint = setup.file.as_ref().or(marker.file.as_ref());
    let ground = hint.map(|path| open_file(setup, path)).transpose()?;
    match ground {
        Some((file, stat)) if below.backs(stat.device, stat.inode)? => Ok(Some(file)),
        Some(_) | None => Err(Error::Precondition(format!(
            "pool `{}` lies in a sparse file, and which one is not known: set `file` to the one behind {}",
            setup.name,
            below.path().display()
        ))),
    }
}

/// A path's parent, with symlinks resolved, and its last component.
pub(super) fn parent_and_name(path: &Path) -> Result<(PathBuf, OsString)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::Invalid(format!("`{}` is not a path below a directory", path.display())));
    };
    let parent = match parent.canonicalize() {
        Ok(parent) => parent,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => parent.to_owned(),
        Err(error) => return Err(Error::host(format!("failed to resolve `{}`", parent.display()), error)),
    };
    Ok((parent, name.to_owned()))
}

impl Ground {
    fn of(setup: &Setup) -> Result<Option<Ground>> {
        match (&setup.file, &setup.device) {
            (None, None) => Ok(None),
            (Some(path), None) => open_file(setup, path).map(|(file, stat)| Some(Ground::File(file, stat))),
            (None, Some(path)) => match std::fs::metadata(path) {
                Ok(found) if found.file_type().is_block_device() => {
                    Ok(Some(Ground::Device(path.clone(), found.rdev())))
                }
                Ok(_) => Err(away(setup, path, "is not a block device")),
                Err(error) => Err(away(setup, path, &error.to_string())),
            },
            (Some(_), Some(_)) => Err(Error::Invalid(format!(
                "pool `{}` has both `file` and `device`; a pool lies in one of them",
                setup.name
            ))),
        }
    }

    /// Whether a filesystem with this device number is the one on this ground.
    fn is_at(&self, device: u64) -> Result<bool> {
        match self {
            Ground::Device(_, number) => Ok(*number == device),
            Ground::File(_, stat) => {
                Loop::from_device(device).map_or(Ok(false), |there| there.backs(stat.device, stat.inode))
            }
        }
    }

    fn attach(&self) -> Result<Source> {
        let (file, stat) = match self {
            Ground::Device(path, _) => return Ok(Source { path: path.clone(), _held: None }),
            Ground::File(file, stat) => (file, stat),
        };
        for found in loopdev::find(stat.device, stat.inode)? {
            if found.offset == 0 && found.access == Access::ReadWrite {
                let held = found.device.open(Access::ReadOnly)?;
                // It may have gone between being found and being held.
                if found.device.backs(stat.device, stat.inode)? {
                    return Ok(Source { path: found.device.path(), _held: Some(held) });
                }
            }
        }
        // A trim must not give back what the pool was promised when it was made.
        let discard = if stat.allocated < stat.size { Discard::Allow } else { Discard::Forbid };
        let want = loopdev::Attach { access: Access::ReadWrite, lifetime: Lifetime::Autoclear, discard };
        let attached = loopdev::attach(file, want)?;
        let held = attached.device.open(Access::ReadOnly)?;
        Ok(Source { path: attached.device.path(), _held: Some(held) })
    }
}

fn open_file(setup: &Setup, path: &Path) -> Result<(File, Stat)> {
    let (parent, name) = parent_and_name(path)?;
    let parent = Dir::open(&parent).map_err(|error| away(setup, path, &crate::error::chain(&error)))?;
    let file =
        parent.open_file(&name, Access::ReadWrite)?.ok_or_else(|| away(setup, path, "is not there"))?;
    let stat = file::stat(&file)?;
    Ok((file, stat))
}

fn options(setup: &Setup) -> Result<Vec<MountOption>> {
    match setup.kind {
        // Nothing in it is a program or is ever opened by name but by Rockpool.
        Kind::Image | Kind::Sim => Ok(vec![MountOption::no_exec()]),
        Kind::Directory if setup.quota == Quota::Project => Ok(vec![MountOption::project_quota()]),
        Kind::Directory => Ok(Vec::new()),
    }
}

fn explained(setup: &Setup, error: Error) -> Error {
    if setup.kind == Kind::Directory && setup.quota == Quota::Project && matches!(error, Error::Host { .. }) {
        return Error::Unsupported(format!(
            "pool `{}`: {}; does this kernel have project quota for {FILESYSTEM}? without it choose quota `none`",
            setup.name,
            crate::error::chain(&error)
        ));
    }
    error
}

/// Takes back the bind that `ensure_shared` made, when nothing is mounted below it any more.
fn unshare(parent: &Path) -> Result<()> {
    let table = mount::table()?;
    if table.iter().any(|mount| mount.point != parent && mount.point.starts_with(parent)) {
        return Ok(());
    }
    let Some(on_top) = table.iter().rfind(|mount| mount.point == parent) else {
        return Ok(());
    };
    // Bound on itself: the same directory, of the filesystem that holds it anyway.
    let below = table.iter().find(|mount| mount.id == on_top.parent);
    let itself = below.is_some_and(|below| {
        let within = parent.strip_prefix(&below.point).map(|rest| below.root.join(rest));
        below.device == on_top.device && within.is_ok_and(|within| within == on_top.root)
    });
    if !itself {
        return Ok(());
    }
    match mount::unmount_path(parent) {
        // Somebody works in it; the bind harms nobody.
        Ok(_) | Err(Error::Busy(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn locked(parent: &Path) -> Result<File> {
    let failed = |error| Error::host(format!("failed to lock `{}`", parent.display()), error);
    let dir = File::open(parent).map_err(failed)?;
    let started = Instant::now();
    loop {
        match dir.try_lock() {
            Ok(()) => return Ok(dir),
            Err(TryLockError::WouldBlock) if started.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Unavailable(format!(
                    "another process has been mounting or unmounting a pool in `{}` for {} s",
                    parent.display(),
                    PATIENCE.as_secs()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
}

fn refused(setup: &Setup, why: &str) -> Error {
    Error::Precondition(format!("pool `{}` belongs at `{}`: {why}", setup.name, setup.path.display()))
}

fn away(setup: &Setup, path: &Path, why: &str) -> Error {
    Error::Unavailable(format!("pool `{}` is away: `{}` {why}", setup.name, path.display()))
}

#[cfg(test)]
mod tests;
