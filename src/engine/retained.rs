//! What was deleted and is still kept: undelete.
//!
//! Owns: keeping instead of destroying, restoring under a name that is free, and purging, on time or at an operator's word.
//! Never: goes by the time of day (`clock` says why), keeps what nobody was told of, or purges what is not deleted.
//!
//! Keep                                             After a crash
//!  1. the delete has claimed it, it is not in use  –
//!  2. record `Retained`: the name is free          it is kept: the delete is acknowledged or its retry finds it done
//!  3. the copy of the record, too                  the start writes it
//!
//! Restore                                          After a crash
//!  1. the copy says `Ready`, under a free name     it is kept still, and the start writes that into the copy
//!  2. record `Ready`                               –
//!
//! So a copy says that something is kept only while its record does: a record that is damaged later comes back from it as what it
//! was, or as not deleted, and never as something that goes by itself though nobody deleted it.
//!
//! Purge: as any delete from `Deleting` on (`recover`).

use std::sync::Arc;

use crate::engine::claims::Claim;
use crate::engine::recover::keys;
use crate::engine::store::Record;
use crate::engine::{Engine, Key};
use crate::error::{Error, Result, chain, quoted};
use crate::model::record::FIRST;
use crate::model::{self, Age, Bytes, ObjectId, Parameters, Phase, PoolId, Retention, Time};
use crate::pool::Pool;

/// What a delete did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The object is kept; the delete is done.
    Kept,
    /// Nothing asks to keep it.
    Goes,
}

/// What a purge did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purged {
    /// It was there, and is gone.
    Now,
    /// It was not there: gone already, or never was.
    Absent,
}

/// Something that was deleted and is still kept.
#[derive(Clone, Debug)]
pub struct Retained {
    /// Its id.
    pub id: ObjectId,
    /// The name under which it was made.
    pub name: String,
    /// Its size; of a group nothing.
    pub size: Bytes,
    /// What it counts against its pool, of a group with its members.
    pub promised: Bytes,
    /// When it was deleted, for people.
    pub deleted: Time,
    /// How long it is still kept.
    pub left: Retention,
    /// The claim it was made for.
    pub claim: Option<model::Claim>,
}

impl Engine {
    /// Everything that is kept, the next to go first. Asks no disk.
    pub fn retained(&self) -> Vec<Retained> {
        let mut all: Vec<Retained> = self.store.retained(None).iter().filter_map(|r| self.kept(r)).collect();
        all.sort_by_key(|one| (one.left, one.id));
        all
    }

    /// What is kept becomes again what it was, under `name` or the one it had; answers that name.
    ///
    /// # Errors
    /// `NotFound` where nothing is kept under this id; `Conflict` where the name is taken; `Busy`; `Unavailable` where its
    /// pool is away.
    pub fn restore(&self, id: ObjectId, name: Option<&str>) -> Result<String> {
        let mut claim = self.store.claim(&[Key::Object(id)], &[])?;
        let pool = self.writable(id.pool())?;
        let kept = self.store.record(id).filter(|record| matches!(record.phase(), Phase::Retained { .. }));
        let kept = kept.ok_or_else(|| {
            self.kept_by_group(id, "restore").unwrap_or_else(|| {
                Error::NotFound(format!(
                    "id `{id}`: nothing is kept under it; want one that `retained list` shows"
                ))
            })
        })?;
        let ready = kept.in_phase(Phase::Ready);
        let ready = name.map_or(ready.clone(), |name| ready.named(name));
        claim.extend(&[ready.name()])?;
        self.store.refuse_quarantined(&ready.name())?;
        if let Some(holder) = self.store.named(&ready.name()) {
            return Err(Error::Conflict(format!(
                "name {} is taken by {} meanwhile; restore {id} under another one with --name",
                quoted(ready.name_text()),
                holder.id()
            )));
        }
        let name = ready.name_text().to_owned();
        // Under the generation of what is on the disk: one that lags behind its copy was brought back by somebody.
        self.carry(pool.as_ref(), &ready, self.store.generation(id).unwrap_or(FIRST))?;
        step!("restore: copy carried");
        self.store.put(&claim, ready.clone()).map_err(Error::unfinished)?;
        self.carry_present(pool.as_ref(), &ready);
        tracing::info!(%id, "restored what was deleted");
        Ok(name)
    }

