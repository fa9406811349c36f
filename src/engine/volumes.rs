//! Volumes: create, delete, grow.
//!
//! Owns: which pool takes a volume, what a retry may find, and the order of record and bytes. Never: mounts anything.
//!
//! Create                                           After a crash (`recover`)
//!  1. claim the name, share the source             –
//!  2. the name exists: compare, answer             –
//!  3. record `Creating`, within the budget          destroy, erase
//!  4. the pool makes the bytes                      destroy, erase
//!  5. record `Ready`                                the retry finds it
//!
//! Delete                                           After a crash
//!  1. claim it; in use: refuse                     –
//!     kept for a while: `retained` takes over      –
//!  2. record `Deleting`: the commit point           destroy, erase
//!  3. the pool destroys the bytes                   destroy, erase
//!  4. erase the record                              –

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::health::refuse_cut_short;
use crate::engine::receive::refuse_received;
use crate::engine::retained::Fate;
use crate::engine::slot::Slot;
use crate::engine::store::Record;
use crate::engine::{Engine, Key, NodeExpansion, PoolIndex};
use crate::error::{Error, Result, escaped, quoted};
use crate::model::{
    Access, Allocation, Asked, Bytes, CreateVolume, DEFAULT_SIZE, Features, Filesystem, FsUuid, ObjectId,
    Offer, Phase, Range, Snapshot, Source, Time, Volume, VolumeId, becomes,
};
use crate::os::file::random;
use crate::pool::{Attach, Attached, Pool};

/// What a volume will be cut from: the parts of a volume's or a snapshot's record that it inherits.
pub(super) struct Origin {
    pub(super) id: ObjectId,
    /// How many bytes it has at least.
    pub(super) holds: Bytes,
    /// How large it is, or becomes with the growth that it is in.
    pub(super) size: Bytes,
    pub(super) access: Access,
    pub(super) fs_uuid: Option<FsUuid>,
}

/// What speaks for a pool where none is asked for, the best first. Lack of room says more than a pool that is away, which
/// may have room or not; lack of a feature says least: with the others back, one of them might have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fitness {
    Fit,
    Slow,
    Full,
    Away,
    Unfit,
}

/// A pool that has been at one job for so long may hang.
pub(super) const SLOW: Duration = Duration::from_secs(5);

impl Engine {
    /// The usable volume with this id.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` where its pool is away or its record cannot be read.
    pub fn volume(&self, id: &VolumeId) -> Result<Arc<Volume>> {
        let volume = self.usable(id)?;
        self.refuse_away(id.pool())?;
        Ok(volume)
    }

    /// The same as memory knows it, without a question to its pool.
    pub(super) fn usable(&self, id: &VolumeId) -> Result<Arc<Volume>> {
        let volume = self.store.volume(id);
        volume.filter(|volume| is_usable(volume)).ok_or_else(|| self.absent(ObjectId::Volume(*id)))
    }

    /// A volume as asked for, made now or by an earlier call of the same name.
    ///
    /// # Errors
    /// `Conflict` where the name is taken by something else, `Full`, `OutOfRange`, `Invalid`, `NotFound` for the source,
    /// `Busy`; after each of them nothing is left. `Unavailable` where the outcome is open.
    pub fn create_volume(&self, want: &CreateVolume) -> Result<Arc<Volume>> {
        self.create_volume_at(self.choose(want)?, want)
    }

