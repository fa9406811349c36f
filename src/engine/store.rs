//! The records of everything on this node, in memory and on the pools.
//!
//! Owns: one JSON file per volume, snapshot and group in its pool's `records` directory, the indexes over them, and the
//! ledger of promises. Never: writes a record without a claim, repairs or deletes a file it cannot read.
//!
//! A file is `{"checksum": "<crc32c of the text of body>", "body": {"schema", "pool", "generation", "record": {"<kind>": {…}}}}`. It is
//! replaced durably (`os::file::Dir::replace`); memory follows the disk, never the other way round.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::engine::Key;
use crate::engine::claims::{Claim, Claims};
use crate::error::{Error, Result};
use crate::model::{
    Age, Bytes, Group, GroupId, ObjectId, Parameters, Phase, PoolId, Snapshot, SnapshotId, Volume, VolumeId,
};
use crate::os::file::{Dir, Kept};

/// The layout of a record's body that this release writes and reads.
const SCHEMA: u32 = 1;
/// Threads that read records at a start: a cold disk answers that many side by side.
const LOADERS: usize = 16;
/// No record is larger; what is, is not a record.
const RECORD_BYTES: usize = 64 * 1024;

/// One object's record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Record {
    /// A volume.
    Volume(Arc<Volume>),
    /// A snapshot.
    Snapshot(Arc<Snapshot>),
    /// A group of snapshots.
    Group(Arc<Group>),
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    checksum: String,
    #[serde(borrow)]
    body: &'a RawValue,
}

#[derive(Serialize, Deserialize)]
struct Body<R> {
    schema: u32,
    pool: PoolId,
    generation: u64,
    record: R,
}

/// The part of a body that every schema has.
#[derive(Deserialize)]
struct Head {
    schema: u32,
}

/// Where a pool's records lie.
pub(crate) enum Shelf {
    /// In this directory of the pool, for the pool's own threads.
    Disk(Kept<Dir>),
    /// Nowhere else.
    Memory,
}

struct Entry {
    generation: u64,
    record: Record,
}

#[derive(Default)]
struct Index {
    objects: BTreeMap<ObjectId, Entry>,
    names: HashMap<Key, ObjectId>,
    promised: HashMap<PoolId, u64>,
    quarantined: BTreeMap<(PoolId, String), String>,
}

/// What the records of one pool add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// What they promise, in bytes.
    pub promised: Bytes,
    /// Volumes, snapshots and groups, in whatever phase.
    pub objects: usize,
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
    Ok(Tally {
        promised: store.promised(pool),
        objects: store.count(pool),
        unreadable: store.quarantine().len(),
        retained: store.retained_bytes(pool),
    })
}

/// Everything on record.
#[derive(Default)]
pub struct Store {
    claims: Claims,
    index: Mutex<Index>,
    shelves: RwLock<HashMap<PoolId, Arc<Shelf>>>,
}

impl Record {
    /// Its id, whose text is the name of its file.
    pub(crate) fn id(&self) -> ObjectId {
        match self {
            Record::Volume(volume) => ObjectId::Volume(volume.id),
            Record::Snapshot(snapshot) => ObjectId::Snapshot(snapshot.id),
            Record::Group(group) => ObjectId::Group(group.id),
        }
    }

    /// The key of its name.
    pub(crate) fn name(&self) -> Key {
        match self {
            Record::Volume(volume) => Key::VolumeName(volume.name.clone()),
            Record::Snapshot(snapshot) => Key::SnapshotName(snapshot.name.clone()),
            Record::Group(group) => Key::GroupName(group.name.clone()),
        }
    }

    /// The name itself.
    pub(crate) fn name_text(&self) -> &str {
        match self {
            Record::Volume(volume) => &volume.name,
            Record::Snapshot(snapshot) => &snapshot.name,
            Record::Group(group) => &group.name,
        }
    }

    /// The parameters of its class, as they were when it was made.
    pub(crate) fn parameters(&self) -> &Parameters {
        match self {
            Record::Volume(volume) => &volume.parameters,
            Record::Snapshot(snapshot) => &snapshot.parameters,
            Record::Group(group) => &group.parameters,
        }
    }

    /// The same in another phase.
    pub(crate) fn in_phase(&self, phase: Phase) -> Record {
        match self {
            Record::Volume(volume) => Record::Volume(Arc::new(Volume { phase, ..Volume::clone(volume) })),
            Record::Snapshot(snapshot) => {
                Record::Snapshot(Arc::new(Snapshot { phase, ..Snapshot::clone(snapshot) }))
            }
            Record::Group(group) => Record::Group(Arc::new(Group { phase, ..Group::clone(group) })),
        }
    }

