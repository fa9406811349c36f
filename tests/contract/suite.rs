//! What each promise of the contract means. Every function gets a pool of its own, and knows no kind.
//!
//! Where a pool lacks what a promise is about, the function returns: that it then *says* so is a promise of its own,
//! `what_is_missing_is_refused_with_the_reason`.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rockpool::error::{Error, Result};
use rockpool::model::{
    Access, Age, Allocation, Bytes, Filesystem, Group, GroupId, ObjectId, Offer, Phase, Piece, Record,
    Snapshot, SnapshotId, Source, UNIT, Volume, VolumeId,
};
use rockpool::pool::{Attach, Attached, Found, Kind, Severity, Thaw};

use super::ground::{Ground, backed_by, cut, eventually, length, run};

/// What lies in the pool, in a stable order.
fn scanned(on: &Ground) -> Vec<Found> {
    let mut found = on.pool.scan().unwrap();
    found.sort_by_key(|found| format!("{found:?}"));
    found
}

fn volumes(volumes: &[&Volume]) -> Vec<Found> {
    let mut found: Vec<_> = volumes.iter().map(|volume| Found::Volume(volume.id, volume.size)).collect();
    found.sort_by_key(|found| format!("{found:?}"));
    found
}

fn free(on: &Ground) -> Bytes {
    on.pool.usage().unwrap().free
}

#[track_caller]
fn lost<T: std::fmt::Debug>(outcome: Result<T>) {
    assert!(matches!(outcome, Err(Error::Corrupt(_))), "{outcome:?}");
}

#[track_caller]
fn refused_as<T>(outcome: Result<T>, offer: &Offer) {
    let Offer::No(reason) = offer else { panic!("it is offered") };
    match outcome {
        Err(Error::Unsupported(text)) => assert_eq!(&text, reason),
        Err(other) => panic!("not refused as unsupported: {other:?}"),
        Ok(_) => panic!("not refused: {reason}"),
    }
}

pub(crate) fn create_is_idempotent(on: &Ground) {
    let volume = on.made();
    on.pool.create(&volume).unwrap();
    on.pool.create(&volume).unwrap();
    assert_eq!(scanned(on), volumes(&[&volume]));
}

pub(crate) fn create_twice_keeps_bytes(on: &Ground) {
    let volume = on.made();
    on.put(&volume.id, 3, 7);
    on.pool.create(&volume).unwrap();
    assert_eq!(on.look(&volume.id, 3), 7);
}

pub(crate) fn a_new_volume_is_empty(on: &Ground) {
    let volume = on.made();
    assert!((0..8).all(|slot| on.look(&volume.id, slot) == 0));
}

pub(crate) fn destroy_of_absent_is_ok(on: &Ground) {
    on.pool.destroy(&on.volume().id).unwrap();
    let volume = on.made();
    on.put(&volume.id, 0, 1);
    on.pool.destroy(&volume.id).unwrap();
    on.pool.destroy(&volume.id).unwrap();
    assert_eq!(scanned(on), []);
}

pub(crate) fn destroy_removes_half_made(on: &Ground) {
    let (half, whole) = (on.volume(), on.made());
    if !on.leave_half_made(half.id) {
        return;
    }
    // The same name both whole and half made, as a crash in the middle of a removal leaves it.
    on.leave_half_made(whole.id);
    assert_eq!(scanned(on).iter().filter(|found| matches!(found, Found::Debris(_))).count(), 2);
    on.pool.destroy(&half.id).unwrap();
    on.pool.destroy(&whole.id).unwrap();
    assert_eq!(scanned(on), []);
    assert!(fs::metadata("/etc").is_ok(), "a symlink was followed");
}

pub(crate) fn a_retry_replaces_what_is_half_made(on: &Ground) {
    let volume = on.volume();
    on.leave_half_made(volume.id);
    on.pool.create(&volume).unwrap();
    assert_eq!(scanned(on), volumes(&[&volume]));
    assert_eq!(on.look(&volume.id, 0), 0);
}

pub(crate) fn forget_of_absent_is_ok_and_removes_half_made(on: &Ground) {
    let id = on.snapshot_id();
    on.pool.forget(&id).unwrap();
    if !on.snapshots() {
        return;
    }
    let volume = on.made();
    on.leave_half_made(id);
    on.pool.snapshot(&cut(id, volume.id)).unwrap();
    on.leave_half_made(id);
    on.pool.forget(&id).unwrap();
    on.pool.forget(&id).unwrap();
    assert_eq!(scanned(on), volumes(&[&volume]));
}

pub(crate) fn what_is_not_there_is_lost(on: &Ground) {
    let absent = on.volume();
    lost(on.pool.grow(&absent.id, absent.size));
    lost(on.pool.attach(&absent.id, on.how()));
    on.pool.detach(&absent.id).unwrap();
    if on.snapshots() {
        lost(on.pool.snapshot(&cut(on.snapshot_id(), absent.id)));
        lost(on.pool.create(&on.copy_of(Source::Volume(absent.id), &absent)));
        lost(on.pool.create(&on.copy_of(Source::Snapshot(on.snapshot_id()), &absent)));
    }
    assert_eq!(scanned(on), []);
}

