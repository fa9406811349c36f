//! Messages that several targets send.

use rockpool::proto::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use rockpool::proto::csi::{CapacityRange, CreateVolumeRequest, VolumeCapability};

/// A request for so many bytes, with a filesystem, or `block`.
pub fn create(name: &str, required_bytes: i64, fs: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: Some(CapacityRange { required_bytes, limit_bytes: 0 }),
        volume_capabilities: vec![capability(fs)],
        ..Default::default()
    }
}

/// One writer, with a filesystem, or `block`.
pub fn capability(fs: &str) -> VolumeCapability {
    let access_type = match fs {
        "block" => AccessType::Block(BlockVolume {}),
        fs => AccessType::Mount(MountVolume { fs_type: fs.to_owned(), ..Default::default() }),
    };
    VolumeCapability { access_type: Some(access_type), access_mode: Some(AccessMode { mode: 1 }) }
}
