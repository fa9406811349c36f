//! The directory of a pool: what the kinds on a real filesystem share.
//!
//! Owns: the marker that makes a directory a pool, the lock, the four directories below, and the proof that the pool is
//! still there. Never: knows volumes, formats, or follows a path again after it was opened.
//!
//! Open                                              Repair
//!  1. mount, where the setup names file or device    A. mounted already: used, if it is that file's or that device's
//!  2. hold the directory, read and check the marker  B. no marker, or another's: refused, nothing is written
//!  3. lock; a second process is told who holds it     C. a dead process holds none, unless it hangs in the kernel
//!  4. make the directory of temporaries if missing   D. again, each step is safe to repeat
//!  5. remove what a dead process was writing         E. as D
//!     (4 and 5 not on a read-only filesystem)
//!
//! Layout: `pool.json` (the marker), `lock`, `volumes/`, `snapshots/`, `tmp/`, `records/`, `spare`, and `projects` of a directory
//! pool.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::StatVfsMountFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Found, Kind, Setup, mounted};
use crate::error::{Error, Result};
use crate::model::{Bytes, ObjectId, PoolId, Time, VolumeId};
use crate::os::file::{self, Dir, Identity, Lock, Purpose};
use crate::os::{fs, mount};

/// The name of the marker.
pub(super) const MARKER: &str = "pool.json";
const VOLUMES: &str = "volumes";
const SNAPSHOTS: &str = "snapshots";
const TMP: &str = "tmp";
const RECORDS: &str = "records";
/// The directories of a pool.
pub(super) const DIRECTORIES: [&str; 4] = [VOLUMES, SNAPSHOTS, TMP, RECORDS];
/// What the name of a volume ends in below `tmp` while its content comes from another node.
const PARTIAL: &str = ".part";
const LOCK: &str = "lock";
/// Where a directory pool keeps the next project id.
pub(super) const PROJECTS: &str = "projects";
/// What a full pool gives back for the record of a delete.
pub const SPARE: &str = "spare";
/// What a filesystem makes by itself.
pub(super) const LOST_AND_FOUND: &str = "lost+found";
/// The schema of the marker that this program writes, and the newest that it reads.
const SCHEMA: u32 = 1;
const MOST_MARKER: usize = 4096;
/// The reason of the problem of a pool whose disk failed.
pub(super) const FENCED: &str = "PoolFenced";

/// A program that is just being started holds copies of all descriptors for a moment, those of a closed pool as well.
const MOMENT: Duration = Duration::from_millis(300);

/// What a pool says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Marker {
    /// The version of this form.
    pub(super) schema: u32,
    /// The pool's identity.
    pub(super) id: PoolId,
    /// The name of its kind.
    pub(super) kind: String,
    /// When it was made.
    pub(super) created: Time,
    /// Whether it lies in a file that takes its host's space only when it is written.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) sparse: bool,
    /// The file in which it was made, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<PathBuf>,
    /// The device on which it was made, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) device: Option<PathBuf>,
}

/// How full the filesystem of a pool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    /// All that a pool can ever hold.
    pub(super) total: Bytes,
    /// What can still be written.
    pub(super) free: Bytes,
    /// What is taken.
    pub(super) used: Bytes,
}

/// A pool's directory, open and locked.
#[derive(Debug)]
pub struct Home {
    name: String,
    path: PathBuf,
    marker: Marker,
    root: Dir,
    identity: Identity,
    volumes: Dir,
    snapshots: Dir,
    tmp: Dir,
    /// The file of a sparse pool: its filesystem is the one that must have room.
    host: Option<File>,
    /// None on a visit.
    _lock: Option<Lock>,
}

impl Marker {
    /// Of a new pool.
    pub(super) fn new(id: PoolId, kind: Kind) -> Self {
        Marker {
            schema: SCHEMA,
            id,
            kind: kind.name().to_owned(),
            created: Time::now(),
            sparse: false,
            file: None,
            device: None,
        }
    }