pub(crate) fn snapshot_outlives_its_volume(on: &Ground) {
    if !on.snapshots() {
        return;
    }
    let (volume, id) = (on.made(), on.snapshot_id());
    on.put(&volume.id, 1, 11);
    let held = on.pool.snapshot(&cut(id, volume.id)).unwrap();
    assert!(held >= Bytes::KIB.times(64), "{held} cannot hold what was written");
    on.pool.destroy(&volume.id).unwrap();
    assert_eq!(scanned(on), [Found::Snapshot(id, volume.size)]);
    let restored = on.copy_of(Source::Snapshot(id), &volume);
    on.pool.create(&restored).unwrap();
    assert_eq!(on.look(&restored.id, 1), 11);
    on.pool.forget(&id).unwrap();
    assert_eq!(on.look(&restored.id, 1), 11, "a restore needs its snapshot no more");
    assert_eq!(scanned(on), volumes(&[&restored]));
}

pub(crate) fn a_snapshot_twice_is_one_cut(on: &Ground) {
    if !on.snapshots() {
        return;
    }
    let (volume, id) = (on.made(), on.snapshot_id());
    on.put(&volume.id, 0, 1);
    let held = on.pool.snapshot(&cut(id, volume.id)).unwrap();
    on.put(&volume.id, 0, 2);
    on.put(&volume.id, 5, 2);
    assert_eq!(on.pool.snapshot(&cut(id, volume.id)).unwrap(), held);
    on.pool.destroy(&volume.id).unwrap();
    assert_eq!(on.pool.snapshot(&cut(id, volume.id)).unwrap(), held, "a retry after the source is gone");
    let restored = on.copy_of(Source::Snapshot(id), &volume);
    on.pool.create(&restored).unwrap();
    assert_eq!((on.look(&restored.id, 0), on.look(&restored.id, 5)), (1, 0));
}

pub(crate) fn clone_shares_no_writable_byte(on: &Ground) {
    if !on.snapshots() {
        return;
    }
    let (volume, id) = (on.made(), on.snapshot_id());
    (0..3).for_each(|slot| on.put(&volume.id, slot, 1));
    on.pool.snapshot(&cut(id, volume.id)).unwrap();
    let clone = on.copy_of(Source::Volume(volume.id), &volume);
    on.pool.create(&clone).unwrap();
    on.put(&volume.id, 0, 2);
    on.put(&clone.id, 1, 3);
    let restored = on.copy_of(Source::Snapshot(id), &volume);
    on.pool.create(&restored).unwrap();
    on.put(&restored.id, 2, 4);
    let shown = |id: &VolumeId| [0, 1, 2].map(|slot| on.look(id, slot));
    assert_eq!(shown(&volume.id), [2, 1, 1]);
    assert_eq!(shown(&clone.id), [1, 3, 1]);
    assert_eq!(shown(&restored.id), [1, 1, 4]);
    let again = on.copy_of(Source::Snapshot(id), &volume);
    on.pool.create(&again).unwrap();
    assert_eq!(shown(&again.id), [1, 1, 1], "the snapshot itself stays as it was cut");
}

pub(crate) fn clone_outlives_its_source(on: &Ground) {
    if !on.snapshots() {
        return;
    }
    let volume = on.made();
    on.put(&volume.id, 2, 9);
    let clone = on.copy_of(Source::Volume(volume.id), &volume);
    on.pool.create(&clone).unwrap();
    on.pool.destroy(&volume.id).unwrap();
    on.pool.create(&clone).unwrap();
    assert_eq!(on.look(&clone.id, 2), 9);
    assert_eq!(scanned(on), volumes(&[&clone]));
}

pub(crate) fn clone_larger_than_source_has_the_size(on: &Ground) {
    if !on.snapshots() {
        return;
    }
    let volume = on.made();
    on.put(&volume.id, 0, 5);
    let size = volume.size.checked_add(Bytes::MIB.times(8)).unwrap();
    let clone = Volume { size, ..on.copy_of(Source::Volume(volume.id), &volume) };
    on.pool.create(&clone).unwrap();
    assert_eq!(scanned(on), volumes(&[&volume, &clone]));
    assert_eq!(on.look(&clone.id, 0), 5);
    if on.has_devices() {
        assert_eq!(length(&on.device(&clone.id, on.how())), size.get());
        on.pool.detach(&clone.id).unwrap();
    }
    let size = volume.size.less(UNIT);
    let smaller = Volume { size, ..on.copy_of(Source::Volume(volume.id), &volume) };
    let outcome = on.pool.create(&smaller);
    assert!(matches!(outcome, Err(Error::OutOfRange(_))), "{outcome:?}");
    assert_eq!(scanned(on), volumes(&[&volume, &clone]));
}

