//! A pool in memory: an equal implementation of the trait, for tests and scale work.
//!
//! Owns: sparse objects whose blocks are shared until somebody writes them, and their exact accounting, so that this
//! pool fills up, snapshots and clones as a real one does. Never: touches the disk; outlives the process.
//!
//! An object counts what it would take on a disk: each block that exists once, however many share it, and for a reserved
//! volume also the blocks that were not written yet. What a kernel does to a device, tests do with [`SimPool::write`] and
//! [`SimPool::read`]; there is no device, so `attach` is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{
    Attach, Attached, Found, Kind, Part, Pool, Problem, Setup, Severity, Thaw, Thawed, Usage, whole,
};
use crate::error::{Error, Result};
use crate::model::{
    Allocation, Bytes, Features, Phase, Piece, PoolId, Snapshot, SnapshotId, Source, UNIT, Volume, VolumeId,
    WINDOW,
};
use crate::os::file::{self, Dir};

const BLOCK: u64 = UNIT.get();
const BLOCK_LEN: usize = 4096;

type Block = [u8; BLOCK_LEN];

/// One volume or snapshot.
struct Object {
    size: Bytes,
    allocation: Allocation,
    blocks: BTreeMap<u64, Arc<Block>>,
}

impl Object {
    /// What the blocks that exist take, shared or not.
    fn written(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK
    }

    /// What is taken though it was never written.
    fn ahead(&self) -> u64 {
        match self.allocation {
            Allocation::Sparse => 0,
            Allocation::Reserved => self.size.get().saturating_sub(self.written()),
        }
    }

    /// What comes free when this object goes: nothing that somebody else shares.
    fn alone(&self) -> u64 {
        let sole = self.blocks.values().filter(|block| Arc::strong_count(block) == 1).count();
        sole as u64 * BLOCK + self.ahead()
    }

    /// What writing these blocks takes beyond what is taken already.
    fn needs(&self, blocks: impl Iterator<Item = u64>) -> u64 {
        let fresh = blocks.filter(|index| match self.blocks.get(index) {
            Some(block) => Arc::strong_count(block) > 1,
            None => self.allocation == Allocation::Sparse,
        });
        fresh.count() as u64 * BLOCK
    }

    fn check(&self, offset: u64, len: usize) -> Result<()> {
        let end = offset.checked_add(len as u64);
        if end.is_some_and(|end| end <= self.size.get()) {
            return Ok(());
        }
        Err(Error::OutOfRange(format!("{len} bytes at {offset} do not fit in a volume of {}", self.size)))
    }
}

#[derive(Default)]
struct State {
    used: u64,
    volumes: BTreeMap<VolumeId, Object>,
    snapshots: BTreeMap<SnapshotId, Object>,
    /// Volumes that are being received.
    begun: BTreeMap<VolumeId, Object>,
    frozen: BTreeSet<VolumeId>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    thawed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn thaw(&self, id: &VolumeId) -> Thawed {
        let was_frozen = self.lock().frozen.remove(id);
        self.thawed.notify_all();
        if was_frozen { Thawed::Now } else { Thawed::Before }
    }
}

/// A pool in memory.
pub struct SimPool {
    id: PoolId,
    size: Bytes,
    away: AtomicBool,
    shared: Arc<Shared>,
}

impl SimPool {
    /// The pool that a configuration describes; 1 TiB where it does not say how large.
    ///
    /// # Errors
    /// `Invalid` for a size that is not a positive multiple of [`UNIT`].
    pub fn open(setup: &Setup) -> Result<Self> {
        Self::new(setup.size.unwrap_or(Bytes::GIB.times(1024)))
    }

    /// An empty pool that holds `size` bytes, with an identity of its own.
    ///
    /// # Errors
    /// `Invalid` for a size that is not a positive multiple of [`UNIT`].
    pub fn new(size: Bytes) -> Result<Self> {
        if size == Bytes::ZERO || size.round_down(UNIT) != size {
            return Err(Error::invalid("size", size.get(), "want a positive multiple of 4096 bytes"));
        }
        let id = file::random_hex::<12>()?.parse()?;
        Ok(SimPool { id, size, away: AtomicBool::new(false), shared: Arc::default() })
    }

