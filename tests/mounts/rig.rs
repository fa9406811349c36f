//! A node of its own: a pool in a file, a kubelet root, an engine. It takes everything down again, also after a panic.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rockpool::engine::{Capability, Engine, EngineConfig, Files, Mode, PoolConfig, Publish, Stage, Writes};
use rockpool::error::Result;
use rockpool::model::{
    Allocation, Asked, Bytes, CreateVolume, Filesystem, Range, Retention, Source, Volume, VolumeId,
};
use rockpool::os::mount::{self, Mount};
use rockpool::pool::prepare::{self, Place, Request};
use rockpool::pool::{Kind, Quota, Setup};

pub(crate) const BLOCK: Asked = Asked::Block;
pub(crate) const EXT4: Asked = Asked::Mount(Some(Filesystem::Ext4));
pub(crate) const XFS: Asked = Asked::Mount(Some(Filesystem::Xfs));
pub(crate) const MIB: u64 = 1 << 20;

/// One node.
pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) setup: Setup,
    root: &'static str,
    engine: Option<Arc<Engine>>,
}

impl Rig {
    /// With an image pool of 3 GiB in a sparse file.
    pub(crate) fn image() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let file = Place::File { path: dir.path().join("pool.img"), size: Bytes::GIB.times(3), sparse: true };
        Rig::with(dir, Kind::Image, file)
    }

    /// With a kubelet root whose configured path is a symlink.
    pub(crate) fn behind_a_symlink() -> Rig {
        let mut rig = Rig::image();
        std::os::unix::fs::symlink("kubelet", rig.dir.path().join("link")).unwrap();
        rig.root = "link";
        rig.restart();
        rig
    }

    /// With a directory pool that enforces nothing.
    pub(crate) fn directory() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("pool")).unwrap();
        let place = Place::Directory(dir.path().join("pool"));
        Rig::with(dir, Kind::Directory, place)
    }

    /// With an image pool in the root of a filesystem of its own in a sparse file, as this mkfs makes it.
    pub(crate) fn image_on(mkfs: &[&str], mib: u64) -> Rig {
        Rig::on(mkfs, mib, Kind::Image)
    }

    /// As `image_on`, with a pool of this kind.
    pub(crate) fn on(mkfs: &[&str], mib: u64, kind: Kind) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let (disk, point) = (dir.path().join("disk"), dir.path().join("pool"));
        File::create(&disk).unwrap().set_len(mib * MIB).unwrap();
        run(mkfs[0], &mkfs[1..].iter().map(Path::new).chain([disk.as_path()]).collect::<Vec<_>>());
        fs::create_dir(&point).unwrap();
        mount_disk(&disk, &point);
        // Its own before anything can fail, so that it is unmounted.
        let place = Place::Directory(point);
        Rig::with(dir, kind, place)
    }

    /// Mounts the disk of `image_on`, which is not mounted. As long as anybody holds it open, what comes is the filesystem that
    /// shut down: a program that another test is just starting does so for a moment.
    pub(crate) fn mount_again(&self) {
        let (disk, point) = (self.dir.path().join("disk"), &self.setup.path);
        let works = soon(|| {
            mount_disk(&disk, point);
            let probe = point.join("probe");
            File::create(&probe).and_then(|_| fs::remove_file(probe)).is_ok() || {
                run("umount", &[Path::new("-l"), point]);
                false
            }
        });
        assert!(works, "somebody holds what had shut down");
    }

    fn with(dir: tempfile::TempDir, kind: Kind, place: Place) -> Rig {
        fs::create_dir(dir.path().join("kubelet")).unwrap();
        let quota = if kind == Kind::Directory { Quota::None } else { Quota::Project };
        let mount_parent = dir.path().join("pools");
        let request = Request { name: "p".to_owned(), kind, place, quota, mount_parent };
        let setup = prepare::prepare(&request).unwrap();
        let mut rig = Rig { dir, setup, root: "kubelet", engine: None };
        rig.restart();
        rig
    }

    /// A driver that was killed and started again.
    pub(crate) fn restart(&mut self) {
        self.engine = None;
        self.engine = Some(self.open().unwrap());
    }

    /// No driver.
    pub(crate) fn stop(&mut self) {
        self.engine = None;
    }

    pub(crate) fn open(&self) -> Result<Arc<Engine>> {
        let pool =
            PoolConfig { setup: self.setup.clone(), overcommit: 1.0, reserve: 0.05, retain: Retention::NONE };
        Engine::open(EngineConfig {
            pools: vec![pool],
            kubelet_root: self.root(),
            state_dir: self.dir.path().join("state"),
            files: Files::Shared,
        })
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    /// What keeps the pool from its work.
    pub(crate) fn ailment(&self) -> Option<String> {
        self.engine().ailment(self.engine().indexes().next().unwrap())
    }

    /// What nobody accounts for.
    pub(crate) fn orphans(&self) -> Vec<String> {
        self.engine().orphans(self.engine().indexes().next().unwrap()).unwrap()
    }

    /// Looks after the pool once, as the driver does every few seconds, to the end.
    pub(crate) fn look(&self) {
        let engine = self.engine.as_ref().unwrap();
        // One that has begun before may not have seen what the test did since.
        assert!(soon(|| !engine.is_looking()));
        engine.reconnect();
        assert!(soon(|| !engine.is_looking()));
    }

    /// Looks for the pool until it is back.
    pub(crate) fn reconnect(&self) {
        let back = soon(|| {
            self.look();
            self.ailment().is_none()
        });
        assert!(back, "{:?}", self.ailment());
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join(self.root)
    }

    /// An empty directory that the CO made for staging.
    pub(crate) fn staging(&self, name: &str) -> PathBuf {
        let path = self.root().join("staging").join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// A target whose parent the CO made.
    pub(crate) fn target(&self, name: &str) -> PathBuf {
        let parent = self.root().join("pods");
        fs::create_dir_all(&parent).unwrap();
        parent.join(name)
    }

    pub(crate) fn create(&self, name: &str, asked: Asked, mib: u64) -> Volume {
        Volume::clone(&self.engine().create_volume(&wanted(name, asked, mib)).unwrap())
    }

    pub(crate) fn create_from(&self, name: &str, asked: Asked, mib: u64, source: Source) -> Volume {
        let want = CreateVolume { source, ..wanted(name, asked, mib) };
        Volume::clone(&self.engine().create_volume(&want).unwrap())
    }

    /// Staged below its name, and published at a target of its name.
    pub(crate) fn publish(&self, name: &str, volume: &Volume, asked: Asked) -> PathBuf {
        self.engine().stage(&self.stage_of(name, volume, asked)).unwrap();
        self.engine().publish(&self.publish_of(name, name, volume, asked)).unwrap();
        self.target(name)
    }

    pub(crate) fn unpublish(&self, name: &str, volume: &Volume) {
        self.engine().unpublish(&volume.id, &self.target(name)).unwrap();
        self.engine().unstage(&volume.id, &self.staging(name)).unwrap();
    }

    pub(crate) fn stage_of(&self, name: &str, volume: &Volume, asked: Asked) -> Stage {
        Stage { volume: volume.id, staging: self.staging(name), capability: capability(asked, Mode::Writer) }
    }

    pub(crate) fn publish_of(&self, staged: &str, target: &str, volume: &Volume, asked: Asked) -> Publish {
        Publish {
            volume: volume.id,
            staging: self.staging(staged),
            target: self.target(target),
            capability: capability(asked, Mode::Writer),
            writes: Writes::Allowed,
        }
    }

    /// Every mount below the kubelet root.
    pub(crate) fn mounts(&self) -> Vec<Mount> {
        let mut mounts = mount::table().unwrap();
        mounts.retain(|mount| mount.point.starts_with(self.dir.path().join("kubelet")));
        mounts
    }

    /// Whether so many loop devices are on this volume's image, or soon will be: a program that another test is just
    /// starting holds a device until it executes.
    pub(crate) fn has_loops(&self, id: &VolumeId, wanted: usize) -> bool {
        let image = fs::metadata(self.object(id)).unwrap();
        soon(|| rockpool::os::loopdev::find(image.dev(), image.ino()).unwrap().len() == wanted)
    }

    pub(crate) fn object(&self, id: &VolumeId) -> PathBuf {
        self.setup.path.join("volumes").join(id.to_string())
    }

    /// Every file that the pool holds for its volumes and snapshots, records included.
    pub(crate) fn objects(&self) -> Vec<PathBuf> {
        let folders = ["volumes", "snapshots", "tmp", "records"];
        let read = |folder: &str| fs::read_dir(self.setup.path.join(folder)).into_iter().flatten().flatten();
        let mut all: Vec<_> = folders.into_iter().flat_map(read).map(|entry| entry.path()).collect();
        all.sort();
        all
    }

    /// What a reboot does: mounts and devices are gone, directories and files stay.
    pub(crate) fn reboot(&mut self) {
        self.stop();
        for mount in self.mounts().iter().rev() {
            assert!(unmounted(&mount.point), "{:?} is busy", mount.point);
        }
        for entry in fs::read_dir(self.setup.path.join("volumes")).into_iter().flatten().flatten() {
            let image = entry.metadata().unwrap();
            for found in rockpool::os::loopdev::find(image.dev(), image.ino()).unwrap() {
                found.device.detach(image.dev(), image.ino()).unwrap();
            }
        }
        fs::remove_dir_all(self.dir.path().join("state")).unwrap();
        self.restart();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.engine = None;
        let mut stay: Vec<_> = self.mounts().into_iter().rev().map(|mount| mount.point).collect();
        let is_busy = |point: &PathBuf| !unmounted(point);
        stay.retain(is_busy);
        for entry in fs::read_dir(self.setup.path.join("volumes")).into_iter().flatten().flatten() {
            let Ok(image) = entry.metadata() else { continue };
            for found in rockpool::os::loopdev::find(image.dev(), image.ino()).unwrap_or_default() {
                drop(found.device.detach(image.dev(), image.ino()));
            }
        }
        if self.setup.kind == Kind::Image || self.dir.path().join("disk").exists() {
            stay.extend([self.setup.path.clone(), self.dir.path().join("pools")].into_iter().filter(is_busy));
        }
        assert!(stay.is_empty() || std::thread::panicking(), "what the test mounted stays: {stay:?}");
    }
}

fn mount_disk(disk: &Path, point: &Path) {
    run("mount", &[Path::new("-oloop"), disk, point]);
}

/// Unmounts what may be mounted there, and says whether it is gone: a program that another test is just starting keeps it busy
/// for a moment.
pub(crate) fn unmounted(point: &Path) -> bool {
    let gone =
        |point: &Path| mount::table().is_ok_and(|table| table.iter().all(|mount| mount.point != point));
    soon(|| {
        gone(point)
            || Command::new("umount").arg("-q").arg(point).status().is_ok_and(|status| status.success())
    })
}

/// Whether something comes true, on a busy machine as well.
pub(crate) fn soon(mut condition: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if begun.elapsed() > Duration::from_secs(30) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn capability(asked: Asked, mode: Mode) -> Capability {
    Capability { asked, mode, flags: Vec::new() }
}

pub(crate) fn wanted(name: &str, asked: Asked, mib: u64) -> CreateVolume {
    CreateVolume {
        name: name.to_owned(),
        range: Range { required: Some(Bytes::MIB.times(mib)), limit: None },
        asked,
        pool: None,
        allocation: Allocation::Sparse,
        parameters: Default::default(),
        claim: None,
        source: Source::Blank,
    }
}

pub(crate) fn run(program: &str, arguments: &[&Path]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

/// Writes and syncs.
pub(crate) fn put(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    File::open(path).unwrap().sync_all().unwrap();
}

/// The size of a block device, in bytes.
pub(crate) fn device_size(path: &Path) -> u64 {
    use std::io::Seek;
    File::open(path).unwrap().seek(std::io::SeekFrom::End(0)).unwrap()
}

pub(crate) fn write_block(path: &Path, at: u64, byte: u8) -> std::io::Result<()> {
    let device = fs::OpenOptions::new().write(true).open(path)?;
    device.write_all_at(&[byte; 4096], at)?;
    device.sync_all()
}

pub(crate) fn read_block(path: &Path, at: u64) -> u8 {
    let mut bytes = [0; 4096];
    File::open(path).unwrap().read_exact_at(&mut bytes, at).unwrap();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]));
    bytes[0]
}
