//! Freezes that go on: which group snapshot froze its volumes, and in which boot.
//!
//! Owns: one small file for each group that is being cut, in the state directory, from before its freeze to after its thaw.
//! Never: says anything of a freeze that is not ours, such as that of a backup hook, or of one before a reboot, which thaws all.
//!
//! Such a file is all that is left of a freeze whose freezer died with its whole container. It is there some microseconds too
//! early and too late: a freeze that nobody knows of would hang its writers for ever. After a death of the driver alone it is there
//! though the freezer has thawed, so what a hook froze since in the same volumes passes for ours until the group is settled.

use std::path::{Path, PathBuf};

use crate::error::{Result, chain};
use crate::model::GroupId;
use crate::os::file::Dir;
use crate::os::mount;

/// The directory of these files, below the state directory.
const FOLDER: &str = "freezes";
/// No file is longer: it holds the boot id.
const BOOT_BYTES: usize = 64;

/// The freezes of this node.
pub(super) struct Freezes {
    /// None: for one who looks while no driver runs. A path, since every pool's threads have files of their own.
    path: Option<PathBuf>,
    boot: String,
}

impl Freezes {
    /// Below `state_dir`, which is made if need be. What is said of another boot is removed.
    pub(super) fn open(state_dir: &Path) -> Result<Freezes> {
        let path = state_dir.join(FOLDER);
        let (dir, boot) = (Dir::make_path(&path, 0o700)?, mount::boot_id()?);
        for name in dir.names()? {
            if dir.read(&name, BOOT_BYTES).ok().flatten().as_deref() != Some(boot.as_bytes()) {
                dir.remove_unsynced(&name)?;
            }
        }
        Ok(Freezes { path: Some(path), boot })
    }

    /// Nothing is frozen.
    pub(super) fn none() -> Freezes {
        Freezes { path: None, boot: String::new() }
    }

    /// To be called before a group's volumes are frozen. Not synced: it means nothing after a reboot.
    pub(super) fn begin(&self, group: &GroupId) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        Dir::open(path)?.replace_unsynced(group.to_string(), self.boot.as_bytes())
    }

    /// Whether a group's volumes may be frozen by us in this boot.
    pub(super) fn is_ours(&self, group: &GroupId) -> bool {
        let read = |path: &PathBuf| Dir::open(path).ok()?.read(group.to_string(), BOOT_BYTES).ok()?;
        self.path.as_ref().and_then(read).as_deref() == Some(self.boot.as_bytes())
    }

    /// To be called when they are thawed.
    pub(super) fn end(&self, group: &GroupId) {
        let Some(path) = &self.path else { return };
        if let Err(error) = Dir::open(path).and_then(|dir| dir.remove_unsynced(group.to_string())) {
            tracing::warn!(%group, error = chain(&error), "failed to note that a freeze is over");
        }
    }
}
