//! The doctor's hands.
//!
//! Owns: the repairs, each with the verbs that every call uses. Never: deletes an object in use or one with a record, or acts
//! on what was seen before it had the claim.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::{Case, Check, Code, Fix, Shows, check_of};
use crate::engine::claims::Claim;
use crate::engine::mounts::{mounted_within_object, volume_in};
use crate::engine::store::Record;
use crate::engine::{Engine, Key, Slot};
use crate::error::{Error, Result, quoted};
use crate::model::{Bytes, GroupId, ObjectId, Phase, Volume, VolumeId};
use crate::os::mount::{self, Place};
use crate::pool::Pool;

/// What a case was about, and what became of it.
type Outcome = (Option<String>, Result<String>);

/// A case whose claim was had.
struct Claimed {
    object: Option<String>,
    fix: Fix,
    claim: Claim,
}

impl Engine {
    /// Claims what the cases are about, looks once more, mends what is still so, and says of each what was done. One look is for
    /// all whose claim can be had, since it takes as long as the pool is large; those whose claim one of them had have their
    /// turn after it.
    ///
    /// # Errors
    /// Those of a look before which nothing was done.
    pub(super) fn repair_all(&self, slot: &Slot, code: Code, cases: Vec<Case>) -> Result<Vec<Outcome>> {
        let check = check_of(code);
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(cases.len());
        let mut waiting = Vec::new();
        for case in cases {
            match (case.fix, check) {
                (Some(fix), Some(_)) => waiting.push((case.finding.object, fix)),
                _ => {
                    let why = format!("{code} is mended by hand: {}", case.finding.repair);
                    outcomes.push((case.finding.object, Err(Error::Precondition(why))));
                }
            }
        }
        // Without a look nothing is mended but by hand.
        let Some(check) = check else { return Ok(outcomes) };
        while !waiting.is_empty() {
            let (mut claimed, mut later, mut taken) = (Vec::new(), Vec::new(), Vec::new());
            for (object, fix) in waiting {
                match self.store.claim(&fix.keys(), &[]) {
                    Ok(claim) => claimed.push(Claimed { object, fix, claim }),
                    Err(error) => {
                        taken.push((object.clone(), Err(error)));
                        later.push((object, fix));
                    }
                }
            }
            if claimed.is_empty() {
                // Others have them, not we.
                outcomes.extend(taken);
                break;
            }
            match self.repair_claimed(slot, (code, check), claimed) {
                Ok(done) => outcomes.extend(done),
                Err(error) if outcomes.is_empty() => return Err(error),
                // What was done before is told all the same.
                Err(error) => {
                    outcomes.push((None, Err(error)));
                    break;
                }
            }
            waiting = later;
        }
        Ok(outcomes)
    }

    /// Looks once, and mends what is still so.
    fn repair_claimed(
        &self,
        slot: &Slot,
        (code, check): (Code, Check),
        claimed: Vec<Claimed>,
    ) -> Result<Vec<Outcome>> {
        let pool = slot.open()?;
        let again = check(self, slot, pool.as_ref())?.into_iter().filter_map(|case| case.under(code));
        let mut still: HashMap<Option<String>, Vec<Fix>> = HashMap::new();
        for case in again {
            still.entry(case.finding.object).or_default().extend(case.fix);
        }
        let mend = |Claimed { object, fix, mut claim }: Claimed| {
            let is_so = still.get(&object).is_some_and(|fixes| fixes.contains(&fix));
            let outcome = if is_so {
                self.apply(pool.as_ref(), &mut claim, &fix)
            } else {
                Err(Error::Precondition(format!(
                    "{} is not as it was found any more, so nothing was done; look again",
                    quoted(object.as_deref().unwrap_or_default())
                )))
            };
            (object, outcome)
        };
        Ok(claimed.into_iter().map(mend).collect())
    }

    fn apply(&self, pool: &dyn Pool, claim: &mut Claim, fix: &Fix) -> Result<String> {
        match fix {
            Fix::Remove(id) => self.remove_orphan(pool, claim, *id),
            Fix::Forget(id) => self.forget_missing(pool, claim, *id),
            Fix::Rebuild(id) => {
                let record = self.rebuild_claimed(claim, *id)?;
                Ok(format!("rebuilt the record of {id}, {}", record.name()))
            }
            Fix::Settle(record) => {
                let id = record.id();
                self.settle(claim, pool, record)?;
                Ok(match self.store.record(id) {
                    Some(_) => format!("finished {id}"),
                    None => format!("removed {id}, which was not whole"),
                })
            }
            Fix::Clear(name) => {
                pool.clear(name)?;
                Ok(format!("removed {name}"))
            }
            Fix::LetGo(shown) => {
                pool.let_go(shown)?;
                Ok(format!("detached {}", shown.path.display()))
            }
            Fix::Unmount(shows) => unmount(shows),
            Fix::Resize(id, found) => self.agree(pool, claim, id, *found),
            Fix::Rewrite(id) => {
                self.store.rewrite(claim, *id)?;
                Ok(format!("wrote the record of {id} once more, as the driver has it"))
            }
            Fix::Renew(id) => {
                refuse_shown(pool, *id)?;
                let record = self.make_anew(pool, claim, *id)?;
                Ok(format!("made the record of {id} anew from its copy, {}", record.name()))
            }
        }
    }

