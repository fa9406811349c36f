//! What a pool may be but well: away, replaced by another disk, read-only, on a disk that failed, newer than this release.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rockpool::engine::{Publish, Writes};
use rockpool::error::{Error, Result};
use rockpool::model::{
    Asked, Bytes, CapacityQuery, CreateGroup, CreateSnapshot, CreateVolume, Range, Source, Volume,
};
use rockpool::os::loopdev;
use rockpool::pool::Kind;

use crate::mishaps::rewrite;
use crate::rig::{BLOCK, EXT4, Rig, XFS, put, run, soon, unmounted, wanted, write_block};

const PLAIN_EXT4: [&str; 4] = ["mkfs.ext4", "-q", "-E", "lazy_itable_init=1"];
const PLAIN_XFS: [&str; 2] = ["mkfs.xfs", "-q"];

/// Every call that changes something, by name.
fn changes(rig: &Rig, volume: &Volume) -> Vec<(&'static str, Result<()>)> {
    let engine = rig.engine();
    let range = Range { required: Some(Bytes::MIB.times(80)), limit: None };
    let cut = CreateSnapshot { name: "s".to_owned(), source: volume.id, parameters: Default::default() };
    let named = CreateVolume { pool: Some("p".to_owned()), ..wanted("new", BLOCK, 10) };
    let clone = CreateVolume { source: Source::Volume(volume.id), ..wanted("clone", EXT4, 64) };
    vec![
        ("create", engine.create_volume(&wanted("new", BLOCK, 10)).map(drop)),
        ("create in this pool", engine.create_volume(&named).map(drop)),
        ("clone", engine.create_volume(&clone).map(drop)),
        ("snapshot", engine.create_snapshot(&cut).map(drop)),
        ("expand", engine.expand_volume(&volume.id, &range, None).map(drop)),
        ("delete", engine.delete_volume(&volume.id)),
        ("stage", engine.stage(&rig.stage_of("elsewhere", volume, EXT4))),
    ]
}

fn reasons(rig: &Rig, volume: &Volume) -> Vec<&'static str> {
    rig.engine().volume_health(&volume.id).unwrap().iter().map(|problem| problem.reason).collect()
}

fn available(rig: &Rig) -> Bytes {
    rig.engine().capacity(&CapacityQuery::default()).unwrap().available
}

