//! Repairs of what changed since it was seen, and the words for a pool that is not there.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test makes its own files, and panics")]

use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::engine::{Capability, EngineConfig, Files, Mode, PoolConfig, Stage};
use crate::model::{Allocation, Asked, CreateVolume, Filesystem, Phase, Range, Retention, Source};
use crate::os::mount::{self, Here, Mounted, Of, Place, Tree};
use crate::pool::prepare::{self, Request};
use crate::pool::{Attach, Kind, Quota, Setup};

/// A node with an image pool in a file; all that it mounts and attaches goes with it.
struct Node {
    dir: tempfile::TempDir,
    setup: Setup,
    engine: Option<Arc<Engine>>,
}

impl Node {
    fn new() -> Node {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("kubelet/staging")).unwrap();
        let file = dir.path().join("pool.img");
        let place = prepare::Place::File { path: file, size: Bytes::GIB, sparse: true };
        let mount_parent = dir.path().join("pools");
        let request =
            Request { name: "p".to_owned(), kind: Kind::Image, place, quota: Quota::None, mount_parent };
        let setup = prepare::prepare(&request).unwrap();
        let mut node = Node { dir, setup, engine: None };
        let pool =
            PoolConfig { setup: node.setup.clone(), overcommit: 1.0, reserve: 0.05, retain: Retention::NONE };
        let opened = Engine::open(EngineConfig {
            pools: vec![pool],
            kubelet_root: node.dir.path().join("kubelet"),
            state_dir: node.dir.path().join("state"),
            files: Files::Shared,
        });
        node.engine = Some(opened.unwrap());
        node
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    fn pool(&self) -> Arc<dyn Pool> {
        self.slot().open().unwrap()
    }

    fn slot(&self) -> &Slot {
        &self.engine().pools[0]
    }

    fn create(&self, asked: Asked) -> VolumeId {
        let want = CreateVolume {
            name: "one".to_owned(),
            range: Range { required: Some(Bytes::MIB.times(16)), limit: None },
            asked,
            pool: None,
            allocation: Allocation::Sparse,
            parameters: Default::default(),
            claim: None,
            source: Source::Blank,
        };
        self.engine().create_volume(&want).unwrap().id
    }

    fn stage(&self, volume: VolumeId, asked: Asked) {
        let capability = Capability { asked, mode: Mode::Writer, flags: Vec::new() };
        self.engine().stage(&Stage { volume, staging: self.staging(), capability }).unwrap();
    }

    fn staging(&self) -> PathBuf {
        self.dir.path().join("kubelet/staging")
    }

    /// The one thing that is found under a code.
    fn case(&self, code: Code) -> Case {
        let mut cases = self.engine().cases(self.slot(), check_of(code).as_slice());
        cases.retain(|case| case.finding.code == code);
        assert_eq!(cases.len(), 1, "{code}");
        cases.remove(0)
    }

    fn repair(&self, code: Code, case: &Case) -> Result<String> {
        let case = Case { finding: case.finding.clone(), fix: case.fix.clone(), instead: None };
        self.engine().repair_all(self.slot(), code, vec![case])?.remove(0).1
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for mount in mount::table().unwrap_or_default().iter().rev() {
            if mount.point.starts_with(self.dir.path().join("kubelet")) {
                let _ = mount::unmount_path(&mount.point);
            }
        }
        if let Some(pool) = self.engine.as_ref().and_then(|engine| engine.pools[0].open().ok()) {
            for shown in pool.exposed().unwrap_or_default() {
                let _ = pool.let_go(&shown);
            }
        }
        self.engine = None;
        if let Err(error) = prepare::unmount(&self.setup) {
            eprintln!("failed to unmount the test's pool: {error}");
        }
    }
}

const RAW: Asked = Asked::Block;
const EXT4: Asked = Asked::Mount(Some(Filesystem::Ext4));

fn top(point: &std::path::Path) -> Option<Mounted> {
    match Place::trusted(point).unwrap().look().unwrap() {
        Here::Mounted(mounted) => Some(mounted),
        Here::Nothing | Here::Directory { .. } | Here::File { .. } | Here::Other => None,
    }
}

#[test]
fn a_device_that_was_staged_since_it_was_seen_stays() {
    let node = Node::new();
    let one = node.create(RAW);
    // As a driver leaves it that is killed in the middle of a stage.
    drop(node.pool().attach(&one, Attach::Block).unwrap());
    let case = node.case(Code::LeftoverDevice);
    node.stage(one, RAW);
    assert!(matches!(node.repair(Code::LeftoverDevice, &case), Err(Error::Precondition(_))));
    let shown = node.pool().exposed().unwrap();
    assert_eq!(shown.len(), 1);
    assert_eq!(mount::seats(Of::Loop(shown[0].number)).unwrap().len(), 1);
    node.engine().unstage(&one, &node.staging()).unwrap();
    drop(node.pool().attach(&one, Attach::Block).unwrap());
    let case = node.case(Code::LeftoverDevice);
    let call = node.engine().store.claim(&[Key::Object(ObjectId::Volume(one))], &[]).unwrap();
    assert!(matches!(node.repair(Code::LeftoverDevice, &case), Err(Error::Busy(_))));
    drop(call);
    node.repair(Code::LeftoverDevice, &case).unwrap();
    assert_eq!(node.pool().exposed().unwrap(), []);
}