    /// The marker of the pool in this directory; none where there is no pool.
    pub(super) fn read(root: &Dir) -> Result<Option<Marker>> {
        let Some(bytes) = root.read(MARKER, MOST_MARKER)? else {
            return Ok(None);
        };
        let at = root.path().join(MARKER);
        let corrupt = |error: serde_json::Error| {
            Error::Corrupt(format!("the marker `{}` cannot be read: {error}", at.display()))
        };
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(corrupt)?;
        let schema = value.get("schema").and_then(serde_json::Value::as_u64);
        if schema.is_some_and(|schema| schema > u64::from(SCHEMA)) {
            // Away, not wrong: the other pools are served, and this one as well after an upgrade.
            return Err(Error::Unavailable(format!(
                "the pool at `{}` was written by a newer Rockpool (schema {}, this one knows {SCHEMA}): upgrade this one; \
                 nothing was changed",
                root.path().display(),
                schema.unwrap_or_default()
            )));
        }
        serde_json::from_value(value).map(Some).map_err(corrupt)
    }

    /// Makes `root` a pool, directories first: a directory with a marker is whole.
    pub(super) fn write(&self, root: &Dir) -> Result<()> {
        for name in DIRECTORIES {
            root.ensure(name, 0o700)?;
        }
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::Corrupt(format!("failed to write the marker: {error}")))?;
        text.push(b'\n');
        root.replace(MARKER, &text)
    }
}

impl Home {
    /// Opens the pool that `setup` describes, mounting it where it is not mounted yet.
    ///
    /// # Errors
    /// `Unavailable` where the pool is not there; `Busy` where another process has it; `Precondition` where it is not what
    /// the setup says.
    pub fn open(setup: &Setup) -> Result<Home> {
        mount_of(setup)?;
        let (root, marker) = Self::find(setup)?;
        let read_only = refuse_read_only(&setup.name, &root).err();
        if planted!("sweep-before-lock") {
            sweep(&root)?;
            sweep(&root.sub(RECORDS)?)?;
        }
        let lock = root.lock_within(LOCK, MOMENT, Purpose::Serve)?;
        step!("open: locked");
        if let Some(error) = read_only {
            // It can be read. What an opening does besides is done once it is mounted for writing, and opened anew for that.
            root.fence_off(crate::error::chain(&error));
            return Self::enter(setup, root, marker, Some(lock));
        }
        // It is the one of which nothing can be lost.
        root.ensure(TMP, 0o700)?;
        let home = Self::enter(setup, root, marker, Some(lock))?;
        sweep(&home.root)?;
        if !planted!("debris-kept") {
            sweep_debris(&home.tmp)?;
        }
        sweep(&home.root.sub(RECORDS)?)?;
        // Nothing else makes a temporary name there.
        home.volumes.clear_proof()?;
        home.snapshots.clear_proof()?;
        step!("open: swept");
        Ok(home)
    }

    /// Looks at the pool without its lock, while a driver may be at work in it: mounts nothing, sweeps nothing.
    ///
    /// # Errors
    /// `Unavailable` where the pool is not there; `Precondition` where it is not what the setup says.
    pub(super) fn visit(setup: &Setup) -> Result<Home> {
        let (root, marker) = Self::find(setup)?;
        Self::enter(setup, root, marker, None)
    }

    /// Whether it is this pool that lies at its place; one in a file or on a device is mounted first.
    ///
    /// # Errors
    /// `Unavailable` where another one or none does.
    pub(super) fn expect(setup: &Setup, known: PoolId) -> Result<()> {
        mount_of(setup)?;
        let (_, marker) = Self::find(setup)?;
        if marker.id == known {
            return Ok(());
        }
        let why = format!(
            "another pool, {}, lies there, where {known} was; bring that one back, or restart to use the other",
            marker.id
        );
        Err(missing(setup, &why))
    }

    /// Whether surely nothing lies at its place, or another pool.
    pub(super) fn is_gone(setup: &Setup, known: PoolId) -> bool {
        let ground = setup.file.as_ref().or(setup.device.as_ref());
        let missing = |error: std::io::Error| is_absence(&Error::host("failed to look at it", error));
        if ground.is_some_and(|path| std::fs::metadata(path).is_err_and(missing)) {
            return true;
        }
        match Dir::open(&setup.path).and_then(|root| Marker::read(&root)) {
            Ok(Some(marker)) => marker.id != known,
            // What can be mounted there may lie on it.
            Ok(None) => ground.is_none(),
            Err(error) => ground.is_none() && is_absence(&error),
        }
    }

