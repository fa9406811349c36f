//! The loop devices on the images of one pool.
//!
//! Owns: which device shows which volume, remembered and checked against the kernel whenever it is used. Never: makes a
//! second writable device on one file, or freezes anything but a filesystem that lies on one of these devices.
//!
//! The pool is locked, so nobody else attaches its images: after the one scan at open, what is not remembered is not
//! attached. What is remembered may have gone since, an autoclear device with its last mount.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::model::VolumeId;
use crate::os::file::{self, Access, Dir, Stat};
use crate::os::fs::Frozen;
use crate::os::loopdev::{self, Caching, Discard, Lifetime, Loop};
use crate::os::mount::{self, Here, Mount, Mounted, Of, Place};
use crate::os::{fs, label};
use crate::pool::{Attach, Device, Thaw, Thawed};

/// A program that any thread of ours is just starting holds copies of all our descriptors until it executes: a device that
/// stays longer than this is held by somebody.
const PATIENCE: Duration = Duration::from_millis(200);
const PAUSE: Duration = Duration::from_millis(2);

/// Device and inode of an image: what tells its loop devices from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Image {
    device: u64,
    inode: u64,
}

/// The devices on one image.
#[derive(Clone, Copy, Debug)]
struct Known {
    image: Image,
    writable: Option<(Loop, Lifetime)>,
    read_only: Option<Loop>,
}

/// The devices of a pool.
#[derive(Debug)]
pub(super) struct Devices {
    /// A std mutex, never held across a system call.
    known: Mutex<HashMap<VolumeId, Known>>,
}

impl Devices {
    /// Finds what is attached already, by one look at all devices of the host.
    pub(super) fn find(volumes: &Dir) -> Result<Devices> {
        let here = volumes.identity()?.device;
        let mut attached: HashMap<Image, Vec<loopdev::Found>> = HashMap::new();
        for (backing, found) in loopdev::all()? {
            let image = Image { device: backing.device, inode: backing.inode };
            if image.device == here && found.offset == 0 {
                attached.entry(image).or_default().push(found);
            }
        }
        let mut known = HashMap::new();
        // Most starts find nothing: then the images need not be looked at, either.
        let names = if attached.is_empty() { Vec::new() } else { volumes.names()? };
        for name in names {
            let (Ok(id), Some(stat)) = (name.to_string_lossy().parse(), volumes.stat(&name)?) else {
                continue;
            };
            if planted!("loop-by-path") && !is_shown_by_path(&volumes.path().join(&name)) {
                continue;
            }
            if let Some(found) = attached.get(&Image::from(&stat)) {
                known.insert(id, Known::from_found(Image::from(&stat), found));
            }
        }
        Ok(Devices { known: Mutex::new(known) })
    }

    /// The device that `how` asks for: the one that there is, or a new one.
    pub(super) fn attach(&self, id: &VolumeId, image: &File, how: Attach) -> Result<Device> {
        let stat = file::stat(image)?;
        let mut known = self.living(id, &stat)?;
        let there = known.for_use(how);
        if let Some(device) = there {
            if how == Attach::Block && known.writable == Some((device, Lifetime::Autoclear)) {
                device.set_lifetime(Lifetime::Held)?;
                known.writable = Some((device, Lifetime::Held));
            }
            if let Some(held) = hold(device, known.image)? {
                fit(device, &stat)?;
                self.lock().insert(*id, known);
                return Ok(shown(device, held));
            }
        }
        let (device, held) = new_device(id, image, how)?;
        match how {
            Attach::Filesystem => known.writable = Some((device, Lifetime::Autoclear)),
            Attach::Block => known.writable = Some((device, Lifetime::Held)),
            Attach::BlockReadOnly => known.read_only = Some(device),
        }
        self.lock().insert(*id, known);
        Ok(shown(device, held))
    }

