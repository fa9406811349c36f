//! Pools that are configured and not there: what needs them waits, and the others work.

use std::path::{Path, PathBuf};

use rockpool::pool::{Kind, Quota, Setup};
use rockpool::proto::csi::*;
use tonic::Code;

use crate::harness::*;

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
    let volume = driver.create(on("fast")).await.unwrap();
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
