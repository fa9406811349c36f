//! Finishing or undoing what was interrupted.
//!
//! Owns: `settle`, the one way forward from every phase but `Ready`, `Lent` and `Retained`, which are whole. Retries, deletes and the start call it, so the path
//! that a crash takes is the path that every day takes. Never: guesses; what cannot be settled keeps its record.
//!
//! | phase | what is done |
//! |---|---|
//! | `Creating` | no bytes, then no record; of a group, the volumes that it noted to freeze are thawed first |
//! | `Deleting` | no bytes, then no record |
//! | `Receiving` | `Ready` where its bytes have their place already; else it stays, and goes on when its source is asked again (`receive`) |
//! | `Growing` | grown, then `Ready` with the new size; where there is no room, or nothing to grow, `Ready` with the old one |

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::claims::Claim;
use crate::engine::store::Record;
use crate::engine::{Engine, Key, spare};
use crate::error::{Error, Result, chain};
use crate::model::{Bytes, Group, ObjectId, Phase, Snapshot, Volume, VolumeId};
use crate::pool::Pool;

/// What became of interrupted work when its pool was opened, since the start.
#[derive(Debug, Default)]
pub struct Recoveries {
    /// Finished or undone.
    pub settled: AtomicU64,
    /// Left as it was, to be tried again.
    pub failed: AtomicU64,
}

impl Engine {
    /// Settles all of a pool's interrupted work at its opening. What resists keeps its record, and the next retry or
    /// start tries again.
    pub(super) fn recover(&self, pool: &dyn Pool) {
        self.mend_copies(pool);
        self.let_go_of_unused(pool);
        self.sweep_received(pool);
        self.thaw_without_record(pool);
        for record in self.store.interrupted(pool.id()) {
            let settled = self.store.claim(&keys(&record), &[]).and_then(|claim| {
                // An earlier one of this list, a group, may have settled it.
                self.store.record(record.id()).map_or(Ok(()), |record| self.settle(&claim, pool, &record))
            });
            step!("open: settled one");
            match settled {
                Ok(()) if matches!(record.phase(), Phase::Receiving { .. }) => {}
                Ok(()) => {
                    self.recoveries.settled.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(id = %record.id(), phase = ?record.phase(), "settled what was interrupted")
                }
                Err(error) => {
                    self.recoveries.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(
                        id = %record.id(), phase = ?record.phase(), error = chain(&error),
                        "failed to settle what was interrupted; it is tried again"
                    );
                }
            }
        }
    }

    /// A group that is not whole, or a growth, may have left its volumes frozen, where the process that freezes died with its
    /// container, or did not say that it thawed. Only what was noted: all else that is frozen is somebody else's.
    pub(super) fn thaw(&self, pool: &dyn Pool, id: ObjectId, volumes: &[VolumeId]) -> Result<()> {
        if self.freezes.is_ours(id) {
            pool.unfreeze(volumes)?;
            self.freezes.end(id);
        }
        Ok(())
    }

    /// Thaws what growths froze, and groups that have no record any more, or none that can be read: nobody will settle those. A cut
    /// counts only where all was thawed, so of a group that is whole only the note was left: what is frozen now is somebody else's.
    fn thaw_without_record(&self, pool: &dyn Pool) {
        for (id, volumes) in self.freezes.of_pool(pool.id()) {
            // What a call works on is its own.
            let Ok(_claim) = self.store.claim(&[Key::Object(id)], &[]) else { continue };
            let group = self.store.record(id).filter(|record| matches!(record, Record::Group(_)));
            let thawed = match group {
                Some(record) if !record.phase().is_whole() => continue,
                Some(_) => Ok(()),
                None => pool.unfreeze(&volumes),
            };
            match thawed {
                Ok(()) => self.freezes.end(id),
                Err(error) => tracing::error!(
                    %id, error = chain(&error),
                    "failed to thaw what an interrupted group snapshot or growth froze; it is tried again at the next start"
                ),
            }
        }
    }

    /// Detaches, at an opening, the raw devices that nobody uses and nobody would detach: their volumes were unstaged while the
    /// pool was away, or the driver was killed in the middle of a stage. What a mount shows, or a note of ours speaks of, stays.
    fn let_go_of_unused(&self, pool: &dyn Pool) {
        for id in pool.held() {
            let Ok(_claim) = self.store.claim(&[Key::Object(ObjectId::Volume(id))], &[]) else { continue };
            let Some(volume) = self.store.volume(&id) else { continue };
            let used =
                self.mounts_of(pool, &volume).map(|mounts| !mounts.is_empty() || self.notes.speak_of(&id));
            match used.and_then(|used| if used { Ok(used) } else { pool.detach(&id).map(|()| used) }) {
                Ok(true) => {}
                Ok(false) => tracing::info!(volume = %id, "detached a raw volume that nobody uses"),
                Err(error) => {
                    tracing::warn!(volume = %id, error = chain(&error), "failed to look after a raw volume's device");
                }
            }
        }
    }

