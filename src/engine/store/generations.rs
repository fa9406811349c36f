//! How often a record was written, and what that tells.
//!
//! Owns: the generations of records that are made anew, and the look at a record's file beside what is in memory. Never: decides
//! which of two is right.
//!
//! A generation rises by one with each write. The copy that an object carries has the generation of the record that it was made
//! of, and is written after that: so a copy is never newer than its record, unless somebody brought back an older one.

use super::{Shelf, Store, reached, read_one};
use crate::engine::Key;
use crate::engine::claims::Claim;
use crate::error::{Error, Result};
use crate::model::record::{Unreadable, Written};
use crate::model::{ObjectId, PoolId, Record};

/// A record that is made anew begins an epoch: how often the one that was lost had been written is not known, surely less often.
const EPOCH: u64 = 1 << 40;

/// The generation of a record that is made anew from a copy of this one: above whatever it had since.
pub(crate) fn anew(copy: u64) -> u64 {
    (copy / EPOCH).saturating_add(1).saturating_mul(EPOCH)
}

impl Store {
    /// How often the record of this id was written.
    pub(crate) fn generation(&self, id: ObjectId) -> Option<u64> {
        self.lock().objects.get(&id).map(|entry| entry.generation)
    }

    /// Every record of a pool that is whole.
    pub(crate) fn whole(&self, pool: PoolId) -> Vec<Written> {
        let index = self.lock();
        let whole = index.objects.values().filter(|entry| entry.record.phase().is_whole());
        whole.filter(|entry| entry.record.id().pool() == pool).cloned().collect()
    }

    /// What its file says at this moment; `None` where there are no files.
    pub(crate) fn on_disk(&self, id: ObjectId) -> Result<Option<std::result::Result<Written, Unreadable>>> {
        match self.shelf(id.pool())?.as_ref() {
            Shelf::Disk(records) => Ok(Some(read_one(reached(records)?, id))),
            Shelf::Memory | Shelf::Away => Ok(None),
        }
    }

    /// Writes what is in memory once more, above what the file says of itself.
    ///
    /// # Errors
    /// Those of the disk; `NotFound` where there is no record.
    pub(crate) fn rewrite(&self, claim: &Claim, id: ObjectId) -> Result<()> {
        assert!(claim.owns(&Key::Object(id)), "{id} is rewritten without its claim");
        let known = self.lock().objects.get(&id).cloned();
        let known = known.ok_or_else(|| Error::NotFound(format!("{id} has no record")))?;
        let there = self.on_disk(id)?.and_then(std::result::Result::ok).map_or(0, |file| file.generation);
        let generation = known.generation.max(there).saturating_add(1);
        self.shelf(id.pool())?.write(&known.record, generation)?;
        self.lock().place(Written { generation, record: known.record });
        Ok(())
    }

    /// Writes a record anew, in place of one that was quarantined, lost or is older.
    ///
    /// # Errors
    /// Those of the disk; then nothing changed.
    pub(crate) fn restore(&self, claim: &Claim, record: Record, generation: u64) -> Result<()> {
        let id = record.id();
        assert!(claim.owns(&Key::Object(id)), "{id} is restored without its claim");
        self.shelf(id.pool())?.write(&record, generation)?;
        let mut index = self.lock();
        index.forget(id);
        let counted = index.quarantined.remove(&id).and_then(|bad| bad.copy).map_or(0, |copy| copy.promise());
        index.move_promise(id.pool(), counted, record.promise());
        index.place(Written { generation, record });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_anew_is_above_all_that_was_written_since_its_copy() {
        assert_eq!((anew(1), anew(9)), (EPOCH, EPOCH));
        let first = anew(1);
        assert!(anew(first) > first + 1_000_000);
    }
}