    /// For tests: the pool goes away, as a disk does that is pulled, and every verb fails from now on.
    pub fn unplug(&self) {
        self.away.store(true, Ordering::SeqCst);
    }

    /// For tests: writes as a workload does. A frozen volume makes the caller wait until it thaws.
    ///
    /// # Errors
    /// `Full`, `Corrupt` where it is not there, and `OutOfRange` beyond the volume's end; then nothing was written.
    pub fn write(&self, id: &VolumeId, offset: u64, bytes: &[u8]) -> Result<()> {
        self.present()?;
        let guard = self.shared.lock();
        let mut guard = self
            .shared
            .thawed
            .wait_while(guard, |state| state.frozen.contains(id))
            .unwrap_or_else(PoisonError::into_inner);
        let State { used, volumes, .. } = &mut *guard;
        let volume = volumes.get_mut(id).ok_or_else(|| gone("volume", id))?;
        volume.check(offset, bytes.len())?;
        self.take(used, volume.needs(pieces(offset, bytes.len()).map(|piece| piece.index)))?;
        for piece in pieces(offset, bytes.len()) {
            let block = volume.blocks.entry(piece.index).or_insert_with(|| Arc::new([0; BLOCK_LEN]));
            Arc::make_mut(block)[piece.within].copy_from_slice(&bytes[piece.of]);
        }
        Ok(())
    }

    /// For tests: reads as a workload does; what was never written is zeros.
    ///
    /// # Errors
    /// `Corrupt` where it is not there, and `OutOfRange` beyond the volume's end.
    pub fn read(&self, id: &VolumeId, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.present()?;
        let state = self.shared.lock();
        let volume = state.volumes.get(id).ok_or_else(|| gone("volume", id))?;
        volume.check(offset, len)?;
        let mut bytes = vec![0; len];
        for piece in pieces(offset, len) {
            if let Some(block) = volume.blocks.get(&piece.index) {
                bytes[piece.of].copy_from_slice(&block[piece.within]);
            }
        }
        Ok(bytes)
    }

    /// For tests: thaws a frozen volume behind the back of whoever froze it.
    pub fn thaw(&self, id: &VolumeId) -> Thawed {
        self.shared.thaw(id)
    }

    /// Takes space, all or nothing.
    fn take(&self, used: &mut u64, bytes: u64) -> Result<()> {
        let free = self.size.get().saturating_sub(*used);
        if bytes > free {
            let (want, free) = (Bytes::new(bytes), Bytes::new(free));
            return Err(Error::Full(format!("{want} are needed and {free} of {} are free", self.size)));
        }
        *used += bytes;
        Ok(())
    }
}

/// A part of a range that lies in one block.
struct Span {
    index: u64,
    within: std::ops::Range<usize>,
    of: std::ops::Range<usize>,
}

fn pieces(offset: u64, len: usize) -> impl Iterator<Item = Span> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let start = usize::try_from(at % BLOCK).ok()?;
        let size = (BLOCK_LEN - start).min(len - done);
        let piece = Span { index: at / BLOCK, within: start..start + size, of: done..done + size };
        done += size;
        Some(piece)
    })
}

fn gone(noun: &str, id: impl std::fmt::Display) -> Error {
    Error::Corrupt(format!("{noun} {id} has a record, but no bytes in this pool"))
}

impl Pool for SimPool {
    fn id(&self) -> PoolId {
        self.id
    }

    fn kind(&self) -> Kind {
        Kind::Sim
    }

    fn features(&self) -> Features {
        Kind::Sim.features()
    }

    fn home(&self) -> Option<&Dir> {
        None
    }

    fn present(&self) -> Result<()> {
        if self.away.load(Ordering::SeqCst) {
            return Err(Error::Unavailable(format!("the simulated pool {} is unplugged", self.id)));
        }
        Ok(())
    }

