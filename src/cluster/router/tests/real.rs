//! The router over real nodes: their services, engines and news, on simulated pools.

use tonic::service::Routes;

use super::*;
use crate::csi::{About, Services};
use crate::engine::{Engine, EngineConfig, Files, PoolConfig};
use crate::model::{Bytes, Retention, TOPOLOGY_KEY};
use crate::pool::{Quota, Setup, prepare};
use crate::proto::csi::volume_content_source::{SnapshotSource, Type};

/// A node with a pool of so many GiB, in a directory that goes with it.
fn node(name: &str, gib: u64) -> (Routes, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup {
        name: "main".into(),
        kind: Kind::Sim,
        path: directory.path().into(),
        file: None,
        device: None,
        quota: Quota::None,
        size: Some(Bytes::GIB.times(gib)),
    };
    (services(name, &directory, setup), directory)
}

/// One with a pool that is a directory, and so has no snapshots.
fn plain_node(name: &str) -> (Routes, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool");
    std::fs::create_dir(&path).unwrap();
    let request = prepare::Request {
        name: "main".into(),
        kind: Kind::Directory,
        mount_parent: path.clone(),
        place: prepare::Place::Directory(path),
        quota: Quota::None,
    };
    (services(name, &directory, prepare::prepare(&request).unwrap()), directory)
}

fn services(name: &str, directory: &tempfile::TempDir, setup: Setup) -> Routes {
    let (kubelet_root, state_dir) = (directory.path().to_owned(), directory.path().join("state"));
    let pools = vec![PoolConfig { setup, overcommit: 1.0, reserve: 0.05, retain: Retention::NONE }];
    let engine = Engine::open(EngineConfig { pools, kubelet_root, state_dir, files: Files::Apart }).unwrap();
    let about = About { driver_name: "csi.rockpool.dev".into(), node_id: name.into(), max_volumes: 0 };
    let services = Services::offering(engine, about, Kind::Sim.features()).unwrap();
    Routes::new(services.link()).add_service(services.controller()).add_service(services.group_controller())
}

fn wanted(name: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: name.into(),
        volume_capabilities: vec![capability()],
        capacity_range: Some(CapacityRange { required_bytes: 1 << 30, limit_bytes: 0 }),
        ..Default::default()
    }
}

