//! Where a volume is seen: the mount table asked about one volume.
//!
//! Owns: telling whether a mount shows exactly this volume (by the device behind it, or the directory's inode; never by
//! path or number), and every mount that does. Never: mounts or unmounts; see `stage` and `publish`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::engine::Engine;
use crate::engine::notes::There;
use crate::error::{Error, Result, quoted};
use crate::model::{Access, Filesystem, Volume, VolumeId};
use crate::os::mount::{self, Here, Mount, Mounted, Of, Place, Seat};
use crate::pool::{Attach, Attached, Pool};

/// The file in a raw block volume's staging directory over which its device is bound.
pub(super) const STAGED_DEVICE: &str = "device";

/// What a mount of a volume must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Face {
    /// The filesystem of this device.
    Filesystem(u64),
    /// This directory: device and inode.
    Directory(u64, u64),
    /// The device node with this number.
    Device(u64),
}

impl Face {
    /// What mounts of an attached volume show.
    pub(super) fn of(access: Access, attached: &Attached) -> Result<Face> {
        Ok(match (attached, access) {
            (Attached::Directory(dir), _) => {
                let identity = dir.identity()?;
                Face::Directory(identity.device, identity.inode)
            }
            (Attached::Device(device), Access::Mount { .. }) => Face::Filesystem(device.number),
            (Attached::Device(device), Access::Block) => Face::Device(device.number),
        })
    }

    /// What its mounts show a part of.
    fn seat(self) -> Of {
        match self {
            Face::Directory(device, _) => Of::Filesystem(device),
            // Also what nobody published, such as the node of a device whose filesystem is mounted.
            Face::Filesystem(number) | Face::Device(number) => Of::Loop(number),
        }
    }

    /// Whether a mount shows it.
    pub(super) fn shows(self, mounted: &Mounted) -> bool {
        match self {
            Face::Filesystem(device) => mounted.device == device,
            Face::Directory(device, inode) => (mounted.device, mounted.inode) == (device, inode),
            Face::Device(number) => mounted.rdev == number,
        }
    }
}

impl Engine {
    /// Everything that a mount of this volume may show now; empty while it is not attached.
    pub(super) fn faces(&self, pool: &dyn Pool, volume: &Volume) -> Result<Vec<Face>> {
        let ways: &[Attach] = match volume.access {
            Access::Mount { .. } => &[Attach::Filesystem],
            Access::Block => &[Attach::Block, Attach::BlockReadOnly],
        };
        let mut faces = Vec::new();
        for how in ways {
            if let Some(attached) = pool.attached(&volume.id, *how)? {
                faces.push(Face::of(volume.access, &attached)?);
            }
        }
        Ok(faces)
    }

    /// Every mount that shows this volume, wherever it is.
    pub(super) fn mounts_of(&self, pool: &dyn Pool, volume: &Volume) -> Result<Vec<Seat>> {
        let mut mounts = Vec::new();
        for face in self.faces(pool, volume)? {
            let seats = mount::seats(face.seat())?;
            mounts.extend(seats.into_iter().filter(|seat| could_show(face, seat, &volume.id)));
        }
        Ok(mounts)
    }

    /// Where something is mounted in the directory that a volume is, by whoever uses it. Not by the path of the pool: what is
    /// mounted through any bind of that directory keeps it from being removed.
    pub(super) fn mounted_within(&self, pool: &dyn Pool, volume: &Volume) -> Result<Option<PathBuf>> {
        match volume.access {
            Access::Mount { fs: Filesystem::Shared } => mounted_within_object(pool, &volume.id),
            Access::Mount { fs: Filesystem::Ext4 | Filesystem::Xfs } | Access::Block => Ok(None),
        }
    }

    /// The mounts of this volume that a workload may use: below the kubelet root, and not its staging.
    pub(super) fn published(&self, pool: &dyn Pool, volume: &Volume, staging: &Path) -> Result<Vec<Seat>> {
        let staging = self.as_in_table(staging);
        let mut mounts = self.mounts_of(pool, volume)?;
        mounts.retain(|mount| {
            let point = mount.point.as_path();
            point.starts_with(&self.real_root) && point != staging && point != staging.join(STAGED_DEVICE)
        });
        Ok(mounts)
    }

    /// The same where the pool is not here to be asked: what shows the same as the staging mount does.
    pub(super) fn published_as_staged(&self, id: &VolumeId, staging: &Path) -> Result<Vec<Seat>> {
        let mut published = Vec::new();
        for path in [staging.to_owned(), staging.join(STAGED_DEVICE)] {
            let Ok(place) = self.place("staging_target_path", &path) else { continue };
            let Here::Mounted(staged) = place.look()? else { continue };
            if !self.is_ours(id, &place, &staged)? {
                continue;
            }
            let of = if path == staging { Of::Filesystem(staged.device) } else { Of::Loop(staged.rdev) };
            let (seats, at) = (mount::seats(of)?, self.as_in_table(&path));
            let Some(root) = seats.iter().find(|seat| seat.point == at).map(|seat| seat.root.clone()) else {
                continue;
            };
            let shows = |seat: &Seat| {
                seat.point != at && seat.point.starts_with(&self.real_root) && seat.root.starts_with(&root)
            };
            published.extend(seats.into_iter().filter(shows));
        }
        Ok(published)
    }