    /// What `attach` would find.
    pub(super) fn attached(&self, id: &VolumeId, volumes: &Dir, how: Attach) -> Result<Option<Device>> {
        let Some(known) = self.look_up(id, volumes)? else {
            return Ok(None);
        };
        let Some(device) = known.for_use(how) else {
            return Ok(None);
        };
        if how == Attach::Block && known.writable == Some((device, Lifetime::Autoclear)) {
            return Ok(None);
        }
        Ok(hold(device, known.image)?.map(|held| shown(device, held)))
    }

    /// Makes attached devices as long as the image.
    pub(super) fn resize(&self, id: &VolumeId, image: &File) -> Result<()> {
        let stat = file::stat(image)?;
        let known = self.living(id, &stat)?;
        known.all().try_for_each(|device| fit(device, &stat))
    }

    /// Detaches every device of the volume. One that somebody still holds open, or has mounted where we cannot see it, goes
    /// when they are done; until then it is remembered, since a second device beside it would destroy what they see.
    pub(super) fn release(&self, id: &VolumeId) -> Result<()> {
        // The image may be gone, so what was remembered has to do; it is checked before each detach.
        let known = self.lock().get(id).copied();
        let Some(known) = known.filter(|_| !planted!("device-kept")) else {
            return Ok(());
        };
        let Image { device, inode } = known.image;
        known.all().try_for_each(|of| of.detach(device, inode))?;
        let stays = |of: Loop| Ok(lingers(of, known.image)?.then_some(of));
        let left = Known {
            writable: known
                .writable
                .map_or(Ok(None), |(of, _)| stays(of))?
                .map(|of| (of, Lifetime::Autoclear)),
            read_only: known.read_only.map_or(Ok(None), stays)?,
            ..known
        };
        if left.all().next().is_some() {
            self.lock().insert(*id, left);
        } else {
            self.lock().remove(id);
        }
        Ok(())
    }

    /// Every volume with a device that does not go by itself.
    pub(super) fn held(&self) -> Vec<VolumeId> {
        let stays =
            |known: &Known| known.read_only.is_some() || matches!(known.writable, Some((_, Lifetime::Held)));
        self.lock().iter().filter(|(_, known)| stays(known)).map(|(id, _)| *id).collect()
    }

    /// Writes to the image what a mounted filesystem or a device holds in memory.
    pub(super) fn flush(&self, id: &VolumeId, volumes: &Dir) -> Result<()> {
        let Some((device, image)) = self.writable(id, volumes)?.filter(|_| !planted!("cut-without-flush"))
        else {
            return Ok(());
        };
        if let Some(root) = mounted_root(device)? {
            return fs::sync(&root);
        }
        match hold(device, image)? {
            Some(held) => file::sync(&held),
            None => Ok(()),
        }
    }

    /// Freezes every mounted one of `ids`.
    pub(super) fn freeze(&self, ids: &[VolumeId], volumes: &Dir) -> Result<Thaw> {
        let mut mounted: Vec<fs::Member> = Vec::new();
        for id in ids {
            let known = self.look_up(id, volumes)?;
            let Some((device, lifetime)) = known.and_then(|known| known.writable) else { continue };
            if lifetime == Lifetime::Held {
                return Err(Error::Precondition(format!(
                    "volume {id} is a raw block device in use, which cannot be frozen"
                )));
            }
            if let Some(root) = mounted_root(device)? {
                // What is written out now is not written out while every writer waits.
                fs::sync(&root)?;
                mounted.push((format!("volume {id}"), root));
            }
        }
        let mut thaw = Thaw::none();
        if mounted.is_empty() {
            return Ok(thaw);
        }
        let mut frozen = match Frozen::begin(mounted) {
            // Not ABORTED: a backup hook may keep it frozen for as long as it likes.
            Err(Error::Busy(why)) => return Err(Error::Precondition(format!("failed to freeze: {why}"))),
            outcome => outcome?,
        };
        thaw.push(Box::new(move || {
            Ok(match frozen.thaw()? {
                fs::Thawed::Now => Thawed::Now,
                fs::Thawed::WasNot => Thawed::Before,
            })
        }));
        Ok(thaw)
    }

