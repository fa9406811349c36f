//! What is wrong with an image pool or one of its volumes, and its upkeep.
//!
//! Owns: the words of the problems. Never: changes a volume, or reads its data.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::Images;
use crate::error::{Result, chain};
use crate::model::{Bytes, VolumeId};
use crate::os::loopdev::Loop;
use crate::os::mount::{Here, Mount, Place};
use crate::os::{file, fs, label, mount};
use crate::pool::home::Space;
use crate::pool::{Problem, Severity};

/// With more extents than this a snapshot stops the volume's writers for the better part of a second.
const MANY_EXTENTS: u32 = 100_000;
/// The smallest block of a filesystem that a pool lies on, in bytes.
const SMALLEST_BLOCK: u64 = 1024;

/// The mounts of each filesystem, by its device number.
type Mounts<'a> = HashMap<u64, Vec<&'a Mount>>;
/// A filesystem takes less than one part in so many for itself.
const MUCH: u64 = 16;
/// No oftener is it counted what others take, once they seem to have gone, and once they may have come.
const GONE_AGAIN: Duration = Duration::from_secs(2);
const COME_AGAIN: Duration = Duration::from_secs(30);

/// What others take of a pool's filesystem.
#[derive(Clone, Copy, Debug)]
pub(super) struct Foreign {
    bytes: Bytes,
    /// What everybody took together.
    used: Bytes,
    /// The least that it has been since.
    least: Bytes,
    at: Instant,
}

impl Foreign {
    fn may_be_gone(&self, now: &Space) -> bool {
        let much = self.bytes.get() > now.total.get() / MUCH;
        much && now.used < self.used && self.at.elapsed() > GONE_AGAIN
    }

    /// Much has come since. Volumes that were written look the same from here; a pool can be filled by them only so many times.
    fn may_have_come(&self, now: &Space) -> bool {
        let came = now.used.less(self.least).get();
        came > now.total.get() / MUCH && self.at.elapsed() > COME_AGAIN
    }
}

impl Images {
    /// What is wrong with the pool.
    pub(super) fn pool_problems(&self) -> Vec<Problem> {
        self.home.problems()
    }

    /// What is wrong with one volume; what is wrong with the pool is wrong with all of it.
    pub(super) fn volume_problems(&self, id: &VolumeId) -> Vec<Problem> {
        let mut problems = self.home.problems_of_volumes();
        if problems.iter().all(|problem| problem.severity == Severity::Degraded) {
            let own = mount::table().and_then(|table| self.check_volume(id, &by_device(&table)));
            problems.extend(readable(own));
        }
        problems
    }

    /// What is wrong with each of these volumes, in a pool that can be used.
    pub(super) fn volumes_problems(&self, all: &[VolumeId]) -> Vec<(Option<VolumeId>, Problem)> {
        let table = match mount::table() {
            Ok(table) => table,
            Err(error) => return vec![(None, problem(Severity::Inaccessible, "PoolFailed", chain(&error)))],
        };
        let mounts = by_device(&table);
        let of_one = |id: &VolumeId| {
            let id = *id;
            readable(self.check_volume(&id, &mounts)).into_iter().map(move |problem| (Some(id), problem))
        };
        all.iter().flat_map(of_one).collect()
    }

    fn check_volume(&self, id: &VolumeId, mounts: &Mounts<'_>) -> Result<Vec<Problem>> {
        let (volumes, name) = (self.home.volumes(), id.to_string());
        let Some(stat) = volumes.stat(&name)? else {
            let text = format!("volume {id} has a record but no image in the pool");
            return Ok(vec![problem(Severity::DataLoss, "ImageMissing", text)]);
        };
        let mut problems = Vec::new();
        // Each piece holds a block at least, so most images need not be opened to know that they have few.
        if stat.allocated / SMALLEST_BLOCK > MANY_EXTENTS.into()
            && let Some(image) = volumes.open_file(&name, file::Access::ReadOnly)?
            && let Some(extents) = file::extent_count(&image)?.filter(|extents| *extents > MANY_EXTENTS)
        {
            let text = format!(
                "the image has {extents} extents: a snapshot stops writers for about {} ms",
                extents / 140
            );
            problems.push(problem(Severity::Degraded, "ImageFragmented", text));
        }
        let Some(device) = self.devices.writable_of(id, volumes)? else {
            return Ok(problems);
        };
        let (shown, real) = (device.size()?, stat.size);
        if shown > real {
            let text = format!("the image has {real} bytes, its device shows {shown}: somebody cut it off");
            problems.push(problem(Severity::DataLoss, "ImageTruncated", text));
        }
        problems.extend(filesystem_problem(device, mounts.get(&device.device).map_or(&[], Vec::as_slice))?);
        Ok(problems)
    }

