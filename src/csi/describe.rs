//! Records as a CO sees them.
//!
//! Owns: the translation of volumes, snapshots, groups and problems into wire messages. It depends only on the record and
//! the configuration, so a retry reads the same. Never: asks a disk.

use std::collections::HashSet;

use crate::engine::{Problem, Severity};
use crate::model::{Group, Offer, Parameters, Phase, Snapshot, Source, TOPOLOGY_KEY, Time, Volume, VolumeId};
use crate::proto::csi;
use crate::proto::csi::VolumeHealthErrorType;
use crate::proto::csi::volume_content_source::{SnapshotSource, Type, VolumeSource};

use super::Plugin;
use super::class::{POOL, SIZE};

impl Plugin {
    /// A volume.
    pub(super) fn volume(&self, volume: &Volume) -> csi::Volume {
        let source = match volume.source {
            Source::Blank => None,
            Source::Volume(id) => Some(Type::Volume(VolumeSource { volume_id: id.to_string() })),
            Source::Snapshot(id) => Some(Type::Snapshot(SnapshotSource { snapshot_id: id.to_string() })),
        };
        csi::Volume {
            capacity_bytes: volume.size.as_i64(),
            volume_id: volume.id.to_string(),
            volume_context: self.context(volume),
            content_source: source.map(|source| csi::VolumeContentSource { r#type: Some(source) }),
            accessible_topology: vec![place(&self.about.node_id)],
        }
    }

    /// A volume of which nothing but its id can be read. No size is an unknown one.
    pub(super) fn volume_by_id(&self, id: &VolumeId) -> csi::Volume {
        let accessible_topology = vec![place(&self.about.node_id)];
        csi::Volume { volume_id: id.to_string(), accessible_topology, ..csi::Volume::default() }
    }

    /// What is handed back to us at stage and publish: for people, since the id suffices.
    pub(super) fn context(&self, volume: &Volume) -> Parameters {
        let pool = volume.id.pool();
        let name = self.engine.pool_name(pool).map(|name| (POOL.to_owned(), name.to_owned()));
        let size = match self.engine.size_limit(pool) {
            Offer::Yes => None,
            Offer::No(_) => Some((SIZE.to_owned(), "not enforced".to_owned())),
        };
        name.into_iter().chain(size).collect()
    }

    /// A snapshot.
    pub(super) fn snapshot(&self, snapshot: &Snapshot) -> csi::Snapshot {
        csi::Snapshot {
            size_bytes: snapshot.enough().as_i64(),
            snapshot_id: snapshot.id.to_string(),
            source_volume_id: snapshot.source.to_string(),
            creation_time: Some(timestamp(snapshot.created)),
            ready_to_use: snapshot.phase == Phase::Ready,
            group_snapshot_id: snapshot.group.map_or_else(String::new, |group| group.to_string()),
            accessible_topology: vec![place(&self.about.node_id)],
        }
    }

    /// A group with its members.
    pub(super) fn group(&self, group: &Group, members: &[impl AsRef<Snapshot>]) -> csi::VolumeGroupSnapshot {
        let snapshots: Vec<_> = members.iter().map(|member| self.snapshot(member.as_ref())).collect();
        csi::VolumeGroupSnapshot {
            group_snapshot_id: group.id.to_string(),
            ready_to_use: snapshots.iter().all(|snapshot| snapshot.ready_to_use),
            snapshots,
            creation_time: Some(timestamp(group.created)),
        }
    }
}

/// The place of everything on a node.
pub(super) fn place(node_id: &str) -> csi::Topology {
    csi::Topology { segments: [(TOPOLOGY_KEY.to_owned(), node_id.to_owned())].into() }
}

pub(super) fn timestamp(time: Time) -> prost_types::Timestamp {
    let (seconds, millis) = (time.millis() / 1000, time.millis() % 1000);
    prost_types::Timestamp {
        seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
        // Below a thousand million.
        nanos: i32::try_from(millis * 1_000_000).unwrap_or_default(),
    }
}

/// The health of a volume: no entries mean healthy.
pub(super) fn health(id: &VolumeId, problems: &[Problem]) -> csi::VolumeHealth {
    let entries = distinct(problems).map(|problem| csi::volume_health::VolumeHealthEntry {
        status: match problem.severity {
            Severity::Degraded => VolumeHealthErrorType::Degraded,
            Severity::Inaccessible => VolumeHealthErrorType::Inaccessible,
            Severity::DataLoss => VolumeHealthErrorType::DataLoss,
        }
        .into(),
        reason: problem.reason.to_owned(),
        message: problem.message.clone(),
    });
    csi::VolumeHealth { volume_id: id.to_string(), health_statuses: entries.collect() }
}

/// The health of the node's storage.
pub(super) fn storage(problems: &[Problem]) -> csi::NodeGetStorageHealthResponse {
    use csi::StorageHealthErrorType as Status;
    // Lost bytes are one volume's matter; the backend that lost them cannot be reached for them.
    let status = |severity| match severity {
        Severity::Degraded => Status::StorageDegraded,
        Severity::Inaccessible | Severity::DataLoss => Status::StorageUnreachable,
    };
    let mut said = HashSet::new();
    let entries = problems.iter().filter(|problem| said.insert((status(problem.severity), problem.reason)));
    let backend_health = entries
        .map(|problem| csi::node_get_storage_health_response::StorageBackendHealth {
            status: status(problem.severity).into(),
            reason: problem.reason.to_owned(),
            message: problem.message.clone(),
            volume_capability: None,
        })
        .collect();
    csi::NodeGetStorageHealthResponse { backend_health }
}

/// One problem for each severity and reason: the standard allows no second entry.
fn distinct(problems: &[Problem]) -> impl Iterator<Item = &Problem> {
    let same = |a: &Problem, b: &Problem| a.severity == b.severity && a.reason == b.reason;
    problems
        .iter()
        .enumerate()
        .filter(move |(n, p)| !problems[..*n].iter().any(|q| same(p, q)))
        .map(|(_, p)| p)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PoolId;

    fn problem(severity: Severity, message: &str) -> Problem {
        Problem { severity, reason: "Broken", message: message.to_owned() }
    }

    #[test]
    fn each_problem_is_reported_once_and_beside_the_others() {
        let problems = [
            problem(Severity::Degraded, "a"),
            problem(Severity::Degraded, "b"),
            problem(Severity::DataLoss, "c"),
            problem(Severity::Inaccessible, "d"),
        ];
        let id = VolumeId::new(PoolId::new([1; 6]), [2; 8]);
        let health = health(&id, &problems);
        let statuses: Vec<_> =
            health.health_statuses.iter().map(|entry| (entry.status, &*entry.message)).collect();
        assert_eq!(statuses, [(1, "a"), (3, "c"), (2, "d")]);
        let statuses: Vec<_> = storage(&problems).backend_health.iter().map(|entry| entry.status).collect();
        assert_eq!(statuses, [1, 2]);
    }
}
