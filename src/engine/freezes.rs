//! Freezes that go on: which group snapshot or growth froze its volumes, and in which boot.
//!
//! Owns: one small file for each group that is being cut and each xfs that grows, in the state directory, from before its freeze to
//! after its thaw; it says in which boot, and which volumes, so that they thaw whatever became of the group's record.
//! Never: says anything of a freeze that is not ours, such as that of a backup hook, or of one before a reboot, which thaws all.
//!
//! Such a file is all that is left of a freeze whose freezer died with its whole container. It is there some microseconds too
//! early and too late: a freeze that nobody knows of would hang its writers for ever. After a death of the driver alone it is there
//! though the freezer has thawed, so what a hook froze since in the same volumes passes for ours until the start has settled it.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result, chain};
use crate::model::{ObjectId, PoolId, VolumeId};
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

    /// Runs what may freeze these volumes for this group or volume. The note of it stays where nobody says that all is thawed.
    pub(super) fn during<T>(
        &self,
        id: ObjectId,
        volumes: &[VolumeId],
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        self.begin(id, volumes)?;
        let outcome = work();
        if !matches!(outcome, Err(Error::StillFrozen(_))) {
            self.end(id);
        }
        outcome
    }

    /// Not synced: it means nothing after a reboot.
    fn begin(&self, id: ObjectId, volumes: &[VolumeId]) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let lines: Vec<String> =
            std::iter::once(self.boot.clone()).chain(volumes.iter().map(VolumeId::to_string)).collect();
        Dir::open(path)?.replace_unsynced(id.to_string(), lines.join("\n").as_bytes())
    }

    /// The groups and volumes of a pool for which volumes may be frozen by us in this boot, with those volumes.
    pub(super) fn of_pool(&self, pool: PoolId) -> Vec<(ObjectId, Vec<VolumeId>)> {
        let Some(dir) = self.path.as_ref().and_then(|path| Dir::open(path).ok()) else { return Vec::new() };
        let names = dir.names().unwrap_or_default().into_iter().filter_map(|name| name.into_string().ok());
        let ids = names.filter_map(|name| name.parse().ok()).filter(|id: &ObjectId| id.pool() == pool);
        ids.filter_map(|id| Some((id, self.read(&dir, id)?))).collect()
    }

    /// Whether volumes may be frozen by us for this group or volume in this boot.
    pub(super) fn is_ours(&self, id: ObjectId) -> bool {
        let dir = self.path.as_ref().and_then(|path| Dir::open(path).ok());
        dir.and_then(|dir| self.read(&dir, id)).is_some()
    }

    fn read(&self, dir: &Dir, id: ObjectId) -> Option<Vec<VolumeId>> {
        volumes(&dir.read(id.to_string(), LONGEST).ok()??, &self.boot)
    }

    /// To be called when they are thawed.
    pub(super) fn end(&self, id: ObjectId) {
        let Some(path) = &self.path else { return };
        if let Err(error) = Dir::open(path).and_then(|dir| dir.remove_unsynced(id.to_string())) {
            tracing::warn!(%id, error = chain(&error), "failed to note that a freeze is over");
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
    fn a_note_is_there_as_long_as_something_may_be_frozen() {
        let dir = tempfile::tempdir().unwrap();
        let freezes = Freezes::open(dir.path()).unwrap();
        let volume: VolumeId = "v1.0123456789ab.0123456789abcdef".parse().unwrap();
        let (id, pool) = (ObjectId::Volume(volume), volume.pool());
        let noted = || freezes.of_pool(pool);
        let looked = freezes.during(id, &[volume], || Ok(noted())).unwrap();
        assert_eq!((looked, noted()), (vec![(id, vec![volume])], vec![]));
        assert!(freezes.during(id, &[volume], || Err::<(), _>(Error::Busy("it is".into()))).is_err());
        assert!(!freezes.is_ours(id));
        let resists = || Err::<(), _>(Error::StillFrozen("it does not thaw".into()));
        assert!(freezes.during(id, &[volume], resists).is_err());
        assert!(freezes.is_ours(id), "somebody has to thaw it");
        let again = Freezes::open(dir.path()).unwrap();
        assert!(again.is_ours(id), "of this boot");
        again.end(id);
        assert!(noted().is_empty());
    }

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
