//! What a controller makes of what nodes tell, and of their silence.

mod moved;

use super::*;
use crate::cluster::link::Instance;
use crate::cluster::tests::fake::pool;
use crate::cluster::tests::{Fake, QUICK, Rig, id, soon};
use crate::model::{Access, Bytes, Named, name_hash};

const A: &str = "aaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbb";

fn of(id: &str) -> PoolId {
    id.parse().unwrap()
}

fn refusal(known: &Known, pool: &str) -> String {
    match known.holder(of(pool)) {
        Err(Error::Unavailable(why)) => why,
        other => panic!("{other:?}"),
    }
}

fn seen(rig: &Rig, node: &str) -> Seen {
    rig.known.node(&id(node)).unwrap()
}

#[tokio::test]
async fn a_node_is_believed_once_it_has_told_everything() {
    let (rig, fake) = (Rig::new(), Fake::with_pool("n1", A));
    let name = name_hash(Named::Volume, "pvc-1");
    fake.take(name);
    assert!(refusal(&rig.known, A).contains("no node that has ever been connected"));
    fake.news().mute = true;
    let _joined = rig.connect("n1", fake.routes()).await;
    rig.stands("n1", Standing::Untold).await;
    assert!(rig.known.holder(of(A)).is_err() && seen(&rig, "n1").blind.is_some());
    fake.news().mute = false;
    fake.hang_up();
    rig.told("n1").await;
    assert_eq!(rig.known.holder(of(A)).unwrap(), id("n1"));
    assert_eq!(rig.known.holding(name), [id("n1")]);
    assert!(rig.known.holding(name_hash(Named::Snapshot, "pvc-1")).is_empty());
    let seen = seen(&rig, "n1");
    assert!(seen.blind.is_none() && seen.heard.is_some());
    let room = seen.pools["main"].rooms[1];
    assert_eq!((room.access, room.available), (Access::Block, Bytes::GIB.times(50)));
    assert_eq!(
        (seen.pools["main"].promised, seen.pools["main"].budget),
        (Bytes::GIB.times(50), Bytes::GIB.times(100))
    );
}

#[tokio::test]
async fn what_has_changed_is_taken_in() {
    let (rig, fake) = (Rig::new(), Fake::with_pool("n1", A));
    let _joined = rig.join(&fake).await;
    fake.tell(pool("other", B, 1));
    soon("the second pool", || rig.known.holder(of(B)).ok()).await;
    assert!(rig.known.holder(of(A)).is_ok(), "the first one is still there");
    fake.take(7);
    soon("the name is taken", || (rig.known.holding(7) == [id("n1")]).then_some(())).await;
    fake.free(7);
    soon("the name is free", || rig.known.holding(7).is_empty().then_some(())).await;
    assert_eq!(fake.news().begun, 1, "it was heard because everything was told anew");
    // A pool of this name is another one now.
    fake.tell(pool("other", "cccccccccccc", 1));
    soon("the pool's new id", || rig.known.holder(of("cccccccccccc")).ok()).await;
    assert!(rig.known.holder(of(B)).is_err());
    fake.tell(crate::proto::link::Pool {
        unread: true,
        away: "its disk hangs".into(),
        ..pool("other", "", 0)
    });
    soon("any name may be there", || seen(&rig, "n1").blind).await;
    assert!(seen(&rig, "n1").to_string().contains("its disk hangs"), "{}", seen(&rig, "n1"));
    assert_eq!(rig.known.holder(of(A)).unwrap(), id("n1"), "its other pool works");
}

#[tokio::test]
async fn what_a_later_release_says_is_left_out() {
    let (rig, fake) = (Rig::new(), Fake::new("n1"));
    let mut strange = pool("main", A, 5);
    strange.rooms[0].access = "tape".into();
    strange.rooms[1].available_bytes = -1;
    fake.tell(strange);
    fake.tell(pool("odd", "not an id", 5));
    let _joined = rig.join(&fake).await;
    let pools = seen(&rig, "n1").pools;
    assert_eq!(pools["main"].rooms.len(), 1);
    assert_eq!(pools["main"].rooms[0].available, Bytes::ZERO);
    assert_eq!(pools["odd"].id, None);
}

