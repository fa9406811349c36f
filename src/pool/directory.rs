//! A pool of directories: one per volume, bound into place.
//!
//! Owns: `volumes/<id>/`, the size that is noted on it, its project id and limit. Never: opens anything in a volume but
//! to count or remove it, and then follows no symlink and crosses no mount.
//!
//! Create                                            Repair
//!  1. remove what lies at `tmp/<id>`                 A. a crash before 6 leaves `tmp/<id>`: debris, which a retry or
//!  2. make `tmp/<id>`, 0755, note size and record       `destroy` removes
//!  3. take a project id that nobody has              B. a crash after 3 or 4 leaves a number, or its limit, without a
//!  4. set the limit, and only then the project id       directory: harmless, since no number is taken twice
//!  5. fsync it
//!  6. rename it to `volumes/<id>`, fsync both        C. found there by a retry: made durable once more, then `Ok`
//!
//! Destroy                                           Repair
//!  1. remove what lies at `tmp/<id>`                 D. a crash after 2 leaves `tmp/<id>`: as A
//!  2. rename `volumes/<id>` to `tmp/<id>`, fsync; on
//!     a full disk 3 happens in its place
//!  3. remove the tree, then its limit                E. a crash before the limit goes leaves it: harmless, as B
//!
//! Grow: the limit, then the noted size, then fsync; a crash between them leaves more room than is noted, and the retry
//! notes it.

mod projects;

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use self::projects::Projects;
use super::home::Home;
use super::{
    Attach, Attached, Consumed, Found, Kind, Label, Pool, Problem, Quota, Setup, Severity, Thaw, Usage, kept,
    whole,
};
use crate::error::{Error, Result, chain};
use crate::model::record::FIRST;
use crate::model::{
    Bytes, Features, ObjectId, Offer, PoolId, Record, Snapshot, SnapshotId, Volume, VolumeId,
};
use crate::os::file::{self, Dir};
use crate::os::label;

/// Under which the size is noted on a volume's directory.
const SIZE: &str = "trusted.rockpool.size";
/// So that a CO may give the root to the workload's group (fsGroup), and a workload of any user may enter.
const MODE: u32 = 0o755;
/// How long counting a volume that no quota counts may take.
const COUNTING: Duration = Duration::from_secs(1);
const NOT_ENFORCED: &str = "not enforced: quota = \"none\" in the configuration";

/// A pool of directories, open.
pub struct DirectoryPool {
    home: Home,
    /// None: sizes are not enforced, by configuration.
    projects: Option<Projects>,
}

impl DirectoryPool {
    /// Opens the pool that `setup` describes.
    ///
    /// # Errors
    /// As [`Home::open`]; `Precondition` where sizes must be enforced and the kernel, filesystem or mount cannot.
    pub fn open(setup: &Setup) -> Result<Self> {
        Self::over(Home::open(setup)?, setup)
    }

    /// The pool in a directory that is open already.
    pub(super) fn over(home: Home, setup: &Setup) -> Result<Self> {
        let projects = match setup.quota {
            Quota::None => None,
            Quota::Project => Some(Projects::open(&home, setup)?),
        };
        Ok(DirectoryPool { home, projects })
    }

    /// The volume's directory; none where there is no such volume.
    fn find(&self, id: &VolumeId) -> Result<Option<Dir>> {
        let name = id.to_string();
        match self.home.volumes().stat(&name)? {
            None => Ok(None),
            Some(stat) if stat.kind == file::Kind::Directory => match self.home.volumes().sub(&name) {
                // Destroyed meanwhile, which only a scan can meet.
                Err(_) if self.home.volumes().stat(&name)?.is_none() => Ok(None),
                opened => opened.map(Some),
            },
            Some(_) => {
                let at = self.home.volumes().path().join(name);
                Err(Error::Corrupt(format!("`{}` is not a directory", at.display())))
            }
        }
    }

