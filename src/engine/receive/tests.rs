//! A volume that travels from one engine to another, and what is left where that stops.

#![allow(clippy::disallowed_methods, reason = "a test makes its own files")]

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::*;
use crate::engine::{EngineConfig, Files, Lent, PoolConfig};
use crate::model::{CreateSnapshot, DEFAULT_SIZE, Retention, SnapshotId, WINDOW};
use crate::os::mount::scene::clear;
use crate::pool::prepare::{self, Request};
use crate::pool::{Kind, Quota, Setup};

/// A node with an image pool in a file; all that it mounts goes with it.
struct Node {
    dir: tempfile::TempDir,
    setup: Setup,
    engine: Option<Arc<Engine>>,
}

impl Node {
    fn new() -> Node {
        let dir = tempfile::tempdir().unwrap();
        let place =
            prepare::Place::File { path: dir.path().join("pool.img"), size: Bytes::GIB, sparse: true };
        let mount_parent = dir.path().join("pools");
        let request =
            Request { name: "p".to_owned(), kind: Kind::Image, place, quota: Quota::None, mount_parent };
        let setup = prepare::prepare(&request).unwrap();
        let mut node = Node { dir, setup, engine: None };
        node.start();
        node
    }

    /// As after a kill: nothing but what lies on the disk is left.
    fn start(&mut self) {
        self.engine = None;
        let pool =
            PoolConfig { setup: self.setup.clone(), overcommit: 1.0, reserve: 0.05, retain: Retention::NONE };
        let config = EngineConfig {
            pools: vec![pool],
            kubelet_root: self.dir.path().to_owned(),
            state_dir: self.dir.path().join("state"),
            files: Files::Shared,
        };
        self.engine = Some(Engine::open(config).unwrap());
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    fn pool(&self) -> PoolId {
        self.engine().pools()[0].id.unwrap()
    }

    fn file(&self, place: &str, id: impl std::fmt::Display) -> PathBuf {
        self.setup.path.join(place).join(id.to_string())
    }

    /// What lies below a directory of the pool.
    fn names(&self, place: &str) -> Vec<String> {
        let names = std::fs::read_dir(self.setup.path.join(place)).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// A block volume with something at its beginning, in the middle and at its end.
    fn volume(&self) -> VolumeId {
        let made = self.engine().create_volume(&want("source", Source::Blank, 8)).unwrap();
        let file = std::fs::File::options().write(true).open(self.file("volumes", made.id)).unwrap();
        for (at, byte) in [(0, 1), ((3 << 20) + 4096, 2), ((8 << 20) - 4096, 3)] {
            file.write_all_at(&[byte; 4096], at).unwrap();
        }
        made.id
    }

    fn cut(&self, source: VolumeId) -> Source {
        let want = CreateSnapshot { name: "cut".to_owned(), source, parameters: Default::default() };
        Source::Snapshot(self.engine().create_snapshot(&want).unwrap().id)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.engine = None;
        // The directory of the pools is a mount as well.
        clear(self.dir.path());
    }
}

fn want(name: &str, source: Source, mib: u64) -> CreateVolume {
    CreateVolume {
        name: name.to_owned(),
        range: Range { required: Some(Bytes::MIB.times(mib)), limit: None },
        asked: Asked::Block,
        pool: None,
        allocation: Allocation::Sparse,
        parameters: Default::default(),
        claim: None,
        source,
    }
}

fn going(received: Result<Received>) -> Receiving {
    match received.unwrap() {
        Received::Going(going) => going,
        Received::Whole(volume) => panic!("{} is whole already", volume.id),
    }
}

/// Begins a copy of `source` on the other node.
fn begin(from: &Node, to: &Node, source: Source) -> (CreateVolume, VolumeId) {
    let want = want("copy", source, 8);
    let origin = from.engine().elsewhere(&source).unwrap();
    let index = to.engine().choose_to_receive(&want, &origin).unwrap();
    (want.clone(), going(to.engine().receive_at(index, &want, &origin)).volume.id)
}

/// Moves up to `most` pieces, hardening each; whether all have come.
fn carry(from: &Node, lent: &Lent, to: &Node, id: VolumeId, most: usize) -> bool {
    let Receiving { done, mut digest, session, .. } = to.engine().begin_receiving(&id, false).unwrap();
    let mut next = done.get();
    for _ in 0..most {
        let part = from.engine().part(lent, next).unwrap();
        if let Some(piece) = part.piece {
            let text = piece.encode();
            digest = Piece::digest(digest, &text);
            to.engine().fill(&id, session, &Piece::decode(&text).unwrap()).unwrap();
        }
        next = part.next;
        to.engine().harden(&id, session, Bytes::new(next), digest).unwrap();
        if next == lent.size().get() {
            return true;
        }
    }
    false
}

/// Says that all has come.
fn complete(to: &Node, id: VolumeId) {
    let session = to.engine().begin_receiving(&id, false).unwrap().session;
    to.engine().complete_received(&id, session).unwrap();
}

fn same(from: PathBuf, to: PathBuf) -> bool {
    std::fs::read(from).unwrap() == std::fs::read(to).unwrap()
}

#[test]
fn a_volume_travels_across_kills_of_both_ends_and_leaves_nothing() {
    let (mut a, mut b) = (Node::new(), Node::new());
    let original = a.volume();
    let (wanted, id) = begin(&a, &b, Source::Volume(original));
    let lent = a.engine().lend(&Source::Volume(original), id, Bytes::MIB.times(8)).unwrap();
    assert!(!carry(&a, &lent, &b, id, 2));
    drop(lent);
    let before = std::fs::read(a.file("volumes", original)).unwrap();
    std::fs::File::options()
        .write(true)
        .open(a.file("volumes", original))
        .unwrap()
        .write_all_at(b"later", 1 << 20)
        .unwrap();
    assert!(matches!(b.engine().create_volume(&wanted), Err(Error::Busy(why)) if why.contains("of 8 MiB")));
    assert!(matches!(b.engine().create_volume(&want("copy", Source::Blank, 8)), Err(Error::Conflict(_))));
    assert!(b.engine().volumes(None, 9).is_empty() && b.engine().volume(&id).is_err(), "it is no volume yet");
    a.start();
    b.start();
    let lent = a.engine().lend(&Source::Volume(original), id, Bytes::MIB.times(8)).unwrap();
    assert_eq!(a.names("snapshots").len(), 1, "the cut of before");
    assert_eq!(a.engine().listed_snapshots(None, None, 9).unwrap(), []);
    let Receiving { done, .. } = going(b.engine().received(&wanted));
    assert_eq!(done, Bytes::MIB.times(4), "it goes on where it was");
    assert!(carry(&a, &lent, &b, id, 100));
    complete(&b, id);
    a.engine().take_back(lent).unwrap();
    assert!(matches!(b.engine().received(&wanted), Ok(Received::Whole(volume)) if volume.id == id));
    assert_eq!(b.engine().create_volume(&wanted).unwrap().id, id);
    assert!(std::fs::read(b.file("volumes", id)).unwrap() == before, "it is the source as it was cut");
    assert_eq!((a.names("snapshots").len(), a.names("tmp").len(), b.names("tmp").len()), (0, 0, 0));
    assert!(a.engine().on_its_way().is_empty() && b.engine().on_its_way().is_empty());
    let held =
        std::fs::metadata(b.file("volumes", id)).map(|file| std::os::unix::fs::MetadataExt::blocks(&file));
    assert!(held.unwrap() * 512 < 1 << 20, "what was a hole is one");
}

#[test]
fn a_snapshot_is_lent_as_it_is_and_stays() {
    let (a, b) = (Node::new(), Node::new());
    let original = a.volume();
    let source = a.cut(original);
    let (_, id) = begin(&a, &b, source);
    let lent = a.engine().lend(&source, id, Bytes::MIB.times(8)).unwrap();
    let Source::Snapshot(cut) = source else { unreachable!() };
    assert!(matches!(a.engine().delete_snapshot(&cut), Err(Error::Busy(_))), "it is being copied");
    assert!(carry(&a, &lent, &b, id, 100));
    complete(&b, id);
    a.engine().take_back(lent).unwrap();
    assert!(same(a.file("snapshots", cut), b.file("volumes", id)));
    a.engine().delete_snapshot(&cut).unwrap();
}

#[test]
fn what_has_its_place_is_whole_after_a_kill() {
    let (a, mut b) = (Node::new(), Node::new());
    let source = a.cut(a.volume());
    let (wanted, id) = begin(&a, &b, source);
    let lent = a.engine().lend(&source, id, Bytes::MIB.times(8)).unwrap();
    assert!(carry(&a, &lent, &b, id, 100));
    // The kill comes between the bytes and the record.
    let volume = going(b.engine().received(&wanted)).volume;
    b.engine().pool(b.pool()).unwrap().complete(&volume).unwrap();
    b.start();
    assert!(matches!(b.engine().received(&wanted), Ok(Received::Whole(volume)) if volume.id == id));
    // Or the record could not be written, and nothing was killed.
    b.engine().delete_volume(&id).unwrap();
    let (_, id) = begin(&a, &b, source);
    let lent = a.engine().lend(&source, id, Bytes::MIB.times(8)).unwrap();
    assert!(carry(&a, &lent, &b, id, 100));
    let volume = going(b.engine().received(&wanted)).volume;
    b.engine().pool(b.pool()).unwrap().complete(&volume).unwrap();
    assert!(
        matches!(b.engine().begin_receiving(&id, false), Err(Error::NotFound(_))),
        "there is nothing to begin"
    );
    assert!(matches!(b.engine().received(&wanted), Ok(Received::Whole(volume)) if volume.id == id));
    assert!(b.names("tmp").is_empty() && same(a.file("snapshots", cut_of(source)), b.file("volumes", id)));
}

fn cut_of(source: Source) -> SnapshotId {
    let Source::Snapshot(cut) = source else { unreachable!("it is a cut") };
    cut
}

#[test]
fn what_came_of_an_earlier_beginning_does_not_count() {
    let (a, b) = (Node::new(), Node::new());
    let source = a.cut(a.volume());
    let (_, id) = begin(&a, &b, source);
    let lent = a.engine().lend(&source, id, Bytes::MIB.times(8)).unwrap();
    let before = b.engine().begin_receiving(&id, false).unwrap();
    // Never made durable, and of something else.
    b.engine().fill(&id, before.session, &Piece::of(5 << 20, &[9; WINDOW]).unwrap()).unwrap();
    assert!(!carry(&a, &lent, &b, id, 2));
    let piece = a.engine().part(&lent, 0).unwrap().piece.unwrap();
    let late = [
        b.engine().fill(&id, before.session, &piece),
        b.engine().harden(&id, before.session, Bytes::MIB.times(6), 1),
        b.engine().complete_received(&id, before.session),
    ];
    assert!(late.iter().all(|late| matches!(late, Err(Error::NotFound(_)))), "{late:?}");
    assert_eq!(b.engine().begin_receiving(&id, false).unwrap().done, Bytes::MIB.times(4));
    assert!(carry(&a, &lent, &b, id, 100));
    complete(&b, id);
    assert!(
        same(a.file("snapshots", cut_of(source)), b.file("volumes", id)),
        "where nothing came there is nothing"
    );
}

#[test]
fn what_can_never_be_whole_is_abandoned_and_what_is_whole_stays() {
    let (a, b) = (Node::new(), Node::new());
    let source = a.cut(a.volume());
    let (wanted, id) = begin(&a, &b, source);
    assert_eq!(b.engine().abandon(&id).unwrap(), None);
    assert!(b.names("tmp").is_empty() && b.names("records").is_empty());
    assert_eq!(b.engine().abandon(&id).unwrap(), None, "it is gone already");
    let (_, id) = begin(&a, &b, source);
    let lent = a.engine().lend(&source, id, Bytes::MIB.times(8)).unwrap();
    assert!(carry(&a, &lent, &b, id, 100));
    complete(&b, id);
    // A controller that was asleep meanwhile.
    assert_eq!(b.engine().abandon(&id).unwrap().unwrap().id, id);
    assert!(matches!(b.engine().received(&wanted), Ok(Received::Whole(volume)) if volume.id == id));
}

#[test]
fn a_volume_without_a_record_is_not_taken_for_debris() {
    let (a, mut b) = (Node::new(), Node::new());
    let source = a.cut(a.volume());
    let (_, id) = begin(&a, &b, source);
    let lent = a.engine().lend(&source, id, Bytes::MIB.times(8)).unwrap();
    assert!(carry(&a, &lent, &b, id, 100));
    complete(&b, id);
    std::fs::write(b.setup.path.join("tmp").join(format!("{id}.part")), "x").unwrap();
    let record = b.names("records").into_iter().find(|name| name.contains(&id.to_string())).unwrap();
    std::fs::remove_file(b.file("records", record)).unwrap();
    b.start();
    assert!(b.file("volumes", id).exists(), "its bytes are somebody's");
}

#[test]
fn a_copy_that_meets_its_source_is_cloned_there() {
    let node = Node::new();
    let original = node.volume();
    let (wanted, id) = begin(&node, &node, Source::Volume(original));
    assert!(
        matches!(node.engine().create_volume(&wanted), Err(Error::Busy(why)) if why.contains("its source"))
    );
    assert!(node.names("tmp").is_empty());
    let copy = node.engine().create_volume(&wanted).unwrap().id;
    assert!(copy != id && same(node.file("volumes", original), node.file("volumes", copy)));
}

#[test]
fn a_cut_for_one_copy_is_not_lent_to_another_source() {
    let (a, b) = (Node::new(), Node::new());
    let original = a.volume();
    let other = a.engine().create_volume(&want("other", Source::Blank, 8)).unwrap().id;
    let (_, id) = begin(&a, &b, Source::Volume(original));
    let size = Bytes::MIB.times(8);
    let lent = a.engine().lend(&Source::Volume(original), id, size).unwrap();
    let stolen = a.engine().lend(&Source::Volume(other), id, size).unwrap();
    assert!(a.engine().part(&lent, 0).unwrap().piece.is_some());
    assert!(a.engine().part(&stolen, 0).unwrap().piece.is_none(), "it is a cut of that volume");
    a.engine().take_back(stolen).unwrap();
    a.engine().take_back(lent).unwrap();
    assert!(a.names("snapshots").is_empty());
}

#[test]
fn what_is_begun_can_be_deleted_and_given_up() {
    let (a, mut b) = (Node::new(), Node::new());
    let original = a.volume();
    let (wanted, id) = begin(&a, &b, Source::Volume(original));
    let lent = a.engine().lend(&Source::Volume(original), id, Bytes::MIB.times(8)).unwrap();
    assert!(!carry(&a, &lent, &b, id, 1));
    let promised = b.engine().pools()[0].promised;
    assert_eq!(promised, Bytes::MIB.times(8), "it is promised from the beginning on");
    let session = b.engine().begin_receiving(&id, false).unwrap().session;
    assert!(b.engine().stop_receiving(&id));
    let piece = a.engine().part(&lent, 0).unwrap().piece.unwrap();
    assert!(matches!(b.engine().fill(&id, session, &piece), Err(Error::NotFound(_))));
    b.engine().delete_volume(&id).unwrap();
    assert!(b.names("tmp").is_empty() && b.names("records").is_empty());
    assert!(matches!(b.engine().received(&wanted), Err(Error::NotFound(_))));
    assert_eq!(b.engine().pools()[0].promised, Bytes::ZERO);
    // What is in use stays, and what nobody asks for any more goes.
    a.engine().end_journeys_after(a.pool(), Duration::ZERO, Duration::ZERO);
    assert_eq!(a.names("snapshots").len(), 1, "it is being read");
    drop(lent);
    a.engine().end_journeys_after(a.pool(), Duration::ZERO, Duration::from_secs(60));
    assert_eq!(a.names("snapshots").len(), 1, "its time is not over");
    a.engine().end_journeys_after(a.pool(), Duration::ZERO, Duration::ZERO);
    assert!(a.names("snapshots").is_empty());
    let (wanted, id) = begin(&a, &b, Source::Volume(original));
    let lent = a.engine().lend(&Source::Volume(original), id, Bytes::MIB.times(8)).unwrap();
    let (short, long) = (Duration::from_millis(50), Duration::from_secs(60));
    std::thread::sleep(short);
    b.engine().received(&wanted).unwrap();
    assert!(!carry(&a, &lent, &b, id, 1));
    b.engine().end_journeys_after(b.pool(), short, long);
    assert_eq!(b.names("records").len(), 1, "somebody has asked for it");
    std::thread::sleep(short);
    assert!(!carry(&a, &lent, &b, id, 1));
    b.engine().end_journeys_after(b.pool(), short, long);
    assert!(b.names("records").is_empty() && b.names("tmp").is_empty(), "it comes, and nobody wants it");
    a.engine().take_back(lent).unwrap();
    let (_, id) = begin(&a, &b, Source::Volume(original));
    b.start();
    assert_eq!(b.names("tmp"), [format!("{id}.part")], "it outlasts a start");
    b.engine().end_journeys_after(b.pool(), Duration::ZERO, Duration::ZERO);
    assert!(b.names("tmp").is_empty() && b.names("records").is_empty());
    // A power cut brings back what has no record any more.
    std::fs::write(b.setup.path.join("tmp").join(format!("{id}.part")), "x").unwrap();
    b.start();
    assert!(b.names("tmp").is_empty());
}

#[test]
fn what_was_received_and_is_gone_comes_again_from_its_beginning() {
    let (a, b) = (Node::new(), Node::new());
    let source = a.cut(a.volume());
    let (_, id) = begin(&a, &b, source);
    let lent = a.engine().lend(&source, id, Bytes::MIB.times(8)).unwrap();
    assert!(!carry(&a, &lent, &b, id, 2));
    std::fs::remove_file(b.setup.path.join("tmp").join(format!("{id}.part"))).unwrap();
    assert_eq!(b.engine().begin_receiving(&id, false).unwrap().done, Bytes::ZERO);
    assert!(!carry(&a, &lent, &b, id, 2));
    let anew = b.engine().begin_receiving(&id, true).unwrap();
    assert_eq!((anew.done, anew.digest), (Bytes::ZERO, 0));
    assert!(carry(&a, &lent, &b, id, 100));
    let far = Piece::of(8 << 20, &[1; WINDOW]).unwrap();
    let session = b.engine().begin_receiving(&id, false).unwrap().session;
    assert!(matches!(b.engine().fill(&id, session, &far), Err(Error::Invalid(_))));
    complete(&b, id);
}

#[test]
fn what_cannot_be_held_is_a_lack_of_room_and_leaves_nothing() {
    let (a, b) = (Node::new(), Node::new());
    let source = a.cut(a.volume());
    let origin = a.engine().elsewhere(&source).unwrap();
    let index = PoolIndex(0);
    let shared = Elsewhere { access: Access::Mount { fs: crate::model::Filesystem::Shared }, ..origin };
    let other = b.engine().create_volume(&want("other", Source::Blank, 100)).unwrap().id;
    let refused = [
        b.engine().receive_at(index, &want("copy", source, 8), &shared),
        b.engine().receive_at(index, &want("copy", source, 900), &origin),
    ];
    b.engine().delete_volume(&other).unwrap();
    for refused in refused {
        assert!(matches!(refused, Err(Error::Full(_))), "{refused:?}");
    }
    assert!(matches!(b.engine().choose_to_receive(&want("copy", source, 8), &shared), Err(Error::Full(_))));
    let elsewhere = CreateVolume { pool: Some("other".to_owned()), ..want("copy", source, 8) };
    assert!(matches!(b.engine().choose_to_receive(&elsewhere, &origin), Err(Error::Full(_))));
    let small = b.engine().receive_at(index, &want("copy", source, 4), &origin);
    assert!(matches!(small, Err(Error::OutOfRange(_))), "{small:?}");
    assert!(b.names("tmp").is_empty() && b.names("records").is_empty());
    assert!(DEFAULT_SIZE > origin.size);
}
