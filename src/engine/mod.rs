//! The life of a volume: what CreateVolume, NodeStageVolume and their kin really do.
//!
//! Owns: records and claims (`store`), the verbs (`volumes`, `snapshots`, `groups`), stage and publish (`mounts`,
//! `notes`, `usage`), what is kept after its deletion (`retained`, `clock`), what is wrong (`doctor`), and what finishes or undoes interrupted work (`recover`). Never: knows gRPC, pool kinds or programs.
//!
//! Every verb is synchronous and runs on its pool's own threads (`workers`), which alone have the pool's files open
//! (`slot`), so that a hung disk takes nothing else along, not even after the process was killed.
//! A change opens with a durable record and ends with one; whoever changes something holds its claim.

mod absent;
mod capacity;
mod claims;
mod clock;
mod doctor;
pub mod fences;
mod freezes;
mod groups;
mod health;
mod mounts;
mod notes;
mod open;
mod publish;
mod rebuild;
mod recover;
mod retained;
mod slot;
mod snapshots;
mod spare;
mod stage;
pub mod store;
mod usage;
mod volumes;
pub mod workers;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use crate::error::{Error, Result, quoted};
use crate::model::{
    Access, Allocation, Bytes, Claim, Filesystem, Group, ObjectId, Parameters, PoolId, Retention, Snapshot,
    SnapshotId, Source, Volume, VolumeId,
};
use crate::os::mount::MountOption;
pub use crate::pool::{Features, Offer, Problem, Severity};
use crate::pool::{Pool, Setup};

pub use self::doctor::{Code, Finding, Mended, SILENT_AFTER, Weight};
pub use self::retained::{Purged, Retained};
use self::slot::Slot;
pub use self::store::Listed;
use self::store::Store;
use self::workers::Workers;

/// The size of a volume for which none was asked.
pub const DEFAULT_SIZE: Bytes = Bytes::GIB;

/// A pool and the promises that may be made on it.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolConfig {
    /// How to open it.
    pub setup: Setup,
    /// How many times its size may be promised; 1.0 promises only what is there.
    pub overcommit: f64,
    /// The share of it that is never promised, from 0.0 to 0.9.
    pub reserve: f64,
    /// How long what is deleted is kept, where its class does not say.
    pub retain: Retention,
}

/// What the engine is told at its start.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineConfig {
    /// The pools in the operator's order.
    pub pools: Vec<PoolConfig>,
    /// Staging and target paths must lie below it.
    pub kubelet_root: PathBuf,
    /// Where the notes about mounts lie; means nothing after a reboot.
    pub state_dir: PathBuf,
    /// Who has the pools' files.
    pub files: Files,
}

/// Who has the files of a pool, and so may call the verbs that concern it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// The pool's own threads alone, which [`Engine::workers`] gives: nothing else hangs with a disk, even after a kill.
    Apart,
    /// Every thread: for a program that makes one call after the other and can hang with its disk.
    Shared,
}

/// What opens a pool as the configuration describes it; `pool::open` but where a test brings its own.
pub type Opener = Box<dyn Fn(&Setup) -> Result<Arc<dyn Pool>> + Send + Sync>;

/// Everything on this node.
pub struct Engine {
    pools: Vec<Slot>,
    store: Store,
    clocks: clock::Clocks,
    host: Workers,
    /// For what concerns a pool that is not known here, mounts of it above all.
    strangers: Workers,
    kubelet_root: PathBuf,
    /// The same without symlinks, as the mount table spells it.
    real_root: PathBuf,
    notes: notes::Notes,
    fences: fences::Fences,
    freezes: freezes::Freezes,
    ready: AtomicBool,
    /// Held while a pool's identity is compared with those of the others.
    identities: Mutex<()>,
    opener: Opener,
}

/// A configured pool, by its place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolIndex(usize);