pub(crate) fn restore_equals_the_cut(on: &Ground) {
    if !on.snapshots() {
        return;
    }
    let (volume, id) = (on.made(), on.snapshot_id());
    [(0, 1), (1, 2), (2, 3)].iter().for_each(|(slot, byte)| on.put(&volume.id, *slot, *byte));
    on.pool.snapshot(&cut(id, volume.id)).unwrap();
    [(1, 8), (3, 9)].iter().for_each(|(slot, byte)| on.put(&volume.id, *slot, *byte));
    let restored = on.copy_of(Source::Snapshot(id), &volume);
    on.pool.create(&restored).unwrap();
    assert_eq!([0, 1, 2, 3].map(|slot| on.look(&restored.id, slot)), [1, 2, 3, 0]);
    assert_eq!([0, 1, 2, 3].map(|slot| on.look(&volume.id, slot)), [1, 8, 3, 9]);
}

/// The record of a volume whose content comes from elsewhere.
fn begun(on: &Ground, like: &Volume, id: SnapshotId) -> Volume {
    let phase = Phase::Receiving { done: Bytes::ZERO, digest: 0 };
    Volume { phase, ..on.copy_of(Source::Snapshot(id), like) }
}

/// The pieces of a snapshot, in their order.
fn pieces(on: &Ground, id: &SnapshotId, size: Bytes) -> Vec<Piece> {
    let (mut next, mut all) = (0, Vec::new());
    while next < size.get() {
        let part = on.pool.part(id, next).unwrap();
        assert!(part.next > next, "it gets on");
        next = part.next;
        all.extend(part.piece);
    }
    all
}

pub(crate) fn content_comes_in_pieces_and_equals_the_cut(on: &Ground) {
    let (volume, id) = (on.made(), on.snapshot_id());
    if !on.snapshots() {
        if on.pool.kind() == Kind::Directory {
            for refused in [on.pool.begin(&begun(on, &volume, id)), on.pool.part(&id, 0).map(drop)] {
                assert!(matches!(refused, Err(Error::Unsupported(_))), "{refused:?}");
            }
        }
        return;
    }
    [(0, 1), (2, 3)].iter().for_each(|(slot, byte)| on.put(&volume.id, *slot, *byte));
    on.pool.snapshot(&cut(id, volume.id)).unwrap();
    on.put(&volume.id, 0, 9);
    let copy = begun(on, &volume, id);
    on.pool.begin(&copy).unwrap();
    for piece in pieces(on, &id, volume.size) {
        on.pool.fill(&copy.id, &piece).unwrap();
    }
    on.pool.harden(&copy.id).unwrap();
    assert_eq!(on.pool.begun().unwrap(), [copy.id]);
    let is_shown = || scanned(on).contains(&Found::Volume(copy.id, copy.size));
    assert!(!is_shown(), "it is no volume yet");
    on.pool.complete(&copy).unwrap();
    on.pool.complete(&copy).unwrap();
    assert!(is_shown() && on.pool.begun().unwrap().is_empty());
    assert_eq!([0, 1, 2].map(|slot| on.look(&copy.id, slot)), [1, 0, 3]);
    on.put(&copy.id, 1, 7);
    let restored = on.copy_of(Source::Snapshot(id), &volume);
    on.pool.create(&restored).unwrap();
    assert_eq!(
        [0, 1, 2].map(|slot| on.look(&restored.id, slot)),
        [1, 0, 3],
        "it shares nothing with the cut"
    );
}

pub(crate) fn what_has_come_stays_and_goes_with_its_volume(on: &Ground) {
    if !on.snapshots() {
        return;
    }
    let (volume, id) = (on.made(), on.snapshot_id());
    on.put(&volume.id, 1, 5);
    on.pool.snapshot(&cut(id, volume.id)).unwrap();
    let copy = begun(on, &volume, id);
    let last = Bytes::new(64 << 10);
    let later =
        Volume { phase: Phase::Receiving { done: volume.size.less(last), digest: 7 }, ..copy.clone() };
    let lost = on.pool.begin(&later);
    assert!(matches!(lost, Err(Error::Corrupt(_))), "nothing of it is there: {lost:?}");
    assert!(on.pool.fill(&copy.id, &pieces(on, &id, volume.size)[0]).is_err());
    on.pool.begin(&copy).unwrap();
    pieces(on, &id, volume.size).iter().for_each(|piece| on.pool.fill(&copy.id, piece).unwrap());
    // Of the pieces behind what counts nobody knows whether they are durable, or what the source has there now.
    let window = [vec![0; (1 << 20) - (64 << 10)], vec![9; 64 << 10]].concat();
    let loose = Piece::of(volume.size.less(Bytes::MIB).get(), &window).unwrap();
    on.pool.fill(&copy.id, &loose).unwrap();
    on.pool.begin(&later).unwrap();
    on.pool.complete(&later).unwrap();
    let again = on.snapshot_id();
    on.pool.snapshot(&cut(again, copy.id)).unwrap();
    let texts = |id| pieces(on, &id, volume.size).iter().map(Piece::encode).collect::<Vec<_>>();
    assert!(texts(again) == texts(id), "what was there counts, and nothing else");
    assert_eq!(on.look(&copy.id, 1), 5);
    let other = begun(on, &volume, id);
    on.pool.begin(&other).unwrap();
    on.pool.destroy(&other.id).unwrap();
    on.pool.destroy(&other.id).unwrap();
    assert!(on.pool.begun().unwrap().is_empty() && on.pool.complete(&other).is_err());
    let reserved = Volume { allocation: Allocation::Reserved, ..begun(on, &volume, id) };
    on.pool.begin(&reserved).unwrap();
    let before = on.pool.usage().unwrap().free;
    on.pool.destroy(&reserved.id).unwrap();
    let given = || on.pool.usage().unwrap().free.less(before);
    eventually("what was taken from the beginning on comes back", || given() >= volume.size.less(Bytes::MIB));
}

