//! Stage, publish and everything around them, on real loop devices, filesystems and mounts.
//!
//! They need root, loop devices, xfs with reflink and ext4. Each test has a node of its own and takes it down again.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests look at files and mounts directly")]

mod full;
mod losses;
mod mishaps;
mod notes;
mod quarantine;
mod retained;
mod rig;
mod states;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use rig::{
    BLOCK, EXT4, MIB, Rig, XFS, capability, device_size, put, read_block, run, soon, wanted, write_block,
};
use rockpool::engine::{Mode, NodeExpand, NodeExpansion, Writes};
use rockpool::error::Error;
use rockpool::model::{Asked, Bytes, CreateGroup, CreateSnapshot, Range, Source, Volume};

fn mounted_life(asked: Asked, mib: u64) {
    let rig = Rig::image();
    let volume = rig.create("a", asked, mib);
    let target = rig.publish("a", &volume, asked);
    put(&target.join("file"), "kept");
    let space = rustix::fs::statvfs(&target).unwrap();
    assert!(space.f_blocks * space.f_frsize <= mib * MIB, "no more than the volume's size");
    assert!(space.f_blocks * space.f_frsize >= mib * MIB * 7 / 10);
    assert!(rig.has_loops(&volume.id, 1));
    let options = rig.mounts().into_iter().find(|mount| mount.point == target).unwrap().options;
    assert!(options.contains("nosuid") && options.contains("nodev"), "{options}");
    rig.unpublish("a", &volume);
    assert!(rig.mounts().is_empty() && !target.exists());
    assert!(rig.has_loops(&volume.id, 0));
    rig.publish("a", &volume, asked);
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "kept");
    rig.unpublish("a", &volume);
    rig.engine().delete_volume(&volume.id).unwrap();
    assert_eq!(rig.objects(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn an_ext4_volume_lives_and_leaves_nothing() {
    mounted_life(EXT4, 64);
}

#[test]
fn an_xfs_volume_lives_and_leaves_nothing() {
    mounted_life(XFS, 512);
}

#[test]
fn a_raw_volume_is_a_device_of_exactly_its_size() {
    let rig = Rig::image();
    let volume = rig.create("a", BLOCK, 10);
    let target = rig.publish("a", &volume, BLOCK);
    assert_eq!(device_size(&target), 10 * MIB);
    write_block(&target, 4096, 7).unwrap();
    rig.unpublish("a", &volume);
    assert!(!target.exists() && rig.has_loops(&volume.id, 0));
    assert!(rig.staging("a").read_dir().unwrap().next().is_none(), "the staging directory is left empty");
    let target = rig.publish("a", &volume, BLOCK);
    assert_eq!((read_block(&target, 4096), read_block(&target, 0)), (7, 0));
    rig.unpublish("a", &volume);
}

#[test]
fn a_directory_volume_is_bound_into_place() {
    let rig = Rig::directory();
    let volume = rig.create("a", Asked::Mount(None), 10);
    let target = rig.publish("a", &volume, Asked::Mount(None));
    put(&target.join("file"), "kept");
    assert_eq!(fs::read_to_string(rig.object(&volume.id).join("file")).unwrap(), "kept");
    assert!(matches!(rig.engine().delete_volume(&volume.id), Err(Error::Precondition(_))));
    rig.unpublish("a", &volume);
    rig.engine().delete_volume(&volume.id).unwrap();
    assert!(rig.objects().is_empty());
}

#[test]
fn staging_again_is_one_mount_and_staging_otherwise_is_refused() {
    let rig = Rig::image();
    let volume = rig.create("a", EXT4, 64);
    let mut stage = rig.stage_of("a", &volume, EXT4);
    rig.engine().stage(&stage).unwrap();
    rig.engine().stage(&stage).unwrap();
    assert_eq!(rig.mounts().len(), 1);
    stage.capability.flags = vec!["noatime".to_owned()];
    assert!(matches!(rig.engine().stage(&stage), Err(Error::Conflict(_))));
    stage.capability.flags.clear();
    stage.capability.mode = Mode::MultiWriter;
    assert!(matches!(rig.engine().stage(&stage), Err(Error::Conflict(_))));
    let elsewhere = rig.stage_of("b", &volume, EXT4);
    assert!(matches!(rig.engine().stage(&elsewhere), Err(Error::Precondition(_))));
    let as_block = rig.stage_of("a", &volume, BLOCK);
    assert!(matches!(rig.engine().stage(&as_block), Err(Error::Invalid(_))));
    let as_xfs = rig.stage_of("a", &volume, XFS);
    assert!(matches!(rig.engine().stage(&as_xfs), Err(Error::Invalid(_))));
    assert_eq!(rig.mounts().len(), 1);
}

#[test]
fn publishing_again_is_one_mount_and_publishing_otherwise_is_refused() {
    let rig = Rig::image();
    let volume = rig.create("a", EXT4, 64);
    rig.publish("a", &volume, EXT4);
    let mut publish = rig.publish_of("a", "a", &volume, EXT4);
    rig.engine().publish(&publish).unwrap();
    assert_eq!(rig.mounts().len(), 2);
    publish.writes = Writes::Refused;
    assert!(matches!(rig.engine().publish(&publish), Err(Error::Conflict(_))));
    let second = rig.publish_of("a", "b", &volume, EXT4);
    let refused = rig.engine().publish(&second).unwrap_err();
    assert!(
        matches!(&refused, Error::Precondition(why) if why.contains("SINGLE_NODE_MULTI_WRITER")),
        "{refused}"
    );
    assert!(!rig.target("b").exists());
    assert!(matches!(rig.engine().unstage(&volume.id, &rig.staging("a")), Err(Error::Precondition(_))));
    assert_eq!(rig.mounts().len(), 2);
}

#[test]
fn many_writers_share_a_volume_only_if_all_said_so() {
    let rig = Rig::image();
    let volume = rig.create("a", EXT4, 64);
    rig.engine().stage(&rig.stage_of("a", &volume, EXT4)).unwrap();
    for target in ["one", "two"] {
        let mut publish = rig.publish_of("a", target, &volume, EXT4);
        publish.capability = capability(EXT4, Mode::MultiWriter);
        rig.engine().publish(&publish).unwrap();
    }
    put(&rig.target("one").join("file"), "shared");
    assert_eq!(fs::read_to_string(rig.target("two").join("file")).unwrap(), "shared");
    let mut single = rig.publish_of("a", "three", &volume, EXT4);
    single.capability.mode = Mode::SingleWriter;
    assert!(matches!(rig.engine().publish(&single), Err(Error::Precondition(_))));
}

#[test]
fn a_read_only_target_refuses_writes_while_another_takes_them() {
    let rig = Rig::image();
    let volume = rig.create("a", EXT4, 64);
    rig.engine().stage(&rig.stage_of("a", &volume, EXT4)).unwrap();
    for (target, writes) in [("rw", Writes::Allowed), ("ro", Writes::Refused)] {
        let mut publish = rig.publish_of("a", target, &volume, EXT4);
        publish.capability.mode = Mode::MultiWriter;
        publish.writes = writes;
        rig.engine().publish(&publish).unwrap();
    }
    put(&rig.target("rw").join("file"), "x");
    assert_eq!(fs::write(rig.target("ro").join("file"), "y").unwrap_err().raw_os_error(), Some(30));
    let reader = rig.create("reader", EXT4, 64);
    rig.engine().stage(&rig.stage_of("r", &reader, EXT4)).unwrap();
    let mut publish = rig.publish_of("r", "reader", &reader, EXT4);
    publish.capability.mode = Mode::Reader;
    rig.engine().publish(&publish).unwrap();
    assert_eq!(fs::write(rig.target("reader").join("file"), "y").unwrap_err().raw_os_error(), Some(30));
}

#[test]
fn a_read_only_device_refuses_writes() {
    let rig = Rig::image();
    let volume = rig.create("a", BLOCK, 10);
    rig.engine().stage(&rig.stage_of("a", &volume, BLOCK)).unwrap();
    let mut publish = rig.publish_of("a", "ro", &volume, BLOCK);
    publish.writes = Writes::Refused;
    rig.engine().publish(&publish).unwrap();
    rig.engine().publish(&publish).unwrap();
    assert!(write_block(&rig.target("ro"), 0, 1).is_err());
    assert_eq!(device_size(&rig.target("ro")), 10 * MIB);
    rig.engine().unpublish(&volume.id, &rig.target("ro")).unwrap();
    rig.engine().unstage(&volume.id, &rig.staging("a")).unwrap();
    assert!(rig.has_loops(&volume.id, 0));
}

#[test]
fn a_target_that_is_not_ours_stays_as_it_is() {
    let rig = Rig::image();
    let volume = rig.create("a", EXT4, 64);
    rig.engine().stage(&rig.stage_of("a", &volume, EXT4)).unwrap();
    let before = rig.mounts().len();
    let publish = |target: &Path| {
        let mut publish = rig.publish_of("a", "x", &volume, EXT4);
        publish.target = target.to_owned();
        rig.engine().publish(&publish).unwrap_err()
    };
    let full = rig.target("full");
    fs::create_dir(&full).unwrap();
    put(&full.join("precious"), "data");
    assert!(matches!(publish(&full), Error::Precondition(_)));
    assert!(matches!(rig.engine().unpublish(&volume.id, &full), Err(Error::Precondition(_))));
    assert_eq!(fs::read_to_string(full.join("precious")).unwrap(), "data");
    let file = rig.target("file");
    put(&file, "data");
    assert!(matches!(publish(&file), Error::Precondition(_)));
    let link = rig.target("link");
    symlink(rig.dir.path(), &link).unwrap();
    publish(&link);
    assert!(matches!(publish(&link.join("below")), Error::Invalid(_)));
    assert!(matches!(publish(Path::new("/tmp/outside")), Error::Invalid(_)));
    assert!(matches!(publish(&rig.root().join("../outside")), Error::Invalid(_)));
    assert!(matches!(publish(&rig.target("no/parent")), Error::Precondition(_)));
    run("mount", &[Path::new("-ttmpfs"), Path::new("tmpfs"), &fs_dir(&rig, "foreign")]);
    assert!(matches!(publish(&rig.target("foreign")), Error::Precondition(_)));
    assert!(matches!(
        rig.engine().unpublish(&volume.id, &rig.target("foreign")),
        Err(Error::Precondition(_))
    ));
    assert_eq!(rig.mounts().len(), before + 1);
    assert!(link.is_symlink() && file.is_file());
}

#[test]
fn a_staging_path_is_no_target() {
    for (asked, staged) in [(EXT4, ""), (BLOCK, "device")] {
        let rig = Rig::image();
        let volume = rig.create("a", asked, 64);
        let staging = rig.staging("a");
        rig.engine().stage(&rig.stage_of("a", &volume, asked)).unwrap();
        let before = rig.mounts();
        for target in [staging.clone(), staging.join("below"), staging.parent().unwrap().to_owned()] {
            let mut publish = rig.publish_of("a", "x", &volume, asked);
            publish.target = target;
            let error = rig.engine().publish(&publish).unwrap_err();
            assert!(matches!(&error, Error::Invalid(text) if text.contains("target_path")), "{error}");
        }
        let error = rig.engine().unpublish(&volume.id, &staging.join(staged)).unwrap_err();
        assert!(matches!(&error, Error::Precondition(text) if text.contains("staged there")), "{error}");
        assert_eq!(rig.mounts(), before);
        rig.engine().unstage(&volume.id, &staging).unwrap();
        assert!(staging.is_dir());
    }
}

fn fs_dir(rig: &Rig, name: &str) -> std::path::PathBuf {
    let path = rig.target(name);
    fs::create_dir(&path).unwrap();
    path
}

#[test]
fn unpublish_takes_stacked_mounts_and_empty_leftovers() {
    let rig = Rig::image();
    let volume = rig.create("a", EXT4, 64);
    let target = rig.publish("a", &volume, EXT4);
    run("mount", &[Path::new("--bind"), &target, &target]);
    rig.engine().unpublish(&volume.id, &target).unwrap();
    assert!(!target.exists());
    rig.engine().unpublish(&volume.id, &target).unwrap();
    fs::create_dir(&target).unwrap();
    rig.engine().unpublish(&volume.id, &target).unwrap();
    assert!(!target.exists(), "an unmounted empty directory is removed");
    rig.engine().unstage(&volume.id, &rig.staging("a")).unwrap();
    rig.engine().unstage(&volume.id, &rig.staging("a")).unwrap();
}

#[test]
fn a_volume_in_use_is_not_deleted() {
    let rig = Rig::image();
    for (name, asked) in [("mounted", EXT4), ("raw", BLOCK)] {
        let volume = rig.create(name, asked, 64);
        rig.engine().stage(&rig.stage_of(name, &volume, asked)).unwrap();
        assert!(matches!(rig.engine().delete_volume(&volume.id), Err(Error::Precondition(_))), "{name}");
        rig.engine().publish(&rig.publish_of(name, name, &volume, asked)).unwrap();
        assert!(matches!(rig.engine().delete_volume(&volume.id), Err(Error::Precondition(_))), "{name}");
        rig.unpublish(name, &volume);
        rig.engine().delete_volume(&volume.id).unwrap();
    }
    assert!(rig.objects().is_empty());
}

#[test]
fn a_kubelet_root_behind_a_symlink_is_the_same_root() {
    let rig = Rig::behind_a_symlink();
    let volume = rig.create("a", EXT4, 64);
    let target = rig.publish("a", &volume, EXT4);
    assert_eq!(rig.mounts().len(), 2);
    let second = rig.publish_of("a", "b", &volume, EXT4);
    assert!(matches!(rig.engine().publish(&second), Err(Error::Precondition(_))));
    assert!(matches!(rig.engine().unstage(&volume.id, &rig.staging("a")), Err(Error::Precondition(_))));
    rig.unpublish("a", &volume);
    assert!(rig.mounts().is_empty() && !target.exists());
}

#[test]
fn a_busy_target_is_not_torn_away() {
    let rig = Rig::image();
    let volume = rig.create("a", EXT4, 64);
    let target = rig.publish("a", &volume, EXT4);
    let open = fs::File::create(target.join("open")).unwrap();
    assert!(matches!(rig.engine().unpublish(&volume.id, &target), Err(Error::Busy(_))));
    assert_eq!(rig.mounts().len(), 2);
    drop(open);
    rig.unpublish("a", &volume);
}

#[test]
fn an_xfs_clone_mounts_beside_its_origin_and_neither_sees_the_other() {
    let rig = Rig::image();
    let origin = rig.create("origin", XFS, 300);
    let target = rig.publish("origin", &origin, XFS);
    put(&target.join("file"), "before");
    let clone = rig.create_from("clone", XFS, 600, Source::Volume(origin.id));
    put(&target.join("file"), "after");
    let cloned = rig.publish("clone", &clone, XFS);
    assert_eq!(fs::read_to_string(cloned.join("file")).unwrap(), "before");
    let space = rustix::fs::statvfs(&cloned).unwrap();
    assert!(space.f_blocks * space.f_frsize >= 500 * MIB, "it has grown to its own size");
    put(&cloned.join("file"), "clone");
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "after");
}

#[test]
fn a_snapshot_outlives_its_volume_and_restores_the_cut() {
    let rig = Rig::image();
    let volume = rig.create("a", EXT4, 64);
    let target = rig.publish("a", &volume, EXT4);
    put(&target.join("file"), "cut");
    let want = CreateSnapshot { name: "s".into(), source: volume.id, parameters: Default::default() };
    let snapshot = rig.engine().create_snapshot(&want).unwrap();
    put(&target.join("file"), "later");
    rig.unpublish("a", &volume);
    rig.engine().delete_volume(&volume.id).unwrap();
    assert_eq!(*rig.engine().create_snapshot(&want).unwrap(), *snapshot, "a retry after the source is gone");
    let restored = rig.create_from("b", EXT4, 128, Source::Snapshot(snapshot.id));
    let target = rig.publish("b", &restored, EXT4);
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "cut");
    let space = rustix::fs::statvfs(&target).unwrap();
    assert!(
        space.f_blocks * space.f_frsize >= 110 * MIB,
        "{} of 128 MiB",
        space.f_blocks * space.f_frsize / MIB
    );
}

