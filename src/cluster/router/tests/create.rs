//! Where volumes are made, and that there is one of each name.

use super::*;
use crate::cluster::tests::fake::pool;
use crate::cluster::tests::store::{Lie, where_is};
use crate::model::TOPOLOGY_KEY;

pub(super) fn at(nodes: &[&str]) -> Vec<Topology> {
    let place = |node: &&str| Topology { segments: [(TOPOLOGY_KEY.to_owned(), (*node).to_owned())].into() };
    nodes.iter().map(place).collect()
}

/// A volume of 1 GiB that any of these nodes may have; of none: of any.
pub(super) fn wanted(name: &str, nodes: &[&str]) -> CreateVolumeRequest {
    let requirement = TopologyRequirement { requisite: at(nodes), preferred: vec![] };
    CreateVolumeRequest {
        name: name.into(),
        volume_capabilities: vec![capability()],
        capacity_range: Some(CapacityRange { required_bytes: 1 << 30, limit_bytes: 0 }),
        accessibility_requirements: (!nodes.is_empty()).then_some(requirement),
        ..Default::default()
    }
}

/// The id and the node of the volume, or the code and the message.
pub(super) async fn make(
    router: &Router,
    request: CreateVolumeRequest,
) -> Result<(String, String), (Code, String)> {
    match router.create_volume(Request::new(request)).await {
        Ok(answer) => {
            let volume = answer.into_inner().volume.unwrap();
            let node = volume.accessible_topology[0].segments[TOPOLOGY_KEY].clone();
            Ok((volume.volume_id, node))
        }
        Err(status) => Err(code::<()>(Err(status))),
    }
}

/// The node on which it is made.
async fn lands(router: &Router, request: CreateVolumeRequest) -> String {
    make(router, request).await.unwrap().1
}

/// The code with which it is refused, in words that name this.
pub(super) async fn refused(router: &Router, request: CreateVolumeRequest, word: &str) -> Code {
    let (code, message) = make(router, request).await.unwrap_err();
    assert!(message.contains(word), "{message}");
    code
}

async fn heard(rig: &Rig, name: &str, nodes: usize) {
    let hash = name_hash(Named::Volume, name);
    soon("the name is known", || (rig.known.holding(hash).len() == nodes).then_some(())).await;
}

/// The room of a node's pool in GiB, of 100.
async fn leave(rig: &Rig, fake: &Fake, id: &str, gib: i64) {
    fake.tell(pool("main", id, gib));
    let node = fake.name().parse().unwrap();
    let is_so = || {
        let seen = rig.known.node(&node).unwrap();
        (seen.pools["main"].rooms[0].available.as_i64() == gib << 30).then_some(())
    };
    soon("the room is known", is_so).await;
}

#[tokio::test]
async fn a_retry_finds_the_volume_wherever_it_was_made() {
    let (rig, router, fakes, _joined) = cluster(&[("n1", A), ("n2", B), ("n3", C)]).await;
    let first = make(&router, wanted("pvc", &[])).await.unwrap();
    heard(&rig, "pvc", 1).await;
    // Where it would go now is another node.
    for (fake, id) in fakes.iter().zip([A, B, C]) {
        leave(&rig, fake, id, if fake.name() == first.1 { 2 } else { 90 }).await;
    }
    let other = self::router(&rig, SETTLED);
    for router in [&router, &other] {
        assert_eq!(make(router, wanted("pvc", &[])).await.unwrap(), first);
    }
    // It was asked for elsewhere since: its node says that this is a conflict.
    let elsewhere: Vec<&str> = ["n1", "n2", "n3"].into_iter().filter(|node| *node != first.1).collect();
    assert_eq!(refused(&other, wanted("pvc", &elsewhere), "").await, Code::AlreadyExists);
    assert_eq!(where_is("pvc", &fakes.iter().collect::<Vec<_>>()).len(), 1);
}

