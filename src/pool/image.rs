//! Image pools: one file a volume, attached through a loop device.
//!
//! Owns: everything below `volumes`, `snapshots` and `tmp` of the pool, and the loop devices on it. Never: formats what
//! exists, makes a second writable device on one file, or freezes the filesystem that the images lie on.
//!
//! ```text
//! Create and snapshot                                Repair
//!  1. the flush of a mounted source                   A. tmp/<id>: removed by a retry, by destroy and by forget
//!  2. tmp/<id>: a hole, allocated, or a clone         B. in volumes/ or snapshots/ it is whole: a retry syncs the
//!  3. mkfs, on a blank volume only; its record, as        directory again and answers
//!     an attribute of the file
//!  4. fsync, rename to its place, fsync both directories
//!
//! Grow                                               Repair
//!  1. a longer file, fsync                            A. again, each step is safe to repeat
//!  2. the size of the attached device                 B. `attach` compares both sizes as well
//!
//! Begin, fill, complete                              Repair
//!  1. tmp/<id>.part, as long as the volume, fsync     A. it stays, and its record says how much of it counts
//!  2. pieces, fsync now and then                      B. pieces after the last fsync come again
//!  3. its record as an attribute, fsync, rename to    C. in volumes/ it is whole
//!     its place, fsync both directories
//!
//! Destroy and forget                                 Repair
//!  1. unlink in place, fsync of the directory         A. again, absent is synced too
//!  2. unlink below tmp                                B. what comes back after a power cut is debris
//! ```

mod copies;
mod devices;
mod exposed;
mod watch;

use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use self::copies::Partials;
use super::home::{Home, partial};
use super::patience::Patience;
use super::{
    Attach, Attached, Exposed, Found, Kind, Label, Part, Pool, Problem, Setup, Severity, Thaw, Usage, kept,
    whole,
};
use crate::error::{Error, Result};
use crate::model::record::FIRST;
use crate::model::{
    Access, Allocation, Bytes, Features, Filesystem, ObjectId, Offer, Piece, PoolId, Record, Snapshot,
    SnapshotId, Source, Volume, VolumeId,
};
use crate::os::file::{self, Dir, Stat};
use crate::os::fs::{self, FsKind};
use crate::os::label;
use devices::Devices;
use watch::Foreign;

/// What a reserved image carries: nothing else says at attach that its space must stay taken.
const RESERVED: &str = "trusted.rockpool.reserved";

/// A disk that does not answer in this time hangs.
const PATIENCE: Duration = Duration::from_secs(2);

/// A pool of image files.
#[derive(Debug)]
pub struct ImagePool {
    images: Arc<Images>,
    patience: Patience,
}

/// What a pool is made of; shared with the threads that ask for its health.
#[derive(Debug)]
struct Images {
    home: Home,
    features: Features,
    devices: Devices,
    /// What others take on the filesystem, as of the last look: a look costs one stat per object.
    foreign: Mutex<Option<Foreign>>,
    partials: Partials,
}

impl ImagePool {
    /// Opens the pool that `setup` describes.
    pub fn open(setup: &Setup) -> Result<ImagePool> {
        Self::over(Home::open(setup)?)
    }

    /// The pool in a directory that is open already.
    pub(super) fn over(home: Home) -> Result<ImagePool> {
        let features = features(&home)?;
        let devices = Devices::find(home.volumes())?;
        let images =
            Images { home, features, devices, foreign: Mutex::default(), partials: Partials::default() };
        images.foreign(&images.home.space()?)?;
        Ok(ImagePool { images: Arc::new(images), patience: Patience::new(PATIENCE) })
    }
}

impl Images {
    /// Makes an object under a temporary name, and shows it when it is whole.
    fn make(&self, record: &Record, place: &Dir, fill: impl FnOnce(&File) -> Result<()>) -> Result<()> {
        let (tmp, name) = (self.home.tmp(), &record.id().to_string());
        if tmp.stat(name)?.is_some() {
            tmp.remove(name)?;
        }
        let file = tmp.create(name)?;
        step!("object: begun");
        let made = fill(&file).and_then(|()| {
            step!("object: filled");
            kept::keep(&file, record, FIRST)?;
            file::sync(&file)?;
            step!("object: synced");
            tmp.rename_into(name, place, name)
        });
        step!("object: placed");
        made.inspect_err(|_| {
            if let Err(error) = tmp.remove(name) {
                tracing::warn!(
                    name,
                    error = crate::error::chain(&error),
                    "failed to remove a half made object"
                );
            }
        })
    }

