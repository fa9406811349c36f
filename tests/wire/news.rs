//! What a node tells the controllers of itself, and when.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rockpool::model::{Named, name_hash};
use rockpool::pool::{Kind, Quota, Setup};
use rockpool::proto::csi::DeleteSnapshotRequest;
use rockpool::proto::link::{News, Pool, Room, WatchRequest};
use tonic::Streaming;

use crate::directories::{on_dirs, pools_in};
use crate::harness::*;

/// A stream, and what it came to so far.
struct Watch {
    stream: Streaming<News>,
    sequence: u64,
    pools: Vec<Pool>,
    names: BTreeSet<u64>,
}

impl Watch {
    async fn on(driver: &Driver) -> Watch {
        let stream = driver.link.clone().watch(WatchRequest {}).await.unwrap().into_inner();
        let (sequence, pools, names) = (0, Vec::new(), BTreeSet::new());
        let mut watch = Watch { stream, sequence, pools, names };
        watch.next().await;
        watch
    }

    /// Takes in the next message, and checks that it tells nothing twice.
    async fn next(&mut self) -> News {
        let next = tokio::time::timeout(Duration::from_secs(10), self.stream.message());
        let news = next.await.expect("a message").unwrap().expect("no end");
        self.sequence += 1;
        assert_eq!(news.sequence, self.sequence);
        for name in &news.taken {
            assert!(self.names.insert(*name), "a name is taken twice");
        }
        for name in &news.freed {
            assert!(self.names.remove(name), "a name is freed that was not taken");
        }
        for pool in &news.pools {
            assert!(!self.pools.contains(pool), "nothing new: {pool:?}");
            self.pools.retain(|old| old.name != pool.name);
            self.pools.push(pool.clone());
        }
        news
    }

    /// Reads on until what is known fits.
    async fn until(&mut self, what: &str, fits: impl Fn(&Watch) -> bool) {
        let begun = Instant::now();
        while !fits(self) {
            assert!(begun.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
            self.next().await;
        }
    }

    fn pool(&self, name: &str) -> &Pool {
        self.pools.iter().find(|pool| pool.name == name).unwrap()
    }

    fn rooms(&self, name: &str) -> &[Room] {
        &self.pool(name).rooms
    }
}

fn volume(name: &str) -> u64 {
    name_hash(Named::Volume, name)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_it_comes_first_and_then_what_changes() {
    let driver = Driver::start().await;
    let first = driver.volume("first").await;
    let mut watch = Watch::on(&driver).await;
    assert_eq!(watch.names, BTreeSet::from([volume("first")]));
    let fast = watch.pool("fast");
    assert!(first.volume_id.contains(&fast.id) && fast.kind == "sim");
    assert!(fast.away.is_empty() && !fast.unread);
    assert_eq!((fast.promised_bytes, fast.budget_bytes), (GIB, POOL));
    let kinds: Vec<_> =
        fast.rooms.iter().map(|room| (room.access.as_str(), room.allocation.as_str())).collect();
    assert_eq!(kinds[0], ("ext4", "sparse"), "the preferred one comes first");
    assert!(kinds.contains(&("block", "reserved")), "{kinds:?}");

    let snapshot = driver.snapshot("cut", &first.volume_id).await.unwrap();
    let second = driver.volume("second").await;
    let all = BTreeSet::from([volume("first"), volume("second"), name_hash(Named::Snapshot, "cut")]);
    watch.until("what was made is told", |watch| watch.names == all).await;
    watch.until("and what it takes", |watch| watch.pool("fast").promised_bytes >= 2 * GIB).await;

    driver.delete(&second.volume_id).await.unwrap();
    let request = DeleteSnapshotRequest { snapshot_id: snapshot.snapshot_id, ..Default::default() };
    driver.controller.clone().delete_snapshot(request).await.unwrap();
    watch.until("what was deleted is told", |watch| watch.names.len() == 1).await;
    // Whoever comes later hears the same.
    let later = Watch::on(&driver).await;
    watch.until("both know the same", |watch| watch.pool("fast") == later.pool("fast")).await;
    assert_eq!(watch.names, later.names);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_says_what_get_capacity_says() {
    let driver = Driver::start().await;
    driver.volume("one").await;
    let watch = Watch::on(&driver).await;
    for (access, capability) in [("ext4", mount("ext4")), ("xfs", mount("xfs")), ("block", block())] {
        for allocation in ["sparse", "reserved"] {
            let fits = |room: &&Room| room.access == access && room.allocation == allocation;
            let room = watch.rooms("fast").iter().find(fits).unwrap();
            let asked = rockpool::proto::csi::GetCapacityRequest {
                volume_capabilities: vec![capability.clone()],
                parameters: map(&[("pool", "fast"), ("allocation", allocation)]),
                ..Default::default()
            };
            let answer = driver.capacity(asked).await.unwrap();
            let told = (room.available_bytes, Some(room.minimum_bytes));
            assert_eq!(
                (answer.available_capacity, answer.minimum_volume_size),
                told,
                "{access} {allocation}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_comes_within_two_seconds_also_where_nothing_happens() {
    let driver = Driver::start().await;
    let mut watch = Watch::on(&driver).await;
    for _ in 0..3 {
        let begun = Instant::now();
        let news = watch.next().await;
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert_eq!((news.pools.len(), news.taken.len(), news.freed.len()), (0, 0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_pool_that_was_never_here_nothing_is_known() {
    let driver = Driver::with(|below| {
        let path = below.join("not-mounted");
        let (file, device, size) = (None, None, None);
        let gone =
            Setup { name: "gone".into(), kind: Kind::Image, path, file, device, quota: Quota::None, size };
        vec![sim("fast", POOL), pool(gone)]
    })
    .await;
    let watch = Watch::on(&driver).await;
    let gone = watch.pool("gone");
    assert!(gone.unread && gone.id.is_empty() && gone.rooms.is_empty(), "{gone:?}");
    assert!(gone.away.contains("not-mounted"), "{gone:?}");
    assert!(!watch.pool("fast").unread);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_whose_disk_is_gone_is_told_with_the_names_in_it() {
    let driver = Driver::with(|below| {
        let path = below.join("pool");
        std::fs::create_dir(&path).unwrap();
        pools_in(path)
    })
    .await;
    driver.volume("stays").await;
    driver.create(on_dirs("goes")).await.unwrap();
    let mut watch = Watch::on(&driver).await;
    let (path, aside) = (driver.directory.path().join("pool"), driver.directory.path().join("aside"));
    assert!(!watch.pool("dirs").gone && watch.pool("dirs").names.is_empty());
    std::fs::rename(&path, &aside).unwrap();
    let begun = Instant::now();
    while !watch.pool("dirs").gone {
        assert!(begun.elapsed() < Duration::from_secs(10));
        driver.engine.reconnect();
        watch.next().await;
    }
    let gone = watch.pool("dirs");
    assert!(!gone.unread && !gone.away.is_empty() && !gone.id.is_empty(), "{gone:?}");
    assert_eq!(gone.names, [volume("goes")]);
    assert_eq!(watch.names, BTreeSet::from([volume("goes"), volume("stays")]), "they may be there still");
    assert!(!watch.pool("fast").gone);
    std::fs::rename(&aside, &path).unwrap();
    while watch.pool("dirs").gone {
        assert!(begun.elapsed() < Duration::from_secs(20));
        driver.engine.reconnect();
        watch.next().await;
    }
    assert!(watch.pool("dirs").away.is_empty() && watch.pool("dirs").names.is_empty());
}