    /// What is kept goes for good; one that is gone already is fine.
    ///
    /// # Errors
    /// `Precondition` for what is not deleted; `Busy`; `Unavailable` where its pool is away.
    pub fn purge(&self, id: ObjectId) -> Result<Purged> {
        let claim = self.store.claim(&[Key::Object(id)], &[])?;
        let Some(record) = self.store.record(id) else {
            return self.known_gone(id).map(|()| Purged::Absent);
        };
        self.purge_claimed(claim, &record).map(|()| Purged::Now)
    }

    /// The same for what was kept long enough. Under its claim, for it may have been restored and deleted anew since a list
    /// was made.
    fn purge_over(&self, id: ObjectId, now: Age) -> Result<()> {
        let claim = self.store.claim(&[Key::Object(id)], &[])?;
        match self.store.record(id) {
            // By itself nothing goes of which a later record said something else.
            Some(record) if is_over(&record, now) => {
                match self.newer_copy(self.pool(id.pool())?.as_ref(), id)? {
                    None => self.purge_claimed(claim, &record),
                    Some(_) => Ok(()),
                }
            }
            Some(_) | None => Ok(()),
        }
    }

    fn purge_claimed(&self, mut claim: Claim, record: &Record) -> Result<()> {
        let id = record.id();
        let pool = self.writable_for(record)?;
        match record.phase() {
            Phase::Retained { .. } => {
                let deleting = record.in_phase(Phase::Deleting);
                claim.extend(&keys(&deleting)[1..])?;
                if let Record::Volume(volume) = record {
                    self.refuse_if_used(pool.as_ref(), volume)?;
                }
                self.store.condemn(&claim, pool.as_ref(), deleting.clone())?;
                self.settle(&claim, pool.as_ref(), &deleting)?;
                tracing::info!(%id, "purged what was deleted");
                Ok(())
            }
            Phase::Deleting => {
                claim.extend(&keys(record)[1..])?;
                self.settle(&claim, pool.as_ref(), record)
            }
            Phase::Creating
            | Phase::Receiving { .. }
            | Phase::Lent { .. }
            | Phase::Ready
            | Phase::Growing { .. } => Err(self.kept_by_group(id, "purge").unwrap_or_else(|| {
                Error::Precondition(format!("id `{id}` is not deleted: delete it first, then purge it"))
            })),
        }
    }

    /// Why `verb` cannot be had for a snapshot whose group is kept as a whole.
    fn kept_by_group(&self, id: ObjectId, verb: &str) -> Option<Error> {
        let Record::Snapshot(snapshot) = self.store.record(id)? else { return None };
        let group = snapshot.group?;
        let kept = matches!(self.store.group(&group)?.phase, Phase::Retained { .. });
        kept.then(|| {
            Error::Precondition(format!(
                "id `{id}` is kept with its group: {verb} the whole group, `{group}`"
            ))
        })
    }

    /// Purges what was kept long enough, and gives up what is on its way and nobody asks for, on each pool's own threads. To be called every minute or so.
    pub fn expire(self: &Arc<Self>) {
        for slot in &self.pools {
            let Some(pool) = slot.id().filter(|_| slot.trouble().is_none()) else { continue };
            let keeps = !self.store.retained(Some(pool)).is_empty();
            if !keeps && self.store.on_its_way(Some(pool)).is_empty() {
                continue;
            }
            let engine = Arc::clone(self);
            let job = move || {
                engine.end_journeys(pool);
                if keeps {
                    engine.expire_in(pool);
                }
            };
            if let Err(error) = slot.workers.run(job) {
                tracing::warn!(
                    pool = slot.name(),
                    error = chain(&error),
                    "failed to look after what is kept"
                );
            }
        }
    }

    /// The same for one pool, on this thread.
    pub fn expire_in(&self, pool: PoolId) {
        let now = self.clocks.now(pool);
        for record in self.store.retained(Some(pool)) {
            if is_over(&record, now)
                && let Err(error) = self.purge_over(record.id(), now)
            {
                tracing::warn!(id = %record.id(), error = chain(&error), "failed to purge what was kept long enough");
            }
        }
        let noted = self.writable(pool).and_then(|open| self.clocks.note(pool, open.home()));
        if let Err(error) = noted {
            tracing::warn!(%pool, error = chain(&error), "failed to note a pool's clock");
        }
    }

