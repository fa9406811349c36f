//! What only directory pools do; `tests/contract.rs` has what every kind promises.

#![allow(clippy::disallowed_methods, reason = "the test makes its own files")]

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use super::*;
use crate::model::{Access, Allocation, Filesystem, Phase, Source, Time};
use crate::pool::prepare::{Place, Request, prepare};

/// A pool on whatever the host's temporary directory lies on, which has no project quota.
fn plain() -> (tempfile::TempDir, Setup) {
    let temp = tempfile::tempdir().unwrap();
    let request = Request {
        name: "plain".to_owned(),
        kind: Kind::Directory,
        place: Place::Directory(temp.path().to_owned()),
        quota: Quota::None,
        mount_parent: temp.path().join("unused"),
    };
    let setup = prepare(&request).unwrap();
    (temp, setup)
}

fn made(pool: &DirectoryPool, number: u8) -> Volume {
    let volume = Volume {
        id: VolumeId::new(pool.id(), [number; 8]),
        name: String::new(),
        phase: Phase::Creating,
        size: Bytes::MIB,
        asked: None,
        access: Access::Mount { fs: Filesystem::Shared },
        fs_uuid: None,
        sector_size: 4096,
        allocation: Allocation::Sparse,
        source: Source::Blank,
        parameters: Default::default(),
        claim: None,
        created: Time::now(),
    };
    pool.create(&volume).unwrap();
    volume
}

fn path(temp: &tempfile::TempDir, volume: &Volume) -> std::path::PathBuf {
    temp.path().join("volumes").join(volume.id.to_string())
}

#[test]
fn a_pool_that_cannot_enforce_sizes_does_not_open_and_says_what_to_do() {
    let (_temp, setup) = plain();
    let enforced = Setup { quota: Quota::Project, ..setup.clone() };
    match DirectoryPool::open(&enforced).map(|_| ()) {
        Err(Error::Precondition(why)) => {
            for part in ["`plain`", "prjquota", "quota = \"none\""] {
                assert!(why.contains(part), "{part} is not in: {why}");
            }
        }
        other => panic!("{other:?}"),
    }
    let pool = DirectoryPool::open(&setup).unwrap();
    assert_eq!(pool.features().size_limit, Offer::No(NOT_ENFORCED.to_owned()));
}

#[test]
fn the_root_belongs_to_root_and_lets_others_in() {
    let (temp, setup) = plain();
    let pool = DirectoryPool::open(&setup).unwrap();
    let found = std::fs::metadata(path(&temp, &made(&pool, 1))).unwrap();
    assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (0o755, 0, 0));
}

#[test]
fn what_a_tenant_left_takes_nothing_else_with_it() {
    let (temp, setup) = plain();
    let outside = tempfile::tempdir().unwrap();
    let (kept, linked) = (outside.path().join("kept"), outside.path().join("linked"));
    std::fs::write(&kept, "kept").unwrap();
    std::fs::write(&linked, "kept").unwrap();
    let pool = DirectoryPool::open(&setup).unwrap();
    let (volume, other) = (made(&pool, 1), made(&pool, 2));
    let root = path(&temp, &volume);
    symlink(outside.path(), root.join("to-directory")).unwrap();
    symlink(&kept, root.join("to-file")).unwrap();
    symlink(path(&temp, &other), root.join("to-other")).unwrap();
    let _ = std::fs::hard_link(&linked, root.join("second-name"));
    let mut deep = root.join("deep");
    (0..200).for_each(|_| deep.push("d"));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(path(&temp, &other).join("file"), "kept").unwrap();

    pool.destroy(&volume.id).unwrap();
    assert!(!root.exists());
    for left in [kept.as_path(), &linked, &path(&temp, &other).join("file")] {
        assert_eq!(std::fs::read_to_string(left).unwrap(), "kept", "{}", left.display());
    }
    let empty = |name: &str| std::fs::read_dir(temp.path().join(name)).unwrap().count() == 0;
    assert!(empty("tmp"), "trash is left");
}

#[test]
fn what_a_volume_consumes_is_counted() {
    let (temp, setup) = plain();
    let pool = DirectoryPool::open(&setup).unwrap();
    let volume = made(&pool, 1);
    let before = pool.consumed(&volume.id).unwrap().unwrap();
    std::fs::write(path(&temp, &volume).join("file"), vec![1; 256 << 10]).unwrap();
    let after = pool.consumed(&volume.id).unwrap().unwrap();
    assert_eq!((before.inodes, after.inodes), (1, 2));
    assert!(after.bytes.less(before.bytes) >= Bytes::KIB.times(256), "{after:?}");
}

#[test]
fn a_size_is_kept_with_the_volume_and_a_wrong_one_is_told() {
    let (temp, setup) = plain();
    let pool = DirectoryPool::open(&setup).unwrap();
    let volume = made(&pool, 1);
    pool.grow(&volume.id, Bytes::MIB.times(3)).unwrap();
    drop(pool);
    let pool = DirectoryPool::open(&setup).unwrap();
    assert_eq!(pool.scan().unwrap(), [Found::Volume(volume.id, Bytes::MIB.times(3))]);
    label::set(Dir::open(Path::new(&path(&temp, &volume))).unwrap(), SIZE, b"large").unwrap();
    assert!(matches!(pool.grow(&volume.id, Bytes::GIB), Err(Error::Corrupt(_))));
    assert_eq!(pool.scan().unwrap(), [Found::Volume(volume.id, Bytes::ZERO)], "it hides no other volume");
    assert_eq!(pool.health(Some(&volume.id))[0].reason, "SizeUnknown");
}