/// A size as asked for, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// At least this.
    pub required: Option<Bytes>,
    /// At most this.
    pub limit: Option<Bytes>,
}

/// An access type as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A filesystem; `None` takes what the volume has, or the pool's default.
    Mount(Option<Filesystem>),
    /// A raw block device.
    Block,
}

/// How many may use a volume, and for what. Multi-node modes do not exist here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// SINGLE_NODE_WRITER: one workload.
    Writer,
    /// SINGLE_NODE_READER_ONLY: one workload, which only reads.
    Reader,
    /// SINGLE_NODE_SINGLE_WRITER: one workload.
    SingleWriter,
    /// SINGLE_NODE_MULTI_WRITER: any number of workloads on the node.
    MultiWriter,
}

/// One volume capability, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Mount or block.
    pub asked: Asked,
    /// Who may use it.
    pub mode: Mode,
    /// The mount flags as sent. Never logged.
    pub flags: Vec<String>,
}

/// A CreateVolume call, checked field by field.
#[derive(Clone, Debug)]
pub struct CreateVolume {
    /// The key of idempotency.
    pub name: String,
    /// The size asked for.
    pub range: Range,
    /// Mount or block; all capabilities of the call agree on it.
    pub asked: Asked,
    /// The pool by name; `None` lets the engine choose.
    pub pool: Option<String>,
    /// Sparse or reserved.
    pub allocation: Allocation,
    /// All StorageClass parameters but the claim's metadata, as sent.
    pub parameters: Parameters,
    /// The claim it is for.
    pub claim: Option<Claim>,
    /// What it is made from.
    pub source: Source,
}

/// A CreateSnapshot call, checked.
#[derive(Clone, Debug)]
pub struct CreateSnapshot {
    /// The key of idempotency.
    pub name: String,
    /// The volume to cut.
    pub source: VolumeId,
    /// The class parameters but the metadata.
    pub parameters: Parameters,
}

/// A CreateVolumeGroupSnapshot call, checked.
#[derive(Clone, Debug)]
pub struct CreateGroup {
    /// The key of idempotency.
    pub name: String,
    /// The volumes to cut together, in any order, without duplicates.
    pub sources: Vec<VolumeId>,
    /// The class parameters but the metadata.
    pub parameters: Parameters,
}

/// A group and its members, in the order of its sources.
pub type Whole = (Arc<Group>, Vec<Arc<Snapshot>>);

/// A question about room.
#[derive(Clone, Debug, Default)]
pub struct CapacityQuery {
    /// In this pool only.
    pub pool: Option<String>,
    /// For volumes of this access only.
    pub asked: Option<Asked>,
    /// For volumes allocated so.
    pub allocation: Allocation,
}

/// What can still be made, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// In all.
    pub available: Bytes,
    /// The largest single volume.
    pub maximum: Bytes,
    /// The smallest single volume.
    pub minimum: Bytes,
}

/// Whether the node has something left to do after an expansion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeExpansion {
    /// A filesystem must grow.
    Required,
    /// Nothing.
    NotRequired,
}

/// A NodeStageVolume call, checked.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Which volume.
    pub volume: VolumeId,
    /// The staging directory.
    pub staging: PathBuf,
    /// How it will be used.
    pub capability: Capability,
}

/// Whether a target only reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Writes {
    /// Writes are refused.
    Refused,
    /// Writes are allowed, unless the mode or a flag refuses them.
    Allowed,
}

/// A NodePublishVolume call, checked.
#[derive(Clone, Debug)]
pub struct Publish {
    /// Which volume.
    pub volume: VolumeId,
    /// Where it is staged.
    pub staging: PathBuf,
    /// Where the workload will see it.
    pub target: PathBuf,
    /// How it will be used.
    pub capability: Capability,
    /// `readonly` of the call.
    pub writes: Writes,
}