pub(crate) fn grow_never_shrinks(on: &Ground) {
    let volume = on.made();
    on.put(&volume.id, 1, 6);
    let larger = volume.size.checked_add(Bytes::MIB.times(4)).unwrap();
    for ask in [larger, larger, volume.size, Bytes::ZERO] {
        assert_eq!(on.pool.grow(&volume.id, ask).unwrap(), larger, "asked for {ask}");
        assert_eq!(scanned(on), [Found::Volume(volume.id, larger)]);
    }
    let odd = larger.checked_add(Bytes::new(1)).unwrap();
    let real = on.pool.grow(&volume.id, odd).unwrap();
    assert!(real >= odd && real.round_down(UNIT) == real, "{real:?}");
    assert_eq!(scanned(on), [Found::Volume(volume.id, real)]);
    assert_eq!(on.look(&volume.id, 1), 6);
}

pub(crate) fn an_attached_device_grows(on: &Ground) {
    if !on.has_devices() {
        return;
    }
    let volume = on.made();
    let device = on.device(&volume.id, on.how());
    let larger = volume.size.checked_add(Bytes::MIB.times(4)).unwrap();
    assert_eq!(on.pool.grow(&volume.id, larger).unwrap(), larger);
    assert_eq!(length(&device), larger.get());
    drop(device);
    on.pool.detach(&volume.id).unwrap();
}

pub(crate) fn sizes_are_exact(on: &Ground) {
    let odd = |volume: &Volume| volume.size.checked_add(UNIT.times(3)).unwrap();
    let first = on.volume();
    let volume = Volume { size: odd(&first), ..first };
    on.pool.create(&volume).unwrap();
    assert_eq!(scanned(on), volumes(&[&volume]));
    if on.has_devices() {
        assert_eq!(length(&on.device(&volume.id, on.how())), volume.size.get());
        on.pool.detach(&volume.id).unwrap();
    }
}

/// Where this kind reserves: a volume of a gibibyte, sparse or not.
fn large(on: &Ground, allocation: Allocation) -> Option<Volume> {
    let able = on.pool.features().reserved.is_yes();
    able.then(|| Volume { size: Bytes::GIB, allocation, ..on.volume() })
}

pub(crate) fn reserved_space_is_taken(on: &Ground) {
    let Some(volume) = large(on, Allocation::Reserved) else { return };
    let before = free(on);
    let taken = |bytes: Bytes| {
        // Something small from before may have come free meanwhile.
        let taken = before.less(free(on));
        assert!(taken >= bytes.less(Bytes::MIB), "{taken} of {bytes} are taken");
    };
    on.pool.create(&volume).unwrap();
    taken(Bytes::GIB);
    on.put(&volume.id, 0, 1);
    let larger = Bytes::GIB.times(2);
    on.pool.grow(&volume.id, larger).unwrap();
    taken(larger);
    on.pool.destroy(&volume.id).unwrap();
    eventually("the space comes back", || before.less(free(on)) < Bytes::MIB);
}

pub(crate) fn sparse_space_is_not(on: &Ground) {
    let Some(volume) = large(on, Allocation::Sparse) else { return };
    let before = free(on);
    on.pool.create(&volume).unwrap();
    assert!(before.less(free(on)) < Bytes::MIB.times(100), "{} are taken", before.less(free(on)));
}

/// What a device cannot hold anyway, a directory must be kept from.
pub(crate) fn a_limited_directory_holds_no_more_than_its_size(on: &Ground) {
    if on.pool.kind() != Kind::Directory || !on.pool.features().size_limit.is_yes() {
        return;
    }
    let (volume, other) = (on.made(), on.made());
    let written = |id: &VolumeId| {
        let mut written = Bytes::ZERO;
        on.with_file(id, 0, |file| {
            let chunk = Bytes::KIB.times(64);
            while file.write_all(&[1; 64 << 10]).and_then(|()| file.sync_all()).is_ok() {
                written = written.checked_add(chunk).unwrap();
                assert!(written < Bytes::GIB, "nothing stops it");
            }
        });
        written
    };
    let slack = Bytes::KIB.times(128);
    let held = written(&volume.id);
    assert!(held <= volume.size && held >= volume.size.less(slack), "{held} of {}", volume.size);
    let used = on.pool.consumed(&volume.id).unwrap().unwrap();
    assert!(used.bytes >= held && used.inodes == 2, "{used:?}");
    let larger = volume.size.times(4);
    assert_eq!(on.pool.grow(&volume.id, larger).unwrap(), larger);
    let held = written(&volume.id);
    assert!(held <= larger && held >= larger.less(slack), "{held} of {larger}");
    assert_eq!(on.pool.consumed(&other.id).unwrap().unwrap().inodes, 1, "a limit of its own");
    assert_eq!((on.pool.health(Some(&volume.id)), on.pool.health(Some(&other.id))), (vec![], vec![]));
}

