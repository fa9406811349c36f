//! What only image pools do, on real loop devices; `tests/contract.rs` has what every kind promises.

#![allow(clippy::disallowed_methods, reason = "the test makes its own files and runs programs")]

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use super::*;
use crate::model::UNIT;
use crate::os::loopdev;
use crate::os::mount::scene::clear;
use crate::os::process;
use crate::pool::rig::{EXT4, Rig, XFS, cut, run, volume};
use crate::pool::{Device, Severity};

/// The pool comes last, so that it is dropped first: it keeps the rig's mount busy.
fn pool() -> (Rig, ImagePool) {
    let rig = Rig::new();
    let pool = ImagePool::open(&rig.setup).unwrap();
    (rig, pool)
}

fn image(pool: &ImagePool, id: &VolumeId) -> PathBuf {
    pool.images.home.volumes().path().join(id.to_string())
}

fn device(attached: Attached) -> Device {
    match attached {
        Attached::Device(device) => device,
        Attached::Directory(_) => panic!("an image is a device"),
    }
}

fn loops_on(path: &std::path::Path) -> Vec<loopdev::Found> {
    let stat = std::fs::metadata(path).unwrap();
    loopdev::find(stat.dev(), stat.ino()).unwrap()
}

fn snapshot_id(pool: &ImagePool, number: u8) -> SnapshotId {
    SnapshotId::new(pool.id(), [number; 8])
}

#[test]
fn a_volume_is_made_once_and_never_formatted_again() {
    let (_rig, pool) = pool();
    let want = volume(pool.id(), 1, EXT4);
    pool.create(&want).unwrap();
    let path = image(&pool, &want.id);
    let stat = std::fs::metadata(&path).unwrap();
    assert_eq!((stat.len(), stat.mode() & 0o777), (want.size.get(), 0o600));
    assert!(stat.blocks() * 512 < 8 << 20, "sparse");
    let found = fs::probe(&File::open(&path).unwrap()).unwrap();
    assert!(
        matches!(&found, fs::Found::Ext4 { uuid, .. } if *uuid == want.fs_uuid.unwrap().to_string()),
        "{found:?}"
    );
    // Bytes that no mkfs would leave.
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 65536], 0).unwrap();
    pool.create(&want).unwrap();
    assert_eq!(&std::fs::read(&path).unwrap()[..65536], &[0; 65536]);
    let larger = Volume { size: Bytes::MIB.times(65), ..want.clone() };
    assert!(matches!(pool.create(&larger), Err(Error::Conflict(_))));
    assert_eq!(pool.scan().unwrap(), [Found::Volume(want.id, want.size)]);
}

#[test]
fn what_a_crash_leaves_is_debris_and_goes_with_a_retry_or_a_destroy() {
    let (_rig, pool) = pool();
    let want = volume(pool.id(), 1, Access::Block);
    let debris = pool.images.home.tmp().path().join(want.id.to_string());
    std::fs::write(&debris, b"half").unwrap();
    assert_eq!(pool.scan().unwrap(), [Found::Debris(format!("tmp/{}", want.id))]);
    pool.create(&want).unwrap();
    assert_eq!(pool.scan().unwrap(), [Found::Volume(want.id, want.size)]);
    std::fs::write(&debris, b"half").unwrap();
    pool.destroy(&want.id).unwrap();
    pool.destroy(&want.id).unwrap();
    assert_eq!(pool.scan().unwrap(), []);
    // A create that fails leaves nothing, either.
    let orphan = Volume { source: Source::Snapshot(snapshot_id(&pool, 9)), ..want };
    assert!(matches!(pool.create(&orphan), Err(Error::Corrupt(_))));
    assert_eq!(pool.scan().unwrap(), []);
    std::fs::write(pool.images.home.volumes().path().join("stranger"), b"").unwrap();
    assert_eq!(pool.scan().unwrap(), [Found::Foreign("volumes/stranger".to_owned())]);
}