    fn need(&self, id: &VolumeId) -> Result<Dir> {
        self.find(id)?.ok_or_else(|| {
            Error::Corrupt(format!(
                "volume {id} has a record, but no directory in pool `{}`",
                self.home.name()
            ))
        })
    }

    /// What an earlier call left of the volume. Where nothing is, nothing is synced: what a power cut brings back is debris.
    fn remove_debris(&self, name: &str) -> Result<()> {
        if self.home.tmp().stat(name)?.is_some() {
            self.home.tmp().remove_tree(name)?;
        }
        Ok(())
    }

    /// Steps 2 to 6 of create.
    fn make(&self, name: &str, want: &Volume, size: Bytes) -> Result<()> {
        let volume = self.home.tmp().make_dir(name, MODE)?;
        step!("directory: made");
        note_size(&volume, size)?;
        step!("directory: size noted");
        kept::keep(&volume, &Record::Volume(Arc::new(want.clone())), FIRST)?;
        if let Some(projects) = &self.projects {
            projects.limit_new(&self.home, &volume, size)?;
        }
        volume.sync()?;
        step!("directory: synced");
        self.home.tmp().rename_into(name, self.home.volumes(), name)?;
        step!("directory: placed");
        Ok(())
    }

    /// What is wrong with one volume of a pool that is present.
    fn ailment(&self, id: &VolumeId) -> Option<Problem> {
        let problem = |severity, reason, message| Some(Problem { severity, reason, message });
        let volume = match self.find(id) {
            Ok(Some(volume)) => volume,
            Ok(None) => {
                let at = self.home.volumes().path().join(id.to_string());
                let message = format!("the directory `{}` is gone", at.display());
                return problem(Severity::DataLoss, "DirectoryMissing", message);
            }
            Err(error) => {
                return problem(Severity::Inaccessible, "DirectoryUnreadable", chain(&error));
            }
        };
        let size = match noted_size(&volume) {
            Ok(size) => size,
            Err(error) => return problem(Severity::Degraded, "SizeUnknown", chain(&error)),
        };
        self.projects.as_ref()?;
        let unlimited = projects::check(&volume, size).err()?;
        problem(Severity::Degraded, "SizeNotEnforced", chain(&unlimited))
    }
}

fn note_size(volume: &Dir, size: Bytes) -> Result<()> {
    label::set(volume, SIZE, size.get().to_string().as_bytes())
}

/// The size noted on a volume; zero where none is, which a volume made by us never shows.
fn noted_size(volume: &Dir) -> Result<Bytes> {
    let Some(text) = label::read(volume, SIZE)? else { return Ok(Bytes::ZERO) };
    let text = String::from_utf8_lossy(&text);
    text.parse().map(Bytes::new).map_err(|_| {
        let (at, text) = (volume.path().display(), crate::error::quoted(&text));
        Error::Corrupt(format!("the size noted on `{at}` is {text}, not a number of bytes"))
    })
}

fn id_of(name: &OsStr) -> Option<VolumeId> {
    name.to_str()?.parse().ok()
}

impl Pool for DirectoryPool {
    fn id(&self) -> PoolId {
        self.home.id()
    }

    fn kind(&self) -> Kind {
        Kind::Directory
    }

    fn features(&self) -> Features {
        offered(if self.projects.is_some() { Quota::Project } else { Quota::None })
    }

    fn home(&self) -> Option<&Dir> {
        Some(self.home.root())
    }

    fn present(&self) -> Result<()> {
        self.home.present()
    }

    fn answers(&self) -> Result<()> {
        self.home.answers()
    }

    fn writable(&self) -> Result<()> {
        self.home.writable()
    }

    fn prove(&self) -> Result<()> {
        self.home.prove()
    }

