//! Volumes whose content comes from another node.
//!
//! Owns: the order of record and bytes while that lasts, how far it has come, and what a retry may find. Never: knows where the
//! bytes come from, or shows a volume to anybody before it is whole.
//!
//! Receive                                          After a crash (`recover`)
//!  1. record `Receiving`, nothing done, within the  the retry begins the bytes anew
//!     budget
//!  2. the pool makes room under a temporary name    as 1
//!  3. pieces; now and then they are hardened, and   it goes on from what the record says
//!     the record says how much that is
//!  4. the bytes get their place                     the start finds them there: 5
//!  5. record `Ready`                                the retry finds it
//!
//! A volume that nobody has asked for in an hour is given up, and one that is deleted goes as any other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::claims::Claim;
use crate::engine::slot::Slot;
use crate::engine::store::Record;
use crate::engine::volumes::{Origin, difference, is_usable};
use crate::engine::{Engine, Key, PoolIndex};
use crate::error::{Error, Result, chain, of_pool, quoted};
use crate::model::{
    Access, Allocation, Asked, Bytes, CreateVolume, Elsewhere, Features, ObjectId, Phase, Piece, PoolId,
    Range, Source, Volume, VolumeId,
};
use crate::pool::Pool;

/// After so long a volume that nobody asks for any more is given up.
const GIVEN_UP: Duration = Duration::from_secs(3600);
/// After so long what was lent is taken back: for as long as a ticket lives without progress.
const TAKEN_BACK: Duration = Duration::from_secs(600);

/// A volume that was asked for with a source elsewhere.
#[derive(Clone, Debug)]
pub enum Received {
    /// It is whole.
    Whole(Arc<Volume>),
    /// Its content is on its way.
    Going(Receiving),
}

/// How far a volume's content has come.
#[derive(Clone, Debug, PartialEq)]
pub struct Receiving {
    /// The volume.
    pub volume: Arc<Volume>,
    /// So much of it is durable.
    pub done: Bytes,
    /// The digest of that part.
    pub digest: u32,
    /// Which beginning it is of: what comes of an earlier one no longer counts.
    pub session: u64,
}

/// What is on its way to or from other nodes, as far as only this process knows of it.
#[derive(Default)]
pub(super) struct Journeys(Mutex<HashMap<ObjectId, Journey>>);

struct Journey {
    /// When somebody asked for it last: for a volume a caller, for a snapshot whoever sends it. A volume that nobody asks for is given up
    /// though its pieces come: its node would send them to the end.
    seen: Instant,
    /// Nothing more is taken of it.
    stopped: bool,
    /// How often it was begun.
    session: u64,
}

impl Default for Journey {
    fn default() -> Self {
        Journey { seen: Instant::now(), stopped: false, session: 0 }
    }
}

impl Journeys {
    pub(super) fn see(&self, id: ObjectId) {
        self.lock().entry(id).or_default().seen = Instant::now();
    }

    /// It is asked for: what stopped may begin again.
    fn resume(&self, id: ObjectId) {
        let mut all = self.lock();
        let journey = all.entry(id).or_default();
        (journey.seen, journey.stopped) = (Instant::now(), false);
    }

    fn is_stopped(&self, id: ObjectId) -> bool {
        self.lock().get(&id).is_some_and(|journey| journey.stopped)
    }

    /// Nothing more is taken, until it is asked for again.
    fn stop(&self, id: ObjectId) {
        self.lock().entry(id).or_default().stopped = true;
    }

    /// It begins, or begins again; under which number.
    fn begin(&self, id: ObjectId) -> u64 {
        let mut all = self.lock();
        let journey = all.entry(id).or_default();
        *journey = Journey { session: journey.session + 1, stopped: false, ..*journey };
        journey.session
    }

    fn session(&self, id: ObjectId) -> u64 {
        self.lock().get(&id).map_or(0, |journey| journey.session)
    }

    /// Whether what comes of this beginning counts still.
    fn takes(&self, id: ObjectId, session: u64) -> bool {
        self.lock().get(&id).is_some_and(|journey| !journey.stopped && journey.session == session)
    }

    /// For how long nobody has seen it; from the first question on, where nobody ever has.
    fn idle(&self, id: ObjectId) -> Duration {
        self.lock().entry(id).or_default().seen.elapsed()
    }

