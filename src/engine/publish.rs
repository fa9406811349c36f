//! Publish and unpublish: a staged volume in front of a workload.
//!
//! Owns: the bind from the staging path to the target, with no moment in which a read-only one can be written. Never:
//! deletes recursively at a target, unmounts what is not this volume, or detaches lazily.

use std::path::{Path, PathBuf};

use crate::engine::mounts::STAGED_DEVICE;
use crate::engine::notes::Wish;
use crate::engine::stage::{STAGING, options, raw_device, refuse_misfit};
use crate::engine::{Engine, Key, Mode, Publish, Writes};
use crate::error::{Error, Result, quoted};
use crate::model::{Access, ObjectId, Volume, VolumeId};
use crate::os::mount::{Devices, Here, MountOption, Mounted, Place, ReadOnly, Restrict, Tree};
use crate::pool::{Attach, Pool};

impl Engine {
    /// The volume at its target path.
    ///
    /// # Errors
    /// `Conflict` where it is published there otherwise; `Precondition` where it is not staged, where its mode forbids a
    /// second target, or where the target is used for something else. Then neither mount nor target is left.
    pub fn publish(&self, want: &Publish) -> Result<()> {
        let _claim = self.store.claim(&[Key::Object(ObjectId::Volume(want.volume))], &[])?;
        let volume = self.volume(&want.volume)?;
        refuse_misfit(&volume, &want.capability)?;
        let options = options(&volume, &want.capability)?;
        let pool = self.pool(volume.id.pool())?;
        let staged = self.staged_place(&volume, &want.staging)?;
        refuse_overlap(want)?;
        let place = self.place("target_path", &want.target)?;
        let wish = Wish::published(&want.capability, want.writes);
        let read_only = read_only(want, &options);
        let here = place.look()?;
        if let Here::Mounted(mounted) = here {
            return self.published_already(&volume, &place, &mounted, (&wish, read_only));
        }
        self.refuse_second(pool.as_ref(), &volume, want)?;
        refuse_occupied(&volume, &here, &want.target)?;
        self.notes.refuse_unwritable()?;
        let tree = tree(pool.as_ref(), &volume, &staged, read_only)?;
        let devices = match volume.access {
            Access::Block => Devices::Allowed,
            Access::Mount { .. } => Devices::Refused,
        };
        tree.restrict(&Restrict { read_only, devices, options })?;
        step!("publish: restricted");
        match volume.access {
            Access::Block => place.make_file(0o600)?,
            Access::Mount { .. } => place.make_directory(0o750)?,
        }
        step!("publish: target made");
        self.show_at(&volume.id, tree, &place, wish).map_err(|cause| {
            // What was asked for did not come about, so nothing of it may stay.
            let undone = place.unmount_all();
            let undone =
                undone.and_then(|_| if matches!(here, Here::Nothing) { place.remove() } else { Ok(()) });
            match undone {
                Ok(()) => cause,
                Err(error) => Error::undone_in_part(&cause, &error),
            }
        })
    }

