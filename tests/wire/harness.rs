//! A driver in this process behind a unix socket, and the words for talking to it.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use rockpool::csi::{About, Services};
use rockpool::engine::{Engine, EngineConfig, Files, PoolConfig};
use rockpool::model::{Bytes, Retention, TOPOLOGY_KEY};
use rockpool::pool::{Kind, Quota, Setup};
use rockpool::proto::csi::controller_client::ControllerClient;
use rockpool::proto::csi::group_controller_client::GroupControllerClient;
use rockpool::proto::csi::identity_client::IdentityClient;
use rockpool::proto::csi::node_client::NodeClient;
use rockpool::proto::csi::snapshot_metadata_client::SnapshotMetadataClient;
use rockpool::proto::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use rockpool::proto::csi::*;
use rockpool::proto::link::link_client::LinkClient;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Response, Status};

pub(crate) const NODE: &str = "node-1";
pub(crate) const MIB: i64 = 1 << 20;
pub(crate) const GIB: i64 = 1 << 30;
/// The size of the pool `fast`; `small` has a hundredth of it.
pub(crate) const POOL: i64 = 100 * GIB;

/// A well-formed id in a pool that nobody has.
pub(crate) const STRANGER: &str = "v1.0123456789ab.0123456789abcdef";

/// Ids that are none of ours, in every hostile shape that is not too long.
pub(crate) const HOSTILE_IDS: [&str; 12] = [
    ".",
    "..",
    "/",
    "../../etc/passwd",
    "/etc",
    " ",
    "\0",
    "v1.0123456789ab.0123456789abcdef\0",
    "line\nfeed\u{7f}",
    "ид-🦀",
    "pvc-0b3c9f3e-9d5a-4c53-8a3f-0d8f0c8f1f10",
    "s9.0123456789ab.0123456789abcdef",
];

/// A driver that serves until it is dropped.
pub(crate) struct Driver {
    pub(crate) identity: IdentityClient<Channel>,
    pub(crate) controller: ControllerClient<Channel>,
    pub(crate) groups: GroupControllerClient<Channel>,
    pub(crate) node: NodeClient<Channel>,
    pub(crate) metadata: SnapshotMetadataClient<Channel>,
    pub(crate) link: LinkClient<Channel>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) directory: tempfile::TempDir,
    serving: JoinHandle<()>,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A pool in memory.
pub(crate) fn sim(name: &str, size: i64) -> PoolConfig {
    let size = Some(Bytes::new(size.unsigned_abs()));
    pool(Setup {
        name: name.to_owned(),
        kind: Kind::Sim,
        path: PathBuf::new(),
        file: None,
        device: None,
        quota: Quota::Project,
        size,
    })
}

/// A pool that promises all it has.
pub(crate) fn pool(setup: Setup) -> PoolConfig {
    PoolConfig { setup, overcommit: 1.0, reserve: 0.0, retain: Retention::NONE }
}

impl Driver {
    /// Two pools in memory.
    pub(crate) async fn start() -> Driver {
        Driver::with(|_| vec![sim("fast", POOL), sim("small", POOL / 100)]).await
    }

