//! The records of everything on this node, in memory and on the pools.
//!
//! Owns: one JSON file per volume, snapshot and group in its pool's `records` directory, the indexes over them, and the
//! ledger of promises. Never: writes a record without a claim, repairs or deletes a file it cannot read.
//!
//! What a file holds says `model::record`. It is replaced durably (`os::file::Dir::replace`); memory follows the disk, never
//! the other way round.
//!
//! A file that cannot be read is quarantined: the rest serves, and the copy that its object carries says which name it
//! holds and what it promises, until the record is rebuilt from it.

mod generations;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

pub(crate) use self::generations::anew;
use crate::engine::claims::{Claim, Claims};
use crate::engine::{Key, spare};
use crate::error::{Error, Result};
pub use crate::model::Record;
use crate::model::record::{LARGEST, Unreadable, Written};
use crate::model::{
    Age, Bytes, Group, GroupId, ObjectId, Phase, PoolId, Snapshot, SnapshotId, Volume, VolumeId,
};
use crate::os::file::{Dir, Kept};
use crate::pool::Pool;

/// Threads that read records at a start: a cold disk answers that many side by side.
const LOADERS: usize = 16;

/// Where a pool's records lie.
pub(crate) enum Shelf {
    /// In this directory of the pool, for the pool's own threads.
    Disk(Kept<Dir>),
    /// Nowhere else.
    Memory,
    /// With a pool that is away.
    Away,
}

#[derive(Default)]
struct Index {
    objects: BTreeMap<ObjectId, Written>,
    names: HashMap<Key, ObjectId>,
    promised: HashMap<PoolId, u64>,
    quarantined: BTreeMap<ObjectId, Quarantined>,
    /// How often names or promises have changed.
    changes: u64,
}

/// A record that cannot be read. Its file is left as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Quarantined {
    /// Why not.
    pub why: Unreadable,
    /// What the copy kept with its object says of it. Its name is taken and its bytes are promised, as if it could be read.
    pub copy: Option<Record>,
}

/// A snapshot of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// Its record; where that cannot be read, as its copy has it.
    pub snapshot: Arc<Snapshot>,
    /// Whether it can be used now.
    pub usable: bool,
}

/// What the records of one pool add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// What they promise, in bytes.
    pub promised: Bytes,
    /// Volumes, snapshots and groups, in whatever phase.
    pub objects: usize,
    /// The volumes that can be used.
    pub volumes: usize,
    /// The snapshots that are cut.
    pub snapshots: usize,
    /// Those whose operation was begun and is not over; not those that come from another node.
    pub unfinished: usize,
    /// Files that cannot be read.
    pub unreadable: usize,
    /// The part of the promises that is deleted and still kept, in bytes.
    pub retained: Bytes,
}

/// Adds up the records below a pool's root, without a claim or a change: for a look from outside while a driver runs.
///
/// # Errors
/// Those of the disk.
pub fn tally(pool: PoolId, root: &Dir) -> Result<Tally> {
    let store = Store::default();
    store.open(pool, Some(root))?;
    Ok(store.tally(pool))
}

/// Everything on record.
#[derive(Default)]
pub struct Store {
    claims: Claims,
    index: Mutex<Index>,
    shelves: RwLock<HashMap<PoolId, Arc<Shelf>>>,
}

impl Record {
    /// The key of its name.
    pub(crate) fn name(&self) -> Key {
        match self {
            Record::Volume(volume) => Key::VolumeName(volume.name.clone()),
            Record::Snapshot(snapshot) => Key::SnapshotName(snapshot.name.clone()),
            Record::Group(group) => Key::GroupName(group.name.clone()),
        }
    }
}

impl Store {
    /// The keys, all or none; see `Claim`.
    ///
    /// # Errors
    /// `Busy` where one is taken.
    pub fn claim(&self, own: &[Key], share: &[Key]) -> Result<Claim> {
        self.claims.claim(own, share)
    }