#[tokio::test]
async fn a_retry_finds_the_volume_before_its_node_has_told_of_it() {
    let (rig, router, fakes, _joined) = cluster(&[("n1", A), ("n2", B)]).await;
    fakes.iter().for_each(Fake::keep_names);
    let first = make(&router, wanted("pvc", &[])).await.unwrap();
    for (fake, id) in fakes.iter().zip([A, B]) {
        leave(&rig, fake, id, if fake.name() == first.1 { 2 } else { 90 }).await;
    }
    assert_eq!(make(&router, wanted("pvc", &[])).await.unwrap(), first);
    // The same where it is not known what became of the first attempt: it goes to the emptier node.
    let (busy, other) = if first.1 == "n1" { (&fakes[1], &fakes[0]) } else { (&fakes[0], &fakes[1]) };
    busy.refuse(Some(Status::aborted("still running")));
    assert_eq!(refused(&router, wanted("slow", &[]), "still running").await, Code::Aborted);
    leave(&rig, busy, if busy.name() == "n1" { A } else { B }, 1).await;
    busy.refuse(None);
    other.asked();
    assert_eq!(lands(&router, wanted("slow", &[])).await, busy.name());
    assert!(other.asked().is_empty());
}

#[tokio::test]
async fn a_node_that_holds_the_name_and_is_away_is_waited_for() {
    let (rig, router, fakes, mut joined) = cluster(&[("n1", A), ("n2", B)]).await;
    assert_eq!(lands(&router, wanted("pvc", &["n1"])).await, "n1");
    heard(&rig, "pvc", 1).await;
    joined.remove(0);
    rig.stands("n1", Standing::Away).await;
    // However long, and whatever else would do.
    let patient = self::router(&rig, Patience { away: Duration::ZERO, ..SETTLED });
    for nodes in [&["n1"][..], &["n1", "n2"], &["n2"], &[]] {
        assert_eq!(refused(&patient, wanted("pvc", nodes), "node n1").await, Code::Unavailable, "{nodes:?}");
    }
    assert!(fakes[1].asked().is_empty());
}

#[tokio::test]
async fn of_two_nodes_with_one_name_one_answers() {
    let (rig, router, fakes, _joined) = cluster(&[("n1", A), ("n2", B), ("n3", C)]).await;
    assert_eq!(lands(&router, wanted("pvc", &["n2"])).await, "n2");
    Controller::create_volume(&fakes[2], Request::new(wanted("pvc", &[]))).await.unwrap();
    heard(&rig, "pvc", 2).await;
    fakes.iter().for_each(|fake| drop(fake.asked()));
    assert_eq!(lands(&router, wanted("pvc", &[])).await, "n2");
    assert!(fakes[0].asked().is_empty() && fakes[2].asked().is_empty());
}

#[tokio::test]
async fn one_hash_may_be_that_of_another_name() {
    let (rig, router, fakes, _joined) = cluster(&[("n1", A), ("n2", B)]).await;
    fakes[0].take(name_hash(Named::Volume, "pvc"));
    heard(&rig, "pvc", 1).await;
    fakes[0].refuse(Some(Status::resource_exhausted("no")));
    assert_eq!(lands(&router, wanted("pvc", &["n2"])).await, "n2");
}

#[tokio::test]
async fn a_single_candidate_that_is_away_is_waited_for() {
    let (rig, router, fakes, mut joined) = cluster(&[("n1", A), ("n2", B)]).await;
    joined.remove(0);
    rig.stands("n1", Standing::Away).await;
    let patient = self::router(&rig, Patience { away: Duration::ZERO, ..SETTLED });
    for router in [&router, &patient] {
        let away = "node n1 has not been connected";
        assert_eq!(refused(router, wanted("pvc", &["n1"]), away).await, Code::Unavailable);
    }
    assert!(fakes[1].asked().is_empty());
}

