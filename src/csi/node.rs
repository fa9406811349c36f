//! The Node service: a volume where it is used.

use tonic::{Request, async_trait};

use crate::engine::{Amount, Capability, NodeExpand, Publish, Stage, Stats, Writes};
use crate::error::{Error, Result};
use crate::model::{Parameters, VolumeId};
use crate::proto::csi;
use crate::proto::csi::node_server::Node;
use crate::proto::csi::volume_usage::Unit;

use super::bridge::{PATIENCE, ask};
use super::capability::usable;
use super::class::{contradiction, not_inline};
use super::describe::place;
use super::parse::{any_path, id, map, maybe_path, path, present, range};
use super::{Plugin, Reply, Services, noted, offers};

#[async_trait]
impl Node for Services {
    async fn node_get_capabilities(
        &self,
        _: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Reply<csi::NodeGetCapabilitiesResponse> {
        Ok(csi::NodeGetCapabilitiesResponse { capabilities: offers::node() }.into())
    }

    async fn node_get_info(&self, _: Request<csi::NodeGetInfoRequest>) -> Reply<csi::NodeGetInfoResponse> {
        let about = &self.plugin.about;
        Ok(csi::NodeGetInfoResponse {
            node_id: about.node_id.clone(),
            max_volumes_per_node: about.max_volumes,
            accessible_topology: Some(place(&about.node_id)),
        }
        .into())
    }

    async fn node_stage_volume(
        &self,
        request: Request<csi::NodeStageVolumeRequest>,
    ) -> Reply<csi::NodeStageVolumeResponse> {
        let request = noted(request, |r| &r.volume_id);
        present("volume_id", &request.volume_id)?;
        let staging = path("staging_target_path", &request.staging_target_path)?;
        let capability = usable("volume_capability", request.volume_capability.as_ref())?;
        map("secrets", &request.secrets)?;
        map("publish_context", &request.publish_context)?;
        map("volume_context", &request.volume_context)?;
        not_inline(&request.volume_context)?;
        let volume = id("volume_id", &request.volume_id)?;
        let context = request.volume_context.clone();
        let stage = Stage { volume, staging, capability };
        let plugin = self.plugin();
        let job = move || {
            plugin.check_context(&stage.volume, &context)?;
            plugin.engine.stage(&stage).map(|()| csi::NodeStageVolumeResponse {})
        };
        self.lanes.stage.run(&request, self.changing(volume, job)).await
    }

    async fn node_unstage_volume(
        &self,
        request: Request<csi::NodeUnstageVolumeRequest>,
    ) -> Reply<csi::NodeUnstageVolumeResponse> {
        let request = noted(request, |r| &r.volume_id);
        present("volume_id", &request.volume_id)?;
        let staging = path("staging_target_path", &request.staging_target_path)?;
        let volume: VolumeId = id("volume_id", &request.volume_id)?;
        let plugin = self.plugin();
        let job =
            move || plugin.engine.unstage(&volume, &staging).map(|()| csi::NodeUnstageVolumeResponse {});
        self.lanes.unstage.run(&request, self.changing(volume, job)).await
    }

    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Reply<csi::NodePublishVolumeResponse> {
        let request = noted(request, |r| &r.volume_id);
        let publish = Publishing::parse(&request)?;
        let context = request.volume_context.clone();
        let volume = publish.volume;
        let plugin = self.plugin();
        let job = move || {
            plugin.check_context(&publish.volume, &context)?;
            plugin.engine.publish(&publish.staged()?).map(|()| csi::NodePublishVolumeResponse {})
        };
        self.lanes.publish.run(&request, self.changing(volume, job)).await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Reply<csi::NodeUnpublishVolumeResponse> {
        let request = noted(request, |r| &r.volume_id);
        present("volume_id", &request.volume_id)?;
        let target = path("target_path", &request.target_path)?;
        let volume: VolumeId = id("volume_id", &request.volume_id)?;
        let plugin = self.plugin();
        let job =
            move || plugin.engine.unpublish(&volume, &target).map(|()| csi::NodeUnpublishVolumeResponse {});
        self.lanes.unpublish.run(&request, self.changing(volume, job)).await
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Reply<csi::NodeGetVolumeStatsResponse> {
        let request = noted(request, |r| &r.volume_id);
        present("volume_id", &request.volume_id)?;
        let path = any_path("volume_path", &request.volume_path)?;
        maybe_path("staging_target_path", &request.staging_target_path)?;
        let volume: VolumeId = id("volume_id", &request.volume_id)?;
        let plugin = self.plugin();
        let job = move || plugin.engine.stats(&volume, &path);
        let stats = ask(self.engine()?.workers(volume.pool()), PATIENCE, job).await?;
        Ok(csi::NodeGetVolumeStatsResponse { usage: usage(&stats) }.into())
    }

    async fn node_expand_volume(
        &self,
        request: Request<csi::NodeExpandVolumeRequest>,
    ) -> Reply<csi::NodeExpandVolumeResponse> {
        let request = noted(request, |r| &r.volume_id);
        present("volume_id", &request.volume_id)?;
        let path = any_path("volume_path", &request.volume_path)?;
        maybe_path("staging_target_path", &request.staging_target_path)?;
        map("secrets", &request.secrets)?;
        let capability = request.volume_capability.as_ref();
        let asked =
            capability.map(|one| usable("volume_capability", Some(one))).transpose()?.map(|one| one.asked);
        let volume: VolumeId = id("volume_id", &request.volume_id)?;
        let range = range(request.capacity_range.as_ref())?;
        let expand = NodeExpand { volume, path, range, asked };
        let plugin = self.plugin();
        let job = move || {
            let size = plugin.engine.expand_node(&expand)?;
            Ok(csi::NodeExpandVolumeResponse { capacity_bytes: size.as_i64() })
        };
        self.lanes.expand_node.run(&request, self.changing(volume, job)).await
    }

    async fn node_get_volume_health(
        &self,
        request: Request<csi::NodeGetVolumeHealthRequest>,
    ) -> Reply<csi::NodeGetVolumeHealthResponse> {
        self.node_health_of_volume(noted(request, |r| &r.volume_id)).await
    }

    async fn node_get_storage_health(
        &self,
        _: Request<csi::NodeGetStorageHealthRequest>,
    ) -> Reply<csi::NodeGetStorageHealthResponse> {
        self.health_of_storage().await
    }
}

/// NodePublishVolume, checked; the staging path may still be missing, since an unknown volume is said first.
struct Publishing {
    volume: VolumeId,
    staging: Option<std::path::PathBuf>,
    target: std::path::PathBuf,
    capability: Capability,
    writes: Writes,
}

impl Publishing {
    fn parse(request: &csi::NodePublishVolumeRequest) -> Result<Self> {
        present("volume_id", &request.volume_id)?;
        let target = path("target_path", &request.target_path)?;
        let field = "staging_target_path";
        let staging = Some(&request.staging_target_path).filter(|staging| !staging.is_empty());
        let staging = staging.map(|staging| path(field, staging)).transpose()?;
        let capability = usable("volume_capability", request.volume_capability.as_ref())?;
        map("secrets", &request.secrets)?;
        map("publish_context", &request.publish_context)?;
        // The volume context has no limit here: kubelet adds the tokens of service accounts to it.
        not_inline(&request.volume_context)?;
        let volume = id("volume_id", &request.volume_id)?;
        let writes = if request.readonly { Writes::Refused } else { Writes::Allowed };
        Ok(Publishing { volume, staging, target, capability, writes })
    }

    fn staged(self) -> Result<Publish> {
        let Some(staging) = self.staging else {
            return Err(Error::Precondition(
                "staging_target_path is missing: want the path at which NodeStageVolume staged the volume"
                    .to_owned(),
            ));
        };
        let Publishing { volume, target, capability, writes, .. } = self;
        Ok(Publish { volume, staging, target, capability, writes })
    }
}

impl Plugin {
    /// A context may be missing, as for volumes that were provisioned by hand, but where it speaks of us it must be right.
    fn check_context(&self, id: &VolumeId, sent: &Parameters) -> Result<()> {
        let volume = self.engine.volume(id)?;
        contradiction(sent, &self.context(&volume)).map_or(Ok(()), |why| Err(Error::Invalid(why)))
    }
}

fn usage(stats: &Stats) -> Vec<csi::VolumeUsage> {
    let wire = |amount: Amount, unit: Unit| csi::VolumeUsage {
        available: number(amount.available),
        total: number(amount.total),
        used: number(amount.used),
        unit: unit.into(),
    };
    let inodes = stats.inodes.map(|inodes| wire(inodes, Unit::Inodes));
    [Some(wire(stats.bytes, Unit::Bytes)), inodes].into_iter().flatten().collect()
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
