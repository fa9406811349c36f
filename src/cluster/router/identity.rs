//! Who a controller is: the same as its nodes, and ready whatever becomes of them.

use tonic::codegen::BoxStream;
use tonic::{Request, async_trait};

use super::Router;
use crate::csi::Reply;
use crate::csi::offers::{self, NO_METADATA};
use crate::csi::status::unadvertised;
use crate::proto::csi;
use crate::proto::csi::identity_server::Identity;
use crate::proto::csi::snapshot_metadata_server::SnapshotMetadata;

#[async_trait]
impl Identity for Router {
    async fn get_plugin_info(
        &self,
        _: Request<csi::GetPluginInfoRequest>,
    ) -> Reply<csi::GetPluginInfoResponse> {
        Ok(csi::GetPluginInfoResponse {
            name: self.0.driver.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: Default::default(),
        }
        .into())
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Reply<csi::GetPluginCapabilitiesResponse> {
        let capabilities = offers::plugin(&self.0.features);
        Ok(csi::GetPluginCapabilitiesResponse { capabilities }.into())
    }

    /// Never unhealthy: a node that is away is not cured by restarting this controller, or what waits for it.
    async fn probe(&self, _: Request<csi::ProbeRequest>) -> Reply<csi::ProbeResponse> {
        Ok(csi::ProbeResponse { ready: Some(self.starting().is_none()) }.into())
    }
}

#[async_trait]
impl SnapshotMetadata for Router {
    type GetMetadataAllocatedStream = BoxStream<csi::GetMetadataAllocatedResponse>;
    type GetMetadataDeltaStream = BoxStream<csi::GetMetadataDeltaResponse>;

    async fn get_metadata_allocated(
        &self,
        _: Request<csi::GetMetadataAllocatedRequest>,
    ) -> Reply<Self::GetMetadataAllocatedStream> {
        Err(unadvertised("GetMetadataAllocated", NO_METADATA))
    }

    async fn get_metadata_delta(
        &self,
        _: Request<csi::GetMetadataDeltaRequest>,
    ) -> Reply<Self::GetMetadataDeltaStream> {
        Err(unadvertised("GetMetadataDelta", NO_METADATA))
    }
}