    /// Reads a pool's records, or begins an empty shelf in memory. What cannot be read is quarantined and left as it is.
    pub(crate) fn open(&self, pool: PoolId, home: Option<&Dir>) -> Result<()> {
        let records = home.map(|home| home.sub("records")).transpose()?;
        let entries = records.as_ref().map_or(Ok(Vec::new()), |records| load(records, pool))?;
        let shelf = records.map_or(Shelf::Memory, |records| Shelf::Disk(Kept::new(records)));
        let mut index = self.lock();
        index.close(pool);
        for (id, entry) in entries {
            match entry {
                Ok(entry) => {
                    index.move_promise(pool, 0, entry.record.promise());
                    index.place(entry);
                }
                Err(why) => {
                    tracing::error!(record = %id, %why, "a record is quarantined; its file is left as it is");
                    index.quarantined.insert(id, Quarantined { why, copy: None });
                }
            }
        }
        if planted!("names-forgotten") {
            index.names.clear();
        }
        drop(index);
        self.shelves.write().unwrap_or_else(PoisonError::into_inner).insert(pool, Arc::new(shelf));
        Ok(())
    }

    /// Whether the records of a pool were read since the start.
    pub(crate) fn has_read(&self, pool: PoolId) -> bool {
        self.shelves.read().unwrap_or_else(PoisonError::into_inner).contains_key(&pool)
    }

    /// Gives up the shelf of a pool, to be dropped on the pool's threads; memory stays as it is.
    pub(crate) fn close(&self, pool: PoolId) -> Option<Arc<Shelf>> {
        self.shelves.write().unwrap_or_else(PoisonError::into_inner).remove(&pool)
    }

    /// Lets go of a pool that is away: its disk can be mounted anew only when nobody holds it. What was read stays known. To
    /// be called on its threads.
    pub(crate) fn let_go(&self, pool: PoolId) {
        let mut shelves = self.shelves.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(shelf) = shelves.get_mut(&pool) {
            *shelf = Arc::new(Shelf::Away);
        }
    }

    /// Refuses what a call owns at this moment.
    ///
    /// # Errors
    /// `Busy`.
    pub(crate) fn refuse_taken(&self, keys: &[Key]) -> Result<()> {
        self.claims.refuse_taken(keys)
    }

    /// Writes a record durably; then memory shows it.
    ///
    /// # Errors
    /// Those of the disk. A new record that fails leaves nothing; for a changed one the old state holds in memory.
    pub(crate) fn put(&self, claim: &Claim, record: Record) -> Result<()> {
        self.write(claim, record, None)
    }

    /// As `put`, but only if the pool's promises then stay within `budget`.
    ///
    /// # Errors
    /// `Full` where they would not; nothing was written.
    pub(crate) fn admit(&self, claim: &Claim, record: Record, budget: Bytes) -> Result<()> {
        self.write(claim, record, Some(budget))
    }

    fn write(&self, claim: &Claim, record: Record, budget: Option<Bytes>) -> Result<()> {
        let id = record.id();
        assert!(claim.owns(&Key::Object(id)), "{id} is written without its claim");
        let shelf = self.shelf(id.pool())?;
        let (generation, before) = self.lock().promise(&record, budget)?;
        let skipped = planted!("reply-before-record") && record.phase() == Phase::Ready;
        let written = if skipped { Ok(()) } else { shelf.write(&record, generation) };
        let mut index = self.lock();
        if let Err(error) = written {
            index.move_promise(id.pool(), record.promise(), before);
            return Err(error);
        }
        index.place(Written { generation, record });
        Ok(())
    }

    /// Writes the record of what is about to be destroyed, on a full disk in the room of the pool's spare. Where that was
    /// used up or taken as well, memory alone says so: only the delete can make room. After a crash then, the record says
    /// what it said before, no caller was told that the delete is done, and its retry finishes it.
    pub(crate) fn condemn(&self, claim: &Claim, pool: &dyn Pool, record: Record) -> Result<()> {
        let why = match self.put_with_spare(claim, pool, record.clone()) {
            Err(Error::Full(why)) => why,
            written => return written,
        };
        tracing::warn!(id = %record.id(), error = why, "no room to note the delete; it goes on without");
        let mut index = self.lock();
        let (generation, _) = index.promise(&record, None)?;
        index.place(Written { generation, record });
        Ok(())
    }

    /// As `put`, on a full disk in the room of the pool's spare.
    pub(crate) fn put_with_spare(&self, claim: &Claim, pool: &dyn Pool, record: Record) -> Result<()> {
        match self.write(claim, record.clone(), None) {
            Err(Error::Full(_)) if spare::give(pool) => self.write(claim, record, None),
            written => written,
        }
    }

