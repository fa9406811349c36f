//! DeleteVolume, ControllerExpandVolume, ValidateVolumeCapabilities, ControllerGetVolume.

use rockpool::proto::csi::volume_capability::{AccessType, BlockVolume, MountVolume};
use rockpool::proto::csi::*;
use tonic::Code;

use crate::harness::*;

#[tokio::test(flavor = "multi_thread")]
async fn deletes_of_nothing_succeed_and_of_an_absent_pool_do_not() {
    let driver = Driver::start().await;
    let volume = driver.volume("v").await;
    driver.refused(driver.delete(""), Code::InvalidArgument, &["volume_id is missing"]).await;
    driver.refused(driver.delete(&"v".repeat(129)), Code::InvalidArgument, &["volume_id", "129 bytes"]).await;
    driver.refused(driver.delete(STRANGER), Code::Unavailable, &["0123456789ab"]).await;
    for id in HOSTILE_IDS {
        driver.delete(id).await.unwrap();
    }
    assert_eq!(driver.volumes().await.len(), 1);
    let request =
        DeleteVolumeRequest { volume_id: volume.volume_id.clone(), secrets: map(&[("any", "thing")]) };
    driver.controller.clone().delete_volume(request).await.unwrap();
    driver.delete(&volume.volume_id).await.unwrap();
    assert!(driver.volumes().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_grows_and_never_shrinks() {
    let driver = Driver::start().await;
    let volume = driver.volume("v").await;
    let request = |required_bytes, limit_bytes| ControllerExpandVolumeRequest {
        volume_id: volume.volume_id.clone(),
        capacity_range: Some(CapacityRange { required_bytes, limit_bytes }),
        ..Default::default()
    };
    let expand = |request| {
        let mut client = driver.controller.clone();
        async move { client.controller_expand_volume(request).await.map(|answer| answer.into_inner()) }
    };
    for (bad, code, word) in [
        (
            ControllerExpandVolumeRequest { volume_id: String::new(), ..request(GIB, 0) },
            Code::InvalidArgument,
            "volume_id",
        ),
        (
            ControllerExpandVolumeRequest { capacity_range: None, ..request(0, 0) },
            Code::InvalidArgument,
            "capacity_range",
        ),
        (request(0, 0), Code::InvalidArgument, "capacity_range"),
        (request(-1, 0), Code::OutOfRange, "-1"),
        (request(2 * GIB, GIB), Code::OutOfRange, "limit_bytes"),
        (request(0, MIB), Code::OutOfRange, "limit"),
        (request(i64::MAX, 0), Code::OutOfRange, "capacity_range"),
        (
            ControllerExpandVolumeRequest { volume_id: "..".into(), ..request(GIB, 0) },
            Code::NotFound,
            "volume_id",
        ),
        (
            ControllerExpandVolumeRequest { volume_id: STRANGER.into(), ..request(GIB, 0) },
            Code::Unavailable,
            "pool",
        ),
        (
            ControllerExpandVolumeRequest { volume_capability: Some(block()), ..request(GIB, 0) },
            Code::InvalidArgument,
            "block",
        ),
    ] {
        driver.refused(expand(bad), code, &[word]).await;
    }
    let same = expand(request(MIB, 0)).await.unwrap();
    assert_eq!(same.capacity_bytes, GIB);
    for _ in 0..2 {
        let grown = expand(request(2 * GIB, 0)).await.unwrap();
        assert_eq!((grown.capacity_bytes, grown.node_expansion_required), (2 * GIB, true));
    }
    let raw = driver
        .create(CreateVolumeRequest { volume_capabilities: vec![block()], ..create("raw") })
        .await
        .unwrap();
    let grown = expand(ControllerExpandVolumeRequest { volume_id: raw.volume_id, ..request(2 * GIB, 0) })
        .await
        .unwrap();
    assert!(!grown.node_expansion_required);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validation_confirms_only_what_is_true() {
    let driver = Driver::start().await;
    let made = driver
        .create(CreateVolumeRequest { parameters: map(&[("pool", "fast")]), ..create("v") })
        .await
        .unwrap();
    let good = ValidateVolumeCapabilitiesRequest {
        volume_id: made.volume_id.clone(),
        volume_capabilities: vec![mount(""), mount("ext4")],
        volume_context: made.volume_context.clone(),
        parameters: map(&[("pool", "fast")]),
        ..Default::default()
    };
    let validate = |request| {
        let mut client = driver.controller.clone();
        async move { client.validate_volume_capabilities(request).await.map(|answer| answer.into_inner()) }
    };
    let confirmed = validate(good.clone()).await.unwrap().confirmed.unwrap();
    assert_eq!(confirmed.volume_capabilities, good.volume_capabilities);
    assert_eq!(
        (confirmed.volume_context, confirmed.parameters),
        (good.volume_context.clone(), good.parameters.clone())
    );

    let rwx = capability(AccessType::Mount(MountVolume::default()), 5);
    for (wrong, word) in [
        (ValidateVolumeCapabilitiesRequest { volume_capabilities: vec![block()], ..good.clone() }, "block"),
        (
            ValidateVolumeCapabilitiesRequest { volume_capabilities: vec![mount(""), rwx], ..good.clone() },
            "MULTI_NODE",
        ),
        (
            ValidateVolumeCapabilitiesRequest { volume_capabilities: vec![mount("xfs")], ..good.clone() },
            "xfs",
        ),
        (
            ValidateVolumeCapabilitiesRequest { volume_capabilities: vec![mount("zfs")], ..good.clone() },
            "zfs",
        ),
        (
            ValidateVolumeCapabilitiesRequest { volume_context: map(&[("pool", "x")]), ..good.clone() },
            "volume_context[pool]",
        ),
        (ValidateVolumeCapabilitiesRequest { volume_context: map(&[("who", "x")]), ..good.clone() }, "`who`"),
        (
            ValidateVolumeCapabilitiesRequest { parameters: map(&[("pool", "x")]), ..good.clone() },
            "parameters[pool]",
        ),
        (ValidateVolumeCapabilitiesRequest { parameters: map(&[("tier", "x")]), ..good.clone() }, "`tier`"),
        (
            ValidateVolumeCapabilitiesRequest { mutable_parameters: map(&[("a", "b")]), ..good.clone() },
            "mutable",
        ),
    ] {
        let answer = validate(wrong).await.unwrap();
        assert!(answer.confirmed.is_none() && answer.message.contains(word), "{word}: {}", answer.message);
    }

    let bare = VolumeCapability { access_type: Some(AccessType::Block(BlockVolume {})), access_mode: None };
    for (bad, code, word) in [
        (
            ValidateVolumeCapabilitiesRequest { volume_id: String::new(), ..good.clone() },
            Code::InvalidArgument,
            "volume_id",
        ),
        (
            ValidateVolumeCapabilitiesRequest {
                volume_capabilities: vec![],
                volume_id: "..".into(),
                ..good.clone()
            },
            Code::InvalidArgument,
            "volume_capabilities",
        ),
        (
            ValidateVolumeCapabilitiesRequest { volume_capabilities: vec![bare], ..good.clone() },
            Code::InvalidArgument,
            "mode",
        ),
        (
            ValidateVolumeCapabilitiesRequest { volume_id: "..".into(), ..good.clone() },
            Code::NotFound,
            "`..`",
        ),
    ] {
        driver.refused(validate(bad), code, &[word]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_can_be_looked_up() {
    let driver = Driver::start().await;
    let volume = driver.volume("v").await;
    let look_up = |id: &str| {
        let request = ControllerGetVolumeRequest { volume_id: id.to_owned() };
        let mut client = driver.controller.clone();
        async move { client.controller_get_volume(request).await.map(|answer| answer.into_inner()) }
    };
    let found = look_up(&volume.volume_id).await.unwrap();
    assert_eq!(found.volume.unwrap(), volume);
    assert!(found.status.is_some());
    driver.refused(look_up(""), Code::InvalidArgument, &["volume_id"]).await;
    driver.refused(look_up(STRANGER), Code::Unavailable, &["0123456789ab"]).await;
    for id in HOSTILE_IDS {
        driver.refused(look_up(id), Code::NotFound, &["volume_id"]).await;
    }
    driver.delete(&volume.volume_id).await.unwrap();
    driver.refused(look_up(&volume.volume_id), Code::NotFound, &[&volume.volume_id]).await;
}
