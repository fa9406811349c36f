//! The Controller's calls about health, checked.

use crate::csi::parse::{id, map, page_size, present, short};
use crate::csi::tokens::List;
use crate::error::Result;
use crate::model::VolumeId;
use crate::proto::csi;

use super::Page;

/// Reads ControllerGetVolumeHealth.
///
/// # Errors
/// `Invalid`, `NotFound` for an id that cannot be ours.
pub fn get(request: &csi::ControllerGetVolumeHealthRequest) -> Result<VolumeId> {
    present("volume_id", &request.volume_id)?;
    map("secrets", &request.secrets)?;
    id("volume_id", &request.volume_id)
}

/// Reads ControllerListVolumeHealth.
///
/// # Errors
/// `Invalid`, `PageToken`.
pub fn list(request: &csi::ControllerListVolumeHealthRequest) -> Result<Page<VolumeId>> {
    let max = page_size(request.max_entries)?;
    short("starting_token", &request.starting_token)?;
    map("secrets", &request.secrets)?;
    let after = List::VolumeHealth.cursor(&request.starting_token)?;
    Ok(Page { after, max })
}
