//! Where bytes live: the one trait, its contract, and the choice of a kind.
//!
//! Owns: what every kind of pool promises to the engine. Never: knows records, names, mounts at a workload, or the wire.
//!
//! # The contract
//! - Every verb means *ensure*: `Ok` says that it holds now, whoever did it. Each may be called again after any crash.
//! - `Ok` from a verb that changes something survives power loss.
//! - What has bytes of its own on a disk carries a copy of its record from the moment it is visible: see `label`.
//! - An error leaves nothing visible behind: what a crash or an error may leave lies under temporary names, which
//!   `scan` reports as debris and `destroy` and `forget` remove.
//! - A snapshot outlives its source; a clone shares no writable byte with it.
//! - The engine serialises the verbs of one volume (it holds a claim); verbs of different volumes run side by side.
//! - Every verb first checks that the pool is still there (`Error::Unavailable` where it is not), and touches nothing outside;
//!   one that changes something, that it is writable. `detach` alone needs neither: what is attached must be let go.
//!
//! `tests/contract.rs` runs it over every kind.

mod condition;
pub mod directory;
pub mod home;
pub mod image;
mod kept;
mod mounted;
mod patience;
pub mod prepare;
#[cfg(test)]
mod rig;
pub mod sim;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

pub use self::home::SPARE;
use crate::error::{Error, Result};
use crate::model::{
    Bytes, Features, Filesystem, ObjectId, Offer, Piece, PoolId, Record, Snapshot, SnapshotId, UNIT, Volume,
    VolumeId,
};
use crate::os::file::Dir;

/// A kind of pool, as the configuration names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One image file per volume, attached through a loop device.
    Image,
    /// One directory per volume, bound into place.
    Directory,
    /// In memory: for tests and scale work.
    Sim,
}

impl Kind {
    /// As the configuration spells it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Image => "image",
            Kind::Directory => "directory",
            Kind::Sim => "sim",
        }
    }

    /// Whether its pools outlast the driver that has them, so that others can look into them.
    pub fn lasts(self) -> bool {
        match self {
            Kind::Image | Kind::Directory => true,
            Kind::Sim => false,
        }
    }

    /// What pools of this kind can do at best: the one table behind every advertised capability.
    /// A pool that lacks one of them (no reflink, no quota) says so in [`Pool::features`] and refuses per call.
    pub fn features(self) -> Features {
        let no = |why: &str| Offer::No(why.to_owned());
        match self {
            Kind::Image | Kind::Sim => Features {
                filesystems: &[Filesystem::Ext4, Filesystem::Xfs],
                block: Offer::Yes,
                size_limit: Offer::Yes,
                snapshots: Offer::Yes,
                groups: Offer::Yes,
                reserved: Offer::Yes,
            },
            Kind::Directory => Features {
                filesystems: &[Filesystem::Shared],
                block: no("a directory is not a block device"),
                size_limit: Offer::Yes,
                snapshots: no("a directory pool cannot cut a directory at one moment"),
                groups: no("a directory pool cannot cut a directory at one moment"),
                reserved: no("a quota limits a directory, it reserves nothing"),
            },
        }
    }
}

impl FromStr for Kind {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        [Kind::Image, Kind::Directory, Kind::Sim]
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| Error::invalid("kind", text, "want `image`, `directory` or `sim`"))
    }
}

/// A size as every kind makes it: rounded up to whole units.
fn whole(size: Bytes) -> Result<Bytes> {
    size.checked_round_up(UNIT).ok_or_else(|| Error::OutOfRange(format!("{size} is too large for any pool")))
}

/// Whether a text can name a pool: it becomes a part of a path, and ends up in StorageClasses and messages.
///
/// # Errors
/// What would be right.
pub fn check_name(name: &str) -> std::result::Result<(), &'static str> {
    let inner = name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if inner && !name.is_empty() && name.len() <= 63 && !name.starts_with('-') && !name.ends_with('-') {
        return Ok(());
    }
    Err("want at most 63 of a-z, 0-9 and `-`, beginning and ending with a letter or digit")
}

/// How full the place is where a pool lies, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// All there is.
    pub total: Bytes,
    /// What can still be written.
    pub free: Bytes,
    /// What others than this pool's objects take of it.
    pub foreign: Bytes,
}