#[test]
fn a_snapshot_outlives_its_volume_and_shares_nothing_with_its_clone() {
    let (_rig, pool) = pool();
    let want = volume(pool.id(), 1, Access::Block);
    pool.create(&want).unwrap();
    let attached = device(pool.attach(&want.id, Attach::Block).unwrap());
    // Written into the page cache of the device: the cut must hold it nevertheless.
    std::fs::File::options().write(true).open(&attached.path).unwrap().write_all_at(b"first", 4096).unwrap();
    let id = snapshot_id(&pool, 1);
    let held = pool.snapshot(&cut(id, want.id)).unwrap();
    assert!(held.get() >= 4096, "{held}");
    std::fs::File::options().write(true).open(&attached.path).unwrap().write_all_at(b"later", 4096).unwrap();
    assert_eq!(pool.snapshot(&cut(id, want.id)).unwrap(), held);
    drop(attached);
    pool.detach(&want.id).unwrap();
    pool.destroy(&want.id).unwrap();
    assert_eq!(pool.scan().unwrap(), [Found::Snapshot(id, want.size)]);

    let size = want.size.checked_add(Bytes::MIB).unwrap();
    let clone = Volume { source: Source::Snapshot(id), size, ..volume(pool.id(), 2, Access::Block) };
    pool.create(&clone).unwrap();
    let path = image(&pool, &clone.id);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!((&bytes[4096..4101], bytes.len() as u64), (&b"first"[..], size.get()));
    std::fs::File::options().write(true).open(&path).unwrap().write_all_at(b"clone", 4096).unwrap();
    let of_clone = Volume { source: Source::Volume(clone.id), ..volume(pool.id(), 3, Access::Block) };
    let refused = pool.create(&Volume { size: want.size, ..of_clone.clone() });
    assert!(matches!(refused, Err(Error::OutOfRange(_))), "{refused:?}");
    pool.create(&Volume { size, ..of_clone.clone() }).unwrap();
    assert_eq!(&std::fs::read(image(&pool, &of_clone.id)).unwrap()[4096..4101], b"clone");
    pool.forget(&id).unwrap();
    pool.forget(&id).unwrap();
    assert!(matches!(pool.snapshot(&cut(id, want.id)), Err(Error::Corrupt(_))));
}

#[test]
fn a_filesystem_device_is_used_again_and_goes_by_itself() {
    let (_rig, pool) = pool();
    let want = volume(pool.id(), 1, EXT4);
    pool.create(&want).unwrap();
    assert!(pool.attached(&want.id, Attach::Filesystem).unwrap().is_none());
    let one = device(pool.attach(&want.id, Attach::Filesystem).unwrap());
    let two = device(pool.attach(&want.id, Attach::Filesystem).unwrap());
    let three = device(pool.attached(&want.id, Attach::Filesystem).unwrap().unwrap());
    assert_eq!((&one.path, one.number), (&two.path, two.number));
    assert_eq!(one.path, three.path);
    assert_eq!(std::fs::metadata(&one.path).unwrap().rdev(), one.number);
    assert_eq!(loops_on(&image(&pool, &want.id)).len(), 1);
    let name = one.path.file_name().unwrap().to_str().unwrap();
    for (setting, value) in [("queue/logical_block_size", "4096"), ("loop/dio", "1"), ("loop/autoclear", "1")]
    {
        let text = std::fs::read_to_string(format!("/sys/block/{name}/{setting}")).unwrap();
        assert_eq!(text.trim(), value, "{setting}");
    }
    assert!(pool.attached(&want.id, Attach::Block).unwrap().is_none());
    drop((one, two, three));
    assert!(pool.attached(&want.id, Attach::Filesystem).unwrap().is_none());
    assert_eq!(loops_on(&image(&pool, &want.id)), []);
}

#[test]
fn a_block_device_stays_and_is_found_after_a_restart() {
    let rig = Rig::new();
    let pool = ImagePool::open(&rig.setup).unwrap();
    let want = volume(pool.id(), 1, Access::Block);
    pool.create(&want).unwrap();
    let path = device(pool.attach(&want.id, Attach::Block).unwrap()).path;
    let read_only = device(pool.attach(&want.id, Attach::BlockReadOnly).unwrap()).path;
    assert_ne!(path, read_only);
    let refused =
        std::fs::File::options().write(true).open(&read_only).map(|file| file.write_all_at(b"x", 0));
    assert!(!matches!(refused, Ok(Ok(()))), "{refused:?}");
    drop(pool);
    let pool = ImagePool::open(&rig.setup).unwrap();
    assert_eq!(device(pool.attach(&want.id, Attach::Block).unwrap()).path, path);
    assert_eq!(device(pool.attached(&want.id, Attach::BlockReadOnly).unwrap().unwrap()).path, read_only);
    assert_eq!(loops_on(&image(&pool, &want.id)).len(), 2);
    pool.detach(&want.id).unwrap();
    pool.detach(&want.id).unwrap();
    assert_eq!(loops_on(&image(&pool, &want.id)), []);
}