#[tokio::test]
async fn where_a_message_is_missing_everything_is_told_anew() {
    let (rig, fake) = (Rig::new(), Fake::with_pool("n1", A));
    fake.take(1);
    let _joined = rig.join(&fake).await;
    fake.skip();
    fake.take(2);
    soon("both names", || {
        (!rig.known.holding(1).is_empty() && !rig.known.holding(2).is_empty()).then_some(())
    })
    .await;
    assert_eq!(fake.news().begun, 2);
    // What is not in the first message is there no longer.
    fake.lose_pools();
    fake.hang_up();
    soon("the pool is gone", || rig.known.holder(of(A)).is_err().then_some(())).await;
    rig.told("n1").await;
    assert!(refusal(&rig.known, A).contains("node n1"), "{}", refusal(&rig.known, A));
}

#[tokio::test]
async fn a_pool_that_a_node_has_lost_is_missed_until_another_has_it() {
    let (rig, one, other) = (Rig::new(), Fake::with_pool("n1", A), Fake::with_pool("n2", B));
    one.take(1);
    let joined = rig.join(&one).await;
    let _other = rig.join(&other).await;
    drop(joined);
    rig.stands("n1", Standing::Away).await;
    one.lose_pools();
    one.free(1);
    let _joined = rig.join(&one).await;
    assert_eq!(rig.known.holding(1), [id("n1")], "it was in that pool");
    assert_eq!(rig.known.pools(None), [of(A), of(B)]);
    assert!(refusal(&rig.known, A).contains("node n1"), "{}", refusal(&rig.known, A));
    other.tell(pool("moved", A, 1));
    assert_eq!(soon("the pool is there", || rig.known.holder(of(A)).ok()).await, id("n2"));
    assert!(rig.known.holding(1).is_empty(), "its new node tells of its names");
}