/// Something that lies in a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A volume's object and its size.
    Volume(VolumeId, Bytes),
    /// A snapshot's object and its size.
    Snapshot(SnapshotId, Bytes),
    /// What an interrupted verb left: a name, for people.
    Debris(String),
    /// What Rockpool never made.
    Foreign(String),
}

/// What a volume is attached for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// To mount its filesystem. A device lets go by itself when the mount goes.
    Filesystem,
    /// To publish the device itself, which stays until `detach`.
    Block,
    /// To publish a device that refuses writes, which stays until `detach`.
    BlockReadOnly,
}

/// What a workload will see.
#[derive(Debug)]
pub enum Attached {
    /// A directory of the pool.
    Directory(Dir),
    /// A block device.
    Device(Device),
}

/// An attached block device.
#[derive(Debug)]
pub struct Device {
    /// Its node, like `/dev/loop7`.
    pub path: PathBuf,
    /// Its number, as `st_rdev` of the node and as `st_dev` of what is mounted from it.
    pub number: u64,
    /// Held open, since a device that nobody holds may let go.
    pub file: File,
}

/// How bad a problem is, in the terms of the CSI health calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Usable, not as it should be.
    Degraded,
    /// Not usable now.
    Inaccessible,
    /// The bytes are gone.
    DataLoss,
}

/// A device that shows a volume's object, whoever attached it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposed {
    /// The volume whose object it shows, or showed before that was deleted.
    pub volume: VolumeId,
    /// Its node, like `/dev/loop7`.
    pub path: PathBuf,
    /// Its number.
    pub number: u64,
    /// Whether the object is still in the pool.
    pub there: bool,
    /// Whether it stays when nobody has it open.
    pub stays: bool,
    /// Whether it goes past the page cache.
    pub direct: bool,
    /// The object by device and inode.
    device: u64,
    inode: u64,
}

/// Something wrong with a pool or a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// A stable word in CamelCase, like `ImageMissing`.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// A member of a freeze, as its thaw found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thawed {
    /// It was frozen until now, so the cut counts.
    Now,
    /// Somebody else had thawed it.
    Before,
}

/// One frozen thing and the way to thaw it.
pub type Thawing = Box<dyn FnMut() -> Result<Thawed> + Send>;

/// Frozen volumes. They thaw when this is dropped, on every path.
#[must_use = "dropping it thaws at once"]
pub struct Thaw {
    members: Vec<Thawing>,
}

impl Thaw {
    /// Nothing frozen yet.
    pub fn none() -> Self {
        Thaw { members: Vec::new() }
    }

    /// Adds a member right after it was frozen.
    pub fn push(&mut self, member: Thawing) {
        self.members.push(member);
    }

    /// Thaws all. A cut counts only if every member was still frozen.
    ///
    /// # Errors
    /// `Unavailable` when a member had been thawed by somebody else, or refuses to thaw; all others are thawed anyway.
    pub fn thaw(mut self) -> Result<()> {
        let outcomes: Vec<_> = self.members.drain(..).map(|mut member| member()).collect();
        for outcome in outcomes {
            if outcome? == Thawed::Before {
                return Err(Error::Unavailable(
                    "a member was thawed by somebody else during the cut, which therefore does not count; ask again"
                        .to_owned(),
                ));
            }
        }
        Ok(())
    }
}

impl Drop for Thaw {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Err(error) = member() {
                tracing::error!(error = crate::error::chain(&error), "failed to thaw a volume");
            }
        }
    }
}

/// A place where bytes live. Sync and object safe; see the module for the contract.
pub trait Pool: Send + Sync {
    /// Its identity.
    fn id(&self) -> PoolId;

    /// Its kind.
    fn kind(&self) -> Kind;

    /// What it can do here: the kind's table less what this host or filesystem lacks, with the reasons.
    fn features(&self) -> Features;

    /// Where the engine keeps its records, in the directory `records` beside the data; none: in memory, and gone with it.
    fn home(&self) -> Option<&Dir>;

    /// Whether it is there, the same that was opened: enough for what only looks, and for `detach`.
    ///
    /// # Errors
    /// `Unavailable` where it is missing or another.
    fn present(&self) -> Result<()>;

