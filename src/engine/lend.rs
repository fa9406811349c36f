//! Content that another node copies.
//!
//! Owns: what is read while that lasts: a snapshot as it is, and of a volume a cut of its own that nobody sees. Never: knows who
//! reads it, or leaves a cut behind for ever: it is taken back when the copy is whole, or when nobody has asked for it in ten minutes
//! (`receive`).
//!
//! Lend a volume                                    After a crash (`recover`)
//!  1. record `Creating` of a snapshot              no bytes, then no record
//!  2. the pool cuts it                             as 1
//!  3. record `Lent`                                the retry finds it by whom it is lent to; else it is taken back

use std::sync::Arc;

use crate::engine::claims::Claim;
use crate::engine::health::refuse_cut_short;
use crate::engine::snapshots::{begun, refuse_without_snapshots};
use crate::engine::store::Record;
use crate::engine::volumes::Origin;
use crate::engine::{Engine, Key};
use crate::error::{Error, Result};
use crate::model::{
    Bytes, Elsewhere, ObjectId, Parameters, Phase, PoolId, Snapshot, SnapshotId, Source, Volume, VolumeId,
};
use crate::pool::Part;

/// A snapshot that is being copied: it cannot be deleted as long as this is there.
pub struct Lent {
    snapshot: SnapshotId,
    size: Bytes,
    /// It was cut for this copy alone.
    is_own: bool,
    _claim: Claim,
}

impl Lent {
    /// How long it is.
    pub fn size(&self) -> Bytes {
        self.size
    }

    /// Where it lies.
    pub fn pool(&self) -> PoolId {
        self.snapshot.pool()
    }
}

impl Engine {
    /// What a source is, for the node that is to have a copy of it.
    ///
    /// # Errors
    /// `NotFound`; `Unsupported` where it cannot be cut; `Unavailable`.
    pub fn elsewhere(&self, source: &Source) -> Result<Elsewhere> {
        let origin = self.origin(source)?;
        let Origin { id, size, access, fs_uuid, .. } =
            origin.ok_or_else(|| Error::Invalid("volume_content_source is missing".to_owned()))?;
        let slot = self.slot_of(id.pool()).ok_or_else(|| self.absent(id))?;
        refuse_without_snapshots(slot.open()?.as_ref(), slot.name())?;
        Ok(Elsewhere { size, access, fs_uuid })
    }

    /// A source for reading, `size` long at most: what it was said to be. A volume is cut first, unless it was cut for the same copy before.
    ///
    /// # Errors
    /// `NotFound`; `OutOfRange` where it is longer; `Full` without room for the cut; `Busy`; `Unavailable`.
    pub fn lend(&self, source: &Source, to: VolumeId, size: Bytes) -> Result<Lent> {
        let snapshot = match source {
            Source::Snapshot(id) => self.snapshot(id)?,
            Source::Volume(id) => match self.store.lent_to(to, *id) {
                Some(cut) => cut,
                None => self.cut_to_lend(id, to)?,
            },
            Source::Blank => return Err(Error::Invalid("volume_content_source is missing".to_owned())),
        };
        if snapshot.size > size {
            return Err(Error::OutOfRange(format!(
                "the source has grown to {} bytes since the copy of it was begun, for which {} are enough",
                snapshot.size.get(),
                size.get()
            )));
        }
        let id = ObjectId::Snapshot(snapshot.id);
        let claim = self.store.claim(&[], &[Key::Object(id)])?;
        // It may have gone in between.
        if self.store.record(id).is_none_or(|record| !record.phase().is_whole()) {
            return Err(self.absent(id));
        }
        refuse_cut_short(self.pool(snapshot.id.pool())?.as_ref(), id, snapshot.size)?;
        let is_own = matches!(snapshot.phase, Phase::Lent { .. });
        let lent = Lent { snapshot: snapshot.id, size: snapshot.size, is_own, _claim: claim };
        self.see_lent(&lent);
        Ok(lent)
    }

    /// A part of what is lent, from an offset on.
    ///
    /// # Errors
    /// Those of the pool.
    pub fn part(&self, lent: &Lent, from: u64) -> Result<Part> {
        let part = self.pool(lent.pool())?.part(&lent.snapshot, from)?;
        self.see_lent(lent);
        Ok(part)
    }

    /// What was cut for a copy stays as long as it is read.
    fn see_lent(&self, lent: &Lent) {
        if lent.is_own {
            self.journeys.see(ObjectId::Snapshot(lent.snapshot));
        }
    }

    /// The copy is whole: what was cut only for it goes.
    ///
    /// # Errors
    /// `Unavailable` while it stays; it goes later.
    pub fn take_back(&self, lent: Lent) -> Result<()> {
        let record = self.store.record(ObjectId::Snapshot(lent.snapshot));
        drop(lent);
        match record.filter(|record| matches!(record.phase(), Phase::Lent { .. })) {
            Some(record) => self.end_journey(&record),
            None => Ok(()),
        }
    }

    fn cut_to_lend(&self, id: &VolumeId, to: VolumeId) -> Result<Arc<Snapshot>> {
        let volume: Arc<Volume> = self.volume(id)?;
        let mut claim = self.store.claim(&[], &[Key::Object(ObjectId::Volume(*id))])?;
        let slot = self.slot_of(id.pool()).ok_or_else(|| self.absent(ObjectId::Volume(*id)))?;
        let (pool, budget) = slot.ready()?;
        refuse_without_snapshots(pool.as_ref(), slot.name())?;
        refuse_cut_short(pool.as_ref(), ObjectId::Volume(*id), volume.size)?;
        let creating = begun(pool.as_ref(), &volume, None, None, &Parameters::default())?;
        claim.extend(&[Key::Object(ObjectId::Snapshot(creating.id))])?;
        let undo = Record::Snapshot(Arc::new(creating.clone()));
        self.store.put(&claim, undo.clone())?;
        step!("lend: recorded");
        let lent = Snapshot { phase: Phase::Lent { to }, ..creating };
        let cut = pool.snapshot(&lent).and_then(|held| {
            step!("lend: cut");
            let lent = Arc::new(Snapshot { held, ..lent });
            self.store.admit(&claim, Record::Snapshot(Arc::clone(&lent)), budget)?;
            step!("lend: ready");
            Ok(lent)
        });
        cut.map_err(|cause| {
            self.named_full(slot, Bytes::ZERO, self.undo(&claim, pool.as_ref(), &undo, cause))
        })
    }
}