#[test]
fn growth_reaches_the_workload() {
    let rig = Rig::image();
    for (name, asked, small, large) in
        [("ext4", EXT4, 64, 256), ("xfs", XFS, 300, 600), ("raw", BLOCK, 10, 20)]
    {
        let volume = rig.create(name, asked, small);
        let target = rig.publish(name, &volume, asked);
        let range = Range { required: Some(Bytes::MIB.times(large)), limit: None };
        let (grown, left) = rig.engine().expand_volume(&volume.id, &range, Some(asked)).unwrap();
        assert_eq!(grown.size, Bytes::MIB.times(large));
        let path = if asked == BLOCK { target.clone() } else { rig.staging(name) };
        let expand = NodeExpand { volume: volume.id, path, range, asked: Some(asked) };
        let expanded = rig.engine().expand_node(&expand);
        if asked == BLOCK {
            assert_eq!((left, device_size(&target)), (NodeExpansion::NotRequired, large * MIB));
            continue;
        }
        assert_eq!(left, NodeExpansion::Required);
        if let Err(error) = expanded {
            // A process without CAP_SYS_RESOURCE says so, and grows at the next stage.
            assert_eq!(name, "ext4");
            assert!(
                matches!(&error, Error::Precondition(why) if why.contains("CAP_SYS_RESOURCE")),
                "{error:?}"
            );
            rig.unpublish(name, &volume);
            rig.publish(name, &volume, asked);
        }
        let space = rustix::fs::statvfs(&target).unwrap();
        assert!(space.f_blocks * space.f_frsize >= large * MIB * 8 / 10, "{name}");
        assert_eq!(rig.engine().expand_node(&expand).unwrap(), Bytes::MIB.times(large), "again is fine");
    }
}