    /// Gives back what mounted sparse volumes, and a sparse pool itself, no longer use.
    pub(super) fn trim(&self) -> Result<()> {
        let mut outcome = Ok(());
        for (id, mount) in self.devices.mounted()? {
            if let Err(error) = self.trim_volume(&id, &mount) {
                tracing::warn!(volume = %id, error = chain(&error), "failed to trim a volume");
                outcome = Err(error);
            }
        }
        if self.home.is_sparse() {
            fs::trim(self.home.root())?;
        }
        outcome
    }

    fn trim_volume(&self, id: &VolumeId, mount: &Mount) -> Result<()> {
        let Some(image) = self.home.volumes().open_file(id.to_string(), file::Access::ReadOnly)? else {
            return Ok(());
        };
        if mount.super_read_only || label::has(&image, super::RESERVED)? {
            return Ok(());
        }
        let root = Place::trusted(&mount.point)?.open_directory()?;
        if file::stat(&root)?.device == mount.device { fs::trim(&root).map(drop) } else { Ok(()) }
    }

    /// What others take. Where they have taken much and the filesystem has become emptier since the last look, they may
    /// have gone: then it is counted anew, so that a pool they had filled has room again. Where it has become much fuller they
    /// may have come: a pool with less room than it was thought to have promises no more of it, and an alert says so.
    pub(super) fn foreign(&self, now: &Space) -> Result<Bytes> {
        let mut looked = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        match looked.as_mut() {
            Some(last) if !last.may_be_gone(now) && !last.may_have_come(now) => {
                // From the emptiest that it was on, or who comes after volumes went would not be seen.
                last.least = last.least.min(now.used);
                Ok(last.bytes)
            }
            Some(_) | None => {
                drop(looked);
                self.look_for_foreign()
            }
        }
    }

    /// Counts anew what others take: what is used, less what all objects here take.
    pub(super) fn look_for_foreign(&self) -> Result<Bytes> {
        let mut own = 0_u64;
        // What moves from tmp to its place meanwhile counts twice, and not as another's.
        for place in [self.home.tmp(), self.home.volumes(), self.home.snapshots()] {
            for name in place.names()? {
                // Blocks that clones share count for each of them, so this errs on the side of too little foreign.
                own = own.saturating_add(place.stat(&name)?.map_or(0, |stat| stat.allocated));
            }
        }
        let used = self.home.space()?.used;
        let bytes = used.less(Bytes::new(own));
        let looked = Foreign { bytes, used, least: used, at: Instant::now() };
        *self.foreign.lock().unwrap_or_else(PoisonError::into_inner) = Some(looked);
        Ok(bytes)
    }
}

fn by_device(table: &[Mount]) -> Mounts<'_> {
    let mut mounts = Mounts::new();
    table.iter().for_each(|mount| mounts.entry(mount.device).or_default().push(mount));
    mounts
}

/// That an image cannot be looked at is a problem like any other.
fn readable(found: Result<Vec<Problem>>) -> Vec<Problem> {
    found.unwrap_or_else(|error| vec![problem(Severity::Inaccessible, "ImageUnreadable", chain(&error))])
}

