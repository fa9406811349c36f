//! Group snapshots: several volumes of one pool, cut at one moment.
//!
//! Owns: all or nothing. Never: counts a cut for which one member was not frozen from before the first cut to after the last.
//!
//! Create                                                     After a crash (`recover`)
//!  1. claim the name, share the volumes                      –
//!  2. record the group `Creating`, which names its members   disband
//!  3. record every member `Creating`                         disband
//!  4. freeze all, cut all, thaw all, noted in `freezes`      thaw, disband
//!  5. record every member `Ready`                            disband
//!  6. every member carries a copy of the group's record      disband
//!  7. record the group `Ready`: now the members appear       the retry finds it

use std::sync::Arc;

use crate::engine::claims::Claim;
use crate::engine::health::refuse_cut_short;
use crate::engine::recover::keys;
use crate::engine::retained::Fate;
use crate::engine::snapshots::{self, refuse_elsewhere, refuse_without_snapshots};
use crate::engine::store::Record;
use crate::engine::{Engine, Key, Whole};
use crate::error::{Error, Result, chain, quoted};
use crate::model::record::FIRST;
use crate::model::{
    Bytes, CreateGroup, Group, GroupId, ObjectId, Offer, Phase, PoolId, Snapshot, SnapshotId, Time, Volume,
    VolumeId,
};
use crate::os::file::random;
use crate::pool::Pool;

impl Engine {
    /// The whole group with this id.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` where its pool is away or its record cannot be read.
    pub fn group(&self, id: &GroupId) -> Result<Whole> {
        let group = self.store.group(id).filter(|group| group.phase == Phase::Ready);
        let group = group.ok_or_else(|| self.absent(ObjectId::Group(*id)))?;
        self.refuse_away(id.pool())?;
        self.with_members(group)
    }

    /// The pool on whose threads a group is cut, where that is known: that of its volumes. But an unfinished group of the same
    /// name goes first, where it lies.
    pub fn pool_of_group(&self, want: &CreateGroup) -> Option<PoolId> {
        let found = self.store.named(&Key::GroupName(want.name.clone()));
        let unfinished = found.filter(|found| found.phase() != Phase::Ready).map(|found| found.id().pool());
        unfinished.or_else(|| want.sources.first().map(VolumeId::pool))
    }

    /// A group as asked for, cut now or by an earlier call of the same name.
    ///
    /// # Errors
    /// `Conflict` where the name is taken by a cut of other volumes, `NotFound` for a volume, `Precondition` for volumes
    /// that cannot be cut together, `Full`, `Busy`; after each of them nothing is left. `Unavailable` where the outcome is open.
    pub fn create_group(&self, want: &CreateGroup) -> Result<Whole> {
        let mut sources = want.sources.clone();
        sources.sort_unstable();
        let name = Key::GroupName(want.name.clone());
        let shared: Vec<_> = sources.iter().map(|id| Key::Object(ObjectId::Volume(*id))).collect();
        let mut claim = self.store.claim(std::slice::from_ref(&name), &shared)?;
        if let Some(Record::Group(found)) = self.store.named(&name) {
            if found.phase == Phase::Ready {
                return self.already(found, &sources, want);
            }
            let record = Record::Group(found);
            claim.extend(&without(keys(&record), &name))?;
            let pool = self.writable_for(&record)?;
            self.settle(&claim, pool.as_ref(), &record)?;
            let belongs_in = sources.first().map_or(pool.id(), VolumeId::pool);
            refuse_elsewhere(pool.id(), belongs_in, &want.name)?;
        }
        self.store.refuse_quarantined(&name)?;
        let volumes = sources.iter().map(|id| self.usable(id)).collect::<Result<Vec<_>>>()?;
        let pool = self.common_pool(&volumes)?;
        for volume in &volumes {
            refuse_cut_short(pool.as_ref(), ObjectId::Volume(volume.id), volume.size)?;
        }
        let (group, members) = begun(pool.as_ref(), &volumes, want)?;
        let creating = Record::Group(Arc::new(group));
        claim.extend(&without(keys(&creating), &name))?;
        self.store.put(&claim, creating.clone())?;
        step!("group: recorded");
        match self.cut(&claim, pool.as_ref(), &creating, members) {
            Ok(whole) => Ok(whole),
            Err(cause) => Err(self.undo(&claim, pool.as_ref(), &creating, cause)),
        }
    }

    /// No such group and none of its members any more; one that never was is `Ok` too.
    ///
    /// # Errors
    /// `Invalid` where `members` are not exactly its members; `Busy` while a member is being restored, with nothing removed.
    pub fn delete_group(&self, id: &GroupId, members: &[SnapshotId]) -> Result<()> {
        let mut claim = self.store.claim(&[Key::Object(ObjectId::Group(*id))], &[])?;
        let Some(group) = self.store.group(id) else {
            // It has no bytes of its own, and its members may have lost their records with it.
            let ours = members.iter().filter(|member| member.pool() == id.pool());
            let mut lost = ours.filter(|member| self.store.snapshot(member).is_none());
            lost.try_for_each(|member| self.known_gone(ObjectId::Snapshot(*member)))?;
            return self.known_gone(ObjectId::Group(*id));
        };
        refuse_mismatch(&group, members)?;
        let record = Record::Group(Arc::clone(&group));
        let pool = self.writable_for(&record)?;
        claim.extend(&without(keys(&record), &Key::Object(ObjectId::Group(*id))))?;
        let deleting = record.in_phase(Phase::Deleting);
        match group.phase {
            Phase::Retained { .. } => return Ok(()),
            Phase::Deleting => {}
            Phase::Creating
            | Phase::Receiving { .. }
            | Phase::Lent { .. }
            | Phase::Ready
            | Phase::Growing { .. } => {
                // Its members stay as they are: without their group nobody is shown one.
                if self.keep(&claim, pool.as_ref(), &record)? == Fate::Kept {
                    return Ok(());
                }
                self.store.condemn(&claim, pool.as_ref(), deleting.clone())?;
                step!("group delete: condemned");
            }
        }
        self.settle(&claim, pool.as_ref(), &deleting)
    }