#[test]
fn after_a_reboot_everything_mounts_again_and_cleans_up() {
    let mut rig = Rig::image();
    let mounted = rig.create("mounted", EXT4, 64);
    let raw = rig.create("raw", BLOCK, 10);
    put(&rig.publish("mounted", &mounted, EXT4).join("file"), "kept");
    write_block(&rig.publish("raw", &raw, BLOCK), 0, 9).unwrap();
    rig.reboot();
    assert!(rig.mounts().is_empty() && rig.target("mounted").is_dir() && rig.target("raw").is_file());
    let publish = rig.publish_of("mounted", "mounted", &mounted, EXT4);
    assert!(
        matches!(rig.engine().publish(&publish), Err(Error::Precondition(_))),
        "it is not staged any more"
    );
    assert_eq!(fs::read_to_string(rig.publish("mounted", &mounted, EXT4).join("file")).unwrap(), "kept");
    assert_eq!(read_block(&rig.publish("raw", &raw, BLOCK), 0), 9);
    rig.unpublish("mounted", &mounted);
    rig.unpublish("raw", &raw);
    assert!(rig.mounts().is_empty() && rig.has_loops(&raw.id, 0));
}

#[test]
fn a_restart_between_any_two_steps_changes_nothing() {
    let mut rig = Rig::image();
    for (name, asked) in [("mounted", EXT4), ("raw", BLOCK)] {
        let volume = rig.create(name, asked, 64);
        rig.restart();
        rig.engine().stage(&rig.stage_of(name, &volume, asked)).unwrap();
        rig.restart();
        rig.engine().stage(&rig.stage_of(name, &volume, asked)).unwrap();
        rig.engine().publish(&rig.publish_of(name, name, &volume, asked)).unwrap();
        rig.restart();
        let mut other = rig.publish_of(name, name, &volume, asked);
        rig.engine().publish(&other).unwrap();
        other.writes = Writes::Refused;
        assert!(matches!(rig.engine().publish(&other), Err(Error::Conflict(_))), "{name}");
        let again = rig.engine().create_volume(&wanted(name, asked, 64)).unwrap();
        assert_eq!(again.id, volume.id);
        rig.engine().unpublish(&volume.id, &rig.target(name)).unwrap();
        rig.restart();
        rig.engine().unstage(&volume.id, &rig.staging(name)).unwrap();
        rig.restart();
        rig.engine().delete_volume(&volume.id).unwrap();
    }
    assert!(rig.mounts().is_empty() && rig.objects().is_empty());
}

