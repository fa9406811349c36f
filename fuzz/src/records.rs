//! Records as they lie on a disk: what is taken for one is one.
//!
//! Owns: a second check of the envelope, and a node that starts over the fuzzer's files. Never: repairs one.

mod build;

use arbitrary::{Arbitrary, Unstructured};
use rockpool::engine::Engine;
use rockpool::error::Error;
use rockpool::model::record::{LARGEST, SCHEMA, Unreadable, Written};
use rockpool::model::{Bytes, ObjectId, Phase, PoolId, Record};
use rockpool::pool::{Pool, kind_at};
use serde_json::value::RawValue;

use self::build::{Built, Damage};
use crate::faulty::Disk;
use crate::node::{Node, sim};

/// The pool of the golden records.
const POOL: [u8; 6] = [0x0a, 1, 2, 3, 4, 5];

/// The text of a file.
#[derive(Arbitrary, Debug)]
enum Text<'a> {
    /// As it comes.
    Raw(&'a [u8]),
    /// The body of a record, with the checksum that it needs.
    Sealed(&'a [u8]),
    /// A record that is written as it should be, and then damaged.
    Built(Built, u64, Option<Damage>),
}

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Decode(Box<Text<'a>>),
    Marker(&'a [u8]),
    Start { record: Box<Text<'a>>, copy: Option<Box<Text<'a>>>, clock: Option<&'a [u8]>, has_bytes: bool },
}

/// Reads what may be a record, alone or at a driver's start.
///
/// # Panics
/// Where a text is taken for a record that is none, or a start does other than leave it alone.
pub fn check(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    match input {
        Input::Decode(text) => {
            let bytes = text.bytes();
            let name = name_in(&bytes);
            let read = Record::decode(&name, &bytes);
            check_read(&name, &bytes, &read);
            if let Text::Built(built, generation, damage) = *text {
                check_built(&built, generation, damage.is_some(), &bytes, &read);
            }
        }
        Input::Marker(bytes) => check_marker(bytes),
        Input::Start { record, copy, clock, has_bytes } => {
            start(&record.bytes(), copy.map(|copy| copy.bytes()), clock, has_bytes);
        }
    }
}

impl Text<'_> {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Text::Raw(bytes) => bytes.to_vec(),
            Text::Sealed(body) => seal(body),
            Text::Built(built, generation, damage) => {
                let text = built.record().encode(*generation).expect("it can be written").into_bytes();
                damage.iter().fold(text, |text, damage| damage.done_to(text))
            }
        }
    }
}

fn seal(body: &[u8]) -> Vec<u8> {
    let sum = crc32c::crc32c(body);
    [format!("{{\"checksum\":\"{sum:08x}\",\"body\":").as_bytes(), body, b"}\n"].concat()
}

/// The first id in a text, or one that is in none: the name of its file.
fn name_in(bytes: &[u8]) -> String {
    let id = bytes.windows(32).filter_map(|id| std::str::from_utf8(id).ok());
    let mut ids = id.filter(|id| id.parse::<ObjectId>().is_ok());
    ids.next().unwrap_or("v1.0a0102030405.0101010101010101").to_owned()
}

/// What was taken has the checksum that it says, is of this file, and survives being written; a newer one is told apart.
fn check_read(name: &str, bytes: &[u8], read: &Result<Written, Unreadable>) {
    match read {
        Ok(written) => {
            let (told, body) = envelope(bytes).expect("only an envelope is taken");
            assert_eq!(told, format!("{:08x}", crc32c::crc32c(body.as_bytes())), "a wrong checksum is taken");
            let body: serde_json::Value = serde_json::from_str(&body).expect("only JSON is taken");
            assert!(body["schema"].as_u64() <= Some(SCHEMA.into()), "{body}");
            let id = written.record.id();
            assert_eq!(
                (id.to_string().as_str(), body["pool"].as_str()),
                (name, Some(&*id.pool().to_string()))
            );
            let again = written.record.encode(written.generation).expect("what was read can be written");
            assert_eq!(Record::decode(name, again.as_bytes()).as_ref(), Ok(written));
            let lean = written.record.lean().encode(1).expect("less of it as well");
            assert!(lean.len() <= again.len() + 20 && Record::decode(name, lean.as_bytes()).is_ok());
        }
        Err(Unreadable::Newer(schema)) => {
            let (told, body) = envelope(bytes).expect("only an envelope has a schema");
            assert_eq!(told, format!("{:08x}", crc32c::crc32c(body.as_bytes())));
            assert!(*schema > SCHEMA);
        }
        Err(Unreadable::Damaged(why)) => assert!(!why.is_empty()),
    }
}

