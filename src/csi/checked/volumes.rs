//! The Controller's calls about volumes, checked.

use crate::csi::capability::{Judged, common, judge_all, usable};
use crate::csi::class::Class;
use crate::csi::parse::{id, map, missing, name, page_size, present, range, short};
use crate::csi::tokens::List;
use crate::error::{Error, Result};
use crate::model::{Asked, CapacityQuery, CreateVolume, Features, Offer, Placement, Range, Source, VolumeId};
use crate::proto::csi;
use crate::proto::csi::volume_content_source::Type;

use super::Page;
use super::topology::{Requirement, requirement, segment};

/// CreateVolume, checked.
#[derive(Clone, Debug)]
pub struct Create {
    /// What to make.
    pub volume: CreateVolume,
    /// Where it is to be reachable from.
    pub requirement: Requirement,
    /// Which node it goes to, where several will do.
    pub placement: Placement,
}

/// ControllerExpandVolume, checked.
#[derive(Clone, Copy, Debug)]
pub struct Expand {
    /// Which volume.
    pub volume: VolumeId,
    /// The size asked for.
    pub range: Range,
    /// The access type, where the call says it.
    pub asked: Option<Asked>,
}

/// GetCapacity, checked.
#[derive(Clone, Debug)]
pub struct GetCapacity {
    /// What room is meant; none where no pool of any kind can ever have it, so that the answer is zero.
    pub query: Option<CapacityQuery>,
    /// The only node whose room counts; none: that of every node.
    pub node: Option<String>,
}