    /// Erases a record durably; then memory forgets it. Absent is `Ok`.
    pub(crate) fn erase(&self, claim: &Claim, id: ObjectId) -> Result<()> {
        assert!(claim.owns(&Key::Object(id)), "{id} is erased without its claim");
        self.shelf(id.pool())?.erase(id)?;
        self.lock().forget(id);
        Ok(())
    }

    /// A number that grows whenever a name is taken or freed, or a promise changes.
    pub(crate) fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Shows every name that is taken, those among them that only the copy of a quarantined record tells.
    pub(crate) fn each_name(&self, mut show: impl FnMut(&Key, PoolId)) {
        let index = self.lock();
        index.names.iter().for_each(|(name, id)| show(name, id.pool()));
        let copies = index.quarantined.values().filter_map(|bad| bad.copy.as_ref());
        copies
            .filter(|copy| !copy.phase().frees_name())
            .for_each(|copy| show(&copy.name(), copy.id().pool()));
    }

    /// The sum of what records promise on a pool.
    pub fn promised(&self, pool: PoolId) -> Bytes {
        Bytes::new(self.lock().promised.get(&pool).copied().unwrap_or(0))
    }

    /// The record of this id, in whatever phase.
    pub(crate) fn record(&self, id: ObjectId) -> Option<Record> {
        self.lock().objects.get(&id).map(|entry| entry.record.clone())
    }

    /// The record of this name, in whatever phase but those that free it: `Deleting` and `Retained`.
    pub(crate) fn named(&self, name: &Key) -> Option<Record> {
        let index = self.lock();
        let id = index.names.get(name)?;
        index.objects.get(id).map(|entry| entry.record.clone())
    }

    /// The volume with this id, in whatever phase.
    pub fn volume(&self, id: &VolumeId) -> Option<Arc<Volume>> {
        self.record(ObjectId::Volume(*id)).and_then(Record::into_volume)
    }

    /// The snapshot with this id, in whatever phase.
    pub fn snapshot(&self, id: &SnapshotId) -> Option<Arc<Snapshot>> {
        self.record(ObjectId::Snapshot(*id)).and_then(Record::into_snapshot)
    }

    /// The group with this id, in whatever phase.
    pub fn group(&self, id: &GroupId) -> Option<Arc<Group>> {
        self.record(ObjectId::Group(*id)).and_then(Record::into_group)
    }

    /// Up to `max` usable volumes with ids after `after`, in ascending order.
    pub fn volumes(&self, after: Option<VolumeId>, max: usize) -> Vec<Arc<Volume>> {
        let index = self.lock();
        index
            .after(after.map(ObjectId::Volume))
            .map_while(|entry| entry.record.as_volume())
            .filter(|volume| matches!(volume.phase, Phase::Ready | Phase::Growing { .. }))
            .take(max)
            .cloned()
            .collect()
    }

    /// The usable volumes of one pool, in ascending order.
    pub(crate) fn volumes_of(&self, pool: PoolId) -> Vec<VolumeId> {
        self.volumes(None, usize::MAX).iter().map(|volume| volume.id).filter(|id| id.pool() == pool).collect()
    }

    /// Up to `max` volumes with ids after `after` that nobody may take for gone, in ascending order: the usable ones, and those
    /// whose record cannot be read as its copy has them, where there is one.
    pub fn listed(&self, after: Option<VolumeId>, max: usize) -> Vec<(VolumeId, Option<Arc<Volume>>)> {
        let index = self.lock();
        let from = after.map_or(Bound::Unbounded, |id| Bound::Excluded(ObjectId::Volume(id)));
        let is_there = |volume: &Volume| matches!(volume.phase, Phase::Ready | Phase::Growing { .. });
        let read = index.after(after.map(ObjectId::Volume)).map_while(|entry| entry.record.as_volume());
        let read = read.filter(|volume| is_there(volume)).map(|volume| (volume.id, Some(Arc::clone(volume))));
        let unread = index.quarantined.range((from, Bound::Unbounded)).map_while(|(id, bad)| match id {
            ObjectId::Volume(id) => {
                Some((*id, bad.copy.as_ref().and_then(Record::as_volume).map(Arc::clone)))
            }
            ObjectId::Snapshot(_) | ObjectId::Group(_) => None,
        });
        let unread = unread.filter(|(_, copy)| copy.as_ref().is_none_or(|volume| is_there(volume)));
        let mut listed: Vec<_> = read.take(max).chain(unread.take(max)).collect();
        listed.sort_unstable_by_key(|(id, _)| *id);
        listed.truncate(max);
        listed
    }

