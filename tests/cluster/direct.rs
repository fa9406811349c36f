//! Calls through one controller or another, for scenes: what each answered, past the oracle, which knows only names of its own.

use std::time::Duration;

use rockpool::proto::csi;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use csi::controller_client::ControllerClient;

use crate::facts::Facts;
use crate::node::{NODES, TOPOLOGY, topology};
use crate::requests::{self, Shape};
use crate::world::World;

const SIZE: i64 = 1 << 20;

/// A volume as somebody answered it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Made {
    pub(crate) id: String,
    pub(crate) node: String,
}

/// One controller, by its number from 0 on.
pub(crate) struct Direct<'a> {
    world: &'a World,
    controller: usize,
}

/// CreateVolume of a small raw volume that must be on one of these nodes.
pub(crate) fn wanted(name: &str, nodes: &[&str]) -> csi::CreateVolumeRequest {
    let mut request = requests::create(name, (Shape::Block, SIZE), None);
    let requisite = nodes.iter().map(|node| topology(node)).collect();
    request.accessibility_requirements = Some(csi::TopologyRequirement { requisite, preferred: Vec::new() });
    request
}

/// Whether this leaves the outcome open.
pub(crate) fn is_open(status: &Status) -> bool {
    [Code::Unavailable, Code::Aborted, Code::Cancelled, Code::DeadlineExceeded].contains(&status.code())
}

impl Direct<'_> {
    pub(crate) fn to(world: &World, controller: usize) -> Direct<'_> {
        Direct { world, controller }
    }

    pub(crate) fn client(&self) -> Result<ControllerClient<Channel>, Status> {
        let way = self.world.node.wire.exchange.to(NODES + self.controller);
        Ok(ControllerClient::new(way.ok_or_else(|| Status::unavailable("it does not run"))?.channel))
    }

    pub(crate) async fn create(
        &self,
        request: &csi::CreateVolumeRequest,
        patience: Duration,
    ) -> Result<Made, Status> {
        let made = self.client()?.create_volume(within(patience, request.clone())).await?.into_inner();
        let volume = made.volume.unwrap_or_default();
        let segments = volume.accessible_topology.into_iter().next().unwrap_or_default().segments;
        Ok(Made { id: volume.volume_id, node: segments.get(TOPOLOGY).cloned().unwrap_or_default() })
    }

    pub(crate) async fn delete(&self, id: &str, patience: Duration) -> Result<(), Status> {
        self.client()?.delete_volume(within(patience, requests::delete(id))).await.map(drop)
    }

    /// The nodes on which a volume is listed.
    pub(crate) async fn nodes_of(&self, id: &str) -> Result<Vec<String>, Status> {
        let list = within(Duration::from_secs(10), csi::ListVolumesRequest::default());
        let listed = self.client()?.list_volumes(list).await?.into_inner().entries.into_iter();
        let volume = listed.filter_map(|entry| entry.volume).find(|volume| volume.volume_id == id);
        let topology = volume.into_iter().flat_map(|volume| volume.accessible_topology);
        Ok(topology.filter_map(|topology| topology.segments.get(TOPOLOGY).cloned()).collect())
    }

    /// Every call about one volume, and the list of all; the answers by their names.
    pub(crate) async fn everything_about(
        &self,
        id: &str,
        patience: Duration,
    ) -> Result<Vec<(&'static str, Result<(), Status>)>, Status> {
        let (client, id) = (self.client()?, id.to_owned());
        let expand = csi::ControllerExpandVolumeRequest {
            volume_id: id.clone(),
            capacity_range: Some(csi::CapacityRange { required_bytes: 2 * SIZE, limit_bytes: 0 }),
            ..Default::default()
        };
        let validate = csi::ValidateVolumeCapabilitiesRequest {
            volume_id: id.clone(),
            volume_capabilities: vec![Shape::Block.capability()],
            ..Default::default()
        };
        let get = csi::ControllerGetVolumeRequest { volume_id: id.clone() };
        let (cut, list) = (requests::snapshot("scene-cut", &id), csi::ListVolumesRequest::default());
        let (mut one, mut two, mut three, mut four, mut five) =
            (client.clone(), client.clone(), client.clone(), client.clone(), client);
        Ok(vec![
            (
                "ControllerExpandVolume",
                one.controller_expand_volume(within(patience, expand)).await.map(drop),
            ),
            (
                "ValidateVolumeCapabilities",
                two.validate_volume_capabilities(within(patience, validate)).await.map(drop),
            ),
            ("ControllerGetVolume", three.controller_get_volume(within(patience, get)).await.map(drop)),
            ("CreateSnapshot", four.create_snapshot(within(patience, cut)).await.map(drop)),
            ("ListVolumes", five.list_volumes(within(patience, list)).await.map(drop)),
            ("DeleteVolume", self.delete(&id, patience).await),
        ])
    }
}

fn within<T>(patience: Duration, request: T) -> Request<T> {
    let mut request = Request::new(request);
    request.set_timeout(patience);
    request
}

/// The volumes of this name that are on record, on whichever node.
pub(crate) fn on_record(world: &World, name: &str) -> crate::Outcome<Vec<String>> {
    let facts = Facts::of(&world.node)?;
    let all = facts.records.iter().chain(&facts.receiving);
    let of_it = all.filter(|(_, record)| record.kind == "volume" && record.name == name);
    Ok(of_it.map(|(id, _)| id.clone()).collect())
}
