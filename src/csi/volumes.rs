//! The Controller's calls about volumes.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::{
    Asked, Capacity, CapacityQuery, CreateVolume, Key, NodeExpansion, Offer, PoolIndex, Range,
};
use crate::error::{Error, Result, quoted};
use crate::model::{Source, Volume, VolumeId};
use crate::proto::csi;
use crate::proto::csi::validate_volume_capabilities_response::Confirmed;
use crate::proto::csi::volume_content_source::Type;

use super::bridge::{PATIENCE, ask, ask_each};
use super::capability::{Judged, common, judge_all, mismatch, usable};
use super::class::{Class, contradiction, foreign_key, other_parameters};
use super::parse::{id, map, missing, name, page_size, present, range, short};
use super::tokens::{List, cut};
use super::topology::{Reach, covers, requirement};
use super::{Plugin, Reply, Services};

/// What a pool that is silent for longer has to give does not count.
const CAPACITY_PATIENCE: Duration = Duration::from_millis(800);

/// What CreateVolume asks for, and whether this node may answer.
struct Wanted {
    volume: CreateVolume,
    reach: Reach,
}

impl Services {
    pub(super) async fn make_volume(
        &self,
        request: csi::CreateVolumeRequest,
    ) -> Reply<csi::CreateVolumeResponse> {
        let wanted = self.plugin.wanted(&request)?;
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
        present("volume_id", &request.volume_id)?;
        map("secrets", &request.secrets)?;
        self.engine()?;
        // An id that was never ours names nothing, and nothing is what a delete leaves.
        let Ok(volume) = id::<VolumeId>("volume_id", &request.volume_id) else {
            return Ok(csi::DeleteVolumeResponse {}.into());
        };
        let plugin = self.plugin();
        let job = move || plugin.engine.delete_volume(&volume).map(|()| csi::DeleteVolumeResponse {});
        self.lanes.delete_volume.run(&request, self.changing(volume, job)).await
    }

    pub(super) async fn expand_volume(
        &self,
        request: csi::ControllerExpandVolumeRequest,
    ) -> Reply<csi::ControllerExpandVolumeResponse> {
        present("volume_id", &request.volume_id)?;
        map("secrets", &request.secrets)?;
        if request.capacity_range.is_none() {
            return Err(missing("capacity_range", "want the size to grow to").into());
        }
        let capability = request.volume_capability.as_ref();
        let asked =
            capability.map(|one| usable("volume_capability", Some(one))).transpose()?.map(|one| one.asked);
        let volume: VolumeId = id("volume_id", &request.volume_id)?;
        let range = range(request.capacity_range.as_ref())?;
        let plugin = self.plugin();
        let job = move || plugin.expand(&volume, range, asked);
        self.lanes.expand_volume.run(&request, self.changing(volume, job)).await
    }

    pub(super) async fn page_of_volumes(
        &self,
        request: csi::ListVolumesRequest,
    ) -> Reply<csi::ListVolumesResponse> {
        let max = page_size(request.max_entries)?;
        short("starting_token", &request.starting_token)?;
        let after = List::Volumes.cursor(&request.starting_token)?;
        let plugin = self.plugin();
        let job = move || plugin.volumes(after, max);
        Ok(ask(self.engine()?.host_workers(), PATIENCE, job).await?.into())
    }

    pub(super) async fn one_volume(
        &self,
        request: csi::ControllerGetVolumeRequest,
    ) -> Reply<csi::ControllerGetVolumeResponse> {
        present("volume_id", &request.volume_id)?;
        let id: VolumeId = id("volume_id", &request.volume_id)?;
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
        present("volume_id", &request.volume_id)?;
        if request.volume_capabilities.is_empty() {
            return Err(missing("volume_capabilities", "want at least one").into());
        }
        map("secrets", &request.secrets)?;
        map("parameters", &request.parameters)?;
        map("mutable_parameters", &request.mutable_parameters)?;
        map("volume_context", &request.volume_context)?;
        let judged = judge_all(&request.volume_capabilities)?;
        let id: VolumeId = id("volume_id", &request.volume_id)?;
        let plugin = self.plugin();
        let job = move || plugin.validate(&id, judged, request);
        Ok(ask(self.engine()?.workers(id.pool()), PATIENCE, job).await?.into())
    }