/// A filesystem that shuts down, as xfs and ext4 do when their disk fails, is refused everything that changes and read on.
fn a_disk_that_fails(mkfs: &[&str], mib: u64) {
    let rig = Rig::image_on(mkfs, mib);
    let volume = rig.create("a", EXT4, 64);
    assert!(available(&rig) > Bytes::ZERO);
    run(
        "xfs_io",
        &["-x", "-c", "shutdown"]
            .map(Path::new)
            .into_iter()
            .chain([rig.setup.path.as_path()])
            .collect::<Vec<_>>(),
    );
    for (call, outcome) in changes(&rig, &volume) {
        assert!(matches!(&outcome, Err(Error::Unavailable(_))), "{call}: {outcome:?}");
    }
    // However often it is asked: what failed is not tried again.
    let Err(Error::Unavailable(why)) = rig.engine().delete_volume(&volume.id) else { panic!("deleted") };
    assert!(why.contains("`p`") && why.contains("Input/output error"), "{why}");
    assert_eq!(rig.engine().volumes(None, 10).len(), 1);
    assert!(rig.ailment().is_some());
    rig.look();
    assert!(rig.engine().delete_volume(&volume.id).is_err(), "it looks mended, and is not");
    // As long as anybody holds it open, what is mounted again is the filesystem that shut down.
    run("umount", &[Path::new("-l"), &rig.setup.path]);
    rig.look();
    rig.mount_again();
    rig.reconnect();
    assert!(available(&rig) > Bytes::ZERO);
    assert_eq!(rig.ailment(), None);
    rig.engine().delete_volume(&volume.id).unwrap();
    assert_eq!(rig.objects(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn an_ext4_that_shuts_down_is_never_written_again_until_it_is_mounted_anew() {
    a_disk_that_fails(&PLAIN_EXT4, 512);
}

#[test]
fn an_xfs_that_shuts_down_is_never_written_again_until_it_is_mounted_anew() {
    a_disk_that_fails(&PLAIN_XFS, 512);
}

/// Its own filesystem, not the pool's: nothing of it can be flushed, and asking again does not help.
#[test]
fn a_volume_whose_filesystem_gave_up_is_not_cut_until_it_is_staged_anew() {
    let rig = Rig::image_on(&PLAIN_XFS, 2048);
    let (volume, other) = (rig.create("a", XFS, 300), rig.create("b", EXT4, 16));
    let (staging, target) = (rig.staging("a"), rig.publish("a", &volume, XFS));
    put(&target.join("file"), "kept");
    run("xfs_io", &[Path::new("-x"), Path::new("-c"), Path::new("shutdown -f"), &target]);
    let engine = rig.engine();
    let cut = |name: &str| {
        let wanted =
            CreateSnapshot { name: name.to_owned(), source: volume.id, parameters: Default::default() };
        engine.create_snapshot(&wanted)
    };
    let sources = vec![volume.id, other.id];
    let group = CreateGroup { name: "g".to_owned(), sources, parameters: Default::default() };
    let clone = CreateVolume { source: Source::Volume(volume.id), ..wanted("clone", XFS, 300) };
    for (call, outcome) in [
        ("snapshot", cut("s").map(drop)),
        ("group", engine.create_group(&group).map(drop)),
        ("clone", engine.create_volume(&clone).map(drop)),
    ] {
        let Err(Error::Precondition(why)) = outcome else { panic!("{call}: {outcome:?}") };
        assert!(why.contains("is broken (Input/output error"), "{call}: {why}");
        assert!(why.contains("unstage its volume first"), "{call}: {why}");
    }
    assert_eq!(rig.ailment(), None, "the pool is well");
    engine.unpublish(&volume.id, &target).unwrap();
    engine.unstage(&volume.id, &staging).unwrap();
    assert_eq!(fs::read(rig.publish("a", &volume, XFS).join("file")).unwrap(), b"kept");
    cut("s").unwrap();
    assert_eq!(engine.create_group(&group).unwrap().1.len(), 2);
}

#[test]
fn a_pool_whose_filesystem_gave_up_is_read_published_and_let_go() {
    let rig = Rig::image_on(&PLAIN_EXT4, 512);
    let (volume, raw) = (rig.create("a", EXT4, 64), rig.create("raw", BLOCK, 10));
    put(&rig.publish("a", &volume, EXT4).join("file"), "kept");
    rig.publish("raw", &raw, BLOCK);
    run("mount", &[Path::new("-oremount,errors=remount-ro"), &rig.setup.path]);
    trigger_error(&rig.setup.path);
    for (call, outcome) in changes(&rig, &volume).into_iter().filter(|(call, _)| *call != "stage") {
        assert!(
            matches!(&outcome, Err(Error::Unavailable(_) | Error::Precondition(_))),
            "{call}: {outcome:?}"
        );
    }
    assert_eq!(available(&rig), Bytes::ZERO);
    assert!(!reasons(&rig, &volume).is_empty());
    let view = &rig.engine().pools()[0];
    assert!(view.away.is_none() && view.read_only.is_some(), "{view:?}");
    rig.engine().volume(&volume.id).unwrap();
    rig.engine().stats(&volume.id, &rig.target("a")).unwrap();
    for (name, volume, asked) in [("a", &volume, EXT4), ("raw", &raw, BLOCK)] {
        rig.engine().unpublish(&volume.id, &rig.target(name)).unwrap();
        let read = Publish { writes: Writes::Refused, ..rig.publish_of(name, name, volume, asked) };
        rig.engine().publish(&read).unwrap();
        rig.unpublish(name, volume);
        assert!(rig.has_loops(&volume.id, 0), "{name}");
    }
    assert!(rig.mounts().is_empty());
}

#[test]
fn a_directory_pool_that_is_nearly_full_or_gave_up_says_so() {
    let rig = Rig::on(&PLAIN_EXT4, 320, Kind::Directory);
    let volume = rig.create("a", Asked::Mount(None), 10);
    let of_pool = || {
        let index = rig.engine().indexes().next().unwrap();
        rig.engine().pool_health(index).iter().map(|problem| problem.reason).collect::<Vec<_>>()
    };
    assert_eq!((of_pool(), reasons(&rig, &volume)), (vec![], vec![]));
    let filler = rig.setup.path.join("filler");
    let file = fs::File::create(&filler).unwrap();
    let free = rustix::fs::statvfs(&rig.setup.path).unwrap();
    let most = free.f_bavail * free.f_frsize;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, most - (8 << 20)).unwrap();
    assert_eq!((of_pool(), reasons(&rig, &volume)), (vec!["PoolNearlyFull"], vec![]), "the volume is well");
    fs::remove_file(&filler).unwrap();
    drop(file);
    // A program that another test is just starting holds a copy of the file until it executes.
    assert!(soon(|| of_pool().is_empty()), "{:?}", of_pool());
    run("mount", &[Path::new("-oremount,errors=remount-ro"), &rig.setup.path]);
    trigger_error(&rig.setup.path);
    assert_eq!((of_pool(), reasons(&rig, &volume)), (vec!["PoolFailed"], vec!["PoolFailed"]));
}

/// Makes an ext4 believe that it found an error in itself.
fn trigger_error(point: &Path) {
    let device = fs::metadata(point).unwrap().dev();
    let device = loopdev::Loop::from_device(device).unwrap().path();
    let trigger = Path::new("/sys/fs/ext4").join(device.file_name().unwrap()).join("trigger_fs_error");
    fs::write(trigger, "the test's").unwrap();
}

#[test]
fn a_pool_that_is_remounted_read_only_is_read_and_nothing_else() {
    let rig = Rig::image();
    let volume = rig.create("a", EXT4, 64);
    run("mount", &[Path::new("-oremount,ro"), &rig.setup.path]);
    for (call, outcome) in changes(&rig, &volume) {
        assert!(
            matches!(&outcome, Err(Error::Precondition(why)) if why.contains("read-only")),
            "{call}: {outcome:?}"
        );
    }
    assert_eq!(available(&rig), Bytes::ZERO);
    assert_eq!(reasons(&rig, &volume), ["PoolReadOnly"]);
    rig.engine().volume(&volume.id).unwrap();
    rig.look();
    run("mount", &[Path::new("-oremount,rw"), &rig.setup.path]);
    rig.engine().delete_volume(&volume.id).unwrap();
}

#[test]
fn a_pool_that_is_read_only_at_the_start_is_read_and_opened_anew_when_it_is_not() {
    let mut rig = Rig::image();
    let volume = rig.create("a", EXT4, 64);
    rig.stop();
    run("mount", &[Path::new("-oremount,ro"), &rig.setup.path]);
    rig.restart();
    rig.engine().volume(&volume.id).unwrap();
    assert!(rig.ailment().is_some_and(|why| why.contains("read-only")));
    for (call, outcome) in changes(&rig, &volume) {
        assert!(
            matches!(&outcome, Err(Error::Precondition(why)) if why.contains("read-only")),
            "{call}: {outcome:?}"
        );
    }
    rig.look();
    assert!(rig.engine().delete_volume(&volume.id).is_err());
    run("mount", &[Path::new("-oremount,rw"), &rig.setup.path]);
    rig.reconnect();
    rig.engine().delete_volume(&volume.id).unwrap();
}

#[test]
fn what_is_mounted_of_a_pool_that_is_gone_is_unmounted_and_let_go() {
    let rig = Rig::image();
    let (volume, raw) = (rig.create("a", EXT4, 64), rig.create("raw", BLOCK, 10));
    rig.publish("a", &volume, EXT4);
    rig.publish("raw", &raw, BLOCK);
    let images = [&volume, &raw].map(|volume| fs::metadata(rig.object(&volume.id)).unwrap());
    run("umount", &[Path::new("-l"), &rig.setup.path]);
    for (call, outcome) in changes(&rig, &volume) {
        assert!(matches!(&outcome, Err(Error::Unavailable(_))), "{call}: {outcome:?}");
    }
    for (name, volume) in [("a", &volume), ("raw", &raw)] {
        rig.engine().unpublish(&volume.id, &rig.target(name)).unwrap();
        rig.engine().unstage(&volume.id, &rig.staging(name)).unwrap();
    }
    assert!(rig.mounts().is_empty());
    for image in images {
        assert_eq!(loopdev::find(image.dev(), image.ino()).unwrap().len(), 0);
    }
    assert_eq!(fs::read_dir(&rig.setup.path).unwrap().count(), 0, "something was written beneath");
    rig.look();
    rig.reconnect();
    rig.engine().delete_volume(&volume.id).unwrap();
}

#[test]
fn an_empty_target_that_a_reboot_left_goes_while_the_pool_is_away() {
    let mut rig = Rig::image_on(&PLAIN_EXT4, 512);
    let (volume, raw) = (rig.create("a", EXT4, 64), rig.create("raw", BLOCK, 10));
    rig.publish("a", &volume, EXT4);
    rig.unpublish("a", &volume);
    rig.publish("raw", &raw, BLOCK);
    rig.unpublish("raw", &raw);
    fs::create_dir(rig.target("a")).unwrap();
    fs::write(rig.target("raw"), "").unwrap();
    rig.stop();
    run("umount", &[&rig.setup.path]);
    rig.restart();
    assert!(rig.engine().pools()[0].away.is_some(), "the disk comes later");
    let kept = rig.target("a").join("kept");
    fs::write(&kept, "somebody's").unwrap();
    assert!(matches!(rig.engine().unpublish(&volume.id, &rig.target("a")), Err(Error::Precondition(_))));
    fs::remove_file(&kept).unwrap();
    for (name, volume) in [("a", &volume), ("raw", &raw)] {
        rig.engine().unpublish(&volume.id, &rig.target(name)).unwrap();
        assert!(!rig.target(name).exists(), "{name}");
    }
    rig.mount_again();
    rig.reconnect();
    rig.engine().delete_volume(&volume.id).unwrap();
}

#[test]
fn what_was_known_last_is_the_room_of_a_pool_that_is_busy_and_of_no_other() {
    let rig = Rig::image_on(&PLAIN_EXT4, 512);
    let (index, query) = (rig.engine().indexes().next().unwrap(), CapacityQuery::default());
    let unasked = |error: &Error| rig.engine().room_unasked(index, &query, error);
    let busy = Error::Unavailable("it did not answer in time".to_owned());
    for _ in 0..2 {
        assert_eq!(unasked(&busy), rig.engine().room(index, &query).unwrap());
        rig.create("a", BLOCK, 100);
    }
    assert_eq!(unasked(&Error::Corrupt("its filesystem gave up".to_owned())).maximum, Bytes::ZERO);
    run("umount", &[Path::new("-l"), &rig.setup.path]);
    rig.look();
    assert!(rig.engine().pools()[0].away.is_some(), "closed");
    assert_eq!(unasked(&busy).maximum, Bytes::ZERO);
}

#[test]
fn a_disk_that_is_pulled_is_gone_until_it_is_read_again() {
    let rig = Rig::image_on(&PLAIN_EXT4, 512);
    let gone = || rig.engine().pools()[0].gone;
    rig.look();
    assert!(!gone());
    run("umount", &[Path::new("-l"), &rig.setup.path]);
    rig.look();
    assert!(gone(), "{:?}", rig.engine().pools()[0].away);
    rig.look();
    assert!(gone(), "{:?}", rig.engine().pools()[0].away);
    // It is back, and what lies on it cannot be told.
    rig.mount_again();
    let marker = rig.setup.path.join("pool.json");
    let text = fs::read(&marker).unwrap();
    fs::write(&marker, "{").unwrap();
    rig.look();
    assert!(!gone() && rig.engine().pools()[0].away.is_some());
    fs::write(&marker, text).unwrap();
    rig.reconnect();
    assert!(!gone());
}

#[test]
fn a_raw_volume_unstaged_while_its_pool_was_closed_is_let_go_when_it_is_back() {
    for killed in [false, true] {
        let mut rig = Rig::image_on(&PLAIN_EXT4, 512);
        let (left, used) = (rig.create("left", BLOCK, 10), rig.create("used", BLOCK, 10));
        let staged = rig.create("staged", BLOCK, 10);
        for (name, volume) in [("left", &left), ("used", &used)] {
            rig.publish(name, volume, BLOCK);
        }
        rig.engine().stage(&rig.stage_of("staged", &staged, BLOCK)).unwrap();
        let images = [&left, &used, &staged].map(|volume| fs::metadata(rig.object(&volume.id)).unwrap());
        let devices =
            || images.each_ref().map(|image| loopdev::find(image.dev(), image.ino()).unwrap().len());
        run("umount", &[Path::new("-l"), &rig.setup.path]);
        rig.look();
        assert!(rig.engine().pools()[0].away.is_some(), "closed");
        rig.engine().unpublish(&left.id, &rig.target("left")).unwrap();
        rig.engine().unstage(&left.id, &rig.staging("left")).unwrap();
        assert_eq!(devices(), [1, 1, 1], "without its pool nobody knows whose it is");
        if killed {
            rig.stop();
        }
        rig.mount_again();
        if killed {
            rig.restart();
        } else {
            rig.reconnect();
        }
        let gone = (0..100).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            devices() == [0, 1, 1]
        });
        assert!(gone, "{:?}", devices());
        write_block(&rig.target("used"), 0, 7).unwrap();
        rig.unpublish("used", &used);
        rig.engine().unstage(&staged.id, &rig.staging("staged")).unwrap();
        for volume in [&left, &used, &staged] {
            rig.engine().delete_volume(&volume.id).unwrap();
        }
    }
}