#[tokio::test]
async fn one_candidate_of_several_that_is_away_is_passed_over_in_the_end() {
    let (rig, router, fakes, mut joined) = cluster(&[("n1", A), ("n2", B)]).await;
    joined.remove(0);
    rig.stands("n1", Standing::Away).await;
    for nodes in [&["n1", "n2"][..], &[]] {
        assert_eq!(refused(&router, wanted("pvc", nodes), "node n1").await, Code::Unavailable);
    }
    assert!(fakes[1].asked().is_empty());
    let later = self::router(&rig, Patience { away: Duration::from_millis(100), ..SETTLED });
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(lands(&later, wanted("pvc", &["n1", "n2"])).await, "n2");
    assert_eq!(lands(&later, wanted("other", &[])).await, "n2");
    // When the others have gone too, nobody is full.
    joined.clear();
    rig.stands("n2", Standing::Away).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(refused(&later, wanted("third", &["n1", "n2"]), "node n2").await, Code::Unavailable);
}

#[tokio::test]
async fn a_pool_whose_names_are_unknown_may_hold_any() {
    let (rig, router, fakes, _joined) = cluster(&[("n1", A), ("n2", B)]).await;
    let unread =
        crate::proto::link::Pool { unread: true, away: "its disk hangs".into(), ..pool("other", "", 0) };
    fakes[0].tell(unread);
    soon("it is known", || rig.known.node(&"n1".parse().unwrap()).unwrap().blind).await;
    assert_eq!(refused(&router, wanted("pvc", &[]), "its disk hangs").await, Code::Unavailable);
    assert_eq!(lands(&router, wanted("pvc", &["n1"])).await, "n1", "alone it knows itself");
}

#[tokio::test]
async fn a_controller_that_has_just_started_waits_for_nodes_that_it_does_not_know() {
    let (rig, _settled, _fakes, _joined) = cluster(&[("n1", A)]).await;
    let starting = self::router(&rig, Patience { start: Duration::from_secs(600), ..SETTLED });
    assert_eq!(refused(&starting, wanted("pvc", &[]), "started").await, Code::Unavailable);
    assert_eq!(lands(&starting, wanted("here", &["n1"])).await, "n1");
    let empty = self::router(&Rig::new(), SETTLED);
    assert_eq!(refused(&empty, wanted("pvc", &[]), "no node").await, Code::Unavailable);
}

#[tokio::test]
async fn a_node_that_was_never_seen_may_hold_the_name() {
    let (rig, settled, fakes, _joined) = cluster(&[("n1", A)]).await;
    for nodes in [&["n2"][..], &["n1", "n2"]] {
        assert_eq!(refused(&settled, wanted("pvc", nodes), "node n2").await, Code::Unavailable, "{nodes:?}");
    }
    assert!(fakes[0].asked().is_empty());
    let later = self::router(&rig, Patience { away: Duration::ZERO, ..SETTLED });
    assert_eq!(refused(&later, wanted("pvc", &["n2"]), "node n2").await, Code::Unavailable);
    assert_eq!(lands(&later, wanted("pvc", &["n1", "n2"])).await, "n1");
    // No node can ever have such a name.
    assert_eq!(refused(&settled, wanted("odd", &["-"]), "`-`").await, Code::ResourceExhausted);
}

#[tokio::test]
async fn a_node_that_dies_while_it_makes_a_volume_is_waited_for() {
    let (rig, router, fakes, mut joined) = cluster(&[("n1", A), ("n2", B)]).await;
    leave(&rig, &fakes[0], A, 90).await;
    fakes[0].hang();
    let dying = joined.remove(0);
    let die = async {
        soon("it is asked", || (!fakes[0].store.asked.lock().unwrap().is_empty()).then_some(())).await;
        drop(dying);
    };
    let (code, ()) = tokio::join!(refused(&router, wanted("pvc", &["n1", "n2"]), "node n1"), die);
    assert_eq!(code, Code::Unavailable);
    rig.stands("n1", Standing::Away).await;
    // Also where it is asked for elsewhere since.
    for nodes in [&["n1", "n2"][..], &["n2"]] {
        assert_eq!(refused(&router, wanted("pvc", nodes), "node n1").await, Code::Unavailable, "{nodes:?}");
    }
    assert!(fakes[1].asked().is_empty(), "a second volume was made");
}