    /// Keeps an object that is being deleted, if its class or pool asks for it. The claim owns it and its name.
    ///
    /// # Errors
    /// `Full` where the disk has no room even to note it: then it stays as it was. `Unavailable` for an open outcome.
    pub(super) fn keep(&self, claim: &Claim, pool: &dyn Pool, record: &Record) -> Result<Fate> {
        let kept = self.retention(pool.id(), record.parameters());
        // Of what is still being made nobody was told that it exists.
        let is_unseen =
            matches!(record.phase(), Phase::Creating | Phase::Receiving { .. } | Phase::Lent { .. });
        if kept == Retention::NONE || is_unseen {
            return Ok(Fate::Goes);
        }
        match self.settle(claim, pool, record) {
            // A growth that is over without success leaves the old size, and that is kept.
            Ok(()) | Err(Error::Full(_) | Error::Corrupt(_)) => {}
            Err(error) => return Err(error),
        }
        let whole = self.store.record(record.id()).unwrap_or_else(|| record.clone());
        let until = self.clocks.now(pool.id()).after(kept);
        let phase = Phase::Retained { until, kept, deleted: Time::now() };
        let kept_record = whole.in_phase(phase);
        let kept_now = self.store.put_with_spare(claim, pool, kept_record.clone());
        kept_now.map_err(|error| {
            let Error::Full(why) = error else { return error.unfinished() };
            Error::Full(format!(
                "{} is to be kept for {kept} after its deletion, and there is no room to note that ({why}); nothing was \
                 deleted: free some, as with `rockpool ctl retained purge`",
                record.id()
            ))
        })?;
        step!("keep: recorded");
        self.carry_present(pool, &kept_record);
        Ok(Fate::Kept)
    }

    /// Notes what a record says by now in its copies. The record stands and says all; without that it is as after a crash here.
    fn carry_present(&self, pool: &dyn Pool, record: &Record) {
        let id = record.id();
        let generation = self.store.generation(id).unwrap_or(FIRST);
        if let Err(error) = self.carry(pool, record, generation) {
            tracing::warn!(%id, error = chain(&error), "failed to note in a copy what became of its object");
        }
    }

    /// Writes the copies of what is kept that do not say so: of a crash, of a full disk, of an older release.
    pub(super) fn mend_copies(&self, pool: &dyn Pool) {
        for record in self.store.retained(Some(pool.id())) {
            if let Ok(Some(copy)) = self.newer_copy(pool, record.id()) {
                tracing::error!(
                    id = %record.id(), copy = copy.generation,
                    "the record of what is kept is older than its copy: it is not purged, see `rockpool ctl doctor`"
                );
                continue;
            }
            let generation = self.store.generation(record.id()).unwrap_or(FIRST);
            let mended = self
                .copy_tells(pool, &record)
                .and_then(|tells| if tells { Ok(()) } else { self.carry(pool, &record, generation) });
            if let Err(error) = mended {
                tracing::warn!(id = %record.id(), error = chain(&error), "failed to look after the copies of what is kept");
                return;
            }
        }
    }

    /// For how long what is deleted here is kept: as its class says, else as its pool does.
    fn retention(&self, pool: PoolId, parameters: &Parameters) -> Retention {
        // A class was checked when the object was made.
        let of_class = Retention::of_class(parameters).ok().flatten();
        of_class.or_else(|| self.slot_of(pool).map(|slot| slot.config.retain)).unwrap_or(Retention::NONE)
    }

    fn kept(&self, record: &Record) -> Option<Retained> {
        let Phase::Retained { until, deleted, .. } = record.phase() else { return None };
        let (size, claim) = match record {
            Record::Volume(volume) => (volume.size, volume.claim.clone()),
            Record::Snapshot(snapshot) => (snapshot.size, snapshot.claim.clone()),
            Record::Group(_) => (Bytes::ZERO, None),
        };
        let id = record.id();
        Some(Retained {
            id,
            name: record.name_text().to_owned(),
            size,
            promised: self.store.promised_with_members(record),
            deleted,
            left: until.left(self.clocks.now(id.pool())),
            claim,
        })
    }
}

/// Whether it was kept long enough. Whole seconds are counted, so at the very moment up to one of them is missing.
fn is_over(record: &Record, now: Age) -> bool {
    matches!(record.phase(), Phase::Retained { until, .. } if until < now)
}