/// A NodeExpandVolume call, checked.
#[derive(Clone, Debug)]
pub struct NodeExpand {
    /// Which volume.
    pub volume: VolumeId,
    /// Where it is staged or published.
    pub path: PathBuf,
    /// The size asked for.
    pub range: Range,
    /// The access type, where the call says it.
    pub asked: Option<Asked>,
}

/// What a volume holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Bytes.
    pub bytes: Amount,
    /// Inodes; none for a block volume.
    pub inodes: Option<Amount>,
}

/// Of something that runs out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// All.
    pub total: u64,
    /// Taken.
    pub used: u64,
    /// Left to an unprivileged user.
    pub available: u64,
}

/// A pool as `pool show` and health checks see it.
#[derive(Clone, Debug)]
pub struct PoolView {
    /// The operator's name for it.
    pub name: String,
    /// Its configuration.
    pub config: PoolConfig,
    /// Its id, where it is or was open.
    pub id: Option<PoolId>,
    /// Why it cannot be used.
    pub away: Option<String>,
    /// Why it cannot be changed, though it can be read.
    pub read_only: Option<String>,
    /// What records promise.
    pub promised: Bytes,
    /// What may be promised in all.
    pub budget: Bytes,
    /// The part of what is promised that is deleted and still kept.
    pub retained: Bytes,
}

impl Engine {
    /// Whether the records of every configured pool were read since the start: a list without them would be short, and
    /// collectors delete what is not listed; a name that is not found may be there. Asks no disk.
    ///
    /// # Errors
    /// `Unavailable` with the pool that is missing and why.
    pub fn complete(&self) -> Result<()> {
        self.unread().next().map_or(Ok(()), |(_, why)| {
            Err(Error::Unavailable(format!("what lies in a pool that is away is not known: {why}")))
        })
    }

    /// The pools, by name, whose records were not read since the start, and why. Asks no disk.
    pub fn unread(&self) -> impl Iterator<Item = (String, String)> {
        let unread = self.pools.iter().filter(|slot| !slot.id().is_some_and(|id| self.store.has_read(id)));
        unread.map(|slot| {
            let why = slot.trouble().map_or_else(String::new, |error| crate::error::chain(&error));
            (slot.name().to_owned(), why)
        })
    }

    /// Up to `max` usable volumes with ids after `after`, in ascending order.
    pub fn volumes(&self, after: Option<VolumeId>, max: usize) -> Vec<Arc<Volume>> {
        self.store.volumes(after, max)
    }

    /// The same, with those whose record cannot be read, as its copy has them: a collector deletes what is not listed.
    pub fn listed(&self, after: Option<VolumeId>, max: usize) -> Vec<(VolumeId, Option<Arc<Volume>>)> {
        self.store.listed(after, max)
    }

    /// The volume with this name, if it is usable.
    pub fn volume_named(&self, name: &str) -> Option<Arc<Volume>> {
        let found = self.store.named(&Key::VolumeName(name.to_owned()))?.into_volume()?;
        self.volume(&found.id).ok()
    }

    /// Up to `max` snapshots with ids after `after`, in ascending order, of one volume or of all; also those that nobody can use
    /// before a record is rebuilt: a collector deletes what is not listed.
    ///
    /// # Errors
    /// `Unavailable` for one of which nothing says what it is a snapshot of.
    pub fn listed_snapshots(
        &self,
        after: Option<SnapshotId>,
        of: Option<VolumeId>,
        max: usize,
    ) -> Result<Vec<Listed>> {
        self.store.listed_snapshots(after, of, max)
    }

    /// The threads of the pool that owns an object; for a pool that is not known here, threads that touch none.
    pub fn workers(&self, pool: PoolId) -> &Workers {
        self.slot_of(pool).map_or(&self.strangers, |slot| &slot.workers)
    }

    /// Every configured pool.
    pub fn indexes(&self) -> impl Iterator<Item = PoolIndex> + use<> {
        (0..self.pools.len()).map(PoolIndex)
    }

