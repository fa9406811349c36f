//! Bytes that are lost under the driver: an image removed or cut short by somebody else.

use std::fs::{self, File};
use std::io::Write;

use rockpool::error::Error;
use rockpool::model::{Bytes, CreateSnapshot, ObjectId, Phase, Range, Source, Volume};

use crate::rig::{BLOCK, EXT4, Rig, wanted};

fn larger() -> Range {
    Range { required: Some(Bytes::MIB.times(16)), limit: None }
}

#[test]
fn a_growth_of_what_is_gone_is_over_and_never_says_that_the_volume_does_not_exist() {
    let rig = Rig::image();
    let volume = rig.create("a", BLOCK, 8);
    fs::remove_file(rig.object(&volume.id)).unwrap();
    for _ in 0..2 {
        let refused = rig.engine().expand_volume(&volume.id, &larger(), None);
        assert!(matches!(&refused, Err(Error::Corrupt(_))), "{refused:?}");
        let record = rig.engine().volume(&volume.id).unwrap();
        assert_eq!((record.phase, record.size), (Phase::Ready, volume.size));
    }
    assert_eq!(rig.engine().pools()[0].promised, volume.size, "what was not grown is not promised");
    rig.engine().delete_volume(&volume.id).unwrap();
    assert!(matches!(rig.engine().volume(&volume.id), Err(Error::NotFound(_))));
}

#[test]
fn a_lost_volume_that_is_to_be_kept_is_kept_and_purged() {
    let rig = Rig::image();
    let mut want = wanted("a", BLOCK, 8);
    want.parameters.insert("retainDeleted".to_owned(), "1h".to_owned());
    let volume = rig.engine().create_volume(&want).unwrap();
    fs::remove_file(rig.object(&volume.id)).unwrap();
    rig.engine().expand_volume(&volume.id, &larger(), None).unwrap_err();
    rig.engine().delete_volume(&volume.id).unwrap();
    assert_eq!(rig.engine().retained().len(), 1);
    assert!(matches!(rig.engine().volume(&volume.id), Err(Error::NotFound(_))), "deleted is deleted");
    rig.engine().purge(ObjectId::Volume(volume.id)).unwrap();
    assert_eq!(rig.engine().pools()[0].promised, Bytes::ZERO);
}

/// Takes away the last part of an object, as a copy that was interrupted does.
fn cut_short(path: &std::path::Path) {
    File::options().write(true).open(path).unwrap().set_len(1 << 20).unwrap();
}

fn corrupt<T: std::fmt::Debug>(outcome: Result<T, Error>) {
    assert!(matches!(&outcome, Err(Error::Corrupt(why)) if why.contains("on record")), "{outcome:?}");
}

#[test]
fn a_raw_volume_that_was_cut_short_is_not_staged_copied_or_called_healthy() {
    let rig = Rig::image();
    let volume = rig.create("a", BLOCK, 8);
    assert!(rig.engine().volume_health(&volume.id).unwrap().is_empty());
    cut_short(&rig.object(&volume.id));
    corrupt(rig.engine().stage(&rig.stage_of("a", &volume, BLOCK)));
    assert!(rig.has_loops(&volume.id, 0));
    let cut = CreateSnapshot { name: "s".to_owned(), source: volume.id, parameters: Default::default() };
    corrupt(rig.engine().create_snapshot(&cut));
    let mut clone = wanted("b", BLOCK, 8);
    clone.source = Source::Volume(volume.id);
    corrupt(rig.engine().create_volume(&clone));
    assert!(rig.engine().listed_snapshots(None, None, 10).unwrap().is_empty());
    let problems = rig.engine().volume_health(&volume.id).unwrap();
    assert_eq!(problems.iter().map(|problem| problem.reason).collect::<Vec<_>>(), ["ImageTruncated"]);
}

#[test]
fn a_snapshot_that_was_cut_short_is_not_restored() {
    let rig = Rig::image();
    let volume = rig.create("a", BLOCK, 8);
    File::options().write(true).open(rig.object(&volume.id)).unwrap().write_all(&[7; 8 << 20]).unwrap();
    let cut = CreateSnapshot { name: "s".to_owned(), source: volume.id, parameters: Default::default() };
    let snapshot = rig.engine().create_snapshot(&cut).unwrap();
    let mut restore = wanted("b", BLOCK, 8);
    restore.source = Source::Snapshot(snapshot.id);
    let restored = rig.engine().create_volume(&restore).unwrap();
    assert_eq!(fs::read(rig.object(&restored.id)).unwrap(), vec![7; 8 << 20]);
    cut_short(&rig.setup.path.join("snapshots").join(snapshot.id.to_string()));
    restore.name = "c".to_owned();
    let before = rig.objects();
    corrupt(rig.engine().create_volume(&restore));
    assert_eq!(rig.objects(), before);
}

#[test]
fn a_raw_volume_whose_record_cannot_be_read_is_detached_at_its_unstage_and_not_before() {
    let mut rig = Rig::image();
    let volume: Volume = rig.create("a", BLOCK, 8);
    rig.publish("a", &volume, BLOCK);
    rig.stop();
    fs::write(rig.setup.path.join("records").join(volume.id.to_string()), "damaged").unwrap();
    rig.restart();
    let unstage = || rig.engine().unstage(&volume.id, &rig.staging("a"));
    let refused = unstage();
    assert!(matches!(&refused, Err(Error::Precondition(why)) if why.contains("published")), "{refused:?}");
    assert!(rig.has_loops(&volume.id, 1), "a pod uses it");
    rig.engine().unpublish(&volume.id, &rig.target("a")).unwrap();
    unstage().unwrap();
    assert!(rig.has_loops(&volume.id, 0));
    let other = rig.create("b", EXT4, 64);
    rig.publish("b", &other, EXT4);
    rig.unpublish("b", &other);
}