#[test]
fn a_filesystem_that_is_not_the_one_made_is_never_formatted() {
    let rig = Rig::image();
    let volume = rig.create("a", EXT4, 64);
    let image = rig.object(&volume.id);
    let bytes = fs::read(&image).unwrap();
    let mut wrecked = bytes.clone();
    wrecked[1024..2048].fill(0);
    fs::write(&image, &wrecked).unwrap();
    let error = rig.engine().stage(&rig.stage_of("a", &volume, EXT4)).unwrap_err();
    assert!(matches!(error, Error::Corrupt(_)), "{error:?}");
    assert_eq!(fs::read(&image).unwrap(), wrecked, "not one byte was touched");
    assert!(rig.mounts().is_empty() && rig.has_loops(&volume.id, 0));
    fs::write(&image, &bytes).unwrap();
    rig.publish("a", &volume, EXT4);
}

#[test]
fn a_group_is_cut_at_one_moment_or_not_at_all() {
    let rig = Rig::image();
    let one = rig.create("one", EXT4, 64);
    let two = rig.create("two", XFS, 300);
    let raw = rig.create("raw", BLOCK, 10);
    put(&rig.publish("one", &one, EXT4).join("file"), "1");
    put(&rig.publish("two", &two, XFS).join("file"), "1");
    rig.publish("raw", &raw, BLOCK);
    let group = |name: &str, sources: &[&Volume]| CreateGroup {
        name: name.to_owned(),
        sources: sources.iter().map(|volume| volume.id).collect(),
        parameters: Default::default(),
    };
    let before = rig.objects();
    let refused = rig.engine().create_group(&group("g", &[&one, &raw])).unwrap_err();
    assert!(matches!(&refused, Error::Precondition(why) if why.contains(&raw.id.to_string())), "{refused}");
    assert_eq!(rig.objects(), before, "nothing is left of a group that failed");
    put(&rig.target("one").join("file"), "thawed");
    let (cut, members) = rig.engine().create_group(&group("g", &[&two, &one])).unwrap();
    put(&rig.target("two").join("file"), "later");
    assert_eq!(rig.engine().create_group(&group("g", &[&one, &two])).unwrap().0.id, cut.id);
    assert!(matches!(rig.engine().create_group(&group("g", &[&one])), Err(Error::Conflict(_))));
    assert!(members.iter().all(|member| member.group == Some(cut.id)));
    let member = members.iter().find(|member| member.source == two.id).unwrap();
    assert!(matches!(rig.engine().delete_snapshot(&member.id), Err(Error::Invalid(_))));
    let restored = rig.create_from("restored", XFS, 300, Source::Snapshot(member.id));
    assert_eq!(fs::read_to_string(rig.publish("restored", &restored, XFS).join("file")).unwrap(), "1");
    assert!(matches!(rig.engine().delete_group(&cut.id, &[member.id]), Err(Error::Invalid(_))));
    let ids: Vec<_> = members.iter().rev().map(|member| member.id).collect();
    rig.engine().delete_group(&cut.id, &ids).unwrap();
    rig.engine().delete_group(&cut.id, &ids).unwrap();
    assert!(rig.engine().listed_snapshots(None, None, 10).unwrap().is_empty());
}

