//! The node that requests meet: some volumes, cuts and paths, all at rest.
//!
//! Owns: what is there, and how an input names it. Never: has anything mounted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rockpool::model::Bytes;
use rockpool::pool;
use rockpool::proto::csi::*;
use tempfile::TempDir;

use super::{ROOT, message};
use crate::node::{Node, State, sim};

/// Ids of the same length as real ones; the last digit is a number.
const PLACE: &str = ".aaaaaaaaaaaa.000000000000000";

/// What there is before a request.
pub(super) struct Scene {
    pub(super) node: Node,
    pub(super) before: State,
    /// The ids of volumes, snapshots and groups.
    pub(super) ids: [Vec<String>; 3],
    /// The paths below kubelet's directory.
    pub(super) tree: BTreeSet<PathBuf>,
    pool: String,
    directory: TempDir,
}

impl Scene {
    pub(super) fn new() -> Scene {
        let directory = tempfile::Builder::new().prefix("requests-").tempdir().expect("a directory");
        make_paths(directory.path());
        let pools = vec![sim("fast", Bytes::GIB.times(100)), sim("small", Bytes::GIB)];
        let mut node = Node::start(directory.path(), pools, Box::new(pool::open)).expect("it starts");
        let ids = make_objects(&mut node);
        let pool = node.engine.pools()[0].id.expect("it is open").to_string();
        let before = node.check_rest();
        let mut scene = Scene { node, before, ids, tree: BTreeSet::new(), pool, directory };
        scene.tree = scene.tree();
        scene
    }

    pub(super) fn end(self) {
        self.node.stop();
        drop(self.directory);
    }

    /// The input with what is really there.
    pub(super) fn filled_in(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for (prefix, ids) in ["v1", "s1", "g1"].iter().zip(&self.ids) {
            for (number, id) in ids.iter().enumerate() {
                replace(&mut bytes, format!("{prefix}{PLACE}{number:x}").as_bytes(), id.as_bytes());
            }
        }
        replace(&mut bytes, b"aaaaaaaaaaaa", self.pool.as_bytes());
        let root = self.root().display().to_string();
        assert!(root.len() <= ROOT.len(), "the directory for temporary files has too long a name");
        replace(&mut bytes, ROOT.as_bytes(), format!("{root:/<width$}", width = ROOT.len()).as_bytes());
        bytes
    }

    /// Every path below kubelet's directory, and two beside it.
    pub(super) fn tree(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        for top in [self.root(), self.directory.path().join("outside")] {
            walk(&top, &mut found);
        }
        found
    }

    /// What can still be promised.
    pub(super) fn free(&self) -> i64 {
        let free = self.node.engine.pools().iter().map(|pool| pool.budget.less(pool.promised)).sum::<Bytes>();
        free.as_i64()
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("kubelet")
    }
}

/// Targets as kubelet leaves them, and a way out.
fn make_paths(directory: &Path) {
    let make = |path: &str| std::fs::create_dir_all(directory.join(path)).expect("a directory");
    ["kubelet/empty", "kubelet/full", "kubelet/staging", "outside/empty"].into_iter().for_each(make);
    std::fs::write(directory.join("kubelet/full/file"), b"data").expect("a file");
    std::fs::write(directory.join("kubelet/blank"), b"").expect("a file");
    std::fs::write(directory.join("kubelet/written"), b"data").expect("a file");
    std::os::unix::fs::symlink(directory.join("outside"), directory.join("kubelet/link")).expect("a link");
}

/// Volumes of each sort, a snapshot, a group, and one of each that is deleted and kept.
fn make_objects(node: &mut Node) -> [Vec<String>; 3] {
    let keep = ("retainDeleted".to_owned(), "1d".to_owned());
    let mut volumes = Vec::new();
    for (name, fs, pool) in
        [("a", "ext4", "fast"), ("b", "block", "fast"), ("c", "xfs", "small"), ("kept", "block", "fast")]
    {
        let mut request = message::create(name, 320 << 20, fs);
        request.parameters = [keep.clone(), ("pool".to_owned(), pool.to_owned())].into();
        let made: CreateVolumeResponse =
            node.wire.ask("csi.v1.Controller/CreateVolume", &request).expect("a volume");
        volumes.push(made.volume.expect("a volume").volume_id);
    }
    let mut snapshots = Vec::new();
    for name in ["one", "kept"] {
        let request = CreateSnapshotRequest {
            source_volume_id: volumes[0].clone(),
            name: name.to_owned(),
            parameters: [keep.clone()].into(),
            ..Default::default()
        };
        let made: CreateSnapshotResponse =
            node.wire.ask("csi.v1.Controller/CreateSnapshot", &request).expect("a snapshot");
        snapshots.push(made.snapshot.expect("a snapshot").snapshot_id);
    }
    let request = CreateVolumeGroupSnapshotRequest {
        name: "group".to_owned(),
        source_volume_ids: volumes[..2].to_vec(),
        ..Default::default()
    };
    let made: CreateVolumeGroupSnapshotResponse =
        node.wire.ask("csi.v1.GroupController/CreateVolumeGroupSnapshot", &request).expect("a group");
    let group = made.group_snapshot.expect("a group");
    snapshots.extend(group.snapshots.into_iter().map(|member| member.snapshot_id));
    let delete = DeleteVolumeRequest { volume_id: volumes[3].clone(), ..Default::default() };
    let _: DeleteVolumeResponse =
        node.wire.ask("csi.v1.Controller/DeleteVolume", &delete).expect("it is kept");
    let delete = DeleteSnapshotRequest { snapshot_id: snapshots[1].clone(), ..Default::default() };
    let _: DeleteSnapshotResponse =
        node.wire.ask("csi.v1.Controller/DeleteSnapshot", &delete).expect("it is kept");
    [volumes, snapshots, vec![group.group_snapshot_id]]
}

/// Puts what is really there in the place of what stands for it, which is as long.
fn replace(bytes: &mut [u8], place: &[u8], with: &[u8]) {
    assert_eq!(place.len(), with.len());
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(place.len()).position(|window| window == place) {
        at += found;
        bytes[at..at + with.len()].copy_from_slice(with);
        at += with.len();
    }
}

fn walk(directory: &Path, found: &mut BTreeSet<PathBuf>) {
    found.insert(directory.to_owned());
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_dir() {
            walk(&entry.path(), found);
        } else {
            found.insert(entry.path());
        }
    }
}
