//! What goes wrong around the driver: mounts that others keep, a disk without a byte left, deaths in the middle.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rockpool::engine::{Code, Engine, EngineConfig, Files, PoolConfig};
use rockpool::error::Error;
use rockpool::model::{Asked, Bytes, CreateGroup, CreateSnapshot, CreateVolume, Range, Retention, Source};
use rockpool::os::fs::{Thawed, thaw};
use rockpool::os::mount::{self, Tree};
use rockpool::pool::{Kind, Quota, Setup};

use crate::rig::{BLOCK, EXT4, MIB, Rig, XFS, put, run, unmounted, wanted};

#[test]
fn a_mount_that_we_cannot_see_never_leads_to_a_second_device() {
    let rig = Rig::image();
    let volume = rig.create("a", EXT4, 64);
    put(&rig.publish("a", &volume, EXT4).join("file"), "kept");
    // In no table that we can read, as one of another namespace; which would keep those of all other tests as well.
    let kept = Tree::clone_of(File::open(rig.target("a")).unwrap()).unwrap();
    rig.unpublish("a", &volume);
    assert!(rig.has_loops(&volume.id, 1), "somebody holds it");
    put(&rig.publish("a", &volume, EXT4).join("more"), "kept");
    assert!(rig.has_loops(&volume.id, 1), "two devices on one image destroy its filesystem");
    rig.unpublish("a", &volume);
    let refused = rig.engine().delete_volume(&volume.id);
    assert!(matches!(&refused, Err(Error::Precondition(_))), "{refused:?}");
    assert!(rig.object(&volume.id).exists());
    drop(kept);
    rig.engine().delete_volume(&volume.id).unwrap();
    assert!(rig.objects().is_empty());
}