    /// A path below the kubelet root as the mount table spells it, where that root is reached through a symlink.
    fn as_in_table(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.kubelet_root)
            .map_or_else(|_| path.to_owned(), |rest| self.real_root.join(rest))
    }

    /// The place that a field of a call names.
    ///
    /// # Errors
    /// `Invalid`, naming the field, for a path that leads astray; `Precondition` where its parent is missing.
    pub(super) fn place(&self, field: &str, path: &Path) -> Result<Place> {
        Place::walk(&self.kubelet_root, path).map_err(|error| {
            if let Error::Invalid(why) = error {
                return Error::Invalid(format!("{field}: {why}"));
            }
            if let Error::Precondition(why) = error {
                return Error::Precondition(format!("{field}: {why}"));
            }
            error
        })
    }

    /// The place of a mount that the table shows below the kubelet root, and the path by which calls name it.
    pub(super) fn place_of(&self, mount: &Seat) -> Result<(Place, PathBuf)> {
        let rest = mount.point.strip_prefix(&self.real_root).unwrap_or(&mount.point);
        Ok((Place::walk(&self.real_root, &mount.point)?, self.kubelet_root.join(rest)))
    }

    /// Whether what is mounted at a place is this volume: the pool says so, or, where it is away, our note.
    ///
    /// # Errors
    /// `Unavailable` where neither can tell: the driver was killed between a mount and its note, and the pool is away since.
    pub(super) fn is_ours(&self, id: &VolumeId, place: &Place, mounted: &Mounted) -> Result<bool> {
        if self.notes.about(place.path(), mounted).is_some_and(|note| note.volume == *id) {
            return Ok(true);
        }
        if self.slot_of(id.pool()).is_none() && self.complete().is_ok() {
            return Ok(false); // Of a pool that nobody has here.
        }
        let pool = self.pool(id.pool())?;
        let Some(volume) = self.store.volume(id) else {
            return Ok(false);
        };
        Ok(self.faces(pool.as_ref(), &volume)?.iter().any(|face| face.shows(mounted)))
    }

    /// Drops the notes about mounts that are not at their paths any more, and keeps one of which nobody can tell.
    pub(super) fn sweep_notes(&self) {
        self.notes.sweep(|path| match self.place("path", path).and_then(|place| place.look()) {
            Ok(Here::Mounted(Mounted { dead: Some(_), .. })) => There::Unknown,
            Ok(Here::Mounted(mounted)) => There::Mounted(mounted),
            Ok(Here::Nothing | Here::Directory { .. } | Here::File { .. } | Here::Other) => There::Nothing,
            // Its parent is gone, and so is it.
            Err(Error::Precondition(_)) => There::Nothing,
            Err(_) => There::Unknown,
        });
    }

    /// A place below the kubelet root where this volume is mounted.
    ///
    /// # Errors
    /// `NotFound` for any other path, also for one that is malformed: there is no such volume there.
    pub(super) fn mounted_at(&self, volume: &Volume, path: &Path) -> Result<(Place, Mounted)> {
        let absent = || {
            let path = quoted(&path.to_string_lossy());
            Error::NotFound(format!(
                "volume_path {path}: volume {} is neither staged nor published there; want its staging or target path",
                volume.id
            ))
        };
        let place = Place::walk(&self.kubelet_root, path).map_err(|_| absent())?;
        let (place, mounted) = match (place.look()?, volume.access) {
            (Here::Mounted(mounted), _) => (place, mounted),
            (Here::Directory { .. }, Access::Block) => {
                let place =
                    Place::walk(&self.kubelet_root, &path.join(STAGED_DEVICE)).map_err(|_| absent())?;
                match place.look()? {
                    Here::Mounted(mounted) => (place, mounted),
                    Here::Nothing | Here::Directory { .. } | Here::File { .. } | Here::Other => {
                        return Err(absent());
                    }
                }
            }
            (Here::Nothing | Here::Directory { .. } | Here::File { .. } | Here::Other, _) => {
                return Err(absent());
            }
        };
        if self.is_ours(&volume.id, &place, &mounted)? { Ok((place, mounted)) } else { Err(absent()) }
    }
}

/// The same of what lies under a volume's id in its pool, be it that no record says what it is.
pub(super) fn mounted_within_object(pool: &dyn Pool, id: &VolumeId) -> Result<Option<PathBuf>> {
    let Some(home) = pool.home() else { return Ok(None) };
    let device = home.identity()?.device;
    let table = mount::table()?;
    let of_pool: HashMap<u64, &Mount> =
        table.iter().filter(|mount| mount.device == device).map(|mount| (mount.id, mount)).collect();
    let within = table.iter().find(|mount| {
        let Some(below) = of_pool.get(&mount.parent) else { return false };
        let rest = mount.point.strip_prefix(&below.point);
        rest.is_ok_and(|rest| volume_in(&below.root.join(rest)) == Some(*id))
    });
    Ok(within.map(|mount| mount.point.clone()))
}

/// Whether a mount of the right filesystem, or of the right node, may show it. The table shows no inodes, so a directory is
/// told by its name, which is the volume's random id. It may be shown in part: kubelet binds a directory within it for a
/// `subPath`. A name that a tenant chose comes after it.
fn could_show(face: Face, seat: &Seat, id: &VolumeId) -> bool {
    match face {
        Face::Filesystem(_) | Face::Device(_) => true,
        Face::Directory(..) => volume_in(&seat.root) == Some(*id),
    }
}

/// The volume of which a mount of its pool's filesystem shows a part, by the root of that mount.
pub(super) fn volume_in(root: &Path) -> Option<VolumeId> {
    root.iter().find_map(|part| part.to_str()?.parse().ok())
}

/// The filesystem's name for the mount option allow-list.
pub(super) fn fs_name(access: Access) -> &'static str {
    match access {
        Access::Mount { fs: fs @ (Filesystem::Ext4 | Filesystem::Xfs) } => fs.name(),
        Access::Mount { fs: Filesystem::Shared } | Access::Block => "",
    }
}
