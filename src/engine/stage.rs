//! Stage and unstage: one mount of a volume for the node.
//!
//! Owns: attaching, checking and mounting a volume at its staging path. Never: formats; a filesystem that is not what
//! the record says is an error, and its bytes stay as they are.
//!
//! Stage                                              After a crash
//!  1. claim; something mounted there: compare        –
//!  2. attach                                         a filesystem's device lets go by itself; a raw one at the next opening
//!  3. compare type and UUID with the record          as 2
//!  4. check an ext4 in which errors were met, and    run again
//!     grow one that is smaller than its device
//!  5. mount detached, compare, grow an xfs           as 2
//!  6. make it visible                                the retry finds it
//!  7. note what was asked for                        the retry finds a mount without a note and accepts it

use std::path::Path;

use crate::engine::health::refuse_cut_short;
use crate::engine::mounts::{Face, STAGED_DEVICE, fs_name};
use crate::engine::notes::Wish;
use crate::engine::volumes::show;
use crate::engine::{Capability, Engine, Key, Slot, Stage};
use crate::error::{Error, Result, quoted};
use crate::model::{Access, Asked, Filesystem, ObjectId, Volume, VolumeId};
use crate::os::fs::{self, Found, FsKind};
use crate::os::mount::{self, Devices, Here, MountOption, Mounted, Of, Place, Restrict, Tree};
use crate::pool::{Attach, Attached, Device, Pool};

/// The field that names where a volume is staged.
pub(super) const STAGING: &str = "staging_target_path";

impl Engine {
    /// The volume mounted at its staging path, or, a raw one, attached.
    ///
    /// # Errors
    /// `Conflict` where it is staged there otherwise, `Precondition` where it is staged elsewhere or something else is
    /// mounted there, `Corrupt` where its filesystem is not the one that was made.
    pub fn stage(&self, want: &Stage) -> Result<()> {
        let _claim = self.store.claim(&[Key::Object(ObjectId::Volume(want.volume))], &[])?;
        let volume = self.volume(&want.volume)?;
        refuse_misfit(&volume, &want.capability)?;
        let options = options(&volume, &want.capability)?;
        let pool = self.pool(volume.id.pool())?;
        let place = self.staging_place(&volume, &want.staging)?;
        let wish = Wish::staged(&want.capability);
        if let Here::Mounted(mounted) = place.look()? {
            return self.staged_already(&volume, &place, &mounted, &wish);
        }
        if let Some(other) = self.mounts_of(pool.as_ref(), &volume)?.first() {
            let point = quoted(&other.point.to_string_lossy());
            return Err(Error::Precondition(format!(
                "volume {} is staged or in use at {point} already",
                volume.id
            )));
        }
        // What is staged already stays; nobody begins to write to a disk that fails.
        pool.writable()?;
        self.notes.refuse_unwritable()?;
        let shown = self.show(pool.as_ref(), &volume, &place, (options, wish));
        shown.map_err(|cause| self.unshow(pool.as_ref(), &volume, &place, cause))
    }

    /// Steps 2 to 7.
    fn show(
        &self,
        pool: &dyn Pool,
        volume: &Volume,
        place: &Place,
        (options, wish): (Vec<MountOption>, Wish),
    ) -> Result<()> {
        let attached = pool.attach(&volume.id, attach_for(volume.access))?;
        step!("stage: attached");
        let tree = match (attached, volume.access) {
            (Attached::Directory(dir), _) => {
                let tree = Tree::clone_of(&dir)?;
                tree.restrict(&Restrict { options, ..Restrict::default() })?;
                tree
            }
            (Attached::Device(device), Access::Block) => {
                // A filesystem tells by itself that its end is missing.
                refuse_cut_short(pool, ObjectId::Volume(volume.id), volume.size)?;
                let tree = Tree::clone_of_path(&device.path)?;
                tree.restrict(&Restrict { devices: Devices::Allowed, ..Restrict::default() })?;
                place.make_file(0o600)?;
                tree
            }
            (Attached::Device(device), Access::Mount { fs: filesystem }) => {
                let read_only = options.iter().any(|option| option.is_read_only());
                let tree = checked_filesystem(volume, &device, options)?;
                if filesystem == Filesystem::Xfs && !read_only {
                    self.grow_mount(pool, volume, &tree)?;
                }
                tree
            }
        };
        self.show_at(&volume.id, tree, place, wish)
    }