    /// Up to `max` snapshots with ids after `after` that nobody may take for gone, in ascending order, of one volume or of all: those
    /// that are whole, and those that nobody can use before a record is rebuilt, their own or that of their group.
    ///
    /// # Errors
    /// `Unavailable` for one of which nothing says what it is a snapshot of: no list is right with it, and none without.
    pub fn listed_snapshots(
        &self,
        after: Option<SnapshotId>,
        of: Option<VolumeId>,
        max: usize,
    ) -> Result<Vec<Listed>> {
        let index = self.lock();
        let read = index.after(after.map(ObjectId::Snapshot));
        let read = read.skip_while(|entry| entry.record.as_volume().is_some());
        let read = read.map_while(|entry| entry.record.as_snapshot()).map(|cut| (cut.id, Some((cut, true))));
        let from = after.map_or(Bound::Unbounded, |id| Bound::Excluded(ObjectId::Snapshot(id)));
        let unread = index.quarantined.range((from, Bound::Unbounded)).filter_map(|(id, bad)| match id {
            ObjectId::Snapshot(id) => {
                Some((*id, bad.copy.as_ref().and_then(Record::as_snapshot).map(|cut| (cut, false))))
            }
            ObjectId::Volume(_) | ObjectId::Group(_) => None,
        });
        let listed = |(id, known): (SnapshotId, Option<(&Arc<Snapshot>, bool)>)| {
            let Some((cut, is_read)) = known else { return Some((id, None)) };
            let is_of = of.is_none_or(|of| cut.source == of) && cut.phase == Phase::Ready;
            let usable = index.group_of(cut).filter(|_| is_of)? && is_read;
            Some((id, Some(Listed { snapshot: Arc::clone(cut), usable })))
        };
        let mut all: Vec<_> = read.filter_map(listed).take(max).collect();
        all.extend(unread.filter_map(listed).take(max));
        all.sort_unstable_by_key(|(id, _)| *id);
        all.truncate(max);
        let named = |(id, listed): (SnapshotId, Option<Listed>)| {
            listed.ok_or_else(|| {
                Error::Unavailable(format!(
                    "the record of {id} cannot be read and no copy of it either, so nobody knows of which volume it is: see \
                     `rockpool ctl doctor`"
                ))
            })
        };
        all.into_iter().map(named).collect()
    }

    /// Whether a snapshot is cut, and its group with it.
    pub(crate) fn is_whole(&self, snapshot: &Snapshot) -> bool {
        self.lock().is_whole(snapshot)
    }

    /// Every record of a pool that an interruption left unfinished.
    pub(crate) fn interrupted(&self, pool: PoolId) -> Vec<Record> {
        let index = self.lock();
        let unfinished = index.objects.values().map(|entry| &entry.record);
        let unfinished = unfinished.filter(|r| r.id().pool() == pool && !r.phase().is_whole());
        unfinished.cloned().collect()
    }

    /// The volumes that are being received and the snapshots that are lent, of one pool or of all.
    pub(crate) fn on_its_way(&self, pool: Option<PoolId>) -> Vec<Record> {
        let index = self.lock();
        let of_pool = index.objects.values().filter(|e| pool.is_none_or(|pool| e.record.id().pool() == pool));
        let going = of_pool
            .filter(|entry| matches!(entry.record.phase(), Phase::Receiving { .. } | Phase::Lent { .. }));
        going.map(|entry| entry.record.clone()).collect()
    }

    /// The cut of a volume that was made for a copy of it.
    pub(crate) fn lent_to(&self, copy: VolumeId, source: VolumeId) -> Option<Arc<Snapshot>> {
        let going = self.on_its_way(Some(source.pool())).into_iter().filter_map(Record::into_snapshot);
        going.into_iter().find(|cut| cut.phase == Phase::Lent { to: copy } && cut.source == source)
    }

