//! Pools that are configured and not there: what is advertised does not depend on it, what needs them waits, the others work.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rockpool::pool::{Kind, Quota, Setup};
use rockpool::proto::csi::*;
use tonic::Code;

use crate::harness::*;
use crate::surface::{controller_numbers, plugin_numbers};

/// A pool whose place is not there.
fn absent(below: &Path, kind: Kind) -> Setup {
    let path: PathBuf = below.join("not-mounted");
    Setup { name: "gone".into(), kind, path, file: None, device: None, quota: Quota::None, size: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_away_fails_what_needs_it_and_nothing_else() {
    let driver = Driver::with(|below| vec![sim("fast", POOL), pool(absent(below, Kind::Image))]).await;
    let status = driver.identity.clone().probe(ProbeRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("gone"), "{}", status.message());
    let on = |pool: &str| CreateVolumeRequest { parameters: map(&[("pool", pool)]), ..create("v") };
    let status = driver.create(on("gone")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{}", status.message());
    // It may be in that pool, and must not be made on the other node then.
    let elsewhere = CreateVolumeRequest { accessibility_requirements: near(&["node-2"], &[]), ..create("v") };
    let status = driver.create(elsewhere).await.unwrap_err();
    assert_eq!((status.code(), status.message().contains("gone")), (Code::Unavailable, true), "{status}");
    let volume = driver.create(on("fast")).await.unwrap();
    let room = |pool: &str| GetCapacityRequest { parameters: map(&[("pool", pool)]), ..Default::default() };
    let (gone, fast) =
        (driver.capacity(room("gone")).await.unwrap(), driver.capacity(room("fast")).await.unwrap());
    assert_eq!((gone.available_capacity, gone.maximum_volume_size), (0, Some(0)));
    assert!(fast.available_capacity > 0);
    assert_eq!(driver.capacity(GetCapacityRequest::default()).await.unwrap(), fast);
    // A list without that pool would be short, and collectors delete what is not listed.
    for status in [
        driver.controller.clone().list_volumes(ListVolumesRequest::default()).await.unwrap_err(),
        driver.controller.clone().list_snapshots(ListSnapshotsRequest::default()).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("gone"), "{}", status.message());
    }
    let storage =
        driver.node.clone().node_get_storage_health(NodeGetStorageHealthRequest::default()).await.unwrap();
    assert_eq!(storage.into_inner().backend_health[0].status, 2);
    driver.delete(&volume.volume_id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_advertised_is_not_implemented_whatever_its_fields() {
    let driver = Driver::with(|below| vec![pool(absent(below, Kind::Directory))]).await;
    assert_eq!(controller_numbers(&driver).await, BTreeSet::from([1, 3, 4, 9, 12, 13, 16, 17]));
    assert_eq!(plugin_numbers(&driver).await, BTreeSet::from([1, 2, 101]));
    let (mut controller, mut groups, mut metadata) =
        (driver.controller.clone(), driver.groups.clone(), driver.metadata.clone());
    let answers = [
        controller.controller_publish_volume(ControllerPublishVolumeRequest::default()).await.err(),
        controller.controller_unpublish_volume(ControllerUnpublishVolumeRequest::default()).await.err(),
        controller.controller_modify_volume(ControllerModifyVolumeRequest::default()).await.err(),
        controller.create_snapshot(CreateSnapshotRequest::default()).await.err(),
        controller.delete_snapshot(DeleteSnapshotRequest::default()).await.err(),
        controller.list_snapshots(ListSnapshotsRequest { max_entries: -1, ..Default::default() }).await.err(),
        controller.get_snapshot(GetSnapshotRequest::default()).await.err(),
        groups.group_controller_get_capabilities(GroupControllerGetCapabilitiesRequest {}).await.err(),
        groups.create_volume_group_snapshot(CreateVolumeGroupSnapshotRequest::default()).await.err(),
        groups.delete_volume_group_snapshot(DeleteVolumeGroupSnapshotRequest::default()).await.err(),
        groups.get_volume_group_snapshot(GetVolumeGroupSnapshotRequest::default()).await.err(),
        metadata.get_metadata_allocated(GetMetadataAllocatedRequest::default()).await.err(),
        metadata.get_metadata_delta(GetMetadataDeltaRequest::default()).await.err(),
    ];
    for (n, answer) in answers.into_iter().enumerate() {
        let status = answer.unwrap();
        assert_eq!(status.code(), Code::Unimplemented, "{n}: {}", status.message());
        assert!(status.message().contains("is not offered: "), "{}", status.message());
    }
    let request = CreateVolumeRequest { volume_content_source: from_volume(STRANGER), ..create("clone") };
    let status = driver.create(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{}", status.message());
}
