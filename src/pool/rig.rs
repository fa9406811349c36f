//! What the tests of the real kinds stand on: a pool in a sparse file, which is gone when this is dropped.

use std::path::{Path, PathBuf};

use super::prepare::{Place, Request, prepare};
use super::{Kind, Quota, Setup};
use crate::model::{
    Access, Allocation, Bytes, Filesystem, FsUuid, Phase, PoolId, Snapshot, SnapshotId, Source, Time, Volume,
    VolumeId,
};
use crate::os::mount::scene::clear;
use crate::os::process;

/// A pool on a loop device, and a place for mounts.
pub(super) struct Rig {
    pub(super) setup: Setup,
    pub(super) dir: tempfile::TempDir,
}

impl Rig {
    pub(super) fn new() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let request = request(dir.path(), Kind::Image);
        let setup = prepare(&request).unwrap();
        Rig { setup, dir }
    }

    /// Mounts a device below the rig.
    pub(super) fn mount(&self, device: &Path, name: &str) -> PathBuf {
        let point = self.dir.path().join(name);
        std::fs::create_dir(&point).unwrap();
        run("mount", &[device, &point]);
        point
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        clear(self.dir.path());
    }
}

/// A pool in a sparse file of 1 GiB, all below `dir`.
pub(super) fn request(dir: &Path, kind: Kind) -> Request {
    Request {
        name: "test".to_owned(),
        kind,
        place: Place::File { path: dir.join("pool.xfs"), size: Bytes::GIB, sparse: true },
        quota: Quota::None,
        mount_parent: dir.join("pools"),
    }
}

pub(super) fn run(program: &str, arguments: &[&Path]) {
    process::run(program, arguments, "failed to prepare the test").unwrap();
}

pub(super) fn volume(pool: PoolId, number: u8, access: Access) -> Volume {
    let with_fs = access != Access::Block;
    Volume {
        id: VolumeId::new(pool, [number; 8]),
        name: format!("pvc-{number}"),
        phase: Phase::Creating,
        size: Bytes::MIB.times(if access == (Access::Mount { fs: Filesystem::Xfs }) { 300 } else { 64 }),
        asked: None,
        access,
        fs_uuid: with_fs.then(|| FsUuid::new([number; 16])),
        sector_size: 4096,
        allocation: Allocation::Sparse,
        source: Source::Blank,
        parameters: Default::default(),
        claim: None,
        created: Time::now(),
    }
}

pub(super) const EXT4: Access = Access::Mount { fs: Filesystem::Ext4 };
pub(super) const XFS: Access = Access::Mount { fs: Filesystem::Xfs };

/// The record of a snapshot that is about to be cut.
pub(super) fn cut(id: SnapshotId, source: VolumeId) -> Snapshot {
    Snapshot {
        id,
        name: id.to_string(),
        phase: Phase::Creating,
        source,
        size: Bytes::MIB.times(64),
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
