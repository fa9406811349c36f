//! Pools to test on, and the hands of a workload: how bytes get into a volume and out of it.
//!
//! Owns: everything that a test leaves on the machine, which goes when a [`Ground`] is dropped, also after a failure:
//! mounts first, then loop devices (they let go by themselves), then files. Never: looks at how a pool does its work.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rockpool::model::{
    Access, Allocation, Bytes, Filesystem, FsUuid, Phase, Snapshot, SnapshotId, Source, Time, Volume,
    VolumeId,
};
use rockpool::pool::directory::DirectoryPool;
use rockpool::pool::image::ImagePool;
use rockpool::pool::prepare::{Place as Lies, Request, prepare};
use rockpool::pool::sim::SimPool;
use rockpool::pool::{Attach, Attached, Device, Kind, Pool, Quota, Setup};
use tempfile::TempDir;

/// A slot of a volume, which the tests fill with one byte.
const SLOT: usize = 64 * 1024;

/// How a test reaches the bytes of a volume.
enum Hands {
    /// By the hooks of the simulator.
    Sim(Arc<SimPool>),
    /// By its device, and the filesystem on it where there is one.
    Device,
    /// As a directory.
    Directory,
}

/// One pool, and the sort of volumes that a test makes in it.
pub(crate) struct Ground {
    pub(crate) pool: Arc<dyn Pool>,
    pub(crate) access: Access,
    hands: Hands,
    place: Option<Place>,
}

/// Where a pool lies: a filesystem of its own, mounted below a directory of its own.
struct Place {
    id: String,
    root: PathBuf,
    temp: TempDir,
}

impl Place {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        Place { id: "none yet".to_owned(), root: temp.path().join("pool"), temp }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // After a failure a raw block device may still be attached, which does not let go by itself.
        for device in backed_by(format!("/v1.{}.", self.id)) {
            let _ = Command::new("losetup").arg("-d").arg(device).output();
        }
        unmount_below(self.temp.path());
        // Whatever the test mounted or detached lazily lets go a moment later.
        let disk = self.temp.path().join("disk");
        eventually("the pool's loop device goes", || backed_by(disk.to_string_lossy()).is_empty());
    }
}

/// A volume's filesystem, mounted as a workload sees it, until this is dropped.
pub(crate) struct Mounted {
    temp: TempDir,
}

impl Mounted {
    pub(crate) fn path(&self) -> &Path {
        self.temp.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // After a failure it may still be frozen, and no unmount would ever return. Else this fails, and does nothing.
        let _ = Command::new("fsfreeze").arg("-u").arg(self.path()).output();
        unmount_below(self.temp.path());
    }
}

/// Says why the running test is skipped. Past the test harness, which hides what a passing test says.
fn skipped(below: &str, why: &str) {
    let thread = std::thread::current();
    let line = format!("\nSKIP rust::{below}contract::{}: {why}\n", thread.name().unwrap_or_default());
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

fn root_or_skip() -> Option<()> {
    if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
        return Some(());
    }
    skipped("", "mounts and loop devices need root");
    None
}

pub(crate) fn sim() -> Option<Ground> {
    let sim = Arc::new(SimPool::new(Bytes::GIB.times(4)).unwrap());
    Some(Ground { pool: sim.clone(), access: Access::Block, hands: Hands::Sim(sim), place: None })
}

pub(crate) fn image_ext4() -> Option<Ground> {
    image(Access::Mount { fs: Filesystem::Ext4 })
}

pub(crate) fn image_xfs() -> Option<Ground> {
    image(Access::Mount { fs: Filesystem::Xfs })
}

pub(crate) fn image_block() -> Option<Ground> {
    image(Access::Block)
}

/// An image pool in a file of its own, as `pool init` makes it.
fn image(access: Access) -> Option<Ground> {
    root_or_skip()?;
    let place = Place::new();
    let file = Lies::File { path: place.temp.path().join("disk"), size: Bytes::GIB.times(4), sparse: true };
    let (setup, place) = prepared(place, Kind::Image, file, Quota::None);
    let pool = Arc::new(ImagePool::open(&setup).unwrap());
    Some(Ground { pool, access, hands: Hands::Device, place: Some(place) })
}