#[test]
fn duplicates_at_once_make_one_volume() {
    let rig = Rig::image();
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let create = || rig.engine().create_volume(&wanted("same", EXT4, 64)).map(|volume| volume.id);
        let all: Vec<_> = (0..32).map(|_| scope.spawn(create)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let made: std::collections::HashSet<_> = outcomes.iter().flatten().collect();
    assert_eq!(made.len(), 1);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(_) | Err(Error::Busy(_)))));
    assert_eq!(rig.engine().volumes(None, 10).len(), 1);
}

#[test]
fn opposite_calls_at_once_end_in_one_of_the_serial_orders() {
    let rig = Rig::image();
    let volume = rig.create("a", EXT4, 64);
    let stage = rig.stage_of("a", &volume, EXT4);
    for _ in 0..20 {
        std::thread::scope(|scope| {
            scope.spawn(|| drop(rig.engine().stage(&stage)));
            scope.spawn(|| drop(rig.engine().unstage(&volume.id, &stage.staging)));
        });
        let mounts = rig.mounts().len();
        assert!(mounts <= 1);
        assert!(rig.has_loops(&volume.id, mounts));
    }
}

#[test]
fn a_full_pool_says_so_and_still_deletes() {
    let rig = Rig::image();
    let room = rig.engine().capacity(&Default::default()).unwrap();
    let want = |name: &str, size: Bytes| {
        let range = Range { required: Some(size), limit: None };
        rig.engine().create_volume(&rockpool::model::CreateVolume { range, ..wanted(name, BLOCK, 1) })
    };
    assert!(matches!(want("huge", Bytes::GIB.times(100)), Err(Error::OutOfRange(_))));
    let largest = want("largest", room.maximum).unwrap();
    let before = rig.objects();
    assert!(matches!(want("more", Bytes::MIB.times(64)), Err(Error::Full(_))));
    assert_eq!(rig.objects(), before);
    assert_eq!(rig.engine().capacity(&Default::default()).unwrap().maximum, Bytes::ZERO);
    rig.engine().delete_volume(&largest.id).unwrap();
    assert_eq!(rig.engine().capacity(&Default::default()).unwrap(), room);
    want("more", Bytes::MIB.times(64)).unwrap();
}

