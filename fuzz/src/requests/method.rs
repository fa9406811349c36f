//! Every method that a node serves, and what it may answer.
//!
//! Owns: the codes that the contract allows to one caller of a node on which nothing is wrong. Never: leaves a method out:
//! [`check_table`] reads `proto/`.

use prost::Message;
use rockpool::proto::{admin, csi};
use tonic::Code::{
    self, Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OutOfRange,
    ResourceExhausted, Unavailable, Unimplemented,
};

/// What a method does where it answers OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It only tells.
    Reads,
    /// It makes something that can be deleted again.
    Makes,
    /// It changes or removes something.
    Changes,
    /// It cannot be OK here: not offered, or without a device to mount.
    Never,
}

/// One method.
pub(super) struct Method {
    /// Its path.
    pub(super) path: &'static str,
    /// The codes of a refusal.
    pub(super) codes: &'static [Code],
    /// What OK means.
    pub(super) effect: Effect,
    /// Whether bytes are a request of it.
    pub(super) decodes: fn(&[u8]) -> bool,
}

const fn method<M: Message + Default>(path: &'static str, effect: Effect, codes: &'static [Code]) -> Method {
    Method { path, codes, effect, decodes: |bytes| M::decode(bytes).is_ok() }
}

use Effect::{Changes, Makes, Never, Reads};