fn place(volume: &csi::Volume) -> String {
    volume.accessible_topology[0].segments[TOPOLOGY_KEY].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_life_of_volumes_on_two_real_nodes() {
    let rig = Rig::new();
    let ((small, _small), (large, _large)) = (node("n1", 4), node("n2", 8));
    let mut joined = vec![rig.connect("n1", small.clone()).await, rig.connect("n2", large).await];
    for node in ["n1", "n2"] {
        rig.told(node).await;
    }
    let (router, other) = (router(&rig, SETTLED), self::router(&rig, SETTLED));
    let make = async |router: &Router, request| {
        router.create_volume(Request::new(request)).await.map(|made| made.into_inner().volume.unwrap())
    };
    let mut all = Vec::new();
    for n in 0..9 {
        let name = format!("pvc-{n}");
        let made = make(&router, wanted(&name)).await.unwrap();
        // The other controller knows it as soon as its node has told of it.
        let hash = name_hash(Named::Volume, &name);
        soon("the name is known", || (!rig.known.holding(hash).is_empty()).then_some(())).await;
        assert_eq!(make(&other, wanted(&name)).await.unwrap(), made);
        all.push(made);
    }
    assert_eq!(all.iter().filter(|volume| place(volume) == "n1").count(), 3, "both are spread over");
    let full = code(
        make(
            &router,
            CreateVolumeRequest {
                capacity_range: Some(CapacityRange { required_bytes: 6 << 30, limit_bytes: 0 }),
                ..wanted("large")
            },
        )
        .await,
    );
    assert_eq!(full.0, Code::ResourceExhausted, "{}", full.1);
    let list = async || {
        let page = router
            .list_volumes(Request::new(ListVolumesRequest { max_entries: 0, ..Default::default() }))
            .await;
        page.map(|page| {
            page.into_inner().entries.into_iter().map(|entry| entry.volume.unwrap()).collect::<Vec<_>>()
        })
    };
    let mut sorted = all.clone();
    sorted.sort_by(|one, other| one.volume_id.cmp(&other.volume_id));
    assert_eq!(list().await.unwrap(), sorted);
    let victim = all.iter().find(|volume| place(volume) == "n1").unwrap();
    let source_volume_id = victim.volume_id.clone();
    let cut = CreateSnapshotRequest { name: "cut".into(), source_volume_id, ..Default::default() };
    let delete = DeleteVolumeRequest { volume_id: victim.volume_id.clone(), ..Default::default() };
    assert_eq!(code(router.delete_volume(Request::new(delete.clone())).await).0, Code::Ok);
    assert_eq!(
        code(router.create_snapshot(Request::new(cut)).await).0,
        Code::NotFound,
        "its node knows that it is gone"
    );
    let source =
        all.iter().find(|volume| place(volume) == "n1" && volume.volume_id != victim.volume_id).unwrap();
    let source_volume_id = source.volume_id.clone();
    let cut = CreateSnapshotRequest { name: "cut".into(), source_volume_id, ..Default::default() };
    let cut = router.create_snapshot(Request::new(cut)).await.unwrap().into_inner().snapshot.unwrap();
    let snapshot = Some(Type::Snapshot(SnapshotSource { snapshot_id: cut.snapshot_id.clone() }));
    let volume_content_source = Some(VolumeContentSource { r#type: snapshot });
    let restored =
        make(&other, CreateVolumeRequest { volume_content_source, ..wanted("restored") }).await.unwrap();
    assert_eq!(place(&restored), "n1");
    joined.remove(0);
    rig.stands("n1", Standing::Away).await;
    assert_eq!(code(list().await).0, Code::Unavailable);
    assert_eq!(
        code(router.delete_volume(Request::new(delete.clone())).await).0,
        Code::Unavailable,
        "it may be there"
    );
    assert_eq!(code(make(&router, wanted("restored")).await).0, Code::Unavailable);
    joined.push(rig.connect("n1", small).await);
    rig.told("n1").await;
    assert_eq!(code(router.delete_volume(Request::new(delete)).await).0, Code::Ok);
    assert_eq!(list().await.unwrap().len(), 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_pools_lack_what_others_have_is_listed_with_them() {
    let rig = Rig::new();
    let ((sim, _sim), (plain, _plain)) = (node("n1", 4), plain_node("n2"));
    let _joined = [rig.connect("n1", sim).await, rig.connect("n2", plain).await];
    for node in ["n1", "n2"] {
        rig.told(node).await;
    }
    let router = router(&rig, SETTLED);
    let mut made = Vec::new();
    for node in ["n1", "n2"] {
        let segments = [(TOPOLOGY_KEY.to_owned(), node.to_owned())].into();
        let requirement = TopologyRequirement { requisite: vec![Topology { segments }], preferred: vec![] };
        let request = CreateVolumeRequest {
            capacity_range: Some(CapacityRange { required_bytes: 16 << 20, limit_bytes: 0 }),
            accessibility_requirements: Some(requirement),
            ..wanted(&format!("on {node}"))
        };
        let volume = router.create_volume(Request::new(request)).await.unwrap().into_inner().volume.unwrap();
        assert_eq!(place(&volume), node);
        made.push(volume.volume_id);
    }
    let cut = async |source: &String| {
        let request = CreateSnapshotRequest {
            name: format!("of {source}"),
            source_volume_id: source.clone(),
            ..Default::default()
        };
        code(router.create_snapshot(Request::new(request)).await)
    };
    assert_eq!(cut(&made[0]).await.0, Code::Ok);
    let (lacks, message) = cut(&made[1]).await;
    assert_eq!((lacks, message.contains("main")), (Code::FailedPrecondition, true), "{message}");
    let list = router.list_snapshots(Request::new(ListSnapshotsRequest::default())).await.unwrap();
    assert_eq!(list.into_inner().entries.len(), 1);
    for volume_id in made {
        let request = DeleteVolumeRequest { volume_id, ..Default::default() };
        router.delete_volume(Request::new(request)).await.unwrap();
    }
}