#[test]
fn an_orphan_in_which_a_stranger_mounted_something_is_not_begun_to_be_deleted() {
    let mut rig = Rig::directory();
    let _strangers = Strangers(rig.dir.path().to_owned());
    let volume = rig.create("a", Asked::Mount(None), 10);
    let object = rig.object(&volume.id);
    let sub = object.join("sub");
    fs::create_dir(&sub).unwrap();
    put(&object.join("file"), "kept");
    rig.stop();
    fs::remove_file(rig.setup.path.join("records").join(volume.id.to_string())).unwrap();
    rig.restart();
    let id = volume.id.to_string();
    run("mount", &[Path::new("-ttmpfs"), Path::new("stranger"), &sub]);
    let refused = rig.engine().mend("p", Code::OrphanObject, Some(&id));
    run("umount", &[&sub]);
    let Err(Error::Precondition(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains(sub.to_str().unwrap()), "{why}");
    assert_eq!(fs::read_to_string(object.join("file")).unwrap(), "kept");
    assert!(sub.is_dir());
    rig.engine().mend("p", Code::OrphanObject, Some(&id)).unwrap();
    assert!(!object.exists());
}

#[test]
fn a_directory_in_which_a_stranger_mounted_something_is_not_begun_to_be_deleted() {
    let rig = Rig::directory();
    let _strangers = Strangers(rig.dir.path().to_owned());
    let volume = rig.create("a", Asked::Mount(None), 10);
    let sub = rig.object(&volume.id).join("sub");
    fs::create_dir(&sub).unwrap();
    put(&rig.object(&volume.id).join("file"), "kept");
    // Also through another mount of the pool, at which nobody finds it by its path.
    let other = rig.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    for through in [rig.setup.path.as_path(), &other] {
        if through == other {
            run("mount", &[Path::new("--bind"), &rig.setup.path, &other]);
            run("mount", &[Path::new("--make-private"), &other]);
        }
        let point = through.join("volumes").join(volume.id.to_string()).join("sub");
        run("mount", &[Path::new("-ttmpfs"), Path::new("stranger"), &point]);
        let refused = rig.engine().delete_volume(&volume.id);
        run("umount", &[&point]);
        let Err(Error::Precondition(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains(point.to_str().unwrap()), "{why}");
        assert_eq!(fs::read_to_string(rig.object(&volume.id).join("file")).unwrap(), "kept");
        assert_eq!(rig.engine().volumes(None, 9).len(), 1, "nothing changed");
    }
    run("umount", &[&other]);
    rig.engine().delete_volume(&volume.id).unwrap();
    assert!(rig.objects().is_empty());
}

/// Whatever is mounted below a path, unmounted with the test, wherever a delete that should not have begun moved it.
struct Strangers(PathBuf);

impl Drop for Strangers {
    fn drop(&mut self) {
        let table = mount::table().unwrap_or_default();
        let left = table.iter().rev().filter(|mount| mount.point.starts_with(&self.0));
        left.for_each(|mount| {
            let _ = unmounted(&mount.point);
        });
    }
}

#[test]
fn a_raw_device_that_somebody_holds_open_is_the_one_that_is_staged_again() {
    let rig = Rig::image();
    let volume = rig.create("a", BLOCK, 10);
    rig.publish("a", &volume, BLOCK);
    let image = fs::metadata(rig.object(&volume.id)).unwrap();
    let device = rockpool::os::loopdev::find(image.dev(), image.ino()).unwrap()[0].device;
    let held = File::open(device.path()).unwrap();
    rig.unpublish("a", &volume);
    rig.publish("a", &volume, BLOCK);
    assert!(rig.has_loops(&volume.id, 1));
    drop(held);
    assert!(rig.has_loops(&volume.id, 1), "it is staged, so it stays");
    rig.unpublish("a", &volume);
    assert!(rig.has_loops(&volume.id, 0), "the device stays");
}

#[test]
fn what_a_killed_group_snapshot_left_frozen_is_thawed_at_the_next_start_and_nothing_else() {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let boot = boot.trim();
    for (noted, first) in
        [(None, Thawed::Now), (Some("another boot"), Thawed::Now), (Some(boot), Thawed::WasNot)]
    {
        frozen_at_the_start(noted, first);
    }
}

/// A group that was not finished, with this in its note about a freeze; and what became of its volumes, which are frozen.
fn frozen_at_the_start(noted: Option<&str>, ours: Thawed) {
    let mut rig = Rig::image();
    let one = rig.create("one", EXT4, 64);
    let two = rig.create("two", XFS, 300);
    let other = rig.create("other", EXT4, 64);
    let mounts = [("one", &one, EXT4), ("two", &two, XFS), ("other", &other, EXT4)]
        .map(|(name, volume, asked)| rig.publish(name, volume, asked));
    let want =
        CreateGroup { name: "g".to_owned(), sources: vec![one.id, two.id], parameters: Default::default() };
    let (group, _) = rig.engine().create_group(&want).unwrap();
    rig.stop();
    rewrite(&rig.setup.path.join("records").join(group.id.to_string()), "\"ready\"", "\"creating\"");
    let notes = rig.dir.path().join("state/freezes");
    assert_eq!(fs::read_dir(&notes).unwrap().count(), 0, "a freeze that is over is noted");
    noted.iter().for_each(|boot| put(&notes.join(group.id.to_string()), boot));
    let roots = mounts.each_ref().map(|mount| File::open(mount).unwrap());
    let thawed = Thaws(&roots);
    mounts.iter().for_each(|mount| run("fsfreeze", &[Path::new("-f"), mount]));
    rig.restart();
    let after: Vec<_> = roots.iter().map(|root| thaw(root).unwrap()).collect();
    assert_eq!(after, [ours, ours, Thawed::Now], "a backup hook's freeze is not ours: {noted:?}");
    assert_eq!(fs::read_dir(&notes).unwrap().count(), 0);
    drop(thawed);
    assert!(rig.engine().listed_snapshots(None, None, 10).unwrap().is_empty());
    drop(roots);
}

#[test]
fn a_group_whose_volumes_cannot_be_thawed_is_kept_and_tried_again_at_the_next_start() {
    let mut rig = Rig::image();
    let volumes = ["one", "two"].map(|name| (name, rig.create(name, EXT4, 64)));
    let mounts = volumes.each_ref().map(|(name, volume)| rig.publish(name, volume, EXT4));
    let sources = volumes.iter().map(|(_, volume)| volume.id).collect();
    let want = CreateGroup { name: "g".to_owned(), sources, parameters: Default::default() };
    let (group, _) = rig.engine().create_group(&want).unwrap();
    rig.stop();
    rewrite(&rig.setup.path.join("records").join(group.id.to_string()), "\"ready\"", "\"creating\"");
    let notes = rig.dir.path().join("state/freezes");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    put(&notes.join(group.id.to_string()), boot.trim());
    let roots = mounts.each_ref().map(|mount| File::open(mount).unwrap());
    let thawed = Thaws(&roots);
    mounts.iter().for_each(|mount| run("fsfreeze", &[Path::new("-f"), mount]));
    let hidden = [rig.staging("one"), rig.target("one")];
    hidden.iter().for_each(|point| run("mount", &[Path::new("-ttmpfs"), Path::new("stranger"), point]));
    rig.restart();
    assert_eq!(thaw(&roots[1]).unwrap(), Thawed::WasNot, "one that resists keeps another frozen");
    assert_eq!(fs::read_dir(&notes).unwrap().count(), 1, "nobody would thaw the other");
    hidden.iter().for_each(|point| run("umount", &[point]));
    rig.restart();
    let after = roots.each_ref().map(|root| thaw(root).unwrap());
    assert_eq!(after, [Thawed::WasNot, Thawed::WasNot]);
    assert_eq!(fs::read_dir(&notes).unwrap().count(), 0);
    assert!(rig.engine().listed_snapshots(None, None, 10).unwrap().is_empty());
    drop(thawed);
    drop(roots);
}

/// Nothing stays frozen after a test that failed.
struct Thaws<'a>(&'a [File]);

impl Drop for Thaws<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|root| drop(thaw(root)));
    }
}