pub(crate) fn a_full_pool_says_full_and_leaves_nothing(on: &Ground) {
    if on.pool.kind() == Kind::Directory && on.pool.features().size_limit.is_yes() {
        // Its filesystem has inodes for more volumes than a test can make.
        return;
    }
    let kept = on.made();
    on.put(&kept.id, 0, 1);
    let before = free(on);
    let mut made = vec![kept.clone()];
    let outcome = if let Some(volume) = large(on, Allocation::Reserved) {
        on.pool.create(&Volume { size: before.checked_add(Bytes::GIB).unwrap().round_down(UNIT), ..volume })
    } else {
        // Nothing is reserved, so only many volumes fill it.
        loop {
            let volume = on.volume();
            match on.pool.create(&volume) {
                Ok(()) if made.len() < 200 => made.push(volume),
                other => break other,
            }
        }
    };
    assert!(matches!(outcome, Err(Error::Full(_))), "{outcome:?}");
    assert_eq!(scanned(on), volumes(&made.iter().collect::<Vec<_>>()));
    made.iter().skip(1).for_each(|volume| on.pool.destroy(&volume.id).unwrap());
    eventually("the space is as before", || before.less(free(on)) < Bytes::MIB);
    let next = on.made();
    assert_eq!(scanned(on), volumes(&[&kept, &next]));
    assert_eq!(on.look(&kept.id, 0), 1);
}

pub(crate) fn a_verb_that_fails_leaves_nothing(on: &Ground) {
    let Some(root) = on.root() else { return };
    let (kept, volume, id) = (on.made(), on.volume(), on.snapshot_id());
    // The last step, the rename into place, fails.
    let places = [root.join("volumes"), root.join("snapshots")];
    let chattr = |flag: &str| {
        places.iter().for_each(|place| run(["chattr".as_ref(), flag.as_ref(), place.as_os_str()]))
    };
    chattr("+i");
    let outcomes = [on.pool.create(&volume), on.pool.snapshot(&cut(id, kept.id)).map(drop)];
    let found = scanned(on);
    chattr("-i");
    assert!(outcomes.iter().all(|outcome| outcome.is_err()), "{outcomes:?}");
    assert_eq!(found, volumes(&[&kept]));
    on.pool.create(&volume).unwrap();
    assert_eq!(scanned(on), volumes(&[&kept, &volume]));
}

pub(crate) fn scan_reports_exactly_what_is_there(on: &Ground) {
    assert_eq!(scanned(on), []);
    let (first, second) = (on.made(), on.made());
    let mut expected = volumes(&[&first, &second]);
    if on.snapshots() {
        let id = on.snapshot_id();
        on.pool.snapshot(&cut(id, first.id)).unwrap();
        expected.push(Found::Snapshot(id, first.size));
    }
    let half = on.volume().id;
    if on.leave_half_made(half) {
        expected.push(Found::Debris(format!("tmp/{half}")));
    }
    if let Some(root) = on.root() {
        for name in ["stranger", "volumes/stranger", "volumes/v1.0123.x", "snapshots/stranger"] {
            fs::write(root.join(name), "from elsewhere").unwrap();
            expected.push(Found::Foreign(name.to_owned()));
        }
        let link = format!("volumes/{}", on.volume().id);
        std::os::unix::fs::symlink("/etc", root.join(&link)).unwrap();
        expected.push(Found::Foreign(link));
    }
    expected.sort_by_key(|found| format!("{found:?}"));
    assert_eq!(scanned(on), expected);
}

pub(crate) fn attach_is_idempotent_and_detach_frees(on: &Ground) {
    let volume = on.made();
    if on.sim().is_some() {
        let outcome = on.pool.attach(&volume.id, on.how());
        assert!(matches!(outcome, Err(Error::Unsupported(_))), "{outcome:?}");
        return;
    }
    if !on.has_devices() {
        let inode = |attached| match attached {
            Attached::Directory(dir) => dir.identity().unwrap().inode,
            Attached::Device(_) => panic!("a device, where a directory was expected"),
        };
        let attach = || inode(on.pool.attach(&volume.id, on.how()).unwrap());
        assert_eq!(attach(), attach());
        return on.pool.detach(&volume.id).unwrap();
    }
    assert!(on.pool.attached(&volume.id, on.how()).unwrap().is_none());
    let (first, second) = (on.device(&volume.id, on.how()), on.device(&volume.id, on.how()));
    assert_eq!((&first.path, first.number), (&second.path, second.number));
    match on.pool.attached(&volume.id, on.how()).unwrap() {
        Some(Attached::Device(device)) => assert_eq!(device.number, first.number),
        other => panic!("attached is {other:?}"),
    }
    assert_eq!(backed_by(volume.id.to_string()), std::slice::from_ref(&first.path));
    drop((first, second));
    on.pool.detach(&volume.id).unwrap();
    on.pool.detach(&volume.id).unwrap();
    eventually("the loop device goes", || backed_by(volume.id.to_string()).is_empty());
    assert!(on.pool.attached(&volume.id, on.how()).unwrap().is_none());
}