/// A record that was written is read; one that was damaged afterwards is not, unless nothing of it was.
fn check_built(
    built: &Built,
    generation: u64,
    damaged: bool,
    bytes: &[u8],
    read: &Result<Written, Unreadable>,
) {
    let record = built.record();
    let whole = record.encode(generation).expect("it can be written");
    let same = whole.trim_end().as_bytes() == bytes.trim_ascii_end();
    if !damaged || same {
        assert_eq!(read.as_ref(), Ok(&Written { generation, record }), "what was written is not read");
    } else {
        assert!(read.is_err() || envelope(bytes) == envelope(whole.as_bytes()), "damage goes unseen");
    }
}

/// The two parts of a record's text, read without the program.
fn envelope(bytes: &[u8]) -> Option<(String, String)> {
    let parts: std::collections::BTreeMap<String, &RawValue> = serde_json::from_slice(bytes).ok()?;
    let sum: String = serde_json::from_str(parts.get("checksum")?.get()).ok()?;
    Some((sum, parts.get("body")?.get().to_owned()))
}

fn check_marker(bytes: &[u8]) {
    let directory = directory();
    std::fs::write(directory.path().join("pool.json"), bytes).expect("room for a file");
    let Ok(kind) = kind_at(directory.path()) else { return };
    let marker: serde_json::Value = serde_json::from_slice(bytes).expect("only JSON is a marker");
    assert_eq!(marker["kind"], kind.name());
    assert!(marker["schema"].as_u64() <= Some(1), "{marker}");
    assert!(marker["id"].as_str().is_some_and(|id| id.parse::<PoolId>().is_ok()), "{marker}");
}

/// A driver starts over a pool with one record, which may be anything, a copy of it with its bytes, and a clock.
fn start(text: &[u8], copy: Option<Vec<u8>>, clock: Option<&[u8]>, has_bytes: bool) {
    let directory = directory();
    std::fs::create_dir(directory.path().join("kubelet")).expect("a directory");
    let name = name_in(text);
    let id: ObjectId = name.parse().expect("it was found as one");
    let pool = PoolId::new(POOL);
    let disk = Disk::new(pool, Bytes::GIB.times(4), &directory.path().join("pool")).labelled(copy.clone());
    let file = disk.records().join(&name);
    std::fs::write(&file, text).expect("room for a file");
    if let Some(clock) = clock {
        std::fs::write(disk.records().join("clock"), clock).expect("room for a file");
    }
    if let (ObjectId::Volume(id), true) = (id, has_bytes) {
        disk.sim.create(&build::plain(id)).expect("room for a volume");
    }
    let here = disk.clone();
    let node = Node::start(directory.path(), vec![sim("p", Bytes::GIB)], Box::new(move |_| here.open()));
    let node = node.expect("no record keeps a driver from starting");
    if id.pool() == pool && text.len() <= LARGEST {
        match Record::decode(&name, text) {
            Ok(written) => taken(&node.engine, &written.record, has_bytes),
            Err(why) => quarantined(&node.engine, id, &why, copy.filter(|_| has_bytes).as_deref()),
        }
    }
    let left = std::fs::read(&file).ok();
    if id.pool() != pool || text.len() > LARGEST {
        assert_eq!(left.as_deref(), Some(text), "what is not ours was touched");
    }
    node.stop();
}

