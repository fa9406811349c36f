//! A pool as its node tells of it.
//!
//! Owns: what of a message is understood. Never: believes what a later release may mean: that is left out.

use std::collections::HashSet;
use std::sync::Arc;

use crate::model::{Access, Allocation, Bytes, Filesystem, PoolId};
use crate::proto::link as wire;

/// A pool as its node tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its id; none where it was never open.
    pub id: Option<PoolId>,
    /// Why it cannot be used.
    pub away: Option<String>,
    /// Whether the names that it holds are unknown.
    pub unread: bool,
    /// The names that it holds, where its disk is surely not at this node any more.
    pub gone: Option<Arc<HashSet<u64>>>,
    /// Why it cannot be changed, though it can be read.
    pub read_only: Option<String>,
    /// How many of its records cannot be read.
    pub quarantined: u64,
    /// Whether another node announces it too, so that neither is asked about it.
    pub twice: bool,
    /// What its records promise.
    pub promised: Bytes,
    /// What may be promised in all.
    pub budget: Bytes,
    /// What can still be made of what, in the node's order of preference.
    pub rooms: Vec<Room>,
}

/// What can still be made of one kind of volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// What it is accessed as.
    pub access: Access,
    /// How it is allocated.
    pub allocation: Allocation,
    /// How much in all.
    pub available: Bytes,
    /// The smallest single volume.
    pub minimum: Bytes,
}

impl Pool {
    /// Whether its node has it, knows all that it holds, and could use it when it last told.
    pub(super) fn is_open(&self) -> bool {
        self.away.is_none() && !self.unread && self.gone.is_none()
    }
}

impl From<wire::Pool> for Pool {
    /// What a later release says in another way is left out.
    fn from(pool: wire::Pool) -> Self {
        Pool {
            id: pool.id.parse().ok(),
            away: (!pool.away.is_empty()).then_some(pool.away),
            unread: pool.unread,
            gone: pool.gone.then(|| Arc::new(pool.names.into_iter().collect())),
            read_only: (!pool.read_only.is_empty()).then_some(pool.read_only),
            quarantined: pool.quarantined_records,
            twice: false,
            promised: bytes(pool.promised_bytes),
            budget: bytes(pool.budget_bytes),
            rooms: pool.rooms.iter().filter_map(room).collect(),
        }
    }
}

fn room(room: &wire::Room) -> Option<Room> {
    let filesystems = [Filesystem::Ext4, Filesystem::Xfs, Filesystem::Shared];
    let access = match room.access.as_str() {
        "block" => Access::Block,
        name => Access::Mount { fs: filesystems.into_iter().find(|fs| fs.name() == name)? },
    };
    Some(Room {
        access,
        allocation: room.allocation.parse().ok()?,
        available: bytes(room.available_bytes),
        minimum: bytes(room.minimum_bytes),
    })
}

fn bytes(number: i64) -> Bytes {
    Bytes::new(u64::try_from(number).unwrap_or_default())
}