/// Reads CreateVolume.
///
/// # Errors
/// `Invalid`, `OutOfRange` for its sizes, `NotFound` for a source that cannot be ours.
pub fn create(request: &csi::CreateVolumeRequest, features: &Features) -> Result<Create> {
    name("name", &request.name)?;
    let judged = judge_all(&request.volume_capabilities)?;
    let class = Class::parse(&request.parameters)?;
    let flags: Vec<_> = judged.iter().map(Judged::flags).map(<[String]>::to_vec).collect();
    let asked = class.complete(common(judged)?)?;
    for (n, flags) in flags.iter().enumerate() {
        asked.allows(flags).map_err(|why| Error::Invalid(format!("volume_capabilities[{n}].mount.{why}")))?;
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
    let requirement = requirement(request.accessibility_requirements.as_ref())?;
    let source = source(request.volume_content_source.as_ref(), features)?;
    let Class { pool, allocation, placement, recorded: parameters, claim, fs: _ } = class;
    let range = range(request.capacity_range.as_ref())?;
    let name = request.name.clone();
    let volume = CreateVolume { name, range, asked, pool, allocation, parameters, claim, source };
    Ok(Create { volume, requirement, placement })
}

fn source(source: Option<&csi::VolumeContentSource>, features: &Features) -> Result<Source> {
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
    if let Offer::No(why) = &features.snapshots {
        return Err(Error::invalid(&field, text, format!("want no source: {why}")));
    }
    match source {
        Type::Snapshot(_) => id(&field, text).map(Source::Snapshot),
        Type::Volume(_) => id(&field, text).map(Source::Volume),
    }
}

/// Reads DeleteVolume; none for an id that was never ours, which names nothing, and nothing is what a delete leaves.
///
/// # Errors
/// `Invalid`.
pub fn delete(request: &csi::DeleteVolumeRequest) -> Result<Option<VolumeId>> {
    present("volume_id", &request.volume_id)?;
    map("secrets", &request.secrets)?;
    Ok(request.volume_id.parse().ok())
}

/// Reads ControllerExpandVolume.
///
/// # Errors
/// `Invalid`, `NotFound` for an id that cannot be ours, `OutOfRange`.
pub fn expand(request: &csi::ControllerExpandVolumeRequest) -> Result<Expand> {
    present("volume_id", &request.volume_id)?;
    map("secrets", &request.secrets)?;
    if request.capacity_range.is_none() {
        return Err(missing("capacity_range", "want the size to grow to"));
    }
    let capability = request.volume_capability.as_ref();
    let asked =
        capability.map(|one| usable("volume_capability", Some(one))).transpose()?.map(|one| one.asked);
    let volume = id("volume_id", &request.volume_id)?;
    let range = range(request.capacity_range.as_ref())?;
    Ok(Expand { volume, range, asked })
}

/// Reads ListVolumes.
///
/// # Errors
/// `Invalid`, `PageToken`.
pub fn list(request: &csi::ListVolumesRequest) -> Result<Page<VolumeId>> {
    let max = page_size(request.max_entries)?;
    short("starting_token", &request.starting_token)?;
    let after = List::Volumes.cursor(&request.starting_token)?;
    Ok(Page { after, max })
}

/// Reads ControllerGetVolume.
///
/// # Errors
/// `Invalid`, `NotFound` for an id that cannot be ours.
pub fn get(request: &csi::ControllerGetVolumeRequest) -> Result<VolumeId> {
    present("volume_id", &request.volume_id)?;
    id("volume_id", &request.volume_id)
}

/// Reads ValidateVolumeCapabilities. What no volume can have is no error here: who knows the volume says so in its answer.
///
/// # Errors
/// `Invalid`, `NotFound` for an id that cannot be ours.
pub fn validate(request: &csi::ValidateVolumeCapabilitiesRequest) -> Result<(VolumeId, Vec<Judged>)> {
    present("volume_id", &request.volume_id)?;
    if request.volume_capabilities.is_empty() {
        return Err(missing("volume_capabilities", "want at least one"));
    }
    map("secrets", &request.secrets)?;
    map("parameters", &request.parameters)?;
    map("mutable_parameters", &request.mutable_parameters)?;
    map("volume_context", &request.volume_context)?;
    let judged = judge_all(&request.volume_capabilities)?;
    Ok((id("volume_id", &request.volume_id)?, judged))
}

/// Reads GetCapacity.
///
/// # Errors
/// `Invalid`.
pub fn capacity(request: &csi::GetCapacityRequest) -> Result<GetCapacity> {
    let judged = judge_all(&request.volume_capabilities)?;
    let class = Class::parse(&request.parameters)?;
    let node = segment(request.accessible_topology.as_ref())?.map(str::to_owned);
    // What can never be made has no room, rather than being an error: pollers stop at an error.
    let asked = match (judged.is_empty(), class.fs) {
        (true, None) => Ok(None),
        (true, Some(fs)) => Ok(Some(Asked::Mount(Some(fs)))),
        (false, _) => common(judged).and_then(|asked| class.complete(asked)).map(Some),
    };
    let Class { pool, allocation, .. } = class;
    let query = asked.ok().map(|asked| CapacityQuery { pool, asked, allocation });
    Ok(GetCapacity { query, node })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::describe::place;
    use crate::model::{Filesystem, Parameters};
    use crate::proto::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
    use crate::proto::csi::volume_content_source::VolumeSource;

    fn features(snapshots: Offer) -> Features {
        let filesystems: &[Filesystem] = &[Filesystem::Ext4];
        let (block, size_limit, reserved) = (Offer::Yes, Offer::Yes, Offer::Yes);
        Features { filesystems, block, size_limit, groups: snapshots.clone(), snapshots, reserved }
    }

    fn capability(access: AccessType) -> csi::VolumeCapability {
        csi::VolumeCapability { access_type: Some(access), access_mode: Some(AccessMode { mode: 1 }) }
    }

    fn asked(parameters: &[(&str, &str)]) -> csi::CreateVolumeRequest {
        csi::CreateVolumeRequest {
            name: "v".into(),
            volume_capabilities: vec![capability(AccessType::Mount(MountVolume::default()))],
            parameters: self::parameters(parameters),
            ..Default::default()
        }
    }

    fn parameters(pairs: &[(&str, &str)]) -> Parameters {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn where_a_volume_goes_is_no_part_of_the_volume() {
        let request = csi::CreateVolumeRequest {
            accessibility_requirements: Some(csi::TopologyRequirement {
                requisite: ["b", "c", "a"].map(place).to_vec(),
                preferred: ["a", "b"].map(place).to_vec(),
            }),
            ..asked(&[("placement", "pack"), ("pool", "fast")])
        };
        let Create { volume, requirement, placement } = create(&request, &features(Offer::Yes)).unwrap();
        assert_eq!(placement, Placement::Pack);
        assert_eq!(volume.parameters, parameters(&[("pool", "fast")]));
        assert_eq!(
            (requirement.requisite.concat(), requirement.preferred.concat()),
            ("bca".into(), "ab".into())
        );
        let unsaid = create(&asked(&[]), &features(Offer::Yes)).unwrap();
        assert_eq!((unsaid.placement, unsaid.requirement), (Placement::Spread, Requirement::default()));
    }

    #[test]
    fn a_source_is_refused_where_nothing_offers_copies() {
        let source = Type::Volume(VolumeSource { volume_id: "v1.abababababab.0101010101010101".into() });
        let source = csi::VolumeContentSource { r#type: Some(source) };
        let request = csi::CreateVolumeRequest { volume_content_source: Some(source), ..asked(&[]) };
        let made = create(&request, &features(Offer::Yes)).unwrap();
        assert!(matches!(made.volume.source, Source::Volume(_)), "{:?}", made.volume.source);
        let refused = create(&request, &features(Offer::No("no reflink".into()))).unwrap_err();
        assert!(
            matches!(&refused, Error::Invalid(text) if text.contains("want no source: no reflink")),
            "{refused}"
        );
    }

    #[test]
    fn capacity_is_asked_for_a_node_and_for_what_can_be_made() {
        let request = csi::GetCapacityRequest {
            volume_capabilities: vec![capability(AccessType::Block(BlockVolume {}))],
            parameters: parameters(&[("pool", "fast"), ("placement", "spread")]),
            accessible_topology: Some(place("n1")),
        };
        let asked = capacity(&request).unwrap();
        let query = asked.query.unwrap();
        assert_eq!((asked.node.as_deref(), query.pool.as_deref()), (Some("n1"), Some("fast")));
        assert_eq!(query.asked, Some(Asked::Block));
        let both = [AccessType::Block(BlockVolume {}), AccessType::Mount(MountVolume::default())];
        let never = csi::GetCapacityRequest { volume_capabilities: both.map(capability).to_vec(), ..request };
        assert!(capacity(&never).unwrap().query.is_none());
        let any = capacity(&csi::GetCapacityRequest::default()).unwrap();
        assert!(any.node.is_none() && any.query.is_some_and(|query| query.asked.is_none()));
    }
}