    fn writable(&self) -> Result<()> {
        self.present()
    }

    fn usage(&self) -> Result<Usage> {
        self.present()?;
        let free = self.size.less(Bytes::new(self.shared.lock().used));
        Ok(Usage { total: self.size, free, foreign: Bytes::ZERO })
    }

    fn scan(&self) -> Result<Vec<Found>> {
        self.present()?;
        let state = self.shared.lock();
        let volumes = state.volumes.iter().map(|(id, object)| Found::Volume(*id, object.size));
        let snapshots = state.snapshots.iter().map(|(id, object)| Found::Snapshot(*id, object.size));
        Ok(volumes.chain(snapshots).collect())
    }

    fn create(&self, want: &Volume) -> Result<()> {
        self.present()?;
        self.features().require(want)?;
        let size = whole(want.size)?;
        let mut state = self.shared.lock();
        let State { used, volumes, snapshots, .. } = &mut *state;
        if volumes.contains_key(&want.id) {
            return Ok(());
        }
        let source = match &want.source {
            Source::Blank => None,
            Source::Volume(id) => Some(volumes.get(id).ok_or_else(|| gone("volume", id))?),
            Source::Snapshot(id) => Some(snapshots.get(id).ok_or_else(|| gone("snapshot", id))?),
        };
        let mut made = Object { size, allocation: want.allocation, blocks: BTreeMap::new() };
        if let Some(source) = source {
            if source.size > size {
                let of = source.size;
                return Err(Error::OutOfRange(format!("size {size} is smaller than the source's {of}")));
            }
            made.blocks = source.blocks.clone();
        }
        if made.allocation == Allocation::Reserved {
            self.take(used, size.get())?;
            // Shared blocks would need space again at the first write, which is what reserving excludes.
            made.blocks.values_mut().for_each(|block| *block = Arc::new(**block));
        }
        volumes.insert(want.id, made);
        Ok(())
    }

    fn grow(&self, id: &VolumeId, size: Bytes) -> Result<Bytes> {
        self.present()?;
        let size = whole(size)?;
        let mut state = self.shared.lock();
        let State { used, volumes, .. } = &mut *state;
        let volume = volumes.get_mut(id).ok_or_else(|| gone("volume", id))?;
        if size > volume.size {
            if volume.allocation == Allocation::Reserved {
                self.take(used, size.less(volume.size).get())?;
            }
            volume.size = size;
        }
        Ok(volume.size)
    }

    fn destroy(&self, id: &VolumeId) -> Result<()> {
        self.present()?;
        let mut state = self.shared.lock();
        let begun = state.begun.remove(id);
        for gone in state.volumes.remove(id).into_iter().chain(begun) {
            state.used -= gone.alone();
        }
        Ok(())
    }

    fn snapshot(&self, want: &Snapshot) -> Result<Bytes> {
        self.present()?;
        let Snapshot { id, source: of, .. } = want;
        let mut state = self.shared.lock();
        if let Some(cut) = state.snapshots.get(id) {
            return Ok(Bytes::new(cut.written()));
        }
        let volume = state.volumes.get(of).ok_or_else(|| gone("volume", of))?;
        let blocks = volume.blocks.clone();
        let cut = Object { size: volume.size, allocation: Allocation::Sparse, blocks };
        let held = Bytes::new(cut.written());
        state.snapshots.insert(*id, cut);
        Ok(held)
    }

    fn forget(&self, id: &SnapshotId) -> Result<()> {
        self.present()?;
        let mut state = self.shared.lock();
        if let Some(snapshot) = state.snapshots.remove(id) {
            state.used -= snapshot.alone();
        }
        Ok(())
    }

    fn attach(&self, id: &VolumeId, how: Attach) -> Result<Attached> {
        self.attached(id, how)?;
        Err(Error::Unsupported(
            "a simulated volume has no device: its bytes lie in the memory of this process".to_owned(),
        ))
    }

