//! The Controller's calls about snapshots, checked. Where no pool can cut one, each is refused for that first.

use crate::csi::class::snapshot_class;
use crate::csi::parse::{id, map, name, page_size, present, short};
use crate::csi::status::advertised;
use crate::csi::tokens::List;
use crate::error::Result;
use crate::model::{CreateSnapshot, Features, SnapshotId, VolumeId};
use crate::proto::csi;

use super::topology::{Requirement, requirement};
use super::{Checked, Page};

/// CreateSnapshot, checked.
#[derive(Clone, Debug)]
pub struct Create {
    /// What to cut.
    pub snapshot: CreateSnapshot,
    /// Where it is to be reachable from.
    pub requirement: Requirement,
}

/// Which snapshots a list is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// All of them.
    All,
    /// Those of one volume.
    Of(VolumeId),
    /// One, if it is also of this volume.
    One(SnapshotId, Option<VolumeId>),
    /// None: a filter names what cannot exist.
    Nothing,
}

/// Reads CreateSnapshot.
///
/// # Errors
/// UNIMPLEMENTED, INVALID_ARGUMENT; NOT_FOUND for a source that cannot be ours.
pub fn create(request: &csi::CreateSnapshotRequest, features: &Features) -> Checked<Create> {
    advertised("CreateSnapshot", &features.snapshots)?;
    Ok(wanted(request)?)
}

fn wanted(request: &csi::CreateSnapshotRequest) -> Result<Create> {
    name("name", &request.name)?;
    present("source_volume_id", &request.source_volume_id)?;
    map("secrets", &request.secrets)?;
    let parameters = snapshot_class(&request.parameters)?;
    let requirement = requirement(request.accessibility_requirements.as_ref())?;
    let source = id("source_volume_id", &request.source_volume_id)?;
    Ok(Create { snapshot: CreateSnapshot { name: request.name.clone(), source, parameters }, requirement })
}

/// Reads DeleteSnapshot; none for an id that was never ours, which names nothing.
///
/// # Errors
/// UNIMPLEMENTED, INVALID_ARGUMENT.
pub fn delete(request: &csi::DeleteSnapshotRequest, features: &Features) -> Checked<Option<SnapshotId>> {
    advertised("DeleteSnapshot", &features.snapshots)?;
    present("snapshot_id", &request.snapshot_id)?;
    map("secrets", &request.secrets)?;
    Ok(request.snapshot_id.parse().ok())
}

/// Reads ListSnapshots.
///
/// # Errors
/// UNIMPLEMENTED, INVALID_ARGUMENT; ABORTED for a token that was never issued.
pub fn list(request: &csi::ListSnapshotsRequest, features: &Features) -> Checked<(Page<SnapshotId>, Filter)> {
    advertised("ListSnapshots", &features.snapshots)?;
    let max = page_size(request.max_entries)?;
    short("starting_token", &request.starting_token)?;
    short("source_volume_id", &request.source_volume_id)?;
    short("snapshot_id", &request.snapshot_id)?;
    map("secrets", &request.secrets)?;
    let after = List::Snapshots.cursor(&request.starting_token)?;
    Ok((Page { after, max }, Filter::parse(request)))
}

impl Filter {
    /// A filter that is no id of ours matches nothing; that is an answer, not an error.
    fn parse(request: &csi::ListSnapshotsRequest) -> Self {
        let source: Option<VolumeId> = request.source_volume_id.parse().ok();
        let one: Option<SnapshotId> = request.snapshot_id.parse().ok();
        match (one, source) {
            (None, _) if !request.snapshot_id.is_empty() => Filter::Nothing,
            (_, None) if !request.source_volume_id.is_empty() => Filter::Nothing,
            (Some(one), source) => Filter::One(one, source),
            (None, Some(source)) => Filter::Of(source),
            (None, None) => Filter::All,
        }
    }
}

/// Reads GetSnapshot.
///
/// # Errors
/// UNIMPLEMENTED, INVALID_ARGUMENT; NOT_FOUND for an id that cannot be ours.
pub fn get(request: &csi::GetSnapshotRequest, features: &Features) -> Checked<SnapshotId> {
    advertised("GetSnapshot", &features.snapshots)?;
    present("snapshot_id", &request.snapshot_id)?;
    map("secrets", &request.secrets)?;
    Ok(id("snapshot_id", &request.snapshot_id)?)
}