    /// Foreign is zero where sizes are not enforced: nobody counts there what is whose, and `free` alone is true.
    fn usage(&self) -> Result<Usage> {
        self.present()?;
        let space = self.home.space()?;
        let foreign = match &self.projects {
            None => Bytes::ZERO,
            Some(projects) => space.used.less(projects.used(&self.home)?),
        };
        Ok(Usage { total: space.total, free: space.free, foreign })
    }

    fn scan(&self) -> Result<Vec<Found>> {
        self.present()?;
        let mut found = self.home.strangers()?;
        let volumes = self.home.volumes();
        for name in volumes.names()? {
            // Gone since the listing: no longer found.
            let Some(stat) = volumes.stat(&name)? else { continue };
            match id_of(&name) {
                Some(id) if stat.kind == file::Kind::Directory => match self.find(&id)? {
                    // One bad note hides no other volume; its health says so.
                    Some(volume) => {
                        found.push(Found::Volume(id, noted_size(&volume).unwrap_or(Bytes::ZERO)));
                    }
                    None => continue,
                },
                Some(_) | None => found.push(Found::Foreign(shown(volumes, &name))),
            }
        }
        for name in self.home.snapshots().names()? {
            found.push(Found::Foreign(shown(self.home.snapshots(), &name)));
        }
        found.extend(self.home.unfinished()?);
        Ok(found)
    }

    fn create(&self, want: &Volume) -> Result<()> {
        self.writable()?;
        self.features().require(want)?;
        let size = whole(want.size)?;
        if self.find(&want.id)?.is_some() {
            return self.home.volumes().sync();
        }
        let name = want.id.to_string();
        self.remove_debris(&name)?;
        let made = self.make(&name, want, size);
        if made.is_err()
            && let Err(error) = self.home.tmp().remove_tree(&name)
        {
            tracing::warn!(
                volume = name,
                error = chain(&error),
                "failed to remove what a failed create left"
            );
        }
        made
    }

    fn grow(&self, id: &VolumeId, size: Bytes) -> Result<Bytes> {
        self.writable()?;
        let size = whole(size)?;
        let volume = self.need(id)?;
        let now = noted_size(&volume)?;
        if size > now {
            if self.projects.is_some() {
                projects::raise(&volume, size)?;
            }
            note_size(&volume, size)?;
            step!("directory: size raised");
        }
        // Also where it has the size: whoever grew it may have died before this line.
        volume.sync()?;
        Ok(size.max(now))
    }

    fn destroy(&self, id: &VolumeId) -> Result<()> {
        self.writable()?;
        let name = id.to_string();
        let (volumes, tmp) = (self.home.volumes(), self.home.tmp());
        self.remove_debris(&name)?;
        let Some(volume) = self.find(id)? else {
            // Whoever removed it may have died, or failed, before it was durable, in the one directory or the other.
            return volumes.sync().and_then(|()| tmp.sync());
        };
        let project = self.projects.as_ref().map(|_| projects::of(&volume)).transpose()?.flatten();
        let within = match volumes.rename_into(&name, tmp, &name) {
            Ok(()) => tmp,
            // No room even for a name. Its record says that it goes.
            Err(Error::Full(_)) => volumes,
            Err(error) => return Err(error),
        };
        step!("directory: moved away");
        within.remove_tree(&name)?;
        step!("directory: tree gone");
        project.map_or(Ok(()), |project| projects::release(&self.home, project))
    }

    fn snapshot(&self, _want: &Snapshot) -> Result<Bytes> {
        self.writable()?;
        self.features().snapshots.require()?;
        Ok(Bytes::ZERO)
    }

    fn forget(&self, _id: &SnapshotId) -> Result<()> {
        self.writable()
    }

    fn attach(&self, id: &VolumeId, how: Attach) -> Result<Attached> {
        self.writable()?;
        match how {
            Attach::Filesystem => self.need(id).map(Attached::Directory),
            Attach::Block | Attach::BlockReadOnly => {
                self.features().block.require()?;
                Err(Error::Unsupported("a directory is not a block device".to_owned()))
            }
        }
    }