    /// The threads of a configured pool.
    pub fn workers_at(&self, index: PoolIndex) -> &Workers {
        &self.pools[index.0].workers
    }

    /// The threads of the configured pool of this name; for any other name, threads that touch none.
    pub fn workers_named(&self, name: &str) -> &Workers {
        let named = self.pools.iter().find(|slot| slot.name() == name);
        named.map_or(&self.host, |slot| &slot.workers)
    }

    /// The threads for calls that touch no pool's files.
    pub fn host_workers(&self) -> &Workers {
        &self.host
    }

    /// Refuses, without a thread, what another call works on: it might hang, and whoever waits behind it as well.
    ///
    /// # Errors
    /// `Busy`.
    pub fn refuse_taken(&self, keys: &[Key]) -> Result<()> {
        self.store.refuse_taken(keys)
    }

    /// The turn of a call that changes an object, taken when the call is accepted and kept until it ended: a caller who gave
    /// up may ask for the opposite next, and what it gave up must not take effect after that was answered. Waits for nobody.
    ///
    /// # Errors
    /// `Busy` while another call has it, or works on the object.
    pub fn turn(&self, id: ObjectId) -> Result<claims::Claim> {
        let turn = self.store.claim(&[Key::Turn(id)], &[])?;
        self.refuse_taken(&[Key::Object(id)])?;
        Ok(turn)
    }

    /// The pool with this id, open and present. To be called on its threads.
    ///
    /// # Errors
    /// `Unavailable` where it is not configured here or away.
    pub(crate) fn pool(&self, id: PoolId) -> Result<Arc<dyn Pool>> {
        let Some(slot) = self.slot_of(id) else {
            let away: Vec<_> = self.pools.iter().filter(|slot| slot.id().is_none()).collect();
            let away: Vec<_> =
                away.into_iter().filter_map(Slot::trouble).map(|why| format!("; {why}")).collect();
            return Err(Error::Unavailable(format!(
                "pool {id} is not connected to this node; nothing was done, ask again when it is back{}",
                away.concat()
            )));
        };
        let pool = slot.open()?;
        pool.present()?;
        Ok(pool)
    }

    /// The pool with this id, open, present, and such that it can be changed. To be called on its threads.
    ///
    /// # Errors
    /// As `pool`; `Unavailable` too where its disk failed, `Precondition` where it is read-only.
    pub(crate) fn writable(&self, id: PoolId) -> Result<Arc<dyn Pool>> {
        let pool = self.pool(id)?;
        pool.writable()?;
        Ok(pool)
    }