/// In the order of `proto/`. An input names one by its place, so new ones come last.
#[rustfmt::skip]
pub(super) const METHODS: [Method; 44] = [
    method::<csi::GetPluginInfoRequest>("csi.v1.Identity/GetPluginInfo", Reads, &[]),
    method::<csi::GetPluginCapabilitiesRequest>("csi.v1.Identity/GetPluginCapabilities", Reads, &[]),
    method::<csi::ProbeRequest>("csi.v1.Identity/Probe", Reads, &[]),
    method::<csi::CreateVolumeRequest>("csi.v1.Controller/CreateVolume", Makes, &[InvalidArgument, NotFound, AlreadyExists, ResourceExhausted, OutOfRange, Unavailable]),
    method::<csi::DeleteVolumeRequest>("csi.v1.Controller/DeleteVolume", Changes, &[InvalidArgument, Unavailable]),
    method::<csi::ControllerPublishVolumeRequest>("csi.v1.Controller/ControllerPublishVolume", Never, &[Unimplemented]),
    method::<csi::ControllerUnpublishVolumeRequest>("csi.v1.Controller/ControllerUnpublishVolume", Never, &[Unimplemented]),
    method::<csi::ValidateVolumeCapabilitiesRequest>("csi.v1.Controller/ValidateVolumeCapabilities", Reads, &[InvalidArgument, NotFound, Unavailable]),
    method::<csi::ListVolumesRequest>("csi.v1.Controller/ListVolumes", Reads, &[InvalidArgument, Aborted]),
    method::<csi::GetCapacityRequest>("csi.v1.Controller/GetCapacity", Reads, &[InvalidArgument]),
    method::<csi::ControllerGetCapabilitiesRequest>("csi.v1.Controller/ControllerGetCapabilities", Reads, &[]),
    method::<csi::CreateSnapshotRequest>("csi.v1.Controller/CreateSnapshot", Makes, &[InvalidArgument, NotFound, AlreadyExists, ResourceExhausted, Unavailable]),
    method::<csi::DeleteSnapshotRequest>("csi.v1.Controller/DeleteSnapshot", Changes, &[InvalidArgument, Unavailable]),
    method::<csi::ListSnapshotsRequest>("csi.v1.Controller/ListSnapshots", Reads, &[InvalidArgument, Aborted, Unavailable]),
    method::<csi::GetSnapshotRequest>("csi.v1.Controller/GetSnapshot", Reads, &[InvalidArgument, NotFound, Unavailable]),
    method::<csi::ControllerExpandVolumeRequest>("csi.v1.Controller/ControllerExpandVolume", Changes, &[InvalidArgument, NotFound, OutOfRange, ResourceExhausted, Unavailable]),
    method::<csi::ControllerGetVolumeRequest>("csi.v1.Controller/ControllerGetVolume", Reads, &[InvalidArgument, NotFound, Unavailable]),
    method::<csi::ControllerModifyVolumeRequest>("csi.v1.Controller/ControllerModifyVolume", Never, &[Unimplemented]),
    method::<csi::ControllerGetVolumeHealthRequest>("csi.v1.Controller/ControllerGetVolumeHealth", Reads, &[InvalidArgument, NotFound, Unavailable]),
    method::<csi::ControllerListVolumeHealthRequest>("csi.v1.Controller/ControllerListVolumeHealth", Reads, &[InvalidArgument, Aborted]),
    method::<csi::GroupControllerGetCapabilitiesRequest>("csi.v1.GroupController/GroupControllerGetCapabilities", Reads, &[]),
    method::<csi::CreateVolumeGroupSnapshotRequest>("csi.v1.GroupController/CreateVolumeGroupSnapshot", Makes, &[InvalidArgument, NotFound, AlreadyExists, ResourceExhausted, FailedPrecondition, Unavailable]),
    method::<csi::DeleteVolumeGroupSnapshotRequest>("csi.v1.GroupController/DeleteVolumeGroupSnapshot", Changes, &[InvalidArgument, Unavailable]),
    method::<csi::GetVolumeGroupSnapshotRequest>("csi.v1.GroupController/GetVolumeGroupSnapshot", Reads, &[InvalidArgument, NotFound, Unavailable]),
    method::<csi::GetMetadataAllocatedRequest>("csi.v1.SnapshotMetadata/GetMetadataAllocated", Never, &[Unimplemented]),
    method::<csi::GetMetadataDeltaRequest>("csi.v1.SnapshotMetadata/GetMetadataDelta", Never, &[Unimplemented]),
    method::<csi::NodeStageVolumeRequest>("csi.v1.Node/NodeStageVolume", Never, &[InvalidArgument, NotFound, FailedPrecondition, Unavailable]),
    method::<csi::NodeUnstageVolumeRequest>("csi.v1.Node/NodeUnstageVolume", Changes, &[InvalidArgument, NotFound, FailedPrecondition]),
    method::<csi::NodePublishVolumeRequest>("csi.v1.Node/NodePublishVolume", Never, &[InvalidArgument, NotFound, FailedPrecondition, Unavailable]),
    method::<csi::NodeUnpublishVolumeRequest>("csi.v1.Node/NodeUnpublishVolume", Changes, &[InvalidArgument, NotFound, FailedPrecondition, Unavailable]),
    method::<csi::NodeGetVolumeStatsRequest>("csi.v1.Node/NodeGetVolumeStats", Never, &[InvalidArgument, NotFound, Unavailable]),
    method::<csi::NodeExpandVolumeRequest>("csi.v1.Node/NodeExpandVolume", Never, &[InvalidArgument, NotFound, FailedPrecondition, OutOfRange, Unavailable]),
    method::<csi::NodeGetCapabilitiesRequest>("csi.v1.Node/NodeGetCapabilities", Reads, &[]),
    method::<csi::NodeGetInfoRequest>("csi.v1.Node/NodeGetInfo", Reads, &[]),
    method::<csi::NodeGetVolumeHealthRequest>("csi.v1.Node/NodeGetVolumeHealth", Reads, &[InvalidArgument, NotFound, Unavailable]),
    method::<csi::NodeGetStorageHealthRequest>("csi.v1.Node/NodeGetStorageHealth", Reads, &[]),
    method::<admin::ListPoolsRequest>("rockpool.admin.v1.Admin/ListPools", Reads, &[]),
    method::<admin::ListRetainedRequest>("rockpool.admin.v1.Admin/ListRetained", Reads, &[]),
    method::<admin::RestoreRequest>("rockpool.admin.v1.Admin/Restore", Changes, &[InvalidArgument, NotFound, AlreadyExists, Unavailable]),
    method::<admin::PurgeRequest>("rockpool.admin.v1.Admin/Purge", Changes, &[InvalidArgument, NotFound, FailedPrecondition, Unavailable]),
    method::<admin::DiagnoseRequest>("rockpool.admin.v1.Admin/Diagnose", Reads, &[InvalidArgument, NotFound]),
    method::<admin::RepairRequest>("rockpool.admin.v1.Admin/Repair", Changes, &[InvalidArgument, NotFound, FailedPrecondition]),
    method::<admin::RecentLogRequest>("rockpool.admin.v1.Admin/RecentLog", Reads, &[]),
    method::<admin::ListTransfersRequest>("rockpool.admin.v1.Admin/ListTransfers", Reads, &[]),
];

/// A controller's own service: no node serves it.
const OF_CONTROLLERS: &str = "Cluster";

/// That every method of `proto/` that a node serves is in the table.
pub(super) fn check_table() {
    let files = [include_str!("../../../proto/csi.proto"), include_str!("../../../proto/admin.proto")];
    let (mut missing, mut service) = (Vec::new(), String::new());
    let word = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric()).collect::<String>();
    for line in files.iter().flat_map(|file| file.lines()) {
        if let Some(rest) = line.strip_prefix("service ") {
            service = word(rest);
        }
        let Some(rest) = line.trim_start().strip_prefix("rpc ") else { continue };
        let name = word(rest);
        if service != OF_CONTROLLERS
            && !METHODS.iter().any(|method| method.path.split('/').next_back() == Some(&name))
        {
            missing.push(name);
        }
    }
    assert!(missing.is_empty(), "no target sends these: {missing:?}");
}
