//! The Controller's calls about volumes. What they ask for is read in `checked::volumes`.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::{Key, NodeExpansion, PoolIndex};
use crate::error::{Error, Result, quoted};
use crate::model::{Asked, Capacity, Range, Volume, VolumeId};
use crate::proto::csi;
use crate::proto::csi::validate_volume_capabilities_response::Confirmed;

use super::bridge::{PATIENCE, ask, ask_each};
use super::capability::{Judged, mismatch};
use super::checked::Page;
use super::checked::topology::Reach;
use super::checked::volumes::{self as checked, Create, Expand, GetCapacity};
use super::class::{Class, contradiction, foreign_key, other_parameters};
use super::tokens::{List, cut};
use super::{Plugin, Reply, Services};

/// What a pool that is silent for longer has to give does not count.
const CAPACITY_PATIENCE: Duration = Duration::from_millis(800);

impl Services {
    pub(super) async fn make_volume(
        &self,
        request: csi::CreateVolumeRequest,
    ) -> Reply<csi::CreateVolumeResponse> {
        let wanted = checked::create(&request, &self.plugin.features)?;
        let engine = self.engine()?;
        let plugin = self.plugin();
        let plan = || {
            engine.refuse_taken(&[Key::VolumeName(wanted.volume.name.clone())])?;
            let index = engine.choose(&wanted.volume)?;
            Ok((engine.workers_at(index), move || plugin.make(index, &wanted)))
        };
        self.lanes.create_volume.run(&request, plan).await
    }

    pub(super) async fn remove_volume(
        &self,
        request: csi::DeleteVolumeRequest,
    ) -> Reply<csi::DeleteVolumeResponse> {
        let volume = checked::delete(&request)?;
        self.engine()?;
        let Some(volume) = volume else {
            return Ok(csi::DeleteVolumeResponse {}.into());
        };
        self.stop_receiving(&volume).await;
        let plugin = self.plugin();
        let job = move || plugin.engine.delete_volume(&volume).map(|()| csi::DeleteVolumeResponse {});
        self.lanes.delete_volume.run(&request, self.changing(volume, job)).await
    }

    pub(super) async fn expand_volume(
        &self,
        request: csi::ControllerExpandVolumeRequest,
    ) -> Reply<csi::ControllerExpandVolumeResponse> {
        let Expand { volume, range, asked } = checked::expand(&request)?;
        let plugin = self.plugin();
        let job = move || plugin.expand(&volume, range, asked);
        self.lanes.expand_volume.run(&request, self.changing(volume, job)).await
    }

    pub(super) async fn page_of_volumes(
        &self,
        request: csi::ListVolumesRequest,
    ) -> Reply<csi::ListVolumesResponse> {
        let page = checked::list(&request)?;
        let plugin = self.plugin();
        let job = move || plugin.volumes(page);
        Ok(ask(self.engine()?.host_workers(), PATIENCE, job).await?.into())
    }

    pub(super) async fn one_volume(
        &self,
        request: csi::ControllerGetVolumeRequest,
    ) -> Reply<csi::ControllerGetVolumeResponse> {
        let id = checked::get(&request)?;
        let plugin = self.plugin();
        let job = move || plugin.engine.volume(&id).map(|volume| plugin.volume(&volume));
        let volume = ask(self.engine()?.workers(id.pool()), PATIENCE, job).await?;
        let status = Some(csi::controller_get_volume_response::VolumeStatus::default());
        Ok(csi::ControllerGetVolumeResponse { volume: Some(volume), status }.into())
    }

    pub(super) async fn validate_volume(
        &self,
        request: csi::ValidateVolumeCapabilitiesRequest,
    ) -> Reply<csi::ValidateVolumeCapabilitiesResponse> {
        let (id, judged) = checked::validate(&request)?;
        let plugin = self.plugin();
        let job = move || plugin.validate(&id, judged, request);
        Ok(ask(self.engine()?.workers(id.pool()), PATIENCE, job).await?.into())
    }

    pub(super) async fn capacity(&self, request: csi::GetCapacityRequest) -> Reply<csi::GetCapacityResponse> {
        let GetCapacity { query, node } = checked::capacity(&request)?;
        let is_here = node.is_none_or(|node| node == self.plugin.about.node_id);
        let Some(query) = query.filter(|_| is_here) else {
            return Ok(room(Capacity::default()).into());
        };
        let engine = self.engine()?;
        let indexes = engine.indexes_for(&query)?;
        let questions = indexes.iter().map(|&index| {
            let (plugin, query) = (self.plugin(), query.clone());
            (engine.workers_at(index), move || plugin.engine.room(index, &query))
        });
        let answers = ask_each(questions, CAPACITY_PATIENCE).await.into_iter().zip(indexes);
        let rooms = answers
            .map(|(answer, index)| answer.unwrap_or_else(|error| engine.room_unasked(index, &query, &error)));
        Ok(room(Capacity::sum(rooms)).into())
    }
}