pub(crate) fn image_without_reflink() -> Option<Ground> {
    root_or_skip()?;
    let place = Place::new();
    let (disk, root) = (place.temp.path().join("disk"), place.root.clone());
    File::create(&disk).unwrap().set_len(Bytes::GIB.times(4).get()).unwrap();
    fs::create_dir(&root).unwrap();
    let mkfs = ["mkfs.ext4", "-q", "-E", "lazy_itable_init=1,assume_storage_prezeroed=1"];
    run(mkfs.map(Path::new).into_iter().chain([disk.as_path()]));
    run(["mount", "-o", "loop"].map(Path::new).into_iter().chain([disk.as_path(), &root]));
    let (setup, place) = prepared(place, Kind::Image, Lies::Directory(root), Quota::None);
    let pool = Arc::new(ImagePool::open(&setup).unwrap());
    let access = Access::Mount { fs: Filesystem::Ext4 };
    Some(Ground { pool, access, hands: Hands::Device, place: Some(place) })
}

pub(crate) fn directory_without_quota() -> Option<Ground> {
    root_or_skip()?;
    let place = Place::new();
    let root = place.root.clone();
    fs::create_dir(&root).unwrap();
    // Few inodes, so that the pool can become full.
    let mount = ["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=96", "rockpool-test"];
    run(mount.map(Path::new).into_iter().chain([root.as_path()]));
    let (setup, place) = prepared(place, Kind::Directory, Lies::Directory(root), Quota::None);
    let pool = Arc::new(DirectoryPool::open(&setup).unwrap());
    let access = Access::Mount { fs: Filesystem::Shared };
    Some(Ground { pool, access, hands: Hands::Directory, place: Some(place) })
}

/// On xfs with project quota, which the kernel of the guest has.
pub(crate) fn directory_with_quota() -> Option<Ground> {
    root_or_skip()?;
    if std::env::var_os("GUEST_TEST").is_none() {
        skipped("guest::", "needs a kernel with project quota: make test-guest");
        return None;
    }
    let place = Place::new();
    let file = Lies::File { path: place.temp.path().join("disk"), size: Bytes::GIB, sparse: true };
    let (setup, place) = prepared(place, Kind::Directory, file, Quota::Project);
    let pool = Arc::new(DirectoryPool::open(&setup).unwrap());
    let access = Access::Mount { fs: Filesystem::Shared };
    Some(Ground { pool, access, hands: Hands::Directory, place: Some(place) })
}

/// Makes a pool below a directory that is the test's own.
fn prepared(mut place: Place, kind: Kind, lies: Lies, quota: Quota) -> (Setup, Place) {
    let name = format!("tested-{}", kind.name());
    let mount_parent = place.temp.path().join("mounts");
    let request = Request { name, kind, place: lies, quota, mount_parent };
    let setup = prepare(&request).unwrap();
    place.root.clone_from(&setup.path);
    let marker: serde_json::Value =
        serde_json::from_slice(&fs::read(setup.path.join("pool.json")).unwrap()).unwrap();
    place.id = marker["id"].as_str().unwrap().to_owned();
    (setup, place)
}

impl Ground {
    /// The record of a volume that is not made yet: blank, sparse, and as small as its filesystem allows.
    pub(crate) fn volume(&self) -> Volume {
        let fs_uuid = match self.access {
            Access::Mount { fs: Filesystem::Ext4 | Filesystem::Xfs } => {
                Some(FsUuid::new(u128::from(unique()).to_be_bytes()))
            }
            Access::Mount { fs: Filesystem::Shared } | Access::Block => None,
        };
        Volume {
            id: VolumeId::new(self.pool.id(), unique().to_be_bytes()),
            name: "a volume".to_owned(),
            phase: Phase::Creating,
            size: self.pool.features().smallest(self.access),
            asked: None,
            access: self.access,
            fs_uuid,
            sector_size: 4096,
            allocation: Allocation::Sparse,
            source: Source::Blank,
            parameters: Default::default(),
            claim: None,
            created: Time::now(),
        }
    }

    /// The record of a clone or restore, of the same sort and size.
    pub(crate) fn copy_of(&self, source: Source, like: &Volume) -> Volume {
        Volume { fs_uuid: like.fs_uuid, size: like.size, source, ..self.volume() }
    }

