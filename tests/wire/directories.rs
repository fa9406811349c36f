//! A directory pool beside one in memory: what one kind lacks, and the answers that need a real mount. Needs root.

use std::path::{Path, PathBuf};

use rockpool::engine::PoolConfig;
use rockpool::pool::prepare::{Place, Request, prepare};
use rockpool::pool::{Kind, Quota};
use rockpool::proto::csi::*;
use tonic::Code;

use crate::harness::*;

/// A driver whose mounts go when it does, also when a test fails.
struct Mounting(Driver);

impl Drop for Mounting {
    fn drop(&mut self) {
        detach_below(self.0.directory.path());
    }
}

/// The driver's threads may end a moment after the driver: what they hold goes with them.
fn detach_below(directory: &Path) {
    for point in mounts_below(directory).into_iter().rev() {
        if let Err(error) = rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH) {
            assert!(std::thread::panicking(), "{point:?} stays mounted: {error}");
        }
    }
}

/// A filesystem of its own for a pool, which can be made read-only.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Disk {
        let disk = Disk(tempfile::tempdir().unwrap());
        let image = disk.0.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
        std::fs::create_dir(disk.path()).unwrap();
        run("mkfs.ext4", &["-q".as_ref(), &image]);
        run("mount", &["-oloop".as_ref(), &image, &disk.path()]);
        disk
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("pool")
    }

    fn remount(&self, how: &str) {
        run("mount", &[format!("-oremount,{how}").as_ref(), &self.path()]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        detach_below(self.0.path());
    }
}

fn run(program: &str, words: &[&Path]) {
    let done = std::process::Command::new(program).args(words).output().unwrap();
    assert!(done.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| point.starts_with(directory)).collect()
}

async fn started() -> Mounting {
    let directories = |below: &Path| {
        let path = below.join("pool");
        std::fs::create_dir(&path).unwrap();
        pools_in(path)
    };
    Mounting(Driver::with(directories).await)
}

/// The pool `fast` in memory, and `dirs` in this directory.
pub(crate) fn pools_in(directory: PathBuf) -> Vec<PoolConfig> {
    let request = Request {
        name: "dirs".to_owned(),
        kind: Kind::Directory,
        mount_parent: directory.clone(),
        place: Place::Directory(directory),
        quota: Quota::None,
    };
    vec![sim("fast", POOL), pool(prepare(&request).unwrap())]
}

pub(crate) fn on_dirs(name: &str) -> CreateVolumeRequest {
    let range = CapacityRange { required_bytes: 4 * MIB, limit_bytes: 0 };
    CreateVolumeRequest { parameters: map(&[("pool", "dirs")]), capacity_range: Some(range), ..create(name) }
}