    /// Nothing at the target any more, whoever removed it.
    ///
    /// # Errors
    /// `Precondition` where the target shows something else or is not empty; `Busy` while something holds it open.
    pub fn unpublish(&self, id: &VolumeId, target: &Path) -> Result<()> {
        let _claim = self.store.claim(&[Key::Object(ObjectId::Volume(*id))], &[])?;
        let place = match self.place("target_path", target) {
            Ok(place) => place,
            // Its parent is gone, and so is it.
            Err(Error::Precondition(_)) => {
                self.notes.forget(id, target);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        match place.look()? {
            Here::Nothing => {
                self.notes.forget(id, target);
                return Ok(());
            }
            Here::Mounted(mounted) => {
                self.refuse_foreign(id, &place, &mounted)?;
                self.refuse_staged(id, &place, &mounted)?;
                place.unmount_all()?;
                step!("unpublish: unmounted");
            }
            Here::Directory { empty: true } | Here::File { empty: true } => {
                // Nothing is in it and nothing is mounted there, so whoever clears up after a reboot need not wait for a disk
                // that is away.
                let absent = self.store.volume(id).is_none().then(|| self.absent(ObjectId::Volume(*id)));
                if let Some(error) = absent.filter(|error| !matches!(error, Error::Unavailable(_))) {
                    return Err(error);
                }
            }
            Here::Directory { .. } if planted!("recursive-delete") => {
                let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else { return Ok(()) };
                return crate::os::file::Dir::open(parent)?.remove_tree(name).map(drop);
            }
            Here::Directory { .. } | Here::File { .. } | Here::Other => {
                let path = quoted(&target.to_string_lossy());
                return Err(Error::Precondition(format!(
                    "target_path {path} is not mounted and not empty; it stays as it is, look into it and clear it"
                )));
            }
        }
        self.notes.forget(id, target);
        step!("unpublish: note gone");
        if !planted!("target-kept") {
            place.remove()?;
        }
        step!("unpublish: target gone");
        Ok(())
    }

    /// Refuses to take the staging mount, and the CO's directory below it, for a target.
    fn refuse_staged(&self, id: &VolumeId, place: &Place, mounted: &Mounted) -> Result<()> {
        if !self.notes.about(place.path(), mounted).is_some_and(|note| note.wish.is_staged()) {
            return Ok(());
        }
        let path = quoted(&place.path().to_string_lossy());
        Err(Error::Precondition(format!(
            "target_path {path}: volume {id} is staged there, not published; want its target path, or NodeUnstageVolume"
        )))
    }

    /// The place where the volume is staged.
    fn staged_place(&self, volume: &Volume, staging: &Path) -> Result<Place> {
        let absent = |why: &str| {
            let path = quoted(&staging.to_string_lossy());
            Error::Precondition(format!(
                "volume {} is not staged at staging_target_path {path}{why}",
                volume.id
            ))
        };
        if staging.as_os_str().is_empty() {
            return Err(absent(": it is empty"));
        }
        let path = match volume.access {
            Access::Block => staging.join(STAGED_DEVICE),
            Access::Mount { .. } => PathBuf::from(staging),
        };
        let place = self.place(STAGING, &path)?;
        match place.look()? {
            Here::Mounted(Mounted { dead: Some(why), .. }) => {
                Err(absent(&format!(" any more: its mount is broken ({why})")))
            }
            Here::Mounted(mounted) if self.is_ours(&volume.id, &place, &mounted)? => Ok(place),
            Here::Mounted(_) => Err(absent(", something else is mounted there")),
            Here::Nothing | Here::Directory { .. } | Here::File { .. } | Here::Other => Err(absent("")),
        }
    }

    fn published_already(
        &self,
        volume: &Volume,
        place: &Place,
        mounted: &Mounted,
        (wish, read_only): (&Wish, ReadOnly),
    ) -> Result<()> {
        let path = quoted(&place.path().to_string_lossy());
        if !self.is_ours(&volume.id, place, mounted)? {
            return Err(Error::Precondition(format!("target_path {path}: something else is mounted there")));
        }
        let note = self.notes.about(place.path(), mounted);
        let difference = match &note {
            Some(note) => note.wish.difference(wish),
            None => ((read_only == ReadOnly::Yes) != mounted.read_only && volume.access != Access::Block)
                .then_some("another readonly"),
        };
        match difference {
            None if note.is_some() => Ok(()),
            // The driver was killed before it noted this, which an unpublish must find where the pool is away.
            None => self.notes.write(volume.id, place.path(), mounted, wish.clone()),
            Some(what) => {
                Err(Error::Conflict(format!("volume {} is published at {path} with {what}", volume.id)))
            }
        }
    }

    /// Refuses a second target, unless every one of them shares the volume.
    fn refuse_second(&self, pool: &dyn Pool, volume: &Volume, want: &Publish) -> Result<()> {
        for other in self.published(pool, volume, &want.staging)? {
            let (place, named) = self.place_of(&other)?;
            let note = match place.look()? {
                Here::Mounted(mounted) => self.notes.about(&named, &mounted),
                Here::Nothing | Here::Directory { .. } | Here::File { .. } | Here::Other => None,
            };
            let theirs = note.map_or(Mode::MultiWriter, |note| note.wish.mode);
            if want.capability.mode != Mode::MultiWriter || theirs != Mode::MultiWriter {
                return Err(Error::Precondition(format!(
                    "volume {} is published at {} already, and only SINGLE_NODE_MULTI_WRITER allows a second target",
                    volume.id,
                    quoted(&other.point.to_string_lossy())
                )));
            }
        }
        Ok(())
    }
}

/// A mount, out of sight, of what the target will show.
fn tree(pool: &dyn Pool, volume: &Volume, staged: &Place, read_only: ReadOnly) -> Result<Tree> {
    match (volume.access, read_only) {
        // Writes through a read-only bind of a device node are not refused, those to a read-only device are.
        (Access::Block, ReadOnly::Yes) => {
            let device = raw_device(pool, volume, Attach::BlockReadOnly)?;
            let tree = Tree::clone_of_path(&device.path)?;
            if tree.root_stat()?.rdev != device.number {
                return Err(Error::Corrupt(format!(
                    "the device node of volume {} is another device",
                    volume.id
                )));
            }
            Ok(tree)
        }
        (Access::Block | Access::Mount { .. }, ReadOnly::Yes | ReadOnly::No) => {
            Tree::clone_of(staged.handle()?)
        }
    }
}

fn read_only(want: &Publish, options: &[MountOption]) -> ReadOnly {
    let refused = want.writes == Writes::Refused || want.capability.mode == Mode::Reader;
    if refused || options.iter().any(|option| option.is_read_only()) { ReadOnly::Yes } else { ReadOnly::No }
}

/// Refuses a target at or below the staging path: there it would lie in the volume itself, or hide it.
fn refuse_overlap(want: &Publish) -> Result<()> {
    if !want.target.starts_with(&want.staging) && !want.staging.starts_with(&want.target) {
        return Ok(());
    }
    let right = "want a path apart from staging_target_path";
    Err(Error::invalid("target_path", want.target.display(), right))
}

/// Refuses a target that is used for something else.
fn refuse_occupied(volume: &Volume, here: &Here, target: &Path) -> Result<()> {
    let wanted = match (volume.access, here) {
        (_, Here::Nothing)
        | (Access::Mount { .. }, Here::Directory { empty: true })
        | (Access::Block, Here::File { empty: true }) => return Ok(()),
        (Access::Mount { .. }, _) => "an empty directory",
        (Access::Block, _) => "an empty file",
    };
    Err(Error::Precondition(format!(
        "target_path {} is used for something else; want nothing there, or {wanted}",
        quoted(&target.to_string_lossy())
    )))
}