    /// The same under another name.
    pub(crate) fn named(&self, name: &str) -> Record {
        let name = name.to_owned();
        match self {
            Record::Volume(volume) => Record::Volume(Arc::new(Volume { name, ..Volume::clone(volume) })),
            Record::Snapshot(snapshot) => {
                Record::Snapshot(Arc::new(Snapshot { name, ..Snapshot::clone(snapshot) }))
            }
            Record::Group(group) => Record::Group(Arc::new(Group { name, ..Group::clone(group) })),
        }
    }

    /// Where it is in its life.
    pub(crate) fn phase(&self) -> Phase {
        match self {
            Record::Volume(volume) => volume.phase,
            Record::Snapshot(snapshot) => snapshot.phase,
            Record::Group(group) => group.phase,
        }
    }

    /// What it takes of its pool's budget: a volume its full size, a snapshot what it held at its cut.
    fn promise(&self) -> u64 {
        match self {
            Record::Volume(volume) => volume.reach().get(),
            Record::Snapshot(snapshot) => snapshot.held.get(),
            Record::Group(_) => 0,
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
        for (name, entry) in entries {
            match entry {
                Ok(entry) => {
                    index.move_promise(pool, 0, entry.record.promise());
                    index.place(entry);
                }
                Err(why) => {
                    tracing::error!(record = name, why, "a record is quarantined; its file is left as it is");
                    index.quarantined.insert((pool, name), why);
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
        index.place(Entry { generation, record });
        Ok(())
    }

    /// Writes the record of what is about to be destroyed. On a disk that has no room even for that, memory alone says so:
    /// only the delete can make room. After a crash then, the record says what it said before, no caller was told that
    /// the delete is done, and its retry finishes it.
    pub(crate) fn condemn(&self, claim: &Claim, record: Record) -> Result<()> {
        let why = match self.write(claim, record.clone(), None) {
            Err(Error::Full(why)) => why,
            written => return written,
        };
        tracing::warn!(id = %record.id(), error = why, "no room to note the delete; it goes on without");
        let mut index = self.lock();
        let (generation, _) = index.promise(&record, None)?;
        index.place(Entry { generation, record });
        Ok(())
    }

    /// Erases a record durably; then memory forgets it. Absent is `Ok`.
    pub(crate) fn erase(&self, claim: &Claim, id: ObjectId) -> Result<()> {
        assert!(claim.owns(&Key::Object(id)), "{id} is erased without its claim");
        self.shelf(id.pool())?.erase(id)?;
        self.lock().forget(id);
        Ok(())
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

    /// Up to `max` snapshots that are cut, their group with them, with ids after `after`, in ascending order; of one volume or of all.
    pub fn snapshots(
        &self,
        after: Option<SnapshotId>,
        of: Option<VolumeId>,
        max: usize,
    ) -> Vec<Arc<Snapshot>> {
        let index = self.lock();
        index
            .after(after.map(ObjectId::Snapshot))
            .skip_while(|entry| entry.record.as_volume().is_some())
            .map_while(|entry| entry.record.as_snapshot())
            .filter(|snapshot| of.is_none_or(|of| snapshot.source == of) && index.is_whole(snapshot))
            .take(max)
            .cloned()
            .collect()
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

    /// The volumes and snapshots of a pool that are whole, and so must have bytes.
    pub(crate) fn finished(&self, pool: PoolId) -> Vec<ObjectId> {
        let index = self.lock();
        let whole = index.objects.iter().filter(|(_, entry)| entry.record.phase().is_whole());
        whole.map(|(id, _)| *id).filter(|id| id.pool() == pool && !matches!(id, ObjectId::Group(_))).collect()
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
            Phase::Creating | Phase::Ready | Phase::Growing { .. } | Phase::Deleting => Age::default(),
        };
        self.retained(Some(pool)).iter().map(since).max().unwrap_or_default()
    }

    /// Why the record of this id cannot be read, where that is so.
    pub fn quarantined(&self, pool: PoolId, id: &str) -> Option<String> {
        self.lock().quarantined.get(&(pool, id.to_owned())).cloned()
    }

    /// All that cannot be read: pool, file name and reason.
    pub fn quarantine(&self) -> Vec<(PoolId, String, String)> {
        let index = self.lock();
        index.quarantined.iter().map(|((pool, name), why)| (*pool, name.clone(), why.clone())).collect()
    }

    /// How many volumes, snapshots and groups a pool has on record, in whatever phase.
    pub fn count(&self, pool: PoolId) -> usize {
        self.lock().objects.keys().filter(|id| id.pool() == pool).count()
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

impl Record {
    fn as_volume(&self) -> Option<&Arc<Volume>> {
        if let Record::Volume(volume) = self { Some(volume) } else { None }
    }

    fn as_snapshot(&self) -> Option<&Arc<Snapshot>> {
        if let Record::Snapshot(snapshot) = self { Some(snapshot) } else { None }
    }

    pub(crate) fn into_volume(self) -> Option<Arc<Volume>> {
        if let Record::Volume(volume) = self { Some(volume) } else { None }
    }

    pub(crate) fn into_snapshot(self) -> Option<Arc<Snapshot>> {
        if let Record::Snapshot(snapshot) = self { Some(snapshot) } else { None }
    }

    pub(crate) fn into_group(self) -> Option<Arc<Group>> {
        if let Record::Group(group) = self { Some(group) } else { None }
    }
}

impl Index {
    /// The entries after an id, in ascending order: volumes, then snapshots, then groups.
    fn after(&self, id: Option<ObjectId>) -> impl Iterator<Item = &Entry> {
        let from = id.map_or(Bound::Unbounded, Bound::Excluded);
        self.objects.range((from, Bound::Unbounded)).map(|(_, entry)| entry)
    }

    /// Makes the ledger promise what `record` will, within `budget`; answers its next generation and what its present
    /// version promises.
    fn promise(&mut self, record: &Record, budget: Option<Bytes>) -> Result<(u64, u64)> {
        let present = self.objects.get(&record.id());
        let before = present.map_or(0, |entry| entry.record.promise());
        let generation = present.map_or(0, |entry| entry.generation) + 1;
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
        let promised = self.promised.entry(pool).or_default();
        *promised = promised.saturating_sub(from).saturating_add(to);
    }

    /// Shows an entry whose promise is made.
    fn place(&mut self, entry: Entry) {
        let (id, name) = (entry.record.id(), entry.record.name());
        if !entry.record.phase().frees_name() {
            self.names.insert(name, id);
        } else if self.names.get(&name) == Some(&id) {
            self.names.remove(&name);
        }
        self.objects.insert(id, entry);
    }

    fn forget(&mut self, id: ObjectId) {
        if let Some(entry) = self.objects.remove(&id) {
            self.move_promise(id.pool(), entry.record.promise(), 0);
            let name = entry.record.name();
            if self.names.get(&name) == Some(&id) {
                self.names.remove(&name);
            }
        }
    }

    /// Forgets all of a pool, before it is read again.
    fn close(&mut self, pool: PoolId) {
        self.objects.retain(|id, _| id.pool() != pool);
        self.names.retain(|_, id| id.pool() != pool);
        self.quarantined.retain(|(of, _), _| *of != pool);
        self.promised.remove(&pool);
    }

    fn is_whole(&self, snapshot: &Snapshot) -> bool {
        let group = snapshot.group.map(|group| self.objects.get(&ObjectId::Group(group)));
        snapshot.phase == Phase::Ready
            && group.is_none_or(|group| group.is_some_and(|entry| entry.record.phase() == Phase::Ready))
    }
}

impl Shelf {
    fn write(&self, record: &Record, generation: u64) -> Result<()> {
        match self {
            Shelf::Disk(records) => {
                reached(records)?.replace(record.id().to_string(), encode(record, generation)?.as_bytes())
            }
            Shelf::Memory => Ok(()),
        }
    }

    fn erase(&self, id: ObjectId) -> Result<()> {
        match self {
            Shelf::Disk(records) => reached(records)?.remove(id.to_string()).map(drop),
            Shelf::Memory => Ok(()),
        }
    }
}

/// The directory, on the threads of its pool.
fn reached(records: &Kept<Dir>) -> Result<&Dir> {
    records.get().ok_or_else(|| Error::Unavailable("the records are another thread's; ask again".to_owned()))
}

fn encode(record: &Record, generation: u64) -> Result<String> {
    let unfit = |error| Error::Corrupt(format!("failed to encode record {}: {error}", record.id()));
    let body = Body { schema: SCHEMA, pool: record.id().pool(), generation, record };
    let body = serde_json::value::to_raw_value(&body).map_err(unfit)?;
    let checksum = format!("{:08x}", crc32c::crc32c(body.get().as_bytes()));
    let mut text = serde_json::to_string(&Envelope { checksum, body: &body }).map_err(unfit)?;
    text.push('\n');
    Ok(text)
}

/// The entry in a file called `name`; the error is a reason for people.
fn decode(name: &str, bytes: &[u8]) -> std::result::Result<Entry, String> {
    let envelope: Envelope<'_> =
        serde_json::from_slice(bytes).map_err(|error| format!("it is not a record: {error}"))?;
    let found = format!("{:08x}", crc32c::crc32c(envelope.body.get().as_bytes()));
    if found != envelope.checksum {
        return Err(format!("its checksum is {found}, but {} was written", envelope.checksum));
    }
    let text = envelope.body.get();
    let body: Body<Record> =
        serde_json::from_str(text).map_err(|error| match serde_json::from_str(text) {
            // What does not parse may well be of a newer release; that is the better reason.
            Ok(Head { schema }) if schema > SCHEMA => newer(schema),
            Ok(_) | Err(_) => format!("it does not parse: {error}"),
        })?;
    if body.schema > SCHEMA {
        return Err(newer(body.schema));
    }
    if body.record.id().to_string() != name {
        return Err(format!("it is the record of {}", body.record.id()));
    }
    Ok(Entry { generation: body.generation, record: body.record })
}

fn newer(schema: u32) -> String {
    format!("its schema {schema} is newer than {SCHEMA}, the newest this release knows")
}

type Loaded = (String, std::result::Result<Entry, String>);

/// Every record of a pool, read by several threads since a cold disk answers them side by side.
fn load(records: &Dir, pool: PoolId) -> Result<Vec<Loaded>> {
    let texts = records.names()?.into_iter().filter_map(|name| name.into_string().ok());
    let names: Vec<String> = texts.filter(|name| name.parse::<ObjectId>().is_ok()).collect();
    let share = names.len().div_ceil(LOADERS).max(64);
    std::thread::scope(|scope| {
        let loaders: Vec<_> =
            names.chunks(share).map(|names| scope.spawn(move || load_some(records, pool, names))).collect();
        let mut entries = Vec::with_capacity(names.len());
        for loader in loaders {
            let some =
                loader.join().map_err(|_| Error::Corrupt("a loader of records panicked".to_owned()))?;
            entries.extend(some);
        }
        Ok(entries)
    })
}

fn load_some(records: &Dir, pool: PoolId, names: &[String]) -> Vec<Loaded> {
    let read = |name: &String| {
        let bytes = records.read(name, RECORD_BYTES).map_err(|error| crate::error::chain(&error))?;
        let entry = decode(name, &bytes.ok_or("it vanished")?)?;
        if entry.record.id().pool() == pool { Ok(entry) } else { Err("it is of another pool".to_owned()) }
    };
    names.iter().map(|name| (name.clone(), read(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Access, Allocation, Source, Time};

    const BUDGET: Bytes = Bytes::new(100 << 20);

    fn volume(name: &str, number: u8, mib: u64) -> Record {
        Record::Volume(Arc::new(Volume {
            id: VolumeId::new(PoolId::new([7; 6]), [number; 8]),
            name: name.to_owned(),
            phase: Phase::Ready,
            size: Bytes::MIB.times(mib),
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
    fn a_record_survives_its_text_and_no_flipped_bit_does() {
        let record = volume("a", 1, 1);
        let text = encode(&record, 3).unwrap();
        let name = record.id().to_string();
        let entry = decode(&name, text.as_bytes()).unwrap();
        assert_eq!((entry.generation, &entry.record), (3, &record));
        for bit in 0..(text.len() - 1) * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(entry) = decode(&name, &bytes) {
                assert_eq!(entry.record, record, "bit {bit} changed the record unseen");
            }
        }
        for length in 0..text.len() - 1 {
            assert!(decode(&name, &text.as_bytes()[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn a_record_of_a_newer_schema_or_another_name_is_refused() {
        let record = volume("a", 1, 1);
        let body = encode(&record, 1).unwrap();
        assert!(decode("v1.070707070707.0202020202020202", body.as_bytes()).is_err());
        let newer = r#"{"schema":2,"pool":"070707070707","generation":1,"record":{"future":{}}}"#;
        let text = format!(r#"{{"checksum":"{:08x}","body":{newer}}}"#, crc32c::crc32c(newer.as_bytes()));
        let why = decode(&record.id().to_string(), text.as_bytes()).err().unwrap();
        assert!(why.contains("newer"), "{why}");
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