#[tokio::test]
async fn a_name_in_a_pool_that_its_node_has_lost_is_waited_for() {
    let (rig, router, fakes, mut joined) = cluster(&[("n1", A), ("n2", B)]).await;
    assert_eq!(lands(&router, wanted("pvc", &["n1"])).await, "n1");
    heard(&rig, "pvc", 1).await;
    joined.remove(0);
    rig.stands("n1", Standing::Away).await;
    // It comes back with another disk, and knows nothing of the volume.
    fakes[0].tell(pool("main", C, 50));
    fakes[0].free(name_hash(Named::Volume, "pvc"));
    let _joined = rig.join(&fakes[0]).await;
    fakes[0].asked();
    for nodes in [&["n1"][..], &["n2"], &[]] {
        assert_eq!(refused(&router, wanted("pvc", nodes), "node n1").await, Code::Unavailable, "{nodes:?}");
    }
    assert!(fakes.iter().all(|fake| fake.asked().is_empty()));
    assert_eq!(lands(&router, wanted("other", &["n1"])).await, "n1");
}

#[tokio::test]
async fn a_node_that_remembers_a_name_from_a_disk_that_has_moved_is_passed_over() {
    let (rig, router, fakes, _joined) = cluster(&[("n1", A), ("n2", B)]).await;
    let hash = name_hash(Named::Volume, "pvc");
    fakes[0].take(hash);
    fakes[0].tell(crate::cluster::tests::fake::pool("own", C, 90));
    let gone = crate::cluster::tests::fake::pool("main", A, 50);
    let gone = crate::proto::link::Pool { gone: true, names: vec![hash], away: "gone".into(), ..gone };
    fakes[0].tell(gone);
    soon("it is told", || (!rig.known.holding(hash).is_empty()).then_some(())).await;
    fakes[1].tell(crate::cluster::tests::fake::pool("moved", A, 50));
    soon("the name has gone with it", || rig.known.holding(hash).is_empty().then_some(())).await;
    fakes[0].asked();
    assert_eq!(lands(&router, wanted("pvc", &["n1", "n2"])).await, "n2");
    assert!(fakes[0].asked().is_empty(), "it would refuse the name");
    let _ = make(&router, wanted("other", &["n1", "n2"])).await;
    assert!(!fakes[0].asked().is_empty(), "it has more room");
}