#[tokio::test]
async fn what_a_node_has_not_read_yet_it_may_hold_as_before() {
    let (rig, fake) = (Rig::new(), Fake::with_pool("n1", A));
    fake.take(1);
    drop(rig.join(&fake).await);
    rig.stands("n1", Standing::Away).await;
    let unread = |id| crate::proto::link::Pool { unread: true, ..pool("main", id, 1) };
    fake.tell(unread(A));
    fake.free(1);
    let _joined = rig.join(&fake).await;
    assert_eq!(rig.known.holding(1), [id("n1")]);
    fake.tell(pool("main", A, 1));
    soon("its names are known", || rig.known.holding(1).is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_pool_that_is_unread_is_one_thing_and_a_node_that_is_away_another() {
    let known = Known::new(QUICK);
    let (node, instance) = (id("n1"), Instance::random());
    known.met(&node, (instance, 1));
    let unread = crate::proto::link::Pool { unread: true, ..pool("main", A, 1) };
    known.hear(&node, (instance, 1), wire::News { sequence: 1, pools: vec![unread], ..Default::default() });
    let moment = Duration::from_millis(20);
    tokio::time::sleep(moment).await;
    let before = Instant::now();
    known.parted(&node);
    let blind = || known.node(&node).unwrap().blind.unwrap();
    let away = blind();
    assert!(away <= before.elapsed(), "{away:?}: that long only its pool was unread");
    tokio::time::sleep(moment).await;
    known.met(&node, (instance, 2));
    assert!(blind() >= away + moment, "it has told nothing since");
}

#[tokio::test]
async fn a_silent_stream_begins_anew_on_the_same_connection() {
    let rig = Rig::with(Pace { silence: Duration::from_millis(200), ..QUICK });
    let fake = Fake::with_pool("n1", A);
    let _joined = rig.join(&fake).await;
    soon("it is asked again", || (fake.news().begun > 2).then_some(())).await;
    assert_eq!(rig.links().all()[0].attempt, 1);
}

#[tokio::test]
async fn a_node_that_left_still_has_its_pools() {
    let (rig, fake) = (Rig::new(), Fake::with_pool("n1", A));
    fake.take(1);
    let joined = rig.join(&fake).await;
    drop(joined);
    rig.stands("n1", Standing::Away).await;
    let why = refusal(&rig.known, A);
    assert!(why.contains("node n1 has not been connected for 0 s") && why.contains(A), "{why}");
    assert_eq!(rig.known.holding(1), [id("n1")]);
    assert!(seen(&rig, "n1").blind.is_some());
    let _joined = rig.join(&fake).await;
    assert_eq!(rig.known.holder(of(A)).unwrap(), id("n1"));
    assert!(seen(&rig, "n1").blind.is_none());
}

#[tokio::test]
async fn a_pool_of_two_nodes_is_refused_on_both() {
    let (rig, one, other) = (Rig::new(), Fake::with_pool("n1", A), Fake::with_pool("n2", A));
    other.tell(pool("own", B, 1));
    let first = rig.join(&one).await;
    let _second = rig.join(&other).await;
    let why = refusal(&rig.known, A);
    assert!(why.contains("node n1") && why.contains("node n2"), "{why}");
    assert!(rig.known.lock().twice.contains_key(&of(A)), "it is not reported");
    assert_eq!(rig.known.pools_twice(), 1, "one disk was copied");
    assert_eq!(rig.known.holder(of(B)).unwrap(), id("n2"), "the other pool is not concerned");
    drop(first);
    rig.stands("n1", Standing::Away).await;
    assert_eq!(rig.known.holder(of(A)).unwrap(), id("n2"));
    assert!(rig.known.lock().twice.is_empty());
    // The disk has moved: its old node comes back without it, and leaves again.
    one.lose_pools();
    drop(rig.join(&one).await);
    rig.stands("n1", Standing::Away).await;
    assert_eq!(rig.known.holder(of(A)).unwrap(), id("n2"));
    drop(_second);
    rig.stands("n2", Standing::Away).await;
    assert!(refusal(&rig.known, A).contains("node n2"));
}

#[tokio::test]
async fn a_name_on_two_nodes_is_reported_when_it_is_told() {
    let (rig, one, other) = (Rig::new(), Fake::with_pool("n1", A), Fake::with_pool("n2", B));
    let first = rig.join(&one).await;
    let second = rig.join(&other).await;
    let is_reported = |hash| rig.known.lock().same.contains(&hash);
    one.take(7);
    other.take(7);
    soon("it is reported", || is_reported(7).then_some(())).await;
    other.free(7);
    soon("it is over", || (!is_reported(7)).then_some(())).await;
    drop(second);
    rig.stands("n2", Standing::Away).await;
    other.take(7);
    let _second = rig.join(&other).await;
    assert!(is_reported(7), "it came with all the others");
    // A disk that moves takes its names along.
    one.take(8);
    soon("the name is known", || (!rig.known.holding(8).is_empty()).then_some(())).await;
    drop(first);
    rig.stands("n1", Standing::Away).await;
    other.tell(pool("moved", A, 1));
    other.take(8);
    soon("the name has moved", || (rig.known.holding(8).len() == 2).then_some(())).await;
    one.lose_pools();
    one.free(8);
    let _first = rig.join(&one).await;
    assert!(!is_reported(8));
    assert_eq!(rig.known.holding(8), [id("n2")]);
}

#[tokio::test]
async fn of_two_nodes_that_left_the_last_one_has_the_pool() {
    let (rig, old, new) = (Rig::new(), Fake::with_pool("n2", A), Fake::with_pool("n1", A));
    for fake in [&old, &new] {
        drop(rig.join(fake).await);
        rig.stands(fake.name(), Standing::Away).await;
    }
    assert!(refusal(&rig.known, A).contains("node n1"), "{}", refusal(&rig.known, A));
}

#[tokio::test]
async fn a_connection_that_is_not_the_nodes_any_more_is_not_heard() {
    let known = Known::new(QUICK);
    let (node, instance) = (id("n1"), Instance::random());
    let news = |id: &str| wire::News { sequence: 1, pools: vec![pool("main", id, 1)], ..Default::default() };
    known.met(&node, (instance, 1));
    known.met(&node, (instance, 2));
    known.hear(&node, (instance, 2), news(A));
    known.hear(&node, (instance, 1), news(B));
    assert_eq!(known.holder(of(A)).unwrap(), node);
    assert!(known.holder(of(B)).is_err());
    known.broke_off(&node, (instance, 1));
    assert_eq!(known.holder(of(A)).unwrap(), node, "the end of the old stream says nothing of the new one");
    known.parted(&node);
    known.hear(&node, (instance, 2), news(B));
    assert_eq!(known.node(&node).unwrap().standing, Standing::Away);
}

#[tokio::test]
async fn a_controller_that_stops_can_let_its_nodes_go() {
    let (rig, fake) = (Rig::new(), Fake::with_pool("n1", A));
    let mut joined = rig.join(&fake).await;
    rig.desk.part();
    soon("the connection has ended", || joined.0.is_finished().then_some(())).await;
    assert!((&mut joined.0).await.is_ok());
}

#[tokio::test]
async fn a_process_that_renews_its_connection_is_believed_meanwhile() {
    let known = Known::new(QUICK);
    let (node, instance) = (id("n1"), Instance::random());
    let news = |id: &str| wire::News { sequence: 1, pools: vec![pool("main", id, 1)], ..Default::default() };
    let standing = || known.node(&node).unwrap().standing;
    known.met(&node, (instance, 1));
    known.hear(&node, (instance, 1), news(A));
    known.met(&node, (instance, 2));
    assert_eq!((standing(), known.holder(of(A)).unwrap()), (Standing::Told, node.clone()));
    known.hear(&node, (instance, 1), news(B));
    assert!(known.holder(of(B)).is_err(), "the connection before is not its any more");
    known.hear(&node, (instance, 2), news(B));
    assert_eq!(known.holder(of(B)).unwrap(), node);
    // What its new connection does not tell, or another process, is another matter.
    known.broke_off(&node, (instance, 2));
    assert_eq!(standing(), Standing::Untold);
    known.hear(&node, (instance, 2), news(B));
    known.met(&node, (Instance::random(), 3));
    assert_eq!(standing(), Standing::Untold);
}

#[tokio::test]
async fn a_node_that_tells_too_much_is_not_believed() {
    let rig = Rig::new();
    let fake = Fake::new("n1");
    let _joined = rig.join(&fake).await;
    for number in 0..=POOLS {
        fake.news().pools.insert(format!("p{number}"), pool(&format!("p{number}"), "", 1));
    }
    fake.hang_up();
    rig.stands("n1", Standing::Untold).await;
    let begun = fake.news().begun;
    soon("it is asked again", || (fake.news().begun > begun).then_some(())).await;
    fake.news().pools.pop_first();
    rig.told("n1").await;
}

#[test]
fn what_a_node_tells_does_not_add_up_without_a_limit() {
    let known = Known::new(QUICK);
    let (node, other, instance) = (id("n1"), id("n2"), Instance::random());
    let told = |number: u64, pools| wire::News { sequence: number, pools, ..Default::default() };
    known.met(&other, (instance, 1));
    let own = wire::News { taken: vec![7], ..told(1, vec![pool("main", B, 1)]) };
    assert!(known.hear(&other, (instance, 1), own));
    known.met(&node, (instance, 2));
    // One pool of ever another id: those before are missed.
    let one = |number: u64| vec![pool("main", &format!("{number:012x}"), 1)];
    let taken: Vec<u64> = (0..10).collect();
    assert!(known.hear(&node, (instance, 2), wire::News { taken, ..told(1, one(1)) }));
    assert_eq!(known.names_twice(), 1);
    let believed = (2..=1 + POOLS as u64)
        .take_while(|number| known.hear(&node, (instance, 2), told(*number, one(*number))));
    assert_eq!(believed.count(), POOLS - 1);
    assert_eq!(known.node(&node).unwrap().standing, Standing::Untold);
    assert_eq!(known.pools(None).len(), 1 + POOLS, "what it told before may be true still");
    assert_eq!(known.holding(8), vec![node.clone()]);
    // Names in ever new first messages, while a pool is unread.
    let known = Known::new(QUICK);
    known.met(&node, (instance, 2));
    let many = |from: u64| (from..from + NAMES as u64 / 2).collect::<Vec<u64>>();
    for (round, is_believed) in [(1, true), (2, true), (3, false)] {
        let unread = wire::Pool { unread: true, ..pool("main", A, 1) };
        let news = wire::News { taken: many(round << 32), ..told(1, vec![unread]) };
        assert_eq!(known.hear(&node, (instance, 2), news), is_believed, "{round}");
    }
    // An honest node that reads its pools one after the other, and tells once more of one that is gone.
    let known = Known::new(QUICK);
    let pools = |unread, names: &[u64]| {
        let away = || if names.is_empty() { String::new() } else { "it is gone".to_owned() };
        let slow = wire::Pool { unread: true, ..pool("slow", B, 1) };
        let main = wire::Pool {
            unread,
            gone: !names.is_empty(),
            names: names.to_vec(),
            away: away(),
            ..pool("main", A, 1)
        };
        vec![main, slow]
    };
    let names: Vec<u64> = (0..NAMES as u64 * 3 / 5).collect();
    known.met(&node, (instance, 2));
    let all = wire::News { taken: names.clone(), ..told(1, pools(false, &[])) };
    assert!(known.hear(&node, (instance, 2), all));
    known.met(&node, (instance, 3));
    let connection = (instance, 3);
    assert!(known.hear(&node, connection, told(1, pools(true, &[]))));
    assert!(known.hear(&node, connection, wire::News { taken: names.clone(), ..told(2, pools(false, &[])) }));
    for sequence in 3..6 {
        assert!(known.hear(&node, connection, told(sequence, pools(false, &names))), "{sequence}");
    }
    let too_many = wire::News { taken: (0..=NAMES as u64).collect(), ..told(1, vec![]) };
    assert!(!known.hear(&node, connection, too_many));
}

/// Recorded from version 0.1.0. It never changes: later releases meet nodes that say it so.
const OF_THE_FIRST_RELEASE: &[u8] = b"\x08\x02\x12U\x0a\x04main\x12\x0caaaaaaaaaaaa\x1a\x05image\x22\x0eits disk hangs(\x01\
    0\x80\x80\x80\x80(8\x80\x80\x80\x80\x90\x03B\x19\x0a\x04ext4\x12\x06sparse\x18\x80\x80\x80\x80\xc8\x01 \x80\x80@\
    \x1a\x08\x08\x07\x06\x05\x04\x03\x02\x01\x22\x08\xa8\xa7\xa6\xa5\xa4\xa3\xa2\xa1";

#[test]
fn the_news_of_the_first_release_are_understood_and_told_alike() {
    use prost::Message;
    let news = wire::News::decode(OF_THE_FIRST_RELEASE).unwrap();
    assert_eq!(news.encode_to_vec(), OF_THE_FIRST_RELEASE, "and what is told is read by the first release");
    assert_eq!(news.sequence, 2);
    assert_eq!(
        (&news.taken[..], &news.freed[..]),
        (&[0x0102_0304_0506_0708][..], &[0xa1a2_a3a4_a5a6_a7a8][..])
    );
    let told = news.pools[0].clone();
    assert_eq!((told.name.as_str(), told.kind.as_str()), ("main", "image"));
    let pool = Pool::from(told);
    assert_eq!((pool.id, pool.away.as_deref(), pool.unread), (Some(of(A)), Some("its disk hangs"), true));
    assert_eq!((pool.promised, pool.budget), (Bytes::new(10 << 30), Bytes::new(100 << 30)));
    let access = Access::Mount { fs: crate::model::Filesystem::Ext4 };
    let (available, minimum) = (Bytes::new(50 << 30), Bytes::new(1 << 20));
    let room = Room { access, allocation: crate::model::Allocation::Sparse, available, minimum };
    assert_eq!(pool.rooms, [room]);
    // What a later release adds is no reason to leave out what is known.
    let later = [OF_THE_FIRST_RELEASE, b"\xfa\x07\x03new"].concat();
    assert_eq!(wire::News::decode(&later[..]).unwrap(), news);
}