    fn fill(&self, file: &File, want: &Volume) -> Result<()> {
        let size = want.size.get();
        let source = match &want.source {
            Source::Blank => None,
            Source::Volume(id) => {
                self.devices.flush(id, self.home.volumes())?;
                Some(object(self.home.volumes(), &id.to_string(), "volume")?)
            }
            Source::Snapshot(id) => Some(object(self.home.snapshots(), &id.to_string(), "snapshot")?),
        };
        if let Some(source) = &source {
            let have = file::stat(source)?.size;
            if have > size {
                return Err(Error::OutOfRange(format!(
                    "a clone of {have} bytes cannot be {size} bytes long"
                )));
            }
            file::reflink(source, file)?;
            step!("object: cloned");
        }
        match want.allocation {
            Allocation::Sparse => file::set_len(file, size)?,
            // What a clone shares stays shared: its first overwrite takes space, which the engine's ledger promised.
            Allocation::Reserved => {
                file::allocate(file, size)?;
                label::set(file, RESERVED, b"1")?;
            }
        }
        match (want.access, want.source) {
            (Access::Mount { fs: Filesystem::Ext4 }, Source::Blank) => format(file, want, FsKind::Ext4),
            (Access::Mount { fs: Filesystem::Xfs }, Source::Blank) => format(file, want, FsKind::Xfs),
            // A clone brings its filesystem along. A shared directory never gets here: the features exclude it.
            (Access::Mount { .. } | Access::Block, _) => Ok(()),
        }
    }

    /// Where an object lies that has bytes.
    fn place_of(&self, id: ObjectId) -> Option<&Dir> {
        match id {
            ObjectId::Volume(_) => Some(self.home.volumes()),
            ObjectId::Snapshot(_) => Some(self.home.snapshots()),
            ObjectId::Group(_) => None,
        }
    }

    /// Removes an object and what is half made of it.
    fn remove(&self, name: &str, place: &Dir) -> Result<()> {
        place.remove(name)?;
        step!("object: removed");
        // Not synced when it is not there: what comes back is debris.
        if self.home.tmp().stat(name)?.is_some() && !planted!("debris-kept") {
            self.home.tmp().remove(name)?;
        }
        let part = partial(name);
        if self.home.tmp().stat(&part)?.is_some() {
            self.home.tmp().remove(&part)?;
        }
        Ok(())
    }
}

impl Pool for ImagePool {
    fn id(&self) -> PoolId {
        self.images.home.id()
    }

    fn kind(&self) -> Kind {
        Kind::Image
    }

    fn features(&self) -> Features {
        self.images.features.clone()
    }

    fn home(&self) -> Option<&Dir> {
        Some(self.images.home.root())
    }

    fn present(&self) -> Result<()> {
        self.images.home.present()
    }

    fn answers(&self) -> Result<()> {
        self.images.home.answers()
    }

    fn writable(&self) -> Result<()> {
        self.images.home.writable()
    }

    fn prove(&self) -> Result<()> {
        self.images.home.prove()
    }

    fn usage(&self) -> Result<Usage> {
        self.images.home.present()?;
        let space = self.images.home.space()?;
        let foreign = self.images.foreign(&space)?;
        Ok(Usage { total: space.total, free: space.free, foreign })
    }

    fn scan(&self) -> Result<Vec<Found>> {
        self.images.home.present()?;
        let mut found = self.images.home.strangers()?;
        let volume = |id, stat: &Stat| Found::Volume(id, Bytes::new(stat.size));
        found.extend(objects(self.images.home.volumes(), volume)?);
        let snapshot = |id, stat: &Stat| Found::Snapshot(id, Bytes::new(stat.size));
        found.extend(objects(self.images.home.snapshots(), snapshot)?);
        found.extend(self.images.home.unfinished()?);
        Ok(found)
    }

    fn create(&self, want: &Volume) -> Result<()> {
        self.images.home.writable()?;
        self.images.features.require(want)?;
        let (name, volumes) = (want.id.to_string(), self.images.home.volumes());
        match volumes.stat(&name)? {
            Some(have) if have.size == want.size.get() => volumes.sync(),
            Some(have) => Err(Error::Conflict(format!(
                "volume {name} exists with {} bytes, not {}",
                have.size,
                want.size.get()
            ))),
            None => {
                let record = Record::Volume(Arc::new(want.clone()));
                self.images.make(&record, volumes, |file| self.images.fill(file, want))
            }
        }
    }

