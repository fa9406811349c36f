//! The Controller's calls about snapshots. Where no pool can cut one, each answers that before it looks at a field.

use std::sync::Arc;

use crate::engine::{CreateSnapshot, Key, Listed};
use crate::error::{Error, Result};
use crate::model::{Snapshot, SnapshotId, VolumeId};
use crate::proto::csi;

use super::bridge::{PATIENCE, ask};
use super::class::snapshot_class;
use super::parse::{id, map, name, page_size, present, short};
use super::status::advertised;
use super::tokens::{List, cut};
use super::topology::{Reach, requirement};
use super::{Plugin, Reply, Services};

/// Which snapshots a list is about.
enum Filter {
    /// All of them.
    All,
    /// Those of one volume.
    Of(VolumeId),
    /// One, if it is also of this volume.
    One(SnapshotId, Option<VolumeId>),
    /// None: a filter names what cannot exist.
    Nothing,
}

impl Services {
    pub(super) async fn cut_snapshot(
        &self,
        request: csi::CreateSnapshotRequest,
    ) -> Reply<csi::CreateSnapshotResponse> {
        advertised("CreateSnapshot", &self.plugin.features.snapshots)?;
        let (want, reach) = self.plugin.wanted_snapshot(&request)?;
        let engine = self.engine()?;
        if let Reach::Elsewhere(nodes) = reach {
            return Err(Error::Full(format!(
                "accessibility_requirements ask for {nodes}: this is node {}, nothing was made here",
                self.plugin.about.node_id
            ))
            .into());
        }
        let plugin = self.plugin();
        let plan = || {
            let source = Key::Object(want.source.into());
            engine.refuse_taken(&[Key::SnapshotName(want.name.clone()), source])?;
            let workers = engine.workers(engine.pool_of_cut(&want));
            let job = move || {
                let snapshot = plugin.engine.create_snapshot(&want)?;
                Ok(csi::CreateSnapshotResponse { snapshot: Some(plugin.snapshot(&snapshot)) })
            };
            Ok((workers, job))
        };
        self.lanes.create_snapshot.run(&request, plan).await
    }

    pub(super) async fn remove_snapshot(
        &self,
        request: csi::DeleteSnapshotRequest,
    ) -> Reply<csi::DeleteSnapshotResponse> {
        advertised("DeleteSnapshot", &self.plugin.features.snapshots)?;
        present("snapshot_id", &request.snapshot_id)?;
        map("secrets", &request.secrets)?;
        self.engine()?;
        let Ok(snapshot) = id::<SnapshotId>("snapshot_id", &request.snapshot_id) else {
            return Ok(csi::DeleteSnapshotResponse {}.into());
        };
        let plugin = self.plugin();
        let job = move || plugin.engine.delete_snapshot(&snapshot).map(|()| csi::DeleteSnapshotResponse {});
        self.lanes.delete_snapshot.run(&request, self.changing(snapshot, job)).await
    }

    pub(super) async fn page_of_snapshots(
        &self,
        request: csi::ListSnapshotsRequest,
    ) -> Reply<csi::ListSnapshotsResponse> {
        advertised("ListSnapshots", &self.plugin.features.snapshots)?;
        let max = page_size(request.max_entries)?;
        short("starting_token", &request.starting_token)?;
        short("source_volume_id", &request.source_volume_id)?;
        short("snapshot_id", &request.snapshot_id)?;
        map("secrets", &request.secrets)?;
        let after = List::Snapshots.cursor(&request.starting_token)?;
        let filter = Filter::parse(&request);
        let plugin = self.plugin();
        let job = move || plugin.snapshots(&filter, after, max);
        Ok(ask(self.engine()?.host_workers(), PATIENCE, job).await?.into())
    }

    pub(super) async fn one_snapshot(
        &self,
        request: csi::GetSnapshotRequest,
    ) -> Reply<csi::GetSnapshotResponse> {
        advertised("GetSnapshot", &self.plugin.features.snapshots)?;
        present("snapshot_id", &request.snapshot_id)?;
        map("secrets", &request.secrets)?;
        let id: SnapshotId = id("snapshot_id", &request.snapshot_id)?;
        let plugin = self.plugin();
        let job = move || plugin.engine.snapshot(&id).map(|snapshot| plugin.snapshot(&snapshot));
        let snapshot = ask(self.engine()?.workers(id.pool()), PATIENCE, job).await?;
        Ok(csi::GetSnapshotResponse { snapshot: Some(snapshot) }.into())
    }
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

impl Plugin {
    fn wanted_snapshot(&self, request: &csi::CreateSnapshotRequest) -> Result<(CreateSnapshot, Reach)> {
        name("name", &request.name)?;
        present("source_volume_id", &request.source_volume_id)?;
        map("secrets", &request.secrets)?;
        let parameters = snapshot_class(&request.parameters)?;
        let reach = requirement(request.accessibility_requirements.as_ref(), &self.about.node_id)?;
        let source = id("source_volume_id", &request.source_volume_id)?;
        Ok((CreateSnapshot { name: request.name.clone(), source, parameters }, reach))
    }

    fn snapshots(
        &self,
        filter: &Filter,
        after: Option<SnapshotId>,
        max: usize,
    ) -> Result<csi::ListSnapshotsResponse> {
        let mut page = match *filter {
            Filter::Nothing => Vec::new(),
            Filter::One(id, source) => {
                let past = after.is_some_and(|after| id <= after);
                let of = |snapshot: &Arc<Snapshot>| source.is_none_or(|source| snapshot.source == source);
                let one = self.known(&id)?.into_iter().filter(|snapshot| !past && of(snapshot));
                one.map(|snapshot| Listed { snapshot, usable: true }).collect()
            }
            Filter::Of(source) => {
                self.engine.complete()?;
                self.engine.listed_snapshots(after, Some(source), max.saturating_add(1))?
            }
            Filter::All => {
                self.engine.complete()?;
                self.engine.listed_snapshots(after, None, max.saturating_add(1))?
            }
        };
        let next_token = cut(List::Snapshots, &mut page, max, |listed| listed.snapshot.id);
        let entry = |Listed { snapshot, usable }: &Listed| csi::list_snapshots_response::Entry {
            snapshot: Some(csi::Snapshot { ready_to_use: *usable, ..self.snapshot(snapshot) }),
        };
        Ok(csi::ListSnapshotsResponse { entries: page.iter().map(entry).collect(), next_token })
    }

    fn known(&self, id: &SnapshotId) -> Result<Option<Arc<Snapshot>>> {
        match self.engine.snapshot(id) {
            Ok(snapshot) => Ok(Some(snapshot)),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