    /// Takes the one way forward from a record's phase. The claim owns [`keys`] of it.
    ///
    /// # Errors
    /// `Busy` or `Unavailable` while the record stays as it was. Of a growth also `Full` and `Corrupt`: it is over, and the
    /// record is `Ready` with its old size.
    pub(super) fn settle(&self, claim: &Claim, pool: &dyn Pool, record: &Record) -> Result<()> {
        match record.phase() {
            Phase::Ready | Phase::Lent { .. } | Phase::Retained { .. } => Ok(()),
            Phase::Receiving { .. } => self.settle_received(claim, pool, record),
            Phase::Creating | Phase::Deleting => {
                let undone = match record {
                    Record::Volume(volume) => self.destroy(claim, pool, volume),
                    Record::Snapshot(snapshot) => self.forget(claim, pool, snapshot),
                    Record::Group(group) => self.disband(claim, pool, group),
                };
                undone.map_err(Error::unfinished)?;
                // There is room now.
                spare::keep(pool);
                Ok(())
            }
            Phase::Growing { to, .. } => match record {
                Record::Volume(volume) => self.grow(claim, pool, volume, to).map(drop),
                Record::Snapshot(_) | Record::Group(_) => {
                    Err(Error::Corrupt(format!("{} cannot be growing: only volumes grow", record.id())))
                }
            },
        }
    }

    /// The pool of a record that is to be changed. A record that is not whole is work that is not over, whatever the pool
    /// is like now.
    pub(super) fn writable_for(&self, record: &Record) -> Result<Arc<dyn Pool>> {
        let pool = self.writable(record.id().pool());
        if record.phase().is_whole() { pool } else { pool.map_err(Error::unfinished) }
    }

    /// Settles, as the undo of a verb that failed with `cause`, and answers what the caller may conclude: the cause
    /// itself when nothing is left, otherwise that the outcome is open.
    pub(super) fn undo(&self, claim: &Claim, pool: &dyn Pool, record: &Record, cause: Error) -> Error {
        if planted!("undo-forgotten") {
            return cause;
        }
        match self.settle(claim, pool, record) {
            Ok(()) => cause,
            Err(error) => Error::undone_in_part(&cause, &error),
        }
    }

    fn destroy(&self, claim: &Claim, pool: &dyn Pool, volume: &Volume) -> Result<()> {
        pool.detach(&volume.id)?;
        step!("destroy: detached");
        if planted!("erase-first") {
            self.store.erase(claim, ObjectId::Volume(volume.id))?;
        }
        pool.destroy(&volume.id)?;
        step!("destroy: bytes gone");
        self.store.erase(claim, ObjectId::Volume(volume.id))?;
        step!("destroy: erased");
        Ok(())
    }

    fn forget(&self, claim: &Claim, pool: &dyn Pool, snapshot: &Snapshot) -> Result<()> {
        pool.forget(&snapshot.id)?;
        step!("forget: bytes gone");
        self.store.erase(claim, ObjectId::Snapshot(snapshot.id))?;
        step!("forget: erased");
        Ok(())
    }

    /// All or none: a group that is not whole takes every member along. One whose volumes do not thaw stays: nobody else would
    /// thaw them.
    fn disband(&self, claim: &Claim, pool: &dyn Pool, group: &Group) -> Result<()> {
        self.thaw(pool, ObjectId::Group(group.id), &group.sources)?;
        for member in &group.members {
            pool.forget(member)?;
            self.store.erase(claim, ObjectId::Snapshot(*member))?;
            step!("disband: member gone");
        }
        self.store.erase(claim, ObjectId::Group(group.id))
    }

    /// Grows the bytes of a volume whose record says `Growing`, and says so in the record.
    ///
    /// # Errors
    /// As `settle`.
    pub(super) fn grow(
        &self,
        claim: &Claim,
        pool: &dyn Pool,
        volume: &Volume,
        to: Bytes,
    ) -> Result<Arc<Volume>> {
        let grown = pool.grow(&volume.id, to);
        step!("grow: bytes longer");
        let (size, asked) = match &grown {
            Ok(size) => (*size, volume.asked_for_reach()),
            // What has no bytes any more does not grow either at the next try.
            Err(Error::Full(_) | Error::Corrupt(_)) => (volume.size, volume.asked),
            Err(_) => return grown.map(|_| Arc::new(volume.clone())).map_err(Error::unfinished),
        };
        let ready = Arc::new(Volume { phase: Phase::Ready, size, asked, ..volume.clone() });
        self.store.put(claim, Record::Volume(Arc::clone(&ready))).map_err(Error::unfinished)?;
        step!("grow: ready");
        grown.map(|_| ready)
    }
}

/// The keys that settling a record needs: its own, its name's, and those of a group's members.
pub(super) fn keys(record: &Record) -> Vec<Key> {
    let mut keys = vec![Key::Object(record.id())];
    if !record.phase().frees_name() {
        keys.push(record.name());
    }
    if let Record::Group(group) = record {
        keys.extend(group.members.iter().map(|member| Key::Object(ObjectId::Snapshot(*member))));
    }
    keys
}
