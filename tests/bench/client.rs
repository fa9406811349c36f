//! The CSI calls that are measured, and the shapes of volumes they are made for.

use std::path::{Path, PathBuf};

use rockpool::proto::csi;
use tonic::transport::{Channel, Endpoint, Uri};

use csi::controller_client::ControllerClient;
use csi::identity_client::IdentityClient;
use csi::node_client::NodeClient;
use csi::volume_capability::access_mode::Mode;
use csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use csi::volume_content_source::{SnapshotSource, Type as SourceType, VolumeSource};

use crate::Outcome;

/// Ten thousand volumes may come in one answer.
const ANSWER_LIMIT: usize = 64 << 20;

/// A kind of volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// In a directory pool whose sizes are not enforced.
    Directory,
    /// ext4 in an image.
    Ext4,
    /// xfs in an image.
    Xfs,
    /// A raw image.
    Block,
}

impl Shape {
    /// All that are measured.
    pub(crate) const ALL: [Shape; 4] = [Shape::Directory, Shape::Ext4, Shape::Xfs, Shape::Block];

    /// For the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Shape::Directory => "directory",
            Shape::Ext4 => "image/ext4",
            Shape::Xfs => "image/xfs",
            Shape::Block => "block",
        }
    }

    /// The pool that makes it.
    pub(crate) fn pool(self) -> &'static str {
        match self {
            Shape::Directory => "dirs",
            Shape::Ext4 | Shape::Xfs | Shape::Block => "images",
        }
    }

    fn capability(self) -> csi::VolumeCapability {
        let mount =
            |fs: &str| AccessType::Mount(MountVolume { fs_type: fs.to_owned(), ..MountVolume::default() });
        let access = match self {
            Shape::Directory => mount(""),
            Shape::Ext4 => mount("ext4"),
            Shape::Xfs => mount("xfs"),
            Shape::Block => AccessType::Block(BlockVolume {}),
        };
        csi::VolumeCapability {
            access_type: Some(access),
            access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
        }
    }
}

/// Where a volume is staged and published. The directories around them exist, as kubelet makes them.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    /// The staging directory.
    pub(crate) staging: PathBuf,
    /// The target, which the driver makes.
    pub(crate) target: PathBuf,
}

/// One connection to a driver.
#[derive(Clone)]
pub(crate) struct Client {
    channel: Channel,
}

impl Client {
    /// Connects, once.
    pub(crate) async fn connect(socket: &Path) -> Outcome<Client> {
        let channel = Endpoint::from_shared(format!("unix://{}", socket.display()))?
            .origin(Uri::from_static("http://localhost"))
            .connect()
            .await?;
        Ok(Client { channel })
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
        self.create_from(name, of, Some(SourceType::Volume(VolumeSource { volume_id: volume.to_owned() })))
            .await
    }

    /// CreateVolume from a snapshot.
    pub(crate) async fn restore(&self, name: &str, of: (Shape, i64), snapshot: &str) -> Outcome<String> {
        let source = SourceType::Snapshot(SnapshotSource { snapshot_id: snapshot.to_owned() });
        self.create_from(name, of, Some(source)).await
    }

    async fn create_from(
        &self,
        name: &str,
        (shape, size): (Shape, i64),
        source: Option<SourceType>,
    ) -> Outcome<String> {
        let request = csi::CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(csi::CapacityRange { required_bytes: size, limit_bytes: 0 }),
            volume_capabilities: vec![shape.capability()],
            parameters: [("pool".to_owned(), shape.pool().to_owned())].into(),
            volume_content_source: source.map(|source| csi::VolumeContentSource { r#type: Some(source) }),
            ..Default::default()
        };
        let answer = self.controller().create_volume(request).await?.into_inner();
        Ok(answer.volume.ok_or("the answer has no volume")?.volume_id)
    }

    /// DeleteVolume.
    pub(crate) async fn delete(&self, id: &str) -> Outcome<()> {
        let request = csi::DeleteVolumeRequest { volume_id: id.to_owned(), ..Default::default() };
        self.controller().delete_volume(request).await?;
        Ok(())
    }

    /// NodeStageVolume.
    pub(crate) async fn stage(&self, id: &str, shape: Shape, spot: &Spot) -> Outcome<()> {
        let request = csi::NodeStageVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: text(&spot.staging),
            volume_capability: Some(shape.capability()),
            ..Default::default()
        };
        self.node().node_stage_volume(request).await?;
        Ok(())
    }

    /// NodePublishVolume.
    pub(crate) async fn publish(&self, id: &str, shape: Shape, spot: &Spot) -> Outcome<()> {
        let request = csi::NodePublishVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: text(&spot.staging),
            target_path: text(&spot.target),
            volume_capability: Some(shape.capability()),
            ..Default::default()
        };
        self.node().node_publish_volume(request).await?;
        Ok(())
    }

    /// NodeUnpublishVolume.
    pub(crate) async fn unpublish(&self, id: &str, spot: &Spot) -> Outcome<()> {
        let request =
            csi::NodeUnpublishVolumeRequest { volume_id: id.to_owned(), target_path: text(&spot.target) };
        self.node().node_unpublish_volume(request).await?;
        Ok(())
    }

    /// NodeUnstageVolume.
    pub(crate) async fn unstage(&self, id: &str, spot: &Spot) -> Outcome<()> {
        let request = csi::NodeUnstageVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: text(&spot.staging),
        };
        self.node().node_unstage_volume(request).await?;
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
        let request = csi::CreateSnapshotRequest {
            name: name.to_owned(),
            source_volume_id: volume.to_owned(),
            ..Default::default()
        };
        let answer = self.controller().create_snapshot(request).await?.into_inner();
        Ok(answer.snapshot.ok_or("the answer has no snapshot")?.snapshot_id)
    }

    /// DeleteSnapshot.
    pub(crate) async fn forget(&self, id: &str) -> Outcome<()> {
        let request = csi::DeleteSnapshotRequest { snapshot_id: id.to_owned(), ..Default::default() };
        self.controller().delete_snapshot(request).await?;
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

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
