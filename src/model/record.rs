//! Records as they lie on a disk: one text for each volume, snapshot and group.
//!
//! Owns: the form of that text, its schema and its checksum. Never: reads or writes a file, or takes a text that is not
//! exactly what was written.
//!
//! A text is `{"checksum": "<crc32c of the text of body>", "body": {"schema", "pool", "generation", "record": {"<kind>": {…}}}}`.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Group, ObjectId, Parameters, Phase, PoolId, Snapshot, Volume};
use crate::error::{Error, Result};

/// The layout of a record's body that this release writes, and the newest that it reads.
pub const SCHEMA: u32 = 1;
/// The generation of a record that was just made, and of the copy that its object is made with.
pub const FIRST: u64 = 1;
/// No record is larger, in bytes; what is, is not a record.
pub const LARGEST: usize = 64 * 1024;

/// One object's record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Record {
    /// A volume.
    Volume(Arc<Volume>),
    /// A snapshot.
    Snapshot(Arc<Snapshot>),
    /// A group of snapshots.
    Group(Arc<Group>),
}

/// Why a text is not taken for a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// A newer release wrote it, with this schema; nothing is wrong with it.
    Newer(u32),
    /// It is not what was written, for this reason.
    Damaged(String),
}

/// A record and how often it had been written.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// Rises by one with each write.
    pub generation: u64,
    /// The record.
    pub record: Record,
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    checksum: String,
    #[serde(borrow)]
    body: &'a RawValue,
}

#[derive(Serialize, Deserialize)]
struct Body<R> {
    schema: u32,
    pool: PoolId,
    generation: u64,
    record: R,
}

/// The part of a body that every schema has.
#[derive(Deserialize)]
struct Head {
    schema: u32,
}

impl Record {
    /// Its id, whose text is the name of its file.
    pub fn id(&self) -> ObjectId {
        match self {
            Record::Volume(volume) => ObjectId::Volume(volume.id),
            Record::Snapshot(snapshot) => ObjectId::Snapshot(snapshot.id),
            Record::Group(group) => ObjectId::Group(group.id),
        }
    }

    /// The name itself.
    pub fn name_text(&self) -> &str {
        match self {
            Record::Volume(volume) => &volume.name,
            Record::Snapshot(snapshot) => &snapshot.name,
            Record::Group(group) => &group.name,
        }
    }

    /// The parameters of its class, as they were when it was made.
    pub fn parameters(&self) -> &Parameters {
        match self {
            Record::Volume(volume) => &volume.parameters,
            Record::Snapshot(snapshot) => &snapshot.parameters,
            Record::Group(group) => &group.parameters,
        }
    }

    /// The same in another phase.
    pub fn in_phase(&self, phase: Phase) -> Record {
        match self {
            Record::Volume(volume) => Record::Volume(Arc::new(Volume { phase, ..Volume::clone(volume) })),
            Record::Snapshot(snapshot) => {
                Record::Snapshot(Arc::new(Snapshot { phase, ..Snapshot::clone(snapshot) }))
            }
            Record::Group(group) => Record::Group(Arc::new(Group { phase, ..Group::clone(group) })),
        }
    }

    /// The same under another name.
    pub fn named(&self, name: &str) -> Record {
        let name = name.to_owned();
        match self {
            Record::Volume(volume) => Record::Volume(Arc::new(Volume { name, ..Volume::clone(volume) })),
            Record::Snapshot(snapshot) => {
                Record::Snapshot(Arc::new(Snapshot { name, ..Snapshot::clone(snapshot) }))
            }
            Record::Group(group) => Record::Group(Arc::new(Group { name, ..Group::clone(group) })),
        }
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        match self {
            Record::Volume(volume) => volume.phase,
            Record::Snapshot(snapshot) => snapshot.phase,
            Record::Group(group) => group.phase,
        }
    }

