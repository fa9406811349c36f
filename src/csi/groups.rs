//! The GroupController service: snapshots of several volumes, cut at one moment. Where no pool can do that, each call
//! answers so before it looks at a field.

use std::collections::HashSet;

use tonic::{Request, async_trait};

use crate::engine::{CreateGroup, Key};
use crate::error::{Error, Result};
use crate::model::{GroupId, SnapshotId, VolumeId};
use crate::proto::csi;
use crate::proto::csi::group_controller_server::GroupController;

use super::bridge::{PATIENCE, ask};
use super::class::snapshot_class;
use super::parse::{id, map, missing, name, present};
use super::status::advertised;
use super::{Plugin, Reply, Services, noted, offers};

/// The most members of a group: all of them are frozen at once.
const MEMBERS_MAX: usize = 1024;

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
        advertised("CreateVolumeGroupSnapshot", &self.plugin.features.groups)?;
        let request = noted(request, |r| &r.name);
        let want = wanted(&request)?;
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
        advertised("DeleteVolumeGroupSnapshot", &self.plugin.features.groups)?;
        let request = noted(request, |r| &r.group_snapshot_id);
        present("group_snapshot_id", &request.group_snapshot_id)?;
        map("secrets", &request.secrets)?;
        self.engine()?;
        let Ok(group) = id::<GroupId>("group_snapshot_id", &request.group_snapshot_id) else {
            return Ok(csi::DeleteVolumeGroupSnapshotResponse {}.into());
        };
        let members = members(&request.snapshot_ids);
        let plugin = self.plugin();
        let job = move || plugin.remove_group(&group, members);
        self.lanes.delete_group.run(&request, self.changing(group, job)).await
    }

    async fn get_volume_group_snapshot(
        &self,
        request: Request<csi::GetVolumeGroupSnapshotRequest>,
    ) -> Reply<csi::GetVolumeGroupSnapshotResponse> {
        advertised("GetVolumeGroupSnapshot", &self.plugin.features.groups)?;
        let request = noted(request, |r| &r.group_snapshot_id);
        present("group_snapshot_id", &request.group_snapshot_id)?;
        map("secrets", &request.secrets)?;
        let group: GroupId = id("group_snapshot_id", &request.group_snapshot_id)?;
        let members = members(&request.snapshot_ids);
        let plugin = self.plugin();
        let job = move || plugin.one_group(&group, members);
        Ok(ask(self.engine()?.workers(group.pool()), PATIENCE, job).await?.into())
    }
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
    let parameters = snapshot_class(&request.parameters)?;
    let source = |(n, text): (usize, &String)| id::<VolumeId>(&format!("source_volume_ids[{n}]"), text);
    let sources = texts.iter().enumerate().map(source).collect::<Result<_>>()?;
    Ok(CreateGroup { name: request.name.clone(), sources, parameters })
}

/// The members as the caller knows them. An id that is not ours makes the list a wrong one, which matters only if the
/// group exists; so it is kept as an error until that is known.
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