    /// Thaws every mounted one of `ids` that is frozen; one that resists keeps no other from it.
    pub(super) fn unfreeze(&self, ids: &[VolumeId], volumes: &Dir) -> Result<()> {
        let thaw = |id| {
            let Some((device, _)) = self.writable(id, volumes)? else { return Ok(()) };
            let Some(root) = mounted_root(device)? else { return Ok(()) };
            if fs::thaw(&root)? == fs::Thawed::Now {
                tracing::warn!(volume = %id, "thawed a filesystem that a killed group snapshot or growth left frozen");
            }
            Ok(())
        };
        let outcomes: Vec<Result<()>> = ids.iter().map(thaw).collect();
        outcomes.into_iter().collect()
    }

    /// The writable device of a volume, if it is attached now.
    pub(super) fn writable_of(&self, id: &VolumeId, volumes: &Dir) -> Result<Option<Loop>> {
        Ok(self.writable(id, volumes)?.map(|(device, _)| device))
    }

    /// Every volume whose filesystem is mounted, with one of its mounts.
    pub(super) fn mounted(&self) -> Result<Vec<(VolumeId, Mount)>> {
        let mut mounts: HashMap<u64, Mount> = HashMap::new();
        for mount in mount::table()? {
            mounts.entry(mount.device).or_insert(mount);
        }
        let known: Vec<_> = self.lock().iter().map(|(id, known)| (*id, *known)).collect();
        let mut mounted = Vec::new();
        for (id, known) in known {
            let Some((device, _)) = known.writable else { continue };
            if let Some(mount) = mounts.get(&device.device)
                && device.backs(known.image.device, known.image.inode)?
            {
                mounted.push((id, mount.clone()));
            }
        }
        Ok(mounted)
    }

    fn writable(&self, id: &VolumeId, volumes: &Dir) -> Result<Option<(Loop, Image)>> {
        let known = self.look_up(id, volumes)?;
        Ok(known.and_then(|known| known.writable.map(|(device, _)| (device, known.image))))
    }

    fn look_up(&self, id: &VolumeId, volumes: &Dir) -> Result<Option<Known>> {
        if !self.lock().contains_key(id) {
            return Ok(None);
        }
        let stat = volumes.stat(id.to_string())?;
        stat.map(|stat| self.living(id, &stat)).transpose()
    }