#[test]
fn a_device_that_was_to_go_by_itself_stays_when_it_is_published() {
    let (_rig, pool) = pool();
    let want = volume(pool.id(), 1, Access::Block);
    pool.create(&want).unwrap();
    let first = device(pool.attach(&want.id, Attach::Filesystem).unwrap());
    let second = device(pool.attach(&want.id, Attach::Block).unwrap());
    assert_eq!(first.path, second.path);
    drop((first, second));
    assert!(pool.attached(&want.id, Attach::Block).unwrap().is_some());
    pool.destroy(&want.id).unwrap();
    assert!(
        loopdev::all()
            .unwrap()
            .iter()
            .all(|(backing, _)| { backing.device != pool.images.home.volumes().identity().unwrap().device })
    );
}

#[test]
fn an_attached_device_grows_with_its_image() {
    let (_rig, pool) = pool();
    let want = volume(pool.id(), 1, XFS);
    pool.create(&want).unwrap();
    let attached = device(pool.attach(&want.id, Attach::Filesystem).unwrap());
    let size = Bytes::MIB.times(400);
    assert_eq!(pool.grow(&want.id, Bytes::new(size.get() - 1)).unwrap(), size);
    assert_eq!(pool.grow(&want.id, want.size).unwrap(), size);
    let end = std::io::Seek::seek(&mut &attached.file, std::io::SeekFrom::End(0)).unwrap();
    assert_eq!(end, size.get());
    assert!(matches!(pool.grow(&VolumeId::new(pool.id(), [9; 8]), size), Err(Error::Corrupt(_))));
}

#[test]
fn a_reserved_volume_keeps_its_space() {
    let (rig, pool) = pool();
    let want = Volume { allocation: Allocation::Reserved, ..volume(pool.id(), 1, EXT4) };
    pool.create(&want).unwrap();
    let allocated = || std::fs::metadata(image(&pool, &want.id)).unwrap().blocks() * 512;
    assert!(allocated() >= want.size.get());
    let size = Bytes::MIB.times(96);
    pool.grow(&want.id, size).unwrap();
    assert!(allocated() >= size.get());
    let attached = device(pool.attach(&want.id, Attach::Filesystem).unwrap());
    let point = rig.mount(&attached.path, "volume");
    assert!(process::run("fstrim", &[&point], "failed to trim").is_err());
    pool.tend().unwrap();
    assert!(allocated() >= size.get());
    let too_much = Volume {
        size: Bytes::GIB.times(2),
        allocation: Allocation::Reserved,
        ..volume(pool.id(), 2, Access::Block)
    };
    assert!(matches!(pool.create(&too_much), Err(Error::Full(_))));
    assert_eq!(pool.scan().unwrap().len(), 1);
    clear(&point);
}

#[test]
fn upkeep_gives_back_what_a_sparse_volume_no_longer_uses() {
    let (rig, pool) = pool();
    let want = volume(pool.id(), 1, EXT4);
    pool.create(&want).unwrap();
    let attached = device(pool.attach(&want.id, Attach::Filesystem).unwrap());
    let point = rig.mount(&attached.path, "volume");
    let allocated = || std::fs::metadata(image(&pool, &want.id)).unwrap().blocks() * 512;
    std::fs::write(point.join("large"), vec![1; 32 << 20]).unwrap();
    run("sync", &[]);
    assert!(allocated() > 32 << 20);
    std::fs::remove_file(point.join("large")).unwrap();
    run("sync", &[]);
    let before = pool.usage().unwrap();
    std::fs::write(pool.images.home.root().path().join("stranger"), vec![1; 8 << 20]).unwrap();
    run("sync", &[]);
    let host = || std::fs::metadata(rig.setup.file.as_ref().unwrap()).unwrap().blocks() * 512;
    let taken = host();
    pool.tend().unwrap();
    assert!(allocated() < 8 << 20, "{}", allocated());
    // A sparse pool gives back to its host in turn; xfs takes a moment before it trims what was just freed.
    let given_back = (0..300).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        pool.tend().unwrap();
        host() + (24 << 20) < taken
    });
    assert!(given_back, "{taken} {}", host());
    let after = pool.usage().unwrap();
    assert!(after.foreign.get() >= before.foreign.get() + (7 << 20), "{before:?} {after:?}");
    clear(&point);
}