pub(crate) fn a_readonly_block_refuses_writes(on: &Ground) {
    if !on.has_devices() || on.access != Access::Block {
        return;
    }
    let volume = on.made();
    on.put(&volume.id, 0, 1);
    let device = on.device(&volume.id, Attach::BlockReadOnly);
    let mut bytes = [0; 4096];
    File::open(&device.path).unwrap().read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, [1; 4096]);
    let written = OpenOptions::new().write(true).open(&device.path).and_then(|mut file| {
        file.write_all(&[2; 4096])?;
        file.sync_all()
    });
    assert!(written.is_err(), "a read-only device took a write");
    drop(device);
    on.pool.detach(&volume.id).unwrap();
    assert_eq!(on.look(&volume.id, 0), 1);
}

pub(crate) fn deleted_data_is_not_readable_by_the_next_volume(on: &Ground) {
    // Reserved, where that is possible: such a volume gets blocks that were written before.
    let next = || Volume {
        allocation: if on.pool.features().reserved.is_yes() {
            Allocation::Reserved
        } else {
            Allocation::Sparse
        },
        ..on.volume()
    };
    for round in 0..4 {
        let volume = next();
        on.pool.create(&volume).unwrap();
        for slot in 0..8 {
            assert_eq!(on.look(&volume.id, slot), 0, "slot {slot} of round {round}");
        }
        if on.has_devices() {
            let device = on.device(&volume.id, on.how());
            let mut reader = File::open(&device.path).unwrap();
            let mut block = [0; 4096];
            while reader.read_exact(&mut block).is_ok() {
                assert_ne!(block, [0xa5; 4096], "the bytes of an earlier volume");
            }
            drop((reader, device));
            on.pool.detach(&volume.id).unwrap();
        }
        (0..8).for_each(|slot| on.put(&volume.id, slot, 0xa5));
        on.pool.destroy(&volume.id).unwrap();
    }
}

/// Calls `write` in a thread, and `release` when it has been blocked for a while; says whether it went on then.
fn blocked_until(write: impl FnOnce() + Send + 'static, release: impl FnOnce()) -> bool {
    let (begin, begun) = channel();
    let (done, finished) = channel();
    let writer = std::thread::spawn(move || {
        begin.send(()).unwrap();
        write();
        let _ = done.send(());
    });
    begun.recv().unwrap();
    // Who has begun and is only slow has written long before.
    let blocked = finished.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout);
    release();
    finished.recv_timeout(Duration::from_secs(20)).unwrap();
    writer.join().unwrap();
    blocked
}

/// Not `Busy`, which would make the caller ask at once again: a backup hook may keep it frozen for long.
fn frozen_already(on: &Ground, id: VolumeId) {
    let outcome = on.pool.freeze(&[id]).map(|_| ());
    assert!(matches!(outcome, Err(Error::Precondition(_))), "{outcome:?}");
}

pub(crate) fn a_freeze_blocks_writes_and_thaws_on_drop(on: &Ground) {
    if let Some(sim) = on.sim().map(Arc::clone) {
        let id = on.made().id;
        let thaw = on.pool.freeze(&[id]).unwrap();
        frozen_already(on, id);
        assert!(blocked_until(move || sim.write(&id, 0, &[1]).unwrap(), || drop(thaw)));
        return;
    }
    if !on.has_devices() || on.access == Access::Block {
        return;
    }
    let volume = on.made();
    let mounted = on.mounted(&volume.id);
    let file = mounted.path().join("written-while-frozen");
    let thaw = on.pool.freeze(&[volume.id, on.made().id]).unwrap();
    frozen_already(on, volume.id);
    assert!(blocked_until(move || fs::write(file, "late").unwrap(), || drop(thaw)));
    on.pool.freeze(&[volume.id]).unwrap().thaw().unwrap();
    let snapshot = on.snapshot_id();
    if on.snapshots() {
        let thaw = on.pool.freeze(&[volume.id]).unwrap();
        let cut = on.pool.snapshot(&cut(snapshot, volume.id));
        thaw.thaw().unwrap();
        cut.unwrap();
    }
}

pub(crate) fn a_cut_that_somebody_thawed_does_not_count(on: &Ground) {
    let thawed_behind = |thaw: Thaw| {
        let outcome = thaw.thaw();
        assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
    };
    if let Some(sim) = on.sim() {
        let volume = on.made();
        let thaw = on.pool.freeze(&[volume.id]).unwrap();
        sim.thaw(&volume.id);
        return thawed_behind(thaw);
    }
    if on.has_devices() && on.access != Access::Block {
        let volume = on.made();
        let mounted = on.mounted(&volume.id);
        let thaw = on.pool.freeze(&[volume.id]).unwrap();
        run([std::path::Path::new("fsfreeze"), std::path::Path::new("-u"), mounted.path()]);
        thawed_behind(thaw);
    }
}

