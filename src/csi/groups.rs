//! The GroupController service: snapshots of several volumes, cut at one moment. What its calls ask for is read in
//! `checked::groups`.

use tonic::{Request, async_trait};

use crate::engine::Key;
use crate::error::{Error, Result};
use crate::model::{GroupId, SnapshotId};
use crate::proto::csi;
use crate::proto::csi::group_controller_server::GroupController;

use super::bridge::{PATIENCE, ask};
use super::checked::groups::{self as checked, Known};
use super::status::advertised;
use super::{Plugin, Reply, Services, noted, offers};

#[async_trait]
impl GroupController for Services {
    async fn group_controller_get_capabilities(
        &self,
        _: Request<csi::GroupControllerGetCapabilitiesRequest>,
    ) -> Reply<csi::GroupControllerGetCapabilitiesResponse> {
        advertised("GroupControllerGetCapabilities", &self.plugin.features.groups)?;
        let capabilities = offers::group(&self.plugin.features);
        Ok(csi::GroupControllerGetCapabilitiesResponse { capabilities }.into())
    }

    async fn create_volume_group_snapshot(
        &self,
        request: Request<csi::CreateVolumeGroupSnapshotRequest>,
    ) -> Reply<csi::CreateVolumeGroupSnapshotResponse> {
        let request = noted(request, |r| &r.name);
        let want = checked::create(&request, &self.plugin.features)?;
        let engine = self.engine()?;
        let plugin = self.plugin();
        let plan = || {
            let mut keys = vec![Key::GroupName(want.name.clone())];
            keys.extend(want.sources.iter().map(|source| Key::Object((*source).into())));
            engine.refuse_taken(&keys)?;
            let pool = engine.pool_of_group(&want);
            let workers = pool.map_or(engine.host_workers(), |pool| engine.workers(pool));
            let job = move || {
                let (group, members) = plugin.engine.create_group(&want)?;
                let group_snapshot = Some(plugin.group(&group, &members));
                Ok(csi::CreateVolumeGroupSnapshotResponse { group_snapshot })
            };
            Ok((workers, job))
        };
        self.lanes.create_group.run(&request, plan).await
    }

    async fn delete_volume_group_snapshot(
        &self,
        request: Request<csi::DeleteVolumeGroupSnapshotRequest>,
    ) -> Reply<csi::DeleteVolumeGroupSnapshotResponse> {
        let request = noted(request, |r| &r.group_snapshot_id);
        let known = checked::delete(&request, &self.plugin.features)?;
        self.engine()?;
        let Some(Known { group, members }) = known else {
            return Ok(csi::DeleteVolumeGroupSnapshotResponse {}.into());
        };
        let plugin = self.plugin();
        let job = move || plugin.remove_group(&group, members);
        self.lanes.delete_group.run(&request, self.changing(group, job)).await
    }

    async fn get_volume_group_snapshot(
        &self,
        request: Request<csi::GetVolumeGroupSnapshotRequest>,
    ) -> Reply<csi::GetVolumeGroupSnapshotResponse> {
        let request = noted(request, |r| &r.group_snapshot_id);
        let Known { group, members } = checked::get(&request, &self.plugin.features)?;
        let plugin = self.plugin();
        let job = move || plugin.one_group(&group, members);
        Ok(ask(self.engine()?.workers(group.pool()), PATIENCE, job).await?.into())
    }
}

impl Plugin {
    fn remove_group(
        &self,
        group: &GroupId,
        members: Result<Vec<SnapshotId>>,
    ) -> Result<csi::DeleteVolumeGroupSnapshotResponse> {
        match members {
            Ok(members) => self.engine.delete_group(group, &members)?,
            Err(wrong) => match self.engine.group(group) {
                Err(Error::NotFound(_)) => {} // What is not there is deleted.
                found => return Err(found.err().unwrap_or(wrong)),
            },
        }
        Ok(csi::DeleteVolumeGroupSnapshotResponse {})
    }

    fn one_group(
        &self,
        id: &GroupId,
        members: Result<Vec<SnapshotId>>,
    ) -> Result<csi::GetVolumeGroupSnapshotResponse> {
        let (group, snapshots) = self.engine.group(id)?;
        let mut sent = members?;
        let mut have = group.members.clone();
        sent.sort_unstable();
        have.sort_unstable();
        if sent != have {
            let have: Vec<_> = have.iter().take(8).map(ToString::to_string).collect();
            return Err(Error::Invalid(format!(
                "snapshot_ids has {} ids that are not exactly the group's: want {} ids, {}",
                sent.len(),
                group.members.len(),
                have.join(", ")
            )));
        }
        Ok(csi::GetVolumeGroupSnapshotResponse { group_snapshot: Some(self.group(&group, &snapshots)) })
    }
}