    /// Opens the pool for one who looks and mends: with its lock, but mounting nothing, and sweeping nothing away.
    ///
    /// # Errors
    /// As [`Home::open`]; a pool that another process has is refused at once.
    pub(super) fn examine(setup: &Setup) -> Result<Home> {
        let (root, marker) = Self::find(setup)?;
        let lock = root.lock(LOCK, Purpose::Look)?;
        Self::enter(setup, root, marker, Some(lock))
    }

    fn find(setup: &Setup) -> Result<(Dir, Marker)> {
        let root = Dir::open(&setup.path).map_err(|error| missing(setup, &crate::error::chain(&error)))?;
        let marker = Marker::read(&root)?
            .ok_or_else(|| missing(setup, "no pool.json lies there; is its disk mounted?"))?;
        if marker.kind != setup.kind.name() {
            return Err(Error::Precondition(format!(
                "pool `{}`: kind `{}` is configured, but the pool at `{}` is of kind `{}`",
                setup.name,
                setup.kind.name(),
                setup.path.display(),
                marker.kind
            )));
        }
        refuse_incomplete(setup, &root)?;
        Ok((root, marker))
    }

    fn enter(setup: &Setup, root: Dir, marker: Marker, lock: Option<Lock>) -> Result<Home> {
        let host = if marker.sparse { mounted::host_file(setup, &marker, &root)? } else { None };
        root.sub(RECORDS)?;
        let home = Home {
            name: setup.name.clone(),
            path: setup.path.clone(),
            identity: root.identity()?,
            volumes: root.sub(VOLUMES)?,
            snapshots: root.sub(SNAPSHOTS)?,
            tmp: root.sub(TMP)?,
            marker,
            root,
            host,
            _lock: lock,
        };
        home.present()?;
        Ok(home)
    }

    /// The pool's identity.
    pub fn id(&self) -> PoolId {
        self.marker.id
    }

    /// The operator's name for it, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The root of the pool. Its directory `records` is there for the engine.
    pub fn root(&self) -> &Dir {
        &self.root
    }

    /// The root alone, of a visit.
    pub(super) fn into_root(self) -> Dir {
        self.root
    }

    /// Where finished volumes lie.
    pub fn volumes(&self) -> &Dir {
        &self.volumes
    }

    /// Where finished snapshots lie.
    pub fn snapshots(&self) -> &Dir {
        &self.snapshots
    }

    /// Where unfinished things lie.
    pub fn tmp(&self) -> &Dir {
        &self.tmp
    }

    /// The name of the filesystem that the pool lies on, for messages.
    pub(super) fn filesystem(&self) -> Result<String> {
        let mount = mount::table()?.into_iter().find(|mount| mount.id == self.identity.mount);
        Ok(mount.map_or_else(|| "an unknown filesystem".to_owned(), |mount| mount.kind))
    }

    /// Whether the pool lies in a file that takes its host's space only when it is written.
    pub(super) fn is_sparse(&self) -> bool {
        self.host.is_some()
    }

    /// Whether the path still shows what was opened: enough to look at it, to unmount and to detach.
    ///
    /// # Errors
    /// `Unavailable` where it is gone or another.
    pub fn present(&self) -> Result<()> {
        // A fresh look at the path: the held directory alone would go on working below a mount that covers it.
        match file::identity_at(&self.path) {
            Ok(shown) if shown == self.identity => Ok(()),
            Ok(_) => Err(Error::Unavailable(format!(
                "pool `{}` is away: `{}` shows another directory than the one that was opened; \
                 mount the pool there again, and it is used again by itself",
                self.name,
                self.path.display()
            ))),
            Err(error) => Err(Error::Unavailable(format!(
                "pool `{}` is away: {}",
                self.name,
                crate::error::chain(&error)
            ))),
        }
    }

    /// Returns when the disk has answered.
    pub(super) fn answers(&self) -> Result<()> {
        self.root.ask_disk(MARKER)
    }