    fn attached(&self, id: &VolumeId, how: Attach) -> Result<Option<Attached>> {
        self.present()?;
        match how {
            Attach::Filesystem => Ok(self.find(id)?.map(Attached::Directory)),
            Attach::Block | Attach::BlockReadOnly => Ok(None),
        }
    }

    fn detach(&self, _id: &VolumeId) -> Result<()> {
        Ok(())
    }

    fn label(&self, id: ObjectId) -> Result<Option<Label>> {
        self.present()?;
        let ObjectId::Volume(id) = id else { return Ok(None) };
        let Some(volume) = self.find(&id)? else { return Ok(None) };
        let text = kept::kept(&volume)?;
        Ok(Some(Label { text, group: None, size: noted_size(&volume)?, held: Bytes::ZERO }))
    }

    fn carry(&self, id: ObjectId, copy: &Record, generation: u64) -> Result<()> {
        self.writable()?;
        let ObjectId::Volume(id) = id else { return Ok(()) };
        let volume = self.need(&id)?;
        kept::keep(&volume, copy, generation)?;
        step!("copy: written");
        volume.sync()
    }

    fn freeze(&self, _ids: &[VolumeId]) -> Result<Thaw> {
        self.present()?;
        self.features().groups.require()?;
        Ok(Thaw::none())
    }

    /// By project quota; without it by a walk of at most a second, which may count a part of a large volume only.
    fn consumed(&self, id: &VolumeId) -> Result<Option<Consumed>> {
        self.present()?;
        let volume = self.need(id)?;
        if self.projects.is_some()
            && let Some(consumed) = projects::consumed(&volume)?
        {
            return Ok(Some(consumed));
        }
        let measured = volume.measure(COUNTING)?;
        Ok(Some(Consumed { bytes: Bytes::new(measured.bytes), inodes: measured.inodes }))
    }

    fn clear(&self, debris: &str) -> Result<()> {
        self.writable()?;
        self.home.clear(debris)
    }

    fn health(&self, of: Option<&VolumeId>) -> Vec<Problem> {
        let Some(id) = of else { return self.home.problems() };
        let mut problems = self.home.problems_of_volumes();
        if problems.iter().all(|problem| problem.severity == Severity::Degraded) {
            problems.extend(self.ailment(id));
        }
        problems
    }

    fn health_of_all(&self, all: &[VolumeId]) -> Vec<(Option<VolumeId>, Problem)> {
        let of_pool = self.home.problems();
        let usable = of_pool.iter().all(|problem| problem.severity == Severity::Degraded);
        let ailing = |id: &VolumeId| self.ailment(id).map(|problem| (Some(*id), problem));
        let own: Vec<_> = if usable { all.iter().filter_map(ailing).collect() } else { Vec::new() };
        of_pool.into_iter().map(|problem| (None, problem)).chain(own).collect()
    }
}

fn shown(dir: &Dir, name: &OsStr) -> String {
    let parent = dir.path().file_name().unwrap_or_default();
    format!("{}/{}", parent.to_string_lossy(), name.to_string_lossy())
}

/// What a pool offers, with sizes enforced or not.
fn offered(quota: Quota) -> Features {
    let mut features = Kind::Directory.features();
    if quota == Quota::None {
        features.size_limit = Offer::No(NOT_ENFORCED.to_owned());
    }
    features
}

/// What the filesystem below can do of what the kind can; a pool that must enforce sizes and cannot is refused at its
/// opening, so a visitor is told the same words.
pub(super) fn features(home: &Home, setup: &Setup) -> Result<Features> {
    let mut features = offered(setup.quota);
    if setup.quota == Quota::Project
        && let Err(error) = projects::supported(home, setup)
    {
        features.size_limit = Offer::No(chain(&error));
    }
    Ok(features)
}

#[cfg(test)]
mod tests;