/// What is wrong with the filesystem that is mounted from a device.
fn filesystem_problem(device: Loop, mounts: &[&Mount]) -> Result<Option<Problem>> {
    let gone = |reason, what: &str| {
        let text = format!("the volume's filesystem {what}; stage the volume again");
        Ok(Some(problem(Severity::Inaccessible, reason, text)))
    };
    for mount in mounts {
        // Older kernels have no word for it: then a filesystem is read-only that was mounted for writing.
        if mount.emergency || (mount.super_read_only && !mount.read_only) {
            return gone("FilesystemReadOnly", "turned read-only after an error");
        }
        // xfs says in no mount option that it shut down, but refuses to be looked at.
        if let Here::Mounted(there) = Place::trusted(&mount.point)?.look()?
            && let Some(error) = there.dead
        {
            return gone("FilesystemFailed", &format!("gave up: {error}"));
        }
    }
    // Linux 6.12 to 6.14 show a read-only ext4 nowhere: the count of errors is all there is.
    let errors = fs::ext4_errors(&device.path()).filter(|errors| *errors > 0);
    Ok(errors.map(|errors| {
        let text = format!(
            "the volume's filesystem found {errors} errors and needs a check: stage the volume again"
        );
        problem(Severity::Degraded, "FilesystemErrors", text)
    }))
}

/// A pool that does not answer.
pub(super) fn hung(name: &str) -> Problem {
    let text = format!("the disk of pool `{name}` does not answer");
    problem(Severity::Inaccessible, "PoolHung", text)
}

fn problem(severity: Severity, reason: &'static str, message: String) -> Problem {
    Problem { severity, reason, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Pool;
    use crate::pool::image::ImagePool;
    use crate::pool::rig::{Rig, run};

    const MIB: u64 = 1 << 20;

    /// 1 GiB with so much of it taken, in MiB.
    fn space(used: u64) -> Space {
        let bytes = |mebibytes: u64| Bytes::new(mebibytes * MIB);
        Space { total: bytes(1024), free: bytes(1024 - used), used: bytes(used) }
    }

    fn looked(foreign: u64, used: u64, ago: Duration) -> Foreign {
        let at = Instant::now().checked_sub(ago).unwrap();
        let used = space(used).used;
        Foreign { bytes: Bytes::new(foreign * MIB), used, least: used, at }
    }

    #[test]
    fn what_others_take_is_counted_anew_where_they_may_have_come_or_gone() {
        let (now, soon, later) = (Duration::ZERO, Duration::from_secs(3), Duration::from_secs(31));
        assert!(looked(10, 100, later).may_have_come(&space(165)), "more than a sixteenth came");
        assert!(!looked(10, 100, later).may_have_come(&space(164)), "no more than that");
        assert!(!looked(10, 100, soon).may_have_come(&space(900)), "it was counted a moment ago");
        assert!(looked(65, 500, soon).may_be_gone(&space(499)), "they had much, and something went");
        assert!(!looked(64, 500, soon).may_be_gone(&space(100)), "they had little");
        assert!(!looked(65, 500, now).may_be_gone(&space(100)), "it was counted a moment ago");
        let seen = Foreign { least: space(100).used, ..looked(65, 500, soon) };
        assert!(
            seen.may_be_gone(&space(100)),
            "that it was seen empty a moment after it was counted hides nothing"
        );
    }

    #[test]
    fn who_comes_after_volumes_went_is_counted() {
        let rig = Rig::new();
        let pool = ImagePool::open(&rig.setup).unwrap();
        let (root, space) = (pool.images.home.root().path(), pool.images.home.space().unwrap());
        // What was counted when all of it was taken, none of it by others.
        let at = Instant::now().checked_sub(COME_AGAIN * 2).unwrap();
        let full = Foreign { bytes: Bytes::ZERO, used: space.total, least: space.total, at };
        *pool.images.foreign.lock().unwrap() = Some(full);
        assert_eq!(pool.usage().unwrap().foreign, Bytes::ZERO);
        let size = space.total.get() / 10;
        run("fallocate", &["-l".as_ref(), size.to_string().as_ref(), root.join("stranger").as_path()]);
        assert!(pool.usage().unwrap().foreign.get() >= size);
    }
}