#[test]
fn a_mount_that_came_since_or_lies_over_it_stays() {
    let node = Node::new();
    let one = node.create(EXT4);
    node.stage(one, EXT4);
    let id = ObjectId::Volume(one);
    let record = node.engine().store.record(id).unwrap();
    let claim = node.engine().store.claim(&[Key::Object(id)], &[]).unwrap();
    node.engine().store.erase(&claim, id).unwrap();
    drop(claim);
    let case = node.case(Code::LeftoverMount);
    // Somebody else's, over it.
    let place = Place::trusted(&node.staging()).unwrap();
    Tree::clone_of_path(node.dir.path()).unwrap().attach(&place).unwrap();
    assert!(matches!(node.repair(Code::LeftoverMount, &case), Err(Error::Precondition(_))));
    let foreign = std::fs::metadata(node.dir.path()).unwrap();
    assert_eq!(top(&node.staging()).unwrap().inode, std::os::unix::fs::MetadataExt::ino(&foreign));
    mount::unmount_path(&node.staging()).unwrap();
    // What was found is gone with that, and what is there now is another mount of the volume, which has its record again.
    let claim = node.engine().store.claim(&[Key::Object(id)], &[]).unwrap();
    node.engine().store.restore(&claim, record, 2).unwrap();
    drop(claim);
    node.stage(one, EXT4);
    assert!(matches!(node.repair(Code::LeftoverMount, &case), Err(Error::Precondition(_))));
    assert!(top(&node.staging()).is_some());
    node.engine().unstage(&one, &node.staging()).unwrap();
}

#[test]
fn bytes_that_are_back_and_work_that_was_finished_keep_their_records() {
    let node = Node::new();
    let one = node.create(RAW);
    let (image, aside) =
        (node.setup.path.join("volumes").join(one.to_string()), node.dir.path().join("aside"));
    let aside = node.setup.path.join(aside.file_name().unwrap());
    std::fs::rename(&image, &aside).unwrap();
    let case = node.case(Code::ObjectMissing);
    std::fs::rename(&aside, &image).unwrap();
    assert!(matches!(node.repair(Code::ObjectMissing, &case), Err(Error::Precondition(_))));
    assert!(image.exists() && node.engine().volume(&one).is_ok());

    let id = ObjectId::Volume(one);
    let record = node.engine().store.record(id).unwrap();
    let put = |record: &Record| {
        let claim = node.engine().store.claim(&recover::keys(record), &[]).unwrap();
        node.engine().store.put(&claim, record.clone()).unwrap();
    };
    put(&record.in_phase(Phase::Creating));
    let case = node.case(Code::Interrupted);
    put(&record);
    assert!(matches!(node.repair(Code::Interrupted, &case), Err(Error::Precondition(_))));
    assert!(image.exists() && node.engine().volume(&one).is_ok());
}

#[test]
fn a_pool_that_is_not_there_cannot_break_a_line() {
    let nobody = Engine::examine(Vec::new()).unwrap();
    let said = nobody.diagnose("a\nb").unwrap_err().to_string();
    assert!(said.starts_with("pool `a\\nb`: want one of"), "{said}");
}

#[test]
fn regular_looks_count_what_is_ill_and_what_nobody_accounts_for() {
    let node = Node::new();
    let id = node.create(Asked::Block);
    let engine = Arc::clone(node.engine.as_ref().unwrap());
    let seen = || engine.tallies()[0].1;
    let eventually = |what: &str, holds: &dyn Fn() -> bool| {
        let begun = std::time::Instant::now();
        while !holds() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{what}: {:?}", seen());
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    assert_eq!((seen().unhealthy, seen().orphans), (None, None), "nobody has looked yet");
    engine.look_after_health();
    engine.tell_orphans();
    eventually("a sound volume is not ill", &|| seen().unhealthy == Some(0) && seen().orphans == Some(0));
    let images = node.setup.path.join("volumes");
    let (image, stranger) = (images.join(id.to_string()), VolumeId::new(id.pool(), [7; 8]).to_string());
    std::fs::copy(&image, images.join(&stranger)).unwrap();
    std::fs::remove_file(&image).unwrap();
    engine.look_after_health();
    engine.tell_orphans();
    eventually("the bytes without a record, and the record without bytes", &|| {
        seen().unhealthy == Some(1) && seen().orphans == Some(2)
    });
    assert_eq!(engine.tallies()[0].0.volumes, 1, "its record is there");
    std::fs::remove_file(images.join(&stranger)).unwrap();
}