/// All but the free space, which others on the same disk change.
async fn refused<T>(call: impl Future<Output = Result<T, tonic::Status>>, code: Code, word: &str) {
    let Err(status) = call.await else { panic!("it was allowed: {word}") };
    assert_eq!(status.code(), code, "{word}: {}", status.message());
    assert!(status.message().contains(word), "{word:?} is not in {:?}", status.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_lacks_what_another_has_refuses_with_the_reason() {
    let mounting = started().await;
    let driver = &mounting.0;
    let volume = driver.create(on_dirs("v")).await.unwrap();
    assert_eq!(volume.volume_context, map(&[("pool", "dirs"), ("size", "not enforced")]));

    refused(driver.snapshot("s", &volume.volume_id), Code::FailedPrecondition, "dirs").await;
    let cut = CreateVolumeGroupSnapshotRequest {
        name: "g".into(),
        source_volume_ids: vec![volume.volume_id.clone()],
        ..Default::default()
    };
    refused(driver.groups.clone().create_volume_group_snapshot(cut), Code::FailedPrecondition, "dirs").await;
    let clone = CreateVolumeRequest { volume_content_source: from_volume(&volume.volume_id), ..on_dirs("c") };
    refused(driver.create(clone), Code::FailedPrecondition, "dirs").await;
    let raw = CreateVolumeRequest { volume_capabilities: vec![block()], ..on_dirs("c") };
    refused(driver.create(raw), Code::InvalidArgument, "block").await;
    let ext4 = CreateVolumeRequest { volume_capabilities: vec![mount("ext4")], ..on_dirs("c") };
    refused(driver.create(ext4), Code::InvalidArgument, "ext4").await;
    let parameters = map(&[("pool", "dirs"), ("allocation", "reserved")]);
    refused(
        driver.create(CreateVolumeRequest { parameters, ..on_dirs("c") }),
        Code::InvalidArgument,
        "reserved",
    )
    .await;

    let parameters = map(&[("pool", "dirs")]);
    let raw = GetCapacityRequest { parameters, volume_capabilities: vec![block()], ..Default::default() };
    assert_eq!(driver.capacity(raw).await.unwrap().available_capacity, 0);
    assert_eq!(driver.volumes().await, [volume]);
    assert!(driver.snapshots().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staged_volume_is_guarded_and_retries_are_told_from_changes() {
    let mounting = started().await;
    let driver = &mounting.0;
    let volume = driver.create(on_dirs("v")).await.unwrap();
    let root = driver.directory.path().join("kubelet");
    for directory in ["staging", "other"] {
        std::fs::create_dir(root.join(directory)).unwrap();
    }
    let at = |name: &str| root.join(name).display().to_string();
    let stage = NodeStageVolumeRequest {
        volume_id: volume.volume_id.clone(),
        staging_target_path: at("staging"),
        volume_capability: Some(mount("")),
        volume_context: volume.volume_context.clone(),
        ..Default::default()
    };
    let mut node = driver.node.clone();
    for _ in 0..2 {
        node.node_stage_volume(stage.clone()).await.unwrap();
    }
    let flags = NodeStageVolumeRequest { volume_capability: Some(with_flags(&["noatime"])), ..stage.clone() };
    refused(node.clone().node_stage_volume(flags), Code::AlreadyExists, "staged").await;
    let other = NodeStageVolumeRequest { staging_target_path: at("other"), ..stage.clone() };
    refused(node.clone().node_stage_volume(other), Code::FailedPrecondition, "staged").await;
    refused(driver.delete(&volume.volume_id), Code::FailedPrecondition, "in use").await;

    let publish = NodePublishVolumeRequest {
        volume_id: volume.volume_id.clone(),
        staging_target_path: at("staging"),
        target_path: at("target"),
        volume_capability: Some(mount("")),
        ..Default::default()
    };
    for _ in 0..2 {
        node.node_publish_volume(publish.clone()).await.unwrap();
    }
    let readonly = NodePublishVolumeRequest { readonly: true, ..publish.clone() };
    refused(node.clone().node_publish_volume(readonly), Code::AlreadyExists, "readonly").await;
    let second = NodePublishVolumeRequest { target_path: at("second"), ..publish.clone() };
    refused(node.clone().node_publish_volume(second), Code::FailedPrecondition, "SINGLE_NODE_MULTI_WRITER")
        .await;
    let unstage =
        NodeUnstageVolumeRequest { volume_id: volume.volume_id.clone(), staging_target_path: at("staging") };
    refused(node.clone().node_unstage_volume(unstage.clone()), Code::FailedPrecondition, "published").await;
    assert_eq!(mounts_below(&root), [root.join("staging"), root.join("target")]);

    std::fs::write(root.join("target/file"), vec![1; 100_000]).unwrap();
    let stats = NodeGetVolumeStatsRequest {
        volume_id: volume.volume_id.clone(),
        volume_path: at("target"),
        ..Default::default()
    };
    let usage = node.node_get_volume_stats(stats).await.unwrap().into_inner().usage;
    assert_eq!(usage.iter().map(|usage| usage.unit).collect::<Vec<_>>(), [1, 2], "bytes and inodes");
    assert!(usage.iter().all(|usage| usage.used >= 0 && usage.available >= 0));
    assert!(usage.iter().all(|usage| usage.used + usage.available <= usage.total), "{usage:?}");

    let unpublish =
        NodeUnpublishVolumeRequest { volume_id: volume.volume_id.clone(), target_path: at("target") };
    for _ in 0..2 {
        node.node_unpublish_volume(unpublish.clone()).await.unwrap();
        assert!(!root.join("target").exists());
    }
    for _ in 0..2 {
        node.node_unstage_volume(unstage.clone()).await.unwrap();
    }
    assert!(mounts_below(&root).is_empty());
    driver.delete(&volume.volume_id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_read_only_refuses_what_changes_it_and_is_read_on() {
    let disk = Disk::new();
    let driver = Driver::with(|_| pools_in(disk.path())).await;
    let volume = driver.create(on_dirs("v")).await.unwrap();
    let on_the_pool = GetCapacityRequest { parameters: map(&[("pool", "dirs")]), ..Default::default() };
    assert!(driver.capacity(on_the_pool.clone()).await.unwrap().available_capacity > 0);

    disk.remount("ro");
    let words = &["`dirs`", "read-only"];
    driver.refused(driver.create(on_dirs("w")), Code::FailedPrecondition, words).await;
    driver.refused(driver.delete(&volume.volume_id), Code::FailedPrecondition, words).await;
    let expand = ControllerExpandVolumeRequest {
        volume_id: volume.volume_id.clone(),
        capacity_range: Some(CapacityRange { required_bytes: 8 * MIB, limit_bytes: 0 }),
        ..Default::default()
    };
    let mut controller = driver.controller.clone();
    driver.refused(controller.controller_expand_volume(expand), Code::FailedPrecondition, words).await;
    assert_eq!(driver.capacity(on_the_pool.clone()).await.unwrap().available_capacity, 0);
    assert_eq!(driver.volumes().await, std::slice::from_ref(&volume));
    assert_eq!(driver.create(on_dirs("v")).await.unwrap(), volume, "what is there is an answer");
    driver.volume("elsewhere").await;

    disk.remount("rw");
    driver.delete(&volume.volume_id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_whose_bytes_are_gone_is_listed_ill_and_deletable() {
    let mounting = started().await;
    let driver = &mounting.0;
    let mut lost = Vec::new();
    for name in ["a", "b", "c"] {
        let volume = driver.create(on_dirs(name)).await.unwrap();
        std::fs::remove_dir(driver.directory.path().join("pool/volumes").join(&volume.volume_id)).unwrap();
        lost.push(volume.volume_id);
    }
    let well = driver.create(on_dirs("well")).await.unwrap();
    lost.sort();
    assert_eq!(driver.volumes().await.len(), 4);
    let mut controller = driver.controller.clone();
    let (mut seen, mut starting_token) = (Vec::new(), String::new());
    loop {
        let request =
            ControllerListVolumeHealthRequest { max_entries: 2, starting_token, ..Default::default() };
        let page = controller.controller_list_volume_health(request).await.unwrap().into_inner();
        assert!(page.entries.len() <= 2);
        seen.extend(page.entries);
        starting_token = page.next_token;
        if starting_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen.iter().map(|health| health.volume_id.as_str()).collect::<Vec<_>>(), lost);
    for health in &seen {
        let entry = &health.health_statuses[0];
        assert_eq!(entry.status(), VolumeHealthErrorType::DataLoss);
        assert!(!entry.reason.is_empty() && !entry.message.is_empty());
    }
    let request = ControllerGetVolumeHealthRequest { volume_id: well.volume_id, ..Default::default() };
    let health = controller.controller_get_volume_health(request).await.unwrap().into_inner().volume_health;
    assert!(health.unwrap().health_statuses.is_empty());
    for id in &lost {
        driver.delete(id).await.unwrap();
    }
}