    /// Returns when its disk has answered, and not before: where that takes long, the disk hangs.
    ///
    /// # Errors
    /// Those of the disk.
    fn answers(&self) -> Result<()> {
        Ok(())
    }

    /// Whether it is present and can be changed.
    ///
    /// # Errors
    /// `Unavailable` where it is missing, or takes no changes since its disk failed; `Precondition` where it is read-only.
    fn writable(&self) -> Result<()>;

    /// Proves, whatever failed before, that what is written now becomes durable. Who opens the pool anew then finds on it
    /// what is really there.
    ///
    /// # Errors
    /// What the disk said.
    fn prove(&self) -> Result<()> {
        self.writable()
    }

    /// How full it is.
    fn usage(&self) -> Result<Usage>;

    /// What is physically here, debris included.
    fn scan(&self) -> Result<Vec<Found>>;

    /// The volume's bytes: a fresh filesystem, zeros, or a clone of `want.source`, `want.size` long.
    ///
    /// # Errors
    /// `Corrupt` for a source whose object is gone, `Full`, `Unsupported` with the pool's reason.
    fn create(&self, want: &Volume) -> Result<()>;

    /// At least `size`, also of an attached device; answers the real size. Never shrinks.
    fn grow(&self, id: &VolumeId, size: Bytes) -> Result<Bytes>;

    /// No bytes of it any more; absent is `Ok`, half made is removed. The caller knows that nobody uses it.
    fn destroy(&self, id: &VolumeId) -> Result<()>;

    /// A cut of `want.source` at one moment, under `want.id`; answers the bytes that it holds.
    fn snapshot(&self, want: &Snapshot) -> Result<Bytes>;

    /// No bytes of the snapshot any more; absent is `Ok`.
    fn forget(&self, id: &SnapshotId) -> Result<()>;

    /// The volume as a directory or a device; the one that exists already where there is one.
    fn attach(&self, id: &VolumeId, how: Attach) -> Result<Attached>;

    /// What `attach` would find without attaching; `None` where it is not attached so.
    fn attached(&self, id: &VolumeId, how: Attach) -> Result<Option<Attached>>;

    /// No device any more. The caller knows that nothing is mounted from it.
    fn detach(&self, id: &VolumeId) -> Result<()>;

    /// The volumes of which devices may be attached that stay until `detach`, as far as is remembered. Asks no disk.
    fn held(&self) -> Vec<VolumeId> {
        Vec::new()
    }

    /// What an object carries about itself; `None` where it is not there, and for a group, which has no bytes.
    fn label(&self, _id: ObjectId) -> Result<Option<Label>> {
        Ok(None)
    }

    /// The object carries this copy, in place of the one before: of its own record, or of that of the group it is a member of,
    /// which it carries besides, and of which generation it is. Where the copy does not fit, without what only a retry of the
    /// creation is compared with.
    ///
    /// # Errors
    /// `Corrupt` where the object is not there.
    fn carry(&self, _id: ObjectId, _copy: &Record, _generation: u64) -> Result<()> {
        Ok(())
    }

    /// Every mounted one of `ids` frozen, until the answer is thawed or dropped.
    ///
    /// # Errors
    /// `Precondition` for a volume that cannot be frozen: a raw block device in use.
    fn freeze(&self, ids: &[VolumeId]) -> Result<Thaw>;

    /// What a volume of a pool without a filesystem of its own uses: bytes and inodes; `None` where its mount says it itself.
    fn consumed(&self, _id: &VolumeId) -> Result<Option<Consumed>> {
        Ok(None)
    }

    /// None of `ids` frozen any more, where a process that died froze them: a frozen filesystem outlives its freezer, and
    /// with it hangs every writer. One that is not frozen is fine.
    fn unfreeze(&self, _ids: &[VolumeId]) -> Result<()> {
        Ok(())
    }

    /// A part of a snapshot's content, from an offset on.
    ///
    /// # Errors
    /// `Corrupt` for a snapshot whose object is gone; `Unsupported` with the pool's reason.
    fn part(&self, _id: &SnapshotId, _from: u64) -> Result<Part> {
        Err(Error::Unsupported(NO_COPIES.to_owned()))
    }