    fn remove_orphan(&self, pool: &dyn Pool, claim: &mut Claim, id: ObjectId) -> Result<String> {
        refuse_shown(pool, id)?;
        match id {
            ObjectId::Volume(volume) => pool.destroy(&volume)?,
            ObjectId::Snapshot(snapshot) => pool.forget(&snapshot)?,
            ObjectId::Group(group) => self.remove_members(claim, pool, &group)?,
        }
        tracing::warn!(%id, "the doctor removed what had no record");
        Ok(format!("removed {id}"))
    }

    /// The members of a group that has no record.
    fn remove_members(&self, claim: &mut Claim, pool: &dyn Pool, group: &GroupId) -> Result<()> {
        let members: Vec<_> = self.store.members_of(group).into_iter().map(ObjectId::Snapshot).collect();
        if let Some(bad) = members.iter().find(|id| self.store.quarantined(**id).is_some()) {
            return Err(Error::Precondition(format!(
                "the record of {bad}, a member of {group}, cannot be read: rebuild that first"
            )));
        }
        claim.extend(&members.iter().copied().map(Key::Object).collect::<Vec<_>>())?;
        for member in members {
            let Some(record) = self.store.record(member) else { continue };
            self.settle(claim, pool, &record.in_phase(Phase::Deleting))?;
        }
        Ok(())
    }

    fn forget_missing(&self, pool: &dyn Pool, claim: &mut Claim, id: ObjectId) -> Result<String> {
        let Some(record) = self.store.record(id) else { return Ok(format!("{id} is forgotten already")) };
        if let Record::Snapshot(snapshot) = &record
            && let Some(group) = snapshot.group
        {
            return Err(Error::Precondition(format!("{id} is a member of group {group}: delete the group")));
        }
        refuse_shown(pool, id)?;
        let deleting = record.in_phase(Phase::Deleting);
        if !record.phase().frees_name() {
            claim.extend(&[record.name()])?;
        }
        self.store.condemn(claim, pool, deleting.clone())?;
        self.settle(claim, pool, &deleting).map_err(Error::unfinished)?;
        tracing::warn!(%id, "the doctor forgot what had no bytes");
        Ok(format!("forgot {id}"))
    }

    /// The object as long as its record says, or the record as its object is: never shorter than either.
    fn agree(&self, pool: &dyn Pool, claim: &Claim, id: &VolumeId, found: Bytes) -> Result<String> {
        let volume = self.store.volume(id).ok_or_else(|| self.absent(ObjectId::Volume(*id)))?;
        if found < volume.size {
            let size = pool.grow(id, volume.size)?;
            return Ok(format!("{id} has {} bytes again", size.get()));
        }
        let longer = Volume { size: found, ..Volume::clone(&volume) };
        self.store.put(claim, Record::Volume(Arc::new(longer)))?;
        Ok(format!("noted {} bytes for {id}", found.get()))
    }
}

/// Unmounts what was found there; what is mounted on top of it, or instead, stays.
fn unmount(shows: &Shows) -> Result<String> {
    let shown = shows.point.display();
    let place = Place::walk(Path::new("/"), &shows.point)?;
    match place.unmount_while(|there| shows.mounts.contains(&there.mount_id))? {
        0 => Err(Error::Precondition(format!("something else is mounted over {shown}: it stays"))),
        undone => Ok(format!("unmounted {shown} ({undone} times)")),
    }
}

/// Refuses what a device or a mount shows, or what something is mounted in: it may be in use, and could be deleted in part only.
fn refuse_shown(pool: &dyn Pool, id: ObjectId) -> Result<()> {
    let ObjectId::Volume(id) = id else { return Ok(()) };
    if let Some(shown) = pool.exposed()?.iter().find(|shown| shown.volume == id) {
        let path = shown.path.display();
        return Err(Error::Precondition(format!("{id} is attached at {path}: unmount it there first")));
    }
    if let Some(mount) = mount::table()?.iter().find(|mount| volume_in(&mount.root) == Some(id)) {
        let point = mount.point.display();
        return Err(Error::Precondition(format!("{id} is mounted at {point}: unmount it there first")));
    }
    if let Some(point) = mounted_within_object(pool, &id)? {
        let point = point.display();
        return Err(Error::Precondition(format!(
            "something is mounted in {id} at {point}: unmount that first"
        )));
    }
    Ok(())
}