    /// The volumes and snapshots of a pool that are whole, and so must have bytes.
    pub(crate) fn finished(&self, pool: PoolId) -> Vec<ObjectId> {
        let index = self.lock();
        let whole = index.objects.iter().filter(|(_, entry)| entry.record.phase().is_whole());
        whole.map(|(id, _)| *id).filter(|id| id.pool() == pool && !matches!(id, ObjectId::Group(_))).collect()
    }

    /// The snapshots that say of themselves, or whose copies say of them, that they are members of a group.
    pub(crate) fn members_of(&self, group: &GroupId) -> Vec<SnapshotId> {
        let index = self.lock();
        let read = index.objects.values().map(|entry| &entry.record);
        let all = read.chain(index.quarantined.values().filter_map(|bad| bad.copy.as_ref()));
        let snapshots = all.filter_map(Record::as_snapshot);
        snapshots.filter(|snapshot| snapshot.group == Some(*group)).map(|snapshot| snapshot.id).collect()
    }

    /// The group without a record that a snapshot on record is a member of, or that has such members itself.
    pub(crate) fn without_group(&self, id: ObjectId) -> Option<GroupId> {
        let group = match id {
            ObjectId::Volume(_) => return None,
            ObjectId::Snapshot(snapshot) => self.snapshot(&snapshot)?.group?,
            ObjectId::Group(group) => group,
        };
        let is_lost = self.group(&group).is_none() && !self.members_of(&group).is_empty();
        is_lost.then_some(group)
    }

    /// The groups of a pool that have members on record, and no record of their own.
    pub(crate) fn lost_groups(&self, pool: PoolId) -> BTreeSet<GroupId> {
        let index = self.lock();
        let snapshots = index.objects.values().filter_map(|entry| entry.record.as_snapshot());
        let groups = snapshots.filter_map(|snapshot| snapshot.group).filter(|group| group.pool() == pool);
        let lost = |group: &GroupId| {
            let id = ObjectId::Group(*group);
            !index.objects.contains_key(&id) && !index.quarantined.contains_key(&id)
        };
        groups.filter(lost).collect()
    }

    /// What is deleted and still kept, of one pool or of all.
    pub(crate) fn retained(&self, pool: Option<PoolId>) -> Vec<Record> {
        let index = self.lock();
        let of_pool = index.objects.values().filter(|e| pool.is_none_or(|pool| e.record.id().pool() == pool));
        let kept = of_pool.filter(|entry| matches!(entry.record.phase(), Phase::Retained { .. }));
        kept.map(|entry| entry.record.clone()).collect()
    }

    /// What the part of a pool's promises comes to that is deleted and still kept.
    pub(crate) fn retained_bytes(&self, pool: PoolId) -> Bytes {
        self.retained(Some(pool)).iter().map(|record| self.promised_with_members(record)).sum()
    }

    /// What a record promises, of a group what its members do.
    pub(crate) fn promised_with_members(&self, record: &Record) -> Bytes {
        let Record::Group(group) = record else { return Bytes::new(record.promise()) };
        let index = self.lock();
        let members = group.members.iter().filter_map(|id| index.objects.get(&ObjectId::Snapshot(*id)));
        members.map(|entry| Bytes::new(entry.record.promise())).sum()
    }

    /// A moment of the pool's own clock that has surely passed: the last at which something was deleted and kept.
    pub(crate) fn last_retained(&self, pool: PoolId) -> Age {
        let since = |record: &Record| match record.phase() {
            Phase::Retained { until, kept, .. } => until.before(kept),
            Phase::Creating
            | Phase::Receiving { .. }
            | Phase::Lent { .. }
            | Phase::Ready
            | Phase::Growing { .. }
            | Phase::Deleting => Age::default(),
        };
        let index = self.lock();
        let read = index.objects.values().map(|entry| &entry.record);
        // What cannot be read was deleted all the same.
        let all = read.chain(index.quarantined.values().filter_map(|bad| bad.copy.as_ref()));
        all.filter(|record| record.id().pool() == pool).map(since).max().unwrap_or_default()
    }

    /// Why the record of this id cannot be read, where that is so.
    pub fn quarantined(&self, id: ObjectId) -> Option<Quarantined> {
        self.lock().quarantined.get(&id).cloned()
    }

