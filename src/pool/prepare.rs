//! `pool init`: a place that is provably empty becomes a pool. And `pool unmount`, its way back.
//!
//! Owns: the refusal of everything that is not empty, and the undoing of its own steps. Never: formats a device or file
//! in which anything was found, removes what it did not make, or overwrites.
//!
//! In a file                                          On a failure
//!  1. a new file, its space taken unless sparse,      removed
//!     named `.NAME.new`: who has its own name in a
//!     pool file must not find half a pool
//!  2. mkfs                                            -
//!  3. loop device, mount, the four directories        unmounted, its mount point removed
//!  4. the marker: now it is a pool                    -
//!  5. its own name                                    -
//!
//! On a device steps 2 to 4 are the same; after a failure its fresh and empty filesystem stays. In a directory it is
//! step 4 alone. A crash leaves the same without the undoing: the next attempt says what it found.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::home::{LOST_AND_FOUND, MARKER, Marker, free_at};
use super::{Kind, Quota, Setup, check_name, mounted};
use crate::error::{Error, Result, quoted};
use crate::model::{Bytes, FsUuid, PoolId, UNIT};
use crate::os::file::{self, Dir};
use crate::os::fs::{self, Emptiness};
use crate::os::quota;

pub use super::mounted::unmount;

/// Where pools that Rockpool mounts itself appear unless the operator says otherwise.
pub const MOUNT_PARENT: &str = "/var/lib/rockpool/pools";
/// The smallest filesystem that mkfs.xfs makes.
pub const SMALLEST: Bytes = Bytes::MIB.times(300);

/// What an operator wants a pool to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Where it is to lie.
    pub place: Place,
    /// Whether a directory pool must be able to enforce sizes.
    pub quota: Quota,
    /// Below which directory a pool on a device or in a file is mounted.
    pub mount_parent: PathBuf,
}

/// Where a pool lies.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// On a block device of its own.
    Device(PathBuf),
    /// In a directory of a filesystem that is mounted.
    Directory(PathBuf),
    /// In a file that is made for it.
    File {
        /// The file, which must not exist.
        path: PathBuf,
        /// How large it becomes.
        size: Bytes,
        /// Whether it takes its space only when it is written; the pool then promises no more than its host has free.
        sparse: bool,
    },
}

/// Makes the pool and leaves it mounted; answers what belongs into the configuration.
///
/// # Errors
/// `Invalid` and `OutOfRange` name the flag; `Precondition` says what was found where nothing should be.
pub fn prepare(request: &Request) -> Result<Setup> {
    check_name(&request.name).map_err(|want| Error::invalid("pool name", &request.name, want))?;
    if request.kind == Kind::Sim {
        return Err(Error::invalid("--kind", "sim", "a pool in memory needs no preparation"));
    }
    let id = PoolId::new(file::random()?);
    match &request.place {
        Place::Directory(path) => in_directory(request, id, path),
        Place::Device(path) => on_device(request, id, path),
        Place::File { path, size, sparse } => {
            let size = size.round_down(UNIT);
            if size < SMALLEST {
                return Err(Error::OutOfRange(format!(
                    "--size {} ({size}): a pool needs {SMALLEST} at least",
                    size.get()
                )));
            }
            in_file(request, id, &NewFile { path, size, sparse: *sparse })
        }
    }
}

/// A file that is to become a pool.
struct NewFile<'a> {
    path: &'a Path,
    size: Bytes,
    sparse: bool,
}

fn in_directory(request: &Request, id: PoolId, path: &Path) -> Result<Setup> {
    absolute("--directory", path)?;
    let root = Dir::open(path).map_err(|error| {
        let why = crate::error::chain(&error);
        Error::Precondition(format!("--directory {}: {why}", quoted(&path.to_string_lossy())))
    })?;
    refuse_used_directory(&root)?;
    if request.kind == Kind::Directory && request.quota == Quota::Project {
        enforceable(&root)?;
    }
    let made = Marker::new(id, request.kind).write(&root);
    made.inspect_err(|_| unmake(&root))?;
    Ok(setup(request, path.to_owned()))
}