    /// Room for the content of a volume that comes from elsewhere, `want.size` long, under a temporary name. Of what was filled
    /// before stays as much as `want` says that counts; what lies behind it reads as zeros again.
    ///
    /// # Errors
    /// `Corrupt` where what is to be there is not; `Full`; `Unsupported` with the pool's reason.
    fn begin(&self, _want: &Volume) -> Result<()> {
        Err(Error::Unsupported(NO_COPIES.to_owned()))
    }

    /// Puts a piece into what was begun. It survives power loss after the next [`Pool::harden`].
    fn fill(&self, _id: &VolumeId, _piece: &Piece) -> Result<()> {
        Err(Error::Unsupported(NO_COPIES.to_owned()))
    }

    /// All that was filled survives power loss. Where that fails, what was filled may be gone: begin again.
    fn harden(&self, _id: &VolumeId) -> Result<()> {
        Err(Error::Unsupported(NO_COPIES.to_owned()))
    }

    /// What was begun is the volume's bytes.
    fn complete(&self, _want: &Volume) -> Result<()> {
        Err(Error::Unsupported(NO_COPIES.to_owned()))
    }

    /// The volumes that were begun and are not complete; `destroy` removes what there is of one.
    fn begun(&self) -> Result<Vec<VolumeId>> {
        Ok(Vec::new())
    }

    /// Removes what was begun of a volume, and nothing that is complete.
    fn discard(&self, _id: &VolumeId) -> Result<()> {
        Err(Error::Unsupported(NO_COPIES.to_owned()))
    }

    /// What is wrong with the pool, or with one volume. Never blocks on a hung disk for long.
    fn health(&self, of: Option<&VolumeId>) -> Vec<Problem>;

    /// What is wrong with the pool (`None`), and with each of `all`, without saying of a volume what is wrong with the pool. What
    /// they share is asked for once, so that thousands of them take no longer than a look at each file.
    fn health_of_all(&self, all: &[VolumeId]) -> Vec<(Option<VolumeId>, Problem)> {
        let of_pool = self.health(None);
        let mut found: Vec<_> = of_pool.iter().cloned().map(|problem| (None, problem)).collect();
        for id in all {
            let own = self.health(Some(id)).into_iter().filter(|problem| !of_pool.contains(problem));
            found.extend(own.map(|problem| (Some(*id), problem)));
        }
        found
    }

    /// Every device that shows an object of this pool, be the object deleted.
    fn exposed(&self) -> Result<Vec<Exposed>> {
        Ok(Vec::new())
    }

    /// Detaches one of [`Pool::exposed`], if it still shows what it did. The caller knows that it is not used.
    fn let_go(&self, _shown: &Exposed) -> Result<()> {
        Ok(())
    }

    /// Removes debris by the name that `scan` gives it. The caller knows that no verb is at work on it.
    fn clear(&self, debris: &str) -> Result<()> {
        Err(Error::Unsupported(format!("`{debris}`: a pool of this kind leaves no debris")))
    }

    /// Regular upkeep: gives back what sparse volumes no longer use.
    fn tend(&self) -> Result<()> {
        Ok(())
    }
}

/// Why a pool neither gives nor takes copies.
const NO_COPIES: &str = "a pool of this kind cannot copy volumes to or from another node";

/// A part of a snapshot's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What there is; `None` where there are only zeros up to `next`.
    pub piece: Option<Piece>,
    /// Where to go on; the size of the snapshot where this was the last.
    pub next: u64,
}

/// What an object carries about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The text of its record, as it was when the bytes were made or last put there by `carry`; none where there was no room,
    /// or no way.
    pub text: Option<Vec<u8>>,
    /// The text of the record of the group that it was cut with; none for what has no group.
    pub group: Option<Vec<u8>>,
    /// How large it is now.
    pub size: Bytes,
    /// The bytes that it holds.
    pub held: Bytes,
}

/// What a volume that is a directory consumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consumed {
    /// Bytes in use.
    pub bytes: Bytes,
    /// Files and directories.
    pub inodes: u64,
}

/// A pool as the configuration describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    /// The operator's name for it.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Its directory, absolute; not used by `sim`.
    pub path: PathBuf,
    /// For a pool in a file: that file, which is mounted at `path` where it is not yet.
    pub file: Option<PathBuf>,
    /// For a pool on a block device: that device, which is mounted at `path` where it is not yet.
    pub device: Option<PathBuf>,
    /// Whether a directory pool must be able to enforce sizes.
    pub quota: Quota,
    /// For `sim`: how large it pretends to be.
    pub size: Option<Bytes>,
}