    /// The members of a group in the order of its sources.
    fn with_members(&self, group: Arc<Group>) -> Result<Whole> {
        let members = group.members.iter().map(|id| {
            self.store
                .snapshot(id)
                .ok_or_else(|| Error::Corrupt(format!("member {id} of {} has no record", group.id)))
        });
        let members = members.collect::<Result<Vec<_>>>()?;
        Ok((group, members))
    }

    fn already(&self, found: Arc<Group>, sources: &[VolumeId], want: &CreateGroup) -> Result<Whole> {
        let other = if found.sources != sources {
            "other source_volume_ids"
        } else if found.parameters != want.parameters {
            "other parameters"
        } else {
            return self.with_members(found);
        };
        Err(Error::Conflict(format!("group snapshot {} exists with {other}", quoted(&want.name))))
    }

    /// The one pool in which all volumes lie, if it can cut them together.
    fn common_pool(&self, volumes: &[Arc<Volume>]) -> Result<Arc<dyn Pool>> {
        let first =
            volumes.first().ok_or_else(|| Error::invalid("source_volume_ids", "", "want at least one"))?;
        if let Some(other) = volumes.iter().find(|volume| volume.id.pool() != first.id.pool()) {
            return Err(Error::Precondition(format!(
                "{} and {} lie in different pools and cannot be cut at one moment",
                first.id, other.id
            )));
        }
        let pool = self.writable(first.id.pool())?;
        let name = self.pool_name(pool.id()).unwrap_or_default();
        refuse_without_snapshots(pool.as_ref(), name)?;
        if let Offer::No(why) = pool.features().groups {
            return Err(Error::Unsupported(format!("pool {} makes no group snapshots: {why}", quoted(name))));
        }
        Ok(pool)
    }

    /// Steps 3 to 7. On an error the caller disbands the group.
    fn cut(&self, claim: &Claim, pool: &dyn Pool, group: &Record, members: Vec<Snapshot>) -> Result<Whole> {
        let slot = self.slot_of(pool.id()).ok_or_else(|| self.absent(group.id()))?;
        let budget = slot.budget(pool)?;
        for member in &members {
            self.store.put(claim, Record::Snapshot(Arc::new(member.clone())))?;
        }
        step!("group: members recorded");
        let Record::Group(group) = group else { unreachable!("the caller made it a group") };
        let id = ObjectId::Group(group.id);
        let (created, held) = self.freezes.during(id, &group.sources, || cut_at_once(pool, &members))?;
        step!("group: thawed");
        for (member, held) in members.iter().zip(held) {
            let ready = Snapshot { phase: Phase::Ready, held, created, ..member.clone() };
            self.store.admit(claim, Record::Snapshot(Arc::new(ready)), budget)?;
        }
        step!("group: members ready");
        let ready = Arc::new(Group { phase: Phase::Ready, created, ..Group::clone(group) });
        let record = Record::Group(Arc::clone(&ready));
        // A copy is never of a later generation than the record that is on the disk.
        self.carry(pool, &record, FIRST)?;
        step!("group: copies carried");
        self.store.put(claim, record)?;
        step!("group: ready");
        self.with_members(ready)
    }
}

/// Cuts all members while all of them are frozen; answers when, and what each holds. On every path all are thawed.
fn cut_at_once(pool: &dyn Pool, members: &[Snapshot]) -> Result<(Time, Vec<Bytes>)> {
    let sources: Vec<_> = members.iter().map(|member| member.source).collect();
    let thaw = pool.freeze(&sources)?;
    step!("group: frozen");
    let created = Time::now();
    let held = members.iter().map(|member| pool.snapshot(member)).collect::<Result<Vec<_>>>();
    step!("group: cut");
    match (held, thaw.thaw()) {
        (Err(cause), Err(Error::StillFrozen(why))) => {
            Err(Error::StillFrozen(format!("{}; {why}", chain(&cause))))
        }
        (Err(cause), _) => Err(cause),
        (Ok(held), thawed) => thawed.map(|()| (created, held)),
    }
}

/// The records of a group that is about to be cut.
fn begun(pool: &dyn Pool, volumes: &[Arc<Volume>], want: &CreateGroup) -> Result<(Group, Vec<Snapshot>)> {
    let id = GroupId::new(pool.id(), random()?);
    let member = |volume: &Arc<Volume>| snapshots::begun(pool, volume, None, Some(id), &want.parameters);
    let members = volumes.iter().map(member).collect::<Result<Vec<_>>>()?;
    let group = Group {
        id,
        name: want.name.clone(),
        phase: Phase::Creating,
        members: members.iter().map(|member| member.id).collect(),
        sources: volumes.iter().map(|volume| volume.id).collect(),
        parameters: want.parameters.clone(),
        created: Time::now(),
    };
    Ok((group, members))
}

/// The members as the caller lists them, in any order, must be exactly those of the group.
fn refuse_mismatch(group: &Group, members: &[SnapshotId]) -> Result<()> {
    let sorted = |ids: &[SnapshotId]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    };
    if sorted(members) == sorted(&group.members) {
        return Ok(());
    }
    let right: Vec<_> = group.members.iter().map(ToString::to_string).collect();
    Err(Error::Invalid(format!("snapshot_ids are not the members of {}: {}", group.id, right.join(", "))))
}

fn without(mut keys: Vec<Key>, held: &Key) -> Vec<Key> {
    keys.retain(|key| key != held);
    keys
}
