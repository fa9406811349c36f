//! `pool init` on real files, devices and directories, as root.

#![allow(clippy::disallowed_methods, reason = "the test makes its own files and runs programs")]

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::os::loopdev::{self, Discard, Lifetime};
use crate::os::mount;
use crate::pool::home::Home;
use crate::pool::rig::{request, run};

/// Nothing is mounted below, and no loop device shows what lies there.
fn nothing_is_left(dir: &Path) {
    assert!(!mount::table().unwrap().iter().any(|mount| mount.point.starts_with(dir)));
    let device = std::fs::metadata(dir).unwrap().dev();
    for entry in std::fs::read_dir(dir).unwrap() {
        let found = loopdev::find(device, entry.unwrap().metadata().unwrap().ino()).unwrap();
        assert_eq!(found, []);
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn in_a_file(dir: &Path, size: Bytes, sparse: bool) -> Request {
    Request { place: Place::File { path: dir.join("pool.xfs"), size, sparse }, ..request(dir, Kind::Image) }
}

#[test]
fn a_pool_in_a_file_takes_its_space_and_is_mounted_again_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let setup = prepare(&in_a_file(dir.path(), SMALLEST, false)).unwrap();
    let file = setup.file.clone().unwrap();
    let stat = std::fs::metadata(&file).unwrap();
    assert_eq!((stat.len(), stat.mode() & 0o777), (SMALLEST.get(), 0o600));
    assert!(stat.blocks() * 512 >= SMALLEST.get());
    assert_eq!(std::fs::metadata(&setup.path).unwrap().mode() & 0o777, 0o700);
    let id = Home::open(&setup).unwrap().id();
    assert_eq!(setup.path, dir.path().join("pools").join(format!("test-{id}")));
    assert!(mount::is_shared(&setup.path).unwrap());
    // Busy while it is open; then gone but for the file.
    let home = Home::open(&setup).unwrap();
    assert!(matches!(unmount(&setup), Err(Error::Busy(_))));
    drop(home);
    unmount(&setup).unwrap();
    unmount(&setup).unwrap();
    nothing_is_left(dir.path());
    assert_eq!(names(&dir.path().join("pools")), [""; 0]);
    // Opening it mounts it; opening it once more uses that mount and its device.
    let home = Home::open(&setup).unwrap();
    assert_eq!(home.id(), id);
    assert!(!home.is_sparse());
    drop(home);
    drop(Home::open(&setup).unwrap());
    let mounts = mount::table().unwrap();
    assert_eq!(mounts.iter().filter(|mount| mount.point == setup.path).count(), 1);
    assert_eq!(loopdev::find(stat.dev(), stat.ino()).unwrap().len(), 1);
    assert!(std::fs::metadata(&file).unwrap().blocks() * 512 >= SMALLEST.get());
    unmount(&setup).unwrap();
}

#[test]
fn what_is_there_is_refused_by_name_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pool.xfs");
    std::fs::write(&file, "precious").unwrap();
    let said = prepare(&in_a_file(dir.path(), Bytes::GIB, true)).unwrap_err().to_string();
    assert!(said.contains("exists already") && said.contains("8 B"), "{said}");
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    let used = Request { place: Place::Directory(dir.path().to_owned()), ..request(dir.path(), Kind::Image) };
    let said = prepare(&used).unwrap_err().to_string();
    assert!(said.contains("`pool.xfs`"), "{said}");
    assert_eq!(names(dir.path()), ["pool.xfs"]);
}

#[test]
fn sizes_and_names_that_cannot_be_are_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let small = prepare(&in_a_file(dir.path(), Bytes::MIB.times(299), true)).unwrap_err();
    assert!(matches!(small, Error::OutOfRange(_)), "{small:?}");
    assert!(small.to_string().contains("--size 313524224"), "{small}");
    let large = prepare(&in_a_file(dir.path(), Bytes::GIB.times(1 << 20), false)).unwrap_err();
    assert!(matches!(large, Error::Full(_)), "{large:?}");
    for name in ["", "../up", "a b", "-x", "A", &"x".repeat(64)] {
        let named = Request { name: name.to_owned(), ..in_a_file(dir.path(), Bytes::GIB, true) };
        assert!(matches!(prepare(&named), Err(Error::Invalid(_))), "{name}");
    }
    let relative = Request { place: Place::Directory("pool".into()), ..request(dir.path(), Kind::Image) };
    assert!(matches!(prepare(&relative), Err(Error::Invalid(_))));
    let sim = request(dir.path(), Kind::Sim);
    assert!(matches!(prepare(&sim), Err(Error::Invalid(_))));
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn a_failure_takes_back_what_was_made_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("taken"), "").unwrap();
    let blocked =
        Request { mount_parent: dir.path().join("taken"), ..in_a_file(dir.path(), Bytes::GIB, true) };
    prepare(&blocked).unwrap_err();
    assert_eq!(names(dir.path()), ["taken"]);
    nothing_is_left(dir.path());
    // This kernel may know project quota; where it does not, the mount or the check after it refuses.
    let quota =
        Request { kind: Kind::Directory, quota: Quota::Project, ..in_a_file(dir.path(), Bytes::GIB, true) };
    match prepare(&quota) {
        Ok(setup) => unmount(&setup).unwrap(),
        Err(error) => {
            assert!(error.to_string().contains("none"), "{error}");
            assert_eq!(names(dir.path()), ["pools", "taken"]);
            assert_eq!(names(&dir.path().join("pools")), [""; 0]);
        }
    }
    nothing_is_left(dir.path());
}