#[test]
fn a_frozen_volume_is_cut_and_thaws_on_every_path() {
    let (rig, pool) = pool();
    let ids: Vec<_> = [(1, EXT4), (2, XFS)]
        .map(|(number, access)| {
            let want = volume(pool.id(), number, access);
            pool.create(&want).unwrap();
            want.id
        })
        .into();
    let points: Vec<_> = ids
        .iter()
        .map(|id| {
            let attached = device(pool.attach(id, Attach::Filesystem).unwrap());
            rig.mount(&attached.path, &id.to_string())
        })
        .collect();
    std::fs::write(points[0].join("file"), b"unsynced").unwrap();
    let thaw = pool.freeze(&ids).unwrap();
    assert!(matches!(pool.freeze(&ids), Err(Error::Precondition(_))), "frozen already");
    pool.snapshot(&cut(snapshot_id(&pool, 1), ids[0])).unwrap();
    thaw.thaw().unwrap();

    let thaw = pool.freeze(&ids).unwrap();
    run("fsfreeze", &["-u".as_ref(), points[1].as_path()]);
    assert!(matches!(thaw.thaw(), Err(Error::Unavailable(_))));
    drop(pool.freeze(&ids).unwrap());
    std::fs::write(points[0].join("file"), b"not blocked").unwrap();

    // A member that refuses leaves none of the others frozen.
    let block = volume(pool.id(), 3, Access::Block);
    pool.create(&block).unwrap();
    pool.attach(&block.id, Attach::Block).unwrap();
    let refused = pool.freeze(&[ids[0], block.id]).map(drop);
    assert!(matches!(refused, Err(Error::Precondition(_))), "{refused:?}");
    std::fs::write(points[0].join("file"), b"not blocked").unwrap();
    pool.detach(&block.id).unwrap();

    let clone = Volume { source: Source::Snapshot(snapshot_id(&pool, 1)), ..volume(pool.id(), 4, EXT4) };
    pool.create(&clone).unwrap();
    let attached = device(pool.attach(&clone.id, Attach::Filesystem).unwrap());
    let point = rig.mount(&attached.path, "clone");
    assert_eq!(std::fs::read(point.join("file")).unwrap(), b"unsynced");
    for point in points.iter().chain([&point]) {
        clear(point);
    }
}

#[test]
fn health_names_what_is_wrong() {
    let (rig, pool) = pool();
    let reasons = |id: &VolumeId| -> Vec<_> {
        pool.health(Some(id)).into_iter().map(|problem| (problem.reason, problem.severity)).collect()
    };
    assert_eq!(pool.health(None), []);
    let block = volume(pool.id(), 1, Access::Block);
    assert_eq!(reasons(&block.id), [("ImageMissing", Severity::DataLoss)]);
    pool.create(&block).unwrap();
    assert_eq!(reasons(&block.id), []);
    drop(pool.attach(&block.id, Attach::Block).unwrap());
    std::fs::File::options().write(true).open(image(&pool, &block.id)).unwrap().set_len(4096).unwrap();
    assert_eq!(reasons(&block.id), [("ImageTruncated", Severity::DataLoss)]);
    pool.detach(&block.id).unwrap();

    for (number, access, reason) in [(2, EXT4, "FilesystemReadOnly"), (3, XFS, "FilesystemFailed")] {
        let want = volume(pool.id(), number, access);
        pool.create(&want).unwrap();
        let attached = device(pool.attach(&want.id, Attach::Filesystem).unwrap());
        let point = rig.mount(&attached.path, &want.id.to_string());
        assert_eq!(reasons(&want.id), []);
        if access == EXT4 {
            run("mount", &["-o".as_ref(), "remount,errors=remount-ro".as_ref(), &point]);
            let name = attached.path.file_name().unwrap().to_str().unwrap();
            std::fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "test").unwrap();
        } else {
            let shutdown = ["-x", "-c", "shutdown", point.to_str().unwrap()];
            process::run("xfs_io", &shutdown, "failed to shut down").unwrap();
        }
        // Linux 6.12 to 6.14 do not say that an ext4 is read-only.
        let silent = reasons(&want.id) == [("FilesystemErrors", Severity::Degraded)]
            && access == EXT4
            && !std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains("emergency_ro");
        assert!(silent || reasons(&want.id) == [(reason, Severity::Inaccessible)], "{:?}", reasons(&want.id));
        clear(&point);
    }
    let full = Volume {
        size: Bytes::MIB.times(800),
        allocation: Allocation::Reserved,
        ..volume(pool.id(), 4, Access::Block)
    };
    pool.create(&full).unwrap();
    let rest =
        Volume { size: Bytes::new(pool.usage().unwrap().free.get() - (20 << 20)).round_down(UNIT), ..full };
    pool.create(&Volume { id: VolumeId::new(pool.id(), [5; 8]), ..rest }).unwrap();
    let problems = pool.health(None);
    assert_eq!(problems[0].reason, "PoolNearlyFull", "{problems:?}");
}

