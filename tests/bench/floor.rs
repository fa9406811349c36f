//! The floor: what a life costs at least.
//!
//! Owns: the same system calls and programs as the driver's, in the same filesystem, with the same durable records, written
//! down one after the other. It has no wire, no claims, no checks, no index, and repairs nothing.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rockpool::os::file::{self, Access, Dir, program_path, random_hex};
use rockpool::os::fs::{self, FsKind};
use rockpool::os::loopdev::{self, Discard, Lifetime, Loop};
use rockpool::os::mount::{Devices, MountOption, Place, Restrict, Tree};

use crate::Outcome;
use crate::client::{Shape, Spot};
use crate::lives::SIZE;
use crate::scene::Site;

/// As long as the driver's record of a volume.
const RECORD: [u8; 640] = [b'r'; 640];
/// As long as its note about a mount.
const NOTE: [u8; 330] = [b'n'; 330];

/// The directories in which it works.
pub(crate) struct Floor {
    shape: Shape,
    kubelet: PathBuf,
    volumes: Dir,
    tmp: Dir,
    records: Dir,
    notes: Dir,
}

impl Floor {
    /// In the pool of a site.
    pub(crate) fn new(site: &Site, shape: Shape) -> Outcome<Floor> {
        let root = Dir::open(&site.pool(shape)?)?.ensure("floor", 0o700)?;
        Ok(Floor {
            shape,
            kubelet: site.kubelet(),
            volumes: root.ensure("volumes", 0o700)?,
            tmp: root.ensure("tmp", 0o700)?,
            records: root.ensure("records", 0o700)?,
            notes: Dir::make_path(&site.state("floor-notes"), 0o700)?,
        })
    }

    /// Lives a second of one round, a thread for each spot.
    pub(crate) fn round(&self, time: Duration, spots: &[Spot]) -> Outcome<f64> {
        let began = Instant::now();
        let ends = began + time;
        let lives = std::thread::scope(|scope| {
            let worker = |spot| {
                move || {
                    let mut lives = 0_u32;
                    while Instant::now() < ends {
                        self.live(spot)?;
                        lives += 1;
                    }
                    Outcome::Ok(lives)
                }
            };
            let all: Vec<_> = spots.iter().map(|spot| scope.spawn(worker(spot))).collect();
            let mut sum = 0;
            for one in all {
                sum += one.join().map_err(|_| "a thread of the floor panicked")??;
            }
            Outcome::Ok(sum)
        })?;
        Ok(f64::from(lives) / began.elapsed().as_secs_f64())
    }

    fn live(&self, spot: &Spot) -> Outcome<()> {
        let name = random_hex::<32>()?;
        self.create(&name)?;
        let device = self.stage(&name, spot)?;
        self.publish(spot)?;
        self.unpublish(spot)?;
        self.unstage(spot, device)?;
        self.delete(&name)
    }

    fn create(&self, name: &str) -> Outcome<()> {
        self.records.replace(name, &RECORD)?;
        if self.shape == Shape::Directory {
            self.tmp.make_dir(name, 0o755)?.sync()?;
        } else {
            let image = self.tmp.create(name)?;
            file::set_len(&image, SIZE.unsigned_abs())?;
            let kind = match self.shape {
                Shape::Ext4 => Some(FsKind::Ext4),
                Shape::Xfs => Some(FsKind::Xfs),
                Shape::Block | Shape::Directory => None,
            };
            if let Some(kind) = kind {
                let hex = random_hex::<12>()?;
                let uuid = format!("00000000-0000-4000-8000-{hex}");
                fs::make(kind, &program_path(&image), &uuid, None)?;
            }
            file::sync(&image)?;
        }
        self.tmp.rename_into(name, &self.volumes, name)?;
        self.records.replace(name, &RECORD)?;
        Ok(())
    }

