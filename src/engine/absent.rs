//! What is not on record: why not, and whether it is surely gone.
//!
//! Owns: that nothing is called gone whose record cannot be read, or is lost while its bytes are there, or whose pool cannot say.
//! Never: repairs; `rebuild` does.

use crate::engine::Engine;
use crate::engine::volumes::is_usable;
use crate::error::{Error, Result, chain};
use crate::model::{ObjectId, Phase};

impl Engine {
    /// Why an object is not on record: unknown, its record unreadable or lost, or its pool is away. To be called on the threads of
    /// its pool: on others nobody looks whether its bytes are there.
    pub(super) fn absent(&self, id: ObjectId) -> Error {
        if let Some(bad) = self.store.quarantined(id) {
            return Error::Unavailable(format!(
                "the record of {id} cannot be read and is quarantined: {}",
                bad.why
            ));
        }
        if let Some(group) = self.store.without_group(id) {
            return Error::Unavailable(format!(
                "the record of {group} cannot be read or is gone, and nobody can use its members before it is rebuilt: see \
                 `rockpool ctl doctor`"
            ));
        }
        // Every field that names an object ends in the same word, be it `source_volume_id` or `volume_id`.
        let (field, thing) = match id {
            ObjectId::Volume(_) => ("volume_id", "volume"),
            ObjectId::Snapshot(_) => ("snapshot_id", "snapshot"),
            ObjectId::Group(_) => ("group_snapshot_id", "group snapshot"),
        };
        let trouble = match self.slot_of(id.pool()) {
            Some(slot) if !slot.is_here() => slot.trouble(),
            Some(_) | None => self.pool(id.pool()).err(),
        };
        let trouble = trouble.or_else(|| self.refuse_lost(id).err());
        trouble.unwrap_or_else(|| {
            if self.is_usable(id) {
                // The look before this one came too early; whoever deletes must not take that for gone.
                return Error::Busy(format!("{field} `{id}`: its pool has only just been read; ask again"));
            }
            Error::NotFound(format!("{field} `{id}` does not exist: want the id of a {thing} that is there"))
        })
    }

    /// Refuses where bytes are there of which no record tells: what was deleted is destroyed before its record is erased, so
    /// this is no trace of a delete.
    ///
    /// # Errors
    /// `Unavailable`, also where the pool cannot say.
    fn refuse_lost(&self, id: ObjectId) -> Result<()> {
        if self.store.record(id).is_some() {
            return Ok(());
        }
        let Some(slot) = self.slot_of(id.pool()).filter(|slot| slot.is_here()) else { return Ok(()) };
        let pool = slot.open()?;
        match pool.label(id) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(Error::Unavailable(format!(
                "the record of {id} is gone while its bytes are there: nothing was done, see `rockpool ctl doctor` \
                 (RP-RECORD-LOST)"
            ))),
            Err(error) => Err(Error::Unavailable(format!(
                "whether {id} is there cannot be told: {}; ask again",
                chain(&error)
            ))),
        }
    }

    fn is_usable(&self, id: ObjectId) -> bool {
        match id {
            ObjectId::Volume(id) => self.store.volume(&id).is_some_and(|volume| is_usable(&volume)),
            ObjectId::Snapshot(id) => self.store.snapshot(&id).is_some_and(|cut| self.store.is_whole(&cut)),
            ObjectId::Group(id) => self.store.group(&id).is_some_and(|group| group.phase == Phase::Ready),
        }
    }

    /// Whether it is certain that an object without a record does not exist: it has no bytes either.
    pub(super) fn known_gone(&self, id: ObjectId) -> Result<()> {
        let error = self.absent(id);
        if !matches!(error, Error::NotFound(_)) {
            return Err(error);
        }
        // On other threads than the pool's nobody has looked: it was opened between the choice of the threads and now.
        self.slot_of(id.pool()).map_or(Ok(()), |slot| slot.open().map(drop))
    }
}
