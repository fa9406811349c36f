//! The GroupController's calls, checked. Where no pool can cut several volumes at one moment, each is refused for that first.

use std::collections::HashSet;

use crate::csi::class::group_class;
use crate::csi::parse::{id, map, missing, name, present};
use crate::csi::status::advertised;
use crate::error::{Error, Result};
use crate::model::{CreateGroup, Features, GroupId, SnapshotId, VolumeId};
use crate::proto::csi;

use super::Checked;

/// The most members of a group: all of them are frozen at once.
const MEMBERS_MAX: usize = 1024;

/// A group and its members as the caller knows them. A wrong list of members matters only if the group exists.
#[derive(Debug)]
pub struct Known {
    /// The group.
    pub group: GroupId,
    /// Its members, or what is wrong with one: it stays an error until it is known whether the group is there.
    pub members: Result<Vec<SnapshotId>>,
}

/// Reads CreateVolumeGroupSnapshot.
///
/// # Errors
/// UNIMPLEMENTED, INVALID_ARGUMENT; NOT_FOUND for a volume that cannot be ours.
pub fn create(request: &csi::CreateVolumeGroupSnapshotRequest, features: &Features) -> Checked<CreateGroup> {
    advertised("CreateVolumeGroupSnapshot", &features.groups)?;
    Ok(wanted(request)?)
}

/// Reads DeleteVolumeGroupSnapshot; none for an id that was never ours, which names nothing.
///
/// # Errors
/// UNIMPLEMENTED, INVALID_ARGUMENT.
pub fn delete(
    request: &csi::DeleteVolumeGroupSnapshotRequest,
    features: &Features,
) -> Checked<Option<Known>> {
    advertised("DeleteVolumeGroupSnapshot", &features.groups)?;
    present("group_snapshot_id", &request.group_snapshot_id)?;
    map("secrets", &request.secrets)?;
    let group = request.group_snapshot_id.parse().ok();
    Ok(group.map(|group| Known { group, members: members(&request.snapshot_ids) }))
}

/// Reads GetVolumeGroupSnapshot.
///
/// # Errors
/// UNIMPLEMENTED, INVALID_ARGUMENT; NOT_FOUND for an id that cannot be ours.
pub fn get(request: &csi::GetVolumeGroupSnapshotRequest, features: &Features) -> Checked<Known> {
    advertised("GetVolumeGroupSnapshot", &features.groups)?;
    present("group_snapshot_id", &request.group_snapshot_id)?;
    map("secrets", &request.secrets)?;
    let group = id("group_snapshot_id", &request.group_snapshot_id)?;
    Ok(Known { group, members: members(&request.snapshot_ids) })
}

fn wanted(request: &csi::CreateVolumeGroupSnapshotRequest) -> Result<CreateGroup> {
    name("name", &request.name)?;
    let texts = &request.source_volume_ids;
    if texts.is_empty() {
        return Err(missing("source_volume_ids", "want the volumes to cut"));
    }
    if texts.len() > MEMBERS_MAX {
        return Err(Error::Invalid(format!(
            "source_volume_ids: there are {}, want at most {MEMBERS_MAX}",
            texts.len()
        )));
    }
    let mut seen = HashSet::new();
    for (n, text) in texts.iter().enumerate() {
        let field = format!("source_volume_ids[{n}]");
        present(&field, text)?;
        if !seen.insert(text) {
            return Err(Error::invalid(&field, text, "want each volume once"));
        }
    }
    map("secrets", &request.secrets)?;
    let parameters = group_class(&request.parameters)?;
    let source = |(n, text): (usize, &String)| id::<VolumeId>(&format!("source_volume_ids[{n}]"), text);
    let sources = texts.iter().enumerate().map(source).collect::<Result<_>>()?;
    Ok(CreateGroup { name: request.name.clone(), sources, parameters })
}

fn members(texts: &[String]) -> Result<Vec<SnapshotId>> {
    let member = |(n, text): (usize, &String)| {
        let parsed = text.parse().ok();
        parsed.ok_or_else(|| {
            Error::invalid(
                &format!("snapshot_ids[{n}]"),
                text,
                "want the ids of exactly the group's snapshots",
            )
        })
    };
    texts.iter().enumerate().map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(ids: &[&str]) -> csi::CreateVolumeGroupSnapshotRequest {
        let source_volume_ids = ids.iter().map(|&id| id.to_owned()).collect();
        csi::CreateVolumeGroupSnapshotRequest { name: "g".into(), source_volume_ids, ..Default::default() }
    }

    #[test]
    fn members_are_named_once_and_exist() {
        let id = "v1.abababababab.0101010101010101";
        assert_eq!(wanted(&request(&[id])).unwrap().sources.len(), 1);
        for (ids, shown) in
            [(&[][..], "source_volume_ids"), (&[id, id], "source_volume_ids[1]"), (&[id, ""], "[1]")]
        {
            let error = wanted(&request(ids)).unwrap_err();
            assert!(matches!(&error, Error::Invalid(text) if text.contains(shown)), "{error}");
        }
        assert!(matches!(wanted(&request(&[id, "../x"])), Err(Error::NotFound(_))));
    }
}