#[test]
fn another_pool_at_its_place_is_not_touched_and_the_right_one_is_used_when_it_is_back() {
    let (rig, other) = (Rig::image_on(&PLAIN_EXT4, 512), Rig::image());
    let volume = rig.create("a", EXT4, 64);
    run("umount", &[Path::new("-l"), &rig.setup.path]);
    run("mount", &[Path::new("--bind"), &other.setup.path, &rig.setup.path]);
    let before = snapshot_of(&other.setup.path);
    for _ in 0..3 {
        for (call, outcome) in changes(&rig, &volume) {
            assert!(matches!(&outcome, Err(Error::Unavailable(_))), "{call}: {outcome:?}");
        }
        rig.look();
    }
    let Err(Error::Unavailable(why)) = rig.engine().volume(&volume.id) else {
        panic!("found on another disk")
    };
    assert!(why.contains("`p`"), "{why}");
    assert_eq!(snapshot_of(&other.setup.path), before);
    other.create("b", BLOCK, 10);
    assert!(unmounted(&rig.setup.path));
    rig.mount_again();
    rig.reconnect();
    rig.engine().delete_volume(&volume.id).unwrap();
}

/// Every file below a directory with the time of its last change.
fn snapshot_of(dir: &Path) -> Vec<(std::path::PathBuf, i64, i64)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        let stat = fs::symlink_metadata(&entry).unwrap();
        all.push((entry.clone(), stat.ctime(), stat.ctime_nsec()));
        if stat.is_dir() {
            all.extend(snapshot_of(&entry));
        }
    }
    all.sort();
    all
}

