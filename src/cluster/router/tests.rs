//! What a caller of a controller hears, with nodes that come, go, refuse and hang.

mod create;
mod lists;
mod lost;
mod real;

use std::time::Duration;

use tonic::{Code, Request, Status};

use super::{Ground, Patience, Router};
use crate::cluster::news::Standing;
use crate::cluster::tests::{Fake, Joined, Rig, soon};
use crate::model::{Named, name_hash};
use crate::pool::Kind;
use crate::proto::csi::controller_server::Controller;
use crate::proto::csi::group_controller_server::GroupController;
use crate::proto::csi::identity_server::Identity;
use crate::proto::csi::snapshot_metadata_server::SnapshotMetadata;
use crate::proto::csi::{self, *};

const A: &str = "aaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbb";
const C: &str = "cccccccccccc";

/// Of a controller that has been there for long.
const SETTLED: Patience = Patience {
    answer: Duration::from_secs(20),
    margin: Duration::from_millis(300),
    start: Duration::ZERO,
    away: Duration::from_secs(300),
};

fn router(rig: &Rig, patience: Patience) -> Router {
    over(rig, Ground::default(), patience)
}

/// One over the nodes of a rig, with what else this says.
fn over(rig: &Rig, ground: Ground, patience: Patience) -> Router {
    let ground = Ground { links: rig.links().clone(), known: rig.known.clone(), ..ground };
    Router::new(ground, "csi.rockpool.dev".to_owned(), Kind::Sim.features(), patience)
}

fn volume(pool: &str) -> String {
    format!("v1.{pool}.0101010101010101")
}

/// A cluster of these nodes and pools, and its router.
async fn cluster(nodes: &[(&str, &str)]) -> (Rig, Router, Vec<Fake>, Vec<Joined>) {
    let rig = Rig::new();
    let fakes: Vec<Fake> = nodes.iter().map(|(node, pool)| Fake::with_pool(node, pool)).collect();
    let mut joined = Vec::new();
    for fake in &fakes {
        joined.push(rig.join(fake).await);
    }
    let router = router(&rig, SETTLED);
    (rig, router, fakes, joined)
}

fn code<T>(answer: Result<T, Status>) -> (Code, String) {
    match answer {
        Ok(_) => (Code::Ok, String::new()),
        Err(status) => {
            assert!(
                !status.message().is_empty() && status.details().is_empty() && status.metadata().is_empty()
            );
            (status.code(), status.message().to_owned())
        }
    }
}

fn capability() -> VolumeCapability {
    use csi::volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode};
    VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume::default())),
        access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
    }
}

/// Every call about one object in this pool, by what the node calls it.
async fn each_by_id(router: &Router, pool: &str) -> Vec<(&'static str, (Code, String))> {
    let mut answers = Vec::new();
    // The volume is deleted last.
    for number in (0..CALLS).rev() {
        answers.push(call(router, pool, number).await);
    }
    answers
}

/// So many there are.
const CALLS: usize = 11;

/// One of them.
async fn call(router: &Router, pool: &str, number: usize) -> (&'static str, (Code, String)) {
    let volume_id = volume(pool);
    let (snapshot_id, group_snapshot_id) =
        (volume(pool).replace("v1", "s1"), volume(pool).replace("v1", "g1"));
    let capacity_range = Some(CapacityRange { required_bytes: 1 << 30, limit_bytes: 0 });
    match number {
        0 => {
            let request = DeleteVolumeRequest { volume_id, ..Default::default() };
            ("delete", code(router.delete_volume(Request::new(request)).await))
        }
        1 => {
            let volume_capabilities = vec![capability()];
            let request =
                ValidateVolumeCapabilitiesRequest { volume_id, volume_capabilities, ..Default::default() };
            ("validate", code(router.validate_volume_capabilities(Request::new(request)).await))
        }
        2 => {
            let request = ControllerExpandVolumeRequest { volume_id, capacity_range, ..Default::default() };
            ("expand", code(router.controller_expand_volume(Request::new(request)).await))
        }
        3 => {
            let request = ControllerGetVolumeRequest { volume_id };
            ("get", code(router.controller_get_volume(Request::new(request)).await))
        }
        4 => {
            let request = ControllerGetVolumeHealthRequest { volume_id, ..Default::default() };
            ("health", code(router.controller_get_volume_health(Request::new(request)).await))
        }
        5 => {
            let request = CreateSnapshotRequest {
                name: "cut".into(),
                source_volume_id: volume_id,
                ..Default::default()
            };
            ("cut", code(router.create_snapshot(Request::new(request)).await))
        }
        6 => {
            let request = GetSnapshotRequest { snapshot_id, ..Default::default() };
            ("get-cut", code(router.get_snapshot(Request::new(request)).await))
        }
        7 => {
            let request = DeleteSnapshotRequest { snapshot_id, ..Default::default() };
            ("delete-cut", code(router.delete_snapshot(Request::new(request)).await))
        }
        8 => {
            let request = CreateVolumeGroupSnapshotRequest {
                name: "group".into(),
                source_volume_ids: vec![volume_id],
                ..Default::default()
            };
            ("cut-group", code(router.create_volume_group_snapshot(Request::new(request)).await))
        }
        9 => {
            let request = GetVolumeGroupSnapshotRequest { group_snapshot_id, ..Default::default() };
            ("get-group", code(router.get_volume_group_snapshot(Request::new(request)).await))
        }
        _ => {
            let request = DeleteVolumeGroupSnapshotRequest { group_snapshot_id, ..Default::default() };
            ("delete-group", code(router.delete_volume_group_snapshot(Request::new(request)).await))
        }
    }
}