    pub(super) fn forget(&self, id: ObjectId) {
        self.lock().remove(&id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectId, Journey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// The volume of this name, if its source lies elsewhere or it is whole.
    ///
    /// # Errors
    /// `NotFound` where there is none, `Conflict` for another one of the name, `Unavailable` where nobody can say.
    pub fn received(&self, want: &CreateVolume) -> Result<Received> {
        let name = Key::VolumeName(want.name.clone());
        self.store.refuse_taken(std::slice::from_ref(&name))?;
        let Some(Record::Volume(found)) = self.store.named(&name) else {
            self.store.refuse_quarantined(&name)?;
            if want.pool.is_none() {
                // It may lie, under this name, in a pool whose records nobody has read yet.
                self.complete()?;
            }
            return Err(Error::NotFound(format!("{name}: there is no such volume on this node")));
        };
        if let Phase::Receiving { done, digest } = found.phase {
            refuse_other(&found, want)?;
            let id = ObjectId::Volume(found.id);
            self.journeys.resume(id);
            let session = self.journeys.session(id);
            return Ok(Received::Going(Receiving { volume: found, done, digest, session }));
        }
        if is_usable(&found) {
            refuse_other(&found, want)?;
            self.refuse_away(found.id.pool())?;
            return Ok(Received::Whole(found));
        }
        Err(Error::Unavailable(format!("{name}: what an earlier call began is unfinished; ask again")))
    }

    /// The pool that takes such a volume: the one that has its name, or the one that is asked for, or the best.
    ///
    /// # Errors
    /// `Full` where none can hold it: another node may.
    pub fn choose_to_receive(&self, want: &CreateVolume, origin: &Elsewhere) -> Result<PoolIndex> {
        let at = |slot: &Slot| {
            let number = self.pools.iter().position(|other| std::ptr::eq(other, slot));
            PoolIndex(number.unwrap_or_default())
        };
        let named = self.store.named(&Key::VolumeName(want.name.clone()));
        if let Some(slot) = named.and_then(|found| self.slot_of(found.id().pool())) {
            return Ok(at(slot));
        }
        let want = &sized(want, origin);
        let able = |slot: &&Slot| {
            let known = slot.known();
            known.is_none_or(|known| refuse_unfit(&known.features, want, origin).is_ok())
        };
        let asked = |slot: &&Slot| want.pool.as_deref().is_none_or(|pool| pool == slot.name());
        let best = self.pools.iter().filter(asked).filter(able).min_by_key(|slot| self.rank(slot, want));
        best.map(at).ok_or_else(|| {
            let pool = want.pool.as_ref().map(|pool| format!(" {}", quoted(pool))).unwrap_or_default();
            Error::Full(format!(
                "this node has no pool{pool} that can hold a copy of a volume of access {}",
                origin.access
            ))
        })
    }

    /// The volume of this name; where there is none its record is made, and room for its bytes. On the threads of the pool that
    /// was chosen.
    ///
    /// # Errors
    /// As `create_volume`; `Full` also where the pool cannot hold such a volume.
    pub fn receive_at(&self, index: PoolIndex, want: &CreateVolume, origin: &Elsewhere) -> Result<Received> {
        match self.received(want) {
            Err(Error::NotFound(_)) => {}
            other => return other,
        }
        let slot = &self.pools[index.0];
        let name = Key::VolumeName(want.name.clone());
        let mut claim = self.store.claim(std::slice::from_ref(&name), &[])?;
        if self.store.named(&name).is_some() {
            return Err(Error::Busy(format!("{name}: another call has only just made it; ask again")));
        }
        let (pool, budget) = slot.ready()?;
        refuse_unfit(&pool.features(), want, origin)
            .map_err(|why| Error::Full(of_pool(slot.name(), &chain(&why))))?;
        let id = match want.source {
            Source::Volume(id) => ObjectId::Volume(id),
            Source::Snapshot(id) => ObjectId::Snapshot(id),
            Source::Blank => return Err(Error::Invalid("volume_content_source is missing".to_owned())),
        };
        let Elsewhere { size, access, fs_uuid } = *origin;
        let origin = Origin { id, holds: size, size, access, fs_uuid };
        let planned = self.plan_bytes(slot, want, Some(&origin))?;
        let phase = Phase::Receiving { done: Bytes::ZERO, digest: 0 };
        let volume = Arc::new(Volume { phase, ..planned });
        claim.extend(&[Key::Object(ObjectId::Volume(volume.id))])?;
        let record = Record::Volume(Arc::clone(&volume));
        self.store
            .admit(&claim, record.clone(), budget)
            .map_err(|error| self.named_full(slot, volume.size, error))?;
        step!("receive: recorded");
        if let Err(cause) = pool.begin(&volume) {
            let undone = self.undo(&claim, pool.as_ref(), &record.in_phase(Phase::Deleting), cause);
            return Err(self.named_full(slot, volume.size, undone));
        }
        step!("receive: begun");
        let session = self.journeys.begin(ObjectId::Volume(volume.id));
        Ok(Received::Going(Receiving { volume, done: Bytes::ZERO, digest: 0, session }))
    }

    /// Makes ready for pieces: from `done` on they are to come. With `anew` from the beginning.
    ///
    /// # Errors
    /// `NotFound` where nothing is to be received; `Busy`; `Full`; `Unavailable`.
    pub fn begin_receiving(&self, id: &VolumeId, anew: bool) -> Result<Receiving> {
        let claim = self.store.claim(&[Key::Object(ObjectId::Volume(*id))], &[])?;
        let pool = self.writable(id.pool())?;
        // It may have its place, and only its record does not know that.
        if let Some(volume) = self.store.volume(id).filter(|it| matches!(it.phase, Phase::Receiving { .. })) {
            self.settle_received(&claim, pool.as_ref(), &Record::Volume(volume))?;
        }
        if !self.is_receiving(id) || self.journeys.is_stopped(ObjectId::Volume(*id)) {
            return Err(Error::NotFound(format!("volume {id} is not being received")));
        }
        let session = self.journeys.begin(ObjectId::Volume(*id));
        let mut going = self.receiving(id, session)?;
        if !anew {
            match pool.begin(&going.volume) {
                Err(Error::Corrupt(why)) => {
                    tracing::warn!(volume = %id, why, "it is received from its beginning on")
                }
                begun => return begun.map(|()| going),
            }
        }
        going = self.note_received(&claim, going, Bytes::ZERO, 0)?;
        step!("receive: reset");
        pool.begin(&going.volume).map(|()| going)
    }

    /// Puts a piece where it belongs.
    ///
    /// # Errors
    /// As `begin_receiving`, `NotFound` also where it was begun again since; `Invalid` for a piece that lies outside of the volume.
    pub fn fill(&self, id: &VolumeId, session: u64, piece: &Piece) -> Result<()> {
        let _claim = self.store.claim(&[Key::Object(ObjectId::Volume(*id))], &[])?;
        let volume = self.receiving(id, session)?.volume;
        if piece.reach() > volume.size.get() {
            return Err(Error::Invalid(format!("a piece of content reaches beyond the end of volume {id}")));
        }
        self.writable(id.pool())?.fill(id, piece)?;
        step!("receive: filled");
        Ok(())
    }

    /// All that was filled counts from here on: it reaches to `done`, and this is its digest.
    ///
    /// # Errors
    /// As `fill`.
    pub fn harden(&self, id: &VolumeId, session: u64, done: Bytes, digest: u32) -> Result<()> {
        let claim = self.store.claim(&[Key::Object(ObjectId::Volume(*id))], &[])?;
        let going = self.receiving(id, session)?;
        // The last window may be a part of one.
        let done = done.min(going.volume.size);
        self.writable(id.pool())?.harden(id)?;
        step!("receive: hardened");
        self.note_received(&claim, going, done, digest)?;
        step!("receive: noted");
        Ok(())
    }

    /// All has come: from here on it is a volume as any other.
    ///
    /// # Errors
    /// As `fill`.
    pub fn complete_received(&self, id: &VolumeId, session: u64) -> Result<()> {
        let claim = self.store.claim(&[Key::Object(ObjectId::Volume(*id))], &[])?;
        let volume = self.receiving(id, session)?.volume;
        self.writable(id.pool())?.complete(&volume)?;
        step!("receive: placed");
        self.store.put(&claim, Record::Volume(volume).in_phase(Phase::Ready)).map_err(Error::unfinished)?;
        step!("receive: ready");
        self.journeys.forget(ObjectId::Volume(*id));
        tracing::info!(volume = %id, "received a volume from another node");
        Ok(())
    }

    /// Takes no more pieces of a volume, so that it can be deleted. Whether it was being received.
    pub fn stop_receiving(&self, id: &VolumeId) -> bool {
        let going = self.is_receiving(id);
        if going {
            self.journeys.stop(ObjectId::Volume(*id));
        }
        going
    }

    /// Whether a volume is on its way to this node.
    pub fn is_receiving(&self, id: &VolumeId) -> bool {
        self.store.volume(id).is_some_and(|volume| matches!(volume.phase, Phase::Receiving { .. }))
    }

    /// Removes a volume that is on its way and can never be whole. Another, that is whole, stays as it is and is the answer.
    ///
    /// # Errors
    /// `Busy`; `Unavailable` where something stays.
    pub fn abandon(&self, id: &VolumeId) -> Result<Option<Arc<Volume>>> {
        let Some(volume) = self.store.volume(id) else {
            return self.known_gone(ObjectId::Volume(*id)).map(|()| None);
        };
        let record = Record::Volume(volume);
        let claim = self.store.claim(&[Key::Object(record.id()), record.name()], &[])?;
        let Some(Record::Volume(volume)) = self.store.record(record.id()) else { return Ok(None) };
        let record = Record::Volume(Arc::clone(&volume));
        if !matches!(volume.phase, Phase::Receiving { .. }) {
            return if is_usable(&volume) { Ok(Some(volume)) } else { Err(self.absent(record.id())) };
        }
        self.remove_going(&claim, &record)?;
        Ok(None)
    }

    /// What is on its way to or from this node: volumes that are received, and snapshots that are lent.
    pub fn on_its_way(&self) -> Vec<crate::model::Record> {
        self.store.on_its_way(None)
    }

    /// Gives up what nobody has asked for in a long time. To be called on the pool's threads, by the minute or so.
    pub(super) fn end_journeys(&self, pool: PoolId) {
        self.end_journeys_after(pool, GIVEN_UP, TAKEN_BACK);
    }

    /// The same, after these times: volumes that are received, and snapshots that are lent.
    pub fn end_journeys_after(&self, pool: PoolId, received: Duration, lent: Duration) {
        for record in self.store.on_its_way(Some(pool)) {
            let limit = if matches!(record, Record::Volume(_)) { received } else { lent };
            if self.journeys.idle(record.id()) < limit {
                continue;
            }
            match self.end_journey(&record) {
                Ok(()) => {
                    tracing::info!(id = %record.id(), "gave up what was on its way, and nobody asked for any more")
                }
                Err(error) => {
                    tracing::warn!(id = %record.id(), error = chain(&error), "failed to give up what nobody asks for")
                }
            }
        }
    }

    /// Removes what is on its way, whatever there is of it.
    pub(super) fn end_journey(&self, record: &Record) -> Result<()> {
        let id = record.id();
        // What still comes for it is refused from here on, and does not own it again.
        self.journeys.stop(id);
        let claim = self.store.claim(&[Key::Object(id), record.name()], &[])?;
        if self.store.record(id).is_none_or(|now| now.phase() != record.phase()) {
            return Ok(());
        }
        self.remove_going(&claim, record)
    }

    /// Removes what is on its way, under its claims.
    pub(super) fn remove_going(&self, claim: &Claim, record: &Record) -> Result<()> {
        let pool = self.writable(record.id().pool())?;
        let deleting = record.in_phase(Phase::Deleting);
        self.store.condemn(claim, pool.as_ref(), deleting.clone())?;
        self.settle(claim, pool.as_ref(), &deleting)?;
        self.journeys.forget(record.id());
        Ok(())
    }

    /// The one way forward of what was interrupted: whole, where its bytes have their place already.
    pub(super) fn settle_received(&self, claim: &Claim, pool: &dyn Pool, record: &Record) -> Result<()> {
        if pool.label(record.id())?.is_none() {
            return Ok(());
        }
        self.store.put(claim, record.in_phase(Phase::Ready)).map_err(Error::unfinished)
    }

    /// Removes what was received of volumes that have no record: a power cut may bring it back after the record was erased.
    pub(super) fn sweep_received(&self, pool: &dyn Pool) {
        let swept = pool.begun().and_then(|begun| {
            let known =
                |id: &ObjectId| self.store.record(*id).is_some() || self.store.quarantined(*id).is_some();
            let mut unknown = begun.into_iter().filter(|id| !known(&ObjectId::Volume(*id)));
            // Only that: what has its place is a volume that lost its record, and whole.
            unknown.try_for_each(|id| pool.discard(&id))
        });
        if let Err(error) = swept {
            tracing::warn!(pool = %pool.id(), error = chain(&error), "failed to remove what was received of nothing");
        }
    }

    /// Whether a volume that is on its way has met its source, whose pool is here now.
    ///
    /// # Errors
    /// `Conflict` where it is another volume.
    pub(super) fn has_met_its_source(&self, found: &Volume, want: &CreateVolume) -> Result<bool> {
        let pool = match want.source {
            Source::Blank => None,
            Source::Volume(id) => Some(id.pool()),
            Source::Snapshot(id) => Some(id.pool()),
        };
        let is_here = pool.and_then(|pool| self.slot_of(pool)).is_some_and(|slot| slot.trouble().is_none());
        if !is_here || !matches!(found.phase, Phase::Receiving { .. }) {
            return Ok(false);
        }
        refuse_other(found, want).map(|()| true)
    }

    fn receiving(&self, id: &VolumeId, session: u64) -> Result<Receiving> {
        let volume = self.store.volume(id);
        let going = volume.and_then(|volume| match volume.phase {
            Phase::Receiving { done, digest } => Some(Receiving { volume, done, digest, session }),
            Phase::Creating
            | Phase::Lent { .. }
            | Phase::Ready
            | Phase::Growing { .. }
            | Phase::Deleting
            | Phase::Retained { .. } => None,
        });
        going
            .filter(|_| self.journeys.takes(ObjectId::Volume(*id), session))
            .ok_or_else(|| Error::NotFound(format!("volume {id} is not being received")))
    }

    fn note_received(&self, claim: &Claim, going: Receiving, done: Bytes, digest: u32) -> Result<Receiving> {
        let volume = Volume { phase: Phase::Receiving { done, digest }, ..Volume::clone(&going.volume) };
        let volume = Arc::new(volume);
        self.store.put(claim, Record::Volume(Arc::clone(&volume)))?;
        Ok(Receiving { volume, done, digest, ..going })
    }
}

/// What a create may hear of a volume that is being received: it is not whole, or another one.
///
/// # Errors
/// `Conflict`, `Busy`; none where the volume is not being received.
pub(super) fn refuse_received(found: &Volume, want: &CreateVolume) -> Result<()> {
    let Phase::Receiving { done, .. } = found.phase else { return Ok(()) };
    refuse_other(found, want)?;
    Err(Error::Busy(format!(
        "volume name {}: {} has come from another node; ask again",
        quoted(&want.name),
        progress(done, found.size)
    )))
}

/// How far it has come, in words.
fn progress(done: Bytes, size: Bytes) -> String {
    format!("{done} of {size}")
}

fn refuse_other(found: &Volume, want: &CreateVolume) -> Result<()> {
    difference(found, want).map_or(Ok(()), |what| {
        Err(Error::Conflict(format!("volume {} exists with {what}", quoted(&want.name))))
    })
}

/// Refuses a pool that makes no volumes like the source.
fn refuse_unfit(features: &Features, want: &CreateVolume, origin: &Elsewhere) -> Result<()> {
    let holds = match origin.access {
        Access::Block => features.block.is_yes(),
        Access::Mount { fs } => features.filesystems.contains(&fs),
    };
    if !holds {
        return Err(Error::Unsupported(format!("it makes no volumes of access {}", origin.access)));
    }
    if want.allocation == Allocation::Reserved { features.reserved.require() } else { Ok(()) }
}

/// The request as a choice of a pool has to see it: of the size and the access that it gets from its source.
fn sized(want: &CreateVolume, origin: &Elsewhere) -> CreateVolume {
    let required = want.range.required.unwrap_or(Bytes::ZERO).max(origin.size);
    let asked = match origin.access {
        Access::Block => Asked::Block,
        Access::Mount { fs } => Asked::Mount(Some(fs)),
    };
    CreateVolume { range: Range { required: Some(required), ..want.range }, asked, ..want.clone() }
}

#[cfg(test)]
mod tests;