    /// All records that cannot be read.
    pub fn quarantine(&self) -> Vec<(ObjectId, Quarantined)> {
        self.lock().quarantined.iter().map(|(id, bad)| (*id, bad.clone())).collect()
    }

    /// How many records of a pool are quarantined.
    pub(crate) fn quarantined_in(&self, pool: PoolId) -> usize {
        self.lock().quarantined.keys().filter(|id| id.pool() == pool).count()
    }

    /// Takes note of what the copy beside its object says of a quarantined record.
    pub(crate) fn keep(&self, id: ObjectId, copy: Record) {
        let mut index = self.lock();
        let Some(bad) = index.quarantined.get_mut(&id) else { return };
        let before = bad.copy.as_ref().map_or(0, Record::promise);
        let now = copy.promise();
        bad.copy = Some(copy);
        index.move_promise(id.pool(), before, now);
    }

    /// Refuses a name that a quarantined record holds.
    ///
    /// # Errors
    /// `Unavailable`: the name is taken, by what cannot be compared with a request.
    pub(crate) fn refuse_quarantined(&self, name: &Key) -> Result<()> {
        let index = self.lock();
        let holder = index.quarantined.iter().find(|(_, bad)| {
            let holds = |copy: &&Record| !copy.phase().frees_name() && copy.name() == *name;
            bad.copy.as_ref().filter(holds).is_some()
        });
        holder.map_or(Ok(()), |(id, bad)| {
            Err(Error::Unavailable(format!(
                "{name} is that of {id}, whose record cannot be read and is quarantined: {}; rebuild it, see `rockpool ctl doctor`",
                bad.why
            )))
        })
    }

    /// What the records of a pool add up to.
    pub(crate) fn tally(&self, pool: PoolId) -> Tally {
        let (promised, retained) = (self.promised(pool), self.retained_bytes(pool));
        let mut tally =
            Tally { promised, retained, unreadable: self.quarantined_in(pool), ..Tally::default() };
        let index = self.lock();
        for entry in index.objects.values().filter(|entry| entry.record.id().pool() == pool) {
            tally.objects += 1;
            let phase = entry.record.phase();
            let comes = matches!(phase, Phase::Receiving { .. });
            tally.unfinished += usize::from(!phase.is_whole() && !comes);
            match &entry.record {
                Record::Volume(_) if matches!(phase, Phase::Ready | Phase::Growing { .. }) => {
                    tally.volumes += 1
                }
                Record::Snapshot(_) if phase == Phase::Ready => tally.snapshots += 1,
                Record::Volume(_) | Record::Snapshot(_) | Record::Group(_) => {}
            }
        }
        tally
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shelf(&self, pool: PoolId) -> Result<Arc<Shelf>> {
        let shelves = self.shelves.read().unwrap_or_else(PoisonError::into_inner);
        let shelf = shelves.get(&pool).map(Arc::clone);
        shelf.ok_or_else(|| Error::Unavailable(format!("pool {pool} is not connected to this node")))
    }
}

impl Index {
    /// The entries after an id, in ascending order: volumes, then snapshots, then groups.
    fn after(&self, id: Option<ObjectId>) -> impl Iterator<Item = &Written> {
        let from = id.map_or(Bound::Unbounded, Bound::Excluded);
        self.objects.range((from, Bound::Unbounded)).map(|(_, entry)| entry)
    }

    /// Makes the ledger promise what `record` will, within `budget`; answers its next generation and what its present
    /// version promises.
    fn promise(&mut self, record: &Record, budget: Option<Bytes>) -> Result<(u64, u64)> {
        let present = self.objects.get(&record.id());
        let before = present.map_or(0, |entry| entry.record.promise());
        // A record says its generation itself, whatever that is; none is ever followed by an older one.
        let generation = present.map_or(0, |entry| entry.generation).saturating_add(1);
        let promised = self.promised.get(&record.id().pool()).copied().unwrap_or(0);
        let then = promised.saturating_sub(before).saturating_add(record.promise());
        if let Some(budget) = budget.filter(|budget| then > budget.get() && then > promised) {
            return Err(Error::Full(format!(
                "no room: {} are promised of the {budget} that can be promised, and this needs {} more",
                Bytes::new(promised),
                Bytes::new(then - promised)
            )));
        }
        if !planted!("ledger-not-charged") {
            self.move_promise(record.id().pool(), before, record.promise());
        }
        Ok((generation, before))
    }