#[test]
fn a_pool_without_a_free_block_still_deletes() {
    let rig = Rig::image();
    let volume = rig.create("a", EXT4, 64);
    let snapshot = CreateSnapshot { name: "s".into(), source: volume.id, parameters: Default::default() };
    let snapshot = rig.engine().create_snapshot(&snapshot).unwrap();
    let mut filler = fs::File::create(rig.setup.path.join("filler")).unwrap();
    for chunk in [1 << 20, 4096] {
        while filler.write_all(&vec![1; chunk]).is_ok() {}
    }
    drop(filler.sync_all());
    drop(filler);
    let before = rig.objects();
    assert!(matches!(rig.engine().create_volume(&wanted("more", BLOCK, 16)), Err(Error::Full(_))));
    assert_eq!(rig.objects(), before);
    rig.engine().delete_snapshot(&snapshot.id).unwrap();
    rig.engine().delete_volume(&volume.id).unwrap();
    assert!(rig.engine().volumes(None, 10).is_empty());
    fs::remove_file(rig.setup.path.join("filler")).unwrap();
    // xfs gives the blocks of a removed file back a little later.
    let mut made = Ok(());
    let is_made = soon(|| {
        made = rig.engine().create_volume(&wanted("a", EXT4, 64)).map(drop);
        made.is_ok()
    });
    assert!(is_made, "{made:?}");
}

