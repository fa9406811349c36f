//! Nodes that ought to be there, nodes that are gone for good, and pools that are lost.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;

use super::create::{at, make, refused, wanted};
use super::*;
use crate::cluster::kubernetes::Kubernetes;
use crate::cluster::link::tests::authority::Authority;
use crate::cluster::lost::{Book, ConfigMap, Lost};
use crate::cluster::roster::{Roster, Source};
use crate::cluster::tests::kubernetes::{Api, Mood};
use crate::model::ObjectId;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const MAP: &str = "/api/v1/namespaces/rockpool/configmaps/rockpool-state";

/// An API server and what a controller knows with it.
struct Around {
    api: Api,
    client: Kubernetes,
    roster: Arc<Roster>,
}

impl Around {
    async fn new() -> Around {
        let (authority, api) = (Authority::new(), Api::start());
        let config = authority.put("kubeconfig", &api.kubeconfig());
        let client = Kubernetes::of_operator(Some(&config)).await.unwrap();
        Around { api, client, roster: Arc::new(Roster::of_test(MINUTE, 10 * MINUTE)) }
    }

    fn lost(&self) -> Lost {
        Lost::new(Box::new(ConfigMap::new(self.client.clone(), "rockpool", "rockpool-state")))
    }

    /// A controller of its own, which has found no PersistentVolumes.
    fn router(&self, rig: &Rig) -> Router {
        let router = self.new_router(rig);
        *router.placed() = Ok(BTreeSet::new());
        router
    }

    fn new_router(&self, rig: &Rig) -> Router {
        let ground = Ground {
            roster: Arc::clone(&self.roster),
            lost: Arc::new(self.lost()),
            kubernetes: Some(self.client.clone()),
            ..Ground::default()
        };
        over(rig, ground, SETTLED)
    }

    /// What the ConfigMap says.
    fn book(&self) -> Book {
        let world = self.api.world();
        let text = world.objects[MAP]["data"]["lost-pools"].as_str().unwrap().to_owned();
        crate::cluster::lost::read(text.as_bytes()).unwrap()
    }
}

fn pool_of(id: &str) -> crate::model::PoolId {
    id.parse().unwrap()
}

async fn delete(router: &Router, volume_id: String) -> (Code, String) {
    let request = DeleteVolumeRequest { volume_id, ..Default::default() };
    code(router.delete_volume(Request::new(request)).await)
}

fn refusal(status: Status) -> (Code, String) {
    code::<()>(Err(status))
}

async fn list(router: &Router) -> Result<usize, (Code, String)> {
    let page = router.list_volumes(Request::new(ListVolumesRequest::default())).await;
    page.map(|page| page.into_inner().entries.len()).map_err(|status| code::<()>(Err(status)))
}

