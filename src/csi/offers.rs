//! What is advertised.
//!
//! Owns: the one table from the pools' features to capabilities, so that what is advertised and what is implemented cannot
//! drift. It is the union over the configured pools and the same on every socket: sidecars read it once, before any pool
//! needs to be there. Never: asks whether a pool is there; one that lacks something refuses per call.

use crate::model::{Features, Offer};
use crate::proto::csi;
use crate::proto::csi::controller_service_capability::rpc::Type as Controller;
use crate::proto::csi::group_controller_service_capability::rpc::Type as Group;
use crate::proto::csi::node_service_capability::rpc::Type as Node;
use crate::proto::csi::plugin_capability::service::Type as Service;
use crate::proto::csi::plugin_capability::volume_expansion::Type as Expansion;

/// Why an attach is never needed.
pub const NO_ATTACH: &str =
    "a volume is used only on the node that it lies on, so there is nothing to attach";
/// Why nothing can be modified.
pub const NO_MODIFY: &str = "a volume has no parameters that could change";
/// Why there are no lists of blocks.
pub const NO_METADATA: &str = "the blocks of a snapshot are not listed";

/// Of the plugin as a whole.
pub fn plugin(features: &Features) -> Vec<csi::PluginCapability> {
    use csi::plugin_capability::Type;
    let mut services = vec![Service::ControllerService, Service::VolumeAccessibilityConstraints];
    add(&mut services, &features.groups, &[Service::GroupControllerService]);
    add(&mut services, &features.snapshots, &[Service::SnapshotAccessibilityConstraints]);
    let services = services
        .into_iter()
        .map(|service| Type::Service(csi::plugin_capability::Service { r#type: service.into() }));
    let online = csi::plugin_capability::VolumeExpansion { r#type: Expansion::Online.into() };
    let all = services.chain([Type::VolumeExpansion(online)]);
    all.map(|capability| csi::PluginCapability { r#type: Some(capability) }).collect()
}

/// Of the Controller service.
pub fn controller(features: &Features) -> Vec<csi::ControllerServiceCapability> {
    use csi::controller_service_capability::{Rpc, Type};
    let mut all = vec![
        Controller::CreateDeleteVolume,
        Controller::ListVolumes,
        Controller::GetCapacity,
        Controller::ExpandVolume,
        Controller::GetVolume,
        Controller::SingleNodeMultiWriter,
        Controller::GetVolumeHealth,
        Controller::ListVolumeHealth,
    ];
    let snapshots = [
        Controller::CreateDeleteSnapshot,
        Controller::ListSnapshots,
        Controller::CloneVolume,
        Controller::GetSnapshot,
    ];
    add(&mut all, &features.snapshots, &snapshots);
    let wire = |rpc: Controller| Some(Type::Rpc(Rpc { r#type: rpc.into() }));
    all.into_iter().map(|rpc| csi::ControllerServiceCapability { r#type: wire(rpc) }).collect()
}

/// Of the GroupController service.
pub fn group(features: &Features) -> Vec<csi::GroupControllerServiceCapability> {
    use csi::group_controller_service_capability::{Rpc, Type};
    let mut all = Vec::new();
    add(&mut all, &features.groups, &[Group::CreateDeleteGetVolumeGroupSnapshot]);
    let wire = |rpc: Group| Some(Type::Rpc(Rpc { r#type: rpc.into() }));
    all.into_iter().map(|rpc| csi::GroupControllerServiceCapability { r#type: wire(rpc) }).collect()
}

/// Of the Node service.
pub fn node() -> Vec<csi::NodeServiceCapability> {
    use csi::node_service_capability::{Rpc, Type};
    let all = [
        Node::StageUnstageVolume,
        Node::GetVolumeStats,
        Node::ExpandVolume,
        Node::SingleNodeMultiWriter,
        Node::GetVolumeHealth,
        Node::GetStorageHealth,
    ];
    let wire = |rpc: Node| Some(Type::Rpc(Rpc { r#type: rpc.into() }));
    all.into_iter().map(|rpc| csi::NodeServiceCapability { r#type: wire(rpc) }).collect()
}

fn add<T: Copy>(all: &mut Vec<T>, offer: &Offer, more: &[T]) {
    if offer.is_yes() {
        all.extend_from_slice(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Filesystem;

    fn features(snapshots: Offer) -> Features {
        let filesystems: &[Filesystem] = &[Filesystem::Ext4];
        let (block, size_limit, reserved) = (Offer::Yes, Offer::Yes, Offer::Yes);
        Features { filesystems, block, size_limit, groups: snapshots.clone(), snapshots, reserved }
    }

    #[test]
    fn without_snapshots_nothing_about_them_is_advertised() {
        let (with, without) = (features(Offer::Yes), features(Offer::No("x".into())));
        assert_eq!(plugin(&with).len(), plugin(&without).len() + 2);
        assert_eq!(controller(&with).len(), controller(&without).len() + 4);
        assert_eq!((group(&with).len(), group(&without).len()), (1, 0));
    }

    #[test]
    fn the_numbers_that_were_removed_are_never_sent() {
        use prost::Message;
        for capability in controller(&features(Offer::Yes)) {
            assert_ne!(capability.encode_to_vec().last(), Some(&11));
        }
        for capability in node() {
            assert_ne!(capability.encode_to_vec().last(), Some(&4));
        }
    }
}