    /// What it takes of its pool's budget, in bytes: a volume its full size, a snapshot what it held at its cut.
    pub fn promise(&self) -> u64 {
        match self {
            Record::Volume(volume) => volume.reach().get(),
            Record::Snapshot(snapshot) => snapshot.held.get(),
            Record::Group(_) => 0,
        }
    }

    /// The record without what only a retry of its creation is compared with: all that may be long.
    pub fn lean(&self) -> Record {
        let parameters = Default::default;
        match self {
            Record::Volume(volume) => Record::Volume(Arc::new(Volume {
                parameters: parameters(),
                claim: None,
                ..Volume::clone(volume)
            })),
            Record::Snapshot(snapshot) => Record::Snapshot(Arc::new(Snapshot {
                parameters: parameters(),
                claim: None,
                ..Snapshot::clone(snapshot)
            })),
            Record::Group(group) => {
                Record::Group(Arc::new(Group { parameters: parameters(), ..Group::clone(group) }))
            }
        }
    }

    /// Its text.
    pub fn encode(&self, generation: u64) -> Result<String> {
        let unfit = |error| Error::Corrupt(format!("failed to encode record {}: {error}", self.id()));
        let body = Body { schema: SCHEMA, pool: self.id().pool(), generation, record: self };
        let body = serde_json::value::to_raw_value(&body).map_err(unfit)?;
        let checksum = format!("{:08x}", crc32c::crc32c(body.get().as_bytes()));
        let mut text = serde_json::to_string(&Envelope { checksum, body: &body }).map_err(unfit)?;
        text.push('\n');
        Ok(text)
    }

    /// The record of the object called `name` in a text.
    ///
    /// # Errors
    /// `Unreadable` for anything but a whole record of this name.
    pub fn decode(name: &str, bytes: &[u8]) -> std::result::Result<Written, Unreadable> {
        let damaged = |why: String| Unreadable::Damaged(why);
        let envelope: Envelope<'_> =
            serde_json::from_slice(bytes).map_err(|error| damaged(format!("it is not a record: {error}")))?;
        let text = envelope.body.get();
        let found = format!("{:08x}", crc32c::crc32c(text.as_bytes()));
        if found != envelope.checksum && !planted!("checksum-unread") {
            return Err(damaged(format!("its checksum is {found}, but {} was written", envelope.checksum)));
        }
        let body: Body<Record> =
            serde_json::from_str(text).map_err(|error| match serde_json::from_str(text) {
                // What does not parse may well be of a newer release; that is the better reason.
                Ok(Head { schema }) if schema > SCHEMA => Unreadable::Newer(schema),
                Ok(_) | Err(_) => damaged(format!("it does not parse: {error}")),
            })?;
        if body.schema > SCHEMA {
            return Err(Unreadable::Newer(body.schema));
        }
        let id = body.record.id();
        if id.to_string() != name || id.pool() != body.pool {
            return Err(damaged(format!("it is the record of {id} in pool {}", body.pool)));
        }
        Ok(Written { generation: body.generation, record: body.record })
    }

    pub(crate) fn as_volume(&self) -> Option<&Arc<Volume>> {
        if let Record::Volume(volume) = self { Some(volume) } else { None }
    }

    pub(crate) fn as_snapshot(&self) -> Option<&Arc<Snapshot>> {
        if let Record::Snapshot(snapshot) = self { Some(snapshot) } else { None }
    }

    pub(crate) fn into_volume(self) -> Option<Arc<Volume>> {
        if let Record::Volume(volume) = self { Some(volume) } else { None }
    }

    pub(crate) fn into_snapshot(self) -> Option<Arc<Snapshot>> {
        if let Record::Snapshot(snapshot) = self { Some(snapshot) } else { None }
    }

    pub(crate) fn into_group(self) -> Option<Arc<Group>> {
        if let Record::Group(group) = self { Some(group) } else { None }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreadable::Newer(schema) => {
                write!(f, "its schema {schema} is newer than {SCHEMA}, the newest this release knows")
            }
            Unreadable::Damaged(why) => f.write_str(why),
        }
    }
}

#[cfg(test)]
mod tests;