    pub(crate) fn made(&self) -> Volume {
        let volume = self.volume();
        self.pool.create(&volume).unwrap();
        volume
    }

    pub(crate) fn snapshot_id(&self) -> SnapshotId {
        SnapshotId::new(self.pool.id(), unique().to_be_bytes())
    }

    /// Whether this ground has snapshots and clones. Where not, it has just shown that it says so.
    pub(crate) fn snapshots(&self) -> bool {
        self.pool.features().snapshots.is_yes()
    }

    /// The directory of the pool, where it has one.
    pub(crate) fn root(&self) -> Option<&Path> {
        self.place.as_ref().map(|place| place.root.as_path())
    }

    pub(crate) fn has_devices(&self) -> bool {
        matches!(self.hands, Hands::Device)
    }

    pub(crate) fn sim(&self) -> Option<&Arc<SimPool>> {
        match &self.hands {
            Hands::Sim(sim) => Some(sim),
            Hands::Device | Hands::Directory => None,
        }
    }

    /// The way in which a workload gets this volume.
    pub(crate) fn how(&self) -> Attach {
        match self.access {
            Access::Block => Attach::Block,
            Access::Mount { .. } => Attach::Filesystem,
        }
    }

    pub(crate) fn device(&self, id: &VolumeId, how: Attach) -> Device {
        match self.pool.attach(id, how).unwrap() {
            Attached::Device(device) => device,
            Attached::Directory(_) => panic!("a directory, where a device was expected"),
        }
    }

    /// Mounts a volume of this ground as a workload sees it.
    pub(crate) fn mounted(&self, id: &VolumeId) -> Mounted {
        let device = self.device(id, Attach::Filesystem);
        let mounted = Mounted { temp: tempfile::tempdir().unwrap() };
        let options: &[&str] = match self.access {
            Access::Mount { fs: Filesystem::Xfs } => &["mount", "-t", "xfs", "-o", "nouuid"],
            Access::Mount { .. } | Access::Block => &["mount", "-t", "ext4"],
        };
        let words = options.iter().map(PathBuf::from);
        run(words.chain([device.path.clone(), mounted.path().to_owned()]));
        mounted
    }

    /// Fills a slot of the volume with one byte, durably, as a workload would.
    pub(crate) fn put(&self, id: &VolumeId, slot: u64, byte: u8) {
        let bytes = vec![byte; SLOT];
        match &self.hands {
            Hands::Sim(sim) => sim.write(id, slot * SLOT as u64, &bytes).unwrap(),
            Hands::Device | Hands::Directory => self.with_file(id, slot, |file| {
                file.write_all(&bytes).unwrap();
                file.sync_all().unwrap();
            }),
        }
    }

