//! Whether a pool is the one that was opened, and still there.

#![allow(clippy::disallowed_methods, reason = "the test makes its own files")]

use super::*;
use crate::pool::Quota;
use crate::pool::rig::Rig;

/// A directory with a pool in it, on whatever the host's temporary directory lies on.
fn plain() -> (tempfile::TempDir, Setup, Marker) {
    let dir = tempfile::tempdir().unwrap();
    let marker = Marker::new(PoolId::new([7; 6]), Kind::Directory);
    marker.write(&Dir::open(dir.path()).unwrap()).unwrap();
    let setup = Setup {
        name: "test".to_owned(),
        kind: Kind::Directory,
        path: dir.path().to_owned(),
        file: None,
        device: None,
        quota: Quota::None,
        size: None,
    };
    (dir, setup, marker)
}

#[test]
fn a_pool_is_told_by_its_marker_and_nothing_else() {
    let (dir, setup, marker) = plain();
    let home = Home::open(&setup).unwrap();
    assert_eq!((home.id(), home.marker.clone()), (marker.id, marker));
    assert!(!home.is_sparse());
    drop(home);

    let other = Setup { kind: Kind::Image, ..setup.clone() };
    let error = Home::open(&other).unwrap_err();
    assert!(matches!(error, Error::Precondition(_)), "{error:?}");
    assert!(error.to_string().contains("`directory`"), "{error}");

    let newer = r#"{"schema": 2, "id": "not even an id"}"#;
    std::fs::write(dir.path().join(MARKER), newer).unwrap();
    let error = Home::open(&setup).unwrap_err();
    assert!(matches!(&error, Error::Unavailable(why) if why.contains("upgrade")), "{error:?}");
    assert_eq!(std::fs::read_to_string(dir.path().join(MARKER)).unwrap(), newer);
    std::fs::write(dir.path().join(MARKER), "{}").unwrap();
    assert!(matches!(Home::open(&setup), Err(Error::Corrupt(_))));
}

/// What releases wrote must be read as long as their pools live: a file there is never changed, only added to.
#[test]
fn the_markers_of_schema_1_are_read_and_written_again_to_the_byte() {
    let (dir, _, _) = plain();
    let root = Dir::open(dir.path()).unwrap();
    let most = Marker {
        schema: 1,
        id: PoolId::new([0x0a, 1, 2, 3, 4, 5]),
        kind: "image".to_owned(),
        created: serde_json::from_str("1760000000000").unwrap(),
        sparse: true,
        file: Some("/var/lib/rockpool/fast.img".into()),
        device: Some("/dev/disk/by-id/one".into()),
    };
    let least =
        Marker { kind: "directory".to_owned(), sparse: false, file: None, device: None, ..most.clone() };
    for (name, marker) in [("pool", most), ("pool-least", least)] {
        let path = format!("{}/tests/golden/schema-1/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let golden = std::fs::read_to_string(path).unwrap();
        std::fs::write(dir.path().join(MARKER), &golden).unwrap();
        let read = Marker::read(&root).unwrap().unwrap();
        assert_eq!(read, marker);
        read.write(&root).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join(MARKER)).unwrap(), golden);
    }
}

#[test]
fn a_directory_without_a_marker_is_a_pool_that_is_away_and_stays_as_it_is() {
    let (dir, setup, _) = plain();
    std::fs::remove_file(dir.path().join(MARKER)).unwrap();
    std::fs::remove_dir(dir.path().join(TMP)).unwrap();
    let error = Home::open(&setup).unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    let nowhere = Setup { path: dir.path().join("nowhere"), ..setup };
    assert!(matches!(Home::open(&nowhere), Err(Error::Unavailable(_))));
}

#[test]
fn what_is_not_of_a_pool_is_named() {
    let (dir, setup, _) = plain();
    let home = Home::open(&setup).unwrap();
    assert_eq!(home.strangers().unwrap(), []);
    std::fs::write(dir.path().join("notes"), "").unwrap();
    std::fs::create_dir(dir.path().join(LOST_AND_FOUND)).unwrap();
    assert_eq!(home.strangers().unwrap(), [Found::Foreign("notes".to_owned())]);
}

#[test]
fn another_directory_at_the_path_is_not_the_pool() {
    let (dir, setup, _) = plain();
    let home = Home::open(&setup).unwrap();
    let aside = dir.path().with_extension("aside");
    std::fs::rename(dir.path(), &aside).unwrap();
    assert!(matches!(home.present(), Err(Error::Unavailable(_))));
    std::fs::create_dir(dir.path()).unwrap();
    assert!(matches!(home.present(), Err(Error::Unavailable(_))));
    std::fs::remove_dir(dir.path()).unwrap();
    std::fs::rename(&aside, dir.path()).unwrap();
    home.present().unwrap();
}

#[test]
fn a_sparse_pool_promises_no_more_than_its_host_has() {
    let rig = Rig::new();
    let home = Home::open(&rig.setup).unwrap();
    assert!(home.is_sparse());
    let (own, host) = (space_of(home.root()).unwrap(), space_of(home.host.as_ref().unwrap()).unwrap());
    let space = home.space().unwrap();
    assert_eq!(space.free, own.free.min(host.free));
    assert!(space.total <= own.total);
}

#[test]
fn what_a_dead_process_was_writing_is_swept() {
    let (dir, setup, _) = plain();
    std::fs::write(dir.path().join(".new.0123"), "").unwrap();
    std::fs::write(dir.path().join(TMP).join(".new.0123"), "").unwrap();
    for (place, name) in [(VOLUMES, ".new.proof"), (SNAPSHOTS, ".new.proven")] {
        std::fs::write(dir.path().join(place).join(name), "").unwrap();
    }
    let home = Home::open(&setup).unwrap();
    assert_eq!(home.strangers().unwrap(), []);
    for place in [TMP, VOLUMES, SNAPSHOTS] {
        assert_eq!(std::fs::read_dir(dir.path().join(place)).unwrap().count(), 0, "{place}");
    }
}

#[test]
fn a_second_process_is_told_who_holds_the_pool() {
    let (_dir, setup, _) = plain();
    let home = Home::open(&setup).unwrap();
    let error = Home::open(&setup).unwrap_err();
    assert!(matches!(error, Error::Busy(_)), "{error:?}");
    assert!(error.to_string().contains(&format!("process {} (", std::process::id())), "{error}");
    drop(home);
    // A slow machine has three tries.
    let waited = (0..3).any(|_| {
        let home = Home::open(&setup).unwrap();
        let next = setup.clone();
        let waiting = std::thread::spawn(move || Home::open(&next).map(drop));
        std::thread::sleep(MOMENT / 3);
        drop(home);
        waiting.join().unwrap().is_ok()
    });
    assert!(waited, "whoever goes within a moment is not waited for");
}

#[test]
fn an_opening_removes_unfinished_objects_and_nothing_else() {
    let (dir, setup, marker) = plain();
    drop(Home::open(&setup).unwrap());
    let tmp = dir.path().join(TMP);
    let (volume, snapshot) =
        (format!("v1.{}.0123456789abcdef", marker.id), format!("s1.{}.0123456789abcdef", marker.id));
    std::fs::create_dir_all(tmp.join(&volume).join("a tenant's/directory")).unwrap();
    std::fs::write(tmp.join(&snapshot), b"half").unwrap();
    std::fs::write(tmp.join("a stranger"), b"left as it is").unwrap();
    let home = Home::open(&setup).unwrap();
    assert_eq!(home.tmp().names().unwrap(), ["a stranger"]);
}
