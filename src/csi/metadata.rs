//! The SnapshotMetadata service. It is not offered: which blocks a snapshot holds is told when a pool kind can tell it.

use tonic::codegen::BoxStream;
use tonic::{Request, async_trait};

use crate::proto::csi;
use crate::proto::csi::snapshot_metadata_server::SnapshotMetadata;

use super::offers::NO_METADATA;
use super::status::unadvertised;
use super::{Reply, Services};

#[async_trait]
impl SnapshotMetadata for Services {
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
