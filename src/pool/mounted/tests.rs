//! Mounting and unmounting pools in files, as root.

#![allow(clippy::disallowed_methods, reason = "the test makes its own files and runs programs")]

use super::*;
use crate::os::mount::scene::clear;
use crate::pool::home::Home;
use crate::pool::rig::{Rig, run};

#[test]
fn a_missing_file_is_a_pool_that_is_away() {
    let rig = Rig::new();
    unmount(&rig.setup).unwrap();
    let aside = rig.dir.path().join("aside");
    let file = rig.setup.file.clone().unwrap();
    std::fs::rename(&file, &aside).unwrap();
    let error = Home::open(&rig.setup).unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    assert!(!rig.setup.path.exists());
    std::fs::rename(&aside, &file).unwrap();
    drop(Home::open(&rig.setup).unwrap());
}

#[test]
fn a_pool_is_gone_where_its_disk_is_and_not_where_it_cannot_be_used() {
    let mut rig = Rig::new();
    let known = Home::open(&rig.setup).unwrap().id();
    let gone = |setup: &Setup| Home::is_gone(setup, known);
    assert!(!gone(&rig.setup));
    assert!(Home::is_gone(&rig.setup, crate::model::PoolId::new([9; 6])), "another pool lies there");
    unmount(&rig.setup).unwrap();
    assert!(!gone(&rig.setup), "it can be mounted at any time");
    std::fs::create_dir(&rig.setup.path).unwrap();
    assert!(!gone(&rig.setup), "the same");
    let (file, aside) = (rig.setup.file.clone().unwrap(), rig.dir.path().join("aside"));
    std::fs::rename(&file, &aside).unwrap();
    assert!(gone(&rig.setup));
    // Where others mount it nothing else tells.
    rig.setup.file = None;
    assert!(gone(&rig.setup), "nothing is mounted");
    std::fs::write(rig.setup.path.join("pool.json"), "{").unwrap();
    assert!(!gone(&rig.setup), "something lies there");
    std::fs::remove_dir_all(&rig.setup.path).unwrap();
    assert!(gone(&rig.setup));
}

#[test]
fn nothing_is_mounted_over_what_is_there() {
    let rig = Rig::new();
    unmount(&rig.setup).unwrap();
    std::fs::create_dir(&rig.setup.path).unwrap();
    std::fs::write(rig.setup.path.join("precious"), "").unwrap();
    assert!(matches!(Home::open(&rig.setup), Err(Error::Unavailable(_))));
    std::fs::remove_file(rig.setup.path.join("precious")).unwrap();
    run("mount", &["-t".as_ref(), "tmpfs".as_ref(), "none".as_ref(), rig.setup.path.as_path()]);
    assert!(matches!(Home::open(&rig.setup), Err(Error::Unavailable(_))));
    assert!(matches!(unmount(&rig.setup), Err(Error::Precondition(_))));
    clear(&rig.setup.path);
    drop(Home::open(&rig.setup).unwrap());
}

#[test]
fn the_loop_device_that_there_is_is_used() {
    let rig = Rig::new();
    unmount(&rig.setup).unwrap();
    let (file, stat) = open_file(&rig.setup, rig.setup.file.as_ref().unwrap()).unwrap();
    let want =
        loopdev::Attach { access: Access::ReadWrite, lifetime: Lifetime::Autoclear, discard: Discard::Allow };
    let attached = loopdev::attach(&file, want).unwrap();
    drop(Home::open(&rig.setup).unwrap());
    let found = loopdev::find(stat.device, stat.inode).unwrap();
    assert_eq!(found.iter().map(|found| found.device).collect::<Vec<_>>(), [attached.device]);
}

#[test]
fn processes_that_start_at_once_mount_once() {
    let rig = Rig::new();
    unmount(&rig.setup).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| ensure(&rig.setup).unwrap());
        }
    });
    let mounts = mount::table().unwrap();
    assert_eq!(mounts.iter().filter(|mount| mount.point == rig.setup.path).count(), 1);
}

#[test]
fn the_shared_parent_stays_as_long_as_another_pool_needs_it() {
    let rig = Rig::new();
    let other = super::super::prepare::Request {
        name: "other".to_owned(),
        place: super::super::prepare::Place::File {
            path: rig.dir.path().join("other.xfs"),
            size: crate::model::Bytes::MIB.times(300),
            sparse: true,
        },
        ..crate::pool::rig::request(rig.dir.path(), Kind::Image)
    };
    let other = super::super::prepare::prepare(&other).unwrap();
    let parent = rig.dir.path().join("pools");
    unmount(&other).unwrap();
    assert!(mount::table().unwrap().iter().any(|mount| mount.point == parent));
    unmount(&rig.setup).unwrap();
    assert!(!mount::table().unwrap().iter().any(|mount| mount.point == parent));
}