#[test]
fn a_stage_that_fails_leaves_neither_mount_nor_device() {
    for (asked, mib) in [(EXT4, 64), (BLOCK, 10)] {
        let rig = Rig::image();
        let volume = rig.create("a", asked, mib);
        let notes = rig.dir.path().join("state/mounts");
        fs::remove_dir(&notes).unwrap();
        rig.engine().stage(&rig.stage_of("a", &volume, asked)).unwrap_err();
        assert!(rig.mounts().is_empty(), "{:?}", rig.mounts());
        assert!(rig.has_loops(&volume.id, 0));
        assert!(rig.staging("a").read_dir().unwrap().next().is_none());
    }
}

#[test]
fn an_ext4_that_fills_its_device_is_not_checked_at_every_stage() {
    let rig = Rig::image();
    // The last group would have 256 blocks, which mke2fs leaves alone.
    let volume = rig.create("a", EXT4, 1025);
    let checked = || {
        let mut time = [0; 4];
        File::open(rig.object(&volume.id)).unwrap().read_exact_at(&mut time, 1024 + 0x40).unwrap();
        u32::from_le_bytes(time)
    };
    let before = checked();
    std::thread::sleep(Duration::from_millis(1100));
    rig.publish("a", &volume, EXT4);
    rig.unpublish("a", &volume);
    assert_eq!(checked(), before, "e2fsck ran");
}

#[test]
fn a_name_is_not_made_a_second_time_while_a_pool_that_may_hold_it_was_never_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("kubelet")).unwrap();
    let pool = |name: &str, kind, path: PathBuf| PoolConfig {
        setup: Setup {
            name: name.to_owned(),
            kind,
            path,
            file: None,
            device: None,
            quota: Quota::None,
            size: Some(Bytes::GIB),
        },
        overcommit: 1.0,
        reserve: 0.0,
        retain: Retention::NONE,
    };
    let away = dir.path().join("away");
    let engine = Engine::open(EngineConfig {
        pools: vec![pool("away", Kind::Directory, away), pool("here", Kind::Sim, dir.path().join("sim"))],
        kubelet_root: dir.path().join("kubelet"),
        state_dir: dir.path().join("state"),
        files: Files::Shared,
    })
    .unwrap();
    let anywhere = wanted("a", Asked::Mount(None), 64);
    let refused = engine.create_volume(&anywhere);
    assert!(matches!(&refused, Err(Error::Unavailable(_))), "{refused:?}");
    engine.create_volume(&CreateVolume { pool: Some("here".to_owned()), ..anywhere }).unwrap();
}

#[test]
fn a_volume_that_is_to_be_its_own_clone_is_a_conflict() {
    let rig = Rig::image();
    let volume = rig.create("a", EXT4, 64);
    let want = CreateVolume { source: Source::Volume(volume.id), ..wanted("a", EXT4, 64) };
    let refused = rig.engine().create_volume(&want);
    assert!(matches!(&refused, Err(Error::Conflict(_))), "{refused:?}");
}

