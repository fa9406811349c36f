//! Records that cannot be read, or are lost, and the way back.
//!
//! Owns: rebuilding a record from the copy that its object carries. Never: does so by itself, touches what a newer release
//! wrote, or deletes anything.
//!
//! Rebuild                                            After a crash
//!  1. claim it and its name                          –
//!  2. read the copy, take the size from the bytes    –
//!  3. write the record `Ready`, durably              the old file or the new one

use std::sync::Arc;

use crate::engine::store::Quarantined;
use crate::engine::{Engine, Key};
use crate::error::{Error, Result};
use crate::model::record::Unreadable;
use crate::model::{ObjectId, Phase, Record, Snapshot, Volume};
use crate::pool::Pool;

impl Engine {
    /// Every record that cannot be read, with what is known of it.
    pub fn quarantine(&self) -> Vec<(ObjectId, Quarantined)> {
        self.store.quarantine()
    }

    /// The record of a volume or snapshot made anew from the copy that its object carries, where the record cannot be read
    /// or is gone. Parameters and claim are missing where the copy had no room for them; then a retry of the creation
    /// finds a difference.
    ///
    /// # Errors
    /// `Precondition` where its record can be read, or a newer release wrote it; `NotFound` where no bytes of it are there;
    /// `Corrupt` where they carry no whole copy; `Conflict` where its name has been taken since.
    pub fn rebuild(&self, id: ObjectId) -> Result<Record> {
        let mut claim = self.store.claim(&[Key::Object(id)], &[])?;
        if self.store.record(id).is_some() {
            return Err(Error::Precondition(format!(
                "the record of {id} can be read: there is nothing to rebuild"
            )));
        }
        if let Some(Quarantined { why: why @ Unreadable::Newer(_), .. }) = self.store.quarantined(id) {
            return Err(Error::Precondition(format!(
                "the record of {id} is not damaged: {why}; upgrade instead"
            )));
        }
        let pool = self.writable(id.pool())?;
        let record = carried(pool.as_ref(), id)?.ok_or_else(|| {
            Error::NotFound(format!(
                "no bytes of {id} are in its pool: there is nothing to rebuild its record from"
            ))
        })?;
        let name = record.name();
        claim.extend(std::slice::from_ref(&name))?;
        if let Some(other) = self.store.named(&name) {
            return Err(Error::Conflict(format!("{name} of {id} is that of {} by now", other.id())));
        }
        self.store.restore(&claim, record.clone())?;
        tracing::warn!(%id, "rebuilt a record from the copy with its object");
        Ok(record)
    }

    /// Learns from their objects which names the quarantined records of a pool hold, and what they promise.
    pub(super) fn learn_names(&self, pool: &dyn Pool) {
        for (id, _) in self.store.quarantine().into_iter().filter(|(id, _)| id.pool() == pool.id()) {
            match carried(pool, id) {
                Ok(Some(copy)) => self.store.keep(id, copy),
                Ok(None) => {
                    tracing::error!(%id, "a quarantined record has no bytes, and so no copy: its name is not known")
                }
                Err(error) => tracing::error!(
                    %id, error = crate::error::chain(&error),
                    "the copy of a quarantined record cannot be read either: its name is not known"
                ),
            }
        }
    }
}

/// What an object says of itself, `Ready`, as large as it is; `None` where it is not there.
fn carried(pool: &dyn Pool, id: ObjectId) -> Result<Option<Record>> {
    let Some(label) = pool.label(id)? else { return Ok(None) };
    let text = label.text.ok_or_else(|| Error::Corrupt(format!("{id} carries no copy of its record")))?;
    let written = Record::decode(&id.to_string(), &text).map_err(|why| {
        Error::Corrupt(format!("the copy of its record that {id} carries is damaged: {why}"))
    })?;
    // It was written when the bytes were made. They are whole since they have their name; what changed since is their size.
    let phase = Phase::Ready;
    Ok(Some(match written.record {
        Record::Volume(volume) => {
            Record::Volume(Arc::new(Volume { phase, size: label.size, ..Volume::clone(&volume) }))
        }
        Record::Snapshot(snapshot) => {
            Record::Snapshot(Arc::new(Snapshot { phase, held: label.held, ..Snapshot::clone(&snapshot) }))
        }
        group @ Record::Group(_) => group,
    }))
}
