//! Records that cannot be read, or are lost, and the way back.
//!
//! Owns: rebuilding a record from the copy that its object carries, that of a group from the one that each of its members
//! carries. Never: does so by itself, touches what a newer release wrote, or deletes anything.
//!
//! What is kept after its deletion comes back as kept, for the whole time again: `retained` says when its copy does.
//!
//! A group's copies are written when every member is on record as cut, and before the group is: where there is one, the cut
//! was whole.
//!
//! Rebuild                                            After a crash
//!  1. claim it and its name                          –
//!  2. read the copy, take the size from the bytes    –
//!  3. write the record, durably                      the old file or the new one
//!  4. let the copy say of which generation it is     –

use std::sync::Arc;

use crate::engine::claims::Claim;
use crate::engine::store::{Quarantined, anew};
use crate::engine::{Engine, Key};
use crate::error::{Error, Result};
use crate::model::record::{Unreadable, Written};
use crate::model::{ObjectId, Phase, Record, Snapshot, SnapshotId, Volume};
use crate::pool::{Label, Pool};

impl Engine {
    /// Every record that cannot be read, with what is known of it.
    pub fn quarantine(&self) -> Vec<(ObjectId, Quarantined)> {
        self.store.quarantine()
    }

    /// The record of a volume, snapshot or group made anew from the copy that its object or one of its members carries, where
    /// the record cannot be read or is gone. Parameters and claim are missing where the copy had no room for them; then a
    /// retry of the creation finds a difference.
    ///
    /// # Errors
    /// `Precondition` where its record can be read, a newer release wrote it, or members of a group are not on record;
    /// `NotFound` where no bytes of it are there; `Corrupt` where they carry no whole copy; `Conflict` where its name has been
    /// taken since.
    pub fn rebuild(&self, id: ObjectId) -> Result<Record> {
        let mut claim = self.store.claim(&[Key::Object(id)], &[])?;
        self.rebuild_claimed(&mut claim, id)
    }

    /// The same under a claim that owns the object.
    ///
    /// # Errors
    /// As `rebuild`.
    pub(super) fn rebuild_claimed(&self, claim: &mut Claim, id: ObjectId) -> Result<Record> {
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
        self.make_anew(pool.as_ref(), claim, id)
    }

    /// The record as its copy has it, in place of whatever there is; what is kept after its deletion is kept as long as it was to be, from
    /// now on: while its record was not there nobody could restore it. The claim owns the object.
    ///
    /// # Errors
    /// As `rebuild`.
    pub(super) fn make_anew(&self, pool: &dyn Pool, claim: &mut Claim, id: ObjectId) -> Result<Record> {
        let Written { generation, record } = self.carried(pool, id)?.ok_or_else(|| {
            Error::NotFound(format!(
                "no bytes of {id} are in its pool: there is nothing to rebuild its record from"
            ))
        })?;
        self.refuse_incomplete(&record)?;
        let record = match record.phase() {
            Phase::Retained { until, kept, deleted } => {
                let until = until.max(self.clocks.now(id.pool()).after(kept));
                record.in_phase(Phase::Retained { until, kept, deleted })
            }
            Phase::Creating
            | Phase::Receiving { .. }
            | Phase::Lent { .. }
            | Phase::Ready
            | Phase::Growing { .. }
            | Phase::Deleting => record,
        };
        if !record.phase().frees_name() {
            let name = record.name();
            claim.extend(std::slice::from_ref(&name))?;
            if let Some(other) = self.store.named(&name).filter(|other| other.id() != id) {
                return Err(Error::Conflict(format!("{name} of {id} is that of {} by now", other.id())));
            }
        }
        let generation = anew(generation);
        self.store.restore(claim, record.clone(), generation)?;
        // So that the file which was lost, should somebody bring it back, is known for older.
        if let Err(error) = self.carry(pool, &record, generation) {
            tracing::warn!(%id, error = crate::error::chain(&error), "failed to note in a copy that its record was rebuilt");
        }
        tracing::warn!(%id, "rebuilt a record from the copy with its object");
        Ok(record)
    }

    /// The copy that is newer than its record, where that is so: somebody brought back an older record.
    ///
    /// # Errors
    /// Those of the disk: a copy that does not answer may be newer, one that is damaged or was never carried is not.
    pub(super) fn newer_copy(&self, pool: &dyn Pool, id: ObjectId) -> Result<Option<Written>> {
        let Some(generation) = self.store.generation(id) else { return Ok(None) };
        let copy = match self.carried(pool, id) {
            Err(Error::Corrupt(_)) => None,
            outcome => outcome?,
        };
        Ok(copy.filter(|copy| copy.generation > generation))
    }