#[test]
fn capacity_is_never_more_than_what_is_free() {
    let rig = Rig::image();
    let foreign = fs::File::create(rig.setup.path.join("foreign")).unwrap();
    rustix::fs::fallocate(&foreign, rustix::fs::FallocateFlags::empty(), 0, 2500 * MIB).unwrap();
    let space = rustix::fs::statvfs(&rig.setup.path).unwrap();
    let room = rig.engine().capacity(&Default::default()).unwrap();
    assert!(room.available.get() <= space.f_bavail * space.f_frsize, "{room:?}");
}

#[test]
fn a_pool_that_is_gone_fails_everything_and_comes_back() {
    let mut rig = Rig::image();
    let volume = rig.create("a", EXT4, 64);
    let path = rig.setup.path.clone();
    run("umount", &[Path::new("-l"), &path]);
    let gone = |error: Option<Error>| assert!(matches!(error, Some(Error::Unavailable(_))), "{error:?}");
    gone(rig.engine().create_volume(&wanted("b", EXT4, 64)).err());
    gone(rig.engine().create_volume(&wanted("a", EXT4, 64)).err());
    gone(rig.engine().volume(&volume.id).err());
    gone(rig.engine().delete_volume(&volume.id).err());
    gone(rig.engine().stage(&rig.stage_of("a", &volume, EXT4)).err());
    assert!(rig.ailment().is_some());
    assert!(path.read_dir().unwrap().next().is_none(), "nothing is written under the bare mount point");
    // A pool in a file is mounted again by itself.
    rig.reconnect();
    let target = rig.publish("a", &volume, EXT4);
    assert!(target.is_dir());
    rig.unpublish("a", &volume);
    rig.stop();
}