    /// Whether it is present and can be changed.
    ///
    /// # Errors
    /// `Unavailable` where it is gone, or its disk failed so that nothing written there can be trusted; `Precondition` where
    /// it is read-only.
    pub fn writable(&self) -> Result<()> {
        self.present()?;
        refuse_read_only(&self.name, &self.root)?;
        match self.root.fenced() {
            None => Ok(()),
            Some(why) => Err(Error::Unavailable(format!(
                "pool `{}` can be read, but takes no changes: {why}; see the kernel's log, and mend its disk or mount it anew; \
                 the pool takes changes again by itself once its disk is proven to make them durable",
                self.name
            ))),
        }
    }

    /// Proves that every directory of the pool takes changes durably, whatever was true before.
    ///
    /// # Errors
    /// What the disk said.
    pub fn prove(&self) -> Result<()> {
        self.present()?;
        let records = self.root.sub(RECORDS)?;
        [&self.root, &self.volumes, &self.snapshots, &self.tmp, &records].into_iter().try_for_each(Dir::prove)
    }

    /// Refuses where the filesystem is mounted read-only.
    ///
    /// # Errors
    /// `Precondition`.
    pub(super) fn refuse_read_only(&self) -> Result<()> {
        refuse_read_only(&self.name, &self.root)
    }

    /// How full the filesystem is; a sparse pool has no more than its host has free.
    pub(super) fn space(&self) -> Result<Space> {
        let own = space_of(&self.root)?;
        let Some(host) = &self.host else {
            return Ok(own);
        };
        let free = own.free.min(space_of(host)?.free);
        Ok(Space { total: Bytes::new(own.used.get().saturating_add(free.get())), free, used: own.used })
    }

    /// Removes what a scan called debris, or a temporary file of a record.
    pub(super) fn clear(&self, debris: &str) -> Result<()> {
        let temporary = |name: &str| file::is_temporary(name);
        match debris.split_once('/') {
            Some((TMP, name)) if is_debris(name) => self.tmp.remove_tree(name),
            Some((RECORDS, name)) if temporary(name) => self.root.sub(RECORDS)?.remove(name),
            None if temporary(debris) => self.root.remove(debris),
            Some(_) | None => return Err(Error::invalid("object", debris, "want what a scan calls debris")),
        }
        .map(drop)
    }

    /// What lies below `tmp`: what an interrupted verb left, and what is not ours.
    pub(super) fn unfinished(&self) -> Result<Vec<Found>> {
        let found = |name: OsString| {
            let shown = format!("{TMP}/{}", name.to_string_lossy());
            if is_debris(&name) { Found::Debris(shown) } else { Found::Foreign(shown) }
        };
        Ok(self.tmp.names()?.into_iter().map(found).collect())
    }

    /// The volumes that are being received.
    pub(super) fn begun(&self) -> Result<Vec<VolumeId>> {
        let names = self.tmp.names()?.into_iter();
        let ids = names.filter_map(|name| name.to_str()?.strip_suffix(PARTIAL)?.parse::<VolumeId>().ok());
        Ok(ids.filter(|id| id.pool() == self.id()).collect())
    }

    /// What lies where nothing of a pool lies: names for people.
    pub(super) fn strangers(&self) -> Result<Vec<Found>> {
        let ours = |name: &OsString| {
            [MARKER, LOCK, PROJECTS, SPARE, LOST_AND_FOUND]
                .iter()
                .chain(&DIRECTORIES)
                .any(|ours| name == *ours)
        };
        let strange = |name: OsString| {
            let shown = name.to_string_lossy().into_owned();
            if file::is_temporary(&name) { Found::Debris(shown) } else { Found::Foreign(shown) }
        };
        Ok(self.root.names()?.into_iter().filter(|name| !ours(name)).map(strange).collect())
    }
}

/// The name below `tmp` of what a volume is received into: it outlasts an opening, since its record says how much of it counts.
pub(super) fn partial(name: &str) -> String {
    format!("{name}{PARTIAL}")
}

/// Whether a verb gives such a name to what it has not finished; nothing else below `tmp` is ever removed.
fn is_debris(name: impl AsRef<OsStr>) -> bool {
    let name = name.as_ref();
    let is_object = |name: &str| name.strip_suffix(PARTIAL).unwrap_or(name).parse::<ObjectId>().is_ok();
    file::is_temporary(name) || name.to_str().is_some_and(is_object)
}

