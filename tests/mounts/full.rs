//! Pools without a byte or an inode left: what is deleted goes all the same, and a death in the middle is no way around it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rockpool::error::Error;
use rockpool::model::{Asked, CreateSnapshot, Volume};
use rockpool::pool::Kind;

use crate::rig::{BLOCK, MIB, Rig, run, wanted};

const EXT4: [&str; 4] = ["mkfs.ext4", "-q", "-E", "lazy_itable_init=1"];
const FEW_INODES: [&str; 6] = ["mkfs.ext4", "-q", "-N", "64", "-E", "lazy_itable_init=1"];
const XFS: [&str; 2] = ["mkfs.xfs", "-q"];

/// What is gone, to the last block or to the last inode.
type Fill = fn(&Path);

/// Takes every inode that there is, with nothing in it.
fn inodes(at: &Path) {
    for number in 0..1_000_000 {
        if File::create(at.join(number.to_string())).is_err() {
            return;
        }
    }
    panic!("it does not fill up");
}

/// Takes every block, and every inode that there is room for.
fn blocks(at: &Path) {
    let file = File::create(at.join("large")).unwrap();
    let mut end = 0;
    for step in [256 * MIB, MIB, 64 << 10, 4096] {
        while rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), end, step).is_ok() {
            end += step;
        }
    }
    for number in 0..100_000 {
        if fs::write(at.join(number.to_string()), "x").is_err() {
            return;
        }
    }
    panic!("it does not fill up");
}

fn fill(rig: &Rig, fill: Fill) {
    let at = rig.setup.path.join("filler");
    fs::create_dir(&at).unwrap();
    fill(&at);
    assert!(fs::write(at.join("more"), [1; 8192]).is_err());
}

fn immutable(flag: &str, path: &Path) {
    run("chattr", &[Path::new(flag), path]);
}

fn deletes_on(mkfs: &[&str], kind: Kind, filled: Fill) {
    let mut rig = Rig::on(mkfs, 320, kind);
    let asked = if kind == Kind::Directory { Asked::Mount(None) } else { BLOCK };
    let volumes: Vec<Volume> = (0..4).map(|n| rig.create(&n.to_string(), asked, 10)).collect();
    fill(&rig, filled);
    let refused = rig.engine().create_volume(&wanted("more", asked, 10));
    assert!(matches!(&refused, Err(Error::Full(_))), "{refused:?}");

    // Its bytes cannot go yet, and the driver dies: what the disk says then is what a start goes on with.
    let (first, object) = (&volumes[0], rig.object(&volumes[0].id));
    immutable("+i", &object);
    let stuck = rig.engine().delete_volume(&first.id);
    let record = fs::read_to_string(rig.setup.path.join("records").join(first.id.to_string()));
    rig.restart();
    let usable = rig.engine().volume(&first.id);
    immutable("-i", &object);
    assert!(matches!(&stuck, Err(Error::Unavailable(_))), "{stuck:?}");
    assert!(record.as_ref().unwrap().contains("deleting"), "{record:?}");
    assert!(usable.is_err(), "a volume that was to be deleted is usable again");
    rig.restart();
    assert!(!object.exists(), "the start did not finish the delete");

    for volume in &volumes[1..] {
        rig.engine().delete_volume(&volume.id).unwrap();
    }
    assert_eq!(rig.objects(), Vec::<PathBuf>::new());
    assert!(rig.setup.path.join("spare").exists(), "there is room again for the next time");
}

#[test]
fn an_image_pool_on_an_ext4_without_a_block_deletes() {
    deletes_on(&EXT4, Kind::Image, blocks);
}

#[test]
fn an_image_pool_on_an_xfs_without_a_block_deletes() {
    deletes_on(&XFS, Kind::Image, blocks);
}

#[test]
fn an_image_pool_without_an_inode_deletes() {
    deletes_on(&FEW_INODES, Kind::Image, inodes);
}

