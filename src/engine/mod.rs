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
mod lend;
mod mounts;
mod news;
mod notes;
mod open;
mod publish;
mod rebuild;
mod receive;
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
    Asked, Bytes, Filesystem, Group, ObjectId, Offer, PoolId, Range, Retention, Snapshot, SnapshotId, Volume,
    VolumeId,
};
use crate::os::mount::MountOption;
use crate::pool::{Pool, Setup};
pub use crate::pool::{Problem, Severity, Usage};

pub use self::doctor::{Code, Finding, Mended, SILENT_AFTER, Weight};
pub use self::lend::Lent;
pub use self::news::Room;
pub use self::receive::{Received, Receiving};
pub use self::recover::Recoveries;
pub use self::retained::{Purged, Retained};
pub use self::slot::Seen;
use self::slot::Slot;
pub use self::store::Listed;
use self::store::{Store, Tally};
use self::workers::Workers;

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
    /// What goes to other nodes or comes from them, as this process has seen it.
    journeys: receive::Journeys,
    recoveries: Recoveries,
    ready: AtomicBool,
    /// Held while a pool's identity is compared with those of the others.
    identities: Mutex<()>,
    opener: Opener,
}

/// A configured pool, by its place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolIndex(usize);

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

/// A group and its members, in the order of its sources.
pub type Whole = (Arc<Group>, Vec<Arc<Snapshot>>);

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
    /// Whether its records were read, and its disk is surely not here any more.
    pub gone: bool,
    /// Why it cannot be changed, though it can be read.
    pub read_only: Option<String>,
    /// How many of its records cannot be read.
    pub quarantined: u64,
    /// What records promise.
    pub promised: Bytes,
    /// What may be promised in all.
    pub budget: Bytes,
    /// The part of what is promised that is deleted and still kept.
    pub retained: Bytes,
    /// How full it was when that was last asked; none before it was ever open.
    pub usage: Option<Usage>,
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

    /// The volume with this name, where there is one.
    ///
    /// # Errors
    /// `Unavailable` where nobody can say: it is unfinished, its pool is away, its record or those of a pool cannot be read.
    pub fn volume_named(&self, name: &str) -> Result<Option<Arc<Volume>>> {
        let key = Key::VolumeName(name.to_owned());
        let Some(found) = self.store.named(&key).and_then(store::Record::into_volume) else {
            self.store.refuse_quarantined(&key)?;
            return self.complete().map(|()| None);
        };
        match self.volume(&found.id) {
            Err(Error::NotFound(_)) => {
                Err(Error::Unavailable(format!("{key}: what an earlier call began is unfinished; ask again")))
            }
            found => found.map(Some),
        }
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
            gone: slot.is_gone() && id.is_some_and(|id| self.store.has_read(id)),
            read_only: slot.refusal(),
            quarantined: id.map_or(0, |id| self.store.quarantined_in(id) as u64),
            promised: id.map_or(Bytes::ZERO, |id| self.store.promised(id)),
            budget: slot.known().map_or(Bytes::ZERO, |known| known.budget),
            retained: id.map_or(Bytes::ZERO, |id| self.store.retained_bytes(id)),
            usage: slot.known().map(|known| known.usage),
        }
    }

    /// What is on record in every configured pool, and what regular looks have seen there, in their order. Asks no disk.
    pub fn tallies(&self) -> Vec<(Tally, Seen)> {
        let tally = |slot: &Slot| slot.id().map_or_else(Tally::default, |id| self.store.tally(id));
        self.pools.iter().map(|slot| (tally(slot), slot.seen())).collect()
    }

    /// What became of interrupted work since the start.
    pub fn recoveries(&self) -> &Recoveries {
        &self.recoveries
    }
}

/// The part of it that the mounts of this host decide.
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