    /// What is attached now: what was remembered, less what the kernel denies.
    fn living(&self, id: &VolumeId, image: &Stat) -> Result<Known> {
        let now = Image::from(image);
        let known = self.lock().get(id).copied();
        let mut known = known.unwrap_or(Known { image: now, writable: None, read_only: None });
        let Image { device, inode } = known.image;
        if let Some((writable, _)) = known.writable
            && !writable.backs(device, inode)?
        {
            known.writable = None;
        }
        if let Some(read_only) = known.read_only
            && !read_only.backs(device, inode)?
        {
            known.read_only = None;
        }
        if known.image != now {
            if known.all().next().is_some() {
                return Err(Error::Corrupt(format!(
                    "the image of volume {id} was replaced by another file while it was attached"
                )));
            }
            known.image = now;
        }
        Ok(known)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<VolumeId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a device says that it shows this path: what a planted bug goes by.
fn is_shown_by_path(path: &std::path::Path) -> bool {
    let said = |device: &Loop| {
        let file = format!("/sys/block/loop{}/loop/backing_file", device.number);
        std::fs::read_to_string(file).is_ok_and(|said| path == said.trim())
    };
    (0..256).map(Loop::new).any(|device| said(&device))
}

impl Known {
    fn from_found(image: Image, found: &[loopdev::Found]) -> Known {
        let with = |access| found.iter().find(move |found| found.access == access);
        Known {
            image,
            writable: with(Access::ReadWrite).map(|found| (found.device, found.lifetime)),
            read_only: with(Access::ReadOnly).map(|found| found.device),
        }
    }

    fn for_use(&self, how: Attach) -> Option<Loop> {
        match how {
            Attach::Filesystem | Attach::Block => self.writable.map(|(device, _)| device),
            Attach::BlockReadOnly => self.read_only,
        }
    }

    fn all(&self) -> impl Iterator<Item = Loop> + use<> {
        self.writable.map(|(device, _)| device).into_iter().chain(self.read_only)
    }
}

impl From<&Stat> for Image {
    fn from(stat: &Stat) -> Image {
        Image { device: stat.device, inode: stat.inode }
    }
}

/// Opens a device and makes sure that it shows the image as long as it is open; `None` if it does not any more.
fn hold(device: Loop, image: Image) -> Result<Option<File>> {
    let held = device.open(Access::ReadOnly)?;
    Ok(device.backs(image.device, image.inode)?.then_some(held))
}

/// Whether a device still shows the image some time after it was told to go.
fn lingers(device: Loop, image: Image) -> Result<bool> {
    let started = Instant::now();
    while device.backs(image.device, image.inode)? {
        if started.elapsed() >= PATIENCE {
            return Ok(true);
        }
        std::thread::sleep(PAUSE);
    }
    Ok(false)
}

/// A device does not see by itself that its file became longer.
fn fit(device: Loop, image: &Stat) -> Result<()> {
    if device.size()? == image.size { Ok(()) } else { device.resize() }
}

fn new_device(id: &VolumeId, image: &File, how: Attach) -> Result<(Loop, File)> {
    let (access, lifetime) = match how {
        Attach::Filesystem if planted!("no-autoclear") => (Access::ReadWrite, Lifetime::Held),
        Attach::Filesystem => (Access::ReadWrite, Lifetime::Autoclear),
        Attach::Block => (Access::ReadWrite, Lifetime::Held),
        Attach::BlockReadOnly => (Access::ReadOnly, Lifetime::Held),
    };
    let discard = if label::has(image, super::RESERVED)? { Discard::Forbid } else { Discard::Allow };
    let new = loopdev::attach(image, loopdev::Attach { access, lifetime, discard })?;
    if new.caching == Caching::Buffered {
        tracing::warn!(volume = %id, "the filesystem of the pool has no direct I/O: its volumes are cached twice");
    }
    // Held read-only: some kernels refuse to mount what a process has open for writing.
    let held = new.device.open(Access::ReadOnly)?;
    Ok((new.device, held))
}

fn shown(device: Loop, held: File) -> Device {
    Device { path: device.path(), number: device.device, file: held }
}

/// The root of what is mounted from a device, held; `None` if nothing is.
///
/// # Errors
/// `Precondition` where the filesystem gave up after an error: until its volume is staged anew, it can be neither flushed nor frozen.
fn mounted_root(device: Loop) -> Result<Option<OwnedFd>> {
    let mounts = mount::seats(Of::Filesystem(device.device))?;
    let mut unread = None;
    for mount in &mounts {
        let Ok(place) = Place::trusted(&mount.point) else { continue };
        let root = place.open_directory().and_then(|root| Ok((file::stat(&root)?.device, root)));
        match root {
            Ok((shown, root)) if shown == device.device => return Ok(Some(root)),
            // Something else is mounted over it: its path shows another filesystem.
            Ok(_) => {}
            Err(error) => match place.look() {
                Ok(Here::Mounted(Mounted { dead: Some(why), device: shown, .. }))
                    if shown == device.device =>
                {
                    return Err(Error::Precondition(format!(
                        "the filesystem mounted at `{}` is broken ({why}); unpublish and unstage its volume first",
                        mount.point.display()
                    )));
                }
                // Something else that is broken is mounted over it.
                Ok(Here::Mounted(Mounted { dead: Some(_), .. })) => {}
                Ok(_) | Err(_) => unread = Some(error),
            },
        }
    }
    match (mounts.first(), unread) {
        (None, _) => Ok(None),
        (Some(_), Some(error)) => Err(error),
        (Some(hidden), None) => Err(Error::Unavailable(format!(
            "the filesystem mounted at `{}` cannot be reached: something is mounted over it",
            hidden.point.display()
        ))),
    }
}
