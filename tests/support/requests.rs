//! The CSI requests that programs which drive the real binary send, and the shapes of volumes they are sent for.
//!
//! Owns: what a request says; `bench` and `torture` send the same. Never: sends one, or decides what an answer means.

use std::path::{Path, PathBuf};

use rockpool::proto::csi;
use tonic::transport::{Endpoint, Uri};

use csi::volume_capability::access_mode::Mode;
use csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use csi::volume_content_source::{SnapshotSource, Type as SourceType, VolumeSource};

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
    /// For tables.
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

    /// How it is used.
    pub(crate) fn capability(self) -> csi::VolumeCapability {
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

/// What a copy is made from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Origin {
    /// The volume with this id.
    Volume(String),
    /// The snapshot with this id.
    Snapshot(String),
}

/// A driver's socket, as a client dials it.
pub(crate) fn endpoint(socket: &Path) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
    Ok(endpoint.origin(Uri::from_static("http://localhost")))
}

/// CreateVolume.
pub(crate) fn create(
    name: &str,
    (shape, size): (Shape, i64),
    from: Option<Origin>,
) -> csi::CreateVolumeRequest {
    let source = from.map(|from| match from {
        Origin::Volume(volume_id) => SourceType::Volume(VolumeSource { volume_id }),
        Origin::Snapshot(snapshot_id) => SourceType::Snapshot(SnapshotSource { snapshot_id }),
    });
    csi::CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: Some(csi::CapacityRange { required_bytes: size, limit_bytes: 0 }),
        volume_capabilities: vec![shape.capability()],
        parameters: [("pool".to_owned(), shape.pool().to_owned())].into(),
        volume_content_source: source.map(|source| csi::VolumeContentSource { r#type: Some(source) }),
        ..Default::default()
    }
}

/// DeleteVolume.
pub(crate) fn delete(id: &str) -> csi::DeleteVolumeRequest {
    csi::DeleteVolumeRequest { volume_id: id.to_owned(), ..Default::default() }
}

/// NodeStageVolume.
pub(crate) fn stage(id: &str, shape: Shape, spot: &Spot) -> csi::NodeStageVolumeRequest {
    csi::NodeStageVolumeRequest {
        volume_id: id.to_owned(),
        staging_target_path: text(&spot.staging),
        volume_capability: Some(shape.capability()),
        ..Default::default()
    }
}

/// NodePublishVolume.
pub(crate) fn publish(id: &str, shape: Shape, spot: &Spot) -> csi::NodePublishVolumeRequest {
    csi::NodePublishVolumeRequest {
        volume_id: id.to_owned(),
        staging_target_path: text(&spot.staging),
        target_path: text(&spot.target),
        volume_capability: Some(shape.capability()),
        ..Default::default()
    }
}

/// NodeUnpublishVolume.
pub(crate) fn unpublish(id: &str, spot: &Spot) -> csi::NodeUnpublishVolumeRequest {
    csi::NodeUnpublishVolumeRequest { volume_id: id.to_owned(), target_path: text(&spot.target) }
}

/// NodeUnstageVolume.
pub(crate) fn unstage(id: &str, spot: &Spot) -> csi::NodeUnstageVolumeRequest {
    csi::NodeUnstageVolumeRequest { volume_id: id.to_owned(), staging_target_path: text(&spot.staging) }
}

/// CreateSnapshot.
pub(crate) fn snapshot(name: &str, volume: &str) -> csi::CreateSnapshotRequest {
    csi::CreateSnapshotRequest {
        name: name.to_owned(),
        source_volume_id: volume.to_owned(),
        ..Default::default()
    }
}

/// DeleteSnapshot.
pub(crate) fn forget(id: &str) -> csi::DeleteSnapshotRequest {
    csi::DeleteSnapshotRequest { snapshot_id: id.to_owned(), ..Default::default() }
}

/// A path as a request carries it.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
