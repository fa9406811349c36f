//! The Controller service: which call does what. The calls themselves are in `volumes`, `snapshots` and `health`.

use tonic::{Request, async_trait};

use crate::proto::csi;
use crate::proto::csi::controller_server::Controller;

use super::offers::{NO_ATTACH, NO_MODIFY};
use super::status::unadvertised;
use super::{Reply, Services, noted, offers};

#[async_trait]
impl Controller for Services {
    async fn controller_get_capabilities(
        &self,
        _: Request<csi::ControllerGetCapabilitiesRequest>,
    ) -> Reply<csi::ControllerGetCapabilitiesResponse> {
        let capabilities = offers::controller(&self.plugin.features);
        Ok(csi::ControllerGetCapabilitiesResponse { capabilities }.into())
    }

    async fn create_volume(
        &self,
        request: Request<csi::CreateVolumeRequest>,
    ) -> Reply<csi::CreateVolumeResponse> {
        self.make_volume(noted(request, |r| &r.name)).await
    }

    async fn delete_volume(
        &self,
        request: Request<csi::DeleteVolumeRequest>,
    ) -> Reply<csi::DeleteVolumeResponse> {
        self.remove_volume(noted(request, |r| &r.volume_id)).await
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<csi::ValidateVolumeCapabilitiesRequest>,
    ) -> Reply<csi::ValidateVolumeCapabilitiesResponse> {
        self.validate_volume(noted(request, |r| &r.volume_id)).await
    }

    async fn list_volumes(
        &self,
        request: Request<csi::ListVolumesRequest>,
    ) -> Reply<csi::ListVolumesResponse> {
        self.page_of_volumes(request.into_inner()).await
    }

    async fn controller_get_volume(
        &self,
        request: Request<csi::ControllerGetVolumeRequest>,
    ) -> Reply<csi::ControllerGetVolumeResponse> {
        self.one_volume(noted(request, |r| &r.volume_id)).await
    }

    async fn get_capacity(
        &self,
        request: Request<csi::GetCapacityRequest>,
    ) -> Reply<csi::GetCapacityResponse> {
        self.capacity(request.into_inner()).await
    }

    async fn controller_expand_volume(
        &self,
        request: Request<csi::ControllerExpandVolumeRequest>,
    ) -> Reply<csi::ControllerExpandVolumeResponse> {
        self.expand_volume(noted(request, |r| &r.volume_id)).await
    }

    async fn create_snapshot(
        &self,
        request: Request<csi::CreateSnapshotRequest>,
    ) -> Reply<csi::CreateSnapshotResponse> {
        self.cut_snapshot(noted(request, |r| &r.name)).await
    }

    async fn delete_snapshot(
        &self,
        request: Request<csi::DeleteSnapshotRequest>,
    ) -> Reply<csi::DeleteSnapshotResponse> {
        self.remove_snapshot(noted(request, |r| &r.snapshot_id)).await
    }

    async fn list_snapshots(
        &self,
        request: Request<csi::ListSnapshotsRequest>,
    ) -> Reply<csi::ListSnapshotsResponse> {
        self.page_of_snapshots(noted(request, |r| &r.snapshot_id)).await
    }

    async fn get_snapshot(
        &self,
        request: Request<csi::GetSnapshotRequest>,
    ) -> Reply<csi::GetSnapshotResponse> {
        self.one_snapshot(noted(request, |r| &r.snapshot_id)).await
    }

    async fn controller_get_volume_health(
        &self,
        request: Request<csi::ControllerGetVolumeHealthRequest>,
    ) -> Reply<csi::ControllerGetVolumeHealthResponse> {
        self.health_of_volume(noted(request, |r| &r.volume_id)).await
    }

    async fn controller_list_volume_health(
        &self,
        request: Request<csi::ControllerListVolumeHealthRequest>,
    ) -> Reply<csi::ControllerListVolumeHealthResponse> {
        self.page_of_unhealthy(request.into_inner()).await
    }

    async fn controller_publish_volume(
        &self,
        _: Request<csi::ControllerPublishVolumeRequest>,
    ) -> Reply<csi::ControllerPublishVolumeResponse> {
        Err(unadvertised("ControllerPublishVolume", NO_ATTACH))
    }

    async fn controller_unpublish_volume(
        &self,
        _: Request<csi::ControllerUnpublishVolumeRequest>,
    ) -> Reply<csi::ControllerUnpublishVolumeResponse> {
        Err(unadvertised("ControllerUnpublishVolume", NO_ATTACH))
    }

    async fn controller_modify_volume(
        &self,
        _: Request<csi::ControllerModifyVolumeRequest>,
    ) -> Reply<csi::ControllerModifyVolumeResponse> {
        Err(unadvertised("ControllerModifyVolume", NO_MODIFY))
    }
}
