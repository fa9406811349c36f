//! The Controller's calls about snapshots. What they ask for is read in `checked::snapshots`.

use std::sync::Arc;

use crate::engine::{Key, Listed};
use crate::error::{Error, Result};
use crate::model::{Snapshot, SnapshotId};
use crate::proto::csi;

use super::bridge::{PATIENCE, ask};
use super::checked::Page;
use super::checked::snapshots::{self as checked, Create, Filter};
use super::checked::topology::Reach;
use super::tokens::{List, cut};
use super::{Plugin, Reply, Services};

impl Services {
    pub(super) async fn cut_snapshot(
        &self,
        request: csi::CreateSnapshotRequest,
    ) -> Reply<csi::CreateSnapshotResponse> {
        let Create { snapshot: want, requirement } = checked::create(&request, &self.plugin.features)?;
        let engine = self.engine()?;
        let here = &self.plugin.about.node_id;
        if let Reach::Elsewhere(nodes) = requirement.reach(here) {
            return Err(Error::Full(format!(
                "accessibility_requirements ask for {nodes}: this is node {here}, nothing was made here"
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
        let snapshot = checked::delete(&request, &self.plugin.features)?;
        self.engine()?;
        let Some(snapshot) = snapshot else {
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
        let (page, filter) = checked::list(&request, &self.plugin.features)?;
        let plugin = self.plugin();
        let job = move || plugin.snapshots(&filter, page);
        Ok(ask(self.engine()?.host_workers(), PATIENCE, job).await?.into())
    }

    pub(super) async fn one_snapshot(
        &self,
        request: csi::GetSnapshotRequest,
    ) -> Reply<csi::GetSnapshotResponse> {
        let id = checked::get(&request, &self.plugin.features)?;
        let plugin = self.plugin();
        let job = move || plugin.engine.snapshot(&id).map(|snapshot| plugin.snapshot(&snapshot));
        let snapshot = ask(self.engine()?.workers(id.pool()), PATIENCE, job).await?;
        Ok(csi::GetSnapshotResponse { snapshot: Some(snapshot) }.into())
    }
}

impl Plugin {
    fn snapshots(
        &self,
        filter: &Filter,
        Page { after, max }: Page<SnapshotId>,
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