#[tokio::test]
async fn a_pool_of_two_nodes_gets_no_volume() {
    let (rig, router, fakes, _joined) = cluster(&[("n1", A), ("n2", B), ("n3", C)]).await;
    let held = name_hash(Named::Volume, "held");
    fakes[0].take(held);
    heard(&rig, "held", 1).await;
    fakes[1].tell(pool("the copy", A, 50));
    soon("it is known", || rig.known.holder(A.parse().unwrap()).err()).await;
    for nodes in [&["n1"][..], &["n2"], &["n1", "n2"]] {
        assert_eq!(refused(&router, wanted("pvc", nodes), A).await, Code::Unavailable, "{nodes:?}");
    }
    assert_eq!(refused(&router, wanted("held", &["n3"]), A).await, Code::Unavailable);
    assert!(fakes.iter().all(|fake| fake.asked().is_empty()));
    assert_eq!(lands(&router, wanted("pvc", &[])).await, "n3");
    // What names the other pool is not concerned, nor what lies beside its source.
    use csi::volume_content_source::{Type, VolumeSource};
    let source = VolumeSource { volume_id: volume(B) };
    let volume_content_source = Some(VolumeContentSource { r#type: Some(Type::Volume(source)) });
    assert_eq!(
        lands(&router, CreateVolumeRequest { volume_content_source, ..wanted("copy", &[]) }).await,
        "n2"
    );
    let parameters = [("pool".to_owned(), "main".to_owned())].into();
    assert_eq!(lands(&router, CreateVolumeRequest { parameters, ..wanted("named", &["n2"]) }).await, "n2");
    let room = router.get_capacity(Request::new(GetCapacityRequest::default())).await.unwrap().into_inner();
    assert_eq!(room.available_capacity >> 30, 100, "of the two other pools");
}

#[tokio::test]
async fn what_was_never_sent_is_not_waited_for() {
    let (rig, router, fakes, mut joined) = cluster(&[("n1", A), ("n2", B)]).await;
    rig.doze();
    drop(joined.remove(0));
    soon("the link is gone", || rig.links().of(&"n1".parse().unwrap()).is_none().then_some(())).await;
    let why = "node n1 has just lost its connection";
    assert_eq!(refused(&router, wanted("pvc", &["n1"]), why).await, Code::Unavailable);
    assert!(router.0.tried.of(name_hash(Named::Volume, "pvc")).is_empty());
    assert_eq!(lands(&router, wanted("pvc", &["n2"])).await, "n2");
    assert!(fakes[0].asked().is_empty());
}

#[tokio::test]
async fn volumes_are_spread_or_packed_by_what_is_promised() {
    let (rig, router, fakes, _joined) = cluster(&[("n1", A), ("n2", B), ("n3", C)]).await;
    for ((fake, id), gib) in fakes.iter().zip([A, B, C]).zip([20, 80, 0]) {
        leave(&rig, fake, id, gib).await;
    }
    let pack = |name: &str| {
        let parameters = [("placement".to_owned(), "pack".to_owned())].into();
        CreateVolumeRequest { parameters, ..wanted(name, &[]) }
    };
    assert_eq!(lands(&router, wanted("spread", &[])).await, "n2");
    assert_eq!(lands(&router, pack("pack")).await, "n1", "the fullest one that has room");
    // The wish of the caller comes first, among those with room.
    let wish = |name: &str, nodes: &[&str]| {
        let requirement = TopologyRequirement { requisite: at(&["n1", "n2", "n3"]), preferred: at(nodes) };
        CreateVolumeRequest { accessibility_requirements: Some(requirement), ..wanted(name, &[]) }
    };
    assert_eq!(lands(&router, wish("a", &["n1", "n2"])).await, "n1");
    assert_eq!(lands(&router, wish("b", &["n3", "n2"])).await, "n2");
    // Equally full nodes get their share.
    for (fake, id) in fakes.iter().zip([A, B, C]) {
        leave(&rig, fake, id, 50).await;
    }
    let mut nodes = std::collections::BTreeMap::<String, usize>::new();
    for n in 0..60 {
        *nodes.entry(lands(&router, wanted(&format!("pvc-{n}"), &[])).await).or_default() += 1;
    }
    assert!(nodes.len() == 3 && nodes.values().all(|count| *count > 8), "{nodes:?}");
}

#[tokio::test]
async fn where_no_node_has_room_each_says_why() {
    let (rig, router, fakes, _joined) = cluster(&[("n1", A), ("n2", B), ("n3", C)]).await;
    let full = |text: &str| Some(Status::resource_exhausted(text.to_owned()));
    fakes[0].refuse(full("2 GiB are left"));
    fakes[1].refuse(full("1 GiB is left"));
    leave(&rig, &fakes[1], B, 0).await;
    let away = crate::proto::link::Pool { away: "its disk is gone".into(), ..pool("main", C, 5) };
    fakes[2].tell(away);
    let seen = || rig.known.node(&"n3".parse().unwrap()).unwrap();
    soon("it is known", || seen().pools["main"].away.clone()).await;
    for part in ["node n1: 2 GiB", "node n2: 1 GiB", "node n3: pool `main`: its disk is gone"] {
        assert_eq!(refused(&router, wanted("pvc", &[]), part).await, Code::ResourceExhausted);
    }
    assert!(fakes[2].asked().is_empty());
    // The next one is asked where one is full, and what went well is the answer.
    fakes[1].refuse(None);
    assert_eq!(lands(&router, wanted("pvc", &[])).await, "n2");
    fakes[0].refuse(Some(Status::out_of_range("more than the pool can ever give")));
    fakes[1].refuse(full("later"));
    assert_eq!(refused(&router, wanted("big", &[]), "later").await, Code::ResourceExhausted);
    fakes[1].refuse(Some(Status::out_of_range("too large here too")));
    assert_eq!(refused(&router, wanted("big", &[]), "ever").await, Code::OutOfRange);
    fakes[0].refuse(Some(Status::internal("the disk is broken")));
    fakes[1].asked();
    assert_eq!(refused(&router, wanted("broken", &[]), "the disk is broken").await, Code::Internal);
    assert!(fakes[1].asked().is_empty());
}

#[tokio::test]
async fn a_pool_by_name_decides_who_is_asked() {
    let (rig, router, fakes, _joined) = cluster(&[("n1", A), ("n2", B)]).await;
    fakes[1].tell(pool("fast", C, 5));
    soon("it is known", || rig.known.holder(C.parse().unwrap()).ok()).await;
    let named = |name: &str, pool: &str| {
        let parameters = [("pool".to_owned(), pool.to_owned())].into();
        CreateVolumeRequest { parameters, ..wanted(name, &[]) }
    };
    assert_eq!(lands(&router, named("a", "fast")).await, "n2");
    fakes[1].refuse(Some(Status::resource_exhausted("full")));
    let why = "node n1: pool `fast`: there is none of this name";
    assert_eq!(refused(&router, named("b", "fast"), why).await, Code::ResourceExhausted);
    fakes[0].asked();
    fakes[0].refuse(Some(Status::invalid_argument("want one of `main`")));
    // A node says it in the right words.
    assert_eq!(refused(&router, named("c", "slow"), "want one of").await, Code::InvalidArgument);
}

#[tokio::test]
async fn what_no_candidate_has_may_be_elsewhere_or_come_back() {
    let (rig, router, fakes, mut joined) = cluster(&[("n1", A), ("n2", B)]).await;
    let fast = |name: &str, nodes: &[&str]| {
        let parameters = [("pool".to_owned(), "fast".to_owned())].into();
        CreateVolumeRequest { parameters, ..wanted(name, nodes) }
    };
    fakes[0].refuse(Some(Status::invalid_argument("want one of `main`")));
    // Nobody has it: a node says so in the right words.
    assert_eq!(refused(&router, fast("a", &["n1"]), "want one of").await, Code::InvalidArgument);
    fakes[0].asked();
    fakes[1].tell(pool("fast", C, 5));
    soon("it is known", || rig.known.holder(C.parse().unwrap()).ok()).await;
    assert_eq!(refused(&router, fast("b", &["n1"]), "node n1").await, Code::ResourceExhausted);
    let away = crate::proto::link::Pool { away: "its disk is gone".into(), ..pool("fast", C, 5) };
    fakes[1].tell(away);
    let seen = || rig.known.node(&"n2".parse().unwrap()).unwrap();
    soon("it is known", || seen().pools["fast"].away.clone()).await;
    for nodes in [&["n1", "n2"][..], &[]] {
        let word = "its disk is gone";
        assert_eq!(refused(&router, fast("c", nodes), word).await, Code::Unavailable, "{nodes:?}");
    }
    assert_eq!(refused(&router, fast("d", &["n1"]), "node n1").await, Code::ResourceExhausted);
    joined.remove(1);
    rig.stands("n2", Standing::Away).await;
    let slow = [("pool".to_owned(), "slow".to_owned())];
    let request = CreateVolumeRequest { parameters: slow.clone().into(), ..wanted("e", &["n1"]) };
    assert_eq!(refused(&router, request, "node n1").await, Code::ResourceExhausted, "it may be on the other");
    let request = GetCapacityRequest { parameters: slow.into(), ..Default::default() };
    let room = router.get_capacity(Request::new(request)).await.unwrap().into_inner();
    assert_eq!(room.available_capacity, 0);
    assert!(fakes[0].asked().is_empty());
}

#[tokio::test]
async fn a_copy_lies_beside_its_source() {
    use csi::volume_content_source::{Type, VolumeSource};
    let (rig, router, fakes, mut joined) = cluster(&[("n1", A), ("n2", B)]).await;
    let copy = |name: &str, volume_id: String, nodes: &[&str]| {
        let source = VolumeContentSource { r#type: Some(Type::Volume(VolumeSource { volume_id })) };
        CreateVolumeRequest { volume_content_source: Some(source), ..wanted(name, nodes) }
    };
    for name in ["a", "b", "c", "d"] {
        assert_eq!(lands(&router, copy(name, volume(B), &[])).await, "n2");
    }
    assert_eq!(lands(&router, copy("e", volume(B), &["n1", "n2"])).await, "n2");
    let elsewhere = refused(&router, copy("f", volume(B), &["n1"]), "lies on node n2").await;
    assert_eq!(elsewhere, Code::ResourceExhausted);
    assert_eq!(refused(&router, copy("g", "x".into(), &[]), "`x`").await, Code::NotFound);
    assert_eq!(refused(&router, copy("h", volume(C), &[]), C).await, Code::Unavailable);
    joined.remove(1);
    rig.stands("n2", Standing::Away).await;
    assert_eq!(refused(&router, copy("i", volume(B), &["n1"]), "node n2").await, Code::Unavailable);
    assert!(fakes[0].asked().is_empty());
}

#[tokio::test]
async fn all_that_had_room_when_they_last_told_are_asked() {
    let ids: Vec<(String, String)> = (10..22).map(|n| (format!("n{n}"), format!("aaaaaaaaaa{n}"))).collect();
    let nodes: Vec<(&str, &str)> = ids.iter().map(|(node, pool)| (node.as_str(), pool.as_str())).collect();
    let (rig, router, fakes, _joined) = cluster(&nodes).await;
    for fake in &fakes {
        fake.refuse(Some(Status::resource_exhausted("1 GiB is left")));
    }
    let asked = || fakes.iter().filter(|fake| !fake.asked().is_empty()).count();
    assert_eq!(refused(&router, wanted("pvc", &[]), "and 4 more nodes").await, Code::ResourceExhausted);
    assert_eq!(asked(), 12);
    // Of those that say themselves that they are full a few are asked.
    for (fake, (_, pool)) in fakes.iter().zip(&nodes) {
        leave(&rig, fake, pool, 0).await;
    }
    assert_eq!(refused(&router, wanted("pvc", &[]), "and 4 more nodes").await, Code::ResourceExhausted);
    assert_eq!(asked(), 8);
}

#[tokio::test]
async fn nothing_is_sent_to_a_node_that_may_not_have_it() {
    use csi::volume_content_source::{Type, VolumeSource};
    let (rig, _, fakes, _joined) = cluster(&[("n1", A), ("n2", B), ("n3", C)]).await;
    let router = self::router(&rig, Patience { answer: Duration::from_millis(500), ..SETTLED });
    let r#type = Some(Type::Volume(VolumeSource { volume_id: volume(A) }));
    let copy = CreateVolumeRequest {
        volume_content_source: Some(VolumeContentSource { r#type }),
        ..wanted("a", &["n2"])
    };
    fakes.iter().for_each(Fake::travel);
    // It says that it has the name, and would take the content.
    fakes[2].take(name_hash(Named::Volume, "a"));
    heard(&rig, "a", 1).await;
    fakes[2].store.taking.lock().unwrap().insert("a".into());
    assert_eq!(refused(&router, copy, "node n3 wants to receive").await, Code::Unavailable);
    assert_eq!(*fakes[0].store.given.lock().unwrap(), 0);
}

#[tokio::test]
async fn room_is_what_connected_nodes_told_of() {
    let (rig, router, fakes, mut joined) = cluster(&[("n1", A), ("n2", B)]).await;
    leave(&rig, &fakes[1], B, 20).await;
    let room = async |router: &Router, node: Option<&str>, (key, value): (&str, &str)| {
        let mut parameters = crate::model::Parameters::new();
        if !key.is_empty() {
            parameters.insert(key.to_owned(), value.to_owned());
        }
        let accessible_topology = node.map(|node| at(&[node]).remove(0));
        let request = GetCapacityRequest { parameters, accessible_topology, ..Default::default() };
        let room = router.get_capacity(Request::new(request)).await?.into_inner();
        Ok::<_, Status>((room.available_capacity >> 30, room.maximum_volume_size.unwrap() >> 30))
    };
    let any = ("", "");
    assert_eq!(room(&router, None, any).await.unwrap(), (70, 50));
    assert_eq!(room(&router, Some("n2"), ("pool", "main")).await.unwrap(), (20, 20));
    assert_eq!(room(&router, Some("n9"), any).await.unwrap(), (0, 0));
    assert_eq!(room(&router, None, ("csi.storage.k8s.io/fstype", "xfs")).await.unwrap(), (0, 0));
    assert_eq!(code(room(&router, Some("n1"), ("pool", "fast")).await).0, Code::InvalidArgument);
    fakes[1].tell(pool("fast", C, 5));
    soon("it is known", || rig.known.holder(C.parse().unwrap()).ok()).await;
    assert_eq!(room(&router, Some("n1"), ("pool", "fast")).await.unwrap(), (0, 0));
    let starting = self::router(&rig, Patience { start: Duration::from_secs(600), ..SETTLED });
    assert_eq!(code(room(&starting, None, any).await).0, Code::Unavailable);
    assert_eq!(code(room(&starting, Some("n9"), any).await).0, Code::Unavailable);
    assert_eq!(room(&starting, Some("n2"), ("pool", "main")).await.unwrap(), (20, 20));
    joined.remove(0);
    rig.stands("n1", Standing::Away).await;
    assert_eq!(room(&router, Some("n1"), any).await.unwrap(), (0, 0), "nothing can be made there now");
    fakes[0].news().mute = true;
    let _joined = rig.connect("n1", fakes[0].routes()).await;
    rig.stands("n1", Standing::Untold).await;
    assert_eq!(code(room(&router, Some("n1"), any).await).0, Code::Unavailable);
    assert!(fakes.iter().all(|fake| fake.asked().is_empty()));
}

#[tokio::test]
async fn a_node_speaks_only_for_pools_of_its_own() {
    let (_rig, router, fakes, _joined) = cluster(&[("n1", A), ("n2", B)]).await;
    let ask = async |name: &str| refused(&router, wanted(name, &["n1"]), "node n1 answered").await;
    for (number, lie) in [Lie::Pool(B), Lie::Pool(C), Lie::Place("n2")].into_iter().enumerate() {
        fakes[0].lie(Some(lie));
        assert_eq!(ask(&format!("pvc-{number}")).await, Code::Unavailable, "{lie:?}");
    }
    fakes[0].lie(None);
    assert_eq!(
        lands(&router, wanted("pvc-0", &["n1"])).await,
        "n1",
        "what it has made is there all the same"
    );
    assert!(fakes[1].asked().is_empty());
}