    fn move_promise(&mut self, pool: PoolId, from: u64, to: u64) {
        self.changes += 1;
        let promised = self.promised.entry(pool).or_default();
        *promised = promised.saturating_sub(from).saturating_add(to);
    }

    /// Shows an entry whose promise is made.
    fn place(&mut self, entry: Written) {
        self.changes += 1;
        let (id, name) = (entry.record.id(), entry.record.name());
        if !entry.record.phase().frees_name() {
            self.names.insert(name, id);
        } else if self.names.get(&name) == Some(&id) {
            self.names.remove(&name);
        }
        self.objects.insert(id, entry);
    }

    fn forget(&mut self, id: ObjectId) {
        self.changes += 1;
        if let Some(entry) = self.objects.remove(&id) {
            if !planted!("promise-kept") {
                self.move_promise(id.pool(), entry.record.promise(), 0);
            }
            let name = entry.record.name();
            if self.names.get(&name) == Some(&id) {
                self.names.remove(&name);
            }
        }
    }

    /// Forgets all of a pool, before it is read again.
    fn close(&mut self, pool: PoolId) {
        self.changes += 1;
        self.objects.retain(|id, _| id.pool() != pool);
        self.names.retain(|_, id| id.pool() != pool);
        self.quarantined.retain(|id, _| id.pool() != pool);
        self.promised.remove(&pool);
    }

    fn is_whole(&self, snapshot: &Snapshot) -> bool {
        snapshot.phase == Phase::Ready && self.group_of(snapshot) == Some(true)
    }

    /// Whether a snapshot can be used for all that its group says; none where that says that it is not there.
    fn group_of(&self, snapshot: &Snapshot) -> Option<bool> {
        let Some(group) = snapshot.group.map(ObjectId::Group) else { return Some(true) };
        if let Some(entry) = self.objects.get(&group) {
            return (entry.record.phase() == Phase::Ready).then_some(true);
        }
        let copy = self.quarantined.get(&group).and_then(|bad| bad.copy.as_ref());
        copy.is_none_or(|copy| copy.phase() == Phase::Ready).then_some(false)
    }
}

impl Shelf {
    fn write(&self, record: &Record, generation: u64) -> Result<()> {
        match self {
            Shelf::Disk(records) => {
                reached(records)?.replace(record.id().to_string(), record.encode(generation)?.as_bytes())
            }
            Shelf::Memory => Ok(()),
            Shelf::Away => Err(Error::Unavailable("its pool is away; ask again when it is back".to_owned())),
        }
    }

    fn erase(&self, id: ObjectId) -> Result<()> {
        match self {
            Shelf::Disk(records) => reached(records)?.remove(id.to_string()).map(drop),
            Shelf::Memory => Ok(()),
            Shelf::Away => Err(Error::Unavailable("its pool is away; ask again when it is back".to_owned())),
        }
    }
}

/// The directory, on the threads of its pool.
fn reached(records: &Kept<Dir>) -> Result<&Dir> {
    records.get().ok_or_else(|| Error::Unavailable("the records are another thread's; ask again".to_owned()))
}

type Loaded = (ObjectId, std::result::Result<Written, Unreadable>);

/// Every record of a pool, read by several threads since a cold disk answers them side by side.
fn load(records: &Dir, pool: PoolId) -> Result<Vec<Loaded>> {
    let texts = records.names()?.into_iter().filter_map(|name| name.into_string().ok());
    let (ids, foreign): (Vec<ObjectId>, Vec<ObjectId>) =
        texts.filter_map(|name| name.parse().ok()).partition(|id: &ObjectId| id.pool() == pool);
    for id in foreign {
        tracing::error!(record = %id, "a record of another pool lies here; it is left as it is");
    }
    let share = ids.len().div_ceil(LOADERS).max(64);
    std::thread::scope(|scope| {
        let loaders: Vec<_> =
            ids.chunks(share).map(|ids| scope.spawn(move || load_some(records, ids))).collect();
        let mut entries = Vec::with_capacity(ids.len());
        for loader in loaders {
            let some =
                loader.join().map_err(|_| Error::Corrupt("a loader of records panicked".to_owned()))?;
            entries.extend(some);
        }
        Ok(entries)
    })
}

fn load_some(records: &Dir, ids: &[ObjectId]) -> Vec<Loaded> {
    ids.iter().map(|id| (*id, read_one(records, *id))).collect()
}

fn read_one(records: &Dir, id: ObjectId) -> std::result::Result<Written, Unreadable> {
    let damaged = |error: &Error| Unreadable::Damaged(crate::error::chain(error));
    let name = id.to_string();
    let bytes = records.read(&name, LARGEST).map_err(|error| damaged(&error))?;
    Record::decode(&name, &bytes.ok_or_else(|| Unreadable::Damaged("it is gone".to_owned()))?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "a test makes its own files")]