#[test]
fn an_empty_directory_becomes_a_pool_once() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["lost+found", "volumes"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let wanted =
        Request { place: Place::Directory(dir.path().to_owned()), ..request(dir.path(), Kind::Directory) };
    let setup = prepare(&wanted).unwrap();
    assert_eq!(setup.path, dir.path());
    let id = Home::open(&setup).unwrap().id();
    let again = prepare(&wanted).unwrap_err().to_string();
    assert!(again.contains(&id.to_string()) && again.contains("`directory`"), "{again}");
    assert_eq!(Home::open(&setup).unwrap().id(), id);
    assert!(matches!(unmount(&setup), Err(Error::Invalid(_))));
    let nowhere = Request { place: Place::Directory(dir.path().join("nowhere")), ..wanted };
    assert!(matches!(prepare(&nowhere), Err(Error::Precondition(_))));
}

#[test]
fn a_device_is_taken_only_if_it_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let disk = File::create_new(dir.path().join("disk")).unwrap();
    disk.set_len(400 << 20).unwrap();
    let disk = File::options().read(true).write(true).open(dir.path().join("disk")).unwrap();
    let want = loopdev::Attach {
        access: file::Access::ReadWrite,
        lifetime: Lifetime::Autoclear,
        discard: Discard::Allow,
    };
    let attached = loopdev::attach(&disk, want).unwrap();
    let path = attached.device.path();
    let on =
        |place: &Path| Request { place: Place::Device(place.to_owned()), ..request(dir.path(), Kind::Image) };
    run("mkfs.ext4", &["-q".as_ref(), path.as_path()]);
    let said = prepare(&on(&path)).unwrap_err().to_string();
    assert!(said.contains("ext4") && said.contains("not empty"), "{said}");
    assert!(matches!(fs::probe(&File::open(&path).unwrap()).unwrap(), fs::Found::Ext4 { .. }));
    run("blkdiscard", &[path.as_path()]);
    let setup = prepare(&on(&path)).unwrap();
    assert_eq!(setup.device.as_deref(), Some(path.as_path()));
    let said = prepare(&on(&path)).unwrap_err().to_string();
    assert!(said.contains("in use"), "{said}");
    let id = Home::open(&setup).unwrap().id();
    unmount(&setup).unwrap();
    let said = prepare(&on(&path)).unwrap_err().to_string();
    assert!(said.contains("XFS"), "{said}");
    assert_eq!(Home::open(&setup).unwrap().id(), id);
    unmount(&setup).unwrap();
    let no_device = prepare(&on(&dir.path().join("disk")));
    assert!(matches!(no_device, Err(Error::Invalid(_))), "{no_device:?}");
    drop(attached);
    nothing_is_left(dir.path());
}

#[test]
#[ignore = "needs a kernel with project quota on xfs: the guest tests run it"]
fn a_directory_pool_in_a_file_can_enforce_sizes_also_after_it_was_mounted_again() {
    let dir = tempfile::tempdir().unwrap();
    let wanted =
        Request { kind: Kind::Directory, quota: Quota::Project, ..in_a_file(dir.path(), SMALLEST, true) };
    let setup = prepare(&wanted).unwrap();
    for _ in 0..2 {
        let home = Home::open(&setup).unwrap();
        let support = quota::supported(home.root()).unwrap();
        assert!(matches!(support, quota::Support::Enforced(_)), "{support:?}");
        drop(home);
        unmount(&setup).unwrap();
    }
    nothing_is_left(dir.path());
}