    fn attached(&self, id: &VolumeId, _how: Attach) -> Result<Option<Attached>> {
        self.present()?;
        self.shared.lock().volumes.get(id).ok_or_else(|| gone("volume", id))?;
        Ok(None)
    }

    fn detach(&self, _id: &VolumeId) -> Result<()> {
        Ok(())
    }

    fn freeze(&self, ids: &[VolumeId]) -> Result<Thaw> {
        self.present()?;
        let mut thaw = Thaw::none();
        for id in ids {
            let mut state = self.shared.lock();
            state.volumes.get(id).ok_or_else(|| gone("volume", id))?;
            if !state.frozen.insert(*id) {
                drop(state);
                return Err(Error::Precondition(format!("volume {id} is frozen by somebody else")));
            }
            let (shared, id) = (Arc::clone(&self.shared), *id);
            thaw.push(Box::new(move || Ok(shared.thaw(&id))));
        }
        Ok(thaw)
    }

    fn part(&self, id: &SnapshotId, from: u64) -> Result<Part> {
        self.present()?;
        let state = self.shared.lock();
        let cut = state.snapshots.get(id).ok_or_else(|| gone("snapshot", id))?;
        let (size, window) = (cut.size.get(), WINDOW as u64);
        let Some((first, _)) = cut.blocks.range(from / BLOCK..).next() else {
            return Ok(Part { piece: None, next: size });
        };
        let begin = first * BLOCK / window * window;
        let mut bytes = vec![0; usize::try_from(window.min(size - begin)).unwrap_or(WINDOW)];
        for (index, block) in cut.blocks.range(begin / BLOCK..(begin + window) / BLOCK) {
            let at = usize::try_from(index * BLOCK - begin).unwrap_or(0);
            bytes[at..at + BLOCK_LEN].copy_from_slice(&block[..]);
        }
        Ok(Part { piece: Piece::of(begin, &bytes), next: (begin + window).min(size) })
    }

    fn begin(&self, want: &Volume) -> Result<()> {
        self.present()?;
        let done = if let Phase::Receiving { done, .. } = want.phase { done } else { Bytes::ZERO };
        let mut state = self.shared.lock();
        let State { used, begun, .. } = &mut *state;
        if done > Bytes::ZERO {
            let lost = || Error::Corrupt(format!("what was received of {} is gone", want.id));
            let found = begun.get_mut(&want.id).ok_or_else(lost)?;
            let before = found.alone();
            found.blocks.split_off(&done.get().div_ceil(BLOCK));
            *used -= before - found.alone();
            return Ok(());
        }
        if let Some(before) = begun.remove(&want.id) {
            *used -= before.alone();
        }
        let made = Object { size: whole(want.size)?, allocation: want.allocation, blocks: BTreeMap::new() };
        self.take(used, made.ahead())?;
        begun.insert(want.id, made);
        Ok(())
    }

    fn fill(&self, id: &VolumeId, piece: &Piece) -> Result<()> {
        self.present()?;
        let mut state = self.shared.lock();
        let State { used, begun, .. } = &mut *state;
        let object = begun.get_mut(id).ok_or_else(|| gone("volume", id))?;
        for (at, run) in piece.runs() {
            object.check(at, run.len())?;
            self.take(used, object.needs(pieces(at, run.len()).map(|piece| piece.index)))?;
            for piece in pieces(at, run.len()) {
                let block = object.blocks.entry(piece.index).or_insert_with(|| Arc::new([0; BLOCK_LEN]));
                Arc::make_mut(block)[piece.within].copy_from_slice(&run[piece.of]);
            }
        }
        Ok(())
    }

    fn harden(&self, _id: &VolumeId) -> Result<()> {
        self.present()
    }

    fn begun(&self) -> Result<Vec<VolumeId>> {
        self.present()?;
        Ok(self.shared.lock().begun.keys().copied().collect())
    }