    use super::*;
    use crate::model::{Access, Allocation, Source, Time};

    const BUDGET: Bytes = Bytes::new(100 << 20);

    fn volume(name: &str, number: u8, mib: u64) -> Record {
        Record::Volume(Arc::new(Volume {
            id: VolumeId::new(PoolId::new([7; 6]), [number; 8]),
            name: name.to_owned(),
            phase: Phase::Ready,
            size: Bytes::MIB.times(mib),
            asked: None,
            access: Access::Block,
            fs_uuid: None,
            sector_size: 4096,
            allocation: Allocation::Sparse,
            source: Source::Blank,
            parameters: BTreeMap::from([("pool".to_owned(), "fast".to_owned())]),
            claim: None,
            created: Time::now(),
        }))
    }

    fn store() -> Store {
        let store = Store::default();
        store.open(PoolId::new([7; 6]), None).unwrap();
        store
    }

    fn admit(store: &Store, record: &Record) -> Result<()> {
        let claim = store.claim(&[Key::Object(record.id())], &[]).unwrap();
        store.admit(&claim, record.clone(), BUDGET)
    }

    #[test]
    fn the_ledger_never_promises_more_than_the_budget() {
        let store = store();
        admit(&store, &volume("a", 1, 60)).unwrap();
        assert!(matches!(admit(&store, &volume("b", 2, 50)), Err(Error::Full(_))));
        admit(&store, &volume("b", 2, 40)).unwrap();
        let pool = PoolId::new([7; 6]);
        assert_eq!(store.promised(pool), BUDGET);
        admit(&store, &volume("a", 1, 60)).expect("a rewrite promises nothing more");
        let id = volume("a", 1, 60).id();
        let claim = store.claim(&[Key::Object(id)], &[]).unwrap();
        store.erase(&claim, id).unwrap();
        store.erase(&claim, id).unwrap();
        assert_eq!(store.promised(pool), Bytes::MIB.times(40));
        assert!(store.named(&Key::VolumeName("a".to_owned())).is_none());
    }

    #[test]
    fn the_last_generation_is_followed_by_itself() {
        let (dir, record) = (tempfile::tempdir().unwrap(), volume("a", 1, 1));
        let records = dir.path().join("records");
        std::fs::create_dir(&records).unwrap();
        let file = records.join(record.id().to_string());
        std::fs::write(&file, record.encode(u64::MAX).unwrap()).unwrap();
        let store = Store::default();
        store.open(record.id().pool(), Some(&Dir::open(dir.path()).unwrap())).unwrap();
        admit(&store, &record).unwrap();
        let written = Record::decode(&record.id().to_string(), &std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(written.generation, u64::MAX, "it is never older than what it replaces");
    }

    #[test]
    fn a_page_goes_on_after_an_entry_that_is_gone() {
        let store = store();
        let all: Vec<_> = (1..=5).map(|n| volume(&n.to_string(), n, 1)).collect();
        for record in &all {
            admit(&store, record).unwrap();
        }
        let page = store.volumes(None, 2);
        assert_eq!(page.len(), 2);
        let claim = store.claim(&[Key::Object(all[1].id())], &[]).unwrap();
        store.erase(&claim, all[1].id()).unwrap();
        let rest = store.volumes(Some(page[1].id), 10);
        assert_eq!(rest.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["3", "4", "5"]);
    }

    #[test]
    #[should_panic(expected = "written without its claim")]
    fn nobody_writes_what_he_has_not_claimed() {
        let store = store();
        let claim = store.claim(&[], &[]).unwrap();
        drop(store.put(&claim, volume("a", 1, 1)));
    }
}
