//! The notes about mounts in the state directory, where that takes no changes: what is to go goes, nothing new comes.

use std::fs;
use std::path::{Path, PathBuf};

use rockpool::error::Error;
use rockpool::os::file::{Dir, Purpose};

use crate::rig::{BLOCK, EXT4, Rig, run, unmounted};

/// The state directory as after an error of its disk, until this is dropped.
struct ReadOnly(PathBuf);

impl ReadOnly {
    fn of(rig: &Rig) -> ReadOnly {
        let state = rig.dir.path().join("state");
        run("mount", &[Path::new("--bind"), &state, &state]);
        let read_only = ReadOnly(state);
        run("mount", &[Path::new("-oremount,bind,ro"), &read_only.0]);
        read_only
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        assert!(unmounted(&self.0) || std::thread::panicking(), "{:?} stays mounted", self.0);
    }
}

fn notes(rig: &Rig) -> usize {
    fs::read_dir(rig.dir.path().join("state/mounts")).unwrap().count()
}

#[test]
fn what_is_published_and_staged_goes_where_no_note_can_be_forgotten() {
    let mut rig = Rig::image();
    let (raw, mounted) = (rig.create("raw", BLOCK, 8), rig.create("mounted", EXT4, 64));
    rig.publish("raw", &raw, BLOCK);
    rig.publish("mounted", &mounted, EXT4);
    let noted = notes(&rig);
    assert_eq!(noted, 4);
    let read_only = ReadOnly::of(&rig);
    rig.engine().unpublish(&mounted.id, &rig.target("absent")).unwrap();
    for _ in 0..2 {
        rig.unpublish("raw", &raw);
        rig.unpublish("mounted", &mounted);
        assert!(rig.mounts().is_empty() && !rig.target("raw").exists() && !rig.target("mounted").exists());
        assert!(rig.has_loops(&raw.id, 0) && rig.has_loops(&mounted.id, 0));
    }
    let before = fs::read(rig.object(&mounted.id)).unwrap();
    let refused = rig.engine().stage(&rig.stage_of("mounted", &mounted, EXT4));
    assert!(matches!(&refused, Err(Error::Precondition(why)) if why.contains("read-only")), "{refused:?}");
    assert!(fs::read(rig.object(&mounted.id)).unwrap() == before, "it was not even mounted");
    assert!(rig.mounts().is_empty() && rig.has_loops(&mounted.id, 0));
    drop(read_only);
    assert_eq!(notes(&rig), noted, "they could not be forgotten");
    rig.restart();
    assert_eq!(notes(&rig), 0, "nobody would ever forget them");
    rig.publish("mounted", &mounted, EXT4);
    rig.unpublish("mounted", &mounted);
    assert_eq!(notes(&rig), 0);
}

#[test]
fn a_target_is_not_begun_where_no_note_can_be_written() {
    let rig = Rig::image();
    let volume = rig.create("a", EXT4, 64);
    rig.engine().stage(&rig.stage_of("a", &volume, EXT4)).unwrap();
    let read_only = ReadOnly::of(&rig);
    let refused = rig.engine().publish(&rig.publish_of("a", "a", &volume, EXT4));
    assert!(matches!(&refused, Err(Error::Precondition(why)) if why.contains("read-only")), "{refused:?}");
    assert!(!rig.target("a").exists() && rig.mounts().len() == 1);
    drop(read_only);
    rig.publish("a", &volume, EXT4);
    rig.unpublish("a", &volume);
}

#[test]
fn what_is_published_and_staged_goes_where_the_notes_are_gone() {
    let mut rig = Rig::image();
    let volume = rig.create("a", EXT4, 64);
    rig.publish("a", &volume, EXT4);
    fs::remove_dir_all(rig.dir.path().join("state/mounts")).unwrap();
    rig.engine().unpublish(&volume.id, &rig.target("absent")).unwrap();
    for _ in 0..2 {
        rig.unpublish("a", &volume);
        assert!(rig.mounts().is_empty() && !rig.target("a").exists() && rig.has_loops(&volume.id, 0));
    }
    rig.engine().stage(&rig.stage_of("a", &volume, EXT4)).unwrap_err();
    assert!(rig.mounts().is_empty() && rig.has_loops(&volume.id, 0));
    rig.restart();
    rig.publish("a", &volume, EXT4);
    rig.unpublish("a", &volume);
    assert_eq!(notes(&rig), 0);
}

#[test]
fn a_start_keeps_the_notes_of_what_is_mounted_and_of_nothing_else() {
    let mut rig = Rig::image();
    let volume = rig.create("a", BLOCK, 8);
    let target = rig.publish("a", &volume, BLOCK);
    let kept = notes(&rig);
    rig.restart();
    assert_eq!(notes(&rig), kept);
    rig.stop();
    // By somebody else, while no driver runs: another mount at the path of a note is not that which it is about.
    assert!(unmounted(&target));
    run("mount", &[Path::new("--bind"), Path::new("/dev/null"), &target]);
    rig.restart();
    assert_eq!(notes(&rig), kept - 1);
    assert!(unmounted(&target));
    rig.unpublish("a", &volume);
    assert_eq!(notes(&rig), 0);
}

/// A second driver that is started while the first one still serves is refused its pools; before that it must not touch what the
/// first one is just writing.
#[test]
fn a_start_drops_no_note_while_another_driver_uses_the_state_directory() {
    let mut rig = Rig::image();
    let volume = rig.create("a", BLOCK, 8);
    let target = rig.publish("a", &volume, BLOCK);
    let kept = notes(&rig);
    rig.stop();
    assert!(unmounted(&target));
    let state = Dir::open(&rig.dir.path().join("state")).unwrap();
    fs::write(state.path().join("mounts/.new.0123456789abcdef"), "half").unwrap();
    let first = state.lock("mounts.lock", Purpose::Serve).unwrap();
    rig.restart();
    assert_eq!(notes(&rig), kept + 1);
    drop(first);
    rig.restart();
    assert_eq!(notes(&rig), kept - 1);
    let Err(Error::Busy(why)) = state.lock("mounts.lock", Purpose::Serve) else { panic!("not held") };
    assert!(why.contains("is in use by process"), "{why}");
}