fn room(capacity: Capacity) -> csi::GetCapacityResponse {
    csi::GetCapacityResponse {
        available_capacity: capacity.available.as_i64(),
        maximum_volume_size: Some(capacity.maximum.as_i64()),
        minimum_volume_size: Some(capacity.minimum.as_i64()),
    }
}

impl Plugin {
    fn make(&self, index: PoolIndex, wanted: &Create) -> Result<csi::CreateVolumeResponse> {
        if let Reach::Elsewhere(nodes) = wanted.requirement.reach(&self.about.node_id) {
            return Err(self.elsewhere(&wanted.volume.name, &nodes));
        }
        let volume = self.engine.create_volume_at(index, &wanted.volume)?;
        Ok(csi::CreateVolumeResponse { volume: Some(self.volume(&volume)) })
    }

    /// Another node is asked for. Where the name is taken here that is a conflict, else the scheduler looks further.
    pub(super) fn elsewhere(&self, name: &str, nodes: &str) -> Error {
        let here = &self.about.node_id;
        match self.engine.volume_named(name) {
            // A controller would take "not here" for the word that it can be made elsewhere.
            Err(error) => error,
            Ok(Some(_)) => Error::Conflict(format!(
                "name {}: the volume exists on node {here}, accessibility_requirements ask for {nodes}",
                quoted(name)
            )),
            Ok(None) => Error::Full(format!(
                "accessibility_requirements ask for {nodes}: this is node {here}, nothing was made here"
            )),
        }
    }

    fn expand(
        &self,
        id: &VolumeId,
        range: Range,
        asked: Option<Asked>,
    ) -> Result<csi::ControllerExpandVolumeResponse> {
        let (volume, left) = self.engine.expand_volume(id, &range, asked)?;
        Ok(csi::ControllerExpandVolumeResponse {
            capacity_bytes: volume.size.as_i64(),
            node_expansion_required: left == NodeExpansion::Required,
        })
    }

    fn volumes(&self, Page { after, max }: Page<VolumeId>) -> Result<csi::ListVolumesResponse> {
        self.engine.complete()?;
        let mut page = self.engine.listed(after, max.saturating_add(1));
        let next_token = cut(List::Volumes, &mut page, max, |(id, _)| *id);
        let entry = |(id, volume): &(VolumeId, Option<Arc<Volume>>)| csi::list_volumes_response::Entry {
            volume: Some(volume.as_ref().map_or_else(|| self.volume_by_id(id), |volume| self.volume(volume))),
            status: None,
        };
        Ok(csi::ListVolumesResponse { entries: page.iter().map(entry).collect(), next_token })
    }

    fn validate(
        &self,
        id: &VolumeId,
        judged: Vec<Judged>,
        request: csi::ValidateVolumeCapabilitiesRequest,
    ) -> Result<csi::ValidateVolumeCapabilitiesResponse> {
        let volume = self.engine.volume(id)?;
        if let Some(message) = self.objection(&volume, judged, &request) {
            return Ok(csi::ValidateVolumeCapabilitiesResponse { confirmed: None, message });
        }
        let confirmed = Confirmed {
            volume_context: request.volume_context,
            volume_capabilities: request.volume_capabilities,
            parameters: request.parameters,
            mutable_parameters: request.mutable_parameters,
        };
        Ok(csi::ValidateVolumeCapabilitiesResponse { confirmed: Some(confirmed), message: String::new() })
    }

    /// Why a volume cannot be used as asked.
    fn objection(
        &self,
        volume: &Volume,
        judged: Vec<Judged>,
        request: &csi::ValidateVolumeCapabilitiesRequest,
    ) -> Option<String> {
        for (n, capability) in judged.into_iter().enumerate() {
            match capability {
                Judged::Unsupported(why) => return Some(why.to_string()),
                Judged::Usable(capability) => {
                    if let Some(why) = mismatch(capability.asked, volume.access) {
                        return Some(format!("volume_capabilities[{n}]: {why}"));
                    }
                }
            }
        }
        if let Some(key) = foreign_key(&request.volume_context) {
            return Some(format!("volume_context has the unknown key {}", quoted(key)));
        }
        if let Some(why) = contradiction(&request.volume_context, &self.context(volume)) {
            return Some(why);
        }
        if !request.mutable_parameters.is_empty() {
            return Some("mutable_parameters: want none, MODIFY_VOLUME is not offered".to_owned());
        }
        if request.parameters.is_empty() {
            return None;
        }
        let class = match Class::parse(&request.parameters) {
            Ok(class) => class,
            Err(why) => return Some(why.to_string()),
        };
        let other_fs = class.fs.and_then(|fs| match volume.access {
            crate::model::Access::Block => None,
            access @ crate::model::Access::Mount { .. } => mismatch(Asked::Mount(Some(fs)), access),
        });
        other_fs.or_else(|| other_parameters(&class, &volume.parameters))
    }
}
