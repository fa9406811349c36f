//! GetCapacity.

use rockpool::proto::csi::volume_capability::AccessType;
use rockpool::proto::csi::volume_capability::BlockVolume;
use rockpool::proto::csi::*;
use tonic::Code;

use crate::harness::*;

#[tokio::test(flavor = "multi_thread")]
async fn capacity_answers_for_a_pool_a_place_and_a_capability() {
    let driver = Driver::start().await;
    let all = driver.capacity(GetCapacityRequest::default()).await.unwrap();
    assert_eq!((all.available_capacity, all.maximum_volume_size), (POOL + POOL / 100, Some(POOL)));
    let of = |parameters: &[(&str, &str)]| GetCapacityRequest {
        parameters: map(parameters),
        ..Default::default()
    };
    let small =
        driver.capacity(of(&[("pool", "small"), ("csi.storage.k8s.io/fstype", "xfs")])).await.unwrap();
    assert_eq!(small.available_capacity, POOL / 100);
    assert_eq!(small.minimum_volume_size, Some(300 * MIB), "the smallest xfs");

    assert_eq!(driver.capacity(of(&[("placement", "pack")])).await.unwrap(), all);

    let here = GetCapacityRequest { accessible_topology: Some(place(NODE)), ..Default::default() };
    assert_eq!(driver.capacity(here).await.unwrap(), all);
    let there = GetCapacityRequest { accessible_topology: Some(place("node-2")), ..Default::default() };
    assert_eq!(driver.capacity(there).await.unwrap().available_capacity, 0);
    let shared = capability(AccessType::Block(BlockVolume {}), 5);
    for never in [vec![shared], vec![mount("zfs")], vec![mount(""), block()]] {
        let request = GetCapacityRequest { volume_capabilities: never, ..Default::default() };
        let none = driver.capacity(request).await.unwrap();
        assert_eq!((none.available_capacity, none.maximum_volume_size), (0, Some(0)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_questions_about_capacity_are_refused() {
    let driver = Driver::start().await;
    let of = |parameters: &[(&str, &str)]| GetCapacityRequest {
        parameters: map(parameters),
        ..Default::default()
    };
    let zone = Topology { segments: map(&[("zone", "z")]) };
    let bare = VolumeCapability::default();
    for (bad, word) in [
        (of(&[("pool", "nowhere")]), "`nowhere`"),
        (of(&[("tier", "gold")]), "`tier`"),
        (of(&[("allocation", "thick")]), "`thick`"),
        (of(&[("placement", "tight")]), "`tight`"),
        (of(&[("csi.storage.k8s.io/fstype", "zfs")]), "`zfs`"),
        (GetCapacityRequest { accessible_topology: Some(zone), ..Default::default() }, "`zone`"),
        (GetCapacityRequest { volume_capabilities: vec![bare], ..Default::default() }, "access_type"),
    ] {
        driver.refused(driver.capacity(bad), Code::InvalidArgument, &[word]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_volume_fits_and_one_unit_more_does_not() {
    let driver = Driver::start().await;
    let before = driver.capacity(GetCapacityRequest::default()).await.unwrap();
    let maximum = before.maximum_volume_size.unwrap();
    let sized = |name: &str, required_bytes: i64| CreateVolumeRequest {
        capacity_range: Some(CapacityRange { required_bytes, limit_bytes: 0 }),
        ..create(name)
    };
    driver.refused(driver.create(sized("v", maximum + 4096)), Code::OutOfRange, &["capacity_range"]).await;
    let volume = driver.create(sized("v", maximum)).await.unwrap();
    let after = driver.capacity(GetCapacityRequest::default()).await.unwrap();
    assert_eq!(after.available_capacity, before.available_capacity - maximum);
    driver.delete(&volume.volume_id).await.unwrap();
    assert_eq!(driver.capacity(GetCapacityRequest::default()).await.unwrap(), before);
}