#[tokio::test]
async fn every_call_about_an_object_goes_to_the_node_that_has_its_pool() {
    let (_rig, router, fakes, _joined) = cluster(&[("n1", A), ("n2", B)]).await;
    fakes[1].hold(B, 1);
    for (method, (code, message)) in each_by_id(&router, B).await {
        assert_eq!(code, Code::Ok, "{method}: {message}");
        let asked = fakes[1].store.asked.lock().unwrap();
        assert!(asked.iter().any(|asked| asked.starts_with(&format!("{method} "))), "{method}: {asked:?}");
    }
    assert_eq!(fakes[1].asked().len(), CALLS);
    assert!(fakes[0].asked().is_empty());
    let gone =
        router.controller_get_volume(Request::new(ControllerGetVolumeRequest { volume_id: volume(B) })).await;
    assert_eq!(code(gone).0, Code::NotFound, "what the node says is the answer");
    fakes[1].refuse(Some(Status::failed_precondition("staged")));
    for (method, answer) in each_by_id(&router, B).await {
        assert_eq!(answer, (Code::FailedPrecondition, "staged".into()), "{method}");
    }
}

#[tokio::test]
async fn a_node_that_cannot_be_asked_makes_the_answer_unavailable() {
    let (rig, router, fakes, mut joined) = cluster(&[("n1", A), ("n2", B), ("n3", B)]).await;
    let every = async |pool: &str, words: &[&str]| {
        for (method, (code, message)) in each_by_id(&router, pool).await {
            assert_eq!(code, Code::Unavailable, "{method}: {message}");
            assert!(words.iter().all(|word| message.contains(word)), "{method}: {message}");
        }
    };
    every("dddddddddddd", &["no node", "dddddddddddd"]).await;
    every(B, &["node n2", "node n3", B]).await;
    joined.remove(0);
    rig.stands("n1", Standing::Away).await;
    every(A, &["node n1", "not been connected", A]).await;
    fakes[0].news().mute = true;
    let _joined = rig.connect("n1", fakes[0].routes()).await;
    rig.stands("n1", Standing::Untold).await;
    every(A, &["node n1", "not told"]).await;
    assert!(fakes.iter().all(|fake| fake.asked().is_empty()), "somebody was asked");
}

