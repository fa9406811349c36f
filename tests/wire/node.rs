//! The Node service, as far as it goes without a device: every refusal that comes before one.

use rockpool::proto::csi::volume_capability::{AccessType, MountVolume};
use rockpool::proto::csi::*;
use tonic::Code;

use crate::harness::*;

/// A stage, a publish and the paths for them.
struct Use {
    volume: Volume,
    stage: NodeStageVolumeRequest,
    publish: NodePublishVolumeRequest,
}

async fn prepared(driver: &Driver) -> Use {
    let volume = driver.volume("v").await;
    let root = driver.directory.path().join("kubelet");
    let staging = root.join("staging");
    std::fs::create_dir(&staging).unwrap();
    let stage = NodeStageVolumeRequest {
        volume_id: volume.volume_id.clone(),
        staging_target_path: staging.display().to_string(),
        volume_capability: Some(mount("")),
        volume_context: volume.volume_context.clone(),
        ..Default::default()
    };
    let publish = NodePublishVolumeRequest {
        volume_id: volume.volume_id.clone(),
        staging_target_path: staging.display().to_string(),
        target_path: root.join("target").display().to_string(),
        volume_capability: Some(mount("")),
        volume_context: volume.volume_context.clone(),
        ..Default::default()
    };
    Use { volume, stage, publish }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_stages_are_refused_and_leave_the_directory_empty() {
    let driver = Driver::start().await;
    let Use { stage, .. } = prepared(&driver).await;
    type Spoil = fn(&mut NodeStageVolumeRequest);
    let cases: &[(Spoil, Code, &[&str])] = &[
        (|r| r.volume_id.clear(), Code::InvalidArgument, &["volume_id is missing"]),
        (|r| r.volume_id = "v".repeat(129), Code::InvalidArgument, &["volume_id", "129 bytes"]),
        (|r| r.volume_id = "../../etc".into(), Code::NotFound, &["volume_id", "`../../etc`"]),
        (|r| r.volume_id = STRANGER.into(), Code::Unavailable, &["0123456789ab"]),
        (|r| r.staging_target_path.clear(), Code::InvalidArgument, &["staging_target_path is missing"]),
        (
            |r| r.staging_target_path = "a/b".into(),
            Code::InvalidArgument,
            &["staging_target_path `a/b`", "absolute"],
        ),
        (
            |r| r.staging_target_path.push_str("/../x"),
            Code::InvalidArgument,
            &["staging_target_path", "`..`"],
        ),
        (|r| r.staging_target_path.push('\0'), Code::InvalidArgument, &["staging_target_path", "NUL"]),
        (
            |r| r.staging_target_path = "/".repeat(5000),
            Code::InvalidArgument,
            &["staging_target_path", "5000 bytes"],
        ),
        (|r| r.volume_capability = None, Code::InvalidArgument, &["volume_capability is missing"]),
        (
            |r| r.volume_capability = Some(VolumeCapability::default()),
            Code::InvalidArgument,
            &["access_type"],
        ),
        (
            |r| r.volume_capability.as_mut().unwrap().access_mode = None,
            Code::InvalidArgument,
            &["volume_capability.access_mode.mode"],
        ),
        (
            |r| r.volume_capability = Some(capability(AccessType::Mount(MountVolume::default()), 4)),
            Code::InvalidArgument,
            &["MULTI_NODE_SINGLE_WRITER"],
        ),
        (|r| r.volume_capability = Some(mount("zfs")), Code::InvalidArgument, &["fs_type `zfs`"]),
        (
            |r| r.volume_capability = Some(with_flags(&["s3cret,ro"])),
            Code::InvalidArgument,
            &["mount_flags[0]"],
        ),
        (
            |r| r.volume_capability = Some(with_group("1000")),
            Code::InvalidArgument,
            &["volume_capability.mount.volume_mount_group `1000`"],
        ),
        (
            |r| r.volume_capability = Some(with_flags(&["nosuch=s3cret"])),
            Code::InvalidArgument,
            &["volume_capability.mount.mount_flags[0]", "noatime"],
        ),
        (
            |r| r.volume_capability = Some(with_flags(&[&"s3cret".repeat(700)])),
            Code::InvalidArgument,
            &["4096"],
        ),
        (|r| r.secrets = map(&[("k", &"s3cret".repeat(700))]), Code::InvalidArgument, &["secrets", "4096"]),
        (
            |r| r.publish_context = map(&[("k", &"v".repeat(4096))]),
            Code::InvalidArgument,
            &["publish_context"],
        ),
        (|r| r.volume_context = map(&[("k", &"v".repeat(4096))]), Code::InvalidArgument, &["volume_context"]),
        (|r| r.volume_id.replace_range(24.., "00000000"), Code::NotFound, &["volume_id", "00000000"]),
        (
            |r| drop(r.volume_context.insert("pool".into(), "s3cret".into())),
            Code::InvalidArgument,
            &["volume_context[pool]"],
        ),
        (
            |r| drop(r.volume_context.insert("size".into(), "s3cret".into())),
            Code::InvalidArgument,
            &["volume_context[size]"],
        ),
        (
            |r| drop(r.volume_context.insert("csi.storage.k8s.io/ephemeral".into(), "true".into())),
            Code::InvalidArgument,
            &["ephemeral"],
        ),
    ];
    for (spoil, code, words) in cases {
        let mut request = stage.clone();
        spoil(&mut request);
        let message = driver.refused(driver.node.clone().node_stage_volume(request), *code, words).await;
        assert!(!message.contains("s3cret"), "{message}");
    }
    assert_eq!(std::fs::read_dir(&stage.staging_target_path).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_lead_astray_are_refused() {
    let driver = Driver::start().await;
    let Use { volume, stage, .. } = prepared(&driver).await;
    let root = driver.directory.path().join("kubelet");
    let outside = driver.directory.path().join("outside");
    for directory in [&outside, &outside.join("below"), &root.join("full"), &root.join("full/below")] {
        std::fs::create_dir(directory).unwrap();
    }
    std::os::unix::fs::symlink(&outside, root.join("link")).unwrap();
    std::fs::write(root.join("file"), "").unwrap();
    let cases = [
        (outside.join("below"), Code::InvalidArgument, "outside"),
        (root.join("link/below"), Code::InvalidArgument, "symlink"),
        (root.join("link"), Code::FailedPrecondition, "link"),
        (root.join("file"), Code::FailedPrecondition, "file"),
        (root.join("full"), Code::FailedPrecondition, "not empty"),
        (root.join("absent"), Code::FailedPrecondition, "absent"),
        (root.join("absent/below"), Code::FailedPrecondition, "absent/below"),
        (root, Code::InvalidArgument, "root"),
    ];
    for (path, code, word) in cases {
        let staging_target_path = path.display().to_string();
        let request = NodeStageVolumeRequest { staging_target_path, ..stage.clone() };
        driver.refused(driver.node.clone().node_stage_volume(request), code, &[word]).await;
        if code == Code::InvalidArgument {
            let (volume_id, target_path) = (volume.volume_id.clone(), path.display().to_string());
            let request = NodeUnpublishVolumeRequest { volume_id, target_path };
            driver.refused(driver.node.clone().node_unpublish_volume(request), code, &[word]).await;
        }
    }
    assert_eq!(std::fs::read_dir(outside.join("below")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_not_staged_as_what_it_is_not() {
    let driver = Driver::start().await;
    let Use { stage, .. } = prepared(&driver).await;
    for other in [block(), mount("xfs")] {
        let request = NodeStageVolumeRequest { volume_capability: Some(other), ..stage.clone() };
        let Err(status) = driver.node.clone().node_stage_volume(request).await else {
            panic!("it was staged")
        };
        assert!(
            matches!(status.code(), Code::InvalidArgument | Code::FailedPrecondition),
            "{}",
            status.message()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_publishes_are_refused_and_leave_no_target() {
    let driver = Driver::start().await;
    let Use { publish, .. } = prepared(&driver).await;
    type Spoil = fn(&mut NodePublishVolumeRequest);
    let cases: &[(Spoil, Code, &[&str])] = &[
        (|r| r.volume_id.clear(), Code::InvalidArgument, &["volume_id is missing"]),
        (|r| r.volume_id = "..".into(), Code::NotFound, &["volume_id", "`..`"]),
        (|r| r.volume_id = STRANGER.into(), Code::Unavailable, &["0123456789ab"]),
        (|r| r.target_path.clear(), Code::InvalidArgument, &["target_path is missing"]),
        (|r| r.target_path = "x".into(), Code::InvalidArgument, &["target_path `x`", "absolute"]),
        (|r| r.volume_capability = None, Code::InvalidArgument, &["volume_capability is missing"]),
        (|r| r.volume_capability = Some(with_flags(&["a,b"])), Code::InvalidArgument, &["mount_flags[0]"]),
        (
            |r| r.volume_capability = Some(with_group("1000")),
            Code::InvalidArgument,
            &["volume_mount_group `1000`"],
        ),
        (|r| r.staging_target_path.clear(), Code::FailedPrecondition, &["staging_target_path is missing"]),
        (|r| r.staging_target_path = "x".into(), Code::InvalidArgument, &["staging_target_path `x`"]),
        (|_| (), Code::FailedPrecondition, &["staging_target_path", "not staged"]),
        (
            |r| drop(r.volume_context.insert("pool".into(), "other".into())),
            Code::InvalidArgument,
            &["volume_context[pool]"],
        ),
        (
            |r| drop(r.volume_context.insert("csi.storage.k8s.io/ephemeral".into(), "true".into())),
            Code::InvalidArgument,
            &["ephemeral"],
        ),
    ];
    for (spoil, code, words) in cases {
        let mut request = publish.clone();
        spoil(&mut request);
        driver.refused(driver.node.clone().node_publish_volume(request), *code, words).await;
    }
    assert!(!std::path::Path::new(&publish.target_path).exists());

    // Kubelet adds tokens of any size and the provisioner its mark; neither is looked at.
    let mut injected = publish.clone();
    injected.volume_context.insert("csi.storage.k8s.io/serviceAccount.tokens".into(), "t".repeat(10_000));
    injected.volume_context.insert("storage.kubernetes.io/csiProvisionerIdentity".into(), "x".into());
    let call = driver.node.clone().node_publish_volume(injected).await;
    assert_eq!(call.unwrap_err().code(), Code::FailedPrecondition, "it comes as far as the staging path");
}

#[tokio::test(flavor = "multi_thread")]
async fn taking_away_what_is_not_there_succeeds() {
    let driver = Driver::start().await;
    let Use { volume, stage, publish } = prepared(&driver).await;
    let unpublish = |volume_id: &str, target_path: &str| {
        let request =
            NodeUnpublishVolumeRequest { volume_id: volume_id.into(), target_path: target_path.into() };
        let mut node = driver.node.clone();
        async move { node.node_unpublish_volume(request).await }
    };
    let unstage = |volume_id: &str, staging: &str| {
        let request =
            NodeUnstageVolumeRequest { volume_id: volume_id.into(), staging_target_path: staging.into() };
        let mut node = driver.node.clone();
        async move { node.node_unstage_volume(request).await }
    };
    unpublish(&volume.volume_id, &publish.target_path).await.unwrap();
    unstage(&volume.volume_id, &stage.staging_target_path).await.unwrap();
    assert!(
        std::path::Path::new(&stage.staging_target_path).is_dir(),
        "the staging directory is the caller's"
    );
    for (id, path, code, word) in [
        ("", "/x", Code::InvalidArgument, "volume_id"),
        (volume.volume_id.as_str(), "", Code::InvalidArgument, "path"),
        (volume.volume_id.as_str(), "x", Code::InvalidArgument, "`x`"),
        ("..", "/x", Code::NotFound, "`..`"),
    ] {
        driver.refused(unpublish(id, path), code, &[word]).await;
        driver.refused(unstage(id, path), code, &[word]).await;
    }
    let kept = driver.directory.path().join("kubelet/kept");
    std::fs::create_dir(&kept).unwrap();
    std::fs::write(kept.join("data"), "precious").unwrap();
    let call = unpublish(&volume.volume_id, &kept.display().to_string());
    driver.refused(call, Code::FailedPrecondition, &["target_path"]).await;
    assert!(kept.join("data").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_and_growth_of_what_is_not_there_are_not_found() {
    let driver = Driver::start().await;
    let Use { volume, publish, .. } = prepared(&driver).await;
    let stats = |volume_id: &str, path: &str| {
        let (volume_id, volume_path) = (volume_id.to_owned(), path.to_owned());
        let request = NodeGetVolumeStatsRequest { volume_id, volume_path, ..Default::default() };
        let mut node = driver.node.clone();
        async move { node.node_get_volume_stats(request).await }
    };
    let expand = |volume_id: &str, path: &str, range: Option<(i64, i64)>| {
        let (volume_id, volume_path) = (volume_id.to_owned(), path.to_owned());
        let range = range.map(|(required_bytes, limit_bytes)| CapacityRange { required_bytes, limit_bytes });
        let request =
            NodeExpandVolumeRequest { volume_id, volume_path, capacity_range: range, ..Default::default() };
        let mut node = driver.node.clone();
        async move { node.node_expand_volume(request).await }
    };
    let id = volume.volume_id.as_str();
    for (id, path, code, word) in [
        ("", "/x", Code::InvalidArgument, "volume_id"),
        (id, "", Code::InvalidArgument, "volume_path"),
        ("some-id", "some/path", Code::NotFound, "volume_id"),
        (id, "some/path", Code::NotFound, "some/path"),
        (id, "/proc", Code::NotFound, "/proc"),
        (id, publish.target_path.as_str(), Code::NotFound, "target"),
    ] {
        driver.refused(stats(id, path), code, &[word]).await;
        driver.refused(expand(id, path, None), code, &[word]).await;
    }
    driver.refused(expand(id, "/x", Some((0, 0))), Code::InvalidArgument, &["capacity_range"]).await;
    driver.refused(expand(id, "/x", Some((2, 1))), Code::OutOfRange, &["limit_bytes 1"]).await;
    driver.refused(expand(id, "/x", Some((-2, 0))), Code::OutOfRange, &["-2"]).await;
}
