//! Calls as they go over the wire.
//!
//! Owns: the requests that stand for what the model wants. Never: judges an answer.

use rockpool::proto::{admin, csi};

use super::Outcome;
use super::model::{Asked, Model, Object, Origin};
use crate::requests::message;
use crate::wire::Wire;

/// One call, in the model's words.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    Create { name: String, asked: Asked, pool: Option<usize>, mib: u64, limit: Option<u64> },
    Delete(usize),
    Expand(usize, u64, Option<u64>),
    Cut { name: String, of: usize, is_kept: bool },
    DeleteCut(usize),
    Group { name: String, of: Vec<usize>, is_kept: bool },
    DeleteGroup(usize, bool),
    Restore(Object, String),
    Purge(Object),
}

/// What it answers.
#[derive(Debug)]
pub(super) enum Answer {
    Volume(csi::Volume),
    Size(i64),
    Cut(csi::Snapshot),
    Group(csi::VolumeGroupSnapshot),
    Name(String),
    Done,
}

/// An id that is well-formed, in a pool that is there, of nothing.
const NOBODY: &str = "0123456789abcdef";

/// Makes a call.
pub(super) fn send(wire: &mut Wire, model: &Model, fast: &str, wanted: &Wanted) -> Outcome {
    match wanted {
        Wanted::Create { name, asked, mib, limit, .. } => {
            let request = creation(model, fast, name, asked, (*mib, *limit));
            let answer: csi::CreateVolumeResponse = wire.ask("csi.v1.Controller/CreateVolume", &request)?;
            Ok(Answer::Volume(answer.volume.expect("a volume")))
        }
        Wanted::Delete(volume) => {
            let volume_id = model.volumes[*volume].id.clone();
            let request = csi::DeleteVolumeRequest { volume_id, ..Default::default() };
            let _: csi::DeleteVolumeResponse = wire.ask("csi.v1.Controller/DeleteVolume", &request)?;
            Ok(Answer::Done)
        }
        Wanted::Expand(volume, mib, limit) => {
            let request = csi::ControllerExpandVolumeRequest {
                volume_id: model.volumes[*volume].id.clone(),
                capacity_range: range(*mib, *limit),
                ..Default::default()
            };
            let answer: csi::ControllerExpandVolumeResponse =
                wire.ask("csi.v1.Controller/ControllerExpandVolume", &request)?;
            Ok(Answer::Size(answer.capacity_bytes))
        }
        Wanted::Cut { name, of, is_kept } => {
            let request = csi::CreateSnapshotRequest {
                source_volume_id: model.volumes[*of].id.clone(),
                name: name.clone(),
                parameters: class(*is_kept),
                ..Default::default()
            };
            let answer: csi::CreateSnapshotResponse =
                wire.ask("csi.v1.Controller/CreateSnapshot", &request)?;
            Ok(Answer::Cut(answer.snapshot.expect("a snapshot")))
        }
        Wanted::DeleteCut(cut) => {
            let snapshot_id = model.cuts[*cut].id.clone();
            let request = csi::DeleteSnapshotRequest { snapshot_id, ..Default::default() };
            let _: csi::DeleteSnapshotResponse = wire.ask("csi.v1.Controller/DeleteSnapshot", &request)?;
            Ok(Answer::Done)
        }
        Wanted::Group { name, of, is_kept } => {
            let request = csi::CreateVolumeGroupSnapshotRequest {
                name: name.clone(),
                source_volume_ids: of.iter().map(|n| model.volumes[*n].id.clone()).collect(),
                parameters: class(*is_kept),
                ..Default::default()
            };
            let answer: csi::CreateVolumeGroupSnapshotResponse =
                wire.ask("csi.v1.GroupController/CreateVolumeGroupSnapshot", &request)?;
            Ok(Answer::Group(answer.group_snapshot.expect("a group")))
        }
        Wanted::DeleteGroup(group, with_others) => {
            let group = &model.groups[*group];
            let mut members: Vec<String> = group.members.iter().map(|n| model.cuts[*n].id.clone()).collect();
            if *with_others {
                members.push(format!("s1.{fast}.{NOBODY}"));
            }
            let request = csi::DeleteVolumeGroupSnapshotRequest {
                group_snapshot_id: group.id.clone(),
                snapshot_ids: members,
                ..Default::default()
            };
            let _: csi::DeleteVolumeGroupSnapshotResponse =
                wire.ask("csi.v1.GroupController/DeleteVolumeGroupSnapshot", &request)?;
            Ok(Answer::Done)
        }
        Wanted::Restore(object, name) => {
            let request = admin::RestoreRequest { id: model.id(*object).to_owned(), name: name.clone() };
            let answer: admin::RestoreResponse = wire.ask("rockpool.admin.v1.Admin/Restore", &request)?;
            Ok(Answer::Name(answer.name))
        }
        Wanted::Purge(object) => {
            let request = admin::PurgeRequest { id: model.id(*object).to_owned() };
            let _: admin::PurgeResponse = wire.ask("rockpool.admin.v1.Admin/Purge", &request)?;
            Ok(Answer::Done)
        }
    }
}

fn creation(
    model: &Model,
    fast: &str,
    name: &str,
    asked: &Asked,
    (mib, limit): (u64, Option<u64>),
) -> csi::CreateVolumeRequest {
    use csi::volume_content_source::{SnapshotSource, Type, VolumeSource};
    let mut request = message::create(name, 0, if asked.is_block { "block" } else { "ext4" });
    request.capacity_range = range(mib, limit);
    request.parameters = asked.parameters.clone();
    request.volume_content_source = asked.from.map(|from| csi::VolumeContentSource {
        r#type: Some(match from {
            Origin::Volume(n) => Type::Volume(VolumeSource { volume_id: model.volumes[n].id.clone() }),
            Origin::Snapshot(n) => Type::Snapshot(SnapshotSource { snapshot_id: model.cuts[n].id.clone() }),
            Origin::Nothing => Type::Volume(VolumeSource { volume_id: format!("v1.{fast}.{NOBODY}") }),
        }),
    });
    request
}

fn range(mib: u64, limit: Option<u64>) -> Option<csi::CapacityRange> {
    let bytes = |mib: u64| super::model::size(mib).as_i64();
    let range = csi::CapacityRange { required_bytes: bytes(mib), limit_bytes: bytes(limit.unwrap_or(0)) };
    (range != csi::CapacityRange::default()).then_some(range)
}

fn class(is_kept: bool) -> std::collections::BTreeMap<String, String> {
    is_kept.then(|| ("retainDeleted".to_owned(), "1d".to_owned())).into_iter().collect()
}