    pub(super) async fn capacity(&self, request: csi::GetCapacityRequest) -> Reply<csi::GetCapacityResponse> {
        let Some(query) = self.plugin.query(&request)? else {
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
    /// Reads CreateVolume, field by field.
    fn wanted(&self, request: &csi::CreateVolumeRequest) -> Result<Wanted> {
        name("name", &request.name)?;
        let judged = judge_all(&request.volume_capabilities)?;
        let class = Class::parse(&request.parameters)?;
        let flags: Vec<_> = judged.iter().map(Judged::flags).map(<[String]>::to_vec).collect();
        let asked = class.complete(common(judged)?)?;
        for (n, flags) in flags.iter().enumerate() {
            asked
                .allows(flags)
                .map_err(|why| Error::Invalid(format!("volume_capabilities[{n}].mount.{why}")))?;
        }
        map("secrets", &request.secrets)?;
        if !request.mutable_parameters.is_empty() {
            let field = "mutable_parameters";
            map(field, &request.mutable_parameters)?;
            return Err(Error::Invalid(format!(
                "{field} has {} entries: want none, MODIFY_VOLUME is not offered",
                request.mutable_parameters.len()
            )));
        }
        let reach = requirement(request.accessibility_requirements.as_ref(), &self.about.node_id)?;
        let source = self.source(request.volume_content_source.as_ref())?;
        let Class { pool, allocation, recorded: parameters, claim, fs: _ } = class;
        let range = range(request.capacity_range.as_ref())?;
        let name = request.name.clone();
        Ok(Wanted {
            volume: CreateVolume { name, range, asked, pool, allocation, parameters, claim, source },
            reach,
        })
    }

    fn source(&self, source: Option<&csi::VolumeContentSource>) -> Result<Source> {
        let Some(source) = source else {
            return Ok(Source::Blank);
        };
        let field = "volume_content_source";
        let Some(source) = &source.r#type else {
            return Err(missing(&format!("{field}.type"), "want a snapshot or a volume"));
        };
        let (field, text) = match source {
            Type::Snapshot(source) => (format!("{field}.snapshot.snapshot_id"), &source.snapshot_id),
            Type::Volume(source) => (format!("{field}.volume.volume_id"), &source.volume_id),
        };
        present(&field, text)?;
        if let Offer::No(why) = &self.features.snapshots {
            return Err(Error::invalid(&field, text, format!("want no source: {why}")));
        }
        match source {
            Type::Snapshot(_) => id(&field, text).map(Source::Snapshot),
            Type::Volume(_) => id(&field, text).map(Source::Volume),
        }
    }

    fn make(&self, index: PoolIndex, wanted: &Wanted) -> Result<csi::CreateVolumeResponse> {
        if let Reach::Elsewhere(nodes) = &wanted.reach {
            return Err(self.elsewhere(&wanted.volume.name, nodes));
        }
        let volume = self.engine.create_volume_at(index, &wanted.volume)?;
        Ok(csi::CreateVolumeResponse { volume: Some(self.volume(&volume)) })
    }

    /// Another node is asked for. Where the name is taken here that is a conflict, else the scheduler looks further.
    fn elsewhere(&self, name: &str, nodes: &str) -> Error {
        let here = &self.about.node_id;
        match self.engine.volume_named(name) {
            Some(_) => Error::Conflict(format!(
                "name {}: the volume exists on node {here}, accessibility_requirements ask for {nodes}",
                quoted(name)
            )),
            None => Error::Full(format!(
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

    fn volumes(&self, after: Option<VolumeId>, max: usize) -> Result<csi::ListVolumesResponse> {
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

    /// Reads GetCapacity; `None` where the answer is zero whatever the pools hold.
    fn query(&self, request: &csi::GetCapacityRequest) -> Result<Option<CapacityQuery>> {
        let judged = judge_all(&request.volume_capabilities)?;
        let class = Class::parse(&request.parameters)?;
        let here = covers(request.accessible_topology.as_ref(), &self.about.node_id)? == Reach::Here;
        // What can never be made has no room, rather than being an error: pollers stop at an error.
        let asked = match (judged.is_empty(), class.fs) {
            (true, None) => None,
            (true, Some(fs)) => Some(Asked::Mount(Some(fs))),
            (false, _) => match common(judged).and_then(|asked| class.complete(asked)) {
                Ok(asked) => Some(asked),
                Err(_) => return Ok(None),
            },
        };
        let Class { pool, allocation, .. } = class;
        Ok(here.then_some(CapacityQuery { pool, asked, allocation }))
    }
}
