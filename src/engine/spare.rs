//! The spare: a file that a full pool gives back for the record of a delete.
//!
//! Owns: that file. Never: fails a verb because of it: a pool without room for a spare has none until a delete made room.
//!
//! Only a delete can make room on a full disk, and it begins with a record, which takes a block and an inode of its own
//! until the old one goes.

use crate::error::{Error, Result, chain};
use crate::os::file::{Dir, Removal, allocate};
use crate::pool::{Pool, SPARE};

/// Enough for a record, its name, and what a filesystem wants to be free before it begins: an xfs some 50 blocks.
const BYTES: u64 = 1 << 20;

/// Makes sure that a pool has its spare, if it has room for it.
pub(super) fn keep(pool: &dyn Pool) {
    let Some(home) = pool.home().filter(|home| home.fenced().is_none()) else { return };
    match made(home) {
        Ok(()) => {}
        Err(Error::Full(why)) => tracing::debug!(pool = %pool.id(), why, "no room for the spare"),
        Err(error) => tracing::warn!(pool = %pool.id(), error = chain(&error), "failed to make the spare"),
    }
}

/// Gives the spare back; whether there was one.
pub(super) fn give(pool: &dyn Pool) -> bool {
    let given = pool.home().map(|home| home.remove(SPARE));
    matches!(given, Some(Ok(Removal::Now)))
}

/// A spare that a power cut takes away is made again at the next start, so it need not be durable.
fn made(home: &Dir) -> Result<()> {
    if home.stat(SPARE)?.is_some() {
        return Ok(());
    }
    let file = home.create(SPARE)?;
    allocate(&file, BYTES).inspect_err(|_| {
        // Half a spare would not do, and would not be told from a whole one.
        if let Err(error) = home.remove(SPARE) {
            tracing::warn!(error = chain(&error), "failed to remove a spare that is too small");
        }
    })
}
