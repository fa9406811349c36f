//! The Controller service of a controller: which call is routed how.
//!
//! A call about one object goes to the node that has the pool in its id, as it came. Its fields are checked here as well, so
//! that what is wrong with a request does not depend on who is connected.

use tonic::{Request, async_trait};

use super::Router;
use super::forward::controller;
use crate::csi::checked::{health, snapshots, volumes};
use crate::csi::offers::{self, NO_ATTACH, NO_MODIFY};
use crate::csi::status::unadvertised;
use crate::csi::{Reply, noted};
use crate::model::{Named, name_hash};
use crate::proto::csi;
use crate::proto::csi::controller_server::Controller;

#[async_trait]
impl Controller for Router {
    async fn controller_get_capabilities(
        &self,
        _: Request<csi::ControllerGetCapabilitiesRequest>,
    ) -> Reply<csi::ControllerGetCapabilitiesResponse> {
        let capabilities = offers::controller(&self.0.features);
        Ok(csi::ControllerGetCapabilitiesResponse { capabilities }.into())
    }

    async fn create_volume(
        &self,
        request: Request<csi::CreateVolumeRequest>,
    ) -> Reply<csi::CreateVolumeResponse> {
        let until = self.until(&request);
        self.make_volume(noted(request, |r| &r.name), until).await
    }

    async fn delete_volume(
        &self,
        request: Request<csi::DeleteVolumeRequest>,
    ) -> Reply<csi::DeleteVolumeResponse> {
        let until = self.until(&request);
        let request = noted(request, |r| &r.volume_id);
        let Some(volume) = volumes::delete(&request)? else {
            return Ok(csi::DeleteVolumeResponse {}.into());
        };
        let call = |line| async move { controller(line).delete_volume(request).await };
        self.delete_at(volume.into(), until, call).await
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<csi::ValidateVolumeCapabilitiesRequest>,
    ) -> Reply<csi::ValidateVolumeCapabilitiesResponse> {
        let until = self.until(&request);
        let request = noted(request, |r| &r.volume_id);
        let (volume, _) = volumes::validate(&request)?;
        let call = |line| async move { controller(line).validate_volume_capabilities(request).await };
        self.at(volume.pool(), until, call).await
    }

    async fn list_volumes(
        &self,
        request: Request<csi::ListVolumesRequest>,
    ) -> Reply<csi::ListVolumesResponse> {
        let until = self.until(&request);
        self.page_of_volumes(&request.into_inner(), until).await
    }

    async fn controller_get_volume(
        &self,
        request: Request<csi::ControllerGetVolumeRequest>,
    ) -> Reply<csi::ControllerGetVolumeResponse> {
        let until = self.until(&request);
        let request = noted(request, |r| &r.volume_id);
        let volume = volumes::get(&request)?;
        let call = |line| async move { controller(line).controller_get_volume(request).await };
        self.at(volume.pool(), until, call).await
    }

    async fn get_capacity(
        &self,
        request: Request<csi::GetCapacityRequest>,
    ) -> Reply<csi::GetCapacityResponse> {
        self.room(&request.into_inner())
    }

    async fn controller_expand_volume(
        &self,
        request: Request<csi::ControllerExpandVolumeRequest>,
    ) -> Reply<csi::ControllerExpandVolumeResponse> {
        let until = self.until(&request);
        let request = noted(request, |r| &r.volume_id);
        let wanted = volumes::expand(&request)?;
        let call = |line| async move { controller(line).controller_expand_volume(request).await };
        self.at(wanted.volume.pool(), until, call).await
    }

    async fn create_snapshot(
        &self,
        request: Request<csi::CreateSnapshotRequest>,
    ) -> Reply<csi::CreateSnapshotResponse> {
        let until = self.until(&request);
        let request = noted(request, |r| &r.name);
        let wanted = snapshots::create(&request, &self.0.features)?.snapshot;
        let cut = |node, request| async move {
            let call = |line| async move { controller(line).create_snapshot(request).await };
            self.forward(&node, until, call).await
        };
        let hash = name_hash(Named::Snapshot, &wanted.name);
        let made = |answer: &csi::CreateSnapshotResponse| {
            answer.snapshot.iter().map(|cut| cut.snapshot_id.clone()).collect()
        };
        self.at_the_source(hash, &[wanted.source], request, (cut, made)).await
    }

    async fn delete_snapshot(
        &self,
        request: Request<csi::DeleteSnapshotRequest>,
    ) -> Reply<csi::DeleteSnapshotResponse> {
        let until = self.until(&request);
        let request = noted(request, |r| &r.snapshot_id);
        let Some(snapshot) = snapshots::delete(&request, &self.0.features)? else {
            return Ok(csi::DeleteSnapshotResponse {}.into());
        };
        let call = |line| async move { controller(line).delete_snapshot(request).await };
        self.delete_at(snapshot.into(), until, call).await
    }

    async fn list_snapshots(
        &self,
        request: Request<csi::ListSnapshotsRequest>,
    ) -> Reply<csi::ListSnapshotsResponse> {
        let until = self.until(&request);
        self.page_of_snapshots(noted(request, |r| &r.snapshot_id), until).await
    }

    async fn get_snapshot(
        &self,
        request: Request<csi::GetSnapshotRequest>,
    ) -> Reply<csi::GetSnapshotResponse> {
        let until = self.until(&request);
        let request = noted(request, |r| &r.snapshot_id);
        let snapshot = snapshots::get(&request, &self.0.features)?;
        let call = |line| async move { controller(line).get_snapshot(request).await };
        self.at(snapshot.pool(), until, call).await
    }

    async fn controller_get_volume_health(
        &self,
        request: Request<csi::ControllerGetVolumeHealthRequest>,
    ) -> Reply<csi::ControllerGetVolumeHealthResponse> {
        let until = self.until(&request);
        let request = noted(request, |r| &r.volume_id);
        let volume = health::get(&request)?;
        let call = |line| async move { controller(line).controller_get_volume_health(request).await };
        Ok(self.forward(&self.witness(volume.pool())?, until, call).await?.into())
    }

    async fn controller_list_volume_health(
        &self,
        request: Request<csi::ControllerListVolumeHealthRequest>,
    ) -> Reply<csi::ControllerListVolumeHealthResponse> {
        let until = self.until(&request);
        self.page_of_unhealthy(request.into_inner(), until).await
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
