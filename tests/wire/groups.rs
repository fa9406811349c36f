//! The GroupController service.

use rockpool::proto::csi::*;
use tonic::{Code, Status};

use crate::harness::*;

fn cut(name: &str, sources: &[&str]) -> CreateVolumeGroupSnapshotRequest {
    let source_volume_ids = sources.iter().map(|&id| id.to_owned()).collect();
    CreateVolumeGroupSnapshotRequest { name: name.into(), source_volume_ids, ..Default::default() }
}

async fn create_group(
    driver: &Driver,
    request: CreateVolumeGroupSnapshotRequest,
) -> Result<VolumeGroupSnapshot, Status> {
    let answer = driver.groups.clone().create_volume_group_snapshot(request).await;
    answer.map(|answer| answer.into_inner().group_snapshot.unwrap())
}

async fn delete_group(driver: &Driver, id: &str, members: &[String]) -> Result<(), Status> {
    let request = DeleteVolumeGroupSnapshotRequest {
        group_snapshot_id: id.into(),
        snapshot_ids: members.to_vec(),
        ..Default::default()
    };
    driver.groups.clone().delete_volume_group_snapshot(request).await.map(drop)
}

async fn look_up(driver: &Driver, id: &str, members: &[String]) -> Result<VolumeGroupSnapshot, Status> {
    let request = GetVolumeGroupSnapshotRequest {
        group_snapshot_id: id.into(),
        snapshot_ids: members.to_vec(),
        ..Default::default()
    };
    let answer = driver.groups.clone().get_volume_group_snapshot(request).await;
    answer.map(|answer| answer.into_inner().group_snapshot.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_cut_found_and_deleted_as_one() {
    let driver = Driver::start().await;
    let (v, w) = (driver.volume("v").await.volume_id, driver.volume("w").await.volume_id);
    let made = create_group(&driver, cut("both-of-them", &[&v, &w])).await.unwrap();
    assert!(made.ready_to_use && made.creation_time.is_some());
    assert!(made.snapshots.iter().all(|member| member.group_snapshot_id == made.group_snapshot_id));
    assert_eq!(create_group(&driver, cut("both-of-them", &[&w, &v])).await.unwrap(), made);
    let members: Vec<_> = made.snapshots.iter().rev().map(|member| member.snapshot_id.clone()).collect();
    assert_eq!(look_up(&driver, &made.group_snapshot_id, &members).await.unwrap(), made);
    assert_eq!(driver.snapshots().await.len(), 2);

    driver
        .refused(create_group(&driver, cut("both-of-them", &[&v])), Code::AlreadyExists, &["both-of-them"])
        .await;
    let id = &made.group_snapshot_id;
    let foreign = vec![members[0].clone(), "../x".to_owned()];
    for wrong in [&[][..], &members[..1], &foreign] {
        driver.refused(look_up(&driver, id, wrong), Code::InvalidArgument, &["snapshot_ids"]).await;
        driver.refused(delete_group(&driver, id, wrong), Code::InvalidArgument, &["snapshot_ids"]).await;
    }
    let request = DeleteSnapshotRequest { snapshot_id: members[0].clone(), ..Default::default() };
    driver
        .refused(
            driver.controller.clone().delete_snapshot(request),
            Code::InvalidArgument,
            &["snapshot_id", id],
        )
        .await;

    delete_group(&driver, id, &members).await.unwrap();
    delete_group(&driver, id, &members).await.unwrap();
    delete_group(&driver, id, &[]).await.unwrap();
    assert!(driver.snapshots().await.is_empty());
    assert_eq!(look_up(&driver, id, &members).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_groups_are_refused_and_leave_no_members() {
    let driver = Driver::start().await;
    let v = driver.volume("v").await.volume_id;
    let elsewhere = CreateVolumeRequest {
        parameters: map(&[("pool", "small")]),
        capacity_range: Some(CapacityRange { required_bytes: 100 * MIB, limit_bytes: 0 }),
        ..create("w")
    };
    let w = driver.create(elsewhere).await.unwrap().volume_id;
    let unknown = format!("{}0000", &v[..v.len() - 4]);
    let named = CreateVolumeGroupSnapshotRequest { parameters: map(&[("x", "y")]), ..cut("g", &[&v]) };
    for (bad, code, word) in [
        (cut("", &[&v]), Code::InvalidArgument, "name"),
        (cut("g", &[]), Code::InvalidArgument, "source_volume_ids"),
        (cut("g", &[&v, &v]), Code::InvalidArgument, "source_volume_ids[1]"),
        (cut("g", &[&v, ""]), Code::InvalidArgument, "source_volume_ids[1]"),
        (cut("g", &[&v, ".."]), Code::NotFound, "source_volume_ids[1]"),
        (cut("g", &[&v, &unknown]), Code::NotFound, &unknown),
        (cut("g", &[&v, &w]), Code::FailedPrecondition, "pool"),
        (named, Code::InvalidArgument, "`x`"),
    ] {
        driver.refused(create_group(&driver, bad), code, &[word]).await;
    }
    for id in HOSTILE_IDS {
        delete_group(&driver, id, &[]).await.unwrap();
        driver.refused(look_up(&driver, id, &[]), Code::NotFound, &["group_snapshot_id"]).await;
    }
    driver.refused(delete_group(&driver, "", &[]), Code::InvalidArgument, &["group_snapshot_id"]).await;
    driver.refused(look_up(&driver, "", &[]), Code::InvalidArgument, &["group_snapshot_id"]).await;
}