/// The name of the kind of the pool in a directory.
pub(super) fn kind_at(path: &Path) -> Result<String> {
    let marker = Marker::read(&Dir::open(path)?)?;
    let none = || Error::Precondition(format!("no pool lies at `{}`: it has no pool.json", path.display()));
    marker.map(|marker| marker.kind).ok_or_else(none)
}

/// Whether the pool in a directory gives its volumes limits.
pub(super) fn has_limits(path: &Path) -> Result<bool> {
    Ok(Dir::open(path)?.stat(PROJECTS)?.is_some())
}

/// How full the filesystem is on which something lies. What is kept for root alone is not counted at all.
pub(super) fn space_of(on: impl std::os::fd::AsFd) -> Result<Space> {
    let now = fs::space(on)?;
    let (used, free) = (now.total.saturating_sub(now.free), now.available);
    Ok(Space { total: Bytes::new(used.saturating_add(free)), free: Bytes::new(free), used: Bytes::new(used) })
}

/// How much is free where `path`, a directory, lies.
pub(super) fn free_at(path: &Path) -> Result<Bytes> {
    Ok(space_of(Dir::open(path)?)?.free)
}

/// Mounts the pool where it is not mounted. What lies in its way may be taken away at any time, and then it is back.
fn mount_of(setup: &Setup) -> Result<()> {
    mounted::ensure(setup)
        .map_err(|error| if let Error::Precondition(why) = error { Error::Unavailable(why) } else { error })
}

/// Whether nothing is there any more. A disk that only fails is there.
fn is_absence(error: &Error) -> bool {
    let absent = [Errno::NOENT, Errno::NOTDIR, Errno::NODEV, Errno::NXIO, Errno::STALE];
    matches!(error, Error::Host { source, .. } if Errno::from_io_error(source).is_some_and(|errno| absent.contains(&errno)))
}

/// Removes what a process that died was writing; nobody else writes here, since we hold the lock.
fn sweep(dir: &Dir) -> Result<()> {
    let mut left = dir.names()?.into_iter().filter(|name| file::is_temporary(name));
    left.try_for_each(|name| dir.remove(name).map(drop))
}

/// Removes unfinished objects, too: a power cut may bring one back after its record was erased, and nothing else would ever
/// look at it. One that resists keeps no pool closed.
fn sweep_debris(tmp: &Dir) -> Result<()> {
    sweep(tmp)?;
    let outlasts = |name: &OsString| name.to_str().is_some_and(|name| name.ends_with(PARTIAL));
    for name in tmp.names()?.into_iter().filter(|name| is_debris(name) && !outlasts(name)) {
        match tmp.remove_tree(&name) {
            Ok(_) => tracing::info!(name = %name.to_string_lossy(), "removed an unfinished object"),
            Err(error) => tracing::warn!(
                name = %name.to_string_lossy(), error = crate::error::chain(&error), "failed to remove an unfinished object"
            ),
        }
    }
    Ok(())
}

/// The marker is written when the directories are there: where one is not, somebody took it away, and what lay in it would be
/// taken for deleted.
fn refuse_incomplete(setup: &Setup, root: &Dir) -> Result<()> {
    for name in [RECORDS, VOLUMES, SNAPSHOTS] {
        if root.stat(name)?.is_none() {
            let remedy = match name {
                RECORDS => {
                    "; where that is not possible make an empty one, and see `rockpool ctl doctor` (RP-RECORD-LOST)"
                }
                _ => "",
            };
            return Err(Error::Unavailable(format!(
                "pool `{}` lacks its directory `{}`, which somebody took away: bring it back{remedy}; nothing was changed",
                setup.name,
                setup.path.join(name).display()
            )));
        }
    }
    Ok(())
}

fn missing(setup: &Setup, why: &str) -> Error {
    Error::Unavailable(format!("pool `{}` is not at `{}`: {why}", setup.name, setup.path.display()))
}

fn refuse_read_only(name: &str, root: &Dir) -> Result<()> {
    let stat = rustix::fs::fstatvfs(root)
        .map_err(|error| Error::host(format!("failed to look at pool `{name}`"), error.into()))?;
    if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(Error::Precondition(format!(
            "pool `{name}`: its filesystem at `{}` is mounted read-only",
            root.path().display()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