    fn grow(&self, id: &VolumeId, size: Bytes) -> Result<Bytes> {
        self.images.home.writable()?;
        let size = whole(size)?;
        let name = id.to_string();
        let file = writable(self.images.home.volumes(), &name)?;
        if file::stat(&file)?.size < size.get() {
            if label::has(&file, RESERVED)? {
                file::allocate(&file, size.get())?;
            } else {
                file::set_len(&file, size.get())?;
            }
        }
        step!("image: longer");
        // Also when it was long enough: whoever made it so may have died before this line.
        self.images.home.volumes().sync_file(&file, &name)?;
        step!("image: synced");
        self.images.devices.resize(id, &file)?;
        Ok(Bytes::new(file::stat(&file)?.size))
    }

    fn destroy(&self, id: &VolumeId) -> Result<()> {
        self.images.home.writable()?;
        self.images.devices.release(id)?;
        self.images.partials.close(id);
        self.images.remove(&id.to_string(), self.images.home.volumes())
    }

    fn snapshot(&self, want: &Snapshot) -> Result<Bytes> {
        let Snapshot { id, source: of, .. } = want;
        self.images.home.writable()?;
        self.images.features.snapshots.require()?;
        let (name, snapshots) = (id.to_string(), self.images.home.snapshots());
        if snapshots.stat(&name)?.is_some() {
            snapshots.sync()?;
        } else {
            let source = object(self.images.home.volumes(), &of.to_string(), "volume")?;
            self.images.devices.flush(of, self.images.home.volumes())?;
            step!("snapshot: source flushed");
            let record = Record::Snapshot(Arc::new(want.clone()));
            self.images.make(&record, snapshots, |file| {
                file::reflink(&source, file)?;
                // Of a volume in the middle of a growth the bytes may be shorter than what the record says.
                if file::stat(file)?.size < want.size.get() {
                    file::set_len(file, want.size.get())?;
                }
                Ok(())
            })?;
        }
        let made =
            snapshots.stat(&name)?.ok_or_else(|| Error::Unavailable(format!("snapshot {name} vanished")))?;
        Ok(Bytes::new(made.allocated))
    }

    fn forget(&self, id: &SnapshotId) -> Result<()> {
        self.images.home.writable()?;
        self.images.remove(&id.to_string(), self.images.home.snapshots())
    }

    fn attach(&self, id: &VolumeId, how: Attach) -> Result<Attached> {
        let (name, volumes) = (id.to_string(), self.images.home.volumes());
        let file = match how {
            Attach::Filesystem | Attach::Block => {
                self.images.home.writable()?;
                writable(volumes, &name)?
            }
            Attach::BlockReadOnly => {
                self.images.home.present()?;
                object(volumes, &name, "volume")?
            }
        };
        self.images.devices.attach(id, &file, how).map(Attached::Device)
    }

    fn attached(&self, id: &VolumeId, how: Attach) -> Result<Option<Attached>> {
        self.images.home.present()?;
        Ok(self.images.devices.attached(id, self.images.home.volumes(), how)?.map(Attached::Device))
    }

    fn detach(&self, id: &VolumeId) -> Result<()> {
        self.images.devices.release(id)
    }

    fn held(&self) -> Vec<VolumeId> {
        self.images.devices.held()
    }

    fn label(&self, id: ObjectId) -> Result<Option<Label>> {
        self.images.home.present()?;
        let Some(place) = self.images.place_of(id) else { return Ok(None) };
        let Some(file) = place.open_file(id.to_string(), file::Access::ReadOnly)? else { return Ok(None) };
        let stat = file::stat(&file)?;
        let (size, held) = (Bytes::new(stat.size), Bytes::new(stat.allocated));
        Ok(Some(Label { text: kept::kept(&file)?, group: kept::kept_of_group(&file)?, size, held }))
    }

    fn carry(&self, id: ObjectId, copy: &Record, generation: u64) -> Result<()> {
        self.images.home.writable()?;
        let Some(place) = self.images.place_of(id) else { return Ok(()) };
        let name = id.to_string();
        let file = object(place, &name, "object")?;
        kept::keep(&file, copy, generation)?;
        step!("copy: written");
        place.sync_file(&file, &name)
    }

    fn freeze(&self, ids: &[VolumeId]) -> Result<Thaw> {
        self.images.home.present()?;
        self.images.devices.freeze(ids, self.images.home.volumes())
    }

    fn unfreeze(&self, ids: &[VolumeId]) -> Result<()> {
        self.images.home.present()?;
        self.images.devices.unfreeze(ids, self.images.home.volumes())
    }

    fn part(&self, id: &SnapshotId, from: u64) -> Result<Part> {
        self.images.home.present()?;
        copies::read(&object(self.images.home.snapshots(), &id.to_string(), "snapshot")?, from)
    }