#[test]
fn a_pool_of_a_newer_release_is_left_as_it_is_until_it_can_be_read() {
    let mut rig = Rig::image();
    let volume = rig.create("a", EXT4, 64);
    rig.stop();
    let marker = rig.setup.path.join("pool.json");
    let text = fs::read_to_string(&marker).unwrap();
    let newer = text.replace("\"schema\": 1", "\"schema\": 2");
    assert_ne!(newer, text);
    fs::write(&marker, &newer).unwrap();
    let before = snapshot_of(&rig.setup.path);
    rig.restart();
    let Err(Error::Unavailable(why)) = rig.engine().volume(&volume.id) else { panic!("read") };
    assert!(why.contains("newer") || why.contains("not connected"), "{why}");
    assert!(matches!(rig.engine().create_volume(&wanted("b", BLOCK, 10)), Err(Error::Unavailable(_))));
    assert_eq!(snapshot_of(&rig.setup.path), before);
    fs::write(&marker, text).unwrap();
    rig.reconnect();
    rig.engine().delete_volume(&volume.id).unwrap();
}

#[test]
fn a_record_of_a_newer_release_is_left_as_it_is_and_the_others_serve() {
    let mut rig = Rig::image();
    let (volume, other) = (rig.create("a", BLOCK, 10), rig.create("b", BLOCK, 10));
    rig.stop();
    let record = rig.setup.path.join("records").join(volume.id.to_string());
    let body = r#"{"schema":2,"pool":"000000000000","generation":7,"record":{"future":{"id":1}}}"#;
    let newer = format!(r#"{{"checksum":"{:08x}","body":{body}}}"#, crc32c::crc32c(body.as_bytes()));
    fs::write(&record, &newer).unwrap();
    rig.restart();
    let Err(Error::Unavailable(why)) = rig.engine().volume(&volume.id) else { panic!("read") };
    assert!(why.contains("schema 2 is newer"), "{why}");
    assert!(matches!(rig.engine().delete_volume(&volume.id), Err(Error::Unavailable(_))));
    assert!(rig.object(&volume.id).exists());
    assert_eq!(fs::read_to_string(&record).unwrap(), newer);
    rig.engine().delete_volume(&other.id).unwrap();
}

#[test]
fn what_is_published_is_not_unstaged_though_a_start_found_no_pool() {
    for (mut rig, asked) in
        [(Rig::image(), EXT4), (Rig::image(), BLOCK), (Rig::directory(), Asked::Mount(None))]
    {
        let volume = rig.create("a", asked, 64);
        rig.publish("a", &volume, asked);
        rig.stop();
        let marker = rig.setup.path.join("pool.json");
        let hidden = rig.setup.path.join("hidden");
        fs::rename(&marker, &hidden).unwrap();
        rig.restart();
        let refused = rig.engine().unstage(&volume.id, &rig.staging("a"));
        assert!(matches!(&refused, Err(Error::Precondition(_))), "{asked:?}: {refused:?}");
        rig.engine().unpublish(&volume.id, &rig.target("a")).unwrap();
        rig.engine().unstage(&volume.id, &rig.staging("a")).unwrap();
        assert!(rig.mounts().is_empty());
        fs::rename(&hidden, &marker).unwrap();
        rig.reconnect();
        assert!(rig.has_loops(&volume.id, 0), "{asked:?}: its device stays");
        rig.engine().delete_volume(&volume.id).unwrap();
    }
}

#[test]
fn a_mount_that_a_killed_driver_did_not_note_goes_as_soon_as_it_is_known_whose_it_is() {
    for asked in [EXT4, BLOCK] {
        for retried in [true, false] {
            let mut rig = Rig::image();
            let volume = rig.create("a", asked, 64);
            rig.publish("a", &volume, asked);
            rig.stop();
            for note in fs::read_dir(rig.dir.path().join("state/mounts")).unwrap() {
                fs::remove_file(note.unwrap().path()).unwrap();
            }
            rig.restart();
            if retried {
                rig.publish("a", &volume, asked);
            }
            rig.stop();
            let (marker, hidden) = (rig.setup.path.join("pool.json"), rig.setup.path.join("hidden"));
            fs::rename(&marker, &hidden).unwrap();
            rig.restart();
            let unpublished = rig.engine().unpublish(&volume.id, &rig.target("a"));
            if !retried {
                assert!(matches!(&unpublished, Err(Error::Unavailable(_))), "{asked:?}: {unpublished:?}");
                fs::rename(&hidden, &marker).unwrap();
                rig.reconnect();
                rig.engine().unpublish(&volume.id, &rig.target("a")).unwrap();
            }
            rig.engine().unstage(&volume.id, &rig.staging("a")).unwrap();
            assert!(rig.mounts().is_empty(), "{asked:?}: {unpublished:?}");
            let _ = fs::rename(&hidden, &marker);
        }
    }
}

#[test]
fn what_a_crash_left_is_not_over_while_its_pool_is_read_only() {
    let mut rig = Rig::image();
    let phases =
        [("made", "\"creating\""), ("gone", "\"deleting\""), ("grown", "{\"growing\":{\"to\":83886080}}")];
    let volumes = phases.map(|(name, phase)| (rig.create(name, BLOCK, 64), phase));
    rig.stop();
    for (volume, phase) in &volumes {
        rewrite(&rig.setup.path.join("records").join(volume.id.to_string()), "\"ready\"", phase);
    }
    run("mount", &[Path::new("-oremount,ro"), &rig.setup.path]);
    rig.restart();
    let [made, gone, grown] = volumes.map(|(volume, _)| volume);
    let range = Range { required: Some(Bytes::MIB.times(80)), limit: None };
    for (call, outcome) in [
        ("create", rig.engine().create_volume(&wanted("made", BLOCK, 64)).map(drop)),
        ("delete of it", rig.engine().delete_volume(&made.id)),
        ("delete", rig.engine().delete_volume(&gone.id)),
        ("expand", rig.engine().expand_volume(&grown.id, &range, None).map(drop)),
    ] {
        assert!(matches!(&outcome, Err(Error::Unavailable(_))), "{call}: {outcome:?}");
    }
    run("mount", &[Path::new("-oremount,rw"), &rig.setup.path]);
    rig.reconnect();
    rig.engine().create_volume(&wanted("made", BLOCK, 64)).unwrap();
    rig.engine().delete_volume(&gone.id).unwrap();
    assert_eq!(rig.engine().expand_volume(&grown.id, &range, None).unwrap().0.size, Bytes::MIB.times(80));
}

#[test]
fn a_raw_volume_whose_mounts_went_before_their_notes_is_let_go_as_well() {
    let mut rig = Rig::image_on(&PLAIN_EXT4, 512);
    let volume = rig.create("left", BLOCK, 10);
    rig.publish("left", &volume, BLOCK);
    let image = fs::metadata(rig.object(&volume.id)).unwrap();
    let notes = rig.dir.path().join("state/mounts");
    // As a driver leaves them that is killed between an unmount and its note.
    for point in [rig.target("left"), rig.staging("left").join("device")] {
        run("umount", &[&point]);
    }
    assert_eq!(fs::read_dir(&notes).unwrap().count(), 2);
    rig.stop();
    run("umount", &[Path::new("-l"), &rig.setup.path]);
    rig.restart();
    assert!(rig.engine().pools()[0].away.is_some(), "the disk comes later");
    rig.engine().unpublish(&volume.id, &rig.target("left")).unwrap();
    rig.engine().unstage(&volume.id, &rig.staging("left")).unwrap();
    assert_eq!(fs::read_dir(&notes).unwrap().count(), 0, "the notes outlive their mounts");
    rig.mount_again();
    rig.reconnect();
    let gone = soon(|| loopdev::find(image.dev(), image.ino()).unwrap().is_empty());
    assert!(gone, "a note of a mount that is gone keeps the device");
    rig.engine().delete_volume(&volume.id).unwrap();
}

#[test]
fn what_is_asked_again_where_nothing_is_left_forgets_what_was_noted_there() {
    let rig = Rig::image();
    let volume = rig.create("a", EXT4, 64);
    let notes = || fs::read_dir(rig.dir.path().join("state/mounts")).unwrap().count();
    let target = rig.publish("a", &volume, EXT4);
    assert_eq!(notes(), 2);
    run("umount", &[&target]);
    fs::remove_dir(&target).unwrap();
    let other = rig.create("b", EXT4, 64);
    rig.engine().unpublish(&other.id, &target).unwrap();
    assert_eq!(notes(), 2, "it is about another volume");
    rig.engine().unpublish(&volume.id, &target).unwrap();
    assert_eq!(notes(), 1);
    run("umount", &[&rig.staging("a")]);
    fs::remove_dir(rig.staging("a")).unwrap();
    rig.engine().unstage(&volume.id, &rig.dir.path().join("kubelet/staging/a")).unwrap();
    assert_eq!(notes(), 0);
}
