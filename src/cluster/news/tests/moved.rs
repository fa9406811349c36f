//! Disks that move between nodes which both run.

use super::*;

/// A pool whose disk is not there any more, and the names that it held.
fn gone(id: &str, names: &[u64]) -> wire::Pool {
    let away = "no pool.json lies there; is its disk mounted?".to_owned();
    wire::Pool { gone: true, names: names.to_vec(), away, ..pool("main", id, 50) }
}

#[tokio::test]
async fn a_disk_that_moves_between_running_nodes_is_the_new_ones() {
    // Whichever sorts first.
    for (old, new) in [("n1", "n2"), ("n2", "n1")] {
        let (rig, one, other) = (Rig::new(), Fake::with_pool(old, A), Fake::new(new));
        let (old, new) = (id(old), id(new));
        one.tell(pool("own", B, 1));
        [1, 2, 3].into_iter().for_each(|hash| one.take(hash));
        let _one = rig.join(&one).await;
        let joined = rig.join(&other).await;
        other.take(1);
        other.take(2);
        other.tell(pool("moved", A, 1));
        soon("it is refused on both", || (rig.known.live(of(A)).len() == 2).then_some(())).await;
        one.tell(gone(A, &[1, 2]));
        assert_eq!(soon("it is the new one's", || rig.known.holder(of(A)).ok()).await, new);
        let at = |hash| rig.known.holding(hash);
        assert_eq!((at(1), at(2), at(3)), (vec![new.clone()], vec![new.clone()], vec![old.clone()]));
        assert!(rig.known.names_twice() == 0 && rig.known.lock().twice.is_empty());
        let pools = |node| seen(&rig, node).pools.keys().cloned().collect::<Vec<_>>();
        assert_eq!(pools(old.as_str()), ["own"], "nothing is placed there");
        assert_eq!(rig.known.announcers(of(A)), vec![new.clone()]);
        // What was deleted since is free, whatever the old node remembers.
        other.free(2);
        soon("the name is free", || at(2).is_empty().then_some(())).await;
        // The new node leaves, and the old one tells everything anew: it is no more than out of date.
        drop(joined);
        rig.stands(new.as_str(), Standing::Away).await;
        let begun = one.news().begun;
        one.hang_up();
        soon("it tells anew", || (one.news().begun > begun).then_some(())).await;
        rig.told(old.as_str()).await;
        assert!(refusal(&rig.known, A).contains(&format!("node {new} has not been connected")));
        assert_eq!((at(1), at(2), at(3)), (vec![new.clone()], vec![], vec![old.clone()]));
        let _other = rig.join(&other).await;
        assert_eq!(rig.known.holder(of(A)).unwrap(), new);
        // And back again: with what was made meanwhile, and without what was deleted.
        other.take(4);
        other.tell(wire::Pool { name: "moved".to_owned(), ..gone(A, &[1, 4]) });
        soon("it is gone from both", || seen(&rig, new.as_str()).pools["moved"].gone.clone()).await;
        assert_eq!(rig.known.live(of(A)), vec![new.clone()], "it was there last");
        one.free(2);
        one.take(4);
        one.tell(pool("main", A, 1));
        assert_eq!(soon("it is back", || rig.known.holder(of(A)).ok().filter(|at| *at == old)).await, old);
        assert_eq!((at(1), at(2), at(3), at(4)), (vec![old.clone()], vec![], vec![old.clone()], vec![old]));
        assert_eq!(rig.known.names_twice(), 0);
    }
}

#[tokio::test]
async fn a_disk_that_is_pulled_before_it_comes_elsewhere_is_never_on_two_nodes() {
    let (rig, one, other) = (Rig::new(), Fake::with_pool("n1", A), Fake::new("n2"));
    one.take(1);
    let _one = rig.join(&one).await;
    let _other = rig.join(&other).await;
    one.tell(gone(A, &[1]));
    soon("it is gone", || seen(&rig, "n1").pools["main"].gone.clone()).await;
    assert!(refusal(&rig.known, A).contains("gone from node n1"), "{}", refusal(&rig.known, A));
    assert_eq!(rig.known.holding(1), [id("n1")]);
    // It is found there, and nobody knows yet what it holds.
    other.tell(wire::Pool { unread: true, away: "it is being opened".into(), ..pool("moved", A, 1) });
    let is_neither = || refusal(&rig.known, A).contains("neither has its disk open").then_some(());
    soon("it is being opened", is_neither).await;
    assert_eq!(rig.known.holding(1), [id("n1")], "its names are known nowhere else");
    other.take(1);
    other.tell(pool("moved", A, 1));
    soon("its names came along", || (rig.known.holding(1) == [id("n2")]).then_some(())).await;
    assert!(rig.known.names_twice() == 0 && rig.known.lock().twice.is_empty());
    // Twice again where the old disk was only pulled for a while: then it was copied.
    one.tell(pool("main", A, 1));
    soon("it is refused on both", || (rig.known.live(of(A)).len() == 2).then_some(())).await;
    assert!(rig.known.lock().twice.contains_key(&of(A)));
}