#[tokio::test]
async fn what_was_in_a_lost_pool_can_be_deleted_and_is_else_not_there() {
    let (rig, _, fakes, mut joined) = cluster(&[("n1", A), ("n2", B)]).await;
    let around = Around::new().await;
    let (router, other) = (around.router(&rig), around.router(&rig));
    let mut named = wanted("pvc", &["n1"]);
    let first = make(&router, named.clone()).await.unwrap();
    let hash = name_hash(Named::Volume, "pvc");
    soon("the name is known", || (!rig.known.holding(hash).is_empty()).then_some(())).await;
    fakes[1].hold(B, 1);
    joined.remove(0);
    rig.stands("n1", Standing::Away).await;
    assert_eq!(delete(&router, volume(A)).await.0, Code::Unavailable);
    assert_eq!(list(&router).await.unwrap_err().0, Code::Unavailable);

    assert!(router.lost().declare(pool_of(A), "a test").await.unwrap());
    assert!(!router.lost().declare(pool_of(A), "a test").await.unwrap(), "once");
    for (method, (code, message)) in each_by_id(&router, A).await {
        let want = if method.starts_with("delete") { Code::Ok } else { Code::NotFound };
        assert_eq!(code, want, "{method}: {message}");
    }
    assert_eq!(list(&router).await.unwrap(), 1, "n2 has one");
    let request = ListSnapshotsRequest { source_volume_id: volume(A), ..Default::default() };
    assert!(router.list_snapshots(Request::new(request)).await.unwrap().into_inner().entries.is_empty());
    // Its names are free, and as a source it is none.
    named.accessibility_requirements.as_mut().unwrap().requisite = at(&["n2"]);
    assert_eq!(make(&router, named.clone()).await.unwrap().1, "n2");
    // The same name asked again finds that one, also when the node that had it once is back with another disk.
    fakes[1].take(hash);
    soon("the name is known", || (rig.known.holding(hash).len() == 2).then_some(())).await;
    fakes[0].lose_pools();
    fakes[0].free(hash);
    fakes[0].tell(crate::cluster::tests::fake::pool("new", C, 50));
    let back = rig.join(&fakes[0]).await;
    fakes[0].asked();
    let again = CreateVolumeRequest { accessibility_requirements: None, ..named.clone() };
    assert_eq!(make(&router, again).await.unwrap().1, "n2");
    assert!(fakes[0].asked().is_empty(), "a second one would be made there");
    drop(back);
    rig.stands("n1", Standing::Away).await;
    let source = volume_content_source::VolumeSource { volume_id: first.0.clone() };
    named.volume_content_source =
        Some(VolumeContentSource { r#type: Some(volume_content_source::Type::Volume(source)) });
    named.name = "copy".into();
    assert_eq!(make(&router, named).await.unwrap_err().0, Code::NotFound);

    // What was deleted is written down, for every controller.
    let deleted = around.book()[&pool_of(A)].deleted.clone();
    let ids = ["v1", "s1", "g1"].map(|kind| volume(A).replace("v1", kind));
    assert_eq!(deleted, ids.into());
    assert_eq!(delete(&other, first.0.clone()).await.0, Code::Unavailable, "it has not read it yet");
    other.look().await.unwrap();
    assert_eq!(delete(&other, first.0).await.0, Code::Ok);
    // What cannot be written is not answered.
    around.api.be(Mood::Away);
    let another = volume(A).replace("0101", "0202");
    assert_eq!(delete(&router, another.clone()).await.0, Code::Unavailable);
    around.api.be(Mood::Well);
    assert!(!around.book()[&pool_of(A)].deleted.contains(&another));
    assert_eq!(delete(&router, another).await.0, Code::Ok);
}

#[tokio::test]
async fn a_lost_pool_that_comes_back_is_the_nodes_again() {
    let (rig, _, fakes, mut joined) = cluster(&[("n1", A), ("n2", B)]).await;
    let around = Around::new().await;
    let router = around.router(&rig);
    let held: Vec<String> = (1..=2).map(|number| fakes[0].hold(A, number).to_string()).collect();
    joined.remove(0);
    rig.stands("n1", Standing::Away).await;
    router.lost().declare(pool_of(A), "a test").await.unwrap();
    assert_eq!(delete(&router, held[0].clone()).await.0, Code::Ok);
    let back = rig.join(&fakes[0]).await;
    // Nothing was removed, and calls reach the node at once.
    assert_eq!(list(&router).await.unwrap(), 2);
    router.look().await.unwrap();
    let declared = around.book()[&pool_of(A)].clone();
    assert!(declared.returned && declared.deleted.contains(&held[0]), "the orphan is known: {declared:?}");
    assert_eq!(delete(&router, held[1].clone()).await.0, Code::Ok);
    assert_eq!(around.book()[&pool_of(A)].deleted.len(), 1, "the node has deleted that one");
    // It is lost no more.
    drop(back);
    rig.stands("n1", Standing::Away).await;
    assert_eq!(delete(&router, held[0].clone()).await.0, Code::Unavailable);
    assert!(router.lost().withdraw(pool_of(A)).await.unwrap());
    assert!(!around.book().contains_key(&pool_of(A)));
}

#[tokio::test]
async fn who_ought_to_be_there_is_waited_for() {
    let (rig, _, fakes, mut joined) = cluster(&[("n1", A), ("n2", B)]).await;
    let around = Around::new().await;
    let router = around.router(&rig);
    fakes[0].hold(A, 1);
    assert_eq!(list(&router).await.unwrap(), 1, "nothing is known of others");
    around.roster.say(&["n1", "n2", "n3"], &["n1", "n2", "n3"]);
    let (found, message) = list(&router).await.unwrap_err();
    assert!(found == Code::Unavailable && message.contains("node n3"), "{message}");
    assert_eq!(refused(&router, wanted("pvc", &[]), "node n3").await, Code::Unavailable);
    assert_eq!(make(&router, wanted("here", &["n1"])).await.unwrap().1, "n1", "it is not concerned");
    // Of one that exists without the driver nothing is expected.
    around.roster.say(&["n1", "n2", "n3"], &["n1", "n2"]);
    make(&router, wanted("pvc", &[])).await.unwrap();
    list(&router).await.unwrap();
    // Its room is not known either, that of others is, and one without the driver has none.
    around.roster.say(&["n1", "n3", "n4"], &["n1", "n3"]);
    let room = async |node: Option<&str>| {
        let accessible_topology = node.map(|node| at(&[node]).remove(0));
        let request = GetCapacityRequest { accessible_topology, ..Default::default() };
        let room = router.get_capacity(Request::new(request)).await;
        room.map(|room| room.into_inner().available_capacity >> 30).map_err(refusal)
    };
    for node in [None, Some("n3")] {
        let (code, message) = room(node).await.unwrap_err();
        assert!(code == Code::Unavailable && message.contains("node n3"), "{message}");
    }
    assert_eq!((room(Some("n1")).await, room(Some("n4")).await), (Ok(50), Ok(0)));
    around.roster.say(&["n1", "n2", "n3"], &["n1", "n2"]);
    // A controller that has just started is ready as soon as all are there.
    let ground = Ground { roster: Arc::clone(&around.roster), ..Ground::default() };
    let starting = over(&rig, ground, Patience { start: HOUR, ..SETTLED });
    list(&starting).await.unwrap();
    joined.remove(1);
    rig.stands("n2", Standing::Away).await;
    let probe = starting.probe(Request::new(Default::default())).await.unwrap().into_inner();
    assert_eq!(probe.ready, Some(false));
}

#[tokio::test]
async fn who_ought_to_be_there_has_to_be_known_first() {
    let (rig, _, fakes, _joined) = cluster(&[("n1", A)]).await;
    fakes[0].hold(A, 1);
    let authority = Authority::new();
    let source = Source::File(authority.path("nodes"));
    let ground = Ground { roster: Arc::new(Roster::new(source, Duration::ZERO)), ..Ground::default() };
    let router = over(&rig, ground, SETTLED);
    let (refusal, message) = list(&router).await.unwrap_err();
    assert!(refusal == Code::Unavailable && message.contains("which nodes there are"), "{message}");
    let room = router.get_capacity(Request::new(GetCapacityRequest::default())).await;
    assert_eq!(code(room).0, Code::Unavailable);
    assert_eq!(refused(&router, wanted("pvc", &[]), "which nodes there are").await, Code::Unavailable);
    assert_eq!(make(&router, wanted("here", &["n1"])).await.unwrap().1, "n1", "it is not concerned");
    let probe = router.probe(Request::new(Default::default())).await.unwrap().into_inner();
    assert_eq!(probe.ready, Some(false));
    assert!(router.refuse_unheard(pool_of(B)).unwrap_err().to_string().contains("which nodes there are"));
    authority.put("nodes", "n1\n");
    let following = tokio::spawn(Arc::clone(router.roster()).follow());
    soon("the file is read", || router.roster().expected()).await;
    assert_eq!(list(&router).await.unwrap(), 2);
    router.refuse_unheard(pool_of(B)).unwrap();
    // One that is there may be about to tell of the pool.
    fakes[0].news().mute = true;
    fakes[0].hang_up();
    rig.stands("n1", Standing::Untold).await;
    assert!(router.refuse_unheard(pool_of(B)).unwrap_err().to_string().contains("node n1"));
    following.abort();
}

#[tokio::test]
async fn a_node_that_no_longer_exists_is_not_waited_for() {
    let (rig, _, _fakes, mut joined) = cluster(&[("n1", A), ("n2", B)]).await;
    let around = Around::new().await;
    let router = around.router(&rig);
    make(&router, wanted("pvc", &["n1"])).await.unwrap();
    let hash = name_hash(Named::Volume, "pvc");
    soon("the name is known", || (!rig.known.holding(hash).is_empty()).then_some(())).await;
    let say = |there: &[&str], minutes: u32| around.roster.say_at(there, &[], minutes * MINUTE);
    say(&["n1", "n2"], 0);
    say(&["n2"], 1);
    say(&["n2"], 3);
    // It is connected, whatever is said.
    assert_eq!(make(&router, wanted("more", &["n1"])).await.unwrap().1, "n1");
    joined.remove(0);
    rig.stands("n1", Standing::Away).await;
    assert_eq!(refused(&router, wanted("new", &["n1"]), "no longer exists").await, Code::ResourceExhausted);
    assert_eq!(
        make(&router, wanted("pvc", &["n1", "n2"])).await.unwrap().1,
        "n2",
        "its name there is gone with it"
    );
    make(&router, wanted("anywhere", &[])).await.unwrap();
    // What it had is not lost yet.
    router.look().await.unwrap();
    assert_eq!(delete(&router, volume(A)).await.0, Code::Unavailable);
    assert_eq!(list(&router).await.unwrap_err().0, Code::Unavailable);
    say(&["n2"], 12);
    router.look().await.unwrap();
    assert_eq!(delete(&router, volume(A)).await.0, Code::Ok);
    assert_eq!(list(&router).await.unwrap(), 2);
    let world = around.api.world();
    let event =
        world.objects.iter().find(|(path, _)| path.contains("/namespaces/default/events/")).unwrap().1;
    assert_eq!((&event["reason"], &event["involvedObject"]["name"]), (&json!("PoolLost"), &json!("n1")));
}

#[tokio::test]
async fn a_disk_that_may_be_back_where_it_moved_from_is_not_declared_lost() {
    let (rig, _, fakes, mut joined) = cluster(&[("n1", A), ("n2", B)]).await;
    let around = Around::new().await;
    let router = around.router(&rig);
    let main = || crate::cluster::tests::fake::pool("main", A, 50);
    fakes[0].tell(crate::proto::link::Pool { gone: true, away: "its disk is gone".into(), ..main() });
    fakes[1].tell(crate::cluster::tests::fake::pool("moved", A, 50));
    soon("the disk is on n2", || rig.known.holder(pool_of(A)).ok().filter(|node| node.as_str() == "n2"))
        .await;
    // It comes back, cannot be read, and the other node goes for good.
    fakes[0].tell(crate::proto::link::Pool { away: "its records cannot be read".into(), ..main() });
    joined.remove(1);
    rig.stands("n2", Standing::Away).await;
    for minutes in [0, 1, 12] {
        around.roster.say_at(&["n1"], &["n1"], minutes * MINUTE);
        router.look().await.unwrap();
        assert_eq!(delete(&router, volume(A)).await.0, Code::Unavailable, "after {minutes} minutes");
        assert_eq!(list(&router).await.unwrap_err().0, Code::Unavailable);
    }
    // Its node is started anew without it.
    fakes[0].lose_pools();
    fakes[0].hang_up();
    soon("it does not tell of it", || rig.known.present(pool_of(A)).is_empty().then_some(())).await;
    router.look().await.unwrap();
    assert_eq!(delete(&router, volume(A)).await.0, Code::Ok);
}

/// A PersistentVolume of a volume on a node.
fn persistent(name: &str, handle: &str, node: &str) -> serde_json::Value {
    let rule = json!({ "key": "topology.csi.rockpool.dev/node", "operator": "In", "values": [node] });
    json!({
        "metadata": { "name": name },
        "spec": {
            "csi": { "driver": "csi.rockpool.dev", "volumeHandle": handle },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [rule] }] } },
        },
    })
}

