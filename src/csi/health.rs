//! The Controller's and the node's calls about health. None waits for a hung disk: a pool whose threads do not answer is
//! itself the finding.

use std::time::Duration;

use crate::engine::{Problem, Severity};
use crate::error::{Error, Result};
use crate::model::VolumeId;
use crate::proto::csi;

use super::bridge::{ask, ask_each};
use super::checked::{Page, health as checked};
use super::parse::{id, maybe_path, present};
use super::tokens::{List, cut};
use super::{Plugin, Reply, Services, describe};

/// How long a look at health may take before silence is the finding.
const HEALTH_PATIENCE: Duration = Duration::from_secs(5);

impl Services {
    pub(super) async fn health_of_volume(
        &self,
        request: csi::ControllerGetVolumeHealthRequest,
    ) -> Reply<csi::ControllerGetVolumeHealthResponse> {
        let volume_health = Some(self.health(checked::get(&request)?).await?);
        Ok(csi::ControllerGetVolumeHealthResponse { volume_health }.into())
    }

    pub(super) async fn page_of_unhealthy(
        &self,
        request: csi::ControllerListVolumeHealthRequest,
    ) -> Reply<csi::ControllerListVolumeHealthResponse> {
        let Page { after, max } = checked::list(&request)?;
        let engine = self.engine()?;
        engine.complete()?;
        let volumes: Vec<VolumeId> = engine.listed(after, usize::MAX).into_iter().map(|(id, _)| id).collect();
        let mut page = Vec::new();
        // Ids begin with their pool.
        for of_pool in volumes.chunk_by(|one, other| one.pool() == other.pool()) {
            page.extend(self.unhealthy(of_pool.to_vec(), max.saturating_add(1) - page.len()).await?);
            if page.len() > max {
                break;
            }
        }
        let next_token = cut(List::VolumeHealth, &mut page, max, |(id, _)| *id);
        let entries = page.iter().map(|(id, problems)| describe::health(id, problems)).collect();
        Ok(csi::ControllerListVolumeHealthResponse { entries, next_token }.into())
    }

    /// Up to `most` volumes of one pool with something wrong; all of them where the pool is silent.
    async fn unhealthy(&self, ids: Vec<VolumeId>, most: usize) -> Result<Vec<(VolumeId, Vec<Problem>)>> {
        let Some(pool) = ids.first().map(VolumeId::pool) else { return Ok(Vec::new()) };
        let (plugin, these) = (self.plugin(), ids.clone());
        let job = move || plugin.unhealthy(&these, most);
        match ask(self.engine()?.workers(pool), HEALTH_PATIENCE, job).await {
            silent @ Err(Error::Unavailable(_)) => {
                let problems = unless_silent(silent.map(|_| Vec::new()))?;
                Ok(ids.into_iter().take(most).map(|id| (id, problems.clone())).collect())
            }
            other => other,
        }
    }

    /// The node's view: that of the record and the pool, whether or not the volume is in use here.
    pub(super) async fn node_health_of_volume(
        &self,
        request: csi::NodeGetVolumeHealthRequest,
    ) -> Reply<csi::NodeGetVolumeHealthResponse> {
        present("volume_id", &request.volume_id)?;
        maybe_path("volume_publish_path", &request.volume_publish_path)?;
        maybe_path("staging_target_path", &request.staging_target_path)?;
        let volume_health = Some(self.health(id("volume_id", &request.volume_id)?).await?);
        Ok(csi::NodeGetVolumeHealthResponse { volume_health }.into())
    }

    pub(super) async fn health_of_storage(&self) -> Reply<csi::NodeGetStorageHealthResponse> {
        let engine = self.engine()?;
        let questions = engine.indexes().map(|index| {
            let plugin = self.plugin();
            (engine.workers_at(index), move || Ok(plugin.engine.pool_health(index)))
        });
        let mut problems = Vec::new();
        for answer in ask_each(questions, HEALTH_PATIENCE).await {
            problems.extend(unless_silent(answer)?);
        }
        Ok(describe::storage(&problems).into())
    }

    async fn health(&self, id: VolumeId) -> Result<csi::VolumeHealth> {
        let plugin = self.plugin();
        let job = move || Ok(plugin.engine.volume_health(&id));
        // The engine's own answer is kept apart from the silence of its threads.
        let answer = ask(self.engine()?.workers(id.pool()), HEALTH_PATIENCE, job).await;
        let problems = match answer {
            Ok(problems) => problems?,
            silent @ Err(_) => unless_silent(silent.map(|_| Vec::new()))?,
        };
        Ok(describe::health(&id, &problems))
    }
}

/// No answer in time becomes a problem.
fn unless_silent(answer: Result<Vec<Problem>>) -> Result<Vec<Problem>> {
    match answer {
        Err(Error::Unavailable(message)) => {
            Ok(vec![Problem { severity: Severity::Inaccessible, reason: "StorageNotAnswering", message }])
        }
        other => other,
    }
}

impl Plugin {
    /// Up to `most` of these volumes, all of one pool, with something wrong. On the threads of that pool.
    fn unhealthy(&self, ids: &[VolumeId], most: usize) -> Result<Vec<(VolumeId, Vec<Problem>)>> {
        let mut found = Vec::new();
        for id in ids {
            let problems = match self.engine.volume_health(id) {
                // Deleted since the list was read.
                Err(Error::NotFound(_)) => continue,
                problems => problems?,
            };
            if !problems.is_empty() {
                found.push((*id, problems));
            }
            if found.len() >= most {
                break;
            }
        }
        Ok(found)
    }
}