#[test]
fn a_read_only_pool_takes_nothing_and_loses_nothing() {
    let rig = Rig::image();
    let volume = rig.create("a", EXT4, 64);
    run("mount", &[Path::new("-oremount,ro"), &rig.setup.path]);
    let refused = rig.engine().create_volume(&wanted("b", EXT4, 64)).unwrap_err();
    assert!(matches!(&refused, Error::Precondition(why) if why.contains("read-only")), "{refused:?}");
    assert!(rig.engine().delete_volume(&volume.id).is_err());
    run("mount", &[Path::new("-oremount,rw"), &rig.setup.path]);
    assert_eq!(rig.engine().volume(&volume.id).unwrap().name, "a");
    rig.engine().delete_volume(&volume.id).unwrap();
}

#[test]
fn what_a_crash_left_is_settled_at_the_next_start() {
    let mut rig = Rig::image();
    let keep = rig.create("keep", EXT4, 64);
    let half = rig.create("half", EXT4, 64);
    let gone = rig.create("gone", EXT4, 64);
    rig.stop();
    rewrite(&rig, &half, "\"ready\"", "\"creating\"");
    rewrite(&rig, &gone, "\"ready\"", "\"deleting\"");
    put(&rig.setup.path.join("tmp").join(half.id.to_string()), "half made");
    let unfinished = rig.setup.path.join("records/.new.0123456789abcdef");
    put(&unfinished, "half written");
    rig.restart();
    assert!(!unfinished.exists());
    let ids: Vec<_> = rig.engine().volumes(None, 10).iter().map(|volume| volume.id).collect();
    assert_eq!(ids, [keep.id]);
    assert_eq!(rig.objects().len(), 2, "{:?}", rig.objects());
}

/// Changes a record as an interrupted driver would have left it, with the right checksum.
fn rewrite(rig: &Rig, volume: &Volume, from: &str, to: &str) {
    let path = rig.setup.path.join("records").join(volume.id.to_string());
    let text = fs::read_to_string(&path).unwrap();
    let (head, body) = text.split_once("\"body\":").unwrap();
    assert!(head.contains("checksum") && body.contains(from));
    let body = body.trim_end().strip_suffix('}').unwrap().replacen(from, to, 1);
    let sum = crc32c::crc32c(body.as_bytes());
    put(&path, &format!("{{\"checksum\":\"{sum:08x}\",\"body\":{body}}}\n"));
}

#[test]
fn a_bad_record_costs_its_own_volume_only() {
    let mut rig = Rig::image();
    let good = rig.create("good", EXT4, 64);
    let bad = rig.create("bad", EXT4, 64);
    rig.stop();
    let path = rig.setup.path.join("records").join(bad.id.to_string());
    put(&path, "{\"checksum\":");
    rig.restart();
    rig.engine().volume(&good.id).unwrap();
    assert!(matches!(rig.engine().volume(&bad.id), Err(Error::Unavailable(_))));
    assert!(
        matches!(rig.engine().delete_volume(&bad.id), Err(Error::Unavailable(_))),
        "its bytes are still there"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\"checksum\":", "it is left as it is");
    assert_eq!(fs::metadata(rig.object(&bad.id)).unwrap().size(), 64 * MIB);
}