#[tokio::test]
async fn a_controller_that_knows_nothing_learns_from_the_volumes_where_a_pool_was() {
    let (rig, _, _fakes, _joined) = cluster(&[("n2", B)]).await;
    let around = Around::new().await;
    let router = around.router(&rig);
    for (name, pool, node) in
        [("one", A, "n1"), ("two", C, "n2"), ("three", "dddddddddddd", "n1"), ("four", "dddddddddddd", "n2")]
    {
        let path = format!("/api/v1/persistentvolumes/{name}");
        around.api.world().put(&path, persistent(name, &volume(pool), node));
    }
    let unknown = "eeeeeeeeeeee";
    let all = [A, C, "dddddddddddd", unknown];
    for minutes in [0, 1, 12] {
        around.roster.say_at(&["n2"], &["n2"], minutes * MINUTE);
        for pool in all {
            let (code, message) = delete(&router, volume(pool)).await;
            assert_eq!(code, Code::Unavailable, "{pool} after {minutes}: {message}");
        }
        if minutes < 12 {
            router.look().await.unwrap();
        }
    }
    router.look().await.unwrap();
    assert_eq!(delete(&router, volume(A)).await.0, Code::Ok);
    for pool in &all[1..] {
        assert_eq!(delete(&router, volume(pool)).await.0, Code::Unavailable, "{pool}");
    }
    // Without a wish to delete nobody reads all volumes.
    around.api.world().asked.clear();
    around.router(&rig).look().await.unwrap();
    assert!(!around.api.world().asked.iter().any(|asked| asked.contains("persistentvolumes")));
}

