//! Pools whose disk failed: said to whoever looks from outside, and taken back once the disk is mended.
//!
//! Owns: one small file for each of them in the state directory, with the reason. Never: decides by such a file; what closes
//! a pool's fence is `os::file`, and only an opening anew, which reads every record again, leads past it.

use std::path::{Path, PathBuf};

use crate::engine::Engine;
use crate::engine::slot::Slot;
use crate::error::{Result, chain};
use crate::model::PoolId;
use crate::os::file::Dir;
use crate::pool::Pool;

/// The directory of these files, below the state directory.
const FOLDER: &str = "fenced";
/// No reason is longer.
const REASON_BYTES: usize = 16 * 1024;

/// What is said of this node's pools.
pub(super) struct Fences {
    /// None: for one who looks while no driver runs. A path, since every pool's threads have files of their own.
    path: Option<PathBuf>,
}

impl Fences {
    /// Below `state_dir`, which is made if need be.
    pub(super) fn open(state_dir: &Path) -> Result<Fences> {
        let path = state_dir.join(FOLDER);
        Dir::make_path(&path, 0o700)?;
        Ok(Fences { path: Some(path) })
    }

    /// Nothing is said.
    pub(super) fn none() -> Fences {
        Fences { path: None }
    }

    fn tell(&self, pool: PoolId, why: &str) {
        let Some(path) = &self.path else { return };
        let told = Dir::open(path).and_then(|dir| dir.replace_unsynced(pool.to_string(), why.as_bytes()));
        if let Err(error) = told {
            tracing::warn!(%pool, error = chain(&error), "failed to note that a pool takes no changes");
        }
    }

    /// To be called when a pool was opened.
    pub(super) fn forget(&self, pool: PoolId) {
        let Some(path) = &self.path else { return };
        let forgotten = Dir::open(path).and_then(|dir| dir.remove_unsynced(pool.to_string()));
        if let Err(error) = forgotten {
            tracing::warn!(%pool, error = chain(&error), "failed to note that a pool takes changes again");
        }
    }
}

/// Why the driver with this state directory changes nothing on a pool; `None` where it does, as far as it has said.
pub fn told(state_dir: &Path, pool: PoolId) -> Option<String> {
    let said = Dir::open(&state_dir.join(FOLDER)).ok()?.read(pool.to_string(), REASON_BYTES).ok()??;
    Some(String::from_utf8_lossy(&said).into_owned())
}

impl Engine {
    /// Whether a pool whose disk failed takes changes durably again, so that it can be opened anew. To be called on its
    /// threads.
    pub(super) fn is_mended(&self, slot: &Slot, pool: &dyn Pool) -> bool {
        let Some(why) = pool.home().and_then(Dir::fenced) else { return false };
        self.fences.tell(pool.id(), why);
        let proven = pool.prove();
        if let Err(error) = &proven {
            tracing::warn!(pool = slot.name(), why, error = chain(error), "a pool still takes no changes");
        }
        proven.is_ok()
    }
}