    /// Refuses what cannot be asked: memory may know an object whose pool is away, but not whether it is still there. On
    /// other threads than the pool's it goes by what was last known.
    fn refuse_away(&self, id: PoolId) -> Result<()> {
        if let Some(slot) = self.slot_of(id).filter(|slot| !slot.is_here()) {
            return slot.trouble().map_or(Ok(()), Err);
        }
        match self.pool(id) {
            Err(Error::Unavailable(why)) => Err(Error::Unavailable(why)),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The configured pool of that name.
    fn slot(&self, name: &str) -> Result<&Slot> {
        self.pools.iter().find(|slot| slot.name() == name).ok_or_else(|| {
            let names: Vec<_> = self.pools.iter().map(|slot| quoted(slot.name())).collect();
            Error::invalid("parameters[pool]", name, format!("want one of {}", names.join(", ")))
        })
    }

    /// The slot that holds an open pool.
    fn slot_of(&self, id: PoolId) -> Option<&Slot> {
        self.pools.iter().find(|slot| slot.id() == Some(id))
    }

    /// Every configured pool, as it was last seen.
    pub fn pools(&self) -> Vec<PoolView> {
        self.pools.iter().map(|slot| self.view(slot)).collect()
    }

    /// The name of the pool that a volume or snapshot lies in.
    pub fn pool_name(&self, id: PoolId) -> Option<&str> {
        self.slot_of(id).map(Slot::name)
    }

    /// Whether the pool limits the size of its volumes; the reason where it does not.
    pub fn size_limit(&self, id: PoolId) -> Offer {
        let known = self.slot_of(id).and_then(Slot::known);
        known.map_or(Offer::Yes, |known| known.features.size_limit)
    }

    fn view(&self, slot: &Slot) -> PoolView {
        let id = slot.id();
        PoolView {
            name: slot.name().to_owned(),
            config: slot.config.clone(),
            id,
            away: slot.trouble().map(|error| crate::error::chain(&error)),
            read_only: slot.refusal(),
            promised: id.map_or(Bytes::ZERO, |id| self.store.promised(id)),
            budget: slot.known().map_or(Bytes::ZERO, |known| known.budget),
            retained: id.map_or(Bytes::ZERO, |id| self.store.retained_bytes(id)),
        }
    }
}

impl Range {
    /// The size to make: what is required, at least `smallest`, whole units, within the limit.
    ///
    /// # Errors
    /// `OutOfRange` where that is impossible.
    pub fn settle(&self, smallest: Bytes, default: Bytes) -> Result<Bytes> {
        let unit = crate::pool::UNIT;
        let wanted = match (self.required, self.limit) {
            (Some(required), _) => required.max(smallest),
            (None, Some(limit)) => default.min(limit.round_down(unit)).max(smallest),
            (None, None) => default.max(smallest),
        };
        // Without a limit the pool says what is too much, and how much it can give.
        let fits = |size: &Bytes| self.limit.is_none_or(|limit| *size <= limit);
        let size = wanted.checked_round_up(unit).filter(fits);
        size.ok_or_else(|| {
            Error::OutOfRange(format!(
                "capacity_range: required_bytes {} and limit_bytes {} leave no possible size: sizes are multiples of \
                 {} bytes, here at least {}",
                self.required.map_or("unset".to_owned(), |b| b.get().to_string()),
                self.limit.map_or("unset".to_owned(), |b| b.get().to_string()),
                unit.get(),
                smallest.get(),
            ))
        })
    }

    /// Whether a size satisfies it.
    pub fn holds(&self, size: Bytes) -> bool {
        self.required.is_none_or(|required| size >= required) && self.limit.is_none_or(|limit| size <= limit)
    }
}

impl Asked {
    /// Checks mount flags against the allow-list; where no filesystem is asked for, against that of every one.
    ///
    /// # Errors
    /// `Invalid` with the flag's position.
    pub fn allows(self, flags: &[String]) -> Result<()> {
        let allowed = |fs: Filesystem| MountOption::parse_all(flags, fs.name()).map(drop);
        match self {
            Asked::Mount(Some(fs)) => allowed(fs),
            Asked::Mount(None) => allowed(Filesystem::Ext4).or_else(|_| allowed(Filesystem::Xfs)),
            Asked::Block if flags.is_empty() => Ok(()),
            Asked::Block => {
                Err(Error::Invalid("mount_flags: want none, a block volume is not mounted".to_owned()))
            }
        }
    }

    /// Whether a volume of this access satisfies it.
    pub fn fits(self, access: Access) -> bool {
        match (self, access) {
            (Asked::Block, Access::Block) | (Asked::Mount(None), Access::Mount { .. }) => true,
            (Asked::Mount(Some(asked)), Access::Mount { fs }) => asked == fs,
            (Asked::Block, Access::Mount { .. }) | (Asked::Mount(_), Access::Block) => false,
        }
    }
}

/// What a claim is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// The name of a volume.
    VolumeName(String),
    /// The name of a snapshot.
    SnapshotName(String),
    /// The name of a group.
    GroupName(String),
    /// A volume, snapshot or group.
    Object(ObjectId),
    /// The turn of a call on one that was accepted and may still wait for its thread.
    Turn(ObjectId),
}