#[tokio::test]
async fn a_controller_that_knows_nothing_of_a_pool_with_volumes_gives_no_list_without_it() {
    let (rig, _, fakes, _joined) = cluster(&[("n2", B)]).await;
    fakes[0].hold(B, 1);
    let around = Around::new().await;
    let router = around.new_router(&rig);
    let path = |name: &str| format!("/api/v1/persistentvolumes/{name}");
    for (name, pool, node) in [("one", A, "n1"), ("two", B, "n2"), ("three", C, "n1")] {
        around.api.world().put(&path(name), persistent(name, &volume(pool), node));
    }
    around.roster.say(&["n2"], &["n2"]);
    let (refusal, why) = list(&router).await.unwrap_err();
    assert!(refusal == Code::Unavailable && why.contains("has not read yet"), "{why}");
    router.look().await.unwrap();
    let (refusal, why) = list(&router).await.unwrap_err();
    assert!(refusal == Code::Unavailable && why.contains(A) && why.contains("pool forget"), "{why}");
    // Without a wish for what is missed they are not read again.
    let read = |around: &Around| {
        let world = around.api.world();
        world.asked.iter().filter(|asked| asked.contains("persistentvolumes")).count()
    };
    router.look().await.unwrap();
    let before = read(&around);
    router.look().await.unwrap();
    assert_eq!(read(&around), before);
    // One that nobody has any more is no reason.
    around.api.world().objects.remove(&path("three"));
    list(&router).await.unwrap_err();
    router.look().await.unwrap();
    let snapshots = router.list_snapshots(Request::new(ListSnapshotsRequest::default())).await;
    assert_eq!(snapshots.unwrap_err().code(), Code::Unavailable);
    // As soon as it is known where the pool is, or that it is lost.
    let declared = router.lost().declare(pool_of(A), "a test").await.unwrap();
    assert!(declared && list(&router).await.is_ok());
    router.lost().withdraw(pool_of(A)).await.unwrap();
    assert!(list(&router).await.is_err());
    fakes[0].tell(crate::cluster::tests::fake::pool("moved", A, 50));
    soon("the pool is there", || rig.known.holder(pool_of(A)).ok()).await;
    list(&router).await.unwrap();
}

