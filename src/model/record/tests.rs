//! Texts of every release are read, and no text that was tampered with is.

use super::*;
use crate::model::{
    Access, Age, Allocation, Bytes, Claim, Filesystem, FsUuid, GroupId, SnapshotId, Source, VolumeId,
};

fn pool() -> PoolId {
    PoolId::new([0x0a, 1, 2, 3, 4, 5])
}

fn parameters() -> crate::model::Parameters {
    [("allocation", "sparse"), ("pool", "fast")].map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn volume() -> Volume {
    Volume {
        id: VolumeId::new(pool(), [1; 8]),
        name: "pvc-\"1\" ü".to_owned(),
        phase: Phase::Growing { to: Bytes::GIB.times(2), asked: None },
        size: Bytes::GIB,
        asked: None,
        access: Access::Mount { fs: Filesystem::Ext4 },
        fs_uuid: Some(FsUuid::new([7; 16])),
        sector_size: 4096,
        allocation: Allocation::Reserved,
        source: Source::Snapshot(SnapshotId::new(pool(), [2; 8])),
        parameters: parameters(),
        claim: Some(Claim { namespace: "default".to_owned(), name: "data".to_owned() }),
        created: serde_json::from_str("1760000000000").unwrap(),
    }
}

fn snapshot() -> Snapshot {
    let Volume { size, access, fs_uuid, sector_size, parameters, claim, created, .. } = volume();
    Snapshot {
        id: SnapshotId::new(pool(), [2; 8]),
        name: "snapshot-1".to_owned(),
        phase: Phase::Ready,
        source: VolumeId::new(pool(), [1; 8]),
        size,
        asked: None,
        held: Bytes::MIB,
        access,
        fs_uuid,
        sector_size,
        group: Some(GroupId::new(pool(), [3; 8])),
        parameters,
        claim,
        created,
    }
}

/// One of each kind as this release writes it, with the least and the most that one may hold.
fn every_kind() -> Vec<(&'static str, Record)> {
    let least = Volume {
        id: VolumeId::new(pool(), [4; 8]),
        name: "raw".to_owned(),
        phase: Phase::Creating,
        access: Access::Block,
        fs_uuid: None,
        allocation: Allocation::Sparse,
        source: Source::Blank,
        parameters: Default::default(),
        claim: None,
        ..volume()
    };
    let group = Group {
        id: GroupId::new(pool(), [3; 8]),
        name: "group-1".to_owned(),
        phase: Phase::Deleting,
        members: vec![snapshot().id],
        sources: vec![volume().id],
        parameters: parameters(),
        created: volume().created,
    };
    let shared = Volume {
        id: VolumeId::new(pool(), [5; 8]),
        phase: Phase::Ready,
        access: Access::Mount { fs: Filesystem::Shared },
        source: Source::Volume(volume().id),
        ..least.clone()
    };
    let rounded = Volume { asked: Some(Bytes::new(1_000_000_000)), ..volume() };
    let cut_of_rounded = Snapshot { asked: rounded.asked, ..snapshot() };
    let kept =
        Phase::Retained { until: Age::new(7200), kept: "1h".parse().unwrap(), deleted: volume().created };
    vec![
        ("volume-retained", Record::Volume(Arc::new(volume())).in_phase(kept)),
        ("snapshot-retained", Record::Snapshot(Arc::new(snapshot())).in_phase(kept)),
        ("group-retained", Record::Group(Arc::new(group.clone())).in_phase(kept)),
        ("volume", Record::Volume(Arc::new(volume()))),
        ("volume-rounded", Record::Volume(Arc::new(rounded))),
        ("snapshot-rounded", Record::Snapshot(Arc::new(cut_of_rounded))),
        ("volume-least", Record::Volume(Arc::new(least))),
        ("volume-directory", Record::Volume(Arc::new(shared))),
        ("snapshot", Record::Snapshot(Arc::new(snapshot()))),
        ("group", Record::Group(Arc::new(group))),
    ]
}

/// What releases wrote must be read as long as their volumes live: a file here is never changed, only added to.
#[test]
fn what_schema_1_wrote_is_read_and_written_again_to_the_byte() {
    for (kind, record) in every_kind() {
        let path = format!("{}/tests/golden/schema-1/{kind}.json", env!("CARGO_MANIFEST_DIR"));
        let golden = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let written = Record::decode(&record.id().to_string(), &golden).unwrap();
        assert_eq!((written.generation, &written.record), (7, &record), "{kind}");
        assert_eq!(String::from_utf8(golden).unwrap(), written.record.encode(7).unwrap(), "{kind}");
    }
}

#[test]
fn a_text_with_one_bit_flipped_or_cut_anywhere_is_refused() {
    for (kind, record) in every_kind() {
        let (name, text) = (record.id().to_string(), record.encode(3).unwrap().into_bytes());
        assert_eq!(Record::decode(&name, &text).unwrap(), Written { generation: 3, record });
        // The last byte is a line feed, which is no part of it.
        let end = text.len() - 1;
        for bit in 0..end * 8 {
            let mut bytes = text.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::decode(&name, &bytes).is_err(), "{kind}: bit {bit}");
        }
        for length in 0..end {
            assert!(Record::decode(&name, &text[..length]).is_err(), "{kind}: cut at {length}");
        }
        assert!(Record::decode(&name, &[&text[..], &text[..]].concat()).is_err(), "{kind}: twice");
    }
}

#[test]
fn a_text_of_a_newer_schema_another_name_or_another_pool_is_refused() {
    let record = Record::Volume(Arc::new(volume()));
    let text = record.encode(1).unwrap();
    assert!(Record::decode("v1.070707070707.0202020202020202", text.as_bytes()).is_err());
    let sealed =
        |body: &str| format!(r#"{{"checksum":"{:08x}","body":{body}}}"#, crc32c::crc32c(body.as_bytes()));
    let name = record.id().to_string();
    // One that happens to look like ours, and one that does not.
    let body = text.split_once("\"body\":").unwrap().1.trim_end().strip_suffix('}').unwrap();
    for newer in [
        body.replacen("\"schema\":1", "\"schema\":2", 1),
        r#"{"schema":2,"pool":"070707070707","generation":1,"record":{"future":{}}}"#.to_owned(),
    ] {
        assert_eq!(Record::decode(&name, sealed(&newer).as_bytes()), Err(Unreadable::Newer(2)), "{newer}");
    }
    let strange = body.replacen(&pool().to_string(), "070707070707", 1);
    assert!(matches!(Record::decode(&name, sealed(&strange).as_bytes()), Err(Unreadable::Damaged(_))));
}

#[test]
fn a_lean_record_lacks_only_what_may_be_long() {
    for (_, record) in every_kind() {
        let lean = record.lean();
        assert_eq!(
            (lean.id(), lean.phase(), lean.promise(), lean.lean()),
            (record.id(), record.phase(), record.promise(), lean.clone())
        );
        assert!(!lean.encode(1).unwrap().contains("parameters"));
    }
}
