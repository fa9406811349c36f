//! What is wrong with a volume or with the node's storage.
//!
//! Owns: the answers to the CSI health calls: what the pool sees, plus what only the record can tell; and the look, before an
//! object is used, whether it is as long as on record. Never: repairs.

use crate::engine::{Engine, PoolIndex};
use crate::error::{Error, Result, chain};
use crate::model::{Bytes, ObjectId, Phase, VolumeId};
use crate::pool::{Kind, Pool, Problem, Severity};

impl Engine {
    /// All that is wrong with a volume; nothing for a healthy one.
    ///
    /// # Errors
    /// `NotFound`. A volume whose pool is away is known to be inaccessible only if its record was read before; otherwise `Unavailable`.
    pub fn volume_health(&self, id: &VolumeId) -> Result<Vec<Problem>> {
        let known = self.store.volume(id).filter(|volume| !matches!(volume.phase, Phase::Retained { .. }));
        let pool = self.pool(id.pool());
        if let (Ok(_), Some(bad)) = (&pool, self.store.quarantined(ObjectId::Volume(*id))) {
            let message = format!(
                "its record cannot be read, so it cannot be used: {}; see `rockpool ctl doctor`",
                bad.why
            );
            return Ok(vec![Problem {
                severity: Severity::Inaccessible,
                reason: "RecordUnreadable",
                message,
            }]);
        }
        let volume = known.ok_or_else(|| self.absent(ObjectId::Volume(*id)))?;
        let pool = match pool {
            Ok(pool) => pool,
            Err(error) => return Ok(vec![away(chain(&error))]),
        };
        let mut problems = pool.health(Some(id));
        // Where the pool itself cannot be used, that says enough.
        if problems.iter().all(|problem| problem.severity == Severity::Degraded)
            && let Err(error) = refuse_cut_short(pool.as_ref(), ObjectId::Volume(*id), volume.size)
        {
            let message = chain(&error);
            problems.push(Problem { severity: Severity::DataLoss, reason: CUT_SHORT, message });
        }
        Ok(problems)
    }

    /// All that is wrong with one pool. To be called on its threads.
    pub fn pool_health(&self, index: PoolIndex) -> Vec<Problem> {
        match self.pools[index.0].open().and_then(|pool| pool.present().map(|()| pool)) {
            Ok(pool) => pool.health(None),
            Err(error) => vec![away(chain(&error))],
        }
    }
}

/// Of an object that is shorter than its record says.
const CUT_SHORT: &str = "ImageTruncated";

/// Refuses to use an object that is shorter than on record: whoever got it would read its missing end as zeros.
///
/// # Errors
/// `Corrupt`.
pub(super) fn refuse_cut_short(pool: &dyn Pool, id: ObjectId, recorded: Bytes) -> Result<()> {
    // A directory has no end that could be missing.
    let label = if pool.kind() == Kind::Image { pool.label(id)? } else { None };
    match label {
        Some(label) if label.size < recorded => Err(Error::Corrupt(format!(
            "{id} holds {} bytes, but {} are on record: somebody cut it off",
            label.size.get(),
            recorded.get()
        ))),
        // What is not there is said by whoever opens it.
        Some(_) | None => Ok(()),
    }
}

fn away(message: String) -> Problem {
    Problem { severity: Severity::Inaccessible, reason: "PoolMissing", message }
}