pub(crate) fn a_raw_block_in_use_cannot_be_frozen(on: &Ground) {
    if !on.has_devices() || on.access != Access::Block {
        return;
    }
    let volume = on.made();
    on.pool.freeze(&[volume.id]).unwrap().thaw().unwrap();
    let device = on.device(&volume.id, Attach::Block);
    let outcome = on.pool.freeze(&[volume.id]).map(|_| ());
    assert!(matches!(outcome, Err(Error::Precondition(_))), "{outcome:?}");
    drop(device);
    on.pool.detach(&volume.id).unwrap();
    on.pool.freeze(&[volume.id]).unwrap().thaw().unwrap();
}

pub(crate) fn what_is_missing_is_refused_with_the_reason(on: &Ground) {
    let features = on.pool.features();
    let made = on.made();
    if !features.snapshots.is_yes() {
        let id = on.snapshot_id();
        refused_as(on.pool.snapshot(&cut(id, made.id)), &features.snapshots);
        for source in [Source::Volume(made.id), Source::Snapshot(id)] {
            refused_as(on.pool.create(&on.copy_of(source, &made)), &features.snapshots);
        }
    }
    if !features.block.is_yes() {
        refused_as(on.pool.create(&Volume { access: Access::Block, ..on.volume() }), &features.block);
        refused_as(on.pool.attach(&made.id, Attach::Block), &features.block);
    }
    if !features.reserved.is_yes() {
        let volume = Volume { allocation: Allocation::Reserved, ..on.volume() };
        refused_as(on.pool.create(&volume), &features.reserved);
    }
    for fs in [Filesystem::Ext4, Filesystem::Xfs, Filesystem::Shared] {
        if !features.filesystems.contains(&fs) {
            let outcome = on.pool.create(&Volume { access: Access::Mount { fs }, ..on.volume() });
            assert!(matches!(outcome, Err(Error::Unsupported(_))), "{fs}: {outcome:?}");
        }
    }
    if let Offer::No(reason) = &features.size_limit {
        assert!(reason.starts_with("not enforced"), "{reason}");
    }
    assert_eq!(scanned(on), volumes(&[&made]));
}

/// Every verb that may change or tell something, each of which must fail as `Unavailable`.
fn all_verbs_are_unavailable(on: &Ground, made: &Volume) {
    #[track_caller]
    fn away<T>(outcome: Result<T>) {
        match outcome {
            Err(Error::Unavailable(_)) => {}
            Err(other) => panic!("the wrong error: {other:?}"),
            Ok(_) => panic!("done, though the pool is away"),
        }
    }
    away(on.pool.present());
    away(on.pool.writable());
    away(on.pool.prove());
    away(on.pool.usage());
    away(on.pool.scan());
    away(on.pool.create(&on.volume()));
    away(on.pool.create(made));
    away(on.pool.create(&on.copy_of(Source::Volume(made.id), made)));
    away(on.pool.grow(&made.id, made.size));
    away(on.pool.destroy(&made.id));
    away(on.pool.destroy(&on.volume().id));
    away(on.pool.snapshot(&cut(on.snapshot_id(), made.id)));
    away(on.pool.forget(&on.snapshot_id()));
    away(on.pool.attach(&made.id, on.how()));
    away(on.pool.attached(&made.id, on.how()));
    on.pool.detach(&made.id).expect("what is attached is let go wherever the pool is");
    away(on.pool.freeze(&[made.id]));
    let problems = on.pool.health(None);
    assert!(problems.iter().any(|problem| problem.severity == Severity::Inaccessible), "{problems:?}");
    let problems = on.pool.health(Some(&made.id));
    assert!(!problems.is_empty() && problems.iter().all(|problem| problem.severity != Severity::DataLoss));
}

pub(crate) fn a_pool_that_is_not_mounted_fails_every_verb_and_writes_nothing_beneath(on: &Ground) {
    let made = on.made();
    assert!(on.pool.health(None).is_empty() && on.pool.health(Some(&made.id)).is_empty());
    on.pull();
    all_verbs_are_unavailable(on, &made);
    if let Some(root) = on.root() {
        assert_eq!(fs::read_dir(root).unwrap().count(), 0, "something was written beneath");
    }
}