#[tokio::test]
async fn a_node_that_dies_in_the_middle_of_a_call_leaves_its_outcome_open() {
    let rig = Rig::new();
    let fake = Fake::with_pool("n1", A);
    fake.hang();
    let router = router(&rig, SETTLED);
    for number in 0..CALLS {
        let joined = rig.join(&fake).await;
        let asked = async {
            soon("the node is asked", || (fake.asked().len() == 1).then_some(())).await;
            drop(joined);
        };
        // One call at a time: the others are refused after it, since the node is away.
        let (answers, ()) = tokio::join!(call(&router, A, number), asked);
        let (name, (code, message)) = answers;
        assert_eq!(code, Code::Unavailable, "{name}: {message}");
        assert!(message.contains("node n1"), "{name}: {message}");
        rig.stands("n1", Standing::Away).await;
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_request_does_not_depend_on_who_is_there() {
    let rig = Rig::new();
    let router = router(&rig, SETTLED);
    for volume_id in ["../x", "v1.aaaaaaaaaaaa", "V1.aaaaaaaaaaaa.0101010101010101"] {
        let request = DeleteVolumeRequest { volume_id: volume_id.into(), ..Default::default() };
        assert_eq!(code(router.delete_volume(Request::new(request)).await).0, Code::Ok, "{volume_id}");
        let request = ControllerGetVolumeRequest { volume_id: volume_id.into() };
        assert_eq!(code(router.controller_get_volume(Request::new(request)).await).0, Code::NotFound);
        // A missing field comes before an unknown id.
        let request = ControllerExpandVolumeRequest { volume_id: volume_id.into(), ..Default::default() };
        assert_eq!(
            code(router.controller_expand_volume(Request::new(request)).await).0,
            Code::InvalidArgument
        );
    }
    let request = DeleteSnapshotRequest { snapshot_id: "x".into(), ..Default::default() };
    assert_eq!(code(router.delete_snapshot(Request::new(request)).await).0, Code::Ok);
    let request = DeleteVolumeGroupSnapshotRequest { group_snapshot_id: "x".into(), ..Default::default() };
    assert_eq!(code(router.delete_volume_group_snapshot(Request::new(request)).await).0, Code::Ok);
    assert_eq!(code(router.delete_volume(Request::new(Default::default())).await).0, Code::InvalidArgument);
    let attach = router.controller_publish_volume(Request::new(Default::default())).await;
    assert_eq!(code(attach).0, Code::Unimplemented);
    assert_eq!(
        code(router.get_metadata_delta(Request::new(Default::default())).await).0,
        Code::Unimplemented
    );
}

#[tokio::test]
async fn a_controller_offers_what_its_nodes_offer() {
    use crate::csi::offers;
    let rig = Rig::new();
    let starting = router(&rig, Patience { start: Duration::from_secs(600), ..SETTLED });
    let info = starting.get_plugin_info(Request::new(Default::default())).await.unwrap().into_inner();
    assert_eq!(info.name, "csi.rockpool.dev");
    let features = Kind::Sim.features();
    let offered = starting.get_plugin_capabilities(Request::new(Default::default())).await.unwrap();
    assert_eq!(offered.into_inner().capabilities, offers::plugin(&features));
    let offered = starting.controller_get_capabilities(Request::new(Default::default())).await.unwrap();
    assert_eq!(offered.into_inner().capabilities, offers::controller(&features));
    let offered = starting.group_controller_get_capabilities(Request::new(Default::default())).await.unwrap();
    assert_eq!(offered.into_inner().capabilities, offers::group(&features));
    let ready = async |router: &Router| {
        router.probe(Request::new(Default::default())).await.unwrap().into_inner().ready
    };
    assert_eq!(ready(&starting).await, Some(false));
    assert_eq!(
        ready(&router(&rig, SETTLED)).await,
        Some(true),
        "no node is there, and that is no illness of this process"
    );
}

#[tokio::test]
async fn a_caller_hears_before_its_deadline_which_node_is_silent() {
    let (_rig, router, fakes, _joined) = cluster(&[("n1", A)]).await;
    fakes[0].hang();
    let mut request = Request::new(DeleteVolumeRequest { volume_id: volume(A), ..Default::default() });
    request.set_timeout(Duration::from_millis(1300));
    let begun = std::time::Instant::now();
    let (code, message) = code(router.delete_volume(request).await);
    assert_eq!(code, Code::Unavailable);
    assert!(message.contains("node n1 has not answered within"), "{message}");
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(1000), "{took:?}");
    // A caller that sets none does not wait for ever either.
    let quick = router_with(&_rig, Duration::from_millis(100));
    let request = Request::new(DeleteVolumeRequest { volume_id: volume(A), ..Default::default() });
    assert_eq!(self::code(quick.delete_volume(request).await).0, Code::Unavailable);
}

#[tokio::test]
async fn a_caller_hears_a_little_before_it_gives_up() {
    let rig = Rig::new();
    let router = router(&rig, SETTLED);
    let left = |asked: Option<Duration>| {
        let mut request = Request::new(());
        asked.into_iter().for_each(|asked| request.set_timeout(asked));
        let now = tokio::time::Instant::now();
        let left = router.until(&request).duration_since(now);
        left.saturating_sub(now.elapsed())
    };
    for (asked, most) in [(None, 20_000), (Some(60_000), 20_000), (Some(10_000), 9700), (Some(400), 200)] {
        let (left, most) = (left(asked.map(Duration::from_millis)), Duration::from_millis(most));
        assert!(left <= most && left > most / 2, "{asked:?}: {left:?}");
    }
}

#[tokio::test]
async fn a_node_that_hangs_does_not_keep_the_others_from_being_asked() {
    use crate::proto::csi::controller_client::ControllerClient;
    use crate::serve::{Socket, Width, serve};
    let (_rig, router, fakes, _joined) = cluster(&[("n1", A), ("n2", B)]).await;
    fakes[0].hang();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("csi.sock");
    let routes = tonic::service::Routes::new(router.controller());
    let served = serve(Socket::bind(&path).unwrap(), routes, Width::CLUSTER, std::future::pending());
    let serving = tokio::spawn(served);
    // One connection, as a sidecar has.
    let at = format!("unix://{}", path.display());
    let channel = tonic::transport::Endpoint::from_shared(at).unwrap().connect().await.unwrap();
    let client = ControllerClient::new(channel);
    let ask = |pool: &str| {
        let (mut client, volume_id) = (client.clone(), volume(pool));
        async move { client.delete_volume(DeleteVolumeRequest { volume_id, ..Default::default() }).await }
    };
    let mut hanging: tokio::task::JoinSet<_> = (0..200).map(|_| ask(A)).collect();
    let status = hanging.join_next().await.unwrap().unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("node n1 has more calls"), "{}", status.message());
    ask(B).await.unwrap();
    serving.abort();
}

