//! What is wrong with a volume or with the node's storage.
//!
//! Owns: the answers to the CSI health calls: what the pool sees, plus what only the record can tell. Never: repairs.

use crate::engine::{Engine, PoolIndex};
use crate::error::{Result, chain};
use crate::model::{ObjectId, Phase, VolumeId};
use crate::pool::{Problem, Severity};

impl Engine {
    /// All that is wrong with a volume; nothing for a healthy one.
    ///
    /// # Errors
    /// `NotFound`. A volume whose pool is away is known to be inaccessible only if its record was read before; otherwise `Unavailable`.
    pub fn volume_health(&self, id: &VolumeId) -> Result<Vec<Problem>> {
        let known = self.store.volume(id).filter(|volume| !matches!(volume.phase, Phase::Retained { .. }));
        if known.is_none() {
            return Err(self.absent(ObjectId::Volume(*id)));
        }
        Ok(match self.pool(id.pool()) {
            Ok(pool) => pool.health(Some(id)),
            Err(error) => vec![away(chain(&error))],
        })
    }

    /// All that is wrong with one pool. To be called on its threads.
    pub fn pool_health(&self, index: PoolIndex) -> Vec<Problem> {
        match self.pools[index.0].open().and_then(|pool| pool.present().map(|()| pool)) {
            Ok(pool) => pool.health(None),
            Err(error) => vec![away(chain(&error))],
        }
    }
}

fn away(message: String) -> Problem {
    Problem { severity: Severity::Inaccessible, reason: "PoolMissing", message }
}
