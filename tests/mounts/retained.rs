//! Undelete: what the time does to what is kept, and what a use does.

use std::fs;

use rockpool::error::Error;
use rockpool::model::{ObjectId, Parameters};

use crate::rig::{BLOCK, EXT4, Rig, wanted};

#[test]
fn what_was_kept_long_enough_goes_and_nothing_else_does() {
    let mut rig = Rig::image();
    let keeping = |name: &str, keep: &str| {
        let parameters = Parameters::from([("retainDeleted".to_owned(), keep.to_owned())]);
        let mut want = wanted(name, BLOCK, 8);
        want.parameters = parameters;
        let volume = rig.engine().create_volume(&want).unwrap();
        rig.engine().delete_volume(&volume.id).unwrap();
        volume.id
    };
    let (short, long) = (keeping("short", "30m"), keeping("long", "2h"));
    let ids = |rig: &Rig| {
        rig.engine().expire_in(short.pool());
        rig.engine().retained().iter().map(|one| one.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(&rig), [ObjectId::Volume(short), ObjectId::Volume(long)], "nothing goes early");
    pass(&mut rig, 25 * 60);
    assert_eq!(ids(&rig), [ObjectId::Volume(short), ObjectId::Volume(long)], "nor a few minutes early");
    pass(&mut rig, 5 * 60 + 1);
    assert_eq!(ids(&rig), [ObjectId::Volume(long)]);
    let image = |id| rig.setup.path.join("volumes").join(format!("{id}"));
    assert!(!image(short).exists() && image(long).exists());
    assert!(rig.orphans().is_empty());
}

/// Lets time pass for the pool: seconds that a driver had it open, as its clock notes them.
fn pass(rig: &mut Rig, seconds: u64) {
    rig.stop();
    let clock = rig.setup.path.join("records/clock");
    let mut noted: serde_json::Value = serde_json::from_slice(&fs::read(&clock).unwrap()).unwrap();
    noted["seconds"] = (noted["seconds"].as_u64().unwrap() + seconds).into();
    fs::write(&clock, noted.to_string()).unwrap();
    rig.restart();
}

#[test]
fn a_volume_in_use_is_neither_deleted_nor_kept() {
    let rig = Rig::image();
    let mut want = wanted("a", EXT4, 64);
    want.parameters.insert("retainDeleted".to_owned(), "1h".to_owned());
    let volume = rig.engine().create_volume(&want).unwrap();
    rig.publish("a", &volume, EXT4);
    let refused = rig.engine().delete_volume(&volume.id);
    assert!(matches!(&refused, Err(Error::Precondition(_))), "{refused:?}");
    assert!(rig.engine().retained().is_empty());
    rig.unpublish("a", &volume);
    rig.engine().delete_volume(&volume.id).unwrap();
    let stage = rig.engine().stage(&rig.stage_of("a", &volume, EXT4));
    assert!(matches!(&stage, Err(Error::NotFound(_))), "{stage:?}");
    rig.engine().restore(ObjectId::Volume(volume.id), None).unwrap();
    rig.publish("a", &volume, EXT4);
    rig.unpublish("a", &volume);
}