    /// Learns from their objects which names the quarantined records of a pool hold, and what they promise.
    pub(super) fn learn_names(&self, pool: &dyn Pool) {
        for (id, _) in self.store.quarantine().into_iter().filter(|(id, _)| id.pool() == pool.id()) {
            // Members come before their groups, which are found by them.
            match self.carried(pool, id) {
                Ok(Some(copy)) => self.store.keep(id, copy.record),
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

    /// What is said of an object by the copy of its record, whole and as large as it is; `None` where nothing of it is there.
    ///
    /// # Errors
    /// `Corrupt` where there is no whole copy.
    pub(super) fn carried(&self, pool: &dyn Pool, id: ObjectId) -> Result<Option<Written>> {
        match id {
            ObjectId::Volume(_) | ObjectId::Snapshot(_) => carried_by_itself(pool, id),
            ObjectId::Group(group) => carried_by_one_of(pool, id, &self.store.members_of(&group)),
        }
    }

    /// Whether every copy of the record of something that is kept says so, and for how long; there is none to say it where the
    /// filesystem has no room for any.
    pub(super) fn copy_tells(&self, pool: &dyn Pool, record: &Record) -> Result<bool> {
        let tells = |carrier: ObjectId, text: fn(Label) -> Option<Vec<u8>>| -> Result<bool> {
            let text = pool.label(carrier)?.and_then(text);
            let copy = text.map(|text| whole_copy(record.id(), Some(text)));
            Ok(copy.is_none_or(|copy| copy.is_ok_and(|copy| copy.record.phase() == record.phase())))
        };
        match record {
            Record::Volume(_) | Record::Snapshot(_) => tells(record.id(), |label| label.text),
            Record::Group(group) => {
                let mut all =
                    group.members.iter().map(|id| tells(ObjectId::Snapshot(*id), |label| label.group));
                all.try_fold(true, |so_far, told| Ok(told? && so_far))
            }
        }
    }

    /// Gives the copy of a record of this generation to what carries it: its own object, of a group every member.
    pub(super) fn carry(&self, pool: &dyn Pool, record: &Record, generation: u64) -> Result<()> {
        match record {
            Record::Volume(_) | Record::Snapshot(_) => pool.carry(record.id(), record, generation),
            Record::Group(group) => {
                let mut members = group.members.iter().map(|member| ObjectId::Snapshot(*member));
                members.try_for_each(|member| pool.carry(member, record, generation))
            }
        }
    }

    /// A group is what its members are: one that lacks a member would show a cut that never was.
    fn refuse_incomplete(&self, record: &Record) -> Result<()> {
        let Record::Group(group) = record else { return Ok(()) };
        let cut = |id: &&SnapshotId| self.store.snapshot(id).is_none_or(|member| !member.phase.is_whole());
        let missing: Vec<String> = group.members.iter().filter(cut).map(ToString::to_string).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::Precondition(format!(
            "members of {} are not on record: {}; rebuild those first",
            group.id,
            missing.join(", ")
        )))
    }
}

/// What an object says of itself, whole and as large as it is; `None` where it is not there.
fn carried_by_itself(pool: &dyn Pool, id: ObjectId) -> Result<Option<Written>> {
    let Some(label) = pool.label(id)? else { return Ok(None) };
    let Written { generation, record } = whole_copy(id, label.text)?;
    // It was written when the bytes were made, or when the object was deleted and kept. They are whole since they have their
    // name; what else changed since is their size.
    let phase = match record.phase() {
        kept @ (Phase::Retained { .. } | Phase::Lent { .. }) => kept,
        Phase::Creating
        | Phase::Receiving { .. }
        | Phase::Ready
        | Phase::Growing { .. }
        | Phase::Deleting => Phase::Ready,
    };
    let record = match record {
        Record::Volume(volume) => {
            Record::Volume(Arc::new(Volume { phase, size: label.size, ..Volume::clone(&volume) }))
        }
        Record::Snapshot(snapshot) => {
            Record::Snapshot(Arc::new(Snapshot { phase, held: label.held, ..Snapshot::clone(&snapshot) }))
        }
        group @ Record::Group(_) => group,
    };
    Ok(Some(Written { generation, record }))
}

/// What the first of a group's members says of it that carries a whole copy; `None` where no member is there.
fn carried_by_one_of(pool: &dyn Pool, id: ObjectId, members: &[SnapshotId]) -> Result<Option<Written>> {
    let mut outcome = Ok(None);
    for member in members {
        match pool.label(ObjectId::Snapshot(*member)) {
            Ok(None) => {}
            Ok(Some(label)) => match whole_copy(id, label.group) {
                Ok(copy) => return Ok(Some(copy)),
                Err(error) => outcome = Err(error),
            },
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}

fn whole_copy(id: ObjectId, text: Option<Vec<u8>>) -> Result<Written> {
    let text = text.ok_or_else(|| Error::Corrupt(format!("no copy of the record of {id} is carried")))?;
    Record::decode(&id.to_string(), &text).map_err(|why| {
        Error::Corrupt(format!("the copy of the record of {id} that is carried is damaged: {why}"))
    })
}