pub(crate) fn an_object_carries_a_copy_of_its_record(on: &Ground) {
    let want = Volume { parameters: [("key".to_owned(), "value".to_owned())].into(), ..on.volume() };
    on.pool.create(&want).unwrap();
    assert_eq!(on.pool.label(ObjectId::Volume(on.volume().id)).unwrap(), None, "no bytes carry nothing");
    let label = on.pool.label(ObjectId::Volume(want.id)).unwrap();
    if on.sim().is_some() {
        assert_eq!(label, None);
        return;
    }
    let read = |id: ObjectId| {
        let label = on.pool.label(id).unwrap().unwrap();
        (Record::decode(&id.to_string(), &label.text.unwrap()).unwrap().record, label.size)
    };
    assert_eq!(read(ObjectId::Volume(want.id)), (Record::Volume(Arc::new(want.clone())), want.size));
    let larger = want.size.checked_add(Bytes::MIB).unwrap();
    on.pool.grow(&want.id, larger).unwrap();
    assert_eq!(read(ObjectId::Volume(want.id)).1, larger, "the bytes tell their size");
    // What does not fit is left out, and the rest is carried.
    let long = Volume { parameters: [("key".to_owned(), "x".repeat(70_000))].into(), ..on.volume() };
    on.pool.create(&long).unwrap();
    let lean = Volume { parameters: Default::default(), ..long.clone() };
    assert_eq!(read(ObjectId::Volume(long.id)).0, Record::Volume(Arc::new(lean)));
    if on.snapshots() {
        let snapshot = cut(on.snapshot_id(), want.id);
        on.pool.snapshot(&snapshot).unwrap();
        assert_eq!(read(ObjectId::Snapshot(snapshot.id)).0, Record::Snapshot(Arc::new(snapshot)));
        let clone = on.copy_of(Source::Volume(want.id), &Volume { size: larger, ..want });
        on.pool.create(&clone).unwrap();
        assert_eq!(
            read(ObjectId::Volume(clone.id)).0,
            Record::Volume(Arc::new(clone)),
            "not that of its source"
        );
    }
}

pub(crate) fn an_object_carries_what_it_is_given_later(on: &Ground) {
    let made = on.made();
    let later = Volume {
        phase: Phase::Retained { until: Age::new(9), kept: "9s".parse().unwrap(), deleted: made.created },
        name: "another".to_owned(),
        ..made.clone()
    };
    let (id, later) = (ObjectId::Volume(made.id), Record::Volume(Arc::new(later)));
    on.pool.carry(id, &later, 7).unwrap();
    on.pool.carry(id, &later, 7).unwrap();
    if on.sim().is_some() {
        return;
    }
    let absent = on.pool.carry(ObjectId::Volume(on.volume().id), &later, 7);
    assert!(matches!(absent, Err(Error::Corrupt(_))), "{absent:?}");
    let text = |id| on.pool.label(id).unwrap().unwrap().text.unwrap();
    let written = Record::decode(&id.to_string(), &text(id)).unwrap();
    assert_eq!((written.record, written.generation), (later, 7));
    if on.snapshots() {
        let group = GroupId::new(made.id.pool(), [3; 8]);
        let member = Snapshot { group: Some(group), ..cut(on.snapshot_id(), made.id) };
        on.pool.snapshot(&member).unwrap();
        let of = ObjectId::Snapshot(member.id);
        let before = (text(of), on.pool.label(of).unwrap().unwrap().group);
        assert_eq!(before.1, None);
        let group = Record::Group(Arc::new(Group {
            id: group,
            name: "both".to_owned(),
            phase: Phase::Ready,
            members: vec![member.id],
            sources: vec![made.id],
            parameters: Default::default(),
            created: made.created,
        }));
        on.pool.carry(of, &group, 2).unwrap();
        assert_eq!(text(of), before.0, "its own stays beside it");
        let carried = on.pool.label(of).unwrap().unwrap().group.unwrap();
        assert_eq!(Record::decode(&group.id().to_string(), &carried).unwrap().record, group);
    }
}

pub(crate) fn another_disk_in_its_place_is_not_the_pool(on: &Ground) {
    let Some(root) = on.root() else { return };
    let made = on.made();
    run(["mount", "-t", "tmpfs", "tmpfs"].map(std::path::Path::new).iter().copied().chain([root]));
    all_verbs_are_unavailable(on, &made);
    assert_eq!(fs::read_dir(root).unwrap().count(), 0, "something was written on the other disk");
    run([std::path::Path::new("umount"), root]);
    assert_eq!(scanned(on), volumes(&[&made]), "back again, nothing had happened");
}

pub(crate) fn a_missing_object_is_data_loss(on: &Ground) {
    let made = on.made();
    assert_eq!(on.pool.health(Some(&made.id)), []);
    on.pool.destroy(&made.id).unwrap();
    let problems = on.pool.health(Some(&made.id));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].severity, Severity::DataLoss);
    assert!(problems[0].reason.ends_with("Missing") && !problems[0].message.is_empty());
    assert_eq!(on.pool.health(None), []);
}

pub(crate) fn verbs_of_different_volumes_run_side_by_side(on: &Ground) {
    let all: Vec<_> = (0..8).map(|_| on.volume()).collect();
    std::thread::scope(|scope| {
        for volume in &all {
            scope.spawn(|| {
                on.pool.create(volume).unwrap();
                on.put(&volume.id, 0, 1);
                on.pool.grow(&volume.id, volume.size.checked_add(Bytes::MIB).unwrap()).unwrap();
                on.pool.scan().unwrap();
                assert_eq!(on.look(&volume.id, 0), 1);
            });
        }
    });
    assert_eq!(scanned(on).len(), all.len());
    std::thread::scope(|scope| {
        all.iter().for_each(|volume| drop(scope.spawn(|| on.pool.destroy(&volume.id).unwrap())));
    });
    assert_eq!(scanned(on), []);
}
