//! Freezes that go on: which group snapshot froze its volumes, and in which boot.
//!
//! Owns: one small file for each group that is being cut, in the state directory, from before its freeze to after its thaw; it
//! says in which boot, and which volumes, so that they thaw whatever became of the group's record.
//! Never: says anything of a freeze that is not ours, such as that of a backup hook, or of one before a reboot, which thaws all.
//!
//! Such a file is all that is left of a freeze whose freezer died with its whole container. It is there some microseconds too
//! early and too late: a freeze that nobody knows of would hang its writers for ever. After a death of the driver alone it is there
//! though the freezer has thawed, so what a hook froze since in the same volumes passes for ours until the group is settled.

use std::path::{Path, PathBuf};

use crate::error::{Result, chain};
use crate::model::{Group, GroupId, PoolId, VolumeId};
use crate::os::file::Dir;
use crate::os::mount;

/// The directory of these files, below the state directory.
const FOLDER: &str = "freezes";
/// No file is longer: it holds the boot id and the ids of the volumes, a line each.
const LONGEST: usize = 1 << 20;

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
            let text = dir.read(&name, LONGEST).ok().flatten();
            if text.is_none_or(|text| volumes(&text, &boot).is_none()) {
                dir.remove_unsynced(&name)?;
            }
        }
        Ok(Freezes { path: Some(path), boot })
    }

    /// Of somebody who does not know what is frozen: one who looks while no driver runs.
    pub(super) fn unknown() -> Freezes {
        Freezes { path: None, boot: String::new() }
    }

    /// Whether it can be said what is frozen by us.
    pub(super) fn are_known(&self) -> bool {
        self.path.is_some()
    }

    /// To be called before a group's volumes are frozen. Not synced: it means nothing after a reboot.
    pub(super) fn begin(&self, group: &Group) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let lines: Vec<String> =
            std::iter::once(self.boot.clone()).chain(group.sources.iter().map(VolumeId::to_string)).collect();
        Dir::open(path)?.replace_unsynced(group.id.to_string(), lines.join("\n").as_bytes())
    }

    /// The groups of a pool whose volumes may be frozen by us in this boot, with those volumes.
    pub(super) fn of_pool(&self, pool: PoolId) -> Vec<(GroupId, Vec<VolumeId>)> {
        let Some(dir) = self.path.as_ref().and_then(|path| Dir::open(path).ok()) else { return Vec::new() };
        let names = dir.names().unwrap_or_default().into_iter().filter_map(|name| name.into_string().ok());
        let groups =
            names.filter_map(|name| name.parse().ok()).filter(|group: &GroupId| group.pool() == pool);
        groups.filter_map(|group| Some((group, self.read(&dir, &group)?))).collect()
    }

    /// Whether a group's volumes may be frozen by us in this boot.
    pub(super) fn is_ours(&self, group: &GroupId) -> bool {
        let dir = self.path.as_ref().and_then(|path| Dir::open(path).ok());
        dir.and_then(|dir| self.read(&dir, group)).is_some()
    }

    fn read(&self, dir: &Dir, group: &GroupId) -> Option<Vec<VolumeId>> {
        volumes(&dir.read(group.to_string(), LONGEST).ok()??, &self.boot)
    }

    /// To be called when they are thawed.
    pub(super) fn end(&self, group: &GroupId) {
        let Some(path) = &self.path else { return };
        if let Err(error) = Dir::open(path).and_then(|dir| dir.remove_unsynced(group.to_string())) {
            tracing::warn!(%group, error = chain(&error), "failed to note that a freeze is over");
        }
    }
}

/// The volumes that such a file names; none where it is of another boot.
fn volumes(text: &[u8], boot: &str) -> Option<Vec<VolumeId>> {
    let mut lines = std::str::from_utf8(text).ok()?.lines();
    (lines.next() == Some(boot)).then(|| lines.filter_map(|line| line.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_names_its_volumes_in_its_own_boot_only() {
        let ids = ["v1.0123456789ab.0123456789abcdef", "v1.0123456789ab.0123456789abcdee"];
        let text = format!("boot\n{}\n{}", ids[0], ids[1]);
        let named: Vec<String> =
            volumes(text.as_bytes(), "boot").unwrap().iter().map(VolumeId::to_string).collect();
        assert_eq!(named, ids);
        assert_eq!(volumes(text.as_bytes(), "another"), None);
        // As an older release wrote it: its record says which.
        assert_eq!(volumes(b"boot", "boot"), Some(Vec::new()));
        assert_eq!(volumes(b"\xff", "boot"), None);
    }
}