fn on_device(request: &Request, id: PoolId, path: &Path) -> Result<Setup> {
    absolute("--device", path)?;
    let shown = quoted(&path.to_string_lossy());
    let is_block = std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device());
    if !is_block {
        return Err(Error::Invalid(format!("--device {shown}: want an existing block device")));
    }
    let failed = |error| Error::host(format!("failed to open {shown}"), error);
    let mut device = std::fs::OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
    let size = std::io::Seek::seek(&mut device, std::io::SeekFrom::End(0)).map_err(failed)?;
    if Bytes::new(size) < SMALLEST {
        return Err(Error::OutOfRange(format!(
            "--device {shown}: it has {}, a pool needs {SMALLEST} at least",
            Bytes::new(size)
        )));
    }
    refuse_used_bytes(&device, size, &format!("--device {shown}"))?;
    drop(device);
    fs::make_pool_filesystem(path, &uuid()?.to_string(), Some(&id.to_string()))?;
    let setup = Setup { device: Some(path.to_owned()), ..mounted_setup(request, id) };
    let marker = Marker { device: Some(path.to_owned()), ..Marker::new(id, request.kind) };
    begin(&setup, &marker)?;
    Ok(setup)
}

fn in_file(request: &Request, id: PoolId, new: &NewFile<'_>) -> Result<Setup> {
    absolute("--file", new.path)?;
    let shown = quoted(&new.path.to_string_lossy());
    let (parent, name) = mounted::parent_and_name(new.path)?;
    let parent = Dir::open(&parent).map_err(|error| {
        let why = crate::error::chain(&error);
        Error::Precondition(format!("--file {shown}: {why}"))
    })?;
    refuse_existing_file(&parent, &name, &shown)?;
    let free = free_at(parent.path())?;
    if !new.sparse && free < new.size {
        return Err(Error::Full(format!(
            "--size {}: only {free} are free where {shown} would lie; choose a smaller size, another place, or --sparse",
            new.size
        )));
    }
    let mut unready = OsString::from(".");
    unready.push(&name);
    unready.push(".new");
    if parent.stat(&unready)?.is_some() {
        return Err(Error::Precondition(format!(
            "{} exists: it was to become {shown}, by a `pool init` that still runs, or that was interrupted; remove it where none runs",
            quoted(&parent.path().join(&unready).to_string_lossy())
        )));
    }
    let file = parent.create(&unready)?;
    let setup = Setup { file: Some(new.path.to_owned()), ..mounted_setup(request, id) };
    let begun = Setup { file: Some(parent.path().join(&unready)), ..setup.clone() };
    let marker =
        Marker { sparse: new.sparse, file: Some(new.path.to_owned()), ..Marker::new(id, request.kind) };
    let whole = fill(&file, new, id).and_then(|()| parent.sync()).and_then(|()| begin(&begun, &marker));
    let made =
        whole.and_then(|()| parent.rename_into(&unready, &parent, &name).inspect_err(|_| give_back(&begun)));
    made.inspect_err(|_| {
        if let Err(error) = parent.remove(&unready) {
            tracing::warn!(
                file = shown,
                error = crate::error::chain(&error),
                "failed to remove the new file"
            );
        }
    })?;
    Ok(setup)
}

fn fill(file: &File, new: &NewFile<'_>, id: PoolId) -> Result<()> {
    if new.sparse {
        file::set_len(file, new.size.get())?;
    } else {
        file::allocate(file, new.size.get())?;
    }
    fs::make_pool_filesystem(&file::program_path(file), &uuid()?.to_string(), Some(&id.to_string()))?;
    file::sync(file)
}

/// Mounts a fresh filesystem and makes it a pool.
fn begin(setup: &Setup, marker: &Marker) -> Result<()> {
    let begun = mounted::ensure(setup).and_then(|()| {
        let root = Dir::open(&setup.path)?;
        // Images and workloads' directories are nobody else's business.
        std::fs::set_permissions(&setup.path, std::fs::Permissions::from_mode(0o700))
            .map_err(|error| Error::host("failed to close the pool's root to others", error))?;
        if setup.kind == Kind::Directory && setup.quota == Quota::Project {
            enforceable(&root)?;
        }
        marker.write(&root)?;
        fs::sync(&root)
    });
    begun.inspect_err(|_| give_back(setup))
}

/// Unmounts what did not become a pool.
fn give_back(setup: &Setup) {
    if let Err(error) = unmount(setup) {
        tracing::warn!(error = crate::error::chain(&error), "failed to unmount the unfinished pool");
    }
}

