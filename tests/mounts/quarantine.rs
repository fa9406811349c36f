//! Records that are damaged or lost: what that costs, and the way back.

use std::fs;
use std::path::PathBuf;

use rockpool::engine::Whole;
use rockpool::error::Error;
use rockpool::model::{
    Asked, Bytes, CreateGroup, CreateSnapshot, CreateVolume, ObjectId, Phase, Range, Record, SnapshotId,
    Source, Volume,
};

use crate::rig::{BLOCK, EXT4, Rig, put, wanted};

/// What an object carries of itself.
const COPY: &str = "trusted.rockpool.record";

fn record(rig: &Rig, id: impl std::fmt::Display) -> PathBuf {
    rig.setup.path.join("records").join(id.to_string())
}

/// Changes one bit of a file, as a disk may.
fn flip(path: &PathBuf) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, &bytes).unwrap();
    bytes
}

fn with_parameters(rig: &Rig, name: &str, asked: Asked) -> (CreateVolume, Volume) {
    let want =
        CreateVolume { parameters: [("pool".to_owned(), "p".to_owned())].into(), ..wanted(name, asked, 64) };
    let made = Volume::clone(&rig.engine().create_volume(&want).unwrap());
    (want, made)
}

fn unavailable<T: std::fmt::Debug>(outcome: Result<T, Error>) -> String {
    match outcome {
        Err(Error::Unavailable(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_damaged_record_keeps_its_name_and_is_rebuilt_from_its_image() {
    let mut rig = Rig::image();
    let (want, volume) = with_parameters(&rig, "a", EXT4);
    let other = rig.create("other", BLOCK, 10);
    put(&rig.publish("a", &volume, EXT4).join("file"), "kept");
    rig.unpublish("a", &volume);
    let range = Range { required: Some(Bytes::MIB.times(80)), limit: None };
    let (volume, _) = rig.engine().expand_volume(&volume.id, &range, None).unwrap();
    let promised = rig.engine().pools()[0].promised;
    rig.stop();
    let damaged = flip(&record(&rig, volume.id));
    rig.restart();

    assert!(unavailable(rig.engine().volume(&volume.id)).contains("quarantined"));
    let why = unavailable(rig.engine().create_volume(&want));
    assert!(why.contains("quarantined") && why.contains(&volume.id.to_string()), "{why}");
    assert!(unavailable(rig.engine().delete_volume(&volume.id)).contains("quarantined"));
    assert!(unavailable(rig.engine().stage(&rig.stage_of("a", &volume, EXT4))).contains("quarantined"));
    assert_eq!(fs::read(record(&rig, volume.id)).unwrap(), damaged, "left as it is");
    assert_eq!(rig.engine().pools()[0].promised, promised, "its bytes are still there");
    assert_eq!(rig.engine().pools()[0].quarantined, 1);
    let found = rig.engine().quarantine();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].0, found[0].1.copy.is_some()), (ObjectId::Volume(volume.id), true));
    rig.engine().delete_volume(&other.id).unwrap();

    let rebuilt = rig.engine().rebuild(ObjectId::Volume(volume.id)).unwrap();
    assert_eq!(
        rebuilt,
        Record::Volume(volume.clone()),
        "to the last parameter, and as large as it has become"
    );
    for _ in 0..2 {
        assert_eq!(rig.engine().quarantine(), []);
        assert_eq!(
            rig.engine().create_volume(&CreateVolume { range, ..want.clone() }).unwrap().id,
            volume.id
        );
        let target = rig.publish("a", &volume, EXT4);
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "kept");
        rig.unpublish("a", &volume);
        rig.restart();
    }
    rig.engine().delete_volume(&volume.id).unwrap();
    assert_eq!((rig.objects(), rig.engine().pools()[0].promised), (Vec::new(), Bytes::ZERO));
}

#[test]
fn a_lost_record_of_a_volume_and_of_a_snapshot_is_rebuilt() {
    let mut rig = Rig::image();
    let (_, volume) = with_parameters(&rig, "a", BLOCK);
    let want = CreateSnapshot { name: "s".to_owned(), source: volume.id, parameters: Default::default() };
    let cut = rig.engine().create_snapshot(&want).unwrap();
    rig.stop();
    fs::remove_file(record(&rig, volume.id)).unwrap();
    flip(&record(&rig, cut.id));
    rig.restart();
    assert!(
        matches!(&rig.orphans()[..], [lost] if lost.contains(&volume.id.to_string())),
        "{:?}",
        rig.orphans()
    );
    assert!(unavailable(rig.engine().create_snapshot(&want)).contains("quarantined"));
    assert_eq!(
        rig.engine().rebuild(ObjectId::Volume(volume.id)).unwrap(),
        Record::Volume(volume.clone().into())
    );
    let Record::Snapshot(rebuilt) = rig.engine().rebuild(ObjectId::Snapshot(cut.id)).unwrap() else {
        panic!()
    };
    assert_eq!(
        (rebuilt.id, &rebuilt.name, rebuilt.source, rebuilt.held),
        (cut.id, &cut.name, cut.source, cut.held)
    );
    assert_eq!(rig.engine().create_snapshot(&want).unwrap().id, cut.id);
    rig.create_from("restored", BLOCK, 64, Source::Snapshot(cut.id));
    assert_eq!(rig.orphans(), Vec::<String>::new());
}