    /// The pools that `pools` makes below a directory of its own.
    pub(crate) async fn with(pools: impl FnOnce(&std::path::Path) -> Vec<PoolConfig>) -> Driver {
        let directory = tempfile::tempdir().unwrap();
        let kubelet_root = directory.path().join("kubelet");
        std::fs::create_dir(&kubelet_root).unwrap();
        let state_dir = directory.path().join("state");
        std::fs::create_dir(&state_dir).unwrap();
        let config =
            EngineConfig { pools: pools(directory.path()), kubelet_root, state_dir, files: Files::Apart };
        let engine = Engine::open(config).unwrap();
        let about = About { driver_name: "csi.rockpool.dev".into(), node_id: NODE.into(), max_volumes: 7 };
        let services = Services::new(Arc::clone(&engine), about).unwrap();
        let socket = directory.path().join("csi.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = Server::builder()
            .add_service(services.identity())
            .add_service(services.controller())
            .add_service(services.group_controller())
            .add_service(services.snapshot_metadata())
            .add_service(services.node())
            .add_service(services.link())
            .serve_with_incoming(UnixListenerStream::new(listener));
        let serving = tokio::spawn(async move { server.await.unwrap() });
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
        let channel = endpoint.connect().await.unwrap();
        Driver {
            identity: IdentityClient::new(channel.clone()),
            controller: ControllerClient::new(channel.clone()),
            groups: GroupControllerClient::new(channel.clone()),
            node: NodeClient::new(channel.clone()),
            metadata: SnapshotMetadataClient::new(channel.clone()),
            link: LinkClient::new(channel),
            engine,
            directory,
            serving,
        }
    }

    /// A volume that works, made.
    pub(crate) async fn volume(&self, name: &str) -> Volume {
        self.create(create(name)).await.unwrap()
    }

    pub(crate) async fn create(&self, request: CreateVolumeRequest) -> Result<Volume, Status> {
        let answer = self.controller.clone().create_volume(request).await;
        answer.map(|response| response.into_inner().volume.unwrap())
    }

    pub(crate) async fn delete(&self, volume_id: &str) -> Result<(), Status> {
        let request = DeleteVolumeRequest { volume_id: volume_id.into(), ..Default::default() };
        self.controller.clone().delete_volume(request).await.map(drop)
    }

    pub(crate) async fn snapshot(&self, name: &str, source: &str) -> Result<Snapshot, Status> {
        let request = CreateSnapshotRequest {
            name: name.into(),
            source_volume_id: source.into(),
            ..Default::default()
        };
        let answer = self.controller.clone().create_snapshot(request).await;
        answer.map(|response| response.into_inner().snapshot.unwrap())
    }

    pub(crate) async fn volumes(&self) -> Vec<Volume> {
        let answer = self.controller.clone().list_volumes(ListVolumesRequest::default()).await.unwrap();
        answer.into_inner().entries.into_iter().map(|entry| entry.volume.unwrap()).collect()
    }

    pub(crate) async fn snapshots(&self) -> Vec<Snapshot> {
        let answer = self.controller.clone().list_snapshots(ListSnapshotsRequest::default()).await.unwrap();
        answer.into_inner().entries.into_iter().map(|entry| entry.snapshot.unwrap()).collect()
    }

    pub(crate) async fn capacity(&self, request: GetCapacityRequest) -> Result<GetCapacityResponse, Status> {
        self.controller.clone().get_capacity(request).await.map(Response::into_inner)
    }

    /// All that a refused call must leave as it is.
    pub(crate) async fn state(&self) -> (Vec<Volume>, Vec<Snapshot>, GetCapacityResponse) {
        let capacity = self.capacity(GetCapacityRequest::default()).await.unwrap();
        (self.volumes().await, self.snapshots().await, capacity)
    }

    /// Makes a call that must be refused, and checks code, words, and that nothing changed.
    pub(crate) async fn refused<T>(
        &self,
        call: impl Future<Output = Result<T, Status>>,
        code: Code,
        words: &[&str],
    ) -> String {
        let before = self.state().await;
        let Err(status) = call.await else { panic!("it was allowed: {words:?}") };
        assert_eq!(status.code(), code, "{words:?}: {}", status.message());
        for word in words {
            assert!(status.message().contains(word), "{word:?} is not in {:?}", status.message());
        }
        assert!(!status.message().is_empty() && status.details().is_empty());
        assert!(before == self.state().await, "{words:?}: something changed");
        status.message().to_owned()
    }
}

/// A request for 1 GiB with ext4 by default.
pub(crate) fn create(name: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: Some(CapacityRange { required_bytes: GIB, limit_bytes: 0 }),
        volume_capabilities: vec![mount("")],
        ..Default::default()
    }
}

pub(crate) fn mount(fs_type: &str) -> VolumeCapability {
    capability(AccessType::Mount(MountVolume { fs_type: fs_type.to_owned(), ..Default::default() }), 1)
}

pub(crate) fn block() -> VolumeCapability {
    capability(AccessType::Block(BlockVolume {}), 1)
}

pub(crate) fn capability(access_type: AccessType, mode: i32) -> VolumeCapability {
    VolumeCapability { access_type: Some(access_type), access_mode: Some(AccessMode { mode }) }
}

pub(crate) fn with_flags(flags: &[&str]) -> VolumeCapability {
    let mount_flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    capability(AccessType::Mount(MountVolume { mount_flags, ..Default::default() }), 1)
}

pub(crate) fn with_group(group: &str) -> VolumeCapability {
    let volume_mount_group = group.to_owned();
    capability(AccessType::Mount(MountVolume { volume_mount_group, ..Default::default() }), 1)
}

pub(crate) fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

pub(crate) fn place(node: &str) -> Topology {
    Topology { segments: map(&[(TOPOLOGY_KEY, node)]) }
}

pub(crate) fn near(requisite: &[&str], preferred: &[&str]) -> Option<TopologyRequirement> {
    let places = |nodes: &[&str]| nodes.iter().map(|node| place(node)).collect();
    Some(TopologyRequirement { requisite: places(requisite), preferred: places(preferred) })
}

pub(crate) fn from_snapshot(id: &str) -> Option<VolumeContentSource> {
    use volume_content_source::{SnapshotSource, Type};
    Some(VolumeContentSource { r#type: Some(Type::Snapshot(SnapshotSource { snapshot_id: id.to_owned() })) })
}

pub(crate) fn from_volume(id: &str) -> Option<VolumeContentSource> {
    use volume_content_source::{Type, VolumeSource};
    Some(VolumeContentSource { r#type: Some(Type::Volume(VolumeSource { volume_id: id.to_owned() })) })
}