fn router_with(rig: &Rig, answer: Duration) -> Router {
    router(rig, Patience { answer, ..SETTLED })
}

#[tokio::test]
async fn a_snapshot_is_cut_where_its_volume_lies_and_its_name_is_taken_everywhere() {
    let (rig, router, fakes, mut joined) = cluster(&[("n1", A), ("n2", B)]).await;
    let source = fakes[1].hold(B, 1).to_string();
    let cut = async |name: &str| {
        let request = CreateSnapshotRequest {
            name: name.into(),
            source_volume_id: source.clone(),
            ..Default::default()
        };
        code(router.create_snapshot(Request::new(request)).await)
    };
    assert_eq!(cut("one").await.0, Code::Ok);
    assert!(fakes[0].asked().is_empty());
    // Another node has the name, or its hash: it says what that means.
    let hash = name_hash(Named::Snapshot, "two");
    fakes[0].take(hash);
    soon("the name is known", || (!rig.known.holding(hash).is_empty()).then_some(())).await;
    fakes[0].refuse(Some(Status::already_exists("of another volume")));
    assert_eq!(cut("two").await, (Code::AlreadyExists, "of another volume".into()));
    fakes[0].refuse(Some(Status::aborted("still running")));
    assert_eq!(cut("two").await, (Code::Aborted, "still running".into()));
    assert!(fakes[1].asked().iter().all(|asked| !asked.contains("two")), "it may end in a conflict");
    fakes[0].refuse(Some(Status::unavailable("its records cannot be read")));
    assert_eq!(cut("two").await.0, Code::Unavailable);
    assert!(fakes[1].asked().is_empty(), "it may end in a conflict");
    fakes[0].refuse(Some(Status::not_found("source_volume_id: there is none")));
    assert_eq!(cut("two").await.0, Code::Ok, "only the hash is the same");
    joined.remove(0);
    rig.stands("n1", Standing::Away).await;
    assert_eq!(cut("two").await.0, Code::Unavailable, "it may be a conflict");
    assert_eq!(cut("three").await.0, Code::Ok);
    // A node speaks for its own pools.
    fakes[1].lie(Some(crate::cluster::tests::store::Lie::Pool(A)));
    let (lied, message) = cut("four").await;
    assert!(lied == Code::Unavailable && message.contains("node n2 answered"), "{message}");
}

#[tokio::test]
async fn members_of_a_group_lie_on_one_node() {
    let (rig, router, fakes, mut joined) = cluster(&[("n1", A), ("n2", B)]).await;
    fakes[0].tell(crate::cluster::tests::fake::pool("second", C, 10));
    soon("the second pool", || rig.known.holder(C.parse().unwrap()).ok()).await;
    let cut = async |pools: &[&str]| {
        let source_volume_ids = pools.iter().map(|pool| volume(pool)).collect();
        let request =
            CreateVolumeGroupSnapshotRequest { name: "g".into(), source_volume_ids, ..Default::default() };
        code(router.create_volume_group_snapshot(Request::new(request)).await)
    };
    let (apart, message) = cut(&[A, B]).await;
    assert_eq!(apart, Code::FailedPrecondition);
    assert!(message.contains("node n1") && message.contains("node n2"), "{message}");
    assert!(fakes.iter().all(|fake| fake.asked().is_empty()));
    assert_eq!(cut(&[A, C]).await.0, Code::Ok, "two pools of one node are its own matter");
    joined.remove(1);
    rig.stands("n2", Standing::Away).await;
    assert_eq!(cut(&[A, B]).await.0, Code::Unavailable);
    assert_eq!(cut(&[A, "dddddddddddd"]).await.0, Code::Unavailable);
}