#[test]
fn a_directory_volume_is_rebuilt_as_well() {
    let mut rig = Rig::directory();
    let (want, volume) = with_parameters(&rig, "a", Asked::Mount(None));
    rig.stop();
    fs::write(record(&rig, volume.id), "").unwrap();
    rig.restart();
    assert!(unavailable(rig.engine().create_volume(&want)).contains("quarantined"));
    assert_eq!(
        rig.engine().rebuild(ObjectId::Volume(volume.id)).unwrap(),
        Record::Volume(volume.clone().into())
    );
    assert_eq!(rig.engine().create_volume(&want).unwrap().id, volume.id);
}

#[test]
fn what_is_not_damaged_or_has_no_copy_is_not_rebuilt() {
    let mut rig = Rig::image();
    let (volume, newer, gone, taken) = (
        rig.create("a", BLOCK, 10),
        rig.create("newer", BLOCK, 10),
        rig.create("gone", BLOCK, 10),
        rig.create("taken", BLOCK, 10),
    );
    let rebuild = |rig: &Rig, volume: &Volume| rig.engine().rebuild(ObjectId::Volume(volume.id));
    assert!(matches!(rebuild(&rig, &volume), Err(Error::Precondition(_))));
    rig.stop();
    let body = r#"{"schema":2}"#;
    let text = format!(r#"{{"checksum":"{:08x}","body":{body}}}"#, crc32c::crc32c(body.as_bytes()));
    fs::write(record(&rig, newer.id), &text).unwrap();
    fs::write(record(&rig, gone.id), "gone").unwrap();
    fs::remove_file(rig.object(&gone.id)).unwrap();
    fs::remove_file(record(&rig, taken.id)).unwrap();
    rig.restart();
    assert!(matches!(rebuild(&rig, &newer), Err(Error::Precondition(why)) if why.contains("newer")));
    assert_eq!(fs::read_to_string(record(&rig, newer.id)).unwrap(), text);
    assert!(unavailable(rig.engine().create_volume(&wanted("newer", BLOCK, 10))).contains("quarantined"));
    assert!(matches!(rebuild(&rig, &gone), Err(Error::NotFound(_))));
    rig.create("taken", BLOCK, 10);
    assert!(matches!(rebuild(&rig, &taken), Err(Error::Conflict(_))));
    let image = rig.object(&taken.id);
    rustix::fs::removexattr(&image, COPY).unwrap();
    assert!(matches!(rebuild(&rig, &taken), Err(Error::Corrupt(_))));
}

#[test]
fn what_is_kept_comes_back_from_its_copy_as_kept() {
    let mut rig = Rig::image();
    let keeping = |name: &str| {
        let parameters = [("retainDeleted".to_owned(), "1h".to_owned())].into();
        let want = CreateVolume { parameters, ..wanted(name, BLOCK, 10) };
        rig.engine().create_volume(&want).unwrap().id
    };
    let (volume, other) = (keeping("x"), keeping("y"));
    let cut = CreateSnapshot {
        name: "s".to_owned(),
        source: other,
        parameters: [("retainDeleted".to_owned(), "2h".to_owned())].into(),
    };
    let snapshot = rig.engine().create_snapshot(&cut).unwrap().id;
    let (_, whole) = group(&rig);
    let (id, members) = (whole.0.id, whole.0.members.clone());
    rig.engine().delete_volume(&volume).unwrap();
    rig.engine().delete_snapshot(&snapshot).unwrap();
    rig.engine().delete_group(&id, &members).unwrap();
    let all = [ObjectId::Volume(volume), ObjectId::Snapshot(snapshot), ObjectId::Group(id)];
    let kept = |rig: &Rig| {
        let mut kept = rig.engine().retained();
        kept.sort_by_key(|one| one.id);
        kept.into_iter()
            .map(|one| (one.id, one.name, one.deleted, one.left.seconds().div_ceil(600)))
            .collect::<Vec<_>>()
    };
    let before = kept(&rig);
    assert_eq!((before.len(), before[0].3, before[1].3), (3, 6, 12));
    for stale in [false, true] {
        rig.stop();
        if stale {
            // As by an older release, or by one that was killed right after the record: the start writes it.
            for id in &all[..2] {
                let folder = if matches!(id, ObjectId::Volume(_)) { "volumes" } else { "snapshots" };
                let object = rig.setup.path.join(folder).join(id.to_string());
                let record = fs::read(record(&rig, id)).unwrap();
                let text = Record::decode(&id.to_string(), &record).unwrap().record.in_phase(Phase::Creating);
                let text = text.encode(1).unwrap();
                rustix::fs::setxattr(&object, COPY, text.as_bytes(), rustix::fs::XattrFlags::empty())
                    .unwrap();
            }
            rig.restart();
            rig.stop();
        }
        for id in &all {
            flip(&record(&rig, id));
        }
        rig.restart();
        assert_eq!((rig.engine().quarantine().len(), kept(&rig).len()), (3, 0));
        assert_eq!(rig.engine().quarantine().iter().filter(|(_, bad)| bad.copy.is_some()).count(), 3);
        let named = rig.create("x", BLOCK, 10);
        assert_ne!(named.id, volume, "its name stays free");
        rig.engine().delete_volume(&named.id).unwrap();
        for id in all {
            rig.engine().rebuild(id).unwrap();
        }
        assert_eq!(kept(&rig), before, "kept={stale}");
        rig.restart();
        assert_eq!(kept(&rig), before);
    }
    for id in all {
        rig.engine().restore(id, Some("back")).unwrap();
    }
    rig.stop();
    for id in &all {
        flip(&record(&rig, id));
    }
    rig.restart();
    for id in all {
        let back = rig.engine().rebuild(id).unwrap();
        assert_eq!(
            (back.phase(), back.name_text()),
            (Phase::Ready, "back"),
            "what was restored is not deleted"
        );
    }
}

/// The snapshots that are listed, and whether they can be used.
fn listed(rig: &Rig) -> Vec<(SnapshotId, bool)> {
    let all = rig.engine().listed_snapshots(None, None, 9).unwrap();
    all.into_iter().map(|listed| (listed.snapshot.id, listed.usable)).collect()
}

/// A group of two raw volumes, and all that is in it.
fn group(rig: &Rig) -> (CreateGroup, Whole) {
    let sources = ["a", "b"].map(|name| rig.create(name, BLOCK, 10).id).to_vec();
    let parameters = [("retainDeleted".to_owned(), "1h".to_owned())].into();
    let want = CreateGroup { name: "both".to_owned(), sources, parameters };
    let whole = rig.engine().create_group(&want).unwrap();
    (want, whole)
}

#[test]
fn a_damaged_record_of_a_group_keeps_its_name_and_is_rebuilt_from_any_member() {
    let mut rig = Rig::image();
    let (want, whole) = group(&rig);
    let (id, mut members) = (whole.0.id, whole.0.members.clone());
    members.sort_unstable();
    for lost in [false, true] {
        rig.stop();
        if lost {
            fs::remove_file(record(&rig, id)).unwrap();
        } else {
            flip(&record(&rig, id));
            // Nor does the first of its members help.
            let first = rig.setup.path.join("snapshots").join(members[0].to_string());
            rustix::fs::removexattr(&first, "trusted.rockpool.group").unwrap();
            flip(&record(&rig, members[1]));
        }
        rig.restart();
        assert_eq!(listed(&rig), [(members[0], false), (members[1], false)], "nobody may take them for gone");
        unavailable(rig.engine().group(&id));
        unavailable(rig.engine().delete_group(&id, &members));
        for member in &members {
            unavailable(rig.engine().snapshot(member));
        }
        if !lost {
            assert!(unavailable(rig.engine().create_group(&want)).contains("quarantined"));
            assert!(unavailable(rig.engine().delete_group(&id, &members)).contains("quarantined"));
            let early = rig.engine().rebuild(ObjectId::Group(id));
            assert!(matches!(&early, Err(Error::Precondition(why)) if why.contains(&members[1].to_string())));
            rig.engine().rebuild(ObjectId::Snapshot(members[1])).unwrap();
        }
        let rebuilt = rig.engine().rebuild(ObjectId::Group(id)).unwrap();
        assert_eq!(rebuilt, Record::Group(whole.0.clone()), "to the last parameter");
        for _ in 0..2 {
            assert_eq!(rig.engine().quarantine(), []);
            assert_eq!(rig.engine().group(&id).unwrap().0, whole.0);
            assert_eq!(rig.engine().create_group(&want).unwrap().0, whole.0);
            assert_eq!(listed(&rig), [(members[0], true), (members[1], true)]);
            rig.restart();
        }
    }
}
