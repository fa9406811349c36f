//! What changes on this node, for those elsewhere who keep a copy of it.
//!
//! Owns: what there is to tell: the names that are taken, and what can still be made. Never: decides who hears it, or how often.

use crate::engine::{Engine, Key, PoolIndex};
use crate::error::Result;
use crate::model::{Access, Allocation, Asked, Capacity, CapacityQuery, Features, PoolId};

/// What can still be made of one kind of volume on one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// What it is accessed as.
    pub access: Access,
    /// How it is allocated.
    pub allocation: Allocation,
    /// How much.
    pub capacity: Capacity,
}

impl Engine {
    /// A number that grows whenever a name is taken or freed, or a promise changes. Asks no disk.
    pub fn changes(&self) -> u64 {
        self.store.changes()
    }

    /// Shows every name that is taken by a volume, snapshot or group, and the pool where that lies. Nothing may be asked of the engine
    /// meanwhile.
    pub fn each_name(&self, show: impl FnMut(&Key, PoolId)) {
        self.store.each_name(show);
    }

    /// Whether the records of a configured pool were read since the start: else nobody knows which names it holds.
    pub fn has_read(&self, index: PoolIndex) -> bool {
        self.pools[index.0].id().is_some_and(|id| self.store.has_read(id))
    }

    /// What can still be made on one pool, by what may be asked for, in the order of preference. To be called on its threads.
    ///
    /// # Errors
    /// As `room`.
    pub fn rooms(&self, index: PoolIndex) -> Result<Vec<Room>> {
        let features = self.pools[index.0].open()?.features();
        kinds(&features)
            .map(|(query, access)| Ok(counted(&query, access, self.room(index, &query)?)))
            .collect()
    }

    /// The same of a pool that has not answered, with this error. Asks no disk.
    pub fn rooms_unasked(&self, index: PoolIndex, error: &crate::error::Error) -> Vec<Room> {
        let Some(known) = self.pools[index.0].known() else { return Vec::new() };
        let rooms = kinds(&known.features);
        rooms
            .map(|(query, access)| counted(&query, access, self.room_unasked(index, &query, error)))
            .collect()
    }
}

fn counted(query: &CapacityQuery, access: Access, capacity: Capacity) -> Room {
    Room { access, allocation: query.allocation, capacity }
}

/// Every kind of volume that a pool can make.
fn kinds(features: &Features) -> impl Iterator<Item = (CapacityQuery, Access)> + use<> {
    let mounts = features.filesystems.iter().map(|fs| (Asked::Mount(Some(*fs)), Access::Mount { fs: *fs }));
    let block = features.block.is_yes().then_some((Asked::Block, Access::Block));
    let allocations: &[Allocation] = if features.reserved.is_yes() {
        &[Allocation::Sparse, Allocation::Reserved]
    } else {
        &[Allocation::Sparse]
    };
    mounts.chain(block).flat_map(move |(asked, access)| {
        let query = move |allocation: &Allocation| CapacityQuery {
            pool: None,
            asked: Some(asked),
            allocation: *allocation,
        };
        allocations.iter().map(move |allocation| (query(allocation), access))
    })
}