#[tokio::test]
async fn controllers_that_write_at_once_forget_nothing() {
    let around = Around::new().await;
    // Others keep something there as well.
    let data = json!({ "metadata": { "name": "rockpool-state" }, "data": { "other": "kept" } });
    around.api.world().put(MAP, data);
    let (one, other) = (Arc::new(around.lost()), Arc::new(around.lost()));
    one.declare(pool_of(A), "a test").await.unwrap();
    let ids: Vec<ObjectId> = (1..=24_u64)
        .map(|number| crate::model::VolumeId::new(pool_of(A), number.to_be_bytes()).into())
        .collect();
    let mut writing = tokio::task::JoinSet::new();
    for (number, id) in ids.iter().copied().enumerate() {
        let lost = Arc::clone(if number % 2 == 0 { &one } else { &other });
        writing.spawn(async move {
            // Where the other was always quicker the caller asks again.
            while lost.deleted(id).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    while let Some(done) = writing.join_next().await {
        done.unwrap();
    }
    assert_eq!(around.book()[&pool_of(A)].deleted.len(), ids.len());
    assert_eq!(around.api.world().objects[MAP]["data"]["other"], "kept");
    // An id is only taken for a pool that is lost.
    let stray: ObjectId = volume(B).parse().unwrap();
    assert!(matches!(one.deleted(stray).await, Err(crate::error::Error::Unavailable(_))));
}

#[tokio::test]
async fn a_book_that_is_full_or_torn_is_no_reason_to_answer() {
    let around = Around::new().await;
    let lost = around.lost();
    lost.declare(pool_of(A), "a test").await.unwrap();
    let mut book = around.book();
    book.get_mut(&pool_of(A)).unwrap().deleted = (0..20_000).map(|number| number.to_string()).collect();
    let put =
        |text: String| around.api.world().put(MAP, json!({ "metadata": {}, "data": { "lost-pools": text } }));
    put(crate::cluster::lost::write(&book));
    let full = lost.deleted(volume(A).parse().unwrap()).await;
    assert!(matches!(full, Err(crate::error::Error::Precondition(_))), "{full:?}");
    put("{ \"aaaaaaaaaaaa\": {".to_owned());
    assert!(lost.deleted(volume(A).parse().unwrap()).await.is_err());
    assert!(lost.refresh().await.is_err() && lost.is_declared(pool_of(A)), "what was read last holds");
    let nowhere = Lost::default().declare(pool_of(A), "a test").await.unwrap_err();
    assert!(nowhere.to_string().contains("--state-configmap"), "{nowhere}");
}

#[tokio::test]
async fn a_pool_that_an_existing_node_had_as_well_is_not_lost_with_the_other() {
    let (rig, _, _fakes, joined) = cluster(&[("n1", A), ("n2", B)]).await;
    let around = Around::new().await;
    let router = around.router(&rig);
    let mut joined = joined.into_iter();
    drop(joined.next());
    rig.stands("n1", Standing::Away).await;
    // Its disk was put into another machine, which is away by now, too.
    drop(rig.join(&Fake::with_pool("n3", A)).await);
    rig.stands("n3", Standing::Away).await;
    for minutes in [0, 1, 12] {
        around.roster.say_at(&["n2", "n3"], &["n2", "n3"], minutes * MINUTE);
        router.look().await.unwrap();
    }
    assert_eq!(delete(&router, volume(A)).await.0, Code::Unavailable);
    assert!(!router.lost().is_declared(pool_of(A)));
    around.roster.say_at(&["n2"], &["n2"], 13 * MINUTE);
    around.roster.say_at(&["n2"], &["n2"], 25 * MINUTE);
    router.look().await.unwrap();
    assert_eq!(delete(&router, volume(A)).await.0, Code::Ok, "neither is there any more");
}

#[tokio::test]
async fn a_pool_is_not_lost_while_a_node_has_not_told_which_disks_it_has() {
    let (rig, _, fakes, mut joined) = cluster(&[("n1", A), ("n2", B)]).await;
    let around = Around::new().await;
    let router = around.router(&rig);
    drop(joined.remove(0));
    rig.stands("n1", Standing::Away).await;
    let say = |expected: &[&str], minutes: u32| around.roster.say_at(expected, expected, minutes * MINUTE);
    say(&["n1", "n2", "n3"], 0);
    say(&["n2", "n3"], 1);
    say(&["n2", "n3"], 12);
    // Its disk may have been put into n3, which is away, and which this controller has never seen.
    let why = router.look().await.unwrap_err().to_string();
    assert!(why.contains("node n3") && why.contains(A), "{why}");
    assert_eq!(delete(&router, volume(A)).await.0, Code::Unavailable);
    // Or into n2, which cannot read it.
    say(&["n2"], 13);
    let unread = crate::proto::link::Pool { away: "its disk hangs".into(), ..Default::default() };
    fakes[1].tell(crate::proto::link::Pool { name: "new".into(), unread: true, ..unread });
    let knows = || rig.known.node(&"n2".parse().unwrap()).filter(|seen| seen.pools.contains_key("new"));
    soon("it is known", knows).await;
    let why = router.look().await.unwrap_err().to_string();
    assert!(why.contains("node n2") && why.contains("`new`"), "{why}");
    assert!(!router.lost().is_declared(pool_of(A)));
    fakes[1].tell(crate::cluster::tests::fake::pool("new", C, 1));
    soon("it is known", || rig.known.holder(C.parse().unwrap()).ok()).await;
    router.look().await.unwrap();
    assert_eq!(delete(&router, volume(A)).await.0, Code::Ok);
}

/// A volume that is to be a copy of one in pool `A`, on node n2.
fn copy_on_n2(name: &str) -> CreateVolumeRequest {
    let source = volume_content_source::VolumeSource { volume_id: volume(A) };
    let r#type = Some(volume_content_source::Type::Volume(source));
    CreateVolumeRequest {
        volume_content_source: Some(VolumeContentSource { r#type }),
        ..wanted(name, &["n2"])
    }
}

/// A fake tells of no name that it has begun: the other controller has to ask.
#[tokio::test]
async fn what_another_controller_has_begun_goes_with_its_source() {
    for is_lost in [false, true] {
        let (rig, _, fakes, mut joined) = cluster(&[("n1", A), ("n2", B)]).await;
        let around = Around::new().await;
        let patience = Patience { answer: Duration::from_millis(500), ..SETTLED };
        let controller = || {
            let ground = Ground { lost: Arc::new(around.lost()), ..Ground::default() };
            over(&rig, ground, patience)
        };
        let (one, other) = (controller(), controller());
        fakes.iter().for_each(Fake::travel);
        assert_eq!(
            make(&one, copy_on_n2("copy")).await.unwrap_err().0,
            Code::Unavailable,
            "it is on its way"
        );
        assert!(fakes[1].takes("copy"));
        if is_lost {
            joined.remove(0);
            rig.stands("n1", Standing::Away).await;
            other.lost().declare(pool_of(A), "a test").await.unwrap();
        } else {
            fakes[0].lose_sources();
        }
        assert_eq!(make(&other, copy_on_n2("copy")).await.unwrap_err().0, Code::NotFound, "{is_lost}");
        assert!(!fakes[1].takes("copy"), "nothing of it is left: {is_lost}");
    }
}

#[tokio::test]
async fn a_copy_of_what_was_lost_is_over() {
    let (rig, _, fakes, mut joined) = cluster(&[("n1", A), ("n2", B)]).await;
    let around = Around::new().await;
    let ground = Ground { lost: Arc::new(around.lost()), ..Ground::default() };
    fakes.iter().for_each(Fake::travel);
    let router = over(&rig, ground, Patience { answer: Duration::from_millis(500), ..SETTLED });
    let copy = copy_on_n2("copy");
    assert_eq!(make(&router, copy.clone()).await.unwrap_err().0, Code::Unavailable, "it is on its way");
    assert!(fakes[1].takes("copy"));
    joined.remove(0);
    rig.stands("n1", Standing::Away).await;
    assert_eq!(make(&router, copy.clone()).await.unwrap_err().0, Code::Unavailable, "it may come back");
    router.lost().declare(pool_of(A), "a test").await.unwrap();
    assert_eq!(make(&router, copy).await.unwrap_err().0, Code::NotFound);
    assert!(!fakes[1].takes("copy"), "nothing of it is left");
}