    /// An xfs that was just mounted takes all of its device. Hardly ever frozen for it, since what the mount has replayed is there.
    fn grow_mount(&self, pool: &dyn Pool, volume: &Volume, tree: &Tree) -> Result<()> {
        let id = ObjectId::Volume(volume.id);
        self.thaw(pool, id, &[volume.id])?;
        let grow = || fs::grow_mounted(tree.root()?, FsKind::Xfs, volume.size.get());
        self.freezes.during(id, &[volume.id], grow).map(drop)
    }

    /// Takes back what a stage that failed has done, since nobody unstages what was never staged; answers `cause`, or that
    /// the outcome is open.
    fn unshow(&self, pool: &dyn Pool, volume: &Volume, place: &Place, cause: Error) -> Error {
        let undone = place.look().and_then(|here| match here {
            Here::Mounted(mounted) if self.is_ours(&volume.id, place, &mounted)? => {
                place.unmount_all().map(drop)
            }
            Here::Nothing | Here::Directory { .. } | Here::File { .. } | Here::Other | Here::Mounted(_) => {
                Ok(())
            }
        });
        let removed = undone.and_then(|()| match place.look()? {
            Here::File { empty: true } if volume.access == Access::Block => place.remove(),
            Here::Nothing | Here::Directory { .. } | Here::File { .. } | Here::Other | Here::Mounted(_) => {
                Ok(())
            }
        });
        match removed.and_then(|()| pool.detach(&volume.id)) {
            Ok(()) => cause,
            Err(error) => Error::undone_in_part(&cause, &error),
        }
    }

    /// Nothing of the volume at its staging path any more, and no device. The directory stays: it is the CO's.
    ///
    /// # Errors
    /// `Precondition` while it is published, or where something else is mounted there; `Busy` while something holds it open.
    pub fn unstage(&self, id: &VolumeId, staging: &Path) -> Result<()> {
        let _claim = self.store.claim(&[Key::Object(ObjectId::Volume(*id))], &[])?;
        let volume = self.store.volume(id);
        let pool = self.pool(id.pool());
        let published = match (&volume, &pool) {
            (Some(volume), Ok(pool)) => self.published(pool.as_ref(), volume, staging)?,
            (_, _) => self.published_as_staged(id, staging)?,
        };
        if let Some(target) = published.first() {
            let point = quoted(&target.point.to_string_lossy());
            return Err(Error::Precondition(format!(
                "volume {id} is still published at {point}; unpublish it first"
            )));
        }
        for path in [staging.to_owned(), staging.join(STAGED_DEVICE)] {
            self.unmount(id, &path)?;
        }
        // Also where the pool is away: what is attached must not stay. One that was lost long ago lets go when it is back (`recover`).
        match self.slot_of(id.pool()).map(Slot::open) {
            Some(Ok(pool)) if volume.is_some() => {
                pool.detach(id)?;
                step!("unstage: detached");
                Ok(())
            }
            Some(Ok(pool)) if self.is_unread(pool.as_ref(), id) => detach_unread(pool.as_ref(), id),
            Some(Ok(_) | Err(_)) | None => Ok(()),
        }
    }

    /// Whether the record of a volume cannot be read, or is gone while its bytes are there.
    fn is_unread(&self, pool: &dyn Pool, id: &VolumeId) -> bool {
        let id = ObjectId::Volume(*id);
        self.store.quarantined(id).is_some() || pool.label(id).is_ok_and(|label| label.is_some())
    }