    /// The byte that fills a slot; zero where nothing was put.
    pub(crate) fn look(&self, id: &VolumeId, slot: u64) -> u8 {
        let mut bytes = vec![0; SLOT];
        if let Hands::Sim(sim) = &self.hands {
            bytes = sim.read(id, slot * SLOT as u64, SLOT).unwrap();
        } else {
            self.with_file(id, slot, |file| {
                let mut filled = 0;
                while filled < SLOT {
                    match file.read(&mut bytes[filled..]).unwrap() {
                        0 => break,
                        more => filled += more,
                    }
                }
                assert!(filled == 0 || filled == SLOT, "a slot of {filled} bytes");
            });
        }
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "slot {slot} is a mixture");
        bytes[0]
    }

    /// Opens what holds a slot and calls `act` on it; a device is let go afterwards unless it was attached before.
    pub(crate) fn with_file(&self, id: &VolumeId, slot: u64, act: impl FnOnce(&mut File)) {
        let open =
            |path: &Path| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let name = format!("slot-{slot}");
        match (&self.hands, self.access) {
            (Hands::Directory, _) => {
                let Attached::Directory(dir) = self.pool.attach(id, Attach::Filesystem).unwrap() else {
                    panic!("a device, where a directory was expected")
                };
                let path = format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd());
                act(&mut open(&Path::new(&path).join(name)).unwrap());
            }
            (_, Access::Mount { .. }) => {
                let mounted = self.mounted(id);
                act(&mut open(&mounted.path().join(name)).unwrap());
            }
            (_, Access::Block) => {
                let before = self.pool.attached(id, Attach::Block).unwrap().is_some();
                let device = self.device(id, Attach::Block);
                let mut file = OpenOptions::new().read(true).write(true).open(&device.path).unwrap();
                file.seek(SeekFrom::Start(slot * SLOT as u64)).unwrap();
                act(&mut file);
                drop((file, device));
                if !before {
                    self.pool.detach(id).unwrap();
                }
            }
        }
    }

    /// Leaves what an interrupted verb would leave of this object.
    pub(crate) fn leave_half_made(&self, id: impl std::fmt::Display) -> bool {
        let Some(root) = self.root() else { return false };
        let debris = root.join("tmp").join(id.to_string());
        if matches!(self.hands, Hands::Directory) {
            fs::create_dir_all(debris.join("below/it")).unwrap();
            fs::write(debris.join("below/file"), "half").unwrap();
            std::os::unix::fs::symlink("/", debris.join("below/it/link")).unwrap();
        } else {
            fs::write(debris, "half").unwrap();
        }
        true
    }

    /// The pool goes away while it is open.
    pub(crate) fn pull(&self) {
        match (&self.hands, self.root()) {
            (Hands::Sim(sim), _) => sim.unplug(),
            (_, Some(root)) => run([Path::new("umount"), Path::new("-l"), root]),
            (_, None) => unreachable!("only the simulator lies nowhere"),
        }
    }
}

/// The record of a snapshot that is about to be cut.
pub(crate) fn cut(id: SnapshotId, source: VolumeId) -> Snapshot {
    Snapshot {
        id,
        name: "a snapshot".to_owned(),
        phase: Phase::Creating,
        source,
        size: Bytes::MIB,
        asked: None,
        held: Bytes::ZERO,
        access: Access::Block,
        fs_uuid: None,
        sector_size: 4096,
        group: None,
        parameters: Default::default(),
        claim: None,
        created: Time::now(),
    }
}

/// The size of a device as a reader finds it.
pub(crate) fn length(device: &Device) -> u64 {
    File::open(&device.path).unwrap().seek(SeekFrom::End(0)).unwrap()
}

/// The loop devices on a file of which the path contains this.
pub(crate) fn backed_by(path: impl AsRef<str>) -> Vec<PathBuf> {
    let on = |dir: &Path| fs::read_to_string(dir.join("loop/backing_file")).unwrap_or_default();
    let all = fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap().path());
    let found = all.filter(|dir| on(dir).contains(path.as_ref()));
    found.map(|dir| Path::new("/dev").join(dir.file_name().unwrap())).collect()
}

/// Waits for what the kernel does a moment later.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        if started.elapsed() > Duration::from_secs(120) {
            // Not while the test fails already: the first failure is the one to read.
            assert!(std::thread::panicking(), "{what}: not within two minutes");
            return;
        }
        sleep(Duration::from_millis(20));
    }
}

/// Runs a program that must succeed.
#[track_caller]
pub(crate) fn run<W: AsRef<std::ffi::OsStr>>(words: impl IntoIterator<Item = W>) {
    let words: Vec<_> = words.into_iter().collect();
    let out = Command::new(&words[0]).args(&words[1..]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    let words: Vec<_> = words.iter().map(|word| word.as_ref().to_string_lossy()).collect();
    assert!(out.status.success(), "{}: {said}", words.join(" "));
}

/// Unmounts all that is mounted at a directory and below it.
fn unmount_below(dir: &Path) {
    let started = Instant::now();
    loop {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
        let Some(last) = points.rfind(|point| point.starts_with(dir)) else { return };
        // A test that failed may still hold something inside; then only the lazy way is left.
        let how = if started.elapsed() > Duration::from_secs(20) { "-l" } else { "-n" };
        let done = Command::new("umount").arg(how).arg(last).output().unwrap();
        if !done.status.success() {
            sleep(Duration::from_millis(5));
        }
    }
}

/// A number that no other call gives, in this process or another of this moment.
fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    (u64::from(std::process::id()) << 32) | NEXT.fetch_add(1, Ordering::Relaxed)
}