    fn begin(&self, want: &Volume) -> Result<()> {
        self.images.home.writable()?;
        self.images.begin(want)
    }

    fn fill(&self, id: &VolumeId, piece: &Piece) -> Result<()> {
        self.images.home.writable()?;
        let file = self.images.begun(id)?;
        piece.runs().try_for_each(|(at, run)| file::write_at(&file, at, run))
    }

    fn harden(&self, id: &VolumeId) -> Result<()> {
        self.images.home.writable()?;
        self.images.harden(id)
    }

    fn complete(&self, want: &Volume) -> Result<()> {
        self.images.home.writable()?;
        self.images.complete(want)
    }

    fn begun(&self) -> Result<Vec<VolumeId>> {
        self.images.home.begun()
    }

    fn discard(&self, id: &VolumeId) -> Result<()> {
        self.images.home.writable()?;
        self.images.discard(id)
    }

    fn health(&self, of: Option<&VolumeId>) -> Vec<Problem> {
        let (images, of) = (Arc::clone(&self.images), of.copied());
        let problems = self.patience.ask(move || match of {
            None => images.pool_problems(),
            Some(id) => images.volume_problems(&id),
        });
        problems.unwrap_or_else(|| vec![watch::hung(self.images.home.name())])
    }

    fn health_of_all(&self, all: &[VolumeId]) -> Vec<(Option<VolumeId>, Problem)> {
        let of_pool = self.health(None);
        let usable = of_pool.iter().all(|problem| problem.severity == Severity::Degraded);
        let own = if usable { self.images.volumes_problems(all) } else { Vec::new() };
        of_pool.into_iter().map(|problem| (None, problem)).chain(own).collect()
    }

    fn exposed(&self) -> Result<Vec<Exposed>> {
        self.images.home.present()?;
        exposed::all(self.id(), self.images.home.volumes())
    }

    fn let_go(&self, shown: &Exposed) -> Result<()> {
        self.images.home.present()?;
        exposed::let_go(shown)
    }

    fn clear(&self, debris: &str) -> Result<()> {
        self.images.home.writable()?;
        self.images.home.clear(debris)
    }

    fn tend(&self) -> Result<()> {
        self.images.home.writable()?;
        let trimmed = self.images.trim();
        self.images.look_for_foreign()?;
        trimmed
    }
}

/// What the filesystem below can do of what the kind can.
pub(super) fn features(home: &Home) -> Result<Features> {
    let mut features = Kind::Image.features();
    let clones = match file::reflink_works(home.tmp()) {
        // A full pool must open, or nobody could delete from it; a clone fails for itself where there is no reflink. Of one
        // that is read-only nothing can be found out.
        Err(Error::Full(_) | Error::Precondition(_)) => true,
        other => other?,
    };
    if !clones {
        let filesystem = home.filesystem()?;
        let reason =
            format!("pool `{}` lies on {filesystem} without reflink, so it cannot clone a file", home.name());
        features.snapshots = Offer::No(reason.clone());
        features.groups = Offer::No(reason);
    }
    Ok(features)
}

fn format(file: &File, want: &Volume, kind: FsKind) -> Result<()> {
    let uuid = want.fs_uuid.ok_or_else(|| {
        Error::Corrupt(format!(
            "volume {} is to get a filesystem, but its record has no UUID for it",
            want.id
        ))
    })?;
    fs::make(kind, &file::program_path(file), &uuid.to_string(), None)
}

fn object(place: &Dir, name: &str, noun: &str) -> Result<File> {
    place
        .open_file(name, file::Access::ReadOnly)?
        .ok_or_else(|| Error::Corrupt(format!("{noun} {name} has a record, but no bytes in this pool")))
}

fn writable(volumes: &Dir, name: &str) -> Result<File> {
    volumes
        .open_file(name, file::Access::ReadWrite)?
        .ok_or_else(|| Error::Corrupt(format!("volume {name} has a record, but no bytes in this pool")))
}

/// What lies in one directory: objects by their ids, and what is not ours.
fn objects<I: std::str::FromStr>(place: &Dir, found: impl Fn(I, &Stat) -> Found) -> Result<Vec<Found>> {
    let within = place.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut all = Vec::new();
    for name in place.names()? {
        let text = name.to_string_lossy();
        // Gone since the listing: no longer found.
        let Some(stat) = place.stat(&name)? else { continue };
        all.push(match text.parse::<I>() {
            Ok(id) if stat.kind == file::Kind::File => found(id, &stat),
            Ok(_) | Err(_) => Found::Foreign(format!("{within}/{text}")),
        });
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
