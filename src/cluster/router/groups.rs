//! What is cut from volumes: the GroupController service, and where snapshots are made.
//!
//! A snapshot lies where its volume lies, and the members of a group lie on one node, since only there can they be cut at
//! one moment.

use std::future::Future;

use tokio::time::Instant;
use tonic::{Code, Request, async_trait};

use super::Router;
use super::forward::{Failed, groups, is_final};
use crate::cluster::news::Standing;
use crate::csi::checked::groups as checked;
use crate::csi::status::advertised;
use crate::csi::{Reply, noted, offers};
use crate::error::{Error, quoted};
use crate::model::{Named, NodeId, ObjectId, VolumeId, name_hash};
use crate::proto::csi;
use crate::proto::csi::group_controller_server::GroupController;

#[async_trait]
impl GroupController for Router {
    async fn group_controller_get_capabilities(
        &self,
        _: Request<csi::GroupControllerGetCapabilitiesRequest>,
    ) -> Reply<csi::GroupControllerGetCapabilitiesResponse> {
        advertised("GroupControllerGetCapabilities", &self.0.features.groups)?;
        let capabilities = offers::group(&self.0.features);
        Ok(csi::GroupControllerGetCapabilitiesResponse { capabilities }.into())
    }

    async fn create_volume_group_snapshot(
        &self,
        request: Request<csi::CreateVolumeGroupSnapshotRequest>,
    ) -> Reply<csi::CreateVolumeGroupSnapshotResponse> {
        let until = self.until(&request);
        let request = noted(request, |r| &r.name);
        let wanted = checked::create(&request, &self.0.features)?;
        let hash = name_hash(Named::Group, &wanted.name);
        let made = |answer: &csi::CreateVolumeGroupSnapshotResponse| {
            let group = answer.group_snapshot.clone().unwrap_or_default();
            let cuts = group.snapshots.into_iter().map(|cut| cut.snapshot_id);
            cuts.chain([group.group_snapshot_id]).collect()
        };
        let cut = |node, request| self.cut_group(node, request, until);
        self.at_the_source(hash, &wanted.sources, request, (cut, made)).await
    }

    async fn delete_volume_group_snapshot(
        &self,
        request: Request<csi::DeleteVolumeGroupSnapshotRequest>,
    ) -> Reply<csi::DeleteVolumeGroupSnapshotResponse> {
        let until = self.until(&request);
        let request = noted(request, |r| &r.group_snapshot_id);
        let Some(known) = checked::delete(&request, &self.0.features)? else {
            return Ok(csi::DeleteVolumeGroupSnapshotResponse {}.into());
        };
        let call = |line| async move { groups(line).delete_volume_group_snapshot(request).await };
        self.delete_at(known.group.into(), until, call).await
    }

    async fn get_volume_group_snapshot(
        &self,
        request: Request<csi::GetVolumeGroupSnapshotRequest>,
    ) -> Reply<csi::GetVolumeGroupSnapshotResponse> {
        let until = self.until(&request);
        let request = noted(request, |r| &r.group_snapshot_id);
        let known = checked::get(&request, &self.0.features)?;
        let call = |line| async move { groups(line).get_volume_group_snapshot(request).await };
        self.at(known.group.pool(), until, call).await
    }
}

impl Router {
    async fn cut_group(
        &self,
        node: NodeId,
        request: csi::CreateVolumeGroupSnapshotRequest,
        until: Instant,
    ) -> Result<csi::CreateVolumeGroupSnapshotResponse, Failed> {
        let call = |line| async move { groups(line).create_volume_group_snapshot(request).await };
        self.forward(&node, until, call).await
    }

    /// Lets the node that has the sources make something of them, whose ids the last argument tells. Where the name is taken on
    /// another node that one is asked first: it knows whether that is the same thing, or a conflict.
    pub(super) async fn at_the_source<T: Clone, R, F>(
        &self,
        name: u64,
        sources: &[VolumeId],
        request: T,
        (make, made): (impl Fn(NodeId, T) -> F, impl Fn(&R) -> Vec<String>),
    ) -> Reply<R>
    where
        F: Future<Output = Result<R, Failed>>,
    {
        let node = self.one_holder(sources);
        let elsewhere = |other: &NodeId| !matches!(&node, Ok(node) if node == other);
        for other in self.holding(name).into_iter().filter(elsewhere) {
            if self.0.known.is_former(&other, name) {
                self.refuse_doubtful(&other, name)?;
                continue;
            }
            match make(other.clone(), request.clone()).await {
                Ok(answer) => return Ok(beside_its_sources(&other, sources, made(&answer), answer)?.into()),
                // The name was freed since, or only its hash is the same: that node has no such source.
                Err(failed)
                    if failed.code().is_some_and(|code| is_final(code) && code != Code::AlreadyExists) => {}
                // It is a conflict, or may still become one.
                Err(failed) => return Err(failed.into()),
            }
        }
        let node = node?;
        let answer = make(node.clone(), request).await?;
        Ok(beside_its_sources(&node, sources, made(&answer), answer)?.into())
    }

    /// Refuses what may be in a pool that its node has lost, or has not read.
    fn refuse_doubtful(&self, node: &NodeId, name: u64) -> Result<(), Error> {
        let seen = self.seen(node.clone());
        if seen.standing == Standing::Told && !self.is_doubtful(&seen, name) {
            return Ok(());
        }
        Err(Error::Unavailable(format!(
            "node {node} had something of this name, and cannot say now whether it still has; nothing was done, ask again"
        )))
    }

    /// The one node that has all these volumes.
    ///
    /// # Errors
    /// `Precondition` where they lie on two nodes, `Unavailable` where one cannot be asked.
    fn one_holder(&self, volumes: &[VolumeId]) -> Result<NodeId, Error> {
        let held: Vec<(VolumeId, Result<NodeId, Error>)> =
            volumes.iter().map(|volume| (*volume, self.holder(volume.pool()))).collect();
        let known: Vec<_> = held.iter().filter_map(|(id, node)| Some((id, node.as_ref().ok()?))).collect();
        let pair = known.first().and_then(|first| Some((first, known.iter().find(|one| one.1 != first.1)?)));
        if let Some(((one, here), (other, there))) = pair {
            return Err(Error::Precondition(format!(
                "volume {one} lies on node {here} and volume {other} on node {there}: only volumes of one node can be cut at \
                 one moment"
            )));
        }
        let mut held = held.into_iter().map(|(_, node)| node);
        let first =
            held.next().unwrap_or_else(|| Err(Error::Invalid("source_volume_ids is missing".to_owned())));
        held.fold(first, |first, next| first.and_then(|node| next.map(|_| node)))
    }
}

/// What a node says it has cut, where that lies in the pools of its sources: a node speaks for no other pool.
fn beside_its_sources<R>(
    node: &NodeId,
    sources: &[VolumeId],
    made: Vec<String>,
    answer: R,
) -> Result<R, Error> {
    let is_beside = |id: &String| {
        let pool = id.parse::<ObjectId>().map(|id| id.pool());
        pool.is_ok_and(|pool| sources.iter().any(|source| source.pool() == pool))
    };
    let Some(stray) = made.into_iter().find(|id| !is_beside(id)) else { return Ok(answer) };
    tracing::warn!(%node, id = stray, "a node answers with a snapshot that is not in a pool of its sources");
    Err(Error::Unavailable(format!(
        "node {node} answered with snapshot {}, which is in no pool of what was to be cut; ask again",
        quoted(&stray)
    )))
}