/// Opens a pool: the one place that knows which kind is which type.
///
/// # Errors
/// `Unavailable` where it is not there; `Busy` where another process has it; `Precondition` where it is not what `setup` says.
pub fn open(setup: &Setup) -> Result<Arc<dyn Pool>> {
    Ok(match setup.kind {
        Kind::Image => Arc::new(image::ImagePool::open(setup)?),
        Kind::Directory => Arc::new(directory::DirectoryPool::open(setup)?),
        Kind::Sim => Arc::new(sim::SimPool::open(setup)?),
    })
}

/// Refuses where not this pool lies at its place, and changes nothing there.
///
/// # Errors
/// `Unavailable` for another pool or none.
pub fn expect(setup: &Setup, known: PoolId) -> Result<()> {
    match setup.kind {
        Kind::Image | Kind::Directory => home::Home::expect(setup, known),
        Kind::Sim => Ok(()),
    }
}

/// Whether a pool that was here surely is not any more: its disk, file or mount is missing or another's. One that is there and fails, or
/// cannot be used, is not gone. Changes nothing.
pub fn is_gone(setup: &Setup, known: PoolId) -> bool {
    match setup.kind {
        Kind::Image | Kind::Directory => home::Home::is_gone(setup, known),
        Kind::Sim => false,
    }
}

/// Opens a pool for one who looks and mends while no driver runs: nothing is mounted, nothing swept away.
///
/// # Errors
/// As [`open`]; `Busy` at once where another process has it.
pub fn examine(setup: &Setup) -> Result<Arc<dyn Pool>> {
    Ok(match setup.kind {
        Kind::Image => Arc::new(image::ImagePool::over(home::Home::examine(setup)?)?),
        Kind::Directory => Arc::new(directory::DirectoryPool::over(home::Home::examine(setup)?, setup)?),
        Kind::Sim => return Err(Error::Unsupported("it lies in the memory of the driver".to_owned())),
    })
}

/// The kind of the pool in a directory, as its marker says.
///
/// # Errors
/// `Precondition` where no pool lies there.
pub fn kind_at(path: &Path) -> Result<Kind> {
    home::kind_at(path)?.parse()
}

/// Whether the pool in a directory enforces sizes, as far as it shows.
///
/// # Errors
/// Those of the disk.
pub fn quota_at(path: &Path) -> Result<Quota> {
    Ok(if home::has_limits(path)? { Quota::Project } else { Quota::None })
}

/// A pool as it lies there, seen while a driver may be at work in it.
#[derive(Debug)]
pub struct Visit {
    /// Its identity.
    pub id: PoolId,
    /// Where the records lie.
    pub root: Dir,
    /// What it can do here.
    pub features: Features,
    /// Whether its filesystem is mounted read-only, in words.
    pub read_only: Option<String>,
    /// All there is, in bytes.
    pub total: Bytes,
    /// What is taken of it, by whomever.
    pub used: Bytes,
}

/// Looks at a pool without its lock, and without mounting it. A pool in memory cannot be seen from outside.
///
/// # Errors
/// `Unavailable` where it is not there, `Precondition` where it is not what `setup` says, `Unsupported` for `sim`.
pub fn visit(setup: &Setup) -> Result<Visit> {
    if setup.kind == Kind::Sim {
        return Err(Error::Unsupported("it lies in the memory of the driver".to_owned()));
    }
    let home = home::Home::visit(setup)?;
    let features = match setup.kind {
        Kind::Image => image::features(&home)?,
        Kind::Directory => directory::features(&home, setup)?,
        Kind::Sim => setup.kind.features(),
    };
    let space = home.space()?;
    let read_only = home.writable().err().map(|error| crate::error::chain(&error));
    Ok(Visit {
        id: home.id(),
        features,
        read_only,
        total: space.total,
        used: space.used,
        root: home.into_root(),
    })
}

/// Whether the size of a directory volume must be enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quota {
    /// By project quota; without it the pool refuses to open.
    #[default]
    Project,
    /// Not enforced, and said so wherever a size is shown.
    None,
}
