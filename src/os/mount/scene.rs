//! A stage for tests with real mounts and loop devices, cleared even when a test fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Place, Tree, table, unmount_path};
use crate::os::file::Access;
use crate::os::fs as filesystems;
use crate::os::loopdev::{Attach, Discard, Lifetime, attach};

/// A directory of its own; everything mounted in it is unmounted at the end, deepest first, then the loops are freed.
pub(in crate::os) struct Scene {
    dir: tempfile::TempDir,
    /// Each goes by itself with its last mount, and with this descriptor.
    loops: Vec<fs::File>,
}

impl Scene {
    pub(in crate::os) fn new() -> Scene {
        assert!(rustix::process::geteuid().is_root(), "mounting needs root");
        Scene { dir: tempfile::tempdir().unwrap(), loops: Vec::new() }
    }

    pub(in crate::os) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(in crate::os) fn make_dir(&self, name: &str) -> PathBuf {
        let path = self.root().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub(in crate::os) fn place(&self, name: &str) -> Place {
        Place::walk(self.root(), &self.root().join(name)).unwrap()
    }

    /// A loop device over a new image.
    pub(in crate::os) fn device(&mut self, name: &str, kind: filesystems::FsKind, mib: u64) -> PathBuf {
        let image = self.root().join(name);
        fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        filesystems::make(kind, &image, UUID, None).unwrap();
        self.attach_loop(&image)
    }

    pub(in crate::os) fn attach_loop(&mut self, image: &Path) -> PathBuf {
        let file = fs::OpenOptions::new().read(true).write(true).open(image).unwrap();
        let want =
            Attach { access: Access::ReadWrite, lifetime: Lifetime::Autoclear, discard: Discard::Allow };
        let attached = attach(&file, want).unwrap();
        self.loops.push(attached.held);
        attached.device.path()
    }

    pub(in crate::os) fn bind(&self, from: &str, to: &str) {
        let tree = Tree::clone_of(self.place(from).handle().unwrap()).unwrap();
        tree.attach(&self.place(to)).unwrap();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        clear(self.dir.path());
    }
}

/// Unmounts what is mounted at a directory and below it, the last first. What a program that another test is just starting
/// keeps busy goes a little later; what stays fails the test.
pub(crate) fn clear(dir: &Path) {
    let begun = Instant::now();
    loop {
        let mut points: Vec<_> = table().unwrap_or_default().into_iter().map(|mount| mount.point).collect();
        points.retain(|point| point.starts_with(dir));
        let Some(last) = points.last() else { return };
        let Err(error) = unmount_path(last) else { continue };
        if begun.elapsed() > Duration::from_secs(30) {
            assert!(std::thread::panicking(), "what the test mounted stays: {error}");
            return eprintln!("what the test mounted stays: {error}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(in crate::os) const UUID: &str = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