    fn stage(&self, name: &str, spot: &Spot) -> Outcome<Option<(Loop, file::Stat)>> {
        let mut device = None;
        let tree = if self.shape == Shape::Directory {
            let tree = Tree::clone_of(&self.volumes.sub(name)?)?;
            tree.restrict(&Restrict::default())?;
            tree.attach(&Place::walk(&self.kubelet, &spot.staging)?)?;
            None
        } else {
            let lifetime = if self.shape == Shape::Block { Lifetime::Held } else { Lifetime::Autoclear };
            let image = self.volumes.open_file(name, Access::ReadWrite)?.ok_or("the image vanished")?;
            let want = loopdev::Attach { access: Access::ReadWrite, lifetime, discard: Discard::Allow };
            let attached = loopdev::attach(&image, want)?;
            device = Some((attached.device, file::stat(&image)?));
            let path = attached.device.path();
            let tree = match self.shape {
                Shape::Xfs => Tree::filesystem("xfs", &path, &[MountOption::no_uuid()])?,
                Shape::Ext4 => Tree::filesystem("ext4", &path, &[])?,
                Shape::Block | Shape::Directory => {
                    let tree = Tree::clone_of_path(&path)?;
                    tree.restrict(&Restrict { devices: Devices::Allowed, ..Restrict::default() })?;
                    tree
                }
            };
            Some(tree)
        };
        if let Some(tree) = tree {
            let place = self.staged(spot)?;
            if self.shape == Shape::Block {
                place.make_file(0o600)?;
            }
            tree.attach(&place)?;
        }
        self.note(&spot.staging)?;
        Ok(device)
    }

    fn staged(&self, spot: &Spot) -> Outcome<Place> {
        let path = match self.shape {
            Shape::Block => spot.staging.join("device"),
            Shape::Directory | Shape::Ext4 | Shape::Xfs => spot.staging.clone(),
        };
        Ok(Place::walk(&self.kubelet, &path)?)
    }

    fn publish(&self, spot: &Spot) -> Outcome<()> {
        let place = Place::walk(&self.kubelet, &spot.target)?;
        let tree = Tree::clone_of(self.staged(spot)?.handle()?)?;
        if self.shape == Shape::Block {
            tree.restrict(&Restrict { devices: Devices::Allowed, ..Restrict::default() })?;
            place.make_file(0o600)?;
        } else {
            tree.restrict(&Restrict::default())?;
            place.make_directory(0o750)?;
        }
        tree.attach(&place)?;
        self.note(&spot.target)
    }

    fn unpublish(&self, spot: &Spot) -> Outcome<()> {
        let place = Place::walk(&self.kubelet, &spot.target)?;
        place.unmount_all()?;
        self.forget(&spot.target)?;
        Ok(place.remove()?)
    }

    fn unstage(&self, spot: &Spot, device: Option<(Loop, file::Stat)>) -> Outcome<()> {
        let place = self.staged(spot)?;
        place.unmount_all()?;
        self.forget(&spot.staging)?;
        if let (Shape::Block, Some((device, image))) = (self.shape, device) {
            place.remove()?;
            device.detach(image.device, image.inode)?;
        }
        Ok(())
    }

    fn delete(&self, name: &str) -> Outcome<()> {
        self.records.replace(name, &RECORD)?;
        if self.shape == Shape::Directory {
            self.volumes.rename_into(name, &self.tmp, name)?;
            self.tmp.remove_dir(name)?;
        } else {
            self.volumes.remove(name)?;
        }
        self.records.remove(name)?;
        Ok(())
    }

    fn note(&self, at: &std::path::Path) -> Outcome<()> {
        Ok(self.notes.replace_unsynced(note_name(at), &NOTE)?)
    }

    fn forget(&self, at: &std::path::Path) -> Outcome<()> {
        self.notes.remove_unsynced(note_name(at))?;
        Ok(())
    }
}

fn note_name(at: &std::path::Path) -> String {
    at.to_string_lossy().replace('/', "_").chars().rev().take(200).collect()
}