#[test]
fn a_pool_that_is_covered_refuses_everything_and_touches_nothing() {
    let (rig, pool) = pool();
    let want = volume(pool.id(), 1, Access::Block);
    pool.create(&want).unwrap();
    let path = rig.setup.path.as_path();
    run("mount", &["-t".as_ref(), "tmpfs".as_ref(), "none".as_ref(), path]);
    let away = |outcome: Result<()>| assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
    away(pool.present());
    away(pool.create(&volume(pool.id(), 2, Access::Block)));
    away(pool.destroy(&want.id));
    away(pool.scan().map(drop));
    away(pool.attach(&want.id, Attach::Block).map(drop));
    assert_eq!(pool.health(None)[0].reason, "PoolMissing");
    assert_eq!(std::fs::read_dir(path).unwrap().count(), 0);
    run("umount", &[path]);
    pool.present().unwrap();
    assert_eq!(pool.scan().unwrap().len(), 1);

    run("mount", &["-o".as_ref(), "remount,ro".as_ref(), path]);
    assert!(matches!(pool.destroy(&want.id), Err(Error::Precondition(_))));
    run("mount", &["-o".as_ref(), "remount,rw".as_ref(), path]);
    pool.destroy(&want.id).unwrap();
}

#[test]
fn without_reflink_all_works_but_snapshots() {
    let rig = Rig::new();
    let dir = rig.dir.path().join("ext4");
    std::fs::create_dir(&dir).unwrap();
    let (disk, point) = (rig.dir.path().join("disk"), dir.as_path());
    std::fs::File::create(&disk).unwrap().set_len(256 << 20).unwrap();
    run("mkfs.ext4", &["-q".as_ref(), &disk]);
    run("mount", &["-o".as_ref(), "loop".as_ref(), &disk, point]);
    let request = crate::pool::prepare::Request {
        place: crate::pool::prepare::Place::Directory(dir.clone()),
        ..crate::pool::rig::request(rig.dir.path(), Kind::Image)
    };
    let setup = crate::pool::prepare::prepare(&request).unwrap();
    let pool = ImagePool::open(&setup).unwrap();
    let Offer::No(reason) = pool.features().snapshots else { panic!("ext4 has no reflink") };
    assert!(reason.contains("ext4"), "{reason}");
    let want = volume(pool.id(), 1, EXT4);
    pool.create(&want).unwrap();
    drop(pool.attach(&want.id, Attach::Filesystem).unwrap());
    assert!(matches!(pool.snapshot(&cut(snapshot_id(&pool, 1), want.id)), Err(Error::Unsupported(_))));
    let clone = Volume { source: Source::Volume(want.id), ..volume(pool.id(), 2, EXT4) };
    assert!(matches!(pool.create(&clone), Err(Error::Unsupported(_))));
    pool.destroy(&want.id).unwrap();
    assert_eq!(pool.scan().unwrap(), []);
    drop(pool);
    clear(point);
}