/// A node that says what a test says, at once; no name may seem to be on two nodes meanwhile.
struct Teller<'a> {
    known: &'a Known,
    node: NodeId,
    connection: (Instance, u64),
    sequence: u64,
}

impl<'a> Teller<'a> {
    fn new(known: &'a Known, name: &str) -> Teller<'a> {
        let connection = (Instance::random(), 1);
        known.met(&id(name), connection);
        Teller { known, node: id(name), connection, sequence: 0 }
    }

    fn says(&mut self, pools: &[wire::Pool], taken: &[u64], freed: &[u64]) {
        self.sequence += 1;
        let (pools, taken, freed) = (pools.to_vec(), taken.to_vec(), freed.to_vec());
        let news = wire::News { sequence: self.sequence, pools, taken, freed };
        assert!(self.known.hear(&self.node, self.connection, news));
        assert_eq!(self.known.names_twice(), 0);
    }

    /// The connection breaks, and another one begins.
    fn begins_anew(&mut self) {
        self.known.parted(&self.node);
        self.connection.1 += 1;
        self.known.met(&self.node, self.connection);
        self.sequence = 0;
    }
}

fn away(pool: wire::Pool) -> wire::Pool {
    wire::Pool { away: "its records cannot be read".into(), ..pool }
}

fn main(id: &str) -> wire::Pool {
    pool("main", id, 1)
}

#[test]
fn what_cannot_be_opened_where_it_was_before_is_still_the_other_nodes() {
    let known = Known::new(QUICK);
    let (mut old, mut new) = (Teller::new(&known, "n1"), Teller::new(&known, "n2"));
    old.says(&[main(A), pool("own", B, 1)], &[1, 2, 3], &[]);
    new.says(&[], &[], &[]);
    old.says(&[gone(A, &[1, 2])], &[], &[]);
    new.says(&[main(A)], &[1, 2], &[]);
    new.says(&[], &[], &[2]);
    assert_eq!((known.holder(of(A)).unwrap(), known.holding(2)), (id("n2"), vec![]));
    // The disk is back, and cannot be read there, also over another connection.
    old.says(&[away(main(A))], &[], &[]);
    for _ in 0..2 {
        assert_eq!((known.holder(of(A)).unwrap(), known.holding(1)), (id("n2"), vec![id("n2")]));
        assert_eq!((known.holding(2), known.holding(3)), (vec![], vec![id("n1")]));
        assert_eq!(
            known.present(of(A)),
            [id("n1"), id("n2")],
            "it is not lost, whatever becomes of the other"
        );
        assert!(known.is_out_of_date(&id("n1"), 2) && !known.is_out_of_date(&id("n2"), 2));
        old.begins_anew();
        old.says(&[away(main(A)), pool("own", B, 1)], &[1, 2, 3], &[]);
    }
    // Gone again, with what it has read meanwhile.
    old.says(&[gone(A, &[1, 4])], &[4], &[2]);
    assert_eq!((known.holding(4), known.holding(2)), (vec![], vec![]));
    old.says(&[gone(A, &[1])], &[], &[]);
    assert_eq!(known.holding(4), [id("n1")], "it lies elsewhere on that node");
    // The other one lets go, and the old one opens it in a first message.
    new.says(&[gone(A, &[1])], &[], &[]);
    old.begins_anew();
    old.says(&[main(A), pool("own", B, 1)], &[1, 3, 5], &[]);
    assert_eq!(known.holder(of(A)).unwrap(), id("n1"));
    assert_eq!((known.holding(1), known.holding(5)), (vec![id("n1")], vec![id("n1")]));
    // Its new node does not know the pool any more, and has nothing to forget.
    new.begins_anew();
    new.says(&[], &[], &[]);
    assert_eq!((known.holder(of(A)).unwrap(), known.holding(1)), (id("n1"), vec![id("n1")]));
}

#[test]
fn who_had_it_last_is_not_guessed() {
    // A controller that has just begun, while the disk is on its way, or cannot be read where it is.
    let known = Known::new(QUICK);
    let (mut one, mut other) = (Teller::new(&known, "n1"), Teller::new(&known, "n2"));
    one.says(&[gone(A, &[1])], &[1], &[]);
    assert!(refusal(&known, A).contains("gone from node n1"));
    other.says(&[gone(A, &[1, 2])], &[1, 2], &[]);
    assert!(refusal(&known, A).contains("neither has its disk open"));
    other.says(&[away(main(A))], &[], &[]);
    assert!(refusal(&known, A).contains("neither has its disk open"));
    assert!(!known.is_twice(of(A)));
    // One of them leaves, or comes back without it: the other one may have been there before.
    other.begins_anew();
    assert!(refusal(&known, A).contains("gone from node n1"), "{}", refusal(&known, A));
    other.says(&[], &[], &[]);
    assert!(refusal(&known, A).contains("gone from node n1"), "{}", refusal(&known, A));
    assert_eq!(known.holding(2), [id("n2")], "it may be there");
    assert!(known.here(of(A)).is_empty());
    let mut third = Teller::new(&known, "n3");
    third.says(&[main(A)], &[1, 2], &[]);
    assert_eq!((known.holder(of(A)).unwrap(), known.holding(2)), (id("n3"), vec![id("n3")]));
}

#[test]
fn a_copy_is_refused_also_when_the_first_disk_is_pulled() {
    let known = Known::new(Pace { moving: Duration::ZERO, ..QUICK });
    let (mut one, mut other) = (Teller::new(&known, "n1"), Teller::new(&known, "n2"));
    one.says(&[main(A)], &[1], &[]);
    other.says(&[main(A)], &[1], &[]);
    assert!(known.is_twice(of(A)));
    std::thread::sleep(Duration::from_millis(2));
    one.says(&[gone(A, &[1])], &[], &[]);
    assert!(known.is_twice(of(A)) && refusal(&known, A).contains("is its disk a copy?"));
    // Also over another connection.
    one.begins_anew();
    one.says(&[gone(A, &[1])], &[1], &[]);
    assert!(known.is_twice(of(A)) && refusal(&known, A).contains("is its disk a copy?"));
    // It is the only one once the other node is started without it.
    one.begins_anew();
    one.says(&[], &[], &[]);
    assert_eq!(known.holder(of(A)).unwrap(), id("n2"));
    assert!(!known.is_twice(of(A)));
}

#[test]
fn a_disk_has_time_to_move() {
    // As a controller has it.
    let known = Known::default();
    let (mut one, mut other) = (Teller::new(&known, "n1"), Teller::new(&known, "n2"));
    one.says(&[main(A)], &[1], &[]);
    other.says(&[main(A)], &[1], &[]);
    assert!(known.is_twice(of(A)));
    std::thread::sleep(Duration::from_millis(2));
    one.says(&[gone(A, &[1])], &[], &[]);
    assert_eq!(known.holder(of(A)).unwrap(), id("n2"));
}

#[test]
fn a_disk_that_hangs_before_it_is_found_gone_is_no_copy() {
    let known = Known::new(Pace { moving: Duration::ZERO, ..QUICK });
    let (mut one, mut other) = (Teller::new(&known, "n1"), Teller::new(&known, "n2"));
    one.says(&[wire::Pool { away: "it does not answer".into(), ..main(A) }], &[1], &[]);
    other.says(&[main(A)], &[1], &[]);
    std::thread::sleep(Duration::from_millis(2));
    assert!(known.is_twice(of(A)), "it may be there still");
    one.says(&[gone(A, &[1])], &[], &[]);
    assert_eq!(known.holder(of(A)).unwrap(), id("n2"));
}

#[test]
fn nothing_is_taken_from_a_node_by_one_that_is_not_connected() {
    let known = Known::new(QUICK);
    let (mut one, mut other) = (Teller::new(&known, "n1"), Teller::new(&known, "n2"));
    other.says(&[main(A)], &[1], &[]);
    known.parted(&id("n2"));
    one.says(&[main(A)], &[1, 2], &[]);
    assert_eq!(known.holder(of(A)).unwrap(), id("n1"), "it moved there");
    one.says(&[gone(A, &[1, 2])], &[], &[]);
    assert_eq!(known.holding(2), [id("n1")]);
    assert!(refusal(&known, A).contains("gone from node n1"));
    // The other way round: a node that left without having said that it is gone has it, for all that is known.
    let known = Known::new(QUICK);
    let (mut one, mut other) = (Teller::new(&known, "n1"), Teller::new(&known, "n2"));
    one.says(&[gone(A, &[1])], &[1], &[]);
    known.parted(&id("n1"));
    other.says(&[main(A)], &[1], &[]);
    assert_eq!((known.holder(of(A)).unwrap(), known.holding(1)), (id("n2"), vec![id("n2")]));
}