#[test]
fn a_directory_pool_on_an_ext4_without_a_block_deletes() {
    deletes_on(&EXT4, Kind::Directory, blocks);
}

#[test]
fn a_directory_pool_on_an_xfs_without_a_block_deletes() {
    deletes_on(&XFS, Kind::Directory, blocks);
}

#[test]
fn a_directory_pool_without_an_inode_deletes() {
    deletes_on(&FEW_INODES, Kind::Directory, inodes);
}

#[test]
fn a_full_pool_deletes_snapshots_too() {
    let rig = Rig::image();
    let volume = rig.create("a", BLOCK, 64);
    let cut = |name: &str| {
        let want =
            CreateSnapshot { name: name.to_owned(), source: volume.id, parameters: Default::default() };
        rig.engine().create_snapshot(&want).unwrap()
    };
    let cuts = ["one", "two", "three"].map(cut);
    fill(&rig, blocks);
    for cut in &cuts {
        rig.engine().delete_snapshot(&cut.id).unwrap();
    }
    rig.engine().delete_volume(&volume.id).unwrap();
    assert_eq!(rig.objects(), Vec::<PathBuf>::new());
}

#[test]
fn without_a_spare_a_full_pool_deletes_all_the_same() {
    for mkfs in [&EXT4[..], &XFS, &FEW_INODES] {
        let rig = Rig::image_on(mkfs, 320);
        let volumes: Vec<_> = (0..3).map(|n| rig.create(&n.to_string(), BLOCK, 10)).collect();
        fs::remove_file(rig.setup.path.join("spare")).unwrap();
        fill(&rig, if mkfs == FEW_INODES { inodes } else { blocks });
        for volume in &volumes {
            rig.engine().delete_volume(&volume.id).unwrap();
        }
        assert_eq!(rig.objects(), Vec::<PathBuf>::new());
    }
}

#[test]
fn what_is_to_be_kept_is_kept_on_a_full_pool_or_not_deleted_at_all() {
    for mkfs in [&EXT4[..], &XFS] {
        let mut rig = Rig::image_on(mkfs, 320);
        let keeping = |name: &str| {
            let mut want = wanted(name, BLOCK, 10);
            want.parameters.insert("retainDeleted".to_owned(), "1h".to_owned());
            rig.engine().create_volume(&want).unwrap().id
        };
        let ids = ["a", "b", "c"].map(keeping);
        fill(&rig, blocks);
        let kept: Vec<_> = ids
            .iter()
            .filter(|id| match rig.engine().delete_volume(id) {
                Ok(()) => true,
                Err(Error::Full(why)) => {
                    assert!(why.contains("retained purge") && why.contains("nothing was deleted"), "{why}");
                    false
                }
                Err(other) => panic!("{other:?}"),
            })
            .collect();
        assert!(!kept.is_empty(), "the spare is good for one");
        rig.restart();
        let retained: Vec<_> = rig.engine().retained().iter().map(|one| one.id).collect();
        for id in &ids {
            assert!(rig.object(id).exists());
            let is_kept = retained.contains(&rockpool::model::ObjectId::Volume(*id));
            assert_eq!(is_kept, kept.contains(&id), "{id}");
            assert_eq!(rig.engine().volume(id).is_ok(), !is_kept);
        }
        for id in retained {
            rig.engine().purge(id).unwrap();
        }
    }
}

#[test]
fn a_pool_that_was_opened_full_has_room_when_others_made_some() {
    let mut rig = Rig::image_on(&EXT4, 320);
    fill(&rig, blocks);
    rig.restart();
    assert!(matches!(rig.engine().create_volume(&wanted("a", BLOCK, 10)), Err(Error::Full(_))));
    fs::remove_dir_all(rig.setup.path.join("filler")).unwrap();
    let begun = std::time::Instant::now();
    while let Err(error) = rig.engine().create_volume(&wanted("a", BLOCK, 10)) {
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{error:?}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