fn setup(request: &Request, path: PathBuf) -> Setup {
    Setup {
        name: request.name.clone(),
        kind: request.kind,
        path,
        file: None,
        device: None,
        quota: request.quota,
        size: None,
    }
}

fn mounted_setup(request: &Request, id: PoolId) -> Setup {
    setup(request, request.mount_parent.join(format!("{}-{id}", request.name)))
}

/// Takes back what `Marker::write` made in a directory that was empty before.
fn unmake(root: &Dir) {
    let undone = root
        .remove(MARKER)
        .and_then(|_| super::home::DIRECTORIES.iter().try_for_each(|name| root.remove_dir(name).map(drop)));
    if let Err(error) = undone {
        tracing::warn!(error = crate::error::chain(&error), "failed to take back an unfinished pool");
    }
}

fn enforceable(root: &Dir) -> Result<()> {
    match quota::supported(root)? {
        quota::Support::Enforced(_) => Ok(()),
        quota::Support::No(why) => Err(Error::Precondition(format!(
            "`{}` cannot enforce the sizes of directories: {why}; with `--quota none` sizes are not enforced",
            root.path().display()
        ))),
    }
}

fn uuid() -> Result<FsUuid> {
    file::random().map(FsUuid::new)
}

fn absolute(flag: &str, path: &Path) -> Result<()> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(Error::invalid(flag, path.display(), "want an absolute path"))
}

fn refuse_used_directory(root: &Dir) -> Result<()> {
    let shown = root.path().display();
    if let Some(marker) = Marker::read(root)? {
        return Err(Error::Precondition(format!(
            "`{shown}` is already pool {} of kind `{}`; nothing was changed",
            marker.id, marker.kind
        )));
    }
    let mut found = Vec::new();
    for name in root.names()? {
        let ours = super::home::DIRECTORIES.iter().any(|ours| name == *ours);
        // Left by an attempt that was killed before its marker.
        let left = file::is_temporary(&name) || (ours && root.sub(&name)?.names()?.is_empty());
        if name != LOST_AND_FOUND && !left {
            found.push(name);
        }
    }
    if found.is_empty() { Ok(()) } else { Err(not_empty(&format!("`{shown}`"), found)) }
}

fn not_empty(what: &str, mut found: Vec<OsString>) -> Error {
    found.sort_unstable();
    let shown: Vec<_> = found.iter().take(5).map(|name| quoted(&name.to_string_lossy())).collect();
    let more = match found.len().saturating_sub(shown.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Error::Precondition(format!(
        "{what} is not empty: it holds {}{more}; nothing was changed",
        shown.join(", ")
    ))
}

fn refuse_existing_file(parent: &Dir, name: &OsString, shown: &str) -> Result<()> {
    let Some(stat) = parent.stat(name)? else {
        return Ok(());
    };
    let what = match stat.kind {
        file::Kind::Directory => "a directory".to_owned(),
        file::Kind::Other => "neither a file nor a directory".to_owned(),
        file::Kind::File => format!("a file of {}{}", Bytes::new(stat.size), content(parent, name)),
    };
    Err(Error::Precondition(format!(
        "--file {shown} exists already: {what}; give a path where nothing is, the file is made for the pool"
    )))
}

/// What is in a file, for a message: best effort.
fn content(parent: &Dir, name: &OsString) -> String {
    let found = parent.open_file(name, file::Access::ReadOnly).ok().flatten().map(|file| fs::probe(&file));
    match found {
        Some(Ok(fs::Found::Ext4 { .. })) => " that holds an ext4 filesystem".to_owned(),
        Some(Ok(fs::Found::Xfs { .. })) => " that holds an xfs filesystem".to_owned(),
        Some(Ok(fs::Found::Foreign(what))) => format!(" that holds {what}"),
        Some(Ok(fs::Found::Empty) | Err(_)) | None => String::new(),
    }
}

fn refuse_used_bytes(device: &File, size: u64, shown: &str) -> Result<()> {
    match fs::provably_empty(device, size)? {
        Emptiness::Empty => Ok(()),
        Emptiness::NotEmpty { what, at } => Err(Error::Precondition(format!(
            "{shown} is not empty: {what} at byte {at}; nothing was changed (wipe it yourself if it may go)"
        ))),
        Emptiness::InUse(by) => {
            Err(Error::Precondition(format!("{shown} is in use: {by}; nothing was changed")))
        }
    }
}

#[cfg(test)]
mod tests;
