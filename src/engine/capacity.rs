//! How much can still be promised, and what this node's pools can do.
//!
//! Owns: the answers to GetCapacity and to which capabilities exist. Never: asks a disk more than how full it is, or promises what a
//! pool that does not work would have if it did: a volume sent there would wait for it.

use crate::engine::slot::Slot;
use crate::engine::volumes::SLOW;
use crate::engine::{Engine, PoolIndex};
use crate::error::{Error, Result, chain, of_pool, quoted};
use crate::model::{Allocation, Bytes, Capacity, CapacityQuery, Features, Range};
use crate::pool::{Kind, Pool};

impl Engine {
    /// The pools that a question about room concerns.
    ///
    /// # Errors
    /// `Invalid` for a pool that is not configured.
    pub fn indexes_for(&self, query: &CapacityQuery) -> Result<Vec<PoolIndex>> {
        if let Some(name) = &query.pool {
            self.slot(name)?;
        }
        let is_asked =
            |index: &PoolIndex| query.pool.as_deref().is_none_or(|name| name == self.pools[index.0].name());
        Ok(self.indexes().filter(is_asked).collect())
    }

    /// What can still be made, in all pools that the question concerns. To be called where every pool may be asked.
    ///
    /// # Errors
    /// As `indexes_for`.
    pub fn capacity(&self, query: &CapacityQuery) -> Result<Capacity> {
        let rooms = self.indexes_for(query)?.into_iter();
        Ok(Capacity::sum(rooms.map(|index| {
            self.room(index, query).unwrap_or_else(|error| self.room_unasked(index, query, &error))
        })))
    }

    /// What can still be made on one pool; nothing where it lacks what was asked for, or takes no changes. To be called on
    /// its threads.
    ///
    /// # Errors
    /// `Unavailable` where it is away.
    pub fn room(&self, index: PoolIndex, query: &CapacityQuery) -> Result<Capacity> {
        let slot = &self.pools[index.0];
        let pool = slot.open()?;
        pool.present()?;
        if pool.writable().is_err() {
            return Ok(Capacity::default());
        }
        let budget = slot.budget(pool.as_ref())?;
        let Some(room) = self.unpromised(slot, &pool.features(), budget, query) else {
            return Ok(Capacity::default());
        };
        // Others may have filled the place since the budget was drawn up; only who overcommits promises more than is free.
        let within_free = query.allocation == Allocation::Reserved
            || !pool.features().size_limit.is_yes()
            || slot.config.overcommit <= 1.0;
        let free = if within_free { pool.usage()?.free } else { room.available };
        Ok(Capacity::within(room.available.min(free), room.minimum))
    }

    /// What can still be made on a pool that did not answer, with this error: nothing where a create would meet no better,
    /// else what was known last. Asks no disk.
    pub fn room_unasked(&self, index: PoolIndex, query: &CapacityQuery, error: &Error) -> Capacity {
        let slot = &self.pools[index.0];
        let busy = matches!(error, Error::Unavailable(_)) && slot.workers.at_work_for() < SLOW;
        let fit = busy && slot.trouble().is_none() && slot.refusal().is_none();
        let known = slot.known().filter(|_| fit);
        let room = known.and_then(|known| self.unpromised(slot, &known.features, known.budget, query));
        room.unwrap_or_default()
    }

    /// What a pool has not promised yet; none where it lacks what was asked for.
    fn unpromised(
        &self,
        slot: &Slot,
        features: &Features,
        budget: Bytes,
        query: &CapacityQuery,
    ) -> Option<Capacity> {
        let access = features.access(query.asked, query.allocation)?;
        let promised = slot.id().map_or(Bytes::ZERO, |id| self.store.promised(id));
        Some(Capacity::within(budget.less(promised), features.smallest(access)))
    }

    /// A lack of room for `more`, with the pool that lacks it and what would make enough.
    pub(super) fn named_full(&self, slot: &Slot, more: Bytes, error: Error) -> Error {
        let Error::Full(why) = error else { return error };
        let kept = slot.id().map_or(Bytes::ZERO, |id| self.store.retained_bytes(id));
        let hint = match kept {
            kept if kept == Bytes::ZERO || more > self.room_without_kept(slot) => String::new(),
            kept => format!(
                "; {kept} of its promises are deleted and still kept: `rockpool ctl retained list` names them, \
                 `rockpool ctl retained purge ID` gives their space back"
            ),
        };
        Error::Full(of_pool(slot.name(), &format!("{why}{hint}")))
    }

    /// What could still be promised on a pool if nothing deleted were kept there, as far as is known without asking its disk.
    pub(super) fn room_without_kept(&self, slot: &Slot) -> Bytes {
        let (Some(known), Some(id)) = (slot.known(), slot.id()) else { return Bytes::ZERO };
        known.budget.less(self.store.promised(id).less(self.store.retained_bytes(id)))
    }

    /// What the configured kinds can do, whether or not their pools are here: what may be advertised.
    pub fn features(&self) -> Features {
        let kinds = self.pools.iter().map(|slot| slot.config.setup.kind.features());
        kinds.reduce(Features::union).unwrap_or_else(|| Kind::Image.features())
    }

    /// Why a pool cannot do its work; nothing where it can. To be called on its threads.
    pub fn ailment(&self, index: PoolIndex) -> Option<String> {
        let slot = &self.pools[index.0];
        let pool = match slot.open().and_then(|pool| pool.writable().map(|()| pool)) {
            Ok(pool) => pool,
            Err(error) => return Some(chain(&error)),
        };
        let missing = pool.features().filesystems.is_empty();
        missing.then(|| format!("pool {}: no mkfs program is installed", quoted(slot.name())))
    }
}

impl Slot {
    /// What can never fit is out of range; what does not fit now, be it that others fill the place too, is a lack of room.
    pub(super) fn refuse_beyond(
        &self,
        pool: &dyn Pool,
        range: &Range,
        size: Bytes,
        budget: Bytes,
    ) -> Result<()> {
        if size <= budget {
            return Ok(());
        }
        let most = self.share_of(pool.usage()?.total);
        if size <= most {
            return Ok(()); // The ledger knows how much is missing.
        }
        Err(Error::OutOfRange(format!(
            "capacity_range.required_bytes {} is more than pool {} can ever give: {} bytes",
            range.required.unwrap_or(size).get(),
            quoted(self.name()),
            most.get()
        )))
    }
}