#[test]
fn a_cut_of_a_volume_whose_growth_broke_off_can_be_restored() {
    let mut rig = Rig::image();
    let volume = rig.create("a", BLOCK, 10);
    let image = rig.object(&volume.id);
    rig.stop();
    let record = rig.setup.path.join("records").join(volume.id.to_string());
    rewrite(&record, "\"ready\"", &format!("{{\"growing\":{{\"to\":{}}}}}", 20 * MIB));
    fs::OpenOptions::new().write(true).open(&image).unwrap().set_len(20 * MIB).unwrap();
    run("chattr", &[Path::new("+i"), &image]);
    rig.restart();
    let want = CreateSnapshot { name: "s".to_owned(), source: volume.id, parameters: Default::default() };
    let cut = rig.engine().create_snapshot(&want);
    run("chattr", &[Path::new("-i"), &image]);
    let cut = cut.unwrap();
    rig.create_from("restored", BLOCK, cut.size.get() / MIB, Source::Snapshot(cut.id));
}

#[test]
fn a_directory_of_which_a_part_is_mounted_is_in_use() {
    let rig = Rig::directory();
    let any = Asked::Mount(None);
    let (volume, other) = (rig.create("a", any, 10), rig.create("other", any, 10));
    let part = rig.publish("a", &volume, any).join("part").join(other.id.to_string());
    fs::create_dir_all(&part).unwrap();
    let bound = rig.staging("subpath");
    run("mount", &[Path::new("--bind"), &part, &bound]);
    assert!(rig.engine().unstage(&volume.id, &rig.staging("a")).is_err());
    rig.engine().unpublish(&volume.id, &rig.target("a")).unwrap();
    let refused = rig.engine().delete_volume(&volume.id);
    assert!(matches!(&refused, Err(Error::Precondition(_))), "{refused:?}");
    rig.engine().delete_volume(&other.id).expect("a tenant's names say nothing about another volume");
    assert!(unmounted(&bound));
    rig.engine().unstage(&volume.id, &rig.staging("a")).unwrap();
    rig.engine().delete_volume(&volume.id).unwrap();
}

#[test]
fn a_directory_volume_that_vanished_can_be_deleted() {
    let rig = Rig::directory();
    let volume = rig.create("a", Asked::Mount(None), 10);
    assert_eq!(rig.orphans(), Vec::<String>::new());
    fs::remove_dir(rig.object(&volume.id)).unwrap();
    assert!(matches!(&rig.orphans()[..], [lost] if lost.contains(&volume.id.to_string())));
    rig.engine().delete_volume(&volume.id).unwrap();
    assert!(rig.objects().is_empty(), "{:?}", rig.objects());
}

#[test]
fn what_is_recorded_but_not_finished_is_never_said_to_be_over() {
    let rig = Rig::image();
    let volume = rig.create("a", BLOCK, 10);
    let image = rig.object(&volume.id);
    run("chattr", &[Path::new("+i"), &image]);
    let range = Range { required: Some(Bytes::MIB.times(20)), limit: None };
    let grown = rig.engine().expand_volume(&volume.id, &range, None);
    let deleted = rig.engine().delete_volume(&volume.id);
    run("chattr", &[Path::new("-i"), &image]);
    assert!(matches!(&grown, Err(Error::Unavailable(_))), "{grown:?}");
    assert!(matches!(&deleted, Err(Error::Unavailable(_))), "{deleted:?}");
    rig.engine().delete_volume(&volume.id).unwrap();
    assert!(rig.objects().is_empty());
}

#[test]
fn a_pool_whose_marker_is_spoilt_keeps_nobody_from_starting() {
    let mut rig = Rig::directory();
    let marker = rig.setup.path.join("pool.json");
    let text = fs::read_to_string(&marker).unwrap();
    rig.stop();
    fs::write(&marker, "{").unwrap();
    rig.restart();
    assert!(rig.ailment().is_some_and(|why| why.contains("pool.json")));
    fs::write(&marker, text).unwrap();
    rig.reconnect();
}

/// Changes a record as an interrupted driver would have left it, with the right checksum.
pub(crate) fn rewrite(record: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(record).unwrap();
    let (head, body) = text.split_once("\"body\":").unwrap();
    assert!(head.contains("checksum") && body.contains(from));
    let body = body.trim_end().strip_suffix('}').unwrap().replacen(from, to, 1);
    let sum = crc32c::crc32c(body.as_bytes());
    put(record, &format!("{{\"checksum\":\"{sum:08x}\",\"body\":{body}}}\n"));
}