/// A record that can be read is there, or finished, or gone with what it was about; its promise is counted.
fn taken(engine: &Engine, record: &Record, has_bytes: bool) {
    assert_eq!(engine.quarantine(), []);
    let promised = engine.pools()[0].promised;
    match (record, record.phase()) {
        (Record::Volume(volume), Phase::Ready) => {
            assert_eq!(engine.volume(&volume.id).expect("it is there"), *volume);
            assert_eq!(promised, volume.size);
            let named = engine.volume_named(&volume.name).expect("its pool is there");
            assert_eq!(named.map(|one| one.id), Some(volume.id));
        }
        (_, Phase::Creating | Phase::Deleting) => {
            let groups = matches!(record, Record::Group(_));
            assert!(groups || promised == Bytes::ZERO, "a promise of what is gone");
            assert!(shows_nothing(engine));
        }
        (_, Phase::Retained { .. }) => {
            assert_eq!(engine.retained().iter().map(|one| one.id).collect::<Vec<_>>(), [record.id()]);
            assert!(shows_nothing(engine));
        }
        (
            Record::Volume(_) | Record::Snapshot(_) | Record::Group(_),
            Phase::Ready | Phase::Growing { .. },
        ) => {}
        // What has its place is whole.
        (Record::Volume(_), Phase::Receiving { .. }) => assert!(has_bytes || shows_nothing(engine)),
        (Record::Snapshot(_), Phase::Lent { .. }) => assert!(shows_nothing(engine)),
        // Nobody writes such a record.
        (_, Phase::Receiving { .. } | Phase::Lent { .. }) => {}
    }
}

fn shows_nothing(engine: &Engine) -> bool {
    let snapshots = engine.listed_snapshots(None, None, 9).expect("every record can be read");
    engine.volumes(None, 9).is_empty() && snapshots.is_empty()
}

/// One that cannot is left as it is, can be used by nobody, and comes back from a whole copy alone.
fn quarantined(engine: &Engine, id: ObjectId, why: &Unreadable, copy: Option<&[u8]>) {
    let found = engine.quarantine();
    assert_eq!(found.iter().map(|(id, bad)| (*id, &bad.why)).collect::<Vec<_>>(), [(id, why)]);
    // A snapshot is listed as its copy has it; without one nobody knows of what it is, and there is no list.
    let usable = engine.listed_snapshots(None, None, 9).is_ok_and(|all| all.iter().any(|one| one.usable));
    assert!(engine.volumes(None, 9).is_empty() && !usable);
    let held = copy.and_then(|copy| Record::decode(&id.to_string(), copy).ok());
    let newer = matches!(why, Unreadable::Newer(_));
    let ObjectId::Volume(volume) = id else { return };
    assert!(matches!(engine.volume(&volume), Err(Error::Unavailable(_))));
    assert!(
        matches!(engine.delete_volume(&volume), Err(Error::Unavailable(_))),
        "what cannot be read is deleted"
    );
    let rebuilt = engine.rebuild(id);
    assert_eq!(rebuilt.is_ok(), held.is_some() && !newer, "{rebuilt:?} of {held:?}");
    if let (Ok(Record::Volume(rebuilt)), Some(held)) = (rebuilt, held) {
        assert_eq!(engine.quarantine(), []);
        assert_eq!(engine.pools()[0].promised, rebuilt.size);
        if matches!(held.record.phase(), Phase::Retained { .. }) {
            // Deleted and kept, it comes back as kept.
            assert_eq!(rebuilt.phase, held.record.phase());
            assert_eq!(engine.retained().iter().map(|one| one.id).collect::<Vec<_>>(), [id]);
        } else {
            assert_eq!(rebuilt.phase, Phase::Ready);
            assert_eq!(engine.volume(&volume).expect("it is back"), rebuilt);
        }
    }
}

fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("records-").tempdir().expect("a directory")
}
