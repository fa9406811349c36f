//! What is advertised, who we are, and what is not offered.

use std::collections::BTreeSet;

use rockpool::proto::csi::*;
use tonic::Code;

use crate::harness::*;

#[tokio::test(flavor = "multi_thread")]
async fn who_we_are_is_said_as_configured() {
    let driver = Driver::start().await;
    let info = driver.identity.clone().get_plugin_info(GetPluginInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(
        (info.name.as_str(), info.vendor_version.as_str()),
        ("csi.rockpool.dev", env!("CARGO_PKG_VERSION"))
    );
    let probe = driver.identity.clone().probe(ProbeRequest {}).await.unwrap().into_inner();
    assert_eq!(probe.ready, Some(true));
    let node = driver.node.clone().node_get_info(NodeGetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((node.node_id.as_str(), node.max_volumes_per_node), (NODE, 7));
    assert_eq!(node.accessible_topology, Some(place(NODE)));
}

pub(crate) async fn controller_numbers(driver: &Driver) -> BTreeSet<i32> {
    let request = ControllerGetCapabilitiesRequest {};
    let answer = driver.controller.clone().controller_get_capabilities(request).await.unwrap().into_inner();
    let number = |capability: ControllerServiceCapability| {
        let controller_service_capability::Type::Rpc(rpc) = capability.r#type.unwrap();
        rpc.r#type
    };
    answer.capabilities.into_iter().map(number).collect()
}

/// Services as their numbers, an expansion as a hundred more.
pub(crate) async fn plugin_numbers(driver: &Driver) -> BTreeSet<i32> {
    let request = GetPluginCapabilitiesRequest {};
    let answer = driver.identity.clone().get_plugin_capabilities(request).await.unwrap().into_inner();
    let number = |capability: PluginCapability| match capability.r#type.unwrap() {
        plugin_capability::Type::Service(service) => service.r#type,
        plugin_capability::Type::VolumeExpansion(expansion) => 100 + expansion.r#type,
    };
    answer.capabilities.into_iter().map(number).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_a_pool_can_do_is_advertised() {
    let driver = Driver::start().await;
    assert_eq!(controller_numbers(&driver).await, BTreeSet::from([1, 3, 4, 5, 6, 7, 9, 12, 13, 15, 16, 17]));
    assert_eq!(plugin_numbers(&driver).await, BTreeSet::from([1, 2, 3, 5, 101]));
    let answer = driver.node.clone().node_get_capabilities(NodeGetCapabilitiesRequest {}).await.unwrap();
    let number = |capability: NodeServiceCapability| {
        let node_service_capability::Type::Rpc(rpc) = capability.r#type.unwrap();
        rpc.r#type
    };
    let numbers: BTreeSet<_> = answer.into_inner().capabilities.into_iter().map(number).collect();
    assert_eq!(numbers, BTreeSet::from([1, 2, 3, 5, 7, 8]));
    let request = GroupControllerGetCapabilitiesRequest {};
    let answer = driver.groups.clone().group_controller_get_capabilities(request).await.unwrap();
    assert_eq!(answer.into_inner().capabilities.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_pool_offers_is_not_implemented_whatever_its_fields() {
    let driver = Driver::start().await;
    let (mut controller, mut metadata) = (driver.controller.clone(), driver.metadata.clone());
    for status in [
        controller.controller_publish_volume(ControllerPublishVolumeRequest::default()).await.unwrap_err(),
        controller
            .controller_unpublish_volume(ControllerUnpublishVolumeRequest::default())
            .await
            .unwrap_err(),
        controller.controller_modify_volume(ControllerModifyVolumeRequest::default()).await.unwrap_err(),
        metadata.get_metadata_allocated(GetMetadataAllocatedRequest::default()).await.map(drop).unwrap_err(),
        metadata.get_metadata_delta(GetMetadataDeltaRequest::default()).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::Unimplemented, "{}", status.message());
        assert!(status.message().contains("is not offered: "), "{}", status.message());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_sent_kills_the_driver() {
    let driver = Driver::start().await;
    let megabyte = "x".repeat(1 << 20);
    let mut controller = driver.controller.clone();
    let request = ListVolumesRequest { max_entries: i32::MIN, starting_token: megabyte.clone() };
    controller.list_volumes(request).await.unwrap_err();
    driver.create(create(&megabyte)).await.unwrap_err();
    let many = vec![VolumeCapability::default(); 100_000];
    let status =
        driver.create(CreateVolumeRequest { volume_capabilities: many, ..create("v") }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let nodes: Vec<_> = (0..5000).map(|n| format!("node-{n}")).collect();
    let nodes: Vec<_> = nodes.iter().map(String::as_str).collect();
    let wide = CreateVolumeRequest { accessibility_requirements: near(&nodes, &nodes), ..create("wide") };
    driver.create(wide).await.unwrap();
    driver.identity.clone().probe(ProbeRequest {}).await.unwrap();
}
