//! The doctor's hands.
//!
//! Owns: the repairs. Each takes the claim that any call would take, looks once more, and uses the verbs that every call
//! uses. Never: deletes an object in use, or one with a record.

use std::sync::Arc;

use super::Fix;
use crate::engine::claims::Claim;
use crate::engine::mounts::volume_in;
use crate::engine::recover::keys;
use crate::engine::store::Record;
use crate::engine::{Engine, Key};
use crate::error::{Error, Result};
use crate::model::{Bytes, GroupId, ObjectId, Phase, Volume, VolumeId};
use crate::os::mount;
use crate::pool::Pool;

impl Engine {
    /// Does it, and says what was done.
    pub(super) fn apply(&self, pool: &dyn Pool, fix: &Fix) -> Result<String> {
        match fix {
            Fix::Remove(id) => self.remove_orphan(pool, *id),
            Fix::Forget(id) => self.forget_missing(pool, *id),
            Fix::Rebuild(id) => {
                let record = self.rebuild(*id)?;
                Ok(format!("rebuilt the record of {id}, {}", record.name()))
            }
            Fix::Settle(id) => {
                let record = self.store.record(*id);
                let Some(record) = record else { return Ok(format!("{id} is settled already")) };
                let claim = self.store.claim(&keys(&record), &[])?;
                self.settle(&claim, pool, &record)?;
                Ok(match self.store.record(*id) {
                    Some(_) => format!("finished {id}"),
                    None => format!("removed {id}, which was not whole"),
                })
            }
            Fix::Clear(name) => {
                let id: Option<ObjectId> = name.strip_prefix("tmp/").and_then(|name| name.parse().ok());
                let key: Vec<Key> = id.into_iter().map(Key::Object).collect();
                let _claim = self.store.claim(&key, &[])?;
                pool.clear(name)?;
                Ok(format!("removed {name}"))
            }
            Fix::LetGo(shown) => {
                let _claim = self.store.claim(&[Key::Object(ObjectId::Volume(shown.volume))], &[])?;
                pool.let_go(shown)?;
                Ok(format!("detached {}", shown.path.display()))
            }
            Fix::Unmount(point) => {
                let undone = mount::unmount_path(point)?;
                Ok(format!("unmounted {} ({undone} times)", point.display()))
            }
            Fix::Resize(id, found) => self.agree(pool, id, *found),
        }
    }

    fn remove_orphan(&self, pool: &dyn Pool, id: ObjectId) -> Result<String> {
        let mut claim = self.store.claim(&[Key::Object(id)], &[])?;
        if self.store.record(id).is_some() || self.store.quarantined(id).is_some() {
            return Err(Error::Precondition(format!("{id} has a record: delete it as any other")));
        }
        match id {
            ObjectId::Volume(volume) => {
                refuse_shown(pool, &volume)?;
                pool.destroy(&volume)?;
            }
            ObjectId::Snapshot(snapshot) => pool.forget(&snapshot)?,
            ObjectId::Group(group) => self.remove_members(&mut claim, pool, &group)?,
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

    fn forget_missing(&self, pool: &dyn Pool, id: ObjectId) -> Result<String> {
        let mut claim = self.store.claim(&[Key::Object(id)], &[])?;
        let Some(record) = self.store.record(id) else { return Ok(format!("{id} is forgotten already")) };
        if let Record::Snapshot(snapshot) = &record
            && let Some(group) = snapshot.group
        {
            return Err(Error::Precondition(format!("{id} is a member of group {group}: delete the group")));
        }
        let deleting = record.in_phase(Phase::Deleting);
        claim.extend(&[record.name()])?;
        self.store.condemn(&claim, pool, deleting.clone())?;
        self.settle(&claim, pool, &deleting).map_err(Error::unfinished)?;
        tracing::warn!(%id, "the doctor forgot what had no bytes");
        Ok(format!("forgot {id}"))
    }

    /// The object as long as its record says, or the record as its object is: never shorter than either.
    fn agree(&self, pool: &dyn Pool, id: &VolumeId, found: Bytes) -> Result<String> {
        let claim = self.store.claim(&[Key::Object(ObjectId::Volume(*id))], &[])?;
        let volume = self.store.volume(id).ok_or_else(|| self.absent(ObjectId::Volume(*id)))?;
        if found < volume.size {
            let size = pool.grow(id, volume.size)?;
            return Ok(format!("{id} has {} bytes again", size.get()));
        }
        let longer = Volume { size: found, ..Volume::clone(&volume) };
        self.store.put(&claim, Record::Volume(Arc::new(longer)))?;
        Ok(format!("noted {} bytes for {id}", found.get()))
    }
}

/// Refuses what a device or a mount shows: it may be in use.
fn refuse_shown(pool: &dyn Pool, id: &VolumeId) -> Result<()> {
    if let Some(shown) = pool.exposed()?.iter().find(|shown| shown.volume == *id) {
        let path = shown.path.display();
        return Err(Error::Precondition(format!("{id} is attached at {path}: unmount it there first")));
    }
    if let Some(mount) = mount::table()?.iter().find(|mount| volume_in(&mount.root) == Some(*id)) {
        let point = mount.point.display();
        return Err(Error::Precondition(format!("{id} is mounted at {point}: unmount it there first")));
    }
    Ok(())
}
