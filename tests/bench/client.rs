//! The CSI calls that are measured.

use std::path::Path;

use rockpool::proto::csi;
use tonic::transport::Channel;

use csi::controller_client::ControllerClient;
use csi::identity_client::IdentityClient;
use csi::node_client::NodeClient;

use crate::Outcome;
use crate::requests::{self, Origin};
pub(crate) use crate::requests::{Shape, Spot};

/// Ten thousand volumes may come in one answer.
const ANSWER_LIMIT: usize = 64 << 20;
/// All shapes that are measured.
pub(crate) const SHAPES: [Shape; 4] = [Shape::Directory, Shape::Ext4, Shape::Xfs, Shape::Block];

/// One connection to a driver.
#[derive(Clone)]
pub(crate) struct Client {
    channel: Channel,
}

impl Client {
    /// Connects, once.
    pub(crate) async fn connect(socket: &Path) -> Outcome<Client> {
        Ok(Client { channel: requests::endpoint(socket)?.connect().await? })
    }

    /// Whether it says that it is ready.
    pub(crate) async fn ready(&self) -> bool {
        let answer = IdentityClient::new(self.channel.clone()).probe(csi::ProbeRequest {}).await;
        answer.is_ok_and(|answer| answer.into_inner().ready.unwrap_or(true))
    }

    fn controller(&self) -> ControllerClient<Channel> {
        ControllerClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_LIMIT)
    }

    fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone())
    }

    /// CreateVolume of a blank volume.
    pub(crate) async fn create(&self, name: &str, shape: Shape, size: i64) -> Outcome<String> {
        self.create_from(name, (shape, size), None).await
    }

    /// CreateVolume from a volume.
    pub(crate) async fn clone_of(&self, name: &str, of: (Shape, i64), volume: &str) -> Outcome<String> {
        self.create_from(name, of, Some(Origin::Volume(volume.to_owned()))).await
    }

    /// CreateVolume from a snapshot.
    pub(crate) async fn restore(&self, name: &str, of: (Shape, i64), snapshot: &str) -> Outcome<String> {
        self.create_from(name, of, Some(Origin::Snapshot(snapshot.to_owned()))).await
    }

    async fn create_from(&self, name: &str, of: (Shape, i64), from: Option<Origin>) -> Outcome<String> {
        let answer = self.controller().create_volume(requests::create(name, of, from)).await?.into_inner();
        Ok(answer.volume.ok_or("the answer has no volume")?.volume_id)
    }

    /// DeleteVolume.
    pub(crate) async fn delete(&self, id: &str) -> Outcome<()> {
        self.controller().delete_volume(requests::delete(id)).await?;
        Ok(())
    }

    /// NodeStageVolume.
    pub(crate) async fn stage(&self, id: &str, shape: Shape, spot: &Spot) -> Outcome<()> {
        self.node().node_stage_volume(requests::stage(id, shape, spot)).await?;
        Ok(())
    }

    /// NodePublishVolume.
    pub(crate) async fn publish(&self, id: &str, shape: Shape, spot: &Spot) -> Outcome<()> {
        self.node().node_publish_volume(requests::publish(id, shape, spot)).await?;
        Ok(())
    }

    /// NodeUnpublishVolume.
    pub(crate) async fn unpublish(&self, id: &str, spot: &Spot) -> Outcome<()> {
        self.node().node_unpublish_volume(requests::unpublish(id, spot)).await?;
        Ok(())
    }

    /// NodeUnstageVolume.
    pub(crate) async fn unstage(&self, id: &str, spot: &Spot) -> Outcome<()> {
        self.node().node_unstage_volume(requests::unstage(id, spot)).await?;
        Ok(())
    }

    /// A whole life.
    pub(crate) async fn live(&self, name: &str, shape: Shape, size: i64, spot: &Spot) -> Outcome<()> {
        let id = self.create(name, shape, size).await?;
        self.stage(&id, shape, spot).await?;
        self.publish(&id, shape, spot).await?;
        self.unpublish(&id, spot).await?;
        self.unstage(&id, spot).await?;
        self.delete(&id).await
    }

    /// CreateSnapshot.
    pub(crate) async fn snapshot(&self, name: &str, volume: &str) -> Outcome<String> {
        let answer = self.controller().create_snapshot(requests::snapshot(name, volume)).await?.into_inner();
        Ok(answer.snapshot.ok_or("the answer has no snapshot")?.snapshot_id)
    }

    /// DeleteSnapshot.
    pub(crate) async fn forget(&self, id: &str) -> Outcome<()> {
        self.controller().delete_snapshot(requests::forget(id)).await?;
        Ok(())
    }

    /// ListVolumes, page by page to the end; how many there are.
    pub(crate) async fn count(&self) -> Outcome<usize> {
        let mut request = csi::ListVolumesRequest { max_entries: 1000, starting_token: String::new() };
        let mut count = 0;
        loop {
            let page = self.controller().list_volumes(request.clone()).await?.into_inner();
            count += page.entries.len();
            if page.next_token.is_empty() {
                return Ok(count);
            }
            request.starting_token = page.next_token;
        }
    }
}