    /// The same, on the threads of the pool that was chosen for it.
    ///
    /// # Errors
    /// As `create_volume`; `Busy` where another pool has become the right one since.
    pub fn create_volume_at(&self, index: PoolIndex, want: &CreateVolume) -> Result<Arc<Volume>> {
        let slot = &self.pools[index.0];
        let name = Key::VolumeName(want.name.clone());
        let source = source_key(&want.source);
        let mut claim = self.store.claim(std::slice::from_ref(&name), source.as_slice())?;
        let others = self.right_pool(want).is_some_and(|right| !std::ptr::eq(right, slot));
        if others {
            let name = quoted(&want.name);
            return Err(Error::Busy(format!(
                "volume name {name}: it now belongs to another pool; ask again"
            )));
        }
        if let Some(Record::Volume(found)) =
            self.store.named(&name).filter(|found| found.phase() != Phase::Ready)
        {
            claim.extend(&[Key::Object(ObjectId::Volume(found.id))])?;
            let record = Record::Volume(Arc::clone(&found));
            if self.has_met_its_source(&found, want)? {
                self.remove_going(&claim, &record)?;
                let name = quoted(&want.name);
                return Err(Error::Busy(format!(
                    "volume name {name}: its source has come to this node meanwhile, where it is cloned; ask again"
                )));
            }
            refuse_received(&found, want)?;
            let pool = self.writable_for(&record)?;
            match self.settle(&claim, pool.as_ref(), &record) {
                // A growth that is over without success is no matter of who asks for the volume itself.
                Ok(()) | Err(Error::Full(_) | Error::Corrupt(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(Record::Volume(found)) = self.store.named(&name) {
            self.refuse_away(found.id.pool())?;
            return match difference(&found, want) {
                None => Ok(found),
                Some(what) => {
                    Err(Error::Conflict(format!("volume {} exists with {what}", quoted(&want.name))))
                }
            };
        }
        self.store.refuse_quarantined(&name)?;
        if want.pool.is_none() && want.source == Source::Blank {
            // It may lie, under this name, in a pool whose records nobody has read yet.
            self.complete()?;
        }
        let origin = self.origin(&want.source)?;
        let volume = self.plan(slot, want, origin.as_ref())?;
        let size = volume.size;
        let (pool, budget) = slot.ready()?;
        if let Some(origin) = &origin {
            refuse_cut_short(pool.as_ref(), origin.id, origin.holds)?;
        }
        claim.extend(&[Key::Object(ObjectId::Volume(volume.id))])?;
        let creating = Record::Volume(Arc::new(volume));
        self.store
            .admit(&claim, creating.clone(), budget)
            .map_err(|error| self.named_full(slot, size, error))?;
        step!("create: recorded");
        let Record::Volume(volume) = &creating else { unreachable!("it was made a volume above") };
        let ready = Arc::new(Volume { phase: Phase::Ready, ..Volume::clone(volume) });
        let made = pool.create(volume).and_then(|()| {
            step!("create: bytes made");
            self.store.put(&claim, Record::Volume(Arc::clone(&ready)))
        });
        step!("create: ready");
        match made {
            Ok(()) => Ok(ready),
            Err(cause) => {
                Err(self.named_full(slot, size, self.undo(&claim, pool.as_ref(), &creating, cause)))
            }
        }
    }

    /// No such volume any more, unless for an operator who may restore it; one that never was is `Ok` too, if its pool is
    /// here to say so.
    ///
    /// # Errors
    /// `Precondition` while it is staged or published; `Busy`; `Unavailable` where its pool is away.
    pub fn delete_volume(&self, id: &VolumeId) -> Result<()> {
        let mut claim = self.store.claim(&[Key::Object(ObjectId::Volume(*id))], &[])?;
        let Some(volume) = self.store.volume(id) else {
            return self.known_gone(ObjectId::Volume(*id));
        };
        let record = Record::Volume(Arc::clone(&volume));
        let pool = self.writable_for(&record)?;
        let deleting = record.in_phase(Phase::Deleting);
        match volume.phase {
            Phase::Retained { .. } => return Ok(()),
            Phase::Deleting => {}
            Phase::Creating
            | Phase::Receiving { .. }
            | Phase::Lent { .. }
            | Phase::Ready
            | Phase::Growing { .. } => {
                claim.extend(&[record.name()])?;
                // What has no place yet nobody can use.
                if !matches!(volume.phase, Phase::Receiving { .. }) {
                    self.refuse_if_used(pool.as_ref(), &volume)?;
                }
                if self.keep(&claim, pool.as_ref(), &record)? == Fate::Kept {
                    return Ok(());
                }
                self.store.condemn(&claim, pool.as_ref(), deleting.clone())?;
                step!("delete: condemned");
            }
        }
        self.settle(&claim, pool.as_ref(), &deleting)?;
        self.journeys.forget(record.id());
        Ok(())
    }

    /// At least as large as asked for.
    ///
    /// # Errors
    /// `OutOfRange` where the limit is below its size, `Full` with the old size intact, `Invalid` for the wrong access type.
    pub fn expand_volume(
        &self,
        id: &VolumeId,
        range: &Range,
        asked: Option<Asked>,
    ) -> Result<(Arc<Volume>, NodeExpansion)> {
        let claim = self.store.claim(&[Key::Object(ObjectId::Volume(*id))], &[])?;
        let mut volume = self.volume(id)?;
        if let Some(asked) = asked.filter(|asked| !asked.fits(volume.access)) {
            return Err(Error::invalid(
                "volume_capability",
                show(asked),
                format!("{id} is {}", volume.access),
            ));
        }
        let slot = self.slot_of(id.pool()).ok_or_else(|| self.absent(ObjectId::Volume(*id)))?;
        if let Phase::Growing { to, .. } = volume.phase {
            let pool = self.writable_for(&Record::Volume(Arc::clone(&volume)))?;
            volume = self.grow(&claim, pool.as_ref(), &volume, to)?;
        }
        let (pool, budget) = slot.ready()?;
        let size = range.settle(volume.size, volume.size)?;
        if size > volume.size {
            slot.refuse_beyond(pool.as_ref(), range, size, budget)?;
            let more = size.less(volume.size);
            let phase = Phase::Growing { to: size, asked: rounded(range, size) };
            let growing = Volume { phase, ..Volume::clone(&volume) };
            let admitted = self.store.admit(&claim, Record::Volume(Arc::new(growing.clone())), budget);
            if let Err(error) = admitted {
                let full = matches!(error, Error::Full(_));
                // Else it is not known what reached the disk of it.
                return Err(if full { self.named_full(slot, more, error) } else { error.unfinished() });
            }
            step!("expand: recorded");
            let grown = self.grow(&claim, pool.as_ref(), &growing, size);
            volume = grown.map_err(|error| self.named_full(slot, more, error))?;
        }
        let left = match volume.access {
            Access::Mount { fs: Filesystem::Ext4 | Filesystem::Xfs } => NodeExpansion::Required,
            Access::Mount { fs: Filesystem::Shared } | Access::Block => NodeExpansion::NotRequired,
        };
        Ok((volume, left))
    }

    /// What the source of a new volume is, which must exist and be whole.
    pub(super) fn origin(&self, source: &Source) -> Result<Option<Origin>> {
        Ok(match source {
            Source::Blank => None,
            Source::Volume(id) => {
                let volume = self.volume(id)?;
                let Volume { access, fs_uuid, size: holds, .. } = *volume;
                Some(Origin { id: ObjectId::Volume(*id), holds, size: volume.reach(), access, fs_uuid })
            }
            Source::Snapshot(id) => {
                let snapshot = self.snapshot(id)?;
                let Snapshot { size, access, fs_uuid, .. } = *snapshot;
                Some(Origin { id: ObjectId::Snapshot(*id), holds: size, size, access, fs_uuid })
            }
        })
    }

    /// The pool that a new volume goes to: the one that has its name, else that of its source, else the one that is asked
    /// for. Without any, the first that can make it and has room, as far as is known without asking a disk; better one
    /// that works at nothing for long, which may hang. Where none has room, the one that comes nearest says so.
    ///
    /// # Errors
    /// `Full` where no pool is configured.
    pub fn choose(&self, want: &CreateVolume) -> Result<PoolIndex> {
        let asked = || self.pools.iter().find(|slot| want.pool.as_deref() == Some(slot.name()));
        let chosen = self.right_pool(want).or_else(asked);
        let chosen = chosen.or_else(|| self.pools.iter().min_by_key(|slot| self.rank(slot, want)));
        let number =
            self.pools.iter().position(|slot| chosen.is_some_and(|chosen| std::ptr::eq(slot, chosen)));
        number.map(PoolIndex).ok_or_else(|| Error::Full("no pool is configured".to_owned()))
    }

    /// The only pool that can take the volume: it has its name, or its source.
    fn right_pool(&self, want: &CreateVolume) -> Option<&Slot> {
        let found = self.store.named(&Key::VolumeName(want.name.clone())).map(|found| found.id().pool());
        found.or_else(|| source_pool(&want.source)).and_then(|id| self.slot_of(id))
    }

    /// How late a pool is asked: by its fitness, and among those without room by what they lack.
    pub(super) fn rank(&self, slot: &Slot, want: &CreateVolume) -> (Fitness, Reverse<Bytes>) {
        let fitness = self.fitness(slot, want);
        let nearness = match fitness {
            // The operator's order counts.
            Fitness::Fit | Fitness::Slow | Fitness::Away => Bytes::ZERO,
            Fitness::Full => self.room_without_kept(slot),
            Fitness::Unfit => slot.known().map_or(Bytes::ZERO, |known| known.most),
        };
        (fitness, Reverse(nearness))
    }

    fn fitness(&self, slot: &Slot, want: &CreateVolume) -> Fitness {
        let (None, None, Some(known), Some(id)) = (slot.trouble(), slot.refusal(), slot.known(), slot.id())
        else {
            return Fitness::Away;
        };
        let features = &known.features;
        let Some(access) = features.access(Some(want.asked), want.allocation) else { return Fitness::Unfit };
        let Ok(size) = size(&want.range, features.smallest(access), None) else { return Fitness::Unfit };
        if size > known.most {
            return Fitness::Unfit;
        }
        match self.store.promised(id).checked_add(size) {
            Some(sum) if sum <= known.budget && slot.workers.at_work_for() < SLOW => Fitness::Fit,
            Some(sum) if sum <= known.budget => Fitness::Slow,
            Some(_) | None => Fitness::Full,
        }
    }

    /// The record of a new volume in the pool that was chosen for it.
    fn plan(&self, slot: &Slot, want: &CreateVolume, origin: Option<&Origin>) -> Result<Volume> {
        if let (Some(asked), Some(_)) = (want.pool.as_deref().filter(|asked| *asked != slot.name()), origin) {
            let right = format!("the source lies in pool {}, where its copy must be", quoted(slot.name()));
            return Err(Error::invalid("parameters[pool]", asked, right));
        }
        if let Some(name) = &want.pool {
            self.slot(name)?;
        }
        self.plan_on(slot, want, origin)
    }

    /// The record of a new volume on one pool.
    fn plan_on(&self, slot: &Slot, want: &CreateVolume, origin: Option<&Origin>) -> Result<Volume> {
        // What keeps the pool from being written comes before what it lacks.
        let features = slot.ready()?.0.features();
        if origin.is_some()
            && let Offer::No(why) = &features.snapshots
        {
            access(want.asked, &features, origin)?;
            return Err(Error::Unsupported(format!(
                "pool {} cannot clone or restore: {why}",
                quoted(slot.name())
            )));
        }
        self.plan_bytes(slot, want, origin)
    }

    /// The same, wherever the bytes come from.
    pub(super) fn plan_bytes(
        &self,
        slot: &Slot,
        want: &CreateVolume,
        origin: Option<&Origin>,
    ) -> Result<Volume> {
        let (pool, budget) = slot.ready()?;
        let features = pool.features();
        let access = access(want.asked, &features, origin)?;
        if want.allocation == Allocation::Reserved {
            offered("parameters[allocation]", "reserved", &features.reserved)?;
        }
        let size = size(&want.range, features.smallest(access), origin)?;
        slot.refuse_beyond(pool.as_ref(), &want.range, size, budget)?;
        if self.store.promised(pool.id()).checked_add(size).is_none_or(|sum| sum > budget)
            && want.pool.is_none()
        {
            return Err(self.named_full(slot, size, Error::Full(format!("no room for {size} more"))));
        }
        let fs_uuid = match access {
            Access::Mount { fs: Filesystem::Ext4 | Filesystem::Xfs } => Some(FsUuid::new(random()?)),
            Access::Mount { fs: Filesystem::Shared } | Access::Block => None,
        };
        Ok(Volume {
            id: VolumeId::new(
                pool.id(),
                if planted!("id-from-name") { digest(&want.name) } else { random()? },
            ),
            name: want.name.clone(),
            phase: Phase::Creating,
            size,
            asked: rounded(&want.range, size),
            access,
            fs_uuid: origin.map_or(fs_uuid, |origin| origin.fs_uuid),
            sector_size: 4096,
            allocation: want.allocation,
            source: want.source,
            parameters: want.parameters.clone(),
            claim: want.claim.clone(),
            created: Time::now(),
        })
    }

    /// Refuses where a mount shows the volume, wherever it is, where something is mounted in it, or where its device does not let go: somebody holds it
    /// open, or it is mounted in a namespace that we cannot see into.
    pub(super) fn refuse_if_used(&self, pool: &dyn Pool, volume: &Volume) -> Result<()> {
        if planted!("delete-in-use") {
            return Ok(());
        }
        if let Some(mount) = self.mounts_of(pool, volume)?.first() {
            return Err(Error::Precondition(format!(
                "{} is in use at {}; unpublish and unstage it first",
                volume.id,
                quoted(&mount.point.to_string_lossy())
            )));
        }
        if let Some(point) = self.mounted_within(pool, volume)? {
            return Err(Error::Precondition(format!(
                "{} is in use: something is mounted in it at {}; unmount that first",
                volume.id,
                quoted(&point.to_string_lossy())
            )));
        }
        pool.detach(&volume.id)?;
        for how in [Attach::Filesystem, Attach::BlockReadOnly] {
            if let Some(Attached::Device(device)) = pool.attached(&volume.id, how)? {
                return Err(Error::Precondition(format!(
                    "{} is in use: a process holds {} open, or a mount of it is left in another mount namespace",
                    volume.id,
                    device.path.display()
                )));
            }
        }
        Ok(())
    }
}

/// Whether a volume is there for those who use it.
pub(super) fn is_usable(volume: &Volume) -> bool {
    matches!(volume.phase, Phase::Ready | Phase::Growing { .. })
}

/// The access of a new volume, which the pool must offer and a source must have.
fn access(asked: Asked, features: &Features, origin: Option<&Origin>) -> Result<Access> {
    if let Some(origin) = origin {
        if asked.fits(origin.access) {
            return Ok(origin.access);
        }
        let right = format!("the source is {}, and so must be its copy", origin.access);
        return Err(Error::invalid("volume_capabilities", show(asked), right));
    }
    match asked {
        Asked::Block => {
            offered("volume_capabilities", "block", &features.block)?;
            Ok(Access::Block)
        }
        Asked::Mount(fs) => {
            let fs = fs.or(features.filesystems.first().copied());
            let fs = fs.filter(|fs| features.filesystems.contains(fs));
            fs.map(|fs| Access::Mount { fs }).ok_or_else(|| {
                let names: Vec<_> = features.filesystems.iter().map(|fs| fs.name()).collect();
                let right = match names.as_slice() {
                    [] => "this pool can make no filesystem: its mkfs programs are missing".to_owned(),
                    ["directory"] => {
                        "a directory pool has no filesystem of its own to choose: leave it empty".to_owned()
                    }
                    names => format!("want one of {}", names.join(", ")),
                };
                Error::invalid("volume_capabilities.mount.fs_type", show(asked), right)
            })
        }
    }
}

fn offered(field: &str, value: &str, offer: &Offer) -> Result<()> {
    match offer {
        Offer::Yes => Ok(()),
        Offer::No(why) => Err(Error::invalid(field, value, why)),
    }
}

/// What was asked for, where it was less than was made.
fn rounded(range: &Range, size: Bytes) -> Option<Bytes> {
    range.required.filter(|required| *required < size)
}

/// The size of a new volume, at least that of its source. What rounding up makes as large is enough: with the words that made the
/// source a copy of it can be made.
fn size(range: &Range, smallest: Bytes, origin: Option<&Origin>) -> Result<Bytes> {
    let Some(origin) = origin else { return range.settle(smallest, DEFAULT_SIZE) };
    let is_enough = |asked: &Bytes| becomes(*asked, smallest).is_none_or(|size| size >= origin.size);
    let too_small = [
        ("required_bytes", range.required.filter(|required| !is_enough(required))),
        ("limit_bytes", range.limit.filter(|limit| *limit < origin.size)),
    ];
    for (field, asked) in too_small {
        if let Some(asked) = asked {
            return Err(Error::OutOfRange(format!(
                "capacity_range.{field} {} is below the {} bytes of the source",
                asked.get(),
                origin.size.get()
            )));
        }
    }
    range.settle(origin.size, origin.size)
}

/// For a planted bug only.
fn digest(name: &str) -> [u8; 8] {
    let [a, b, c, d] = crc32c::crc32c(name.as_bytes()).to_be_bytes();
    [a, b, c, d, d, c, b, a]
}

fn source_key(source: &Source) -> Option<Key> {
    match source {
        Source::Blank => None,
        Source::Volume(id) => Some(Key::Object(ObjectId::Volume(*id))),
        Source::Snapshot(id) => Some(Key::Object(ObjectId::Snapshot(*id))),
    }
}

fn source_pool(source: &Source) -> Option<crate::model::PoolId> {
    match source {
        Source::Blank => None,
        Source::Volume(id) => Some(id.pool()),
        Source::Snapshot(id) => Some(id.pool()),
    }
}

pub(super) fn show(asked: Asked) -> String {
    match asked {
        Asked::Block => "block".to_owned(),
        Asked::Mount(None) => "mount".to_owned(),
        Asked::Mount(Some(fs)) => format!("mount ({fs})"),
    }
}

/// In what an existing volume differs from the request, in words.
pub(super) fn difference(have: &Volume, want: &CreateVolume) -> Option<String> {
    if !want.asked.fits(have.access) {
        return Some(format!("access {}, not {}", have.access, show(want.asked)));
    }
    if !want.range.holds(have.size) && !planted!("conflict-unseen") {
        return Some(format!("size {} bytes, outside the capacity_range asked for", have.size.get()));
    }
    if want.source != have.source {
        return Some("another volume_content_source".to_owned());
    }
    let keys = have.parameters.keys().chain(want.parameters.keys());
    let key = keys.into_iter().find(|key| have.parameters.get(*key) != want.parameters.get(*key))?;
    let value = |of: Option<&String>| of.map_or("unset".to_owned(), |value| quoted(value));
    Some(format!(
        "parameters[{}] {}, not {}",
        escaped(key),
        value(have.parameters.get(key)),
        value(want.parameters.get(key))
    ))
}