    fn discard(&self, id: &VolumeId) -> Result<()> {
        self.present()?;
        let mut state = self.shared.lock();
        let State { used, begun, .. } = &mut *state;
        begun.remove(id).into_iter().for_each(|before| *used -= before.alone());
        Ok(())
    }

    fn complete(&self, want: &Volume) -> Result<()> {
        self.present()?;
        let mut state = self.shared.lock();
        if state.volumes.contains_key(&want.id) {
            return Ok(());
        }
        let object = state.begun.remove(&want.id).ok_or_else(|| gone("volume", want.id))?;
        state.volumes.insert(want.id, object);
        Ok(())
    }

    fn health(&self, of: Option<&VolumeId>) -> Vec<Problem> {
        if let Err(error) = self.present() {
            let message = crate::error::chain(&error);
            return vec![Problem { severity: Severity::Inaccessible, reason: "PoolMissing", message }];
        }
        let missing = of.filter(|id| !self.shared.lock().volumes.contains_key(id));
        let report = |id: &VolumeId| Problem {
            severity: Severity::DataLoss,
            reason: "VolumeMissing",
            message: gone("volume", id).to_string(),
        };
        missing.map(report).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Access, Phase, Time};

    fn volume(pool: &SimPool, number: u64, allocation: Allocation) -> Volume {
        Volume {
            id: VolumeId::new(pool.id(), number.to_be_bytes()),
            name: String::new(),
            phase: Phase::Creating,
            size: Bytes::MIB,
            asked: None,
            access: Access::Block,
            fs_uuid: None,
            sector_size: 4096,
            allocation,
            source: Source::Blank,
            parameters: BTreeMap::new(),
            claim: None,
            created: Time::now(),
        }
    }

    fn used(pool: &SimPool) -> u64 {
        let usage = pool.usage().unwrap();
        usage.total.less(usage.free).get()
    }

    #[test]
    fn a_block_counts_once_until_its_sharers_differ() {
        let pool = SimPool::new(Bytes::GIB).unwrap();
        let (sparse, thick) = (volume(&pool, 1, Allocation::Sparse), volume(&pool, 2, Allocation::Reserved));
        pool.create(&sparse).unwrap();
        pool.create(&thick).unwrap();
        assert_eq!(used(&pool), 1 << 20);
        pool.write(&thick.id, 4095, b"ab").unwrap();
        assert_eq!(used(&pool), 1 << 20, "its space was taken already");
        pool.write(&sparse.id, 4095, b"ab").unwrap();
        assert_eq!(used(&pool), (1 << 20) + 2 * BLOCK);
        let snapshots = [1, 2].map(|number: u64| SnapshotId::new(pool.id(), number.to_be_bytes()));
        for (snapshot, of) in snapshots.iter().zip([&sparse.id, &thick.id]) {
            assert_eq!(pool.snapshot(&crate::pool::rig::cut(*snapshot, *of)).unwrap().get(), 2 * BLOCK);
        }
        assert_eq!(used(&pool), (1 << 20) + 2 * BLOCK, "a cut shares all");
        pool.write(&sparse.id, 0, b"x").unwrap();
        pool.write(&thick.id, 0, b"x").unwrap();
        assert_eq!(used(&pool), (1 << 20) + 4 * BLOCK);
        pool.destroy(&thick.id).unwrap();
        pool.destroy(&sparse.id).unwrap();
        assert_eq!(used(&pool), 4 * BLOCK, "what the cuts hold");
        snapshots.iter().for_each(|snapshot| pool.forget(snapshot).unwrap());
        assert_eq!(used(&pool), 0);
    }

    #[test]
    fn a_hundred_thousand_volumes_are_small() {
        let pool = SimPool::new(Bytes::GIB).unwrap();
        (0..100_000).for_each(|number| pool.create(&volume(&pool, number, Allocation::Sparse)).unwrap());
        assert_eq!(pool.scan().unwrap().len(), 100_000);
        assert_eq!(used(&pool), 0);
        assert!(size_of::<(VolumeId, Object)>() <= 72, "{}", size_of::<(VolumeId, Object)>());
    }
}