    /// Unmounts this volume at a staging path; what is not a mount stays as it is, but for the file under a raw device.
    fn unmount(&self, id: &VolumeId, path: &Path) -> Result<()> {
        let place = match self.place(STAGING, path) {
            Ok(place) => place,
            // Its parent is gone, and so is it.
            Err(Error::Precondition(_)) => {
                self.notes.forget(id, path);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let is_device = path.file_name().is_some_and(|name| name == STAGED_DEVICE);
        match place.look()? {
            Here::Mounted(mounted) => {
                self.refuse_foreign(id, &place, &mounted)?;
                place.unmount_all()?;
                step!("unstage: unmounted");
                self.notes.forget(id, path);
                step!("unstage: note gone");
                if is_device { place.remove() } else { Ok(()) }
            }
            Here::File { empty: true } if is_device => {
                self.notes.forget(id, path);
                place.remove()
            }
            Here::Nothing | Here::Directory { .. } | Here::File { .. } | Here::Other => {
                self.notes.forget(id, path);
                Ok(())
            }
        }
    }

    /// Refuses to touch a mount that does not show this volume.
    pub(super) fn refuse_foreign(&self, id: &VolumeId, place: &Place, mounted: &Mounted) -> Result<()> {
        if self.is_ours(id, place, mounted)? {
            return Ok(());
        }
        let path = quoted(&place.path().to_string_lossy());
        Err(Error::Precondition(format!("what is mounted at {path} is not volume {id}; it stays as it is")))
    }

    /// Where a volume's staging mount is or will be.
    fn staging_place(&self, volume: &Volume, staging: &Path) -> Result<Place> {
        let place = self.place(STAGING, staging)?;
        let shown = quoted(&staging.to_string_lossy());
        match place.look()? {
            Here::Mounted(_) if volume.access != Access::Block => Ok(place),
            Here::Directory { empty: true } if volume.access != Access::Block => Ok(place),
            Here::Directory { .. } if volume.access == Access::Block => {
                self.place(STAGING, &staging.join(STAGED_DEVICE))
            }
            Here::Mounted(_) => Err(Error::Precondition(format!(
                "staging_target_path {shown}: something else is mounted there"
            ))),
            Here::Directory { .. } => Err(Error::Precondition(format!(
                "staging_target_path {shown} is not empty; mounting would hide what is in it"
            ))),
            Here::Nothing | Here::File { .. } | Here::Other => Err(Error::Precondition(format!(
                "staging_target_path {shown} is not a directory; the caller makes it"
            ))),
        }
    }

    fn staged_already(&self, volume: &Volume, place: &Place, mounted: &Mounted, wish: &Wish) -> Result<()> {
        let path = quoted(&place.path().to_string_lossy());
        if !self.is_ours(&volume.id, place, mounted)? {
            return Err(Error::Precondition(format!(
                "staging_target_path {path}: something else is mounted there"
            )));
        }
        if let Some(why) = &mounted.dead {
            return Err(Error::Precondition(format!(
                "volume {} at {path} is broken ({why}); unstage it",
                volume.id
            )));
        }
        let Some(note) = self.notes.about(place.path(), mounted) else {
            // The driver was killed before it noted this, which an unstage must find where the pool is away.
            return self.notes.write(volume.id, place.path(), mounted, wish.clone());
        };
        match note.wish.difference(wish) {
            None => Ok(()),
            Some(what) => {
                Err(Error::Conflict(format!("volume {} is staged at {path} with {what}", volume.id)))
            }
        }
    }

    /// Makes a checked mount visible and notes what was asked for.
    pub(super) fn show_at(&self, id: &VolumeId, tree: Tree, place: &Place, wish: Wish) -> Result<()> {
        // One that an earlier end of it has left would pass for the note of what comes now, were this process killed before that.
        self.notes.forget(id, place.path());
        tree.attach(place)?;
        step!("mount: visible");
        match place.look()? {
            Here::Mounted(mounted) => {
                self.notes.write(*id, place.path(), &mounted, wish)?;
                step!("mount: noted");
                Ok(())
            }
            Here::Nothing | Here::Directory { .. } | Here::File { .. } | Here::Other => {
                let path = quoted(&place.path().to_string_lossy());
                Err(Error::Unavailable(format!(
                    "the mount of volume {id} at {path} vanished at once; ask again"
                )))
            }
        }
    }
}

/// Detaches a volume whose record cannot be read, so that nobody knows whether it is raw; only a raw one is attached still.
fn detach_unread(pool: &dyn Pool, id: &VolumeId) -> Result<()> {
    for how in [Attach::Block, Attach::BlockReadOnly] {
        if let Some(Attached::Device(device)) = pool.attached(id, how)?
            && let Some(seat) = mount::seats(Of::Loop(device.number))?.first()
        {
            let point = quoted(&seat.point.to_string_lossy());
            return Err(Error::Precondition(format!(
                "volume {id} is still published at {point}; unpublish it first"
            )));
        }
    }
    pool.detach(id)
}

/// Refuses a capability that the volume does not have.
pub(super) fn refuse_misfit(volume: &Volume, capability: &Capability) -> Result<()> {
    if capability.asked.fits(volume.access) {
        return Ok(());
    }
    let right = format!("volume {} is {}", volume.id, volume.access);
    Err(Error::invalid("volume_capability", show(capability.asked), right))
}

/// The mount options of a call, each on the allow-list.
pub(super) fn options(volume: &Volume, capability: &Capability) -> Result<Vec<MountOption>> {
    if capability.asked == Asked::Block && !capability.flags.is_empty() {
        return Err(Error::Invalid(
            "volume_capability.mount.mount_flags: a block volume is not mounted".to_owned(),
        ));
    }
    MountOption::parse_all(&capability.flags, fs_name(volume.access))
}

fn attach_for(access: Access) -> Attach {
    match access {
        Access::Mount { .. } => Attach::Filesystem,
        Access::Block => Attach::Block,
    }
}

/// The filesystem of a device, mounted out of sight, after it was found to be the one that was made.
fn checked_filesystem(volume: &Volume, device: &Device, mut options: Vec<MountOption>) -> Result<Tree> {
    let Access::Mount { fs: filesystem } = volume.access else {
        return Err(Error::Corrupt(format!("volume {} has no filesystem", volume.id)));
    };
    let size = volume.size.get();
    let kind = match (filesystem, fs::probe(&device.file)?) {
        (Filesystem::Ext4, Found::Ext4 { uuid, size_bytes, errors, .. }) if is_the_one(volume, &uuid) => {
            if errors {
                fs::check_ext4(&device.path)?;
                step!("stage: ext4 checked");
                tracing::warn!(volume = %volume.id, "checked a filesystem in which the kernel had met errors");
            }
            if !fs::ext4_fills(size_bytes, size) {
                fs::grow_unmounted_ext4(&device.path)?;
                step!("stage: ext4 grown");
            }
            FsKind::Ext4
        }
        (Filesystem::Xfs, Found::Xfs { uuid, .. }) if is_the_one(volume, &uuid) => {
            // A clone has the UUID of its source, and both may be mounted at once.
            options.push(MountOption::no_uuid());
            FsKind::Xfs
        }
        (_, _) if planted!("format-unreadable") => {
            let uuid = volume.fs_uuid.map_or(String::new(), |uuid| uuid.to_string());
            fs::make(FsKind::Ext4, &device.path, &uuid, None)?;
            FsKind::Ext4
        }
        (_, found) => {
            return Err(Error::Corrupt(format!(
                "volume {} should hold {filesystem} with UUID {}, but there is {found:?}; it was not touched",
                volume.id,
                volume.fs_uuid.map_or("none".to_owned(), |uuid| uuid.to_string()),
            )));
        }
    };
    let tree = Tree::filesystem(kind.name(), &device.path, &options)?;
    step!("stage: mounted out of sight");
    let face = Face::Filesystem(device.number);
    if face != Face::Filesystem(tree.root_stat()?.device) {
        return Err(Error::Corrupt(format!("the mount of volume {} shows another device", volume.id)));
    }
    Ok(tree)
}

fn is_the_one(volume: &Volume, uuid: &str) -> bool {
    volume.fs_uuid.is_some_and(|made| made.to_string() == uuid)
}

/// What of a pool's device the publish of a raw volume binds.
pub(super) fn raw_device(pool: &dyn Pool, volume: &Volume, how: Attach) -> Result<Device> {
    match pool.attach(&volume.id, how)? {
        Attached::Device(device) => Ok(device),
        Attached::Directory(_) => Err(Error::Corrupt(format!("volume {} is no device", volume.id))),
    }
}
